//! NIFs that write a list of entries: all of it or nothing.
//!
//! The list is walked once before anything is written, and what is large is copied then. After that the
//! entries of a partition are written a few at a time, so that its lock is not held for a whole list.

use buffer_core::map::{Given, LARGE};
use buffer_core::{Arena as _, Credit, Map, NoRoom, Size, Trigger, Wait};
use rustler::types::tuple::make_tuple;
use rustler::{Atom, Encoder, Env, Term, TermType};
use smallvec::SmallVec;

use super::versions::{self, Record};
use super::{buffer, entry_size, hash, take, write_newer, zero, Copied, Index, Key, Taken};
use crate::arena::packed::SPACE;
use crate::arena::{tuple_elements, Arena, Bare, Cells, Handle};
use crate::begin::{begin, full};
use crate::names::Target;
use crate::reclaimer::reclaim;
use crate::resource::{MapBuffer, Overflow, Shared};
use crate::server::Waiter;
use crate::weigh::{account, Heavy, Limits, Scale};
use crate::write::{
    answer, awaited_later, finish, granted, make_room, own_route, refuse, signal, tokens,
    written_on_credit, Awaited, Awaits, Refused, Todo,
};
use crate::{atoms, clock};

/// Entries that are written under one hold of the lock.
const AT_A_TIME: usize = 64;

/// Puts all of a list of `{Key, Value}`, or of `{Key, Value, Version}` if it is `versioned`, each routed by its
/// key or by a list of indexes (nil for none). Bounded.
#[rustler::nif]
fn map_put_all<'a>(
    buffer: Target<'_>,
    entries: Term<'a>,
    indexes: Term<'a>,
    versioned: bool,
) -> Atom {
    let (scale, limit) = (Scale::bounded(), Limits::ENTRIES);
    let put =
        buffer.with(|shared| put_all(shared, entries, indexes, versioned, scale, limit, None));
    answer(put.map(|_| ()))
}

/// The same for lists of any length and terms of any size.
#[rustler::nif(schedule = "DirtyCpu")]
fn map_put_all_dirty<'a>(
    handle: Handle<'_>,
    entries: Term<'a>,
    indexes: Term<'a>,
    versioned: bool,
) -> Atom {
    let (scale, limit) = (Scale::generous(), usize::MAX);
    let put = put_all(handle.0, entries, indexes, versioned, scale, limit, None);
    answer(put.map(|_| ()))
}

/// Puts entries as soon as there is room, as `queue_wait_dirty` does.
#[rustler::nif(schedule = "DirtyCpu")]
fn map_wait_dirty<'a>(
    env: Env<'a>,
    handle: Handle<'_>,
    entries: Term<'a>,
    indexes: Term<'a>,
    versioned: bool,
    reference: Term<'a>,
    token: Option<u64>,
) -> Term<'a> {
    let list = (entries, indexes, versioned);
    wait(env, handle.0, list, reference, token).unwrap_or_else(|refused| refused.atom().encode(env))
}

/// Puts `{Key, Value}` and answers `{ok, [Token]}` or why nothing was written, as `queue_push_awaited` does.
/// Bounded.
#[rustler::nif]
fn map_put_awaited<'a>(
    env: Env<'a>,
    handle: Handle<'_>,
    entries: Term<'a>,
    indexes: Term<'a>,
    token: u64,
    flush: bool,
) -> Term<'a> {
    let (scale, limit) = (Scale::bounded(), Limits::ENTRIES);
    let owner = env.pid();
    let awaited = Some(Awaits {
        owner,
        token,
        flush,
    });
    let put = put_all(handle.0, entries, indexes, false, scale, limit, awaited);
    tokens(env, put)
}

/// The same for lists of any length and terms of any size.
#[rustler::nif(schedule = "DirtyCpu")]
fn map_put_awaited_dirty<'a>(
    env: Env<'a>,
    handle: Handle<'_>,
    entries: Term<'a>,
    indexes: Term<'a>,
    token: u64,
    flush: bool,
) -> Term<'a> {
    let (scale, limit) = (Scale::generous(), usize::MAX);
    let owner = env.pid();
    let awaited = Some(Awaits {
        owner,
        token,
        flush,
    });
    let put = put_all(handle.0, entries, indexes, false, scale, limit, awaited);
    tokens(env, put)
}

/// Puts one entry where there was no room for it in its partition's turn.
#[cold]
pub(super) fn put_one(
    shared: &Shared,
    entry: Term<'_>,
    versioned: bool,
    index: Index,
    scale: Scale,
) -> Result<(), Refused> {
    let env = entry.get_env();
    let entries = vec![entry].encode(env);
    let indexes: Vec<usize> = index.into_iter().collect();
    let indexes = indexes.encode(env);
    put_all(shared, entries, indexes, versioned, scale, 1, None)?;
    Ok(())
}

/// Puts all entries of a list; answers the tokens by which the caller is told when they have been through.
fn put_all<'a>(
    shared: &Shared,
    entries: Term<'a>,
    indexes: Term<'a>,
    versioned: bool,
    mut scale: Scale,
    limit: usize,
    awaited: Awaited,
) -> Result<Vec<u64>, Refused> {
    let buffer = buffer(shared)?;
    let env = entries.get_env();
    let list = gather(shared, entries, indexes, versioned, &mut scale, limit)?;
    account(env, list.entries.len(), scale.weighed());
    let Some(first) = list.entries.first() else {
        return Ok(Vec::new());
    };
    let credit = if buffer.capacity().is_limited() {
        let size = size_of(&list);
        match buffer.capacity().take(size) {
            Ok(credit) => credit,
            Err(reason) => match (reason, shared.overflow()) {
                (NoRoom::Full, Overflow::DropNewest) => return drop_all(env, shared, &list),
                (NoRoom::Full, Overflow::DropOldest) => {
                    make_room(env, shared, buffer, size, first.index as usize)?
                }
                _ => return Err(refuse(env, shared, reason)),
            },
        }
    } else {
        Credit::NONE
    };
    write_all(env, shared, buffer, list, credit, awaited)
}

fn size_of(list: &List<'_>) -> Size {
    let sizes = list.entries.iter().map(|entry| list.size(entry));
    sizes.fold(Size::default(), |sum, size| sum + size)
}

/// Drops a list for which there is no room, as a whole.
fn drop_all(env: Env<'_>, shared: &Shared, list: &List<'_>) -> Result<Vec<u64>, Refused> {
    let buffer = buffer(shared)?;
    let _pass = buffer.enter()?;
    for entry in &list.entries {
        let keep = |arena: &mut Arena| arena.store(list.row(entry, env));
        let keep = shared.keeps_discarded().then_some(keep);
        let partition = &buffer.partitions()[entry.index as usize];
        // Closed in between: then the whole buffer is about to end, and this counts no more.
        if let Ok(written) = partition.drop_new(list.size(entry), keep) {
            signal(env, shared, partition, written);
        }
    }
    full(env, shared);
    Ok(Vec::new())
}

/// Writes entries for which room has been taken, all or, if the buffer is closed, none.
fn write_all(
    env: Env<'_>,
    shared: &Shared,
    buffer: &MapBuffer,
    mut list: List<'_>,
    mut credit: Credit,
    awaited: Awaited,
) -> Result<Vec<u64>, Refused> {
    let Ok(_pass) = buffer.enter() else {
        let _ = buffer.capacity().cancel(credit);
        return Err(Refused::Closed);
    };
    let mut entries = std::mem::take(&mut list.entries);
    let mut todo = Todo::default();
    let mut tokens = Vec::new();
    for (index, partition) in buffer.partitions().iter().enumerate() {
        let here = entries
            .iter_mut()
            .filter(|entry| entry.index as usize == index);
        let mut here = here.peekable();
        let mut flush = false;
        while here.peek().is_some() {
            let mut some: SmallVec<[&mut Listed; AT_A_TIME]> =
                here.by_ref().take(AT_A_TIME).collect();
            let mut retired = None;
            let write = |map: &mut Map<Arena>| {
                for entry in &mut some {
                    entry.found = list.look_up(entry, map);
                }
                let slots = some.iter_mut().filter_map(|entry| list.write(entry, map));
                let places = slots.fold((u64::MAX, 0), |(first, end), slot| {
                    (first.min(slot as u64), end.max(slot as u64 + 1))
                });
                retired = map.take_retired();
                places.0.min(places.1)..places.1
            };
            match awaited {
                None => {
                    let written = partition.write_admitted(&mut credit, &mut todo, write);
                    signal(env, shared, partition, written);
                }
                Some(awaits) => {
                    let token = awaits.token + tokens.len() as u64;
                    tokens.push(token);
                    let awaited = (awaits.owner, token);
                    let written = partition.write_awaited(&mut credit, &mut todo, awaited, write);
                    signal(env, shared, partition, written);
                }
            }
            reclaim(retired.unwrap_or_default());
            flush |= awaited.is_some_and(|awaits| awaits.flush);
        }
        if flush {
            begin(env, shared, partition, Trigger::Flush);
        }
    }
    todo.room |= credit.size != Size::default() && buffer.capacity().cancel(credit);
    finish(env, shared, todo, None);
    written_on_credit(env, shared);
    Ok(tokens)
}

fn wait<'a>(
    env: Env<'a>,
    shared: &Shared,
    (entries, indexes, versioned): (Term<'a>, Term<'a>, bool),
    reference: Term<'a>,
    token: Option<u64>,
) -> Result<Term<'a>, Refused> {
    let buffer = buffer(shared)?;
    let mut scale = Scale::generous();
    let list = gather(shared, entries, indexes, versioned, &mut scale, usize::MAX)?;
    let mut request = Arena::new();
    request.store((reference, (entries, versioned), indexes, token).encode(env));
    let waiter = Waiter {
        pid: env.pid(),
        request,
    };
    match shared
        .waiters
        .wait(buffer.capacity(), size_of(&list), waiter)
    {
        Wait::Taken(_, credit) => {
            let awaited = awaited_later(env.pid(), token);
            let written = write_all(env, shared, buffer, list, credit, awaited);
            Ok(granted(env, token, written))
        }
        Wait::Waits(ticket) => {
            // From now on nobody else takes the room that this makes.
            full(env, shared);
            Ok((atoms::wait(), ticket).encode(env))
        }
        Wait::TooLarge => Err(Refused::TooLarge),
        Wait::Closed => Err(Refused::Closed),
    }
}

/// Makes the write of a request that room has been taken for.
pub fn write_granted<'a>(
    shared: &Shared,
    entries: Term<'a>,
    indexes: Term<'a>,
    credit: Credit,
    awaited: Awaited,
) -> Result<Vec<u64>, Refused> {
    let buffer = buffer(shared)?;
    let gathered = entries
        .decode::<(Term, bool)>()
        .map_err(|_| Refused::Improper)
        .and_then(|(entries, versioned)| {
            let mut scale = Scale::generous();
            gather(shared, entries, indexes, versioned, &mut scale, usize::MAX)
        });
    let Ok(list) = gathered else {
        let _ = buffer.capacity().cancel(credit);
        return Err(Refused::Improper);
    };
    write_all(entries.get_env(), shared, buffer, list, credit, awaited)
}

/// A list that has been walked: its entries, and what of them has been packed.
struct List<'a> {
    entries: Vec<Listed<'a>>,
    bytes: Vec<u8>,
    env: Env<'a>,
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
    #[inline]
    fn new(
        term: Term<'a>,
        scale: &mut Scale,
        bytes: &mut Vec<u8>,
        used: &mut usize,
    ) -> Result<Self, Heavy> {
        if bytes.len() < *used + SPACE {
            bytes.resize(2 * bytes.len() + SPACE, 0);
        }
        let (weight, len) = take(term, scale, &mut bytes[*used..])?;
        // Of a list of gigabytes the rest is copied by the VM.
        let place = len.and_then(|len| Some((u32::try_from(*used).ok()?, len as u32)));
        let (from, len) = place.unwrap_or_default();
        *used += len as usize;
        Ok(Self {
            term: Bare::of(term),
            weight,
            from,
            len,
        })
    }

    fn packed<'b>(&self, bytes: &'b [u8]) -> Option<&'b [u8]> {
        let from = self.from as usize;
        (self.len > 0).then(|| &bytes[from..from + self.len as usize])
    }
}

/// An entry of a list. Small, since there may be many.
struct Listed<'a> {
    index: u32,
    hash: u32,
    key: Part<'a>,
    value: Part<'a>,
    version: Option<Part<'a>>,
    // Copies of what is large, the one that is needed first at the end.
    large: Vec<Arena>,
    found: Option<u32>,
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

    /// The room that an entry takes if its key is new.
    fn size(&self, entry: &Listed<'a>) -> Size {
        let parts = [Some(entry.key), Some(entry.value), entry.version];
        let held = parts
            .into_iter()
            .flatten()
            .map(|part| self.taken(part).held());
        entry_size(held.sum())
    }

    /// An entry as a processor gets it.
    fn row<'b>(&self, entry: &Listed<'a>, env: Env<'b>) -> Term<'b> {
        let term = |part| self.taken(part).term().in_env(env);
        let version = entry.version.map_or_else(|| 0.encode(env), term);
        make_tuple(
            env,
            &[term(entry.key), term(entry.value), version, 0.encode(env)],
        )
    }

    fn key(&self, entry: &Listed<'a>) -> Key<'a, '_> {
        Key {
            taken: self.taken(entry.key),
            hash: entry.hash,
        }
    }

    /// The slot of an entry's key. To be asked for several before the first of them is written, under the same lock: so
    /// the processor waits for the memory of all of them at a time.
    #[inline]
    fn look_up(&self, entry: &Listed<'a>, map: &Map<Arena>) -> Option<u32> {
        let found = self.key(entry).find(map)?;
        std::hint::black_box(map.packed_weight(map.entry(found).value));
        Some(found as u32)
    }

    /// Answers the slot that has the key then, if any.
    fn write(&self, entry: &mut Listed<'a>, map: &mut Map<Arena>) -> Option<usize> {
        let key = self.key(entry);
        // What was not there may have come with those before.
        let found = match entry.found {
            Some(slot) => Some(slot as usize),
            None => key.find(map),
        };
        let mut large = std::mem::take(&mut entry.large);
        let value = self.taken(entry.value);
        let key_given = give(&key.taken, &mut large);
        let value = give(&value, &mut large);
        let Some(version) = entry.version.map(|version| self.taken(version)) else {
            return Some(put_at(map, &key, found, key_given, value));
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
#[inline]
fn give<'a, 'b>(taken: &'b Taken<'a, 'b>, large: &mut Vec<Arena>) -> Given<Arena, Copied<'a, 'b>> {
    match (taken.weight > LARGE).then(|| large.pop()).flatten() {
        Some(arena) => Given::Staged(taken.weight, Box::new(arena)),
        None => taken.given(),
    }
}

/// Puts a value, whatever was there.
#[inline]
fn put_at(
    map: &mut Map<Arena>,
    key: &Key<'_, '_>,
    found: Option<usize>,
    key_given: Given<Arena, Copied<'_, '_>>,
    value: Given<Arena, Copied<'_, '_>>,
) -> usize {
    match found {
        Some(slot) => {
            map.withdraw_version(|records| key.find(records), clock::now);
            map.replace(slot, value, zero(), 0, clock::now);
            slot
        }
        None => map.insert(key.hash, key_given, value, zero(), clock::now),
    }
}

impl<'a> Listed<'a> {
    /// Copies what is large, if anything is.
    fn stage(&mut self, env: Env<'a>, is_recorded: bool) {
        let recorded = self.version.filter(|_| is_recorded);
        let recorded = [recorded, recorded.map(|_| self.key)];
        let parts = [self.version, Some(self.value), Some(self.key)];
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
fn gather<'a>(
    shared: &Shared,
    entries: Term<'a>,
    indexes: Term<'a>,
    versioned: bool,
    scale: &mut Scale,
    limit: usize,
) -> Result<List<'a>, Refused> {
    let partitions = buffer(shared)?.partitions().len();
    let env = entries.get_env();
    let is_recorded = versioned && versions::are_remembered(shared);
    let mut gathered = Vec::with_capacity(limit.min(2 * AT_A_TIME));
    let (mut bytes, mut used) = (vec![0; 2 * AT_A_TIME * 64], 0);
    let mut indexes = Cells::of(indexes);
    let mut walk = Cells::of(entries);
    for entry in walk.by_ref() {
        if gathered.len() == limit {
            return Err(Refused::Heavy);
        }
        let (key, value, version) = elements(entry, versioned).ok_or(Refused::Improper)?;
        let index = match indexes.next() {
            Some(index) => index
                .decode()
                .ok()
                .filter(|&index: &usize| index < partitions)
                .ok_or(Refused::Improper)?,
            None => own_route(key, partitions)?,
        };
        let mut part = |term| Part::new(term, scale, &mut bytes, &mut used);
        let (key_part, value) = (part(key)?, part(value)?);
        let mut listed = Listed {
            index: index as u32,
            hash: 0,
            key: key_part,
            value,
            version: version.map(part).transpose()?,
            large: Vec::new(),
            found: None,
        };
        listed.hash = hash(key, key_part.packed(&bytes));
        listed.stage(env, is_recorded);
        gathered.push(listed);
    }
    if walk.rest().is_empty_list() {
        Ok(List {
            entries: gathered,
            bytes,
            env,
            is_recorded,
        })
    } else {
        Err(Refused::Improper)
    }
}

/// Key, value and, if there is to be one, version.
fn elements<'a>(
    entry: Term<'a>,
    versioned: bool,
) -> Option<(Term<'a>, Term<'a>, Option<Term<'a>>)> {
    let mut parts = tuple_elements(entry)?;
    if parts.len() != if versioned { 3 } else { 2 } {
        return None;
    }
    let (key, value, version) = (parts.next()?, parts.next()?, parts.next());
    let is_integer = |version: Term<'a>| version.get_type() == TermType::Integer;
    version
        .is_none_or(is_integer)
        .then_some((key, value, version))
}
