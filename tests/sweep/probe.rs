//! The command: this program again, which says each signal that it gets.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::libc;
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// The first argument of a probe.
pub(crate) const FLAG: &str = "--probe";
/// The signal at which it ends: those that are there when this one comes have come before it, since the kernel gives signals out in the
/// order of their numbers (signal(7)).
pub(crate) const MARK: i32 = 64;

/// The words that run it.
pub(crate) fn command(lines: &Path, code: i32) -> Vec<OsString> {
    // proa's own process is this one's parent: where it cannot be found, the run says so.
    let itself = env::current_exe().unwrap_or_default();
    vec![itself.into(), FLAG.into(), lines.into(), code.to_string().into()]
}

/// The words that run what follows them with all signals blocked.
pub(crate) fn blocked() -> Vec<OsString> {
    vec![env::current_exe().unwrap_or_default().into(), FLAG.into(), BLOCKED.into()]
}

const BLOCKED: &str = "blocked";

/// What the first words after [`FLAG`] are for.
pub(crate) fn run(arguments: &[OsString]) -> Result<()> {
    match arguments {
        [role, program, words @ ..] if role == BLOCKED => {
            SigSet::all().thread_block()?;
            Err(std::process::Command::new(program).args(words).exec().into())
        }
        [lines, code] => note(lines.as_ref(), code),
        _ => bail!("expected {BLOCKED} PROGRAM ..., or LINES CODE"),
    }
}

/// Says `ran`, then the number of each signal, until [`MARK`] or SIGTERM, and whatever has come by then.
fn note(lines: &Path, code: &OsStr) -> Result<()> {
    let code: i32 = code.to_str().and_then(|code| code.parse().ok()).context("a code")?;
    let all = SigSet::all();
    all.thread_block()?;
    let file = SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC)?;
    let mut lines = OpenOptions::new().append(true).open(lines)?;
    // One write a line.
    let mut say = |line: String| lines.write_all(line.as_bytes());
    say("ran\n".into())?;
    loop {
        let Some(signal) = file.read_signal()? else { continue };
        let number = signal.ssi_signo.cast_signed();
        say(format!("{number}\n"))?;
        if number == MARK || (number == libc::SIGTERM && code == 0) {
            // Those of a higher number come after it.
            let rest = SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
            while let Some(signal) = rest.read_signal()? {
                say(format!("{}\n", signal.ssi_signo))?;
            }
            std::process::exit(code);
        }
    }
}
