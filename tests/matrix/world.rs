//! One run: the Pod, its API server, the sidecar's endpoint, proa, and the trouble at its moment.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use localpod::Cluster;
use localpod::cluster::{Fault, FaultGuard, Request};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode as FileMode;
use nix::unistd::{Pid, mkfifo};

use super::cell::{Cell, Mode, Phase};
use super::launch::{self, FILES, MARK, children};
use super::random::Random;
use super::trouble::{Api, Endpoint, Fate, Lasting, Process, Trouble, Work};
use super::{endpoint, law, pods};

/// The command's exit code.
pub(crate) const CODE: i32 = 7;
/// No run is longer: `--ready-timeout` and `--shutdown-timeout`, the Pod's grace period, a start after SIGKILL, and some time to spare.
pub(crate) const LONGEST: Duration = Duration::from_secs(40);
/// How long a condition lasts that passes.
const PASSING: Duration = Duration::from_secs(2);
/// How long proa may take to see that main has exited before it gets SIGTERM, as from a kubelet.
const UNSEEN: Duration = Duration::from_secs(4);
/// The same where nothing hides it for good: as long as any machine takes.
const SEEN_IN_THE_END: Duration = Duration::from_secs(15);
/// How often a fault strikes that passes; one that takes as long as proa waits for an answer, once.
const STRIKES: usize = 3;
/// How long the sidecar is seen and not ready; no verdict turns on it.
const GLANCE: Duration = Duration::from_millis(50);
/// How long the sidecar runs on after its answer where the API server is not asked for it.
const LINGERS: Duration = Duration::from_secs(2);
/// How long the answer takes to the search for the Pod, in which the trouble begins.
const SEARCH: Duration = Duration::from_millis(300);

/// What came of a run.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(crate) struct Observed {
    /// How proa ended, if it did in time.
    pub(crate) status: Option<ExitStatus>,
    /// Whether SIGKILL ended it.
    pub(crate) killed: bool,
    /// How often its command started.
    pub(crate) ran: usize,
    /// What it did before it could know that it may.
    pub(crate) premature: Vec<Premature>,
    /// Whether its command was asked to stop.
    pub(crate) stopped: bool,
    /// Whether the API server has shown it the sidecar's end.
    pub(crate) shown_end: bool,
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

/// What has to wait for something that happens in the Pod. What is sent to proa is noted before it is, and what proa does is seen after
/// it was done: so whoever is found here was early, however slow the machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Premature {
    /// Its command began, or `proa wait` succeeded, before the sidecar was ready, or before the API server had shown that.
    Began,
    /// The sidecar was asked to exit while the command ran; by the helper: before the API server had shown main's end.
    Asked,
    /// A wrapped sidecar's command was asked to stop before the API server had shown main's end.
    Stopped,
    /// It ended before the sidecar had, and before `--shutdown-timeout` was over.
    Left,
}

/// What a run waits for.
pub(crate) enum Event {
    /// The command's line, and when it was read.
    Line(String, Instant),
    /// A request to the endpoint.
    Asked(TcpStream, String),
    /// proa has ended, and when that was seen.
    Exited(ExitStatus, Instant),
}

/// Runs one cell.
pub(crate) fn run(cell: &Cell, binary: &Path, directory: &Path, random: &mut Random) -> Result<Observed> {
    World::new(cell, binary, directory)?.run(random)
}

#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct World<'a> {
    cell: &'a Cell,
    binary: &'a Path,
    directory: &'a Path,
    cluster: Cluster,
    port: u16,
    events: (Sender<Event>, Receiver<Event>),
    guards: Vec<FaultGuard>,
    /// When a condition that passes is over.
    heals: Option<Instant>,
    go: File,
    /// Where nothing is ever to be read.
    _never: File,
    log: PathBuf,
    struck: bool,
    ran: usize,
    asked: usize,
    led_astray: usize,
    told: bool,
    restarted: bool,
    main_ended: Option<Instant>,
    /// The UID of its Pod.
    uid: Option<String>,
    /// No shutdown has begun before.
    none_before: Instant,
    /// How many requests there were before it was started, again.
    asked_before: usize,
    /// Whether the command was let go, and so may be over.
    let_go: bool,
    stopped: bool,
    /// When the sidecar was first ready.
    ready: Option<Instant>,
    /// When the sidecar has accepted, while it runs on.
    accepted: Option<Instant>,
    sidecar_ended: Option<Instant>,
    premature: Vec<Premature>,
}

impl<'a> World<'a> {
    fn new(cell: &'a Cell, binary: &'a Path, directory: &'a Path) -> Result<Self> {
        let _ = fs::remove_dir_all(directory);
        fs::create_dir_all(directory)?;
        let cluster = Cluster::start()?;
        pods::create(&cluster, cell.mode, "pod")?;
        let events = channel();
        let port = endpoint::listen(events.0.clone())?;
        let fifo = |name: &str| -> Result<File> {
            let path = directory.join(name);
            mkfifo(&path, FileMode::S_IRWXU)?;
            // For reading too, so that it opens without another end, and never ends.
            Ok(OpenOptions::new().read(true).write(true).open(&path)?)
        };
        let (from, go, never) = (fifo("lines")?, fifo("go")?, fifo("never")?);
        let sender = events.0.clone();
        thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                if sender.send(Event::Line(line, Instant::now())).is_err() {
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
            go,
            _never: never,
            log,
            struck: false,
            ran: 0,
            asked: 0,
            led_astray: 0,
            told: false,
            restarted: false,
            main_ended: None,
            uid: None,
            none_before: Instant::now(),
            asked_before: 0,
            let_go: false,
            stopped: false,
            ready: None,
            accepted: None,
            sidecar_ended: None,
            premature: Vec::new(),
        })
    }

    fn run(mut self, random: &mut Random) -> Result<Observed> {
        let started = Instant::now();
        let unseen = if law::is_main_hidden(self.cell) { UNSEEN } else { SEEN_IN_THE_END };
        let mut pid = self.begin(random)?;
        let status = loop {
            if started.elapsed() > LONGEST {
                let _ = kill(pid, Signal::SIGKILL);
                break None;
            }
            if self.heals.is_some_and(|heals| heals <= Instant::now()) {
                self.heal();
            }
            if self.main_ended.is_some_and(|ended| ended.elapsed() > unseen) && !self.told {
                self.told = true;
                let _ = kill(pid, Signal::SIGTERM);
            }
            self.end_sidecar_in_time(pid, random)?;
            let pause = Duration::from_millis(if self.accepted.is_some() { 5 } else { 50 });
            let event = match self.events.1.recv_timeout(pause) {
                Ok(event) => event,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => unreachable!("we hold a sender"),
            };
            match event {
                Event::Exited(status, _) if self.is_to_start_again(status) => pid = self.start_again()?,
                Event::Exited(status, at) => {
                    self.note_end(status, at);
                    break Some(status);
                }
                Event::Line(line, at) => self.hear(&line, at, pid, random)?,
                Event::Asked(_, path) if path != "/quit" => self.led_astray += 1,
                Event::Asked(client, _) => self.answer(client, pid, random)?,
            }
        };
        Ok(Observed {
            status,
            killed: status.is_some_and(|status| self.is_killed(status)),
            ran: self.ran,
            premature: std::mem::take(&mut self.premature),
            stopped: self.stopped,
            shown_end: self.has_shown(|pod| pods::has_ended(pod, "web")),
            asked: self.asked,
            led_astray: self.led_astray,
            log: self.read_log(),
            left: self.left(),
            told: self.told,
            struck: self.struck,
        })
    }

    /// Starts proa, and goes on until it is the command's or the sidecar's turn; proa's process.
    fn begin(&mut self, random: &mut Random) -> Result<Pid> {
        let (mode, phase) = (self.cell.mode, self.cell.phase);
        match phase {
            Phase::Start => self.strike(None, random)?,
            // The search for the Pod is under way for so long.
            Phase::Identity => self.cluster.inject_times(Fault::Delay(SEARCH), 1),
            _ => {}
        }
        let pid = self.start()?;
        let watches = mode.has_gate() || mode.accompanies();
        match phase {
            Phase::Start => {}
            Phase::Identity => {
                let searches = self.cluster.wait_for_connections(1, LONGEST);
                ensure!(searches, "proa does not search: {}", self.read_log());
                self.strike(Some(pid), random)?;
            }
            _ if watches => {
                let watches = self.cluster.wait_for_watches(1, LONGEST);
                ensure!(watches, "proa does not watch: {}", self.read_log());
            }
            _ => {}
        }
        if phase == Phase::Gate {
            // Long enough for a gate that is not one to open.
            thread::sleep(GLANCE);
            self.strike(Some(pid), random)?;
        }
        let never_ready = self.cell.trouble == Trouble::Fate(Fate::OutOfMemory) && phase <= Phase::Gate;
        if mode.has_gate() && !never_ready {
            fs::write(self.directory.join("appears"), "")?;
            self.ready.get_or_insert_with(Instant::now);
            pods::ready(&self.cluster, "pod", true);
        }
        if phase == Phase::Spawn {
            self.spawned(pid, random)?;
        }
        if mode == Mode::Helper {
            if phase == Phase::Running {
                self.strike(Some(pid), random)?;
            }
            self.end_main();
        }
        if mode == Mode::Wait && phase == Phase::Exit {
            self.leaves(pid, random)?;
        }
        Ok(pid)
    }

    fn end_main(&mut self) {
        self.none_before = Instant::now();
        pods::end(&self.cluster, "pod", "main", 0);
        self.main_ended = Some(Instant::now());
    }

    /// Whether the kubelet starts proa again. One that had exited before SIGKILL came it does not.
    fn is_to_start_again(&self, status: ExitStatus) -> bool {
        let was_killed = self.cell.trouble == Trouble::Process(Process::Killed) && self.is_killed(status);
        was_killed && !self.restarted
    }

    fn start_again(&mut self) -> Result<Pid> {
        self.restarted = true;
        self.ran = 0;
        // It went without a word, but the sidecar does as it was asked.
        if self.accepted.take().is_some() {
            self.end_sidecar();
        }
        // What it was shown before died with it.
        self.cluster.forget_requests();
        self.main_ended = self.main_ended.map(|_| Instant::now());
        // Main is started again as well, and so runs.
        if self.cell.mode == Mode::Sidecar {
            pods::create(&self.cluster, self.cell.mode, "pod")?;
        }
        self.start()
    }

    /// The command has said something.
    fn hear(&mut self, line: &str, at: Instant, pid: Pid, random: &mut Random) -> Result<()> {
        if line == "ran" {
            self.ran += 1;
            self.note_begin(at);
            // Where it says nothing more it may be over.
            self.let_go |= self.cell.trouble == Trouble::Work(Work::EndsAtOnce);
            if self.cell.mode == Mode::Wrap && self.asked > self.asked_before && !self.let_go {
                self.premature.push(Premature::Asked);
            }
            if self.cell.phase == Phase::Running {
                self.strike(Some(pid), random)?;
            }
            if self.cell.mode == Mode::Sidecar {
                self.end_main();
                return Ok(());
            }
            // One that was killed with it is not there to read.
            return self.let_go();
        }
        self.stopped = true;
        if !self.has_shown(|pod| pods::has_ended(pod, "main")) {
            self.premature.push(Premature::Stopped);
        }
        if self.cell.phase == Phase::Shutdown {
            self.strike(Some(pid), random)?;
        }
        self.let_go()?;
        if self.cell.phase == Phase::Exit {
            self.leaves(pid, random)?;
        }
        Ok(())
    }

    /// The trouble begins once the command's process is there; then it goes on.
    fn spawned(&mut self, pid: Pid, random: &mut Random) -> Result<()> {
        if matches!(self.cell.trouble, Trouble::Work(work) if work.is_brief()) {
            self.struck = true;
            return Ok(());
        }
        let deadline = Instant::now() + LONGEST;
        while children(pid).is_empty() {
            ensure!(Instant::now() < deadline, "the command does not start: {}", self.read_log());
            thread::sleep(Duration::from_millis(1));
        }
        self.strike(Some(pid), random)?;
        // The command goes with PID 1, and is not to begin before.
        if self.cell.trouble == Trouble::Process(Process::Killed) {
            until(pid, "to die", |pid| !Path::new(&format!("/proc/{pid}")).exists())?;
        }
        self.let_go()
    }

    /// The trouble begins once proa was shown what it waits for, and watches nothing any more.
    fn leaves(&mut self, pid: Pid, random: &mut Random) -> Result<()> {
        let mode = self.cell.mode;
        let is_last = |pod: &Pod| match mode {
            Mode::Wait => pods::is_ready(pod),
            Mode::Sidecar => pods::has_ended(pod, "main"),
            Mode::Wrap | Mode::Quit | Mode::Helper => pods::has_ended(pod, "web"),
        };
        ensure!(self.cluster.wait_for_served(LONGEST, is_last), "proa is shown nothing: {}", self.read_log());
        ensure!(self.cluster.wait_for_watches(0, LONGEST), "proa goes on watching: {}", self.read_log());
        self.strike(Some(pid), random)
    }

    fn answer(&mut self, client: TcpStream, pid: Pid, random: &mut Random) -> Result<()> {
        self.asked += 1;
        let is_early = match self.cell.mode {
            Mode::Wrap => self.ran > 0 && !self.let_go,
            Mode::Helper => !self.has_shown(|pod| pods::has_ended(pod, "main")),
            Mode::Wait | Mode::Quit | Mode::Sidecar => false,
        };
        if is_early {
            self.premature.push(Premature::Asked);
        }
        if self.cell.phase == Phase::Shutdown {
            self.strike(Some(pid), random)?;
        }
        let endpoint = match self.cell.trouble {
            Trouble::Endpoint(endpoint) => Some(endpoint),
            _ => None,
        };
        if endpoint.is_some_and(Endpoint::is_gone) {
            self.end_sidecar();
        }
        let before = Instant::now();
        if endpoint::answer(endpoint, client, self.asked, self.port) && self.sidecar_ended.is_none() {
            self.accepted.get_or_insert(before);
        }
        Ok(())
    }

    /// The sidecar exits once proa watches for that, so that one that does not is caught. Where it cannot, after a while.
    fn end_sidecar_in_time(&mut self, pid: Pid, random: &mut Random) -> Result<()> {
        let Some(accepted) = self.accepted else { return Ok(()) };
        let is_watch = |request: &Request| request.verb == "watch" && request.at >= accepted;
        let is_watched = self.cluster.wait_for_request(Duration::ZERO, is_watch).is_some();
        // Where the trouble begins with the watch, nothing else will do.
        let is_unasked = self.struck && accepted.elapsed() > LINGERS;
        if !is_watched && !is_unasked {
            return Ok(());
        }
        self.accepted = None;
        if self.cell.phase == Phase::Drain {
            self.strike(Some(pid), random)?;
        }
        self.end_sidecar();
        if self.cell.phase == Phase::Exit {
            self.leaves(pid, random)?;
        }
        Ok(())
    }

    fn end_sidecar(&mut self) {
        if self.sidecar_ended.is_none() {
            self.sidecar_ended = Some(Instant::now());
            pods::end(&self.cluster, "pod", "web", 0);
        }
    }

    /// Has the command go on to its end.
    fn let_go(&mut self) -> Result<()> {
        self.let_go = true;
        self.none_before = Instant::now();
        Ok(self.go.write_all(b"go\n")?)
    }

    /// Whether the API server has sent its Pod like this since it was started.
    fn has_shown(&self, fits: impl Fn(&Pod) -> bool) -> bool {
        self.cluster.has_served(|pod| pod.metadata.uid == self.uid && fits(pod))
    }

    /// What waits for the sidecar has begun, or is over.
    fn note_begin(&mut self, at: Instant) {
        let was_ready = self.ready.is_some_and(|ready| ready <= at);
        if self.cell.mode.has_gate() && !(was_ready && self.has_shown(pods::is_ready)) {
            self.premature.push(Premature::Began);
        }
    }

    fn note_end(&mut self, status: ExitStatus, at: Instant) {
        if self.cell.mode == Mode::Wait && status.success() {
            self.note_begin(at);
        }
        if self.is_killed(status) {
            return;
        }
        let had_ended = self.sidecar_ended.is_some_and(|ended| ended <= at);
        if self.cell.mode.asks() && !had_ended && self.none_before.elapsed() < launch::SHUTDOWN {
            self.premature.push(Premature::Left);
        }
    }

    /// Whether SIGKILL ended proa. Below unshare (util-linux 2.38) it is unshare that says so, since it cannot do the same.
    fn is_killed(&self, status: ExitStatus) -> bool {
        status.code().is_none() || self.read_log().contains("unshare: sigprocmask unblock failed")
    }

    /// Starts proa; the process that signals are for.
    fn start(&mut self) -> Result<Pid> {
        self.uid = self.cluster.pod("default", "pod").and_then(|pod| pod.metadata.uid);
        (self.none_before, self.asked_before, self.let_go) = (Instant::now(), self.asked, false);
        let (pid, child) = launch::start(self.cell, self.binary, self.directory, &self.cluster, self.port)?;
        self.report_end(child);
        Ok(pid)
    }

    fn report_end(&self, mut child: Child) {
        let sender = self.events.0.clone();
        thread::spawn(move || {
            if let Ok(status) = child.wait() {
                // The run may be over.
                let _ = sender.send(Event::Exited(status, Instant::now()));
            }
        });
    }

    /// Has the trouble begin.
    fn strike(&mut self, pid: Option<Pid>, random: &mut Random) -> Result<()> {
        if self.struck {
            return Ok(());
        }
        self.struck = true;
        match (&self.cell.trouble, pid) {
            (Trouble::Api(api, lasting), _) => self.break_api(&api.clone(), *lasting)?,
            (Trouble::Fate(fate), _) => {
                match fate {
                    Fate::Flapping => drop(self.ready.get_or_insert_with(Instant::now)),
                    Fate::OutOfMemory => drop(self.sidecar_ended.get_or_insert_with(Instant::now)),
                    _ => {}
                }
                pods::befall(&self.cluster, self.cell.mode, *fate)?;
            }
            (Trouble::Process(process), Some(pid)) => match disturb(*process, pid, random) {
                // It may have exited by then.
                Err(Errno::ESRCH) if self.cell.phase == Phase::Exit => {}
                outcome => outcome.with_context(|| self.read_log())?,
            },
            (Trouble::Work(Work::IgnoresAll), Some(pid)) if self.cell.mode == Mode::Wrap => ignored(pid)?,
            (Trouble::Work(Work::Orphans), Some(pid)) => collected(pid)?,
            (Trouble::Endpoint(_) | Trouble::Process(_) | Trouble::Work(_) | Trouble::Crowd, _) => {}
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
            Api::TokenExpired => self.cluster.expire_token(),
            Api::TokenRotated => self.cluster.rotate_token()?,
            Api::HugePod => self.cluster.update("default", "pod", |pod| {
                let annotations = pod.metadata.annotations.get_or_insert_default();
                annotations.insert("huge".into(), "x".repeat(5_000_000));
            }),
        }
        // Else an open watch would go on, and know nothing of it.
        if !matches!(api, Api::Silent | Api::WatchEnded(_) | Api::HugePod) {
            self.cluster.hang_up();
            // Else the watch may yet bring what comes next. One that is taken up again at once may not be missed.
            let _ = self.cluster.wait_for_watches(0, Duration::from_secs(1));
        }
        self.heals = (passing && !api.is_instant()).then(|| Instant::now() + PASSING);
        Ok(())
    }

    /// Ends a condition that passes.
    fn heal(&mut self) {
        self.heals = None;
        self.guards.clear();
        if let Trouble::Api(Api::OtherAuthority | Api::NoToken | Api::BadToken | Api::TokenExpired, _) =
            self.cell.trouble
        {
            // Whole again, as one.
            self.cluster.rotate_token().expect("the account's directory");
        }
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
        let name = |file: fs::DirEntry| file.file_name().to_string_lossy().into_owned();
        let mut left: Vec<_> = left.into_iter().map(|(_, shown)| shown).collect();
        left.extend(files.map(name).filter(|name| !FILES.contains(&name.as_str())));
        left
    }
}

impl Drop for World<'_> {
    /// However the run ends, nothing of it runs beside the next.
    fn drop(&mut self) {
        for (pid, _) in processes(self.directory) {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

/// The processes of this run, and what shows them.
fn processes(directory: &Path) -> Vec<(Pid, String)> {
    let mark = format!("{MARK}={}", directory.display());
    let has_mark =
        |environment: &[u8]| environment.split(|byte| *byte == 0).any(|one| one == mark.as_bytes());
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let of_run =
        processes.filter(|entry| fs::read(entry.path().join("environ")).is_ok_and(|text| has_mark(&text)));
    let shown = of_run.filter_map(|entry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let name = entry.file_name().into_string().ok()?;
        let shown = format!("process {name} {}", String::from_utf8_lossy(&line).replace('\0', " "));
        Some((Pid::from_raw(name.parse().ok()?), shown))
    });
    shown.collect()
}

fn disturb(process: Process, pid: Pid, random: &mut Random) -> nix::Result<()> {
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
            loop {
                let state = fs::read_to_string(&stat).map_err(|_| Errno::ESRCH)?;
                if state.contains(") T ") {
                    break;
                }
                if state.contains(") Z ") || Instant::now() > deadline {
                    return Err(Errno::ESRCH);
                }
                thread::sleep(Duration::from_millis(1));
            }
            kill(pid, SIGCONT)?;
        }
        Process::Killed => kill(pid, SIGKILL)?,
        // There from the start on.
        _ => {}
    }
    Ok(())
}

/// Sends PID 1 what asks a container to stop, in vain, and in the end what a kubelet sends.
fn ignored(pid: Pid) -> Result<()> {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1] {
        kill(pid, signal)?;
    }
    until(pid, "to take its signals", |pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("ShdPnd:") && line.ends_with("0000000000000000"))
    })?;
    ensure!(!children(pid).is_empty(), "the command has not ignored a signal");
    Ok(kill(pid, Signal::SIGKILL)?)
}

/// Waits until the command is all that is left of its children.
fn collected(pid: Pid) -> Result<()> {
    until(pid, "to collect the orphans", |pid| children(pid).len() == 1)
}

fn until(pid: Pid, what: &str, is_so: impl Fn(Pid) -> bool) -> Result<()> {
    let deadline = Instant::now() + LONGEST;
    while !is_so(pid) {
        if Instant::now() > deadline {
            bail!("proa is yet {what}");
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// For the report: how it ended.
pub(crate) fn ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => format!("{status}"),
    }
}
