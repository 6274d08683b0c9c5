//! Many at once: the API server restarts while all of them wait.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use localpod::Cluster;

use super::cell::Mode;
use super::law::Outcome;
use super::world::{CODE, Event, Premature, ended};
use super::{endpoint, pods};

/// How many wait.
const COUNT: usize = 500;
/// How long the server is away.
const AWAY: Duration = Duration::from_secs(3);
/// For all of them to start, and again for all to end: 20 seconds on two quiet cores.
const LONGEST: Duration = Duration::from_secs(150);

/// What came of it, or which promise was broken.
pub(crate) fn run(mode: Mode, binary: &Path, directory: &Path) -> Result<Result<Outcome, String>> {
    fs::create_dir_all(directory)?;
    let cluster = Cluster::start()?;
    let (sender, asked) = channel();
    let port = endpoint::listen(sender)?;
    let mut all = Vec::new();
    for number in 0..COUNT {
        let name = format!("pod-{number}");
        pods::create(&cluster, mode, &name)?;
        all.push(start(mode, binary, directory, &cluster, &name, port)?);
    }
    ensure!(cluster.wait_for_watches(COUNT, LONGEST), "{} of {COUNT} watch", cluster.open_watches());
    let away = cluster.refuse();
    cluster.hang_up();
    ensure!(cluster.wait_for_watches(0, LONGEST), "{} watches go on", cluster.open_watches());
    for number in 0..COUNT {
        pods::ready(&cluster, &format!("pod-{number}"), true);
    }
    thread::sleep(AWAY);
    // Nobody was shown a sidecar that is ready, nor can be while the server is away.
    let mut broken = Vec::new();
    for (number, child) in all.iter_mut().enumerate() {
        if child.try_wait()?.is_some() || directory.join(number_file(number)).exists() {
            broken.push(format!("{number}: {}", Premature::Began));
        }
    }
    away.clear();
    let deadline = Instant::now() + LONGEST;
    let mut ends: Vec<Option<ExitStatus>> = vec![None; COUNT];
    let mut asked_for = BTreeSet::new();
    while ends.iter().any(Option::is_none) && Instant::now() < deadline {
        while let Ok(Event::Asked(client, path)) = asked.recv_timeout(Duration::from_millis(20)) {
            endpoint::answer(None, client, 1, port);
            pods::end(&cluster, path.trim_start_matches('/'), "web", 0);
            asked_for.insert(path);
        }
        for (child, end) in all.iter_mut().zip(&mut ends) {
            if end.is_none() {
                *end = child.try_wait()?;
            }
        }
    }
    let expected = if mode == Mode::Wrap { CODE } else { 0 };
    if mode.asks() && asked_for.len() < COUNT {
        broken.push(format!("{} sidecars were not asked to exit", COUNT - asked_for.len()));
    }
    for (number, (mut child, end)) in all.into_iter().zip(ends).enumerate() {
        let ran =
            fs::read_to_string(directory.join(number_file(number))).map_or(0, |text| text.lines().count());
        match end {
            Some(status) if status.code() == Some(expected) && ran == usize::from(mode.has_command()) => {}
            Some(status) => broken.push(format!("{number}: {}, ran {ran} times", ended(status))),
            None => {
                child.kill()?;
                child.wait()?;
                broken.push(format!("{number}: no end in time, ran {ran} times"));
            }
        }
    }
    Ok(if broken.is_empty() {
        Ok(Outcome::Done)
    } else {
        Err(format!("{} of {COUNT}: {}", broken.len(), broken.join("; ")))
    })
}

fn number_file(number: usize) -> String {
    format!("ran-pod-{number}")
}

fn start(
    mode: Mode,
    binary: &Path,
    directory: &Path,
    cluster: &Cluster,
    name: &str,
    port: u16,
) -> Result<Child> {
    let mut command = Command::new(binary);
    let quit = format!("--shutdown-http-post=http://127.0.0.1:{port}/{name}");
    let script = format!("echo ran >> {}; exit {CODE}", directory.join(format!("ran-{name}")).display());
    let ready = "--ready-timeout=400s";
    match mode {
        Mode::Wait => command.args(["wait", ready]),
        _ => command.args([ready, &quit, "--shutdown-timeout=60s", "--", "sh", "-c", &script]),
    };
    command.env_clear().envs(cluster.env()).env("PATH", env::var_os("PATH").unwrap_or_default());
    command.envs([("POD_NAME", name), ("POD_NAMESPACE", "default"), ("PROA_CONTAINER", "main")]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().context("proa starts")
}
