//! What all writes have in common: why one is refused, where an entry goes by itself, what is done when
//! there is no room, and what is to be done when no lock is held any more.

use buffer_core::route::{hash_of_integer, route};
use buffer_core::{
    After, Buffer, Closed, Credit, Generation, NoRoom, Partition, Reason, Room, Rows, Size,
    Trigger, Written,
};
use rustler::{Atom, Encoder, Env, LocalPid, Term};

use crate::arena::{self, immediate_word, Arena, SMALL_INTEGER};
use crate::begin::{begin, full};
use crate::courier::send;
use crate::cycle::Readable;
use crate::reclaimer::reclaim;
use crate::resource::{Overflow, Shared};
use crate::weigh::Heavy;
use crate::{atoms, clock, server};

/// Why nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The buffer has been closed.
    Closed,
    /// Too large for a normal scheduler, or, on a dirty one, for anything.
    Heavy,
    /// Not a proper list, or not a list of what it has to be.
    Improper,
    /// There is no buffer of this name.
    Unknown,
    /// There are no partitions.
    NoPartitions,
    /// The buffer is of another kind.
    OtherKind,
    /// There is no room, and whoever writes is to wait for it.
    Wait,
    /// The same, but nobody is to wait any more: whoever writes is to try again.
    Again,
    /// There is no room.
    Full,
    /// There never will be.
    TooLarge,
}

impl Refused {
    /// The atom that says so.
    pub fn atom(self) -> Atom {
        match self {
            Refused::Closed => atoms::closed(),
            Refused::Heavy => atoms::heavy(),
            Refused::Improper => atoms::improper(),
            Refused::Unknown => atoms::unknown(),
            Refused::NoPartitions => atoms::no_partitions(),
            Refused::OtherKind => atoms::other_kind(),
            Refused::Wait => atoms::wait(),
            Refused::Again => atoms::again(),
            Refused::Full => atoms::full(),
            Refused::TooLarge => atoms::too_large(),
        }
    }
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

/// `ok`, or why nothing was written.
pub fn answer(result: Result<(), Refused>) -> Atom {
    match result {
        Ok(()) => atoms::ok(),
        Err(refused) => refused.atom(),
    }
}

/// `{ok, [Token]}`, or why nothing was written.
pub fn tokens<'a>(env: Env<'a>, result: Result<Vec<u64>, Refused>) -> Term<'a> {
    match result {
        Ok(tokens) => (atoms::ok(), tokens).encode(env),
        Err(refused) => refused.atom().encode(env),
    }
}

/// What a write answers that waited for room: as one that is awaited, if it has a token.
pub fn granted<'a>(
    env: Env<'a>,
    token: Option<u64>,
    result: Result<Vec<u64>, Refused>,
) -> Term<'a> {
    match token {
        Some(_) => tokens(env, result),
        None => answer(result.map(|_| ())).encode(env),
    }
}

/// The partition of a term that is its own routing key, out of `partitions`.
#[inline(always)]
pub fn own_route(term: Term<'_>, partitions: usize) -> Result<usize, Refused> {
    match partitions {
        0 => Err(Refused::NoPartitions),
        1 => Ok(0),
        count => Ok(hashed_route(term, count)),
    }
}

fn hashed_route(term: Term<'_>, partitions: usize) -> usize {
    let count = u32::try_from(partitions).unwrap_or(u32::MAX);
    route(phash2(term), count)
}

/// `erlang:phash2/1`: of small integers without a call.
#[inline]
fn phash2(term: Term<'_>) -> u32 {
    match small_integer(term) {
        Some(integer) => hash_of_integer(integer),
        None => term.hash_phash2(),
    }
}

/// An integer from 0 up to 2^27 - 1, from its word.
#[inline]
fn small_integer(term: Term<'_>) -> Option<u32> {
    let word = immediate_word(term).filter(|word| word & 0b1111 == SMALL_INTEGER)?;
    u32::try_from(word >> 4).ok().filter(|it| it >> 27 == 0)
}

/// Whether that is so in the VM that loads the library, and it hashes them as they are hashed here.
pub fn integers_are_as_expected(env: Env<'_>) -> bool {
    let small = [0, 1, 2, 255, 65_536, (1 << 27) - 1];
    let others = [
        (-1i64).encode(env),
        (1i64 << 27).encode(env),
        i64::MAX.encode(env),
        1.0f64.encode(env),
        atoms::ok().encode(env),
        Vec::<i64>::new().encode(env),
        (0, 1).encode(env),
    ];
    small.into_iter().all(|integer: u32| {
        let term = integer.encode(env);
        small_integer(term) == Some(integer) && hash_of_integer(integer) == term.hash_phash2()
    }) && others.into_iter().all(|it| small_integer(it).is_none())
        && numbers_are_as_expected(env)
}

/// The same for all numbers that are words.
fn numbers_are_as_expected(env: Env<'_>) -> bool {
    let others = [
        (-1i64).encode(env),
        u64::MAX.encode(env),
        atoms::ok().encode(env),
        (0, 1).encode(env),
    ];
    [
        0,
        1,
        15,
        16,
        1 << 32,
        1 << 58,
        (1 << 59) - 1,
        1 << 59,
        u64::MAX,
    ]
    .into_iter()
    .all(|number: u64| {
        let (term, own) = (number.encode(env), arena::small_integer(env, number));
        own.is_none_or(|own| {
            own.as_c_arg() == term.as_c_arg() && arena::small_number(term) == Some(number)
        })
    }) && others
        .into_iter()
        .all(|it| arena::small_number(it).is_none())
}

/// Who is told when what it wrote has been through.
#[derive(Clone, Copy)]
pub struct Awaits {
    /// Its process.
    pub owner: LocalPid,
    /// The token of the first part of that; those of the others follow it.
    pub token: u64,
    /// Whether processing starts at once.
    pub flush: bool,
}

/// Whether there is somebody.
pub type Awaited = Option<Awaits>;

/// Who has waited for room: it starts processing by itself.
pub fn awaited_later(owner: LocalPid, token: Option<u64>) -> Awaited {
    token.map(|token| Awaits {
        owner,
        token,
        flush: false,
    })
}

/// Somebody may wait for the room that a write had taken and has filled by now, which starts nothing by itself.
#[inline]
pub fn written_on_credit(env: Env<'_>, shared: &Shared) {
    let capacity = shared.storage.capacity();
    if capacity.is_limited() && capacity.waiting() > 0 {
        full(env, shared);
    }
}

/// What is to be done once the locks of a partition are released.
pub type Todo = After<Arena, LocalPid>;

/// Does it. `result` is what those get who wait for entries that were processed: the processor's answer.
#[inline(always)]
pub fn finish(env: Env<'_>, shared: &Shared, todo: Todo, result: Option<Term<'_>>) {
    if !todo.is_empty() {
        finish_some(env, shared, todo, result);
    }
}

#[inline(never)]
fn finish_some(env: Env<'_>, shared: &Shared, todo: Todo, result: Option<Term<'_>>) {
    for passed in todo.passed {
        let outcome = match (passed.lost, result) {
            // To whoever waits, a timeout would be that of its own call.
            (Some(Reason::Timeout), _) => (atoms::error(), atoms::processing_timeout()).encode(env),
            (Some(reason), _) => (atoms::error(), atoms::of_reason(reason)).encode(env),
            (None, Some(result)) => (atoms::ok(), result).encode(env),
            (None, None) => (atoms::ok(), atoms::nil()).encode(env),
        };
        // Dead: nobody waits any more.
        let outcome = (atoms::partitioned_buffer(), passed.token, outcome);
        _ = send(env, &passed.owner, outcome);
    }
    if todo.room {
        server::serve(shared);
    }
    reclaim(todo.retired);
}

/// Starts a cycle if it is time, and has a partition's process report what was dropped.
#[inline]
pub fn signal<R, G: Generation>(
    env: Env<'_>,
    shared: &Shared,
    partition: &Partition<G, LocalPid>,
    written: Written<R, LocalPid>,
) -> R {
    if let Some(process) = written.signal {
        signaled(env, shared, partition, &process, written.due);
    }
    written.result
}

#[cold]
fn signaled<G: Generation>(
    env: Env<'_>,
    shared: &Shared,
    partition: &Partition<G, LocalPid>,
    process: &LocalPid,
    due: bool,
) {
    if due {
        begin(env, shared, partition, Trigger::MaxSize);
    }
    let drops = matches!(
        shared.overflow(),
        Overflow::DropNewest | Overflow::DropOldest
    );
    if !due || drops {
        // Dead: the process that takes its place looks by itself.
        _ = send(env, process, atoms::due());
    }
}

/// Takes room for one write under the partition's lock. Where the oldest entries are to make room, they do.
#[inline]
pub fn take_room<G: Readable>(
    env: Env<'_>,
    shared: &Shared,
    live: &mut G,
    room: &mut Room<'_, G, LocalPid>,
    size: Size,
) -> Result<(), NoRoom> {
    if shared.overflow() != Overflow::DropOldest {
        return room.take(size);
    }
    let copy = |live: &G, count: usize, arena: &mut Arena| live.copy_rows(env, count, arena);
    let rows = Rows {
        copy: shared.keeps_discarded().then_some(&copy as _),
        now: clock::now,
    };
    room.take_in_place(live, size, &rows)
}

// What is dropped under one lock of a partition, beyond an entry.
const DROPPED_AT_ONCE: Size = Size {
    entries: 256,
    bytes: 256 * 1024,
};

/// Takes room by dropping the oldest entries of partitions: of this one first; no more than it takes, and none
/// if all of them were too few.
pub fn make_room<G: Readable>(
    env: Env<'_>,
    shared: &Shared,
    buffer: &Buffer<G, LocalPid>,
    size: Size,
    first: usize,
) -> Result<Credit, Refused> {
    let partitions = buffer.partitions();
    let capacity = buffer.capacity();
    let copy = |live: &G, count: usize, arena: &mut Arena| live.copy_rows(env, count, arena);
    let rows = Rows {
        copy: shared.keeps_discarded().then_some(&copy as _),
        now: clock::now,
    };
    // Others may be faster to take what was dropped here.
    for _ in 0..100 {
        match capacity.take(size) {
            Ok(credit) => return Ok(credit),
            Err(NoRoom::TooLarge) => return Err(Refused::TooLarge),
            Err(NoRoom::Full) => {}
        }
        let limit = capacity.limit().unwrap_or(Size::UNLIMITED);
        let mut missing = (capacity.used() + size) - limit;
        if missing == Size::default() || !missing.fits(droppable(partitions)) {
            break;
        }
        for index in (first..partitions.len()).chain(0..first) {
            while missing != Size::default() {
                let mut todo = Todo::default();
                let some = missing.at_most(DROPPED_AT_ONCE);
                let (evicted, process) = partitions[index].evict(some, &rows, &mut todo);
                finish(env, shared, todo, None);
                if let Some(process) = process {
                    _ = send(env, &process, atoms::due());
                }
                if evicted == Size::default() {
                    break;
                }
                missing = missing - evicted;
            }
        }
    }
    let taken = capacity.take(size);
    taken.map_err(|reason| refuse(env, shared, reason))
}

/// What waits in all partitions. That of a moment ago: they go on meanwhile.
fn droppable<G: Readable>(partitions: &[Partition<G, LocalPid>]) -> Size {
    let held = |live: &G| Size {
        entries: live.len(),
        bytes: live.bytes(),
    };
    partitions
        .iter()
        .filter_map(|partition| partition.read_live(held).ok())
        .fold(Size::default(), |sum, held| sum + held)
}

/// Refuses a write for which there is no room, of which there will be some as soon as can be: for one that waits,
/// that is seen to when it does. With no lock held.
pub fn refuse(env: Env<'_>, shared: &Shared, reason: NoRoom) -> Refused {
    let refused = no_room(shared, reason);
    if refused == Refused::Full {
        full(env, shared);
    }
    refused
}

/// What becomes of a write for which there is no room.
pub fn no_room(shared: &Shared, reason: NoRoom) -> Refused {
    match (reason, shared.overflow()) {
        (NoRoom::TooLarge, _) => Refused::TooLarge,
        (NoRoom::Full, Overflow::Block) => Refused::Wait,
        (NoRoom::Full, _) => Refused::Full,
    }
}
