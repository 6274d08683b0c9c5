//! What /proc tells of a process.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use nix::libc;

/// The processes whose parent this is. `None` if it has ended.
pub(crate) fn children(parent: i32) -> Option<Vec<i32>> {
    let text = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    Some(text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect())
}

/// The words with which it was executed.
pub(crate) fn words(pid: i32) -> Option<Vec<Vec<u8>>> {
    let text = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let text = text.strip_suffix(b"\0")?;
    Some(text.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect())
}

/// A field of `proc_pid_stat(5)`, counted from 1 as there, from the third on.
pub(crate) fn field(pid: i32, number: usize) -> Result<i64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = text.rsplit_once(')').context("no name")?.1;
    fields.split_whitespace().nth(number - 3).context("no such field")?.parse().context("no number")
}

/// The process's group, its session, and the foreground group of its terminal.
pub(crate) fn groups(pid: i32) -> Result<(i64, i64, i64)> {
    Ok((field(pid, 5)?, field(pid, 6)?, field(pid, 8)?))
}

/// `proc_pid_status(5)`.
pub(crate) struct Status(String);

impl Status {
    /// `None` if it has ended and was collected.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        fs::read_to_string(format!("/proc/{pid}/status")).ok().map(Self)
    }

    pub(crate) fn line(&self, name: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    }

    /// The letter: S sleeps, T is stopped, Z has ended.
    pub(crate) fn state(&self) -> char {
        self.line("State").and_then(|text| text.chars().next()).unwrap_or('?')
    }

    /// Signals by bit: `SigBlk`, `SigIgn`, ...
    pub(crate) fn signals(&self, name: &str) -> u64 {
        self.line(name).and_then(|text| u64::from_str_radix(text, 16).ok()).unwrap_or(0)
    }

    pub(crate) fn is_pending(&self, number: i32) -> bool {
        self.pending() & bit(number) != 0
    }

    pub(crate) fn pending(&self) -> u64 {
        self.signals("SigPnd") | self.signals("ShdPnd")
    }
}

pub(crate) fn bit(number: i32) -> u64 {
    1 << (number - 1)
}

/// Whether it sleeps in the one system call of `sleep`, with all that comes before done.
pub(crate) fn is_in_sleep(pid: i32) -> bool {
    let is_sleep = words(pid).is_some_and(|words| words.first().is_some_and(|word| word == b"sleep"));
    is_sleep && [libc::SYS_clock_nanosleep, libc::SYS_nanosleep].map(Some).contains(&call(pid))
}

/// The number of the system call in which it sleeps.
pub(crate) fn call(pid: i32) -> Option<i64> {
    fs::read_to_string(format!("/proc/{pid}/syscall")).ok()?.split_whitespace().next()?.parse().ok()
}

/// Its descriptors, and what they are of.
pub(crate) fn descriptors(pid: i32) -> Result<Vec<(i32, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok()).context("a descriptor")?;
        found.push((number, fs::read_link(entry.path())?));
    }
    found.sort();
    Ok(found)
}
