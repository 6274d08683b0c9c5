//! The Pod templates in documents of all kinds.

use std::fmt;
use std::str::FromStr;

use k8s_openapi::api::core::v1::{Container, Pod};
use serde_json::{Value, json};

use crate::document::{Node, Path};

/// A Pod template, and whose it is.
#[derive(Debug, Clone)]
pub struct Workload {
    /// The name of the text that it stands in.
    pub source: String,
    /// `Job/backup`.
    pub object: Object,
    /// Its namespace, where the document says it.
    pub namespace: Option<String>,
    /// The whole object.
    pub node: Node,
    /// Where the Pod template stands in it; empty for a Pod.
    pub template: Path,
    /// A Pod as the template makes it.
    pub pod: Box<Pod>,
}

/// A kind and a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Object {
    /// For instance `Job`.
    pub kind: String,
    /// Its name, or what its generated name begins with.
    pub name: String,
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)
    }
}

/// Which list of a Pod's a container is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// `initContainers`.
    Init,
    /// `containers`.
    Regular,
}

impl Workload {
    /// The way to this container.
    #[must_use]
    pub fn container(&self, name: &str) -> Path {
        let spec = self.template.field("spec");
        let lists = [("initContainers", self.init()), ("containers", self.regular())];
        let found = lists.iter().find_map(|(list, containers)| {
            let index = containers.iter().position(|container| container.name == name)?;
            Some(spec.field(list).element(index))
        });
        found.unwrap_or(spec)
    }

    /// The containers of `containers`.
    #[must_use]
    pub fn regular(&self) -> &[Container] {
        self.pod.spec.as_ref().map_or(&[], |spec| &spec.containers)
    }

    /// The containers of `initContainers`.
    #[must_use]
    pub fn init(&self) -> &[Container] {
        self.pod.spec.as_ref().and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default()
    }

    /// All of them, in the order in which they start.
    pub fn all(&self) -> impl Iterator<Item = (Place, &Container)> {
        let init = self.init().iter().map(|container| (Place::Init, container));
        init.chain(self.regular().iter().map(|container| (Place::Regular, container)))
    }

    /// The Pod's restart policy.
    #[must_use]
    pub fn restart_policy(&self) -> &str {
        self.pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always")
    }

    /// Whether the Pod is to end.
    #[must_use]
    pub fn completes(&self) -> bool {
        self.restart_policy() != "Always"
    }

    /// An annotation of the Pod.
    #[must_use]
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
    }

    /// An annotation or label of the Pod: injectors have moved from the one to the other.
    #[must_use]
    pub fn mark(&self, key: &str) -> Option<&str> {
        let labels = self.pod.metadata.labels.as_ref();
        self.annotation(key).or_else(|| labels?.get(key).map(String::as_str))
    }

    /// The service account of its Pods.
    #[must_use]
    pub fn service_account(&self) -> &str {
        let spec = self.pod.spec.as_ref();
        let name =
            spec.and_then(|spec| spec.service_account_name.as_deref().or(spec.service_account.as_deref()));
        name.filter(|name| !name.is_empty()).unwrap_or("default")
    }
}

/// Where a kind that Kubernetes does not have keeps its Pod template: `KIND=PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elsewhere {
    kind: String,
    path: Path,
}

impl FromStr for Elsewhere {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((kind, path)) if !kind.is_empty() && !path.trim_matches('.').is_empty() => {
                Ok(Self { kind: kind.to_owned(), path: Path::default().field(path) })
            }
            _ => Err(format!("found `{text}`; expected KIND=PATH, for instance Rollout=spec.template")),
        }
    }
}

/// Where Kubernetes' own kinds keep their Pod template.
fn template(kind: &str, elsewhere: &[Elsewhere]) -> Option<Path> {
    if let Some(found) = elsewhere.iter().find(|found| found.kind == kind) {
        return Some(found.path.clone());
    }
    let path = match kind {
        "Pod" => "",
        "PodTemplate" => "template",
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" | "Job" | "ReplicationController" => {
            "spec.template"
        }
        "CronJob" => "spec.jobTemplate.spec.template",
        _ => return None,
    };
    Some(Path::default().field(path))
}

/// A document whose Pod template is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Whose it is.
    pub object: Object,
    /// The line that it begins in.
    pub line: u64,
    /// What is wrong.
    pub problem: String,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.line, self.object, self.problem)
    }
}

/// Every object of a document: those of a list are on their own.
#[must_use]
pub fn objects(document: &Node) -> Vec<&Node> {
    match document.field("items") {
        Some(items)
            if document.field("kind").and_then(Node::text).is_some_and(|kind| kind.ends_with("List")) =>
        {
            items.elements().iter().flat_map(objects).collect()
        }
        _ => vec![document],
    }
}

/// The Pod template of an object. `None`: its kind has none.
///
/// # Errors
/// When there is something else where the Pod template should be.
pub fn workload(source: &str, node: &Node, elsewhere: &[Elsewhere]) -> Result<Option<Workload>, Unreadable> {
    let text = |path: &str| node.get(&Path::default().field(path)).and_then(Node::text);
    let kind = text("kind").unwrap_or_default();
    let Some(path) = template(kind, elsewhere) else {
        return Ok(None);
    };
    let name = text("metadata.name").or_else(|| text("metadata.generateName")).unwrap_or("unnamed");
    let object = Object { kind: kind.to_owned(), name: name.to_owned() };
    let unreadable =
        |problem: String| Unreadable { object: object.clone(), line: node.position(&path).line, problem };
    let Some(found) = node.get(&path).filter(|found| found.is_map()) else {
        return Err(unreadable(format!("found no Pod template at {path}")));
    };
    let json = found.json();
    let part = |name: &str| json.get(name).filter(|part| !part.is_null()).cloned().unwrap_or(json!({}));
    if part("spec").get("containers").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        return Err(unreadable(format!("found no containers at {}", path.field("spec.containers"))));
    }
    // What the API server fills in is not there yet, and its types want some of it.
    let pod = json!({"metadata": part("metadata"), "spec": part("spec")});
    let pod: Pod = serde_json::from_value(pod)
        .map_err(|error| unreadable(format!("this is no Pod template: {error}")))?;
    Ok(Some(Workload {
        source: source.to_owned(),
        namespace: text("metadata.namespace").map(ToOwned::to_owned),
        object,
        node: node.clone(),
        template: path,
        pod: Box::new(pod),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document;

    fn workloads(text: &str, elsewhere: &[&str]) -> Vec<Result<Option<Workload>, Unreadable>> {
        let elsewhere: Vec<_> = elsewhere.iter().map(|one| one.parse().unwrap()).collect();
        let documents = document::read(text).unwrap();
        let objects = documents.iter().flat_map(objects);
        objects.map(|object| workload("x.yaml", object, &elsewhere)).collect()
    }

    #[test]
    fn every_kind_with_a_pod_template_has_one() {
        for (kind, path) in [
            ("Pod", ""),
            ("PodTemplate", "template"),
            ("Deployment", "spec.template"),
            ("ReplicaSet", "spec.template"),
            ("StatefulSet", "spec.template"),
            ("DaemonSet", "spec.template"),
            ("ReplicationController", "spec.template"),
            ("Job", "spec.template"),
            ("CronJob", "spec.jobTemplate.spec.template"),
            ("Rollout", "spec.template"),
        ] {
            let mut value = json!({"spec": {"containers": [{"name": "main", "image": "m"}]}});
            for field in path.rsplit('.').filter(|field| !field.is_empty()) {
                value = json!({field: value});
            }
            value["kind"] = kind.into();
            value["metadata"] = json!({"name": "it"});
            let list = json!({"kind": "List", "items": [value, {"kind": "ConfigMap"}]});
            let found = workloads(&list.to_string(), &["Rollout=.spec.template"]);
            let found = found.into_iter().filter_map(Result::unwrap).collect::<Vec<_>>();
            assert_eq!(found.len(), 1, "{kind}");
            assert_eq!(found[0].object.to_string(), format!("{kind}/it"));
            assert_eq!(found[0].template.to_string(), path);
            assert_eq!(found[0].container("main"), found[0].template.field("spec.containers").element(0));
        }
    }

    #[test]
    fn what_is_no_pod_template_is_said() {
        for (text, expected) in [
            ("kind: Job\nspec: {}\n", "found no Pod template at spec.template"),
            ("kind: Job\nspec: {template: 1}\n", "found no Pod template at spec.template"),
            ("kind: Pod\nspec: {containers: []}\n", "found no containers at spec.containers"),
            ("kind: Pod\nspec: {containers: [{name: 3, image: a}]}\n", "this is no Pod template"),
        ] {
            let found = workloads(text, &[]).remove(0).unwrap_err();
            assert!(found.to_string().contains(expected), "{found}");
        }
        assert!("Rollout".parse::<Elsewhere>().is_err() && "=x".parse::<Elsewhere>().is_err());
    }
}
