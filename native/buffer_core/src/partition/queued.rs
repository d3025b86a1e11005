//! Looking at what is queued, without taking it out.

use std::sync::Arc;

use super::drain::Keep;
use super::{Generation, NotOwner, Partition};
use crate::delivery::After;

/// A generation, seen under its lock.
pub struct View<'a, G> {
    /// It.
    pub generation: &'a G,
    /// Places of the partition before its first one.
    pub base: u64,
}

/// What is to be tried again, at the beginning of a draining generation: how many entries, and which of them
/// (`None`: all).
pub type Again = (usize, Option<Arc<[u32]>>);

impl<G: Generation, O: Copy + PartialEq> Partition<G, O> {
    /// What is to be tried again first, if anything is.
    pub fn again(&self) -> Option<Again> {
        let drain = self.drain.lock();
        let piece = drain.pieces.front();
        piece.map(|piece| (piece.len, piece.pending.clone()))
    }

    /// Looks at the entries that are queued: at the draining generation behind the batch in flight, or, if
    /// `place` is behind all of it, at the live one. `drain` gets the place behind the batch in flight, and what
    /// is to be tried again behind it.
    pub fn look<R>(
        &self,
        place: u64,
        drain: impl FnOnce(View<'_, G>, u64, Vec<Again>) -> Option<R>,
        live: impl FnOnce(View<'_, G>) -> R,
    ) -> R {
        let guard = self.drain.lock();
        let in_flight = self.ledger.lock().in_flight.as_ref().map(|it| it.last);
        let from = in_flight.unwrap_or(guard.base + guard.generation.places().0);
        if !guard.generation.is_empty()
            && place.max(from) < guard.base + guard.generation.places().1
        {
            let again = guard.pieces.iter();
            let again = again.map(|piece| (piece.len, piece.pending.clone()));
            let view = View {
                generation: &guard.generation,
                base: guard.base,
            };
            if let Some(result) = drain(view, from, again.collect()) {
                return result;
            }
        }
        // There is no swap before this one is released.
        let guard = self.live.lock();
        live(View {
            generation: &guard.generation,
            base: guard.base,
        })
    }

    /// Gives up entries of the draining generation that came before `moment`, while its owner has no batch.
    /// Whether there were any; there may be more.
    pub fn expire_some(
        &self,
        owner: O,
        moment: i64,
        keep: Keep<'_, G>,
        after: &mut After<G::Arena, O>,
    ) -> Result<bool, NotOwner> {
        let mut drain = self.drain.lock();
        {
            let ledger = self.ledger.lock();
            ledger.check(owner)?;
            if ledger.in_flight.is_some() {
                return Ok(false);
            }
        }
        Ok(!drain.generation.is_empty() && self.expire(&mut drain, moment, keep, after))
    }
}
