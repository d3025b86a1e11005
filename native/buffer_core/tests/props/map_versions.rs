//! What a `Map` remembers of versions that were handed over, against plain collections.
//!
//! Properties:
//!
//! 1. A version is accepted if and only if it is higher than the one in the map and than the highest one that
//!    was handed over, as far as that is remembered: of the keys that were handed over last.
//! 2. What was removed, or put without a version, before it was swapped out, has not been handed over.
//! 3. With a limit of 0 nothing is remembered; a lower limit forgets the oldest keys.
//! 4. Memory stays within the bounds of a map of as many keys, and all of it is handed over at the end.

use std::collections::BTreeMap;

use crate::ledger::{self, Ints, Value};
use buffer_core::map::{Cell, Given};
use buffer_core::{Generation, Map, Retired};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Op {
    PutNewer(u64, u64),
    PutNewerMany(u64, u64, u64),
    Put(u64),
    Remove(u64),
    Swap,
    Limit(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let key = || prop_oneof![3 => 0..12u64, 1 => 0..300u64];
    prop_oneof![
        12 => (key(), 1..60u64).prop_map(|(key, version)| Op::PutNewer(key, version)),
        2 => (key(), 1..200u64, 1..60u64).prop_map(|(key, n, version)| Op::PutNewerMany(key, n, version)),
        2 => key().prop_map(Op::Put),
        3 => key().prop_map(Op::Remove),
        3 => Just(Op::Swap),
        1 => prop_oneof![0..6usize, 50..250usize].prop_map(Op::Limit),
    ]
}

/// Keys and versions in words, packed, and in segments.
fn given(value: u64) -> Given<Ints, Value> {
    match value % 3 {
        0 => Given::Word(value << 2 | 0b11),
        1 => Given::Copy(24, Value::packed(value, 9 + value as usize % 20)),
        _ => Given::Copy(24, Value::plain(value)),
    }
}

fn read(map: &Map<Ints>, cell: Cell) -> u64 {
    match (map.stored(cell), map.packed(cell)) {
        (Some((arena, index)), _) => arena.load(index..index + 1)[0],
        (None, Some(bytes)) => Value::of_bytes(bytes),
        (None, None) => cell.word().unwrap_or_default() >> 2,
    }
}

fn find(map: &Map<Ints>, key: u64) -> Option<usize> {
    map.find(key as u32 % 31, |map, cell| read(map, cell) == key)
}

/// A key that was written with a version: the highest one that was handed over.
type Known = (u64, Option<u64>);

#[derive(Default)]
struct Run {
    map: Map<Ints>,
    // What was swapped out last, and has been drained.
    former: Map<Ints>,
    retired: Retired<Ints>,
    live: BTreeMap<u64, u64>,
    // The key that was recorded last is the last one. Those whose version in the map will be handed over
    // with it, and the others.
    latent: Vec<Known>,
    known: Vec<Known>,
    limit: usize,
}

fn take(known: &mut Vec<Known>, key: u64) -> Option<Known> {
    let place = known.iter().position(|(other, _)| *other == key)?;
    Some(known.remove(place))
}

impl Run {
    fn handed_over(&self, key: u64) -> Option<u64> {
        let mut known = self.latent.iter().chain(&self.known);
        known.find(|(other, _)| *other == key)?.1
    }

    /// As the NIFs do it.
    fn put_newer(&mut self, key: u64, version: u64) -> bool {
        let map = &mut self.map;
        let found = find(map, key);
        let is_newer = |map: &Map<Ints>, cell| version > read(map, cell);
        if found.is_some_and(|slot| !is_newer(map, map.entry(slot).version)) {
            return false;
        }
        let hash = key as u32 % 31;
        let record = (given(key), given(version));
        if !map.record_version(
            hash,
            |records| find(records, key),
            is_newer,
            record.0,
            record.1,
            || 0,
        ) {
            return false;
        }
        match found {
            Some(slot) => map.replace(slot, given(version), given(version), 1, || 0),
            None => {
                map.insert(hash, given(key), given(version), given(version), || 0);
            }
        }
        true
    }

    fn put(&mut self, key: u64) {
        let map = &mut self.map;
        match find(map, key) {
            Some(slot) => {
                map.withdraw_version(|records| find(records, key), || 0);
                map.replace(slot, given(0), given(0), 0, || 0);
            }
            None => {
                map.insert(key as u32 % 31, given(key), given(0), given(0), || 0);
            }
        }
    }

    fn model_put_newer(&mut self, key: u64, version: u64) -> bool {
        let live = self.live.get(&key);
        if live.is_some_and(|live| version <= *live) {
            return false;
        }
        if self.limit > 0 {
            self.forget(2);
        }
        let handed_over = self.handed_over(key);
        if handed_over.is_some_and(|handed_over| version <= handed_over) {
            return false;
        }
        self.live.insert(key, version);
        if self.limit > 0 {
            take(&mut self.known, key);
            take(&mut self.latent, key);
            self.latent.push((key, handed_over));
            let too_many = self.latent.len().saturating_sub(self.limit);
            self.latent.drain(..too_many);
        }
        true
    }

    fn withdraw(&mut self, key: u64) {
        if let Some(known @ (_, Some(_))) = take(&mut self.latent, key) {
            self.known.push(known);
        }
    }

    fn forget(&mut self, count: usize) {
        let too_many = self.latent.len().saturating_sub(self.limit);
        self.latent.drain(..too_many);
        let too_many = self.known.len().saturating_sub(self.limit);
        self.known.drain(..too_many.min(count));
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::PutNewer(key, version) => {
                assert_eq!(
                    self.put_newer(key, version),
                    self.model_put_newer(key, version)
                );
            }
            Op::PutNewerMany(key, count, version) => {
                (key..key + count).for_each(|key| self.step(&Op::PutNewer(key, version)));
            }
            Op::Put(key) => {
                self.put(key);
                if self.live.insert(key, 0).is_some() {
                    self.withdraw(key);
                }
            }
            Op::Remove(key) => {
                if let Some(slot) = find(&self.map, key) {
                    self.map
                        .withdraw_version(|records| find(records, key), || 0);
                    self.map.remove(slot, || 0);
                    self.live.remove(&key);
                    self.withdraw(key);
                }
            }
            Op::Swap => {
                self.map.move_to(&mut self.former);
                assert!(!self.former.remembers_versions());
                self.former.retire(usize::MAX, &mut self.retired);
                let live = std::mem::take(&mut self.live);
                for (key, _) in std::mem::take(&mut self.latent) {
                    self.known.push((key, live.get(&key).copied()));
                }
            }
            Op::Limit(limit) => {
                while !self.map.remember_versions(limit, || 0) {}
                self.limit = limit;
                self.forget(usize::MAX);
                assert_eq!(self.map.remembers_versions(), limit > 0);
            }
        }
    }

    fn check(&self) {
        let versions = self.map.versions();
        let versions: Vec<_> = versions
            .map(|(map, key, version)| (read(map, key), read(map, version)))
            .collect();
        let known = self.known.iter().chain(&self.latent);
        let known: Vec<_> = known
            .filter_map(|(key, version)| Some((*key, (*version)?)))
            .collect();
        assert_eq!(versions, known);
        assert!(self.known.len() + self.latent.len() <= 2 * self.limit);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..Default::default() })]

    #[test]
    fn older_versions_are_known(
        limit in prop_oneof![0..6usize, 50..250usize],
        ops in prop::collection::vec(op(), 0..80),
    ) {
        let mut run = Run::default();
        run.step(&Op::Limit(limit));
        for op in &ops {
            run.step(op);
            run.check();
            if let Some(mut retired) = run.map.take_retired() {
                run.retired.append(&mut retired);
            }
        }
        run.step(&Op::Limit(0));
        run.map.retire(usize::MAX, &mut run.retired);
        drop(run.retired);
        assert!(ledger::alive().is_empty());
    }
}

#[test]
fn memory_stays_within_bounds() {
    let mut run = Run::default();
    run.step(&Op::Limit(1_000));
    for version in 1..200_000u64 {
        assert!(run.put_newer(version % 3_000, version));
        if version.is_multiple_of(500) {
            run.map.move_to(&mut run.former);
            run.former.retire(usize::MAX, &mut run.retired);
            run.retired = Retired::default();
        }
        run.map.take_retired();
    }
    // At most three terms for each of two thousand keys, as many that are dead, and the slack.
    let arenas = ledger::alive();
    let stored: usize = arenas.iter().map(|page| page.len).sum();
    assert!(
        stored < 2 * 3 * 2_000 + 20_000,
        "{stored} terms in {} arenas",
        arenas.len()
    );
}
