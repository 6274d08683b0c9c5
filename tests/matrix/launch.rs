//! How proa is started: behind what, with which arguments, and what its command does.

use std::env;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use localpod::Cluster;
use nix::unistd::Pid;

use super::cell::{Cell, Mode, Phase};
use super::probe;
use super::trouble::{Fate, Feature, Lasting, Process, Trouble, Work};
use super::world::{CODE, LONGEST};

/// What a run's processes are known by.
pub(crate) const MARK: &str = "MATRIX_RUN";
/// `--ready-timeout` where what stands in the way stays.
const READY: &str = "4s";
/// The same where it passes.
const READY_IN_THE_END: &str = "20s";
/// `--shutdown-timeout`, `--stop-timeout`
pub(crate) const SHUTDOWN: Duration = Duration::from_secs(5);
/// What a run's directory holds that proa has not left there.
pub(crate) const FILES: [&str; 8] = ["lines", "go", "never", "log", "message", "pods", "file", "appears"];
/// A hostname that cannot be a Pod's name, as `setHostnameAsFQDN` gives it.
const HOSTNAME: &str = "pod.jobs.default.svc.cluster.local";
/// Signals that have no meaning for proa: they are the command's.
const NOISE: &str = "HUP USR1 USR2 ALRM PIPE VTALRM PROF IO";

/// Starts proa for a cell; its process, for signals, and what is to be waited for.
pub(crate) fn start(
    cell: &Cell,
    binary: &Path,
    directory: &Path,
    cluster: &Cluster,
    port: u16,
) -> Result<(Pid, Child)> {
    let (mut words, is_below) = behind(cell, directory, cluster)?;
    words.push(binary.into());
    words.extend(arguments(cell, directory, port)?);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).env_clear().envs(cluster.env());
    command.env("PATH", env::var_os("PATH").unwrap_or_default());
    let message = directory.join("message");
    fs::write(&message, "")?;
    command.envs([("POD_NAMESPACE", "default"), ("PROA_LOG_LEVEL", "debug"), ("RUST_BACKTRACE", "0")]);
    if cell.phase != Phase::Identity {
        command.env("PROA_TERMINATION_MESSAGE_PATH", message);
        command.envs([("POD_NAME", "pod"), ("PROA_CONTAINER", cell.mode.container())]);
    }
    command.env(MARK, directory);
    command.current_dir(directory).stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
    let log = OpenOptions::new().create(true).append(true).open(directory.join("log"))?;
    match cell.trouble {
        Trouble::Process(Process::FullStderr) => command.stderr(full_pipe()?),
        _ => command.stderr(log),
    };
    let child = command.spawn().context("proa starts")?;
    let pid = Pid::from_raw(child.id().cast_signed());
    Ok((if is_below { only_child(pid)? } else { pid }, child))
}

/// What proa is started through, and whether it is then the only child of that.
fn behind(cell: &Cell, directory: &Path, cluster: &Cluster) -> Result<(Vec<OsString>, bool)> {
    let (process, work) = match cell.trouble {
        Trouble::Process(process) => (Some(process), None),
        Trouble::Work(work) => (None, Some(work)),
        _ => (None, None),
    };
    // As a container's first process: the kernel ends the others with it.
    let is_first = matches!(process, Some(Process::Killed | Process::HiddenProc | Process::MaskedProc))
        || matches!(work, Some(Work::DoubleForks | Work::IgnoresAll | Work::Orphans));
    let mut script = Vec::new();
    let mut namespaces = vec!["unshare", "--user", "--map-root-user"];
    if is_first {
        namespaces.extend(["--pid", "--fork", "--kill-child", "--mount-proc"]);
    }
    // Without its Pod's UID a sidecar's proa has no name for its socket.
    let is_mounted = process == Some(Process::Without(Feature::UnixSockets));
    if cell.phase == Phase::Identity || is_mounted {
        namespaces.extend(["--mount", "--uts"]);
        script.push(mounts(cell.mode, directory, cluster)?);
    }
    match process {
        Some(Process::NoProc) => {
            namespaces.push("--mount");
            script.push("mount -t tmpfs none /proc".into());
        }
        Some(Process::HiddenProc) => script.push("mount -t proc -o hidepid=2 proc /proc".into()),
        Some(Process::MaskedProc) => script.push(
            "for file in mountinfo stat status cgroup net/unix; do mount --bind /dev/null /proc/1/$file || exit 99; done".into(),
        ),
        Some(Process::NoStdio) => script.push("exec <&- >&- 2>&-".into()),
        Some(Process::FewFiles) => script.push("ulimit -n 12".into()),
        // Before the command has its own traps they would end it.
        Some(Process::Noise) if cell.phase == Phase::Spawn => script.push(format!("trap '' {NOISE}")),
        _ => {}
    }
    let mut words: Vec<OsString> = Vec::new();
    if namespaces.len() > 3 {
        words.extend(namespaces.into_iter().map(OsString::from));
    }
    if !script.is_empty() {
        script.push("exec \"$@\"".into());
        words.extend(["sh", "-c", &script.join(" && "), "sh"].map(OsString::from));
    }
    let without = match process {
        Some(Process::NoFork) => Some("fork"),
        Some(Process::Without(feature)) => Some(lacking(feature)),
        _ => None,
    };
    if let Some(what) = without {
        words.push(env::current_exe()?.into());
        words.extend([probe::FLAG, "without", what].map(OsString::from));
    }
    if work == Some(Work::DiesBeforeExec) {
        // The command's process leaves proa's group before it executes the command, and proa itself never makes this call.
        let words_of_it =
            ["strace", "-f", "-o", "/dev/null", "--trace=setpgid", "--inject=setpgid:signal=SIGKILL"];
        words.extend(words_of_it.map(OsString::from));
    }
    Ok((words, is_first || work == Some(Work::DiesBeforeExec)))
}

fn lacking(feature: Feature) -> &'static str {
    match feature {
        Feature::Inotify => "inotify",
        Feature::UnixSockets => "Unix sockets",
        Feature::Signalfd => "signalfd",
        Feature::Eventfd => "eventfd",
        Feature::Clone3 => "clone3",
        Feature::Getrandom => "getrandom",
        Feature::Prctl => "prctl",
    }
}

/// What the kubelet mounts into a container, and a hostname.
fn mounts(mode: Mode, directory: &Path, cluster: &Cluster) -> Result<String> {
    let pod = cluster.pod("default", "pod").context("a Pod")?;
    let pods = directory.join("pods");
    // Another Pod may have its name by the time of a new start, and the mounts stay.
    if !pods.exists() {
        let own = pods.join(pod.metadata.uid.context("a UID")?).join("containers").join(mode.container());
        fs::create_dir_all(&own)?;
        fs::write(own.join("5f0c6d11"), "")?;
    }
    Ok(format!(
        "hostname {HOSTNAME} && mount --bind {0}/*/containers/{1}/5f0c6d11 {2}",
        pods.display(),
        mode.container(),
        directory.join("message").display()
    ))
}

/// proa's own.
fn arguments(cell: &Cell, directory: &Path, port: u16) -> Result<Vec<OsString>> {
    let quit = format!("--shutdown-http-post=http://127.0.0.1:{port}/quit");
    let passes = matches!(
        cell.trouble,
        Trouble::Api(_, Lasting::Passing) | Trouble::Fate(Fate::StartedAhead | Fate::StartedBehind)
    );
    let ready = format!("--ready-timeout={}", if passes { READY_IN_THE_END } else { READY });
    let (shutdown, stop) =
        (format!("--shutdown-timeout={SHUTDOWN:?}"), format!("--stop-timeout={SHUTDOWN:?}"));
    let mut list: Vec<&str> = match cell.mode {
        Mode::Wrap => vec![&quit, &ready, &shutdown],
        Mode::Wait => vec!["wait", &ready],
        Mode::Quit => vec!["quit", &quit, &shutdown],
        Mode::Sidecar => vec!["sidecar", "--until-exit=main", &stop],
        Mode::Helper => vec!["sidecar", "--until-exit=main", &quit, &shutdown],
    };
    let file = format!("--wait-file={}", directory.join("appears").display());
    if cell.mode.has_gate() && cell.trouble == Trouble::Process(Process::Without(Feature::Inotify)) {
        list.push(&file);
    }
    let mut words: Vec<OsString> = list.into_iter().map(OsString::from).collect();
    if cell.mode.has_command() {
        words.push("--".into());
        words.extend(command(cell, directory)?);
    }
    Ok(words)
}

/// The command: says `ran`, waits to be told, and ends.
fn command(cell: &Cell, directory: &Path) -> Result<Vec<OsString>> {
    let (lines, go) = (directory.join("lines"), directory.join("go"));
    let (lines, go) = (lines.display().to_string(), go.display().to_string());
    let never = directory.join("never").display().to_string();
    let work = match cell.trouble {
        Trouble::Work(work) => Some(work),
        _ => None,
    };
    let ignores = format!("trap '' {NOISE}");
    // `read` ends at a signal that is trapped, and it may come before.
    let waits = format!("until read -r _ < {go}; do :; done");
    let waits_first = if cell.phase == Phase::Spawn { format!("{waits}; ") } else { String::new() };
    let says = format!("echo ran > {lines}");
    let script = match (cell.mode, work) {
        (_, Some(Work::NotFound)) => return Ok(vec![directory.join("absent").into()]),
        (_, Some(Work::NotExecutable)) => {
            let file = directory.join("file");
            fs::write(&file, "")?;
            return Ok(vec![file.into()]);
        }
        (_, Some(Work::Orphans)) => {
            let words = [probe::FLAG, "orphans", "10000", &lines, &go, &CODE.to_string()].map(OsString::from);
            return Ok([vec![env::current_exe()?.into()], words.into()].concat());
        }
        (_, Some(Work::EndsAtOnce)) => format!("{says}; exit {CODE}"),
        (_, Some(Work::IgnoresAll)) => {
            let all: Vec<_> =
                (1..=64).filter(|number| ![9, 19, 32, 33].contains(number)).map(|n| n.to_string()).collect();
            format!("trap '' {}; {says}; while :; do sleep 1; done", all.join(" "))
        }
        (Mode::Sidecar, _) => format!(
            "trap 'echo term > {lines}; {waits}; exit 0' TERM; {ignores}; {waits_first}{says}; while :; do read -r _ < {never}; done"
        ),
        (_, Some(Work::DoubleForks)) => {
            format!("(setsid sleep 1000 > /dev/null 2>&1 &); {says}; {waits}; exit {CODE}")
        }
        _ => format!("trap : TERM; {ignores}; {waits_first}{says}; {waits}; exit {CODE}"),
    };
    let words: &[&str] =
        if work == Some(Work::OwnSession) { &["setsid", "--wait", "sh", "-c"] } else { &["sh", "-c"] };
    Ok(words.iter().copied().chain([script.as_str()]).map(OsString::from).collect())
}

fn only_child(parent: Pid) -> Result<Pid> {
    let deadline = Instant::now() + LONGEST;
    loop {
        if let Some(child) = children(parent).first() {
            return Ok(*child);
        }
        ensure!(Instant::now() < deadline, "nothing is started");
        thread::sleep(Duration::from_millis(1));
    }
}

/// The processes below this one.
pub(crate) fn children(parent: Pid) -> Vec<Pid> {
    let text = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw).collect()
}

/// The writing end of a pipe that is full, and whose reader does not read.
fn full_pipe() -> Result<std::io::PipeWriter> {
    let (reader, mut writer) = std::io::pipe()?;
    let flags = nix::fcntl::OFlag::O_NONBLOCK;
    nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETFL(flags))?;
    while writer.write(&[b'x'; 4096]).is_ok() {}
    nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::empty()))?;
    // For the rest of this program, as a log collector that hangs.
    std::mem::forget(reader);
    Ok(writer)
}
