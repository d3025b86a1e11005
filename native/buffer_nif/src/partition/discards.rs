//! NIFs on what was given up, until it has been reported and somebody has been told.

use buffer_core::Discarded;
use rustler::{Atom, Encoder, Env, NifResult, Term};

use super::partition;
use crate::arena::Handle;
use crate::atoms;

/// The next batch that was given up and that somebody is to be told of: `{Entries, Reason, First, Last,
/// Attempts}`, or nil. The one before it has been told of. Dirty, since entries may be of any size.
#[rustler::nif(schedule = "DirtyCpu")]
fn partition_next_kept<'a>(env: Env<'a>, handle: Handle<'_>, index: usize) -> NifResult<Term<'a>> {
    let kept = partition(handle, index)?.next_kept(env);
    Ok(match kept {
        Some((entries, reason, (first, last), attempts)) => {
            (entries, atoms::of_reason(reason), first, last, attempts).encode(env)
        }
        None => atoms::nil().encode(env),
    })
}

/// How many entries wait for somebody to be told of them. O(1).
#[rustler::nif]
fn partition_kept(handle: Handle<'_>, index: usize) -> NifResult<usize> {
    Ok(partition(handle, index)?.kept())
}

/// What was discarded and has not been reported, in order: a list of `{reason, size, bytes}`.
#[rustler::nif]
fn partition_unreported(handle: Handle<'_>, index: usize) -> NifResult<Vec<(Atom, usize, u64)>> {
    let unreported = partition(handle, index)?.unreported();
    let encode = |one: Discarded| (atoms::of_reason(one.reason), one.len, one.bytes);
    Ok(unreported.into_iter().map(encode).collect())
}

/// The first `count` of it have been reported.
#[rustler::nif]
fn partition_reported(handle: Handle<'_>, index: usize, count: usize) -> NifResult<Atom> {
    partition(handle, index)?.reported(count);
    Ok(atoms::ok())
}
