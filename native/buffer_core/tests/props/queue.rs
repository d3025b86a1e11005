//! A `Queue` against a `VecDeque` that holds the same entries.
//!
//! Properties:
//!
//! 1. `len` and `bytes` are those of the entries held; both are zero when all have left.
//! 2. `pieces(skip, count)` are the entries from `skip` on, `count` at the most, in the order in which
//!    they came, whatever was appended or has left in between; no piece is empty.
//! 3. `first(entries, bytes)` are as many of the first entries as both limits allow, but one at least if
//!    there is one and one is wanted, with their weight and the places up to the last of them. Places count
//!    on from all that ever left the queue, and `places_up_to(index)` is that of one entry.
//! 4. `oldest` is when the segment of the first entry was opened, and nothing for an empty queue; the
//!    clock is asked once for each segment.
//! 5. `older_than` counts entries from the first one on that came before the moment: all of a segment, if
//!    the next one was opened before it.
//! 6. `split(count)` leaves two queues that have what was in one: entries, weights, places and ages. At the
//!    most one segment is copied for it, and nothing else.
//! 7. A segment takes entries up to its limits and none after; a queue that is only pushed to leaves
//!    no segment but the last below both of them.
//! 8. An arena is kept exactly as long as one of its entries: what is left is handed over whole, once,
//!    and nothing else is; but for one that is cleared to be the next one.

use std::cell::Cell;
use std::collections::VecDeque;

use crate::ledger::{self, Ints};
use buffer_core::{First, Generation, Queue, Retired, Segment};
use proptest::prelude::*;

type TestSegment = Segment<Ints>;

#[derive(Clone, Copy)]
struct Entry {
    value: u64,
    weight: u32,
    // When its segment was.
    opened: i64,
}

#[derive(Debug, Clone)]
enum Op {
    /// So many entries of this weight.
    Push(usize, u32),
    /// The same in one go.
    Extend(usize, u32),
    /// A queue that had so many entries of this weight, the first few of which have left.
    Append(usize, u32, usize),
    Retire(usize),
    Read(usize, usize),
    /// The first entries within these limits.
    First(usize, u64),
    /// The place of one entry.
    PlaceOf(usize),
    /// What came before this many moments ago.
    OlderThan(u64),
    /// Splits so many entries off, reads them and retires them.
    Split(usize),
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

fn bytes() -> impl Strategy<Value = u64> {
    prop_oneof![2 => 0..2_000u64, 2 => 0..3_000_000u64, 1 => Just(u64::MAX)]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (count(), weight()).prop_map(|(n, weight)| Op::Push(n, weight)),
        2 => (count(), weight()).prop_map(|(n, weight)| Op::Extend(n, weight)),
        2 => (count(), weight(), count()).prop_map(|(n, weight, gone)| Op::Append(n, weight, gone)),
        3 => count().prop_map(Op::Retire),
        2 => (count(), count()).prop_map(|(skip, count)| Op::Read(skip, count)),
        2 => (count(), bytes()).prop_map(|(entries, bytes)| Op::First(entries, bytes)),
        1 => (0..300usize).prop_map(Op::PlaceOf),
        2 => (0..900u64).prop_map(Op::OlderThan),
        2 => count().prop_map(Op::Split),
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
    // Entries that have left the queue, arenas made by splitting it, and entries copied into those.
    gone: u64,
    split_arenas: usize,
    copied: usize,
}

impl Run {
    /// Pushes to a queue whose last entry is this one.
    fn fill(
        &mut self,
        queue: &mut Queue<Ints>,
        last: Option<Entry>,
        count: usize,
        weight: u32,
    ) -> VecDeque<Entry> {
        let mut opened = last.map(|entry| entry.opened);
        let mut entries = VecDeque::new();
        for _ in 0..count {
            let (value, readings) = (self.clock, &mut self.readings);
            let mut reading = None;
            let now = || {
                *readings += 1;
                *reading.insert(value as i64)
            };
            queue.push(weight, now, |arena| arena.store(value));
            opened = reading.or(opened);
            let opened = opened.expect("an empty queue has no segment");
            entries.push_back(Entry {
                value,
                weight,
                opened,
            });
            self.clock += 1;
        }
        entries
    }

    /// Pushes in one go.
    fn extend(&mut self, count: usize, weight: u32) {
        let last = self.model.back().map(|entry| entry.opened);
        let (at, opened) = (Cell::new(self.clock), Cell::new(last));
        let values = self.clock..self.clock + count as u64;
        self.clock = values.end;
        let (readings, model) = (Cell::new(self.readings), &mut self.model);
        self.queue.extend(
            values.map(|value| {
                at.set(value);
                (value, weight)
            }),
            || {
                readings.set(readings.get() + 1);
                opened.set(Some(at.get() as i64));
                at.get() as i64
            },
            |arena, value| {
                arena.store(value);
                model.push_back(Entry {
                    value,
                    weight,
                    opened: opened.get().expect("an empty queue has no segment"),
                });
            },
        );
        self.readings = readings.get();
    }

    /// The first of the model's entries within these limits.
    fn first(&self, entries: usize, bytes: u64) -> First {
        let mut first = First {
            places: self.gone,
            ..First::default()
        };
        for entry in &self.model {
            let sum = first.bytes + u64::from(entry.weight);
            if first.len == entries || (first.len > 0 && sum > bytes) {
                break;
            }
            first.len += 1;
            first.bytes = sum;
            first.places += 1;
        }
        first
    }

    fn older_than(&self, moment: i64, swapped_at: i64) -> usize {
        let mut old = 0;
        for (index, entry) in self.model.iter().enumerate() {
            let end = self.model.range(index..);
            let next = end.map(|other| other.opened);
            let end = next.clone().find(|opened| *opened != entry.opened);
            if end.unwrap_or(swapped_at) >= moment {
                break;
            }
            old += 1;
        }
        old
    }

    fn split(&mut self, count: usize) {
        let (made, stored) = (ledger::created(), entries_alive());
        let mut split = self.queue.split(count).expect("a queue can be split");
        self.split_arenas += ledger::created() - made;
        self.copied += entries_alive() - stored;
        assert!(ledger::created() - made <= 1);
        assert!(entries_alive() - stored < TestSegment::MAX_ENTRIES);

        let entries: Vec<Entry> = self.model.drain(..count.min(self.model.len())).collect();
        let values: Vec<u64> = entries.iter().map(|entry| entry.value).collect();
        assert_eq!(read(&split, 0, usize::MAX), values);
        assert_eq!(split.bytes(), weigh(entries.iter()));
        assert_eq!(split.oldest(), entries.first().map(|entry| entry.opened));
        let until = self.gone + entries.len() as u64;
        assert_eq!(split.places(), (self.gone, until));
        assert_eq!(split.places_up_to(0), until.min(self.gone + 1));
        self.gone = until;
        split.retire(usize::MAX, &mut self.retired);
        assert_eq!((split.len(), split.bytes()), (0, 0));
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Push(count, weight) => {
                let mut queue = std::mem::take(&mut self.queue);
                let last = self.model.back().copied();
                let entries = self.fill(&mut queue, last, count, weight);
                self.queue = queue;
                self.model.extend(entries);
            }
            Op::Extend(count, weight) => self.extend(count, weight),
            Op::Append(count, weight, gone) => {
                let mut other = Queue::default();
                let mut entries = self.fill(&mut other, None, count, weight);
                other.retire(gone, &mut self.retired);
                entries.drain(..gone.min(count));
                self.queue.append(other);
                self.model.append(&mut entries);
            }
            Op::Retire(count) => {
                self.queue.retire(count, &mut self.retired);
                let count = count.min(self.model.len());
                self.model.drain(..count);
                self.gone += count as u64;
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
            Op::First(entries, bytes) => {
                assert_eq!(self.queue.first(entries, bytes), self.first(entries, bytes));
            }
            Op::PlaceOf(index) => {
                let place = self.first(index + 1, u64::MAX).places;
                assert_eq!(self.queue.places_up_to(index), place);
            }
            Op::OlderThan(ago) => {
                let (now, moment) = (self.clock as i64, self.clock as i64 - ago as i64);
                let old = self.queue.older_than(usize::MAX, moment, now);
                assert_eq!(old, self.older_than(moment, now));
                let young = self.model.iter().take(old);
                assert!(young.clone().all(|entry| (entry.value as i64) < moment));
                // What was swapped out before the moment came before it.
                assert_eq!(self.queue.older_than(usize::MAX, moment + 1, moment - 1), {
                    self.older_than(moment + 1, moment - 1)
                });
                assert_eq!(
                    self.queue.older_than(7, now + 1, now),
                    self.model.len().min(7)
                );
            }
            Op::Split(count) => self.split(count),
        }
    }

    fn check(&self) {
        assert_eq!(self.queue.len(), self.model.len());
        assert_eq!(self.queue.is_empty(), self.model.is_empty());
        assert_eq!(self.queue.bytes(), weigh(self.model.iter()));

        let first = self.model.front();
        assert_eq!(self.queue.oldest(), first.map(|entry| entry.opened));
        let places = self.gone + self.model.len() as u64;
        assert_eq!(self.queue.places(), (self.gone, places));
        assert_eq!(self.queue.tally().accepted, places);

        let held = self.queue.pieces(0, usize::MAX).count();
        let kept = entries_alive();
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

fn entries_alive() -> usize {
    ledger::alive().iter().map(|page| page.len).sum()
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
        let (made_before, cleared_before) = (ledger::created(), ledger::cleared());
        let values_before = ledger::cleared_values();
        let mut run = Run::default();
        for op in &ops {
            run.step(op);
            run.check();
        }
        assert_eq!(run.readings + run.split_arenas, ledger::created() - made_before);

        let rest: Vec<u64> = run.model.iter().map(|entry| entry.value).collect();
        assert_eq!(read(&run.queue, 0, usize::MAX), rest);
        run.step(&Op::Retire(usize::MAX));
        run.check();
        assert_eq!(run.queue.bytes(), 0);
        // All that was ever made is there, and waits to be dropped.
        let made = ledger::created() - made_before;
        assert_eq!(ledger::alive().len() + ledger::cleared() - cleared_before, made);
        let gone = run.retired.entries() + ledger::cleared_values() - values_before;
        assert_eq!(gone as u64, run.clock + run.copied as u64);
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
