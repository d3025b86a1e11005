//! The caller's side: sending a message, and taking it back.

use std::sync::Arc;

use super::partition::Effects;
use super::patience::Patience;
use super::waiting::{Entry, Stored};
use super::worker::{Claim, Worker};
use super::{around, After, Broker};
use crate::sync::Ordering;
use crate::{Arena, Segment};

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
    /// If a worker is idle and nothing waits, hand it over to that one.
    pub hand_over: bool,
    /// Nobody will know its id, so nobody can take it back: a worker may take it along with others.
    pub loose: bool,
    /// Its caller waits with no timer of its own.
    pub patient: bool,
}

impl<P: Copy> Ask<P> {
    fn entry(&self, id: u64) -> Entry<P> {
        Entry {
            id,
            at: self.now,
            due: self.due,
            caller: self.caller,
            message: 0,
            reply: None,
            weight: self.weight,
            alone: self.alone,
            loose: self.loose && self.caller.is_none() && self.due == i64::MAX,
            patience: match self.patient {
                true => Patience::Untold,
                false => Patience::Own,
            },
        }
    }
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

/// A message that was handed over.
pub struct Handed<A, P> {
    /// Its id.
    pub id: u64,
    /// To be sent it. If that fails: [`Broker::unreachable`].
    pub worker: Arc<Worker<A, P>>,
    /// To be dropped.
    pub kept: Option<Box<Segment<A>>>,
    /// As in [`After`].
    pub patient: bool,
}

/// What became of a message whose caller waits no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abandoned {
    /// It was waiting, and is never started.
    TakenBack,
    /// A worker works on it, and does not answer.
    Started,
    /// It has been answered, or is being answered now; or it was dropped.
    Through,
}

/// Where a message may be put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Admit {
    /// Into its own partition, if there is room.
    WhereRoomIs,
    /// Into the first one where there is room, or where it can be made.
    WhereRoomCanBeMade,
    /// Into its own: a worker of its own has been woken for it.
    Always,
}

impl<A: Arena, P: Copy + Ord> Broker<A, P> {
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
        let mut admit = match reserved {
            Some(_) => Admit::Always,
            None => Admit::WhereRoomIs,
        };
        if ask.hand_over && store.is_some() && reserved.is_none() {
            if let Some(handed) = self.hand_over_stored(home, ask, &mut store) {
                let after = After {
                    handed: Some(handed.worker),
                    kept: handed.kept,
                    patient: handed.patient,
                    ..After::default()
                };
                return (Asked::Accepted(handed.id), after);
            }
        }
        let mut asked = self.put(home, ask, admit, &mut store, &mut staged, &mut effects);
        if matches!(asked, Asked::Full) && reserved.is_none() {
            // What a worker is free for does not wait, so bounds are none of its business.
            reserved = self.wake(true);
            admit = match reserved {
                Some(_) => Admit::Always,
                None => Admit::WhereRoomCanBeMade,
            };
            asked = self.put(home, ask, admit, &mut store, &mut staged, &mut effects);
        }
        if matches!(asked, Asked::Full) {
            let home = home % self.partitions.len();
            self.partitions[home].lock().counts.refused += 1;
        }
        effects.patient = ask.patient && matches!(asked, Asked::Accepted(_)) && self.has_patient();
        let stuck = effects.stuck;
        let crowded = effects.dropped && self.dropped.lock().len() >= Self::CROWDED;
        let mut after = After::from(effects);
        after.crowded = crowded;
        after.wake = match (asked, reserved) {
            (Asked::Accepted(_), None) if stuck => self.relieve(),
            (Asked::Accepted(_), None) => self.wake(false),
            // It has to look whether it is needed, as it would if it had found nothing.
            (_, reserved) => reserved,
        };
        (asked, after)
    }

    /// Whether a message could be handed over, a moment ago.
    pub fn may_hand_over(&self) -> bool {
        let older = || self.oldest().is_some() || self.loads.load(Ordering::Relaxed) > 0;
        self.free.load(Ordering::Relaxed) && !(self.ordered && older())
    }

    /// Hands a message to a worker that is idle, if there is one and nothing waits. It keeps the only native
    /// copy, and the caller has to send it the message. `None`: nothing is done.
    pub fn hand_over(
        &self,
        home: usize,
        ask: &Ask<P>,
        store: impl FnOnce(&mut Segment<A>) -> Stored,
    ) -> Option<Handed<A, P>> {
        self.hand_over_stored(home, ask, &mut Some(store))
    }

    #[inline]
    fn hand_over_stored(
        &self,
        home: usize,
        ask: &Ask<P>,
        store: &mut Option<impl FnOnce(&mut Segment<A>) -> Stored>,
    ) -> Option<Handed<A, P>> {
        if !self.may_hand_over() {
            return None;
        }
        let count = self.partitions.len();
        let index = home % count;
        let mut partition = self.partitions[index].lock();
        if partition.closed || !partition.waiting.is_empty() {
            return None;
        }
        let mut crew = self.crew.lock();
        let worker = crew.hand()?;
        self.publish(&crew);
        // Before it is let go: whoever sees that the worker has left the idle ones waits for the message.
        let mut task = worker.task.lock();
        drop(crew);
        let id = partition.next_id(index, count);
        partition.hand(ask.now);
        drop(partition);
        let kept = task.hand(ask.entry(id), store.take()?);
        drop(task);
        Some(Handed {
            id,
            worker,
            kept,
            patient: ask.patient && self.has_patient(),
        })
    }

    fn put(
        &self,
        home: usize,
        ask: &Ask<P>,
        admit: Admit,
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
            let admits = match admit {
                Admit::Always => true,
                Admit::WhereRoomIs => partition.has_room(),
                Admit::WhereRoomCanBeMade => {
                    partition.has_room() || partition.make_room(ask.now, &self.dropped, effects)
                }
            };
            if !admits {
                // Before it goes elsewhere: who is free for it takes it.
                match admit {
                    Admit::WhereRoomIs => return Asked::Full,
                    _ => continue,
                }
            }
            let id = partition.next_id(index, count);
            let mut entry = ask.entry(id);
            if let Some((segment, stored)) = staged.take() {
                (entry.message, entry.reply) = stored;
                partition.waiting.push_stored(entry, segment);
            } else if let Some(store) = store.take() {
                let spare = || self.partitions[index].spare();
                partition.waiting.push(entry, spare, store);
            }
            partition.counts.accepted += 1;
            let due = self.look_at(partition.next_due(ask.now), ask.now);
            effects.stuck |= self.is_stuck(&partition, ask.now);
            drop(partition);
            effects.look |= due.is_some_and(|due| self.arm(due));
            return Asked::Accepted(id);
        }
        Asked::Full
    }

    /// Takes a message back that has not been started.
    pub fn cancel(&self, id: u64) -> (bool, After<A, P>) {
        let (what, after) = self.give_up(id, false);
        (what == Abandoned::TakenBack, after)
    }

    /// The caller waits no longer. When this returns, no answer is sent any more by
    /// [`Worker::settle_answered`], unless the message is through.
    pub fn abandon(&self, id: u64) -> (Abandoned, After<A, P>) {
        let (what, after) = self.give_up(id, true);
        match what {
            Abandoned::Through if self.deferred.lock().claim(id).is_some() => {
                (Abandoned::Started, after)
            }
            _ => (what, after),
        }
    }

    fn give_up(&self, id: u64, claim: bool) -> (Abandoned, After<A, P>) {
        let mut effects = Effects::default();
        let home = &self.partitions[self.partition_of(id)];
        loop {
            let mut partition = home.lock();
            let place = partition.waiting.find(id);
            if let Some(place) = place {
                partition.remove(place, &mut effects);
                partition.counts.cancelled += 1;
                drop(partition);
                self.tell_of_room(true, &mut effects);
                return (Abandoned::TakenBack, effects.into());
            }
            let returns = partition.returns;
            drop(partition);
            // A worker has it before it leaves its partition.
            for worker in self.workers() {
                if worker.take_back(id) {
                    let mut partition = home.lock();
                    partition.counts.started -= 1;
                    partition.counts.cancelled += 1;
                    return (Abandoned::TakenBack, effects.into());
                }
                match claim.then(|| worker.claim(id)).flatten() {
                    Some(Claim::Won { .. }) => return (Abandoned::Started, effects.into()),
                    // It has been answered by somebody else.
                    Some(Claim::Lost) => return (Abandoned::Through, effects.into()),
                    None => {}
                }
            }
            // It may have gone back from a worker to its partition in between.
            if home.lock().returns == returns {
                return (Abandoned::Through, effects.into());
            }
        }
    }
}
