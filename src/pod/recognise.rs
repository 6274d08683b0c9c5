//! Which well-known sidecar a container is, as its manifest tells.

use std::collections::BTreeMap;

use super::KnownBy;
use super::object::{Container, ContainerPort, EnvVar, IntOrString, Pod};
use crate::known::{self, Recognised};
use crate::policy::switch;

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

/// The variable that switches proa off.
const SWITCH: &str = "PROA_DISABLED";

/// What the manifest of a container that proa runs in shows: whether it is switched off there, as the command line would take it.
pub(super) fn main_by(container: &Container) -> KnownBy {
    let words = words(container, &variables(container));
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    // An image's entrypoint may hide proa, and then its flags come first.
    let own = || words.iter().position(|word| *word == "--").unwrap_or(words.len());
    let (before, flags) = known::main_entrypoint(&words).unwrap_or_else(|| (&[], &words[..own()]));
    if flags.contains(&"--disabled") {
        return KnownBy::Disabled;
    }
    // `env PROA_DISABLED=1 proa`, and what else a shell may do.
    if before.iter().any(|word| word.contains(SWITCH)) {
        return KnownBy::Doubtful;
    }
    // The last of a name counts, and wins over all that `envFrom` holds (Container API reference).
    let set = container.env.as_deref().unwrap_or_default();
    let Some(at) = set.iter().rposition(|variable| variable.name == SWITCH) else {
        let sources = container.env_from.iter().flatten();
        let may_hold = sources.map(|source| source.prefix.as_deref().unwrap_or_default());
        let may_hold = may_hold.into_iter().any(|prefix| SWITCH.starts_with(prefix));
        return if may_hold { KnownBy::Doubtful } else { KnownBy::Command };
    };
    if set[at].value_from.is_some() {
        return KnownBy::Doubtful;
    }
    let value = expanded(set[at].value.as_deref().unwrap_or_default(), &values(&set[..at]));
    match switch(&value) {
        // An empty variable counts as unset.
        _ if value.trim().is_empty() => KnownBy::Command,
        Ok(true) => KnownBy::Disabled,
        Ok(false) => KnownBy::Command,
        // A reference to something that the manifest does not show, or a mistake.
        Err(_) => KnownBy::Doubtful,
    }
}

fn variables(container: &Container) -> Vec<(&str, &str)> {
    values(container.env.as_deref().unwrap_or_default())
}

fn values(variables: &[EnvVar]) -> Vec<(&str, &str)> {
    let variables = variables.iter();
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
        if references.saturating_mul(value.len()) <= LONGEST_WORD {
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
  - {name: off, image: a, command: [/proa, --disabled, --, work]}
  - {name: on, image: a, command: [/proa, --, work, --disabled]}
  - {name: off, image: a, args: [--disabled, --, work]}
  - {name: on, image: a, args: [--, work, --disabled]}
  - {name: off, image: a, command: [tini, --, /proa, --disabled, --, work]}
  - {name: off, image: a, command: [sh, -c, x -- y; exec proa --disabled -- work]}
  - {name: on, image: a, command: [tini, --disabled, --, /proa, --, work]}
  - {name: doubt, image: a, command: [env, PROA_DISABLED=1, /proa, --, work]}
  - {name: doubt, image: a, command: [sh, -c, export PROA_DISABLED=1; exec proa -- work]}
");
        assert_all_as_named(&pod);
        for (value, known_by) in [
            ("1", KnownBy::Disabled),
            ("True", KnownBy::Disabled),
            (" YES ", KnownBy::Disabled),
            ("$(OFF)", KnownBy::Disabled),
            ("0", KnownBy::Command),
            ("No", KnownBy::Command),
            ("", KnownBy::Command),
            (" ", KnownBy::Command),
            ("$(UNKNOWN)", KnownBy::Doubtful),
            ("$(LATER)", KnownBy::Doubtful),
            ("maybe", KnownBy::Doubtful),
        ] {
            let env = |name: &str, value: &str| EnvVar {
                name: name.into(),
                value: Some(value.into()),
                value_from: None,
            };
            let container = Container {
                env: Some(vec![env("OFF", "yes"), env("PROA_DISABLED", value), env("LATER", "1")]),
                ..Container::default()
            };
            assert_eq!(main_by(&container), known_by, "{value:?}");
        }
    }

    fn assert_all_as_named(pod: &Pod) {
        for container in &pod.spec.as_ref().unwrap().containers {
            let expected = match container.name.as_str() {
                "off" => KnownBy::Disabled,
                "on" => KnownBy::Command,
                _ => KnownBy::Doubtful,
            };
            assert_eq!(main_by(container), expected, "{container:?}");
        }
    }

    #[test]
    fn what_the_manifest_does_not_show_may_switch_proa_off() {
        let pod = pod("
spec:
  containers:
  - {name: doubt, image: a, envFrom: [{secretRef: {name: s}}]}
  - {name: doubt, image: a, envFrom: [{prefix: X_, secretRef: {name: s}}, {prefix: PROA_, configMapRef: {name: c}}]}
  - {name: on, image: a, envFrom: [{prefix: X_, secretRef: {name: s}}]}
  - {name: on, image: a, envFrom: []}
  - {name: on, image: a, env: [{name: PROA_DISABLED, value: '0'}], envFrom: [{secretRef: {name: s}}]}
  - {name: off, image: a, env: [{name: PROA_DISABLED, value: '1'}], envFrom: [{secretRef: {name: s}}]}
  - {name: doubt, image: a, env: [{name: PROA_DISABLED, valueFrom: {secretKeyRef: {name: s, key: k, optional: true}}}]}
  - {name: on, image: a, env: [{name: OTHER, valueFrom: {secretKeyRef: {name: s, key: k}}}]}
");
        assert_all_as_named(&pod);
    }

    /// Else every container whose own flags are among ours would be taken for a main one.
    #[test]
    fn arguments_alone_show_proa_only_where_our_own_image_hides_it_too() {
        let pod = pod("
spec:
  containers:
  - {name: hidden, image: a, args: [--wait-for=db, --, work]}
  - {name: emptied, image: a, command: [], args: [--wait-for=db, --, work]}
  - {name: shown, image: a, command: [/proa], args: [--wait-for=db, --, work]}
  - {name: named, image: a, command: [/bin/serve], args: [--ignore=x, --, work]}
  - {name: app, image: a, args: [work]}
");
        let containers = &pod.spec.as_ref().unwrap().containers;
        let mains = |own: usize| {
            let mains = containers.iter().filter(|container| runs_proa(container, &containers[own]));
            mains.map(|container| container.name.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(mains(0), ["hidden", "emptied", "shown"]);
        assert_eq!(mains(1), ["hidden", "emptied", "shown"]);
        assert_eq!(mains(2), ["shown"]);
    }

    #[test]
    fn what_the_manifest_does_not_show_may_switch_a_request_on() {
        let pod = pod("
spec:
  containers:
  - {name: off, image: cloud-sql-connectors/cloud-sql-proxy, args: ['p:r:i']}
  - {name: off, image: cloud-sql-connectors/cloud-sql-proxy, args: ['p:r:i'], envFrom: []}
  - name: off
    image: cloud-sql-connectors/cloud-sql-proxy
    env: [{name: CSQL_PROXY_PORT, valueFrom: {configMapKeyRef: {name: c, key: k}}}]
  - name: doubt
    image: cloud-sql-connectors/cloud-sql-proxy
    env: [{name: CSQL_PROXY_QUITQUITQUIT, valueFrom: {configMapKeyRef: {name: c, key: k}}}]
  - {name: doubt, image: cloud-sql-connectors/cloud-sql-proxy, envFrom: [{configMapRef: {name: c}}]}
");
        for container in &pod.spec.as_ref().unwrap().containers {
            let is_off = recognise(&pod, container).unwrap().end_is_off;
            assert_eq!(is_off, container.name == "off", "{container:?}");
        }
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
        let script = format!("{}exec /proa -- work", "# What the work is about.\n".repeat(2000));
        assert_eq!(expanded("$(SCRIPT)", &[("SCRIPT", &script)]), script);
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
