//! `kubectl proa plan` as its users run it, and what its proposals are worth.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use support::run;

fn plan(manifest: &str, more: &[&str]) -> Vec<Value> {
    let output = run(&[&["plan", "-f", "-", "-o", "json"], more].concat(), manifest);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn check(manifest: &str) -> Vec<String> {
    let output = run(&["check", "-f", "-", "-o", "json"], manifest);
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    found.iter().map(|one| one["rule"].as_str().unwrap().to_owned()).collect()
}

/// The manifest with what is proposed for it, as a list of objects.
fn applied(manifest: &str, proposal: &Value) -> String {
    let mut object = kubectl_proa::document::read(manifest).unwrap()[0].json();
    let patch: json_patch::Patch = serde_json::from_value(proposal["patch"].clone()).unwrap();
    json_patch::patch(&mut object, &patch).unwrap();
    let mut items = vec![object];
    items.extend(proposal["objects"].as_array().unwrap().iter().cloned());
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

fn forms(proposal: &Value) -> String {
    let forms: Vec<_> =
        proposal["forms"].as_array().unwrap().iter().map(|form| form.as_str().unwrap()).collect();
    forms.join(" + ")
}

fn charts() -> Vec<(PathBuf, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/charts");
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

#[test]
fn what_charts_make_is_found_and_cured() {
    let charts = charts();
    assert!(charts.len() >= 10);
    for (path, text) in charts {
        let expected = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("# {key}:")));
            line.unwrap()
                .split(',')
                .map(str::trim)
                .filter(|word| !word.is_empty())
                .map(ToOwned::to_owned)
                .collect()
        };
        let expected_rules: Vec<String> = expected("check");
        let expected_forms: Vec<String> = expected("plan");
        assert_eq!(check(&text), expected_rules, "{}", path.display());
        let proposals = plan(&text, &[]);
        assert_eq!(proposals.len(), 1, "{}", path.display());
        assert_eq!(forms(&proposals[0]), expected_forms[0], "{}: {:#}", path.display(), proposals[0]);
        if expected_forms == ["nothing"] {
            assert_eq!(proposals[0]["patch"], json!([]));
            continue;
        }
        let cured = applied(&text, &proposals[0]);
        let left = check(&cured);
        // A script that shuts the sidecar down itself may go on to do so.
        assert!(left.is_empty() || left == ["sidecar-unprobed"], "{}: {left:?}\n{cured}", path.display());
        let again = plan(&cured, &[]);
        assert_eq!(forms(&again[0]), "nothing", "{}", path.display());
    }
}

#[test]
fn the_examples_need_nothing_more() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let output = run(&["plan", "-o", "json", "-f", examples.to_str().unwrap()], "");
    let proposals: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert!(proposals.len() > 10, "{}", proposals.len());
    for proposal in &proposals {
        assert_eq!(forms(proposal), "nothing", "{proposal:#}");
    }
}

const SEVERAL: &str = "
apiVersion: v1
kind: Pod
metadata: {name: work}
spec:
  restartPolicy: Never
  containers:
  - {name: web, image: w}
  - {name: main, image: m, command: [/app]}
  - {name: envoy, image: envoyproxy/envoy}
";

#[test]
fn native_ones_come_in_their_order_and_are_waited_for() {
    let proposal = &plan(SEVERAL, &["--sidecar=web", "--image=registry.example/proa:1"])[0];
    assert_eq!(forms(proposal), "wait + native");
    let cured: Value = serde_json::from_str(&applied(SEVERAL, proposal)).unwrap();
    let spec = &cured["items"][0]["spec"];
    let names = |list: &str| {
        let list = spec[list].as_array().unwrap();
        list.iter().map(|container| container["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names("initContainers"), ["web", "envoy", "proa-wait"]);
    assert_eq!(names("containers"), ["main"]);
    let wait = &spec["initContainers"][2];
    assert_eq!(wait["image"], "registry.example/proa:1");
    assert_eq!(wait["args"], json!(["wait", "--api=off", "--wait-http-get=http://localhost:9901/ready"]));
    assert_eq!(check(&cured.to_string()), [""; 0]);
}

#[test]
fn text_has_yaml_to_paste() {
    let output = run(&["plan", "-f", "-"], SEVERAL);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("stdin:2: Pod/work: wait + native\n"), "{text}");
    let yaml = text.split("(the Pod itself):\n").nth(1).unwrap();
    let documents = kubectl_proa::document::read(yaml).unwrap();
    assert_eq!(documents[0].json()["spec"]["containers"].as_array().unwrap().len(), 2);
}
