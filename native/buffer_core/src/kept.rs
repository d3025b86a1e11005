//! What was given up, until somebody has been told of each entry.
//!
//! It is kept only where `on_discard` is set, and counts as discarded already. It is bounded: what comes
//! when there is too much is not kept.

use std::collections::VecDeque;

use crate::stats::Reason;
use crate::{Arena, Segment};

/// Batches that were given up, oldest first.
#[derive(Debug)]
pub struct Kept<A> {
    batches: VecDeque<KeptBatch<A>>,
    entries: usize,
    // The first one is with whoever is told of it.
    taken: bool,
}

/// Entries that were given up together.
#[derive(Debug)]
pub struct KeptBatch<A> {
    /// Why.
    pub reason: Reason,
    /// The entries, as a processor gets them.
    pub arena: A,
    /// The places of its first and last entry.
    pub places: (u64, u64),
    /// How often it was tried.
    pub attempts: u32,
}

impl<A> Default for Kept<A> {
    fn default() -> Self {
        Self {
            batches: VecDeque::new(),
            entries: 0,
            taken: false,
        }
    }
}

impl<A: Arena> Kept<A> {
    /// Keeps a batch.
    pub fn add(&mut self, batch: KeptBatch<A>) {
        self.entries += batch.arena.len();
        if batch.arena.len() > 0 {
            self.batches.push_back(batch);
        }
    }

    /// Keeps entries that were dropped one by one together with those before them.
    pub fn add_to_last(&mut self, places: (u64, u64), fill: impl FnOnce(&mut A)) {
        let alone = usize::from(self.taken);
        let open = self.batches.len() > alone
            && self.batches.back().is_some_and(|last| {
                last.reason == Reason::Overflow && last.arena.len() < Segment::<A>::MAX_ENTRIES
            });
        if !open {
            self.batches.push_back(KeptBatch {
                reason: Reason::Overflow,
                arena: A::new(),
                places,
                attempts: 0,
            });
        }
        if let Some(last) = self.batches.back_mut() {
            let before = last.arena.len();
            fill(&mut last.arena);
            self.entries += last.arena.len() - before;
            last.places = (last.places.0.min(places.0), last.places.1.max(places.1));
        }
    }

    /// The first batch, for whoever tells of it; it is no more when that one comes again.
    pub fn take(&mut self) -> Option<&KeptBatch<A>> {
        self.done();
        self.taken = !self.batches.is_empty();
        self.batches.front()
    }

    /// The batch that was taken has been told of, or never will be.
    pub fn done(&mut self) {
        if std::mem::take(&mut self.taken) {
            let gone = self.batches.pop_front();
            self.entries -= gone.map_or(0, |batch| batch.arena.len());
        }
    }

    /// Takes all of another one.
    pub fn append(&mut self, mut other: Kept<A>) {
        other.done();
        self.entries += other.entries;
        self.batches.append(&mut other.batches);
    }

    /// How many entries are kept.
    pub fn len(&self) -> usize {
        self.entries
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }
}
