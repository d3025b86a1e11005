//! A generation that keeps one entry for each key: the newest wins.
//!
//! ```text
//! hash ─► table ─► slot ─┬─ key     ─┐  cells: a word that needs no memory,
//!                        ├─ value   ─┼─ a record of a term that is packed,
//!                        └─ version ─┘  or a place in a segment
//!                                         segment: arena, and for each term in it
//!                                         its weight and the slot that refers to it
//! ```
//!
//! Most terms are short, and can be *packed*: as bytes that refer to nothing. Their records lie one behind the other,
//! and when one goes the last one takes its place, so there nothing is ever dead (`map/packed.rs`). What
//! follows is about the others.
//!
//! An overwritten term stays where it is, since an arena is freed as a whole. So that memory stays
//! within a multiple of what is alive, a write that lets terms die also cleans a little: when too much
//! of a class is dead, it moves a few living terms out of a segment of which half is dead, until that
//! can be freed.
//!
//! A value that is as large as the one before it is written over that, where it is, unless a snapshot still
//! has to show the old one: then nothing dies.
//!
//! Terms of like weight share segments: a *class* is the weights between a power of two and the next.
//! Were they mixed, or were what is alive in one class set against what is dead in another, then a few
//! heavy terms that die could ask for thousands of light ones to be moved, and no constant number of
//! moves for each write would do.
//!
//! Invariants:
//!
//! * Each living term of a segment has exactly one cell that refers to it, and the segment knows it; so it is with
//!   records.
//! * A segment of which half is dead, and that is neither open nor being emptied, is listed once in its
//!   class. Others are not listed.
//! * `total <= 2 * live + slack + a segment` in each class, and so `total <= 2 * live +` [`SLACK`] in all.
//! * No term that dies causes more than `CLEAN` moves of terms of [`LARGE`] bytes at the most, a write
//!   lets three die at the most, and no table of the `TABLES` grows beyond what is rehashed in about a
//!   millisecond.
//! * A chunk of slots knows how many of them are held, so that whoever looks for entries passes over
//!   256 free slots at once.
//!
//! Why the third holds. Take a class of weights in `(w/2, w]`, terms of 16 bytes being among the
//! lightest, and call `total - 2 * live` its excess. Segments that are not listed have none, so while the
//! excess is above the slack there is one to be emptied: a listed one, or else the open one. A term
//! that dies adds `2 * w` to the excess at the most. It pays for `CLEAN = 6` moves and for looking at
//! `SCAN` places. A segment of `B` bytes of which `s` terms are alive is emptied after about `s / 6` such
//! deaths, which add `s * w / 3`, and its end takes `B - live` off the excess: at least `B / 2`, and at
//! least `s * w / 2`. So the excess is not higher after a segment than before; in between it is by what
//! has been moved and what has died meanwhile, `B / 2` each.

mod emptied;
mod entry;
mod packed;
mod snapshot;
mod terms;
mod versions;

use std::collections::BTreeMap;

use hashbrown::HashTable;

pub use self::entry::{Cell, Entry, Given, Source};
use self::entry::{Chunk, Owner, Part, Slot};
use self::packed::Packed;
pub use self::packed::PACKED;
use self::snapshot::Snapshots;
pub use self::snapshot::{Seen, Visited};
use self::terms::{Block, Classes, CLASSES};
use self::versions::Versions;
use crate::segment::Retired;
use crate::{Arena, First, Generation, Tally};

/// Terms heavier than this get a segment of their own and are never moved.
pub const LARGE: u32 = 8 * 1024;
/// What an entry takes beside its terms: its slot, and its place in the index.
pub const ENTRY_BYTES: u64 = 40;
/// What the segments of a map take beyond twice what is alive, at the most: of each class, the slack
/// and a segment. A map has terms of few classes, as a rule, and so less. (What is packed takes less than it weighs, and
/// up to two chunks of each size, of 1 to 32 KB.)
pub const SLACK: u64 = 5 * 512 * 1024;
/// The index is that many tables, so that growing one holds a writer up for a fraction of the time.
const TABLES: usize = 64;
const SLOTS_A_CHUNK: usize = 256;

/// The newest entry of each key.
pub struct Map<A> {
    tables: Vec<HashTable<u32>>,
    // In chunks: a long vector would be copied when it grows.
    chunks: Vec<Chunk>,
    used: usize,
    free: Vec<u32>,
    blocks: Vec<Option<Block<A>>>,
    free_blocks: Vec<u32>,
    classes: Classes,
    // The sum of those of the classes.
    alive_bytes: u64,
    packed: Packed,
    // How often those slots were updated that have no room for that.
    many: BTreeMap<u32, u64>,
    // Terms in all blocks, living and dead.
    stored: usize,
    len: usize,
    opened_at: Option<i64>,
    tally: Tally,
    retired: Retired<A>,
    // Slots before this one have been retired.
    drained: usize,
    snapshots: Snapshots<A>,
    // Boxed: most maps remember none.
    versions: Option<Box<Versions<A>>>,
}

impl<A> Default for Map<A> {
    fn default() -> Self {
        Self {
            tables: Vec::new(),
            chunks: Vec::new(),
            used: 0,
            free: Vec::new(),
            blocks: Vec::new(),
            free_blocks: Vec::new(),
            classes: Classes::default(),
            alive_bytes: 0,
            packed: Packed::default(),
            many: BTreeMap::new(),
            stored: 0,
            len: 0,
            opened_at: None,
            tally: Tally::default(),
            retired: Retired::default(),
            drained: 0,
            snapshots: Snapshots::default(),
            versions: None,
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

// `'static`: what takes long to be freed is handed over as a whole.
impl<A: Arena + 'static> Map<A> {
    /// The slot of the key with this hash that `is_key` says yes to.
    #[inline]
    pub fn find(&self, hash: u32, mut is_key: impl FnMut(&Self, Cell) -> bool) -> Option<usize> {
        let (table, spread) = split(hash);
        let found = self.tables.get(table)?.find(spread, |&slot| {
            let slot = self.slot(slot as usize);
            slot.hash == hash && is_key(self, slot.key)
        });
        found.map(|&slot| slot as usize)
    }

    /// The entry of a slot.
    #[inline]
    pub fn entry(&self, slot: usize) -> Entry {
        self.entry_of(slot, self.slot(slot))
    }

    #[inline]
    fn entry_of(&self, at: usize, slot: &Slot) -> Entry {
        Entry {
            key: slot.key,
            value: slot.value,
            version: slot.version,
            updates: match slot.updates {
                Slot::MANY => self.many.get(&(at as u32)).copied().unwrap_or(0),
                few => few.into(),
            },
        }
    }

    fn updates(&self, slot: usize) -> u64 {
        self.entry(slot).updates
    }

    #[inline]
    fn slot(&self, slot: usize) -> &Slot {
        &self.chunks[slot / SLOTS_A_CHUNK].slots[slot % SLOTS_A_CHUNK]
    }

    #[inline]
    fn slot_mut(&mut self, slot: usize) -> &mut Slot {
        &mut self.chunks[slot / SLOTS_A_CHUNK].slots[slot % SLOTS_A_CHUNK]
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
        if let Some(weight) = cell.packed_weight() {
            return weight;
        }
        let block = |(block, index): (usize, usize)| {
            Some(self.blocks.get(block)?.as_ref()?.segment.weight(index))
        };
        cell.place().and_then(block).unwrap_or(0)
    }

    /// The weight of the terms of an entry.
    pub fn weight_at(&self, slot: usize) -> u64 {
        self.weight_of(self.slot(slot))
    }

    fn weight_of(&self, entry: &Slot) -> u64 {
        let cells = [entry.key, entry.value, entry.version];
        let weights = cells.into_iter().map(|cell| u64::from(self.weight(cell)));
        weights.sum()
    }

    /// Adds an entry for a key that is not there.
    pub fn insert<S: Source<A>>(
        &mut self,
        hash: u32,
        key: Given<A, S>,
        value: Given<A, impl Source<A>>,
        version: Given<A, impl Source<A>>,
        now: impl Fn() -> i64,
    ) -> usize {
        if self.tables.is_empty() {
            self.tables.resize_with(TABLES, HashTable::new);
        }
        self.opened_at.get_or_insert_with(&now);
        let slot = self.take_slot();
        let entry = Slot {
            hash,
            key: self.store(key, Owner::new(slot, Part::Key), &now),
            value: self.store(value, Owner::new(slot, Part::Value), &now),
            version: self.store(version, Owner::new(slot, Part::Version), &now),
            updates: 0,
        };
        self.chunks[slot / SLOTS_A_CHUNK].set(slot, entry);
        let (table, spread) = split(hash);
        let chunks = &self.chunks;
        self.tables[table].insert_unique(spread, slot as u32, |&slot| {
            let slot = slot as usize;
            split(chunks[slot / SLOTS_A_CHUNK].slots[slot % SLOTS_A_CHUNK].hash).1
        });
        self.len += 1;
        self.tally.accepted += 1;
        slot
    }

    /// Gives an entry another value, version and count of updates.
    pub fn replace(
        &mut self,
        slot: usize,
        value: Given<A, impl Source<A>>,
        version: Given<A, impl Source<A>>,
        updates: u64,
        now: impl Fn() -> i64,
    ) {
        let mut old = *self.slot(slot);
        self.tally.accepted += 1;
        self.tally.superseded += 1;
        let value = match self.overwrite(old.value, &value) {
            Some(over) => {
                old.value = Cell::NONE;
                over
            }
            None => self.store(value, Owner::new(slot, Part::Value), &now),
        };
        let version = self.store(version, Owner::new(slot, Part::Version), &now);
        self.before_overwriting(slot, &mut old);
        let there = self.slot_mut(slot);
        there.value = value;
        there.version = version;
        self.set_updates(slot, updates);
        self.let_die([old.value, old.version], &now);
    }

    /// Gives an entry another value under the same version: an update.
    pub fn update(&mut self, slot: usize, value: Given<A, impl Source<A>>, now: impl Fn() -> i64) {
        self.tally.accepted += 1;
        self.tally.superseded += 1;
        let updates = self.updates(slot) + 1;
        let mut old = *self.slot(slot);
        if let Some(over) = self.overwrite(old.value, &value) {
            self.slot_mut(slot).value = over;
            self.set_updates(slot, updates);
            return;
        }
        let value = self.store(value, Owner::new(slot, Part::Value), &now);
        self.before_overwriting(slot, &mut old);
        self.slot_mut(slot).value = value;
        self.set_updates(slot, updates);
        self.let_die([old.value], &now);
    }

    /// Sets how often an entry was updated.
    #[inline]
    pub fn set_updates(&mut self, slot: usize, updates: u64) {
        let there = self.slot_mut(slot);
        let before = there.updates;
        there.updates = u32::try_from(updates).unwrap_or(Slot::MANY);
        if there.updates == Slot::MANY {
            self.many.insert(slot as u32, updates);
        } else if before == Slot::MANY {
            self.many.remove(&(slot as u32));
        }
    }

    /// Removes an entry.
    pub fn remove(&mut self, slot: usize, now: impl Fn() -> i64) {
        let Some(mut old) = self.chunks[slot / SLOTS_A_CHUNK].take(slot) else {
            return;
        };
        let (table, spread) = split(old.hash);
        if let Ok(found) = self.tables[table].find_entry(spread, |&other| other as usize == slot) {
            found.remove();
        }
        self.free.push(slot as u32);
        if old.updates == Slot::MANY {
            self.many.remove(&(slot as u32));
        }
        self.len -= 1;
        self.tally.deleted += 1;
        self.before_removing(slot, &mut old);
        self.let_die([old.key, old.value, old.version], &now);
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
    pub fn entries(&self, cursor: usize) -> impl Iterator<Item = (usize, Entry)> + '_ {
        let slots = self.slots(cursor);
        slots.map(|(after, slot)| (after, self.entry_of(after - 1, slot)))
    }

    fn slots(&self, cursor: usize) -> impl Iterator<Item = (usize, &Slot)> {
        let from = cursor.max(self.drained);
        let chunks = self.chunks.iter().enumerate().skip(from / SLOTS_A_CHUNK);
        let used = self.used;
        let slots = chunks
            .filter(|(_, chunk)| chunk.held > 0)
            .flat_map(move |(number, chunk)| {
                let first = number * SLOTS_A_CHUNK;
                let slots = chunk.slots.iter().take(used - first).enumerate();
                slots
                    .skip(from.saturating_sub(first))
                    .map(move |(slot, there)| (first + slot + 1, there))
            });
        slots.filter(|(_, slot)| !slot.is_free())
    }

    /// The bytes of all its terms, living and dead.
    pub fn total_bytes(&self) -> u64 {
        let segments = self.classes.iter().map(|class| class.total_bytes);
        self.packed.bytes + segments.sum::<u64>()
    }

    fn take_slot(&mut self) -> usize {
        // Readers of a snapshot expect new entries behind all that they visit.
        if self.snapshots.is_empty() {
            if let Some(slot) = self.free.pop() {
                return slot as usize;
            }
        }
        if self.used == self.chunks.len() * SLOTS_A_CHUNK {
            self.chunks.push(Chunk::new());
        }
        self.used += 1;
        self.used - 1
    }

    /// Frees the next slot to be drained, and returns what was in it.
    fn drain_next(&mut self) -> Option<Slot> {
        while let Some(chunk) = self.chunks.get_mut(self.drained / SLOTS_A_CHUNK) {
            if chunk.held == 0 {
                self.drained += SLOTS_A_CHUNK - self.drained % SLOTS_A_CHUNK;
                continue;
            }
            let drained = chunk.take(self.drained);
            self.drained += 1;
            if drained.is_some() {
                return drained;
            }
        }
        None
    }
}

impl<A: Arena + 'static> Generation for Map<A> {
    type Arena = A;

    fn len(&self) -> usize {
        self.len
    }

    fn bytes(&self) -> u64 {
        let classes = || self.classes.iter().map(|class| class.alive_bytes).sum();
        debug_assert_eq!(self.alive_bytes, classes());
        self.packed.bytes + self.alive_bytes + self.len as u64 * ENTRY_BYTES
    }

    fn tally(&self) -> Tally {
        self.tally
    }

    fn oldest(&self) -> Option<i64> {
        self.opened_at.filter(|_| self.len > 0)
    }

    fn first(&self, entries: usize, bytes: u64) -> First {
        let mut first = First {
            places: self.drained as u64,
            ..First::default()
        };
        if entries >= self.len && bytes >= self.bytes() {
            return First {
                len: self.len,
                bytes: self.bytes(),
                places: self.used as u64,
            };
        }
        for (cursor, slot) in self.slots(0) {
            let weight = self.weight_of(slot) + ENTRY_BYTES;
            if first.len == entries || (first.len > 0 && first.bytes + weight > bytes) {
                break;
            }
            first.add(1, weight);
            first.places = cursor as u64;
        }
        first
    }

    fn places(&self) -> (u64, u64) {
        (self.drained as u64, self.used as u64)
    }

    fn places_up_to(&self, index: usize) -> u64 {
        let entry = self.entries(0).nth(index);
        entry.map_or(self.used, |(after, _)| after) as u64
    }

    fn evict(&mut self, count: usize, now: fn() -> i64, retired: &mut Retired<A>) {
        for _ in 0..count {
            let Some((after, _)) = self.entries(0).next() else {
                break;
            };
            self.remove(after - 1, now);
            self.tally.deleted -= 1;
        }
        retired.append(&mut self.retired);
    }

    fn move_to(&mut self, emptied: &mut Self) {
        std::mem::swap(self, emptied);
        self.take_versions_on(emptied);
    }

    fn retire(&mut self, count: usize, retired: &mut Retired<A>) {
        self.snapshots.give_up(&mut self.retired);
        if count >= self.len {
            return self.retire_all(retired);
        }
        // Written to no more.
        (0..CLASSES).for_each(|class| self.seal(class));
        for _ in 0..count {
            let Some(old) = self.drain_next() else {
                break;
            };
            self.len -= 1;
            for cell in [old.key, old.value, old.version] {
                match cell.packed_place() {
                    Some(_) => self.packed.drain(cell),
                    None => _ = self.kill(cell),
                }
            }
        }
        retired.append(&mut self.retired);
    }
}
