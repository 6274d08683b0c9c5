//! What was found: which rule, where, why, and what changes it.

use std::fmt;

use serde_json::Value;

use crate::document::{Path, Position};
use crate::rules::Rule;
use crate::workload::{Object, Workload};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth to know. It does not count for the exit code.
    Note,
    /// The Pod may fail, start too early or end badly.
    Warning,
    /// The Pod hangs or does not start.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// A finding.
#[derive(Debug, Clone)]
pub struct Finding {
    /// What was broken.
    pub rule: &'static Rule,
    /// The name of the text.
    pub source: String,
    /// The object in it.
    pub object: Object,
    /// The field.
    pub field: Path,
    /// Where that stands, or what there is of it.
    pub position: Position,
    /// The container that it is about.
    pub container: Option<String>,
    /// Why.
    pub message: String,
    /// What to write there.
    pub fix: Option<Fix>,
}

/// YAML that cures it.
#[derive(Debug, Clone, PartialEq)]
pub struct Fix {
    /// What it belongs under.
    pub under: Path,
    /// What stands there then.
    pub value: Value,
}

impl Fix {
    /// The YAML.
    #[must_use]
    pub fn yaml(&self) -> String {
        yaml(&self.value)
    }
}

/// A value as YAML.
#[must_use]
pub fn yaml(value: &Value) -> String {
    let options = serde_saphyr::ser_options! { indent_step: 2, compact_list_indent: true };
    let mut text = String::new();
    match serde_saphyr::to_fmt_writer_with_options(&mut text, value, options) {
        Ok(()) => text,
        // Every JSON value is YAML as it stands.
        Err(_) => format!("{value}\n"),
    }
}

impl Finding {
    /// About this field of a workload.
    #[must_use]
    pub fn new(rule: &'static Rule, workload: &Workload, field: Path, message: String) -> Self {
        Self {
            rule,
            source: workload.source.clone(),
            object: workload.object.clone(),
            position: workload.node.position(&field),
            field,
            container: None,
            message,
            fix: None,
        }
    }

    /// About this container.
    #[must_use]
    pub fn of(self, container: &str) -> Self {
        Self { container: Some(container.to_owned()), ..self }
    }

    /// What cures it.
    #[must_use]
    pub fn cured_by(self, under: Path, value: Value) -> Self {
        Self { fix: Some(Fix { under, value }), ..self }
    }
}
