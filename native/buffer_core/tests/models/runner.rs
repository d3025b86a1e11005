//! Writers that start cycles, against a runner that goes to sleep, leaves or is replaced.
//!
//! In every interleaving (see `model.rs` for the bound):
//!
//! 1. A write that is followed by a `begin` is drained, or the runner has a wake-up to come, or the attendant has
//!    been told: nothing is left that nobody knows of.
//! 2. Of two that begin at once, beside the swap of the partition's process, one wakes the runner, once.
//! 3. What was started for a runner that leaves is the next one's, with what has started it: whether the former one
//!    waits, was woken, or has the first batch of it.
//! 4. A runner whose attendant was replaced is sent away or is the owner: never both it and the next one.
//!    A runner that has waited for long is sent away or woken, not both.
//! 5. A runner that takes one batch after the other, settling the former in the same step, is never found between two:
//!    nobody is called. If less is left than it wants while writers wait for room, what was noted comes with it, in order
//!    and once.

use std::sync::atomic::{AtomicUsize, Ordering}; // looked at when all threads have ended

use crate::model::{assert_complete, check, next, stats, values, write, Ints, Owner, Part};
use buffer_core::{
    After, Begun, Buffer, Idle, Mode, Next, Queue, Size, Step, Trigger, Wait, Waiters, Wanted,
};
use loom::sync::Arc;
use loom::thread;

const RUNNER: u8 = 1;
const ATTENDANT: u8 = 9;

/// A partition, and the messages that were sent.
struct World {
    buffer: Buffer<Queue<Ints>, Owner>,
    wakes: AtomicUsize,
    calls: AtomicUsize,
}

fn world() -> Arc<World> {
    let world = World {
        buffer: Buffer::new(1),
        wakes: AtomicUsize::new(0),
        calls: AtomicUsize::new(0),
    };
    world.partition().attend(ATTENDANT, Mode::default());
    Arc::new(world)
}

impl World {
    fn partition(&self) -> &Part {
        &self.buffer.partitions()[0]
    }

    fn begin(&self, trigger: Trigger) {
        let count = match self.partition().begin(trigger, None, || 0) {
            Begun::Woken(RUNNER, started) => {
                assert!(started.size > 0);
                &self.wakes
            }
            Begun::Unattended(Some(ATTENDANT)) => &self.calls,
            Begun::Nothing | Begun::Noted => return,
            other => panic!("{other:?}"),
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    fn idle(&self) -> Idle {
        self.partition().idle(RUNNER, ATTENDANT, None, || 0)
    }

    /// What a runner does until it waits or ends.
    fn run(&self, all: &mut Vec<u8>) -> Idle {
        loop {
            match self.idle() {
                Idle::Drains(_) => self.drain(all),
                end => return end,
            }
        }
    }

    fn drain(&self, all: &mut Vec<u8>) {
        while let Some(batch) = next(self.partition(), RUNNER, 2) {
            all.extend(batch);
        }
    }

    /// Settles a batch and takes the next one, of two entries.
    fn advance(&self) -> Step<Vec<u8>> {
        let read = |drain: &Queue<Ints>, batch: &buffer_core::Batch| values(drain, batch.len);
        let (who, wanted) = ((RUNNER, ATTENDANT), Wanted::entries(2));
        let mut after = After::default();
        let step = self
            .partition()
            .advance(who, wanted, None, 0, &|_, _| None, &mut after, read);
        step.expect("it is the owner")
    }

    /// What a runner does until it waits or ends, batch by batch: those batches.
    fn advance_all(&self) -> Vec<Vec<u8>> {
        let mut batches = Vec::new();
        while let Step::Drains(_, next) = self.advance() {
            let Next::Batch(batch) = next else {
                panic!("{next:?}");
            };
            batches.push(batch);
        }
        batches
    }

    /// What is done when all is quiet: each wake-up and each call is answered.
    fn settle(&self, all: &mut Vec<u8>) {
        let wakes = self.wakes.load(Ordering::Relaxed);
        let calls = self.calls.load(Ordering::Relaxed);
        let (owner, _) = self.partition().drain_status();
        assert_eq!(owner.is_some(), wakes > 0, "a wake-up is for the owner");
        assert!(wakes <= 1, "woken once until it waits again");
        if wakes > 0 {
            self.drain(all);
        }
        if wakes + calls > 0 {
            self.run(all);
        }
    }
}

fn writer(world: &Arc<World>, value: u8, trigger: Trigger) -> thread::JoinHandle<()> {
    let world = Arc::clone(world);
    thread::spawn(move || {
        assert!(write(world.partition(), value).is_ok());
        world.begin(trigger);
    })
}

#[test]
fn no_wake_up_is_lost_beside_a_runner_that_goes_to_sleep() {
    check(|| {
        let world = world();
        let writers = [
            writer(&world, 10, Trigger::Flush),
            writer(&world, 20, Trigger::MaxSize),
        ];
        let mut all = Vec::new();
        let end = world.run(&mut all);
        assert!(matches!(end, Idle::Waits(_)));
        stats(world.partition());
        for writer in writers {
            writer.join().unwrap();
        }
        world.settle(&mut all);
        assert_complete(&all, &[&[10], &[20]]);
    });
}

#[test]
fn of_two_that_begin_one_wakes_the_runner_that_waits() {
    check(|| {
        let world = world();
        let mut all = Vec::new();
        world.run(&mut all);
        let writers = [
            writer(&world, 10, Trigger::Flush),
            writer(&world, 20, Trigger::Flush),
        ];
        world.begin(Trigger::Interval);
        for writer in writers {
            writer.join().unwrap();
        }
        assert_eq!(world.wakes.load(Ordering::Relaxed), 1);
        assert_eq!(world.calls.load(Ordering::Relaxed), 0);
        world.settle(&mut all);
        assert_complete(&all, &[&[10], &[20]]);
    });
}

/// The runner that is started for the same attendant when another one has left.
fn successor(world: &World) -> Vec<u8> {
    assert_eq!(world.partition().drain_status(), (None, None));
    assert!(world.partition().is_pending());
    let Idle::Drains(started) = world.partition().idle(2, ATTENDANT, None, || 0) else {
        panic!("there is something to drain");
    };
    assert_eq!(started.trigger, Some(Trigger::Flush));
    let mut all = Vec::new();
    while let Some(batch) = next(world.partition(), 2, 2) {
        all.extend(batch);
    }
    all
}

#[test]
fn what_a_runner_was_woken_for_when_it_leaves_is_the_next_one_s() {
    check(|| {
        let world = world();
        world.run(&mut Vec::new());
        let writer = writer(&world, 10, Trigger::Flush);
        world.partition().leave(RUNNER, None);
        writer.join().unwrap();
        let (wakes, calls) = (&world.wakes, &world.calls);
        let told = wakes.load(Ordering::Relaxed) + calls.load(Ordering::Relaxed);
        assert_eq!(told, 1);
        assert_complete(&successor(&world), &[&[10]]);
    });
}

#[test]
fn a_runner_that_waits_is_sent_away_or_woken() {
    check(|| {
        let world = world();
        world.run(&mut Vec::new());
        let seen = world
            .partition()
            .send_away(u64::MAX)
            .expect_err("not so many");
        let writer = writer(&world, 10, Trigger::Flush);
        let away = world.partition().send_away(seen);
        writer.join().unwrap();
        let wakes = world.wakes.load(Ordering::Relaxed);
        let calls = world.calls.load(Ordering::Relaxed);
        if away.is_ok() {
            assert_eq!((away, wakes, calls), (Ok(RUNNER), 0, 1));
            assert_complete(&successor(&world), &[&[10]]);
        } else {
            assert_eq!((wakes, calls), (1, 0));
            assert_eq!(world.advance_all(), [[10]]);
        }
    });
}

#[test]
fn a_batch_that_a_runner_has_not_begun_with_when_it_leaves_is_the_next_one_s() {
    check(|| {
        let world = world();
        world.run(&mut Vec::new());
        assert!(write(world.partition(), 1).is_ok());
        world.begin(Trigger::Flush);
        let writer = writer(&world, 10, Trigger::Flush);
        let mut all = Vec::new();
        let unsaid = loop {
            match world.advance() {
                Step::Drains(None, Next::Batch(batch)) => all.extend(batch),
                // Noted before: with what was left of the first cycle, or behind it.
                Step::Drains(Some(started), Next::Batch(_)) => break started.trigger,
                Step::Waits(None, _) => break None,
                other => panic!("{other:?}"),
            }
        };
        world.partition().leave(RUNNER, unsaid);
        writer.join().unwrap();
        all.extend(successor(&world));
        assert_complete(&all, &[&[1], &[10]]);
    });
}

#[test]
fn a_runner_that_settles_is_at_work_or_waits() {
    check(|| {
        let world = world();
        world.run(&mut Vec::new());
        assert!(write(world.partition(), 1).is_ok());
        world.begin(Trigger::Flush);
        let writers = [
            writer(&world, 10, Trigger::Flush),
            writer(&world, 20, Trigger::MaxSize),
        ];
        let mut all: Vec<u8> = world.advance_all().concat();
        for writer in writers {
            writer.join().unwrap();
        }
        assert_eq!(world.calls.load(Ordering::Relaxed), 0);
        // Woken again since it waits.
        if world.wakes.load(Ordering::Relaxed) > 1 {
            all.extend(world.advance_all().concat());
        }
        assert_complete(&all, &[&[1], &[10], &[20]]);
        let stats = stats(world.partition());
        assert_eq!((stats.queued, stats.in_flight), (0, 0));
    });
}

#[test]
fn what_is_noted_comes_with_what_is_left_for_half_a_batch() {
    check(|| {
        let world = world();
        world.run(&mut Vec::new());
        (1..4).for_each(|value| assert!(write(world.partition(), value).is_ok()));
        world.buffer.set_limit(Some(Size::one(3)));
        let waiters = Waiters::default();
        let waits = waiters.wait(world.buffer.capacity(), Size::one(1), "a writer");
        assert!(matches!(waits, Wait::Waits(_)));
        world.begin(Trigger::Flush);
        let writer = writer(&world, 10, Trigger::Flush);
        let mut batches = world.advance_all();
        writer.join().unwrap();
        if world.wakes.load(Ordering::Relaxed) > 1 {
            batches.extend(world.advance_all());
        }
        let joined = batches == [vec![1, 2], vec![3, 10]];
        assert!(joined || batches == [vec![1, 2], vec![3], vec![10]]);
        assert_eq!(world.calls.load(Ordering::Relaxed), 0);
        let stats = stats(world.partition());
        assert_eq!((stats.queued, stats.in_flight, stats.processed), (0, 0, 4));
    });
}

#[test]
fn a_new_attendant_finds_the_former_runner_at_work_or_sends_it_away() {
    check(|| {
        let world = world();
        let former = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                let mut all = Vec::new();
                world.run(&mut all);
                all
            })
        };
        assert!(write(world.partition(), 10).is_ok());
        let begun = world.partition().begin(Trigger::Flush, None, || 0);
        world.partition().attend(8, Mode::default());
        let (owner, _) = world.partition().drain_status();
        let mut all = former.join().unwrap();
        if matches!(begun, Begun::Woken(..)) {
            // Its message has come meanwhile.
            assert_eq!(owner, Some(RUNNER));
            world.drain(&mut all);
            assert_eq!(world.idle(), Idle::Ends);
        }
        // Whoever the next attendant starts.
        while let Idle::Drains(_) = world.partition().idle(2, 8, None, || 0) {
            while let Some(batch) = next(world.partition(), 2, 2) {
                all.extend(batch);
            }
        }
        assert_complete(&all, &[&[10]]);
        assert_eq!(world.partition().drain_status(), (None, None));
    });
}
