//! Writing to the live generation, and what is done when there is no room for that.

use std::ops::Range;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};

use super::room::Counted;
use super::{size_of, Closed, Generation, Live, Partition, Room, Rows, Written};
use crate::capacity::{Credit, Size};
use crate::delivery::After;
use crate::sync::{lock_soon, unlock_fairly, MutexGuard, Ordering};

/// A partition that is not closed, and that nobody else writes to as long as this is held.
pub struct Open<'a, G: Generation, O> {
    partition: &'a Partition<G, O>,
    live: MutexGuard<'a, Live<G, O>>,
}

impl<G: Generation, O: Copy + PartialEq> Open<'_, G, O> {
    /// Whether a write takes room first.
    #[inline]
    pub fn is_limited(&self) -> bool {
        self.live.bounded
    }

    /// Adds to the live generation where there is no limit. `append` takes nothing out of it, so there is nothing to be
    /// done afterwards but what this answers.
    #[inline]
    pub fn append<R>(mut self, append: impl FnOnce(&mut G) -> R) -> Written<R, O> {
        debug_assert!(!self.live.bounded, "room is taken by `write`");
        let live = &mut *self.live;
        let result = append(&mut live.generation);
        let len = self.partition.counted(live);
        debug_assert!(len > 0, "what takes something out is a `write`");
        signaled(live, result)
    }

    /// [`Partition::write`], from here on.
    #[inline]
    pub fn write<R>(
        mut self,
        after: &mut After<G::Arena, O>,
        write: impl FnOnce(&mut G, &mut Room<'_, G, O>) -> R,
    ) -> Written<R, O> {
        let live = &mut *self.live;
        let result = Counted::new(self.partition, live, after).write(write);
        self.partition.written(live, after, result)
    }
}

#[inline]
fn signaled<G: Generation, R, O: Copy>(live: &mut Live<G, O>, result: R) -> Written<R, O> {
    let (signal, due) = live.signal();
    Written {
        result,
        signal,
        due,
    }
}

impl<G: Generation, O: Copy + PartialEq> Partition<G, O> {
    /// Takes the lock for one write, unless the partition is closed.
    #[inline]
    pub fn open(&self) -> Result<Open<'_, G, O>, Closed> {
        let live = lock_soon(&self.live);
        if live.closed {
            return Err(Closed);
        }
        let partition = self;
        Ok(Open { partition, live })
    }

    /// Writes to the live generation, unless the partition is closed. The write takes the room that it
    /// needs from `Room` first; what it has not used is given back.
    pub fn write<R>(
        &self,
        after: &mut After<G::Arena, O>,
        write: impl FnOnce(&mut G, &mut Room<'_, G, O>) -> R,
    ) -> Result<Written<R, O>, Closed> {
        Ok(self.open()?.write(after, write))
    }

    /// Writes although the partition may be closed, and without asking for room: for a write that passed
    /// the buffer's gate and has taken room for all that it writes, `credit`.
    pub fn write_admitted<R>(
        &self,
        credit: &mut Credit,
        after: &mut After<G::Arena, O>,
        write: impl FnOnce(&mut G) -> R,
    ) -> Written<R, O> {
        let mut guard = lock_soon(&self.live);
        let live = &mut *guard;
        let result = self.write_on_credit(live, credit, after, write);
        self.written(live, after, result)
    }

    /// The same for what somebody waits for: `owner` is told when it has left. `write` answers the places in
    /// its generation that have what it wrote; if there are none, nothing is to be waited for.
    pub fn write_awaited(
        &self,
        credit: &mut Credit,
        after: &mut After<G::Arena, O>,
        (owner, token): (O, u64),
        write: impl FnOnce(&mut G) -> Range<u64>,
    ) -> Written<(), O> {
        let mut guard = lock_soon(&self.live);
        let live = &mut *guard;
        let places = self.write_on_credit(live, credit, after, write);
        self.await_places(live, places, (owner, token), after);
        self.written(live, after, ())
    }

    /// The same for a write as [`Partition::write`] makes it. If it fails, nothing is to be waited for.
    pub fn write_and_await<E>(
        &self,
        after: &mut After<G::Arena, O>,
        who: (O, u64),
        write: impl FnOnce(&mut G, &mut Room<'_, G, O>) -> Result<Range<u64>, E>,
    ) -> Result<Written<Result<(), E>, O>, Closed> {
        let mut guard = lock_soon(&self.live);
        if guard.closed {
            return Err(Closed);
        }
        let live = &mut *guard;
        let places = Counted::new(self, live, after).write(write);
        let result = places.map(|places| self.await_places(live, places, who, after));
        Ok(self.written(live, after, result))
    }

    fn await_places(
        &self,
        live: &Live<G, O>,
        places: Range<u64>,
        (owner, token): (O, u64),
        after: &mut After<G::Arena, O>,
    ) {
        let (from, last) = (live.base + places.start, live.base + places.end);
        let mut awaiting = self.awaiting.lock();
        awaiting.add(owner, token, from, last);
        if places.is_empty() {
            awaiting.pass_within(from, last, &mut after.passed);
        }
    }

    pub(super) fn write_on_credit<R>(
        &self,
        live: &mut Live<G, O>,
        credit: &mut Credit,
        after: &mut After<G::Arena, O>,
        write: impl FnOnce(&mut G) -> R,
    ) -> R {
        if !live.bounded {
            return write(&mut live.generation);
        }
        let before = size_of(&live.generation);
        let written = catch_unwind(AssertUnwindSafe(|| write(&mut live.generation)));
        let now = size_of(&live.generation);
        *credit = self.capacity.spend(*credit, now - before);
        if !before.fits(now) {
            after.room |= self.capacity.give_back(before - now);
        }
        written.unwrap_or_else(|cause| resume_unwind(cause))
    }

    pub(super) fn written<R>(
        &self,
        live: &mut Live<G, O>,
        after: &mut After<G::Arena, O>,
        result: R,
    ) -> Written<R, O> {
        // It may have been the write that removed the last entry.
        if self.counted(live) == 0 {
            self.pass_live(live.since, live.left(), &mut after.passed);
        }
        signaled(live, result)
    }

    /// How many entries there are after a write.
    #[inline]
    fn counted(&self, live: &mut Live<G, O>) -> usize {
        let len = live.generation.len();
        let held = len + self.draining.load(Ordering::Relaxed);
        live.high_water = live.high_water.max(held);
        len
    }

    /// Counts entries that are dropped instead of being written, and keeps them if `keep` does. Refused if
    /// the partition is closed.
    pub fn drop_new(
        &self,
        size: Size,
        keep: Option<impl FnOnce(&mut G::Arena)>,
    ) -> Result<Written<(), O>, Closed> {
        let mut live = lock_soon(&self.live);
        if live.closed {
            return Err(Closed);
        }
        live.former.accepted += size.entries as u64;
        live.overflow += size;
        if let Some(keep) = keep {
            let place = live.base + live.generation.places().1;
            self.kept.lock().add_to_last((place, place), keep);
        }
        let (signal, due) = live.signal();
        Ok(Written {
            result: (),
            signal,
            due,
        })
    }

    /// Drops the oldest entries of the live generation, until they have this size. Answers their size, and
    /// who is to be told. Nothing is dropped without a limit, or if the partition is closed.
    pub fn evict(
        &self,
        size: Size,
        rows: &Rows<'_, G>,
        after: &mut After<G::Arena, O>,
    ) -> (Size, Option<O>) {
        let mut guard = lock_soon(&self.live);
        let live = &mut *guard;
        if !live.bounded || live.closed {
            return (Size::default(), None);
        }
        let evicted = Counted::new(self, live, after).write(|generation, room| {
            room.evict(generation, size, rows);
            room.evicted()
        });
        (evicted, live.signal().0)
    }

    /// Looks at the live generation, or changes what does not count, in many short turns of one caller:
    /// whoever waits for the lock has it next, instead of finding it taken again when it has woken up.
    pub fn in_turn<R>(&self, turn: impl FnOnce(&mut G) -> R) -> Result<R, Closed> {
        let mut live = lock_soon(&self.live);
        if live.closed {
            return Err(Closed);
        }
        let result = turn(&mut live.generation);
        unlock_fairly(live);
        Ok(result)
    }

    /// Changes the live generation although the partition may be closed, and without taking room: where
    /// nobody writes or drains meanwhile, and there is no limit yet.
    pub fn amend<R>(&self, change: impl FnOnce(&mut G) -> R) -> R {
        let mut live = lock_soon(&self.live);
        let result = change(&mut live.generation);
        self.written(&mut live, &mut After::default(), result)
            .result
    }
}
