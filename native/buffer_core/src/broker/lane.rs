//! A partition behind its lock, and beside it when its oldest message came.
//!
//! Where all partitions have one order, workers look for the oldest message of all without taking any lock. Who has
//! changed what is the oldest one says so before it lets the lock go.

use std::ops::{Deref, DerefMut};

use crossbeam_utils::CachePadded;

use super::partition::Partition;
use crate::sync::{AtomicI64, Mutex, MutexGuard, Ordering};

pub(super) struct Lane<A, P> {
    partition: CachePadded<Mutex<Partition<A, P>>>,
    front: CachePadded<AtomicI64>,
}

/// A partition whose lock is held.
pub(super) struct Locked<'a, A, P> {
    partition: MutexGuard<'a, Partition<A, P>>,
    front: &'a AtomicI64,
}

impl<A, P> Lane<A, P> {
    pub(super) fn new(partition: Partition<A, P>) -> Self {
        Self {
            front: CachePadded::new(AtomicI64::new(partition.waiting.front_at())),
            partition: CachePadded::new(Mutex::new(partition)),
        }
    }

    pub(super) fn lock(&self) -> Locked<'_, A, P> {
        Locked {
            partition: self.partition.lock(),
            front: &self.front,
        }
    }

    /// When the oldest message came, a moment ago; `i64::MAX`: none waits.
    pub(super) fn front(&self) -> i64 {
        self.front.load(Ordering::Acquire)
    }
}

impl<A, P> Deref for Locked<'_, A, P> {
    type Target = Partition<A, P>;

    fn deref(&self) -> &Partition<A, P> {
        &self.partition
    }
}

impl<A, P> DerefMut for Locked<'_, A, P> {
    fn deref_mut(&mut self) -> &mut Partition<A, P> {
        &mut self.partition
    }
}

impl<A, P> Drop for Locked<'_, A, P> {
    fn drop(&mut self) {
        let front = self.partition.waiting.front_at();
        if self.front.load(Ordering::Relaxed) != front {
            self.front.store(front, Ordering::Release);
        }
    }
}
