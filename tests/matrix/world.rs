//! One run: the Pod, its API server, the sidecar's endpoint, proa, and the trouble at its moment.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated};
use localpod::Cluster;
use localpod::cluster::{Fault, FaultGuard};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode as FileMode;
use nix::unistd::{Pid, mkfifo};

use super::cell::{Api, Cell, Endpoint, Fate, Lasting, Mode, Phase, Process, Trouble};
use super::random::Random;

/// The command's exit code.
pub(crate) const CODE: i32 = 7;
/// `--ready-timeout` where what stands in the way stays.
const READY: &str = "4s";
/// The same where it passes.
const READY_IN_THE_END: &str = "20s";
/// `--shutdown-timeout`, `--stop-timeout`
const SHUTDOWN: &str = "5s";
/// No run is longer: both of these, the Pod's grace period, a start after SIGKILL, and some time to spare.
const LONGEST: Duration = Duration::from_secs(30);
/// How long a condition lasts that passes.
const PASSING: Duration = Duration::from_secs(2);
/// How long proa may take to see that main has exited before it gets SIGTERM, as from a kubelet.
const UNSEEN: Duration = Duration::from_secs(4);
/// The same where what hides it passes.
const SEEN_IN_THE_END: Duration = Duration::from_secs(15);
/// How often a fault strikes that passes; one that takes as long as proa waits for an answer, once.
const STRIKES: usize = 3;

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Observed {
    /// How proa ended, if it did in time.
    pub(crate) status: Option<ExitStatus>,
    /// How often its command started.
    pub(crate) ran: usize,
    /// How many requests reached the sidecar's endpoint.
    pub(crate) asked: usize,
    /// How many came to where a redirect leads.
    pub(crate) led_astray: usize,
    /// What proa wrote to stderr.
    pub(crate) log: String,
    /// What it left.
    pub(crate) left: Vec<String>,
    /// Whether it was told to exit by SIGTERM, since it could not see main's end.
    pub(crate) told: bool,
    /// Whether the trouble struck.
    pub(crate) struck: bool,
}

/// What a run waits for.
enum Event {
    /// The command's line.
    Line(String),
    /// A request to the endpoint.
    Asked(TcpStream, String),
    /// proa has ended.
    Exited(ExitStatus),
}

/// Runs one cell.
pub(crate) fn run(cell: &Cell, binary: &Path, directory: &Path, random: &mut Random) -> Result<Observed> {
    World::new(cell, binary, directory)?.run(random)
}

struct World<'a> {
    cell: &'a Cell,
    binary: &'a Path,
    directory: &'a Path,
    cluster: Arc<Cluster>,
    port: u16,
    events: (Sender<Event>, Receiver<Event>),
    guards: Vec<FaultGuard>,
    /// When a condition that passes is over.
    heals: Option<Instant>,
    lines: PathBuf,
    go: File,
    log: PathBuf,
    struck: bool,
    answers: usize,
}

impl<'a> World<'a> {
    fn new(cell: &'a Cell, binary: &'a Path, directory: &'a Path) -> Result<Self> {
        let _ = fs::remove_dir_all(directory);
        fs::create_dir_all(directory)?;
        let cluster = Arc::new(Cluster::start()?);
        cluster.apply(serde_saphyr::from_str(&pod(cell.mode))?);
        let events = channel();
        let port = listen(events.0.clone())?;
        let fifo = |name: &str| -> Result<(PathBuf, File)> {
            let path = directory.join(name);
            mkfifo(&path, FileMode::S_IRWXU)?;
            // For reading too, so that it opens without another end, and never ends.
            let file = OpenOptions::new().read(true).write(true).open(&path)?;
            Ok((path, file))
        };
        let (lines, from) = fifo("lines")?;
        let (_, go) = fifo("go")?;
        let sender = events.0.clone();
        thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                if sender.send(Event::Line(line)).is_err() {
                    return;
                }
            }
        });
        let log = directory.join("log");
        Ok(Self {
            cell,
            binary,
            directory,
            cluster,
            port,
            events,
            guards: Vec::new(),
            heals: None,
            lines,
            go,
            log,
            struck: false,
            answers: 0,
        })
    }

    fn run(mut self, random: &mut Random) -> Result<Observed> {
        let mode = self.cell.mode;
        let started = Instant::now();
        let (mut ran, mut asked, mut led_astray, mut told) = (0, 0, 0, false);
        let unseen = if self.passes() { SEEN_IN_THE_END } else { UNSEEN };
        let mut restarted = false;
        let mut main_ended = None;
        if self.cell.phase == Phase::Start {
            self.strike(None, random)?;
        }
        let mut pid = self.start()?;
        if self.cell.phase != Phase::Start && (mode.has_gate() || mode.accompanies()) {
            ensure!(self.cluster.wait_for_watches(1, LONGEST), "proa does not watch: {}", self.read_log());
        }
        if self.cell.phase == Phase::Gate {
            self.strike(Some(pid), random)?;
        }
        let never_ready = self.cell.trouble == Trouble::Fate(Fate::OutOfMemory)
            && matches!(self.cell.phase, Phase::Start | Phase::Gate);
        if mode.has_gate() && !never_ready {
            self.sidecar_ready(true);
        }
        if mode == Mode::Helper {
            if self.cell.phase == Phase::Running {
                self.strike(Some(pid), random)?;
            }
            self.end("main", 0);
            main_ended = Some(Instant::now());
        }
        let status = loop {
            if started.elapsed() > LONGEST {
                let _ = kill(pid, Signal::SIGKILL);
                break None;
            }
            if self.heals.is_some_and(|heals| heals <= Instant::now()) {
                self.heal();
            }
            if main_ended.is_some_and(|ended: Instant| ended.elapsed() > unseen) && !told {
                told = true;
                let _ = kill(pid, Signal::SIGTERM);
            }
            let event = match self.events.1.recv_timeout(Duration::from_millis(50)) {
                Ok(event) => event,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => unreachable!("we hold a sender"),
            };
            match event {
                Event::Exited(_) if self.cell.trouble == Trouble::Process(Process::Killed) && !restarted => {
                    restarted = true;
                    ran = 0;
                    main_ended = main_ended.map(|_| Instant::now());
                    self.revive();
                    pid = self.start()?;
                }
                Event::Exited(status) => break Some(status),
                Event::Line(line) if line == "ran" => {
                    ran += 1;
                    if self.cell.phase == Phase::Running {
                        self.strike(Some(pid), random)?;
                    }
                    match mode {
                        Mode::Sidecar => {
                            self.end("main", 0);
                            main_ended = Some(Instant::now());
                        }
                        // One that was killed with it is not there to read.
                        _ => self.go.write_all(b"go\n")?,
                    }
                }
                Event::Line(_) => {
                    if self.cell.phase == Phase::Shutdown {
                        self.strike(Some(pid), random)?;
                    }
                    self.go.write_all(b"go\n")?;
                }
                Event::Asked(_, path) if path != "/quit" => led_astray += 1,
                Event::Asked(client, _) => {
                    asked += 1;
                    if self.cell.phase == Phase::Shutdown {
                        self.strike(Some(pid), random)?;
                    }
                    self.answer(client, Some(pid), random)?;
                }
            }
        };
        let left = self.left();
        Ok(Observed { status, ran, asked, led_astray, log: self.read_log(), left, told, struck: self.struck })
    }

    fn passes(&self) -> bool {
        matches!(self.cell.trouble, Trouble::Api(_, Lasting::Passing))
    }

    /// Starts proa; the process that signals are for.
    fn start(&mut self) -> Result<Pid> {
        let process = match self.cell.trouble {
            Trouble::Process(process) => Some(process),
            _ => None,
        };
        let mut words: Vec<OsString> = Vec::new();
        let mut add = |list: &[&str]| words.extend(list.iter().map(OsString::from));
        let own_namespaces = ["unshare", "--user", "--map-root-user"];
        match process {
            // A container's first process: the kernel ends the others with it.
            Some(Process::Killed) => {
                add(&own_namespaces);
                add(&["--pid", "--fork", "--kill-child", "--mount-proc"]);
            }
            Some(Process::NoProc) => {
                add(&own_namespaces);
                add(&["--mount", "sh", "-c", "mount -t tmpfs none /proc && exec \"$@\"", "sh"]);
            }
            Some(Process::NoStdio) => add(&["sh", "-c", "exec \"$@\" <&- >&- 2>&-", "sh"]),
            Some(Process::FewFiles) => add(&["sh", "-c", "ulimit -n 12 && exec \"$@\"", "sh"]),
            _ => {}
        }
        words.push(self.binary.into());
        words.extend(self.arguments().into_iter().map(OsString::from));
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env_clear().envs(self.cluster.env());
        command.env("PATH", env::var_os("PATH").unwrap_or_default());
        let message = self.directory.join("message");
        fs::write(&message, "")?;
        command.env("PROA_TERMINATION_MESSAGE_PATH", message);
        command.envs([
            ("POD_NAME", "pod"),
            ("POD_NAMESPACE", "default"),
            ("PROA_CONTAINER", self.cell.mode.container()),
            ("PROA_LOG_LEVEL", "debug"),
            ("RUST_BACKTRACE", "0"),
        ]);
        command.env(MARK, self.directory);
        command.current_dir(self.directory).stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        match process {
            Some(Process::FullStderr) => command.stderr(full_pipe()?),
            _ => command.stderr(log),
        };
        let child = command.spawn().context("proa starts")?;
        let pid = Pid::from_raw(child.id().cast_signed());
        self.report_end(child);
        // Behind unshare, proa is its only child.
        if process == Some(Process::Killed) { only_child(pid) } else { Ok(pid) }
    }

    fn report_end(&self, mut child: Child) {
        let sender = self.events.0.clone();
        thread::spawn(move || {
            if let Ok(status) = child.wait() {
                // The run may be over.
                let _ = sender.send(Event::Exited(status));
            }
        });
    }

    fn arguments(&self) -> Vec<String> {
        let post = format!("--shutdown-http-post=http://127.0.0.1:{}/quit", self.port);
        let ready = format!("--ready-timeout={}", if self.passes() { READY_IN_THE_END } else { READY });
        let shutdown = format!("--shutdown-timeout={SHUTDOWN}");
        let (lines, go) = (self.lines.display(), self.directory.join("go"));
        let ignores = "trap '' HUP USR1 USR2 ALRM PIPE VTALRM PROF IO";
        // `read` ends at a signal that is trapped, and it may come before.
        let awaits_go = format!("until read -r _ < {}; do :; done", go.display());
        let works = format!("trap : TERM; {ignores}; echo ran > {lines}; {awaits_go}; exit {CODE}");
        let serves = format!(
            "trap 'echo term > {lines}; {awaits_go}; exit 0' TERM; {ignores}; echo ran > {lines}; \
             while :; do sleep 1 & wait $!; done"
        );
        let stop = format!("--stop-timeout={SHUTDOWN}");
        let list: Vec<&str> = match self.cell.mode {
            Mode::Wrap => vec![&post, &ready, &shutdown, "--", "sh", "-c", &works],
            Mode::Wait => vec!["wait", &ready],
            Mode::Quit => vec!["quit", &post, &shutdown],
            Mode::Sidecar => vec!["sidecar", "--until-exit=main", &stop, "--", "sh", "-c", &serves],
            Mode::Helper => vec!["sidecar", "--until-exit=main", "--ignore=web", &post, &shutdown],
        };
        list.into_iter().map(str::to_owned).collect()
    }

    /// Has the trouble begin.
    fn strike(&mut self, pid: Option<Pid>, random: &mut Random) -> Result<()> {
        if self.struck {
            return Ok(());
        }
        self.struck = true;
        match &self.cell.trouble {
            Trouble::Api(api, lasting) => self.break_api(&api.clone(), *lasting)?,
            Trouble::Fate(fate) => self.change_pod(*fate),
            Trouble::Endpoint(_) => {}
            Trouble::Process(process) => {
                if let Some(pid) = pid {
                    disturb(*process, pid, random)?;
                }
            }
        }
        Ok(())
    }

    fn break_api(&mut self, api: &Api, lasting: Lasting) -> Result<()> {
        let account = self.cluster.service_account_dir().join("..data");
        let passing = lasting == Lasting::Passing;
        match api {
            Api::Faulty(fault) if passing => {
                let is_slow = matches!(
                    fault,
                    Fault::StallHandshake | Fault::StallAfterHeaders | Fault::Trickle | Fault::Endless
                );
                self.cluster.inject_times(*fault, if is_slow { 1 } else { STRIKES });
            }
            Api::Faulty(fault) => self.guards.push(self.cluster.inject(*fault)),
            Api::Refused => self.guards.push(self.cluster.refuse()),
            Api::Silent => self.guards.push(self.cluster.stall()),
            Api::WatchEnded(how) => self.cluster.end_watches(how),
            Api::HungUp => {}
            Api::OtherAuthority => {
                let other = Cluster::start()?;
                fs::copy(other.service_account_dir().join("ca.crt"), account.join("ca.crt"))?;
            }
            Api::NoToken => fs::remove_file(account.join("token"))?,
            Api::BadToken => fs::write(account.join("token"), "bad")?,
            Api::TokenRotated => self.cluster.rotate_token()?,
            Api::HugePod => self.cluster.update("default", "pod", |pod| {
                let annotations = pod.metadata.annotations.get_or_insert_default();
                annotations.insert("huge".into(), "x".repeat(5_000_000));
            }),
        }
        // Else an open watch would go on, and know nothing of it.
        if !matches!(api, Api::Silent | Api::WatchEnded(_) | Api::HugePod) {
            self.cluster.hang_up();
        }
        self.heals = (passing && !api.is_instant()).then(|| Instant::now() + PASSING);
        Ok(())
    }

    /// Ends a condition that passes.
    fn heal(&mut self) {
        self.heals = None;
        self.guards.clear();
        if let Trouble::Api(Api::OtherAuthority | Api::NoToken | Api::BadToken, _) = self.cell.trouble {
            // Whole again, as one.
            self.cluster.rotate_token().expect("the account's directory");
        }
    }

    fn change_pod(&self, fate: Fate) {
        match fate {
            Fate::Deleted => self.cluster.mark_deleted("default", "pod", Duration::from_secs(30)),
            Fate::Removed => self.cluster.remove("default", "pod"),
            Fate::Replaced => {
                self.cluster.remove("default", "pod");
                self.cluster.apply(serde_saphyr::from_str(&pod(self.cell.mode)).expect("a Pod"));
            }
            Fate::OutOfMemory => self.end("web", 137),
            Fate::Flapping => (0..10).for_each(|turn| self.sidecar_ready(turn % 2 == 0)),
            Fate::NoStatus => self.cluster.update("default", "pod", |pod| pod.status = None),
        }
    }

    /// After SIGKILL, main is started again, and so runs.
    fn revive(&self) {
        if self.cell.mode == Mode::Sidecar {
            self.cluster.apply(serde_saphyr::from_str(&pod(self.cell.mode)).expect("a Pod"));
        }
    }

    fn answer(&mut self, mut client: TcpStream, pid: Option<Pid>, random: &mut Random) -> Result<()> {
        let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        let endpoint = match self.cell.trouble {
            Trouble::Endpoint(endpoint) => Some(endpoint),
            _ => None,
        };
        self.answers += 1;
        if let Some((start, rest)) = endpoint.and_then(endless) {
            without_end(client, start, rest);
            return Ok(());
        }
        // A client that has gone is one that has had enough.
        let _ = match endpoint {
            None | Some(Endpoint::AcceptsAndStays) => client.write_all(ok),
            Some(Endpoint::BusyAtFirst) if self.answers > 2 => client.write_all(ok),
            Some(Endpoint::BusyAtFirst) => {
                client.write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
            }
            Some(Endpoint::Status(code)) => {
                write!(client, "HTTP/1.1 {code} No\r\nContent-Length: 0\r\n\r\n")
            }
            Some(Endpoint::TakenOver) => {
                write!(client, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            }
            Some(Endpoint::Redirect) => {
                let port = self.port;
                write!(
                    client,
                    "HTTP/1.1 307 No\r\nLocation: http://127.0.0.1:{port}/astray\r\nContent-Length: 0\r\n\r\n"
                )
            }
            Some(Endpoint::NoHttp) => client.write_all(b"220 mail ready\r\n"),
            Some(Endpoint::Reset) => reset(&client),
            // Without an answer, or answered above.
            Some(_) => Ok(()),
        };
        if self.cell.phase == Phase::Drain {
            self.strike(pid, random)?;
        }
        let exits = match endpoint {
            Some(Endpoint::BusyAtFirst) => self.answers > 2,
            Some(endpoint) => endpoint.exits(),
            None => true,
        };
        if exits {
            self.end("web", 0);
        }
        Ok(())
    }

    fn sidecar_ready(&self, ready: bool) {
        self.cluster.update("default", "pod", |pod| {
            let statuses = pod.status.iter_mut().flat_map(|status| &mut status.container_statuses).flatten();
            for status in statuses.filter(|status| status.name == "web") {
                status.ready = ready;
            }
        });
    }

    fn end(&self, container: &str, code: i32) {
        self.cluster.update("default", "pod", |pod| {
            let statuses = pod.status.iter_mut().flat_map(|status| &mut status.container_statuses).flatten();
            for status in statuses.filter(|status| status.name == container) {
                let reason = (code == 137).then(|| "OOMKilled".to_owned());
                let terminated = ContainerStateTerminated { exit_code: code, reason, ..Default::default() };
                status.ready = false;
                status.state = Some(ContainerState { terminated: Some(terminated), ..Default::default() });
            }
        });
    }

    fn read_log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Processes of this run, and files that nobody of this program made.
    fn left(&self) -> Vec<String> {
        // The sleep of the sidecar's command may outlive it by as much.
        let deadline = Instant::now() + Duration::from_secs(3);
        let mut left = processes(self.directory);
        while !left.is_empty() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
            left = processes(self.directory);
        }
        let files = fs::read_dir(self.directory).into_iter().flatten().flatten();
        let known = ["lines", "go", "log", "message"];
        let name = |file: fs::DirEntry| file.file_name().to_string_lossy().into_owned();
        left.extend(files.map(name).filter(|name| !known.contains(&name.as_str())));
        left
    }
}

/// What a run's processes are known by.
const MARK: &str = "MATRIX_RUN";

fn processes(directory: &Path) -> Vec<String> {
    let mark = format!("{MARK}={}", directory.display());
    let has_mark =
        |environment: &[u8]| environment.split(|byte| *byte == 0).any(|one| one == mark.as_bytes());
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let of_run =
        processes.filter(|entry| fs::read(entry.path().join("environ")).is_ok_and(|text| has_mark(&text)));
    let shown = of_run.map(|entry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        format!(
            "process {} {}",
            entry.file_name().display(),
            String::from_utf8_lossy(&line).replace('\0', " ")
        )
    });
    shown.collect()
}

fn only_child(parent: Pid) -> Result<Pid> {
    let children = format!("/proc/{parent}/task/{parent}/children");
    let deadline = Instant::now() + LONGEST;
    loop {
        let text = fs::read_to_string(&children).unwrap_or_default();
        if let Some(child) = text.split_whitespace().next() {
            return Ok(Pid::from_raw(child.parse()?));
        }
        ensure!(Instant::now() < deadline, "unshare starts nothing");
        thread::sleep(Duration::from_millis(1));
    }
}

fn disturb(process: Process, pid: Pid, random: &mut Random) -> Result<()> {
    use Signal::{
        SIGALRM, SIGCONT, SIGIO, SIGKILL, SIGPROF, SIGSTOP, SIGTERM, SIGURG, SIGUSR1, SIGUSR2, SIGVTALRM,
        SIGWINCH,
    };
    match process {
        Process::Noise => {
            let all = [SIGUSR1, SIGUSR2, SIGALRM, SIGIO, SIGPROF, SIGURG, SIGVTALRM, SIGWINCH, SIGCONT];
            for _ in 0..100 {
                kill(pid, all[random.below(all.len())])?;
            }
        }
        Process::Terminated => kill(pid, SIGTERM)?,
        Process::Stopped => {
            kill(pid, SIGSTOP)?;
            let stat = format!("/proc/{pid}/stat");
            let deadline = Instant::now() + LONGEST;
            while !fs::read_to_string(&stat)?.contains(") T ") {
                ensure!(Instant::now() < deadline, "proa does not stop");
                thread::sleep(Duration::from_millis(1));
            }
            kill(pid, SIGCONT)?;
        }
        Process::Killed => kill(pid, SIGKILL)?,
        Process::NoStdio | Process::FullStderr | Process::NoProc | Process::FewFiles => {}
    }
    Ok(())
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

/// What it begins with, and what it goes on with without end, where it has none.
fn endless(endpoint: Endpoint) -> Option<(&'static [u8], &'static [u8])> {
    match endpoint {
        Endpoint::Mute => Some((b"", b"")),
        Endpoint::EndlessBody => Some((b"HTTP/1.1 200 OK\r\n\r\n", &[b'x'; 4096])),
        Endpoint::EndlessHeaders => Some((b"HTTP/1.1 200 OK\r\n", b"X-More: more\r\n")),
        Endpoint::Informational => Some((b"", b"HTTP/1.1 103 Early Hints\r\n\r\n")),
        Endpoint::Trickle => Some((b"HTTP/1.1 200 OK\r\n", b"x")),
        _ => None,
    }
}

/// Sends the start, then the rest again and again until the client goes: a kilobyte at once, a byte in a second.
fn without_end(mut client: TcpStream, start: &'static [u8], rest: &'static [u8]) {
    thread::spawn(move || {
        let pause = Duration::from_millis(if rest.len() > 1 { 1 } else { 1000 });
        let mut sent = client.write_all(start);
        while sent.is_ok() {
            // Until the client goes there is nothing to read.
            let gone = client.set_read_timeout(Some(pause)).is_err() || client.read(&mut [0; 64]).is_ok();
            sent = if gone { Err(std::io::ErrorKind::BrokenPipe.into()) } else { client.write_all(rest) };
        }
    });
}

/// Closes with a reset.
fn reset(client: &TcpStream) -> std::io::Result<()> {
    nix::sys::socket::setsockopt(
        client,
        nix::sys::socket::sockopt::Linger,
        &nix::libc::linger { l_onoff: 1, l_linger: 0 },
    )?;
    Ok(())
}

/// The sidecar's endpoint: hands every request on.
fn listen(sender: Sender<Event>) -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let sender = sender.clone();
            thread::spawn(move || {
                let mut head = Vec::new();
                let mut byte = [0; 512];
                while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                    match client.read(&mut byte) {
                        Ok(read) if read > 0 => head.extend_from_slice(&byte[..read]),
                        _ => return,
                    }
                }
                let text = String::from_utf8_lossy(&head).into_owned();
                let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
                // The run may be over.
                let _ = sender.send(Event::Asked(client, path));
            });
        }
    });
    Ok(port)
}

fn pod(mode: Mode) -> String {
    let own = match mode.container() {
        "main" => String::new(),
        name => format!("{{name: {name}, image: i, command: [/proa, sidecar]}}, "),
    };
    let running = "imageID: i, restartCount: 0, state: {running: {}}";
    let own_status = match mode.container() {
        "main" => String::new(),
        name => format!("{{name: {name}, image: i, ready: true, {running}}}, "),
    };
    let ready = !mode.has_gate();
    format!(
        "
metadata: {{name: pod, namespace: default}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 5
  containers: [{own}{{name: main, image: i}}, {{name: web, image: i}}]
status:
  phase: Running
  containerStatuses: [{own_status}{{name: main, image: i, ready: true, {running}}}, {{name: web, image: i, ready: {ready}, {running}}}]
"
    )
}

/// For the report: how it ended.
pub(crate) fn ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => format!("{status}"),
    }
}
