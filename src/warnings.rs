//! What the Pod shows that will go wrong later: a decision over what was asked for and one snapshot. Each warning has its fix
//! in it.

use std::fmt;
use std::time::Duration;

use crate::endpoint::HttpUrl;
use crate::known::{End, Known};
use crate::peer::message::Peers;
use crate::plan::selection::{Requirement, Selection};
use crate::pod::annotations::{self, Malformed};
use crate::pod::{Life, OwnProbe, ProbeKind, ProcessNamespace, Sidecar, Snapshot, list};
use crate::policy::{ShutdownAuto, ShutdownWhen};
use crate::shutdown::actions::{Action, Shutdown};
use crate::shutdown::stages::{Source, Stages, Step, Task, stages};

/// What was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Which containers the flags name.
    pub selection: &'a Selection,
    /// What is waited for; `None`: nothing.
    pub wait: Option<Wait<'a>>,
    /// How the sidecars are shut down, if that is ours to do.
    pub shutdown: Option<&'a Shutdown>,
    /// How long a wrapped sidecar's command may take to exit.
    pub stop_timeout: Option<Duration>,
    /// The port at which proa says whether it lives.
    pub status_port: Option<u16>,
}

/// What is waited for before the command.
#[derive(Debug, Clone, Copy)]
pub struct Wait<'a> {
    /// Whether Kubernetes is asked for the sidecars' readiness.
    pub sidecars: bool,
    /// Whether URLs, addresses or files are waited for.
    pub directly: bool,
    /// Well-known sidecars that are asked themselves, and where.
    pub known: &'a [(&'static Known, HttpUrl)],
    /// How long; `None`: for ever.
    pub timeout: Option<Duration>,
}

/// What will go wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// A flag names a container that the Pod does not have.
    NoSuchContainer {
        /// The flag.
        flag: &'static str,
        /// The name given.
        name: String,
        /// The names there are.
        found: Vec<String>,
    },
    /// An annotation says nothing usable.
    Malformed(Malformed),
    /// Sidecars are called ready as soon as they run.
    Unprobed {
        /// Their names.
        names: Vec<String>,
        /// Those of them that can be asked themselves, by their rows' names.
        known: Vec<&'static str>,
    },
    /// Our own container's probe may stop it while it waits.
    OwnProbe {
        /// The probe.
        kind: ProbeKind,
        /// How long it may fail.
        allowance: Duration,
        /// How long the wait may take; `None`: for ever.
        timeout: Option<Duration>,
    },
    /// Signals reach no other container.
    NotShared,
    /// The kubelet kills a wrapped sidecar's command before it has had its time.
    ShortGrace {
        /// The Pod's grace period.
        grace: Duration,
        /// What was asked for.
        stop_timeout: Duration,
    },
    /// A sidecar that runs on after the command.
    RunsOn(RunsOn),
    /// Fewer requests than sidecars that are not known otherwise.
    TooFewRequests {
        /// How many requests there are.
        requests: usize,
        /// The sidecars.
        names: Vec<String>,
    },
}

impl Warning {
    /// The container that it is about, if it is one.
    #[must_use]
    pub fn container(&self) -> Option<&str> {
        match self {
            Self::RunsOn(runs_on) => Some(&runs_on.name),
            _ => None,
        }
    }
}

/// A sidecar that nobody shuts down for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunsOn {
    /// Its name.
    pub name: String,
    /// Its name, and what it is where that is known.
    pub introduction: String,
    /// Why.
    pub why: Why,
}

/// Why a sidecar runs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// The kubelet starts it again after every exit.
    Restarted,
    /// Its quit request is switched off; what switches it on.
    Off(&'static str),
    /// It has no quit request; what helps.
    Cannot(&'static str),
    /// There are flags for others, which turn off the automatic shutdown of this one.
    FlagsForOthers,
    /// A flag turns the automatic shutdown off.
    AutoOff,
    /// It is not well known, and nothing says how.
    Unknown,
}

/// Finds what will go wrong. `peers`: the other proas of the Pod.
#[must_use]
pub fn warnings(snapshot: &Snapshot, asked: &Asked, peers: &Peers) -> Vec<Warning> {
    if snapshot.life != Life::Active {
        return Vec::new();
    }
    let mut found: Vec<_> = nobody_of_this_name(snapshot, asked.selection).collect();
    found.extend(snapshot.malformed.iter().cloned().map(Warning::Malformed));
    if let Some(wait) = asked.wait {
        found.extend(unprobed(snapshot, asked.selection, wait));
        found.extend(own_probe(snapshot, asked, wait));
    }
    let grace = snapshot.termination.grace;
    let longer = asked.stop_timeout.filter(|timeout| *timeout > grace);
    found.extend(longer.map(|stop_timeout| Warning::ShortGrace { grace, stop_timeout }));
    if let Some(shutdown) = asked.shutdown {
        let kills = |action: &Action| matches!(action, Action::Kill(..));
        if snapshot.processes == ProcessNamespace::Container && shutdown.actions.iter().any(kills) {
            found.push(Warning::NotShared);
        }
        found.extend(running_on(snapshot, asked.selection, shutdown, peers));
    }
    found
}

fn nobody_of_this_name<'a>(
    snapshot: &'a Snapshot,
    selection: &'a Selection,
) -> impl Iterator<Item = Warning> + 'a {
    let is_there =
        |name: &str| name == snapshot.own.name || snapshot.beside().any(|container| container.name == name);
    selection.ignore.iter().filter(move |name| !is_there(name)).map(|name| {
        let found = snapshot.beside().map(|container| container.name.clone()).collect();
        Warning::NoSuchContainer { flag: "--ignore", name: name.clone(), found }
    })
}

/// Sidecars whose readiness is waited for, though Kubernetes does not know it and nobody else is asked.
fn unprobed(snapshot: &Snapshot, selection: &Selection, wait: Wait) -> Option<Warning> {
    if !wait.sidecars || wait.directly {
        return None;
    }
    let row = |sidecar: &Sidecar| sidecar.known.as_ref().map(|recognised| recognised.known);
    let unprobed = |sidecar: &&Sidecar| {
        !sidecar.is_probed
            && selection.requirement(sidecar) == Requirement::Ready
            && row(sidecar).is_none_or(|row| wait.known.iter().all(|(known, _)| *known != row))
    };
    let sidecars: Vec<_> = snapshot.sidecars.iter().filter(unprobed).collect();
    let known = sidecars.iter().filter_map(|sidecar| row(sidecar).filter(|row| row.wait().is_ok()));
    let known = known.map(|row| row.name).collect();
    let names: Vec<_> = sidecars.iter().map(|sidecar| sidecar.name.clone()).collect();
    (!names.is_empty()).then_some(Warning::Unprobed { names, known })
}

/// A probe of ours that may fail before there is a command to answer it.
fn own_probe(snapshot: &Snapshot, asked: &Asked, wait: Wait) -> Option<Warning> {
    let waits = wait.directly
        || !wait.known.is_empty()
        || wait.sidecars
            && snapshot
                .sidecars
                .iter()
                .any(|sidecar| asked.selection.requirement(sidecar) != Requirement::None);
    let answered = |probe: &OwnProbe| {
        let own = |(port, path): &(u16, String)| Some(*port) == asked.status_port && path == "/livez";
        probe.get.as_ref().is_some_and(own)
    };
    // The liveness probe waits for the startup probe, which comes first here.
    let probe = snapshot.own.probes.iter().find(|probe| !answered(probe)).filter(|_| waits)?;
    let too_short = wait.timeout.is_none_or(|timeout| probe.allowance < timeout);
    too_short.then_some(Warning::OwnProbe {
        kind: probe.kind,
        allowance: probe.allowance,
        timeout: wait.timeout,
    })
}

/// Sidecars that will still run after the command, as far as they have started: an image's entrypoint may hide that proa wraps
/// those that have not.
fn running_on(
    snapshot: &Snapshot,
    selection: &Selection,
    shutdown: &Shutdown,
    peers: &Peers,
) -> Vec<Warning> {
    // A Pod whose containers are always restarted is not to complete.
    if shutdown.when == ShutdownWhen::Never || snapshot.own.restart.always() {
        return Vec::new();
    }
    let Stages { first, last } = stages(shutdown, Some(snapshot), peers);
    let tasks: Vec<_> = first.into_iter().chain(last).filter(|task| is_of_use(task, snapshot)).collect();
    let is_ignored = |sidecar: &Sidecar| {
        sidecar.annotated.ignore
            || [&selection.ignore, &shutdown.ignore].iter().any(|names| names.contains(&sidecar.name))
    };
    let candidates = snapshot.sidecars.iter().filter(|sidecar| {
        !sidecar.native
            && !sidecar.leaves_last()
            && !sidecar.has_yet_to_start()
            && sidecar.ended_for_good().is_none()
            && !is_ignored(sidecar)
    });
    let (restarted, once): (Vec<_>, Vec<_>) = candidates.partition(|sidecar| sidecar.restart.always());
    let runs_on = |sidecar: &Sidecar, why| {
        let (name, introduction) = (sidecar.name.clone(), sidecar.introduction());
        Warning::RunsOn(RunsOn { name, introduction, why })
    };
    let mut found: Vec<_> = restarted.into_iter().map(|sidecar| runs_on(sidecar, Why::Restarted)).collect();
    let is_task_of = |task: &Task, sidecar: &Sidecar| task.container.as_ref() == Some(&sidecar.name);
    let alone: Vec<_> =
        once.into_iter().filter(|sidecar| !tasks.iter().any(|task| is_task_of(task, sidecar))).collect();
    // A signal may be meant for any of them.
    if tasks.iter().any(|task| matches!(task.step, Step::Kill(..))) {
        return found;
    }
    let nameless = tasks.iter().filter(|task| task.container.is_none()).count();
    if nameless == 0 {
        found.extend(alone.into_iter().map(|sidecar| runs_on(sidecar, why(sidecar, shutdown))));
    } else if alone.len() > nameless {
        let names = alone.iter().map(|sidecar| sidecar.name.clone()).collect();
        found.push(Warning::TooFewRequests { requests: nameless, names });
    }
    found
}

/// Whether this can end anything.
fn is_of_use(task: &Task, snapshot: &Snapshot) -> bool {
    let Step::Http(request) = &task.step else {
        return !matches!(task.step, Step::Kill(..)) || snapshot.processes != ProcessNamespace::Container;
    };
    let sidecar = snapshot.sidecars.iter().find(|sidecar| task.container.as_ref() == Some(&sidecar.name));
    let switched_off = sidecar.and_then(|sidecar| sidecar.known.as_ref()).is_some_and(|recognised| {
        recognised.end_is_off && recognised.end.as_ref().is_some_and(|end| end.goes_where(request))
    });
    !(switched_off && matches!(task.source, Source::Table(_)))
}

fn why(sidecar: &Sidecar, shutdown: &Shutdown) -> Why {
    let row = sidecar.known.as_ref().filter(|_| sidecar.annotated.shutdown.is_none());
    let off = row.filter(|recognised| recognised.end_is_off).and_then(|recognised| recognised.known.needs());
    let cannot = row.and_then(|recognised| match recognised.known.end {
        End::Cannot(helps) => Some(helps),
        End::Ask(..) | End::AfterOthers(_) | End::Peer => None,
    });
    let can_be_asked = sidecar.quit().is_some() || row.is_some();
    match (off, cannot, shutdown.auto) {
        (Some(needs), _, _) => Why::Off(needs),
        (_, Some(helps), _) => Why::Cannot(helps),
        (_, _, ShutdownAuto::Off) if can_be_asked => Why::AutoOff,
        (_, _, ShutdownAuto::Otherwise) if can_be_asked && !shutdown.actions.is_empty() => {
            Why::FlagsForOthers
        }
        _ => Why::Unknown,
    }
}

/// What is said of sidecars that still run once there is no time left: this Pod is not complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remaining {
    /// Their names.
    pub names: Vec<String>,
    /// What is known of why.
    pub because: Vec<RunsOn>,
    /// Whether this Pod is one that completes.
    pub is_job: bool,
}

impl Remaining {
    /// Of these, by the Pod as it was last seen.
    #[must_use]
    pub fn of(names: Vec<String>, snapshot: &Snapshot, asked: &Asked, peers: &Peers) -> Self {
        let because = warnings(snapshot, asked, peers).into_iter().filter_map(|warning| match warning {
            Warning::RunsOn(runs_on) if names.contains(&runs_on.name) => Some(runs_on),
            _ => None,
        });
        Self { because: because.collect(), names, is_job: !snapshot.own.restart.always() }
    }
}

impl fmt::Display for Remaining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "still running when --shutdown-timeout ran out: {}", list(&self.names))?;
        if self.is_job {
            f.write_str("; this Pod does not complete until they exit")?;
        }
        for RunsOn { name, why, .. } in &self.because {
            write!(f, "; `{name}`: {}", Fix { name, why })?;
        }
        let asked: Vec<_> = self
            .names
            .iter()
            .filter(|name| self.because.iter().all(|runs_on| runs_on.name != **name))
            .collect();
        if asked.is_empty() {
            return Ok(());
        }
        write!(
            f,
            "; {} did not exit in time: look at its log, allow more with --shutdown-timeout, or shut it down with --kill or \
             `proa sidecar` as its entrypoint",
            list(&asked)
        )
    }
}

/// A reason and what changes it.
struct Fix<'a> {
    name: &'a str,
    why: &'a Why,
}

impl fmt::Display for Fix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name;
        match self.why {
            Why::Restarted => write!(
                f,
                "by its restart policy the kubelet starts it again after every exit; expected a native sidecar \
                 (an init container with restartPolicy: Always), or another policy"
            ),
            Why::Off(needs) => write!(f, "its quit endpoint is switched off; expected {needs}"),
            Why::Cannot(helps) => f.write_str(helps),
            Why::FlagsForOthers => write!(
                f,
                "the shutdown flags are for others, and turn off the automatic shutdown; expected --shutdown-auto beside \
                 them, or a flag for this one too"
            ),
            Why::AutoOff => write!(
                f,
                "--no-shutdown-auto turns off the automatic shutdown; expected a flag that shuts this one down, such as \
                 --shutdown-http-post"
            ),
            Why::Unknown => write!(
                f,
                "it is not well known; expected its quit request (--shutdown-http-post, or annotation {}), `proa sidecar` \
                 as its entrypoint, --ignore={name} if it exits by itself, or --main={name} if it is a main container",
                annotations::key(name, "shutdown")
            ),
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |duration: &Duration| humantime::format_duration(*duration);
        match self {
            Self::NoSuchContainer { flag, name, found } if found.is_empty() => {
                write!(f, "{flag} names `{name}`, but no container runs beside this one")
            }
            Self::NoSuchContainer { flag, name, found } => write!(
                f,
                "{flag} names `{name}`, which is no container of this Pod; there are {}",
                list(found)
            ),
            Self::Malformed(malformed) => malformed.fmt(f),
            Self::Unprobed { names, known } => {
                let asked = known.iter().map(|row| format!("--wait-known={row}, "));
                write!(
                    f,
                    "no readinessProbe on {}, so that \"ready\" means no more than \"running\"; expected a readinessProbe, or \
                     a direct wait ({}--wait-http-get, --wait-tcp, --wait-file)",
                    list(names),
                    asked.collect::<String>()
                )
            }
            Self::OwnProbe { kind, allowance, timeout } => {
                let limit = timeout
                    .as_ref()
                    .map_or_else(|| "for ever".to_owned(), |limit| format!("up to {}", time(limit)));
                write!(
                    f,
                    "the {kind} of this container runs while proa waits ({limit}, --ready-timeout), and restarts it after {}; \
                     expected a startupProbe that allows as much (failureThreshold times periodSeconds), or one that GETs \
                     proa's /livez (--status-address)",
                    time(allowance)
                )
            }
            Self::NotShared => write!(
                f,
                "--kill reaches no other container, since this Pod shares no process namespace; expected \
                 shareProcessNamespace: true in its spec, or another way to shut sidecars down, such as \
                 --shutdown-http-post"
            ),
            Self::ShortGrace { grace, stop_timeout } => write!(
                f,
                "the grace period of {} is shorter than --stop-timeout={}, so the kubelet kills the command first; expected \
                 a longer terminationGracePeriodSeconds, or a shorter --stop-timeout",
                time(grace),
                time(stop_timeout)
            ),
            Self::RunsOn(RunsOn { name, introduction, why }) => write!(
                f,
                "nobody shuts down {introduction}, and this Pod does not complete while it runs: {}",
                Fix { name, why }
            ),
            Self::TooFewRequests { requests, names } => write!(
                f,
                "{requests} shutdown request(s) for the sidecars {}, and this Pod does not complete while one of them runs; \
                 expected one for each, or --ignore for those that exit by themselves",
                list(names)
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::known::SIDECARS;
    use crate::pod::tests::snapshot;
    use crate::policy::Limit;
    use crate::shutdown::{Processes, Spared};
    use crate::signal::Signal;

    struct Flags {
        selection: Selection,
        waits: bool,
        known: Vec<(&'static Known, HttpUrl)>,
        timeout: Option<Duration>,
        stop_timeout: Option<Duration>,
        status_port: Option<u16>,
        shutdown: Shutdown,
    }

    fn flags() -> Flags {
        Flags {
            selection: Selection::default(),
            waits: false,
            known: Vec::new(),
            timeout: Some(Duration::from_secs(600)),
            stop_timeout: None,
            status_port: None,
            shutdown: Shutdown {
                when: ShutdownWhen::Auto,
                actions: Vec::new(),
                auto: ShutdownAuto::Otherwise,
                timeout: Limit::Default,
                spared: Spared::Entrypoint,
                ignore: Vec::new(),
            },
        }
    }

    fn said(pod: &str, flags: &Flags) -> Vec<String> {
        let snapshot = Snapshot { ..snapshot(pod) };
        let asked = Asked {
            selection: &flags.selection,
            wait: Some(Wait {
                sidecars: true,
                directly: flags.waits,
                known: &flags.known,
                timeout: flags.timeout,
            }),
            shutdown: Some(&flags.shutdown),
            stop_timeout: flags.stop_timeout,
            status_port: flags.status_port,
        };
        warnings(&snapshot, &asked, &Peers::default()).iter().map(ToString::to_string).collect()
    }

    /// A Job's Pod with these containers beside `main`, which all run and have a probe.
    fn job(containers: &[&str]) -> String {
        pod("restartPolicy: Never", "", containers)
    }

    fn pod(spec: &str, main: &str, containers: &[&str]) -> String {
        let probe = "readinessProbe: {tcpSocket: {port: 1}}";
        let listed = containers.iter().map(|container| format!("  - {{{container}, {probe}}}\n"));
        let statuses = containers.iter().map(|container| {
            let name = container.split([',', ' ']).nth(1).unwrap();
            format!("  - {{name: {name}, image: i, imageID: i, ready: true, restartCount: 0, state: {{running: {{}}}}}}\n")
        });
        format!(
            "spec:\n  {spec}\n  containers:\n  - {{name: main, image: m{main}}}\n{}status:\n  containerStatuses:\n{}",
            listed.collect::<String>(),
            statuses.collect::<String>()
        )
    }

    fn one(pod: &str, flags: &Flags) -> String {
        let mut said = said(pod, flags);
        assert_eq!(said.len(), 1, "{said:?}");
        said.remove(0)
    }

    fn post(url: &str) -> Action {
        Action::Http(crate::endpoint::Request::new(crate::endpoint::Method::Post, url.parse().unwrap()))
    }

    #[test]
    fn a_pod_in_order_has_none() {
        assert_eq!(said(&job(&["name: istio-proxy, image: istio/proxyv2"]), &flags()), [""; 0]);
        let deployment = pod("restartPolicy: Always", "", &["name: web, image: w"]);
        let mut always = flags();
        always.shutdown.when = ShutdownWhen::Always;
        for flags in [flags(), always] {
            assert_eq!(said(&deployment, &flags), [""; 0], "it is not to complete");
        }
        assert_eq!(said("spec: {containers: [{name: main, image: m}]}", &flags()), [""; 0]);
    }

    #[test]
    fn a_sidecar_that_nobody_shuts_down_is_named_with_what_shuts_it_down() {
        let web = job(&["name: web, image: w"]);
        let text = one(&web, &flags());
        for part in [
            "nobody shuts down `web`, and this Pod does not complete",
            "--shutdown-http-post",
            "proa.ironcorelabs.com/web.shutdown",
            "--main=web",
            "--ignore=web",
        ] {
            assert!(text.contains(part), "{text}");
        }
        let fluent = one(&job(&["name: fluent-bit, image: fluent/fluent-bit"]), &flags());
        assert!(
            fluent.contains("`fluent-bit` (Fluent Bit)") && fluent.contains("no quit endpoint"),
            "{fluent}"
        );
        let linkerd = one(&job(&["name: linkerd-proxy, image: linkerd/proxy"]), &flags());
        assert!(
            linkerd.contains("switched off") && linkerd.contains("proxy-admin-shutdown: enabled"),
            "{linkerd}"
        );
        let restarted = one(&job(&["name: web, restartPolicy: Always, image: w"]), &flags());
        assert!(restarted.contains("starts it again") && restarted.contains("native sidecar"), "{restarted}");
    }

    #[test]
    fn a_flag_for_a_sidecar_is_enough_and_one_for_another_is_not() {
        let web = job(&["name: web, image: w"]);
        let with = |actions: Vec<Action>| {
            let mut flags = flags();
            flags.shutdown.actions = actions;
            flags
        };
        assert_eq!(said(&web, &with(vec![post("http://localhost:9000/quit")])), [""; 0]);
        let both = job(&["name: web, image: w", "name: istio-proxy, image: istio/proxyv2"]);
        let istio = post("http://localhost:15020/quitquitquit");
        let text = one(&both, &with(vec![istio.clone()]));
        assert!(text.contains("nobody shuts down `web`"), "{text}");
        let mesh = job(&["name: istio-proxy, image: istio/proxyv2", "name: sql, image: cloud-sql-proxy"]);
        let text = one(&mesh, &with(vec![istio]));
        assert!(text.contains("`sql`") && text.contains("--quitquitquit"), "{text}");
        let dapr = job(&["name: istio-proxy, image: istio/proxyv2", "name: daprd, image: daprio/daprd"]);
        let text = one(&dapr, &with(vec![post("http://localhost:15020/quitquitquit")]));
        assert!(text.contains("`daprd` (Dapr)") && text.contains("--shutdown-auto"), "{text}");

        let two = job(&["name: web, image: w", "name: db, image: d"]);
        let text = one(&two, &with(vec![post("http://localhost:9000/quit")]));
        assert!(text.contains("1 shutdown request(s) for the sidecars `web`, `db`"), "{text}");
        let enough = with(vec![post("http://localhost:9000/quit"), post("http://localhost:9001/quit")]);
        assert_eq!(said(&two, &enough), [""; 0]);
    }

    #[test]
    fn a_switched_off_endpoint_is_named_though_a_flag_asks_it() {
        let linkerd = job(&["name: linkerd-proxy, image: linkerd/proxy"]);
        let mut flags = flags();
        flags.shutdown.actions = vec![post("http://localhost:4191/shutdown")];
        assert!(one(&linkerd, &flags).contains("switched off"));
        flags.shutdown.actions = vec![post("http://localhost:4191/other")];
        assert_eq!(said(&linkerd, &flags), [""; 0], "another way");
    }

    #[test]
    fn who_turned_it_off_is_said_what_it_costs() {
        let mut flags = flags();
        flags.shutdown.auto = ShutdownAuto::Off;
        let text = one(&job(&["name: istio-proxy, image: istio/proxyv2"]), &flags);
        assert!(text.contains("--no-shutdown-auto"), "{text}");
        flags.shutdown.when = ShutdownWhen::Never;
        assert_eq!(said(&job(&["name: istio-proxy, image: istio/proxyv2"]), &flags), [""; 0], "asked for");
    }

    #[test]
    fn ignored_native_and_finished_ones_and_those_that_leave_last_are_no_concern() {
        let mut ignoring = flags();
        ignoring.selection.ignore = vec!["web".into()];
        assert_eq!(said(&job(&["name: web, image: w"]), &ignoring), [""; 0]);
        assert_eq!(said(&job(&["name: kuma-sidecar, image: kumahq/kuma-dp"]), &flags()), [""; 0]);
        let native = "
spec:
  restartPolicy: Never
  initContainers: [{name: web, image: w, restartPolicy: Always, startupProbe: {tcpSocket: {port: 1}}}]
  containers: [{name: main, image: m}]
";
        assert_eq!(said(native, &flags()), [""; 0]);
        let waiting = "
spec:
  restartPolicy: Never
  containers: [{name: main, image: m}, {name: web, image: w, readinessProbe: {tcpSocket: {port: 1}}}]
";
        assert_eq!(said(waiting, &flags()), [""; 0], "proa may wrap it, as it shows once it runs");
        let deleted = format!(
            "metadata: {{deletionTimestamp: '2026-01-01T00:00:00Z'}}\n{}",
            job(&["name: web, image: w"])
        );
        assert_eq!(said(&deleted, &flags()), [""; 0]);
    }

    #[test]
    fn without_a_readiness_probe_ready_means_running() {
        let bare = |containers: &str| {
            format!("spec: {{restartPolicy: Always, containers: [{{name: main, image: m}}, {containers}]}}")
        };
        let pod = bare("{name: web, image: w}, {name: istio-proxy, image: istio/proxyv2}");
        let text = one(&pod, &flags());
        assert!(text.contains("no readinessProbe on `web`, `istio-proxy`"), "{text}");
        assert!(text.contains("--wait-known=istio, --wait-http-get"), "{text}");
        let istio = SIDECARS.iter().find(|known| known.name == "istio").unwrap();
        let mut asking = flags();
        asking.known = vec![(istio, istio.wait().unwrap())];
        let text = one(&pod, &asking);
        assert!(text.contains("on `web`, so that"), "{text}");
        let direct = Flags { waits: true, ..flags() };
        assert_eq!(said(&pod, &direct), [""; 0]);
        assert_eq!(
            said(&bare("{name: web, image: w, startupProbe: {tcpSocket: {port: 1}}}"), &flags()),
            [""; 0]
        );
        let mut ignoring = flags();
        ignoring.selection.ignore = vec!["web".into(), "istio-proxy".into()];
        assert_eq!(said(&pod, &ignoring), [""; 0]);
    }

    #[test]
    fn a_probe_of_our_own_may_stop_us_while_we_wait() {
        let mesh = ["name: istio-proxy, image: istio/proxyv2"];
        let with = |probes: &str| pod("restartPolicy: Never", &format!(", {probes}"), &mesh);
        let liveness = with("livenessProbe: {httpGet: {path: /healthz, port: 8080}}");
        let text = one(&liveness, &flags());
        assert!(text.contains("the livenessProbe of this container") && text.contains("after 30s"), "{text}");
        assert!(text.contains("up to 10m, --ready-timeout"), "{text}");
        let long = with(
            "startupProbe: {periodSeconds: 10, failureThreshold: 60, exec: {}}, livenessProbe: {exec: {}}",
        );
        assert_eq!(said(&long, &flags()), [""; 0], "the liveness probe waits for it");
        let for_ever = Flags { timeout: None, ..flags() };
        assert!(
            one(&long, &for_ever).contains("startupProbe of this container runs while proa waits (for ever")
        );
        let alive = with("livenessProbe: {httpGet: {path: /livez, port: 9000}}");
        assert_eq!(said(&alive, &Flags { status_port: Some(9000), ..flags() }), [""; 0]);
        assert_eq!(said(&alive, &flags()).len(), 1, "somebody else's");
        let alone = pod("restartPolicy: Never", ", livenessProbe: {exec: {}}", &[]);
        assert_eq!(said(&alone, &flags()), [""; 0], "nothing is waited for");
        let huge = with("livenessProbe: {periodSeconds: 2147483647, failureThreshold: 2147483647, exec: {}}");
        assert_eq!(said(&huge, &flags()), [""; 0]);
    }

    #[test]
    fn names_that_no_container_has_are_said() {
        let mut flags = flags();
        flags.selection.ignore = vec!["wbe".into()];
        let said = said(&job(&["name: istio-proxy, image: istio/proxyv2"]), &flags);
        assert_eq!(
            said,
            ["--ignore names `wbe`, which is no container of this Pod; there are `istio-proxy`"]
        );
    }

    #[test]
    fn a_signal_needs_a_shared_process_namespace() {
        let mut flags = flags();
        flags.shutdown.actions = vec![Action::Kill(Processes::Named("web".into()), Signal::TERM)];
        let said_alone = said(&job(&["name: web, image: w"]), &flags);
        assert!(said_alone[0].contains("shareProcessNamespace: true"), "{said_alone:?}");
        assert!(said_alone[1].contains("nobody shuts down `web`"), "{said_alone:?}");
        let shared = pod("{restartPolicy: Never, shareProcessNamespace: true}", "", &["name: web, image: w"]);
        let shared = shared.replace(
            "{restartPolicy: Never, shareProcessNamespace: true}",
            "restartPolicy: Never\n  shareProcessNamespace: true",
        );
        assert_eq!(said(&shared, &flags), [""; 0]);
    }

    #[test]
    fn a_stop_timeout_longer_than_the_grace_period_is_cut_short() {
        let mut flags = flags();
        flags.stop_timeout = Some(Duration::from_secs(60));
        let pod = |grace| {
            format!(
                "spec: {{terminationGracePeriodSeconds: {grace}, containers: [{{name: main, image: m}}]}}"
            )
        };
        assert!(one(&pod(30), &flags).contains("grace period of 30s is shorter than --stop-timeout=1m"));
        assert_eq!(said(&pod(60), &flags), [""; 0]);
    }

    #[test]
    fn at_the_end_it_is_said_why_the_pod_does_not_complete() {
        let snapshot = snapshot(&job(&["name: web, image: w", "name: istio-proxy, image: istio/proxyv2"]));
        let flags = flags();
        let asked = Asked {
            selection: &flags.selection,
            wait: None,
            shutdown: Some(&flags.shutdown),
            stop_timeout: None,
            status_port: None,
        };
        let names = vec!["web".to_owned(), "istio-proxy".to_owned()];
        let text = Remaining::of(names, &snapshot, &asked, &Peers::default()).to_string();
        for part in [
            "`web`, `istio-proxy`; this Pod does not complete until they exit",
            "`web`: it is not well known",
            "`istio-proxy` did not exit in time: look at its log",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}
