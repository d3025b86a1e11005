//! Frees drained memory away from the schedulers.
//!
//! Freeing a generation of millions of entries takes milliseconds. It happens on a thread of this
//! library's own, which gets segments through a bounded channel. When it can't keep up, who drains
//! frees by itself: memory is never queued without bound.

use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::{bounded, Sender};
use once_cell::sync::Lazy;

use crate::arena::Arena;

/// Segments of Erlang terms.
pub type Retired = buffer_core::Retired<Arena>;

static WAITING: AtomicUsize = AtomicUsize::new(0);

static THREAD: Lazy<Option<Sender<Retired>>> = Lazy::new(|| {
    let (sender, receiver) = bounded::<Retired>(256);
    std::thread::Builder::new()
        .name("pb_reclaimer".into())
        .spawn(move || {
            for retired in receiver {
                let entries = retired.entries();
                drop(retired);
                WAITING.fetch_sub(entries, Ordering::Relaxed);
            }
        })
        .ok()
        .map(|_| sender)
});

/// Frees these segments soon. To wake the thread takes longer than to free a few entries: those are freed at once.
pub fn reclaim(retired: Retired) {
    if retired.is_little() {
        return;
    }
    let entries = retired.entries();
    WAITING.fetch_add(entries, Ordering::Relaxed);
    let refused = match &*THREAD {
        Some(sender) => sender
            .try_send(retired)
            .err()
            .map(|error| error.into_inner()),
        None => Some(retired),
    };
    if let Some(retired) = refused {
        drop(retired);
        WAITING.fetch_sub(entries, Ordering::Relaxed);
    }
}

/// How many entries wait to be freed.
pub fn waiting() -> usize {
    WAITING.load(Ordering::Relaxed)
}
