//! How large a term is, found out in bounded time.
//!
//! The weight of a term is what its copy takes in an arena: its words on the heap, and the bytes of
//! binaries that are kept off the heap. It serves the byte counters, and it tells before a copy
//! starts whether the copy is short enough for a normal scheduler.
//!
//! The walk keeps its own stack: a deeply nested term must not overflow the thread's.

use rustler::{Term, TermType};
use smallvec::SmallVec;

use crate::arena::{binary_len, tuple_elements};

const WORD: u64 = 8;
/// Binaries up to this size are copied into the heap, larger ones are shared.
const HEAP_BINARY: usize = 64;

/// What a call on a normal scheduler may do at the most; about 100 µs of work.
pub struct Limits;

impl Limits {
    /// Steps of a walk. A step is a term inside the term.
    pub const STEPS: usize = 8_000;
    /// Words to copy.
    pub const BYTES: u64 = 128 * 1024;
    /// Entries of one list.
    pub const ENTRIES: usize = 1_024;
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
    /// For a normal scheduler: gives up at [`Limits`].
    pub fn bounded() -> Self {
        Self {
            steps: Limits::STEPS,
            bytes: Limits::BYTES,
            exact: false,
        }
    }

    /// For a dirty scheduler: walks to the end.
    pub fn unbounded() -> Self {
        Self {
            steps: usize::MAX,
            bytes: u64::MAX,
            exact: true,
        }
    }

    /// The weight of a term in bytes; at most `u32::MAX`, which stands for "4 GB or more".
    #[inline]
    pub fn weigh(&mut self, term: Term<'_>) -> Result<u32, Heavy> {
        match flat(term) {
            Some((steps, bytes)) => {
                self.steps = self.steps.checked_sub(steps).ok_or(Heavy)?;
                self.bytes = self.bytes.checked_sub(bytes).ok_or(Heavy)?;
                Ok(bytes as u32)
            }
            None => self.walk(term),
        }
    }

    fn walk(&mut self, term: Term<'_>) -> Result<u32, Heavy> {
        let mut stack: SmallVec<[Term<'_>; 8]> = SmallVec::new();
        let (mut words, mut off_heap) = (0u64, 0u64);
        let mut next = Some(term);
        while let Some(term) = next {
            self.steps = self.steps.checked_sub(1).ok_or(Heavy)?;
            next = None;
            match term.get_type() {
                _ if is_immediate(term) => {}
                TermType::Tuple => {
                    let elements = tuple_elements(term).ok_or(Heavy)?;
                    words += 1 + elements.len() as u64;
                    if elements.len() > self.steps {
                        return Err(Heavy);
                    }
                    for element in elements {
                        if !is_immediate(element) {
                            stack.push(element);
                        }
                    }
                }
                TermType::Binary => match binary_len(term) {
                    Some(len) if len <= HEAP_BINARY => words += 2 + len.div_ceil(8) as u64,
                    Some(len) => {
                        words += 8;
                        off_heap += len as u64;
                    }
                    None => {
                        words += 8;
                        off_heap += self.external_size(term)?;
                    }
                },
                TermType::List => {
                    if let Ok((head, tail)) = term.list_get_cell() {
                        words += 2;
                        if !is_immediate(head) {
                            stack.push(head);
                        }
                        next = Some(tail);
                    }
                }
                TermType::Map => {
                    if let Some(entries) = rustler::types::MapIterator::new(term) {
                        words += 5;
                        for (key, value) in entries {
                            words += 2;
                            self.steps = self.steps.checked_sub(1).ok_or(Heavy)?;
                            stack.extend([key, value].into_iter().filter(|t| !is_immediate(*t)));
                        }
                    }
                }
                TermType::Float => words += 2,
                TermType::Integer => {
                    words += 2;
                    if term.decode::<i64>().is_err() && term.decode::<u64>().is_err() {
                        off_heap += self.external_size(term)?;
                    }
                }
                // A closure's environment can't be looked into.
                TermType::Fun => {
                    words += 8;
                    off_heap += self.external_size(term)?;
                }
                // References and what comes from other nodes.
                _ => words += 6,
            }
            if words * WORD > self.bytes {
                return Err(Heavy);
            }
            if next.is_none() {
                next = stack.pop();
            }
        }
        self.bytes -= words * WORD;
        Ok(u32::try_from(words * WORD + off_heap).unwrap_or(u32::MAX))
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

/// Steps and bytes of the terms that are pushed most: what is all in its word, a small binary, or a
/// tuple of those. It asks the VM once for each that is not.
#[inline]
fn flat(term: Term<'_>) -> Option<(usize, u64)> {
    if is_immediate(term) {
        return Some((1, 0));
    }
    let Some(elements) = tuple_elements(term) else {
        return Some((1, heap_binary(term)? * WORD));
    };
    let arity = elements.len();
    if arity > 16 {
        return None;
    }
    let mut words = 1 + arity as u64;
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
    (len <= HEAP_BINARY).then(|| 2 + len.div_ceil(8) as u64)
}

/// Whether a term is all in its word: atoms, small integers, local pids and ports, the empty list.
///
/// The two low bits of such a word are set; that is so in every release that the library supports,
/// and [`immediates_are_as_expected`] checks it when the library is loaded.
#[inline]
fn is_immediate(term: Term<'_>) -> bool {
    term.as_c_arg() & 0b11 == 0b11
}

/// Whether the assumption of [`is_immediate`] holds in the VM that loads the library.
pub fn immediates_are_as_expected(env: rustler::Env<'_>) -> bool {
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
