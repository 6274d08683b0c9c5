//! What there is on the machine, as the namespaces show it, and what a process has of it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::task::spawn_blocking;

/// How long the end of a thread or of a connection may take.
const GOING: Duration = Duration::from_secs(10);

/// Everything that a run could leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Machine {
    processes: BTreeSet<i32>,
    /// Abstract and others, by name.
    sockets: Vec<String>,
    files: BTreeSet<String>,
    /// Shared memory, semaphores and queues of System V.
    system_v: usize,
    /// Our own descriptors.
    descriptors: usize,
}

impl Machine {
    pub(crate) fn now() -> Result<Self> {
        let mut files = BTreeSet::new();
        for directory in ["/tmp", "/dev/shm", "/var/tmp", "/run"] {
            collect(Path::new(directory), &mut files);
        }
        let sockets = fs::read_to_string("/proc/net/unix")?;
        let mut sockets: Vec<_> = sockets
            .lines()
            .skip(1)
            .filter_map(|line| line.split_whitespace().nth(7))
            .map(str::to_owned)
            .collect();
        sockets.sort();
        let mut system_v = 0;
        for kind in ["shm", "sem", "msg"] {
            system_v += fs::read_to_string(format!("/proc/sysvipc/{kind}"))?.lines().count() - 1;
        }
        let processes = fs::read_dir("/proc")?.flatten();
        let processes = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        Ok(Self { processes, sockets, files, system_v, descriptors: descriptors("self")? })
    }

    /// Nothing has been left since: at most what is just going.
    pub(crate) fn is_as_it_was(&self) -> Result<String> {
        let since = Instant::now();
        loop {
            match self.is_as_it_was_now() {
                Err(_) if since.elapsed() < GOING => sleep(Duration::from_millis(100)),
                seen => return seen,
            }
        }
    }

    fn is_as_it_was_now(&self) -> Result<String> {
        let now = Self::now()?;
        let left: Vec<_> = now.files.difference(&self.files).collect();
        ensure!(left.is_empty(), "files are left: {left:?}");
        let left: Vec<_> = now.processes.difference(&self.processes).map(|pid| shown(*pid)).collect();
        ensure!(left.is_empty(), "processes are left: {left:?}");
        ensure!(now.sockets == self.sockets, "sockets: {:?} before, {:?} after", self.sockets, now.sockets);
        ensure!(now.system_v == self.system_v, "System V: {} before, {} after", self.system_v, now.system_v);
        ensure!(
            now.descriptors == self.descriptors,
            "descriptors of the program that runs it: {} before, {} after",
            self.descriptors,
            now.descriptors
        );
        Ok(format!(
            "processes {}, sockets {}, files {}, descriptors {} before and after",
            now.processes.len(),
            now.sockets.len(),
            now.files.len(),
            now.descriptors
        ))
    }
}

fn collect(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        found.insert(entry.path().display().to_string());
        // A link's target is a place of its own.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), found);
        }
    }
}

fn shown(pid: i32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    format!("{pid} {} [{}]", String::from_utf8_lossy(&line).replace('\0', " "), state.trim())
}

/// How many descriptors a process has, the one with which they are counted aside.
pub(crate) fn descriptors(process: &str) -> Result<usize> {
    let own = usize::from(process == "self");
    Ok(fs::read_dir(format!("/proc/{process}/fd"))?.count() - own)
}

/// A number of `proc_pid_status(5)`: KiB, or a count.
pub(crate) fn status(process: &str, field: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let number =
        line.and_then(|line| line.split_whitespace().next()).with_context(|| format!("no {field}"))?;
    Ok(number.parse()?)
}

/// Whether our main thread and all of that process's wait. What one of them sends the other over the loopback interface has woken the
/// other by the time that it waits itself.
pub(crate) fn is_quiet(process: u32) -> Result<bool> {
    let own = std::process::id();
    let waits =
        |thread: &str| -> Result<bool> { Ok(fs::read_to_string(format!("{thread}/stat"))?.contains(") S ")) };
    if !waits(&format!("/proc/{own}/task/{own}"))? {
        return Ok(false);
    }
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        if !waits(&thread?.path().display().to_string())? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Does it in another thread. A paused clock stands still for as long as a blocking task runs.
pub(crate) async fn standing_still<T: Send + 'static>(
    task: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    // One that has just done the last task is there for the next, and no other is made.
    while !others_wait()? {
        std::hint::spin_loop();
    }
    spawn_blocking(task).await?
}

fn others_wait() -> Result<bool> {
    let own = std::process::id().to_string();
    for thread in fs::read_dir("/proc/self/task")? {
        let thread = thread?;
        let waits = || fs::read_to_string(thread.path().join("stat")).is_ok_and(|stat| stat.contains(") S "));
        if thread.file_name().to_str() != Some(&own) && !waits() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The middle of them.
pub(crate) fn median(values: &[u64]) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or(0)
}
