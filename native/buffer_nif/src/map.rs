//! NIFs on a map.
//!
//! Writes answer `ok` or why nothing was written, as those on a queue do. Reads answer `{ok, Value}`,
//! `error` if the key is not there, or why nothing was read.
//!
//! Each takes the index of a partition, or nil for a key that is its own routing key.

mod gathered;
mod list;
pub mod scatter;
mod snapshot;
mod update;
pub mod versions;

use buffer_core::map::{Cell, Entry, Given, Source, ENTRY_BYTES, LARGE};
use buffer_core::{Arena as _, Generation as _, Map, NoRoom, Partition, Room, Size, Trigger};
use rustler::{Atom, Encoder, Env, LocalPid, Term};
use smallvec::SmallVec;

pub use self::list::write_granted;
use self::versions::Record;
use crate::arena::packed::{pack, unpack, Unpacked, SPACE, WORDS};
use crate::arena::{immediate, immediate_word, Arena, Bare, Copies};
use crate::begin::begin_at;
use crate::cycle::Readable;
use crate::entry::nif;
use crate::names::Target;
use crate::reclaimer::reclaim;
use crate::resource::{MapBuffer, Shared, Storage};
use crate::weigh::{account, words_of, Heavy, Limits, Scale};
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

/// A term on its way: weighed, and packed if it can be. Made where it stays, and then referred to: to move it takes
/// longer than all of what a write does with it.
#[derive(Clone, Copy)]
struct Taken<'a, 'b> {
    term: Bare<'a>,
    env: &'b Env<'a>,
    weight: u32,
    packed: Option<&'b [u8]>,
}

impl<'a, 'b> Taken<'a, 'b> {
    #[inline(always)]
    fn new(
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
    fn short(
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
    fn term(&self) -> Term<'a> {
        self.term.term(*self.env)
    }

    /// What it takes where it is held: nothing, if all of it is in its word.
    #[inline]
    fn held(&self) -> u64 {
        held(self.term(), self.weight)
    }

    /// The term as the map takes it. What is large is copied here, before any lock is taken.
    #[inline(always)]
    fn given(&self) -> Given<Arena, Copied<'a, '_>> {
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
struct Space(Option<[u8; SPACE]>);

impl Space {
    #[inline]
    fn bytes(&mut self) -> &mut [u8] {
        self.0.get_or_insert([0; SPACE])
    }
}

/// The weight of a term, and its bytes if it can be packed.
#[inline(always)]
fn take<'b>(
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
struct Key<'a, 'b> {
    taken: Taken<'a, 'b>,
    hash: u32,
}

impl<'a, 'b> Key<'a, 'b> {
    #[inline(always)]
    fn new(
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
    fn find(&self, map: &Map<Arena>) -> Option<usize> {
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

    fn partition<'c>(
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
fn hash(key: Term<'_>, packed: Option<&[u8]>) -> u32 {
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

fn zero() -> Given<Arena, Copied<'static, 'static>> {
    Given::Word(SMALL_ZERO)
}

/// The word of the integer 0; what it is in this VM is asked when the library is loaded.
const SMALL_ZERO: u64 = 0b1111;

/// Whether [`SMALL_ZERO`] is the VM's 0.
pub fn zero_is_as_expected(env: Env<'_>) -> bool {
    immediate_word(0i64.encode(env)) == Some(SMALL_ZERO)
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

/// The term of a cell, in the caller's environment.
fn term<'a>(env: Env<'a>, map: &Map<Arena>, cell: Cell) -> Term<'a> {
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
