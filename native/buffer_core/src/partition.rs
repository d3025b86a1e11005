//! One live and one draining generation, and their counters.
//!
//! Locks, which may be taken in this order: `drain`, `ledger`, `live`, and then one of `awaiting`, `kept`
//! and the buffer's capacity. Writers only ever take `live` and what comes after it. Who drains holds
//! `drain` while it copies a batch out, however long that takes; what is asked meanwhile (figures, the
//! state of the drain) is answered from the `ledger`, which is never held for longer than it takes to
//! write a few numbers.
//!
//! Invariants:
//!
//! * `accepted == processed + superseded + deleted + discarded + draining entries + live entries`,
//!   whenever `ledger` and `live` are held. An entry is counted under the lock that moves it.
//! * While the buffer has a limit, the room of an entry is taken before it is written, and given back
//!   under the lock that moves it out.

mod drain;
mod end;
mod room;

use std::sync::Arc;

use crossbeam_utils::CachePadded;

use crate::awaiting::Awaiting;
use crate::capacity::{Capacity, Credit, Size};
use crate::delivery::{After, Batch, Discarded, Piece};
use crate::kept::{Kept, KeptBatch};
use crate::segment::Retired;
use crate::stats::{Reason, Stats};
use crate::sync::{unlock_fairly, AtomicUsize, Mutex, Ordering};
use crate::Arena;

pub use end::Legacy;
pub use room::{Room, Rows};

/// What is swapped out and drained as a whole.
///
/// Its entries have places: those of a generation count from 0, and an entry that comes later has a
/// higher one.
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

    /// The first entries, up to `entries` and up to `bytes` of them, but one at least.
    fn first(&self, entries: usize, bytes: u64) -> First;

    /// How many of the first entries certainly came before `moment`. `swapped_at` is when the generation
    /// was made the draining one.
    fn older_than(&self, moment: i64, swapped_at: i64) -> usize {
        if swapped_at < moment {
            self.len()
        } else {
            0
        }
    }

    /// How many places of this generation have been left, and how many there are.
    fn places(&self) -> (u64, u64);

    /// The generation that takes its place when it is swapped out: an empty one, with what is to outlast
    /// this one.
    fn successor(&mut self) -> Self {
        Self::default()
    }

    /// Forgets the first `count` entries. Memory that nothing is left in goes to `retired`.
    fn retire(&mut self, count: usize, retired: &mut Retired<Self::Arena>);

    /// Forgets the first `count` entries of a generation that goes on being written to.
    fn evict(&mut self, count: usize, now: fn() -> i64, retired: &mut Retired<Self::Arena>) {
        let _ = now;
        self.retire(count, retired);
    }

    /// Takes the first `count` entries, if it can without taking all.
    fn split(&mut self, count: usize) -> Option<Self> {
        let _ = count;
        None
    }
}

/// The first entries of a generation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct First {
    /// How many.
    pub len: usize,
    /// Their weight.
    pub bytes: u64,
    /// The places up to the last of them.
    pub places: u64,
}

impl First {
    pub(crate) fn add(&mut self, len: usize, bytes: u64) {
        self.len += len;
        self.bytes += bytes;
        self.places += len as u64;
    }
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

/// A write that was made, and what it asks for.
#[derive(Debug)]
pub struct Written<R, O> {
    /// What the write answered.
    pub result: R,
    /// Who is to be told that it is time to process, or to report.
    pub signal: Option<O>,
}

/// A partition of generations `G`, drained by one owner `O` at a time.
pub struct Partition<G: Generation, O> {
    live: CachePadded<Mutex<Live<G, O>>>,
    ledger: CachePadded<Mutex<Ledger<O>>>,
    drain: Mutex<Drain<G>>,
    awaiting: Mutex<Awaiting<O>>,
    kept: Mutex<Kept<G::Arena>>,
    capacity: Arc<Capacity>,
    // `Ledger::len`, for writers, who need it for the high-water mark alone. Relaxed is enough: a mark
    // may be late by one batch.
    draining: AtomicUsize,
}

struct Live<G, O> {
    generation: G,
    // Places of the generations before this one.
    base: u64,
    // Of the generations before this one. This one counts by itself, so a write that unwinds leaves
    // nothing uncounted.
    former: Tally,
    high_water: usize,
    closed: bool,
    // Whether room is to be taken.
    bounded: bool,
    // At how much it is time to process, who is to be told, and whether it has been.
    trigger: Size,
    notify: Option<O>,
    signaled: bool,
    // Entries dropped to make room, or instead of being written, that the ledger does not know of, and
    // whether somebody has been told of that.
    overflow: Size,
    overflow_signaled: bool,
}

struct Drain<G: Generation> {
    generation: G,
    // Places before its first one, and those up to its last one.
    base: u64,
    until: u64,
    swapped_at: i64,
    // How its first entries are to be tried again.
    pieces: std::collections::VecDeque<Piece>,
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
    failed: Option<Reason>,
    paused: bool,
    bounded: bool,
    processed: u64,
    retries: u64,
    discarded: [u64; Reason::ALL.len()],
    unreported: Vec<Discarded>,
}

impl<G: Generation, O: Copy + PartialEq> Default for Partition<G, O> {
    fn default() -> Self {
        Self::new(Arc::default())
    }
}

impl<G: Generation, O: Copy + PartialEq> Partition<G, O> {
    /// An empty partition of a buffer of this capacity.
    pub fn new(capacity: Arc<Capacity>) -> Self {
        Self {
            live: CachePadded::new(Mutex::new(Live {
                generation: G::default(),
                base: 0,
                former: Tally::default(),
                high_water: 0,
                closed: false,
                bounded: false,
                trigger: Size::UNLIMITED,
                notify: None,
                signaled: false,
                overflow: Size::default(),
                overflow_signaled: false,
            })),
            ledger: CachePadded::new(Mutex::new(Ledger {
                len: 0,
                bytes: 0,
                oldest: None,
                owner: None,
                in_flight: None,
                failed: None,
                paused: false,
                bounded: false,
                processed: 0,
                retries: 0,
                discarded: [0; Reason::ALL.len()],
                unreported: Vec::new(),
            })),
            drain: Mutex::new(Drain {
                generation: G::default(),
                base: 0,
                until: 0,
                swapped_at: 0,
                pieces: std::collections::VecDeque::new(),
                retired: Retired::default(),
            }),
            awaiting: Mutex::default(),
            kept: Mutex::default(),
            capacity,
            draining: AtomicUsize::new(0),
        }
    }

    /// Writes to the live generation, unless the partition is closed. The write takes the room that it
    /// needs from `Room` first.
    pub fn write<R>(
        &self,
        after: &mut After<G::Arena, O>,
        write: impl FnOnce(&mut G, &mut Room<'_, G, O>) -> R,
    ) -> Result<Written<R, O>, Closed> {
        let mut guard = self.live.lock();
        if guard.closed {
            return Err(Closed);
        }
        let live = &mut *guard;
        if !live.bounded {
            let mut room = Room::unlimited(self);
            let result = write(&mut live.generation, &mut room);
            return Ok(self.written(live, result));
        }
        let before = size_of(&live.generation);
        let mut room = Room::limited(self, live.base, after);
        let result = write(&mut live.generation, &mut room);
        let (evicted, credit) = room.into_parts();
        live.overflow += evicted;
        if credit.is_none() && evicted != Size::default() {
            after.room |= self.capacity.give_back(evicted);
        }
        self.account(before - evicted, size_of(&live.generation), credit, after);
        Ok(self.written(live, result))
    }

    /// Writes although the partition may be closed, and without asking for room: for a write that passed
    /// the buffer's gate and has taken room for all that it writes, `credit`.
    pub fn write_admitted<R>(
        &self,
        credit: &mut Credit,
        after: &mut After<G::Arena, O>,
        write: impl FnOnce(&mut G) -> R,
    ) -> Written<R, O> {
        let mut guard = self.live.lock();
        let live = &mut *guard;
        let before = live.bounded.then(|| size_of(&live.generation));
        let result = write(&mut live.generation);
        if let Some(before) = before {
            *credit = self.account(before, size_of(&live.generation), Some(*credit), after);
        }
        self.written(live, result)
    }

    /// The same for what somebody waits for: `owner` is told when it has left. `write` answers the places in
    /// its generation that have what it wrote.
    pub fn write_awaited(
        &self,
        credit: &mut Credit,
        after: &mut After<G::Arena, O>,
        (owner, token): (O, u64),
        write: impl FnOnce(&mut G) -> std::ops::Range<u64>,
    ) -> Written<(), O> {
        let mut guard = self.live.lock();
        let live = &mut *guard;
        let before = live.bounded.then(|| size_of(&live.generation));
        let places = write(&mut live.generation);
        if let Some(before) = before {
            *credit = self.account(before, size_of(&live.generation), Some(*credit), after);
        }
        let (from, last) = (live.base + places.start, live.base + places.end);
        self.awaiting.lock().add(owner, token, from, last);
        self.written(live, ())
    }

    /// Looks at the live generation, or changes what does not count, in many short turns of one caller:
    /// whoever waits for the lock has it next, instead of finding it taken again when it has woken up.
    pub fn in_turn<R>(&self, turn: impl FnOnce(&mut G) -> R) -> Result<R, Closed> {
        let mut live = self.live.lock();
        if live.closed {
            return Err(Closed);
        }
        let result = turn(&mut live.generation);
        unlock_fairly(live);
        Ok(result)
    }

    /// Changes the live generation although the partition may be closed, and without taking room: where
    /// nobody writes or drains meanwhile.
    pub fn amend<R>(&self, change: impl FnOnce(&mut G) -> R) -> R {
        let mut live = self.live.lock();
        let result = change(&mut live.generation);
        self.written(&mut live, result).result
    }

    /// Counts what a write has changed.
    fn account(
        &self,
        before: Size,
        now: Size,
        credit: Option<Credit>,
        after: &mut After<G::Arena, O>,
    ) -> Credit {
        let (gained, lost) = (now - before, before - now);
        let (credit, waiting) = self.capacity.spend(credit.unwrap_or(Credit::NONE), gained);
        after.room |= waiting;
        if lost != Size::default() {
            after.room |= self.capacity.give_back(lost);
        }
        credit
    }

    fn written<R>(&self, live: &mut Live<G, O>, result: R) -> Written<R, O> {
        let len = live.generation.len();
        let held = len + self.draining.load(Ordering::Relaxed);
        live.high_water = live.high_water.max(held);
        Written {
            result,
            signal: live.signal(),
        }
    }

    /// Counts entries that are dropped instead of being written, and keeps them if `keep` does. Refused if
    /// the partition is closed.
    pub fn drop_new(
        &self,
        size: Size,
        keep: Option<impl FnOnce(&mut G::Arena)>,
    ) -> Result<Written<(), O>, Closed> {
        let mut live = self.live.lock();
        if live.closed {
            return Err(Closed);
        }
        live.former.accepted += size.entries as u64;
        live.overflow += size;
        if let Some(keep) = keep {
            let place = live.base + live.generation.places().1;
            self.kept.lock().add_to_last((place, place), keep);
        }
        Ok(Written {
            result: (),
            signal: live.signal(),
        })
    }

    /// Drops the oldest entries of the live generation, until they have this size. Answers their size.
    pub fn evict(
        &self,
        size: Size,
        rows: &Rows<'_, G>,
        after: &mut After<G::Arena, O>,
    ) -> (Size, Option<O>) {
        let mut guard = self.live.lock();
        let live = &mut *guard;
        if !live.bounded {
            return (Size::default(), None);
        }
        let mut room = Room::limited(self, live.base, after);
        room.evict(&mut live.generation, size, rows);
        let (evicted, _) = room.into_parts();
        live.overflow += evicted;
        after.room |= self.capacity.give_back(evicted);
        (evicted, live.signal())
    }

    /// Has `notify` be told when the live generation has `trigger` entries or bytes. Answers whether it
    /// does already: then nobody is told.
    pub fn arm(&self, notify: O, trigger: Size) -> bool {
        let mut live = self.live.lock();
        live.notify = Some(notify);
        live.trigger = trigger;
        live.overflow_signaled = false;
        live.signaled = live.is_due();
        live.signaled
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

    /// Has `owner` be told when all that is held now has left. `false` if nothing is held: nobody is told
    /// then.
    pub fn await_all(&self, owner: O, token: u64) -> bool {
        let ledger = self.ledger.lock();
        let live = self.live.lock();
        if ledger.len == 0 && live.generation.is_empty() {
            return false;
        }
        let last = live.base + live.generation.places().1;
        self.awaiting.lock().add(owner, token, 0, last);
        true
    }

    /// The one with this token is told nothing any more. Whether it would have been.
    pub fn await_no_more(&self, token: u64) -> bool {
        self.awaiting.lock().cancel(token)
    }

    /// How many wait to be told.
    pub fn awaiting(&self) -> usize {
        self.awaiting.lock().len()
    }

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

    /// The next batch that was given up and that somebody is to be told of; the one before it is kept no
    /// more.
    pub fn next_kept<R>(&self, read: impl FnOnce(&KeptBatch<G::Arena>) -> R) -> Option<R> {
        self.kept.lock().take().map(read)
    }

    /// How many entries are kept until somebody has been told of them.
    pub fn kept(&self) -> usize {
        self.kept.lock().len()
    }
}

impl<G: Generation, O: Copy> Live<G, O> {
    /// Takes the generation; what was done to it stays counted.
    fn take(&mut self) -> G {
        self.former = self.former + self.generation.tally();
        self.base += self.generation.places().1;
        self.signaled = false;
        let next = self.generation.successor();
        std::mem::replace(&mut self.generation, next)
    }

    fn is_due(&self) -> bool {
        let entries = self.generation.len() >= self.trigger.entries;
        // The weight of a map takes a moment to be summed up.
        entries || (self.trigger.bytes < u64::MAX && self.generation.bytes() >= self.trigger.bytes)
    }

    /// Who is to be told now.
    fn signal(&mut self) -> Option<O> {
        let mut signal = None;
        if !self.signaled && self.is_due() {
            self.signaled = true;
            signal = self.notify;
        }
        if self.overflow.entries > 0 && !self.overflow_signaled {
            self.overflow_signaled = true;
            signal = self.notify;
        }
        signal
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

fn size_of<G: Generation>(generation: &G) -> Size {
    Size {
        entries: generation.len(),
        bytes: generation.bytes(),
    }
}

/// Introduces, changes or lifts the limit of a buffer of these partitions. Answers whether writers wait for
/// room.
///
/// All partitions stand still meanwhile, so that what they hold counts exactly once. Their locks are
/// taken in the order of the partitions; nobody else ever holds those of two.
pub fn set_limit<G: Generation, O: Copy + PartialEq>(
    partitions: &[Partition<G, O>],
    capacity: &Capacity,
    limit: Option<Size>,
) -> bool {
    let mut all: Vec<_> = partitions
        .iter()
        .map(|partition| (partition.ledger.lock(), partition.live.lock()))
        .collect();
    let mut held = Size::default();
    for (ledger, live) in &mut all {
        ledger.bounded = limit.is_some();
        live.bounded = limit.is_some();
        held += size_of(&live.generation);
        held += Size {
            entries: ledger.len,
            bytes: ledger.bytes,
        };
    }
    capacity.set_limit(limit, || held)
}
