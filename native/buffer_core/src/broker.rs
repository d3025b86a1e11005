//! A broker: messages that wait for workers, and workers that wait for messages.
//!
//! A message waits in one of several partitions, each with a lock of its own. Workers belong to all of
//! them: one that is free looks into all, beginning with another one each time. A message is
//! *started* when a worker takes it, in the worker's own call; an idle worker is only woken. Or it is
//! *handed over* to an idle worker, past its partition, and started in that worker's own call; until
//! then it is with the worker's [`Task`](worker), and goes back to its partition if the worker withdraws,
//! is dismissed or dies. Or a worker *takes along* a chunk of [loose](Ask::loose) messages, and *begins* each of
//! them; those that it has not begun go back in the same cases, and when another worker finds nothing else
//! (`broker/load.rs`). So a worker that dies has started one message or none, and all others wait.
//!
//! Partitions have an order each, or one order for all ([`Broker::in_lanes`]). Then a worker takes the oldest message
//! there is. When a partition's oldest came is readable without its lock (`broker/lane.rs`), and a worker looks twice: before, to
//! know which partition to lock, and with the lock held. Whatever was put in before the message it has found there
//! has been seen by its sender, or by who told that one; so what the worker reads now is as old at least.
//!
//! # Invariants
//!
//! 1. A message is started once, or cancelled, or dropped, or it waits, or it has been handed over. What was taken along
//!    and not begun waits.
//! 2. *No message waits beside an idle worker*: when no call is under way, and messages wait, then no
//!    worker is idle, or one has been woken and has not taken yet; or only one is to be at work at a time, and it is.
//! 3. `accepted = done + failed + in flight + cancelled + dropped + waiting`. What has been handed over is in
//!    flight; it is so no more if it goes back.
//! 4. What is dropped and has somebody to be told stays in [`dropped`] until that was reported.
//!
//! # Why no wake-up is lost
//!
//! A worker that finds nothing makes itself idle, and *then* looks at every partition once more, without its lock
//! (`broker/lane.rs`). A message that is the first one of its partition is shown there, and *then* its sender looks
//! whether there is somebody to wake. Between the two each of them has a fence, so that at least one sees what the
//! other has written: the worker sees the message, or the sender sees the worker as idle. `wakeable` may be read
//! without the crew's lock for that reason. A message that is not the first one of its partition needs no fence: as
//! long as there is one before it, whoever looks sees that something waits; and who has taken that one held the
//! partition's lock before the sender did, so that the sender sees all that was written before.
//!
//! A sender wakes nobody while a woken worker is on its way. That worker ceases to be on its way under
//! the crew's lock before it looks at any partition; so by the same argument it sees the message, or
//! the sender sees that it is on its way no more. Nor does it if only one is to be at work at a time
//! ([`Broker::work_alone`]): that worker is not at work any more before it looks for the second time. Once it has taken, it looks into all partitions
//! and wakes the next one if anything is left ([`pass_on`](Broker::pass_on)), with itself too. If it dies instead, or has
//! to do something else, who notices does the same in its place.
//!
//! What is taken along leaves a partition under its lock, and `loads` is raised before it is shown that the partition
//! is empty. So an idle worker that finds it so sees that somebody has a load. It has that put back, and takes from
//! there; who puts back sees to it that somebody is woken, as a sender does.
//! A message that somebody waits for is started after all older ones: whoever finds it has what others have taken along put back
//! first, and it is not handed over beside that.
//!
//! # Files
//!
//! | file | one idea |
//! |---|---|
//! | `ask.rs` | the caller's side: sending a message, and taking it back |
//! | `loose.rs` | the short way for messages that nobody waits for |
//! | `take.rs` | the worker's side: taking the next message, or several |
//! | `worker.rs`, `load.rs` | what a worker has: a message, or some that it has taken along |
//! | `roster.rs` | who works for it |
//! | `crew.rs` | which workers are idle, and who is woken |
//! | `gather.rs` | when only one of them is to be at work |
//! | `company.rs` | whether they get into each other's way |
//! | `lane.rs`, `partition.rs`, `waiting.rs` | where messages wait |
//! | `entries.rs` | what is known of each |
//! | `config.rs`, `codel.rs` | for how many, and for how long |
//! | `dropped.rs`, `deferred.rs` | what somebody is to be told of; what is to be answered later |
//! | `patience.rs` | callers that wait with no timer |
//! | `figures.rs` | how things stand |
//! | `place.rs` | which thread a call is on |
//!
//! # Locks
//!
//! In the order in which they may be taken: one partition, `crew`, a worker's task, then `dropped`, `deferred`, or a
//! partition's spare chunk. Nobody holds two partitions or two tasks. Under a lock nothing is sent and no chunk is freed; both are left to the
//! caller in [`After`].
//!
//! A message changes between a partition and a task under both of their locks. So it is never in neither, but
//! who looks into one after the other may miss one that goes back meanwhile: those are counted, and whoever sees that
//! some have gone back looks again.

mod ask;
pub mod codel;
pub mod company;
pub mod config;
mod crew;
mod deferred;
pub mod dropped;
mod entries;
mod figures;
mod gather;
mod lane;
mod load;
mod loose;
mod partition;
pub mod patience;
mod place;
mod roster;
mod take;
pub mod waiting;
pub mod worker;

use std::sync::Arc;

use crossbeam_utils::CachePadded;

use crate::sync::{fence, AtomicBool, AtomicI64, AtomicUsize, Mutex, Ordering};
use crate::{Arena, Retired, Segment};
use config::Config;
use crew::Crew;
use deferred::Deferred;
use dropped::{Drop, Dropped, Drops};
use lane::Lane;
use partition::{Effects, Partition};
use patience::Slow;
use waiting::{Chunk, Entry};
use worker::{Claim, End, Worker};

pub use ask::{Abandoned, Ask, Asked, Handed};
pub use figures::Figures;
pub use loose::Loose;
pub use partition::Counts;
pub use take::{Rested, Taken};

/// Messages in arenas `A`, for workers whose processes are `P`.
pub struct Broker<A, P> {
    partitions: Vec<Lane<A, P>>,
    // Messages are taken in the order in which they came, whichever partition they wait in.
    ordered: bool,
    crew: Mutex<Crew<A, P>>,
    // What `Crew::is_wakeable` says. Relaxed is enough: see above.
    wakeable: CachePadded<AtomicBool>,
    // What `Crew::is_free` says. It may be wrong: then a message waits that could have been handed over.
    free: CachePadded<AtomicBool>,
    // What `Crew` says of that, and whether it is for a while only. They hardly ever change.
    alone: AtomicBool,
    gathered: AtomicBool,
    crowded: AtomicBool,
    // How many workers have taken messages along that they have not started.
    loads: CachePadded<AtomicUsize>,
    // Partitions control the delay of messages, and are told when nothing waits.
    controls_delay: AtomicBool,
    // How many times some of those have come back.
    returns: AtomicUsize,
    dropped: Mutex<Dropped<A>>,
    deferred: Mutex<Deferred<P>>,
    // When the reporter looks for messages that have waited for too long, at the latest; `i64::MAX` for
    // never.
    armed: AtomicI64,
    // Somebody waits for room.
    room_wanted: AtomicBool,
    // Who looks after patient callers has been called, and has not looked since.
    patient: CachePadded<AtomicBool>,
}

/// What the caller has to do, now that no lock is held.
pub struct After<A, P> {
    /// To be woken. If that fails: [`Broker::unreachable`].
    pub wake: Option<Arc<Worker<A, P>>>,
    /// To be sent the message. If that fails: [`Broker::unreachable`].
    pub handed: Option<Arc<Worker<A, P>>>,
    /// The reporter has something to look after.
    pub look: bool,
    /// Somebody is to be told that its message was dropped, and more are than should be. Who did
    /// this waits until they have been told.
    pub crowded: bool,
    /// To be freed.
    pub freed: Vec<Box<Chunk<A, P>>>,
    /// To be dropped.
    pub kept: Option<Box<Segment<A>>>,
    /// Who looks after patient callers is to be called: there is one.
    pub patient: bool,
    /// A caller to be told that it has waited for long.
    pub slow: Option<Box<Slow<A>>>,
}

impl<A, P> Default for After<A, P> {
    fn default() -> Self {
        Effects::default().into()
    }
}

impl<A, P> From<Effects<A, P>> for After<A, P> {
    fn from(effects: Effects<A, P>) -> Self {
        Self {
            wake: None,
            handed: None,
            look: effects.look,
            crowded: false,
            freed: effects.freed,
            kept: effects.kept,
            patient: effects.patient,
            slow: effects.slow,
        }
    }
}

/// How many are dropped under one hold of a lock.
const DROPS: usize = 32;

impl<A: Arena, P: Copy + Ord> Broker<A, P> {
    /// So many dropped messages may wait to be reported before who causes more is asked to wait.
    pub const CROWDED: usize = 1_024;

    /// A broker of so many partitions, at least one.
    pub fn new(partitions: usize, config: &Config) -> Self {
        Self::open_with(partitions, false, config)
    }

    /// One whose partitions have one order, so that they are one to everybody but to those who send at the same
    /// time. For messages without a bound that are taken from the front: a bound is still split.
    pub fn in_lanes(lanes: usize, config: &Config) -> Self {
        Self::open_with(lanes, true, config)
    }

    fn open_with(partitions: usize, ordered: bool, config: &Config) -> Self {
        let count = partitions.max(1);
        let partition = |index| Partition::new(config.share(index, count));
        Self {
            partitions: (0..count)
                .map(|index| Lane::new(partition(index)))
                .collect(),
            ordered,
            crew: Mutex::new(Crew::new(config.workers)),
            wakeable: CachePadded::new(AtomicBool::new(false)),
            free: CachePadded::new(AtomicBool::new(false)),
            alone: AtomicBool::new(false),
            gathered: AtomicBool::new(false),
            crowded: AtomicBool::new(false),
            loads: CachePadded::new(AtomicUsize::new(0)),
            controls_delay: AtomicBool::new(config.codel.is_some()),
            returns: AtomicUsize::new(0),
            dropped: Mutex::new(Dropped::default()),
            deferred: Mutex::new(Deferred::default()),
            armed: AtomicI64::new(i64::MAX),
            room_wanted: AtomicBool::new(false),
            patient: CachePadded::new(AtomicBool::new(false)),
        }
    }

    /// How many partitions it has.
    pub fn partitions(&self) -> usize {
        self.partitions.len()
    }

    /// Whether they have one order.
    pub fn is_ordered(&self) -> bool {
        self.ordered
    }

    /// Changes how messages wait, those that wait already too. The reporter has to look afterwards.
    pub fn configure(&self, config: &Config, now: i64) {
        let controls_delay = config.codel.is_some();
        self.controls_delay.store(controls_delay, Ordering::Relaxed);
        for (index, partition) in self.partitions.iter().enumerate() {
            let mut partition = partition.lock();
            partition.config = config.share(index, self.partitions.len());
            let due = partition.next_due(now);
            drop(partition);
            due.map(|due| self.arm(due));
        }
        self.crew.lock().order = config.workers;
    }

    /// If `alone`, only one worker is woken, or handed a message, at a time, and it takes what waits before another
    /// one does. Each tells by [`withdraw`](Self::withdraw), also when it is not idle, that it is about to do something
    /// else. To be changed while there is no worker.
    pub fn work_alone(&self, alone: bool) {
        let mut crew = self.crew.lock();
        crew.alone = alone;
        self.gathered.store(false, Ordering::Relaxed);
        self.publish(&crew);
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
            let mut partition = partition.lock();
            (partition.closed, partition.over) = (false, false);
        }
    }

    /// A message that was handed to this worker, and that it has not started, waits again. Its id.
    fn hand_back(&self, worker: &Worker<A, P>, effects: &mut Effects<A, P>) -> Option<u64> {
        let id = worker.handed()?;
        let mut partition = self.partitions[self.partition_of(id)].lock();
        let (entry, own, slow) = worker.task.lock().hand_back(id)?;
        let now = entry.at;
        effects.slow = slow;
        partition.put_back((entry, own), &self.dropped, effects);
        let due = partition.next_due(now);
        drop(partition);
        effects.look |= due.is_some_and(|due| self.arm(due));
        Some(id)
    }

    /// Whether the reporter has to look earlier than it meant to.
    fn arm(&self, due: i64) -> bool {
        due < self.armed.load(Ordering::Relaxed)
            && due < self.armed.fetch_min(due, Ordering::Relaxed)
    }

    /// The worker is through with its message, which somebody else will answer: `caller` waits. If it is patient, it is to be told
    /// now: what `read` has made of what says whom to answer, and since when it has waited.
    pub fn defer<R>(
        &self,
        worker: &Worker<A, P>,
        caller: P,
        now: i64,
        alive: impl Fn(P) -> bool,
        read: impl FnOnce(&A, usize) -> R,
    ) -> Option<(R, i64)> {
        let mut task = worker.task.lock();
        let mut slow = None;
        if let Some((id, told, tell)) = task.unanswered() {
            slow = tell.map(|(since, arena, reply)| (read(arena, reply), since));
            self.deferred.lock().push(id, caller, told, alive);
        }
        task.settle(End::Done, now);
        slow
    }

    /// If the message with this id is to be answered by who asks, whether its caller has been told that it has waited for long, or is
    /// being told: it was started, nobody has answered it, its caller waits, and nobody else is told this.
    pub fn claim(&self, id: u64) -> Option<bool> {
        // A message is deferred before its worker is through with it.
        for worker in self.workers() {
            match worker.claim(id) {
                Some(Claim::Won { told }) => return Some(told),
                Some(Claim::Lost) => return None,
                None => {}
            }
        }
        self.deferred.lock().claim(id)
    }

    /// How many messages are to be answered later, some of them perhaps for callers that are dead.
    pub fn deferred(&self) -> usize {
        self.deferred.lock().len()
    }

    fn partition_of(&self, id: u64) -> usize {
        (id % self.partitions.len() as u64) as usize
    }

    /// A new worker. It is not idle.
    pub fn join(&self, pid: P) -> Arc<Worker<A, P>> {
        self.crew.lock().join(pid, self.partitions.len())
    }

    /// The worker is not idle from now on, until it has found nothing again. Somebody else is to be woken
    /// if it had been, and if what was handed to it waits again.
    pub fn withdraw(&self, worker: &Worker<A, P>) -> After<A, P> {
        let woken = self.rise(worker);
        self.replace(worker, woken)
    }

    /// The worker takes no more messages; it goes on with what it has started. Somebody else is to be woken as
    /// when it withdraws.
    pub fn dismiss(&self, worker: &Worker<A, P>) -> After<A, P> {
        let mut crew = self.crew.lock();
        let woken = crew.dismiss(worker);
        self.publish(&crew);
        drop(crew);
        self.replace(worker, woken)
    }

    /// A worker that was to be woken, or to be sent a message, can't be reached: it is dead. Somebody else is to
    /// be woken.
    pub fn unreachable(&self, worker: &Worker<A, P>) -> After<A, P> {
        self.rise(worker);
        self.replace(worker, true)
    }

    /// The worker is none any more. What it has started has failed.
    pub fn leave(&self, worker: &Worker<A, P>, now: i64) -> After<A, P> {
        // First it is nobody who is handed a message, so what it gives back is all there is.
        let mut after = self.dismiss(worker);
        after.slow = after.slow.or_else(|| self.forsake(worker));
        let mut crew = self.crew.lock();
        let mut task = worker.task.lock();
        task.settle(End::Failed, now);
        let kept = task.clear();
        if crew.leave(worker) {
            crew.former = crew.former + task.tally();
        }
        self.publish(&crew);
        drop(task);
        drop(crew);
        drop(kept);
        after.wake = after.wake.or_else(|| self.pass_on());
        after
    }

    fn replace(&self, worker: &Worker<A, P>, woken: bool) -> After<A, P> {
        let mut effects = Effects::default();
        let mut returned = self.hand_back(worker, &mut effects).is_some();
        returned |= self.give_back(worker, &mut effects);
        let mut after = After::from(effects);
        if woken || returned {
            after.wake = self.pass_on();
        }
        after
    }

    /// The workers that are this process.
    pub fn workers_of(&self, pid: P) -> Vec<Arc<Worker<A, P>>> {
        self.crew.lock().of(pid)
    }

    /// All workers.
    pub fn workers(&self) -> Vec<Arc<Worker<A, P>>> {
        self.crew.lock().workers().to_vec()
    }

    /// Who is to be woken if messages wait.
    pub fn pass_on(&self) -> Option<Arc<Worker<A, P>>> {
        if self.any_waiting() {
            self.wake(false)
        } else {
            None
        }
    }

    /// Whether anything waits, for who has just written that a worker is idle, or is on its way no more.
    fn any_waiting(&self) -> bool {
        fence(Ordering::SeqCst);
        self.partitions.iter().any(|lane| !self.is_empty(lane))
            || self.loads.load(Ordering::Relaxed) > 0
    }

    /// Whether nothing waits in this partition, a moment ago. It is told so if that matters to it.
    fn is_empty(&self, lane: &Lane<A, P>) -> bool {
        let is_empty = lane.is_empty();
        if is_empty && self.controls_delay.load(Ordering::Relaxed) {
            let mut partition = lane.lock();
            if partition.waiting.is_empty() {
                partition.rest();
            }
        }
        is_empty
    }

    /// The partition with the oldest message, a moment ago; the first one of those that came at the same time.
    fn oldest(&self) -> Option<usize> {
        let fronts = self.partitions.iter().map(Lane::front);
        let oldest = fronts.enumerate().min_by_key(|&(_, front)| front);
        oldest
            .filter(|&(_, front)| front != i64::MAX)
            .map(|(index, _)| index)
    }

    /// Whether a message of this partition that came at this moment has to wait for one of another.
    fn is_older_elsewhere(&self, index: usize, at: i64) -> bool {
        self.ordered && self.fronts_before(index, at).any(|other| other != index)
    }

    /// Partitions whose oldest message goes before one of this partition that came at this moment.
    fn fronts_before(&self, index: usize, at: i64) -> impl Iterator<Item = usize> + '_ {
        let fronts = self.partitions.iter().map(Lane::front).enumerate();
        let before = fronts.filter(move |&(other, front)| (front, other) < (at, index));
        before.map(|(other, _)| other)
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

    // It takes from now on. Whether somebody else may have to.
    fn take_up(&self, worker: &Worker<A, P>) -> bool {
        let mut crew = self.crew.lock();
        let woken = crew.rise(worker);
        crew.begin(worker);
        self.publish(&crew);
        woken
    }

    // It does something else from now on.
    fn rise(&self, worker: &Worker<A, P>) -> bool {
        let mut crew = self.crew.lock();
        let woken = crew.rise(worker) | crew.pause(worker);
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
        self.free.store(crew.is_free(), Ordering::Relaxed);
        // Others read these with each message: they are written when they change.
        for (word, now) in [
            (&self.alone, crew.alone),
            (&self.crowded, crew.is_crowded()),
        ] {
            if word.load(Ordering::Relaxed) != now {
                word.store(now, Ordering::Relaxed);
            }
        }
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
        let mut stuck = false;
        for partition in &self.partitions {
            let mut partition = partition.lock();
            partition.expire(now, DROPS * 8, &self.dropped, &mut effects);
            let mut due = partition.next_due(now);
            if !partition.waiting.is_empty() {
                stuck |= self.is_stuck(&partition, now);
                due = self.look_at(due, now);
            }
            next = next.into_iter().chain(due).min();
        }
        if let Some(due) = next {
            self.armed.fetch_min(due, Ordering::Relaxed);
        }
        self.tell_of_room(true, &mut effects);
        let mut after = After::from(effects);
        if stuck {
            after.wake = self.relieve();
        }
        after
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
    /// dropped since the last report. `read` is told whether the caller has been told that it has waited for long.
    pub fn dropped(&self, count: usize, read: impl FnMut(&A, usize, Drop, bool)) -> Drops {
        self.dropped.lock().peek(count, read)
    }

    /// How many of those answers there are.
    pub fn untold(&self) -> usize {
        self.dropped.lock().len()
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
        if self.loads.load(Ordering::Relaxed) > 0 {
            for worker in self.workers() {
                self.give_back(&worker, &mut effects);
            }
        }
        loop {
            let mut turns = Turns::from(0);
            while let Some(index) = turns.next(self) {
                let mut partition = self.partitions[index].lock();
                while let Some(place) = partition.waiting.front() {
                    let full = rest.len() >= count || weight >= bytes;
                    let Some((entry, arena)) = partition.waiting.get(place).filter(|_| !full)
                    else {
                        break;
                    };
                    if self.is_older_elsewhere(index, entry.at) {
                        break;
                    }
                    weight += u64::from(entry.weight);
                    rest.push(read(arena, &entry));
                    partition.counts.dropped[Drop::Shutdown as usize] += 1;
                    partition.remove(place, &mut effects);
                }
            }
            let mut left = false;
            for partition in &self.partitions {
                let mut partition = partition.lock();
                partition.over = partition.closed && partition.waiting.is_empty();
                left |= !partition.waiting.is_empty();
            }
            // Something may have come back in between.
            if !left || rest.len() >= count || weight >= bytes {
                break;
            }
        }
        self.tell_of_room(true, &mut effects);
        (rest, effects.into())
    }
}

/// Which partition to look into next: all in turn, or where they have one order the one with the oldest message, as
/// long as there is any.
struct Turns {
    first: usize,
    taken: usize,
}

impl Turns {
    const MOST: usize = 64;

    fn from(first: usize) -> Self {
        Self { first, taken: 0 }
    }

    fn next<A: Arena, P: Copy + Ord>(&mut self, broker: &Broker<A, P>) -> Option<usize> {
        let count = broker.partitions.len();
        self.taken += 1;
        // Another one may have taken it meanwhile, or one has come that is older: more turns than there are partitions.
        if broker.ordered && self.taken <= Self::MOST {
            return broker.oldest();
        }
        (self.taken <= count).then(|| self.first.wrapping_add(self.taken - 1) % count)
    }
}

/// All partitions, beginning with this one.
fn around(home: usize, count: usize) -> impl Iterator<Item = usize> {
    let home = home % count;
    (home..count).chain(0..home)
}
