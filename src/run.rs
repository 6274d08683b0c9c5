//! The sequencer: gate, command, shutdown, outcome.

use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Context, anyhow};
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::child::{self, reaper};
use crate::cluster::{Cluster, OwnPod};
use crate::env_file;
use crate::exit::Outcome;
use crate::gate::{self, Access, Api, Cause, Closed, Opened};
use crate::identity::{Identity, Mounts};
use crate::plan::Plan;
use crate::pod::Snapshot;
use crate::policy::AskApi;
use crate::shutdown::{self, Decision, Sight, Stopping};
use crate::signal::stream::Signals;
use crate::status::Server;
use crate::status::board::Board;

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
    let server = match Server::bind(plan.status) {
        Ok(server) => server,
        Err(unbound) => return Ok(Outcome::NoStatus(unbound)),
    };
    let own_pod = match own_pod(plan, mounts) {
        Ok(own_pod) => own_pod,
        Err(outcome) => return Ok(outcome),
    };
    let run = Run { plan, own_pod, signals, server, board: Board::default() };
    let end = run.gate_and_command()?;
    run.board.gate_over();
    run.end_sidecars(&end)?;
    Ok(end.outcome)
}

/// What every phase needs.
struct Run<'a> {
    plan: &'a Plan,
    own_pod: Option<OwnPod>,
    signals: &'a Signals,
    server: Server,
    board: Board,
}

/// Where to see the own Pod, unless proa is not to ask, or makes do without.
fn own_pod(plan: &Plan, mounts: &Mounts) -> Result<Option<OwnPod>, Outcome> {
    if plan.api.ask == AskApi::Off {
        return Ok(None);
    }
    let cluster = match Cluster::new(&plan.api) {
        Ok(cluster) => cluster,
        Err(none) if plan.makes_do_without_api() => {
            info!("going on without the API server, by what is asked directly alone: {none}");
            return Ok(None);
        }
        Err(none) => return Err(Outcome::NoApi(none)),
    };
    let identity =
        Identity::find(&plan.claim, mounts, &plan.api.service_account).map_err(Outcome::Unknown)?;
    Ok(Some(OwnPod { cluster, identity }))
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
                None => Api::Unasked,
                Some(own_pod) if self.plan.makes_do_without_api() => Api::Dispensable(own_pod.watch()),
                Some(own_pod) => Api::Needed(own_pod.watch()),
            };
            let passed = gate::pass(&self.plan.gate, api, &mut signals, &self.board);
            anyhow::Ok(self.server.during(&self.board, passed).await)
        })?;
        let Opened { after, snapshot, access, held } = match passed {
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
        info!(after = %format!("{:.3}s", after.as_secs_f64()), "gate open");
        let variables = match env_file::read(&self.plan.command.env_files) {
            Ok(variables) => variables,
            Err(unusable) => {
                let outcome = Outcome::EnvFile(unusable);
                return Ok(End { outcome, snapshot, access, stopping: Stopping::No });
            }
        };
        // The command first: it does not wait for what it costs to tidy up.
        let spawned = child::spawn(&self.plan.command, &variables);
        drop((waiting, variables));
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
        let stop = snapshot.as_ref().and_then(|snapshot| snapshot.main.stop_signal);
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
                let sight = Sight { snapshot: end.snapshot.as_ref(), own_pod, stopping: end.stopping };
                let ended = shutdown::run(&self.plan.shutdown, sight, &mut signals, &self.board);
                self.server.during(&self.board, ended).await;
                Ok(())
            }),
        }
    }
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
