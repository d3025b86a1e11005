//! The way into the library for calls that are made a million times a second.
//!
//! rustler's own way collects the arguments in a vector on the heap and takes the answer through several forms, which
//! is a tenth of what a push takes.

use std::ffi::c_int;
use std::panic::{catch_unwind, AssertUnwindSafe};

use rustler::codegen_runtime::raise_exception;
use rustler::types::atom::nif_panicked;
use rustler::wrapper::{NIF_ENV, NIF_TERM};
use rustler::{Env, Term};

/// Declares the NIF `name/arity` for a normal scheduler, and the function that it calls: one of the
/// environment and an array of so many terms.
macro_rules! nif {
    ($name:ident / $arity:literal, $call:path) => {
        const _: () = {
            unsafe extern "C" fn enter(
                env: rustler::wrapper::NIF_ENV,
                argc: std::ffi::c_int,
                argv: *const rustler::wrapper::NIF_TERM,
            ) -> rustler::wrapper::NIF_TERM {
                // SAFETY: called by the VM alone, as a NIF of this arity.
                unsafe { $crate::entry::enter::<$arity>(env, argc, argv, $call) }
            }

            rustler::codegen_runtime::inventory::submit!(rustler::Nif {
                name: concat!(stringify!($name), "\0").as_ptr() as *const std::ffi::c_char,
                arity: $arity,
                flags: rustler::SchedulerFlags::Normal as std::ffi::c_uint,
                raw_func: enter,
            });
        };
    };
}

pub(crate) use nif;

/// Calls a function with the arguments of a NIF. A panic becomes an exception, as rustler's.
///
/// # Safety
///
/// To be called by the VM, for a NIF that was declared with `N` arguments.
#[inline(always)]
pub unsafe fn enter<const N: usize>(
    env: NIF_ENV,
    argc: c_int,
    argv: *const NIF_TERM,
    call: impl for<'a> Fn(Env<'a>, [Term<'a>; N]) -> Term<'a>,
) -> NIF_TERM {
    debug_assert_eq!(argc, N as c_int);
    let lifetime = ();
    // SAFETY: the VM passes the environment of the call, and this is the one `Env` with the lifetime of that local.
    let env = unsafe { Env::new(&lifetime, env) };
    // SAFETY: the VM passes `N` terms, as the NIF was declared.
    let words = unsafe { argv.cast::<[NIF_TERM; N]>().read() };
    let terms = words.map(|word| {
        // SAFETY: an argument is a term of the call's environment.
        unsafe { Term::new(env, word) }
    });
    let answered = catch_unwind(AssertUnwindSafe(|| call(env, terms).as_c_arg()));
    answered.unwrap_or_else(|_| {
        let reason = nif_panicked().as_c_arg();
        // SAFETY: `env` is that of the call, an atom is a term of any, and what this answers is returned to the VM
        // by the caller.
        unsafe { raise_exception(env.as_c_arg(), reason) }
    })
}
