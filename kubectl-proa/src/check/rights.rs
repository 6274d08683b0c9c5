//! Who may watch Pods, as far as the same input says it.

use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::pod::asks_api;
use crate::document::{Node, Path};
use crate::entrypoint::Entrypoint;
use crate::finding::Finding;
use crate::rules::{ROLE_MISSING, ROLE_TOO_WIDE};
use crate::workload::{Object, Workload};

/// Where a binding without a namespace is, and a workload.
const DEFAULT: &str = "default";

/// Roles and bindings.
#[derive(Debug, Default)]
pub struct Rights {
    roles: Vec<Source>,
    bindings: Vec<Binding>,
    unknown: bool,
}

#[derive(Debug)]
struct Source {
    text: String,
    node: Node,
    kind: String,
    name: String,
    namespace: Option<String>,
    rules: Vec<PolicyRule>,
}

#[derive(Debug)]
struct Binding {
    namespace: Option<String>,
    role: RoleRef,
    subjects: Vec<Subject>,
}

impl Rights {
    /// Of a cluster that does not show them.
    #[must_use]
    pub fn unknown() -> Self {
        Self { unknown: true, ..Self::default() }
    }

    /// Adds an object, if it is a role or a binding.
    pub fn add(&mut self, text: &str, node: &Node) {
        let json = node.json();
        let namespace = json["metadata"]["namespace"].as_str().map(ToOwned::to_owned);
        let name = json["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let kind = json["kind"].as_str().unwrap_or_default().to_owned();
        let source = |rules: Option<Vec<PolicyRule>>, namespace| Source {
            text: text.to_owned(),
            node: node.clone(),
            kind: kind.clone(),
            name: name.clone(),
            namespace,
            rules: rules.unwrap_or_default(),
        };
        match kind.as_str() {
            "Role" => self.roles.extend(parsed::<Role>(&json).map(|role| source(role.rules, namespace))),
            "ClusterRole" => {
                self.roles.extend(parsed::<ClusterRole>(&json).map(|role| source(role.rules, None)));
            }
            "RoleBinding" => self.bindings.extend(parsed::<RoleBinding>(&json).map(|binding| Binding {
                namespace: Some(namespace.unwrap_or_else(|| DEFAULT.to_owned())),
                role: binding.role_ref,
                subjects: binding.subjects.unwrap_or_default(),
            })),
            "ClusterRoleBinding" => {
                self.bindings.extend(parsed::<ClusterRoleBinding>(&json).map(|binding| Binding {
                    namespace: None,
                    role: binding.role_ref,
                    subjects: binding.subjects.unwrap_or_default(),
                }));
            }
            _ => {}
        }
    }

    /// The rules that are bound to a workload's service account, with the role that each is of.
    fn of(&self, workload: &Workload) -> Vec<(&Source, &PolicyRule)> {
        let namespace = workload.namespace.as_deref().unwrap_or(DEFAULT);
        let bound = |binding: &&Binding| {
            binding.namespace.as_deref().is_none_or(|found| found == namespace)
                && binding
                    .subjects
                    .iter()
                    .any(|subject| is(subject, binding, workload.service_account(), namespace))
        };
        let roles = self.bindings.iter().filter(bound).flat_map(|binding| {
            self.roles.iter().filter(move |role| {
                role.kind == binding.role.kind
                    && role.name == binding.role.name
                    && (role.kind == "ClusterRole"
                        || role.namespace.as_deref().unwrap_or(DEFAULT)
                            == binding.namespace.as_deref().unwrap_or(DEFAULT))
            })
        });
        roles.flat_map(|role| role.rules.iter().map(move |rule| (role, rule))).collect()
    }
}

fn parsed<T: DeserializeOwned>(json: &serde_json::Value) -> Option<T> {
    serde_json::from_value(json.clone()).ok()
}

fn is(subject: &Subject, binding: &Binding, account: &str, namespace: &str) -> bool {
    match subject.kind.as_str() {
        "ServiceAccount" => {
            let of = subject.namespace.as_deref().or(binding.namespace.as_deref()).unwrap_or(DEFAULT);
            subject.name == account && of == namespace
        }
        "Group" => {
            let groups = ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
            groups.contains(&subject.name) || subject.name == "system:authenticated"
        }
        "User" => subject.name == format!("system:serviceaccount:{namespace}:{account}"),
        _ => false,
    }
}

fn has(list: Option<&Vec<String>>, word: &str) -> bool {
    list.into_iter().flatten().any(|found| found == word || found == "*")
}

fn is_about_pods(rule: &PolicyRule) -> bool {
    has(rule.api_groups.as_ref(), "") && has(rule.resources.as_ref(), "pods")
}

pub(super) fn check(
    workload: &Workload,
    entrypoints: &[(String, Entrypoint)],
    rights: &Rights,
) -> Vec<Finding> {
    let asking = entrypoints.iter().find(|(_, entrypoint)| asks_api(entrypoint));
    let Some((name, _)) = asking.filter(|_| !rights.unknown) else { return Vec::new() };
    let rules = rights.of(workload);
    let pods: Vec<_> = rules.iter().filter(|(_, rule)| is_about_pods(rule)).collect();
    let may_watch = pods.iter().any(|(_, rule)| has(Some(&rule.verbs), "watch"));
    let mut found = Vec::new();
    if !may_watch {
        found.push(missing(workload, name, !rules.is_empty()));
    }
    found.extend(pods.iter().filter_map(|(role, rule)| too_wide(workload, role, rule)));
    found
}

fn missing(workload: &Workload, name: &str, others: bool) -> Finding {
    let account = workload.service_account();
    let said = format!(
        "nothing here allows the service account `{account}` of `{name}` to watch pods, {}without which proa exits with code 77; \
         expected this Role and a RoleBinding to it, here or elsewhere, or direct waits with --api=off",
        if others { "though other rights are bound to it, " } else { "" }
    );
    let field = workload.template.field("spec.serviceAccountName");
    let rules = json!({"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["watch"]}]});
    Finding::new(&ROLE_MISSING, workload, field, said).of(name).cured_by(Path::default(), rules)
}

/// A rule for Pods alone is there for proa, most likely: `watch` is enough, and `list` finds a Pod whose name is unknown.
fn too_wide(workload: &Workload, source: &Source, rule: &PolicyRule) -> Option<Finding> {
    let alone = rule.resources.as_ref().is_some_and(|resources| *resources == ["pods"]);
    let more: Vec<_> =
        rule.verbs.iter().filter(|verb| !["watch", "list", "get"].contains(&verb.as_str())).collect();
    let is_for_watching = has(Some(&rule.verbs), "watch");
    if !(alone && is_for_watching) || more.is_empty() {
        return None;
    }
    let index = source.rules.iter().position(|found| found == rule)?;
    let field = Path::default().field("rules").element(index);
    let verbs: Vec<_> = more.iter().map(|verb| verb.as_str()).collect();
    let said = format!(
        "this rule for pods allows {} too, and proa needs no more than `watch`; leave it if something else needs it",
        proa::pod::list(&verbs)
    );
    let mut finding = Finding::new(&ROLE_TOO_WIDE, workload, Path::default(), said);
    finding.source.clone_from(&source.text);
    finding.object = Object { kind: source.kind.clone(), name: source.name.clone() };
    finding.position = source.node.position(&field.field("verbs"));
    let under = field.clone();
    finding.field = field.field("verbs");
    Some(finding.cured_by(under, json!({"verbs": ["watch"]})))
}
