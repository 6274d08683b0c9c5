//! Process groups, sessions, terminals, and what is left of them.

use std::env;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::libc;

use crate::Seen;
use crate::probe::FLAG;
use crate::proc::{Status, children, groups};
use crate::scene::{Scene, Stage, send};

pub(crate) fn direct(stage: &Stage<'_>) -> Result<Seen> {
    let (mut scene, command) = stage.sleep()?;
    let init = scene.init()?;
    let below = children(init).context("no init")?;
    Ok(Seen::holds_if(below == [command], || format!("{} children", below.len())))
}

pub(crate) fn own(stage: &Stage<'_>) -> Result<Seen> {
    let (_scene, command) = stage.sleep()?;
    Ok(Seen::holds_if(groups(command)?.0 == i64::from(command), || "the init's group".into()))
}

pub(crate) fn session(stage: &Stage<'_>) -> Result<Seen> {
    let (mut scene, command) = stage.sleep()?;
    let init = scene.init()?;
    Ok(Seen::holds_if(groups(command)?.1 == groups(init)?.1, || "a session of its own".into()))
}

/// Who gets SIGUSR1: how often the command, how often another of its group.
fn receivers(stage: &Stage<'_>) -> Result<(usize, usize)> {
    let mut scene = stage.probe(&["family"], "command up")?;
    scene.until("grandchild", |scene| Ok(scene.said().contains("grandchild up")))?;
    let (init, command) = (scene.init()?, scene.command()?);
    let grandchild = children(command).and_then(|pids| pids.first().copied()).context("no grandchild")?;
    send(init, libc::SIGUSR1)?;
    for pid in [init, command, grandchild] {
        scene.settle(pid)?;
    }
    Ok((scene.got("command").len(), scene.got("grandchild").len()))
}

pub(crate) fn to_command(stage: &Stage<'_>) -> Result<Seen> {
    Ok(match receivers(stage)? {
        (1, 0) => Seen::Holds,
        (1, 1) => Seen::Instead("to its group".into()),
        other => Seen::Instead(format!("{other:?}")),
    })
}

pub(crate) fn to_group(stage: &Stage<'_>) -> Result<Seen> {
    Ok(match receivers(stage)? {
        (1, 1) => Seen::Holds,
        (1, 0) => Seen::Instead("to the command alone".into()),
        other => Seen::Instead(format!("{other:?}")),
    })
}

/// A command that ends at SIGUSR1 with 5, and leaves a process behind; that process.
fn leaving(stage: &Stage<'_>) -> Result<(Scene, i32)> {
    let probe = env::current_exe()?.display().to_string();
    let script = format!("trap 'exit 5' USR1; {probe} {FLAG} signals left & wait");
    let mut scene = stage.start(&["sh", "-c", &script])?;
    scene.until("what is left", |scene| Ok(scene.said().contains("left up")))?;
    let command = scene.command()?;
    let left = children(command).and_then(|pids| pids.first().copied()).context("nothing left")?;
    send(command, libc::SIGUSR1)?;
    Ok((scene, left))
}

/// What the one that is left has got, once the init has ended.
fn left_behind(stage: &Stage<'_>) -> Result<Vec<i32>> {
    let (mut scene, left) = leaving(&stage.beside())?;
    scene.end()?;
    scene.settle(left)?;
    anyhow::ensure!(Status::of(left).is_some(), "what is left has ended");
    Ok(scene.got("left"))
}

pub(crate) fn left(stage: &Stage<'_>) -> Result<Seen> {
    let got = left_behind(stage)?;
    Ok(Seen::holds_if(got.is_empty(), || {
        if got == [libc::SIGTERM] { "gets SIGTERM".into() } else { format!("{got:?}") }
    }))
}

pub(crate) fn left_term(stage: &Stage<'_>) -> Result<Seen> {
    let got = left_behind(stage)?;
    Ok(Seen::holds_if(got == [libc::SIGTERM], || {
        if got.is_empty() { "left alone".into() } else { format!("{got:?}") }
    }))
}

pub(crate) fn left_first(stage: &Stage<'_>) -> Result<Seen> {
    let (mut scene, left) = leaving(stage)?;
    let code = scene.end()?;
    let lives = Status::of(left).is_some_and(|status| status.state() != 'Z');
    let text = |what: bool, text: String| if what { text } else { String::new() };
    Ok(Seen::instead([text(code != 5, format!("exit code {code}")), text(lives, "it lives on".into())]))
}

pub(crate) fn foreground(stage: &Stage<'_>) -> Result<Seen> {
    let (_scene, command) = stage.terminal().sleep()?;
    let (group, _, foreground) = groups(command)?;
    Ok(Seen::holds_if(group == foreground, || {
        if foreground <= 0 { "no terminal".into() } else { "the init's group is".into() }
    }))
}

pub(crate) fn key(stage: &Stage<'_>) -> Result<Seen> {
    let mut scene =
        stage.terminal().start(&[env::current_exe()?.as_os_str(), FLAG.as_ref(), "signals".as_ref()])?;
    scene.shows("command up")?;
    let (init, command) = (scene.init()?, scene.command()?);
    scene.settle(init)?;
    scene.type_in("\x03")?;
    // The kernel signals before it shows the key.
    scene.shows("^C")?;
    for pid in [init, command] {
        scene.settle(pid)?;
    }
    scene.look()?;
    let got = scene.got("command");
    Ok(Seen::holds_if(got == [libc::SIGINT], || format!("{} times", got.len())))
}

pub(crate) fn key_stop(stage: &Stage<'_>) -> Result<Seen> {
    let mut scene = stage.terminal().start(&["sh", "-c", "echo up; read line; exit 3"])?;
    scene.shows("up")?;
    let command = scene.command()?;
    scene.type_in("\x1a")?;
    scene.shows("^Z")?;
    scene.type_in("\n")?;
    // The end is what shows that it goes on; a stop has none.
    if scene.within(Duration::from_secs(5), |scene| Ok(scene.ended()?.is_some()))? {
        let code = scene.end()?;
        return Ok(Seen::holds_if(code == 3, || format!("exit code {code}")));
    }
    let letter = Status::of(command).map_or('?', |status| status.state());
    Ok(Seen::Instead(if letter == 'T' { "stays stopped".into() } else { format!("does not end ({letter})") }))
}
