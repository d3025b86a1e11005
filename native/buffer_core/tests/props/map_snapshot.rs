//! Snapshots of a `Map` against copies of a `BTreeMap`, with writes in between the visits.
//!
//! Properties:
//!
//! 1. A snapshot that is visited to its end has shown each entry once, as it was when it began, whatever
//!    was overwritten, updated, removed, inserted or moved meanwhile, and beside other snapshots.
//! 2. The map itself is what it would be without them.
//! 3. Once a generation is drained, its snapshots are gone.
//! 4. Every arena that was made is in use or handed over, once; dropped with that, none is left.

use std::collections::BTreeMap;

use crate::ledger::{self, Ints, Value};
use buffer_core::map::{Cell, Given, Seen, Visited, LARGE};
use buffer_core::{Generation, Map, Retired};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Op {
    Put(u64, u32),
    PutMany(u64, u64, u32),
    Update(u64, u32),
    Remove(u64),
    RemoveMany(u64, u64),
    Begin,
    /// Of the snapshots, this one; so many entries.
    Visit(usize, usize),
    /// All the rest of it.
    Finish(usize),
    End(usize),
    TakeRetired,
}

const KEYS: u64 = 700;

fn op() -> impl Strategy<Value = Op> {
    let key = || prop_oneof![1 => 0..8u64, 2 => 0..KEYS];
    let weight =
        || prop_oneof![2 => Just(0), 4 => 1..100u32, 1 => 1_000..LARGE, 1 => LARGE + 1..99_999];
    prop_oneof![
        4 => (key(), weight()).prop_map(|(key, weight)| Op::Put(key, weight)),
        4 => (key(), 1..400u64, weight()).prop_map(|(key, n, weight)| Op::PutMany(key, n, weight)),
        3 => (key(), weight()).prop_map(|(key, weight)| Op::Update(key, weight)),
        3 => key().prop_map(Op::Remove),
        3 => (key(), 1..400u64).prop_map(|(key, n)| Op::RemoveMany(key, n)),
        4 => Just(Op::Begin),
        8 => (0..4usize, 1..90usize).prop_map(|(which, n)| Op::Visit(which, n)),
        2 => (0..4usize).prop_map(Op::Finish),
        1 => (0..4usize).prop_map(Op::End),
        1 => Just(Op::TakeRetired),
    ]
}

/// Keys in a word, small ones, packed or not, and large ones.
fn key_weight(key: u64) -> u32 {
    match key % 5 {
        0 => 0,
        4 if key.is_multiple_of(3) => LARGE + 1,
        1 | 2 => 25,
        _ => 24,
    }
}

fn given(value: u64, weight: u32) -> Given<Ints, Value> {
    match weight {
        0 => Given::Word(value << 2 | 0b11),
        weight if weight > LARGE => {
            let mut arena: Ints = buffer_core::Arena::new();
            arena.store(value);
            Given::Staged(weight, Box::new(arena))
        }
        weight if weight % 2 == 1 => {
            Given::Copy(weight, Value::packed(value, 9 + weight as usize % 99))
        }
        _ => Given::Copy(weight, Value::plain(value)),
    }
}

fn value(seen: Seen<'_, Ints>) -> u64 {
    match seen {
        Seen::Word(word) => word >> 2,
        Seen::Stored(arena, index) => arena.load(index..index + 1)[0],
        Seen::Packed(bytes, _) => Value::of_bytes(bytes),
    }
}

struct Reader {
    id: u64,
    expected: BTreeMap<u64, u64>,
    got: Vec<(u64, u64)>,
}

#[derive(Default)]
struct Run {
    map: Map<Ints>,
    model: BTreeMap<u64, u64>,
    readers: Vec<Reader>,
    retired: Retired<Ints>,
    // Each write has a value of its own.
    clock: u64,
}

impl Run {
    fn find(&self, key: u64) -> Option<usize> {
        let is_key = |map: &Map<Ints>, cell| term(map, cell) == key;
        self.map.find(key as u32 % 97, is_key)
    }

    fn put(&mut self, key: u64, weight: u32) {
        self.clock += 1;
        let new = given(self.clock, weight);
        let version = given(self.clock, weight / 2);
        match self.find(key) {
            Some(slot) => self.map.replace(slot, new, version, 0, || 0),
            None => {
                let key_given = given(key, key_weight(key));
                self.map
                    .insert(key as u32 % 97, key_given, new, version, || 0);
            }
        }
        self.model.insert(key, self.clock);
    }

    fn update(&mut self, key: u64, weight: u32) {
        self.clock += 1;
        if let Some(slot) = self.find(key) {
            self.map.update(slot, given(self.clock, weight), || 0);
            self.model.insert(key, self.clock);
        }
    }

    fn remove(&mut self, key: u64) {
        let slot = self.find(key);
        assert_eq!(slot.is_some(), self.model.remove(&key).is_some());
        if let Some(slot) = slot {
            self.map.remove(slot, || 0);
        }
    }

    fn visit(&mut self, which: usize, count: usize) {
        let Some(reader) = self.readers.get_mut(which) else {
            return;
        };
        let before = reader.got.len();
        let visited = self.map.visit(reader.id, count, 1 << 20, |key, seen| {
            reader.got.push((value(key), value(seen)));
        });
        assert!(reader.got.len() - before <= count);
        match visited {
            Visited::Some => assert!(reader.got.len() > before),
            Visited::All => self.check(which),
            Visited::Gone => unreachable!("nothing was swapped out"),
        }
    }

    fn check(&mut self, which: usize) {
        let reader = self.readers.remove(which);
        let count = reader.got.len();
        let got = BTreeMap::from_iter(reader.got);
        assert_eq!(got.len(), count, "a key came twice");
        assert_eq!(got, reader.expected);
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Put(key, weight) => self.put(key, weight),
            Op::PutMany(key, count, weight) => {
                (key..key + count).for_each(|key| self.put(key, weight));
            }
            Op::Update(key, weight) => self.update(key, weight),
            Op::Remove(key) => self.remove(key),
            Op::RemoveMany(key, count) => (key..key + count).for_each(|key| self.remove(key)),
            Op::Begin => {
                self.clock += 1;
                self.map.begin_snapshot(self.clock);
                self.readers.push(Reader {
                    id: self.clock,
                    expected: self.model.clone(),
                    got: Vec::new(),
                });
            }
            Op::Visit(which, count) => self.visit(which, count),
            Op::Finish(which) => {
                let readers = self.readers.len();
                while which < readers && self.readers.len() == readers {
                    self.visit(which, 1_000);
                }
            }
            Op::End(which) => {
                if which < self.readers.len() {
                    self.map.end_snapshot(self.readers.remove(which).id);
                }
            }
            Op::TakeRetired => {
                if let Some(mut retired) = self.map.take_retired() {
                    self.retired.append(&mut retired);
                }
            }
        }
    }
}

fn entries(map: &Map<Ints>) -> BTreeMap<u64, u64> {
    let entries = map.entries(0);
    entries
        .map(|(_, entry)| (term(map, entry.key), term(map, entry.value)))
        .collect()
}

fn term(map: &Map<Ints>, cell: Cell) -> u64 {
    match (map.stored(cell), map.packed(cell)) {
        (Some((arena, index)), _) => arena.load(index..index + 1)[0],
        (None, Some(bytes)) => Value::of_bytes(bytes),
        (None, None) => cell.word().unwrap_or_default() >> 2,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..Default::default() })]

    #[test]
    fn shows_all_as_it_was(ops in prop::collection::vec(op(), 0..60), swapped in any::<bool>()) {
        let mut run = Run::default();
        for op in &ops {
            run.step(op);
            assert_eq!(run.map.len(), run.model.len());
        }
        assert_eq!(entries(&run.map), run.model);
        if !swapped {
            (0..run.readers.len()).for_each(|_| run.step(&Op::Finish(0)));
            assert!(run.readers.is_empty());
        }
        run.map.retire(1, &mut run.retired);
        for reader in &run.readers {
            let visited = run.map.visit(reader.id, 1, 1, |_, _| unreachable!("nothing is there"));
            assert_eq!(visited, Visited::Gone);
        }
        run.map.retire(usize::MAX, &mut run.retired);
        assert_eq!((run.map.len(), run.map.bytes(), run.map.total_bytes()), (0, 0, 0));
        drop(run.retired);
        assert!(ledger::alive().is_empty());
    }
}
