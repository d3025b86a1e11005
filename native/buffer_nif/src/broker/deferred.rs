//! NIFs of messages that are answered by somebody else than the worker that they were given to.

use rustler::{Atom, Env, LocalPid, Term};

use super::take::send_answer;
use super::{Member, SharedBroker};
use crate::arena::{Arena, Handle};
use crate::atoms;

impl Member {
    /// The worker is through with its message, and somebody else will answer it: `caller` waits. One that is patient is told at once:
    /// who looks after those looks at workers only.
    pub fn defer(&self, env: Env<'_>, caller: LocalPid) {
        let alive = |pid: LocalPid| pid.is_alive(env);
        let core = &self.broker.core;
        let read = |arena: &Arena, reply: usize| arena.load(reply, env);
        let slow = core.defer(&self.worker, caller, self.broker.moment(), alive, read);
        if let Some((reply, since)) = slow {
            self.broker.tell_slow(env, reply, since);
        }
    }
}

/// The worker is through with its message, which `broker_answer` will answer. O(log of those that wait so).
#[rustler::nif]
fn broker_defer(env: Env<'_>, worker: Handle<'_, Member>, caller: LocalPid) -> Atom {
    worker.0.defer(env, caller);
    atoms::ok()
}

/// Sends the answer to a message that was started, unless it has been answered, or nobody waits for it: whether it
/// was sent. No end of the process can fall between. O(workers), and a send.
#[rustler::nif]
fn broker_answer<'a>(
    env: Env<'a>,
    broker: Handle<'a, SharedBroker>,
    id: u64,
    to: LocalPid,
    answer: Term<'a>,
) -> bool {
    let told = broker.0.core.claim(id);
    told.is_some_and(|told| send_answer(env, &to, answer, told))
}

/// How many messages are to be answered by `broker_answer`; callers that are dead are counted for a while.
#[rustler::nif]
fn broker_deferred(broker: Handle<'_, SharedBroker>) -> usize {
    broker.0.core.deferred()
}
