//! A worker: whether it is free, and what it works on.

use crate::sync::{AtomicU8, Mutex, Ordering};
use crate::Arena;

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
    pub(super) task: Mutex<Task<A>>,
}

/// What a worker works on, and has done.
pub(super) struct Task<A> {
    in_flight: Option<Flight>,
    // Copies of what says whom to answer: only the last one is needed, the others wait until the arena goes.
    kept: Option<A>,
    tally: Tally,
    // Where it looks first the next time: in turn, so that no partition is left behind.
    next: usize,
}

struct Flight {
    taken_at: i64,
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
            task: Mutex::new(Task {
                in_flight: None,
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

    /// Reads whom to answer for the message it works on.
    pub fn in_flight<R>(&self, read: impl FnOnce(&A, usize) -> R) -> Option<R> {
        let task = self.task.lock();
        let reply = task.in_flight.as_ref()?.reply?;
        task.kept.as_ref().map(|kept| read(kept, reply))
    }

    /// It is through with what it works on, if there is anything.
    pub fn settle(&self, end: End, now: i64) -> bool {
        self.task.lock().settle(end, now)
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

impl<A: Arena> Task<A> {
    /// Then the copies that are not needed any more are let go.
    const KEPT: usize = 256;

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

    pub(super) fn start(&mut self, now: i64, reply: Option<(&A, u32)>) {
        let reply = reply.map(|(arena, index)| {
            if self
                .kept
                .as_ref()
                .is_some_and(|kept| kept.len() >= Self::KEPT)
            {
                self.kept = None;
            }
            let kept = self.kept.get_or_insert_with(A::new);
            kept.copy_from(arena, index as usize);
            kept.len() - 1
        });
        self.in_flight = Some(Flight {
            taken_at: now,
            reply,
        });
    }

    pub(super) fn turn(&mut self) -> usize {
        self.next = self.next.wrapping_add(1);
        self.next
    }

    pub(super) fn clear(&mut self) -> Option<A> {
        self.kept.take()
    }

    pub(super) fn tally(&self) -> Tally {
        self.tally
    }

    pub(super) fn works(&self) -> bool {
        self.in_flight.is_some()
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
