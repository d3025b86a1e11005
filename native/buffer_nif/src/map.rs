//! NIFs on a map.
//!
//! Writes answer `ok` or why nothing was written, as those on a queue do. Reads answer `{ok, Value}`,
//! `error` if the key is not there, or why nothing was read.
//!
//! Each takes the index of a partition, or nil for a key that is its own routing key.

mod gathered;
mod key;
mod list;
mod row;
pub mod scatter;
mod snapshot;
mod update;
pub mod versions;

use buffer_core::map::{Cell, Given, ENTRY_BYTES, LARGE};
use buffer_core::{Map, NoRoom, Partition, Room, Size, Trigger};
use rustler::{Atom, Encoder, Env, LocalPid, Term};

use self::key::{hash, take, Copied, Key, Space, Taken};
pub use self::list::write_granted;
pub use self::row::zero_is_as_expected;
use self::row::{term, zero};
use self::versions::Record;
use crate::arena::{immediate_word, Arena};
use crate::begin::begin_at;
use crate::entry::nif;
use crate::names::Target;
use crate::reclaimer::reclaim;
use crate::resource::{MapBuffer, Shared, Storage};
use crate::weigh::{account, Limits, Scale};
use crate::write::{answer, finish, signal, take_room, Refused, Todo};
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
        buffer.with(|shared| fetch_and_remove(env, shared, key, index, Scale::bounded())),
    )
}

/// The same for a key and a value of any size.
#[rustler::nif(schedule = "DirtyCpu")]
fn map_take_dirty<'a>(env: Env<'a>, buffer: Target<'_>, key: Term<'a>, index: Index) -> Term<'a> {
    found(
        env,
        buffer.with(|shared| fetch_and_remove(env, shared, key, index, Scale::generous())),
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
    key: &Key<'_, '_>,
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

fn put<'a>(
    shared: &Shared,
    key: Term<'a>,
    value: Term<'a>,
    index: Index,
    mut scale: Scale,
) -> Result<(), Refused> {
    let env = key.get_env();
    let (key_bytes, value_bytes) = (&mut Space::default(), &mut Space::default());
    let key = Key::new(key, &env, &mut scale, key_bytes)?;
    let partition = key.partition(buffer(shared)?, index)?;
    let value = Taken::new(value, &env, &mut scale, value_bytes)?;
    account(env, 0, scale.weighed());
    let total = key.taken.held() + value.held();
    let (key_given, given) = (key.taken.given(), value.given());
    let put = write(env, shared, partition, |map, room| {
        let found = slot_with_room(env, shared, map, room, &key, total)?;
        put_at(map, &key, found, key_given, given, clock::now);
        Ok::<_, NoRoom>(())
    })?;
    if put.is_err() {
        let entry = (key.taken.term(), value.term()).encode(env);
        return list::put_one(shared, entry, false, index, scale);
    }
    Ok(())
}

nif!(map_put_await / 5, map_put_await);

/// Puts a value, of which the caller is told as `map_put_awaited` tells it, with this token; processing starts at once.
/// What is refused is to be put with that. Bounded.
fn map_put_await<'a>(env: Env<'a>, [buffer, key, value, index, token]: [Term<'a>; 5]) -> Term<'a> {
    let (buffer, index) = (Target::of(buffer), index_of(index));
    let put = |shared: &Shared| put_await(env, shared, key, value, index, token);
    answer(buffer.with(put)).to_term(env)
}

fn put_await<'a>(
    env: Env<'a>,
    shared: &Shared,
    key: Term<'a>,
    value: Term<'a>,
    index: Index,
    token: Term<'_>,
) -> Result<(), Refused> {
    let mut scale = Scale::bounded();
    let token = token.decode::<u64>().map_err(|_| Refused::Improper)?;
    let (key_bytes, value_bytes) = (&mut Space::default(), &mut Space::default());
    let key = Key::new(key, &env, &mut scale, key_bytes)?;
    let partition = key.partition(buffer(shared)?, index)?;
    let value = Taken::new(value, &env, &mut scale, value_bytes)?;
    let total = key.taken.held() + value.held();
    let (key_given, given) = (key.taken.given(), value.given());
    let (mut todo, mut retired) = (Todo::default(), None);
    let now = clock::Once::default();
    let written = partition.write_and_await(&mut todo, (env.pid(), token), |map, room| {
        let found = slot_with_room(env, shared, map, room, &key, total)?;
        let slot = put_at(map, &key, found, key_given, given, || now.now()) as u64;
        retired = map.take_retired();
        Ok::<_, NoRoom>(slot..slot + 1)
    })?;
    reclaim(retired.unwrap_or_default());
    finish(env, shared, todo, None);
    signal(env, shared, partition, written).map_err(|_| Refused::Full)?;
    begin_at(env, shared, partition, Trigger::Flush, &now);
    Ok(())
}

/// Writes to the slot that was found for a key, or to a new one. Answers which.
fn put_at(
    map: &mut Map<Arena>,
    key: &Key<'_, '_>,
    found: Option<usize>,
    key_given: Given<Arena, Copied<'_, '_>>,
    given: Given<Arena, Copied<'_, '_>>,
    now: impl Fn() -> i64,
) -> usize {
    match found {
        Some(slot) => {
            map.withdraw_version(|records| key.find(records), &now);
            map.replace(slot, given, zero(), 0, &now);
            slot
        }
        None => map.insert(key.hash, key_given, given, zero(), &now),
    }
}

fn put_newer<'a>(
    shared: &Shared,
    key: Term<'a>,
    value: Term<'a>,
    version: Term<'a>,
    index: Index,
    mut scale: Scale,
) -> Result<(), Refused> {
    let env = key.get_env();
    let (key_bytes, value_bytes) = (&mut Space::default(), &mut Space::default());
    let key = Key::new(key, &env, &mut scale, key_bytes)?;
    let partition = key.partition(buffer(shared)?, index)?;
    if immediate_word(version).is_some() && !versions::are_remembered(shared) {
        let looked = write(env, shared, partition, |map, room| {
            match room.is_unlimited() {
                true => put_if_newer(map, &key, value, version, &mut scale, value_bytes),
                false => Ok(false),
            }
        })?;
        if looked? {
            return Ok(());
        }
    }
    let version_bytes = &mut Space::default();
    let value = Taken::new(value, &env, &mut scale, value_bytes)?;
    let version = Taken::new(version, &env, &mut scale, version_bytes)?;
    account(env, 0, scale.weighed());
    let total = key.taken.held() + value.held() + version.held();
    let new = (key.taken.given(), value.given(), version.given());
    let record =
        versions::are_remembered(shared).then(|| Record::new(key.taken.given(), version.given()));
    let put = write(env, shared, partition, |map, room| {
        let found = slot_with_room(env, shared, map, room, &key, total)?;
        write_newer(map, &key, found, new, version.term(), record);
        Ok::<_, NoRoom>(())
    })?;
    if put.is_err() {
        let entry = (key.taken.term(), value.term(), version.term()).encode(env);
        return list::put_one(shared, entry, true, index, scale);
    }
    Ok(())
}

/// Looks at the version that is there before anything is done for the value, which is done under the lock then: only if
/// that is short. Answers whether the call is through.
fn put_if_newer<'a>(
    map: &mut Map<Arena>,
    key: &Key<'a, '_>,
    value: Term<'a>,
    version: Term<'_>,
    scale: &mut Scale,
    space: &mut Space,
) -> Result<bool, Refused> {
    let found = key.find(map);
    if found.is_some_and(|slot| !is_newer(map, version, map.entry(slot).version)) {
        map.pass_over();
        return Ok(true);
    }
    let Some(version) = immediate_word(version) else {
        return Ok(false);
    };
    if key.taken.weight > LARGE || map.remembers_versions() {
        return Ok(false);
    }
    let Some(value) = Taken::short(value, key.taken.env, scale, space)? else {
        return Ok(false);
    };
    let version = Given::<Arena, Copied>::Word(version);
    match found {
        Some(slot) => {
            let updates = map.entry(slot).updates + 1;
            map.replace(slot, value.given(), version, updates, clock::now);
        }
        None => {
            map.insert(
                key.hash,
                key.taken.given(),
                value.given(),
                version,
                clock::now,
            );
        }
    }
    Ok(true)
}

/// Writes a key's value and version, both to be given with the key, if that is newer than what the slot
/// has that was found. Answers the slot that has the key then, if any.
fn write_newer(
    map: &mut Map<Arena>,
    key: &Key<'_, '_>,
    found: Option<usize>,
    given: (
        Given<Arena, Copied<'_, '_>>,
        Given<Arena, Copied<'_, '_>>,
        Given<Arena, Copied<'_, '_>>,
    ),
    version: Term<'_>,
    record: Option<Record<'_, '_>>,
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
    let bytes = &mut Space::default();
    let key = Key::new(key, &env, &mut scale, bytes)?;
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
    let env = key.get_env();
    let bytes = &mut Space::default();
    let key = Key::new(key, &env, &mut scale, bytes)?;
    let partition = key.partition(buffer(shared)?, index)?;
    write(env, shared, partition, |map, _| {
        if let Some(slot) = key.find(map) {
            remove(map, &key, slot);
        }
    })
}

fn remove(map: &mut Map<Arena>, key: &Key<'_, '_>, slot: usize) {
    map.withdraw_version(|records| key.find(records), clock::now);
    map.remove(slot, clock::now);
}

fn fetch_and_remove<'a>(
    env: Env<'a>,
    shared: &Shared,
    key: Term<'a>,
    index: Index,
    mut scale: Scale,
) -> Result<Option<Term<'a>>, Refused> {
    let bytes = &mut Space::default();
    let key = Key::new(key, &env, &mut scale, bytes)?;
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
    let env = key.get_env();
    let bytes = &mut Space::default();
    let key = Key::new(key, &env, &mut scale, bytes)?;
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
