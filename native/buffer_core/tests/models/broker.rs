//! Senders, workers, and what gets in between.
//!
//! In every interleaving (see `model.rs` for the bound):
//!
//! 1. When all calls have returned, no message waits beside an idle worker, unless a worker has been woken
//!    that has not taken yet.
//! 2. A message is taken once, or cancelled, or dropped, or it waits; the account says so.
//! 3. What was accepted before a broker was closed is taken or handed back.
//! 4. Who waits for room is told, or sees it.
//! 5. A deadline is seen by who looks for deadlines, or who looks is told.
//! 6. A caller that gives up is told whether its message was taken back, goes without an answer, or has been
//!    answered.
//! 7. A message that a worker is free for is taken, whatever the bound.
//! 8. One that was handed over is started by that worker, or taken back by its caller, or waits again for another
//!    one: exactly one of these.
//! 9. What a worker has taken along is started by that worker, or waits again for another one: exactly one of these.
//! 10. Where several partitions have one order, what was sent later is taken later.

use std::sync::Arc as Shared; // workers come in one of these

use crate::model::{check, check_within, Ints, Owner};
use buffer_core::broker::config::Config;
use buffer_core::broker::dropped::Drop;
use buffer_core::broker::worker::{End, Settled, State, Worker};
use buffer_core::broker::{Abandoned, After, Ask, Asked, Broker, Loose, Rested, Taken};
use buffer_core::Segment;
use loom::sync::Arc;
use loom::thread;

type Desk = Broker<Ints, Owner>;
type Hand = Shared<Worker<Ints, Owner>>;

fn desk(partitions: usize, config: &Config) -> Arc<Desk> {
    Arc::new(Desk::new(partitions, config))
}

/// Sends a message to this partition first.
fn ask_at(desk: &Desk, home: usize, value: u8, idle_only: bool) -> (Asked, After<Ints, Owner>) {
    ask_how(desk, home, value, idle_only, false)
}

/// Sends a message that may be handed over: its id, and to whom.
fn hand_over(desk: &Desk, value: u8) -> (u64, Option<Hand>) {
    match ask_how(desk, 0, value, false, true) {
        (Asked::Accepted(id), after) => (id, after.handed),
        (other, _) => unreachable!("{other:?}"),
    }
}

fn ask_how(
    desk: &Desk,
    home: usize,
    value: u8,
    idle_only: bool,
    hand_over: bool,
) -> (Asked, After<Ints, Owner>) {
    ask_when(desk, home, value, 0, idle_only, hand_over)
}

fn ask_when(
    desk: &Desk,
    home: usize,
    value: u8,
    now: i64,
    idle_only: bool,
    hand_over: bool,
) -> (Asked, After<Ints, Owner>) {
    let ask = Ask {
        caller: None,
        now,
        due: i64::MAX,
        weight: 1,
        alone: false,
        idle_only,
        hand_over,
        loose: !hand_over,
        patient: false,
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

/// Sends a message that nobody waits for by the short way: who is to be woken, if that way is open.
fn ask_loose(desk: &Desk, home: usize, value: u8) -> Option<Option<Hand>> {
    let store = |segment: &mut Segment<Ints>| {
        segment.push_if(|arena| {
            arena.put(value);
            Some(1)
        })
    };
    match desk.ask_loose(home, 0, store) {
        Loose::Accepted(woken) => Some(woken),
        Loose::Unusual => None,
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
            // One that had been handed over.
            Taken::Alone(entry, chunk, _) => {
                return Some(chunk.arena().value(entry.message as usize));
            }
            Taken::Again => {}
            Taken::Heavy | Taken::Copies(_) => unreachable!("all are light, and none is a copy"),
        }
    }
}

/// Takes messages along and starts them, as long as they are its: those that it has started. `false` behind them: it is
/// idle now.
fn take_along(desk: &Desk, worker: &Hand) -> (Vec<u8>, bool) {
    let mut copies = Vec::new();
    let copy = |arena: &Ints, range: std::ops::Range<usize>| {
        copies.extend(range.map(|index| arena.value(index)));
    };
    let read = |arena: &Ints, entry: &buffer_core::broker::waiting::Entry<Owner>, _now: i64| {
        arena.value(entry.message as usize)
    };
    match desk
        .take_along(worker, || 1, u32::MAX, |_| true, copy, read)
        .0
    {
        Taken::Copies(count) => {
            assert_eq!(count, copies.len());
            copies.retain({
                let mut mine = true;
                move |_| {
                    mine = mine && desk.begin(worker).0;
                    mine
                }
            });
            (copies, true)
        }
        Taken::Message(value) => (vec![value], true),
        Taken::Idle | Taken::Gone => (Vec::new(), false),
        _ => (Vec::new(), true),
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
fn one_that_works_alone_is_relied_on_for_as_long_as_it_does() {
    for withdraws in [false, true] {
        check(move || {
            let desk = desk(1, &Config::default());
            desk.work_alone(true);
            let (other, worker) = (desk.join(1), desk.join(2));
            assert_eq!(take(&desk, &other), None);
            ask(&desk, 0, 9);
            assert_eq!(take(&desk, &worker), Some(9));
            let sender = {
                let desk = Arc::clone(&desk);
                thread::spawn(move || ask(&desk, 0, 10))
            };
            if withdraws {
                worker.settle(End::Done, 1);
                desk.withdraw(&worker);
            } else {
                take(&desk, &worker);
            }
            assert!(sender.join().unwrap().is_some());
            assert_nobody_is_forgotten(&desk, &[&worker, &other]);
        });
    }
}

#[test]
fn one_of_two_at_work_steps_back_and_nothing_is_left() {
    check(|| {
        let desk = desk(1, &Config::default());
        let (one, other) = (desk.join(1), desk.join(2));
        ask(&desk, 0, 1);
        ask(&desk, 0, 2);
        let mut taken: Vec<u8> = [&one, &other]
            .iter()
            .filter_map(|worker| take(&desk, worker))
            .collect();
        let gatherer = {
            let (desk, one) = (Arc::clone(&desk), Shared::clone(&one));
            thread::spawn(move || {
                desk.gather(1);
                take_all(&desk, &one)
            })
        };
        ask(&desk, 0, 3);
        taken.extend(take_all(&desk, &other));
        taken.extend(gatherer.join().unwrap());
        assert_nobody_is_forgotten(&desk, &[&one, &other]);
        for worker in [&one, &other] {
            if worker.state() == State::Woken {
                taken.extend(take_all(&desk, worker));
            }
        }
        taken.sort_unstable();
        assert_eq!(taken, [1, 2, 3]);
    });
}

#[test]
fn one_that_takes_long_is_not_left_alone() {
    check(|| {
        let desk = desk(1, &Config::default());
        let (one, other) = (desk.join(1), desk.join(2));
        assert_eq!(take(&desk, &other), None);
        ask(&desk, 0, 1);
        assert_eq!(take(&desk, &one), Some(1));
        let sender = {
            let desk = Arc::clone(&desk);
            // Who sends it sees that the worker has taken nothing for long.
            thread::spawn(move || ask_when(&desk, 0, 2, 1_000_000, false, false))
        };
        desk.gather(1);
        sender.join().unwrap();
        // Or the reporter does, if it was sent before they were gathered.
        desk.expire(desk.armed().unwrap_or(10_000_000).max(1_000_000));
        assert_eq!(other.state(), State::Woken, "{:?}", desk.figures());
        assert_eq!(take(&desk, &other), Some(2));
    });
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
fn a_worker_that_gets_idle_and_one_that_came_the_short_way_find_each_other() {
    for (lanes, along) in [(1, false), (2, false), (2, true)] {
        check(move || {
            let desk = Arc::new(Desk::in_lanes(lanes, &Config::default()));
            let worker = desk.join(1);
            let sender = {
                let desk = Arc::clone(&desk);
                thread::spawn(move || ask_loose(&desk, 1, 10).is_some())
            };
            let mut taken: Vec<u8> = match along {
                true => take_along(&desk, &worker).0,
                false => take(&desk, &worker).into_iter().collect(),
            };
            assert!(sender.join().unwrap());
            assert_nobody_is_forgotten(&desk, &[&worker]);
            if worker.state() == State::Woken {
                taken.extend(take_all(&desk, &worker));
            }
            assert!(taken == [10] || desk.waiting() == 1 && worker.state() == State::Running);
            assert_account(&desk);
        });
    }
}

#[test]
fn two_senders_the_short_way_and_two_workers_leave_nothing_behind() {
    check(|| {
        let desk = Arc::new(Desk::in_lanes(2, &Config::default()));
        let (one, other) = (desk.join(1), desk.join(2));
        assert_eq!((take(&desk, &one), take(&desk, &other)), (None, None));
        let sender = {
            let desk = Arc::clone(&desk);
            thread::spawn(move || ask_loose(&desk, 0, 10).is_some())
        };
        let mut all = Vec::new();
        if let Some(woken) = ask_loose(&desk, 1, 20).unwrap() {
            all.extend(take(&desk, &woken));
        }
        assert!(sender.join().unwrap());
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
fn what_came_the_short_way_before_the_close_is_handed_back() {
    check(|| {
        let desk = Arc::new(Desk::in_lanes(2, &Config::default()));
        let sender = {
            let desk = Arc::clone(&desk);
            thread::spawn(move || {
                let sent = (1..=2).filter(|&value| ask_loose(&desk, value.into(), value).is_some());
                sent.collect::<Vec<_>>()
            })
        };
        desk.close();
        let value = |arena: &Ints, entry: &buffer_core::broker::waiting::Entry<Owner>| {
            arena.value(entry.message as usize)
        };
        let (mut rest, _) = desk.take_rest(10, u64::MAX, value);
        let sent = sender.join().unwrap();
        rest.sort_unstable();
        assert_eq!(rest, sent);
        assert!(ask_loose(&desk, 0, 3).is_none());
        assert_account(&desk);
    });
}

#[test]
fn a_worker_that_rests_and_a_message_find_each_other() {
    for handed_over in [false, true] {
        check(move || {
            let desk = Arc::new(Desk::in_lanes(2, &Config::default()));
            let worker = desk.join(1);
            assert_eq!(take(&desk, &worker), None);
            let (id, _) = hand_over(&desk, 9);
            assert_eq!(worker.start(id, Some(1)), Some(0));
            let sender = {
                let desk = Arc::clone(&desk);
                thread::spawn(move || {
                    let (_, after) = ask_how(&desk, 1, 10, false, handed_over);
                    after.handed.or(after.wake).map(|worker| worker.pid)
                })
            };
            let Settled { wanted, loaded, .. } = worker.settle_answered(End::Done, 1);
            assert_eq!((wanted, loaded), (true, false));
            let (rested, _) = desk.rest_unless_needed(&worker, false);
            let told = sender.join().unwrap();
            // It sees the message, or the sender sees it.
            assert!(rested == Rested::Needed || told == Some(1));
            assert_nobody_is_forgotten(&desk, &[&worker]);
            assert_eq!(take_all(&desk, &worker), [10]);
        });
    }
}

#[test]
fn what_is_sent_later_is_taken_later_in_another_lane_too() {
    check(|| {
        let desk = Arc::new(Desk::in_lanes(2, &Config::default()));
        let worker = desk.join(1);
        let sender = {
            let desk = Arc::clone(&desk);
            thread::spawn(move || {
                for (value, home) in [(1, 1), (2, 0), (3, 1)] {
                    ask_when(&desk, home, value, value.into(), false, false);
                }
            })
        };
        let mut taken: Vec<u8> = take(&desk, &worker).into_iter().collect();
        taken.extend(take(&desk, &worker));
        sender.join().unwrap();
        assert_nobody_is_forgotten(&desk, &[&worker]);
        taken.extend(take_all(&desk, &worker));
        assert_eq!(taken, [1, 2, 3]);
    });
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

#[test]
fn a_caller_that_gives_up_knows_whether_an_answer_comes() {
    check(|| {
        let desk = desk(1, &Config::default());
        let worker = desk.join(1);
        let id = ask(&desk, 0, 10).unwrap();
        let answering = {
            let desk = Arc::clone(&desk);
            let worker = Shared::clone(&worker);
            // It answers if it took the message and somebody still waits for it.
            thread::spawn(move || {
                let taken = take(&desk, &worker).is_some();
                (taken, worker.settle_answered(End::Done, 2).wanted && taken)
            })
        };
        let abandoned = desk.abandon(id).0;
        let (taken, answered) = answering.join().unwrap();
        let expected = match abandoned {
            Abandoned::TakenBack => (false, false),
            Abandoned::Started => (true, false),
            Abandoned::Through => (true, true),
        };
        assert_eq!((taken, answered), expected, "{abandoned:?}");
        assert_account(&desk);
    });
}

#[test]
fn of_all_that_answer_one_does_or_the_caller_has_gone_on() {
    check(|| {
        let desk = Arc::new(Desk::new(1, &Config::default()));
        let worker = desk.join(1);
        let id = ask(&desk, 0, 10).unwrap();
        assert!(take(&desk, &worker).is_some());
        let deferring = {
            let desk = Arc::clone(&desk);
            let worker = Shared::clone(&worker);
            thread::spawn(move || {
                let read = |_: &Ints, _| unreachable!("its caller is not patient");
                desk.defer(&worker, 10, 2, |_caller| true, read)
            })
        };
        let answering = {
            let desk = Arc::clone(&desk);
            thread::spawn(move || desk.claim(id).is_some())
        };
        let gone_on = desk.abandon(id).0 == Abandoned::Started;
        let answered = answering.join().unwrap();
        deferring.join().unwrap();
        assert_ne!(answered, gone_on);
        assert_eq!(desk.claim(id), None);
        assert_eq!(desk.deferred(), 0);
        assert_account(&desk);
    });
}

#[test]
fn who_a_worker_is_free_for_is_never_refused() {
    check(|| {
        let config = Config {
            max: 0,
            ..Config::default()
        };
        let desk = desk(1, &config);
        let workers = [desk.join(1), desk.join(2)];
        for worker in &workers {
            assert!(take(&desk, worker).is_none());
        }
        let sender = {
            let desk = Arc::clone(&desk);
            thread::spawn(move || ask(&desk, 0, 10))
        };
        assert!(ask(&desk, 0, 20).is_some());
        assert!(sender.join().unwrap().is_some());
        // One for each of them, so the third has nobody.
        assert!(workers.iter().all(|worker| worker.state() == State::Woken));
        assert!(ask(&desk, 0, 30).is_none());
        let taken: Vec<u8> = workers
            .iter()
            .flat_map(|worker| take_all(&desk, worker))
            .collect();
        assert_eq!(taken.len(), 2);
        assert_account(&desk);
    });
}

#[test]
fn a_message_that_was_handed_over_is_started_or_waits_again() {
    for dies in [true, false] {
        check(move || {
            let desk = desk(1, &Config::default());
            let (one, other) = (desk.join(1), desk.join(2));
            take(&desk, &other);
            take(&desk, &one);
            let (id, handed) = hand_over(&desk, 10);
            let handed = handed.expect("two are idle");
            assert_eq!(handed.pid, 1);
            let starting = {
                let one = Shared::clone(&one);
                thread::spawn(move || one.start(id, Some(1)).is_some())
            };
            // Somebody else's doing: it would not withdraw or die while it starts a message.
            let woken = if dies {
                desk.dismiss(&one).wake
            } else {
                desk.withdraw(&one).wake
            };
            let started = starting.join().unwrap();
            assert_eq!(woken.is_some(), !started);
            assert_nobody_is_forgotten(&desk, &[&one, &other]);
            assert_eq!(take_all(&desk, &other).len(), usize::from(!started));
            assert_account(&desk);
        });
    }
}

#[test]
fn a_caller_takes_back_what_was_handed_over_wherever_it_is() {
    check(|| {
        let desk = desk(1, &Config::default());
        let (one, other) = (desk.join(1), desk.join(2));
        take(&desk, &other);
        take(&desk, &one);
        let (id, handed) = hand_over(&desk, 10);
        assert_eq!(handed.map(|worker| worker.pid), Some(1));
        // It goes back, and the other one takes it.
        let moving = {
            let (desk, one, other) = (Arc::clone(&desk), one, Shared::clone(&other));
            thread::spawn(move || {
                desk.leave(&one, 1);
                take(&desk, &other).is_some()
            })
        };
        let abandoned = desk.abandon(id).0;
        let taken = moving.join().unwrap();
        let expected = match taken {
            true => Abandoned::Started,
            false => Abandoned::TakenBack,
        };
        assert_eq!(abandoned, expected);
        assert_eq!(other.settle_answered(End::Done, 2).wanted, !taken);
        assert_eq!(desk.waiting(), 0);
        assert_account(&desk);
    });
}

#[test]
fn two_hand_over_to_two_and_a_worker_that_dies_takes_nothing_along() {
    check(|| {
        let desk = desk(1, &Config::default());
        let (one, other) = (desk.join(1), desk.join(2));
        take(&desk, &other);
        take(&desk, &one);
        let sender = {
            let desk = Arc::clone(&desk);
            thread::spawn(move || {
                let (id, handed) = hand_over(&desk, 10);
                handed.map(|worker| (id, worker))
            })
        };
        desk.leave(&one, 1);
        let started = match sender.join().unwrap() {
            Some((id, worker)) => worker.pid == 2 && worker.start(id, Some(1)).is_some(),
            None => false,
        };
        assert_nobody_is_forgotten(&desk, &[&one, &other]);
        let rest = take_all(&desk, &other);
        assert_eq!(usize::from(started) + rest.len(), 1);
        assert_account(&desk);
    });
}

#[test]
fn what_comes_back_after_the_last_hand_back_is_reported() {
    check(|| {
        let desk = desk(1, &Config::default());
        let worker = desk.join(1);
        take(&desk, &worker);
        let (_id, handed) = hand_over(&desk, 10);
        assert!(handed.is_some());
        desk.close();
        let leaving = {
            let desk = Arc::clone(&desk);
            thread::spawn(move || desk.leave(&worker, 1).look)
        };
        let (rest, _) = desk.take_rest(9, 99, |arena, entry| arena.value(entry.message as usize));
        let _told = leaving.join().unwrap();
        let dropped = desk.figures().counts.dropped[Drop::Shutdown as usize];
        assert_eq!((dropped, desk.waiting()), (1, 0), "{rest:?}");
        assert_account(&desk);
    });
}

fn lanes(count: usize) -> (Arc<Desk>, Hand, Hand) {
    let desk = Arc::new(Desk::in_lanes(count, &Config::default()));
    let (one, other) = (desk.join(1), desk.join(2));
    (desk, one, other)
}

#[test]
fn what_a_worker_has_taken_along_is_started_once() {
    for lanes_used in [1, 2] {
        check_within(4, move || {
            let (desk, one, other) = lanes(2);
            for value in 1..=3 {
                ask(&desk, usize::from(value) % lanes_used, value).unwrap();
            }
            let taking = {
                let desk = Arc::clone(&desk);
                let one = Shared::clone(&one);
                thread::spawn(move || take_along(&desk, &one).0)
            };
            let mut taken = take_along(&desk, &other).0;
            taken.extend(take_along(&desk, &other).0);
            taken.extend(taking.join().unwrap());
            assert_nobody_is_forgotten(&desk, &[&one, &other]);
            for worker in [&one, &other] {
                if worker.state() != State::Idle {
                    taken.extend(take_all(&desk, worker));
                }
            }
            taken.sort_unstable();
            assert_eq!(taken, [1, 2, 3]);
            assert_account(&desk);
        });
    }
}

#[test]
fn nobody_is_idle_beside_what_another_one_has_taken_along() {
    check(|| {
        let (desk, one, other) = lanes(1);
        take(&desk, &other);
        let taking = {
            let desk = Arc::clone(&desk);
            let one = Shared::clone(&one);
            // It starts none of them.
            thread::spawn(move || {
                let read = |_: &Ints, _: &buffer_core::broker::waiting::Entry<Owner>, _| 1;
                let taken = desk.take_along(&one, || 1, u32::MAX, |_| true, |_, _| (), read);
                matches!(taken.0, Taken::Message(_))
            })
        };
        for value in 1..=2 {
            ask(&desk, 0, value).unwrap();
        }
        let started = usize::from(taking.join().unwrap());
        assert_nobody_is_forgotten(&desk, &[&one, &other]);
        let mut taken = started;
        if other.state() != State::Idle {
            taken += take_all(&desk, &other).len();
        }
        assert_nobody_is_forgotten(&desk, &[&one, &other]);
        assert_eq!(taken + desk.waiting(), 2);
    });
}

#[test]
fn one_that_steps_back_leaves_what_it_has_taken_along() {
    check(|| {
        let (desk, one, other) = lanes(1);
        ask(&desk, 0, 1);
        assert_eq!(take(&desk, &other), Some(1));
        for value in 2..=3 {
            ask(&desk, 0, value);
        }
        let read = |_: &Ints, _: &buffer_core::broker::waiting::Entry<Owner>, _| ();
        let (taken, _) = desk.take_along(&one, || 1, u32::MAX, |_| true, |_, _| (), read);
        assert!(matches!(taken, Taken::Copies(2)));
        assert!(desk.begin(&one).0);
        desk.gather(1);
        let resting = {
            let (desk, other) = (Arc::clone(&desk), Shared::clone(&other));
            thread::spawn(move || take_all(&desk, &other).len())
        };
        let (mut taken, _) = take_along(&desk, &one);
        let taken_by_other = resting.join().unwrap();
        assert_nobody_is_forgotten(&desk, &[&one, &other]);
        for worker in [&one, &other] {
            if worker.state() != State::Idle {
                taken.extend(take_all(&desk, worker));
            }
        }
        // Besides the one that each of them had begun with.
        assert_eq!((taken.len() + taken_by_other, desk.waiting()), (1, 0));
        assert_account(&desk);
    });
}

#[test]
fn what_a_worker_has_taken_along_and_not_started_survives_it() {
    for dismissed in [false, true] {
        check(move || {
            let (desk, one, other) = lanes(1);
            for value in 1..=3 {
                ask(&desk, 0, value).unwrap();
            }
            let read = |_: &Ints, _: &buffer_core::broker::waiting::Entry<Owner>, _| ();
            let (_taken, _) = desk.take_along(&one, || 1, u32::MAX, |_| true, |_, _| (), read);
            let calling_in = {
                let desk = Arc::clone(&desk);
                let other = Shared::clone(&other);
                thread::spawn(move || take(&desk, &other).into_iter().count())
            };
            let begun = usize::from(desk.begin(&one).0);
            if dismissed {
                desk.dismiss(&one);
                assert!(!desk.begin(&one).0);
            }
            desk.leave(&one, 2);
            let mut taken = calling_in.join().unwrap();
            if other.state() != State::Idle {
                taken += take_all(&desk, &other).len();
            }
            assert_eq!((begun + taken, desk.waiting()), (3, 0));
            assert_eq!(desk.figures().tally.failed, begun as u64);
            assert_account(&desk);
        });
    }
}
