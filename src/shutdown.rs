//! Ending the sidecars: whether, then how, all within one budget of time.

pub mod actions;
pub mod again;
pub mod awaited;
pub mod decision;
pub mod drain;
pub mod http;
pub mod kill;
pub mod sight;
pub mod stages;
pub mod turn;

use std::cell::RefCell;
use std::io;
use std::time::{Duration, Instant};

use futures::future::join_all;
use tokio::time::sleep;
use tracing::{debug, info, warn};

pub use crate::budget::Need;
use crate::budget::{LEAST, ShutdownBudget, StopRequests};
use crate::deadline::{before, now, until};
use crate::peer::{Message, Peer, Peers, Reply};
use crate::pod::{Snapshot, State, list};
use crate::policy::ShutdownAuto;
use crate::shortage::LONGEST;
use crate::signal::stream::Listener;
use crate::signal::{Phase, Received, Signal};
use crate::status::board::{ActionResult, Board};
use crate::thread::aside;
pub use actions::{Action, Processes, Shutdown, Spared};
use again::DoneTask;
use awaited::{Pointless, Rounds, Scope, Seen, TaskResult, awaited, carrier_leaves, unattributed_traces};
pub use decision::{Decision, Keep, Origin, decide};
pub use drain::{Drained, Shown};
use drain::{Latest, Named, Terms};
pub use sight::{Denial, Sight, look};
use stages::{Stages, Step, Task, stages};
pub use turn::{Others, Turn, Worth, turn};

/// Pauses before a wrapped sidecar that does not listen is notified again.
const TO_LISTEN: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(300), Duration::from_millis(600)];
/// How often a sidecar that still runs is asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// What the sidecars are shut down after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// The command, or a refusal to start it.
    Command,
    /// A signal before the command: whoever asked wants proa itself to stop, and no sidecar's exit is waited for.
    EarlyStop,
}

/// Runs the actions, then waits for the sidecars to exit. Whatever goes wrong is logged: the outcome is
/// decided by now. Where others' traffic goes through a sidecar it is notified last, once the others have exited. Returns what
/// came of it.
pub async fn run(
    shutdown: &Shutdown,
    sight: &Sight,
    after: After,
    asked: StopRequests,
    peers: &Peers,
    signals: &mut Listener<'_>,
    board: &Board,
) -> Report {
    let snapshot = sight.snapshot.as_ref();
    let Stages { first, last } = stages(shutdown, snapshot, peers);
    let automatic = shutdown.auto == ShutdownAuto::Otherwise && shutdown.actions.is_empty();
    if automatic && snapshot.is_none() && first.is_empty() {
        warn!(
            "no sidecar is shut down: without sight of the Pod none is recognised; see --shutdown-known, --shutdown-http-post"
        );
    }
    let mut named = Named::default();
    if let Some(snapshot) = snapshot.filter(|_| sight.fresh) {
        named.name_failures(snapshot);
    }
    let mut ending = Ending {
        shutdown,
        sight,
        signals,
        board,
        time: sight.budget(&asked, false).shutdown(shutdown.timeout),
        extent: if after == After::EarlyStop { Extent::ActionsOnly } else { Extent::All },
        asked,
        named,
        done: Vec::new(),
        latest: None,
        wrapped: peers.listening.iter().map(|peer| peer.container.clone()).collect(),
    };
    // Nobody who hangs takes the time of those that come last.
    ending.act(first, if last.is_empty() { Scope::All } else { Scope::Others }).await;
    board.drain_begins();
    if !last.is_empty() {
        if let Some(running) = ending.drain(Scope::Others).await.running() {
            warn!("still running when the service mesh is to be shut down: {}", list(running));
        }
        ending.act(last, Scope::All).await;
    }
    let drained = ending.drain(Scope::All).await;
    board.drain_ends();
    ending.ask_until_taken().await;
    Report::of(&ending.done, ending.latest.as_ref().or(snapshot), drained)
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// How many tasks there were.
    pub tasks: usize,
    /// Tasks that came to nothing, of sidecars that have not exited.
    pub failed: Vec<String>,
    /// Wrapped sidecars that run on: no proa is there to notify, or it waits for other containers too.
    pub declined: Vec<String>,
    /// What came of waiting for their exit.
    pub drained: Drained,
}

impl Report {
    /// `latest`: the Pod as it was last seen.
    fn of(done: &[DoneTask], latest: Option<&Snapshot>, drained: Drained) -> Self {
        let sidecars =
            || latest.into_iter().flat_map(|seen| &seen.sidecars).filter(|sidecar| !sidecar.native);
        let has_ended = |task: &Task| match &task.container {
            Some(name) => sidecars().any(|one| one.name == *name && one.ended_for_good().is_some()),
            // Nobody is left whom it can have been for.
            None => sidecars().next().is_some() && sidecars().all(|one| one.ended_for_good().is_some()),
        };
        let left = |results: &'static [TaskResult]| {
            let of = move |done: &&DoneTask| results.contains(&done.result);
            done.iter().filter(of).map(|done| &done.task).filter(|task| !has_ended(task))
        };
        let name = |task: &Task| match &task.container {
            Some(name) => format!("`{name}` ({task})"),
            None => task.to_string(),
        };
        let runs = |name: &String| sidecars().any(|one| one.name == *name && one.state == State::Running);
        let declined =
            left(&[TaskResult::NotYet, TaskResult::Absent]).filter_map(|task| task.container.clone());
        Self {
            tasks: done.len(),
            failed: left(&[TaskResult::Failed]).map(name).collect(),
            declined: declined.filter(runs).collect(),
            drained,
        }
    }
}

/// What is still worth while. Each signal that asks us to stop takes one away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    All,
    ActionsOnly,
    Nothing,
}

/// The end of the sidecars under way.
struct Ending<'a, 'b> {
    shutdown: &'a Shutdown,
    sight: &'a Sight,
    signals: &'a mut Listener<'b>,
    board: &'a Board,
    time: ShutdownBudget,
    extent: Extent,
    asked: StopRequests,
    named: Named,
    done: Vec<DoneTask>,
    /// The Pod as it was last seen while its sidecars exit.
    latest: Option<Snapshot>,
    /// Containers in which the proa of a sidecar listens.
    wrapped: Vec<String>,
}

impl Ending<'_, '_> {
    /// Carries the tasks out side by side; within the time of those in this scope, but for a moment at least: a request that is
    /// never sent helps nobody.
    async fn act(&mut self, tasks: Vec<Task>, scope: Scope) {
        let results = RefCell::new(vec![None; tasks.len()]);
        let snapshot = self.sight.snapshot.as_ref();
        let least = now().checked_add(LEAST);
        let at_least = |by: Option<Instant>| by.map(|by| least.map_or(by, |least| by.max(least)));
        let (board, by, spared) = (self.board, at_least(self.time.by), self.shutdown.spared);
        {
            let mut work = Box::pin(join_all(tasks.iter().enumerate().map(|(place, task)| {
                let results = &results;
                async move {
                    let result = carry_out(task, spared, snapshot, by, board).await;
                    results.borrow_mut()[place] = Some(result);
                }
            })));
            loop {
                let stop = self.stop();
                let by = match (self.extent, scope) {
                    (Extent::Nothing, _) => least,
                    (_, Scope::Others) => at_least(self.time.others_by),
                    (_, Scope::All) => at_least(self.time.by),
                };
                tokio::select! {
                    biased;
                    _ = &mut work => break,
                    received = stopped(self.signals, stop) => self.interrupt(received, "not waiting"),
                    () = until(by) => break,
                }
            }
        }
        for (task, result) in tasks.into_iter().zip(results.into_inner()) {
            if result.is_none() {
                warn!("{task}: no answer before --shutdown-timeout ran out, or the grace period");
                board.action(task.to_string(), ActionResult::Failed);
            }
            self.done.push(DoneTask::new(task, result.unwrap_or(TaskResult::Failed), snapshot));
        }
    }

    /// Waits for the sidecars to exit.
    async fn drain(&mut self, scope: Scope) -> Drained {
        loop {
            let own_pod = self.sight.own_pod.as_ref();
            let visible = self.sight.snapshot.as_ref().filter(|_| own_pod.is_some());
            let (ignore, spared) = (&self.shutdown.ignore, self.shutdown.spared);
            let awaited = awaited(&self.done, visible, scope, ignore, &self.wrapped, spared);
            let rounds = Rounds::told_by(self.sight.snapshot.as_ref().filter(|_| self.sight.fresh));
            if self.extent != Extent::All {
                return drain::unseen(&awaited, self.latest.as_ref().or(visible), rounds);
            }
            if !self.time.waits {
                info!("not waiting for the sidecars to exit: {}", Pointless::Leaving);
                self.extent = Extent::ActionsOnly;
                return Drained::Leaving;
            }
            let seen = Seen {
                // Those that carry the others' traffic have yet to be asked.
                carrier_leaves: scope == Scope::All && carrier_leaves(&self.done),
                stopping: self.sight.is_kill_to_come(&self.asked),
                rounds,
                ..Seen::default()
            };
            let terms = self.terms(scope);
            let (stop, latest) = (self.stop(), Latest::default());
            let drained = tokio::select! {
                drained = drain::wait(own_pod, &awaited, terms, seen, &self.sight.mains, &latest, &mut self.named) => {
                    Some(drained)
                }
                received = stopped(self.signals, stop) => {
                    self.interrupt(received, "no longer waiting");
                    None
                }
                place = asked_again(&self.done, self.shutdown.spared, &latest, self.time.by, self.board) => {
                    let snapshot = latest.borrow();
                    self.done[place] = DoneTask::new(self.done[place].task.clone(), TaskResult::Accepted, snapshot.as_ref());
                    None
                }
            };
            self.latest = latest.into_inner().or(self.latest.take());
            if let Some(drained) = drained {
                return drained;
            }
        }
    }

    /// Where the container is asked to stop in a Pod that goes on nobody's exit is waited for; but who did not take the request
    /// yet, since it was just starting, is asked again while there is time.
    async fn ask_until_taken(&mut self) {
        while self.extent == Extent::ActionsOnly && self.time.waits {
            let latest = Latest::new(self.sight.snapshot.clone());
            let is_due = |done: &DoneTask| {
                done.task.container.is_some() && done.is_due_again(latest.borrow().as_ref())
            };
            if !self.done.iter().any(is_due) {
                return;
            }
            let stop = self.stop();
            tokio::select! {
                place = asked_again(&self.done, self.shutdown.spared, &latest, self.time.by, self.board) => {
                    self.done[place].result = TaskResult::Accepted;
                }
                received = stopped(self.signals, stop) => self.interrupt(received, "not waiting"),
                () = until(self.time.by) => return,
            }
        }
    }

    fn terms(&self, scope: Scope) -> Terms {
        let unattributed = unattributed_traces(&self.done);
        match scope {
            // Those too that nobody asked: they may exit by themselves, and need the network for it.
            Scope::Others => Terms {
                asked_by: self.time.others_by,
                unasked_by: Some(self.time.unasked_by),
                unattributed,
                done: "the others have exited",
            },
            Scope::All => Terms {
                asked_by: self.time.by,
                unasked_by: self.time.idle_by,
                unattributed,
                done: "every sidecar has exited",
            },
        }
    }

    /// The container is asked to stop: what it was going to do at its leisure it has no time for any more.
    fn interrupt(&mut self, received: Received, waiting: &str) {
        let signal = received.signal;
        self.asked.note(now(), received.sender);
        self.extent = match self.extent {
            Extent::All => {
                info!(%signal, "asked to stop: {waiting} for the sidecars to exit");
                Extent::ActionsOnly
            }
            Extent::ActionsOnly | Extent::Nothing => {
                warn!(%signal, "asked to stop again: no longer waiting for the sidecars");
                Extent::Nothing
            }
        };
        let hurried = self.sight.budget(&self.asked, true).shutdown(self.shutdown.timeout);
        let sooner = |by: Option<Instant>, hurried| [by, hurried].into_iter().flatten().min();
        self.time.by = sooner(self.time.by, hurried.by);
        self.time.others_by = sooner(self.time.others_by, hurried.others_by);
    }

    fn stop(&self) -> Option<Signal> {
        self.sight.snapshot.as_ref().and_then(|snapshot| snapshot.own.stop_signal)
    }
}

/// Asks those once more that are due, until one has accepted: its place.
async fn asked_again(
    done: &[DoneTask],
    spared: Spared,
    latest: &Latest,
    by: Option<Instant>,
    board: &Board,
) -> usize {
    loop {
        sleep(AGAIN).await;
        for (place, done) in done.iter().enumerate() {
            let snapshot = latest.borrow().clone();
            if !done.is_due_again(snapshot.as_ref()) {
                continue;
            }
            match perform(&done.task.step, spared, snapshot.as_ref(), by).await {
                Ok(Performed { text, status, result: TaskResult::Accepted }) => {
                    board.action(done.task.to_string(), ActionResult::Accepted);
                    let (container, url) = (done.task.container.as_deref(), done.task.url());
                    info!(container, url, status, "{}: {text}", done.task);
                    return place;
                }
                Ok(Performed { text, .. }) | Err(NotPerformed { text, .. }) => {
                    debug!("{}: {text}", done.task);
                }
            }
        }
    }
}

async fn carry_out(
    task: &Task,
    spared: Spared,
    snapshot: Option<&Snapshot>,
    by: Option<Instant>,
    board: &Board,
) -> TaskResult {
    let (container, url) = (task.container.as_deref(), task.url());
    match perform(&task.step, spared, snapshot, by).await {
        Ok(Performed { text, status, result }) => {
            board.action(task.to_string(), ActionResult::Accepted);
            info!(container, url, status, "{task}: {text}");
            result
        }
        Err(NotPerformed { text, status }) => {
            board.action(task.to_string(), ActionResult::Failed);
            let needs = task.needs().map(|needs| format!("; {needs}")).unwrap_or_default();
            warn!(container, url, status, "{task}: {text}{needs}");
            TaskResult::Failed
        }
    }
}

/// What carrying out a step came to.
struct Performed {
    text: String,
    /// Of the answer, where there was one.
    status: Option<u16>,
    result: TaskResult,
}

/// Why a step came to nothing.
struct NotPerformed {
    text: String,
    /// Of the answer, where there was one.
    status: Option<u16>,
}

impl From<String> for NotPerformed {
    fn from(text: String) -> Self {
        Self { text, status: None }
    }
}

async fn perform(
    step: &Step,
    spared: Spared,
    snapshot: Option<&Snapshot>,
    by: Option<Instant>,
) -> Result<Performed, NotPerformed> {
    let performed = |text: &str, result| Performed { text: text.to_owned(), status: None, result };
    match step {
        Step::Http(request) => {
            let failed =
                |failure: http::Failure| NotPerformed { status: failure.status(), text: failure.to_string() };
            let done = http::ask(request, by).await.map_err(failed)?;
            Ok(Performed { text: done.to_string(), status: done.status(), result: TaskResult::Accepted })
        }
        Step::Kill(processes, signal) => {
            // /proc/PID/cmdline may block on a process that hangs (`mmap_lock`), and with it all that this thread does.
            let (processes, signal, snapshot) = (processes.clone(), *signal, snapshot.cloned());
            let kill =
                aside(LONGEST, move || kill::kill_patiently(&processes, spared, signal, snapshot.as_ref()));
            let killed = before(by, kill)
                .await
                .ok_or_else(|| "looking at the processes of the Pod takes too long".to_owned())?;
            let count = killed.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
            Ok(performed(&format!("{count} signalled"), TaskResult::Accepted))
        }
        Step::Notify { peer, ended } => match notify(peer, ended).await {
            Ok(Reply::Stopping) => Ok(performed("accepted", TaskResult::Accepted)),
            Ok(Reply::NotYet) => {
                Ok(performed("accepted, once other containers have exited too", TaskResult::NotYet))
            }
            Ok(Reply::ByItself) => {
                Ok(performed("accepted, once the main containers have exited", TaskResult::ByItself))
            }
            // It has ended, or is being started again.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                Ok(performed("no proa is there", TaskResult::Absent))
            }
            Err(error) => Err(format!("its proa does not answer: {error}").into()),
        },
    }
}

/// Notifies a wrapped sidecar. One that has just been started takes a moment to listen.
async fn notify(peer: &Peer, ended: &[Message]) -> io::Result<Reply> {
    let mut pauses = TO_LISTEN.into_iter();
    loop {
        match (peer.notify(ended).await, pauses.next()) {
            (Err(error), Some(pause)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                sleep(pause).await;
            }
            (taken, _) => return taken,
        }
    }
}

/// Takes note of a signal that asks proa to stop.
pub fn asked_to_stop(received: Received, asked: &mut StopRequests) {
    info!(signal = %received.signal, "asked to stop");
    asked.note(now(), received.sender);
}

/// The next signal that asks proa to stop.
pub async fn stopped(signals: &mut Listener<'_>, stop: Option<Signal>) -> Received {
    match signals.stop(Phase::Shutdown { stop }).await {
        Ok(received) => received,
        // Without signals there is nothing to listen for; the budget still holds.
        Err(_) => std::future::pending().await,
    }
}
