//! What happens in a play, as it happens.

use std::time::Duration;

/// Something that happened, and how long after the start of the play.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Time since the play began.
    pub elapsed: Duration,
    /// The Pod it happened in; a Job may have several, one after another.
    pub pod: String,
    /// What happened.
    pub what: What,
}

impl Event {
    /// The container it is about, if it is about one.
    #[must_use]
    pub fn container(&self) -> Option<&str> {
        match &self.what {
            What::ContainerStarted { container, .. }
            | What::ContainerReady { container }
            | What::ContainerUnready { container }
            | What::ContainerStopping { container, .. }
            | What::ContainerExited { container, .. }
            | What::ContainerNotStarted { container, .. }
            | What::ContainerRestarting { container, .. }
            | What::ImageNotPulled { container }
            | What::ProbeFailed { container, .. }
            | What::HookFailed { container, .. }
            | What::Output { container, .. } => Some(container),
            What::PodPhase { .. }
            | What::PodDeleting { .. }
            | What::PodDeleted
            | What::WatchOpened
            | What::WatchEnded
            | What::JobComplete
            | What::JobFailed => None,
        }
    }
}

/// What an [`Event`] is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum What {
    /// The container's process is there.
    ContainerStarted {
        /// The container.
        container: String,
        /// Its main process.
        pid: u32,
    },
    /// The container became ready.
    ContainerReady {
        /// The container.
        container: String,
    },
    /// The container was ready and no longer is, while it runs.
    ContainerUnready {
        /// The container.
        container: String,
    },
    /// The container was sent its stop signal.
    ContainerStopping {
        /// The container.
        container: String,
        /// The signal's name.
        signal: &'static str,
    },
    /// The container's main process ended, and the rest of its processes with it.
    ContainerExited {
        /// The container.
        container: String,
        /// The code as the kubelet reports it: 128+n where signal n ended the process.
        code: i32,
        /// The signal that ended the process.
        signal: Option<i32>,
        /// `Completed` or `Error`.
        reason: String,
    },
    /// The container's command could not be started.
    ContainerNotStarted {
        /// The container.
        container: String,
        /// Why not.
        message: String,
    },
    /// The container will be started again.
    ContainerRestarting {
        /// The container.
        container: String,
        /// After this long.
        after: Duration,
    },
    /// The container's image is one that cannot be pulled.
    ImageNotPulled {
        /// The container.
        container: String,
    },
    /// A probe failed once.
    ProbeFailed {
        /// The container.
        container: String,
        /// `Startup`, `Readiness` or `Liveness`.
        probe: &'static str,
        /// What went wrong.
        message: String,
    },
    /// A `postStart` or `preStop` hook failed.
    HookFailed {
        /// The container.
        container: String,
        /// `postStart` or `preStop`.
        hook: &'static str,
        /// What went wrong.
        message: String,
    },
    /// A line of a container's output.
    Output {
        /// The container.
        container: String,
        /// Where it wrote the line.
        stream: Stream,
        /// The line without its end.
        line: String,
    },
    /// The Pod's phase changed.
    PodPhase {
        /// The phase, as in the API.
        phase: &'static str,
    },
    /// Someone deleted the Pod.
    PodDeleting {
        /// What its containers have left.
        grace: Duration,
    },
    /// The Pod is no longer there.
    PodDeleted,
    /// A client began a watch.
    WatchOpened,
    /// A client's watch is over.
    WatchEnded,
    /// The Job is complete.
    JobComplete,
    /// The Job has failed.
    JobFailed,
}

/// An output stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}
