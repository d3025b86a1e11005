//! NIFs of a broker: messages and workers.
//!
//! What a call has to do for others (wake a worker, tell the keeper, free memory) it does at the end,
//! with no lock held.
//!
//! | file | one idea |
//! |---|---|
//! | `ask.rs` | the caller's side: sending a message, and taking it back |
//! | `take.rs` | the worker's side: taking the next message, and answering it |
//! | `keeper.rs` | deaths, deadlines, and what is to be told |
//! | `deferred.rs` | answers that somebody else gives |
//! | `figures.rs` | how things stand |
//! | `end.rs` | what the owner has ended with |
//! | `patience.rs` | callers that wait with no timer |

mod ask;
mod deferred;
mod end;
mod figures;
mod keeper;
mod patience;
mod take;

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Weak};

use buffer_core::broker::codel::Codel;
use buffer_core::broker::config::{Config, Order, Overflow};
use buffer_core::broker::patience::{Patience, Slow};
use buffer_core::broker::waiting::Entry;
use buffer_core::broker::worker::Worker;
use buffer_core::broker::{After, Broker};
use buffer_core::sync::Mutex;
use buffer_core::Retired;
use dashmap::DashMap;
use once_cell::sync::Lazy;
use rustler::{Atom, Encoder, Env, Error, LocalPid, NifResult, Term};

use crate::arena::{immediate_word, Arena, Frozen, Handle};
use crate::courier::send;
use crate::names::{BROKERS, POOLS};
use crate::reclaimer::reclaim;
use crate::resource::Partitions;
use crate::{atoms, clock};

/// Memory beyond this is not freed on a scheduler.
const FREED_HERE: u64 = 64 * 1024;
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
    // Times are only added up: see `broker_time`.
    sums_only: AtomicBool,
    // What becomes of messages depends on times that are no longer than ticks.
    exact: AtomicBool,
    // Of the pool that is served: the keeper's name, and the process whose end is the end of requests that wait.
    pool: Mutex<Option<(Atom, LocalPid)>>,
    // Why its owner has ended.
    end: Mutex<Option<Arc<Frozen>>>,
    this: Weak<SharedBroker>,
}

const PLAIN_SEND: u8 = 1;
const PLAIN_CALL: u8 = 2;

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

    /// The time at which something happens to a message past the queue, or to a worker: now; or lately, where it is only added
    /// up.
    #[inline]
    fn moment(&self) -> i64 {
        match self.sums_only.load(Ordering::Relaxed) {
            true => clock::lately(),
            false => clock::now(),
        }
    }

    /// From now on times are only added up, or not, as far as it is up to those who would know them.
    fn only_sum(&self, only: bool) {
        let only = only && !self.exact.load(Ordering::Relaxed);
        self.sums_only.store(only, Ordering::Relaxed);
    }

    /// Its configuration is this one.
    fn configure(&self, config: &Config) {
        let exact = config.timeout.is_some() || config.codel.is_some();
        self.exact.store(exact, Ordering::Relaxed);
        self.sums_only.fetch_and(!exact, Ordering::Relaxed);
        self.core.configure(config, clock::now());
    }

    fn finish(&self, env: Env<'_>, mut after: After<Arena, LocalPid>) {
        self.tell_all(env, after.slow.take());
        while let Some(woken) = after.wake.take() {
            if send(env, &woken.pid, atoms::wake()) {
                break;
            }
            let instead = self.core.unreachable(&woken);
            self.tell_all(env, instead.slow);
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

    fn tell_all(&self, env: Env<'_>, slow: Option<Box<Slow<Arena>>>) {
        if let Some(slow) = slow {
            self.tell_slow(env, slow.reply.arena().load(0, env), slow.since);
        }
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
            _ = send(env, &keeper, what);
        }
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
    partitions: Partitions,
    one_order: bool,
    settings: Settings,
) -> NifResult<(Atom, Term<'_>)> {
    let Partitions(partitions) = partitions;
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
            sums_only: AtomicBool::new(false),
            exact: AtomicBool::new(false),
            pool: Mutex::new(None),
            end: Mutex::new(None),
            this: Weak::clone(this),
        })
    }));
    shared.configure(&config);
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
    broker.0.configure(&config(settings)?);
    broker.0.tell(env, atoms::look());
    Ok(atoms::ok())
}

/// Whether one worker at a time takes what waits. Before any joins. O(1).
#[rustler::nif]
fn broker_work_alone(broker: Handle<'_, SharedBroker>, alone: bool) -> Atom {
    broker.0.core.work_alone(alone);
    atoms::ok()
}

/// Whether nobody wants to know how long messages wait or take, each by itself: then that is looked up less exactly, and right
/// in the sum. O(1).
#[rustler::nif]
fn broker_time(broker: Handle<'_, SharedBroker>, sums_only: bool) -> Atom {
    broker.0.only_sum(sums_only);
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

/// Hands back the oldest messages, up to `count` of them, of all sizes: `[{message, reply}]`. Patient callers are told.
#[rustler::nif(schedule = "DirtyCpu")]
fn broker_take_rest<'a>(
    env: Env<'a>,
    broker: Handle<'_, SharedBroker>,
    count: usize,
) -> Vec<(Term<'a>, Term<'a>)> {
    let mut slow = Vec::new();
    let read = |arena: &Arena, entry: &Entry<LocalPid>| {
        let reply = entry.reply.map(|reply| arena.load(reply as usize, env));
        let reply = reply.unwrap_or_else(|| atoms::nil().encode(env));
        if entry.patience == Patience::Untold {
            slow.push((reply, entry.at));
        }
        (arena.load(entry.message as usize, env), reply)
    };
    let (rest, after) = broker.0.core.take_rest(count, u64::from(u32::MAX), read);
    for (reply, since) in slow {
        broker.0.tell_slow(env, reply, since);
    }
    broker.0.finish(env, after);
    rest
}

/// From now on this atom is the name of the broker's pool. Requests that wait end with `watch`. O(pools).
#[rustler::nif]
fn broker_put_pool(
    broker: Handle<'_, SharedBroker>,
    pool: Term<'_>,
    keeper: Atom,
    watch: LocalPid,
) -> NifResult<Atom> {
    let shared = broker.0.this.upgrade().ok_or(Error::BadArg)?;
    *shared.pool.lock() = Some((keeper, watch));
    POOLS.put(immediate_word(pool).ok_or(Error::BadArg)?, &shared);
    Ok(atoms::ok())
}

/// From now on it is not, if it was. O(pools).
#[rustler::nif]
fn broker_erase_pool(broker: Handle<'_, SharedBroker>, pool: Term<'_>) -> NifResult<Atom> {
    POOLS.erase(immediate_word(pool).ok_or(Error::BadArg)?, broker.0);
    Ok(atoms::ok())
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
    shared.only_sum(plain_call);
    BROKERS.put(name, &shared);
    Ok(atoms::ok())
}

/// From now on it is not, if it was. O(brokers).
#[rustler::nif]
fn broker_erase_name(broker: Handle<'_, SharedBroker>, name: Term<'_>) -> NifResult<Atom> {
    BROKERS.erase(immediate_word(name).ok_or(Error::BadArg)?, broker.0);
    Ok(atoms::ok())
}
