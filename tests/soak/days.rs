//! Days of waiting, in minutes: proa's own gate, and its helper, on a clock that is driven by hand, beside an API server over TLS.
//!
//! The clock stands still while anything happens between the two processes, and is at the next timer as soon as nothing does. So
//! every timer of proa's fires in its order, and nothing that takes time on this machine takes any of its.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::sleep as real_sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail, ensure};
use futures::StreamExt;
use nix::libc;
use proa::cli::{Task, read_words};
use proa::cluster::{Cluster, Observation, OwnPod, SERVICE_HOST, SERVICE_PORT};
use proa::gate::{self, Api};
use proa::identity::{Identity, Mounts};
use proa::mode::helper;
use proa::plan::sidecar::{Duty, SidecarPlan};
use proa::plan::{Environment, Plan};
use proa::signal::stream::Signals;
use proa::status::board::Board;
use tokio::runtime::Builder;
use tokio::time::{Instant as Paused, pause, sleep, sleep_until};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::api::{Place, Server};
use super::machine::{descriptors, is_quiet, standing_still, status};
use super::random::Random;
use super::{Row, Size};

/// How much more may be held in the last day than in the first, in bytes of the heap: what is formatted has a digit more or less. A
/// leak of one byte a watch would be 75 KB in 30 days.
const HEAP: u64 = 8 * 1024;
/// The same in KiB of anonymous memory: the allocator's pages, which depend on the order in which connections come and go.
const ANONYMOUS: u64 = 128;
/// How long anything on this machine may take, by its own clock.
const LONGEST: Duration = Duration::from_secs(60);
/// How long until a watch is open again, once nothing is in the way: proa's pauses, and steps of the clock. After an end that every
/// watch comes to.
const REOPENED: Duration = Duration::from_millis(500);
/// Once an API server is back. One attempt may have begun just before and is lost, for which proa gives it 4 s; pauses of a second at
/// most are before and after it.
const BACK: Duration = Duration::from_secs(8);
/// After two answers of the worst kind: handshakes of which none ends within 4 s, or 8 s.
const FAULTY: Duration = Duration::from_secs(16);
/// After an outage: the clock may go on while the kernel's answer to an attempt is on its way, so that one is lost that would have
/// been refused. Each that is lost gives the next more time, 30 s at most, and the last of them may have begun just before.
const AWAY: Duration = Duration::from_secs(32);
/// After a silence, counted from a step before proa takes the watch for lost.
const SILENT: Duration = Duration::from_secs(1);
/// After refusals that somebody has had to end: the longest pause between attempts.
const ALLOWED: Duration = Duration::from_secs(31);
/// From what is waited for to what follows: a look that confirms it takes a pause of no length, which is a millisecond.
const SOON: Duration = Duration::from_millis(20);
/// A step of the clock while the way is not clear.
const STEP: Duration = Duration::from_millis(250);
/// When proa itself ends a watch that its server has not: the longest life of one and a slack, as `src/cluster.rs` has it.
const GIVEN_UP: Duration = Duration::from_secs(40);
const SEED: u64 = 14;
/// Those that run in this process.
pub(crate) const PARTS: [&str; 2] = ["gate", "helper"];

pub(crate) fn gate(_: &str, size: Size) -> Result<Vec<Row>> {
    let (server, place) = Server::start()?;
    let log = Log::set()?;
    let Ok(Task::Main(cli)) = read_words(&words(&place, &["proa", "--ready-timeout=0"], &["--", "true"]))
    else {
        bail!("no plan")
    };
    let plan = Plan::new(*cli, &environment(&place)).map_err(|invalid| anyhow!("{invalid:?}"))?;
    let mounts = mounts(&place, "main");
    let identity = Identity::find(&plan.claim, &mounts, &plan.api.service_account)?;
    let identity = identity.map_err(|unknown| anyhow!("{unknown}"))?;
    let own_pod = OwnPod { cluster: Cluster::new(&plan.api)??, identity };
    let signals = Signals::register()?;
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .thread_keep_alive(LONGEST * 60)
        .start_paused(true)
        .build()?;
    let (report, seen, over) =
        (Shared::default(), Arc::new(Seen::default()), Arc::new(AtomicBool::default()));
    let driver = Driver::new(&server, &report, size.days, Some(Arc::clone(&seen)));
    runtime.block_on(async {
        let mut listener = signals.listen()?;
        let board = Board::default();
        let mut driving = tokio::spawn(driver.drive("ready", Arc::clone(&over)));
        let observations = own_pod.watch().inspect(move |observation| seen.note(observation)).boxed();
        tokio::select! {
            passed = gate::pass(&plan.gate, Api::Needed(observations), &mut listener, &board, &|_| {}) => {
                over.store(true, Ordering::Release);
                if let Err(closed) = passed {
                    bail!("the gate is closed: {:?}", closed.cause);
                }
                driving.await?
            }
            ended = &mut driving => ended?.and_then(|()| bail!("the gate stays closed")),
        }
    })?;
    drop(runtime);
    server.end()?;
    let report = report.lock().expect("no panic");
    report.rows("from the sidecar's readiness to the open gate", size, &log)
}

pub(crate) fn helper(_: &str, size: Size) -> Result<Vec<Row>> {
    let (server, place) = Server::start()?;
    let log = Log::set()?;
    let flags = ["proa", "sidecar", "--until-exit=main", "--shutdown-when=never"];
    let Ok(Task::Sidecar(cli)) = read_words(&words(&place, &flags, &[])) else { bail!("no plan") };
    let plan = SidecarPlan::new(*cli, &environment(&place)).map_err(|invalid| anyhow!("{invalid:?}"))?;
    let Duty::Help { ready_file, shutdown } = &plan.duty else { bail!("no helper") };
    let signals = Signals::register()?;
    let (report, over) = (Shared::default(), Arc::new(AtomicBool::default()));
    let driver = Driver::new(&server, &report, size.days, None);
    // Its runtime is its own. It logs whom it waits for, and whoever reads that stops the clock there.
    let ended = Arc::clone(&over);
    log.at("running until the exit of", move || {
        pause();
        tokio::spawn(async move {
            if let Err(error) = driver.drive("exit", ended).await {
                eprintln!("{error:?}");
                std::process::exit(1);
            }
        });
    });
    let conclusion = helper::run(&plan, ready_file.as_deref(), shutdown, &mounts(&place, "web"), &signals);
    over.store(true, Ordering::Release);
    let report = report.lock().expect("no panic");
    ensure!(report.finishing, "the helper has ended before main: {:?}", conclusion.outcome);
    ensure!(conclusion.outcome.code() == 0, "the helper came to {:?}", conclusion.outcome);
    server.end()?;
    report.rows("from main's exit to the helper's", size, &log)
}

fn words(place: &Place, first: &[&str], last: &[&str]) -> Vec<OsString> {
    let account = format!("--service-account-dir={}", place.service_account);
    let words = first.iter().copied().chain([account.as_str(), "--pod-name=pod"]).chain(last.iter().copied());
    words.map(OsString::from).collect()
}

fn environment(place: &Place) -> Environment {
    let variables = [(SERVICE_HOST, &place.host), (SERVICE_PORT, &place.port)];
    variables.map(|(name, value)| (name.to_owned(), value.clone())).into()
}

/// As the kubelet's tell it.
fn mounts(place: &Place, container: &str) -> Mounts {
    Mounts { uid: Some(place.uid.clone()), container: Some(container.to_owned()), ..Mounts::default() }
}

/// What the gate has been shown.
#[derive(Debug, Default)]
struct Seen {
    /// The last change.
    change: AtomicU64,
    /// How many changes.
    changes: AtomicU64,
    observations: AtomicU64,
    troubles: AtomicU64,
    /// Whether an older one came after a newer one.
    backwards: AtomicBool,
}

impl Seen {
    fn note(&self, observation: &Observation) {
        let Observation::Seen(snapshot) = observation else {
            self.troubles.fetch_add(1, Ordering::Relaxed);
            return;
        };
        self.observations.fetch_add(1, Ordering::Relaxed);
        let id = snapshot.sidecars.iter().find_map(|sidecar| sidecar.id.as_deref());
        let change = id.and_then(|id| id.rsplit('/').next()?.parse().ok()).unwrap_or(0);
        let before = self.change.swap(change, Ordering::Release);
        if change < before {
            self.backwards.store(true, Ordering::Relaxed);
        }
        if change > before {
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What is held at a moment in which a watch is open and nothing happens.
#[derive(Debug, Clone, Copy)]
struct Held {
    heap: u64,
    anonymous: u64,
    descriptors: usize,
    threads: u64,
}

impl Held {
    #[expect(unsafe_code, reason = "the C library's count of what is allocated")]
    fn now() -> Result<Self> {
        // SAFETY: takes nothing, and returns numbers.
        let heap = unsafe { libc::mallinfo2() }.uordblks as u64;
        let (anonymous, threads) = (status("self", "RssAnon")?, status("self", "Threads")?);
        Ok(Self { heap, anonymous, descriptors: descriptors("self")?, threads })
    }

    /// The most of each.
    fn most(held: &[Self]) -> Self {
        let most = |of: fn(&Self) -> u64| held.iter().map(of).max().unwrap_or(0);
        Self {
            heap: most(|held| held.heap),
            anonymous: most(|held| held.anonymous),
            descriptors: held.iter().map(|held| held.descriptors).max().unwrap_or(0),
            threads: most(|held| held.threads),
        }
    }
}

type Shared = Arc<Mutex<Report>>;

/// What has happened so far.
#[derive(Debug, Default)]
struct Report {
    /// By what came of it, or of the way to the next.
    watches: BTreeMap<&'static str, usize>,
    /// What was done to the Pod, and to its token.
    done: BTreeMap<&'static str, usize>,
    /// The longest until a watch was open again.
    reopened: BTreeMap<&'static str, Duration>,
    seen: String,
    held: Vec<Held>,
    /// What is waited for is about to happen.
    finishing: bool,
    /// How long it was not over after that.
    took: Duration,
}

impl Report {
    fn rows(&self, last: &str, size: Size, log: &Log) -> Result<Vec<Row>> {
        ensure!(self.finishing, "it is not over");
        let span = if size.days > 1 { 24 } else { 6 };
        let (first, last_held) =
            (Held::most(&self.held[..span]), Held::most(&self.held[self.held.len() - span..]));
        ensure!(last_held.heap <= first.heap + HEAP, "the heap has grown: {first:?}, {last_held:?}");
        ensure!(
            last_held.anonymous <= first.anonymous + ANONYMOUS,
            "memory has grown: {first:?}, {last_held:?}"
        );
        let same = (first.descriptors, first.threads) == (last_held.descriptors, last_held.threads);
        ensure!(same, "descriptors or threads: {first:?}, {last_held:?}");
        let row = |what: &str, seen: String| Row { what: what.to_owned(), seen };
        let hours = if span == 24 { "the first day and the last" } else { "the first 6 hours and the last" };
        let mut rows = vec![
            row("simulated days", size.days.to_string()),
            row(
                "watches, by how they ended",
                format!("{}: {}", self.watches.values().sum::<usize>(), listed(&self.watches)),
            ),
            row("what else happened", listed(&self.done)),
            row("longest until a watch was open again", listed_times(&self.reopened)),
            row("most connections open at a time", "1".to_owned()),
            row(last, format!("{} ms", self.took.as_millis())),
            row(&format!("heap in bytes, most of {hours}"), format!("{}, {}", first.heap, last_held.heap)),
            row(
                &format!("anonymous memory in KiB, most of {hours}"),
                format!("{}, {}", first.anonymous, last_held.anonymous),
            ),
            row("descriptors, threads", format!("{}, {} throughout", first.descriptors, first.threads)),
            row("lines logged, warnings among them", log.counts()),
        ];
        if !self.seen.is_empty() {
            rows.insert(3, row("changes of the Pod that were not seen", self.seen.clone()));
        }
        Ok(rows)
    }
}

fn listed(counts: &BTreeMap<&str, usize>) -> String {
    counts.iter().map(|(what, count)| format!("{count} {what}")).collect::<Vec<_>>().join(", ")
}

fn listed_times(times: &BTreeMap<&str, Duration>) -> String {
    let shown = times.iter().map(|(what, time)| format!("{:.2} s {what}", time.as_secs_f64()));
    shown.collect::<Vec<_>>().join(", ")
}

/// Has everything happen, and the clock go on.
struct Driver {
    server: Server,
    report: Shared,
    days: u32,
    seen: Option<Arc<Seen>>,
    random: Random,
    /// How many changes there have been.
    change: u64,
    /// When the open watch was opened, and how long its server is to keep it.
    opened: Paused,
    life: Duration,
    /// With one watch open.
    descriptors: Option<usize>,
}

/// What comes between a watch and the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Obstacle {
    /// None but that it ends in this way.
    End(&'static str),
    /// The API server is away for so many seconds.
    Outage(u64),
    /// So many connections or requests fail.
    Fault(&'static str, usize),
    /// The Role is gone for so many seconds.
    Denial(u64),
    /// The connection goes silent, and nobody ends the watch.
    Silence,
}

const FAULTS: [&str; 9] = ["reset", "handshake", "headers", "401", "410", "429", "500", "502", "503"];
/// As the server ends a watch whose time is over.
const CLOSED: Obstacle = Obstacle::End("close");

impl Obstacle {
    /// Some 2,700 watches are a day's.
    fn choose(random: &mut Random) -> Self {
        match random.below(2700) {
            0..6 => Self::Outage(1 + random.below(300) as u64),
            6..36 => Self::Fault(FAULTS[random.below(FAULTS.len())], 1 + random.below(2)),
            36 => Self::Denial(60 + random.below(600) as u64),
            37..64 => Self::Silence,
            other => match other % 100 {
                0..3 => Self::End("abort"),
                3..6 => Self::End("expired"),
                6 => Self::End("failed"),
                _ => CLOSED,
            },
        }
    }

    /// Its name, and how long until the next watch is open once nothing is in the way.
    fn terms(self) -> (&'static str, Duration) {
        match self {
            Self::End("close" | "expired") => ("after its end", REOPENED),
            Self::End(_) => ("after a failure", BACK),
            Self::Outage(_) => ("after an outage", AWAY),
            Self::Fault(..) => ("after failing answers", FAULTY),
            Self::Denial(_) => ("after a refusal", ALLOWED),
            Self::Silence => ("after silence", SILENT),
        }
    }
}

impl Driver {
    fn new(server: &Server, report: &Shared, days: u32, seen: Option<Arc<Seen>>) -> Self {
        report.lock().expect("no panic").held.reserve_exact(24 * days as usize);
        Self {
            server: server.clone(),
            report: Arc::clone(report),
            days,
            seen,
            random: Random::new(SEED, 0),
            change: 0,
            opened: Paused::now(),
            life: Duration::ZERO,
            descriptors: None,
        }
    }

    /// Has the days pass, and then `last` happen, after which it is `over`.
    async fn drive(mut self, last: &str, over: Arc<AtomicBool>) -> Result<()> {
        self.opened = Paused::now();
        self.reopened(CLOSED).await?;
        let begun = Paused::now();
        for hour in 1..=self.days * 24 {
            while begun.elapsed() < Duration::from_secs(3600) * hour {
                self.watch().await?;
            }
            self.server.tell("rotate").await?;
            self.count("new tokens");

            let held = Held::now()?;
            self.report.lock().expect("no panic").held.push(held);
        }
        ensure!(!over.load(Ordering::Acquire), "it is over before its time");
        if let Some(seen) = &self.seen {
            ensure!(!seen.backwards.load(Ordering::Relaxed), "an older change came after a newer one");
            let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
            let unseen = self.change - count(&seen.changes);
            ensure!(unseen == 0, "{unseen} of {} changes were not seen", self.change);
            self.report.lock().expect("no panic").seen = format!(
                "0 of {} ({} observations, {} times something stood in the way)",
                self.change,
                count(&seen.observations),
                count(&seen.troubles)
            );
        }
        self.report.lock().expect("no panic").finishing = true;
        let at = Paused::now();
        self.server.tell(last).await?;
        while at.elapsed() <= SOON {
            self.quiet().await?;
            self.report.lock().expect("no panic").took = at.elapsed();
            if over.load(Ordering::Acquire) {
                return Ok(());
            }
            // The least pause that there is.
            sleep(Duration::from_millis(1)).await;
        }
        bail!("it is not over {SOON:?} after {last:?}")
    }

    /// The rest of a watch's life, what ends it, and the next one's beginning.
    async fn watch(&mut self) -> Result<()> {
        if self.random.below(10) == 0 {
            sleep(self.life * u32::try_from(self.random.below(100))? / 100).await;
            self.happens("change").await?;
            self.count("changes");
            self.settled().await?;
        }
        sleep_until(self.opened + self.life).await;
        let obstacle = Obstacle::choose(&mut self.random);
        let ended = match obstacle {
            Obstacle::End(how) => how,
            other => other.terms().0,
        };
        match obstacle {
            Obstacle::End(how) => {
                self.tell(&format!("end {how}")).await?;
            }
            Obstacle::Outage(seconds) => {
                self.tell("refuse").await?;
                self.pass(Duration::from_secs(seconds)).await?;
                self.tell("listen").await?;
            }
            Obstacle::Fault(what, times) => {
                self.tell(&format!("fault {what} {times}")).await?;
                self.tell("end close").await?;
            }
            Obstacle::Denial(seconds) => {
                self.tell("deny").await?;
                self.tell("end close").await?;
                self.pass(Duration::from_secs(seconds)).await?;
                self.tell("allow").await?;
            }
            Obstacle::Silence => {
                self.tell("forget").await?;
                sleep_until(self.opened + GIVEN_UP - STEP).await;
            }
        }
        *self.report.lock().expect("no panic").watches.entry(ended).or_default() += 1;
        // The first event of the next watch is of a cache that lags.
        let lags = obstacle != Obstacle::Silence && self.random.below(20) == 0;
        if lags {
            self.happens("stale").await?;
            self.count("outdated first events");
        }
        self.reopened(obstacle).await?;
        if lags {
            self.settled().await?;
            sleep(Duration::from_secs(1)).await;
            self.happens("present").await?;
        }
        self.settled().await
    }

    /// Waits until the next watch is open.
    async fn reopened(&mut self, obstacle: Obstacle) -> Result<()> {
        let (what, limit) = obstacle.terms();
        let since = Paused::now();
        let life = loop {
            self.pass(STEP).await?;
            let answer = self.tell("opened").await?;
            if let Ok(seconds) = answer.parse() {
                break Duration::from_secs(seconds);
            }
            if since.elapsed() > limit {
                let state = self.tell("state").await?;
                bail!("no watch is open {what} within {:?}; {state}", since.elapsed());
            }
        };
        let taken = since.elapsed();
        self.report
            .lock()
            .expect("no panic")
            .reopened
            .entry(what)
            .and_modify(|longest| *longest = taken.max(*longest))
            .or_insert(taken);
        (self.opened, self.life) = (Paused::now(), life);
        self.tell("connections").await?;
        let descriptors = descriptors("self")?;
        let before = *self.descriptors.get_or_insert(descriptors);
        ensure!(descriptors == before, "{descriptors} descriptors instead of {before} {what}");
        Ok(())
    }

    /// Waits until both processes have done what there is to do, and proa has seen the last change.
    async fn settled(&self) -> Result<()> {
        self.quiet().await?;
        let seen = self.seen.as_ref().map(|seen| seen.change.load(Ordering::Acquire));
        ensure!(
            seen.is_none_or(|seen| seen == self.change),
            "change {} is not seen, but {seen:?}",
            self.change
        );
        Ok(())
    }

    /// Waits until neither process has anything left to do but to wait for the other, or for time to pass.
    async fn quiet(&self) -> Result<()> {
        let server = self.server.pid();
        // Between two looks at one the other may have woken it.
        let both = move || is_quiet(server).unwrap_or(false) && is_quiet(server).unwrap_or(false);
        standing_still(move || until(both)).await
    }

    /// Has this time pass while connections come and go, each of which takes no time.
    async fn pass(&self, time: Duration) -> Result<()> {
        let since = Paused::now();
        while since.elapsed() < time {
            sleep(STEP).await;
            self.quiet().await?;
        }
        Ok(())
    }

    /// Changes the Pod.
    async fn happens(&mut self, what: &str) -> Result<()> {
        self.change = self.tell(what).await?.parse()?;
        Ok(())
    }

    async fn tell(&self, order: &str) -> Result<String> {
        self.server.tell(order).await
    }

    fn count(&self, what: &'static str) {
        *self.report.lock().expect("no panic").done.entry(what).or_default() += 1;
    }
}

/// Waits by the machine's clock.
fn until(holds: impl Fn() -> bool) -> Result<()> {
    let (since, mut wait) = (Instant::now(), Duration::from_micros(20));
    while !holds() {
        ensure!(since.elapsed() < LONGEST, "not within {LONGEST:?}");
        real_sleep(wait);
        wait = (wait * 2).min(Duration::from_millis(2));
    }
    Ok(())
}

/// proa's log: counted, and read for a line.
#[derive(Clone, Default)]
struct Log(Arc<Lines>);

type Hook = (&'static str, Box<dyn FnOnce() + Send>);

#[derive(Default)]
struct Lines {
    all: AtomicU64,
    warnings: AtomicU64,
    hook: Mutex<Option<Hook>>,
}

impl Log {
    fn set() -> Result<Self> {
        let log = Self::default();
        tracing::subscriber::set_global_default(log.clone())?;
        Ok(log)
    }

    /// Does it at the first line that begins so.
    fn at(&self, line: &'static str, what: impl FnOnce() + Send + 'static) {
        *self.0.hook.lock().expect("no panic") = Some((line, Box::new(what)));
    }

    fn counts(&self) -> String {
        let (all, warnings) = (self.0.all.load(Ordering::Relaxed), self.0.warnings.load(Ordering::Relaxed));
        format!("{all}, {warnings}")
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::INFO && metadata.target().starts_with("proa")
    }

    fn event(&self, event: &Event<'_>) {
        struct Message(String);
        impl Visit for Message {
            fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
                if field.name() == "message" {
                    // A string takes everything.
                    let _ = write!(self.0, "{value:?}");
                }
            }
        }
        self.0.all.fetch_add(1, Ordering::Relaxed);
        if *event.metadata().level() <= tracing::Level::WARN {
            self.0.warnings.fetch_add(1, Ordering::Relaxed);
        }
        let mut message = Message(String::new());
        event.record(&mut message);
        let mut hook = self.0.hook.lock().expect("no panic");
        if hook.as_ref().is_some_and(|(line, _)| message.0.starts_with(line)) {
            let taken = hook.take();
            drop(hook);
            if let Some((_, what)) = taken {
                what();
            }
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}
