//! What is known of a partition, and what is to be reported of it.

use super::{Generation, Partition};
use crate::delivery::{Batch, Discarded};
use crate::kept::KeptBatch;
use crate::stats::{Reason, Stats};

impl<G: Generation, O: Copy + PartialEq> Partition<G, O> {
    /// All figures at one moment.
    pub fn stats(&self) -> Stats {
        let ledger = self.ledger.lock();
        let live = self.live.lock();
        let tally = live.former + live.generation.tally();
        let in_flight = ledger.in_flight.as_ref().map_or(0, Batch::held);
        let mut discarded = ledger.discarded;
        discarded[Reason::Overflow as usize] += live.overflow.entries as u64;
        Stats {
            accepted: tally.accepted,
            superseded: tally.superseded,
            deleted: tally.deleted,
            processed: ledger.processed,
            retries: ledger.retries,
            discarded,
            live: live.generation.len(),
            queued: live.generation.len() + ledger.len - in_flight,
            in_flight,
            bytes: live.generation.bytes() + ledger.bytes,
            high_water: live.high_water,
            oldest: ledger.oldest.or_else(|| live.generation.oldest()),
        }
    }

    /// What was discarded and has not been reported, in order.
    pub fn unreported(&self) -> Vec<Discarded> {
        let mut ledger = self.ledger.lock();
        let mut live = self.live.lock();
        live.overflow_signaled = false;
        let overflow = std::mem::take(&mut live.overflow);
        drop(live);
        if overflow.entries > 0 {
            ledger.discard(Reason::Overflow, overflow.entries, overflow.bytes);
        }
        ledger.unreported.clone()
    }

    /// The first `count` of it have been reported.
    pub fn reported(&self, count: usize) {
        let unreported = &mut self.ledger.lock().unreported;
        unreported.drain(..count.min(unreported.len()));
    }

    /// The next batch that was given up and that somebody is to be told of; it is kept no more.
    pub fn next_kept<R>(&self, read: impl FnOnce(&KeptBatch<G::Arena>) -> R) -> Option<R> {
        // Read, which can take long, and freed when no lock is held.
        let next = self.kept.lock().take();
        next.as_ref().map(read)
    }

    /// How many entries are kept until somebody has been told of them: those of the batch that was handed out
    /// last count until the next one is asked for.
    pub fn kept(&self) -> usize {
        self.kept.lock().len()
    }
}
