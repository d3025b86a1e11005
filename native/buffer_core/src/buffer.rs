//! The partitions of one buffer, and its end.

use crate::gate::{Gate, Pass};
use crate::{Closed, Generation, Partition};

/// The partitions of one buffer. Their number never changes, so neither does where a key belongs.
pub struct Buffer<G: Generation, O> {
    partitions: Box<[Partition<G, O>]>,
    gate: Gate,
}

impl<G: Generation, O: Copy + PartialEq> Buffer<G, O> {
    /// An open buffer of `partitions` empty partitions. None is allowed: nothing can be written then.
    pub fn new(partitions: usize) -> Self {
        Self {
            partitions: (0..partitions).map(|_| Partition::default()).collect(),
            gate: Gate::open(),
        }
    }

    /// Its partitions.
    pub fn partitions(&self) -> &[Partition<G, O>] {
        &self.partitions
    }

    /// Lets a write in that spans partitions; see [`Gate`].
    pub fn enter(&self) -> Result<Pass<'_>, Closed> {
        self.gate.enter()
    }

    /// Closes every partition. A write whose call returned before is in; every later one is refused.
    pub fn close(&self) {
        self.gate.close();
        self.partitions.iter().for_each(Partition::close);
    }
}
