//! YAML and JSON as Kubernetes takes them, with the line that each value stands in.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;

/// Where a value stands in its text; both count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line.
    pub line: u64,
    /// Column, in characters.
    pub column: u64,
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub struct Node {
    /// Of a field: where its key stands.
    pub at: Position,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Scalar(Value),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

/// A way through a document: `spec.containers[0].image`.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path(Vec<Step>);

/// One step of a way.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Into the field of this name.
    Field(String),
    /// Into the element at this place.
    Element(usize),
}

impl Path {
    /// Further to this field, or along several that dots separate.
    #[must_use]
    pub fn field(&self, names: &str) -> Self {
        let more = names.split('.').filter(|name| !name.is_empty());
        Self(self.0.iter().cloned().chain(more.map(|name| Step::Field(name.to_owned()))).collect())
    }

    /// Further to this field, whose name may have dots in it.
    #[must_use]
    pub fn key(&self, name: &str) -> Self {
        Self(self.0.iter().cloned().chain([Step::Field(name.to_owned())]).collect())
    }

    /// Further to this element.
    #[must_use]
    pub fn element(&self, index: usize) -> Self {
        Self(self.0.iter().cloned().chain([Step::Element(index)]).collect())
    }

    /// As a JSON pointer (RFC 6901).
    #[must_use]
    pub fn pointer(&self) -> String {
        let step = |step: &Step| match step {
            Step::Field(name) => format!("/{}", name.replace('~', "~0").replace('/', "~1")),
            Step::Element(index) => format!("/{index}"),
        };
        self.0.iter().map(step).collect()
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, step) in self.0.iter().enumerate() {
            match step {
                Step::Element(index) => write!(f, "[{index}]")?,
                Step::Field(name) if name.contains(['.', '/']) => write!(f, "['{name}']")?,
                Step::Field(name) if place == 0 => f.write_str(name)?,
                Step::Field(name) => write!(f, ".{name}")?,
            }
        }
        Ok(())
    }
}

impl Node {
    /// The value at the end of this way.
    #[must_use]
    pub fn get(&self, path: &Path) -> Option<&Node> {
        path.0.iter().try_fold(self, Node::step)
    }

    /// The value of this field.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Node> {
        match &self.kind {
            Kind::Map(fields) => fields.iter().rev().find(|(key, _)| key == name).map(|(_, node)| node),
            Kind::Scalar(_) | Kind::List(_) => None,
        }
    }

    /// As text, if it is one.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar(Value::String(text)) => Some(text),
            Kind::Scalar(_) | Kind::List(_) | Kind::Map(_) => None,
        }
    }

    /// The elements, if it is a list.
    #[must_use]
    pub fn elements(&self) -> &[Node] {
        match &self.kind {
            Kind::List(elements) => elements,
            Kind::Scalar(_) | Kind::Map(_) => &[],
        }
    }

    /// Whether it has fields.
    #[must_use]
    pub fn is_map(&self) -> bool {
        matches!(self.kind, Kind::Map(_))
    }

    /// Where this way leads, or as far along it as the document goes.
    #[must_use]
    pub fn position(&self, path: &Path) -> Position {
        let mut node = self;
        for step in &path.0 {
            let Some(next) = node.step(step) else { break };
            node = next;
        }
        node.at
    }

    /// The same without positions.
    #[must_use]
    pub fn json(&self) -> Value {
        match &self.kind {
            Kind::Scalar(value) => value.clone(),
            Kind::List(elements) => Value::Array(elements.iter().map(Node::json).collect()),
            Kind::Map(fields) => {
                let fields = fields.iter().map(|(key, node)| (key.clone(), node.json()));
                Value::Object(fields.collect::<Map<_, _>>())
            }
        }
    }

    fn step(&self, step: &Step) -> Option<&Node> {
        match step {
            Step::Field(name) => self.field(name),
            Step::Element(index) => self.elements().get(*index),
        }
    }

    fn of(spanned: Spanned<Raw>, key: Option<Position>) -> Self {
        let own = Position { line: spanned.referenced.line(), column: spanned.referenced.column() };
        let kind = match spanned.value {
            Raw::Scalar(value) => Kind::Scalar(value),
            Raw::List(elements) => {
                Kind::List(elements.into_iter().map(|element| Node::of(element, None)).collect())
            }
            Raw::Map(fields) => {
                let field = |(key, value): (Spanned<String>, Spanned<Raw>)| {
                    let at = Position { line: key.referenced.line(), column: key.referenced.column() };
                    (key.value, Node::of(value, Some(at)))
                };
                Kind::Map(fields.into_iter().map(field).collect())
            }
        };
        Self { at: key.unwrap_or(own), kind }
    }
}

/// Reads every document of a text. Empty ones are left out.
///
/// # Errors
/// What is wrong with it, and where.
pub fn read(text: &str) -> Result<Vec<Node>, serde_saphyr::Error> {
    let documents: Vec<Spanned<Raw>> = serde_saphyr::from_multiple(text)?;
    let nodes = documents.into_iter().map(|document| Node::of(document, None));
    Ok(nodes.filter(|node| !matches!(node.kind, Kind::Scalar(Value::Null))).collect())
}

enum Raw {
    Scalar(Value),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Scalar(Number::from_f64(value).map_or(Value::Null, Value::Number)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Raw, A::Error> {
        let mut found = Vec::new();
        while let Some(element) = elements.next_element()? {
            found.push(element);
        }
        Ok(Raw::List(found))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Raw, A::Error> {
        let mut found = Vec::new();
        while let Some(field) = fields.next_entry()? {
            found.push(field);
        }
        Ok(Raw::Map(found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# A comment.
kind: Pod
metadata: {annotations: {example.com/a.b: 'yes'}}
spec:
  containers:
  - name: main
    command: [a, b]
    env:
    - &shared {name: X, value: '1'}
  - name: other
    env: [*shared]
---
---
kind: Job
";

    #[test]
    fn every_value_has_its_place() {
        let documents = read(TEXT).unwrap();
        assert_eq!(documents.len(), 2);
        let pod = &documents[0];
        let containers = Path::default().field("spec.containers");
        let line = |path: &Path| pod.position(path).line;
        assert_eq!(line(&Path::default().field("kind")), 2);
        assert_eq!(line(&containers), 5);
        assert_eq!(line(&containers.element(0).field("name")), 6);
        assert_eq!(line(&containers.element(0).field("command").element(1)), 7);
        assert_eq!(line(&containers.element(1).field("env").element(0)), 11, "where the alias stands");
        assert_eq!(line(&containers.element(1).field("args")), 10, "as far as it goes");
        assert_eq!(line(&Path::default().field("metadata.annotations").key("example.com/a.b")), 3);
        assert_eq!(documents[1].at.line, 14);
        let value = pod.json();
        assert_eq!(value["spec"]["containers"][1]["env"][0]["value"], "1");
        assert_eq!(value["metadata"]["annotations"]["example.com/a.b"], "yes");
    }

    #[test]
    fn a_way_is_shown_as_kubectl_shows_it() {
        let path = Path::default().field("metadata.annotations").key("a.b/c").element(2);
        assert_eq!(path.to_string(), "metadata.annotations['a.b/c'][2]");
        assert_eq!(path.pointer(), "/metadata/annotations/a.b~1c/2");
    }

    #[test]
    fn json_is_yaml_and_what_is_neither_is_refused() {
        assert_eq!(read("{\"kind\": \"Pod\", \"n\": 1.5, \"b\": true, \"z\": null}").unwrap().len(), 1);
        assert!(read("a: [").is_err());
        assert!(read("a: 1\na: 2\n").is_err(), "kubectl refuses a field that is there twice");
        let line = |n: u8| {
            let (name, last) = (char::from(n), char::from(n - 1));
            format!("{name}: &{name} [{}]\n", vec![format!("*{last}"); 9].join(", "))
        };
        let lines: Vec<_> = (b'b'..b'k').map(line).collect();
        let bomb = format!("a: &a [x, x, x, x, x, x, x, x, x]\n{}", lines.join(""));
        assert!(read(&bomb).is_err(), "aliases that multiply");
    }
}
