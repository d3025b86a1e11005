//! The segments that the terms of a map are in, and how those that have died make room.
//!
//! What is kept within bounds, and why it is, stands with [`Map`].

use std::ops::{Index, IndexMut};

use super::{Cell, Given, Map, Owner, Source};
use crate::{Arena, Segment};

/// Of 32 bytes and less, up to 64, and so on up to [`LARGE`](super::LARGE); and those that are never moved.
pub(super) const CLASSES: usize = 10;
/// Terms moved for one that dies.
const CLEAN: usize = 6;
/// Places looked at for one that dies.
const SCAN: usize = 64;

/// What is done with a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Terms are added.
    Open,
    /// No more are.
    Sealed,
    /// Half of it is dead, and it is in its class's list, at this place.
    Listed(usize),
    /// Its living terms are being moved.
    Emptying,
}

/// A segment, and who refers to its terms.
pub(super) struct Block<A> {
    pub(super) segment: Box<Segment<A>>,
    pub(super) owners: Vec<Owner>,
    pub(super) alive: usize,
    pub(super) alive_bytes: u64,
    pub(super) class: usize,
    pub(super) state: State,
}

impl<A: Arena> Block<A> {
    pub(super) fn new(segment: Segment<A>, class: usize, state: State) -> Self {
        Self {
            segment: Box::new(segment),
            owners: Vec::new(),
            alive: 0,
            alive_bytes: 0,
            class,
            state,
        }
    }

    pub(super) fn adopt(&mut self, weight: u32, owner: Owner) -> usize {
        self.owners.push(owner);
        self.alive += 1;
        self.alive_bytes += u64::from(weight);
        self.owners.len() - 1
    }

    pub(super) fn kill(&mut self, index: usize) -> u64 {
        let weight = u64::from(self.segment.weight(index));
        self.owners[index] = Owner::DEAD;
        self.alive -= 1;
        self.alive_bytes -= weight;
        weight
    }

    pub(super) fn is_mostly_dead(&self) -> bool {
        self.alive_bytes * 2 <= self.segment.bytes()
    }
}

/// The segments of terms of like weight.
#[derive(Default)]
pub(super) struct Class {
    pub(super) open: Option<usize>,
    // Those of which half is dead.
    pub(super) listed: Vec<u32>,
    // The one that is being emptied, and the place to go on at.
    pub(super) emptying: Option<(usize, usize)>,
    pub(super) alive_bytes: u64,
    pub(super) total_bytes: u64,
}

/// All classes. Many maps have terms of none: these take no memory, and are moved in no time.
#[derive(Default)]
pub(super) struct Classes(Option<Box<[Class; CLASSES]>>);

impl Classes {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Class> {
        self.0.iter().flat_map(|all| all.iter())
    }
}

impl Index<usize> for Classes {
    type Output = Class;

    #[inline]
    fn index(&self, class: usize) -> &Class {
        match &self.0 {
            Some(all) => &all[class],
            None => &NONE,
        }
    }
}

impl IndexMut<usize> for Classes {
    #[inline]
    fn index_mut(&mut self, class: usize) -> &mut Class {
        &mut self.0.get_or_insert_default()[class]
    }
}

static NONE: Class = Class {
    open: None,
    listed: Vec::new(),
    emptying: None,
    alive_bytes: 0,
    total_bytes: 0,
};

impl Class {
    pub(super) fn of(weight: u32) -> usize {
        let class = (weight.max(32) - 1).ilog2() as usize - 4;
        class.min(CLASSES - 1)
    }

    /// Whether so much is dead that it is worth moving what is alive. A single key that is written
    /// again and again costs one move in sixteen writes.
    pub(super) fn is_to_be_cleaned(&self, class: usize) -> bool {
        let slack = ((16 * 32) << class).max(16 * 1024);
        self.total_bytes > 2 * self.alive_bytes + slack
    }
}

impl<A: Arena + 'static> Map<A> {
    pub(super) fn store(
        &mut self,
        given: Given<A, impl Source<A>>,
        owner: Owner,
        now: &impl Fn() -> i64,
    ) -> Cell {
        match given {
            Given::Word(word) => Cell::inline(word),
            Given::Copy(weight, source) => match source.packed() {
                Some(bytes) => self.packed.add(bytes, weight, owner),
                None => self.push(weight, owner, now, |arena| source.store(arena)),
            },
            Given::Staged(weight, arena) => {
                let segment = Segment::staged(now(), weight, *arena);
                let block = Block::new(segment, Class::of(weight), State::Sealed);
                let at = self.add_block(block);
                self.adopt(at, weight, owner)
            }
        }
    }

    /// Writes a term over another one that is as large, if nobody has to see the old one any more. That lets
    /// nothing die, so there is nothing to be cleaned. Answers the cell of the new one.
    pub(super) fn overwrite(
        &mut self,
        old: Cell,
        given: &Given<A, impl Source<A>>,
    ) -> Option<Cell> {
        let Given::Copy(weight, source) = given else {
            return None;
        };
        if !self.snapshots.is_empty() {
            return None;
        }
        if let Some(bytes) = source.packed() {
            return self.packed.overwrite(old, bytes, *weight);
        }
        let (at, index) = old.place()?;
        let over = |arena: &mut A| source.overwrite(arena, index);
        let block = self.blocks.get_mut(at)?.as_mut()?;
        let done = block.segment.overwrite(index, *weight, over);
        done.then_some(old)
    }

    fn push(
        &mut self,
        weight: u32,
        owner: Owner,
        now: &impl Fn() -> i64,
        store: impl FnOnce(&mut A),
    ) -> Cell {
        let class = Class::of(weight);
        let at = match self.classes[class].open {
            Some(at) => at,
            None => {
                let block = Block::new(Segment::open(now()), class, State::Open);
                let at = self.add_block(block);
                self.classes[class].open = Some(at);
                at
            }
        };
        if let Some(block) = &mut self.blocks[at] {
            block.segment.push(weight, store);
        }
        let cell = self.adopt(at, weight, owner);
        if self.block(at).is_some_and(|block| block.segment.is_full()) {
            self.seal(class);
        }
        cell
    }

    fn block(&self, at: usize) -> Option<&Block<A>> {
        self.blocks[at].as_ref()
    }

    fn adopt(&mut self, at: usize, weight: u32, owner: Owner) -> Cell {
        let Some(block) = &mut self.blocks[at] else {
            return Cell::NONE;
        };
        let index = block.adopt(weight, owner);
        let class = &mut self.classes[block.class];
        class.alive_bytes += u64::from(weight);
        class.total_bytes += u64::from(weight);
        self.alive_bytes += u64::from(weight);
        self.stored += 1;
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

    /// No more terms are added to the open block of a class.
    pub(super) fn seal(&mut self, class: usize) {
        let Some(at) = self.classes[class].open else {
            return;
        };
        self.classes[class].open = None;
        if let Some(block) = &mut self.blocks[at] {
            block.state = State::Sealed;
            // It may have died while it was open.
            self.settle(at);
        }
    }

    /// Retires or lists a block, if so much of it is dead.
    fn settle(&mut self, at: usize) {
        let Some(block) = &mut self.blocks[at] else {
            return;
        };
        if block.alive == 0 && block.state != State::Open {
            self.retire_block(at);
        } else if block.state == State::Sealed && block.is_mostly_dead() {
            let listed = &mut self.classes[block.class].listed;
            block.state = State::Listed(listed.len());
            listed.push(at as u32);
        }
    }

    /// What these cells referred to is dead. All of them are told before anything is moved: a term
    /// that is still held to be alive would be moved back into its entry.
    pub(super) fn let_die<const N: usize>(&mut self, mut cells: [Cell; N], now: &impl Fn() -> i64) {
        // Of packed ones the last goes first: so it is none of these that takes another one's place.
        cells.sort_unstable_by_key(|cell| std::cmp::Reverse(cell.packed_place()));
        for class in cells.map(|cell| self.kill(cell)).into_iter().flatten() {
            self.clean(class, now);
        }
    }

    /// Returns the class in which the term has died, if it was in a segment.
    pub(super) fn kill(&mut self, cell: Cell) -> Option<usize> {
        if cell.packed_place().is_some() {
            self.unpack(cell);
            return None;
        }
        let (at, index) = cell.place()?;
        let block = self.blocks[at].as_mut()?;
        let class = block.class;
        let weight = block.kill(index);
        self.classes[class].alive_bytes -= weight;
        self.alive_bytes -= weight;
        self.settle(at);
        Some(class)
    }

    fn retire_block(&mut self, at: usize) {
        let Some(block) = self.blocks[at].take() else {
            return;
        };
        let class = &mut self.classes[block.class];
        class.total_bytes -= block.segment.bytes();
        match block.state {
            State::Listed(place) => self.unlist(block.class, place),
            State::Emptying => class.emptying = None,
            State::Open | State::Sealed => {}
        }
        self.stored -= block.owners.len();
        self.retired.extend([block.segment]);
        self.free_blocks.push(at as u32);
    }

    /// Takes a term out that has a segment of its own.
    pub(super) fn part_with(&mut self, cell: Cell) -> Option<Box<Segment<A>>> {
        let (at, _) = cell.place()?;
        let block = self.blocks[at].take_if(|block| block.owners.len() == 1)?;
        let class = &mut self.classes[block.class];
        class.alive_bytes -= block.alive_bytes;
        class.total_bytes -= block.segment.bytes();
        self.alive_bytes -= block.alive_bytes;
        self.stored -= 1;
        self.free_blocks.push(at as u32);
        Some(block.segment)
    }

    /// Takes a block out of its class's list; the last one of the list takes its place.
    fn unlist(&mut self, class: usize, place: usize) {
        let listed = &mut self.classes[class].listed;
        listed.swap_remove(place);
        if let Some(&moved) = listed.get(place) {
            if let Some(block) = &mut self.blocks[moved as usize] {
                block.state = State::Listed(place);
            }
        }
    }

    /// Moves a few living terms out of a block, if too much of this class is dead.
    fn clean(&mut self, class: usize, now: &impl Fn() -> i64) {
        if !self.classes[class].is_to_be_cleaned(class) {
            return;
        }
        let Some((at, mut index)) = self.next_to_empty(class) else {
            return;
        };
        // Taken out while terms are moved: they go to the open block, which is another one.
        let Some(mut block) = self.blocks[at].take() else {
            return;
        };
        block.state = State::Emptying;
        let (mut moved, end) = (0, block.owners.len().min(index + SCAN));
        while index < end && moved < CLEAN {
            if let Some((slot, part)) = block.owners[index].cell() {
                let cell = self.take_over(&mut block, index, Owner::new(slot, part), now);
                *self.slot_mut(slot).cell_mut(part) = cell;
                moved += 1;
            }
            index += 1;
        }
        self.classes[class].emptying = Some((at, index));
        self.blocks[at] = Some(block);
        self.settle(at);
    }

    /// The block to be emptied, and the place to go on at. With none listed it is the open one that
    /// is dead, as no other can be.
    fn next_to_empty(&mut self, class: usize) -> Option<(usize, usize)> {
        let class = &mut self.classes[class];
        let listed = || class.listed.pop().map(|at| (at as usize, 0));
        let found = class.emptying.or_else(listed);
        found.or_else(|| class.open.take().map(|at| (at, 0)))
    }

    /// Copies a living term of a block to the open block of its class.
    fn take_over(
        &mut self,
        block: &mut Block<A>,
        index: usize,
        owner: Owner,
        now: &impl Fn() -> i64,
    ) -> Cell {
        let weight = block.segment.weight(index);
        // It counts again where it is stored.
        let alive = block.kill(index);
        self.classes[block.class].alive_bytes -= alive;
        self.alive_bytes -= alive;
        let from = block.segment.arena();
        self.push(weight, owner, now, |arena| arena.copy_from(from, index))
    }
}
