//! Senders, workers, and what gets in between.
//!
//! In every interleaving (see `support/model.rs` for the bound):
//!
//! 1. When all calls have returned, no message waits beside an idle worker, unless a worker has been woken
//!    that has not taken yet.
//! 2. A message is taken once, or cancelled, or dropped, or it waits; the account says so.
//! 3. What was accepted before a broker was closed is taken or handed back.
//! 4. Who waits for room is told, or sees it.
//! 5. A deadline is seen by who looks for deadlines, or who looks is told.
#![cfg(loom)]

#[path = "support/model.rs"]
#[allow(dead_code, reason = "shared: each file needs a part of it")]
mod model;

use std::sync::Arc as Shared; // workers come in one of these

use buffer_core::broker::config::Config;
use buffer_core::broker::dropped::Drop;
use buffer_core::broker::worker::{State, Worker};
use buffer_core::broker::{After, Ask, Asked, Broker, Taken};
use buffer_core::Segment;
use loom::sync::Arc;
use loom::thread;
use model::{check, Ints, Owner};

type Desk = Broker<Ints, Owner>;
type Hand = Shared<Worker<Ints, Owner>>;

fn desk(partitions: usize, config: &Config) -> Arc<Desk> {
    Arc::new(Desk::new(partitions, config))
}

/// Sends a message to this partition first.
fn ask_at(desk: &Desk, home: usize, value: u8, idle_only: bool) -> (Asked, After<Ints, Owner>) {
    let ask = Ask {
        caller: None,
        now: 0,
        due: i64::MAX,
        weight: 1,
        alone: false,
        idle_only,
    };
    desk.ask(home, &ask, |segment: &mut Segment<Ints>| {
        let at = segment.stored() as u32;
        segment.push(1, |arena| arena.put(value));
        (at, None)
    })
}

fn ask(desk: &Desk, home: usize, value: u8) -> Option<u64> {
    match ask_at(desk, home, value, false).0 {
        Asked::Accepted(id) => Some(id),
        _ => None,
    }
}

/// Takes once: the message, or nothing if the worker is idle now.
fn take(desk: &Desk, worker: &Hand) -> Option<u8> {
    loop {
        let read = |arena: &Ints, entry: &buffer_core::broker::waiting::Entry<Owner>, _now: i64| {
            arena.value(entry.message as usize)
        };
        match desk.take(worker, || 1, u32::MAX, |_| true, read).0 {
            Taken::Message(value) => return Some(value),
            Taken::Idle | Taken::Gone => return None,
            Taken::Again => {}
            Taken::Heavy | Taken::Alone(..) => unreachable!("all are light"),
        }
    }
}

/// What a woken worker does: it takes until it is idle.
fn take_all(desk: &Desk, worker: &Hand) -> Vec<u8> {
    std::iter::from_fn(|| take(desk, worker)).collect()
}

fn assert_nobody_is_forgotten(desk: &Desk, workers: &[&Hand]) {
    let states: Vec<State> = workers.iter().map(|worker| worker.state()).collect();
    let fine =
        desk.waiting() == 0 || !states.contains(&State::Idle) || states.contains(&State::Woken);
    assert!(fine, "{} wait beside {states:?}", desk.waiting());
    assert_account(desk);
}

fn assert_account(desk: &Desk) {
    let figures = desk.figures();
    let counts = figures.counts;
    let dropped: u64 = counts.dropped.iter().sum();
    let left = counts.started + counts.cancelled + dropped;
    assert_eq!(
        counts.accepted,
        left + figures.waiting as u64,
        "{figures:?}"
    );
    let ended = figures.tally.done + figures.tally.failed;
    assert_eq!(
        counts.started,
        ended + desk.in_flight() as u64,
        "{figures:?}"
    );
}

#[test]
fn a_worker_that_gets_idle_and_a_message_find_each_other() {
    for partitions in [1, 2] {
        check(move || {
            let desk = desk(partitions, &Config::default());
            let worker = desk.join(1);
            let sender = {
                let desk = Arc::clone(&desk);
                thread::spawn(move || ask(&desk, 1, 10))
            };
            let mut taken: Vec<u8> = take(&desk, &worker).into_iter().collect();
            assert!(sender.join().unwrap().is_some());
            assert_nobody_is_forgotten(&desk, &[&worker]);
            if worker.state() == State::Woken {
                taken.extend(take_all(&desk, &worker));
            }
            assert!(taken == [10] || desk.waiting() == 1 && worker.state() == State::Running);
        });
    }
}

#[test]
fn two_senders_and_two_workers_leave_nothing_behind() {
    check(|| {
        let desk = desk(2, &Config::default());
        let (one, other) = (desk.join(1), desk.join(2));
        assert_eq!((take(&desk, &one), take(&desk, &other)), (None, None));
        let sender = {
            let desk = Arc::clone(&desk);
            thread::spawn(move || ask(&desk, 0, 10))
        };
        let (_, after) = ask_at(&desk, 1, 20, false);
        let mut all = Vec::new();
        // Whoever this sender was told to wake runs at once, the other one later.
        if let Some(woken) = after.wake {
            all.extend(take(&desk, &woken));
        }
        sender.join().unwrap();
        assert_nobody_is_forgotten(&desk, &[&one, &other]);
        for _ in 0..2 {
            for worker in [&one, &other] {
                if worker.state() != State::Idle {
                    all.extend(take_all(&desk, worker));
                }
            }
        }
        all.sort_unstable();
        assert_eq!(all, [10, 20]);
    });
}

#[test]
fn a_woken_worker_that_dies_or_withdraws_is_replaced() {
    for dies in [true, false] {
        check(move || {
            let desk = desk(1, &Config::default());
            let (one, other) = (desk.join(1), desk.join(2));
            take(&desk, &other);
            take(&desk, &one);
            let sender = {
                let desk = Arc::clone(&desk);
                thread::spawn(move || ask(&desk, 0, 10))
            };
            if dies {
                desk.leave(&one, 0);
            } else {
                desk.withdraw(&one);
            }
            sender.join().unwrap();
            assert_nobody_is_forgotten(&desk, &[&one, &other]);
            let mut taken = Vec::new();
            for worker in [&one, &other] {
                // One that has withdrawn takes again, and so does one that was woken.
                if worker.state() != State::Idle {
                    taken.extend(take_all(&desk, worker));
                }
            }
            assert_eq!(taken, [10]);
            assert_account(&desk);
        });
    }
}

#[test]
fn a_message_is_taken_or_cancelled_or_dropped() {
    check(|| {
        let config = Config {
            timeout: Some(1),
            ..Config::default()
        };
        let desk = desk(1, &config);
        let worker = desk.join(1);
        let id = ask(&desk, 0, 10).unwrap();
        let taker = {
            let desk = Arc::clone(&desk);
            let worker = Shared::clone(&worker);
            // At 1 it is due, so only a worker that comes before is in time: here it is at 0.
            thread::spawn(move || {
                let read = |arena: &Ints, entry: &buffer_core::broker::waiting::Entry<Owner>, _| {
                    arena.value(entry.message as usize)
                };
                let (taken, _) = desk.take(&worker, || 0, u32::MAX, |_| true, read);
                u64::from(matches!(taken, Taken::Message(10)))
            })
        };
        let canceller = {
            let desk = Arc::clone(&desk);
            thread::spawn(move || u64::from(desk.cancel(id).0))
        };
        desk.expire(1);
        let (taken, cancelled) = (taker.join().unwrap(), canceller.join().unwrap());
        let counts = desk.figures().counts;
        assert_eq!((counts.started, counts.cancelled), (taken, cancelled));
        assert_eq!(
            taken + cancelled + counts.dropped[Drop::Timeout as usize],
            1
        );
        assert_account(&desk);
    });
}

#[test]
fn what_was_accepted_before_the_close_is_handed_back() {
    check(|| {
        let desk = desk(2, &Config::default());
        let worker = desk.join(1);
        let send = |home: usize, value: u8| {
            let desk = Arc::clone(&desk);
            thread::spawn(move || ask(&desk, home, value).is_some())
        };
        let senders = [send(0, 10), send(1, 20)];
        desk.close();
        let taken = take(&desk, &worker);
        let (rest, _) = desk.take_rest(9, 99, |arena, entry| arena.value(entry.message as usize));
        let accepted = senders.map(|sender| sender.join().unwrap());
        let accepted = accepted.into_iter().filter(|accepted| *accepted).count();
        assert_eq!(taken.iter().count() + rest.len(), accepted);
        assert_eq!(desk.waiting(), 0);
        assert_account(&desk);
    });
}

#[test]
fn two_that_need_an_idle_worker_get_one_each() {
    check(|| {
        let desk = desk(1, &Config::default());
        let worker = desk.join(1);
        take(&desk, &worker);
        let sender = {
            let desk = Arc::clone(&desk);
            thread::spawn(move || ask_at(&desk, 0, 10, true).0 == Asked::NoWorker)
        };
        let refused = ask_at(&desk, 0, 20, true).0 == Asked::NoWorker;
        assert_ne!(sender.join().unwrap(), refused);
        assert_nobody_is_forgotten(&desk, &[&worker]);
        assert_eq!(take_all(&desk, &worker).len(), 1);
    });
}

#[test]
fn who_waits_for_room_is_told_or_sees_it() {
    check(|| {
        let config = Config {
            max: 1,
            ..Config::default()
        };
        let desk = desk(1, &config);
        let worker = desk.join(1);
        ask(&desk, 0, 10).unwrap();
        assert!(ask(&desk, 0, 20).is_none());
        let taker = {
            let desk = Arc::clone(&desk);
            let worker = Shared::clone(&worker);
            thread::spawn(move || {
                let read = |_: &Ints, _: &buffer_core::broker::waiting::Entry<Owner>, _| ();
                let (_, after) = desk.take(&worker, || 1, u32::MAX, |_| true, read);
                after.look
            })
        };
        let room = desk.want_room();
        let told = taker.join().unwrap();
        assert!(room > 0 || told);
    });
}

#[test]
fn a_deadline_is_seen_or_told() {
    check(|| {
        let config = Config {
            timeout: Some(5),
            ..Config::default()
        };
        let desk = desk(2, &config);
        let sender = {
            let desk = Arc::clone(&desk);
            thread::spawn(move || ask_at(&desk, 0, 10, false).1.look)
        };
        desk.expire(0);
        let seen = desk.armed();
        let told = sender.join().unwrap();
        assert!(told || seen == Some(5));
        assert_eq!(desk.armed(), Some(5));
        desk.expire(5);
        assert_eq!(desk.waiting(), 0);
        assert_eq!(desk.armed(), None);
    });
}
