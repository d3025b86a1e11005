//! Lets a write that spans partitions in as a whole, or not at all.
//!
//! Such a write takes one partition's lock after the other. Without a gate, closing could fall
//! between two of them and leave the write half accepted. A write enters the gate first; once in,
//! it may finish on partitions that are closed meanwhile, and closing waits until all that entered
//! have left before the partitions are closed.

use crate::sync::{yield_now, AtomicUsize, Ordering};
use crate::Closed;

const CLOSED: usize = 1;
const WRITER: usize = 2;

/// Counts the writes that are inside and remembers whether it has been closed.
#[derive(Debug)]
pub struct Gate {
    // Bit 0: closed. The rest: how many writes are inside.
    state: AtomicUsize,
}

/// A write that is inside; it leaves when this is dropped.
#[derive(Debug)]
pub struct Pass<'a>(&'a Gate);

impl Gate {
    /// An open gate.
    pub fn open() -> Self {
        Self {
            state: AtomicUsize::new(0),
        }
    }

    /// Enters, unless the gate is closed.
    pub fn enter(&self) -> Result<Pass<'_>, Closed> {
        // Writes that come too late do not keep `close` waiting: they leave a closed gate alone.
        if self.state.load(Ordering::Relaxed) & CLOSED != 0 {
            return Err(Closed);
        }
        // Acquire pairs with nothing that is read here: the partitions' locks order the data. The
        // one counter makes "entered" and "closed" a single order, and that is all that is needed.
        let before = self.state.fetch_add(WRITER, Ordering::Acquire);
        let pass = Pass(self);
        if before & CLOSED == 0 {
            Ok(pass)
        } else {
            Err(Closed)
        }
    }

    /// Closes the gate and returns when every write that had entered has left.
    ///
    /// The wait is bounded: what is inside copies at most one call's list and never blocks.
    pub fn close(&self) {
        let mut state = self.state.fetch_or(CLOSED, Ordering::AcqRel) | CLOSED;
        while state != CLOSED {
            yield_now();
            // Pairs with the Release of `Pass::drop`: what the writers did is seen.
            state = self.state.load(Ordering::Acquire);
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.0.state.fetch_sub(WRITER, Ordering::Release);
    }
}

// Orders that threads can come in are in tests/models/gate.rs.
#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    #[test]
    fn lets_in_until_it_is_closed() {
        let gate = Gate::open();
        let passes = [gate.enter(), gate.enter()];
        assert!(passes.iter().all(Result::is_ok));
        drop(passes);
        gate.close();
        assert!(matches!(gate.enter(), Err(Closed)));
        gate.close();
        assert!(matches!(gate.enter(), Err(Closed)));
    }

    #[test]
    fn closes_when_the_last_one_has_left() {
        let gate = Gate::open();
        let (closed, is_closed) = channel();
        std::thread::scope(|scope| {
            let pass = gate.enter();
            let other = gate.enter();
            scope.spawn(|| {
                gate.close();
                closed.send(())
            });
            // Those that come while it waits are refused.
            while gate.enter().is_ok() {
                yield_now();
            }
            drop(pass);
            assert!(is_closed.recv_timeout(Duration::from_millis(20)).is_err());
            drop(other);
            assert!(is_closed.recv().is_ok());
        });
    }
}
