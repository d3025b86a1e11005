//! Who drains, cycle after cycle, and how it is told that there is something to drain.
//!
//! The *runner* of a partition drains. Between two cycles it *waits*, and says so here, in the step that settles its last
//! batch ([`Partition::advance`]) or in one of its own ([`Partition::idle`]): then whoever starts a cycle ([`Partition::begin`]) makes the live generation the
//! draining one and the runner its owner, and wakes it. A cycle that is started while the runner is at work is
//! *noted*, and the runner finds that when it would wait. The *attendant* is the process that starts runners,
//! one after the other: it is told when there is nobody to wake.
//!
//! | runner | `owner` | `waiting` | `begin` | what follows |
//! |---|---|---|---|---|
//! | at work | yes | no | notes | `advance` or `idle` finds the note |
//! | about to call `idle` | no | no | notes, tells the attendant | `idle` finds the note |
//! | waits | no | yes | swaps, makes it the owner, wakes it | it drains |
//! | none, or dead | any | no | notes, tells the attendant | which starts one: `idle` finds the note |
//!
//! A runner that ends says so ([`Partition::leave`]), or is told to when it has waited for long
//! ([`Partition::send_away`]).
//!
//! Invariants:
//!
//! * No wake-up is lost: what a `begin` has noted stays noted until an `idle` or `advance` takes it, and all of it is done
//!   under `ledger`. One that makes the runner wait has found no note under the same lock.
//! * What was started for a runner that leaves drains, and has no owner: whoever sees the end of the runner finds that.
//! * One drain, one owner: a runner becomes it only by `idle` or while it waits, both under `ledger`, when nobody
//!   is, and stays it through an `advance`. It waits only for the attendant of now: a new attendant sends the former one's runner away.
//! * Nothing drains while a runner waits, but for what a writer in line has swapped out just now.

use super::drain::Keep;
use super::{Drain, Generation, Ledger, Live, NotOwner, Partition};
use crate::capacity::Size;
use crate::delivery::{After, Batch, Next, Wanted};
use crate::sync::MutexGuard;

/// What starts a cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// It is time.
    Interval,
    /// The live generation is large enough.
    MaxSize,
    /// Somebody wants it.
    Flush,
    /// It was not to be, and is again.
    Resume,
    /// The partition is closed.
    Stop,
    /// There is no room for a write.
    Capacity,
}

/// What never starts a cycle.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mode {
    /// Size: a live generation that is full is swapped out by who waits for the next one.
    pub in_turn: bool,
    /// That there is no room.
    pub manual: bool,
}

/// A cycle, for who drains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// What has started it; `None`: it is the rest of a former one.
    pub trigger: Option<Trigger>,
    /// How many entries there are to drain.
    pub size: usize,
}

/// What came of the wish for a cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun<O> {
    /// It has begun: this runner is to be told.
    Woken(O, Started),
    /// There is nothing to process.
    Nothing,
    /// It will begin when what drains is through.
    Noted,
    /// It will begin when there is a runner: its attendant is to be told.
    Unattended(Option<O>),
    /// Nothing is to begin.
    Paused,
}

/// What a runner does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    /// It drains.
    Drains(Started),
    /// It waits to be woken. This was noted, but there was nothing to process.
    Waits(Option<Trigger>),
    /// It ends: the partition is closed or paused, or it is somebody else's to drain.
    Ends,
}

/// What came of [`Partition::advance`].
#[derive(Debug, PartialEq, Eq)]
pub enum Step<R> {
    /// There is something to drain. A cycle that begins with it comes first.
    Drains(Option<Started>, Next<R>),
    /// As [`Idle::Waits`]; so much was processed since it has waited before.
    Waits(Option<Trigger>, Size),
    /// As [`Idle::Ends`].
    Ends,
}

impl<G: Generation, O: Copy + PartialEq> Partition<G, O> {
    /// Makes `process` the one that starts runners.
    pub fn attend(&self, process: O, mode: Mode) {
        let mut ledger = self.ledger.lock();
        ledger.attendant = Some(process);
        ledger.waiting = None;
        ledger.mode = mode;
    }

    /// Starts a cycle of all that is live, or of `part` of it, now or as soon as it can be.
    pub fn begin(
        &self,
        trigger: Trigger,
        part: Option<usize>,
        now: impl FnOnce() -> i64,
    ) -> Begun<O> {
        let drain = self.drain.try_lock();
        if drain.is_none() {
            // Without waiting for who copies a batch.
            let mut ledger = self.ledger.lock();
            if ledger.waiting.is_none() {
                return self.begin_later(&mut ledger, trigger);
            }
        }
        let mut drain = drain.unwrap_or_else(|| self.drain.lock());
        let mut guard = self.ledger.lock();
        let ledger = &mut *guard;
        let Some(runner) = ledger.waiting else {
            return self.begin_later(ledger, trigger);
        };
        if ledger.paused {
            return Begun::Paused;
        }
        let started = if ledger.len > 0 {
            ledger.rest(Some(trigger))
        } else {
            let live = self.live.lock();
            let trigger = if live.closed { Trigger::Stop } else { trigger };
            if live.generation.is_empty() || ledger.ignores(trigger) {
                return Begun::Nothing;
            }
            self.swap_out(&mut drain, ledger, live, part, now);
            Started {
                trigger: Some(trigger),
                size: ledger.len,
            }
        };
        ledger.waiting = None;
        ledger.owner = Some(runner);
        Begun::Woken(runner, ledger.begun(started))
    }

    /// Nobody waits to be woken. Who has been told of a note is not told of the next one.
    fn begin_later(&self, ledger: &mut Ledger<O>, trigger: Trigger) -> Begun<O> {
        if ledger.paused {
            return Begun::Paused;
        }
        let nothing = || ledger.ignores(trigger) || self.live.lock().generation.is_empty();
        if ledger.owner.is_none() && ledger.len == 0 && nothing() {
            return Begun::Nothing;
        }
        // Who has swapped a full one out has told nobody.
        let told = ledger.noted.is_some() && !ledger.ignores(trigger);
        if !ledger.ignores(trigger) {
            ledger.note(trigger);
        }
        match ledger.owner {
            None if !told => Begun::Unattended(ledger.attendant),
            _ => Begun::Noted,
        }
    }

    /// The runner of this attendant is through: it goes on with what was noted meanwhile, or waits. With `part`, it
    /// goes on until nothing is live any more.
    pub fn idle(
        &self,
        runner: O,
        attendant: O,
        part: Option<usize>,
        now: impl FnOnce() -> i64,
    ) -> Idle {
        let mut drain = self.drain.lock();
        self.idle_in(&mut drain, runner, attendant, part, now)
    }

    /// What a runner does with one batch after the other, in one step that nobody comes between: settles the one in
    /// flight as processed and starts the next one, of what drains or of a cycle that was noted. If there is none, the
    /// runner waits already when those are told who await the batch.
    ///
    /// If less is left to drain than is wanted, a cycle is noted, and writers wait for room, that begins with this batch,
    /// which has entries of both: the processor that they wait for would get many small batches otherwise.
    #[expect(clippy::too_many_arguments, reason = "those of `next` and of `idle`")]
    pub fn advance<R>(
        &self,
        (runner, attendant): (O, O),
        wanted: Wanted,
        part: Option<usize>,
        now: i64,
        keep: Keep<'_, G>,
        after: &mut After<G::Arena, O>,
        read: impl FnOnce(&G, &Batch) -> R,
    ) -> Result<Step<R>, NotOwner> {
        let mut guard = self.drain.lock();
        let drain = &mut *guard;
        self.settle_done(drain, runner, true, after)?;
        let mut cycle = None;
        if drain.generation.is_empty() {
            match self.idle_in(drain, runner, attendant, part, || now) {
                Idle::Drains(started) => cycle = Some(started),
                Idle::Waits(noted) => {
                    let taken = std::mem::take(&mut drain.taken);
                    return Ok(Step::Waits(noted, taken));
                }
                Idle::Ends => return Ok(Step::Ends),
            }
        } else if drain.is_short(wanted) && self.capacity.is_waited_for() {
            cycle = self.join_noted(drain, attendant, now);
        }
        let next = self.start_next(drain, wanted, || now, keep, after, read);
        Ok(match next {
            Next::Paused | Next::Empty => Step::Ends,
            next => Step::Drains(cycle, next),
        })
    }

    fn idle_in(
        &self,
        drain: &mut Drain<G>,
        runner: O,
        attendant: O,
        part: Option<usize>,
        now: impl FnOnce() -> i64,
    ) -> Idle {
        let mut guard = self.ledger.lock();
        let ledger = &mut *guard;
        if ledger.check(runner).is_err() {
            return Idle::Ends;
        }
        if ledger.attendant != Some(attendant) || ledger.paused {
            // What drains is somebody else's to go on with.
            if ledger.len == 0 {
                ledger.owner = None;
            }
            return Idle::Ends;
        }
        if ledger.len > 0 {
            ledger.owner = Some(runner);
            let rest = ledger.rest(None);
            return Idle::Drains(ledger.begun(rest));
        }
        ledger.owner = None;
        let live = self.live.lock();
        // How long the end may take is the attendant's to say.
        if live.closed && ledger.noted != Some(Trigger::Stop) {
            return Idle::Ends;
        }
        let (closed, empty) = (live.closed, live.generation.is_empty());
        let noted = ledger.noted.take();
        let wanted = match noted {
            Some(trigger) => !ledger.ignores(trigger),
            None => part.is_some(),
        };
        if wanted && !empty {
            self.swap_out(drain, ledger, live, part, now);
            ledger.owner = Some(runner);
            let (trigger, size) = (noted, ledger.len);
            return Idle::Drains(ledger.begun(Started { trigger, size }));
        }
        if closed {
            return Idle::Ends;
        }
        ledger.waiting = Some(runner);
        Idle::Waits(noted)
    }

    /// Adds the live generation to what drains, if a cycle is noted and that can be done.
    fn join_noted(&self, drain: &mut Drain<G>, attendant: O, now: i64) -> Option<Started> {
        let mut guard = self.ledger.lock();
        let ledger = &mut *guard;
        let trigger = ledger.noted.filter(|trigger| !ledger.ignores(*trigger))?;
        let mut live = self.live.lock();
        let ends = ledger.paused || ledger.attendant != Some(attendant);
        let closes = live.closed && trigger != Trigger::Stop;
        let (size, bytes) = (live.generation.len(), live.generation.bytes());
        if ends || closes || size == 0 || !drain.generation.can_join(&live.generation) {
            return None;
        }
        ledger.noted = None;
        drain.generation.join(live.take());
        drain.swapped_at = now;
        ledger.bytes += bytes;
        self.count_draining(ledger, ledger.len + size);
        let trigger = Some(trigger);
        Some(ledger.begun(Started { trigger, size }))
    }

    /// A runner ends. If it waits, it does so no more. If a cycle has been started for it, that is the next runner's to
    /// do: also if it has the first batch of it already, and has not begun with it. Then `unsaid` is what has started
    /// the cycle.
    pub fn leave(&self, runner: O, unsaid: Option<Trigger>) {
        let mut drain = self.drain.lock();
        let mut guard = self.ledger.lock();
        let ledger = &mut *guard;
        if ledger.waiting == Some(runner) {
            ledger.waiting = None;
        }
        if ledger.owner != Some(runner) || ledger.check(runner).is_err() {
            return;
        }
        ledger.owner = None;
        if ledger.len == 0 {
            return;
        }
        ledger.full = match ledger.in_flight.take() {
            Some(batch) => {
                drain.put_back(batch);
                unsaid
            }
            None => ledger.trigger,
        };
    }

    /// Sends a runner away that has waited since somebody saw so many cycles: it waits no more, and is to be told. Answers
    /// how many there have been if there is none, or if it has not waited for that long.
    pub fn send_away(&self, cycles: u64) -> Result<O, u64> {
        let mut ledger = self.ledger.lock();
        if ledger.cycles != cycles {
            return Err(ledger.cycles);
        }
        ledger.waiting.take().ok_or(cycles)
    }

    /// Whether there is something for a runner to do: something drains, or a cycle is noted.
    pub fn is_pending(&self) -> bool {
        let ledger = self.ledger.lock();
        ledger.len > 0 || ledger.noted.is_some()
    }

    /// What has started the last cycle.
    pub fn trigger(&self) -> Option<Trigger> {
        self.ledger.lock().trigger
    }

    /// What will start a cycle when what drains is through.
    pub fn noted(&self) -> Option<Trigger> {
        self.ledger.lock().noted
    }

    /// Moves the live generation, or a part of it, to the place of the draining one, which is empty.
    pub(super) fn swap_out(
        &self,
        drain: &mut Drain<G>,
        ledger: &mut Ledger<O>,
        mut live: MutexGuard<'_, Live<G, O>>,
        part: Option<usize>,
        now: impl FnOnce() -> i64,
    ) {
        drain.base = live.base;
        let part = part.filter(|part| (1..live.generation.len()).contains(part));
        let split = part.and_then(|part| live.generation.split(part));
        match split {
            Some(split) => drain.generation = split,
            None => live.move_to(&mut drain.generation),
        }
        live.since = drain.base + drain.generation.places().1;
        live.signaled = false;
        drain.swapped_at = now();
        ledger.bytes = drain.generation.bytes();
        ledger.oldest = drain.generation.oldest();
        self.count_draining(ledger, drain.generation.len());
    }
}

impl<O: Copy + PartialEq> Ledger<O> {
    /// A size that was reached takes less than any other trigger does where generations are full.
    fn note(&mut self, trigger: Trigger) {
        if trigger != Trigger::MaxSize || self.noted.is_none() {
            self.noted = Some(trigger);
        }
    }

    /// Whether nothing is swapped out because of this.
    fn ignores(&self, trigger: Trigger) -> bool {
        match trigger {
            Trigger::MaxSize => self.mode.in_turn,
            Trigger::Capacity => self.mode.manual,
            _ => false,
        }
    }

    /// Notes what has started a cycle.
    fn begun(&mut self, started: Started) -> Started {
        self.trigger = started.trigger.or(self.trigger);
        self.cycles += 1;
        started
    }

    /// A generation that was full has been swapped out by who waits for the next one, which is what was noted, too.
    pub(super) fn filled(&mut self) {
        self.full = Some(self.noted.take().unwrap_or(Trigger::MaxSize));
    }

    /// What drains already: it was full, or it is left of a former cycle. What this is about comes after it.
    fn rest(&mut self, trigger: Option<Trigger>) -> Started {
        if let Some(trigger) = trigger.filter(|trigger| !self.ignores(*trigger)) {
            self.note(trigger);
        }
        Started {
            trigger: self.full.take(),
            size: self.len,
        }
    }
}
