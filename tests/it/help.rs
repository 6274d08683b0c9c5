//! `--help` fits a terminal, docs/reference.md carries it word for word, and every flag has its variable.

use std::process::Command;

use crate::support::PROA;

fn help() -> String {
    help_of(&["--help"])
}

fn help_of(words: &[&str]) -> String {
    let output = Command::new(PROA).args(words).output().expect("proa runs");
    assert!(output.status.success());
    String::from_utf8(output.stdout).expect("text")
}

const REFERENCE: &str = include_str!("../../docs/reference.md");

#[test]
fn help_fits_in_80_columns() {
    let sidecar = help_of(&["sidecar", "--help"]);
    assert!(sidecar.contains("--until-exit") && sidecar.contains("exits with 0 if"), "{sidecar}");
    assert!(help_of(&["install", "--help"]).contains("DEST"));
    assert!(help_of(&["known", "-h"]).contains("Usage: proa known"));
    let (wait, quit) = (help_of(&["wait", "--help"]), help_of(&["quit", "--help"]));
    for line in help().lines().chain(sidecar.lines()).chain(wait.lines()).chain(quit.lines()) {
        assert!(line.chars().count() <= 80, "{line}");
        assert!(line.split(' ').count() != 1 || line.len() < 2 || line.ends_with(':'), "wrapped: {line}");
    }
}

#[test]
fn the_reference_carries_the_help_as_it_is() {
    for help in
        [help(), help_of(&["sidecar", "--help"]), help_of(&["wait", "--help"]), help_of(&["quit", "--help"])]
    {
        let help: Vec<_> = help.lines().map(str::trim_end).collect();
        assert!(
            REFERENCE.contains(&help.join("\n")),
            "docs/reference.md is behind --help:\n{}",
            help.join("\n")
        );
    }
}

#[test]
fn the_version_is_the_crates() {
    let output = Command::new(PROA).arg("--version").output().expect("proa runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("proa {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn every_flag_has_a_variable_of_the_same_meaning() {
    let help = help()
        + &help_of(&["sidecar", "--help"])
        + &help_of(&["wait", "--help"])
        + &help_of(&["quit", "--help"]);
    let help = help.replace("[=", " ");
    let flags = help.split_whitespace().filter_map(|word| word.strip_prefix("--"));
    let flags: std::collections::BTreeSet<_> = flags
        .filter(|flag| !flag.is_empty() && flag.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'))
        .collect();
    let source = include_str!("../../src/cli/flags.rs");
    assert!(flags.len() > 15, "{flags:?}");
    for flag in flags.into_iter().filter(|flag| !["help", "version"].contains(flag)) {
        let variable = format!("PROA_{}", flag.to_uppercase().replace('-', "_"));
        assert!(source.contains(&format!("env = \"{variable}\"")), "{flag} has no {variable}");
    }
}
