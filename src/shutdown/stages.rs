//! Which sidecars are ended, how, and in which order: a decision over the plan and one snapshot.

use std::fmt;

use super::actions::{Action, Processes, Shutdown};
use crate::endpoint::Request;
use crate::known::{self, End, Known, Recognised, Traffic};
use crate::peer::message::{Message, Peer, Peers};
use crate::pod::{Sidecar, Snapshot, State};
use crate::policy::ShutdownAuto;
use crate::signal::Signal;

/// What is done, and when.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Stages {
    /// At once, side by side.
    pub first: Vec<Task>,
    /// Once the others have ended, since it carries their traffic.
    pub last: Vec<Task>,
}

/// An action, and whom it is for where that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// What is done.
    pub step: Step,
    /// The sidecar that it ends.
    pub known: Option<&'static Known>,
    /// Whose connections go through that.
    pub traffic: Traffic,
    /// That sidecar's container, where the Pod shows it.
    pub container: Option<String>,
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
            Self::Notify { peer, .. } => write!(f, "`{}` told to end", peer.container),
        }
    }
}

impl Task {
    /// What must be set so that the sidecar accepts this.
    #[must_use]
    pub fn needs(&self) -> Option<String> {
        let known = self.known?;
        Some(format!("{} takes this only with {}", known.title, known.needs()?))
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
    // What proa wraps waits for our word alone, whatever is said of the others.
    let wrapped = match shutdown.auto {
        ShutdownAuto::Off => Vec::new(),
        ShutdownAuto::Otherwise | ShutdownAuto::Too => notified(snapshot, peers),
    };
    let carries = |task: &Task| task.traffic == Traffic::Pod;
    let (last, first) = given.into_iter().chain(automatic).chain(wrapped).partition(carries);
    Stages { first, last }
}

fn regular(snapshot: Option<&Snapshot>) -> impl Iterator<Item = (&Sidecar, &Recognised)> {
    let regular =
        snapshot.into_iter().flat_map(|snapshot| &snapshot.sidecars).filter(|sidecar| !sidecar.native);
    regular.filter_map(|sidecar| Some((sidecar, sidecar.known.as_ref()?)))
}

/// Regular sidecars of the Pod that stay, since they cannot be asked to end; and what helps.
pub fn unasked(snapshot: &Snapshot) -> impl Iterator<Item = (&str, &'static str)> {
    regular(Some(snapshot)).filter_map(|(sidecar, recognised)| match recognised.known.end {
        End::Cannot(helps) => Some((sidecar.name.as_str(), helps)),
        End::Ask(..) | End::AfterOthers(_) | End::Peer => None,
    })
}

/// Regular sidecars that can be asked to exit, and have yet to start: whoever asks them now is not heard.
#[must_use]
pub fn yet_to_start<'a>(shutdown: &Shutdown, snapshot: &'a Snapshot) -> Vec<&'a str> {
    if shutdown.auto == ShutdownAuto::Off {
        return Vec::new();
    }
    let asked = regular(Some(snapshot)).filter(|(sidecar, recognised)| {
        let can_be_asked = matches!(recognised.known.end, End::Ask(..) | End::Peer);
        can_be_asked && sidecar.id.is_none() && matches!(sidecar.state, State::Waiting(_))
    });
    asked.map(|(sidecar, _)| sidecar.name.as_str()).collect()
}

fn given(action: &Action, snapshot: Option<&Snapshot>) -> Vec<Task> {
    match action {
        Action::Kill(processes, signal) => vec![Task {
            step: Step::Kill(processes.clone(), *signal),
            known: None,
            traffic: Traffic::Own,
            container: None,
        }],
        Action::Http(request) => {
            let (container, known) = in_pod(request, snapshot).unzip();
            vec![http(request, known.or_else(|| known::ended_by(request)), container)]
        }
        Action::Known(known, otherwise) => {
            let found = snapshot.into_iter().flat_map(|snapshot| snapshot.recognised(known));
            let tasks: Vec<_> = found
                .filter_map(|(sidecar, found)| {
                    Some(http(found.end.as_ref()?, Some(*known), Some(sidecar.name.clone())))
                })
                .collect();
            if tasks.is_empty() { vec![http(otherwise, Some(*known), None)] } else { tasks }
        }
    }
}

fn http(request: &Request, known: Option<&'static Known>, container: Option<String>) -> Task {
    let traffic = known.map_or(Traffic::Own, |known| known.traffic);
    Task { step: Step::Http(request.clone()), known, traffic, container }
}

fn notified(snapshot: Option<&Snapshot>, peers: &Peers) -> Vec<Task> {
    let notify = |peer: Peer, traffic| {
        let container = Some(peer.container.clone());
        Task { step: Step::Notify { peer, ended: peers.ended.clone() }, known: None, traffic, container }
    };
    let Some(Snapshot { uid, sidecars, .. }) = snapshot else {
        return peers.listening.iter().map(|peer| notify(peer.clone(), Traffic::Own)).collect();
    };
    let regular = sidecars.iter().filter(|sidecar| !sidecar.native);
    let tasks = regular.filter_map(|sidecar| {
        let recognised = sidecar.known.as_ref();
        let by_command = recognised.is_some_and(|recognised| recognised.known.end == End::Peer);
        // Under another name, or behind a shell, its socket shows it.
        let by_socket = peers.listening.iter().any(|peer| peer.container == sidecar.name);
        let peer = Peer { uid: uid.clone(), container: sidecar.name.clone() };
        let traffic = recognised.map_or(Traffic::Own, |recognised| recognised.traffic);
        (by_command || by_socket).then(|| notify(peer, traffic))
    });
    tasks.collect()
}

/// The sidecar of the Pod that this request ends.
fn in_pod(request: &Request, snapshot: Option<&Snapshot>) -> Option<(String, &'static Known)> {
    let mut ended = snapshot?.sidecars.iter().filter_map(|sidecar| Some((sidecar, sidecar.known.as_ref()?)));
    let (sidecar, found) =
        ended.find(|(_, found)| found.end.as_ref().is_some_and(|end| end.goes_where(request)))?;
    Some((sidecar.name.clone(), found.known))
}

fn automatic(snapshot: Option<&Snapshot>, given: &[Task]) -> Vec<Task> {
    let asked = |request: &Request| {
        given.iter().any(|task| matches!(&task.step, Step::Http(other) if other.goes_where(request)))
    };
    regular(snapshot)
        .filter_map(|(sidecar, found)| Some((sidecar, found.known, found.end.as_ref()?)))
        .filter(|(_, _, request)| !asked(request))
        .map(|(sidecar, known, request)| http(request, Some(known), Some(sidecar.name.clone())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::Method;
    use crate::known::SIDECARS;
    use crate::pod::tests::snapshot;
    use crate::policy::{Limit, ShutdownWhen};

    const QUIT: &str = "http://localhost:15020/quitquitquit";

    fn shutdown(auto: ShutdownAuto, actions: Vec<Action>) -> Shutdown {
        Shutdown { when: ShutdownWhen::Auto, actions, auto, timeout: Limit::Default, ignore: Vec::new() }
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
        let unasked: Vec<_> = unasked(&pod()).map(|(name, _)| name.to_owned()).collect();
        assert_eq!(unasked, ["fluent-bit"]);
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
        assert_eq!(notified(ShutdownAuto::Otherwise, Vec::new()), ["`web` told to end"]);
        assert_eq!(notified(ShutdownAuto::Otherwise, vec![post(QUIT)]), ["`web` told to end"]);
        assert_eq!(notified(ShutdownAuto::Off, Vec::new()), Vec::<String>::new());
        let mesh = snapshot(
            "spec: {containers: [{name: envoy, image: e, command: [/proa, sidecar, --, e]}, {name: main, image: m}]}",
        );
        let stages = stages(&shutdown(ShutdownAuto::Otherwise, Vec::new()), Some(&mesh), &Peers::default());
        assert_eq!(
            shown(&stages.last),
            ["`envoy` told to end"],
            "wrapped or not, it carries the others' traffic"
        );
    }

    #[test]
    fn a_socket_tells_what_the_command_does_not() {
        let pod = snapshot(
            "spec: {containers: [{name: web, image: w, command: [/entry]}, {name: main, image: m}]}",
        );
        let listening = ["web", "gone"].map(|name| Peer { uid: pod.uid.clone(), container: name.into() });
        let peers = Peers { listening: listening.into(), ..Peers::default() };
        let stages = stages(&shutdown(ShutdownAuto::Otherwise, Vec::new()), Some(&pod), &peers);
        assert_eq!(shown(&stages.first), ["`web` told to end"]);
    }

    #[test]
    fn without_sight_of_the_pod_the_proas_that_are_there_are_told() {
        let listening = vec![Peer { uid: "u".into(), container: "web".into() }];
        let peers = Peers { listening, ..Peers::default() };
        let notified = |auto| shown(&stages(&shutdown(auto, Vec::new()), None, &peers).first);
        assert_eq!(notified(ShutdownAuto::Otherwise), ["`web` told to end"]);
        assert_eq!(notified(ShutdownAuto::Off), Vec::<String>::new());
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
}
