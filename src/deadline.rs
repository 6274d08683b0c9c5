//! Moments that may never come, and how long ago one was.

use std::future::pending;
use std::time::Instant;

use tokio::time::{sleep_until, timeout_at};

/// How long ago, in seconds with three decimals.
#[must_use]
pub fn seconds(since: Instant) -> f64 {
    (since.elapsed().as_secs_f64() * 1000.0).round() / 1000.0
}

/// Waits until the deadline; for ever without one.
pub async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => pending().await,
    }
}

/// What the future comes to, unless the deadline is first.
pub async fn before<T>(deadline: Option<Instant>, future: impl Future<Output = T>) -> Option<T> {
    match deadline {
        Some(deadline) => timeout_at(deadline.into(), future).await.ok(),
        None => Some(future.await),
    }
}
