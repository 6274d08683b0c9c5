//! What else a Pod template shows: time, names, volumes, restart rules.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, Volume};
use proa::pod::DEFAULT_GRACE;
use proa::policy::{AskApi, Limit, ShutdownWhen};
use serde_json::json;

use crate::document::Node;
use crate::entrypoint::{Entrypoint, has_variable, words};
use crate::finding::Finding;
use crate::rules::{
    BINARY_NOT_EXECUTABLE, GRACE_PERIOD_TOO_SHORT, POD_NAME_UNKNOWN, RESTART_RULE_NEVER_MATCHES,
    RETRY_WITHOUT_SIDECAR,
};
use crate::seen::snapshot;
use crate::workload::Workload;

pub(super) fn check(workload: &Workload, entrypoints: &[(String, Entrypoint)]) -> Vec<Finding> {
    let mut found = Vec::new();
    for (_, container) in workload.all() {
        let entrypoint = entrypoints.iter().find(|(name, _)| *name == container.name).map(|(_, found)| found);
        found.extend(sleeps_too_long(workload, container));
        found.extend(restart_rules(workload, container));
        found.extend(retry(workload, container, entrypoint));
        found.extend(volume(workload, container, entrypoint));
        found.extend(long_shutdown(workload, container, entrypoint));
        if entrypoint.is_some_and(asks_api) {
            found.extend(name_unknown(workload, container));
        }
    }
    found
}

/// Whether this proa asks the API server about its Pod.
pub(super) fn asks_api(entrypoint: &Entrypoint) -> bool {
    match entrypoint {
        Entrypoint::Main(plan) => {
            plan.api.ask != AskApi::Off && !plan.disabled && !plan.gate.makes_do_without(plan.api.ask)
        }
        Entrypoint::Wait(plan) => plan.api.ask != AskApi::Off && !plan.disabled && !plan.api_is_dispensable(),
        Entrypoint::Sidecar(plan) => {
            let needs = !plan.gate.selection.wait_for.is_empty()
                || matches!(plan.duty, proa::plan::sidecar::Duty::Help { .. })
                || plan.api.ask == AskApi::Require;
            plan.api.ask != AskApi::Off && !plan.disabled && needs
        }
        Entrypoint::Quit(plan) => plan.api.ask == AskApi::Require,
        Entrypoint::Absent | Entrypoint::Obscure | Entrypoint::Install(_) | Entrypoint::Mistaken(_) => false,
    }
}

fn grace(workload: &Workload) -> Duration {
    let seconds = workload.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    seconds.map_or(DEFAULT_GRACE, |seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(1)))
}

fn longer_grace(workload: &Workload, finding: Finding, needed: u64) -> Finding {
    finding.cured_by(workload.template.field("spec"), json!({"terminationGracePeriodSeconds": needed}))
}

/// A preStop hook counts against the grace period (Pod Lifecycle, "Container hooks").
fn sleeps_too_long(workload: &Workload, container: &Container) -> Option<Finding> {
    let sleep = container.lifecycle.as_ref()?.pre_stop.as_ref()?.sleep.as_ref()?;
    let grace = grace(workload);
    let seconds = u64::try_from(sleep.seconds).unwrap_or(0);
    if seconds < grace.as_secs() || seconds == 0 {
        return None;
    }
    let said = format!(
        "the preStop hook of `{}` sleeps for {seconds}s of a grace period of {}s, and the kubelet kills the container before it has \
         had its stop signal for long; expected a longer terminationGracePeriodSeconds",
        container.name,
        grace.as_secs()
    );
    let at = workload.container(&container.name).field("lifecycle.preStop");
    let finding = Finding::new(&GRACE_PERIOD_TOO_SHORT, workload, at, said).of(&container.name);
    Some(longer_grace(workload, finding, seconds.saturating_add(30)))
}

/// When the Pod is deleted nothing lasts longer than the grace period.
fn long_shutdown(
    workload: &Workload,
    container: &Container,
    entrypoint: Option<&Entrypoint>,
) -> Option<Finding> {
    let shutdown = match entrypoint? {
        Entrypoint::Main(plan) => &plan.shutdown,
        _ => return None,
    };
    let Limit::For(timeout) = shutdown.timeout else { return None };
    let grace = grace(workload);
    if timeout <= grace {
        return None;
    }
    let said = format!(
        "the grace period of {}s is shorter than --shutdown-timeout={}s: when this Pod is deleted, the sidecars have no more than \
         what is left of the grace period; expected a longer terminationGracePeriodSeconds, or a shorter --shutdown-timeout",
        grace.as_secs(),
        timeout.as_secs()
    );
    let at = workload.template.field("spec.terminationGracePeriodSeconds");
    let finding = Finding::new(&GRACE_PERIOD_TOO_SHORT, workload, at, said).of(&container.name);
    Some(longer_grace(workload, finding, timeout.as_secs().saturating_add(5)))
}

/// proa keeps sidecars for a retry where it sees the restart policy, and nothing forbids it.
fn retry(workload: &Workload, container: &Container, entrypoint: Option<&Entrypoint>) -> Option<Finding> {
    let Some(Entrypoint::Main(plan)) = entrypoint else { return None };
    let pod = snapshot(workload, &container.name).ok()?;
    let regular = pod.sidecars.iter().any(|sidecar| !sidecar.native);
    let blind = plan.api.ask == AskApi::Off
        && plan.shutdown.when == ShutdownWhen::Auto
        && !plan.shutdown.actions.is_empty();
    let forced = plan.shutdown.when == ShutdownWhen::Always;
    if !pod.own.restart.after(1)
        || pod.own.restart.always() && !forced
        || plan.disabled
        || !(blind || forced)
        || !(regular || blind)
    {
        return None;
    }
    let why = if forced {
        "--shutdown-when=always"
    } else {
        "--api=off, without which nobody sees the restart policy,"
    };
    let said = format!(
        "`{}` is started again after a failure, and {why} shuts the sidecars down that it needs then; expected --shutdown-when=success",
        container.name
    );
    let field = workload.container(&container.name).field("command");
    let finding = Finding::new(&RETRY_WITHOUT_SIDECAR, workload, field.clone(), said).of(&container.name);
    let Some((_, start)) = words(container).filter(|_| workload.node.get(&field).is_some()) else {
        return Some(finding);
    };
    let command: Vec<_> = container.command.iter().flatten().cloned().collect();
    let (first, rest) = command.split_at(start.min(command.len()));
    let rest = rest.iter().filter(|word| *word != "--shutdown-when=always").cloned();
    let command: Vec<_> =
        first.iter().cloned().chain(["--shutdown-when=success".to_owned()]).chain(rest).collect();
    Some(finding.cured_by(workload.container(&container.name), json!({"command": command})))
}

fn name_unknown(workload: &Workload, container: &Container) -> Option<Finding> {
    let spec = workload.pod.spec.as_ref()?;
    let (all, start) = words(container)?;
    let given = has_variable(container, "POD_NAME")
        || has_variable(container, "PROA_POD_NAME")
        || all[start..].iter().any(|word| word.starts_with("--pod-name"));
    let named = workload.pod.metadata.name.as_deref();
    let hostname =
        spec.hostname.as_deref().filter(|hostname| workload.object.kind != "Pod" || Some(*hostname) != named);
    let field = if spec.host_network == Some(true) {
        "hostNetwork"
    } else if hostname.is_some() {
        "hostname"
    } else if spec.set_hostname_as_fqdn == Some(true) {
        "setHostnameAsFQDN"
    } else {
        return None;
    };
    if given {
        return None;
    }
    let said = format!(
        "with {field} the hostname of `{}` is not the Pod's name, by which proa watches its Pod; expected POD_NAME from metadata.name",
        container.name
    );
    let at = workload.template.field("spec").field(field);
    let value =
        json!({"env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]});
    let under = workload.container(&container.name);
    Some(Finding::new(&POD_NAME_UNKNOWN, workload, at, said).of(&container.name).cured_by(under, value))
}

/// The volume that the binary is in, or is to be copied to.
fn volume(workload: &Workload, container: &Container, entrypoint: Option<&Entrypoint>) -> Option<Finding> {
    let target = match entrypoint? {
        Entrypoint::Absent => return None,
        Entrypoint::Install(to) => to.clone(),
        _ => {
            let (all, start) = words(container)?;
            all.get(start.checked_sub(1)?)?.clone()
        }
    };
    let mounts = container.volume_mounts.iter().flatten().enumerate();
    let below = |path: &str| {
        target == path
            || target.strip_prefix(path.trim_end_matches('/')).is_some_and(|rest| rest.starts_with('/'))
    };
    let (index, mount) = mounts
        .filter(|(_, mount)| below(&mount.mount_path))
        .max_by_key(|(_, mount)| mount.mount_path.len())?;
    let volumes = workload.pod.spec.as_ref()?.volumes.as_deref().unwrap_or_default();
    let volume = volumes.iter().find(|volume| volume.name == mount.name)?;
    let at = workload.container(&container.name).field("volumeMounts").element(index);
    // KEP-5855; the type of an older release does not have the field.
    let options = workload.node.get(&at.field("bindMountOptions")).map_or(&[][..], Node::elements);
    let installs = matches!(entrypoint, Some(Entrypoint::Install(_)));
    let wrong = if !installs && options.iter().any(|option| option.text() == Some("noexec")) {
        "is mounted noexec"
    } else if installs && mount.read_only == Some(true) {
        "is mounted read-only here"
    } else {
        kind(volume, installs)?
    };
    let said = format!(
        "the volume `{}` {wrong}, so that {}; expected an emptyDir that `proa install` has copied the binary to",
        mount.name,
        if installs { "proa cannot be installed to it" } else { "proa cannot be executed from it" }
    );
    let value = json!({"volumes": [{"name": mount.name, "emptyDir": {}}]});
    Some(
        Finding::new(&BINARY_NOT_EXECUTABLE, workload, at, said)
            .of(&container.name)
            .cured_by(workload.template.field("spec"), value),
    )
}

/// Why nothing can be executed from a volume of this kind, or written to it.
fn kind(volume: &Volume, installs: bool) -> Option<&'static str> {
    let executable = |mode: Option<i32>| mode.is_some_and(|mode| mode & 0o111 != 0);
    if let Some(map) = &volume.config_map {
        return (installs || !executable(map.default_mode))
            .then_some("is a ConfigMap, whose files are not executable");
    }
    if let Some(secret) = &volume.secret {
        return (installs || !executable(secret.default_mode))
            .then_some("is a Secret, whose files are not executable");
    }
    if volume.downward_api.is_some() || volume.projected.is_some() {
        return Some("is made of files that are not executable");
    }
    if volume.image.is_some() && installs {
        return Some("is an image, which is read-only");
    }
    None
}

/// Exit codes of a container are 0 to 255.
fn restart_rules(workload: &Workload, container: &Container) -> Vec<Finding> {
    let rules = container.restart_policy_rules.as_deref().unwrap_or_default();
    let at = workload.container(&container.name).field("restartPolicyRules");
    let reason = |index: usize, rule: &ContainerRestartRule| {
        let covered = all_codes().filter(|code| matches(rule, *code)).collect::<Vec<_>>();
        if covered.is_empty() {
            return Some("no exit code matches it, which is from 0 to 255".to_owned());
        }
        let earlier = |code: &i32| rules[..index].iter().any(|earlier| matches(earlier, *code));
        covered
            .iter()
            .all(earlier)
            .then(|| "the rules before it match every exit code that it does".to_owned())
    };
    let finding = |(index, rule): (usize, &ContainerRestartRule)| {
        let said =
            format!("this restart rule of `{}` never matches: {}", container.name, reason(index, rule)?);
        let kept = workload.node.get(&at).map_or(&[][..], Node::elements).iter().enumerate();
        let kept: Vec<_> = kept.filter(|(place, _)| *place != index).map(|(_, rule)| rule.json()).collect();
        let finding = Finding::new(&RESTART_RULE_NEVER_MATCHES, workload, at.element(index), said);
        let under = workload.container(&container.name);
        Some(finding.of(&container.name).cured_by(under, json!({"restartPolicyRules": kept})))
    };
    rules.iter().enumerate().filter_map(finding).collect()
}

fn all_codes() -> impl Iterator<Item = i32> {
    0..=255
}

fn matches(rule: &ContainerRestartRule, code: i32) -> bool {
    let Some(codes) = &rule.exit_codes else { return false };
    let contains = codes.values.iter().flatten().any(|value| *value == code);
    match codes.operator.as_str() {
        "In" => contains,
        "NotIn" => !contains,
        _ => false,
    }
}
