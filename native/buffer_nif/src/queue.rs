//! NIFs that write to a queue.
//!
//! Each answers `ok`, or says why nothing was written: `closed`, `no_partitions`, `improper` (not a
//! proper list), `unknown` (there is no such buffer), `heavy` (call the `_dirty` twin; from that one: an item of 4 GB or more), `full`,
//! `too_large` (for the buffer's bounds) or `wait` (there is no room now: call `queue_wait_dirty`).

mod list;

use buffer_core::{Arena as _, Generation as _, NoRoom, Open, Queue, Size, Trigger};
use rustler::{Atom, Env, LocalPid, Term};

pub use self::list::write_granted;
use self::list::Items;
use crate::arena::{Arena, Copies, Handle};
use crate::begin::{begin_at, full};
use crate::clock;
use crate::cycle::Readable;
use crate::entry::nif;
use crate::names::Target;
use crate::resource::{Overflow, QueueBuffer, Shared, Storage};
use crate::weigh::{account, Scale};
use crate::write::{
    answer, finish, make_room, own_route, refuse, signal, take_room, Refused, Todo,
};

/// Entries up to this weight, and lists of which a partition gets no more than that many, are copied
/// under the partition's lock.
/// What is larger is copied into segments of its own first, and only those are handed over under it.
pub const COPIED_UNDER_LOCK: u32 = 8 * 1024;
/// Such lists.
pub const LISTED_UNDER_LOCK: usize = 64;

nif!(queue_push / 2, queue_push);

/// One item, routed by itself. Bounded.
fn queue_push<'a>(env: Env<'a>, [buffer, item]: [Term<'a>; 2]) -> Term<'a> {
    let buffer = Target::of(buffer);
    answer(buffer.with(|shared| push(shared, item, None, Scale::bounded()))).to_term(env)
}

/// One item of any size, routed by itself.
#[rustler::nif(schedule = "DirtyCpu")]
fn queue_push_dirty(handle: Handle<'_>, item: Term<'_>) -> Atom {
    answer(push(handle.0, item, None, Scale::generous()))
}

/// One item to the partition of this index. Bounded.
#[rustler::nif]
fn queue_push_to(handle: Handle<'_>, item: Term<'_>, index: usize) -> Atom {
    answer(push(handle.0, item, Some(index), Scale::bounded()))
}

/// One item of any size to the partition of this index.
#[rustler::nif(schedule = "DirtyCpu")]
fn queue_push_to_dirty(handle: Handle<'_>, item: Term<'_>, index: usize) -> Atom {
    answer(push(handle.0, item, Some(index), Scale::generous()))
}

nif!(queue_push_await / 3, queue_push_await);

/// One item, routed by itself, of which the caller is told as `queue_push_awaited` tells it, with this token; processing
/// starts at once. What is refused is to be pushed with that. Bounded.
fn queue_push_await<'a>(env: Env<'a>, [buffer, item, token]: [Term<'a>; 3]) -> Term<'a> {
    let buffer = Target::of(buffer);
    answer(buffer.with(|shared| push_await(env, shared, item, token))).to_term(env)
}

fn push_await(
    env: Env<'_>,
    shared: &Shared,
    item: Term<'_>,
    token: Term<'_>,
) -> Result<(), Refused> {
    let partitions = queue(shared)?.partitions();
    let token = token.decode::<u64>().map_err(|_| Refused::Improper)?;
    let weight = Scale::bounded().weigh(item)?;
    let partition = partitions
        .get(own_route(item, partitions.len())?)
        .ok_or(Refused::NoPartitions)?;
    if weight > COPIED_UNDER_LOCK {
        return Err(Refused::Heavy);
    }
    let (mut todo, now) = (Todo::default(), clock::Once::default());
    let written = partition.write_and_await(&mut todo, (env.pid(), token), |live, room| {
        take_room(env, shared, live, room, Size::one(weight))?;
        let before = live.places().1;
        live.push(weight, || now.now(), |arena| arena.store(item));
        Ok::<_, NoRoom>(before..live.places().1)
    })?;
    finish(env, shared, todo, None);
    signal(env, shared, partition, written).map_err(|_| Refused::Full)?;
    begin_at(env, shared, partition, Trigger::Flush, &now);
    Ok(())
}

fn push(
    shared: &Shared,
    item: Term<'_>,
    index: Option<usize>,
    mut scale: Scale,
) -> Result<(), Refused> {
    let partitions = queue(shared)?.partitions();
    let (weight, index) = match index {
        Some(index) => (scale.weigh(item)?, index),
        None => {
            let weight = scale.weigh(item)?;
            (weight, own_route(item, partitions.len())?)
        }
    };
    let partition = partitions.get(index).ok_or(Refused::NoPartitions)?;
    if weight > COPIED_UNDER_LOCK {
        return push_large(shared, item, index, weight);
    }
    let open = partition.open()?;
    if open.is_limited() {
        return push_limited(shared, item, index, weight, open);
    }
    let written = open.append(|live| store(live, item, weight));
    signal(item.get_env(), shared, partition, written);
    Ok(())
}

/// What is copied before the lock is taken.
#[cold]
#[inline(never)]
fn push_large(shared: &Shared, item: Term<'_>, index: usize, weight: u32) -> Result<(), Refused> {
    account(item.get_env(), 0, u64::from(weight));
    let mut staged = Queue::default();
    store(&mut staged, item, weight);
    let open = queue(shared)?.partitions()[index].open()?;
    push_taking_room(shared, item, index, weight, open, |live| {
        live.append(staged)
    })
}

/// A small one, where room is to be taken first.
#[inline(never)]
fn push_limited(
    shared: &Shared,
    item: Term<'_>,
    index: usize,
    weight: u32,
    open: Open<'_, Queue<Arena>, LocalPid>,
) -> Result<(), Refused> {
    push_taking_room(shared, item, index, weight, open, |live| {
        store(live, item, weight)
    })
}

#[inline]
fn push_taking_room(
    shared: &Shared,
    item: Term<'_>,
    index: usize,
    weight: u32,
    open: Open<'_, Queue<Arena>, LocalPid>,
    push: impl FnOnce(&mut Queue<Arena>),
) -> Result<(), Refused> {
    let env = item.get_env();
    let mut todo = Todo::default();
    let written = open.write(&mut todo, |live, room| {
        take_room(env, shared, live, room, Size::one(weight))?;
        push(live);
        Ok(())
    });
    finish(env, shared, todo, None);
    let partition = &queue(shared)?.partitions()[index];
    match signal(env, shared, partition, written) {
        Ok(()) => Ok(()),
        Err(reason) => push_full(shared, item, index, weight, reason),
    }
}

/// There was no room in this partition's turn: what the buffer does then.
#[cold]
fn push_full(
    shared: &Shared,
    item: Term<'_>,
    index: usize,
    weight: u32,
    reason: NoRoom,
) -> Result<(), Refused> {
    let buffer = queue(shared)?;
    let env = item.get_env();
    let partition = &buffer.partitions()[index];
    let size = Size::one(weight);
    match (reason, shared.overflow()) {
        (NoRoom::Full, Overflow::DropNewest) => {
            let keep = |arena: &mut Arena| arena.store(item);
            let written = partition.drop_new(size, shared.keeps_discarded().then_some(keep))?;
            signal(env, shared, partition, written);
            full(env, shared);
            Ok(())
        }
        (NoRoom::Full, Overflow::DropOldest) => {
            let credit = make_room(env, shared, buffer, size, index)?;
            let items = Items::one(item, weight, index, buffer.partitions().len());
            list::write(env, shared, buffer, &items, credit, None)?;
            Ok(())
        }
        _ => Err(refuse(env, shared, reason)),
    }
}

/// The storage, if it is that of a queue.
pub fn queue(shared: &Shared) -> Result<&QueueBuffer, Refused> {
    match &shared.storage {
        Storage::Queue(buffer) => Ok(buffer),
        Storage::Map(_) => Err(Refused::OtherKind),
    }
}

/// Stores one item.
#[inline]
pub fn store(queue: &mut Queue<Arena>, item: Term<'_>, weight: u32) {
    queue.push(weight, clock::now, |arena| arena.store(item));
}

impl Readable for Queue<Arena> {
    fn cursor(&self, place: u64) -> usize {
        place.saturating_sub(self.places().0) as usize
    }

    fn place(&self, cursor: usize) -> u64 {
        self.places().0 + cursor as u64
    }

    fn copy_rows(&self, _env: Env<'_>, count: usize, to: &mut Arena) {
        for (arena, range) in self.pieces(0, count) {
            range.for_each(|index| to.copy_from(arena, index));
        }
    }

    fn read<'a>(&self, env: Env<'a>, cursor: usize, count: usize) -> (Term<'a>, usize) {
        let mut copies = Copies::with_capacity(env, count.min(self.len()));
        for (arena, range) in self.pieces(cursor, count) {
            copies.extend(arena, range);
        }
        let next = cursor + copies.len();
        (copies.into_list(), next)
    }
}
