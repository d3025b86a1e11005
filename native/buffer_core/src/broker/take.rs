//! How a worker takes its next message.

use std::ops::Range;
use std::sync::Arc;

use super::config::Order;
use super::dropped::{Drop, Dropped};
use super::lane::Lane;
use super::partition::{Effects, Partition};
use super::waiting::{Chunk, Entry, Place};
use super::worker::{End, State, Worker};
use super::{After, Broker, Turns, DROPS};
use crate::sync::{Mutex, Ordering};
use crate::Arena;

/// What became of a call to take.
pub enum Taken<R, A, P> {
    /// The worker has started this message.
    Message(R),
    /// The worker has started this one, which was alone in its chunk.
    Alone(Entry<P>, Box<Chunk<A, P>>, i64),
    /// The next one is heavier than was asked for. The worker is not idle.
    Heavy,
    /// Much was dropped, and nothing found yet. The worker is not idle.
    Again,
    /// The worker has copies of so many messages, and [`begin`](Broker::begin)s each.
    Copies(usize),
    /// Nothing waits. The worker is idle and will be woken.
    Idle,
    /// The worker has left, or is to leave.
    Gone,
}

/// What became of a worker that is to be idle unless it is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rested {
    /// Nothing waits. It is idle and will be woken.
    Idle,
    /// Something waits. It is not idle, and takes.
    Needed,
    /// The worker has left, or is to leave.
    Gone,
}

impl<A: Arena, P: Copy + Ord> Broker<A, P> {
    /// Who has not come back for so many nanoseconds to what it has taken along does not keep it from others that would
    /// take newer ones: its handler is slow.
    const LATE: i64 = 10_000_000;

    /// The worker is through with what it had, and takes the next message, if that is no heavier than
    /// `heaviest`. `read` makes something of it under the partition's lock, unless it is alone in its chunk: that is handed over. Both come
    /// with the moment at which it was taken.
    pub fn take<R>(
        &self,
        worker: &Arc<Worker<A, P>>,
        now: impl Fn() -> i64,
        heaviest: u32,
        alive: impl Fn(P) -> bool,
        read: impl FnOnce(&A, &Entry<P>, i64) -> R,
    ) -> (Taken<R, A, P>, After<A, P>) {
        let none = None::<fn(&A, Range<usize>)>;
        self.next(worker, now, heaviest, alive, none, read)
    }

    /// The same, but of loose messages it may take several along: `copy` makes something of those that lie here in
    /// their arena, in order.
    pub fn take_along<R>(
        &self,
        worker: &Arc<Worker<A, P>>,
        now: impl Fn() -> i64,
        heaviest: u32,
        alive: impl Fn(P) -> bool,
        copy: impl FnMut(&A, Range<usize>),
        read: impl FnOnce(&A, &Entry<P>, i64) -> R,
    ) -> (Taken<R, A, P>, After<A, P>) {
        self.next(worker, now, heaviest, alive, Some(copy), read)
    }

    fn next<R>(
        &self,
        worker: &Arc<Worker<A, P>>,
        now: impl Fn() -> i64,
        heaviest: u32,
        alive: impl Fn(P) -> bool,
        copy: Option<impl FnMut(&A, Range<usize>)>,
        read: impl FnOnce(&A, &Entry<P>, i64) -> R,
    ) -> (Taken<R, A, P>, After<A, P>) {
        let mut effects = Effects::default();
        let mut woken = match worker.state() {
            State::Running if worker.is_at_work() => false,
            State::Leaving | State::Gone => {
                worker.settle(End::Done, now());
                return (Taken::Gone, effects.into());
            }
            _ => self.take_up(worker),
        };
        // Asking for the time takes longer than to find that nothing waits: it is asked when it is needed.
        let mut moment = None;
        let mut task = worker.task.lock();
        if task.works() {
            task.settle(End::Done, *moment.insert(now()));
        }
        if let Some((&entry, arena)) = task.handed() {
            // It was sent this one, and does not know yet. It will not start it again.
            let now = moment.unwrap_or_else(&now);
            let value = read(arena, &entry, now);
            task.start_handed(&entry, now);
            drop(task);
            return (Taken::Message(value), self.after_take(woken, effects));
        }
        let first = task.turn();
        let mut has_load = !task.load.is_empty();
        drop(task);
        if !woken && self.is_crowded() {
            // Whoever else is at work looks for it before it rests.
            woken = has_load && self.give_back(worker, &mut effects);
            has_load = false;
            if self.step_back(worker) {
                let mut after = After::from(effects);
                after.look |= woken && self.look_later(*moment.get_or_insert_with(&now));
                return (Taken::Idle, after);
            }
        }
        if let Some(copy) = copy.filter(|_| self.ordered) {
            if self.others_have_load(has_load) {
                // What came before goes first, if nobody comes to it.
                let late = *moment.get_or_insert_with(&now) - Self::LATE;
                while self.call_in(worker, late, &mut effects) {
                    woken = true;
                }
            }
            let moment = || *moment.get_or_insert_with(&now);
            let count = self.copies(worker, moment, &mut has_load, copy);
            if count > 0 {
                return (Taken::Copies(count), self.after_take(woken, effects));
            }
        }
        // It takes another one first, or is not to take any along. Those are there for the next time: nobody else has asked for
        // them.
        woken |= has_load && self.give_back_for(worker, true, &mut effects);
        let mut read = Some(read);
        // Who is woken for nothing again and again is better off receiving its messages in between.
        'tries: for _ in 0..4 {
            let mut again = false;
            let mut turns = Turns::from(first);
            while let Some(index) = turns.next(self) {
                let lane = &self.partitions[index];
                if self.is_empty(lane) {
                    continue;
                }
                let mut partition = lane.lock();
                let now = *moment.get_or_insert_with(&now);
                let found = look(&mut partition, now, &alive, &self.dropped, &mut effects);
                let place = match found {
                    Look::Nothing => continue,
                    Look::Again => {
                        again = true;
                        continue;
                    }
                    Look::Found(place) => place,
                };
                let Some((entry, arena)) = partition.waiting.get(place) else {
                    continue;
                };
                let in_order = partition.config.order == Order::Fifo;
                if in_order && self.is_older_elsewhere(index, entry.at) {
                    continue;
                }
                // Somebody waits for this one, and not for those that others have taken along, but those came before.
                if in_order && !entry.loose && self.others_have_load(false) {
                    drop(partition);
                    woken |= self.call_in(worker, i64::MAX, &mut effects);
                    continue 'tries;
                }
                if entry.weight > heaviest {
                    drop(partition);
                    return (Taken::Heavy, self.after_take(woken, effects));
                }
                let reply = entry.reply.map(|reply| (arena, reply));
                effects.kept = worker.task.lock().start(&entry, now, reply);
                let read = read.take_if(|_| !entry.alone);
                let value = read.map(|read| read(arena, &entry, now));
                let chunk = partition.start(place, now).and_then(|(_, chunk)| chunk);
                drop(partition);
                let taken = match (value, chunk) {
                    (Some(value), chunk) => {
                        effects.freed.extend(chunk);
                        Taken::Message(value)
                    }
                    (None, Some(chunk)) => Taken::Alone(entry, chunk, now),
                    (None, None) => unreachable!("one that came alone leaves with its chunk"),
                };
                self.tell_of_room(true, &mut effects);
                return (taken, self.after_take(woken, effects));
            }
            if again {
                break;
            }
            // Others have some that they have not come to yet.
            if self.call_in(worker, i64::MAX, &mut effects) {
                woken = true;
                continue;
            }
            if !self.rest(worker) {
                return (Taken::Gone, self.after_take(woken, effects));
            }
            if !self.any_waiting() {
                self.tell_of_room(true, &mut effects);
                return (Taken::Idle, effects.into());
            }
            // It may have been woken in between.
            woken |= self.take_up(worker);
        }
        (Taken::Again, self.after_take(woken, effects))
    }

    /// The worker is through with what it had. Whether it comes early if it is to take messages along: not enough of them
    /// wait yet, and nobody waits for any. It is at work all the same.
    pub fn is_early(&self, worker: &Worker<A, P>, now: impl FnOnce() -> i64) -> bool {
        if !self.ordered || worker.state() != State::Running || !worker.is_at_work() {
            return false;
        }
        let mut task = worker.task.lock();
        if task.works() {
            task.settle(End::Done, now());
        }
        let has_any = task.has_any() || !task.load.is_empty();
        drop(task);
        !has_any && !self.partitions.iter().any(Lane::is_worth_it)
    }

    /// The worker has been settled, and takes no message: it is idle now, unless one waits. `loaded`: it may have taken
    /// messages along. Mostly nobody else has to do anything then.
    pub fn rest_unless_needed(
        &self,
        worker: &Arc<Worker<A, P>>,
        loaded: bool,
    ) -> (Rested, Option<After<A, P>>) {
        if loaded || worker.state() != State::Running {
            let (rested, after) = self.rest_unusually(worker, loaded);
            return (rested, Some(after));
        }
        // It is not going to take any, so it need not look before it is idle.
        if !self.rest(worker) {
            return (Rested::Gone, None);
        }
        if !self.any_waiting() {
            let wanted = self.room_wanted.load(Ordering::Relaxed);
            return (Rested::Idle, wanted.then(|| self.room_told()));
        }
        let woken = self.take_up(worker);
        let after = woken.then(|| self.after_take(true, Effects::default()));
        (Rested::Needed, after)
    }

    #[cold]
    fn room_told(&self) -> After<A, P> {
        let mut effects = Effects::default();
        self.tell_of_room(true, &mut effects);
        effects.into()
    }

    #[cold]
    fn rest_unusually(&self, worker: &Arc<Worker<A, P>>, loaded: bool) -> (Rested, After<A, P>) {
        let mut effects = Effects::default();
        let mut woken = match worker.state() {
            State::Running => false,
            State::Leaving | State::Gone => return (Rested::Gone, effects.into()),
            State::Idle | State::Woken => self.take_up(worker),
        };
        woken |= loaded && self.give_back(worker, &mut effects);
        if !self.rest(worker) {
            return (Rested::Gone, self.after_take(woken, effects));
        }
        if !self.any_waiting() {
            self.tell_of_room(true, &mut effects);
            return (Rested::Idle, effects.into());
        }
        woken |= self.take_up(worker);
        (Rested::Needed, self.after_take(woken, effects))
    }

    /// Copies of the next few messages that the worker has taken along, or does now: how many. It may have taken some
    /// along, and others go first.
    fn copies(
        &self,
        worker: &Worker<A, P>,
        now: impl FnOnce() -> i64,
        has_load: &mut bool,
        mut copy: impl FnMut(&A, Range<usize>),
    ) -> usize {
        // In its own partition as well: what another worker had taken along may be there again.
        let is_older = |index, at| self.fronts_before(index, at).next().is_some();
        let mut copies = |has_load| match has_load {
            true => worker.task.lock().load.copy(is_older, &mut copy),
            false => 0,
        };
        let mut count = copies(*has_load);
        if count == 0 {
            *has_load = self.lend(worker, *has_load);
            count = copies(*has_load);
        }
        if count > 0 {
            worker.task.lock().copied_at(now());
        }
        count
    }

    /// The worker takes messages along, if there are enough for it to be worth its while.
    fn lend(&self, worker: &Worker<A, P>, mut has_load: bool) -> bool {
        for _ in 0..2 {
            for (index, lane) in self.partitions.iter().enumerate() {
                // Once it has some, it takes what came at the same time.
                let worth_it = if has_load {
                    !lane.is_empty()
                } else {
                    lane.is_worth_it()
                };
                if !worth_it {
                    continue;
                }
                let mut partition = lane.lock();
                let mut task = worker.task.lock();
                if task.load.has(index) {
                    continue;
                }
                if let Some(chunk) = partition.lend(if has_load {
                    1
                } else {
                    Partition::<A, P>::LEAST
                }) {
                    if task.load.is_empty() {
                        self.loads.fetch_add(1, Ordering::Relaxed);
                    }
                    task.load.put(index, chunk);
                    has_load = true;
                }
            }
            if !has_load || self.partitions.len() == 1 {
                break;
            }
        }
        has_load
    }

    /// What a worker has taken along and not started waits again, and is taken one by one. Whether there was any.
    pub(super) fn give_back(&self, worker: &Worker<A, P>, effects: &mut Effects<A, P>) -> bool {
        self.give_back_for(worker, false, effects)
    }

    /// The same, and if it is `again`, it may be taken along again.
    fn give_back_for(
        &self,
        worker: &Worker<A, P>,
        again: bool,
        effects: &mut Effects<A, P>,
    ) -> bool {
        let mut any = false;
        for (index, lane) in self.partitions.iter().enumerate() {
            if !worker.task.lock().load.has(index) {
                continue;
            }
            let mut partition = lane.lock();
            let mut task = worker.task.lock();
            if let Some(chunk) = task.load.remove(index) {
                if task.load.is_empty() {
                    self.loads.fetch_sub(1, Ordering::Relaxed);
                }
                self.returns.fetch_add(1, Ordering::Relaxed);
                partition.take_back(chunk, again, &self.dropped, effects);
                any = true;
            }
        }
        any
    }

    /// Whether anybody else has taken messages along.
    fn others_have_load(&self, has_load: bool) -> bool {
        self.loads.load(Ordering::Relaxed) > usize::from(has_load)
    }

    /// Has messages wait again that another worker has taken along and looked at no later than then. Whether there were
    /// any.
    fn call_in(&self, worker: &Worker<A, P>, until: i64, effects: &mut Effects<A, P>) -> bool {
        if !self.others_have_load(false) {
            return false;
        }
        let workers = self.workers();
        let mut others = workers
            .iter()
            .filter(|other| !std::ptr::eq(&***other, worker) && other.looked_by(until));
        others.any(|other| self.give_back(other, effects))
    }

    /// The worker starts the next of the messages that it has copies of. If not, they are no longer its, and it takes
    /// again.
    pub fn begin(&self, worker: &Worker<A, P>) -> (bool, After<A, P>) {
        let mut after = After::default();
        if worker.state() != State::Running {
            return (false, after);
        }
        let Some((gone, last)) = worker.begin() else {
            return (false, after);
        };
        if last {
            self.loads.fetch_sub(1, Ordering::Relaxed);
        }
        if let Some((index, mut chunk)) = gone {
            // Nothing depends on it, and models get twice as large.
            let freed = match cfg!(not(loom)) && chunk.clear() {
                true => self.partitions[index].keep(chunk),
                false => Some(chunk),
            };
            after.freed.extend(freed);
        }
        (true, after)
    }

    fn after_take(&self, woken: bool, effects: Effects<A, P>) -> After<A, P> {
        let mut after = After::from(effects);
        if woken {
            after.wake = self.pass_on();
        }
        after
    }
}

enum Look {
    Found(Place),
    Nothing,
    Again,
}

/// The next message that may be started. Drops a bounded number of those that may not.
fn look<A: Arena, P: Copy>(
    partition: &mut Partition<A, P>,
    now: i64,
    alive: &impl Fn(P) -> bool,
    dropped: &Mutex<Dropped<A>>,
    effects: &mut Effects<A, P>,
) -> Look {
    if !partition.expire(now, DROPS, dropped, effects) {
        return Look::Again;
    }
    for _ in 0..DROPS {
        if partition.control_delay(now, dropped, effects) {
            continue;
        }
        let Some(place) = partition.next_place() else {
            return Look::Nothing;
        };
        let caller = partition
            .waiting
            .get(place)
            .and_then(|(entry, _)| entry.caller);
        if caller.is_some_and(|caller| !alive(caller)) {
            partition.drop_at(place, Drop::CallerDown, dropped, effects);
            continue;
        }
        return Look::Found(place);
    }
    Look::Again
}
