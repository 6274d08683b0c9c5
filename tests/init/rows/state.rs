//! What the command starts with.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::Result;

use super::signal::list;
use crate::Seen;
use crate::proc::{Status, bit, descriptors, field};
use crate::scene::Stage;

/// The two signals that the C library keeps for itself: it ignores them in what it spawns, and its programs set them anew.
const LIBRARY: [i32; 2] = [32, 33];

pub(crate) fn signals_plain(stage: &Stage<'_>) -> Result<Seen> {
    signals(stage)
}

pub(crate) fn signals_odd(stage: &Stage<'_>) -> Result<Seen> {
    let words = ["env", "--block-signal=USR2,TERM,RTMIN+2", "--ignore-signal=PIPE,HUP,CHLD,ALRM"];
    signals(&stage.through(&words))
}

/// What differs from a command without an init.
fn signals(stage: &Stage<'_>) -> Result<Seen> {
    let (_kept, alone) = stage.without_init()?;
    let (_scene, command) = stage.sleep()?;
    let of = |pid: i32, name: &str| Status::of(pid).map_or(u64::MAX, |status| status.signals(name));
    let library = LIBRARY.iter().fold(0, |bits, number| bits | bit(*number));
    let mut deviations = Vec::new();
    for (name, what) in [("SigBlk", "blocked"), ("SigIgn", "ignored")] {
        let (expected, found) = (of(alone, name) & !library, of(command, name) & !library);
        let those = |bits: u64| list(&(1..=64).filter(|number| bits & bit(*number) != 0).collect::<Vec<_>>());
        let (more, fewer) = (those(found & !expected), those(expected & !found));
        if !more.is_empty() {
            deviations.push(format!("{what}: {more}"));
        }
        if !fewer.is_empty() {
            deviations.push(format!("no longer {what}: {fewer}"));
        }
    }
    Ok(Seen::instead(deviations))
}

pub(crate) fn child_ignored(stage: &Stage<'_>) -> Result<Seen> {
    let mut scene = stage.through(&["env", "--ignore-signal=CHLD"]).start(&["sh", "-c", "exit 9"])?;
    if !scene.within(std::time::Duration::from_secs(10), |scene| Ok(scene.ended()?.is_some()))? {
        return Ok(Seen::Instead("does not end".into()));
    }
    let code = scene.end()?;
    Ok(Seen::holds_if(code == 9, || format!("exit code {code}")))
}

pub(crate) fn environment(stage: &Stage<'_>) -> Result<Seen> {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let words =
        [b"sh".as_slice(), b"-c", b"sleep 1000; :", b"", b"a\nb", b"\xff\xfe", b"--", b"-h", b"--help"];
    let command: Vec<_> = words.iter().map(|word| OsStr::from_bytes(word)).collect();
    let set_up = "export EMPTY= LINES_=$(printf 'a\\nb') BYTES=$(printf '\\377\\376') PROA_LOG_LEVEL=info";
    let stage = stage.set_up(set_up);
    let (_kept, alone) = stage.without_init()?;
    let mut scene = stage.start(&command)?;
    let pid = scene.command()?;
    let variables = |pid: i32| -> Result<BTreeSet<Vec<u8>>> {
        let text = fs::read(format!("/proc/{pid}/environ"))?;
        // What a shell says of its own last command.
        Ok(text
            .split(|byte| *byte == 0)
            .filter(|text| !text.starts_with(b"_="))
            .map(<[u8]>::to_vec)
            .collect())
    };
    let found = crate::proc::words(pid).unwrap_or_default();
    let (expected, variables) = (variables(alone)?, variables(pid)?);
    let more: Vec<_> =
        variables.symmetric_difference(&expected).map(|text| String::from_utf8_lossy(text)).collect();
    let text = |what: bool, text: String| if what { text } else { String::new() };
    Ok(Seen::instead([
        text(found != words, "other arguments".into()),
        text(!more.is_empty(), format!("differ: {}", more.join(", "))),
    ]))
}

/// Lines of `proc_pid_status(5)` that are of one process.
const OWN: [&str; 22] = [
    "Name",
    "State",
    "Tgid",
    "Ngid",
    "Pid",
    "PPid",
    "FDSize",
    "NStgid",
    "NSpid",
    "NSpgid",
    "NSsid",
    "Vm",
    "Rss",
    "Hugetlb",
    "Threads",
    "Sig",
    "Shd",
    "voluntary",
    "nonvoluntary",
    "TracerPid",
    "x86_Thread",
    "untag",
];

pub(crate) fn attributes(stage: &Stage<'_>) -> Result<Seen> {
    let set_up = format!(
        "cd {}; umask 027; ulimit -n 99; ulimit -s 4096; ulimit -c 0; echo 500 >/proc/self/oom_score_adj",
        stage.directory().display()
    );
    let stage = stage.set_up(&set_up).through(&["nice", "-n", "5"]);
    let (_kept, alone) = stage.without_init()?;
    let (_scene, command) = stage.sleep()?;
    let mut deviations = Vec::new();
    for name in ["cwd", "root", "exe"] {
        let of = |pid: i32| fs::read_link(format!("/proc/{pid}/{name}"));
        if of(alone)? != of(command)? {
            deviations.push(format!("{name} is {}", of(command)?.display()));
        }
    }
    for name in
        ["limits", "oom_score_adj", "personality", "coredump_filter", "cgroup", "loginuid", "timerslack_ns"]
    {
        let of = |pid: i32| fs::read_to_string(format!("/proc/{pid}/{name}")).ok();
        if of(alone) != of(command) {
            deviations.push(name.to_owned());
        }
    }
    for (name, number) in [("nice", 19), ("scheduling policy", 41)] {
        let (expected, found) = (field(alone, number)?, field(command, number)?);
        if expected != found {
            deviations.push(format!("{name} is {found}"));
        }
    }
    let status = |pid: i32| -> Result<Vec<String>> {
        let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let own = |line: &&str| !OWN.iter().any(|name| line.starts_with(name));
        Ok(text.lines().filter(own).map(str::to_owned).collect())
    };
    let expected = status(alone)?;
    deviations.extend(status(command)?.into_iter().filter(|line| !expected.contains(line)));
    Ok(Seen::instead(deviations))
}

pub(crate) fn death_signal(stage: &Stage<'_>) -> Result<Seen> {
    let scene = stage.probe(&["death-signal"], "death signal")?;
    let said = scene.said();
    let signal = said.trim().trim_start_matches("death signal ").to_owned();
    Ok(Seen::holds_if(signal == "none", || signal))
}

fn descriptors_of(stage: &Stage<'_>, closed: bool) -> Result<Vec<String>> {
    let (_kept, alone) = stage.without_init()?;
    let (_scene, command) = stage.sleep()?;
    let (expected, found) = (descriptors(alone)?, descriptors(command)?);
    let mut deviations = Vec::new();
    for (number, path) in &found {
        // Each run has its own output.
        let own = [1, 2].contains(number) && path.starts_with(stage.directory()) && !closed;
        let null = closed && *number <= 2 && path == Path::new("/dev/null");
        if !own && !null && !expected.contains(&(*number, path.clone())) {
            deviations.push(format!("{number} is {}", path.display()));
        }
    }
    for (number, path) in &expected {
        if !found.iter().any(|(other, _)| other == number) {
            deviations.push(format!("{number} ({}) is missing", path.display()));
        }
    }
    Ok(deviations)
}

pub(crate) fn kept_descriptors(stage: &Stage<'_>) -> Result<Seen> {
    let stage = stage.set_up("exec 5</dev/zero 9>/dev/full");
    Ok(Seen::instead(descriptors_of(&stage, false)?))
}

pub(crate) fn closed(stage: &Stage<'_>) -> Result<Seen> {
    let stage = stage.set_up("exec <&- >&- 2>&-");
    let code = stage.code(&["sh", "-c", "exit 9"])?;
    if code != 9 {
        return Ok(Seen::Instead(format!("exit code {code}")));
    }
    Ok(Seen::instead(descriptors_of(&stage, true)?))
}

pub(crate) fn volume(stage: &Stage<'_>) -> Result<Seen> {
    let stage = stage.set_up(&format!("cd {}", stage.directory().display()));
    let (mut scene, _) = stage.sleep()?;
    let init = scene.init()?;
    let keeps = fs::read_link(format!("/proc/{init}/cwd"))? == stage.directory();
    Ok(Seen::holds_if(!keeps, || "keeps it".into()))
}

pub(crate) fn output(stage: &Stage<'_>) -> Result<Seen> {
    let (mut scene, command) = stage.sleep()?;
    let init = scene.init()?;
    let output = fs::read_link(format!("/proc/{command}/fd/1"))?;
    let held = descriptors(init)?.into_iter().any(|(_, path)| path == output);
    Ok(Seen::holds_if(!held, || "holds it open".into()))
}
