//! NIFs on a whole buffer.

use std::sync::atomic::Ordering;

use buffer_core::Arena as _;
use rustler::{Atom, Encoder, Env, Error, NifResult, Term};

use crate::arena::{immediate_word, Arena, Copies, Handle};
use crate::atoms;
use crate::map::versions;
use crate::names::BUFFERS;
use crate::registry::{self, Opened};
use crate::resource::{Kind, Overflow, Partitions, Rules, Storage};
use crate::server;

/// Opens the buffer of this name: `{:created | :adopted | :mismatch, handle}`. O(partitions).
#[rustler::nif]
fn buffer_open(env: Env<'_>, name: String, kind: Kind, partitions: Partitions) -> (Atom, Term<'_>) {
    let (how, shared) = match registry::open(name, kind, partitions.0) {
        Opened::Created(shared) => (atoms::created(), shared),
        Opened::Adopted(shared) => (atoms::adopted(), shared),
        Opened::Mismatch(shared) => (atoms::mismatch(), shared),
    };
    (how, Handle::make(env, shared))
}

/// Closes the buffer and answers another one of the same name, with at least one partition, that has
/// taken over what it held: `{ok, handle}`, or `other_kind`. Dirty: it waits as `buffer_close` does.
#[rustler::nif(schedule = "DirtyCpu")]
fn buffer_replace<'a>(
    env: Env<'a>,
    handle: Handle<'a>,
    kind: Kind,
    partitions: Partitions,
) -> NifResult<Term<'a>> {
    let Partitions(partitions) = partitions;
    if partitions == 0 {
        return Err(Error::BadArg);
    }
    if handle.0.storage.kind() != kind {
        return Ok(atoms::other_kind().encode(env));
    }
    let shared = registry::replace(env, handle.0, partitions);
    Ok((atoms::ok(), Handle::make(env, shared)).encode(env))
}

/// Closes the buffer: when this returns, every write that was accepted is in, and no other ever
/// will be. Waits for writes that are on their way, so it is dirty.
#[rustler::nif(schedule = "DirtyCpu")]
fn buffer_close(env: Env<'_>, handle: Handle<'_>) -> Atom {
    registry::close(env, handle.0);
    if let Storage::Map(buffer) = &handle.0.storage {
        versions::forget(buffer);
    }
    registry::forget(handle.0);
    atoms::ok()
}

/// How many partitions it has. O(1).
#[rustler::nif]
fn buffer_partitions(handle: Handle<'_>) -> usize {
    handle.0.storage.partitions()
}

/// Entries of all live generations. O(partitions).
#[rustler::nif]
fn buffer_len(handle: Handle<'_>) -> usize {
    handle
        .0
        .storage
        .all()
        .map(|partition| partition.live())
        .sum()
}

/// Keeps one term with the buffer, and goes by these rules from now on. Those who wait for room, and are not to any
/// more, are told to try again. O(size of the term), which is options, O(partitions) and O(those who wait).
#[rustler::nif(schedule = "DirtyCpu")]
fn buffer_put_settings(env: Env<'_>, handle: Handle<'_>, settings: Term<'_>, rules: Rules) -> Atom {
    let shared = handle.0;
    let mut arena = Arena::new();
    arena.store(settings);
    let old = shared.settings.lock().replace(arena);
    drop(old);
    let turns_away = rules.overflow != Overflow::Block;
    // First the rules: who is turned away goes by them. Who finds that it is to wait before it may is turned away once more.
    let served = shared.set_rules(rules);
    let waited = shared
        .waiters
        .turn_away(shared.storage.capacity(), turns_away);
    server::dismiss(env, &waited, atoms::again());
    if served {
        server::serve(shared);
    }
    atoms::ok()
}

/// A write that waits for room gives up: whether it did wait. If not, it has been made or refused, and the
/// caller has been told or is about to be. O(those who wait).
#[rustler::nif(schedule = "DirtyCpu")]
fn buffer_give_up(handle: Handle<'_>, ticket: u64) -> bool {
    let shared = handle.0;
    let capacity = shared.storage.capacity();
    let gone = shared.waiters.give_up(capacity, ticket);
    if gone.is_some() {
        server::serve(shared);
    }
    gone.is_some()
}

/// From now on the buffer is found by this atom. O(buffers).
#[rustler::nif]
fn buffer_put_name(handle: Handle<'_>, name: Term<'_>) -> NifResult<Atom> {
    let word = immediate_word(name).ok_or(Error::BadArg)?;
    let shared = handle.0.share().ok_or(Error::BadArg)?;
    BUFFERS.put(word, &shared);
    Ok(atoms::ok())
}

/// From now on it is not, if it was. O(buffers).
#[rustler::nif]
fn buffer_erase_name(handle: Handle<'_>, name: Term<'_>) -> NifResult<Atom> {
    BUFFERS.erase(immediate_word(name).ok_or(Error::BadArg)?, handle.0);
    Ok(atoms::ok())
}

/// How many writers wait for room, the dead among them. O(1).
#[rustler::nif]
fn buffer_waiting(handle: Handle<'_>) -> usize {
    handle.0.storage.capacity().waiting()
}

/// Forgets writers that wait for room and are dead, and serves those behind them. O(those who wait).
#[rustler::nif(schedule = "DirtyCpu")]
fn buffer_forget_dead(env: Env<'_>, handle: Handle<'_>) -> Atom {
    server::forget_dead(env, handle.0);
    atoms::ok()
}

/// A write was refused because there was no room. O(1).
#[rustler::nif]
fn buffer_rejected(handle: Handle<'_>) -> Atom {
    handle.0.rejected.fetch_add(1, Ordering::Relaxed);
    atoms::ok()
}

/// When its storage was made, in nanoseconds of the system's time. O(1).
#[rustler::nif]
fn buffer_since(handle: Handle<'_>) -> u64 {
    handle.0.since
}

/// The term kept last, in a list; an empty list if there is none. O(size of the term).
#[rustler::nif]
fn buffer_settings<'a>(env: Env<'a>, handle: Handle<'_>) -> Term<'a> {
    let mut settings = Copies::with_capacity(env, 1);
    if let Some(arena) = &*handle.0.settings.lock() {
        settings.extend(arena, 0..arena.len());
    }
    settings.into_list()
}
