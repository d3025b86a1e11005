//! NIFs on one partition: swap, drain, settle.

use std::sync::atomic::Ordering;

use buffer_core::{Discarded, NotOwner, Reason};
use rustler::{Atom, Encoder, Env, Error, LocalPid, NifResult, Term};

use crate::arena::Handle;
use crate::cycle::{Cycle, Within};
use crate::{atoms, clock};

fn partition<'a>(handle: Handle<'a>, index: usize) -> NifResult<&'a dyn Cycle> {
    handle.0.storage.partition(index).ok_or(Error::BadArg)
}

/// Makes the live generation the draining one if that is empty; answers how many entries there are
/// to drain. O(1).
#[rustler::nif]
fn partition_swap(handle: Handle<'_>, index: usize) -> NifResult<usize> {
    Ok(partition(handle, index)?.swap())
}

/// Entries of the draining generation, those in flight included. O(1).
#[rustler::nif]
fn partition_draining(handle: Handle<'_>, index: usize) -> NifResult<usize> {
    Ok(partition(handle, index)?.draining())
}

/// Makes the caller the one who drains: `:ok`, or `:not_owner` if another process does. O(1).
#[rustler::nif]
fn partition_claim(env: Env<'_>, handle: Handle<'_>, index: usize) -> NifResult<Atom> {
    Ok(match partition(handle, index)?.claim(env.pid()) {
        Ok(()) => atoms::ok(),
        Err(NotOwner) => atoms::not_owner(),
    })
}

/// Settling a batch takes time for each of its entries: what is larger is left to a dirty scheduler.
const SETTLED_QUICKLY: usize = 10_000;

/// Settles the caller's batch as processed and starts its next one of the size that is set now: a list;
/// `:large` for a batch that `partition_copy_dirty` must copy; `:empty`; `:not_owner`; or, having done
/// nothing, `:dirty` if `partition_next_dirty` must do it or `:table` if a table is wanted. Bounded by
/// [`crate::weigh::Limits`].
#[rustler::nif]
fn partition_next<'a>(env: Env<'a>, handle: Handle<'_>, index: usize) -> NifResult<Term<'a>> {
    Ok(match handle.0.batch_size.load(Ordering::Relaxed) {
        0 => atoms::table().encode(env),
        size if size > SETTLED_QUICKLY => atoms::dirty().encode(env),
        size => partition(handle, index)?.next(env, size, Within::Bounds),
    })
}

/// The same for batches and entries of any size: neither `:large` nor `:dirty`.
#[rustler::nif(schedule = "DirtyCpu")]
fn partition_next_dirty<'a>(env: Env<'a>, handle: Handle<'_>, index: usize) -> NifResult<Term<'a>> {
    Ok(match handle.0.batch_size.load(Ordering::Relaxed) {
        0 => atoms::table().encode(env),
        size => partition(handle, index)?.next(env, size, Within::Anything),
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

/// Settles the caller's batch as processed: how many entries are left to drain, or `:not_owner`.
/// O(entries of the batch).
#[rustler::nif(schedule = "DirtyCpu")]
fn partition_done<'a>(env: Env<'a>, handle: Handle<'_>, index: usize) -> NifResult<Term<'a>> {
    Ok(match partition(handle, index)?.done(env.pid()) {
        Ok(left) => left.encode(env),
        Err(NotOwner) => atoms::not_owner().encode(env),
    })
}

/// Settles the caller's batch as processed and starts one of all that is to drain, without copying
/// it: how many entries, `:empty`, or `:not_owner`. O(entries) for what it settles.
#[rustler::nif(schedule = "DirtyCpu")]
fn partition_start_all<'a>(env: Env<'a>, handle: Handle<'_>, index: usize) -> NifResult<Term<'a>> {
    Ok(partition(handle, index)?.start_all(env))
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

/// Tells that the processor has failed with the caller's batch. O(1).
#[rustler::nif]
fn partition_fail(env: Env<'_>, handle: Handle<'_>, index: usize) -> NifResult<Atom> {
    Ok(match partition(handle, index)?.fail(env.pid()) {
        Ok(()) => atoms::ok(),
        Err(NotOwner) => atoms::not_owner(),
    })
}

/// Takes the drain from its owner, who is gone, and discards the batch that it had: how many entries.
/// O(entries of the batch), after a copy of it that may still be going on.
#[rustler::nif(schedule = "DirtyCpu")]
fn partition_settle(handle: Handle<'_>, index: usize, reason: Atom) -> NifResult<usize> {
    let discarded = partition(handle, index)?.settle(decode_reason(reason)?);
    Ok(discarded.map_or(0, |discarded| discarded.len))
}

/// Discards all that a closed partition still holds: how many entries. O(segments).
#[rustler::nif(schedule = "DirtyCpu")]
fn partition_discard_rest(handle: Handle<'_>, index: usize, reason: Atom) -> NifResult<usize> {
    let discarded = partition(handle, index)?.discard_rest(decode_reason(reason)?);
    Ok(discarded.map_or(0, |discarded| discarded.len))
}

/// What was discarded and has not been reported, in order: a list of `{reason, size, bytes}`.
#[rustler::nif]
fn partition_unreported(handle: Handle<'_>, index: usize) -> NifResult<Vec<(Atom, usize, u64)>> {
    let unreported = partition(handle, index)?.unreported();
    let encode = |one: Discarded| (encode_reason(one.reason), one.len, one.bytes);
    Ok(unreported.into_iter().map(encode).collect())
}

/// The first `count` of it have been reported.
#[rustler::nif]
fn partition_reported(handle: Handle<'_>, index: usize, count: usize) -> NifResult<Atom> {
    partition(handle, index)?.reported(count);
    Ok(atoms::ok())
}

/// Whether the partition has been closed. O(1).
#[rustler::nif]
fn partition_closed(handle: Handle<'_>, index: usize) -> NifResult<bool> {
    Ok(partition(handle, index)?.is_closed())
}

fn encode_reason(reason: Reason) -> Atom {
    match reason {
        Reason::Exception => atoms::exception(),
        Reason::Killed => atoms::killed(),
        Reason::Timeout => atoms::timeout(),
        Reason::Shutdown => atoms::shutdown(),
    }
}

fn decode_reason(reason: Atom) -> NifResult<Reason> {
    let known = Reason::ALL
        .into_iter()
        .find(|&known| encode_reason(known) == reason);
    known.ok_or(Error::BadArg)
}
