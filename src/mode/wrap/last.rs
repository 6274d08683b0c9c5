//! Whether this is the last main container, which shuts the sidecars down.

use std::collections::BTreeSet;
use std::future::pending;
use std::io;
use std::mem;
use std::time::{Duration, Instant};

use futures::stream::{BoxStream, StreamExt};
use tokio::time::{MissedTickBehavior, interval_at};
use tracing::info;

use crate::budget::StopRequests;
use crate::cluster::trouble::Trouble;
use crate::cluster::{Observation, OwnPod};
use crate::deadline::{elapsed, now, until};
use crate::peer::handover::{Sockets, hand_over};
use crate::peer::{Message, Peer};
use crate::pod::run::Clocks;
use crate::pod::{Life, Main, Snapshot, Termination};
use crate::shortage::{LONGEST, PAUSE};
use crate::shutdown::turn::{KILLED, Other, goes_first, is_killed};
use crate::shutdown::{self, Need, Others, Sight, Turn, Worth, asked_to_stop, look, turn};
use crate::signal::Phase;
use crate::signal::stream::Listener;

/// How often the other proas are looked at while main containers are waited for.
const LOOK_AROUND: Duration = Duration::from_secs(1);
/// How long there is no watch, once one had to make room.
const WITHOUT_WATCH: Duration = Duration::from_secs(10);
/// How often a long wait says what it waits for.
const REPORT: Duration = Duration::from_secs(60);
/// How long main containers are waited for while the API server denies us: their end would never be seen.
const OUT_OF_SIGHT: Duration = Duration::from_secs(30);

/// Since when the API server shows nothing, and whether it denies us without anything else between.
#[derive(Debug, Default)]
struct Blind {
    since: Option<Instant>,
    why: Option<String>,
    denied: Denied,
}

#[derive(Debug, Default)]
enum Denied {
    #[default]
    Not,
    Since(Instant),
    /// It has lasted, and what the API server says next is its last word.
    AskedAgain,
    ForGood,
}

impl Blind {
    fn note(&mut self, trouble: &Trouble, now: Instant) {
        self.since.get_or_insert(now);
        self.why = Some(trouble.to_string());
        // One that is away will come back, and the main containers may run on meanwhile.
        self.denied = match self.denied {
            _ if !trouble.is_denial() => Denied::Not,
            Denied::Not => Denied::Since(now),
            Denied::Since(since) => Denied::Since(since),
            Denied::AskedAgain | Denied::ForGood => Denied::ForGood,
        };
    }

    /// When a denial has lasted so long that it is for good, unless one more attempt shows otherwise: by then they are half a
    /// minute apart.
    fn ask_again_at(&self) -> Option<Instant> {
        match self.denied {
            Denied::Since(since) => since.checked_add(OUT_OF_SIGHT),
            Denied::Not | Denied::AskedAgain | Denied::ForGood => None,
        }
    }

    /// Whether that attempt was denied too.
    fn is_denied(&self) -> bool {
        matches!(self.denied, Denied::ForGood)
    }

    fn report(&self, awaited: &[Other]) {
        let why = self.why.as_ref().map(|why| format!("; the API server shows nothing: {why}"));
        info!("still waiting for {}{}", names(awaited), why.unwrap_or_default());
    }

    /// Whether it has lasted so long that nothing of the Pod's status is waited for any more that shows elsewhere too.
    fn is_lasting(&self, now: Instant) -> bool {
        self.since.and_then(|since| since.checked_add(OUT_OF_SIGHT)).is_some_and(|by| by <= now)
    }
}

/// Since when nobody can be looked for.
#[derive(Debug, Default)]
struct Short {
    since: Option<Instant>,
    said: bool,
}

impl Short {
    /// What is known of the others. `None`: nothing yet, and nothing is decided. In the end the Pod alone decides.
    fn heed(&mut self, looked: io::Result<Others>, nobody_seen: impl FnOnce() -> Others) -> Option<Others> {
        match looked {
            Ok(others) => {
                self.since = None;
                Some(others)
            }
            Err(error) => {
                let since = *self.since.get_or_insert_with(now);
                if !mem::replace(&mut self.said, true) {
                    info!("waiting until the other main containers can be looked for: {error}");
                }
                (elapsed(since) >= LONGEST).then(nobody_seen)
            }
        }
    }
}

/// When the container is about to be killed.
#[derive(Debug, Default)]
struct Pressing {
    by: Option<Instant>,
    /// What it was reckoned with.
    fresh: bool,
    known: Option<(Life, Termination)>,
    asked: StopRequests,
}

impl Pressing {
    /// News of the Pod alone puts it off, and that it is out of sight for a moment is none: what was seen of it after a request was
    /// the answer to that request.
    fn reckon(&mut self, sight: &Sight, asked: &StopRequests) -> Option<Instant> {
        let known = sight.snapshot.as_ref().map(|snapshot| (snapshot.life, snapshot.termination));
        if sight.fresh || self.known != known || self.asked != *asked {
            let same = self.fresh == sight.fresh && self.known == known;
            self.by = sight.over_by(asked, self.by.filter(|_| same));
            *self = Self { by: self.by, fresh: sight.fresh, known, asked: asked.clone() };
        }
        self.by
    }
}

/// Who shuts the sidecars down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ShutDownBy {
    /// We do: nobody else will.
    Us,
    /// Another main container's proa does.
    Another,
    /// Nobody: the Pod goes, or this container is about to be started again.
    Nobody,
}

/// Our place among the main containers, once our command is over.
pub(super) struct Last {
    uid: String,
    own: String,
    /// Ours, and those who left the sidecars to us.
    ended: Vec<Message>,
    /// Whether other proas can see us.
    seen: bool,
    /// Whether nobody could be looked for, for as long as that may take.
    blind: bool,
    /// When our container was started.
    started: Instant,
}

impl Last {
    /// Nobody can leave the sidecars to us any more. `left`: those who did, if others could see us. `own`: who we are, as far as that
    /// is known.
    pub(super) fn withdrawn(
        left: Option<Vec<Message>>,
        own: Option<(&str, Message)>,
        started: Instant,
    ) -> Option<Self> {
        let (uid, message) = own?;
        let (seen, own) = (left.is_some(), message.container.clone());
        let mut ended = vec![message];
        ended.extend(left.into_iter().flatten().filter(|left| left.container != own));
        Some(Self { uid: uid.to_owned(), own, ended, seen, blind: false, started })
    }

    /// The main containers that have ended: those that said so, and those that are seen to have.
    pub(super) fn ended(self, snapshot: Option<&Snapshot>) -> Vec<Message> {
        let mut ended = self.ended;
        for main in snapshot.into_iter().flat_map(|snapshot| &snapshot.mains) {
            let name = &main.container.name;
            if let Some(exit) = main.container.ended_for_good()
                && ended.iter().all(|message| message.container != *name)
            {
                let code = u8::try_from(exit.code).unwrap_or(u8::MAX);
                ended.push(Message { container: name.clone(), code });
            }
        }
        ended
    }

    /// Whether a shortage has lasted so long that nothing more is waited for that it stands in the way of.
    pub(super) fn is_blind(&self) -> bool {
        self.blind
    }

    pub(super) fn uid(&self) -> &str {
        &self.uid
    }

    pub(super) fn own(&self) -> &str {
        &self.own
    }

    /// Leaves the sidecars to a main container whose proa is there for that: whether there is one. It takes no look at the Pod.
    pub(super) async fn is_followed(&self, snapshot: Option<&Snapshot>) -> bool {
        let others = self.look_around(snapshot).await;
        let Some(Turn::Theirs(theirs)) = others.ok().map(|others| turn(None, &others)) else {
            return false;
        };
        announce(&theirs);
        true
    }

    /// Who shuts the sidecars down, once that is certain. Waits for main containers that may need the sidecars and shut nothing
    /// down themselves. `is_restarted`: whether this container is started again if the runtime stops it now.
    pub(super) async fn shut_down_by(
        &mut self,
        sight: &mut Sight,
        asked: &mut StopRequests,
        signals: &mut Listener<'_>,
        is_restarted: impl Fn(Option<&Snapshot>) -> bool,
    ) -> ShutDownBy {
        let mut observations: Option<BoxStream<'static, Observation>> = None;
        let (mut said, mut short) = (Vec::new(), Short::default());
        let (mut unwatched, mut watch_from, mut pressing) = (false, None, Pressing::default());
        // Where nobody sees us others may wait for us as well: one of two goes first.
        let mut blind = Blind::default();
        let (mut looked_for, mut clocks) = (StopRequests::default(), Clocks::default());
        let mut report = interval_at((now() + REPORT).into(), REPORT);
        report.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let others = short.heed(self.look_around(sight.snapshot.as_ref()).await, || self.nobody_seen());
            self.blind = short.since.is_some();
            // Nobody is gone who could not be looked for.
            let blind_for_long = !self.blind && blind.is_lasting(now());
            // What nobody watches may have changed.
            let fresh = sight.fresh && !unwatched;
            let worth = |snapshot| Worth::of(snapshot, fresh, elapsed(self.started), blind_for_long);
            let seen = sight.snapshot.as_ref().map(|snapshot| (snapshot, worth(snapshot)));
            let awaited = match others.as_ref().map(|others| (others, turn(seen, others))) {
                Some((others, Turn::Ours)) => {
                    self.note_killed(seen, others);
                    return ShutDownBy::Us;
                }
                Some((_, Turn::Theirs(theirs))) => {
                    announce(&theirs);
                    return ShutDownBy::Another;
                }
                Some((_, Turn::Await(awaited)))
                    if !self.seen && goes_first(&awaited, &self.own, sight.snapshot.as_ref()) =>
                {
                    announce(&awaited);
                    return ShutDownBy::Another;
                }
                Some((others, Turn::Await(_))) if blind.is_denied() => {
                    self.note_killed(seen, others);
                    return ShutDownBy::Us;
                }
                Some((_, Turn::Await(awaited))) => awaited,
                None => said.clone(),
            };
            if *asked != looked_for {
                // The API server knew first whether the whole Pod goes.
                look_again(sight, asked, signals).await;
                looked_for.clone_from(asked);
            }
            if !asked.is_empty() && leaving(sight.snapshot.as_ref()) {
                return ShutDownBy::Nobody;
            }
            // As a failed probe has it: the sidecars would be missing in that run, and be shut down under the others.
            if asked.is_by_runtime() && sight.is_kill_to_come(asked) && is_restarted(sight.snapshot.as_ref())
            {
                info!("sidecars are left running: this container is stopped to be started again");
                return ShutDownBy::Nobody;
            }
            let over_by = pressing.reckon(sight, asked);
            // Where the Pod was seen, that there is none of its name means that it is gone.
            let watch = if sight.snapshot.is_some() { OwnPod::watch_again } else { OwnPod::watch };
            if awaited != said {
                info!("waiting for {} before the sidecars are shut down", names(&awaited));
                said = awaited;
            }
            let pause = if others.is_some() { LOOK_AROUND } else { PAUSE };
            unwatched |= others.is_none();
            if others.is_none() && observations.take().is_some() {
                // It may hold what there is not enough of, and would again.
                watch_from = now().checked_add(WITHOUT_WATCH);
            } else if others.is_some() && (self.blind || watch_from.is_none_or(|from| from <= now())) {
                observations = observations.or_else(|| sight.own_pod.as_ref().map(watch));
            }
            let stop = sight.snapshot.as_ref().and_then(|snapshot| snapshot.own.stop_signal);
            tokio::select! {
                biased;
                Ok(received) = signals.stop(Phase::Shutdown { stop }) => asked_to_stop(received, asked),
                Some(observation) = next(&mut observations) => match observation {
                    Observation::Seen(mut snapshot) => {
                        sight.mains.settle(&mut snapshot);
                        clocks.settle(&mut snapshot, now());
                        sight.snapshot = Some(snapshot);
                        (sight.fresh, unwatched, blind) = (true, false, Blind::default());
                    }
                    Observation::Gone => {
                        info!("sidecars are left running: the Pod is gone");
                        return ShutDownBy::Nobody;
                    }
                    Observation::Trouble(trouble) => {
                        // A main container may start and be killed meanwhile.
                        sight.fresh = false;
                        blind.note(&trouble, now());
                        if blind.is_denied() {
                            info!("not waiting any longer: the Pod is out of sight: {trouble}");
                        }
                    }
                },
                () = until(over_by) => {
                    info!("not waiting any longer: this container is about to be killed");
                    return ShutDownBy::Us;
                }
                () = until(blind.ask_again_at()) => {
                    // A new watch pauses before no attempt.
                    blind.denied = Denied::AskedAgain;
                    observations = sight.own_pod.as_ref().map(watch);
                }
                _ = report.tick() => blind.report(&said),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Wrapped sidecars hear of those too that could not say that they are over.
    fn note_killed(&mut self, seen: Option<(&Snapshot, Worth)>, others: &Others) {
        let Some((snapshot, worth)) = seen else { return };
        for main in snapshot.mains.iter().filter(|main| is_killed(main, others, worth)) {
            let container = main.container.name.clone();
            info!(
                "`{container}` has been killed: its proa is gone, and the API server has shown nothing for long"
            );
            self.ended.push(Message { container, code: u8::try_from(KILLED).unwrap_or(u8::MAX) });
        }
    }

    /// The others where nobody can be looked for. None counts as present: one that is there and does not listen has ended its command.
    fn nobody_seen(&self) -> Others {
        let ended = self.ended.iter().map(|message| (message.container.clone(), message.code)).collect();
        Others { ended, ..Others::default() }
    }

    /// What the other proas of the Pod show; those that still listen are left the sidecars thereby.
    ///
    /// # Errors
    /// When the system is short of what it takes to look, which says nothing.
    async fn look_around(&self, snapshot: Option<&Snapshot>) -> io::Result<Others> {
        let known = snapshot.into_iter().flat_map(|snapshot| &snapshot.mains);
        let known: BTreeSet<_> = known.map(|Main { container, .. }| container.name.clone()).collect();
        let Sockets { present, mut mains } = self.sockets(&known).await?;
        // Anybody may have bound a name: one that is no container of the Pod ends nothing.
        mains.retain(|name| snapshot.is_none_or(|seen| seen.beside().any(|beside| beside.name == *name)));
        mains.extend(known.iter().cloned());
        let peers = mains.into_iter().filter(|name| *name != self.own);
        let peers = peers.map(|container| Peer { uid: self.uid.clone(), container }).collect();
        let listening = hand_over(peers, &self.ended).await?;
        // One that exits just now, to be started again, listens to nobody either, and is not over for that.
        let stayed = self.sockets(&known).await?.present;
        let present = present.into_iter().filter(|name| stayed.contains(name)).collect();
        Ok(Others { listening, present, ..self.nobody_seen() })
    }

    /// The other proas that there are. `known`: those that are asked where the system does not list them.
    async fn sockets(&self, known: &BTreeSet<String>) -> io::Result<Sockets> {
        let mut sockets = Sockets::look(&self.uid)?;
        if self.seen && !sockets.present.contains(&self.own) {
            for container in known.iter().cloned() {
                let peer = Peer { uid: self.uid.clone(), container };
                if peer.is_there().await? {
                    sockets.present.insert(peer.container);
                }
            }
        }
        Ok(sockets)
    }
}

async fn look_again(sight: &mut Sight, asked: &mut StopRequests, signals: &mut Listener<'_>) {
    let (own_pod, mains, before) = (sight.own_pod.take(), mem::take(&mut sight.mains), sight.snapshot.take());
    let how = (Need::Usual, shutdown::Denial::Said);
    *sight = look(own_pod.as_ref(), before, mains, how, asked, signals).await;
}

async fn next(observations: &mut Option<BoxStream<'static, Observation>>) -> Option<Observation> {
    match observations {
        Some(observations) => observations.next().await,
        None => pending().await,
    }
}

/// Whether the kubelet stops the sidecars itself.
fn leaving(snapshot: Option<&Snapshot>) -> bool {
    let leaving = snapshot.is_some_and(|snapshot| snapshot.life != Life::Active);
    if leaving {
        info!("sidecars are left running: the Pod is going");
    }
    leaving
}

fn announce(others: &[Other]) {
    info!("sidecars are left running for {}, whose proa shuts them down", names(others));
}

fn names(others: &[Other]) -> String {
    others.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Poll;

    use tokio::net::UnixStream;

    use super::*;
    use crate::cluster::{ApiServer, Cluster};
    use crate::identity::{Identity, PodName};
    use crate::peer::Part;
    use crate::pod::tests::snapshot;
    use crate::policy::AskApi;
    use crate::shutdown::turn::Why;
    use crate::signal::Sender;
    use crate::signal::stream::Signals;

    /// It is over once its proa has withdrawn, and stays. One that is about to be restarted does neither.
    #[test]
    fn one_that_exits_while_it_is_looked_at_is_not_taken_for_over() {
        let uid = format!("last-{}", std::process::id());
        let there = Peer { uid: uid.clone(), container: "other".into() }.announce(Part::Main).unwrap();
        let snapshot = snapshot(
            "
spec:
  restartPolicy: OnFailure
  containers: [{name: main, image: m}, {name: other, image: o, command: [/proa, --, other]}]
status:
  containerStatuses:
  - {name: other, image: o, imageID: o, ready: false, restartCount: 0, state: {running: {}}}
",
        );
        let message = Message { container: "main".into(), code: 0 };
        let own = Some((uid.as_str(), message));
        let last = Last::withdrawn(Some(Vec::new()), own, now()).unwrap();
        // While its queue is full it is tried again.
        let handover = format!("\0proa/{uid}/other/m");
        let mut crowd = Vec::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            while let Ok(stream) = UnixStream::connect(&handover).await {
                crowd.push(stream);
            }
            let mut looking = pin!(last.look_around(Some(&snapshot)));
            let begun = poll_fn(|context| Poll::Ready(looking.as_mut().poll(context))).await;
            assert!(begun.is_pending());
            drop(there);
            let others = looking.await.unwrap();
            assert!(others.listening.is_empty() && others.ended == BTreeMap::from([("main".to_owned(), 0)]));
            assert_ne!(turn(Some((&snapshot, Worth::Current)), &others), Turn::Ours, "{others:?}");
        });
    }

    #[test]
    fn one_that_listens_is_left_the_sidecars_and_is_there() {
        let uid = format!("listens-{}", std::process::id());
        let _there = Peer { uid: uid.clone(), container: "other".into() }.announce(Part::Main).unwrap();
        let pod = snapshot("spec: {containers: [{name: main, image: m}, {name: other, image: o}]}");
        let message = Message { container: "main".into(), code: 0 };
        let last = Last::withdrawn(Some(Vec::new()), Some((uid.as_str(), message)), now()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let others = runtime.block_on(last.look_around(Some(&pod))).unwrap();
        let other = BTreeSet::from(["other".to_owned()]);
        assert_eq!((others.listening, others.present), (other.clone(), other));
    }

    /// It told nobody, and while the API server is away nothing does.
    #[test]
    fn of_one_that_was_killed_meanwhile_wrapped_sidecars_hear_too() {
        let server = localpod::Cluster::start().unwrap();
        let _down = server.refuse();
        let address = server.address();
        let cluster = Cluster::new(&ApiServer {
            ask: AskApi::Auto,
            service_account: server.service_account_dir().to_owned(),
            address: Some((address.ip().to_string(), address.port())),
            announced: true,
        });
        let identity = Identity {
            namespace: "default".into(),
            pod: PodName::Given("pod".into()),
            uid: None,
            container: None,
            started: None,
        };
        let mut snapshot = snapshot(
            "
spec:
  restartPolicy: Never
  containers: [{name: main, image: m}, {name: other, image: o, command: [/proa, --, other]}]
status:
  containerStatuses:
  - {name: other, image: o, imageID: o, ready: false, restartCount: 0, state: {running: {}}}
",
        );
        snapshot.mains[0].seen = true;
        let own_pod = OwnPod { cluster: cluster.unwrap().unwrap(), identity };
        let mut sight = Sight { snapshot: Some(snapshot), own_pod: Some(own_pod), ..Sight::none() };
        let message = |container: &str, code| Message { container: container.into(), code };
        let uid = format!("killed-{}", std::process::id());
        let own = Some((uid.as_str(), message("main", 3)));
        let mut last = Last::withdrawn(Some(Vec::new()), own, now()).unwrap();
        let signals = Signals::register().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        let by = runtime.unwrap().block_on(async {
            let (mut asked, mut signals) = (StopRequests::default(), signals.listen().unwrap());
            last.shut_down_by(&mut sight, &mut asked, &mut signals, |_| false).await
        });
        assert_eq!(by, ShutDownBy::Us);
        assert_eq!(last.ended(sight.snapshot.as_ref()), [message("main", 3), message("other", 137)]);
    }

    /// A shortage may last as long as the node does, and the sidecars of a finished command with it.
    #[test]
    fn a_shortage_that_lasts_leaves_the_decision_to_the_pod() {
        let short = || Err(io::Error::from(nix::errno::Errno::EMFILE));
        let mut shortage = Short::default();
        assert_eq!(shortage.heed(short(), Others::default), None, "nobody has been seen");
        assert_eq!(shortage.heed(Ok(Others::default()), Others::default), Some(Others::default()));
        assert_eq!(shortage.since, None, "the next one has as much time");
        let begun = now().checked_sub(LONGEST).unwrap();
        shortage.since = Some(begun);
        assert_eq!(shortage.heed(short(), Others::default), Some(Others::default()));
        assert_eq!(shortage.since, Some(begun));
    }

    /// However often it is reckoned, and however many signals come.
    #[test]
    fn nothing_but_news_of_the_pod_puts_the_end_off() {
        let pod = "spec: {terminationGracePeriodSeconds: 8, containers: [{name: main, image: m}]}";
        let mut sight = Sight { snapshot: Some(snapshot(pod)), fresh: true, ..Sight::none() };
        let (first, mut pressing) = (now().checked_sub(Duration::from_secs(8)).unwrap(), Pressing::default());
        let mut asked = StopRequests::default();
        assert_eq!(pressing.reckon(&sight, &asked), None);
        asked.note(first, Sender::Inside);
        let by = pressing.reckon(&sight, &asked);
        assert_eq!(
            by,
            first.checked_add(Duration::from_secs(7)),
            "a second before SIGKILL, though that is past"
        );
        let mut later = StopRequests::default();
        later.note(now(), Sender::Inside);
        assert_eq!(pressing.reckon(&sight, &later), by);
        sight.fresh = false;
        assert_eq!(pressing.reckon(&sight, &later), by, "the Pod is out of sight for a moment");
        let longer = pod.replace('8', "60");
        let sight = Sight { snapshot: Some(snapshot(&longer)), fresh: true, ..Sight::none() };
        assert!(pressing.reckon(&sight, &later) > by);
    }

    /// What was seen of it after a request was the answer to that request, and its end would come sooner without.
    #[test]
    fn a_pod_that_is_out_of_sight_presses_no_more_than_before() {
        let pod = "spec: {terminationGracePeriodSeconds: 8, containers: [{name: main, image: m}]}";
        let mut sight = Sight { snapshot: Some(snapshot(pod)), fresh: true, ..Sight::none() };
        let (at, mut asked, mut pressing) = (now(), StopRequests::default(), Pressing::default());
        asked.note(at, Sender::Inside);
        let by = at.checked_add(Duration::from_secs(7));
        assert_eq!(pressing.reckon(&sight, &asked), by);
        sight.fresh = false;
        assert_eq!(pressing.reckon(&sight, &asked), by);
    }

    #[test]
    fn a_request_presses_while_the_pod_is_out_of_sight_too() {
        let pod = "spec: {terminationGracePeriodSeconds: 8, containers: [{name: main, image: m}]}";
        let mut sight = Sight { snapshot: Some(snapshot(pod)), fresh: true, ..Sight::none() };
        let (mut asked, mut pressing) = (StopRequests::default(), Pressing::default());
        assert_eq!(pressing.reckon(&sight, &asked), None);
        sight.fresh = false;
        asked.note(now(), Sender::Inside);
        assert!(pressing.reckon(&sight, &asked).is_some());
    }

    /// The kubelet is late with a Pod that is still there.
    #[test]
    fn without_a_request_a_pods_end_moves_on_for_as_long_as_the_pod_is_seen() {
        let pod = "
metadata: {deletionTimestamp: '2023-11-14T22:13:20Z'}
spec: {containers: [{name: main, image: m}]}
";
        let mut sight = Sight { snapshot: Some(snapshot(pod)), fresh: true, ..Sight::none() };
        let (asked, mut pressing) = (StopRequests::default(), Pressing::default());
        assert!(pressing.reckon(&sight, &asked).is_some());
        let past = now().checked_sub(Duration::from_secs(1));
        pressing.by = past;
        assert!(pressing.reckon(&sight, &asked) > past);
        pressing.by = past;
        sight.fresh = false;
        assert_eq!(pressing.reckon(&sight, &asked), past);
    }

    #[test]
    fn who_left_the_sidecars_to_us_has_ended_and_who_is_seen_to_have() {
        let pod = snapshot(
            "
spec:
  restartPolicy: Never
  containers:
  - {name: main, image: m}
  - {name: left, image: a, command: [/proa, --, left]}
  - {name: over, image: b, command: [/proa, --, over]}
  - {name: runs, image: c, command: [/proa, --, runs]}
status:
  containerStatuses:
  - {name: left, image: a, imageID: a, ready: false, restartCount: 0, state: {terminated: {exitCode: 1}}}
  - {name: over, image: b, imageID: b, ready: false, restartCount: 0, state: {terminated: {exitCode: 5}}}
  - {name: runs, image: c, imageID: c, ready: false, restartCount: 0, state: {running: {}}}
",
        );
        let message = |container: &str, code| Message { container: container.into(), code };
        let withdrawn = || {
            // Anybody may say so of our own container too.
            let left = vec![message("left", 0), message("main", 9)];
            Last::withdrawn(Some(left), Some(("u-1", message("main", 3))), now()).unwrap()
        };
        let last = withdrawn();
        assert_eq!((last.uid(), last.own(), last.is_blind()), ("u-1", "main", false));
        assert_eq!(last.ended(None), [message("main", 3), message("left", 0)]);
        let blind = Last { blind: true, ..withdrawn() };
        assert!(blind.is_blind());
        assert_eq!(blind.ended(Some(&pod)), [message("main", 3), message("left", 0), message("over", 5)]);
        assert!(Last::withdrawn(Some(Vec::new()), None, now()).is_none(), "who is unknown has no place");
    }

    #[test]
    fn a_pod_that_goes_takes_its_sidecars_along() {
        let pod = |more: &str| snapshot(&format!("{more}\nspec: {{containers: [{{name: main, image: m}}]}}"));
        assert!(leaving(Some(&pod("metadata: {deletionTimestamp: '2023-11-14T22:13:20Z'}"))));
        assert!(leaving(Some(&pod("status: {phase: Failed}"))));
        assert!(!leaving(Some(&pod("status: {phase: Running}"))));
        assert!(!leaving(None));
    }

    #[test]
    fn others_are_named_with_the_reason_of_each() {
        let other = |name: &str, why| Other { name: name.into(), why };
        let others = [other("first", Why::Runs), other("second", Why::StartsAgain)];
        assert_eq!(names(&others), "`first` (running), `second` (to be restarted)");
    }

    #[test]
    fn a_denial_before_an_outage_is_no_lasting_denial() {
        let (denied, away) = (Trouble::Unauthorized("x".into()), Trouble::NoConnection("x".into()));
        let start = now();
        let mut blind = Blind::default();
        blind.note(&denied, start);
        blind.note(&denied, start + Duration::from_secs(5));
        assert_eq!(blind.ask_again_at(), Some(start + OUT_OF_SIGHT));
        blind.note(&away, start + Duration::from_secs(6));
        assert_eq!(blind.ask_again_at(), None, "it may be restarting");
        assert!(blind.is_lasting(start + OUT_OF_SIGHT) && !blind.is_lasting(start + Duration::from_secs(29)));
    }

    #[test]
    fn a_denial_is_for_good_once_it_was_asked_about_again() {
        let (denied, away) = (Trouble::Unauthorized("x".into()), Trouble::NoConnection("x".into()));
        let mut blind = Blind::default();
        blind.note(&denied, now());
        assert!(!blind.is_denied());
        blind.denied = Denied::AskedAgain;
        assert!(!blind.is_denied() && blind.ask_again_at().is_none(), "before there is an answer");
        blind.note(&away, now());
        assert!(!blind.is_denied(), "which says nothing");
        blind.note(&denied, now());
        assert!(!blind.is_denied() && blind.ask_again_at().is_some());
        blind.denied = Denied::AskedAgain;
        blind.note(&denied, now());
        assert!(blind.is_denied());
    }
}
