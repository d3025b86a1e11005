//! One live and one draining generation, and their counters.
//!
//! Locks, which may be taken in this order: `drain`, `ledger`, `live`, and then one of `awaiting`, `kept`
//! and the buffer's capacity. Writers only ever take `live` and what comes after it. Who drains holds
//! `drain` while it copies a batch out, however long that takes; what is asked meanwhile (figures, the
//! state of the drain) is answered from the `ledger`, which is never held for longer than it takes to
//! write a few numbers.
//!
//! Invariants:
//!
//! * `accepted == processed + superseded + deleted + discarded + draining entries + live entries`,
//!   whenever `ledger` and `live` are held. An entry is counted under the lock that moves it.
//! * While the buffer has a limit, the room of an entry is taken before it is written, and given back
//!   under the lock that moves it out.
//!
//! | file | one idea |
//! |---|---|
//! | `generation.rs` | what a partition is made of |
//! | `write.rs` | writing, and what is done when there is no room |
//! | `room.rs` | room for a write, and its limit |
//! | `drain.rs` | swapping, and draining batch by batch |
//! | `call.rs` | how long the processor may have a batch, and when it has returned |
//! | `runner.rs` | who drains between cycles, and how it is told |
//! | `awaited.rs` | who awaits entries, and when they are told |
//! | `figures.rs` | what is known, and what is to be reported |
//! | `end.rs` | giving all up, or leaving it to another partition |

mod awaited;
mod call;
mod drain;
mod end;
mod figures;
mod generation;
mod line;
mod queued;
mod room;
mod runner;
mod write;

use std::collections::VecDeque;
use std::sync::Arc;

use crossbeam_utils::CachePadded;

use crate::awaiting;
use crate::capacity::{Capacity, Size};
use crate::delivery::{Batch, Discarded, Piece};
use crate::kept::Kept;
use crate::segment::Retired;
use crate::stats::Reason;
use crate::sync::{lock_soon, AtomicUsize, Mutex};

use call::Call;
use generation::size_of;

pub use call::Watched;
pub use end::Legacy;
pub use generation::{First, Generation, Tally};
pub use line::{NoTurn, Served, Standings, Stood};
pub use queued::{Again, View};
pub use room::{set_limit, Room, Rows};
pub use runner::{Begun, Idle, Mode, Started, Step, Trigger};
pub use write::Open;

/// The buffer has been closed; nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed;

/// Another process drains this partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotOwner;

/// A write that was made, and what it asks for.
#[derive(Debug)]
pub struct Written<R, O> {
    /// What the write answered.
    pub result: R,
    /// Who is to be told that it is time to process, or to report.
    pub signal: Option<O>,
    /// It is time to process.
    pub due: bool,
}

/// A partition of generations `G`, drained by one owner `O` at a time.
pub struct Partition<G: Generation, O> {
    live: CachePadded<Mutex<Live<G, O>>>,
    ledger: CachePadded<Mutex<Ledger<O>>>,
    drain: Mutex<Drain<G>>,
    awaiting: awaiting::Line<O>,
    kept: Mutex<Kept<G::Arena>>,
    capacity: Arc<Capacity>,
    // `Ledger::len`, for writers. Relaxed is enough for the high-water mark, which may be late by one
    // batch; see `awaited` for those who must not be told too early.
    draining: AtomicUsize,
}

struct Live<G, O> {
    generation: G,
    // Places of the generations before this one, and all those that were swapped out.
    base: u64,
    since: u64,
    // Of the generations before this one. This one counts by itself, so a write that unwinds leaves
    // nothing uncounted.
    former: Tally,
    high_water: usize,
    closed: bool,
    // Whether room is to be taken.
    bounded: bool,
    // At how much it is time to process, who is to be told, and whether it has been.
    trigger: Size,
    notify: Option<O>,
    signaled: bool,
    // Entries dropped to make room, or instead of being written, that the ledger does not know of, and
    // whether somebody has been told of that.
    overflow: Size,
    overflow_signaled: bool,
    // When it is full, and who waits for the next generation.
    line: line::Line<G, O>,
}

struct Drain<G: Generation> {
    generation: G,
    // Places of the generations before it.
    base: u64,
    swapped_at: i64,
    // How its first entries are to be tried again.
    pieces: VecDeque<Piece>,
    retired: Retired<G::Arena>,
    // What was processed since the runner waited.
    taken: Size,
}

struct Ledger<O> {
    // Of the draining generation, those in flight included.
    len: usize,
    bytes: u64,
    oldest: Option<i64>,
    owner: Option<O>,
    // See `runner`: who waits to be woken, who is told when there is nobody, what is to start the next cycle.
    waiting: Option<O>,
    attendant: Option<O>,
    noted: Option<Trigger>,
    // What has started the cycle of a generation that was full, while nobody drains it.
    full: Option<Trigger>,
    trigger: Option<Trigger>,
    // How many have begun.
    cycles: u64,
    mode: Mode,
    in_flight: Option<Batch>,
    // `Runs` while there is none.
    call: Call,
    // The processor has failed with the batch in flight.
    failed: Option<Reason>,
    paused: bool,
    bounded: bool,
    processed: u64,
    retries: u64,
    discarded: [u64; Reason::ALL.len()],
    unreported: Vec<Discarded>,
}

impl<G: Generation, O: Copy + PartialEq> Default for Partition<G, O> {
    fn default() -> Self {
        Self::new(Arc::default())
    }
}

impl<G: Generation, O: Copy + PartialEq> Partition<G, O> {
    /// An empty partition of a buffer of this capacity.
    pub fn new(capacity: Arc<Capacity>) -> Self {
        Self {
            live: CachePadded::new(Mutex::new(Live {
                generation: G::default(),
                base: 0,
                since: 0,
                former: Tally::default(),
                high_water: 0,
                closed: false,
                bounded: false,
                trigger: Size::UNLIMITED,
                notify: None,
                signaled: false,
                overflow: Size::default(),
                overflow_signaled: false,
                line: line::Line::default(),
            })),
            ledger: CachePadded::new(Mutex::new(Ledger {
                len: 0,
                bytes: 0,
                oldest: None,
                owner: None,
                waiting: None,
                attendant: None,
                noted: None,
                full: None,
                trigger: None,
                cycles: 0,
                mode: Mode::default(),
                in_flight: None,
                call: Call::Runs,
                failed: None,
                paused: false,
                bounded: false,
                processed: 0,
                retries: 0,
                discarded: [0; Reason::ALL.len()],
                unreported: Vec::new(),
            })),
            drain: Mutex::new(Drain {
                generation: G::default(),
                base: 0,
                swapped_at: 0,
                pieces: VecDeque::new(),
                retired: Retired::default(),
                taken: Size::default(),
            }),
            awaiting: awaiting::Line::default(),
            kept: Mutex::default(),
            capacity,
            draining: AtomicUsize::new(0),
        }
    }

    /// Has `notify` be told when the live generation has `trigger` entries or bytes. Answers whether it
    /// does already: then nobody is told.
    pub fn arm(&self, notify: O, trigger: Size) -> bool {
        let mut live = self.live.lock();
        live.notify = Some(notify);
        live.trigger = trigger;
        live.overflow_signaled = false;
        live.signaled = live.is_due();
        live.signaled
    }

    /// Reads the live generation, unless the partition is closed.
    pub fn read_live<R>(&self, read: impl FnOnce(&G) -> R) -> Result<R, Closed> {
        let live = lock_soon(&self.live);
        if live.closed {
            return Err(Closed);
        }
        Ok(read(&live.generation))
    }

    /// Closes the partition: later writes are refused, earlier ones are in the live generation.
    pub fn close(&self) {
        self.live.lock().closed = true;
    }

    /// Whether it has been closed.
    pub fn is_closed(&self) -> bool {
        self.live.lock().closed
    }

    /// Entries of the live generation.
    pub fn len(&self) -> usize {
        self.live.lock().generation.len()
    }

    /// Whether the live generation holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<G: Generation, O: Copy> Live<G, O> {
    /// Takes the generation; what was done to it stays counted.
    fn take(&mut self) -> G {
        let mut taken = G::default();
        self.move_to(&mut taken);
        taken
    }

    /// The same, to where nothing is left by now.
    fn move_to(&mut self, emptied: &mut G) {
        debug_assert!(emptied.is_empty());
        self.former = self.former + self.generation.tally();
        self.base += self.generation.places().1;
        self.since = self.base;
        self.signaled = false;
        self.generation.move_to(emptied);
    }

    /// The last of the places that nothing is held at up to there.
    fn left(&self) -> u64 {
        let (left, all) = self.generation.places();
        self.base
            + if self.generation.is_empty() {
                all
            } else {
                left
            }
    }

    fn is_due(&self) -> bool {
        self.generation.len() >= self.trigger.entries
            || self.generation.bytes() >= self.trigger.bytes
    }

    /// Who is to be told now, and whether it is time to process.
    fn signal(&mut self) -> (Option<O>, bool) {
        let mut signal = None;
        let due = !self.signaled && self.is_due();
        if due {
            self.signaled = true;
            signal = self.notify;
        }
        if self.overflow.entries > 0 && !self.overflow_signaled {
            self.overflow_signaled = true;
            signal = self.notify;
        }
        (signal, due)
    }
}

impl<O: Copy + PartialEq> Ledger<O> {
    fn check(&self, owner: O) -> Result<(), NotOwner> {
        match self.owner {
            Some(other) if other != owner => Err(NotOwner),
            _ if self.call == Call::Ended => Err(NotOwner),
            _ => Ok(()),
        }
    }

    fn discard(&mut self, reason: Reason, len: usize, bytes: u64) -> Discarded {
        let discarded = Discarded { reason, len, bytes };
        self.discarded[reason as usize] += len as u64;
        self.unreported.push(discarded);
        discarded
    }
}
