//! NIFs that write what depends on what is there.

use buffer_core::map::LARGE;
use rustler::{Atom, Term};

use super::{buffer, given, term, write, zero, Index, Key};
use crate::arena::{immediate_word, Handle};
use crate::weigh::Scale;
use crate::write::Refused;
use crate::{atoms, clock, operation};

/// Changes the value of a key by an operation: `ok`; `error` if the key is not there; `wrong_type`; or
/// `unsuited`, if it takes Elixir's arithmetic or more time than there is under a lock. Bounded.
#[rustler::nif]
fn map_update<'a>(
    handle: Handle<'_>,
    key: Term<'a>,
    operation: Atom,
    operand: Term<'a>,
    index: Index,
) -> Atom {
    update(handle, key, operation, operand, index, Scale::bounded()).unwrap_or_else(Refused::atom)
}

/// Puts a value if the value of the key is still `expected`, as an update: `ok`, `changed`, or `error`
/// if the key is not there. Dirty, since terms may be of any size.
#[rustler::nif(schedule = "DirtyCpu")]
fn map_compare_put_dirty<'a>(
    handle: Handle<'_>,
    key: Term<'a>,
    expected: Term<'a>,
    value: Term<'a>,
    index: Index,
) -> Atom {
    compare_put(handle, key, expected, value, index).unwrap_or_else(Refused::atom)
}

/// Puts a value if the key is not there: `ok` or `changed`. Bounded.
#[rustler::nif]
fn map_put_new<'a>(handle: Handle<'_>, key: Term<'a>, value: Term<'a>, index: Index) -> Atom {
    put_new(handle, key, value, index, Scale::bounded()).unwrap_or_else(Refused::atom)
}

/// The same for terms of any size.
#[rustler::nif(schedule = "DirtyCpu")]
fn map_put_new_dirty<'a>(handle: Handle<'_>, key: Term<'a>, value: Term<'a>, index: Index) -> Atom {
    put_new(handle, key, value, index, Scale::generous()).unwrap_or_else(Refused::atom)
}

fn update(
    handle: Handle<'_>,
    key: Term<'_>,
    operation: Atom,
    operand: Term<'_>,
    index: Index,
    mut scale: Scale,
) -> Result<Atom, Refused> {
    let key = Key::new(key, &mut scale)?;
    scale.weigh(operand)?;
    let partition = key.partition(buffer(handle)?, index)?;
    write(partition, |map| {
        let Some(slot) = key.find(map) else {
            return atoms::error();
        };
        let value = map.entry(slot).value;
        if map.weight(value) > LARGE {
            return atoms::unsuited();
        }
        let current = term(operand.get_env(), map, value);
        let new = match operation::apply(operation, current, operand) {
            Ok(new) => new,
            Err(reason) => return reason,
        };
        let Ok(weight @ ..=LARGE) = scale.weigh(new) else {
            return atoms::unsuited();
        };
        map.update(slot, given(new, weight), clock::now);
        atoms::ok()
    })
}

fn compare_put(
    handle: Handle<'_>,
    key: Term<'_>,
    expected: Term<'_>,
    value: Term<'_>,
    index: Index,
) -> Result<Atom, Refused> {
    let mut scale = Scale::generous();
    let key = Key::new(key, &mut scale)?;
    let weight = scale.weigh(value)?;
    let partition = key.partition(buffer(handle)?, index)?;
    let value = given(value, weight);
    write(partition, |map| {
        let Some(slot) = key.find(map) else {
            return atoms::error();
        };
        let cell = map.entry(slot).value;
        let same = match (cell.word(), map.stored(cell)) {
            (Some(word), _) => immediate_word(expected) == Some(word),
            (None, Some((arena, index))) => arena.is(index, expected),
            (None, None) => false,
        };
        if !same {
            return atoms::changed();
        }
        map.update(slot, value, clock::now);
        atoms::ok()
    })
}

fn put_new(
    handle: Handle<'_>,
    key: Term<'_>,
    value: Term<'_>,
    index: Index,
    mut scale: Scale,
) -> Result<Atom, Refused> {
    let key = Key::new(key, &mut scale)?;
    let weight = scale.weigh(value)?;
    let partition = key.partition(buffer(handle)?, index)?;
    let (key_given, value) = (given(key.term, key.weight), given(value, weight));
    write(partition, |map| {
        if key.find(map).is_some() {
            return atoms::changed();
        }
        map.insert(key.hash, key_given, value, zero(), clock::now);
        atoms::ok()
    })
}
