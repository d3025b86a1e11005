//! Who works for a broker: all of its workers in the order in which they came, and those of a process.
//!
//! A broker may have tens of thousands of workers, and all of them may end at once: to find one by its process does not
//! look at the others.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::worker::Worker;

type Workers<A, P> = Vec<Arc<Worker<A, P>>>;

pub(super) struct Roster<A, P> {
    all: Workers<A, P>,
    of: BTreeMap<P, Workers<A, P>>,
}

impl<A, P: Copy + Ord> Roster<A, P> {
    pub(super) fn new() -> Self {
        Self {
            all: Vec::new(),
            of: BTreeMap::new(),
        }
    }

    pub(super) fn all(&self) -> &[Arc<Worker<A, P>>] {
        &self.all
    }

    pub(super) fn of(&self, pid: P) -> Workers<A, P> {
        self.of.get(&pid).cloned().unwrap_or_default()
    }

    pub(super) fn add(&mut self, worker: &Arc<Worker<A, P>>) {
        self.all.push(Arc::clone(worker));
        let same = self.of.entry(worker.pid).or_default();
        same.push(Arc::clone(worker));
    }

    pub(super) fn remove(&mut self, worker: &Worker<A, P>) {
        forget(&mut self.all, worker);
        if let Some(same) = self.of.get_mut(&worker.pid) {
            forget(same, worker);
            if same.is_empty() {
                self.of.remove(&worker.pid);
            }
        }
    }
}

fn forget<A, P>(workers: &mut Workers<A, P>, worker: &Worker<A, P>) {
    workers.retain(|other| !std::ptr::eq(&**other, worker));
}
