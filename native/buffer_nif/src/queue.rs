//! NIFs that write to a queue.
//!
//! Each answers `ok`, or says why nothing was written: `closed`, `no_partitions`, `improper` (not a
//! proper list), `unknown` (there is no such buffer), `heavy` (call the `_dirty` twin; from that one: an item of 4 GB or more), `full`,
//! `too_large` (for the buffer's bounds) or `wait` (there is no room now: call `queue_wait_dirty`).

use buffer_core::{Arena as _, Credit, Generation as _, NoRoom, Partition, Queue, Size, Wait};
use rustler::{Atom, Encoder, Env, LocalPid, Term};
use smallvec::SmallVec;

use crate::arena::{Arena, Copies, Handle};
use crate::cycle::Readable;
use crate::names::Target;
use crate::resource::{Overflow, QueueBuffer, Shared, Storage};
use crate::server::Waiter;
use crate::weigh::{account, Limits, Scale};
use crate::write::{
    answer, finish, granted, make_room, no_room, own_route, signal, take_room, tokens, Awaited,
    Refused, Todo,
};
use crate::{atoms, clock};

/// Entries up to this weight, and lists of which a partition gets no more than that many, are copied
/// under the partition's lock.
/// What is larger is copied into segments of its own first, and only those are handed over under it.
pub const COPIED_UNDER_LOCK: u32 = 8 * 1024;
/// Such lists.
pub const LISTED_UNDER_LOCK: usize = 64;

/// One item, routed by itself. Bounded.
#[rustler::nif]
fn queue_push(buffer: Target<'_>, item: Term<'_>) -> Atom {
    answer(buffer.with(|shared| push(shared, item, None, Scale::bounded())))
}

/// One item of any size, routed by itself.
#[rustler::nif(schedule = "DirtyCpu")]
fn queue_push_dirty(handle: Handle<'_>, item: Term<'_>) -> Atom {
    answer(push(handle.0, item, None, Scale::generous()))
}

/// One item to the partition of this index. Bounded.
#[rustler::nif]
fn queue_push_to(handle: Handle<'_>, item: Term<'_>, index: usize) -> Atom {
    answer(push(handle.0, item, Some(index), Scale::bounded()))
}

/// One item of any size to the partition of this index.
#[rustler::nif(schedule = "DirtyCpu")]
fn queue_push_to_dirty(handle: Handle<'_>, item: Term<'_>, index: usize) -> Atom {
    answer(push(handle.0, item, Some(index), Scale::generous()))
}

/// A list of items, each routed by itself. Bounded.
#[rustler::nif]
fn queue_push_list(buffer: Target<'_>, items: Term<'_>) -> Atom {
    let (scale, limit) = (Scale::bounded(), Limits::ENTRIES);
    answer_list(buffer.with(|shared| push_list(shared, items, Routes::Hash, scale, limit, None)))
}

/// A list of items of any length and size, each routed by itself.
#[rustler::nif(schedule = "DirtyCpu")]
fn queue_push_list_dirty(handle: Handle<'_>, items: Term<'_>) -> Atom {
    answer_list(push_list(
        handle.0,
        items,
        Routes::Hash,
        Scale::generous(),
        usize::MAX,
        None,
    ))
}

/// A list of items to the partitions that a list of indexes names, one for each. Bounded.
#[rustler::nif]
fn queue_push_routed<'a>(handle: Handle<'_>, items: Term<'a>, indexes: Term<'a>) -> Atom {
    answer_list(push_list(
        handle.0,
        items,
        Routes::Given(indexes),
        Scale::bounded(),
        Limits::ENTRIES,
        None,
    ))
}

/// The same for lists of any length and items of any size.
#[rustler::nif(schedule = "DirtyCpu")]
fn queue_push_routed_dirty<'a>(handle: Handle<'_>, items: Term<'a>, indexes: Term<'a>) -> Atom {
    answer_list(push_list(
        handle.0,
        items,
        Routes::Given(indexes),
        Scale::generous(),
        usize::MAX,
        None,
    ))
}

fn answer_list(result: Result<Vec<u64>, Refused>) -> Atom {
    answer(result.map(|_| ()))
}

/// Writes items as soon as there is room: `ok`, why nothing was written, or `{wait, Ticket}`. Then the
/// caller gets `{Reference, ok}`, or with why nothing was written, unless it gives up first
/// (`buffer_give_up`). `indexes` are those of `queue_push_routed`, or an empty list. With a token, it is
/// `{ok, [Token]}` as from `queue_push_awaited` instead of `ok`. Dirty, since items may be of any size.
#[rustler::nif(schedule = "DirtyCpu")]
fn queue_wait_dirty<'a>(
    env: Env<'a>,
    handle: Handle<'_>,
    items: Term<'a>,
    indexes: Term<'a>,
    reference: Term<'a>,
    token: Option<u64>,
) -> Term<'a> {
    wait(env, handle.0, items, indexes, reference, token)
        .unwrap_or_else(|refused| refused.atom().encode(env))
}

/// Writes items and answers `{ok, [Token]}`, one for each partition that has some of them, or why nothing was
/// written. When all of those in a partition have been through, the caller gets
/// `{partitioned_buffer, Token, {ok, Result} | {error, Reason}}`. Bounded.
#[rustler::nif]
fn queue_push_awaited<'a>(
    env: Env<'a>,
    handle: Handle<'_>,
    items: Term<'a>,
    indexes: Term<'a>,
    token: u64,
) -> Term<'a> {
    let (scale, limit) = (Scale::bounded(), Limits::ENTRIES);
    let awaited = Some((env.pid(), token));
    tokens(
        env,
        push_list(handle.0, items, Routes::of(indexes), scale, limit, awaited),
    )
}

/// The same for lists of any length and items of any size.
#[rustler::nif(schedule = "DirtyCpu")]
fn queue_push_awaited_dirty<'a>(
    env: Env<'a>,
    handle: Handle<'_>,
    items: Term<'a>,
    indexes: Term<'a>,
    token: u64,
) -> Term<'a> {
    let (scale, limit) = (Scale::generous(), usize::MAX);
    let awaited = Some((env.pid(), token));
    tokens(
        env,
        push_list(handle.0, items, Routes::of(indexes), scale, limit, awaited),
    )
}

fn push(
    shared: &Shared,
    item: Term<'_>,
    index: Option<usize>,
    mut scale: Scale,
) -> Result<(), Refused> {
    let partitions = queue(shared)?.partitions();
    let (weight, index) = match index {
        Some(index) => (scale.weigh(item)?, index),
        None => weigh_and_route(&mut scale, item, partitions)?,
    };
    let partition = partitions.get(index).ok_or(Refused::NoPartitions)?;
    let env = item.get_env();
    account(env, 0, u64::from(weight));
    let size = Size::one(weight);
    let mut todo = Todo::default();
    let written = if weight <= COPIED_UNDER_LOCK {
        partition.write(&mut todo, |live, room| {
            take_room(env, shared, live, room, size)?;
            store(live, item, weight);
            Ok(())
        })?
    } else {
        let mut staged = Queue::default();
        store(&mut staged, item, weight);
        partition.write(&mut todo, |live, room| {
            take_room(env, shared, live, room, size)?;
            live.append(staged);
            Ok(())
        })?
    };
    finish(env, shared, todo, None);
    match signal(env, written) {
        Ok(()) => Ok(()),
        Err(reason) => push_full(shared, item, index, weight, reason),
    }
}

/// There was no room in this partition's turn: what the buffer does then.
#[cold]
fn push_full(
    shared: &Shared,
    item: Term<'_>,
    index: usize,
    weight: u32,
    reason: NoRoom,
) -> Result<(), Refused> {
    let buffer = queue(shared)?;
    let env = item.get_env();
    let partition = &buffer.partitions()[index];
    let size = Size::one(weight);
    match (reason, shared.overflow()) {
        (NoRoom::Full, Overflow::DropNewest) => {
            let keep = |arena: &mut Arena| arena.store(item);
            let written = partition.drop_new(size, shared.keeps_discarded().then_some(keep))?;
            signal(env, written);
            Ok(())
        }
        (NoRoom::Full, Overflow::DropOldest) => {
            let credit = make_room(env, shared, buffer, size, index)?;
            write_items(
                env,
                shared,
                buffer,
                &[Routed {
                    item,
                    weight,
                    index,
                }],
                credit,
                None,
            )?;
            Ok(())
        }
        _ => Err(no_room(shared, reason)),
    }
}

/// The storage, if it is that of a queue.
pub fn queue(shared: &Shared) -> Result<&QueueBuffer, Refused> {
    match &shared.storage {
        Storage::Queue(buffer) => Ok(buffer),
        Storage::Map(_) => Err(Refused::OtherKind),
    }
}

enum Routes<'a> {
    Hash,
    Given(Term<'a>),
}

impl<'a> Routes<'a> {
    /// Those of a list, or none if it is empty.
    fn of(indexes: Term<'a>) -> Self {
        if indexes.is_empty_list() {
            Routes::Hash
        } else {
            Routes::Given(indexes)
        }
    }
}

/// An item with the weight of its copy and the partition it goes to.
struct Routed<'a> {
    item: Term<'a>,
    weight: u32,
    index: usize,
}

type Items<'a> = SmallVec<[Routed<'a>; 16]>;

/// Answers the tokens of the partitions that have something of the list.
fn push_list<'a>(
    shared: &Shared,
    items: Term<'a>,
    routes: Routes<'a>,
    mut scale: Scale,
    limit: usize,
    awaited: Awaited,
) -> Result<Vec<u64>, Refused> {
    let buffer = queue(shared)?;
    let partitions = buffer.partitions();
    if items.is_empty_list() {
        return Ok(Vec::new());
    }
    if partitions.is_empty() {
        return Err(Refused::NoPartitions);
    }
    let env = items.get_env();
    let items = gather(items, routes, partitions, &mut scale, limit)?;
    account(env, items.len(), scale.weighed());
    let credit = if buffer.capacity().is_limited() {
        let size = size_of(&items);
        match buffer.capacity().take(size) {
            Ok(credit) => credit,
            Err(reason) => match (reason, shared.overflow()) {
                (NoRoom::Full, Overflow::DropNewest) => return drop_list(env, shared, &items),
                (NoRoom::Full, Overflow::DropOldest) => {
                    make_room(env, shared, buffer, size, items[0].index)?
                }
                _ => return Err(no_room(shared, reason)),
            },
        }
    } else {
        Credit::NONE
    };
    write_items(env, shared, buffer, &items, credit, awaited)
}

fn size_of(items: &[Routed<'_>]) -> Size {
    Size {
        entries: items.len(),
        bytes: items.iter().map(|routed| u64::from(routed.weight)).sum(),
    }
}

/// Drops a list for which there is no room, as a whole.
fn drop_list(env: Env<'_>, shared: &Shared, items: &[Routed<'_>]) -> Result<Vec<u64>, Refused> {
    let buffer = queue(shared)?;
    let _pass = buffer.enter()?;
    for routed in items {
        let keep = |arena: &mut Arena| arena.store(routed.item);
        let keep = shared.keeps_discarded().then_some(keep);
        let partition = &buffer.partitions()[routed.index];
        // Closed in between: then the whole buffer is about to end, and this counts no more.
        if let Ok(written) = partition.drop_new(Size::one(routed.weight), keep) {
            signal(env, written);
        }
    }
    Ok(Vec::new())
}

/// Writes items for which room has been taken, all or, if the buffer is closed, none.
fn write_items(
    env: Env<'_>,
    shared: &Shared,
    buffer: &QueueBuffer,
    items: &[Routed<'_>],
    mut credit: Credit,
    awaited: Awaited,
) -> Result<Vec<u64>, Refused> {
    let partitions = buffer.partitions();
    let mut shares: SmallVec<[Share; 16]> = partitions.iter().map(|_| Share::default()).collect();
    for routed in items {
        shares[routed.index].add(routed);
    }
    for (index, share) in shares.iter_mut().enumerate() {
        if share.count > LISTED_UNDER_LOCK || share.heaviest > COPIED_UNDER_LOCK {
            let staged = share.staged.insert(Queue::default());
            of_partition(items, index).for_each(|routed| routed.store(staged));
        }
    }
    let involved = shares
        .into_iter()
        .zip(partitions)
        .enumerate()
        .filter(|(_, (share, _))| share.count > 0);

    let Ok(_pass) = buffer.enter() else {
        let _ = buffer.capacity().cancel(credit);
        return Err(Refused::Closed);
    };
    let mut todo = Todo::default();
    let mut tokens = Vec::new();
    for (index, (share, partition)) in involved {
        let write = |live: &mut Queue<Arena>| match share.staged {
            Some(staged) => live.append(staged),
            None => of_partition(items, index).for_each(|routed| routed.store(live)),
        };
        match awaited {
            None => signal(env, partition.write_admitted(&mut credit, &mut todo, write)),
            Some((owner, first)) => {
                let token = first + tokens.len() as u64;
                tokens.push(token);
                let written =
                    partition.write_awaited(&mut credit, &mut todo, (owner, token), |live| {
                        let before = live.places().1;
                        write(live);
                        before..live.places().1
                    });
                signal(env, written);
            }
        }
    }
    todo.room |= credit.size != Size::default() && buffer.capacity().cancel(credit);
    finish(env, shared, todo, None);
    Ok(tokens)
}

fn wait<'a>(
    env: Env<'a>,
    shared: &Shared,
    items: Term<'a>,
    indexes: Term<'a>,
    reference: Term<'a>,
    token: Option<u64>,
) -> Result<Term<'a>, Refused> {
    let buffer = queue(shared)?;
    let mut scale = Scale::generous();
    let routed = gather(
        items,
        Routes::of(indexes),
        buffer.partitions(),
        &mut scale,
        usize::MAX,
    )?;
    let mut request = Arena::new();
    request.store((reference, items, indexes, token).encode(env));
    let waiter = Waiter {
        pid: env.pid(),
        request,
    };
    match shared
        .waiters
        .wait(buffer.capacity(), size_of(&routed), waiter)
    {
        Wait::Taken(_, credit) => {
            let awaited = token.map(|token| (env.pid(), token));
            let written = write_items(env, shared, buffer, &routed, credit, awaited);
            Ok(granted(env, token, written))
        }
        Wait::Waits(ticket) => Ok((atoms::wait(), ticket).encode(env)),
        Wait::TooLarge => Err(Refused::TooLarge),
        Wait::Closed => Err(Refused::Closed),
    }
}

/// Makes the write of a request that room has been taken for.
pub fn write_granted<'a>(
    shared: &Shared,
    items: Term<'a>,
    indexes: Term<'a>,
    credit: Credit,
    awaited: Awaited,
) -> Result<Vec<u64>, Refused> {
    let buffer = queue(shared)?;
    let mut scale = Scale::generous();
    let routed = gather(
        items,
        Routes::of(indexes),
        buffer.partitions(),
        &mut scale,
        usize::MAX,
    );
    let Ok(routed) = routed else {
        let _ = buffer.capacity().cancel(credit);
        return Err(Refused::Improper);
    };
    write_items(items.get_env(), shared, buffer, &routed, credit, awaited)
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

/// Copies an item to the end.
pub fn store(queue: &mut Queue<Arena>, item: Term<'_>, weight: u32) {
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
    fn cursor(&self, place: u64) -> usize {
        place.saturating_sub(self.places().0) as usize
    }

    fn place(&self, cursor: usize) -> u64 {
        self.places().0 + cursor as u64
    }

    fn copy_rows(&self, _env: Env<'_>, count: usize, to: &mut Arena) {
        for (arena, range) in self.pieces(0, count) {
            range.for_each(|index| to.copy_from(arena, index));
        }
    }

    fn read<'a>(&self, env: Env<'a>, cursor: usize, count: usize) -> (Term<'a>, usize) {
        let mut copies = Copies::with_capacity(env, count.min(self.len()));
        for (arena, range) in self.pieces(cursor, count) {
            copies.extend(arena, range);
        }
        let next = cursor + copies.len();
        (copies.into_list(), next)
    }
}
