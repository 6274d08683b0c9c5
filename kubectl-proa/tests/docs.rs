//! The page about it says what the program does.

use std::fs;
use std::path::Path;
use std::process::Command;

use kubectl_proa::rules::RULES;

fn page() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/check.md")).unwrap()
}

#[test]
fn every_rule_has_its_section_in_the_programs_order() {
    let page = page();
    let sections: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    assert_eq!(sections, RULES.iter().map(|rule| rule.name).collect::<Vec<_>>());
    for rule in RULES {
        let section = page.split(&format!("### {}\n", rule.name)).nth(1).unwrap().trim_start();
        let severity = section.split('.').next().unwrap().to_lowercase();
        assert_eq!(severity, rule.severity.to_string(), "{}", rule.name);
    }
}

#[test]
fn every_rule_is_listed() {
    let output = Command::new(env!("CARGO_BIN_EXE_kubectl-proa")).arg("rules").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), RULES.len());
    assert!(RULES.iter().all(|rule| text.contains(rule.name) && text.contains(rule.summary)), "{text}");
}

#[test]
fn every_flag_is_on_the_page() {
    let page = page();
    for task in ["check", "plan"] {
        let output =
            Command::new(env!("CARGO_BIN_EXE_kubectl-proa")).args([task, "--help"]).output().unwrap();
        let help = String::from_utf8(output.stdout).unwrap();
        assert!(help.contains(&format!("Usage: kubectl proa {task} ")), "{help}");
        // Those of kubectl itself need no words.
        for flag in ["--template", "--image", "--sidecar"].iter().filter(|flag| help.contains(**flag)) {
            assert!(page.contains(flag), "{flag}");
        }
    }
}
