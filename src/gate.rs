//! The wait for the sidecars: drives observations, deadline and signals to a verdict.

pub mod probe;
pub mod verdict;
pub mod waiting;

use std::fmt;
use std::future::pending;
use std::time::{Duration, Instant};

use futures::stream::{AbortHandle, BoxStream, SelectAll, StreamExt, abortable};
use tokio::time::interval_at;
use tracing::{info, warn};

use crate::cluster::Observation;
use crate::cluster::trouble::{Refused, Trouble};
use crate::deadline::{now, seconds, until};
use crate::endpoint::{DirectWait, HttpUrl};
use crate::known::Known;
use crate::peer::handover::Sockets;
use crate::plan::selection::Selection;
use crate::pod::mains::Mains;
use crate::pod::run::{CLOCKS_DIFFER, Clocks};
use crate::pod::{Life, Sidecar, Snapshot, list};
use crate::policy::{AskApi, OnTimeout};
use crate::signal::stream::Listener;
use crate::signal::{Phase, Received};
use crate::status::board::Board;
use crate::warnings;
use probe::Finding;
use verdict::{Instead, Reason, Unready, Verdict, asked_instead, verdict};
use waiting::{PodWait, Waiting};

/// How often a long wait says what it waits for.
const REPORT: Duration = Duration::from_secs(10);

/// How often the Pod's other proas are looked for: an image's entrypoint may hide that a container is a main one.
const LOOK_AROUND: Duration = Duration::from_millis(500);

/// How long it may be out of reach once every direct wait holds before they go on without it.
const OUT_OF_REACH: Duration = Duration::from_secs(5);

/// The same where there is no direct wait: what keeps us from it may be a mesh's proxy, which nobody else waits for.
const OUT_OF_REACH_ALONE: Duration = Duration::from_secs(30);

/// What is waited for, and how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gate {
    /// Which sidecars.
    pub selection: Selection,
    /// What is asked directly.
    pub waits: Vec<DirectWait>,
    /// Well-known sidecars to be asked themselves, and where if the Pod does not tell.
    pub known: Vec<(&'static Known, HttpUrl)>,
    /// How long; `None`: for ever.
    pub timeout: Option<Duration>,
    /// What follows when they take longer.
    pub on_timeout: OnTimeout,
    /// How often and how long is looked.
    pub looks: Looks,
    /// Whether proa refuses where it cannot see its Pod for good.
    pub insists: Insists,
}

/// Whether proa refuses where it cannot see its Pod for good, though it could go on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Insists {
    /// It does: what is wrong is its owner's to know.
    #[default]
    Yes,
    /// The Pod never asked for it.
    No,
}

/// How often and how long is looked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Looks {
    /// Whether each thing is looked at once, and what it shows then is all there is to it.
    pub once: bool,
    /// The pause between looks at what is asked directly; `None`: short at first, then longer.
    pub pause: Option<Duration>,
}

impl Gate {
    /// Whether anything is asked but the API server.
    #[must_use]
    pub fn asks_directly(&self) -> bool {
        !self.waits.is_empty() || !self.known.is_empty()
    }

    /// What is waited for, as the warnings need it. `sidecars`: whether Kubernetes is asked for their readiness.
    #[must_use]
    pub fn wait(&self, sidecars: bool) -> warnings::Wait<'_> {
        let directly = !self.waits.is_empty();
        warnings::Wait { sidecars, directly, known: &self.known, timeout: self.timeout }
    }

    /// Whether what is asked directly makes do without an API server that denies us or cannot be reached.
    #[must_use]
    pub fn makes_do_without(&self, ask: AskApi) -> bool {
        match ask {
            AskApi::Require => false,
            // Nobody else tells whether a container has exited.
            AskApi::Auto => self.asks_directly() && self.selection.wait_exit.is_empty(),
            AskApi::Optional => self.selection.wait_exit.is_empty(),
            AskApi::Off => true,
        }
    }
}

/// The gate is open: the command may start.
pub struct Opened {
    /// The Pod as last seen; `None` if it never was.
    pub snapshot: Option<Snapshot>,
    /// Whether it was said that the API server denies us the Pod.
    pub denial_said: bool,
    /// To be dropped once the command runs.
    pub waits: Waits,
}

/// The direct waits, which are over. The kernel may take milliseconds to forget an inotify watch.
pub struct Waits(#[expect(dead_code, reason = "its end matters alone")] Findings);

type Findings = SelectAll<BoxStream<'static, (usize, Finding)>>;

/// The gate stays shut: the command does not start.
#[derive(Debug)]
pub struct Closed {
    /// The Pod as last seen.
    pub snapshot: Option<Snapshot>,
    /// Whether it was said that the API server denies us the Pod, or the cause says so.
    pub denial_said: bool,
    /// Why.
    pub cause: Cause,
}

/// Why the gate stays shut.
#[derive(Debug)]
pub enum Cause {
    /// A signal asked proa to end.
    Stopped(Received),
    /// It will never open, or took too long.
    Refused(Refusal),
    /// proa itself failed.
    Failed(anyhow::Error),
}

impl Cause {
    /// Whether it says that the API server denies us the Pod.
    fn is_denial(&self) -> bool {
        match self {
            Self::Refused(Refusal::Api(trouble)) => trouble.is_denial(),
            Self::Refused(Refusal::NotReady(waiting) | Refusal::TimedOut { waiting, .. }) => {
                waiting.pod.is_denial()
            }
            Self::Refused(_) | Self::Stopped(_) | Self::Failed(_) => false,
        }
    }
}

/// Why the gate was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The Pod says so.
    Pod(Reason),
    /// The API server says so.
    Api(Trouble),
    /// A direct wait cannot be asked for at all.
    Impossible {
        /// The wait.
        wait: String,
        /// Why.
        why: String,
    },
    /// They were not ready, and are not looked at again.
    NotReady(Waiting),
    /// The sidecars took too long.
    TimedOut {
        /// How long we waited.
        after: Duration,
        /// What we were waiting for.
        waiting: Waiting,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(reason) => write!(f, "{reason}"),
            Self::Api(trouble) => write!(f, "{trouble}"),
            Self::Impossible { wait, why } => write!(f, "{wait} cannot be asked: {why}"),
            Self::NotReady(waiting) => write!(f, "not ready: {waiting}"),
            Self::TimedOut { after, waiting } => write!(
                f,
                "not ready within {}: {waiting}; --ready-timeout allows more, --on-timeout=run goes on \
                 all the same",
                humantime::format_duration(*after)
            ),
        }
    }
}

/// How much the API server's word counts.
pub enum Api {
    /// Nothing goes on without it.
    Needed(BoxStream<'static, Observation>),
    /// The direct waits make do without it.
    Dispensable(BoxStream<'static, Observation>),
    /// It is not asked.
    NotAsked,
}

/// Waits until the command may start. `inspect`: sees the Pod whenever it is news.
///
/// # Errors
/// When it may not: asked to stop, refused, or proa itself failed.
pub async fn pass(
    gate: &Gate,
    api: Api,
    signals: &mut Listener<'_>,
    board: &Board,
    inspect: &dyn Fn(&Snapshot),
) -> Result<Opened, Closed> {
    let started = now();
    // What is later than the clock can tell never comes.
    let deadline = gate.timeout.and_then(|timeout| started.checked_add(timeout));
    let mut report = interval_at((started + REPORT).into(), REPORT);
    let mut wait = Wait::new(gate, api, board, inspect);
    let mut step = wait.next();
    loop {
        match step {
            Step::On => {}
            Step::Open => {
                let seconds = seconds(started);
                info!(seconds, "gate open after {seconds:.3}s");
                let Wait { snapshot, denial_said, findings, .. } = wait;
                return Ok(Opened { snapshot, denial_said, waits: Waits(findings) });
            }
            Step::Shut(cause) => {
                let denial_said = wait.denial_said || cause.is_denial();
                return Err(Closed { snapshot: wait.snapshot, denial_said, cause });
            }
        }
        let (going_without, settled_at) =
            (wait.going_without, wait.clocks.settled_at(wait.snapshot.as_ref()));
        let look_around = wait.look_around_at;
        let phase =
            Phase::Gate { stop: wait.snapshot.as_ref().and_then(|snapshot| snapshot.own.stop_signal) };
        step = tokio::select! {
            // Signals first: whoever asks us to end is not kept waiting by news of the Pod.
            biased;
            stopped = signals.stop(phase) => Step::Shut(match stopped {
                Ok(received) => Cause::Stopped(received),
                Err(error) => Cause::Failed(error.into()),
            }),
            observation = wait.api.next() => wait.observe(observation),
            Some((number, finding)) = wait.findings.next() => wait.found(number, finding),
            () = until(deadline) => wait.time_out(),
            () = until(going_without) => {
                wait.go_without("it cannot be reached");
                wait.next()
            }
            () = until(settled_at) => wait.again(),
            () = until(look_around) => wait.look_around(),
            _ = report.tick() => {
                let seconds = seconds(started);
                info!(seconds, "still waiting for {} after {seconds:.0}s", wait.again_in_short());
                Step::On
            }
        };
    }
}

impl Api {
    async fn next(&mut self) -> Observation {
        let (Self::Needed(observations) | Self::Dispensable(observations)) = self else {
            return pending().await;
        };
        match observations.next().await {
            Some(observation) => observation,
            None => pending().await,
        }
    }
}

/// What an event comes to.
enum Step {
    On,
    Open,
    Shut(Cause),
}

/// A direct wait.
struct Direct {
    name: String,
    /// What was found last, if anything yet.
    found: Option<Finding>,
    /// Ends it before it holds.
    end: AbortHandle,
}

/// The state of a wait.
struct Wait<'a> {
    gate: &'a Gate,
    board: &'a Board,
    inspect: &'a dyn Fn(&Snapshot),
    api: Api,
    snapshot: Option<Snapshot>,
    pod: PodWait,
    direct: Vec<Direct>,
    /// The sidecars that are asked themselves in place of Kubernetes, each with the number of its direct wait.
    instead: Vec<(Instead, usize)>,
    /// A direct wait that never can hold.
    impossible: Option<Refusal>,
    findings: Findings,
    /// When the direct waits go on without an API server that is out of reach.
    going_without: Option<Instant>,
    /// What was last said.
    said: Option<Waiting>,
    denial_said: bool,
    refused: Refused,
    clocks: Clocks,
    mains: Mains,
    look_around_at: Option<Instant>,
}

impl<'a> Wait<'a> {
    fn new(gate: &'a Gate, api: Api, board: &'a Board, inspect: &'a dyn Fn(&Snapshot)) -> Self {
        let pod = match api {
            Api::NotAsked => PodWait::Nothing,
            Api::Needed(_) | Api::Dispensable(_) => PodWait::FirstAnswer,
        };
        let mut wait = Self {
            gate,
            board,
            inspect,
            api,
            snapshot: None,
            pod,
            direct: Vec::new(),
            instead: Vec::new(),
            impossible: None,
            findings: SelectAll::new(),
            going_without: None,
            said: None,
            denial_said: false,
            refused: Refused::default(),
            clocks: Clocks::default(),
            mains: Mains::named(gate.selection.mains.clone()),
            look_around_at: None,
        };
        for direct in &gate.waits {
            wait.follow(direct.to_string(), direct);
        }
        for (_, url) in &gate.known {
            wait.follow(url.to_string(), &DirectWait::Http(url.clone()));
        }
        wait
    }

    fn follow(&mut self, name: String, wait: &DirectWait) {
        let number = self.direct.len();
        match probe::follow(wait, self.gate.looks.pause) {
            Ok(findings) => {
                let (findings, end) = abortable(findings.map(move |finding| (number, finding)));
                self.findings.push(findings.boxed());
                self.direct.push(Direct { name, found: None, end });
            }
            Err(why) => self.impossible = Some(Refusal::Impossible { wait: name, why }),
        }
    }

    /// The direct waits that still count.
    fn live(&self) -> impl Iterator<Item = &Direct> {
        self.direct.iter().filter(|direct| !direct.end.is_aborted())
    }

    fn out_of_reach(&self) -> Duration {
        if self.gate.asks_directly() { OUT_OF_REACH } else { OUT_OF_REACH_ALONE }
    }

    fn is_dispensable(&self) -> bool {
        matches!(self.api, Api::Dispensable(_))
    }

    fn waiting(&self) -> Waiting {
        let direct = self.live().filter_map(|direct| {
            let why = match &direct.found {
                None => "not asked yet".to_owned(),
                Some(Ok(())) => return None,
                Some(Err(why)) => why.clone(),
            };
            Some(Unready { name: direct.name.clone(), why })
        });
        Waiting { pod: self.pod.clone(), direct: direct.collect() }
    }

    /// What is waited for; the reasons alone that are news since they were last said in full.
    fn again_in_short(&mut self) -> String {
        let waiting = self.waiting();
        let known = self.said.as_ref() == Some(&waiting);
        let text = if known { waiting.in_short() } else { waiting.to_string() };
        self.said = Some(waiting);
        text
    }

    /// What follows from what is known by now.
    fn next(&mut self) -> Step {
        if let Some(impossible) = self.impossible.take() {
            return Step::Shut(Cause::Refused(impossible));
        }
        let waiting = self.waiting();
        if waiting.is_over() {
            return Step::Open;
        }
        let looked = waiting.pod != PodWait::FirstAnswer && self.live().all(|direct| direct.found.is_some());
        if self.gate.looks.once && looked {
            return Step::Shut(Cause::Refused(Refusal::NotReady(waiting)));
        }
        let unseen = match &waiting.pod {
            PodWait::FirstAnswer => true,
            PodWait::Api(trouble) => trouble.is_passing(),
            PodWait::Nothing | PodWait::Sidecars(_) | PodWait::PresentRun(_) => false,
        };
        let alone = waiting.direct.is_empty() && unseen && self.snapshot.is_none();
        self.going_without = (alone && self.is_dispensable())
            .then(|| self.going_without.unwrap_or_else(|| now() + self.out_of_reach()));
        self.say(waiting);
        Step::On
    }

    fn say(&mut self, waiting: Waiting) {
        let first_looks = self.live().any(|direct| direct.found.is_none());
        if first_looks || waiting.pod == PodWait::FirstAnswer && waiting.direct.is_empty() {
            return;
        }
        if self.said.as_ref().is_some_and(|said| said.is_like(&waiting)) {
            return;
        }
        match &waiting.pod {
            // Said once, when we go on without it.
            pod if self.is_dispensable() && pod.is_denial() => return,
            pod if pod.is_denial() => {
                self.denial_said = true;
                warn!("waiting for {waiting}");
            }
            _ => info!("waiting for {waiting}"),
        }
        self.said = Some(waiting);
    }

    fn observe(&mut self, observation: Observation) -> Step {
        match observation {
            Observation::Seen(snapshot) => self.seen(snapshot),
            Observation::Gone => {
                if let Some(snapshot) = &mut self.snapshot {
                    snapshot.life = Life::Deleting;
                }
                Step::Shut(Cause::Refused(Refusal::Pod(Reason::Deleting)))
            }
            Observation::Trouble(trouble) => self.trouble(trouble),
        }
    }

    fn seen(&mut self, mut snapshot: Snapshot) -> Step {
        self.refused.pod_seen();
        self.find_mains(&mut snapshot);
        if self.snapshot.is_none() {
            introduce(&snapshot);
            self.move_to(&snapshot);
        }
        self.ask_instead(&snapshot);
        self.judge(snapshot)
    }

    fn judge(&mut self, mut snapshot: Snapshot) -> Step {
        if self.clocks.settle(&mut snapshot, now()) {
            warn!(
                "the Pod's status calls this container running from before it was started; believed after {}, since the \
                 clocks of node and container seem to differ",
                humantime::format_duration(CLOCKS_DIFFER)
            );
        }
        let verdict = verdict(&snapshot, &self.gate.selection);
        if verdict != Verdict::Outdated {
            (self.inspect)(&snapshot);
            for sidecar in snapshot.sidecars.iter().filter(|sidecar| sidecar.ready) {
                self.board.sidecar_ready(&sidecar.name);
            }
        }
        let own = snapshot.own.name.clone();
        self.snapshot = Some(snapshot);
        self.pod = match verdict {
            Verdict::Outdated => PodWait::PresentRun(own),
            Verdict::Open => PodWait::Nothing,
            Verdict::Refuse(reason) => return Step::Shut(Cause::Refused(Refusal::Pod(reason))),
            Verdict::Wait(unready) => PodWait::Sidecars(unready),
        };
        let waits = matches!(self.pod, PodWait::Sidecars(_));
        self.look_around_at = now().checked_add(LOOK_AROUND).filter(|_| waits);
        self.next()
    }

    fn find_mains(&mut self, snapshot: &mut Snapshot) {
        // What is recognised is none, and needs no look.
        let may_be_one = |sidecar: &Sidecar| !sidecar.native && sidecar.known.is_none();
        if !snapshot.mains.is_empty() || snapshot.sidecars.iter().any(may_be_one) {
            self.mains.see(Sockets::of(&snapshot.uid).mains);
        }
        self.mains.settle(snapshot);
    }

    /// Looks for main containers that have started since the Pod was last seen.
    fn look_around(&mut self) -> Step {
        self.look_around_at = now().checked_add(LOOK_AROUND);
        let Some(snapshot) = &mut self.snapshot else { return Step::On };
        if !self.mains.see(Sockets::of(&snapshot.uid).mains) {
            return Step::On;
        }
        self.mains.settle(snapshot);
        self.again()
    }

    /// Asks the sidecars themselves that are to be asked in place of Kubernetes. Annotations may change while we wait: somebody
    /// sets one right.
    fn ask_instead(&mut self, snapshot: &Snapshot) {
        let wanted: Vec<_> = asked_instead(snapshot, &self.gate.selection).collect();
        for (_, number) in self.instead.extract_if(.., |(instead, _)| !wanted.contains(instead)) {
            if let Some(direct) = self.direct.get(number) {
                direct.end.abort();
            }
        }
        for instead in wanted {
            if self.instead.iter().any(|(followed, _)| *followed == instead) {
                continue;
            }
            info!("{instead}");
            self.instead.push((instead.clone(), self.direct.len()));
            self.follow(format!("{} at {}", instead.name, instead.url), &DirectWait::Http(instead.url));
        }
    }

    /// Asks well-known sidecars where the Pod says that they listen, which need not be the usual port.
    fn move_to(&mut self, snapshot: &Snapshot) {
        // Numbered as they were followed: after the waits that are given by URL, which stay where they are.
        for (number, (known, usual)) in (self.gate.waits.len()..).zip(&self.gate.known) {
            let places: Vec<_> =
                snapshot.recognised(known).filter_map(|(sidecar, _)| sidecar.ready_at()).collect();
            if places.is_empty() || places.contains(&usual) {
                continue;
            }
            if let Some(direct) = self.direct.get(number) {
                direct.end.abort();
            }
            for url in places {
                self.follow(url.to_string(), &DirectWait::Http(url.clone()));
            }
        }
    }

    fn found(&mut self, number: usize, finding: Finding) -> Step {
        if let Some(direct) = self.direct.get_mut(number) {
            if finding.is_ok() {
                self.board.direct_wait_holds(&direct.name);
            }
            direct.found = Some(finding);
        }
        self.next()
    }

    fn trouble(&mut self, trouble: Trouble) -> Step {
        let now = now();
        // One look that fails tells nothing of the next: a start-up probe that has passed is never asked again.
        let enough = if self.gate.looks.once {
            trouble.is_denial()
        } else {
            self.refused.is_enough_to_go_without(&trouble, now)
        };
        let is_final = self.refused.is_final(&trouble, now);
        let enough = enough || is_final && self.gate.insists == Insists::No;
        if self.is_dispensable() && self.snapshot.is_none() && enough {
            self.denial_said |= trouble.is_denial();
            self.go_without(&trouble.to_string());
            return self.next();
        }
        if is_final {
            self.pod = PodWait::Api(trouble.clone());
            return Step::Shut(Cause::Refused(Refusal::Api(trouble)));
        }
        self.pod = PodWait::Api(trouble);
        self.next()
    }

    /// Judges the snapshot once more, which time has made another.
    fn again(&mut self) -> Step {
        match self.snapshot.take() {
            Some(snapshot) => self.judge(snapshot),
            None => Step::On,
        }
    }

    fn go_without(&mut self, why: &str) {
        if self.gate.asks_directly() {
            warn!("going on without the API server, by the direct waits alone: {why}");
        } else {
            warn!("going on without the API server, and without waiting for any sidecar: {why}");
        }
        self.api = Api::NotAsked;
        self.pod = PodWait::Nothing;
    }

    fn time_out(&mut self) -> Step {
        let waiting = self.waiting();
        let after = self.gate.timeout.unwrap_or_default();
        match self.gate.on_timeout {
            OnTimeout::Run if !self.gate.looks.once => {
                self.denial_said |= waiting.pod.is_denial();
                warn!("not ready in time, going on all the same: {waiting}");
                Step::Open
            }
            OnTimeout::Run | OnTimeout::Fail => {
                Step::Shut(Cause::Refused(Refusal::TimedOut { after, waiting }))
            }
        }
    }
}

fn introduce(snapshot: &Snapshot) {
    let names: Vec<_> = snapshot.sidecars.iter().map(Sidecar::introduction).collect();
    let sidecars = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    let mains: Vec<_> = snapshot.mains.iter().map(|main| main.container.name.as_str()).collect();
    let mains =
        if mains.is_empty() { String::new() } else { format!("; other main containers: {}", list(&mains)) };
    info!(
        uid = snapshot.uid,
        "this is container `{}` of Pod `{}`; sidecars: {sidecars}{mains}", snapshot.own.name, snapshot.name,
    );
}
