//! NIFs of a queue whose partitions fill one after the other and are handed over when they are full.
//!
//! A write answers `ok`, or why nothing was written: `closed`, `unknown`, `no_partitions`, `other_kind`, `improper` (not
//! a proper list), `{heavy, Index}` (call the `_dirty` twin with this partition; from that one: an item of
//! 4 GB or more) or `{wait, Index}` (the partition is full and drains: `data_buffer_stand`). It also answers
//! `who_listens` when it is time to look whether somebody listens to what is written, and `listening` while somebody
//! does: then the writes that name a partition are to be used.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};

use buffer_core::{NoTurn, Partition, Queue, Standings, Stood, Trigger};
use rustler::{Atom, Encoder, Env, Error, LocalPid, NifResult, Term};
use smallvec::SmallVec;

use crate::arena::{Arena, Handle};
use crate::begin::begin;
use crate::names::Target;
use crate::queue::{queue, store, COPIED_UNDER_LOCK, LISTED_UNDER_LOCK};
use crate::resource::Shared;
use crate::weigh::{account, Limits, Scale};
use crate::write::{finish, signal, Refused, Todo};
use crate::{atoms, clock};

/// For how long nobody is thought to listen once that has been found.
const LOOK_AGAIN_NS: i64 = 1_000_000;

/// What writes without a partition go by. Relaxed: none of it stands for anything else.
#[derive(Debug, Default)]
pub struct Round {
    /// How many there have been.
    writes: AtomicUsize,
    /// When somebody last looked who listens; 0: never.
    looked_at: AtomicI64,
    listening: AtomicBool,
}

impl Round {
    /// The next partition: the second one first.
    fn next(&self, partitions: usize) -> usize {
        if partitions == 1 {
            return 0;
        }
        self.writes
            .fetch_add(1, Ordering::Relaxed)
            .wrapping_add(1)
            .checked_rem(partitions)
            .unwrap_or(0)
    }

    /// What to do before a write.
    fn ask(&self) -> Option<Atom> {
        let looked_at = self.looked_at.load(Ordering::Relaxed);
        if looked_at == 0 || clock::since(looked_at) > LOOK_AGAIN_NS {
            Some(atoms::who_listens())
        } else if self.listening.load(Ordering::Relaxed) {
            Some(atoms::listening())
        } else {
            None
        }
    }
}

/// Why nothing was written, and to which partition it was to be.
struct Not(Refused, usize);

/// One item to the next partition of the buffer that has this name. Bounded.
#[rustler::nif]
fn data_buffer_insert<'a>(env: Env<'a>, buffer: Target<'a>, item: Term<'a>) -> Term<'a> {
    next(env, buffer, |shared, index| {
        insert(shared, item, index, Scale::bounded())
    })
}

/// One item to this partition. Bounded.
#[rustler::nif]
fn data_buffer_insert_to<'a>(
    env: Env<'a>,
    handle: Handle<'_>,
    item: Term<'a>,
    index: usize,
) -> Term<'a> {
    answer(env, insert(handle.0, item, index, Scale::bounded()))
}

/// One item of any size to this partition.
#[rustler::nif(schedule = "DirtyCpu")]
fn data_buffer_insert_to_dirty<'a>(
    env: Env<'a>,
    handle: Handle<'_>,
    item: Term<'a>,
    index: usize,
) -> Term<'a> {
    answer(env, insert(handle.0, item, index, Scale::generous()))
}

/// All items of a list to the next partition of the buffer that has this name. Bounded.
#[rustler::nif]
fn data_buffer_insert_all<'a>(env: Env<'a>, buffer: Target<'a>, items: Term<'a>) -> Term<'a> {
    next(env, buffer, |shared, index| {
        let (scale, limit) = (Scale::bounded(), Limits::ENTRIES);
        insert_all(shared, items, index, scale, limit)
    })
}

/// All items of a list to this partition. Bounded.
#[rustler::nif]
fn data_buffer_insert_all_to<'a>(
    env: Env<'a>,
    handle: Handle<'_>,
    items: Term<'a>,
    index: usize,
) -> Term<'a> {
    let (scale, limit) = (Scale::bounded(), Limits::ENTRIES);
    answer(env, insert_all(handle.0, items, index, scale, limit))
}

/// All items of a list of any length, of any size, to this partition.
#[rustler::nif(schedule = "DirtyCpu")]
fn data_buffer_insert_all_to_dirty<'a>(
    env: Env<'a>,
    handle: Handle<'_>,
    items: Term<'a>,
    index: usize,
) -> Term<'a> {
    let (scale, limit) = (Scale::generous(), usize::MAX);
    answer(env, insert_all(handle.0, items, index, scale, limit))
}

/// The partition of the next write. O(1).
#[rustler::nif]
fn data_buffer_next(handle: Handle<'_>) -> usize {
    let shared = handle.0;
    shared.round.next(shared.storage.partitions())
}

/// Whether somebody listens, who has just looked. O(1).
#[rustler::nif]
fn data_buffer_looked(handle: Handle<'_>, listening: bool) -> Atom {
    let round = &handle.0.round;
    round.listening.store(listening, Ordering::Relaxed);
    round
        .looked_at
        .store(clock::now().max(1), Ordering::Relaxed);
    atoms::ok()
}

/// Writes all items of a list to this partition when it is their turn: `ok`, `wait`, or why they never will
/// be. With `wait` the caller gets `{partitioned_buffer, Token, {ok, nil}}` when they are written, or
/// `{partitioned_buffer, Token, {error, shutdown}}` when the buffer has been closed, unless it steps out first
/// (`data_buffer_step_out`). Dirty, since items may be of any size.
#[rustler::nif(schedule = "DirtyCpu")]
fn data_buffer_stand<'a>(
    env: Env<'a>,
    handle: Handle<'_>,
    items: Term<'a>,
    index: usize,
    token: u64,
) -> Atom {
    stand(env, handle.0, items, index, token).unwrap_or_else(Refused::atom)
}

/// Takes the caller's write out of the line: whether it stood there. If not, the caller has been told or is
/// about to be. O(those in line).
#[rustler::nif(schedule = "DirtyCpu")]
fn data_buffer_step_out(
    env: Env<'_>,
    handle: Handle<'_>,
    index: usize,
    token: u64,
) -> NifResult<bool> {
    let partition = partition(handle.0, index)?;
    let mut todo = Todo::default();
    let stood = partition.step_out(token, &mut todo);
    finish(env, handle.0, todo, None);
    Ok(stood)
}

/// Has the partition's live generation be full with so many entries (nil: never), and the caller be told
/// `due` when it has been swapped out because of that. Whether writers wait: then it is time for
/// `data_buffer_turn`. O(1).
#[rustler::nif]
fn data_buffer_arm(
    env: Env<'_>,
    handle: Handle<'_>,
    index: usize,
    full: Option<usize>,
) -> NifResult<bool> {
    let partition = partition(handle.0, index)?;
    Ok(partition.set_full(env.pid(), full.unwrap_or(usize::MAX)))
}

/// Serves those who stand in line; how many entries there are to drain. O(those served), so it is dirty.
#[rustler::nif(schedule = "DirtyCpu")]
fn data_buffer_turn(env: Env<'_>, handle: Handle<'_>, index: usize) -> NifResult<usize> {
    let partition = partition(handle.0, index)?;
    let mut todo = Todo::default();
    // Whoever calls this sees to what drains.
    let turn = partition.turn(|pid| pid.is_alive(env), clock::now, &mut todo);
    finish(env, handle.0, todo, None);
    Ok(turn.draining)
}

/// How the live generation stands: `{Base, Entries, Full | nil, InLine}`. Another one has another base. Dirty:
/// it looks for those in line who are dead.
#[rustler::nif(schedule = "DirtyCpu")]
fn data_buffer_standings(
    env: Env<'_>,
    handle: Handle<'_>,
    index: usize,
) -> NifResult<(u64, usize, Option<usize>, usize)> {
    let partition = partition(handle.0, index)?;
    let now = standings(env, handle.0, partition);
    let full = (now.full < usize::MAX).then_some(now.full);
    Ok((now.base, now.len, full, now.in_line))
}

/// Tells those in line that the buffer has been closed.
pub fn dismiss(env: Env<'_>, shared: &Shared) {
    let Ok(buffer) = queue(shared) else {
        return;
    };
    for partition in buffer.partitions() {
        let mut todo = Todo::default();
        partition.dismiss(&mut todo);
        finish(env, shared, todo, None);
    }
}

/// How many stand in line, in all partitions. Those who are dead do no longer.
pub fn in_line(env: Env<'_>, shared: &Shared) -> usize {
    let Ok(buffer) = queue(shared) else {
        return 0;
    };
    let partitions = buffer.partitions().iter();
    partitions
        .map(|partition| standings(env, shared, partition).in_line)
        .sum()
}

fn standings(env: Env<'_>, shared: &Shared, partition: &QueuePartition) -> Standings {
    let mut todo = Todo::default();
    partition.step_out_dead(|pid| pid.is_alive(env), &mut todo);
    finish(env, shared, todo, None);
    partition.standings()
}

type QueuePartition = Partition<Queue<Arena>, LocalPid>;

fn partition(shared: &Shared, index: usize) -> NifResult<&QueuePartition> {
    let buffer = queue(shared).map_err(|_| Error::BadArg)?;
    buffer.partitions().get(index).ok_or(Error::BadArg)
}

/// Writes to the next partition, if nobody is to be told of it.
#[inline]
fn next<'a>(
    env: Env<'a>,
    buffer: Target<'a>,
    write: impl FnOnce(&Shared, usize) -> Result<(), Not>,
) -> Term<'a> {
    let written = buffer.with(|shared| {
        if let Some(ask) = shared.round.ask() {
            return Ok(ask.encode(env));
        }
        let index = shared.round.next(shared.storage.partitions());
        Ok(answer(env, write(shared, index)))
    });
    written.unwrap_or_else(|refused| refused.atom().encode(env))
}

fn answer<'a>(env: Env<'a>, result: Result<(), Not>) -> Term<'a> {
    match result {
        Ok(()) => atoms::ok().encode(env),
        Err(Not(refused @ (Refused::Heavy | Refused::Wait), index)) => {
            (refused.atom(), index).encode(env)
        }
        Err(Not(refused, _)) => refused.atom().encode(env),
    }
}

fn insert(shared: &Shared, item: Term<'_>, index: usize, mut scale: Scale) -> Result<(), Not> {
    let not = |refused| Not(refused, index);
    let buffer = queue(shared).map_err(not)?;
    let partition = buffer.partitions().get(index);
    let partition = partition.ok_or(not(Refused::NoPartitions))?;
    let weight = scale.weigh(item).map_err(|heavy| not(heavy.into()))?;
    let env = item.get_env();
    account(env, 0, u64::from(weight));
    if weight <= COPIED_UNDER_LOCK {
        write(env, shared, partition, |live| store(live, item, weight)).map_err(not)
    } else {
        let mut staged = Queue::default();
        store(&mut staged, item, weight);
        let mut staged = Some(staged);
        write(env, shared, partition, |live| {
            live.append(staged.take().unwrap_or_default());
        })
        .map_err(not)
    }
}

fn insert_all(
    shared: &Shared,
    items: Term<'_>,
    index: usize,
    mut scale: Scale,
    limit: usize,
) -> Result<(), Not> {
    let not = |refused| Not(refused, index);
    let buffer = queue(shared).map_err(not)?;
    let partition = buffer.partitions().get(index);
    let partition = partition.ok_or(not(Refused::NoPartitions))?;
    let env = items.get_env();
    let items = gather(items, &mut scale, limit).map_err(not)?;
    account(env, items.len(), scale.weighed());
    let heavy = |(_, weight): &(Term<'_>, u32)| *weight > COPIED_UNDER_LOCK;
    if items.len() <= LISTED_UNDER_LOCK && !items.iter().any(heavy) {
        write(env, shared, partition, |live| store_all(live, &items)).map_err(not)
    } else {
        let mut staged = Queue::default();
        store_all(&mut staged, &items);
        let mut staged = Some(staged);
        write(env, shared, partition, |live| {
            live.append(staged.take().unwrap_or_default());
        })
        .map_err(not)
    }
}

/// Writes; once the full generation has been swapped out, if need be. `store` is called once at the most.
fn write(
    env: Env<'_>,
    shared: &Shared,
    partition: &QueuePartition,
    mut store: impl FnMut(&mut Queue<Arena>),
) -> Result<(), Refused> {
    let mut todo = Todo::default();
    let mut result = partition.insert(&mut todo, &mut store);
    if matches!(result, Err(NoTurn::Full)) {
        // By this one, or by another writer that was faster.
        if partition.swap_full(clock::now).is_some() {
            begin(env, shared, partition, Trigger::MaxSize);
        }
        result = partition.insert(&mut todo, &mut store);
    }
    finish(env, shared, todo, None);
    match result {
        Ok(written) => {
            signal(env, shared, partition, written);
            Ok(())
        }
        Err(NoTurn::Full) => Err(Refused::Wait),
        Err(NoTurn::Closed) => Err(Refused::Closed),
    }
}

fn stand(
    env: Env<'_>,
    shared: &Shared,
    items: Term<'_>,
    index: usize,
    token: u64,
) -> Result<Atom, Refused> {
    let partition = queue(shared)?.partitions().get(index);
    let partition = partition.ok_or(Refused::NoPartitions)?;
    let items = gather(items, &mut Scale::generous(), usize::MAX)?;
    let mut entries = Queue::default();
    store_all(&mut entries, &items);
    let mut todo = Todo::default();
    let stood = partition.stand((env.pid(), token), entries, &mut todo);
    let answer = match stood {
        Ok(Stood::Written) => Ok(atoms::ok()),
        Ok(Stood::Waits) => {
            // The drain may have ended just before.
            let turn = partition.turn(|pid| pid.is_alive(env), clock::now, &mut todo);
            if turn.signal.is_some() {
                begin(env, shared, partition, Trigger::MaxSize);
            }
            Ok(atoms::wait())
        }
        Err(closed) => Err(closed.into()),
    };
    finish(env, shared, todo, None);
    answer
}

type Items<'a> = SmallVec<[(Term<'a>, u32); 16]>;

/// Walks the list once: nothing is written before all of it is known to be in order.
fn gather<'a>(items: Term<'a>, scale: &mut Scale, limit: usize) -> Result<Items<'a>, Refused> {
    let mut gathered = Items::new();
    let mut rest = items;
    while let Ok((item, tail)) = rest.list_get_cell() {
        if gathered.len() == limit {
            return Err(Refused::Heavy);
        }
        gathered.push((item, scale.weigh(item)?));
        rest = tail;
    }
    if rest.is_empty_list() {
        Ok(gathered)
    } else {
        Err(Refused::Improper)
    }
}

fn store_all(queue: &mut Queue<Arena>, items: &[(Term<'_>, u32)]) {
    for (item, weight) in items {
        store(queue, *item, *weight);
    }
}
