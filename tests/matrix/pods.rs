//! The Pod, and how it changes.

use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStatus, Pod,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{Timestamp, ToSpan};
use localpod::Cluster;

use super::cell::Mode;
use super::trouble::Fate;

/// Longer than any machine has been up.
const YEARS: i64 = 20;

/// Puts the Pod of a mode into the cluster: all containers run, and the sidecar is not ready where that is waited for.
pub(crate) fn create(cluster: &Cluster, mode: Mode, name: &str) -> Result<()> {
    let (own, own_status) = match mode.container() {
        "main" => (String::new(), String::new()),
        name => (
            format!("{{name: {name}, image: i, command: [/proa, sidecar]}}, "),
            format!("{{name: {name}, image: i, ready: true, {RUNNING}}}, "),
        ),
    };
    let ready = !mode.has_gate();
    let yaml = format!(
        "
metadata: {{name: {name}, namespace: default}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 5
  containers: [{own}{{name: main, image: i}}, {{name: web, image: i}}]
status:
  phase: Running
  containerStatuses: [{own_status}{{name: main, image: i, ready: true, {RUNNING}}}, {{name: web, image: i, ready: {ready}, {RUNNING}}}]
"
    );
    cluster.apply(serde_saphyr::from_str(&yaml)?);
    Ok(())
}

const RUNNING: &str = "imageID: i, restartCount: 0, state: {running: {}}";

/// Changes the status of a container, or of all.
fn change_status(
    cluster: &Cluster,
    pod: &str,
    container: Option<&str>,
    change: impl Fn(&mut ContainerStatus),
) {
    cluster.update("default", pod, |pod| {
        let statuses = pod.status.iter_mut().flat_map(|status| &mut status.container_statuses).flatten();
        statuses.filter(|status| container.is_none_or(|name| status.name == name)).for_each(&change);
    });
}

pub(crate) fn ready(cluster: &Cluster, pod: &str, ready: bool) {
    change_status(cluster, pod, Some("web"), |status| status.ready = ready);
}

/// Whether the Pod shows the sidecar as ready.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    statuses(pod).any(|status| status.name == "web" && status.ready)
}

/// Whether the Pod shows the end of the container.
pub(crate) fn has_ended(pod: &Pod, container: &str) -> bool {
    let is_over =
        |status: &ContainerStatus| status.state.as_ref().is_some_and(|state| state.terminated.is_some());
    statuses(pod).any(|status| status.name == container && is_over(status))
}

fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    pod.status.iter().flat_map(|status| &status.container_statuses).flatten()
}

/// The container ends with this code.
pub(crate) fn end(cluster: &Cluster, pod: &str, container: &str, code: i32) {
    change_status(cluster, pod, Some(container), |status| {
        let reason = (code == 137).then(|| "OOMKilled".to_owned());
        let terminated = ContainerStateTerminated { exit_code: code, reason, ..Default::default() };
        status.ready = false;
        status.state = Some(ContainerState { terminated: Some(terminated), ..Default::default() });
    });
}

/// What becomes of the Pod `pod`.
pub(crate) fn befall(cluster: &Cluster, mode: Mode, fate: Fate) -> Result<()> {
    match fate {
        Fate::Deleted => cluster.mark_deleted("default", "pod", Duration::from_secs(30)),
        Fate::Removed => cluster.remove("default", "pod"),
        Fate::Replaced => {
            cluster.remove("default", "pod");
            create(cluster, mode, "pod")?;
        }
        Fate::OutOfMemory => end(cluster, "pod", "web", 137),
        Fate::Flapping => (0..10).for_each(|turn| ready(cluster, "pod", turn % 2 == 0)),
        Fate::NoStatus => cluster.update("default", "pod", |pod| pod.status = None),
        Fate::StartedAhead | Fate::StartedBehind => {
            let at = years(if fate == Fate::StartedAhead { YEARS } else { -YEARS })?;
            change_status(cluster, "pod", None, |status| {
                if let Some(running) = status.state.as_mut().and_then(|state| state.running.as_mut()) {
                    *running = ContainerStateRunning { started_at: Some(at.clone()) };
                }
            });
        }
        Fate::DeletedAhead | Fate::DeletedBehind => {
            let at = years(if fate == Fate::DeletedAhead { YEARS } else { -YEARS })?;
            cluster.update("default", "pod", |pod| {
                pod.metadata.deletion_timestamp = Some(at);
                pod.metadata.deletion_grace_period_seconds = Some(30);
            });
        }
    }
    Ok(())
}

fn years(years: i64) -> Result<Time> {
    Ok(Time(Timestamp::now().checked_add((years * 365 * 24).hours())?))
}
