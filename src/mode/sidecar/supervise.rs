//! A sidecar's command, from its start to its end: asked to stop once, and not before its time.

use std::io;
use std::pin::pin;
use std::time::{Duration, Instant, SystemTime};

use futures::FutureExt;
use futures::future::{BoxFuture, join_all, pending};
use futures::stream::{self, BoxStream, StreamExt};
use tokio::time::sleep;
use tracing::{debug, info, warn};

use crate::budget::{Budget, Now, StopRequests, budget};
use crate::child::{Child, Ended};
use crate::cluster::trouble::Refused;
use crate::cluster::{Looked, Observation, OwnPod};
use crate::deadline::{elapsed, now, until};
use crate::exit::Outcome;
use crate::gate::Refusal;
use crate::mode::companion::{CONFIRM, Companion, Search, announce};
use crate::peer::Peer;
use crate::peer::handover::Sockets;
use crate::plan::sidecar::Stop;
use crate::pod::mains::{self, Awaited, Progress};
use crate::pod::run::Clocks;
use crate::pod::{Life, Snapshot, Termination, list};
use crate::policy::AskApi;
use crate::shortage::LONGEST;
use crate::signal::stream::Listener;
use crate::signal::{self, Phase, Reaction, Received};

/// How long after a stop signal the API server shows that the Pod is to go, if it is: it knew first.
const SETTLED: Duration = Duration::from_secs(2);
/// How long until the next look meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// How long each look may take.
const LOOK: Duration = Duration::from_secs(1);

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
    let mut watch = Watch {
        companion,
        child,
        stop,
        observations: companion.own_pod.as_ref().map_or_else(|| stream::pending().boxed(), OwnPod::watch),
        refused: companion.refused(),
        warned: false,
        clocks: Clocks::default(),
        search: Search::default(),
        mains: None,
        failed: false,
        snapshot: None,
        asked: StopRequests::default(),
        confirming: None,
        short_since: None,
        stage: Stage::Running,
    };
    // It may have ended before its end was news.
    if let Some(ended) = watch.child.collect() {
        return Ok(watch.over(ended));
    }
    // One for all rounds: a message that is being taken is not to be cut off.
    let mut quit_asked = pin!(companion.quit_asked());
    loop {
        let settled_at = watch.clocks.settled_at(watch.snapshot.as_ref());
        let again_at = [watch.search.again_at(), settled_at].into_iter().flatten().min();
        let (held_until, kill_at) = (watch.stage.held().map(|held| held.until), watch.stage.kill_at());
        tokio::select! {
            biased;
            received = signals.next() => {
                if let Some(ended) = watch.signal(received?) {
                    return Ok(watch.over(ended));
                }
            }
            news = watch.stage.news() => match news {
                News::MainsGone => {
                    info!("the main container's proa is gone");
                    watch.end();
                }
                News::Looked(snapshot) => watch.looked(snapshot.map(|snapshot| *snapshot)),
            },
            () = until(held_until) => {
                warn!("--hold-term has run out: stopping the command while the main container runs");
                watch.end();
            }
            () = until(kill_at) => watch.kill(),
            _ = &mut quit_asked => {
                watch.end();
                // Others may still send messages, and get an answer.
                quit_asked.set(companion.quit_asked());
            }
            looked = confirmation(&mut watch.confirming) => watch.confirmed(looked),
            Some(observation) = watch.observations.next() => watch.observe(observation),
            () = until(again_at) => {
                if let Some(snapshot) = watch.snapshot.take() {
                    watch.seen(snapshot);
                }
            }
        }
    }
}

async fn confirmation(confirming: &mut Option<BoxFuture<'static, Looked>>) -> Looked {
    match confirming {
        Some(looking) => looking.await,
        None => pending().await,
    }
}

/// How far the command's end is.
enum Stage {
    /// It is not.
    Running,
    /// The Pod is to go, which is kept from the command.
    Held(Held),
    /// It was asked to stop; then `SIGKILL` follows.
    Asked(Why, Kill),
}

/// Whether a command that was asked to stop is killed.
enum Kill {
    /// Then; `None`: it has as long as it takes.
    At(Option<Instant>),
    /// It was.
    Sent,
}

/// How the stop is held back.
struct Held {
    /// Since when.
    since: Instant,
    /// No longer than that.
    until: Instant,
    /// Until the main containers' proas are gone.
    mains_gone: BoxFuture<'static, ()>,
    /// Whether the Pod is to go at all.
    looking: Option<BoxFuture<'static, Option<Snapshot>>>,
}

/// On whose behalf the command was asked to stop.
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
            Self::Asked(_, Kill::At(kill_at)) => *kill_at,
            Self::Asked(_, Kill::Sent) | Self::Running | Self::Held(..) => None,
        }
    }

    /// What comes of holding the stop back.
    async fn news(&mut self) -> News {
        let Self::Held(Held { mains_gone, looking, .. }) = self else {
            return pending().await;
        };
        let looked = async {
            match looking {
                Some(looking) => looking.await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            () = mains_gone.as_mut() => News::MainsGone,
            looked = looked => News::Looked(looked.map(Box::new)),
        }
    }
}

/// What comes of holding the stop back.
enum News {
    MainsGone,
    /// The Pod some time after the signal, if it can be seen.
    Looked(Option<Box<Snapshot>>),
}

struct Watch<'a, 'b> {
    companion: &'a Companion<'b>,
    child: Child,
    stop: Stop,
    observations: BoxStream<'static, Observation>,
    refused: Refused,
    /// Whether it was said that the main containers cannot be seen.
    warned: bool,
    clocks: Clocks,
    search: Search,
    mains: Option<Vec<Awaited>>,
    /// One of them ended otherwise than it should, so that there is no end to wait for.
    failed: bool,
    snapshot: Option<Snapshot>,
    asked: StopRequests,
    /// A look that shows whether the main containers have really ended.
    confirming: Option<BoxFuture<'static, Looked>>,
    /// Since when other main containers cannot be looked for, so that nothing is watched either.
    short_since: Option<Instant>,
    stage: Stage,
}

impl Watch<'_, '_> {
    /// Takes a signal; how the command ended, if that is the news.
    fn signal(&mut self, received: Received) -> Option<Ended> {
        match signal::reaction(Phase::Command, received) {
            Reaction::Reap => return self.child.collect(),
            Reaction::Forward if self.is_stop(received) => self.asked_to_stop(received),
            Reaction::Forward => self.child.forward(received.signal),
            Reaction::Stop | Reaction::Suspend | Reaction::Ignore | Reaction::Drop => {}
        }
        None
    }

    /// Whether this is how the runtime stops the container. `--stop-signal` names an image's own `STOPSIGNAL` too.
    fn is_stop(&self, received: Received) -> bool {
        let own = self.snapshot.as_ref().and_then(|snapshot| snapshot.own.stop_signal);
        received.is_stop(None) || received.is_stop(own) || received.signal == self.stop.signal
    }

    fn asked_to_stop(&mut self, received: Received) {
        let (now, signal) = (now(), received.signal);
        self.asked.note(now, received.sender);
        self.keep_time();
        let Stage::Running = self.stage else {
            return;
        };
        let Some(hold) = self.stop.hold else {
            info!(%signal, "asked to stop");
            return self.end();
        };
        let names = self.main_names();
        let uid = self.snapshot.as_ref().map(|snapshot| snapshot.uid.clone());
        let uid = uid.or_else(|| self.companion.uid.clone());
        let Some(uid) = uid.filter(|_| !names.is_empty()) else {
            warn!("no main container is known to wait for: stopping the command");
            return self.end();
        };
        info!(%signal, "asked to stop: held back until the proa of {} is gone", list(&names));
        let peers: Vec<_> = names.into_iter().map(|container| Peer { uid: uid.clone(), container }).collect();
        let gone = async move {
            join_all(peers.iter().map(Peer::gone)).await;
        };
        self.stage = Stage::Held(Held {
            since: now,
            until: self.budget().hold(hold, now, self.stop.timeout),
            mains_gone: gone.boxed(),
            looking: self.own_pod().map(|own_pod| leaving(own_pod, now).boxed()),
        });
    }

    /// Where the Pod is to be seen, by the name that is known to be right.
    fn own_pod(&self) -> Option<OwnPod> {
        let own_pod = self.companion.own_pod.as_ref()?;
        Some(self.snapshot.as_ref().map_or_else(|| own_pod.clone(), |snapshot| own_pod.named(&snapshot.name)))
    }

    /// What is left of our time, by what is known now.
    fn budget(&self) -> Budget {
        let snapshot = self.snapshot.as_ref();
        let termination = snapshot.map_or_else(Termination::default, |snapshot| snapshot.termination);
        // That the Pod goes is never undone; that it stays may have changed since it was seen.
        let life = snapshot.map(|snapshot| snapshot.life).filter(|life| *life != Life::Active);
        budget(&termination, life, &self.asked, Now { instant: now(), wall: SystemTime::now() })
    }

    /// Moves the moments that follow from what is known.
    fn keep_time(&mut self) {
        let budget = self.budget();
        match (&mut self.stage, self.stop.hold) {
            (Stage::Held(held), Some(limit)) => {
                held.until = budget.hold(limit, held.since, self.stop.timeout);
            }
            (Stage::Asked(_, Kill::At(kill_at)), _) => {
                let moments = [*kill_at, budget.command(self.stop.timeout)];
                *kill_at = moments.into_iter().flatten().min();
            }
            _ => {}
        }
    }

    /// What looks at the Pod after a stop signal came to. A failed liveness probe ends this container alone, which is then
    /// started again, the sooner the better.
    fn looked(&mut self, looked: Option<Snapshot>) {
        let Stage::Held(held) = &mut self.stage else {
            return;
        };
        held.looking = None;
        let Some(snapshot) = looked else {
            return;
        };
        let goes_on = snapshot.life == Life::Active;
        self.seen(snapshot);
        if goes_on && matches!(self.stage, Stage::Held(_)) {
            info!("the Pod goes on: only this container is asked to stop");
            self.end();
        }
    }

    /// The main containers' names, as far as they are known.
    fn main_names(&self) -> Vec<String> {
        let known = self.mains.as_deref().unwrap_or(&self.companion.plan.mains);
        if known.is_empty() && self.mains.is_none() {
            let uid = self.snapshot.as_ref().map(|snapshot| &snapshot.uid).or(self.companion.uid.as_ref());
            return uid.map_or_else(Vec::new, |uid| Sockets::of(uid).mains.into_iter().collect());
        }
        known.iter().map(|main| main.name.clone()).collect()
    }

    fn observe(&mut self, observation: Observation) {
        match observation {
            Observation::Seen(snapshot) => self.seen(snapshot),
            // The watch goes on: rights may come late, and what was allowed may be allowed again.
            Observation::Trouble(trouble) if self.refused.is_final(&trouble, now()) => {
                if self.companion.plan.api.ask == AskApi::Require {
                    self.give_up(Outcome::Refused(Refusal::Api(trouble)));
                } else if !self.warned {
                    self.warned = true;
                    warn!(
                        "cannot see when the main containers exit, so this sidecar runs until their proa, /quitquitquit or \
                         SIGTERM: {trouble}"
                    );
                }
            }
            Observation::Gone | Observation::Trouble(_) => {}
        }
    }

    fn seen(&mut self, mut snapshot: Snapshot) {
        self.refused.pod_seen();
        self.clocks.settle(&mut snapshot, now());
        self.companion.stop_signal.set(snapshot.own.stop_signal);
        if self.mains.is_none() {
            match self.companion.find_mains(&mut self.search, &mut snapshot) {
                Ok(found) => {
                    found.as_deref().into_iter().for_each(announce);
                    self.mains = found;
                }
                Err(misplaced) => return self.give_up(Outcome::Misplaced(misplaced)),
            }
        }
        let progress = self.progress(&snapshot);
        if self.mains.is_some() {
            self.companion.inspector.look(&snapshot);
        }
        self.snapshot = Some(snapshot);
        self.keep_time();
        match progress {
            Progress::Running(_) | Progress::Outdated => {}
            // No connection is kept for what will not come.
            Progress::Endless => self.observations = stream::pending().boxed(),
            Progress::Ended(_) | Progress::Failed(..) => {
                if self.confirming.is_none() && !matches!(self.stage, Stage::Asked(..)) {
                    self.confirm_after(Duration::ZERO);
                }
            }
        }
    }

    fn progress(&self, snapshot: &Snapshot) -> Progress {
        if self.failed {
            return Progress::Endless;
        }
        match &self.mains {
            Some(mains) => mains::progress(snapshot, mains),
            None => Progress::Outdated,
        }
    }

    /// Looks once more: what seems to be the end is final for us, and the API server's store knows better than its cache.
    fn confirm_after(&mut self, pause: Duration) {
        self.confirming = self.own_pod().map(|own_pod| {
            let looking = async move {
                sleep(pause).await;
                own_pod.look(CONFIRM, false).await
            };
            looking.boxed()
        });
    }

    /// What the look came to by which the main containers' end is confirmed.
    fn confirmed(&mut self, looked: Looked) {
        self.confirming = None;
        match looked {
            Looked::Seen(mut snapshot) => {
                self.clocks.settle(&mut snapshot, now());
                self.snapshot = Some(snapshot);
            }
            // What was seen is all there is.
            Looked::Not(trouble) => debug!(%trouble, "cannot look at the Pod again"),
            Looked::Gone => {}
        }
        if let (Some(snapshot), Some(mains)) = (&self.snapshot, &self.mains) {
            match self.companion.with_late(snapshot, mains) {
                Ok(mains) => self.mains = Some(mains),
                Err(error) if elapsed(*self.short_since.get_or_insert_with(now)) < LONGEST => {
                    debug!(%error, "cannot look for other main containers");
                    // The watch may hold what there is not enough of. A new one holds nothing before it is looked at.
                    self.observations = stream::pending().boxed();
                    return self.confirm_after(LOOK_AGAIN);
                }
                Err(error) => info!("the Pod alone tells which main containers there are: {error}"),
            }
        }
        if let Some(own_pod) = self.own_pod().filter(|_| self.short_since.is_some()) {
            self.short_since = None;
            self.observations = own_pod.watch();
        }
        let Some(progress) = self.snapshot.as_ref().map(|snapshot| self.progress(snapshot)) else {
            return;
        };
        match progress {
            Progress::Ended(_) if !matches!(self.stage, Stage::Asked(..)) => {
                info!("the main containers have exited");
                self.end();
            }
            Progress::Failed(name, exit) => {
                warn!(
                    container = name.as_str(),
                    exit_code = exit.code,
                    "`{name}` ended with {exit}: the command runs on (--until-exit-success)"
                );
                self.failed = true;
                self.observations = stream::pending().boxed();
            }
            Progress::Ended(_) | Progress::Running(_) | Progress::Endless | Progress::Outdated => {}
        }
    }

    fn give_up(&mut self, outcome: Outcome) {
        self.ask(Why::Failed(outcome));
    }

    /// Asks the command to stop, unless it was asked already.
    fn end(&mut self) {
        self.ask(Why::Wanted);
    }

    fn ask(&mut self, why: Why) {
        if matches!(self.stage, Stage::Asked(..)) {
            return;
        }
        let kill_at = Kill::At(self.budget().command(self.stop.timeout));
        info!("stopping the command with {}", self.stop.signal);
        self.child.forward(self.stop.signal);
        self.stage = Stage::Asked(why, kill_at);
    }

    fn kill(&mut self) {
        if let Stage::Asked(_, kill_at) = &mut self.stage {
            warn!("the command did not exit in time: sending SIGKILL (--stop-timeout)");
            *kill_at = Kill::Sent;
            self.child.kill();
        }
    }

    /// What the command's end means.
    fn over(self, ended: Ended) -> Outcome {
        info!(exit_code = ended.exit_code(), "command ended: {ended}");
        match self.stage {
            Stage::Asked(Why::Failed(outcome), _) => outcome,
            Stage::Asked(Why::Wanted, _) => Outcome::ShutDown,
            Stage::Running | Stage::Held(..) => Outcome::Ended(ended),
        }
    }
}

/// Looks whether the Pod is to go: until it is, or enough time has passed for that to show. `None`: it cannot be seen.
async fn leaving(own_pod: OwnPod, asked_at: Instant) -> Option<Snapshot> {
    loop {
        match own_pod.look(LOOK, false).await {
            Looked::Seen(snapshot) if snapshot.life != Life::Active => return Some(snapshot),
            // Seen when it would have shown.
            Looked::Seen(snapshot) if elapsed(asked_at) >= SETTLED => return Some(snapshot),
            Looked::Gone => return None,
            Looked::Not(_) if elapsed(asked_at) >= SETTLED * 2 => return None,
            Looked::Seen(_) | Looked::Not(_) => {}
        }
        sleep(LOOK_AGAIN).await;
    }
}
