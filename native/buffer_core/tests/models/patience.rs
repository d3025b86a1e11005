//! Callers that wait with no timer of their own, who looks after them, and who answers.
//!
//! In every interleaving (see `model.rs` for the bound):
//!
//! 1. An answer says that a word to its caller is on its way if, and only if, one is: so none is found in a mailbox later, and
//!    nobody waits for one that does not come.
//! 2. Each caller is told once at the most.
//! 3. A caller whose message waits, or has been handed to a worker, is looked after by somebody who looks, or who has been called to look.
//! 4. So does what says that its message was dropped (1).

use std::sync::Arc as Shared; // workers come in one of these

use crate::model::{check, Ints, Owner};
use buffer_core::broker::config::Config;
use buffer_core::broker::worker::{End, Worker};
use buffer_core::broker::{Abandoned, After, Ask, Asked, Broker, Taken};
use buffer_core::Segment;
use loom::sync::Arc;
use loom::thread;

type Desk = Broker<Ints, Owner>;
type Hand = Shared<Worker<Ints, Owner>>;

/// A worker that is idle.
fn idle(desk: &Desk, pid: Owner) -> Hand {
    let worker = desk.join(pid);
    assert_eq!(take(desk, &worker), None);
    worker
}

fn take(desk: &Desk, worker: &Hand) -> Option<u8> {
    let read = |arena: &Ints, entry: &buffer_core::broker::waiting::Entry<Owner>, _now: i64| {
        arena.value(entry.message as usize)
    };
    match desk.take(worker, || 1, u32::MAX, |_| true, read).0 {
        Taken::Message(value) => Some(value),
        Taken::Alone(entry, chunk, _) => Some(chunk.arena().value(entry.message as usize)),
        _ => None,
    }
}

/// Sends a message of a patient caller, which is handed over if a worker is idle: its id, and what is to be done.
fn hand_over(desk: &Desk, value: u8, now: i64) -> (u64, After<Ints, Owner>) {
    send(desk, value, now, i64::MAX)
}

/// The same, with a deadline if it has to wait.
fn send(desk: &Desk, value: u8, now: i64, due: i64) -> (u64, After<Ints, Owner>) {
    let ask = Ask {
        caller: None,
        now,
        due,
        weight: 1,
        alone: false,
        idle_only: false,
        hand_over: true,
        loose: false,
        patient: true,
    };
    let (asked, after) = desk.ask(0, &ask, |segment: &mut Segment<Ints>| {
        let at = segment.stored() as u32;
        segment.push(1, |arena| arena.put(value));
        segment.push(1, |arena| arena.put(value + 100));
        (at, Some(at + 1))
    });
    match asked {
        Asked::Accepted(id) => (id, after),
        other => unreachable!("{other:?}"),
    }
}

/// A worker that has started the message of a patient caller, which has waited since 0.
fn at_work() -> (Arc<Desk>, Hand, u64) {
    let desk = Arc::new(Desk::new(1, &Config::default()));
    let worker = idle(&desk, 1);
    let (id, _) = hand_over(&desk, 1, 0);
    assert_eq!(worker.start(id, None), Some(0));
    (desk, worker, id)
}

/// Looks after those that have waited since then: whom it has told, and whether it looks again.
fn look(desk: &Desk, until: i64) -> (Vec<u8>, bool) {
    let mut told = Vec::new();
    let again = desk.tell_patient(until, |slow| told.push(slow.reply.arena().value(0)));
    (told, again)
}

fn told(after: &After<Ints, Owner>) -> usize {
    let slow = after.slow.iter();
    slow.filter(|slow| slow.reply.arena().value(0) == 101)
        .count()
}

fn looking(desk: &Arc<Desk>) -> thread::JoinHandle<(Vec<u8>, bool)> {
    let desk = Arc::clone(desk);
    thread::spawn(move || look(&desk, 9))
}

#[test]
fn an_answer_says_whether_a_word_is_on_its_way() {
    check(|| {
        let desk = Arc::new(Desk::new(1, &Config::default()));
        let worker = idle(&desk, 1);
        let (id, after) = hand_over(&desk, 1, 0);
        assert!(after.patient, "nobody looks yet");
        let looking = looking(&desk);
        assert_eq!(worker.start(id, None), Some(0));
        let settled = worker.settle_answered(End::Done, 1);
        let (words, again) = looking.join().unwrap();
        assert!(settled.wanted);
        assert_eq!(settled.told, words == [101]);
        assert!(!again, "it has waited for long, or is answered");
        assert_eq!(look(&desk, 9), (Vec::new(), false));
    });
}

#[test]
fn so_does_an_answer_by_somebody_else() {
    check(|| {
        let (desk, worker, id) = at_work();
        let looking = looking(&desk);
        let claiming = {
            let desk = Arc::clone(&desk);
            thread::spawn(move || desk.claim(id))
        };
        let mut words = 0;
        let read = |arena: &Ints, reply| assert_eq!(arena.value(reply), 101);
        let deferred = desk.defer(&worker, 1, 1, |_| true, read);
        words += usize::from(deferred.is_some());
        let claimed = claiming.join().unwrap();
        words += looking.join().unwrap().0.len();
        assert_eq!(claimed, Some(words == 1), "{words}");
        assert_eq!(desk.claim(id), None);
    });
}

#[test]
fn a_caller_is_told_once_when_its_message_goes_to_another_worker() {
    check(|| {
        let desk = Arc::new(Desk::new(1, &Config::default()));
        let (other, worker) = (idle(&desk, 2), idle(&desk, 1));
        let (_id, after) = hand_over(&desk, 1, 0);
        assert_eq!(after.handed.map(|worker| worker.pid), Some(1));
        let looking = looking(&desk);
        let words = told(&desk.withdraw(&worker));
        assert_eq!(take(&desk, &other), Some(1));
        assert!(other.settle_answered(End::Done, 2).told);
        assert_eq!(words + looking.join().unwrap().0.len(), 1);
    });
}

#[test]
fn a_caller_is_told_once_when_its_worker_dies() {
    check(|| {
        let (desk, worker, _id) = at_work();
        let looking = looking(&desk);
        let (reply, since) = worker
            .in_flight(|arena, reply| arena.value(reply))
            .expect("it is not answered");
        assert_eq!(reply, 101);
        assert_eq!(told(&desk.leave(&worker, 2)), 0);
        let words = looking.join().unwrap().0.len();
        assert_eq!(words + usize::from(since == Some(0)), 1);
    });
}

#[test]
fn a_worker_that_leaves_without_an_answer_has_its_caller_told() {
    check(|| {
        let (desk, worker, _id) = at_work();
        let looking = looking(&desk);
        let words = told(&desk.leave(&worker, 2));
        assert_eq!(words + looking.join().unwrap().0.len(), 1);
    });
}

#[test]
fn nobody_is_forgotten_by_who_looks() {
    check(|| {
        let desk = Arc::new(Desk::new(1, &Config::default()));
        let worker = idle(&desk, 1);
        // Who looks has been called for one that has been answered since.
        let (id, after) = hand_over(&desk, 1, 0);
        assert!(after.patient);
        assert_eq!(worker.start(id, None), Some(0));
        worker.settle_answered(End::Done, 1);
        assert_eq!(take(&desk, &worker), None);
        let looking = looking(&desk);
        let (_id, after) = hand_over(&desk, 2, 10);
        let (words, again) = looking.join().unwrap();
        assert_eq!(words, [], "it has not waited for long");
        assert_ne!(again, after.patient, "one looks, and one only");
        assert_eq!(look(&desk, 10), (vec![102], false));
    });
}

#[test]
fn who_gives_up_is_told_before_or_not_at_all() {
    check(|| {
        let (desk, worker, id) = at_work();
        let looking = looking(&desk);
        assert_eq!(desk.abandon(id).0, Abandoned::Started);
        assert!(!worker.settle_answered(End::Done, 1).wanted);
        assert!(looking.join().unwrap().0.len() <= 1);
        assert_eq!(look(&desk, 9), (Vec::new(), false));
    });
}

#[test]
fn one_that_waits_is_told_once_though_a_worker_takes_its_message() {
    check(|| {
        let desk = Arc::new(Desk::new(1, &Config::default()));
        let worker = desk.join(1);
        let (_id, after) = hand_over(&desk, 1, 0);
        assert!(after.patient && after.handed.is_none(), "nobody is idle");
        let looking = looking(&desk);
        assert_eq!(take(&desk, &worker), Some(1));
        let settled = worker.settle_answered(End::Done, 1);
        let (words, again) = looking.join().unwrap();
        assert!(settled.wanted && !again);
        assert_eq!(settled.told, words == [101]);
        assert_eq!(look(&desk, 9), (Vec::new(), false));
    });
}

#[test]
fn one_that_waits_is_not_forgotten_while_a_worker_takes_its_message() {
    check(|| {
        let desk = Arc::new(Desk::new(1, &Config::default()));
        let worker = desk.join(1);
        let (_id, after) = hand_over(&desk, 1, 10);
        assert!(after.patient);
        let looking = looking(&desk);
        assert_eq!(take(&desk, &worker), Some(1));
        // Wherever it was when that one looked.
        assert_eq!(looking.join().unwrap(), (Vec::new(), true));
        assert_eq!(look(&desk, 10), (vec![101], false));
    });
}

#[test]
fn nobody_that_comes_to_wait_is_forgotten_by_who_looks() {
    check(|| {
        let desk = Arc::new(Desk::new(1, &Config::default()));
        let worker = desk.join(1);
        // Who looks has been called for one that has been answered since.
        assert!(hand_over(&desk, 1, 0).1.patient);
        assert_eq!(take(&desk, &worker), Some(1));
        worker.settle_answered(End::Done, 1);
        let looking = looking(&desk);
        let (_id, after) = hand_over(&desk, 2, 10);
        let (words, again) = looking.join().unwrap();
        assert_eq!(words, [], "it has not waited for long");
        assert_ne!(again, after.patient, "one looks, and one only");
        assert_eq!(look(&desk, 10), (vec![102], false));
    });
}

#[test]
fn who_says_that_a_message_was_dropped_knows_whether_a_word_is_on_its_way() {
    check(|| {
        let desk = Arc::new(Desk::new(1, &Config::default()));
        let _worker = desk.join(1);
        assert!(send(&desk, 1, 0, 5).1.patient);
        let looking = looking(&desk);
        assert!(desk.expire(6).look);
        let (words, again) = looking.join().unwrap();
        let mut dropped = Vec::new();
        desk.dropped(9, |arena, reply, _why, told| {
            dropped.push((arena.value(reply), told));
        });
        assert_eq!(dropped, [(101, words == [101])]);
        assert!(!again);
    });
}

#[test]
fn one_that_waits_and_gives_up_is_told_before_or_not_at_all() {
    check(|| {
        let desk = Arc::new(Desk::new(1, &Config::default()));
        let _worker = desk.join(1);
        let (id, _) = hand_over(&desk, 1, 0);
        let looking = looking(&desk);
        assert_eq!(desk.abandon(id).0, Abandoned::TakenBack);
        assert!(looking.join().unwrap().0.len() <= 1);
        assert_eq!(look(&desk, 9), (Vec::new(), false));
    });
}
