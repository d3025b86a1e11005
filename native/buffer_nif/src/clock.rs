//! Nanoseconds of a monotonic clock, counted from about the library's first use.

use std::cell::OnceCell;

use once_cell::sync::Lazy;

#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
use crate::arena::ticks;

/// Where there is no clock that is faster to be read.
#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
mod ticks {
    use std::time::Instant;

    use once_cell::sync::Lazy;

    static START: Lazy<Instant> = Lazy::new(Instant::now);

    pub fn now() -> i64 {
        i64::try_from(START.elapsed().as_nanos()).unwrap_or(i64::MAX)
    }

    pub fn last() -> i64 {
        now()
    }
}

// Early enough for what is read to be positive.
static START: Lazy<i64> = Lazy::new(|| ticks::now() - 1_000_000_000);

/// Now.
#[inline]
pub fn now() -> i64 {
    ticks::now() - *START
}

/// Now, or some milliseconds ago, or more where the machine is late itself. It never goes back, and is never ahead of [`now`]. For times
/// that are added up: what lies between two of these is sometimes too much and sometimes too little, and right in the sum.
#[inline]
pub fn lately() -> i64 {
    ticks::last() - *START
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
