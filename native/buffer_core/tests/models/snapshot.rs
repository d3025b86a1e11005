//! Writers of a map against a reader of a snapshot and a swap.
//!
//! In every interleaving (see `model.rs` for the bound):
//!
//! 1. A snapshot shows each entry once, as all of them were at one moment: what one writer does in order is
//!    seen up to some step, and none of the later ones, whatever is overwritten, removed or inserted between
//!    two visits, be it small or in a segment of its own.
//! 2. The same holds for two readers beside each other.
//! 3. A reader whose entries are swapped out begins again, as `to_list/1` does, and shows what is live then.
//! 4. A reader of a partition that is closed is told so, or has seen all.
//! 5. What is drained in the end is what it would be without readers, and the account holds.

use std::collections::BTreeMap;

use crate::model::{check, Ints};
use buffer_core::map::{Given, Seen, Source, Visited, LARGE};
use buffer_core::{After, Arena, Batch, Closed, Map, Next, Partition, Wanted};
use loom::sync::Arc;
use loom::thread;

type Part = Partition<Map<Ints>, u8>;
type Entries = BTreeMap<u8, u8>;

/// A value that is written over the one before it where nobody has to see that. One that is odd is packed.
struct Value(u8);

impl Source<Ints> for Value {
    fn packed(&self) -> Option<&[u8]> {
        (self.0 % 2 == 1).then_some(std::slice::from_ref(&self.0))
    }

    fn store(self, arena: &mut Ints) {
        arena.put(self.0);
    }

    fn overwrite(&self, arena: &mut Ints, index: usize) -> bool {
        arena.overwrite(index, self.0);
        true
    }
}

/// Values from 100 on have a segment of their own.
fn given(value: u8) -> Given<Ints, Value> {
    if value < 100 {
        return Given::Copy(16, Value(value));
    }
    let mut arena = Ints::new();
    arena.put(value);
    Given::Staged(LARGE + 1, Box::new(arena))
}

fn word(key: u8) -> u64 {
    u64::from(key) << 4 | 0b1111
}

fn in_word(key: u8) -> Given<Ints, Value> {
    Given::Word(word(key))
}

fn find(map: &Map<Ints>, key: u8) -> Option<usize> {
    map.find(key.into(), |_, cell| cell.word() == Some(word(key)))
}

fn put(part: &Part, key: u8, value: u8) -> Result<(), Closed> {
    let written = part.write(&mut After::default(), |map, _| match find(map, key) {
        Some(slot) => map.replace(slot, given(value), in_word(0), 0, || 0),
        None => {
            map.insert(key.into(), in_word(key), given(value), in_word(0), || 0);
        }
    });
    written.map(|_| ())
}

fn remove(part: &Part, key: u8) {
    let written = part.write(&mut After::default(), |map, _| {
        if let Some(slot) = find(map, key) {
            map.remove(slot, || 0);
        }
    });
    assert!(written.is_ok());
}

fn with(entries: &[(u8, u8)]) -> Arc<Part> {
    let part = Arc::new(Part::default());
    for (key, value) in entries {
        assert!(put(&part, *key, *value).is_ok());
    }
    part
}

fn value(seen: Seen<'_, Ints>) -> u8 {
    match seen {
        Seen::Word(word) => (word >> 4) as u8,
        Seen::Stored(arena, index) => arena.value(index),
        Seen::Packed(bytes, _) => bytes[0],
    }
}

/// All entries as they were at one moment, one at a time; from the beginning again when they are swapped out.
fn read(part: &Part, id: u64) -> Result<Entries, Closed> {
    let begin = |map: &mut Map<Ints>| map.begin_snapshot(id);
    let mut shown = Entries::new();
    part.in_turn(begin)?;
    loop {
        let visited = part.in_turn(|map| {
            map.visit(id, 1, u64::MAX, |key, seen| {
                let twice = shown.insert(value(key), value(seen));
                assert_eq!(twice, None, "an entry was shown twice");
            })
        })?;
        match visited {
            Visited::Some => {}
            Visited::All => return Ok(shown),
            Visited::Gone => {
                shown.clear();
                part.in_turn(begin)?;
            }
        }
    }
}

fn swap_and_drain(part: &Part) -> Vec<(u8, u8)> {
    part.swap(None, || 0);
    let take = |map: &Map<Ints>, batch: &Batch| {
        let entries = map.entries(0).take(batch.len);
        let value = |cell| match (map.packed(cell), map.stored(cell)) {
            (Some(bytes), _) => bytes[0],
            (None, Some((arena, index))) => arena.value(index),
            (None, None) => unreachable!("values are in no words"),
        };
        let row = |(_, entry): (usize, buffer_core::map::Entry)| {
            let key = entry.key.word().expect("keys are in their words");
            ((key >> 4) as u8, value(entry.value))
        };
        entries.map(row).collect::<Vec<_>>()
    };
    let mut all = Vec::new();
    loop {
        let after = &mut After::default();
        match part.next(1, Wanted::entries(1), || 0, &|_, _| None, after, take) {
            Ok(Next::Batch(rows)) => all.extend(rows),
            _ => return all,
        }
    }
}

fn assert_account(part: &Part) {
    let stats = part.stats();
    let left = stats.processed + stats.superseded + stats.deleted;
    let held = (stats.queued + stats.in_flight) as u64;
    assert_eq!(stats.accepted, left + held, "{stats:?}");
}

fn entries(entries: &[(u8, u8)]) -> Entries {
    entries.iter().copied().collect()
}

#[test]
fn overwritten_entries_are_shown_as_they_were_at_one_moment() {
    check(|| {
        let part = with(&[(1, 10), (2, 120)]);
        let writer = {
            let part = Arc::clone(&part);
            thread::spawn(move || {
                for (key, value) in [(2, 121), (1, 11), (2, 22)] {
                    assert!(put(&part, key, value).is_ok());
                }
            })
        };
        let shown = read(&part, 1).expect("it is open");
        let moments = [[10, 120], [10, 121], [11, 121], [11, 22]];
        let shown: Vec<u8> = shown.into_values().collect();
        assert!(moments.iter().any(|moment| shown == moment), "{shown:?}");
        writer.join().unwrap();
        assert_eq!(swap_and_drain(&part), [(1, 11), (2, 22)]);
        assert_account(&part);
    });
}

#[test]
fn removed_and_new_entries_are_shown_as_they_were_at_one_moment() {
    check(|| {
        let part = with(&[(1, 10), (2, 120)]);
        let writer = {
            let part = Arc::clone(&part);
            thread::spawn(move || {
                remove(&part, 2);
                assert!(put(&part, 3, 30).is_ok());
                remove(&part, 1);
            })
        };
        let shown = read(&part, 1).expect("it is open");
        let moments: [&[(u8, u8)]; 4] = [
            &[(1, 10), (2, 120)],
            &[(1, 10)],
            &[(1, 10), (3, 30)],
            &[(3, 30)],
        ];
        assert!(moments.map(entries).contains(&shown), "{shown:?}");
        writer.join().unwrap();
        assert_eq!(swap_and_drain(&part), [(3, 30)]);
        assert_account(&part);
    });
}

#[test]
fn two_readers_do_not_get_in_each_others_way() {
    check(|| {
        let part = with(&[(1, 10), (2, 120)]);
        let other = {
            let part = Arc::clone(&part);
            thread::spawn(move || read(&part, 2).expect("it is open"))
        };
        let writer = {
            let part = Arc::clone(&part);
            thread::spawn(move || {
                remove(&part, 2);
                assert!(put(&part, 1, 11).is_ok());
            })
        };
        let moments: [&[(u8, u8)]; 3] = [&[(1, 10), (2, 120)], &[(1, 10)], &[(1, 11)]];
        let moments = moments.map(entries);
        let shown = read(&part, 1).expect("it is open");
        let other = other.join().unwrap();
        assert!(moments.contains(&shown), "{shown:?}");
        assert!(moments.contains(&other), "{other:?}");
        writer.join().unwrap();
        assert_eq!(swap_and_drain(&part), [(1, 11)]);
        assert_account(&part);
    });
}

#[test]
fn a_reader_whose_entries_are_swapped_out_begins_again() {
    check(|| {
        let part = with(&[(1, 10), (2, 120)]);
        let writer = {
            let part = Arc::clone(&part);
            thread::spawn(move || {
                assert!(put(&part, 2, 121).is_ok());
                assert!(put(&part, 3, 30).is_ok());
            })
        };
        let drainer = {
            let part = Arc::clone(&part);
            thread::spawn(move || swap_and_drain(&part))
        };
        let shown = read(&part, 1).expect("it is open");
        writer.join().unwrap();
        let drained = drainer.join().unwrap();
        // Either before the swap or after it, and what the swap took is not shown beside what came later.
        let before: [&[(u8, u8)]; 3] = [
            &[(1, 10), (2, 120)],
            &[(1, 10), (2, 121)],
            &[(1, 10), (2, 121), (3, 30)],
        ];
        let after: [&[(u8, u8)]; 4] = [&[], &[(2, 121)], &[(2, 121), (3, 30)], &[(3, 30)]];
        let moments = before.into_iter().chain(after).map(entries);
        assert!(moments.into_iter().any(|one| one == shown), "{shown:?}");
        let rest = swap_and_drain(&part);
        let all: Vec<_> = drained.into_iter().chain(rest).collect();
        let ends: [&[(u8, u8)]; 2] = [
            &[(1, 10), (2, 121), (3, 30)],
            &[(1, 10), (2, 120), (2, 121), (3, 30)],
        ];
        assert!(ends.iter().any(|end| all == *end), "{all:?}");
        assert_account(&part);
    });
}

#[test]
fn a_reader_of_a_partition_that_is_closed_is_told_or_has_seen_all() {
    check(|| {
        let part = with(&[(1, 10), (2, 120)]);
        let closer = {
            let part = Arc::clone(&part);
            thread::spawn(move || {
                let written = put(&part, 1, 11);
                part.close();
                written
            })
        };
        let writer = {
            let part = Arc::clone(&part);
            thread::spawn(move || put(&part, 2, 121).is_ok())
        };
        let shown = read(&part, 1);
        assert!(closer.join().unwrap().is_ok());
        let second = if writer.join().unwrap() { 121 } else { 120 };
        if let Ok(shown) = shown {
            assert!(
                shown.len() == 2 && [10, 11].contains(&shown[&1]),
                "{shown:?}"
            );
        }
        assert_eq!(swap_and_drain(&part), [(1, 11), (2, second)]);
        assert_account(&part);
    });
}
