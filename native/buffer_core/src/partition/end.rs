//! The end of a partition: what it holds is given up, or goes to another one that takes its place.

use super::call::Call;
use super::{Generation, Partition, Tally};
use crate::awaiting::Told;
use crate::capacity::Size;
use crate::delivery::{After, Discarded, Policy};
use crate::kept::Kept;
use crate::stats::Reason;

/// What a partition leaves to another one that takes its place: its counters, without what it held, and
/// what was given up and nobody has been told of.
#[derive(Debug)]
pub struct Legacy<A> {
    tally: Tally,
    processed: u64,
    retries: u64,
    discarded: [u64; Reason::ALL.len()],
    unreported: Vec<Discarded>,
    kept: Kept<A>,
    places: u64,
}

impl<G: Generation, O: Copy + PartialEq> Partition<G, O> {
    /// Takes all that a closed partition still holds, so that another one can have it: what was
    /// draining, then what was live; and its counters without that. A batch in flight is discarded, as
    /// [`Partition::settle`] does: whoever has it can settle it no more. Who waits for entries to leave is
    /// told that they are lost.
    pub fn take_all(&self, after: &mut After<G::Arena, O>) -> ([G; 2], Legacy<G::Arena>) {
        let _discarded = self.settle(Reason::Killed, Policy::ONCE, &|_, _| None, after);
        let _counted = self.unreported();
        // Held until the end: there is no other batch meanwhile.
        let mut guard = self.drain.lock();
        let drain = &mut *guard;
        after.retired.append(&mut drain.retired);
        drain.pieces.clear();
        let mut ledger = self.ledger.lock();
        let mut live = self.live.lock();
        let all = [std::mem::take(&mut drain.generation), live.take()];
        // Those of a batch that has been processed in part count as processed.
        let done = all[0].len() - ledger.len;
        let held = all.iter().map(Generation::len).sum::<usize>();
        live.former.accepted -= held as u64;
        let legacy = Legacy {
            tally: std::mem::take(&mut live.former),
            processed: std::mem::take(&mut ledger.processed) - done as u64,
            retries: std::mem::take(&mut ledger.retries),
            discarded: std::mem::take(&mut ledger.discarded),
            unreported: std::mem::take(&mut ledger.unreported),
            kept: std::mem::take(&mut *self.kept.lock()),
            // They get new ones: no batch of theirs is to be taken for one that was tried before.
            places: live.base,
        };

        if ledger.bounded {
            let bytes = all.iter().map(Generation::bytes).sum();
            after.room |= self.capacity.give_back(Size {
                entries: held - done,
                bytes,
            });
        }
        ledger.owner = None;
        ledger.bytes = 0;
        ledger.oldest = None;
        self.count_draining(&mut ledger, 0);
        self.tell_all(Reason::Killed, &mut after.passed);
        (all, legacy)
    }

    /// Adds the counters of a partition that this one takes the place of.
    pub fn inherit(&self, legacy: Legacy<G::Arena>) {
        let mut ledger = self.ledger.lock();
        let mut live = self.live.lock();
        live.former = live.former + legacy.tally;
        live.base += legacy.places;
        live.since += legacy.places;
        ledger.processed += legacy.processed;
        ledger.retries += legacy.retries;
        for (sum, more) in ledger.discarded.iter_mut().zip(legacy.discarded) {
            *sum += more;
        }
        ledger.unreported.extend(legacy.unreported);
        self.kept.lock().append(legacy.kept);
    }

    /// Discards all that a closed partition still holds, in flight or not, but for a batch whose processor has
    /// returned; `None` if that is nothing.
    /// It is to be reported.
    pub fn discard_rest(
        &self,
        reason: Reason,
        after: &mut After<G::Arena, O>,
    ) -> Option<Discarded> {
        let mut guard = self.drain.lock();
        let drain = &mut *guard;
        drain.pieces.clear();
        let (mut live, discarded) = {
            let mut ledger = self.ledger.lock();
            // Retired with all the others.
            let _processed = self.settle_returned(&mut ledger, after);
            let mut guard = self.live.lock();
            let live = guard.take();
            let size = Size {
                entries: ledger.len + live.len(),
                bytes: ledger.bytes + live.bytes(),
            };
            // Before any writer finds that nothing is left.
            self.tell_all(reason, &mut after.passed);
            ledger.owner = None;
            ledger.in_flight = None;
            ledger.call = Call::Runs;
            ledger.failed = None;
            ledger.bytes = 0;
            ledger.oldest = None;
            self.count_draining(&mut ledger, 0);
            if ledger.bounded {
                after.room |= self.capacity.give_back(size);
            }
            let some = size.entries > 0;
            let discarded = some.then(|| ledger.discard(reason, size.entries, size.bytes));
            (live, discarded)
        };
        for generation in [&mut drain.generation, &mut live] {
            generation.retire(generation.len(), &mut drain.retired);
        }
        drain.hand_over(&mut after.retired);
        discarded
    }

    fn tell_all(&self, reason: Reason, passed: &mut Told<O>) {
        let mut awaiting = self.awaiting.lock();
        awaiting.lose(0, u64::MAX, reason);
        awaiting.pass(u64::MAX - 1, passed);
    }
}
