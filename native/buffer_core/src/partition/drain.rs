//! The draining generation on its way out, batch by batch.

use std::sync::Arc;

use super::call::Call;
use super::{Drain, Generation, Ledger, Live, NotOwner, Partition};
use crate::capacity::Size;
use crate::delivery::{After, Batch, Discarded, Next, Piece, Policy, Settled, Wanted};
use crate::kept::KeptBatch;
use crate::stats::Reason;
use crate::sync::Ordering;

/// Copies the entries of a batch as a processor gets them, if they are to be kept when it is given up.
pub type Keep<'a, G> = &'a dyn Fn(&G, &Batch) -> Option<<G as Generation>::Arena>;

/// Places that nobody gets a result for, and why.
struct Lost {
    places: Vec<(u64, u64)>,
    reason: Reason,
}

// Entries that are given up because of their age in one call.
const EXPIRED_AT_ONCE: usize = 1_000;

impl<G: Generation, O: Copy + PartialEq> Partition<G, O> {
    /// Makes the live generation the draining one, in O(1), if the draining one is empty; or, if that can
    /// be done, only its first `part` entries. Returns how many entries there are to drain.
    pub fn swap(&self, part: Option<usize>, now: impl FnOnce() -> i64) -> usize {
        self.swap_if(part, false, |_| true, now).0
    }

    /// The same if the live generation, as it is at that moment, is `due`, because it is `full` or not. Whether
    /// it was done.
    pub(super) fn swap_if(
        &self,
        part: Option<usize>,
        full: bool,
        due: impl FnOnce(&Live<G, O>) -> bool,
        now: impl FnOnce() -> i64,
    ) -> (usize, bool) {
        // Without waiting for who copies a batch of it.
        let draining = self.draining();
        if draining > 0 {
            return (draining, false);
        }
        let mut swapped = false;
        let mut drain = self.drain.lock();
        let mut ledger = self.ledger.lock();
        if ledger.len == 0 {
            let live = self.live.lock();
            // One that is empty is kept: what it has allocated will be used.
            if !live.generation.is_empty() && due(&live) {
                swapped = true;
                self.swap_out(&mut drain, &mut ledger, live, part, now);
                if full {
                    ledger.filled();
                }
            }
        }
        (ledger.len, swapped)
    }

    /// Entries of the draining generation, those in flight included.
    pub fn draining(&self) -> usize {
        self.ledger.lock().len
    }

    /// Makes `owner` the one who drains, unless somebody else does.
    pub fn claim(&self, owner: O) -> Result<(), NotOwner> {
        let mut ledger = self.ledger.lock();
        ledger.check(owner)?;
        ledger.owner = Some(owner);
        Ok(())
    }

    /// Settles the batch in flight as processed and starts the next one: one that is to be tried again, or
    /// what is `wanted`.
    ///
    /// `read` sees the generation and the batch under the drain lock. The first caller becomes the
    /// owner and stays it until nothing is left or [`Partition::settle`] is called. What is to be done
    /// when this has returned is left in `after`.
    pub fn next<R>(
        &self,
        owner: O,
        wanted: Wanted,
        now: impl FnOnce() -> i64,
        keep: Keep<'_, G>,
        after: &mut After<G::Arena, O>,
        read: impl FnOnce(&G, &Batch) -> R,
    ) -> Result<Next<R>, NotOwner> {
        let mut drain = self.drain.lock();
        self.settle_done(&mut drain, owner, false, after)?;
        if drain.generation.is_empty() {
            return Ok(Next::Empty);
        }
        Ok(self.start_next(&mut drain, wanted, now, keep, after, read))
    }

    /// Starts a batch of what drains, which is something.
    pub(super) fn start_next<R>(
        &self,
        drain: &mut Drain<G>,
        wanted: Wanted,
        now: impl FnOnce() -> i64,
        keep: Keep<'_, G>,
        after: &mut After<G::Arena, O>,
        read: impl FnOnce(&G, &Batch) -> R,
    ) -> Next<R> {
        if let Some(moment) = wanted.not_before {
            if !self.ledger.lock().paused && self.expire(drain, moment, keep, after) {
                return Next::Expired;
            }
        }
        // Without the lock, since its weight is summed up.
        let batch = drain.first_batch(wanted, now());
        {
            let mut ledger = self.ledger.lock();
            ledger.oldest = drain.generation.oldest();
            if ledger.paused {
                // Whoever goes on may be another one.
                ledger.owner = None;
                return Next::Paused;
            }
            ledger.failed = None;
            ledger.in_flight = Some(batch.clone());
        }
        drain.pieces.pop_front();
        Next::Batch(read(&drain.generation, &batch))
    }

    /// Settles the batch in flight as processed. Returns how many entries are left to drain; if there are
    /// none, nobody is the owner any more.
    pub fn done(&self, owner: O, after: &mut After<G::Arena, O>) -> Result<usize, NotOwner> {
        let mut drain = self.drain.lock();
        self.settle_done(&mut drain, owner, false, after)?;
        let mut ledger = self.ledger.lock();
        ledger.oldest = drain.generation.oldest();
        Ok(ledger.len)
    }

    /// With `stays`, it is the owner also if nothing is left.
    pub(super) fn settle_done(
        &self,
        drain: &mut Drain<G>,
        owner: O,
        stays: bool,
        after: &mut After<G::Arena, O>,
    ) -> Result<(), NotOwner> {
        let settled = {
            let mut ledger = self.ledger.lock();
            ledger.check(owner)?;
            let settled = ledger.in_flight.take();
            ledger.call = Call::Runs;
            if let Some(batch) = &settled {
                ledger.processed += batch.held() as u64;
                self.forget(&mut ledger, batch, None, after);
            }
            ledger.owner = (stays || ledger.len > 0).then_some(owner);
            settled
        };
        if let Some(batch) = settled {
            drain.taken += Size {
                entries: batch.len,
                bytes: batch.bytes,
            };
            drain.generation.retire(batch.len, &mut drain.retired);
        }
        drain.hand_over(&mut after.retired);
        Ok(())
    }

    /// Tells that the processor has failed with the batch that `owner` has: if it is settled, then for
    /// this reason.
    pub fn fail(&self, owner: O, reason: Reason) -> Result<(), NotOwner> {
        let mut ledger = self.ledger.lock();
        ledger.check(owner)?;
        ledger.call = Call::Runs;
        ledger.failed = ledger.in_flight.is_some().then_some(reason);
        Ok(())
    }

    /// Settles the entries of the batch in flight as processed but for these, by their place in what the
    /// processor was given, ascending. `false` if they are not that.
    pub fn fail_some(
        &self,
        owner: O,
        failed: &[u32],
        after: &mut After<G::Arena, O>,
    ) -> Result<bool, NotOwner> {
        let mut guard = self.ledger.lock();
        let ledger = &mut *guard;
        ledger.check(owner)?;
        let Some(batch) = &mut ledger.in_flight else {
            return Ok(false);
        };
        let held = batch.held();
        let ascending = failed.is_sorted_by(|one, other| one < other);
        if !ascending || failed.last().is_none_or(|last| *last as usize >= held) {
            return Ok(false);
        }
        let pending: Arc<[u32]> = match &batch.pending {
            None => failed.into(),
            Some(some) => failed.iter().map(|index| some[*index as usize]).collect(),
        };
        let done = held - pending.len();
        ledger.call = Call::Runs;
        batch.pending = Some(pending);
        ledger.processed += done as u64;
        let bounded = ledger.bounded;
        let len = ledger.len - done;
        self.count_draining(ledger, len);
        // Their bytes stay until the whole stretch has left: so does their memory.
        if bounded {
            let size = Size {
                entries: done,
                bytes: 0,
            };
            after.room |= self.capacity.give_back(size);
        }
        Ok(true)
    }

    /// Reads the draining generation, and the batch in flight.
    pub fn read<R>(&self, read: impl FnOnce(&G, Option<&Batch>) -> R) -> R {
        let drain = self.drain.lock();
        let in_flight = self.ledger.lock().in_flight.clone();
        read(&drain.generation, in_flight.as_ref())
    }

    /// Who drains, and the batch that it has.
    pub fn drain_status(&self) -> (Option<O>, Option<Batch>) {
        let ledger = self.ledger.lock();
        (ledger.owner, ledger.in_flight.clone())
    }

    /// From now on no batch is started, or batches are again.
    pub fn pause(&self, paused: bool) {
        self.ledger.lock().paused = paused;
    }

    /// Takes the drain away from its owner, who is gone or has failed. The batch in flight, if any, will be
    /// tried again as the policy has it, or is given up: for the reason that the processor is known to
    /// have failed for, otherwise for `reason`; a call that was ended has taken too long, unless that is the
    /// end of all. What is given up is to be reported ([`Partition::unreported`]). If the processor had returned,
    /// it counts as processed.
    pub fn settle(
        &self,
        reason: Reason,
        policy: Policy,
        keep: Keep<'_, G>,
        after: &mut After<G::Arena, O>,
    ) -> Settled {
        let mut guard = self.drain.lock();
        let drain = &mut *guard;
        let (batch, reason) = {
            let mut ledger = self.ledger.lock();
            ledger.owner = None;
            if let Some(batch) = self.settle_returned(&mut ledger, after) {
                drop(ledger);
                self.retire(drain, batch.len, after);
                self.ledger.lock().oldest = drain.generation.oldest();
                return Settled::Processed(batch.held());
            }
            let Some(batch) = ledger.in_flight.take() else {
                return Settled::Nothing;
            };
            let ended = std::mem::take(&mut ledger.call) == Call::Ended;
            let late = ended && reason != Reason::Shutdown;
            let reason = if late { Reason::Timeout } else { reason };
            let reason = ledger.failed.take().unwrap_or(reason);
            let again = batch.attempt <= policy.max_retries;
            let halved = !again && policy.split && batch.held() > 1;
            if again || halved {
                ledger.retries += 1;
                drop(ledger);
                drain.try_again(&batch, halved);
                return Settled::Again {
                    attempts: batch.attempt,
                    len: batch.held(),
                    halved,
                };
            }
            (batch, reason)
        };
        let discarded = self.give_up(drain, &batch, reason, keep, after);
        Settled::Discarded(discarded)
    }

    /// A batch whose processor has returned counts as processed, and is to be retired.
    pub(super) fn settle_returned(
        &self,
        ledger: &mut Ledger<O>,
        after: &mut After<G::Arena, O>,
    ) -> Option<Batch> {
        let batch = ledger
            .in_flight
            .take_if(|_| ledger.call == Call::Returned)?;
        ledger.call = Call::Runs;
        ledger.processed += batch.held() as u64;
        self.forget(ledger, &batch, None, after);
        Some(batch)
    }

    /// Gives entries up that came before `moment`. Whether there were any.
    pub(super) fn expire(
        &self,
        drain: &mut Drain<G>,
        moment: i64,
        keep: Keep<'_, G>,
        after: &mut After<G::Arena, O>,
    ) -> bool {
        // A batch that was tried before is given up as a whole.
        let piece = drain.pieces.front().map(|piece| piece.len);
        let most = piece.unwrap_or(EXPIRED_AT_ONCE);
        let swapped_at = drain.swapped_at;
        let entries = drain.generation.older_than(most, moment, swapped_at);
        if entries == 0 || piece.is_some_and(|len| entries < len) {
            return false;
        }
        let mut batch = drain.first_batch(Wanted::entries(entries), 0);
        drain.pieces.pop_front();
        // It is not tried this time.
        batch.attempt -= 1;
        self.give_up(drain, &batch, Reason::Expired, keep, after);
        true
    }

    /// Gives up the first entries, which are not in flight any more.
    fn give_up(
        &self,
        drain: &mut Drain<G>,
        batch: &Batch,
        reason: Reason,
        keep: Keep<'_, G>,
        after: &mut After<G::Arena, O>,
    ) -> Discarded {
        // Without the lock, since the copy can take long.
        let full = self.kept.lock().is_full();
        if let Some(arena) = (!full).then(|| keep(&drain.generation, batch)).flatten() {
            self.kept.lock().add(KeptBatch {
                reason,
                arena,
                places: (batch.first, batch.last),
                attempts: batch.attempt,
            });
        }
        let lost = Lost {
            places: self.lost_places(drain, batch),
            reason,
        };
        let discarded = {
            let mut ledger = self.ledger.lock();
            self.forget(&mut ledger, batch, Some(lost), after);
            ledger.discard(reason, batch.held(), batch.bytes)
        };
        self.retire(drain, batch.len, after);
        self.ledger.lock().oldest = drain.generation.oldest();
        discarded
    }

    /// The places of those entries of a batch that have not been processed: after the first of each pair, up
    /// to the second.
    fn lost_places(&self, drain: &Drain<G>, batch: &Batch) -> Vec<(u64, u64)> {
        let pending = batch.pending.as_ref();
        // Who comes later awaits either all or none of them.
        match pending.filter(|_| !self.awaiting.is_empty()) {
            None => vec![(batch.first - 1, batch.last)],
            Some(pending) => {
                let place = |index: &u32| drain.generation.places_up_to(*index as usize);
                let places = pending.iter().map(|index| drain.base + place(index));
                places.map(|place| (place - 1, place)).collect()
            }
        }
    }

    /// The first entries have left the ledger: they leave the generation.
    fn retire(&self, drain: &mut Drain<G>, len: usize, after: &mut After<G::Arena, O>) {
        if len > 0 {
            drain.generation.retire(len, &mut drain.retired);
        }
        drain.hand_over(&mut after.retired);
    }

    /// A batch has left the draining generation, and who awaits it is told: before it counts no more, so
    /// that no writer tells of it (see `awaited`).
    fn forget(
        &self,
        ledger: &mut Ledger<O>,
        batch: &Batch,
        lost: Option<Lost>,
        after: &mut After<G::Arena, O>,
    ) {
        ledger.bytes -= batch.bytes;
        let left = ledger.len - batch.held();
        if !self.awaiting.is_empty() {
            let mut awaiting = self.awaiting.lock();
            for lost in lost.iter() {
                for (from, last) in &lost.places {
                    awaiting.lose(*from, *last, lost.reason);
                }
            }
            awaiting.pass(batch.last, &mut after.passed);
        }
        self.count_draining(ledger, left);
        if left == 0 {
            ledger.oldest = None;
            if !self.awaiting.is_empty() {
                self.pass_all(&self.live.lock(), &mut after.passed);
            }
        }
        if ledger.bounded {
            after.room |= self.capacity.give_back(Size {
                entries: batch.held(),
                bytes: batch.bytes,
            });
        }
    }

    pub(super) fn count_draining(&self, ledger: &mut Ledger<O>, len: usize) {
        ledger.len = len;
        // Pairs with the Acquire in `pass_live`.
        self.draining.store(len, Ordering::Release);
    }
}

impl<G: Generation> Drain<G> {
    /// Whether less is left than is wanted, and nothing is to be tried again.
    pub(super) fn is_short(&self, wanted: Wanted) -> bool {
        self.pieces.is_empty() && self.generation.len() < wanted.entries
    }

    /// The first batch: what is to be tried again, which is the first of the pieces, or what is wanted.
    fn first_batch(&self, wanted: Wanted, started_at: i64) -> Batch {
        let piece = self.pieces.front();
        let first = match piece {
            Some(piece) => self.generation.first(piece.len, u64::MAX),
            None => self.generation.first(wanted.entries.max(1), wanted.bytes),
        };
        let (pending, attempt) =
            piece.map_or((None, 1), |piece| (piece.pending.clone(), piece.attempt));
        Batch {
            first: self.base + self.generation.places().0 + 1,
            last: self.base + first.places,
            len: first.len,
            bytes: first.bytes,
            pending,
            attempt,
            started_at,
        }
    }

    /// A batch that no processor has had is the next one again.
    pub(super) fn put_back(&mut self, batch: Batch) {
        self.pieces.push_front(Piece {
            len: batch.len,
            pending: batch.pending,
            attempt: batch.attempt,
        });
    }

    fn try_again(&mut self, batch: &Batch, halved: bool) {
        let piece = Piece {
            len: batch.len,
            pending: batch.pending.clone(),
            attempt: batch.attempt + 1,
        };
        if halved {
            let [one, other] = piece.halve();
            self.pieces.push_front(other);
            self.pieces.push_front(one);
        } else {
            self.pieces.push_front(piece);
        }
    }

    /// Gives memory away that is due to be freed: when it is much, and all of it at the end.
    pub(super) fn hand_over(&mut self, retired: &mut crate::Retired<G::Arena>) {
        if self.retired.is_much() || self.generation.is_empty() {
            retired.append(&mut self.retired);
        }
    }
}
