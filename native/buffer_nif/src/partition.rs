//! NIFs on one partition: swap, drain, settle.

use buffer_core::{Batch, NotOwner, Queue, Reason};
use rustler::{Atom, Encoder, Env, Error, LocalPid, NifResult, Term};

use crate::arena::{Arena, Copies, Handle};
use crate::reclaimer::{reclaim, Retired};
use crate::resource::Partition;
use crate::weigh::{account, Limits};
use crate::{atoms, clock};

fn partition<'a>(handle: Handle<'a>, index: usize) -> NifResult<&'a Partition> {
    handle.0.buffer.partitions().get(index).ok_or(Error::BadArg)
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

/// Settles the caller's batch as processed and starts its next one of up to `limit` entries:
/// a list; `:large` for a batch that `partition_copy_dirty` must copy; `:empty`; or `:not_owner`.
/// Bounded by [`Limits`].
#[rustler::nif]
fn partition_next<'a>(
    env: Env<'a>,
    handle: Handle<'_>,
    index: usize,
    limit: usize,
) -> NifResult<Term<'a>> {
    let partition = partition(handle, index)?;
    let mut retired = Retired::default();
    let next = partition.next(
        env.pid(),
        limit,
        clock::now,
        &mut retired,
        |drain, batch| {
            if batch.len > Limits::ENTRIES || batch.bytes > Limits::BYTES {
                atoms::large().encode(env)
            } else {
                account(env, batch.len / 2, batch.bytes);
                copy(env, drain, batch.len)
            }
        },
    );
    reclaim(retired);
    Ok(answer(env, next))
}

fn answer<'a>(env: Env<'a>, next: Result<Option<Term<'a>>, NotOwner>) -> Term<'a> {
    match next {
        Ok(Some(term)) => term,
        Ok(None) => atoms::empty().encode(env),
        Err(NotOwner) => atoms::not_owner().encode(env),
    }
}

/// The entries of the batch in flight, whatever its size.
#[rustler::nif(schedule = "DirtyCpu")]
fn partition_copy_dirty<'a>(env: Env<'a>, handle: Handle<'_>, index: usize) -> NifResult<Term<'a>> {
    Ok(partition(handle, index)?
        .read(|drain, batch| copy(env, drain, batch.map_or(0, |batch| batch.len))))
}

/// Up to `count` entries of the draining generation after the first `skip`, without starting a
/// batch of them. Dirty, since the entries may be of any size.
#[rustler::nif(schedule = "DirtyCpu")]
fn partition_peek_dirty<'a>(
    env: Env<'a>,
    handle: Handle<'_>,
    index: usize,
    skip: usize,
    count: usize,
) -> NifResult<Term<'a>> {
    Ok(partition(handle, index)?.read(|drain, _| list(env, drain, skip, count)))
}

/// Starts a batch of all that is to drain, without copying it: how many entries. O(segments).
#[rustler::nif]
fn partition_start_all<'a>(env: Env<'a>, handle: Handle<'_>, index: usize) -> NifResult<Term<'a>> {
    let mut retired = Retired::default();
    let all = partition(handle, index)?.next(
        env.pid(),
        usize::MAX,
        clock::now,
        &mut retired,
        |_, batch| batch.len.encode(env),
    );
    reclaim(retired);
    Ok(answer(env, all))
}

/// The process that drains, if any, and for how long it has had its batch, in milliseconds:
/// `{pid | nil, ms | nil}`. O(1).
#[rustler::nif]
fn partition_status(
    handle: Handle<'_>,
    index: usize,
) -> NifResult<(Option<LocalPid>, Option<i64>)> {
    let (owner, batch) = partition(handle, index)?.drain_status();
    Ok((
        owner,
        batch.map(|batch| clock::since(batch.started_at) / 1_000_000),
    ))
}

/// Takes the drain from its owner, who is gone, and discards the batch it had:
/// `{first, size, bytes}` of that batch, or `:none`. O(segments of the batch).
#[rustler::nif]
fn partition_settle<'a>(
    env: Env<'a>,
    handle: Handle<'_>,
    index: usize,
    reason: Atom,
) -> NifResult<Term<'a>> {
    let mut retired = Retired::default();
    let settled = partition(handle, index)?.settle(decode_reason(reason)?, &mut retired);
    reclaim(retired);
    Ok(match settled {
        Some(Batch {
            first, len, bytes, ..
        }) => (first, len, bytes).encode(env),
        None => atoms::none().encode(env),
    })
}

/// Discards all that a closed partition still holds: `{size, bytes}`. O(segments).
#[rustler::nif(schedule = "DirtyCpu")]
fn partition_discard_rest(
    handle: Handle<'_>,
    index: usize,
    reason: Atom,
) -> NifResult<(usize, u64)> {
    let mut retired = Retired::default();
    let rest = partition(handle, index)?.discard_rest(decode_reason(reason)?, &mut retired);
    reclaim(retired);
    Ok(rest)
}

/// Whether the partition has been closed. O(1).
#[rustler::nif]
fn partition_closed(handle: Handle<'_>, index: usize) -> NifResult<bool> {
    Ok(partition(handle, index)?.is_closed())
}

fn copy<'a>(env: Env<'a>, drain: &Queue<Arena>, count: usize) -> Term<'a> {
    list(env, drain, 0, count)
}

fn list<'a>(env: Env<'a>, drain: &Queue<Arena>, skip: usize, count: usize) -> Term<'a> {
    let mut copies = Copies::with_capacity(env, count);
    for (arena, range) in drain.pieces(skip, count) {
        copies.extend(arena, range);
    }
    copies.into_list()
}

fn decode_reason(reason: Atom) -> NifResult<Reason> {
    [
        (atoms::exception(), Reason::Exception),
        (atoms::killed(), Reason::Killed),
        (atoms::timeout(), Reason::Timeout),
        (atoms::shutdown(), Reason::Shutdown),
    ]
    .into_iter()
    .find_map(|(atom, known)| (atom == reason).then_some(known))
    .ok_or(Error::BadArg)
}
