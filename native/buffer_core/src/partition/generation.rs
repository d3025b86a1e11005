//! What a partition is made of: entries that are written, and swapped out and drained together.

use crate::capacity::Size;
use crate::segment::Retired;
use crate::Arena;

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

    /// How many of the first `count` entries certainly came before `moment`. `swapped_at` is when the
    /// generation was made the draining one.
    fn older_than(&self, count: usize, moment: i64, swapped_at: i64) -> usize {
        if swapped_at < moment {
            self.len().min(count)
        } else {
            0
        }
    }

    /// How many places of this generation have been left, and how many there are.
    fn places(&self) -> (u64, u64);

    /// The places up to the entry of this index, counted from the first one that is held.
    fn places_up_to(&self, index: usize) -> u64 {
        self.first(index + 1, u64::MAX).places
    }

    /// Moves all to where nothing is left by now, and goes on as an empty one: with what is to outlast what was
    /// moved, and with the memory that was kept there when that became empty.
    fn move_to(&mut self, emptied: &mut Self) {
        std::mem::swap(self, emptied);
    }

    /// Forgets the first `count` entries. Memory that nothing is left in goes to `retired`.
    fn retire(&mut self, count: usize, retired: &mut Retired<Self::Arena>);

    /// Forgets the first `count` entries of a generation that goes on being written to.
    fn evict(&mut self, count: usize, now: fn() -> i64, retired: &mut Retired<Self::Arena>) {
        let _ = now;
        self.retire(count, retired);
    }

    /// Whether the entries of this one, which comes right after it, can be added to it at once.
    fn can_join(&self, later: &Self) -> bool {
        let _ = later;
        false
    }

    /// Adds them.
    fn join(&mut self, later: Self) {
        let _ = later;
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

/// What a generation holds.
pub(super) fn size_of<G: Generation>(generation: &G) -> Size {
    Size {
        entries: generation.len(),
        bytes: generation.bytes(),
    }
}
