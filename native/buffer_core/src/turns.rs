//! Turns: one of many has the turn, the others wait for it in order.
//!
//! Invariants:
//!
//! 1. One has the turn at the most; until they are closed, nobody waits while nobody has it.
//! 2. Who waits gets the turn after all that waited before, and before all that came later: nobody is
//!    passed over, so nobody starves.
//! 3. Nobody is in it twice: asking again, having the turn or waiting for it, changes nothing.
//! 4. Who is gone ([`leave`](Turns::leave)) gives up the turn, or its place.
//! 5. After [`close`](Turns::close), nobody gets the turn any more, and to everybody else it looks as if somebody had it.
//!
//! Who has the turn may keep it for as long as nobody waits: it is told when the first one does.
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
    line: Mutex<Line<W>>,
}

#[derive(Debug)]
struct Line<W> {
    // The first one has the turn.
    all: VecDeque<W>,
    closed: bool,
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Take<W> {
    /// That of who asks.
    Now,
    /// That of another one, who is to be told that somebody waits.
    Wait(Option<W>),
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
            line: Mutex::new(Line {
                all: VecDeque::new(),
                closed: false,
            }),
        }
    }

    /// Gets in line. Nobody, if it is the turn of `who` now, or who has it. Otherwise `who` will be told; and who has
    /// the turn is to be told now that somebody waits, unless it knows.
    pub fn take(&self, who: W) -> Take<W> {
        let mut line = self.line.lock();
        let new = !line.all.contains(&who);
        if line.closed && new {
            return Take::Wait(None);
        }
        if new {
            line.all.push_back(who);
        }
        self.held.store(true, Ordering::Relaxed);
        match line.all.front() {
            Some(&first) if first != who => {
                let second = new && line.all.len() == 2 && !line.closed;
                Take::Wait(second.then_some(first))
            }
            _ => Take::Now,
        }
    }

    /// Leaves the line, with the turn or without: answers who has the turn now and is to be told, if
    /// that has changed, and whether others wait for that one.
    pub fn leave(&self, who: W) -> Option<(W, bool)> {
        let mut line = self.line.lock();
        let place = line.all.iter().position(|other| *other == who)?;
        line.all.remove(place);
        if line.closed {
            // Those behind it are in front of the line now, and never get anywhere.
            if place == 0 {
                line.all.clear();
            }
            return None;
        }
        self.held.store(!line.all.is_empty(), Ordering::Relaxed);
        let first = line.all.front().filter(|_| place == 0)?;
        Some((*first, line.all.len() > 1))
    }

    /// Who has the turn is the last one that has had it. Who waits for it is not told, and waits until it ends.
    pub fn close(&self) {
        let mut line = self.line.lock();
        line.closed = true;
        self.held.store(true, Ordering::Relaxed);
    }

    /// Whether anybody has the turn. By the time that this is known it may have changed.
    pub fn is_held(&self) -> bool {
        // Nothing is read on the strength of it: it tells who could go on that it had better wait.
        self.held.load(Ordering::Relaxed)
    }

    /// How many wait, and one that has the turn.
    pub fn len(&self) -> usize {
        self.line.lock().all.len()
    }

    /// Whether nobody has the turn.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

// Orders that threads can come in are in tests/models/cell.rs, sequences in tests/props/cell.rs.
#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn goes_from_one_to_the_next() {
        let turns = Turns::new();
        assert!(!turns.is_held());
        assert_eq!(turns.take('a'), Take::Now);
        assert!(turns.is_held());
        assert_eq!(turns.take('b'), Take::Wait(Some('a')));
        assert_eq!(turns.take('c'), Take::Wait(None));
        assert_eq!(turns.leave('a'), Some(('b', true)));
        assert_eq!(turns.leave('b'), Some(('c', false)));
        assert!(turns.is_held());
        assert_eq!(turns.take('a'), Take::Wait(Some('c')));
        assert_eq!(turns.leave('c'), Some(('a', false)));
        assert_eq!(turns.leave('a'), None);
        assert!(!turns.is_held());
    }

    #[test]
    fn who_leaves_without_having_it_changes_nothing_for_others() {
        let turns = Turns::new();
        assert_eq!(turns.take('a'), Take::Now);
        assert_eq!(turns.take('b'), Take::Wait(Some('a')));
        assert_eq!(turns.take('c'), Take::Wait(None));
        assert_eq!(turns.leave('b'), None);
        assert_eq!(turns.leave('x'), None);
        assert_eq!(turns.leave('a'), Some(('c', false)));
    }

    #[test]
    fn closed_they_are_nobodys_after_who_has_the_turn() {
        let turns = Turns::new();
        assert_eq!(turns.take('a'), Take::Now);
        assert_eq!(turns.take('b'), Take::Wait(Some('a')));
        turns.close();
        assert_eq!(turns.take('a'), Take::Now);
        assert_eq!(turns.take('c'), Take::Wait(None));
        assert_eq!(turns.leave('a'), None);
        for who in ['a', 'b', 'c'] {
            assert_eq!(turns.take(who), Take::Wait(None));
            assert_eq!(turns.leave(who), None);
        }
        assert!(turns.is_held());

        let turns = Turns::new();
        turns.close();
        assert!(turns.is_held());
        assert_eq!(turns.take('a'), Take::Wait(None));
    }

    #[test]
    fn asking_twice_is_asking_once() {
        let turns = Turns::new();
        assert_eq!(turns.take('a'), Take::Now);
        assert_eq!(turns.take('a'), Take::Now);
        assert_eq!(turns.take('b'), Take::Wait(Some('a')));
        assert_eq!(turns.take('b'), Take::Wait(None));
        assert_eq!(turns.len(), 2);
        assert_eq!(turns.leave('a'), Some(('b', false)));
        assert_eq!(turns.leave('b'), None);
        assert!(turns.is_empty());
    }
}
