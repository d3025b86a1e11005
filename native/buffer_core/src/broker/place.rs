//! Which thread a call is on.

use std::sync::atomic::{AtomicUsize, Ordering};

/// A number for the calling thread, which no other has.
pub(super) fn here() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static HERE: usize = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    HERE.with(|here| *here)
}
