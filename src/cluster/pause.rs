//! How long until the API server is asked again.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::trouble::Trouble;

/// The pause after a first failure; doubles up to [`LAST_PAUSE`]. Inside a mesh every connection is
/// refused until the proxy is up, and the gate should open right after.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest pause between attempts.
pub(super) const LAST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause while the API server refuses us: somebody has to change something first.
const LAST_REFUSED_PAUSE: Duration = Duration::from_secs(30);
/// The longest that an answer can ask for (`Retry-After`): an overloaded API server asks for seconds, and what asks for hours is none.
const LONGEST_ASKED: Duration = Duration::from_secs(30);
/// How long refusals are answered by quick attempts: rights may come a little later than the Pod.
const QUICK: Duration = Duration::from_secs(12);
/// Watches that an API server ends together are opened anew within this.
const REOPEN: Duration = Duration::from_millis(250);

/// How long until the next attempt.
#[derive(Debug, Default)]
pub(super) struct Pause {
    next: Duration,
    /// What the API server asked for.
    asked: Duration,
    refused_since: Option<Instant>,
}

impl Pause {
    /// A watch lived for a while and ended, as every watch does: the next one follows soon.
    pub(super) fn after_a_good_watch(&mut self) {
        *self = Self { next: scattered(Duration::ZERO, REOPEN), ..Self::default() };
    }

    /// Something stood in the way.
    pub(super) fn after(&mut self, trouble: &Trouble, now: Instant) {
        if trouble.is_passing() {
            self.refused_since = None;
        } else {
            self.refused_since.get_or_insert(now);
        }
        let quick = self.refused_since.is_none_or(|since| now.saturating_duration_since(since) < QUICK);
        let longest = if quick { LAST_PAUSE } else { LAST_REFUSED_PAUSE };
        self.next = (self.next * 2).clamp(FIRST_PAUSE, longest);
        self.asked = trouble.retry_after().unwrap_or_default().min(LONGEST_ASKED);
    }

    /// What a watch that ended at once comes to: it must not be opened anew in a tight loop.
    pub(super) fn grow(&mut self) {
        self.next = (self.next * 2).clamp(FIRST_PAUSE, LAST_PAUSE);
        self.asked = Duration::ZERO;
    }

    pub(super) async fn pass(&self) {
        // Pods that lost the API server together do not come back together.
        sleep(self.asked + scattered(self.next * 3 / 4, self.next / 4)).await;
    }
}

/// The first, and up to the second more.
pub(super) fn scattered(least: Duration, more: Duration) -> Duration {
    let random = RandomState::new().hash_one(()) % 256;
    least + more * u32::try_from(random).unwrap_or(0) / 256
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_slow_the_attempts_down_and_nothing_else_does() {
        let start = Instant::now();
        let denial = Trouble::Unauthorized("x".into());
        let down = Trouble::NoConnection("x".into());
        let mut pause = Pause::default();
        for _ in 0..20 {
            pause.after(&denial, start);
        }
        assert_eq!(pause.next, LAST_PAUSE);
        for _ in 0..20 {
            pause.after(&denial, start + QUICK);
        }
        assert_eq!(pause.next, LAST_REFUSED_PAUSE);
        pause.after(&down, start + QUICK);
        assert_eq!(pause.next, LAST_PAUSE, "the way may be open in a moment");
    }

    #[test]
    fn the_server_may_ask_for_more() {
        let mut pause = Pause::default();
        pause.after(&Trouble::Throttled("x".into(), Some(Duration::from_secs(7))), Instant::now());
        assert_eq!(pause.asked, Duration::from_secs(7));
        pause.after(&Trouble::Throttled("x".into(), Some(Duration::from_secs(86400))), Instant::now());
        assert_eq!(pause.asked, LONGEST_ASKED, "but not for a day");
    }
}
