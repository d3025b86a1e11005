//! What the types of `arena.rs` promise, checked by compiling: this file has nothing to run.
//!
//! The module is compiled into this test as it is, since the library itself is made for the VM alone
//! and can't be linked here. (As an `rlib` beside it could; then it would not be optimized as a
//! whole any more.)
//!
//! 1. What comes out of an arena belongs to the environment that the reader gave, for every reader: a
//!    lifetime of an environment is invariant, so a term of any other one would not be accepted here.
//! 2. An arena goes from thread to thread, but is never used by two of them at once.

#[path = "../src/arena.rs"]
#[allow(dead_code, reason = "only its types are of interest here")]
mod arena;

mod resource {
    /// A stand-in: `arena.rs` only points to it.
    pub struct Shared;
}

mod broker {
    /// Stand-ins as well.
    pub struct SharedBroker;
    pub struct Member;
}

use std::ops::Range;

use arena::{Arena, Copies};
use rustler::{Env, Term};

const _: for<'a> fn(&mut Arena, Term<'a>) = Arena::store;
const _: for<'a> fn(&Arena, usize, Env<'a>) -> Term<'a> = Arena::load;

/// The same for what has the lifetime as a parameter of its type.
#[expect(dead_code, reason = "to be compiled, not to be called")]
fn of_any_environment<'a>(_: Env<'a>) {
    let _: fn(Env<'a>, usize) -> Copies<'a> = Copies::<'a>::with_capacity;
    let _: fn(&mut Copies<'a>, &Arena, Range<usize>) = Copies::<'a>::extend;
    let _: fn(&mut Copies<'a>, Term<'a>) = Copies::<'a>::push;
    let _: fn(Copies<'a>) -> Term<'a> = Copies::<'a>::into_list;
}

const fn is_send<T: Send>() {}
const _: () = is_send::<Arena>();

/// Has two ways to be meant for a type that is `Sync`, so naming it compiles only for one that is not.
trait NotSync<Which> {
    const HOLDS: () = ();
}

struct Otherwise;

impl<T> NotSync<()> for T {}
impl<T: Sync> NotSync<Otherwise> for T {}

const _: () = <Arena as NotSync<_>>::HOLDS;
