//! Makes the writes of those who waited for room, away from whoever gave it back.
//!
//! A call that gives room back hands the buffer to a thread of this library's own, which serves writers
//! in the order in which they came until the next one does not fit. One such run at a time for each
//! buffer (see [`buffer_core::Waiters`]).

use std::sync::Arc;

use buffer_core::{Credit, Turn};
use crossbeam_channel::{unbounded, Sender};
use once_cell::sync::Lazy;
use rustler::{Atom, Encoder, Env, LocalPid, OwnedEnv, Term};

use crate::arena::Arena;
use crate::resource::{Shared, Storage};
use crate::write::Refused;
use crate::{atoms, map, queue};

/// A writer that waits.
pub struct Waiter {
    /// Its process.
    pub pid: LocalPid,
    /// `{Ref, Entries, Indexes}`: what it wants to write, and what it recognises the answer by.
    pub request: Arena,
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
                if turn(&shared) {
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
            None => return false,
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
        let (reference, result) = write(env, shared, request.load(0, env), credit);
        (reference, result).encode(env)
    });
}

/// Tells a writer that there never will be room for it.
fn refuse(waiter: Waiter) {
    let mut env = OwnedEnv::new();
    // Dead: nobody waits.
    let _ = env.send_and_clear(&waiter.pid, |env| {
        let request = waiter.request.load(0, env).decode::<(Term, Term, Term)>();
        let reference = request.map_or_else(|_| atoms::nil().encode(env), |request| request.0);
        (reference, atoms::too_large()).encode(env)
    });
}

/// Makes the write of a request. Answers the reference of the request, and `ok` or why nothing was written.
fn write<'a>(env: Env<'a>, shared: &Shared, request: Term<'a>, credit: Credit) -> (Term<'a>, Atom) {
    let Ok((reference, entries, indexes)) = request.decode::<(Term, Term, Term)>() else {
        let _ = shared.storage.capacity().cancel(credit);
        return (atoms::nil().encode(env), atoms::improper());
    };
    let written = match &shared.storage {
        Storage::Queue(_) => queue::write_granted(shared, entries, indexes, credit),
        Storage::Map(_) => map::write_granted(shared, entries, indexes, credit),
    };
    (
        reference,
        written.map_or_else(Refused::atom, |()| atoms::ok()),
    )
}
