//! Nanoseconds of a monotonic clock, counted from the library's first use.

use std::cell::OnceCell;
use std::time::Instant;

use once_cell::sync::Lazy;

static START: Lazy<Instant> = Lazy::new(Instant::now);

/// Now.
pub fn now() -> i64 {
    i64::try_from(START.elapsed().as_nanos()).unwrap_or(i64::MAX)
}

/// How long ago `then` was, in nanoseconds.
pub fn since(then: i64) -> i64 {
    now().saturating_sub(then).max(0)
}

/// One look at the clock, for all of a call, when it is needed for the first time.
#[derive(Default)]
pub struct Once(OnceCell<i64>);

impl Once {
    /// When that was.
    pub fn now(&self) -> i64 {
        *self.0.get_or_init(now)
    }
}
