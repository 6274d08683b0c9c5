//! Which well-known sidecar a container is, as its manifest tells.

use std::collections::BTreeMap;

use super::object::{Container, ContainerPort, IntOrString, Pod};
use crate::known::{self, Recognised};

/// How much variables may add to a word: a shell's script with all that it is about.
const LONGEST_WORD: usize = 64 * 1024;

pub(super) fn recognise(pod: &Pod, container: &Container) -> Option<Recognised> {
    let variables = variables(container);
    let words = words(container, &variables);
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let probes = [&container.readiness_probe, &container.startup_probe];
    let none = BTreeMap::new();
    known::recognise(&known::Container {
        name: &container.name,
        image: container.image.as_deref().unwrap_or_default(),
        words: &words,
        variables: &variables,
        referenced: &container
            .env
            .iter()
            .flatten()
            .filter(|variable| variable.value_from.is_some())
            .map(|variable| variable.name.as_str())
            .collect::<Vec<_>>(),
        has_env_from: container.env_from.as_ref().is_some_and(|from| !from.is_empty()),
        probes: &probes
            .into_iter()
            .flatten()
            .filter_map(|probe| {
                let get = probe.http_get.as_ref()?;
                Some((get.path.as_deref()?, port(container, &get.port)?))
            })
            .collect::<Vec<_>>(),
        annotations: pod.metadata.annotations.as_ref().unwrap_or(&none),
    })
}

/// Whether proa stands in front of its command: by its words, or its image's entrypoint as in `own`, our own container.
pub(super) fn runs_proa(container: &Container, own: &Container) -> bool {
    let words = words(container, &variables(container));
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let hidden = |container: &Container| container.command.as_ref().is_none_or(Vec::is_empty);
    known::is_main_entrypoint(&words) || hidden(container) && hidden(own) && known::are_main_arguments(&words)
}

/// Whether the proa in front of its command is switched off, as far as the manifest tells.
pub(super) fn is_disabled(container: &Container) -> bool {
    let variables = variables(container);
    let by_variable = variables.iter().rev().find(|(name, _)| *name == "PROA_DISABLED");
    let by_variable = by_variable.is_some_and(|(_, value)| matches!(*value, "1" | "true" | "yes"));
    let words = words(container, &variables);
    by_variable || words.iter().take_while(|word| *word != "--").any(|word| word == "--disabled")
}

fn variables(container: &Container) -> Vec<(&str, &str)> {
    let variables = container.env.iter().flatten();
    variables.filter_map(|variable| Some((variable.name.as_str(), variable.value.as_deref()?))).collect()
}

/// The words of `command` and `args`. What a shell is given is taken apart, if roughly: `sh -c "exec /cloud-sql-proxy
/// --admin-port=9191"`.
fn words(container: &Container, variables: &[(&str, &str)]) -> Vec<String> {
    let words = container.command.iter().chain(&container.args).flatten();
    let words = words.map(|word| expanded(word, variables));
    words.flat_map(|word| word.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// A word of `command` or `args` with the container's own variables in it, as the kubelet expands `$(NAME)`: a variable may
/// refer to those before it. One that would make the word longer than anything that is looked for stays as it is, since some
/// twenty that each refer twice to the one before come to gigabytes.
fn expanded(word: &str, variables: &[(&str, &str)]) -> String {
    let mut word = word.to_owned();
    for (name, value) in variables.iter().rev() {
        if !word.contains("$(") {
            break;
        }
        let reference = format!("$({name})");
        let references = word.matches(&reference).count();
        if references > 0 && references.saturating_mul(value.len()) <= LONGEST_WORD {
            word = word.replace(&reference, value);
        }
    }
    word
}

/// A probe's port is a number, or the name of one of the container's ports.
pub(super) fn port(container: &Container, port: &IntOrString) -> Option<u16> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let named = |port: &&ContainerPort| port.name.as_deref() == Some(name);
            container.ports.iter().flatten().find(named)?.container_port
        }
    };
    u16::try_from(number).ok().filter(|port| *port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::tests::pod;

    #[test]
    fn the_manifest_tells_whether_a_proa_is_switched_off() {
        let pod = pod("
spec:
  containers:
  - {name: a, image: a, command: [/proa, --disabled, --, work]}
  - {name: b, image: a, command: [/proa, --, work], env: [{name: PROA_DISABLED, value: '1'}]}
  - {name: c, image: a, command: [/proa, --, work, --disabled]}
  - {name: d, image: a, command: [/proa, --, work], env: [{name: PROA_DISABLED, value: '0'}]}
");
        let containers = &pod.spec.as_ref().unwrap().containers;
        let disabled: Vec<_> = containers.iter().map(is_disabled).collect();
        assert_eq!(disabled, [true, true, false, false]);
    }

    #[test]
    fn variables_are_expanded_in_their_order_and_in_bounded_memory() {
        let variables =
            [("PORT", "9191"), ("FLAG", "--admin-port=$(PORT)"), ("LATER", "$(LAST)"), ("LAST", "x")];
        assert_eq!(expanded("$(FLAG) $(LATER) $(NONE)", &variables), "--admin-port=9191 $(LAST) $(NONE)");
        let names: Vec<_> = (0..64).map(|number| format!("V{number}")).collect();
        let values: Vec<_> = names.iter().map(|name| format!("$({name})$({name})")).collect();
        let variables: Vec<_> =
            names[1..].iter().zip(&values).map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert!(expanded("$(V63)", &variables).len() < 1 << 20);
    }

    #[test]
    fn nothing_listens_on_port_0() {
        let container = Container::default();
        for (number, expected) in
            [(0, None), (1, Some(1)), (65_535, Some(65_535)), (65_536, None), (-1, None)]
        {
            assert_eq!(port(&container, &IntOrString::Int(number)), expected);
        }
    }

    #[test]
    fn the_manifest_tells_which_sidecar_and_where_it_listens() {
        let pod = pod("
metadata: {annotations: {status.sidecar.istio.io/port: '15420'}}
spec:
  containers:
  - name: proxy
    image: envoyproxy/envoy
    ports: [{name: admin, containerPort: 19000}]
    readinessProbe: {httpGet: {path: /ready, port: admin}}
  - {name: istio-proxy, image: auto}
  - name: sql
    image: cloud-sql-connectors/cloud-sql-proxy:2
    command: [/cloud-sql-proxy]
    args: [--quitquitquit, --admin-port, '9191', p:r:i]
  - name: by-variable
    image: cloud-sql-connectors/cloud-sql-proxy:2
    env: [{name: ADMIN, value: '9192'}]
    args: [--admin-port=9190, --admin-port=$(ADMIN)]
  - name: by-shell
    image: cloud-sql-connectors/cloud-sql-proxy:2
    command: [sh, -c, exec /cloud-sql-proxy --admin-port=9193 p:r:i]
  - {name: app, image: app}
");
        let containers = &pod.spec.as_ref().unwrap().containers;
        assert!(!containers.iter().any(is_disabled));
        let ends: Vec<_> =
            containers.iter().map(|container| Some(recognise(&pod, container)?.end?.to_string())).collect();
        assert_eq!(
            ends.iter().map(Option::as_deref).collect::<Vec<_>>(),
            [
                Some("POST http://localhost:19000/quitquitquit"),
                Some("POST http://localhost:15420/quitquitquit"),
                Some("POST http://localhost:9191/quitquitquit"),
                Some("POST http://localhost:9192/quitquitquit"),
                Some("POST http://localhost:9193/quitquitquit"),
                None,
            ]
        );
    }
}
