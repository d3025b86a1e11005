//! A generation that keeps order: entries leave as they came.

use std::collections::VecDeque;
use std::ops::Range;

use crate::segment::Retired;
use crate::{Arena, Generation, Segment, Tally};

/// Segments in the order in which their entries were accepted; none of them is empty.
#[derive(Debug)]
pub struct Queue<A> {
    // Boxed: the deque then moves 8 bytes a segment when it grows, not the segments themselves,
    // and a push into a generation of ten million entries stays as short as any other.
    segments: VecDeque<Box<Segment<A>>>,
    len: usize,
    bytes: u64,
}

impl<A> Default for Queue<A> {
    fn default() -> Self {
        Self {
            segments: VecDeque::new(),
            len: 0,
            bytes: 0,
        }
    }
}

impl<A: Arena> Queue<A> {
    /// Appends one entry of `weight` bytes; `now` is asked only when a segment is opened.
    pub fn push(&mut self, weight: u32, now: impl FnOnce() -> i64, store: impl FnOnce(&mut A)) {
        match self.segments.back_mut() {
            Some(segment) if !segment.is_full() => segment.push(weight, store),
            _ => {
                let mut segment = Box::new(Segment::open(now()));
                segment.push(weight, store);
                self.segments.push_back(segment);
            }
        }
        self.len += 1;
        self.bytes += u64::from(weight);
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
        // Nothing leaves a live queue.
        Tally {
            accepted: self.len as u64,
            ..Tally::default()
        }
    }

    fn oldest(&self) -> Option<i64> {
        self.segments.front().map(|segment| segment.opened_at())
    }

    fn bytes_of(&self, count: usize) -> u64 {
        if count >= self.len {
            return self.bytes;
        }
        let (mut left, mut bytes) = (count, 0);
        for segment in &self.segments {
            if left == 0 {
                break;
            }
            bytes += segment.bytes_of(left);
            left -= left.min(segment.len());
        }
        bytes
    }

    fn retire(&mut self, count: usize, retired: &mut Retired<A>) {
        let mut left = count.min(self.len);
        self.len -= left;
        while let Some(front) = self.segments.front_mut() {
            let here = left.min(front.len());
            self.bytes -= front.bytes_of(here);
            if here < front.len() {
                front.retire(here);
                break;
            }
            left -= here;
            retired.extend(self.segments.pop_front());
        }
    }
}
