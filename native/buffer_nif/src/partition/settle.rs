//! NIFs that end a batch: its processor has returned, has failed, or takes too long.

use buffer_core::{NotOwner, Policy, Reason, Settled, Watched};
use rustler::{Atom, Encoder, Env, Error, NifResult, Term};

use super::partition;
use crate::arena::Handle;
use crate::atoms;

/// The processor has returned from the caller's batch, and it is well: `:ok`, or `:not_owner` if its call was
/// ended. O(1).
#[rustler::nif]
fn partition_returned(env: Env<'_>, handle: Handle<'_>, index: usize) -> NifResult<Atom> {
    Ok(match partition(handle, index)?.returned(env.pid()) {
        Ok(()) => atoms::ok(),
        Err(NotOwner) => atoms::not_owner(),
    })
}

const MS: i64 = 1_000_000;

/// How long a process may take to tell that its processor has returned, at least.
const TELLING: i64 = 5_000 * MS;

/// Ends the call of the processor that has taken `timeout` milliseconds: 0 if there is one, whose process is to be
/// ended then; how many milliseconds it may still take; nil if there is none. O(1).
#[rustler::nif]
fn partition_time_out(handle: Handle<'_>, index: usize, timeout: i64) -> NifResult<Option<i64>> {
    let timeout = timeout.saturating_mul(MS);
    Ok(match partition(handle, index)?.time_out(timeout, TELLING) {
        Watched::Nothing => None,
        Watched::Left(left) => Some((left + MS - 1) / MS),
        Watched::Overdue => Some(0),
    })
}

/// Tells that the processor has failed with the caller's batch, and how. O(1).
#[rustler::nif]
fn partition_fail(env: Env<'_>, handle: Handle<'_>, index: usize, reason: Atom) -> NifResult<Atom> {
    let reason = decode_reason(reason)?;
    Ok(match partition(handle, index)?.fail(env.pid(), reason) {
        Ok(()) => atoms::ok(),
        Err(NotOwner) => atoms::not_owner(),
    })
}

/// Settles the caller's batch but for these entries, by their places in it (from 0, ascending): `true`;
/// `false` if they are not that; or `:not_owner`. O(entries of the batch).
#[rustler::nif(schedule = "DirtyCpu")]
fn partition_fail_some<'a>(
    env: Env<'a>,
    handle: Handle<'_>,
    index: usize,
    failed: Vec<u32>,
) -> NifResult<Term<'a>> {
    let result = partition(handle, index)?.fail_some(env, handle.0, &failed);
    Ok(match result {
        Ok(done) => done.encode(env),
        Err(NotOwner) => atoms::not_owner().encode(env),
    })
}

/// Takes the drain from its owner, who is gone. The batch that it had will be tried again, if there are
/// tries left and `again`: `{again, Attempts, Size}` or `{halved, Attempts, Size}`; otherwise it is given up:
/// `{discarded, Reason, Size}`. `{processed, Size}` if the processor had returned; what it returned is not known. `ok`
/// if there was none. O(entries of the batch), after a copy of it that may
/// still be going on.
#[rustler::nif(schedule = "DirtyCpu")]
fn partition_settle<'a>(
    env: Env<'a>,
    handle: Handle<'_>,
    index: usize,
    reason: Atom,
    again: bool,
) -> NifResult<Term<'a>> {
    let policy = if again {
        handle.0.policy()
    } else {
        Policy::ONCE
    };
    let reason = decode_reason(reason)?;
    let settled = partition(handle, index)?.settle(env, handle.0, reason, policy);
    Ok(match settled {
        Settled::Nothing => atoms::ok().encode(env),
        Settled::Processed(len) => (atoms::processed(), len).encode(env),
        Settled::Again {
            attempts,
            len,
            halved,
        } => {
            let how = if halved {
                atoms::halved()
            } else {
                atoms::again()
            };
            (how, attempts, len).encode(env)
        }
        Settled::Discarded(discarded) => {
            let reason = atoms::of_reason(discarded.reason);
            (atoms::discarded(), reason, discarded.len).encode(env)
        }
    })
}

/// Discards all that a closed partition still holds: how many entries. O(segments).
#[rustler::nif(schedule = "DirtyCpu")]
fn partition_discard_rest(
    env: Env<'_>,
    handle: Handle<'_>,
    index: usize,
    reason: Atom,
) -> NifResult<usize> {
    let reason = decode_reason(reason)?;
    let discarded = partition(handle, index)?.discard_rest(env, handle.0, reason);
    Ok(discarded.map_or(0, |discarded| discarded.len))
}

fn decode_reason(reason: Atom) -> NifResult<Reason> {
    let known = Reason::ALL
        .into_iter()
        .find(|&known| atoms::of_reason(known) == reason);
    known.ok_or(Error::BadArg)
}
