//! The versions that a map remembers of keys that it has handed over.
//!
//! `buffer_core::map` keeps them, for each partition apart, with its live generation. Here is what a write
//! brings along for them, and how they come and go with a buffer.

use std::sync::atomic::Ordering;

use buffer_core::map::Given;
use buffer_core::{Buffer, Map};
use rustler::{Atom, Error, LocalPid, NifResult, Term};

use super::{buffer, is_newer, Copied, Key};
use crate::arena::{Arena, Handle};
use crate::reclaimer::reclaim;
use crate::resource::Shared;
use crate::write::Refused;
use crate::{atoms, clock};

/// Makes each partition remember the highest versions of the last `count` keys that it handed over; 0 for
/// none. Dirty: what is forgotten takes time.
#[rustler::nif(schedule = "DirtyCpu")]
fn map_remember_dirty(handle: Handle<'_>, count: usize) -> NifResult<Atom> {
    if count > MOST {
        return Err(Error::BadArg);
    }
    Ok(remember(handle, count).map_or_else(Refused::atom, |()| atoms::ok()))
}

/// As many as the options of a map allow: the memory for them is taken at once, and if it can't be had, the VM ends.
const MOST: usize = 10_000_000;

fn remember(handle: Handle<'_>, count: usize) -> Result<(), Refused> {
    let partitions = buffer(handle.0)?.partitions();
    // Relaxed: a write that has brought nothing along is not recorded, one that has finds no records.
    handle.0.version_memory.store(count, Ordering::Relaxed);
    for partition in partitions {
        while !partition.in_turn(|map| map.remember_versions(count, clock::now))? {}
    }
    Ok(())
}

/// A key and a version to be remembered; what is large has been copied already.
pub struct Record<'a, 'b> {
    key: Given<Arena, Copied<'a, 'b>>,
    version: Given<Arena, Copied<'a, 'b>>,
}

/// Whether a write has to bring a record along.
#[inline]
pub fn are_remembered(shared: &Shared) -> bool {
    shared.version_memory.load(Ordering::Relaxed) > 0
}

impl<'a, 'b> Record<'a, 'b> {
    /// Of these terms.
    pub fn new(key: Given<Arena, Copied<'a, 'b>>, version: Given<Arena, Copied<'a, 'b>>) -> Self {
        Self { key, version }
    }
}

/// Records the version that a key is about to get; or answers false, if one that is as high has been handed
/// over.
pub(super) fn record(
    map: &mut Map<Arena>,
    key: &Key<'_, '_>,
    version: Term<'_>,
    record: Option<Record<'_, '_>>,
) -> bool {
    let Some(record) = record else {
        return true;
    };
    map.record_version(
        key.hash,
        |records| key.find(records),
        |records, than| is_newer(records, version, than),
        record.key,
        record.version,
        clock::now,
    )
}

/// Forgets all that a closed buffer remembers.
pub fn forget(buffer: &Buffer<Map<Arena>, LocalPid>) {
    for partition in buffer.partitions() {
        let retired = partition.amend(|map| {
            map.remember_versions(0, clock::now);
            map.take_retired()
        });
        reclaim(retired.unwrap_or_default());
    }
}
