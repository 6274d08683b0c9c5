//! Native sidecars: who waits until they are ready, and who ends them too early.

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};
use proa::known::{Readiness, Traffic};
use proa::pod::Sidecar;
use serde_json::{Value, json};

use super::bare::native;
use crate::entrypoint::Entrypoint;
use crate::finding::Finding;
use crate::rules::{HOOK_DRAINS_EARLY, NATIVE_SIDECAR_NOT_AWAITED};
use crate::seen::snapshot;
use crate::workload::Workload;

/// Words of a hook that ends a proxy, or has it take no more connections.
const DRAINS: [&str; 6] = ["drain", "quit", "shutdown", "exit", "kill", "stop"];

pub(super) fn check(workload: &Workload, entrypoints: &[(String, Entrypoint)]) -> Vec<Finding> {
    let Some(main) = workload.regular().first() else { return Vec::new() };
    let Ok(pod) = snapshot(workload, &main.name) else { return Vec::new() };
    let mut found = Vec::new();
    for container in workload.init().iter().filter(|container| is_native(container)) {
        let Some(sidecar) = pod.sidecars.iter().find(|sidecar| sidecar.name == container.name) else {
            continue;
        };
        if starts_unready(container, sidecar) && !is_awaited(workload, entrypoints, &container.name) {
            found.push(not_awaited(workload, container));
        }
        found.extend(drains(workload, container, sidecar));
    }
    found
}

pub(crate) fn is_native(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Whether it has started before it is ready, which somebody wants to know of.
pub(crate) fn starts_unready(container: &Container, sidecar: &Sidecar) -> bool {
    let late = sidecar.known.as_ref().is_some_and(|known| known.readiness == Readiness::AfterApplication);
    // A postStart hook holds the next container up as a startup probe does; meshes wait in theirs.
    let held = container.lifecycle.as_ref().is_some_and(|lifecycle| lifecycle.post_start.is_some());
    container.startup_probe.is_none() && container.readiness_probe.is_some() && !held && !late
}

/// Whether a proa waits for it: in an init container behind it, or in every main container.
pub(crate) fn is_awaited(workload: &Workload, entrypoints: &[(String, Entrypoint)], sidecar: &str) -> bool {
    let entrypoint = |name: &str| entrypoints.iter().find(|(found, _)| found == name).map(|(_, found)| found);
    let behind = workload.init().iter().skip_while(|container| container.name != sidecar).skip(1);
    let waits = |entrypoint: Option<&Entrypoint>| {
        matches!(entrypoint, Some(Entrypoint::Wait(_) | Entrypoint::Obscure | Entrypoint::Mistaken(_)))
    };
    let wrapped = |container: &Container| {
        matches!(
            entrypoint(&container.name),
            Some(
                Entrypoint::Main(_) | Entrypoint::Sidecar(_) | Entrypoint::Obscure | Entrypoint::Mistaken(_)
            )
        )
    };
    let mut behind = behind.map(|container| entrypoint(&container.name));
    behind.any(waits) || workload.regular().iter().all(wrapped)
}

fn not_awaited(workload: &Workload, container: &Container) -> Finding {
    let at = workload.container(&container.name);
    let said = format!(
        "the main container starts when `{}` has started, not when it is ready: its readinessProbe counts for Services alone; \
         expected a startupProbe with the same check, or `proa wait` as the last init container",
        container.name
    );
    let probe = native(workload, &container.name).get("startupProbe").cloned().unwrap_or(Value::Null);
    Finding::new(&NATIVE_SIDECAR_NOT_AWAITED, workload, at.clone(), said)
        .of(&container.name)
        .cured_by(at, json!({"startupProbe": probe}))
}

/// A hook runs when the Pod is deleted, whereas the stop signal waits until the main containers have ended (`killContainer` in
/// `pkg/kubelet/kuberuntime/kuberuntime_container.go`).
fn drains(workload: &Workload, container: &Container, sidecar: &Sidecar) -> Option<Finding> {
    let hook = container.lifecycle.as_ref()?.pre_stop.as_ref()?;
    let carries = sidecar.traffic() == Traffic::Pod;
    if !(carries || sidecar.is_sidecar())
        || !words(hook).iter().any(|word| DRAINS.iter().any(|drain| word.contains(drain)))
    {
        return None;
    }
    let at = workload.container(&container.name).field("lifecycle.preStop");
    let said = format!(
        "the preStop hook of `{}` runs as soon as the Pod is deleted, while the main container still works: the kubelet keeps only \
         the stop signal of a native sidecar back; expected no hook here, since SIGTERM comes once the main containers have exited",
        container.name
    );
    let under = workload.container(&container.name);
    let post_start = workload.node.get(&under.field("lifecycle.postStart"));
    let lifecycle = post_start.map_or(Value::Null, |post_start| json!({"postStart": post_start.json()}));
    Some(
        Finding::new(&HOOK_DRAINS_EARLY, workload, at, said)
            .of(&container.name)
            .cured_by(under, json!({"lifecycle": lifecycle})),
    )
}

fn words(hook: &LifecycleHandler) -> Vec<String> {
    let exec = hook.exec.as_ref().and_then(|exec| exec.command.clone()).unwrap_or_default();
    let get = hook.http_get.as_ref().and_then(|get| get.path.clone());
    exec.into_iter().chain(get).map(|word| word.to_lowercase()).collect()
}
