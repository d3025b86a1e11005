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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::{Arena, Queue};

    struct Nothing;

    impl Arena for Nothing {
        fn new() -> Self {
            Self
        }

        fn copy_from(&mut self, other: &Self, index: usize) {
            _ = (other, index);
        }

        fn len(&self) -> usize {
            0
        }
    }

    type TestBuffer = Buffer<Queue<Nothing>, u8>;

    #[test]
    fn closing_closes_the_gate_and_every_partition() {
        let buffer = TestBuffer::new(3);
        assert!(buffer.enter().is_ok());
        assert!(buffer.partitions().iter().all(|p| p.write(|_| ()).is_ok()));
        buffer.close();
        assert!(buffer.enter().is_err());
        assert!(buffer.partitions().iter().all(|p| p.write(|_| ()).is_err()));
        assert!(buffer.partitions().iter().all(Partition::is_closed));
    }

    #[test]
    fn may_be_without_partitions() {
        let buffer = TestBuffer::new(0);
        assert!(buffer.partitions().is_empty());
        buffer.close();
        assert!(buffer.enter().is_err());
    }
}
