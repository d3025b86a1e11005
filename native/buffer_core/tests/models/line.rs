//! Writers in line, against the end of a drain, a close, each other, and giving up.
//!
//! In every interleaving (see `model.rs` for the bound):
//!
//! 1. No turn is lost: a writer that stands in line while the drain ends is served, by itself or by who
//!    saw that end.
//! 2. A writer that steps out has written nothing, or was served and told.
//! 3. Writes are made in the order of the line, one writer's in its order; a generation that is swapped out
//!    because it was full has what it held when it became full.
//! 4. A writer in line when the partition is closed is told so or that it was written, once.

use crate::model::{self, check, push, stats, values, Ints, Part};
use buffer_core::{After, NoTurn, Queue, Stood};
use loom::sync::{Arc, Mutex};
use loom::thread;

type Todo = After<Ints, u8>;

/// A partition, and who has been told what: the token, and whether it was written.
struct Shared {
    part: Part,
    told: Mutex<Vec<(u64, bool)>>,
}

impl Shared {
    /// Full with one value, `held` of which drain, and another one live.
    fn full() -> Arc<Self> {
        let part = Part::default();
        part.set_full(9, 1);
        let shared = Self {
            part,
            told: Mutex::new(Vec::new()),
        };
        assert!(shared.insert(1));
        assert!(shared.insert(2));
        Arc::new(shared)
    }

    fn tell(&self, todo: Todo) {
        let passed = todo.passed.into_iter();
        let told = passed.map(|passed| (passed.token, passed.lost.is_none()));
        self.told.lock().unwrap().extend(told);
    }

    /// Writes now, or not.
    fn insert(&self, value: u8) -> bool {
        let mut todo = Todo::default();
        let mut result = self.part.insert(&mut todo, |live| push(live, value));
        if matches!(result, Err(NoTurn::Full)) {
            self.part.swap_full(|| 0);
            result = self.part.insert(&mut todo, |live| push(live, value));
        }
        self.tell(todo);
        result.is_ok()
    }

    /// Writes when it is its turn; whether it has been told already.
    fn stand(&self, value: u8) -> Result<Stood, buffer_core::Closed> {
        let mut todo = Todo::default();
        let mut entries = Queue::default();
        push(&mut entries, value);
        let stood = self.part.stand((7, u64::from(value)), entries, &mut todo);
        if stood == Ok(Stood::Waits) {
            self.part.turn(|_| true, || 0, &mut todo);
        }
        self.tell(todo);
        stood
    }

    /// The drain of what is draining, and what its end asks for. Answers the values.
    fn drain(&self) -> Vec<u8> {
        let mut drained = Vec::new();
        while let Some(batch) = model::next(&self.part, 1, 10) {
            drained.extend(batch);
        }
        let mut todo = Todo::default();
        self.part.turn(|_| true, || 0, &mut todo);
        self.tell(todo);
        drained
    }

    /// All that is left.
    fn rest(&self) -> Vec<u8> {
        let mut rest = Vec::new();
        for _ in 0..4 {
            rest.extend(self.drain());
            model::swap(&self.part);
        }
        rest
    }

    fn told(&self) -> Vec<(u64, bool)> {
        self.told.lock().unwrap().clone()
    }
}

fn spawn<R: 'static>(
    shared: &Arc<Shared>,
    run: impl FnOnce(&Shared) -> R + 'static,
) -> thread::JoinHandle<R> {
    let shared = Arc::clone(shared);
    thread::spawn(move || run(&shared))
}

#[test]
fn a_writer_in_line_is_served_when_the_drain_ends() {
    check(|| {
        let shared = Shared::full();
        let writer = spawn(&shared, |shared| shared.stand(3));
        let mut all = shared.drain();
        let stood = writer.join().unwrap();
        // One turn is enough, whoever took it.
        assert_eq!(shared.part.standings().in_line, 0);
        let told: &[_] = if stood == Ok(Stood::Waits) {
            &[(3, true)]
        } else {
            &[]
        };
        assert_eq!(shared.told(), told);
        assert_eq!(shared.part.standings().len, 1);
        all.extend(shared.rest());
        assert_eq!(all, [1, 2, 3]);
        stats(&shared.part);
    });
}

#[test]
fn a_writer_that_steps_out_was_served_or_has_written_nothing() {
    check(|| {
        let shared = Shared::full();
        assert_eq!(shared.stand(3), Ok(Stood::Waits));
        let impatient = spawn(&shared, |shared| {
            let mut todo = Todo::default();
            let stood = shared.part.step_out(3, &mut todo);
            shared.tell(todo);
            stood
        });
        let mut all = shared.drain();
        let stepped_out = impatient.join().unwrap();
        all.extend(shared.rest());
        if stepped_out {
            assert_eq!(all, [1, 2]);
            assert_eq!(shared.told(), []);
        } else {
            assert_eq!(all, [1, 2, 3]);
            assert_eq!(shared.told(), [(3, true)]);
        }
    });
}

#[test]
fn writers_do_not_overtake_who_stands_in_line() {
    check(|| {
        let shared = Shared::full();
        assert_eq!(shared.stand(3), Ok(Stood::Waits));
        let newcomer = spawn(&shared, |shared| {
            shared.insert(4) || shared.stand(4).is_ok()
        });
        let mut all = shared.drain();
        assert!(newcomer.join().unwrap());
        all.extend(shared.rest());
        assert_eq!(all, [1, 2, 3, 4]);
        assert_eq!(shared.part.standings().in_line, 0);
    });
}

#[test]
fn two_that_find_it_full_swap_it_once() {
    check(|| {
        let part = Part::default();
        part.set_full(9, 2);
        let shared = Arc::new(Shared {
            part,
            told: Mutex::new(Vec::new()),
        });
        assert!(shared.insert(1) && shared.insert(2));
        let other = spawn(&shared, |shared| {
            shared.insert(3) || shared.stand(3).is_ok()
        });
        assert!(shared.insert(4) || shared.stand(4).is_ok());
        assert!(other.join().unwrap());
        assert_eq!(
            shared.part.read(|drain, _| values(drain, 10)),
            [1, 2],
            "not all of what was full, and nothing else"
        );
        let mut rest = shared.rest();
        rest.sort_unstable();
        assert_eq!(rest, [1, 2, 3, 4]);
    });
}

#[test]
fn a_writer_in_line_is_told_of_the_close() {
    check(|| {
        let shared = Shared::full();
        let writer = spawn(&shared, |shared| shared.stand(3));
        shared.part.close();
        let mut todo = Todo::default();
        shared.part.dismiss(&mut todo);
        shared.tell(todo);
        let stood = writer.join().unwrap();
        let told: &[_] = match stood {
            Ok(Stood::Waits) => &[(3, false)],
            Ok(Stood::Written) => panic!("it was full"),
            Err(buffer_core::Closed) => &[],
        };
        assert_eq!(shared.told(), told);
        assert_eq!(shared.rest(), [1, 2]);
    });
}
