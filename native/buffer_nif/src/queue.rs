//! NIFs that write to a queue.
//!
//! Each answers `ok`, or says why nothing was written: `closed`, `no_partitions`, `improper` (not a
//! proper list) or `heavy` (call the `_dirty` twin; from that one: an item of 4 GB or more).

use buffer_core::{Generation as _, Partition, Queue};
use rustler::{Atom, Env, LocalPid, Term};
use smallvec::SmallVec;

use crate::arena::{Arena, Copies, Handle};
use crate::clock;
use crate::cycle::Readable;
use crate::resource::{QueueBuffer, Storage};
use crate::weigh::{account, Limits, Scale};
use crate::write::{answer, own_route, Refused};

/// Entries up to this weight, and lists of which a partition gets no more than that many, are copied
/// under the partition's lock.
/// What is larger is copied into segments of its own first, and only those are handed over under it.
const COPIED_UNDER_LOCK: u32 = 8 * 1024;
const LISTED_UNDER_LOCK: usize = 64;

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
    let partitions = queue(handle)?.partitions();
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

fn queue(handle: Handle<'_>) -> Result<&QueueBuffer, Refused> {
    match &handle.0.storage {
        Storage::Queue(buffer) => Ok(buffer),
        Storage::Map(_) => Err(Refused::OtherKind),
    }
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
    let buffer = queue(handle)?;
    let partitions = buffer.partitions();
    if items.is_empty_list() {
        return Ok(());
    }
    if partitions.is_empty() {
        return Err(Refused::NoPartitions);
    }
    let env = items.get_env();
    let items = gather(items, routes, partitions, &mut scale, limit)?;
    account(env, items.len(), scale.weighed());

    let mut shares: SmallVec<[Share; 16]> = partitions.iter().map(|_| Share::default()).collect();
    for routed in &items {
        shares[routed.index].add(routed);
    }
    for (index, share) in shares.iter_mut().enumerate() {
        if share.count > LISTED_UNDER_LOCK || share.heaviest > COPIED_UNDER_LOCK {
            let staged = share.staged.insert(Queue::default());
            of_partition(&items, index).for_each(|routed| routed.store(staged));
        }
    }
    let write = |index: usize, staged: Option<Queue<Arena>>, live: &mut Queue<Arena>| match staged {
        Some(staged) => live.append(staged),
        None => of_partition(&items, index).for_each(|routed| routed.store(live)),
    };
    let mut involved = shares
        .into_iter()
        .zip(partitions)
        .enumerate()
        .filter(|(_, (share, _))| share.count > 0)
        .peekable();

    // All to one partition: its lock alone makes the list whole.
    if let Some((index, (share, partition))) =
        involved.next_if(|(_, (share, _))| share.count == items.len())
    {
        partition.write(|live| write(index, share.staged, live))?;
        return Ok(());
    }
    let _pass = buffer.enter()?;
    for (index, (share, partition)) in involved {
        partition.write_admitted(|live| write(index, share.staged, live));
    }
    Ok(())
}

/// What of a list goes to one partition.
#[derive(Default)]
struct Share {
    count: usize,
    heaviest: u32,
    staged: Option<Queue<Arena>>,
}

impl Share {
    fn add(&mut self, routed: &Routed<'_>) {
        self.count += 1;
        self.heaviest = self.heaviest.max(routed.weight);
    }
}

fn of_partition<'a, 'b>(
    items: &'b [Routed<'a>],
    index: usize,
) -> impl Iterator<Item = &'b Routed<'a>> {
    items.iter().filter(move |routed| routed.index == index)
}

/// Walks the list once: nothing is written before all of it is known to be in order.
fn gather<'a>(
    items: Term<'a>,
    routes: Routes<'a>,
    partitions: &[Partition<Queue<Arena>, LocalPid>],
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
    partitions: &[Partition<Queue<Arena>, LocalPid>],
) -> Result<(u32, usize), Refused> {
    let weight = scale.weigh(item)?;
    Ok((weight, own_route(item, partitions.len())?))
}

impl Readable for Queue<Arena> {
    fn read<'a>(&self, env: Env<'a>, cursor: usize, count: usize) -> (Term<'a>, usize) {
        let mut copies = Copies::with_capacity(env, count.min(self.len()));
        for (arena, range) in self.pieces(cursor, count) {
            copies.extend(arena, range);
        }
        let next = cursor + copies.len();
        (copies.into_list(), next)
    }
}
