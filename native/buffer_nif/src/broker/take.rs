//! NIFs of the worker's side: taking the next message, and answering it.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::Arc;

use buffer_core::broker::waiting::Entry;
use buffer_core::broker::worker::{End, Settled};
use buffer_core::broker::{After, Rested, Taken};
use buffer_core::Retired;
use rustler::types::atom::true_;
use rustler::{Atom, Encoder, Env, Error, LocalPid, NifResult, Term};

use super::{Member, SharedBroker};
use crate::arena::{small_integer, small_number, Arena, Copies, Handle};
use crate::courier::send;
use crate::entry::nif;
use crate::reclaimer::reclaim;
use crate::weigh::{account, Limits};
use crate::{atoms, clock};

/// Of what workers have to look after: that of which those are told that are about to be idle.
const CALLED: u8 = 1;

impl Member {
    /// The worker is through with its message, and answers it, if there is an answer and anybody waits for
    /// it. The moment, and how long it has worked on it.
    pub fn answer(
        &self,
        env: Env<'_>,
        end: End,
        answer: Option<(LocalPid, Term<'_>)>,
    ) -> (i64, i64) {
        let (now, settled) = self.settle(env, end, answer);
        (now, settled.took)
    }

    /// The same, and how things stood.
    pub fn settle(
        &self,
        env: Env<'_>,
        end: End,
        answer: Option<(LocalPid, Term<'_>)>,
    ) -> (i64, Settled) {
        let now = self.broker.moment();
        let settled = self.worker.settle_answered(end, now);
        if let Some((to, answer)) = answer.filter(|_| settled.wanted) {
            send_answer(env, &to, answer, settled.told);
        }
        (now, settled)
    }

    /// Whether only one worker is to be at work at a time, for now.
    pub fn is_gathered(&self) -> bool {
        self.broker.core.is_gathered()
    }

    /// One worker had better be alone at work, or all may be.
    pub fn gather(&self, env: Env<'_>, alone: bool, now: i64) {
        let core = &self.broker.core;
        let after = match alone {
            true if core.is_alone() => return,
            true => core.gather(now),
            false => core.scatter(),
        };
        self.broker.finish(env, after);
    }

    /// The worker starts the message that it was sent, if it is to, as `broker_start` does.
    pub fn start(&self, id: u64) -> bool {
        self.worker.start(id, None).is_some()
    }

    /// The worker takes its next message, or takes some along that nobody waits for, as `broker_take_along` does. `form`
    /// makes a term of message, reply, nanoseconds that it has waited, and id, and `form_list` one of the list.
    pub fn take_along_as<'a>(
        &self,
        env: Env<'a>,
        now: impl Fn() -> i64,
        form: impl Fn(Term<'a>, Term<'a>, i64, u64) -> Term<'a>,
        form_list: impl FnOnce(Term<'a>) -> Term<'a>,
    ) -> Term<'a> {
        let mut copies = Copies::with_capacity(env, 0);
        let copy = |arena: &Arena, range: Range<usize>| copies.extend(arena, range);
        let alive = |pid: LocalPid| pid.is_alive(env);
        let read =
            |arena: &Arena, entry: &Entry<LocalPid>, now| message(env, arena, entry, now, &form);
        let (core, heaviest) = (&self.broker.core, Limits::BYTES as u32);
        let (taken, after) = core.take_along(&self.worker, now, heaviest, alive, copy, read);
        if let Taken::Copies(count) = taken {
            account(env, count, 0);
            self.broker.finish(env, after);
            return form_list(copies.into_list());
        }
        taken_one(env, self, taken, after, form)
    }

    /// The worker is through with its message, and is idle unless it is needed. It may have taken messages along, if it is
    /// `loaded`.
    pub fn rest(&self, env: Env<'_>, loaded: bool) -> Rested {
        let (rested, after) = self.broker.core.rest_unless_needed(&self.worker, loaded);
        if let Some(after) = after {
            self.broker.finish(env, after);
        }
        rested
    }

    /// The worker is through with its message, if it has any.
    pub fn end(&self, end: End) {
        self.worker.settle(end, self.broker.moment());
    }

    /// The worker is through with its message, and starts the next one that it has taken along, as `broker_begin` does.
    pub fn begin(&self, env: Env<'_>) -> bool {
        let (begun, after) = self.broker.core.begin(&self.worker);
        self.broker.finish(env, after);
        begun
    }

    /// Whether no worker is to be idle, nor to take, before it has looked after something.
    fn is_called(&self) -> bool {
        // Seen as below.
        self.broker.attention.load(Ordering::Relaxed) & CALLED != 0
    }

    /// Whether there is anything that it has to look after before it takes.
    pub fn has_to_attend(&self) -> bool {
        // What is seen is at least what was there when the lock was let go that the worker has taken before this.
        self.broker.attention.load(Ordering::Relaxed) != 0
    }
}

/// Answers a caller; if it has been told, or is being told, that it has waited for long, the answer says so. Whether it
/// lives.
pub(super) fn send_answer(env: Env<'_>, to: &LocalPid, answer: Term<'_>, told: bool) -> bool {
    // Nobody there is nobody to be answered.
    match told {
        false => send(env, to, answer),
        true => send(env, to, (atoms::late(), answer)),
    }
}

/// Makes the caller a worker. O(1).
#[rustler::nif]
fn broker_join<'a>(env: Env<'a>, broker: Handle<'_, SharedBroker>) -> NifResult<Term<'a>> {
    let shared = broker.0.this.upgrade().ok_or(Error::BadArg)?;
    let pid = env.pid();
    let worker = shared.core.join(pid);
    shared.tell(env, (atoms::joined(), pid));
    let member = Member {
        broker: shared,
        worker,
    };
    Ok(Handle::make(env, Arc::new(member)))
}

nif!(broker_start / 3, start);

/// The worker starts the message that it was sent, with this id: the nanoseconds that it has waited, or 0 unless
/// they are to be `measured`, as then it may have worked on it since it was sent; or `nil`: it is not to, since the message
/// was taken back or given to another one. O(1).
fn start<'a>(env: Env<'a>, [worker, id, measured]: [Term<'a>; 3]) -> Term<'a> {
    let Ok(Handle(member)) = worker.decode::<Handle<Member>>() else {
        return atoms::nil().encode(env);
    };
    let Some(id) = small_number(id).or_else(|| id.decode().ok()) else {
        return atoms::nil().encode(env);
    };
    let is_measured = measured.as_c_arg() == true_().as_c_arg();
    let sums_only = member.broker.sums_only.load(Ordering::Relaxed);
    let now = (is_measured || sums_only).then(|| member.broker.moment());
    match member.worker.start(id, now) {
        Some(since) if is_measured => clock::since(since).encode(env),
        Some(_since) => small_integer(env, 0).unwrap_or_else(|| 0.encode(env)),
        None => atoms::nil().encode(env),
    }
}

nif!(broker_take / 1, take_next);

/// The worker is through with its message and takes the next one: `{message, reply, ns it has waited, id}`;
/// `:idle` (it will be sent `:"$broker_wake"`, or a message); `:attend` (the same, and the first bit of what has to be
/// looked after is set); or, not idle, `:again`, `:heavy` (call the `_dirty`
/// twin) or `:gone` (it has left). Bounded.
fn take_next<'a>(env: Env<'a>, [worker]: [Term<'a>; 1]) -> Term<'a> {
    match worker.decode::<Handle<Member>>() {
        Ok(Handle(member)) => {
            let now = || member.broker.moment();
            let taken = take(env, member, now, Limits::BYTES as u32, four(env));
            attended(env, member, taken)
        }
        Err(_) => atoms::gone().encode(env),
    }
}

/// The same for messages of any size.
#[rustler::nif(schedule = "DirtyCpu")]
fn broker_take_dirty<'a>(env: Env<'a>, worker: Handle<'_, Member>) -> Term<'a> {
    let now = || worker.0.broker.moment();
    let taken = take(env, worker.0, now, u32::MAX, four(env));
    attended(env, worker.0, taken)
}

nif!(broker_take_along / 2, take_along);

/// As `broker_take`; or of messages that nobody waits for a list of some, each of which `broker_begin` starts; or
/// `:attend`, if that bit is set, whether it is idle or not; or, if it is `patient`, `:soon`, not idle, since there are not
/// enough of them yet. Bounded.
fn take_along<'a>(env: Env<'a>, [worker, patient]: [Term<'a>; 2]) -> Term<'a> {
    let Ok(Handle(member)) = worker.decode::<Handle<Member>>() else {
        return atoms::gone().encode(env);
    };
    if member.is_called() {
        return atoms::attend().encode(env);
    }
    let patient = patient.as_c_arg() == true_().as_c_arg();
    let now = || member.broker.moment();
    if patient && member.broker.core.is_early(&member.worker, now) {
        return atoms::soon().encode(env);
    }
    let taken = member.take_along_as(env, now, four(env), |list| list);
    attended(env, member, taken)
}

/// The same; or `:attend`, if the worker is idle and has to look after anything, of which an idle worker is not told.
fn attended<'a>(env: Env<'a>, member: &Member, taken: Term<'a>) -> Term<'a> {
    let idle = taken.as_c_arg() == atoms::idle().as_c_arg();
    match idle && member.is_called() {
        true => atoms::attend().encode(env),
        false => taken,
    }
}

nif!(broker_begin / 1, begin);

/// The worker is through with its message, and starts the next one of the list that it has got; or not, since it is
/// given to another one, as are those behind it, or that bit is set. O(1).
fn begin<'a>(env: Env<'a>, [worker]: [Term<'a>; 1]) -> Term<'a> {
    let Ok(Handle(member)) = worker.decode::<Handle<Member>>() else {
        return false.encode(env);
    };
    if member.is_called() {
        return false.encode(env);
    }
    member.begin(env).encode(env)
}

fn take<'a>(
    env: Env<'a>,
    member: &Member,
    now: impl Fn() -> i64,
    heaviest: u32,
    form: impl Fn(Term<'a>, Term<'a>, i64, u64) -> Term<'a>,
) -> Term<'a> {
    let alive = |pid: LocalPid| pid.is_alive(env);
    let read = |arena: &Arena, entry: &Entry<LocalPid>, now| message(env, arena, entry, now, &form);
    let core = &member.broker.core;
    let (taken, after) = core.take(&member.worker, now, heaviest, alive, read);
    taken_one(env, member, taken, after, form)
}

/// A message as `broker_take` has it.
fn four<'a>(env: Env<'a>) -> impl Fn(Term<'a>, Term<'a>, i64, u64) -> Term<'a> {
    move |message, reply, waited, id| (message, reply, waited, id).encode(env)
}

fn message<'a>(
    env: Env<'a>,
    arena: &Arena,
    entry: &Entry<LocalPid>,
    now: i64,
    form: impl Fn(Term<'a>, Term<'a>, i64, u64) -> Term<'a>,
) -> Term<'a> {
    let message = arena.load(entry.message as usize, env);
    let reply = match entry.reply {
        Some(reply) => arena.load(reply as usize, env),
        None => atoms::nil().encode(env),
    };
    let waited = now.saturating_sub(entry.at).max(0);
    form(message, reply, waited, entry.id)
}

fn taken_one<'a>(
    env: Env<'a>,
    member: &Member,
    taken: Taken<Term<'a>, Arena, LocalPid>,
    after: After<Arena, LocalPid>,
    form: impl Fn(Term<'a>, Term<'a>, i64, u64) -> Term<'a>,
) -> Term<'a> {
    let answer = match taken {
        Taken::Message(message) => message,
        Taken::Alone(entry, chunk, now) => {
            account(env, 0, u64::from(entry.weight));
            let message = message(env, chunk.arena(), &entry, now, form);
            let mut retired = Retired::default();
            retired.extend([Box::new(chunk.into_segment())]);
            reclaim(retired);
            message
        }
        // There are none, or they were answered.
        Taken::Copies(_) => Copies::with_capacity(env, 0).into_list(),
        Taken::Heavy => atoms::heavy().encode(env),
        Taken::Again => atoms::again().encode(env),
        Taken::Idle => atoms::idle().encode(env),
        Taken::Gone => atoms::gone().encode(env),
    };
    member.broker.finish(env, after);
    answer
}

/// The worker is not idle from now on, until it has taken `:idle`. O(idle workers).
#[rustler::nif]
fn broker_withdraw(env: Env<'_>, worker: Handle<'_, Member>) -> Atom {
    let Member { broker, worker } = worker.0;
    broker.finish(env, broker.core.withdraw(worker));
    atoms::ok()
}

/// The worker is through with its message, well or not. O(1).
#[rustler::nif]
fn broker_done(worker: Handle<'_, Member>, failed: bool) -> Atom {
    let end = if failed { End::Failed } else { End::Done };
    worker.0.end(end);
    atoms::ok()
}

/// The same, and sends the answer: no end of the worker can fall between the two. As bounded as a send.
#[rustler::nif]
fn broker_reply<'a>(
    env: Env<'a>,
    worker: Handle<'a, Member>,
    to: LocalPid,
    answer: Term<'a>,
    failed: bool,
) -> Atom {
    let end = if failed { End::Failed } else { End::Done };
    worker.0.answer(env, end, Some((to, answer)));
    atoms::ok()
}

nif!(broker_reply_take / 3, reply_take);

/// `broker_reply` and `broker_take_along` in one call, but it takes one message: none before the answer was sent.
/// `:elsewhere`, and nothing is done, if `to` is not a process of this node.
fn reply_take<'a>(env: Env<'a>, [worker, to, answer]: [Term<'a>; 3]) -> Term<'a> {
    let Ok(to) = to.decode() else {
        return atoms::elsewhere().encode(env);
    };
    let Ok(Handle(member)) = worker.decode::<Handle<Member>>() else {
        return atoms::gone().encode(env);
    };
    let (now, _took) = member.answer(env, End::Done, Some((to, answer)));
    if member.is_called() {
        return atoms::attend().encode(env);
    }
    let taken = take(env, member, || now, Limits::BYTES as u32, four(env));
    attended(env, member, taken)
}

nif!(broker_reply_rest / 3, reply_rest);

/// `broker_reply`, and the worker is `:idle`, or `:attend`, as after `broker_take`; or, since something waits, it is to take
/// (`:again`). Or `:gone`, or `:elsewhere` as above.
fn reply_rest<'a>(env: Env<'a>, [worker, to, answer]: [Term<'a>; 3]) -> Term<'a> {
    let Ok(to) = to.decode() else {
        return atoms::elsewhere().encode(env);
    };
    let Ok(Handle(member)) = worker.decode::<Handle<Member>>() else {
        return atoms::gone().encode(env);
    };
    let (_now, settled) = member.settle(env, End::Done, Some((to, answer)));
    let rested = match member.rest(env, settled.loaded) {
        // What came in between was not told to an idle worker.
        Rested::Idle if member.is_called() => atoms::attend(),
        Rested::Idle => atoms::idle(),
        Rested::Needed => atoms::again(),
        Rested::Gone => atoms::gone(),
    };
    rested.encode(env)
}

/// The worker is none any more. O(workers).
#[rustler::nif]
fn broker_leave(env: Env<'_>, worker: Handle<'_, Member>) -> Atom {
    let Member { broker, worker } = worker.0;
    broker.finish(env, broker.core.leave(worker, broker.moment()));
    atoms::ok()
}
