//! What the README shows first works: the example's manifest goes from start to completion.

use std::path::Path;
use std::process::Command;

use crate::support::PROA;

#[test]
fn the_demo_plays_the_example_to_its_completion() {
    let demo = Path::new(PROA).with_file_name("examples").join("demo");
    let output = Command::new(&demo).env("CARGO", "true").output().expect("the demo runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    // stdout and stderr of a container are two streams: their lines have no order among each other.
    assert!(text.contains("| the sidecar says: hello from the sidecar"), "{text}");
    let mut rest = &*text;
    for sought in [
        "waiting for greeter",
        "gate open",
        "POST http://localhost:8090/quitquitquit: 200",
        "every sidecar has exited",
        "Succeeded",
    ] {
        let position =
            rest.find(sought).unwrap_or_else(|| panic!("no {sought:?} after what came before in:\n{text}"));
        rest = &rest[position..];
    }
}

#[test]
fn the_readme_shows_the_example_as_it_is() {
    let readme = include_str!("../../README.md");
    let example = include_str!("../../examples/job.yaml");
    let job =
        example.split("---").find(|document| document.contains("\nkind: Job\n")).expect("the Job").trim();
    let is_comment = |line: &&str| line.trim_start().starts_with('#');
    let job = job.lines().filter(|line| !is_comment(line)).collect::<Vec<_>>().join("\n");
    assert!(
        readme.contains(&format!("```yaml\n{job}\n```")),
        "README.md is behind examples/job.yaml:\n{job}"
    );
    let role = example.split("---").nth(1).expect("the Role").trim();
    let role = role.lines().skip(1).collect::<Vec<_>>().join("\n");
    assert!(readme.contains(&role), "README.md is behind examples/job.yaml:\n{role}");
}
