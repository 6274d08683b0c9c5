//! Findings and proposals as text, JSON and SARIF.

mod sarif;

use std::fmt::Write;

use serde_json::{Value, json};

use crate::finding::{Finding, Severity, yaml};
pub use sarif::sarif;

/// For people.
#[must_use]
pub fn text(findings: &[Finding], workloads: usize) -> String {
    let mut text = String::new();
    for finding in findings {
        let Finding { source, position, rule, object, field, message, .. } = finding;
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{source}:{}:{}: {}: {}: {message}\n  {object} {field}",
            position.line, position.column, rule.severity, rule.name
        );
        if let Some(fix) = &finding.fix {
            let under = fix.under.to_string();
            let under = if under.is_empty() { "in the object".to_owned() } else { format!("under {under}") };
            let _ = writeln!(text, "  write {under}:");
            text.push_str(&indented(&fix.yaml(), 4));
        }
        text.push('\n');
    }
    let count = |severity| findings.iter().filter(|finding| finding.rule.severity == severity).count();
    let _ = writeln!(
        text,
        "{}, {}, {} in {}",
        counted(count(Severity::Error), "error"),
        counted(count(Severity::Warning), "warning"),
        counted(count(Severity::Note), "note"),
        counted(workloads, "Pod template")
    );
    text
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

pub(crate) fn indented(text: &str, by: usize) -> String {
    text.lines()
        .map(|line| if line.is_empty() { "\n".to_owned() } else { format!("{:by$}{line}\n", "") })
        .collect()
}

/// An array of objects.
#[must_use]
pub fn json(findings: &[Finding]) -> Value {
    let finding = |finding: &Finding| {
        json!({
            "rule": finding.rule.name,
            "severity": finding.rule.severity.to_string(),
            "file": finding.source,
            "line": finding.position.line,
            "column": finding.position.column,
            "object": {"kind": finding.object.kind, "name": finding.object.name},
            "field": finding.field.to_string(),
            "container": finding.container,
            "message": finding.message,
            "fix": finding.fix.as_ref().map(|fix| json!({"under": fix.under.to_string(), "yaml": yaml(&fix.value)})),
            "page": finding.rule.page(),
        })
    };
    findings.iter().map(finding).collect()
}
