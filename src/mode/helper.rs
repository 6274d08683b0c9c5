//! `proa sidecar`: a helper container for main containers that proa is not in.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;
use std::pin::pin;

use anyhow::Context;
use futures::stream::{self, StreamExt};
use tracing::{info, warn};

use super::companion::{Companion, Gated, announce};
use super::{guarded, runtime};
use crate::cluster::{Doubt, GRACE, Observation};
use crate::exit::Outcome;
use crate::gate::Refusal;
use crate::identity::Mounts;
use crate::peer::{Message, Peers};
use crate::plan::sidecar::SidecarPlan;
use crate::pod::Snapshot;
use crate::pod::mains::{self, Progress};
use crate::shutdown::{self, Decision, Shutdown, Sight, Stopping};
use crate::signal::stream::{Listener, Signals};
use crate::signal::{self, Phase, Reaction, reaper};

/// Carries the plan out.
#[must_use]
pub fn run(
    plan: &SidecarPlan,
    ready_file: Option<&Path>,
    shutdown: &Shutdown,
    mounts: &Mounts,
    signals: &Signals,
) -> Outcome {
    guarded(|| carry_out(plan, ready_file, shutdown, mounts, signals))
}

fn carry_out(
    plan: &SidecarPlan,
    ready_file: Option<&Path>,
    shutdown: &Shutdown,
    mounts: &Mounts,
    signals: &Signals,
) -> anyhow::Result<Outcome> {
    let companion = match Companion::start(plan, mounts, signals, false) {
        Ok(companion) => companion,
        Err(outcome) => return Ok(outcome),
    };
    if let Some(path) = ready_file {
        // One of an earlier run would let the main containers start too early.
        if let Err(error) = remove(path).and_then(|()| try_beside(path)) {
            return Ok(cannot_write(path)(error));
        }
    }
    let helper = Helper { companion };
    match helper.companion.gate()? {
        Gated::Over(outcome) => Ok(outcome),
        Gated::Pointless(snapshot, code) => helper.end_others(&snapshot, code, shutdown),
        Gated::Open => helper.help(ready_file, shutdown),
    }
}

struct Helper<'a> {
    companion: Companion<'a>,
}

impl Helper<'_> {
    fn help(&self, ready_file: Option<&Path>, shutdown: &Shutdown) -> anyhow::Result<Outcome> {
        if let Some(path) = ready_file {
            if let Err(error) = touch(path) {
                return Ok(cannot_write(path)(error));
            }
            info!("wrote {}", path.display());
        }
        self.companion.board.helping(true);
        let waited = runtime()?.block_on(async {
            let mut signals = self.companion.signals.listen().context("cannot listen for signals")?;
            let waited = self.wait_for_mains(&mut signals);
            anyhow::Ok(self.companion.server.during(&self.companion.board, waited).await)
        })?;
        self.companion.board.helping(false);
        match waited {
            Waited::Ended(snapshot, code) => self.end_others(&snapshot, code, shutdown),
            Waited::Over(outcome) => Ok(outcome),
        }
    }

    /// Ends the other sidecars, once the main containers have ended. `code`: the worst of theirs.
    fn end_others(&self, snapshot: &Snapshot, code: i32, shutdown: &Shutdown) -> anyhow::Result<Outcome> {
        let code = u8::try_from(code).unwrap_or(u8::MAX);
        match shutdown::decide(shutdown.when, code, None) {
            Decision::Keep(why) => info!("sidecars are left running: {why}"),
            Decision::End => runtime()?.block_on(async {
                let mut signals = self.companion.signals.listen().context("cannot listen for signals")?;
                let own_pod = self.companion.own_pod.as_ref();
                let message = Message { container: snapshot.own.name.clone(), code };
                let peers = Peers { message, ..Peers::default() };
                let sight =
                    Sight { snapshot: Some(snapshot), own_pod, stopping: Stopping::No, peers: &peers };
                let ended = shutdown::run(shutdown, sight, &mut signals, &self.companion.board);
                self.companion.server.during(&self.companion.board, ended).await;
                anyhow::Ok(())
            })?,
        }
        Ok(Outcome::ShutDown)
    }

    /// Waits until the main containers have ended for good, or somebody asks for our end.
    async fn wait_for_mains(&self, signals: &mut Listener<'_>) -> Waited {
        let Some(own_pod) = &self.companion.own_pod else {
            return Waited::Over(Outcome::ShutDown);
        };
        let mut observations = own_pod.watch();
        let mut doubt = Doubt::default();
        let mut mains = None;
        let mut stop = None;
        let mut quit_asked = pin!(self.companion.quit_asked());
        loop {
            let observation = tokio::select! {
                biased;
                received = signals.next() => match received {
                    Ok(signal) => match signal::reaction(Phase::Shutdown { stop }, signal) {
                        Reaction::Stop => {
                            info!(%signal, "asked to end");
                            return Waited::Over(Outcome::ShutDown);
                        }
                        Reaction::Reap => {
                            reaper::reap_orphans();
                            continue;
                        }
                        _ => continue,
                    },
                    Err(error) => return Waited::Over(Outcome::Failed(error.into())),
                },
                () = &mut quit_asked => return Waited::Over(Outcome::ShutDown),
                Some(observation) = observations.next() => observation,
            };
            match observation {
                Observation::Gone => return Waited::Over(Outcome::ShutDown),
                Observation::Trouble(trouble) if doubt.about(&trouble) >= GRACE => {
                    return Waited::Over(Outcome::Refused(Refusal::Api(trouble)));
                }
                Observation::Trouble(_) => {}
                Observation::Seen(snapshot) => {
                    doubt.dispel();
                    stop = snapshot.own.stop_signal;
                    if mains.is_none() {
                        match mains::find(&snapshot, &self.companion.plan.mains) {
                            Ok(found) => mains = Some(announce(&found)),
                            Err(misplaced) => return Waited::Over(Outcome::Misplaced(misplaced)),
                        }
                    }
                    match mains::progress(&snapshot, mains.as_deref().unwrap_or_default()) {
                        Progress::Running(_) => {}
                        // No connection is kept for what will not come.
                        Progress::Endless => observations = stream::pending().boxed(),
                        Progress::Ended(code) => {
                            info!("the main containers have ended");
                            return Waited::Ended(snapshot, code);
                        }
                        Progress::Failed(name, exit) => {
                            warn!(
                                "`{name}` ended with {exit}: sidecars are left running (--until-exit-success)"
                            );
                            return Waited::Over(Outcome::ShutDown);
                        }
                    }
                }
            }
        }
    }
}

/// What a wait for the main containers came to.
enum Waited {
    /// They have ended; the Pod as it was then, and the worst of their exit codes.
    Ended(Snapshot, i32),
    /// There is nothing more to do.
    Over(Outcome),
}

fn touch(path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create(true).truncate(true).open(path).map(drop)
}

/// Whether the file could be written, by another name: who waits for it is not to see it.
fn try_beside(path: &Path) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(".proa");
    let other = path.with_file_name(hidden);
    touch(&other)?;
    remove(&other)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn cannot_write(path: &Path) -> impl Fn(io::Error) -> Outcome {
    let path = path.to_owned();
    move |error| Outcome::NoReadyFile(path.clone(), error)
}
