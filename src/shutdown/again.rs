//! Which sidecars are asked once more while their exit is waited for: a decision over what was done and one snapshot.

use super::awaited::TaskResult;
use super::stages::Task;
use crate::pod::{Sidecar, Snapshot, State};

/// A task that was carried out, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DoneTask {
    /// What was done.
    pub task: Task,
    /// What came of it.
    pub result: TaskResult,
    /// The container that it was for, by its ID then: another one has been started since where that has changed.
    pub container_id: Option<String>,
}

impl DoneTask {
    /// Notes what came of a task. `snapshot`: the Pod, as it was last seen.
    #[must_use]
    pub fn new(task: Task, result: TaskResult, snapshot: Option<&Snapshot>) -> Self {
        let container_id = sidecar(&task, snapshot).and_then(|sidecar| sidecar.id.clone());
        Self { task, result, container_id }
    }

    /// Whether it is worth while to ask once more: the sidecar runs, and did not take the request, or was started again after
    /// it did.
    #[must_use]
    pub fn is_due_again(&self, snapshot: Option<&Snapshot>) -> bool {
        if self.task.container.is_none() {
            // It may be for any of those that are waited for.
            return snapshot.is_some() && self.result == TaskResult::Failed;
        }
        let Some(sidecar) = sidecar(&self.task, snapshot) else {
            return false;
        };
        if sidecar.state != State::Running {
            return false;
        }
        match self.result {
            TaskResult::Failed | TaskResult::Absent => true,
            TaskResult::Accepted => self.container_id.is_some() && sidecar.id != self.container_id,
            TaskResult::NotYet | TaskResult::ByItself => false,
        }
    }
}

fn sidecar<'a>(task: &Task, snapshot: Option<&'a Snapshot>) -> Option<&'a Sidecar> {
    let name = task.container.as_ref()?;
    snapshot?.sidecars.iter().find(|sidecar| !sidecar.native && sidecar.name == *name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::{Method, Request};
    use crate::known::Traffic;
    use crate::pod::tests::snapshot;
    use crate::shutdown::stages::{Source, Step};

    fn pod(id: &str, state: &str) -> Snapshot {
        snapshot(&format!(
            "
spec: {{restartPolicy: OnFailure, containers: [{{name: db, image: d}}, {{name: web, image: w}}, {{name: main, image: m}}]}}
status:
  containerStatuses:
  - {{name: web, image: w, imageID: w, ready: false, restartCount: 0, containerID: 'containerd://{id}', state: {{{state}}}}}
"
        ))
    }

    fn done(container: Option<&str>, result: TaskResult) -> DoneTask {
        let step = Step::Http(Request::new(Method::Post, "http://localhost:1/quit".parse().unwrap()));
        let task = Task {
            step,
            source: Source::Given,
            traffic: Traffic::Own,
            container: container.map(str::to_owned),
        };
        DoneTask::new(task, result, Some(&pod("a", "running: {}")))
    }

    #[test]
    fn one_that_runs_and_did_not_take_the_request_is_asked_again() {
        for (result, due) in [
            (TaskResult::Failed, true),
            (TaskResult::Absent, true),
            (TaskResult::Accepted, false),
            (TaskResult::NotYet, false),
            (TaskResult::ByItself, false),
        ] {
            assert_eq!(
                done(Some("web"), result).is_due_again(Some(&pod("a", "running: {}"))),
                due,
                "{result:?}"
            );
        }
        for state in ["terminated: {exitCode: 0}", "waiting: {reason: CrashLoopBackOff}"] {
            assert!(!done(Some("web"), TaskResult::Failed).is_due_again(Some(&pod("a", state))), "{state}");
        }
        assert!(done(None, TaskResult::Failed).is_due_again(Some(&pod("a", "running: {}"))));
        assert!(!done(None, TaskResult::Accepted).is_due_again(Some(&pod("b", "running: {}"))));
        assert!(!done(Some("web"), TaskResult::Failed).is_due_again(None));
    }

    #[test]
    fn one_that_was_started_again_is_asked_again() {
        let accepted = done(Some("web"), TaskResult::Accepted);
        assert!(accepted.is_due_again(Some(&pod("b", "running: {}"))));
        assert!(!accepted.is_due_again(Some(&pod("b", "waiting: {reason: CrashLoopBackOff}"))));
    }
}
