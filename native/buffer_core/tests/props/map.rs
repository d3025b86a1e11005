//! A `Map` against a `BTreeMap` that holds the same entries, with hashes that collide.
//!
//! Properties, checked after every write:
//!
//! 1. `find` finds each key's slot and no other key's; key, value, version and count of updates are
//!    those of the model, however often they were overwritten, and moved for it.
//! 2. `entries` has each entry once; from any cursor on, it has those behind it.
//! 3. `len`, `bytes`, `first` and `oldest` are those of the entries held. What was accepted is what was
//!    superseded, deleted, or is held.
//! 4. `total_bytes` is never more than twice what is alive and `SLACK`, after each single write. A drain
//!    only ever makes it less. (`map_bounds.rs` has the runs that are made to break this.)
//!    What is evicted is what a batch would have had first; it was accepted, and nothing else counts it.
//! 5. A drain hands every entry out once. The weight of a batch is known before.
//!    When all have left, it is as good as new, whatever memory it has kept.
//! 6. Every arena that was made is in use or is handed over, once; dropped with that, none is left.

use std::collections::BTreeMap;

use crate::ledger::{self, Ints, Value};
use buffer_core::map::{Cell, Entry, Given, ENTRY_BYTES, LARGE, PACKED, SLACK};
use buffer_core::{First, Generation, Map, Retired};
use proptest::prelude::*;

/// A term of the model: a number, in a word if it has no weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Term {
    value: u64,
    weight: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    key: Term,
    value: Term,
    version: Term,
    updates: u64,
}

#[derive(Debug, Clone)]
enum Op {
    /// For this key: a value and a version.
    Put(u64, Term, Term),
    /// The same value so many times.
    Again(u64, Term, usize),
    Update(u64, Term),
    SetUpdates(u64, u64),
    PassOver,
    Remove(u64),
    /// So many keys from this one on.
    RemoveMany(u64, usize),
    PutMany(u64, usize, Term),
    TakeRetired,
    /// Drops so many of the first entries.
    Evict(usize),
    /// All leave.
    Drain,
}

const KEYS: u64 = 1_000;

fn small() -> impl Strategy<Value = Term> {
    let weight = prop_oneof![2 => Just(0), 4 => 1..200u32, 2 => 200..=LARGE];
    (0..1u64 << 40, weight).prop_map(|(value, weight)| Term { value, weight })
}

fn term() -> impl Strategy<Value = Term> {
    let large = (0..1u64 << 40, LARGE + 1..2_000_000);
    prop_oneof![8 => small(), 1 => large.prop_map(|(value, weight)| Term { value, weight })]
}

fn key() -> impl Strategy<Value = u64> {
    prop_oneof![2 => 0..8u64, 1 => 0..KEYS]
}

/// Few, or about as many as there are numbers of 32 bits.
fn updates() -> impl Strategy<Value = u64> {
    prop_oneof![0..9u64, (1u64 << 32) - 3..(1 << 32) + 3]
}

fn op(term: BoxedStrategy<Term>) -> impl Strategy<Value = Op> {
    let several = prop_oneof![4 => 1..50usize, 1 => 100..800usize].boxed();
    let several_more = several.clone();
    prop_oneof![
        6 => (key(), term.clone(), term.clone()).prop_map(|(key, value, version)| Op::Put(key, value, version)),
        2 => (key(), term.clone(), several.clone()).prop_map(|(key, value, n)| Op::Again(key, value, n)),
        2 => (key(), several.clone(), term.clone()).prop_map(|(key, n, value)| Op::PutMany(key, n, value)),
        3 => (key(), term).prop_map(|(key, value)| Op::Update(key, value)),
        1 => (key(), updates()).prop_map(|(key, updates)| Op::SetUpdates(key, updates)),
        1 => Just(Op::PassOver),
        3 => key().prop_map(Op::Remove),
        2 => (key(), several).prop_map(|(key, n)| Op::RemoveMany(key, n)),
        2 => Just(Op::TakeRetired),
        1 => several_more.prop_map(Op::Evict),
        1 => Just(Op::Drain),
    ]
}

/// A third of the keys is in a word, some are packed, the others are in segments. Every fifth is as large as one can be
/// that may be moved.
fn key_term(key: u64) -> Term {
    let weight = match key % 15 {
        0 | 3 | 6 | 9 | 12 => 0,
        5 => LARGE,
        1 | 2 | 4 | 10 => 25,
        _ => 24,
    };
    Term { value: key, weight }
}

/// Several keys to a hash, and hashes that differ in few bits.
fn hash(key: u64) -> u32 {
    (key % 97) as u32
}

fn word(value: u64) -> u64 {
    value << 2 | 0b11
}

fn given(term: Term) -> Given<Ints, Value> {
    let Term { value, weight } = term;
    if weight == 0 {
        Given::Word(word(value))
    } else if weight > LARGE {
        let mut arena: Ints = buffer_core::Arena::new();
        arena.store(value);
        Given::Staged(weight, Box::new(arena))
    } else if weight % 2 == 1 {
        Given::Copy(
            weight,
            Value::packed(value, 9 + weight as usize % (PACKED - 8)),
        )
    } else {
        Given::Copy(weight, Value::plain(value))
    }
}

fn read(map: &Map<Ints>, cell: Cell) -> Term {
    let value = match (cell.word(), map.packed(cell), map.stored(cell)) {
        (Some(word), None, None) => word >> 2,
        (None, Some(bytes), None) => Value::of_bytes(bytes),
        (None, None, Some((arena, index))) => arena.load(index..index + 1)[0],
        _ => unreachable!("a term is in one place"),
    };
    let weight = map.weight(cell);
    Term { value, weight }
}

impl Held {
    fn bytes(&self) -> u64 {
        let weights = [self.key, self.value, self.version].map(|term| u64::from(term.weight));
        weights.iter().sum::<u64>() + ENTRY_BYTES
    }
}

fn bytes<'a>(entries: impl IntoIterator<Item = &'a Held>) -> u64 {
    entries.into_iter().map(Held::bytes).sum()
}

#[derive(Default)]
struct Run {
    map: Map<Ints>,
    model: BTreeMap<u64, Held>,
    retired: Retired<Ints>,
    accepted: u64,
    superseded: u64,
    deleted: u64,
    evicted: u64,
}

impl Run {
    fn find(&self, key: u64) -> Option<usize> {
        let is_key = |map: &Map<Ints>, cell| read(map, cell).value == key;
        let found = self.map.find(hash(key), is_key);
        assert_eq!(found.is_some(), self.model.contains_key(&key));
        found
    }

    fn check_memory(&self) {
        let alive = self.map.bytes() - self.map.len() as u64 * ENTRY_BYTES;
        assert!(self.map.total_bytes() <= 2 * alive + SLACK);
    }

    fn put(&mut self, key: u64, value: Term, version: Term) {
        let now = || self.accepted as i64;
        let (value_given, version_given) = (given(value), given(version));
        match self.find(key) {
            Some(slot) => {
                let (map, updates) = (&mut self.map, 0);
                map.replace(slot, value_given, version_given, updates, now);
                self.superseded += 1;
            }
            None => {
                let (map, key_given) = (&mut self.map, given(key_term(key)));
                map.insert(hash(key), key_given, value_given, version_given, now);
            }
        }
        self.accepted += 1;
        let entry = Held {
            key: key_term(key),
            value,
            version,
            updates: 0,
        };
        self.model.insert(key, entry);
        self.check_memory();
    }

    fn update(&mut self, key: u64, value: Term) {
        let now = || self.accepted as i64;
        if let (Some(slot), Some(entry)) = (self.find(key), self.model.get_mut(&key)) {
            self.map.update(slot, given(value), now);
            entry.value = value;
            entry.updates += 1;
            self.accepted += 1;
            self.superseded += 1;
        }
        self.check_memory();
    }

    fn remove(&mut self, key: u64) {
        if let Some(slot) = self.find(key) {
            self.map.remove(slot, || self.accepted as i64);
            self.model.remove(&key);
            self.deleted += 1;
        }
        self.check_memory();
        assert_eq!(self.find(key), None);
    }

    /// Those that a batch would have had first.
    fn evict(&mut self, count: usize) {
        let first = self.map.first(count, u64::MAX);
        let gone: Vec<Held> = entries(&self.map, 0).into_iter().take(count).collect();
        assert_eq!((first.len, first.bytes), (gone.len(), bytes(&gone)));
        let place = self.map.entries(0).next().map(|(after, _)| after as u64);
        assert_eq!(
            place.unwrap_or(self.map.places().1),
            self.map.places_up_to(0)
        );
        self.map.evict(count, || 0, &mut self.retired);
        for entry in &gone {
            self.model.remove(&entry.key.value);
        }
        self.evicted += gone.len() as u64;
        self.check_memory();
    }

    /// All leave, and it is as good as new.
    fn drain(&mut self) {
        self.map.retire(usize::MAX, &mut self.retired);
        assert_eq!(self.map.total_bytes(), 0);
        assert_eq!(self.map.places(), (0, 0));
        *self = Run {
            map: std::mem::take(&mut self.map),
            retired: std::mem::take(&mut self.retired),
            ..Run::default()
        };
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Put(key, value, version) => self.put(key, value, version),
            Op::Again(key, value, times) => (0..times).for_each(|_| self.put(key, value, value)),
            Op::PutMany(key, count, value) => {
                (key..key + count as u64).for_each(|key| self.put(key, value, value));
            }
            Op::Update(key, value) => self.update(key, value),
            Op::SetUpdates(key, updates) => {
                if let (Some(slot), Some(entry)) = (self.find(key), self.model.get_mut(&key)) {
                    self.map.set_updates(slot, updates);
                    entry.updates = updates;
                }
            }
            Op::PassOver => {
                self.map.pass_over();
                self.accepted += 1;
                self.superseded += 1;
            }
            Op::Remove(key) => self.remove(key),
            Op::Evict(count) => self.evict(count),
            Op::RemoveMany(key, count) => {
                (key..key + count as u64).for_each(|key| self.remove(key));
            }
            Op::Drain => self.drain(),
            Op::TakeRetired => {
                if let Some(mut retired) = self.map.take_retired() {
                    self.retired.append(&mut retired);
                }
            }
        }
    }

    fn check(&self) {
        let (map, model) = (&self.map, &self.model);
        assert_eq!(map.len(), model.len());
        assert_eq!(map.bytes(), bytes(model.values()));
        assert_eq!(map.oldest().is_some(), !model.is_empty());
        assert!(map.oldest() <= Some(self.accepted as i64));
        let tally = map.tally();
        assert_eq!(tally.accepted, self.accepted);
        assert_eq!(tally.superseded, self.superseded);
        assert_eq!(tally.deleted, self.deleted);
        let held = self.accepted - self.superseded - self.deleted - self.evicted;
        assert_eq!(held, model.len() as u64);
        for (key, entry) in model {
            let slot = self.find(*key).map(|slot| held_in(map, &map.entry(slot)));
            assert_eq!(slot, Some(*entry));
        }
        assert_eq!(by_key(entries(map, 0)), *model);
    }
}

fn held_in(map: &Map<Ints>, entry: &Entry) -> Held {
    Held {
        key: read(map, entry.key),
        value: read(map, entry.value),
        version: read(map, entry.version),
        updates: entry.updates,
    }
}

fn entries(map: &Map<Ints>, cursor: usize) -> Vec<Held> {
    let entries = map.entries(cursor);
    entries.map(|(_, entry)| held_in(map, &entry)).collect()
}

/// The places up to the last of the first entries.
fn place_of_last(map: &Map<Ints>, count: usize) -> u64 {
    let last = count
        .checked_sub(1)
        .and_then(|last| map.entries(0).nth(last));
    match last {
        // Behind the last entry that is held no other will be.
        _ if count == map.len() => map.places().1,
        Some((after, _)) => after as u64,
        None => map.places().0,
    }
}

/// The first entries of a batch that have so many bytes, but one at least.
fn within(map: &Map<Ints>, batch: &[Held], limit: u64) -> First {
    let mut first = First {
        len: batch.len().min(1),
        bytes: bytes(batch.iter().take(1)),
        ..First::default()
    };
    for entry in &batch[first.len..] {
        if first.bytes + entry.bytes() > limit {
            break;
        }
        first.len += 1;
        first.bytes += entry.bytes();
    }
    let last = first
        .len
        .checked_sub(1)
        .and_then(|last| map.entries(0).nth(last));
    let places = last.map_or(map.places().1, |(after, _)| after as u64);
    First { places, ..first }
}

fn by_key(entries: Vec<Held>) -> BTreeMap<u64, Held> {
    let count = entries.len();
    let by_key = BTreeMap::from_iter(entries.into_iter().map(|entry| (entry.key.value, entry)));
    assert_eq!(by_key.len(), count, "a key came twice");
    by_key
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..Default::default() })]

    #[test]
    fn agrees_with_a_map_of_std(
        ops in prop::collection::vec(op(term().boxed()), 0..30),
        batches in prop::collection::vec(1..400usize, 0..12),
        cursor in 0..40usize,
    ) {
        let made_before = ledger::created();
        let mut run = Run::default();
        for op in &ops {
            run.step(op);
            run.check();
        }

        // What is behind a cursor, wherever that is from.
        let all = entries(&run.map, 0);
        if let Some((after, _)) = run.map.entries(0).nth(cursor) {
            assert_eq!(entries(&run.map, after), all[cursor + 1..]);
        }

        let mut drained = 0;
        for count in batches {
            let batch = &all[drained..all.len().min(drained + count)];
            let drained_before = run.map.places().0;
            let first = run.map.first(count, u64::MAX);
            assert_eq!((first.len, first.bytes), (batch.len(), bytes(batch)));
            assert_eq!(first.places, place_of_last(&run.map, batch.len()));
            let limit = bytes(batch).saturating_sub(1);
            assert_eq!(run.map.first(count, limit), within(&run.map, batch, limit));
            assert!(first.places > drained_before || batch.is_empty());
            assert_eq!(entries(&run.map, 0)[..batch.len()], *batch);
            let total = run.map.total_bytes();
            run.map.retire(count, &mut run.retired);
            assert!(run.map.total_bytes() <= total);
            drained += batch.len();
            assert_eq!(run.map.len(), all.len() - drained);
            assert_eq!(run.map.bytes(), bytes(&all[drained..]));
        }
        run.map.retire(usize::MAX, &mut run.retired);
        assert_eq!((run.map.len(), run.map.bytes(), run.map.total_bytes()), (0, 0, 0));
        assert_eq!(ledger::alive().len(), ledger::created() - made_before);
        drop(run.retired);
        assert!(ledger::alive().is_empty());
    }

    // Longer, and without a look at each entry. Small terms alone: large ones would be most of what is
    // alive, and leave the rest unnoticed.
    #[test]
    fn dead_terms_stay_within_bounds(
        ops in prop::collection::vec(op(small().boxed()), 0..120),
        batches in prop::collection::vec(1..400usize, 0..12),
    ) {
        let mut run = Run::default();
        for op in &ops {
            run.step(op);
        }
        for count in batches {
            let total = run.map.total_bytes();
            run.map.retire(count, &mut run.retired);
            assert!(run.map.total_bytes() <= total);
            assert!(run.map.total_bytes() > 0 || run.map.is_empty() || weightless(&run.map));
        }
    }
}

fn weightless(map: &Map<Ints>) -> bool {
    entries(map, 0)
        .iter()
        .all(|entry| entry.bytes() == ENTRY_BYTES)
}
