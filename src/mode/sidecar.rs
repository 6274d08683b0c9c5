//! `proa sidecar -- COMMAND`: the entrypoint of a sidecar, whose command ends with the main containers.

mod supervise;

use anyhow::Context;
use tracing::info;

use super::companion::{Companion, Gated};
use super::{give_memory_back, guarded, runtime};
use crate::child::{self, Command};
use crate::env_file;
use crate::exit::Outcome;
use crate::identity::Mounts;
use crate::plan::sidecar::{SidecarPlan, Stop};
use crate::policy::AskApi;
use crate::signal::stream::Signals;

/// Carries the plan out.
#[must_use]
pub fn run(plan: &SidecarPlan, command: &Command, stop: Stop, mounts: &Mounts, signals: &Signals) -> Outcome {
    guarded(|| carry_out(plan, command, stop, mounts, signals))
}

fn carry_out(
    plan: &SidecarPlan,
    command: &Command,
    stop: Stop,
    mounts: &Mounts,
    signals: &Signals,
) -> anyhow::Result<Outcome> {
    // A command needs its main container's proa alone, unless it waits for containers.
    let dispensable = plan.gate.selection.wait_for.is_empty() && plan.api.ask != AskApi::Require;
    let companion = match Companion::start(plan, mounts, signals, dispensable) {
        Ok(companion) => companion,
        Err(outcome) => return Ok(outcome),
    };
    match companion.gate()? {
        Gated::Over(outcome) => Ok(outcome),
        Gated::Pointless(..) => Ok(Outcome::ShutDown),
        Gated::Open => supervised(&companion, command, stop),
    }
}

fn supervised(companion: &Companion<'_>, command: &Command, stop: Stop) -> anyhow::Result<Outcome> {
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
    companion.board.command_started();
    info!(pid = child.pid().as_raw(), program = %command.program.display(), "command started");
    drop(variables);
    give_memory_back();
    let outcome = runtime()?.block_on(async {
        let mut signals = companion.signals.listen().context("cannot listen for signals")?;
        let supervised = supervise::until_its_end(companion, child, stop, &mut signals);
        companion.server.during(&companion.board, supervised).await.context("cannot receive signals")
    });
    companion.board.command_ended();
    outcome
}
