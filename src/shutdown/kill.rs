//! Ending sidecars by signal, through the Pod's shared process namespace.

use std::fmt;
use std::fs;
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::Pid;
use tracing::{debug, warn};

use super::actions::Processes;
use crate::pod::{ProcessNamespace, Snapshot};
use crate::signal::Signal;
use crate::signal::send::{Target, send};

/// Why no process was signalled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Our processes and the sidecars' do not see one another.
    NotShared,
    /// All processes of the node are in sight, and nothing says which are the Pod's.
    HostProcesses,
    /// No process has this name.
    NoSuchProcess(String),
    /// There is no other process.
    NoOther,
    /// There are some, but none may be signalled.
    NotPermitted(usize),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotShared => write!(
                f,
                "the sidecars' processes are out of sight; set shareProcessNamespace: true in the Pod's spec, or \
                 end them over HTTP"
            ),
            Self::HostProcesses => write!(
                f,
                "the processes of the whole node are in sight (hostPID), and none of them is signalled; use \
                 shareProcessNamespace instead"
            ),
            Self::NoSuchProcess(name) => {
                write!(f, "no process has `{name}` as the name of its executable or of its argv[0]")
            }
            Self::NoOther => write!(f, "there is no other process"),
            Self::NotPermitted(count) => write!(
                f,
                "not permitted to signal any of {count} processes; run the containers as the same user, or give \
                 this one CAP_KILL"
            ),
        }
    }
}

/// Signals the processes; returns how many.
///
/// # Errors
/// When no process was signalled.
pub fn kill(whom: &Processes, signal: Signal, snapshot: Option<&Snapshot>) -> Result<usize, Failure> {
    visible(snapshot)?;
    let native: Vec<_> = snapshot
        .iter()
        .flat_map(|snapshot| &snapshot.sidecars)
        .filter(|sidecar| sidecar.native)
        .filter_map(|sidecar| sidecar.id.as_deref())
        .collect();
    let targets: Vec<_> = processes()
        .filter(|process| chosen(process, whom))
        .filter(|process| !native.iter().any(|id| process.cgroup.contains(id)))
        .collect();
    if targets.is_empty() {
        return Err(match whom {
            Processes::Named(name) => Failure::NoSuchProcess(name.clone()),
            Processes::All => Failure::NoOther,
        });
    }
    let signalled = targets.iter().filter(|process| sent(process, signal)).count();
    if signalled == 0 {
        return Err(Failure::NotPermitted(targets.len()));
    }
    Ok(signalled)
}

/// Whether the processes in sight are the Pod's.
fn visible(snapshot: Option<&Snapshot>) -> Result<(), Failure> {
    // The kernel's thread of threads is PID 2 in the node's own namespace and nowhere else.
    let host = || fs::read_to_string("/proc/2/comm").is_ok_and(|name| name.trim_end() == "kthreadd");
    match snapshot.map(|snapshot| snapshot.processes) {
        Some(ProcessNamespace::Host) => Err(Failure::HostProcesses),
        _ if host() => Err(Failure::HostProcesses),
        Some(ProcessNamespace::Container) => Err(Failure::NotShared),
        // PID 1 of a namespace of its own sees nobody else's processes.
        None if std::process::id() == 1 => Err(Failure::NotShared),
        Some(ProcessNamespace::Pod) | None => Ok(()),
    }
}

/// A process in sight.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Process {
    pid: i32,
    parent: i32,
    /// Base name of the executable, if we may know it: another user's is hidden (`proc_pid_exe(5)`).
    executable: Option<String>,
    /// Base name of `argv[0]`.
    argv0: Option<String>,
    /// The control groups it is in; their names hold the container's ID.
    cgroup: String,
}

/// Whether a process is one to signal: never proa, what runs below it, or PID 1, the Pod's pause container.
fn chosen(process: &Process, whom: &Processes) -> bool {
    let own = std::process::id().cast_signed();
    if process.pid == 1 || process.pid == own || process.parent == own {
        return false;
    }
    match whom {
        Processes::All => true,
        Processes::Named(name) => {
            [&process.executable, &process.argv0].into_iter().flatten().any(|found| found == name)
        }
    }
}

fn sent(process: &Process, signal: Signal) -> bool {
    match send(Target::Process(Pid::from_raw(process.pid)), signal) {
        Ok(()) => {
            debug!(pid = process.pid, %signal, "sent");
            true
        }
        // It ended in the meantime, which is what was wanted.
        Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => true,
        Err(error) => {
            warn!(pid = process.pid, name = process.argv0, %signal, %error, "cannot signal");
            false
        }
    }
}

fn processes() -> impl Iterator<Item = Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Process::read(entry.file_name().to_str()?.parse().ok()?))
}

impl Process {
    /// `None` if it has ended meanwhile, or is a zombie or a kernel thread: neither has arguments.
    fn read(pid: i32) -> Option<Self> {
        let directory = Path::new("/proc").join(pid.to_string());
        let arguments = fs::read(directory.join("cmdline")).ok().filter(|text| !text.is_empty())?;
        let argv0 = arguments.split(|byte| *byte == 0).next()?;
        let executable = fs::read_link(directory.join("exe")).ok();
        Some(Self {
            pid,
            parent: parent(&fs::read_to_string(directory.join("stat")).ok()?)?,
            // The kernel marks a file that was replaced or removed under the running process.
            executable: executable
                .and_then(|path| base_name(path.to_string_lossy().trim_end_matches(" (deleted)"))),
            argv0: base_name(&String::from_utf8_lossy(argv0)),
            cgroup: fs::read_to_string(directory.join("cgroup")).unwrap_or_default(),
        })
    }
}

/// The fourth field of `proc_pid_stat(5)`; the second is a name that may hold spaces and parentheses.
fn parent(stat: &str) -> Option<i32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn base_name(path: &str) -> Option<String> {
    let name = path.trim_end_matches('/').rsplit('/').next()?;
    // A login shell's argv[0] starts with a hyphen.
    let name = name.strip_prefix('-').unwrap_or(name);
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(executable: Option<&str>, argv0: &str) -> Process {
        Process {
            pid: i32::MAX,
            parent: 1,
            executable: executable.map(str::to_owned),
            argv0: Some(argv0.to_owned()),
            cgroup: String::new(),
        }
    }

    #[test]
    fn a_name_matches_executable_or_argv0_exactly() {
        let named = |name: &str| Processes::Named(name.to_owned());
        let envoy = process(Some("envoy"), "envoy-proxy");
        assert!(chosen(&envoy, &named("envoy")));
        assert!(chosen(&envoy, &named("envoy-proxy")));
        assert!(!chosen(&envoy, &named("env")));
        let other_users = process(None, "nginx");
        assert!(chosen(&other_users, &named("nginx")));
        assert!(!chosen(&other_users, &named("envoy")));
    }

    #[test]
    fn proa_its_children_and_pid_1_are_never_chosen() {
        let own = std::process::id().cast_signed();
        for (pid, parent) in [(1, 0), (own, 1), (i32::MAX, own)] {
            let process = Process { pid, parent, ..process(Some("x"), "x") };
            assert!(!chosen(&process, &Processes::All), "{process:?}");
            assert!(!chosen(&process, &Processes::Named("x".into())), "{process:?}");
        }
    }

    #[test]
    fn the_parent_is_read_past_a_hostile_name() {
        assert_eq!(parent("42 (a) b) c) S 7 42 42 0 -1 4194304"), Some(7));
        assert_eq!(parent("garbage"), None);
    }

    #[test]
    fn base_names_lose_directories_and_login_hyphens() {
        assert_eq!(base_name("/usr/sbin/nginx"), Some("nginx".into()));
        assert_eq!(base_name("nginx: master process nginx"), Some("nginx: master process nginx".into()));
        assert_eq!(base_name("-bash"), Some("bash".into()));
        assert_eq!(base_name("/"), None);
    }
}
