//! What a handle on the BEAM refers to.

use std::sync::Arc;

use buffer_core::sync::Mutex;
use buffer_core::{Arena as _, Buffer, Queue};
use rustler::{Env, LocalPid, Term};

use crate::arena::{Arena, Handle};
use crate::{atoms, weigh};

/// A partition as this library stores it.
pub type Partition = buffer_core::Partition<Queue<Arena>, LocalPid>;

/// A buffer and what the BEAM wants to find with it.
pub struct Shared {
    /// The name it is registered under.
    pub name: String,
    /// The storage.
    pub buffer: Buffer<Queue<Arena>, LocalPid>,
    /// One term of the Elixir side's own: the options in force.
    pub settings: Mutex<Arena>,
}

// A panic under one of its locks leaves the lock usable and the structure consistent: every operation
// changes its counters after the step that can fail. rustler catches the panic and raises.
impl std::panic::RefUnwindSafe for Shared {}

impl Shared {
    /// An empty buffer.
    pub fn new(name: String, partitions: usize) -> Self {
        Self {
            name,
            buffer: Buffer::new(partitions),
            settings: Mutex::new(Arena::new()),
        }
    }
}

/// Runs once, when the library is loaded.
pub fn load(env: Env<'_>, _info: Term<'_>) -> bool {
    if !weigh::immediates_are_as_expected(env) || !Handle::register(env) {
        return false;
    }
    // Makes all atoms, those that serde needs among them.
    let _ = atoms::ok();
    // The reclaimer's thread runs code of this library.
    Handle::pin_library(Arc::new(Shared::new(String::new(), 0)));
    true
}
