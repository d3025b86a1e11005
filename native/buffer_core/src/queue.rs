//! A generation that keeps order: entries leave as they came.

use std::collections::VecDeque;
use std::ops::Range;

use crate::segment::Retired;
use crate::{Arena, First, Generation, Segment, Tally};

/// What is kept for segments when they have left, at the most.
const KEPT_ROOM: usize = 16;

/// Segments in the order in which their entries were accepted; none of them is empty.
#[derive(Debug)]
pub struct Queue<A> {
    // Boxed: the deque then moves 8 bytes a segment when it grows, not the segments themselves,
    // and a push into a generation of ten million entries stays as short as any other.
    segments: VecDeque<Box<Segment<A>>>,
    len: usize,
    bytes: u64,
    // Entries that have left.
    gone: u64,
    // How many entries the last full segment got, and how much room they took: what the next one is made for.
    usual: (usize, usize),
    // A small segment that all has left: the next one.
    spare: Option<Box<Segment<A>>>,
}

impl<A> Default for Queue<A> {
    fn default() -> Self {
        Self {
            segments: VecDeque::new(),
            len: 0,
            bytes: 0,
            gone: 0,
            usual: (0, 0),
            spare: None,
        }
    }
}

impl<A: Arena> Queue<A> {
    /// An empty one, about to get so many entries that take so much room.
    pub fn about_to_get(entries: usize, room: usize) -> Self {
        Self {
            usual: (entries, room),
            ..Self::default()
        }
    }

    /// Appends one entry of `weight` bytes; `now` is asked only when a segment is opened.
    pub fn push(&mut self, weight: u32, now: impl FnOnce() -> i64, store: impl FnOnce(&mut A)) {
        match self.segments.back_mut() {
            Some(segment) if !segment.is_full() => segment.push(weight, store),
            full => {
                if let Some(segment) = full {
                    self.usual = (segment.stored(), segment.arena().room());
                }
                let mut segment = match (self.spare.take(), self.usual) {
                    (Some(mut spare), _) => {
                        spare.open_again(now());
                        spare
                    }
                    (None, (0, _)) => Box::new(Segment::open(now())),
                    (None, (entries, room)) => Box::new(Segment::open_like(now(), entries, room)),
                };
                segment.push(weight, store);
                self.segments.push_back(segment);
            }
        }
        self.len += 1;
        self.bytes += u64::from(weight);
    }

    /// Appends entries, each with its weight: as [`push`](Queue::push) does one after the other.
    pub fn extend<T>(
        &mut self,
        entries: impl IntoIterator<Item = (T, u32)>,
        now: impl Fn() -> i64,
        mut store: impl FnMut(&mut A, T),
    ) {
        let mut entries = entries.into_iter();
        // The first one may need a segment. Those after it find one, and it is looked for once for all that it takes.
        while let Some((entry, weight)) = entries.next() {
            self.push(weight, &now, |arena| store(arena, entry));
            let Some(segment) = self.segments.back_mut() else {
                break;
            };
            while !segment.is_full() {
                let Some((entry, weight)) = entries.next() else {
                    return;
                };
                segment.push(weight, |arena| store(arena, entry));
                self.len += 1;
                self.bytes += u64::from(weight);
            }
        }
    }

    /// Appends another queue's entries without touching one of them: O(segments).
    pub fn append(&mut self, mut other: Queue<A>) {
        self.len += other.len;
        self.bytes += other.bytes;
        self.segments.append(&mut other.segments);
    }

    /// Where `count` entries after the first `skip` lie: arenas and ranges in them, in order.
    pub fn pieces(&self, skip: usize, count: usize) -> impl Iterator<Item = (&A, Range<usize>)> {
        let (mut skip, mut left) = (skip, count);
        let mut segments = self.segments.iter();
        std::iter::from_fn(move || {
            while left > 0 {
                let segment = segments.next()?;
                if skip >= segment.len() {
                    skip -= segment.len();
                    continue;
                }
                let range = segment.range(skip, left);
                skip = 0;
                left -= range.len();
                return Some((segment.arena(), range));
            }
            None
        })
    }
}

impl<A: Arena> Generation for Queue<A> {
    type Arena = A;

    fn len(&self) -> usize {
        self.len
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn tally(&self) -> Tally {
        // What has left a live queue was dropped or split off, and was accepted before.
        Tally {
            accepted: self.gone + self.len as u64,
            ..Tally::default()
        }
    }

    fn oldest(&self) -> Option<i64> {
        self.segments.front().map(|segment| segment.opened_at())
    }

    fn first(&self, entries: usize, bytes: u64) -> First {
        let mut first = First {
            places: self.gone,
            ..First::default()
        };
        if entries >= self.len && bytes >= self.bytes {
            first.add(self.len, self.bytes);
            return first;
        }
        for segment in &self.segments {
            let left = entries - first.len;
            let here = segment.len().min(left);
            let weight = segment.bytes_of(here);
            if first.bytes.saturating_add(weight) <= bytes {
                first.add(here, weight);
                if here == left {
                    break;
                }
                continue;
            }
            for weight in segment.weights(here) {
                if first.len > 0 && first.bytes + weight > bytes {
                    break;
                }
                first.add(1, weight);
            }
            break;
        }
        first
    }

    fn older_than(&self, count: usize, moment: i64, swapped_at: i64) -> usize {
        // What is in a segment came before the next one was opened, unless that is the other part of one
        // that was split.
        let mut old = 0;
        for (index, segment) in self.segments.iter().enumerate() {
            let opened = segment.opened_at();
            let others = self.segments.range(index + 1..);
            let mut next = others.map(|next| next.opened_at());
            let end = next.find(|next| *next > opened);
            if old >= count || end.unwrap_or(swapped_at) >= moment {
                break;
            }
            old += segment.len();
        }
        old.min(count)
    }

    fn move_to(&mut self, emptied: &mut Self) {
        std::mem::swap(self, emptied);
        // What comes in a cycle may be much less than what fills a segment.
        let filled = emptied.segments.len() >= 2;
        self.usual = if filled { emptied.usual } else { (0, 0) };
        self.gone = 0;
        if self.segments.capacity() > KEPT_ROOM {
            self.segments = VecDeque::new();
        }
    }

    fn places(&self) -> (u64, u64) {
        (self.gone, self.gone + self.len as u64)
    }

    fn places_up_to(&self, index: usize) -> u64 {
        self.gone + self.len.min(index + 1) as u64
    }

    fn can_join(&self, later: &Self) -> bool {
        // Places are counted on.
        later.gone == 0
    }

    fn join(&mut self, later: Self) {
        self.append(later);
    }

    fn split(&mut self, count: usize) -> Option<Self> {
        let mut split = Queue {
            gone: self.gone,
            ..Queue::default()
        };
        let mut left = count;
        while let Some(front) = self.segments.front_mut() {
            let here = front.len().min(left);
            let bytes = front.bytes_of(here);
            let part = if here == front.len() {
                self.segments.pop_front()
            } else if here > 0 {
                Some(Box::new(front.split(here)))
            } else {
                None
            };
            let Some(part) = part else {
                break;
            };
            split.segments.push_back(part);
            split.len += here;
            split.bytes += bytes;
            left -= here;
        }
        self.len -= split.len;
        self.bytes -= split.bytes;
        self.gone += split.len as u64;
        Some(split)
    }

    fn retire(&mut self, count: usize, retired: &mut Retired<A>) {
        let mut left = count.min(self.len);
        self.len -= left;
        self.gone += left as u64;
        while let Some(front) = self.segments.front_mut() {
            let here = left.min(front.len());
            self.bytes -= front.bytes_of(here);
            if here < front.len() {
                front.retire(here);
                break;
            }
            left -= here;
            let Some(mut emptied) = self.segments.pop_front() else {
                break;
            };
            if self.segments.is_empty() && emptied.clear() {
                self.spare = Some(emptied);
                break;
            }
            retired.extend([emptied]);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Each entry takes three units of room.
    struct Guessed {
        made_for: Option<(usize, usize)>,
        stored: usize,
    }

    impl Arena for Guessed {
        fn new() -> Self {
            Self {
                made_for: None,
                stored: 0,
            }
        }

        fn about_to_get(entries: usize, room: usize) -> Self {
            Self {
                made_for: Some((entries, room)),
                stored: 0,
            }
        }

        fn room(&self) -> usize {
            3 * self.stored
        }

        fn copy_from(&mut self, _other: &Self, _index: usize) {
            self.stored += 1;
        }

        fn clear(&mut self) -> bool {
            self.stored = 0;
            true
        }

        fn len(&self) -> usize {
            self.stored
        }
    }

    const FULL: usize = Segment::<Guessed>::MAX_ENTRIES;

    fn push(queue: &mut Queue<Guessed>, count: usize) {
        (0..count).for_each(|_| queue.push(8, || 0, |arena| arena.stored += 1));
    }

    fn made_for(queue: &Queue<Guessed>) -> Vec<Option<(usize, usize)>> {
        let pieces = queue.pieces(0, usize::MAX);
        pieces.map(|(arena, _)| arena.made_for).collect()
    }

    #[test]
    fn a_segment_is_made_for_what_the_full_one_before_it_got() {
        let mut queue = Queue::default();
        push(&mut queue, FULL + 1);
        assert_eq!(made_for(&queue), [None, Some((FULL, 3 * FULL))]);
        queue.move_to(&mut Queue::default());
        push(&mut queue, 1);
        assert_eq!(made_for(&queue), [Some((FULL, 3 * FULL))]);
    }

    #[test]
    fn a_small_segment_that_all_has_left_is_the_next_one() {
        let (mut live, mut drained, mut retired) =
            (Queue::default(), Queue::default(), Retired::default());
        let few = Segment::<Guessed>::FIRST_ENTRIES;
        let mut segments = Vec::new();
        for _ in 0..4 {
            push(&mut live, few);
            let place = |(arena, _): (&Guessed, _)| std::ptr::from_ref(arena);
            segments.extend(live.pieces(0, 1).map(place));
            live.move_to(&mut drained);
            drained.retire(1, &mut retired);
            assert_eq!((drained.len(), drained.oldest()), (few - 1, Some(0)));
            drained.retire(few, &mut retired);
            assert_eq!((drained.len(), drained.bytes()), (0, 0));
            assert_eq!(drained.oldest(), None);
        }
        assert!(retired.is_empty());
        // Each of the two generations has one.
        assert_eq!(segments[..2], segments[2..]);
        assert_ne!(segments[0], segments[1]);
    }

    #[test]
    fn of_many_entries_nothing_is_kept() {
        let (mut live, mut drained, mut retired) =
            (Queue::default(), Queue::default(), Retired::default());
        let many = Segment::<Guessed>::FIRST_ENTRIES + 1;
        push(&mut live, many);
        live.move_to(&mut drained);
        drained.retire(many, &mut retired);
        assert_eq!(retired.entries(), many);
        push(&mut live, 100 * FULL);
        live.move_to(&mut drained);
        drained.retire(usize::MAX, &mut retired);
        assert_eq!(retired.entries(), many + 100 * FULL);
        live.move_to(&mut drained);
        assert_eq!(live.segments.capacity(), 0);
    }

    #[test]
    fn a_cycle_that_fills_no_segment_leaves_no_guess() {
        let mut queue = Queue::about_to_get(FULL, 1);
        push(&mut queue, FULL);
        assert_eq!(made_for(&queue), [Some((FULL, 1))]);
        queue.move_to(&mut Queue::default());
        push(&mut queue, 1);
        assert_eq!(made_for(&queue), [None]);
    }
}
