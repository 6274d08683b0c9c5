//! Field selectors on Pods.

use k8s_openapi::api::core::v1::Pod;

use super::status::Status;

/// A parsed `fieldSelector`: all terms must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Selector(Vec<Term>);

#[derive(Clone, Debug, PartialEq)]
struct Term {
    field: Field,
    equal: bool,
    value: String,
}

/// The fields by which the API server selects Pods; there are no others.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Field {
    Name,
    Namespace,
    NodeName,
    RestartPolicy,
    SchedulerName,
    ServiceAccountName,
    HostNetwork,
    Phase,
    PodIp,
    NominatedNodeName,
}

impl Field {
    fn parse(label: &str) -> Option<Field> {
        Some(match label {
            "metadata.name" => Field::Name,
            "metadata.namespace" => Field::Namespace,
            "spec.nodeName" => Field::NodeName,
            "spec.restartPolicy" => Field::RestartPolicy,
            "spec.schedulerName" => Field::SchedulerName,
            "spec.serviceAccountName" => Field::ServiceAccountName,
            "spec.hostNetwork" => Field::HostNetwork,
            "status.phase" => Field::Phase,
            "status.podIP" => Field::PodIp,
            "status.nominatedNodeName" => Field::NominatedNodeName,
            _ => return None,
        })
    }

    /// The field's value; an unset one selects as the empty string.
    fn of(self, pod: &Pod) -> String {
        let spec = pod.spec.as_ref();
        let status = pod.status.as_ref();
        let value = match self {
            Field::Name => pod.metadata.name.clone(),
            Field::Namespace => pod.metadata.namespace.clone(),
            Field::NodeName => spec.and_then(|spec| spec.node_name.clone()),
            Field::RestartPolicy => spec.and_then(|spec| spec.restart_policy.clone()),
            Field::SchedulerName => spec.and_then(|spec| spec.scheduler_name.clone()),
            Field::ServiceAccountName => spec.and_then(|spec| spec.service_account_name.clone()),
            Field::HostNetwork => Some(spec.and_then(|spec| spec.host_network).unwrap_or(false).to_string()),
            Field::Phase => status.and_then(|status| status.phase.clone()),
            Field::PodIp => status.and_then(|status| status.pod_ip.clone()),
            Field::NominatedNodeName => status.and_then(|status| status.nominated_node_name.clone()),
        };
        value.unwrap_or_default()
    }
}

impl Selector {
    /// Parses the query parameter: comma-separated `field=value`, `field==value`, `field!=value`.
    pub(super) fn parse(text: &str) -> Result<Selector, Status> {
        let mut terms = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (label, equal, value) = if let Some((label, value)) = part.split_once("!=") {
                (label, false, value)
            } else if let Some((label, value)) = part.split_once("==") {
                (label, true, value)
            } else if let Some((label, value)) = part.split_once('=') {
                (label, true, value)
            } else {
                return Err(Status::bad_request(format!(
                    "invalid selector: '{text}'; can't understand '{part}'"
                )));
            };
            let field = Field::parse(label)
                .ok_or_else(|| Status::bad_request(format!("field label not supported: {label}")))?;
            terms.push(Term { field, equal, value: value.to_owned() });
        }
        Ok(Selector(terms))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn matches(&self, pod: &Pod) -> bool {
        self.0.iter().all(|term| (term.field.of(pod) == term.value) == term.equal)
    }

    /// The one name this selector can match, which the authorizer takes for the request's.
    pub(super) fn name(&self) -> Option<&str> {
        self.0.iter().find(|term| term.field == Field::Name && term.equal).map(|term| term.value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{PodSpec, PodStatus};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    fn pod(name: &str, phase: &str) -> Pod {
        Pod {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            spec: Some(PodSpec::default()),
            status: Some(PodStatus { phase: Some(phase.to_owned()), ..PodStatus::default() }),
        }
    }

    fn selects(selector: &str, pod: &Pod) -> bool {
        Selector::parse(selector).expect("a valid selector").matches(pod)
    }

    #[test]
    fn equality_has_two_spellings_and_a_negation() {
        let pod = pod("web", "Running");
        assert!(selects("metadata.name=web", &pod));
        assert!(selects("metadata.name==web", &pod));
        assert!(!selects("metadata.name!=web", &pod));
        assert!(selects("status.phase!=Failed", &pod));
    }

    #[test]
    fn every_term_must_hold() {
        let pod = pod("web", "Running");
        assert!(selects("metadata.name=web,status.phase=Running", &pod));
        assert!(!selects("metadata.name=web,status.phase=Pending", &pod));
        assert!(selects("", &pod));
    }

    #[test]
    fn an_unset_field_selects_as_empty() {
        assert!(selects("status.podIP=", &pod("web", "Pending")));
        assert!(selects("spec.hostNetwork=false", &pod("web", "Pending")));
    }

    #[test]
    fn labels_the_server_cannot_select_by_are_refused() {
        let status = Selector::parse("metadata.uid=1").expect_err("uid cannot be selected");
        assert_eq!(status, Status::bad_request("field label not supported: metadata.uid"));
        assert!(Selector::parse("metadata.name").is_err());
    }
}
