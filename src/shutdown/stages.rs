//! Which sidecars are ended, how, and in which order: a decision over the plan and one snapshot.

use std::fmt;

use super::actions::{Action, Processes, Shutdown};
use crate::endpoint::Request;
use crate::known::{self, End, Known, Recognised, Traffic};
use crate::peer::message::{Message, Peer, Peers};
use crate::pod::{Sidecar, Snapshot, State, annotations};
use crate::policy::ShutdownAuto;
use crate::signal::Signal;

/// What is done, and when.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Stages {
    /// At once, side by side.
    pub first: Vec<Task>,
    /// Once the others have exited, since it carries their traffic.
    pub last: Vec<Task>,
}

/// An action, and whom it is for where that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// What is done.
    pub step: Step,
    /// Who says that this ends it.
    pub source: Source,
    /// Whose connections go through that.
    pub traffic: Traffic,
    /// That sidecar's container, where the Pod shows it.
    pub container: Option<String>,
}

/// Who says how a sidecar is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A flag, or a proa in that sidecar.
    Given,
    /// This row of the table, perhaps by way of a flag.
    Table(&'static Known),
    /// An annotation.
    Annotation,
}

/// How a sidecar is ended, once it is known where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// An HTTP request.
    Http(Request),
    /// A signal to processes in the Pod's shared process namespace.
    Kill(Processes, Signal),
    /// A message to the proa that wraps a sidecar.
    Notify {
        /// That proa.
        peer: Peer,
        /// The main containers that have ended.
        ended: Vec<Message>,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(request) => write!(f, "{request}"),
            Self::Kill(Processes::Named(name), signal) => write!(f, "{signal} to processes named `{name}`"),
            Self::Kill(Processes::All, signal) => write!(f, "{signal} to all other processes"),
            Self::Notify { peer, .. } => write!(f, "stop request to `{}`", peer.container),
        }
    }
}

impl Task {
    /// Where the request goes, if it is one.
    #[must_use]
    pub fn url(&self) -> Option<String> {
        match &self.step {
            Step::Http(request) => Some(request.url.to_string()),
            Step::Kill(..) | Step::Notify { .. } => None,
        }
    }

    /// What may have to be changed so that the sidecar accepts this.
    #[must_use]
    pub fn needs(&self) -> Option<String> {
        match self.source {
            Source::Given => None,
            Source::Table(known) => Some(format!("{} takes this only with {}", known.title, known.needs()?)),
            Source::Annotation => {
                let key = annotations::key(self.container.as_deref()?, "shutdown");
                Some(format!("annotation {key} says that this ends it"))
            }
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.step.fmt(f)
    }
}

/// Decides what is done, in which order. `peers`: the other proas of the Pod.
#[must_use]
pub fn stages(shutdown: &Shutdown, snapshot: Option<&Snapshot>, peers: &Peers) -> Stages {
    let given: Vec<_> = shutdown.actions.iter().flat_map(|action| given(action, snapshot)).collect();
    let automatic = match shutdown.auto {
        ShutdownAuto::Off => Vec::new(),
        ShutdownAuto::Otherwise if !given.is_empty() => Vec::new(),
        ShutdownAuto::Otherwise | ShutdownAuto::Too => automatic(snapshot, &given),
    };
    // What proa wraps waits for our message alone, and what has an annotation says itself that it is to be asked, whatever is
    // said of the others.
    let (wrapped, annotated) = match shutdown.auto {
        ShutdownAuto::Off => (Vec::new(), Vec::new()),
        ShutdownAuto::Otherwise | ShutdownAuto::Too => {
            let wrapped = notified(snapshot, peers);
            let annotated = annotated(snapshot, &given, &wrapped);
            (wrapped, annotated)
        }
    };
    let carries = |task: &Task| task.traffic == Traffic::Pod;
    let tasks = given.into_iter().chain(automatic).chain(annotated).chain(wrapped);
    let (last, first) = tasks.partition(carries);
    Stages { first, last }
}

fn regular(snapshot: Option<&Snapshot>) -> impl Iterator<Item = &Sidecar> {
    let sidecars = snapshot.into_iter().flat_map(|snapshot| &snapshot.sidecars);
    sidecars.filter(|sidecar| !sidecar.native)
}

/// Those that the table alone speaks of.
fn in_table(snapshot: Option<&Snapshot>) -> impl Iterator<Item = (&Sidecar, &Recognised)> {
    let unannotated = regular(snapshot).filter(|sidecar| sidecar.annotated.shutdown.is_none());
    unannotated.filter_map(|sidecar| Some((sidecar, sidecar.known.as_ref()?)))
}

/// Regular sidecars that can be asked to exit, and have yet to start: whoever asks them now is not heard.
#[must_use]
pub fn yet_to_start<'a>(shutdown: &Shutdown, snapshot: &'a Snapshot) -> Vec<&'a str> {
    if shutdown.auto == ShutdownAuto::Off {
        return Vec::new();
    }
    let asked = regular(Some(snapshot)).filter(|sidecar| {
        let by_peer = sidecar.known.as_ref().is_some_and(|recognised| recognised.known.end == End::Peer);
        let can_be_asked = by_peer || sidecar.quit().is_some();
        can_be_asked && sidecar.id.is_none() && matches!(sidecar.state, State::Waiting(_))
    });
    asked.map(|sidecar| sidecar.name.as_str()).collect()
}

fn given(action: &Action, snapshot: Option<&Snapshot>) -> Vec<Task> {
    match action {
        Action::Kill(processes, signal) => vec![Task {
            step: Step::Kill(processes.clone(), *signal),
            source: Source::Given,
            traffic: Traffic::Own,
            container: None,
        }],
        Action::Http(request) => {
            let task = match in_pod(request, snapshot) {
                Some(sidecar) => asked(sidecar, request),
                None => unseen(request, known::ended_by(request)),
            };
            vec![task]
        }
        Action::Known(known, otherwise) => {
            let found = snapshot.into_iter().flat_map(|snapshot| snapshot.recognised(known));
            let tasks: Vec<_> =
                found.filter_map(|(sidecar, _)| Some(asked(sidecar, sidecar.quit()?))).collect();
            if tasks.is_empty() { vec![unseen(otherwise, Some(*known))] } else { tasks }
        }
    }
}

/// A request to a sidecar of the Pod, which is its own way to be ended.
fn asked(sidecar: &Sidecar, request: &Request) -> Task {
    let by_annotation = sidecar.annotated.shutdown.as_ref().is_some_and(|end| end.goes_where(request));
    let table = || sidecar.known.as_ref().map_or(Source::Given, |found| Source::Table(found.known));
    Task {
        step: Step::Http(request.clone()),
        source: if by_annotation { Source::Annotation } else { table() },
        traffic: sidecar.traffic(),
        container: Some(sidecar.name.clone()),
    }
}

/// A request to whoever listens there: this row of the table, if any.
fn unseen(request: &Request, known: Option<&'static Known>) -> Task {
    Task {
        step: Step::Http(request.clone()),
        source: known.map_or(Source::Given, Source::Table),
        traffic: known.map_or(Traffic::Own, |known| known.traffic),
        container: None,
    }
}

fn notified(snapshot: Option<&Snapshot>, peers: &Peers) -> Vec<Task> {
    let notify = |(peer, traffic): (Peer, Traffic)| {
        let container = Some(peer.container.clone());
        let step = Step::Notify { peer, ended: peers.ended.clone() };
        Task { step, source: Source::Given, traffic, container }
    };
    wrapped(snapshot, peers).into_iter().map(notify).collect()
}

/// The sidecars that proa wraps, and whose traffic each carries.
#[must_use]
pub fn wrapped(snapshot: Option<&Snapshot>, peers: &Peers) -> Vec<(Peer, Traffic)> {
    let Some(Snapshot { uid, sidecars, .. }) = snapshot else {
        return peers.listening.iter().map(|peer| (peer.clone(), Traffic::Own)).collect();
    };
    let regular = sidecars.iter().filter(|sidecar| !sidecar.native);
    let wrapped = regular.filter_map(|sidecar| {
        let recognised = sidecar.known.as_ref();
        let by_command = recognised.is_some_and(|recognised| recognised.known.end == End::Peer);
        // Under another name, or behind a shell, its socket shows it.
        let by_socket = peers.listening.iter().any(|peer| peer.container == sidecar.name);
        let peer = Peer { uid: uid.clone(), container: sidecar.name.clone() };
        (by_command || by_socket).then(|| (peer, sidecar.traffic()))
    });
    wrapped.collect()
}

/// The sidecar of the Pod that this request ends.
fn in_pod<'a>(request: &Request, snapshot: Option<&'a Snapshot>) -> Option<&'a Sidecar> {
    let ends = |sidecar: &&Sidecar| {
        let recognised = sidecar.known.as_ref().and_then(|found| found.end.as_ref());
        [sidecar.quit(), recognised].into_iter().flatten().any(|end| end.goes_where(request))
    };
    snapshot?.sidecars.iter().find(ends)
}

fn automatic(snapshot: Option<&Snapshot>, given: &[Task]) -> Vec<Task> {
    let is_given = |request: &Request| {
        given.iter().any(|task| matches!(&task.step, Step::Http(other) if other.goes_where(request)))
    };
    in_table(snapshot)
        .filter_map(|(sidecar, found)| Some((sidecar, found.end.as_ref()?)))
        .filter(|(_, request)| !is_given(request))
        .map(|(sidecar, request)| asked(sidecar, request))
        .collect()
}

/// Those that an annotation speaks of, unless a flag asks them, at another path of the same port perhaps, or their proa is
/// notified: it ends them better.
fn annotated(snapshot: Option<&Snapshot>, given: &[Task], wrapped: &[Task]) -> Vec<Task> {
    let is_wrapped =
        |sidecar: &Sidecar| wrapped.iter().any(|task| task.container.as_ref() == Some(&sidecar.name));
    let is_given = |sidecar: &Sidecar, request: &Request| {
        let same_port = |other: &Request| {
            other.url.is_loopback() && other.url.address().port == request.url.address().port
        };
        let asks = |task: &Task| matches!(&task.step, Step::Http(other) if same_port(other));
        given.iter().any(|task| task.container.as_ref() == Some(&sidecar.name) || asks(task))
    };
    regular(snapshot)
        .filter_map(|sidecar| Some((sidecar, sidecar.annotated.shutdown.as_ref()?)))
        .filter(|(sidecar, request)| !is_wrapped(sidecar) && !is_given(sidecar, request))
        .map(|(sidecar, request)| asked(sidecar, request))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::Method;
    use crate::known::SIDECARS;
    use crate::pod::tests::snapshot;
    use crate::policy::{Limit, ShutdownWhen};
    use crate::shutdown::actions::Spared;

    const QUIT: &str = "http://localhost:15020/quitquitquit";

    fn shutdown(auto: ShutdownAuto, actions: Vec<Action>) -> Shutdown {
        let (spared, ignore) = (Spared::Entrypoint, Vec::new());
        Shutdown { when: ShutdownWhen::Auto, actions, auto, timeout: Limit::Default, spared, ignore }
    }

    fn post(url: &str) -> Action {
        Action::Http(Request::new(Method::Post, url.parse().unwrap()))
    }

    #[test]
    fn only_those_who_are_to_be_asked_are_waited_for_to_start() {
        let waiting = |name: &str, more: &str| {
            format!(
                "  - {{name: {name}, image: i, imageID: i, ready: false, restartCount: 0, state: {{waiting: {{}}}}{more}}}\n"
            )
        };
        let statuses = waiting("istio-proxy", "")
            + &waiting("fluent-bit", "")
            + &waiting("web", "")
            + &waiting("sql", ", containerID: c://1");
        let pod = snapshot(&format!(
            "
spec:
  containers:
  - {{name: istio-proxy, image: i}}
  - {{name: sql, image: cloud-sql-connectors/cloud-sql-proxy}}
  - {{name: fluent-bit, image: f}}
  - {{name: web, image: w}}
  - {{name: wrapped, image: w, command: [/proa, sidecar, --, nginx]}}
  - {{name: main, image: m}}
status:
  containerStatuses:
{statuses}"
        ));
        let late = |auto| {
            yet_to_start(&shutdown(auto, Vec::new()), &pod)
                .into_iter()
                .map(ToOwned::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            late(ShutdownAuto::Otherwise),
            ["istio-proxy", "wrapped"],
            "the others have run, or nobody asks them"
        );
        assert_eq!(late(ShutdownAuto::Off), [""; 0]);
    }

    fn pod() -> Snapshot {
        snapshot(
            "
spec:
  initContainers: [{name: vault-agent, image: v, restartPolicy: Always}]
  containers:
  - {name: istio-proxy, image: i}
  - {name: sql, image: cloud-sql-connectors/cloud-sql-proxy}
  - {name: fluent-bit, image: f}
  - {name: web, image: w}
  - {name: main, image: m}
",
        )
    }

    fn shown(tasks: &[Task]) -> Vec<String> {
        tasks.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn without_an_action_the_well_known_regular_sidecars_are_ended_the_mesh_last() {
        let stages = stages(&shutdown(ShutdownAuto::Otherwise, Vec::new()), Some(&pod()), &Peers::default());
        assert_eq!(shown(&stages.first), ["POST http://localhost:9091/quitquitquit"]);
        assert_eq!(shown(&stages.last), [format!("POST {QUIT}")]);
        assert!(stages.first[0].needs().unwrap().contains("--quitquitquit"));
    }

    #[test]
    fn an_action_turns_that_off_unless_both_are_asked_for() {
        let kill = || vec![Action::Kill(Processes::All, Signal::TERM)];
        let alone = stages(&shutdown(ShutdownAuto::Otherwise, kill()), Some(&pod()), &Peers::default());
        assert_eq!((alone.first.len(), alone.last.len()), (1, 0));
        let both = stages(&shutdown(ShutdownAuto::Too, kill()), Some(&pod()), &Peers::default());
        assert_eq!((both.first.len(), both.last.len()), (2, 1));
        let off = stages(&shutdown(ShutdownAuto::Off, Vec::new()), Some(&pod()), &Peers::default());
        assert_eq!(off, Stages::default());
    }

    #[test]
    fn what_proa_wraps_is_told_whatever_else_is_given() {
        let pod = snapshot(
            "spec: {containers: [{name: web, image: w, command: [/proa, sidecar, --, web]}, {name: main, image: m}]}",
        );
        let notified =
            |auto, actions| shown(&stages(&shutdown(auto, actions), Some(&pod), &Peers::default()).first);
        assert_eq!(notified(ShutdownAuto::Otherwise, Vec::new()), ["stop request to `web`"]);
        assert_eq!(notified(ShutdownAuto::Otherwise, vec![post(QUIT)]), ["stop request to `web`"]);
        assert_eq!(notified(ShutdownAuto::Off, Vec::new()), Vec::<String>::new());
        let mesh = snapshot(
            "spec: {containers: [{name: envoy, image: e, command: [/proa, sidecar, --, e]}, {name: main, image: m}]}",
        );
        let stages = stages(&shutdown(ShutdownAuto::Otherwise, Vec::new()), Some(&mesh), &Peers::default());
        assert_eq!(
            shown(&stages.last),
            ["stop request to `envoy`"],
            "wrapped or not, it carries the others' traffic"
        );
    }

    #[test]
    fn a_socket_tells_what_the_command_does_not() {
        let pod = snapshot(
            "spec: {containers: [{name: web, image: w, command: [/entry]}, {name: db, image: d}, {name: main, image: m}]}",
        );
        let listening = ["web", "gone"].map(|name| Peer { uid: pod.uid.clone(), container: name.into() });
        let peers = Peers { listening: listening.into(), ..Peers::default() };
        let stages = stages(&shutdown(ShutdownAuto::Otherwise, Vec::new()), Some(&pod), &peers);
        assert_eq!(shown(&stages.first), ["stop request to `web`"]);
    }

    #[test]
    fn without_sight_of_the_pod_the_proas_that_are_there_are_told() {
        let listening = vec![Peer { uid: "u".into(), container: "web".into() }];
        let peers = Peers { listening, ..Peers::default() };
        let notified = |auto| shown(&stages(&shutdown(auto, Vec::new()), None, &peers).first);
        assert_eq!(notified(ShutdownAuto::Otherwise), ["stop request to `web`"]);
        assert_eq!(notified(ShutdownAuto::Off), Vec::<String>::new());
    }

    /// A Pod whose container `web` says how it is ended, beside Envoy.
    fn annotated_pod(more: &str) -> Snapshot {
        snapshot(&format!(
            "
metadata:
  annotations:
    proa.ironcorelabs.com/web.shutdown: POST http://localhost:9000/quit
    {more}
spec:
  containers: [{{name: web, image: w}}, {{name: envoy, image: e}}, {{name: main, image: m}}]
"
        ))
    }

    const BY_ANNOTATION: &str = "POST http://localhost:9000/quit";

    #[test]
    fn a_sidecar_is_ended_as_its_annotation_says() {
        let pod = annotated_pod("");
        let by_itself = stages(&shutdown(ShutdownAuto::Otherwise, Vec::new()), Some(&pod), &Peers::default());
        assert_eq!(shown(&by_itself.first), [BY_ANNOTATION]);
        assert_eq!(by_itself.first[0].container.as_deref(), Some("web"));
        assert!(by_itself.first[0].needs().unwrap().contains("proa.ironcorelabs.com/web.shutdown"));
        let carrier = annotated_pod("proa.ironcorelabs.com/web.traffic: pod");
        let carrier =
            stages(&shutdown(ShutdownAuto::Otherwise, Vec::new()), Some(&carrier), &Peers::default());
        assert_eq!((carrier.first.len(), carrier.last.len()), (0, 2));
        let ignored = annotated_pod("proa.ironcorelabs.com/web.ignore: 'true'");
        let ignored =
            stages(&shutdown(ShutdownAuto::Otherwise, Vec::new()), Some(&ignored), &Peers::default());
        assert_eq!(shown(&ignored.first), [BY_ANNOTATION], "as with --ignore");
    }

    #[test]
    fn a_flag_that_asks_the_same_sidecar_wins_over_its_annotation() {
        let pod = annotated_pod("");
        let first =
            |auto, actions| shown(&stages(&shutdown(auto, actions), Some(&pod), &Peers::default()).first);
        let elsewhere = post("http://localhost:1/");
        assert_eq!(
            first(ShutdownAuto::Otherwise, vec![elsewhere]),
            ["POST http://localhost:1/", BY_ANNOTATION],
            "it says itself that it is to be asked"
        );
        let other_path = || vec![post("http://127.0.0.1:9000/stop")];
        assert_eq!(first(ShutdownAuto::Otherwise, other_path()), ["POST http://127.0.0.1:9000/stop"]);
        assert_eq!(first(ShutdownAuto::Too, other_path()), ["POST http://127.0.0.1:9000/stop"]);
        assert_eq!(first(ShutdownAuto::Off, Vec::new()), Vec::<String>::new());
    }

    #[test]
    fn an_annotation_wins_over_the_table() {
        let pod = annotated_pod(
            "proa.ironcorelabs.com/envoy.shutdown: GET http://localhost:9001/stop\n    \
             proa.ironcorelabs.com/envoy.traffic: own",
        );
        let envoy = SIDECARS.iter().find(|known| known.name == "envoy").unwrap();
        let by_name = vec![Action::Known(envoy, envoy.shutdown().unwrap())];
        for actions in [Vec::new(), by_name] {
            let stages = stages(&shutdown(ShutdownAuto::Otherwise, actions), Some(&pod), &Peers::default());
            let mut first = shown(&stages.first);
            first.sort();
            assert_eq!(first, ["GET http://localhost:9001/stop", BY_ANNOTATION]);
            assert!(stages.last.is_empty());
        }
        let by_url = shutdown(ShutdownAuto::Otherwise, vec![post("http://localhost:9901/quitquitquit")]);
        let asked: Vec<_> = stages(&by_url, Some(&pod), &Peers::default()).first;
        assert_eq!(
            shown(&asked),
            ["POST http://localhost:9901/quitquitquit", BY_ANNOTATION],
            "and a flag over both"
        );
    }

    #[test]
    fn what_the_kubelet_or_another_proa_ends_is_not_asked_by_annotation() {
        let pod = snapshot(
            "
metadata:
  annotations:
    proa.ironcorelabs.com/native.shutdown: POST http://localhost:1/
    proa.ironcorelabs.com/wrapped.shutdown: POST http://localhost:2/
    proa.ironcorelabs.com/wrapped.traffic: pod
spec:
  initContainers: [{name: native, image: n, restartPolicy: Always}]
  containers:
  - {name: wrapped, image: w, command: [/proa, sidecar, --, w]}
  - {name: main, image: m}
",
        );
        let stages = stages(&shutdown(ShutdownAuto::Otherwise, Vec::new()), Some(&pod), &Peers::default());
        assert!(stages.first.is_empty(), "{stages:?}");
        assert_eq!(shown(&stages.last), ["stop request to `wrapped`"]);
    }

    #[test]
    fn a_row_by_name_goes_where_the_pod_says() {
        let pod = snapshot(
            "
spec:
  containers:
  - {name: sql, image: cloud-sql-connectors/cloud-sql-proxy, args: [--admin-port=9191]}
  - {name: main, image: m}
",
        );
        let known = SIDECARS.iter().find(|known| known.name == "cloud-sql-proxy").unwrap();
        let by_name = shutdown(ShutdownAuto::Too, vec![Action::Known(known, known.shutdown().unwrap())]);
        let asked = |pod| shown(&stages(&by_name, pod, &Peers::default()).first);
        assert_eq!(asked(Some(&pod)), ["POST http://localhost:9191/quitquitquit"]);
        assert_eq!(asked(None), ["POST http://localhost:9091/quitquitquit"]);
    }

    #[test]
    fn nobody_is_asked_twice() {
        let both = stages(
            &shutdown(ShutdownAuto::Too, vec![post("http://127.0.0.1:15020/quitquitquit")]),
            Some(&pod()),
            &Peers::default(),
        );
        assert_eq!(both.last.len(), 1);
    }

    #[test]
    fn a_mesh_is_ended_last_without_sight_of_the_pod_too() {
        let given = vec![post(QUIT), post("http://localhost:8090/quitquitquit")];
        let stages = stages(&shutdown(ShutdownAuto::Otherwise, given), None, &Peers::default());
        assert_eq!(shown(&stages.first), ["POST http://localhost:8090/quitquitquit"]);
        assert_eq!(shown(&stages.last), [format!("POST {QUIT}")]);
    }

    #[test]
    fn what_is_done_is_said_with_where_it_goes() {
        let signal = |processes| Action::Kill(processes, Signal::TERM);
        let actions = vec![signal(Processes::Named("nginx".into())), signal(Processes::All), post(QUIT)];
        let wrapped = snapshot(
            "spec: {containers: [{name: web, image: w, command: [/proa, sidecar, --, web]}, {name: main, image: m}]}",
        );
        let stages = stages(&shutdown(ShutdownAuto::Otherwise, actions), Some(&wrapped), &Peers::default());
        let said: Vec<_> =
            stages.first.iter().chain(&stages.last).map(|task| (task.to_string(), task.url())).collect();
        let said: Vec<_> = said.iter().map(|(text, url)| (text.as_str(), url.as_deref())).collect();
        assert_eq!(
            said,
            [
                ("SIGTERM to processes named `nginx`", None),
                ("SIGTERM to all other processes", None),
                ("stop request to `web`", None),
                ("POST http://localhost:15020/quitquitquit", Some(QUIT)),
            ]
        );
        assert!(stages.first.iter().all(|task| task.needs().is_none()), "nobody doubts what a flag says");
    }
}
