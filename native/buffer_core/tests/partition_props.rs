//! A `Partition` against a plain model of it: two deques and a handful of numbers.
//!
//! Properties, each checked after every step of a run (one thread; what needs several is in
//! `loom_*.rs`):
//!
//! 1. Every answer, and every figure of `stats`, is the model's: `high_water` is the most that was ever
//!    held, `bytes` the weight of what is held, `oldest` the segment of the first entry held.
//! 2. `accepted = processed + discarded + queued + in flight`, after a write that unwinds too.
//! 3. Entries are handed out in the order in which they came, each at most once, and a batch counts on
//!    from all that left before it. Only the owner gets any.
//! 4. A closed partition refuses writes and changes in nothing else; an admitted write still enters.
//! 5. `settle` discards the batch in flight and no other entry, and `discard_rest` all there is; each is
//!    to be to be reported once. `take_all` discards the batch in flight and leaves nothing: entries keep their order, and counters their
//!    values, in the partition that gets them.
//! 6. Memory: an arena with an entry that is held exists. Of those with none, fewer than 4096 wait to be
//!    handed to `retired`, and none once the draining generation is empty. In the end every arena that
//!    was made is in there, but for those of a partition that was replaced; dropped with it, none is
//!    left.
//! 7. While a batch is read, figures and the state of the drain can be asked for, and a swap returns.
#![cfg(not(loom))]

#[path = "support/ledger.rs"]
mod ledger;

use std::collections::VecDeque;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};

use buffer_core::{
    Batch, Closed, Discarded, Generation, NotOwner, Partition, Queue, Reason, Retired, Segment,
    Stats,
};
use ledger::Ints;
use proptest::prelude::*;

type Owner = u8;

#[derive(Clone, Copy)]
struct Entry {
    value: u64,
    weight: u32,
}

#[derive(Debug, Clone)]
enum Op {
    /// So many entries of this weight, one by one in one call.
    Write(usize, u32),
    /// The same in a queue of their own, through the gate.
    Admit(usize, u32),
    /// A write that unwinds after so many entries.
    Unwind(usize),
    Swap,
    Claim(Owner),
    Next(Owner, usize),
    /// `Next` until nothing is left, if this is the owner.
    Finish(Owner, usize),
    /// The processor has failed with the batch in flight.
    Fail(Owner),
    Settle(Reason),
    /// So many discards have been reported.
    Report(usize),
    DiscardRest(Reason),
    Close,
    /// What is held moves to a partition of the same name, and the run goes on with that one.
    Replace,
}

fn weight() -> impl Strategy<Value = u32> {
    prop_oneof![
        4 => 0..200u32,
        2 => 100_000..600_000u32,
        1 => Just(u32::MAX),
    ]
}

fn count() -> impl Strategy<Value = usize> {
    prop_oneof![3 => 0..20usize, 2 => 200..300usize, 1 => 0..900usize]
}

fn limit() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 0..40usize, 3 => 100..600usize, 1 => Just(usize::MAX)]
}

fn reason() -> impl Strategy<Value = Reason> {
    prop::sample::select(Reason::ALL.to_vec())
}

// Mostly one owner: with as many strangers as owners hardly any drain would ever finish.
fn owner() -> impl Strategy<Value = Owner> {
    prop_oneof![6 => Just(1), 1 => 2..4u8]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        10 => (count(), weight()).prop_map(|(n, weight)| Op::Write(n, weight)),
        4 => (count(), weight()).prop_map(|(n, weight)| Op::Admit(n, weight)),
        1 => (0..5usize).prop_map(Op::Unwind),
        8 => Just(Op::Swap),
        2 => owner().prop_map(Op::Claim),
        16 => (owner(), limit()).prop_map(|(owner, limit)| Op::Next(owner, limit)),
        4 => (owner(), limit()).prop_map(|(owner, limit)| Op::Finish(owner, limit)),
        2 => owner().prop_map(Op::Fail),
        5 => reason().prop_map(Op::Settle),
        1 => (0..4usize).prop_map(Op::Report),
        1 => reason().prop_map(Op::DiscardRest),
        1 => Just(Op::Close),
        1 => Just(Op::Replace),
    ]
}

#[derive(Default)]
struct Model {
    live: VecDeque<Entry>,
    draining: VecDeque<Entry>,
    owner: Option<Owner>,
    in_flight: Option<Batch>,
    failed: bool,
    unreported: Vec<Discarded>,
    accepted: u64,
    processed: u64,
    discarded: [u64; Reason::ALL.len()],
    high_water: usize,
    closed: bool,
}

impl Model {
    fn in_flight(&self) -> usize {
        self.in_flight.map_or(0, |batch| batch.len)
    }

    fn held(&self) -> usize {
        self.live.len() + self.draining.len()
    }

    fn write(&mut self, entries: VecDeque<Entry>) {
        self.accepted += entries.len() as u64;
        self.live.extend(entries);
        self.high_water = self.high_water.max(self.held());
    }

    fn is_free_for(&self, owner: Owner) -> bool {
        self.owner.is_none_or(|other| other == owner)
    }

    fn discard(&mut self, reason: Reason, len: usize, bytes: u64) -> Discarded {
        let discarded = Discarded { reason, len, bytes };
        self.discarded[reason as usize] += len as u64;
        self.unreported.push(discarded);
        discarded
    }

    fn settle(&mut self, reason: Reason) -> Option<Discarded> {
        self.owner = None;
        let batch = self.in_flight.take()?;
        let failed = std::mem::take(&mut self.failed);
        let reason = if failed { Reason::Exception } else { reason };
        let gone: Vec<_> = self.draining.drain(..batch.len).collect();
        Some(self.discard(reason, batch.len, weigh(&gone)))
    }

    fn left(&self) -> u64 {
        self.processed + self.discarded.iter().sum::<u64>()
    }

    fn stats(&self, oldest: Option<i64>) -> Stats {
        Stats {
            accepted: self.accepted,
            processed: self.processed,
            superseded: 0,
            deleted: 0,
            discarded: self.discarded,
            live: self.live.len(),
            queued: self.held() - self.in_flight(),
            in_flight: self.in_flight(),
            bytes: weigh(&self.live) + weigh(&self.draining),
            high_water: self.high_water,
            oldest,
        }
    }
}

fn weigh<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> u64 {
    let weights = entries.into_iter().map(|entry| u64::from(entry.weight));
    weights.sum()
}

#[derive(Default)]
struct Run {
    partition: Partition<Queue<Ints>, Owner>,
    model: Model,
    retired: Retired<Ints>,
    // Whether arenas were dropped on the way: by this test after each step, as the library does it, with
    // a partition that was replaced, or under a write that unwound.
    drops: bool,
    dropped: bool,
    // One more for each entry: the value of the entry and the moment at which it came.
    clock: u64,
    // The value that the next batch must begin with, at least.
    not_yet_out: u64,
}

/// Pushes so many entries, valued from `clock` on.
fn push(queue: &mut Queue<Ints>, clock: u64, count: usize, weight: u32) -> VecDeque<Entry> {
    let entries = (clock..clock + count as u64).map(|value| Entry { value, weight });
    entries
        .inspect(|entry| {
            let value = entry.value;
            queue.push(weight, || value as i64, |arena| arena.store(value));
        })
        .collect()
}

fn read(queue: &Queue<Ints>, count: usize) -> Vec<u64> {
    let pieces = queue.pieces(0, count);
    pieces
        .flat_map(|(arena, range)| arena.load(range).to_vec())
        .collect()
}

fn values(entries: &VecDeque<Entry>, count: usize) -> Vec<u64> {
    let entries = entries.iter().take(count);
    entries.map(|entry| entry.value).collect()
}

impl Run {
    fn step(&mut self, op: &Op) {
        let (partition, model, clock) = (&self.partition, &mut self.model, self.clock);
        match *op {
            Op::Write(count, weight) => {
                let written = partition.write(|live| push(live, clock, count, weight));
                assert_eq!(written.is_err(), model.closed);
                match written {
                    Ok(entries) => model.write(entries),
                    Err(Closed) => return,
                }
                self.clock += count as u64;
            }
            Op::Admit(count, weight) => {
                let mut staged = Queue::default();
                let entries = push(&mut staged, clock, count, weight);
                partition.write_admitted(|live| live.append(staged));
                model.write(entries);
                self.clock += count as u64;
            }
            Op::Unwind(count) => {
                let mut entries = VecDeque::new();
                let unwound = catch_unwind(AssertUnwindSafe(|| {
                    partition.write_admitted(|live| {
                        entries = push(live, clock, count, 1);
                        live.push(1, || 0, |_| resume_unwind(Box::new("unwinding")));
                    });
                }));
                assert!(unwound.is_err());
                self.dropped = true;
                model.accepted += entries.len() as u64;
                model.live.extend(entries);
                self.clock += count as u64;
                // The mark is made when a write ends well: here, by one of nothing.
                self.step(&Op::Admit(0, 0));
            }
            Op::Swap => {
                if model.draining.is_empty() {
                    std::mem::swap(&mut model.live, &mut model.draining);
                }
                assert_eq!(partition.swap(), model.draining.len());
            }
            Op::Claim(owner) => {
                let free = model.is_free_for(owner);
                let expected = if free { Ok(()) } else { Err(NotOwner) };
                assert_eq!(partition.claim(owner), expected);
                if free {
                    model.owner = Some(owner);
                }
            }
            Op::Next(owner, limit) => {
                self.next(owner, limit);
            }
            Op::Finish(owner, limit) => while self.next(owner, limit.max(8)) {},
            Op::Fail(owner) => {
                let free = model.is_free_for(owner);
                let expected = if free { Ok(()) } else { Err(NotOwner) };
                assert_eq!(partition.fail(owner), expected);
                if free {
                    model.failed = model.in_flight.is_some();
                }
            }
            Op::Settle(reason) => {
                let settled = partition.settle(reason, &mut self.retired);
                assert_eq!(settled, model.settle(reason));
            }
            Op::Report(count) => {
                partition.reported(count);
                model.unreported.drain(..count.min(model.unreported.len()));
            }
            Op::DiscardRest(reason) => {
                let rest = partition.discard_rest(reason, &mut self.retired);
                let (held, bytes) = (model.held(), weigh(&model.draining) + weigh(&model.live));
                let expected = (held > 0).then(|| model.discard(reason, held, bytes));
                assert_eq!(rest, expected);
                (model.owner, model.in_flight) = (None, None);
                model.draining.clear();
                model.live.clear();
            }
            Op::Close => {
                partition.close();
                model.closed = true;
            }
            Op::Replace => self.replace(),
        }
    }

    /// Whether there was a batch.
    fn next(&mut self, owner: Owner, limit: usize) -> bool {
        let (partition, model) = (&self.partition, &mut self.model);
        let now = self.clock as i64;
        let next = partition.next(
            owner,
            limit,
            || now,
            &mut self.retired,
            |drain, batch| {
                // What takes long is done here, and others are answered meanwhile.
                assert_eq!(partition.drain_status(), (Some(owner), Some(*batch)));
                assert_eq!(partition.stats().in_flight, batch.len);
                assert_eq!(partition.swap(), partition.draining());
                assert_eq!(partition.claim(owner), Ok(()));
                (*batch, read(drain, batch.len))
            },
        );
        if !model.is_free_for(owner) {
            assert_eq!(next, Err(NotOwner));
            return false;
        }
        if let Some(batch) = model.in_flight.take() {
            model.draining.drain(..batch.len);
            model.processed += batch.len as u64;
        }
        if model.draining.is_empty() {
            model.owner = None;
            assert_eq!(next, Ok(None));
            return false;
        }
        let len = model.draining.len().min(limit.max(1));
        let batch = Batch {
            first: model.left() + 1,
            len,
            bytes: weigh(model.draining.iter().take(len)),
            started_at: now,
        };
        (model.owner, model.in_flight, model.failed) = (Some(owner), Some(batch), false);
        let handed = values(&model.draining, len);
        assert!(handed.iter().all(|value| *value >= self.not_yet_out));
        assert!(handed.is_sorted_by(|one, other| one < other));
        self.not_yet_out = handed.last().map_or(self.not_yet_out, |last| last + 1);
        assert_eq!(next, Ok(Some((batch, handed))));
        true
    }

    fn replace(&mut self) {
        self.step(&Op::Close);
        let old = std::mem::take(&mut self.partition);
        let (all, legacy) = old.take_all(&mut self.retired);
        self.model.settle(Reason::Killed);
        let lens = [self.model.draining.len(), self.model.live.len()];
        assert_eq!(all.each_ref().map(Generation::len), lens);
        self.dropped = true;

        // All has been taken along; one entry more is no high water.
        old.write_admitted(|live| push(live, 0, 1, 0));
        let stats = old.stats();
        assert_eq!((stats.accepted, stats.queued, stats.processed), (1, 1, 0));
        assert_eq!(stats.high_water, self.model.high_water.max(1));
        assert!(stats.discarded == [0; 4] && old.unreported().is_empty());

        let mut model = std::mem::take(&mut self.model);
        model.draining.append(&mut model.live);
        self.model = Model {
            live: model.draining,
            high_water: lens.iter().sum(),
            accepted: model.accepted,
            processed: model.processed,
            discarded: model.discarded,
            unreported: model.unreported,
            ..Model::default()
        };
        self.partition.inherit(legacy);
        for generation in all {
            self.partition
                .write_admitted(|live| live.append(generation));
        }
    }

    fn check(&mut self) {
        let (partition, model) = (&self.partition, &self.model);
        let stats = partition.stats();
        assert_eq!(stats, model.stats(stats.oldest));
        let left = stats.processed + stats.discarded.iter().sum::<u64>();
        assert_eq!(
            stats.accepted,
            left + (stats.queued + stats.in_flight) as u64
        );

        // A segment of `MAX_ENTRIES` was opened that many entries before its last one, at the most.
        let first = model.draining.front().or(model.live.front());
        assert_eq!(stats.oldest.is_some(), first.is_some());
        if let (Some(oldest), Some(first)) = (stats.oldest, first) {
            let before = first.value as i64 - oldest;
            assert!((0..Segment::<Ints>::MAX_ENTRIES as i64).contains(&before));
        }

        assert_eq!(partition.len(), model.live.len());
        assert_eq!(partition.is_empty(), model.live.is_empty());
        assert_eq!(partition.draining(), model.draining.len());
        assert_eq!(partition.is_closed(), model.closed);
        assert_eq!(partition.unreported(), model.unreported);
        assert_eq!(partition.drain_status(), (model.owner, model.in_flight));
        partition.read(|drain, batch| {
            assert_eq!(read(drain, usize::MAX), values(&model.draining, usize::MAX));
            assert_eq!(batch.copied(), model.in_flight);
        });
        self.check_memory();
    }

    fn check_memory(&mut self) {
        if self.drops {
            self.retired = Retired::default();
        }
        let first = self.model.draining.front().or(self.model.live.front());
        let first = first.map_or(self.clock, |entry| entry.value);
        let left = ledger::alive();
        let left = left.iter().filter(|page| page.last < first);
        let waiting: usize = left.clone().map(|page| page.len).sum();
        let waiting = waiting - self.retired.entries();
        assert!(waiting == 0 || !self.model.draining.is_empty());
        assert!(!self.drops || left.count() < 4096);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..Default::default() })]

    #[test]
    fn agrees_with_a_model(ops in prop::collection::vec(op(), 0..60), drops: bool) {
        let made_before = ledger::created();
        let mut run = Run { drops, dropped: drops, ..Run::default() };
        for op in &ops {
            run.step(op);
            run.check();
        }
        run.step(&Op::DiscardRest(Reason::Shutdown));
        run.check();
        assert_eq!(run.partition.stats().bytes, 0);
        // All that was ever made is there, and waits to be dropped.
        let made = ledger::created() - made_before;
        assert!(run.dropped || ledger::alive().len() == made);
        drop(run.retired);
        assert!(ledger::alive().is_empty());
    }
}
