//! `proa sidecar -- COMMAND`: the entrypoint of a sidecar, whose command ends with the main containers.

mod supervise;

use anyhow::Context;
use nix::unistd::Pid;
use tracing::{info, warn};

use super::companion::{Companion, Gated};
use super::{PhaseRuntime, unable_sidecar};
use crate::child::{self, Child, Command};
use crate::env_file::{self, EnvFiles};
use crate::exit::Outcome;
use crate::identity::Mounts;
use crate::memory;
use crate::plan::sidecar::{SidecarPlan, Stop};
use crate::policy::AskApi;
use crate::shortage::insist;
use crate::signal::stream::{Listener, Signals};
use crate::signal::{Phase, Received};
use crate::telemetry::LogPhase;

/// What a sidecar runs, and how that is stopped.
#[derive(Debug, Clone, Copy)]
pub struct CommandDuty<'a> {
    /// What is run.
    pub command: &'a Command,
    /// Variables for it.
    pub env_files: &'a EnvFiles,
    /// How it is stopped.
    pub stop: Stop,
    /// Its process, if it runs already: proa has started over.
    pub running: Option<Pid>,
}

/// Carries the plan out.
#[must_use]
pub fn run(plan: &SidecarPlan, duty: CommandDuty<'_>, mounts: &Mounts, signals: &Signals) -> Outcome {
    carry_out(plan, duty, mounts, signals).unwrap_or_else(Outcome::Failed)
}

fn carry_out(
    plan: &SidecarPlan,
    duty: CommandDuty<'_>,
    mounts: &Mounts,
    signals: &Signals,
) -> anyhow::Result<Outcome> {
    // A command needs its main container's proa alone, unless it waits for containers.
    let dispensable = plan.gate.selection.wait_for.is_empty() && plan.api.ask != AskApi::Require;
    let companion = match Companion::start(plan, mounts, signals, dispensable) {
        Ok(companion) => companion,
        Err(outcome) => return Ok(outcome),
    };
    if let Some(pid) = duty.running {
        warn!("proa panicked, which is a bug: it has started over, and goes on with the command");
        let child = Child::resumed(pid, duty.command.forward_to);
        // Its end can be seen without what may be short.
        return match insist(|| companion.runtime(), || child.collect()) {
            Ok(running) => until_its_end(&companion, child, duty.stop, running),
            Err(ended) => Ok(Outcome::Ended(ended)),
        };
    }
    match companion.gate() {
        Ok(Gated::Over(outcome) | Gated::Refused(outcome)) => Ok(outcome),
        Ok(Gated::Pointless(..) | Gated::Abandoned(_)) => Ok(Outcome::ShutDown),
        Ok(Gated::Open) => supervised(&companion, duty),
        Err(error) => Ok(unable_sidecar(error)),
    }
}

fn supervised(companion: &Companion<'_>, duty: CommandDuty<'_>) -> anyhow::Result<Outcome> {
    let CommandDuty { command, env_files, stop, .. } = duty;
    let _phase = LogPhase::Command.enter();
    let (waiting, mut signals) = match companion.runtime() {
        Ok(made) => made,
        Err(error) => return Ok(unable_sidecar(error)),
    };
    let variables = waiting.block_on(async {
        let read = async {
            let phase = Phase::Gate { stop: companion.stop_signal.get() };
            tokio::select! {
                stopped = signals.stop(phase) => Err(stopped.map_or_else(|error| Outcome::Failed(error.into()), before)),
                read = env_file::read(env_files) => match signals.stopped(phase) {
                    Ok(None) => read.map_err(Outcome::EnvFile),
                    Ok(Some(received)) => Err(before(received)),
                    Err(error) => Err(Outcome::Failed(error.into())),
                },
            }
        };
        companion.server.during(&companion.board, read).await
    });
    // It may be what there is not enough of for the next.
    drop((signals, waiting));
    let variables = match variables {
        Ok(variables) => variables,
        Err(outcome) => return Ok(outcome),
    };
    // What may fail comes before the command, which would end with us.
    let running = match companion.runtime() {
        Ok(running) => running,
        Err(error) => return Ok(unable_sidecar(error)),
    };
    let child = match child::spawn(command, &variables) {
        Ok(child) => child,
        Err(why) => {
            let program = command.program.to_string_lossy().into_owned();
            return Ok(Outcome::NotStarted { program, why });
        }
    };
    companion.board.command_started();
    info!(pid = child.pid().as_raw(), program = %command.program.display(), "command started");
    drop(variables);
    memory::give_back();
    until_its_end(companion, child, stop, running)
}

fn until_its_end(
    companion: &Companion<'_>,
    child: Child,
    stop: Stop,
    (running, mut signals): (PhaseRuntime, Listener<'_>),
) -> anyhow::Result<Outcome> {
    let outcome = running.block_on(async {
        let supervised = supervise::until_its_end(companion, child, stop, &mut signals);
        companion.server.during(&companion.board, supervised).await.context("cannot receive signals")
    });
    companion.board.command_ended();
    outcome
}

/// Asked to stop before there is a command to pass that on to.
fn before(received: Received) -> Outcome {
    info!(signal = %received.signal, "asked to stop before the command started");
    Outcome::ShutDown
}
