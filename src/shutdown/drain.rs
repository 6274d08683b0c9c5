//! Waiting for the sidecars to exit, so that their failures are seen and named.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::awaited::{Asked, Awaited, DENIED, Drain, Pointless, Rounds, SILENCE, Seen, Trace, drain};
use crate::cluster::{Observation, OwnPod};
use crate::deadline::{elapsed, now, seconds, until};
use crate::endpoint::Address;
use crate::pod::mains::Mains;
use crate::pod::run::Run;
use crate::pod::{Life, Snapshot, State, list};
use crate::tcp::{Answer, probe};

/// The pause between looks at an endpoint at first; doubles up to [`LAST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest pause between looks, and the longest time for one.
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// How long a wait lasts, and what is said at its end.
pub(super) struct Terms {
    /// For those that are going to exit.
    pub(super) asked_by: Option<Instant>,
    /// For the others.
    pub(super) unasked_by: Option<Instant>,
    /// How it shows that those have exited whom we cannot name; `None`: it does not.
    pub(super) unattributed: Option<Vec<Trace>>,
    /// Said once all have exited.
    pub(super) done: &'static str,
}

/// What came of waiting for the sidecars to exit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drained {
    /// All that were waited for have exited.
    Exited,
    /// The Pod is leaving, and the kubelet stops them all.
    Leaving,
    /// The way to the API server is gone with one that was shut down.
    CarrierGone,
    /// Not all of them have, as far as it shows.
    Remaining {
        /// How it shows.
        shown: Shown,
        /// These.
        names: Vec<String>,
        /// Those of them that accepted a request to exit, or may have.
        asked: Vec<String>,
    },
}

/// What shows that a sidecar has not exited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// The Pod's status.
    Running,
    /// Its endpoint.
    Listening,
    /// Nothing: it may have.
    Unseen,
}

impl Shown {
    fn by(own_pod: Option<&OwnPod>, in_sight: bool) -> Self {
        match (own_pod, in_sight) {
            (None, _) => Self::Listening,
            (Some(_), true) => Self::Running,
            (Some(_), false) => Self::Unseen,
        }
    }
}

impl Drained {
    /// Those that the Pod's status still called running once there was no time left.
    #[must_use]
    pub fn running(&self) -> Option<&[String]> {
        match self {
            Self::Remaining { shown: Shown::Running, names, .. } => Some(names),
            Self::Exited | Self::Leaving | Self::CarrierGone | Self::Remaining { .. } => None,
        }
    }
}

/// The Pod as it is seen while its sidecars exit.
pub(super) type Latest = RefCell<Option<Snapshot>>;

/// Which sidecars' failures have been named.
#[derive(Debug, Default)]
pub(super) struct Named(BTreeSet<String>);

impl Named {
    /// Names those that have failed since.
    pub(super) fn name_failures(&mut self, snapshot: &Snapshot) {
        if snapshot.own.run == Run::Over {
            return;
        }
        for sidecar in &snapshot.sidecars {
            if let State::Terminated(exit) = &sidecar.state
                && exit.code != 0
                && self.0.insert(sidecar.name.clone())
            {
                let container = sidecar.name.as_str();
                warn!(container, exit_code = exit.code, "sidecar `{container}` ended with {exit}");
            }
        }
    }
}

/// Waits until all have exited for good, there is no point in waiting, or time is up. `own_pod`: where the Pod's status is
/// seen.
pub(super) async fn wait(
    own_pod: Option<&OwnPod>,
    awaited: &[Awaited],
    terms: Terms,
    mut seen: Seen,
    mains: &Mains,
    latest: &Latest,
    named: &mut Named,
) -> Drained {
    if awaited.is_empty() {
        return Drained::Exited;
    }
    let started = now();
    let mut observations = own_pod.map(OwnPod::watch);
    let mut traces: FuturesUnordered<_> = (0..awaited.len())
        .filter_map(|place| {
            let trace = awaited[place].trace()?;
            Some(async move {
                vanished(trace).await;
                place
            })
        })
        .collect();
    let mut nameless: FuturesUnordered<_> = terms.unattributed.iter().flatten().map(vanished).collect();
    let mut waiting_for = Vec::new();
    let (mut lost_since, mut denied_since) = (None, None);
    let mut in_sight = own_pod.is_some();
    loop {
        seen.no_connection = lost_since.map(elapsed);
        seen.denied = denied_since.map(elapsed);
        let waiting = match drain(awaited, &seen) {
            Drain::Waiting(waiting) => waiting,
            Drain::Done => {
                let seconds = seconds(started);
                let done = if own_pod.is_some() {
                    terms.done
                } else {
                    "every sidecar that was notified has closed its endpoint"
                };
                info!(seconds, "{done} after {seconds:.3}s");
                return Drained::Exited;
            }
            Drain::Pointless(why @ Pointless::CarrierGone) => {
                info!("not waiting any longer: {why}");
                return Drained::CarrierGone;
            }
            Drain::Pointless(why) => {
                info!("not waiting for the sidecars to exit: {why}");
                let blind = matches!(why, Pointless::OutOfSight | Pointless::Denied);
                return if blind {
                    unseen(awaited, latest.borrow().as_ref(), seen.rounds)
                } else {
                    Drained::Leaving
                };
            }
        };
        let known = own_pod.is_none() || seen.snapshot.is_some();
        if known && waiting != waiting_for {
            info!("waiting for {} to exit", list(&names(awaited, &waiting)));
            waiting_for.clone_from(&waiting);
        }
        // Those that nobody asked may exit by themselves, and need not. One that we cannot name may be among them, until its
        // trace is gone.
        let nameless_runs = terms.unattributed.as_ref().is_none_or(|_| !nameless.is_empty());
        let asked = |place: &&usize| match awaited[**place].asked {
            Asked::Yes => true,
            Asked::Perhaps => nameless_runs,
            Asked::No => false,
        };
        let asked: Vec<_> = waiting.iter().filter(asked).copied().collect();
        let by = if asked.is_empty() { terms.unasked_by } else { terms.asked_by };
        let observation = async {
            match &mut observations {
                Some(observations) => observations.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(observation) = observation => match observation {
                Observation::Gone => return Drained::Leaving,
                Observation::Seen(mut snapshot) => {
                    (in_sight, lost_since, denied_since) = (true, None, None);
                    // A newer one follows.
                    if snapshot.life == Life::Active && !seen.rounds.is_this_one(&snapshot) {
                        continue;
                    }
                    mains.settle(&mut snapshot);
                    named.name_failures(&snapshot);
                    latest.replace(Some(snapshot.clone()));
                    seen.snapshot = Some(snapshot);
                }
                Observation::Trouble(trouble) => {
                    debug!(%trouble, "cannot see the sidecars exit");
                    in_sight = false;
                    // An answer, whatever it says, is a connection.
                    lost_since = trouble.is_no_connection().then(|| lost_since.unwrap_or_else(now));
                    denied_since = trouble.is_denial().then(|| denied_since.unwrap_or_else(now));
                }
            },
            // The status says more; without it this has to do.
            Some(place) = traces.next(), if !in_sight => {
                seen.gone.insert(place);
            }
            Some(()) = nameless.next() => {}
            // Looked at again then: what is out of sight sends no news.
            () = until(verdict_at(lost_since, SILENCE)) => {}
            () = until(verdict_at(denied_since, DENIED)) => {}
            () = until(by) => {
                return remaining(Shown::by(own_pod, known && in_sight), awaited, &waiting, &asked);
            }
        }
    }
}

/// When something has lasted for so long, unless that is over.
fn verdict_at(since: Option<Instant>, lasting: Duration) -> Option<Instant> {
    since?.checked_add(lasting).filter(|at| *at > now())
}

fn names(awaited: &[Awaited], places: &[usize]) -> Vec<String> {
    places.iter().map(|place| awaited[*place].name.clone()).collect()
}

/// What there is once time is up; says what is not said by whom it is returned to.
fn remaining(shown: Shown, awaited: &[Awaited], waiting: &[usize], asked: &[usize]) -> Drained {
    let names = names(awaited, waiting);
    match shown {
        Shown::Running => {}
        Shown::Listening => {
            warn!("still listening when --shutdown-timeout ran out: {}, though notified", list(&names));
        }
        Shown::Unseen => warn!("no news of {} before --shutdown-timeout ran out", list(&names)),
    }
    Drained::Remaining { shown, asked: self::names(awaited, asked), names }
}

/// Of these it is not known whether they have exited. `latest`: the Pod as it was last seen.
pub(super) fn unseen(awaited: &[Awaited], latest: Option<&Snapshot>, rounds: Rounds) -> Drained {
    let left: Vec<_> = awaited.iter().filter(|awaited| !awaited.has_ended(latest, rounds)).collect();
    let names = left.iter().map(|awaited| awaited.name.clone()).collect();
    let asked = left.iter().filter(|awaited| awaited.asked != Asked::No).map(|awaited| awaited.name.clone());
    Drained::Remaining { shown: Shown::Unseen, names, asked: asked.collect() }
}

/// Waits until a sidecar has left no trace.
async fn vanished(trace: &Trace) {
    match trace {
        Trace::Closed(address) => refuses(address).await,
        Trace::Withdrawn(peer) => pin!(peer.gone()).await,
    }
}

async fn refuses(address: &Address) {
    let mut pause = FIRST_PAUSE;
    while probe(address, LAST_PAUSE).await != Answer::Refused {
        sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use futures::FutureExt;

    use super::*;
    use crate::pod::tests::snapshot;
    use crate::shutdown::awaited::ShownBy;

    fn pod(web: &str) -> Snapshot {
        snapshot(&format!(
            "
spec: {{restartPolicy: Never, containers: [{{name: web, image: w}}, {{name: db, image: d}}, {{name: main, image: m}}]}}
status:
  containerStatuses:
  - {{name: web, image: w, imageID: w, ready: false, restartCount: 0, state: {{{web}}}}}
  - {{name: db, image: d, imageID: d, ready: true, restartCount: 0, state: {{running: {{}}}}}}
"
        ))
    }

    fn awaited(name: &str, asked: Asked) -> Awaited {
        Awaited { name: name.into(), asked, shown_by: ShownBy::Status(None) }
    }

    fn remaining_ones(shown: Shown, names: &[&str], asked: &[&str]) -> Drained {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Drained::Remaining { shown, names: owned(names), asked: owned(asked) }
    }

    #[test]
    fn a_failure_is_named_once_and_only_of_this_run() {
        let mut named = Named::default();
        named.name_failures(&pod("running: {}"));
        named.name_failures(&pod("terminated: {exitCode: 0}"));
        let mut earlier = pod("terminated: {exitCode: 3}");
        earlier.own.run = Run::Over;
        named.name_failures(&earlier);
        assert!(named.0.is_empty(), "{named:?}");
        named.name_failures(&pod("terminated: {exitCode: 3}"));
        assert_eq!(named.0, BTreeSet::from(["web".to_owned()]));
    }

    #[test]
    fn only_what_the_pods_status_shows_is_said_to_be_running() {
        assert_eq!(
            remaining_ones(Shown::Running, &["web"], &[]).running(),
            Some(["web".to_owned()].as_slice())
        );
        assert_eq!(remaining_ones(Shown::Unseen, &["web"], &[]).running(), None);
        assert_eq!(Drained::Exited.running(), None);
    }

    #[test]
    fn out_of_sight_those_remain_whose_exit_was_not_seen() {
        let both = [awaited("web", Asked::No), awaited("db", Asked::Perhaps)];
        let expected = remaining_ones(Shown::Unseen, &["db"], &["db"]);
        assert_eq!(unseen(&both, Some(&pod("terminated: {exitCode: 0}")), Rounds::default()), expected);
        assert_eq!(
            unseen(&both, None, Rounds::default()),
            remaining_ones(Shown::Unseen, &["web", "db"], &["db"])
        );
    }

    #[test]
    fn a_sign_is_looked_at_again_when_it_has_lasted_and_not_before() {
        let now = Instant::now();
        assert_eq!(verdict_at(None, SILENCE), None);
        assert_eq!(verdict_at(Some(now), DENIED), Some(now + DENIED));
        assert_eq!(verdict_at(now.checked_sub(SILENCE * 2), SILENCE), None, "that is over");
    }

    fn closed_at(port: u16) -> Trace {
        Trace::Closed(format!("127.0.0.1:{port}").parse().unwrap())
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    /// Waits without the API server.
    fn wait_blindly(awaited: &[Awaited], unattributed: Option<Vec<Trace>>, by: Instant) -> Drained {
        let terms = Terms { asked_by: Some(by), unasked_by: Some(by), unattributed, done: "all have exited" };
        let (latest, mut named) = (Latest::default(), Named::default());
        let mains = Mains::default();
        block_on(wait(None, awaited, terms, Seen::default(), &mains, &latest, &mut named))
    }

    #[test]
    fn without_the_api_server_a_closed_endpoint_is_an_exit_and_an_open_one_is_none() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shown_by = ShownBy::Trace(closed_at(port));
        let web = [Awaited { name: "web".into(), asked: Asked::Yes, shown_by }];
        assert!(block_on(async { vanished(&closed_at(port)).now_or_never() }).is_none());
        let expected = remaining_ones(Shown::Listening, &["web"], &["web"]);
        assert_eq!(wait_blindly(&web, Some(Vec::new()), Instant::now()), expected);
        drop(listener);
        let late = Instant::now() + Duration::from_secs(60);
        assert_eq!(wait_blindly(&web, Some(Vec::new()), late), Drained::Exited);
    }

    #[test]
    fn one_that_may_have_been_asked_was_until_nobody_is_left_who_was() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let perhaps = [awaited("web", Asked::Perhaps), awaited("db", Asked::No)];
        let asked = |unattributed, asked: &[&str]| {
            let expected = remaining_ones(Shown::Listening, &["web", "db"], asked);
            assert_eq!(wait_blindly(&perhaps, unattributed, Instant::now()), expected);
        };
        asked(None, &["web"]);
        asked(Some(vec![closed_at(port)]), &["web"]);
        asked(Some(Vec::new()), &[]);
    }
}
