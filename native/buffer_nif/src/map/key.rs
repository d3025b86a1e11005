//! A term on its way into a map: weighed, and packed if it can be; and a key, with its hash.

use buffer_core::map::{Given, Source, LARGE};
use buffer_core::{Arena as _, Map, Partition};
use rustler::{Env, LocalPid, Term};

use super::Index;
use crate::arena::packed::{pack, SPACE};
use crate::arena::{immediate_word, Arena, Bare};
use crate::resource::MapBuffer;
use crate::weigh::{Heavy, Scale};
use crate::write::{own_route, Refused};

/// A term on its way: weighed, and packed if it can be. Made where it stays, and then referred to: to move it takes
/// longer than all of what a write does with it.
#[derive(Clone, Copy)]
pub struct Taken<'a, 'b> {
    pub term: Bare<'a>,
    pub env: &'b Env<'a>,
    pub weight: u32,
    pub packed: Option<&'b [u8]>,
}

impl<'a, 'b> Taken<'a, 'b> {
    #[inline(always)]
    pub fn new(
        term: Term<'a>,
        env: &'b Env<'a>,
        scale: &mut Scale,
        space: &'b mut Space,
    ) -> Result<Self, Heavy> {
        let (weight, packed) = take(term, scale, || space.bytes())?;
        Ok(Self {
            term: Bare::of(term),
            env,
            weight,
            packed,
        })
    }

    /// The same for a term that is packed, or all in its word; `None` for others.
    #[inline(always)]
    pub fn short(
        term: Term<'a>,
        env: &'b Env<'a>,
        scale: &mut Scale,
        space: &'b mut Space,
    ) -> Result<Option<Self>, Heavy> {
        if immediate_word(term).is_some() {
            return Self::new(term, env, scale, space).map(Some);
        }
        let space = space.bytes();
        let Some((len, words)) = pack(term, space) else {
            return Ok(None);
        };
        let weight = scale.weigh_words(words)?;
        let packed = Some(&space[..len]);
        Ok(Some(Self {
            term: Bare::of(term),
            env,
            weight,
            packed,
        }))
    }

    #[inline]
    pub fn term(&self) -> Term<'a> {
        self.term.term(*self.env)
    }

    /// What it takes where it is held: nothing, if all of it is in its word.
    #[inline]
    pub fn held(&self) -> u64 {
        held(self.term(), self.weight)
    }

    /// The term as the map takes it. What is large is copied here, before any lock is taken.
    #[inline(always)]
    pub fn given(&self) -> Given<Arena, Copied<'a, '_>> {
        match immediate_word(self.term()) {
            Some(word) => Given::Word(word),
            None if self.weight > LARGE => self.staged(),
            None => Given::Copy(self.weight, Copied(self)),
        }
    }

    #[cold]
    fn staged(&self) -> Given<Arena, Copied<'a, '_>> {
        let mut arena = Arena::new();
        arena.store(self.term());
        Given::Staged(self.weight, Box::new(arena))
    }
}

/// Room to pack a term in, which is made when it is needed: that takes longer than to see that it is not.
#[derive(Default)]
pub struct Space(Option<[u8; SPACE]>);

impl Space {
    #[inline]
    pub fn bytes(&mut self) -> &mut [u8] {
        self.0.get_or_insert([0; SPACE])
    }
}

/// The weight of a term, and its bytes if it can be packed.
#[inline(always)]
pub fn take<'b>(
    term: Term<'_>,
    scale: &mut Scale,
    space: impl FnOnce() -> &'b mut [u8],
) -> Result<(u32, Option<&'b [u8]>), Heavy> {
    if immediate_word(term).is_some() {
        return Ok((scale.weigh_words(0)?, None));
    }
    let space = space();
    match pack(term, space) {
        Some((len, words)) => Ok((scale.weigh_words(words)?, Some(&space[..len]))),
        None => Ok((scale.weigh(term)?, None)),
    }
}

/// A key on its way, and its hash.
#[derive(Clone, Copy)]
pub struct Key<'a, 'b> {
    pub taken: Taken<'a, 'b>,
    pub hash: u32,
}

impl<'a, 'b> Key<'a, 'b> {
    #[inline(always)]
    pub fn new(
        term: Term<'a>,
        env: &'b Env<'a>,
        scale: &mut Scale,
        space: &'b mut Space,
    ) -> Result<Self, Heavy> {
        let taken = Taken::new(term, env, scale, space)?;
        let hash = hash(term, taken.packed);
        Ok(Self { taken, hash })
    }

    /// The slot of this key.
    #[inline]
    pub fn find(&self, map: &Map<Arena>) -> Option<usize> {
        if let Some(word) = immediate_word(self.taken.term()) {
            return map.find(self.hash, |_, cell| cell.word() == Some(word));
        }
        if let Some(bytes) = self.taken.packed {
            return map.find(self.hash, |map, cell| map.is_packed_as(cell, bytes));
        }
        map.find(self.hash, |map, cell| {
            let stored = map.stored(cell);
            stored.is_some_and(|(arena, index)| arena.is(index, self.taken.term()))
        })
    }

    pub fn partition<'c>(
        &self,
        buffer: &'c MapBuffer,
        index: Index,
    ) -> Result<&'c Partition<Map<Arena>, LocalPid>, Refused> {
        let partitions = buffer.partitions();
        let index = match index {
            Some(index) => index,
            None => own_route(self.taken.term(), partitions.len())?,
        };
        partitions.get(index).ok_or(Refused::NoPartitions)
    }
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Equal keys have equal hashes. What is all in its word, or packed, is hashed without a call.
#[inline]
pub fn hash(key: Term<'_>, packed: Option<&[u8]>) -> u32 {
    match (immediate_word(key), packed) {
        (Some(word), _) => (word.wrapping_mul(GOLDEN) >> 32) as u32,
        (None, Some(bytes)) => hash_bytes(bytes),
        (None, None) => key.hash_internal(0),
    }
}

#[inline]
fn hash_bytes(bytes: &[u8]) -> u32 {
    let mix = |hash: u64, word: u64| {
        let product = u128::from(hash ^ word) * u128::from(GOLDEN);
        product as u64 ^ (product >> 64) as u64
    };
    let (words, rest) = bytes.as_chunks::<8>();
    let words = words.iter().map(|word| u64::from_le_bytes(*word));
    let hash = words.fold(bytes.len() as u64, mix);
    // The last word once more, in part, rather than one byte after the other.
    let last = match bytes.last_chunk::<8>() {
        Some(word) => u64::from_le_bytes(*word),
        None => rest
            .iter()
            .fold(0, |word, &byte| word << 8 | u64::from(byte)),
    };
    let hash = mix(mix(hash, last), GOLDEN);
    (hash ^ hash >> 32) as u32
}

/// What a term of this weight takes where it is held: nothing, if all of it is in its word.
#[inline]
fn held(term: Term<'_>, weight: u32) -> u64 {
    match immediate_word(term) {
        Some(_) => 0,
        None => u64::from(weight),
    }
}

/// A term that is to be copied.
pub struct Copied<'a, 'b>(&'b Taken<'a, 'b>);

impl Source<Arena> for Copied<'_, '_> {
    #[inline]
    fn packed(&self) -> Option<&[u8]> {
        self.0.packed
    }

    #[inline]
    fn store(self, arena: &mut Arena) {
        arena.store(self.0.term());
    }

    #[inline]
    fn overwrite(&self, arena: &mut Arena, index: usize) -> bool {
        arena.overwrite(index, self.0.term())
    }
}
