//! `proa -- COMMAND`: gate, command, shutdown, outcome.

use anyhow::Context;
use tokio::time::Instant;
use tracing::info;

use super::{appear, give_memory_back, guarded, own_pod, runtime};
use crate::child;
use crate::cluster::OwnPod;
use crate::env_file;
use crate::exit::Outcome;
use crate::gate::{self, Access, Api, Cause, Closed, Opened};
use crate::identity::Mounts;
use crate::peer::{Message, Peers, Presence};
use crate::plan::Plan;
use crate::pod::Snapshot;
use crate::shutdown::{self, Decision, Sight, Stopping};
use crate::signal::stream::Signals;
use crate::status::board::Board;
use crate::status::{Quit, Server};

/// Carries the plan out.
#[must_use]
pub fn run(plan: &Plan, mounts: &Mounts, signals: &Signals) -> Outcome {
    guarded(|| carry_out(plan, mounts, signals))
}

fn carry_out(plan: &Plan, mounts: &Mounts, signals: &Signals) -> anyhow::Result<Outcome> {
    let presence = match appear(mounts) {
        Ok(presence) => presence,
        // The other one ends the sidecars.
        Err(outcome) => return Ok(outcome),
    };
    let start = || -> Result<_, Outcome> {
        let server = Server::bind(plan.status, Quit::None).map_err(Outcome::NoStatus)?;
        let own_pod = own_pod(&plan.claim, &plan.api, mounts, plan.api_is_dispensable())?;
        Ok((server, own_pod))
    };
    let (server, own_pod, unable) = match start() {
        Ok((server, own_pod)) => (server, own_pod, None),
        Err(outcome) => (Server::none(), None, Some(outcome)),
    };
    let run = Run { plan, mounts, own_pod, signals, server, board: Board::default(), _presence: presence };
    let end = match unable {
        None => run.gate_and_command()?,
        Some(outcome) => End { outcome, snapshot: None, access: Access::None, stopping: Stopping::No },
    };
    run.board.gate_over();
    run.end_sidecars(&end)?;
    Ok(end.outcome)
}

/// What every phase needs.
struct Run<'a> {
    plan: &'a Plan,
    mounts: &'a Mounts,
    own_pod: Option<OwnPod>,
    signals: &'a Signals,
    server: Server,
    board: Board,
    /// Ends with us, which is what the others wait for.
    _presence: Option<Presence>,
}

/// How gate and command came to their end.
struct End {
    outcome: Outcome,
    /// The Pod as the gate last saw it.
    snapshot: Option<Snapshot>,
    /// Whether the API server is to be asked again.
    access: Access,
    stopping: Stopping,
}

impl Run<'_> {
    fn gate_and_command(&self) -> anyhow::Result<End> {
        let waiting = runtime()?;
        let passed = waiting.block_on(async {
            let mut signals = self.signals.listen().context("cannot listen for signals")?;
            let api = match &self.own_pod {
                None => Api::NoEndpoint,
                Some(own_pod) if self.plan.api_is_dispensable() => Api::Dispensable(own_pod.watch()),
                Some(own_pod) => Api::Needed(own_pod.watch()),
            };
            let passed = gate::pass(&self.plan.gate, api, &mut signals, &self.board);
            anyhow::Ok(self.server.during(&self.board, passed).await)
        })?;
        let Opened { snapshot, access, held, waits } = match passed {
            Ok(opened) => opened,
            Err(Closed { snapshot, access, cause }) => {
                let stopping = match cause {
                    Cause::Stopped(_) => Stopping::BeforeCommand(Instant::now()),
                    Cause::Refused(_) | Cause::Failed(_) => Stopping::No,
                };
                return Ok(End { outcome: cause.into(), snapshot, access, stopping });
            }
        };
        self.board.gate_over();
        let variables = match env_file::read_in_time(&self.plan.command.env_files) {
            Ok(variables) => variables,
            Err(unusable) => {
                let outcome = Outcome::EnvFile(unusable);
                return Ok(End { outcome, snapshot, access, stopping: Stopping::No });
            }
        };
        // The command first: it does not wait for what it costs to tidy up.
        let spawned = child::spawn(&self.plan.command, &variables);
        drop((waits, waiting, variables));
        let child = match spawned {
            Ok(child) => {
                self.board.command_started();
                info!(pid = child.pid().as_raw(), program = %self.plan.command.program.display(), "command started");
                child
            }
            Err(why) => {
                let program = self.plan.command.program.to_string_lossy().into_owned();
                return Ok(End {
                    outcome: Outcome::NotStarted { program, why },
                    snapshot,
                    access,
                    stopping: Stopping::No,
                });
            }
        };
        for signal in held {
            child.forward(signal);
        }
        give_memory_back();
        let stop = snapshot.as_ref().and_then(|snapshot| snapshot.own.stop_signal);
        let (ended, stopping) = runtime()?.block_on(async {
            let mut signals = self.signals.listen().context("cannot listen for signals")?;
            let ended = child.wait(&mut signals, stop);
            self.server.during(&self.board, ended).await.context("cannot receive signals")
        })?;
        self.board.command_ended();
        info!("command ended: {ended}");
        let stopping = stopping.map_or(Stopping::No, Stopping::DuringCommand);
        Ok(End { outcome: Outcome::Ended(ended), snapshot, access, stopping })
    }

    fn end_sidecars(&self, end: &End) -> anyhow::Result<()> {
        match shutdown::decide(self.plan.shutdown.when, end.outcome.code(), end.snapshot.as_ref()) {
            Decision::Keep(why) => {
                info!("sidecars are left running: {why}");
                Ok(())
            }
            Decision::End => runtime()?.block_on(async {
                let mut signals = self.signals.listen().context("cannot listen for signals")?;
                let own_pod = self.own_pod.as_ref().filter(|_| end.access == Access::Usable);
                let snapshot = end.snapshot.as_ref();
                let seen = snapshot.map(|snapshot| (&snapshot.uid, &snapshot.own.name));
                let own = seen.or(self.mounts.uid.as_ref().zip(self.mounts.container.as_ref()));
                let peers = own.map_or_else(Peers::default, |(uid, container)| {
                    Peers::beside(uid, Message { container: container.clone(), code: end.outcome.code() })
                });
                let sight = Sight { snapshot, own_pod, stopping: end.stopping, peers: &peers };
                let ended = shutdown::run(&self.plan.shutdown, sight, &mut signals, &self.board);
                self.server.during(&self.board, ended).await;
                Ok(())
            }),
        }
    }
}
