//! Locks that outlive a panicking test thread.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex`, whatever became of its last holder.
///
/// A failed assertion in one thread must not turn every later one, `Drop` included, into a second panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
