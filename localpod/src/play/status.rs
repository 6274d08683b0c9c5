//! The Pod's status as the kubelet would report it.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    HostIP, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::state::{Role, Standing, State, Terminated};

const ADDRESS: &str = "127.0.0.1";

/// What the phases are called in the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
}

impl Phase {
    pub(super) fn name(self) -> &'static str {
        match self {
            Phase::Pending => "Pending",
            Phase::Running => "Running",
            Phase::Succeeded => "Succeeded",
            Phase::Failed => "Failed",
        }
    }

    /// The phase of the Pod; `over` once nothing runs and nothing will.
    pub(super) fn of(containers: &[Standing], over: bool) -> Phase {
        let mut mains = containers.iter().filter(|container| container.role == Role::Main);
        if over {
            let well = mains.all(Standing::succeeded);
            return if well { Phase::Succeeded } else { Phase::Failed };
        }
        // A container that waits for its restart has been there, and counts as running.
        let waiting = |container: &Standing| match &container.state {
            State::Created | State::Unpullable => true,
            State::Running(running) => running.hooked,
            _ => false,
        };
        if mains.any(waiting) { Phase::Pending } else { Phase::Running }
    }
}

/// The whole status; conditions keep the time of their last change from `previous`.
pub(super) fn pod_status(
    containers: &[Standing],
    started: Timestamp,
    over: bool,
    previous: Option<&PodStatus>,
) -> PodStatus {
    let phase = Phase::of(containers, over);
    let list = |init: bool| -> Vec<ContainerStatus> {
        let of_list = containers.iter().filter(|container| (container.role != Role::Main) == init);
        of_list.map(|container| container_status(container, containers)).collect()
    };
    let statuses = list(false);
    let init_statuses = list(true);
    let initialized = initialized(containers);
    // Native sidecars count for the Pod's readiness, other init containers do not.
    let unready: Vec<&str> = containers
        .iter()
        .filter(|container| container.role != Role::Init)
        .filter(|container| !container.running().is_some_and(|running| running.ready))
        .map(|container| container.name.as_str())
        .collect();
    let not_ready = match phase {
        _ if unready.is_empty() => None,
        Phase::Succeeded => Some("PodCompleted"),
        Phase::Failed => Some("PodFailed"),
        Phase::Pending | Phase::Running => Some("ContainersNotReady"),
    };
    let unready_message = not_ready
        .filter(|reason| *reason == "ContainersNotReady")
        .map(|_| format!("containers with unready status: [{}]", unready.join(" ")));
    let initialized_reason = match phase {
        Phase::Succeeded => Some("PodCompleted"),
        _ if initialized => None,
        _ => Some("ContainersNotInitialized"),
    };
    let conditions = [
        ("Initialized", initialized, initialized_reason, None),
        ("Ready", unready.is_empty(), not_ready, unready_message.clone()),
        ("ContainersReady", unready.is_empty(), not_ready, unready_message),
        ("PodScheduled", true, None, None),
    ];
    PodStatus {
        phase: Some(phase.name().to_owned()),
        conditions: Some(
            conditions
                .into_iter()
                .map(|(kind, holds, reason, message)| condition(kind, holds, reason, message, previous))
                .collect(),
        ),
        start_time: Some(Time(started)),
        pod_ip: Some(ADDRESS.to_owned()),
        pod_ips: Some(vec![PodIP { ip: ADDRESS.to_owned() }]),
        host_ip: Some(ADDRESS.to_owned()),
        host_ips: Some(vec![HostIP { ip: ADDRESS.to_owned() }]),
        container_statuses: Some(statuses),
        init_container_statuses: Some(init_statuses).filter(|statuses| !statuses.is_empty()),
        qos_class: Some("BestEffort".to_owned()),
        ..PodStatus::default()
    }
}

fn initialized(containers: &[Standing]) -> bool {
    containers.iter().filter(|container| container.role != Role::Main).all(|container| container.passed)
}

fn condition(
    kind: &str,
    holds: bool,
    reason: Option<&str>,
    message: Option<String>,
    previous: Option<&PodStatus>,
) -> PodCondition {
    let status = if holds { "True" } else { "False" };
    let before = previous.iter().flat_map(|status| status.conditions.iter().flatten());
    let unchanged =
        before.into_iter().find(|condition| condition.type_ == kind && condition.status == status);
    let since = unchanged.and_then(|condition| condition.last_transition_time.clone());
    PodCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.map(ToOwned::to_owned),
        message,
        last_transition_time: Some(since.unwrap_or_else(|| Time(Timestamp::now()))),
        ..PodCondition::default()
    }
}

fn container_status(container: &Standing, containers: &[Standing]) -> ContainerStatus {
    let running = container.running().filter(|running| !running.hooked);
    let id = running
        .map(|running| running.id.clone())
        .or_else(|| container.last.as_ref().map(|last| last.id.clone()));
    let waiting = |reason: &str, message: Option<String>| ContainerState {
        waiting: Some(ContainerStateWaiting { reason: Some(reason.to_owned()), message }),
        ..ContainerState::default()
    };
    let current = match (&container.state, running, &container.last) {
        (_, Some(running), _) => ContainerState {
            running: Some(ContainerStateRunning { started_at: Some(Time(running.since)) }),
            ..ContainerState::default()
        },
        (State::BackOff { message }, ..) => waiting("CrashLoopBackOff", Some(message.clone())),
        (State::Unpullable, ..) => {
            waiting("ImagePullBackOff", Some(format!("Back-off pulling image \"{}\"", container.image)))
        }
        (State::Again | State::Ended, _, Some(last)) => terminated(last),
        // Init containers hold up the others under another name.
        _ if container.role == Role::Main && initialized(containers) => waiting("ContainerCreating", None),
        _ => waiting("PodInitializing", None),
    };
    let is_current = current.terminated.is_some();
    ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone(),
        image_id: String::new(),
        container_id: id,
        last_state: Some(container.last.as_ref().filter(|_| !is_current).map(terminated).unwrap_or_default()),
        // An init container that has done its work is ready, and stays so.
        ready: match container.role {
            Role::Init => container.succeeded(),
            Role::Sidecar | Role::Main => running.is_some_and(|running| running.ready),
        },
        started: Some(running.is_some_and(|running| running.started)),
        restart_count: container.restarts,
        state: Some(current),
        ..ContainerStatus::default()
    }
}

fn terminated(last: &Terminated) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: Some(last.id.clone()),
            exit_code: last.code,
            reason: Some(last.reason.to_owned()),
            message: last.message.clone(),
            started_at: Some(Time(last.started_at)),
            finished_at: Some(Time(last.finished_at)),
            signal: None,
        }),
        ..ContainerState::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::state::tests::{end, run, standing};
    use super::*;

    fn status(containers: &[Standing], over: bool) -> PodStatus {
        pod_status(containers, Timestamp::UNIX_EPOCH, over, None)
    }

    fn waiting_reason(status: &ContainerStatus) -> Option<&str> {
        status.state.as_ref()?.waiting.as_ref()?.reason.as_deref()
    }

    fn is_true(status: &PodStatus, kind: &str) -> bool {
        let mut conditions = status.conditions.iter().flatten();
        conditions.any(|condition| condition.type_ == kind && condition.status == "True")
    }

    #[test]
    fn a_pod_is_pending_until_its_mains_have_started() {
        let mut pod = [standing("init", Role::Init), standing("main", Role::Main)];
        let pending = status(&pod, false);
        assert_eq!(pending.phase.as_deref(), Some("Pending"));
        assert_eq!(
            waiting_reason(&pending.container_statuses.expect("statuses")[0]),
            Some("PodInitializing")
        );
        end(&mut pod[0], 0);
        let created = status(&pod, false);
        assert!(is_true(&created, "Initialized"));
        assert_eq!(
            waiting_reason(&created.container_statuses.expect("statuses")[0]),
            Some("ContainerCreating")
        );
        run(&mut pod[1], true, false);
        assert_eq!(status(&pod, false).phase.as_deref(), Some("Running"));
    }

    #[test]
    fn a_pod_is_ready_when_mains_and_sidecars_are() {
        let mut pod = [standing("sidecar", Role::Sidecar), standing("main", Role::Main)];
        run(&mut pod[0], true, false);
        run(&mut pod[1], true, true);
        assert!(!is_true(&status(&pod, false), "Ready"));
        run(&mut pod[0], true, true);
        assert!(is_true(&status(&pod, false), "Ready"));
    }

    #[test]
    fn a_crash_loop_waits_and_remembers_how_it_ended() {
        let mut pod = [standing("main", Role::Main)];
        end(&mut pod[0], 3);
        pod[0].state = State::BackOff { message: "back-off 10s".to_owned() };
        let status = status(&pod, false);
        assert_eq!(status.phase.as_deref(), Some("Running"));
        let container = &status.container_statuses.expect("statuses")[0];
        assert_eq!(waiting_reason(container), Some("CrashLoopBackOff"));
        let last =
            container.last_state.as_ref().and_then(|state| state.terminated.as_ref()).expect("a last state");
        assert_eq!(last.exit_code, 3);
    }

    #[test]
    fn the_code_of_a_sidecar_does_not_matter_to_the_pod() {
        let mut pod = [standing("sidecar", Role::Sidecar), standing("main", Role::Main)];
        end(&mut pod[0], 143);
        end(&mut pod[1], 0);
        assert_eq!(status(&pod, true).phase.as_deref(), Some("Succeeded"));
        end(&mut pod[1], 1);
        assert_eq!(status(&pod, true).phase.as_deref(), Some("Failed"));
    }
}
