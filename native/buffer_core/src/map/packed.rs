//! Terms that are plain bytes, in records that lie one behind the other.
//!
//! A term that refers to nothing can be moved by whoever knows where it is, so nothing of what this keeps is
//! ever dead: when a record goes, the last one of its size takes its place. There are as many *shelves* as there
//! are sizes, and each takes as much memory as its records do, and two chunks at the most.
//!
//! A record is the cell that refers to it, the bytes of its term, and zeros up to the next multiple of
//! [`GRAIN`]. The bytes themselves tell where they end. What the term weighs is told by the cell.

use super::{Cell, Map, Owner};
use crate::Arena;

/// The most bytes that a term may take here.
pub const PACKED: usize = SIZES * GRAIN - HEADER;

const GRAIN: usize = 8;
const SIZES: usize = 32;
/// The owner.
const HEADER: usize = 4;
const RECORDS_A_CHUNK: usize = 128;
/// How many bytes of chunks are kept when all of them are empty.
const KEPT: usize = 16 * 1024;

/// The records of all sizes.
#[derive(Default)]
pub(super) struct Packed {
    // By size: the first one has records of one grain.
    shelves: Vec<Shelf>,
    /// How many records there are.
    pub(super) len: usize,
    /// The weights of all of them.
    pub(super) bytes: u64,
}

#[derive(Default)]
struct Shelf {
    chunks: Vec<Chunk>,
    len: usize,
}

#[derive(Default)]
struct Chunk {
    bytes: Box<[u8]>,
    held: usize,
}

impl Shelf {
    #[inline]
    fn record(&self, size: usize, index: usize) -> &[u8] {
        let from = index % RECORDS_A_CHUNK * size;
        &self.chunks[index / RECORDS_A_CHUNK].bytes[from..from + size]
    }

    #[inline]
    fn record_mut(&mut self, size: usize, index: usize) -> &mut [u8] {
        let from = index % RECORDS_A_CHUNK * size;
        &mut self.chunks[index / RECORDS_A_CHUNK].bytes[from..from + size]
    }

    fn add(&mut self, size: usize) -> usize {
        let index = self.len;
        if index == self.chunks.len() * RECORDS_A_CHUNK {
            self.chunks.push(Chunk {
                bytes: vec![0; RECORDS_A_CHUNK * size].into(),
                held: 0,
            });
        }
        self.chunks[index / RECORDS_A_CHUNK].held += 1;
        self.len += 1;
        index
    }

    /// Has the last record take the place of this one. Answers whose it is.
    fn remove(&mut self, size: usize, index: usize) -> Option<Owner> {
        let last = self.len - 1;
        self.len = last;
        self.chunks[last / RECORDS_A_CHUNK].held -= 1;
        let moved = (index != last).then(|| {
            let (chunk, from) = (last / RECORDS_A_CHUNK, last % RECORDS_A_CHUNK * size);
            let (before, behind) = self.chunks.split_at_mut(chunk);
            let range = from..from + size;
            let to = index % RECORDS_A_CHUNK * size;
            match before.get_mut(index / RECORDS_A_CHUNK) {
                Some(other) => {
                    other.bytes[to..to + size].copy_from_slice(&behind[0].bytes[range]);
                }
                None => behind[0].bytes.copy_within(range, to),
            }
            owner(self.record(size, index))
        });
        // One is left for those that come next.
        if self.chunks.len() * RECORDS_A_CHUNK >= self.len + 2 * RECORDS_A_CHUNK {
            self.chunks.pop();
        }
        moved
    }
}

#[inline]
fn owner(record: &[u8]) -> Owner {
    let [a, b, c, d, ..] = *record else {
        return Owner::DEAD;
    };
    Owner::of_word(u32::from_le_bytes([a, b, c, d]))
}

/// The size of records for so many bytes, in grains.
#[inline]
fn grains(len: usize) -> usize {
    (HEADER + len).div_ceil(GRAIN)
}

impl Packed {
    /// Keeps a term.
    #[inline]
    pub(super) fn add(&mut self, bytes: &[u8], weight: u32, owner: Owner) -> Cell {
        let grains = grains(bytes.len());
        if self.shelves.len() < grains {
            self.shelves.resize_with(grains, Shelf::default);
        }
        let (shelf, size) = (&mut self.shelves[grains - 1], grains * GRAIN);
        let index = shelf.add(size);
        let record = shelf.record_mut(size, index);
        record[..4].copy_from_slice(&owner.word().to_le_bytes());
        fill(record, bytes);
        self.len += 1;
        self.bytes += u64::from(weight);
        Cell::packed(grains, index, weight)
    }

    #[inline]
    fn record(&self, cell: Cell) -> Option<&[u8]> {
        let (grains, index) = cell.packed_place()?;
        Some(self.shelves[grains - 1].record(grains * GRAIN, index))
    }

    /// The bytes of a term, and more: see above.
    #[inline]
    pub(super) fn get(&self, cell: Cell) -> Option<&[u8]> {
        self.record(cell).map(|record| &record[HEADER..])
    }

    /// Writes a term over another one that takes as many grains, and answers its cell; `None`, and nothing is done, if
    /// it takes more or less.
    #[inline]
    pub(super) fn overwrite(&mut self, cell: Cell, bytes: &[u8], weight: u32) -> Option<Cell> {
        let (grains, index) = cell.packed_place()?;
        if grains != self::grains(bytes.len()) {
            return None;
        }
        let record = self.shelves[grains - 1].record_mut(grains * GRAIN, index);
        fill(record, bytes);
        self.bytes = self.bytes + u64::from(weight) - cell.packed_weight().map_or(0, u64::from);
        Some(Cell::packed(grains, index, weight))
    }

    /// Tells a term that another cell refers to it.
    pub(super) fn set_owner(&mut self, cell: Cell, owner: Owner) {
        if let Some((grains, index)) = cell.packed_place() {
            let record = self.shelves[grains - 1].record_mut(grains * GRAIN, index);
            record[..4].copy_from_slice(&owner.word().to_le_bytes());
        }
    }

    /// Lets a term go. Answers whose term is in its place now.
    pub(super) fn remove(&mut self, cell: Cell) -> Option<Owner> {
        let (grains, index) = cell.packed_place()?;
        self.bytes -= u64::from(cell.packed_weight()?);
        self.len -= 1;
        self.shelves[grains - 1].remove(grains * GRAIN, index)
    }

    /// Whether its chunks take little memory.
    pub(super) fn is_small(&self) -> bool {
        let chunks = self.shelves.iter().flat_map(|shelf| &shelf.chunks);
        chunks.map(|chunk| chunk.bytes.len()).sum::<usize>() <= KEPT
    }

    /// Lets all terms go, and keeps the memory for others. None of them may have been drained.
    pub(super) fn clear(&mut self) {
        for shelf in &mut self.shelves {
            shelf.len = 0;
            shelf.chunks.iter_mut().for_each(|chunk| chunk.held = 0);
        }
        self.len = 0;
        self.bytes = 0;
    }

    /// The same where no term is ever added again: the others stay where they are.
    pub(super) fn drain(&mut self, cell: Cell) {
        let Some((grains, index)) = cell.packed_place() else {
            return;
        };
        self.bytes -= cell.packed_weight().map_or(0, u64::from);
        self.len -= 1;
        let chunk = &mut self.shelves[grains - 1].chunks[index / RECORDS_A_CHUNK];
        chunk.held -= 1;
        if chunk.held == 0 {
            chunk.bytes = Box::default();
        }
    }
}

#[inline]
fn fill(record: &mut [u8], bytes: &[u8]) {
    let to = &mut record[HEADER..];
    match (to.last_chunk_mut::<GRAIN>(), bytes.last_chunk::<GRAIN>()) {
        // Most terms are so short that a call to copy or to compare them takes longer than doing it.
        (Some(end), Some(last)) => {
            *end = [0; GRAIN];
            let words = bytes.as_chunks::<GRAIN>().0;
            for (to, word) in to.as_chunks_mut::<GRAIN>().0.iter_mut().zip(words) {
                *to = *word;
            }
            to[bytes.len() - GRAIN..bytes.len()].copy_from_slice(last);
        }
        _ => {
            to.fill(0);
            to[..bytes.len()].copy_from_slice(bytes);
        }
    }
}

/// Whether a record begins with these bytes.
#[inline]
fn begins_with(record: &[u8], bytes: &[u8]) -> bool {
    let Some((start, last)) = record.get(..bytes.len()).zip(bytes.last_chunk::<GRAIN>()) else {
        return record.starts_with(bytes);
    };
    let (words, others) = (bytes.as_chunks::<GRAIN>().0, start.as_chunks::<GRAIN>().0);
    words == others && start.last_chunk::<GRAIN>() == Some(last)
}

impl<A: Arena + 'static> Map<A> {
    /// The bytes of a term that is packed: they may be followed by zeros.
    #[inline]
    pub fn packed(&self, cell: Cell) -> Option<&[u8]> {
        self.packed.get(cell)
    }

    /// Whether a term has just these bytes.
    #[inline]
    pub fn is_packed_as(&self, cell: Cell, bytes: &[u8]) -> bool {
        let there = self.packed.get(cell);
        there.is_some_and(|there| begins_with(there, bytes))
    }

    /// The weight of a term that is packed; none of others.
    #[inline]
    pub fn packed_weight(&self, cell: Cell) -> u32 {
        cell.packed_weight().unwrap_or(0)
    }

    /// Lets a packed term go; another one may take its place.
    pub(super) fn unpack(&mut self, cell: Cell) {
        if let Some((slot, part)) = self.packed.remove(cell).and_then(Owner::cell) {
            let moved = self.slot_mut(slot).cell_mut(part);
            *moved = moved.in_place_of(cell);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::map::entry::Part;

    fn owner_of(slot: usize) -> Owner {
        Owner::new(slot, Part::Value)
    }

    fn chunks(packed: &Packed) -> usize {
        packed.shelves.iter().map(|shelf| shelf.chunks.len()).sum()
    }

    #[test]
    fn the_last_one_takes_the_place_of_one_that_goes() {
        let mut packed = Packed::default();
        let cells: Vec<Cell> = (0..300u16)
            .map(|n| packed.add(&n.to_le_bytes(), 16, owner_of(n.into())))
            .collect();
        assert_eq!(packed.remove(cells[7]), Some(owner_of(299)));
        assert_eq!(packed.get(cells[7]), Some(&[43, 1, 0, 0][..]));
        // The last one by now is alone in its place.
        assert_eq!(packed.remove(cells[298]), None);
        assert_eq!((packed.len, packed.bytes), (298, 298 * 16));
    }

    #[test]
    fn takes_no_more_chunks_than_it_needs_and_one() {
        let mut packed = Packed::default();
        let mut cells = Vec::new();
        for slot in 0..10 * RECORDS_A_CHUNK {
            cells.push(packed.add(&[1; 20], 24, owner_of(slot)));
            assert_eq!(chunks(&packed), (slot + 1).div_ceil(RECORDS_A_CHUNK));
        }
        while let Some(cell) = cells.pop() {
            packed.remove(cell);
            assert!(chunks(&packed) <= cells.len().div_ceil(RECORDS_A_CHUNK) + 1);
        }
        assert_eq!((packed.len, packed.bytes), (0, 0));
    }

    #[test]
    fn writes_over_what_takes_as_many_grains() {
        let mut packed = Packed::default();
        let cell = packed.add(&[1; 10], 32, owner_of(1));
        let cell = packed.overwrite(cell, &[2; 5], 24).expect("it fits");
        let bytes = packed.get(cell).expect("it is there");
        assert_eq!(bytes, [2, 2, 2, 2, 2, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!((cell.packed_weight(), packed.bytes), (Some(24), 24));
        assert_eq!(packed.overwrite(cell, &[3; 13], 24), None);
        assert_eq!(packed.overwrite(cell, &[3; 4], 24), None);
        assert_eq!(packed.record(cell).map(owner), Some(owner_of(1)));
    }

    #[test]
    fn all_sizes_have_their_place() {
        let mut packed = Packed::default();
        let terms = (1..=PACKED).map(|len| vec![len as u8; len]);
        let cells: Vec<(Cell, Vec<u8>)> = terms
            .map(|term| (packed.add(&term, term.len() as u32, owner_of(1)), term))
            .collect();
        for (cell, term) in &cells {
            let (bytes, rest) = packed.get(*cell).expect("it is there").split_at(term.len());
            assert_eq!(bytes, term);
            assert!(rest.len() < GRAIN && rest.iter().all(|&byte| byte == 0));
        }
    }

    #[test]
    fn a_chunk_goes_when_all_of_it_is_drained() {
        let mut packed = Packed::default();
        let cells: Vec<Cell> = (0..2 * RECORDS_A_CHUNK)
            .map(|slot| packed.add(&[1; 20], 24, owner_of(slot)))
            .collect();
        let held = |packed: &Packed| {
            let chunks = packed.shelves.iter().flat_map(|shelf| &shelf.chunks);
            chunks.map(|chunk| chunk.bytes.len()).sum::<usize>()
        };
        let before = held(&packed);
        cells[1..].iter().for_each(|cell| packed.drain(*cell));
        assert_eq!(held(&packed), before / 2);
        assert_eq!(packed.get(cells[0]).map(|bytes| bytes[19]), Some(1));
        packed.drain(cells[0]);
        assert_eq!((held(&packed), packed.len, packed.bytes), (0, 0, 0));
    }
}
