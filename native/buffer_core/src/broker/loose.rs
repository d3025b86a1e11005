//! The short way for messages that nobody waits for: what [`ask`](Broker::ask) does with most of them, and no more.
//!
//! Such a message has no deadline and no caller, and mostly there is neither a bound nor a timeout; so nobody has to look
//! after it, nothing is dropped for it, and it is never handed over. It is put into its partition, and somebody is woken if
//! somebody is idle. As it is not known how much it weighs before it has been copied, a copy is begun and given up if it
//! is more than is copied under a lock. Whatever is not so is left to `ask`, and nothing has happened then.

use std::sync::Arc;

use super::worker::Worker;
use super::Broker;
use crate::{Arena, Segment};

/// What became of such a message.
pub enum Loose<A, P> {
    /// It waits. This one is to be woken; if that fails: [`Broker::unreachable`].
    Accepted(Option<Arc<Worker<A, P>>>),
    /// Nothing: it is to be [asked](Broker::ask).
    Unusual,
}

impl<A: Arena, P: Copy + Ord> Broker<A, P> {
    /// Sends a message that nobody waits for, at this moment. `store` puts it into a segment, as one entry, and says what
    /// it weighs; or it refuses, and leaves the segment as it was.
    #[inline]
    pub fn ask_loose(
        &self,
        home: usize,
        now: i64,
        store: impl FnOnce(&mut Segment<A>) -> Option<u32>,
    ) -> Loose<A, P> {
        let count = self.partitions.len();
        let index = if home < count { home } else { home % count };
        let lane = &self.partitions[index];
        // Who works alone for a while is looked after.
        if self.is_gathered() {
            return Loose::Unusual;
        }
        let mut partition = lane.lock();
        let id = partition.coming_id(index, count);
        let accepted = partition.push_loose(id, now, || lane.spare(), store);
        drop(partition);
        match accepted {
            true => Loose::Accepted(self.wake(false)),
            false => Loose::Unusual,
        }
    }
}
