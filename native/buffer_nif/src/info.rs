//! NIFs that tell how things stand.

use buffer_core::{Reason, Stats};
use rustler::{Error, NifResult, SerdeTerm};
use serde::Serialize;

use crate::arena::{Arena, Handle};
use crate::{clock, reclaimer, registry};

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
    oldest_age_ns: Option<i64>,
}

#[derive(Serialize)]
#[serde(rename = "Elixir.PartitionedBuffer.Native.Discarded")]
struct Discarded {
    exception: u64,
    killed: u64,
    timeout: u64,
    shutdown: u64,
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
            },
            queued: stats.queued,
            in_flight: stats.in_flight,
            bytes: stats.bytes,
            high_water: stats.high_water,
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

/// What the library holds in this VM: arenas, and entries with their bytes in open buffers or
/// waiting to be freed. O(all partitions of all buffers).
#[rustler::nif]
fn info_alive() -> SerdeTerm<impl Serialize> {
    let mut alive = Alive {
        arenas: Arena::alive(),
        entries: reclaimer::waiting(),
        bytes: 0,
    };
    for shared in registry::all() {
        for partition in shared.storage.all() {
            let stats = partition.stats();
            alive.entries += stats.queued + stats.in_flight;
            alive.bytes += stats.bytes;
        }
    }
    SerdeTerm(alive)
}
