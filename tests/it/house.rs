//! The house has an order: which room may know of which, as the crate's documentation says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Decisions and facts: values in, values out.
const PURE: [&str; 23] = [
    "budget",
    "cluster/trouble",
    "endpoint",
    "gate/verdict",
    "gate/waiting",
    "known",
    "known/sidecars",
    "peer/message",
    "plan/selection",
    "pod",
    "pod/annotations",
    "pod/mains",
    "pod/object",
    "pod/recognise",
    "pod/run",
    "policy",
    "shutdown/actions",
    "shutdown/again",
    "shutdown/awaited",
    "shutdown/decision",
    "shutdown/stages",
    "shutdown/turn",
    "warnings",
];

/// The two ends of the flow: what will happen is put together from the phases' inputs, and how it ended from their failures.
/// They do nothing themselves, and only modes know of them.
const ENDS: [&str; 6] = ["plan", "plan/lower", "plan/quit", "plan/sidecar", "plan/wait", "exit"];

/// What a mode does one after the other.
const PHASES: [&str; 4] = ["gate", "env_file", "child", "shutdown"];

/// What proa can be.
const MODES: [&str; 6] =
    ["mode/wrap", "mode/sidecar", "mode/helper", "mode/wait", "mode/quit", "mode/install"];

/// What nothing pure may touch: a clock, the environment, files, the network, a runtime, the log.
const EFFECTS: [&str; 10] = [
    "std::fs",
    "std::env",
    "std::net::Tcp",
    "std::process",
    "Instant::now",
    "crate::deadline",
    "SystemTime::now",
    "tokio::",
    "tracing::",
    "nix::unistd",
];

/// Libraries that one room alone imports.
const SOLE_IMPORTERS: [(&str, &[&str]); 6] = [
    ("kube", &["cluster"]),
    ("serde", &["cluster", "pod"]),
    ("hyper", &["cluster", "http", "status", "transport"]),
    ("prometheus_client", &["status"]),
    ("clap", &["cli", "policy"]),
    ("strsim", &["cli"]),
];

/// A file of src, with what it imports.
struct File {
    /// `gate/verdict` for src/gate/verdict.rs.
    name: String,
    /// Without its tests.
    text: String,
    /// Every path of its `use` lines, from the crate's root where it is one of ours.
    imports: Vec<String>,
}

impl File {
    fn is_in(&self, room: &str) -> bool {
        within(&self.name, room)
    }
}

/// Whether it is that room, or in it.
fn within(name: &str, room: &str) -> bool {
    name == room || name.strip_prefix(room).is_some_and(|rest| rest.starts_with('/'))
}

fn sources() -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    collect(&root, &mut paths);
    let name = |path: &PathBuf| {
        let relative = path.strip_prefix(&root).expect("below src").with_extension("");
        relative.to_str().expect("a name").to_owned()
    };
    let names: BTreeSet<_> = paths.iter().map(name).collect();
    let file = |path: &PathBuf| {
        let text = fs::read_to_string(path).expect("a source file");
        let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        let text = text.split("#[cfg(test)]\npub(crate) mod tests").next().unwrap_or_default().to_owned();
        let own = name(path);
        let imports = uses(&text).iter().filter_map(|used| resolve(used, &own, &names)).collect();
        File { name: own, text, imports }
    };
    let files: Vec<_> =
        paths.iter().map(file).filter(|file| !["lib", "main"].contains(&&*file.name)).collect();
    assert!(files.len() > 50, "{}", files.len());
    files
}

fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            collect(&entry, found);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            found.push(entry);
        }
    }
}

/// The paths of all `use` declarations, their braces multiplied out.
fn uses(text: &str) -> Vec<String> {
    let declarations = text.split(';').filter_map(|part| {
        let declared =
            part.trim_start().lines().skip_while(|line| !is_use(line)).collect::<Vec<_>>().join(" ");
        let path = declared.split_once("use ")?.1;
        Some(path.split_whitespace().collect::<String>())
    });
    declarations.flat_map(|tree| expand("", &tree)).collect()
}

fn is_use(line: &str) -> bool {
    ["use ", "pub use ", "pub(crate) use ", "pub(super) use "].iter().any(|start| line.starts_with(start))
}

fn expand(prefix: &str, tree: &str) -> Vec<String> {
    let Some((head, rest)) = tree.split_once('{') else {
        return vec![format!("{prefix}{tree}")];
    };
    let prefix = format!("{prefix}{head}");
    let inner = rest.strip_suffix('}').unwrap_or(rest);
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, character) in inner.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&inner[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&inner[start..]);
    parts.into_iter().filter(|part| !part.is_empty()).flat_map(|part| expand(&prefix, part)).collect()
}

/// The file that a path leads to, or the library.
fn resolve(path: &str, own: &str, names: &BTreeSet<String>) -> Option<String> {
    let parent = own.rsplit_once('/').map_or("", |(parent, _)| parent);
    let mut steps: Vec<_> = path.split("::").collect();
    let mut base: Vec<&str> = match steps[0] {
        "crate" => Vec::new(),
        "super" => parent.split('/').filter(|step| !step.is_empty()).collect(),
        "self" => own.split('/').collect(),
        // A module of our own, or a library.
        first if names.contains(&format!("{own}/{first}")) => {
            steps.insert(0, "self");
            own.split('/').collect()
        }
        library => return Some(library.to_owned()),
    };
    base.extend(&steps[1..]);
    // The longest beginning that is a file: what follows is in it.
    (1..=base.len()).rev().map(|length| base[..length].join("/")).find(|name| names.contains(name))
}

#[track_caller]
fn none(what: &str, broken: &[String]) {
    assert!(broken.is_empty(), "{what}:\n{}", broken.join("\n"));
}

/// Every import of one room by another for which `bad` holds.
fn imports(bad: impl Fn(&File, &str) -> bool) -> Vec<String> {
    let files = sources();
    let all = files.iter().flat_map(|file| file.imports.iter().map(move |import| (file, import)));
    all.filter(|(file, import)| bad(file, import))
        .map(|(file, import)| format!("{} imports {import}", file.name))
        .collect()
}

fn is_pure(name: &str) -> bool {
    PURE.contains(&name)
}

/// The phase that this file does the work of; its pure rooms are open to all.
fn phase(name: &str) -> Option<&'static str> {
    PHASES.into_iter().find(|phase| within(name, phase)).filter(|_| !is_pure(name))
}

fn mode(name: &str) -> Option<&'static str> {
    MODES.into_iter().find(|mode| within(name, mode))
}

#[test]
fn nothing_pure_imports_a_phase_or_a_mode() {
    let bad = |file: &File, import: &str| {
        is_pure(&file.name) && (phase(import).is_some() || within(import, "mode") || ENDS.contains(&import))
    };
    none("a decision must not know who applies it", &imports(bad));
}

#[test]
fn nothing_pure_touches_the_world() {
    let files = sources();
    let touched = |file: &File| -> Vec<_> {
        let found = EFFECTS.into_iter().filter(|effect| file.text.contains(effect));
        found.map(|effect| format!("{} uses {effect}", file.name)).collect()
    };
    let calm = files.iter().filter(|file| is_pure(&file.name) || ENDS.contains(&&*file.name));
    none("decisions are over values", &calm.flat_map(touched).collect::<Vec<_>>());
}

#[test]
fn there_is_one_clock() {
    // A second one would run on where time stands still, as it does in the soak of 30 days.
    let files = sources();
    let read = |file: &File| -> Vec<_> {
        let found = ["Instant::now", ".elapsed("].into_iter().filter(|read| file.text.contains(read));
        found.map(|read| format!("{} has {read}", file.name)).collect()
    };
    let others: Vec<_> = files.iter().filter(|file| file.name != "deadline").flat_map(read).collect();
    none("deadline.rs alone asks what the time is", &others);
    let clock = files.iter().find(|file| file.name == "deadline").expect("the clock");
    assert_eq!(read(clock), ["deadline has Instant::now"]);
}

#[test]
fn phases_do_not_import_one_another_nor_a_mode() {
    let bad = |file: &File, import: &str| {
        phase(&file.name).is_some_and(|own| {
            phase(import).is_some_and(|other| other != own)
                || within(import, "mode")
                || ENDS.contains(&import)
        })
    };
    none("modes alone put phases together", &imports(bad));
}

#[test]
fn modes_do_not_import_one_another() {
    let bad = |file: &File, import: &str| {
        mode(&file.name).is_some_and(|own| mode(import).is_some_and(|other| other != own))
    };
    none("what modes share is in mode.rs or mode/companion.rs", &imports(bad));
    let bad = |file: &File, import: &str| {
        (file.name == "mode" || file.name == "mode/companion") && mode(import).is_some()
    };
    none("what modes share does not know of them", &imports(bad));
}

#[test]
fn only_the_plan_knows_the_command_line_and_only_modes_the_plan() {
    let bad = |file: &File, import: &str| within(import, "cli") && !file.is_in("cli") && !file.is_in("plan");
    none("the command line is lowered to a plan first", &imports(bad));
    let bad = |file: &File, import: &str| {
        ENDS.contains(&import) && !ENDS.contains(&&*file.name) && !file.is_in("mode") && file.name != "report"
    };
    none("a phase gets its own input", &imports(bad));
}

#[test]
fn each_library_that_speaks_a_protocol_has_one_importer() {
    for (library, rooms) in SOLE_IMPORTERS {
        let bad = |file: &File, import: &str| import == library && !rooms.iter().any(|room| file.is_in(room));
        none(library, &imports(bad));
        let used = sources().iter().any(|file| file.imports.iter().any(|import| import == library));
        assert!(used, "nobody imports {library}");
    }
}

#[test]
fn the_lists_name_rooms_that_there_are() {
    let names: BTreeSet<_> = sources().into_iter().map(|file| file.name).collect();
    for room in PURE.iter().chain(&ENDS).chain(&PHASES).chain(&MODES) {
        assert!(names.contains(*room), "no {room}");
    }
}

/// cargo-mutants says nothing of a file that is not there, nor of an exception for a function that is gone.
#[test]
fn what_mutants_are_made_of_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = fs::read_to_string(root.join(".cargo/mutants.toml")).unwrap();
    let entries: Vec<_> = config.lines().map(|line| line.trim().trim_end_matches(',')).collect();
    let quoted = |mark: char| {
        let entries = entries.iter().filter_map(move |entry| entry.strip_prefix(mark)?.strip_suffix(mark));
        entries.map(|entry| entry.replace('\\', "")).collect::<Vec<_>>()
    };
    let changed = quoted('"');
    assert!(changed.len() > 10, "{changed:?}");
    for file in &changed {
        assert!(root.join(file).is_file(), "{file}");
    }
    for accepted in quoted('\'') {
        let (file, _) = accepted.split_once(".*").expect("a file");
        let function = accepted.rsplit([' ', ':']).next().expect("a function").trim_end_matches('$');
        assert!(changed.iter().any(|changed| changed == file), "{accepted}");
        let text = fs::read_to_string(root.join(file)).unwrap();
        assert!(text.contains(&format!("fn {function}(")), "{accepted}");
    }
}

#[test]
fn a_use_line_is_understood() {
    let names = ["gate", "gate/verdict", "pod", "pod/run", "mode/wrap", "mode"].map(str::to_owned);
    let names = BTreeSet::from(names);
    let text = "//! use no::comment;\nuse crate::pod::{Snapshot, run::{Run, Clocks}};\nuse super::guarded;\n\
                use kube::api::{Api,\n    ListParams};\nfn f() {}\n";
    let found: Vec<_> = uses(text).iter().filter_map(|used| resolve(used, "mode/wrap", &names)).collect();
    assert_eq!(found, ["pod", "pod/run", "pod/run", "mode", "kube", "kube"]);
    assert_eq!(resolve("verdict::Reason", "gate", &names).as_deref(), Some("gate/verdict"));
}

#[test]
fn the_library_does_nothing_before_main() {
    // It may be part of another program, whose signals are not proa's to block.
    for file in sources() {
        assert!(!file.text.contains("init_array"), "{}", file.name);
    }
}

/// How often a file is unsafe: blocks, functions, implementations and attributes.
fn unsafe_uses(text: &str) -> usize {
    let code = text.lines().map(str::trim_start).filter(|line| !line.starts_with("//"));
    let begins = ["unsafe {", "unsafe fn ", "unsafe impl ", "unsafe extern ", "unsafe(", "unsafe trait "];
    code.map(|line| begins.iter().map(|begin| line.matches(begin).count()).sum::<usize>()).sum()
}

#[test]
fn the_security_page_counts_all_that_is_unsafe() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = BTreeMap::new();
    let mut folders = vec![root.join("src")];
    while let Some(path) = folders.pop() {
        if path.is_dir() {
            folders.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let name = path.strip_prefix(root).unwrap().display().to_string();
        let uses = unsafe_uses(&text);
        assert_eq!(
            uses > 0,
            text.contains("(unsafe_code"),
            "{name} has unsafe code that is not opened, or the other way round"
        );
        assert!(!text.contains("allow(unsafe_code"), "{name}: `expect` fails once it is no longer needed");
        if uses > 0 {
            found.insert(name, uses);
        }
    }
    let page = fs::read_to_string(root.join("docs/security.md")).unwrap();
    let rows = page.lines().map(str::trim_start).filter(|line| line.starts_with("| `src/"));
    let listed: BTreeMap<String, usize> = rows
        .map(|row| {
            let cells: Vec<_> =
                row.trim_matches('|').split(" | ").map(|cell| cell.trim().trim_matches('`')).collect();
            (cells[0].to_owned(), cells[1].parse().unwrap_or_else(|_| panic!("{row}")))
        })
        .collect();
    assert_eq!(listed, found, "left: docs/security.md");
}
