//! NIFs that write what depends on what is there.

use buffer_core::map::{Cell, LARGE};
use buffer_core::{Map, Size};
use rustler::{Atom, Env, Term};

use super::{buffer, index_of, slot_with_room, term, write, zero, Index, Key, Space, Taken};
use crate::arena::packed::is_identical;
use crate::arena::Arena;
use crate::begin::full;
use crate::entry::nif;
use crate::names::Target;
use crate::resource::Shared;
use crate::weigh::Scale;
use crate::write::{no_room, Refused};
use crate::{atoms, clock, operation};

nif!(map_update / 5, map_update);

/// Changes the value of a key by an operation: `ok`; `error` if the key is not there; `wrong_type`; or
/// `unsuited`, if it takes Elixir's arithmetic or more time than there is under a lock. Bounded.
fn map_update<'a>(
    env: Env<'a>,
    [buffer, key, operation, operand, index]: [Term<'a>; 5],
) -> Term<'a> {
    let Ok(operation) = operation.decode() else {
        return atoms::unsuited().to_term(env);
    };
    let index = index_of(index);
    Target::of(buffer)
        .with(|shared| update(shared, key, operation, operand, index, Scale::bounded()))
        .unwrap_or_else(Refused::atom)
        .to_term(env)
}

/// Puts a value if the value of the key is still `expected`, as an update: `ok`, `changed`, or `error`
/// if the key is not there. Dirty, since terms may be of any size.
#[rustler::nif(schedule = "DirtyCpu")]
fn map_compare_put_dirty<'a>(
    buffer: Target<'_>,
    key: Term<'a>,
    expected: Term<'a>,
    value: Term<'a>,
    index: Index,
) -> Atom {
    buffer
        .with(|shared| compare_put(shared, key, expected, value, index))
        .unwrap_or_else(Refused::atom)
}

/// Puts a value if the key is not there: `ok` or `changed`. Bounded.
#[rustler::nif]
fn map_put_new<'a>(buffer: Target<'_>, key: Term<'a>, value: Term<'a>, index: Index) -> Atom {
    buffer
        .with(|shared| put_new(shared, key, value, index, Scale::bounded()))
        .unwrap_or_else(Refused::atom)
}

/// The same for terms of any size.
#[rustler::nif(schedule = "DirtyCpu")]
fn map_put_new_dirty<'a>(buffer: Target<'_>, key: Term<'a>, value: Term<'a>, index: Index) -> Atom {
    buffer
        .with(|shared| put_new(shared, key, value, index, Scale::generous()))
        .unwrap_or_else(Refused::atom)
}

fn update<'a>(
    shared: &Shared,
    key: Term<'a>,
    operation: Atom,
    operand: Term<'a>,
    index: Index,
    mut scale: Scale,
) -> Result<Atom, Refused> {
    let env = key.get_env();
    let bytes = &mut Space::default();
    let key = Key::new(key, &env, &mut scale, bytes)?;
    scale.weigh(operand)?;
    let partition = key.partition(buffer(shared)?, index)?;
    let answer = write(env, shared, partition, |map, room| {
        let Some(slot) = key.find(map) else {
            return atoms::error();
        };
        let value = map.entry(slot).value;
        if map.weight(value) > LARGE {
            return atoms::unsuited();
        }
        let current = term(env, map, value);
        let new = match operation::apply(operation, current, operand) {
            Ok(new) => new,
            Err(reason) => return reason,
        };
        let bytes = &mut Space::default();
        let Ok(
            new @ Taken {
                weight: ..=LARGE, ..
            },
        ) = Taken::new(new, &env, &mut scale, bytes)
        else {
            return atoms::unsuited();
        };
        if let Err(reason) = room.take(growth(map, value, new.held())) {
            return no_room(shared, reason).atom();
        }
        map.update(slot, new.given(), clock::now);
        atoms::ok()
    })?;
    Ok(answered(env, shared, answer))
}

/// Where there was no room, there will be some as soon as can be.
fn answered(env: Env<'_>, shared: &Shared, answer: Atom) -> Atom {
    if answer == atoms::wait() || answer == atoms::full() {
        full(env, shared);
    }
    answer
}

/// How much larger an entry becomes by another value.
fn growth(map: &Map<Arena>, old: Cell, held: u64) -> Size {
    Size {
        entries: 0,
        bytes: held.saturating_sub(map.weight(old).into()),
    }
}

fn compare_put<'a>(
    shared: &Shared,
    key: Term<'a>,
    expected: Term<'a>,
    value: Term<'a>,
    index: Index,
) -> Result<Atom, Refused> {
    let mut scale = Scale::generous();
    let env = key.get_env();
    let bytes = &mut Space::default();
    let key = Key::new(key, &env, &mut scale, bytes)?;
    let bytes = &mut Space::default();
    let value = Taken::new(value, &env, &mut scale, bytes)?;
    let partition = key.partition(buffer(shared)?, index)?;
    let (held, value) = (value.held(), value.given());
    let answer = write(env, shared, partition, |map, room| {
        let Some(slot) = key.find(map) else {
            return atoms::error();
        };
        let cell = map.entry(slot).value;
        if !is_identical(term(env, map, cell), expected) {
            return atoms::changed();
        }
        if let Err(reason) = room.take(growth(map, cell, held)) {
            return no_room(shared, reason).atom();
        }
        map.update(slot, value, clock::now);
        atoms::ok()
    })?;
    Ok(answered(env, shared, answer))
}

fn put_new<'a>(
    shared: &Shared,
    key: Term<'a>,
    value: Term<'a>,
    index: Index,
    mut scale: Scale,
) -> Result<Atom, Refused> {
    let env = key.get_env();
    let bytes = &mut Space::default();
    let key = Key::new(key, &env, &mut scale, bytes)?;
    let bytes = &mut Space::default();
    let value = Taken::new(value, &env, &mut scale, bytes)?;
    let partition = key.partition(buffer(shared)?, index)?;
    let total = key.taken.held() + value.held();
    let (key_given, value) = (key.taken.given(), value.given());
    let answer = write(env, shared, partition, |map, room| {
        if key.find(map).is_some() {
            return atoms::changed();
        }
        if let Err(reason) = slot_with_room(env, shared, map, room, &key, total) {
            return no_room(shared, reason).atom();
        }
        map.insert(key.hash, key_given, value, zero(), clock::now);
        atoms::ok()
    })?;
    Ok(answered(env, shared, answer))
}
