//! A partition whose generations fill in turn, against a list of lists.
//!
//! Properties, after every step of any sequence of inserts, batches, waits, giving up, dying, swaps on demand,
//! ends of drains, new sizes and a close:
//!
//! 1. What drains, what is live and who stands in line are those of the model: a write goes to the live
//!    generation unless that is full or somebody stands in line; one that finds it full and nothing draining
//!    has it swapped out first, so a generation leaves with what it had before that write.
//! 2. Writes of those in line are made in their order, whole, as soon as there is room; those of the dead and
//!    of those who stepped out are not.
//! 3. Everybody in line is told once, of the write or of the close.
//! 4. What was accepted is drained once, in order, and the account holds. No arena is left in the end.

use std::collections::{BTreeSet, VecDeque};

use crate::ledger::{self, Ints};
use buffer_core::{After, Closed, Next, NoTurn, Partition, Queue, Stood, Wanted};
use proptest::prelude::*;

type Part = Partition<Queue<Ints>, u8>;
type Todo = After<Ints, u8>;

#[derive(Debug, Clone)]
enum Op {
    /// So many at once; whoever can't is in line with them.
    Write(usize),
    /// The one at this place of the line steps out.
    StepOut(usize),
    /// The one at this place of the line dies.
    Die(usize),
    /// Swapped out on demand, and whoever waits is served.
    Swap,
    /// What drains has left, and whoever waits is served.
    Drained,
    /// Full with so many; whoever waits is served.
    Full(usize),
    Close,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => (0..4usize).prop_map(Op::Write),
        2 => (0..5usize).prop_map(Op::StepOut),
        2 => (0..5usize).prop_map(Op::Die),
        2 => Just(Op::Swap),
        4 => Just(Op::Drained),
        2 => (0..6usize).prop_map(Op::Full),
    ]
}

#[derive(Default)]
struct Model {
    full: usize,
    draining: Vec<u64>,
    live: Vec<u64>,
    line: VecDeque<(u64, Vec<u64>, bool)>,
    told: Vec<(u64, bool)>,
    drained: Vec<u64>,
    accepted: usize,
    closed: bool,
}

impl Model {
    fn is_full(&self) -> bool {
        self.live.len() >= self.full.max(1)
    }

    fn swap(&mut self) {
        if self.draining.is_empty() {
            self.draining = std::mem::take(&mut self.live);
        }
    }

    fn accept(&mut self, values: Vec<u64>) {
        self.accepted += values.len();
        self.live.extend(values);
    }

    fn write(&mut self, token: u64, values: Vec<u64>) -> &'static str {
        if self.closed {
            return "closed";
        }
        if self.is_full() {
            self.swap();
        }
        if self.is_full() || !self.line.is_empty() {
            self.line.push_back((token, values, true));
            self.turn();
            return "waits";
        }
        self.accept(values);
        "written"
    }

    fn turn(&mut self) {
        loop {
            while !self.closed && !self.is_full() {
                match self.line.pop_front() {
                    Some((token, values, true)) => {
                        self.accept(values);
                        self.told.push((token, true));
                    }
                    Some(_dead) => {}
                    None => return,
                }
            }
            if self.line.is_empty() || !self.draining.is_empty() || !self.is_full() {
                return;
            }
            self.swap();
        }
    }
}

struct Real {
    part: Part,
    dead: BTreeSet<u8>,
    told: Vec<(u64, bool)>,
    drained: Vec<u64>,
}

fn store(queue: &mut Queue<Ints>, values: &[u64]) {
    for value in values {
        queue.push(1, || 1, |arena| arena.store(*value));
    }
}

fn read(queue: &Queue<Ints>, count: usize) -> Vec<u64> {
    let pieces = queue.pieces(0, count);
    pieces
        .flat_map(|(arena, range)| arena.load(range).to_vec())
        .collect()
}

impl Real {
    fn tell(&mut self, todo: Todo) {
        let passed = todo.passed.into_iter();
        self.told
            .extend(passed.map(|passed| (passed.token, passed.lost.is_none())));
    }

    fn turn(&mut self) {
        let mut todo = Todo::default();
        let dead = self.dead.clone();
        let served = self
            .part
            .turn(|owner| !dead.contains(owner), || 1, &mut todo);
        assert_eq!(served.draining, self.part.draining());
        self.tell(todo);
    }

    fn write(&mut self, token: u64, values: &[u64]) -> &'static str {
        let mut todo = Todo::default();
        let mut result = self.part.insert(&mut todo, |live| store(live, values));
        if matches!(result, Err(NoTurn::Full)) {
            self.part.swap_full(|| 1);
            result = self.part.insert(&mut todo, |live| store(live, values));
        }
        self.tell(todo);
        match result {
            Ok(_) => "written",
            Err(NoTurn::Closed) => "closed",
            Err(NoTurn::Full) => {
                let mut todo = Todo::default();
                let mut entries = Queue::default();
                store(&mut entries, values);
                let stood = self.part.stand((token as u8, token), entries, &mut todo);
                self.tell(todo);
                assert_eq!(stood, Ok::<_, Closed>(Stood::Waits));
                self.turn();
                "waits"
            }
        }
    }

    fn drained(&mut self) {
        let mut todo = Todo::default();
        for _ in 0..2 {
            let wanted = Wanted::entries(usize::MAX);
            let keep = &|_: &Queue<Ints>, _: &buffer_core::Batch| None;
            let next = self.part.next(
                1,
                wanted,
                || 1,
                keep,
                &mut todo,
                |drain, batch| read(drain, batch.len),
            );
            if let Ok(Next::Batch(values)) = next {
                self.drained.extend(values);
            }
        }
        self.tell(todo);
    }
}

fn apply(op: Op, next: &mut u64, model: &mut Model, real: &mut Real) {
    match op {
        Op::Write(count) => {
            let token = *next;
            let values: Vec<u64> = (token..token + count as u64).collect();
            *next += count.max(1) as u64;
            assert_eq!(real.write(token, &values), model.write(token, values));
        }
        Op::StepOut(place) => {
            if let Some((token, ..)) = model.line.remove(place) {
                let mut todo = Todo::default();
                assert!(real.part.step_out(token, &mut todo));
                assert!(!real.part.step_out(token, &mut todo));
                real.tell(todo);
            }
        }
        Op::Die(place) => {
            if let Some((token, _, alive)) = model.line.get_mut(place) {
                *alive = false;
                real.dead.insert(*token as u8);
            }
        }
        Op::Swap => {
            model.swap();
            model.turn();
            real.part.swap(None, || 1);
            real.turn();
        }
        Op::Drained => {
            let drained = std::mem::take(&mut model.draining);
            model.drained.extend(drained);
            model.turn();
            real.drained();
            real.turn();
        }
        Op::Full(full) => {
            model.full = full;
            model.turn();
            let waits = real.part.set_full(9, full);
            assert_eq!(waits, real.part.standings().in_line > 0);
            real.turn();
        }
        Op::Close => {
            model.closed = true;
            for (token, ..) in model.line.drain(..) {
                model.told.push((token, false));
            }
            real.part.close();
            let mut todo = Todo::default();
            real.part.dismiss(&mut todo);
            real.tell(todo);
        }
    }
}

fn compare(model: &Model, real: &Real) {
    let draining = real.part.read(|drain, _| read(drain, usize::MAX));
    assert_eq!(draining, model.draining);
    let standings = real.part.standings();
    assert_eq!(standings.in_line, model.line.len());
    assert_eq!(standings.len, model.live.len());
    if !model.closed {
        let live = real.part.read_live(|live| read(live, usize::MAX));
        assert_eq!(live, Ok(model.live.clone()));
    }
    assert_eq!(real.told, model.told);
    assert_eq!(real.drained, model.drained);
    let stats = real.part.stats();
    assert_eq!(stats.accepted, model.accepted as u64);
    assert_eq!(stats.processed, model.drained.len() as u64);
    assert_eq!(
        stats.queued + stats.in_flight,
        model.draining.len() + model.live.len()
    );
}

proptest! {
    #[test]
    fn fills_in_turn_as_lists_do(ops in prop::collection::vec(op(), 1..60)) {
        let part = Part::default();
        part.set_full(9, 3);
        let mut real = Real { part, dead: BTreeSet::new(), told: Vec::new(), drained: Vec::new() };
        let mut model = Model { full: 3, ..Model::default() };
        let mut next = 0;
        let end = [Op::Close, Op::Write(1), Op::Drained, Op::Swap, Op::Drained, Op::Swap, Op::Drained];
        for op in ops.into_iter().chain(end) {
            apply(op, &mut next, &mut model, &mut real);
            compare(&model, &real);
        }
        prop_assert!(model.live.is_empty() && model.draining.is_empty());
        prop_assert!(model.drained.is_sorted_by(|one, other| one < other));
        drop(real);
        prop_assert!(ledger::alive().is_empty());
    }
}
