//! The partitions of one buffer, and its end.

use std::sync::Arc;

use crate::capacity::{Capacity, Size};
use crate::gate::{Gate, Pass};
use crate::{Closed, Generation, Partition};

/// The partitions of one buffer. Their number never changes, so neither does where a key belongs.
pub struct Buffer<G: Generation, O> {
    partitions: Box<[Partition<G, O>]>,
    gate: Gate,
    capacity: Arc<Capacity>,
}

impl<G: Generation, O: Copy + PartialEq> Buffer<G, O> {
    /// An open buffer of `partitions` empty partitions. None is allowed: nothing can be written then.
    pub fn new(partitions: usize) -> Self {
        let capacity = Arc::<Capacity>::default();
        let partition = |_| Partition::new(Arc::clone(&capacity));
        Self {
            partitions: (0..partitions).map(partition).collect(),
            gate: Gate::open(),
            capacity,
        }
    }

    /// What all of them together may hold.
    pub fn capacity(&self) -> &Capacity {
        &self.capacity
    }

    /// Changes that. Answers whether writers wait for room.
    pub fn set_limit(&self, limit: Option<Size>) -> bool {
        crate::partition::set_limit(&self.partitions, &self.capacity, limit)
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
    use crate::{After, Arena, Queue};

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

    fn can_write(partition: &Partition<Queue<Nothing>, u8>) -> bool {
        partition.write(&mut After::default(), |_, _| ()).is_ok()
    }

    #[test]
    fn closing_closes_the_gate_and_every_partition() {
        let buffer = TestBuffer::new(3);
        assert!(buffer.enter().is_ok());
        assert!(buffer.partitions().iter().all(can_write));
        buffer.close();
        assert!(buffer.enter().is_err());
        assert!(buffer.partitions().iter().all(|p| !can_write(p)));
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
