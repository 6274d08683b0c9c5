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
        Gated::Pointless(snapshot, code) => Ok(helper.end_others(*snapshot, true, code, shutdown)),
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
            Waited::Ended(snapshot, code) => Ok(self.end_others(*snapshot, true, code, shutdown)),
            Waited::Abandoned(snapshot, code) => Ok(self.end_others(*snapshot, false, code, shutdown)),
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

    /// Ends the other sidecars, once the main containers have exited. `fresh`: whether the Pod is seen to be so. `code`: the worst of theirs.
    fn end_others(&self, mut snapshot: Snapshot, fresh: bool, code: i32, shutdown: &Shutdown) -> Conclusion {
        let mains = self.companion.mains.borrow().clone();
        mains.settle(&mut snapshot);
        let code = u8::try_from(code).unwrap_or(u8::MAX);
        let remaining = match shutdown::decide(shutdown.when, code, Origin::Inside, None) {
            Decision::Keep(why) => {
                info!("sidecars are left running: {why}");
                None
            }
            Decision::End => afterwards(|| {
                self.companion.inspector.look_at_end(&snapshot);
                let message = Message { container: snapshot.own.name.clone(), code };
                let peers = Peers { ended: vec![message], ..Peers::default() };
                let own_pod = self.companion.own_pod.as_ref().map(|own_pod| own_pod.named(&snapshot.name));
                let sight = Sight { snapshot: Some(snapshot), fresh, own_pod, mains };
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
            quit = self.companion.quit_asked() => return match (quit, self.companion.last.take()) {
                (WhyQuit::Abandoned(code), Some(last)) => Waited::Abandoned(Box::new(last), code.into()),
                (WhyQuit::Abandoned(_), None) | (WhyQuit::Asked, _) => Waited::Over(Outcome::ShutDown),
            },
            mains = self.companion.watch_mains(announce) => mains,
        };
        Waited::Over(match mains {
            Mains::Ended(snapshot, code) => return Waited::Ended(snapshot, code),
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

/// What a wait for the main containers came to.
enum Waited {
    /// They have ended; the Pod as it was then, and the worst of their exit codes.
    Ended(Box<Snapshot>, i32),
    /// The same by their own word; the Pod as it was last seen.
    Abandoned(Box<Snapshot>, i32),
    /// There is nothing more to do.
    Over(Outcome),
}
