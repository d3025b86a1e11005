//! Messages that were given up, until whoever waits for an answer has been told.
//!
//! What was dropped leaves the partition at once. What says whom to answer is copied here, under the
//! partition's lock, and stays until it has been reported: a reporter that dies before leaves it to the
//! next one.

use std::collections::VecDeque;

use crate::{Arena, Generation, Queue, Retired};

/// Why a message was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drop {
    /// There was no room, and it was the oldest.
    Full,
    /// It has waited for too long.
    Timeout,
    /// CoDel: all have waited for too long.
    Delay,
    /// Its caller has died.
    CallerDown,
    /// The broker has been closed, and it was handed back.
    Shutdown,
}

impl Drop {
    /// All of them, in the order of their numbers.
    pub const ALL: [Drop; 5] = [
        Drop::Full,
        Drop::Timeout,
        Drop::Delay,
        Drop::CallerDown,
        Drop::Shutdown,
    ];
}

/// How many, by reason.
pub type Drops = [u64; Drop::ALL.len()];

/// What is to be reported.
pub struct Dropped<A> {
    replies: Queue<A>,
    // And whether the caller has been told that it has waited for long.
    reasons: VecDeque<(Drop, bool)>,
    // Of all messages that were dropped and not reported yet, those that nobody waits for too.
    counts: Drops,
    // The reporter knows that there is something.
    told: bool,
}

impl<A> Default for Dropped<A> {
    fn default() -> Self {
        Self {
            replies: Queue::default(),
            reasons: VecDeque::new(),
            counts: Drops::default(),
            told: false,
        }
    }
}

impl<A: Arena> Dropped<A> {
    /// What a reply weighs in the queue of replies. They are small; that is seen to where they come in.
    const WEIGHT: u32 = 64;

    /// Adds one, whose caller has been `told` that it has waited for long, or is being told; answers whether the reporter has
    /// to be told.
    pub fn push(&mut self, reason: Drop, reply: Option<(&A, u32)>, told: bool, at: i64) -> bool {
        self.counts[reason as usize] += 1;
        if let Some((arena, index)) = reply {
            let copy = |own: &mut A| own.copy_from(arena, index as usize);
            self.replies.push(Self::WEIGHT, || at, copy);
            self.reasons.push_back((reason, told));
        }
        !std::mem::replace(&mut self.told, true)
    }

    /// How many replies are to be sent.
    pub fn len(&self) -> usize {
        self.reasons.len()
    }

    /// Whether nothing is to be sent.
    pub fn is_empty(&self) -> bool {
        self.reasons.is_empty()
    }

    /// The first few, which stay, and all counts. What comes from now on is told again.
    pub fn peek(&mut self, count: usize, mut read: impl FnMut(&A, usize, Drop, bool)) -> Drops {
        self.told = false;
        let mut reasons = self.reasons.iter();
        for (arena, range) in self.replies.pieces(0, count) {
            for (index, &(reason, told)) in range.zip(reasons.by_ref()) {
                read(arena, index, reason, told);
            }
        }
        self.counts
    }

    /// The first `count` have been sent, and so many been counted.
    pub fn reported(&mut self, count: usize, counts: &Drops) -> Retired<A> {
        let mut retired = Retired::default();
        let count = count.min(self.reasons.len());
        self.replies.retire(count, &mut retired);
        self.reasons.drain(..count);
        for (left, counted) in self.counts.iter_mut().zip(counts) {
            *left = left.saturating_sub(*counted);
        }
        retired
    }
}
