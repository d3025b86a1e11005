//! How much a buffer may hold, and how much of that is taken.
//!
//! Room is taken before an entry is written and given back when the entry has left, so what is held
//! never exceeds the limit, not by one entry and not by one byte. Nobody takes room while others wait
//! for it ([`crate::Waiters`]), but for those who are served in their turn.
//!
//! Invariant: while there is a limit, `used` is what the partitions hold and what has been taken for
//! writes on their way. Without one it is not kept: writes do not touch this line of memory then.
//!
//! Its lock is the last one to be taken.

use std::ops::{Add, AddAssign, Sub};

use crate::sync::{AtomicUsize, Mutex, Ordering};

/// Entries and their weight.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// How many.
    pub entries: usize,
    /// Their weight in bytes.
    pub bytes: u64,
}

impl Size {
    /// More than there can be: no limit.
    pub const UNLIMITED: Size = Size {
        entries: usize::MAX,
        bytes: u64::MAX,
    };

    /// One entry of this weight.
    pub fn one(weight: u32) -> Self {
        Self {
            entries: 1,
            bytes: u64::from(weight),
        }
    }

    /// Whether neither is more than in `limit`.
    pub fn fits(self, limit: Size) -> bool {
        self.entries <= limit.entries && self.bytes <= limit.bytes
    }

    /// The smaller one of each part.
    pub fn at_most(self, limit: Size) -> Self {
        Self {
            entries: self.entries.min(limit.entries),
            bytes: self.bytes.min(limit.bytes),
        }
    }
}

impl Add for Size {
    type Output = Size;

    fn add(self, other: Size) -> Size {
        Size {
            entries: self.entries.saturating_add(other.entries),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }
}

impl AddAssign for Size {
    fn add_assign(&mut self, other: Size) {
        *self = *self + other;
    }
}

/// Each part by itself, and never below nothing.
impl Sub for Size {
    type Output = Size;

    fn sub(self, other: Size) -> Size {
        Size {
            entries: self.entries.saturating_sub(other.entries),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }
}

/// Why there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRoom {
    /// Not now.
    Full,
    /// Never: it is more than the limit.
    TooLarge,
}

/// Room that was taken and is not written yet. One that was taken under a former limit counts no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credit {
    epoch: u32,
    /// How much it is.
    pub size: Size,
}

impl Credit {
    /// For a write that has taken none: what it adds counts all the same.
    pub const NONE: Credit = Credit {
        epoch: u32::MAX,
        size: Size {
            entries: 0,
            bytes: 0,
        },
    };
}

/// The limit of a buffer, and what of it is taken.
#[derive(Debug)]
pub struct Capacity {
    state: Mutex<State>,
    // Whether there is a limit, for those who need not know it for sure. Relaxed: it stands for nothing
    // else.
    limited: AtomicUsize,
}

#[derive(Debug)]
struct State {
    limit: Option<Size>,
    used: Size,
    // One more with each time that a limit is introduced: what was taken before is void.
    epoch: u32,
    // How many wait their turn.
    waiting: usize,
}

impl Default for Capacity {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                limit: None,
                used: Size::default(),
                epoch: 0,
                waiting: 0,
            }),
            limited: AtomicUsize::new(0),
        }
    }
}

impl Capacity {
    /// Takes room, unless there is none or others wait for it. Without a limit there always is.
    pub fn take(&self, size: Size) -> Result<Credit, NoRoom> {
        self.state.lock().take(size, false)
    }

    /// How much more than it needs a write drops where much more is held than a limit that was lowered: the
    /// rest is left to the writes that follow.
    const AT_ONCE: Size = Size {
        entries: 256,
        bytes: 64 * 1024,
    };

    /// Takes room in place of what its holder drops for it, of which there is so much. Answers how much of
    /// it is to be dropped; the room of that has been taken over, so what is dropped beyond it alone is to
    /// be given back. Where all of it would not do, nothing is to be dropped. It may go before those who
    /// wait.
    pub(crate) fn take_in_place(
        &self,
        droppable: Size,
        size: Size,
    ) -> Result<(Credit, Size), NoRoom> {
        let mut state = self.state.lock();
        let limit = state.limit.unwrap_or(Size::UNLIMITED);
        if !size.fits(limit) {
            return Err(NoRoom::TooLarge);
        }
        let excess = (state.used + size - limit).at_most(size + Self::AT_ONCE);
        if !excess.fits(droppable) {
            return Err(NoRoom::Full);
        }
        state.used = state.used + size - excess;
        let epoch = state.epoch;
        Ok((Credit { epoch, size }, excess))
    }

    /// Takes room for the one whose turn it is. It waits no more if there is room, or if there never will be.
    pub(crate) fn take_in_turn(&self, size: Size) -> Result<Credit, NoRoom> {
        let mut state = self.state.lock();
        let taken = state.take(size, true);
        if taken != Err(NoRoom::Full) {
            state.waiting -= 1;
        }
        taken
    }

    /// Takes room, or makes the caller one of those who wait.
    pub(crate) fn take_or_wait(&self, size: Size) -> Result<Credit, NoRoom> {
        let mut state = self.state.lock();
        let taken = state.take(size, false);
        if taken == Err(NoRoom::Full) {
            state.waiting += 1;
        }
        taken
    }

    /// One of those who waited does so no more.
    pub(crate) fn wait_no_more(&self) {
        self.state.lock().waiting -= 1;
    }

    /// Counts what is written with this credit as `actual`: what exceeds the credit counts all the same.
    /// Answers what is left of the credit, which is still taken.
    pub fn spend(&self, credit: Credit, actual: Size) -> Credit {
        let mut state = self.state.lock();
        if state.limit.is_none() {
            return credit;
        }
        let epoch = state.epoch;
        let covered = if credit.epoch == epoch {
            credit.size
        } else {
            Size::default()
        };
        state.used += actual - covered;
        let size = covered - actual;
        Credit { epoch, size }
    }

    /// What has been counted as `counted` is `actual`. Answers whether that leaves more room, and somebody
    /// waits for it.
    pub(crate) fn correct(&self, counted: Size, actual: Size) -> bool {
        let mut state = self.state.lock();
        state.used = state.used + actual - counted;
        !counted.fits(actual) && state.waiting > 0
    }

    /// Gives room back. Answers whether somebody waits for it.
    pub fn give_back(&self, size: Size) -> bool {
        let mut state = self.state.lock();
        state.used = state.used - size;
        state.waiting > 0
    }

    /// Gives back what was taken and not written. Answers whether somebody waits.
    pub fn cancel(&self, credit: Credit) -> bool {
        let mut state = self.state.lock();
        if credit.epoch == state.epoch {
            state.used = state.used - credit.size;
        }
        state.waiting > 0
    }

    /// Another limit, or none. `held` is what the partitions hold; it is asked for if there was no limit.
    /// Whether somebody waits.
    pub(crate) fn set_limit(&self, limit: Option<Size>, held: impl FnOnce() -> Size) -> bool {
        let mut state = self.state.lock();
        if state.limit.is_none() && limit.is_some() {
            state.used = held();
            state.epoch = state.epoch.wrapping_add(1);
        }
        state.limit = limit;
        self.limited
            .store(limit.is_some().into(), Ordering::Relaxed);
        state.waiting > 0
    }

    /// Whether there is a limit, or has just been.
    pub fn is_limited(&self) -> bool {
        self.limited.load(Ordering::Relaxed) != 0
    }

    /// The limit.
    pub fn limit(&self) -> Option<Size> {
        self.state.lock().limit
    }

    /// What is taken, if there is a limit.
    pub fn used(&self) -> Size {
        self.state.lock().used
    }

    /// Whether somebody waits.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.is_limited() && self.waiting() > 0
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.state.lock().waiting
    }
}

impl State {
    fn take(&mut self, size: Size, in_turn: bool) -> Result<Credit, NoRoom> {
        let epoch = self.epoch;
        let Some(limit) = self.limit else {
            return Ok(Credit { epoch, size });
        };
        if !size.fits(limit) {
            return Err(NoRoom::TooLarge);
        }
        let used = self.used + size;
        // What needs no room never waits: it may be a write in place of an entry that is there.
        let needs_none = size == Size::default();
        if !needs_none && (!used.fits(limit) || (self.waiting > 0 && !in_turn)) {
            return Err(NoRoom::Full);
        }
        self.used = used;
        Ok(Credit { epoch, size })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn entries(entries: usize) -> Size {
        Size { entries, bytes: 0 }
    }

    fn limited(limit: usize) -> Capacity {
        let capacity = Capacity::default();
        capacity.set_limit(
            Some(Size {
                entries: limit,
                ..Size::UNLIMITED
            }),
            Size::default,
        );
        capacity
    }

    #[test]
    fn gives_what_there_is_and_no_more() {
        let capacity = limited(3);
        assert!(capacity.take(entries(2)).is_ok());
        assert_eq!(capacity.take(entries(2)), Err(NoRoom::Full));
        assert_eq!(capacity.take(entries(4)), Err(NoRoom::TooLarge));
        assert!(capacity.take(entries(1)).is_ok());
        assert!(!capacity.give_back(entries(1)));
        assert_eq!(capacity.used(), entries(2));
    }

    #[test]
    fn bytes_count_by_themselves() {
        let capacity = Capacity::default();
        let limit = Size {
            entries: usize::MAX,
            bytes: 10,
        };
        capacity.set_limit(Some(limit), Size::default);
        assert!(capacity.take(Size::one(10)).is_ok());
        assert_eq!(capacity.take(Size::one(1)), Err(NoRoom::Full));
        assert!(capacity.take(entries(1)).is_ok());
    }

    #[test]
    fn what_was_taken_too_much_stays_taken_and_too_little_counts() {
        let capacity = limited(10);
        let credit = capacity.take(entries(5)).expect("room for five");
        let credit = capacity.spend(credit, entries(2));
        assert_eq!(credit.size, entries(3));
        capacity.cancel(credit);
        assert_eq!(capacity.used(), entries(2));
        let credit = capacity.take(entries(1)).expect("room for one");
        capacity.spend(credit, entries(4));
        assert_eq!(capacity.used(), entries(6));
    }

    #[test]
    fn a_credit_of_a_former_limit_is_void() {
        let capacity = limited(10);
        let credit = capacity.take(entries(5)).expect("room for five");
        capacity.set_limit(None, Size::default);
        capacity.set_limit(Some(entries(10)), || entries(1));
        capacity.spend(credit, entries(5));
        assert_eq!(capacity.used(), entries(6));
        let old = Credit { epoch: 0, ..credit };
        capacity.cancel(old);
        assert_eq!(capacity.used(), entries(6));
    }

    #[test]
    fn room_in_place_of_what_is_dropped_is_no_more_than_that() {
        let capacity = limited(3);
        assert!(capacity.take(entries(3)).is_ok());
        let none = capacity.take_in_place(entries(1), entries(2));
        assert_eq!(none, Err(NoRoom::Full));
        let never = capacity.take_in_place(entries(3), entries(4));
        assert_eq!(never, Err(NoRoom::TooLarge));
        assert_eq!(capacity.used(), entries(3));
        let taken = capacity.take_in_place(entries(3), entries(2));
        assert!(taken.is_ok_and(|(_, dropped)| dropped == entries(2)));
        assert_eq!(capacity.used(), entries(3));
        capacity.give_back(entries(2));
        let taken = capacity.take_in_place(entries(0), entries(1));
        assert!(taken.is_ok_and(|(_, dropped)| dropped == entries(0)));
        assert_eq!(capacity.used(), entries(2));
    }

    #[test]
    fn newcomers_do_not_overtake_those_who_wait() {
        let capacity = limited(2);
        assert!(capacity.take(entries(2)).is_ok());
        assert_eq!(capacity.take_or_wait(entries(1)), Err(NoRoom::Full));
        assert!(capacity.give_back(entries(2)));
        assert_eq!(capacity.take(entries(1)), Err(NoRoom::Full));
        assert!(capacity.take(entries(0)).is_ok());
        assert!(capacity.take_in_turn(entries(1)).is_ok());
        assert_eq!(capacity.waiting(), 0);
        assert!(capacity.take(entries(1)).is_ok());
    }
}
