//! Plays `examples/job.yaml` on this machine, with no cluster: `cargo run --example demo [MANIFEST]`.
//!
//! localpod starts the containers' commands as processes behind a Kubernetes API of its own and does what
//! the kubelet does: runs probes, reports readiness, completes the Job. proa is the real binary.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use localpod::timeline::Timeline;
use localpod::{Event, Manifest, Options, Play};

/// Longer than the demo can last.
const PATIENCE: Duration = Duration::from_secs(600);

fn main() -> Result<ExitCode> {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/job.yaml");
    let path = env::args_os().nth(1).map_or(default, PathBuf::from);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let manifest = Manifest::parse(&text).with_context(|| format!("cannot play {}", path.display()))?;
    let programs = build()?;
    println!("playing {}\n", path.display());

    let timeline = Timeline::new(manifest.containers());
    let on_event = Arc::new(move |event: &Event| println!("{}", timeline.line(event)));
    let play = Play::start(
        manifest,
        Options { bin_dirs: programs, on_event: Some(on_event), ..Options::default() },
    )?;
    let outcome = play.wait(PATIENCE).context("the manifest has not come to an end")?;
    println!("\n{}: containers and their exit codes:", outcome.phase);
    for (name, end) in &outcome.containers {
        println!("  {name}: {}", end.exit_code.map_or("never ran".to_owned(), |code| code.to_string()));
    }
    Ok(if outcome.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds what the manifest's images would hold, and says where it is: an example is run without the
/// package's binaries having been built.
fn build() -> Result<Vec<PathBuf>> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let examples = env::current_exe()?.parent().context("this program is in no directory")?.to_path_buf();
    let binaries = examples.parent().context("no target directory")?.to_path_buf();
    let mut command = Command::new(cargo);
    command.args([
        "build",
        "--quiet",
        "--package",
        "proa",
        "--bins",
        "--example=greeter",
        "--example=caller",
    ]);
    command.arg("--manifest-path").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
    if binaries.ends_with("release") {
        command.arg("--release");
    }
    ensure!(command.status().context("cannot run cargo")?.success(), "cargo build failed");
    Ok(vec![binaries, examples])
}
