//! `localpod MANIFEST [--bin-dir DIR]...`: plays a manifest and prints what happens.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use localpod::timeline::Timeline;
use localpod::{Event, Manifest, Options, Play};
use nix::sys::signal::{SigSet, Signal};

const USAGE: &str = "usage: localpod MANIFEST [--bin-dir DIR]...";

/// Longer than any manifest can last.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

fn main() -> ExitCode {
    run().unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(2)
    })
}

fn run() -> Result<ExitCode> {
    let (path, bin_dirs) = arguments()?;
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let manifest = Manifest::parse(&text).with_context(|| format!("cannot play `{}`", path.display()))?;

    // Before any thread exists, so that all of them leave these signals to the one that waits for them.
    let stops = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    stops.thread_block().context("cannot block signals")?;

    let timeline = Timeline::new(manifest.containers());
    let on_event = Arc::new(move |event: &Event| println!("{}", timeline.line(event)));
    let options = Options { bin_dirs, on_event: Some(on_event), ..Options::default() };
    let play = Arc::new(Play::start(manifest, options)?);
    let deleted = Arc::downgrade(&play);
    std::thread::spawn(move || {
        while stops.wait().is_ok() {
            if let Some(play) = deleted.upgrade() {
                play.delete(None);
            }
        }
    });
    let outcome = play.wait(FOREVER).context("the play has no end")?;
    if outcome.is_success() {
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::from(outcome.failure.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}

fn arguments() -> Result<(PathBuf, Vec<PathBuf>)> {
    let mut manifest = None;
    let mut bin_dirs = Vec::new();
    let mut arguments = std::env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--bin-dir" {
            let directory = arguments.next().context("`--bin-dir` needs a directory")?;
            // Containers have another working directory.
            bin_dirs.push(
                fs::canonicalize(&directory)
                    .with_context(|| format!("no directory {}", directory.display()))?,
            );
        } else if argument.to_str().is_some_and(|argument| argument.starts_with('-')) || manifest.is_some() {
            bail!("unexpected argument `{}`\n{USAGE}", argument.display());
        } else {
            manifest = Some(PathBuf::from(argument));
        }
    }
    Ok((manifest.context(USAGE)?, bin_dirs))
}
