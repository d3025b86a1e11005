//! Writers that wait for room, first come, first served.
//!
//! A writer leaves what it wants to write and a ticket number. Whoever gives room back has the first
//! ones served that fit ([`Waiters::start`], [`Waiters::next`]): their writes are made for them, so
//! nothing is to be undone when a writer dies. A writer that gives up takes its ticket back; if it is
//! not there any more, it was served.
//!
//! Invariants: one at a time serves, so writes are made in the order of the tickets. Nobody waits while
//! there is room for the first one, or never will be, and nobody serves. (A writer that does not have to wait
//! may write between the moment at which room is taken for another one and that one's write.) Nobody waits while
//! writers are turned away.
//!
//! Lock order: this lock before that of [`Capacity`].

use std::collections::VecDeque;

use crate::capacity::{Capacity, Credit, NoRoom, Size};
use crate::sync::Mutex;

/// Writers `W` that wait.
#[derive(Debug)]
pub struct Waiters<W> {
    state: Mutex<State<W>>,
}

#[derive(Debug)]
struct State<W> {
    // By ticket; those that gave up are gone.
    waiting: VecDeque<(u64, Size, W)>,
    next_ticket: u64,
    serving: bool,
    turns_away: bool,
    closed: bool,
}

/// What became of the wish to wait.
#[derive(Debug, PartialEq, Eq)]
pub enum Wait<W> {
    /// There is room: it has been taken.
    Taken(W, Credit),
    /// It waits, under this ticket.
    Waits(u64),
    /// It would wait for ever.
    TooLarge,
    /// There is no room, and nobody is to wait.
    TurnedAway,
    /// Nobody will be served any more.
    Closed,
}

/// A writer whose turn has come.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn<W> {
    /// There is room: it has been taken.
    Granted(W, Credit),
    /// The limit has become smaller than what it wants to write. It would hold up those behind it.
    TooLarge(W),
}

impl<W> Default for Waiters<W> {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                next_ticket: 0,
                serving: false,
                turns_away: false,
                closed: false,
            }),
        }
    }
}

impl<W> Waiters<W> {
    /// Takes room for a writer, or has it wait.
    pub fn wait(&self, capacity: &Capacity, size: Size, writer: W) -> Wait<W> {
        let mut state = self.state.lock();
        if state.closed {
            return Wait::Closed;
        }
        let taken = match state.turns_away {
            true => capacity.take(size),
            false => capacity.take_or_wait(size),
        };
        match taken {
            Ok(credit) => Wait::Taken(writer, credit),
            Err(NoRoom::TooLarge) => Wait::TooLarge,
            Err(NoRoom::Full) if state.turns_away => Wait::TurnedAway,
            Err(NoRoom::Full) => {
                let ticket = state.next_ticket;
                state.next_ticket += 1;
                state.waiting.push_back((ticket, size, writer));
                Wait::Waits(ticket)
            }
        }
    }

    /// Takes a writer back that has not been served. Those behind it may fit now: the caller has them
    /// served.
    pub fn give_up(&self, capacity: &Capacity, ticket: u64) -> Option<W> {
        let mut state = self.state.lock();
        let place = state
            .waiting
            .binary_search_by_key(&ticket, |(ticket, _, _)| *ticket)
            .ok()?;
        let (_, _, writer) = state.waiting.remove(place)?;
        capacity.wait_no_more();
        Some(writer)
    }

    /// Takes back the first one, if it is to be (its process is dead). Those behind it may fit now.
    pub fn give_up_first(
        &self,
        capacity: &Capacity,
        is_gone: impl FnOnce(&W) -> bool,
    ) -> Option<W> {
        let mut state = self.state.lock();
        let (_, _, writer) = state.waiting.front()?;
        if !is_gone(writer) {
            return None;
        }
        let (_, _, writer) = state.waiting.pop_front()?;
        capacity.wait_no_more();
        Some(writer)
    }

    /// Takes back all that are to be (their processes are dead).
    pub fn give_up_all(&self, capacity: &Capacity, mut is_gone: impl FnMut(&W) -> bool) -> Vec<W> {
        let mut state = self.state.lock();
        let all = std::mem::take(&mut state.waiting);
        let (gone, left): (VecDeque<_>, VecDeque<_>) =
            all.into_iter().partition(|(_, _, writer)| is_gone(writer));
        state.waiting = left;
        gone.iter().for_each(|_| capacity.wait_no_more());
        gone.into_iter().map(|(_, _, writer)| writer).collect()
    }

    /// Makes the caller the one who serves, unless somebody does: that one sees the room that the caller
    /// has given back.
    pub fn start(&self) -> bool {
        let mut state = self.state.lock();
        !std::mem::replace(&mut state.serving, true)
    }

    /// The next writer, if there is room for it, which has been taken, or if there never will be. If neither,
    /// the caller serves no more.
    pub fn next(&self, capacity: &Capacity) -> Option<Turn<W>> {
        let mut state = self.state.lock();
        let served = state.waiting.front().map(|(_, size, _)| {
            let credit = capacity.take_in_turn(*size);
            (credit, credit != Err(NoRoom::Full))
        });
        if let Some((credit, true)) = served {
            if let Some((_, _, writer)) = state.waiting.pop_front() {
                return Some(match credit {
                    Ok(credit) => Turn::Granted(writer, credit),
                    Err(_) => Turn::TooLarge(writer),
                });
            }
        }
        state.serving = false;
        None
    }

    /// From now on writers may wait, or those for which there is no room are turned away. Answers those who waited and
    /// do so no more, in order.
    pub fn turn_away(&self, capacity: &Capacity, turns_away: bool) -> Vec<W> {
        let mut state = self.state.lock();
        state.turns_away = turns_away;
        if !turns_away {
            return Vec::new();
        }
        state.dismiss(capacity)
    }

    /// Nobody is served any more. Answers those who waited.
    pub fn close(&self, capacity: &Capacity) -> Vec<W> {
        let mut state = self.state.lock();
        state.closed = true;
        state.dismiss(capacity)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.state.lock().waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<W> State<W> {
    fn dismiss(&mut self, capacity: &Capacity) -> Vec<W> {
        let waiting = std::mem::take(&mut self.waiting);
        waiting.iter().for_each(|_| capacity.wait_no_more());
        waiting.into_iter().map(|(_, _, writer)| writer).collect()
    }
}
