//! docs/dependencies.md has the crates of the released binary, all of them and no others.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// What is released, as deny.toml has it.
const TARGETS: [&str; 4] = [
    "x86_64-unknown-linux-gnu",
    "x86_64-unknown-linux-musl",
    "aarch64-unknown-linux-gnu",
    "aarch64-unknown-linux-musl",
];

fn cargo(arguments: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output =
        Command::new(cargo).args(arguments).arg("--locked").current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let output = output.expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Names and versions of what is built into proa, itself aside.
fn in_the_binary() -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    for target in TARGETS {
        let tree =
            ["tree", "--edges=normal", "--package=proa", "--prefix=none", "--format={p}", "--target", target];
        for line in cargo(&tree).lines() {
            let mut words = line.split(' ');
            let (name, version) = (words.next().unwrap(), words.next().unwrap().trim_start_matches('v'));
            if name != env!("CARGO_PKG_NAME") {
                found.insert((name.to_owned(), version.to_owned()));
            }
        }
    }
    found
}

/// What a row says beside the crate's name and its reason: whether it has unsafe code, and what it does at build time.
#[derive(Debug, Default, PartialEq, Eq)]
struct Traits {
    is_unsafe: bool,
    at_build: &'static str,
}

const AT_BUILD: [&str; 4] = ["no", "macro", "script", "script, compiles C"];

fn listed() -> BTreeMap<String, Traits> {
    let page =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/dependencies.md")).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| crate |"));
    let mut found = BTreeMap::new();
    for row in rows {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [name, why, is_unsafe, at_build] = cells[..] else { panic!("{row}") };
        assert!(why.len() > 5, "{row}");
        let at_build =
            AT_BUILD.into_iter().find(|known| *known == at_build).unwrap_or_else(|| panic!("{row}"));
        assert!(["yes", "no"].contains(&is_unsafe), "{row}");
        let traits = Traits { is_unsafe: is_unsafe == "yes", at_build };
        assert!(found.insert(name.to_owned(), traits).is_none(), "twice: {row}");
    }
    found
}

/// Whether there is `unsafe` code in a crate's sources, tests within them included.
fn has_unsafe(sources: PathBuf) -> bool {
    let mut files = vec![sources];
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            let text = String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            let begins = |line: &str| {
                ["unsafe {", "unsafe fn ", "unsafe impl", "unsafe extern"]
                    .iter()
                    .any(|text| line.contains(text))
            };
            if code.into_iter().any(begins) {
                return true;
            }
        }
    }
    false
}

#[test]
fn the_list_of_dependencies_is_that_of_the_binary() {
    let (found, listed) = (in_the_binary(), listed());
    let names: BTreeSet<_> = found.iter().map(|(name, _)| name.as_str()).collect();
    let written: BTreeSet<_> = listed.keys().map(String::as_str).collect();
    let missing: Vec<_> = names.difference(&written).collect();
    assert!(
        missing.is_empty(),
        "docs/dependencies.md lacks {missing:?}: review them, and say why they are there"
    );
    let gone: Vec<_> = written.difference(&names).collect();
    assert!(gone.is_empty(), "docs/dependencies.md has {gone:?}, which proa no longer depends on");
}

#[test]
fn what_the_list_says_of_each_dependency_is_so() {
    let (found, listed) = (in_the_binary(), listed());
    let metadata: Value =
        serde_json::from_str(&cargo(&["metadata", "--format-version=1", "--filter-platform", TARGETS[0]]))
            .unwrap();
    let mut seen: BTreeMap<&str, Traits> = BTreeMap::new();
    for package in metadata["packages"].as_array().unwrap() {
        let text = |key: &str| package[key].as_str().unwrap();
        if !found.contains(&(text("name").to_owned(), text("version").to_owned())) {
            continue;
        }
        let targets = package["targets"].as_array().unwrap();
        let is = |kind: &str| {
            targets.iter().any(|target| target["kind"].as_array().unwrap().contains(&kind.into()))
        };
        let dependencies = package["dependencies"].as_array().unwrap();
        let needs_a_compiler =
            dependencies.iter().any(|needed| needed["name"] == "cc" && needed["kind"] == "build");
        let at_build = match (is("proc-macro"), is("custom-build")) {
            (true, _) => "macro",
            (false, true) if needs_a_compiler => "script, compiles C",
            (false, true) => "script",
            (false, false) => "no",
        };
        let is_unsafe = has_unsafe(Path::new(text("manifest_path")).with_file_name("src"));
        // One that is there in two versions has what either has.
        let traits = seen.entry(text("name")).or_insert(Traits { is_unsafe: false, at_build });
        assert_eq!(traits.at_build, at_build, "the versions of {} differ", text("name"));
        traits.is_unsafe |= is_unsafe;
    }
    assert_eq!(seen.len(), listed.len());
    for (name, traits) in seen {
        assert_eq!(
            listed.get(name),
            Some(&traits),
            "{name}: left what docs/dependencies.md has, right what its sources have"
        );
    }
}
