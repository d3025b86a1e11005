//! From the partitions of one map to those of another, which takes its place.
//!
//! Each key goes where it belongs by itself: what `:partition_key` an entry was written with is not known.

use std::sync::atomic::Ordering;

use buffer_core::{Generation as _, Map};
use rustler::{Env, Term};

use super::versions::{self, Record};
use super::{term, Key, Space, Taken};
use crate::arena::Arena;
use crate::clock;
use crate::reclaimer::{reclaim, Retired};
use crate::resource::{MapBuffer, Shared};
use crate::weigh::Scale;
use crate::write::{Refused, Todo};

/// Moves all that a closed map holds and remembers to a new one, on whose partitions nobody works yet. All
/// terms go through `env`, whose process should end soon after.
pub fn move_all(
    env: Env<'_>,
    old: (&Shared, &MapBuffer),
    new: (&Shared, &MapBuffer),
    todo: &mut Todo,
) {
    let count = old.0.version_memory.load(Ordering::Relaxed);
    new.0.version_memory.store(count, Ordering::Relaxed);
    let (old, new) = (old.1, new.1);
    for partition in new.partitions() {
        partition.amend(|map| map.remember_versions(count, clock::now));
    }
    for partition in old.partitions() {
        let versions: Vec<_> = partition.amend(|map| {
            let terms = |(map, key, version)| (term(env, map, key), term(env, map, version));
            map.versions().map(terms).collect()
        });
        for (key, version) in versions {
            move_version(key, version, new);
        }
    }
    versions::forget(old);
    let mut live = Vec::new();
    for (index, from) in old.partitions().iter().enumerate() {
        let ([draining, rest], legacy) = from.take_all(todo);
        new.partitions()[index % new.partitions().len()].inherit(legacy);
        move_entries(env, draining, new);
        live.push(rest);
    }
    // What was draining stays apart: an entry of it is no older version of a live one.
    for partition in new.partitions() {
        partition.swap(None, clock::now);
        partition.amend(Map::settle_versions);
    }
    for generation in live {
        move_entries(env, generation, new);
    }
}

fn move_version<'a>(key: Term<'a>, version: Term<'a>, to: &MapBuffer) {
    let (env, mut scale) = (key.get_env(), Scale::generous());
    let (key_bytes, version_bytes) = (&mut Space::default(), &mut Space::default());
    let key = Key::new(key, &env, &mut scale, key_bytes);
    let version = Taken::new(version, &env, &mut scale, version_bytes);
    let (Ok(key), Ok(version)) = (key, version) else {
        return;
    };
    let Ok(partition) = key.partition(to, None) else {
        return;
    };
    let record = Record::new(key.taken.given(), version.given());
    partition.amend(|map| versions::record(map, &key, version.term(), Some(record)));
}

/// Moves all entries of a generation. What is there already is older and is replaced.
fn move_entries(env: Env<'_>, mut generation: Map<Arena>, to: &MapBuffer) {
    for (_, entry) in generation.entries(0) {
        let [key, value, version] =
            [entry.key, entry.value, entry.version].map(|cell| term(env, &generation, cell));
        // They were weighed when they were written.
        let _ = move_entry(key, value, version, entry.updates, to);
    }
    let mut retired = Retired::default();
    generation.retire(usize::MAX, &mut retired);
    reclaim(retired);
}

fn move_entry<'a>(
    key: Term<'a>,
    value: Term<'a>,
    version: Term<'a>,
    updates: u64,
    to: &MapBuffer,
) -> Result<(), Refused> {
    let (env, mut scale) = (key.get_env(), Scale::generous());
    let [key_bytes, value_bytes, version_bytes] = &mut <[Space; 3]>::default();
    let key = Key::new(key, &env, &mut scale, key_bytes)?;
    let value = Taken::new(value, &env, &mut scale, value_bytes)?;
    let version = Taken::new(version, &env, &mut scale, version_bytes)?;
    let partition = key.partition(to, None)?;
    let (key_given, value, version_given) = (key.taken.given(), value.given(), version.given());
    let record = Record::new(key.taken.given(), version.given());
    let retired = partition.amend(|map| {
        versions::record(map, &key, version.term(), Some(record));
        match key.find(map) {
            Some(slot) => map.replace(slot, value, version_given, updates, clock::now),
            None => {
                let slot = map.insert(key.hash, key_given, value, version_given, clock::now);
                map.set_updates(slot, updates);
            }
        }
        map.take_retired()
    });
    reclaim(retired.unwrap_or_default());
    Ok(())
}
