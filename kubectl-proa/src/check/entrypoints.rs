//! Containers in which proa runs: what it would refuse, and what it would warn of.

use proa::cli::manifest;
use proa::known;
use proa::peer::message::Peers;
use proa::pod::mains::{self, Misplaced};
use proa::pod::{ProbeKind, Role, Snapshot, list};
use proa::warnings::{RunsOn, Warning, Why, warnings};
use serde_json::{Value, json};

use crate::document::Path;
use crate::entrypoint::{Entrypoint, variables, words};
use crate::finding::Finding;
use crate::rules::{
    ANNOTATION_MALFORMED, COMMAND_LINE, GRACE_PERIOD_TOO_SHORT, KILL_NOT_SHARED, NO_SUCH_CONTAINER,
    OUT_OF_PLACE, PROBE_DURING_WAIT, QUIT_ENDPOINT_OFF, Rule, SIDECAR_RUNS_ON, SIDECAR_UNPROBED,
    UNKNOWN_VARIABLE,
};
use crate::seen::snapshot;
use crate::workload::Workload;

pub(super) fn check(workload: &Workload, entrypoints: &[(String, Entrypoint)]) -> Vec<Finding> {
    let mut found = Vec::new();
    for (name, entrypoint) in entrypoints {
        let Some((_, container)) = workload.all().find(|(_, container)| container.name == *name) else {
            continue;
        };
        if words(container).is_some() {
            found.extend(unknown_variables(workload, container));
        }
        match entrypoint {
            Entrypoint::Mistaken(said) => found.push(mistaken(workload, name, said)),
            Entrypoint::Absent | Entrypoint::Obscure | Entrypoint::Install(_) | Entrypoint::Quit(_) => {}
            Entrypoint::Main(_) | Entrypoint::Sidecar(_) | Entrypoint::Wait(_) => {
                found.extend(warned(workload, name, entrypoint));
            }
        }
    }
    found
}

fn mistaken(workload: &Workload, name: &str, said: &str) -> Finding {
    let text = said.trim_start_matches("error: ");
    let lines = text.lines().map(str::trim).filter(|line| {
        !line.is_empty()
            && !line.starts_with("Usage:")
            && !line.starts_with("For more information")
            && !line.starts_with("proa ")
    });
    let text = lines.collect::<Vec<_>>().join("; ").replace(":; ", ": ");
    let at = workload.container(name);
    let field = if workload.node.get(&at.field("command")).is_some() { "command" } else { "args" };
    let finding =
        Finding::new(&COMMAND_LINE, workload, at.field(field), format!("proa exits with code 2: {text}"));
    match corrected(workload, name, said) {
        Some(words) => finding.of(name).cured_by(at.field(field), json!({field: words})),
        None => finding.of(name),
    }
}

/// The words with the flag that proa suggests in place of the one it does not know.
fn corrected(workload: &Workload, name: &str, said: &str) -> Option<Value> {
    let quoted = |text: &str| Some(text.split_once('\'')?.1.split_once('\'')?.0.to_owned());
    let wrong = quoted(said.split_once("unexpected argument ")?.1)?;
    let right = quoted(said.split_once("a similar argument exists: ")?.1)?;
    let at = workload.container(name);
    let field = if workload.node.get(&at.field("command")).is_some() { "command" } else { "args" };
    let all = workload.node.get(&at.field(field))?.json();
    let swap = |word: &Value| {
        let text = word.as_str().unwrap_or_default();
        let is_it = text == wrong || text.strip_prefix(&wrong).is_some_and(|rest| rest.starts_with('='));
        if is_it { Value::from(text.replacen(&wrong, &right, 1)) } else { word.clone() }
    };
    let swapped: Vec<_> = all.as_array()?.iter().map(swap).collect();
    (swapped != *all.as_array()?).then_some(Value::Array(swapped))
}

fn unknown_variables(workload: &Workload, container: &k8s_openapi::api::core::v1::Container) -> Vec<Finding> {
    let at = workload.container(&container.name).field("env");
    let place = |name: &str| container.env.iter().flatten().position(|variable| variable.name == name);
    let unknown = manifest::unknown_variables(&variables(container));
    let finding = |unknown: proa::cli::variables::UnknownVariable| {
        let field = place(unknown.name()).map_or(at.clone(), |index| at.element(index));
        let value = workload.node.get(&field.field("value")).map(crate::document::Node::json);
        let finding =
            Finding::new(&UNKNOWN_VARIABLE, workload, field.clone(), unknown.to_string()).of(&container.name);
        match (unknown.nearest(), value) {
            (Some(nearest), Some(value)) => finding.cured_by(field, json!({"name": nearest, "value": value})),
            _ => finding,
        }
    };
    unknown.into_iter().map(finding).collect()
}

/// What this proa would warn of, or refuse for what it sees in the Pod.
fn warned(workload: &Workload, name: &str, entrypoint: &Entrypoint) -> Vec<Finding> {
    let at = workload.container(name);
    let mut pod = match snapshot(workload, name) {
        Ok(pod) => pod,
        Err(unreadable) => {
            let finding = Finding::new(&COMMAND_LINE, workload, at, unreadable.to_string());
            return vec![finding.of(name)];
        }
    };
    let mut found = Vec::new();
    let asked = match entrypoint {
        Entrypoint::Main(plan) => {
            mains::Mains::named(plan.gate.selection.mains.clone()).settle(&mut pod);
            if pod.own.role != Role::Regular {
                found.push(out_of_place(workload, name, match pod.own.role {
                    Role::Init => "`proa -- COMMAND` stands in an init container, which exits before the main containers start; expected `proa wait`, or proa in the main container",
                    _ => "`proa -- COMMAND` stands in a native sidecar; expected `proa sidecar -- COMMAND`",
                }));
                return found;
            }
            plan.asked()
        }
        Entrypoint::Sidecar(plan) => {
            let names = plan.mains.iter().map(|main| main.name.clone()).collect();
            match mains::find(&pod, &plan.mains) {
                // An image's entrypoint may hide proa in one of them, which shows once it runs.
                Err(Misplaced::WhichMain(several))
                    if several.iter().any(|one| may_hide_proa(workload, one)) => {}
                Err(misplaced @ Misplaced::NoSuchMain { .. }) => {
                    found.push(no_such(workload, name, &misplaced.to_string()));
                }
                Err(misplaced) => {
                    found.push(out_of_place(workload, name, &misplaced.to_string()));
                    return found;
                }
                Ok(these) => {
                    let these = these.into_iter().flatten().map(|main| main.name).collect();
                    mains::Mains::named(these).settle(&mut pod);
                }
            }
            mains::Mains::named(names).settle(&mut pod);
            plan.asked()
        }
        Entrypoint::Wait(plan) => {
            let direct = plan.gate.asks_directly() || !plan.gate.selection.wait_exit.is_empty();
            if pod.own.role == Role::Init && pod.sidecars.is_empty() && !direct && !plan.disabled {
                let fix = "no native sidecar stands before it in initContainers, so there is nothing to wait for; expected it behind them, or a direct wait such as --wait-tcp";
                found.push(out_of_place(workload, name, fix));
            }
            plan.asked()
        }
        _ => return Vec::new(),
    };
    let names: Vec<_> = pod.beside().map(|container| container.name.clone()).collect();
    let missing = asked.selection.wait_for.iter().filter(|wanted| !names.contains(wanted));
    found.extend(missing.map(|wanted| {
        let said = format!(
            "--wait-for names `{wanted}`, which is no container beside this one; there are {}",
            list(&names)
        );
        no_such(workload, name, &said)
    }));
    for warning in warnings(&pod, &asked, &Peers::default()) {
        found.push(of_warning(workload, name, &pod, &warning));
    }
    found
}

/// Whether proa may be in it all the same: nothing shows the image's entrypoint.
fn may_hide_proa(workload: &Workload, name: &str) -> bool {
    let container = workload.regular().iter().find(|container| container.name == name);
    container.is_some_and(|container| container.command.as_ref().is_none_or(Vec::is_empty))
}

fn out_of_place(workload: &Workload, name: &str, said: &str) -> Finding {
    Finding::new(&OUT_OF_PLACE, workload, workload.container(name), said.to_owned()).of(name)
}

fn no_such(workload: &Workload, name: &str, said: &str) -> Finding {
    Finding::new(&NO_SUCH_CONTAINER, workload, workload.container(name).field("command"), said.to_owned())
        .of(name)
}

/// A warning of proa's as a finding: the same words, and where to write what helps.
fn of_warning(workload: &Workload, own: &str, pod: &Snapshot, warning: &Warning) -> Finding {
    let at = workload.container(own);
    let metadata = workload.template.field("metadata");
    let said = warning.to_string();
    let finding = |rule: &'static Rule, field: Path| Finding::new(rule, workload, field, said.clone());
    match warning {
        Warning::NoSuchContainer { .. } => finding(&NO_SUCH_CONTAINER, at.field("command")).of(own),
        Warning::Malformed(malformed) => {
            finding(&ANNOTATION_MALFORMED, metadata.field("annotations").key(&malformed.key))
        }
        Warning::Unprobed { names, .. } => {
            let first = workload.container(&names[0]);
            finding(&SIDECAR_UNPROBED, first.clone()).of(&names[0]).cured_by(
                first,
                json!({"readinessProbe": {"tcpSocket": {"port": port(workload, &names[0])}}}),
            )
        }
        Warning::OwnProbe { kind, timeout, .. } => {
            let field = if *kind == ProbeKind::Startup { "startupProbe" } else { "livenessProbe" };
            let found = workload.node.get(&at.field(field)).map(crate::document::Node::json);
            let mut probe = found.unwrap_or(json!({}));
            probe["periodSeconds"] = json!(10);
            let seconds = timeout.map_or(3600, |timeout| timeout.as_secs());
            probe["failureThreshold"] = json!(seconds.div_ceil(10) + 1);
            finding(&PROBE_DURING_WAIT, at.field(field)).of(own).cured_by(at, json!({"startupProbe": probe}))
        }
        Warning::NotShared => {
            let spec = workload.template.field("spec");
            finding(&KILL_NOT_SHARED, at.field("command"))
                .of(own)
                .cured_by(spec, json!({"shareProcessNamespace": true}))
        }
        Warning::ShortGrace { stop_timeout, .. } => {
            let spec = workload.template.field("spec");
            finding(&GRACE_PERIOD_TOO_SHORT, spec.field("terminationGracePeriodSeconds"))
                .of(own)
                .cured_by(spec, json!({"terminationGracePeriodSeconds": stop_timeout.as_secs() + 5}))
        }
        Warning::TooFewRequests { names, .. } => {
            finding(&SIDECAR_RUNS_ON, workload.container(&names[0])).of(&names[0])
        }
        Warning::RunsOn(RunsOn { name, why, .. }) => {
            let rule = if matches!(why, Why::Off(_)) { &QUIT_ENDPOINT_OFF } else { &SIDECAR_RUNS_ON };
            let found = finding(rule, workload.container(name)).of(name);
            match cure(workload, pod, name, why) {
                Some((under, value)) => found.cured_by(under, value),
                None => found,
            }
        }
    }
}

/// What switches a quit endpoint on, or names one.
fn cure(workload: &Workload, pod: &Snapshot, name: &str, why: &Why) -> Option<(Path, Value)> {
    let metadata = workload.template.field("metadata");
    let annotation = |key: &str, value: &str| (metadata.clone(), json!({"annotations": {key: value}}));
    match why {
        Why::Off(needs) => {
            let at = workload.container(name);
            switched_on(workload, needs, &at)
        }
        Why::Unknown => {
            let key = proa::pod::annotations::key(name, "shutdown");
            Some(annotation(&key, &format!("POST http://localhost:{}/quit", port(workload, name))))
        }
        Why::Cannot(_) | Why::Restarted | Why::FlagsForOthers | Why::AutoOff => {
            let sidecar = pod.sidecars.iter().find(|sidecar| sidecar.name == name)?;
            let known = sidecar.known.as_ref().is_none_or(|recognised| recognised.known.may_be_native());
            known.then(|| (workload.container(name), json!({"restartPolicy": "Always"})))
        }
    }
}

/// The annotation or flag that a row of the table asks for, as YAML.
pub(crate) fn switched_on(workload: &Workload, needs: &str, at: &Path) -> Option<(Path, Value)> {
    if let Some(annotation) = needs.strip_prefix("annotation ") {
        let (key, value) = annotation.split_once(": ")?;
        let metadata = workload.template.field("metadata");
        return Some((metadata, json!({"annotations": {key: value.trim_matches('"')}})));
    }
    let flag = needs.split_whitespace().next().filter(|word| word.starts_with("--"))?;
    let field = at.field("args");
    let mut args = workload.node.get(&field).map_or(json!([]), crate::document::Node::json);
    args.as_array_mut()?.insert(0, flag.into());
    Some((at.clone(), json!({"args": args})))
}

/// A port of the container's, or one to replace.
fn port(workload: &Workload, name: &str) -> i32 {
    let container =
        workload.all().find(|(_, container)| container.name == name).map(|(_, container)| container);
    let ports = container.and_then(|container| container.ports.as_deref()).unwrap_or_default();
    ports.first().map_or(8080, |port| port.container_port)
}

/// Whether a container is one of the table's, or its annotations say how to shut it down.
pub(super) fn is_sidecar(pod: &Snapshot, name: &str) -> bool {
    pod.beside().any(|container| container.name == name && container.is_sidecar())
}

/// What the table says is to be switched on for this one.
pub(super) fn needs(known: &known::Recognised) -> Option<&'static str> {
    known.known.needs().filter(|_| known.end_is_off)
}
