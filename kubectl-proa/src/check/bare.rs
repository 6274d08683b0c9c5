//! Pods that no proa shuts down: sidecars that keep them from completing.

use proa::known::{End, Recognised};
use proa::pod::{Sidecar, Snapshot};
use serde_json::{Value, json};

use super::entrypoints::{is_sidecar, needs, switched_on};
use crate::document::{Node, Path};
use crate::finding::Finding;
use crate::rules::{QUIT_ENDPOINT_OFF, RETRY_WITHOUT_SIDECAR, SIDECAR_RUNS_ON};
use crate::seen::snapshot;
use crate::workload::Workload;

/// What a command that shuts sidecars down by itself has in it.
const QUITS: [&str; 6] =
    ["quitquitquit", "/agent/v1/quit", ":4191/shutdown", "/v1.0/shutdown", "/quit", "pkill"];

/// Injection that has not happened yet: what asks for it, what rules a sidecar out that runs on, and what switches its quit
/// endpoint on.
const INJECTED: [(&str, &[&str], &str, &str, &str); 2] = [
    (
        "vault.hashicorp.com/agent-inject",
        &["true"],
        "vault.hashicorp.com/agent-pre-populate-only",
        "vault.hashicorp.com/agent-enable-quit",
        "true",
    ),
    (
        "openbao.org/agent-inject",
        &["true"],
        "openbao.org/agent-pre-populate-only",
        "openbao.org/agent-enable-quit",
        "true",
    ),
];

pub(super) fn check(workload: &Workload) -> Vec<Finding> {
    let mut found = injected(workload);
    if !workload.completes() {
        return found;
    }
    // Any container's view will do: it leaves out that one alone.
    let Some(main) = main_container(workload, &[]) else { return found };
    let Ok(pod) = snapshot(workload, &main) else { return found };
    let sidecars = pod.sidecars.iter().filter(|sidecar| !sidecar.native && !sidecar.leaves_last());
    let known: Vec<_> = sidecars.filter_map(|sidecar| Some((sidecar, sidecar.known.as_ref()?))).collect();
    match quits(workload) {
        Some(quitter) => found
            .extend(known.iter().flat_map(|(sidecar, known)| by_script(workload, &quitter, sidecar, known))),
        None => found.extend(known.iter().map(|(sidecar, known)| runs_on(workload, sidecar, known))),
    }
    found
}

/// The first container that is no sidecar. `sidecars`: those that are, though nothing shows it.
pub(crate) fn main_container(workload: &Workload, sidecars: &[String]) -> Option<String> {
    let is_main = |name: &str| {
        if sidecars.iter().any(|sidecar| sidecar == name) {
            return false;
        }
        // Seen from another container; where there is none, it is the main one.
        let other = workload.regular().iter().find(|other| other.name != name);
        let Some(other) = other else { return true };
        snapshot(workload, &other.name).is_ok_and(|pod: Snapshot| !is_sidecar(&pod, name))
    };
    workload.regular().iter().map(|container| container.name.clone()).find(|name| is_main(name))
}

/// The container whose command shuts sidecars down by itself.
fn quits(workload: &Workload) -> Option<String> {
    let quits = |word: &String| QUITS.iter().any(|quit| word.contains(quit));
    let hook = |container: &k8s_openapi::api::core::v1::Container| {
        let exec = container.lifecycle.as_ref()?.pre_stop.as_ref()?.exec.as_ref()?;
        Some(exec.command.iter().flatten().any(quits))
    };
    let of = |container: &&k8s_openapi::api::core::v1::Container| {
        // The sidecar's own flag is no request.
        let words = container.command.iter().chain(&container.args).flatten();
        words.filter(|word| word.contains("://") || word.contains("pkill")).any(quits)
            || hook(container) == Some(true)
    };
    workload.regular().iter().find(of).map(|container| container.name.clone())
}

fn runs_on(workload: &Workload, sidecar: &Sidecar, known: &Recognised) -> Finding {
    let at = workload.container(&sidecar.name);
    let said = format!(
        "nothing shuts down {}, and this Pod does not complete while it runs; expected a native sidecar, or proa in front of the \
         main container's command (`kubectl proa plan` shows how)",
        sidecar.introduction()
    );
    let finding = Finding::new(&SIDECAR_RUNS_ON, workload, at, said).of(&sidecar.name);
    if known.known.may_be_native() {
        let spec = workload.template.field("spec");
        return finding.cured_by(spec, json!({"initContainers": [native(workload, &sidecar.name)]}));
    }
    finding
}

/// The container as a native sidecar.
#[must_use]
pub(crate) fn native(workload: &Workload, name: &str) -> Value {
    let mut container = workload.node.get(&workload.container(name)).map_or(json!({}), Node::json);
    container["restartPolicy"] = json!("Always");
    if container.get("startupProbe").is_none()
        && let Some(mut probe) = container.get("readinessProbe").cloned()
    {
        // One success is all that a startup probe may ask for. A sidecar that is slow is not restarted for it within ten minutes, and
        // the next container starts within a second of its being ready.
        if let Some(fields) = probe.as_object_mut() {
            fields.remove("successThreshold");
        }
        probe["periodSeconds"] = json!(1);
        probe["failureThreshold"] = json!(600);
        container["startupProbe"] = probe;
    }
    container
}

/// A script that shuts sidecars down by itself: whether it can, and what a retry finds.
fn by_script(workload: &Workload, quitter: &str, sidecar: &Sidecar, known: &Recognised) -> Vec<Finding> {
    let mut found = Vec::new();
    let at = workload.container(&sidecar.name);
    if let Some(needs) = needs(known) {
        let said =
            format!("the quit endpoint of {} is switched off; expected {needs}", sidecar.introduction());
        let finding = Finding::new(&QUIT_ENDPOINT_OFF, workload, at.clone(), said).of(&sidecar.name);
        found.push(match switched_on(workload, needs, &at) {
            Some((under, value)) => finding.cured_by(under, value),
            None => finding,
        });
    }
    let leaves = matches!(known.known.end, End::Ask(..));
    if workload.restart_policy() == "OnFailure" && leaves {
        let said = format!(
            "with restartPolicy: OnFailure `{quitter}` is started again after a failure, and the sidecar {} that it has shut down \
             is not; expected restartPolicy: Never, or proa in front of the command, which keeps sidecars for a retry",
            sidecar.introduction()
        );
        let spec = workload.template.field("spec");
        let finding = Finding::new(&RETRY_WITHOUT_SIDECAR, workload, spec.field("restartPolicy"), said);
        found.push(finding.of(quitter).cured_by(spec, json!({"restartPolicy": "Never"})));
    }
    found
}

/// Sidecars that an injector will add.
fn injected(workload: &Workload) -> Vec<Finding> {
    if !workload.completes() {
        return Vec::new();
    }
    let asks = |(asks, values, alone, _, _): &(&str, &[&str], &str, &str, &str)| {
        workload.annotation(asks).is_some_and(|value| values.contains(&value))
            && workload.annotation(alone) != Some("true")
            // It is there already, and looked at itself.
            && workload.annotation(&format!("{asks}-status")).is_none()
    };
    let annotations: Path = workload.template.field("metadata.annotations");
    let off = |(asks, _, alone, enables, value): &(&str, &[&str], &str, &str, &str)| {
        if workload.annotation(enables) == Some(*value) {
            return None;
        }
        let said = format!(
            "the sidecar that {asks} adds keeps this Pod from completing, and its quit endpoint is switched off; expected \
             annotation {enables}: \"{value}\" and proa in front of the command, or {alone}: \"true\" where the secrets need no \
             renewal"
        );
        let finding = Finding::new(&QUIT_ENDPOINT_OFF, workload, annotations.key(asks), said);
        let metadata = workload.template.field("metadata");
        Some(finding.cured_by(metadata, json!({"annotations": {*enables: value}})))
    };
    let mut found: Vec<_> = INJECTED.iter().filter(|row| asks(row)).filter_map(off).collect();
    // Native by default, and then the kubelet's to end.
    let key = "config.linkerd.io/proxy-enable-native-sidecar";
    let shutdown = "config.linkerd.io/proxy-admin-shutdown";
    let injects = workload.annotation("linkerd.io/inject").is_some_and(|value| value != "disabled");
    if injects
        && workload.annotation(key) == Some("false")
        && workload.annotation(shutdown) != Some("enabled")
    {
        let said = format!(
            "Linkerd's proxy will be a regular sidecar here, and its shutdown endpoint is switched off; expected a native \
             sidecar, or annotation {shutdown}: enabled and proa in front of the command"
        );
        let finding = Finding::new(&QUIT_ENDPOINT_OFF, workload, annotations.key(key), said);
        let metadata = workload.template.field("metadata");
        found.push(finding.cured_by(metadata, json!({"annotations": {key: "true"}})));
    }
    found
}
