//! What `proa sidecar` does with and without a command: the wait before it, and whose end it listens for.

use std::cell::RefCell;
use std::io;

use anyhow::Context;
use futures::future::pending;
use futures::stream::{self, StreamExt};
use tracing::{debug, error, info};

use super::{appear, own_pod, runtime};
use crate::cluster::{Observation, OwnPod};
use crate::exit::Outcome;
use crate::gate::{self, Api, Cause, Closed, Opened};
use crate::identity::Mounts;
use crate::peer::{MessageListener, Presence};
use crate::plan::sidecar::SidecarPlan;
use crate::pod::mains::{self, Awaited, Notifications, Progress};
use crate::pod::{Snapshot, list};
use crate::signal::stream::Signals;
use crate::status::board::Board;
use crate::status::{Quit, Server};

/// What every phase needs.
pub(super) struct Companion<'a> {
    pub(super) plan: &'a SidecarPlan,
    pub(super) own_pod: Option<OwnPod>,
    pub(super) signals: &'a Signals,
    pub(super) server: Server,
    pub(super) board: Board,
    /// Ends with us, which is what the others wait for.
    _presence: Option<Presence>,
    listener: Option<MessageListener>,
    notifications: RefCell<Notifications>,
    /// The Pod's UID, where the kubelet's mounts tell it.
    pub(super) uid: Option<String>,
}

impl<'a> Companion<'a> {
    /// Takes up the place of a sidecar's entrypoint.
    ///
    /// # Errors
    /// When it cannot work here.
    pub(super) fn start(
        plan: &'a SidecarPlan,
        mounts: &Mounts,
        signals: &'a Signals,
        dispensable: bool,
    ) -> Result<Self, Outcome> {
        let presence = appear(mounts)?;
        let listener = presence.as_ref().and_then(|presence| {
            let unheard = |error: &io::Error| debug!(%error, "cannot hear the other proas of this Pod");
            presence.listen().inspect_err(unheard).ok()
        });
        let server = Server::bind(plan.status, Quit::Offered).map_err(Outcome::NoStatus)?;
        let own_pod = own_pod(&plan.claim, &plan.api, mounts, dispensable)?;
        Ok(Self {
            plan,
            own_pod,
            signals,
            server,
            board: Board::default(),
            _presence: presence,
            listener,
            notifications: RefCell::default(),
            uid: mounts.uid.clone(),
        })
    }

    /// Waits for what is asked for, if anything. Sidecars do not wait for one another by themselves.
    pub(super) fn gate(&self) -> anyhow::Result<Gated> {
        let gate = &self.plan.gate;
        if !gate.asks_directly() && gate.selection.wait_for.is_empty() {
            self.board.gate_over();
            return Ok(Gated::Open);
        }
        let waiting = runtime()?;
        let gated = waiting.block_on(async {
            let mut signals = self.signals.listen().context("cannot listen for signals")?;
            let api = match &self.own_pod {
                Some(own_pod) if !gate.selection.wait_for.is_empty() => Api::Needed(own_pod.watch()),
                _ => Api::NoEndpoint,
            };
            let passed = gate::pass(gate, api, &mut signals, &self.board);
            let gated = async {
                tokio::select! {
                    // First: what else is waited for may have ended with them, which is no failure then.
                    biased;
                    (snapshot, code) = self.mains_ended() => Gated::Pointless(Box::new(snapshot), code),
                    passed = passed => passed.into(),
                    () = self.quit_asked() => Gated::Over(Outcome::ShutDown),
                }
            };
            anyhow::Ok(self.server.during(&self.board, gated).await)
        })?;
        self.board.gate_over();
        Ok(gated)
    }

    /// Waits until the main containers have ended, whatever else is waited for. Never ends where that cannot be seen.
    async fn mains_ended(&self) -> (Snapshot, i32) {
        let mut observations = match &self.own_pod {
            Some(own_pod) => own_pod.watch(),
            None => stream::pending().boxed(),
        };
        while let Some(observation) = observations.next().await {
            let Observation::Seen(snapshot) = observation else { continue };
            // What is wrong with the names is said once it matters.
            let Ok(mains) = mains::find(&snapshot, &self.plan.mains) else { continue };
            match mains::progress(&snapshot, &mains) {
                Progress::Ended(code) => {
                    info!("the main containers have ended");
                    return (snapshot, code);
                }
                Progress::Endless => break,
                Progress::Running(_) | Progress::Failed(..) => {}
            }
        }
        pending().await
    }

    /// Waits until another proa of the Pod, or a client of the status endpoint, asks for our end.
    pub(super) async fn quit_asked(&self) {
        let by_peer = async {
            if let Some(listener) = &self.listener {
                match listener
                    .asked(|message| self.notifications.borrow_mut().take(message, &self.plan.mains))
                    .await
                {
                    Ok(()) => return,
                    Err(error) => error!(%error, "cannot hear the other proas of this Pod"),
                }
            }
            pending::<()>().await;
        };
        tokio::select! {
            () = by_peer => info!("the main container's proa asks for the end"),
            () = self.server.quit_asked() => info!("asked to end at /quitquitquit"),
        }
    }
}

/// Says whose end is waited for.
pub(super) fn announce(mains: &[Awaited]) -> Vec<Awaited> {
    let names: Vec<_> = mains.iter().map(|main| main.name.as_str()).collect();
    if names.is_empty() {
        info!("this is a native sidecar, which the kubelet ends");
    } else {
        info!("until {} has ended", list(&names));
    }
    mains.to_vec()
}

/// What came of the gate.
pub(super) enum Gated {
    Open,
    /// The main containers ended meanwhile; the Pod as it was then, and the worst of their exit codes.
    Pointless(Box<Snapshot>, i32),
    /// There is nothing more to do.
    Over(Outcome),
}

impl From<Result<Opened, Closed>> for Gated {
    fn from(passed: Result<Opened, Closed>) -> Self {
        match passed {
            Ok(_) => Self::Open,
            Err(Closed { cause: Cause::Stopped(signal), .. }) => {
                info!(%signal, "asked to end before the gate was open");
                Self::Over(Outcome::ShutDown)
            }
            Err(Closed { cause, .. }) => Self::Over(cause.into()),
        }
    }
}
