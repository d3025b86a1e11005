//! Workers that take messages along, one call after the other.
//!
//! Properties, for one to three lanes and one to three workers:
//!
//! 1. A message is started once: by the worker that took it, or that took it along and begins it, while it is still
//!    its. All of them are in the end.
//! 2. A single worker starts messages in the order in which they came, whichever lanes they wait in.
//! 3. What a worker that withdraws, dies or is dismissed has taken along and not started waits again; what it had started
//!    has failed, if it died.
//! 4. What was taken along and not started is told as waiting: the account holds, and no message waits beside an idle
//!    worker unless one has been woken.
//! 5. A worker comes early only if nobody waits for a message that it would take, and few wait.
//! 6. A message that is not loose is started when nothing older waits, whoever has taken that along. Who comes for more
//!    long after another worker has looked at what it has taken along finds nothing older with that one.
//! 7. When all messages have left, no arena holds a waiting one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::ledger::{self, Ints};
use buffer_core::broker::config::Config;
use buffer_core::broker::waiting::Entry;
use buffer_core::broker::worker::{End, State, Worker};
use buffer_core::broker::{Ask, Asked, Broker, Loose, Rested, Taken};
use buffer_core::Segment;
use proptest::prelude::*;

type Desk = Broker<Ints, u8>;

// As long as a worker may keep what it has taken along from others, or longer.
const LATE: i64 = 1_000_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    // Somebody may know its id.
    Tied,
    Loose,
    // Loose, by the short way where that is open.
    Short,
}

#[derive(Debug, Clone)]
enum Op {
    Ask { lane: usize, count: usize, how: How },
    TakeAlong(usize),
    BeEarly(usize),
    Begin(usize, usize),
    Take(usize),
    Rest(usize),
    Withdraw(usize),
    Dismiss(usize),
    Die(usize),
    Bound(bool),
    Pass,
}

fn op() -> impl Strategy<Value = Op> {
    let worker = 0..3usize;
    let how = prop_oneof![1 => Just(How::Tied), 4 => Just(How::Loose), 5 => Just(How::Short)];
    let ask = (0..4usize, 1..40usize, how);
    prop_oneof![
        8 => ask.prop_map(|(lane, count, how)| Op::Ask { lane, count, how }),
        12 => worker.clone().prop_map(Op::TakeAlong),
        4 => worker.clone().prop_map(Op::BeEarly),
        8 => (worker.clone(), 1..40usize).prop_map(|(worker, count)| Op::Begin(worker, count)),
        3 => worker.clone().prop_map(Op::Take),
        1 => worker.clone().prop_map(Op::Rest),
        1 => worker.clone().prop_map(Op::Withdraw),
        1 => worker.clone().prop_map(Op::Dismiss),
        1 => worker.prop_map(Op::Die),
        1 => any::<bool>().prop_map(Op::Bound),
        1 => Just(Op::Pass),
    ]
}

struct Hand {
    worker: Arc<Worker<Ints, u8>>,
    // What it has copies of and has not begun.
    copies: VecDeque<u64>,
    looked_at: i64,
    at_work: bool,
}

struct Run {
    desk: Desk,
    hands: Vec<Hand>,
    // Those that were not started, with whether they are loose, and when they came.
    waiting: BTreeMap<u64, (bool, i64)>,
    sent: u64,
    // It passes when nothing else happens.
    time: i64,
    started: u64,
    done: u64,
    failed: u64,
}

fn values(arena: &Ints, range: std::ops::Range<usize>) -> Vec<u64> {
    arena.load(range).to_vec()
}

impl Run {
    fn new(lanes: usize, workers: usize) -> Self {
        let desk = Desk::in_lanes(lanes, &Config::default());
        let hands = (0..workers).map(|index| Hand {
            worker: desk.join(index as u8),
            copies: VecDeque::new(),
            looked_at: i64::MIN,
            at_work: false,
        });
        let hands = hands.collect();
        Self {
            desk,
            hands,
            waiting: BTreeMap::new(),
            sent: 0,
            time: 0,
            started: 0,
            done: 0,
            failed: 0,
        }
    }

    fn now(&self) -> i64 {
        self.sent as i64 + self.time
    }

    fn step(&mut self, op: &Op) {
        let workers = self.hands.len();
        let index = |index: usize| index % workers;
        match *op {
            Op::Ask { lane, count, how } => self.ask(lane, count, how),
            Op::TakeAlong(worker) => self.take(index(worker), true),
            Op::BeEarly(worker) => self.be_early(index(worker)),
            Op::Begin(worker, count) => {
                let worker = index(worker);
                for _ in 0..count {
                    self.begin(worker);
                }
            }
            Op::Take(worker) => self.take(index(worker), false),
            Op::Rest(worker) => self.rest(index(worker)),
            Op::Withdraw(worker) => {
                let hand = &mut self.hands[index(worker)];
                hand.copies.clear();
                self.desk.withdraw(&hand.worker);
            }
            Op::Pass => self.time += LATE,
            Op::Dismiss(worker) => self.leave(index(worker), true),
            Op::Die(worker) => self.leave(index(worker), false),
            Op::Bound(bound) => {
                let timeout = bound.then_some(i64::MAX / 2);
                let config = Config {
                    timeout,
                    ..Config::default()
                };
                self.desk.configure(&config, 0);
            }
        }
        self.check();
    }

    fn ask(&mut self, lane: usize, count: usize, how: How) {
        let loose = how != How::Tied;
        for _ in 0..count {
            self.sent += 1;
            let value = self.sent;
            if how == How::Short && self.ask_short(lane, value) {
                self.waiting.insert(value, (loose, self.now()));
                continue;
            }
            let ask = Ask {
                caller: None,
                now: self.now(),
                due: i64::MAX,
                weight: 1,
                alone: false,
                idle_only: false,
                hand_over: false,
                loose,
                patient: false,
            };
            let store = |segment: &mut Segment<Ints>| {
                let at = segment.stored() as u32;
                segment.push(1, |arena| arena.store(value));
                (at, None)
            };
            assert!(matches!(
                self.desk.ask(lane, &ask, store).0,
                Asked::Accepted(_)
            ));
            self.waiting.insert(value, (loose, self.now()));
        }
    }

    fn ask_short(&self, lane: usize, value: u64) -> bool {
        let store = |arena: &mut Ints| {
            arena.store(value);
            Some(1)
        };
        let asked = self
            .desk
            .ask_loose(lane, self.now(), |segment| segment.push_if(store));
        matches!(asked, Loose::Accepted(_))
    }

    fn start(&mut self, index: usize, value: u64) {
        let oldest = self.waiting.keys().next().copied();
        let loose = self.waiting.remove(&value);
        assert!(loose.is_some(), "{value} again");
        let free = self.hands.len() > 1 && loose.is_some_and(|(loose, _)| loose);
        assert!(free || oldest == Some(value), "{value}, not {oldest:?}");
        self.started += 1;
        self.done += u64::from(std::mem::replace(&mut self.hands[index].at_work, true));
    }

    fn take(&mut self, index: usize, along: bool) {
        let worker = Arc::clone(&self.hands[index].worker);
        let now = || self.now();
        let read = |arena: &Ints, entry: &Entry<u8>, _now| {
            let at = entry.message as usize;
            values(arena, at..at + 1)[0]
        };
        let mut copies = Vec::new();
        let copy = |arena: &Ints, range| copies.extend(values(arena, range));
        let (taken, _) = match along {
            true => self
                .desk
                .take_along(&worker, now, u32::MAX, |_| true, copy, read),
            false => self.desk.take(&worker, now, u32::MAX, |_| true, read),
        };
        // Whatever it had copies of, it takes again.
        self.hands[index].copies.clear();
        self.done += u64::from(std::mem::take(&mut self.hands[index].at_work));
        match taken {
            Taken::Message(value) => self.start(index, value),
            Taken::Copies(count) => {
                assert!(count > 0 && count == copies.len());
                assert!(copies.is_sorted());
                assert!(copies
                    .iter()
                    .all(|value| self.waiting.get(value).is_some_and(|(loose, _)| *loose)));
                let late = self.now() - LATE;
                let mut others = self.hands.iter().enumerate();
                if others.all(|(other, hand)| other == index || hand.looked_at <= late) {
                    assert_eq!(self.waiting.keys().next(), copies.first());
                }
                self.hands[index].copies = copies.into();
                self.hands[index].looked_at = self.now();
            }
            Taken::Idle => assert!(self.waiting.is_empty()),
            _ => unreachable!("no other answer is possible here"),
        }
    }

    fn be_early(&mut self, index: usize) {
        let hand = &mut self.hands[index];
        let was_running = hand.worker.state() == State::Running;
        let early = self.desk.is_early(&hand.worker, || 0);
        if early {
            assert!(was_running && hand.copies.is_empty());
            assert!(self.waiting.values().all(|(loose, _)| *loose));
            let few = 8 * self.desk.partitions();
            assert!(self.hands.len() > 1 || self.waiting.len() < few);
        }
        let done = self.desk.figures().tally.done;
        if done > self.done {
            let hand = &mut self.hands[index];
            self.done += u64::from(std::mem::take(&mut hand.at_work));
        }
    }

    /// What it has taken along and not begun waits again, and so it is needed.
    fn rest(&mut self, index: usize) {
        let hand = &mut self.hands[index];
        let loaded = hand.worker.settle_answered(End::Done, 0).loaded;
        self.done += u64::from(std::mem::take(&mut hand.at_work));
        hand.copies.clear();
        let (rested, _) = self.desk.rest_unless_needed(&hand.worker, loaded);
        let expected = match self.waiting.is_empty() {
            true => Rested::Idle,
            false => Rested::Needed,
        };
        assert_eq!(rested, expected);
    }

    fn begin(&mut self, index: usize) {
        let worker = Arc::clone(&self.hands[index].worker);
        let next = self.hands[index].copies.pop_front();
        let (begun, _) = self.desk.begin(&worker);
        match next {
            Some(value) if begun => self.start(index, value),
            // Somebody else has them.
            _ => {
                assert!(!begun && (next.is_none() || self.hands.len() > 1));
                self.hands[index].copies.clear();
            }
        }
    }

    fn leave(&mut self, index: usize, dismissed: bool) {
        let worker = Arc::clone(&self.hands[index].worker);
        if dismissed {
            self.desk.dismiss(&worker);
            assert!(!self.desk.begin(&worker).0);
            let read = |_: &Ints, _: &Entry<u8>, _| ();
            let taken = self
                .desk
                .take_along(&worker, || 0, 1, |_| true, |_, _| (), read);
            assert!(matches!(taken.0, Taken::Gone));
        }
        self.desk.leave(&worker, self.now());
        let hand = Hand {
            worker: self.desk.join(index as u8),
            copies: VecDeque::new(),
            looked_at: i64::MIN,
            at_work: false,
        };
        let was_at_work = std::mem::replace(&mut self.hands[index], hand).at_work;
        let ended = if dismissed {
            &mut self.done
        } else {
            &mut self.failed
        };
        *ended += u64::from(was_at_work);
    }

    fn check(&self) {
        let figures = self.desk.figures();
        let waiting = self.waiting.len();
        assert_eq!((figures.waiting, self.desk.waiting()), (waiting, waiting));
        assert_eq!(figures.bytes, waiting as u64);
        let oldest = self.waiting.values().next().map(|&(_, at)| at);
        assert_eq!(figures.oldest, oldest);
        let counts = figures.counts;
        assert_eq!((counts.accepted, counts.started), (self.sent, self.started));
        let tally = figures.tally;
        assert_eq!((tally.done, tally.failed), (self.done, self.failed));
        let states = self.hands.iter().map(|hand| hand.worker.state());
        let states: Vec<State> = states.collect();
        let fine = waiting == 0 || !states.contains(&State::Idle) || states.contains(&State::Woken);
        assert!(fine, "{waiting} wait beside {states:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn what_is_taken_along_is_started_once(
        lanes in 1..4usize,
        workers in 1..4usize,
        ops in prop::collection::vec(op(), 0..80),
    ) {
        let mut run = Run::new(lanes, workers);
        for op in &ops {
            run.step(op);
        }
        while !run.waiting.is_empty() {
            run.step(&Op::TakeAlong(0));
            run.step(&Op::Begin(0, 40));
        }
        prop_assert_eq!(run.started, run.sent);
        prop_assert!(ledger::alive().len() <= lanes + 1);
        drop(run);
        prop_assert!(ledger::alive().is_empty());
    }
}

#[test]
fn what_goes_back_is_taken_along_again_unless_others_have_asked_for_it() {
    let mut run = Run::new(1, 2);
    run.step(&Op::Ask {
        lane: 0,
        count: 20,
        how: How::Loose,
    });
    run.step(&Op::TakeAlong(0));
    run.step(&Op::Begin(0, 1));
    // It is to take one by itself.
    run.step(&Op::Take(0));
    run.step(&Op::TakeAlong(0));
    assert!(!run.hands[0].copies.is_empty());
    // There are not enough for two.
    run.step(&Op::TakeAlong(1));
    assert!(run.hands[1].copies.is_empty());
    run.step(&Op::TakeAlong(0));
    assert!(run.hands[0].copies.is_empty());
    assert_eq!(run.started, 4);
}
