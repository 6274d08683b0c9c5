//! How the command's end shows.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::Result;

use crate::Seen;
use crate::scene::Stage;

fn is(code: i32, expected: i32) -> Seen {
    Seen::holds_if(code == expected, || code.to_string())
}

pub(crate) fn codes(stage: &Stage<'_>) -> Result<Seen> {
    let mut wrong = Vec::new();
    for expected in [0, 1, 2, 7, 42, 64, 125, 126, 127, 128, 129, 137, 143, 200, 254, 255] {
        let code = stage.code(&["sh", "-c", &format!("exit {expected}")])?;
        if code != expected {
            wrong.push(format!("{code} for {expected}"));
        }
    }
    Ok(Seen::instead(wrong))
}

pub(crate) fn by_signal(stage: &Stage<'_>) -> Result<Seen> {
    let mut wrong = Vec::new();
    for number in [1, 2, 3, 4, 6, 8, 9, 10, 11, 13, 14, 15, 24, 31, 34, 50, 64] {
        let code = stage.code(&["sh", "-c", &format!("ulimit -c 0; kill -{number} $$")])?;
        if code != 128 + number {
            wrong.push(format!("{code} for {}", 128 + number));
        }
    }
    Ok(Seen::instead(wrong))
}

pub(crate) fn not_found(stage: &Stage<'_>) -> Result<Seen> {
    // A directory that this user may not search would count as a file that may not be executed (execvp(3)).
    let mut scene = stage.set_up("PATH=/bin:/usr/bin").start(&["no-such-command"])?;
    let code = scene.end()?;
    let names = scene.log().contains("no-such-command");
    let code = if code == 127 { String::new() } else { code.to_string() };
    Ok(Seen::instead([code, if names { "" } else { "the message does not name it" }.to_owned()]))
}

/// A file of this mode with this text.
fn file(stage: &Stage<'_>, text: &str, mode: u32) -> Result<String> {
    let path = stage.directory().join("file");
    fs::write(&path, text)?;
    fs::set_permissions(&path, PermissionsExt::from_mode(mode))?;
    Ok(path.display().to_string())
}

pub(crate) fn no_interpreter(stage: &Stage<'_>) -> Result<Seen> {
    Ok(is(stage.code(&[file(stage, "#!/no/such/interpreter\n", 0o755)?])?, 127))
}

pub(crate) fn not_executable(stage: &Stage<'_>) -> Result<Seen> {
    Ok(is(stage.code(&[file(stage, "#!/bin/sh\n", 0o644)?])?, 126))
}

pub(crate) fn directory(stage: &Stage<'_>) -> Result<Seen> {
    Ok(is(stage.code(&["/"])?, 126))
}

pub(crate) fn no_format(stage: &Stage<'_>) -> Result<Seen> {
    let file = file(stage, "exit 55\n", 0o755)?;
    Ok(match stage.code(&[file])? {
        126 => Seen::Holds,
        55 => Seen::Instead("`/bin/sh` runs it".into()),
        other => Seen::Instead(other.to_string()),
    })
}

pub(crate) fn quick(stage: &Stage<'_>) -> Result<Seen> {
    let mut wrong = 0;
    for _ in 0..100 {
        wrong += usize::from(stage.code(&["false"])? != 1);
    }
    Ok(Seen::holds_if(wrong == 0, || format!("{wrong} of 100 lost")))
}

pub(crate) fn stdout(stage: &Stage<'_>) -> Result<Seen> {
    let mut scene = stage.start(&["echo", "text"])?;
    scene.end()?;
    let said = scene.said();
    Ok(Seen::holds_if(said == "text\n", || format!("{said:?}")))
}

pub(crate) fn stderr(stage: &Stage<'_>) -> Result<Seen> {
    let mut scene = stage.start(&["sh", "-c", "echo text >&2"])?;
    scene.end()?;
    let more = scene.log().lines().filter(|line| *line != "text").count();
    Ok(Seen::holds_if(more == 0, || format!("{more} lines of its log")))
}

pub(crate) fn full_stderr(stage: &Stage<'_>) -> Result<Seen> {
    Ok(is(stage.set_up("exec 2>/dev/full").code(&["sh", "-c", "exit 9"])?, 9))
}
