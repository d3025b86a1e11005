//! The cycle of a partition, whatever it stores: swap, drain, settle, report.
//!
//! [`Cycle`] is what the NIFs of `partition` and `info` see. It is written once, over what a generation
//! must be able to do besides: put its entries into a list.

use buffer_core::{Batch, Discarded, Generation, NotOwner, Partition, Reason, Stats};
use rustler::{Encoder, Env, LocalPid, Term};

use crate::arena::Arena;
use crate::reclaimer::{reclaim, Retired};
use crate::weigh::{account, Limits};
use crate::{atoms, clock};

/// A generation whose entries can be handed to a processor.
pub trait Readable: Generation<Arena = Arena> {
    /// Up to `count` entries from a cursor on, as a list, and the cursor after them. The first cursor
    /// is 0.
    fn read<'a>(&self, env: Env<'a>, cursor: usize, count: usize) -> (Term<'a>, usize);
}

/// What the BEAM does with a partition of any kind.
pub trait Cycle: Sync {
    /// See [`Partition::swap`].
    fn swap(&self) -> usize;
    /// See [`Partition::draining`].
    fn draining(&self) -> usize;
    /// See [`Partition::len`].
    fn live(&self) -> usize;
    /// See [`Partition::claim`].
    fn claim(&self, owner: LocalPid) -> Result<(), NotOwner>;
    /// Settles the caller's batch and starts the next one: the entries, or `large` if they are more
    /// than `within` allows, or why there is none.
    fn next<'a>(&self, env: Env<'a>, limit: usize, within: Within) -> Term<'a>;
    /// Settles the caller's batch and starts one of all that is left, without reading it.
    fn start_all<'a>(&self, env: Env<'a>) -> Term<'a>;
    /// See [`Partition::done`].
    fn done(&self, owner: LocalPid) -> Result<usize, NotOwner>;
    /// The entries of the batch in flight.
    fn copy<'a>(&self, env: Env<'a>) -> Term<'a>;
    /// See [`Readable::read`].
    fn peek<'a>(&self, env: Env<'a>, cursor: usize, count: usize) -> (Term<'a>, usize);
    /// See [`Partition::drain_status`].
    fn status(&self) -> (Option<LocalPid>, Option<Batch>);
    /// See [`Partition::fail`].
    fn fail(&self, owner: LocalPid) -> Result<(), NotOwner>;
    /// See [`Partition::settle`].
    fn settle(&self, reason: Reason) -> Option<Discarded>;
    /// See [`Partition::discard_rest`].
    fn discard_rest(&self, reason: Reason) -> Option<Discarded>;
    /// See [`Partition::unreported`].
    fn unreported(&self) -> Vec<Discarded>;
    /// See [`Partition::reported`].
    fn reported(&self, count: usize);
    /// See [`Partition::is_closed`].
    fn is_closed(&self) -> bool;
    /// See [`Partition::stats`].
    fn stats(&self) -> Stats;
}

/// Which batches may be copied by the call that starts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Within {
    /// Those within [`Limits`].
    Bounds,
    /// All: the call runs on a dirty scheduler.
    Anything,
}

impl<G: Readable + Send> Cycle for Partition<G, LocalPid> {
    fn swap(&self) -> usize {
        Partition::swap(self)
    }

    fn draining(&self) -> usize {
        Partition::draining(self)
    }

    fn live(&self) -> usize {
        Partition::len(self)
    }

    fn claim(&self, owner: LocalPid) -> Result<(), NotOwner> {
        Partition::claim(self, owner)
    }

    fn next<'a>(&self, env: Env<'a>, limit: usize, within: Within) -> Term<'a> {
        start(self, env, limit, |drain, batch| {
            let large = batch.len > Limits::ENTRIES || batch.bytes > Limits::BYTES;
            if large && within == Within::Bounds {
                return atoms::large().encode(env);
            }
            account(env, batch.len / 2, batch.bytes);
            drain.read(env, 0, batch.len).0
        })
    }

    fn start_all<'a>(&self, env: Env<'a>) -> Term<'a> {
        start(self, env, usize::MAX, |_, batch| batch.len.encode(env))
    }

    fn done(&self, owner: LocalPid) -> Result<usize, NotOwner> {
        let mut retired = Retired::default();
        let left = Partition::done(self, owner, &mut retired);
        reclaim(retired);
        left
    }

    fn copy<'a>(&self, env: Env<'a>) -> Term<'a> {
        self.read(|drain, batch| drain.read(env, 0, batch.map_or(0, |batch| batch.len)).0)
    }

    fn peek<'a>(&self, env: Env<'a>, cursor: usize, count: usize) -> (Term<'a>, usize) {
        self.read(|drain, _| drain.read(env, cursor, count))
    }

    fn status(&self) -> (Option<LocalPid>, Option<Batch>) {
        self.drain_status()
    }

    fn fail(&self, owner: LocalPid) -> Result<(), NotOwner> {
        Partition::fail(self, owner)
    }

    fn settle(&self, reason: Reason) -> Option<Discarded> {
        let mut retired = Retired::default();
        let discarded = Partition::settle(self, reason, &mut retired);
        reclaim(retired);
        discarded
    }

    fn discard_rest(&self, reason: Reason) -> Option<Discarded> {
        let mut retired = Retired::default();
        let discarded = Partition::discard_rest(self, reason, &mut retired);
        reclaim(retired);
        discarded
    }

    fn unreported(&self) -> Vec<Discarded> {
        Partition::unreported(self)
    }

    fn reported(&self, count: usize) {
        Partition::reported(self, count);
    }

    fn is_closed(&self) -> bool {
        Partition::is_closed(self)
    }

    fn stats(&self) -> Stats {
        Partition::stats(self)
    }
}

fn start<'a, G: Readable>(
    partition: &Partition<G, LocalPid>,
    env: Env<'a>,
    limit: usize,
    read: impl FnOnce(&G, &Batch) -> Term<'a>,
) -> Term<'a> {
    let mut retired = Retired::default();
    let started = partition.next(env.pid(), limit, clock::now, &mut retired, read);
    reclaim(retired);
    match started {
        Ok(Some(term)) => term,
        Ok(None) => atoms::empty().encode(env),
        Err(NotOwner) => atoms::not_owner().encode(env),
    }
}
