//! What is in a map, as terms: one, or entries as processors get them.

use buffer_core::map::{Cell, Entry, Given};
use buffer_core::{Generation as _, Map};
use rustler::{Encoder, Env, Term};
use smallvec::SmallVec;

use super::key::Copied;
use crate::arena::packed::{unpack, Unpacked, WORDS};
use crate::arena::{immediate, immediate_word, Arena, Copies};
use crate::atoms;
use crate::cycle::Readable;
use crate::weigh::words_of;

/// The version of what has none.
pub fn zero() -> Given<Arena, Copied<'static, 'static>> {
    Given::Word(SMALL_ZERO)
}

/// The word of the integer 0; what it is in this VM is asked when the library is loaded.
const SMALL_ZERO: u64 = 0b1111;

/// Whether [`SMALL_ZERO`] is the VM's 0.
pub fn zero_is_as_expected(env: Env<'_>) -> bool {
    immediate_word(0i64.encode(env)) == Some(SMALL_ZERO)
}

/// The term of a cell, in the caller's environment.
pub fn term<'a>(env: Env<'a>, map: &Map<Arena>, cell: Cell) -> Term<'a> {
    if let Some(word) = cell.word() {
        return immediate(env, word).unwrap_or_else(|| atoms::nil().encode(env));
    }
    if let Some(bytes) = map.packed(cell) {
        return unpack(env, bytes, words_of(map.weight(cell)));
    }
    match map.stored(cell) {
        Some((arena, index)) => arena.load(index, env),
        None => atoms::nil().encode(env),
    }
}

/// The most words of a row: a tuple, and three terms.
const MOST_A_ROW: usize = 5 + 3 * WORDS;
/// Entries that are copied out together, at the most.
const A_STRETCH: usize = 64;

/// Copies the next entries out, as processors get them: `{Key, Value, Version, Updates}`. Answers whether there were
/// any.
fn copy_stretch<'a>(
    map: &Map<Arena>,
    entries: &mut impl Iterator<Item = (usize, Entry)>,
    copies: &mut Copies<'a>,
    next: &mut usize,
) -> bool {
    let env = copies.env();
    let mut words = 0;
    let mut stretch = SmallVec::<[Entry; A_STRETCH]>::new();
    // The weights of all are asked for before any is copied: that is when memory is waited for, for many at a time.
    while stretch.len() < A_STRETCH && words + MOST_A_ROW <= Unpacked::MOST {
        let Some((after, entry)) = entries.next() else {
            break;
        };
        let cells = [entry.key, entry.value, entry.version];
        words += 5 + cells
            .map(|cell| words_of(map.packed_weight(cell)))
            .into_iter()
            .sum::<usize>();
        stretch.push(entry);
        *next = after;
    }
    let mut room = Unpacked::new(env, words);
    for entry in &stretch {
        let cells = [entry.key, entry.value, entry.version];
        let [key, value, version] = cells.map(|cell| match map.packed(cell) {
            Some(bytes) => room.unpack(bytes),
            None => term(env, map, cell),
        });
        let updates = match entry.updates {
            0 => immediate(env, SMALL_ZERO),
            _ => None,
        };
        let updates = updates.unwrap_or_else(|| entry.updates.encode(env));
        copies.push(room.tuple([key, value, version, updates]));
    }
    !stretch.is_empty()
}

impl Readable for Map<Arena> {
    fn read<'a>(&self, env: Env<'a>, cursor: usize, count: usize) -> (Term<'a>, usize) {
        let mut copies = Copies::with_capacity(env, count.min(self.len()));
        let mut next = cursor;
        let mut entries = self.entries(cursor).take(count);
        while copy_stretch(self, &mut entries, &mut copies, &mut next) {}
        (copies.into_list(), next)
    }
}
