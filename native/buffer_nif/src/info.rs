//! NIFs that tell how things stand.

use std::sync::atomic::Ordering;

use buffer_core::{Reason, Stats};
use rustler::{Atom, Env, Error, NifResult, SerdeTerm};
use serde::Serialize;

use crate::arena::{Arena, Handle};
use crate::{atoms, broker, cell, clock, data_buffer, reclaimer, registry, server};

/// A partition's figures as the Elixir side sees them.
#[derive(Serialize)]
#[serde(rename = "Elixir.PartitionedBuffer.Native.Stats")]
struct PartitionStats {
    accepted: u64,
    processed: u64,
    superseded: u64,
    deleted: u64,
    discarded: Discarded,
    queued: usize,
    in_flight: usize,
    bytes: u64,
    high_water: usize,
    retries: u64,
    oldest_age_ns: Option<i64>,
}

#[derive(Serialize)]
#[serde(rename = "Elixir.PartitionedBuffer.Native.Discarded")]
struct Discarded {
    exception: u64,
    killed: u64,
    timeout: u64,
    shutdown: u64,
    failed: u64,
    expired: u64,
    overflow: u64,
}

/// What the library holds in this VM.
#[derive(Serialize)]
#[serde(rename = "Elixir.PartitionedBuffer.Native.Alive")]
struct Alive {
    arenas: usize,
    entries: usize,
    bytes: u64,
}

impl From<Stats> for PartitionStats {
    fn from(stats: Stats) -> Self {
        let discarded = |reason: Reason| stats.discarded[reason as usize];
        Self {
            accepted: stats.accepted,
            processed: stats.processed,
            superseded: stats.superseded,
            deleted: stats.deleted,
            discarded: Discarded {
                exception: discarded(Reason::Exception),
                killed: discarded(Reason::Killed),
                timeout: discarded(Reason::Timeout),
                shutdown: discarded(Reason::Shutdown),
                failed: discarded(Reason::Failed),
                expired: discarded(Reason::Expired),
                overflow: discarded(Reason::Overflow),
            },
            queued: stats.queued,
            in_flight: stats.in_flight,
            bytes: stats.bytes,
            high_water: stats.high_water,
            retries: stats.retries,
            oldest_age_ns: stats.oldest.map(clock::since),
        }
    }
}

/// The figures of one partition, all of one moment. O(1).
#[rustler::nif]
fn info_partition(handle: Handle<'_>, index: usize) -> NifResult<SerdeTerm<impl Serialize>> {
    let partition = handle.0.storage.partition(index).ok_or(Error::BadArg)?;
    Ok(SerdeTerm(PartitionStats::from(partition.stats())))
}

/// In how many milliseconds a partition looks again by itself, and what started its last cycle; nil each if
/// there is none. O(1).
#[rustler::nif]
fn info_mark(handle: Handle<'_>, index: usize) -> NifResult<(Option<i64>, Option<Atom>)> {
    let mark = handle.0.marks.get(index).ok_or(Error::BadArg)?;
    let next = match mark.next_flush.load(Ordering::Relaxed) {
        0 => None,
        moment => Some((moment - clock::now()).max(0) / 1_000_000),
    };
    let partition = handle.0.storage.partition(index).ok_or(Error::BadArg)?;
    Ok((next, partition.trigger().map(atoms::of_trigger)))
}

/// How a buffer's room stands: `{entries, bytes}` taken, or nil without a limit; writers that wait; writes
/// that were refused. Dirty: it looks for those who wait and are dead.
#[rustler::nif(schedule = "DirtyCpu")]
fn info_room(env: Env<'_>, handle: Handle<'_>) -> (Option<(usize, u64)>, usize, u64) {
    let shared = handle.0;
    let capacity = shared.storage.capacity();
    server::forget_dead(env, shared);
    let used = capacity.is_limited().then(|| capacity.used());
    let used = used.map(|used| (used.entries, used.bytes));
    let rejected = shared.rejected.load(Ordering::Relaxed);
    let waiting = shared.waiters.len() + data_buffer::in_line(env, shared);
    (used, waiting, rejected)
}

/// What the library holds in this VM: arenas, and entries with their bytes in open buffers, in cells, or
/// waiting to be freed. O(all partitions of all buffers).
#[rustler::nif]
fn info_alive() -> SerdeTerm<impl Serialize> {
    let (kept, bytes) = cell::alive();
    let mut alive = Alive {
        arenas: Arena::alive(),
        entries: reclaimer::waiting() + kept,
        bytes,
    };
    for shared in registry::all() {
        for partition in shared.storage.all() {
            let stats = partition.stats();
            alive.entries += stats.queued + stats.in_flight;
            alive.bytes += stats.bytes;
        }
    }
    for shared in broker::all() {
        let (waiting, bytes) = shared.held();
        alive.entries += waiting;
        alive.bytes += bytes;
    }
    SerdeTerm(alive)
}
