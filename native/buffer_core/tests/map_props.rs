//! A `Map` against a `BTreeMap` that holds the same entries, with hashes that collide.
//!
//! Properties, checked after every write:
//!
//! 1. `find` finds each key's slot and no other key's; key, value, version and count of updates are
//!    those of the model, however often they were overwritten, and moved for it.
//! 2. `entries` has each entry once; from any cursor on, it has those behind it.
//! 3. `len`, `bytes`, `bytes_of` and `oldest` are those of the entries held. What was accepted is what was
//!    superseded, deleted, or is held.
//! 4. `total_bytes` is what the arenas hold that are in use, and stays within twice what is alive and a
//!    constant, if nothing but small terms is written.
//! 5. A drain hands every entry out once. The weight of a batch is known before.
//! 6. Every arena that was made is in use or is handed over, once; dropped with that, none is left.
#![cfg(not(loom))]

#[path = "support/ledger.rs"]
#[allow(dead_code, reason = "shared: this file needs a part of it")]
mod ledger;

use std::cell::Cell as Counter;
use std::collections::BTreeMap;

use buffer_core::map::{Cell, Entry, Given, ENTRY_BYTES, LARGE};
use buffer_core::{Generation, Map, Partition, Reason, Retired, Segment};
use ledger::Ints;
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

fn op(term: impl Strategy<Value = Term> + Clone) -> impl Strategy<Value = Op> {
    let several = prop_oneof![4 => 1..50usize, 1 => 100..800usize];
    prop_oneof![
        6 => (key(), term.clone(), term.clone()).prop_map(|(key, value, version)| Op::Put(key, value, version)),
        2 => (key(), term.clone(), several.clone()).prop_map(|(key, value, n)| Op::Again(key, value, n)),
        2 => (key(), several.clone(), term.clone()).prop_map(|(key, n, value)| Op::PutMany(key, n, value)),
        3 => (key(), term).prop_map(|(key, value)| Op::Update(key, value)),
        1 => (key(), 0..9u64).prop_map(|(key, updates)| Op::SetUpdates(key, updates)),
        1 => Just(Op::PassOver),
        3 => key().prop_map(Op::Remove),
        2 => (key(), several).prop_map(|(key, n)| Op::RemoveMany(key, n)),
        2 => Just(Op::TakeRetired),
    ]
}

/// A third of the keys is in a word, the others are stored. Every fifth is as large as one can be that
/// may be moved.
fn key_term(key: u64) -> Term {
    let weight = match key % 15 {
        0 | 3 | 6 | 9 | 12 => 0,
        5 => LARGE,
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

fn given(term: Term) -> Given<Ints, impl FnOnce(&mut Ints)> {
    let Term { value, weight } = term;
    if weight == 0 {
        Given::Word(word(value))
    } else if weight > LARGE {
        let mut arena: Ints = buffer_core::Arena::new();
        arena.store(value);
        Given::Staged(weight, arena)
    } else {
        Given::Copy(weight, move |arena: &mut Ints| arena.store(value))
    }
}

fn read(map: &Map<Ints>, cell: Cell) -> Term {
    let value = match (cell.word(), map.stored(cell)) {
        (Some(word), None) => word >> 2,
        (None, Some((arena, index))) => arena.load(index..index + 1)[0],
        other => panic!("neither a word nor a term: {:?}", other.0),
    };
    let weight = map.weight(cell);
    Term { value, weight }
}

fn held(map: &Map<Ints>, entry: &Entry) -> Held {
    Held {
        key: read(map, entry.key),
        value: read(map, entry.value),
        version: read(map, entry.version),
        updates: entry.updates,
    }
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

/// What is to be said of the memory of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Memory {
    Bounded,
    Any,
}

#[derive(Default)]
struct Run {
    map: Map<Ints>,
    model: BTreeMap<u64, Held>,
    retired: Retired<Ints>,
    accepted: u64,
    superseded: u64,
    deleted: u64,
    clock: Counter<i64>,
}

impl Run {
    fn find(&self, key: u64) -> Option<usize> {
        let found = self
            .map
            .find(hash(key), |map, cell| read(map, cell).value == key);
        assert_eq!(found.is_some(), self.model.contains_key(&key));
        found
    }

    fn put(&mut self, key: u64, value: Term, version: Term) {
        let updates = 0;
        let (found, clock) = (self.find(key), self.clock.clone());
        let now = || {
            clock.set(clock.get() + 1);
            clock.get()
        };
        match found {
            Some(slot) => {
                self.map
                    .replace(slot, given(value), given(version), updates, now);
                self.superseded += 1;
            }
            None => {
                let key = given(key_term(key));
                let hash = hash(self.model_key(&key));
                self.map
                    .insert(hash, key, given(value), given(version), now);
            }
        }
        self.accepted += 1;
        let key_held = key_term(key);
        let entry = Held {
            key: key_held,
            value,
            version,
            updates,
        };
        self.model.insert(key, entry);
    }
}
