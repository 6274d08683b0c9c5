//! Parses, reads, reports, exits.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use kubectl_proa::check::check;
use kubectl_proa::cli::{Cli, Format, Input, PlanFormat, Task};
use kubectl_proa::finding::{Finding, Severity};
use kubectl_proa::input::{self, Manifests};
use kubectl_proa::plan::{self, Given};
use kubectl_proa::report;
use kubectl_proa::rules::{RULES, Rule};

/// Something was found.
const FOUND: u8 = 1;
/// Something could not be read.
const UNREAD: u8 = 2;

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Check { output, input } => checked(output, &input),
        Task::Plan { output, image, sidecar, input } => {
            planned(output, Given { image: &image, sidecars: &sidecar }, &input)
        }
        Task::Rules => print(&rules()).map(|()| 0),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // With luck this can be seen.
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::from(UNREAD)
        }
    }
}

fn checked(output: Format, input: &Input) -> anyhow::Result<u8> {
    let manifests = input::read(input)?;
    let findings = check(&manifests.workloads, &manifests.rights);
    let text = match output {
        Format::Text => report::text(&findings, manifests.workloads.len()),
        Format::Json => format!("{:#}\n", report::json(&findings)),
        Format::Sarif => format!("{:#}\n", report::sarif(&findings)),
    };
    print(&text)?;
    let counts = |finding: &Finding| finding.rule.severity > Severity::Note;
    let found = if findings.iter().any(counts) { FOUND } else { 0 };
    Ok(said(&manifests).unwrap_or(found))
}

fn planned(output: PlanFormat, given: Given, input: &Input) -> anyhow::Result<u8> {
    let manifests = input::read(input)?;
    let proposals: Vec<_> =
        manifests.workloads.iter().map(|workload| (plan::plan(workload, given), workload)).collect();
    print(&match output {
        PlanFormat::Text => plan::text(&proposals),
        PlanFormat::Json => format!("{:#}\n", plan::json(&proposals)),
    })?;
    Ok(said(&manifests).unwrap_or(0))
}

/// Says what could not be read; the exit code, if it was anything.
fn said(manifests: &Manifests) -> Option<u8> {
    let mut stderr = io::stderr().lock();
    for problem in &manifests.problems {
        let _ = writeln!(stderr, "error: {problem}");
    }
    if manifests.objects == 0 && manifests.problems.is_empty() {
        let _ = writeln!(stderr, "error: found no Kubernetes object to read");
        return Some(UNREAD);
    }
    (!manifests.problems.is_empty()).then_some(UNREAD)
}

fn rules() -> String {
    let width = RULES.iter().map(|rule| rule.name.len()).max().unwrap_or(0);
    let line =
        |rule: &&Rule| format!("{:width$}  {:7}  {}", rule.name, rule.severity.to_string(), rule.summary);
    RULES.iter().map(line).collect::<Vec<_>>().join("\n") + "\n"
}

/// A reader who has seen enough is none who has not seen it.
fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}
