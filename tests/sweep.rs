//! Every system call of proa's failing in turn: `cargo run --example sweep -- BINARY [SYSCALL ...]`, with strace in `PATH`.
//!
//! Records the calls of a run through all phases (gate by the API server over TLS, command, quit request, drain), then repeats the run
//! once for each call and each error that fits it, and has that call fail with it (`strace --inject`). Whatever fails: the command starts
//! once or never, its exit code arrives if it ran, nothing is left of it, and the end comes in time. Prints each violation with the command
//! that repeats it, and a table by system call.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated};
use localpod::Cluster;

/// The command's exit code.
const CODE: i32 = 7;
/// What proa exits with if the command did not run (docs/reference.md), and how a process ends that fails before `main`.
const REFUSALS: [i32; 8] = [2, 69, 70, 75, 77, 126, 127, 143];
/// No run is longer: `--ready-timeout` and `--shutdown-timeout` of [`Form::arguments`] together, and some time to spare.
const LONGEST: Duration = Duration::from_secs(25);
/// Runs side by side.
const WORKERS: usize = 4;
/// A call that is made more often than this is swept at its first and last occurrences.
const OCCURRENCES: usize = 24;

/// Errors that a call may fail with, by the kernel's manual pages.
fn errors(call: &str) -> &'static [&'static str] {
    match call {
        // They end the process, or are strace's own business.
        "exit_group" | "exit" | "execve" | "rt_sigreturn" | "restart_syscall" => &[],
        "mmap" | "mremap" | "brk" => &["ENOMEM"],
        "munmap" | "madvise" | "mprotect" => &["ENOMEM", "EINVAL"],
        "openat" | "open" => &["EMFILE", "EACCES", "ENOENT", "EIO", "EINTR"],
        "read" | "recvfrom" | "recvmsg" | "pread64" => &["EINTR", "EIO", "EAGAIN", "ENOMEM"],
        "write" | "writev" | "sendto" | "sendmsg" => &["EINTR", "EIO", "EAGAIN", "ENOSPC", "EPIPE"],
        "socket" | "accept4" | "signalfd4" | "epoll_create1" | "eventfd2" | "timerfd_create" | "dup"
        | "fcntl" => &["EMFILE", "ENOMEM", "EPERM"],
        "connect" => &["ECONNREFUSED", "ETIMEDOUT", "ENETUNREACH", "EINTR"],
        "epoll_wait" | "epoll_pwait" | "poll" | "ppoll" => &["EINTR", "EIO", "ENOMEM"],
        "epoll_ctl" => &["ENOMEM", "ENOSPC"],
        "clone" | "clone3" | "vfork" | "fork" => &["EAGAIN", "ENOMEM", "EPERM"],
        "wait4" | "waitid" => &["EINTR"],
        "getrandom" => &["ENOSYS", "EINTR"],
        "rt_sigprocmask" | "rt_sigaction" => &["EINVAL"],
        _ => &["EPERM", "ENOSYS"],
    }
}

/// What is swept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `proa -- COMMAND`
    Wrap,
    /// `proa wait`
    Wait,
    /// `proa quit`
    Quit,
}

impl Form {
    const ALL: [Self; 3] = [Self::Wrap, Self::Wait, Self::Quit];

    fn name(self) -> &'static str {
        match self {
            Self::Wrap => "proa -- COMMAND",
            Self::Wait => "proa wait",
            Self::Quit => "proa quit",
        }
    }

    /// The arguments; `ran`: what the command leaves a line in.
    fn arguments(self, quit: u16, ran: &Path) -> Vec<String> {
        let post = format!("--shutdown-http-post=http://localhost:{quit}/quit");
        let command = format!("echo ran >> {}; exit {CODE}", ran.display());
        let words: Vec<&str> = match self {
            Self::Wrap => {
                vec![&post, "--ready-timeout=5s", "--shutdown-timeout=10s", "--", "sh", "-c", &command]
            }
            Self::Wait => vec!["wait", "--ready-timeout=5s"],
            Self::Quit => vec!["quit", &post, "--shutdown-timeout=10s"],
        };
        words.into_iter().map(str::to_owned).collect()
    }
}

fn main() -> Result<()> {
    let mut arguments = env::args().skip(1);
    let binary = fs::canonicalize(arguments.next().context("expected BINARY [SYSCALL ...]")?)?;
    let only: Vec<String> = arguments.collect();
    let directory = env::temp_dir().join(format!("proa-sweep-{}", std::process::id()));
    fs::create_dir_all(&directory)?;
    let mut broken = Vec::new();
    for form in Form::ALL {
        broken.extend(sweep(form, &binary, &only, &directory)?);
    }
    fs::remove_dir_all(&directory)?;
    println!("{} violations", broken.len());
    for violation in &broken {
        println!("  {violation}");
    }
    if !broken.is_empty() {
        std::process::exit(1);
    }
    Ok(())
}

/// Sweeps one form, and prints its table; the violations.
fn sweep(form: Form, binary: &Path, only: &[String], directory: &Path) -> Result<Vec<String>> {
    let (trace, _) = run(form, binary, directory, 0, None)?;
    let mut calls: BTreeMap<String, usize> = BTreeMap::new();
    for line in trace.lines() {
        let is_name = |call: &str| call.chars().all(|c| c.is_alphanumeric() || c == '_');
        if let Some((call, _)) = line.split_once('(').filter(|(call, _)| is_name(call)) {
            *calls.entry(call.to_owned()).or_default() += 1;
        }
    }
    ensure!(calls.contains_key("connect"), "no run was recorded: {calls:?}");
    let mut runs = Vec::new();
    for (call, &count) in calls.iter().filter(|(call, _)| only.is_empty() || only.contains(*call)) {
        let whens = (1..=count).filter(|when| *when <= OCCURRENCES || when + OCCURRENCES > count);
        runs.extend(
            whens.flat_map(|when| errors(call).iter().map(move |error| (call.clone(), *error, when))),
        );
    }
    let (total, next) = (runs.len(), AtomicUsize::new(0));
    let found = Mutex::new((BTreeMap::<String, [usize; 3]>::new(), Vec::new()));
    let work = |worker| -> Result<()> {
        while let Some((call, error, when)) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let inject = format!("{call}:error={error}:when={when}");
            let (_, verdict) = run(form, binary, directory, worker, Some(&inject))?;
            let mut found = found.lock().expect("no worker panics");
            let row = found.0.entry(call.clone()).or_default();
            match verdict {
                Verdict::Kept { done: true } => row[0] += 1,
                Verdict::Kept { done: false } => row[1] += 1,
                Verdict::Broken(why) => {
                    row[2] += 1;
                    found.1.push(format!("{}, {inject}: {why}", form.name()));
                }
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (1..=WORKERS).map(|worker| scope.spawn(move || work(worker))).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("no worker panics"))
    })?;
    let (table, broken) = found.into_inner().expect("no worker panics");
    println!("`{}`\n\n| system call | done | refused | violations |\n|---|---|---|---|", form.name());
    for (call, [done, refused, broken]) in &table {
        println!("| `{call}` | {done} | {refused} | {broken} |");
    }
    println!("\n{total} runs\n");
    Ok(broken)
}

enum Verdict {
    Kept { done: bool },
    Broken(String),
}

/// One run in a Pod of its own; proa's trace, and what came of it.
fn run(
    form: Form,
    binary: &Path,
    directory: &Path,
    worker: usize,
    inject: Option<&str>,
) -> Result<(String, Verdict)> {
    let cluster = Arc::new(pod()?);
    let quit = quit_endpoint(Arc::clone(&cluster))?;
    let file = |name: &str| directory.join(format!("{name}-{worker}"));
    let (trace, ran, log) = (file("trace"), file("ran"), file("log"));
    fs::write(&ran, "")?;
    let mut command = Command::new("strace");
    command.arg("-o").arg(&trace).args(inject.map(|inject| format!("--inject={inject}")));
    command.arg(binary).args(form.arguments(quit, &ran));
    command
        .env_clear()
        .env("PROA_LOG_LEVEL", "debug")
        .envs(cluster.env())
        .env("PATH", env::var_os("PATH").unwrap_or_default());
    command.envs([
        ("POD_NAME", "sweep"),
        ("POD_NAMESPACE", "default"),
        ("PROA_CONTAINER", "main"),
        ("RUST_BACKTRACE", "0"),
    ]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&log)?).process_group(0);
    let started = Instant::now();
    let mut strace = command.spawn().context("strace; expected it in PATH")?;
    let status = loop {
        if let Some(status) = strace.try_wait()? {
            break Some(status);
        }
        if started.elapsed() > LONGEST {
            let group = nix::unistd::Pid::from_raw(strace.id().cast_signed());
            let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
            strace.wait()?;
            break None;
        }
        thread::sleep(Duration::from_millis(5));
    };
    let times = fs::read_to_string(&ran)?.lines().count();
    let verdict = match verdict(form, status, times) {
        Ok(done) => Verdict::Kept { done },
        Err(why) => Verdict::Broken(format!("{why}; its log ends: {}", last_lines(&log))),
    };
    Ok((fs::read_to_string(&trace).unwrap_or_default(), verdict))
}

/// Whether it did what it is for, if all promises were kept.
fn verdict(form: Form, status: Option<ExitStatus>, times: usize) -> Result<bool, String> {
    let Some(status) = status else { return Err(format!("no end within {} s", LONGEST.as_secs())) };
    match (times, status.code(), status.signal()) {
        (1, Some(CODE), _) => Ok(true),
        (0, Some(0), _) if form != Form::Wrap => Ok(true),
        // Not all was shut down, and it says so.
        (0, Some(1), _) if form == Form::Quit => Ok(false),
        (0, Some(code), _) if REFUSALS.contains(&code) => Ok(false),
        // Before `main` the C library knows no better.
        (0, None, Some(_)) => Ok(false),
        (times, code, signal) => {
            Err(format!("the command ran {times} times, exit code {code:?}, signal {signal:?}"))
        }
    }
}

fn last_lines(log: &PathBuf) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(4)..].join(" / ")
}

fn pod() -> Result<Cluster> {
    let cluster = Cluster::start()?;
    let status = "imageID: i, restartCount: 0, state: {running: {}}";
    let yaml = format!(
        "
metadata: {{name: sweep, namespace: default}}
spec:
  restartPolicy: Never
  containers: [{{name: main, image: i}}, {{name: web, image: i}}]
status:
  phase: Running
  containerStatuses:
  - {{name: main, image: i, ready: true, {status}}}
  - {{name: web, image: i, ready: true, {status}}}
"
    );
    cluster.apply(serde_saphyr::from_str(&yaml)?);
    Ok(cluster)
}

/// Answers with 200, and has the sidecar exit.
fn quit_endpoint(cluster: Arc<Cluster>) -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            if answer(client).is_ok() {
                end_sidecar(&cluster);
                return;
            }
        }
    });
    Ok(port)
}

fn answer(mut client: TcpStream) -> std::io::Result<()> {
    client.set_read_timeout(Some(Duration::from_secs(5)))?;
    let read = client.read(&mut [0; 4096])?;
    if read == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    client.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}

fn end_sidecar(cluster: &Cluster) {
    cluster.update("default", "sweep", |pod| {
        let statuses = pod.status.get_or_insert_default().container_statuses.iter_mut().flatten();
        for status in statuses.filter(|status| status.name == "web") {
            let terminated = ContainerStateTerminated { exit_code: 0, ..Default::default() };
            status.ready = false;
            status.state = Some(ContainerState { terminated: Some(terminated), ..Default::default() });
        }
    });
}
