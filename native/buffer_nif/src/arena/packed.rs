//! Terms as bytes that refer to nothing, and back.
//!
//! What is copied word by word (see `words.rs`) takes eight bytes for each small number, each atom and each
//! reference from one part of a term to another. Here a number takes as many bytes as it has, and the parts of a term
//! follow each other, so that most terms take less than half as much. There is one form for all terms that are the
//! same, so the keys of a map are compared and hashed without the VM.
//!
//! A part of a term begins with a byte: its kind, and a number.
//!
//! | kind | number | followed by |
//! |---|---|---|
//! | `WORD` | how many bytes | what is all in its word, but for leading zeros |
//! | `INVERTED` | how many bytes | the same with all bits inverted: small negative numbers |
//! | `TUPLE` | its size; 0 if that is larger than 15 | the size then; the elements |
//! | `LIST` | | how many elements; those; the tail |
//! | `BINARY` | its size, with all bits that the others leave | the bytes |
//! | `THING` | how many words | the kind of its first word; the words |
//! | `MAP` | | how many keys; those, in their order; the values |
//!
//! Of those kinds none has two forms: a binary is the same whether it is on a heap or a part of another one. Zero as a
//! floating-point number is left to the VM, which has its own view of signs. What is left to the VM, and
//! what is too large, is so in whatever place it is; so two terms of which just one can be packed are not the same.
//!
//! Like `words.rs` this is looked at when the library is loaded, with terms of every kind.

use std::sync::atomic::{AtomicU32, Ordering};

use buffer_core::map::PACKED;
use rustler::sys::{
    enif_inspect_binary, enif_is_identical, enif_make_tuple_from_array, ErlNifBinary,
};
use rustler::wrapper::NIF_TERM;
use rustler::{Encoder, Env, Term};

use super::is_immediate_word;
use super::words::{
    self, cell, Layout, BEFORE_VALUES, BOXED, DEPTH, KIND, KIND_BITS, LIST, LOW, TAG,
};

/// `WORD`: no bit is set.
const WORD: u8 = 0;
const INVERTED: u8 = 1;
const TUPLE: u8 = 2;
const CONS: u8 = 3;
const THING: u8 = 4;
const MAP: u8 = 5;
/// The highest bit of the first byte: the others are the size of a binary.
const BINARY: u8 = 0x80;
/// The largest number in the first byte.
const MOST: usize = 15;

/// The most words that a packed term takes when it is unpacked.
pub const WORDS: usize = 1000;
/// Binaries up to this size are on the heap, larger ones are shared.
const HEAP_BINARY: usize = 64;

/// The kind of binaries on the heap, the bits of a byte's share of their second word, and the kind of floating-point
/// numbers; 0: nothing is packed.
static KINDS: AtomicU32 = AtomicU32::new(0);

/// See [`KINDS`].
#[derive(Clone, Copy)]
struct Kinds(u32);

impl Kinds {
    #[inline]
    fn get() -> Self {
        Self(KINDS.load(Ordering::Relaxed))
    }

    #[inline]
    fn binary(self) -> usize {
        (self.0 & 0xff) as usize
    }

    /// The size of a binary is in bytes or in bits.
    #[inline]
    fn shift(self) -> u32 {
        self.0 >> 8 & 0xff
    }

    #[inline]
    fn float(self) -> usize {
        (self.0 >> 16) as usize
    }

    fn examine(env: Env<'_>) -> Option<Self> {
        let size = 9;
        let [binary, float] = [words::binary(env, size), 1.5f64.encode(env)];
        if Layout::get().words(binary)? != 4 || Layout::get().words(float)? != 2 {
            return None;
        }
        let [binary, float] = [binary, float].map(|term| words::thing(term.as_c_arg()));
        let shift = [0, 3]
            .into_iter()
            .find(|shift| binary[1] == size << shift)?;
        Some(Self(
            (binary[0] & KIND) as u32 | shift << 8 | ((float[0] & KIND) as u32) << 16,
        ))
    }
}

/// Looks at how this VM lays terms out; to be called after [`Layout::learn`].
pub fn learn(env: Env<'_>) {
    let Some(kinds) = Kinds::examine(env) else {
        return;
    };
    KINDS.store(kinds.0, Ordering::Relaxed);
    if !words::samples(env).all(|term| is_packed_well(env, term)) {
        KINDS.store(0, Ordering::Relaxed);
    }
}

/// Whether a term that is packed and unpacked is the same, if it is packed at all.
fn is_packed_well(env: Env<'_>, term: Term<'_>) -> bool {
    let mut space = [0; SPACE];
    let Some((len, words)) = pack(term, &mut space) else {
        // Those that are so large.
        return Layout::get().words(term).is_none_or(|words| words > 40);
    };
    let again = unpack(env, &space[..len], words);
    // SAFETY: this only reads both terms.
    let is_same = unsafe { enif_is_identical(again.as_c_arg(), term.as_c_arg()) } != 0;
    is_same && Layout::get().words(term) == Some(words)
}

/// The room that packing a term takes, however short it is then.
pub const SPACE: usize = PACKED + 8;

/// Packs a term into `space`, which is [`SPACE`] bytes. Answers how many of them, and how many words the term takes
/// besides its own when it is unpacked; or `None`, if it is not to be packed.
#[inline]
pub fn pack(term: Term<'_>, space: &mut [u8]) -> Option<(usize, usize)> {
    let kinds = Kinds::get();
    let space = space.first_chunk_mut().filter(|_| kinds.0 != 0)?;
    let mut packer = Packer {
        env: term.get_env(),
        layout: Layout::get(),
        kinds,
        space,
        len: 0,
        words: 0,
    };
    packer.part(term.as_c_arg(), DEPTH)?;
    let fits = packer.len <= PACKED && packer.words <= WORDS;
    fits.then_some((packer.len, packer.words))
}

struct Packer<'a, 'b> {
    env: Env<'a>,
    layout: Layout,
    kinds: Kinds,
    space: &'b mut [u8; SPACE],
    len: usize,
    words: usize,
}

impl Packer<'_, '_> {
    #[inline]
    fn part(&mut self, term: NIF_TERM, depth: usize) -> Option<()> {
        if is_immediate_word(term) {
            self.word(term)
        } else {
            self.other(term, depth)
        }
    }

    fn other(&mut self, term: NIF_TERM, depth: usize) -> Option<()> {
        if self.words > WORDS {
            None
        } else if term & TAG == BOXED {
            self.boxed(term, depth)
        } else {
            self.list(term, depth)
        }
    }

    #[inline]
    fn byte(&mut self, byte: u8) -> Option<()> {
        *self.space.get_mut(self.len)? = byte;
        self.len += 1;
        Some(())
    }

    #[inline]
    fn head(&mut self, kind: u8, number: usize) -> Option<()> {
        self.byte(kind << 4 | number as u8)
    }

    /// What is all in its word.
    #[inline]
    fn word(&mut self, word: usize) -> Option<()> {
        let (kind, word) = match (word as isize) < 0 {
            true => (INVERTED, !word),
            false => (WORD, word),
        };
        let len = (usize::BITS - word.leading_zeros()).div_ceil(8) as usize;
        self.head(kind, len)?;
        self.some_of(word as u64, len)
    }

    /// The lower bytes of a word.
    #[inline]
    fn some_of(&mut self, word: u64, len: usize) -> Option<()> {
        let to = self.space.get_mut(self.len..self.len + 8)?;
        to.copy_from_slice(&word.to_le_bytes());
        self.len += len;
        Some(())
    }

    fn boxed(&mut self, term: NIF_TERM, depth: usize) -> Option<()> {
        let Some(thing) = self.layout.known(term) else {
            return match self.layout.map(term) {
                Some(map) => self.map(map, depth),
                None => self.other_binary(term),
            };
        };
        let kind = thing[0] & KIND;
        if kind == words::TUPLE {
            return self.tuple(&thing[1..], depth);
        }
        self.words += thing.len();
        if kind == self.kinds.binary() {
            let shift = self.kinds.shift();
            let len = thing[1] >> shift;
            if len << shift != thing[1] || len > HEAP_BINARY {
                return None;
            }
            self.byte(BINARY | len as u8)?;
            let mut left = len;
            for &word in &thing[2..] {
                self.some_of(word as u64, left.min(8))?;
                left = left.saturating_sub(8);
            }
            return Some(());
        }
        if thing.len() > MOST || (kind == self.kinds.float() && thing[1] << 1 == 0) {
            return None;
        }
        self.head(THING, thing.len() - 1)?;
        self.byte(kind as u8)?;
        let mut words = thing[1..].iter();
        words.try_for_each(|&word| self.some_of(word as u64, 8))
    }

    fn tuple(&mut self, elements: &[NIF_TERM], depth: usize) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        let arity = elements.len();
        self.words += 1 + arity;
        if arity <= MOST {
            self.head(TUPLE, arity)?;
        } else {
            self.head(TUPLE, 0)?;
            self.byte(u8::try_from(arity).ok()?)?;
        }
        elements
            .iter()
            .try_for_each(|&element| self.part(element, depth))
    }

    fn list(&mut self, list: NIF_TERM, depth: usize) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        self.head(CONS, 0)?;
        let count_at = self.len;
        self.byte(0)?;
        let (mut rest, mut count) = (list, 0u8);
        while rest & TAG == LIST {
            let [head, tail] = cell(rest);
            self.words += 2;
            count = count.checked_add(1)?;
            self.part(head, depth)?;
            rest = tail;
        }
        self.space[count_at] = count;
        self.part(rest, depth)
    }

    /// The words of a small map.
    #[inline(never)]
    fn map(&mut self, map: &[usize], depth: usize) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        let keys = self.layout.known(map[BEFORE_VALUES - 1])?;
        self.words += map.len() + keys.len();
        self.head(MAP, 0)?;
        self.byte((keys.len() - 1) as u8)?;
        let terms = keys[1..].iter().chain(&map[BEFORE_VALUES..]);
        let mut terms = terms.copied();
        terms.try_for_each(|term| self.part(term, depth))
    }

    /// A binary that is a part of another one, or shared, though it is short.
    #[inline(never)]
    fn other_binary(&mut self, term: NIF_TERM) -> Option<()> {
        let mut binary = std::mem::MaybeUninit::<ErlNifBinary>::uninit();
        // SAFETY: `term` belongs to `env`, as what it is in does, and `binary` is a live local.
        let found = unsafe { enif_inspect_binary(self.env.as_c_arg(), term, binary.as_mut_ptr()) };
        if found == 0 {
            return None;
        }
        // SAFETY: filled in, since the call succeeded.
        let binary = unsafe { binary.assume_init() };
        if binary.size > HEAP_BINARY {
            return None;
        }
        self.words += 2 + binary.size.div_ceil(8);
        self.byte(BINARY | binary.size as u8)?;
        if binary.size > 0 {
            // SAFETY: on success `data` points to `size` bytes that live, and do not change, until the call of the
            // NIF ends.
            let bytes = unsafe { std::slice::from_raw_parts(binary.data, binary.size) };
            let end = self.len + bytes.len();
            self.space.get_mut(self.len..end)?.copy_from_slice(bytes);
            self.len = end;
        }
        Some(())
    }
}

/// Memory on the caller's heap, for terms that are unpacked.
pub struct Unpacked<'a> {
    env: Env<'a>,
    words: &'a mut [usize],
    next: usize,
}

impl<'a> Unpacked<'a> {
    /// The most words at a time.
    pub const MOST: usize = 4096;

    /// For so many words, up to [`Unpacked::MOST`].
    pub fn new(env: Env<'a>, words: usize) -> Self {
        static ZEROS: [usize; Unpacked::MOST] = [0; Unpacked::MOST];
        let len = words.min(Self::MOST);
        // SAFETY: there are `len` zeros. They are copied as they are; that they are no terms does no harm, since
        // nobody looks at the tuple before it is an empty one below.
        let tuple =
            unsafe { enif_make_tuple_from_array(env.as_c_arg(), ZEROS.as_ptr(), len as u32) };
        let at = (tuple & !LOW) as *mut usize;
        if len == 0 {
            return Self {
                env,
                words: &mut [],
                next: 0,
            };
        }
        // SAFETY: the tuple was just made, on the heap of the calling process: its first word, and `len` more. Nobody
        // else has seen it, and the VM moves nothing before the call returns.
        let made = unsafe { std::slice::from_raw_parts_mut(at, 1 + len) };
        // What is behind this empty tuple are the terms.
        made[0] = words::TUPLE;
        Self {
            env,
            words: &mut made[1..],
            next: 0,
        }
    }

    /// A term from its bytes, behind which there may be others.
    #[inline]
    pub fn unpack(&mut self, bytes: &[u8]) -> Term<'a> {
        let term = Unpacker {
            bytes,
            at: 0,
            to: self,
        }
        .part();
        // SAFETY: all words that it refers to have been written, in memory of `env`.
        unsafe { Term::new(self.env, term) }
    }

    /// A tuple of terms of the same environment.
    #[inline]
    pub fn tuple<const N: usize>(&mut self, elements: [Term<'a>; N]) -> Term<'a> {
        let at = self.take(1 + N);
        self.words[at] = N << KIND_BITS | words::TUPLE;
        for (index, element) in elements.into_iter().enumerate() {
            self.words[at + 1 + index] = element.as_c_arg();
        }
        // SAFETY: its words have just been written, and its elements are of `env`.
        unsafe { Term::new(self.env, self.address(at) | BOXED) }
    }

    #[inline]
    fn take(&mut self, words: usize) -> usize {
        let at = self.next;
        self.next += words;
        at
    }

    #[inline]
    fn address(&self, index: usize) -> usize {
        self.words.as_ptr() as usize + index * size_of::<usize>()
    }
}

/// The term of bytes that take so many words.
#[inline]
pub fn unpack<'a>(env: Env<'a>, bytes: &[u8], words: usize) -> Term<'a> {
    Unpacked::new(env, words).unpack(bytes)
}

struct Unpacker<'b, 'a> {
    bytes: &'b [u8],
    at: usize,
    to: &'b mut Unpacked<'a>,
}

impl Unpacker<'_, '_> {
    #[inline]
    fn byte(&mut self) -> usize {
        let byte = self.bytes[self.at];
        self.at += 1;
        byte.into()
    }

    /// The next `len` bytes, 8 at the most, as the lower ones of a word.
    #[inline]
    fn word(&mut self, len: usize) -> usize {
        let at = self.at;
        self.at += len;
        let word = match self.bytes.get(at..at + 8) {
            Some(&[a, b, c, d, e, f, g, h]) => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            _ => self.last_word(at),
        };
        match len {
            0 => 0,
            len => (word & u64::MAX >> (64 - 8 * len)) as usize,
        }
    }

    /// What there is from here on, which is less than a word.
    #[inline]
    fn last_word(&self, at: usize) -> u64 {
        match self.bytes.last_chunk() {
            Some(&last) => {
                let before = at + 8 - self.bytes.len();
                u64::from_le_bytes(last) >> (8 * before.min(7))
            }
            None => {
                let bytes = self.bytes[at..].iter().rev();
                bytes.fold(0, |word, &byte| word << 8 | u64::from(byte))
            }
        }
    }

    #[inline]
    fn part(&mut self) -> usize {
        let head = self.byte();
        if head <= MOST {
            self.word(head)
        } else {
            self.other(head)
        }
    }

    fn other(&mut self, head: usize) -> usize {
        let number = head & MOST;
        match (head >> 4) as u8 {
            TUPLE => self.tuple(number),
            8.. => self.binary(head & 0x7f),
            INVERTED => !self.word(number),
            THING => {
                let kind = self.byte();
                let at = self.to.take(1 + number);
                self.to.words[at] = number << KIND_BITS | kind;
                for index in 1..=number {
                    self.to.words[at + index] = self.word(8);
                }
                self.to.address(at) | BOXED
            }
            CONS => self.list(),
            _ => self.map(),
        }
    }

    #[inline]
    fn tuple(&mut self, arity: usize) -> usize {
        let arity = if arity == 0 { self.byte() } else { arity };
        let at = self.to.take(1 + arity);
        self.to.words[at] = arity << KIND_BITS | words::TUPLE;
        for index in 1..=arity {
            self.to.words[at + index] = self.part();
        }
        self.to.address(at) | BOXED
    }

    #[inline]
    fn binary(&mut self, len: usize) -> usize {
        let kinds = Kinds::get();
        let words = 2 + len.div_ceil(8);
        let at = self.to.take(words);
        self.to.words[at] = (words - 1) << KIND_BITS | kinds.binary();
        self.to.words[at + 1] = len << kinds.shift();
        for index in 0..words - 2 {
            let some = (len - 8 * index).min(8);
            self.to.words[at + 2 + index] = self.word(some);
        }
        self.to.address(at) | BOXED
    }

    fn list(&mut self) -> usize {
        let count = self.byte();
        let at = self.to.take(2 * count);
        for index in 0..count {
            let cell = at + 2 * index;
            self.to.words[cell] = self.part();
            self.to.words[cell + 1] = self.to.address(cell + 2) | LIST;
        }
        self.to.words[at + 2 * count - 1] = self.part();
        self.to.address(at) | LIST
    }

    #[inline(never)]
    fn map(&mut self) -> usize {
        let size = self.byte();
        let at = self.to.take(BEFORE_VALUES + size);
        let keys = self.to.take(1 + size);
        self.to.words[at] = words::small_map();
        self.to.words[at + 1] = size;
        self.to.words[at + 2] = self.to.address(keys) | BOXED;
        self.to.words[keys] = size << KIND_BITS | words::TUPLE;
        for index in (keys + 1..=keys + size).chain(at + BEFORE_VALUES..at + BEFORE_VALUES + size) {
            self.to.words[index] = self.part();
        }
        self.to.address(at) | BOXED
    }
}

/// Whether two terms are the same, as `=:=` has it.
#[inline]
pub fn is_identical(one: Term<'_>, other: Term<'_>) -> bool {
    // SAFETY: both terms are valid while their environments live, and this only reads.
    unsafe { enif_is_identical(one.as_c_arg(), other.as_c_arg()) != 0 }
}
