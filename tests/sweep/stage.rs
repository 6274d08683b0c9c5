//! A run: a Pod and its API server, the sidecar's endpoint, and proa under strace.

use std::env;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated};
use localpod::Cluster;
use nix::libc;
use nix::sys::signal::SigSet;

use super::form::{CODE, Form, VARIABLE};
use super::probe::{self, MARK};
use super::trace::Trace;

/// No run is longer: `--ready-timeout` and `--shutdown-timeout` of [`Form::arguments`] together, and some time to spare.
const LONGEST: Duration = Duration::from_secs(25);
/// How long a main container runs whose companion does not begin, and how long a companion may take to see its end before it gets SIGTERM,
/// as from a kubelet.
const UNSEEN: Duration = Duration::from_secs(4);

/// What a run is made with.
pub(crate) struct Stage<'a> {
    pub(crate) binary: &'a Path,
    pub(crate) directory: &'a Path,
}

/// How proa is disturbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// A failing call.
    Error,
    /// A signal. The command has all signals blocked from its first instruction on, and ends at [`MARK`]: so it loses none, and none comes
    /// too late.
    Signal,
}

/// Where a run has what it is made with.
pub(crate) struct Places {
    /// The port of the sidecar, by which it is asked whether it is ready, and to exit.
    pub(crate) port: u16,
    /// What the command says.
    pub(crate) lines: PathBuf,
    /// What is there once the sidecar is ready.
    pub(crate) ready: PathBuf,
    /// A file of variables.
    pub(crate) variables: PathBuf,
    /// An address of this run's own, where proa is asked for its status: none of the addresses of loopback has to be set up.
    pub(crate) status: SocketAddr,
    trace: PathBuf,
    log: PathBuf,
}

/// What came of a run.
pub(crate) struct Observed {
    pub(crate) trace: Trace,
    /// How proa ended, if it did in time.
    pub(crate) status: Option<ExitStatus>,
    /// How often the command said that it ran.
    pub(crate) ran: usize,
    /// The signals that it got.
    pub(crate) got: Vec<i32>,
    /// How often the sidecar was asked to exit.
    pub(crate) asked: usize,
    /// Whether the sidecar has become ready.
    pub(crate) readied: bool,
    /// Whether it was stopped, or main ended, before it had seen what it waits for.
    pub(crate) cut_short: bool,
    /// What its log says of a panic.
    pub(crate) panic: Option<String>,
    /// The last lines of proa's log.
    pub(crate) log: String,
    /// Whether a process of the run is left.
    pub(crate) left: bool,
}

impl Stage<'_> {
    /// Runs it once. `inject`: as strace takes it.
    pub(crate) fn run(&self, form: Form, by: By, worker: usize, inject: Option<&str>) -> Result<Observed> {
        let cluster = Arc::new(pod(form)?);
        let asked = Arc::new(Asked::default());
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let places = self.places(listener.local_addr()?.port(), worker)?;
        let Places { trace, lines, log, .. } = &places;
        let mut command = if form.is_mounted() {
            self.mounted(&cluster, form, by, worker)?
        } else {
            Command::new("strace")
        };
        command.arg("-o").arg(trace).args(inject.map(|inject| format!("--inject={inject}")));
        command.arg(self.binary).args(form.arguments(&places, by == By::Signal));
        let path = env::var_os("PATH").unwrap_or_default();
        command.env_clear().env("PROA_LOG_LEVEL", "debug").envs(cluster.env()).env("PATH", path);
        command.envs([("POD_NAMESPACE", "default"), ("RUST_BACKTRACE", "0")]);
        if form != Form::Found {
            command.env("POD_NAME", "sweep");
        }
        if !form.is_mounted() {
            command.env("PROA_CONTAINER", form.container());
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(log)?).process_group(0);
        let all = SigSet::all();
        if by == By::Signal {
            all.thread_block()?;
        }
        let child = command.spawn();
        if by == By::Signal {
            all.thread_unblock()?;
        }
        let child = child.context("strace; expected it in PATH")?;
        let stops = [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU].map(|signal| format!("signal={signal}:"));
        let stops = inject.is_some_and(|inject| stops.iter().any(|stop| inject.contains(stop)));
        let marks = by == By::Signal && form.is_main();
        let run = Run {
            form,
            cluster: &cluster,
            listener: Some(listener),
            asked: &asked,
            places: &places,
            stops,
            marks,
        };
        let End { status, readied, cut_short } = run.until_its_end(child)?;
        let trace = Trace::parse(&String::from_utf8_lossy(&fs::read(trace).unwrap_or_default()));
        let left = trace.spawn().is_some_and(|(_, pid)| is_left(pid, lines));
        let said = fs::read_to_string(lines)?;
        let log = String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned();
        let observed = Observed {
            trace,
            status,
            ran: said.lines().filter(|line| *line == "ran").count(),
            got: said.lines().filter_map(|line| line.parse().ok()).collect(),
            asked: asked.to_exit.load(Ordering::Relaxed),
            readied,
            cut_short,
            panic: log.lines().find(|line| line.contains("panicked")).map(str::to_owned),
            log: last_lines(&log),
            left,
        };
        Ok(observed)
    }
}

impl Stage<'_> {
    /// None of the last run's is any of this one.
    fn places(&self, port: u16, worker: usize) -> Result<Places> {
        let file = |name: &str| self.directory.join(format!("{name}-{worker}"));
        let (trace, lines, log) = (file("trace"), file("lines"), file("log"));
        let (ready, variables) = (file("ready"), file("variables"));
        for file in [&trace, &lines] {
            fs::write(file, "")?;
        }
        fs::write(&variables, format!("{VARIABLE}={CODE}\n"))?;
        // It is there if the last run's sidecar became ready.
        let _ = fs::remove_file(&ready);
        let [.., high, low] = std::process::id().to_be_bytes();
        let status = SocketAddr::from(([127, high, low, u8::try_from(worker)? + 1], 9400));
        Ok(Places { port, lines, ready, variables, status, trace, log })
    }

    /// strace, where the kubelet has mounted what it mounts, and the hostname is fully qualified (`setHostnameAsFQDN`).
    fn mounted(&self, cluster: &Cluster, form: Form, by: By, worker: usize) -> Result<Command> {
        let uid = cluster.pod("default", "sweep").and_then(|pod| pod.metadata.uid).context("a UID")?;
        let (pods, message) =
            (self.directory.join(format!("pods-{worker}")), self.directory.join(format!("message-{worker}")));
        // Those of the last run, if there was one.
        let _ = fs::remove_dir_all(&pods);
        let own = pods.join("pods").join(uid).join("containers").join(form.container());
        fs::create_dir_all(&own)?;
        fs::write(own.join("5f0c6d11"), "")?;
        fs::write(&message, "")?;
        let script = format!(
            "hostname sweep.jobs.default.svc.cluster.local && mount --bind {}/5f0c6d11 {} && exec \"$@\"",
            own.display(),
            message.display()
        );
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "--uts", "sh", "-c", &script, "sh"]);
        // The shell has opened its mask.
        command.args(if by == By::Signal { probe::blocked() } else { Vec::new() }).arg("strace");
        Ok(command)
    }
}

/// A run under way.
struct Run<'a> {
    form: Form,
    cluster: &'a Arc<Cluster>,
    /// Until the sidecar exits, where nothing else shows that it has.
    listener: Option<TcpListener>,
    asked: &'a Arc<Asked>,
    places: &'a Places,
    /// Whether it may be suspended.
    stops: bool,
    /// Whether the command is to be sent [`MARK`].
    marks: bool,
}

/// What the sidecar has been asked.
#[derive(Default)]
struct Asked {
    /// How often to exit.
    to_exit: AtomicUsize,
    /// Whether it is ready.
    if_ready: AtomicBool,
}

/// How a run ended, and what had happened by then; as in [`Observed`].
struct End {
    status: Option<ExitStatus>,
    readied: bool,
    cut_short: bool,
}

impl Run<'_> {
    fn until_its_end(mut self, mut strace: Child) -> Result<End> {
        let started = Instant::now();
        let tracer = strace.id().cast_signed();
        let (mut marked, mut main_ended, mut told, mut continued) = (false, None, false, 0);
        let (mut readied, mut unseen) = (!self.form.has_gate(), false);
        loop {
            if let Some(status) = strace.try_wait()? {
                return Ok(End { status: Some(status), readied, cut_short: unseen || told });
            }
            if let Some(Ok((client, _))) = self.listener.as_ref().map(TcpListener::accept) {
                self.answer(client);
            }
            if self.form == Form::Direct && self.asked.to_exit.load(Ordering::Relaxed) > 0 {
                self.listener = None;
            }
            if started.elapsed() > LONGEST {
                for pid in below(tracer).into_iter().flat_map(|proa| [below(proa), vec![proa]].concat()) {
                    send(pid, libc::SIGKILL);
                }
                kill_group(tracer);
                strace.wait()?;
                return Ok(End { status: None, readied, cut_short: unseen || told });
            }
            let watches = match self.form {
                Form::Direct => self.asked.if_ready.load(Ordering::Relaxed),
                _ => self.cluster.open_watches() > 0,
            };
            if !readied && watches {
                // Before it can be seen.
                readied = true;
                become_ready(self.cluster, "web");
                fs::write(&self.places.ready, "")?;
            }
            let ran = fs::metadata(&self.places.lines)?.len() > 0;
            if self.marks && ran && !marked {
                marked = true;
                send_below(tracer, MARK);
            }
            let ready = match self.form {
                Form::Sidecar => ran,
                Form::Helper => self.cluster.open_watches() > 0,
                _ => false,
            };
            if self.form.accompanies() && main_ended.is_none() && (ready || started.elapsed() > UNSEEN) {
                main_ended = Some(Instant::now());
                unseen = !ready;
                end(self.cluster, "main");
            }
            if main_ended.is_some_and(|at| at.elapsed() > UNSEEN) && !told {
                told = true;
                send_below(tracer, libc::SIGTERM);
            }
            if self.stops {
                let text = fs::read(&self.places.trace).unwrap_or_default();
                let stopped = String::from_utf8_lossy(&text).matches("--- stopped by").count();
                if stopped > continued {
                    continued = stopped;
                    send_below(tracer, libc::SIGCONT);
                }
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Answers with 200, and has the sidecar exit. A client may say nothing.
    fn answer(&self, client: TcpStream) {
        let (cluster, asked) = (Arc::clone(self.cluster), Arc::clone(self.asked));
        thread::spawn(move || {
            if answer(client, &asked).is_ok_and(|quits| quits) {
                end(&cluster, "web");
            }
        });
    }
}

/// Whether the command outlives proa; it is killed then. The kernel may take a moment.
fn is_left(pid: i32, lines: &Path) -> bool {
    let is_it = || {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&words).contains(&*lines.to_string_lossy())
    };
    let deadline = Instant::now() + Duration::from_secs(2);
    while is_it() {
        if Instant::now() > deadline {
            send(pid, libc::SIGKILL);
            return true;
        }
        thread::sleep(Duration::from_millis(1));
    }
    false
}

/// The children of a process.
fn below(pid: i32) -> Vec<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// To proa, below its tracer.
fn send_below(tracer: i32, signal: i32) {
    for pid in below(tracer) {
        send(pid, signal);
    }
}

#[expect(unsafe_code, reason = "nix's kill knows no real-time signals")]
fn send(pid: i32, signal: i32) {
    // SAFETY: kill(2) takes two integers and touches no memory of ours. Who has ended needs no signal.
    unsafe { libc::kill(pid, signal) };
}

fn kill_group(leader: i32) {
    // ESRCH: nobody is left.
    let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(leader), nix::sys::signal::Signal::SIGKILL);
}

fn last_lines(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(4)..].join(" / ")
}

fn pod(form: Form) -> Result<Cluster> {
    let cluster = Cluster::start()?;
    let running = "imageID: i, restartCount: 0, state: {running: {}}";
    let (own, own_status) = match form.container() {
        "main" => (String::new(), String::new()),
        name => (
            format!("{{name: {name}, image: i, command: [/proa, sidecar]}}, "),
            format!("{{name: {name}, image: i, ready: true, {running}}}, "),
        ),
    };
    let ready = !form.has_gate();
    let yaml = format!(
        "
metadata: {{name: sweep, namespace: default}}
spec:
  restartPolicy: Never
  containers: [{own}{{name: main, image: i}}, {{name: web, image: i}}]
status:
  phase: Running
  containerStatuses: [{own_status}{{name: main, image: i, ready: true, {running}}}, {{name: web, image: i, ready: {ready}, {running}}}]
"
    );
    cluster.apply(serde_saphyr::from_str(&yaml)?);
    Ok(cluster)
}

/// Where the sidecar is asked to exit.
pub(crate) fn quit_path() -> String {
    format!("/quit-{}", std::process::id())
}

/// Where it is asked whether it is ready.
pub(crate) fn ready_path() -> String {
    format!("/ready-{}", std::process::id())
}

/// Whether it was asked to exit.
fn answer(mut client: TcpStream, asked: &Asked) -> std::io::Result<bool> {
    client.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut request = [0; 4096];
    let read = client.read(&mut request)?;
    let begins = |line: String| request[..read].starts_with(line.as_bytes());
    let quits = begins(format!("POST {} ", quit_path()));
    if quits {
        asked.to_exit.fetch_add(1, Ordering::Relaxed);
    } else if begins(format!("GET {} ", ready_path())) {
        asked.if_ready.store(true, Ordering::Relaxed);
    } else {
        // Others on this machine may knock at a port that was theirs, and who only connects says nothing.
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    client.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
    Ok(quits)
}

fn become_ready(cluster: &Cluster, container: &str) {
    cluster.update("default", "sweep", |pod| {
        let statuses = pod.status.get_or_insert_default().container_statuses.iter_mut().flatten();
        statuses.filter(|status| status.name == container).for_each(|status| status.ready = true);
    });
}

fn end(cluster: &Cluster, container: &str) {
    cluster.update("default", "sweep", |pod| {
        let statuses = pod.status.get_or_insert_default().container_statuses.iter_mut().flatten();
        for status in statuses.filter(|status| status.name == container) {
            let terminated = ContainerStateTerminated { exit_code: 0, ..Default::default() };
            status.ready = false;
            status.state = Some(ContainerState { terminated: Some(terminated), ..Default::default() });
        }
    });
}
