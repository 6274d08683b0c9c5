//! What becomes of orphans.

use std::time::Duration;

use anyhow::Result;
use nix::libc;

use crate::Seen;
use crate::proc::children;
use crate::scene::{Stage, send};

/// Collecting them takes an init a moment; after this it does not happen.
const LIMIT: Duration = Duration::from_secs(15);

pub(crate) fn one(stage: &Stage<'_>) -> Result<Seen> {
    orphans(stage, 1, "plain")
}

pub(crate) fn thousand(stage: &Stage<'_>) -> Result<Seen> {
    orphans(stage, 1000, "plain")
}

pub(crate) fn double_fork(stage: &Stage<'_>) -> Result<Seen> {
    orphans(stage, 20, "double")
}

pub(crate) fn session(stage: &Stage<'_>) -> Result<Seen> {
    orphans(stage, 20, "setsid")
}

pub(crate) fn failing(stage: &Stage<'_>) -> Result<Seen> {
    orphans(stage, 3, "failing")
}

pub(crate) fn subreaper(stage: &Stage<'_>) -> Result<Seen> {
    orphans(&stage.beside(), 3, "plain")
}

/// Orphans that live, then end all at once; then the command, with a code of its own.
fn orphans(stage: &Stage<'_>, count: usize, kind: &str) -> Result<Seen> {
    let mut scene = stage.probe(&["orphans", &count.to_string(), kind], "left")?;
    let (init, command) = (scene.init()?, scene.command()?);
    let number = || children(init).map_or(0, |pids| pids.len());
    // Their parent has been waited for, so that they are somebody else's by now.
    let adopted = number();
    if adopted != count + 1 {
        return Ok(Seen::Instead(if adopted == 1 {
            "they are PID 1's".to_owned()
        } else {
            format!("has {adopted} children, not {}", count + 1)
        }));
    }
    send(command, libc::SIGUSR1)?;
    let collected = scene.within(LIMIT, |scene| Ok(number() == 1 || scene.ended()?.is_some()))?;
    if let Some(code) = scene.ended()? {
        return Ok(Seen::Instead(format!("ends with {code}")));
    }
    if !collected {
        return Ok(Seen::Instead(format!("{} zombies are left", number() - 1)));
    }
    send(command, libc::SIGUSR2)?;
    let code = scene.end()?;
    Ok(Seen::holds_if(code == 6, || format!("exit code {code}")))
}
