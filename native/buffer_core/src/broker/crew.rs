//! The workers of a broker: who is idle, and who has been woken.
//!
//! At most one worker at a time is on its way to wait for no reason: while one has been woken and has
//! not taken yet, the next message wakes nobody. The woken one looks, when it has taken, whether more
//! is to be done, and then wakes the next. That is half as many wake-ups when many messages come to
//! many idle workers, and none is missing: see [`Broker`](super::Broker).
//!
//! A worker is *at work* from when it takes, or is handed a message, until it rests or does something else. If only one
//! is to be at work at a time, no other one is woken meanwhile: it takes what waits when it is through.

use std::collections::VecDeque;
use std::sync::Arc;

use super::config::Order;
use super::place::here;
use super::roster::Roster;
use super::worker::{State, Tally, Worker};
use crate::Arena;

pub(super) struct Crew<A, P> {
    roster: Roster<A, P>,
    idle: VecDeque<Arc<Worker<A, P>>>,
    woken: usize,
    at_work: usize,
    // Only one is to be at work at a time.
    pub(super) alone: bool,
    pub(super) order: Order,
    // What those have done that are gone.
    pub(super) former: Tally,
    joined: usize,
}

impl<A: Arena, P: Copy + Ord> Crew<A, P> {
    pub(super) fn new(order: Order) -> Self {
        Self {
            roster: Roster::new(),
            idle: VecDeque::new(),
            woken: 0,
            at_work: 0,
            alone: false,
            order,
            former: Tally::default(),
            joined: 0,
        }
    }

    pub(super) fn join(&mut self, pid: P, partitions: usize) -> Arc<Worker<A, P>> {
        let worker = Arc::new(Worker::new(pid, self.joined % partitions.max(1)));
        self.joined += 1;
        self.roster.add(&worker);
        worker
    }

    pub(super) fn workers(&self) -> &[Arc<Worker<A, P>>] {
        self.roster.all()
    }

    /// How many wait to be woken.
    pub(super) fn idle(&self) -> usize {
        self.idle.len()
    }

    /// Whether a message that comes now may be handed to somebody.
    pub(super) fn is_free(&self) -> bool {
        !self.idle.is_empty() && self.takes_more()
    }

    /// Whether a message that comes now has to wake somebody.
    pub(super) fn is_wakeable(&self) -> bool {
        self.woken == 0 && self.is_free()
    }

    /// Whether more are at work than are to be.
    pub(super) fn is_crowded(&self) -> bool {
        self.alone && self.at_work > 1
    }

    pub(super) fn is_at_work(&self) -> bool {
        self.at_work > 0
    }

    fn takes_more(&self) -> bool {
        !self.alone || self.at_work == 0
    }

    /// The worker is at work from now on, if it is not to leave.
    pub(super) fn begin(&mut self, worker: &Worker<A, P>) {
        if worker.state() == State::Running && !worker.be_at_work(true) {
            self.at_work += 1;
        }
    }

    /// It is not. Answers whether somebody else may have to take what waits.
    pub(super) fn pause(&mut self, worker: &Worker<A, P>) -> bool {
        let was = worker.be_at_work(false);
        self.at_work -= usize::from(was);
        was && self.alone
    }

    /// The worker waits from now on.
    pub(super) fn rest(&mut self, worker: &Arc<Worker<A, P>>) -> bool {
        if worker.state() != State::Running {
            return false;
        }
        self.pause(worker);
        worker.set(State::Idle);
        worker.rest_at(here());
        self.idle.push_back(Arc::clone(worker));
        true
    }

    /// The worker waits no more, and does not leave either. Answers whether it had been woken.
    pub(super) fn rise(&mut self, worker: &Worker<A, P>) -> bool {
        let state = worker.state();
        match state {
            State::Running | State::Leaving | State::Gone => {}
            State::Idle => self.forget_idle(worker),
            State::Woken => self.woken -= 1,
        }
        if matches!(state, State::Idle | State::Woken) {
            worker.set(State::Running);
        }
        state == State::Woken
    }

    /// The worker takes no more messages. Answers whether somebody else may have to take what waits.
    pub(super) fn dismiss(&mut self, worker: &Worker<A, P>) -> bool {
        let woken = self.rise(worker) | self.pause(worker);
        if worker.state() == State::Running {
            worker.set(State::Leaving);
        }
        woken
    }

    /// Who is to be woken. `urgent`: even if another one is on its way, or at work.
    pub(super) fn wake(&mut self, urgent: bool) -> Option<Arc<Worker<A, P>>> {
        if !urgent && (self.woken > 0 || !self.takes_more()) {
            return None;
        }
        let worker = self.pop_idle()?;
        worker.set(State::Woken);
        self.woken += 1;
        Some(worker)
    }

    // The one that worked last where the caller is, out of the last few: what it wakes runs here next, and
    // no other thread has to be woken for it. If there is none, the one that worked last anywhere.
    fn pop_near(&mut self) -> Option<Arc<Worker<A, P>>> {
        const FEW: usize = 8;
        let here = here();
        let last = self.idle.len().checked_sub(1)?;
        let mut near = (0..=last).rev().take(FEW);
        let near = near.find(|&index| self.idle[index].rests_at() == here);
        self.idle.remove(near.unwrap_or(last))
    }

    /// Who is idle and is handed a message: it is at work from now on, and not on its way.
    pub(super) fn hand(&mut self) -> Option<Arc<Worker<A, P>>> {
        if !self.takes_more() {
            return None;
        }
        let worker = self.pop_idle()?;
        worker.set(State::Running);
        self.begin(&worker);
        Some(worker)
    }

    fn pop_idle(&mut self) -> Option<Arc<Worker<A, P>>> {
        match self.order {
            Order::Fifo => self.idle.pop_front(),
            // What they work on is where the last one was.
            Order::Lifo if self.alone => self.idle.pop_back(),
            Order::Lifo => self.pop_near(),
        }
    }

    /// The worker is no longer one. Answers false if it was none.
    pub(super) fn leave(&mut self, worker: &Worker<A, P>) -> bool {
        if worker.state() == State::Gone {
            return false;
        }
        self.rise(worker);
        self.pause(worker);
        worker.set(State::Gone);
        self.roster.remove(worker);
        true
    }

    pub(super) fn of(&self, pid: P) -> Vec<Arc<Worker<A, P>>> {
        self.roster.of(pid)
    }

    fn forget_idle(&mut self, worker: &Worker<A, P>) {
        let leaving: *const Worker<A, P> = worker;
        self.idle.retain(|other| !std::ptr::eq(&**other, leaving));
    }
}
