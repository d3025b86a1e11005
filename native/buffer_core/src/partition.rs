//! One live and one draining generation, and their counters.
//!
//! Three locks, which may be taken in this order: `drain`, `ledger`, `live`. Writers only ever take
//! `live`. Who drains holds `drain` while it copies a batch out, however long that takes; what is asked
//! meanwhile (figures, the state of the drain) is answered from the `ledger`, which is never held for
//! longer than it takes to write a few numbers.
//!
//! Invariant: `accepted == processed + superseded + deleted + discarded + draining entries + live
//! entries`, whenever `ledger` and `live` are held. An entry is counted under the lock that moves it.

use crossbeam_utils::CachePadded;

use crate::segment::Retired;
use crate::stats::{Reason, Stats};
use crate::sync::{unlock_fairly, AtomicUsize, Mutex, Ordering};
use crate::Arena;

/// What is swapped out and drained as a whole.
pub trait Generation: Default {
    /// Where its entries live.
    type Arena: Arena;

    /// How many entries it holds.
    fn len(&self) -> usize;

    /// Whether it holds none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The weight of its entries.
    fn bytes(&self) -> u64;

    /// What writes have done to it.
    fn tally(&self) -> Tally;

    /// When its oldest entry came, to the precision of a segment.
    fn oldest(&self) -> Option<i64>;

    /// The generation that takes its place when it is swapped out: an empty one, with what is to outlast
    /// this one.
    fn successor(&mut self) -> Self {
        Self::default()
    }

    /// The weight of the first `count` entries.
    fn bytes_of(&self, count: usize) -> u64;

    /// Forgets the first `count` entries. Memory that nothing is left in goes to `retired`.
    fn retire(&mut self, count: usize, retired: &mut Retired<Self::Arena>);
}

/// What writes did to a generation, all of them together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Entries written.
    pub accepted: u64,
    /// Entries that a newer one has taken the place of, before they were drained.
    pub superseded: u64,
    /// Entries removed before they were drained.
    pub deleted: u64,
}

impl std::ops::Add for Tally {
    type Output = Tally;

    fn add(self, other: Tally) -> Tally {
        Tally {
            accepted: self.accepted + other.accepted,
            superseded: self.superseded + other.superseded,
            deleted: self.deleted + other.deleted,
        }
    }
}

/// The buffer has been closed; nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed;

/// Another process drains this partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotOwner;

/// A batch: `len` entries from the `first` on, counted over the partition's life, starting at 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// The place of its first entry among all that left this partition.
    pub first: u64,
    /// How many entries.
    pub len: usize,
    /// Their weight.
    pub bytes: u64,
    /// When a processor got it.
    pub started_at: i64,
}

/// Entries that were given up, for whoever reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Discarded {
    /// Why.
    pub reason: Reason,
    /// How many entries.
    pub len: usize,
    /// Their weight.
    pub bytes: u64,
}

/// What a partition leaves to another one that takes its place: its counters, without what it held.
#[derive(Debug, Default)]
pub struct Legacy {
    tally: Tally,
    processed: u64,
    discarded: [u64; Reason::ALL.len()],
    unreported: Vec<Discarded>,
}

/// A partition of generations `G`, drained by one owner `O` at a time.
pub struct Partition<G: Generation, O> {
    live: CachePadded<Mutex<Live<G>>>,
    ledger: CachePadded<Mutex<Ledger<O>>>,
    drain: Mutex<Drain<G>>,
    // `Ledger::len`, for writers, who need it for the high-water mark alone. Relaxed is enough: a mark
    // may be late by one batch.
    draining: AtomicUsize,
}

struct Live<G> {
    generation: G,
    // Of the generations before this one. This one counts by itself, so a write that unwinds leaves
    // nothing uncounted.
    former: Tally,
    high_water: usize,
    closed: bool,
}

struct Drain<G: Generation> {
    generation: G,
    retired: Retired<G::Arena>,
}

struct Ledger<O> {
    // Of the draining generation, those in flight included.
    len: usize,
    bytes: u64,
    oldest: Option<i64>,
    owner: Option<O>,
    in_flight: Option<Batch>,
    // The processor has failed with the batch in flight.
    failed: bool,
    processed: u64,
    discarded: [u64; Reason::ALL.len()],
    unreported: Vec<Discarded>,
}

impl<G: Generation, O: Copy + PartialEq> Default for Partition<G, O> {
    fn default() -> Self {
        Self {
            live: CachePadded::new(Mutex::new(Live {
                generation: G::default(),
                former: Tally::default(),
                high_water: 0,
                closed: false,
            })),
            ledger: CachePadded::new(Mutex::new(Ledger {
                len: 0,
                bytes: 0,
                oldest: None,
                owner: None,
                in_flight: None,
                failed: false,
                processed: 0,
                discarded: [0; Reason::ALL.len()],
                unreported: Vec::new(),
            })),
            drain: Mutex::new(Drain {
                generation: G::default(),
                retired: Retired::default(),
            }),
            draining: AtomicUsize::new(0),
        }
    }
}

impl<G: Generation, O: Copy + PartialEq> Partition<G, O> {
    /// Writes to the live generation, unless the partition is closed.
    pub fn write<R>(&self, write: impl FnOnce(&mut G) -> R) -> Result<R, Closed> {
        let mut live = self.live.lock();
        if live.closed {
            return Err(Closed);
        }
        Ok(self.write_locked(&mut live, write))
    }

    /// The same in many short turns of one caller: whoever waits for the lock has it next, instead of
    /// finding it taken again when it has woken up.
    pub fn write_in_turn<R>(&self, write: impl FnOnce(&mut G) -> R) -> Result<R, Closed> {
        let mut live = self.live.lock();
        if live.closed {
            return Err(Closed);
        }
        let result = self.write_locked(&mut live, write);
        unlock_fairly(live);
        Ok(result)
    }

    /// Writes although the partition may be closed: for a write that passed the buffer's gate.
    pub fn write_admitted<R>(&self, write: impl FnOnce(&mut G) -> R) -> R {
        self.write_locked(&mut self.live.lock(), write)
    }

    fn write_locked<R>(&self, live: &mut Live<G>, write: impl FnOnce(&mut G) -> R) -> R {
        let result = write(&mut live.generation);
        let held = live.generation.len() + self.draining.load(Ordering::Relaxed);
        live.high_water = live.high_water.max(held);
        result
    }

    /// Reads the live generation, unless the partition is closed.
    pub fn read_live<R>(&self, read: impl FnOnce(&G) -> R) -> Result<R, Closed> {
        let live = self.live.lock();
        if live.closed {
            return Err(Closed);
        }
        Ok(read(&live.generation))
    }

    /// Closes the partition: later writes are refused, earlier ones are in the live generation.
    pub fn close(&self) {
        self.live.lock().closed = true;
    }

    /// Whether it has been closed.
    pub fn is_closed(&self) -> bool {
        self.live.lock().closed
    }

    /// Entries of the live generation.
    pub fn len(&self) -> usize {
        self.live.lock().generation.len()
    }

    /// Whether the live generation holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes the live generation the draining one, in O(1), if the draining one is empty. Returns
    /// how many entries there are to drain.
    pub fn swap(&self) -> usize {
        // Without waiting for who copies a batch of it.
        let draining = self.draining();
        if draining > 0 {
            return draining;
        }
        let mut drain = self.drain.lock();
        let mut ledger = self.ledger.lock();
        if ledger.len == 0 {
            let mut live = self.live.lock();
            // One that is empty is kept: what it has allocated will be used.
            if !live.generation.is_empty() {
                drain.generation = live.take();
                ledger.bytes = drain.generation.bytes();
                ledger.oldest = drain.generation.oldest();
                self.count_draining(&mut ledger, drain.generation.len());
            }
        }
        ledger.len
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

    /// Settles the batch in flight as processed and starts the next one of up to `limit` entries.
    ///
    /// `read` sees the generation and the batch under the drain lock. The first caller becomes the
    /// owner and stays it until nothing is left (`None`) or [`Partition::settle`] is called. Memory
    /// that is due to be freed is left in `retired`.
    pub fn next<R>(
        &self,
        owner: O,
        limit: usize,
        now: impl FnOnce() -> i64,
        retired: &mut Retired<G::Arena>,
        read: impl FnOnce(&G, &Batch) -> R,
    ) -> Result<Option<R>, NotOwner> {
        let mut guard = self.drain.lock();
        let drain = &mut *guard;
        self.settle_done(drain, owner, retired)?;
        if drain.generation.is_empty() {
            return Ok(None);
        }
        let len = drain.generation.len().min(limit.max(1));
        let bytes = drain.generation.bytes_of(len);
        let batch = {
            let mut ledger = self.ledger.lock();
            ledger.oldest = drain.generation.oldest();
            ledger.failed = false;
            let batch = Batch {
                first: ledger.left() + 1,
                len,
                bytes,
                started_at: now(),
            };
            ledger.in_flight = Some(batch);
            batch
        };
        Ok(Some(read(&drain.generation, &batch)))
    }

    /// Settles the batch in flight as processed. Returns how many entries are left to drain; if there are
    /// none, nobody is the owner any more.
    pub fn done(&self, owner: O, retired: &mut Retired<G::Arena>) -> Result<usize, NotOwner> {
        let mut drain = self.drain.lock();
        self.settle_done(&mut drain, owner, retired)?;
        Ok(drain.generation.len())
    }

    fn settle_done(
        &self,
        drain: &mut Drain<G>,
        owner: O,
        retired: &mut Retired<G::Arena>,
    ) -> Result<(), NotOwner> {
        let settled = {
            let mut ledger = self.ledger.lock();
            ledger.check(owner)?;
            let settled = ledger.in_flight.take();
            if let Some(batch) = settled {
                ledger.processed += batch.len as u64;
                self.forget(&mut ledger, &batch);
            }
            ledger.owner = (ledger.len > 0).then_some(owner);
            settled
        };
        if let Some(batch) = settled {
            drain.generation.retire(batch.len, &mut drain.retired);
        }
        drain.hand_over(retired);
        Ok(())
    }

    /// Tells that the processor has failed with the batch that `owner` has: if it is settled, then for
    /// this reason.
    pub fn fail(&self, owner: O) -> Result<(), NotOwner> {
        let mut ledger = self.ledger.lock();
        ledger.check(owner)?;
        ledger.failed = ledger.in_flight.is_some();
        Ok(())
    }

    /// Reads the draining generation, and the batch in flight.
    pub fn read<R>(&self, read: impl FnOnce(&G, Option<&Batch>) -> R) -> R {
        let drain = self.drain.lock();
        let in_flight = self.ledger.lock().in_flight;
        read(&drain.generation, in_flight.as_ref())
    }

    /// Who drains, and the batch that it has.
    pub fn drain_status(&self) -> (Option<O>, Option<Batch>) {
        let ledger = self.ledger.lock();
        (ledger.owner, ledger.in_flight)
    }

    /// Takes the drain away from its owner, who is gone. The batch in flight, if any, is discarded:
    /// because of the processor, if that is known to have failed, otherwise for `reason`. It is to be
    /// reported ([`Partition::unreported`]).
    pub fn settle(&self, reason: Reason, retired: &mut Retired<G::Arena>) -> Option<Discarded> {
        let mut guard = self.drain.lock();
        let drain = &mut *guard;
        let discarded = {
            let mut ledger = self.ledger.lock();
            ledger.owner = None;
            self.discard_in_flight(&mut ledger, reason)?
        };
        drain.generation.retire(discarded.len, &mut drain.retired);
        drain.hand_over(retired);
        self.ledger.lock().oldest = drain.generation.oldest();
        Some(discarded)
    }

    /// What was discarded and has not been reported, in order.
    pub fn unreported(&self) -> Vec<Discarded> {
        self.ledger.lock().unreported.clone()
    }

    /// The first `count` of it have been reported.
    pub fn reported(&self, count: usize) {
        let unreported = &mut self.ledger.lock().unreported;
        unreported.drain(..count.min(unreported.len()));
    }

    /// Takes all that a closed partition still holds, so that another one can have it: what was
    /// draining, then what was live; and its counters without that. A batch in flight is discarded, as
    /// [`Partition::settle`] does: whoever has it can settle it no more.
    pub fn take_all(&self, retired: &mut Retired<G::Arena>) -> ([G; 2], Legacy) {
        // Held until the end: there is no other batch meanwhile.
        let mut guard = self.drain.lock();
        let drain = &mut *guard;
        let discarded = self.discard_in_flight(&mut self.ledger.lock(), Reason::Killed);
        if let Some(discarded) = discarded {
            drain.generation.retire(discarded.len, &mut drain.retired);
        }
        retired.append(&mut drain.retired);
        let mut ledger = self.ledger.lock();
        let mut live = self.live.lock();
        let all = [std::mem::take(&mut drain.generation), live.take()];
        live.former.accepted -= all.iter().map(|one| one.len() as u64).sum::<u64>();
        let legacy = Legacy {
            tally: std::mem::take(&mut live.former),
            processed: std::mem::take(&mut ledger.processed),
            discarded: std::mem::take(&mut ledger.discarded),
            unreported: std::mem::take(&mut ledger.unreported),
        };
        ledger.owner = None;
        ledger.bytes = 0;
        ledger.oldest = None;
        self.count_draining(&mut ledger, 0);
        (all, legacy)
    }

    /// Adds the counters of a partition that this one takes the place of.
    pub fn inherit(&self, legacy: Legacy) {
        let mut ledger = self.ledger.lock();
        let mut live = self.live.lock();
        live.former = live.former + legacy.tally;
        ledger.processed += legacy.processed;
        for (sum, more) in ledger.discarded.iter_mut().zip(legacy.discarded) {
            *sum += more;
        }
        ledger.unreported.extend(legacy.unreported);
    }

    /// Discards all that a closed partition still holds, in flight or not; `None` if that is nothing.
    /// It is to be reported.
    pub fn discard_rest(
        &self,
        reason: Reason,
        retired: &mut Retired<G::Arena>,
    ) -> Option<Discarded> {
        let mut guard = self.drain.lock();
        let drain = &mut *guard;
        let (mut live, discarded) = {
            let mut ledger = self.ledger.lock();
            let live = self.live.lock().take();
            let len = ledger.len + live.len();
            let bytes = ledger.bytes + live.bytes();
            ledger.owner = None;
            ledger.in_flight = None;
            ledger.bytes = 0;
            ledger.oldest = None;
            self.count_draining(&mut ledger, 0);
            (live, (len > 0).then(|| ledger.discard(reason, len, bytes)))
        };
        for generation in [&mut drain.generation, &mut live] {
            generation.retire(generation.len(), &mut drain.retired);
        }
        drain.hand_over(retired);
        discarded
    }

    /// All figures at one moment.
    pub fn stats(&self) -> Stats {
        let ledger = self.ledger.lock();
        let live = self.live.lock();
        let tally = live.former + live.generation.tally();
        let in_flight = ledger.in_flight.map_or(0, |batch| batch.len);
        Stats {
            accepted: tally.accepted,
            superseded: tally.superseded,
            deleted: tally.deleted,
            processed: ledger.processed,
            discarded: ledger.discarded,
            live: live.generation.len(),
            queued: live.generation.len() + ledger.len - in_flight,
            in_flight,
            bytes: live.generation.bytes() + ledger.bytes,
            high_water: live.high_water,
            oldest: ledger.oldest.or_else(|| live.generation.oldest()),
        }
    }

    /// Discards the batch in flight, if any: because of the processor, if that is known to have failed.
    fn discard_in_flight(&self, ledger: &mut Ledger<O>, reason: Reason) -> Option<Discarded> {
        let batch = ledger.in_flight.take()?;
        let reason = if ledger.failed {
            Reason::Exception
        } else {
            reason
        };
        self.forget(ledger, &batch);
        Some(ledger.discard(reason, batch.len, batch.bytes))
    }

    /// A batch has left the draining generation.
    fn forget(&self, ledger: &mut Ledger<O>, batch: &Batch) {
        ledger.bytes -= batch.bytes;
        let left = ledger.len - batch.len;
        if left == 0 {
            ledger.oldest = None;
        }
        self.count_draining(ledger, left);
    }

    fn count_draining(&self, ledger: &mut Ledger<O>, len: usize) {
        ledger.len = len;
        self.draining.store(len, Ordering::Relaxed);
    }
}

impl<G: Generation> Live<G> {
    /// Takes the generation; what was done to it stays counted.
    fn take(&mut self) -> G {
        self.former = self.former + self.generation.tally();
        let next = self.generation.successor();
        std::mem::replace(&mut self.generation, next)
    }
}

impl<G: Generation> Drain<G> {
    /// Gives memory away that is due to be freed: when it is much, and all of it at the end.
    fn hand_over(&mut self, retired: &mut Retired<G::Arena>) {
        if self.retired.is_much() || self.generation.is_empty() {
            retired.append(&mut self.retired);
        }
    }
}

impl<O: Copy + PartialEq> Ledger<O> {
    fn check(&self, owner: O) -> Result<(), NotOwner> {
        match self.owner {
            Some(other) if other != owner => Err(NotOwner),
            _ => Ok(()),
        }
    }

    fn discard(&mut self, reason: Reason, len: usize, bytes: u64) -> Discarded {
        let discarded = Discarded { reason, len, bytes };
        self.discarded[reason as usize] += len as u64;
        self.unreported.push(discarded);
        discarded
    }

    /// How many entries have left this partition for good.
    fn left(&self) -> u64 {
        self.processed + self.discarded.iter().sum::<u64>()
    }
}
