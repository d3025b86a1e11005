//! The versions of entries that have left a map, so that older ones that come later are known.
//!
//! A generation is swapped out in constant time, so nothing can be recorded then. Instead each write
//! with a version records it as it is made, together with the number of the generation that it is
//! written to. As long as that generation is live the version is *latent*: the entry itself says it,
//! and when the entry is removed or put without a version, it is withdrawn. When the generation has been
//! swapped out, whatever is still recorded for it has been *handed over*.
//!
//! The records are a map of their own: the value of a key is the highest version handed over before,
//! if any, its version the last one recorded, its count of updates the generation of that.
//!
//! Records are in one of two lists, in the order in which they were recorded. The latent ones become the
//! last of those handed over with the swap, which joins the lists; what is too many then is forgotten by the
//! writes that follow.
//!
//! Invariants:
//!
//! * A record is in the list of latent ones if and only if its last version is latent.
//! * There are at most `limit` latent records, and twice as many in all.
//! * The last version of a record is higher than the one before it.

use super::{Cell, Given, Map, Owner, Part, Source};
use crate::Arena;

/// Stands for no version: no word of an integer.
const NONE: u64 = 0b11;
/// The end of a list.
const END: u32 = u32::MAX;
/// Records that a write forgets at the most, of those that are too many: more than it makes.
const FORGET: usize = 2;

/// What is remembered of keys that have left.
pub(super) struct Versions<A> {
    records: Map<A>,
    generation: u64,
    limit: usize,
    handed_over: List,
    latent: List,
    // For each slot of the records, those before and after it in its list.
    links: Vec<Link>,
}

#[derive(Clone, Copy)]
struct Link {
    before: u32,
    after: u32,
}

struct List {
    oldest: u32,
    newest: u32,
    len: usize,
}

impl List {
    const EMPTY: List = List {
        oldest: END,
        newest: END,
        len: 0,
    };

    fn push(&mut self, links: &mut Vec<Link>, slot: usize) {
        let link = Link {
            before: self.newest,
            after: END,
        };
        if slot == links.len() {
            links.push(link);
        } else {
            links[slot] = link;
        }
        match self.newest {
            END => self.oldest = slot as u32,
            newest => links[newest as usize].after = slot as u32,
        }
        self.newest = slot as u32;
        self.len += 1;
    }

    fn remove(&mut self, links: &mut [Link], slot: usize) {
        let Link { before, after } = links[slot];
        match before {
            END => self.oldest = after,
            before => links[before as usize].after = after,
        }
        match after {
            END => self.newest = before,
            after => links[after as usize].before = before,
        }
        self.len -= 1;
    }

    /// Adds another list behind this one, in constant time.
    fn append(&mut self, links: &mut [Link], other: List) {
        if other.len == 0 {
            return;
        }
        match self.newest {
            END => self.oldest = other.oldest,
            newest => {
                links[newest as usize].after = other.oldest;
                links[other.oldest as usize].before = newest;
            }
        }
        self.newest = other.newest;
        self.len += other.len;
    }

    fn slots<'a>(&self, links: &'a [Link]) -> impl Iterator<Item = usize> + use<'a> {
        let some = |slot: u32| (slot != END).then_some(slot);
        let after = move |&slot: &u32| some(links[slot as usize].after);
        std::iter::successors(some(self.oldest), after).map(|slot| slot as usize)
    }
}

impl<A: Arena + 'static> Versions<A> {
    fn new(limit: usize) -> Self {
        Self {
            records: Map::default(),
            generation: 1,
            limit,
            handed_over: List::EMPTY,
            latent: List::EMPTY,
            // At once: what grows would be copied under the lock.
            links: Vec::with_capacity(Self::most(limit)),
        }
    }

    /// How many records there may be, and one that is one too many for a moment.
    fn most(limit: usize) -> usize {
        limit.saturating_mul(2).saturating_add(1)
    }

    fn begin_generation(&mut self) {
        let latent = std::mem::replace(&mut self.latent, List::EMPTY);
        self.handed_over.append(&mut self.links, latent);
        self.generation += 1;
    }

    fn is_latent(&self, slot: usize) -> bool {
        self.records.updates(slot) == self.generation
    }

    /// The highest version of a record that has been handed over.
    fn handed_over(&self, slot: usize) -> Option<Cell> {
        let record = self.records.entry(slot);
        let cell = if self.is_latent(slot) {
            record.value
        } else {
            record.version
        };
        (cell.word() != Some(NONE)).then_some(cell)
    }

    fn record(
        &mut self,
        found: Option<usize>,
        hash: u32,
        key: Given<A, impl Source<A>>,
        version: Given<A, impl Source<A>>,
        now: impl Fn() -> i64,
    ) {
        let slot = match found {
            Some(slot) => {
                self.take_out(slot);
                if !self.is_latent(slot) {
                    self.records
                        .move_term(slot, Part::Version, Part::Value, &now);
                }
                self.records.set_version(slot, version, &now);
                slot
            }
            None => {
                let none: Given<A, fn(&mut A)> = Given::Word(NONE);
                self.records.insert(hash, key, none, version, &now)
            }
        };
        self.records.set_updates(slot, self.generation);
        self.latent.push(&mut self.links, slot);
        if self.latent.len > self.limit {
            self.forget(self.latent.oldest as usize, now);
        }
    }

    fn withdraw(&mut self, slot: usize, now: impl Fn() -> i64) {
        if !self.is_latent(slot) {
            return;
        }
        if self.handed_over(slot).is_none() {
            self.forget(slot, now);
            return;
        }
        self.take_out(slot);
        self.records
            .move_term(slot, Part::Value, Part::Version, &now);
        self.records.set_updates(slot, self.generation - 1);
        self.handed_over.push(&mut self.links, slot);
    }

    /// Forgets up to `count` of those handed over that are too many. Answers whether that was all.
    fn forget_some(&mut self, count: usize, now: impl Fn() -> i64) -> bool {
        let too_many = self.handed_over.len.saturating_sub(self.limit);
        for _ in 0..too_many.min(count) {
            self.forget(self.handed_over.oldest as usize, &now);
        }
        self.handed_over.len <= self.limit
    }

    fn forget(&mut self, slot: usize, now: impl Fn() -> i64) {
        self.take_out(slot);
        self.records.remove(slot, now);
    }

    fn take_out(&mut self, slot: usize) {
        let list = if self.is_latent(slot) {
            &mut self.latent
        } else {
            &mut self.handed_over
        };
        list.remove(&mut self.links, slot);
    }
}

impl<A: Arena + 'static> Map<A> {
    /// Makes the map remember the versions of that many keys; 0 for none. In steps, each of which forgets a
    /// few of those that are too many: answers whether this was the last one.
    pub fn remember_versions(&mut self, limit: usize, now: impl Fn() -> i64) -> bool {
        if limit == 0 {
            if let Some(versions) = self.versions.take() {
                self.retired.extend_with(0, u64::MAX, versions);
            }
            return true;
        }
        let versions = self
            .versions
            .get_or_insert_with(|| Box::new(Versions::new(limit)));
        versions.limit = limit;
        let more = Versions::<A>::most(limit).saturating_sub(versions.links.len());
        versions.links.reserve(more);
        let mut done = versions.forget_some(64, &now);
        for _ in 0..versions.latent.len.saturating_sub(limit).min(64) {
            versions.forget(versions.latent.oldest as usize, &now);
        }
        done &= versions.latent.len <= limit;
        self.retire_with_versions();
        done
    }

    /// Whether it remembers any.
    #[inline]
    pub fn remembers_versions(&self) -> bool {
        self.versions.is_some()
    }

    /// Records the version that a key is about to get; or answers false, if one that is as high or higher has
    /// been handed over.
    ///
    /// `find` finds the key, and `is_newer` compares with the version in a cell.
    pub fn record_version(
        &mut self,
        hash: u32,
        find: impl FnOnce(&Map<A>) -> Option<usize>,
        is_newer: impl FnOnce(&Map<A>, Cell) -> bool,
        key: Given<A, impl Source<A>>,
        version: Given<A, impl Source<A>>,
        now: impl Fn() -> i64,
    ) -> bool {
        let Some(versions) = &mut self.versions else {
            return true;
        };
        versions.forget_some(FORGET, &now);
        let found = find(&versions.records);
        let former = found.and_then(|slot| versions.handed_over(slot));
        if former.is_some_and(|former| !is_newer(&versions.records, former)) {
            return false;
        }
        versions.record(found, hash, key, version, now);
        self.retire_with_versions();
        true
    }

    /// The entry of a key is about to be removed, or put without a version: the one that it has will not
    /// be handed over.
    pub fn withdraw_version(
        &mut self,
        find: impl FnOnce(&Map<A>) -> Option<usize>,
        now: impl Fn() -> i64,
    ) {
        let Some(versions) = &mut self.versions else {
            return;
        };
        if let Some(slot) = find(&versions.records) {
            versions.withdraw(slot, now);
            self.retire_with_versions();
        }
    }

    /// What is recorded by now counts as handed over: for entries that come from elsewhere.
    pub fn settle_versions(&mut self) {
        if let Some(versions) = &mut self.versions {
            versions.begin_generation();
        }
    }

    /// What has been handed over and is remembered, from the key on that was recorded first: key and version, in
    /// the map that their cells belong to.
    pub fn versions(&self) -> impl Iterator<Item = (&Map<A>, Cell, Cell)> {
        self.versions.iter().flat_map(|versions| {
            let lists = [&versions.handed_over, &versions.latent];
            let slots = lists.map(|list| list.slots(&versions.links));
            slots.into_iter().flatten().filter_map(|slot| {
                let version = versions.handed_over(slot)?;
                let records = &versions.records;
                Some((records, records.entry(slot).key, version))
            })
        })
    }

    fn retire_with_versions(&mut self) {
        if let Some(versions) = &mut self.versions {
            self.retired.append(&mut versions.records.retired);
        }
    }

    /// Remembers what another one did that has been swapped out.
    pub(super) fn take_versions_on(&mut self, other: &mut Self) {
        self.versions = other.versions.take();
        self.settle_versions();
    }

    fn set_version(
        &mut self,
        slot: usize,
        version: Given<A, impl Source<A>>,
        now: &impl Fn() -> i64,
    ) {
        let old = self.slot(slot).version;
        let version = self.store(version, Owner::new(slot, Part::Version), now);
        self.slot_mut(slot).version = version;
        self.let_die([old], now);
    }

    /// Makes one part of an entry another one, whose term dies; there is none in its place then.
    fn move_term(&mut self, slot: usize, from: Part, to: Part, now: &impl Fn() -> i64) {
        let entry = self.slot_mut(slot);
        let cell = std::mem::replace(entry.cell_mut(from), Cell::inline(NONE));
        let old = std::mem::replace(entry.cell_mut(to), cell);
        self.packed.set_owner(cell, Owner::new(slot, to));
        if let Some((at, index)) = cell.place() {
            if let Some(block) = &mut self.blocks[at] {
                block.owners[index] = Owner::new(slot, to);
            }
        }
        self.let_die([old], now);
    }
}
