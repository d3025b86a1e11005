//! `Capacity` and `Waiters` against a plain model of them, with somebody who serves at times of its own.
//!
//! Properties, checked after every step:
//!
//! 1. What is used is what is held and what was taken for writes on their way, while there is a limit. No
//!    taking of room leaves more than the limit, or than there was.
//! 2. Those who wait are served in the order in which they came. While one waits, nobody else takes room,
//!    unless it needs none or there is no limit.
//! 3. Nobody waits while there is room for the first one, unless somebody serves or has just been told to.
//!    One that there never will be room for holds up nobody.
//! 4. One serves at a time. Whoever starts while another one serves need not: that one sees the room.
//! 5. A writer that waits is served, gives up, or is there at the close: one of them, once. After the
//!    close nobody waits.
//! 6. Credits of a former limit neither cover anything nor give anything back.

use std::collections::VecDeque;

use crate::ledger::Ints;
use buffer_core::{Buffer, Credit, NoRoom, Queue, Size, Turn, Wait, Waiters};
use proptest::prelude::*;
use proptest::sample::Index;

#[derive(Debug, Clone)]
enum Op {
    Take(Size),
    /// Writes so much with one of the credits, or with none.
    Spend(Option<Index>, Size),
    GiveBack(Size),
    Cancel(Index),
    SetLimit(Option<Size>),
    Wait(Size),
    GiveUp(Index),
    /// Those whose number has this remainder are dead.
    GiveUpAll(u64),
    GiveUpFirst(u64),
    /// Somebody starts to serve.
    Start,
    /// And serves so many.
    Serve(usize),
    /// Whether those for whom there is no room are turned away from now on.
    TurnAway(bool),
    Close,
}

fn size() -> impl Strategy<Value = Size> {
    (0..6usize, 0..60u64).prop_map(|(entries, bytes)| Size { entries, bytes })
}

fn limit() -> impl Strategy<Value = Option<Size>> {
    let entries = prop_oneof![4 => 0..12usize, 1 => Just(usize::MAX)];
    let bytes = prop_oneof![2 => 0..120u64, 2 => Just(u64::MAX)];
    let limit = (entries, bytes).prop_map(|(entries, bytes)| Size { entries, bytes });
    prop_oneof![1 => Just(None), 8 => limit.prop_map(Some)]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => size().prop_map(Op::Take),
        5 => (prop::option::of(any::<Index>()), size()).prop_map(|(with, size)| Op::Spend(with, size)),
        5 => size().prop_map(Op::GiveBack),
        3 => any::<Index>().prop_map(Op::Cancel),
        2 => limit().prop_map(Op::SetLimit),
        12 => size().prop_map(Op::Wait),
        2 => any::<Index>().prop_map(Op::GiveUp),
        1 => (0..3u64).prop_map(Op::GiveUpAll),
        1 => (0..3u64).prop_map(Op::GiveUpFirst),
        6 => Just(Op::Start),
        6 => (0..4usize).prop_map(Op::Serve),
        2 => any::<bool>().prop_map(Op::TurnAway),
        1 => Just(Op::Close),
    ]
}

struct Taken {
    credit: Credit,
    // Under the limit that there is now.
    counts: bool,
}

struct Run {
    // Without partitions: what is held is up to the model.
    buffer: Buffer<Queue<Ints>, u8>,
    waiters: Waiters<u64>,
    limit: Option<Size>,
    held: Size,
    credits: Vec<Taken>,
    // Ticket, number, size.
    waiting: VecDeque<(u64, u64, Size)>,
    came: u64,
    // Those who do not wait any more.
    gone: Vec<u64>,
    serving: bool,
    told: bool,
    turns_away: bool,
    closed: bool,
}

impl Run {
    fn new() -> Self {
        Self {
            buffer: Buffer::new(0),
            waiters: Waiters::default(),
            limit: None,
            held: Size::default(),
            credits: Vec::new(),
            waiting: VecDeque::new(),
            came: 0,
            gone: Vec::new(),
            serving: false,
            told: false,
            turns_away: false,
            closed: false,
        }
    }

    fn used(&self) -> Size {
        let counting = self.credits.iter().filter(|taken| taken.counts);
        counting.fold(self.held, |sum, taken| sum + taken.credit.size)
    }

    fn fits(&self, size: Size) -> bool {
        let limit = self.limit.unwrap_or(Size::UNLIMITED);
        size == Size::default() || (self.used() + size).fits(limit)
    }

    fn take(&self, size: Size) -> Result<Size, NoRoom> {
        match self.limit {
            Some(limit) if !size.fits(limit) => Err(NoRoom::TooLarge),
            Some(_) if size == Size::default() => Ok(size),
            Some(_) if !self.waiting.is_empty() || !self.fits(size) => Err(NoRoom::Full),
            _ => Ok(size),
        }
    }

    fn has_taken(&mut self, credit: Credit) {
        let counts = self.limit.is_some();
        self.credits.push(Taken { credit, counts });
    }

    fn step(&mut self, op: &Op) {
        let capacity = self.buffer.capacity();
        match *op {
            Op::Take(size) => {
                let taken = capacity.take(size);
                assert_eq!(taken.map(|credit| credit.size), self.take(size));
                taken.into_iter().for_each(|credit| self.has_taken(credit));
            }
            Op::Spend(with, actual) => {
                let which = with.filter(|_| !self.credits.is_empty());
                let which = which.map(|index| index.index(self.credits.len()));
                let credit = which.map_or(Credit::NONE, |which| self.credits[which].credit);
                let left = capacity.spend(credit, actual);
                if self.limit.is_some() {
                    self.held += actual;
                    if let Some(which) = which {
                        let taken = &mut self.credits[which];
                        let covered = Some(taken.credit.size).filter(|_| taken.counts);
                        assert_eq!(left.size, covered.unwrap_or_default() - actual);
                        (taken.credit, taken.counts) = (left, true);
                    }
                }
            }
            Op::GiveBack(size) => {
                let size = Size {
                    entries: size.entries.min(self.held.entries),
                    bytes: size.bytes.min(self.held.bytes),
                };
                let waits = capacity.give_back(size);
                self.held = self.held - size;
                self.tell(waits);
            }
            Op::Cancel(which) => {
                if !self.credits.is_empty() {
                    let gone = self.credits.swap_remove(which.index(self.credits.len()));
                    let waits = capacity.cancel(gone.credit);
                    self.tell(waits);
                }
            }
            Op::SetLimit(limit) => {
                let waits = self.buffer.set_limit(limit);
                if self.limit.is_none() && limit.is_some() {
                    self.held = Size::default();
                    let credits = self.credits.iter_mut();
                    credits.for_each(|taken| taken.counts = false);
                }
                self.limit = limit;
                self.tell(waits);
            }
            Op::Wait(size) => {
                self.came += 1;
                let expected = self.take(size);
                match self.waiters.wait(capacity, size, self.came) {
                    Wait::Closed => {
                        assert!(self.closed);
                        self.gone.push(self.came);
                    }
                    Wait::TurnedAway => {
                        assert_eq!(expected, Err(NoRoom::Full));
                        assert!(self.turns_away);
                        self.gone.push(self.came);
                    }
                    Wait::Waits(ticket) => {
                        assert_eq!(expected, Err(NoRoom::Full));
                        assert!(!self.turns_away);
                        self.waiting.push_back((ticket, self.came, size));
                    }
                    Wait::Taken(number, credit) => {
                        assert_eq!((number, Ok(credit.size)), (self.came, expected));
                        self.gone.push(number);
                        self.has_taken(credit);
                    }
                    Wait::TooLarge => {
                        assert_eq!(expected, Err(NoRoom::TooLarge));
                        self.gone.push(self.came);
                    }
                }
            }
            Op::GiveUp(which) => {
                if !self.waiting.is_empty() {
                    let place = which.index(self.waiting.len());
                    let (ticket, number, _) = self.waiting[place];
                    assert_eq!(self.waiters.give_up(capacity, ticket), Some(number));
                    assert_eq!(self.waiters.give_up(capacity, ticket), None);
                    self.waiting.remove(place);
                    self.gone.push(number);
                    self.told = true;
                }
            }
            Op::GiveUpAll(remainder) => {
                let is_gone = |number: &u64| number % 3 == remainder;
                let gone = self.waiters.give_up_all(capacity, is_gone);
                let numbers = self.waiting.iter().map(|one| one.1);
                assert!(numbers.filter(is_gone).eq(gone.iter().copied()));
                self.waiting.retain(|one| !is_gone(&one.1));
                self.told |= !gone.is_empty();
                self.gone.extend(gone);
            }
            Op::GiveUpFirst(remainder) => {
                let is_gone = |number: &u64| number % 3 == remainder;
                let gone = self.waiters.give_up_first(capacity, is_gone);
                let first = self.waiting.front().map(|one| one.1);
                assert_eq!(gone, first.filter(is_gone));
                if let Some(number) = gone {
                    self.waiting.pop_front();
                    self.gone.push(number);
                    self.told = true;
                }
            }
            Op::Start => {
                assert_eq!(self.waiters.start(), !self.serving);
                (self.serving, self.told) = (true, false);
            }
            Op::Serve(turns) => (0..turns).for_each(|_| self.serve()),
            Op::TurnAway(turns_away) => {
                let waited = self.waiters.turn_away(capacity, turns_away);
                if turns_away {
                    self.dismissed(waited);
                } else {
                    assert!(waited.is_empty());
                }
                self.turns_away = turns_away;
            }
            Op::Close => {
                let waited = self.waiters.close(capacity);
                self.dismissed(waited);
                self.closed = true;
            }
        }
    }

    fn dismissed(&mut self, waited: Vec<u64>) {
        let waiting = self.waiting.drain(..).map(|one| one.1);
        assert!(waiting.eq(waited.iter().copied()));
        self.gone.extend(waited);
    }

    fn tell(&mut self, waits: bool) {
        assert_eq!(waits, !self.waiting.is_empty());
        self.told |= waits;
    }

    fn serve(&mut self) {
        if !self.serving {
            return;
        }
        let turn = self.waiters.next(self.buffer.capacity());
        let first = self.waiting.pop_front();
        let first = first.map(|(ticket, number, size)| {
            let limit = self.limit.unwrap_or(Size::UNLIMITED);
            (ticket, number, size, size.fits(limit))
        });
        match (turn, first) {
            (Some(Turn::Granted(number, credit)), Some((_, other, size, true))) => {
                assert_eq!((number, credit.size), (other, size));
                assert!(self.fits(size));
                self.gone.push(number);
                self.has_taken(credit);
            }
            (Some(Turn::TooLarge(number)), Some((_, other, _, false))) => {
                assert_eq!(number, other);
                self.gone.push(number);
            }
            (None, first) => {
                self.serving = false;
                if let Some((ticket, number, size, true)) = first {
                    assert!(!self.fits(size));
                    self.waiting.push_front((ticket, number, size));
                } else {
                    assert!(first.is_none());
                }
            }
            other => unreachable!("served wrongly: {other:?}"),
        }
    }

    fn check(&self) {
        let capacity = self.buffer.capacity();
        assert_eq!(capacity.is_limited(), self.limit.is_some());
        assert_eq!(capacity.limit(), self.limit);
        if self.limit.is_some() {
            assert_eq!(capacity.used(), self.used());
        }
        assert_eq!(capacity.waiting(), self.waiting.len());
        assert_eq!(self.waiters.len(), self.waiting.len());
        assert_eq!(self.waiters.is_empty(), self.waiting.is_empty());
        if let Some((_, _, size)) = self.waiting.front() {
            let limit = self.limit.unwrap_or(Size::UNLIMITED);
            let waits = size.fits(limit) && !self.fits(*size);
            assert!(waits || self.serving || self.told, "it waits for nothing");
        }
        let mut all: Vec<u64> = self.waiting.iter().map(|one| one.1).collect();
        all.extend(&self.gone);
        all.sort_unstable();
        assert!(all.iter().copied().eq(1..=self.came), "each once");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8192, failure_persistence: None, ..Default::default() })]

    #[test]
    fn agrees_with_a_model(ops in prop::collection::vec(op(), 0..80), limited: bool) {
        let mut run = Run::new();
        if limited {
            run.step(&Op::SetLimit(Some(Size { entries: 6, bytes: 80 })));
        }
        for op in &ops {
            let before = run.used();
            run.step(op);
            run.check();
            // Only what was written beyond its credit exceeds the limit, or what was there when it changed.
            if !matches!(op, Op::Spend(..) | Op::SetLimit(_)) {
                let limit = run.limit.unwrap_or(Size::UNLIMITED);
                let most = (limit.entries.max(before.entries), limit.bytes.max(before.bytes));
                assert!(run.used().entries <= most.0 && run.used().bytes <= most.1);
            }
        }
        run.step(&Op::Close);
        run.check();
        assert!(run.waiting.is_empty());
        assert!(matches!(run.waiters.wait(run.buffer.capacity(), Size::one(1), 0), Wait::Closed));
    }
}
