//! The sequencer of a sidecar: gate, then a command that ends with the main containers, or help for them.

pub mod mains;
mod supervise;

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;
use std::pin::pin;

use anyhow::Context;
use futures::StreamExt;
use tracing::{debug, error, info, warn};

use crate::child::{self, reaper};
use crate::cluster::{Doubt, GRACE, Observation, OwnPod};
use crate::env_file;
use crate::exit::Outcome;
use crate::gate::{self, Api, Cause, Closed, Refusal};
use crate::identity::Mounts;
use crate::peer::{Ear, Peers, Presence};
use crate::plan::sidecar::{Awaited, Duty, SidecarPlan, Stop};
use crate::plan::{Command, Shutdown};
use crate::pod::{Snapshot, list};
use crate::run::{appear, give_memory_back, guarded, own_pod, runtime};
use crate::shutdown::{self, Decision, Sight, Stopping};
use crate::signal::stream::{Listener, Signals};
use crate::signal::{self, Phase, Reaction};
use crate::status::board::Board;
use crate::status::{Quit, Server};
use mains::Progress;

/// Carries the plan out.
#[must_use]
pub fn run(plan: &SidecarPlan, mounts: &Mounts, signals: &Signals) -> Outcome {
    guarded(|| carry_out(plan, mounts, signals))
}

fn carry_out(plan: &SidecarPlan, mounts: &Mounts, signals: &Signals) -> anyhow::Result<Outcome> {
    let start = || -> Result<_, Outcome> {
        let presence = appear(mounts)?;
        let ear = presence.as_ref().and_then(|presence| {
            let unheard = |error: &io::Error| debug!(%error, "cannot hear the other proas of this Pod");
            presence.hear().inspect_err(unheard).ok()
        });
        if let Duty::Help { ready_file: Some(path), .. } = &plan.duty {
            // One of an earlier run would let the main containers start too early.
            remove(path)
                .and_then(|()| touch(path))
                .and_then(|()| remove(path))
                .map_err(cannot_write(path))?;
        }
        let server = Server::bind(plan.status, Quit::Offered).map_err(Outcome::NoStatus)?;
        let dispensable = matches!(plan.duty, Duty::Command(..));
        let own_pod = own_pod(&plan.claim, &plan.api, mounts, dispensable)?;
        Ok((presence, ear, server, own_pod))
    };
    let (presence, ear, server, own_pod) = match start() {
        Ok(started) => started,
        Err(outcome) => return Ok(outcome),
    };
    let uid = mounts.uid.clone();
    let run = Run { plan, own_pod, signals, server, board: Board::default(), _presence: presence, ear, uid };
    if let Some(outcome) = run.gate()? {
        return Ok(outcome);
    }
    match &plan.duty {
        Duty::Command(command, stop) => run.command(command, *stop),
        Duty::Help { ready_file, shutdown } => run.help(ready_file.as_deref(), shutdown),
    }
}

/// What every phase needs.
struct Run<'a> {
    plan: &'a SidecarPlan,
    own_pod: Option<OwnPod>,
    signals: &'a Signals,
    server: Server,
    board: Board,
    /// Ends with us, which is what the others wait for.
    _presence: Option<Presence>,
    ear: Option<Ear>,
    /// The Pod's UID, where the kubelet's mounts tell it.
    uid: Option<String>,
}

impl Run<'_> {
    /// Waits for what is asked for, if anything. Sidecars do not wait for one another by themselves.
    fn gate(&self) -> anyhow::Result<Option<Outcome>> {
        let gate = &self.plan.gate;
        if !gate.asks_directly() && gate.selection.wait_for.is_empty() {
            self.board.gate_over();
            return Ok(None);
        }
        let waiting = runtime()?;
        let passed = waiting.block_on(async {
            let mut signals = self.signals.listen().context("cannot listen for signals")?;
            let api = match &self.own_pod {
                Some(own_pod) if !gate.selection.wait_for.is_empty() => Api::Needed(own_pod.watch()),
                _ => Api::Unasked,
            };
            let passed = gate::pass(gate, api, &mut signals, &self.board);
            let passed_or_asked = async {
                tokio::select! {
                    passed = passed => Some(passed),
                    () = self.quit_asked() => None,
                }
            };
            anyhow::Ok(self.server.during(&self.board, passed_or_asked).await)
        })?;
        self.board.gate_over();
        match passed {
            None => Ok(Some(Outcome::AsAsked)),
            Some(Ok(opened)) => {
                info!(after = %format!("{:.3}s", opened.after.as_secs_f64()), "gate open");
                Ok(None)
            }
            Some(Err(Closed { cause: Cause::Stopped(signal), .. })) => {
                info!(%signal, "asked to end before the gate was open");
                Ok(Some(Outcome::AsAsked))
            }
            Some(Err(Closed { cause, .. })) => Ok(Some(cause.into())),
        }
    }

    fn command(&self, command: &Command, stop: Stop) -> anyhow::Result<Outcome> {
        let variables = match runtime()?.block_on(env_file::read_in_time(&command.env_files)) {
            Ok(variables) => variables,
            Err(unusable) => return Ok(Outcome::EnvFile(unusable)),
        };
        let child = match child::spawn(command, &variables) {
            Ok(child) => child,
            Err(why) => {
                let program = command.program.to_string_lossy().into_owned();
                return Ok(Outcome::NotStarted { program, why });
            }
        };
        self.board.command_started();
        info!(pid = child.pid().as_raw(), program = %command.program.display(), "command started");
        drop(variables);
        give_memory_back();
        let outcome = runtime()?.block_on(async {
            let mut signals = self.signals.listen().context("cannot listen for signals")?;
            let supervised = supervise::until_its_end(self, child, stop, &mut signals);
            self.server.during(&self.board, supervised).await.context("cannot receive signals")
        });
        self.board.command_ended();
        outcome
    }

    fn help(&self, ready_file: Option<&Path>, shutdown: &Shutdown) -> anyhow::Result<Outcome> {
        if let Some(path) = ready_file {
            if let Err(error) = touch(path) {
                return Ok(cannot_write(path)(error));
            }
            info!("wrote {}", path.display());
        }
        self.board.helping(true);
        let waited = runtime()?.block_on(async {
            let mut signals = self.signals.listen().context("cannot listen for signals")?;
            let waited = self.wait_for_mains(&mut signals);
            anyhow::Ok(self.server.during(&self.board, waited).await)
        })?;
        self.board.helping(false);
        let (snapshot, code) = match waited {
            Waited::Ended(snapshot, code) => (snapshot, code),
            Waited::Over(outcome) => return Ok(outcome),
        };
        match shutdown::decide(shutdown.when, u8::try_from(code).unwrap_or(u8::MAX), None) {
            Decision::Keep(why) => info!("sidecars are left running: {why}"),
            Decision::End => runtime()?.block_on(async {
                let mut signals = self.signals.listen().context("cannot listen for signals")?;
                let own_pod = self.own_pod.as_ref();
                let sight = Sight {
                    snapshot: Some(&snapshot),
                    own_pod,
                    stopping: Stopping::No,
                    peers: &Peers::default(),
                };
                let ended = shutdown::run(shutdown, sight, &mut signals, &self.board);
                self.server.during(&self.board, ended).await;
                anyhow::Ok(())
            })?,
        }
        Ok(Outcome::AsAsked)
    }

    /// Waits until the main containers have ended for good, or somebody asks for our end.
    async fn wait_for_mains(&self, signals: &mut Listener<'_>) -> Waited {
        let Some(own_pod) = &self.own_pod else {
            return Waited::Over(Outcome::AsAsked);
        };
        let mut observations = own_pod.watch();
        let mut doubt = Doubt::default();
        let mut mains = None;
        let mut stop = None;
        let mut quit_asked = pin!(self.quit_asked());
        loop {
            let observation = tokio::select! {
                biased;
                received = signals.next() => match received {
                    Ok(signal) => match signal::reaction(Phase::Shutdown { stop }, signal) {
                        Reaction::Stop => {
                            info!(%signal, "asked to end");
                            return Waited::Over(Outcome::AsAsked);
                        }
                        Reaction::Reap => {
                            reaper::reap_orphans();
                            continue;
                        }
                        _ => continue,
                    },
                    Err(error) => return Waited::Over(Outcome::Failed(error.into())),
                },
                () = &mut quit_asked => return Waited::Over(Outcome::AsAsked),
                Some(observation) = observations.next() => observation,
            };
            match observation {
                Observation::Gone => return Waited::Over(Outcome::AsAsked),
                Observation::Trouble(trouble) if doubt.about(&trouble) >= GRACE => {
                    return Waited::Over(Outcome::Refused(Refusal::Api(trouble)));
                }
                Observation::Trouble(_) => {}
                Observation::Seen(snapshot) => {
                    doubt.dispel();
                    stop = snapshot.main.stop_signal;
                    if mains.is_none() {
                        match mains::find(&snapshot, &self.plan.mains) {
                            Ok(found) => mains = Some(announce(&found)),
                            Err(misplaced) => return Waited::Over(Outcome::Misplaced(misplaced)),
                        }
                    }
                    match mains::progress(&snapshot, mains.as_deref().unwrap_or_default()) {
                        Progress::Running(_) => {}
                        // No connection is kept for what will not come.
                        Progress::Endless => observations = futures::stream::pending().boxed(),
                        Progress::Ended(code) => {
                            info!("the main containers have ended");
                            return Waited::Ended(snapshot, code);
                        }
                        Progress::Failed(name, exit) => {
                            warn!(
                                "`{name}` ended with {exit}: sidecars are left running (--until-exit-success)"
                            );
                            return Waited::Over(Outcome::AsAsked);
                        }
                    }
                }
            }
        }
    }

    /// Waits until another proa of the Pod, or a client of the status endpoint, asks for our end.
    async fn quit_asked(&self) {
        let by_peer = async {
            if let Some(ear) = &self.ear {
                match ear.asked(|by| mains::all_ask(&self.plan.mains, by)).await {
                    Ok(()) => return,
                    Err(error) => error!(%error, "cannot hear the other proas of this Pod"),
                }
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = by_peer => info!("the main container's proa asks for the end"),
            () = self.server.quit_asked() => info!("asked to end at /quitquitquit"),
        }
    }
}

/// Says whose end is waited for.
fn announce(mains: &[Awaited]) -> Vec<Awaited> {
    let names: Vec<_> = mains.iter().map(|main| main.name.as_str()).collect();
    if names.is_empty() {
        info!("this is a native sidecar, which the kubelet ends");
    } else {
        info!("until {} has ended", list(&names));
    }
    mains.to_vec()
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
