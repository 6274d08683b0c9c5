//! What is true: a Kubernetes Pod, read into the few facts that proa decides by.

pub mod annotations;
pub mod mains;
pub mod object;
mod recognise;
pub mod run;

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use crate::endpoint::{HttpUrl, Request};
use crate::known::{End, Known, Recognised, Traffic};
use crate::signal::Signal;
use annotations::{Annotated, Malformed};
use object::{Container, ContainerRestartRule, ContainerStatus, Pod, PodSpec, Terminated};
use recognise::{main_by, recognise, runs_proa};
use run::Run;

/// `terminationGracePeriodSeconds` of a Pod that sets none (Pod API reference).
pub const DEFAULT_GRACE: Duration = Duration::from_secs(30);

/// The Pod as one watch event showed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Name.
    pub name: String,
    /// UID; empty if the API server gave none.
    pub uid: String,
    /// Whether the Pod is on its way out.
    pub life: Life,
    /// How long our container has once it is asked to stop.
    pub termination: Termination,
    /// Whether processes of the Pod's containers see one another.
    pub processes: ProcessNamespace,
    /// Our own container.
    pub own: Own,
    /// Every other container that runs beside it and is no main one.
    pub sidecars: Vec<Sidecar>,
    /// The other main containers, as far as they are known to be.
    pub mains: Vec<Main>,
    /// Annotations that say nothing usable.
    pub malformed: Vec<Malformed>,
}

/// What the Pod says of the time between a container's stop signal and its SIGKILL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Termination {
    /// The deletion's own grace period, else the Pod's.
    pub grace: Duration,
    /// The shortest grace period that a liveness or startup probe of our container has for itself (KEP-2238).
    pub probe_grace: Option<Duration>,
    /// When a Pod that is being deleted is to be gone, by the API server's clock.
    pub gone_by: Option<SystemTime>,
    /// From when on the kubelet counts.
    pub countdown: Countdown,
}

/// From when on the kubelet counts a container's grace period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Countdown {
    /// From its stop signal.
    FromSignal,
    /// From before that: a preStop hook runs first, or a native sidecar waits for the main containers.
    Earlier,
}

impl Default for Termination {
    /// That of a Pod that was never seen.
    fn default() -> Self {
        Self { grace: DEFAULT_GRACE, probe_grace: None, gone_by: None, countdown: Countdown::FromSignal }
    }
}

/// Where the Pod is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// Not asked to stop.
    Active,
    /// Has a deletion timestamp; the kubelet no longer updates container statuses.
    Deleting,
    /// Evicted, past its active deadline, or completed.
    Finished,
}

/// Which processes a container's processes can see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessNamespace {
    /// Its own.
    Container,
    /// All of the Pod's (`shareProcessNamespace`).
    Pod,
    /// All of the node's (`hostPID`).
    Host,
}

/// The container that proa is the entrypoint of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// Name.
    pub name: String,
    /// Whether the kubelet starts it again after an end.
    pub restart: Restart,
    /// Its liveness and startup probes, either of which may end it.
    pub probes: Box<[OwnProbe]>,
    /// The signal with which the runtime stops it, where the Pod's status tells.
    pub stop_signal: Option<Signal>,
    /// What the container is to the Pod.
    pub role: Role,
    /// Which run of it the status is of.
    pub run: Run,
}

/// A probe of our own container whose failure has the kubelet stop it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnProbe {
    /// Which one.
    pub kind: ProbeKind,
    /// How long it may fail from the container's start on.
    pub allowance: Duration,
    /// Port and path that it GETs, if it does.
    pub get: Option<(u16, String)>,
}

/// Which probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeKind {
    /// Until it succeeds the liveness probe does not run.
    Startup,
    /// Runs as long as the container does.
    Liveness,
}

impl fmt::Display for ProbeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Startup => "startupProbe",
            Self::Liveness => "livenessProbe",
        })
    }
}

/// What a container is to its Pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// In `containers`.
    Regular,
    /// An init container that ends before the regular ones start.
    Init,
    /// An init container that keeps running: a native sidecar (KEP-753).
    NativeSidecar,
}

/// A container beside ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sidecar {
    /// Name.
    pub name: String,
    /// Native sidecars are waited for, but never ended: the kubelet does that, and restarts those that end early.
    pub native: bool,
    /// The container runtime's ID without its scheme; `None` before it has started.
    pub id: Option<String>,
    /// Whether Kubernetes calls it ready.
    pub ready: bool,
    /// Whether a probe tells that; without one, a container is ready as soon as it runs (Pod Lifecycle, "Container probes").
    pub is_probed: bool,
    /// What it does now.
    pub state: State,
    /// How it ended the last time, if it has.
    pub last: Option<Exit>,
    /// Whether the kubelet starts it again after an end.
    pub restart: Restart,
    /// What is known of it, if it is a well-known one.
    pub known: Option<Recognised>,
    /// What the Pod's annotations say of it, which wins over that.
    pub annotated: Annotated,
}

/// Another main container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Main {
    /// Its facts.
    pub container: Sidecar,
    /// What shows that it is one.
    pub known_by: KnownBy,
    /// Whether its proa has been seen, so that one that is there no more has been and gone.
    pub seen: bool,
}

/// What shows that a container is a main one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KnownBy {
    /// The manifest: proa stands in front of its command.
    Command,
    /// The same, and that proa is switched off.
    Disabled,
    /// The same, and that proa may be switched off: by a variable whose value the manifest does not show.
    Doubtful,
    /// proa runs in it, in front of a command.
    Presence,
    /// A flag. proa need not be in it.
    Flag,
}

impl KnownBy {
    /// Whether a proa is in it that shuts the sidecars down if it is the last.
    #[must_use]
    pub fn shuts_down(self) -> bool {
        matches!(self, Self::Command | Self::Presence)
    }
}

/// What a container does now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Not running (yet, or again), for the reason that the kubelet gives, e.g. `CrashLoopBackOff`.
    Waiting(String),
    /// Running.
    Running,
    /// Ended.
    Terminated(Exit),
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Exit code; 128+n after signal n.
    pub code: i32,
    /// The kubelet's word for it: `Completed`, `Error`, `OOMKilled`, ...
    pub reason: String,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit code {}", self.code)?;
        // `Error` and `Completed` say no more than the code does.
        match self.reason.as_str() {
            "" | "Error" | "Completed" => Ok(()),
            reason => write!(f, ", {reason}"),
        }
    }
}

/// The restart policy in force for one container: its own rules first, then its own policy, else the
/// Pod's (KEP-5307).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restart {
    rules: Vec<Rule>,
    policy: RestartPolicy,
}

/// Kubernetes' `restartPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    /// After every end.
    Always,
    /// After an exit code that is not 0.
    OnFailure,
    /// Never.
    Never,
}

/// A restart rule that matches some exit codes. Every action there is restarts the container.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    In(Vec<i32>),
    NotIn(Vec<i32>),
}

impl Restart {
    /// Whether the kubelet will start the container again after this exit code.
    #[must_use]
    pub fn after(&self, code: i32) -> bool {
        let ruled = self.rules.iter().any(|rule| match rule {
            Rule::In(codes) => codes.contains(&code),
            Rule::NotIn(codes) => !codes.contains(&code),
        });
        ruled
            || match self.policy {
                RestartPolicy::Always => true,
                RestartPolicy::OnFailure => code != 0,
                RestartPolicy::Never => false,
            }
    }

    /// Whether the container is started again once a probe has ended it: its exit code does not count then, nor do its rules
    /// (`computePodActions` in `pkg/kubelet/kuberuntime/kuberuntime_manager.go`).
    #[must_use]
    pub fn after_probe(&self) -> bool {
        self.policy != RestartPolicy::Never
    }

    /// Whether the container is started again whatever its exit code: by its policy, or because its rules leave out none.
    #[must_use]
    pub fn always(&self) -> bool {
        (0..=i32::from(u8::MAX)).all(|code| self.after(code))
    }

    /// Whether the container is never started again, whatever its exit code.
    #[must_use]
    pub fn never(&self) -> bool {
        !self.after_probe() && !(0..=i32::from(u8::MAX)).any(|code| self.after(code))
    }

    fn of(container: &Container, pod: RestartPolicy) -> Self {
        let rules = container.restart_policy_rules.iter().flatten();
        Self {
            rules: rules.filter_map(Rule::of).collect(),
            policy: container.restart_policy.as_deref().map_or(pod, RestartPolicy::of),
        }
    }
}

impl RestartPolicy {
    /// The API server's default is `Always`; it lets no other words through.
    fn of(text: &str) -> Self {
        match text {
            "Never" => Self::Never,
            "OnFailure" => Self::OnFailure,
            _ => Self::Always,
        }
    }
}

impl Rule {
    fn of(rule: &ContainerRestartRule) -> Option<Self> {
        let codes = rule.exit_codes.as_ref()?;
        let values = codes.values.clone().unwrap_or_default();
        match codes.operator.as_str() {
            "In" => Some(Self::In(values)),
            "NotIn" => Some(Self::NotIn(values)),
            _ => None,
        }
    }
}

impl Sidecar {
    /// Its name, and what it is where that is known.
    #[must_use]
    pub fn introduction(&self) -> String {
        let known = self.known.as_ref().map(|recognised| recognised.known.title);
        known.map_or_else(|| format!("`{}`", self.name), |title| format!("`{}` ({title})", self.name))
    }

    /// Whether it was never started, as far as the kubelet has reported.
    #[must_use]
    pub fn has_yet_to_start(&self) -> bool {
        matches!(self.state, State::Waiting(_)) && self.last.is_none()
    }

    /// Whether it is known to be a sidecar, by what it is or by what the annotations say of it.
    #[must_use]
    pub fn is_sidecar(&self) -> bool {
        self.known.is_some() || self.annotated.is_sidecar()
    }

    /// The request that ends it, if there is one.
    #[must_use]
    pub fn quit(&self) -> Option<&Request> {
        let recognised = self.known.as_ref().and_then(|recognised| recognised.end.as_ref());
        self.annotated.shutdown.as_ref().or(recognised)
    }

    /// Where it is asked itself whether it is ready, if anywhere.
    #[must_use]
    pub fn ready_at(&self) -> Option<&HttpUrl> {
        let recognised = self.known.as_ref().and_then(|recognised| recognised.ready.as_ref());
        self.annotated.ready.as_ref().or(recognised)
    }

    /// Whose connections go through it.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        let recognised = self.known.as_ref().map(|recognised| recognised.traffic);
        self.annotated.traffic.or(recognised).unwrap_or(Traffic::Own)
    }

    /// Whether it stays until every other container has exited, ours included.
    #[must_use]
    pub fn leaves_last(&self) -> bool {
        let recognised = self.known.as_ref();
        self.annotated.shutdown.is_none()
            && recognised.is_some_and(|recognised| matches!(recognised.known.end, End::AfterOthers(_)))
    }

    /// How it ended, if it did and will not be started again.
    #[must_use]
    pub fn ended_for_good(&self) -> Option<&Exit> {
        match &self.state {
            State::Terminated(exit) if !self.restart.after(exit.code) => Some(exit),
            _ => None,
        }
    }

    /// What it does instead of having exited for good.
    #[must_use]
    pub fn why_not_over(&self) -> String {
        match &self.state {
            State::Waiting(reason) => reason.clone(),
            State::Running => "running".to_owned(),
            State::Terminated(exit) => format!("ended with {exit}, to be restarted"),
        }
    }

    /// Why it is not ready, in the kubelet's words where there are any.
    #[must_use]
    pub fn why_not_ready(&self) -> String {
        let now = match &self.state {
            State::Waiting(reason) => reason.clone(),
            State::Running => "running, not ready".to_owned(),
            State::Terminated(exit) => format!("ended with {exit}"),
        };
        match (&self.state, &self.last) {
            (State::Waiting(_) | State::Running, Some(last)) => format!("{now}, before that {last}"),
            _ => now,
        }
    }
}

/// Why a Pod cannot be read into a [`Snapshot`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unreadable {
    /// The named container is not in the Pod.
    NoSuchContainer {
        /// The name we have.
        name: String,
        /// The names there are.
        found: Vec<String>,
    },
    /// Nothing says which container is ours.
    WhichContainer {
        /// The candidates.
        found: Vec<String>,
    },
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchContainer { name, found } => write!(
                f,
                "no container `{name}` in this Pod, which has {}; check --container (PROA_CONTAINER)",
                list(found)
            ),
            Self::WhichContainer { found } => write!(
                f,
                "cannot tell which of the containers {} is this one, since no mount of the kubelet's says so; \
                 set --container (PROA_CONTAINER) or the annotation `{DEFAULT_CONTAINER}`",
                list(found)
            ),
        }
    }
}

impl std::error::Error for Unreadable {}

/// Names in backticks, separated by commas.
#[must_use]
pub fn list<T: AsRef<str>>(names: &[T]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("`{}`", name.as_ref())).collect();
    quoted.join(", ")
}

/// Names the container that tools such as `kubectl logs` take by default.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

impl Snapshot {
    /// All other containers, main ones included.
    pub fn beside(&self) -> impl Iterator<Item = &Sidecar> {
        self.sidecars.iter().chain(self.mains.iter().map(|main| &main.container))
    }

    /// The sidecars that are this row of the table.
    pub fn recognised(&self, known: &'static Known) -> impl Iterator<Item = (&Sidecar, &Recognised)> {
        let recognised = self.sidecars.iter().filter_map(|sidecar| Some((sidecar, sidecar.known.as_ref()?)));
        recognised.filter(move |(_, recognised)| recognised.known == known)
    }

    /// Reads the Pod. `container`: our own container's name, where flags or mounts say it. `started`: when its first
    /// process started, where the system says it.
    ///
    /// # Errors
    /// When our own container cannot be told from the others.
    pub fn of(pod: &Pod, container: Option<&str>, started: Option<SystemTime>) -> Result<Self, Unreadable> {
        let no_spec = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&no_spec);
        let policy = spec.restart_policy.as_deref().map_or(RestartPolicy::Always, RestartPolicy::of);
        let names = || spec.init_containers.iter().flatten().chain(&spec.containers);
        let names: Vec<_> = names().map(|container| container.name.as_str()).collect();
        let (annotated, malformed) = annotations::read(pod.metadata.annotations.as_ref(), &names);
        let (own, role) = own_container(pod, spec, container, &annotated)?;
        let own_status = status(pod, &own.name);
        let (mains, sidecars) = beside(pod, spec, own, role, policy, &annotated);
        Ok(Self {
            name: pod.metadata.name.clone().unwrap_or_default(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            life: life(pod),
            termination: termination(pod, spec, own, role),
            processes: if spec.host_pid == Some(true) {
                ProcessNamespace::Host
            } else if spec.share_process_namespace == Some(true) {
                ProcessNamespace::Pod
            } else {
                ProcessNamespace::Container
            },
            own: Own {
                name: own.name.clone(),
                restart: match role {
                    Role::Init => init_restart(own, policy),
                    Role::Regular | Role::NativeSidecar => Restart::of(own, policy),
                },
                probes: own_probes(own),
                stop_signal: stop_signal(own, own_status),
                role,
                run: Run::of(own_status, started),
            },
            sidecars,
            mains,
            malformed,
        })
    }
}

fn termination(pod: &Pod, spec: &PodSpec, own: &Container, role: Role) -> Termination {
    // Less than 0 counts as 1 (Pod API validation and defaults).
    let duration = |seconds: i64| Duration::from_secs(u64::try_from(seconds).unwrap_or(1));
    let grace = pod.metadata.deletion_grace_period_seconds.or(spec.termination_grace_period_seconds);
    let probes = [&own.liveness_probe, &own.startup_probe].into_iter().flatten();
    let probe_grace = probes.filter_map(|probe| probe.termination_grace_period_seconds).min();
    let has_hook = own.lifecycle.as_ref().is_some_and(|lifecycle| lifecycle.pre_stop.is_some());
    Termination {
        grace: grace.map_or(DEFAULT_GRACE, duration),
        probe_grace: probe_grace.map(duration),
        gone_by: pod.metadata.deletion_timestamp.as_ref().map(|time| time.0),
        countdown: if has_hook || role == Role::NativeSidecar {
            Countdown::Earlier
        } else {
            Countdown::FromSignal
        },
    }
}

fn own_probes(own: &Container) -> Box<[OwnProbe]> {
    let kinds = [(ProbeKind::Startup, &own.startup_probe), (ProbeKind::Liveness, &own.liveness_probe)];
    let probes = kinds.into_iter().filter_map(|(kind, probe)| Some((kind, probe.as_ref()?)));
    probes
        .map(|(kind, probe)| {
            // Defaults of the Pod API reference.
            let seconds = |value: Option<i32>, default| u64::try_from(value.unwrap_or(default)).unwrap_or(0);
            let attempts = seconds(probe.period_seconds, 10) * seconds(probe.failure_threshold, 3);
            let get = probe.http_get.as_ref().and_then(|get| {
                let path = get.path.clone().unwrap_or_else(|| "/".to_owned());
                Some((recognise::port(own, &get.port)?, path))
            });
            let allowance = Duration::from_secs(seconds(probe.initial_delay_seconds, 0) + attempts);
            OwnProbe { kind, allowance, get }
        })
        .collect()
}

fn life(pod: &Pod) -> Life {
    if pod.metadata.deletion_timestamp.is_some() {
        return Life::Deleting;
    }
    let Some(status) = &pod.status else {
        return Life::Active;
    };
    // The phase comes last: a Pod that the kubelet is ending (evicted, or past its active deadline) stays
    // `Running` until its containers have ended, and as their probes are gone by then they are called ready
    // meanwhile. What tells is the reason of its conditions (`pkg/kubelet/status/generate.go`).
    let ending = status.conditions.iter().flatten().any(|condition| {
        condition.r#type == "ContainersReady"
            && condition.status == "False"
            && matches!(condition.reason.as_deref(), Some("PodFailed" | "PodCompleted"))
    });
    match status.phase.as_deref() {
        Some("Succeeded" | "Failed") => Life::Finished,
        _ if ending => Life::Finished,
        _ => Life::Active,
    }
}

/// A plain init container is never restarted for `Never`, and after a failure for both other policies
/// (Pod Lifecycle, "Container restart policy").
fn init_restart(container: &Container, pod: RestartPolicy) -> Restart {
    let mut restart = Restart::of(container, pod);
    if restart.policy == RestartPolicy::Always {
        restart.policy = RestartPolicy::OnFailure;
    }
    restart
}

fn is_native(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn own_container<'a>(
    pod: &Pod,
    spec: &'a PodSpec,
    container: Option<&str>,
    annotations: &BTreeMap<String, Annotated>,
) -> Result<(&'a Container, Role), Unreadable> {
    let init = spec.init_containers.iter().flatten();
    let all = || {
        let init = init.clone().map(|c| (c, if is_native(c) { Role::NativeSidecar } else { Role::Init }));
        init.chain(spec.containers.iter().map(|c| (c, Role::Regular)))
    };
    let find = |name: &str| all().find(|(container, _)| container.name == name);
    let names = || all().map(|(container, _)| container.name.clone()).collect();
    if let Some(name) = container {
        return find(name)
            .ok_or_else(|| Unreadable::NoSuchContainer { name: name.to_owned(), found: names() });
    }
    let annotated = pod.metadata.annotations.iter().flatten().find(|(key, _)| *key == DEFAULT_CONTAINER);
    if let Some(own) = annotated.and_then(|(_, name)| find(name)) {
        return Ok(own);
    }
    let is_sidecar = |container: &Container| {
        recognise(pod, container).is_some()
            || annotations.get(&container.name).is_some_and(Annotated::is_sidecar)
    };
    let unknown: Vec<_> = spec.containers.iter().filter(|container| !is_sidecar(container)).collect();
    match (spec.containers.as_slice(), unknown.as_slice()) {
        ([only], _) => Ok((only, Role::Regular)),
        (_, [only]) => Ok((*only, Role::Regular)),
        _ => Err(Unreadable::WhichContainer { found: names() }),
    }
}

fn status<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let regular = status.container_statuses.iter().flatten();
    let init = status.init_container_statuses.iter().flatten();
    regular.chain(init).find(|status| status.name == name)
}

/// The status tells the signal in force, the image's `STOPSIGNAL` included; the spec only an override (KEP-4960).
fn stop_signal(container: &Container, status: Option<&ContainerStatus>) -> Option<Signal> {
    let in_status = status.and_then(|status| status.stop_signal.as_deref());
    let in_spec = || container.lifecycle.as_ref()?.stop_signal.as_deref();
    in_status.or_else(in_spec)?.parse().ok()
}

/// The containers that run beside ours, as far as it may wait for them: main ones by their command, and the others. An init container runs beside the native
/// sidecars listed before it and nothing else: those after it, and the regular containers, start once it has ended, or
/// where it is a native sidecar itself, once it has started.
fn beside(
    pod: &Pod,
    spec: &PodSpec,
    own: &Container,
    role: Role,
    policy: RestartPolicy,
    annotations: &BTreeMap<String, Annotated>,
) -> (Vec<Main>, Vec<Sidecar>) {
    let annotated = |container: &Container| annotations.get(&container.name).cloned().unwrap_or_default();
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let (native, regular) = match role {
        Role::Regular => (init, spec.containers.as_slice()),
        Role::Init | Role::NativeSidecar => {
            let before = init.iter().position(|container| container.name == own.name).unwrap_or(init.len());
            (&init[..before], [].as_slice())
        }
    };
    let native = native.iter().filter(|container| is_native(container)).map(|c| (c, true));
    let regular = regular.iter().filter(|container| container.name != own.name);
    let (main, sidecars): (Vec<_>, Vec<_>) =
        regular.partition(|container| runs_proa(container, own) && !annotated(container).is_sidecar());
    let main = main.into_iter().map(|container| Main {
        container: sidecar(pod, container, false, policy, annotated(container)),
        known_by: main_by(container),
        seen: false,
    });
    let sidecars = sidecars.into_iter().map(|container| (container, false));
    let all = native.chain(sidecars).filter(|(container, _)| container.name != own.name);
    (
        main.collect(),
        all.map(|(container, native)| sidecar(pod, container, native, policy, annotated(container)))
            .collect(),
    )
}

fn sidecar(
    pod: &Pod,
    container: &Container,
    native: bool,
    policy: RestartPolicy,
    annotated: Annotated,
) -> Sidecar {
    let status = status(pod, &container.name);
    let id = status.and_then(|status| status.container_id.as_deref());
    Sidecar {
        name: container.name.clone(),
        native,
        id: id.and_then(|id| id.split_once("://")).map(|(_, id)| id.to_owned()),
        ready: status.is_some_and(|status| status.ready),
        is_probed: container.readiness_probe.is_some() || container.startup_probe.is_some(),
        state: state(status),
        last: status.and_then(|status| status.last_state.as_ref()?.terminated.as_ref()).map(exit),
        restart: Restart::of(container, policy),
        known: recognise(pod, container),
        annotated,
    }
}

fn state(status: Option<&ContainerStatus>) -> State {
    let Some(state) = status.and_then(|status| status.state.as_ref()) else {
        return State::Waiting("not started".to_owned());
    };
    if let Some(terminated) = &state.terminated {
        State::Terminated(exit(terminated))
    } else if state.running.is_some() {
        State::Running
    } else {
        let reason = state.waiting.as_ref().and_then(|waiting| waiting.reason.clone());
        State::Waiting(reason.unwrap_or_else(|| "waiting".to_owned()))
    }
}

fn exit(terminated: &Terminated) -> Exit {
    Exit { code: terminated.exit_code, reason: terminated.reason.clone().unwrap_or_default() }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Reads a Pod from YAML, as `kubectl get pod -o yaml` shows it.
    pub(crate) fn pod(yaml: &str) -> Pod {
        serde_saphyr::from_str(yaml).expect("a Pod")
    }

    /// A snapshot of such a Pod, with `main` as our own container.
    pub(crate) fn snapshot(yaml: &str) -> Snapshot {
        Snapshot::of(&pod(yaml), Some("main"), None).expect("a readable Pod")
    }

    /// As an injector leaves it: the proxy first, a native sidecar, an init container that is done, a
    /// debug container.
    const INJECTED: &str = "
metadata:
  name: report-x7k2p
  uid: 3b5e8a3c-52ce-4f2a-9d0b-0a8e6a4cf2d1
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 45
  shareProcessNamespace: true
  initContainers:
  - {name: migrate, image: app}
  - {name: vault, image: vault, restartPolicy: Always}
  containers:
  - {name: proxy, image: proxy}
  - {name: main, image: app}
  ephemeralContainers:
  - {name: debugger, image: busybox}
status:
  phase: Running
  initContainerStatuses:
  - {name: migrate, image: app, imageID: a, ready: true, restartCount: 0, state: {terminated: {exitCode: 0, reason: Completed}}}
  - {name: vault, image: vault, imageID: v, ready: false, started: true, restartCount: 0, containerID: 'containerd://abc', state: {running: {}}}
  containerStatuses:
  - {name: main, image: app, imageID: a, ready: false, restartCount: 0, state: {running: {}}, stopSignal: SIGUSR1}
  - name: proxy
    image: proxy
    imageID: p
    ready: false
    restartCount: 3
    state: {waiting: {reason: CrashLoopBackOff}}
    lastState: {terminated: {exitCode: 137, reason: OOMKilled}}
  ephemeralContainerStatuses:
  - {name: debugger, image: busybox, imageID: b, ready: false, restartCount: 0, state: {running: {}}}
";

    #[test]
    fn sidecars_are_the_other_regular_containers_and_native_ones() {
        let snapshot = snapshot(INJECTED);
        let names: Vec<_> = snapshot.sidecars.iter().map(|s| (s.name.as_str(), s.native)).collect();
        assert_eq!(names, [("vault", true), ("proxy", false)]);
        assert_eq!(snapshot.termination.grace, Duration::from_secs(45));
        assert_eq!(snapshot.processes, ProcessNamespace::Pod);
        assert_eq!(snapshot.life, Life::Active);
        assert_eq!(snapshot.sidecars[0].id.as_deref(), Some("abc"));
    }

    #[test]
    fn a_sidecar_that_is_not_ready_says_why() {
        let snapshot = snapshot(INJECTED);
        assert_eq!(snapshot.sidecars[0].why_not_ready(), "running, not ready");
        assert_eq!(
            snapshot.sidecars[1].why_not_ready(),
            "CrashLoopBackOff, before that exit code 137, OOMKilled"
        );
    }

    #[test]
    fn our_own_stop_signal_is_read_from_the_status() {
        assert_eq!(snapshot(INJECTED).own.stop_signal, "USR1".parse().ok());
    }

    #[test]
    fn an_init_container_runs_beside_the_native_sidecars_before_it() {
        let yaml = "
spec:
  initContainers:
  - {name: first, image: a, restartPolicy: Always}
  - {name: main, image: a}
  - {name: later, image: a, restartPolicy: Always}
  containers:
  - {name: app, image: a}
";
        let snapshot = snapshot(yaml);
        assert_eq!(snapshot.own.role, Role::Init);
        let names: Vec<_> = snapshot.sidecars.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["first"]);
        assert!(snapshot.own.restart.after(1), "Always restarts an init container after a failure");
        assert!(!snapshot.own.restart.after(0), "and never after success");
    }

    #[test]
    fn without_a_name_the_annotation_or_the_only_container_decides() {
        let own = |yaml: &str| Snapshot::of(&pod(yaml), None, None).map(|snapshot| snapshot.own.name);
        let one = "spec: {containers: [{name: app, image: a}]}";
        assert_eq!(own(one), Ok("app".into()));
        assert_eq!(own("spec: {containers: [{name: envoy, image: envoyproxy/envoy}]}"), Ok("envoy".into()));
        let two = "spec: {containers: [{name: proxy, image: a}, {name: app, image: a}]}";
        assert_eq!(own(two), Err(Unreadable::WhichContainer { found: vec!["proxy".into(), "app".into()] }));
        let annotated = format!("metadata: {{annotations: {{{DEFAULT_CONTAINER}: app}}}}\n{two}");
        assert_eq!(own(&annotated), Ok("app".into()));
        let sidecar = |setting: &str| {
            own(&format!("metadata: {{annotations: {{proa.ironcorelabs.com/proxy.{setting}}}}}\n{two}"))
        };
        assert_eq!(
            sidecar("shutdown: GET http://localhost:1/"),
            Ok("app".into()),
            "it says that it is a sidecar"
        );
        assert!(sidecar("ignore: 'true'").is_err(), "a main container may be ignored too");
        let wrong = Snapshot::of(&pod(two), Some("web"), None);
        assert!(matches!(wrong, Err(Unreadable::NoSuchContainer { .. })), "{wrong:?}");
    }

    #[test]
    fn an_empty_pod_is_no_reason_to_panic() {
        assert_eq!(
            Snapshot::of(&Pod::default(), None, None),
            Err(Unreadable::WhichContainer { found: Vec::new() })
        );
    }

    #[test]
    fn deletion_and_final_phases_are_seen() {
        let life =
            |yaml: &str| snapshot(&format!("{yaml}\nspec: {{containers: [{{name: main, image: a}}]}}")).life;
        assert_eq!(life("metadata: {deletionTimestamp: 2026-11-21T00:00:00Z}"), Life::Deleting);
        assert_eq!(life("status: {phase: Failed, reason: DeadlineExceeded}"), Life::Finished);
        assert_eq!(life("status: {phase: Running}"), Life::Active);
        let condition = |reason| {
            life(&format!(
                "status: {{phase: Running, conditions: [{{type: ContainersReady, status: 'False', reason: {reason}}}]}}"
            ))
        };
        assert_eq!(condition("PodFailed"), Life::Finished);
        assert_eq!(condition("PodCompleted"), Life::Finished);
        assert_eq!(condition("ContainersNotReady"), Life::Active);
        assert_eq!(life("metadata: {}"), Life::Active);
    }

    #[test]
    fn a_deletions_own_grace_period_counts() {
        let deleted = snapshot(
            "
metadata: {deletionTimestamp: '2026-11-21T00:00:10Z', deletionGracePeriodSeconds: 5}
spec: {terminationGracePeriodSeconds: 30, containers: [{name: main, image: a}]}
",
        );
        assert_eq!(deleted.termination.grace, Duration::from_secs(5));
        assert!(deleted.termination.gone_by.is_some());
        assert_eq!(deleted.termination.countdown, Countdown::FromSignal);
    }

    #[test]
    fn what_uses_up_the_grace_period_before_the_signal_is_seen() {
        let termination = |yaml: &str| snapshot(yaml).termination;
        let hook =
            "spec: {containers: [{name: main, image: m, lifecycle: {preStop: {sleep: {seconds: 5}}}}]}";
        assert_eq!(termination(hook).countdown, Countdown::Earlier);
        let native = "spec: {initContainers: [{name: main, image: m, restartPolicy: Always}], containers: [{name: a, image: a}]}";
        assert_eq!(termination(native).countdown, Countdown::Earlier);
        let odd = "spec: {terminationGracePeriodSeconds: -5, containers: [{name: main, image: m, livenessProbe: {terminationGracePeriodSeconds: 3}}]}";
        assert_eq!(termination(odd).grace, Duration::from_secs(1));
        assert_eq!(termination(odd).probe_grace, Some(Duration::from_secs(3)));
    }

    #[test]
    fn a_native_sidecar_runs_beside_those_listed_before_it() {
        let yaml = "
spec:
  initContainers:
  - {name: first, image: a, restartPolicy: Always}
  - {name: main, image: a, restartPolicy: Always}
  - {name: later, image: a, restartPolicy: Always}
  containers:
  - {name: app, image: a}
";
        let snapshot = snapshot(yaml);
        assert_eq!(snapshot.own.role, Role::NativeSidecar);
        let names: Vec<_> = snapshot.sidecars.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["first"]);
    }

    #[test]
    fn the_containers_own_policy_and_rules_come_before_the_pods() {
        let restart = |pod: &str, container: &str| {
            let yaml =
                format!("spec: {{restartPolicy: {pod}, containers: [{{name: main, image: a{container}}}]}}");
            snapshot(&yaml).own.restart
        };
        let after = |restart: &Restart| [0, 1, 42].map(|code| restart.after(code));
        assert_eq!(after(&restart("Never", "")), [false, false, false]);
        assert_eq!(after(&restart("OnFailure", "")), [false, true, true]);
        assert_eq!(after(&restart("Always", "")), [true, true, true]);
        assert_eq!(after(&restart("Never", ", restartPolicy: OnFailure")), [false, true, true]);
        assert_eq!(after(&restart("Always", ", restartPolicy: Never")), [false, false, false]);
        let rule = |operator: &str| {
            format!(
                ", restartPolicy: Never, restartPolicyRules: \
                 [{{action: Restart, exitCodes: {{operator: {operator}, values: [42]}}}}]"
            )
        };
        assert_eq!(after(&restart("Never", &rule("In"))), [false, false, true]);
        assert_eq!(after(&restart("Never", &rule("NotIn"))), [true, true, false]);
    }

    #[test]
    fn rules_may_leave_no_exit_code_that_ends_a_container() {
        let always = |policy: &str, rules: &str| {
            let yaml = format!(
                "spec: {{containers: [{{name: main, image: a, restartPolicy: {policy}, restartPolicyRules: [{rules}]}}]}}"
            );
            snapshot(&yaml).own.restart.always()
        };
        let rule = |operator: &str, value: i32| {
            format!("{{action: Restart, exitCodes: {{operator: {operator}, values: [{value}]}}}}")
        };
        assert!(always("OnFailure", &rule("In", 0)));
        assert!(always("OnFailure", &rule("NotIn", 42)));
        assert!(always("Never", &format!("{}, {}", rule("NotIn", 42), rule("In", 42))));
        assert!(!always("Never", &rule("NotIn", 42)));
        assert!(!always("OnFailure", &rule("In", 42)));
    }

    #[test]
    fn a_rule_takes_the_end_from_never() {
        let never = |fields: &str| {
            let yaml = format!("spec: {{containers: [{{name: main, image: a, restartPolicy: {fields}}}]}}");
            snapshot(&yaml).own.restart.never()
        };
        assert!(never("Never"));
        assert!(!never("OnFailure") && !never("Always"));
        let rule = "restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [42]}}]";
        assert!(!never(&format!("Never, {rule}")));
    }

    #[test]
    fn whose_processes_are_seen_is_the_pods_to_say() {
        let processes = |setting: &str| {
            snapshot(&format!("spec: {{{setting}containers: [{{name: main, image: m}}]}}")).processes
        };
        assert_eq!(processes(""), ProcessNamespace::Container);
        assert_eq!(processes("shareProcessNamespace: false, "), ProcessNamespace::Container);
        assert_eq!(processes("shareProcessNamespace: true, "), ProcessNamespace::Pod);
        assert_eq!(processes("hostPID: true, "), ProcessNamespace::Host);
        assert_eq!(processes("hostPID: false, "), ProcessNamespace::Container);
    }

    #[test]
    fn a_probe_may_fail_for_its_delay_and_all_its_attempts() {
        let pod = snapshot(
            "
spec:
  containers:
  - name: main
    image: m
    ports: [{name: web, containerPort: 8080}]
    startupProbe: {initialDelaySeconds: 5, periodSeconds: 7, failureThreshold: 4, httpGet: {port: web}}
    livenessProbe: {exec: {command: [check]}}
",
        );
        let startup = OwnProbe {
            kind: ProbeKind::Startup,
            allowance: Duration::from_secs(5 + 7 * 4),
            get: Some((8080, "/".into())),
        };
        let liveness = OwnProbe { kind: ProbeKind::Liveness, allowance: Duration::from_secs(30), get: None };
        assert_eq!(*pod.own.probes, [startup, liveness], "with the API's defaults where nothing is said");
        let kinds = [ProbeKind::Startup, ProbeKind::Liveness];
        assert_eq!(
            kinds.map(|kind| kind.to_string()),
            ["startupProbe", "livenessProbe"],
            "as the manifest has it"
        );
    }

    #[test]
    fn only_the_kubelets_word_on_all_containers_ends_a_pod_that_runs() {
        let life = |condition: &str| {
            snapshot(&format!(
                "
spec: {{containers: [{{name: main, image: m}}]}}
status: {{phase: Running, conditions: [{{{condition}}}]}}
"
            ))
            .life
        };
        assert_eq!(life("type: ContainersReady, status: 'False', reason: PodFailed"), Life::Finished);
        assert_eq!(life("type: Ready, status: 'False', reason: PodFailed"), Life::Active);
        assert_eq!(life("type: ContainersReady, status: 'True', reason: PodFailed"), Life::Active);
    }

    #[test]
    fn the_specs_stop_signal_counts_until_the_status_tells_another() {
        let signal = |status: &str| {
            let yaml = format!(
                "
spec: {{containers: [{{name: main, image: m, lifecycle: {{stopSignal: SIGQUIT}}}}]}}
status: {{containerStatuses: [{{name: main, image: m, imageID: m, ready: false, restartCount: 0{status}}}]}}
"
            );
            snapshot(&yaml).own.stop_signal
        };
        assert_eq!(signal(""), Some(Signal::QUIT));
        assert_eq!(signal(", stopSignal: SIGINT"), Some(Signal::INT));
    }

    #[test]
    fn what_a_sidecar_does_is_told_in_the_kubelets_words() {
        let web = |state: &str| {
            let yaml = format!(
                "
spec: {{restartPolicy: Never, containers: [{{name: main, image: m}}, {{name: web, image: w}}]}}
status:
  containerStatuses: [{{name: web, image: w, imageID: w, ready: false, restartCount: 0{state}}}]
"
            );
            snapshot(&yaml).sidecars.remove(0)
        };
        let last = ", lastState: {terminated: {exitCode: 3, reason: Error}}";
        for (state, why_not_ready, why_not_over) in [
            ("", "not started", "not started"),
            (", state: {waiting: {}}", "waiting", "waiting"),
            (", state: {waiting: {reason: ErrImagePull}}", "ErrImagePull", "ErrImagePull"),
            (", state: {running: {}}", "running, not ready", "running"),
            (
                &format!(", state: {{running: {{}}}}{last}"),
                "running, not ready, before that exit code 3",
                "running",
            ),
            (
                &format!(", state: {{terminated: {{exitCode: 1, reason: OOMKilled}}}}{last}"),
                "ended with exit code 1, OOMKilled",
                "ended with exit code 1, OOMKilled, to be restarted",
            ),
        ] {
            let web = web(state);
            assert_eq!(
                (&*web.why_not_ready(), &*web.why_not_over()),
                (why_not_ready, why_not_over),
                "{state}"
            );
        }
    }

    #[test]
    fn an_exit_says_no_more_than_its_code_where_the_reason_adds_nothing() {
        let shown = |code, reason: &str| Exit { code, reason: reason.into() }.to_string();
        assert_eq!(shown(0, "Completed"), "exit code 0");
        assert_eq!(shown(1, "Error"), "exit code 1");
        assert_eq!(shown(2, ""), "exit code 2");
        assert_eq!(shown(137, "OOMKilled"), "exit code 137, OOMKilled");
    }

    #[test]
    fn a_pod_that_cannot_be_read_says_which_containers_there_are() {
        let found = || vec!["proxy".to_owned(), "app".to_owned()];
        let missing = Unreadable::NoSuchContainer { name: "web".into(), found: found() }.to_string();
        assert!(missing.starts_with("no container `web` in this Pod, which has `proxy`, `app`"), "{missing}");
        let which = Unreadable::WhichContainer { found: found() }.to_string();
        assert!(which.contains("the containers `proxy`, `app` is this one"), "{which}");
        assert!(which.contains("set --container"), "{which}");
    }

    #[test]
    fn what_annotations_say_of_a_sidecar_wins_over_what_is_known_of_it() {
        let pod = snapshot(
            "
metadata:
  annotations:
    proa.ironcorelabs.com/envoy.shutdown: GET http://localhost:1/stop
    proa.ironcorelabs.com/envoy.traffic: own
    proa.ironcorelabs.com/envoy.ready: http://localhost:1/ready
    proa.ironcorelabs.com/web.ready: http://localhost:2/ready
    proa.ironcorelabs.com/fuse.shutdown: GET http://localhost:3/stop
spec:
  containers:
  - {name: main, image: m}
  - {name: envoy, image: envoyproxy/envoy, readinessProbe: {tcpSocket: {port: 9901}}}
  - {name: web, image: w, startupProbe: {tcpSocket: {port: 80}}}
  - {name: mesh, image: envoyproxy/envoy}
  - {name: fuse, image: gcs-fuse-csi-driver-sidecar-mounter}
  - {name: gke-gcsfuse-sidecar, image: g}
  - {name: plain, image: p}
",
        );
        let facts = pod.sidecars.iter().map(|sidecar| {
            let quit = sidecar.quit().map_or("-".to_owned(), ToString::to_string);
            let ready = sidecar.ready_at().map_or("-".to_owned(), ToString::to_string);
            format!("{}: {:?}, {ready}, {quit}", sidecar.introduction(), sidecar.traffic())
        });
        assert_eq!(
            facts.collect::<Vec<_>>(),
            [
                "`envoy` (Envoy): Own, http://localhost:1/ready, GET http://localhost:1/stop",
                "`web`: Own, http://localhost:2/ready, -",
                "`mesh` (Envoy): Pod, http://localhost:9901/ready, POST http://localhost:9901/quitquitquit",
                "`fuse` (GKE Cloud Storage FUSE): Own, -, GET http://localhost:3/stop",
                "`gke-gcsfuse-sidecar` (GKE Cloud Storage FUSE): Own, -, -",
                "`plain`: Own, -, -",
            ]
        );
        let names = |is: fn(&Sidecar) -> bool| {
            let those = pod.sidecars.iter().filter(|sidecar| is(sidecar));
            those.map(|sidecar| sidecar.name.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(names(|sidecar| sidecar.is_probed), ["envoy", "web"]);
        assert_eq!(names(Sidecar::leaves_last), ["gke-gcsfuse-sidecar"]);
        assert_eq!(names(|sidecar| !sidecar.is_sidecar()), ["plain"]);
        let envoy = crate::known::SIDECARS.iter().find(|known| known.name == "envoy").unwrap();
        let recognised: Vec<_> = pod.recognised(envoy).map(|(sidecar, _)| sidecar.name.as_str()).collect();
        assert_eq!(recognised, ["envoy", "mesh"]);
    }
}
