//! What the time is, moments that may never come, and how long ago one was.

use std::future::pending;
use std::time::{Duration, Instant};

use tokio::time::{sleep_until, timeout_at};

/// The time, by the clock that sleeps and timeouts go by: on a runtime whose clock stands still, time stands still for every
/// decision too. In the program it is the system's monotonic clock.
#[must_use]
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// How long ago.
#[must_use]
pub fn elapsed(since: Instant) -> Duration {
    now().saturating_duration_since(since)
}

/// How long ago, in seconds with three decimals.
#[must_use]
pub fn seconds(since: Instant) -> f64 {
    (elapsed(since).as_secs_f64() * 1000.0).round() / 1000.0
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

#[cfg(test)]
mod tests {
    use tokio::runtime::Builder;
    use tokio::time::{advance, pause};

    use super::*;

    #[test]
    fn time_stands_still_with_its_runtime_and_goes_on_without_one() {
        let runtime = Builder::new_current_thread().enable_time().build().unwrap();
        let begun = runtime.block_on(async {
            pause();
            let begun = now();
            std::thread::sleep(Duration::from_millis(2));
            assert_eq!(elapsed(begun), Duration::ZERO);
            advance(Duration::from_secs(3600)).await;
            assert_eq!((elapsed(begun), seconds(begun)), (Duration::from_secs(3600), 3600.0));
            begun
        });
        drop(runtime);
        assert!(elapsed(begun) < Duration::from_secs(3600));
        std::thread::sleep(Duration::from_millis(2));
        assert!(elapsed(begun) >= Duration::from_millis(2));
    }
}
