//! What is known of the messages of one chunk, in order.
//!
//! Nobody waits for most messages, and of such a one there is little to know: when it came, and its id. As long as all
//! in a chunk are like that, and were put into its segment one behind the other, each takes eight bytes here. When one
//! comes that is not, or one leaves from between others, all of them are written out, once for a chunk.
//!
//! Whatever a million waiting messages take is new memory, and an operating system takes longer to provide it than a
//! message takes otherwise.
//!
//! Invariants:
//!
//! * Ids grow. The first and the last one have not left.
//! * While they are brief, the message after the one at `i` of the segment is at `i + 1`, and all of them weigh as
//!   much more than what lies there.

use std::collections::VecDeque;

use super::waiting::Entry;
use crate::{Arena, Segment};

pub(super) enum Entries<P> {
    Brief(Brief),
    // With its id each, which stays when the message leaves.
    Full(VecDeque<(u64, Option<Entry<P>>)>),
}

/// Messages of which there is little to know.
#[derive(Default)]
pub(super) struct Brief {
    slots: Vec<Slot>,
    // So many of them have left, from the front.
    gone: usize,
    // What is told apart from this, when there is any: of the first slot, whether that has left or not.
    id: u64,
    at: i64,
    message: u32,
    // What each weighs besides its terms.
    surplus: u32,
}

/// By how much greater its id is, and how much later it came.
#[derive(Clone, Copy)]
struct Slot {
    id: u32,
    at: i32,
}

impl Brief {
    fn len(&self) -> usize {
        self.slots.len() - self.gone
    }

    /// Adds one, if it is like the others, and otherwise does nothing.
    #[inline]
    fn push(&mut self, id: u64, at: i64, message: u32, surplus: u32, most: usize) -> bool {
        if self.len() == 0 {
            self.slots.clear();
            self.slots.reserve(most);
            self.gone = 0;
            (self.id, self.at) = (id, at);
            (self.message, self.surplus) = (message, surplus);
        }
        let follows = message as usize == self.message as usize + self.slots.len();
        let since = id.checked_sub(self.id).map(u32::try_from);
        let (Some(Ok(id)), Ok(at)) = (since, i32::try_from(at.wrapping_sub(self.at))) else {
            return false;
        };
        if !follows || surplus != self.surplus {
            return false;
        }
        self.slots.push(Slot { id, at });
        true
    }

    fn id(&self, slot: &Slot) -> u64 {
        self.id + u64::from(slot.id)
    }

    #[inline]
    fn entry<A: Arena, P>(&self, index: usize, segment: &Segment<A>) -> Option<Entry<P>> {
        let index = self.gone + index;
        let slot = self.slots.get(index)?;
        let message = self.message + index as u32;
        Some(Entry {
            weight: segment.weight(message as usize) + self.surplus,
            ..Entry::loose(self.id(slot), self.at + i64::from(slot.at), message)
        })
    }
}

impl<P> Default for Entries<P> {
    fn default() -> Self {
        Self::Brief(Brief::default())
    }
}

impl<P: Copy> Entries<P> {
    /// How many there are, with those that left from between others.
    #[inline]
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Brief(brief) => brief.len(),
            Self::Full(entries) => entries.len(),
        }
    }

    /// None are left; those that come lie in a segment that has been cleared.
    pub(super) fn clear(&mut self) {
        match self {
            Self::Brief(brief) => {
                brief.slots.clear();
                brief.gone = 0;
            }
            Self::Full(_) => *self = Self::default(),
        }
    }

    /// Adds a message.
    pub(super) fn push<A: Arena>(&mut self, entry: &Entry<P>, segment: &Segment<A>) {
        if entry.is_brief()
            && self.push_loose(entry.id, entry.at, entry.message, entry.weight, segment)
        {
            return;
        }
        let first = match entry.alone {
            true => 1,
            false => Segment::<A>::FIRST_ENTRIES,
        };
        let entries = self.write_out(first, segment);
        entries.push_back((entry.id, Some(*entry)));
    }

    /// Adds a message that nobody waits for, if there is little to know of it and of the others, and otherwise does nothing.
    #[inline]
    pub(super) fn push_loose<A: Arena>(
        &mut self,
        id: u64,
        at: i64,
        message: u32,
        weight: u32,
        segment: &Segment<A>,
    ) -> bool {
        let Self::Brief(brief) = self else {
            return false;
        };
        let is_there = (message as usize) < segment.stored();
        let surplus = is_there.then(|| weight.checked_sub(segment.weight(message as usize)));
        surplus
            .flatten()
            .is_some_and(|surplus| brief.push(id, at, message, surplus, Segment::<A>::MAX_ENTRIES))
    }

    /// All of them in full, with room for so many more.
    #[cold]
    fn write_out<A: Arena>(
        &mut self,
        more: usize,
        segment: &Segment<A>,
    ) -> &mut VecDeque<(u64, Option<Entry<P>>)> {
        if let Self::Brief(brief) = self {
            let mut entries = VecDeque::with_capacity(brief.len() + more);
            let all = (0..brief.len()).filter_map(|index| brief.entry(index, segment));
            entries.extend(all.map(|entry: Entry<P>| (entry.id, Some(entry))));
            *self = Self::Full(entries);
        }
        match self {
            Self::Full(entries) => entries,
            Self::Brief(_) => unreachable!("it was just written out"),
        }
    }

    /// The one at this index, if it has not left.
    #[inline]
    pub(super) fn get<A: Arena>(&self, index: usize, segment: &Segment<A>) -> Option<Entry<P>> {
        match self {
            Self::Brief(brief) => brief.entry(index, segment),
            Self::Full(entries) => entries.get(index)?.1,
        }
    }

    /// The same, to be changed. Nothing changes in those of which there is little to know.
    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut Entry<P>> {
        match self {
            Self::Brief(_) => None,
            Self::Full(entries) => entries.get_mut(index)?.1.as_mut(),
        }
    }

    /// The id of the one at this index, though it may have left.
    pub(super) fn id(&self, index: usize) -> Option<u64> {
        match self {
            Self::Brief(brief) => {
                let slot = brief.slots.get(brief.gone + index)?;
                Some(brief.id(slot))
            }
            Self::Full(entries) => Some(entries.get(index)?.0),
        }
    }

    /// The index of the first one whose id is not less.
    pub(super) fn first_from(&self, id: u64) -> usize {
        match self {
            Self::Brief(brief) => {
                brief.slots[brief.gone..].partition_point(|slot| brief.id(slot) < id)
            }
            Self::Full(entries) => entries.partition_point(|(other, _)| *other < id),
        }
    }

    /// Takes one out.
    #[inline]
    pub(super) fn remove<A: Arena>(
        &mut self,
        index: usize,
        segment: &Segment<A>,
    ) -> Option<Entry<P>> {
        if let Self::Brief(brief) = self {
            let entry = brief.entry(index, segment)?;
            if index == 0 {
                brief.gone += 1;
                return Some(entry);
            }
            if index + 1 == brief.len() {
                brief.slots.pop();
                return Some(entry);
            }
        }
        let entries = self.write_out(0, segment);
        let entry = entries.get_mut(index)?.1.take()?;
        while let Some((_, None)) = entries.front() {
            entries.pop_front();
        }
        while let Some((_, None)) = entries.back() {
            entries.pop_back();
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::broker::patience::Patience;

    #[derive(Default)]
    struct Count(usize);

    impl Arena for Count {
        fn new() -> Self {
            Self::default()
        }

        fn copy_from(&mut self, _other: &Self, _index: usize) {
            self.0 += 1;
        }

        fn len(&self) -> usize {
            self.0
        }
    }

    /// With what else lies in the segment.
    struct Known {
        entries: Entries<u8>,
        segment: Segment<Count>,
        model: Vec<Entry<u8>>,
    }

    impl Known {
        fn new() -> Self {
            Self {
                entries: Entries::default(),
                segment: Segment::open(0),
                model: Vec::new(),
            }
        }

        fn push(&mut self, entry: Entry<u8>, own_weight: u32) {
            let message = self.segment.stored() as u32;
            self.segment.push(own_weight, |arena| arena.0 += 1);
            let entry = Entry { message, ..entry };
            self.entries.push(&entry, &self.segment);
            self.model.push(entry);
        }

        fn remove(&mut self, id: u64) {
            let index = self.entries.first_from(id);
            let is_it = self.entries.id(index) == Some(id);
            let left = is_it.then(|| self.entries.remove(index, &self.segment));
            let left = left.flatten();
            let place = self.model.iter().position(|entry| entry.id == id);
            let expected = place.map(|place| self.model.remove(place));
            assert_eq!(format!("{left:?}"), format!("{expected:?}"));
        }

        fn is_brief(&self) -> bool {
            matches!(self.entries, Entries::Brief(_))
        }

        /// Reads all there is, by index and by id.
        fn check(&self) {
            let entries = (0..self.entries.len()).filter_map(|index| {
                let entry = self.entries.get(index, &self.segment)?;
                assert_eq!(self.entries.id(index), Some(entry.id));
                assert_eq!(self.entries.first_from(entry.id), index);
                Some(entry)
            });
            let entries: Vec<Entry<u8>> = entries.collect();
            assert_eq!(format!("{entries:?}"), format!("{:?}", self.model));
            let ends = [0, self.entries.len().saturating_sub(1)];
            let is_there = |index| self.entries.get(index, &self.segment).is_some();
            assert!(self.model.is_empty() || ends.into_iter().all(is_there));
        }
    }

    fn loose(id: u64, at: i64, weight: u32) -> Entry<u8> {
        Entry {
            weight,
            ..Entry::loose(id, at, 0)
        }
    }

    #[test]
    fn what_little_is_known_takes_eight_bytes() {
        assert_eq!(size_of::<Slot>(), 8);
        let mut known = Known::new();
        (1..=256).for_each(|id| known.push(loose(3 * id, id as i64, 101), 1));
        (1..=200).for_each(|id| known.remove(3 * id));
        (240..=256).rev().for_each(|id| known.remove(3 * id));
        assert!(known.is_brief());
        known.check();
    }

    #[test]
    fn all_is_written_out_when_there_is_more_to_know() {
        let far = |id, at| loose(id, at, 101);
        let callers = Entry {
            caller: Some(7),
            ..loose(20, 20, 101)
        };
        let answered = Entry {
            reply: Some(9),
            ..loose(20, 20, 101)
        };
        let others = [
            callers,
            answered,
            Entry {
                due: 99,
                ..loose(20, 20, 101)
            },
            Entry {
                patience: Patience::Untold,
                ..loose(20, 20, 101)
            },
            Entry {
                loose: false,
                ..loose(20, 20, 101)
            },
            // It weighs more besides than the others do.
            loose(20, 20, 102),
            // Too far from them, later or earlier.
            far(20 + (1 << 32), 20),
            far(20, 20 + (1 << 31)),
            far(20, -(1 << 32)),
        ];
        for other in others {
            let mut known = Known::new();
            (1..=3).for_each(|id| known.push(loose(id, id as i64, 101), 1));
            known.remove(1);
            assert!(known.is_brief());
            known.push(other, 1);
            known.push(loose(1 << 40, 30, 101), 1);
            assert!(!known.is_brief(), "{other:?}");
            known.check();
        }
    }

    #[test]
    fn one_that_left_from_the_end_leaves_a_gap_in_the_segment() {
        let mut known = Known::new();
        (1..=3).for_each(|id| known.push(loose(id, 0, 101), 1));
        known.remove(3);
        known.push(loose(4, 0, 150), 50);
        assert!(!known.is_brief());
        known.check();
        // When nothing is left they begin anew.
        let mut known = Known::new();
        (1..=3).for_each(|id| known.push(loose(id, 0, 101), 1));
        [3, 1, 2].into_iter().for_each(|id| known.remove(id));
        known.push(loose(1 << 50, 1 << 50, 60), 50);
        assert!(known.is_brief());
        known.check();
    }

    proptest! {
        #[test]
        fn they_are_as_they_came(ops in prop::collection::vec((0..12u8, 0..40u64), 1..120)) {
            let mut known = Known::new();
            let mut last = 0;
            for (op, number) in ops {
                match op {
                    0 => known.remove(number),
                    1 | 2 => {
                        let first = known.model.first().map_or(0, |entry| entry.id);
                        known.remove(first);
                    }
                    3 => known.remove(last),
                    4 if number == 0 => {
                        last += 1;
                        known.push(Entry { caller: Some(1), ..loose(last, 0, 100) }, 4);
                    }
                    5 if number < 3 => last += 1 << 32,
                    _ => {
                        last += 1 + number % 3;
                        known.push(loose(last, number as i64 - 20, 96 + number as u32), number as u32);
                    }
                }
                known.check();
            }
        }
    }
}
