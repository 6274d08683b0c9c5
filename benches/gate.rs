//! How long proa takes from a Pod's readiness to the command's first instruction, and what it holds while
//! the command runs, beside proa 0.1.3 in the same run: `cargo bench --bench gate [-- ROUNDS]`.
//!
//! Both are built static with the same compiler. A round runs each once in either order, so that a machine
//! that slows down slows both. The floor is a spawn of the command without any proa.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use localpod::Cluster;
use nix::time::{ClockId, clock_gettime};

/// What the command is told to do: write the time and wait for its stdin to end.
const STAMP: &str = "--stamp";
const ROUNDS: usize = 30;
/// How long memory gets to settle once the command runs.
const SETTLE: Duration = Duration::from_millis(500);

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if arguments.first().is_some_and(|argument| argument == STAMP) {
        println!("{}", now());
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
        return Ok(());
    }
    let rounds = arguments.first().map_or(Ok(ROUNDS), |text| text.parse()).context("ROUNDS is a number")?;
    let subjects = [Subject::ours()?, Subject::predecessor()?];

    let mut results = [Results::default(), Results::default()];
    let mut floor = Vec::new();
    for round in 0..rounds {
        floor.push(spawn_alone()?);
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        for index in order {
            results[index].add(&measure(&subjects[index])?);
        }
    }
    print(&subjects, &mut results, &mut floor);
    Ok(())
}

/// Nanoseconds of a clock that all processes share.
fn now() -> i64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("a monotonic clock");
    time.tv_sec() * 1_000_000_000 + time.tv_nsec()
}

/// A proa to measure.
struct Subject {
    name: &'static str,
    binary: PathBuf,
    /// What stands between proa and the command.
    separator: &'static str,
}

impl Subject {
    fn ours() -> Result<Self> {
        let root = target().join("ours");
        cargo(&["install", "--path", env!("CARGO_MANIFEST_DIR"), "--bin", "proa"], &root)?;
        Ok(Self { name: "proa", binary: root.join("bin/proa"), separator: "--" })
    }

    fn predecessor() -> Result<Self> {
        let root = target().join("0.1.3");
        cargo(&["install", "proa", "--version", "=0.1.3"], &root)?;
        Ok(Self { name: "proa 0.1.3", binary: root.join("bin/proa"), separator: "--" })
    }

    fn start(&self, cluster: &Cluster, config: &Path) -> Result<Started> {
        let mut command = Command::new(&self.binary);
        command.args([OsString::from(self.separator), env::current_exe()?.into(), STAMP.into()]);
        command.env_clear().envs(cluster.env()).env("KUBECONFIG", config);
        command.env("PROA_CONTAINER", "main").env("PROA_SHUTDOWN_WHEN", "never");
        Started::new(&mut command)
    }
}

fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench")
}

fn cargo(arguments: &[&str], root: &Path) -> Result<()> {
    let host = Command::new("rustc").args(["--print", "host-tuple"]).output()?;
    let host = String::from_utf8(host.stdout)?;
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // Naming the target keeps the flag away from build scripts and procedural macros, which cannot be static.
    command.args(arguments).args(["--locked", "--quiet", "--target", host.trim()]).arg("--root").arg(root);
    command.arg("--target-dir").arg(root.join("build")).env("RUSTFLAGS", "-C target-feature=+crt-static");
    ensure!(command.status()?.success(), "cargo {} failed", arguments.join(" "));
    Ok(())
}

/// A process whose output begins with a time.
struct Started {
    child: Child,
    spawned: i64,
    output: BufReader<std::process::ChildStdout>,
}

impl Started {
    fn new(command: &mut Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let spawned = now();
        let mut child = command.spawn().context("cannot start")?;
        let output = BufReader::new(child.stdout.take().context("no stdout")?);
        Ok(Self { child, spawned, output })
    }

    /// When the command's first instruction ran.
    fn stamp(&mut self) -> Result<i64> {
        loop {
            let mut line = String::new();
            ensure!(self.output.read_line(&mut line)? > 0, "it ended before the command started");
            // 0.1.3 logs to stdout.
            if let Ok(time) = line.trim().parse() {
                return Ok(time);
            }
        }
    }
}

/// Ends both at once: the command when its stdin does, proa by force, since nothing here would let it drain.
impl Drop for Started {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn_alone() -> Result<f64> {
    let mut started = Started::new(Command::new(env::current_exe()?).arg(STAMP))?;
    let stamp = started.stamp()?;
    Ok(milliseconds(stamp - started.spawned))
}

#[expect(clippy::cast_precision_loss, reason = "a duration of hours fits")]
fn milliseconds(nanoseconds: i64) -> f64 {
    nanoseconds as f64 / 1e6
}

/// One run's figures.
struct Measured {
    ready_before: f64,
    ready_while_waiting: f64,
    rss: f64,
    anonymous: f64,
    threads: f64,
    connections: f64,
}

/// A Pod of this machine's name, since 0.1.3 knows its own Pod by no other; `main` is its first container for
/// the same reason.
fn cluster(ready: bool) -> Result<(Cluster, String, PathBuf)> {
    let cluster = Cluster::start()?;
    let hostname = fs::read_to_string("/proc/sys/kernel/hostname")?;
    let name = hostname.trim().split('.').next().unwrap_or_default().to_lowercase();
    ensure!(!name.is_empty(), "this machine has no hostname");
    let status = "imageID: i, restartCount: 0, state: {running: {}}";
    let yaml = format!(
        "
metadata: {{name: {name}, namespace: default}}
spec:
  restartPolicy: Never
  containers: [{{name: main, image: i}}, {{name: web, image: i}}]
status:
  phase: Running
  containerStatuses:
  - {{name: main, image: i, ready: true, {status}}}
  - {{name: web, image: i, ready: {ready}, {status}}}
"
    );
    cluster.apply(serde_saphyr::from_str(&yaml)?);
    let account = cluster.service_account_dir();
    let config = account.join("kubeconfig");
    let text = format!(
        "
apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {{server: 'https://{}', certificate-authority: {}}}}}]
users: [{{name: u, user: {{tokenFile: {}}}}}]
contexts: [{{name: x, context: {{cluster: c, user: u, namespace: default}}}}]
current-context: x
",
        cluster.address(),
        account.join("ca.crt").display(),
        account.join("token").display(),
    );
    fs::write(&config, text)?;
    Ok((cluster, name, config))
}

fn measure(subject: &Subject) -> Result<Measured> {
    let (before, _, config) = cluster(true)?;
    let mut started = subject.start(&before, &config)?;
    let stamp = started.stamp()?;
    let ready_before = milliseconds(stamp - started.spawned);
    drop(started);

    let (waiting, name, config) = cluster(false)?;
    let mut started = subject.start(&waiting, &config)?;
    ensure!(waiting.wait_for_watches(1, Duration::from_secs(30)), "{} does not watch", subject.name);
    sleep(SETTLE);
    let readiness = now();
    waiting.update("default", &name, |pod| {
        let statuses = pod.status.get_or_insert_default().container_statuses.iter_mut().flatten();
        statuses.for_each(|status| status.ready = true);
    });
    let stamp = started.stamp()?;
    sleep(SETTLE);
    let status = fs::read_to_string(format!("/proc/{}/status", started.child.id()))?;
    let connections = u32::try_from(waiting.open_connections())?;
    Ok(Measured {
        ready_before,
        ready_while_waiting: milliseconds(stamp - readiness),
        rss: field(&status, "VmRSS")?,
        anonymous: field(&status, "RssAnon")?,
        threads: field(&status, "Threads")?,
        connections: connections.into(),
    })
}

fn field(status: &str, name: &str) -> Result<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    match line.and_then(|line| line.split_whitespace().next()) {
        Some(number) => Ok(number.parse()?),
        None => bail!("no {name} in /proc/PID/status"),
    }
}

/// The figures of all rounds, in the order of [`ROWS`].
#[derive(Default)]
struct Results([Vec<f64>; 6]);

const ROWS: [&str; 6] = [
    "ready before start: start to command, ms",
    "ready while waiting: readiness to command, ms",
    "resident memory while the command runs, KiB",
    "anonymous memory while the command runs, KiB",
    "threads while the command runs",
    "API connections while the command runs",
];

impl Results {
    fn add(&mut self, run: &Measured) {
        let values =
            [run.ready_before, run.ready_while_waiting, run.rss, run.anonymous, run.threads, run.connections];
        self.0.iter_mut().zip(values).for_each(|(all, value)| all.push(value));
    }
}

/// Minimum, median, maximum.
fn spread(values: &mut [f64]) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [values[0], values[values.len() / 2], values[values.len() - 1]]
}

fn print(subjects: &[Subject; 2], results: &mut [Results; 2], floor: &mut [f64]) {
    let rounds = floor.len();
    println!("{rounds} rounds; median (minimum to maximum)\n");
    println!("| | {} | {} | ratio |", subjects[0].name, subjects[1].name);
    println!("|---|---|---|---|");
    let [ours, theirs] = results;
    for ((name, ours), theirs) in ROWS.iter().zip(&mut ours.0).zip(&mut theirs.0) {
        let ([low, ours, high], [other_low, theirs, other_high]) = (spread(ours), spread(theirs));
        let ratio = if theirs == 0.0 { "-".to_owned() } else { format!("{:.2}", ours / theirs) };
        println!(
            "| {name} | {ours:.2} ({low:.2} to {high:.2}) | {theirs:.2} ({other_low:.2} to {other_high:.2}) | {ratio} |"
        );
    }
    let size = |subject: &Subject| fs::metadata(&subject.binary).map_or(0, |file| file.len());
    let [ours, theirs] = subjects.each_ref().map(size);
    println!("| static binary, bytes | {ours} | {theirs} | {} |", ratio(ours, theirs));
    let [low, median, high] = spread(floor);
    println!("\nfloor, a spawn of the command alone: {median:.2} ms ({low:.2} to {high:.2})");
}

#[expect(clippy::cast_precision_loss, reason = "sizes of files, shown to two digits")]
fn ratio(ours: u64, theirs: u64) -> String {
    if theirs == 0 { "-".to_owned() } else { format!("{:.2}", ours as f64 / theirs as f64) }
}
