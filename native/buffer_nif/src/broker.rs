//! NIFs of a broker: messages and workers.
//!
//! What a call has to do for others (wake a worker, tell the keeper, free memory) it does at the end,
//! with no lock held.

mod deferred;
mod end;
mod figures;
mod keeper;

use std::cell::Cell;
use std::ops::Range;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use buffer_core::broker::codel::Codel;
use buffer_core::broker::config::{Config, Order, Overflow};
use buffer_core::broker::waiting::Entry;
use buffer_core::broker::worker::{End, Worker};
use buffer_core::broker::{Abandoned, After, Ask, Asked, Broker, Rested, Taken};
use buffer_core::sync::Mutex;
use buffer_core::{Retired, Segment};
use dashmap::DashMap;
use once_cell::sync::Lazy;
use rustler::types::atom::true_;
use rustler::{Atom, Encoder, Env, Error, LocalPid, NifResult, Term};

use crate::arena::{immediate_word, Arena, Copies, Frozen, Handle};
use crate::entry::nif;
use crate::names::{BROKERS, POOLS};
use crate::reclaimer::reclaim;
use crate::weigh::{account, Limits, Scale};
use crate::{atoms, clock};

/// Messages up to this weight are copied under the partition's lock.
const COPIED_UNDER_LOCK: u32 = 8 * 1024;
/// Memory beyond this is not freed on a scheduler.
const FREED_HERE: u64 = 64 * 1024;
/// What a reply weighs: it is a pid, a name or an alias, and a reference; the Elixir side makes it.
const REPLY_WEIGHT: u32 = 96;
/// Looked at under one hold of a lock.
const SWEPT: usize = 256;
const MS: i64 = 1_000_000;

static OPEN: Lazy<DashMap<String, Arc<SharedBroker>>> = Lazy::new(DashMap::new);

/// A broker of Erlang terms and processes.
pub struct SharedBroker {
    name: String,
    core: Broker<Arena, LocalPid>,
    // The process that looks after what nobody else can. It is told, never waited for.
    keeper: Mutex<Option<LocalPid>>,
    // Which calls by its name need nothing besides.
    plain: AtomicU8,
    // What workers have to look after before they take, a bit for each; see `broker_attend`.
    attention: AtomicU8,
    // Why its owner has ended.
    end: Mutex<Option<Arc<Frozen>>>,
    this: Weak<SharedBroker>,
}

const PLAIN_SEND: u8 = 1;
const PLAIN_CALL: u8 = 2;

/// Of what workers have to look after: that of which those are told that are about to be idle.
const CALLED: u8 = 1;

/// A worker of a broker.
pub struct Member {
    broker: Arc<SharedBroker>,
    worker: Arc<Worker<Arena, LocalPid>>,
}

// A panic under one of their locks leaves the lock usable and the structure consistent.
impl std::panic::RefUnwindSafe for SharedBroker {}
impl std::panic::RefUnwindSafe for Member {}

impl SharedBroker {
    /// How many messages wait, and what they weigh.
    pub fn held(&self) -> (usize, u64) {
        let figures = self.core.figures();
        (figures.waiting, figures.bytes)
    }

    fn finish(&self, env: Env<'_>, mut after: After<Arena, LocalPid>) {
        while let Some(woken) = after.wake.take() {
            if env.send(&woken.pid, atoms::wake()).is_ok() {
                break;
            }
            let instead = self.core.unreachable(&woken);
            after.wake = instead.wake;
            after.look |= instead.look;
            after.freed.extend(instead.freed);
        }
        if after.look {
            self.tell(env, atoms::look());
        }
        if after.freed.is_empty() {
            return;
        }
        let mut retired = Retired::default();
        for chunk in after.freed {
            let segment = chunk.into_segment();
            if segment.bytes() > FREED_HERE {
                retired.extend([Box::new(segment)]);
            }
        }
        reclaim(retired);
    }

    fn pass_on(&self, env: Env<'_>) {
        let after = After {
            wake: self.core.pass_on(),
            ..After::default()
        };
        self.finish(env, after);
    }

    fn tell(&self, env: Env<'_>, what: impl Encoder) {
        let keeper = *self.keeper.lock();
        if let Some(keeper) = keeper {
            // One that is dead has a successor, who looks at everything first.
            _ = env.send(&keeper, what);
        }
    }
}

impl Member {
    /// The worker is through with its message, and answers it, if there is an answer and anybody waits for
    /// it. The moment, and how long it has worked on it.
    pub fn answer(
        &self,
        env: Env<'_>,
        end: End,
        answer: Option<(LocalPid, Term<'_>)>,
    ) -> (i64, i64) {
        let (now, _loaded, took) = self.settle(env, end, answer);
        (now, took)
    }

    /// The same; and whether the worker may have taken messages along.
    fn settle(
        &self,
        env: Env<'_>,
        end: End,
        answer: Option<(LocalPid, Term<'_>)>,
    ) -> (i64, bool, i64) {
        let now = clock::now();
        let (wanted, loaded, took) = self.worker.settle_answered(end, now);
        if let Some((to, answer)) = answer.filter(|_| wanted) {
            // Nobody there is nobody to be answered.
            _ = env.send(&to, answer);
        }
        (now, loaded, took)
    }

    /// Whether only one worker is to be at work at a time, for now.
    pub fn is_gathered(&self) -> bool {
        self.broker.core.is_gathered()
    }

    /// One worker had better be alone at work, or all may be.
    pub fn gather(&self, env: Env<'_>, alone: bool, now: i64) {
        let core = &self.broker.core;
        let after = match alone {
            true if core.is_alone() => return,
            true => core.gather(now),
            false => core.scatter(),
        };
        self.broker.finish(env, after);
    }

    /// The worker starts the message that it was sent, if it is to, as `broker_start` does.
    pub fn start(&self, id: u64) -> bool {
        self.worker.start(id, None).is_some()
    }

    /// The worker takes its next message, as `broker_take` does; `form` makes a term of message, reply, nanoseconds that
    /// it has waited, and id.
    pub fn take_as<'a>(
        &self,
        env: Env<'a>,
        now: impl Fn() -> i64,
        form: impl Fn(Term<'a>, Term<'a>, i64, u64) -> Term<'a>,
    ) -> Term<'a> {
        take(env, self, now, Limits::BYTES as u32, form)
    }

    /// Whether no worker is to be idle, nor to take, before it has looked after something.
    fn is_called(&self) -> bool {
        // Seen as below.
        self.broker.attention.load(Ordering::Relaxed) & CALLED != 0
    }

    /// Whether there is anything that it has to look after before it takes.
    pub fn has_to_attend(&self) -> bool {
        // What is seen is at least what was there when the lock was let go that the worker has taken before this.
        self.broker.attention.load(Ordering::Relaxed) != 0
    }
}

/// All open brokers.
pub fn all() -> Vec<Arc<SharedBroker>> {
    OPEN.iter().map(|entry| Arc::clone(entry.value())).collect()
}

/// `{order, max | nil, overflow, min, timeout_ms | nil, {target_ms, interval_ms} | nil, order of workers}`.
type Settings = (
    Atom,
    Option<usize>,
    Atom,
    usize,
    Option<i64>,
    Option<(i64, i64)>,
    Atom,
);

fn config(settings: Settings) -> NifResult<Config> {
    let (order, max, overflow, min, timeout, codel, workers) = settings;
    let order_of = |atom: Atom| match atom {
        atom if atom == atoms::fifo() => Ok(Order::Fifo),
        atom if atom == atoms::lifo() => Ok(Order::Lifo),
        _ => Err(Error::BadArg),
    };
    Ok(Config {
        order: order_of(order)?,
        max: max.unwrap_or(usize::MAX),
        overflow: match overflow {
            atom if atom == atoms::newest() => Overflow::Newest,
            atom if atom == atoms::oldest() => Overflow::Oldest,
            _ => return Err(Error::BadArg),
        },
        min,
        timeout: timeout.map(|ms| ms.saturating_mul(MS)),
        codel: codel.map(|(target, interval)| Codel {
            target: target.saturating_mul(MS),
            interval: interval.saturating_mul(MS),
        }),
        workers: order_of(workers)?,
    })
}

/// Opens the broker of this name: `{:created | :adopted, broker}`. One that is adopted keeps its
/// partitions and what waits in them. With `one_order` they have one. O(partitions).
#[rustler::nif]
fn broker_open(
    env: Env<'_>,
    name: String,
    partitions: usize,
    one_order: bool,
    settings: Settings,
) -> NifResult<(Atom, Term<'_>)> {
    let config = config(settings)?;
    let mut how = atoms::adopted();
    let shared = Arc::clone(&OPEN.entry(name.clone()).or_insert_with(|| {
        how = atoms::created();
        Arc::new_cyclic(|this| SharedBroker {
            name,
            core: match one_order {
                true => Broker::in_lanes(partitions, &config),
                false => Broker::new(partitions, &config),
            },
            keeper: Mutex::new(None),
            plain: AtomicU8::new(0),
            attention: AtomicU8::new(0),
            end: Mutex::new(None),
            this: Weak::clone(this),
        })
    }));
    shared.core.configure(&config, clock::now());
    shared.core.open();
    Ok((how, Handle::make(env, shared)))
}

/// Changes how messages wait. O(partitions).
#[rustler::nif]
fn broker_configure(
    env: Env<'_>,
    broker: Handle<'_, SharedBroker>,
    settings: Settings,
) -> NifResult<Atom> {
    broker.0.core.configure(&config(settings)?, clock::now());
    broker.0.tell(env, atoms::look());
    Ok(atoms::ok())
}

/// Whether one worker at a time takes what waits. Before any joins. O(1).
#[rustler::nif]
fn broker_work_alone(broker: Handle<'_, SharedBroker>, alone: bool) -> Atom {
    broker.0.core.work_alone(alone);
    atoms::ok()
}

/// Sets or clears bits of what its workers have to look after before they take; what they mean is up to them, but that
/// nobody becomes idle beside the first one. Those that are idle then are not told. O(1).
#[rustler::nif]
fn broker_attend(broker: Handle<'_, SharedBroker>, bits: u8, set: bool) -> Atom {
    let attention = &broker.0.attention;
    _ = match set {
        true => attention.fetch_or(bits, Ordering::AcqRel),
        false => attention.fetch_and(!bits, Ordering::AcqRel),
    };
    atoms::ok()
}

/// Those bits. O(1).
#[rustler::nif]
fn broker_attention(broker: Handle<'_, SharedBroker>) -> u8 {
    broker.0.attention.load(Ordering::Acquire)
}

/// Refuses messages from now on. O(partitions).
#[rustler::nif]
fn broker_close(env: Env<'_>, broker: Handle<'_, SharedBroker>) -> Atom {
    broker.0.core.close();
    // Those that wait for room wait in vain.
    broker.0.tell(env, atoms::look());
    atoms::ok()
}

/// Forgets the broker's name. O(1).
#[rustler::nif]
fn broker_release(broker: Handle<'_, SharedBroker>) -> Atom {
    OPEN.remove_if(&broker.0.name, |_, open| {
        std::ptr::eq(&raw const **open, broker.0)
    });
    atoms::ok()
}

/// The names of all open brokers. O(brokers).
#[rustler::nif]
fn broker_names() -> Vec<String> {
    all().iter().map(|shared| shared.name.clone()).collect()
}

/// Hands back the oldest messages, up to `count` of them, of all sizes: `[{message, reply}]`.
#[rustler::nif(schedule = "DirtyCpu")]
fn broker_take_rest<'a>(
    env: Env<'a>,
    broker: Handle<'_, SharedBroker>,
    count: usize,
) -> Vec<(Term<'a>, Term<'a>)> {
    let read = |arena: &Arena, entry: &Entry<LocalPid>| {
        let reply = entry.reply.map(|reply| arena.load(reply as usize, env));
        (
            arena.load(entry.message as usize, env),
            reply.unwrap_or_else(|| atoms::nil().encode(env)),
        )
    };
    let (rest, after) = broker.0.core.take_rest(count, u64::from(u32::MAX), read);
    broker.0.finish(env, after);
    rest
}

thread_local! {
    // Where the next message of this scheduler goes: in turn, from another start on each.
    static TURN: Cell<usize> = Cell::new(clock::now() as usize);
    // Or, where it makes no difference to anybody, always to the same place.
    static LANE: usize = LANES.fetch_add(1, Ordering::Relaxed);
}

static LANES: AtomicUsize = AtomicUsize::new(0);

fn home(core: &Broker<Arena, LocalPid>, scale: &Scale) -> usize {
    if core.is_ordered() {
        // Schedulers that run such calls are numbered without a gap; the dirty ones would come in between.
        return if scale.is_bounded() {
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

nif!(broker_send / 2, send);

/// Sends a message that nobody waits for to the broker of this name. As `broker_ask`, but `:ok` if it was taken; or `:unknown`; or `:observed`
/// if it is not for this call. Bounded.
fn send<'a>(env: Env<'a>, [name, message]: [Term<'a>; 2]) -> Term<'a> {
    named(env, name, PLAIN_SEND, |shared| {
        ask_of_nobody(shared, message, How::Loose)
    })
}

nif!(broker_call / 3, call);

/// As `broker_ask`, of a caller, to the broker of this name; and if a worker is idle and nothing waits, that one is
/// sent `{:"$broker_message", id, message, reply}`. For workers that call `broker_start` then. Or `:unknown`; or
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

nif!(broker_post / 2, post);

/// As `broker_send`, to the broker of the pool of this name. Bounded.
fn post<'a>(env: Env<'a>, [pool, message]: [Term<'a>; 2]) -> Term<'a> {
    let asked = immediate_word(pool)
        .and_then(|word| POOLS.with(word, |shared| ask_of_nobody(shared, message, How::Loose)));
    asked.unwrap_or_else(|| atoms::unknown().encode(env))
}

/// From now on this atom is the name of the broker's pool. O(pools).
#[rustler::nif]
fn broker_put_pool(broker: Handle<'_, SharedBroker>, pool: Term<'_>) -> NifResult<Atom> {
    let shared = broker.0.this.upgrade().ok_or(Error::BadArg)?;
    POOLS.put(immediate_word(pool).ok_or(Error::BadArg)?, &shared);
    Ok(atoms::ok())
}

/// From now on it is not, if it was. O(pools).
#[rustler::nif]
fn broker_erase_pool(broker: Handle<'_, SharedBroker>, pool: Term<'_>) -> NifResult<Atom> {
    POOLS.erase(immediate_word(pool).ok_or(Error::BadArg)?, broker.0);
    Ok(atoms::ok())
}

fn ask_of_nobody<'a>(shared: &SharedBroker, message: Term<'a>, how: How) -> Term<'a> {
    let nobody = atoms::nil().encode(message.get_env());
    let with = (None, None, false);
    ask(shared, message, nobody, with, how, Scale::bounded())
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

/// From now on this atom is the name of the broker. `broker_send` is for it if `plain_send`, `broker_call` if
/// `plain_call`. O(brokers).
#[rustler::nif]
fn broker_put_name(
    broker: Handle<'_, SharedBroker>,
    name: Term<'_>,
    plain_send: bool,
    plain_call: bool,
) -> NifResult<Atom> {
    let shared = broker.0.this.upgrade().ok_or(Error::BadArg)?;
    let name = immediate_word(name).ok_or(Error::BadArg)?;
    let send = if plain_send { PLAIN_SEND } else { 0 };
    let call = if plain_call { PLAIN_CALL } else { 0 };
    shared.plain.store(send | call, Ordering::Relaxed);
    BROKERS.put(name, &shared);
    Ok(atoms::ok())
}

/// From now on it is not, if it was. O(brokers).
#[rustler::nif]
fn broker_erase_name(broker: Handle<'_, SharedBroker>, name: Term<'_>) -> NifResult<Atom> {
    BROKERS.erase(immediate_word(name).ok_or(Error::BadArg)?, broker.0);
    Ok(atoms::ok())
}

nif!(broker_start / 3, start);

/// The worker starts the message that it was sent, with this id: the nanoseconds that it has waited, or 0 unless
/// they are to be `measured`, as then it has worked on it since it was sent; or `nil`: it is not to, since the message
/// was taken back or given to another one. O(1).
fn start<'a>(env: Env<'a>, [worker, id, measured]: [Term<'a>; 3]) -> Term<'a> {
    let (Ok(worker), Ok(id)) = (worker.decode::<Handle<Member>>(), id.decode()) else {
        return atoms::nil().encode(env);
    };
    let now = (measured.as_c_arg() == true_().as_c_arg()).then(clock::now);
    let waited = worker.0.worker.start(id, now);
    waited.map_or_else(|| atoms::nil().encode(env), |waited| waited.encode(env))
}

/// The same for messages of any size.
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

/// What becomes of a message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// It waits.
    Stored,
    /// It waits, and whoever sent it is not told its id.
    Loose,
    /// It is sent to an idle worker past all partitions, or waits.
    HandedOver,
    /// The same, and the sender is told which of the two.
    HandedOverAndTold,
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
    let now = clock::now();
    let due = timeout.map_or(i64::MAX, |ms| now.saturating_add(ms.saturating_mul(MS)));
    let with = Ask {
        caller,
        now,
        due,
        weight,
        alone: weight > COPIED_UNDER_LOCK,
        idle_only,
        hand_over: matches!(how, How::HandedOver | How::HandedOverAndTold),
        loose: how == How::Loose,
    };
    let (asked, mut after) = shared.core.ask(
        home(&shared.core, &scale),
        &with,
        |segment: &mut Segment<Arena>| {
            let at = segment.stored() as u32;
            segment.push(message_weight, |arena| arena.store(message));
            if has_reply {
                segment.push(REPLY_WEIGHT, |arena| arena.store(reply));
            }
            (at, has_reply.then_some(at + 1))
        },
    );
    let handed = how == How::HandedOverAndTold && after.handed.is_some();
    if let (Some(worker), Asked::Accepted(id)) = (after.handed.take(), asked) {
        let handed = (atoms::message(), id, message, reply);
        if env.send(&worker.pid, handed).is_err() {
            shared.finish(env, shared.core.unreachable(&worker));
        }
    }
    let crowded = after.crowded;
    shared.finish(env, after);
    match asked {
        Asked::Accepted(id) if handed => (atoms::handed(), id).encode(env),
        Asked::Accepted(id) if crowded => (atoms::wait(), id).encode(env),
        // It is of no use to anybody.
        Asked::Accepted(_) if how == How::Loose => atoms::ok().encode(env),
        Asked::Accepted(id) => id.encode(env),
        Asked::Full => atoms::queue_full().encode(env),
        Asked::NoWorker => atoms::no_worker().encode(env),
        Asked::Closed => atoms::closed().encode(env),
    }
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

/// Makes the caller a worker. O(1).
#[rustler::nif]
fn broker_join<'a>(env: Env<'a>, broker: Handle<'_, SharedBroker>) -> NifResult<Term<'a>> {
    let shared = broker.0.this.upgrade().ok_or(Error::BadArg)?;
    let pid = env.pid();
    let worker = shared.core.join(pid);
    shared.tell(env, (atoms::joined(), pid));
    let member = Member {
        broker: shared,
        worker,
    };
    Ok(Handle::make(env, Arc::new(member)))
}

nif!(broker_take / 1, take_next);

/// The worker is through with its message and takes the next one: `{message, reply, ns it has waited, id}`;
/// `:idle` (it will be sent `:"$broker_wake"`, or a message); `:attend` (the same, and the first bit of what has to be
/// looked after is set); or, not idle, `:again`, `:heavy` (call the `_dirty`
/// twin) or `:gone` (it has left). Bounded.
fn take_next<'a>(env: Env<'a>, [worker]: [Term<'a>; 1]) -> Term<'a> {
    match worker.decode::<Handle<Member>>() {
        Ok(Handle(member)) => {
            let taken = take(env, member, clock::now, Limits::BYTES as u32, four(env));
            attended(env, member, taken)
        }
        Err(_) => atoms::gone().encode(env),
    }
}

/// The same for messages of any size.
#[rustler::nif(schedule = "DirtyCpu")]
fn broker_take_dirty<'a>(env: Env<'a>, worker: Handle<'_, Member>) -> Term<'a> {
    let taken = take(env, worker.0, clock::now, u32::MAX, four(env));
    attended(env, worker.0, taken)
}

nif!(broker_take_along / 2, take_along);

/// As `broker_take`; or of messages that nobody waits for a list of some, each of which `broker_begin` starts; or
/// `:attend`, if that bit is set, whether it is idle or not; or, if it is `patient`, `:soon`, not idle, since there are not
/// enough of them yet. Bounded.
fn take_along<'a>(env: Env<'a>, [worker, patient]: [Term<'a>; 2]) -> Term<'a> {
    let Ok(Handle(member)) = worker.decode::<Handle<Member>>() else {
        return atoms::gone().encode(env);
    };
    if member.is_called() {
        return atoms::attend().encode(env);
    }
    let patient = patient.as_c_arg() == true_().as_c_arg();
    if patient && member.broker.core.is_early(&member.worker, clock::now) {
        return atoms::soon().encode(env);
    }
    let mut copies = Copies::with_capacity(env, 0);
    let copy = |arena: &Arena, range: Range<usize>| copies.extend(arena, range);
    let alive = |pid: LocalPid| pid.is_alive(env);
    let form = four(env);
    let read = |arena: &Arena, entry: &Entry<LocalPid>, now| message(env, arena, entry, now, &form);
    let (core, heaviest) = (&member.broker.core, Limits::BYTES as u32);
    let (taken, after) = core.take_along(&member.worker, clock::now, heaviest, alive, copy, read);
    if let Taken::Copies(count) = taken {
        account(env, count, 0);
        member.broker.finish(env, after);
        return copies.into_list();
    }
    attended(env, member, taken_one(env, member, taken, after, four(env)))
}

/// The same; or `:attend`, if the worker is idle and has to look after anything, of which an idle worker is not told.
fn attended<'a>(env: Env<'a>, member: &Member, taken: Term<'a>) -> Term<'a> {
    let idle = taken.as_c_arg() == atoms::idle().as_c_arg();
    match idle && member.is_called() {
        true => atoms::attend().encode(env),
        false => taken,
    }
}

nif!(broker_begin / 1, begin);

/// The worker is through with its message, and starts the next one of the list that it has got; or not, since it is
/// given to another one, as are those behind it, or that bit is set. O(1).
fn begin<'a>(env: Env<'a>, [worker]: [Term<'a>; 1]) -> Term<'a> {
    let Ok(Handle(member)) = worker.decode::<Handle<Member>>() else {
        return false.encode(env);
    };
    if member.is_called() {
        return false.encode(env);
    }
    let (begun, after) = member.broker.core.begin(&member.worker);
    member.broker.finish(env, after);
    begun.encode(env)
}

fn take<'a>(
    env: Env<'a>,
    member: &Member,
    now: impl Fn() -> i64,
    heaviest: u32,
    form: impl Fn(Term<'a>, Term<'a>, i64, u64) -> Term<'a>,
) -> Term<'a> {
    let alive = |pid: LocalPid| pid.is_alive(env);
    let read = |arena: &Arena, entry: &Entry<LocalPid>, now| message(env, arena, entry, now, &form);
    let core = &member.broker.core;
    let (taken, after) = core.take(&member.worker, now, heaviest, alive, read);
    taken_one(env, member, taken, after, form)
}

/// A message as `broker_take` has it.
fn four<'a>(env: Env<'a>) -> impl Fn(Term<'a>, Term<'a>, i64, u64) -> Term<'a> {
    move |message, reply, waited, id| (message, reply, waited, id).encode(env)
}

fn message<'a>(
    env: Env<'a>,
    arena: &Arena,
    entry: &Entry<LocalPid>,
    now: i64,
    form: impl Fn(Term<'a>, Term<'a>, i64, u64) -> Term<'a>,
) -> Term<'a> {
    let message = arena.load(entry.message as usize, env);
    let reply = match entry.reply {
        Some(reply) => arena.load(reply as usize, env),
        None => atoms::nil().encode(env),
    };
    let waited = now.saturating_sub(entry.at).max(0);
    form(message, reply, waited, entry.id)
}

fn taken_one<'a>(
    env: Env<'a>,
    member: &Member,
    taken: Taken<Term<'a>, Arena, LocalPid>,
    after: After<Arena, LocalPid>,
    form: impl Fn(Term<'a>, Term<'a>, i64, u64) -> Term<'a>,
) -> Term<'a> {
    let answer = match taken {
        Taken::Message(message) => message,
        Taken::Alone(entry, chunk, now) => {
            account(env, 0, u64::from(entry.weight));
            let message = message(env, chunk.arena(), &entry, now, form);
            let mut retired = Retired::default();
            retired.extend([Box::new(chunk.into_segment())]);
            reclaim(retired);
            message
        }
        // There are none, or they were answered.
        Taken::Copies(_) => Copies::with_capacity(env, 0).into_list(),
        Taken::Heavy => atoms::heavy().encode(env),
        Taken::Again => atoms::again().encode(env),
        Taken::Idle => atoms::idle().encode(env),
        Taken::Gone => atoms::gone().encode(env),
    };
    member.broker.finish(env, after);
    answer
}

/// The worker is not idle from now on, until it has taken `:idle`. O(idle workers).
#[rustler::nif]
fn broker_withdraw(env: Env<'_>, worker: Handle<'_, Member>) -> Atom {
    let Member { broker, worker } = worker.0;
    broker.finish(env, broker.core.withdraw(worker));
    atoms::ok()
}

/// The worker is through with its message, well or not. O(1).
#[rustler::nif]
fn broker_done(worker: Handle<'_, Member>, failed: bool) -> Atom {
    let end = if failed { End::Failed } else { End::Done };
    worker.0.worker.settle(end, clock::now());
    atoms::ok()
}

/// The same, and sends the answer: no end of the worker can fall between the two. As bounded as a send.
#[rustler::nif]
fn broker_reply<'a>(
    env: Env<'a>,
    worker: Handle<'a, Member>,
    to: LocalPid,
    answer: Term<'a>,
    failed: bool,
) -> Atom {
    let end = if failed { End::Failed } else { End::Done };
    worker.0.answer(env, end, Some((to, answer)));
    atoms::ok()
}

nif!(broker_reply_take / 3, reply_take);

/// `broker_reply` and `broker_take_along` in one call, but it takes one message: none before the answer was sent.
/// `:elsewhere`, and nothing is done, if `to` is not a process of this node.
fn reply_take<'a>(env: Env<'a>, [worker, to, answer]: [Term<'a>; 3]) -> Term<'a> {
    let Ok(to) = to.decode() else {
        return atoms::elsewhere().encode(env);
    };
    let Ok(Handle(member)) = worker.decode::<Handle<Member>>() else {
        return atoms::gone().encode(env);
    };
    let (now, _took) = member.answer(env, End::Done, Some((to, answer)));
    if member.is_called() {
        return atoms::attend().encode(env);
    }
    let taken = take(env, member, || now, Limits::BYTES as u32, four(env));
    attended(env, member, taken)
}

nif!(broker_reply_rest / 3, reply_rest);

/// `broker_reply`, and the worker is `:idle`, or `:attend`, as after `broker_take`; or, since something waits, it is to take
/// (`:again`). Or `:gone`, or `:elsewhere` as above.
fn reply_rest<'a>(env: Env<'a>, [worker, to, answer]: [Term<'a>; 3]) -> Term<'a> {
    let Ok(to) = to.decode() else {
        return atoms::elsewhere().encode(env);
    };
    let Ok(Handle(member)) = worker.decode::<Handle<Member>>() else {
        return atoms::gone().encode(env);
    };
    let (_now, loaded, _took) = member.settle(env, End::Done, Some((to, answer)));
    let core = &member.broker.core;
    let (rested, after) = core.rest_unless_needed(&member.worker, loaded);
    member.broker.finish(env, after);
    let rested = match rested {
        // What came in between was not told to an idle worker.
        Rested::Idle if member.is_called() => atoms::attend(),
        Rested::Idle => atoms::idle(),
        Rested::Needed => atoms::again(),
        Rested::Gone => atoms::gone(),
    };
    rested.encode(env)
}

/// The worker is none any more. O(workers).
#[rustler::nif]
fn broker_leave(env: Env<'_>, worker: Handle<'_, Member>) -> Atom {
    let Member { broker, worker } = worker.0;
    broker.finish(env, broker.core.leave(worker, clock::now()));
    atoms::ok()
}
