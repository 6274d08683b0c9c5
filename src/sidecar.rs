//! The sequencer of a sidecar: gate, then a command that ends with the main containers, or help for them.

pub mod mains;
mod supervise;

use std::cell::RefCell;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;
use std::pin::pin;

use anyhow::Context;
use futures::future::pending;
use futures::stream::{self, StreamExt};
use tracing::{debug, error, info, warn};

use crate::child::{self, reaper};
use crate::cluster::{Doubt, GRACE, Observation, OwnPod};
use crate::env_file;
use crate::exit::Outcome;
use crate::gate::{self, Api, Cause, Closed, Opened, Refusal};
use crate::identity::Mounts;
use crate::peer::{Ear, Peers, Presence, Word};
use crate::plan::sidecar::{Awaited, Duty, SidecarPlan, Stop};
use crate::plan::{Command, Shutdown};
use crate::pod::{Snapshot, list};
use crate::policy::AskApi;
use crate::run::{appear, give_memory_back, guarded, own_pod, runtime};
use crate::shutdown::{self, Decision, Sight, Stopping};
use crate::signal::stream::{Listener, Signals};
use crate::signal::{self, Phase, Reaction};
use crate::status::board::Board;
use crate::status::{Quit, Server};
use mains::{Progress, Said};

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
            remove(path).and_then(|()| try_beside(path)).map_err(cannot_write(path))?;
        }
        let server = Server::bind(plan.status, Quit::Offered).map_err(Outcome::NoStatus)?;
        // A command needs its main container's proa alone, unless it waits for containers.
        let dispensable = matches!(plan.duty, Duty::Command(..))
            && plan.gate.selection.wait_for.is_empty()
            && plan.api.ask != AskApi::Require;
        let own_pod = own_pod(&plan.claim, &plan.api, mounts, dispensable)?;
        Ok((presence, ear, server, own_pod))
    };
    let (presence, ear, server, own_pod) = match start() {
        Ok(started) => started,
        Err(outcome) => return Ok(outcome),
    };
    let uid = mounts.uid.clone();
    let run = Run {
        plan,
        own_pod,
        signals,
        server,
        board: Board::default(),
        _presence: presence,
        ear,
        said: RefCell::default(),
        uid,
    };
    match (run.gate()?, &plan.duty) {
        (Gated::Over(outcome), _) => Ok(outcome),
        (Gated::Pointless(..), Duty::Command(..)) => Ok(Outcome::AsAsked),
        (Gated::Pointless(snapshot, code), Duty::Help { shutdown, .. }) => {
            run.end_others(&snapshot, code, shutdown)
        }
        (Gated::Open, Duty::Command(command, stop)) => run.command(command, *stop),
        (Gated::Open, Duty::Help { ready_file, shutdown }) => run.help(ready_file.as_deref(), shutdown),
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
    said: RefCell<Said>,
    /// The Pod's UID, where the kubelet's mounts tell it.
    uid: Option<String>,
}

impl Run<'_> {
    /// Waits for what is asked for, if anything. Sidecars do not wait for one another by themselves.
    fn gate(&self) -> anyhow::Result<Gated> {
        let gate = &self.plan.gate;
        if !gate.asks_directly() && gate.selection.wait_for.is_empty() {
            self.board.gate_over();
            return Ok(Gated::Open);
        }
        let waiting = runtime()?;
        let gated = waiting.block_on(async {
            let mut signals = self.signals.listen().context("cannot listen for signals")?;
            let api = match &self.own_pod {
                Some(own_pod) if !gate.selection.wait_for.is_empty() => Api::Needed(own_pod.watch()),
                _ => Api::Unasked,
            };
            let passed = gate::pass(gate, api, &mut signals, &self.board);
            let gated = async {
                tokio::select! {
                    // First: what else is waited for may have ended with them, which is no failure then.
                    biased;
                    (snapshot, code) = self.mains_ended() => Gated::Pointless(Box::new(snapshot), code),
                    passed = passed => passed.into(),
                    () = self.quit_asked() => Gated::Over(Outcome::AsAsked),
                }
            };
            anyhow::Ok(self.server.during(&self.board, gated).await)
        })?;
        self.board.gate_over();
        Ok(gated)
    }

    /// Waits until the main containers have ended, whatever else is waited for. Never ends where that cannot be seen.
    async fn mains_ended(&self) -> (Snapshot, i32) {
        let mut observations = match &self.own_pod {
            Some(own_pod) => own_pod.watch(),
            None => stream::pending().boxed(),
        };
        while let Some(observation) = observations.next().await {
            let Observation::Seen(snapshot) = observation else { continue };
            // What is wrong with the names is said once it matters.
            let Ok(mains) = mains::find(&snapshot, &self.plan.mains) else { continue };
            match mains::progress(&snapshot, &mains) {
                Progress::Ended(code) => {
                    info!("the main containers have ended");
                    return (snapshot, code);
                }
                Progress::Endless => break,
                Progress::Running(_) | Progress::Failed(..) => {}
            }
        }
        pending().await
    }

    fn command(&self, command: &Command, stop: Stop) -> anyhow::Result<Outcome> {
        let variables = match env_file::read_in_time(&command.env_files) {
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
                let mut signals = self.signals.listen().context("cannot listen for signals")?;
                let own_pod = self.own_pod.as_ref();
                let word = Word { container: snapshot.main.name.clone(), code };
                let peers = Peers { word, ..Peers::default() };
                let sight =
                    Sight { snapshot: Some(snapshot), own_pod, stopping: Stopping::No, peers: &peers };
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
                        Progress::Endless => observations = stream::pending().boxed(),
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
                match ear.asked(|word| self.said.borrow_mut().take(word, &self.plan.mains)).await {
                    Ok(()) => return,
                    Err(error) => error!(%error, "cannot hear the other proas of this Pod"),
                }
            }
            pending::<()>().await;
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

/// What came of the gate.
enum Gated {
    Open,
    /// The main containers ended meanwhile; the Pod as it was then, and the worst of their exit codes.
    Pointless(Box<Snapshot>, i32),
    /// There is nothing more to do.
    Over(Outcome),
}

impl From<Result<Opened, Closed>> for Gated {
    fn from(passed: Result<Opened, Closed>) -> Self {
        match passed {
            Ok(_) => Self::Open,
            Err(Closed { cause: Cause::Stopped(signal), .. }) => {
                info!(%signal, "asked to end before the gate was open");
                Self::Over(Outcome::AsAsked)
            }
            Err(Closed { cause, .. }) => Self::Over(cause.into()),
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
