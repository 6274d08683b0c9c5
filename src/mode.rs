//! What every mode needs: its presence in the Pod, sight of it, and a runtime a phase.

mod companion;
pub mod helper;
mod inspector;
pub mod install;
pub mod quit;
mod ready_file;
pub mod sidecar;
pub mod wait;
pub mod wrap;

use std::io;
use std::pin::pin;
use std::time::Instant;

use anyhow::Context;
use tokio::runtime::{Builder, Runtime};
use tracing::{error, info, warn};

use crate::budget::{LEAST, StopRequests};
use crate::cluster::{ApiServer, Cluster, OwnPod, SERVICE_HOST};
use crate::deadline::{now, until};
use crate::exit::Outcome;
use crate::identity::{Claim, Identity, Mounts};
use crate::peer::{Message, Part, Peer, Peers, Presence, Unannounced};
use crate::policy::AskApi;
use crate::shortage::{once_there_is_enough, outlast, persist};
use crate::shutdown::{Sight, asked_to_stop, stopped};
use crate::signal::stream::{Listener, Signals, pending_stop};
use crate::signal::{Phase, Sender, Signal, reaper};
use crate::telemetry::LogPhase;

/// What comes after the command. Whatever happens in it changes no exit code: the command's is decided by then.
fn afterwards<T>(task: impl FnOnce() -> anyhow::Result<Option<T>>) -> Option<T> {
    let _phase = LogPhase::Shutdown.enter();
    task().unwrap_or_else(|error| {
        error!("shutting down the sidecars failed: {error:#}");
        None
    })
}

/// What comes of something that takes no look at the Pod, while stop requests are heard; `None`: there is no time left for it.
async fn heeding<T>(
    signals: &mut Listener<'_>,
    sight: &Sight,
    asked: &mut StopRequests,
    task: impl Future<Output = T>,
) -> Option<T> {
    let stop = sight.snapshot.as_ref().and_then(|snapshot| snapshot.own.stop_signal);
    // What takes no more than a moment it is never too late for.
    let (mut task, mut over_by, least) = (pin!(task), None, now() + LEAST);
    loop {
        over_by = sight.over_by(asked, over_by);
        tokio::select! {
            biased;
            done = &mut task => return Some(done),
            received = stopped(signals, stop) => asked_to_stop(received, asked),
            () = until(over_by.map(|by| by.max(least))) => return None,
        }
    }
}

/// The proas beside ours, which hear who has `ended`. `own`: the Pod's UID and this container's name. `by`: as of
/// [`once_there_is_enough`].
async fn peers_beside(
    own: (&str, &str),
    ended: Vec<Message>,
    by: Option<Instant>,
    sight: &Sight,
    asked: &mut StopRequests,
    signals: &mut Listener<'_>,
) -> Peers {
    let (uid, container) = own;
    let found = once_there_is_enough(by, || Peers::beside(uid, container, ended.clone()));
    let found = heeding(signals, sight, asked, found).await;
    let no_time = || Err(io::Error::new(io::ErrorKind::TimedOut, "this container is about to be killed"));
    found.unwrap_or_else(no_time).unwrap_or_else(|error| {
        warn!("no wrapped sidecar is notified that neither the Pod nor its manifest shows: {error}");
        Peers { ended, ..Peers::default() }
    })
}

/// Has orphans come to us.
fn collect_orphans() {
    // A system that forbids it is no reason not to run: as PID 1 they come to us anyway.
    if let Err(error) = reaper::become_subreaper() {
        warn!(%error, "cannot become a subreaper: orphans below another PID 1 are not collected here");
    }
}

/// Says what a disabled proa does.
fn announce_disabled() {
    info!("disabled (PROA_DISABLED): proa waits for nothing and shuts down no sidecar");
}

/// Whether this is no container of the kubelet's: there is no Pod to look at, and nobody who would stay behind.
fn is_outside(api: &ApiServer, mounts: &Mounts) -> bool {
    api.is_absent() && mounts.uid.is_none()
}

/// Takes up the place of a container's entrypoint: collects orphans, and is there for the other proas of the Pod.
/// `None`: there is no telling who we are, or the system does not let us. `asked`: when proa was asked to stop.
fn appear(mounts: &Mounts, part: Part, asked: &mut StopRequests) -> Result<Option<Presence>, Outcome> {
    collect_orphans();
    let Some(own) = Peer::of(mounts) else {
        return Ok(None);
    };
    match announce(&own, part, asked) {
        Ok(presence) => Ok(Some(presence)),
        Err(taken @ Unannounced::Taken(_)) => Err(Outcome::TwoProas(taken)),
        Err(stranger @ Unannounced::Stranger(_)) => {
            warn!("{stranger}");
            Ok(None)
        }
        Err(failed) => {
            info!("{failed}");
            Ok(None)
        }
    }
}

/// Is there for the other proas of the Pod. `asked`: when proa was asked to stop, which leaves less time.
fn announce(own: &Peer, part: Part, asked: &mut StopRequests) -> Result<Presence, Unannounced> {
    let attempt = || match own.clone().announce(part) {
        Err(Unannounced::Failed(error)) => Err(error),
        announced => Ok(announced),
    };
    // Who runs on without it may have the sidecars shut down under it.
    let announced = patiently(&Sight::none(), asked, || Ok(attempt()?));
    announced.unwrap_or_else(|error| Err(Unannounced::Failed(io::Error::other(format!("{error:#}")))))
}

/// Where to see the own Pod, unless proa is not to ask, or makes do without. `asked`: when proa was asked to stop.
fn own_pod(
    claim: &Claim,
    api: &ApiServer,
    mounts: &Mounts,
    dispensable: bool,
    asked: &mut StopRequests,
) -> Result<Option<OwnPod>, Outcome> {
    if api.ask == AskApi::Off {
        return Ok(None);
    }
    if matches!(api.ask, AskApi::Auto | AskApi::Optional) && is_outside(api, mounts) {
        info!(
            "not in Kubernetes: neither {SERVICE_HOST} nor a service account is here, so there is no Pod to look at \
             (--api=require refuses that)"
        );
        return Ok(None);
    }
    // One that cannot be opened for want of descriptors may be there or not.
    let cluster = match patiently(&Sight::none(), asked, || Ok(Cluster::new(api)?)).map_err(unable)? {
        Ok(cluster) => cluster,
        // Whoever has put proa here did not know; whoever has given it direct waits did.
        Err(none) if api.ask == AskApi::Optional => {
            warn!("going on without the API server: {none}");
            return Ok(None);
        }
        Err(none) if dispensable => {
            info!("going on without the API server: {none}");
            return Ok(None);
        }
        Err(none) => return Err(Outcome::NoApi(none)),
    };
    let find = || Ok(Identity::find(claim, mounts, &api.service_account)?);
    let identity = match patiently(&Sight::none(), asked, find).map_err(unable)? {
        Ok(identity) => identity,
        Err(unknown) if api.ask == AskApi::Optional => {
            warn!("going on without the API server: {unknown}");
            return Ok(None);
        }
        Err(unknown) => return Err(Outcome::Unknown(unknown)),
    };
    Ok(Some(OwnPod { cluster, identity }))
}

/// How many events one look at the kernel's brings. More would be room held for nothing: there are a few connections.
const EVENTS: usize = 32;

/// Each phase has a runtime of its own, so that its connections and memory end with it: while the command
/// runs, what is left are the signals.
fn runtime() -> anyhow::Result<PhaseRuntime> {
    build(Builder::new_current_thread().enable_time())
}

/// For a phase that waits for signals and for nothing else, as long as it takes: one without timers is half as large.
fn runtime_without_timers() -> anyhow::Result<PhaseRuntime> {
    build(&mut Builder::new_current_thread())
}

/// For a phase without which sidecars are left running, with the signals: tries for as long as there is time.
fn patient_runtime<'s>(
    signals: &'s Signals,
    known: &Sight,
    asked: &mut StopRequests,
) -> anyhow::Result<(PhaseRuntime, Listener<'s>)> {
    patiently(known, asked, || {
        let runtime = try_build(Builder::new_current_thread().enable_time()).context(NO_RUNTIME)?;
        let listener =
            runtime.block_on(async { signals.try_listen() }).context("cannot listen for signals")?;
        Ok((runtime, listener))
    })
}

/// Makes what the sidecars are shut down with, until there is no time left by what is `known` of the Pod. A signal that asks proa to
/// stop meanwhile is noted, since time counts from then on, and waits for whoever listens next. One that is a stop signal because the
/// runtime sends it alone, as an image's own is, is not known for one until it is read.
///
/// # Errors
/// Those of the last attempt.
pub fn patiently<T>(
    known: &Sight,
    asked: &mut StopRequests,
    make: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let stop = known.snapshot.as_ref().and_then(|snapshot| snapshot.own.stop_signal);
    let (mut pending, mut is_time) = (false, true);
    // For one attempt or two it is never too late.
    let least = now() + LEAST;
    let result = persist(make, || {
        note_pending(asked, &mut pending, stop);
        is_time = known.give_up_at(asked).is_none_or(|at| now() < at.max(least));
        is_time
    });
    if is_time { result } else { result.context("no longer tried: this container is about to be killed") }
}

/// Notes a stop request that waits to be read, once. `stop`: the container's own stop signal, as far as it is known.
fn note_pending(asked: &mut StopRequests, noted: &mut bool, stop: Option<Signal>) {
    if !*noted && pending_stop(Phase::Shutdown { stop }).is_some() {
        *noted = true;
        asked.note(now(), Sender::Inside);
    }
}

/// The outcome of what could not be made before the command: nobody has read the signals, and one that asks us to stop is why no
/// command started.
#[must_use]
pub fn unable(error: anyhow::Error) -> Outcome {
    match pending_stop(Phase::Gate { stop: None }) {
        Some(signal) => {
            warn!(%signal, "asked to stop: {error:#}");
            Outcome::Stopped(signal)
        }
        None => Outcome::Failed(error),
    }
}

/// The same in a sidecar.
#[must_use]
pub fn unable_sidecar(error: anyhow::Error) -> Outcome {
    of_sidecar(unable(error))
}

/// Who was to shut the sidecars down, and is asked to stop before it has, has not.
fn of_quit(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Stopped(_) => {
            Outcome::NotShutDown(vec!["the sidecars, because proa was asked to stop first".to_owned()])
        }
        outcome => outcome,
    }
}

/// The outcome of [`unable`] in `proa quit`.
#[must_use]
pub fn unable_quit(error: anyhow::Error) -> Outcome {
    of_quit(unable(error))
}

/// A sidecar that is asked to stop has come to its end thereby.
fn of_sidecar(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Stopped(_) => Outcome::ShutDown,
        outcome => outcome,
    }
}

fn build(builder: &mut Builder) -> anyhow::Result<PhaseRuntime> {
    outlast(|| try_build(builder)).context(NO_RUNTIME)
}

fn try_build(builder: &mut Builder) -> io::Result<PhaseRuntime> {
    Ok(PhaseRuntime(Some(builder.enable_io().max_io_events_per_tick(EVENTS).build()?)))
}

const NO_RUNTIME: &str = "cannot start the runtime";

/// A runtime that ends at once when it is dropped. The library's own waits for its threads: a name look-up in one of them, which no
/// deadline and no signal ends, would keep the command's end from being seen. Ours are in [`crate::thread`].
struct PhaseRuntime(Option<Runtime>);

impl PhaseRuntime {
    fn block_on<T>(&self, phase: impl Future<Output = T>) -> T {
        self.0.as_ref().expect("there until it is dropped").block_on(phase)
    }
}

impl Drop for PhaseRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
