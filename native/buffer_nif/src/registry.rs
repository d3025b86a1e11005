//! Open buffers by name.
//!
//! This is what keeps a buffer, with all it holds, when every process of it is gone: a tree that is
//! started again under the same name finds it here. An entry leaves when its buffer is closed.

use std::sync::Arc;

use buffer_core::Reason;
use dashmap::mapref::entry::Entry;
use dashmap::DashMap;
use once_cell::sync::Lazy;

use crate::reclaimer::Retired;
use crate::resource::Shared;

static OPEN: Lazy<DashMap<String, Arc<Shared>>> = Lazy::new(DashMap::new);

/// What opening found.
pub enum Opened {
    /// There was none of this name.
    Created(Arc<Shared>),
    /// There was one, with as many partitions.
    Adopted(Arc<Shared>),
    /// There was one, with another number of partitions; it is left as it is.
    Mismatch(Arc<Shared>),
}

/// Finds the open buffer of this name, or makes one.
pub fn open(name: String, partitions: usize) -> Opened {
    match OPEN.entry(name) {
        Entry::Occupied(entry) => {
            let shared = Arc::clone(entry.get());
            if shared.buffer.partitions().len() == partitions {
                Opened::Adopted(shared)
            } else {
                Opened::Mismatch(shared)
            }
        }
        Entry::Vacant(entry) => {
            let shared = Arc::new(Shared::new(entry.key().clone(), partitions));
            entry.insert(Arc::clone(&shared));
            Opened::Created(shared)
        }
    }
}

/// Makes a buffer with another number of partitions that takes over the name of `old` and all that
/// `old` holds; `old` is closed. Entries of one partition stay in one partition, and in order.
pub fn replace(old: &Shared, partitions: usize) -> (Arc<Shared>, Retired) {
    old.buffer.close();
    let new = Arc::new(Shared::new(old.name.clone(), partitions));
    let mut retired = Retired::default();
    for (index, from) in old.buffer.partitions().iter().enumerate() {
        from.settle(Reason::Killed, &mut retired);
        let to = &new.buffer.partitions()[index % partitions];
        for generation in from.take_all() {
            to.write_admitted(|live| live.append(generation));
        }
    }
    OPEN.insert(new.name.clone(), Arc::clone(&new));
    (new, retired)
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
