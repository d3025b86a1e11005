//! Erlang terms that belong to no process. All unsafe code of the project is here and in `arena/`.
//!
//! An [`Arena`] is a process-independent environment of the VM. Terms are copied in one after the
//! other and freed all together. What makes the rest of the crate safe:
//!
//! * A stored term is named by its index and leaves only as a copy in the reader's environment, so
//!   no term outlives the memory that it lies in.
//! * An environment may be used by one thread at a time. Writing takes `&mut Arena`; reading takes
//!   `&Arena`, and nothing that is stored changes meanwhile. `Arena` is `Send` and not `Sync`.
//!
//! A [`Handle`] is a resource of the VM. rustler has resources of its own; this one is read without
//! touching a reference count and without looking its type up in a hash map, which together cost a
//! push a tenth of its time.

use std::ffi::{c_int, c_uint, c_void, CStr};
use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::Arc;

use rustler::sys::{
    enif_alloc_env, enif_alloc_resource, enif_clear_env, enif_free_env, enif_get_resource,
    enif_get_tuple, enif_init_resource_type, enif_inspect_binary, enif_is_identical,
    enif_make_copy, enif_make_list_from_array, enif_make_resource, enif_release_resource,
    enif_self, enif_send, ErlNifBinary, ErlNifEnv, ErlNifResourceFlags, ErlNifResourceType,
    ErlNifResourceTypeInit,
};
use rustler::wrapper::NIF_TERM;
use rustler::{Decoder, Env, Error, LocalPid, NifResult, Term};
use smallvec::SmallVec;

use crate::broker::{Member, SharedBroker};
use crate::cell::{SharedCell, Staged};
use crate::resource::Shared;

#[path = "arena/packed.rs"]
pub mod packed;
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
#[path = "arena/ticks.rs"]
pub mod ticks;
#[path = "arena/words.rs"]
mod words;

pub use words::Layout;
use words::Words;

static ALIVE: AtomicUsize = AtomicUsize::new(0);

/// Terms that share memory of their own: the blocks of what is copied word by word, and an environment for
/// what the VM copies, once there is any.
pub struct Arena {
    env: Option<NonNull<ErlNifEnv>>,
    words: Words,
    terms: Vec<NIF_TERM>,
}

// SAFETY: a process-independent environment is bound to no thread (erl_nif documentation,
// "ErlNifEnv": it may be used by any thread, one at a time), and blocks are plain memory; `Arena` owns them
// alone.
unsafe impl Send for Arena {}

fn allocate_env() -> NonNull<ErlNifEnv> {
    // SAFETY: no precondition.
    let env = unsafe { enif_alloc_env() };
    // The VM ends itself when it is out of memory; it never returns null here.
    NonNull::new(env).expect("enif_alloc_env returned null")
}

impl Arena {
    /// Copies a term in.
    #[inline]
    pub fn store(&mut self, term: Term<'_>) {
        self.store_word(term.as_c_arg());
    }

    /// The same for the word of a term that its caller keeps alive.
    #[inline]
    fn store_word(&mut self, term: NIF_TERM) {
        let copy = match self.words.copy(Layout::get(), term, self.terms.len()) {
            Some(copy) => copy,
            None => self.have_copied(term),
        };
        self.push(copy);
    }

    /// Copies a term over a stored one, which is stored no more. Only if it takes just as much memory, and both
    /// are copied word by word; otherwise nothing is done.
    #[inline]
    pub fn overwrite(&mut self, index: usize, term: Term<'_>) -> bool {
        let old = self.terms[index];
        let copy = words::overwrite(Layout::get(), old, term.as_c_arg());
        copy.inspect(|&copy| self.terms[index] = copy).is_some()
    }

    /// Has the VM copy a term that its caller keeps alive.
    #[cold]
    fn have_copied(&mut self, term: NIF_TERM) -> NIF_TERM {
        let env = *self.env.get_or_insert_with(allocate_env);
        // SAFETY: `env` is alive until `drop` and nobody else uses it during `&mut self`; `term` is valid, and
        // its memory outlives this call.
        let copy = unsafe { enif_make_copy(env.as_ptr(), term) };
        self.words.have_been_copied(Layout::get(), copy);
        copy
    }

    /// Copies a term in as it is weighed, if it is light and there is room for its words already: how many these are besides
    /// its own. `None`: nothing is done.
    #[inline]
    pub fn store_light(&mut self, term: Term<'_>) -> Option<usize> {
        let copied = self.words.copy_here(Layout::get(), term.as_c_arg())?;
        self.push(copied.term);
        Some(copied.words)
    }

    #[inline]
    fn push(&mut self, copy: NIF_TERM) {
        if self.terms.is_empty() {
            ALIVE.fetch_add(1, Ordering::Relaxed);
        }
        self.terms.push(copy);
    }

    /// A copy of one term.
    pub fn load<'a>(&self, index: usize, env: Env<'a>) -> Term<'a> {
        // SAFETY: the term is in `self`'s memory, where no term changes meanwhile. `env` is the caller's,
        // used by this thread.
        let copy = unsafe { enif_make_copy(env.as_c_arg(), self.terms[index]) };
        // SAFETY: `copy` was just made in `env`.
        unsafe { Term::new(env, copy) }
    }

    /// Whether a stored term and another one are the same, as `=:=` has it.
    #[inline]
    pub fn is(&self, index: usize, term: Term<'_>) -> bool {
        // SAFETY: both terms are valid while their environments live, and this only reads.
        unsafe { enif_is_identical(self.terms[index], term.as_c_arg()) != 0 }
    }

    /// How many arenas with terms there are in the VM.
    pub fn alive() -> usize {
        ALIVE.load(Ordering::Relaxed)
    }
}

/// One term in an environment of its own that nothing is ever added to: any number of threads may read
/// it at the same time.
pub struct Frozen {
    env: NonNull<ErlNifEnv>,
    term: NIF_TERM,
}

// SAFETY: as for `Arena`.
unsafe impl Send for Frozen {}

// SAFETY: after `new` the environment is used again only by `drop`, which has it alone. What other
// threads do with `&Frozen` is `load`: it names the environment in no call, and reads the memory of a
// term, which never changes. What a copy counts up besides (references to binaries, functions, nodes)
// the VM counts atomically, as it does for messages that are copied on two schedulers. The one thing that
// copying changes in its source is a binary that is still being appended to; a copy is none, and what
// is in here is a copy.
unsafe impl Sync for Frozen {}

impl Frozen {
    /// A copy of the term.
    pub fn new(term: Term<'_>) -> Self {
        let env = allocate_env();
        ALIVE.fetch_add(1, Ordering::Relaxed);
        // SAFETY: `env` was just allocated; `term` is valid, because its own environment outlives it.
        let term = unsafe { enif_make_copy(env.as_ptr(), term.as_c_arg()) };
        Self { env, term }
    }

    /// A copy of it for the caller.
    pub fn load<'a>(&self, env: Env<'a>) -> Term<'a> {
        // SAFETY: the term was made in `self.env`, which lives as long as `self`, and it never changes.
        // `env` is the caller's, used by this thread.
        let copy = unsafe { enif_make_copy(env.as_c_arg(), self.term) };
        // SAFETY: `copy` was just made in `env`.
        unsafe { Term::new(env, copy) }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // SAFETY: allocated in `new`, freed only here, and its term has not left except as a copy.
        unsafe { enif_free_env(self.env.as_ptr()) };
        ALIVE.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A term without its environment, half the size: for those who keep many of one call. The lifetime is that of the
/// environment.
#[derive(Clone, Copy)]
pub struct Bare<'a>(NIF_TERM, PhantomData<Env<'a>>);

impl<'a> Bare<'a> {
    /// A term's.
    #[inline]
    pub fn of(term: Term<'a>) -> Self {
        Self(term.as_c_arg(), PhantomData)
    }

    /// The term: in the one environment that has this lifetime.
    #[inline]
    pub fn term(self, env: Env<'a>) -> Term<'a> {
        // SAFETY: it came from a term of an environment of the lifetime 'a, and no two environments have the same:
        // it is this one.
        unsafe { Term::new(env, self.0) }
    }

    /// The first word that the term refers to, if the VM lays terms out as expected. For those who want the processor to
    /// have it.
    #[inline]
    pub fn first_word(self) -> Option<usize> {
        let is_known = Layout::get().is_known() && self.0 & words::TAG == words::BOXED;
        is_known.then(|| words::first_word(self.0))
    }

    /// The elements of a tuple, if it has so many.
    #[inline]
    pub fn of_tuple<const N: usize>(tuple: Term<'a>) -> Option<[Self; N]> {
        let word = tuple.as_c_arg();
        if let Some(elements) = words::elements(Layout::get(), word) {
            // What a tuple refers to belongs to its environment.
            let elements: &[NIF_TERM; N] = elements.try_into().ok()?;
            return Some(elements.map(|element| Self(element, PhantomData)));
        }
        let elements = tuple_elements(tuple).filter(|elements| elements.len() == N)?;
        elements.map(Self::of).collect::<Vec<_>>().try_into().ok()
    }
}

/// Goes through a list. What is left of it then is the empty list, if it is a proper one.
pub struct Cells<'a> {
    rest: Term<'a>,
    layout: Layout,
}

impl<'a> Cells<'a> {
    /// From the beginning.
    #[inline]
    pub fn of(list: Term<'a>) -> Self {
        Self {
            rest: list,
            layout: Layout::get(),
        }
    }

    /// What is left.
    #[inline]
    pub fn rest(&self) -> Term<'a> {
        self.rest
    }
}

impl<'a> Iterator for Cells<'a> {
    type Item = Term<'a>;

    #[inline]
    fn next(&mut self) -> Option<Term<'a>> {
        let Some(cell) = words::head_and_tail(self.layout, self.rest.as_c_arg()) else {
            let (head, tail) = self.rest.list_get_cell().ok()?;
            self.rest = tail;
            return Some(head);
        };
        let env = self.rest.get_env();
        let [head, tail] = cell.map(|word| {
            // SAFETY: what a list refers to belongs to the list's environment.
            unsafe { Term::new(env, word) }
        });
        self.rest = tail;
        Some(head)
    }
}

/// Copies of stored terms on their way into a list of the caller's.
pub struct Copies<'a> {
    env: Env<'a>,
    terms: SmallVec<[NIF_TERM; 32]>,
}

impl<'a> Copies<'a> {
    /// None yet; about to become `count`.
    pub fn with_capacity(env: Env<'a>, count: usize) -> Self {
        let terms = SmallVec::with_capacity(count);
        Self { env, terms }
    }

    /// The environment that they are in.
    pub fn env(&self) -> Env<'a> {
        self.env
    }

    /// Copies the terms in `range` out of their arena.
    pub fn extend(&mut self, arena: &Arena, range: Range<usize>) {
        let Range { mut start, end } = range;
        while start < end {
            let terms = &arena.terms[start..];
            start += match arena.words.stretch(terms, end - start) {
                Some(stretch) => {
                    let moved = stretch.copy_out(self.env);
                    let terms = terms[..stretch.terms].iter();
                    let copies = terms.map(|&term| match is_immediate_word(term) {
                        true => term,
                        false => term.wrapping_add(moved),
                    });
                    self.terms.extend(copies);
                    stretch.terms
                }
                None if is_immediate_word(terms[0]) => {
                    self.terms.push(terms[0]);
                    1
                }
                None => {
                    // SAFETY: the term is in the arena's memory, where no term changes meanwhile. The environment is
                    // the caller's, used by this thread.
                    let copy = unsafe { enif_make_copy(self.env.as_c_arg(), terms[0]) };
                    self.terms.push(copy);
                    1
                }
            };
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.terms.len()
    }

    /// Adds a term of the same environment.
    pub fn push(&mut self, term: Term<'a>) {
        self.terms.push(term.as_c_arg());
    }

    /// The copies as a list, in order.
    pub fn into_list(self) -> Term<'a> {
        let len = c_uint::try_from(self.terms.len()).unwrap_or(c_uint::MAX);
        // SAFETY: all of them were made in `env`, and there are at least `len`.
        let list =
            unsafe { enif_make_list_from_array(self.env.as_c_arg(), self.terms.as_ptr(), len) };
        // SAFETY: `list` was just made in `env`.
        unsafe { Term::new(self.env, list) }
    }
}

impl buffer_core::Arena for Arena {
    fn new() -> Self {
        Self {
            env: None,
            words: Words::default(),
            terms: Vec::with_capacity(buffer_core::Segment::<Arena>::FIRST_ENTRIES),
        }
    }

    fn about_to_get(entries: usize, room: usize) -> Self {
        Self {
            env: None,
            words: Words::about_to_get(room),
            terms: Vec::with_capacity(entries),
        }
    }

    fn room(&self) -> usize {
        self.words.len()
    }

    fn copy_from(&mut self, other: &Self, index: usize) {
        self.store_word(other.terms[index]);
    }

    fn clear(&mut self) -> bool {
        let little = self.words.clear();
        if little && !self.terms.is_empty() {
            self.terms.clear();
            if let Some(env) = self.env {
                // SAFETY: allocated by `have_copied`, nobody else uses it during `&mut self`, and the words of its terms
                // have just been forgotten.
                unsafe { enif_clear_env(env.as_ptr()) };
            }
            ALIVE.fetch_sub(1, Ordering::Relaxed);
        }
        little
    }

    fn len(&self) -> usize {
        self.terms.len()
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if let Some(env) = self.env {
            // SAFETY: allocated by `have_copied`, freed only here, and no term of it has left except as a copy.
            unsafe { enif_free_env(env.as_ptr()) };
        }
        if !self.terms.is_empty() {
            ALIVE.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// The term of a word that is all of it: an atom, a small integer, a local pid or port, or the empty
/// list. `None` for other words.
#[inline]
pub fn immediate<'a>(env: Env<'a>, word: u64) -> Option<Term<'a>> {
    let word = usize::try_from(word)
        .ok()
        .filter(|&word| is_immediate_word(word))?;
    // SAFETY: such a word refers to no memory, so it is a term of every environment.
    Some(unsafe { Term::new(env, word) })
}

/// The four low bits of the word of a small integer; the others are its value. Checked when the library is loaded, by
/// `write::integers_are_as_expected`.
pub const SMALL_INTEGER: u64 = 0b1111;
const SMALL_BITS: u32 = 59;

/// A number as a term, without a call into the VM; `None` if it is large.
#[inline]
pub fn small_integer(env: Env<'_>, number: u64) -> Option<Term<'_>> {
    let is_small = size_of::<NIF_TERM>() == 8 && number >> SMALL_BITS == 0;
    is_small.then(|| immediate(env, number << 4 | SMALL_INTEGER))?
}

/// The number that such a term is, if it is one, and is not negative.
#[inline]
pub fn small_number(term: Term<'_>) -> Option<u64> {
    let word = immediate_word(term)?;
    (word & SMALL_INTEGER == SMALL_INTEGER && word >> 63 == 0).then_some(word >> 4)
}

/// Sends a message, in a call of a process: whether that process can send, and somebody is there to get it.
#[inline]
pub fn send(env: Env<'_>, to: &LocalPid, message: Term<'_>) -> bool {
    let mut own = std::mem::MaybeUninit::uninit();
    // SAFETY: `env` is valid, and `own` is a live local.
    let process = unsafe { enif_self(env.as_c_arg(), own.as_mut_ptr()) };
    if process.is_null() {
        // It is no process's.
        return false;
    }
    let (to, no_env) = (to.as_c_arg(), std::ptr::null_mut());
    // SAFETY: `env` is that of a call of a process, so this is a scheduler's thread, and `message`, whose memory outlives the call, is
    // copied, as no environment of its own is given.
    unsafe { enif_send(env.as_c_arg(), to, no_env, message.as_c_arg()) != 0 }
}

/// The word of a term that is all in it.
#[inline]
pub fn immediate_word(term: Term<'_>) -> Option<u64> {
    let word = term.as_c_arg();
    is_immediate_word(word).then_some(word as u64)
}

/// The two low bits of such a word are set; that is so in every release that the library supports,
/// and `weigh::immediates_are_as_expected` checks it when the library is loaded.
#[inline]
fn is_immediate_word(word: usize) -> bool {
    word & 0b11 == 0b11
}

/// The elements of a tuple, without copying them.
pub fn tuple_elements<'a>(tuple: Term<'a>) -> Option<impl ExactSizeIterator<Item = Term<'a>>> {
    let env = tuple.get_env();
    let mut arity = 0;
    let mut elements = std::ptr::null();
    // SAFETY: `tuple` belongs to `env`, and both pointers are to live locals.
    let found =
        unsafe { enif_get_tuple(env.as_c_arg(), tuple.as_c_arg(), &mut arity, &mut elements) };
    if found == 0 {
        return None;
    }
    let arity = usize::try_from(arity).unwrap_or(0);
    let elements: &'a [NIF_TERM] = if arity == 0 {
        &[]
    } else {
        // SAFETY: on success `elements` points to `arity` terms on the heap of `env`, which does not
        // move or change before 'a ends.
        unsafe { std::slice::from_raw_parts(elements, arity) }
    };
    Some(elements.iter().map(move |&element| {
        // SAFETY: an element of a tuple belongs to the tuple's environment.
        unsafe { Term::new(env, element) }
    }))
}

/// The length of a binary in bytes; `None` for a bitstring that does not end on a byte.
pub fn binary_len(binary: Term<'_>) -> Option<usize> {
    let mut inspected = std::mem::MaybeUninit::<ErlNifBinary>::uninit();
    // SAFETY: `binary` belongs to its environment and `inspected` is a live local.
    let found = unsafe {
        enif_inspect_binary(
            binary.get_env().as_c_arg(),
            binary.as_c_arg(),
            inspected.as_mut_ptr(),
        )
    };
    if found == 0 {
        return None;
    }
    // SAFETY: filled in, since the call succeeded.
    let inspected = unsafe { inspected.assume_init() };
    Some(inspected.size)
}

/// What a term can refer to, each with a resource type of its own. Implemented here only: that no two
/// of them share a `slot` is what makes it safe to read one.
pub trait Resource: sealed::Sealed + Send + Sync + Sized + 'static {
    /// The name of its type.
    const NAME: &'static CStr;
    /// Where its type is, once it has been registered.
    fn slot() -> &'static AtomicPtr<ErlNifResourceType>;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! resource {
    ($type:ty, $name:literal) => {
        impl sealed::Sealed for $type {}

        impl Resource for $type {
            const NAME: &'static CStr = $name;

            #[inline]
            fn slot() -> &'static AtomicPtr<ErlNifResourceType> {
                static SLOT: AtomicPtr<ErlNifResourceType> = AtomicPtr::new(std::ptr::null_mut());
                &SLOT
            }
        }
    };
}

resource!(Shared, c"PartitionedBuffer.Handle");
resource!(SharedBroker, c"PartitionedBuffer.Broker");
resource!(Member, c"PartitionedBuffer.Broker.Worker");
resource!(SharedCell, c"PartitionedBuffer.Cell");
resource!(Staged, c"PartitionedBuffer.Cell.Staged");

/// A buffer, or another resource, as a NIF's argument: borrowed from the term, which keeps it alive.
pub struct Handle<'a, T = Shared>(pub &'a T);

impl<T> Clone for Handle<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Handle<'_, T> {}

impl<T: Resource> Handle<'_, T> {
    /// Registers the resource type. Only while the library is loaded.
    pub fn register(env: Env<'_>) -> bool {
        let init = ErlNifResourceTypeInit {
            dtor: drop_handle::<T> as *const _,
            stop: std::ptr::null(),
            down: std::ptr::null(),
            members: 1,
            dyncall: std::ptr::null(),
        };
        let mut tried = ErlNifResourceFlags::ERL_NIF_RT_CREATE;
        // SAFETY: `env` is that of the load callback, the name ends in NUL, `init` names the one
        // member that it fills in, and `drop_handle` has the signature of a destructor.
        let found = unsafe {
            enif_init_resource_type(
                env.as_c_arg(),
                T::NAME.as_ptr(),
                &init,
                ErlNifResourceFlags::ERL_NIF_RT_CREATE,
                &mut tried,
            )
        };
        T::slot().store(found.cast_mut(), Ordering::Release);
        !found.is_null()
    }

    /// A new term that refers to this resource and keeps it alive.
    pub fn make(env: Env<'_>, shared: Arc<T>) -> Term<'_> {
        let object = Self::allocate(shared);
        // SAFETY: `object` is a live resource object of this thread's.
        let term = unsafe { enif_make_resource(env.as_c_arg(), object) };
        // SAFETY: gives up the reference of `allocate`; the term holds its own.
        unsafe { enif_release_resource(object) };
        // SAFETY: `term` was just made in `env`.
        unsafe { Term::new(env, term) }
    }

    /// Keeps the library loaded for good: the VM unloads none of which a resource is alive.
    pub fn pin_library(shared: Arc<T>) {
        Self::allocate(shared);
    }

    /// A resource object that nobody but the caller holds.
    fn allocate(shared: Arc<T>) -> *const c_void {
        // SAFETY: the type was registered before any NIF can run.
        let object = unsafe {
            enif_alloc_resource(T::slot().load(Ordering::Acquire), size_of::<*const T>())
        };
        let place = object.cast::<*const T>();
        // SAFETY: the object is that large, and aligned for any type (erl_nif: like `malloc`).
        unsafe { place.write(Arc::into_raw(shared)) };
        object
    }
}

impl<'a, T: Resource> Decoder<'a> for Handle<'a, T> {
    #[inline]
    fn decode(term: Term<'a>) -> NifResult<Self> {
        let mut object: *const c_void = std::ptr::null();
        // SAFETY: `term` belongs to its environment, the type is registered, `object` is a live local.
        let found: c_int = unsafe {
            enif_get_resource(
                term.get_env().as_c_arg(),
                term.as_c_arg(),
                T::slot().load(Ordering::Acquire),
                &mut object,
            )
        };
        if found == 0 {
            return Err(Error::BadArg);
        }
        // SAFETY: objects of this type hold the pointer that `allocate` wrote.
        let shared = unsafe { object.cast::<*const T>().read() };
        // SAFETY: it came from `Arc::into_raw`; the object holds that count until its destructor runs,
        // which is not before `term` is gone, and `term` outlives 'a.
        Ok(Handle(unsafe { &*shared }))
    }
}

/// The destructor: the object's count ends.
extern "C" fn drop_handle<T: Resource>(_env: *mut ErlNifEnv, object: *mut c_void) {
    // SAFETY: called once for each object, which holds the pointer that `allocate` wrote.
    let shared = unsafe { object.cast::<*const T>().read() };
    // SAFETY: it came from `Arc::into_raw`, and its count is given back here only.
    drop(unsafe { Arc::from_raw(shared) });
}
