//! Who may do what with Pods: the part of RBAC a client of this cluster can meet.

use k8s_openapi::api::rbac::v1::PolicyRule;

/// The rights of the cluster's service account.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Access {
    /// Every request is allowed.
    #[default]
    AllowAll,
    /// Only what a rule allows; without any, nothing, as on a real cluster.
    Rules(Vec<Rule>),
}

impl Access {
    /// Rights to these verbs (`get`, `list`, `watch`) on all Pods.
    #[must_use]
    pub fn to(verbs: &[&str]) -> Access {
        let verbs = verbs.iter().map(|&verb| verb.to_owned()).collect();
        Access::Rules(vec![Rule { namespace: None, verbs, resource_names: Vec::new() }])
    }

    pub(super) fn allows(&self, question: &Question) -> bool {
        match self {
            Access::AllowAll => true,
            Access::Rules(rules) => rules.iter().any(|rule| rule.allows(question)),
        }
    }
}

/// A rule on Pods, as a `Role` and its `RoleBinding` give it.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// The namespace the rule is bound in; `None` is everywhere.
    pub namespace: Option<String>,
    /// Verbs, or `*`.
    pub verbs: Vec<String>,
    /// Names the rule is restricted to; empty is all.
    ///
    /// A list or watch is of one name when it selects `metadata.name`.
    pub resource_names: Vec<String>,
}

impl Rule {
    /// What a rule of a `Role` says about Pods, if anything.
    pub(crate) fn from_policy(namespace: &str, policy: &PolicyRule) -> Option<Rule> {
        let names = |list: &Option<Vec<String>>, wanted: &str| {
            list.iter().flatten().any(|entry| entry == wanted || entry == "*")
        };
        (names(&policy.api_groups, "") && names(&policy.resources, "pods")).then(|| Rule {
            namespace: Some(namespace.to_owned()),
            verbs: policy.verbs.clone(),
            resource_names: policy.resource_names.clone().unwrap_or_default(),
        })
    }

    fn allows(&self, question: &Question) -> bool {
        let namespace_fits = self.namespace.is_none() || self.namespace.as_deref() == question.namespace;
        let verb_fits = self.verbs.iter().any(|verb| verb == question.verb || verb == "*");
        let name_fits = self.resource_names.is_empty()
            || question.name.is_some_and(|name| self.resource_names.iter().any(|allowed| allowed == name));
        namespace_fits && verb_fits && name_fits
    }
}

/// What the authorizer is asked about a request.
pub(super) struct Question<'a> {
    pub(super) verb: &'a str,
    /// `None` is the cluster scope.
    pub(super) namespace: Option<&'a str>,
    pub(super) name: Option<&'a str>,
}

impl Question<'_> {
    /// The refusal, worded as the API server words it.
    pub(super) fn refusal(&self, user: &str) -> String {
        let subject = match self.name {
            Some(name) => format!("pods \"{name}\""),
            None => "pods".to_owned(),
        };
        let scope = match self.namespace {
            Some(namespace) => format!("in the namespace \"{namespace}\""),
            None => "at the cluster scope".to_owned(),
        };
        format!(
            "{subject} is forbidden: User \"{user}\" cannot {} resource \"pods\" in API group \"\" {scope}",
            self.verb
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks<'a>(verb: &'a str, name: Option<&'a str>) -> Question<'a> {
        Question { verb, namespace: Some("jobs"), name }
    }

    #[test]
    fn no_rule_is_no_right() {
        assert!(!Access::Rules(Vec::new()).allows(&asks("get", Some("web"))));
        assert!(Access::AllowAll.allows(&asks("get", Some("web"))));
    }

    #[test]
    fn a_verb_does_not_imply_another() {
        let access = Access::to(&["watch"]);
        assert!(access.allows(&asks("watch", None)));
        assert!(!access.allows(&asks("list", None)));
    }

    #[test]
    fn a_named_rule_needs_a_named_request() {
        let rule =
            Rule { namespace: None, verbs: vec!["*".to_owned()], resource_names: vec!["web".to_owned()] };
        let access = Access::Rules(vec![rule]);
        assert!(access.allows(&asks("watch", Some("web"))));
        assert!(!access.allows(&asks("watch", Some("other"))));
        assert!(!access.allows(&asks("watch", None)));
    }

    #[test]
    fn the_refusal_names_user_verb_and_scope() {
        assert_eq!(
            asks("watch", None).refusal("system:serviceaccount:jobs:proa"),
            "pods is forbidden: User \"system:serviceaccount:jobs:proa\" cannot watch resource \"pods\" \
             in API group \"\" in the namespace \"jobs\""
        );
    }

    #[test]
    fn only_rules_on_pods_of_the_core_group_count() {
        let policy = |group: &str, resource: &str| PolicyRule {
            api_groups: Some(vec![group.to_owned()]),
            resources: Some(vec![resource.to_owned()]),
            verbs: vec!["get".to_owned()],
            ..PolicyRule::default()
        };
        assert!(Rule::from_policy("jobs", &policy("", "pods")).is_some());
        assert!(Rule::from_policy("jobs", &policy("*", "*")).is_some());
        assert!(Rule::from_policy("jobs", &policy("apps", "pods")).is_none());
        assert!(Rule::from_policy("jobs", &policy("", "pods/log")).is_none());
    }
}
