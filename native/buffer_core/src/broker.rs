//! A broker: messages that wait for workers, and workers that wait for messages.
//!
//! A message waits in one of several partitions, each with a lock of its own. Workers belong to all of
//! them: one that is free looks into all, beginning with another one each time. A message is
//! *started* when a worker takes it, in the worker's own call; an idle worker is only woken. So a
//! worker that dies has started one message or none, and all others are where they were.
//!
//! # Invariants
//!
//! 1. A message is taken once, or cancelled, or dropped, or it waits.
//! 2. *No message waits beside an idle worker*: when no call is under way, and messages wait, then no
//!    worker is idle, or one has been woken and has not taken yet.
//! 3. `accepted = done + failed + in flight + cancelled + dropped + waiting`.
//! 4. What is dropped and has somebody to be told stays in [`dropped`] until that was reported.
//!
//! # Why no wake-up is lost
//!
//! A worker that finds nothing makes itself idle under the crew's lock, and *then* looks into every
//! partition once more, under the partitions' locks. A message is put in under its partition's lock, and
//! *then* its sender looks whether there is somebody to wake. If the worker's second look came before
//! the message, the lock that both have held makes the sender see the worker as idle; if it came
//! after, the worker sees the message. `wakeable` may be read without the crew's lock for that reason:
//! whatever the worker wrote before it released the partition's lock is seen by who takes it next.
//!
//! A sender wakes nobody while a woken worker is on its way. That worker ceases to be on its way under
//! the crew's lock before it looks into any partition; so by the same argument it sees the message, or
//! the sender sees that it is on its way no more. Once it has taken, it looks into all partitions
//! and wakes the next one if anything is left ([`pass_on`](Broker::pass_on)). If it dies instead, or has
//! to do something else, who notices does the same in its place.
//!
//! # Locks
//!
//! In the order in which they may be taken: a worker's task, one partition, then either `crew` or
//! `dropped`. Nobody holds two partitions, and `crew` and `dropped` are never held together. Under a lock
//! nothing is sent and no chunk is freed; both are left to the caller in [`After`].

pub mod codel;
pub mod config;
mod crew;
pub mod dropped;
mod partition;
mod take;
pub mod waiting;
pub mod worker;

use std::sync::Arc;

use crossbeam_utils::CachePadded;

use crate::sync::{AtomicBool, AtomicI64, Mutex, Ordering};
use crate::{Arena, Retired, Segment};
use config::Config;
use crew::Crew;
use dropped::{Drop, Dropped, Drops};
use partition::{Effects, Partition};
use waiting::{Chunk, Entry, Stored};
use worker::{End, Tally, Worker};

pub use partition::Counts;
pub use take::Taken;

/// Messages in arenas `A`, for workers whose processes are `P`.
pub struct Broker<A, P> {
    partitions: Vec<CachePadded<Mutex<Partition<A, P>>>>,
    crew: Mutex<Crew<A, P>>,
    // What `Crew::is_wakeable` says. Relaxed is enough: see above.
    wakeable: CachePadded<AtomicBool>,
    dropped: Mutex<Dropped<A>>,
    // When the reporter looks for messages that have waited for too long, at the latest; `i64::MAX` for
    // never.
    armed: AtomicI64,
    // Somebody waits for room.
    room_wanted: AtomicBool,
}

/// What comes with a message.
#[derive(Debug, Clone, Copy)]
pub struct Ask<P> {
    /// Whose death removes it.
    pub caller: Option<P>,
    /// The moment, in nanoseconds.
    pub now: i64,
    /// A deadline of its own; `i64::MAX` for none.
    pub due: i64,
    /// What it weighs.
    pub weight: u32,
    /// It is large: copy it before the lock is taken, into a segment of its own.
    pub alone: bool,
    /// Only if a worker is idle.
    pub idle_only: bool,
}

/// What became of a message that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// It waits, under this id.
    Accepted(u64),
    /// There is no room.
    Full,
    /// No worker is idle.
    NoWorker,
    /// The broker has been closed.
    Closed,
}

/// What the caller has to do, now that no lock is held.
pub struct After<A, P> {
    /// To be woken. If that fails: [`Broker::unreachable`].
    pub wake: Option<Arc<Worker<A, P>>>,
    /// The reporter has something to look after.
    pub look: bool,
    /// Somebody is to be told that its message was dropped, and more are than should be. Who did
    /// this waits until they have been told.
    pub crowded: bool,
    /// To be freed.
    pub freed: Vec<Box<Chunk<A, P>>>,
}

impl<A, P> From<Effects<A, P>> for After<A, P> {
    fn from(effects: Effects<A, P>) -> Self {
        Self {
            wake: None,
            look: effects.look,
            crowded: false,
            freed: effects.freed,
        }
    }
}

/// How things stand.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// What happened to messages.
    pub counts: Counts,
    /// What workers did, those that are gone included.
    pub tally: Tally,
    /// How many wait.
    pub waiting: usize,
    /// What those weigh.
    pub bytes: u64,
    /// When the oldest of them came.
    pub oldest: Option<i64>,
    /// How many workers are idle.
    pub idle: usize,
}

/// How many are dropped under one hold of a lock.
const DROPS: usize = 32;

impl<A: Arena, P: Copy + PartialEq> Broker<A, P> {
    /// So many dropped messages may wait to be reported before who causes more is asked to wait.
    pub const CROWDED: usize = 1_024;

    /// A broker of so many partitions, at least one.
    pub fn new(partitions: usize, config: &Config) -> Self {
        let count = partitions.max(1);
        let partition = |index| Partition::new(config.share(index, count));
        Self {
            partitions: (0..count)
                .map(|index| CachePadded::new(Mutex::new(partition(index))))
                .collect(),
            crew: Mutex::new(Crew::new(config.workers)),
            wakeable: CachePadded::new(AtomicBool::new(false)),
            dropped: Mutex::new(Dropped::default()),
            armed: AtomicI64::new(i64::MAX),
            room_wanted: AtomicBool::new(false),
        }
    }

    /// How many partitions it has.
    pub fn partitions(&self) -> usize {
        self.partitions.len()
    }

    /// Changes how messages wait, those that wait already too. The reporter has to look afterwards.
    pub fn configure(&self, config: &Config, now: i64) {
        for (index, partition) in self.partitions.iter().enumerate() {
            let mut partition = partition.lock();
            partition.config = config.share(index, self.partitions.len());
            let due = partition.next_due(now);
            drop(partition);
            due.map(|due| self.arm(due));
        }
        self.crew.lock().order = config.workers;
    }

    /// Refuses messages from now on.
    pub fn close(&self) {
        for partition in &self.partitions {
            partition.lock().closed = true;
        }
    }

    /// Takes messages again.
    pub fn open(&self) {
        for partition in &self.partitions {
            partition.lock().closed = false;
        }
    }

    /// Sends a message. `home` is the partition that is tried first; `store` puts its terms into a
    /// segment and says where.
    pub fn ask(
        &self,
        home: usize,
        ask: &Ask<P>,
        store: impl FnOnce(&mut Segment<A>) -> Stored,
    ) -> (Asked, After<A, P>) {
        let mut effects = Effects::default();
        let mut reserved = None;
        if ask.idle_only {
            // Its own worker, so that two such messages don't count on the same.
            reserved = self.wake(true);
            if reserved.is_none() {
                return (Asked::NoWorker, effects.into());
            }
        }
        let mut staged = None;
        let mut store = Some(store);
        if let Some(store) = store.take_if(|_| ask.alone) {
            let mut segment = Segment::open(ask.now);
            let stored = store(&mut segment);
            staged = Some((segment, stored));
        }
        let asked = self.put(home, ask, &mut store, &mut staged, &mut effects);
        let crowded = effects.dropped && self.dropped.lock().len() >= Self::CROWDED;
        let mut after = After::from(effects);
        after.crowded = crowded;
        after.wake = match (asked, reserved) {
            (Asked::Accepted(_), None) => self.wake(false),
            // It has to look whether it is needed, as it would if it had found nothing.
            (_, reserved) => reserved,
        };
        (asked, after)
    }

    fn put(
        &self,
        home: usize,
        ask: &Ask<P>,
        store: &mut Option<impl FnOnce(&mut Segment<A>) -> Stored>,
        staged: &mut Option<(Segment<A>, Stored)>,
        effects: &mut Effects<A, P>,
    ) -> Asked {
        let count = self.partitions.len();
        for index in around(home, count) {
            let mut partition = self.partitions[index].lock();
            if partition.closed {
                return Asked::Closed;
            }
            if !partition.has_room() && !partition.make_room(ask.now, &self.dropped, effects) {
                continue;
            }
            let id = partition.next_id(index, count);
            let mut entry = Entry {
                id,
                at: ask.now,
                due: ask.due,
                caller: ask.caller,
                message: 0,
                reply: None,
                weight: ask.weight,
                alone: ask.alone,
            };
            if let Some((segment, stored)) = staged.take() {
                (entry.message, entry.reply) = stored;
                partition.waiting.push_stored(entry, segment);
            } else if let Some(store) = store.take() {
                partition.waiting.push(entry, store);
            }
            partition.counts.accepted += 1;
            let due = partition.next_due(ask.now);
            drop(partition);
            effects.look |= due.is_some_and(|due| self.arm(due));
            return Asked::Accepted(id);
        }
        self.partitions[home % count].lock().counts.refused += 1;
        Asked::Full
    }

    /// Whether the reporter has to look earlier than it meant to.
    fn arm(&self, due: i64) -> bool {
        due < self.armed.load(Ordering::Relaxed)
            && due < self.armed.fetch_min(due, Ordering::Relaxed)
    }

    /// Takes a message back that waits.
    pub fn cancel(&self, id: u64) -> (bool, After<A, P>) {
        let mut effects = Effects::default();
        let mut partition = self.partitions[self.partition_of(id)].lock();
        let place = partition.waiting.find(id);
        let entry = place.and_then(|place| partition.remove(place, &mut effects));
        partition.counts.cancelled += u64::from(entry.is_some());
        drop(partition);
        self.tell_of_room(entry.is_some(), &mut effects);
        (entry.is_some(), effects.into())
    }

    fn partition_of(&self, id: u64) -> usize {
        (id % self.partitions.len() as u64) as usize
    }

    /// A new worker. It is not idle.
    pub fn join(&self, pid: P) -> Arc<Worker<A, P>> {
        self.crew.lock().join(pid, self.partitions.len())
    }

    /// The worker is not idle from now on, until it has found nothing again. Somebody else is to be woken
    /// if it had been.
    pub fn withdraw(&self, worker: &Worker<A, P>) -> Option<Arc<Worker<A, P>>> {
        self.rise(worker).then(|| self.pass_on()).flatten()
    }

    /// The worker takes no more messages; it goes on with what it has. Somebody else is to be woken if it
    /// had been.
    pub fn dismiss(&self, worker: &Worker<A, P>) -> Option<Arc<Worker<A, P>>> {
        let mut crew = self.crew.lock();
        let woken = crew.dismiss(worker);
        self.publish(&crew);
        drop(crew);
        woken.then(|| self.pass_on()).flatten()
    }

    /// A worker that was to be woken can't be reached: it is dead. Somebody else is to be woken.
    pub fn unreachable(&self, worker: &Worker<A, P>) -> Option<Arc<Worker<A, P>>> {
        self.rise(worker);
        self.pass_on()
    }

    /// The worker is none any more. What it has in flight has failed.
    pub fn leave(&self, worker: &Worker<A, P>, now: i64) -> Option<Arc<Worker<A, P>>> {
        let mut task = worker.task.lock();
        task.settle(End::Failed, now);
        let kept = task.clear();
        let mut crew = self.crew.lock();
        if crew.leave(worker) {
            crew.former = crew.former + task.tally();
        }
        self.publish(&crew);
        drop(crew);
        drop(task);
        drop(kept);
        self.pass_on()
    }

    /// The workers that are this process.
    pub fn workers_of(&self, pid: P) -> Vec<Arc<Worker<A, P>>> {
        self.crew.lock().of(pid)
    }

    /// All workers.
    pub fn workers(&self) -> Vec<Arc<Worker<A, P>>> {
        self.crew.lock().workers.clone()
    }

    /// Who is to be woken if messages wait.
    pub fn pass_on(&self) -> Option<Arc<Worker<A, P>>> {
        if self.any_waiting() {
            self.wake(false)
        } else {
            None
        }
    }

    fn any_waiting(&self) -> bool {
        let mut partitions = self.partitions.iter();
        partitions.any(|partition| !partition.lock().waiting.is_empty())
    }

    fn wake(&self, urgent: bool) -> Option<Arc<Worker<A, P>>> {
        if !urgent && !self.wakeable.load(Ordering::Relaxed) {
            return None;
        }
        let mut crew = self.crew.lock();
        let worker = crew.wake(urgent);
        self.publish(&crew);
        worker
    }

    fn rise(&self, worker: &Worker<A, P>) -> bool {
        let mut crew = self.crew.lock();
        let woken = crew.rise(worker);
        self.publish(&crew);
        woken
    }

    fn rest(&self, worker: &Arc<Worker<A, P>>) -> bool {
        let mut crew = self.crew.lock();
        let rests = crew.rest(worker);
        self.publish(&crew);
        rests
    }

    // Under the crew's lock, so that the last one to write has the last word.
    fn publish(&self, crew: &Crew<A, P>) {
        self.wakeable.store(crew.is_wakeable(), Ordering::Relaxed);
    }

    /// When the reporter has to call [`expire`](Self::expire), at the latest. It is told to look when this
    /// gets earlier.
    ///
    /// It stays until then, also when the message that it is for has left long before: otherwise each
    /// of many messages that are taken at once would have the reporter look.
    pub fn armed(&self) -> Option<i64> {
        Some(self.armed.load(Ordering::Relaxed)).filter(|&at| at != i64::MAX)
    }

    /// Drops what has waited for too long, and sets [`armed`](Self::armed) anew: to a moment that is over
    /// if there was more than is dropped in one go.
    pub fn expire(&self, now: i64) -> After<A, P> {
        let mut effects = Effects::default();
        // Before any partition is looked into: who comes later and sees that arms again.
        self.armed.store(i64::MAX, Ordering::Relaxed);
        let mut next: Option<i64> = None;
        for partition in &self.partitions {
            let mut partition = partition.lock();
            partition.expire(now, DROPS * 8, &self.dropped, &mut effects);
            let due = partition.next_due(now);
            next = next.into_iter().chain(due).min();
        }
        if let Some(due) = next {
            self.armed.fetch_min(due, Ordering::Relaxed);
        }
        self.tell_of_room(true, &mut effects);
        effects.into()
    }

    /// Drops messages of dead callers: looks at up to `count` of those in a partition whose id is
    /// greater than `after`. Answers the last one's id if there are more.
    pub fn sweep(
        &self,
        partition: usize,
        after: u64,
        count: usize,
        alive: impl Fn(P) -> bool,
    ) -> (Option<u64>, After<A, P>) {
        let mut effects = Effects::default();
        let Some(partition) = self.partitions.get(partition) else {
            return (None, effects.into());
        };
        let mut partition = partition.lock();
        if partition.waiting.called() == 0 {
            return (None, effects.into());
        }
        let callers = partition.waiting.callers(after + 1, count);
        let more = callers.last().map(|(id, _)| *id);
        for &(id, caller) in &callers {
            if caller.is_some_and(|caller| !alive(caller)) {
                if let Some(place) = partition.waiting.find(id) {
                    partition.drop_at(place, Drop::CallerDown, &self.dropped, &mut effects);
                }
            }
        }
        drop(partition);
        self.tell_of_room(true, &mut effects);
        (more.filter(|_| callers.len() == count), effects.into())
    }

    /// Reads up to `count` of the answers that are to be sent, which stay, and how many messages were
    /// dropped since the last report.
    pub fn dropped(&self, count: usize, read: impl FnMut(&A, usize, Drop)) -> Drops {
        self.dropped.lock().peek(count, read)
    }

    /// So many answers have been sent, and so many drops been counted.
    pub fn reported(&self, count: usize, counts: &Drops) -> Retired<A> {
        self.dropped.lock().reported(count, counts)
    }

    /// How many more messages would be taken now. As long as it is none, who looks is told of room.
    pub fn want_room(&self) -> usize {
        self.room_wanted.store(true, Ordering::Relaxed);
        let room = self.partitions.iter().map(|partition| {
            let partition = partition.lock();
            match partition.closed {
                true => usize::MAX,
                false => partition.config.max.saturating_sub(partition.waiting.len()),
            }
        });
        room.fold(0, usize::saturating_add)
    }

    // Seen by the same argument as `wakeable`: it is set before the partitions are looked into.
    fn tell_of_room(&self, left: bool, effects: &mut Effects<A, P>) {
        if left && self.room_wanted.load(Ordering::Relaxed) {
            effects.look |= self.room_wanted.swap(false, Ordering::Relaxed);
        }
    }

    /// Hands the oldest messages back, up to `count`, up to `bytes` but at least one.
    pub fn take_rest<R>(
        &self,
        count: usize,
        bytes: u64,
        mut read: impl FnMut(&A, &Entry<P>) -> R,
    ) -> (Vec<R>, After<A, P>) {
        let mut effects = Effects::default();
        let (mut rest, mut weight) = (Vec::new(), 0);
        for partition in &self.partitions {
            let mut partition = partition.lock();
            while let Some(place) = partition.waiting.front() {
                let full = rest.len() >= count || weight >= bytes;
                let Some((entry, arena)) = partition.waiting.get(place).filter(|_| !full) else {
                    break;
                };
                weight += u64::from(entry.weight);
                rest.push(read(arena, entry));
                partition.counts.dropped[Drop::Shutdown as usize] += 1;
                partition.remove(place, &mut effects);
            }
        }
        self.tell_of_room(true, &mut effects);
        (rest, effects.into())
    }

    /// How many messages wait.
    pub fn waiting(&self) -> usize {
        let partitions = self.partitions.iter();
        partitions
            .map(|partition| partition.lock().waiting.len())
            .sum()
    }

    /// How many workers are idle.
    pub fn idle(&self) -> usize {
        self.crew.lock().idle()
    }

    /// How things stand. Workers first: so no more messages have ended than have started.
    pub fn figures(&self) -> Figures {
        let mut figures = Figures::default();
        let (workers, former, idle) = {
            let crew = self.crew.lock();
            (crew.workers.clone(), crew.former, crew.idle())
        };
        (figures.tally, figures.idle) = (former, idle);
        for worker in workers {
            figures.tally = figures.tally + worker.tally().0;
        }
        for partition in &self.partitions {
            let partition = partition.lock();
            let oldest = partition.waiting.front();
            let oldest = oldest.and_then(|place| partition.waiting.get(place));
            figures.counts.add(&partition.counts);
            figures.waiting += partition.waiting.len();
            figures.bytes += partition.waiting.bytes();
            figures.oldest = figures
                .oldest
                .into_iter()
                .chain(oldest.map(|(entry, _)| entry.at))
                .min();
        }
        figures
    }

    /// How many workers have a message in flight. O(workers).
    pub fn in_flight(&self) -> usize {
        let workers = self.workers();
        workers
            .iter()
            .filter(|worker| worker.task.lock().works())
            .count()
    }
}

/// All partitions, beginning with this one.
fn around(home: usize, count: usize) -> impl Iterator<Item = usize> {
    let home = home % count;
    (home..count).chain(0..home)
}
