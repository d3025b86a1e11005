//! Starts cycles: whoever wants one wakes the process that drains, or tells the one that starts such processes.

use buffer_core::{Begun, Generation, Partition, Started, Trigger};
use rustler::{Atom, Encoder, Env, LocalPid, OwnedEnv, Term};

use crate::courier::send;
use crate::partition::part;
use crate::resource::{Overflow, Shared};
use crate::{atoms, clock};

/// A process that is to be told something.
#[derive(Clone, Copy)]
pub enum Tell {
    /// It drains.
    Cycle(LocalPid, Started),
    /// It is to start a process that does.
    Noted(LocalPid),
}

impl Tell {
    /// Who.
    pub fn process(&self) -> &LocalPid {
        match self {
            Tell::Cycle(process, _) | Tell::Noted(process) => process,
        }
    }

    /// Tells it. If it is dead, whoever sees that looks by itself.
    pub fn send(&self, env: Env<'_>) {
        _ = send(env, self.process(), self.message(env));
    }

    fn message<'a>(&self, env: Env<'a>) -> Term<'a> {
        match self {
            Tell::Cycle(_, started) => {
                let trigger = started.trigger.map_or(atoms::nil(), atoms::of_trigger);
                (atoms::partitioned_buffer_cycle(), trigger, started.size).encode(env)
            }
            Tell::Noted(_) => atoms::noted().encode(env),
        }
    }
}

/// Who is to be told of what came of it, and that as an atom.
pub fn told(begun: Begun<LocalPid>) -> (Option<Tell>, Atom) {
    match begun {
        Begun::Woken(runner, started) => (Some(Tell::Cycle(runner, started)), atoms::woken()),
        Begun::Nothing => (None, atoms::nothing()),
        Begun::Noted => (None, atoms::noted()),
        Begun::Unattended(attendant) => (attendant.map(Tell::Noted), atoms::noted()),
        Begun::Paused => (None, atoms::paused()),
    }
}

/// Starts a cycle of a partition.
pub fn begin<G: Generation>(
    env: Env<'_>,
    shared: &Shared,
    partition: &Partition<G, LocalPid>,
    trigger: Trigger,
) {
    let begun = partition.begin(trigger, part(shared), clock::now);
    tell(env, begun);
}

/// The same for who has just written, at this moment.
pub fn begin_at<G: Generation>(
    env: Env<'_>,
    shared: &Shared,
    partition: &Partition<G, LocalPid>,
    trigger: Trigger,
    written: &clock::Once,
) {
    // Others may have written meanwhile: where that is asked for, they are not to be older than they are.
    let now = || match shared.has_max_age() {
        true => clock::now(),
        false => written.now(),
    };
    tell(env, partition.begin(trigger, part(shared), now));
}

fn tell(env: Env<'_>, begun: Begun<LocalPid>) {
    if let (Some(tell), _) = told(begun) {
        tell.send(env);
    }
}

/// There is no room for a write: all partitions start a cycle, unless the oldest entries are to make room.
pub fn full(env: Env<'_>, shared: &Shared) {
    for tell in begin_all(shared) {
        tell.send(env);
    }
}

/// The same on a thread of this library.
pub fn full_on_thread(shared: &Shared) {
    for tell in begin_all(shared) {
        let mut env = OwnedEnv::new();
        let _ = env.send_and_clear(tell.process(), |env| tell.message(env));
    }
}

fn begin_all(shared: &Shared) -> impl Iterator<Item = Tell> + '_ {
    let starts = shared.overflow() != Overflow::DropOldest;
    let partitions = starts.then(|| shared.storage.all()).into_iter().flatten();
    partitions.filter_map(|partition| told(partition.begin(Trigger::Capacity, part(shared))).0)
}
