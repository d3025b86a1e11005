//! Batches, and what becomes of one whose processing has failed.

use std::sync::Arc;

use crate::awaiting::Told;
use crate::segment::Retired;
use crate::stats::Reason;
use crate::Arena;

/// A batch: a stretch of entries at the beginning of the draining generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The place of its first entry, counted over the partition's life, starting at 1.
    pub first: u64,
    /// The place of its last entry. They are the same each time that the batch is tried.
    pub last: u64,
    /// How many entries the stretch has.
    pub len: usize,
    /// Their weight.
    pub bytes: u64,
    /// Which of them are to be processed; `None`: all.
    pub pending: Option<Arc<[u32]>>,
    /// Which time it is, starting at 1.
    pub attempt: u32,
    /// When a processor got it.
    pub started_at: i64,
}

impl Batch {
    /// How many entries are to be processed.
    pub fn held(&self) -> usize {
        self.pending.as_ref().map_or(self.len, |some| some.len())
    }
}

/// What a batch may be.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// The most entries.
    pub entries: usize,
    /// The most bytes; an entry that is larger is a batch of its own.
    pub bytes: u64,
    /// Entries that came before this moment are given up instead.
    pub not_before: Option<i64>,
}

impl Wanted {
    /// Up to so many entries.
    pub fn entries(entries: usize) -> Self {
        Self {
            entries,
            bytes: u64::MAX,
            not_before: None,
        }
    }
}

/// What there is to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<R> {
    /// A batch, and what was made of it.
    Batch(R),
    /// Nothing is left to drain.
    Empty,
    /// Entries were given up because of their age: ask again.
    Expired,
    /// The partition has been paused.
    Paused,
}

/// How often a batch is tried.
#[derive(Debug, Clone, Copy, Default)]
pub struct Policy {
    /// How often again.
    pub max_retries: u32,
    /// Whether it is halved then, until one entry is left, each half being tried once.
    pub split: bool,
}

impl Policy {
    /// Never again.
    pub const ONCE: Policy = Policy {
        max_retries: 0,
        split: false,
    };
}

/// What became of the batch in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// There was none.
    Nothing,
    /// It will be tried again.
    Again {
        /// How often it has been tried.
        attempts: u32,
        /// How many entries.
        len: usize,
        /// It will be tried in halves.
        halved: bool,
    },
    /// The processor had returned: so many entries have been processed.
    Processed(usize),
    /// It was given up; that is to be reported.
    Discarded(Discarded),
}

/// Entries that were given up, for whoever reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Discarded {
    /// Why.
    pub reason: Reason,
    /// How many entries.
    pub len: usize,
    /// Their weight, with those of the same batch that had been processed.
    pub bytes: u64,
}

/// A batch that is to be tried again, at the beginning of the draining generation, or after another one.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    pub(crate) len: usize,
    pub(crate) pending: Option<Arc<[u32]>>,
    pub(crate) attempt: u32,
}

impl Piece {
    pub(crate) fn held(&self) -> usize {
        self.pending.as_ref().map_or(self.len, |some| some.len())
    }

    /// Two pieces that have half of its entries each.
    pub(crate) fn halve(&self) -> [Piece; 2] {
        let half = self.held() / 2;
        let cut = self
            .pending
            .as_ref()
            .map_or(half, |some| some[half] as usize);
        let piece = |len, pending| Piece {
            len,
            pending,
            attempt: self.attempt,
        };
        let parts = self.pending.as_ref().map(|some| {
            let (one, other) = some.split_at(half);
            let moved = other.iter().map(|index| index - cut as u32);
            (Arc::from(one), moved.collect())
        });
        let (one, other) = parts.map_or((None, None), |(one, other)| (Some(one), Some(other)));
        [piece(cut, one), piece(self.len - cut, other)]
    }
}

/// What is to be done when no lock is held any more.
#[derive(Debug)]
pub struct After<A, O> {
    /// Memory to be freed.
    pub retired: Retired<A>,
    /// Who is to be told that what it waits for has been through.
    pub passed: Told<O>,
    /// Writers wait for the room that was given back.
    pub room: bool,
}

impl<A: Arena, O> After<A, O> {
    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.retired.is_empty() && self.passed.is_empty() && !self.room
    }
}

impl<A, O> Default for After<A, O> {
    fn default() -> Self {
        Self {
            retired: Retired::default(),
            passed: Told::new(),
            room: false,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn piece(len: usize, pending: Option<&[u32]>) -> Piece {
        Piece {
            len,
            pending: pending.map(Arc::from),
            attempt: 1,
        }
    }

    fn shape(piece: &Piece) -> (usize, Option<Vec<u32>>) {
        (piece.len, piece.pending.as_deref().map(<[u32]>::to_vec))
    }

    #[test]
    fn halves_have_all_entries_between_them() {
        let halves = piece(5, None).halve();
        assert_eq!(halves.each_ref().map(shape), [(2, None), (3, None)]);
    }

    #[test]
    fn halves_of_what_is_left_of_a_batch() {
        let halves = piece(10, Some(&[1, 4, 7, 9])).halve();
        let expected = [(7, Some(vec![1, 4])), (3, Some(vec![0, 2]))];
        assert_eq!(halves.each_ref().map(shape), expected);
        let halves = piece(3, Some(&[0, 2])).halve();
        assert_eq!(
            halves.each_ref().map(shape),
            [(2, Some(vec![0])), (1, Some(vec![0]))]
        );
    }
}
