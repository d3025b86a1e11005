//! How large a term is, found out in bounded time.
//!
//! The weight of a term is what its copy takes in an arena: the word that refers to it, its words on
//! the heap, and the bytes of the binaries that it refers to. It serves the byte counters, and it
//! tells before a copy or a hash is begun whether it is short enough for a normal scheduler.
//!
//! The walk keeps its own stack: a deeply nested term must not overflow the thread's.

use rustler::schedule::consume_timeslice;
use rustler::{Env, Term, TermType};
use smallvec::SmallVec;

use crate::arena::{binary_len, immediate_word, tuple_elements, Layout};

const WORD: u64 = 8;
/// Binaries up to this size are copied into the heap, larger ones are shared.
const HEAP_BINARY: usize = 64;

/// What a call on a normal scheduler may do at the most; about 100 µs of work.
pub struct Limits;

impl Limits {
    /// Steps of a walk. A step is a term inside the term.
    pub const STEPS: usize = 8_000;
    /// Bytes to copy and to hash.
    pub const BYTES: u64 = 128 * 1024;
    /// Entries of one list.
    pub const ENTRIES: usize = 1_024;
}

/// Tells the scheduler of work that is more than a moment's, so that a process that does nothing but
/// such calls is taken off in time. A call counts as one reduction, whatever it did.
#[inline]
pub fn account(env: Env<'_>, entries: usize, bytes: u64) {
    // About 100 ns an entry and 1 ns a byte; a time slice is a millisecond, and told in percent.
    let percent = entries / 100 + (bytes / 10_000) as usize;
    if percent > 0 {
        consume_timeslice(env, percent.min(100) as i32);
    }
}

/// The walk was given up: the term is too large to be handled here.
#[derive(Debug)]
pub struct Heavy;

/// Bounds one or more walks: the terms of one call share it.
pub struct Scale {
    steps: usize,
    bytes: u64,
    exact: bool,
}

impl Scale {
    /// How many bytes have been weighed, for one that is bounded.
    pub fn weighed(&self) -> u64 {
        Limits::BYTES.saturating_sub(self.bytes)
    }

    /// Whether it is for a normal scheduler.
    pub fn is_bounded(&self) -> bool {
        !self.exact
    }

    /// For a normal scheduler: gives up at [`Limits`].
    pub fn bounded() -> Self {
        Self {
            steps: Limits::STEPS,
            bytes: Limits::BYTES,
            exact: false,
        }
    }

    /// For a dirty scheduler: gives up at terms of 4 GB. A term that refers to itself many times
    /// over is small where it was made and may be larger than any memory when it is copied.
    pub fn generous() -> Self {
        Self {
            steps: usize::MAX,
            bytes: u64::MAX,
            exact: true,
        }
    }

    /// The weight of a term in bytes.
    #[inline]
    pub fn weigh(&mut self, term: Term<'_>) -> Result<u32, Heavy> {
        match light(term) {
            Some((steps, bytes)) => {
                self.steps = self.steps.checked_sub(steps).ok_or(Heavy)?;
                self.bytes = self.bytes.checked_sub(bytes).ok_or(Heavy)?;
                Ok(bytes as u32)
            }
            None => self.walk(term),
        }
    }

    /// The weight of a term that takes so many words besides its own.
    #[inline]
    pub fn weigh_words(&mut self, words: usize) -> Result<u32, Heavy> {
        let bytes = (1 + words as u64) * WORD;
        self.steps = self.steps.checked_sub(1 + words / 2).ok_or(Heavy)?;
        self.bytes = self.bytes.checked_sub(bytes).ok_or(Heavy)?;
        Ok(bytes as u32)
    }

    fn walk(&mut self, term: Term<'_>) -> Result<u32, Heavy> {
        let mut stack: SmallVec<[Term<'_>; 8]> = SmallVec::new();
        let limit = self.bytes.min(u64::from(u32::MAX));
        let mut bytes = WORD;
        let mut next = Some(term);
        while let Some(term) = next {
            self.steps = self.steps.checked_sub(1).ok_or(Heavy)?;
            let (own, tail) = self.look_at(term, &mut stack)?;
            bytes += own;
            if bytes > limit || stack.len() > self.steps {
                return Err(Heavy);
            }
            next = tail.or_else(|| stack.pop());
        }
        self.bytes -= bytes;
        Ok(bytes as u32)
    }

    /// The bytes that a term takes without the terms inside it. Those go to the stack, but for the
    /// tail of a list, which is answered: a list then takes no stack.
    fn look_at<'a>(
        &mut self,
        term: Term<'a>,
        stack: &mut SmallVec<[Term<'a>; 8]>,
    ) -> Result<(u64, Option<Term<'a>>), Heavy> {
        if is_immediate(term) {
            return Ok((0, None));
        }
        let boxed = |term: &Term<'a>| !is_immediate(*term);
        let bytes = match term.get_type() {
            TermType::List => {
                let Ok((head, tail)) = term.list_get_cell() else {
                    return Ok((0, None));
                };
                stack.extend(Some(head).filter(boxed));
                return Ok((2 * WORD, Some(tail)));
            }
            TermType::Tuple => {
                let elements = tuple_elements(term).ok_or(Heavy)?;
                let words = 1 + elements.len();
                self.steps = self.steps.checked_sub(words / 8).ok_or(Heavy)?;
                stack.extend(elements.filter(boxed));
                WORD * words as u64
            }
            TermType::Map => {
                let entries = rustler::types::MapIterator::new(term).ok_or(Heavy)?;
                let mut words = 5;
                for (key, value) in entries {
                    self.steps = self.steps.checked_sub(1).ok_or(Heavy)?;
                    words += 2;
                    stack.extend([key, value].into_iter().filter(boxed));
                }
                WORD * words
            }
            TermType::Binary => match binary_len(term) {
                Some(len) if len <= HEAP_BINARY => heap_binary_words(len) * WORD,
                Some(len) => 8 * WORD + len as u64,
                None => 8 * WORD + self.external_size(term)?,
            },
            TermType::Float => 2 * WORD,
            TermType::Integer if term.decode::<i64>().is_ok() => 2 * WORD,
            // A closure's environment can't be looked into, nor can a larger integer.
            TermType::Integer | TermType::Fun => 8 * WORD + self.external_size(term)?,
            // References, if the VM's are not known, and what comes from other nodes.
            _ => Layout::REFERENCE_WORDS as u64 * WORD,
        };
        Ok((bytes, None))
    }

    /// A stand-in for the size of what can't be walked: that of its external form. The VM makes
    /// that form in one go, so it is left to a dirty scheduler.
    fn external_size(&self, term: Term<'_>) -> Result<u64, Heavy> {
        if !self.exact {
            return Err(Heavy);
        }
        Ok(term.to_binary().len() as u64)
    }
}

/// Steps and bytes of what is small.
#[inline]
fn light(term: Term<'_>) -> Option<(usize, u64)> {
    match Layout::get().words_with_references(term) {
        Some(words) => Some((1 + words / 2, (1 + words as u64) * WORD)),
        None => flat(term),
    }
}

/// The same for terms that the VM copies: what is all in its word, a small binary, or a tuple of those. It
/// asks the VM once for each that is not.
#[cold]
fn flat(term: Term<'_>) -> Option<(usize, u64)> {
    if is_immediate(term) {
        return Some((1, WORD));
    }
    let Some(elements) = tuple_elements(term) else {
        return Some((1, (1 + heap_binary(term)?) * WORD));
    };
    let arity = elements.len();
    if arity > 16 {
        return None;
    }
    let mut words = 2 + arity as u64;
    for element in elements {
        if !is_immediate(element) {
            words += heap_binary(element)?;
        }
    }
    Some((1 + arity, words * WORD))
}

/// The words of a binary that is copied as it is.
#[inline]
fn heap_binary(term: Term<'_>) -> Option<u64> {
    let len = binary_len(term)?;
    (len <= HEAP_BINARY).then(|| heap_binary_words(len))
}

#[inline]
fn heap_binary_words(len: usize) -> u64 {
    2 + len.div_ceil(8) as u64
}

/// How many words such a weight is of: see [`Scale::weigh_words`].
#[inline]
pub fn words_of(weight: u32) -> usize {
    (u64::from(weight) / WORD).saturating_sub(1) as usize
}

/// The other way round.
#[inline]
pub fn weight_of_words(words: usize) -> u32 {
    ((1 + words as u64) * WORD) as u32
}

/// Whether a term is all in its word.
#[inline]
pub fn is_immediate(term: Term<'_>) -> bool {
    immediate_word(term).is_some()
}

/// Whether the assumption of [`is_immediate`] holds in the VM that loads the library.
pub fn immediates_are_as_expected(env: Env<'_>) -> bool {
    use rustler::Encoder;
    let immediate = [
        0i64.encode(env),
        (-1i64).encode(env),
        true.encode(env),
        Vec::<i64>::new().encode(env),
    ];
    let other = [
        (1i64, 2i64).encode(env),
        vec![1i64].encode(env),
        1.5f64.encode(env),
        i64::MAX.encode(env),
        "text".encode(env),
    ];
    immediate.into_iter().all(is_immediate) && !other.into_iter().any(is_immediate)
}
