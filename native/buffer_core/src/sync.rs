//! Locks and atomics: parking_lot's and std's, or loom's under `--cfg loom`.
//!
//! A panic under one of these locks leaves it usable: neither implementation poisons here.

#[cfg(not(loom))]
pub use parking_lot::{Mutex, MutexGuard};
#[cfg(not(loom))]
pub use std::sync::atomic::{
    fence, AtomicBool, AtomicI64, AtomicU64, AtomicU8, AtomicUsize, Ordering,
};
#[cfg(not(loom))]
pub use std::thread::yield_now;

#[cfg(loom)]
pub use self::model::Mutex;
#[cfg(loom)]
pub use loom::sync::atomic::{
    fence, AtomicBool, AtomicI64, AtomicU64, AtomicU8, AtomicUsize, Ordering,
};
#[cfg(loom)]
pub use loom::sync::MutexGuard;
#[cfg(loom)]
pub use loom::thread::yield_now;

/// Takes a lock that is never held for long: a waiting thread looks at it for a while before it sleeps.
#[cfg(not(loom))]
#[inline]
pub fn lock_soon<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    match mutex.try_lock() {
        Some(guard) => guard,
        None => lock_looking(mutex),
    }
}

#[cfg(not(loom))]
#[cold]
#[inline(never)]
fn lock_looking<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    for _ in 0..100 {
        std::hint::spin_loop();
        if !mutex.is_locked() {
            if let Some(guard) = mutex.try_lock() {
                return guard;
            }
        }
    }
    mutex.lock()
}

/// loom tries every order anyway.
#[cfg(loom)]
pub fn lock_soon<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}

/// Releases a lock to the one who has waited longest, if anybody has.
#[cfg(not(loom))]
pub fn unlock_fairly<T>(guard: MutexGuard<'_, T>) {
    MutexGuard::unlock_fair(guard);
}

/// loom tries every order anyway.
#[cfg(loom)]
pub fn unlock_fairly<T>(guard: MutexGuard<'_, T>) {
    drop(guard);
}

#[cfg(loom)]
mod model {
    /// loom's mutex with the shape of parking_lot's.
    #[derive(Debug, Default)]
    pub struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        /// A mutex that holds `value`.
        pub fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        /// Waits for the lock and takes it.
        pub fn lock(&self) -> loom::sync::MutexGuard<'_, T> {
            self.0
                .lock()
                .expect("a model that panics under a lock has failed already")
        }

        /// Takes the lock if it is free.
        pub fn try_lock(&self) -> Option<loom::sync::MutexGuard<'_, T>> {
            self.0.try_lock().ok()
        }
    }
}
