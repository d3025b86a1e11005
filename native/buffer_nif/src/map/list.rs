//! NIFs that write a list of entries: all of it or nothing.
//!
//! The list is walked once before anything is written, and what is large is copied then. After that the
//! entries of a partition are written a few at a time, so that its lock is not held for a whole list.

use std::ops::Range;

use buffer_core::map::{Given, LARGE};
use buffer_core::{Arena as _, Credit, Map, NoRoom, Size, Trigger, Wait};
use rustler::types::tuple::make_tuple;
use rustler::{Atom, Encoder, Env, Term, TermType};
use smallvec::SmallVec;

use super::versions::{self, Record};
use super::{buffer, entry_size, hash, held, take, write_newer, zero, Copied, Index, Key, Taken};
use crate::arena::packed::SPACE;
use crate::arena::{tuple_elements, Arena, Cells, Handle};
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
                    make_room(env, shared, buffer, size, first.index)?
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
    list.entries
        .iter()
        .fold(Size::default(), |sum, entry| sum + entry.size())
}

/// Drops a list for which there is no room, as a whole.
fn drop_all(env: Env<'_>, shared: &Shared, list: &List<'_>) -> Result<Vec<u64>, Refused> {
    let buffer = buffer(shared)?;
    let _pass = buffer.enter()?;
    for entry in &list.entries {
        let keep = |arena: &mut Arena| arena.store(entry.row(env));
        let keep = shared.keeps_discarded().then_some(keep);
        let partition = &buffer.partitions()[entry.index];
        // Closed in between: then the whole buffer is about to end, and this counts no more.
        if let Ok(written) = partition.drop_new(entry.size(), keep) {
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
    list: List<'_>,
    mut credit: Credit,
    awaited: Awaited,
) -> Result<Vec<u64>, Refused> {
    let Ok(_pass) = buffer.enter() else {
        let _ = buffer.capacity().cancel(credit);
        return Err(Refused::Closed);
    };
    let List { mut entries, bytes } = list;
    let mut todo = Todo::default();
    let mut tokens = Vec::new();
    for (index, partition) in buffer.partitions().iter().enumerate() {
        let here = entries.iter_mut().filter(|entry| entry.index == index);
        let mut here = here.peekable();
        let mut flush = false;
        while here.peek().is_some() {
            let mut some: SmallVec<[&mut Listed; AT_A_TIME]> =
                here.by_ref().take(AT_A_TIME).collect();
            let mut retired = None;
            let write = |map: &mut Map<Arena>| {
                for entry in &mut some {
                    entry.look_up(map, &bytes);
                }
                let slots = some.iter_mut().filter_map(|entry| entry.write(map, &bytes));
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
}

/// A term of a list, and where it has been packed, if it can be.
struct Part<'a> {
    term: Term<'a>,
    weight: u32,
    packed: Option<Range<usize>>,
}

impl<'a> Part<'a> {
    fn new(term: Term<'a>, scale: &mut Scale, bytes: &mut Vec<u8>) -> Result<Self, Heavy> {
        let from = bytes.len();
        bytes.resize(from + SPACE, 0);
        let (weight, len) = take(term, scale, &mut bytes[from..])?;
        bytes.truncate(from + len.unwrap_or(0));
        let packed = len.map(|len| from..from + len);
        Ok(Self {
            term,
            weight,
            packed,
        })
    }

    fn held(&self) -> u64 {
        held(self.term, self.weight)
    }

    fn taken<'b>(&self, bytes: &'b [u8]) -> Taken<'a, 'b> {
        Taken {
            term: self.term,
            weight: self.weight,
            packed: self.packed.clone().map(|range| &bytes[range]),
        }
    }
}

/// An entry of a list.
struct Listed<'a> {
    index: usize,
    hash: u32,
    key: Part<'a>,
    value: Part<'a>,
    version: Option<Part<'a>>,
    is_recorded: bool,
    found: Option<usize>,
    // Copies of what is large, the one that is needed first at the end.
    large: Vec<Arena>,
}

impl<'a> Listed<'a> {
    /// The room that it takes if its key is new.
    fn size(&self) -> Size {
        let version = self.version.as_ref().map_or(0, Part::held);
        entry_size(self.key.held() + self.value.held() + version)
    }

    /// As a processor gets it.
    fn row<'b>(&self, env: Env<'b>) -> Term<'b> {
        let [key, value] = [&self.key, &self.value].map(|part| part.term.in_env(env));
        let version = match &self.version {
            Some(version) => version.term.in_env(env),
            None => 0.encode(env),
        };
        make_tuple(env, &[key, value, version, 0.encode(env)])
    }

    fn is_large(&self) -> bool {
        let version = self.version.as_ref().map_or(0, |version| version.weight);
        self.key.weight.max(self.value.weight).max(version) > LARGE
    }

    fn stage(&mut self) {
        let recorded = self.version.as_ref().filter(|_| self.is_recorded);
        let recorded = [recorded, recorded.map(|_| &self.key)];
        let terms = [self.version.as_ref(), Some(&self.value), Some(&self.key)];
        for part in recorded.into_iter().chain(terms).flatten() {
            if part.weight > LARGE {
                let mut arena = Arena::new();
                arena.store(part.term);
                self.large.push(arena);
            }
        }
    }

    fn given<'b>(&mut self, taken: Taken<'a, 'b>) -> Given<Arena, Copied<'a, 'b>> {
        let large = (taken.weight > LARGE).then(|| self.large.pop()).flatten();
        match large {
            Some(arena) => Given::Staged(taken.weight, arena),
            None => taken.given(),
        }
    }

    fn key<'b>(&self, bytes: &'b [u8]) -> Key<'a, 'b> {
        Key {
            taken: self.key.taken(bytes),
            hash: self.hash,
        }
    }

    /// To be called for several before the first of them is written, under the same lock: so the processor waits for
    /// the memory of all of them at a time.
    fn look_up(&mut self, map: &Map<Arena>, bytes: &[u8]) {
        self.found = self.key(bytes).find(map);
        if let Some(slot) = self.found {
            std::hint::black_box(map.packed_weight(map.entry(slot).value));
        }
    }

    /// Answers the slot that has the key then, if any.
    fn write(&mut self, map: &mut Map<Arena>, bytes: &[u8]) -> Option<usize> {
        let key = self.key(bytes);
        // What was not there may have come with those before.
        let found = self.found.or_else(|| key.find(map));
        let key_given = self.given(key.taken);
        let value = self.given(self.value.taken(bytes));
        let version = self.version.as_ref().map(|version| version.taken(bytes));
        match (version, found) {
            (Some(version), _) => {
                let version_given = self.given(version);
                let record = self.is_recorded.then(|| {
                    let key = self.given(key.taken);
                    Record::new(key, self.given(version))
                });
                let given = (key_given, value, version_given);
                write_newer(map, &key, found, given, version.term, record)
            }
            (None, Some(slot)) => {
                map.withdraw_version(|records| key.find(records), clock::now);
                map.replace(slot, value, zero(), 0, clock::now);
                Some(slot)
            }
            (None, None) => Some(map.insert(self.hash, key_given, value, zero(), clock::now)),
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
    let is_recorded = versioned && versions::are_remembered(shared);
    let mut gathered = Vec::with_capacity(AT_A_TIME);
    let mut bytes = Vec::with_capacity(AT_A_TIME * 64);
    let mut indexes = indexes;
    let mut walk = Cells::of(entries);
    for entry in walk.by_ref() {
        if gathered.len() == limit {
            return Err(Refused::Heavy);
        }
        let (key, value, version) = elements(entry, versioned).ok_or(Refused::Improper)?;
        let index = match indexes.list_get_cell() {
            Ok((index, tail)) => {
                indexes = tail;
                let index = index.decode().ok();
                index
                    .filter(|&index: &usize| index < partitions)
                    .ok_or(Refused::Improper)?
            }
            Err(_) => own_route(key, partitions)?,
        };
        let key = Part::new(key, scale, &mut bytes)?;
        let value = Part::new(value, scale, &mut bytes)?;
        let version = version.map(|version| Part::new(version, scale, &mut bytes));
        let mut listed = Listed {
            index,
            hash: hash(key.term, key.packed.clone().map(|range| &bytes[range])),
            key,
            value,
            version: version.transpose()?,
            is_recorded,
            found: None,
            large: Vec::new(),
        };
        if listed.is_large() {
            listed.stage();
        }
        gathered.push(listed);
    }
    if walk.rest().is_empty_list() {
        Ok(List {
            entries: gathered,
            bytes,
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
