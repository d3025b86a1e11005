//! Open buffers by name.
//!
//! This is what keeps a buffer, with all it holds, when every process of it is gone: a tree that is
//! started again under the same name finds it here. An entry leaves when its buffer is closed.

use std::sync::Arc;

use buffer_core::Reason;
use dashmap::mapref::entry::Entry;
use dashmap::DashMap;
use once_cell::sync::Lazy;
use rustler::Env;

use crate::map::scatter;
use crate::resource::{Kind, Shared, Storage};
use crate::server;
use crate::write::{finish, Todo};
use crate::{atoms, data_buffer};

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
            let shared = Shared::new(entry.key().clone(), kind, partitions);
            entry.insert(Arc::clone(&shared));
            Opened::Created(shared)
        }
    }
}

/// Makes a buffer with another number of partitions, at least one, that takes over the name of `old`
/// and all that `old` holds; `old` is closed. Entries of a queue's partition stay in one partition and
/// in order; those of a map go where their keys belong.
pub fn replace(env: Env<'_>, old: &Shared, partitions: usize) -> Arc<Shared> {
    close(env, old);
    let new = Shared::new(old.name.clone(), old.storage.kind(), partitions);
    // A batch in flight will be tried again, if it may be: nobody has it any more.
    for partition in old.storage.all() {
        let _ = partition.settle(env, old, Reason::Killed, old.policy());
    }
    let mut todo = Todo::default();
    match (&old.storage, &new.storage) {
        (Storage::Queue(from), Storage::Queue(to)) => {
            for (index, from) in from.partitions().iter().enumerate() {
                let to = &to.partitions()[index % partitions];
                let (held, legacy) = from.take_all(&mut todo);
                to.inherit(legacy);
                for generation in held {
                    to.amend(|live| live.append(generation));
                }
            }
        }
        (Storage::Map(from), Storage::Map(to)) => {
            scatter::move_all(env, (old, from), (&new, to), &mut todo);
        }
        _ => {}
    }
    finish(env, old, todo, None);
    OPEN.insert(new.name.clone(), Arc::clone(&new));
    new
}

/// Closes a buffer: nobody is served any more, and those who wait for room are told.
pub fn close(env: Env<'_>, shared: &Shared) {
    shared.storage.close();
    let waited = shared.waiters.close(shared.storage.capacity());
    server::dismiss(env, &waited, atoms::closed());
    data_buffer::dismiss(env, shared);
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
