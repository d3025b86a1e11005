//! A `Broker` against lists of messages and workers, one call after the other.
//!
//! Properties, for one to three partitions, with an order each or one for all, and every configuration but CoDel, which has tests of its own:
//!
//! 1. What each call answers: ids, refusals, which message is taken by whom, which worker is woken.
//! 2. Bounds hold for all partitions together, whatever they are changed to.
//! 3. Messages that waited for too long, or whose callers are dead, are never taken; what was dropped is told
//!    once, with its reason, to who waits for an answer, and counted.
//! 4. The account of every message; no message waits beside an idle worker unless one has been woken, or one is at work
//!    and only one is to be.
//!    One that was handed over is started once, by that worker, or waits again where it would have been.
//! 5. Patient callers are told once at the most: when they have waited for long, wherever their messages are, or when those go back; and whoever answers
//!    them, or tells them that their message was dropped, knows of it.
//! 6. When all messages have left, no arena holds a waiting one.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::ledger::{self, Ints};
use buffer_core::broker::config::{Config, Order, Overflow};
use buffer_core::broker::dropped::{Drop, Drops};
use buffer_core::broker::patience::{Patience, Slow};
use buffer_core::broker::worker::{End, Settled, State, Worker};
use buffer_core::broker::{After, Ask, Asked, Broker, Loose, Rested, Taken};
use buffer_core::Segment;
use proptest::prelude::*;

type Desk = Broker<Ints, u8>;

const WORKERS: usize = 3;
const CALLERS: u8 = 3;

#[derive(Debug, Clone)]
enum Op {
    Ask {
        home: usize,
        due: Option<i64>,
        caller: Option<u8>,
        reply: bool,
        alone: bool,
        idle_only: bool,
        hand_over: bool,
        patient: bool,
    },
    // By the short way; it may be refused by who stores it.
    AskLoose {
        home: usize,
        refused: bool,
    },
    Tell(i64),
    Take(usize),
    Rest(usize),
    Start(usize),
    Done(usize, bool),
    Withdraw(usize),
    Die(usize),
    Dismiss(usize),
    Cancel(usize),
    Kill(u8),
    Wait(i64),
    Expire,
    Sweep,
    Report(usize),
    Configure(Config),
    Gather,
    Scatter,
}

fn order() -> impl Strategy<Value = Order> {
    prop_oneof![Just(Order::Fifo), Just(Order::Lifo)]
}

fn config() -> impl Strategy<Value = Config> {
    (
        order(),
        prop_oneof![Just(usize::MAX), 0..8usize],
        prop_oneof![Just(Overflow::Newest), Just(Overflow::Oldest)],
        prop_oneof![3 => Just(0), 1 => 0..4usize],
        prop_oneof![Just(None), (0..20i64).prop_map(Some)],
        order(),
    )
        .prop_map(|(order, max, overflow, min, timeout, workers)| Config {
            order,
            max,
            overflow,
            min,
            timeout,
            codel: None,
            workers,
        })
}

fn op() -> impl Strategy<Value = Op> {
    let ask = (
        0..4usize,
        prop_oneof![3 => Just(None), 1 => (0..20i64).prop_map(Some)],
        prop_oneof![2 => Just(None), 1 => (0..CALLERS).prop_map(Some)],
        any::<bool>(),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.1),
        any::<bool>(),
        any::<bool>(),
    );
    prop_oneof![
        12 => ask.prop_map(|(home, due, caller, reply, alone, idle_only, hand_over, patient)| Op::Ask {
            home,
            due,
            caller,
            reply,
            alone,
            idle_only,
            hand_over,
            patient: patient && reply,
        }),
        4 => (0..4usize, prop::bool::weighted(0.2))
            .prop_map(|(home, refused)| Op::AskLoose { home, refused }),
        2 => (0..8i64).prop_map(Op::Tell),
        8 => (0..WORKERS).prop_map(Op::Take),
        4 => (0..WORKERS).prop_map(Op::Rest),
        4 => (0..WORKERS).prop_map(Op::Start),
        1 => (0..WORKERS, any::<bool>()).prop_map(|(worker, failed)| Op::Done(worker, failed)),
        1 => (0..WORKERS).prop_map(Op::Withdraw),
        1 => (0..WORKERS).prop_map(Op::Die),
        1 => (0..WORKERS).prop_map(Op::Dismiss),
        2 => (0..40usize).prop_map(Op::Cancel),
        1 => (0..CALLERS).prop_map(Op::Kill),
        3 => (0..8i64).prop_map(Op::Wait),
        1 => Just(Op::Expire),
        1 => Just(Op::Sweep),
        1 => (0..5usize).prop_map(Op::Report),
        1 => config().prop_map(Op::Configure),
        1 => Just(Op::Gather),
        1 => Just(Op::Scatter),
    ]
}

#[derive(Debug, Clone, Copy)]
struct Message {
    id: u64,
    value: u64,
    at: i64,
    due: Option<i64>,
    caller: Option<u8>,
    reply: Option<u64>,
    patience: Patience,
}

fn pid(after: After<Ints, u8>) -> Option<u8> {
    after.wake.map(|woken| woken.pid)
}

/// Who is told that it has waited for long.
fn slow(after: &After<Ints, u8>) -> Option<u64> {
    let slow = after.slow.as_ref()?;
    Some(value(slow.reply.arena(), 0))
}

/// A patient caller is told, if it has not been.
fn tell(message: &mut Message) -> bool {
    let untold = message.patience == Patience::Untold;
    if untold {
        message.patience = Patience::Told;
    }
    untold
}

fn value(arena: &Ints, index: usize) -> u64 {
    arena.load(index..index + 1)[0]
}

/// A worker of the model: what it does, its message's reply, and where it looks next.
struct Hand {
    worker: Arc<Worker<Ints, u8>>,
    state: State,
    at_work: bool,
    handed: Option<Message>,
    in_flight: Option<Message>,
    next: usize,
}

struct Run {
    desk: Desk,
    ordered: bool,
    alone: bool,
    gathered: bool,
    config: Config,
    partitions: Vec<VecDeque<Message>>,
    next: Vec<u64>,
    hands: Vec<Hand>,
    idle: VecDeque<usize>,
    joined: usize,
    dead: Vec<u8>,
    now: i64,
    value: u64,
    ids: Vec<u64>,
    told: Vec<(u64, Drop, bool)>,
    dropped: Drops,
    reported: Drops,
    accepted: u64,
    started: u64,
    done: u64,
    failed: u64,
    cancelled: u64,
    refused: u64,
}

impl Run {
    fn new(partitions: usize, ordered: bool, alone: bool, config: Config) -> Self {
        let mut run = Run {
            desk: match ordered {
                true => Desk::in_lanes(partitions, &config),
                false => Desk::new(partitions, &config),
            },
            ordered,
            alone,
            gathered: false,
            config,
            partitions: vec![VecDeque::new(); partitions],
            next: vec![1; partitions],
            hands: Vec::new(),
            idle: VecDeque::new(),
            joined: 0,
            dead: Vec::new(),
            now: 0,
            value: 0,
            ids: Vec::new(),
            told: Vec::new(),
            dropped: Drops::default(),
            reported: Drops::default(),
            accepted: 0,
            started: 0,
            done: 0,
            failed: 0,
            cancelled: 0,
            refused: 0,
        };
        run.desk.work_alone(alone);
        for index in 0..WORKERS {
            let hand = run.join(index);
            run.hands.push(hand);
        }
        run
    }

    fn join(&mut self, index: usize) -> Hand {
        let worker = self.desk.join(index as u8);
        let next = self.joined % self.partitions.len();
        self.joined += 1;
        Hand {
            worker,
            state: State::Running,
            at_work: false,
            handed: None,
            in_flight: None,
            next,
        }
    }

    fn share(&self, index: usize) -> Config {
        self.config.share(index, self.partitions.len())
    }

    fn woken(&self) -> usize {
        let hands = self.hands.iter();
        hands.filter(|hand| hand.state == State::Woken).count()
    }

    /// Who is woken, if anybody is.
    fn wake(&mut self, urgent: bool) -> Option<u8> {
        if !urgent && (self.woken() > 0 || !self.takes_more()) {
            return None;
        }
        let index = self.next_idle()?;
        self.hands[index].state = State::Woken;
        Some(index as u8)
    }

    fn takes_more(&self) -> bool {
        !self.alone || !self.hands.iter().any(|hand| hand.at_work)
    }

    fn next_idle(&mut self) -> Option<usize> {
        match self.config.workers {
            Order::Fifo => self.idle.pop_front(),
            Order::Lifo => self.idle.pop_back(),
        }
    }

    fn pass_on(&mut self) -> Option<u8> {
        let waiting = self
            .partitions
            .iter()
            .any(|partition| !partition.is_empty());
        waiting.then(|| self.wake(false)).flatten()
    }

    fn rise(&mut self, index: usize) -> bool {
        self.idle.retain(|&idle| idle != index);
        let before = std::mem::replace(&mut self.hands[index].state, State::Running);
        before == State::Woken
    }

    /// It does something else. Whether somebody else may have to take.
    fn pause(&mut self, index: usize) -> bool {
        let was = std::mem::replace(&mut self.hands[index].at_work, false);
        self.rise(index) | (was && self.alone)
    }

    fn give_up(&mut self, message: Message, reason: Drop) {
        self.dropped[reason as usize] += 1;
        if let (Some(reply), true) = (message.reply, reason != Drop::CallerDown) {
            let told = message.patience == Patience::Told;
            self.told.push((reply, reason, told));
        }
    }

    fn expire(&mut self, index: usize) {
        let config = self.share(index);
        loop {
            let partition = &mut self.partitions[index];
            let own = partition
                .iter()
                .enumerate()
                .filter_map(|(place, message)| message.due.map(|due| (due, message.id, place)))
                .min()
                .filter(|(due, _, _)| *due <= self.now)
                .map(|(_, _, place)| place);
            let common = config.timeout.filter(|timeout| {
                let oldest = partition.front().filter(|_| partition.len() > config.min);
                oldest.is_some_and(|oldest| oldest.at + timeout <= self.now)
            });
            let Some(place) = own.or(common.map(|_| 0)) else {
                return;
            };
            let message = partition.remove(place).expect("it was found there");
            self.give_up(message, Drop::Timeout);
        }
    }

    fn step(&mut self, op: &Op) {
        match op.clone() {
            Op::Ask {
                home,
                due,
                caller,
                reply,
                alone,
                idle_only,
                hand_over,
                patient,
            } => self.ask(
                home, due, caller, reply, alone, idle_only, hand_over, patient,
            ),
            Op::Tell(age) => self.tell(self.now - age),
            Op::AskLoose { home, refused } => self.ask_loose(home, refused),
            Op::Take(index) => self.take(index),
            Op::Rest(index) => self.rest(index),
            Op::Start(index) => self.start(index),
            Op::Done(index, failed) => {
                let end = if failed { End::Failed } else { End::Done };
                let settled = self.hands[index].worker.settle(end, self.now);
                let was = self.hands[index].in_flight.take();
                assert_eq!(settled, was.is_some());
                self.failed += u64::from(settled && failed);
                self.done += u64::from(settled && !failed);
            }
            Op::Withdraw(index) => {
                let worker = Arc::clone(&self.hands[index].worker);
                let after = self.desk.withdraw(&worker);
                let (slow, woken) = (slow(&after), pid(after));
                let back = self.hand_back(index);
                assert_eq!(slow, back.flatten());
                let replaced = self.pause(index) | back.is_some();
                assert_eq!(woken, replaced.then(|| self.pass_on()).flatten());
            }
            Op::Die(index) => self.die(index),
            Op::Dismiss(index) => self.dismiss(index),
            Op::Cancel(which) => self.cancel(which),
            Op::Kill(caller) => self.dead.push(caller),
            Op::Wait(time) => self.now += time,
            Op::Expire => {
                self.desk.expire(self.now);
                (0..self.partitions.len()).for_each(|index| self.expire(index));
            }
            Op::Sweep => self.sweep(),
            Op::Report(count) => self.report(count),
            Op::Configure(config) => {
                self.desk.configure(&config, self.now);
                self.config = config;
            }
            Op::Gather => {
                assert!(self.desk.gather(self.now).wake.is_none());
                self.gathered |= !self.alone;
                self.alone = true;
            }
            Op::Scatter => {
                self.alone &= !self.gathered;
                self.gathered = false;
                assert_eq!(pid(self.desk.scatter()), self.pass_on());
            }
        }
        self.check();
    }

    #[allow(clippy::too_many_arguments, reason = "what comes with a message")]
    fn ask(
        &mut self,
        home: usize,
        due: Option<i64>,
        caller: Option<u8>,
        reply: bool,
        alone: bool,
        idle_only: bool,
        hand_over: bool,
        patient: bool,
    ) {
        self.value += 1;
        let (value, reply) = (self.value, reply.then_some(self.value + 1_000_000));
        let due = due.map(|due| self.now + due);
        let ask = Ask {
            caller,
            now: self.now,
            due: due.unwrap_or(i64::MAX),
            weight: 1,
            alone,
            idle_only,
            hand_over,
            loose: false,
            patient,
        };
        let patience = match patient {
            true => Patience::Untold,
            false => Patience::Own,
        };
        let store = |segment: &mut Segment<Ints>| {
            let at = segment.stored() as u32;
            segment.push(1, |arena| arena.store(value));
            if let Some(reply) = reply {
                segment.push(1, |arena| arena.store(reply));
            }
            (at, reply.map(|_| at + 1))
        };
        // Patient callers take the short way first. Where it does not lead anywhere, nothing has happened.
        let short = hand_over && patient && !alone && !idle_only;
        let handed = short.then(|| self.desk.hand_over(home, &ask, store));
        let (asked, after) = match handed.flatten() {
            Some(handed) => {
                let after = After {
                    handed: Some(handed.worker),
                    ..After::default()
                };
                (Asked::Accepted(handed.id), after)
            }
            None => self.desk.ask(home, &ask, store),
        };
        let own = home % self.partitions.len();
        let mut others = self.partitions.iter();
        let none_waits = match self.ordered {
            true => others.all(VecDeque::is_empty),
            false => self.partitions[own].is_empty(),
        };
        if hand_over && !alone && !idle_only && none_waits && self.takes_more() {
            if let Some(index) = self.next_idle() {
                let message = Message {
                    id: self.next_id(own),
                    value,
                    at: self.now,
                    due,
                    caller,
                    reply,
                    patience,
                };
                assert_eq!(asked, Asked::Accepted(message.id));
                assert_eq!(after.handed.map(|worker| worker.pid), Some(index as u8));
                assert!(after.wake.is_none());
                self.hands[index].state = State::Running;
                self.hands[index].at_work = true;
                self.hands[index].handed = Some(message);
                self.accepted += 1;
                self.started += 1;
                return;
            }
        }
        assert!(after.handed.is_none());
        let full = self.partitions[own].len() >= self.share(own).max;
        // Whom a worker is free for does not wait, so there is always room for it.
        let reserved = (idle_only || full).then(|| self.wake(true)).flatten();
        if idle_only && reserved.is_none() {
            assert_eq!(asked, Asked::NoWorker);
            return;
        }
        let message = Message {
            id: 0,
            value,
            at: self.now,
            due,
            caller,
            reply,
            patience,
        };
        let expected = self.put(home, message, reserved.is_some());
        assert_eq!(asked, expected);
        let woken = match expected {
            Asked::Accepted(_) if reserved.is_none() => self.wake(false),
            _ => reserved,
        };
        assert_eq!(after.wake.map(|worker| worker.pid), woken);
    }

    /// Where there is no room, or something is to be looked after, or who stores it refuses, nothing is done.
    fn ask_loose(&mut self, home: usize, refused: bool) {
        let own = home % self.partitions.len();
        let config = self.share(own);
        let has_room = self.partitions[own].len() < config.max;
        let is_usual = has_room && config.timeout.is_none() && !self.gathered;
        let value = self.value + 1;
        let mut stored = false;
        let loose = self.desk.ask_loose(home, self.now, |segment| {
            stored = true;
            segment.push_if(|arena| {
                (!refused).then(|| {
                    arena.store(value);
                    1
                })
            })
        });
        assert_eq!(stored, is_usual);
        let Loose::Accepted(woken) = loose else {
            assert!(refused || !is_usual);
            return;
        };
        assert!(is_usual && !refused);
        self.value = value;
        let id = self.next_id(own);
        self.partitions[own].push_back(Message {
            id,
            value,
            at: self.now,
            due: None,
            caller: None,
            reply: None,
            patience: Patience::Own,
        });
        self.accepted += 1;
        assert_eq!(woken.map(|worker| worker.pid), self.wake(false));
    }

    fn put(&mut self, home: usize, mut message: Message, always: bool) -> Asked {
        let count = self.partitions.len();
        for index in (0..count).map(|step| (home + step) % count) {
            let config = self.share(index);
            if !always && self.partitions[index].len() >= config.max {
                self.expire(index);
            }
            if !always && self.partitions[index].len() >= config.max {
                if config.overflow == Overflow::Newest || config.max == 0 {
                    continue;
                }
                while self.partitions[index].len() >= config.max {
                    let oldest = self.partitions[index].pop_front().expect("it is full");
                    self.give_up(oldest, Drop::Full);
                }
            }
            message.id = self.next_id(index);
            self.partitions[index].push_back(message);
            self.accepted += 1;
            return Asked::Accepted(message.id);
        }
        self.refused += 1;
        Asked::Full
    }

    fn next_id(&mut self, index: usize) -> u64 {
        let count = self.partitions.len() as u64;
        let id = self.next[index] * count + index as u64;
        self.next[index] += 1;
        self.ids.push(id);
        id
    }

    /// It starts what it was handed, if that is still its.
    fn start(&mut self, index: usize) {
        let worker = Arc::clone(&self.hands[index].worker);
        assert_eq!(worker.start(0, None), None);
        if let Some(message) = self.hands[index].handed.take() {
            assert_eq!(worker.start(message.id, Some(self.now)), Some(message.at));
            assert_eq!(worker.start(message.id, Some(self.now)), None);
            self.hands[index].in_flight = Some(message);
        }
    }

    /// Those that have waited since then are told, wherever their messages are.
    fn tell(&mut self, until: i64) {
        let mut told = Vec::new();
        let look = |slow: Slow<Ints>| told.push((value(slow.reply.arena(), 0), slow.since));
        let again = self.desk.tell_patient(until, look);
        let hands = self.hands.iter_mut();
        let hands = hands.flat_map(|hand| hand.handed.iter_mut().chain(&mut hand.in_flight));
        let waiting = self.partitions.iter_mut().flatten();
        let untold = waiting
            .chain(hands)
            .filter(|message| message.patience == Patience::Untold);
        let (mut expected, mut left) = (Vec::new(), 0);
        for message in untold {
            if message.at > until {
                left += 1;
                continue;
            }
            message.patience = Patience::Told;
            expected.extend(message.reply.map(|reply| (reply, message.at)));
        }
        expected.sort_unstable();
        told.sort_unstable();
        assert_eq!(told, expected);
        assert_eq!(again, left > 0);
    }

    /// What it was handed waits again, before all that came later. Who is told so, if it was handed anything.
    fn hand_back(&mut self, index: usize) -> Option<Option<u64>> {
        let mut message = self.hands[index].handed.take()?;
        let told = message.reply.filter(|_| tell(&mut message));
        let partition = &mut self.partitions[(message.id % self.next.len() as u64) as usize];
        let place = partition.partition_point(|other| other.id < message.id);
        partition.insert(place, message);
        self.started -= 1;
        Some(told)
    }

    fn take(&mut self, index: usize) {
        let worker = Arc::clone(&self.hands[index].worker);
        let dead = self.dead.clone();
        let read = |arena: &Ints, entry: &buffer_core::broker::waiting::Entry<u8>| {
            let reply = entry.reply.map(|reply| value(arena, reply as usize));
            (value(arena, entry.message as usize), reply)
        };
        let (taken, after) = self.desk.take(
            &worker,
            || self.now,
            u32::MAX,
            |caller| !dead.contains(&caller),
            |arena, entry, _now| read(arena, entry),
        );
        let taken = match taken {
            Taken::Message(message) => Some(message),
            Taken::Alone(entry, chunk, _now) => Some(read(chunk.arena(), &entry)),
            Taken::Idle => None,
            _ => unreachable!("no other answer is possible here"),
        };
        let woken = self.rise(index);
        self.hands[index].at_work = true;
        self.done += u64::from(self.hands[index].in_flight.take().is_some());
        let handed = self.hands[index].handed.take();
        let at_work = self.hands.iter().filter(|hand| hand.at_work).count();
        // Another one is at work already.
        let steps_back = self.alone && at_work > 1 && !woken && handed.is_none();
        self.hands[index].next += usize::from(steps_back);
        let expected = handed.or_else(|| (!steps_back).then(|| self.find(index)).flatten());
        assert_eq!(
            taken,
            expected.map(|message| (message.value, message.reply))
        );
        let wakes = match expected {
            Some(message) => {
                self.started += u64::from(handed.is_none());
                self.hands[index].in_flight = Some(message);
                woken.then(|| self.pass_on()).flatten()
            }
            None => {
                self.hands[index].state = State::Idle;
                self.hands[index].at_work = false;
                self.idle.push_back(index);
                None
            }
        };
        assert_eq!(after.wake.map(|worker| worker.pid), wakes);
    }

    /// It is through with what it has, and takes nothing.
    fn rest(&mut self, index: usize) {
        // A worker that was sent a message starts that before.
        self.start(index);
        let worker = Arc::clone(&self.hands[index].worker);
        let Settled {
            wanted,
            told,
            loaded,
            ..
        } = worker.settle_answered(End::Done, self.now);
        assert_eq!((wanted, loaded), (true, false));
        let was = self.hands[index].in_flight.take();
        assert_eq!(
            told,
            was.is_some_and(|message| message.patience == Patience::Told)
        );
        self.done += u64::from(was.is_some());
        let woken = self.rise(index);
        let (rested, after) = self.desk.rest_unless_needed(&worker, false);
        let idle = self.partitions.iter().all(VecDeque::is_empty);
        self.hands[index].at_work = !idle;
        if idle {
            assert_eq!(rested, Rested::Idle);
            self.hands[index].state = State::Idle;
            self.idle.push_back(index);
            assert!(after.is_none_or(|after| after.wake.is_none()));
        } else {
            assert_eq!(rested, Rested::Needed);
            let wakes = woken.then(|| self.pass_on()).flatten();
            let wake = after.and_then(|after| after.wake);
            assert_eq!(wake.map(|worker| worker.pid), wakes);
        }
    }

    fn find(&mut self, index: usize) -> Option<Message> {
        self.hands[index].next += 1;
        let (first, count) = (self.hands[index].next, self.partitions.len());
        let mut turn = 0;
        loop {
            let index = if self.ordered {
                self.oldest()?
            } else if turn < count {
                (first + turn) % count
            } else {
                return None;
            };
            turn += 1;
            self.expire(index);
            loop {
                let partition = &mut self.partitions[index];
                let message = match self.config.order {
                    Order::Fifo => partition.pop_front(),
                    Order::Lifo => partition.pop_back(),
                };
                match message {
                    Some(message) if message.caller.is_some_and(|who| self.dead.contains(&who)) => {
                        self.give_up(message, Drop::CallerDown);
                    }
                    // Those that left had come first; now another lane's has.
                    Some(message) if self.ordered && self.config.order == Order::Fifo => {
                        self.partitions[index].push_front(message);
                        if self.oldest() != Some(index) {
                            break;
                        }
                        return self.partitions[index].pop_front();
                    }
                    Some(message) => return Some(message),
                    None => break,
                }
            }
        }
    }

    fn oldest(&self) -> Option<usize> {
        let fronts = self.partitions.iter().enumerate();
        let fronts = fronts.filter_map(|(index, partition)| Some((partition.front()?.at, index)));
        fronts.min().map(|(_, index)| index)
    }

    fn die(&mut self, index: usize) {
        let worker = Arc::clone(&self.hands[index].worker);
        let in_flight = self.hands[index].in_flight.take();
        let reply = worker.in_flight(value);
        let expected = in_flight.and_then(|mut message| {
            let since = tell(&mut message).then_some(message.at);
            message.reply.map(|reply| (reply, since))
        });
        assert_eq!(reply, expected);
        assert_eq!(self.desk.workers_of(index as u8).len(), 1);
        let after = self.desk.leave(&worker, self.now);
        let (slow, woken) = (slow(&after), pid(after));
        self.failed += u64::from(in_flight.is_some());
        self.pause(index);
        assert_eq!(slow, self.hand_back(index).flatten());
        self.hands[index].state = State::Gone;
        assert_eq!(woken, self.pass_on());
        assert!(matches!(
            self.desk
                .take(&worker, || 0, 1, |_| true, |_: &Ints, _, _| ())
                .0,
            Taken::Gone
        ));
        self.hands[index] = self.join(index);
    }

    /// It settles what it has, takes nothing, and leaves.
    fn dismiss(&mut self, index: usize) {
        let worker = Arc::clone(&self.hands[index].worker);
        let after = self.desk.dismiss(&worker);
        let (told, woken) = (slow(&after), pid(after));
        let back = self.hand_back(index);
        assert_eq!(told, back.flatten());
        let passes = self.pause(index) | back.is_some();
        self.hands[index].state = State::Leaving;
        assert_eq!(woken, passes.then(|| self.pass_on()).flatten());
        assert_eq!(worker.state(), State::Leaving);
        assert_eq!(pid(self.desk.withdraw(&worker)), None);
        let (taken, _) = self
            .desk
            .take(&worker, || self.now, 1, |_| true, |_: &Ints, _, _| ());
        assert!(matches!(taken, Taken::Gone));
        let (rested, _) = self.desk.rest_unless_needed(&worker, false);
        assert_eq!(rested, Rested::Gone);
        self.done += u64::from(self.hands[index].in_flight.take().is_some());
        let woken = pid(self.desk.leave(&worker, self.now));
        assert_eq!(woken, self.pass_on());
        self.hands[index] = self.join(index);
    }

    fn cancel(&mut self, which: usize) {
        let id = self.ids.get(which).copied().unwrap_or(which as u64);
        let place = self
            .partitions
            .iter()
            .enumerate()
            .find_map(|(index, partition)| {
                let place = partition.iter().position(|message| message.id == id)?;
                Some((index, place))
            });
        let handed = self.hands.iter_mut().find_map(|hand| {
            let handed = hand.handed.take_if(|message| message.id == id);
            handed.is_some().then_some(())
        });
        assert_eq!(self.desk.cancel(id).0, place.is_some() || handed.is_some());
        if handed.is_some() {
            self.started -= 1;
            self.cancelled += 1;
        }
        if let Some((index, place)) = place {
            self.partitions[index].remove(place);
            self.cancelled += 1;
        }
    }

    fn sweep(&mut self) {
        for index in 0..self.partitions.len() {
            let dead = self.dead.clone();
            let mut after = 0;
            while let (Some(next), _) = self
                .desk
                .sweep(index, after, 2, |caller| !dead.contains(&caller))
            {
                assert!(next > after);
                after = next;
            }
            let (gone, kept) = self.partitions[index]
                .drain(..)
                .partition(|message: &Message| {
                    message.caller.is_some_and(|who| dead.contains(&who))
                });
            self.partitions[index] = kept;
            let gone: VecDeque<Message> = gone;
            gone.into_iter()
                .for_each(|message| self.give_up(message, Drop::CallerDown));
        }
    }

    fn report(&mut self, count: usize) {
        let mut told = Vec::new();
        let read = |arena: &Ints, index: usize, reason, late| {
            told.push((value(arena, index), reason, late))
        };
        assert_eq!(self.desk.untold(), self.told.len());
        let counts = self.desk.dropped(count, read);
        assert_eq!(told, self.told[..count.min(self.told.len())]);
        self.told.drain(..told.len());
        self.desk.reported(told.len(), &counts);
        for (sum, count) in self.reported.iter_mut().zip(counts) {
            *sum += count;
        }
        assert_eq!(self.reported, self.dropped);
    }

    fn check(&self) {
        let figures = self.desk.figures();
        let waiting: usize = self.partitions.iter().map(VecDeque::len).sum();
        let counts = figures.counts;
        assert_eq!((figures.waiting, self.desk.waiting()), (waiting, waiting));
        assert_eq!(figures.bytes, waiting as u64);
        assert_eq!(figures.oldest.is_some(), waiting > 0);
        assert_eq!(counts.dropped, self.dropped);
        assert_eq!(
            [
                counts.accepted,
                counts.started,
                counts.cancelled,
                counts.refused
            ],
            [self.accepted, self.started, self.cancelled, self.refused]
        );
        assert_eq!(
            [figures.tally.done, figures.tally.failed],
            [self.done, self.failed]
        );
        assert_eq!(figures.idle, self.idle.len());
        for hand in &self.hands {
            assert_eq!(hand.worker.state(), hand.state);
        }
        let in_flight = self
            .hands
            .iter()
            .filter(|hand| hand.in_flight.is_some() || hand.handed.is_some())
            .count();
        assert_eq!(self.desk.in_flight(), in_flight);
        let forgotten =
            waiting > 0 && !self.idle.is_empty() && self.woken() == 0 && self.takes_more();
        assert!(!forgotten, "{waiting} wait beside {} idle", self.idle.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_broker_is_its_model(
        partitions in 1..4usize,
        ordered in any::<bool>(),
        alone in any::<bool>(),
        config in config(),
        ops in prop::collection::vec(op(), 0..120),
    ) {
        let mut run = Run::new(partitions, ordered, alone, config);
        for op in &ops {
            run.step(op);
        }
        run.config.timeout = None;
        run.desk.configure(&run.config, run.now);
        while run.partitions.iter().any(|partition| !partition.is_empty()) {
            // One of them is at work, and takes.
            (0..WORKERS).for_each(|index| run.step(&Op::Take(index)));
        }
        run.step(&Op::Report(usize::MAX));
        prop_assert!(run.told.is_empty());
        // One that is open in each partition, what each worker has kept, and what was just told.
        prop_assert!(ledger::alive().len() <= partitions + WORKERS + 1);
        drop(run);
        prop_assert!(ledger::alive().is_empty());
    }
}
