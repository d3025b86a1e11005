//! A plain model of a partition of a queue and of the room of its buffer: deques and a handful of numbers.
//!
//! It says what each operation answers, what is held and counted after it, and who is told.

use std::collections::VecDeque;

use buffer_core::{Credit, Discarded, NoRoom, Policy, Reason, Size, Stats};

pub type Owner = u8;

/// An entry that is held; `done`: one of a batch that has been processed but for others.
#[derive(Clone, Copy)]
pub struct Entry {
    pub value: u64,
    pub weight: u32,
    /// When its segment was.
    pub opened: i64,
    pub place: u64,
    pub done: bool,
}

#[derive(Clone, Copy)]
pub struct Piece {
    pub len: usize,
    pub attempt: u32,
}

#[derive(Clone, Copy)]
pub struct InFlight {
    pub len: usize,
    pub attempt: u32,
    pub started_at: i64,
    pub call: Call,
}

/// How the call of the processor stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Runs,
    Returned,
    Ended,
}

/// Somebody who awaits the places after `after` up to `last`.
#[derive(Clone, Copy)]
pub struct Awaiting {
    pub owner: Owner,
    pub token: u64,
    pub after: u64,
    pub last: u64,
    pub lost: Option<Reason>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Kept {
    pub reason: Reason,
    pub values: Vec<u64>,
    pub places: (u64, u64),
    pub attempts: u32,
}

/// Room that was taken; `counts`: under the limit that there is now.
#[derive(Clone, Copy)]
pub struct Taken {
    pub credit: Credit,
    pub counts: bool,
}

#[derive(Default)]
pub struct Model {
    pub live: VecDeque<Entry>,
    pub draining: VecDeque<Entry>,
    pub swapped_at: i64,
    pub pieces: VecDeque<Piece>,
    pub owner: Option<Owner>,
    pub in_flight: Option<InFlight>,
    pub failed: Option<Reason>,
    pub unreported: Vec<Discarded>,
    /// Discarded because of overflow since somebody last asked.
    pub overflow: Size,
    pub accepted: u64,
    pub processed: u64,
    pub retries: u64,
    pub discarded: [u64; Reason::ALL.len()],
    pub high_water: usize,
    pub closed: bool,
    pub paused: bool,
    /// The last place that was given to an entry.
    pub place: u64,
    pub notify: Option<Owner>,
    pub trigger: Option<Size>,
    pub signaled: bool,
    pub overflow_signaled: bool,
    pub awaiting: Vec<Awaiting>,
    pub keeps: bool,
    pub kept: VecDeque<Kept>,
    /// Of the batch that was handed out last.
    pub told: usize,
    pub limit: Option<Size>,
    pub credits: Vec<Taken>,
    /// Writers that wait for room, by ticket.
    pub waiters: VecDeque<(u64, Size)>,
}

pub fn weigh<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> u64 {
    let weights = entries.into_iter().map(|entry| u64::from(entry.weight));
    weights.sum()
}

pub fn values<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Vec<u64> {
    let left = entries.into_iter().filter(|entry| !entry.done);
    left.map(|entry| entry.value).collect()
}

fn left<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> usize {
    values(entries).len()
}

impl Model {
    /// What is left to drain.
    pub fn to_drain(&self) -> usize {
        left(&self.draining)
    }

    pub fn batch(&self) -> impl Iterator<Item = &Entry> + Clone {
        let len = self.in_flight.map_or(0, |batch| batch.len);
        self.draining.iter().take(len)
    }

    /// All that counts.
    pub fn held(&self) -> Size {
        Size {
            entries: self.live.len() + self.to_drain(),
            bytes: weigh(&self.live) + weigh(&self.draining),
        }
    }

    /// What of the limit is taken.
    pub fn used(&self) -> Size {
        let counting = self.credits.iter().filter(|taken| taken.counts);
        counting.fold(self.held(), |sum, taken| sum + taken.credit.size)
    }

    /// Whether there is room now, if this is nobody's turn.
    pub fn take(&self, size: Size) -> Result<(), NoRoom> {
        let Some(limit) = self.limit else {
            return Ok(());
        };
        if !size.fits(limit) {
            return Err(NoRoom::TooLarge);
        }
        let room = (self.used() + size).fits(limit) && self.waiters.is_empty();
        if size == Size::default() || room {
            Ok(())
        } else {
            Err(NoRoom::Full)
        }
    }

    /// What is dropped from the live generation for a write of this size.
    pub fn take_in_place(&self, size: Size) -> Result<Size, NoRoom> {
        match (self.take(size), self.limit) {
            (Err(NoRoom::Full), Some(limit)) => {
                // A limit that was lowered is approached in steps.
                let excess = self.used() + size - limit;
                let excess = Size {
                    entries: excess.entries.min(size.entries + 256),
                    bytes: excess.bytes.min(size.bytes + 65_536),
                };
                let all = Size {
                    entries: self.live.len(),
                    bytes: weigh(&self.live),
                };
                let enough = excess.fits(all);
                enough.then_some(excess).ok_or(NoRoom::Full)
            }
            (taken, _) => taken.map(|()| Size::default()),
        }
    }

    pub fn add(&mut self, entries: VecDeque<Entry>) {
        self.accepted += entries.len() as u64;
        for mut entry in entries {
            self.place += 1;
            entry.place = self.place;
            self.live.push_back(entry);
        }
    }

    /// After a write: who is to be told that it is time.
    pub fn written(&mut self) -> Option<Owner> {
        self.high_water = self.high_water.max(self.held().entries);
        self.signal()
    }

    pub fn signal(&mut self) -> Option<Owner> {
        let due = !self.signaled && self.is_due();
        let overflow = self.overflow.entries > 0 && !self.overflow_signaled;
        self.signaled |= due;
        self.overflow_signaled |= overflow;
        self.notify.filter(|_| due || overflow)
    }

    pub fn is_due(&self) -> bool {
        let trigger = self.trigger.unwrap_or(Size::UNLIMITED);
        self.live.len() >= trigger.entries || weigh(&self.live) >= trigger.bytes
    }

    /// Drops the oldest live entries until they are as large as `size`. Answers how large they are.
    pub fn evict(&mut self, size: Size) -> Size {
        let mut evicted = Size::default();
        while !size.fits(evicted) {
            let Some(entry) = self.live.pop_front() else {
                break;
            };
            evicted += Size::one(entry.weight);
            self.lose(&[entry], Reason::Overflow);
            self.keep_dropped(&[entry.value], entry.place);
        }
        self.overflow += evicted;
        evicted
    }

    pub fn drop_new(&mut self, size: Size, values: &[u64]) -> Option<Owner> {
        self.accepted += size.entries as u64;
        self.overflow += size;
        self.keep_dropped(values, self.place);
        self.signal()
    }

    fn keep_dropped(&mut self, values: &[u64], place: u64) {
        if !self.keeps {
            return;
        }
        let last = self.kept.back_mut();
        match last.filter(|last| last.reason == Reason::Overflow && last.values.len() < 256) {
            Some(last) => {
                last.values.extend(values);
                last.places = (last.places.0.min(place), last.places.1.max(place));
            }
            None => self.kept.push_back(Kept {
                reason: Reason::Overflow,
                values: values.to_vec(),
                places: (place, place),
                attempts: 0,
            }),
        }
    }

    pub fn lose(&mut self, entries: &[Entry], reason: Reason) {
        for awaiting in &mut self.awaiting {
            let stretch = awaiting.after + 1..=awaiting.last;
            let mut left = entries.iter().filter(|entry| !entry.done);
            if left.any(|entry| stretch.contains(&entry.place)) {
                awaiting.lost.get_or_insert(reason);
            }
        }
    }

    /// Who is told now: those of whose stretch nothing is held any more.
    pub fn passed(&mut self) -> Vec<(Owner, u64, Option<Reason>)> {
        let held: Vec<u64> = self
            .draining
            .iter()
            .chain(&self.live)
            .map(|e| e.place)
            .collect();
        let waits = |one: &Awaiting| {
            held.iter()
                .any(|at| (one.after + 1..=one.last).contains(at))
        };
        let (waiting, gone) = self.awaiting.iter().partition(|one| waits(one));
        self.awaiting = waiting;
        let gone: Vec<Awaiting> = gone;
        gone.iter()
            .map(|one| (one.owner, one.token, one.lost))
            .collect()
    }

    pub fn swap(&mut self, part: Option<usize>, now: i64) {
        if !self.draining.is_empty() || self.live.is_empty() {
            return;
        }
        let part = part.filter(|part| (1..self.live.len()).contains(part));
        let len = part.unwrap_or(self.live.len());
        self.draining = self.live.drain(..len).collect();
        (self.swapped_at, self.signaled) = (now, false);
    }

    pub fn is_free_for(&self, owner: Owner) -> bool {
        let ended = self.call() == Some(Call::Ended);
        !ended && self.owner.is_none_or(|other| other == owner)
    }

    pub fn call(&self) -> Option<Call> {
        self.in_flight.map(|batch| batch.call)
    }

    pub fn set_call(&mut self, call: Call) {
        if let Some(batch) = &mut self.in_flight {
            batch.call = call;
        }
    }

    /// The batch in flight is processed.
    pub fn settle_done(&mut self, owner: Owner) {
        if let Some(batch) = self.in_flight.take() {
            let gone: Vec<Entry> = self.draining.drain(..batch.len).collect();
            self.processed += left(&gone) as u64;
        }
        self.owner = (!self.draining.is_empty()).then_some(owner);
    }

    /// How many of the first entries are given up because they came before this moment.
    pub fn expired(&self, moment: i64) -> Option<Piece> {
        let old = self
            .draining
            .iter()
            .enumerate()
            .take_while(|(index, entry)| {
                let mut later = self.draining.range(index..).map(|later| later.opened);
                later
                    .find(|opened| *opened > entry.opened)
                    .unwrap_or(self.swapped_at)
                    < moment
            });
        let old = old.count();
        match self.pieces.front() {
            Some(piece) => Some(*piece).filter(|piece| old >= piece.len),
            None => Some(Piece {
                len: old.min(1_000),
                attempt: 1,
            })
            .filter(|_| old > 0),
        }
    }

    /// Gives up the first entries.
    pub fn give_up(&mut self, len: usize, attempts: u32, reason: Reason) -> Discarded {
        let gone: Vec<Entry> = self.draining.drain(..len).collect();
        self.lose(&gone, reason);
        if self.keeps {
            let places = (gone[0].place, gone[len - 1].place);
            let values = values(&gone);
            self.kept.push_back(Kept {
                reason,
                values,
                places,
                attempts,
            });
        }
        self.discard(reason, left(&gone), weigh(&gone))
    }

    pub fn discard(&mut self, reason: Reason, len: usize, bytes: u64) -> Discarded {
        let discarded = Discarded { reason, len, bytes };
        self.discarded[reason as usize] += len as u64;
        self.unreported.push(discarded);
        discarded
    }

    /// What becomes of the batch in flight: it was given up, or, if that, tried again in halves.
    pub fn settle(&mut self, reason: Reason, policy: Policy) -> Option<Result<Discarded, bool>> {
        self.owner = None;
        let held = left(self.batch());
        let at_half: Vec<usize> = self
            .batch()
            .enumerate()
            .filter(|(_, entry)| !entry.done)
            .map(|(index, _)| index)
            .collect();
        let batch = self.in_flight.take()?;
        let late = batch.call == Call::Ended && reason != Reason::Shutdown;
        let reason = if late { Reason::Timeout } else { reason };
        let reason = self.failed.take().unwrap_or(reason);
        let again = batch.attempt <= policy.max_retries;
        if !again && (!policy.split || held < 2) {
            return Some(Ok(self.give_up(batch.len, batch.attempt, reason)));
        }
        self.retries += 1;
        let attempt = batch.attempt + 1;
        if again {
            self.pieces.push_front(Piece {
                len: batch.len,
                attempt,
            });
        } else {
            let cut = at_half[held / 2];
            self.pieces.push_front(Piece {
                len: batch.len - cut,
                attempt,
            });
            self.pieces.push_front(Piece { len: cut, attempt });
        }
        Some(Err(!again))
    }

    /// All who wait are told that it is lost; nothing is held any more.
    pub fn lose_all(&mut self, reason: Reason) {
        for one in &mut self.awaiting {
            one.lost.get_or_insert(reason);
        }
        (self.owner, self.in_flight, self.failed) = (None, None, None);
        (self.signaled, self.pieces) = (false, VecDeque::new());
        self.draining.clear();
        self.live.clear();
    }

    /// Overflow is reported with the rest from now on.
    pub fn report_overflow(&mut self) {
        self.overflow_signaled = false;
        let overflow = std::mem::take(&mut self.overflow);
        if overflow.entries > 0 {
            self.discard(Reason::Overflow, overflow.entries, overflow.bytes);
        }
    }

    pub fn stats(&self, oldest: Option<i64>) -> Stats {
        let in_flight = left(self.batch());
        let mut discarded = self.discarded;
        discarded[Reason::Overflow as usize] += self.overflow.entries as u64;
        Stats {
            accepted: self.accepted,
            processed: self.processed,
            superseded: 0,
            deleted: 0,
            retries: self.retries,
            discarded,
            live: self.live.len(),
            queued: self.held().entries - in_flight,
            in_flight,
            bytes: self.held().bytes,
            high_water: self.high_water,
            oldest,
        }
    }
}
