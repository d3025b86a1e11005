//! What a map promises and does not keep yet.
#![cfg(not(loom))]

use std::time::{Duration, Instant};

use buffer_core::map::{Given, ENTRY_BYTES};
use buffer_core::{Arena, Generation, Map, Partition, Retired};

struct Ints(Vec<u64>);

impl Arena for Ints {
    fn new() -> Self {
        Self(Vec::new())
    }

    fn copy_from(&mut self, other: &Self, index: usize) {
        self.0.push(other.0[index]);
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

fn given(value: u64, weight: u32) -> Given<Ints, impl FnOnce(&mut Ints)> {
    match weight {
        0 => Given::Word(value << 2 | 3),
        _ => Given::Copy(weight, move |arena: &mut Ints| arena.0.push(value)),
    }
}

fn put(map: &mut Map<Ints>, key: u64, weight: u32) {
    let found = map.find(key as u32, |_, cell| cell.word() == Some(key << 2 | 3));
    match found {
        Some(slot) => map.replace(slot, given(key, weight), given(key, weight), 0, || 0),
        None => {
            map.insert(key as u32, given(key, 0), given(key, weight), given(0, 0), || 0);
        }
    }
}

fn alive(map: &Map<Ints>) -> u64 {
    map.bytes() - map.len() as u64 * ENTRY_BYTES
}

/// 300,000 small entries, half of whose bytes are dead, are cleaned in turn with the large segments that
/// die meanwhile: 1.2 GB are held for 20 MB that are alive.
#[test]
fn dead_terms_stay_within_bounds_beside_many_small_ones() {
    let mut map = Map::<Ints>::default();
    let small = 300_000;
    for key in 0..small {
        map.insert(key as u32, given(key, 0), given(key, 8), given(key, 8), || 0);
    }
    for key in 0..small {
        let slot = map.find(key as u32, |_, cell| cell.word() == Some(key << 2 | 3));
        map.update(slot.expect("it was inserted"), given(key, 0), || 0);
    }
    let mut worst = 0.0f64;
    for write in 0..75_000 {
        // A hot key, and now and then another one whose value stays.
        let key = if write % 32 == 0 { small + 1 + write } else { small };
        put(&mut map, key, 8_000);
        map.take_retired();
        worst = worst.max(map.total_bytes() as f64 / alive(&map) as f64);
    }
    assert!(worst < 4.0, "{worst} times what is alive");
}

fn longest(partition: &Partition<Map<Ints>, u8>, limit: usize) -> Duration {
    let (mut longest, mut retired) = (Duration::ZERO, Retired::default());
    partition.swap();
    loop {
        let start = Instant::now();
        let next = partition.next(
            1,
            limit,
            || 0,
            &mut retired,
            |map, batch| map.entries(0).take(batch.len).count(),
        );
        longest = longest.max(start.elapsed());
        if next == Ok(None) {
            return longest;
        }
    }
}

/// A batch of one walks over five million free slots.
#[test]
fn a_batch_of_a_map_that_was_emptied_is_found_quickly() {
    let partition = Partition::<Map<Ints>, u8>::default();
    partition.write_admitted(|map| {
        (0..5_000_000).for_each(|key| put(map, key, 16));
        for key in 0..4_999_999u64 {
            let slot = map.find(key as u32, |_, cell| cell.word() == Some(key << 2 | 3));
            map.remove(slot.expect("it was inserted"), || 0);
            map.take_retired();
        }
    });
    let longest = longest(&partition, 1);
    assert!(longest < Duration::from_millis(1), "{longest:?}");
}

/// The call that finds nothing left drops the tables and the slots of the map, under the drain lock.
#[test]
fn the_end_of_a_large_drain_is_short() {
    let partition = Partition::<Map<Ints>, u8>::default();
    partition.write_admitted(|map| (0..5_000_000).for_each(|key| put(map, key, 16)));
    let longest = longest(&partition, 1_000);
    assert!(longest < Duration::from_millis(1), "{longest:?}");
}
