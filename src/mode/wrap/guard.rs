//! While the command runs: whether a sidecar has exited for good (`--on-sidecar-exit=stop`).

use std::future::pending;
use std::time::{Duration, SystemTime};

use futures::stream::StreamExt;
use tracing::{debug, info, warn};

use super::Run;
use crate::budget::{Now, StopRequests, budget};
use crate::child::{Child, Ended};
use crate::cluster::{Looked, Observation};
use crate::deadline::{now, until};
use crate::exit::Outcome;
use crate::gate::verdict::{Reason, Verdict, verdict};
use crate::peer::handover::Sockets;
use crate::pod::mains::Mains;
use crate::pod::run::Clocks;
use crate::pod::{Exit, Life, Snapshot};
use crate::policy::{Limit, OnSidecarExit};
use crate::signal::Signal;
use crate::signal::stream::Listener;

/// How long a look may take that confirms a sidecar's end.
const CONFIRM: Duration = Duration::from_secs(5);

/// A sidecar that has exited for good.
pub(super) struct Lost {
    name: String,
    exit: Exit,
    /// The Pod, as it was then.
    pod: Snapshot,
}

impl Run<'_> {
    /// Waits for the command's end, which a sidecar's brings about where that is asked for. `asked`: when proa was asked to stop, so
    /// far.
    pub(super) async fn wait(
        &self,
        child: Child,
        snapshot: Option<&Snapshot>,
        mut asked: StopRequests,
        signals: &mut Listener<'_>,
    ) -> std::io::Result<(Outcome, StopRequests)> {
        let stop = snapshot.and_then(|snapshot| snapshot.own.stop_signal);
        // It may have ended before its end was news.
        if let Some(ended) = child.collect() {
            return Ok((over(ended, None), asked));
        }
        let mut losing = Box::pin(self.loses_a_sidecar(snapshot));
        let mut lost: Option<Lost> = None;
        let mut kill_at = None;
        loop {
            tokio::select! {
                biased;
                received = signals.next() => {
                    if let Some(ended) = child.receive(received?, stop, &mut asked) {
                        return Ok((over(ended, lost), asked));
                    }
                }
                news = &mut losing, if lost.is_none() => {
                    let Lost { name, exit, pod } = &news;
                    warn!(container = name.as_str(), exit_code = exit.code, "sidecar `{name}` exited for good ({exit}): stopping the command (--on-sidecar-exit=stop)");
                    let now = Now { instant: now(), wall: SystemTime::now() };
                    let budget = budget(&pod.termination, Some(pod.life), &asked, now);
                    kill_at = budget.command(Limit::Default);
                    child.forward(pod.own.stop_signal.or(stop).unwrap_or(Signal::TERM));
                    lost = Some(news);
                }
                () = until(kill_at) => {
                    warn!("the command did not exit in time: sending SIGKILL");
                    kill_at = None;
                    child.kill();
                }
            }
        }
    }

    /// Waits until a sidecar that the gate waited for has exited for good; for ever, where nobody asks for that.
    async fn loses_a_sidecar(&self, snapshot: Option<&Snapshot>) -> Lost {
        let Some(own_pod) =
            self.own_pod.as_ref().filter(|_| self.plan.on_sidecar_exit == OnSidecarExit::Stop)
        else {
            return pending().await;
        };
        let own_pod = snapshot.map_or_else(|| own_pod.clone(), |snapshot| own_pod.named(&snapshot.name));
        let mut mains = self.mains(snapshot);
        let mut clocks = Clocks::default();
        let mut observations = own_pod.watch();
        let mut seen = None;
        loop {
            let settled_at = clocks.settled_at(seen.as_ref());
            tokio::select! {
                observation = observations.next() => match observation {
                    Some(Observation::Seen(snapshot)) => seen = Some(snapshot),
                    Some(Observation::Trouble(trouble)) => debug!(%trouble, "cannot see the sidecars"),
                    Some(Observation::Gone) | None => return pending().await,
                },
                () = until(settled_at) => {}
            }
            let Some(snapshot) = &mut seen else { continue };
            settle(&mut mains, &mut clocks, snapshot);
            if self.lost(snapshot).is_none() {
                continue;
            }
            // An end is final for the command: the API server's store knows better than its cache.
            if let Looked::Seen(mut pod) = own_pod.look(CONFIRM, false).await {
                settle(&mut mains, &mut clocks, &mut pod);
                if let Some((name, exit)) = self.lost(&pod) {
                    return Lost { name, exit, pod };
                }
            }
        }
    }

    /// What has exited for good of those that the gate waits for. In a Pod that goes all do.
    fn lost(&self, snapshot: &Snapshot) -> Option<(String, Exit)> {
        match verdict(snapshot, &self.plan.gate.selection) {
            Verdict::Refuse(Reason::SidecarEnded { name, exit }) if snapshot.life == Life::Active => {
                Some((name, exit))
            }
            _ => None,
        }
    }
}

fn settle(mains: &mut Mains, clocks: &mut Clocks, snapshot: &mut Snapshot) {
    mains.see(Sockets::of(&snapshot.uid).mains);
    mains.settle(snapshot);
    clocks.settle(snapshot, now());
}

fn over(ended: Ended, lost: Option<Lost>) -> Outcome {
    info!(exit_code = ended.exit_code(), "command ended: {ended}");
    match lost {
        Some(Lost { name, exit, .. }) => Outcome::LostSidecar { name, exit },
        None => Outcome::Ended(ended),
    }
}
