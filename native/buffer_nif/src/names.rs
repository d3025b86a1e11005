//! Buffers and brokers by the atom that they are used by, for calls that are made a million times a second.
//!
//! The table is replaced as a whole when a buffer comes or goes, and read without a lock and without
//! counting references: a read costs a third of what `:persistent_term` with a key of its own and the
//! decoding of a resource cost together, and readers on many cores do not get into each other's way.
//!
//! Invariant: what a read finds stays alive until it has been done with, however long that takes.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use arc_swap::ArcSwap;
use once_cell::sync::Lazy;
use rustler::{Decoder, NifResult, Term};

use crate::arena::{immediate_word, Handle};
use crate::broker::SharedBroker;
use crate::resource::Shared;
use crate::write::Refused;

type Table<T> = HashMap<u64, Arc<T>, BuildHasherDefault<WordHasher>>;

/// What atoms are the names of.
pub struct Names<T: 'static>(Lazy<ArcSwap<Table<T>>>);

/// Buffers.
pub static BUFFERS: Names<Shared> = Names::new();
/// Brokers of GenBuffers.
pub static BROKERS: Names<SharedBroker> = Names::new();
/// Brokers of pools.
pub static POOLS: Names<SharedBroker> = Names::new();

/// Spreads the words of atoms, which count up in steps of 64.
#[derive(Default)]
struct WordHasher(u64);

impl Hasher for WordHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64((*byte).into()));
    }

    fn write_u64(&mut self, word: u64) {
        let spread = (self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = spread ^ (spread >> 32);
    }
}

/// A buffer as a NIF's argument: by its name, or by a handle.
#[derive(Clone, Copy)]
pub struct Target<'a>(Term<'a>);

impl<'a> Decoder<'a> for Target<'a> {
    #[inline]
    fn decode(term: Term<'a>) -> NifResult<Self> {
        Ok(Self::of(term))
    }
}

impl<'a> Target<'a> {
    /// What a term names, if it names anything.
    #[inline]
    pub fn of(term: Term<'a>) -> Self {
        Self(term)
    }

    /// Runs `call` with the buffer, if there is one.
    #[inline]
    pub fn with<R>(self, call: impl FnOnce(&Shared) -> Result<R, Refused>) -> Result<R, Refused> {
        let Some(word) = immediate_word(self.0) else {
            let handle = self.0.decode::<Handle>();
            return call(handle.map_err(|_| Refused::Unknown)?.0);
        };
        BUFFERS.with(word, call).unwrap_or(Err(Refused::Unknown))
    }
}

impl<T> Names<T> {
    const fn new() -> Self {
        Self(Lazy::new(|| ArcSwap::from_pointee(Table::default())))
    }

    /// Runs `call` with what has this name, if anything has.
    #[inline]
    pub fn with<R>(&self, name: u64, call: impl FnOnce(&T) -> R) -> Option<R> {
        self.0.load().get(&name).map(|one| call(one))
    }

    /// From now on this atom is the name of this one.
    pub fn put(&self, name: u64, one: &Arc<T>) {
        self.0.rcu(|table| {
            let mut table = Table::clone(table);
            table.insert(name, Arc::clone(one));
            table
        });
    }

    /// From now on it is not, if it was.
    pub fn erase(&self, name: u64, one: &T) {
        self.0.rcu(|table| {
            let mut table = Table::clone(table);
            let named = table.get(&name);
            if named.is_some_and(|named| std::ptr::eq(&raw const **named, one)) {
                table.remove(&name);
            }
            table
        });
    }
}
