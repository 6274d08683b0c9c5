//! What proa would do in a container, as far as its manifest tells.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Container;
use proa::cli::{Task, manifest};
use proa::known;
use proa::plan::quit::QuitPlan;
use proa::plan::sidecar::SidecarPlan;
use proa::plan::wait::WaitPlan;
use proa::plan::{Environment, Invalid, Plan, VARIABLES};

/// What proa does in a container.
#[derive(Debug)]
pub enum Entrypoint {
    /// It is not there, or cannot be seen.
    Absent,
    /// It is there, and what it would do depends on what only the cluster knows.
    Obscure,
    /// It runs a main container's command.
    Main(Box<Plan>),
    /// It runs a sidecar's command, or helps.
    Sidecar(Box<SidecarPlan>),
    /// It waits.
    Wait(Box<WaitPlan>),
    /// It shuts sidecars down.
    Quit(Box<QuitPlan>),
    /// It copies itself there.
    Install(String),
    /// It would refuse to do anything, and say this.
    Mistaken(String),
}

/// Where proa's own words begin among `command` and `args`.
#[must_use]
pub fn words(container: &Container) -> Option<(Vec<String>, usize)> {
    let all: Vec<_> = container.command.iter().chain(&container.args).flatten().cloned().collect();
    let shown = container.command.as_ref().is_some_and(|command| !command.is_empty());
    if shown {
        let is_proa = |place: usize| {
            let first = place == 0 || all[place - 1] == "--";
            first && all[place].rsplit('/').next() == Some("proa")
        };
        let place = (0..all.len()).find(|place| is_proa(*place))?;
        return Some((all, place + 1));
    }
    let image = container.image.as_deref().unwrap_or_default();
    let repository = image.split('@').next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
    let words: Vec<_> = all.iter().map(String::as_str).collect();
    let is_its_image = repository.split(':').next() == Some("proa");
    let hidden = is_its_image || !words.is_empty() && known::are_main_arguments(&words);
    hidden.then_some((all, 0))
}

/// Whether a hook of the container's runs proa.
#[must_use]
pub fn is_in_hook(container: &Container) -> bool {
    let lifecycle = container.lifecycle.as_ref();
    let hooks = lifecycle.into_iter().flat_map(|lifecycle| [&lifecycle.pre_stop, &lifecycle.post_start]);
    let commands = hooks.flatten().filter_map(|hook| hook.exec.as_ref()?.command.as_ref());
    commands.flatten().any(|word| word.rsplit('/').next() == Some("proa"))
}

/// Whether a script among its words runs proa: what a shell makes of it is not looked at here.
fn is_in_script(container: &Container) -> bool {
    let words = container.command.iter().chain(&container.args).flatten();
    let is_part = |c: char| c.is_alphanumeric() || "-_./".contains(c);
    let mut parts =
        words.filter(|word| word.contains(char::is_whitespace)).flat_map(|word| word.split(|c| !is_part(c)));
    parts.any(|part| part.rsplit('/').next() == Some("proa"))
}

/// Variables whose values the manifest has.
#[must_use]
pub fn variables(container: &Container) -> BTreeMap<String, String> {
    let env = container.env.iter().flatten();
    env.filter(|variable| variable.value_from.is_none())
        .map(|variable| (variable.name.clone(), variable.value.clone().unwrap_or_default()))
        .collect()
}

/// Whether a variable has a value, whoever gives it.
#[must_use]
pub fn has_variable(container: &Container, name: &str) -> bool {
    let has = |variable: &k8s_openapi::api::core::v1::EnvVar| {
        variable.name == name
            && (variable.value_from.is_some() || variable.value.as_deref().is_some_and(|v| !v.is_empty()))
    };
    container.env.iter().flatten().any(has)
}

/// What proa does there.
#[must_use]
pub fn entrypoint(container: &Container) -> Entrypoint {
    let Some((all, start)) = words(container) else {
        return if is_in_script(container) { Entrypoint::Obscure } else { Entrypoint::Absent };
    };
    let variables = variables(container);
    let words: Vec<_> = all[start..].iter().map(|word| expanded(word, &variables)).collect();
    let end = words.iter().position(|word| word == "--").unwrap_or(words.len());
    // Only the cluster knows what stands there, or what else is set.
    let is_ours = |name: &str| name.starts_with("PROA_");
    let obscure = words[..end].iter().any(|word| word.contains("$("))
        || container
            .env
            .iter()
            .flatten()
            .any(|variable| variable.value_from.is_some() && is_ours(&variable.name))
        || variables.iter().any(|(name, value)| is_ours(name) && value.contains("$("));
    let task = match manifest::read(&words, &variables) {
        Ok(Some(task)) => task,
        Ok(None) => return Entrypoint::Absent,
        Err(_) if obscure => return Entrypoint::Obscure,
        Err(said) => return Entrypoint::Mistaken(said),
    };
    match planned(task, container) {
        Ok(entrypoint) => entrypoint,
        Err(_) if obscure => Entrypoint::Obscure,
        Err(invalid) => Entrypoint::Mistaken(invalid.to_string()),
    }
}

fn planned(task: Task, container: &Container) -> Result<Entrypoint, Invalid> {
    // That they have a value matters, not which.
    let environment: Environment = VARIABLES
        .into_iter()
        .filter(|name| name.starts_with("POD_") && has_variable(container, name))
        .map(|name| (name.to_owned(), "given".to_owned()))
        .collect();
    Ok(match task {
        Task::Main(cli) => Entrypoint::Main(Box::new(Plan::new(*cli, &environment)?)),
        Task::Sidecar(cli) => Entrypoint::Sidecar(Box::new(SidecarPlan::new(*cli, &environment)?)),
        Task::Wait(cli) => Entrypoint::Wait(Box::new(WaitPlan::new(*cli, &environment)?)),
        Task::Quit(cli) => Entrypoint::Quit(Box::new(QuitPlan::new(*cli, &environment)?)),
        Task::Install(destination) => Entrypoint::Install(destination.to_string_lossy().into_owned()),
    })
}

/// A word with the container's own variables in it, as the kubelet expands `$(NAME)`; `$$` is one dollar.
fn expanded(word: &str, variables: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    let mut rest = word;
    while let Some((before, after)) = rest.split_once('$') {
        text.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            text.push('$');
            rest = after;
            continue;
        }
        let reference = after.strip_prefix('(').and_then(|inner| inner.split_once(')'));
        let value = reference.and_then(|(name, behind)| Some((variables.get(name)?, behind)));
        text.push_str(value.map_or("$", |(value, _)| value));
        rest = value.map_or(after, |(_, behind)| behind);
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(container: &serde_json::Value) -> Entrypoint {
        entrypoint(&serde_json::from_value(container.clone()).unwrap())
    }

    #[test]
    fn proa_is_found_wherever_it_stands() {
        let main = |container| matches!(of(&container), Entrypoint::Main(_));
        assert!(main(json!({"name": "m", "command": ["/proa", "--", "app"]})));
        assert!(main(json!({"name": "m", "command": ["/bin/proa"], "args": ["--wait-for=x", "--", "app"]})));
        assert!(main(json!({"name": "m", "command": ["tini", "--", "/proa", "--", "app"]})));
        assert!(main(json!({"name": "m", "image": "app", "args": ["--wait-for=x", "--", "app"]})));
        let absent = |container| matches!(of(&container), Entrypoint::Absent);
        assert!(absent(json!({"name": "m", "image": "app", "args": ["--port=1", "--", "app"]})));
        assert!(absent(json!({"name": "m", "command": ["ls", "/proa"]})));
        assert!(absent(json!({"name": "m", "command": ["sh", "-c", "exec /app/proa-like --"]})));
        let script = json!({"name": "m", "command": ["sh", "-c", "cd /tmp; exec '/bin/proa' -- app"]});
        assert!(matches!(of(&script), Entrypoint::Obscure));
        let wait = json!({"name": "w", "image": "r.example/team/proa:1", "args": ["wait", "--api=off"]});
        assert!(matches!(of(&wait), Entrypoint::Wait(_)));
        let install = json!({"name": "i", "image": "proa", "args": ["install", "/bin/x"]});
        assert!(matches!(of(&install), Entrypoint::Install(to) if to == "/bin/x"));
    }

    #[test]
    fn what_only_the_cluster_knows_is_no_mistake() {
        let address = json!({"name": "w", "command": ["proa", "wait", "--wait-http-get=http://$(POD_IP):$(PORT)/"],
            "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}, {"name": "PORT", "value": "80"}]});
        assert!(matches!(of(&address), Entrypoint::Obscure | Entrypoint::Wait(_)));
        let known = json!({"name": "w", "command": ["proa", "wait", "--wait-tcp=localhost:$(PORT)"],
            "env": [{"name": "PORT", "value": "many"}]});
        assert!(matches!(of(&known), Entrypoint::Mistaken(_)));
        assert_eq!(expanded("a$$(B)$(B)$(C)$", &[("B".to_owned(), "x".to_owned())].into()), "a$(B)x$(C)$");
    }
}
