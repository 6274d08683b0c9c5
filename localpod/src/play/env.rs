//! A container's environment, and the `$(NAME)` references in it.

use k8s_openapi::api::core::v1::{Container, EnvVar, Pod};

/// The search path of a container whose image sets none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variables in the order in which they were set; a later one replaces an earlier.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Environment(Vec<(String, String)>);

impl Environment {
    pub(super) fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        let (name, value) = (name.into(), value.into());
        self.0.retain(|(known, _)| *known != name);
        self.0.push((name, value));
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Replaces `$(NAME)` by its value; `$$(NAME)` and what is not known stay as text.
    pub(super) fn expand(&self, text: &str) -> String {
        let mut expanded = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(dollar) = rest.find('$') {
            expanded.push_str(&rest[..dollar]);
            rest = &rest[dollar + 1..];
            if let Some(escaped) = rest.strip_prefix('$') {
                expanded.push('$');
                rest = escaped;
                continue;
            }
            let reference = rest.strip_prefix('(').and_then(|open| open.split_once(')'));
            match reference.and_then(|(name, after)| Some((self.get(name)?, after))) {
                Some((value, after)) => {
                    expanded.push_str(value);
                    rest = after;
                }
                None => expanded.push('$'),
            }
        }
        expanded.push_str(rest);
        expanded
    }

    /// What the container runtime and the kubelet set, then what the manifest sets.
    pub(super) fn of(
        pod: &Pod,
        container: &Container,
        bin_path: &str,
        given: &[(String, String)],
    ) -> Environment {
        let mut environment = Environment::default();
        let separator = if bin_path.is_empty() { "" } else { ":" };
        environment.set("PATH", format!("{bin_path}{separator}{DEFAULT_PATH}"));
        environment.set("HOSTNAME", hostname(pod));
        for (name, value) in given {
            environment.set(name, value);
        }
        for variable in container.env.iter().flatten() {
            let value = match field_path(variable) {
                Some(path) => field(pod, path).unwrap_or_default(),
                None => environment.expand(variable.value.as_deref().unwrap_or_default()),
            };
            environment.set(&variable.name, value);
        }
        environment
    }
}

fn field_path(variable: &EnvVar) -> Option<&str> {
    Some(variable.value_from.as_ref()?.field_ref.as_ref()?.field_path.as_str())
}

fn hostname(pod: &Pod) -> String {
    let spec = pod.spec.as_ref().and_then(|spec| spec.hostname.clone());
    let name = spec.or_else(|| pod.metadata.name.clone()).unwrap_or_default();
    let cut: String = name.chars().take(63).collect();
    cut.trim_end_matches(['-', '.']).to_owned()
}

/// The value of a downward API field; `None` where there is no such field.
pub(crate) fn field(pod: &Pod, path: &str) -> Option<String> {
    let metadata = &pod.metadata;
    let spec = pod.spec.as_ref();
    let entry = |prefix: &str| path.strip_prefix(prefix)?.strip_prefix("['")?.strip_suffix("']");
    if let Some(key) = entry("metadata.labels") {
        return Some(
            metadata.labels.as_ref().and_then(|labels| labels.get(key).cloned()).unwrap_or_default(),
        );
    }
    if let Some(key) = entry("metadata.annotations") {
        let annotations = metadata.annotations.as_ref();
        return Some(annotations.and_then(|annotations| annotations.get(key).cloned()).unwrap_or_default());
    }
    let value = match path {
        "metadata.name" => metadata.name.clone(),
        "metadata.namespace" => metadata.namespace.clone(),
        "metadata.uid" => metadata.uid.clone(),
        "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()),
        "spec.serviceAccountName" => spec.and_then(|spec| spec.service_account_name.clone()),
        "status.podIP" | "status.podIPs" | "status.hostIP" | "status.hostIPs" => Some("127.0.0.1".to_owned()),
        _ => return None,
    };
    Some(value.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{EnvVarSource, ObjectFieldSelector};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    fn variable(name: &str, value: &str) -> EnvVar {
        EnvVar { name: name.to_owned(), value: Some(value.to_owned()), ..EnvVar::default() }
    }

    fn reference(name: &str, path: &str) -> EnvVar {
        let field_ref = ObjectFieldSelector { field_path: path.to_owned(), ..ObjectFieldSelector::default() };
        let source = EnvVarSource { field_ref: Some(field_ref), ..EnvVarSource::default() };
        EnvVar { name: name.to_owned(), value_from: Some(source), ..EnvVar::default() }
    }

    fn pod() -> Pod {
        let metadata = ObjectMeta {
            name: Some("web".to_owned()),
            annotations: Some([("team".to_owned(), "blue".to_owned())].into()),
            ..ObjectMeta::default()
        };
        Pod { metadata, ..Pod::default() }
    }

    #[test]
    fn references_expand_to_what_was_set_before() {
        let env = vec![
            variable("HOST", "db"),
            variable("URL", "http://$(HOST):$(PORT)/$$(HOST)"),
            variable("PORT", "80"),
            reference("NAME", "metadata.name"),
            reference("TEAM", "metadata.annotations['team']"),
        ];
        let container = Container { env: Some(env), ..Container::default() };
        let environment = Environment::of(&pod(), &container, "", &[]);
        assert_eq!(environment.get("URL"), Some("http://db:$(PORT)/$(HOST)"));
        assert_eq!(environment.get("NAME"), Some("web"));
        assert_eq!(environment.get("TEAM"), Some("blue"));
        assert_eq!(environment.get("HOSTNAME"), Some("web"));
        assert_eq!(environment.expand("--port=$(PORT) $ $(NONE) $"), "--port=80 $ $(NONE) $");
    }

    #[test]
    fn the_manifest_overrules_what_is_given() {
        let container = Container { env: Some(vec![variable("A", "manifest")]), ..Container::default() };
        let given = [("A".to_owned(), "given".to_owned()), ("B".to_owned(), "given".to_owned())];
        let environment = Environment::of(&pod(), &container, "/opt/bin", &given);
        assert_eq!(environment.get("A"), Some("manifest"));
        assert_eq!(environment.get("B"), Some("given"));
        assert!(environment.get("PATH").is_some_and(|path| path.starts_with("/opt/bin:/usr/local/sbin:")));
    }

    #[test]
    fn fields_the_downward_api_lacks_are_none() {
        assert_eq!(field(&pod(), "spec.containers"), None);
        assert_eq!(field(&pod(), "metadata.labels['absent']"), Some(String::new()));
    }
}
