//! The Pod as proa will see it once its containers run.

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStatus, Pod, PodStatus,
};
use proa::pod::object;
use proa::pod::{Snapshot, Unreadable};

use crate::workload::Workload;

/// What proa sees in this container.
///
/// # Errors
/// When the Pod has no such container.
///
/// # Panics
/// Never.
pub fn snapshot(workload: &Workload, container: &str) -> Result<Snapshot, Unreadable> {
    Snapshot::of(&as_sent(&running(&workload.pod)), Some(container), None)
}

/// The Pod as the API server would send it.
fn as_sent(pod: &Pod) -> object::Pod {
    let sent = serde_json::to_value(pod).and_then(serde_json::from_value);
    sent.expect("a Pod of the API is one that proa can read")
}

fn running(pod: &Pod) -> Pod {
    let statuses = |containers: &[Container]| Some(containers.iter().map(status).collect());
    let spec = pod.spec.clone().unwrap_or_default();
    let status = PodStatus {
        container_statuses: statuses(&spec.containers),
        init_container_statuses: statuses(spec.init_containers.as_deref().unwrap_or_default()),
        ..PodStatus::default()
    };
    Pod { status: Some(status), ..pod.clone() }
}

fn status(container: &Container) -> ContainerStatus {
    ContainerStatus {
        name: container.name.clone(),
        state: Some(ContainerState {
            running: Some(ContainerStateRunning::default()),
            ..ContainerState::default()
        }),
        ..ContainerStatus::default()
    }
}
