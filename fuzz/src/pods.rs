//! Pods: of the fields that proa reads, with values that mean something and values that do not.

use arbitrary::{Result, Unstructured};
use serde_json::{Map, Value, json};

const NAMES: [&str; 8] = ["main", "web", "istio-proxy", "daprd", "db", "envoy", "other", ""];
const IMAGES: [&str; 8] = [
    "app",
    "docker.io/istio/proxyv2:1.24",
    "gcr.io/cloud-sql-connectors/cloud-sql-proxy:2",
    "daprio/daprd",
    "cr.l5d.io/linkerd/proxy:edge",
    "hashicorp/vault@sha256:0",
    "envoyproxy/envoy:v1",
    "",
];
const WORDS: [&str; 24] = [
    "/proa",
    "proa",
    "sidecar",
    "--",
    "--until-exit=main",
    "--ready-file",
    "wait",
    "sh",
    "-c",
    "exec /x --admin-port=9193",
    "--quitquitquit",
    "--admin-port",
    "--admin-port=0",
    "--http-port=65536",
    "9191",
    "$(PORT)",
    "$(A)$(A)",
    "$$(A)",
    "$(",
    "--dapr-http-port",
    "--wait-for=web",
    "-K",
    "--config=/etc/run.sh",
    "-",
];
const VARIABLES: [&str; 8] =
    ["PORT", "A", "B", "PROXY_CONFIG", "ISTIO_QUIT_API", "CSQL_PROXY_QUITQUITQUIT", "", "STATUS_PORT"];
const VALUES: [&str; 10] = [
    "",
    "true",
    "9000",
    "$(B)$(B)",
    "$(A)",
    "{\"statusPort\":15021}",
    "statusPort: 1",
    "0.0.0.0:4191",
    "http://localhost:9000/quit",
    "65536",
];
const KEYS: [&str; 12] = [
    "proa.ironcorelabs.com/web.shutdown",
    "proa.ironcorelabs.com/web.ready",
    "proa.ironcorelabs.com/web.traffic",
    "proa.ironcorelabs.com/web.ignore",
    "proa.ironcorelabs.com/other.ignore",
    "proa.ironcorelabs.com/other.ready",
    "proa.ironcorelabs.com/shutdown",
    "proa.ironcorelabs.com/",
    "kubectl.kubernetes.io/default-container",
    "status.sidecar.istio.io/port",
    "proxy.istio.io/config",
    "dapr.io/enabled",
];
const ANNOTATIONS: [&str; 12] = [
    "POST http://localhost:9000/quit",
    "GET http://[::1]:1/",
    "POST http://10.0.0.1/quit",
    "POST http://localhost:0/",
    "http://127.0.0.1:1/ready",
    "pod",
    "own",
    "true",
    "false",
    "main",
    "15021",
    "concurrency: 1\nstatusPort: 15020",
];
const POLICIES: [&str; 4] = ["Always", "OnFailure", "Never", "Sometimes"];
const SIGNALS: [&str; 4] = ["SIGTERM", "SIGQUIT", "SIGRTMIN+3", "TERM"];
const TIMES: [&str; 4] =
    ["2023-11-14T22:13:20Z", "2023-11-14T22:13:50Z", "1970-01-01T00:00:00Z", "9999-12-31T23:59:59Z"];

/// A word of these, or any.
fn word(u: &mut Unstructured<'_>, words: &[&str]) -> Result<Value> {
    if u.ratio(1, 8)? {
        Ok(Value::from(u.arbitrary::<String>()?))
    } else {
        Ok(Value::from(*u.choose(words)?))
    }
}

/// A few, as many as there are bytes for.
fn some<T>(
    u: &mut Unstructured<'_>,
    most: usize,
    one: impl Fn(&mut Unstructured<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let count = u.int_in_range(0..=most)?;
    (0..count).map(|_| one(u)).collect()
}

/// An object's fields, each of them there or not.
struct Fields(Map<String, Value>);

impl Fields {
    fn new() -> Self {
        Self(Map::new())
    }

    /// `null` is as good as nothing.
    fn may(
        mut self,
        u: &mut Unstructured<'_>,
        name: &str,
        value: impl FnOnce(&mut Unstructured<'_>) -> Result<Value>,
    ) -> Result<Self> {
        match u.int_in_range(0..=8)? {
            0..=2 => {}
            3 => {
                self.0.insert(name.to_owned(), Value::Null);
            }
            _ => {
                self.0.insert(name.to_owned(), value(u)?);
            }
        }
        Ok(self)
    }

    fn has(mut self, name: &str, value: Value) -> Self {
        self.0.insert(name.to_owned(), value);
        self
    }

    fn done(self) -> Value {
        Value::Object(self.0)
    }
}

fn small(u: &mut Unstructured<'_>) -> Result<Value> {
    Ok(match u.int_in_range(0..=7)? {
        0 => json!(u.arbitrary::<i32>()?),
        1 => json!(0),
        2 => json!(-1),
        3 => json!(i32::MAX),
        _ => json!(u.int_in_range(1..=300)?),
    })
}

fn large(u: &mut Unstructured<'_>) -> Result<Value> {
    Ok(match u.int_in_range(0..=3)? {
        0 => json!(u.arbitrary::<i64>()?),
        1 => json!(i64::MAX),
        _ => small(u)?,
    })
}

fn boolean(u: &mut Unstructured<'_>) -> Result<Value> {
    Ok(Value::from(u.arbitrary::<bool>()?))
}

fn port(u: &mut Unstructured<'_>) -> Result<Value> {
    if u.ratio(1, 3)? { word(u, &["admin", "http"]) } else { small(u) }
}

fn probe(u: &mut Unstructured<'_>) -> Result<Value> {
    Ok(Fields::new()
        .may(u, "httpGet", |u| {
            Ok(Fields::new()
                .has("port", port(u)?)
                .may(u, "path", |u| word(u, &["/ready", "/healthz/ready", "/", "ready"]))?
                .done())
        })?
        .may(u, "initialDelaySeconds", small)?
        .may(u, "periodSeconds", small)?
        .may(u, "failureThreshold", small)?
        .may(u, "terminationGracePeriodSeconds", large)?
        .done())
}

fn variable(u: &mut Unstructured<'_>) -> Result<Value> {
    Ok(Fields::new()
        .has("name", word(u, &VARIABLES)?)
        .may(u, "value", |u| word(u, &VALUES))?
        .may(u, "valueFrom", |_| Ok(json!({"fieldRef": {"fieldPath": "metadata.name"}})))?
        .done())
}

fn container(u: &mut Unstructured<'_>, name: Value) -> Result<Value> {
    Ok(Fields::new()
        .has("name", name)
        .may(u, "image", |u| word(u, &IMAGES))?
        .may(u, "command", |u| Ok(some(u, 4, |u| word(u, &WORDS))?.into()))?
        .may(u, "args", |u| Ok(some(u, 4, |u| word(u, &WORDS))?.into()))?
        .may(u, "env", |u| Ok(some(u, 3, variable)?.into()))?
        .may(u, "envFrom", |_| Ok(json!([{"configMapRef": {"name": "m"}}])))?
        .may(u, "ports", |u| {
            let one = |u: &mut Unstructured<'_>| {
                let fields = Fields::new().has("containerPort", small(u)?);
                Ok(fields.may(u, "name", |u| word(u, &["admin", "http"]))?.done())
            };
            Ok(some(u, 2, one)?.into())
        })?
        .may(u, "readinessProbe", probe)?
        .may(u, "startupProbe", probe)?
        .may(u, "livenessProbe", probe)?
        .may(u, "lifecycle", |u| {
            Ok(Fields::new()
                .may(u, "preStop", |_| Ok(json!({"exec": {"command": ["sleep", "1"]}})))?
                .may(u, "stopSignal", |u| word(u, &SIGNALS))?
                .done())
        })?
        .may(u, "restartPolicy", |u| word(u, &POLICIES))?
        .may(u, "restartPolicyRules", |u| {
            let one = |u: &mut Unstructured<'_>| {
                let codes =
                    Fields::new()
                        .has("operator", word(u, &["In", "NotIn"])?)
                        .may(u, "values", |u| Ok(some(u, 3, small)?.into()))?;
                Ok(Fields::new().has("action", "Restart".into()).has("exitCodes", codes.done()).done())
            };
            Ok(some(u, 2, one)?.into())
        })?
        .done())
}

fn state(u: &mut Unstructured<'_>) -> Result<Value> {
    Ok(match u.int_in_range(0..=4)? {
        0 => json!({}),
        1 => {
            json!({"waiting": {"reason": word(u, &["ContainerCreating", "CrashLoopBackOff", "ImagePullBackOff"])?}})
        }
        2 => {
            json!({"terminated": {"exitCode": small(u)?, "reason": word(u, &["Completed", "Error", "OOMKilled"])?}})
        }
        _ => json!({"running": {"startedAt": u.choose(&TIMES)?}}),
    })
}

fn status(u: &mut Unstructured<'_>, name: Value) -> Result<Value> {
    Ok(Fields::new()
        .has("name", name)
        .has("image", "i".into())
        .has("imageID", "i".into())
        .has("ready", boolean(u)?)
        .has("restartCount", small(u)?)
        .may(u, "containerID", |u| word(u, &["containerd://abc", "abc", "://", ""]))?
        .may(u, "state", state)?
        .may(u, "lastState", state)?
        .may(u, "stopSignal", |u| word(u, &SIGNALS))?
        .done())
}

/// A Pod.
///
/// # Errors
/// When there are not enough bytes for one.
pub fn pod(u: &mut Unstructured<'_>) -> Result<Value> {
    // The API server has each name once.
    let mut names = some(u, 5, |u| word(u, &NAMES))?;
    let mut seen = std::collections::BTreeSet::new();
    names.retain(|name| seen.insert(name.to_string()));
    let (mut init, mut regular) = (Vec::new(), Vec::new());
    let (mut init_statuses, mut statuses) = (Vec::new(), Vec::new());
    for name in names {
        let is_init = u.ratio(1, 3)?;
        let (containers, found) =
            if is_init { (&mut init, &mut init_statuses) } else { (&mut regular, &mut statuses) };
        containers.push(container(u, name.clone())?);
        if u.ratio(7, 8)? {
            found.push(status(u, name)?);
        }
    }
    let metadata = Fields::new()
        .may(u, "name", |u| word(u, &["p", "report-x7k2p"]))?
        .may(u, "uid", |u| word(u, &["3b5e8a3c-52ce-4f2a-9d0b-0a8e6a4cf2d1", ""]))?
        .may(u, "annotations", |u| {
            let mut found = Map::new();
            for (key, value) in some(u, 4, |u| Ok((word(u, &KEYS)?, word(u, &ANNOTATIONS)?)))? {
                found.insert(key.as_str().unwrap_or_default().to_owned(), value);
            }
            Ok(found.into())
        })?;
    let metadata = if u.ratio(1, 6)? {
        metadata.has("deletionTimestamp", (*u.choose(&TIMES)?).into()).may(
            u,
            "deletionGracePeriodSeconds",
            large,
        )?
    } else {
        metadata
    };
    let spec = Fields::new()
        .has("containers", regular.into())
        .has("initContainers", init.into())
        .may(u, "restartPolicy", |u| word(u, &POLICIES))?
        .may(u, "hostPID", boolean)?
        .may(u, "shareProcessNamespace", boolean)?
        .may(u, "terminationGracePeriodSeconds", large)?;
    let status = Fields::new()
        .may(u, "phase", |u| word(u, &["Pending", "Running", "Running", "Running", "Failed", "Succeeded"]))?
        .has("containerStatuses", statuses.into())
        .has("initContainerStatuses", init_statuses.into())
        .may(u, "conditions", |u| {
            let one = |u: &mut Unstructured<'_>| {
                Ok(json!({
                    "type": word(u, &["ContainersReady", "Ready"])?, "status": word(u, &["True", "False"])?,
                    "reason": word(u, &["PodFailed", "PodCompleted", "ContainersNotReady"])?,
                }))
            };
            Ok(some(u, 2, one)?.into())
        })?;
    Ok(
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata.done(), "spec": spec.done(), "status": status.done()}),
    )
}
