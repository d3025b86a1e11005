//! NIFs on one partition: swap and drain. How a batch ends, and what was given up, is in `partition/`.

mod discards;
mod settle;

use std::sync::atomic::Ordering;

use buffer_core::{Idle, Mode, NotOwner, Size, Trigger, Wanted};
use rustler::{Atom, Encoder, Env, Error, LocalPid, NifResult, Term};

use crate::arena::Handle;
use crate::begin::told;
use crate::courier::send;
use crate::cycle::{trigger_name, Cycle, Within};
use crate::entry::nif;
use crate::resource::{Overflow, Shared};
use crate::write::Refused;
use crate::{atoms, clock};

fn partition<'a>(handle: Handle<'a>, index: usize) -> NifResult<&'a dyn Cycle> {
    handle.0.storage.partition(index).ok_or(Error::BadArg)
}

/// Makes the live generation the draining one if that is empty; answers how many entries there are
/// to drain. O(1); where the oldest entries make room for new ones, only a batch is taken out of the live
/// generation, since what is draining can't be dropped any more: O(entries of a batch) then.
#[rustler::nif]
fn partition_swap(handle: Handle<'_>, index: usize) -> NifResult<usize> {
    let shared = handle.0;
    Ok(partition(handle, index)?.swap(part(shared)))
}

/// How much of a live generation is swapped out, if not all of it.
pub fn part(shared: &Shared) -> Option<usize> {
    match (shared.overflow(), shared.batch_size()) {
        (Overflow::DropOldest, size) if size > 0 => Some(size.min(SETTLED_QUICKLY)),
        _ => None,
    }
}

/// Has the caller be told when the live generation has so many entries or bytes, or when entries have been
/// dropped. Whether it has so many already: then nobody is told. O(1).
#[rustler::nif]
fn partition_arm(
    env: Env<'_>,
    handle: Handle<'_>,
    index: usize,
    entries: Option<usize>,
    bytes: Option<u64>,
) -> NifResult<bool> {
    let trigger = Size {
        entries: entries.unwrap_or(usize::MAX),
        bytes: bytes.unwrap_or(u64::MAX),
    };
    Ok(partition(handle, index)?.arm(env.pid(), trigger))
}

/// Makes the caller the process that starts runners: it gets `noted` when one is wanted and there is none. A
/// runner of another such process does not go on. O(1).
#[rustler::nif]
fn partition_attend(
    env: Env<'_>,
    handle: Handle<'_>,
    index: usize,
    in_turn: bool,
    manual: bool,
) -> NifResult<Atom> {
    partition(handle, index)?.attend(env.pid(), Mode { in_turn, manual });
    Ok(atoms::ok())
}

/// Starts a cycle: `woken` if the runner drains now, `noted` if it will, or if there is none (then the process
/// that starts runners has been told, unless it is the caller), `nothing` if there is nothing to process, or
/// `paused`. O(1); where the oldest entries make room, O(entries of a batch).
#[rustler::nif]
fn partition_begin(
    env: Env<'_>,
    handle: Handle<'_>,
    index: usize,
    trigger: Atom,
) -> NifResult<Atom> {
    let trigger = decode_trigger(trigger)?;
    let begun = partition(handle, index)?.begin(trigger, part(handle.0));
    let (tell, answer) = told(begun);
    if let Some(tell) = tell.filter(|tell| *tell.process() != env.pid()) {
        tell.send(env);
    }
    Ok(answer)
}

/// The caller, a runner that this process has started, is through: `{Trigger | nil, Size}` if it goes on with
/// what was noted, `{waits, Trigger | nil}` if it is to wait for `{partitioned_buffer_cycle, Trigger, Size}`
/// (there was nothing to process for what had been noted), or `ends`. O(1); where the oldest entries make room,
/// O(entries of a batch).
#[rustler::nif]
fn partition_idle<'a>(
    env: Env<'a>,
    handle: Handle<'_>,
    index: usize,
    attendant: LocalPid,
) -> NifResult<Term<'a>> {
    let idle = partition(handle, index)?.idle(env.pid(), attendant, part(handle.0));
    Ok(match idle {
        Idle::Drains(started) => (trigger_name(started.trigger), started.size).encode(env),
        Idle::Waits(noted) => (atoms::waits(), trigger_name(noted)).encode(env),
        Idle::Ends => atoms::ends().encode(env),
    })
}

/// The caller, a runner, ends: it waits no more, and a cycle that was started for it, or that it got the first batch of
/// and has not begun with, is the next one's to do. `unsaid` is what has started the latter, or nil. O(1).
#[rustler::nif]
fn partition_leave(
    env: Env<'_>,
    handle: Handle<'_>,
    index: usize,
    unsaid: Atom,
) -> NifResult<Atom> {
    let unsaid = (unsaid != atoms::nil()).then(|| decode_trigger(unsaid));
    partition(handle, index)?.leave(env.pid(), unsaid.transpose()?);
    Ok(atoms::ok())
}

/// Sends the runner `partitioned_buffer_sent_away` that waits and has done so since there were so many cycles: `ok`; it
/// waits no more then. Otherwise how many there have been. O(1).
#[rustler::nif]
fn partition_send_away<'a>(
    env: Env<'a>,
    handle: Handle<'_>,
    index: usize,
    cycles: u64,
) -> NifResult<Term<'a>> {
    Ok(match partition(handle, index)?.send_away(cycles) {
        Ok(runner) => {
            // Dead: then it is gone.
            _ = send(env, &runner, atoms::partitioned_buffer_sent_away());
            atoms::ok().encode(env)
        }
        Err(cycles) => cycles.encode(env),
    })
}

/// Whether there is something for a runner to do: something drains, or a cycle is noted. O(1).
#[rustler::nif]
fn partition_pending(handle: Handle<'_>, index: usize) -> NifResult<bool> {
    Ok(partition(handle, index)?.is_pending())
}

/// What will start a cycle when what drains is through, or nil. O(1).
#[rustler::nif]
fn partition_noted(handle: Handle<'_>, index: usize) -> NifResult<Option<Atom>> {
    Ok(partition(handle, index)?.noted().map(atoms::of_trigger))
}

/// Notes in how many milliseconds the next tick is, or that there will be none. O(1).
#[rustler::nif]
fn partition_scheduled(handle: Handle<'_>, index: usize, ms: Option<i64>) -> NifResult<Atom> {
    let mark = handle.0.marks.get(index).ok_or(Error::BadArg)?;
    let moment = ms.map_or(0, |ms| clock::now() + ms * 1_000_000);
    mark.next_flush.store(moment, Ordering::Relaxed);
    Ok(atoms::ok())
}

/// From now on no batch is started, or batches are again. O(1).
#[rustler::nif]
fn partition_pause(handle: Handle<'_>, index: usize, paused: bool) -> NifResult<Atom> {
    partition(handle, index)?.pause(paused);
    Ok(atoms::ok())
}

/// Has the caller get `{partitioned_buffer, Token, Outcome}` when all that the partition holds now has been
/// through. `false` if it holds nothing: then nobody is told. O(1).
#[rustler::nif]
fn partition_await(env: Env<'_>, handle: Handle<'_>, index: usize, token: u64) -> NifResult<bool> {
    Ok(partition(handle, index)?.await_all(env.pid(), token))
}

/// The same, but the outcome is that of what waits, if something does: not that of what drains. O(1).
#[rustler::nif]
fn partition_await_newest(
    env: Env<'_>,
    handle: Handle<'_>,
    index: usize,
    token: u64,
) -> NifResult<bool> {
    Ok(partition(handle, index)?.await_newest(env.pid(), token))
}

/// That one gets nothing any more: whether it would have. O(those who wait).
#[rustler::nif]
fn partition_await_no_more(handle: Handle<'_>, index: usize, token: u64) -> NifResult<bool> {
    Ok(partition(handle, index)?.await_no_more(token))
}

/// Makes the caller the one who drains: `:ok`, or `:not_owner` if another process does. O(1).
#[rustler::nif]
fn partition_claim(env: Env<'_>, handle: Handle<'_>, index: usize) -> NifResult<Atom> {
    Ok(match partition(handle, index)?.claim(env.pid()) {
        Ok(()) => atoms::ok(),
        Err(NotOwner) => atoms::not_owner(),
    })
}

/// Settling a batch takes time for each of its entries, and for each that waits for it: what is more is
/// left to a dirty scheduler.
const SETTLED_QUICKLY: usize = 10_000;
const TOLD_QUICKLY: usize = 100;

fn wanted(shared: &Shared, entries: usize) -> Wanted {
    Wanted {
        entries,
        bytes: shared.max_batch_bytes(),
        not_before: shared.not_before(),
    }
}

/// Settles the caller's batch as processed and starts its next one of the size that is set now: a list;
/// `:large` for a batch that `partition_copy_dirty` must copy; `:empty`; `:not_owner`; `:paused`; or, having
/// done nothing, `:look` if it is `look_at` by now, `:dirty` if `partition_next_dirty` must do it or `:table` if a
/// table is wanted. `result` is what the processor made of the batch. Bounded by [`crate::weigh::Limits`].
#[rustler::nif]
fn partition_next<'a>(
    env: Env<'a>,
    handle: Handle<'_>,
    index: usize,
    result: Term<'a>,
    look_at: i64,
) -> NifResult<Term<'a>> {
    let shared = handle.0;
    let partition = partition(handle, index)?;
    let now = clock::now();
    if now >= look_at {
        return Ok(atoms::look_again().encode(env));
    }
    Ok(match normally(shared, partition) {
        Ok(size) => partition.next(
            env,
            shared,
            wanted(shared, size),
            Within::Bounds,
            result,
            now,
        ),
        Err(instead) => instead.encode(env),
    })
}

/// How many entries a batch may have that a normal scheduler settles; or what is to be done instead.
fn normally(shared: &Shared, partition: &dyn Cycle) -> Result<usize, Atom> {
    match shared.batch_size() {
        0 => Err(atoms::table()),
        size if size > SETTLED_QUICKLY
            || shared.has_max_age()
            || partition.awaiting() > TOLD_QUICKLY =>
        {
            Err(atoms::dirty())
        }
        size => Ok(size),
    }
}

/// The same for batches and entries of any size: neither `:large` nor `:dirty`, but `:expired_some` if
/// entries were given up because of their age: then ask again.
#[rustler::nif(schedule = "DirtyCpu")]
fn partition_next_dirty<'a>(
    env: Env<'a>,
    handle: Handle<'_>,
    index: usize,
    result: Term<'a>,
) -> NifResult<Term<'a>> {
    let shared = handle.0;
    let partition = partition(handle, index)?;
    Ok(match shared.batch_size() {
        0 => atoms::table().encode(env),
        size => {
            let wanted = wanted(shared, size);
            partition.next(env, shared, wanted, Within::Anything, result, clock::now())
        }
    })
}

nif!(partition_advance / 5, partition_advance);

/// The same for a runner that this process has started, which goes on with the next cycle then, or waits: besides what
/// `partition_next` answers, `{Trigger | nil, Size, Batch}` if a cycle begins with this batch, which may have entries of
/// the one before it too, and what `partition_idle` answers instead of `:empty` and `:paused`: `{waits, Trigger | nil, Much}`
/// also tells whether much was processed since it has waited before; `waits` is the same for nil and false.
fn partition_advance<'a>(env: Env<'a>, arguments: [Term<'a>; 5]) -> Term<'a> {
    let advanced = advance(env, arguments);
    advanced.unwrap_or_else(|_| Refused::Improper.atom().encode(env))
}

fn advance<'a>(
    env: Env<'a>,
    [handle, index, attendant, result, look_at]: [Term<'a>; 5],
) -> NifResult<Term<'a>> {
    let handle: Handle<'a> = handle.decode()?;
    let (index, attendant, look_at) = (index.decode()?, attendant.decode()?, look_at.decode()?);
    let shared = handle.0;
    let partition = partition(handle, index)?;
    let now = clock::now();
    if now >= look_at {
        return Ok(atoms::look_again().encode(env));
    }
    Ok(match normally(shared, partition) {
        Ok(size) => {
            let wanted = wanted(shared, size);
            partition.advance(env, shared, attendant, wanted, Within::Bounds, result, now)
        }
        Err(instead) => instead.encode(env),
    })
}

/// The same for batches and entries of any size; see `partition_next_dirty`.
#[rustler::nif(schedule = "DirtyCpu")]
fn partition_advance_dirty<'a>(
    env: Env<'a>,
    handle: Handle<'_>,
    index: usize,
    attendant: LocalPid,
    result: Term<'a>,
) -> NifResult<Term<'a>> {
    let shared = handle.0;
    let partition = partition(handle, index)?;
    Ok(match shared.batch_size() {
        0 => atoms::table().encode(env),
        size => {
            let (wanted, within) = (wanted(shared, size), Within::Anything);
            partition.advance(env, shared, attendant, wanted, within, result, clock::now())
        }
    })
}

/// The entries of the batch in flight, whatever its size.
#[rustler::nif(schedule = "DirtyCpu")]
fn partition_copy_dirty<'a>(env: Env<'a>, handle: Handle<'_>, index: usize) -> NifResult<Term<'a>> {
    Ok(partition(handle, index)?.copy(env))
}

/// Up to `count` entries of the draining generation from a cursor on, without starting a batch of
/// them: `{entries, next_cursor}`. The first cursor is 0. Dirty, since entries may be of any size.
#[rustler::nif(schedule = "DirtyCpu")]
fn partition_peek_dirty<'a>(
    env: Env<'a>,
    handle: Handle<'_>,
    index: usize,
    cursor: usize,
    count: usize,
) -> NifResult<(Term<'a>, usize)> {
    Ok(partition(handle, index)?.peek(env, cursor, count))
}

/// Entries that are queued and come after a place, about `count` of them or none: `{entries, next_place}`. The
/// first place is 0. Locks of the partition are held meanwhile, so `count` is to be small. Dirty, since entries
/// may be of any size.
#[rustler::nif(schedule = "DirtyCpu")]
fn partition_dump_dirty<'a>(
    env: Env<'a>,
    handle: Handle<'_>,
    index: usize,
    place: u64,
    count: usize,
) -> NifResult<(Term<'a>, u64)> {
    Ok(partition(handle, index)?.dump(env, place, count))
}

/// What is to be tried again first: nil, or `{len, pending}` with how many entries of the draining generation
/// that are, and which of them (places from 0 on, or nil for all). O(entries of a batch).
#[rustler::nif(schedule = "DirtyCpu")]
fn partition_again(
    handle: Handle<'_>,
    index: usize,
) -> NifResult<Option<(usize, Option<Vec<u32>>)>> {
    let again = partition(handle, index)?.again();
    Ok(again.map(|(len, pending)| (len, pending.map(|pending| pending.to_vec()))))
}

/// Gives up entries of the caller's drain that are too old, when it has no batch: whether there were any. There
/// may be more then.
#[rustler::nif(schedule = "DirtyCpu")]
fn partition_expire(env: Env<'_>, handle: Handle<'_>, index: usize) -> NifResult<bool> {
    let partition = partition(handle, index)?;
    Ok(match handle.0.not_before() {
        Some(moment) => partition
            .expire_some(env, handle.0, moment)
            .unwrap_or(false),
        None => false,
    })
}

/// Settles the caller's batch as processed: how many entries are left to drain, or `:not_owner`.
/// O(entries of the batch).
#[rustler::nif(schedule = "DirtyCpu")]
fn partition_done<'a>(
    env: Env<'a>,
    handle: Handle<'_>,
    index: usize,
    result: Term<'a>,
) -> NifResult<Term<'a>> {
    Ok(
        match partition(handle, index)?.done(env, handle.0, result) {
            Ok(left) => left.encode(env),
            Err(NotOwner) => atoms::not_owner().encode(env),
        },
    )
}

/// Settles the caller's batch as processed and starts one of all that is to drain, without copying
/// it: how many entries, `:empty`, `:paused` or `:not_owner`. O(entries) for what it settles.
#[rustler::nif(schedule = "DirtyCpu")]
fn partition_start_all<'a>(
    env: Env<'a>,
    handle: Handle<'_>,
    index: usize,
    result: Term<'a>,
) -> NifResult<Term<'a>> {
    Ok(partition(handle, index)?.start_all(env, handle.0, result))
}

/// The batch in flight: `{first, last, attempt, size}`, or nil. O(1).
#[rustler::nif]
fn partition_batch(handle: Handle<'_>, index: usize) -> NifResult<Option<(u64, u64, u32, usize)>> {
    let (_, batch) = partition(handle, index)?.status();
    Ok(batch.map(|batch| (batch.first, batch.last, batch.attempt, batch.held())))
}

/// For how long the batch in flight has been with the processor, in nanoseconds, or nil. O(1).
#[rustler::nif]
fn partition_elapsed(handle: Handle<'_>, index: usize) -> NifResult<Option<i64>> {
    let (_, batch) = partition(handle, index)?.status();
    Ok(batch.map(|batch| clock::since(batch.started_at)))
}

/// The library's clock: nanoseconds since it was first used.
#[rustler::nif]
fn clock() -> i64 {
    clock::now()
}

/// The process that drains, if any, and for how long it has had its batch, in milliseconds:
/// `{pid | nil, ms | nil}`. O(1).
#[rustler::nif]
fn partition_status(
    handle: Handle<'_>,
    index: usize,
) -> NifResult<(Option<LocalPid>, Option<i64>)> {
    let (owner, batch) = partition(handle, index)?.status();
    let elapsed = batch.map(|batch| clock::since(batch.started_at) / 1_000_000);
    Ok((owner, elapsed))
}

/// Whether the partition has been closed. O(1).
#[rustler::nif]
fn partition_closed(handle: Handle<'_>, index: usize) -> NifResult<bool> {
    Ok(partition(handle, index)?.is_closed())
}

fn decode_trigger(trigger: Atom) -> NifResult<Trigger> {
    let all = [
        Trigger::Interval,
        Trigger::MaxSize,
        Trigger::Flush,
        Trigger::Resume,
        Trigger::Stop,
        Trigger::Capacity,
    ];
    let known = all
        .into_iter()
        .find(|&known| atoms::of_trigger(known) == trigger);
    known.ok_or(Error::BadArg)
}
