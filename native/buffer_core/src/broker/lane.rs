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
use super::waiting::Chunk;
use crate::sync::{fence, AtomicBool, AtomicI64, Mutex, MutexGuard, Ordering};
use crate::Arena;

pub(super) struct Lane<A, P> {
    partition: CachePadded<Mutex<Partition<A, P>>>,
    shown: CachePadded<Shown>,
    // A chunk that has been cleared, for the next one that is needed.
    spare: Mutex<Option<Box<Chunk<A, P>>>>,
}

/// What is readable without the lock. It changes under it.
struct Shown {
    front: AtomicI64,
    // See `Lane::is_worth_it`.
    worth_it: AtomicBool,
}

/// A partition whose lock is held.
pub(super) struct Locked<'a, A: Arena, P: Copy> {
    partition: MutexGuard<'a, Partition<A, P>>,
    shown: &'a Shown,
}

impl<A: Arena, P: Copy> Lane<A, P> {
    pub(super) fn new(partition: Partition<A, P>) -> Self {
        Self {
            shown: CachePadded::new(Shown {
                front: AtomicI64::new(partition.waiting.front_at()),
                worth_it: AtomicBool::new(false),
            }),
            partition: CachePadded::new(Mutex::new(partition)),
            spare: Mutex::new(None),
        }
    }

    pub(super) fn lock(&self) -> Locked<'_, A, P> {
        Locked {
            partition: self.partition.lock(),
            shown: &self.shown,
        }
    }

    /// When the oldest message came, a moment ago; `i64::MAX`: none waits.
    pub(super) fn front(&self) -> i64 {
        self.shown.front.load(Ordering::Acquire)
    }

    /// Whether none waits, a moment ago.
    pub(super) fn is_empty(&self) -> bool {
        self.front() == i64::MAX
    }

    /// Whether a worker that takes messages along should look at it, a moment ago: there are enough, or what waits is
    /// to be taken one by one.
    pub(super) fn is_worth_it(&self) -> bool {
        // In a model whatever waits is worth it, and one word to be read is less to be tried.
        match cfg!(loom) {
            true => !self.is_empty(),
            false => self.shown.worth_it.load(Ordering::Relaxed),
        }
    }

    /// Keeps a chunk that has been cleared. Answers the one that it kept before.
    pub(super) fn keep(&self, chunk: Box<Chunk<A, P>>) -> Option<Box<Chunk<A, P>>> {
        self.spare.lock().replace(chunk)
    }

    /// The chunk that it keeps.
    pub(super) fn spare(&self) -> Option<Box<Chunk<A, P>>> {
        self.spare.lock().take()
    }
}

impl<A: Arena, P: Copy> Deref for Locked<'_, A, P> {
    type Target = Partition<A, P>;

    fn deref(&self) -> &Partition<A, P> {
        &self.partition
    }
}

impl<A: Arena, P: Copy> DerefMut for Locked<'_, A, P> {
    fn deref_mut(&mut self) -> &mut Partition<A, P> {
        &mut self.partition
    }
}

impl<A: Arena, P: Copy> Drop for Locked<'_, A, P> {
    fn drop(&mut self) {
        let front = self.partition.waiting.front_at();
        let worth_it = self.partition.is_worth_it();
        if cfg!(not(loom)) && self.shown.worth_it.load(Ordering::Relaxed) != worth_it {
            self.shown.worth_it.store(worth_it, Ordering::Relaxed);
        }
        let before = self.shown.front.load(Ordering::Relaxed);
        if before != front {
            self.shown.front.store(front, Ordering::Release);
            if before == i64::MAX {
                // See `Broker::any_waiting`.
                fence(Ordering::SeqCst);
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::config::Config;
    use super::super::patience::Patience;
    use super::super::waiting::Entry;
    use super::*;

    #[derive(Default)]
    struct Count(usize);

    impl Arena for Count {
        fn new() -> Self {
            Self::default()
        }

        fn copy_from(&mut self, _other: &Self, _index: usize) {
            self.0 += 1;
        }

        fn clear(&mut self) -> bool {
            self.0 = 0;
            true
        }

        fn len(&self) -> usize {
            self.0
        }
    }

    fn push(lane: &Lane<Count, u8>, id: u64, loose: bool) {
        let entry = Entry {
            id,
            at: 0,
            due: i64::MAX,
            caller: (!loose).then_some(1),
            message: 0,
            reply: None,
            weight: 1,
            alone: false,
            loose,
            patience: Patience::Own,
        };
        lane.lock().waiting.push(
            entry,
            || None,
            |segment| {
                segment.push(1, |arena| arena.0 += 1);
                (0, None)
            },
        );
    }

    #[test]
    fn messages_that_nobody_waits_for_are_worth_it_when_there_are_enough() {
        let lane = Lane::new(Partition::new(Config::default()));
        let least = Partition::<Count, u8>::LEAST;
        assert!(!lane.is_worth_it());
        for id in 1..least as u64 {
            push(&lane, id, true);
            assert!(!lane.is_worth_it());
        }
        push(&lane, least as u64, true);
        assert!(lane.is_worth_it());
        assert!(lane.lock().lend(least).is_some());
        assert!(!lane.is_worth_it());
    }

    #[test]
    fn one_that_somebody_waits_for_is_worth_it_alone_and_behind_a_few_others() {
        let lane = Lane::new(Partition::new(Config::default()));
        let least = Partition::<Count, u8>::LEAST;
        (1..=least as u64).for_each(|id| push(&lane, id, true));
        let mut lent = lane.lock().lend(least).expect("there are enough");
        lent.pop();
        push(&lane, least as u64 + 1, false);
        assert!(lane.is_worth_it());
        lane.lock().waiting.take_back(lent, true);
        assert!(lane.is_worth_it());
        assert!(lane.lock().lend(least).is_some());
    }
}
