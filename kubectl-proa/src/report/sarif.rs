//! SARIF 2.1.0 (OASIS), as code scanning services read it.

use serde_json::{Value, json};

use crate::finding::{Finding, Severity};
use crate::rules::RULES;

/// One run with all rules and these findings.
#[must_use]
pub fn sarif(findings: &[Finding]) -> Value {
    let rules = RULES.iter().map(|rule| {
        json!({
            "id": rule.name,
            "shortDescription": {"text": rule.summary},
            "helpUri": rule.page(),
            "defaultConfiguration": {"level": level(rule.severity)},
        })
    });
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "kubectl-proa",
                "version": env!("CARGO_PKG_VERSION"),
                "informationUri": env!("CARGO_PKG_REPOSITORY"),
                "rules": rules.collect::<Vec<_>>(),
            }},
            "results": findings.iter().map(result).collect::<Vec<_>>(),
        }],
    })
}

fn result(finding: &Finding) -> Value {
    let text = match &finding.fix {
        Some(fix) => format!("{}\n\nWrite under {}:\n\n{}", finding.message, fix.under, fix.yaml()),
        None => finding.message.clone(),
    };
    json!({
        "ruleId": finding.rule.name,
        "ruleIndex": RULES.iter().position(|rule| rule.name == finding.rule.name),
        "level": level(finding.rule.severity),
        "message": {"text": text},
        "locations": [{
            "physicalLocation": {
                "artifactLocation": {"uri": uri(&finding.source)},
                "region": {"startLine": finding.position.line.max(1), "startColumn": finding.position.column.max(1)},
            },
            "logicalLocations": [{"fullyQualifiedName": format!("{} {}", finding.object, finding.field)}],
        }],
        // The same finding in the next run, though lines were added before it.
        "partialFingerprints": {
            "proa/v1": format!("{}/{}/{}/{}", finding.rule.name, finding.source, finding.object, finding.field),
        },
    })
}

fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Note => "note",
        Severity::Warning => "warning",
        Severity::Error => "error",
    }
}

/// A path as a relative URI (RFC 3986).
fn uri(path: &str) -> String {
    let path = path.strip_prefix("./").unwrap_or(path);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    path.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}
