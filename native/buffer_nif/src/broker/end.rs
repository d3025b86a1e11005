//! NIFs of the end of a broker's owner: what it ends with, for callers that find it gone.

use std::sync::Arc;

use rustler::{Atom, Encoder, Env, Term};

use super::SharedBroker;
use crate::arena::{Frozen, Handle};
use crate::atoms;

/// The owner ends for this reason. The first one counts. O(size of the reason).
#[rustler::nif(schedule = "DirtyCpu")]
fn broker_put_end(broker: Handle<'_, SharedBroker>, reason: Term<'_>) -> Atom {
    let reason = Arc::new(Frozen::new(reason));
    let late = match &mut *broker.0.end.lock() {
        Some(_) => Some(reason),
        end => end.replace(reason),
    };
    // With no lock held.
    drop(late);
    atoms::ok()
}

/// `{:ok, reason}`, or `:error` if it has not said so. O(size of the reason).
#[rustler::nif(schedule = "DirtyCpu")]
fn broker_end<'a>(env: Env<'a>, broker: Handle<'_, SharedBroker>) -> Term<'a> {
    let reason = broker.0.end.lock().clone();
    match reason {
        Some(reason) => (atoms::ok(), reason.load(env)).encode(env),
        None => atoms::error().encode(env),
    }
}
