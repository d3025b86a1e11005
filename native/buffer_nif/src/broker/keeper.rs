//! NIFs of the keeper: deaths, deadlines, and what is to be told.

use buffer_core::broker::dropped::{Drop, Drops};
use rustler::{Atom, Encoder, Env, Error, LocalPid, NifResult, Term};

use super::{SharedBroker, MS, SWEPT};
use crate::arena::{Arena, Handle};
use crate::reclaimer::reclaim;
use crate::{atoms, clock};

/// Makes the caller the keeper; answers the workers there are. Others are told to it from now on.
#[rustler::nif]
fn broker_keep(env: Env<'_>, broker: Handle<'_, SharedBroker>) -> Vec<LocalPid> {
    *broker.0.keeper.lock() = Some(env.pid());
    // Who joins before this is in the list, and who joins after it finds the new keeper.
    broker
        .0
        .core
        .workers()
        .iter()
        .map(|worker| worker.pid)
        .collect()
}

/// Whom to answer for what this worker has in flight: a list. Patient callers are told before, as they are whenever something else
/// becomes of their messages than an answer. O(log workers).
#[rustler::nif]
fn broker_in_flight<'a>(
    env: Env<'a>,
    broker: Handle<'_, SharedBroker>,
    pid: LocalPid,
) -> Vec<Term<'a>> {
    let workers = broker.0.core.workers_of(pid);
    let replies = workers
        .iter()
        .filter_map(|worker| worker.in_flight(|arena, reply| arena.load(reply, env)));
    let told = replies.map(|(reply, since)| {
        if let Some(since) = since {
            broker.0.tell_slow(env, reply, since);
        }
        reply
    });
    told.collect()
}

/// This worker takes no more messages. O(workers).
#[rustler::nif]
fn broker_dismiss(env: Env<'_>, broker: Handle<'_, SharedBroker>, pid: LocalPid) -> Atom {
    for worker in broker.0.core.workers_of(pid) {
        broker.0.finish(env, broker.0.core.dismiss(&worker));
    }
    atoms::ok()
}

/// This worker has died; answers how many messages it had in flight. O(workers).
#[rustler::nif]
fn broker_down(env: Env<'_>, broker: Handle<'_, SharedBroker>, pid: LocalPid) -> usize {
    let core = &broker.0.core;
    let mut lost = 0;
    for worker in core.workers_of(pid) {
        lost += usize::from(worker.tally().1.is_some());
        broker.0.finish(env, core.leave(&worker, broker.0.moment()));
    }
    // It may have been woken without being a worker any more.
    broker.0.pass_on(env);
    lost
}

/// Drops what has waited for too long. Bounded.
#[rustler::nif]
fn broker_expire(env: Env<'_>, broker: Handle<'_, SharedBroker>) -> Atom {
    broker.0.finish(env, broker.0.core.expire(clock::now()));
    atoms::ok()
}

/// In how many milliseconds `broker_expire` is to be called, or `nil`. O(1).
#[rustler::nif]
fn broker_armed(broker: Handle<'_, SharedBroker>) -> Option<i64> {
    let now = clock::now();
    // Never too early: rounded up.
    let armed = broker.0.core.armed();
    armed.map(|due| (due.saturating_sub(now).max(0) + MS - 1) / MS)
}

/// Drops messages of dead callers among the next few after this id; answers where to go on, or `nil`.
#[rustler::nif]
fn broker_sweep(
    env: Env<'_>,
    broker: Handle<'_, SharedBroker>,
    partition: usize,
    after: u64,
) -> Option<u64> {
    let alive = |pid: LocalPid| pid.is_alive(env);
    let (next, after) = broker.0.core.sweep(partition, after, SWEPT, alive);
    broker.0.finish(env, after);
    next
}

/// Up to `count` answers that are to be sent, which stay, and how many messages have been dropped, by
/// reason: `{[{reply, reason}], counts}`. The reason is `{:"$broker_late", reason}` for a caller that has been told that it has waited for long.
/// Bounded by `count`.
#[rustler::nif]
fn broker_dropped<'a>(
    env: Env<'a>,
    broker: Handle<'_, SharedBroker>,
    count: usize,
) -> (Vec<(Term<'a>, Term<'a>)>, Vec<u64>) {
    let mut replies = Vec::new();
    let read = |arena: &Arena, index: usize, why: Drop, told: bool| {
        let why = match told {
            true => (atoms::late(), reason(why)).encode(env),
            false => reason(why).encode(env),
        };
        replies.push((arena.load(index, env), why))
    };
    let counts = broker.0.core.dropped(count, read);
    (replies, counts.to_vec())
}

/// How many answers are to be sent because messages were dropped. O(1).
#[rustler::nif]
fn broker_untold(broker: Handle<'_, SharedBroker>) -> usize {
    broker.0.core.untold()
}

/// So many answers have been sent, and so many drops been counted. Bounded by `count`.
#[rustler::nif]
fn broker_reported(
    broker: Handle<'_, SharedBroker>,
    count: usize,
    counts: Vec<u64>,
) -> NifResult<Atom> {
    let counts: Drops = counts.try_into().map_err(|_| Error::BadArg)?;
    reclaim(broker.0.core.reported(count, &counts));
    Ok(atoms::ok())
}

fn reason(drop: Drop) -> Atom {
    match drop {
        Drop::Full => atoms::queue_full(),
        Drop::Timeout => atoms::queue_timeout(),
        Drop::Delay => atoms::queue_delay(),
        Drop::CallerDown => atoms::caller_down(),
        Drop::Shutdown => atoms::shutdown(),
    }
}

/// How many more messages have room. As long as none has, the keeper is told when that changes.
#[rustler::nif]
fn broker_want_room(broker: Handle<'_, SharedBroker>) -> u64 {
    (broker.0.core.want_room() as u64).min(1 << 40)
}
