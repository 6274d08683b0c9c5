//! The sequencer: gate, command, shutdown, outcome.

use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Context, anyhow};
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::child::{self, reaper};
use crate::cluster::Cluster;
use crate::exit::Outcome;
use crate::gate::{self, Cause, Closed, Opened};
use crate::identity::{Identity, Mounts};
use crate::plan::Plan;
use crate::pod::Snapshot;
use crate::shutdown::{self, Decision, Stopping};
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
    // A system that forbids it is no reason not to run: as PID 1 orphans come to us anyway.
    if let Err(error) = reaper::become_subreaper() {
        warn!(%error, "cannot become a subreaper: orphans below another PID 1 are not collected here");
    }
    let cluster = match Cluster::new(&plan.api) {
        Ok(cluster) => cluster,
        Err(none) => return Ok(Outcome::NoApi(none)),
    };
    let identity = match Identity::find(&plan.claim, mounts, &plan.api.service_account) {
        Ok(identity) => identity,
        Err(unknown) => return Ok(Outcome::Unknown(unknown)),
    };
    let end = gate_and_command(plan, &cluster, &identity, signals)?;
    end_sidecars(plan, &end, &cluster, &identity, signals)?;
    Ok(end.outcome)
}

/// Each phase has a runtime of its own, so that its connections and memory end with it: while the command
/// runs, what is left are the signals.
fn runtime() -> anyhow::Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context("cannot start the runtime")
}

/// How gate and command came to their end.
struct End {
    outcome: Outcome,
    /// The Pod as the gate last saw it.
    snapshot: Option<Snapshot>,
    stopping: Stopping,
}

fn gate_and_command(
    plan: &Plan,
    cluster: &Cluster,
    identity: &Identity,
    signals: &Signals,
) -> anyhow::Result<End> {
    let waiting = runtime()?;
    let passed = waiting.block_on(async {
        let mut signals = signals.listen().context("cannot listen for signals")?;
        anyhow::Ok(gate::pass(&plan.gate, cluster.watch(identity), &mut signals).await)
    })?;
    let Opened { after, snapshot, held } = match passed {
        Ok(opened) => opened,
        Err(Closed { snapshot, cause }) => {
            let stopping = match cause {
                Cause::Stopped(_) => Stopping::BeforeCommand(Instant::now()),
                Cause::Refused(_) | Cause::Failed(_) => Stopping::No,
            };
            return Ok(End { outcome: cause.into(), snapshot, stopping });
        }
    };
    info!(after = %format!("{:.3}s", after.as_secs_f64()), "gate open");
    // The command first: it does not wait for what it costs to tidy up.
    let spawned = child::spawn(&plan.command);
    drop(waiting);
    let child = match spawned {
        Ok(child) => {
            info!(pid = child.pid().as_raw(), program = %plan.command.program.display(), "command started");
            child
        }
        Err(why) => {
            let program = plan.command.program.to_string_lossy().into_owned();
            return Ok(End {
                outcome: Outcome::NotStarted { program, why },
                snapshot,
                stopping: Stopping::No,
            });
        }
    };
    for signal in held {
        child.forward(signal);
    }
    give_memory_back();
    let stop = snapshot.as_ref().and_then(|snapshot| snapshot.main.stop_signal);
    let (ended, stopping) = runtime()?.block_on(async {
        let mut signals = signals.listen().context("cannot listen for signals")?;
        child.wait(&mut signals, stop).await.context("cannot receive signals")
    })?;
    info!("command ended: {ended}");
    let stopping = stopping.map_or(Stopping::No, Stopping::DuringCommand);
    Ok(End { outcome: Outcome::Ended(ended), snapshot, stopping })
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
    end: &End,
    cluster: &Cluster,
    identity: &Identity,
    signals: &Signals,
) -> anyhow::Result<()> {
    match shutdown::decide(plan.shutdown.when, end.outcome.code(), end.snapshot.as_ref()) {
        Decision::Keep(why) => {
            info!("sidecars are left running: {why}");
            Ok(())
        }
        Decision::End => runtime()?.block_on(async {
            let mut signals = signals.listen().context("cannot listen for signals")?;
            let (snapshot, watched) = (end.snapshot.as_ref(), (cluster, identity));
            shutdown::run(&plan.shutdown, snapshot, end.stopping, watched, &mut signals).await;
            Ok(())
        }),
    }
}
