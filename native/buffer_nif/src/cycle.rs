//! The cycle of a partition, whatever it stores: swap, drain, settle, report.
//!
//! [`Cycle`] is what the NIFs of `partition` and `info` see. It is written once, over what a generation
//! must be able to do besides: put its entries into a list.

use buffer_core::{
    After, Again, Arena as _, Batch, Begun, Discarded, Generation, Idle, KeptBatch, Mode, Next,
    NotOwner, Partition, Policy, Reason, Settled, Size, Started, Stats, Step, Trigger, View,
    Wanted, Watched,
};
use rustler::{Atom, Encoder, Env, LocalPid, Term};

use crate::arena::{Arena, Copies};
use crate::partition::part;
use crate::resource::Shared;
use crate::weigh::{account, Limits};
use crate::write::{finish, Todo};
use crate::{atoms, clock};

/// A generation whose entries can be handed to a processor.
pub trait Readable: Generation<Arena = Arena> {
    /// Up to `count` entries from a cursor on, as a list, and the cursor after them. The first cursor
    /// is 0.
    fn read<'a>(&self, env: Env<'a>, cursor: usize, count: usize) -> (Term<'a>, usize);

    /// The cursor before the entries that come after a place of this generation.
    fn cursor(&self, place: u64) -> usize {
        place as usize
    }

    /// The place that a cursor is behind.
    fn place(&self, cursor: usize) -> u64 {
        cursor as u64
    }

    /// Copies the first entries into an arena, as a processor gets them.
    fn copy_rows(&self, env: Env<'_>, count: usize, to: &mut Arena) {
        let mut rows = self.read(env, 0, count).0;
        while let Ok((row, rest)) = rows.list_get_cell() {
            to.store(row);
            rows = rest;
        }
    }
}

/// What the BEAM does with a partition of any kind.
pub trait Cycle: Sync {
    /// See [`Partition::swap`].
    fn swap(&self, part: Option<usize>) -> usize;
    /// See [`Partition::arm`].
    fn arm(&self, notify: LocalPid, trigger: Size) -> bool;
    /// See [`Partition::len`].
    fn live(&self) -> usize;
    /// See [`Partition::attend`].
    fn attend(&self, process: LocalPid, mode: Mode);
    /// See [`Partition::begin`].
    fn begin(&self, trigger: Trigger, part: Option<usize>) -> Begun<LocalPid>;
    /// See [`Partition::idle`].
    fn idle(&self, runner: LocalPid, attendant: LocalPid, part: Option<usize>) -> Idle;
    /// See [`Partition::leave`].
    fn leave(&self, runner: LocalPid, unsaid: Option<Trigger>);
    /// See [`Partition::send_away`].
    fn send_away(&self, cycles: u64) -> Result<LocalPid, u64>;
    /// See [`Partition::is_pending`].
    fn is_pending(&self) -> bool;
    /// See [`Partition::noted`].
    fn noted(&self) -> Option<Trigger>;
    /// See [`Partition::trigger`].
    fn trigger(&self) -> Option<Trigger>;
    /// See [`Partition::claim`].
    fn claim(&self, owner: LocalPid) -> Result<(), NotOwner>;
    /// Settles the caller's batch, of which the processor made `result`, and starts the next one `now`: the
    /// entries, or `large` if they are more than `within` allows, or why there is none.
    fn next<'a>(
        &self,
        env: Env<'a>,
        shared: &Shared,
        wanted: Wanted,
        within: Within,
        result: Term<'a>,
        now: i64,
    ) -> Term<'a>;
    /// The same for the runner of this attendant, which goes on with the next cycle or waits then: see
    /// [`Partition::advance`].
    #[expect(clippy::too_many_arguments, reason = "one more than `next`")]
    fn advance<'a>(
        &self,
        env: Env<'a>,
        shared: &Shared,
        attendant: LocalPid,
        wanted: Wanted,
        within: Within,
        result: Term<'a>,
        now: i64,
    ) -> Term<'a>;
    /// Settles the caller's batch and starts one of all that is left, without reading it.
    fn start_all<'a>(&self, env: Env<'a>, shared: &Shared, result: Term<'a>) -> Term<'a>;
    /// See [`Partition::done`].
    fn done(&self, env: Env<'_>, shared: &Shared, result: Term<'_>) -> Result<usize, NotOwner>;
    /// The entries of the batch in flight.
    fn copy<'a>(&self, env: Env<'a>) -> Term<'a>;
    /// See [`Readable::read`]; of the draining generation.
    fn peek<'a>(&self, env: Env<'a>, cursor: usize, count: usize) -> (Term<'a>, usize);
    /// Entries that are queued and come after a place, and the place behind them.
    fn dump<'a>(&self, env: Env<'a>, place: u64, count: usize) -> (Term<'a>, u64);
    /// See [`Partition::again`].
    fn again(&self) -> Option<Again>;
    /// See [`Partition::expire_some`].
    fn expire_some(&self, env: Env<'_>, shared: &Shared, moment: i64) -> Result<bool, NotOwner>;
    /// See [`Partition::drain_status`].
    fn status(&self) -> (Option<LocalPid>, Option<Batch>);
    /// See [`Partition::returned`].
    fn returned(&self, owner: LocalPid) -> Result<(), NotOwner>;
    /// See [`Partition::time_out`].
    fn time_out(&self, timeout: i64, telling: i64) -> Watched;
    /// See [`Partition::fail`].
    fn fail(&self, owner: LocalPid, reason: Reason) -> Result<(), NotOwner>;
    /// See [`Partition::fail_some`].
    fn fail_some(&self, env: Env<'_>, shared: &Shared, failed: &[u32]) -> Result<bool, NotOwner>;
    /// See [`Partition::settle`].
    fn settle(&self, env: Env<'_>, shared: &Shared, reason: Reason, policy: Policy) -> Settled;
    /// See [`Partition::discard_rest`].
    fn discard_rest(&self, env: Env<'_>, shared: &Shared, reason: Reason) -> Option<Discarded>;
    /// See [`Partition::unreported`].
    fn unreported(&self) -> Vec<Discarded>;
    /// See [`Partition::reported`].
    fn reported(&self, count: usize);
    /// The entries of the next batch that was given up, its reason, places and attempts.
    fn next_kept<'a>(&self, env: Env<'a>) -> Option<(Term<'a>, Reason, (u64, u64), u32)>;
    /// See [`Partition::kept`].
    fn kept(&self) -> usize;
    /// See [`Partition::pause`].
    fn pause(&self, paused: bool);
    /// See [`Partition::await_all`].
    fn await_all(&self, owner: LocalPid, token: u64) -> bool;

    /// See [`Partition::await_newest`].
    fn await_newest(&self, owner: LocalPid, token: u64) -> bool;
    /// See [`Partition::await_no_more`].
    fn await_no_more(&self, token: u64) -> bool;
    /// See [`Partition::awaiting`].
    fn awaiting(&self) -> usize;
    /// See [`Partition::is_closed`].
    fn is_closed(&self) -> bool;
    /// See [`Partition::stats`].
    fn stats(&self) -> Stats;
}

/// What leaves no garbage that is worth collecting.
const LITTLE: Size = Size {
    entries: 64,
    bytes: 16 * 1024,
};

/// Which batches may be copied by the call that starts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Within {
    /// Those within [`Limits`].
    Bounds,
    /// All: the call runs on a dirty scheduler.
    Anything,
}

impl<G: Readable + Send> Cycle for Partition<G, LocalPid> {
    fn swap(&self, part: Option<usize>) -> usize {
        Partition::swap(self, part, clock::now)
    }

    fn arm(&self, notify: LocalPid, trigger: Size) -> bool {
        Partition::arm(self, notify, trigger)
    }

    fn live(&self) -> usize {
        Partition::len(self)
    }

    fn attend(&self, process: LocalPid, mode: Mode) {
        Partition::attend(self, process, mode);
    }

    fn begin(&self, trigger: Trigger, part: Option<usize>) -> Begun<LocalPid> {
        Partition::begin(self, trigger, part, clock::now)
    }

    fn idle(&self, runner: LocalPid, attendant: LocalPid, part: Option<usize>) -> Idle {
        Partition::idle(self, runner, attendant, part, clock::now)
    }

    fn leave(&self, runner: LocalPid, unsaid: Option<Trigger>) {
        Partition::leave(self, runner, unsaid);
    }

    fn send_away(&self, cycles: u64) -> Result<LocalPid, u64> {
        Partition::send_away(self, cycles)
    }

    fn is_pending(&self) -> bool {
        Partition::is_pending(self)
    }

    fn noted(&self) -> Option<Trigger> {
        Partition::noted(self)
    }

    fn trigger(&self) -> Option<Trigger> {
        Partition::trigger(self)
    }

    fn claim(&self, owner: LocalPid) -> Result<(), NotOwner> {
        Partition::claim(self, owner)
    }

    fn next<'a>(
        &self,
        env: Env<'a>,
        shared: &Shared,
        wanted: Wanted,
        within: Within,
        result: Term<'a>,
        now: i64,
    ) -> Term<'a> {
        start(self, env, shared, wanted, result, now, |drain, batch| {
            read_within(env, within, drain, batch)
        })
    }

    fn advance<'a>(
        &self,
        env: Env<'a>,
        shared: &Shared,
        attendant: LocalPid,
        wanted: Wanted,
        within: Within,
        result: Term<'a>,
        now: i64,
    ) -> Term<'a> {
        let mut todo = After::default();
        let step = Partition::advance(
            self,
            (env.pid(), attendant),
            wanted,
            part(shared),
            now,
            &|drain: &G, batch: &Batch| keep(env, shared, drain, batch),
            &mut todo,
            |drain, batch| read_within(env, within, drain, batch),
        );
        finish(env, shared, todo, Some(result));
        match step {
            Ok(Step::Drains(cycle, next)) => begun(env, cycle, started(env, next)),
            Ok(Step::Waits(noted, taken)) => {
                let much = !taken.fits(LITTLE);
                match (noted, much) {
                    (None, false) => atoms::waits().encode(env),
                    _ => (atoms::waits(), trigger_name(noted), much).encode(env),
                }
            }
            Ok(Step::Ends) => atoms::ends().encode(env),
            Err(NotOwner) => atoms::not_owner().encode(env),
        }
    }

    fn start_all<'a>(&self, env: Env<'a>, shared: &Shared, result: Term<'a>) -> Term<'a> {
        let all = Wanted::entries(usize::MAX);
        let held = |_: &G, batch: &Batch| batch.held().encode(env);
        start(self, env, shared, all, result, clock::now(), held)
    }

    fn done(&self, env: Env<'_>, shared: &Shared, result: Term<'_>) -> Result<usize, NotOwner> {
        let mut todo = Todo::default();
        let left = Partition::done(self, env.pid(), &mut todo);
        finish(env, shared, todo, Some(result));
        left
    }

    fn copy<'a>(&self, env: Env<'a>) -> Term<'a> {
        self.read(|drain, batch| match batch {
            Some(batch) => read_batch(env, drain, batch),
            None => Term::list_new_empty(env),
        })
    }

    fn peek<'a>(&self, env: Env<'a>, cursor: usize, count: usize) -> (Term<'a>, usize) {
        self.read(|drain, _| drain.read(env, cursor, count))
    }

    fn dump<'a>(&self, env: Env<'a>, place: u64, count: usize) -> (Term<'a>, u64) {
        let drain = |view: View<'_, G>, from: u64, again: Vec<Again>| {
            read_again(env, &view, place, from, &again)
                .or_else(|| read_from(env, &view, place.max(from), count))
        };
        let live = |view: View<'_, G>| {
            let read = read_from(env, &view, place, count);
            read.unwrap_or_else(|| (Term::list_new_empty(env), place))
        };
        self.look(place, drain, live)
    }

    fn again(&self) -> Option<Again> {
        Partition::again(self)
    }

    fn expire_some(&self, env: Env<'_>, shared: &Shared, moment: i64) -> Result<bool, NotOwner> {
        let mut todo = Todo::default();
        let keep = |drain: &G, batch: &Batch| keep(env, shared, drain, batch);
        let some = Partition::expire_some(self, env.pid(), moment, &keep, &mut todo);
        finish(env, shared, todo, None);
        some
    }

    fn status(&self) -> (Option<LocalPid>, Option<Batch>) {
        self.drain_status()
    }

    fn returned(&self, owner: LocalPid) -> Result<(), NotOwner> {
        Partition::returned(self, owner, clock::now)
    }

    fn time_out(&self, timeout: i64, telling: i64) -> Watched {
        Partition::time_out(self, timeout, telling, clock::now)
    }

    fn fail(&self, owner: LocalPid, reason: Reason) -> Result<(), NotOwner> {
        Partition::fail(self, owner, reason)
    }

    fn fail_some(&self, env: Env<'_>, shared: &Shared, failed: &[u32]) -> Result<bool, NotOwner> {
        let mut todo = Todo::default();
        let kept = Partition::fail_some(self, env.pid(), failed, &mut todo);
        finish(env, shared, todo, None);
        kept
    }

    fn settle(&self, env: Env<'_>, shared: &Shared, reason: Reason, policy: Policy) -> Settled {
        let mut todo = Todo::default();
        let keep = |drain: &G, batch: &Batch| keep(env, shared, drain, batch);
        let settled = Partition::settle(self, reason, policy, &keep, &mut todo);
        finish(env, shared, todo, None);
        settled
    }

    fn discard_rest(&self, env: Env<'_>, shared: &Shared, reason: Reason) -> Option<Discarded> {
        let mut todo = Todo::default();
        let discarded = Partition::discard_rest(self, reason, &mut todo);
        finish(env, shared, todo, None);
        discarded
    }

    fn unreported(&self) -> Vec<Discarded> {
        Partition::unreported(self)
    }

    fn reported(&self, count: usize) {
        Partition::reported(self, count);
    }

    fn next_kept<'a>(&self, env: Env<'a>) -> Option<(Term<'a>, Reason, (u64, u64), u32)> {
        Partition::next_kept(self, |kept: &KeptBatch<Arena>| {
            let mut copies = Copies::with_capacity(env, kept.arena.len());
            copies.extend(&kept.arena, 0..kept.arena.len());
            (copies.into_list(), kept.reason, kept.places, kept.attempts)
        })
    }

    fn kept(&self) -> usize {
        Partition::kept(self)
    }

    fn pause(&self, paused: bool) {
        Partition::pause(self, paused);
    }

    fn await_all(&self, owner: LocalPid, token: u64) -> bool {
        Partition::await_all(self, owner, token)
    }

    fn await_newest(&self, owner: LocalPid, token: u64) -> bool {
        Partition::await_newest(self, owner, token)
    }

    fn await_no_more(&self, token: u64) -> bool {
        Partition::await_no_more(self, token)
    }

    fn awaiting(&self) -> usize {
        Partition::awaiting(self)
    }

    fn is_closed(&self) -> bool {
        Partition::is_closed(self)
    }

    fn stats(&self) -> Stats {
        Partition::stats(self)
    }
}

/// Entries of a generation that come after a place of the partition, and the place behind them; `None` if
/// there are none.
fn read_from<'a, G: Readable>(
    env: Env<'a>,
    view: &View<'_, G>,
    place: u64,
    count: usize,
) -> Option<(Term<'a>, u64)> {
    let cursor = view.generation.cursor(place.saturating_sub(view.base));
    let (entries, next) = view.generation.read(env, cursor, count);
    (!entries.is_empty_list()).then(|| (entries, view.base + view.generation.place(next)))
}

/// All that is to be tried again, unless `place` is behind it.
fn read_again<'a, G: Readable>(
    env: Env<'a>,
    view: &View<'_, G>,
    place: u64,
    from: u64,
    again: &[Again],
) -> Option<(Term<'a>, u64)> {
    let count = again.iter().map(|(len, _)| len).sum();
    if count == 0 {
        return None;
    }
    let (entries, behind) = read_from(env, view, from, count)?;
    if place >= behind {
        return None;
    }
    let mut some = Copies::with_capacity(env, count);
    let mut rest = entries;
    for (len, pending) in again {
        let mut pending = pending.as_ref().map(|some| some.iter().peekable());
        for index in 0..*len {
            let Ok((entry, tail)) = rest.list_get_cell() else {
                break;
            };
            let wanted = pending
                .as_mut()
                .is_none_or(|pending| pending.next_if(|next| **next as usize == index).is_some());
            if wanted {
                some.push(entry);
            }
            rest = tail;
        }
    }
    Some((some.into_list(), behind))
}

fn start<'a, G: Readable>(
    partition: &Partition<G, LocalPid>,
    env: Env<'a>,
    shared: &Shared,
    wanted: Wanted,
    result: Term<'a>,
    now: i64,
    read: impl FnOnce(&G, &Batch) -> Term<'a>,
) -> Term<'a> {
    let mut todo = After::default();
    let keep = |drain: &G, batch: &Batch| keep(env, shared, drain, batch);
    let owner = env.pid();
    let next = partition.next(owner, wanted, || now, &keep, &mut todo, read);
    finish(env, shared, todo, Some(result));
    match next {
        Ok(next) => started(env, next),
        Err(NotOwner) => atoms::not_owner().encode(env),
    }
}

fn started<'a>(env: Env<'a>, next: Next<Term<'a>>) -> Term<'a> {
    match next {
        Next::Batch(term) => term,
        Next::Empty => atoms::empty().encode(env),
        Next::Expired => atoms::expired_some().encode(env),
        Next::Paused => atoms::paused().encode(env),
    }
}

/// What there is to drain, with the cycle that begins with it.
fn begun<'a>(env: Env<'a>, cycle: Option<Started>, first: Term<'a>) -> Term<'a> {
    match cycle {
        Some(cycle) => (trigger_name(cycle.trigger), cycle.size, first).encode(env),
        None => first,
    }
}

/// What starts a cycle, or nil.
pub fn trigger_name(trigger: Option<Trigger>) -> Atom {
    trigger.map_or(atoms::nil(), atoms::of_trigger)
}

/// The entries of a batch that are to be processed, or `large`.
fn read_within<'a, G: Readable>(
    env: Env<'a>,
    within: Within,
    drain: &G,
    batch: &Batch,
) -> Term<'a> {
    let large = batch.len > Limits::ENTRIES || batch.bytes > Limits::BYTES;
    if large && within == Within::Bounds {
        return atoms::large().encode(env);
    }
    account(env, batch.len / 2, batch.bytes);
    read_batch(env, drain, batch)
}

/// The entries of a batch that are to be processed.
fn read_batch<'a, G: Readable>(env: Env<'a>, drain: &G, batch: &Batch) -> Term<'a> {
    let all = drain.read(env, 0, batch.len).0;
    let Some(pending) = &batch.pending else {
        return all;
    };
    let mut some = Copies::with_capacity(env, pending.len());
    let (mut rest, mut pending, mut index) = (all, pending.iter().peekable(), 0);
    while let Ok((entry, tail)) = rest.list_get_cell() {
        if pending.next_if(|next| **next == index).is_some() {
            some.push(entry);
        }
        (rest, index) = (tail, index + 1);
    }
    some.into_list()
}

/// A copy of a batch that is given up, if somebody is to be told of it.
fn keep<G: Readable>(env: Env<'_>, shared: &Shared, drain: &G, batch: &Batch) -> Option<Arena> {
    if !shared.keeps_discarded() {
        return None;
    }
    let mut arena = Arena::new();
    let mut rows = read_batch(env, drain, batch);
    while let Ok((row, rest)) = rows.list_get_cell() {
        arena.store(row);
        rows = rest;
    }
    Some(arena)
}
