//! One worker at work at a time, for a while: where several would only get into each other's way.
//!
//! Who has gathered them must not keep anything waiting for long, and does not know what the next message will take. So
//! who sends one to a worker that has not taken any for some time ends it, and so does the reporter, who looks some time
//! after a message has come. Others that are at work when it begins step back when they are through with what they have.

use std::sync::Arc;

use super::crew::Crew;
use super::partition::Partition;
use super::worker::Worker;
use super::{After, Broker};
use crate::sync::Ordering;
use crate::Arena;

/// For so long a worker may be at one message before others are asked to work too, in nanoseconds.
const LONG: i64 = 200_000;
/// When the reporter looks whether that is so, after a message has come.
const LOOK: i64 = 5_000_000;

impl<A: Arena, P: Copy + Ord> Broker<A, P> {
    /// Only one worker is to be at work at a time, whether for a while or always.
    pub fn is_alone(&self) -> bool {
        self.alone.load(Ordering::Relaxed)
    }

    /// Only for a while.
    pub fn is_gathered(&self) -> bool {
        self.gathered.load(Ordering::Relaxed)
    }

    /// From now on only one worker is woken, or handed a message, at a time, until one takes long or somebody
    /// [`scatter`](Self::scatter)s them. For who is at work.
    pub fn gather(&self, now: i64) -> After<A, P> {
        let mut after = After::default();
        let mut crew = self.crew.lock();
        if !crew.alone {
            crew.alone = true;
            self.gathered.store(true, Ordering::Relaxed);
            self.publish(&crew);
            // For those that wait already.
            after.look = self.look_later(now);
        }
        after
    }

    /// Has the reporter look after what waits now. Whether it has to be told.
    pub(super) fn look_later(&self, now: i64) -> bool {
        self.arm(now.saturating_add(LOOK))
    }

    /// From now on all workers are woken again.
    pub fn scatter(&self) -> After<A, P> {
        After {
            wake: self.scatter_if(|_| true),
            ..After::default()
        }
    }

    /// The same, if the one that works alone takes long; one that was just woken does not. Answers who is to be woken.
    pub(super) fn relieve(&self) -> Option<Arc<Worker<A, P>>> {
        self.scatter_if(Crew::is_at_work)
    }

    fn scatter_if(&self, is_to: impl FnOnce(&Crew<A, P>) -> bool) -> Option<Arc<Worker<A, P>>> {
        let mut crew = self.crew.lock();
        if self.is_gathered() && is_to(&crew) {
            self.gathered.store(false, Ordering::Relaxed);
            crew.alone = false;
            self.publish(&crew);
        }
        drop(crew);
        self.pass_on()
    }

    /// Whether a message that waits here has to be seen to, though a worker is at work.
    pub(super) fn is_stuck(&self, partition: &Partition<A, P>, now: i64) -> bool {
        self.is_gathered() && now.saturating_sub(partition.taken_at) > LONG
    }

    /// The reporter has to look after what waits here.
    pub(super) fn look_at(&self, due: Option<i64>, now: i64) -> Option<i64> {
        let look = self.is_gathered().then(|| now.saturating_add(LOOK));
        due.into_iter().chain(look).min()
    }

    /// Whether more are at work than are to be, as it was a moment ago.
    pub(super) fn is_crowded(&self) -> bool {
        // Who sees this late steps back the next time.
        self.crowded.load(Ordering::Relaxed)
    }

    /// If others are at work, and only one is to be, this one is not from now on.
    pub(super) fn step_back(&self, worker: &Arc<Worker<A, P>>) -> bool {
        let mut crew = self.crew.lock();
        let steps_back = crew.is_crowded() && worker.is_at_work() && crew.rest(worker);
        self.publish(&crew);
        steps_back
    }
}
