//! Commands by the thousand: one after the other, and 200 at a time.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated};
use localpod::Cluster;

use super::machine::{Machine, median, status};
use super::{Row, Size};

/// How long anything may take.
const LONGEST: Duration = Duration::from_secs(60);
/// How many run at the same time.
const CROWD: usize = 200;
/// After so many the API server forgets what it was asked.
const FORGET: usize = 500;
/// How much more anonymous memory the last hundred runs may have than the first hundred, in KiB: a page or two of chance. Each run is
/// a process of its own, so a leak would not show; what would is something of the machine's that grows from run to run.
const SLACK: u64 = 16;
/// The same of all memory: which parts of the binary are resident is the kernel's choice.
const FILES: u64 = 512;
/// All that end a process by default, and none that stops it or leaves a core.
const SIGNALS: [u8; 8] = [1, 2, 9, 10, 12, 13, 14, 15];

/// How a command ends.
#[derive(Debug, Clone, Copy)]
enum Ending {
    Exit(u8),
    Signal(u8),
}

impl Ending {
    /// Every exit code in turn, and every eighth run a signal.
    fn of(number: usize) -> Self {
        match number % 8 {
            7 => Self::Signal(SIGNALS[number / 8 % SIGNALS.len()]),
            _ => Self::Exit(u8::try_from((number - number / 8) % 256).unwrap_or_default()),
        }
    }

    fn code(self) -> i32 {
        match self {
            Self::Exit(code) => i32::from(code),
            Self::Signal(number) => 128 + i32::from(number),
        }
    }

    /// Says that it is there, and waits until it is to end.
    fn script(self) -> String {
        match self {
            Self::Exit(code) => format!("echo up; read -r go; exit {code}"),
            Self::Signal(number) => format!("echo up; read -r go; kill -{number} $$; exit 99"),
        }
    }
}

/// The API server, and the endpoint at which every Pod's sidecar is told to stop.
struct World {
    cluster: Arc<Cluster>,
    endpoint: String,
    stopped: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl World {
    fn start() -> Result<Self> {
        let cluster = Arc::new(Cluster::start()?);
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let stopped = Arc::new(Mutex::default());
        let (pods, requests) = (Arc::clone(&cluster), Arc::clone(&stopped));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that breaks off shows in the count.
                let _ = stop(&stream, &pods, &requests);
            }
        });
        Ok(Self { cluster, endpoint, stopped })
    }

    fn add(&self, pod: &str) -> Result<()> {
        let state = "imageID: i, ready: true, restartCount: 0, state: {running: {}}";
        let yaml = format!(
            "
metadata: {{name: {pod}, namespace: default}}
spec:
  restartPolicy: Never
  containers: [{{name: main, image: i}}, {{name: web, image: i, readinessProbe: {{tcpSocket: {{port: 80}}}}}}]
status:
  phase: Running
  containerStatuses: [{{name: main, image: i, {state}}}, {{name: web, image: i, {state}}}]
"
        );
        self.cluster.apply(serde_saphyr::from_str(&yaml)?);
        Ok(())
    }

    /// The Pod is over: its sidecar was told once, unless there is none.
    fn remove(&self, pod: &str) -> Result<()> {
        self.cluster.remove("default", pod);
        let told = self.stopped.lock().expect("no panic").remove(pod);
        ensure!(told == Some(1), "{pod}: its sidecar was told to stop {} times", told.unwrap_or(0));
        Ok(())
    }
}

/// Answers a request to stop, and has the Pod show that the sidecar has exited.
fn stop(mut stream: &TcpStream, cluster: &Cluster, stopped: &Mutex<BTreeMap<String, usize>>) -> Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let pod =
        line.strip_prefix("POST /").and_then(|rest| rest.split(' ').next()).context("no POST")?.to_owned();
    while line.trim() != "" {
        line.clear();
        reader.read_line(&mut line)?;
    }
    *stopped.lock().expect("no panic").entry(pod.clone()).or_default() += 1;
    cluster.update("default", &pod, |pod| {
        let statuses =
            pod.status.iter_mut().flat_map(|status| status.container_statuses.iter_mut().flatten());
        for status in statuses.filter(|status| status.name == "web") {
            status.ready = false;
            let terminated = Some(ContainerStateTerminated { exit_code: 0, ..Default::default() });
            status.state = Some(ContainerState { terminated, ..ContainerState::default() });
        }
    });
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")?;
    Ok(())
}

/// A proa that runs.
struct Run {
    number: usize,
    pod: Option<String>,
    ending: Ending,
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Run {
    /// Every second one is in a Pod with a sidecar.
    fn start(binary: &str, world: &World, number: usize) -> Result<Self> {
        let (ending, pod) = (Ending::of(number), (number / 2 % 2 == 1).then(|| format!("run-{number}")));
        let mut command = Command::new(binary);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        if let Some(pod) = &pod {
            world.add(pod)?;
            command.envs(world.cluster.env()).arg(format!("--shutdown-http-post={}/{pod}", world.endpoint));
            command.envs([
                ("POD_NAME", pod.as_str()),
                ("POD_NAMESPACE", "default"),
                ("PROA_CONTAINER", "main"),
            ]);
        }
        command.args(["--", "sh", "-c", &ending.script()]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.context("cannot start proa")?;
        let output = BufReader::new(child.stdout.take().context("no stdout")?);
        Ok(Self { number, pod, ending, child, output })
    }

    /// Its command runs; the most memory that it has had until then, and the anonymous that it has, in KiB.
    fn memory(&mut self) -> Result<[u64; 2]> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        ensure!(line == "up\n", "run {}: its command said {line:?}", self.number);
        let pid = self.child.id().to_string();
        let since = Instant::now();
        // It gives back what it does not need before it waits for the command.
        while !fs::read_to_string(format!("/proc/{pid}/stat"))?.contains(") S ") {
            ensure!(since.elapsed() < LONGEST, "run {}: proa does not wait", self.number);
            thread::yield_now();
        }
        Ok([status(&pid, "VmHWM")?, status(&pid, "RssAnon")?])
    }

    /// Its exit code is the command's.
    fn end(mut self, world: &World) -> Result<()> {
        drop(self.child.stdin.take());
        let mut log = String::new();
        self.child.stderr.take().context("no stderr")?.read_to_string(&mut log)?;
        let status = self.child.wait()?;
        ensure!(
            status.code() == Some(self.ending.code()),
            "run {}: {:?} came as {status}; log:\n{log}",
            self.number,
            self.ending
        );
        if let Some(pod) = &self.pod {
            world.remove(pod)?;
        }
        Ok(())
    }
}

pub(crate) fn in_a_row(binary: &str, size: Size) -> Result<Vec<Row>> {
    let world = World::start()?;
    let mut memory = [Vec::new(), Vec::new()];
    let mut before = None;
    for number in 0..size.runs {
        if number % FORGET == 0 {
            world.cluster.forget_requests();
            world.cluster.compact();
        }
        let mut run = Run::start(binary, &world, number)?;
        memory[usize::from(run.pod.is_some())].push(run.memory()?);
        run.end(&world)?;
        // Once everything of our own is there that comes with the first of each kind.
        if number == 3 {
            settle(&world)?;
            before = Some(Machine::now()?);
        }
    }
    settle(&world)?;
    let left = before.context("no run")?.is_as_it_was()?;
    let mut rows = vec![
        row(
            "wrapped commands in a row, every second one with a sidecar and an API server over TLS",
            &size.runs,
        ),
        row("exit codes 0 to 255 and 8 signals that were not the command's", &0),
        row("left", &left),
    ];
    for (memory, what) in memory.iter().zip(["alone", "in a Pod"]) {
        rows.push(row(
            &format!("memory {what} in KiB, median of the first hundred and of the last"),
            &grown(memory)?,
        ));
    }
    Ok(rows)
}

/// The connections of the last run are gone from the API server, too.
fn settle(world: &World) -> Result<()> {
    ensure!(world.cluster.wait_for_connections(0, LONGEST), "connections are left");
    Ok(())
}

fn grown(memory: &[[u64; 2]]) -> Result<String> {
    let length = 100.min(memory.len() / 2);
    let of = |runs: &[[u64; 2]], which: usize| median(&runs.iter().map(|run| run[which]).collect::<Vec<_>>());
    let (first, last) = (&memory[..length], &memory[memory.len() - length..]);
    let ([peak, anonymous], [last_peak, last_anonymous]) =
        ([of(first, 0), of(first, 1)], [of(last, 0), of(last, 1)]);
    let shown = format!("peak {peak}, {last_peak}; anonymous {anonymous}, {last_anonymous}");
    ensure!(last_peak <= peak + FILES && last_anonymous <= anonymous + SLACK, "memory has grown: {shown}");
    Ok(shown)
}

pub(crate) fn at_a_time(binary: &str, size: Size) -> Result<Vec<Row>> {
    let world = World::start()?;
    let mut before = None;
    let mut memory = Vec::new();
    let waves = size.runs.div_ceil(CROWD);
    for wave in 0..waves {
        world.cluster.forget_requests();
        world.cluster.compact();
        let numbers = wave * CROWD..(wave + 1) * CROWD;
        let mut runs =
            numbers.map(|number| Run::start(binary, &world, number)).collect::<Result<Vec<_>>>()?;
        // Their commands run, all at the same time.
        for run in &mut runs {
            memory.push(run.memory()?);
        }
        for run in &runs {
            // Only a process that has not ended has any.
            status(&run.child.id().to_string(), "VmRSS").context("one has ended before the others")?;
        }
        for run in &mut runs {
            drop(run.child.stdin.take());
        }
        for run in runs {
            run.end(&world)?;
        }
        if wave == 0 {
            settle(&world)?;
            before = Some(Machine::now()?);
        }
    }
    settle(&world)?;
    Ok(vec![
        row(&format!("wrapped commands, {CROWD} at a time"), &(waves * CROWD)),
        row("exit codes that were not the command's", &0),
        row("left", &before.context("no run")?.is_as_it_was()?),
        row("memory in KiB, median of the first hundred and of the last", &grown(&memory)?),
    ])
}

fn row(what: &str, seen: &dyn ToString) -> Row {
    Row { what: what.to_owned(), seen: seen.to_string() }
}
