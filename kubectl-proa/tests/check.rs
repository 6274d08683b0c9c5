//! `kubectl proa check` as its users run it.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use kubectl_proa::finding::Severity;
use kubectl_proa::rules::{RULES, Rule};
use serde_json::Value;
use support::run;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn json(output: &Output) -> Vec<Value> {
    serde_json::from_slice(&output.stdout).unwrap()
}

fn manifest(rule: &Rule, kind: &str) -> PathBuf {
    root().join("tests/rules").join(rule.name).join(kind).with_extension("yaml")
}

fn findings(path: &Path) -> (i32, Vec<Value>) {
    let output = run(&["check", "-o", "json", "-f", path.to_str().unwrap()], "");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    (code(&output), json(&output))
}

#[test]
fn every_rule_finds_what_it_is_for_and_nothing_else() {
    for rule in RULES {
        let (code, found) = findings(&manifest(rule, "good"));
        assert!(found.is_empty() && code == 0, "{}: good: {found:#?}", rule.name);

        let path = manifest(rule, "bad");
        let (code, found) = findings(&path);
        let text = fs::read_to_string(&path).unwrap();
        let line = text.lines().position(|line| line.ends_with("# found here")).unwrap() + 1;
        let [one] = found.as_slice() else { panic!("{}: bad: {found:#?}", rule.name) };
        assert_eq!(
            (one["rule"].as_str(), one["line"].as_u64()),
            (Some(rule.name), Some(line as u64)),
            "{one:#}"
        );
        assert_eq!(code, i32::from(rule.severity > Severity::Note), "{}", rule.name);
        assert_eq!(one["severity"], rule.severity.to_string());
        let yaml = one["fix"]["yaml"].as_str().unwrap_or_default();
        let readable = kubectl_proa::document::read(yaml).is_ok_and(|documents| documents.len() == 1);
        let needs_none = ["no-such-container", "annotation-malformed", "out-of-place"].contains(&rule.name);
        assert!(readable || needs_none, "{}: {one:#}", rule.name);
    }
    let folders = fs::read_dir(root().join("tests/rules")).unwrap();
    let folders: BTreeSet<_> =
        folders.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(folders, RULES.iter().map(|rule| rule.name.to_owned()).collect());
}

#[test]
fn nothing_is_wrong_with_the_examples() {
    let examples = root().join("../examples");
    let output = run(&["check", "-o", "json", "-f", examples.to_str().unwrap()], "");
    assert_eq!((code(&output), json(&output)), (0, Vec::new()));
    let text = run(&["check", "-f", examples.to_str().unwrap()], "");
    let text = String::from_utf8(text.stdout).unwrap();
    let files = fs::read_dir(examples)
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|ending| ending == "yaml"));
    let templates: usize =
        text.trim().rsplit(" in ").next().unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(templates >= files.count(), "{text}");
}

#[test]
fn standard_input_folders_and_lists_are_read() {
    let bad = fs::read_to_string(manifest(RULES[0], "bad")).unwrap();
    let output = run(&["check", "-f", "-"], &bad);
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(code(&output), 1);
    assert!(text.starts_with("stdin:11:5: error: sidecar-runs-on: nothing shuts down `envoy`"), "{text}");
    assert!(text.contains("Pod/work spec.containers[1]") && text.contains("restartPolicy: Always"), "{text}");
    assert!(text.ends_with("1 error, 0 warnings, 0 notes in 1 Pod template\n"), "{text}");

    let all = root().join("tests/rules");
    let all = all.to_str().unwrap();
    assert_eq!(code(&run(&["check", "-f", all], "")), 2, "a folder of folders has no manifest of its own");
    let output = run(&["check", "-R", "-f", all, "-o", "json"], "");
    let found: BTreeSet<_> =
        json(&output).iter().map(|one| one["rule"].as_str().unwrap().to_owned()).collect();
    assert_eq!(found, RULES.iter().map(|rule| rule.name.to_owned()).collect());

    let item = bad.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n");
    let item = item.replacen("  apiVersion", "- apiVersion", 1);
    let output =
        run(&["check", "-f", "-", "-o", "json"], &format!("apiVersion: v1\nkind: List\nitems:\n{item}"));
    assert_eq!(json(&output)[0]["line"], 14);
}

#[test]
fn what_cannot_be_read_is_2_and_hides_nothing_else() {
    let bad = fs::read_to_string(manifest(RULES[0], "bad")).unwrap();
    for (arguments, stdin, said) in [
        (vec!["check", "-f", "-"], "a: [\n", "stdin: not YAML"),
        (vec!["check", "-f", "-"], "{{ if .Values.x }}\n", "helm template"),
        (vec!["check", "-f", "-"], "kind: Job\nmetadata: {name: x}\nspec: {}\n", "stdin:3: Job/x"),
        (vec!["check", "-f", "-"], "kind: Job\nspec: {}\n", "no Pod template at spec.template"),
        (vec!["check", "-f", "-"], "", "no Kubernetes object"),
        (vec!["check", "-f", "/nowhere.yaml"], "", "/nowhere.yaml: No such file"),
        (vec!["check"], "", "nothing to read"),
        (vec!["check", "job.yaml"], "", "expected -f job.yaml"),
        (vec!["check", "-f", "-", "--template=Rollout"], "", "expected KIND=PATH"),
        (vec!["check", "-f", "-", "pod/x"], "", "cannot be used with"),
    ] {
        let output = run(&arguments, stdin);
        let stderr = String::from_utf8(output.stderr.clone()).unwrap();
        assert_eq!(code(&output), 2, "{arguments:?}: {stderr}");
        assert!(stderr.contains(said), "{arguments:?}: {stderr}");
    }
    let output = run(&["check", "-f", "-", "-o", "json"], &format!("{bad}---\nkind: Job\nspec: {{}}\n"));
    assert_eq!((code(&output), json(&output).len()), (2, 1));
}

#[test]
fn sarif_names_rules_places_and_levels() {
    let path = manifest(RULES[0], "bad");
    let output = run(&["check", "-o", "sarif", "-f", path.to_str().unwrap()], "");
    assert_eq!(code(&output), 1);
    let log: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(log["version"], "2.1.0");
    let run = &log["runs"][0];
    assert_eq!(run["tool"]["driver"]["rules"].as_array().unwrap().len(), RULES.len());
    let result = &run["results"][0];
    let index = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
    assert_eq!(run["tool"]["driver"]["rules"][index]["id"], result["ruleId"]);
    assert_eq!((&result["ruleId"], &result["level"]), (&"sidecar-runs-on".into(), &"error".into()));
    let place = &result["locations"][0]["physicalLocation"];
    assert_eq!(place["region"]["startLine"], 11);
    assert!(place["artifactLocation"]["uri"].as_str().unwrap().ends_with("sidecar-runs-on/bad.yaml"));
}

#[test]
fn a_custom_kind_is_read_where_its_path_says() {
    let bad = fs::read_to_string(manifest(RULES[0], "bad")).unwrap();
    let pod: Value = serde_json::to_value(kubectl_proa::document::read(&bad).unwrap()[0].json()).unwrap();
    let custom =
        serde_json::json!({"kind": "Workflow", "metadata": {"name": "x"}, "spec": {"podTemplate": pod}});
    let text = custom.to_string();
    assert_eq!(code(&run(&["check", "-f", "-"], &text)), 0, "no Pod template is known there");
    assert_eq!(code(&run(&["check", "-f", "-", "--template=Workflow=spec.podTemplate"], &text)), 1);
}

#[test]
fn objects_of_the_cluster_come_by_kubectl() {
    // A kubectl that knows one Pod, and shows no roles.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kubectl-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let script = folder.join("kubectl");
    let bad = manifest(RULES[0], "bad");
    let text = format!(
        "#!/bin/sh\necho \"$@\" >>{0}/calls\ncase \"$2\" in\n  pod/work) cat {1} ;;\n  *) echo forbidden >&2; exit 1 ;;\nesac\n",
        folder.display(),
        bad.display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let run = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_kubectl-proa")).args(arguments).env("PATH", &path).output().unwrap()
    };
    let output = run(&["check", "pod/work", "-n", "jobs", "--context=c"]);
    assert_eq!(code(&output), 1, "{}", String::from_utf8_lossy(&output.stderr));
    let calls = fs::read_to_string(folder.join("calls")).unwrap();
    assert!(
        calls.starts_with("get pod/work --output=yaml") && calls.contains("--namespace=jobs --context=c"),
        "{calls}"
    );
    let output = run(&["check", "pod/other"]);
    assert_eq!(code(&output), 2);
    assert!(String::from_utf8_lossy(&output.stderr).contains("kubectl get: forbidden"));
    fs::remove_dir_all(folder).unwrap();
}
