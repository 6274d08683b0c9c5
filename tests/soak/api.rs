//! The API server, in a process of its own: what the other one holds is proa's alone. It does what it is told, line by line.

use std::io::{BufRead, BufReader, Write, stdin, stdout};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use jiff::{Timestamp, ToSpan};
use localpod::Cluster;
use localpod::cluster::{Access, Fault, FaultGuard, WatchEnd};

use super::machine::standing_still;

/// What this program's own process for it is told by.
pub(crate) const FLAG: &str = "--api-server";
/// How long anything on this machine may take, by its own clock.
const LONGEST: Duration = Duration::from_secs(60);

/// Where it is, and whose Pod it has.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) host: String,
    pub(crate) port: String,
    pub(crate) service_account: String,
    pub(crate) uid: String,
}

/// The other process.
#[derive(Clone)]
pub(crate) struct Server(Arc<Mutex<Pipes>>);

struct Pipes {
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Server {
    pub(crate) fn start() -> Result<(Self, Place)> {
        let mut process =
            Command::new("/proc/self/exe").arg(FLAG).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = process.stdin.take();
        let output = BufReader::new(process.stdout.take().context("no stdout")?);
        let server = Self(Arc::new(Mutex::new(Pipes { process, input, output })));
        let answer = server.say("where")?;
        let [host, port, service_account, uid] = answer.split(' ').collect::<Vec<_>>()[..] else {
            bail!("the API server says {answer:?}");
        };
        let (host, port) = (host.to_owned(), port.to_owned());
        let place = Place { host, port, service_account: service_account.to_owned(), uid: uid.to_owned() };
        Ok((server, place))
    }

    /// Tells it something, and returns its answer.
    pub(crate) fn say(&self, order: &str) -> Result<String> {
        let mut pipes = self.0.lock().expect("no panic");
        writeln!(pipes.input.as_mut().context("it has ended")?, "{order}")?;
        let mut answer = String::new();
        pipes.output.read_line(&mut answer)?;
        ensure!(answer.ends_with('\n'), "the API server has ended at {order:?}");
        answer.truncate(answer.len() - 1);
        ensure!(!answer.starts_with("error"), "{order}: {answer}");
        Ok(answer)
    }

    /// The same, with the clock standing still.
    pub(crate) async fn tell(&self, order: impl Into<String>) -> Result<String> {
        let (server, order) = (self.clone(), order.into());
        standing_still(move || server.say(&order)).await
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.lock().expect("no panic").process.id()
    }

    /// Has it end.
    pub(crate) fn end(&self) -> Result<()> {
        let mut pipes = self.0.lock().expect("no panic");
        pipes.input = None;
        ensure!(pipes.process.wait()?.success(), "the API server failed");
        Ok(())
    }
}

/// The Pod as it is: `main` and `web`.
struct State {
    /// Counted up with each change, and shown by the ID of `web`.
    change: u64,
    ready: bool,
    /// As a cache shows it that lags: an earlier round of the Pod, in which all was over or ready.
    stale: bool,
    main_exited: bool,
    since: Timestamp,
}

impl State {
    fn apply(&self, cluster: &Cluster) -> Result<()> {
        let earlier = self.since.checked_sub(1.hour())?;
        let since = if self.stale { earlier } else { self.since };
        let main = if self.stale || self.main_exited {
            "{terminated: {exitCode: 0, reason: Completed}}".to_owned()
        } else {
            format!("{{running: {{startedAt: '{since}'}}}}")
        };
        let (change, ready) = (self.change, self.ready || self.stale);
        let yaml = format!(
            "
metadata: {{name: pod, namespace: default}}
spec:
  restartPolicy: Never
  containers: [{{name: main, image: i}}, {{name: web, image: i, readinessProbe: {{tcpSocket: {{port: 80}}}}}}]
status:
  phase: Running
  containerStatuses:
  - {{name: main, image: i, imageID: i, ready: {ready}, restartCount: 0, containerID: 'soak://main', state: {main}}}
  - {{name: web, image: i, imageID: i, ready: {ready}, restartCount: 0, containerID: 'soak://{change}', state: {{running: {{startedAt: '{since}'}}}}}}
"
        );
        cluster.apply(serde_saphyr::from_str(&yaml)?);
        Ok(())
    }
}

/// Serves until its orders end.
pub(crate) fn serve() -> Result<()> {
    let cluster = Cluster::start()?;
    // To the second, as all times of the API are.
    let since = Timestamp::from_second(Timestamp::now().as_second())?;
    let mut state = State { change: 0, ready: false, stale: false, main_exited: false, since };
    state.apply(&cluster)?;
    let mut refusing = None;
    for line in stdin().lock().lines() {
        let answer = obey(&line?, &cluster, &mut state, &mut refusing);
        let answer = answer.unwrap_or_else(|error| format!("error: {error:#}"));
        writeln!(stdout(), "{answer}")?;
    }
    Ok(())
}

fn obey(
    line: &str,
    cluster: &Cluster,
    state: &mut State,
    refusing: &mut Option<FaultGuard>,
) -> Result<String> {
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        ["where"] => {
            let address = cluster.address();
            let uid = cluster.pod("default", "pod").and_then(|pod| pod.metadata.uid).context("no UID")?;
            let directory = cluster.service_account_dir().display();
            return Ok(format!("{} {} {directory} {uid}", address.ip(), address.port()));
        }
        ["change"] => changed(cluster, state, |_| {})?,
        ["stale"] => changed(cluster, state, |state| state.stale = true)?,
        ["present"] => changed(cluster, state, |state| state.stale = false)?,
        ["ready"] => changed(cluster, state, |state| state.ready = true)?,
        ["exit"] => changed(cluster, state, |state| state.main_exited = true)?,
        ["end", how] => {
            let how = match how {
                "close" => WatchEnd::Close,
                "abort" => WatchEnd::Abort,
                "expired" => WatchEnd::expired(),
                "failed" => WatchEnd::Error { code: 500, message: "it failed".to_owned() },
                _ => bail!("no such end"),
            };
            cluster.forget_requests();
            cluster.end_watches(&how);
            ensure!(cluster.wait_for_watches(0, LONGEST), "a watch goes on");
        }
        // The API server goes, and everybody's connection with it.
        ["refuse"] => {
            *refusing = Some(cluster.refuse());
            cluster.forget_requests();
            cluster.hang_up();
            ensure!(cluster.wait_for_connections(0, LONGEST), "a connection goes on");
        }
        ["listen"] => *refusing = None,
        ["fault", what, count] => cluster.inject_times(fault(what)?, count.parse()?),
        ["deny"] => cluster.authorize(Access::Rules(Vec::new())),
        ["allow"] => cluster.authorize(Access::AllowAll),
        ["rotate"] => cluster.rotate_token()?,
        ["compact"] => cluster.compact(),
        ["forget"] => cluster.forget_requests(),
        ["opened"] => return Ok(opened(cluster)),
        ["state"] => {
            let answers: Vec<_> = cluster
                .requests()
                .iter()
                .map(|request| format!("{} {}", request.verb, request.status))
                .collect();
            let (watches, connections) = (cluster.open_watches(), cluster.open_connections());
            return Ok(format!("{watches} watches, {connections} connections, answers {answers:?}"));
        }
        ["connections"] => {
            // A connection that the client has closed is known a little later here.
            let one = cluster.wait_for_connections(1, LONGEST);
            ensure!(one, "{} connections are open", cluster.open_connections());
        }
        _ => bail!("no such order"),
    }
    Ok(state.change.to_string())
}

fn changed(cluster: &Cluster, state: &mut State, change: impl FnOnce(&mut State)) -> Result<()> {
    state.change += 1;
    change(state);
    state.apply(cluster)?;
    // What has been is of no use to anybody, and would grow.
    cluster.compact();
    Ok(())
}

/// For how many seconds the watch has been asked for that is open now, and was not when requests were last forgotten; `no` if there
/// is none.
fn opened(cluster: &Cluster) -> String {
    let requests = cluster.requests();
    let last = requests.iter().rfind(|request| request.verb == "watch" && request.status == 200);
    let last = last.filter(|_| cluster.open_watches() == 1);
    last.and_then(|request| request.parameter("timeoutSeconds")).unwrap_or("no").to_owned()
}

fn fault(what: &str) -> Result<Fault> {
    Ok(match what {
        "reset" => Fault::Reset,
        "handshake" => Fault::StallHandshake,
        "headers" => Fault::StallAfterHeaders,
        "401" => Fault::Status(401),
        "410" => Fault::Status(410),
        "500" => Fault::Status(500),
        "503" => Fault::Status(503),
        "429" => Fault::Throttle { code: 429, retry_after: 3 },
        "502" => Fault::Page(502),
        _ => bail!("no such fault"),
    })
}
