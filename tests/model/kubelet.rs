//! A Pod as the kubelet has it: a simulation by Kubernetes' own rules (`computePodActions` in
//! `pkg/kubelet/kuberuntime/kuberuntime_manager.go`, `ContainerShouldRestart` in `pkg/api/v1/pod/util.go`, KEP-753, KEP-5307,
//! KEP-5532), which knows nothing of what proa makes of it. It is the truth that proa's decisions are compared with.

use std::time::{Duration, SystemTime};

use proa::pod::object::Pod;
use serde_json::{Value, json};

/// A restart policy, of a Pod or of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Policy {
    Always,
    OnFailure,
    Never,
}

/// A restart rule of a container: the exit codes that it names, or all others.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Rule {
    pub(crate) not: bool,
    pub(crate) codes: Vec<i32>,
    /// Every container of the Pod (KEP-5532), or this one.
    pub(crate) all: bool,
}

/// What the manifest makes of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// An init container that keeps running.
    Native,
    /// A regular one.
    Sidecar(Make),
    /// A main container.
    Main(Front),
}

/// What a regular sidecar is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Make {
    /// Nobody knows it, and it has no quit endpoint.
    Plain,
    /// It has an endpoint.
    CloudSql,
    /// The same, and the others' traffic goes through it.
    Istio,
    /// Kubernetes calls it ready too late.
    Dapr,
    /// `proa sidecar -- COMMAND`.
    Wrapped,
    /// An annotation names its endpoint.
    Annotated,
    /// An annotation says where it is ready.
    ReadyAt,
    /// An annotation says that nobody waits for it.
    Ignored,
    /// It leaves once all others have.
    LeavesLast,
}

/// What stands in front of a main container's command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Front {
    Proa,
    /// A proa that is switched off.
    Disabled,
    /// Nothing; a flag of the other main containers' names it.
    Flagged,
}

/// A container's part of the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Spec {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) policy: Option<Policy>,
    pub(crate) rules: Vec<Rule>,
}

/// A Pod's manifest.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Manifest {
    pub(crate) policy: Policy,
    pub(crate) containers: Vec<Spec>,
}

/// What a container does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum State {
    /// Its image is pulled, it waits for others, ...
    Created,
    Running,
    /// With this exit code, killed for want of memory or not.
    Ended(i32, bool),
    /// Ended with this exit code, and waiting to be started again.
    BackOff(i32),
}

/// A container as the kubelet has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Container {
    pub(crate) state: State,
    pub(crate) last: Option<i32>,
    pub(crate) ready: bool,
    /// How often it was started.
    pub(crate) starts: u32,
    /// When it was started the last time, in milliseconds.
    pub(crate) started: u64,
}

impl Container {
    pub(crate) const CREATED: Self =
        Self { state: State::Created, last: None, ready: false, starts: 0, started: 0 };
}

/// Where the Pod is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Life {
    Active,
    Deleting,
    /// Its containers are being ended, and its phase says nothing of that yet.
    Ending,
    Failed,
}

/// The Pod at some moment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Moment {
    pub(crate) containers: Vec<Container>,
    pub(crate) life: Life,
    /// How often all of its containers were started anew.
    pub(crate) round: u32,
}

impl Spec {
    fn matching(&self, code: i32) -> Option<&Rule> {
        // Rules count beside a policy of the container's own alone, and the first that matches does.
        self.policy?;
        self.rules.iter().find(|rule| rule.codes.contains(&code) != rule.not)
    }

    /// Whether the kubelet starts it again by itself after this exit code.
    pub(crate) fn restarts(&self, pod: Policy, code: i32) -> bool {
        if self.matching(code).is_some() {
            return true;
        }
        match self.policy.unwrap_or(pod) {
            Policy::Always => true,
            Policy::OnFailure => code != 0,
            Policy::Never => false,
        }
    }

    /// Whether its exit with this code starts the whole Pod anew.
    pub(crate) fn restarts_all(&self, code: i32) -> bool {
        self.matching(code).is_some_and(|rule| rule.all)
    }

    /// Whether there is an exit code after which it is over.
    pub(crate) fn can_end(&self, pod: Policy) -> bool {
        (0..=255).any(|code| !self.restarts(pod, code))
    }
}

impl Manifest {
    /// Whether the container is over: it has ended, and the kubelet will not start it again.
    pub(crate) fn is_over(&self, moment: &Moment, place: usize) -> bool {
        match moment.containers[place].state {
            State::Ended(code, _) => !self.containers[place].restarts(self.policy, code),
            State::Created | State::Running | State::BackOff(_) => false,
        }
    }

    pub(crate) fn place(&self, name: &str) -> usize {
        self.containers.iter().position(|container| container.name == name).expect("a container of the Pod")
    }

    /// The Pod as the API server shows it.
    pub(crate) fn shown(&self, moment: &Moment) -> Pod {
        let annotations = self.containers.iter().filter_map(|container| {
            let (setting, value) = match container.kind {
                Kind::Sidecar(Make::Annotated) => ("shutdown", "POST http://localhost:9000/quit"),
                Kind::Sidecar(Make::ReadyAt) => ("ready", "http://localhost:9001/ready"),
                Kind::Sidecar(Make::Ignored) => ("ignore", "true"),
                _ => return None,
            };
            Some((format!("proa.ironcorelabs.com/{}.{setting}", container.name), json!(value)))
        });
        let (native, regular): (Vec<_>, Vec<_>) =
            self.containers.iter().partition(|container| container.kind == Kind::Native);
        let specs = |specs: Vec<&Spec>| specs.into_iter().map(Spec::shown).collect::<Vec<_>>();
        let statuses = |is_native: bool| {
            let all = self.containers.iter().zip(&moment.containers);
            let these = all.filter(|(spec, _)| (spec.kind == Kind::Native) == is_native);
            these.map(|(spec, container)| status(&spec.name, container)).collect::<Vec<_>>()
        };
        let mut pod = json!({
            "metadata": {
                "name": "pod", "uid": "u", "annotations": annotations.collect::<serde_json::Map<_, _>>(),
            },
            "spec": {
                "restartPolicy": policy(self.policy), "initContainers": specs(native), "containers": specs(regular),
            },
            "status": {
                "phase": "Running", "initContainerStatuses": statuses(true), "containerStatuses": statuses(false),
            },
        });
        match moment.life {
            Life::Active => {}
            Life::Deleting => {
                pod["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:00Z");
                pod["metadata"]["deletionGracePeriodSeconds"] = json!(30);
            }
            Life::Ending => {
                pod["status"]["conditions"] =
                    json!([{"type": "ContainersReady", "status": "False", "reason": "PodFailed"}]);
            }
            Life::Failed => pod["status"]["phase"] = json!("Failed"),
        }
        serde_json::from_value(pod).expect("a Pod")
    }
}

impl Spec {
    fn shown(&self) -> Value {
        let (image, command): (_, &[&str]) = match self.kind {
            Kind::Native | Kind::Sidecar(Make::Plain | Make::Annotated | Make::ReadyAt | Make::Ignored) => {
                ("example.com/thing", &[])
            }
            Kind::Sidecar(Make::CloudSql) => ("cloud-sql-connectors/cloud-sql-proxy:2.27.0", &[]),
            Kind::Sidecar(Make::Istio) => ("istio/proxyv2:1.29", &[]),
            Kind::Sidecar(Make::Dapr) => ("daprio/daprd:1.18", &[]),
            Kind::Sidecar(Make::LeavesLast) => ("kumahq/kuma-dp:2.13", &[]),
            Kind::Sidecar(Make::Wrapped) => ("example.com/thing", &["/proa", "sidecar", "--", "serve"]),
            Kind::Main(Front::Proa) => ("example.com/work", &["/proa", "--", "work"]),
            Kind::Main(Front::Disabled) => ("example.com/work", &["/proa", "--disabled", "--", "work"]),
            Kind::Main(Front::Flagged) => ("example.com/work", &["work"]),
        };
        let rules = self.rules.iter().map(|rule| {
            json!({
                "action": if rule.all { "RestartAllContainers" } else { "Restart" },
                "exitCodes": {"operator": if rule.not { "NotIn" } else { "In" }, "values": rule.codes},
            })
        });
        let mut spec = json!({"name": self.name, "image": image, "command": command});
        if let Some(own) = self.policy {
            spec["restartPolicy"] = json!(policy(own));
            spec["restartPolicyRules"] = rules.collect();
        }
        spec
    }
}

fn policy(policy: Policy) -> &'static str {
    match policy {
        Policy::Always => "Always",
        Policy::OnFailure => "OnFailure",
        Policy::Never => "Never",
    }
}

/// The status that the kubelet reports (`convertToAPIContainerStatuses` in `pkg/kubelet/kubelet_pods.go`).
fn status(name: &str, container: &Container) -> Value {
    let ended = |code: i32, starved: bool| {
        let reason = match (code, starved) {
            (_, true) => "OOMKilled",
            (0, false) => "Completed",
            (_, false) => "Error",
        };
        json!({"terminated": {"exitCode": code, "reason": reason}})
    };
    let (state, last) = match container.state {
        State::Created => (json!({"waiting": {"reason": "ContainerCreating"}}), container.last),
        State::Running => {
            let at = humantime::format_rfc3339_seconds(time(container.started));
            (json!({"running": {"startedAt": at.to_string()}}), container.last)
        }
        State::Ended(code, starved) => (ended(code, starved), container.last),
        State::BackOff(code) => (json!({"waiting": {"reason": "CrashLoopBackOff"}}), Some(code)),
    };
    let mut status = json!({
        "name": name,
        "ready": container.ready,
        "restartCount": container.starts.saturating_sub(1),
        "state": state,
        "lastState": last.map_or_else(|| json!({}), |code| ended(code, false)),
    });
    if container.starts > 0 {
        status["containerID"] = json!(format!("containerd://{name}-{}", container.starts));
    }
    status
}

/// A moment on the clock that containers are started by.
pub(crate) fn time(milliseconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000) + Duration::from_millis(milliseconds)
}
