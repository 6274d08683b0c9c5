//! Whether proa has become heavier: `cargo run --example weight -- [--write] BINARY`, with a static binary as README.md builds it.
//!
//! Compares with `benches/weight.txt`: the binary's bytes, anonymous memory while the command runs, and the instructions from proa's
//! start to its end around a command that ends at once, beside a localpod API server. Instructions are callgrind's, which vary by less than
//! a percent from run to run, on any machine.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use localpod::Cluster;

/// How much a figure may exceed what is committed, in percent: as it stands, and where another compiler has built the binary.
const SLACK: u64 = 3;
const OTHER_COMPILER: u64 = 10;
/// A page more or less is chance.
const PAGES: u64 = 16;
/// How often each is measured; the least counts.
const ROUNDS: usize = 5;

fn main() -> Result<()> {
    let mut arguments: Vec<String> = env::args().skip(1).collect();
    let write = arguments.iter().position(|argument| argument == "--write").map(|at| arguments.remove(at));
    let [binary] = arguments.as_slice() else { bail!("expected [--write] BINARY") };
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/weight.txt");
    let compiler =
        String::from_utf8(Command::new("rustc").arg("--version").output()?.stdout)?.trim().to_owned();
    let cluster = cluster()?;
    let least = |figure: fn(&str, &Cluster) -> Result<u64>| -> Result<u64> {
        let figures = (0..ROUNDS).map(|_| figure(binary, &cluster)).collect::<Result<Vec<_>>>()?;
        figures.into_iter().min().context("no round")
    };
    let figures = [
        ("bytes", fs::metadata(binary).with_context(|| binary.clone())?.len()),
        ("anonymous_kib", least(anonymous)?),
        ("instructions", least(instructions)?),
    ];
    if write.is_some() {
        let lines = figures.map(|(name, value)| format!("{name} {value}\n")).concat();
        fs::write(&committed, format!("{lines}compiler {compiler}\n"))?;
    }
    let text = fs::read_to_string(&committed)?;
    let before: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once(' ')).collect();
    let slack = if before.get("compiler") == Some(&compiler.as_str()) { SLACK } else { OTHER_COMPILER };
    let mut heavier = Vec::new();
    for (name, value) in figures {
        let limit: u64 =
            before.get(name).with_context(|| format!("no {name} in benches/weight.txt"))?.parse()?;
        let chance = if name == "anonymous_kib" { PAGES } else { 0 };
        println!("{name} {value}, committed {limit}");
        if value > limit + limit * slack / 100 + chance {
            heavier.push(format!("{name} {value} instead of {limit}"));
        } else if value < limit - limit * slack / 100 {
            println!("  lighter: commit that, with --write");
        }
    }
    ensure!(heavier.is_empty(), "heavier than committed, by more than {slack} %: {}", heavier.join(", "));
    Ok(())
}

fn cluster() -> Result<Cluster> {
    let cluster = Cluster::start()?;
    let status = "imageID: i, restartCount: 0, state: {running: {}}";
    let yaml = format!(
        "
metadata: {{name: weight, namespace: default}}
spec:
  restartPolicy: Never
  containers: [{{name: main, image: i}}, {{name: web, image: i, readinessProbe: {{tcpSocket: {{port: 80}}}}}}]
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

/// With nothing in its environment but what a Pod gives it.
fn in_pod(program: &str, cluster: &Cluster) -> Command {
    let mut command = Command::new(program);
    command.env_clear().envs(cluster.env()).env("PATH", "/usr/bin:/bin");
    command.envs([
        ("POD_NAME", "weight"),
        ("POD_NAMESPACE", "default"),
        ("PROA_CONTAINER", "main"),
        ("PROA_SHUTDOWN_WHEN", "never"),
    ]);
    command
}

/// Ends what it has started, if that has not ended yet.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn anonymous(binary: &str, cluster: &Cluster) -> Result<u64> {
    let mut command = in_pod(binary, cluster);
    command.args(["--", "sh", "-c", "echo up; read end"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut running = Running(command.stderr(Stdio::null()).spawn()?);
    let mut line = String::new();
    BufReader::new(running.0.stdout.take().context("no stdout")?).read_line(&mut line)?;
    ensure!(line == "up\n", "the command did not start");
    // It gives back what it does not need just after the command's start: the least of a short while.
    let (since, mut least) = (Instant::now(), u64::MAX);
    while since.elapsed() < Duration::from_millis(500) {
        let status = fs::read_to_string(format!("/proc/{}/status", running.0.id()))?;
        let field = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let now = field.and_then(|field| field.split_whitespace().next()).context("no RssAnon")?.parse()?;
        least = least.min(now);
        sleep(Duration::from_millis(20));
    }
    Ok(least)
}

fn instructions(binary: &str, cluster: &Cluster) -> Result<u64> {
    let mut command = in_pod("valgrind", cluster);
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", binary, "--", "/bin/true"]);
    let output = command.output().context("valgrind")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{stderr}");
    // callgrind tells of each process, and the command is none of its.
    let collected =
        stderr.lines().find_map(|line| line.split_once("Collected : ").map(|(_, number)| number.trim()));
    Ok(collected.with_context(|| format!("no sum of callgrind's in: {stderr}"))?.parse()?)
}
