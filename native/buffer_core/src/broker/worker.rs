//! A worker: whether it is free, and what it works on.

use super::load::Load;
use super::patience::{Patience, Slow};
use super::waiting::{Emptied, Entry, Stored};
use crate::sync::{AtomicBool, AtomicU8, AtomicUsize, Mutex, Ordering};
use crate::{Arena, Segment};

/// What a worker does, as far as the broker knows. Changes under the crew's lock only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// At work, or about to take.
    Running,
    /// Waits to be woken.
    Idle,
    /// Has been woken and has not taken yet.
    Woken,
    /// Takes no more messages, and may be working on its last one.
    Leaving,
    /// Has left or died.
    Gone,
}

impl State {
    fn of(number: u8) -> Self {
        match number {
            0 => State::Running,
            1 => State::Idle,
            2 => State::Woken,
            3 => State::Leaving,
            _ => State::Gone,
        }
    }
}

/// A worker of a broker.
pub struct Worker<A, P> {
    /// The process.
    pub pid: P,
    state: AtomicU8,
    // Where it became idle. Read and written under the crew's lock.
    rests_at: AtomicUsize,
    // See `crew`. Changes under the crew's lock only.
    at_work: AtomicBool,
    pub(super) task: Mutex<Task<A, P>>,
}

/// What a worker works on, and has done.
pub(super) struct Task<A, P> {
    // A message that it was sent while it was idle, and has not started.
    handed: Option<Entry<P>>,
    in_flight: Option<Flight>,
    /// What it has taken along and not started.
    pub(super) load: Load<A, P>,
    // When it was given copies of some of that.
    copied_at: i64,
    // Copies of that message and of what says whom to answer: only the last ones are needed, the others wait
    // until the segment goes.
    kept: Option<Segment<A>>,
    tally: Tally,
    // Where it looks first the next time: in turn, so that no partition is left behind.
    next: usize,
}

struct Flight {
    id: u64,
    taken_at: i64,
    asked_at: i64,
    patience: Patience,
    // Nobody waits for an answer by the worker: the caller has gone on, or has been answered.
    abandoned: bool,
    reply: Option<usize>,
}

/// What a worker has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages it is through with.
    pub done: u64,
    /// Messages that it failed with, or died with.
    pub failed: u64,
    /// For how long it worked on them, in nanoseconds.
    pub busy: i64,
}

/// How a worker's message stood when the worker was through with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// Somebody waits for the answer.
    pub wanted: bool,
    /// It has been told, or is being told, that it has waited for long.
    pub told: bool,
    /// The worker may have taken messages along.
    pub loaded: bool,
    /// For how long it has worked on this one.
    pub took: i64,
}

/// What became of a claim to answer a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// It is up to who asks, and no more to the worker.
    Won {
        /// As in [`Settled`].
        told: bool,
    },
    /// Somebody else has been told so.
    Lost,
}

/// How a message ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// As it should.
    Done,
    /// It did not.
    Failed,
}

impl<A: Arena, P: Copy> Worker<A, P> {
    pub(super) fn new(pid: P, first: usize) -> Self {
        Self {
            pid,
            state: AtomicU8::new(State::Running as u8),
            rests_at: AtomicUsize::new(0),
            at_work: AtomicBool::new(false),
            task: Mutex::new(Task {
                handed: None,
                in_flight: None,
                load: Load::default(),
                copied_at: 0,
                kept: None,
                tally: Tally::default(),
                next: first,
            }),
        }
    }

    /// What it does. The worker itself sees at least that it has been woken before the wake-up is
    /// received; others get an impression.
    pub fn state(&self) -> State {
        State::of(self.state.load(Ordering::Acquire))
    }

    pub(super) fn set(&self, state: State) {
        self.state.store(state as u8, Ordering::Release);
    }

    pub(super) fn is_at_work(&self) -> bool {
        self.at_work.load(Ordering::Relaxed)
    }

    /// Answers whether it was.
    pub(super) fn be_at_work(&self, at_work: bool) -> bool {
        let was = self.is_at_work();
        self.at_work.store(at_work, Ordering::Relaxed);
        was
    }

    pub(super) fn rests_at(&self) -> usize {
        self.rests_at.load(Ordering::Relaxed)
    }

    pub(super) fn rest_at(&self, place: usize) {
        self.rests_at.store(place, Ordering::Relaxed);
    }

    /// Reads whom to answer for the message it works on, if anybody waits for that; and since when a patient caller has
    /// waited that has not been told. Who asks tells it so, at once.
    pub fn in_flight<R>(&self, read: impl FnOnce(&A, usize) -> R) -> Option<(R, Option<i64>)> {
        let task = &mut *self.task.lock();
        let flight = task.in_flight.as_mut().filter(|flight| !flight.abandoned)?;
        let reply = flight.reply?;
        let kept = task.kept.as_ref()?;
        let since = flight.patience.tell().then_some(flight.asked_at);
        Some((read(kept.arena(), reply), since))
    }

    /// Who is to be told, if its caller is patient and has waited since then or longer; and whether one waits that is not.
    pub(super) fn tell(&self, until: i64) -> (Option<Slow<A>>, bool) {
        let task = &mut *self.task.lock();
        let (patience, since, reply) = match (&mut task.handed, &mut task.in_flight) {
            (Some(entry), _) => (
                &mut entry.patience,
                entry.at,
                entry.reply.map(|at| at as usize),
            ),
            (None, Some(flight)) if !flight.abandoned => {
                (&mut flight.patience, flight.asked_at, flight.reply)
            }
            _ => return (None, false),
        };
        if *patience != Patience::Untold || since > until {
            return (None, *patience == Patience::Untold);
        }
        *patience = Patience::Told;
        let slow = reply.zip(task.kept.as_ref());
        let slow = slow.map(|(reply, kept)| Slow::new(kept.arena(), reply, since));
        (slow, false)
    }

    /// It starts the message that was handed to it, with this id: since when that has waited. `None`: it is
    /// not to start it, since somebody has taken the message back. Without `now` it has worked on the message
    /// since that was handed to it: asking for the time takes as long as the rest.
    pub fn start(&self, id: u64, now: Option<i64>) -> Option<i64> {
        let mut task = self.task.lock();
        let entry = task.handed.as_ref().filter(|entry| entry.id == id)?;
        let (at, patience) = (entry.at, entry.patience);
        let reply = entry.reply.map(|reply| reply as usize);
        task.handed = None;
        task.fly(id, now.unwrap_or(at), reply, (patience, at));
        Some(at)
    }

    /// It starts the next of the messages that it has taken along, and is through with the one before. With the chunk that
    /// nothing is left in, and its partition, and whether that was the last one. Time is not asked for: that takes as long as all the rest.
    pub(super) fn begin(&self) -> Option<(Emptied<A, P>, bool)> {
        let mut task = self.task.lock();
        let (id, gone) = task.load.start()?;
        let taken_at = task.in_flight.as_ref().map(|flight| flight.taken_at);
        task.tally.done += u64::from(taken_at.is_some());
        let taken_at = taken_at.unwrap_or(task.copied_at);
        task.fly(id, taken_at, None, (Patience::Own, taken_at));
        Some((gone, task.load.is_empty()))
    }

    /// Whether it was no later than then that it was given copies of what it has taken along.
    pub(super) fn looked_by(&self, until: i64) -> bool {
        self.task.lock().copied_at <= until
    }

    /// The id of the message that was handed to it and that it has not started.
    pub(super) fn handed(&self) -> Option<u64> {
        self.task.lock().handed.map(|entry| entry.id)
    }

    /// Takes this message back if it was handed to it and it has not started it.
    pub(super) fn take_back(&self, id: u64) -> bool {
        let mut task = self.task.lock();
        let taken = task.handed.filter(|entry| entry.id == id).is_some();
        if taken {
            task.handed = None;
        }
        taken
    }

    /// It is through with what it works on, if there is anything.
    pub fn settle(&self, end: End, now: i64) -> bool {
        self.task.lock().settle(end, now)
    }

    /// As `settle`, for who answers if anybody still waits for that.
    pub fn settle_answered(&self, end: End, now: i64) -> Settled {
        let mut task = self.task.lock();
        let flight = task.in_flight.as_ref();
        let settled = Settled {
            wanted: flight.is_none_or(|flight| !flight.abandoned),
            told: flight.is_some_and(|flight| flight.patience == Patience::Told),
            loaded: !task.load.is_empty(),
            took: flight.map_or(0, |flight| now.saturating_sub(flight.taken_at)),
        };
        task.settle(end, now);
        settled
    }

    /// Whether the answer to this message is up to who asks; `None` if the worker does not work on it.
    pub(super) fn claim(&self, id: u64) -> Option<Claim> {
        let mut task = self.task.lock();
        let flight = task.in_flight.as_mut().filter(|flight| flight.id == id)?;
        let told = flight.patience == Patience::Told;
        Some(match std::mem::replace(&mut flight.abandoned, true) {
            false => Claim::Won { told },
            true => Claim::Lost,
        })
    }

    /// What it has done, and since when it has worked on what it works on.
    pub fn tally(&self) -> (Tally, Option<i64>) {
        let task = self.task.lock();
        (
            task.tally,
            task.in_flight.as_ref().map(|flight| flight.taken_at),
        )
    }
}

impl<A: Arena, P: Copy> Task<A, P> {
    /// When that much lies there, the copies that are not needed any more are let go.
    const KEPT_BYTES: u64 = 16 * 1024;
    /// What a copy of a reply weighs.
    const REPLY: u32 = 64;

    pub(super) fn settle(&mut self, end: End, now: i64) -> bool {
        let Some(flight) = self.in_flight.take() else {
            return false;
        };
        self.tally.busy += now.saturating_sub(flight.taken_at).max(0);
        match end {
            End::Done => self.tally.done += 1,
            End::Failed => self.tally.failed += 1,
        }
        true
    }

    /// It starts a message that was waiting. Answers memory that is to be freed.
    pub(super) fn start(
        &mut self,
        entry: &Entry<P>,
        now: i64,
        reply: Option<(&A, u32)>,
    ) -> Option<Box<Segment<A>>> {
        let old = reply.and_then(|_| self.make_room());
        let reply = reply.map(|(arena, index)| {
            let kept = self.kept.get_or_insert_with(|| Segment::open(now));
            kept.push(Self::REPLY, |own| own.copy_from(arena, index as usize));
            kept.stored() - 1
        });
        self.fly(entry.id, now, reply, (entry.patience, entry.at));
        old
    }

    /// A message is handed to it. Answers memory that is to be freed.
    pub(super) fn hand(
        &mut self,
        mut entry: Entry<P>,
        store: impl FnOnce(&mut Segment<A>) -> Stored,
    ) -> Option<Box<Segment<A>>> {
        let old = self.make_room();
        let kept = self.kept.get_or_insert_with(|| Segment::open(entry.at));
        (entry.message, entry.reply) = store(kept);
        self.handed = Some(entry);
        old
    }

    /// The message that was handed to it, which it has not started.
    pub(super) fn handed(&self) -> Option<(&Entry<P>, &A)> {
        Some((self.handed.as_ref()?, self.kept.as_ref()?.arena()))
    }

    /// It starts the message that was handed to it.
    pub(super) fn start_handed(&mut self, entry: &Entry<P>, now: i64) {
        self.handed = None;
        let reply = entry.reply.map(|reply| reply as usize);
        self.fly(entry.id, now, reply, (entry.patience, entry.at));
    }

    /// Gives the message of this id back that was handed to it, in a segment of its own. Its caller is to be told, if it is
    /// patient.
    #[expect(clippy::type_complexity, reason = "said once")]
    pub(super) fn hand_back(
        &mut self,
        id: u64,
    ) -> Option<(Entry<P>, Segment<A>, Option<Box<Slow<A>>>)> {
        let mut entry = self.handed.take_if(|entry| entry.id == id)?;
        let kept = self.kept.as_ref()?.arena();
        let mut own = Segment::open(entry.at);
        own.push(entry.weight, |own: &mut A| {
            own.copy_from(kept, entry.message as usize)
        });
        let mut slow = None;
        if let Some(reply) = entry.reply {
            own.push(Self::REPLY, |own| own.copy_from(kept, reply as usize));
            if entry.patience.tell() {
                slow = Some(Box::new(Slow::new(kept, reply as usize, entry.at)));
            }
        }
        (entry.message, entry.reply) = (0, entry.reply.map(|_| 1));
        entry.alone = true;
        Some((entry, own, slow))
    }

    fn make_room(&mut self) -> Option<Box<Segment<A>>> {
        let full = |kept: &mut Segment<A>| kept.is_full() || kept.bytes() >= Self::KEPT_BYTES;
        self.kept.take_if(full).map(Box::new)
    }

    fn fly(&mut self, id: u64, now: i64, reply: Option<usize>, asked: (Patience, i64)) {
        let (patience, asked_at) = asked;
        self.in_flight = Some(Flight {
            id,
            taken_at: now,
            asked_at,
            patience,
            abandoned: false,
            reply,
        });
    }

    /// The message that it works on, if somebody waits for the answer; whether its caller has been told that this takes
    /// long, or is to be told now; and then since when it has waited, and where that is which says whom to answer.
    #[expect(clippy::type_complexity, reason = "said once")]
    pub(super) fn unanswered(&mut self) -> Option<(u64, bool, Option<(i64, &A, usize)>)> {
        let flight = self.in_flight.as_mut().filter(|flight| !flight.abandoned)?;
        let tell = flight.patience.tell();
        let told = flight.patience == Patience::Told;
        let reply = flight.reply.filter(|_| tell).zip(self.kept.as_ref());
        let slow = reply.map(|(reply, kept)| (flight.asked_at, kept.arena(), reply));
        Some((flight.id, told, slow))
    }

    /// At this moment it gets copies of messages that it has taken along.
    pub(super) fn copied_at(&mut self, now: i64) {
        self.copied_at = now;
    }

    pub(super) fn turn(&mut self) -> usize {
        self.next = self.next.wrapping_add(1);
        self.next
    }

    pub(super) fn clear(&mut self) -> Option<Segment<A>> {
        self.kept.take()
    }

    pub(super) fn tally(&self) -> Tally {
        self.tally
    }

    pub(super) fn works(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Whether it has a message, started or not.
    pub(super) fn has_any(&self) -> bool {
        self.works() || self.handed.is_some()
    }
}

impl std::ops::Add for Tally {
    type Output = Tally;

    fn add(self, other: Tally) -> Tally {
        Tally {
            done: self.done + other.done,
            failed: self.failed + other.failed,
            busy: self.busy + other.busy,
        }
    }
}
