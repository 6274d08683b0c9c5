//! Manifests: what is to be played, and what cannot be.

mod refusal;

use std::error::Error;
use std::fmt;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use serde_json::Value;

use crate::cluster::{Access, Rule};

/// A Pod or a Job, and the rights of its service account.
///
/// A manifest may hold several documents: one Pod or Job, and any number of `ServiceAccount`, `Role` and `RoleBinding`.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub(crate) workload: Workload,
    pub(crate) access: Access,
}

#[derive(Clone, Debug)]
pub(crate) enum Workload {
    Pod(Box<Pod>),
    Job(Box<Job>),
}

/// Why a manifest cannot be played.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ManifestError {
    /// The text is no YAML, or not of the type it says it is.
    Unreadable {
        /// The kind, where it could be read.
        kind: Option<String>,
        /// What the parser says.
        message: String,
    },
    /// There is no Pod or Job, or more than one.
    NotOneWorkload {
        /// How many there are.
        count: usize,
    },
    /// A document of a kind that means nothing here.
    UnknownKind {
        /// The kind as written.
        kind: String,
    },
    /// A field whose meaning cannot be kept up on this machine.
    Unplayable {
        /// The container, if the field is one's.
        container: Option<String>,
        /// The field's path in the Pod's or Job's `spec`, or in the container.
        field: String,
        /// What there is instead.
        reason: String,
    },
}

impl fmt::Display for ManifestError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ManifestError::Unreadable { kind: Some(kind), message } => {
                write!(formatter, "not a valid {kind}: {message}")
            }
            ManifestError::Unreadable { kind: None, message } => {
                write!(formatter, "not a valid manifest: {message}")
            }
            ManifestError::NotOneWorkload { count } => {
                write!(formatter, "expected one Pod or Job in the manifest, found {count}")
            }
            ManifestError::UnknownKind { kind } => write!(
                formatter,
                "`{kind}` cannot be played: expected a Pod or a Job, and beside it ServiceAccount, Role and RoleBinding"
            ),
            ManifestError::Unplayable { container: Some(container), field, reason } => {
                write!(formatter, "`{field}` of container `{container}` cannot be played: {reason}")
            }
            ManifestError::Unplayable { container: None, field, reason } => {
                write!(formatter, "`{field}` cannot be played: {reason}")
            }
        }
    }
}

impl Error for ManifestError {}

impl Manifest {
    /// Reads a manifest and refuses what cannot be played.
    ///
    /// # Errors
    ///
    /// When the text is no manifest, or has something in it that would be played wrongly.
    pub fn parse(yaml: &str) -> Result<Manifest, ManifestError> {
        let documents: Vec<Value> = serde_saphyr::from_multiple(yaml)
            .map_err(|error| ManifestError::Unreadable { kind: None, message: error.to_string() })?;
        let mut workloads = Vec::new();
        let mut roles: Vec<Role> = Vec::new();
        let mut bindings: Vec<RoleBinding> = Vec::new();
        for document in documents.into_iter().filter(|document| !document.is_null()) {
            let kind = document["kind"].as_str().unwrap_or_default().to_owned();
            match kind.as_str() {
                "Pod" => workloads.push(Workload::Pod(read(document, &kind)?)),
                "Job" => workloads.push(Workload::Job(read(document, &kind)?)),
                "Role" => roles.push(read(document, &kind)?),
                "RoleBinding" => bindings.push(read(document, &kind)?),
                "ServiceAccount" => {}
                _ => return Err(ManifestError::UnknownKind { kind }),
            }
        }
        let count = workloads.len();
        let (Some(workload), 1) = (workloads.pop(), count) else {
            return Err(ManifestError::NotOneWorkload { count });
        };
        refusal::check(&workload)?;
        let access = access(&workload, &roles, &bindings);
        Ok(Manifest { workload, access })
    }

    /// The namespace of the workload.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.workload.namespace()
    }

    /// The names of the containers, in the order of the Pod.
    pub fn containers(&self) -> impl Iterator<Item = &str> {
        let spec = self.workload.pod_spec();
        let init = spec.into_iter().flat_map(|spec| spec.init_containers.iter().flatten());
        let mains = spec.into_iter().flat_map(|spec| &spec.containers);
        init.chain(mains).map(|container| container.name.as_str())
    }

    /// The service account of the workload's Pods.
    #[must_use]
    pub fn service_account(&self) -> &str {
        self.workload.service_account()
    }
}

impl Workload {
    pub(crate) fn namespace(&self) -> &str {
        let metadata = match self {
            Workload::Pod(pod) => &pod.metadata,
            Workload::Job(job) => &job.metadata,
        };
        metadata.namespace.as_deref().unwrap_or("default")
    }

    pub(crate) fn pod_spec(&self) -> Option<&PodSpec> {
        match self {
            Workload::Pod(pod) => pod.spec.as_ref(),
            Workload::Job(job) => job.spec.as_ref().and_then(|spec| spec.template.spec.as_ref()),
        }
    }

    fn service_account(&self) -> &str {
        let spec = self.pod_spec();
        let name =
            spec.and_then(|spec| spec.service_account_name.as_deref().or(spec.service_account.as_deref()));
        name.unwrap_or("default")
    }
}

fn read<T: k8s_openapi::serde::de::DeserializeOwned>(
    document: Value,
    kind: &str,
) -> Result<T, ManifestError> {
    serde_json::from_value(document).map_err(|error| ManifestError::Unreadable {
        kind: Some(kind.to_owned()),
        message: error.to_string(),
    })
}

/// The rights that the manifest binds to the workload's service account: without a binding, none.
fn access(workload: &Workload, roles: &[Role], bindings: &[RoleBinding]) -> Access {
    let namespace_of = |namespace: &Option<String>| namespace.clone().unwrap_or_else(|| "default".to_owned());
    let bound = bindings.iter().filter(|binding| {
        let own = namespace_of(&binding.metadata.namespace);
        binding.subjects.iter().flatten().any(|subject| {
            subject.kind == "ServiceAccount"
                && subject.name == workload.service_account()
                && subject.namespace.as_ref().unwrap_or(&own) == workload.namespace()
        })
    });
    let mut rights = Vec::new();
    for binding in bound {
        let namespace = namespace_of(&binding.metadata.namespace);
        let role = roles.iter().find(|role| {
            role.metadata.name.as_ref() == Some(&binding.role_ref.name)
                && binding.role_ref.kind == "Role"
                && namespace_of(&role.metadata.namespace) == namespace
        });
        for policy in role.iter().flat_map(|role| role.rules.iter().flatten()) {
            rights.extend(Rule::from_policy(&namespace, policy));
        }
    }
    Access::Rules(rights)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "
apiVersion: v1
kind: Pod
metadata: { name: web, namespace: jobs }
spec:
  serviceAccountName: proa
  containers:
  - { name: main, command: [/bin/true] }
";

    const ROLE: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: { name: watcher, namespace: jobs }
rules:
- { apiGroups: [''], resources: [pods], verbs: [watch] }
";

    const BINDING: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: { name: watcher, namespace: jobs }
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: Role, name: watcher }
subjects:
- { kind: ServiceAccount, name: proa }
";

    #[test]
    fn rights_come_from_a_role_that_is_bound() {
        let bound = Manifest::parse(&[POD, ROLE, BINDING].join("\n---\n")).expect("a manifest");
        assert_eq!(bound.namespace(), "jobs");
        assert_eq!(bound.service_account(), "proa");
        let rule = Rule {
            namespace: Some("jobs".to_owned()),
            verbs: vec!["watch".to_owned()],
            resource_names: Vec::new(),
        };
        assert_eq!(bound.access, Access::Rules(vec![rule]));
    }

    #[test]
    fn a_role_without_a_binding_gives_no_rights() {
        let unbound = Manifest::parse(&[POD, ROLE].join("\n---\n")).expect("a manifest");
        assert_eq!(unbound.access, Access::Rules(Vec::new()));
    }

    #[test]
    fn other_kinds_are_named() {
        let error = Manifest::parse("kind: Deployment\nmetadata: { name: web }").expect_err("not a Pod");
        assert_eq!(error, ManifestError::UnknownKind { kind: "Deployment".to_owned() });
    }

    #[test]
    fn there_must_be_one_workload() {
        assert_eq!(Manifest::parse(ROLE).expect_err("no Pod"), ManifestError::NotOneWorkload { count: 0 });
        let two = [POD, POD].join("\n---\n");
        assert_eq!(Manifest::parse(&two).expect_err("two Pods"), ManifestError::NotOneWorkload { count: 2 });
    }
}
