//! Tells patient callers that they have waited for long: a thread of the library's own.
//!
//! It has no process's life to share: whichever of a pool's processes dies, also all of them at once, its callers are told, and
//! see then who is dead. While nobody waits patiently it sleeps, and it looks at those brokers only in which somebody does,
//! once in [`TICK`].

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;
use std::time::Duration;

use buffer_core::broker::patience::Slow;
use crossbeam_channel::{unbounded, Sender};
use once_cell::sync::Lazy;
use rustler::{Encoder, Env, LocalPid, OwnedEnv, Term};

use super::{SharedBroker, MS};
use crate::arena::{Arena, Handle};
use crate::courier::send;
use crate::{atoms, clock};

/// It looks that often.
const TICK: Duration = Duration::from_millis(10);
/// Who has waited for so many nanoseconds is told when it looks.
const LONG: i64 = 10 * MS;

static THREAD: Lazy<Option<Sender<Arc<SharedBroker>>>> = Lazy::new(|| {
    let (sender, receiver) = unbounded::<Arc<SharedBroker>>();
    let work = move || {
        let mut watched = Vec::new();
        // It ends never: the other side is kept for good.
        while let Ok(first) = receiver.recv() {
            watched.push(first);
            while !watched.is_empty() {
                std::thread::sleep(TICK);
                watched.extend(receiver.try_iter());
                // What panics is looked at again.
                watched.retain(|shared| {
                    catch_unwind(AssertUnwindSafe(|| look(shared))).unwrap_or(true)
                });
            }
        }
    };
    let thread = std::thread::Builder::new().name("pb_patience".into());
    thread.spawn(work).ok().map(|_| sender)
});

/// Whether callers may be patient: where no thread can be started, nobody would tell them.
pub fn is_there() -> bool {
    THREAD.is_some()
}

/// Somebody waits patiently, whom nobody looks after yet.
pub fn watch(shared: &SharedBroker) {
    if let (Some(sender), Some(shared)) = (&*THREAD, shared.this.upgrade()) {
        // It can't fail: the receiver lives for good.
        _ = sender.send(shared);
    }
}

/// Tells those that have waited for long; whether to look again.
fn look(shared: &SharedBroker) -> bool {
    shared.core.tell_patient(clock::now() - LONG, |slow| {
        if let Some(caller) = caller(&slow) {
            // Nobody there is nobody to be told.
            _ = OwnedEnv::new().send_and_clear(&caller, |env| {
                let reply = slow.reply.arena().load(0, env);
                shared.word(env, reply, slow.since)
            });
        }
    })
}

#[expect(clippy::disallowed_methods, reason = "no term comes out of it")]
fn caller(slow: &Slow<Arena>) -> Option<LocalPid> {
    OwnedEnv::new().run(|env| {
        let reply = slow.reply.arena().load(0, env);
        let reply = reply.decode::<(LocalPid, Term)>().ok()?;
        Some(reply.0)
    })
}

impl SharedBroker {
    /// Tells a caller, in a call of a process, by what says whom to answer, that it has waited since then.
    pub(super) fn tell_slow<'a>(&self, env: Env<'a>, reply: Term<'a>, since: i64) {
        if let Ok((caller, _reference)) = reply.decode::<(LocalPid, Term)>() {
            // Nobody there is nobody to be told.
            _ = send(env, &caller, self.word(env, reply, since));
        }
    }

    /// What a caller is sent: for how many milliseconds it has waited, and what it has to know to look after itself, whoever has the
    /// pool's name by now.
    fn word<'a>(&self, env: Env<'a>, reply: Term<'a>, since: i64) -> Term<'a> {
        // Rounded down: the rest of its time is not to be over too early.
        let waited = clock::since(since) / MS;
        let pool = *self.pool.lock();
        let broker = self.this.upgrade().map(|this| Handle::make(env, this));
        (atoms::slow(), reply, waited, broker.zip(pool)).encode(env)
    }
}
