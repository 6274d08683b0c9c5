//! The wait for the sidecars: drives observations, deadline and signals to a verdict.

pub mod verdict;

use std::fmt;
use std::future::pending;
use std::time::Duration;

use futures::stream::{BoxStream, StreamExt};
use tokio::time::{Instant, interval_at, sleep_until};
use tracing::{info, warn};

use crate::child::reaper;
use crate::cluster::{Doubt, Observation, Trouble};
use crate::plan::Gate;
use crate::pod::{Snapshot, list};
use crate::policy::OnTimeout;
use crate::signal::stream::Listener;
use crate::signal::{self, Phase, Reaction, Signal};
use verdict::{Reason, Unready, Verdict, verdict};

/// How often a long wait says what it waits for.
const REPORT: Duration = Duration::from_secs(10);

/// The gate is open: the command may start.
#[derive(Debug)]
pub struct Opened {
    /// How long the wait was.
    pub after: Duration,
    /// The Pod as last seen; `None` if time ran out before it was.
    pub snapshot: Option<Snapshot>,
    /// Signals that are meant for the command, in the order in which they came.
    pub held: Vec<Signal>,
}

/// The gate stays shut: the command does not start.
#[derive(Debug)]
pub struct Closed {
    /// The Pod as last seen.
    pub snapshot: Option<Snapshot>,
    /// Why.
    pub cause: Cause,
}

/// Why the gate stays shut.
#[derive(Debug)]
pub enum Cause {
    /// A signal asked proa to end.
    Stopped(Signal),
    /// It will never open, or took too long.
    Refused(Refusal),
    /// proa itself failed.
    Failed(anyhow::Error),
}

/// Why the gate was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The Pod says so.
    Pod(Reason),
    /// The API server says so.
    Api(Trouble),
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
            Self::TimedOut { after, waiting } => write!(
                f,
                "not ready within {}: {waiting}; --ready-timeout allows more, --on-timeout=run starts the \
                 command all the same",
                humantime::format_duration(*after)
            ),
        }
    }
}

/// What the gate waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waiting {
    /// A first sight of the Pod.
    Pod,
    /// These sidecars.
    Sidecars(Vec<Unready>),
    /// The API server, which cannot be asked.
    Api(Trouble),
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod => write!(f, "the API server's first answer"),
            Self::Sidecars(unready) => {
                let shown: Vec<_> = unready.iter().map(ToString::to_string).collect();
                write!(f, "{}", shown.join(", "))
            }
            Self::Api(trouble) => write!(f, "{trouble}"),
        }
    }
}

/// Waits until the command may start.
///
/// # Errors
/// When it may not: asked to end, refused, or proa itself failed.
pub async fn pass(
    gate: &Gate,
    mut observations: BoxStream<'static, Observation>,
    signals: &mut Listener<'_>,
) -> Result<Opened, Closed> {
    let started = Instant::now();
    let deadline = gate.timeout.map(|timeout| started + timeout);
    let mut report = interval_at(started + REPORT, REPORT);
    let mut wait =
        Wait { gate, snapshot: None, waiting: Waiting::Pod, held: Vec::new(), doubt: Doubt::default() };
    loop {
        let step = tokio::select! {
            // Signals first: whoever asks us to end is not kept waiting by news of the Pod.
            biased;
            received = signals.next() => match received {
                Ok(signal) => wait.signal(signal),
                Err(error) => Step::Shut(Cause::Failed(error.into())),
            },
            Some(observation) = observations.next() => wait.observe(observation),
            () = until(deadline) => wait.time_out(started.elapsed()),
            _ = report.tick() => {
                info!(after = %seconds(started), "still waiting for {}", wait.waiting);
                Step::On
            }
        };
        match step {
            Step::On => {}
            Step::Open => {
                return Ok(Opened { after: started.elapsed(), snapshot: wait.snapshot, held: wait.held });
            }
            Step::Shut(cause) => {
                return Err(Closed { snapshot: wait.snapshot, cause });
            }
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

fn seconds(since: Instant) -> String {
    format!("{:.3}s", since.elapsed().as_secs_f64())
}

/// What an event comes to.
enum Step {
    On,
    Open,
    Shut(Cause),
}

/// The state of a wait.
struct Wait<'a> {
    gate: &'a Gate,
    snapshot: Option<Snapshot>,
    waiting: Waiting,
    held: Vec<Signal>,
    doubt: Doubt,
}

impl Wait<'_> {
    fn signal(&mut self, signal: Signal) -> Step {
        let stop = self.snapshot.as_ref().and_then(|snapshot| snapshot.main.stop_signal);
        match signal::reaction(Phase::Gate { stop }, signal) {
            Reaction::Stop => Step::Shut(Cause::Stopped(signal)),
            Reaction::Hold => {
                if !self.held.contains(&signal) {
                    self.held.push(signal);
                }
                Step::On
            }
            Reaction::Reap => {
                reaper::reap_orphans();
                Step::On
            }
            Reaction::Suspend => {
                crate::child::suspend_self();
                Step::On
            }
            Reaction::Forward | Reaction::Ignore => Step::On,
        }
    }

    fn observe(&mut self, observation: Observation) -> Step {
        match observation {
            Observation::Seen(snapshot) => self.seen(snapshot),
            Observation::Gone => Step::Shut(Cause::Refused(Refusal::Pod(Reason::Deleting))),
            Observation::Trouble(trouble) => self.trouble(trouble),
        }
    }

    fn seen(&mut self, snapshot: Snapshot) -> Step {
        self.doubt.dispel();
        if self.snapshot.is_none() {
            introduce(&snapshot);
        }
        let verdict = verdict(&snapshot, &self.gate.selection);
        self.snapshot = Some(snapshot);
        match verdict {
            Verdict::Open => Step::Open,
            Verdict::Refuse(reason) => Step::Shut(Cause::Refused(Refusal::Pod(reason))),
            Verdict::Wait(unready) => {
                let waiting = Waiting::Sidecars(unready);
                if waiting != self.waiting {
                    info!("waiting for {waiting}");
                    self.waiting = waiting;
                }
                Step::On
            }
        }
    }

    fn trouble(&mut self, trouble: Trouble) -> Step {
        if self.doubt.is_final(&trouble) {
            return Step::Shut(Cause::Refused(Refusal::Api(trouble)));
        }
        let transient = matches!(trouble, Trouble::Unreachable(_));
        let waiting = Waiting::Api(trouble);
        if waiting != self.waiting {
            if !transient {
                warn!("{waiting}");
            } else if !matches!(self.waiting, Waiting::Api(_)) {
                // Said once: a mesh proxy that is not up yet refuses dozens of attempts, as it should.
                info!("waiting for the API server: {waiting}");
            }
            self.waiting = waiting;
        }
        Step::On
    }

    fn time_out(&mut self, after: Duration) -> Step {
        match self.gate.on_timeout {
            OnTimeout::Run => {
                warn!("not ready in time, running the command all the same: {}", self.waiting);
                Step::Open
            }
            OnTimeout::Fail => {
                Step::Shut(Cause::Refused(Refusal::TimedOut { after, waiting: self.waiting.clone() }))
            }
        }
    }
}

fn introduce(snapshot: &Snapshot) {
    let names: Vec<_> = snapshot.sidecars.iter().map(|sidecar| sidecar.name.as_str()).collect();
    let sidecars = if names.is_empty() { "none".to_owned() } else { list(&names) };
    info!(
        uid = snapshot.uid,
        "this is container `{}` of Pod `{}`; sidecars: {sidecars}", snapshot.main.name, snapshot.name,
    );
}
