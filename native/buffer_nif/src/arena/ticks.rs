//! The operating system's clock, as it is now, and as the kernel noted it last.
//!
//! To look at it as it is takes as long as to take a lock twice. What the kernel notes with every tick, some milliseconds
//! apart, is there to be read: a fifth of the time.

use libc::{clock_gettime, clockid_t, timespec, CLOCK_MONOTONIC, CLOCK_MONOTONIC_COARSE};

/// Nanoseconds since some moment.
#[inline]
pub fn now() -> i64 {
    read(CLOCK_MONOTONIC)
}

/// The same of the last tick.
#[inline]
pub fn last() -> i64 {
    read(CLOCK_MONOTONIC_COARSE)
}

const NONE: timespec = timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

#[inline]
fn read(clock: clockid_t) -> i64 {
    let mut time = NONE;
    // SAFETY: `time` is a live local of the type that is filled in. Every kernel has both clocks.
    _ = unsafe { clock_gettime(clock, &raw mut time) };
    nanoseconds(time)
}

#[inline]
fn nanoseconds(time: timespec) -> i64 {
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}
