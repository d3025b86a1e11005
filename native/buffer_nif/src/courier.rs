//! Sends, also for a process that is dead.
//!
//! A process can be killed while a dirty scheduler works for it. The VM sends nothing for it from then on, but what was done
//! natively is done: somebody counts as woken, or as told. So a thread of the library's own sends in its place, and
//! nobody is forgotten.

use crossbeam_channel::{unbounded, Sender};
use once_cell::sync::Lazy;
use rustler::{Encoder, Env, LocalPid, OwnedEnv, Term};

use crate::arena::{self, Arena};

static THREAD: Lazy<Option<Sender<(LocalPid, Arena)>>> = Lazy::new(|| {
    let (sender, receiver) = unbounded::<(LocalPid, Arena)>();
    let work = move || {
        for (to, message) in receiver {
            // Who has died meanwhile is seen to by whoever notices that.
            _ = OwnedEnv::new().send_and_clear(&to, |env| message.load(0, env));
        }
    };
    let thread = std::thread::Builder::new().name("pb_courier".into());
    thread.spawn(work).ok().map(|_| sender)
});

/// Sends a message, in a call of a process. If nobody is there to get it, the answer is `false`, or what follows from that
/// death comes after this.
pub fn send(env: Env<'_>, to: &LocalPid, message: impl Encoder) -> bool {
    let message = message.encode(env);
    arena::send(env, to, message) || send_in_its_place(env, to, message)
}

#[cold]
fn send_in_its_place(env: Env<'_>, to: &LocalPid, message: Term<'_>) -> bool {
    // One that is about to die looks alive for a moment: then nobody gets the message, and its death is noticed.
    if !to.is_alive(env) {
        return false;
    }
    let mut copy = <Arena as buffer_core::Arena>::new();
    copy.store(message);
    // Where no thread can be started, it is as if nobody was there.
    let thread = THREAD.as_ref();
    thread.is_some_and(|thread| thread.send((*to, copy)).is_ok())
}
