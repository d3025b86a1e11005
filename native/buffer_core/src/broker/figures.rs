//! How things stand, seen while messages go to and fro.

use super::worker::Tally;
use super::{Broker, Counts};
use crate::sync::Ordering;
use crate::Arena;

/// How things stand.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// What happened to messages.
    pub counts: Counts,
    /// What workers did, those that are gone included.
    pub tally: Tally,
    /// How many wait.
    pub waiting: usize,
    /// What those weigh.
    pub bytes: u64,
    /// When the oldest of them came.
    pub oldest: Option<i64>,
    /// How many workers are idle.
    pub idle: usize,
}

impl<A: Arena, P: Copy + Ord> Broker<A, P> {
    /// How many messages wait, those that workers have taken along among them.
    pub fn waiting(&self) -> usize {
        self.settled_reading(|| {
            let partitions = self.partitions.iter();
            let waiting = partitions.map(|partition| partition.lock().waiting.len());
            let waiting: usize = waiting.sum();
            if self.loads.load(Ordering::Relaxed) == 0 {
                return waiting;
            }
            let workers = self.workers();
            let held = workers.iter().map(|worker| worker.task.lock().load.held());
            waiting + held.sum::<usize>()
        })
    }

    /// A reading during which nothing has come back from a worker, which would be seen twice or not at all. If something
    /// does each time, the last one.
    fn settled_reading<R>(&self, read: impl Fn() -> R) -> R {
        const TRIES: usize = 16;
        for _ in 1..TRIES {
            let before = self.returns.load(Ordering::Acquire);
            let reading = read();
            if self.returns.load(Ordering::Acquire) == before {
                return reading;
            }
        }
        read()
    }

    /// How many workers are idle.
    pub fn idle(&self) -> usize {
        self.crew.lock().idle()
    }

    /// How things stand.
    pub fn figures(&self) -> Figures {
        self.settled_reading(|| self.figures_now())
    }

    // Workers first: so no more messages have ended than have started.
    fn figures_now(&self) -> Figures {
        let mut held = 0;
        let mut figures = Figures::default();
        let (workers, former, idle) = {
            let crew = self.crew.lock();
            (crew.workers().to_vec(), crew.former, crew.idle())
        };
        (figures.tally, figures.idle) = (former, idle);
        for worker in workers {
            let task = worker.task.lock();
            figures.tally = figures.tally + task.tally();
            held += task.load.held();
            figures.bytes += task.load.bytes();
            figures.oldest = figures.oldest.into_iter().chain(task.load.oldest()).min();
        }
        for partition in &self.partitions {
            let partition = partition.lock();
            let oldest = partition.waiting.front();
            let oldest = oldest.and_then(|place| partition.waiting.get(place));
            figures.counts.add(&partition.counts);
            figures.waiting += partition.waiting.len();
            figures.bytes += partition.waiting.bytes();
            figures.oldest = figures
                .oldest
                .into_iter()
                .chain(oldest.map(|(entry, _)| entry.at))
                .min();
        }
        // What a worker has taken along is not started yet. At least so much is counted as started, unless some of it
        // has come back since.
        let held = figures.counts.started.min(held as u64);
        figures.counts.started -= held;
        figures.waiting += held as usize;
        figures
    }

    /// How many workers have a message in flight, or have been handed one. O(workers).
    pub fn in_flight(&self) -> usize {
        let workers = self.workers();
        workers
            .iter()
            .filter(|worker| worker.task.lock().has_any())
            .count()
    }
}
