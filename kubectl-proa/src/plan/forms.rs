//! The changes that each form makes, as JSON Patch.

use serde_json::{Value, json};

use crate::check::{native, switched_on};
use crate::document::{Node, Path};
use crate::workload::Workload;

/// Where the binary is put.
const BIN: &str = "/proa-bin";

/// Changes of one Pod template, collected and then written down once.
pub(super) struct Patch<'a> {
    workload: &'a Workload,
    probes: Vec<Value>,
    native: Vec<String>,
    before: Vec<Value>,
    last: Vec<Value>,
    rest: Vec<Value>,
    containers: Vec<Value>,
    volumes: Vec<Value>,
}

impl<'a> Patch<'a> {
    pub(super) fn of(workload: &'a Workload) -> Self {
        Self {
            workload,
            probes: Vec::new(),
            native: Vec::new(),
            before: Vec::new(),
            last: Vec::new(),
            rest: Vec::new(),
            containers: Vec::new(),
            volumes: Vec::new(),
        }
    }

    pub(super) fn add_startup_probe(&mut self, name: &str) {
        let at = self.workload.container(name).field("startupProbe");
        let probe = native(self.workload, name).get("startupProbe").cloned().unwrap_or(Value::Null);
        self.probes.push(add(&at, &probe));
    }

    pub(super) fn make_native(&mut self, name: &str) {
        self.native.push(name.to_owned());
    }

    pub(super) fn switch_on(&mut self, needs: &str, name: &str) {
        let at = self.workload.container(name);
        let Some((under, value)) = switched_on(self.workload, needs, &at) else { return };
        self.merge(&under, &value);
    }

    /// `proa wait`, behind every native sidecar.
    pub(super) fn wait(&mut self, image: &str, flags: &[String]) {
        let args: Vec<_> =
            ["wait", "--api=off"].iter().map(ToString::to_string).chain(flags.iter().cloned()).collect();
        self.last.push(json!({"name": "proa-wait", "image": image, "args": args}));
    }

    /// proa in front of each main container's command.
    pub(super) fn wrap(&mut self, mains: &[&str], image: &str) {
        let mount = |read_only| json!({"name": "proa-bin", "mountPath": BIN, "readOnly": read_only});
        self.volumes.push(json!({"name": "proa-bin", "emptyDir": {"sizeLimit": "32Mi"}}));
        let mut install =
            json!({"name": "install-proa", "image": image, "args": ["install", format!("{BIN}/")]});
        install["volumeMounts"] = json!([{"name": "proa-bin", "mountPath": BIN}]);
        self.before.push(install);
        for main in mains {
            let at = self.workload.container(main);
            let command = self.workload.node.get(&at.field("command")).map_or(json!([]), Node::json);
            let words = [format!("{BIN}/proa"), "--".to_owned()].map(Value::from);
            let words: Vec<_> =
                words.into_iter().chain(command.as_array().cloned().unwrap_or_default()).collect();
            self.rest.push(add(&at.field("command"), &words.into()));
            self.append(&at.field("volumeMounts"), &mount(true));
        }
    }

    /// A helper container, which ends the sidecars after these.
    pub(super) fn help(&mut self, image: &str, mains: &[&str]) {
        let until = mains.iter().map(|main| format!("--until-exit={main}"));
        let args: Vec<_> = ["sidecar".to_owned()].into_iter().chain(until).collect();
        self.containers.push(json!({"name": "proa", "image": image, "args": args}));
    }

    /// All of it, in an order in which no operation moves what a later one names.
    pub(super) fn operations(mut self) -> Vec<Value> {
        let spec = self.workload.template.field("spec");
        let mut operations = std::mem::take(&mut self.probes);
        operations.append(&mut self.rest);
        for volume in &self.volumes {
            operations.extend(appended(self.workload, &spec.field("volumes"), volume));
        }
        for container in &self.containers {
            operations.push(add(&spec.field("containers").key("-"), container));
        }
        let init = spec.field("initContainers");
        let added = !self.native.is_empty() || !self.last.is_empty() || !self.before.is_empty();
        if added && self.workload.node.get(&init).is_none() {
            operations.push(add(&init, &json!([])));
        }
        let native = self.native.iter().map(|name| native(self.workload, name));
        operations
            .extend(native.chain(self.last.iter().cloned()).map(|container| add(&init.key("-"), &container)));
        operations.extend(self.before.iter().map(|container| add(&init.element(0), container)));
        // From behind, so that places stay what they are.
        let place =
            |name: &String| self.workload.regular().iter().position(|container| container.name == *name);
        let mut places: Vec<_> = self.native.iter().filter_map(place).collect();
        places.sort_unstable_by(|a, b| b.cmp(a));
        let remove =
            |place: usize| json!({"op": "remove", "path": spec.field("containers").element(place).pointer()});
        operations.extend(places.into_iter().map(remove));
        operations
    }

    fn append(&mut self, list: &Path, element: &Value) {
        self.rest.extend(appended(self.workload, list, element));
    }

    /// Sets these fields, and fields within maps, one by one.
    fn merge(&mut self, under: &Path, value: &Value) {
        for (key, value) in value.as_object().into_iter().flatten() {
            let at = under.key(key);
            match (value, self.workload.node.get(&at)) {
                (Value::Object(_), Some(_)) => self.merge(&at, value),
                _ => self.rest.push(add(&at, value)),
            }
        }
    }
}

fn appended(workload: &Workload, list: &Path, element: &Value) -> Vec<Value> {
    let empty = workload.node.get(list).is_none().then(|| add(list, &json!([])));
    empty.into_iter().chain([add(&list.key("-"), element)]).collect()
}

fn add(at: &Path, value: &Value) -> Value {
    json!({"op": "add", "path": at.pointer(), "value": value})
}

/// The Pod template with these operations done.
pub(super) fn applied(workload: &Workload, operations: &[Value]) -> Value {
    let mut object = workload.node.json();
    let operations = serde_json::from_value::<json_patch::Patch>(operations.to_vec().into());
    if let Ok(patch) = operations {
        // Every path was read from this very object.
        let _ = json_patch::patch(&mut object, &patch);
    }
    object.pointer(&workload.template.pointer()).cloned().unwrap_or(Value::Null)
}

/// What a proa that watches its Pod is allowed by.
pub(super) fn role(workload: &Workload) -> Vec<Value> {
    let account = workload.service_account();
    let mut metadata = json!({"name": "proa"});
    if let Some(namespace) = &workload.namespace {
        metadata["namespace"] = json!(namespace);
    }
    let mut subject = json!({"kind": "ServiceAccount", "name": account});
    if let Some(namespace) = &workload.namespace {
        subject["namespace"] = json!(namespace);
    }
    let api = "rbac.authorization.k8s.io";
    vec![
        json!({"apiVersion": format!("{api}/v1"), "kind": "Role", "metadata": metadata,
            "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["watch"]}]}),
        json!({"apiVersion": format!("{api}/v1"), "kind": "RoleBinding", "metadata": metadata,
            "roleRef": {"apiGroup": api, "kind": "Role", "name": "proa"}, "subjects": [subject]}),
    ]
}
