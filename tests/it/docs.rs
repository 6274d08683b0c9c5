//! The documents are true: links lead somewhere, the reference has what the program has, and every warning and error is explained.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn documents() -> Vec<PathBuf> {
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let more = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(|name| root().join(name));
    docs.filter(|path| path.extension().is_some_and(|kind| kind == "md")).chain(more).collect()
}

/// The targets of `[text](target)`.
fn links(text: &str) -> Vec<String> {
    let ends = text.match_indices("](").map(|(at, _)| &text[at + 2..]);
    ends.filter_map(|rest| rest.split_once(')')).map(|(target, _)| target.to_owned()).collect()
}

/// The text without its code blocks, in which `#` begins a comment.
fn without_code(text: &str) -> impl Iterator<Item = &str> {
    let mut in_code = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        !in_code && !is_fence
    })
}

/// The anchors that GitHub makes of headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = without_code(text).filter(|line| line.starts_with('#'));
    let slug = |heading: &str| {
        let words = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        words.chars().filter(|c| c.is_alphanumeric() || ['-', '_'].contains(c)).collect()
    };
    headings.map(slug).collect()
}

/// The files that a document links to.
fn linked_from(document: &str) -> BTreeSet<PathBuf> {
    let folder = root().join(document).parent().unwrap().to_owned();
    let links = links(&read(document)).into_iter().filter(|link| !link.contains("://"));
    let paths =
        links.filter_map(|link| Some(link.split('#').next()?.to_owned()).filter(|path| !path.is_empty()));
    paths.filter_map(|path| fs::canonicalize(folder.join(path)).ok()).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut followed = 0;
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for link in links(&text).into_iter().filter(|link| !link.contains("://")) {
            let (path, anchor) = link.split_once('#').unwrap_or((link.as_str(), ""));
            let target =
                if path.is_empty() { document.clone() } else { document.parent().unwrap().join(path) };
            assert!(target.exists(), "{}: {link}", document.display());
            if !anchor.is_empty() {
                let there = anchors(&fs::read_to_string(&target).unwrap());
                assert!(there.contains(anchor), "{}: {link}; there are {there:?}", document.display());
            }
            followed += 1;
        }
    }
    assert!(followed > 50, "{followed}");
}

#[test]
fn the_readme_is_short_and_leads_to_every_document() {
    let readme = read("README.md");
    assert!(readme.lines().count() <= 150, "{}", readme.lines().count());
    let linked = &linked_from("README.md") | &linked_from("docs/reference.md");
    let readme = root().join("README.md");
    for document in documents().into_iter().filter(|document| *document != readme) {
        let file = fs::canonicalize(&document).unwrap();
        assert!(
            linked.contains(&file),
            "neither README.md nor docs/reference.md links to {}",
            document.display()
        );
    }
}

#[test]
fn the_reference_has_every_metric_field_and_exit_code() {
    let reference = read("docs/reference.md");
    let metrics = read("src/status/metrics.rs");
    let metrics = metrics.split("#[cfg(test)]").next().unwrap();
    let names = metrics.split('"').skip(1).step_by(2).filter(|text| {
        text.contains('_') && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    });
    let names: BTreeSet<_> = names.filter(|name| !name.ends_with("_seconds")).collect();
    assert!(names.len() >= 7, "{names:?}");
    for name in names {
        assert!(reference.contains(&format!("`proa_{name}")), "docs/reference.md lacks proa_{name}");
    }
    let codes = read("src/exit.rs");
    let codes = codes.split("pub enum Code {").nth(1).unwrap().split('}').next().unwrap();
    let codes: Vec<_> =
        codes.lines().filter_map(|line| Some(line.split_once(" = ")?.1.trim_end_matches(','))).collect();
    assert!(codes.len() >= 8, "{codes:?}");
    for code in codes {
        assert!(reference.contains(&format!("\n| {code} | ")), "docs/reference.md lacks exit code {code}");
    }
    let telemetry = read("src/telemetry.rs");
    let fields = telemetry.split("IN_MESSAGE").nth(1).unwrap().split(';').nth(1).unwrap();
    for field in fields.split('"').skip(1).step_by(2) {
        assert!(reference.contains(&format!("`{field}`")), "docs/reference.md lacks field {field}");
    }
}

/// Texts that are no message of their own: a part of one that stands elsewhere, or of a description.
const PARTS: [&str; 17] = [
    "an annotation of the Pod",
    "stopped as asked",
    "Kubernetes would call it ready only once the application listens",
    " in its variable ",
    "running, not ready",
    "the Pod is being deleted or ended",
    "the API server no longer lets this container see its Pod",
    "this container was asked to stop, and the API server cannot be reached",
    "--shutdown-when=never",
    "--shutdown-when=success, and the exit code is not 0",
    "the restart policy will start this container again, which needs them then",
    "this is an init container",
    "to processes named",
    " to all other processes",
    "stop request to `",
    "not started yet",
    "to be restarted",
];

/// The string literals of messages: what is warned of, and what errors display.
fn messages(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    for start in ["warn!(", "error!(", "write!(", "write_str(", "=> \""] {
        for (at, _) in source.match_indices(start) {
            let rest = &source[at + start.len()..];
            let rest = if start.ends_with('"') { &source[at + start.len() - 1..] } else { rest };
            let Some(open) = rest.find('"').filter(|open| *open < 120) else { continue };
            let mut text = String::new();
            let mut characters = rest[open + 1..].chars().peekable();
            while let Some(character) = characters.next() {
                match character {
                    '"' => break,
                    '\\' if characters.peek() == Some(&'\n') => {
                        while characters.peek().is_some_and(|c| c.is_whitespace()) {
                            characters.next();
                        }
                    }
                    '\\' => text.extend(characters.next()),
                    other => text.push(other),
                }
            }
            found.push(text);
        }
    }
    found
}

/// What of a message somebody would search for: the first of its texts between the placeholders that is long enough, or its
/// beginning.
fn search_text(message: &str) -> Option<String> {
    let message = message.replace("{{", "").replace("}}", "");
    let texts = message.split('{').map(|part| part.rsplit_once('}').map_or(part, |(_, text)| text));
    let is_end = |c: char| c.is_whitespace() || ":;,()`[".contains(c);
    let text = texts.map(|text| text.trim_matches(is_end)).find(|text| text.len() >= 14)?;
    let clause = |text: &str, end: &str| {
        let at = text.match_indices(end).map(|(at, _)| at).find(|at| *at >= 14);
        text[..at.unwrap_or(text.len())].to_owned()
    };
    let text = [";", ": ", ", such as", ", for instance", " expected"]
        .iter()
        .fold(text.to_owned(), |text, end| clause(&text, end));
    Some(text.chars().take(60).collect::<String>().trim_matches(is_end).to_owned())
}

#[test]
fn every_warning_and_error_is_explained() {
    let plain = |text: &str| text.replace('`', "").split_whitespace().collect::<Vec<_>>().join(" ");
    let page = plain(&read("docs/troubleshooting.md"));
    let mut files = vec![root().join("src")];
    let (mut seen, mut missing, mut used) = (0, Vec::new(), BTreeSet::<&str>::new());
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        // The table's texts are in the reference.
        if path.ends_with("known/sidecars.rs") || path.extension().is_none_or(|kind| kind != "rs") {
            continue;
        }
        let source = fs::read_to_string(&path).unwrap();
        let source = source.split("#[cfg(test)]").next().unwrap();
        for message in messages(source).into_iter().filter(|message| !message.starts_with("  ")) {
            let Some(text) = search_text(&message) else { continue };
            seen += 1;
            let part = PARTS.iter().find(|part| text.starts_with(part.trim()) || part.starts_with(&text));
            used.extend(part);
            if part.is_none() && !page.contains(&plain(&text)) {
                missing.push(format!("{}: {text}", path.strip_prefix(root()).unwrap().display()));
            }
        }
    }
    assert!(seen > 130, "{seen}");
    for part in PARTS {
        assert!(used.contains(part), "no message has {part:?} any more");
    }
    assert!(missing.is_empty(), "docs/troubleshooting.md lacks\n{}", missing.join("\n"));
}

#[test]
fn what_is_explained_is_still_said() {
    let plain = |text: &str| text.replace('`', "").split_whitespace().collect::<Vec<_>>().join(" ");
    let mut said = String::new();
    let mut files = vec![root().join("src")];
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            let source = fs::read_to_string(&path).unwrap().replace("\\\"", "\"");
            // As the compiler joins a literal that is continued on the next line.
            let joined: Vec<_> = source.split("\\\n").map(str::trim_start).collect();
            said += &joined.concat();
        }
    }
    let said = plain(&said);
    let page = read("docs/troubleshooting.md");
    let cells =
        page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| text")).map(|line| {
            let cell = line[2..].split(" | ").next().unwrap();
            cell.replace("``", "\u{1}").replace('`', "\u{1}")
        });
    let mut checked = 0;
    for cell in cells {
        for span in cell.split('\u{1}').skip(1).step_by(2) {
            for text in span.split('…').map(|text| plain(text.trim_matches([' ', '(', ')', ':', ';', ','])))
            {
                if text.len() >= 12 {
                    checked += 1;
                    assert!(
                        said.contains(&text),
                        "docs/troubleshooting.md explains {text:?}, which proa does not say"
                    );
                }
            }
        }
    }
    assert!(checked > 100, "{checked}");
}
