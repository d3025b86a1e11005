//! What a handle on the BEAM refers to.
#![expect(
    clippy::disallowed_methods,
    reason = "`NifUnitEnum` makes its atoms in an `OwnedEnv`; no term but atoms comes out of it"
)]

use std::sync::atomic::AtomicUsize;
use std::sync::Arc;

use buffer_core::sync::Mutex;
use buffer_core::{Buffer, Map, Queue};
use rustler::{Env, LocalPid, NifUnitEnum, Term};

use crate::arena::{Arena, Handle};
use crate::cycle::Cycle;
use crate::{atoms, map, weigh};

/// A queue and its partitions, as this library stores them.
pub type QueueBuffer = Buffer<Queue<Arena>, LocalPid>;
/// A map and its partitions, as this library stores them.
pub type MapBuffer = Buffer<Map<Arena>, LocalPid>;

/// What a buffer keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, NifUnitEnum)]
pub enum Kind {
    /// Entries in order.
    Queue,
    /// The newest entry of each key.
    Map,
}

/// The storage of either kind.
pub enum Storage {
    /// Of a queue.
    Queue(QueueBuffer),
    /// Of a map.
    Map(MapBuffer),
}

impl Storage {
    fn new(kind: Kind, partitions: usize) -> Self {
        match kind {
            Kind::Queue => Storage::Queue(Buffer::new(partitions)),
            Kind::Map => Storage::Map(Buffer::new(partitions)),
        }
    }

    /// Which kind it is.
    pub fn kind(&self) -> Kind {
        match self {
            Storage::Queue(_) => Kind::Queue,
            Storage::Map(_) => Kind::Map,
        }
    }

    /// How many partitions it has.
    pub fn partitions(&self) -> usize {
        match self {
            Storage::Queue(buffer) => buffer.partitions().len(),
            Storage::Map(buffer) => buffer.partitions().len(),
        }
    }

    /// A partition, as the cycle sees it.
    pub fn partition(&self, index: usize) -> Option<&dyn Cycle> {
        match self {
            Storage::Queue(buffer) => buffer.partitions().get(index).map(|p| p as &dyn Cycle),
            Storage::Map(buffer) => buffer.partitions().get(index).map(|p| p as &dyn Cycle),
        }
    }

    /// All partitions, as the cycle sees them.
    pub fn all(&self) -> impl Iterator<Item = &dyn Cycle> {
        (0..self.partitions()).filter_map(|index| self.partition(index))
    }

    /// Closes all partitions; see [`Buffer::close`].
    pub fn close(&self) {
        match self {
            Storage::Queue(buffer) => buffer.close(),
            Storage::Map(buffer) => buffer.close(),
        }
    }
}

/// A buffer and what the BEAM wants to find with it.
pub struct Shared {
    /// The name it is registered under.
    pub name: String,
    /// What it holds.
    pub storage: Storage,
    /// One term of the Elixir side's own: the options in force.
    pub settings: Mutex<Option<Arena>>,
    /// One of them that is needed with every batch: how many entries it may have; 0 for all at once, in
    /// a table. Relaxed: a batch may still have the old size.
    pub batch_size: AtomicUsize,
    /// Of how many keys each partition of a map remembers versions.
    pub version_memory: AtomicUsize,
}

// A panic under one of its locks leaves the lock usable and the structure consistent: every operation
// changes its counters after the step that can fail. rustler catches the panic and raises.
impl std::panic::RefUnwindSafe for Shared {}

impl Shared {
    /// An empty buffer.
    pub fn new(name: String, kind: Kind, partitions: usize) -> Self {
        Self {
            name,
            storage: Storage::new(kind, partitions),
            settings: Mutex::new(None),
            batch_size: AtomicUsize::new(1),
            version_memory: AtomicUsize::new(0),
        }
    }
}

/// Runs once, when the library is loaded.
pub fn load(env: Env<'_>, _info: Term<'_>) -> bool {
    let expected = weigh::immediates_are_as_expected(env) && map::zero_is_as_expected(env);
    if !expected || !Handle::register(env) {
        return false;
    }
    // Makes all atoms, those that serde needs among them.
    let _ = atoms::ok();
    // The reclaimer's thread runs code of this library.
    Handle::pin_library(Arc::new(Shared::new(String::new(), Kind::Queue, 0)));
    true
}
