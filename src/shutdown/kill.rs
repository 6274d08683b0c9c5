//! Ending sidecars by signal, through the Pod's shared process namespace.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::Pid;
use tracing::{debug, warn};

use super::actions::{Processes, Spared};
use crate::pod::{ProcessNamespace, Sidecar, Snapshot};
use crate::procfs::Stat;
use crate::shortage::{outlast_for_long, unless_short};
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
    /// There are some, and nothing shows that they are not a native sidecar's.
    Unattributable(usize),
    /// The system is short of what it takes to look.
    Short(Errno),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Short(Errno::from_raw(error.raw_os_error().unwrap_or_default()))
    }
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
            Self::Short(error) => write!(f, "cannot look at the processes of the Pod: {error}"),
            Self::Unattributable(count) => write!(
                f,
                "cannot tell which container {count} processes belong to, and native sidecars are not signalled; expected \
                 /proc/PID/cgroup to name the container, or the sidecars to be shut down over HTTP"
            ),
            Self::NotPermitted(count) => write!(
                f,
                "not permitted to signal any of {count} processes; run the containers as the same user, or give \
                 this one CAP_KILL"
            ),
        }
    }
}

/// Signals the processes, once there is what it takes to look for them; returns how many.
///
/// # Errors
/// When no process was signalled.
pub fn kill_patiently(
    processes: &Processes,
    spared: Spared,
    signal: Signal,
    snapshot: Option<&Snapshot>,
) -> Result<usize, Failure> {
    let attempt = || kill(processes, spared, signal, snapshot);
    outlast_for_long(attempt, |failure| matches!(failure, Failure::Short(_)))
}

/// The same, at the first attempt.
fn kill(
    processes: &Processes,
    spared: Spared,
    signal: Signal,
    snapshot: Option<&Snapshot>,
) -> Result<usize, Failure> {
    visible(snapshot)?;
    let sidecars = snapshot.map_or([].as_slice(), |snapshot| &snapshot.sidecars);
    let mut unattributable = 0;
    let mut targets = Vec::new();
    let own =
        unless_short(fs::read_to_string("/proc/self/cgroup"))?.filter(|_| spared == Spared::OwnContainer);
    let is_spared = |process: &Process| own.is_some() && process.cgroup == own;
    let chosen = |process: &Process| chosen(process, processes) && !is_spared(process);
    // All of them before the first is signalled: who could not look may try again.
    for process in visible_processes()?.into_iter().filter(chosen) {
        match belongs(process.cgroup.as_deref(), sidecars) {
            Belongs::ToRegular => targets.push(process),
            Belongs::ToNative => {}
            Belongs::Unknown => {
                warn!(pid = process.pid, name = process.argv0, "not signalled: it may be a native sidecar's");
                unattributable += 1;
            }
        }
    }
    if targets.is_empty() && unattributable > 0 {
        return Err(Failure::Unattributable(unattributable));
    }
    if targets.is_empty() {
        return Err(match processes {
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
    let host =
        unless_short(fs::read_to_string("/proc/2/comm"))?.is_some_and(|name| name.trim_end() == "kthreadd");
    match snapshot.map(|snapshot| snapshot.processes) {
        Some(ProcessNamespace::Host) => Err(Failure::HostProcesses),
        _ if host => Err(Failure::HostProcesses),
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
    /// The control groups it is in; their names hold the container's ID. `None` if we may not know them.
    cgroup: Option<String>,
}

/// Whose a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Belongs {
    /// A regular sidecar's, or there are no others.
    ToRegular,
    /// A native sidecar's: the kubelet would only start it again.
    ToNative,
    /// Nothing tells; a native sidecar may have been started again since the Pod was looked at.
    Unknown,
}

fn belongs(cgroup: Option<&str>, sidecars: &[Sidecar]) -> Belongs {
    let within = |sidecar: &Sidecar| {
        let id = sidecar.id.as_deref().filter(|id| !id.is_empty());
        id.zip(cgroup).is_some_and(|(id, cgroup)| cgroup.contains(id))
    };
    if !sidecars.iter().any(|sidecar| sidecar.native) {
        return Belongs::ToRegular;
    }
    match sidecars.iter().find(|sidecar| within(sidecar)) {
        Some(sidecar) if sidecar.native => Belongs::ToNative,
        Some(_) => Belongs::ToRegular,
        None => Belongs::Unknown,
    }
}

/// Whether a process is one to signal: never proa, what runs below it, or PID 1, the Pod's pause container.
fn chosen(process: &Process, processes: &Processes) -> bool {
    let own = std::process::id().cast_signed();
    if process.pid == 1 || process.pid == own || process.parent == own {
        return false;
    }
    match processes {
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

fn visible_processes() -> io::Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in unless_short(fs::read_dir("/proc"))?.into_iter().flatten() {
        let pid = unless_short(entry)?.and_then(|entry| entry.file_name().to_str()?.parse().ok());
        if let Some(pid) = pid {
            found.extend(Process::read(pid)?);
        }
    }
    Ok(found)
}

impl Process {
    /// `None` if it has ended meanwhile, or is a zombie or a kernel thread: neither has arguments.
    ///
    /// # Errors
    /// When the system is short of what it takes to read it.
    fn read(pid: i32) -> io::Result<Option<Self>> {
        let directory = Path::new("/proc").join(pid.to_string());
        let arguments = unless_short(fs::read(directory.join("cmdline")))?.filter(|text| !text.is_empty());
        let stat = unless_short(fs::read(directory.join("stat")))?.and_then(|stat| Stat::parse(&stat));
        let (Some(arguments), Some(stat)) = (arguments, stat) else { return Ok(None) };
        let argv0 = arguments.split(|byte| *byte == 0).next().unwrap_or_default();
        let executable = unless_short(fs::read_link(directory.join("exe")))?;
        let cgroup = unless_short(fs::read(directory.join("cgroup")))?;
        Ok(Some(Self {
            pid,
            parent: stat.parent,
            // The kernel marks a file that was replaced or removed under the running process.
            executable: executable
                .and_then(|path| base_name(path.to_string_lossy().trim_end_matches(" (deleted)"))),
            argv0: base_name(&String::from_utf8_lossy(argv0)),
            cgroup: cgroup.map(|names| String::from_utf8_lossy(&names).into_owned()),
        }))
    }
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
            cgroup: None,
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
    fn beside_native_sidecars_only_a_regular_ones_processes_are_signalled() {
        let pod = |native: &str| {
            crate::pod::tests::snapshot(&format!(
                "
spec:
  initContainers: [{native}]
  containers: [{{name: web, image: w}}, {{name: main, image: m}}]
status:
  initContainerStatuses: [{{name: db, image: d, imageID: d, ready: true, restartCount: 0, containerID: 'containerd://d1'}}]
  containerStatuses: [{{name: web, image: w, imageID: w, ready: true, restartCount: 0, containerID: 'containerd://e2'}}]
"
            ))
        };
        let with = pod("{name: db, image: d, restartPolicy: Always}").sidecars;
        assert_eq!(belongs(Some("0::/../cri-containerd-e2.scope"), &with), Belongs::ToRegular);
        assert_eq!(belongs(Some("4:memory:/kubepods/pod1/d1"), &with), Belongs::ToNative);
        assert_eq!(belongs(Some("0::/../cri-containerd-f3.scope"), &with), Belongs::Unknown, "started again");
        assert_eq!(belongs(Some("0::/"), &with), Belongs::Unknown);
        assert_eq!(belongs(None, &with), Belongs::Unknown, "hidden");
        assert_eq!(belongs(None, &pod("").sidecars), Belongs::ToRegular);
    }

    #[test]
    fn base_names_lose_directories_and_login_hyphens() {
        assert_eq!(base_name("/usr/sbin/nginx"), Some("nginx".into()));
        assert_eq!(base_name("nginx: master process nginx"), Some("nginx: master process nginx".into()));
        assert_eq!(base_name("-bash"), Some("bash".into()));
        assert_eq!(base_name("/"), None);
    }
}
