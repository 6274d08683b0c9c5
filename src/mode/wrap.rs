//! `proa -- COMMAND`: gate, command, shutdown, outcome.

mod guard;
mod last;
pub mod mistake;
pub mod resumed;

use std::cell::{Cell, RefCell};
use std::time::Instant;

use anyhow::Context;
use futures::future::join_all;
use tracing::{debug, info, warn};

use super::inspector::Inspector;
use super::{
    PhaseRuntime, afterwards, announce, announce_disabled, appear, collect_orphans, heeding, is_outside,
    own_pod, patient_runtime, peers_beside, runtime, runtime_without_timers, unable,
};
use crate::budget::StopRequests;
use crate::child::{self, Variables};
use crate::cluster::OwnPod;
use crate::crash::Progress;
use crate::deadline::now;
use crate::env_file;
use crate::exit::{Conclusion, Outcome};
use crate::gate::{self, Api, Cause, Closed, Opened};
use crate::identity::Mounts;
use crate::memory;
use crate::peer::handover::Left;
use crate::peer::{Message, Part, Peer, Peers, Presence};
use crate::plan::Plan;
use crate::pod::Snapshot;
use crate::pod::mains::Mains;
use crate::policy::{OnSidecarExit, ShutdownAuto, ShutdownWhen};
use crate::shutdown::stages::{wrapped, yet_to_start};
use crate::shutdown::{self, After, Decision, Denial, Keep, Need, Origin, Sight, asked_to_stop};
use crate::signal::Phase;
use crate::signal::stream::{Listener, Signals};
use crate::status::board::Board;
use crate::status::{Quit, Server};
use crate::telemetry::LogPhase;
use crate::warnings::Remaining;
use last::{Last, ShutDownBy};

/// How many wrapped sidecars hear of the end of a main container that is not the last one: more than a Pod has in practice. Others hear
/// of it from the last one.
const MOST_WRAPPED: usize = 64;
/// How many kinds of signals can ask proa to stop, and more.
const STOP_SIGNALS: usize = 8;

/// Carries the plan out. `asked`: when proa was asked to stop, so far.
#[must_use]
pub fn run(plan: &Plan, mounts: &Mounts, signals: &Signals, mut asked: StopRequests) -> Conclusion {
    let started = now();
    let presence = if plan.disabled {
        announce_disabled();
        collect_orphans();
        None
    } else {
        match appear(mounts, Part::Main, &mut asked) {
            Ok(presence) => presence,
            // The other one ends the sidecars.
            Err(outcome) => return outcome.into(),
        }
    };
    let dispensable = plan.api_is_dispensable();
    let (own_pod, no_pod) = match own_pod(&plan.claim, &plan.api, mounts, dispensable, &mut asked) {
        Ok(own_pod) => (own_pod, None),
        Err(outcome) => (None, Some(outcome)),
    };
    let (server, no_server) = match Server::bind(plan.status, Quit::None) {
        Ok(server) => (server, None),
        Err(unbound) => (Server::none(), Some(Outcome::NoStatus(unbound))),
    };
    let unable = no_server.or(no_pod);
    let run = Run {
        plan,
        mounts,
        own_pod,
        signals,
        server,
        board: Board::default(),
        presence: RefCell::new(presence),
        started,
        denial: Cell::new(Denial::New),
        inspector: Inspector::new(plan.asked()),
    };
    let mut end = match unable {
        None => run.gate_and_command(asked).unwrap_or_else(|error| End::of(Outcome::Failed(error), None)),
        Some(outcome) => End { after: after(&outcome, &asked), asked, ..End::of(outcome, None) },
    };
    run.board.gate_over();
    let code = end.outcome.code();
    Progress::Decided(code).note();
    run.appear_late(end.snapshot.as_ref(), &mut end.asked);
    let End { outcome, snapshot, after, asked } = end;
    let remaining = afterwards(|| {
        let is_early = snapshot.as_ref().is_some_and(|seen| !yet_to_start(&plan.shutdown, seen).is_empty());
        if asked.is_empty() && outcome.is_refusal() && (is_early || matches!(outcome, Outcome::NoStatus(_))) {
            let seen = run.until_they_have_started(code, asked)?;
            return run.end_sidecars(code, seen.snapshot.or(snapshot), seen.after, seen.asked, Need::Usual);
        }
        // A gate has waited for the API server for as long as it may.
        let need = if outcome.is_refusal() { Need::Usual } else { Need::Urgent };
        run.end_sidecars(code, snapshot, after, asked, need)
    });
    Conclusion { outcome, remaining }
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
    presence: RefCell<Option<Presence>>,
    started: Instant,
    /// Whether the gate has said that the API server denies us the Pod.
    denial: Cell<Denial>,
    inspector: Inspector<'a>,
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

    /// What came of what could not be made before the command.
    fn unable(error: anyhow::Error, snapshot: Option<Snapshot>, asked: StopRequests) -> Self {
        let outcome = unable(error);
        Self { after: after(&outcome, &asked), outcome, snapshot, asked }
    }

    /// `asked`: what was known of it before this was read.
    fn closed(Closed { snapshot, cause, .. }: Closed, mut asked: StopRequests) -> Self {
        match cause {
            Cause::Stopped(received) => {
                asked.note(now(), received.sender);
                Self { outcome: cause.into(), snapshot, after: After::EarlyStop, asked }
            }
            Cause::Refused(_) | Cause::Failed(_) => Self::of(cause.into(), snapshot),
        }
    }
}

/// What the sidecars are shut down after. Where no command has needed them nobody who is asked to stop has time for their exit.
fn after(outcome: &Outcome, asked: &StopRequests) -> After {
    match outcome {
        Outcome::Ended(_) | Outcome::LostSidecar { .. } | Outcome::Panicked(Some(_)) => After::Command,
        Outcome::Stopped(_) => After::EarlyStop,
        _ if asked.is_empty() => After::Command,
        _ => After::EarlyStop,
    }
}

impl Run<'_> {
    /// `asked`: what of it is still to be read.
    fn gate_and_command(&self, mut asked: StopRequests) -> anyhow::Result<End> {
        let phase = LogPhase::Gate.enter();
        let (waiting, mut listener) = match patient_runtime(self.signals, &Sight::none(), &mut asked) {
            Ok(made) => made,
            Err(error) => return Ok(End::unable(error, None, asked)),
        };
        let passed = self.gate(asked, &mut listener);
        let passed = waiting.block_on(self.server.during(&self.board, passed));
        drop(listener);
        let (Opened { snapshot, waits, .. }, variables) = match passed {
            Ok(passed) => passed,
            Err(end) => return Ok(*end),
        };
        self.board.gate_over();
        let mut asked = StopRequests::default();
        self.appear_late(snapshot.as_ref(), &mut asked);
        drop(phase);
        let _phase = LogPhase::Command.enter();
        // What may fail comes before the command, whose outcome is ours from then on.
        let made = self.runtime_for_command();
        // The command first: it does not wait for what it costs to tidy up, unless that is what there is not enough of.
        let mut idle = Some((waits, waiting));
        let made = made.or_else(|_| {
            drop(idle.take());
            self.runtime_for_command()
        });
        let (running, mut signals) = match made {
            Ok(made) => made,
            Err(error) => return Ok(End::unable(error, snapshot, asked)),
        };
        let spawned = child::spawn(&self.plan.command, &variables);
        drop((idle, variables));
        let child = match spawned {
            Ok(child) => {
                self.board.command_started();
                info!(pid = child.pid().as_raw(), program = %self.plan.command.program.display(), "command started");
                child
            }
            Err(why) => {
                let program = self.plan.command.program.to_string_lossy().into_owned();
                return Ok(End { asked, ..End::of(Outcome::NotStarted { program, why }, snapshot) });
            }
        };
        memory::give_back();
        let (outcome, asked) = running.block_on(async {
            let ended = self.wait(child, snapshot.as_ref(), asked, &mut signals);
            self.server.during(&self.board, ended).await.context("cannot receive signals")
        })?;
        self.board.command_ended();
        Ok(End { outcome, snapshot, after: After::Command, asked })
    }

    fn runtime_for_command(&self) -> anyhow::Result<(PhaseRuntime, Listener<'_>)> {
        let by_signals_alone =
            self.plan.status.is_none() && self.plan.on_sidecar_exit == OnSidecarExit::Ignore;
        let running = if by_signals_alone { runtime_without_timers() } else { runtime() }?;
        let signals =
            running.block_on(async { self.signals.listen() }).context("cannot listen for signals")?;
        Ok((running, signals))
    }

    /// Waits for the sidecars, then for what they have written. Whoever asks us to stop meanwhile is obeyed: there is no
    /// command yet that could.
    async fn gate(
        &self,
        asked: StopRequests,
        signals: &mut Listener<'_>,
    ) -> Result<(Opened, Variables), Box<End>> {
        let api = match &self.own_pod {
            None => Api::NotAsked,
            Some(own_pod) if self.plan.api_is_dispensable() => Api::Dispensable(own_pod.watch()),
            Some(own_pod) => Api::Needed(own_pod.watch()),
        };
        let closed = |closed| Box::new(End::closed(closed, asked.clone()));
        let passed =
            gate::pass(&self.plan.gate, api, signals, &self.board, &|pod| self.inspector.look(pod)).await;
        let is_said = passed.as_ref().map_or_else(|shut| shut.denial_said, |open| open.denial_said);
        self.denial.set(if is_said { Denial::Said } else { Denial::New });
        let opened = passed.map_err(closed)?;
        let stop = opened.snapshot.as_ref().and_then(|snapshot| snapshot.own.stop_signal);
        let phase = Phase::Gate { stop };
        let read = tokio::select! {
            stopped = signals.stop(phase) => Err(stopped.map_or_else(|error| Cause::Failed(error.into()), Cause::Stopped)),
            read = env_file::read(&self.plan.env_files) => match signals.stopped(phase) {
                Ok(None) => Ok(read),
                Ok(Some(received)) => Err(Cause::Stopped(received)),
                Err(error) => Err(Cause::Failed(error.into())),
            },
        };
        match read {
            Ok(Ok(variables)) => Ok((opened, variables)),
            Ok(Err(unusable)) => Err(Box::new(End::of(Outcome::EnvFile(unusable), opened.snapshot))),
            Err(cause) => {
                let Opened { snapshot, denial_said, .. } = opened;
                Err(closed(Closed { snapshot, denial_said, cause }))
            }
        }
    }

    /// Where no mount told who we are, the Pod has.
    fn appear_late(&self, snapshot: Option<&Snapshot>, asked: &mut StopRequests) {
        let mut presence = self.presence.borrow_mut();
        let known = self.mounts.uid.is_some() && self.mounts.container.is_some();
        if let (None, false, Some(snapshot)) = (presence.as_ref(), known, snapshot) {
            *presence =
                announce(&own_peer(snapshot), Part::Main, asked).inspect_err(|error| warn!("{error}")).ok();
        }
    }

    /// Shuts the sidecars down, unless they are needed again: by this container, once it is started again, or by another main
    /// one.
    fn end_sidecars(
        &self,
        code: u8,
        snapshot: Option<Snapshot>,
        after: After,
        mut asked: StopRequests,
        need: Need,
    ) -> anyhow::Result<Option<Remaining>> {
        // Outside Kubernetes nobody stays behind but what the flags name.
        let nobody = is_outside(&self.plan.api, self.mounts) && self.plan.shutdown.actions.is_empty();
        if self.plan.disabled || nobody {
            return Ok(None);
        }
        let decision = snapshot.as_ref().map(|seen| self.decide(code, Origin::Inside, Some(seen)));
        // What was seen of the restart policy holds for good: no look is needed to leave the sidecars to a restart. Other main
        // containers see us until our very end, and may leave theirs to that restart too.
        if let Some(Decision::Keep(why @ (Keep::Restart | Keep::InitContainer))) = decision {
            left_running(why);
            return Ok(None);
        }
        // Where the system did not let us before: whom nobody sees, others do not leave the sidecars to.
        if self.presence.borrow().is_none() {
            let own =
                snapshot.as_ref().map_or_else(|| Peer::of(self.mounts), |before| Some(own_peer(before)));
            *self.presence.borrow_mut() = own.and_then(|own| {
                announce(&own, Part::Main, &mut asked).inspect_err(|error| debug!("{error}")).ok()
            });
        }
        let before = Sight { snapshot, ..Sight::none() };
        let (runtime, mut signals) = patient_runtime(self.signals, &before, &mut asked)?;
        let ended = self.end_sidecars_if_last(code, before.snapshot, after, (asked, need), &mut signals);
        Ok(runtime.block_on(self.server.during(&self.board, ended)))
    }

    async fn end_sidecars_if_last(
        &self,
        code: u8,
        mut before: Option<Snapshot>,
        after: After,
        (mut asked, need): (StopRequests, Need),
        signals: &mut Listener<'_>,
    ) -> Option<Remaining> {
        let mains = self.mains(before.as_ref());
        if let Some(before) = &mut before {
            mains.settle(before);
        }
        // The container's name by flag may be what is wrong; the kubelet's mounts are not.
        let own_pod = self.own_pod.clone().map(|mut own_pod| {
            own_pod.identity.container = self.mounts.container.clone().or(own_pod.identity.container);
            own_pod
        });
        let own_pod = own_pod.as_ref();
        // By flags alone, or not at all: what the Pod would add is no reason for a long look.
        let automatic = self.plan.shutdown.auto != ShutdownAuto::Off
            && self.plan.shutdown.actions.is_empty()
            && self.plan.shutdown.when != ShutdownWhen::Never;
        let need = if automatic { need } else { Need::Usual };
        // Who may be started again takes no leave before that is known.
        let origin = if asked.is_by_runtime() { Origin::Runtime } else { Origin::Inside };
        let may_restart =
            |seen: &Snapshot| self.decide(code, origin, Some(seen)) == Decision::Keep(Keep::Restart);
        let unknown = before.as_ref().is_none_or(may_restart);
        let mut sight = if unknown {
            shutdown::look(own_pod, before, mains, (need, self.denial.get()), &mut asked, signals).await
        } else {
            Sight { snapshot: before, mains, ..Sight::none() }
        };
        let decision = self.decide_now(code, &asked, &sight);
        if let Decision::Keep(why @ (Keep::Restart | Keep::InitContainer)) = decision {
            left_running(why);
            return None;
        }
        let handover = self.presence.borrow_mut().as_mut().and_then(Presence::handover);
        let seen = sight.snapshot.as_ref().map(|snapshot| (&snapshot.uid, &snapshot.own.name));
        let own = seen.or(self.mounts.uid.as_ref().zip(self.mounts.container.as_ref()));
        let own = own.map(|(uid, name)| (uid.as_str(), Message { container: name.clone(), code }));
        let left = match handover {
            None => None,
            Some(handover) => {
                let left = Left::default();
                if heeding(signals, &sight, &mut asked, handover.withdraw(&left)).await.is_none() {
                    warn!(
                        "what other main containers have left to this one may not all be taken: this container is about to be killed"
                    );
                }
                Some(left.into_messages())
            }
        };
        let last = Last::withdrawn(left, own, self.started);
        if let Some(last) = &last
            && last.is_followed(sight.snapshot.as_ref()).await
        {
            self.tell_of_end(last, code, &sight, &mut asked, signals).await;
            return None;
        }
        if let Decision::Keep(why) = decision {
            left_running(why);
            return None;
        }
        if !unknown {
            sight = shutdown::look(
                own_pod,
                sight.snapshot,
                sight.mains,
                (need, self.denial.get()),
                &mut asked,
                signals,
            )
            .await;
        }
        // Who asks us to stop may have done so meanwhile.
        if let Decision::Keep(why) = self.decide_now(code, &asked, &sight) {
            left_running(why);
            return None;
        }
        let mut peers = Peers::default();
        if let Some(mut last) = last {
            let is_restarted = |seen: Option<&Snapshot>| {
                self.decide(code, Origin::Runtime, seen) == Decision::Keep(Keep::Restart)
            };
            match last.shut_down_by(&mut sight, &mut asked, signals, is_restarted).await {
                ShutDownBy::Us => {}
                ShutDownBy::Another => {
                    self.tell_of_end(&last, code, &sight, &mut asked, signals).await;
                    return None;
                }
                ShutDownBy::Nobody => return None,
            }
            let by = last.is_blind().then(now);
            let (uid, own) = (last.uid().to_owned(), last.own().to_owned());
            let ended = last.ended(sight.snapshot.as_ref());
            peers = peers_beside((&uid, &own), ended, by, &sight, &mut asked, signals).await;
        }
        if let Some(snapshot) = &sight.snapshot {
            self.inspector.look_at_end(snapshot);
        }
        let report =
            shutdown::run(&self.plan.shutdown, &sight, after, asked, &peers, signals, &self.board).await;
        let running = report.drained.running()?.to_vec();
        Some(self.inspector.remaining(running, sight.snapshot.as_ref()?))
    }

    /// Tells sidecars that wait for this container by name that it has ended, where the sidecars are left to another one: that one
    /// may be killed and started again, and know no more of what we left to it. Where that fails, it speaks for us.
    async fn tell_of_end(
        &self,
        last: &Last,
        code: u8,
        sight: &Sight,
        asked: &mut StopRequests,
        signals: &mut Listener<'_>,
    ) {
        // Requests to stop may have come since signals were last read: one of each kind at most waits (signal(7)).
        let stop = sight.snapshot.as_ref().and_then(|snapshot| snapshot.own.stop_signal);
        for _ in 0..STOP_SIGNALS {
            let Ok(Some(received)) = signals.stopped(Phase::Shutdown { stop }) else { break };
            asked_to_stop(received, asked);
        }
        if self.plan.shutdown.auto == ShutdownAuto::Off || !self.is_over_for_good(code, asked, sight) {
            return;
        }
        let peers = Peers::beside(last.uid(), last.own(), Vec::new());
        let peers = peers.inspect_err(|error| debug!(%error, "cannot look for wrapped sidecars"));
        let wrapped = wrapped(sight.snapshot.as_ref(), &peers.unwrap_or_default());
        // Anybody can make as many sockets as there are files to be had.
        let told = wrapped.iter().take(MOST_WRAPPED).map(async |(peer, _)| {
            let message = Message { container: last.own().to_owned(), code };
            match peer.tell(message).await {
                Ok(_) => debug!("told `{}` that this container has ended", peer.container),
                Err(error) => {
                    debug!(%error, "cannot tell `{}` that this container has ended", peer.container);
                }
            }
        });
        join_all(told).await;
    }

    /// Whether this container will not be started again, as far as is known, and would shut the sidecars down itself if nobody else
    /// needed them.
    fn is_over_for_good(&self, code: u8, asked: &StopRequests, sight: &Sight) -> bool {
        let seen = sight.snapshot.as_ref();
        // Where the restart policy is unknown it is taken for OnFailure, which starts no success again unless a probe has failed.
        let known = seen.is_some() || code == 0 && asked.is_empty();
        let by_policy = shutdown::decide(ShutdownWhen::Auto, code, origin(asked, sight), seen);
        known && by_policy == Decision::End && self.decide_now(code, asked, sight) == Decision::End
    }

    /// Which containers are main ones, as far as the manifest does not show it. `before`: the Pod as it was seen, with those whose proa
    /// was there.
    fn mains(&self, before: Option<&Snapshot>) -> Mains {
        let mut mains = Mains::named(self.plan.gate.selection.mains.clone());
        let seen = before.into_iter().flat_map(|before| &before.mains).filter(|main| main.seen);
        mains.see(seen.map(|main| main.container.name.clone()));
        if self.presence.borrow().is_some() { mains } else { mains.without_doubt() }
    }

    /// By what is known now. In doubt the sidecars stay: if the whole Pod goes, the kubelet stops them.
    fn decide_now(&self, code: u8, asked: &StopRequests, sight: &Sight) -> Decision {
        self.decide(code, origin(asked, sight), sight.snapshot.as_ref())
    }

    fn decide(&self, code: u8, origin: Origin, snapshot: Option<&Snapshot>) -> Decision {
        shutdown::decide(self.plan.shutdown.when, code, origin, snapshot)
    }
}

/// Who brings the end about, as far as is known now.
fn origin(asked: &StopRequests, sight: &Sight) -> Origin {
    if asked.is_by_runtime() && sight.is_kill_to_come(asked) { Origin::Runtime } else { Origin::Inside }
}

fn own_peer(snapshot: &Snapshot) -> Peer {
    Peer { uid: snapshot.uid.clone(), container: snapshot.own.name.clone() }
}

fn left_running(why: Keep) {
    info!("sidecars are left running: {why}");
}
