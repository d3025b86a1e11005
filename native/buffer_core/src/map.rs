//! A generation that keeps one entry for each key: the newest wins.
//!
//! ```text
//! hash ─► table ─► slot ─┬─ key     ─┐  cells: a word that needs no memory,
//!                        ├─ value   ─┼─ or a place in a segment
//!                        └─ version ─┘
//!                                         segment: arena, and for each term in it
//!                                         its weight and the slot that refers to it
//! ```
//!
//! An overwritten term stays where it is, since an arena is freed as a whole. So that memory stays
//! within a multiple of what is alive, every write also cleans a little: once more than half of all
//! bytes are dead, the living terms of a segment that is mostly dead are moved, a few for each write,
//! until it can be freed.
//!
//! Invariants:
//!
//! * Each living term of a segment has exactly one cell that refers to it, and the segment knows it.
//! * `total <= 2 * live + SLACK`, but for what a few writes can add before cleaning catches up.
//! * No write does more than `CLEAN` moves of terms of [`LARGE`] bytes at the most, and no table of
//!   the `TABLES` grows beyond what is rehashed in about a millisecond.

use std::ops::ControlFlow;

use hashbrown::HashTable;

use crate::segment::Retired;
use crate::{Arena, Generation, Segment, Tally};

/// Terms heavier than this get a segment of their own and are never moved.
pub const LARGE: u32 = 8 * 1024;
/// What an entry takes beside its terms: its slot, and its place in the index.
pub const ENTRY_BYTES: u64 = 48;
/// Dead bytes that are not worth cleaning.
const SLACK: u64 = 64 * 1024;
/// Terms moved, and segments looked at, by one write.
const CLEAN: usize = 4;
/// Places looked at by one write.
const SCAN: usize = 64;
/// The index is that many tables, so that growing one holds a writer up for a fraction of the time.
const TABLES: usize = 64;
const SLOTS_A_CHUNK: usize = 256;

/// Where a term is: in its word, or in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell(u64);

impl Cell {
    const NONE: Cell = Cell(u64::MAX - 3);

    /// A word that says all of its term. Its two low bits must be set.
    #[inline]
    pub fn inline(word: u64) -> Self {
        debug_assert_eq!(word & 0b11, 0b11, "an inline word has its two low bits set");
        Cell(word | 0b11)
    }

    #[inline]
    fn at(segment: usize, index: usize) -> Self {
        Cell((segment as u64) << 32 | (index as u64) << 2)
    }

    /// The word, if the term is in it.
    #[inline]
    pub fn word(self) -> Option<u64> {
        (self.0 & 0b11 == 0b11).then_some(self.0)
    }

    #[inline]
    fn place(self) -> Option<(usize, usize)> {
        let place = ((self.0 >> 32) as usize, (self.0 as u32 >> 2) as usize);
        (self.0 & 0b11 == 0 && self != Self::NONE).then_some(place)
    }
}

/// A term that is about to be written.
#[derive(Debug)]
pub enum Given<A, S> {
    /// It is all in its word.
    Word(u64),
    /// It is to be copied into an arena, and has this weight then.
    Copy(u32, S),
    /// It has been copied into an arena of its own already, being [`LARGE`].
    Staged(u32, A),
}

/// What is kept for a key.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    hash: u32,
    /// The key.
    pub key: Cell,
    /// The value.
    pub value: Cell,
    /// The version.
    pub version: Cell,
    /// How often the value was updated since it was put.
    pub updates: u64,
}

impl Entry {
    const FREE: Entry = Entry {
        hash: 0,
        key: Cell::NONE,
        value: Cell::NONE,
        version: Cell::NONE,
        updates: 0,
    };

    fn is_free(&self) -> bool {
        self.key == Cell::NONE
    }

    fn cell_mut(&mut self, part: Part) -> &mut Cell {
        match part {
            Part::Key => &mut self.key,
            Part::Value => &mut self.value,
            Part::Version => &mut self.version,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Key,
    Value,
    Version,
}

/// Which cell refers to a term: a slot and a part of its entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Owner(u32);

impl Owner {
    const DEAD: Owner = Owner(u32::MAX);

    fn new(slot: usize, part: Part) -> Self {
        Owner((slot as u32) << 2 | part as u32)
    }

    fn cell(self) -> Option<(usize, Part)> {
        let part = match self.0 & 0b11 {
            0 => Part::Key,
            1 => Part::Value,
            2 => Part::Version,
            _ => return None,
        };
        Some(((self.0 >> 2) as usize, part))
    }
}

/// A segment, and who refers to its terms.
struct Block<A> {
    segment: Box<Segment<A>>,
    owners: Vec<Owner>,
    alive: usize,
    alive_bytes: u64,
}

impl<A: Arena> Block<A> {
    fn new(segment: Segment<A>) -> Self {
        Self {
            segment: Box::new(segment),
            owners: Vec::new(),
            alive: 0,
            alive_bytes: 0,
        }
    }

    fn adopt(&mut self, weight: u32, owner: Owner) -> usize {
        self.owners.push(owner);
        self.alive += 1;
        self.alive_bytes += u64::from(weight);
        self.owners.len() - 1
    }

    fn kill(&mut self, index: usize) -> u64 {
        let weight = u64::from(self.segment.weight(index));
        self.owners[index] = Owner::DEAD;
        self.alive -= 1;
        self.alive_bytes -= weight;
        weight
    }

    fn is_mostly_dead(&self) -> bool {
        self.alive_bytes * 2 <= self.segment.bytes()
    }
}

/// The newest entry of each key.
pub struct Map<A> {
    tables: Vec<HashTable<u32>>,
    // In chunks: a long vector would be copied when it grows.
    slots: Vec<Box<[Entry]>>,
    used: usize,
    free: Vec<u32>,
    blocks: Vec<Option<Block<A>>>,
    free_blocks: Vec<u32>,
    open: Option<usize>,
    len: usize,
    alive_bytes: u64,
    total_bytes: u64,
    opened_at: Option<i64>,
    tally: Tally,
    // The block that is being cleaned, and the place to go on at.
    cleaning: Option<(usize, usize)>,
    next_to_clean: usize,
    retired: Retired<A>,
    // Slots before this one have been retired.
    drained: usize,
}

impl<A> Default for Map<A> {
    fn default() -> Self {
        Self {
            tables: Vec::new(),
            slots: Vec::new(),
            used: 0,
            free: Vec::new(),
            blocks: Vec::new(),
            free_blocks: Vec::new(),
            open: None,
            len: 0,
            alive_bytes: 0,
            total_bytes: 0,
            opened_at: None,
            tally: Tally::default(),
            cleaning: None,
            next_to_clean: 0,
            retired: Retired::default(),
            drained: 0,
        }
    }
}

/// The table of a hash, and the hash within it: tables are told apart by bits that the table itself
/// does not use first.
#[inline]
fn split(hash: u32) -> (usize, u64) {
    let spread = u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((spread >> 32) as usize % TABLES, spread)
}

impl<A: Arena> Map<A> {
    /// The slot of the key with this hash that `is_key` says yes to.
    #[inline]
    pub fn find(&self, hash: u32, mut is_key: impl FnMut(&Self, Cell) -> bool) -> Option<usize> {
        let (table, spread) = split(hash);
        let found = self.tables.get(table)?.find(spread, |&slot| {
            let entry = self.entry(slot as usize);
            entry.hash == hash && is_key(self, entry.key)
        });
        found.map(|&slot| slot as usize)
    }

    /// The entry of a slot.
    #[inline]
    pub fn entry(&self, slot: usize) -> &Entry {
        &self.slots[slot / SLOTS_A_CHUNK][slot % SLOTS_A_CHUNK]
    }

    fn entry_mut(&mut self, slot: usize) -> &mut Entry {
        &mut self.slots[slot / SLOTS_A_CHUNK][slot % SLOTS_A_CHUNK]
    }

    /// The arena and the index in it of a term that is not all in its word.
    #[inline]
    pub fn stored(&self, cell: Cell) -> Option<(&A, usize)> {
        let (block, index) = cell.place()?;
        let block = self.blocks.get(block)?.as_ref()?;
        Some((block.segment.arena(), index))
    }

    /// The weight of a term; none if it is all in its word.
    pub fn weight(&self, cell: Cell) -> u32 {
        let block = |(block, index): (usize, usize)| {
            Some(self.blocks.get(block)?.as_ref()?.segment.weight(index))
        };
        cell.place().and_then(block).unwrap_or(0)
    }

    /// Adds an entry for a key that is not there.
    pub fn insert<S: FnOnce(&mut A)>(
        &mut self,
        hash: u32,
        key: Given<A, S>,
        value: Given<A, impl FnOnce(&mut A)>,
        version: Given<A, impl FnOnce(&mut A)>,
        now: impl Fn() -> i64,
    ) -> usize {
        if self.tables.is_empty() {
            self.tables.resize_with(TABLES, HashTable::new);
        }
        self.opened_at.get_or_insert_with(&now);
        let slot = self.take_slot();
        let entry = Entry {
            hash,
            key: self.store(key, Owner::new(slot, Part::Key), &now),
            value: self.store(value, Owner::new(slot, Part::Value), &now),
            version: self.store(version, Owner::new(slot, Part::Version), &now),
            updates: 0,
        };
        *self.entry_mut(slot) = entry;
        let (table, spread) = split(hash);
        let slots = &self.slots;
        self.tables[table].insert_unique(spread, slot as u32, |&slot| {
            let slot = slot as usize;
            split(slots[slot / SLOTS_A_CHUNK][slot % SLOTS_A_CHUNK].hash).1
        });
        self.len += 1;
        self.tally.accepted += 1;
        self.clean(&now);
        slot
    }

    /// Gives an entry another value, version and count of updates.
    pub fn replace(
        &mut self,
        slot: usize,
        value: Given<A, impl FnOnce(&mut A)>,
        version: Given<A, impl FnOnce(&mut A)>,
        updates: u64,
        now: impl Fn() -> i64,
    ) {
        let old = *self.entry(slot);
        let value = self.store(value, Owner::new(slot, Part::Value), &now);
        let version = self.store(version, Owner::new(slot, Part::Version), &now);
        let entry = self.entry_mut(slot);
        entry.value = value;
        entry.version = version;
        entry.updates = updates;
        self.kill(old.value);
        self.kill(old.version);
        self.tally.accepted += 1;
        self.tally.superseded += 1;
        self.clean(&now);
    }

    /// Gives an entry another value under the same version: an update.
    pub fn update(
        &mut self,
        slot: usize,
        value: Given<A, impl FnOnce(&mut A)>,
        now: impl Fn() -> i64,
    ) {
        let old = self.entry(slot).value;
        let value = self.store(value, Owner::new(slot, Part::Value), &now);
        let entry = self.entry_mut(slot);
        entry.value = value;
        entry.updates += 1;
        self.kill(old);
        self.tally.accepted += 1;
        self.tally.superseded += 1;
        self.clean(&now);
    }

    /// Sets how often an entry was updated.
    pub fn set_updates(&mut self, slot: usize, updates: u64) {
        self.entry_mut(slot).updates = updates;
    }

    /// Removes an entry.
    pub fn remove(&mut self, slot: usize, now: impl Fn() -> i64) {
        let old = std::mem::replace(self.entry_mut(slot), Entry::FREE);
        let (table, spread) = split(old.hash);
        if let Ok(found) = self.tables[table].find_entry(spread, |&other| other as usize == slot) {
            found.remove();
        }
        self.free.push(slot as u32);
        self.len -= 1;
        self.tally.deleted += 1;
        for cell in [old.key, old.value, old.version] {
            self.kill(cell);
        }
        self.clean(&now);
    }

    /// Counts a write that an entry which is there is newer than.
    pub fn pass_over(&mut self) {
        self.tally.accepted += 1;
        self.tally.superseded += 1;
    }

    /// Memory that is due to be freed. To be asked for after writing.
    pub fn take_retired(&mut self) -> Option<Retired<A>> {
        self.retired
            .is_due()
            .then(|| std::mem::take(&mut self.retired))
    }

    /// Entries from a cursor on, each with the cursor after it. The first cursor is 0.
    pub fn entries(&self, cursor: usize) -> impl Iterator<Item = (usize, &Entry)> {
        (cursor.max(self.drained)..self.used)
            .map(|slot| (slot + 1, self.entry(slot)))
            .filter(|(_, entry)| !entry.is_free())
    }

    /// The bytes that all its segments take, living and dead.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    fn take_slot(&mut self) -> usize {
        if let Some(slot) = self.free.pop() {
            return slot as usize;
        }
        if self.used == self.slots.len() * SLOTS_A_CHUNK {
            self.slots
                .push(vec![Entry::FREE; SLOTS_A_CHUNK].into_boxed_slice());
        }
        self.used += 1;
        self.used - 1
    }

    fn store(
        &mut self,
        given: Given<A, impl FnOnce(&mut A)>,
        owner: Owner,
        now: &impl Fn() -> i64,
    ) -> Cell {
        match given {
            Given::Word(word) => Cell::inline(word),
            Given::Copy(weight, store) => self.push(weight, owner, now, store),
            Given::Staged(weight, arena) => {
                let block = Block::new(Segment::staged(now(), weight, arena));
                let at = self.add_block(block);
                self.adopt(at, weight, owner)
            }
        }
    }

    fn push(
        &mut self,
        weight: u32,
        owner: Owner,
        now: &impl Fn() -> i64,
        store: impl FnOnce(&mut A),
    ) -> Cell {
        let at = match self.open {
            Some(at) => at,
            None => {
                let at = self.add_block(Block::new(Segment::open(now())));
                self.open = Some(at);
                at
            }
        };
        if let Some(block) = &mut self.blocks[at] {
            block.segment.push(weight, store);
        }
        let cell = self.adopt(at, weight, owner);
        if self.blocks[at]
            .as_ref()
            .is_some_and(|block| block.segment.is_full())
        {
            self.open = None;
        }
        cell
    }

    fn adopt(&mut self, at: usize, weight: u32, owner: Owner) -> Cell {
        let Some(block) = &mut self.blocks[at] else {
            return Cell::NONE;
        };
        let index = block.adopt(weight, owner);
        self.alive_bytes += u64::from(weight);
        self.total_bytes += u64::from(weight);
        Cell::at(at, index)
    }

    fn add_block(&mut self, block: Block<A>) -> usize {
        match self.free_blocks.pop() {
            Some(at) => {
                self.blocks[at as usize] = Some(block);
                at as usize
            }
            None => {
                self.blocks.push(Some(block));
                self.blocks.len() - 1
            }
        }
    }

    fn kill(&mut self, cell: Cell) {
        let Some((at, index)) = cell.place() else {
            return;
        };
        let Some(block) = &mut self.blocks[at] else {
            return;
        };
        self.alive_bytes -= block.kill(index);
        if block.alive == 0 && self.open != Some(at) {
            self.retire_block(at);
        }
    }

    fn retire_block(&mut self, at: usize) {
        if let Some(block) = self.blocks[at].take() {
            self.total_bytes -= block.segment.bytes();
            self.retired.extend([block.segment]);
            self.free_blocks.push(at as u32);
            if self.cleaning.is_some_and(|(cleaned, _)| cleaned == at) {
                self.cleaning = None;
            }
        }
    }

    /// Moves a few living terms out of a block that is mostly dead, if too much is dead.
    fn clean(&mut self, now: &impl Fn() -> i64) {
        if self.total_bytes <= 2 * self.alive_bytes + SLACK {
            return;
        }
        let Some((at, mut index)) = self.cleaning.or_else(|| self.find_to_clean()) else {
            return;
        };
        // Taken out while terms are moved: they go to the open block, which is another one.
        let Some(mut block) = self.blocks[at].take() else {
            return;
        };
        let (mut moved, end) = (0, block.owners.len().min(index + SCAN));
        while index < end && moved < CLEAN {
            if let Some((slot, part)) = block.owners[index].cell() {
                let weight = block.segment.weight(index);
                self.alive_bytes -= block.kill(index);
                let from = block.segment.arena();
                let owner = Owner::new(slot, part);
                let cell = self.push(weight, owner, now, |arena| arena.copy_from(from, index));
                *self.entry_mut(slot).cell_mut(part) = cell;
                moved += 1;
            }
            index += 1;
        }
        let emptied = block.alive == 0;
        self.cleaning = Some((at, index));
        self.blocks[at] = Some(block);
        if emptied {
            self.retire_block(at);
        }
    }

    fn find_to_clean(&mut self) -> Option<(usize, usize)> {
        let blocks = self.blocks.len();
        let found = (0..blocks.min(CLEAN)).try_for_each(|_| {
            self.next_to_clean = (self.next_to_clean + 1) % blocks;
            let at = self.next_to_clean;
            match &self.blocks[at] {
                Some(block) if self.open != Some(at) && block.is_mostly_dead() => {
                    ControlFlow::Break((at, 0))
                }
                _ => ControlFlow::Continue(()),
            }
        });
        found.break_value()
    }
}

impl<A: Arena> Generation for Map<A> {
    type Arena = A;

    fn len(&self) -> usize {
        self.len
    }

    fn bytes(&self) -> u64 {
        self.alive_bytes + self.len as u64 * ENTRY_BYTES
    }

    fn tally(&self) -> Tally {
        self.tally
    }

    fn oldest(&self) -> Option<i64> {
        self.opened_at.filter(|_| self.len > 0)
    }

    fn bytes_of(&self, count: usize) -> u64 {
        if count >= self.len {
            return self.bytes();
        }
        let weight = |entry: &Entry| {
            let cells = [entry.key, entry.value, entry.version];
            cells
                .into_iter()
                .map(|cell| u64::from(self.weight(cell)))
                .sum::<u64>()
        };
        let entries = self.entries(0).take(count);
        entries.map(|(_, entry)| weight(entry) + ENTRY_BYTES).sum()
    }

    fn retire(&mut self, count: usize, retired: &mut Retired<A>) {
        if count >= self.len {
            let mut all = std::mem::take(self);
            retired.extend(all.blocks.into_iter().flatten().map(|block| block.segment));
            retired.append(&mut all.retired);
            return;
        }
        let mut left = count;
        while left > 0 && self.drained < self.used {
            let old = std::mem::replace(self.entry_mut(self.drained), Entry::FREE);
            self.drained += 1;
            if old.is_free() {
                continue;
            }
            left -= 1;
            self.len -= 1;
            // Written to no more.
            self.open = None;
            for cell in [old.key, old.value, old.version] {
                self.kill(cell);
            }
        }
        retired.append(&mut self.retired);
    }
}
