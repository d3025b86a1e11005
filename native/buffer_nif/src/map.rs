//! NIFs on a map.
//!
//! Writes answer `ok` or why nothing was written, as those on a queue do. Reads answer `{ok, Value}`,
//! `error` if the key is not there, or why nothing was read.
//!
//! Each takes the index of a partition, or nil for a key that is its own routing key.

pub mod scatter;
mod snapshot;
pub mod versions;

use buffer_core::map::{Cell, Entry, Given, ENTRY_BYTES, LARGE};
use buffer_core::{Arena as _, Credit, Map, NoRoom, Partition, Room, Size, Wait};
use rustler::types::tuple::make_tuple;
use rustler::{Atom, Encoder, Env, LocalPid, Term, TermType};

use self::versions::Record;
use crate::arena::{immediate, immediate_word, tuple_elements, Arena, Copies, Handle};
use crate::cycle::Readable;
use crate::operation;
use crate::reclaimer::reclaim;
use crate::resource::{MapBuffer, Overflow, Shared, Storage};
use crate::server::Waiter;
use crate::weigh::{account, Heavy, Limits, Scale};
use crate::write::{
    answer, finish, granted, make_room, no_room, own_route, signal, take_room, tokens, Awaited,
    Refused, Todo,
};
use crate::{atoms, clock};

type Index = Option<usize>;

/// Puts a value, whatever was there. Bounded.
#[rustler::nif]
fn map_put<'a>(handle: Handle<'_>, key: Term<'a>, value: Term<'a>, index: Index) -> Atom {
    answer(put(handle, key, value, index, Scale::bounded()))
}

/// The same for a key and a value of any size.
#[rustler::nif(schedule = "DirtyCpu")]
fn map_put_dirty<'a>(handle: Handle<'_>, key: Term<'a>, value: Term<'a>, index: Index) -> Atom {
    answer(put(handle, key, value, index, Scale::generous()))
}

/// Puts a value unless one of the same or a higher version is there. Bounded.
#[rustler::nif]
fn map_put_newer<'a>(
    handle: Handle<'_>,
    key: Term<'a>,
    value: Term<'a>,
    version: Term<'a>,
    index: Index,
) -> Atom {
    answer(put_newer(
        handle,
        key,
        value,
        version,
        index,
        Scale::bounded(),
    ))
}

/// The same for terms of any size.
#[rustler::nif(schedule = "DirtyCpu")]
fn map_put_newer_dirty<'a>(
    handle: Handle<'_>,
    key: Term<'a>,
    value: Term<'a>,
    version: Term<'a>,
    index: Index,
) -> Atom {
    answer(put_newer(
        handle,
        key,
        value,
        version,
        index,
        Scale::generous(),
    ))
}

/// Puts all of a list of `{Key, Value}`, each routed by its key or by a list of indexes (nil for
/// none). Bounded.
#[rustler::nif]
fn map_put_all<'a>(handle: Handle<'_>, entries: Term<'a>, indexes: Term<'a>) -> Atom {
    let scale = Scale::bounded();
    let put = put_all(handle.0, entries, indexes, scale, Limits::ENTRIES, None);
    answer(put.map(|_| ()))
}

/// The same for lists of any length and terms of any size.
#[rustler::nif(schedule = "DirtyCpu")]
fn map_put_all_dirty<'a>(handle: Handle<'_>, entries: Term<'a>, indexes: Term<'a>) -> Atom {
    let scale = Scale::generous();
    let put = put_all(handle.0, entries, indexes, scale, usize::MAX, None);
    answer(put.map(|_| ()))
}

/// Puts entries as soon as there is room, as `queue_wait_dirty` does.
#[rustler::nif(schedule = "DirtyCpu")]
fn map_wait_dirty<'a>(
    env: Env<'a>,
    handle: Handle<'_>,
    entries: Term<'a>,
    indexes: Term<'a>,
    reference: Term<'a>,
    token: Option<u64>,
) -> Term<'a> {
    wait(env, handle.0, entries, indexes, reference, token)
        .unwrap_or_else(|refused| refused.atom().encode(env))
}

/// Puts entries and answers `{ok, [Token]}` or why nothing was written, as `queue_push_awaited` does. Bounded.
#[rustler::nif]
fn map_put_awaited<'a>(
    env: Env<'a>,
    handle: Handle<'_>,
    entries: Term<'a>,
    indexes: Term<'a>,
    token: u64,
) -> Term<'a> {
    let (scale, limit) = (Scale::bounded(), Limits::ENTRIES);
    let awaited = Some((env.pid(), token));
    tokens(
        env,
        put_all(handle.0, entries, indexes, scale, limit, awaited),
    )
}

/// The same for lists of any length and terms of any size.
#[rustler::nif(schedule = "DirtyCpu")]
fn map_put_awaited_dirty<'a>(
    env: Env<'a>,
    handle: Handle<'_>,
    entries: Term<'a>,
    indexes: Term<'a>,
    token: u64,
) -> Term<'a> {
    let (scale, limit) = (Scale::generous(), usize::MAX);
    let awaited = Some((env.pid(), token));
    tokens(
        env,
        put_all(handle.0, entries, indexes, scale, limit, awaited),
    )
}

/// The value of a key. Bounded.
#[rustler::nif]
fn map_fetch<'a>(env: Env<'a>, handle: Handle<'_>, key: Term<'a>, index: Index) -> Term<'a> {
    found(env, fetch(env, handle, key, index, Scale::bounded()))
}

/// The same for a key and a value of any size.
#[rustler::nif(schedule = "DirtyCpu")]
fn map_fetch_dirty<'a>(env: Env<'a>, handle: Handle<'_>, key: Term<'a>, index: Index) -> Term<'a> {
    found(env, fetch(env, handle, key, index, Scale::generous()))
}

/// Removes a key: `ok`, also if it was not there. Bounded.
#[rustler::nif]
fn map_delete<'a>(handle: Handle<'_>, key: Term<'a>, index: Index) -> Atom {
    answer(delete(handle, key, index, Scale::bounded()))
}

/// The same for a key of any size.
#[rustler::nif(schedule = "DirtyCpu")]
fn map_delete_dirty<'a>(handle: Handle<'_>, key: Term<'a>, index: Index) -> Atom {
    answer(delete(handle, key, index, Scale::generous()))
}

/// Removes a key and answers the value that it had. Bounded.
#[rustler::nif]
fn map_take<'a>(env: Env<'a>, handle: Handle<'_>, key: Term<'a>, index: Index) -> Term<'a> {
    found(env, take(env, handle, key, index, Scale::bounded()))
}

/// The same for a key and a value of any size.
#[rustler::nif(schedule = "DirtyCpu")]
fn map_take_dirty<'a>(env: Env<'a>, handle: Handle<'_>, key: Term<'a>, index: Index) -> Term<'a> {
    found(env, take(env, handle, key, index, Scale::generous()))
}

/// Whether a key is there: `ok` or `error`. Bounded.
#[rustler::nif]
fn map_has_key(handle: Handle<'_>, key: Term<'_>, index: Index) -> Atom {
    has_key(handle, key, index, Scale::bounded())
}

/// The same for a key of any size.
#[rustler::nif(schedule = "DirtyCpu")]
fn map_has_key_dirty(handle: Handle<'_>, key: Term<'_>, index: Index) -> Atom {
    has_key(handle, key, index, Scale::generous())
}

/// Changes the value of a key by an operation: `ok`; `error` if the key is not there; `wrong_type`; or
/// `unsuited`, if it takes Elixir's arithmetic or more time than there is under a lock. Bounded.
#[rustler::nif]
fn map_update<'a>(
    handle: Handle<'_>,
    key: Term<'a>,
    operation: Atom,
    operand: Term<'a>,
    index: Index,
) -> Atom {
    update(handle, key, operation, operand, index, Scale::bounded()).unwrap_or_else(Refused::atom)
}

/// Puts a value if the value of the key is still `expected`, as an update: `ok`, `changed`, or `error`
/// if the key is not there. Dirty, since terms may be of any size.
#[rustler::nif(schedule = "DirtyCpu")]
fn map_compare_put_dirty<'a>(
    handle: Handle<'_>,
    key: Term<'a>,
    expected: Term<'a>,
    value: Term<'a>,
    index: Index,
) -> Atom {
    compare_put(handle, key, expected, value, index).unwrap_or_else(Refused::atom)
}

/// Puts a value if the key is not there: `ok` or `changed`. Bounded.
#[rustler::nif]
fn map_put_new<'a>(handle: Handle<'_>, key: Term<'a>, value: Term<'a>, index: Index) -> Atom {
    put_new(handle, key, value, index, Scale::bounded()).unwrap_or_else(Refused::atom)
}

/// The same for terms of any size.
#[rustler::nif(schedule = "DirtyCpu")]
fn map_put_new_dirty<'a>(handle: Handle<'_>, key: Term<'a>, value: Term<'a>, index: Index) -> Atom {
    put_new(handle, key, value, index, Scale::generous()).unwrap_or_else(Refused::atom)
}

fn found<'a>(env: Env<'a>, result: Result<Option<Term<'a>>, Refused>) -> Term<'a> {
    match result {
        Ok(Some(value)) => (atoms::ok(), value).encode(env),
        Ok(None) => atoms::error().encode(env),
        Err(refused) => refused.atom().encode(env),
    }
}

fn buffer(shared: &Shared) -> Result<&MapBuffer, Refused> {
    match &shared.storage {
        Storage::Map(buffer) => Ok(buffer),
        Storage::Queue(_) => Err(Refused::OtherKind),
    }
}

/// A key on its way: weighed, hashed, and the partition that it belongs to.
struct Key<'a> {
    term: Term<'a>,
    weight: u32,
    hash: u32,
}

impl<'a> Key<'a> {
    fn new(term: Term<'a>, scale: &mut Scale) -> Result<Self, Heavy> {
        Ok(Self {
            term,
            weight: scale.weigh(term)?,
            hash: hash(term),
        })
    }

    /// What it takes where it is held.
    fn held(&self) -> u64 {
        held(self.term, self.weight)
    }

    /// The slot of this key.
    fn find(&self, map: &Map<Arena>) -> Option<usize> {
        let word = immediate_word(self.term);
        map.find(self.hash, |map, cell| match word {
            Some(word) => cell.word() == Some(word),
            None => map
                .stored(cell)
                .is_some_and(|(arena, index)| arena.is(index, self.term)),
        })
    }

    fn partition<'b>(
        &self,
        buffer: &'b MapBuffer,
        index: Index,
    ) -> Result<&'b Partition<Map<Arena>, LocalPid>, Refused> {
        let partitions = buffer.partitions();
        let index = match index {
            Some(index) => index,
            None => own_route(self.term, partitions.len())?,
        };
        partitions.get(index).ok_or(Refused::NoPartitions)
    }
}

/// Equal keys have equal hashes. What is all in its word is hashed without a call.
#[inline]
fn hash(key: Term<'_>) -> u32 {
    match immediate_word(key) {
        Some(word) => (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32,
        None => key.hash_internal(0),
    }
}

/// What a term of this weight takes in a segment: nothing, if all of it is in its word.
#[inline]
fn held(term: Term<'_>, weight: u32) -> u64 {
    match immediate_word(term) {
        Some(_) => 0,
        None => u64::from(weight),
    }
}

/// A term as the map takes it. What is large is copied here, before any lock is taken.
fn given(term: Term<'_>, weight: u32) -> Given<Arena, impl FnOnce(&mut Arena) + '_> {
    match immediate_word(term) {
        Some(word) => Given::Word(word),
        None if weight > LARGE => {
            let mut arena = Arena::new();
            arena.store(term);
            Given::Staged(weight, arena)
        }
        None => Given::Copy(weight, move |arena: &mut Arena| arena.store(term)),
    }
}

/// Writes under the lock, and does after it what is to be done then.
fn write<R>(
    env: Env<'_>,
    shared: &Shared,
    partition: &Partition<Map<Arena>, LocalPid>,
    write: impl FnOnce(&mut Map<Arena>, &mut Room<'_, Map<Arena>, LocalPid>) -> R,
) -> Result<R, Refused> {
    let mut todo = Todo::default();
    let mut retired = None;
    let written = partition.write(&mut todo, |map, room| {
        let result = write(map, room);
        retired = map.take_retired();
        result
    })?;
    reclaim(retired.unwrap_or_default());
    finish(env, shared, todo, None);
    Ok(signal(env, written))
}

/// The slot of a key, when there is room to write an entry of this weight, its key and all.
fn slot_with_room(
    env: Env<'_>,
    shared: &Shared,
    map: &mut Map<Arena>,
    room: &mut Room<'_, Map<Arena>, LocalPid>,
    key: &Key<'_>,
    weight: u64,
) -> Result<Option<usize>, NoRoom> {
    let found = key.find(map);
    if room.is_unlimited() {
        return Ok(found);
    }
    let size = match found {
        // The key is there; what is there is replaced.
        Some(slot) => Size {
            entries: 0,
            bytes: weight.saturating_sub(map.weight_at(slot)),
        },
        None => entry_size(weight),
    };
    take_room(env, shared, map, room, size)?;
    // It may have been dropped to make room.
    Ok(key.find(map))
}

fn entry_size(weight: u64) -> Size {
    Size {
        entries: 1,
        bytes: weight + ENTRY_BYTES,
    }
}

fn zero() -> Given<Arena, fn(&mut Arena)> {
    Given::Word(SMALL_ZERO)
}

/// The word of the integer 0; what it is in this VM is asked when the library is loaded.
const SMALL_ZERO: u64 = 0b1111;

/// Whether [`SMALL_ZERO`] is the VM's 0.
pub fn zero_is_as_expected(env: Env<'_>) -> bool {
    immediate_word(0i64.encode(env)) == Some(SMALL_ZERO)
}

fn put(
    handle: Handle<'_>,
    key: Term<'_>,
    value: Term<'_>,
    index: Index,
    mut scale: Scale,
) -> Result<(), Refused> {
    let key = Key::new(key, &mut scale)?;
    let weight = scale.weigh(value)?;
    let shared = handle.0;
    let partition = key.partition(buffer(shared)?, index)?;
    let env = value.get_env();
    account(env, 0, scale.weighed());
    let total = key.held() + held(value, weight);
    let (key_given, given) = (given(key.term, key.weight), given(value, weight));
    let put = write(env, shared, partition, |map, room| {
        match slot_with_room(env, shared, map, room, &key, total)? {
            Some(slot) => {
                map.withdraw_version(|records| key.find(records), clock::now);
                map.replace(slot, given, zero(), 0, clock::now);
            }
            None => {
                map.insert(key.hash, key_given, given, zero(), clock::now);
            }
        }
        Ok(())
    })?;
    put.or_else(|_: NoRoom| put_one(shared, (key.term, value).encode(env), index, scale))
}

/// Puts one entry where there was no room for it in its partition's turn.
#[cold]
fn put_one(shared: &Shared, entry: Term<'_>, index: Index, scale: Scale) -> Result<(), Refused> {
    let env = entry.get_env();
    let entries = vec![entry].encode(env);
    let indexes: Vec<usize> = index.into_iter().collect();
    put_all(shared, entries, indexes.encode(env), scale, 1, None)?;
    Ok(())
}

fn put_newer<'a>(
    handle: Handle<'_>,
    key: Term<'a>,
    value: Term<'a>,
    version: Term<'a>,
    index: Index,
    mut scale: Scale,
) -> Result<(), Refused> {
    let key = Key::new(key, &mut scale)?;
    let weights = (scale.weigh(value)?, scale.weigh(version)?);
    let shared = handle.0;
    let partition = key.partition(buffer(shared)?, index)?;
    let env = value.get_env();
    account(env, 0, scale.weighed());
    let total = key.held() + held(value, weights.0) + held(version, weights.1);
    let new = (given(value, weights.0), given(version, weights.1));
    let key_given = given(key.term, key.weight);
    let record = versions::are_remembered(shared)
        .then(|| Record::new(given(key.term, key.weight), given(version, weights.1)));
    let put = write(env, shared, partition, |map, room| {
        slot_with_room(env, shared, map, room, &key, total)?;
        write_newer(map, &key, key_given, new.0, new.1, version, record);
        Ok(())
    })?;
    put.or_else(|_: NoRoom| put_one(shared, (key.term, value, version).encode(env), index, scale))
}

fn write_newer(
    map: &mut Map<Arena>,
    key: &Key<'_>,
    key_given: Given<Arena, impl FnOnce(&mut Arena)>,
    value: Given<Arena, impl FnOnce(&mut Arena)>,
    version_given: Given<Arena, impl FnOnce(&mut Arena)>,
    version: Term<'_>,
    record: Option<Record<impl FnOnce(&mut Arena)>>,
) -> Option<usize> {
    let found = key.find(map);
    let is_older = |slot| !is_newer(map, version, map.entry(slot).version);
    if found.is_some_and(is_older) || !versions::record(map, key, version, record) {
        map.pass_over();
        return found;
    }
    match found {
        Some(slot) => {
            let updates = map.entry(slot).updates + 1;
            map.replace(slot, value, version_given, updates, clock::now);
            found
        }
        None => {
            let slot = map.insert(key.hash, key_given, value, version_given, clock::now);
            Some(slot)
        }
    }
}

/// Small integers are compared by their words: the tag is the same in both.
fn is_newer(map: &Map<Arena>, version: Term<'_>, than: Cell) -> bool {
    match (immediate_word(version), than.word()) {
        (Some(version), Some(than)) => (version as i64) > (than as i64),
        _ => version > term(version.get_env(), map, than),
    }
}

/// Puts all entries of a list; answers the tokens by which the caller is told when they have been through.
fn put_all<'a>(
    shared: &Shared,
    entries: Term<'a>,
    indexes: Term<'a>,
    mut scale: Scale,
    limit: usize,
    awaited: Awaited,
) -> Result<Vec<u64>, Refused> {
    let buffer = buffer(shared)?;
    let env = entries.get_env();
    let list = gather(shared, entries, indexes, &mut scale, limit)?;
    account(env, list.len(), scale.weighed());
    let Some(first) = list.first() else {
        return Ok(Vec::new());
    };
    let credit = if buffer.capacity().is_limited() {
        let size = size_of(&list);
        match buffer.capacity().take(size) {
            Ok(credit) => credit,
            Err(reason) => match (reason, shared.overflow()) {
                (NoRoom::Full, Overflow::DropNewest) => return drop_list(env, shared, &list),
                (NoRoom::Full, Overflow::DropOldest) => {
                    make_room(env, shared, buffer, size, first.index)?
                }
                _ => return Err(no_room(shared, reason)),
            },
        }
    } else {
        Credit::NONE
    };
    write_list(env, shared, buffer, list, credit, awaited)
}

fn size_of<S>(list: &[Listed<'_, S>]) -> Size {
    list.iter()
        .fold(Size::default(), |sum, entry| sum + entry_size(entry.weight))
}

/// Drops a list for which there is no room, as a whole.
fn drop_list<S>(
    env: Env<'_>,
    shared: &Shared,
    list: &[Listed<'_, S>],
) -> Result<Vec<u64>, Refused> {
    let buffer = buffer(shared)?;
    let _pass = buffer.enter()?;
    for entry in list {
        let keep = |arena: &mut Arena| arena.store(entry.row(env));
        let keep = shared.keeps_discarded().then_some(keep);
        let partition = &buffer.partitions()[entry.index];
        // Closed in between: then the whole buffer is about to end, and this counts no more.
        if let Ok(written) = partition.drop_new(entry_size(entry.weight), keep) {
            signal(env, written);
        }
    }
    Ok(Vec::new())
}

/// Writes entries for which room has been taken, all or, if the buffer is closed, none.
fn write_list<S: FnOnce(&mut Arena)>(
    env: Env<'_>,
    shared: &Shared,
    buffer: &MapBuffer,
    mut list: Vec<Listed<'_, S>>,
    mut credit: Credit,
    awaited: Awaited,
) -> Result<Vec<u64>, Refused> {
    let Ok(_pass) = buffer.enter() else {
        let _ = buffer.capacity().cancel(credit);
        return Err(Refused::Closed);
    };
    let mut todo = Todo::default();
    let mut tokens = Vec::new();
    for (index, partition) in buffer.partitions().iter().enumerate() {
        let here = list.iter_mut().filter(|entry| entry.index == index);
        let mut here = here.peekable();
        while here.peek().is_some() {
            // A few at a time: the lock is not held for a whole list.
            let some = here.by_ref().take(64);
            let mut retired = None;
            let write = |map: &mut Map<Arena>| {
                let slots = some.filter_map(|entry| entry.write(map));
                let places = slots.fold((u64::MAX, 0), |(first, end), slot| {
                    (first.min(slot as u64), end.max(slot as u64 + 1))
                });
                retired = map.take_retired();
                places.0.min(places.1)..places.1
            };
            match awaited {
                None => {
                    let written = partition.write_admitted(&mut credit, &mut todo, write);
                    signal(env, written);
                }
                Some((owner, first)) => {
                    let token = first + tokens.len() as u64;
                    tokens.push(token);
                    let awaited = (owner, token);
                    let written = partition.write_awaited(&mut credit, &mut todo, awaited, write);
                    signal(env, written);
                }
            }
            reclaim(retired.unwrap_or_default());
        }
    }
    todo.room |= credit.size != Size::default() && buffer.capacity().cancel(credit);
    finish(env, shared, todo, None);
    Ok(tokens)
}

fn wait<'a>(
    env: Env<'a>,
    shared: &Shared,
    entries: Term<'a>,
    indexes: Term<'a>,
    reference: Term<'a>,
    token: Option<u64>,
) -> Result<Term<'a>, Refused> {
    let buffer = buffer(shared)?;
    let list = gather(shared, entries, indexes, &mut Scale::generous(), usize::MAX)?;
    let mut request = Arena::new();
    request.store((reference, entries, indexes, token).encode(env));
    let waiter = Waiter {
        pid: env.pid(),
        request,
    };
    match shared
        .waiters
        .wait(buffer.capacity(), size_of(&list), waiter)
    {
        Wait::Taken(_, credit) => {
            let awaited = token.map(|token| (env.pid(), token));
            let written = write_list(env, shared, buffer, list, credit, awaited);
            Ok(granted(env, token, written))
        }
        Wait::Waits(ticket) => Ok((atoms::wait(), ticket).encode(env)),
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
    let list = gather(shared, entries, indexes, &mut Scale::generous(), usize::MAX);
    let Ok(list) = list else {
        let _ = buffer.capacity().cancel(credit);
        return Err(Refused::Improper);
    };
    write_list(entries.get_env(), shared, buffer, list, credit, awaited)
}

/// An entry of a list; what is large has been copied already. `S` copies what is not.
struct Listed<'a, S> {
    index: usize,
    key: Key<'a>,
    value: Term<'a>,
    version: Option<Term<'a>>,
    // Of all three.
    weight: u64,
    // Key, value and version, until they are written.
    given: Option<[Given<Arena, S>; 3]>,
    record: Option<Record<S>>,
}

impl<S> Listed<'_, S> {
    /// As a processor gets it.
    fn row<'b>(&self, env: Env<'b>) -> Term<'b> {
        let [key, value] = [self.key.term, self.value].map(|term| term.in_env(env));
        let version = match self.version {
            Some(version) => version.in_env(env),
            None => 0.encode(env),
        };
        make_tuple(env, &[key, value, version, 0.encode(env)])
    }
}

impl<S: FnOnce(&mut Arena)> Listed<'_, S> {
    /// Answers the slot that has the key now, if any.
    fn write(&mut self, map: &mut Map<Arena>) -> Option<usize> {
        let [key, value, version] = self.given.take()?;
        match (self.version, self.key.find(map)) {
            (Some(newer), _) => {
                let record = self.record.take();
                write_newer(map, &self.key, key, value, version, newer, record)
            }
            (None, Some(slot)) => {
                map.withdraw_version(|records| self.key.find(records), clock::now);
                map.replace(slot, value, version, 0, clock::now);
                Some(slot)
            }
            (None, None) => {
                let slot = map.insert(self.key.hash, key, value, version, clock::now);
                Some(slot)
            }
        }
    }
}

/// Walks the list once: nothing is written before all of it is known to be in order.
fn gather<'a>(
    shared: &Shared,
    entries: Term<'a>,
    indexes: Term<'a>,
    scale: &mut Scale,
    limit: usize,
) -> Result<Vec<Listed<'a, impl FnOnce(&mut Arena) + 'a>>, Refused> {
    let partitions = buffer(shared)?.partitions().len();
    let remembers = versions::are_remembered(shared);
    let mut gathered = Vec::new();
    let (mut rest, mut indexes) = (entries, indexes);
    while let Ok((entry, tail)) = rest.list_get_cell() {
        if gathered.len() == limit {
            return Err(Refused::Heavy);
        }
        let mut parts = tuple_elements(entry).ok_or(Refused::Improper)?;
        let (Some(key), Some(value), version, None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Refused::Improper);
        };
        if version.is_some_and(|version| version.get_type() != TermType::Integer) {
            return Err(Refused::Improper);
        }
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
        let key = Key::new(key, scale)?;
        let weight = scale.weigh(value)?;
        let version_weight = version.map_or(Ok(0), |version| scale.weigh(version))?;
        let version_held = version.map_or(0, |version| held(version, version_weight));
        let remembered = version.filter(|_| remembers);
        let record = remembered.map(|version| {
            Record::new(given(key.term, key.weight), given(version, version_weight))
        });
        gathered.push(Listed {
            index,
            value,
            version,
            weight: key.held() + held(value, weight) + version_held,
            record,
            given: Some([
                given(key.term, key.weight),
                given(value, weight),
                version.map_or(Given::Word(SMALL_ZERO), |version| {
                    given(version, version_weight)
                }),
            ]),
            key,
        });
        rest = tail;
    }
    if rest.is_empty_list() {
        Ok(gathered)
    } else {
        Err(Refused::Improper)
    }
}

fn fetch<'a>(
    env: Env<'a>,
    handle: Handle<'_>,
    key: Term<'a>,
    index: Index,
    mut scale: Scale,
) -> Result<Option<Term<'a>>, Refused> {
    let key = Key::new(key, &mut scale)?;
    let partition = key.partition(buffer(handle.0)?, index)?;
    partition.read_live(|map| {
        let Some(slot) = key.find(map) else {
            return Ok(None);
        };
        let value = map.entry(slot).value;
        if scale.is_bounded() && u64::from(map.weight(value)) > Limits::BYTES {
            return Err(Refused::Heavy);
        }
        Ok(Some(term(env, map, value)))
    })?
}

fn delete(
    handle: Handle<'_>,
    key: Term<'_>,
    index: Index,
    mut scale: Scale,
) -> Result<(), Refused> {
    let key = Key::new(key, &mut scale)?;
    let partition = key.partition(buffer(handle.0)?, index)?;
    write(key.term.get_env(), handle.0, partition, |map, _| {
        if let Some(slot) = key.find(map) {
            remove(map, &key, slot);
        }
    })
}

fn remove(map: &mut Map<Arena>, key: &Key<'_>, slot: usize) {
    map.withdraw_version(|records| key.find(records), clock::now);
    map.remove(slot, clock::now);
}

fn take<'a>(
    env: Env<'a>,
    handle: Handle<'_>,
    key: Term<'a>,
    index: Index,
    mut scale: Scale,
) -> Result<Option<Term<'a>>, Refused> {
    let key = Key::new(key, &mut scale)?;
    let partition = key.partition(buffer(handle.0)?, index)?;
    write(env, handle.0, partition, |map, _| {
        let Some(slot) = key.find(map) else {
            return Ok(None);
        };
        let value = map.entry(slot).value;
        if scale.is_bounded() && u64::from(map.weight(value)) > Limits::BYTES {
            return Err(Refused::Heavy);
        }
        let value = term(env, map, value);
        remove(map, &key, slot);
        Ok(Some(value))
    })?
}

fn has_key(handle: Handle<'_>, key: Term<'_>, index: Index, mut scale: Scale) -> Atom {
    let mut find = || {
        let key = Key::new(key, &mut scale)?;
        let partition = key.partition(buffer(handle.0)?, index)?;
        Ok(partition.read_live(|map| key.find(map).is_some())?)
    };
    match find() {
        Ok(true) => atoms::ok(),
        Ok(false) => atoms::error(),
        Err(refused) => Refused::atom(refused),
    }
}

fn update(
    handle: Handle<'_>,
    key: Term<'_>,
    operation: Atom,
    operand: Term<'_>,
    index: Index,
    mut scale: Scale,
) -> Result<Atom, Refused> {
    let key = Key::new(key, &mut scale)?;
    scale.weigh(operand)?;
    let shared = handle.0;
    let partition = key.partition(buffer(shared)?, index)?;
    write(operand.get_env(), shared, partition, |map, room| {
        let Some(slot) = key.find(map) else {
            return atoms::error();
        };
        let value = map.entry(slot).value;
        if map.weight(value) > LARGE {
            return atoms::unsuited();
        }
        let current = term(operand.get_env(), map, value);
        let new = match operation::apply(operation, current, operand) {
            Ok(new) => new,
            Err(reason) => return reason,
        };
        let Ok(weight @ ..=LARGE) = scale.weigh(new) else {
            return atoms::unsuited();
        };
        if let Err(reason) = room.take(growth(map, value, held(new, weight))) {
            return no_room(shared, reason).atom();
        }
        map.update(slot, given(new, weight), clock::now);
        atoms::ok()
    })
}

/// How much larger an entry becomes by another value.
fn growth(map: &Map<Arena>, old: Cell, weight: u64) -> Size {
    Size {
        entries: 0,
        bytes: weight.saturating_sub(u64::from(map.weight(old))),
    }
}

fn compare_put(
    handle: Handle<'_>,
    key: Term<'_>,
    expected: Term<'_>,
    value: Term<'_>,
    index: Index,
) -> Result<Atom, Refused> {
    let mut scale = Scale::generous();
    let key = Key::new(key, &mut scale)?;
    let weight = scale.weigh(value)?;
    let shared = handle.0;
    let partition = key.partition(buffer(shared)?, index)?;
    let env = value.get_env();
    let held = held(value, weight);
    let value = given(value, weight);
    write(env, shared, partition, |map, room| {
        let Some(slot) = key.find(map) else {
            return atoms::error();
        };
        let cell = map.entry(slot).value;
        let same = match (cell.word(), map.stored(cell)) {
            (Some(word), _) => immediate_word(expected) == Some(word),
            (None, Some((arena, index))) => arena.is(index, expected),
            (None, None) => false,
        };
        if !same {
            return atoms::changed();
        }
        if let Err(reason) = room.take(growth(map, cell, held)) {
            return no_room(shared, reason).atom();
        }
        map.update(slot, value, clock::now);
        atoms::ok()
    })
}

fn put_new(
    handle: Handle<'_>,
    key: Term<'_>,
    value: Term<'_>,
    index: Index,
    mut scale: Scale,
) -> Result<Atom, Refused> {
    let key = Key::new(key, &mut scale)?;
    let weight = scale.weigh(value)?;
    let shared = handle.0;
    let partition = key.partition(buffer(shared)?, index)?;
    let env = value.get_env();
    let total = key.held() + held(value, weight);
    let (key_given, value) = (given(key.term, key.weight), given(value, weight));
    write(env, shared, partition, |map, room| {
        if key.find(map).is_some() {
            return atoms::changed();
        }
        if let Err(reason) = slot_with_room(env, shared, map, room, &key, total) {
            return no_room(shared, reason).atom();
        }
        map.insert(key.hash, key_given, value, zero(), clock::now);
        atoms::ok()
    })
}

/// The term of a cell, in the caller's environment.
fn term<'a>(env: Env<'a>, map: &Map<Arena>, cell: Cell) -> Term<'a> {
    let stored = || {
        map.stored(cell)
            .map(|(arena, index)| arena.load(index, env))
    };
    let word = || cell.word().and_then(|word| immediate(env, word));
    word()
        .or_else(stored)
        .unwrap_or_else(|| atoms::nil().encode(env))
}

/// `{Key, Value, Version, Updates}`, as processors get it.
fn tuple<'a>(env: Env<'a>, map: &Map<Arena>, entry: &Entry) -> Term<'a> {
    let cells = [entry.key, entry.value, entry.version].map(|cell| term(env, map, cell));
    let [key, value, version] = cells;
    make_tuple(env, &[key, value, version, entry.updates.encode(env)])
}

impl Readable for Map<Arena> {
    fn read<'a>(&self, env: Env<'a>, cursor: usize, count: usize) -> (Term<'a>, usize) {
        let mut copies = Copies::with_capacity(env, 0);
        let mut next = cursor;
        for (after, entry) in self.entries(cursor).take(count) {
            copies.push(tuple(env, self, entry));
            next = after;
        }
        (copies.into_list(), next)
    }
}
