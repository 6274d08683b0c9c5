//! What was found: which rule, where, why, and what changes it.

use std::fmt;

use serde::ser::{Serialize, Serializer};
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
    match serde_saphyr::to_fmt_writer_with_options(&mut text, &InOrder(value), options) {
        Ok(()) => text,
        // Every JSON value is YAML as it stands.
        Err(_) => format!("{value}\n"),
    }
}

/// The fields that people write first, in that order; all others follow by their names.
const FIRST: [&str; 11] = [
    "apiVersion",
    "kind",
    "metadata",
    "name",
    "image",
    "command",
    "args",
    "env",
    "ports",
    "initContainers",
    "containers",
];

/// A value whose fields stand as people write them.
struct InOrder<'a>(&'a Value);

impl Serialize for InOrder<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Object(fields) => {
                let place = |name: &str| FIRST.iter().position(|first| *first == name).unwrap_or(FIRST.len());
                let mut fields: Vec<_> = fields.iter().collect();
                fields.sort_by_key(|(name, _)| place(name));
                serializer.collect_map(fields.into_iter().map(|(name, value)| (name, InOrder(value))))
            }
            Value::Array(elements) => serializer.collect_seq(elements.iter().map(InOrder)),
            scalar => scalar.serialize(serializer),
        }
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
