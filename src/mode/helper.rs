//! `proa sidecar`: a helper container for main containers that proa is not in.

use std::path::Path;

use tracing::{error, info, warn};

use super::companion::{CONFIRM, Companion, Gated, Mains, WhyQuit, announce};
use super::{afterwards, is_outside, patient_runtime, ready_file, unable_sidecar};
use crate::budget::StopRequests;
use crate::cluster::{Looked, NoApi};
use crate::exit::{Conclusion, Outcome};
use crate::gate::Refusal;
use crate::identity::Mounts;
use crate::peer::{Message, Peers};
use crate::plan::sidecar::SidecarPlan;
use crate::pod::{Life, Snapshot};
use crate::shutdown::{self, After, Decision, Origin, Shutdown, Sight};
use crate::signal::stream::{Listener, Signals};
use crate::signal::{self, Phase, Reaction, reaper};

/// Carries the plan out.
#[must_use]
pub fn run(
    plan: &SidecarPlan,
    ready_file: Option<&Path>,
    shutdown: &Shutdown,
    mounts: &Mounts,
    signals: &Signals,
) -> Conclusion {
    carry_out(plan, ready_file, shutdown, mounts, signals)
        .unwrap_or_else(|error| unable_sidecar(error).into())
}

fn carry_out(
    plan: &SidecarPlan,
    ready_file: Option<&Path>,
    shutdown: &Shutdown,
    mounts: &Mounts,
    signals: &Signals,
) -> anyhow::Result<Conclusion> {
    // A command would run all the same; a helper without a Pod has nobody to help.
    if is_outside(&plan.api, mounts) && !plan.disabled {
        return Ok(Outcome::NoApi(NoApi::Server).into());
    }
    let companion = match Companion::start(plan, mounts, signals, false) {
        Ok(companion) => companion,
        Err(outcome) => return Ok(outcome.into()),
    };
    if let Some(Err(outcome)) = ready_file.map(ready_file::prepare) {
        return Ok(outcome.into());
    }
    if plan.disabled {
        // The main containers may wait for the file; nothing else is to be done, and whoever stayed would keep a Job from
        // completing.
        return Ok(ready_file
            .and_then(|path| ready_file::write(path).err())
            .unwrap_or(Outcome::ShutDown)
            .into());
    }
    let helper = Helper { companion };
    match helper.companion.gate()? {
        Gated::Over(outcome) => Ok(outcome.into()),
        Gated::Refused(outcome) => helper.refuse(outcome, shutdown),
        Gated::Pointless(snapshot, code) => Ok(helper.end_others(MainsEnd::Seen(snapshot), code, shutdown)),
        Gated::Abandoned(code) => Ok(helper.end_others(MainsEnd::Told, code.into(), shutdown)),
        Gated::Open => helper.help(ready_file, shutdown),
    }
}

struct Helper<'a> {
    companion: Companion<'a>,
}

impl Helper<'_> {
    fn help(&self, ready_file: Option<&Path>, shutdown: &Shutdown) -> anyhow::Result<Conclusion> {
        if let Some(Err(outcome)) = ready_file.map(ready_file::write) {
            return Ok(outcome.into());
        }
        self.companion.board.helping(true);
        let (runtime, mut signals) = self.companion.runtime()?;
        let waited = self.wait_for_mains(&mut signals);
        let waited = runtime.block_on(self.companion.server.during(&self.companion.board, waited));
        drop((signals, runtime));
        self.companion.board.helping(false);
        match waited {
            Waited::Ended(end, code) => Ok(self.end_others(end, code, shutdown)),
            Waited::Over(outcome) => Ok(outcome.into()),
        }
    }

    /// The main containers may run all the same, and need somebody who shuts the sidecars down. Unless the kubelet starts this
    /// container again, which then waits once more.
    fn refuse(&self, outcome: Outcome, shutdown: &Shutdown) -> anyhow::Result<Conclusion> {
        let (runtime, signals) = self.companion.runtime()?;
        let seen = runtime.block_on(async {
            match &self.companion.own_pod {
                Some(own_pod) => Some(own_pod.look(CONFIRM, true).await),
                None => None,
            }
        });
        drop((signals, runtime));
        let stays = match seen {
            Some(Looked::Seen(snapshot)) => {
                snapshot.life == Life::Active && !snapshot.own.restart.after(outcome.code().into())
            }
            _ => false,
        };
        if !stays {
            return Ok(outcome.into());
        }
        error!("{outcome}; staying until the main containers have exited, to shut down the sidecars");
        let mut conclusion = self.help(None, shutdown)?;
        conclusion.outcome = outcome;
        Ok(conclusion)
    }

    /// Ends the other sidecars, once the main containers have exited. `code`: the worst of their exit codes.
    fn end_others(&self, end: MainsEnd, code: i32, shutdown: &Shutdown) -> Conclusion {
        let (mut snapshot, fresh) = match end {
            MainsEnd::Seen(snapshot) => (Some(*snapshot), true),
            MainsEnd::Told => (self.companion.last.take(), false),
        };
        let mains = self.companion.mains.borrow().clone();
        if let Some(snapshot) = &mut snapshot {
            mains.settle(snapshot);
        }
        let code = u8::try_from(code).unwrap_or(u8::MAX);
        let remaining = match shutdown::decide(shutdown.when, code, Origin::Inside, None) {
            Decision::Keep(why) => {
                info!("sidecars are left running: {why}");
                None
            }
            Decision::End => afterwards(|| {
                let (mut peers, mut own_pod) = (Peers::default(), self.companion.own_pod.clone());
                if let Some(snapshot) = &snapshot {
                    self.companion.inspector.look_at_end(snapshot);
                    peers.ended = vec![Message { container: snapshot.own.name.clone(), code }];
                    own_pod = own_pod.map(|own_pod| own_pod.named(&snapshot.name));
                }
                let sight = Sight { snapshot, fresh, own_pod, mains };
                let (after, board) = (After::Command, &self.companion.board);
                let mut asked = StopRequests::default();
                let (runtime, mut signals) = patient_runtime(self.companion.signals, &sight, &mut asked)?;
                let ended = shutdown::run(shutdown, &sight, after, asked, &peers, &mut signals, board);
                let drained = runtime.block_on(self.companion.server.during(board, ended)).drained;
                let running = drained.running().map(<[String]>::to_vec);
                let remaining =
                    |names| self.companion.inspector.remaining(names, sight.snapshot.as_ref()?).into();
                Ok(running.and_then(remaining))
            }),
        };
        Conclusion { outcome: Outcome::ShutDown, remaining }
    }

    /// Waits until the main containers have exited for good, or somebody asks us to stop.
    async fn wait_for_mains(&self, signals: &mut Listener<'_>) -> Waited {
        let stop = async {
            loop {
                let received = match signals.next().await {
                    Ok(received) => received,
                    Err(error) => return Outcome::Failed(error.into()),
                };
                // The Pod may show only now how the runtime stops this container.
                match signal::reaction(Phase::Shutdown { stop: self.companion.stop_signal.get() }, received) {
                    Reaction::Stop => {
                        info!(signal = %received.signal, "asked to stop");
                        return Outcome::ShutDown;
                    }
                    Reaction::Reap => reaper::reap_orphans(),
                    _ => {}
                }
            }
        };
        let mains = tokio::select! {
            biased;
            outcome = stop => return Waited::Over(outcome),
            quit = self.companion.quit_asked() => return match quit {
                WhyQuit::Abandoned(code) => Waited::Ended(MainsEnd::Told, code.into()),
                WhyQuit::Asked => Waited::Over(Outcome::ShutDown),
            },
            mains = self.companion.watch_mains(announce) => mains,
        };
        Waited::Over(match mains {
            Mains::Ended(snapshot, code) => return Waited::Ended(MainsEnd::Seen(snapshot), code),
            Mains::Failed(name, exit) => {
                warn!(
                    container = name.as_str(),
                    exit_code = exit.code,
                    "`{name}` ended with {exit}: sidecars are left running (--until-exit-success)"
                );
                Outcome::ShutDown
            }
            Mains::Gone => Outcome::ShutDown,
            Mains::Misplaced(misplaced) => Outcome::Misplaced(misplaced),
            Mains::Unseen(trouble) => Outcome::Refused(Refusal::Api(trouble)),
        })
    }
}

/// How the main containers' end is known.
enum MainsEnd {
    /// By the Pod, as it was then.
    Seen(Box<Snapshot>),
    /// By their own word.
    Told,
}

/// What a wait for the main containers came to.
enum Waited {
    /// They have ended, and the worst of their exit codes.
    Ended(MainsEnd, i32),
    /// There is nothing more to do.
    Over(Outcome),
}
