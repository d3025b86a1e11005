//! NIFs on a map.
//!
//! Writes answer `ok` or why nothing was written, as those on a queue do. Reads answer `{ok, Value}`,
//! `error` if the key is not there, or why nothing was read.
//!
//! Each takes the index of a partition, or nil for a key that is its own routing key.

mod list;
pub mod scatter;
mod snapshot;
mod update;
pub mod versions;

use buffer_core::map::{Cell, Entry, Given, Source, ENTRY_BYTES, LARGE};
use buffer_core::{Arena as _, Map, NoRoom, Partition, Room, Size};
use rustler::types::tuple::make_tuple;
use rustler::{Atom, Encoder, Env, LocalPid, Term};

pub use self::list::write_granted;
use self::versions::Record;
use crate::arena::{immediate, immediate_word, Arena, Copies};
use crate::cycle::Readable;
use crate::entry::nif;
use crate::names::Target;
use crate::reclaimer::reclaim;
use crate::resource::{MapBuffer, Shared, Storage};
use crate::weigh::{account, Heavy, Limits, Scale};
use crate::write::{answer, finish, own_route, signal, take_room, Refused, Todo};
use crate::{atoms, clock};

type Index = Option<usize>;

/// An index as an argument; what is none is that of no partition.
fn index_of(index: Term<'_>) -> Index {
    index.decode().unwrap_or(Some(usize::MAX))
}

nif!(map_put / 4, map_put);

/// Puts a value, whatever was there. Bounded.
fn map_put<'a>(env: Env<'a>, [buffer, key, value, index]: [Term<'a>; 4]) -> Term<'a> {
    let (buffer, index) = (Target::of(buffer), index_of(index));
    answer(buffer.with(|shared| put(shared, key, value, index, Scale::bounded()))).to_term(env)
}

/// The same for a key and a value of any size.
#[rustler::nif(schedule = "DirtyCpu")]
fn map_put_dirty<'a>(buffer: Target<'_>, key: Term<'a>, value: Term<'a>, index: Index) -> Atom {
    answer(buffer.with(|shared| put(shared, key, value, index, Scale::generous())))
}

nif!(map_put_newer / 5, map_put_newer);

/// Puts a value unless one of the same or a higher version is there. Bounded.
fn map_put_newer<'a>(
    env: Env<'a>,
    [buffer, key, value, version, index]: [Term<'a>; 5],
) -> Term<'a> {
    let (buffer, index) = (Target::of(buffer), index_of(index));
    let put = |shared: &Shared| put_newer(shared, key, value, version, index, Scale::bounded());
    answer(buffer.with(put)).to_term(env)
}

/// The same for terms of any size.
#[rustler::nif(schedule = "DirtyCpu")]
fn map_put_newer_dirty<'a>(
    buffer: Target<'_>,
    key: Term<'a>,
    value: Term<'a>,
    version: Term<'a>,
    index: Index,
) -> Atom {
    answer(buffer.with(|shared| put_newer(shared, key, value, version, index, Scale::generous())))
}

nif!(map_fetch / 3, map_fetch);

/// The value of a key. Bounded.
fn map_fetch<'a>(env: Env<'a>, [buffer, key, index]: [Term<'a>; 3]) -> Term<'a> {
    let (buffer, index) = (Target::of(buffer), index_of(index));
    found(
        env,
        buffer.with(|shared| fetch(env, shared, key, index, Scale::bounded())),
    )
}

/// The same for a key and a value of any size.
#[rustler::nif(schedule = "DirtyCpu")]
fn map_fetch_dirty<'a>(env: Env<'a>, buffer: Target<'_>, key: Term<'a>, index: Index) -> Term<'a> {
    found(
        env,
        buffer.with(|shared| fetch(env, shared, key, index, Scale::generous())),
    )
}

nif!(map_delete / 3, map_delete);

/// Removes a key: `ok`, also if it was not there. Bounded.
fn map_delete<'a>(env: Env<'a>, [buffer, key, index]: [Term<'a>; 3]) -> Term<'a> {
    let (buffer, index) = (Target::of(buffer), index_of(index));
    answer(buffer.with(|shared| delete(shared, key, index, Scale::bounded()))).to_term(env)
}

/// The same for a key of any size.
#[rustler::nif(schedule = "DirtyCpu")]
fn map_delete_dirty<'a>(buffer: Target<'_>, key: Term<'a>, index: Index) -> Atom {
    answer(buffer.with(|shared| delete(shared, key, index, Scale::generous())))
}

/// Removes a key and answers the value that it had. Bounded.
#[rustler::nif]
fn map_take<'a>(env: Env<'a>, buffer: Target<'_>, key: Term<'a>, index: Index) -> Term<'a> {
    found(
        env,
        buffer.with(|shared| take(env, shared, key, index, Scale::bounded())),
    )
}

/// The same for a key and a value of any size.
#[rustler::nif(schedule = "DirtyCpu")]
fn map_take_dirty<'a>(env: Env<'a>, buffer: Target<'_>, key: Term<'a>, index: Index) -> Term<'a> {
    found(
        env,
        buffer.with(|shared| take(env, shared, key, index, Scale::generous())),
    )
}

/// Whether a key is there: `ok` or `error`. Bounded.
#[rustler::nif]
fn map_has_key(buffer: Target<'_>, key: Term<'_>, index: Index) -> Atom {
    there(buffer.with(|shared| has_key(shared, key, index, Scale::bounded())))
}

/// The same for a key of any size.
#[rustler::nif(schedule = "DirtyCpu")]
fn map_has_key_dirty(buffer: Target<'_>, key: Term<'_>, index: Index) -> Atom {
    there(buffer.with(|shared| has_key(shared, key, index, Scale::generous())))
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
fn given(term: Term<'_>, weight: u32) -> Given<Arena, Copied<'_>> {
    match immediate_word(term) {
        Some(word) => Given::Word(word),
        None if weight > LARGE => {
            let mut arena = Arena::new();
            arena.store(term);
            Given::Staged(weight, arena)
        }
        None => Given::Copy(weight, Copied(term)),
    }
}

/// A term that is to be copied.
pub struct Copied<'a>(Term<'a>);

impl Source<Arena> for Copied<'_> {
    #[inline]
    fn store(self, arena: &mut Arena) {
        arena.store(self.0);
    }

    #[inline]
    fn overwrite(&self, arena: &mut Arena, index: usize) -> bool {
        arena.overwrite(index, self.0)
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
    Ok(signal(env, shared, partition, written))
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
    if size == Size::default() {
        return Ok(found);
    }
    let dropped = room.evicted();
    take_room(env, shared, map, room, size)?;
    // It may have been dropped to make room.
    Ok(if room.evicted() == dropped {
        found
    } else {
        key.find(map)
    })
}

fn entry_size(weight: u64) -> Size {
    Size {
        entries: 1,
        bytes: weight + ENTRY_BYTES,
    }
}

fn zero() -> Given<Arena, Copied<'static>> {
    Given::Word(SMALL_ZERO)
}

/// The word of the integer 0; what it is in this VM is asked when the library is loaded.
const SMALL_ZERO: u64 = 0b1111;

/// Whether [`SMALL_ZERO`] is the VM's 0.
pub fn zero_is_as_expected(env: Env<'_>) -> bool {
    immediate_word(0i64.encode(env)) == Some(SMALL_ZERO)
}

fn put(
    shared: &Shared,
    key: Term<'_>,
    value: Term<'_>,
    index: Index,
    mut scale: Scale,
) -> Result<(), Refused> {
    let key = Key::new(key, &mut scale)?;
    let weight = scale.weigh(value)?;
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
    put.or_else(|_: NoRoom| {
        list::put_one(shared, (key.term, value).encode(env), false, index, scale)
    })
}

fn put_newer<'a>(
    shared: &Shared,
    key: Term<'a>,
    value: Term<'a>,
    version: Term<'a>,
    index: Index,
    mut scale: Scale,
) -> Result<(), Refused> {
    let key = Key::new(key, &mut scale)?;
    let weights = (scale.weigh(value)?, scale.weigh(version)?);
    let partition = key.partition(buffer(shared)?, index)?;
    let env = value.get_env();
    account(env, 0, scale.weighed());
    let total = key.held() + held(value, weights.0) + held(version, weights.1);
    let new = (
        given(key.term, key.weight),
        given(value, weights.0),
        given(version, weights.1),
    );
    let record = versions::are_remembered(shared)
        .then(|| Record::new(given(key.term, key.weight), given(version, weights.1)));
    let put = write(env, shared, partition, |map, room| {
        let found = slot_with_room(env, shared, map, room, &key, total)?;
        write_newer(map, &key, found, new, version, record);
        Ok(())
    })?;
    put.or_else(|_: NoRoom| {
        let entry = (key.term, value, version).encode(env);
        list::put_one(shared, entry, true, index, scale)
    })
}

/// Writes a key's value and version, both to be given with the key, if that is newer than what the slot
/// has that was found. Answers the slot that has the key then, if any.
fn write_newer(
    map: &mut Map<Arena>,
    key: &Key<'_>,
    found: Option<usize>,
    given: (
        Given<Arena, Copied<'_>>,
        Given<Arena, Copied<'_>>,
        Given<Arena, Copied<'_>>,
    ),
    version: Term<'_>,
    record: Option<Record<'_>>,
) -> Option<usize> {
    let is_older = |slot| !is_newer(map, version, map.entry(slot).version);
    if found.is_some_and(is_older) || !versions::record(map, key, version, record) {
        map.pass_over();
        return found;
    }
    let (key_given, value, version) = given;
    match found {
        Some(slot) => {
            let updates = map.entry(slot).updates + 1;
            map.replace(slot, value, version, updates, clock::now);
            found
        }
        None => {
            let slot = map.insert(key.hash, key_given, value, version, clock::now);
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

fn fetch<'a>(
    env: Env<'a>,
    shared: &Shared,
    key: Term<'a>,
    index: Index,
    mut scale: Scale,
) -> Result<Option<Term<'a>>, Refused> {
    let key = Key::new(key, &mut scale)?;
    let partition = key.partition(buffer(shared)?, index)?;
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

fn delete(shared: &Shared, key: Term<'_>, index: Index, mut scale: Scale) -> Result<(), Refused> {
    let key = Key::new(key, &mut scale)?;
    let partition = key.partition(buffer(shared)?, index)?;
    write(key.term.get_env(), shared, partition, |map, _| {
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
    shared: &Shared,
    key: Term<'a>,
    index: Index,
    mut scale: Scale,
) -> Result<Option<Term<'a>>, Refused> {
    let key = Key::new(key, &mut scale)?;
    let partition = key.partition(buffer(shared)?, index)?;
    write(env, shared, partition, |map, _| {
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

fn has_key(
    shared: &Shared,
    key: Term<'_>,
    index: Index,
    mut scale: Scale,
) -> Result<bool, Refused> {
    let key = Key::new(key, &mut scale)?;
    let partition = key.partition(buffer(shared)?, index)?;
    Ok(partition.read_live(|map| key.find(map).is_some())?)
}

fn there(result: Result<bool, Refused>) -> Atom {
    match result {
        Ok(true) => atoms::ok(),
        Ok(false) => atoms::error(),
        Err(refused) => refused.atom(),
    }
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
