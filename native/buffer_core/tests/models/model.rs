//! What the models share.
//!
//! A model is run in every interleaving with up to five preemptions, that is, interruptions of a thread
//! that could have gone on; waiting for a lock is none. `LOOM_MAX_PREEMPTIONS` sets another bound. With
//! one of 100, which is none, each model finishes within half a minute, but for those of two writers at
//! the gate, which takes as long for seven preemptions already, and of what workers take along, for four.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc; // counts runs, so it is none of loom's

use buffer_core::{After, Arena, Closed, Credit, Next, Partition, Queue, Stats, Wanted};

/// Integers in one arena.
pub struct Ints(Vec<u8>);

impl Ints {
    /// Adds a value.
    pub fn put(&mut self, value: u8) {
        self.0.push(value);
    }

    /// Puts a value in the place of another one.
    pub fn overwrite(&mut self, index: usize, value: u8) {
        self.0[index] = value;
    }

    /// The value at this index.
    pub fn value(&self, index: usize) -> u8 {
        self.0[index]
    }
}

impl Arena for Ints {
    fn new() -> Self {
        Self(Vec::new())
    }

    fn copy_from(&mut self, other: &Self, index: usize) {
        self.0.push(other.0[index]);
    }

    fn clear(&mut self) -> bool {
        self.0.clear();
        true
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

/// Who drains.
pub type Owner = u8;

/// A partition of small integers.
pub type Part = Partition<Queue<Ints>, Owner>;

/// Runs `model` in every interleaving within the bound, and says how many those were.
pub fn check(model: impl Fn() + Sync + Send + 'static) {
    check_within(5, model);
}

/// The same with another bound, for a model that has too many: the next one would take five times as long.
pub fn check_within(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(preemptions);
    let runs = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&runs);
    builder.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        model();
    });
    println!("{} interleavings", runs.load(Ordering::Relaxed));
}

/// Adds one value of weight 1.
pub fn push(queue: &mut Queue<Ints>, value: u8) {
    queue.push(1, || i64::from(value), |arena| arena.0.push(value));
}

/// All values, in order.
pub fn values(queue: &Queue<Ints>, count: usize) -> Vec<u8> {
    let pieces = queue.pieces(0, count);
    pieces
        .flat_map(|(arena, range)| arena.0[range].to_vec())
        .collect()
}

/// Writes one value.
pub fn write(partition: &Part, value: u8) -> Result<(), Closed> {
    let open = partition.open()?;
    let written = match open.is_limited() {
        true => open.write(&mut After::default(), |live, _| push(live, value)),
        false => open.append(|live| push(live, value)),
    };
    Ok(written.result)
}

/// Writes one value that passed the gate.
pub fn write_admitted(partition: &Part, value: u8) {
    let after = &mut After::default();
    partition.write_admitted(&mut Credit::NONE.clone(), after, |live| push(live, value));
}

/// Swaps all.
pub fn swap(partition: &Part) -> usize {
    partition.swap(None, || 0)
}

/// The next batch of this owner, or nothing: there is none, or another one drains.
pub fn next(partition: &Part, owner: Owner, limit: usize) -> Option<Vec<u8>> {
    let mut after = After::default();
    let read = |drain: &Queue<Ints>, batch: &buffer_core::Batch| values(drain, batch.len);
    let wanted = Wanted::entries(limit);
    match partition.next(owner, wanted, || 0, &|_, _| None, &mut after, read) {
        Ok(Next::Batch(values)) => Some(values),
        _ => None,
    }
}

/// All that is in the partition, batch by batch, through two swaps.
pub fn drain(partition: &Part, owner: Owner) -> Vec<u8> {
    let mut all = Vec::new();
    for _ in 0..2 {
        swap(partition);
        while let Some(batch) = next(partition, owner, 2) {
            all.extend(batch);
        }
    }
    all
}

/// A reading in which the account holds.
pub fn stats(partition: &Part) -> Stats {
    let stats = partition.stats();
    let left = stats.processed + stats.discarded.iter().sum::<u64>();
    let held = stats.queued + stats.in_flight;
    assert_eq!(stats.accepted, left + held as u64, "{stats:?}");
    assert_eq!(stats.bytes, held as u64, "{stats:?}");
    assert_eq!(stats.oldest.is_some(), held > 0, "{stats:?}");
    assert!(stats.high_water >= held, "{stats:?}");
    stats
}

/// Whether the values of each of these writers, who count up, are all there and in order.
pub fn assert_complete(all: &[u8], written: &[&[u8]]) {
    for values in written {
        let here: Vec<u8> = all.iter().copied().filter(|v| values.contains(v)).collect();
        assert_eq!(here, *values, "in {all:?}");
    }
    let count: usize = written.iter().map(|values| values.len()).sum();
    assert_eq!(all.len(), count, "more than was written: {all:?}");
}
