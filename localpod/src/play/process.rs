//! A container's processes: started in a session of their own, found again by a cookie, and killed as a whole.
//!
//! A real container's processes share a PID namespace, and the kernel kills them all when its first one ends. Without
//! namespaces they are recognised by a variable in their environment, or by the session of the first one.

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::ptr;
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{AccessFlags, Pid, access, setsid};

use super::Output;
use super::env::Environment;
use crate::event::Stream;
use crate::sync::lock;

/// The variable that marks every process of a container.
pub(super) const COOKIE: &str = "LOCALPOD_CONTAINER";

/// How long a killed process may take to go. One that sleeps in the kernel cannot be killed at all.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// How long the output of a dead tree may stay open: a process that hid from it may hold on to it.
const OUTPUT_PATIENCE: Duration = Duration::from_secs(1);

/// What to run.
#[derive(Clone, Debug)]
pub(super) struct Program {
    pub(super) path: PathBuf,
    pub(super) args: Vec<String>,
    pub(super) env: Environment,
    pub(super) directory: PathBuf,
    pub(super) cookie: String,
}

impl Program {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command
            .args(&self.args)
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .env_clear()
            .envs(self.env.iter());
        command.env(COOKIE, &self.cookie);
        command
    }
}

/// Finds the program a container's command names, or says as the runtime does why there is none.
pub(super) fn resolve(name: &str, path: &str, bin_dirs: &[PathBuf]) -> Result<PathBuf, String> {
    let executable = |file: &Path| file.is_file() && access(file, AccessFlags::X_OK).is_ok();
    if !name.contains('/') {
        let found =
            path.split(':').map(|directory| Path::new(directory).join(name)).find(|file| executable(file));
        return found.ok_or_else(|| format!("exec: \"{name}\": executable file not found in $PATH"));
    }
    let given = Path::new(name);
    if executable(given) {
        return Ok(given.to_owned());
    }
    if given.exists() {
        return Err(format!("exec: \"{name}\": permission denied"));
    }
    let base = given.file_name().unwrap_or_default();
    let found = bin_dirs.iter().map(|directory| directory.join(base)).find(|file| executable(file));
    found.ok_or_else(|| format!("exec: \"{name}\": stat {name}: no such file or directory"))
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// 128+n for a process that signal n ended, as a container runtime reports it.
    pub(super) code: i32,
    pub(super) signal: Option<i32>,
}

/// A container's running main process.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: Pid,
    cookie: String,
    /// False once the process was waited for, and its number may be another's.
    owned: Mutex<bool>,
}

impl Process {
    /// Signals the main process, as a runtime does to stop a container.
    pub(super) fn signal(&self, signal: Signal) {
        let owned = lock(&self.owned);
        if *owned {
            // It may be a zombie already, which is as good.
            let _ = kill(self.pid, signal);
        }
    }

    /// Kills every process of the container.
    pub(super) fn kill(&self) {
        self.signal(Signal::SIGKILL);
        kill_tree(&|found| found.cookie.as_deref() == Some(self.cookie.as_str()));
    }
}

/// Counts the threads that look after processes, and keeps new ones from starting at the end.
#[derive(Debug, Default)]
pub(super) struct Registry {
    state: Mutex<Registered>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Registered {
    closed: bool,
    running: usize,
}

/// One registered thread or probe.
pub(super) struct Entry(Arc<Registry>);

impl Registry {
    /// A place for one more, unless the play is over.
    pub(super) fn enter(self: &Arc<Registry>) -> Option<Entry> {
        let mut state = lock(&self.state);
        if state.closed {
            return None;
        }
        state.running += 1;
        Some(Entry(Arc::clone(self)))
    }

    /// Lets nothing start any more, kills what runs, and waits for its end.
    pub(super) fn close(&self, cookie_prefix: &str) {
        lock(&self.state).closed = true;
        let deadline = Instant::now() + KILL_PATIENCE;
        loop {
            kill_tree(&|found| found.cookie.as_ref().is_some_and(|cookie| cookie.starts_with(cookie_prefix)));
            let state = lock(&self.state);
            if state.running == 0 || Instant::now() > deadline {
                return;
            }
            // Something that was about to start when the door closed may have started since: look again.
            drop(
                self.changed
                    .wait_timeout(state, Duration::from_millis(20))
                    .unwrap_or_else(PoisonError::into_inner),
            );
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        lock(&self.0.state).running -= 1;
        self.0.changed.notify_all();
    }
}

/// Called with each line of output.
pub(super) type OnLine = Arc<dyn Fn(Stream, String) + Send + Sync>;

/// Runs a container's main process on a thread of its own.
///
/// `started` gets the process before any of its output is read, or why there is none; `ended` is called when it and every
/// other process of the container are gone and their output was read.
pub(super) fn run(
    entry: Entry,
    program: Program,
    output: Output,
    on_line: OnLine,
    started: impl FnOnce(Result<Arc<Process>, String>) + Send + 'static,
    ended: impl FnOnce(Ended) + Send + 'static,
) {
    thread::spawn(move || {
        let _entry = entry;
        let mut command = program.command();
        match output {
            Output::Capture => drop(command.stdout(Stdio::piped()).stderr(Stdio::piped())),
            Output::Inherit => {}
            Output::Discard => drop(command.stdout(Stdio::null()).stderr(Stdio::null())),
        }
        into_container(&mut command);
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                started(Err(format!("exec: \"{}\": {error}", program.path.display())));
                return;
            }
        };
        let pid = Pid::from_raw(child.id().cast_signed());
        let process = Arc::new(Process { pid, cookie: program.cookie, owned: Mutex::new(true) });
        started(Ok(Arc::clone(&process)));
        let (eof, all_read) = mpsc::channel::<()>();
        if let Some(stdout) = child.stdout.take() {
            read_lines(stdout, Stream::Stdout, Arc::clone(&on_line), eof.clone());
        }
        if let Some(stderr) = child.stderr.take() {
            read_lines(stderr, Stream::Stderr, on_line, eof.clone());
        }
        drop(eof);
        // Not reaped yet: while it is a zombie no other process can get its number, so that its session is surely its
        // own and a late signal cannot hit a stranger.
        while waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(Errno::EINTR) {}
        kill_tree(&|found| {
            found.session == Some(pid.as_raw()) || found.cookie.as_deref() == Some(process.cookie.as_str())
        });
        let status = {
            let mut owned = lock(&process.owned);
            *owned = false;
            child.wait()
        };
        while all_read.recv_timeout(OUTPUT_PATIENCE) == Ok(()) {}
        ended(status.map_or(Ended { code: 128, signal: None }, |status| Ended {
            code: status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(128),
            signal: status.signal(),
        }));
    });
}

/// The kernel's signals, real-time ones included.
const SIGNALS: RangeInclusive<i32> = 1..=64;

/// Room for the kernel's `sigaction`: all zero, it is the default action, without flags and with an empty mask.
static DEFAULT_ACTION: [usize; 8] = [0; 8];

/// Gives the command what a container's first process has: a session and the default signal dispositions.
#[expect(unsafe_code, reason = "there is no safe way to run something between fork and exec")]
fn into_container(command: &mut Command) {
    let prepare = || {
        setsid()?;
        for number in SIGNALS.filter(|number| ![libc::SIGKILL, libc::SIGSTOP].contains(number)) {
            // Not through the C library, which would keep from us the signals it has for itself: those are inherited, too,
            // and `cargo test` starts its tests with one of them ignored.
            // SAFETY: the kernel only reads the action, and the array is not smaller than that.
            let set = unsafe {
                libc::syscall(
                    libc::SYS_rt_sigaction,
                    number,
                    DEFAULT_ACTION.as_ptr(),
                    ptr::null::<usize>(),
                    8_usize,
                )
            };
            if set == -1 {
                return Err(io::Error::last_os_error());
            }
        }
        // Blocked signals are inherited like ignored ones, and whoever plays may have blocked some.
        SigSet::empty().thread_set_mask()?;
        // If this process is killed, its containers must not stay behind. It is the parent's thread that counts, and
        // that lives as long as the container.
        set_pdeathsig(Signal::SIGKILL)?;
        Ok(())
    };
    // SAFETY: `prepare` only makes system calls that are safe after a fork, and does not allocate.
    unsafe { command.pre_exec(prepare) };
}

fn read_lines(source: impl Read + Send + 'static, stream: Stream, on_line: OnLine, eof: mpsc::Sender<()>) {
    thread::spawn(move || {
        let mut source = BufReader::new(source);
        let mut line = Vec::new();
        while source.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&line);
            on_line(stream, text.strip_suffix('\n').unwrap_or(&text).to_owned());
            line.clear();
        }
        // It holds the play's stage, which is to be gone when the container is.
        drop(on_line);
        // The other side may have lost its patience.
        let _ = eof.send(());
    });
}

/// What a short command inside a container came to: `Err` says why it did not succeed.
pub(super) async fn exec(entry: Entry, program: Program, limit: Duration) -> Result<(), String> {
    let _entry = entry;
    let mut command = tokio::process::Command::from(program.command());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
    let child = command.spawn().map_err(|error| format!("exec: \"{}\": {error}", program.path.display()))?;
    let group = child.id().map(|id| Pid::from_raw(id.cast_signed()));
    let Ok(ended) = tokio::time::timeout(limit, child.wait_with_output()).await else {
        if let Some(group) = group {
            let _ = killpg(group, Signal::SIGKILL);
        }
        return Err("command timed out".to_owned());
    };
    let output = ended.map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    Err(if said.is_empty() { format!("command ended with {}", output.status) } else { said })
}

/// A live process of this machine.
struct Found {
    pid: Pid,
    session: Option<i32>,
    cookie: Option<String>,
}

/// Kills what `belongs`, until there is nothing left of it: a process may have forked while another was looked at.
fn kill_tree(belongs: &dyn Fn(&Found) -> bool) {
    let deadline = Instant::now() + KILL_PATIENCE;
    loop {
        let tree: Vec<Found> = living().into_iter().filter(|found| belongs(found)).collect();
        if tree.is_empty() || Instant::now() > deadline {
            return;
        }
        for found in tree {
            let _ = kill(found.pid, Signal::SIGKILL);
        }
        // They are nobody's children here, so there is nothing to wait on.
        thread::sleep(Duration::from_millis(1));
    }
}

fn living() -> Vec<Found> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(look_at).collect()
}

/// Reads what `/proc` says about a process; a zombie is none any more.
fn look_at(pid: i32) -> Option<Found> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it is in parentheses, and may have any character in it.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    let session = fields.nth(2).and_then(|session| session.parse().ok());
    let environ: io::Result<Vec<u8>> = fs::read(format!("/proc/{pid}/environ"));
    let prefix = format!("{COOKIE}=").into_bytes();
    let cookie = environ.unwrap_or_default().split(|byte| *byte == 0).find_map(|variable| {
        let value = variable.strip_prefix(prefix.as_slice())?;
        OsString::from_vec(value.to_vec()).into_string().ok()
    });
    Some(Found { pid: Pid::from_raw(pid), session, cookie })
}
