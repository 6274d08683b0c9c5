//! The sequencer: gate, command, shutdown, outcome.

use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Context, anyhow};
use tokio::runtime::{Builder, Runtime};
use tracing::info;

use crate::child::{self, reaper};
use crate::cluster::Cluster;
use crate::exit::Outcome;
use crate::gate::{self, Closed, Opened};
use crate::identity::{Identity, Mounts};
use crate::plan::Plan;
use crate::pod::Snapshot;
use crate::shutdown::{self, Decision};
use crate::signal::stream::Signals;

/// Carries the plan out.
#[must_use]
pub fn run(plan: &Plan, mounts: &Mounts, signals: &Signals) -> Outcome {
    // A bug of ours has an exit code of its own too; the panic itself is on stderr by then.
    catch_unwind(AssertUnwindSafe(|| carry_out(plan, mounts, signals)))
        .unwrap_or_else(|_| Err(anyhow!("proa panicked, which is a bug; its log has the place")))
        .unwrap_or_else(Outcome::Failed)
}

fn carry_out(plan: &Plan, mounts: &Mounts, signals: &Signals) -> anyhow::Result<Outcome> {
    reaper::become_subreaper().context("cannot become a subreaper")?;
    let cluster = match Cluster::new(&plan.api) {
        Ok(cluster) => cluster,
        Err(none) => return Ok(Outcome::NoApi(none)),
    };
    let identity = match Identity::find(&plan.claim, mounts, &plan.api.service_account) {
        Ok(identity) => identity,
        Err(unknown) => return Ok(Outcome::Unknown(unknown)),
    };
    let (snapshot, outcome) = gate_and_command(plan, &cluster, &identity, signals)?;
    end_sidecars(plan, snapshot.as_ref(), &outcome, &cluster, &identity, signals)?;
    Ok(outcome)
}

/// Each phase has a runtime of its own, so that its connections and memory end with it: while the command
/// runs, what is left are the signals.
fn runtime() -> anyhow::Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context("cannot start the runtime")
}

fn gate_and_command(
    plan: &Plan,
    cluster: &Cluster,
    identity: &Identity,
    signals: &Signals,
) -> anyhow::Result<(Option<Snapshot>, Outcome)> {
    let waiting = runtime()?;
    let passed = waiting.block_on(async {
        let mut signals = signals.listen().context("cannot listen for signals")?;
        anyhow::Ok(gate::pass(&plan.gate, cluster.watch(identity), &mut signals).await)
    })?;
    let Opened { snapshot, held } = match passed {
        Ok(opened) => opened,
        Err(Closed { snapshot, cause }) => return Ok((snapshot, cause.into())),
    };
    // The command first: whatever it costs to tidy up, it does not wait for that.
    let spawned = child::spawn(&plan.command);
    drop(waiting);
    let child = match spawned {
        Ok(child) => child,
        Err(why) => {
            let program = plan.command.program.to_string_lossy().into_owned();
            return Ok((snapshot, Outcome::NotStarted { program, why }));
        }
    };
    for signal in held {
        child.forward(signal);
    }
    give_memory_back();
    let ended = runtime()?.block_on(async {
        let mut signals = signals.listen().context("cannot listen for signals")?;
        child.wait(&mut signals).await.context("cannot receive signals")
    })?;
    info!("command ended: {ended}");
    Ok((snapshot, Outcome::Ended(ended)))
}

/// Returns freed memory to the system: the C library keeps it for an allocation that will not come while
/// the command runs.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "no library wraps this call")]
fn give_memory_back() {
    // SAFETY: takes one integer; thread-safe (malloc_trim(3)).
    unsafe { nix::libc::malloc_trim(0) };
}

/// Other C libraries return freed memory on their own.
#[cfg(not(target_env = "gnu"))]
fn give_memory_back() {}

fn end_sidecars(
    plan: &Plan,
    snapshot: Option<&Snapshot>,
    outcome: &Outcome,
    cluster: &Cluster,
    identity: &Identity,
    signals: &Signals,
) -> anyhow::Result<()> {
    match shutdown::decide(plan.shutdown.when, outcome.code(), snapshot) {
        Decision::Keep(why) => {
            info!("sidecars are left running: {why}");
            Ok(())
        }
        Decision::End => runtime()?.block_on(async {
            let mut signals = signals.listen().context("cannot listen for signals")?;
            shutdown::run(&plan.shutdown, snapshot, cluster, identity, &mut signals).await;
            Ok(())
        }),
    }
}
