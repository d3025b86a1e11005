//! What a map keeps for a key, and where: an entry of three cells, in a slot.

use super::SLOTS_A_CHUNK;

/// Where a term is: in its word, in a record, or in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell(u64);

// Of one that is packed: below are its size, in 6 bits, and its index.
const WEIGHT_AT: u32 = 38;

impl Cell {
    pub(super) const NONE: Cell = Cell(u64::MAX - 3);

    /// A word that says all of its term. Its two low bits must be set.
    #[inline]
    pub fn inline(word: u64) -> Self {
        debug_assert_eq!(word & 0b11, 0b11, "an inline word has its two low bits set");
        Cell(word | 0b11)
    }

    #[inline]
    pub(super) fn at(segment: usize, index: usize) -> Self {
        Cell((segment as u64) << 32 | (index as u64) << 2)
    }

    /// A record of so many grains, and the weight of its term.
    #[inline]
    pub(super) fn packed(grains: usize, index: usize, weight: u32) -> Self {
        let weight = u64::from(weight as u16);
        Cell(weight << WEIGHT_AT | (grains as u64) << 32 | (index as u64) << 2 | 0b01)
    }

    #[inline]
    pub(super) fn packed_place(self) -> Option<(usize, usize)> {
        let grains = (self.0 >> 32) as usize % (1 << (WEIGHT_AT - 32));
        let place = (grains, (self.0 as u32 >> 2) as usize);
        (self.0 & 0b11 == 0b01).then_some(place)
    }

    #[inline]
    pub(super) fn packed_weight(self) -> Option<u32> {
        let weight = (self.0 >> WEIGHT_AT) as u32;
        (self.0 & 0b11 == 0b01).then_some(weight)
    }

    /// The same term where another one has been.
    #[inline]
    pub(super) fn in_place_of(self, other: Self) -> Self {
        let place = (1 << WEIGHT_AT) - 1;
        Cell(self.0 & !place | other.0 & place)
    }

    /// The word, if the term is in it.
    #[inline]
    pub fn word(self) -> Option<u64> {
        (self.0 & 0b11 == 0b11).then_some(self.0)
    }

    #[inline]
    pub(super) fn place(self) -> Option<(usize, usize)> {
        let place = ((self.0 >> 32) as usize, (self.0 as u32 >> 2) as usize);
        (self.0 & 0b11 == 0 && self != Self::NONE).then_some(place)
    }
}

/// A term that can be copied into an arena.
pub trait Source<A> {
    /// The same as plain bytes that refer to nothing, [`PACKED`](super::PACKED) of them at the most, if there is such
    /// a form of it. None of these may be the beginning of others. It weighs 64 KB at the most then.
    fn packed(&self) -> Option<&[u8]> {
        None
    }

    /// Adds a copy.
    fn store(self, arena: &mut A);

    /// Puts a copy in the place of one that is there, if it takes just as much memory; otherwise nothing
    /// is done, and the answer is `false`.
    fn overwrite(&self, arena: &mut A, index: usize) -> bool {
        _ = (arena, index);
        false
    }
}

impl<A, F: FnOnce(&mut A)> Source<A> for F {
    fn store(self, arena: &mut A) {
        self(arena);
    }
}

/// A term that is about to be written.
#[derive(Debug)]
pub enum Given<A, S> {
    /// It is all in its word.
    Word(u64),
    /// It is to be copied, and has this weight then.
    Copy(u32, S),
    /// It has been copied into an arena of its own already, being [`LARGE`](super::LARGE).
    Staged(u32, Box<A>),
}

/// What is kept for a key.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// The key.
    pub key: Cell,
    /// The value.
    pub value: Cell,
    /// The version.
    pub version: Cell,
    /// How often the value was updated since it was put.
    pub updates: u64,
}

/// The same as it is kept: 32 bytes, so that it lies in one line of a cache.
#[derive(Debug, Clone, Copy)]
#[repr(align(32))]
pub(super) struct Slot {
    pub(super) hash: u32,
    /// How often it was updated, or [`MANY`](Slot::MANY) times at least: the map knows.
    pub(super) updates: u32,
    pub(super) key: Cell,
    pub(super) value: Cell,
    pub(super) version: Cell,
}

impl Slot {
    pub(super) const MANY: u32 = u32::MAX;

    pub(super) const FREE: Slot = Slot {
        hash: 0,
        updates: 0,
        key: Cell::NONE,
        value: Cell::NONE,
        version: Cell::NONE,
    };

    pub(super) fn is_free(&self) -> bool {
        self.key == Cell::NONE
    }

    pub(super) fn cell_mut(&mut self, part: Part) -> &mut Cell {
        match part {
            Part::Key => &mut self.key,
            Part::Value => &mut self.value,
            Part::Version => &mut self.version,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Key,
    Value,
    Version,
}

/// Which cell refers to a term: a slot and a part of its entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner(u32);

impl Owner {
    pub(super) const DEAD: Owner = Owner(u32::MAX);

    pub(super) fn new(slot: usize, part: Part) -> Self {
        Owner((slot as u32) << 2 | part as u32)
    }

    pub(super) fn word(self) -> u32 {
        self.0
    }

    pub(super) fn of_word(word: u32) -> Self {
        Owner(word)
    }

    pub(super) fn cell(self) -> Option<(usize, Part)> {
        let part = match self.0 & 0b11 {
            0 => Part::Key,
            1 => Part::Value,
            2 => Part::Version,
            _ => return None,
        };
        Some(((self.0 >> 2) as usize, part))
    }
}

/// Slots that are allocated together.
pub(super) struct Chunk {
    pub(super) slots: Box<[Slot; SLOTS_A_CHUNK]>,
    pub(super) held: usize,
}

impl Chunk {
    pub(super) fn new() -> Self {
        Self {
            slots: Box::new([Slot::FREE; SLOTS_A_CHUNK]),
            held: 0,
        }
    }

    pub(super) fn set(&mut self, slot: usize, new: Slot) {
        self.slots[slot % SLOTS_A_CHUNK] = new;
        self.held += 1;
    }

    /// Frees a slot and returns what was in it; nothing if it is free.
    pub(super) fn take(&mut self, slot: usize) -> Option<Slot> {
        let there = &mut self.slots[slot % SLOTS_A_CHUNK];
        if there.is_free() {
            return None;
        }
        self.held -= 1;
        Some(std::mem::replace(there, Slot::FREE))
    }
}
