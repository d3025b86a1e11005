//! Terms that are copied word by word, without a call into the VM.
//!
//! Most of what is buffered is small: tuples, lists and maps of atoms, numbers and short binaries. The VM takes
//! several calls and two walks to weigh and to copy such a term. Here these are two short loops, and what was
//! copied is a block of memory that is freed as one. What comes out again alone is copied by the VM, which only
//! reads the block; the terms of a batch are copied together ([`Stretch::copy_out`]).
//!
//! This relies on how the VM lays terms out. A word that is no term by itself points to words, the first of
//! which says of what kind they are and how many; or to the two words of a list's cell. That has been
//! so for twenty years, yet nobody promises it. So [`Layout::learn`] looks at terms of every kind when the
//! library is loaded, has them copied, and compares. If anything is not as expected there, or a term has
//! anything in it that is of another kind, the VM copies it.
//!
//! What is copied here refers to nothing outside: neither to binaries that are shared, nor to functions or other
//! nodes. So there is nothing to be given back when it is freed. The one exception is a reference to what is counted, as
//! of `:counters` or of a table: the VM has copied it for a term before, into the environment of the same arena, and
//! terms with the same one that come later refer to that copy ([`Words::have_been_copied`]).

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use buffer_core::Segment;
use rustler::sys::{enif_is_identical, enif_make_copy, enif_make_tuple_from_array};
use rustler::wrapper::NIF_TERM;
use rustler::{Encoder, Env, NewBinary, Term};

use super::{is_immediate_word, Arena};

// The two low bits of a word that is not all of its term, and those that are no part of an address.
pub(super) const TAG: usize = 0b11;
pub(super) const LIST: usize = 0b01;
pub(super) const BOXED: usize = 0b10;
pub(super) const LOW: usize = 0b111;
// Those of a first word.
const HEADER: usize = 0b00;

// In a first word: the bits of its kind; the rest is how many words follow.
pub(super) const KIND_BITS: u32 = 6;
pub(super) const KIND: usize = (1 << KIND_BITS) - 1;
pub(super) const TUPLE: usize = 0;

/// How deep a term may be that is copied here.
pub(super) const DEPTH: usize = 16;

/// A bit for each kind that is known; none: the VM copies everything.
static LAYOUT: AtomicU64 = AtomicU64::new(0);

/// The first word of every small map; 0: the VM copies maps. Behind it are the number of values, which is no term, a
/// tuple of as many keys, and the values.
static SMALL_MAP: AtomicUsize = AtomicUsize::new(0);
pub(super) const BEFORE_VALUES: usize = 3;

/// The first word of references as `make_ref/0` makes them, which are numbers and nothing else; 0: the VM copies all of
/// them. Others are of the same kind. Those that refer to something that is counted may have the same first word,
/// but behind it an address, where these have a mark that is no address.
static REFERENCE: AtomicUsize = AtomicUsize::new(0);
const MARK: usize = u32::MAX as usize;

/// The first word of those that refer to something that is counted, and are told apart by the word behind it, which is where
/// that is; 0: they are not.
static COUNTED: AtomicUsize = AtomicUsize::new(0);

/// Which kinds are known.
#[derive(Clone, Copy)]
pub struct Layout(u64);

impl Layout {
    /// The most words that a term may take: larger ones are the VM's, which is as fast with them.
    pub const MOST: usize = 1024;

    /// Of this VM.
    #[inline]
    pub fn get() -> Self {
        Self(LAYOUT.load(Ordering::Relaxed))
    }

    /// What references count as that the VM copies.
    pub const REFERENCE_WORDS: usize = 6;

    /// Whether the VM lays terms out as expected.
    #[inline]
    pub fn is_known(self) -> bool {
        self.0 != 0
    }

    /// How many words a copy takes besides the term's own; `None`: the VM is to copy it.
    #[inline]
    pub fn words(self, term: Term<'_>) -> Option<usize> {
        self.words_of(term.as_c_arg())
    }

    #[inline]
    pub(super) fn words_of(self, term: NIF_TERM) -> Option<usize> {
        self.measured::<false>(term)
    }

    /// The same, with all references of this node, whoever copies them.
    #[inline]
    pub fn words_with_references(self, term: Term<'_>) -> Option<usize> {
        self.measured::<true>(term.as_c_arg())
    }

    #[inline]
    fn measured<const ALL: bool>(self, term: NIF_TERM) -> Option<usize> {
        let mut left = Self::MOST;
        self.measure::<ALL>(term, &mut left, DEPTH)?;
        Some(Self::MOST - left)
    }

    #[inline(always)]
    fn measure<const ALL: bool>(
        self,
        term: NIF_TERM,
        left: &mut usize,
        depth: usize,
    ) -> Option<()> {
        if is_immediate_word(term) {
            return Some(());
        }
        if term & TAG != BOXED {
            return self.measure_list::<ALL>(term, left, depth);
        }
        let Some(thing) = self.known(term) else {
            return self.measure_other::<ALL>(term, left, depth);
        };
        *left = left.checked_sub(thing.len())?;
        if !is_tuple(thing) {
            return Some(());
        }
        for &element in &thing[1..] {
            if !is_immediate_word(element) {
                self.measure_inner::<ALL>(element, left, depth)?;
            }
        }
        Some(())
    }

    #[inline]
    fn measure_inner<const ALL: bool>(
        self,
        term: NIF_TERM,
        left: &mut usize,
        depth: usize,
    ) -> Option<()> {
        // What there mostly is inside a tuple.
        if term & TAG == BOXED {
            if let Some(thing) = self.known(term).filter(|thing| !is_tuple(thing)) {
                *left = left.checked_sub(thing.len())?;
                return Some(());
            }
        }
        self.measure_deeper::<ALL>(term, left, depth)
    }

    #[inline(never)]
    fn measure_deeper<const ALL: bool>(
        self,
        term: NIF_TERM,
        left: &mut usize,
        depth: usize,
    ) -> Option<()> {
        self.measure::<ALL>(term, left, depth.checked_sub(1)?)
    }

    #[inline(never)]
    fn measure_other<const ALL: bool>(
        self,
        boxed: NIF_TERM,
        left: &mut usize,
        depth: usize,
    ) -> Option<()> {
        if let Some(reference) = self.reference(boxed) {
            *left = left.checked_sub(reference.len())?;
            return Some(());
        }
        if ALL && is_reference(boxed) {
            *left = left.checked_sub(Self::REFERENCE_WORDS)?;
            return Some(());
        }
        let map = self.map(boxed)?;
        *left = left.checked_sub(map.len())?;
        let terms = &map[BEFORE_VALUES - 1..];
        let mut inner = terms.iter().filter(|&&term| !is_immediate_word(term));
        inner.try_for_each(|&term| self.measure_deeper::<ALL>(term, left, depth))
    }

    /// The words of a reference, if it is one of numbers only and they are known.
    #[inline]
    fn reference<'a>(self, boxed: NIF_TERM) -> Option<&'a [usize]> {
        let known = REFERENCE.load(Ordering::Relaxed);
        let thing = (known != 0 && first_word(boxed) == known).then(|| thing(boxed))?;
        (thing[1] & MARK == MARK).then_some(thing)
    }

    /// Where that is which a reference refers to, if it is one to something that is counted and they are known.
    #[inline]
    fn counted(boxed: NIF_TERM) -> Option<usize> {
        let known = COUNTED.load(Ordering::Relaxed);
        let thing = (known != 0 && first_word(boxed) == known).then(|| thing(boxed))?;
        (thing[1] & MARK != MARK).then_some(thing[1])
    }

    /// The words of a small map, if that is what a term is and they are known.
    #[inline]
    pub(super) fn map<'a>(self, boxed: NIF_TERM) -> Option<&'a [usize]> {
        let known = SMALL_MAP.load(Ordering::Relaxed);
        if known == 0 || first_word(boxed) != known {
            return None;
        }
        let at = (boxed & !LOW) as *const [usize; 2];
        // SAFETY: behind this first word there is another one: this was seen when the library was loaded. They live
        // as `first_word` says.
        let [_, values] = unsafe { at.read() };
        // SAFETY: that one says how many values there are behind the keys, as was seen then too. Words of a term are
        // never written to.
        Some(unsafe { std::slice::from_raw_parts(at.cast(), BEFORE_VALUES + values) })
    }

    #[inline(never)]
    fn measure_list<const ALL: bool>(
        self,
        mut term: NIF_TERM,
        left: &mut usize,
        depth: usize,
    ) -> Option<()> {
        if self.0 == 0 {
            return None;
        }
        while term & TAG == LIST {
            let [head, tail] = cell(term);
            *left = left.checked_sub(2)?;
            if !is_immediate_word(head) {
                self.measure_inner::<ALL>(head, left, depth)?;
            }
            term = tail;
        }
        if is_immediate_word(term) {
            return Some(());
        }
        self.measure_inner::<ALL>(term, left, depth)
    }

    /// The words that a term refers to, if they are of a kind that is known.
    #[inline]
    pub(super) fn known<'a>(self, boxed: NIF_TERM) -> Option<&'a [usize]> {
        let first = first_word(boxed);
        // The empty tuple is not to be copied: there is only one of it in some releases.
        let known = self.0 & (1 << (first & KIND)) != 0 && first >> KIND_BITS > 0;
        known.then(|| thing(boxed))
    }

    /// Looks at how this VM lays terms out. Called while the library is loaded.
    ///
    /// `counted` are references to two things that are counted.
    pub fn learn(env: Env<'_>, counted: [Term<'_>; 2]) {
        let layout = Self::examine(env).unwrap_or(Self(0));
        LAYOUT.store(layout.0, Ordering::Relaxed);
        layout.learn_maps(env);
        layout.learn_references(env, counted);
    }

    fn examine(env: Env<'_>) -> Option<Self> {
        if size_of::<NIF_TERM>() != 8 {
            return None;
        }
        let leaves = leaves(env);
        let mut layout = Self(1 << TUPLE);
        for (leaf, words) in &leaves {
            layout.0 |= 1 << kind_of(leaf.as_c_arg(), *words)?;
        }
        let expected = leaves.into_iter().chain(trees(env));
        let as_expected = expected.into_iter().all(|(term, words)| {
            layout.words(term) == Some(words) && is_copied_well(layout, env, term, words)
        });
        as_expected.then_some(layout)
    }

    /// The same for maps, of which nothing else depends.
    fn learn_maps(self, env: Env<'_>) {
        let maps = maps(env);
        let Some((smallest, _)) = maps.first().filter(|_| self.0 != 0) else {
            return;
        };
        SMALL_MAP.store(first_word(smallest.as_c_arg()), Ordering::Relaxed);
        let as_expected = maps.into_iter().all(|(map, words)| {
            self.words(map) == words
                && words.is_none_or(|words| is_copied_well(self, env, map, words))
        });
        if !as_expected {
            SMALL_MAP.store(0, Ordering::Relaxed);
        }
    }
}

impl Layout {
    /// The same for references.
    fn learn_references(self, env: Env<'_>, [counted, another]: [Term<'_>; 2]) {
        let references = [(); 3].map(|()| Term::from(env.make_ref()));
        let [first, ..] = references.map(|reference| reference.as_c_arg());
        let counted = counted.as_c_arg();
        if self.0 == 0 || [first, counted].iter().any(|term| term & TAG != BOXED) {
            return;
        }
        let [word, other] = [first, counted].map(first_word);
        // They are of a kind of their own, and those that are counted can be told from others.
        let words = 1 + (word >> KIND_BITS);
        let is_new = self.0 & (1 << (word & KIND)) == 0 && word != small_map();
        if !is_new || word & KIND != other & KIND || !(2..=4).contains(&words) {
            return;
        }
        REFERENCE.store(word, Ordering::Relaxed);
        let as_expected = references.into_iter().all(|reference| {
            let pair = (true, reference).encode(env);
            self.words(reference) == Some(words)
                && is_copied_well(self, env, reference, words)
                && is_copied_well(self, env, pair, 3 + words)
        });
        // SAFETY: this only reads both terms.
        let differ = unsafe { enif_is_identical(first, references[1].as_c_arg()) } == 0;
        if !as_expected || !differ || self.reference(counted).is_some() {
            REFERENCE.store(0, Ordering::Relaxed);
            return;
        }
        // SAFETY: `env` is the caller's, and the term is one of its own.
        let copy = unsafe { enif_make_copy(env.as_c_arg(), counted) };
        COUNTED.store(other, Ordering::Relaxed);
        let [it, same, different] = [counted, copy, another.as_c_arg()].map(Self::counted);
        let has_address = other >> KIND_BITS > 0 && it.is_some() && different.is_some();
        if !has_address || it != same || it == different {
            COUNTED.store(0, Ordering::Relaxed);
        }
    }
}

/// Whether a term is a reference of this node, as far as is known.
#[inline]
fn is_reference(boxed: NIF_TERM) -> bool {
    let known = REFERENCE.load(Ordering::Relaxed);
    known != 0 && first_word(boxed) & KIND == known & KIND
}

/// Copies of terms, in blocks that never move.
#[derive(Default)]
pub struct Words {
    block: Vec<usize>,
    // Those that are full.
    others: Vec<Vec<usize>>,
    // Of all blocks.
    capacity: usize,
    // A reference to what is counted that the VM has copied, in the arena's environment, and where that is. Words of blocks may
    // refer to it, and to those that were here before.
    counted: Option<(NIF_TERM, usize)>,
}

/// A term that has been copied word by word.
pub struct Copied {
    /// The copy.
    pub term: NIF_TERM,
    /// How many words it takes besides its own, as [`Layout::words_with_references`] says.
    pub words: usize,
}

impl Words {
    /// What the first block has room for, if nothing is known, and at the most.
    const FIRST: usize = 128;
    const FIRST_AT_MOST: usize = 8 * 1024;
    /// So many terms in one that the VM has copied are looked at.
    const LOOKED_AT: usize = 32;
    /// How much there may be, to be kept when all are forgotten.
    const KEPT: usize = 2 * 1024;

    /// None yet; about to become so many, more or less.
    pub fn about_to_get(words: usize) -> Self {
        let capacity = (words + words / 32).min(Self::FIRST_AT_MOST);
        Self {
            block: Vec::with_capacity(capacity),
            others: Vec::new(),
            capacity,
            counted: None,
        }
    }

    /// Forgets all of them, whose copies are good no longer, and keeps the last block for others; if that is too large,
    /// nothing is done, and the answer is `false`.
    pub fn clear(&mut self) -> bool {
        if self.capacity > Self::KEPT {
            return false;
        }
        self.others.clear();
        self.block.clear();
        self.capacity = self.block.capacity();
        self.counted = None;
        true
    }

    /// How many words there are.
    pub fn len(&self) -> usize {
        self.block.len() + self.others.iter().map(Vec::len).sum::<usize>()
    }

    /// Copies a term; `None`: the VM is to copy it. The copy is good for as long as `self`. `stored`:
    /// how many copies are there.
    #[inline]
    pub fn copy(&mut self, layout: Layout, term: NIF_TERM, stored: usize) -> Option<NIF_TERM> {
        match self.copy_here(layout, term) {
            Some(copied) => Some(copied.term),
            None => self.copy_to_next(layout, term, stored),
        }
    }

    /// Copies a term to the end of the block, if there is room for it and it takes no more than [`Layout::MOST`] words. `None`:
    /// nothing is done.
    #[inline]
    pub fn copy_here(&mut self, layout: Layout, term: NIF_TERM) -> Option<Copied> {
        let at = self.block.len();
        let mut end = End {
            until: self.block.capacity().min(at + Layout::MOST),
            block: &mut self.block,
            counted: self.counted,
            references: 0,
        };
        let copy = copy(layout, &mut end, term, DEPTH);
        let references = end.references;
        let Some(term) = copy else {
            self.block.truncate(at);
            return None;
        };
        let words = self.block.len() - at + references * Layout::REFERENCE_WORDS;
        Some(Copied { term, words })
    }

    /// There was no room in the block, or it can't be copied here.
    #[cold]
    fn copy_to_next(&mut self, layout: Layout, term: NIF_TERM, stored: usize) -> Option<NIF_TERM> {
        let words = match layout.words_of(term) {
            Some(words) => words,
            // It takes less, if it is the reference that the VM has copied.
            None if self.counted.is_some() => layout.measured::<true>(term)?,
            None => return None,
        };
        if self.block.capacity() - self.block.len() >= words {
            // It was not for want of room.
            return None;
        }
        let capacity = self.next_capacity(stored).max(words);
        self.capacity += capacity;
        let full = std::mem::replace(&mut self.block, Vec::with_capacity(capacity));
        if full.capacity() > 0 {
            self.others.push(full);
        }
        self.copy_here(layout, term).map(|copied| copied.term)
    }

    /// The VM has made this copy in the arena's environment, where it stays as long as what is copied here is good. If there is
    /// a reference to what is counted in it, terms with the same are copied here from now on.
    pub fn have_been_copied(&mut self, layout: Layout, copy: NIF_TERM) {
        let mut left = Self::LOOKED_AT;
        self.counted = find_counted(layout, copy, &mut left).or(self.counted);
    }
}

/// The first reference to what is counted in a term or in the tuples in it, and where that is.
fn find_counted(layout: Layout, term: NIF_TERM, left: &mut usize) -> Option<(NIF_TERM, usize)> {
    *left = left.checked_sub(1)?;
    if term & TAG != BOXED {
        return None;
    }
    if let Some(at) = Layout::counted(term) {
        return Some((term, at));
    }
    let elements = elements(layout, term)?.iter();
    elements
        .copied()
        .find_map(|element| find_counted(layout, element, left))
}

impl Words {
    /// Twice what there is, but no more than it takes until a segment is full of the like of what is there.
    fn next_capacity(&self, stored: usize) -> usize {
        let doubled = self.capacity.max(Self::FIRST);
        let left = Segment::<Arena>::MAX_ENTRIES.saturating_sub(stored);
        match (self.capacity * left).checked_div(stored) {
            Some(rest) if rest > 0 => doubled.min(rest + 1),
            _ => doubled,
        }
    }
}

/// Terms that follow each other in one block, some of which may be all in their words.
pub struct Stretch<'a> {
    /// How many terms.
    pub terms: usize,
    /// The words of all of them, and of no other.
    words: &'a [usize],
    /// Some of them may refer to what is outside.
    refers: bool,
}

impl Words {
    /// The first stretch of these terms, up to the one of this index; the others are those behind it in the same
    /// arena. `None` if the first one isn't in a block.
    pub fn stretch(&self, terms: &[NIF_TERM], until: usize) -> Option<Stretch<'_>> {
        let first = *terms.first()?;
        let block = self.block_of(first)?;
        let is_inside = |&term: &NIF_TERM| index_in(block, term).is_some();
        let inside = |term: &NIF_TERM| is_immediate_word(*term) || is_inside(term);
        let count = terms[..until]
            .iter()
            .take_while(|term| inside(term))
            .count();
        // Terms are copied one behind the other, so these end where the next one in the block begins.
        let next = terms[count..]
            .iter()
            .find_map(|&term| index_in(block, term));
        let from = index_in(block, first)?;
        Some(Stretch {
            terms: count,
            words: &block[from..next.unwrap_or(block.len())],
            refers: self.counted.is_some(),
        })
    }

    fn block_of(&self, term: NIF_TERM) -> Option<&[usize]> {
        let mut blocks = std::iter::once(&self.block).chain(self.others.iter().rev());
        let block = blocks.find(|block| index_in(block, term).is_some());
        block.map(Vec::as_slice)
    }
}

/// Where in a block the words of a term are, if they are in it.
#[inline]
fn index_in(block: &[usize], term: NIF_TERM) -> Option<usize> {
    let offset = (term & !LOW).wrapping_sub(block.as_ptr() as usize);
    let index = offset / size_of::<usize>();
    (index < block.len() && !is_immediate_word(term)).then_some(index)
}

impl Stretch<'_> {
    /// Copies all of it to the caller's heap at once. Answers by how much the addresses there are higher.
    ///
    /// The VM is asked for a tuple with as many elements as there are words, and gets the words as elements. What it
    /// has made of that then becomes what these words are: the terms, behind an empty tuple that nobody refers to.
    pub fn copy_out(&self, env: Env<'_>) -> usize {
        let (from, len) = (self.words.as_ptr(), self.words.len());
        // SAFETY: `from` points to `len` words. They are copied as they are; that they are no terms of `env` does no
        // harm, since nobody looks at the tuple before its words have been put right below.
        let tuple = unsafe { enif_make_tuple_from_array(env.as_c_arg(), from, len as u32) };
        let at = (tuple & !LOW) as *mut usize;
        // SAFETY: the tuple was just made, on the heap of the calling process: its first word, and `len` more. Nobody
        // else has seen it, and the VM moves nothing before the call returns.
        let made = unsafe { std::slice::from_raw_parts_mut(at, 1 + len) };
        made[0] = TUPLE;
        let moved = (at as usize + size_of::<usize>()).wrapping_sub(from as usize);
        let made = &mut made[1..];
        if !self.refers {
            relocate(made, |word| word.wrapping_add(moved));
            return moved;
        }
        let inside = from as usize..from as usize + size_of_val(self.words);
        // Mostly they refer to the same.
        let mut last = (0, 0);
        relocate(made, |word| {
            if inside.contains(&(word & !LOW)) {
                return word.wrapping_add(moved);
            }
            if last.0 != word {
                // SAFETY: what is not inside is a copy in the arena's environment, which lives as long as the words.
                // `env` is the caller's, used by this thread; to make a copy is to take more of its heap, and nothing that is
                // there is moved or looked at.
                let copy = unsafe { enif_make_copy(env.as_c_arg(), word) };
                last = (word, copy);
            }
            last.1
        });
        moved
    }
}

/// Has terms that were copied word by word refer to their words where `now` says that these are.
#[inline]
fn relocate(words: &mut [usize], mut now: impl FnMut(NIF_TERM) -> NIF_TERM) {
    let mut index = 0;
    while let Some(word) = words.get_mut(index) {
        index += 1;
        if is_immediate_word(*word) {
            continue;
        }
        if *word & TAG != HEADER {
            *word = now(*word);
        } else if *word & KIND != TUPLE {
            let is_map = *word == SMALL_MAP.load(Ordering::Relaxed);
            index += if is_map { 1 } else { *word >> KIND_BITS };
        }
    }
}

/// Where words are copied to: one after the other, and none beyond its end.
trait Block {
    /// How many there are.
    fn len(&self) -> usize;
    /// Adds words, if there is room for them without moving the others, which are referred to by now. Answers
    /// the index of the first one.
    fn append(&mut self, words: &[usize]) -> Option<usize>;
    /// Writes another word in the place of one.
    fn set(&mut self, index: usize, word: usize);
    /// Where a word is.
    fn address(&mut self, index: usize) -> usize;
    /// The copy of a reference to what is counted, if there is one.
    fn counted(&mut self, reference: NIF_TERM) -> Option<NIF_TERM>;
}

/// The end of a block.
struct End<'a> {
    block: &'a mut Vec<usize>,
    until: usize,
    counted: Option<(NIF_TERM, usize)>,
    // How many of the terms there refer to that.
    references: usize,
}

impl Block for End<'_> {
    #[inline]
    fn len(&self) -> usize {
        self.block.len()
    }

    #[inline]
    fn append(&mut self, words: &[usize]) -> Option<usize> {
        let at = self.block.len();
        if self.until - at < words.len() {
            return None;
        }
        // Few words are faster copied by themselves than by a call.
        match words {
            &[a, b] => self.block.extend_from_slice(&[a, b]),
            &[a, b, c] => self.block.extend_from_slice(&[a, b, c]),
            &[a, b, c, d] => self.block.extend_from_slice(&[a, b, c, d]),
            words => self.block.extend_from_slice(words),
        }
        Some(at)
    }

    #[inline]
    fn set(&mut self, index: usize, word: usize) {
        self.block[index] = word;
    }

    #[inline]
    fn address(&mut self, index: usize) -> usize {
        self.block.as_mut_ptr() as usize + index * size_of::<usize>()
    }

    #[inline]
    fn counted(&mut self, reference: NIF_TERM) -> Option<NIF_TERM> {
        let (counted, at) = self.counted?;
        if Layout::counted(reference) != Some(at) {
            return None;
        }
        self.references += 1;
        Some(counted)
    }
}

/// The words of a copy that is written over.
struct Place<'a> {
    words: &'a mut [usize],
    len: usize,
}

impl Block for Place<'_> {
    #[inline]
    fn len(&self) -> usize {
        self.len
    }

    #[inline]
    fn append(&mut self, words: &[usize]) -> Option<usize> {
        let at = self.len;
        let end = at + words.len();
        self.words.get_mut(at..end)?.copy_from_slice(words);
        self.len = end;
        Some(at)
    }

    #[inline]
    fn set(&mut self, index: usize, word: usize) {
        self.words[index] = word;
    }

    #[inline]
    fn address(&mut self, index: usize) -> usize {
        self.words.as_mut_ptr() as usize + index * size_of::<usize>()
    }

    #[inline]
    fn counted(&mut self, _reference: NIF_TERM) -> Option<NIF_TERM> {
        None
    }
}

/// Copies to the end of a block; what there is of the copy if it is `None` is to be thrown away.
#[inline(always)]
fn copy(layout: Layout, block: &mut impl Block, term: NIF_TERM, depth: usize) -> Option<NIF_TERM> {
    if is_immediate_word(term) {
        return Some(term);
    }
    if term & TAG != BOXED {
        return copy_list(layout, block, term, depth);
    }
    let Some(thing) = layout.known(term) else {
        return copy_other(layout, block, term, depth);
    };
    let at = block.append(thing)?;
    if is_tuple(thing) {
        for (index, &element) in thing.iter().enumerate().skip(1) {
            if !is_immediate_word(element) {
                let element = copy_inner(layout, block, element, depth)?;
                block.set(at + index, element);
            }
        }
    }
    Some(block.address(at) | BOXED)
}

#[inline]
fn copy_inner(
    layout: Layout,
    block: &mut impl Block,
    term: NIF_TERM,
    depth: usize,
) -> Option<NIF_TERM> {
    // What there mostly is inside a tuple.
    if term & TAG == BOXED {
        if let Some(thing) = layout.known(term).filter(|thing| !is_tuple(thing)) {
            let at = block.append(thing)?;
            return Some(block.address(at) | BOXED);
        }
    }
    copy_deeper(layout, block, term, depth)
}

#[inline(never)]
fn copy_deeper(
    layout: Layout,
    block: &mut impl Block,
    term: NIF_TERM,
    depth: usize,
) -> Option<NIF_TERM> {
    copy(layout, block, term, depth.checked_sub(1)?)
}

#[inline(never)]
fn copy_other(
    layout: Layout,
    block: &mut impl Block,
    boxed: NIF_TERM,
    depth: usize,
) -> Option<NIF_TERM> {
    if let Some(reference) = layout.reference(boxed) {
        let at = block.append(reference)?;
        return Some(block.address(at) | BOXED);
    }
    if let Some(counted) = block.counted(boxed) {
        return Some(counted);
    }
    let map = layout.map(boxed)?;
    let at = block.append(map)?;
    for (index, &term) in map.iter().enumerate().skip(BEFORE_VALUES - 1) {
        if !is_immediate_word(term) {
            let copy = copy_deeper(layout, block, term, depth)?;
            block.set(at + index, copy);
        }
    }
    Some(block.address(at) | BOXED)
}

#[inline(never)]
fn copy_list(
    layout: Layout,
    block: &mut impl Block,
    list: NIF_TERM,
    depth: usize,
) -> Option<NIF_TERM> {
    if layout.0 == 0 {
        return None;
    }
    let first = block.len();
    let mut rest = list;
    while rest & TAG == LIST {
        let [head, tail] = cell(rest);
        let at = block.append(&[head, tail])?;
        if !is_immediate_word(head) {
            let head = copy_inner(layout, block, head, depth)?;
            block.set(at, head);
        }
        let tail = if tail & TAG == LIST {
            let next = block.len();
            block.address(next) | LIST
        } else if is_immediate_word(tail) {
            tail
        } else {
            copy_inner(layout, block, tail, depth)?
        };
        block.set(at + 1, tail);
        rest = cell(rest)[1];
    }
    Some(block.address(first) | LIST)
}

/// Copies a term over a copy that [`Words`] has made before, which takes the place of `old` then. `None`, and
/// nothing is done, if it does not take just as many words, or one of them is not copied here.
///
/// The caller has the words of `old` to itself: it is the last call that refers to them.
#[inline]
pub fn overwrite(layout: Layout, old: NIF_TERM, term: NIF_TERM) -> Option<NIF_TERM> {
    let words = layout.words_of(term).filter(|&words| words > 0)?;
    if layout.words_of(old)? != words {
        return None;
    }
    let at = (old & !LOW) as *mut usize;
    // SAFETY: a copy lies in one block, beginning with what its word refers to, and takes as many words as
    // `words_of` says: both follow the same rules, term by term. The caller has `&mut` to the arena whose block it
    // is, so nobody else reads or writes there, and `term` is not in it: it is in an environment of the VM.
    let words = unsafe { std::slice::from_raw_parts_mut(at, words) };
    copy(layout, &mut Place { words, len: 0 }, term, DEPTH)
}

#[inline]
fn is_tuple(thing: &[usize]) -> bool {
    thing[0] & KIND == TUPLE
}

/// The first of the words that a term refers to.
#[inline]
pub(super) fn first_word(boxed: NIF_TERM) -> usize {
    let at = (boxed & !LOW) as *const usize;
    // SAFETY: `boxed` has the two low bits of a pointer to words, one at least. They live as long as the
    // term does: an argument's until the call ends, an arena's as long as that is borrowed.
    unsafe { at.read() }
}

/// The words that a term refers to, which is of a kind that is known.
#[inline]
pub(super) fn thing<'a>(boxed: NIF_TERM) -> &'a [usize] {
    let words = 1 + (first_word(boxed) >> KIND_BITS);
    let at = (boxed & !LOW) as *const usize;
    // SAFETY: of the kinds that `Layout` knows, the first word says how many follow: this was seen when the
    // library was loaded. They live as `first_word` says, and are not written to meanwhile: `overwrite`
    // alone does that, and it refers to what it writes by nothing else.
    unsafe { std::slice::from_raw_parts(at, words) }
}

/// The words of the head and the tail of a list, if the VM lays terms out as expected.
#[inline]
pub fn head_and_tail(layout: Layout, list: NIF_TERM) -> Option<[NIF_TERM; 2]> {
    (layout.is_known() && list & TAG == LIST).then(|| cell(list))
}

/// The words of the elements of a tuple that has some, if the VM lays terms out as expected.
#[inline]
pub fn elements<'a>(layout: Layout, tuple: NIF_TERM) -> Option<&'a [NIF_TERM]> {
    if !layout.is_known() || tuple & TAG != BOXED {
        return None;
    }
    let thing = layout.known(tuple).filter(|thing| is_tuple(thing))?;
    Some(&thing[1..])
}

/// The head and the tail of a list's cell.
#[inline]
pub(super) fn cell(list: NIF_TERM) -> [usize; 2] {
    let at = (list & !LOW) as *const [usize; 2];
    // SAFETY: `list` has the two low bits of a pointer to a cell, which is two words. They live as long as
    // `first_word` says.
    unsafe { at.read() }
}

/// The kind of a term that should take so many words.
fn kind_of(leaf: NIF_TERM, words: usize) -> Option<usize> {
    if leaf & TAG != BOXED {
        return None;
    }
    let first = first_word(leaf);
    let kind = first & KIND;
    (first >> KIND_BITS == words - 1 && kind != TUPLE).then_some(kind)
}

/// Terms without others in them, and how many words they should take: floats, large integers, short binaries.
fn leaves(env: Env<'_>) -> Vec<(Term<'_>, usize)> {
    let numbers = [
        1.5f64.encode(env),
        i64::MAX.encode(env),
        i64::MIN.encode(env),
        u64::MAX.encode(env),
    ];
    let numbers = numbers.into_iter().map(|number| (number, 2));
    let binaries = (0..=64).map(|len| (binary(env, len), 2 + len.div_ceil(8)));
    numbers.chain(binaries).collect()
}

/// Terms with others in them, and how many words they should take.
fn trees(env: Env<'_>) -> Vec<(Term<'_>, usize)> {
    let text = binary(env, 9); // 4 words
    let nested = (true, (text, 1i64), vec![text, text]).encode(env);
    vec![
        ((1i64,).encode(env), 2),
        ((1i64, text, 1.5f64).encode(env), 4 + 4 + 2),
        (nested, 4 + (3 + 4) + 2 * (2 + 4)),
        (vec![1i64, 2, 3].encode(env), 6),
        (1.5f64.encode(env).list_prepend(text), 2 + 2 + 4),
        (vec![nested; 20].encode(env), 20 * (2 + 23)),
    ]
}

/// Terms of every kind that is copied here.
pub(super) fn samples(env: Env<'_>) -> impl Iterator<Item = Term<'_>> {
    let terms = leaves(env).into_iter().chain(trees(env));
    let maps = maps(env).into_iter();
    terms.map(|(term, _)| term).chain(maps.map(|(map, _)| map))
}

/// The first word of a small map.
#[inline]
pub(super) fn small_map() -> usize {
    SMALL_MAP.load(Ordering::Relaxed)
}

/// Maps, and how many words they should take; `None`: they are the VM's.
fn maps(env: Env<'_>) -> Vec<(Term<'_>, Option<usize>)> {
    let text = binary(env, 9);
    let map = |size: usize, value: Term<'_>| -> Option<Term<'_>> {
        let key = |index: usize| (index as i64).encode(env);
        let entries: Vec<_> = (0..size).map(|index| (key(index), value)).collect();
        Term::map_from_pairs(env, &entries).ok()
    };
    let small = (1..=32).map(|size| (map(size, 1i64.encode(env)), Some(4 + 2 * size)));
    let nested = map(3, text).and_then(|inner| map(2, inner));
    let others = [
        (map(3, text), Some(4 + 6 + 3 * 4)),
        (nested, Some(4 + 4 + 2 * (4 + 6 + 3 * 4))),
        (map(0, text), None),
        (map(33, text), None),
        (map(100, text), None),
    ];
    let all = small.chain(others);
    // Without one of them nothing is as expected.
    let made = all.map(|(map, words)| (map.unwrap_or(text), words));
    made.collect()
}

pub(super) fn binary(env: Env<'_>, len: usize) -> Term<'_> {
    let bytes = (0..len).map(|index| index as u8 + 1);
    NewBinary::from_iter(env, bytes).into()
}

/// Whether a copy is what was copied, and so is what the VM copies from it.
fn is_copied_well(layout: Layout, env: Env<'_>, term: Term<'_>, words: usize) -> bool {
    let mut copies = Words::default();
    let Some(copy) = copies.copy(layout, term.as_c_arg(), 0) else {
        return false;
    };
    let taken = copies.block.len();
    // SAFETY: `env` is the caller's, and the words of `copy` live until this returns.
    let again = unsafe { enif_make_copy(env.as_c_arg(), copy) };
    // SAFETY: this only reads both terms.
    let is_same = unsafe { enif_is_identical(copy, term.as_c_arg()) } != 0;
    // SAFETY: as before.
    let is_same_again = unsafe { enif_is_identical(again, term.as_c_arg()) } != 0;
    taken == words && is_same && is_same_again && is_copied_out_well(env, &copies, copy, term)
}

/// The same for copying all words at once.
fn is_copied_out_well(env: Env<'_>, copies: &Words, copy: NIF_TERM, term: Term<'_>) -> bool {
    let Some(stretch) = copies.stretch(&[copy], 1) else {
        return false;
    };
    let out = copy.wrapping_add(stretch.copy_out(env));
    // SAFETY: `out` is what `copy` is, on the heap of `env`, and this only reads.
    unsafe { enif_is_identical(out, term.as_c_arg()) != 0 }
}
