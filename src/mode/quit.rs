//! `proa quit`: the shutdown of the sidecars alone, for preStop hooks, traps and `kubectl exec`. It takes nobody's place: it may
//! run beside a proa in the same container.

use std::fmt::Write;

use tracing::{info, warn};

use super::inspector::Inspector;
use super::{of_quit, own_pod, patient_runtime, peers_beside, unable_quit};
use crate::budget::StopRequests;
use crate::cluster::OwnPod;
use crate::exit::Outcome;
use crate::identity::Mounts;
use crate::peer::handover::Sockets;
use crate::peer::{Message, Peers};
use crate::plan::quit::QuitPlan;
use crate::plan::selection::Selection;
use crate::pod::mains::Mains;
use crate::pod::{Snapshot, list};
use crate::shutdown::stages::{Source, Stages, Step, Task, stages};
use crate::shutdown::{self, After, Drained, Need, Report, Shown, Sight};
use crate::signal::stream::{Listener, Signals};
use crate::status::board::Board;
use crate::telemetry::LogPhase;
use crate::warnings::{Asked, Warning, warnings};

/// Carries the plan out.
#[must_use]
pub fn run(plan: &QuitPlan, mounts: &Mounts, signals: &Signals) -> Outcome {
    carry_out(plan, mounts, signals).unwrap_or_else(unable_quit)
}

fn carry_out(plan: &QuitPlan, mounts: &Mounts, signals: &Signals) -> anyhow::Result<Outcome> {
    let _phase = LogPhase::Shutdown.enter();
    if plan.disabled {
        info!("disabled (PROA_DISABLED): proa shuts down no sidecar");
        return Ok(Outcome::ShutDown);
    }
    let (mut asked, dispensable) = (StopRequests::default(), plan.api_is_dispensable());
    let own_pod = match own_pod(&plan.claim, &plan.api, mounts, dispensable, &mut asked) {
        Ok(own_pod) => own_pod,
        Err(outcome) => return Ok(of_quit(outcome)),
    };
    let board = Board::default();
    board.gate_over();
    let (runtime, mut signals) = patient_runtime(signals, &Sight::none(), &mut asked)?;
    Ok(runtime.block_on(quit(plan, own_pod.as_ref(), mounts, asked, &mut signals, &board)))
}

async fn quit(
    plan: &QuitPlan,
    own_pod: Option<&OwnPod>,
    mounts: &Mounts,
    mut asked: StopRequests,
    signals: &mut Listener<'_>,
    board: &Board,
) -> Outcome {
    let mut mains = Mains::named(plan.mains.clone());
    if let Some(uid) = &mounts.uid {
        mains.see(Sockets::of(uid).mains);
    }
    let sight =
        shutdown::look(own_pod, None, mains, (Need::Usual, shutdown::Denial::New), &mut asked, signals).await;
    let seen = sight.snapshot.as_ref().map(|snapshot| (&snapshot.uid, &snapshot.own.name));
    let own = seen.or(mounts.uid.as_ref().zip(mounts.container.as_ref()));
    let peers = match own {
        None => Peers::default(),
        Some((uid, name)) => {
            let ended = vec![Message { container: name.clone(), code: 0 }];
            peers_beside((uid, name), ended, None, &sight, &mut asked, signals).await
        }
    };
    if plan.dry_run {
        return Outcome::Planned(planned(plan, &sight, &peers));
    }
    let selection = Selection { ignore: plan.shutdown.ignore.clone(), ..Selection::default() };
    let inspector = Inspector::new(wanted(plan, &selection));
    if let Some(snapshot) = &sight.snapshot {
        inspector.look_at_end(snapshot);
    }
    let report = shutdown::run(&plan.shutdown, &sight, After::Command, asked, &peers, signals, board).await;
    let unseen = sight.snapshot.is_none() && report.tasks == 0;
    let left = left(report);
    if left.is_empty() && !unseen { Outcome::ShutDown } else { Outcome::NotShutDown(left) }
}

/// Those who did not do as they were asked, as far as it shows.
fn left(Report { failed, declined, drained, .. }: Report) -> Vec<String> {
    let remaining = match drained {
        Drained::Remaining { shown, asked, .. } if !asked.is_empty() => {
            if shown == Shown::Running {
                warn!("still running: {}", list(&asked));
            }
            asked
        }
        // Who was not asked may run on. One that carried our traffic was shut down; the kubelet stops those of a Pod that leaves.
        Drained::Remaining { .. } | Drained::Exited | Drained::Leaving | Drained::CarrierGone => Vec::new(),
    };
    // A request without a container's name goes by what it is.
    let quoted = |name: String| if name.contains(' ') { name } else { format!("`{name}`") };
    let mut left: Vec<_> = declined.into_iter().chain(remaining).map(quoted).collect();
    left.sort();
    left.dedup();
    failed.into_iter().chain(left).collect()
}

fn wanted<'a>(plan: &'a QuitPlan, selection: &'a Selection) -> Asked<'a> {
    Asked { selection, wait: None, shutdown: Some(&plan.shutdown), stop_timeout: None, status_port: None }
}

/// What would be done, to whom and why: a line each, in the order in which it would be.
fn planned(plan: &QuitPlan, sight: &Sight, peers: &Peers) -> String {
    let snapshot = sight.snapshot.as_ref();
    let Stages { first, last } = stages(&plan.shutdown, snapshot, peers);
    let mut text = String::new();
    for (when, tasks) in [("", &first), ("last: ", &last)] {
        for task in tasks {
            let _ = match &task.step {
                Step::Notify { .. } => writeln!(text, "{when}{task}: proa wraps it"),
                Step::Http(_) | Step::Kill(..) => {
                    writeln!(text, "{when}{task}{}: {}", target(task, snapshot), why(task))
                }
            };
        }
    }
    if first.is_empty() && last.is_empty() {
        text.push_str("nothing to shut down\n");
    }
    let Some(snapshot) = snapshot else {
        text.push_str("without sight of the Pod: its sidecars are not known\n");
        return text;
    };
    for native in snapshot.sidecars.iter().filter(|sidecar| sidecar.native) {
        let _ = writeln!(text, "left to the kubelet: {}, a native sidecar", native.introduction());
    }
    let selection = Selection { ignore: plan.shutdown.ignore.clone(), ..Selection::default() };
    for warning in warnings(snapshot, &wanted(plan, &selection), peers) {
        if matches!(warning, Warning::RunsOn(_) | Warning::TooFewRequests { .. } | Warning::NotShared) {
            let _ = writeln!(text, "{warning}");
        }
    }
    text
}

fn target(task: &Task, snapshot: Option<&Snapshot>) -> String {
    let name = task.container.as_deref();
    let found =
        snapshot.into_iter().flat_map(|seen| &seen.sidecars).find(|one| Some(one.name.as_str()) == name);
    found.map_or_else(String::new, |sidecar| format!(" to {}", sidecar.introduction()))
}

fn why(task: &Task) -> String {
    match task.source {
        Source::Given => "a flag".to_owned(),
        Source::Table(known) => format!("well known as {}", known.name),
        Source::Annotation => "an annotation of the Pod".to_owned(),
    }
}
