//! A moment that may never come.

use std::future::pending;

use tokio::time::{Instant, sleep_until};

/// Waits until the deadline; for ever without one.
pub async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}
