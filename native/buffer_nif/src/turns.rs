//! NIFs of the turns that the handlers of a pool take: [`Turns`](buffer_core::Turns) of processes.
//!
//! Who has to wait is sent the atom `partitioned_buffer_turn` when its turn has come, by whoever gives the
//! turn up, after the lock has been released. Who has the turn is sent `partitioned_buffer_turn_wanted` when somebody
//! waits for it, which may be no more by the time that it is received. A process that dies in line is taken out of it by the VM's
//! monitor.

use buffer_core::turns::Take;
use rustler::{Atom, Env, LocalPid, Monitor, Resource, ResourceArc};

use crate::atoms;

/// What turns on the BEAM refer to.
pub struct SharedTurns(buffer_core::Turns<LocalPid>);

// A panic under its lock leaves the lock usable and the line in order.
impl std::panic::RefUnwindSafe for SharedTurns {}

impl SharedTurns {
    /// Whether anybody has the turn.
    pub fn is_held(&self) -> bool {
        self.0.is_held()
    }

    fn want(&self, env: Env<'_>, holder: LocalPid) {
        // One that is dead gives it up.
        _ = env.send(&holder, atoms::partitioned_buffer_turn_wanted());
    }

    fn leave(&self, env: Env<'_>, who: LocalPid) {
        let mut leaving = who;
        // One that can't be told is dead, so its turn is over too.
        while let Some((next, wanted)) = self.0.leave(leaving) {
            if env.send(&next, atoms::partitioned_buffer_turn()).is_ok() {
                if wanted {
                    self.want(env, next);
                }
                return;
            }
            leaving = next;
        }
    }
}

#[rustler::resource_impl]
impl Resource for SharedTurns {
    const IMPLEMENTS_DOWN: bool = true;

    fn down<'a>(&'a self, env: Env<'a>, pid: LocalPid, _monitor: Monitor) {
        self.leave(env, pid);
    }
}

/// Turns that nobody has taken.
#[rustler::nif]
fn turns_new() -> ResourceArc<SharedTurns> {
    ResourceArc::new(SharedTurns(buffer_core::Turns::new()))
}

/// The calling process will be taken out of the line when it dies. Once for each process.
#[rustler::nif]
fn turns_join(env: Env<'_>, turns: ResourceArc<SharedTurns>) -> Atom {
    env.monitor(&turns, &env.pid());
    atoms::ok()
}

/// Gets in line: `ok` if it is the caller's turn now, `wait` if it will be told. The caller has joined.
/// O(processes in line).
#[rustler::nif]
fn turns_take(env: Env<'_>, turns: ResourceArc<SharedTurns>) -> Atom {
    match turns.0.take(env.pid()) {
        Take::Now => atoms::ok(),
        Take::Wait(holder) => {
            if let Some(holder) = holder {
                turns.want(env, holder);
            }
            atoms::wait()
        }
    }
}

/// Gives the turn up. O(processes in line).
#[rustler::nif]
fn turns_leave(env: Env<'_>, turns: ResourceArc<SharedTurns>) -> Atom {
    turns.leave(env, env.pid());
    atoms::ok()
}

/// Nobody gets the turn any more. O(1).
#[rustler::nif]
fn turns_close(turns: ResourceArc<SharedTurns>) -> Atom {
    turns.0.close();
    atoms::ok()
}

/// Whether anybody has the turn.
#[rustler::nif]
fn turns_held(turns: ResourceArc<SharedTurns>) -> bool {
    turns.0.is_held()
}

/// How many processes are in line.
#[rustler::nif]
fn turns_len(turns: ResourceArc<SharedTurns>) -> usize {
    turns.0.len()
}
