//! Which run of our own container a status shows, and whether to believe what it says of the others.

use std::time::{Duration, Instant, SystemTime};

use super::Snapshot;
use super::object::{ContainerState, ContainerStatus};

/// How long a status may call our own container running from before it was started. The kubelet reports within seconds; after
/// that it is the clocks that differ, as they may in a virtual machine of the container's own.
pub const CLOCKS_DIFFER: Duration = Duration::from_secs(15);

/// Which run of our own container a status shows. What it says of the others is of the same time, and so of no use
/// where it is of an earlier one: the Pod's containers have all been started anew since, by a rule
/// `RestartAllContainers` (KEP-5532), say, or after the node's reboot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    /// This one.
    Present,
    /// None yet: there is no earlier one to mistake it for.
    Unreported,
    /// An earlier one, which runs no more.
    Over,
    /// One that began before our first process did, if the clocks are right.
    Older,
    /// The same, for so long that it is the clocks that are not: this one.
    Believed,
}

impl Run {
    pub(super) fn of(status: Option<&ContainerStatus>, started: Option<SystemTime>) -> Self {
        let Some(status) = status else {
            return Self::Unreported;
        };
        let state = status.state.as_ref();
        let Some(running) = state.and_then(|state| state.running.as_ref()) else {
            let ended = |state: &ContainerState| state.terminated.is_some();
            let has_ended = [state, status.last_state.as_ref()].into_iter().flatten().any(ended);
            let never = !has_ended && status.restart_count == 0 && status.container_id.is_none();
            return if never { Self::Unreported } else { Self::Over };
        };
        match running.started_at.as_ref().map(|time| time.0).zip(started) {
            Some((shown, started)) if whole_second(shown) < whole_second(started) => Self::Older,
            _ => Self::Present,
        }
    }

    /// Whether what the status says of the other containers is of an earlier time.
    #[must_use]
    pub fn is_outdated(self) -> bool {
        matches!(self, Self::Over | Self::Older)
    }
}

/// The API's times have no finer grain.
fn whole_second(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// How long the clocks have been in doubt.
#[derive(Debug, Default)]
pub struct Clocks {
    /// Since when every status has called our run older.
    doubted_since: Option<Instant>,
    /// Whether that has been for too long.
    differ: bool,
}

impl Clocks {
    /// Takes a run for the present one that has been called older for too long; whether it did so just now.
    pub fn settle(&mut self, snapshot: &mut Snapshot, now: Instant) -> bool {
        // What was settled by us says nothing: the same snapshot may come again.
        if snapshot.own.run == Run::Present && !self.differ {
            // Clocks that differ would have made it older. One that is older later is a cache's that lags, and has its own time.
            self.doubted_since = None;
        }
        if snapshot.own.run != Run::Older {
            return false;
        }
        let since = *self.doubted_since.get_or_insert(now);
        self.differ |= now.saturating_duration_since(since) >= CLOCKS_DIFFER;
        if self.differ {
            snapshot.own.run = Run::Believed;
        }
        self.differ
    }

    /// When to look at the same snapshot once more, if it is in doubt.
    #[must_use]
    pub fn settled_at(&self, snapshot: Option<&Snapshot>) -> Option<Instant> {
        let in_doubt = snapshot.is_some_and(|snapshot| snapshot.own.run == Run::Older);
        self.doubted_since.filter(|_| in_doubt)?.checked_add(CLOCKS_DIFFER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::tests::{pod, snapshot};

    #[test]
    fn an_earlier_run_of_our_own_container_is_told_from_this_one() {
        let started = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_900);
        let run = |status: &str| {
            let yaml = format!(
                "{{spec: {{containers: [{{name: main, image: m}}]}}, status: {{containerStatuses: \
                 [{{name: main, image: m, imageID: m, ready: false, {status}}}]}}}}"
            );
            Snapshot::of(&pod(&yaml), Some("main"), Some(started)).unwrap().own.run
        };
        // 1700000000 is 22:13:20.
        let running = |at: &str| {
            run(&format!("restartCount: 4, state: {{running: {{startedAt: '2023-11-14T{at}Z'}}}}"))
        };
        assert_eq!(running("22:13:20"), Run::Present);
        assert_eq!(running("22:13:21"), Run::Present);
        assert_eq!(running("22:13:19"), Run::Older);
        assert_eq!(run("restartCount: 0, state: {running: {}}"), Run::Present);
        assert_eq!(run("restartCount: 0, state: {waiting: {reason: PodInitializing}}"), Run::Unreported);
        assert_eq!(run("restartCount: 1, state: {waiting: {reason: PodInitializing}}"), Run::Over);
        assert_eq!(run("restartCount: 0, state: {terminated: {exitCode: 1}}"), Run::Over);
        assert_eq!(snapshot("spec: {containers: [{name: main, image: m}]}").own.run, Run::Unreported);
    }

    #[test]
    fn clocks_that_differ_keep_nobody_waiting_for_ever() {
        let mut older = snapshot("spec: {containers: [{name: main, image: m}]}");
        older.own.run = Run::Older;
        let (start, mut clocks) = (Instant::now(), Clocks::default());
        assert!(!clocks.settle(&mut older.clone(), start));
        assert_eq!(clocks.settled_at(Some(&older)), Some(start + CLOCKS_DIFFER));
        assert!(!clocks.settle(&mut older.clone(), start + CLOCKS_DIFFER / 2));
        assert!(clocks.settle(&mut older, start + CLOCKS_DIFFER));
        assert_eq!((older.own.run, clocks.settled_at(Some(&older))), (Run::Believed, None));
        assert!(!older.own.run.is_outdated());
        older.own.run = Run::Over;
        assert!(
            !clocks.settle(&mut older, start + CLOCKS_DIFFER * 2),
            "what runs no more is no question of clocks"
        );
    }

    #[test]
    fn a_doubt_ends_with_a_status_of_the_present_run() {
        let mut present = snapshot("spec: {containers: [{name: main, image: m}]}");
        present.own.run = Run::Present;
        let mut older = present.clone();
        older.own.run = Run::Older;
        let (start, mut clocks) = (Instant::now(), Clocks::default());
        assert!(!clocks.settle(&mut older, start));
        assert!(!clocks.settle(&mut present, start + Duration::from_secs(1)));
        // Hours later a cache that lags shows the earlier run once more.
        let later = start + CLOCKS_DIFFER * 1000;
        assert!(!clocks.settle(&mut older, later));
        assert_eq!(
            (older.own.run, clocks.settled_at(Some(&older))),
            (Run::Older, Some(later + CLOCKS_DIFFER))
        );
        // Once they differ they go on to, whatever comes of a snapshot that has been settled.
        assert!(clocks.settle(&mut older.clone(), later + CLOCKS_DIFFER));
        assert!(!clocks.settle(&mut present, later + CLOCKS_DIFFER));
        assert!(clocks.settle(&mut older, later + CLOCKS_DIFFER));
    }
}
