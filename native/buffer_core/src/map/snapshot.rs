//! All entries of a map as they were at one moment, read without holding writers up.
//!
//! A reader begins a snapshot and then visits the slots, a few at a time; writers go on in between. A
//! write that is about to overwrite or remove an entry which a reader has still to visit keeps the old
//! terms for that reader first: it copies them, or, if they have a segment of their own, it takes
//! that out of the map. So a write is delayed by one copy more at the most, and only the first one
//! to each entry.
//!
//! Invariants:
//!
//! * What a reader has still to visit, below its `end`, is read as it was when the snapshot began: what
//!   is kept of it, and of the rest what is in its slot.
//! * While there is a snapshot no free slot is taken, so new entries are behind the `end` of all.
//! * A generation that is swapped out forgets its snapshots: readers find that theirs is gone.

use super::packed::Packed;
use super::{Cell, Map, Owner, Slot, LARGE, SLOTS_A_CHUNK};
use crate::segment::Retired;
use crate::{Arena, Segment};

/// The snapshots that are being read.
pub(super) struct Snapshots<A> {
    readers: Vec<Reader<A>>,
    // Terms with a segment of their own that were overwritten or removed, for all readers.
    large: Vec<Box<Segment<A>>>,
}

impl<A> Default for Snapshots<A> {
    fn default() -> Self {
        Self {
            readers: Vec::new(),
            large: Vec::new(),
        }
    }
}

struct Reader<A> {
    id: u64,
    next: usize,
    end: usize,
    // For each chunk of slots, what is kept of them.
    kept: Vec<Option<Box<Page>>>,
    segments: Vec<Box<Segment<A>>>,
    packed: Packed,
}

type Page = [Kept; SLOTS_A_CHUNK];

/// What is kept of an entry; what is not is still in its slot.
#[derive(Clone, Copy)]
struct Kept {
    key: Option<Place>,
    value: Option<Place>,
}

impl Kept {
    const NOTHING: Kept = Kept {
        key: None,
        value: None,
    };
}

#[derive(Clone, Copy)]
enum Place {
    Word(u64),
    // In a segment of the reader's, at this index.
    Copied(u32, u32),
    // In a record of the reader's.
    Packed(Cell),
    // All of a large segment.
    Large(usize),
}

/// A term that a reader sees.
#[derive(Debug, Clone, Copy)]
pub enum Seen<'a, A> {
    /// It is all in its word.
    Word(u64),
    /// It is in an arena, at this index.
    Stored(&'a A, usize),
    /// It is packed, and weighs so much.
    Packed(&'a [u8], u32),
}

/// How far a reader has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visited {
    /// There may be more.
    Some,
    /// It has visited all; the snapshot has ended.
    All,
    /// There is no such snapshot: the entries have been swapped out.
    Gone,
}

impl<A: Arena + 'static> Snapshots<A> {
    pub(super) fn is_empty(&self) -> bool {
        self.readers.is_empty()
    }

    /// Ends all of them.
    pub(super) fn give_up(&mut self, retired: &mut Retired<A>) {
        for reader in self.readers.drain(..) {
            reader.end(retired);
        }
        retired.extend(self.large.drain(..));
    }
}

impl<A: Arena + 'static> Reader<A> {
    fn awaits(&self, slot: usize) -> bool {
        (self.next..self.end).contains(&slot)
    }

    fn kept(&self, slot: usize) -> Kept {
        let page = self.kept.get(slot / SLOTS_A_CHUNK).and_then(Option::as_ref);
        page.map_or(Kept::NOTHING, |page| page[slot % SLOTS_A_CHUNK])
    }

    fn kept_mut(&mut self, slot: usize) -> &mut Kept {
        let page = self.kept[slot / SLOTS_A_CHUNK]
            .get_or_insert_with(|| Box::new([Kept::NOTHING; SLOTS_A_CHUNK]));
        &mut page[slot % SLOTS_A_CHUNK]
    }

    fn copy(&mut self, from: &A, index: usize, weight: u32) -> Place {
        if self.segments.last().is_none_or(|last| last.is_full()) {
            self.segments.push(Box::new(Segment::open(0)));
        }
        let at = self.segments.len() - 1;
        let segment = &mut self.segments[at];
        let place = Place::Copied(at as u32, segment.len() as u32);
        segment.push(weight, |arena| arena.copy_from(from, index));
        place
    }

    fn end(self, retired: &mut Retired<A>) {
        let copied = self.segments.iter().map(|segment| segment.len());
        let copied = copied.sum::<usize>() + self.packed.len;
        retired.extend_with(copied, u64::MAX, (self.kept, self.segments, self.packed));
    }
}

impl<A: Arena + 'static> Map<A> {
    /// Begins a snapshot. No other one that is being read may have this number.
    pub fn begin_snapshot(&mut self, id: u64) {
        let mut kept = Vec::new();
        kept.resize_with(self.used.div_ceil(SLOTS_A_CHUNK), || None);
        self.snapshots.readers.push(Reader {
            id,
            next: self.drained,
            end: self.used,
            kept,
            segments: Vec::new(),
            packed: Packed::default(),
        });
    }

    /// Shows the next entries of a snapshot, key and value: up to `count` of them, and none after those
    /// shown weigh `bytes`. One at least.
    pub fn visit(
        &mut self,
        id: u64,
        count: usize,
        bytes: u64,
        mut show: impl FnMut(Seen<'_, A>, Seen<'_, A>),
    ) -> Visited {
        let readers = &mut self.snapshots.readers;
        let Some(at) = readers.iter().position(|reader| reader.id == id) else {
            return Visited::Gone;
        };
        let mut reader = readers.swap_remove(at);
        let (mut shown, mut weight) = (0, 0);
        while reader.next < reader.end && shown < count && weight < bytes {
            let (slot, number) = (reader.next, reader.next / SLOTS_A_CHUNK);
            if self.chunks[number].held == 0 && reader.kept[number].is_none() {
                reader.next = (number + 1) * SLOTS_A_CHUNK;
                continue;
            }
            reader.next += 1;
            let entry = &self.chunks[number].slots[slot % SLOTS_A_CHUNK];
            let kept = reader.kept(slot);
            let seen = (
                self.seen(&reader, kept.key, entry.key),
                self.seen(&reader, kept.value, entry.value),
            );
            if let (Some((key, key_weight)), Some((value, value_weight))) = seen {
                show(key, value);
                shown += 1;
                weight += u64::from(key_weight) + u64::from(value_weight);
            }
        }
        if reader.next < reader.end {
            self.snapshots.readers.push(reader);
            return Visited::Some;
        }
        reader.end(&mut self.retired);
        self.let_go_of_large();
        Visited::All
    }

    /// Ends a snapshot before all of it has been visited.
    pub fn end_snapshot(&mut self, id: u64) {
        let readers = &mut self.snapshots.readers;
        if let Some(at) = readers.iter().position(|reader| reader.id == id) {
            readers.swap_remove(at).end(&mut self.retired);
            self.let_go_of_large();
        }
    }

    fn let_go_of_large(&mut self) {
        if self.snapshots.is_empty() {
            self.retired.extend(self.snapshots.large.drain(..));
        }
    }

    /// A term and its weight, from where it is kept or else from its cell.
    fn seen<'a>(
        &'a self,
        reader: &'a Reader<A>,
        kept: Option<Place>,
        cell: Cell,
    ) -> Option<(Seen<'a, A>, u32)> {
        match kept {
            Some(Place::Word(word)) => Some((Seen::Word(word), 0)),
            Some(Place::Copied(at, index)) => {
                let (segment, index) = (&reader.segments[at as usize], index as usize);
                let seen = Seen::Stored(segment.arena(), index);
                Some((seen, segment.weight(index)))
            }
            Some(Place::Packed(cell)) => see_packed(&reader.packed, cell),
            Some(Place::Large(at)) => {
                let segment = &self.snapshots.large[at];
                Some((Seen::Stored(segment.arena(), 0), segment.weight(0)))
            }
            None => match (cell.word(), self.stored(cell)) {
                (Some(word), _) => Some((Seen::Word(word), 0)),
                (None, Some((arena, index))) => {
                    Some((Seen::Stored(arena, index), self.weight(cell)))
                }
                (None, None) => see_packed(&self.packed, cell),
            },
        }
    }

    /// To be called before the value of an entry is overwritten, with a copy of that entry. A cell
    /// whose term is no longer in the map is taken out of it.
    #[inline]
    pub(super) fn before_overwriting(&mut self, slot: usize, entry: &mut Slot) {
        if !self.snapshots.is_empty() {
            self.keep(slot, entry, false);
        }
    }

    /// The same for an entry that has been taken out of its slot.
    #[inline]
    pub(super) fn before_removing(&mut self, slot: usize, entry: &mut Slot) {
        if !self.snapshots.is_empty() {
            self.keep(slot, entry, true);
        }
    }

    #[cold]
    fn keep(&mut self, slot: usize, entry: &mut Slot, with_key: bool) {
        let mut readers = std::mem::take(&mut self.snapshots.readers);
        let awaiting = || readers.iter().filter(|reader| reader.awaits(slot));
        let keeps_value = awaiting().any(|reader| reader.kept(slot).value.is_none());
        // A key is kept once, when its entry is removed.
        let keeps_key = with_key && awaiting().next().is_some();
        let value = keeps_value
            .then(|| self.set_aside(&mut entry.value))
            .flatten();
        let key = keeps_key.then(|| self.set_aside(&mut entry.key)).flatten();
        for reader in readers.iter_mut().filter(|reader| reader.awaits(slot)) {
            if reader.kept(slot).value.is_none() {
                let place = value.or_else(|| self.copy_for(reader, entry.value));
                reader.kept_mut(slot).value = place;
            }
            if with_key {
                let place = key.or_else(|| self.copy_for(reader, entry.key));
                reader.kept_mut(slot).key = place;
            }
        }
        self.snapshots.readers = readers;
    }

    fn copy_for(&self, reader: &mut Reader<A>, cell: Cell) -> Option<Place> {
        if let Some(word) = cell.word() {
            return Some(Place::Word(word));
        }
        let weight = self.weight(cell);
        if let Some(bytes) = self.packed(cell) {
            return Some(Place::Packed(reader.packed.add(bytes, weight, Owner::DEAD)));
        }
        let (arena, index) = self.stored(cell)?;
        Some(reader.copy(arena, index, weight))
    }

    /// Takes a term that is too large to be copied here out of the map.
    fn set_aside(&mut self, cell: &mut Cell) -> Option<Place> {
        if self.weight(*cell) <= LARGE {
            return None;
        }
        let segment = self.part_with(std::mem::replace(cell, Cell::NONE))?;
        self.snapshots.large.push(segment);
        Some(Place::Large(self.snapshots.large.len() - 1))
    }
}

fn see_packed<'a, A>(packed: &'a Packed, cell: Cell) -> Option<(Seen<'a, A>, u32)> {
    let (bytes, weight) = (packed.get(cell)?, cell.packed_weight()?);
    Some((Seen::Packed(bytes, weight), weight))
}
