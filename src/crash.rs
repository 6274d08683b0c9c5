//! A bug of ours, which is a panic: no exit code is lost by it, and no Pod hangs.
//!
//! A panic does not unwind. Its hook has the process start over with a fresh memory (execve(2)): as PID 1 it keeps its children and
//! the signals that are blocked and pending, and nothing of what has gone wrong. The new start learns from its name, `argv[0]`, how
//! far the old one had come; the rest is as after a command line that makes no plan. A panic in that ends it.

use std::env;
use std::ffi::{CString, OsStr};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::panic;
use std::process;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use nix::unistd::{Pid, execv};

use crate::telemetry::stderr;

/// What the name of a new start begins with.
const NAME: &str = "proa after a panic: ";
/// What it goes on with, before a number.
const COMMAND: &str = "command ";
const CODE: &str = "exit code ";

/// How far proa has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// No command yet.
    Begun,
    /// The command runs, as this process.
    Running(Pid),
    /// All that is left to decide is how the sidecars are shut down.
    Decided(u8),
}

/// 0: begun. Above: the process of the command. Below: the exit code, less 256.
static PROGRESS: AtomicI64 = AtomicI64::new(0);
/// Whether this is a new start already.
static STARTED_OVER: AtomicBool = AtomicBool::new(false);

impl Progress {
    /// Keeps it for a new start.
    pub fn note(self) {
        let number = match self {
            Self::Begun => 0,
            Self::Running(pid) => pid.as_raw().into(),
            Self::Decided(code) => i64::from(code) - 256,
        };
        PROGRESS.store(number, Ordering::Relaxed);
    }

    /// The exit code, if it is decided.
    #[must_use]
    pub fn code(self) -> Option<u8> {
        match self {
            Self::Decided(code) => Some(code),
            Self::Begun | Self::Running(_) => None,
        }
    }

    fn noted() -> Self {
        match PROGRESS.load(Ordering::Relaxed) {
            0 => Self::Begun,
            code @ ..0 => Self::Decided(u8::try_from(code + 256).unwrap_or(u8::MAX)),
            pid => i32::try_from(pid).map_or(Self::Begun, |pid| Self::Running(Pid::from_raw(pid))),
        }
    }

    fn name(self) -> String {
        match self {
            Self::Begun => NAME.to_owned(),
            Self::Running(pid) => format!("{NAME}{COMMAND}{pid}"),
            Self::Decided(code) => format!("{NAME}{CODE}{code}"),
        }
    }

    fn of(name: &OsStr) -> Option<Self> {
        let progress = name.to_str()?.strip_prefix(NAME)?;
        if let Some(pid) = progress.strip_prefix(COMMAND) {
            return Some(Self::Running(Pid::from_raw(pid.parse().ok()?)));
        }
        Some(
            progress.strip_prefix(CODE).and_then(|code| code.parse().ok()).map_or(Self::Begun, Self::Decided),
        )
    }
}

/// Prepares for a panic. How far the last start had come, if this is a new one after a panic. `failed`: the exit code where none is
/// decided yet.
#[must_use]
pub fn prepare(failed: u8) -> Option<Progress> {
    let before = env::args_os().next().and_then(|name| Progress::of(&name));
    STARTED_OVER.store(before.is_some(), Ordering::Relaxed);
    if let Some(progress) = before {
        progress.note();
    }
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if stderr::is_free() {
            report(panic);
        }
        if !STARTED_OVER.swap(true, Ordering::Relaxed) {
            start_over();
        }
        // It has no /proc, or has panicked once more.
        process::exit(Progress::noted().code().unwrap_or(failed).into());
    }));
    before
}

/// Executes this program anew, with its own arguments. Returns if that cannot be done.
fn start_over() {
    let arguments = env::args_os().skip(1).map(|argument| CString::new(argument.into_vec()));
    let name = CString::new(Progress::noted().name()).into_iter().map(Ok);
    let Ok(arguments) = name.chain(arguments).collect::<Result<Vec<_>, _>>() else {
        return;
    };
    // What this process was started from, whatever stands at its path by now (proc(5)).
    if let Ok(itself) = CString::new(OsStr::new("/proc/self/exe").as_bytes()) {
        let _ = execv(&itself, &arguments);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_start_knows_how_far_the_last_one_had_come() {
        for progress in [
            Progress::Begun,
            Progress::Running(Pid::from_raw(1)),
            Progress::Running(Pid::from_raw(i32::MAX)),
            Progress::Decided(0),
            Progress::Decided(255),
        ] {
            progress.note();
            assert_eq!(Progress::noted(), progress);
            assert_eq!(Progress::of(progress.name().as_ref()), Some(progress));
        }
        for name in ["proa", "/proa", "", "proa after", "proa after a panic: command x"] {
            assert_eq!(Progress::of(name.as_ref()), None, "{name}");
        }
    }
}
