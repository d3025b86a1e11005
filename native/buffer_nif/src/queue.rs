//! NIFs that write to a queue.
//!
//! Each answers `ok`, or says why nothing was written: `closed`, `no_partitions`, `improper` (not a
//! proper list) or `heavy` (call the `_dirty` twin; from that one: an item of 4 GB or more).

use buffer_core::route::route;
use buffer_core::{Closed, Generation as _, Queue};
use rustler::{Atom, Term};
use smallvec::SmallVec;

use crate::arena::{Arena, Handle};
use crate::resource::Partition;
use crate::weigh::{account, Heavy, Limits, Scale};
use crate::{atoms, clock};

/// Entries up to this weight, and lists up to this length, are copied under the partition's lock.
/// What is larger is copied into segments of its own first, and only those are handed over under it.
const COPIED_UNDER_LOCK: u32 = 8 * 1024;
const LISTED_UNDER_LOCK: usize = 64;

/// Why nothing was written.
enum Refused {
    Closed,
    Heavy,
    Improper,
    NoPartitions,
}

impl From<Closed> for Refused {
    fn from(_: Closed) -> Self {
        Refused::Closed
    }
}

impl From<Heavy> for Refused {
    fn from(_: Heavy) -> Self {
        Refused::Heavy
    }
}

fn answer(result: Result<(), Refused>) -> Atom {
    match result {
        Ok(()) => atoms::ok(),
        Err(Refused::Closed) => atoms::closed(),
        Err(Refused::Heavy) => atoms::heavy(),
        Err(Refused::Improper) => atoms::improper(),
        Err(Refused::NoPartitions) => atoms::no_partitions(),
    }
}

/// One item, routed by itself. Bounded.
#[rustler::nif]
fn queue_push(handle: Handle<'_>, item: Term<'_>) -> Atom {
    answer(push(handle, item, None, Scale::bounded()))
}

/// One item of any size, routed by itself.
#[rustler::nif(schedule = "DirtyCpu")]
fn queue_push_dirty(handle: Handle<'_>, item: Term<'_>) -> Atom {
    answer(push(handle, item, None, Scale::generous()))
}

/// One item to the partition of this index. Bounded.
#[rustler::nif]
fn queue_push_to(handle: Handle<'_>, item: Term<'_>, index: usize) -> Atom {
    answer(push(handle, item, Some(index), Scale::bounded()))
}

/// One item of any size to the partition of this index.
#[rustler::nif(schedule = "DirtyCpu")]
fn queue_push_to_dirty(handle: Handle<'_>, item: Term<'_>, index: usize) -> Atom {
    answer(push(handle, item, Some(index), Scale::generous()))
}

/// A list of items, each routed by itself. Bounded.
#[rustler::nif]
fn queue_push_list(handle: Handle<'_>, items: Term<'_>) -> Atom {
    answer(push_list(
        handle,
        items,
        Routes::Hash,
        Scale::bounded(),
        Limits::ENTRIES,
    ))
}

/// A list of items of any length and size, each routed by itself.
#[rustler::nif(schedule = "DirtyCpu")]
fn queue_push_list_dirty(handle: Handle<'_>, items: Term<'_>) -> Atom {
    answer(push_list(
        handle,
        items,
        Routes::Hash,
        Scale::generous(),
        usize::MAX,
    ))
}

/// A list of items to the partitions that a list of indexes names, one for each. Bounded.
#[rustler::nif]
fn queue_push_routed<'a>(handle: Handle<'_>, items: Term<'a>, indexes: Term<'a>) -> Atom {
    answer(push_list(
        handle,
        items,
        Routes::Given(indexes),
        Scale::bounded(),
        Limits::ENTRIES,
    ))
}

/// The same for lists of any length and items of any size.
#[rustler::nif(schedule = "DirtyCpu")]
fn queue_push_routed_dirty<'a>(handle: Handle<'_>, items: Term<'a>, indexes: Term<'a>) -> Atom {
    answer(push_list(
        handle,
        items,
        Routes::Given(indexes),
        Scale::generous(),
        usize::MAX,
    ))
}

fn push(
    handle: Handle<'_>,
    item: Term<'_>,
    index: Option<usize>,
    mut scale: Scale,
) -> Result<(), Refused> {
    let partitions = handle.0.buffer.partitions();
    let (weight, index) = match index {
        Some(index) => (scale.weigh(item)?, index),
        None => weigh_and_route(&mut scale, item, partitions)?,
    };
    let partition = partitions.get(index).ok_or(Refused::NoPartitions)?;
    account(item.get_env(), 0, u64::from(weight));
    if weight <= COPIED_UNDER_LOCK {
        partition.write(|live| store(live, item, weight))?;
    } else {
        let mut staged = Queue::default();
        store(&mut staged, item, weight);
        partition.write(|live| live.append(staged))?;
    }
    Ok(())
}

enum Routes<'a> {
    Hash,
    Given(Term<'a>),
}

/// An item with the weight of its copy and the partition it goes to.
struct Routed<'a> {
    item: Term<'a>,
    weight: u32,
    index: usize,
}

type Items<'a> = SmallVec<[Routed<'a>; 16]>;

fn push_list<'a>(
    handle: Handle<'_>,
    items: Term<'a>,
    routes: Routes<'a>,
    mut scale: Scale,
    limit: usize,
) -> Result<(), Refused> {
    let buffer = &handle.0.buffer;
    let partitions = buffer.partitions();
    if partitions.is_empty() {
        return Err(Refused::NoPartitions);
    }
    let env = items.get_env();
    let items = gather(items, routes, partitions, &mut scale, limit)?;
    account(env, items.len(), scale.weighed());
    let Some(first) = items.first() else {
        return Ok(());
    };
    let heaviest = items.iter().map(|routed| routed.weight).max();
    let under_lock = items.len() <= LISTED_UNDER_LOCK && heaviest <= Some(COPIED_UNDER_LOCK);

    // All to one partition: its lock alone makes the list whole.
    if items.iter().all(|routed| routed.index == first.index) {
        let partition = partitions.get(first.index).ok_or(Refused::NoPartitions)?;
        if under_lock {
            partition.write(|live| items.iter().for_each(|routed| routed.store(live)))?;
        } else {
            let mut staged = Queue::default();
            items.iter().for_each(|routed| routed.store(&mut staged));
            partition.write(|live| live.append(staged))?;
        }
        return Ok(());
    }

    if under_lock {
        let _pass = buffer.enter()?;
        for (index, partition) in partitions.iter().enumerate() {
            let mut here = items
                .iter()
                .filter(|routed| routed.index == index)
                .peekable();
            if here.peek().is_some() {
                partition.write_admitted(|live| here.for_each(|routed| routed.store(live)));
            }
        }
    } else {
        let mut staged: Vec<Queue<Arena>> = partitions.iter().map(|_| Queue::default()).collect();
        for routed in &items {
            let queue = staged.get_mut(routed.index).ok_or(Refused::NoPartitions)?;
            routed.store(queue);
        }
        let _pass = buffer.enter()?;
        for (partition, queue) in partitions.iter().zip(staged) {
            if !queue.is_empty() {
                partition.write_admitted(|live| live.append(queue));
            }
        }
    }
    Ok(())
}

/// Walks the list once: nothing is written before all of it is known to be in order.
fn gather<'a>(
    items: Term<'a>,
    routes: Routes<'a>,
    partitions: &[Partition],
    scale: &mut Scale,
    limit: usize,
) -> Result<Items<'a>, Refused> {
    let mut gathered = Items::new();
    let mut rest = items;
    let mut indexes = match routes {
        Routes::Hash => None,
        Routes::Given(indexes) => Some(indexes),
    };
    while let Ok((item, tail)) = rest.list_get_cell() {
        if gathered.len() == limit {
            return Err(Refused::Heavy);
        }
        let (weight, index) = match &mut indexes {
            None => weigh_and_route(scale, item, partitions)?,
            Some(indexes) => {
                let (index, tail) = indexes.list_get_cell().map_err(|_| Refused::Improper)?;
                *indexes = tail;
                let index = index.decode().map_err(|_| Refused::Improper)?;
                (scale.weigh(item)?, index)
            }
        };
        gathered.push(Routed {
            item,
            weight,
            index,
        });
        rest = tail;
    }
    if rest.is_empty_list()
        && gathered
            .iter()
            .all(|routed| routed.index < partitions.len())
    {
        Ok(gathered)
    } else {
        Err(Refused::Improper)
    }
}

impl Routed<'_> {
    fn store(&self, queue: &mut Queue<Arena>) {
        store(queue, self.item, self.weight);
    }
}

fn store(queue: &mut Queue<Arena>, item: Term<'_>, weight: u32) {
    queue.push(weight, clock::now, |arena| arena.store(item));
}

/// The weight of an item and the partition that it belongs to by itself.
#[inline]
fn weigh_and_route(
    scale: &mut Scale,
    item: Term<'_>,
    partitions: &[Partition],
) -> Result<(u32, usize), Refused> {
    match partitions.len() {
        0 => Err(Refused::NoPartitions),
        1 => Ok((scale.weigh(item)?, 0)),
        count => {
            let weight = scale.weigh(item)?;
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            Ok((weight, route(item.hash_phash2(), count)))
        }
    }
}
