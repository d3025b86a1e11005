//! What was given up, until somebody has been told of each entry.
//!
//! It is kept only where `on_discard` is set, and counts as discarded already. It is bounded: what comes
//! while there is too much is not kept ([`Kept::is_full`]).
//!
//! Kept under a lock of its own, which is held for a moment only: a batch is taken out to be read.

use std::collections::VecDeque;

use crate::stats::Reason;
use crate::{Arena, Segment};

/// Batches that were given up, oldest first.
#[derive(Debug)]
pub struct Kept<A> {
    batches: VecDeque<KeptBatch<A>>,
    // Those with whoever is told of them included.
    entries: usize,
    taken: usize,
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
            taken: 0,
        }
    }
}

impl<A: Arena> Kept<A> {
    /// Nothing more is kept once there are so many entries. Whoever is told of them is far behind then.
    pub const MAX_ENTRIES: usize = 100_000;

    /// Whether there is too much.
    pub fn is_full(&self) -> bool {
        self.entries >= Self::MAX_ENTRIES
    }

    /// Keeps a batch.
    pub fn add(&mut self, batch: KeptBatch<A>) {
        self.entries += batch.arena.len();
        if batch.arena.len() > 0 {
            self.batches.push_back(batch);
        }
    }

    /// Keeps entries that were dropped one by one together with those before them.
    pub fn add_to_last(&mut self, places: (u64, u64), fill: impl FnOnce(&mut A)) {
        if self.is_full() {
            return;
        }
        let open = self.batches.back().is_some_and(|last| {
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

    /// The first batch, for whoever tells of it. The one before it has been told of, or never will be.
    pub fn take(&mut self) -> Option<KeptBatch<A>> {
        let next = self.batches.pop_front();
        self.entries -= self.taken;
        self.taken = next.as_ref().map_or(0, |batch| batch.arena.len());
        next
    }

    /// Takes all of another one, but for what has been taken from it.
    pub fn append(&mut self, mut other: Kept<A>) {
        self.entries += other.entries - other.taken;
        self.batches.append(&mut other.batches);
    }

    /// How many entries are kept, those with whoever is told of them included.
    pub fn len(&self) -> usize {
        self.entries
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    struct Count(usize);

    impl Arena for Count {
        fn new() -> Self {
            Self(0)
        }

        fn copy_from(&mut self, other: &Self, index: usize) {
            _ = (other, index);
            self.0 += 1;
        }

        fn len(&self) -> usize {
            self.0
        }
    }

    fn batch(reason: Reason, len: usize) -> KeptBatch<Count> {
        KeptBatch {
            reason,
            arena: Count(len),
            places: (1, len as u64),
            attempts: 1,
        }
    }

    fn drop_one(kept: &mut Kept<Count>, place: u64) {
        kept.add_to_last((place, place), |arena| arena.0 += 1);
    }

    #[test]
    fn hands_each_batch_out_once_in_order() {
        let mut kept = Kept::default();
        kept.add(batch(Reason::Failed, 3));
        kept.add(batch(Reason::Failed, 0));
        kept.add(batch(Reason::Killed, 2));
        assert_eq!(kept.len(), 5);
        let mut take = || kept.take().map(|batch| (batch.reason, batch.arena.0));
        assert_eq!(take(), Some((Reason::Failed, 3)));
        assert_eq!(take(), Some((Reason::Killed, 2)));
        assert_eq!(kept.len(), 2, "it is still being told of");
        assert!(kept.take().is_none() && kept.is_empty());
    }

    #[test]
    fn what_is_dropped_one_by_one_stays_together() {
        let mut kept = Kept::default();
        kept.add(batch(Reason::Failed, 3));
        (7..=8).for_each(|place| drop_one(&mut kept, place));
        kept.take();
        let dropped = kept.take().expect("two were dropped");
        assert_eq!((dropped.arena.0, dropped.places), (2, (7, 8)));
        // That one is with somebody: what comes now is another batch.
        (9..9 + 300).for_each(|place| drop_one(&mut kept, place));
        let lens: Vec<_> = std::iter::from_fn(|| kept.take().map(|batch| batch.arena.0)).collect();
        assert_eq!(lens, [Segment::<Count>::MAX_ENTRIES, 300 - 256]);
    }

    #[test]
    fn is_bounded() {
        let mut kept = Kept::default();
        kept.add(batch(Reason::Failed, Kept::<Count>::MAX_ENTRIES - 1));
        drop_one(&mut kept, 1);
        assert!(kept.is_full());
        drop_one(&mut kept, 2);
        assert_eq!(kept.len(), Kept::<Count>::MAX_ENTRIES);
        kept.take();
        kept.take();
        assert!(!kept.is_full());
    }

    #[test]
    fn appending_leaves_what_is_being_told_of_behind() {
        let (mut one, mut other) = (Kept::default(), Kept::default());
        one.add(batch(Reason::Failed, 1));
        other.add(batch(Reason::Failed, 10));
        other.add(batch(Reason::Failed, 100));
        let told = other.take();
        assert!(told.is_some_and(|batch| batch.arena.0 == 10));
        one.append(other);
        assert_eq!(one.len(), 101);
    }
}
