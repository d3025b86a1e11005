//! Cells and turns: writers beside each other, beside a reader, and beside one that dies.
//!
//! In every interleaving (see `model.rs` for the bound):
//!
//! 1. No addition of two writers that try again is lost, and each version had one value.
//! 2. A reader never sees a version with the value of another one, and never goes back.
//! 3. With turns, a writer that has the turn is never beside another one, each one's turn comes, and one
//!    that is gone holds nobody up.

use crate::model::check;
use buffer_core::cell::{self, Cell};
use buffer_core::turns::Take;
use buffer_core::Turns;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;

/// Adds one, however often that takes. The value is always the version.
fn add(cell: &Cell<u64>) {
    loop {
        let (version, value) = cell.load(None, |value| *value).expect("nothing is known");
        assert_eq!(version, value);
        if cell.replace(version, value + 1).is_ok() {
            return;
        }
    }
}

#[test]
fn no_addition_is_lost() {
    check(|| {
        let cell = Arc::new(Cell::new(cell::FIRST));
        let writers = [(); 2].map(|()| {
            let cell = Arc::clone(&cell);
            thread::spawn(move || add(&cell))
        });
        add(&cell);
        for writer in writers {
            writer.join().expect("writers do not panic");
        }
        let (version, value) = cell.load(None, |value| *value).expect("nothing is known");
        assert_eq!((version, value), (cell::FIRST + 3, cell::FIRST + 3));
    });
}

#[test]
fn a_reader_sees_versions_with_their_values_and_in_order() {
    check(|| {
        let cell = Arc::new(Cell::new(cell::FIRST));
        let writer = {
            let cell = Arc::clone(&cell);
            thread::spawn(move || {
                add(&cell);
                add(&cell);
            })
        };
        let mut known = None;
        for _ in 0..3 {
            if let Some((version, value)) = cell.load(known, |value| *value) {
                assert_eq!(version, value);
                assert!(known < Some(version), "it went back");
                known = Some(version);
            }
        }
        writer.join().expect("writers do not panic");
    });
}

/// Turns and what tells those that wait: the pids and messages of the BEAM.
struct Room {
    turns: Turns<usize>,
    told: Mutex<Vec<usize>>,
    wanted: Mutex<Vec<usize>>,
    inside: AtomicUsize,
    done: AtomicUsize,
}

impl Room {
    fn leave(&self, who: usize) {
        if let Some((next, wanted)) = self.turns.leave(who) {
            self.told.lock().expect("no panic").push(next);
            if wanted {
                self.wanted.lock().expect("no panic").push(next);
            }
        }
    }

    /// Gets in line, and waits for the turn.
    fn enter(&self, who: usize) {
        let Take::Wait(holder) = self.turns.take(who) else {
            return;
        };
        self.wanted.lock().expect("no panic").extend(holder);
        while !self.told.lock().expect("no panic").contains(&who) {
            thread::yield_now();
        }
    }

    /// Keeps the turn until somebody else wants it.
    fn keep(&self, who: usize) {
        while !self.wanted.lock().expect("no panic").contains(&who) {
            thread::yield_now();
        }
        self.leave(who);
    }

    /// Waits for the turn, has it, and gives it up.
    fn visit(&self, who: usize) {
        self.enter(who);
        assert!(self.turns.is_held());
        assert_eq!(self.inside.fetch_add(1, Ordering::SeqCst), 0, "two inside");
        self.inside.fetch_sub(1, Ordering::SeqCst);
        self.done.fetch_add(1, Ordering::SeqCst);
        self.leave(who);
    }
}

fn room() -> Arc<Room> {
    Arc::new(Room {
        turns: Turns::new(),
        told: Mutex::new(Vec::new()),
        wanted: Mutex::new(Vec::new()),
        inside: AtomicUsize::new(0),
        done: AtomicUsize::new(0),
    })
}

#[test]
fn each_has_its_turn_and_nobody_beside_it() {
    check(|| {
        let room = room();
        let other = {
            let room = Arc::clone(&room);
            thread::spawn(move || room.visit(1))
        };
        room.visit(2);
        other.join().expect("visitors do not panic");
        assert_eq!(room.done.load(Ordering::SeqCst), 2);
        assert!(room.turns.is_empty() && !room.turns.is_held());
    });
}

#[test]
fn one_that_keeps_the_turn_is_told_that_it_is_wanted() {
    check(|| {
        let room = room();
        room.enter(1);
        let keeper = {
            let room = Arc::clone(&room);
            thread::spawn(move || room.keep(1))
        };
        room.visit(2);
        keeper.join().expect("visitors do not panic");
        assert!(room.turns.is_empty() && !room.turns.is_held());
    });
}

#[test]
fn one_that_is_gone_holds_nobody_up() {
    check(|| {
        let room = room();
        let gone = {
            let room = Arc::clone(&room);
            thread::spawn(move || {
                // Dies in line, wherever it was: somebody else sees to that.
                let _place = room.turns.take(1);
                room.leave(1);
            })
        };
        room.visit(2);
        gone.join().expect("visitors do not panic");
        assert!(room.turns.is_empty() && !room.turns.is_held());
    });
}
