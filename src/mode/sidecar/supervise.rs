//! A sidecar's command, from its start to its end: asked to end once, and not before its time.

use std::io;
use std::pin::pin;
use std::time::{Duration, SystemTime};

use futures::future::{BoxFuture, join_all};
use futures::stream::{BoxStream, StreamExt};
use futures::{FutureExt, stream};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::child::{Child, Ended};
use crate::cluster::{Doubt, GRACE, Observation};
use crate::deadline::until;
use crate::exit::Outcome;
use crate::gate::Refusal;
use crate::mode::companion::{Companion, announce};
use crate::peer::Peer;
use crate::plan::sidecar::Stop;
use crate::pod::mains::{self, Awaited, Progress};
use crate::pod::{Life, Snapshot, list};
use crate::policy::{AskApi, HoldTerm};
use crate::signal::stream::Listener;
use crate::signal::{self, Phase, Reaction, Signal};

/// The grace period where the Pod was never seen; Kubernetes' own default.
const DEFAULT_GRACE: Duration = Duration::from_secs(30);
/// The kubelet gives every container this long, whatever the grace period (`minimumGracePeriodInSeconds`).
const LEAST: Duration = Duration::from_secs(2);
/// How long before the kubelet kills what is left all must be over.
const MARGIN: Duration = Duration::from_secs(1);
/// How long after SIGTERM the API server shows that the Pod is to end, if it is: it was told first.
const DOUBT: Duration = Duration::from_secs(2);
/// The most that is kept for the command's own end of a grace period, a quarter of which it gets.
const RESERVE: Duration = Duration::from_secs(5);

/// Waits for the command's end, and brings it about once it is time.
///
/// # Errors
/// When signals can no longer be received.
pub(super) async fn until_its_end(
    companion: &Companion<'_>,
    child: Child,
    stop: Stop,
    signals: &mut Listener<'_>,
) -> io::Result<Outcome> {
    let observations = match &companion.own_pod {
        Some(own_pod) => own_pod.watch(),
        None => stream::pending().boxed(),
    };
    let mut watch = Watch {
        companion,
        child,
        stop,
        observations,
        doubt: Doubt::default(),
        mains: None,
        failed: false,
        snapshot: None,
        killed_at: None,
        stage: Stage::Running,
    };
    // One for all rounds: a word that is being heard is not to be cut off.
    let mut quit_asked = pin!(companion.quit_asked());
    loop {
        let (held_until, kill_at) = (watch.stage.held().map(|held| held.until), watch.stage.kill_at());
        let look_at = watch.stage.held().and_then(|held| held.look_at);
        tokio::select! {
            biased;
            received = signals.next() => {
                if let Some(ended) = watch.signal(received?) {
                    return Ok(watch.over(ended));
                }
            }
            () = watch.stage.mains_gone() => {
                info!("the main container's proa is gone");
                watch.end();
            }
            () = until(held_until) => {
                warn!("held back for as long as may be: ending the command beside the main container");
                watch.end();
            }
            () = until(look_at) => watch.look(),
            () = until(kill_at) => watch.kill(),
            () = &mut quit_asked => {
                watch.end();
                // Others still speak, and are answered.
                quit_asked.set(companion.quit_asked());
            }
            Some(observation) = watch.observations.next() => watch.observe(observation),
        }
    }
}

/// How far the command's end is.
enum Stage {
    /// It is not.
    Running,
    /// The Pod is to end, which is kept from the command.
    Held(Held),
    /// It was asked to; then `SIGKILL` follows.
    Asked(Why, Option<Instant>),
}

/// How the end is held back.
struct Held {
    /// No longer than that.
    until: Instant,
    /// Until the main containers' proas are gone.
    mains_gone: BoxFuture<'static, ()>,
    /// When to look whether the Pod is to end at all.
    look_at: Option<Instant>,
    /// Whether it was, when it was last seen since.
    life: Option<Life>,
}

/// On whose behalf the command was asked to end.
enum Why {
    /// Somebody's who wants us to.
    Wanted,
    /// Ours: we should not be here.
    Failed(Outcome),
}

impl Stage {
    fn held(&self) -> Option<&Held> {
        match self {
            Self::Held(held) => Some(held),
            Self::Running | Self::Asked(..) => None,
        }
    }

    fn kill_at(&self) -> Option<Instant> {
        match self {
            Self::Asked(_, kill_at) => *kill_at,
            Self::Running | Self::Held(..) => None,
        }
    }

    async fn mains_gone(&mut self) {
        match self {
            Self::Held(held) => held.mains_gone.as_mut().await,
            Self::Running | Self::Asked(..) => std::future::pending().await,
        }
    }
}

struct Watch<'a, 'b> {
    companion: &'a Companion<'b>,
    child: Child,
    stop: Stop,
    observations: BoxStream<'static, Observation>,
    doubt: Doubt,
    mains: Option<Vec<Awaited>>,
    /// One of them ended otherwise than awaited, so that there is no end to wait for.
    failed: bool,
    snapshot: Option<Snapshot>,
    /// When the kubelet kills what is left, as far as it is known.
    killed_at: Option<Instant>,
    stage: Stage,
}

impl Watch<'_, '_> {
    /// Takes a signal; how the command ended, if that is the news.
    fn signal(&mut self, signal: Signal) -> Option<Ended> {
        match signal::reaction(Phase::Command, signal) {
            Reaction::Reap => return self.child.collect(),
            Reaction::Forward if self.is_stop(signal) => self.asked_by_kubelet(signal),
            Reaction::Forward => self.child.forward(signal),
            Reaction::Stop | Reaction::Hold | Reaction::Suspend | Reaction::Ignore => {}
        }
        None
    }

    /// Whether this is how the runtime stops the container. An image's own `STOPSIGNAL` the Pod does not show; it is
    /// what `--stop-signal` names.
    fn is_stop(&self, signal: Signal) -> bool {
        let own = self.snapshot.as_ref().and_then(|snapshot| snapshot.own.stop_signal);
        signal == Signal::TERM || signal == self.stop.signal || Some(signal) == own
    }

    fn asked_by_kubelet(&mut self, signal: Signal) {
        let now = Instant::now();
        let grace = self.snapshot.as_ref().map_or(DEFAULT_GRACE, |snapshot| snapshot.grace);
        self.killed_by(now + grace.max(LEAST), grace);
        let killed_at = self.killed_at.unwrap_or(now);
        let Stage::Running = self.stage else {
            return;
        };
        let Some(hold) = self.stop.hold else {
            info!(%signal, "asked to end");
            return self.end();
        };
        let until = hold_until(hold, now, killed_at, grace, self.stop.timeout);
        let names = self.main_names();
        let uid = self.snapshot.as_ref().map(|snapshot| snapshot.uid.clone());
        let uid = uid.or_else(|| self.companion.uid.clone());
        let Some(uid) = uid.filter(|_| !names.is_empty()) else {
            warn!("cannot tell whose end to hold it back for: ending the command");
            return self.end();
        };
        info!(%signal, "asked to end: held back until the proa of {} is gone", list(&names));
        let peers: Vec<_> = names.into_iter().map(|container| Peer { uid: uid.clone(), container }).collect();
        let gone = async move {
            join_all(peers.iter().map(Peer::gone)).await;
        };
        self.stage =
            Stage::Held(Held { until, mains_gone: gone.boxed(), look_at: Some(now + DOUBT), life: None });
        // The deletion may have a grace period of its own, or there may be none.
        if let Some(own_pod) = &self.companion.own_pod {
            self.observations = own_pod.watch();
        }
    }

    /// The kubelet kills what is left then, or earlier.
    fn killed_by(&mut self, moment: Instant, grace: Duration) {
        let killed_at = self.killed_at.map_or(moment, |known| known.min(moment));
        self.killed_at = Some(killed_at);
        if let (Stage::Held(held), Some(hold)) = (&mut self.stage, self.stop.hold) {
            let until = hold_until(hold, Instant::now(), killed_at, grace, self.stop.timeout);
            held.until = held.until.min(until);
        }
    }

    /// Looks whether the Pod is to end at all. A failed liveness probe ends this container alone, which is then
    /// started again, the sooner the better.
    fn look(&mut self) {
        if let Stage::Held(held) = &mut self.stage {
            held.look_at = None;
            self.judge_hold();
        }
    }

    fn judge_hold(&mut self) {
        if let Stage::Held(Held { look_at: None, life: Some(Life::Active), .. }) = self.stage {
            info!("the Pod goes on: this container alone is asked to end");
            self.end();
        }
    }

    /// The main containers' names, as far as they are known.
    fn main_names(&self) -> Vec<String> {
        let known = self.mains.as_deref().unwrap_or(&self.companion.plan.mains);
        known.iter().map(|main| main.name.clone()).collect()
    }

    fn observe(&mut self, observation: Observation) {
        match observation {
            Observation::Seen(snapshot) => self.seen(snapshot),
            Observation::Trouble(trouble) if self.doubt.about(&trouble) >= GRACE => {
                self.observations = stream::pending().boxed();
                if self.companion.plan.api.ask == AskApi::Require {
                    self.give_up(Outcome::Refused(Refusal::Api(trouble)));
                } else {
                    warn!(
                        "cannot see when the main containers end, so running until told by their proa, /quitquitquit or \
                         SIGTERM: {trouble}"
                    );
                }
            }
            Observation::Gone | Observation::Trouble(_) => {}
        }
    }

    fn seen(&mut self, snapshot: Snapshot) {
        self.doubt.dispel();
        if let Stage::Held(held) = &mut self.stage {
            held.life = Some(snapshot.life);
        }
        if let Some(left) = snapshot.grace_left(SystemTime::now()) {
            self.killed_by(Instant::now() + left, snapshot.grace);
        }
        if self.mains.is_none() {
            match mains::find(&snapshot, &self.companion.plan.mains) {
                Ok(found) => self.mains = Some(announce(&found)),
                Err(misplaced) => return self.give_up(Outcome::Misplaced(misplaced)),
            }
        }
        let progress = if self.failed {
            Progress::Endless
        } else {
            mains::progress(&snapshot, self.mains.as_deref().unwrap_or_default())
        };
        self.snapshot = Some(snapshot);
        self.judge_hold();
        match progress {
            Progress::Running(_) => {}
            // No connection is kept for what will not come.
            Progress::Endless if matches!(self.stage, Stage::Held(..)) => {}
            Progress::Endless => self.observations = stream::pending().boxed(),
            Progress::Ended(_) if matches!(self.stage, Stage::Asked(..)) => {}
            Progress::Ended(_) => {
                info!("the main containers have ended");
                self.end();
            }
            Progress::Failed(name, exit) => {
                if !matches!(self.stage, Stage::Asked(..)) {
                    warn!("`{name}` ended with {exit}: the command runs on (--until-exit-success)");
                    self.failed = true;
                }
            }
        }
    }

    fn give_up(&mut self, outcome: Outcome) {
        self.ask(Why::Failed(outcome));
    }

    /// Asks the command to end, unless it was asked already.
    fn end(&mut self) {
        self.ask(Why::Wanted);
    }

    fn ask(&mut self, why: Why) {
        if matches!(self.stage, Stage::Asked(..)) {
            return;
        }
        let now = Instant::now();
        let grace = self.snapshot.as_ref().map_or(DEFAULT_GRACE, |snapshot| snapshot.grace);
        let mut kill_at = now + self.stop.timeout.unwrap_or(grace);
        if let Some(killed_at) = self.killed_at {
            // The Pod's times are whole seconds of another clock: it has its time all the same.
            let least = now + self.stop.timeout.unwrap_or(LEAST).min(LEAST);
            kill_at = kill_at.min(killed_at.checked_sub(MARGIN).unwrap_or(killed_at)).max(least);
        }
        info!("ending the command with {}", self.stop.signal);
        self.child.forward(self.stop.signal);
        self.stage = Stage::Asked(why, Some(kill_at));
    }

    fn kill(&mut self) {
        if let Stage::Asked(_, kill_at) = &mut self.stage {
            warn!("the command does not end: SIGKILL follows (--stop-timeout)");
            *kill_at = None;
            self.child.kill();
        }
    }

    /// What the command's end means.
    fn over(self, ended: Ended) -> Outcome {
        info!("command ended: {ended}");
        match self.stage {
            Stage::Asked(Why::Failed(outcome), _) => outcome,
            Stage::Asked(Why::Wanted, _) => Outcome::ShutDown,
            Stage::Running | Stage::Held(..) => Outcome::Ended(ended),
        }
    }
}

/// How long the end is held back: as long as the command then still has its time.
fn hold_until(
    hold: HoldTerm,
    now: Instant,
    killed_at: Instant,
    grace: Duration,
    stop_timeout: Option<Duration>,
) -> Instant {
    let reserve = MARGIN + stop_timeout.unwrap_or((grace / 4).min(RESERVE));
    let latest = killed_at.checked_sub(reserve).unwrap_or(now).max(now);
    match hold {
        HoldTerm::Grace => latest,
        HoldTerm::For(duration) => latest.min(now + duration),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_leaves_the_command_its_time() {
        let now = Instant::now();
        let seconds = Duration::from_secs;
        let held = |hold, grace, stop_timeout| {
            hold_until(hold, now, now + seconds(grace), seconds(grace), stop_timeout) - now
        };
        assert_eq!(held(HoldTerm::Grace, 30, None), seconds(24));
        assert_eq!(held(HoldTerm::Grace, 8, None), seconds(5));
        assert_eq!(held(HoldTerm::Grace, 30, Some(seconds(10))), seconds(19));
        assert_eq!(held(HoldTerm::For(seconds(3)), 30, None), seconds(3));
        assert_eq!(held(HoldTerm::For(seconds(60)), 30, None), seconds(24));
        assert_eq!(held(HoldTerm::Grace, 0, None), Duration::ZERO);
        assert_eq!(held(HoldTerm::Grace, 5, Some(seconds(60))), Duration::ZERO);
    }
}
