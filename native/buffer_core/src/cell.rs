//! A value that many threads read and replace, with a version that tells whether it was replaced.
//!
//! Invariants:
//!
//! 1. Versions count up by one. A version stands for one value, ever: who knows the version that is there
//!    knows the value.
//! 2. A value is replaced only by somebody who names the version of what is replaced. So of all that read
//!    one version, one at the most replaces it, and no replacement is lost.
//! 3. A reader gets a value that was there at one moment of its call.
//!
//! The lock is held to exchange a few words, or to take a reference to more than that, never to copy or to free
//! it. It is a lock of its own; no other one is taken under it.

use crate::sync::{AtomicU64, Mutex, Ordering};

/// A value and its version.
#[derive(Debug)]
pub struct Cell<T> {
    // Changes under the lock of `value` only; read without it to find out that nothing has changed.
    version: AtomicU64,
    value: Mutex<T>,
}

/// The value was replaced meanwhile: what should have taken its place comes back.
#[derive(Debug)]
pub struct Changed<T>(pub T);

/// The version of a value that has just been put in.
pub const FIRST: u64 = 1;

impl<T> Cell<T> {
    /// A cell with its first value.
    pub fn new(value: T) -> Self {
        Self {
            version: AtomicU64::new(FIRST),
            value: Mutex::new(value),
        }
    }

    /// The version of the value that is there.
    pub fn version(&self) -> u64 {
        // Pairs with the Release of `replace`: who sees a version sees what was done before it.
        self.version.load(Ordering::Acquire)
    }

    /// What `read` makes of the value, and its version, or nothing if that is still the one that is `known`. `read` is
    /// called with the lock held: it takes a few words along, or a reference.
    pub fn load<R>(&self, known: Option<u64>, read: impl FnOnce(&T) -> R) -> Option<(u64, R)> {
        if known == Some(self.version()) {
            return None;
        }
        let value = self.value.lock();
        // Under the lock, so it belongs to the value.
        let version = self.version.load(Ordering::Relaxed);
        Some((version, read(&value)))
    }

    /// Replaces the value if its version is still `expected`: answers the new version and the old value,
    /// which is for the caller to drop, with no lock held.
    pub fn replace(&self, expected: u64, value: T) -> Result<(u64, T), Changed<T>> {
        if self.version() != expected {
            return Err(Changed(value));
        }
        let mut current = self.value.lock();
        if self.version.load(Ordering::Relaxed) != expected {
            return Err(Changed(value));
        }
        let old = std::mem::replace(&mut *current, value);
        // Versions do not come to their end: at one a nanosecond that takes five hundred years.
        let version = expected.wrapping_add(1);
        self.version.store(version, Ordering::Release);
        Ok((version, old))
    }
}

// Orders that threads can come in are in tests/models/cell.rs, sequences in tests/props/cell.rs.
#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn who_knows_the_version_is_told_nothing_else() {
        let cell = Cell::new("first");
        let (version, value) = cell.load(None, |value| *value).expect("nothing is known");
        assert_eq!((version, value), (FIRST, "first"));
        assert!(cell.load(Some(version), |value| *value).is_none());
        assert!(cell.load(Some(version + 1), |value| *value).is_some());
    }

    #[test]
    fn one_of_two_that_read_the_same_replaces_it() {
        let cell = Cell::new(1);
        let (version, old) = cell.replace(FIRST, 2).expect("nobody else writes");
        assert_eq!((version, old), (FIRST + 1, 1));
        let Err(Changed(refused)) = cell.replace(FIRST, 3) else {
            panic!("it was replaced before");
        };
        assert_eq!(refused, 3);
        assert_eq!(cell.load(None, |value| *value), Some((FIRST + 1, 2)));
    }

    #[test]
    fn a_reader_keeps_what_it_has_read() {
        let cell = Cell::new(Arc::new(vec![1, 2, 3]));
        let (_, read) = cell.load(None, Arc::clone).expect("nothing is known");
        let replaced = cell.replace(FIRST, Arc::default());
        drop(replaced.expect("nobody else writes"));
        assert_eq!(*read, [1, 2, 3]);
        assert_eq!(Arc::strong_count(&read), 1, "the cell has let it go");
    }

    #[test]
    fn no_addition_of_many_threads_is_lost() {
        const THREADS: u64 = 8;
        const EACH: u64 = 2_000;
        let cell = Cell::new(0u64);
        let load = || cell.load(None, |value| *value).expect("nothing is known");
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for _ in 0..EACH {
                        let mut known = load();
                        while cell.replace(known.0, known.1 + 1).is_err() {
                            known = load();
                        }
                    }
                });
            }
        });
        let (version, sum) = load();
        assert_eq!(sum, THREADS * EACH);
        assert_eq!(version, FIRST + THREADS * EACH);
    }
}
