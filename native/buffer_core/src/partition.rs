//! One live and one draining generation, and their counters.
//!
//! Writers only ever take the `live` lock. Who drains takes `drain`, and `live` inside it for the
//! swap: the order is `drain`, then `live`, never the other way round.
//!
//! Invariant: `accepted == processed + superseded + deleted + discarded + draining entries + live
//! entries`, whenever both locks are held. An entry is counted where it is moved, under the lock that moves it.

use crossbeam_utils::CachePadded;

use crate::segment::Retired;
use crate::stats::{Reason, Stats};
use crate::sync::{AtomicUsize, Mutex, Ordering};
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

/// A partition of generations `G`, drained by one owner `O` at a time.
pub struct Partition<G: Generation, O> {
    live: CachePadded<Mutex<Live<G>>>,
    drain: CachePadded<Mutex<Drain<G, O>>>,
    // Entries of the draining generation: written under `drain`, read by writers for the high-water
    // mark alone. Relaxed is enough, a mark may be late by one batch.
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

struct Drain<G: Generation, O> {
    generation: G,
    retired: Retired<G::Arena>,
    owner: Option<O>,
    in_flight: Option<Batch>,
    processed: u64,
    discarded: [u64; Reason::ALL.len()],
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
            drain: CachePadded::new(Mutex::new(Drain {
                generation: G::default(),
                retired: Retired::default(),
                owner: None,
                in_flight: None,
                processed: 0,
                discarded: [0; Reason::ALL.len()],
            })),
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
        let mut drain = self.drain.lock();
        if drain.generation.is_empty() {
            let mut live = self.live.lock();
            // One that is empty is kept: what it has allocated will be used.
            if !live.generation.is_empty() {
                drain.generation = live.take();
            }
            self.draining
                .store(drain.generation.len(), Ordering::Relaxed);
        }
        drain.generation.len()
    }

    /// Entries of the draining generation, those in flight included.
    pub fn draining(&self) -> usize {
        self.drain.lock().generation.len()
    }

    /// Makes `owner` the one who drains, unless somebody else does.
    pub fn claim(&self, owner: O) -> Result<(), NotOwner> {
        let mut drain = self.drain.lock();
        if drain.owner.is_some_and(|other| other != owner) {
            return Err(NotOwner);
        }
        drain.owner = Some(owner);
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
        if drain.owner.is_some_and(|other| other != owner) {
            return Err(NotOwner);
        }
        if let Some(batch) = drain.in_flight.take() {
            drain.processed += batch.len as u64;
            drain.generation.retire(batch.len, &mut drain.retired);
            self.draining
                .store(drain.generation.len(), Ordering::Relaxed);
        }
        drain.hand_over(retired);
        if drain.generation.is_empty() {
            drain.owner = None;
            return Ok(None);
        }
        let len = drain.generation.len().min(limit.max(1));
        let batch = Batch {
            first: drain.left() + 1,
            len,
            bytes: drain.generation.bytes_of(len),
            started_at: now(),
        };
        drain.owner = Some(owner);
        drain.in_flight = Some(batch);
        Ok(Some(read(&drain.generation, &batch)))
    }

    /// Reads the batch in flight again, or the whole draining generation before it is in flight.
    pub fn read<R>(&self, read: impl FnOnce(&G, Option<&Batch>) -> R) -> R {
        let drain = self.drain.lock();
        read(&drain.generation, drain.in_flight.as_ref())
    }

    /// Who drains, and the batch that it has.
    pub fn drain_status(&self) -> (Option<O>, Option<Batch>) {
        let drain = self.drain.lock();
        (drain.owner, drain.in_flight)
    }

    /// Takes the drain away from its owner, who is gone. The batch in flight, if any, is discarded.
    pub fn settle(&self, reason: Reason, retired: &mut Retired<G::Arena>) -> Option<Batch> {
        let mut guard = self.drain.lock();
        let drain = &mut *guard;
        drain.owner = None;
        let batch = drain.in_flight.take()?;
        drain.discarded[reason as usize] += batch.len as u64;
        drain.generation.retire(batch.len, &mut drain.retired);
        drain.hand_over(retired);
        self.draining
            .store(drain.generation.len(), Ordering::Relaxed);
        Some(batch)
    }

    /// Takes all that a closed partition still holds, so that another one can have it: what was
    /// draining, then what was live. A batch in flight is to be settled before.
    pub fn take_all(&self) -> [G; 2] {
        let mut guard = self.drain.lock();
        let drain = &mut *guard;
        drain.owner = None;
        drain.in_flight = None;
        self.draining.store(0, Ordering::Relaxed);
        let mut live = self.live.lock();
        let all = [std::mem::take(&mut drain.generation), live.take()];
        live.former.accepted -= all.iter().map(|one| one.len() as u64).sum::<u64>();
        all
    }

    /// Discards all that a closed partition still holds, in flight or not. Returns how many entries
    /// that were and their weight.
    pub fn discard_rest(&self, reason: Reason, retired: &mut Retired<G::Arena>) -> (usize, u64) {
        let mut guard = self.drain.lock();
        let drain = &mut *guard;
        drain.owner = None;
        drain.in_flight = None;
        let mut live = self.live.lock().take();
        let mut sum = (0, 0);
        for generation in [&mut drain.generation, &mut live] {
            sum.0 += generation.len();
            sum.1 += generation.bytes();
            generation.retire(generation.len(), &mut drain.retired);
        }
        drain.hand_over(retired);
        drain.discarded[reason as usize] += sum.0 as u64;
        self.draining.store(0, Ordering::Relaxed);
        sum
    }

    /// All figures at one moment.
    pub fn stats(&self) -> Stats {
        let drain = self.drain.lock();
        let live = self.live.lock();
        let tally = live.former + live.generation.tally();
        let in_flight = drain.in_flight.map_or(0, |batch| batch.len);
        Stats {
            accepted: tally.accepted,
            superseded: tally.superseded,
            deleted: tally.deleted,
            processed: drain.processed,
            discarded: drain.discarded,
            live: live.generation.len(),
            queued: live.generation.len() + drain.generation.len() - in_flight,
            in_flight,
            bytes: live.generation.bytes() + drain.generation.bytes(),
            high_water: live.high_water,
            oldest: drain
                .generation
                .oldest()
                .or_else(|| live.generation.oldest()),
        }
    }
}

impl<G: Generation> Live<G> {
    /// Takes the generation; what was done to it stays counted.
    fn take(&mut self) -> G {
        self.former = self.former + self.generation.tally();
        std::mem::take(&mut self.generation)
    }
}

impl<G: Generation, O> Drain<G, O> {
    /// Gives memory away that is due to be freed: when it is much, and all of it at the end.
    fn hand_over(&mut self, retired: &mut Retired<G::Arena>) {
        if self.retired.is_due() || self.generation.is_empty() {
            retired.append(&mut self.retired);
        }
    }

    /// How many entries have left this partition for good.
    fn left(&self) -> u64 {
        self.processed + self.discarded.iter().sum::<u64>()
    }
}
