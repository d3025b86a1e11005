//! NIFs that push a list of items: all of it or nothing.
//!
//! The list is walked once before anything is written: weighed, routed, and chained up by partition. Then
//! what goes to one partition is written under one hold of its lock, or handed over there if it is much.

use buffer_core::{
    Arena as _, Credit, Generation as _, NoRoom, Partition, Queue, Segment, Size, Trigger, Wait,
};
use rustler::{Atom, Encoder, Env, LocalPid, Term};
use smallvec::SmallVec;

use super::{queue, COPIED_UNDER_LOCK, LISTED_UNDER_LOCK};
use crate::arena::{Arena, Bare, Cells, Handle};
use crate::begin::{begin, full};
use crate::entry::nif;
use crate::names::Target;
use crate::resource::{Overflow, QueueBuffer, Shared};
use crate::server::Waiter;
use crate::weigh::{account, Limits, Scale};
use crate::write::{
    answer, awaited_later, finish, granted, make_room, own_route, refuse, signal, tokens,
    written_on_credit, Awaited, Awaits, Refused, Todo,
};
use crate::{atoms, clock};

nif!(queue_push_list / 2, queue_push_list);

/// A list of items, each routed by itself. Bounded.
fn queue_push_list<'a>(env: Env<'a>, [buffer, items]: [Term<'a>; 2]) -> Term<'a> {
    let (scale, limit) = (Scale::bounded(), Limits::ENTRIES);
    let buffer = Target::of(buffer);
    let result = buffer.with(|shared| push(shared, items, Routes::Hash, scale, limit, None));
    answer_list(result).to_term(env)
}

/// A list of items of any length and size, each routed by itself.
#[rustler::nif(schedule = "DirtyCpu")]
fn queue_push_list_dirty(handle: Handle<'_>, items: Term<'_>) -> Atom {
    answer_list(push(
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
    answer_list(push(
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
    answer_list(push(
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
/// `{partitioned_buffer, Token, {ok, Result} | {error, Reason}}`. With `flush`, processing starts at once. Bounded.
#[rustler::nif]
fn queue_push_awaited<'a>(
    env: Env<'a>,
    handle: Handle<'_>,
    items: Term<'a>,
    indexes: Term<'a>,
    token: u64,
    flush: bool,
) -> Term<'a> {
    let (scale, limit) = (Scale::bounded(), Limits::ENTRIES);
    let owner = env.pid();
    let awaited = Some(Awaits {
        owner,
        token,
        flush,
    });
    tokens(
        env,
        push(handle.0, items, Routes::of(indexes), scale, limit, awaited),
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
    flush: bool,
) -> Term<'a> {
    let (scale, limit) = (Scale::generous(), usize::MAX);
    let owner = env.pid();
    let awaited = Some(Awaits {
        owner,
        token,
        flush,
    });
    tokens(
        env,
        push(handle.0, items, Routes::of(indexes), scale, limit, awaited),
    )
}

/// Where the items of a list go.
enum Routes<'a> {
    /// Each where it belongs by itself.
    Hash,
    /// To the partitions of a list of indexes.
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

/// An item with the weight of its copy, and the next item that goes to the same partition.
struct Routed<'a> {
    item: Bare<'a>,
    weight: u32,
    next: u32,
}

const NONE: u32 = u32::MAX;

/// The items of a list.
pub(super) struct Items<'a> {
    env: Env<'a>,
    routed: SmallVec<[Routed<'a>; 16]>,
    shares: SmallVec<[Share; 8]>,
}

/// What of a list goes to one partition: a chain of items.
#[derive(Clone, Copy)]
struct Share {
    first: u32,
    last: u32,
    count: usize,
    bytes: u64,
    heaviest: u32,
}

impl Share {
    /// A queue for it, with room for small items.
    fn queue(&self) -> Queue<Arena> {
        if self.heaviest > COPIED_UNDER_LOCK {
            return Queue::default();
        }
        // The weight of an item has a word for itself.
        let words = (self.bytes as usize / size_of::<usize>()).saturating_sub(self.count);
        let entries = self.count.min(Segment::<Arena>::MAX_ENTRIES);
        Queue::about_to_get(entries, words * entries / self.count.max(1))
    }
}

impl<'a> Items<'a> {
    fn new(env: Env<'a>, partitions: usize) -> Self {
        let none = Share {
            first: NONE,
            last: NONE,
            count: 0,
            bytes: 0,
            heaviest: 0,
        };
        Self {
            env,
            routed: SmallVec::new(),
            shares: SmallVec::from_elem(none, partitions),
        }
    }

    /// A single item of a queue of so many partitions.
    pub(super) fn one(item: Term<'a>, weight: u32, index: usize, partitions: usize) -> Self {
        let mut items = Self::new(item.get_env(), partitions);
        items.add(item, weight, index);
        items
    }

    fn add(&mut self, item: Term<'a>, weight: u32, index: usize) {
        let number = self.routed.len() as u32;
        let share = &mut self.shares[index];
        match self.routed.get_mut(share.last as usize) {
            Some(last) => last.next = number,
            None => share.first = number,
        }
        share.last = number;
        share.count += 1;
        share.bytes += u64::from(weight);
        share.heaviest = share.heaviest.max(weight);
        self.routed.push(Routed {
            item: Bare::of(item),
            weight,
            next: NONE,
        });
    }

    /// The partition that the first item goes to.
    fn first_index(&self) -> usize {
        let first = self.shares.iter().position(|share| share.first == 0);
        first.unwrap_or(0)
    }

    /// What goes to one partition: items with their weights.
    fn of(&self, share: Share) -> impl Iterator<Item = (Term<'a>, u32)> + '_ {
        let mut number = share.first as usize;
        std::iter::from_fn(move || {
            let one = self.routed.get(number)?;
            number = one.next as usize;
            Some((one.item.term(self.env), one.weight))
        })
    }

    fn size(&self) -> Size {
        Size {
            entries: self.routed.len(),
            bytes: self.routed.iter().map(|one| u64::from(one.weight)).sum(),
        }
    }

    /// Stores what goes to one partition.
    fn store(&self, share: Share, queue: &mut Queue<Arena>) {
        queue.extend(self.of(share), clock::now, |arena, item| arena.store(item));
    }
}

/// Pushes a list; answers the tokens of the partitions that have something of it.
fn push<'a>(
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
    let items = gather(items, routes, partitions.len(), &mut scale, limit)?;
    account(env, items.routed.len(), scale.weighed());
    let credit = if buffer.capacity().is_limited() {
        let size = items.size();
        match buffer.capacity().take(size) {
            Ok(credit) => credit,
            Err(reason) => match (reason, shared.overflow()) {
                (NoRoom::Full, Overflow::DropNewest) => return drop_all(env, shared, &items),
                (NoRoom::Full, Overflow::DropOldest) => {
                    make_room(env, shared, buffer, size, items.first_index())?
                }
                _ => return Err(refuse(env, shared, reason)),
            },
        }
    } else {
        Credit::NONE
    };
    write(env, shared, buffer, &items, credit, awaited)
}

/// Drops a list for which there is no room, as a whole.
fn drop_all(env: Env<'_>, shared: &Shared, items: &Items<'_>) -> Result<Vec<u64>, Refused> {
    let buffer = queue(shared)?;
    let _pass = buffer.enter()?;
    for (share, partition) in items.shares.iter().zip(buffer.partitions()) {
        for (item, weight) in items.of(*share) {
            let keep = |arena: &mut Arena| arena.store(item);
            let keep = shared.keeps_discarded().then_some(keep);
            // Closed in between: then the whole buffer is about to end, and this counts no more.
            if let Ok(written) = partition.drop_new(Size::one(weight), keep) {
                signal(env, shared, partition, written);
            }
        }
    }
    full(env, shared);
    Ok(Vec::new())
}

/// Writes items for which room has been taken, all or, if the buffer is closed, none.
pub(super) fn write(
    env: Env<'_>,
    shared: &Shared,
    buffer: &QueueBuffer,
    items: &Items<'_>,
    mut credit: Credit,
    awaited: Awaited,
) -> Result<Vec<u64>, Refused> {
    let Ok(_pass) = buffer.enter() else {
        let _ = buffer.capacity().cancel(credit);
        return Err(Refused::Closed);
    };
    let mut todo = Todo::default();
    let mut tokens = Vec::new();
    for (share, partition) in items.shares.iter().zip(buffer.partitions()) {
        if share.count == 0 {
            continue;
        }
        let awaits = awaited.map(|awaits| Awaits {
            token: awaits.token + tokens.len() as u64,
            ..awaits
        });
        tokens.extend(awaits.map(|awaits| awaits.token));
        write_share(
            env,
            shared,
            partition,
            items,
            *share,
            (&mut credit, &mut todo),
            awaits,
        );
    }
    todo.room |= credit.size != Size::default() && buffer.capacity().cancel(credit);
    finish(env, shared, todo, None);
    written_on_credit(env, shared);
    Ok(tokens)
}

fn write_share(
    env: Env<'_>,
    shared: &Shared,
    partition: &Partition<Queue<Arena>, LocalPid>,
    items: &Items<'_>,
    share: Share,
    (credit, todo): (&mut Credit, &mut Todo),
    awaited: Awaited,
) {
    let staged = share.count > LISTED_UNDER_LOCK || share.heaviest > COPIED_UNDER_LOCK;
    let staged = staged.then(|| {
        let mut staged = share.queue();
        items.store(share, &mut staged);
        staged
    });
    let write = |live: &mut Queue<Arena>| match staged {
        Some(staged) => live.append(staged),
        None => items.store(share, live),
    };
    match awaited {
        None => {
            let written = partition.write_admitted(credit, todo, write);
            signal(env, shared, partition, written);
        }
        Some(awaits) => {
            let awaited = (awaits.owner, awaits.token);
            let written = partition.write_awaited(credit, todo, awaited, |live| {
                let before = live.places().1;
                write(live);
                before..live.places().1
            });
            signal(env, shared, partition, written);
            if awaits.flush {
                begin(env, shared, partition, Trigger::Flush);
            }
        }
    }
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
    let gathered = gather_any(buffer, items, indexes)?;
    let mut request = Arena::new();
    request.store((reference, items, indexes, token).encode(env));
    let waiter = Waiter {
        pid: env.pid(),
        request,
    };
    match shared
        .waiters
        .wait(buffer.capacity(), gathered.size(), waiter)
    {
        Wait::Taken(_, credit) => {
            let awaited = awaited_later(env.pid(), token);
            let written = write(env, shared, buffer, &gathered, credit, awaited);
            Ok(granted(env, token, written))
        }
        Wait::Waits(ticket) => {
            // From now on nobody else takes the room that this makes.
            full(env, shared);
            Ok((atoms::wait(), ticket).encode(env))
        }
        Wait::TooLarge => Err(Refused::TooLarge),
        Wait::TurnedAway => Err(Refused::Again),
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
    let Ok(gathered) = gather_any(buffer, items, indexes) else {
        let _ = buffer.capacity().cancel(credit);
        return Err(Refused::Improper);
    };
    write(items.get_env(), shared, buffer, &gathered, credit, awaited)
}

fn gather_any<'a>(
    buffer: &QueueBuffer,
    items: Term<'a>,
    indexes: Term<'a>,
) -> Result<Items<'a>, Refused> {
    let partitions = buffer.partitions().len();
    let mut scale = Scale::generous();
    gather(
        items,
        Routes::of(indexes),
        partitions,
        &mut scale,
        usize::MAX,
    )
}

/// Walks the list once: nothing is written before all of it is known to be in order.
fn gather<'a>(
    items: Term<'a>,
    routes: Routes<'a>,
    partitions: usize,
    scale: &mut Scale,
    limit: usize,
) -> Result<Items<'a>, Refused> {
    let mut gathered = Items::new(items.get_env(), partitions);
    let mut cells = Cells::of(items);
    let mut indexes = match routes {
        Routes::Hash => None,
        Routes::Given(indexes) => Some(indexes),
    };
    for item in &mut cells {
        if gathered.routed.len() == limit.min(NONE as usize) {
            return Err(Refused::Heavy);
        }
        let weight = scale.weigh(item)?;
        let index = match &mut indexes {
            None => own_route(item, partitions)?,
            Some(indexes) => {
                let (index, tail) = indexes.list_get_cell().map_err(|_| Refused::Improper)?;
                *indexes = tail;
                let index = index.decode().ok();
                index
                    .filter(|&index: &usize| index < partitions)
                    .ok_or(Refused::Improper)?
            }
        };
        gathered.add(item, weight, index);
    }
    if cells.rest().is_empty_list() {
        Ok(gathered)
    } else {
        Err(Refused::Improper)
    }
}
