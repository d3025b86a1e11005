//! A partition behind its lock, and beside it when its oldest message came.
//!
//! So workers look without taking any lock whether anything waits, and, where all partitions have one order, for the
//! oldest message of all. Who has changed what is the oldest one says so before it lets the lock go.
//!
//! A worker that is about to rest says that it is idle, and then looks; who puts the first message into a partition
//! says that there is one, and then looks for somebody who is idle. With a fence between the two on either side one of
//! them sees the other.

use std::ops::{Deref, DerefMut};

use crossbeam_utils::CachePadded;

use super::partition::Partition;
use crate::sync::{fence, AtomicI64, Mutex, MutexGuard, Ordering};

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

    /// Whether none waits, a moment ago.
    pub(super) fn is_empty(&self) -> bool {
        self.front() == i64::MAX
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
        let before = self.front.load(Ordering::Relaxed);
        if before != front {
            self.front.store(front, Ordering::Release);
            if before == i64::MAX {
                // See `Broker::any_waiting`.
                fence(Ordering::SeqCst);
            }
        }
    }
}
