//! Who awaits entries of a partition, and when they are told.
//!
//! Whoever makes entries leave tells of it under the lock that they leave under: who drains under the
//! ledger's, who writes under that of the live generation. A writer must not tell those who await entries
//! that drain. It reads `draining`, which whoever drains stores after it has told of its last entries; so
//! nothing is left to be told of them when a writer finds nothing draining. And whoever drains looks at the
//! live generation after that, so what was evicted or deleted behind the last entry is told of too.

use super::{Generation, Live, Partition};
use crate::awaiting::Told;
use crate::sync::Ordering;

impl<G: Generation, O: Copy + PartialEq> Partition<G, O> {
    /// Has `owner` be told when all that is held now has left. `false` if nothing is held: nobody is told
    /// then.
    pub fn await_all(&self, owner: O, token: u64) -> bool {
        self.await_since(owner, token, |_live| 0)
    }

    /// The same, but what is told is what became of the live generation. Of what drains, if nothing is in that one.
    pub fn await_newest(&self, owner: O, token: u64) -> bool {
        self.await_since(owner, token, |live| {
            if live.generation.is_empty() {
                0
            } else {
                live.since
            }
        })
    }

    fn await_since(&self, owner: O, token: u64, since: impl FnOnce(&Live<G, O>) -> u64) -> bool {
        let ledger = self.ledger.lock();
        let live = self.live.lock();
        if ledger.len == 0 && live.generation.is_empty() {
            return false;
        }
        let last = live.base + live.generation.places().1;
        self.awaiting.lock().add(owner, token, since(&live), last);
        true
    }

    /// The one with this token is told nothing any more. Whether it would have been.
    pub fn await_no_more(&self, token: u64) -> bool {
        self.awaiting.lock().cancel(token)
    }

    /// How many wait to be told.
    pub fn awaiting(&self) -> usize {
        self.awaiting.len()
    }

    /// Places of the live generation have been left: all up to `left`. `since` is the last of those that were
    /// swapped out. With the lock of the live generation held.
    pub(super) fn pass_live(&self, since: u64, left: u64, passed: &mut Told<O>) {
        if self.awaiting.is_empty() {
            return;
        }
        let mut awaiting = self.awaiting.lock();
        // Pairs with the Release in `count_draining`.
        if self.draining.load(Ordering::Acquire) == 0 {
            awaiting.pass(left, passed);
        } else {
            awaiting.pass_within(since, left, passed);
        }
    }

    /// The last entry of a drain has left, and is counted no more.
    pub(super) fn pass_all(&self, live: &Live<G, O>, passed: &mut Told<O>) {
        self.awaiting.lock().pass(live.left(), passed);
    }
}
