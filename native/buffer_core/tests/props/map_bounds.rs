//! What a map promises for the worst case: of memory, and of the time that a call holds its lock.
//!
//! Times are the least of a few equal runs, call by call: other work on the machine must not count.

use buffer_core::map::{Given, ENTRY_BYTES, LARGE, SLACK};
use buffer_core::{Arena, Generation, Map};

struct Ints(Vec<u64>);

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

fn given(value: u64, weight: u32) -> Given<Ints, impl FnOnce(&mut Ints)> {
    match weight {
        0 => Given::Word(value << 2 | 3),
        LARGE.. => Given::Staged(weight, Box::new(Ints(vec![value]))),
        _ => Given::Copy(weight, move |arena: &mut Ints| arena.0.push(value)),
    }
}

fn put(map: &mut Map<Ints>, key: u64, weight: u32) {
    let found = map.find(key as u32, |_, cell| cell.word() == Some(key << 2 | 3));
    match found {
        Some(slot) => map.replace(slot, given(key, weight), given(key, weight), 0, || 0),
        None => {
            map.insert(
                key as u32,
                given(key, 0),
                given(key, weight),
                given(0, 0),
                || 0,
            );
        }
    }
}

fn alive(map: &Map<Ints>) -> u64 {
    map.bytes() - map.len() as u64 * ENTRY_BYTES
}

fn remove(map: &mut Map<Ints>, key: u64) {
    let found = map.find(key as u32, |_, cell| cell.word() == Some(key << 2 | 3));
    map.remove(found.expect("it was inserted"), || 0);
}

/// To be looked at after each write.
fn check(map: &mut Map<Ints>) {
    map.take_retired();
    let (total, alive) = (map.total_bytes(), alive(map));
    assert!(
        total <= 2 * alive + SLACK,
        "{total} bytes for {alive} alive"
    );
}

/// 300,000 small entries of whose bytes half are dead are in the way of the large ones that die.
#[test]
fn dead_terms_stay_within_bounds_beside_many_small_ones() {
    let mut map = Map::<Ints>::default();
    let small = 300_000;
    for key in 0..small {
        map.insert(
            key as u32,
            given(key, 0),
            given(key, 8),
            given(key, 8),
            || 0,
        );
    }
    for key in 0..small {
        let slot = map.find(key as u32, |_, cell| cell.word() == Some(key << 2 | 3));
        map.update(slot.expect("it was inserted"), given(key, 0), || 0);
    }
    for write in 0..20_000 {
        // A hot key, and now and then another one whose value stays.
        let key = if write % 32 == 0 {
            small + 1 + write
        } else {
            small
        };
        put(&mut map, key, 8_000);
        check(&mut map);
    }
}

/// What is small and stays comes in between what is large and is overwritten.
#[test]
fn dead_terms_stay_within_bounds_among_small_ones_that_stay() {
    let mut map = Map::<Ints>::default();
    for key in 1..40_000 {
        put(&mut map, 0, 8_000);
        check(&mut map);
        put(&mut map, key, 16);
        check(&mut map);
    }
}

/// What is large dies, and for each of it there are many small ones that do not.
#[test]
fn dead_terms_stay_within_bounds_when_large_ones_among_small_ones_die() {
    let mut map = Map::<Ints>::default();
    let key_of = |large: u64| large * 256;
    for large in 0..1_000 {
        put(&mut map, key_of(large), 8_000);
        (1..256).for_each(|small| put(&mut map, key_of(large) + small, 16));
    }
    for large in 0..1_000 {
        remove(&mut map, key_of(large));
        check(&mut map);
    }
}

/// As much is dead of what is small as is alive of what is large, and then that dies.
#[test]
fn dead_terms_stay_within_bounds_when_what_was_alive_beside_them_dies() {
    for weight in [8_000, 1_000_000] {
        let mut map = Map::<Ints>::default();
        let large = 10_000_000 / u64::from(weight);
        (0..large).for_each(|key| put(&mut map, key, weight));
        let small = large..large + 200_000;
        small.clone().for_each(|key| put(&mut map, key, 64));
        for key in small.filter(|key| key % 256 != 0) {
            remove(&mut map, key);
            check(&mut map);
        }
        for key in 0..large {
            remove(&mut map, key);
            check(&mut map);
        }
    }
}
