//! What a manifest may ask for that this machine would get wrong.
//!
//! A field is refused when the containers could tell that it was not kept; what they cannot see, such as images,
//! resources and security contexts, is ignored.

use k8s_openapi::api::batch::v1::JobSpec;
use k8s_openapi::api::core::v1::{Container, EnvVar, LifecycleHandler, Pod, PodSpec, Probe};
use nix::sys::signal::Signal;

use super::{ManifestError, Workload};
use crate::play::env::field;

/// Where the kubelet mounts the service account; a mount there is what the stand-in variables are for.
const SERVICE_ACCOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

fn refuse(
    container: Option<&Container>,
    field: impl Into<String>,
    reason: impl Into<String>,
) -> ManifestError {
    ManifestError::Unplayable {
        container: container.map(|container| container.name.clone()),
        field: field.into(),
        reason: reason.into(),
    }
}

/// Refuses `field` when it is `present`.
fn absent(
    present: bool,
    container: Option<&Container>,
    field: &str,
    reason: &str,
) -> Result<(), ManifestError> {
    if present { Err(refuse(container, field, reason)) } else { Ok(()) }
}

pub(super) fn check(workload: &Workload) -> Result<(), ManifestError> {
    if let Workload::Job(job) = workload {
        check_job(job.spec.as_ref().ok_or_else(|| refuse(None, "spec", "it is missing"))?)?;
    }
    let name = match workload {
        Workload::Pod(pod) => pod.metadata.name.as_ref(),
        Workload::Job(job) => job.metadata.name.as_ref(),
    };
    absent(name.is_none_or(String::is_empty), None, "metadata.name", "it is missing")?;
    check_pod(workload.pod_spec().ok_or_else(|| refuse(None, "spec", "it is missing"))?)
}

fn check_job(spec: &JobSpec) -> Result<(), ManifestError> {
    let one_pod = "a Job is played with one Pod at a time";
    absent(spec.completions.is_some_and(|count| count != 1), None, "completions", one_pod)?;
    absent(spec.parallelism.is_some_and(|count| count != 1), None, "parallelism", one_pod)?;
    absent(spec.completion_mode.as_deref() == Some("Indexed"), None, "completionMode", one_pod)?;
    let no_controller = "only backoffLimit decides when a Job has failed";
    absent(spec.pod_failure_policy.is_some(), None, "podFailurePolicy", no_controller)?;
    absent(spec.success_policy.is_some(), None, "successPolicy", no_controller)?;
    absent(spec.active_deadline_seconds.is_some(), None, "activeDeadlineSeconds", no_controller)?;
    absent(spec.suspend == Some(true), None, "suspend", "a suspended Job has nothing to play")?;
    let policy = spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
    let restarts = !matches!(policy, Some("Never" | "OnFailure"));
    absent(restarts, None, "template.spec.restartPolicy", "a Job's must be `Never` or `OnFailure`")
}

fn check_pod(spec: &PodSpec) -> Result<(), ManifestError> {
    let no_namespaces = "there are no namespaces or networks here";
    absent(spec.host_network == Some(true), None, "hostNetwork", no_namespaces)?;
    absent(spec.host_pid == Some(true), None, "hostPID", no_namespaces)?;
    absent(spec.share_process_namespace == Some(true), None, "shareProcessNamespace", no_namespaces)?;
    absent(
        spec.host_aliases.as_ref().is_some_and(|aliases| !aliases.is_empty()),
        None,
        "hostAliases",
        no_namespaces,
    )?;
    absent(spec.active_deadline_seconds.is_some(), None, "activeDeadlineSeconds", "it is not counted here")?;
    let gated = spec.readiness_gates.as_ref().is_some_and(|gates| !gates.is_empty());
    absent(gated, None, "readinessGates", "nobody here would set the conditions")?;
    absent(spec.ephemeral_containers.is_some(), None, "ephemeralContainers", "a manifest cannot have any")?;
    let policy = spec.restart_policy.as_deref();
    let unknown = !matches!(policy, None | Some("Always" | "OnFailure" | "Never"));
    absent(unknown, None, "restartPolicy", "expected `Always`, `OnFailure` or `Never`")?;
    absent(spec.containers.is_empty(), None, "containers", "it is missing")?;

    let mut names = Vec::new();
    for container in spec.init_containers.iter().flatten() {
        let sidecar = container.restart_policy.as_deref() == Some("Always");
        if !sidecar {
            let probed = container.startup_probe.is_some()
                || container.readiness_probe.is_some()
                || container.liveness_probe.is_some();
            let reason = "an init container that is no sidecar may have none";
            absent(probed || container.lifecycle.is_some(), Some(container), "probes and lifecycle", reason)?;
        }
        check_container(container, &mut names)?;
    }
    for container in &spec.containers {
        check_container(container, &mut names)?;
    }
    Ok(())
}

fn check_container<'a>(container: &'a Container, names: &mut Vec<&'a str>) -> Result<(), ManifestError> {
    let here = Some(container);
    absent(names.contains(&container.name.as_str()), here, "name", "another container has the same")?;
    names.push(&container.name);
    let no_command = container.command.as_ref().is_none_or(Vec::is_empty);
    absent(no_command, here, "command", "it is missing, and there are no images that could say what to run")?;
    let policy = container.restart_policy.as_deref();
    let unknown = !matches!(policy, None | Some("Always" | "OnFailure" | "Never"));
    absent(unknown, here, "restartPolicy", "expected `Always`, `OnFailure` or `Never`")?;
    let other_action = container.restart_policy_rules.iter().flatten().find(|rule| rule.action != "Restart");
    absent(other_action.is_some(), here, "restartPolicyRules", "the only action played is `Restart`")?;
    absent(
        container.env_from.as_ref().is_some_and(|sources| !sources.is_empty()),
        here,
        "envFrom",
        "there are no ConfigMaps and Secrets here; use `env` with values",
    )?;
    for variable in container.env.iter().flatten() {
        check_variable(container, variable)?;
    }
    let mounts = container.volume_mounts.iter().flatten();
    if let Some(mount) =
        mounts.clone().find(|mount| mount.mount_path.trim_end_matches('/') != SERVICE_ACCOUNT_PATH)
    {
        let reason =
            format!("`{}` would have to be mounted, and there are no volumes here", mount.mount_path);
        return Err(refuse(here, "volumeMounts", reason));
    }
    absent(container.volume_devices.is_some(), here, "volumeDevices", "there are no volumes here")?;
    absent(container.tty == Some(true), here, "tty", "containers get no terminal here")?;
    absent(container.stdin == Some(true), here, "stdin", "nobody could attach to it here")?;

    let probes = [
        ("startupProbe", &container.startup_probe),
        ("readinessProbe", &container.readiness_probe),
        ("livenessProbe", &container.liveness_probe),
    ];
    for (name, probe) in probes {
        if let Some(probe) = probe {
            check_probe(container, name, probe)?;
        }
    }
    if let Some(lifecycle) = &container.lifecycle {
        if let Some(signal) = &lifecycle.stop_signal {
            absent(
                signal.parse::<Signal>().is_err(),
                here,
                "lifecycle.stopSignal",
                "there is no such signal",
            )?;
        }
        for (name, hook) in
            [("lifecycle.postStart", &lifecycle.post_start), ("lifecycle.preStop", &lifecycle.pre_stop)]
        {
            if let Some(hook) = hook {
                check_hook(container, name, hook)?;
            }
        }
    }
    Ok(())
}

fn check_variable(container: &Container, variable: &EnvVar) -> Result<(), ManifestError> {
    let Some(source) = &variable.value_from else { return Ok(()) };
    let place = format!("env {}", variable.name);
    let Some(reference) = &source.field_ref else {
        let reason = "of all sources there is only `fieldRef` here; use a value";
        return Err(refuse(Some(container), place, reason));
    };
    let known = field(&Pod::default(), &reference.field_path).is_some();
    absent(!known, Some(container), &place, "there is no such field in the downward API")
}

fn check_probe(container: &Container, name: &str, probe: &Probe) -> Result<(), ManifestError> {
    absent(probe.grpc.is_some(), Some(container), name, "gRPC probes are not played")?;
    let https = probe.http_get.as_ref().is_some_and(|get| get.scheme.as_deref() == Some("HTTPS"));
    absent(https, Some(container), name, "HTTPS probes are not played")?;
    let nothing = probe.exec.is_none() && probe.http_get.is_none() && probe.tcp_socket.is_none();
    absent(nothing, Some(container), name, "it has nothing to ask")
}

fn check_hook(container: &Container, name: &str, hook: &LifecycleHandler) -> Result<(), ManifestError> {
    let https = hook.http_get.as_ref().is_some_and(|get| get.scheme.as_deref() == Some("HTTPS"));
    absent(https, Some(container), name, "HTTPS hooks are not played")?;
    let nothing = hook.exec.is_none() && hook.http_get.is_none() && hook.sleep.is_none();
    absent(nothing, Some(container), name, "it has nothing to do")
}

#[cfg(test)]
mod tests {
    use crate::manifest::{Manifest, ManifestError};

    /// The error of a Pod whose one container has these fields as well.
    fn refused(container: &str, spec: &str) -> ManifestError {
        let yaml = format!(
            "kind: Pod\nmetadata: {{ name: web }}\nspec:\n  containers:\n  - {{ name: main, {container} }}\n  {spec}\n"
        );
        Manifest::parse(&yaml).expect_err("refused")
    }

    #[track_caller]
    fn assert_names(error: &ManifestError, field: &str, container: Option<&str>) {
        let ManifestError::Unplayable { container: found, field: name, .. } = error else {
            panic!("not a refusal: {error}");
        };
        assert_eq!((name.as_str(), found.as_deref()), (field, container));
    }

    #[test]
    fn a_refusal_names_field_and_container() {
        let main = Some("main");
        assert_names(&refused("image: nginx", ""), "command", main);
        let command = "command: [/bin/true]";
        assert_names(
            &refused(&format!("{command}, envFrom: [{{ secretRef: {{ name: s }} }}]"), ""),
            "envFrom",
            main,
        );
        let mount = "volumeMounts: [{ name: data, mountPath: /data }]";
        assert_names(&refused(&format!("{command}, {mount}"), ""), "volumeMounts", main);
        let secret = "env: [{ name: A, valueFrom: { secretKeyRef: { name: s, key: k } } }]";
        assert_names(&refused(&format!("{command}, {secret}"), ""), "env A", main);
        assert_names(
            &refused(&format!("{command}, readinessProbe: {{ grpc: {{ port: 1 }} }}"), ""),
            "readinessProbe",
            main,
        );
        assert_names(&refused(command, "hostNetwork: true"), "hostNetwork", None);
        assert_eq!(
            refused(&format!("{command}, tty: true"), "").to_string(),
            "`tty` of container `main` cannot be played: containers get no terminal here"
        );
    }

    #[test]
    fn what_a_container_cannot_see_is_ignored() {
        let yaml = "
kind: Pod
metadata: { name: web, labels: { a: b } }
spec:
  nodeSelector: { disk: fast }
  securityContext: { runAsUser: 1000 }
  containers:
  - name: main
    image: nginx:1
    imagePullPolicy: Always
    command: [/bin/true]
    resources: { limits: { cpu: 1 } }
    securityContext: { privileged: true }
    volumeMounts: [{ name: token, mountPath: /var/run/secrets/kubernetes.io/serviceaccount }]
";
        assert!(Manifest::parse(yaml).is_ok());
    }
}
