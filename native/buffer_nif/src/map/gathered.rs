//! A list of entries that has been walked, and what is known of each then.
//!
//! The entries of a partition are chained, so that those who write them need not look at the others.

use buffer_core::map::{Given, LARGE};
use buffer_core::{Arena as _, Map, Size};
use rustler::types::tuple::make_tuple;
use rustler::{Encoder, Env, Term, TermType};
use smallvec::SmallVec;

use super::versions::{self, Record};
use super::{buffer, entry_size, hash, put_at, take, write_newer, Copied, Key, Taken};
use crate::arena::packed::SPACE;
use crate::arena::{Arena, Bare, Cells};
use crate::clock;
use crate::resource::Shared;
use crate::weigh::{Heavy, Scale};
use crate::write::{own_route, Refused};

/// Room for this many entries is taken at once.
const USUAL: usize = 128;
/// Entries whose memory is waited for together.
const AHEAD: usize = 16;
/// No entry.
const NONE: u32 = u32::MAX;

/// The entries of a list, and what of them has been packed.
pub struct List<'a> {
    pub entries: Vec<Listed<'a>>,
    bytes: Vec<u8>,
    env: Env<'a>,
    is_versioned: bool,
    is_recorded: bool,
}

/// A term of a list, and where it has been packed: nowhere, if that takes no bytes.
#[derive(Clone, Copy)]
struct Part<'a> {
    term: Bare<'a>,
    weight: u32,
    from: u32,
    len: u32,
}

impl<'a> Part<'a> {
    /// Packs a term behind the others, of which there are so many bytes.
    #[inline(always)]
    fn new(
        term: Term<'a>,
        scale: &mut Scale,
        bytes: &mut Vec<u8>,
        used: &mut usize,
    ) -> Result<Self, Heavy> {
        if bytes.len() < *used + SPACE {
            bytes.resize(2 * bytes.len() + SPACE, 0);
        }
        let (weight, packed) = take(term, scale, || &mut bytes[*used..])?;
        let mut part = Self {
            term: Bare::of(term),
            weight,
            from: 0,
            len: 0,
        };
        // Of a list of gigabytes the rest is copied by the VM.
        if let (Some(packed), Ok(from)) = (packed, u32::try_from(*used)) {
            (part.from, part.len) = (from, packed.len() as u32);
            *used += packed.len();
        }
        Ok(part)
    }

    #[inline]
    fn packed<'b>(&self, bytes: &'b [u8]) -> Option<&'b [u8]> {
        let from = self.from as usize;
        (self.len > 0).then(|| &bytes[from..from + self.len as usize])
    }
}

/// An entry of a list. Small, since there may be many.
pub struct Listed<'a> {
    pub index: u32,
    hash: u32,
    // The next one of the same partition.
    next: u32,
    found: u32,
    key: Part<'a>,
    value: Part<'a>,
    // The key once more, if the list has none.
    version: Part<'a>,
    // Copies of what is large, the one that is needed first at the end.
    large: Vec<Arena>,
}

#[inline]
fn some(number: u32) -> Option<usize> {
    (number != NONE).then_some(number as usize)
}

impl<'a> List<'a> {
    fn taken(&self, part: Part<'a>) -> Taken<'a, '_> {
        Taken {
            term: part.term,
            env: &self.env,
            weight: part.weight,
            packed: part.packed(&self.bytes),
        }
    }

    fn version(&self, entry: &Listed<'a>) -> Option<Part<'a>> {
        self.is_versioned.then_some(entry.version)
    }

    /// The room that an entry takes if its key is new.
    pub fn size(&self, entry: &Listed<'a>) -> Size {
        let parts = [Some(entry.key), Some(entry.value), self.version(entry)];
        let held = parts
            .into_iter()
            .flatten()
            .map(|part| self.taken(part).held());
        entry_size(held.sum())
    }

    /// An entry as a processor gets it.
    pub fn row<'b>(&self, entry: &Listed<'a>, env: Env<'b>) -> Term<'b> {
        let term = |part| self.taken(part).term().in_env(env);
        let version = self.version(entry).map_or_else(|| 0.encode(env), term);
        make_tuple(
            env,
            &[term(entry.key), term(entry.value), version, 0.encode(env)],
        )
    }

    /// Chains the entries of each partition, in their order. Answers the first ones.
    pub fn sort(&mut self, partitions: usize) -> SmallVec<[Option<usize>; 16]> {
        let mut firsts = SmallVec::<[u32; 16]>::from_elem(NONE, partitions);
        for (at, entry) in self.entries.iter_mut().enumerate().rev() {
            entry.next = std::mem::replace(&mut firsts[entry.index as usize], at as u32);
        }
        firsts.into_iter().map(some).collect()
    }

    /// The next entry of the same partition.
    #[inline]
    pub fn after(&self, at: usize) -> Option<usize> {
        some(self.entries[at].next)
    }

    fn key(&self, entry: &Listed<'a>) -> Key<'a, '_> {
        Key {
            taken: self.taken(entry.key),
            hash: entry.hash,
        }
    }

    /// Looks for the slot of an entry's key. To be done for several before the first of them is written, under the same
    /// lock: so the processor waits for the memory of all of them at a time.
    #[inline]
    pub fn look_up(&mut self, at: usize, map: &Map<Arena>) {
        let found = self.key(&self.entries[at]).find(map);
        if let Some(slot) = found {
            std::hint::black_box(map.packed_weight(map.entry(slot).value));
        }
        self.entries[at].found = found.map_or(NONE, |slot| slot as u32);
    }

    /// Answers the slot that has the key then, if any.
    pub fn write(&mut self, at: usize, map: &mut Map<Arena>) -> Option<usize> {
        let mut large = std::mem::take(&mut self.entries[at].large);
        let entry = &self.entries[at];
        let key = self.key(entry);
        // What was not there may have come with those before.
        let found = some(entry.found).or_else(|| key.find(map));
        let value = self.taken(entry.value);
        let key_given = give(&key.taken, &mut large);
        let value = give(&value, &mut large);
        let Some(version) = self.version(entry).map(|version| self.taken(version)) else {
            return Some(put_at(map, &key, found, key_given, value, clock::now));
        };
        let version_given = give(&version, &mut large);
        let record = self
            .is_recorded
            .then(|| Record::new(give(&key.taken, &mut large), give(&version, &mut large)));
        let given = (key_given, value, version_given);
        write_newer(map, &key, found, given, version.term(), record)
    }
}

/// A term as the map takes it, which may have been copied before.
#[inline(always)]
fn give<'a, 'b>(taken: &'b Taken<'a, 'b>, large: &mut Vec<Arena>) -> Given<Arena, Copied<'a, 'b>> {
    match (taken.weight > LARGE).then(|| large.pop()).flatten() {
        Some(arena) => Given::Staged(taken.weight, Box::new(arena)),
        None => taken.given(),
    }
}

impl<'a> Listed<'a> {
    /// Copies what is large.
    #[cold]
    fn stage(&mut self, env: Env<'a>, is_versioned: bool, is_recorded: bool) {
        let version = Some(self.version).filter(|_| is_versioned);
        let recorded = version.filter(|_| is_recorded);
        let recorded = [recorded, recorded.map(|_| self.key)];
        let parts = [version, Some(self.value), Some(self.key)];
        for part in recorded.into_iter().chain(parts).flatten() {
            if part.weight > LARGE {
                let mut arena = Arena::new();
                arena.store(part.term.term(env));
                self.large.push(arena);
            }
        }
    }
}

/// Walks the list once: nothing is written before all of it is known to be in order.
pub fn gather<'a>(
    shared: &Shared,
    entries: Term<'a>,
    indexes: Term<'a>,
    is_versioned: bool,
    scale: &mut Scale,
    limit: usize,
) -> Result<List<'a>, Refused> {
    let partitions = buffer(shared)?.partitions().len();
    let env = entries.get_env();
    let is_recorded = is_versioned && versions::are_remembered(shared);
    // Their numbers are in 32 bits.
    let limit = limit.min(NONE as usize);
    let mut gathered: Vec<Listed> = Vec::with_capacity(limit.min(USUAL));
    let (mut bytes, mut used) = (vec![0; USUAL * 64], 0);
    let mut indexes = Cells::of(indexes);
    let mut walk = Cells::of(entries);
    loop {
        let some = next_few(&mut walk, is_versioned)?;
        if some.is_empty() {
            break;
        }
        if gathered.len() + some.len() > limit {
            return Err(Refused::Heavy);
        }
        let routes = route(&some, &mut indexes, partitions, env)?;
        for ([key, value, version], index) in some.into_iter().zip(routes) {
            let mut part = |term: Bare<'a>| Part::new(term.term(env), scale, &mut bytes, &mut used);
            let (key_part, value) = (part(key)?, part(value)?);
            let version = if is_versioned {
                part(version)?
            } else {
                key_part
            };
            let hash = hash(key.term(env), key_part.packed(&bytes));
            let is_large = [key_part, value, version]
                .iter()
                .any(|part| part.weight > LARGE);
            gathered.push(Listed {
                index,
                hash,
                next: NONE,
                found: NONE,
                key: key_part,
                value,
                version,
                large: Vec::new(),
            });
            if let Some(last) = gathered.last_mut().filter(|_| is_large) {
                last.stage(env, is_versioned, is_recorded);
            }
        }
    }
    if walk.rest().is_empty_list() {
        Ok(List {
            entries: gathered,
            bytes,
            env,
            is_versioned,
            is_recorded,
        })
    } else {
        Err(Refused::Improper)
    }
}

type Few<T> = SmallVec<[T; AHEAD]>;

/// The next entries of a list. Their terms are looked at before anything is done with the first: that is when memory is
/// waited for, for all of them at a time.
fn next_few<'a>(walk: &mut Cells<'a>, is_versioned: bool) -> Result<Few<[Bare<'a>; 3]>, Refused> {
    let mut some = Few::new();
    for entry in walk.take(AHEAD) {
        some.push(elements(entry, is_versioned).ok_or(Refused::Improper)?);
    }
    for [key, value, _] in &some {
        std::hint::black_box((key.first_word(), value.first_word()));
    }
    Ok(some)
}

/// The partitions of entries. A step of `phash2` waits for the one before, those of several keys need not.
fn route<'a>(
    some: &[[Bare<'a>; 3]],
    indexes: &mut Cells<'a>,
    partitions: usize,
    env: Env<'a>,
) -> Result<Few<u32>, Refused> {
    let mut routes = Few::new();
    for [key, ..] in some {
        let index = match indexes.next() {
            Some(index) => index
                .decode()
                .ok()
                .filter(|&index: &usize| index < partitions)
                .ok_or(Refused::Improper)?,
            None => own_route(key.term(env), partitions)?,
        };
        routes.push(index as u32);
    }
    Ok(routes)
}

/// Key, value and version; the last one is anything if there is to be none.
#[inline(always)]
fn elements<'a>(entry: Term<'a>, is_versioned: bool) -> Option<[Bare<'a>; 3]> {
    if !is_versioned {
        let [key, value] = Bare::of_tuple(entry)?;
        return Some([key, value, key]);
    }
    let parts: [Bare<'a>; 3] = Bare::of_tuple(entry)?;
    let version = parts[2].term(entry.get_env());
    (version.get_type() == TermType::Integer).then_some(parts)
}
