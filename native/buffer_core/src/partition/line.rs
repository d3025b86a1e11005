//! Writers that stand in line for a partition whose live generation is full.
//!
//! The live generation of a queue's partition may be given a size ([`Partition::set_full`]). A write
//! ([`Partition::insert`]) that finds it reached has the generation swapped out first
//! ([`Partition::swap_full`]), if nothing drains: so a generation leaves with what it held before that
//! write, and the write goes to the next one. If something drains, the writer leaves its entries and
//! stands in line ([`Partition::stand`]). Its entries are written for it when it is its turn
//! ([`Partition::turn`]), so nothing is to be undone when a writer gives up or dies.
//!
//! Invariants:
//!
//! * Writes are made in the order of the line: nobody inserts while somebody stands in it.
//! * Somebody stands in line only while the live generation is full. While nothing drains either, a `turn` is
//!   on its way: by the one who has just joined the line, or by whoever saw the end of the drain.
//! * A generation is full with one entry at least, and may be more than full by the last write.
//!
//! The line is part of what the `live` lock guards. Other writes ([`Partition::write`]) don't look at it.

use std::collections::VecDeque;

use super::{Live, Partition, Written};
use crate::awaiting::Passed;
use crate::capacity::Credit;
use crate::delivery::After;
use crate::stats::Reason;
use crate::{Arena, Closed, Generation as _, Queue};

/// What a live generation may become, and who waits for the next one.
pub(super) struct Line<G, O> {
    full: usize,
    standing: VecDeque<Standing<G, O>>,
}

struct Standing<G, O> {
    owner: O,
    token: u64,
    entries: G,
}

impl<G, O> Default for Line<G, O> {
    fn default() -> Self {
        Self {
            full: usize::MAX,
            standing: VecDeque::new(),
        }
    }
}

/// Why nothing was inserted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoTurn {
    /// The partition is closed.
    Closed,
    /// The live generation is full, or others stand in line.
    Full,
}

/// Where a write is that was to stand in line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stood {
    /// There was room: it has been made.
    Written,
    /// In line.
    Waits,
}

/// What a turn came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served<O> {
    /// How many entries are draining.
    pub draining: usize,
    /// Who is to be told of it, if that has just begun.
    pub signal: Option<O>,
}

/// How the live generation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standings {
    /// Places of the generations before it: tells it from others.
    pub base: u64,
    /// Its entries.
    pub len: usize,
    /// With how many it is full; `usize::MAX`: never.
    pub full: usize,
    /// How many stand in line.
    pub in_line: usize,
}

type QueueLive<A, O> = Live<Queue<A>, O>;

impl<A: Arena, O: Copy + PartialEq> Partition<Queue<A>, O> {
    /// Has the live generation be full with so many entries; `notify` is told when it has been swapped out
    /// because of that. Answers whether it is somebody's [`turn`](Partition::turn).
    pub fn set_full(&self, notify: O, full: usize) -> bool {
        let mut live = self.live.lock();
        live.notify = Some(notify);
        live.line.full = full.max(1);
        !live.line.standing.is_empty()
    }

    /// Writes to the live generation, unless it is full.
    pub fn insert<R>(
        &self,
        after: &mut After<A, O>,
        write: impl FnOnce(&mut Queue<A>) -> R,
    ) -> Result<Written<R, O>, NoTurn> {
        let mut live = self.live.lock();
        if live.closed {
            return Err(NoTurn::Closed);
        }
        if live.is_full() || !live.line.standing.is_empty() {
            return Err(NoTurn::Full);
        }
        Ok(self.write_in_turn(&mut live, after, write))
    }

    /// Makes the live generation the draining one if it is full and nothing drains. Answers whom to tell
    /// then; those in line have to be served by a [`turn`](Partition::turn).
    pub fn swap_full(&self, now: impl FnOnce() -> i64) -> Option<O> {
        let (_, swapped) = self.swap_if(None, true, |live| live.is_full(), now);
        swapped.then(|| self.live.lock().notify).flatten()
    }

    /// Leaves entries to be written when it is their turn; `owner` is told then. The caller has to see to a
    /// [`turn`](Partition::turn).
    pub fn stand(
        &self,
        (owner, token): (O, u64),
        entries: Queue<A>,
        after: &mut After<A, O>,
    ) -> Result<Stood, Closed> {
        let mut live = self.live.lock();
        if live.closed {
            return Err(Closed);
        }
        if live.is_full() || !live.line.standing.is_empty() {
            live.line.standing.push_back(Standing {
                owner,
                token,
                entries,
            });
            return Ok(Stood::Waits);
        }
        let _told_by_the_turn = self.write_in_turn(&mut live, after, |live| live.append(entries));
        Ok(Stood::Written)
    }

    /// Writes for those in line until the live generation is full, and swaps it out as often as there are
    /// still some and nothing drains. Those who are not alive have nothing written.
    pub fn turn(
        &self,
        is_alive: impl Fn(&O) -> bool,
        now: impl Fn() -> i64,
        after: &mut After<A, O>,
    ) -> Served<O> {
        let mut signal = None;
        while self.admit(&is_alive, after) {
            match self.swap_full(&now) {
                Some(process) => signal = Some(process),
                None => break,
            }
        }
        let draining = self.draining();
        Served { draining, signal }
    }

    /// Whether somebody stands in line still.
    fn admit(&self, is_alive: &impl Fn(&O) -> bool, after: &mut After<A, O>) -> bool {
        let mut guard = self.live.lock();
        let live = &mut *guard;
        while !live.closed && !live.is_full() {
            let Some(mut next) = live.line.standing.pop_front() else {
                break;
            };
            if is_alive(&next.owner) {
                let _told = self.write_in_turn(live, after, |live| live.append(next.entries));
                after.passed.push(Passed {
                    owner: next.owner,
                    token: next.token,
                    lost: None,
                });
            } else {
                forget(&mut next.entries, after);
            }
        }
        !live.line.standing.is_empty()
    }

    /// Takes a writer out of the line. Whether it stood there: if not, it has been served or dismissed.
    pub fn step_out(&self, token: u64, after: &mut After<A, O>) -> bool {
        self.step_out_all(|_, other| other == token, after) > 0
    }

    /// Takes all out of the line that are not alive any more.
    pub fn step_out_dead(&self, is_alive: impl Fn(&O) -> bool, after: &mut After<A, O>) -> usize {
        self.step_out_all(|owner, _| !is_alive(owner), after)
    }

    fn step_out_all(
        &self,
        mut steps_out: impl FnMut(&O, u64) -> bool,
        after: &mut After<A, O>,
    ) -> usize {
        let mut live = self.live.lock();
        let all = std::mem::take(&mut live.line.standing);
        let (out, left): (VecDeque<_>, VecDeque<_>) = all
            .into_iter()
            .partition(|standing| steps_out(&standing.owner, standing.token));
        live.line.standing = left;
        drop(live);
        let count = out.len();
        out.into_iter()
            .for_each(|mut standing| forget(&mut standing.entries, after));
        count
    }

    /// Sends all in line away, who are told: of a closed partition.
    pub fn dismiss(&self, after: &mut After<A, O>) {
        let all = std::mem::take(&mut self.live.lock().line.standing);
        for mut standing in all {
            forget(&mut standing.entries, after);
            after.passed.push(Passed {
                owner: standing.owner,
                token: standing.token,
                lost: Some(Reason::Shutdown),
            });
        }
    }

    /// How the live generation stands.
    pub fn standings(&self) -> Standings {
        let live = self.live.lock();
        Standings {
            base: live.base,
            len: live.generation.len(),
            full: live.line.full,
            in_line: live.line.standing.len(),
        }
    }

    fn write_in_turn<R>(
        &self,
        live: &mut QueueLive<A, O>,
        after: &mut After<A, O>,
        write: impl FnOnce(&mut Queue<A>) -> R,
    ) -> Written<R, O> {
        let mut credit = Credit::NONE;
        let result = self.write_on_credit(live, &mut credit, after, write);
        self.written(live, after, result)
    }
}

impl<A: Arena, O> Live<Queue<A>, O> {
    fn is_full(&self) -> bool {
        self.generation.len() >= self.line.full
    }
}

fn forget<A: Arena, O>(entries: &mut Queue<A>, after: &mut After<A, O>) {
    entries.retire(entries.len(), &mut after.retired);
}
