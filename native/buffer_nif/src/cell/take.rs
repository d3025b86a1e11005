//! NIFs of a worker that goes from one request to the next: the new state, the end of the one, and the beginning of the
//! other are one call.

use buffer_core::broker::worker::End;
use buffer_core::broker::Rested;
use rustler::{Encoder, Env, LocalPid, Term};

use super::{given, look, SharedCell, Stored};
use crate::arena::Handle;
use crate::atoms;
use crate::broker::Member;
use crate::entry::nif;
use crate::weigh::{account, Scale};

/// The state is as it was.
const AS_IT_WAS: u64 = 0;
/// The state is put in unless anybody has the turn.
const UNLESS_HELD: u64 = 2;
/// The state is as it was, but the handler had the turn, so that others had to wait for it.
const AS_IT_WAS_IN_TURN: u64 = 3;
/// Besides: no message is taken after this one.
const ONLY_THIS: u64 = 4;
/// Besides: most likely none waits.
const LIKELY_LAST: u64 = 8;

/// The cell, the version that the worker knows, the worker, and what is to be done.
#[inline(always)]
fn decode<'a>(
    [cell, version, worker, how]: [Term<'a>; 4],
) -> Option<(&'a SharedCell, u64, &'a Member, u64)> {
    let Handle(cell) = cell.decode().ok()?;
    let Handle(worker) = worker.decode().ok()?;
    Some((cell, version.decode().ok()?, worker, how.decode().ok()?))
}

/// Puts the state in, if it is to be, as `cell_answer_take` does: the version that is there then, or the answer if nothing is done.
fn put<'a>(
    env: Env<'a>,
    cell: &SharedCell,
    known: u64,
    term: Term<'a>,
    how: u64,
) -> Result<u64, Term<'a>> {
    if matches!(how, AS_IT_WAS | AS_IT_WAS_IN_TURN) {
        return Ok(known);
    }
    if cell.cell.version() != known || how == UNLESS_HELD && cell.is_held() {
        return Err(changed(env, cell, known));
    }
    let stored = Stored::new(&mut Scale::bounded(), term);
    let stored = stored.map_err(|_heavy| atoms::heavy().encode(env))?;
    account(env, 0, u64::from(stored.bytes));
    let version = cell.replace(known, stored);
    version.ok_or_else(|| changed(env, cell, known))
}

/// The handler has run in vain. What is there now, unless nobody may write, or it is large.
#[cold]
fn changed<'a>(env: Env<'a>, cell: &SharedCell, known: u64) -> Term<'a> {
    cell.in_vain();
    match look(env, cell, Some(known)) {
        other if other.is_atom() => atoms::changed().encode(env),
        now => (atoms::changed(), now).encode(env),
    }
}

/// On what a request is started: the version, if it is still there; `{version, term}`, or `heavy`.
fn here<'a>(env: Env<'a>, cell: &SharedCell, version: u64) -> Term<'a> {
    if cell.cell.version() == version {
        return version.encode(env);
    }
    look(env, cell, Some(version))
}

nif!(cell_answer_take / 7, answer_take);

/// `cell_answer`, and the next message as `broker_take_along` has it. With `how` 0 the state is as it was and nothing is put
/// in, nor with 3, for a handler that had the turn; with 2 it is not if anybody has the turn; with 1 it is. If 4 is added, the
/// worker has to take again; if 8 is, most likely nothing waits, so that the worker is idle before it looks. Answers
///
/// * `changed` or `heavy`: nothing is done; `{changed, {version, term}}`: nor is it, and this is there now;
/// * the version: all is done, nothing waits, and the worker is idle;
/// * `{version, message, reply, ns it has waited, id}`: it has started this one, and this version was there when it did, or
///   `changed` if it was replaced meanwhile;
/// * `{here, messages}`: it has started the first of these, that nobody waits for, and `cell_begin` starts the others.
///   `here` is the version, or `{version, term}` if it was replaced meanwhile, or `heavy` if that is large;
/// * `{version, what}`: `idle`, and there is something to attend to; or the worker is not idle, and has to take again.
///
/// O(size of the term) and of the message.
fn answer_take<'a>(
    env: Env<'a>,
    [cell, version, term, worker, to, answer, how]: [Term<'a>; 7],
) -> Term<'a> {
    let Some((cell, known, worker, how)) = decode([cell, version, worker, how]) else {
        return atoms::changed().encode(env);
    };
    let (only_this, is_likely_last) = (how & ONLY_THIS != 0, how & LIKELY_LAST != 0);
    let how = how & !(ONLY_THIS | LIKELY_LAST);
    let version = match put(env, cell, known, term, how) {
        Ok(version) => version,
        Err(nothing_is_done) => return nothing_is_done,
    };
    let to: Option<LocalPid> = to.decode().ok();
    let (now, settled) = worker.settle(env, End::Done, to.zip(given(answer)));
    cell.settled(env, worker, how != AS_IT_WAS, now, settled.took);
    if only_this || worker.has_to_attend() {
        return (version, atoms::again()).encode(env);
    }
    if is_likely_last && worker.rest(env, settled.loaded) == Rested::Idle {
        cell.went_on(env, worker, true, now);
        return match worker.has_to_attend() {
            // What came in between is not signalled to an idle worker.
            true => (version, atoms::idle()).encode(env),
            false => version.encode(env),
        };
    }
    let one = |message, reply, waited, id| match cell.cell.version() == version {
        true => (version, message, reply, waited, id).encode(env),
        false => (atoms::changed(), message, reply, waited, id).encode(env),
    };
    let several = |messages: Term<'a>| match worker.begin(env) {
        true => (here(env, cell, version), messages).encode(env),
        false => atoms::again().encode(env),
    };
    let taken = worker.take_along_as(env, || now, one, several);
    // What came in between is not signalled to an idle worker.
    let is_idle = taken.as_c_arg() == atoms::idle().as_c_arg();
    cell.went_on(env, worker, is_idle, now);
    if is_idle && !worker.has_to_attend() {
        version.encode(env)
    } else if taken.is_atom() {
        (version, taken).encode(env)
    } else {
        taken
    }
}

nif!(cell_begin / 5, begin);

/// Puts the state in, if it is to be, and the worker is through with its message and starts the next one that it has taken
/// along: as `cell_answer_take`, if nobody waits for an answer, and `broker_begin`. Answers
///
/// * `changed` or `heavy`, or `{changed, {version, term}}`: nothing is done, as there;
/// * the version, and it has started the next one; `{version, term}`: the same, and it was replaced meanwhile; `begun`: the
///   same, and what is there now is large;
/// * `{again, version}`: the worker is through with its message, and has to take again.
///
/// O(size of the term).
fn begin<'a>(env: Env<'a>, [cell, version, term, worker, how]: [Term<'a>; 5]) -> Term<'a> {
    let Some((cell, known, worker, how)) = decode([cell, version, worker, how]) else {
        return atoms::changed().encode(env);
    };
    let version = match put(env, cell, known, term, how) {
        Ok(version) => version,
        Err(nothing_is_done) => return nothing_is_done,
    };
    // No end of the worker falls between the two: the request whose state is there has come to its end.
    if worker.has_to_attend() || !worker.begin(env) {
        worker.end(End::Done);
        return (atoms::again(), version).encode(env);
    }
    cell.goes_on(worker);
    match here(env, cell, version) {
        heavy if heavy.is_atom() => atoms::begun().encode(env),
        here => here,
    }
}
