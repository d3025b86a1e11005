//! A `Queue` against a `VecDeque` that holds the same entries.
//!
//! Properties:
//!
//! 1. `len` and `bytes` are those of the entries held; both are zero when all have left.
//! 2. `pieces(skip, count)` are the entries from `skip` on, `count` at the most, in the order in which
//!    they came, whatever was appended or has left in between; no piece is empty.
//! 3. `bytes_of(count)` is the weight of the first `count`, for counts beyond the end too.
//! 4. `oldest` is when the segment of the first entry was opened, and nothing for an empty queue; the
//!    clock is asked once for each segment.
//! 5. A segment takes entries up to its limits and none after; a queue that is only pushed to leaves
//!    no segment but the last below both of them.
//! 6. An arena is kept exactly as long as one of its entries: what is left is handed over whole, once,
//!    and nothing else is.
#![cfg(not(loom))]

#[path = "support/ledger.rs"]
#[allow(dead_code, reason = "shared: this file needs a part of it")]
mod ledger;

use std::collections::VecDeque;

use buffer_core::{Generation, Queue, Retired, Segment};
use ledger::Ints;
use proptest::prelude::*;

type TestSegment = Segment<Ints>;

#[derive(Clone, Copy)]
struct Entry {
    value: u64,
    weight: u32,
}

#[derive(Debug, Clone)]
enum Op {
    /// So many entries of this weight.
    Push(usize, u32),
    /// A queue that had so many entries of this weight, the first few of which have left.
    Append(usize, u32, usize),
    Retire(usize),
    Read(usize, usize),
    Weigh(usize),
}

/// From nothing to two of which fill a segment, and to one that is more than a segment takes.
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

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (count(), weight()).prop_map(|(n, weight)| Op::Push(n, weight)),
        2 => (count(), weight(), count()).prop_map(|(n, weight, gone)| Op::Append(n, weight, gone)),
        3 => count().prop_map(Op::Retire),
        2 => (count(), count()).prop_map(|(skip, count)| Op::Read(skip, count)),
        1 => count().prop_map(Op::Weigh),
    ]
}

/// The queue, the model, and all that ever left the queue.
#[derive(Default)]
struct Run {
    queue: Queue<Ints>,
    model: VecDeque<Entry>,
    retired: Retired<Ints>,
    // One more for each entry: the value of the entry and the moment at which it came.
    clock: u64,
    readings: usize,
}

impl Run {
    fn fill(&mut self, queue: &mut Queue<Ints>, count: usize, weight: u32) -> VecDeque<Entry> {
        let mut entries = VecDeque::new();
        for _ in 0..count {
            let (value, readings) = (self.clock, &mut self.readings);
            let now = || {
                *readings += 1;
                value as i64
            };
            queue.push(weight, now, |arena| arena.store(value));
            entries.push_back(Entry { value, weight });
            self.clock += 1;
        }
        entries
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Push(count, weight) => {
                let mut queue = std::mem::take(&mut self.queue);
                let entries = self.fill(&mut queue, count, weight);
                self.queue = queue;
                self.model.extend(entries);
            }
            Op::Append(count, weight, gone) => {
                let mut other = Queue::default();
                let mut entries = self.fill(&mut other, count, weight);
                other.retire(gone, &mut self.retired);
                entries.drain(..gone.min(count));
                self.queue.append(other);
                self.model.append(&mut entries);
            }
            Op::Retire(count) => {
                self.queue.retire(count, &mut self.retired);
                self.model.drain(..count.min(self.model.len()));
            }
            Op::Read(skip, count) => {
                let expected: Vec<u64> = self
                    .model
                    .iter()
                    .skip(skip)
                    .take(count)
                    .map(|entry| entry.value)
                    .collect();
                assert_eq!(read(&self.queue, skip, count), expected);
            }
            Op::Weigh(count) => {
                let expected: u64 = weigh(self.model.iter().take(count));
                assert_eq!(self.queue.bytes_of(count), expected);
            }
        }
    }

    fn check(&self) {
        assert_eq!(self.queue.len(), self.model.len());
        assert_eq!(self.queue.is_empty(), self.model.is_empty());
        assert_eq!(self.queue.bytes(), weigh(self.model.iter()));

        let front = self.queue.pieces(0, 1).next();
        let opened = front.map(|(arena, range)| arena.load(0..range.end)[0] as i64);
        assert_eq!(self.queue.oldest(), opened);

        let held = self.queue.pieces(0, usize::MAX).count();
        let kept: usize = ledger::alive().iter().map(|page| page.len).sum();
        let in_use: usize = self
            .queue
            .pieces(0, usize::MAX)
            .map(|(arena, _)| buffer_core::Arena::len(arena))
            .sum();
        assert_eq!(kept - in_use, self.retired.entries());
        assert_eq!(held == 0, self.model.is_empty());
        assert_eq!(self.retired.is_empty(), kept == in_use);
    }
}

fn weigh<'a>(entries: impl Iterator<Item = &'a Entry>) -> u64 {
    entries.map(|entry| u64::from(entry.weight)).sum()
}

fn read(queue: &Queue<Ints>, skip: usize, count: usize) -> Vec<u64> {
    let mut values = Vec::new();
    for (arena, range) in queue.pieces(skip, count) {
        assert!(!range.is_empty(), "a piece without entries");
        values.extend_from_slice(arena.load(range));
    }
    values
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..Default::default() })]

    #[test]
    fn agrees_with_a_deque(ops in prop::collection::vec(op(), 0..40)) {
        let made_before = ledger::created();
        let mut run = Run::default();
        for op in &ops {
            run.step(op);
            run.check();
        }
        assert_eq!(run.readings, ledger::created() - made_before);

        let rest: Vec<u64> = run.model.iter().map(|entry| entry.value).collect();
        assert_eq!(read(&run.queue, 0, usize::MAX), rest);
        run.step(&Op::Retire(usize::MAX));
        run.check();
        assert_eq!(run.queue.bytes(), 0);
        // All that was ever made is there, and waits to be dropped.
        assert_eq!(ledger::alive().len(), ledger::created() - made_before);
        assert_eq!(run.retired.entries() as u64, run.clock);
        drop(run.retired);
        assert!(ledger::alive().is_empty());
    }

    #[test]
    fn fills_one_segment_after_the_other(weights in prop::collection::vec(weight(), 1..1200)) {
        let mut queue = Queue::<Ints>::default();
        for (value, weight) in weights.iter().enumerate() {
            queue.push(*weight, || 0, |arena| arena.store(value as u64));
        }
        let lens: Vec<usize> = queue.pieces(0, usize::MAX).map(|(_, range)| range.len()).collect();
        let mut rest = weights.as_slice();
        for (index, len) in lens.iter().enumerate() {
            let (segment, others) = rest.split_at(*len);
            let heavy = |weights: &[u32]| {
                weights.iter().map(|weight| u64::from(*weight)).sum::<u64>() >= TestSegment::MAX_BYTES
            };
            let last = index + 1 == lens.len();
            assert!(last || *len == TestSegment::MAX_ENTRIES || heavy(segment), "room was left");
            assert!(*len <= TestSegment::MAX_ENTRIES, "too many entries");
            assert!(!heavy(&segment[..len - 1]), "filled beyond its bytes");
            rest = others;
        }
        assert!(rest.is_empty());
    }
}
