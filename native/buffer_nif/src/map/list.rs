//! NIFs that write a list of entries: all of it or nothing.
//!
//! The list is walked once before anything is written, and what is large is copied then. After that the
//! entries of a partition are written a few at a time, so that its lock is not held for a whole list.

use buffer_core::map::{Given, LARGE};
use buffer_core::{Arena as _, Map};
use rustler::{Atom, Term, TermType};

use super::versions::{self, Record};
use super::{buffer, write_newer, zero, Key};
use crate::arena::{immediate_word, tuple_elements, Arena, Handle};
use crate::clock;
use crate::reclaimer::reclaim;
use crate::weigh::{account, Limits, Scale};
use crate::write::{answer, own_route, Refused};

/// Entries that are written under one hold of the lock.
const AT_A_TIME: usize = 64;

/// Puts all of a list of `{Key, Value}`, or of `{Key, Value, Version}` if it is `versioned`, each routed by its
/// key or by a list of indexes (nil for none). Bounded.
#[rustler::nif]
fn map_put_all<'a>(
    handle: Handle<'_>,
    entries: Term<'a>,
    indexes: Term<'a>,
    versioned: bool,
) -> Atom {
    let (scale, limit) = (Scale::bounded(), Limits::ENTRIES);
    answer(put_all(handle, entries, indexes, versioned, scale, limit))
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
    answer(put_all(handle, entries, indexes, versioned, scale, limit))
}

fn put_all<'a>(
    handle: Handle<'_>,
    entries: Term<'a>,
    indexes: Term<'a>,
    versioned: bool,
    mut scale: Scale,
    limit: usize,
) -> Result<(), Refused> {
    let buffer = buffer(handle)?;
    let env = entries.get_env();
    let mut entries = gather(handle, entries, indexes, versioned, &mut scale, limit)?;
    account(env, entries.len(), scale.weighed());
    let _pass = buffer.enter()?;
    for (index, partition) in buffer.partitions().iter().enumerate() {
        let here = entries.iter_mut().filter(|entry| entry.index == index);
        let mut here = here.peekable();
        while here.peek().is_some() {
            let some = here.by_ref().take(AT_A_TIME);
            let retired = partition.write_admitted(|map| {
                some.for_each(|entry| entry.write(map));
                map.take_retired()
            });
            reclaim(retired.unwrap_or_default());
        }
    }
    Ok(())
}

/// An entry of a list.
struct Listed<'a> {
    index: usize,
    key: Key<'a>,
    value: Term<'a>,
    weight: u32,
    version: Option<Term<'a>>,
    version_weight: u32,
    is_recorded: bool,
    // Copies of what is large, the one that is needed first at the end.
    large: Vec<Arena>,
}

impl<'a> Listed<'a> {
    fn stage(&mut self) {
        let key = (self.key.term, self.key.weight);
        let version = self.version.map(|version| (version, self.version_weight));
        let recorded = version.filter(|_| self.is_recorded);
        let recorded = [recorded, recorded.map(|_| key)];
        let terms = [version, Some((self.value, self.weight)), Some(key)];
        for (term, weight) in recorded.into_iter().chain(terms).flatten() {
            if weight > LARGE {
                let mut arena = Arena::new();
                arena.store(term);
                self.large.push(arena);
            }
        }
    }

    fn given(&mut self, term: Term<'a>, weight: u32) -> Given<Arena, impl FnOnce(&mut Arena) + 'a> {
        let large = (weight > LARGE).then(|| self.large.pop()).flatten();
        match (immediate_word(term), large) {
            (Some(word), _) => Given::Word(word),
            (None, Some(arena)) => Given::Staged(weight, arena),
            (None, None) => Given::Copy(weight, move |arena: &mut Arena| arena.store(term)),
        }
    }

    fn write(&mut self, map: &mut Map<Arena>) {
        let found = self.key.find(map);
        let (key_term, key_weight) = (self.key.term, self.key.weight);
        let key = self.given(key_term, key_weight);
        let value = self.given(self.value, self.weight);
        match (self.version, found) {
            (Some(version), _) => {
                let weight = self.version_weight;
                let version_given = self.given(version, weight);
                let record = self.is_recorded.then(|| {
                    let key = self.given(key_term, key_weight);
                    Record::new(key, self.given(version, weight))
                });
                let given = (key, value, version_given);
                write_newer(map, &self.key, found, given, version, record);
            }
            (None, Some(slot)) => {
                map.withdraw_version(|records| self.key.find(records), clock::now);
                map.replace(slot, value, zero(), 0, clock::now);
            }
            (None, None) => {
                map.insert(self.key.hash, key, value, zero(), clock::now);
            }
        }
    }
}

/// Walks the list once: nothing is written before all of it is known to be in order.
fn gather<'a>(
    handle: Handle<'_>,
    entries: Term<'a>,
    indexes: Term<'a>,
    versioned: bool,
    scale: &mut Scale,
    limit: usize,
) -> Result<Vec<Listed<'a>>, Refused> {
    let partitions = buffer(handle)?.partitions().len();
    let is_recorded = versioned && versions::are_remembered(handle);
    let mut gathered = Vec::with_capacity(AT_A_TIME);
    let (mut rest, mut indexes) = (entries, indexes);
    while let Ok((entry, tail)) = rest.list_get_cell() {
        if gathered.len() == limit {
            return Err(Refused::Heavy);
        }
        let (key, value, version) = elements(entry, versioned).ok_or(Refused::Improper)?;
        let index = match indexes.list_get_cell() {
            Ok((index, tail)) => {
                indexes = tail;
                let index = index.decode().ok();
                index
                    .filter(|&index: &usize| index < partitions)
                    .ok_or(Refused::Improper)?
            }
            Err(_) => own_route(key, partitions)?,
        };
        let key = Key::new(key, scale)?;
        let weight = scale.weigh(value)?;
        let version_weight = version.map_or(Ok(0), |version| scale.weigh(version))?;
        let mut listed = Listed {
            index,
            key,
            value,
            weight,
            version,
            version_weight,
            is_recorded,
            large: Vec::new(),
        };
        if listed.key.weight.max(weight).max(version_weight) > LARGE {
            listed.stage();
        }
        gathered.push(listed);
        rest = tail;
    }
    if rest.is_empty_list() {
        Ok(gathered)
    } else {
        Err(Refused::Improper)
    }
}

/// Key, value and, if there is to be one, version.
fn elements<'a>(
    entry: Term<'a>,
    versioned: bool,
) -> Option<(Term<'a>, Term<'a>, Option<Term<'a>>)> {
    let mut parts = tuple_elements(entry)?;
    if parts.len() != if versioned { 3 } else { 2 } {
        return None;
    }
    let (key, value, version) = (parts.next()?, parts.next()?, parts.next());
    let is_integer = |version: Term<'a>| version.get_type() == TermType::Integer;
    version
        .is_none_or(is_integer)
        .then_some((key, value, version))
}
