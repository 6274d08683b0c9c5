//! Waiting for the sidecars to exit, so that their failures are seen and blamed.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use futures::future::join_all;
use futures::stream::{BoxStream, StreamExt};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tracing::{info, warn};

use super::Told;
use crate::cluster::{Doubt, GRACE, Observation, Trouble};
use crate::endpoint::Address;
use crate::known::End;
use crate::pod::{Life, Sidecar, Snapshot, State, list};
use crate::tcp::{Answer, probe};

/// How long the API server may be out of reach, once a sidecar was told to quit, before that counts as
/// the sidecar's end: a mesh proxy that is gone takes our connections with it. Should the API server be
/// down instead, nothing is lost but the names of sidecars that failed.
const SILENCE: Duration = Duration::from_secs(1);
/// The pause between looks at an endpoint at first; doubles up to [`LAST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest pause between looks, and the longest time for one.
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// Whether there is still a sidecar to wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drain {
    /// These have not ended for good.
    Waiting(Vec<String>),
    /// All have.
    Done,
    /// There is no point in waiting.
    Pointless(Pointless),
}

/// Why there is no point in waiting for the sidecars to exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pointless {
    /// The kubelet no longer updates container statuses (kubernetes/kubernetes#106896).
    Deleting,
    /// They are started again after every end.
    Restarted,
    /// There are none but native ones, which the kubelet ends, and such as stay until every other container has
    /// ended, ours included.
    NoRegular,
}

impl fmt::Display for Pointless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deleting => "the Pod is being deleted or ended",
            Self::Restarted => "restart policy Always starts them again",
            Self::NoRegular => "what is left ends after this container",
        })
    }
}

/// Decides whether there is still a sidecar to wait for. Native sidecars are left to the kubelet.
#[must_use]
pub fn drain(snapshot: &Snapshot, ignore: &[String]) -> Drain {
    if snapshot.life != Life::Active {
        return Drain::Pointless(Pointless::Deleting);
    }
    if let Some(pointless) = never_needed(snapshot, ignore) {
        return Drain::Pointless(pointless);
    }
    let waiting: Vec<_> = drained(snapshot, ignore)
        .filter(|sidecar| !sidecar.restart.always() && sidecar.ended_for_good().is_none())
        .map(|sidecar| sidecar.name.clone())
        .collect();
    if waiting.is_empty() { Drain::Done } else { Drain::Waiting(waiting) }
}

/// Why no state of this Pod would ever make us wait. What it rests on cannot change while a Pod lives.
fn never_needed(snapshot: &Snapshot, ignore: &[String]) -> Option<Pointless> {
    let mut regular = drained(snapshot, ignore).peekable();
    if regular.peek().is_none() {
        Some(Pointless::NoRegular)
    } else {
        regular.all(|sidecar| sidecar.restart.always()).then_some(Pointless::Restarted)
    }
}

fn drained<'a>(snapshot: &'a Snapshot, ignore: &'a [String]) -> impl Iterator<Item = &'a Sidecar> {
    let leaves_last = |sidecar: &Sidecar| {
        let known = sidecar.known.as_ref().map(|recognised| &recognised.known.end);
        matches!(known, Some(End::AfterOthers(_)))
    };
    snapshot
        .sidecars
        .iter()
        .filter(move |sidecar| !sidecar.native && !ignore.contains(&sidecar.name) && !leaves_last(sidecar))
}

/// What an API server that can no longer be reached means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Silence {
    /// A sidecar that was told to end took our connections with it.
    Success,
    /// Nothing.
    Trouble,
}

/// Waits until sidecars that were told to end no longer listen: what can be seen of their end without the API
/// server.
pub(super) async fn wait_for_silence(told: &[Told], deadline: Instant) {
    let started = Instant::now();
    let gone = join_all(told.iter().map(|told| async move {
        match told {
            Told::At(address) => refuses(address).await,
            Told::Peer(peer) => peer.gone().await,
            Told::Unseen => {}
        }
    }));
    match timeout_at(deadline, gone).await {
        Ok(_) if told.iter().all(|told| matches!(told, Told::Unseen)) => {}
        Ok(_) => info!(after = %since(started), "every sidecar that was told to end has closed its endpoint"),
        Err(_) => warn!("still listening when --shutdown-timeout ran out, though told to end"),
    }
}

async fn refuses(address: &Address) {
    let mut pause = FIRST_PAUSE;
    while probe(address, LAST_PAUSE).await == Answer::Accepted {
        sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

fn since(started: Instant) -> String {
    format!("{:.3}s", started.elapsed().as_secs_f64())
}

/// Whose end is waited for, and how long.
pub(super) struct Patience<'a> {
    /// All but these.
    pub(super) ignore: &'a [String],
    /// What an API server out of reach means.
    pub(super) silence: Silence,
    /// Until then.
    pub(super) deadline: Instant,
    /// What is said once they have ended.
    pub(super) done: &'static str,
    /// Whether to look at the Pod once more even if nobody is waited for.
    pub(super) look: Look,
}

/// Whether to look at the Pod once more even if nobody is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Somebody may have failed meanwhile, and is to be named.
    Once,
    /// There is no need.
    No,
}

/// Waits until every regular sidecar but those ignored has ended for good, there is no point in waiting, or the
/// deadline.
pub(super) async fn wait(
    mut observations: BoxStream<'static, Observation>,
    at_start: Option<&Snapshot>,
    Patience { ignore, silence, deadline, done, look }: Patience<'_>,
) {
    let needless = at_start.is_some_and(|snapshot| never_needed(snapshot, ignore).is_some());
    if look == Look::No && needless {
        return;
    }
    let started = Instant::now();
    let mut blamed = BTreeSet::new();
    let mut waiting = Vec::new();
    let mut silent_since = None;
    let mut doubt = Doubt::default();
    loop {
        let observation = tokio::select! {
            Some(observation) = observations.next() => observation,
            () = sleep_until(deadline) => {
                if waiting.is_empty() {
                    warn!("no news of the sidecars before --shutdown-timeout ran out");
                } else {
                    warn!(
                        "still running when --shutdown-timeout ran out: {}; expected an end by --shutdown-http-post, --kill, or \
                         `proa sidecar` as its entrypoint",
                        list(&waiting)
                    );
                }
                return;
            }
        };
        match observation {
            Observation::Gone => return,
            Observation::Seen(snapshot) => {
                silent_since = None;
                doubt.dispel();
                name_failures(&snapshot, &mut blamed);
                match drain(&snapshot, ignore) {
                    Drain::Done => {
                        info!(after = %since(started), "{done}");
                        return;
                    }
                    Drain::Pointless(why) => {
                        info!("not waiting for the sidecars to exit: {why}");
                        return;
                    }
                    Drain::Waiting(running) => {
                        if running != waiting {
                            info!("waiting for {} to exit", list(&running));
                        }
                        waiting = running;
                    }
                }
            }
            Observation::Trouble(trouble @ Trouble::Unreachable(_)) if silence == Silence::Success => {
                let since = *silent_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= SILENCE {
                    info!("not waiting any longer: a sidecar was told to end, and {trouble}");
                    return;
                }
            }
            Observation::Trouble(trouble) if doubt.about(&trouble) < GRACE => {}
            Observation::Trouble(trouble) => {
                warn!("not waiting for the sidecars to exit: {trouble}");
                return;
            }
        }
    }
}

fn name_failures(snapshot: &Snapshot, blamed: &mut BTreeSet<String>) {
    for sidecar in &snapshot.sidecars {
        if let State::Terminated(exit) = &sidecar.state
            && exit.code != 0
            && blamed.insert(sidecar.name.clone())
        {
            warn!("sidecar `{}` ended with {exit}", sidecar.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::tests::snapshot;

    fn pod(policy: &str, web: &str) -> Snapshot {
        snapshot(&format!(
            "
spec:
  restartPolicy: {policy}
  initContainers: [{{name: db, image: d, restartPolicy: Always}}]
  containers: [{{name: web, image: w}}, {{name: main, image: m}}]
status:
  initContainerStatuses: [{{name: db, image: d, imageID: d, ready: true, restartCount: 0, state: {{running: {{}}}}}}]
  containerStatuses: [{{name: web, image: w, imageID: w, ready: true, restartCount: 0, state: {{{web}}}}}]
"
        ))
    }

    #[test]
    fn waits_for_regular_sidecars_and_not_for_native_ones() {
        assert_eq!(drain(&pod("Never", "running: {}"), &[]), Drain::Waiting(vec!["web".into()]));
        assert_eq!(drain(&pod("Never", "terminated: {exitCode: 3}"), &[]), Drain::Done);
        let native_alone = snapshot(
            "spec: {initContainers: [{name: db, image: d, restartPolicy: Always}], containers: [{name: main, image: m}]}",
        );
        assert_eq!(drain(&native_alone, &[]), Drain::Pointless(Pointless::NoRegular));
    }

    #[test]
    fn an_end_that_is_followed_by_a_restart_is_none() {
        let failed = "terminated: {exitCode: 3}";
        assert_eq!(drain(&pod("OnFailure", failed), &[]), Drain::Waiting(vec!["web".into()]));
        assert_eq!(drain(&pod("OnFailure", "terminated: {exitCode: 0}"), &[]), Drain::Done);
        assert_eq!(drain(&pod("Always", failed), &[]), Drain::Pointless(Pointless::Restarted));
    }

    #[test]
    fn does_not_wait_for_a_pod_that_is_being_deleted() {
        let leaving = Snapshot { life: Life::Deleting, ..pod("Never", "running: {}") };
        assert_eq!(drain(&leaving, &[]), Drain::Pointless(Pointless::Deleting));
    }

    #[test]
    fn does_not_wait_for_those_that_leave_last() {
        let fuse = snapshot(
            "spec: {restartPolicy: Never, containers: [{name: gke-gcsfuse-sidecar, image: g}, {name: main, image: m}]}",
        );
        assert_eq!(drain(&fuse, &[]), Drain::Pointless(Pointless::NoRegular));
    }

    #[test]
    fn does_not_wait_for_ignored_sidecars() {
        assert_eq!(
            drain(&pod("Never", "running: {}"), &["web".to_owned()]),
            Drain::Pointless(Pointless::NoRegular)
        );
    }
}
