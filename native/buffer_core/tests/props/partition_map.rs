//! A `Partition` of a map: what a queue's does not do, that is, entries that are overwritten, deleted and
//! evicted in any order, and slots that are used again.
//!
//! Properties, checked after every step:
//!
//! 1. `accepted = processed + superseded + deleted + discarded + queued + in flight`.
//! 2. While there is a limit, what is taken of it is what is held, and a write never leaves more than the
//!    limit, or than there was.
//! 3. Who awaits all is told once, no sooner than all that was held has left, and at the latest when nothing
//!    is held; of a loss if one of those entries was given up.

use std::collections::{BTreeMap, BTreeSet};

use crate::ledger::{self, Ints, Value};
use buffer_core::map::{Given, ENTRY_BYTES};
use buffer_core::{After, Buffer, Map, NoRoom, Policy, Reason, Room, Rows, Size, Wanted};
use proptest::prelude::*;

type TestRoom<'a> = Room<'a, Map<Ints>, u8>;

#[derive(Debug, Clone)]
enum Op {
    /// A value of this weight for a key.
    Put(u32, u32),
    /// In place of others, if need be.
    PutInPlace(u32, u32),
    Remove(u32),
    Evict(usize),
    SetLimit(Option<Size>),
    AwaitAll,
    Swap,
    Next(usize),
    /// The batch in flight is given up.
    GiveUp,
}

fn op() -> impl Strategy<Value = Op> {
    let put = || (0..8u32, 1..300u32);
    let limit = (1..8usize, 200..2_000u64).prop_map(|(entries, bytes)| Size { entries, bytes });
    prop_oneof![
        6 => put().prop_map(|(key, weight)| Op::Put(key, weight)),
        4 => put().prop_map(|(key, weight)| Op::PutInPlace(key, weight)),
        6 => (0..8u32).prop_map(Op::Remove),
        2 => (0..3usize).prop_map(Op::Evict),
        2 => prop::option::of(limit).prop_map(Op::SetLimit),
        4 => Just(Op::AwaitAll),
        3 => Just(Op::Swap),
        5 => (1..4usize).prop_map(Op::Next),
        1 => Just(Op::GiveUp),
    ]
}

struct Run {
    buffer: Buffer<Map<Ints>, u8>,
    after: After<Ints, u8>,
    // Each value is another one, and so is each token.
    count: u64,
    // Values that were held when somebody began to await them, and those of them that were given up.
    awaiting: BTreeMap<u64, (BTreeSet<u64>, bool)>,
}

fn word(value: u64) -> u64 {
    value << 2 | 0b11
}

fn given(value: u64, weight: u32) -> Given<Ints, Value> {
    match weight {
        0 => Given::Word(word(value)),
        _ => Given::Copy(weight, Value::plain(value)),
    }
}

fn find(map: &Map<Ints>, key: u32) -> Option<usize> {
    map.find(key, |_, cell| cell.word() == Some(word(u64::from(key))))
}

fn held(map: &Map<Ints>) -> BTreeSet<u64> {
    let values = map.entries(0).map(|(_, entry)| {
        let (arena, index) = map.stored(entry.value).expect("values have a weight");
        arena.load(index..index + 1)[0]
    });
    values.collect()
}

/// Writes a value, for which room is taken first.
fn put(
    map: &mut Map<Ints>,
    room: &mut TestRoom<'_>,
    (key, weight, value): (u32, u32, u64),
    take: impl FnOnce(&mut TestRoom<'_>, &mut Map<Ints>, Size) -> Result<(), NoRoom>,
) -> Result<(), NoRoom> {
    // As for a new entry: that is what it adds at the most.
    let size = Size {
        entries: 1,
        bytes: u64::from(weight) + ENTRY_BYTES,
    };
    take(room, map, size)?;
    let none = || given(0, 0);
    match find(map, key) {
        Some(slot) => map.replace(slot, given(value, weight), none(), 0, || 0),
        None => {
            let key_given = given(u64::from(key), 0);
            map.insert(key, key_given, given(value, weight), none(), || 0);
        }
    }
    Ok(())
}

impl Run {
    fn values(&self) -> BTreeSet<u64> {
        let partition = &self.buffer.partitions()[0];
        let mut all = partition.read_live(held).expect("it is open");
        partition.read(|drain, _| all.extend(held(drain)));
        all
    }

    /// Answers the value that it has replaced, processed or removed.
    fn step(&mut self, op: &Op) -> Vec<u64> {
        let partition = &self.buffer.partitions()[0];
        let after = &mut self.after;
        let rows = Rows {
            copy: None,
            now: || 0,
        };
        self.count += 1;
        let value = self.count;
        let value_of = |map: &Map<Ints>, key: u32| {
            let entry = map.entry(find(map, key)?);
            let (arena, index) = map.stored(entry.value)?;
            Some(arena.load(index..index + 1)[0])
        };
        let mut gone = Vec::new();
        match *op {
            Op::Put(key, weight) | Op::PutInPlace(key, weight) => {
                let in_place = matches!(op, Op::PutInPlace(..));
                let written = partition.write(after, |map, room| {
                    put(map, room, (key, weight, value), |room, map, size| {
                        let taken = match in_place {
                            true => room.take_in_place(map, size, &rows),
                            false => room.take(size),
                        };
                        gone.extend(value_of(map, key).filter(|_| taken.is_ok()));
                        taken
                    })
                });
                assert!(written.is_ok());
            }
            Op::Remove(key) => {
                let written = partition.write(after, |map, _| {
                    gone.extend(value_of(map, key));
                    if let Some(slot) = find(map, key) {
                        map.remove(slot, || 0);
                    }
                });
                assert!(written.is_ok());
            }
            Op::Evict(entries) => {
                let size = Size { entries, bytes: 0 };
                partition.evict(size, &rows, after);
            }
            Op::SetLimit(limit) => _ = self.buffer.set_limit(limit),
            Op::AwaitAll => {
                let held = self.values();
                let partition = &self.buffer.partitions()[0];
                assert_eq!(partition.await_all(1, value), !held.is_empty());
                if !held.is_empty() {
                    self.awaiting.insert(value, (held, false));
                }
            }
            Op::Swap => _ = partition.swap(None, || 0),
            Op::Next(entries) => {
                let (_, batch) = partition.drain_status();
                partition.read(|drain, _| {
                    let len = batch.map_or(0, |batch| batch.len);
                    let all = drain.entries(0).take(len);
                    gone.extend(all.filter_map(|(_, entry)| {
                        let (arena, index) = drain.stored(entry.value)?;
                        Some(arena.load(index..index + 1)[0])
                    }));
                });
                let wanted = Wanted::entries(entries);
                let next = partition.next(1, wanted, || 0, &|_, _| None, after, |_, _| ());
                assert!(next.is_ok());
            }
            Op::GiveUp => {
                partition.settle(Reason::Failed, Policy::ONCE, &|_, _| None, after);
            }
        }
        gone
    }

    fn run(&mut self, op: &Op) {
        let before = self.values();
        let used = self.buffer.capacity().used();
        let gone = self.step(op);
        let now = self.values();
        for (all, lost) in self.awaiting.values_mut() {
            let left = all
                .iter()
                .filter(|value| before.contains(value) && !now.contains(value));
            *lost |= left.clone().any(|value| !gone.contains(value));
        }

        for passed in self.after.passed.drain(..) {
            let told = self.awaiting.remove(&passed.token);
            let (all, lost) = told.expect("it is told once");
            assert!(all.is_disjoint(&now), "it is told too early");
            assert!(passed.lost.is_some() || !lost);
        }
        assert!(self.awaiting.is_empty() || !now.is_empty());
        let partition = &self.buffer.partitions()[0];
        assert_eq!(partition.awaiting(), self.awaiting.len());

        let stats = partition.stats();
        let left = stats.processed + stats.superseded + stats.deleted;
        let left = left + stats.discarded.iter().sum::<u64>();
        let held = stats.queued + stats.in_flight;
        assert_eq!(stats.accepted, left + held as u64);
        assert_eq!(held, now.len());
        if let Some(limit) = self.buffer.capacity().limit() {
            let (taken, bytes) = (self.buffer.capacity().used(), stats.bytes);
            assert_eq!((taken.entries, taken.bytes), (held, bytes));
            if !matches!(op, Op::SetLimit(_)) {
                assert!(taken.entries <= limit.entries.max(used.entries));
                assert!(taken.bytes <= limit.bytes.max(used.bytes));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..Default::default() })]

    #[test]
    fn keeps_its_account_its_limit_and_its_word(ops in prop::collection::vec(op(), 0..60)) {
        let mut run = Run {
            buffer: Buffer::new(1),
            after: After::default(),
            count: 0,
            awaiting: BTreeMap::new(),
        };
        for op in &ops {
            run.run(op);
        }
        for _ in 0..2 {
            run.run(&Op::Swap);
            run.run(&Op::Next(usize::MAX));
            run.run(&Op::Next(1));
        }
        assert!(run.awaiting.is_empty() && run.values().is_empty());
        drop(run);
        assert!(ledger::alive().is_empty());
    }
}
