//! Ending the sidecars: whether, then how, all within one deadline.

pub mod actions;
pub mod drain;
pub mod http;
pub mod kill;
pub mod stages;

use std::fmt;
use std::io;
use std::pin::pin;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::cluster::OwnPod;
use crate::endpoint::Address;
use crate::peer::{Peer, Peers, Reply};
use crate::pod::{Role, Snapshot};
use crate::policy::{ShutdownAuto, ShutdownWhen};
use crate::signal::send::suspend_self;
use crate::signal::stream::Listener;
use crate::signal::{self, Phase, Reaction, Signal, reaper};
use crate::status::board::{ActionResult, Board};
pub use actions::{Action, Processes, Shutdown};
use drain::{Look, Patience, Silence};
use stages::{Stages, Step, Task, carriers, stages, unasked, wrapped};

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
        (ShutdownWhen::Auto, Some(snapshot)) if snapshot.own.role == Role::Init => {
            Decision::Keep(Keep::InitContainer)
        }
        (ShutdownWhen::Auto, Some(snapshot)) if snapshot.own.restart.after(code.into()) => {
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

/// What is known as the sidecars are to end.
#[derive(Debug, Clone, Copy)]
pub struct Sight<'a> {
    /// The Pod as the gate last saw it.
    pub snapshot: Option<&'a Snapshot>,
    /// Where to see it again, if anywhere.
    pub own_pod: Option<&'a OwnPod>,
    /// Whether the container was asked to stop.
    pub stopping: Stopping,
    /// The other proas of the Pod.
    pub peers: &'a Peers,
}

/// Runs the actions, then waits for the sidecars to exit. Whatever goes wrong is logged: the outcome is
/// decided by now. Where others' traffic goes through a sidecar it is told last, once the others have ended.
pub async fn run(shutdown: &Shutdown, sight: Sight<'_>, signals: &mut Listener<'_>, board: &Board) {
    let Sight { snapshot, own_pod, stopping, peers } = sight;
    let grace = snapshot.map_or(DEFAULT_TIMEOUT, |snapshot| snapshot.grace);
    let deadline = deadline(shutdown.timeout.unwrap_or(grace), stopping.since().map(|since| since + grace));
    let stop = snapshot.and_then(|snapshot| snapshot.own.stop_signal);
    let Stages { first, last } = stages(shutdown, snapshot, peers);
    if shutdown.auto == ShutdownAuto::Otherwise && shutdown.actions.is_empty() {
        if snapshot.is_none() && first.is_empty() {
            warn!(
                "no sidecar is ended: without sight of the Pod none is recognised; see --shutdown-known, --shutdown-http-post"
            );
        }
        for (name, helps) in snapshot.into_iter().flat_map(unasked) {
            info!("`{name}` cannot be asked to end: {helps}");
        }
    }
    let mut interrupts =
        Interrupts { signals, stop, asked_to_end: matches!(stopping, Stopping::BeforeCommand(_)) };

    let Some(mut results) = interrupts.during_actions(act(&first, snapshot, deadline, board)).await else {
        return;
    };
    board.drain_begins();
    if !last.is_empty() {
        // Those too that nobody told: they may end by themselves, and need the network for it.
        let ignore = [results.left_alone(shutdown, snapshot), carriers(snapshot)].concat();
        let patience = Patience {
            ignore: &ignore,
            silence: Silence::Trouble,
            deadline: two_thirds(deadline),
            done: "the others have ended",
            look: Look::No,
        };
        interrupts.during_drain(drain(own_pod, snapshot, &results.told, patience)).await;
        let Some(more) = interrupts.during_actions(act(&last, snapshot, deadline, board)).await else {
            return;
        };
        results.told.extend(more.told);
        results.heard.extend(more.heard);
    }
    let patience = Patience {
        ignore: &results.left_alone(shutdown, snapshot),
        silence: if results.told.is_empty() { Silence::Trouble } else { Silence::Success },
        deadline,
        done: "every sidecar has ended",
        // A wrapped sidecar that is not waited for may have ended by itself.
        look: if results.heard.len() < wrapped(snapshot).len() { Look::Once } else { Look::No },
    };
    interrupts.during_drain(drain(own_pod, snapshot, &results.told, patience)).await;
    board.drain_ends();
}

async fn drain(own_pod: Option<&OwnPod>, snapshot: Option<&Snapshot>, told: &[Told], patience: Patience<'_>) {
    match own_pod {
        Some(own_pod) => drain::wait(own_pod.watch(), snapshot, patience).await,
        None => drain::wait_for_silence(told, patience.deadline).await,
    }
}

/// How long those may take that end before the one that carries their traffic, so that it has its time too.
fn two_thirds(deadline: Instant) -> Instant {
    let now = Instant::now();
    now + deadline.saturating_duration_since(now) * 2 / 3
}

/// Signals that come while the sidecars are ended: the first gives up the wait for their exit, the second the
/// actions too.
struct Interrupts<'a, 'b> {
    signals: &'a mut Listener<'b>,
    stop: Option<Signal>,
    asked_to_end: bool,
}

impl Interrupts<'_, '_> {
    async fn during_actions<T>(&mut self, actions: impl Future<Output = T>) -> Option<T> {
        let mut actions = pin!(actions);
        loop {
            tokio::select! {
                told = &mut actions => return Some(told),
                signal = stopped(self.signals, self.stop) => {
                    if self.asked_to_end {
                        warn!(%signal, "asked to end again: giving up on the sidecars");
                        return None;
                    }
                    self.asked_to_end = true;
                    info!(%signal, "asked to end: not waiting for the sidecars to exit");
                }
            }
        }
    }

    async fn during_drain(&mut self, drain: impl Future<Output = ()>) {
        if self.asked_to_end {
            return;
        }
        tokio::select! {
            () = drain => {}
            signal = stopped(self.signals, self.stop) => {
                self.asked_to_end = true;
                info!(%signal, "asked to end: no longer waiting for the sidecars to exit");
            }
        }
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

/// A sidecar took an order to end; and how its end shows without the API server.
enum Told {
    /// It no longer listens there.
    At(Address),
    /// Its proa is gone.
    Peer(Peer),
    /// Not at all.
    Unseen,
}

/// What came of the actions.
#[derive(Default)]
struct Results {
    told: Vec<Told>,
    /// Wrapped sidecars that took the word.
    heard: Vec<String>,
}

impl Results {
    /// Whose exit is not waited for: whom the user names, and wrapped sidecars that wait for ours.
    fn left_alone(&self, shutdown: &Shutdown, snapshot: Option<&Snapshot>) -> Vec<String> {
        let waiting = wrapped(snapshot).into_iter().filter(|name| !self.heard.contains(name));
        shutdown.ignore.iter().cloned().chain(waiting).collect()
    }
}

async fn act(tasks: &[Task], snapshot: Option<&Snapshot>, deadline: Instant, board: &Board) -> Results {
    let results = join_all(tasks.iter().map(|task| async move {
        let result = carry_out(&task.order, snapshot, deadline).await;
        match &result {
            Ok((done, _)) => {
                board.action(task.to_string(), ActionResult::Accepted);
                info!("{task}: {done}");
            }
            Err(error) => {
                board.action(task.to_string(), ActionResult::Failed);
                let needs = task.needs().map(|needs| format!("; {needs}")).unwrap_or_default();
                warn!("{task}: {error}{needs}");
            }
        }
        Some((&task.order, result.ok()?.1))
    }))
    .await;
    let mut all = Results::default();
    for (order, told) in results.into_iter().flatten() {
        if let (Step::Notify { peer, .. }, Told::Peer(_)) = (order, &told) {
            all.heard.push(peer.container.clone());
        }
        all.told.push(told);
    }
    all
}

async fn carry_out(
    order: &Step,
    snapshot: Option<&Snapshot>,
    deadline: Instant,
) -> Result<(String, Told), String> {
    match order {
        Step::Http(request) => {
            let done = http::ask(request, deadline).await.map_err(|error| error.to_string())?;
            // What is not in this Pod does not end with it.
            let listens = request.url.is_loopback().then(|| request.url.address());
            Ok((done.to_string(), listens.map_or(Told::Unseen, Told::At)))
        }
        Step::Kill(whom, signal) => {
            let count = kill::kill(whom, *signal, snapshot).map_err(|error| error.to_string())?;
            Ok((format!("{count} signalled"), Told::Unseen))
        }
        Step::Notify { peer, message } => match peer.quit(message).await {
            Ok(Reply::Stopping) => Ok(("it will".to_owned(), Told::Peer(peer.clone()))),
            Ok(Reply::NotYet) => Ok(("it waits for other containers too".to_owned(), Told::Unseen)),
            // It has ended, or is being started again.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                Ok(("no proa is there".to_owned(), Told::Unseen))
            }
            Err(error) => Err(format!("its proa does not answer: {error}")),
        },
    }
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
            Reaction::Suspend => suspend_self(),
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
