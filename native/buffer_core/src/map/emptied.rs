//! A map that all entries leave at once, and what it keeps of its memory then.
//!
//! A cycle may have few entries, even one, and come a million times a second: to make and to free 64 tables and a chunk of
//! slots, ten kilobytes, takes longer than all the rest of it. So a map that has never had more than a few slots forgets
//! its entries in place. How much it keeps is bounded: a chunk of slots, tables for [`FEW`] entries, and the records of
//! that many terms. Segments are never kept.

use super::{split, Map};
use crate::segment::Retired;
use crate::{Arena, Tally};

/// How many slots a map may have used that keeps its memory.
const FEW: usize = 64;

impl<A: Arena + 'static> Map<A> {
    pub(super) fn retire_all(&mut self, retired: &mut Retired<A>) {
        if self.is_small() {
            self.clear(retired);
            return;
        }
        let mut all = std::mem::take(self);
        retired.append(&mut all.retired);
        let bytes = all.total_bytes();
        // Its tables and slots take as long to be freed as its terms.
        let indexes = (all.tables, all.free, all.free_blocks, all.classes);
        let terms = all.stored + all.packed.len;
        retired.extend_with(terms, bytes, (all.blocks, all.packed, all.chunks, indexes));
    }

    /// Nothing that it could keep is much, or has been drained before.
    fn is_small(&self) -> bool {
        self.drained == 0 && self.used <= FEW && self.packed.is_small()
    }

    fn clear(&mut self, retired: &mut Retired<A>) {
        retired.append(&mut self.retired);
        for slot in 0..self.used {
            if let Some(old) = self.chunks[0].take(slot) {
                self.tables[split(old.hash).0].clear();
            }
        }
        if self.stored > 0 {
            let blocks = std::mem::take(&mut self.blocks);
            let classes = std::mem::take(&mut self.classes);
            let bytes = classes.iter().map(|class| class.total_bytes).sum();
            retired.extend_with(self.stored, bytes, blocks);
            self.stored = 0;
        }
        self.free_blocks.clear();
        self.free.clear();
        self.many.clear();
        self.packed.clear();
        self.used = 0;
        self.len = 0;
        self.alive_bytes = 0;
        self.opened_at = None;
        self.tally = Tally::default();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::map::{Given, Source, PACKED};
    use crate::Generation;

    struct Nothing(usize);

    impl Arena for Nothing {
        fn new() -> Self {
            Self(0)
        }

        fn copy_from(&mut self, _other: &Self, _index: usize) {
            self.0 += 1;
        }

        fn len(&self) -> usize {
            self.0
        }
    }

    /// Packed if it has bytes.
    struct Value(Vec<u8>);

    impl Source<Nothing> for Value {
        fn packed(&self) -> Option<&[u8]> {
            (!self.0.is_empty()).then_some(&self.0)
        }

        fn store(self, arena: &mut Nothing) {
            arena.0 += 1;
        }
    }

    fn word(value: usize) -> Given<Nothing, Value> {
        Given::Word((value as u64) << 2 | 3)
    }

    fn put(map: &mut Map<Nothing>, key: usize, value: Given<Nothing, Value>) -> usize {
        map.insert(key as u32, word(key), value, word(0), || 0)
    }

    fn find(map: &Map<Nothing>, key: usize) -> Option<usize> {
        map.find(key as u32, |_, cell| {
            cell.word() == Some((key as u64) << 2 | 3)
        })
    }

    /// Has all of a map leave; what is freed.
    fn drain(map: &mut Map<Nothing>) -> Retired<Nothing> {
        let mut retired = Retired::default();
        map.retire(usize::MAX, &mut retired);
        assert_eq!((map.len(), map.bytes(), map.total_bytes()), (0, 0, 0));
        retired
    }

    #[test]
    fn one_with_few_entries_keeps_its_slots_and_tables() {
        let mut map = Map::default();
        for round in 0..3 {
            for key in 0..FEW {
                let slot = put(&mut map, key, Given::Copy(16, Value(vec![1; 9])));
                assert_eq!(slot, key);
            }
            map.remove(FEW / 2, || 0);
            assert!(drain(&mut map).is_empty());
            assert_eq!((map.chunks.len(), map.tables.is_empty()), (1, false));
            assert!((0..FEW).all(|key| find(&map, key).is_none()));
            assert_eq!(map.tally(), Tally::default(), "round {round}");
        }
    }

    #[test]
    fn one_with_many_entries_keeps_nothing() {
        let mut map = Map::default();
        for key in 0..=FEW {
            put(&mut map, key, word(key));
        }
        assert!(!drain(&mut map).is_empty());
        assert!(map.chunks.is_empty() && map.tables.is_empty());
    }

    #[test]
    fn records_of_many_sizes_are_not_kept() {
        let mut map = Map::default();
        for key in 0..FEW {
            let len = 1 + key * (PACKED - 1) / FEW;
            put(&mut map, key, Given::Copy(16, Value(vec![1; len])));
        }
        assert_eq!(drain(&mut map).entries(), FEW);
        assert!(map.chunks.is_empty());
    }

    #[test]
    fn segments_are_freed() {
        let mut map = Map::default();
        put(&mut map, 1, Given::Copy(4_000, Value(Vec::new())));
        put(&mut map, 2, word(2));
        let retired = drain(&mut map);
        assert_eq!((retired.entries(), retired.is_little()), (1, true));
        assert_eq!((map.chunks.len(), map.blocks.len()), (1, 0));
        put(&mut map, 1, Given::Copy(4_000, Value(Vec::new())));
        assert_eq!(map.total_bytes(), 4_000);
    }

    #[test]
    fn one_that_was_drained_in_part_keeps_nothing() {
        let mut map = Map::default();
        put(&mut map, 1, word(1));
        put(&mut map, 2, word(2));
        map.retire(1, &mut Retired::default());
        assert!(!drain(&mut map).is_empty());
        assert!(map.chunks.is_empty());
    }
}
