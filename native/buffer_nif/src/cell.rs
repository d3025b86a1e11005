//! NIFs of the shared state of a pool: a [`Cell`](buffer_core::Cell) with a term in it.
//!
//! A term that is all in its word is kept as that, a small one as bytes, which take no environment of the VM to be made
//! and freed (see `arena/packed.rs`). Any other has an environment of its own, so that it can be
//! copied out by many readers at the same time, with no lock held. The former one is freed by whoever
//! reads it last, or by the reclaimer if it is large.
//!
//! How a worker goes from one request to the next is in `cell/take.rs`.

mod take;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::Arc;

use buffer_core::broker::company::Company;
use buffer_core::broker::worker::End;
use buffer_core::cell::{Changed, FIRST};
use buffer_core::sync::Mutex;
use once_cell::sync::OnceCell;
use rustler::{Atom, Encoder, Env, Error, LocalPid, NifResult, ResourceArc, Term};

use crate::arena::packed::{pack, unpack, SPACE};
use crate::arena::{immediate, immediate_word, Frozen, Handle};
use crate::atoms;
use crate::broker::Member;
use crate::entry::nif;
use crate::reclaimer::{reclaim, Retired};
use crate::turns::SharedTurns;
use crate::weigh::{account, Heavy, Limits, Scale};

static TERMS: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

/// Freeing more than this is left to the reclaimer.
const MUCH: u32 = 64 * 1024;

/// A term that belongs to no process and its weight.
struct Stored {
    term: Kept,
    bytes: u32,
}

#[derive(Clone)]
enum Kept {
    Word(u64),
    /// Its bytes, and how many words it takes.
    Packed(Arc<[u8]>, usize),
    Copy(Arc<Copied>),
}

/// A term in an environment of its own.
struct Copied {
    term: Option<Frozen>,
    bytes: u32,
}

impl Drop for Copied {
    fn drop(&mut self) {
        if let Some(term) = self.term.take_if(|_| self.bytes > MUCH) {
            let mut retired = Retired::default();
            retired.extend_with(1, u64::MAX, term);
            reclaim(retired);
        }
    }
}

impl Stored {
    fn new(scale: &mut Scale, term: Term<'_>) -> Result<Self, Heavy> {
        let (kept, bytes) = match immediate_word(term) {
            Some(word) => (Kept::Word(word), scale.weigh_words(0)?),
            None => Self::copy(scale, term)?,
        };
        Ok(Self { term: kept, bytes })
    }

    #[inline(never)]
    fn copy(scale: &mut Scale, term: Term<'_>) -> Result<(Kept, u32), Heavy> {
        let mut space = [0; SPACE];
        if let Some((len, words)) = pack(term, &mut space) {
            let packed = Kept::Packed(Arc::from(&space[..len]), words);
            return Ok((packed, scale.weigh_words(words)?));
        }
        let bytes = scale.weigh(term)?;
        let term = Some(Frozen::new(term));
        Ok((Kept::Copy(Arc::new(Copied { term, bytes })), bytes))
    }
}

impl Kept {
    fn load<'a>(&self, env: Env<'a>) -> Option<Term<'a>> {
        match self {
            Kept::Word(word) => immediate(env, *word),
            Kept::Packed(bytes, words) => Some(unpack(env, bytes, *words)),
            Kept::Copy(copied) => copied.term.as_ref().map(|term| term.load(env)),
        }
    }
}

/// One more term is kept, of this weight.
fn count(bytes: u32) {
    TERMS.fetch_add(1, Ordering::Relaxed);
    BYTES.fetch_add(u64::from(bytes), Ordering::Relaxed);
}

fn uncount(bytes: u32) {
    TERMS.fetch_sub(1, Ordering::Relaxed);
    BYTES.fetch_sub(u64::from(bytes), Ordering::Relaxed);
}

/// How many terms all cells of the VM keep, and their weight.
pub fn alive() -> (usize, u64) {
    (TERMS.load(Ordering::Relaxed), BYTES.load(Ordering::Relaxed))
}

/// A worker that is through with its message, who waits for an answer, and the answer. If somebody waits and there is
/// none, it will be answered later.
type Settle<'a, 'm> = (&'m Member, Option<LocalPid>, Option<Term<'a>>);

/// What a cell on the BEAM refers to.
pub struct SharedCell {
    cell: buffer_core::Cell<Stored>,
    // Those that have the turn may not be overtaken, and how those get on that work on it.
    shared: OnceCell<(ResourceArc<SharedTurns>, Company)>,
}

/// A term on its way into a cell.
pub struct Staged(Mutex<Option<Stored>>);

// A panic under their locks leaves the locks usable and what is in them as it was.
impl std::panic::RefUnwindSafe for SharedCell {}
impl std::panic::RefUnwindSafe for Staged {}

impl SharedCell {
    fn new(stored: Stored) -> Self {
        count(stored.bytes);
        Self {
            cell: buffer_core::Cell::new(stored),
            shared: OnceCell::new(),
        }
    }

    /// The new version, if this one was still there.
    fn replace(&self, version: u64, stored: Stored) -> Option<u64> {
        let bytes = stored.bytes;
        match self.cell.replace(version, stored) {
            Ok((version, old)) => {
                if old.bytes != bytes {
                    count(bytes);
                    uncount(old.bytes);
                }
                Some(version)
            }
            Err(Changed(_stored)) => None,
        }
    }

    /// A handler has run in vain.
    fn in_vain(&self) {
        if let Some((_, company)) = self.shared.get() {
            company.in_vain();
        }
    }

    fn is_held(&self) -> bool {
        self.shared.get().is_some_and(|(turns, _)| turns.is_held())
    }

    /// A handler has come to its end, and took so long: one that has written, or might have and kept others waiting for
    /// that; or one that did not.
    fn settled(&self, env: Env<'_>, worker: &Member, wrote: bool, now: i64, took: i64) {
        let Some((_, company)) = self.shared.get() else {
            return;
        };
        if wrote {
            if company.wrote(took) {
                worker.gather(env, true, now);
            }
        } else if company.read() && worker.is_gathered() {
            worker.gather(env, false, now);
        }
    }

    /// The worker has started the next of those that it has taken along.
    fn goes_on(&self, worker: &Member) {
        if let Some((_, company)) = self.shared.get().filter(|_| worker.is_gathered()) {
            company.goes_on();
        }
    }

    /// The worker has taken its next message, or is idle.
    fn went_on(&self, env: Env<'_>, worker: &Member, is_idle: bool, now: i64) {
        let Some((_, company)) = self.shared.get() else {
            return;
        };
        match (worker.is_gathered(), is_idle) {
            (true, true) if company.rests() => worker.gather(env, false, now),
            (true, true) => {}
            (true, false) => company.goes_on(),
            // There is more to do than workers.
            (false, false) if company.is_a_crowd() => worker.gather(env, true, now),
            (false, _) => {}
        }
    }
}

impl Drop for SharedCell {
    fn drop(&mut self) {
        let bytes = self.cell.load(None, |stored| stored.bytes);
        bytes.inspect(|&(_, bytes)| uncount(bytes));
    }
}

impl Staged {
    fn new(stored: Stored) -> Self {
        count(stored.bytes);
        Self(Mutex::new(Some(stored)))
    }

    fn take(&self) -> Option<Stored> {
        let stored = self.0.lock().take();
        stored.inspect(|stored| uncount(stored.bytes))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        self.take();
    }
}

fn new<'a>(env: Env<'a>, mut scale: Scale, term: Term<'a>) -> Term<'a> {
    match Stored::new(&mut scale, term) {
        Err(Heavy) => atoms::heavy().encode(env),
        Ok(stored) => {
            let cell = Arc::new(SharedCell::new(stored));
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
    let read = |stored: &Stored| (stored.term.clone(), stored.bytes);
    let Some((version, (kept, bytes))) = cell.cell.load(known, read) else {
        return atoms::unchanged().encode(env);
    };
    if !within(bytes) {
        return atoms::heavy().encode(env);
    }
    account(env, 0, u64::from(bytes));
    match kept.load(env) {
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
    if cell.cell.version() != version {
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
    match cell.replace(version, stored) {
        Some(version) => {
            match answer {
                Some((worker, Some(to), None)) => worker.defer(env, to),
                Some((worker, to, answer)) => {
                    let (now, took) = worker.answer(env, End::Done, to.zip(answer));
                    cell.settled(env, worker, true, now, took);
                }
                None => {}
            }
            version.encode(env)
        }
        None => atoms::changed().encode(env),
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

nif!(cell_start / 4, start);

/// `broker_start` of a message whose time is not measured, and `cell_get`: `nil` if the worker is not to start it,
/// otherwise what that answers. `heavy`: it has started it, and there is more to be done than that. O(size of the term).
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
    if worker.has_to_attend() {
        return atoms::heavy().encode(env);
    }
    look(env, cell, known.decode().ok())
}

nif!(cell_held / 1, held);

/// Whether anybody has the turn of those that share it. O(1).
fn held<'a>(env: Env<'a>, [cell]: [Term<'a>; 1]) -> Term<'a> {
    let cell = cell.decode::<Handle<SharedCell>>();
    cell.is_ok_and(|cell| cell.0.is_held()).encode(env)
}

/// The handlers of several workers write it, which have the turn then or may not overtake who has. From now on `cell_answer_take`
/// respects that, and sees to it that they do not get into each other's way. O(1).
#[rustler::nif]
fn cell_share(cell: Handle<'_, SharedCell>, turns: ResourceArc<SharedTurns>, have: bool) -> Atom {
    _ = cell.0.shared.set((turns, Company::new(have)));
    atoms::ok()
}

/// A copy of the term for `cell_answer_staged`, or `heavy` if it is 4 GB. O(size of the term).
///
/// A process can be killed while a dirty scheduler works for it. So the copy is made there, and everything that others see
/// happens on a normal one.
#[rustler::nif(schedule = "DirtyCpu")]
fn cell_stage_dirty<'a>(env: Env<'a>, term: Term<'a>) -> Term<'a> {
    match Stored::new(&mut Scale::generous(), term) {
        Err(Heavy) => atoms::heavy().encode(env),
        Ok(stored) => Handle::make(env, Arc::new(Staged::new(stored))),
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
    let stored = staged.0.take().ok_or(Error::BadArg)?;
    let answer = Some((worker.0, to, given(answer)));
    Ok(replace(env, cell.0, version, stored, answer))
}
