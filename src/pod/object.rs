//! The Pod as the API server sends it, in the fields that are read and no others: most of a Pod is volumes, affinities and security
//! contexts, and to read those takes code and memory in every container that proa runs in. Names and meanings are those of the Pod
//! API reference; a test compares with `k8s-openapi`.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, Unexpected, Visitor};

/// A Pod.
#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(default)]
pub struct Pod {
    #[serde(deserialize_with = "or_default")]
    pub(super) metadata: ObjectMeta,
    pub(super) spec: Option<PodSpec>,
    pub(super) status: Option<PodStatus>,
}

impl Pod {
    /// Its UID.
    #[must_use]
    pub fn uid(&self) -> Option<&str> {
        self.metadata.uid.as_deref()
    }
}

/// What a bookmark has in place of a Pod: metadata. The rest is what Go makes of an empty Pod, `containers: null` among it.
#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(default)]
pub struct Bookmark {
    metadata: ObjectMeta,
}

impl Bookmark {
    /// Whether it marks that a watch has shown all that there was when it began (KEP-3157).
    #[must_use]
    pub fn ends_initial_events(&self) -> bool {
        let annotations = self.metadata.annotations.as_ref();
        annotations.and_then(|all| all.get("k8s.io/initial-events-end")).is_some_and(|value| value == "true")
    }
}

/// A page of a list of which the metadata alone was asked for (`PartialObjectMetadataList`).
#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(default)]
pub struct PodNames {
    #[serde(deserialize_with = "or_default")]
    metadata: ListMeta,
    items: Option<Vec<Named>>,
}

impl PodNames {
    /// The name of the Pod with this UID, if it is on this page.
    #[must_use]
    pub fn name_of(self, uid: &str) -> Option<String> {
        let own = self.items.into_iter().flatten().find(|pod| pod.metadata.uid.as_deref() == Some(uid));
        own.and_then(|pod| pod.metadata.name)
    }

    /// What asks for the next page, if there is one.
    #[must_use]
    pub fn next(&self) -> Option<&str> {
        self.metadata.r#continue.as_deref().filter(|token| !token.is_empty())
    }
}

#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(default)]
struct Named {
    #[serde(deserialize_with = "or_default")]
    metadata: NamedMeta,
}

#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(default)]
struct NamedMeta {
    name: Option<String>,
    uid: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(default)]
struct ListMeta {
    r#continue: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ObjectMeta {
    pub(super) name: Option<String>,
    pub(super) uid: Option<String>,
    pub(super) annotations: Option<BTreeMap<String, String>>,
    pub(super) deletion_timestamp: Option<Time>,
    pub(super) deletion_grace_period_seconds: Option<i64>,
}

#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PodSpec {
    #[serde(deserialize_with = "or_default")]
    pub(super) containers: Vec<Container>,
    pub(super) init_containers: Option<Vec<Container>>,
    pub(super) restart_policy: Option<String>,
    #[serde(rename = "hostPID")]
    pub(super) host_pid: Option<bool>,
    pub(super) share_process_namespace: Option<bool>,
    pub(super) termination_grace_period_seconds: Option<i64>,
}

#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Container {
    #[serde(deserialize_with = "or_default")]
    pub(super) name: String,
    pub(super) image: Option<String>,
    pub(super) command: Option<Vec<String>>,
    pub(super) args: Option<Vec<String>>,
    pub(super) env: Option<Vec<EnvVar>>,
    pub(super) env_from: Option<Vec<EnvFrom>>,
    pub(super) ports: Option<Vec<ContainerPort>>,
    pub(super) readiness_probe: Option<Probe>,
    pub(super) startup_probe: Option<Probe>,
    pub(super) liveness_probe: Option<Probe>,
    pub(super) lifecycle: Option<Lifecycle>,
    pub(super) restart_policy: Option<String>,
    pub(super) restart_policy_rules: Option<Vec<ContainerRestartRule>>,
}

#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct EnvVar {
    #[serde(deserialize_with = "or_default")]
    pub(super) name: String,
    pub(super) value: Option<String>,
    pub(super) value_from: Option<IgnoredAny>,
}

#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct EnvFrom {
    pub(super) prefix: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ContainerPort {
    pub(super) name: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub(super) container_port: i32,
}

#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Probe {
    pub(super) http_get: Option<HttpGetAction>,
    pub(super) initial_delay_seconds: Option<i32>,
    pub(super) period_seconds: Option<i32>,
    pub(super) failure_threshold: Option<i32>,
    pub(super) termination_grace_period_seconds: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
pub(super) struct HttpGetAction {
    #[serde(default)]
    pub(super) path: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) port: IntOrString,
}

#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Lifecycle {
    pub(super) pre_stop: Option<IgnoredAny>,
    pub(super) stop_signal: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ContainerRestartRule {
    pub(super) exit_codes: Option<ExitCodes>,
}

/// `ContainerRestartRuleOnExitCodes`.
#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(default)]
pub(super) struct ExitCodes {
    #[serde(deserialize_with = "or_default")]
    pub(super) operator: String,
    pub(super) values: Option<Vec<i32>>,
}

#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PodStatus {
    pub(super) phase: Option<String>,
    pub(super) conditions: Option<Vec<PodCondition>>,
    pub(super) container_statuses: Option<Vec<ContainerStatus>>,
    pub(super) init_container_statuses: Option<Vec<ContainerStatus>>,
}

#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(default)]
pub(super) struct PodCondition {
    #[serde(deserialize_with = "or_default")]
    pub(super) r#type: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) status: String,
    pub(super) reason: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ContainerStatus {
    #[serde(deserialize_with = "or_default")]
    pub(super) name: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) ready: bool,
    #[serde(deserialize_with = "or_default")]
    pub(super) restart_count: i32,
    #[serde(rename = "containerID")]
    pub(super) container_id: Option<String>,
    pub(super) state: Option<ContainerState>,
    pub(super) last_state: Option<ContainerState>,
    pub(super) stop_signal: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(default)]
pub(super) struct ContainerState {
    pub(super) waiting: Option<Waiting>,
    pub(super) running: Option<Running>,
    pub(super) terminated: Option<Terminated>,
}

/// `ContainerStateWaiting`.
#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(default)]
pub(super) struct Waiting {
    pub(super) reason: Option<String>,
}

/// `ContainerStateRunning`.
#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Running {
    pub(super) started_at: Option<Time>,
}

/// `ContainerStateTerminated`.
#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Terminated {
    #[serde(deserialize_with = "or_default")]
    pub(super) exit_code: i32,
    pub(super) reason: Option<String>,
}

/// A time as the API server writes it: RFC 3339, in UTC (`metav1.Time`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Time(pub(super) SystemTime);

/// A number, or a name.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum IntOrString {
    Int(i32),
    String(String),
}

impl Default for IntOrString {
    fn default() -> Self {
        Self::Int(0)
    }
}

/// `null` is as good as nothing to the API, where a field must be there too.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Time;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time as 2006-01-02T15:04:05Z")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Time, E> {
                let time = humantime::parse_rfc3339(text);
                time.map(Time).map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_str(Text)
    }
}

impl<'de> Deserialize<'de> for IntOrString {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl Either {
            fn number<N: TryInto<i32> + Copy, E: Error>(number: N) -> Result<IntOrString, E> {
                number.try_into().map(IntOrString::Int).map_err(|_| E::custom("expected a number of 32 bits"))
            }
        }

        impl Visitor<'_> for Either {
            type Value = IntOrString;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number or a name")
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<IntOrString, E> {
                Self::number(number)
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<IntOrString, E> {
                Self::number(number)
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<IntOrString, E> {
                Ok(IntOrString::String(name.to_owned()))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1 as whole;
    use serde_json::{Value, json};

    use super::*;

    /// With everything that is read, once.
    fn everything() -> Value {
        let probe = |path: &str| {
            json!({
                "httpGet": {"path": path, "port": "admin", "scheme": "HTTP"}, "initialDelaySeconds": 1, "periodSeconds": 2,
                "failureThreshold": 3, "terminationGracePeriodSeconds": 4, "timeoutSeconds": 5,
            })
        };
        let state = json!({
            "waiting": {"reason": "CrashLoopBackOff", "message": "m"},
            "running": {"startedAt": "2023-11-14T22:13:20Z"},
            "terminated": {"exitCode": 7, "reason": "Error", "startedAt": "2023-11-14T22:13:20Z", "containerID": "c"},
        });
        let container = json!({
            "name": "web", "image": "i", "command": ["c"], "args": ["a"],
            "env": [{"name": "N", "value": "v", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "envFrom": [{"prefix": "P_", "configMapRef": {"name": "m"}}],
            "ports": [{"name": "admin", "containerPort": 9000, "protocol": "TCP"}],
            "readinessProbe": probe("/ready"), "startupProbe": probe("/started"), "livenessProbe": probe("/alive"),
            "lifecycle": {"preStop": {"exec": {"command": ["sleep", "1"]}}, "stopSignal": "SIGQUIT"},
            "restartPolicy": "Always",
            "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}],
            "securityContext": {"runAsNonRoot": true}, "volumeMounts": [{"name": "v", "mountPath": "/v"}],
        });
        let status = json!({
            "name": "web", "ready": true, "restartCount": 3, "containerID": "containerd://c", "image": "i", "imageID": "d",
            "state": state, "lastState": state, "stopSignal": "SIGTERM",
        });
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "p", "uid": "u", "annotations": {"a": "b"}, "deletionTimestamp": "2023-11-14T22:13:50Z",
                "deletionGracePeriodSeconds": 30, "labels": {"l": "m"},
                "managedFields": [{"manager": "m", "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": {"f:x": {}}}],
            },
            "spec": {
                "containers": [container], "initContainers": [container], "restartPolicy": "OnFailure", "hostPID": true,
                "shareProcessNamespace": true, "terminationGracePeriodSeconds": 20,
                "volumes": [{"name": "v", "emptyDir": {}}], "tolerations": [{"operator": "Exists"}],
            },
            "status": {
                "phase": "Running", "podIP": "10.0.0.1",
                "conditions": [{"type": "ContainersReady", "status": "False", "reason": "PodFailed"}],
                "containerStatuses": [status], "initContainerStatuses": [status],
            },
        })
    }

    /// What `k8s-openapi` makes of it, and we of that. A field that the API does not have, or has under another name, is gone then.
    fn by_the_api(sent: &Value) -> Pod {
        let whole: whole::Pod = serde_json::from_value(sent.clone()).unwrap();
        serde_json::from_value(serde_json::to_value(whole).unwrap()).unwrap()
    }

    #[test]
    fn every_field_is_one_of_the_api() {
        let sent = everything();
        let read: Pod = serde_json::from_value(sent.clone()).unwrap();
        assert_eq!(read, by_the_api(&sent));
        let shown = format!("{read:?}").replace("tv_nsec: 0", "");
        for nothing in ["None", "[]", "{}", "\"\"", ": 0", ": false"] {
            assert!(!shown.contains(nothing), "a field that was not read, by its {nothing}: {shown}");
        }
    }

    #[test]
    fn pods_of_an_api_server_are_read_as_by_the_api() {
        let pods: Value = serde_json::from_str(include_str!("../../tests/pods.json")).unwrap();
        let pods = pods["items"].as_array().unwrap();
        assert!(pods.len() > 5, "{}", pods.len());
        for sent in pods {
            let read: Pod = serde_json::from_value(sent.clone()).unwrap();
            assert_eq!(read, by_the_api(sent), "{sent}");
        }
    }

    #[test]
    fn null_and_nothing_are_the_same() {
        let null = json!({
            "metadata": {"name": null, "annotations": null},
            "spec": {"containers": [{"name": "a", "env": null, "command": null, "lifecycle": null}], "initContainers": null},
            "status": null,
        });
        let nothing = json!({"metadata": {}, "spec": {"containers": [{"name": "a"}]}});
        let read = |sent| serde_json::from_value::<Pod>(sent).unwrap();
        assert_eq!(read(null), read(nothing));
        let null = json!({
            "metadata": null,
            "spec": {"containers": [{
                "name": null, "env": [{"name": null}], "ports": [{"containerPort": null}], "livenessProbe": {"httpGet": {"port": null}},
                "restartPolicyRules": [{"exitCodes": {"operator": null}}],
            }]},
            "status": {
                "conditions": [{"type": null, "status": null}],
                "containerStatuses": [{"name": null, "ready": null, "restartCount": null, "state": {"terminated": {"exitCode": null}}}],
            },
        });
        assert_eq!(read(null.clone()), by_the_api(&null));
        assert_eq!(read(json!({"spec": {"containers": null}})), read(json!({"spec": {}})));
        assert_eq!(read(json!({})), Pod::default());
    }

    #[test]
    fn what_is_of_another_kind_is_refused_with_what_was_expected() {
        let refused = |sent: Value| serde_json::from_value::<Pod>(sent).unwrap_err().to_string();
        let deleted = |at: Value| json!({"metadata": {"deletionTimestamp": at}});
        for (at, found) in [(json!("yesterday"), "string \"yesterday\""), (json!(5), "integer `5`")] {
            let error = refused(deleted(at));
            assert!(
                error.contains(found) && error.contains("expected a time as 2006-01-02T15:04:05Z"),
                "{error}"
            );
        }
        let probed = |port: Value| json!({"spec": {"containers": [{"name": "a", "livenessProbe": {"httpGet": {"port": port}}}]}});
        for (port, expected) in [
            (json!(true), "expected a number or a name"),
            (json!(2_147_483_648_u32), "expected a number of 32 bits"),
            (json!(-2_147_483_649_i64), "expected a number of 32 bits"),
        ] {
            let error = refused(probed(port));
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_port_is_a_number_or_a_name() {
        let read = |sent: Value| serde_json::from_value::<IntOrString>(sent).unwrap();
        assert_eq!(read(json!(8080)), IntOrString::Int(8080));
        assert_eq!(read(json!(-1)), IntOrString::Int(-1));
        assert_eq!(read(json!("admin")), IntOrString::String("admin".into()));
    }

    /// Before it the main containers may be those of the past.
    #[test]
    fn only_its_own_annotation_makes_a_bookmark_the_end_of_what_there_was() {
        let ends = |annotations: Value| {
            let mark: Bookmark =
                serde_json::from_value(json!({"metadata": {"annotations": annotations}})).unwrap();
            mark.ends_initial_events()
        };
        assert!(ends(json!({"k8s.io/initial-events-end": "true"})));
        assert!(!ends(json!({"k8s.io/initial-events-end": "false"})));
        assert!(!ends(json!({"k8s.io/other": "true"})));
        assert!(!ends(json!(null)));
    }

    #[test]
    fn a_pods_uid_is_the_one_of_its_metadata() {
        let uid = |sent| serde_json::from_value::<Pod>(sent).unwrap().uid().map(str::to_owned);
        assert_eq!(uid(everything()).as_deref(), Some("u"));
        assert_eq!(uid(json!({})), None);
    }

    #[test]
    fn a_pods_name_is_found_by_its_uid() {
        let page = |sent| serde_json::from_value::<PodNames>(sent).unwrap();
        let one = page(json!({
            "metadata": {"continue": "more"}, "items": [{"metadata": {"name": "a", "uid": "1"}}, {"metadata": {"name": "b", "uid": "2"}}],
        }));
        assert_eq!(one.next(), Some("more"));
        assert_eq!(one.name_of("2").as_deref(), Some("b"));
        let none = page(json!({"metadata": {"continue": ""}, "items": null}));
        assert_eq!(none.next(), None);
        assert_eq!(none.name_of("2"), None);
    }
}
