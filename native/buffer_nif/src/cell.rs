//! NIFs of the shared state of a pool: a [`Cell`](buffer_core::Cell) with a term in it.
//!
//! A term that is all in its word is kept as that; any other has an environment of its own, so that it can be
//! copied out by many readers at the same time, with no lock held. The former one is freed by whoever
//! reads it last, or by the reclaimer if it is large.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::Arc;

use buffer_core::broker::worker::End;
use buffer_core::cell::{Changed, FIRST};
use buffer_core::sync::Mutex;
use rustler::{Encoder, Env, Error, LocalPid, NifResult, Term};

use crate::arena::{immediate, immediate_word, Frozen, Handle};
use crate::broker::Member;
use crate::entry::nif;
use crate::reclaimer::{reclaim, Retired};
use crate::weigh::{account, Heavy, Limits, Scale};
use crate::{atoms, clock};

static TERMS: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

/// Freeing more than this is left to the reclaimer.
const MUCH: u32 = 64 * 1024;

/// A term that belongs to no process and its weight.
struct Stored {
    term: Option<Kept>,
    bytes: u32,
}

enum Kept {
    Word(u64),
    Copy(Frozen),
}

impl Stored {
    fn new(scale: &mut Scale, term: Term<'_>) -> Result<Self, Heavy> {
        let bytes = scale.weigh(term)?;
        let kept = match immediate_word(term) {
            Some(word) => Kept::Word(word),
            None => Kept::Copy(Frozen::new(term)),
        };
        TERMS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(u64::from(bytes), Ordering::Relaxed);
        Ok(Self {
            term: Some(kept),
            bytes,
        })
    }

    fn load<'a>(&self, env: Env<'a>) -> Option<Term<'a>> {
        match self.term.as_ref()? {
            Kept::Word(word) => immediate(env, *word),
            Kept::Copy(frozen) => Some(frozen.load(env)),
        }
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        if self.bytes > MUCH {
            if let Some(Kept::Copy(frozen)) = self.term.take() {
                let mut retired = Retired::default();
                retired.extend_with(1, u64::MAX, frozen);
                reclaim(retired);
            }
        }
        TERMS.fetch_sub(1, Ordering::Relaxed);
        BYTES.fetch_sub(u64::from(self.bytes), Ordering::Relaxed);
    }
}

/// How many terms all cells of the VM keep, and their weight.
pub fn alive() -> (usize, u64) {
    (TERMS.load(Ordering::Relaxed), BYTES.load(Ordering::Relaxed))
}

/// A worker that is through with its message, who waits for an answer, and the answer. If somebody waits and there is
/// none, it will be answered later.
type Settle<'a, 'm> = (&'m Member, Option<LocalPid>, Option<Term<'a>>);

/// What a cell on the BEAM refers to.
pub struct SharedCell(buffer_core::Cell<Stored>);

/// A term on its way into a cell.
pub struct Staged(Mutex<Option<Stored>>);

// A panic under their locks leaves the locks usable and what is in them as it was.
impl std::panic::RefUnwindSafe for SharedCell {}
impl std::panic::RefUnwindSafe for Staged {}

fn new<'a>(env: Env<'a>, mut scale: Scale, term: Term<'a>) -> Term<'a> {
    match Stored::new(&mut scale, term) {
        Err(Heavy) => atoms::heavy().encode(env),
        Ok(stored) => {
            let cell = Arc::new(SharedCell(buffer_core::Cell::new(stored)));
            (FIRST, Handle::make(env, cell)).encode(env)
        }
    }
}

/// A cell that keeps the term: `{version, cell}`, or `heavy`. O(size of the term).
#[rustler::nif]
fn cell_new<'a>(env: Env<'a>, term: Term<'a>) -> Term<'a> {
    new(env, Scale::bounded(), term)
}

/// As `cell_new`, however large the term is; `heavy` if it is 4 GB.
#[rustler::nif(schedule = "DirtyCpu")]
fn cell_new_dirty<'a>(env: Env<'a>, term: Term<'a>) -> Term<'a> {
    new(env, Scale::generous(), term)
}

fn get<'a>(
    env: Env<'a>,
    cell: &SharedCell,
    known: Option<u64>,
    within: impl FnOnce(u32) -> bool,
) -> Term<'a> {
    let Some((version, stored)) = cell.0.load(known) else {
        return atoms::unchanged().encode(env);
    };
    if !within(stored.bytes) {
        return atoms::heavy().encode(env);
    }
    account(env, 0, u64::from(stored.bytes));
    match stored.load(env) {
        Some(term) => (version, term).encode(env),
        // Its word was one when it was put in.
        None => atoms::nil().encode(env),
    }
}

/// `{version, term}`, or `unchanged` if the version is the `known` one, or `heavy`. O(size of the term).
#[rustler::nif]
fn cell_get<'a>(env: Env<'a>, cell: Handle<'a, SharedCell>, known: Option<u64>) -> Term<'a> {
    look(env, cell.0, known)
}

fn look<'a>(env: Env<'a>, cell: &SharedCell, known: Option<u64>) -> Term<'a> {
    get(env, cell, known, |bytes| u64::from(bytes) <= Limits::BYTES)
}

/// As `cell_get`, however large the term is.
#[rustler::nif(schedule = "DirtyCpu")]
fn cell_get_dirty<'a>(env: Env<'a>, cell: Handle<'a, SharedCell>, known: Option<u64>) -> Term<'a> {
    get(env, cell.0, known, |_bytes| true)
}

fn update<'a>(
    env: Env<'a>,
    mut scale: Scale,
    cell: &SharedCell,
    version: u64,
    term: Term<'a>,
    answer: Option<Settle<'a, '_>>,
) -> Term<'a> {
    // Nothing is copied in vain if that can be known.
    if cell.0.version() != version {
        return atoms::changed().encode(env);
    }
    let Ok(stored) = Stored::new(&mut scale, term) else {
        return atoms::heavy().encode(env);
    };
    account(env, 0, u64::from(stored.bytes));
    replace(env, cell, version, stored, answer)
}

fn replace<'a>(
    env: Env<'a>,
    cell: &SharedCell,
    version: u64,
    stored: Stored,
    answer: Option<Settle<'a, '_>>,
) -> Term<'a> {
    match cell.0.replace(version, stored) {
        Ok((version, _old)) => {
            match answer {
                Some((worker, Some(to), None)) => worker.defer(env, to),
                Some((worker, to, answer)) => {
                    worker.answer(env, End::Done, to.zip(answer));
                }
                None => {}
            }
            version.encode(env)
        }
        Err(Changed(_stored)) => atoms::changed().encode(env),
    }
}

/// Puts the term in if the version is still this one: the new version, or `changed`, or `heavy`.
/// O(size of the term).
#[rustler::nif]
fn cell_update<'a>(
    env: Env<'a>,
    cell: Handle<'a, SharedCell>,
    version: u64,
    term: Term<'a>,
) -> Term<'a> {
    update(env, Scale::bounded(), cell.0, version, term, None)
}

/// As `cell_update`, however large the term is; `heavy` if it is 4 GB.
#[rustler::nif(schedule = "DirtyCpu")]
fn cell_update_dirty<'a>(
    env: Env<'a>,
    cell: Handle<'a, SharedCell>,
    version: u64,
    term: Term<'a>,
) -> Term<'a> {
    update(env, Scale::generous(), cell.0, version, term, None)
}

fn given(answer: Term<'_>) -> Option<Term<'_>> {
    (answer.as_c_arg() != atoms::nil().as_c_arg()).then_some(answer)
}

/// As `cell_update`; if the term was put in, the worker is through with its message and the answer is sent, if it
/// is to anybody; to who waits for `nil`, later. No end of the worker can fall between these.
#[rustler::nif]
fn cell_answer<'a>(
    env: Env<'a>,
    cell: Handle<'a, SharedCell>,
    version: u64,
    term: Term<'a>,
    worker: Handle<'a, Member>,
    to: Option<LocalPid>,
    answer: Term<'a>,
) -> Term<'a> {
    let answer = Some((worker.0, to, given(answer)));
    update(env, Scale::bounded(), cell.0, version, term, answer)
}

nif!(cell_answer_take / 6, answer_take);

/// `cell_answer`, and the next message as `broker_take` has it: `{version, taken}`; or `changed` or `heavy`,
/// and nothing is done. O(size of the term) and of the message.
fn answer_take<'a>(
    env: Env<'a>,
    [cell, version, term, worker, to, answer]: [Term<'a>; 6],
) -> Term<'a> {
    let (Ok(Handle(cell)), Ok(version), Ok(Handle(worker))) = (
        cell.decode::<Handle<SharedCell>>(),
        version.decode(),
        worker.decode::<Handle<Member>>(),
    ) else {
        return atoms::changed().encode(env);
    };
    let settle = Some((worker, to.decode().ok(), given(answer)));
    let written = update(env, Scale::bounded(), cell, version, term, settle);
    if written.is_atom() {
        return written;
    }
    (written, worker.take(env, clock::now)).encode(env)
}

nif!(cell_start / 4, start);

/// `broker_start` of a message whose time is not measured, and `cell_get`: `nil` if the worker is not to start it,
/// otherwise what that answers. `heavy`: it has started it. O(size of the term).
fn start<'a>(env: Env<'a>, [cell, known, worker, id]: [Term<'a>; 4]) -> Term<'a> {
    let (Ok(Handle(cell)), Ok(Handle(worker)), Ok(id)) = (
        cell.decode::<Handle<SharedCell>>(),
        worker.decode::<Handle<Member>>(),
        id.decode(),
    ) else {
        return atoms::nil().encode(env);
    };
    if !worker.start(id) {
        return atoms::nil().encode(env);
    }
    look(env, cell, known.decode().ok())
}

/// A copy of the term for `cell_answer_staged`, or `heavy` if it is 4 GB. O(size of the term).
///
/// A process can be killed while a dirty scheduler works for it, and what is sent for it after that goes
/// nowhere. So the copy is made there, and everything that others see happens on a normal one.
#[rustler::nif(schedule = "DirtyCpu")]
fn cell_stage_dirty<'a>(env: Env<'a>, term: Term<'a>) -> Term<'a> {
    match Stored::new(&mut Scale::generous(), term) {
        Err(Heavy) => atoms::heavy().encode(env),
        Ok(stored) => Handle::make(env, Arc::new(Staged(Mutex::new(Some(stored))))),
    }
}

/// As `cell_answer`, with a term that has been staged; it is used up. O(1), and a send.
#[rustler::nif]
fn cell_answer_staged<'a>(
    env: Env<'a>,
    cell: Handle<'a, SharedCell>,
    version: u64,
    staged: Handle<'a, Staged>,
    worker: Handle<'a, Member>,
    to: Option<LocalPid>,
    answer: Term<'a>,
) -> NifResult<Term<'a>> {
    let stored = staged.0 .0.lock().take().ok_or(Error::BadArg)?;
    let answer = Some((worker.0, to, given(answer)));
    Ok(replace(env, cell.0, version, stored, answer))
}

/// The version of what is there. O(1).
#[rustler::nif]
fn cell_version(cell: Handle<'_, SharedCell>) -> u64 {
    cell.0 .0.version()
}
