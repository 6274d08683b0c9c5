//! Ending the sidecars: whether, then how, all within one deadline.

pub mod drain;
pub mod http;
pub mod kill;

use std::fmt;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::child::{self, reaper};
use crate::cluster::Cluster;
use crate::identity::Identity;
use crate::plan::{Action, Shutdown};
use crate::pod::{Role, Snapshot};
use crate::policy::ShutdownWhen;
use crate::signal::stream::Listener;
use crate::signal::{self, Phase, Reaction, Signal};

/// How long ending the sidecars may take where neither a flag nor the Pod says.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// How long before the kubelet kills what is left proa is done, so that the exit code is the command's.
const MARGIN: Duration = Duration::from_secs(1);

/// Whether the sidecars are ended, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// They are.
    End,
    /// They stay, for this reason.
    Keep(Keep),
}

/// Why the sidecars stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// `--shutdown-when=never`.
    Never,
    /// `--shutdown-when=success`, and it was none.
    NoSuccess,
    /// The kubelet will start this container again, which needs its sidecars then.
    Restart,
    /// The regular containers have not even started.
    InitContainer,
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Never => "--shutdown-when=never",
            Self::NoSuccess => "--shutdown-when=success, and the exit code is not 0",
            Self::Restart => "the restart policy will start this container again, which needs them then",
            Self::InitContainer => "this is an init container",
        })
    }
}

/// Decides whether the sidecars are ended after an end with this exit code.
#[must_use]
pub fn decide(when: ShutdownWhen, code: u8, snapshot: Option<&Snapshot>) -> Decision {
    match (when, snapshot) {
        (ShutdownWhen::Never, _) => Decision::Keep(Keep::Never),
        (ShutdownWhen::Success, _) if code != 0 => Decision::Keep(Keep::NoSuccess),
        (ShutdownWhen::Auto, Some(snapshot)) if snapshot.main.role == Role::Init => {
            Decision::Keep(Keep::InitContainer)
        }
        (ShutdownWhen::Auto, Some(snapshot)) if snapshot.main.restart.after(code.into()) => {
            Decision::Keep(Keep::Restart)
        }
        _ => Decision::End,
    }
}

/// Whether the container was asked to stop, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopping {
    /// It was not.
    No,
    /// Before the command: whoever asked wants proa itself to end, and no sidecar's exit is waited for.
    BeforeCommand(Instant),
    /// While the command ran, which was told and has ended.
    DuringCommand(Instant),
}

impl Stopping {
    fn since(self) -> Option<Instant> {
        match self {
            Self::No => None,
            Self::BeforeCommand(since) | Self::DuringCommand(since) => Some(since),
        }
    }
}

/// Runs the actions, then waits for the sidecars to exit. Whatever goes wrong is logged: the outcome is
/// decided by now.
pub async fn run(
    shutdown: &Shutdown,
    snapshot: Option<&Snapshot>,
    stopping: Stopping,
    (cluster, identity): (&Cluster, &Identity),
    signals: &mut Listener<'_>,
) {
    let grace = snapshot.map_or(DEFAULT_TIMEOUT, |snapshot| snapshot.grace);
    let deadline = deadline(shutdown.timeout.unwrap_or(grace), stopping.since().map(|since| since + grace));
    let stop = snapshot.and_then(|snapshot| snapshot.main.stop_signal);
    let mut actions = std::pin::pin!(act(&shutdown.actions, snapshot, deadline));
    // The first signal gives up the wait for the sidecars' exit, the second the actions too.
    let mut asked_to_end = matches!(stopping, Stopping::BeforeCommand(_));
    let told = loop {
        tokio::select! {
            told = &mut actions => break told,
            signal = stopped(signals, stop) => {
                if asked_to_end {
                    warn!(%signal, "asked to end again: giving up on the sidecars");
                    return;
                }
                asked_to_end = true;
                info!(%signal, "asked to end: not waiting for the sidecars to exit");
            }
        }
    };
    if asked_to_end {
        return;
    }
    tokio::select! {
        () = drain::wait(cluster.watch(identity), snapshot, shutdown, told, deadline) => {}
        signal = stopped(signals, stop) => info!(%signal, "asked to end: no longer waiting for the sidecars to exit"),
    }
}

/// When all must be over. Once the runtime has asked the container to stop, the grace period runs from
/// there, whoever has used it up: what is left at its end is killed, and the command's exit code with it.
fn deadline(limit: Duration, killed: Option<Instant>) -> Instant {
    let end = Instant::now() + limit;
    match killed {
        Some(killed) => end.min(killed.checked_sub(MARGIN).unwrap_or(killed)),
        None => end,
    }
}

/// Whether a sidecar took an order to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// At least one.
    Some,
    /// None.
    None,
}

async fn act(actions: &[Action], snapshot: Option<&Snapshot>, deadline: Instant) -> Told {
    let results = join_all(actions.iter().map(|action| async move {
        let result = match action {
            Action::Http(method, url) => http::ask(*method, url, deadline)
                .await
                .map(|done| done.to_string())
                .map_err(|error| error.to_string()),
            Action::Kill(whom, signal) => kill::kill(whom, *signal, snapshot)
                .map(|count| format!("{count} signalled"))
                .map_err(|error| error.to_string()),
        };
        match &result {
            Ok(done) => info!("{action}: {done}"),
            Err(error) => warn!("{action}: {error}"),
        }
        result.is_ok()
    }))
    .await;
    if results.contains(&true) { Told::Some } else { Told::None }
}

/// The next signal that asks proa to end.
async fn stopped(signals: &mut Listener<'_>, stop: Option<Signal>) -> Signal {
    loop {
        let Ok(signal) = signals.next().await else {
            // Without signals there is nothing to listen for; the deadline still holds.
            return std::future::pending().await;
        };
        match signal::reaction(Phase::Shutdown { stop }, signal) {
            Reaction::Stop => return signal,
            Reaction::Reap => reaper::reap_orphans(),
            Reaction::Suspend => child::suspend_self(),
            Reaction::Hold | Reaction::Forward | Reaction::Ignore => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::tests::snapshot;

    fn pod(policy: &str) -> Snapshot {
        snapshot(&format!("spec: {{restartPolicy: {policy}, containers: [{{name: main, image: m}}]}}"))
    }

    #[test]
    fn auto_asks_whether_this_container_will_be_started_again() {
        let auto = |policy: &str, code| decide(ShutdownWhen::Auto, code, Some(&pod(policy)));
        let again = Decision::Keep(Keep::Restart);
        assert_eq!([auto("Never", 0), auto("Never", 1)], [Decision::End, Decision::End]);
        assert_eq!([auto("OnFailure", 0), auto("OnFailure", 1)], [Decision::End, again]);
        assert_eq!([auto("Always", 0), auto("Always", 1)], [again, again]);
    }

    #[test]
    fn without_knowledge_of_the_pod_auto_is_always() {
        assert_eq!(decide(ShutdownWhen::Auto, 0, None), Decision::End);
        assert_eq!(decide(ShutdownWhen::Auto, 1, None), Decision::End);
    }

    #[test]
    fn explicit_policies_do_not_look_at_the_pod() {
        let pod = pod("Always");
        assert_eq!(decide(ShutdownWhen::Always, 1, Some(&pod)), Decision::End);
        assert_eq!(decide(ShutdownWhen::Never, 0, None), Decision::Keep(Keep::Never));
        assert_eq!(decide(ShutdownWhen::Success, 0, Some(&pod)), Decision::End);
        assert_eq!(decide(ShutdownWhen::Success, 1, None), Decision::Keep(Keep::NoSuccess));
    }

    #[test]
    fn an_init_container_ends_no_sidecars() {
        let init =
            snapshot("spec: {initContainers: [{name: main, image: m}], containers: [{name: app, image: a}]}");
        assert_eq!(decide(ShutdownWhen::Auto, 0, Some(&init)), Decision::Keep(Keep::InitContainer));
    }
}
