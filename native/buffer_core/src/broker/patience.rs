//! Callers that wait with no timer of their own, and are told when that takes long.
//!
//! To set a timer and take it down is a tenth of what a short request takes, and nearly all are answered long before
//! it matters. So a caller may be *patient*: who looks after such callers ([`Broker::tell_patient`]) tells each of them once that it
//! has waited for long, and from then on it looks after itself. There is nobody to forget while its message waits, or a worker has it, be it
//! handed over or started. Wherever else the message goes from there, or if it goes back, the caller is told at once; or by the word that its message
//! was dropped.
//!
//! # Why no word comes too late
//!
//! That a caller has been told is noted under the lock that its message is answered under, *before* it is sent anything. So an answer
//! says whether a word is on its way ([`Settled::told`](super::worker::Settled), [`Broker::claim`]), as does what says that its message was dropped
//! ([`Broker::dropped`]), and the caller waits for it: nothing is in its mailbox afterwards.
//!
//! # Why no caller is forgotten
//!
//! Who looks notes that it has to be called again, and *then* looks at each partition under its lock, and at each worker under that of its task. Who
//! sends a message holds one of these, and *then* sees whether it has to call. So at least one of the two sees the other.
//!
//! A message goes from its partition to a worker, and partitions are looked at first: who takes it before that is a worker that is looked at later.
//! In a partition callers are told in the order in which they came, and each message is looked at once: it is remembered up to which that was done.

use super::worker::Worker;
use super::Broker;
use crate::sync::Ordering;
use crate::{Arena, Segment};

/// Whether a caller is to be told that it has waited for long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// It knows by itself, or nobody waits.
    Own,
    /// It has not been told.
    Untold,
    /// It has been told, or is being told at this moment.
    Told,
}

impl Patience {
    /// It is to be told now: whether it has not been.
    pub(super) fn tell(&mut self) -> bool {
        let untold = *self == Self::Untold;
        if untold {
            *self = Self::Told;
        }
        untold
    }
}

/// A caller that is to be told that it has waited for long.
pub struct Slow<A> {
    /// What says whom to answer: the first term.
    pub reply: Segment<A>,
    /// Since when it has waited.
    pub since: i64,
}

impl<A: Arena> Slow<A> {
    /// What a copy of a reply weighs.
    const REPLY: u32 = 64;

    /// The reply lies here.
    pub(super) fn new(arena: &A, reply: usize, since: i64) -> Self {
        let mut own = Segment::open(since);
        own.push(Self::REPLY, |own: &mut A| own.copy_from(arena, reply));
        Self { reply: own, since }
    }
}

impl<A: Arena, P: Copy + Ord> Broker<A, P> {
    /// There is a patient caller: whether who looks after them has to be called.
    pub(super) fn has_patient(&self) -> bool {
        !self.patient.load(Ordering::Relaxed) && !self.patient.swap(true, Ordering::Relaxed)
    }

    /// So many messages are looked at under one hold of a partition's lock.
    const LOOKED_AT: usize = 32;

    /// Has callers told, with no lock held, that have waited since then or longer. Whether to look again: some wait that have
    /// not been told, and nobody else has been called for them. O(workers, and messages that it has not looked at before).
    pub fn tell_patient(&self, until: i64, mut tell: impl FnMut(Slow<A>)) -> bool {
        self.patient.store(false, Ordering::Relaxed);
        let mut left = false;
        for lane in &self.partitions {
            let mut more = true;
            while more {
                let mut slow = Vec::new();
                let mut partition = lane.lock();
                more = partition
                    .waiting
                    .tell(until, Self::LOOKED_AT, |arena, entry| {
                        let reply = entry.reply.map(|reply| reply as usize);
                        slow.extend(reply.map(|reply| Slow::new(arena, reply, entry.at)));
                    });
                left |= partition.waiting.untold() > 0;
                drop(partition);
                slow.into_iter().for_each(&mut tell);
            }
        }
        for worker in self.workers() {
            let (slow, waits) = worker.tell(until);
            left |= waits;
            slow.into_iter().for_each(&mut tell);
        }
        left && self.has_patient()
    }

    /// What this worker has started is answered by nobody: its caller is to be told, if it is patient.
    pub(super) fn forsake(&self, worker: &Worker<A, P>) -> Option<Box<Slow<A>>> {
        let (mut slow, since) = worker.in_flight(|arena, reply| Slow::new(arena, reply, 0))?;
        slow.since = since?;
        Some(Box::new(slow))
    }
}
