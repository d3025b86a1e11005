//! An arena and the weights of the entries in it.
//!
//! A segment is filled up to [`Segment::MAX_ENTRIES`] or [`Segment::MAX_BYTES`], whichever comes
//! first, and freed as a whole when its last entry has been retired.

use std::any::Any;

use crate::Arena;

/// An arena, the weight of each of its entries in bytes, and when the first one came.
#[derive(Debug)]
pub struct Segment<A> {
    arena: A,
    // Of every entry that was ever stored; those before `gone` have left, though their memory stays.
    weights: Vec<u32>,
    gone: usize,
    bytes: u64,
    opened_at: i64,
}

impl<A: Arena> Segment<A> {
    /// An arena costs up to 2 KB whatever is in it. At 256 entries that is 8 bytes an entry, and a
    /// batch of the default size still frees memory often.
    pub const MAX_ENTRIES: usize = 256;

    /// Room that is made at once: most segments get full, and growing from nothing took a twentieth of
    /// the time of a push.
    pub const FIRST_ENTRIES: usize = 64;

    /// Keeps the memory that one slow batch holds back small when entries are large.
    pub const MAX_BYTES: u64 = 512 * 1024;

    /// An empty segment, opened at `now` (nanoseconds of a monotonic clock).
    pub fn open(now: i64) -> Self {
        Self {
            arena: A::new(),
            weights: Vec::with_capacity(Self::FIRST_ENTRIES),
            gone: 0,
            bytes: 0,
            opened_at: now,
        }
    }

    /// One that is about to get the like of what a full one has, of which this is the room.
    pub fn open_like(now: i64, entries: usize, room: usize) -> Self {
        let entries = entries.min(Self::MAX_ENTRIES);
        Self {
            arena: A::about_to_get(entries, room),
            weights: Vec::with_capacity(entries),
            gone: 0,
            bytes: 0,
            opened_at: now,
        }
    }

    /// Makes it empty, to be opened again, if it has got few entries and its memory is little; otherwise nothing is done,
    /// and the answer is `false`. So it takes no longer than to free a few terms.
    pub fn clear(&mut self) -> bool {
        if !self.is_little() || !self.arena.clear() {
            return false;
        }
        self.weights.clear();
        self.gone = 0;
        self.bytes = 0;
        true
    }

    /// Opens one that has been cleared, at `now`.
    pub fn open_again(&mut self, now: i64) {
        debug_assert!(self.weights.is_empty());
        self.opened_at = now;
    }

    /// Stores one entry of `weight` bytes. `store` must add exactly one entry to the arena.
    ///
    /// If `store` unwinds, the entry does not count: weights do.
    pub fn push(&mut self, weight: u32, store: impl FnOnce(&mut A)) {
        store(&mut self.arena);
        debug_assert_eq!(self.arena.len(), self.weights.len() + 1);
        self.weights.push(weight);
        self.bytes += u64::from(weight);
    }

    /// The same for an entry of which `store` says what it weighs; or it has added none, and then nothing is done.
    #[inline]
    pub fn push_if(&mut self, store: impl FnOnce(&mut A) -> Option<u32>) -> Option<u32> {
        let weight = store(&mut self.arena)?;
        debug_assert_eq!(self.arena.len(), self.weights.len() + 1);
        self.weights.push(weight);
        self.bytes += u64::from(weight);
        Some(weight)
    }

    /// Has an entry written over by one of this weight, if it has just that. `over` must leave the arena as it
    /// was if it answers `false`.
    pub fn overwrite(
        &mut self,
        index: usize,
        weight: u32,
        over: impl FnOnce(&mut A) -> bool,
    ) -> bool {
        self.weights[index] == weight && over(&mut self.arena)
    }

    /// A segment of one entry that has been stored in its arena already.
    pub fn staged(now: i64, weight: u32, arena: A) -> Self {
        debug_assert_eq!(arena.len(), 1);
        Self {
            arena,
            weights: vec![weight],
            gone: 0,
            bytes: u64::from(weight),
            opened_at: now,
        }
    }

    /// The weight of all entries that were ever stored.
    fn stored_bytes(&self) -> u64 {
        self.weights.iter().copied().map(u64::from).sum()
    }

    /// Whether it is freed in less time than it takes to hand it over.
    fn is_little(&self) -> bool {
        Retired::<A>::is_few(self.weights.len(), self.stored_bytes())
    }

    /// How many entries were ever stored; the index of the next one.
    pub fn stored(&self) -> usize {
        self.weights.len()
    }

    /// The weight of the entry at this index.
    pub fn weight(&self, index: usize) -> u32 {
        self.weights[index]
    }

    /// Whether the next entry belongs into a new segment.
    pub fn is_full(&self) -> bool {
        self.weights.len() >= Self::MAX_ENTRIES || self.bytes >= Self::MAX_BYTES
    }

    /// How many entries are left in it.
    pub fn len(&self) -> usize {
        self.weights.len() - self.gone
    }

    /// Whether none is left.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The weight of the entries that are left.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The weight of the first `count` entries that are left.
    pub fn bytes_of(&self, count: usize) -> u64 {
        if count >= self.len() {
            return self.bytes;
        }
        self.weights(count).sum()
    }

    /// The weights of the first `count` entries that are left.
    pub fn weights(&self, count: usize) -> impl Iterator<Item = u64> + '_ {
        let weights = self.weights.iter().skip(self.gone).take(count);
        weights.copied().map(u64::from)
    }

    /// Takes the first `count` entries that are left, as copies.
    pub fn split(&mut self, count: usize) -> Self {
        let range = self.range(0, count);
        let mut split = Self::open(self.opened_at);
        for index in range {
            let from = &self.arena;
            split.push(self.weights[index], |arena| arena.copy_from(from, index));
        }
        self.retire(count);
        split
    }

    /// The first `count` entries that are left have left too.
    pub fn retire(&mut self, count: usize) {
        self.bytes -= self.bytes_of(count);
        self.gone += self.len().min(count);
    }

    /// Where in the arena the entries lie that are left, after the first `skip`, `count` at the most.
    pub fn range(&self, skip: usize, count: usize) -> std::ops::Range<usize> {
        let from = self.gone + self.len().min(skip);
        from..from + (self.weights.len() - from).min(count)
    }

    /// When its first entry came.
    pub fn opened_at(&self) -> i64 {
        self.opened_at
    }

    /// The arena.
    pub fn arena(&self) -> &A {
        &self.arena
    }
}

/// Segments that nothing is left in, and other memory, to be freed where that holds nobody up.
///
/// A pointer, and mostly none: each write makes one and drops it again.
#[derive(Debug)]
pub struct Retired<A>(Option<Box<Memory<A>>>);

#[derive(Debug)]
struct Memory<A> {
    segments: Vec<Box<Segment<A>>>,
    // What was left in them when they came: enough to tell large entries from small ones.
    bytes: u64,
    // What is not just segments, how many entries are in it, and their weight.
    other: Vec<(usize, u64, Box<dyn Any + Send>)>,
}

impl<A> Default for Retired<A> {
    #[inline]
    fn default() -> Self {
        Self(None)
    }
}

impl<A> Default for Memory<A> {
    fn default() -> Self {
        Self {
            segments: Vec::new(),
            bytes: 0,
            other: Vec::new(),
        }
    }
}

impl<A: Arena> Retired<A> {
    /// Handing memory over wakes a thread, which costs as much as copying a hundred entries out.
    const SEGMENTS: usize = 64;
    const BYTES: u64 = 1024 * 1024;

    /// Freeing competes with draining for the processor and the allocator: 64 segments at a time it cost
    /// a third of a drain's speed. So a drain waits until its generation has left, unless that is this
    /// many times larger. The memory was held before; it is given back a little later.
    const PATIENCE: usize = 64;

    /// Handing over costs more than freeing so much.
    const FEW_ENTRIES: usize = Segment::<A>::FIRST_ENTRIES;
    const FEW_BYTES: u64 = 16 * 1024;

    fn memory(&mut self) -> &mut Memory<A> {
        self.0.get_or_insert_default()
    }

    /// Adds segments; what is left in them is forgotten.
    pub fn extend(&mut self, segments: impl IntoIterator<Item = Box<Segment<A>>>) {
        for segment in segments {
            let some = self.memory();
            some.bytes += segment.bytes();
            some.segments.push(segment);
        }
    }

    /// Adds other memory, with so many entries in it, of this weight altogether.
    pub fn extend_with(&mut self, entries: usize, bytes: u64, memory: impl Any + Send) {
        self.memory().other.push((entries, bytes, Box::new(memory)));
    }

    /// Adds what is in another, which is left empty.
    pub fn append(&mut self, other: &mut Self) {
        match (&mut self.0, other.0.take()) {
            (Some(some), Some(mut other)) => {
                some.bytes += other.bytes;
                some.segments.append(&mut other.segments);
                some.other.append(&mut other.other);
            }
            (none, other) if other.is_some() => *none = other,
            _ => {}
        }
    }

    /// Whether it is time to free it.
    pub fn is_due(&self) -> bool {
        self.0.as_ref().is_some_and(|some| {
            let segments = some.segments.len() >= Self::SEGMENTS || some.bytes >= Self::BYTES;
            segments || !some.other.is_empty()
        })
    }

    /// Whether a drain that goes on should free them now.
    pub fn is_much(&self) -> bool {
        self.0.as_ref().is_some_and(|some| {
            some.segments.len() >= Self::SEGMENTS * Self::PATIENCE
                || some.bytes >= Self::BYTES * Self::PATIENCE as u64
        })
    }

    /// Whether there is nothing.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether it is freed in less time than it takes to hand it over: what a few short cycles leave.
    pub fn is_little(&self) -> bool {
        let Some(some) = &self.0 else {
            return true;
        };
        match (&some.segments[..], &some.other[..]) {
            ([one], []) => one.is_little(),
            ([], [(entries, bytes, _)]) => Self::is_few(*entries, *bytes),
            _ => false,
        }
    }

    fn is_few(entries: usize, bytes: u64) -> bool {
        entries <= Self::FEW_ENTRIES && bytes <= Self::FEW_BYTES
    }

    /// How many entries were in it.
    pub fn entries(&self) -> usize {
        let Some(some) = &self.0 else {
            return 0;
        };
        let segments = some.segments.iter().map(|segment| segment.weights.len());
        let other = some.other.iter().map(|(entries, _, _)| *entries);
        segments.chain(other).sum()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};

    #[derive(Default)]
    struct Count(usize);

    impl Arena for Count {
        fn new() -> Self {
            Self::default()
        }

        fn copy_from(&mut self, other: &Self, index: usize) {
            _ = (other, index);
            self.0 += 1;
        }

        fn clear(&mut self) -> bool {
            self.0 = 0;
            true
        }

        fn len(&self) -> usize {
            self.0
        }
    }

    type TestSegment = Segment<Count>;

    fn segment(weights: impl IntoIterator<Item = u32>) -> TestSegment {
        let mut segment = TestSegment::open(0);
        for weight in weights {
            assert!(!segment.is_full());
            segment.push(weight, |arena| arena.0 += 1);
        }
        segment
    }

    fn retired(segments: usize, weight: u32) -> Retired<Count> {
        let mut retired = Retired::default();
        retired.extend((0..segments).map(|_| Box::new(segment([weight]))));
        retired
    }

    #[test]
    fn is_full_at_its_last_entry() {
        assert!(!segment([0; TestSegment::MAX_ENTRIES - 1]).is_full());
        assert!(segment([0; TestSegment::MAX_ENTRIES]).is_full());
    }

    #[test]
    fn is_full_at_its_last_byte() {
        let half = TestSegment::MAX_BYTES as u32 / 2;
        assert!(!segment([half, half - 1]).is_full());
        assert!(segment([half, half]).is_full());
        assert!(segment([u32::MAX]).is_full());
    }

    #[test]
    fn stays_full_when_entries_have_left() {
        let mut segment = segment([1; TestSegment::MAX_ENTRIES]);
        segment.retire(TestSegment::MAX_ENTRIES);
        assert!(segment.is_full() && segment.is_empty());
    }

    #[test]
    fn only_what_is_little_is_cleared() {
        let (few, heavy) = (
            TestSegment::FIRST_ENTRIES,
            Retired::<Count>::FEW_BYTES as u32,
        );
        for (weights, cleared) in [
            (vec![1; few], true),
            (vec![1; few + 1], false),
            (vec![heavy - 1, 1], true),
            (vec![heavy, 1], false),
            (vec![u32::MAX], false),
        ] {
            let stored = weights.len();
            let mut segment = segment(weights);
            // What has left is in memory all the same.
            segment.retire(usize::MAX);
            assert_eq!(segment.clear(), cleared);
            assert_eq!(segment.stored(), if cleared { 0 } else { stored });
            assert_eq!(segment.arena().len(), segment.stored());
        }
    }

    #[test]
    fn counts_what_is_left() {
        let mut segment = segment([1, 10, 100]);
        segment.retire(1);
        assert_eq!((segment.len(), segment.bytes()), (2, 110));
        assert_eq!([0, 1, 2, 3].map(|n| segment.bytes_of(n)), [0, 10, 110, 110]);
        segment.retire(0);
        assert_eq!(segment.len(), 2);
    }

    #[test]
    fn ranges_end_with_the_segment() {
        let mut segment = segment([1; 5]);
        segment.retire(2);
        assert_eq!(segment.range(0, 2), 2..4);
        assert_eq!(segment.range(1, usize::MAX), 3..5);
        assert_eq!(segment.range(3, 1), 5..5);
        assert_eq!(segment.range(usize::MAX, usize::MAX), 5..5);
        assert_eq!(segment.bytes_of(usize::MAX), 3);
        segment.retire(usize::MAX);
        assert_eq!((segment.len(), segment.bytes()), (0, 0));
        assert_eq!(segment.range(0, usize::MAX), 5..5);
    }

    #[test]
    fn an_entry_whose_store_unwinds_does_not_count() {
        let mut segment = segment([1]);
        let store = |_: &mut Count| resume_unwind(Box::new("unwinding"));
        let unwound = catch_unwind(AssertUnwindSafe(|| segment.push(7, store)));
        assert!(unwound.is_err());
        assert_eq!((segment.len(), segment.bytes()), (1, 1));
        segment.push(2, |arena| arena.0 += 1);
        assert_eq!(segment.range(0, 9), 0..2);
    }

    #[test]
    fn an_entry_that_is_refused_does_not_count() {
        let mut segment = segment([1]);
        assert_eq!(segment.push_if(|_| None), None);
        assert_eq!((segment.len(), segment.bytes()), (1, 1));
        let store = |arena: &mut Count| {
            arena.0 += 1;
            Some(5)
        };
        assert_eq!(segment.push_if(store), Some(5));
        assert_eq!((segment.len(), segment.bytes()), (2, 6));
        assert_eq!(segment.weight(1), 5);
    }

    #[test]
    fn freeing_is_due_for_many_segments_or_large_ones() {
        let (many, large) = (Retired::<Count>::SEGMENTS, Retired::<Count>::BYTES as u32);
        assert!(!retired(0, 0).is_due());
        assert!(!retired(many - 1, 0).is_due() && retired(many, 0).is_due());
        assert!(!retired(1, large - 1).is_due() && retired(1, large).is_due());
    }

    #[test]
    fn appending_adds_up_and_leaves_nothing_behind() {
        let third = Retired::<Count>::BYTES as u32 / 3 + 1;
        let (mut one, mut other) = (retired(2, third), retired(1, third));
        assert!(!one.is_due() && !other.is_due());
        other.append(&mut one);
        assert!(one.is_empty() && !one.is_due());
        assert!(other.is_due());
        assert_eq!((one.entries(), other.entries()), (0, 3));
    }

    #[test]
    fn a_segment_of_a_few_light_entries_is_little() {
        let few = Retired::<Count>::FEW_ENTRIES;
        let heavy = Retired::<Count>::FEW_BYTES as u32 + 1;
        assert!(retired(0, 0).is_little() && retired(1, heavy - 1).is_little());
        assert!(!retired(1, heavy).is_little() && !retired(2, 1).is_little());
        let full = |entries| {
            let mut segment = segment((0..entries).map(|_| 1));
            // What has left it has to be freed as well.
            segment.retire(entries);
            let mut retired = Retired::default();
            retired.extend([Box::new(segment)]);
            retired
        };
        assert!(full(few).is_little() && !full(few + 1).is_little());
    }

    #[test]
    fn other_memory_is_little_if_its_entries_are() {
        let other = |entries, bytes| {
            let mut retired = Retired::<Count>::default();
            retired.extend_with(entries, bytes, ());
            retired
        };
        let (few, light) = (Retired::<Count>::FEW_ENTRIES, Retired::<Count>::FEW_BYTES);
        assert!(other(few, light).is_little());
        assert!(!other(few + 1, light).is_little() && !other(few, light + 1).is_little());
        let mut both = other(1, 1);
        both.append(&mut retired(1, 1));
        assert!(!both.is_little());
    }

    #[test]
    fn other_memory_is_due_at_once_and_dropped_with_the_rest() {
        let (mut one, mut other) = (retired(0, 0), retired(1, 1));
        let memory = std::sync::Arc::new(());
        one.extend_with(7, 0, std::sync::Arc::clone(&memory));
        assert!(one.is_due() && !one.is_empty());
        other.append(&mut one);
        assert!(one.is_empty() && !one.is_due() && other.is_due());
        assert_eq!((one.entries(), other.entries()), (0, 8));
        drop(other);
        assert_eq!(std::sync::Arc::strong_count(&memory), 1);
    }
}
