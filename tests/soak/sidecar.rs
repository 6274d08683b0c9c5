//! A `proa sidecar` that is asked for its status, and notified, by the thousand.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use localpod::Cluster;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proa::peer::{Message, Peer, Reply};

use super::machine::{Machine, descriptors, status};
use super::{Row, Size};

const ADDRESS: &str = "127.0.0.1:9999";
const LONGEST: Duration = Duration::from_secs(30);
/// How much anonymous memory may have grown from the first tenth on, in KiB. The allocator takes a few pages more or less, as
/// connections and the API server's watches end in this order or that; a leak of ten bytes a request would show.
const SLACK: u64 = 64;
/// Requests and the beginnings of their answers.
const REQUESTS: [(&str, &str); 5] = [
    ("GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", "HTTP/1.1 200 "),
    ("GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", "HTTP/1.1 200 "),
    ("GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", "HTTP/1.1 200 "),
    ("GET /none HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", "HTTP/1.1 404 "),
    ("none\r\n\r\n", "HTTP/1.1 400 "),
];

pub(crate) fn asked(binary: &str, size: Size) -> Result<Vec<Row>> {
    let cluster = Cluster::start()?;
    cluster.apply(serde_saphyr::from_str(
        "
metadata: {name: pod, namespace: default}
spec: {restartPolicy: Never, containers: [{name: main, image: i}, {name: side, image: i}]}
status:
  phase: Running
  containerStatuses:
  - {name: main, image: i, imageID: i, ready: true, restartCount: 0, state: {running: {}}}
  - {name: side, image: i, imageID: i, ready: true, restartCount: 0, state: {running: {}}}
",
    )?);
    let pod = cluster.pod("default", "pod").context("no Pod")?;
    let uid = pod.metadata.uid.context("no UID")?;
    let mounts = format!("/tmp/pods/{uid}");
    fs::create_dir_all(format!("{mounts}/containers/side"))?;
    fs::write(format!("{mounts}/containers/side/5f0c6d11"), "")?;
    fs::write(format!("{mounts}/etc-hosts"), "127.0.0.1 localhost\n")?;
    fs::write("/tmp/message", "")?;
    let before = Machine::now()?;

    // With what the kubelet mounts, which tells it who it is.
    let script = format!(
        "mount --bind {mounts}/containers/side/5f0c6d11 /tmp/message && mount --bind {mounts}/etc-hosts /etc/hosts && \
         exec \"$@\""
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script, "sh", binary, "sidecar", "--until-exit=main"]);
    command.args(["--status-address", ADDRESS, "--", "sleep", "infinity"]).env_clear().envs(cluster.env());
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("POD_NAME", "pod");
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let mut log = child.stderr.take().context("no stderr")?;
    let seen = requests(&child.id().to_string(), &cluster, uid, size);
    if seen.is_err() {
        // Its command, too, which has our pipe.
        kill(Pid::from_raw(-1), Signal::SIGKILL)?;
    }
    let ended = child.wait()?;
    let mut text = String::new();
    log.read_to_string(&mut text)?;
    let seen = seen.with_context(|| format!("log:\n{text}"))?;
    let (first, last) = (seen[0], seen[seen.len() - 1]);
    ensure!(ended.success(), "{ended}; log:\n{text}");
    ensure!(last.0 <= first.0 + SLACK, "anonymous memory has grown from {} KiB to {} KiB", first.0, last.0);
    ensure!((last.1, last.2) == (first.1, first.2), "descriptors, threads: {first:?} before, {last:?} after");
    drop(log);
    ensure!(cluster.wait_for_connections(0, LONGEST), "connections are left");
    Ok(vec![
        Row {
            what: "requests for its status, and as many notifications".to_owned(),
            seen: size.requests.to_string(),
        },
        Row {
            what: "anonymous memory in KiB after each tenth; descriptors and threads throughout".to_owned(),
            seen: format!(
                "{}; {}, {}",
                seen.iter().map(|held| held.0.to_string()).collect::<Vec<_>>().join(", "),
                last.1,
                last.2
            ),
        },
        Row { what: "left".to_owned(), seen: before.is_as_it_was()? },
    ])
}

type Held = (u64, usize, u64);

/// Asks and notifies, then ends it; what it held after each tenth.
fn requests(pid: &str, cluster: &Cluster, uid: String, size: Size) -> Result<Vec<Held>> {
    let since = Instant::now();
    while !ask(REQUESTS[1].0).is_ok_and(|answer| answer.starts_with(REQUESTS[1].1)) {
        ensure!(since.elapsed() < LONGEST, "it is not ready");
        sleep(Duration::from_millis(10));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let peer = Peer { uid, container: "side".to_owned() };
    let notify = |container: &str| {
        let message = Message { container: container.to_owned(), code: 0 };
        runtime.block_on(peer.notify(&[message])).with_context(|| format!("notifying of {container}"))
    };
    let mut seen = Vec::new();
    for number in 0..size.requests {
        let (request, expected) = REQUESTS[number % REQUESTS.len()];
        let answer = ask(request)?;
        ensure!(answer.starts_with(expected), "{request:?} is answered by {answer:?}");
        ensure!(notify("another")? == Reply::NotYet, "it stops for a container that it does not wait for");
        if (number + 1) % (size.requests / 10) == 0 {
            seen.push(held(pid, cluster)?);
        }
    }
    ensure!(notify("main")? == Reply::Stopping, "it does not stop for main");
    Ok(seen)
}

/// Measured while one watch is open, the same throughout, and nobody asks anything.
fn held(pid: &str, cluster: &Cluster) -> Result<Held> {
    let begun = Instant::now();
    let mut before = None;
    loop {
        ensure!(begun.elapsed() < LONGEST, "it does not come to rest: {before:?}");
        ensure!(cluster.wait_for_watches(1, LONGEST), "no watch is open");
        let asked = cluster.requests().len();
        // The last connection's end is seen by proa after us: its descriptors say when.
        let since = Instant::now();
        let mut least = descriptors(pid)?;
        while since.elapsed() < Duration::from_millis(200) {
            least = least.min(descriptors(pid)?);
        }
        let is_same_watch = cluster.open_watches() == 1 && cluster.requests().len() == asked;
        if is_same_watch && before.replace(least) == Some(least) {
            return Ok((status(pid, "RssAnon")?, least, status(pid, "Threads")?));
        }
    }
}

fn ask(request: &str) -> Result<String> {
    let mut stream = TcpStream::connect(ADDRESS)?;
    stream.set_read_timeout(Some(LONGEST))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
