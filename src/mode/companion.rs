//! What `proa sidecar` does with and without a command: the wait before it, and whose end it listens for.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use std::{io, mem};

use futures::future::{FutureExt, join_all, pending};
use futures::stream::{BoxStream, StreamExt};
use tokio::sync::{Notify, watch};
use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::{
    PhaseRuntime, announce_disabled, appear, collect_orphans, of_sidecar, own_pod, patient_runtime, patiently,
};
use crate::budget::StopRequests;
use crate::cluster::trouble::{Refused, Trouble};
use crate::cluster::{Looked, Observation, OwnPod};
use crate::deadline::{now, until};
use crate::exit::Outcome;
use crate::gate::waiting::{PodWait, Waiting};
use crate::gate::{self, Api, Cause, Closed, Opened};
use crate::identity::Mounts;
use crate::mode::inspector::Inspector;
use crate::peer::handover::Sockets;
use crate::peer::{Message, MessageListener, Part, Peer, Presence, Reply, Word};
use crate::plan::sidecar::{Duty, SidecarPlan};
use crate::pod::mains::{self, Awaited, End, Mains as MainContainers, Misplaced, Notifications, Progress};
use crate::pod::run::Clocks;
use crate::pod::{Exit, Snapshot, list};
use crate::shortage::{PAUSE, once_there_is_enough};
use crate::shutdown::Sight;
use crate::signal::Signal;
use crate::signal::stream::{Listener, Signals};
use crate::status::board::Board;
use crate::status::{Quit, Server};
use crate::telemetry::LogPhase;

/// How long a look may take that confirms the main containers' end.
pub(super) const CONFIRM: Duration = Duration::from_secs(5);

/// What is said of them.
const HAVE_EXITED: &str =
    "the main containers whose exit this sidecar waits for have exited, as their proas say";

/// What there is to say of the main containers.
pub(super) enum Mains {
    /// They have ended; the Pod as it was then, and the worst of their exit codes.
    Ended(Box<Snapshot>, i32),
    /// This one ended otherwise than it should, for good.
    Failed(String, Exit),
    /// The Pod no longer exists.
    Gone,
    /// `proa sidecar` is out of place.
    Misplaced(Misplaced),
    /// They will not be seen.
    Unseen(Trouble),
}

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
    /// A word came, and the system was short of what it takes to tell whether it still holds.
    unsettled: Cell<bool>,
    is_unsettled: Notify,
    /// What a helper has been told, in whatever phase.
    told: Told,
    /// Since when the API server has shown nothing.
    silence: Silence,
    /// The Pod as a helper has last seen it.
    pub(super) last: RefCell<Option<Snapshot>>,
    /// Whether the Pod was ever seen: who denies us then may let us again.
    pub(super) seen: Cell<bool>,
    /// Which containers are main ones, as far as the manifest does not show it.
    pub(super) mains: RefCell<MainContainers>,
    /// How the runtime stops this container, where the Pod shows it.
    pub(super) stop_signal: Cell<Option<Signal>>,
    /// The Pod's UID, where the kubelet's mounts tell it.
    pub(super) uid: Option<String>,
    pub(super) inspector: Inspector<'a>,
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
        let mut asked = StopRequests::default();
        let presence = if plan.disabled {
            announce_disabled();
            collect_orphans();
            None
        } else {
            appear(mounts, Part::Sidecar, &mut asked)?
        };
        let listener = presence.as_ref().and_then(|presence| {
            let failed = |error: &anyhow::Error| {
                warn!("the other proas of this Pod cannot notify this sidecar: {error:#}");
            };
            let listener = patiently(&Sight::none(), &mut asked, || Ok(presence.listen()?));
            listener.inspect_err(failed).ok()
        });
        let server = Server::bind(plan.status, Quit::Offered).map_err(Outcome::NoStatus)?;
        let own_pod = own_pod(&plan.claim, &plan.api, mounts, dispensable, &mut asked);
        let own_pod = own_pod.map_err(of_sidecar)?;
        Ok(Self {
            plan,
            own_pod,
            signals,
            server,
            board: Board::default(),
            _presence: presence,
            listener,
            notifications: RefCell::default(),
            unsettled: Cell::default(),
            is_unsettled: Notify::new(),
            told: Told::default(),
            silence: Silence::default(),
            last: RefCell::default(),
            seen: Cell::default(),
            mains: RefCell::new(MainContainers::named(
                plan.mains.iter().map(|main| main.name.clone()).collect(),
            )),
            stop_signal: Cell::default(),
            uid: mounts.uid.clone(),
            inspector: Inspector::new(plan.asked()),
        })
    }

    /// Without one nobody shuts the sidecars down, or goes on with the command.
    pub(super) fn runtime(&self) -> anyhow::Result<(PhaseRuntime, Listener<'_>)> {
        patient_runtime(self.signals, &Sight::none(), &mut StopRequests::default())
    }

    /// Waits for what is asked for, if anything. Sidecars do not wait for one another by themselves.
    pub(super) fn gate(&self) -> anyhow::Result<Gated> {
        let gate = &self.plan.gate;
        if !gate.asks_directly() && gate.selection.wait_for.is_empty() {
            self.board.gate_over();
            return Ok(Gated::Open);
        }
        let _phase = LogPhase::Gate.enter();
        let (waiting, mut signals) = self.runtime()?;
        let gated = waiting.block_on(async {
            let api = match &self.own_pod {
                Some(own_pod) if !gate.selection.wait_for.is_empty() => Api::Needed(own_pod.watch()),
                _ => Api::NotAsked,
            };
            let search = RefCell::new(Search::default());
            let inspect = |pod: &Snapshot| {
                let mut pod = pod.clone();
                // Main containers are no sidecars that somebody has to shut down.
                if let Ok(Some(_)) = self.find_mains(&mut search.borrow_mut(), &mut pod) {
                    self.inspector.look(&pod);
                }
            };
            let passed = gate::pass(gate, api, &mut signals, &self.board, &inspect);
            let gated = async {
                tokio::select! {
                    // First: what else is waited for may have ended with them, which is no failure then.
                    biased;
                    (snapshot, code) = self.mains_ended() => Gated::Pointless(snapshot, code),
                    passed = passed => {
                        self.seen.set(passed.as_ref().is_ok_and(|opened| opened.snapshot.is_some()));
                        passed.into()
                    }
                    quit = self.quit_asked() => match quit {
                        WhyQuit::Asked => Gated::Over(Outcome::ShutDown),
                        WhyQuit::Abandoned(code) => Gated::Abandoned(code),
                    },
                }
            };
            self.server.during(&self.board, gated).await
        });
        self.board.gate_over();
        Ok(gated)
    }

    /// Waits until the main containers have exited, whatever else is waited for. What else there is to say of them is
    /// said once it matters.
    async fn mains_ended(&self) -> (Box<Snapshot>, i32) {
        match self.watch_mains(|_| {}).await {
            Mains::Ended(snapshot, code) => (snapshot, code),
            Mains::Failed(..) | Mains::Gone | Mains::Misplaced(_) | Mains::Unseen(_) => pending().await,
        }
    }

    /// Watches the main containers until there is something to say of them. Never returns where they cannot be seen, or have no
    /// end. `found`: called once, with those whose end is waited for.
    pub(super) async fn watch_mains(&self, found: impl Fn(&[Awaited])) -> Mains {
        let Some(own_pod) = &self.own_pod else {
            return pending().await;
        };
        let mut observations = own_pod.watch();
        let mut refused = self.refused();
        let mut clocks = Clocks::default();
        let mut mains = None;
        let mut search = Search::default();
        let mut last = None;
        loop {
            let again_at = [search.again_at(), clocks.settled_at(last.as_ref())].into_iter().flatten().min();
            let observation = tokio::select! {
                observation = observations.next() => observation,
                () = until(again_at) => last.take().map(Observation::Seen),
            };
            let Some(observation) = observation else { break };
            self.silence.note(&observation);
            let mut snapshot = match observation {
                Observation::Seen(snapshot) => snapshot,
                Observation::Gone => return Mains::Gone,
                Observation::Trouble(trouble) if refused.is_final(&trouble, now()) => {
                    return Mains::Unseen(trouble);
                }
                Observation::Trouble(_) => continue,
            };
            refused.pod_seen();
            clocks.settle(&mut snapshot, now());
            self.stop_signal.set(snapshot.own.stop_signal);
            if self.sees_to_the_rest() {
                self.last.replace(Some(snapshot.clone()));
            }
            if mains.is_none() {
                match self.find_mains(&mut search, &mut snapshot) {
                    Ok(Some(these)) => {
                        found(&these);
                        mains = Some(these);
                    }
                    Ok(None) => {
                        last = Some(snapshot);
                        continue;
                    }
                    Err(misplaced) => return Mains::Misplaced(misplaced),
                }
            }
            if snapshot.own.run.is_outdated() {
                last = Some(snapshot.clone());
            }
            self.mains.borrow().settle(&mut snapshot);
            self.inspector.look(&snapshot);
            let mains = mains.as_deref().unwrap_or_default();
            match mains::progress(&snapshot, mains) {
                Progress::Running(_) | Progress::Outdated => {}
                Progress::Endless => break,
                Progress::Ended(_) | Progress::Failed(..) => {
                    let confirmed = self.confirmed(own_pod, &snapshot, mains, &mut clocks, &mut observations);
                    if let Some(end) = confirmed.boxed_local().await {
                        return end;
                    }
                }
            }
        }
        // No connection is kept for what will not come.
        drop(observations);
        pending().await
    }

    /// What came of denials so far.
    pub(super) fn refused(&self) -> Refused {
        let mut refused = Refused::default();
        if self.seen.get() {
            refused.pod_seen();
        }
        refused
    }

    /// Finds the main containers; `None`: not yet.
    pub(super) fn find_mains(
        &self,
        search: &mut Search,
        snapshot: &mut Snapshot,
    ) -> Result<Option<Vec<Awaited>>, Misplaced> {
        // What is of an earlier round of the Pod tells nothing of who runs in this one.
        if snapshot.own.run.is_outdated() {
            search.outdated(&snapshot.own.name);
            return Ok(None);
        }
        let mut mains = self.mains.borrow_mut();
        mains.see(Sockets::of(&snapshot.uid).mains);
        mains.settle(snapshot);
        let found = search.over(mains::find(snapshot, &self.plan.mains), now())?;
        mains.add(found.as_deref().unwrap_or_default());
        mains.settle(snapshot);
        Ok(found)
    }

    /// These, and other main containers whose proa has shown itself since they were found.
    ///
    /// # Errors
    /// When the system is short of what it takes to look for those.
    pub(super) fn with_late(&self, snapshot: &Snapshot, mains: &[Awaited]) -> io::Result<Vec<Awaited>> {
        let mut all = mains.to_vec();
        if self.plan.mains.is_empty() {
            let running = Sockets::look(&snapshot.uid)?.mains;
            let late = snapshot.beside().filter(|beside| !beside.native && running.contains(&beside.name));
            let late: Vec<_> =
                late.filter(|beside| mains.iter().all(|main| main.name != beside.name)).collect();
            all.extend(late.iter().map(|beside| Awaited { name: beside.name.clone(), end: End::ForGood }));
        }
        Ok(all)
    }

    /// Looks once more, from the API server's store: what seems to be the main containers' end is final for us. `None`: it
    /// was none.
    async fn confirmed(
        &self,
        own_pod: &OwnPod,
        seen: &Snapshot,
        mains: &[Awaited],
        clocks: &mut Clocks,
        observations: &mut BoxStream<'static, Observation>,
    ) -> Option<Mains> {
        let snapshot = match own_pod.named(&seen.name).look(CONFIRM, false).await {
            Looked::Seen(mut snapshot) => {
                clocks.settle(&mut snapshot, now());
                snapshot
            }
            Looked::Gone => return Some(Mains::Gone),
            // What was seen is all there is.
            Looked::Not(trouble) => {
                debug!(%trouble, "cannot look at the Pod again");
                seen.clone()
            }
        };
        let mut late = self.with_late(&snapshot, mains);
        let short = late.is_err();
        if short {
            // The watch may hold what there is not enough of. A new one holds nothing before it is looked at.
            *observations = own_pod.watch();
            late = once_there_is_enough(None, || self.with_late(&snapshot, mains)).await;
        }
        let mains = late.unwrap_or_else(|error| {
            info!("the Pod alone tells which main containers there are: {error}");
            mains.to_vec()
        });
        match mains::progress(&snapshot, &mains) {
            Progress::Ended(code) => {
                info!("the main containers have exited");
                Some(Mains::Ended(Box::new(snapshot), code))
            }
            Progress::Failed(name, exit) => Some(Mains::Failed(name, exit)),
            Progress::Running(_) | Progress::Endless | Progress::Outdated => {
                // The new watch shows at once what this one did.
                if short {
                    sleep(CONFIRM).await;
                }
                None
            }
        }
    }

    /// Takes a word; whether it is enough to stop on.
    fn is_enough(&self, word: &Word) -> bool {
        let named = &self.plan.mains;
        match word {
            // Nothing may come after it: who cannot be asked is taken for ended, or this sidecar might never stop.
            Word::Quit(Message { container, code }) => {
                let mut notifications = self.notifications.borrow_mut();
                notifications.note_quit(container, *code, named);
                let settled =
                    notifications.settle(named, |name| Ok::<_, io::Error>(self.runs(name).unwrap_or(false)));
                settled.unwrap_or(true)
            }
            Word::Ended(Message { container, code }) => {
                self.notifications.borrow_mut().note_ended(container, *code, named);
                self.have_ended()
            }
        }
    }

    /// Whether all that are named have ended. A word may have waited in the socket while its sender was started again.
    fn have_ended(&self) -> bool {
        let named = &self.plan.mains;
        let settled = self.notifications.borrow_mut().settle(named, |name| self.runs(name));
        if let Err(error) = &settled {
            debug!(%error, "cannot ask whether main containers run again");
            self.unsettled.set(true);
            self.is_unsettled.notify_one();
        }
        // Who waits for nobody by name waits for all of them.
        settled.unwrap_or(false) && !named.is_empty()
    }

    fn runs(&self, name: &str) -> io::Result<bool> {
        Peer { uid: self.uid.clone().unwrap_or_default(), container: name.to_owned() }.runs()
    }

    /// Waits until it can be told that all that are named have ended, where it could not when the word came.
    async fn have_ended_since(&self) {
        loop {
            // It may have been so in an earlier phase.
            if !self.unsettled.get() {
                self.is_unsettled.notified().await;
            }
            sleep(PAUSE).await;
            self.unsettled.set(false);
            if self.have_ended() {
                return;
            }
        }
    }

    fn answer(&self, word: &Word) -> Reply {
        if !self.is_enough(word) {
            return Reply::NotYet;
        }
        match word {
            Word::Quit(_) => info!("the main container's proa asks this sidecar to stop"),
            Word::Ended(_) => info!("{HAVE_EXITED}"),
        }
        Reply::Stopping
    }

    /// Whether this is a helper, which shuts down what the main containers' proa may leave: it is killed, or does not know of
    /// everybody. It stays until the API shows their exit.
    fn sees_to_the_rest(&self) -> bool {
        self.own_pod.is_some() && matches!(self.plan.duty, Duty::Help { .. })
    }

    /// Waits until all main containers have notified us, their proas are gone, and the API server has shown nothing for a while. Anybody
    /// in the network namespace can say that they have ended: while the Pod shows that they run, they run.
    async fn abandoned(&self, listener: &MessageListener) {
        let complete = Notify::new();
        // A message that came in an earlier phase is not sent again.
        if self.told.complete.get() {
            complete.notify_one();
        }
        let note = |word: &Word| {
            let (Word::Quit(message) | Word::Ended(message)) = word;
            let awaited = match (self.plan.mains.as_slice(), word) {
                ([], Word::Ended(_)) => false,
                ([], Word::Quit(_)) => {
                    let told = self.told.by.borrow();
                    told.is_empty() || told.contains_key(&message.container)
                }
                (named, _) => named.iter().any(|main| main.name == message.container),
            };
            if awaited {
                self.told.by.borrow_mut().insert(message.container.clone(), message.code);
            }
            if self.is_enough(word) {
                self.told.complete.set(true);
                complete.notify_one();
            }
            Reply::ByItself
        };
        let gone = async {
            tokio::select! {
                () = complete.notified() => {}
                () = self.have_ended_since() => self.told.complete.set(true),
            }
            let senders = self.told.by.borrow().clone();
            let uid = self.uid.clone().unwrap_or_default();
            let peers: Vec<_> =
                senders.into_keys().map(|container| Peer { uid: uid.clone(), container }).collect();
            gone_for_good(&peers, &self.silence).await;
        };
        tokio::select! {
            () = listener.asked(note) => {}
            () = gone => {}
        }
    }

    /// Waits until another proa of the Pod, or a client of the status endpoint, asks for our end.
    pub(super) async fn quit_asked(&self) -> WhyQuit {
        let by_peer = async {
            match &self.listener {
                Some(listener) if self.sees_to_the_rest() => {
                    self.abandoned(listener).await;
                    info!(
                        "the main containers' proas have exited, and the API server has shown nothing for {} since",
                        humantime::format_duration(ABANDONED)
                    );
                    WhyQuit::Abandoned(self.told.by.borrow().values().max().copied().unwrap_or_default())
                }
                Some(listener) => {
                    tokio::select! {
                        () = listener.asked(|word| self.answer(word)) => {}
                        () = self.have_ended_since() => info!("{HAVE_EXITED}"),
                    }
                    WhyQuit::Asked
                }
                None => pending().await,
            }
        };
        tokio::select! {
            quit = by_peer => quit,
            () = self.server.quit_asked() => {
                info!("asked to stop at /quitquitquit");
                WhyQuit::Asked
            }
        }
    }
}

/// Why this sidecar is to end.
pub(super) enum WhyQuit {
    /// Somebody asks for it, or has ended whose end this sidecar waits for. Another proa sees to the rest.
    Asked,
    /// The main containers have ended, the worst of their exit codes this one, and nothing will show more of them.
    Abandoned(u8),
}

/// How long a helper goes on once the proa that has notified it is gone, and the API server shows nothing.
const ABANDONED: Duration = Duration::from_secs(30);

/// Waits until the proas that have notified a helper are gone, and have not come back while the API server showed nothing.
async fn gone_for_good(peers: &[Peer], silence: &Silence) {
    loop {
        join_all(peers.iter().map(Peer::gone)).await;
        silence.lasts(now(), ABANDONED).await;
        // One that was to be restarted may be there again.
        let there = join_all(peers.iter().map(Peer::is_there)).await;
        // Where that cannot be asked nobody is known to be gone.
        if there.iter().all(|there| matches!(there, Ok(false))) {
            return;
        }
    }
}

/// Since when the API server has shown nothing, if it has not. A watch in which nothing happens is no silence.
#[derive(Debug, Default)]
struct Silence(watch::Sender<Option<Instant>>);

impl Silence {
    fn note(&self, observation: &Observation) {
        self.0.send_if_modified(|since| {
            let before = match observation {
                Observation::Trouble(_) => mem::replace(since, since.or(Some(now()))),
                Observation::Seen(_) | Observation::Gone => since.take(),
            };
            *since != before
        });
    }

    /// Waits until it has lasted for so long since then.
    async fn lasts(&self, then: Instant, limit: Duration) {
        let mut silent = self.0.subscribe();
        loop {
            let over = silent.borrow_and_update().and_then(|since| since.max(then).checked_add(limit));
            tokio::select! {
                () = until(over) => return,
                // We hold the other end.
                _ = silent.changed() => {}
            }
        }
    }
}

/// What the main containers' proas have told a helper.
#[derive(Debug, Default)]
struct Told {
    /// Who did, and the exit code that each said last.
    by: RefCell<BTreeMap<String, u8>>,
    /// Whether all did whose end counts.
    complete: Cell<bool>,
}

/// The search for the main containers, in which an image's entrypoint may hide proa.
#[derive(Debug, Default)]
pub(super) struct Search {
    since: Option<Instant>,
    again_at: Option<Instant>,
    outdated: bool,
}

impl Search {
    /// How long the proa of a container that the kubelet calls started may take to show itself, and how often it is looked for.
    const LIMIT: Duration = Duration::from_secs(3);
    const PAUSE: Duration = Duration::from_millis(200);

    /// Takes the fact that nothing tells them for final only after a while.
    fn over(
        &mut self,
        found: Result<Option<Vec<Awaited>>, Misplaced>,
        now: Instant,
    ) -> Result<Option<Vec<Awaited>>, Misplaced> {
        self.again_at = None;
        let Err(Misplaced::WhichMain(_)) = found else {
            return found;
        };
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) >= Self::LIMIT {
            return found;
        }
        self.again_at = now.checked_add(Self::PAUSE);
        Ok(None)
    }

    /// Says once that what is seen is of an earlier run of this container.
    fn outdated(&mut self, own: &str) {
        if !mem::replace(&mut self.outdated, true) {
            let run = PodWait::PresentRun(own.to_owned());
            info!("waiting for {}", Waiting { pod: run, direct: Vec::new() });
        }
    }

    /// When to look at the same snapshot again.
    pub(super) fn again_at(&self) -> Option<Instant> {
        self.again_at
    }
}

/// Says whose end is waited for.
pub(super) fn announce(mains: &[Awaited]) {
    let names: Vec<_> = mains.iter().map(|main| main.name.as_str()).collect();
    if names.is_empty() {
        info!("this is a native sidecar, which the kubelet stops");
    } else {
        info!("running until the exit of {}", list(&names));
    }
}

/// What came of the gate.
pub(super) enum Gated {
    Open,
    /// The main containers ended meanwhile; the Pod as it was then, and the worst of their exit codes.
    Pointless(Box<Snapshot>, i32),
    /// The same of a helper, by their own word: the worst of their exit codes.
    Abandoned(u8),
    /// What was waited for will not come, or has not in time.
    Refused(Outcome),
    /// There is nothing more to do.
    Over(Outcome),
}

impl From<Result<Opened, Closed>> for Gated {
    fn from(passed: Result<Opened, Closed>) -> Self {
        match passed {
            Ok(_) => Self::Open,
            Err(Closed { cause: Cause::Stopped(received), .. }) => {
                info!(signal = %received.signal, "asked to stop before the gate was open");
                Self::Over(Outcome::ShutDown)
            }
            Err(Closed { cause: cause @ Cause::Refused(_), .. }) => Self::Refused(cause.into()),
            Err(Closed { cause, .. }) => Self::Over(cause.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::time::{advance, timeout};

    use super::*;
    use crate::pod::tests::snapshot;

    #[test]
    fn a_watch_in_which_nothing_happens_is_no_silence() {
        const LIMIT: Duration = Duration::from_secs(30);
        let seen = Observation::Seen(snapshot("spec: {containers: [{name: main, image: m}]}"));
        let trouble = Observation::Trouble(Trouble::NoConnection("x".into()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        runtime.unwrap().block_on(async {
            let (silence, start) = (Silence::default(), now());
            let lasts_within = async |seconds| {
                timeout(Duration::from_secs(seconds), silence.lasts(start, LIMIT)).await.is_ok()
            };
            assert!(!lasts_within(3600).await, "nothing stands in the way");
            silence.note(&trouble);
            assert!(!lasts_within(20).await);
            // It began with the first.
            silence.note(&trouble);
            assert!(lasts_within(11).await);
            silence.note(&seen);
            assert!(!lasts_within(3600).await, "it is over");
            silence.note(&trouble);
            advance(Duration::from_secs(3600)).await;
            let (then, waited) = (now(), silence.lasts(now(), LIMIT));
            waited.await;
            assert!(now() - then >= LIMIT, "what was before does not count");
        });
    }

    #[test]
    fn one_that_was_restarted_while_nothing_is_seen_is_not_gone_for_good() {
        let main = Peer { uid: format!("companion-{}", std::process::id()), container: "main".into() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        runtime.unwrap().block_on(async {
            let (silence, peers) = (Silence::default(), [main.clone()]);
            silence.note(&Observation::Trouble(Trouble::NoConnection("x".into())));
            let first = main.clone().announce(Part::Main).unwrap();
            let mut gone = pin!(gone_for_good(&peers, &silence));
            let mut is_within =
                async |seconds| timeout(Duration::from_secs(seconds), &mut gone).await.is_ok();
            assert!(!is_within(3600).await, "it is there");
            drop(first);
            assert!(!is_within(10).await, "it may come back");
            let again = main.announce(Part::Main).unwrap();
            assert!(!is_within(3600).await, "it has come back");
            drop(again);
            assert!(is_within(3600).await, "it is gone for good");
        });
    }
}
