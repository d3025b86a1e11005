//! One partition of a broker: what waits there, and what became of the rest. All of it under one lock.
//!
//! Invariant: `accepted = started + cancelled + dropped + waiting`, whenever the lock is free.

use super::codel;
use super::config::{Config, Order, Overflow};
use super::dropped::{Drop, Dropped, Drops};
use super::patience::{Patience, Slow};
use super::waiting::{Chunk, Entry, Left, Place, Waiting};
use crate::sync::Mutex;
use crate::{Arena, Segment};

/// What happened in one partition, or in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages that came in.
    pub accepted: u64,
    /// Those that a worker has taken.
    pub started: u64,
    /// Those that were taken back by who had sent them.
    pub cancelled: u64,
    /// Those that were given up.
    pub dropped: Drops,
    /// Those that did not come in, because there was no room.
    pub refused: u64,
}

impl Counts {
    pub(super) fn add(&mut self, other: &Counts) {
        self.accepted += other.accepted;
        self.started += other.started;
        self.cancelled += other.cancelled;
        self.refused += other.refused;
        for (sum, count) in self.dropped.iter_mut().zip(other.dropped) {
            *sum += count;
        }
    }
}

/// What is left to do when no lock is held any more.
pub(super) struct Effects<A, P> {
    pub(super) freed: Vec<Box<Chunk<A, P>>>,
    /// To be dropped. Boxed: there is none, mostly, and this is moved around with each message.
    pub(super) kept: Option<Box<Segment<A>>>,
    /// The reporter has to be told.
    pub(super) look: bool,
    /// It is not to be left to the one worker that is at work.
    pub(super) stuck: bool,
    /// Something was dropped that is to be told to somebody.
    pub(super) dropped: bool,
    /// Somebody is to look after patient callers.
    pub(super) patient: bool,
    /// One of them is to be told now.
    pub(super) slow: Option<Box<Slow<A>>>,
}

impl<A, P> Default for Effects<A, P> {
    fn default() -> Self {
        Self {
            freed: Vec::new(),
            kept: None,
            look: false,
            stuck: false,
            dropped: false,
            patient: false,
            slow: None,
        }
    }
}

pub(super) struct Partition<A, P> {
    pub(super) waiting: Waiting<A, P>,
    pub(super) config: Config,
    pub(super) closed: bool,
    /// It has been closed and emptied: nobody takes messages out any more.
    pub(super) over: bool,
    /// How many messages have come back that had been handed to a worker.
    pub(super) returns: u64,
    pub(super) counts: Counts,
    /// When a worker has started a message the last time.
    pub(super) taken_at: i64,
    codel: codel::State,
    next: u64,
}

impl<A: Arena, P: Copy> Partition<A, P> {
    /// So many messages are worth to be taken along.
    pub(super) const LEAST: usize = if cfg!(loom) { 1 } else { 8 };

    pub(super) fn new(config: Config) -> Self {
        Self {
            waiting: Waiting::default(),
            config,
            closed: false,
            over: false,
            returns: 0,
            counts: Counts::default(),
            taken_at: 0,
            codel: codel::State::default(),
            next: 1,
        }
    }

    /// The id of the next message, out of those of this partition.
    pub(super) fn next_id(&mut self, index: usize, partitions: usize) -> u64 {
        let id = self.coming_id(index, partitions);
        self.next += 1;
        id
    }

    /// The id that the next message gets.
    pub(super) fn coming_id(&self, index: usize, partitions: usize) -> u64 {
        self.next * partitions as u64 + index as u64
    }

    /// A message that nobody waits for comes in, if there is room for it and it does not have to be looked after. `store` may
    /// refuse it.
    pub(super) fn push_loose(
        &mut self,
        id: u64,
        at: i64,
        spare: impl FnOnce() -> Option<Box<Chunk<A, P>>>,
        store: impl FnOnce(&mut Segment<A>) -> Option<u32>,
    ) -> bool {
        let is_usual = !self.closed && self.has_room() && self.config.timeout.is_none();
        if !is_usual || !self.waiting.push_loose(id, at, spare, store) {
            return false;
        }
        self.next += 1;
        self.counts.accepted += 1;
        true
    }

    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < self.config.max
    }

    /// Makes room if that is what the configuration says.
    pub(super) fn make_room(
        &mut self,
        now: i64,
        dropped: &Mutex<Dropped<A>>,
        effects: &mut Effects<A, P>,
    ) -> bool {
        const EXPIRED: usize = 32;
        if !self.has_room() {
            self.expire(now, EXPIRED, dropped, effects);
        }
        if self.has_room() {
            return true;
        }
        if self.config.overflow == Overflow::Newest || self.config.max == 0 {
            return false;
        }
        // More than one is too many after the bound was lowered.
        for _ in 0..EXPIRED {
            if self.has_room() {
                return true;
            }
            if let Some(oldest) = self.waiting.front() {
                self.drop_at(oldest, Drop::Full, dropped, effects);
            }
        }
        self.has_room()
    }

    /// Which message is to be taken.
    pub(super) fn next_place(&self) -> Option<Place> {
        match self.config.order {
            Order::Fifo => self.waiting.front(),
            Order::Lifo => self.waiting.back(),
        }
    }

    /// When the next message has waited for too long, or somebody should look after callers.
    pub(super) fn next_due(&self, now: i64) -> Option<i64> {
        /// Callers that died are looked for that often.
        const SWEEP: i64 = 1_000_000_000;
        let own = self.waiting.first_due().map(|(due, _)| due);
        let common = self.common_due().map(|(due, _)| due);
        let sweep = (self.waiting.called() > 0).then(|| now.saturating_add(SWEEP));
        own.into_iter().chain(common).chain(sweep).min()
    }

    fn common_due(&self) -> Option<(i64, Place)> {
        let timeout = self.config.timeout?;
        if self.waiting.len() <= self.config.min {
            return None;
        }
        let place = self.waiting.front()?;
        let (entry, _) = self.waiting.get(place)?;
        Some((entry.at.saturating_add(timeout), place))
    }

    /// Drops messages that have waited for too long, `count` at the most. Answers whether all of
    /// them are dropped.
    pub(super) fn expire(
        &mut self,
        now: i64,
        count: usize,
        dropped: &Mutex<Dropped<A>>,
        effects: &mut Effects<A, P>,
    ) -> bool {
        for _ in 0..count {
            let due = [self.waiting.first_due(), self.common_due()];
            let Some((_, place)) = due.into_iter().flatten().find(|(due, _)| *due <= now) else {
                return true;
            };
            self.drop_at(place, Drop::Timeout, dropped, effects);
        }
        false
    }

    /// Drops the oldest if CoDel says so.
    pub(super) fn control_delay(
        &mut self,
        now: i64,
        dropped: &Mutex<Dropped<A>>,
        effects: &mut Effects<A, P>,
    ) -> bool {
        let Some(codel) = self.config.codel else {
            return false;
        };
        let oldest = self.waiting.front();
        let oldest = oldest.filter(|_| self.waiting.len() > self.config.min);
        let sojourn = oldest.and_then(|place| {
            let (entry, _) = self.waiting.get(place)?;
            Some(now.saturating_sub(entry.at))
        });
        let drops = self.codel.drops(codel, now, sojourn);
        if let (true, Some(place)) = (drops, oldest) {
            self.drop_at(place, Drop::Delay, dropped, effects);
        }
        drops
    }

    /// A worker has found nothing: no message has to wait.
    pub(super) fn rest(&mut self) {
        if self.config.codel.is_some() {
            self.codel.rest();
        }
    }

    /// Gives one message up.
    pub(super) fn drop_at(
        &mut self,
        place: Place,
        reason: Drop,
        dropped: &Mutex<Dropped<A>>,
        effects: &mut Effects<A, P>,
    ) {
        let Some((entry, arena)) = self.waiting.get(place) else {
            return;
        };
        // The dead need no answer.
        let reply = entry.reply.filter(|_| reason != Drop::CallerDown);
        let reply = reply.map(|index| (arena, index));
        effects.dropped |= reply.is_some();
        let told = entry.patience == Patience::Told;
        effects.look |= dropped.lock().push(reason, reply, told, entry.at);
        self.counts.dropped[reason as usize] += 1;
        self.remove(place, effects);
    }

    /// Takes one message out without counting it.
    pub(super) fn remove(&mut self, place: Place, effects: &mut Effects<A, P>) -> Option<Entry<P>> {
        let (entry, chunk) = self.waiting.remove(place)?;
        effects.freed.extend(chunk);
        Some(entry)
    }

    /// A message is handed to a worker, past all that wait: there are none.
    pub(super) fn hand(&mut self, now: i64) {
        self.taken_at = now;
        self.counts.accepted += 1;
        self.counts.started += 1;
        self.rest();
    }

    /// One that was handed to a worker comes back: it goes before all that came later.
    pub(super) fn put_back(
        &mut self,
        (entry, segment): (Entry<P>, Segment<A>),
        dropped: &Mutex<Dropped<A>>,
        effects: &mut Effects<A, P>,
    ) {
        self.counts.started -= 1;
        self.returns += 1;
        let place = self.waiting.put_back(entry, segment);
        if self.over {
            self.drop_at(place, Drop::Shutdown, dropped, effects);
        }
    }

    /// Whether messages may be lent: nothing else may happen to them meanwhile, and they are taken in order.
    fn lends(&self) -> bool {
        let Config {
            order,
            max,
            timeout,
            codel,
            ..
        } = self.config;
        let free = max == usize::MAX && timeout.is_none() && codel.is_none();
        order == Order::Fifo && free
    }

    /// Whether a worker that takes messages along is to look: there are enough of them, or more behind those, or they are
    /// none to be taken along.
    pub(super) fn is_worth_it(&self) -> bool {
        let lends = self.lends() && self.waiting.lends();
        !self.waiting.is_empty() && (!lends || self.waiting.lends_enough(Self::LEAST))
    }

    /// Lends messages to a worker, which will start them.
    pub(super) fn lend(&mut self, least: usize) -> Option<Box<Chunk<A, P>>> {
        if !self.lends() {
            return None;
        }
        let chunk = self.waiting.lend(least)?;
        self.counts.started += chunk.held() as u64;
        Some(chunk)
    }

    /// Those of them that the worker has not started come back; they may be lent again, or not.
    pub(super) fn take_back(
        &mut self,
        chunk: Box<Chunk<A, P>>,
        again: bool,
        dropped: &Mutex<Dropped<A>>,
        effects: &mut Effects<A, P>,
    ) {
        self.counts.started -= chunk.held() as u64;
        self.waiting.take_back(chunk, again);
        while let Some(place) = self.waiting.front().filter(|_| self.over) {
            self.drop_at(place, Drop::Shutdown, dropped, effects);
        }
    }

    /// Takes one message out that a worker starts.
    pub(super) fn start(&mut self, place: Place, now: i64) -> Option<Left<A, P>> {
        self.taken_at = now;
        let left = self.waiting.remove(place)?;
        self.counts.started += 1;
        Some(left)
    }
}
