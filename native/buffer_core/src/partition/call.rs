//! The call of the processor with the batch in flight: how long it may take, and when it is over.
//!
//! Who watches it ends it when it has taken too long ([`Partition::time_out`]); who has the batch says that the
//! processor has returned, before anybody is told ([`Partition::returned`]). Both under `ledger`, so one of them is
//! first, and that is what holds: a call that was ended comes to nothing, whatever its owner does until it is dead,
//! and a batch whose processor has returned counts as processed, however its owner ends.

use super::{Generation, NotOwner, Partition};

/// How the call stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Call {
    /// The processor is at work, or none is.
    #[default]
    Runs,
    /// It has returned well.
    Returned,
    /// It has taken too long: its owner is to be ended.
    Ended,
}

/// What became of a call that is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watched {
    /// There is none.
    Nothing,
    /// It may take that much longer.
    Left(i64),
    /// Its owner is to be ended.
    Overdue,
}

impl<G: Generation, O: Copy + PartialEq> Partition<G, O> {
    /// The processor has returned from the batch that `owner` has, and it is well.
    pub fn returned(&self, owner: O, now: impl FnOnce() -> i64) -> Result<(), NotOwner> {
        let mut guard = self.ledger.lock();
        let ledger = &mut *guard;
        ledger.check(owner)?;
        if let Some(batch) = &mut ledger.in_flight {
            ledger.call = Call::Returned;
            // What is done then has time of its own.
            batch.started_at = now();
        }
        Ok(())
    }

    /// Ends the call if it has taken `timeout`: its owner is none any more, and the batch is to be settled when it
    /// is dead. When the processor has returned, what its owner does then may take `telling`, or `timeout` if that
    /// is longer.
    pub fn time_out(&self, timeout: i64, telling: i64, now: impl FnOnce() -> i64) -> Watched {
        let mut guard = self.ledger.lock();
        let ledger = &mut *guard;
        let Some(batch) = &ledger.in_flight else {
            return Watched::Nothing;
        };
        let may_take = match ledger.call {
            Call::Runs => timeout,
            Call::Returned => timeout.max(telling),
            Call::Ended => return Watched::Overdue,
        };
        let left = may_take.saturating_sub(now().saturating_sub(batch.started_at));
        if left > 0 {
            return Watched::Left(left);
        }
        if ledger.call == Call::Runs {
            ledger.call = Call::Ended;
        }
        Watched::Overdue
    }
}
