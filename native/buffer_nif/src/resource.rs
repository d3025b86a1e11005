//! What a handle on the BEAM refers to.
#![expect(
    clippy::disallowed_methods,
    reason = "`NifUnitEnum` makes its atoms in an `OwnedEnv`; no term but atoms comes out of it"
)]

use std::sync::atomic::{AtomicI64, AtomicU64, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use buffer_core::sync::Mutex;
use buffer_core::{Buffer, Capacity, Map, Policy, Queue, Size, Waiters};
use rustler::{Decoder, Env, Error, LocalPid, NifMap, NifResult, NifUnitEnum, Term};

use crate::arena::{packed, Arena, Handle, Layout};
use crate::broker::{Member, SharedBroker};
use crate::cell::{SharedCell, Staged};
use crate::cycle::Cycle;
use crate::data_buffer::Round;
use crate::server::Waiter;
use crate::{atoms, clock, map, weigh, write};

/// A queue and its partitions, as this library stores them.
pub type QueueBuffer = Buffer<Queue<Arena>, LocalPid>;
/// A map and its partitions, as this library stores them.
pub type MapBuffer = Buffer<Map<Arena>, LocalPid>;

/// What a buffer keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, NifUnitEnum)]
pub enum Kind {
    /// Entries in order.
    Queue,
    /// The newest entry of each key.
    Map,
}

/// How many partitions something is to have: as many as the options of a buffer allow at the most, since memory that
/// can't be had ends the VM.
pub struct Partitions(pub usize);

impl Decoder<'_> for Partitions {
    fn decode(term: Term<'_>) -> NifResult<Self> {
        match term.decode()? {
            partitions @ 0..=32_768 => Ok(Self(partitions)),
            _ => Err(Error::BadArg),
        }
    }
}

/// The storage of either kind.
pub enum Storage {
    /// Of a queue.
    Queue(QueueBuffer),
    /// Of a map.
    Map(MapBuffer),
}

impl Storage {
    fn new(kind: Kind, partitions: usize) -> Self {
        match kind {
            Kind::Queue => Storage::Queue(Buffer::new(partitions)),
            Kind::Map => Storage::Map(Buffer::new(partitions)),
        }
    }

    /// Which kind it is.
    pub fn kind(&self) -> Kind {
        match self {
            Storage::Queue(_) => Kind::Queue,
            Storage::Map(_) => Kind::Map,
        }
    }

    /// How many partitions it has.
    pub fn partitions(&self) -> usize {
        match self {
            Storage::Queue(buffer) => buffer.partitions().len(),
            Storage::Map(buffer) => buffer.partitions().len(),
        }
    }

    /// A partition, as the cycle sees it.
    pub fn partition(&self, index: usize) -> Option<&dyn Cycle> {
        match self {
            Storage::Queue(buffer) => buffer.partitions().get(index).map(|p| p as &dyn Cycle),
            Storage::Map(buffer) => buffer.partitions().get(index).map(|p| p as &dyn Cycle),
        }
    }

    /// All partitions, as the cycle sees them.
    pub fn all(&self) -> impl Iterator<Item = &dyn Cycle> {
        (0..self.partitions()).filter_map(|index| self.partition(index))
    }

    /// What all partitions together may hold.
    pub fn capacity(&self) -> &Capacity {
        match self {
            Storage::Queue(buffer) => buffer.capacity(),
            Storage::Map(buffer) => buffer.capacity(),
        }
    }

    fn set_limit(&self, limit: Option<Size>) -> bool {
        match self {
            Storage::Queue(buffer) => buffer.set_limit(limit),
            Storage::Map(buffer) => buffer.set_limit(limit),
        }
    }

    /// Closes all partitions; see [`Buffer::close`].
    pub fn close(&self) {
        match self {
            Storage::Queue(buffer) => buffer.close(),
            Storage::Map(buffer) => buffer.close(),
        }
    }
}

/// What is done with a write for which there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, NifUnitEnum)]
pub enum Overflow {
    /// It waits.
    Block,
    /// It is refused.
    Reject,
    /// It is dropped.
    DropNewest,
    /// It is made in place of the oldest entries.
    DropOldest,
}

/// The options that the native side goes by.
#[derive(Debug, Clone, Copy, NifMap)]
pub struct Rules {
    /// How many entries a batch may have; 0: all at once, in a table.
    pub batch_size: usize,
    /// How many bytes.
    pub max_batch_bytes: Option<u64>,
    /// How many entries the buffer may hold.
    pub capacity: Option<usize>,
    /// How many bytes.
    pub capacity_bytes: Option<u64>,
    /// What happens otherwise.
    pub overflow: Overflow,
    /// How often a batch is tried again.
    pub max_retries: u32,
    /// Whether it is halved then.
    pub split_on_failure: bool,
    /// After how many milliseconds an entry is given up.
    pub max_age_ms: Option<u64>,
    /// Whether what is given up is kept until somebody has been told.
    pub keep_discarded: bool,
}

/// How a partition's process stands, for whoever asks.
#[derive(Debug, Default)]
pub struct Mark {
    /// When it will look again by itself, on the clock of this library; 0: not.
    pub next_flush: AtomicI64,
}

/// A buffer and what the BEAM wants to find with it.
pub struct Shared {
    /// The name it is registered under.
    pub name: String,
    /// When its storage was made, in nanoseconds of the system's time: tells it from others of its name.
    pub since: u64,
    /// What it holds.
    pub storage: Storage,
    /// Writers that wait for room.
    pub waiters: Waiters<Waiter>,
    /// Writes that were refused because there was no room.
    pub rejected: AtomicU64,
    /// What writes go by that go to one partition after the other.
    pub round: Round,
    /// One for each partition.
    pub marks: Box<[Mark]>,
    /// One term of the Elixir side's own: the options in force.
    pub settings: Mutex<Option<Arena>>,
    /// Of how many keys each partition of a map remembers versions.
    pub version_memory: AtomicUsize,
    // The rest is `Rules`, each by itself. Relaxed: a batch or a write may still see the old one.
    batch_size: AtomicUsize,
    max_batch_bytes: AtomicU64,
    overflow: AtomicU8,
    retries: AtomicU64,
    max_age_ns: AtomicI64,
    keep_discarded: AtomicU8,
    this: Weak<Shared>,
}

// A panic under one of its locks leaves the lock usable and the structure consistent: every operation
// changes its counters after the step that can fail. rustler catches the panic and raises.
impl std::panic::RefUnwindSafe for Shared {}

// Bit 0 of `Shared::retries`: whether a batch is halved.
const SPLIT: u64 = 1;

impl Shared {
    /// An empty buffer.
    pub fn new(name: String, kind: Kind, partitions: usize) -> Arc<Self> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let since = since.map_or(0, |since| since.as_nanos() as u64);
        Arc::new_cyclic(|this| Self {
            name,
            since,
            storage: Storage::new(kind, partitions),
            waiters: Waiters::default(),
            rejected: AtomicU64::new(0),
            round: Round::default(),
            marks: (0..partitions).map(|_| Mark::default()).collect(),
            settings: Mutex::new(None),
            batch_size: AtomicUsize::new(1),
            version_memory: AtomicUsize::new(0),
            max_batch_bytes: AtomicU64::new(u64::MAX),
            overflow: AtomicU8::new(0),
            retries: AtomicU64::new(0),
            max_age_ns: AtomicI64::new(i64::MAX),
            keep_discarded: AtomicU8::new(0),
            this: Weak::clone(this),
        })
    }

    /// Goes by these rules from now on. Answers whether writers wait for room.
    pub fn set_rules(&self, rules: Rules) -> bool {
        let bytes = rules.max_batch_bytes.unwrap_or(u64::MAX);
        let split = if rules.split_on_failure { SPLIT } else { 0 };
        let age = rules.max_age_ms.and_then(|ms| i64::try_from(ms).ok());
        let age = age.map_or(i64::MAX, |ms| ms.saturating_mul(1_000_000));
        self.batch_size.store(rules.batch_size, Ordering::Relaxed);
        self.max_batch_bytes.store(bytes, Ordering::Relaxed);
        self.overflow.store(rules.overflow as u8, Ordering::Relaxed);
        self.retries.store(
            (u64::from(rules.max_retries) << 1) | split,
            Ordering::Relaxed,
        );
        self.max_age_ns.store(age, Ordering::Relaxed);
        self.keep_discarded
            .store(rules.keep_discarded.into(), Ordering::Relaxed);
        let limited = rules.capacity.is_some() || rules.capacity_bytes.is_some();
        let limit = limited.then_some(Size {
            entries: rules.capacity.unwrap_or(usize::MAX),
            bytes: rules.capacity_bytes.unwrap_or(u64::MAX),
        });
        self.storage.set_limit(limit)
    }

    /// How many entries a batch may have; 0: all, in a table.
    pub fn batch_size(&self) -> usize {
        self.batch_size.load(Ordering::Relaxed)
    }

    /// How many bytes.
    pub fn max_batch_bytes(&self) -> u64 {
        self.max_batch_bytes.load(Ordering::Relaxed)
    }

    /// What happens when there is no room.
    pub fn overflow(&self) -> Overflow {
        match self.overflow.load(Ordering::Relaxed) {
            1 => Overflow::Reject,
            2 => Overflow::DropNewest,
            3 => Overflow::DropOldest,
            _ => Overflow::Block,
        }
    }

    /// How often a batch is tried.
    pub fn policy(&self) -> Policy {
        let retries = self.retries.load(Ordering::Relaxed);
        Policy {
            max_retries: (retries >> 1) as u32,
            split: retries & SPLIT != 0,
        }
    }

    /// Entries that came before this moment are given up.
    pub fn not_before(&self) -> Option<i64> {
        match self.max_age_ns.load(Ordering::Relaxed) {
            i64::MAX => None,
            age => Some(clock::now().saturating_sub(age)),
        }
    }

    /// Whether there are entries that are given up because of their age.
    pub fn has_max_age(&self) -> bool {
        self.max_age_ns.load(Ordering::Relaxed) != i64::MAX
    }

    /// Whether what is given up is kept until somebody has been told.
    pub fn keeps_discarded(&self) -> bool {
        self.keep_discarded.load(Ordering::Relaxed) != 0
    }

    /// Keeps it alive.
    pub fn share(&self) -> Option<Arc<Shared>> {
        self.this.upgrade()
    }
}

/// Runs once, when the library is loaded.
pub fn load(env: Env<'_>, _info: Term<'_>) -> bool {
    let expected = weigh::immediates_are_as_expected(env)
        && map::zero_is_as_expected(env)
        && write::integers_are_as_expected(env);
    let registered = Handle::<Shared>::register(env)
        && Handle::<SharedBroker>::register(env)
        && Handle::<Member>::register(env)
        && Handle::<SharedCell>::register(env)
        && Handle::<Staged>::register(env);
    if !expected || !registered {
        return false;
    }
    // The threads of this library run its code.
    let [pinned, other] = [(); 2].map(|()| Shared::new(String::new(), Kind::Queue, 0));
    Handle::pin_library(Arc::clone(&pinned));
    Layout::learn(env, [pinned, other].map(|one| Handle::make(env, one)));
    packed::learn(env);
    // Makes all atoms, those that serde needs among them.
    let _ = atoms::ok();
    true
}
