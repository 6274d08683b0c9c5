//! Events as lines for people.

use std::fmt::Write as _;

use crate::event::{Event, Stream, What};

/// Formats events in columns: when, where, what.
#[derive(Clone, Debug)]
pub struct Timeline {
    /// As wide as the longest container's name.
    width: usize,
}

/// What stands in the second column when an event is not a container's.
const POD: &str = "pod";
const API: &str = "api";
const JOB: &str = "job";

impl Timeline {
    /// A timeline for containers of these names.
    #[must_use]
    pub fn new<'a>(containers: impl IntoIterator<Item = &'a str>) -> Timeline {
        let width = containers.into_iter().map(str::len).max().unwrap_or_default();
        Timeline { width: width.max(POD.len()) }
    }

    /// The line of an event, without an end.
    #[must_use]
    pub fn line(&self, event: &Event) -> String {
        let place = event.container().unwrap_or(match &event.what {
            What::WatchOpened | What::WatchEnded => API,
            What::JobComplete | What::JobFailed => JOB,
            _ => POD,
        });
        let mut line =
            format!("{:>8.3}s  {place:<width$}  ", event.elapsed.as_secs_f64(), width = self.width);
        // Writing to a string cannot fail.
        let _ = describe(&mut line, &event.what, &event.pod);
        line
    }
}

fn describe(line: &mut String, what: &What, pod: &str) -> std::fmt::Result {
    match what {
        What::ContainerStarted { pid, .. } => write!(line, "started (pid {pid})"),
        What::ContainerReady { .. } => write!(line, "ready"),
        What::ContainerUnready { .. } => write!(line, "no longer ready"),
        What::ContainerStopping { signal, .. } => write!(line, "sent {signal}"),
        What::ContainerExited { code, signal: None, .. } => write!(line, "exited with {code}"),
        What::ContainerExited { code, signal: Some(signal), .. } => {
            write!(line, "ended by signal {signal} (exit code {code})")
        }
        What::ContainerNotStarted { message, .. } => write!(line, "could not be started: {message}"),
        What::ContainerRestarting { after, .. } if after.is_zero() => write!(line, "is started again"),
        What::ContainerRestarting { after, .. } => write!(line, "will be started again in {after:?}"),
        What::ImageNotPulled { .. } => write!(line, "image cannot be pulled"),
        What::ProbeFailed { probe, message, .. } => {
            write!(line, "{} probe failed: {message}", probe.to_lowercase())
        }
        What::HookFailed { hook, message, .. } => write!(line, "{hook} hook failed: {message}"),
        What::Output { stream: Stream::Stdout, line: text, .. } => write!(line, "| {text}"),
        What::Output { stream: Stream::Stderr, line: text, .. } => write!(line, "! {text}"),
        What::PodPhase { phase } => write!(line, "{pod} is {phase}"),
        What::PodDeleting { grace } => write!(line, "{pod} is being deleted, with {grace:?} of grace"),
        What::PodDeleted => write!(line, "{pod} is gone"),
        What::WatchOpened => write!(line, "a client watches"),
        What::WatchEnded => write!(line, "a client stopped watching"),
        What::JobComplete => write!(line, "complete"),
        What::JobFailed => write!(line, "failed"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn lines_say_when_where_and_what() {
        let timeline = Timeline::new(["main", "istio-proxy"]);
        let event = |what: What| Event { elapsed: Duration::from_millis(1234), pod: "web".to_owned(), what };
        let output =
            What::Output { container: "main".to_owned(), stream: Stream::Stdout, line: "hello".to_owned() };
        assert_eq!(timeline.line(&event(output)), "   1.234s  main         | hello");
        assert_eq!(
            timeline.line(&event(What::PodPhase { phase: "Running" })),
            "   1.234s  pod          web is Running"
        );
    }
}
