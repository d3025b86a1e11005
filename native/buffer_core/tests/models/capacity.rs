//! Those who take room, wait for it and give it back, against each other.
//!
//! In every interleaving (see `model.rs` for the bound):
//!
//! 1. No wake-up is lost: a writer that waits while room is given back gets it, whoever of those who give
//!    back serves. Writers are served in the order of their tickets.
//! 2. A writer that gives up while it may be served did one of both. Who waits behind it is served.
//! 3. A writer that waits while the buffer is closed is told of the close by one side, once.
//!    The same with a writer that comes when nobody is to wait any more.
//! 4. Whenever a limit comes while room is taken, written and given back, what is used is what is held in
//!    the end.
//! 5. What writers and a drain hold is within the limit in every reading, and all that was to be written is
//!    written, once, and drained.
//! 6. Who awaits all is told once, whether the last entry is drained or dropped, and of the loss if that is
//!    what it was.

use crate::model::{self, check, push, values, Ints, Owner, Part};
use buffer_core::{
    After, Buffer, Credit, NoRoom, Passed, Queue, Reason, Rows, Size, Told, Turn, Wait, Waiters,
    Wanted,
};
use loom::sync::{Arc, Mutex};
use loom::thread;

type TestBuffer = Buffer<Queue<Ints>, Owner>;

const ONE: Size = Size {
    entries: 1,
    bytes: 1,
};

fn entries(entries: usize) -> Option<Size> {
    Some(Size {
        entries,
        bytes: u64::MAX,
    })
}

/// A buffer, who waits for its room, and what was written for them or by them.
struct Shared {
    buffer: TestBuffer,
    waiters: Waiters<u8>,
    granted: Mutex<Vec<u8>>,
}

impl Shared {
    /// Of one partition, with room for so many entries.
    fn limited(room: usize) -> Arc<Self> {
        let shared = Arc::new(Self {
            buffer: TestBuffer::new(1),
            waiters: Waiters::default(),
            granted: Mutex::new(Vec::new()),
        });
        shared.buffer.set_limit(entries(room));
        shared
    }

    fn partition(&self) -> &Part {
        &self.buffer.partitions()[0]
    }

    /// Takes room or waits for it: the ticket.
    fn wait(&self, writer: u8) -> Option<u64> {
        match self.waiters.wait(self.buffer.capacity(), ONE, writer) {
            Wait::Taken(writer, _) => {
                self.granted.lock().unwrap().push(writer);
                None
            }
            Wait::Waits(ticket) => Some(ticket),
            other => panic!("{other:?}"),
        }
    }

    fn give_back(&self) {
        if self.buffer.capacity().give_back(ONE) {
            self.serve();
        }
    }

    fn serve(&self) {
        if self.waiters.start() {
            while let Some(turn) = self.waiters.next(self.buffer.capacity()) {
                match turn {
                    Turn::Granted(writer, _) => self.granted.lock().unwrap().push(writer),
                    Turn::TooLarge(writer) => panic!("{writer} fits"),
                }
            }
        }
    }

    fn granted(&self) -> Vec<u8> {
        self.granted.lock().unwrap().clone()
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
fn a_writer_that_waits_gets_the_room_that_is_given_back() {
    check(|| {
        let shared = Shared::limited(1);
        shared.wait(0);
        let writer = spawn(&shared, |shared| shared.wait(1));
        shared.give_back();
        writer.join().unwrap();
        assert_eq!(shared.granted(), [0, 1]);
        assert_eq!(shared.buffer.capacity().waiting(), 0);
        assert_eq!(shared.buffer.capacity().used(), ONE);
    });
}

#[test]
fn two_that_give_back_serve_all_who_wait_in_order() {
    check(|| {
        let shared = Shared::limited(2);
        (0..4).for_each(|writer| _ = shared.wait(writer));
        let other = spawn(&shared, Shared::give_back);
        shared.give_back();
        other.join().unwrap();
        assert_eq!(shared.granted(), [0, 1, 2, 3]);
        assert_eq!(shared.buffer.capacity().waiting(), 0);
    });
}

#[test]
fn writers_that_come_while_room_is_given_back_are_all_served() {
    check(|| {
        let shared = Shared::limited(2);
        (0..3).for_each(|writer| _ = shared.wait(writer));
        let writer = spawn(&shared, |shared| shared.wait(3));
        let other = spawn(&shared, Shared::give_back);
        shared.give_back();
        writer.join().unwrap();
        other.join().unwrap();
        // Two entries have left, so there is room for both who came. The second may take its own, and be noted here,
        // between the moment at which room was taken for the first and that at which it is.
        let mut granted = shared.granted();
        granted.sort_unstable();
        assert_eq!(granted, [0, 1, 2, 3]);
        assert_eq!(shared.buffer.capacity().waiting(), 0);
    });
}

#[test]
fn giving_up_or_being_served_is_one_of_both() {
    check(|| {
        let shared = Shared::limited(1);
        shared.wait(0);
        let ticket = shared.wait(1).expect("there is no room");
        shared.wait(2);
        let writer = spawn(&shared, move |shared| {
            let capacity = shared.buffer.capacity();
            let gone = shared.waiters.give_up(capacity, ticket).is_some();
            if gone {
                shared.serve();
            }
            gone
        });
        shared.give_back();
        let gave_up = writer.join().unwrap();
        // Who waits behind is served in its place.
        let expected = if gave_up { [0, 2] } else { [0, 1] };
        assert_eq!(shared.granted(), expected);
        assert_eq!(shared.buffer.capacity().waiting(), usize::from(!gave_up));
    });
}

#[test]
fn who_waits_while_the_buffer_closes_is_told_once() {
    check(|| {
        let shared = Shared::limited(1);
        shared.wait(0);
        let writer = spawn(&shared, |shared| {
            let capacity = shared.buffer.capacity();
            match shared.waiters.wait(capacity, ONE, 1) {
                Wait::Closed => true,
                Wait::Waits(_) => false,
                other => panic!("{other:?}"),
            }
        });
        let server = spawn(&shared, Shared::serve);
        let waited = shared.waiters.close(shared.buffer.capacity());
        let refused = writer.join().unwrap();
        server.join().unwrap();
        assert_eq!(waited.len(), usize::from(!refused));
        assert!(shared.waiters.is_empty());
        assert_eq!(shared.buffer.capacity().waiting(), 0);
        assert_eq!(shared.granted(), [0]);
    });
}

#[test]
fn who_waits_while_writers_are_turned_away_is_told_once() {
    check(|| {
        let shared = Shared::limited(1);
        shared.wait(0);
        let writer = spawn(&shared, |shared| {
            let capacity = shared.buffer.capacity();
            match shared.waiters.wait(capacity, ONE, 1) {
                Wait::TurnedAway => true,
                Wait::Waits(_) => false,
                other => panic!("{other:?}"),
            }
        });
        let server = spawn(&shared, Shared::serve);
        let waited = shared.waiters.turn_away(shared.buffer.capacity(), true);
        let refused = writer.join().unwrap();
        server.join().unwrap();
        assert_eq!(waited.len(), usize::from(!refused));
        assert!(shared.waiters.is_empty());
        assert_eq!(shared.buffer.capacity().waiting(), 0);
        assert_eq!(shared.granted(), [0]);
    });
}

#[test]
fn room_taken_before_a_limit_comes_is_counted_once() {
    check(|| {
        let buffer = Arc::new(TestBuffer::new(1));
        let writer = {
            let buffer = Arc::clone(&buffer);
            thread::spawn(move || {
                // Room for one more than is written.
                let mut credit = buffer.capacity().take(ONE + ONE).expect("there is room");
                let after = &mut After::default();
                let partition = &buffer.partitions()[0];
                partition.write_admitted(&mut credit, after, |live| push(live, 1));
                _ = buffer.capacity().cancel(credit);
            })
        };
        buffer.set_limit(entries(9));
        writer.join().unwrap();
        assert_eq!(buffer.capacity().used(), ONE);
    });
}

#[test]
fn what_takes_no_room_beside_a_limit_that_comes_is_counted_once() {
    check(|| {
        let buffer = Arc::new(TestBuffer::new(1));
        let writer = {
            let buffer = Arc::clone(&buffer);
            thread::spawn(move || {
                for value in [1, 2] {
                    let open = buffer.partitions()[0].open().expect("nobody closes it");
                    if open.is_limited() {
                        let after = &mut After::default();
                        let written = open.write(after, |live, room| {
                            room.take(ONE)?;
                            push(live, value);
                            Ok::<_, NoRoom>(())
                        });
                        written.result.expect("there is room");
                    } else {
                        open.append(|live| push(live, value));
                    }
                }
            })
        };
        buffer.set_limit(entries(2));
        writer.join().unwrap();
        assert_eq!(buffer.capacity().used(), ONE + ONE);
    });
}

#[test]
fn writes_and_a_drain_beside_a_limit_that_comes_and_goes_are_counted() {
    check(|| {
        let buffer = Arc::new(TestBuffer::new(1));
        model::write_admitted(&buffer.partitions()[0], 1);
        let writer = {
            let buffer = Arc::clone(&buffer);
            thread::spawn(move || {
                let after = &mut After::default();
                let written = buffer.partitions()[0].write(after, |live, room| {
                    room.take(ONE + ONE).expect("there is room");
                    push(live, 2);
                });
                assert!(written.is_ok());
            })
        };
        let drainer = {
            let buffer = Arc::clone(&buffer);
            thread::spawn(move || {
                let partition = &buffer.partitions()[0];
                model::swap(partition);
                model::next(partition, 1, 1);
                _ = partition.done(1, &mut After::default());
            })
        };
        buffer.set_limit(entries(9));
        writer.join().unwrap();
        drainer.join().unwrap();
        let held = model::stats(&buffer.partitions()[0]);
        assert_eq!(buffer.capacity().used().entries, held.queued);
        assert_eq!(buffer.capacity().used().bytes, held.bytes);
    });
}

/// Writes, or waits until somebody writes for it.
fn write_or_wait(shared: &Shared, value: u8) {
    let after = &mut After::default();
    let written = shared.partition().write(after, |live, room| {
        room.take(ONE)?;
        push(live, value);
        Ok::<_, NoRoom>(())
    });
    if written.is_ok_and(|written| written.result.is_ok()) {
        return;
    }
    let capacity = shared.buffer.capacity();
    if let Wait::Taken(value, credit) = shared.waiters.wait(capacity, ONE, value) {
        write_granted(shared, value, credit);
    }
}

fn write_granted(shared: &Shared, value: u8, mut credit: Credit) {
    let after = &mut After::default();
    let partition = shared.partition();
    partition.write_admitted(&mut credit, after, |live| push(live, value));
    assert_eq!(credit.size, Size::default());
}

/// One batch of one entry, and room for those who wait for it.
fn drain_one(shared: &Shared) -> Vec<u8> {
    let (partition, mut after) = (shared.partition(), After::default());
    model::swap(partition);
    let batch = model::next(partition, 1, 1);
    _ = partition.done(1, &mut after);
    if after.room && shared.waiters.start() {
        while let Some(turn) = shared.waiters.next(shared.buffer.capacity()) {
            match turn {
                Turn::Granted(value, credit) => write_granted(shared, value, credit),
                Turn::TooLarge(value) => panic!("{value} fits"),
            }
        }
    }
    batch.unwrap_or_default()
}

#[test]
fn writers_and_a_drain_stay_within_the_limit_and_lose_nothing() {
    check(|| {
        let shared = Shared::limited(1);
        write_or_wait(&shared, 1);
        let writer = spawn(&shared, |shared| write_or_wait(shared, 2));
        let drainer = spawn(&shared, drain_one);
        let reading = model::stats(shared.partition());
        assert!(reading.queued + reading.in_flight <= 1);
        assert!(shared.buffer.capacity().used().entries <= 1);
        writer.join().unwrap();
        let mut all = drainer.join().unwrap();
        for _ in 0..2 {
            all.extend(drain_one(&shared));
        }
        assert_eq!(all, [1, 2]);
        assert_eq!(shared.buffer.capacity().used(), Size::default());
        assert_eq!(model::stats(shared.partition()).high_water, 1);
    });
}

/// Writes in place of the oldest entry. Who is told, and whether the write was made.
fn write_in_place(partition: &Part, value: u8) -> (Told<Owner>, bool) {
    let mut after = After::default();
    let rows = Rows {
        copy: None,
        now: || 0,
    };
    let written = partition.write(&mut after, |live, room| {
        room.take_in_place(live, ONE, &rows)?;
        push(live, value);
        Ok::<_, NoRoom>(())
    });
    let written = written.is_ok_and(|written| written.result.is_ok());
    (after.passed, written)
}

#[test]
fn who_awaits_all_is_told_once_whatever_becomes_of_it() {
    check(|| {
        let shared = Shared::limited(2);
        write_or_wait(&shared, 1);
        // One entry drains, one is live, and may be dropped.
        model::swap(shared.partition());
        write_or_wait(&shared, 2);
        assert!(shared.partition().await_all(7, 70));
        let drainer = spawn(&shared, |shared| {
            let (partition, mut after) = (shared.partition(), After::default());
            let read = |drain: &Queue<Ints>, batch: &buffer_core::Batch| values(drain, batch.len);
            let keep = |_: &Queue<Ints>, _: &buffer_core::Batch| None;
            let one = Wanted::entries(1);
            let batch = partition.next(1, one, || 0, &keep, &mut after, read);
            assert!(batch.is_ok());
            _ = partition.done(1, &mut after);
            after.passed
        });
        let (mut passed, written) = write_in_place(shared.partition(), 3);
        assert!(written);
        passed.extend(drainer.join().unwrap());
        let dropped = model::stats(shared.partition()).discarded[Reason::Overflow as usize] > 0;
        if dropped {
            // Both entries have left by now: nothing is left to tell of it later.
            assert_eq!(passed.len(), 1);
        } else {
            assert!(passed.is_empty());
            let mut after = After::default();
            model::swap(shared.partition());
            model::next(shared.partition(), 1, 9);
            _ = shared.partition().done(1, &mut after);
            passed.extend(after.passed);
        }
        let lost = dropped.then_some(Reason::Overflow);
        let told = Passed {
            owner: 7,
            token: 70,
            lost,
        };
        assert_eq!(passed[..], [told]);
        assert_eq!(shared.partition().awaiting(), 0);
    });
}
