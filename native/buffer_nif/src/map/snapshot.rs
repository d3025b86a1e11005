//! NIFs that read all of a partition's live generation as it is at one moment.
//!
//! They copy a few entries under the lock, give it to whoever waits, and go on, on a dirty scheduler.
//! What is overwritten meanwhile is kept for them; see `buffer_core::map`.

use std::sync::atomic::{AtomicU64, Ordering};

use buffer_core::map::{Seen, Visited};
use buffer_core::{Map, Partition};
use rustler::types::tuple::make_tuple;
use rustler::{Encoder, Env, LocalPid, Term};

use super::buffer;
use crate::arena::packed::unpack;
use crate::arena::{immediate, Arena, Copies, Handle};
use crate::atoms;
use crate::weigh::words_of;
use crate::write::Refused;

/// What is copied in one go: about ten microseconds of work, or one entry if that is larger.
const ENTRIES: usize = 64;
const BYTES: u64 = 16 * 1024;

/// Of all snapshots in this VM. Relaxed: they only have to differ.
static NEXT: AtomicU64 = AtomicU64::new(0);

#[derive(Clone, Copy)]
enum What {
    Pairs,
    Keys,
}

/// All `{Key, Value}` of a partition, as a list, or why there is none.
#[rustler::nif(schedule = "DirtyCpu")]
fn map_to_list_dirty<'a>(env: Env<'a>, handle: Handle<'_>, index: usize) -> Term<'a> {
    answer(env, read(env, handle, index, What::Pairs))
}

/// All keys of a partition, as a list, or why there is none.
#[rustler::nif(schedule = "DirtyCpu")]
fn map_keys_dirty<'a>(env: Env<'a>, handle: Handle<'_>, index: usize) -> Term<'a> {
    answer(env, read(env, handle, index, What::Keys))
}

fn answer<'a>(env: Env<'a>, result: Result<Term<'a>, Refused>) -> Term<'a> {
    result.unwrap_or_else(|refused| refused.atom().encode(env))
}

/// A snapshot that ends when its reader does, however that happens.
struct Snapshot<'b> {
    partition: &'b Partition<Map<Arena>, LocalPid>,
    id: u64,
}

impl<'b> Snapshot<'b> {
    fn begin(partition: &'b Partition<Map<Arena>, LocalPid>) -> Result<Self, Refused> {
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        partition.in_turn(|map| map.begin_snapshot(id))?;
        Ok(Self { partition, id })
    }
}

impl Drop for Snapshot<'_> {
    fn drop(&mut self) {
        // Of a closed partition it goes with the generation.
        let _ = self.partition.in_turn(|map| map.end_snapshot(self.id));
    }
}

fn read<'a>(
    env: Env<'a>,
    handle: Handle<'_>,
    index: usize,
    what: What,
) -> Result<Term<'a>, Refused> {
    let partitions = buffer(handle.0)?.partitions();
    let partition = partitions.get(index).ok_or(Refused::NoPartitions)?;
    let mut snapshot = Snapshot::begin(partition)?;
    let mut copies = Copies::with_capacity(env, 0);
    loop {
        let visited = partition.in_turn(|map| {
            map.visit(snapshot.id, ENTRIES, BYTES, |key, value| {
                let key = term(env, key);
                copies.push(match what {
                    What::Pairs => make_tuple(env, &[key, term(env, value)]),
                    What::Keys => key,
                });
            })
        })?;
        match visited {
            Visited::Some => {}
            Visited::All => return Ok(copies.into_list()),
            // A cycle has begun: the live generation is another one, and small.
            Visited::Gone => {
                snapshot = Snapshot::begin(partition)?;
                copies = Copies::with_capacity(env, 0);
            }
        }
    }
}

fn term<'a>(env: Env<'a>, seen: Seen<'_, Arena>) -> Term<'a> {
    match seen {
        Seen::Word(word) => immediate(env, word).unwrap_or_else(|| atoms::nil().encode(env)),
        Seen::Stored(arena, index) => arena.load(index, env),
        Seen::Packed(bytes, weight) => unpack(env, bytes, words_of(weight)),
    }
}
