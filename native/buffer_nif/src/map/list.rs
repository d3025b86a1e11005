//! NIFs that write a list of entries: all of it or nothing.
//!
//! The list is walked once before anything is written, and what is large is copied then (`gathered.rs`). After that the
//! entries of a partition are written a few at a time, so that its lock is not held for a whole list.

use buffer_core::{Arena as _, Credit, Map, NoRoom, Size, Trigger, Wait};
use rustler::{Atom, Encoder, Env, Term};
use smallvec::SmallVec;

use super::gathered::{gather, List};
use super::{buffer, Index};
use crate::arena::{Arena, Handle};
use crate::atoms;
use crate::begin::{begin, full};
use crate::names::Target;
use crate::reclaimer::reclaim;
use crate::resource::{MapBuffer, Overflow, Shared};
use crate::server::Waiter;
use crate::weigh::{account, Limits, Scale};
use crate::write::{
    answer, awaited_later, finish, granted, make_room, refuse, signal, tokens, written_on_credit,
    Awaited, Awaits, Refused, Todo,
};

/// Entries that are written under one hold of the lock.
const AT_A_TIME: usize = 64;

/// Puts all of a list of `{Key, Value}`, or of `{Key, Value, Version}` if it is `versioned`, each routed by its
/// key or by a list of indexes (nil for none). Bounded.
#[rustler::nif]
fn map_put_all<'a>(
    buffer: Target<'_>,
    entries: Term<'a>,
    indexes: Term<'a>,
    versioned: bool,
) -> Atom {
    let (scale, limit) = (Scale::bounded(), Limits::ENTRIES);
    let put =
        buffer.with(|shared| put_all(shared, entries, indexes, versioned, scale, limit, None));
    answer(put.map(|_| ()))
}

/// The same for lists of any length and terms of any size.
#[rustler::nif(schedule = "DirtyCpu")]
fn map_put_all_dirty<'a>(
    handle: Handle<'_>,
    entries: Term<'a>,
    indexes: Term<'a>,
    versioned: bool,
) -> Atom {
    let (scale, limit) = (Scale::generous(), usize::MAX);
    let put = put_all(handle.0, entries, indexes, versioned, scale, limit, None);
    answer(put.map(|_| ()))
}

/// Puts entries as soon as there is room, as `queue_wait_dirty` does.
#[rustler::nif(schedule = "DirtyCpu")]
fn map_wait_dirty<'a>(
    env: Env<'a>,
    handle: Handle<'_>,
    entries: Term<'a>,
    indexes: Term<'a>,
    versioned: bool,
    reference: Term<'a>,
    token: Option<u64>,
) -> Term<'a> {
    let list = (entries, indexes, versioned);
    wait(env, handle.0, list, reference, token).unwrap_or_else(|refused| refused.atom().encode(env))
}

/// Puts `{Key, Value}` and answers `{ok, [Token]}` or why nothing was written, as `queue_push_awaited` does.
/// Bounded.
#[rustler::nif]
fn map_put_awaited<'a>(
    env: Env<'a>,
    handle: Handle<'_>,
    entries: Term<'a>,
    indexes: Term<'a>,
    token: u64,
    flush: bool,
) -> Term<'a> {
    let (scale, limit) = (Scale::bounded(), Limits::ENTRIES);
    let owner = env.pid();
    let awaited = Some(Awaits {
        owner,
        token,
        flush,
    });
    let put = put_all(handle.0, entries, indexes, false, scale, limit, awaited);
    tokens(env, put)
}

/// The same for lists of any length and terms of any size.
#[rustler::nif(schedule = "DirtyCpu")]
fn map_put_awaited_dirty<'a>(
    env: Env<'a>,
    handle: Handle<'_>,
    entries: Term<'a>,
    indexes: Term<'a>,
    token: u64,
    flush: bool,
) -> Term<'a> {
    let (scale, limit) = (Scale::generous(), usize::MAX);
    let owner = env.pid();
    let awaited = Some(Awaits {
        owner,
        token,
        flush,
    });
    let put = put_all(handle.0, entries, indexes, false, scale, limit, awaited);
    tokens(env, put)
}

/// Puts one entry where there was no room for it in its partition's turn.
#[cold]
pub(super) fn put_one(
    shared: &Shared,
    entry: Term<'_>,
    versioned: bool,
    index: Index,
    scale: Scale,
) -> Result<(), Refused> {
    let env = entry.get_env();
    let entries = vec![entry].encode(env);
    let indexes: Vec<usize> = index.into_iter().collect();
    let indexes = indexes.encode(env);
    put_all(shared, entries, indexes, versioned, scale, 1, None)?;
    Ok(())
}

/// Puts all entries of a list; answers the tokens by which the caller is told when they have been through.
fn put_all<'a>(
    shared: &Shared,
    entries: Term<'a>,
    indexes: Term<'a>,
    versioned: bool,
    mut scale: Scale,
    limit: usize,
    awaited: Awaited,
) -> Result<Vec<u64>, Refused> {
    let buffer = buffer(shared)?;
    let env = entries.get_env();
    let list = gather(shared, entries, indexes, versioned, &mut scale, limit)?;
    account(env, list.entries.len(), scale.weighed());
    let Some(first) = list.entries.first() else {
        return Ok(Vec::new());
    };
    let credit = if buffer.capacity().is_limited() {
        let size = size_of(&list);
        match buffer.capacity().take(size) {
            Ok(credit) => credit,
            Err(reason) => match (reason, shared.overflow()) {
                (NoRoom::Full, Overflow::DropNewest) => return drop_all(env, shared, &list),
                (NoRoom::Full, Overflow::DropOldest) => {
                    make_room(env, shared, buffer, size, first.index as usize)?
                }
                _ => return Err(refuse(env, shared, reason)),
            },
        }
    } else {
        Credit::NONE
    };
    write_all(env, shared, buffer, list, credit, awaited)
}

fn size_of(list: &List<'_>) -> Size {
    let sizes = list.entries.iter().map(|entry| list.size(entry));
    sizes.fold(Size::default(), |sum, size| sum + size)
}

/// Drops a list for which there is no room, as a whole.
fn drop_all(env: Env<'_>, shared: &Shared, list: &List<'_>) -> Result<Vec<u64>, Refused> {
    let buffer = buffer(shared)?;
    let _pass = buffer.enter()?;
    for entry in &list.entries {
        let keep = |arena: &mut Arena| arena.store(list.row(entry, env));
        let keep = shared.keeps_discarded().then_some(keep);
        let partition = &buffer.partitions()[entry.index as usize];
        // Closed in between: then the whole buffer is about to end, and this counts no more.
        if let Ok(written) = partition.drop_new(list.size(entry), keep) {
            signal(env, shared, partition, written);
        }
    }
    full(env, shared);
    Ok(Vec::new())
}

/// Writes entries for which room has been taken, all or, if the buffer is closed, none.
fn write_all(
    env: Env<'_>,
    shared: &Shared,
    buffer: &MapBuffer,
    mut list: List<'_>,
    mut credit: Credit,
    awaited: Awaited,
) -> Result<Vec<u64>, Refused> {
    let Ok(_pass) = buffer.enter() else {
        let _ = buffer.capacity().cancel(credit);
        return Err(Refused::Closed);
    };
    let firsts = list.sort(buffer.partitions().len());
    let mut todo = Todo::default();
    let mut tokens = Vec::new();
    for (mut next, partition) in firsts.into_iter().zip(buffer.partitions()) {
        let mut flush = false;
        while next.is_some() {
            let mut some = SmallVec::<[usize; AT_A_TIME]>::new();
            while let Some(at) = next.filter(|_| some.len() < AT_A_TIME) {
                some.push(at);
                next = list.after(at);
            }
            let mut retired = None;
            let write = |map: &mut Map<Arena>| {
                some.iter().for_each(|&at| list.look_up(at, map));
                let slots = some.iter().filter_map(|&at| list.write(at, map));
                let places = slots.fold((u64::MAX, 0), |(first, end), slot| {
                    (first.min(slot as u64), end.max(slot as u64 + 1))
                });
                retired = map.take_retired();
                places.0.min(places.1)..places.1
            };
            match awaited {
                None => {
                    let written = partition.write_admitted(&mut credit, &mut todo, write);
                    signal(env, shared, partition, written);
                }
                Some(awaits) => {
                    let token = awaits.token + tokens.len() as u64;
                    tokens.push(token);
                    let awaited = (awaits.owner, token);
                    let written = partition.write_awaited(&mut credit, &mut todo, awaited, write);
                    signal(env, shared, partition, written);
                }
            }
            reclaim(retired.unwrap_or_default());
            flush |= awaited.is_some_and(|awaits| awaits.flush);
        }
        if flush {
            begin(env, shared, partition, Trigger::Flush);
        }
    }
    todo.room |= credit.size != Size::default() && buffer.capacity().cancel(credit);
    finish(env, shared, todo, None);
    written_on_credit(env, shared);
    Ok(tokens)
}

fn wait<'a>(
    env: Env<'a>,
    shared: &Shared,
    (entries, indexes, versioned): (Term<'a>, Term<'a>, bool),
    reference: Term<'a>,
    token: Option<u64>,
) -> Result<Term<'a>, Refused> {
    let buffer = buffer(shared)?;
    let mut scale = Scale::generous();
    let list = gather(shared, entries, indexes, versioned, &mut scale, usize::MAX)?;
    let mut request = Arena::new();
    request.store((reference, (entries, versioned), indexes, token).encode(env));
    let waiter = Waiter {
        pid: env.pid(),
        request,
    };
    match shared
        .waiters
        .wait(buffer.capacity(), size_of(&list), waiter)
    {
        Wait::Taken(_, credit) => {
            let awaited = awaited_later(env.pid(), token);
            let written = write_all(env, shared, buffer, list, credit, awaited);
            Ok(granted(env, token, written))
        }
        Wait::Waits(ticket) => {
            // From now on nobody else takes the room that this makes.
            full(env, shared);
            Ok((atoms::wait(), ticket).encode(env))
        }
        Wait::TooLarge => Err(Refused::TooLarge),
        Wait::TurnedAway => Err(Refused::Again),
        Wait::Closed => Err(Refused::Closed),
    }
}

/// Makes the write of a request that room has been taken for.
pub fn write_granted<'a>(
    shared: &Shared,
    entries: Term<'a>,
    indexes: Term<'a>,
    credit: Credit,
    awaited: Awaited,
) -> Result<Vec<u64>, Refused> {
    let buffer = buffer(shared)?;
    let gathered = entries
        .decode::<(Term, bool)>()
        .map_err(|_| Refused::Improper)
        .and_then(|(entries, versioned)| {
            let mut scale = Scale::generous();
            gather(shared, entries, indexes, versioned, &mut scale, usize::MAX)
        });
    let Ok(list) = gathered else {
        let _ = buffer.capacity().cancel(credit);
        return Err(Refused::Improper);
    };
    write_all(entries.get_env(), shared, buffer, list, credit, awaited)
}
