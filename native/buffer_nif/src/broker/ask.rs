//! NIFs of the caller's side: sending a message, and taking it back.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use buffer_core::broker::worker::Worker;
use buffer_core::broker::{Abandoned, After, Ask, Asked, Broker, Handed, Loose};
use buffer_core::Segment;
use rustler::{Atom, Encoder, Env, LocalPid, Term};

use super::{patience, SharedBroker, MS, PLAIN_CALL, PLAIN_SEND};
use crate::arena::{immediate_word, small_integer, Arena, Handle};
use crate::entry::nif;
use crate::names::{BROKERS, POOLS};
use crate::weigh::{account, weight_of_words, Scale};
use crate::{atoms, clock, courier};

/// Messages up to this weight are copied under the partition's lock.
const COPIED_UNDER_LOCK: u32 = 8 * 1024;
/// What a reply weighs: it is a pid, a name or an alias, and a reference; the Elixir side makes it.
const REPLY_WEIGHT: u32 = 96;

thread_local! {
    // Where the next message of this scheduler goes: in turn, from another start on each.
    static TURN: Cell<usize> = Cell::new(clock::now() as usize);
    // Or, where it makes no difference to anybody, always to the same place.
    static LANE: usize = LANES.fetch_add(1, Ordering::Relaxed);
}

static LANES: AtomicUsize = AtomicUsize::new(0);

fn home(core: &Broker<Arena, LocalPid>, is_bounded: bool) -> usize {
    if core.is_ordered() {
        // Schedulers that run such calls are numbered without a gap; the dirty ones would come in between.
        return if is_bounded {
            LANE.with(|lane| *lane)
        } else {
            0
        };
    }
    TURN.with(|turn| {
        let next = turn.get().wrapping_add(1);
        turn.set(next);
        next
    })
}

/// Sends a message: its id; or `{:wait, id}` if drops outrun their reporting; or, when it is not taken,
/// `:queue_full`, `:closed`, `:no_worker` (only with `idle_only`) or `:heavy` (call the `_dirty` twin).
/// Bounded.
#[rustler::nif]
fn broker_ask<'a>(
    broker: Handle<'a, SharedBroker>,
    message: Term<'a>,
    reply: Term<'a>,
    caller: Option<LocalPid>,
    timeout: Option<i64>,
    idle_only: bool,
) -> Term<'a> {
    let with = (caller, timeout, idle_only);
    ask(
        broker.0,
        message,
        reply,
        with,
        How::Stored,
        Scale::bounded(),
    )
}

/// As `broker_ask`, for messages of any size.
#[rustler::nif(schedule = "DirtyCpu")]
fn broker_ask_dirty<'a>(
    broker: Handle<'a, SharedBroker>,
    message: Term<'a>,
    reply: Term<'a>,
    caller: Option<LocalPid>,
    timeout: Option<i64>,
    idle_only: bool,
) -> Term<'a> {
    let with = (caller, timeout, idle_only);
    ask(
        broker.0,
        message,
        reply,
        with,
        How::Stored,
        Scale::generous(),
    )
}

nif!(broker_send / 2, send);

/// Sends a message that nobody waits for to the broker of this name. As `broker_ask`, but `:ok` if it was taken; or `:unknown`; or `:observed`
/// if it is not for this call. Bounded.
fn send<'a>(env: Env<'a>, [name, message]: [Term<'a>; 2]) -> Term<'a> {
    named(env, name, PLAIN_SEND, |shared| {
        ask_of_nobody(shared, message)
    })
}

nif!(broker_call / 3, call);

/// As `broker_ask`, of a caller, to the broker of this name; and if a worker is idle and nothing waits, that one is
/// sent `{:"$broker_message", id, message, reply}`; otherwise `{:stored, id}`. For workers that call `broker_start` then. Or `:unknown`; or
/// `:observed` if it is not for this call. Bounded.
fn call<'a>(env: Env<'a>, [name, message, reply]: [Term<'a>; 3]) -> Term<'a> {
    named(env, name, PLAIN_CALL, |shared| {
        hand_over(shared, message, reply)
    })
}

fn named<'a>(
    env: Env<'a>,
    name: Term<'a>,
    plain: u8,
    ask: impl FnOnce(&SharedBroker) -> Term<'a>,
) -> Term<'a> {
    let asked = immediate_word(name).and_then(|word| {
        BROKERS.with(word, |shared| {
            match shared.plain.load(Ordering::Relaxed) & plain {
                0 => atoms::observed().encode(env),
                _ => ask(shared),
            }
        })
    });
    asked.unwrap_or_else(|| atoms::unknown().encode(env))
}

nif!(broker_hand_over / 3, hand_over_to);

/// As `broker_call`, by a handle and whatever is to be done besides; `{:handed, id}` if a worker was sent it. Bounded.
fn hand_over_to<'a>(env: Env<'a>, [broker, message, reply]: [Term<'a>; 3]) -> Term<'a> {
    match broker.decode::<Handle<SharedBroker>>() {
        Ok(broker) => {
            let caller = (Some(env.pid()), None, false);
            ask(
                broker.0,
                message,
                reply,
                caller,
                How::HandedOverAndTold,
                Scale::bounded(),
            )
        }
        Err(_) => atoms::unknown().encode(env),
    }
}

nif!(broker_request / 3, request);

/// As `broker_call`, to the broker of the pool of this name; `{:stored, id}` if no worker was sent it. Its caller needs no timer: it is sent `{:"$broker_slow", reply, ms, pool}` when it has waited for long, if it has not been
/// answered by then. An answer that comes after that, or before it but in the same moment, is `{:"$broker_late", answer}`. Or `:no_worker`, and
/// nothing is done: callers have to look after themselves. Bounded.
fn request<'a>(env: Env<'a>, [pool, message, reply]: [Term<'a>; 3]) -> Term<'a> {
    let asked = immediate_word(pool).and_then(|word| {
        POOLS.with(word, |shared| {
            if !patience::is_there() {
                return atoms::no_worker().encode(env);
            }
            let with = (Some(env.pid()), None, false);
            ask(shared, message, reply, with, How::Patient, Scale::bounded())
        })
    });
    asked.unwrap_or_else(|| atoms::unknown().encode(env))
}

nif!(broker_post / 2, post);

/// As `broker_send`, to the broker of the pool of this name. Bounded.
fn post<'a>(env: Env<'a>, [pool, message]: [Term<'a>; 2]) -> Term<'a> {
    let asked = immediate_word(pool)
        .and_then(|word| POOLS.with(word, |shared| ask_of_nobody(shared, message)));
    asked.unwrap_or_else(|| atoms::unknown().encode(env))
}

fn ask_of_nobody<'a>(shared: &SharedBroker, message: Term<'a>) -> Term<'a> {
    if let Some(accepted) = ask_loose(shared, message) {
        return accepted;
    }
    let nobody = atoms::nil().encode(message.get_env());
    let with = (None, None, false);
    ask(shared, message, nobody, with, How::Loose, Scale::bounded())
}

/// The short way, if all is as usual: it need not be told how large the message is before it is copied.
fn ask_loose<'a>(shared: &SharedBroker, message: Term<'a>) -> Option<Term<'a>> {
    let env = message.get_env();
    let home = home(&shared.core, true);
    let store = |segment: &mut Segment<Arena>| {
        let weight = segment.push_if(|arena| arena.store_light(message).map(weight_of_words))?;
        Some(weight + REPLY_WEIGHT)
    };
    match shared.core.ask_loose(home, clock::now(), store) {
        Loose::Accepted(None) => {}
        Loose::Accepted(Some(worker)) => wake(env, shared, worker),
        Loose::Unusual => return None,
    }
    Some(atoms::ok().encode(env))
}

#[cold]
fn wake(env: Env<'_>, shared: &SharedBroker, worker: Arc<Worker<Arena, LocalPid>>) {
    let after = After {
        wake: Some(worker),
        ..After::default()
    };
    shared.finish(env, after);
}

fn hand_over<'a>(shared: &SharedBroker, message: Term<'a>, reply: Term<'a>) -> Term<'a> {
    let with = (Some(message.get_env().pid()), None, false);
    ask(
        shared,
        message,
        reply,
        with,
        How::HandedOver,
        Scale::bounded(),
    )
}

/// What becomes of a message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// It waits.
    Stored,
    /// It waits, and whoever sent it is not told its id.
    Loose,
    /// It is sent to an idle worker past all partitions, or waits; the sender is told that it waits.
    HandedOver,
    /// The same, but the sender is told that it was sent.
    HandedOverAndTold,
    /// It is sent to an idle worker past all partitions, or waits, and the sender is told that it waits. That has no timer.
    Patient,
}

fn ask<'a>(
    shared: &SharedBroker,
    message: Term<'a>,
    reply: Term<'a>,
    (caller, timeout, idle_only): (Option<LocalPid>, Option<i64>, bool),
    how: How,
    mut scale: Scale,
) -> Term<'a> {
    let env = message.get_env();
    let has_reply = reply.as_c_arg() != atoms::nil().as_c_arg();
    let Ok(message_weight) = scale.weigh(message) else {
        return atoms::heavy().encode(env);
    };
    let weight = message_weight.saturating_add(REPLY_WEIGHT);
    account(env, 0, u64::from(weight));
    let (core, home) = (&shared.core, home(&shared.core, scale.is_bounded()));
    let store = |segment: &mut Segment<Arena>| {
        let at = segment.stored() as u32;
        segment.push(message_weight, |arena| arena.store(message));
        if has_reply {
            segment.push(REPLY_WEIGHT, |arena| arena.store(reply));
        }
        (at, has_reply.then_some(at + 1))
    };
    let hand_over = !matches!(how, How::Stored | How::Loose);
    let alone = weight > COPIED_UNDER_LOCK;
    if hand_over && !alone && core.may_hand_over() {
        let with = Ask {
            caller,
            now: match how {
                // It is told for how long it has waited, and never too much.
                How::Patient => clock::now(),
                // Nothing waits, so whatever waits when this one comes back came later.
                _ => shared.moment(),
            },
            due: i64::MAX,
            weight,
            alone: false,
            idle_only: false,
            hand_over: true,
            loose: false,
            patient: how == How::Patient,
        };
        if let Some(handed) = core.hand_over(home, &with, store) {
            return handed_over(env, shared, handed, message, reply, how);
        }
    }
    let now = clock::now();
    let due = timeout.map_or(i64::MAX, |ms| now.saturating_add(ms.saturating_mul(MS)));
    let with = Ask {
        caller,
        now,
        due,
        weight,
        alone,
        idle_only,
        hand_over,
        loose: how == How::Loose,
        patient: how == How::Patient,
    };
    let (asked, mut after) = core.ask(home, &with, store);
    if let (Some(worker), Asked::Accepted(id)) = (after.handed.take(), asked) {
        let (kept, patient) = (after.kept.take(), after.patient);
        shared.finish(env, after);
        let handed = Handed {
            id,
            worker,
            kept,
            patient,
        };
        return handed_over(env, shared, handed, message, reply, how);
    }
    if after.patient {
        patience::watch(shared);
    }
    let stored = matches!(how, How::Patient | How::HandedOver);
    let crowded = after.crowded;
    shared.finish(env, after);
    match asked {
        Asked::Accepted(id) if crowded => (atoms::wait(), id).encode(env),
        Asked::Accepted(id) if stored => (atoms::stored(), id).encode(env),
        // It is of no use to anybody.
        Asked::Accepted(_) if how == How::Loose => atoms::ok().encode(env),
        Asked::Accepted(id) => id.encode(env),
        Asked::Full => atoms::queue_full().encode(env),
        Asked::NoWorker => atoms::no_worker().encode(env),
        Asked::Closed => atoms::closed().encode(env),
    }
}

/// A worker has been handed this message, and is sent it.
fn handed_over<'a>(
    env: Env<'a>,
    shared: &SharedBroker,
    handed: Handed<Arena, LocalPid>,
    message: Term<'a>,
    reply: Term<'a>,
    how: How,
) -> Term<'a> {
    if handed.patient {
        patience::watch(shared);
    }
    let id = number(env, handed.id);
    let sent = (atoms::message(), id, message, reply);
    if !courier::send(env, &handed.worker.pid, sent) {
        shared.finish(env, shared.core.unreachable(&handed.worker));
    }
    match how {
        How::HandedOverAndTold => (atoms::handed(), id).encode(env),
        _ => id,
    }
}

#[inline]
fn number(env: Env<'_>, number: u64) -> Term<'_> {
    small_integer(env, number).unwrap_or_else(|| number.encode(env))
}

/// Whether the message was waiting; it is not any more, and nobody is told. Bounded.
#[rustler::nif]
fn broker_cancel(env: Env<'_>, broker: Handle<'_, SharedBroker>, id: u64) -> bool {
    let (cancelled, after) = broker.0.core.cancel(id);
    broker.0.finish(env, after);
    cancelled
}

/// The caller waits no longer: `:taken_back` (it was waiting, is never started, and nobody is told),
/// `:abandoned` (a worker has it; its answer is not sent) or `:through` (it is answered, if it is, by a worker
/// that has begun to do so). O(workers) for what has been started.
#[rustler::nif]
fn broker_abandon(env: Env<'_>, broker: Handle<'_, SharedBroker>, id: u64) -> Atom {
    let (abandoned, after) = broker.0.core.abandon(id);
    broker.0.finish(env, after);
    match abandoned {
        Abandoned::TakenBack => atoms::taken_back(),
        Abandoned::Started => atoms::abandoned(),
        Abandoned::Through => atoms::through(),
    }
}
