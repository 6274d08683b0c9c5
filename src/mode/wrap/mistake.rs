//! After a command line that makes no plan: its sidecars would keep the Pod from its end like any other's.

use std::cell::{Cell, RefCell};
use std::mem;
use std::time::Duration;

use anyhow::Context;
use futures::stream::StreamExt;
use tokio::time::interval_at;
use tracing::{error, info, warn};

use super::{Run, after};
use crate::budget::StopRequests;
use crate::cluster::trouble::Refused;
use crate::cluster::{Observation, OwnPod};
use crate::deadline::{now, until};
use crate::exit::Outcome;
use crate::identity::{Mounts, came_later};
use crate::mode::inspector::Inspector;
use crate::mode::{afterwards, appear, is_outside, own_pod, patient_runtime, patiently};
use crate::peer::handover::Sockets;
use crate::peer::{Part, Presence};
use crate::plan::Plan;
use crate::pod::mains::Mains;
use crate::pod::run::Clocks;
use crate::pod::{Life, Snapshot, list};
use crate::policy::ShutdownAuto;
use crate::shutdown::stages::yet_to_start;
use crate::shutdown::{self, After, Decision, Denial, Need, Origin, Sight};
use crate::signal::Phase;
use crate::signal::stream::{Listener, Signals};
use crate::status::Server;
use crate::status::board::Board;
use crate::warnings::Remaining;

/// How long the Pod is waited for that was never seen: wrapped sidecars are notified without sight of it.
const UNSEEN: Duration = Duration::from_secs(30);
/// How often a long wait says what it waits for.
const REPORT: Duration = Duration::from_secs(10);

/// Ends the sidecars after such an outcome, as after any other refusal. Not for somebody who tries proa in a container that
/// runs already: the command that needs them may be at work.
/// `presence`: ours, if we are there for the other proas already. `asked`: whether proa was asked to stop.
#[must_use]
pub fn end_sidecars(
    plan: &Plan,
    outcome: &Outcome,
    mounts: &Mounts,
    signals: &Signals,
    presence: Option<Presence>,
    mut asked: StopRequests,
) -> Option<Remaining> {
    if plan.disabled || is_outside(&plan.api, mounts) {
        return None;
    }
    match patiently(&Sight::none(), &mut asked, || Ok(came_later()?)) {
        Ok(false) => {}
        Ok(true) => return None,
        Err(error) => {
            error!("shutting down the sidecars failed: {error:#}");
            return None;
        }
    }
    // Another proa in this container ends them.
    let started = now();
    let presence = match presence {
        Some(presence) => Some(presence),
        None => appear(mounts, Part::Main, &mut asked).ok()?,
    };
    // What proa wraps is found without sight of the Pod too.
    let own_pod = own_pod(&plan.claim, &plan.api, mounts, true, &mut asked).unwrap_or_default();
    let (server, board, code) = (Server::none(), Board::default(), outcome.code());
    let (presence, inspector) = (RefCell::new(presence), Inspector::new(plan.asked()));
    let denial = Cell::new(Denial::New);
    let run = Run { plan, mounts, own_pod, signals, server, board, presence, started, denial, inspector };
    run.board.gate_over();
    afterwards(|| {
        // Who asks us to stop has no time for it, nor for anybody's exit where no command was to need them.
        let Seen { snapshot, after, asked } = if asked.is_empty() {
            run.until_they_have_started(code, asked)?
        } else {
            Seen { snapshot: None, after: after(outcome, &asked), asked }
        };
        run.end_sidecars(code, snapshot, after, asked, Need::Usual)
    })
}

/// The Pod as it was last seen, and whether somebody has asked us to stop meanwhile.
pub(super) struct Seen {
    pub(super) snapshot: Option<Snapshot>,
    pub(super) after: After,
    pub(super) asked: StopRequests,
}

impl Run<'_> {
    /// Waits until everybody has started who is going to be asked to exit, as long as the gate would have: containers start one
    /// after the other, ours perhaps first, and a mesh proxy that is not up yet keeps us from seeing the Pod.
    pub(super) fn until_they_have_started(&self, code: u8, asked: StopRequests) -> anyhow::Result<Seen> {
        let mut seen = Seen { snapshot: None, after: After::Command, asked };
        let shutdown = &self.plan.shutdown;
        let stay = shutdown::decide(shutdown.when, code, Origin::Inside, None) != Decision::End;
        if let Some(own_pod) = self.own_pod.as_ref().filter(|_| !stay && shutdown.auto != ShutdownAuto::Off) {
            let (runtime, mut signals) = patient_runtime(self.signals, &Sight::none(), &mut seen.asked)?;
            runtime.block_on(self.watch(own_pod, code, &mut seen, &mut signals))?;
        }
        Ok(seen)
    }

    async fn watch(
        &self,
        own_pod: &OwnPod,
        code: u8,
        seen: &mut Seen,
        signals: &mut Listener<'_>,
    ) -> anyhow::Result<()> {
        let started = now();
        let unseen_by = started.checked_add(UNSEEN);
        let deadline = self.plan.gate.timeout.and_then(|timeout| started.checked_add(timeout));
        let mut report = interval_at((started + REPORT).into(), REPORT);
        let mut observations = own_pod.watch();
        let (mut refused, mut clocks) = (Refused::default(), Clocks::default());
        let mut mains = Mains::named(self.plan.gate.selection.mains.clone());
        let (mut missing, mut said) = ("the API server's answer".to_owned(), String::new());
        loop {
            let settled_at = clocks.settled_at(seen.snapshot.as_ref());
            let stop = seen.snapshot.as_ref().and_then(|snapshot| snapshot.own.stop_signal);
            tokio::select! {
                biased;
                received = signals.stop(Phase::Gate { stop }) => {
                    let received = received.context("cannot receive signals")?;
                    shutdown::asked_to_stop(received, &mut seen.asked);
                    seen.after = After::EarlyStop;
                    return Ok(());
                }
                observation = observations.next() => match observation {
                    Some(Observation::Seen(mut snapshot)) => {
                        refused.pod_seen();
                        mains.see(Sockets::of(&snapshot.uid).mains);
                        mains.settle(&mut snapshot);
                        seen.snapshot = Some(snapshot);
                    }
                    Some(Observation::Trouble(trouble)) if !refused.is_final(&trouble, now()) => {
                        missing = trouble.to_string();
                    }
                    // What is to be said of it is said by the look that follows.
                    Some(Observation::Trouble(_) | Observation::Gone) | None => return Ok(()),
                },
                () = until(settled_at) => {}
                () = until(unseen_by), if seen.snapshot.is_none() => {
                    info!("no longer waiting for {missing}: what needs no sight of the Pod is shut down without it");
                    return Ok(());
                }
                () = until(deadline) => {
                    warn!("no longer waiting for {missing} (--ready-timeout)");
                    return Ok(());
                }
                _ = report.tick() => {
                    // A long reason is said once.
                    let known = mem::replace(&mut said, missing.clone()) == missing;
                    let what = if known { "the same" } else { missing.as_str() };
                    info!("still waiting for {what}, to shut down the sidecars");
                    continue;
                }
            }
            let Some(snapshot) = &mut seen.snapshot else {
                continue;
            };
            clocks.settle(snapshot, now());
            let late = yet_to_start(&self.plan.shutdown, snapshot);
            let stay = shutdown::decide(self.plan.shutdown.when, code, Origin::Inside, Some(snapshot))
                != Decision::End;
            let there = late.is_empty() && !snapshot.own.run.is_outdated();
            if stay || there || snapshot.life != Life::Active {
                return Ok(());
            }
            if late.is_empty() {
                missing = format!("the present status of `{}`", snapshot.own.name);
            } else {
                let news = format!("the start of {}", list(&late));
                if news != missing {
                    info!("waiting for {news}, to shut down the sidecars");
                }
                missing = news;
            }
        }
    }
}
