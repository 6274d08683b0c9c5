//! The player: a [`Play`] runs a manifest's Pod as processes of this machine, and serves it from a [`Cluster`].

pub(crate) mod env;
mod job;
mod log;
mod pod;
mod probe;
mod process;
mod restart;
mod state;
mod status;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

pub use log::OnEvent;

use log::Log;
use pod::{Message, PodEnd};
use process::Registry;

use crate::cluster::{Cluster, WatchNote};
use crate::event::{Event, Stream, What};
use crate::manifest::Manifest;
use crate::random;
use crate::scratch::Scratch;
use crate::sync::lock;

/// Where the containers' output goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// Line by line into the events, and into [`Play::stdout`] and [`Play::stderr`].
    #[default]
    Capture,
    /// Where this process's own goes.
    Inherit,
    /// Nowhere.
    Discard,
}

/// How a manifest is played.
#[derive(Clone)]
pub struct Options {
    /// Directories with the programs the manifest names: first in the containers' `PATH`, and where a program is looked
    /// up by its base name whose absolute path does not exist on this machine.
    pub bin_dirs: Vec<PathBuf>,
    /// Environment for every container; the manifest's own goes before it.
    pub env: Vec<(String, String)>,
    /// Where the containers' output goes.
    pub output: Output,
    /// Containers whose image cannot be pulled.
    pub unpullable: BTreeSet<String>,
    /// The delay before the second restart, which doubles from there; the kubelet's is 10 s.
    pub back_off: Duration,
    /// What a second of a probe's `initialDelaySeconds` and `periodSeconds` lasts; tests shorten it.
    pub probe_second: Duration,
    /// Called with every event.
    pub on_event: Option<OnEvent>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            bin_dirs: Vec::new(),
            env: Vec::new(),
            output: Output::default(),
            unpullable: BTreeSet::new(),
            back_off: Duration::from_secs(10),
            probe_second: Duration::from_secs(1),
            on_event: None,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Options")
            .field("bin_dirs", &self.bin_dirs)
            .field("env", &self.env)
            .field("output", &self.output)
            .field("unpullable", &self.unpullable)
            .field("back_off", &self.back_off)
            .field("probe_second", &self.probe_second)
            .finish_non_exhaustive()
    }
}

/// How a play ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The phase of the Pod, a Job's last one: `Succeeded` or `Failed`.
    pub phase: &'static str,
    /// Whether the Pod was deleted.
    pub deleted: bool,
    /// How the Job ended, if it was one.
    pub job: Option<JobEnd>,
    /// The containers of the Pod by name; those that never ran have no exit code.
    pub containers: BTreeMap<String, ContainerEnd>,
    /// The code of the first container that failed, init containers first; sidecars do not count.
    pub failure: Option<i32>,
}

/// How a Job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobEnd {
    /// One of its Pods succeeded.
    Complete,
    /// More of its Pods failed than its `backoffLimit` allows, or it was deleted.
    Failed,
}

/// How a container's last run ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerEnd {
    /// The exit code, 128+n after signal n.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// `Completed`, `Error` or `StartError`.
    pub reason: Option<String>,
    /// The termination message.
    pub message: Option<String>,
    /// How often it was started again.
    pub restarts: i32,
}

impl Outcome {
    /// Whether the Pod succeeded or the Job completed.
    #[must_use]
    pub fn is_success(&self) -> bool {
        match self.job {
            Some(end) => end == JobEnd::Complete,
            None => self.phase == "Succeeded",
        }
    }

    fn new(end: PodEnd, job: Option<JobEnd>) -> Outcome {
        let failed = end.containers.iter().filter(|container| container.role != state::Role::Sidecar);
        let failure = failed
            .filter_map(|container| container.last.as_ref())
            .map(|last| last.code)
            .find(|code| *code != 0);
        let containers = end.containers.into_iter().map(|container| {
            let restarts = container.restarts;
            let ended = container.last.map_or_else(ContainerEnd::default, |last| ContainerEnd {
                exit_code: Some(last.code),
                signal: last.signal,
                reason: Some(last.reason.to_owned()),
                message: last.message,
                restarts,
            });
            (container.name, ended)
        });
        Outcome {
            phase: end.phase.name(),
            deleted: end.deleted,
            job,
            containers: containers.collect(),
            failure,
        }
    }
}

/// A line of output.
struct Line {
    container: String,
    stream: Stream,
    text: String,
}

/// What the parts of a play share.
struct Stage {
    /// Marks the processes of this play.
    id: String,
    cluster: Arc<Cluster>,
    options: Options,
    log: Log,
    outputs: Mutex<Vec<Line>>,
    registry: Arc<Registry>,
    scratch: Scratch,
    current: Mutex<Current>,
    settled: Condvar,
}

/// What is going on at present.
#[derive(Default)]
struct Current {
    namespace: String,
    pod: String,
    /// Deletes the Pod; gone once nothing is left that could hear it.
    sender: Option<mpsc::UnboundedSender<Message>>,
    deleted: bool,
    outcome: Option<Outcome>,
}

/// A manifest that is being played.
///
/// Dropping it kills every process it started, whole trees, and waits for their end.
pub struct Play {
    stage: Arc<Stage>,
    /// Lives the Pod's or Job's life; `None` if the runtime was gone before it began.
    task: Option<AbortHandle>,
}

impl fmt::Debug for Play {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Play").field("cluster", &self.stage.cluster).finish_non_exhaustive()
    }
}

impl Play {
    /// Starts a cluster for the manifest's service account, with its rights, and plays the manifest on it.
    ///
    /// # Errors
    ///
    /// When the cluster cannot be started.
    pub fn start(manifest: Manifest, options: Options) -> Result<Play> {
        let cluster = Cluster::start_for(manifest.namespace(), manifest.service_account())?;
        Play::start_on(cluster, manifest, options)
    }

    /// Plays the manifest on a cluster that may have faults already; its access is set to the manifest's.
    ///
    /// # Errors
    ///
    /// When there is no place for the Pod's temporary files.
    pub fn start_on(cluster: Cluster, manifest: Manifest, options: Options) -> Result<Play> {
        cluster.authorize(manifest.access.clone());
        let stage = Arc::new(Stage {
            id: random::token().context("no randomness")?,
            cluster: Arc::new(cluster),
            log: Log::new(options.on_event.clone()),
            options,
            outputs: Mutex::default(),
            registry: Arc::default(),
            scratch: Scratch::create("play")
                .context("cannot make a directory for the Pod's temporary files")?,
            current: Mutex::default(),
            settled: Condvar::new(),
        });
        // Weak, since the cluster belongs to the stage.
        let watched = Arc::downgrade(&stage);
        stage.cluster.observe_watches(move |note| {
            if let Some(stage) = watched.upgrade() {
                let pod = lock(&stage.current).pod.clone();
                stage.log.write(
                    &pod,
                    match note {
                        WatchNote::Opened => What::WatchOpened,
                        WatchNote::Ended => What::WatchEnded,
                    },
                );
            }
        });
        let task = job::begin(&stage, manifest.workload);
        Ok(Play { stage, task })
    }

    /// The cluster that serves the Pod.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.stage.cluster
    }

    /// The Pod as the API has it; `None` once it is deleted.
    #[must_use]
    pub fn pod(&self) -> Option<Pod> {
        let (namespace, name) = self.key();
        self.stage.cluster.pod(&namespace, &name)
    }

    fn key(&self) -> (String, String) {
        let current = lock(&self.stage.current);
        (current.namespace.clone(), current.pod.clone())
    }

    /// Every event so far.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.stage.log.events()
    }

    /// Blocks until some event, past or coming, fits; `None` when the time is over.
    pub fn wait_for(&self, timeout: Duration, fits: impl FnMut(&Event) -> bool) -> Option<Event> {
        self.stage.log.wait_for(timeout, fits)
    }

    /// Blocks until the play is over; `None` when the time is.
    #[must_use]
    pub fn wait(&self, timeout: Duration) -> Option<Outcome> {
        let deadline = Instant::now() + timeout;
        let mut current = lock(&self.stage.current);
        loop {
            if let Some(outcome) = &current.outcome {
                return Some(outcome.clone());
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            current =
                self.stage.settled.wait_timeout(current, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Deletes the Pod, and the Job if it is one's; `None` leaves it the grace period of its own.
    pub fn delete(&self, grace: Option<Duration>) {
        let mut current = lock(&self.stage.current);
        current.deleted = true;
        let told =
            current.sender.as_ref().is_some_and(|sender| sender.send(Message::Delete { grace }).is_ok());
        if !told {
            let (namespace, name) = (current.namespace.clone(), current.pod.clone());
            drop(current);
            // Nothing runs any more that would need grace.
            if self.stage.cluster.pod(&namespace, &name).is_some() {
                self.stage.cluster.remove(&namespace, &name);
                self.stage.log.write(&name, What::PodDeleted);
            }
        }
    }

    /// What a container wrote to its standard output, over all its runs.
    #[must_use]
    pub fn stdout(&self, container: &str) -> String {
        self.output(container, Stream::Stdout)
    }

    /// What a container wrote to its standard error, over all its runs.
    #[must_use]
    pub fn stderr(&self, container: &str) -> String {
        self.output(container, Stream::Stderr)
    }

    fn output(&self, container: &str, stream: Stream) -> String {
        let outputs = lock(&self.stage.outputs);
        let lines = outputs.iter().filter(|line| line.container == container && line.stream == stream);
        lines.fold(String::new(), |text, line| text + &line.text + "\n")
    }
}

impl Drop for Play {
    fn drop(&mut self) {
        // First, so that nothing is restarted that is killed now.
        if let Some(task) = &self.task {
            task.abort();
        }
        self.stage.registry.close(&format!("{}/", self.stage.id));
    }
}
