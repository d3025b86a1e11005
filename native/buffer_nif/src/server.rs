//! Makes the writes of those who waited for room, away from whoever gave it back.
//!
//! A call that gives room back hands the buffer to a thread of this library's own, which serves writers
//! in the order in which they came until the next one does not fit. One such run at a time for each
//! buffer (see [`buffer_core::Waiters`]).

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;

use buffer_core::{Credit, Turn};
use crossbeam_channel::{unbounded, Sender};
use once_cell::sync::Lazy;
use rustler::{Atom, Encoder, Env, LocalPid, OwnedEnv, Term};

use crate::arena::Arena;
use crate::begin::full_on_thread;
use crate::resource::{Shared, Storage};
use crate::write::{awaited_later, granted, Refused};
use crate::{atoms, courier, map, queue};

/// A writer that waits.
pub struct Waiter {
    /// Its process.
    pub pid: LocalPid,
    /// A [`Request`].
    pub request: Arena,
}

/// `{Reference, Entries, Indexes, Token}`: what a writer recognises the answer by, what it wants to write, and
/// by what it wants to be told when that has been through.
type Request<'a> = (Term<'a>, Term<'a>, Term<'a>, Option<u64>);

impl Waiter {
    /// The reference of its request.
    pub fn reference<'a>(&self, env: Env<'a>) -> Option<Term<'a>> {
        let request = self.request.load(0, env).decode::<Request<'_>>();
        request.ok().map(|request| request.0)
    }
}

// Serves no buffer for longer, if others wait too.
const TURN: usize = 64;

static THREAD: Lazy<Option<Sender<Arc<Shared>>>> = Lazy::new(|| {
    let (sender, receiver) = unbounded::<Arc<Shared>>();
    let again = sender.clone();
    std::thread::Builder::new()
        .name("pb_server".into())
        .spawn(move || {
            for shared in receiver {
                // One write that panics is not to be the end of all.
                let more = catch_unwind(AssertUnwindSafe(|| turn(&shared)));
                if more.unwrap_or(true) {
                    // To the end of the line; it can't fail, since this is the receiver.
                    let _ = again.send(shared);
                }
            }
        })
        .ok()
        .map(|_| sender)
});

/// There may be room for those who wait.
pub fn serve(shared: &Shared) {
    if !shared.waiters.start() {
        return;
    }
    // Where no thread can be started at all, those who wait give up in time.
    if let (Some(sender), Some(shared)) = (&*THREAD, shared.share()) {
        let _ = sender.send(shared);
    }
}

/// Serves some; whether there may be more.
fn turn(shared: &Shared) -> bool {
    for _ in 0..TURN {
        match shared.waiters.next(shared.storage.capacity()) {
            Some(Turn::Granted(waiter, credit)) => make(shared, waiter, credit),
            Some(Turn::TooLarge(waiter)) => refuse(waiter),
            // One that is dead would hold up those behind it until it fits, too. Room that has come
            // meanwhile is seen by whoever serves by then.
            None if forget_first_if_dead(shared) => {
                if !shared.waiters.start() {
                    return false;
                }
            }
            None => {
                // What has been written for others fills the room that the next one waits for.
                if !shared.waiters.is_empty() {
                    full_on_thread(shared);
                }
                return false;
            }
        }
    }
    true
}

/// Makes a write that has room, and tells the writer, unless that is dead: then it is not made.
fn make(shared: &Shared, waiter: Waiter, credit: Credit) {
    let Waiter { pid, request } = waiter;
    let mut env = OwnedEnv::new();
    // Dead when it is told: it was alive when its entries were accepted.
    let _ = env.send_and_clear(&pid, |env| {
        if !pid.is_alive(env) {
            let _ = shared.storage.capacity().cancel(credit);
            return atoms::nil().encode(env);
        }
        let (reference, result) = write(env, shared, pid, request.load(0, env), credit);
        (reference, result).encode(env)
    });
}

/// Tells a writer that there never will be room for it.
fn refuse(waiter: Waiter) {
    let mut env = OwnedEnv::new();
    // Dead: nobody waits.
    let _ = env.send_and_clear(&waiter.pid, |env| {
        (waiter.reference(env), atoms::too_large()).encode(env)
    });
}

/// Tells writers that wait no more why.
pub fn dismiss(env: Env<'_>, waited: &[Waiter], why: Atom) {
    for waiter in waited {
        if let Some(reference) = waiter.reference(env) {
            // Dead: nobody waits.
            _ = courier::send(env, &waiter.pid, (reference, why));
        }
    }
}

/// Forgets the first writer in line if it is dead; whether it was.
#[expect(clippy::disallowed_methods, reason = "no term comes out of it")]
fn forget_first_if_dead(shared: &Shared) -> bool {
    let is_dead = |waiter: &Waiter| OwnedEnv::new().run(|env| !waiter.pid.is_alive(env));
    let first = shared
        .waiters
        .give_up_first(shared.storage.capacity(), is_dead);
    first.is_some()
}

/// Forgets writers that are dead. Those behind them may fit now.
pub fn forget_dead(env: Env<'_>, shared: &Shared) {
    let capacity = shared.storage.capacity();
    let gone = shared
        .waiters
        .give_up_all(capacity, |waiter| !waiter.pid.is_alive(env));
    if !gone.is_empty() {
        serve(shared);
    }
}

/// Makes the write of a request. Answers the reference of the request, and what a write answers that has
/// waited.
fn write<'a>(
    env: Env<'a>,
    shared: &Shared,
    pid: LocalPid,
    request: Term<'a>,
    credit: Credit,
) -> (Term<'a>, Term<'a>) {
    let Ok((reference, entries, indexes, token)) = request.decode::<Request<'_>>() else {
        let _ = shared.storage.capacity().cancel(credit);
        return (
            atoms::nil().encode(env),
            Refused::Improper.atom().encode(env),
        );
    };
    let awaited = awaited_later(pid, token);
    let written = match &shared.storage {
        Storage::Queue(_) => queue::write_granted(shared, entries, indexes, credit, awaited),
        Storage::Map(_) => map::write_granted(shared, entries, indexes, credit, awaited),
    };
    (reference, granted(env, token, written))
}
