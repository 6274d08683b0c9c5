//! `proa -- COMMAND`: gate, command, shutdown, outcome.

pub mod mistake;

use std::time::Instant;

use anyhow::Context;
use tracing::info;

use super::{
    afterwards, announce_disabled, appear, collect_orphans, give_memory_back, guarded, is_outside, own_pod,
    runtime,
};
use crate::budget::StopRequests;
use crate::child::{self, Variables};
use crate::cluster::OwnPod;
use crate::env_file;
use crate::exit::Outcome;
use crate::gate::{self, Api, Cause, Closed, Opened};
use crate::identity::Mounts;
use crate::peer::{Message, Peers, Presence};
use crate::plan::Plan;
use crate::pod::Snapshot;
use crate::shutdown::{self, After, Decision};
use crate::signal::Phase;
use crate::signal::stream::{Listener, Signals};
use crate::status::board::Board;
use crate::status::{Quit, Server};

/// Carries the plan out.
#[must_use]
pub fn run(plan: &Plan, mounts: &Mounts, signals: &Signals) -> Outcome {
    let presence = if plan.disabled {
        announce_disabled();
        collect_orphans();
        None
    } else {
        match appear(mounts) {
            Ok(presence) => presence,
            // The other one ends the sidecars.
            Err(outcome) => return outcome,
        }
    };
    let (own_pod, no_pod) = match own_pod(&plan.claim, &plan.api, mounts, plan.api_is_dispensable()) {
        Ok(own_pod) => (own_pod, None),
        Err(outcome) => (None, Some(outcome)),
    };
    let (server, no_server) = match Server::bind(plan.status, Quit::None) {
        Ok(server) => (server, None),
        Err(unbound) => (Server::none(), Some(Outcome::NoStatus(unbound))),
    };
    let unable = no_server.or(no_pod);
    let run = Run { plan, mounts, own_pod, signals, server, board: Board::default(), _presence: presence };
    let end = match unable {
        None => {
            guarded(|| run.gate_and_command()).unwrap_or_else(|error| End::of(Outcome::Failed(error), None))
        }
        Some(outcome) => End::of(outcome, None),
    };
    run.board.gate_over();
    let code = end.outcome.code();
    let End { outcome, snapshot, after, asked } = end;
    afterwards(|| run.end_sidecars(code, snapshot, after, asked));
    outcome
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
    after: After,
    asked: StopRequests,
}

impl End {
    /// One that nobody asked for.
    fn of(outcome: Outcome, snapshot: Option<Snapshot>) -> Self {
        Self { outcome, snapshot, after: After::Command, asked: StopRequests::default() }
    }

    fn closed(Closed { snapshot, cause }: Closed) -> Self {
        match cause {
            Cause::Stopped(_) => {
                let mut asked = StopRequests::default();
                asked.note(Instant::now());
                Self { outcome: cause.into(), snapshot, after: After::EarlyStop, asked }
            }
            Cause::Refused(_) | Cause::Failed(_) => Self::of(cause.into(), snapshot),
        }
    }
}

impl Run<'_> {
    fn gate_and_command(&self) -> anyhow::Result<End> {
        let waiting = runtime()?;
        let passed = waiting.block_on(async {
            let mut signals = self.signals.listen().context("cannot listen for signals")?;
            let passed = self.gate(&mut signals);
            anyhow::Ok(self.server.during(&self.board, passed).await)
        })?;
        let (Opened { snapshot, waits }, variables) = match passed {
            Ok(passed) => passed,
            Err(end) => return Ok(*end),
        };
        self.board.gate_over();
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
                return Ok(End::of(Outcome::NotStarted { program, why }, snapshot));
            }
        };
        give_memory_back();
        let stop = snapshot.as_ref().and_then(|snapshot| snapshot.own.stop_signal);
        let (ended, asked) = runtime()?.block_on(async {
            let mut signals = self.signals.listen().context("cannot listen for signals")?;
            let ended = child.wait(&mut signals, stop);
            self.server.during(&self.board, ended).await.context("cannot receive signals")
        })?;
        self.board.command_ended();
        info!("command ended: {ended}");
        Ok(End { outcome: Outcome::Ended(ended), snapshot, after: After::Command, asked })
    }

    /// Waits for the sidecars, then for what they have written. Whoever asks us to stop meanwhile is obeyed: there is no
    /// command yet that could.
    async fn gate(&self, signals: &mut Listener<'_>) -> Result<(Opened, Variables), Box<End>> {
        let api = match &self.own_pod {
            None => Api::NotAsked,
            Some(own_pod) if self.plan.api_is_dispensable() => Api::Dispensable(own_pod.watch()),
            Some(own_pod) => Api::Needed(own_pod.watch()),
        };
        let closed = |closed| Box::new(End::closed(closed));
        let opened = gate::pass(&self.plan.gate, api, signals, &self.board).await.map_err(closed)?;
        let stop = opened.snapshot.as_ref().and_then(|snapshot| snapshot.own.stop_signal);
        let phase = Phase::Gate { stop };
        let read = tokio::select! {
            stopped = signals.stop(phase) => Err(stopped.map_or_else(|error| Cause::Failed(error.into()), Cause::Stopped)),
            read = env_file::read(&self.plan.env_files) => match signals.stopped(phase) {
                Ok(None) => Ok(read),
                Ok(Some(signal)) => Err(Cause::Stopped(signal)),
                Err(error) => Err(Cause::Failed(error.into())),
            },
        };
        match read {
            Ok(Ok(variables)) => Ok((opened, variables)),
            Ok(Err(unusable)) => Err(Box::new(End::of(Outcome::EnvFile(unusable), opened.snapshot))),
            Err(cause) => Err(closed(Closed { snapshot: opened.snapshot, cause })),
        }
    }

    fn end_sidecars(
        &self,
        code: u8,
        snapshot: Option<Snapshot>,
        after: After,
        mut asked: StopRequests,
    ) -> anyhow::Result<()> {
        // Outside Kubernetes nobody stays behind but what the flags name.
        let nobody = is_outside(&self.plan.api, self.mounts) && self.plan.shutdown.actions.is_empty();
        if self.plan.disabled || nobody {
            return Ok(());
        }
        let decide = |snapshot: Option<&Snapshot>| shutdown::decide(self.plan.shutdown.when, code, snapshot);
        // What was seen of the restart policy holds for good: no look is needed to leave the sidecars to a restart.
        if let Decision::Keep(why) = decide(snapshot.as_ref()) {
            info!("sidecars are left running: {why}");
            return Ok(());
        }
        runtime()?.block_on(async {
            let mut signals = self.signals.listen().context("cannot listen for signals")?;
            let ended = async {
                let sight = shutdown::look(self.own_pod.as_ref(), snapshot, &mut asked, &mut signals).await;
                if let Decision::Keep(why) = decide(sight.snapshot.as_ref()) {
                    info!("sidecars are left running: {why}");
                    return;
                }
                let seen = sight.snapshot.as_ref().map(|snapshot| (&snapshot.uid, &snapshot.own.name));
                let own = seen.or(self.mounts.uid.as_ref().zip(self.mounts.container.as_ref()));
                let peers = own.map_or_else(Peers::default, |(uid, container)| {
                    Peers::beside(uid, Message { container: container.clone(), code })
                });
                shutdown::run(&self.plan.shutdown, &sight, after, asked, &peers, &mut signals, &self.board)
                    .await;
            };
            self.server.during(&self.board, ended).await;
            Ok(())
        })
    }
}
