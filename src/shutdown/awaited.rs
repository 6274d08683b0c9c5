//! Whose exit is waited for, how it shows, and when there is nothing more to wait for: decisions over what was done, what came
//! of it and what is seen of the Pod.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use super::actions::Spared;
use super::again::DoneTask;
use super::stages::{Step, Task};
use crate::endpoint::Address;
use crate::known::{End, Traffic};
use crate::peer::message::Peer;
use crate::pod::run::Run;
use crate::pod::{Life, Sidecar, Snapshot, State};

/// How long there may be no connection to the API server before that means something. Should the API server be down, nothing
/// is lost but the names of sidecars that failed.
pub const SILENCE: Duration = Duration::from_secs(1);

/// How long the API server may deny us: one that has just been started knows no Roles yet.
pub const DENIED: Duration = Duration::from_secs(10);

/// What came of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskResult {
    /// The sidecar is going to exit.
    Accepted,
    /// A wrapped sidecar waits for other containers too.
    NotYet,
    /// A helper, which waits for the main containers' exit and goes by itself.
    ByItself,
    /// No proa is there (any more) to notify.
    Absent,
    /// It was not asked, or did not agree.
    Failed,
}

/// A sidecar whose exit is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Awaited {
    /// The container; where the Pod is out of sight, what was done to end it.
    pub name: String,
    /// Whether it accepted a request to exit.
    pub asked: Asked,
    /// How its exit shows.
    pub shown_by: ShownBy,
}

/// Whether a sidecar accepted a request to exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// It did.
    Yes,
    /// Somebody did whom we cannot name.
    Perhaps,
    /// It did not.
    No,
}

/// How a sidecar's exit shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShownBy {
    /// In the Pod's status; where that is out of sight, by this, if there is anything.
    Status(Option<Trace>),
    /// By this alone.
    Trace(Trace),
}

/// What a sidecar leaves behind in the Pod's own network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trace {
    /// Nobody listens there any more.
    Closed(Address),
    /// Its proa is gone.
    Withdrawn(Peer),
}

impl Awaited {
    /// What shows its exit without the API server.
    #[must_use]
    pub fn trace(&self) -> Option<&Trace> {
        match &self.shown_by {
            ShownBy::Status(trace) => trace.as_ref(),
            ShownBy::Trace(trace) => Some(trace),
        }
    }

    /// Whether the Pod's status shows that it has exited for good.
    #[must_use]
    pub fn has_ended(&self, snapshot: Option<&Snapshot>, rounds: Rounds) -> bool {
        let ShownBy::Status(_) = self.shown_by else {
            return false;
        };
        let present = snapshot.into_iter().filter(|snapshot| rounds.is_this_one(snapshot));
        let sidecars = present.flat_map(|snapshot| &snapshot.sidecars);
        sidecars.filter(|sidecar| sidecar.name == self.name).any(|sidecar| sidecar.ended_for_good().is_some())
    }
}

/// How a report of an earlier round of the Pod is told, which says nothing of this one: a watch may begin with one, where the API
/// server's cache lags.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Rounds {
    /// It calls our own container one that runs no more, or older than its process.
    #[default]
    ByStart,
    /// It calls our own container one that runs no more. By the last look, which is as new as the API server's store, it is older
    /// than its process too, so that the clocks differ; or there was no such look.
    ByEnd,
}

impl Rounds {
    /// By the last look at the Pod, if it is of now.
    #[must_use]
    pub fn told_by(look: Option<&Snapshot>) -> Self {
        match look {
            Some(look) if !matches!(look.own.run, Run::Older | Run::Believed) => Self::ByStart,
            _ => Self::ByEnd,
        }
    }

    /// Whether this one is of the present round.
    #[must_use]
    pub fn is_this_one(self, snapshot: &Snapshot) -> bool {
        match self {
            Self::ByStart => !snapshot.own.run.is_outdated(),
            Self::ByEnd => snapshot.own.run != Run::Over,
        }
    }
}

/// Of which sidecars the exit is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All but those that carry the others' traffic.
    Others,
    /// All.
    All,
}

/// Decides whose exit is waited for. `snapshot`: the Pod, where its status is going to show it. Not native sidecars, which the
/// kubelet stops; nor those that stay until every other container has exited, ours included; nor those that are started
/// again after every exit; nor wrapped ones that were not notified, since they wait for ours, if that is going to end.
/// `wrapped`: those that proa wraps, though their command does not show it.
#[must_use]
pub fn awaited(
    done: &[DoneTask],
    snapshot: Option<&Snapshot>,
    scope: Scope,
    ignore: &[String],
    wrapped: &[String],
    spared: Spared,
) -> Vec<Awaited> {
    let accepted = || accepted(done);
    let Some(snapshot) = snapshot else {
        let in_scope = accepted().filter(|task| scope == Scope::All || task.traffic == Traffic::Own);
        let traced = in_scope.filter_map(|task| {
            let name = task.container.clone().unwrap_or_else(|| task.to_string());
            Some(Awaited { name, asked: Asked::Yes, shown_by: ShownBy::Trace(trace(task)?) })
        });
        return traced.collect();
    };
    let anybody = unattributed(done).next().is_some();
    let waited_for = snapshot.sidecars.iter().filter(|sidecar| {
        let known = sidecar.known.as_ref();
        let carries = sidecar.traffic() == Traffic::Pod;
        // One that does not run, and whose proa was not there, is notified once it does.
        let is_its = |done: &&DoneTask| done.task.container.as_ref() == Some(&sidecar.name);
        let counts = |done: &DoneTask| match done.result {
            TaskResult::Accepted => true,
            // In a container that goes on it waits for nothing: it is just starting, or on its way out.
            TaskResult::Absent => spared == Spared::OwnContainer || sidecar.state != State::Running,
            TaskResult::NotYet | TaskResult::ByItself | TaskResult::Failed => false,
        };
        let notified = || done.iter().filter(is_its).any(counts);
        let is_wrapped =
            known.is_some_and(|found| found.known.end == End::Peer) || wrapped.contains(&sidecar.name);
        let waits_for_us = is_wrapped && !notified();
        !sidecar.native
            && !sidecar.restart.always()
            && !ignore.contains(&sidecar.name)
            && !sidecar.annotated.ignore
            && !sidecar.leaves_last()
            && !waits_for_us
            && (scope == Scope::All || !carries)
    });
    let shown = |sidecar: &Sidecar| {
        let own = || accepted().filter(|task| task.container.as_ref() == Some(&sidecar.name));
        Awaited {
            name: sidecar.name.clone(),
            asked: match (own().next(), anybody) {
                (Some(_), _) => Asked::Yes,
                (None, true) => Asked::Perhaps,
                (None, false) => Asked::No,
            },
            shown_by: ShownBy::Status(own().find_map(trace)),
        }
    };
    waited_for.map(shown).collect()
}

fn accepted(done: &[DoneTask]) -> impl Iterator<Item = &Task> {
    done.iter().filter(|done| done.result == TaskResult::Accepted).map(|done| &done.task)
}

/// What was done to somebody in this Pod whom we cannot name.
fn unattributed(done: &[DoneTask]) -> impl Iterator<Item = &Task> {
    let is_here = |task: &&Task| match &task.step {
        Step::Http(request) => request.url.is_loopback(),
        Step::Notify { .. } | Step::Kill(..) => true,
    };
    accepted(done).filter(|task| task.container.is_none()).filter(is_here)
}

/// How it shows that those whom we cannot name have exited; `None`: it does not.
#[must_use]
pub fn unattributed_traces(done: &[DoneTask]) -> Option<Vec<Trace>> {
    unattributed(done).map(trace).collect()
}

fn trace(task: &Task) -> Option<Trace> {
    match &task.step {
        // What is not in this Pod does not end with it.
        Step::Http(request) => request.url.is_loopback().then(|| Trace::Closed(request.url.address())),
        Step::Notify { peer, .. } => Some(Trace::Withdrawn(peer.clone())),
        Step::Kill(..) => None,
    }
}

/// Whether one that may carry our own traffic is going to exit: known to, or unknown.
#[must_use]
pub fn carrier_leaves(done: &[DoneTask]) -> bool {
    done.iter().any(|DoneTask { task, result, .. }| {
        let may_carry = task.traffic == Traffic::Pod || task.container.is_none();
        *result == TaskResult::Accepted
            && may_carry
            && matches!(task.step, Step::Http(_) | Step::Notify { .. })
    })
}

/// What is seen while the sidecars exit.
#[derive(Debug, Default)]
pub struct Seen {
    /// The Pod, when it was last seen.
    pub snapshot: Option<Snapshot>,
    /// For how long there has been no connection to the API server.
    pub no_connection: Option<Duration>,
    /// For how long it has denied us.
    pub denied: Option<Duration>,
    /// Whose traces are gone, by their place among those awaited.
    pub gone: BTreeSet<usize>,
    /// Whether one that may carry our own traffic is going to exit.
    pub carrier_leaves: bool,
    /// Whether this container was asked to stop.
    pub stopping: bool,
    /// What tells a report of an earlier round.
    pub rounds: Rounds,
}

/// Whether there is still a sidecar to wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drain {
    /// These have not exited for good, by their places.
    Waiting(Vec<usize>),
    /// All have.
    Done,
    /// There is no point in waiting.
    Pointless(Pointless),
}

/// Why there is no point in waiting for the sidecars to exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pointless {
    /// The kubelet no longer updates container statuses (kubernetes/kubernetes#106896), and stops them all.
    Leaving,
    /// The way to the API server is gone with a sidecar that was shut down.
    CarrierGone,
    /// We were asked to stop, and there is no way to see anybody's exit.
    OutOfSight,
    /// The API server no longer lets us see anybody's exit.
    Denied,
}

impl fmt::Display for Pointless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Leaving => "the Pod is being deleted or ended",
            Self::CarrierGone => {
                "a sidecar that may carry this container's traffic was shut down, and the API server can no longer be \
                 reached"
            }
            Self::Denied => "the API server no longer lets this container see its Pod",
            Self::OutOfSight => "this container was asked to stop, and the API server cannot be reached",
        })
    }
}

/// Decides whether there is still a sidecar to wait for.
#[must_use]
pub fn drain(awaited: &[Awaited], seen: &Seen) -> Drain {
    if seen.snapshot.as_ref().is_some_and(|snapshot| snapshot.life != Life::Active) {
        return Drain::Pointless(Pointless::Leaving);
    }
    let has_ended = |awaited: &Awaited| awaited.has_ended(seen.snapshot.as_ref(), seen.rounds);
    let remaining: Vec<_> = (0..awaited.len())
        .filter(|place| !seen.gone.contains(place) && !has_ended(&awaited[*place]))
        .collect();
    let silent = seen.no_connection.is_some_and(|lasted| lasted >= SILENCE);
    if remaining.is_empty() {
        Drain::Done
    } else if silent && seen.carrier_leaves {
        Drain::Pointless(Pointless::CarrierGone)
    } else if seen.denied.is_some_and(|lasted| lasted >= DENIED) {
        Drain::Pointless(Pointless::Denied)
    } else if silent && seen.stopping {
        Drain::Pointless(Pointless::OutOfSight)
    } else {
        Drain::Waiting(remaining)
    }
}

#[cfg(test)]
mod tests {
    use super::super::stages::Source;
    use super::*;
    use crate::endpoint::{Method, Request};
    use crate::pod::annotations::Annotated;
    use crate::pod::tests::snapshot;

    fn pod(policy: &str, web: &str) -> Snapshot {
        snapshot(&format!(
            "
spec:
  restartPolicy: {policy}
  initContainers: [{{name: db, image: d, restartPolicy: Always}}]
  containers:
  - {{name: web, image: w}}
  - {{name: istio-proxy, image: i}}
  - {{name: gke-gcsfuse-sidecar, image: g}}
  - {{name: wrapped, image: w, command: [/proa, sidecar, --, w]}}
  - {{name: main, image: m}}
status:
  initContainerStatuses: [{{name: db, image: d, imageID: d, ready: true, restartCount: 0, state: {{running: {{}}}}}}]
  containerStatuses:
  - {{name: web, image: w, imageID: w, ready: true, restartCount: 0, state: {{{web}}}}}
"
        ))
    }

    fn http(url: &str, container: Option<&str>, traffic: Traffic) -> Task {
        let request = Request::new(Method::Post, url.parse().unwrap());
        Task {
            step: Step::Http(request),
            source: Source::Given,
            traffic,
            container: container.map(str::to_owned),
        }
    }

    fn notify(container: &str) -> Task {
        let peer = Peer { uid: "u".into(), container: container.into() };
        let step = Step::Notify { peer, ended: Vec::new() };
        Task { step, source: Source::Given, traffic: Traffic::Own, container: Some(container.into()) }
    }

    fn done(tasks: Vec<(Task, TaskResult)>) -> Vec<DoneTask> {
        tasks.into_iter().map(|(task, result)| DoneTask::new(task, result, None)).collect()
    }

    fn names(awaited: &[Awaited]) -> Vec<&str> {
        awaited.iter().map(|awaited| awaited.name.as_str()).collect()
    }

    #[test]
    fn only_exits_that_can_come_are_waited_for() {
        let pod = pod("Never", "running: {}");
        assert_eq!(
            names(&awaited(&[], Some(&pod), Scope::All, &[], &[], Spared::Entrypoint)),
            ["web", "istio-proxy"]
        );
        assert_eq!(names(&awaited(&[], Some(&pod), Scope::Others, &[], &[], Spared::Entrypoint)), ["web"]);
        assert_eq!(
            names(&awaited(&[], Some(&pod), Scope::All, &["web".into()], &[], Spared::Entrypoint)),
            ["istio-proxy"]
        );
        let always = self::pod("Always", "running: {}");
        assert!(awaited(&[], Some(&always), Scope::All, &[], &[], Spared::Entrypoint).is_empty());
    }

    #[test]
    fn annotations_say_whose_exit_is_waited_for_and_when() {
        let waits = |name: &str, annotated: Annotated| {
            let mut pod = pod("Never", "running: {}");
            pod.sidecars.iter_mut().find(|sidecar| sidecar.name == name).unwrap().annotated = annotated;
            [Scope::Others, Scope::All].map(|scope| {
                names(&awaited(&[], Some(&pod), scope, &[], &[], Spared::Entrypoint)).contains(&name)
            })
        };
        let treated = |name: &str| {
            let quit = Request::new(Method::Post, "http://localhost:1/".parse().unwrap());
            [
                waits(name, Annotated { traffic: Some(Traffic::Pod), ..Annotated::default() }),
                waits(name, Annotated { traffic: Some(Traffic::Own), ..Annotated::default() }),
                waits(name, Annotated { ignore: true, ..Annotated::default() }),
                waits(name, Annotated { shutdown: Some(quit), ..Annotated::default() }),
            ]
        };
        let (never, last, always) = ([false, false], [false, true], [true, true]);
        assert_eq!(treated("web"), [last, always, never, always]);
        assert_eq!(treated("istio-proxy"), [last, always, never, last], "the annotation wins over the table");
        let can_be_asked = [never, never, never, always];
        assert_eq!(treated("gke-gcsfuse-sidecar"), can_be_asked, "so it does not leave last");
    }

    #[test]
    fn a_wrapped_sidecar_is_waited_for_once_it_was_notified() {
        let pod = pod("Never", "running: {}");
        let after = |result| {
            let done = done(vec![(notify("wrapped"), result)]);
            awaited(&done, Some(&pod), Scope::Others, &[], &[], Spared::Entrypoint)
                .into_iter()
                .any(|awaited| awaited.name == "wrapped")
        };
        assert!(after(TaskResult::Accepted));
        assert!(after(TaskResult::Absent), "it is being started again");
        for result in [TaskResult::NotYet, TaskResult::ByItself, TaskResult::Failed] {
            assert!(!after(result), "{result:?}");
        }
        let absent = done(vec![(notify("wrapped"), TaskResult::Absent)]);
        let mut running = pod.clone();
        running.sidecars.iter_mut().find(|one| one.name == "wrapped").unwrap().state = State::Running;
        let waits = |spared| {
            let awaited = awaited(&absent, Some(&running), Scope::Others, &[], &[], spared);
            awaited.iter().any(|awaited| awaited.name == "wrapped")
        };
        assert!(!waits(Spared::Entrypoint), "it sees our end anyway");
        assert!(waits(Spared::OwnContainer), "which does not come");
        let by_socket = awaited(&[], Some(&pod), Scope::Others, &[], &["web".into()], Spared::Entrypoint);
        assert!(by_socket.is_empty(), "its command does not show that it waits for us");
    }

    #[test]
    fn who_was_asked_is_told_from_who_was_not() {
        let pod = pod("Never", "running: {}");
        let asked = |task, result| -> Vec<_> {
            let awaited =
                awaited(&done(vec![(task, result)]), Some(&pod), Scope::All, &[], &[], Spared::Entrypoint);
            awaited.into_iter().map(|awaited| (awaited.name, awaited.asked)).collect()
        };
        let each = |web, istio| [("web".to_owned(), web), ("istio-proxy".to_owned(), istio)];
        let to_web = || http("http://localhost:1/quit", Some("web"), Traffic::Own);
        assert_eq!(asked(to_web(), TaskResult::Accepted), each(Asked::Yes, Asked::No));
        assert_eq!(asked(to_web(), TaskResult::Failed), each(Asked::No, Asked::No));
        let to_somebody = || http("http://localhost:2/quit", None, Traffic::Own);
        assert_eq!(asked(to_somebody(), TaskResult::Accepted), each(Asked::Perhaps, Asked::Perhaps));
        let elsewhere = http("http://example.com/quit", None, Traffic::Own);
        assert_eq!(asked(elsewhere, TaskResult::Accepted), each(Asked::No, Asked::No));
        let traces = |task| unattributed_traces(&done(vec![(task, TaskResult::Accepted)]));
        assert!(matches!(traces(to_somebody()).as_deref(), Some([Trace::Closed(_)])));
        let step = Step::Kill(crate::shutdown::Processes::All, crate::signal::Signal::TERM);
        let kill = Task { step, source: Source::Given, traffic: Traffic::Own, container: None };
        assert_eq!(traces(kill), None, "no socket shows whom a signal ends");
    }

    #[test]
    fn without_the_api_server_those_who_accepted_show_it_themselves() {
        let done = done(vec![
            (http("http://localhost:1/quit", None, Traffic::Own), TaskResult::Accepted),
            (http("http://localhost:2/quit", None, Traffic::Own), TaskResult::Failed),
            (http("http://example.com/quit", None, Traffic::Own), TaskResult::Accepted),
            (http("http://localhost:3/quit", None, Traffic::Pod), TaskResult::Accepted),
            (notify("wrapped"), TaskResult::Accepted),
        ]);
        let all = awaited(&done, None, Scope::All, &[], &[], Spared::Entrypoint);
        assert_eq!(names(&all), ["POST http://localhost:1/quit", "POST http://localhost:3/quit", "wrapped"]);
        assert!(matches!(all[0].trace(), Some(Trace::Closed(_))));
        assert!(matches!(all[2].trace(), Some(Trace::Withdrawn(_))));
        assert_eq!(awaited(&done, None, Scope::Others, &[], &[], Spared::Entrypoint).len(), 2);
    }

    fn web() -> Vec<Awaited> {
        vec![Awaited { name: "web".into(), asked: Asked::Yes, shown_by: ShownBy::Status(None) }]
    }

    fn seen(policy: &str, web: &str) -> Seen {
        Seen { snapshot: Some(pod(policy, web)), ..Seen::default() }
    }

    #[test]
    fn an_exit_that_is_followed_by_a_restart_is_none() {
        let failed = "terminated: {exitCode: 3}";
        assert_eq!(drain(&web(), &seen("Never", "running: {}")), Drain::Waiting(vec![0]));
        assert_eq!(drain(&web(), &seen("Never", failed)), Drain::Done);
        assert_eq!(drain(&web(), &seen("OnFailure", failed)), Drain::Waiting(vec![0]));
        assert_eq!(drain(&web(), &seen("OnFailure", "terminated: {exitCode: 0}")), Drain::Done);
    }

    #[test]
    fn a_late_report_of_an_earlier_round_ends_no_wait() {
        let mut older = seen("Never", "terminated: {exitCode: 0}");
        older.snapshot.as_mut().unwrap().own.run = Run::Older;
        assert_eq!(drain(&web(), &older), Drain::Waiting(vec![0]));
        // As the look at the end did: the clocks differ.
        older.rounds = Rounds::told_by(older.snapshot.as_ref());
        assert_eq!(drain(&web(), &older), Drain::Done);
        older.snapshot.as_mut().unwrap().own.run = Run::Over;
        assert_eq!(drain(&web(), &older), Drain::Waiting(vec![0]));
        // What was settled before the look differs still: no report that follows is settled.
        let mut settled = pod("Never", "running: {}");
        settled.own.run = Run::Believed;
        assert_eq!(Rounds::told_by(Some(&settled)), Rounds::ByEnd);
        assert_eq!(Rounds::told_by(Some(&pod("Never", "running: {}"))), Rounds::ByStart);
    }

    #[test]
    fn a_pod_that_is_being_deleted_is_not_waited_for() {
        let mut leaving = seen("Never", "running: {}");
        leaving.snapshot.as_mut().unwrap().life = Life::Deleting;
        assert_eq!(drain(&web(), &leaving), Drain::Pointless(Pointless::Leaving));
    }

    #[test]
    fn a_lost_connection_is_a_sign_where_a_carrier_leaves_or_we_are_stopped() {
        let lost = |carrier_leaves, stopping, millis| {
            let no_connection = Some(Duration::from_millis(millis));
            drain(&web(), &Seen { no_connection, carrier_leaves, stopping, ..Seen::default() })
        };
        assert_eq!(lost(true, false, 1000), Drain::Pointless(Pointless::CarrierGone));
        assert_eq!(lost(true, false, 900), Drain::Waiting(vec![0]));
        assert_eq!(lost(false, true, 1000), Drain::Pointless(Pointless::OutOfSight));
        assert_eq!(lost(false, false, 60_000), Drain::Waiting(vec![0]));
    }

    #[test]
    fn a_denial_that_lasts_ends_a_wait_that_nobody_can_see_the_end_of() {
        let denied = |seconds| Seen { denied: Some(Duration::from_secs(seconds)), ..Seen::default() };
        assert_eq!(drain(&web(), &denied(9)), Drain::Waiting(vec![0]));
        assert_eq!(drain(&web(), &denied(10)), Drain::Pointless(Pointless::Denied));
    }

    #[test]
    fn a_trace_that_is_gone_is_an_exit() {
        let seen = Seen { gone: BTreeSet::from([0]), ..Seen::default() };
        assert_eq!(drain(&web(), &seen), Drain::Done);
    }

    #[test]
    fn who_may_carry_our_traffic() {
        let leaves = |task: Task, result| carrier_leaves(&done(vec![(task, result)]));
        let mesh = || http("http://localhost:1/quit", Some("mesh"), Traffic::Pod);
        assert!(leaves(mesh(), TaskResult::Accepted));
        assert!(!leaves(mesh(), TaskResult::Failed));
        assert!(leaves(http("http://localhost:1/quit", None, Traffic::Own), TaskResult::Accepted));
        assert!(!leaves(http("http://localhost:1/quit", Some("web"), Traffic::Own), TaskResult::Accepted));
    }

    #[test]
    fn it_is_said_why_nobody_is_waited_for_any_longer() {
        for (why, says) in [
            (Pointless::Leaving, "the Pod is being deleted"),
            (Pointless::CarrierGone, "may carry this container's traffic was shut down"),
            (Pointless::Denied, "no longer lets this container see its Pod"),
            (Pointless::OutOfSight, "was asked to stop, and the API server cannot be reached"),
        ] {
            assert!(why.to_string().contains(says), "{why}");
        }
    }
}
