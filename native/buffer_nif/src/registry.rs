//! Open buffers by name.
//!
//! This is what keeps a buffer, with all it holds, when every process of it is gone: a tree that is
//! started again under the same name finds it here. An entry leaves when its buffer is closed.

use std::sync::Arc;

use dashmap::mapref::entry::Entry;
use dashmap::DashMap;
use once_cell::sync::Lazy;
use rustler::Env;

use crate::map;
use crate::reclaimer::{reclaim, Retired};
use crate::resource::{Kind, Shared, Storage};

static OPEN: Lazy<DashMap<String, Arc<Shared>>> = Lazy::new(DashMap::new);

/// What opening found.
pub enum Opened {
    /// There was none of this name.
    Created(Arc<Shared>),
    /// There was one of this kind, with as many partitions.
    Adopted(Arc<Shared>),
    /// There was another one; it is left as it is.
    Mismatch(Arc<Shared>),
}

/// Finds the open buffer of this name, or makes one.
pub fn open(name: String, kind: Kind, partitions: usize) -> Opened {
    match OPEN.entry(name) {
        Entry::Occupied(entry) => {
            let shared = Arc::clone(entry.get());
            if shared.storage.kind() == kind && shared.storage.partitions() == partitions {
                Opened::Adopted(shared)
            } else {
                Opened::Mismatch(shared)
            }
        }
        Entry::Vacant(entry) => {
            let shared = Arc::new(Shared::new(entry.key().clone(), kind, partitions));
            entry.insert(Arc::clone(&shared));
            Opened::Created(shared)
        }
    }
}

/// Makes a buffer with another number of partitions, at least one, that takes over the name of `old`
/// and all that `old` holds; `old` is closed. Entries of a queue's partition stay in one partition and
/// in order; those of a map go where their keys belong.
pub fn replace(env: Env<'_>, old: &Shared, partitions: usize) -> Arc<Shared> {
    old.storage.close();
    let new = Arc::new(Shared::new(
        old.name.clone(),
        old.storage.kind(),
        partitions,
    ));
    let mut retired = Retired::default();
    match (&old.storage, &new.storage) {
        (Storage::Queue(old), Storage::Queue(new)) => {
            for (index, from) in old.partitions().iter().enumerate() {
                let to = &new.partitions()[index % partitions];
                let (held, legacy) = from.take_all(&mut retired);
                to.inherit(legacy);
                for generation in held {
                    to.write_admitted(|live| live.append(generation));
                }
            }
        }
        (Storage::Map(old), Storage::Map(new)) => {
            let mut live = Vec::new();
            for (index, from) in old.partitions().iter().enumerate() {
                let ([draining, rest], legacy) = from.take_all(&mut retired);
                new.partitions()[index % partitions].inherit(legacy);
                map::scatter(env, draining, new);
                live.push(rest);
            }
            // What was draining stays apart: an entry of it is no older version of a live one.
            for partition in new.partitions() {
                partition.swap();
            }
            for generation in live {
                map::scatter(env, generation, new);
            }
        }
        _ => {}
    }
    reclaim(retired);
    OPEN.insert(new.name.clone(), Arc::clone(&new));
    new
}

/// Forgets a closed buffer.
pub fn forget(shared: &Shared) {
    OPEN.remove_if(&shared.name, |_, open| {
        std::ptr::eq(&raw const **open, shared)
    });
}

/// All open buffers.
pub fn all() -> Vec<Arc<Shared>> {
    OPEN.iter().map(|entry| Arc::clone(entry.value())).collect()
}
