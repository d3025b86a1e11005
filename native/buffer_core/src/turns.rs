//! Turns: one of many has the turn, the others wait for it in order.
//!
//! Invariants:
//!
//! 1. One has the turn at the most; nobody waits while nobody has it.
//! 2. Who waits gets the turn after all that waited before, and before all that came later: nobody is
//!    passed over, so nobody starves.
//! 3. Nobody is in it twice: asking again, having the turn or waiting for it, changes nothing.
//! 4. Who is gone ([`leave`](Turns::leave)) gives up the turn, or its place.
//!
//! Nobody is woken up in here: who gives the turn up is told whose it is now, and tells that one after the
//! lock has been released. If that one can't be told, because it is gone, its turn ends by `leave`.

use std::collections::VecDeque;

use crate::sync::{AtomicBool, Mutex, Ordering};

/// Who has the turn, and who waits for it.
#[derive(Debug)]
pub struct Turns<W> {
    // Whether anybody has the turn; changes under the lock, read without it.
    held: AtomicBool,
    line: Mutex<VecDeque<W>>, // the first one has the turn
}

impl<W: Copy + PartialEq> Default for Turns<W> {
    fn default() -> Self {
        Self::new()
    }
}

impl<W: Copy + PartialEq> Turns<W> {
    /// Nobody has the turn.
    pub fn new() -> Self {
        Self {
            held: AtomicBool::new(false),
            line: Mutex::new(VecDeque::new()),
        }
    }

    /// Gets in line. True if it is the turn of `who` now; otherwise it will be told.
    pub fn take(&self, who: W) -> bool {
        let mut line = self.line.lock();
        if !line.contains(&who) {
            line.push_back(who);
        }
        self.held.store(true, Ordering::Relaxed);
        line.front() == Some(&who)
    }

    /// Leaves the line, with the turn or without: answers who has the turn now and is to be told, if
    /// that has changed.
    pub fn leave(&self, who: W) -> Option<W> {
        let mut line = self.line.lock();
        let place = line.iter().position(|other| *other == who)?;
        line.remove(place);
        self.held.store(!line.is_empty(), Ordering::Relaxed);
        if place == 0 {
            line.front().copied()
        } else {
            None
        }
    }

    /// Whether anybody has the turn. By the time that this is known it may have changed.
    pub fn is_held(&self) -> bool {
        // Nothing is read on the strength of it: it tells who could go on that it had better wait.
        self.held.load(Ordering::Relaxed)
    }

    /// How many wait, and one that has the turn.
    pub fn len(&self) -> usize {
        self.line.lock().len()
    }

    /// Whether nobody has the turn.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

// Orders that threads can come in are in tests/loom_cell.rs, sequences in tests/cell_props.rs.
#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn goes_from_one_to_the_next() {
        let turns = Turns::new();
        assert!(!turns.is_held());
        assert!(turns.take('a'));
        assert!(turns.is_held());
        assert!(!turns.take('b'));
        assert!(!turns.take('c'));
        assert_eq!(turns.leave('a'), Some('b'));
        assert_eq!(turns.leave('b'), Some('c'));
        assert!(turns.is_held());
        assert_eq!(turns.leave('c'), None);
        assert!(!turns.is_held());
    }

    #[test]
    fn who_leaves_without_having_it_changes_nothing_for_others() {
        let turns = Turns::new();
        assert!(turns.take('a'));
        assert!(!turns.take('b'));
        assert!(!turns.take('c'));
        assert_eq!(turns.leave('b'), None);
        assert_eq!(turns.leave('x'), None);
        assert_eq!(turns.leave('a'), Some('c'));
    }

    #[test]
    fn asking_twice_is_asking_once() {
        let turns = Turns::new();
        assert!(turns.take('a'));
        assert!(turns.take('a'));
        assert!(!turns.take('b'));
        assert!(!turns.take('b'));
        assert_eq!(turns.len(), 2);
        assert_eq!(turns.leave('a'), Some('b'));
        assert_eq!(turns.leave('b'), None);
        assert!(turns.is_empty());
    }
}
