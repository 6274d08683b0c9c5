//! Ending the sidecars: whether, then how, all within one budget of time.

pub mod actions;
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
use std::time::Instant;

use futures::future::join_all;
use tracing::{info, warn};

use crate::budget::{ShutdownBudget, StopRequests};
use crate::deadline::until;
use crate::peer::{Peers, Reply};
use crate::pod::Snapshot;
use crate::policy::ShutdownAuto;
use crate::signal::stream::Listener;
use crate::signal::{Phase, Signal};
use crate::status::board::{ActionResult, Board};
pub use actions::{Action, Processes, Shutdown};
use awaited::{Pointless, Scope, Seen, TaskResult, awaited, carrier_leaves};
pub use decision::{Decision, Keep, decide};
use drain::{Named, Terms};
pub use sight::{Sight, look};
use stages::{Stages, Step, Task, stages, unasked};
pub use turn::{Others, Turn, Worth, turn};

/// What the sidecars are shut down after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// The command, or a refusal to start it.
    Command,
    /// A signal before the command: whoever asked wants proa itself to stop, and no sidecar's exit is waited for.
    EarlyStop,
}

/// Runs the actions, then waits for the sidecars to exit. Whatever goes wrong is logged: the outcome is
/// decided by now. Where others' traffic goes through a sidecar it is notified last, once the others have exited.
pub async fn run(
    shutdown: &Shutdown,
    sight: &Sight,
    after: After,
    asked: StopRequests,
    peers: &Peers,
    signals: &mut Listener<'_>,
    board: &Board,
) {
    let snapshot = sight.snapshot.as_ref();
    let Stages { first, last } = stages(shutdown, snapshot, peers);
    if shutdown.auto == ShutdownAuto::Otherwise && shutdown.actions.is_empty() {
        if snapshot.is_none() && first.is_empty() {
            warn!(
                "no sidecar is ended: without sight of the Pod none is recognised; see --shutdown-known, --shutdown-http-post"
            );
        }
        for (name, helps) in snapshot.into_iter().flat_map(unasked) {
            info!("`{name}` cannot be asked to end: {helps}");
        }
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
    };
    ending.act(first).await;
    board.drain_begins();
    if !last.is_empty() {
        // Those too that nobody asked: they may exit by themselves, and need the network for it.
        let terms = Terms {
            asked_by: ending.time.others_by,
            unasked_by: Some(ending.time.unasked_by),
            done: "the others have ended",
        };
        ending.drain(Scope::Others, terms).await;
        ending.act(last).await;
    }
    let by = ending.time.by;
    ending.drain(Scope::All, Terms { asked_by: by, unasked_by: by, done: "every sidecar has ended" }).await;
    board.drain_ends();
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
    done: Vec<(Task, TaskResult)>,
}

impl Ending<'_, '_> {
    /// Carries the tasks out side by side.
    async fn act(&mut self, tasks: Vec<Task>) {
        if self.extent == Extent::Nothing {
            return;
        }
        let results = RefCell::new(vec![None; tasks.len()]);
        let snapshot = self.sight.snapshot.as_ref();
        let (board, by) = (self.board, self.time.by);
        {
            let mut work = Box::pin(join_all(tasks.iter().enumerate().map(|(place, task)| {
                let results = &results;
                async move {
                    let result = carry_out(task, snapshot, by, board).await;
                    results.borrow_mut()[place] = Some(result);
                }
            })));
            while self.extent != Extent::Nothing {
                let (stop, by) = (self.stop(), self.time.by);
                tokio::select! {
                    biased;
                    _ = &mut work => break,
                    signal = stopped(self.signals, stop) => self.interrupt(signal, "not waiting"),
                    () = until(by) => break,
                }
            }
        }
        for (task, result) in tasks.into_iter().zip(results.into_inner()) {
            if result.is_none() {
                warn!("{task}: no answer before --shutdown-timeout ran out, or the grace period");
                board.action(task.to_string(), ActionResult::Failed);
            }
            self.done.push((task, result.unwrap_or(TaskResult::Failed)));
        }
    }

    /// Waits for the sidecars to exit.
    async fn drain(&mut self, scope: Scope, terms: Terms) {
        if self.extent != Extent::All {
            return;
        }
        if !self.time.waits {
            info!("not waiting for the sidecars to exit: {}", Pointless::Leaving);
            self.extent = Extent::ActionsOnly;
            return;
        }
        let own_pod = self.sight.own_pod.as_ref();
        let visible = self.sight.snapshot.as_ref().filter(|_| own_pod.is_some());
        let awaited = awaited(&self.done, visible, scope, &self.shutdown.ignore);
        let seen = Seen {
            carrier_leaves: carrier_leaves(&self.done),
            stopping: !self.asked.is_empty(),
            ..Seen::default()
        };
        let stop = self.stop();
        let signal = tokio::select! {
            () = drain::wait(own_pod, &awaited, terms, seen, &self.sight.mains, &mut self.named) => return,
            signal = stopped(self.signals, stop) => signal,
        };
        self.interrupt(signal, "no longer waiting");
    }

    /// The container is asked to stop: what it was going to do at its leisure it has no time for any more.
    fn interrupt(&mut self, signal: Signal, waiting: &str) {
        self.extent = match self.extent {
            Extent::All => {
                info!(%signal, "asked to end: {waiting} for the sidecars to exit");
                Extent::ActionsOnly
            }
            Extent::ActionsOnly | Extent::Nothing => {
                warn!(%signal, "asked to end again: giving up on the sidecars");
                Extent::Nothing
            }
        };
        self.asked.note(Instant::now());
        let hurried = self.sight.budget(&self.asked, true).shutdown(self.shutdown.timeout).by;
        self.time.by = match (self.time.by, hurried) {
            (Some(by), Some(hurried)) => Some(by.min(hurried)),
            (by, hurried) => by.or(hurried),
        };
    }

    fn stop(&self) -> Option<Signal> {
        self.sight.snapshot.as_ref().and_then(|snapshot| snapshot.own.stop_signal)
    }
}

async fn carry_out(
    task: &Task,
    snapshot: Option<&Snapshot>,
    by: Option<Instant>,
    board: &Board,
) -> TaskResult {
    match perform(&task.step, snapshot, by).await {
        Ok((text, result)) => {
            board.action(task.to_string(), ActionResult::Accepted);
            info!("{task}: {text}");
            result
        }
        Err(error) => {
            board.action(task.to_string(), ActionResult::Failed);
            let needs = task.needs().map(|needs| format!("; {needs}")).unwrap_or_default();
            warn!("{task}: {error}{needs}");
            TaskResult::Failed
        }
    }
}

async fn perform(
    step: &Step,
    snapshot: Option<&Snapshot>,
    by: Option<Instant>,
) -> Result<(String, TaskResult), String> {
    match step {
        Step::Http(request) => {
            let done = http::ask(request, by).await.map_err(|error| error.to_string())?;
            Ok((done.to_string(), TaskResult::Accepted))
        }
        Step::Kill(processes, signal) => {
            let count = kill::kill(processes, *signal, snapshot).map_err(|error| error.to_string())?;
            Ok((format!("{count} signalled"), TaskResult::Accepted))
        }
        Step::Notify { peer, ended } => match peer.notify(ended).await {
            Ok(Reply::Stopping) => Ok(("it will".to_owned(), TaskResult::Accepted)),
            Ok(Reply::NotYet) => Ok(("it waits for other containers too".to_owned(), TaskResult::NotYet)),
            // It has ended, or is being started again.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                Ok(("no proa is there".to_owned(), TaskResult::Absent))
            }
            Err(error) => Err(format!("its proa does not answer: {error}")),
        },
    }
}

/// The next signal that asks proa to stop.
async fn stopped(signals: &mut Listener<'_>, stop: Option<Signal>) -> Signal {
    match signals.stop(Phase::Shutdown { stop }).await {
        Ok(signal) => signal,
        // Without signals there is nothing to listen for; the budget still holds.
        Err(_) => std::future::pending().await,
    }
}
