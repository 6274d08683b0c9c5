//! Where manifests come from: files, folders, standard input, the cluster.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};

use crate::check::Rights;
use crate::cli::Input;
use crate::document::{self, Node};
use crate::workload::{self, Workload};

/// What a file's name ends with that may be a manifest.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];

/// Everything that was read.
#[derive(Debug, Default)]
pub struct Manifests {
    /// The Pod templates.
    pub workloads: Vec<Workload>,
    /// Roles and bindings.
    pub rights: Rights,
    /// How many objects there were, of any kind.
    pub objects: usize,
    /// What could not be read.
    pub problems: Vec<String>,
}

struct Text {
    name: String,
    text: String,
}

/// Reads what was asked for.
///
/// # Errors
/// When there is nothing to read, or kubectl fails.
pub fn read(input: &Input) -> anyhow::Result<Manifests> {
    let mut found = Manifests::default();
    if input.resources.is_empty() {
        ensure!(
            !input.files.is_empty(),
            "nothing to read; expected -f PATH, -f - for standard input, or TYPE/NAME"
        );
        for path in &input.files {
            for text in texts(path, input.recursive, &mut found.problems) {
                add(&mut found, &text, input);
            }
        }
        return Ok(found);
    }
    if let Some(file) = input.resources.iter().find(|name| looks_like_file(name)) {
        bail!("`{file}` is a file; expected -f {file}, or TYPE/NAME for an object of the cluster");
    }
    let text = kubectl(input, &input.resources).context("cannot read the objects from the cluster")?;
    add(&mut found, &Text { name: "cluster".to_owned(), text }, input);
    let kinds = ["roles,rolebindings,clusterroles,clusterrolebindings".to_owned()];
    // Not everybody may see these.
    match kubectl(input, &kinds) {
        Ok(text) => {
            let mut rights = Manifests::default();
            add(&mut rights, &Text { name: "cluster".to_owned(), text }, input);
            found.rights = rights.rights;
        }
        Err(_) => found.rights = Rights::unknown(),
    }
    Ok(found)
}

fn looks_like_file(name: &str) -> bool {
    name == "-"
        || Path::new(name).extension().is_some_and(|ending| ENDINGS.iter().any(|known| ending == *known))
}

fn add(found: &mut Manifests, text: &Text, input: &Input) {
    let documents = match document::read(&text.text) {
        Ok(documents) => documents,
        Err(error) => {
            let hint = if text.text.contains("{{") {
                "; a chart's templates are read by `helm template`"
            } else {
                ""
            };
            found.problems.push(format!("{}: not YAML: {}{hint}", text.name, first_line(&error.to_string())));
            return;
        }
    };
    for object in documents.iter().flat_map(workload::objects) {
        // Other YAML in a folder, such as values.
        if object.field("kind").and_then(Node::text).is_none() {
            continue;
        }
        found.objects += 1;
        found.rights.add(&text.name, object);
        match workload::workload(&text.name, object, &input.template) {
            Ok(workload) => found.workloads.extend(workload),
            Err(unreadable) => found.problems.push(format!("{}:{unreadable}", text.name)),
        }
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// The texts at a path. A folder's files come in the order of their names.
fn texts(path: &Path, recursive: bool, problems: &mut Vec<String>) -> Vec<Text> {
    let name = path.display().to_string();
    if name == "-" {
        let mut text = String::new();
        return match io::stdin().lock().read_to_string(&mut text) {
            Ok(_) => vec![Text { name: "stdin".to_owned(), text }],
            Err(error) => {
                problems.push(format!("stdin: {error}"));
                Vec::new()
            }
        };
    }
    if !path.is_dir() {
        return match fs::read_to_string(path) {
            Ok(text) => vec![Text { name, text }],
            Err(error) => {
                problems.push(format!("{name}: {error}"));
                Vec::new()
            }
        };
    }
    let entries = fs::read_dir(path).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    let mut entries: Vec<PathBuf> = entries.unwrap_or_else(|error: io::Error| {
        problems.push(format!("{name}: {error}"));
        Vec::new()
    });
    entries.sort();
    let is_manifest =
        |path: &PathBuf| path.extension().is_some_and(|ending| ENDINGS.iter().any(|known| ending == *known));
    let wanted = |entry: &PathBuf| {
        // A link may lead back up.
        let is_link = entry.symlink_metadata().is_ok_and(|about| about.is_symlink());
        if entry.is_dir() { recursive && !is_link } else { is_manifest(entry) }
    };
    let wanted: Vec<_> = entries.into_iter().filter(wanted).collect();
    wanted.iter().flat_map(|entry| texts(entry, recursive, problems)).collect()
}

/// What `kubectl get` prints of these. It knows how to reach the cluster, and who we are there.
fn kubectl(input: &Input, what: &[String]) -> anyhow::Result<String> {
    let mut command = Command::new("kubectl");
    command.arg("get").args(what).args(["--output=yaml", "--ignore-not-found=false"]);
    let flags = [
        ("--namespace", input.namespace.clone()),
        ("--context", input.context.clone()),
        ("--kubeconfig", input.kubeconfig.as_ref().map(|path| path.display().to_string())),
    ];
    for (flag, value) in flags {
        command.args(value.map(|value| format!("{flag}={value}")));
    }
    if what == input.resources {
        command.args(input.selector.as_ref().map(|labels| format!("--selector={labels}")));
    }
    if input.all_namespaces {
        command.arg("--all-namespaces");
    }
    let output = command.stdin(Stdio::null()).output().context("cannot run kubectl")?;
    ensure!(output.status.success(), "kubectl get: {}", String::from_utf8_lossy(&output.stderr).trim());
    String::from_utf8(output.stdout).context("kubectl get printed something that is no text")
}
