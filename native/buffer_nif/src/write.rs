//! What all writes have in common: why one is refused, and where an entry goes by itself.

use buffer_core::route::route;
use buffer_core::Closed;
use rustler::{Atom, Term};

use crate::atoms;
use crate::weigh::Heavy;

/// Why nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The buffer has been closed.
    Closed,
    /// Too large for a normal scheduler, or, on a dirty one, for anything.
    Heavy,
    /// Not a proper list, or not a list of what it has to be.
    Improper,
    /// There are no partitions.
    NoPartitions,
    /// The buffer is of another kind.
    OtherKind,
}

impl Refused {
    /// The atom that says so.
    pub fn atom(self) -> Atom {
        match self {
            Refused::Closed => atoms::closed(),
            Refused::Heavy => atoms::heavy(),
            Refused::Improper => atoms::improper(),
            Refused::NoPartitions => atoms::no_partitions(),
            Refused::OtherKind => atoms::other_kind(),
        }
    }
}

impl From<Closed> for Refused {
    fn from(_: Closed) -> Self {
        Refused::Closed
    }
}

impl From<Heavy> for Refused {
    fn from(_: Heavy) -> Self {
        Refused::Heavy
    }
}

/// `ok`, or why nothing was written.
pub fn answer(result: Result<(), Refused>) -> Atom {
    match result {
        Ok(()) => atoms::ok(),
        Err(refused) => refused.atom(),
    }
}

/// The partition of a term that is its own routing key, out of `partitions`.
#[inline]
pub fn own_route(term: Term<'_>, partitions: usize) -> Result<usize, Refused> {
    match partitions {
        0 => Err(Refused::NoPartitions),
        1 => Ok(0),
        count => {
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            Ok(route(term.hash_phash2(), count))
        }
    }
}
