//! The Pod when the command is over: looked at once more, since what the gate saw may be hours old.

use std::time::{Instant, SystemTime};

use tracing::{info, warn};

use super::{asked_to_stop, stopped};
use crate::budget::{Budget, Need, Now, StopRequests, budget};
use crate::cluster::trouble::Trouble;
use crate::cluster::{Looked, OwnPod};
use crate::deadline::now;
use crate::pod::mains::Mains;
use crate::pod::{Life, Snapshot, Termination};
use crate::signal::stream::Listener;

/// The Pod, as far as it is known when the command is over.
#[derive(Debug)]
pub struct Sight {
    /// As it was last seen.
    pub snapshot: Option<Snapshot>,
    /// Whether that was just now.
    pub fresh: bool,
    /// Where its status is to be seen, if anywhere.
    pub own_pod: Option<OwnPod>,
    /// The main containers that the manifest does not show.
    pub mains: Mains,
}

impl Sight {
    /// Neither the Pod nor a way to see it.
    #[must_use]
    pub fn none() -> Self {
        Self { snapshot: None, fresh: false, own_pod: None, mains: Mains::default() }
    }

    /// By when what is done at the end is to be over, even if that is past; `None`: nothing presses. `before`: the moment as it was
    /// reckoned last, if only stop requests are news. They never put it off. Without one it is counted from now, and moves.
    #[must_use]
    pub fn over_by(&self, asked: &StopRequests, before: Option<Instant>) -> Option<Instant> {
        let before = before.filter(|_| !asked.is_empty());
        let moments = [before, self.budget(asked, false).give_up_at(false)];
        moments.into_iter().flatten().min()
    }

    /// When what the sidecars are shut down with is done without; `None`: nothing presses.
    #[must_use]
    pub fn give_up_at(&self, asked: &StopRequests) -> Option<Instant> {
        self.budget(asked, false).give_up_at(self.snapshot.is_some())
    }

    /// Whether SIGKILL is still to follow what this container was asked.
    #[must_use]
    pub fn is_kill_to_come(&self, asked: &StopRequests) -> bool {
        self.budget(asked, false).kill_at().is_some()
    }

    /// The budget for what is left. That a Pod goes is never undone; that it stays is true for the moment, and no longer once
    /// the container was asked to stop since.
    pub(super) fn budget(&self, asked: &StopRequests, asked_since: bool) -> Budget {
        let termination = self.snapshot.as_ref().map_or_else(Termination::default, |seen| seen.termination);
        let current = self.fresh && !asked_since;
        let life =
            self.snapshot.as_ref().map(|seen| seen.life).filter(|life| current || *life != Life::Active);
        budget(&termination, life, asked, Now { instant: now(), wall: SystemTime::now() })
    }
}

/// Whether it was said before that the API server denies us the Pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// By the gate.
    Said,
    /// Not yet.
    New,
}

/// Looks at the Pod once more: what was true when the gate opened may be hours old. `before`: as it was seen then, if it was.
pub async fn look(
    own_pod: Option<&OwnPod>,
    before: Option<Snapshot>,
    mains: Mains,
    (need, denial): (Need, Denial),
    asked: &mut StopRequests,
    signals: &mut Listener<'_>,
) -> Sight {
    let Some(own_pod) = own_pod else {
        return Sight { snapshot: before, mains, ..Sight::none() };
    };
    let own_pod = before.as_ref().map_or_else(|| own_pod.clone(), |before| own_pod.named(&before.name));
    let seen = before.is_some();
    let stop = before.as_ref().and_then(|before| before.own.stop_signal);
    let mut sight = Sight { snapshot: before, fresh: false, own_pod: None, mains };
    let limit = sight.budget(asked, false).look(seen, need);
    let looked = tokio::select! {
        looked = own_pod.look(limit, !seen) => looked,
        received = stopped(signals, stop) => {
            // There is less time than there was.
            asked_to_stop(received, asked);
            let limit = sight.budget(asked, false).look(seen, need);
            own_pod.look(limit, !seen).await
        }
    };
    match looked {
        Looked::Seen(mut snapshot) => {
            sight.mains.settle(&mut snapshot);
            // The hostname need not be its name, which may just have been searched for.
            let own_pod = own_pod.named(&snapshot.name);
            Sight { snapshot: Some(snapshot), fresh: true, own_pod: Some(own_pod), mains: sight.mains }
        }
        Looked::Gone => {
            if let Some(before) = &mut sight.snapshot {
                before.life = Life::Deleting;
            }
            sight
        }
        Looked::Not(trouble) => {
            report_blindness(&trouble, seen, denial);
            // Where the Pod was ever seen, whatever stands in the way may pass.
            sight.own_pod = seen.then_some(own_pod);
            sight
        }
    }
}

fn report_blindness(trouble: &Trouble, seen: bool, denial: Denial) {
    let is_said = !seen && denial == Denial::Said && trouble.is_denial();
    let why = if is_said { String::new() } else { format!(": {trouble}") };
    if seen {
        warn!("cannot look at the Pod again, so its state before the command counts{why}");
    } else {
        info!(
            "the Pod was never seen, so its restart policy is unknown{why}; --shutdown-when=success keeps the sidecars for a \
             retry"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::pod::tests::snapshot;
    use crate::signal::Sender;
    use crate::signal::stream::Signals;

    const STAYS: &str = "spec: {terminationGracePeriodSeconds: 8, containers: [{name: main, image: m}]}";
    const GOES: &str = "
metadata: {deletionTimestamp: '2023-11-14T22:13:20Z'}
spec: {terminationGracePeriodSeconds: 8, containers: [{name: main, image: m}]}
";

    fn sight(yaml: &str, fresh: bool) -> Sight {
        Sight { snapshot: Some(snapshot(yaml)), fresh, ..Sight::none() }
    }

    fn requested() -> (StopRequests, Instant) {
        let (mut asked, at) = (StopRequests::default(), now());
        asked.note(at, Sender::Inside);
        (asked, at)
    }

    /// In a Pod that may go since, the kubelet may have as little as two seconds for this container.
    #[test]
    fn that_a_pod_stays_is_true_for_the_moment_and_that_it_goes_for_good() {
        let (asked, at) = requested();
        for (yaml, fresh, asked_since, seconds) in [
            (STAYS, true, false, 7),
            (STAYS, true, true, 1),
            (STAYS, false, false, 1),
            (GOES, true, true, 7),
            (GOES, false, false, 7),
        ] {
            let by = sight(yaml, fresh).budget(&asked, asked_since).give_up_at(false);
            let expected = at.checked_add(Duration::from_secs(seconds));
            assert_eq!(by, expected, "fresh: {fresh}, asked since: {asked_since}, {yaml}");
        }
    }

    #[test]
    fn where_nobody_can_be_asked_what_was_seen_before_the_command_counts() {
        let (before, mains) = (snapshot(STAYS), Mains::named(vec!["web".into()]));
        let signals = Signals::register().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let sight = runtime.block_on(async {
            let (mut asked, mut signals) = (StopRequests::default(), signals.listen().unwrap());
            look(
                None,
                Some(before.clone()),
                mains.clone(),
                (Need::Usual, Denial::Said),
                &mut asked,
                &mut signals,
            )
            .await
        });
        assert_eq!((sight.snapshot, sight.mains, sight.fresh), (Some(before), mains, false));
    }

    #[test]
    fn how_long_a_pod_has_that_was_never_seen_is_not_known() {
        let (asked, at) = requested();
        let after = |seconds| at.checked_add(Duration::from_secs(seconds));
        assert_eq!(Sight::none().give_up_at(&asked), after(1));
        assert_eq!(sight(STAYS, false).give_up_at(&asked), after(7));
        assert_eq!(sight(STAYS, true).give_up_at(&StopRequests::default()), None);
    }

    #[test]
    fn a_kill_is_to_come_for_who_was_asked_and_in_a_pod_that_goes() {
        let (asked, _) = requested();
        assert!(sight(STAYS, true).is_kill_to_come(&asked));
        assert!(sight(GOES, true).is_kill_to_come(&StopRequests::default()));
        assert!(!sight(STAYS, true).is_kill_to_come(&StopRequests::default()));
    }

    #[test]
    fn a_further_request_puts_nothing_off_and_without_one_all_is_counted_from_now() {
        let (asked, at) = requested();
        let sooner = at.checked_add(Duration::from_secs(3));
        let sight = sight(STAYS, true);
        assert_eq!(sight.over_by(&asked, None), at.checked_add(Duration::from_secs(7)));
        assert_eq!(sight.over_by(&asked, sooner), sooner);
        assert_eq!(sight.over_by(&StopRequests::default(), sooner), None);
    }
}
