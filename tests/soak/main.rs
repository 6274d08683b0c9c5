//! proa for a long time and for many: `cargo run --release --example soak -- [--full] BINARY [PART ...]`, with a static binary as
//! README.md builds it.
//!
//! Each part runs in namespaces of its own, in which nobody else has a process, a socket or a temporary file: what is left there
//! afterwards is proa's. Prints a table of what was seen, and fails if anything is lost, left, or has grown.

mod api;
mod days;
mod load;
mod machine;
mod orphans;
#[path = "../matrix/random.rs"]
mod random;
mod sidecar;
mod streams;

use std::env;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::close;

/// How much of each.
#[derive(Debug, Clone, Copy)]
struct Size {
    runs: usize,
    bytes: u64,
    orphans: usize,
    requests: usize,
    days: u32,
}

/// What CI does.
const BOUNDED: Size = Size { runs: 2_000, bytes: 1_000_000_000, orphans: 2_000, requests: 2_000, days: 1 };
/// What docs/reliability.md tells of.
const FULL: Size = Size { runs: 10_000, bytes: 10_000_000_000, orphans: 10_000, requests: 10_000, days: 30 };

/// What was seen, for the table.
struct Row {
    what: String,
    seen: String,
}

type Part = fn(&str, Size) -> Result<Vec<Row>>;

const PARTS: [(&str, Part); 7] = [
    ("runs", load::in_a_row),
    ("crowd", load::at_a_time),
    ("bytes", streams::through),
    ("orphans", orphans::collected),
    ("sidecar", sidecar::asked),
    ("gate", days::gate),
    ("helper", days::helper),
];

/// The binary's place in the namespaces, where /tmp is new and empty.
const BINARY: &str = "/tmp/proa";

fn main() -> Result<()> {
    let mut arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some(api::FLAG) => return api::serve(),
        Some(INSIDE) => return inside(&arguments[1..]),
        _ => {}
    }
    let full = arguments.iter().position(|word| word == "--full").map(|at| arguments.remove(at)).is_some();
    let mut words = arguments.into_iter();
    let binary = words.next().context("expected [--full] BINARY [PART ...]")?;
    let chosen: Vec<_> = words.collect();
    if let Some(unknown) = chosen.iter().find(|name| PARTS.iter().all(|(part, _)| part != name)) {
        bail!("{unknown} is no part; there are {}", PARTS.map(|(name, _)| name).join(", "));
    }
    let mut broken = Vec::new();
    println!("| part | what | seen |\n|---|---|---|");
    for (name, _) in PARTS {
        if (chosen.is_empty() || chosen.iter().any(|part| part == name)) && !outside(name, full, &binary)? {
            broken.push(name);
        }
    }
    ensure!(broken.is_empty(), "broken: {}", broken.join(", "));
    Ok(())
}

/// What the part's process in the namespaces is told by.
const INSIDE: &str = "--inside";

/// Runs a part in namespaces of its own; whether it held.
fn outside(name: &str, full: bool, binary: &str) -> Result<bool> {
    // Both files may be below what the new /tmp hides.
    let script = "exec 8<\"$1\" 9<\"$2\" && shift 2 && ip link set lo up && mount -t tmpfs tmpfs /dev/shm && \
                  mount -t tmpfs tmpfs /tmp && cat <&8 >/tmp/proa && chmod 755 /tmp/proa && cd /tmp && \
                  exec 8<&- /proc/self/fd/9 \"$@\"";
    // A process that is alone with its part would outlive whoever ends this one.
    let mut command = Command::new("setpriv");
    command.args([
        "--pdeathsig",
        "KILL",
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "--net",
        "--pid",
        "--ipc",
        "--fork",
    ]);
    command.args(["--mount-proc", "--kill-child", "sh", "-c", script, "sh", binary]);
    command.arg(env::current_exe()?).args([INSIDE, name]);
    if full {
        command.arg("--full");
    }
    command.env_clear().env("PATH", env::var_os("PATH").unwrap_or_default());
    if days::PARTS.contains(&name) {
        // What is counted there is allocated, and not kept by a thread to be allocated again.
        command.env("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0:glibc.malloc.arena_max=1");
    }
    let status = command.stdin(Stdio::null()).status().context("unshare")?;
    if let Some(signal) = status.signal() {
        bail!("{name}: ended by signal {signal}");
    }
    Ok(status.success())
}

fn inside(arguments: &[String]) -> Result<()> {
    // What this program was executed by.
    close(9)?;
    let name = arguments.first().context("no part")?;
    let size = if arguments.iter().any(|word| word == "--full") { FULL } else { BOUNDED };
    let (_, part) = PARTS.iter().find(|(part, _)| part == name).context("no such part")?;
    let started = Instant::now();
    let rows = part(BINARY, size).with_context(|| format!("part {name}"))?;
    for Row { what, seen } in rows {
        println!("| {name} | {what} | {seen} |");
    }
    println!("| {name} | time | {} s |", started.elapsed().as_secs());
    Ok(())
}
