//! What becomes of signals.

use std::collections::BTreeMap;
use std::fs;
use std::hint::spin_loop;
use std::io::Write;
use std::time::Instant;

use anyhow::{Result, ensure};
use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::Seen;
use crate::proc::{Status, bit, call, is_in_sleep};
use crate::scene::{PATIENCE, Scene, Stage, send};

/// As the C libraries number them.
const REALTIME_FIRST: i32 = 34;
const REALTIME_LAST: i32 = 64;

/// All that can be caught and that programs may use, but for the news of children.
fn all() -> impl Iterator<Item = i32> {
    let kept = [libc::SIGKILL, libc::SIGSTOP, libc::SIGCHLD];
    (1..=31).chain(REALTIME_FIRST..=REALTIME_LAST).filter(move |number| !kept.contains(number))
}

/// `TERM`, `RTMIN+3`.
fn name(number: i32) -> String {
    match number {
        REALTIME_FIRST => "RTMIN".to_owned(),
        REALTIME_LAST => "RTMAX".to_owned(),
        35..REALTIME_LAST => format!("RTMIN+{}", number - REALTIME_FIRST),
        _ => Signal::try_from(number).map_or("?", Signal::as_str).trim_start_matches("SIG").to_owned(),
    }
}

/// Their names; neighbours among the real-time signals as a range.
pub(super) fn list(numbers: &[i32]) -> String {
    let mut parts: Vec<(i32, i32)> = Vec::new();
    for &number in numbers {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == number && *last >= REALTIME_FIRST => *last = number,
            _ => parts.push((number, number)),
        }
    }
    let part = |(first, last): &(i32, i32)| {
        if first == last { name(*first) } else { format!("{} to {}", name(*first), name(*last)) }
    };
    parts.iter().map(part).collect::<Vec<_>>().join(", ")
}

/// What befell signals, by what it was.
#[derive(Default)]
struct Fates(BTreeMap<String, Vec<i32>>);

impl Fates {
    fn note(&mut self, fate: impl Into<String>, number: i32) {
        self.0.entry(fate.into()).or_default().push(number);
    }

    fn seen(self) -> Seen {
        Seen::instead(self.0.into_iter().map(|(fate, numbers)| format!("{fate}: {}", list(&numbers))))
    }
}

/// How often it came.
fn count(got: &[i32], number: i32) -> usize {
    got.iter().filter(|found| **found == number).count()
}

fn listener(stage: &Stage<'_>) -> Result<(Scene, i32, i32)> {
    let mut scene = stage.probe(&["signals"], "command up")?;
    let (init, command) = (scene.init()?, scene.command()?);
    scene.settle(init)?;
    Ok((scene, init, command))
}

pub(crate) fn each_to_first(stage: &Stage<'_>) -> Result<Seen> {
    each(stage)
}

pub(crate) fn each_beside(stage: &Stage<'_>) -> Result<Seen> {
    each(&stage.beside())
}

fn each(stage: &Stage<'_>) -> Result<Seen> {
    let mut fates = Fates::default();
    let (mut scene, mut init, mut command) = listener(stage)?;
    for number in all() {
        let before = scene.got("command").len();
        send(init, number)?;
        let lives = scene.settle(init)?;
        if !lives {
            fates.note("ends the init", number);
            (scene, init, command) = listener(stage)?;
            continue;
        }
        scene.settle(command)?;
        let is_stopped = |pid| Status::of(pid).is_some_and(|status| status.state() == 'T');
        let stopped = (is_stopped(init), is_stopped(command));
        let got = scene.got("command")[before..].to_vec();
        match (got.as_slice(), stopped) {
            (_, (true, true)) => fates.note("stops both with SIGSTOP", number),
            (_, (false, true)) => fates.note("stops the command with SIGSTOP", number),
            (_, (true, false)) => fates.note("stops the init alone", number),
            ([one], _) if *one == number => {}
            ([one], _) => fates.note(format!("arrives as {}", name(*one)), number),
            ([], _) => fates.note("lost", number),
            (more, _) => fates.note(format!("arrives {} times", more.len()), number),
        }
        if stopped != (false, false) {
            (scene, init, command) = listener(stage)?;
        }
    }
    Ok(fates.seen())
}

/// Stops the init until these have been sent.
fn while_stopped(scene: &mut Scene, init: i32, command: i32, numbers: &[i32]) -> Result<bool> {
    send(init, libc::SIGSTOP)?;
    scene.until("stopped init", |_| Ok(Status::of(init).is_some_and(|status| status.state() == 'T')))?;
    for number in numbers {
        send(init, *number)?;
    }
    send(init, libc::SIGCONT)?;
    let lives = scene.settle(init)?;
    scene.settle(command)?;
    Ok(lives)
}

pub(crate) fn burst(stage: &Stage<'_>) -> Result<Seen> {
    // SIGCONT takes back stop signals that are pending, and these take it back (signal(7)).
    let kept = [libc::SIGCONT, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];
    let numbers: Vec<_> = all().filter(|number| !kept.contains(number)).collect();
    let (mut scene, init, command) = listener(stage)?;
    if !while_stopped(&mut scene, init, command, &numbers)? {
        return Ok(Seen::Instead("ends the init".into()));
    }
    let mut fates = Fates::default();
    let got = scene.got("command");
    for number in numbers {
        match count(&got, number) {
            0 => fates.note("lost", number),
            1 => {}
            more => fates.note(format!("arrives {more} times"), number),
        }
    }
    Ok(fates.seen())
}

pub(crate) fn queue(stage: &Stage<'_>) -> Result<Seen> {
    let number = REALTIME_FIRST + 1;
    let (mut scene, init, command) = listener(stage)?;
    while_stopped(&mut scene, init, command, &[number; 100])?;
    let arrived = count(&scene.got("command"), number);
    Ok(Seen::holds_if(arrived == 100, || format!("arrives {arrived} times")))
}

/// Whether a signal to this process is kept for it, or handled. Where it waits for signals the kernel does not show them as blocked.
fn is_held(pid: i32, number: i32) -> bool {
    let shown = |status: &Status| (status.signals("SigBlk") | status.signals("SigCgt")) & bit(number) != 0;
    Status::of(pid).is_some_and(|status| shown(&status)) || call(pid) == Some(libc::SYS_rt_sigtimedwait)
}

/// From the moment at which the init holds the signal back or catches it: before, the kernel drops what PID 1 has no handler for.
pub(crate) fn early(stage: &Stage<'_>) -> Result<Seen> {
    const ROUNDS: u32 = 200;
    let mut lost = 0;
    for round in 0..ROUNDS {
        let mut scene = stage.start(&["sleep", "1000"])?;
        let started = Instant::now();
        let init = loop {
            ensure!(started.elapsed() < PATIENCE, "the init neither blocks nor catches SIGTERM");
            match scene.executed() {
                Some(init) if is_held(init, libc::SIGTERM) => break init,
                _ => spin_loop(),
            }
        };
        // Some rounds meet the init before the fork, some the fork, some the new program.
        for _ in 0..round * 400 {
            spin_loop();
        }
        send(init, libc::SIGTERM)?;
        let mut code = None;
        scene.until("end or rest of the command", |scene| {
            code = scene.ended()?;
            let command = crate::proc::children(init).and_then(|pids| pids.first().copied());
            Ok(code.is_some() || command.is_some_and(is_in_sleep))
        })?;
        if code.is_none() {
            // It may be on its way still.
            let lives = scene.settle(init)?;
            let command = crate::proc::children(init).and_then(|pids| pids.first().copied());
            if lives
                && let Some(command) = command
                && scene.settle(command)?
                && is_in_sleep(command)
            {
                lost += 1;
                continue;
            }
            code = Some(scene.end()?);
        }
        if code != Some(128 + libc::SIGTERM) {
            return Ok(Seen::Instead(format!("exit code {code:?}")));
        }
    }
    Ok(Seen::holds_if(lost == 0, || format!("lost in {lost} of {ROUNDS}")))
}

pub(crate) fn pending_term(stage: &Stage<'_>) -> Result<Seen> {
    pending(stage, libc::SIGTERM)
}

pub(crate) fn pending_usr1(stage: &Stage<'_>) -> Result<Seen> {
    pending(stage, libc::SIGUSR1)
}

/// Started with the signal blocked, and sent before the init is executed: the command inherits the block, and has it pending.
fn pending(stage: &Stage<'_>, number: i32) -> Result<Seen> {
    let held = fifo(stage, "pending")?;
    let block = format!("--block-signal={}", name(number));
    let script = format!("read line <{held}; exec \"$@\"");
    let stage = stage.through(&["env", &block, "sh", "-c", &script, "sh"]);
    let mut scene = stage.start(&["sleep", "1000"])?;
    // Opens once the shell has opened it too.
    let mut held = fs::File::options().write(true).open(held)?;
    send(scene.first()?, number)?;
    held.write_all(b"go\n")?;
    let mut code = None;
    let mut command = None;
    scene.until("end or rest of the command", |scene| {
        code = scene.ended()?;
        if code.is_none()
            && let Some(init) = scene.executed()
        {
            command = crate::proc::children(init).and_then(|pids| pids.first().copied());
        }
        Ok(code.is_some() || command.is_some_and(is_in_sleep))
    })?;
    if let Some(code) = code {
        return Ok(Seen::holds_if(code == 128 + number && number == libc::SIGTERM, || {
            format!("exit code {code}")
        }));
    }
    let (init, command) = (scene.init()?, scene.command()?);
    scene.settle(init)?;
    let arrived = Status::of(command).is_some_and(|status| status.is_pending(number));
    Ok(Seen::holds_if(arrived, || "lost".into()))
}

pub(crate) fn child_event(stage: &Stage<'_>) -> Result<Seen> {
    let (mut scene, init, command) = listener(stage)?;
    for _ in 0..10 {
        send(init, libc::SIGCHLD)?;
        if !scene.settle(init)? {
            return Ok(Seen::Instead("ends the init".into()));
        }
    }
    scene.settle(command)?;
    let got = scene.got("command");
    Ok(Seen::holds_if(got.is_empty(), || format!("forwarded {} times", got.len())))
}

pub(crate) fn stopped_command(stage: &Stage<'_>) -> Result<Seen> {
    let (mut scene, init, command) = listener(stage)?;
    send(command, libc::SIGSTOP)?;
    scene
        .until("stopped command", |_| Ok(Status::of(command).is_some_and(|status| status.state() == 'T')))?;
    if !scene.settle(init)? {
        return Ok(Seen::Instead("ends the init".into()));
    }
    send(init, libc::SIGUSR1)?;
    scene.settle(init)?;
    let early = scene.got("command");
    send(init, libc::SIGCONT)?;
    scene.settle(init)?;
    scene.settle(command)?;
    let got = scene.got("command");
    let stays = Status::of(command).is_some_and(|status| status.state() == 'T');
    let text = |what: bool, text: &str| if what { text.to_owned() } else { String::new() };
    Ok(Seen::instead([
        text(!early.is_empty(), "does not stay stopped"),
        text(stays, "is not continued"),
        text(!stays && count(&got, libc::SIGUSR1) != 1, "SIGUSR1 is lost"),
    ]))
}

pub(crate) fn stopped_init(stage: &Stage<'_>) -> Result<Seen> {
    let (mut scene, init, command) = listener(stage)?;
    send(init, libc::SIGSTOP)?;
    scene.until("stopped init", |_| Ok(Status::of(init).is_some_and(|status| status.state() == 'T')))?;
    send(command, libc::SIGUSR2)?;
    scene.settle(command)?;
    let runs_on = count(&scene.got("command"), libc::SIGUSR2) == 1;
    send(init, libc::SIGUSR1)?;
    send(init, libc::SIGCONT)?;
    scene.settle(init)?;
    scene.settle(command)?;
    let arrived = count(&scene.got("command"), libc::SIGUSR1) == 1;
    let text = |what: bool, text: &str| if what { text.to_owned() } else { String::new() };
    Ok(Seen::instead([text(!runs_on, "the command is stopped too"), text(!arrived, "SIGUSR1 is lost")]))
}

/// A named pipe.
fn fifo(stage: &Stage<'_>, name: &str) -> Result<String> {
    let path = stage.directory().join(name);
    let _ = fs::remove_file(&path);
    mkfifo(&path, Mode::S_IRWXU)?;
    Ok(path.display().to_string())
}

pub(crate) fn storm(stage: &Stage<'_>) -> Result<Seen> {
    let script = "echo up; i=0; while [ $i -lt 200 ]; do (true &); i=$((i+1)); done; read line; exit 9";
    let held = fifo(stage, "storm")?;
    let mut scene = stage.start(&["sh", "-c", &format!("exec 0<>{held}; {script}")])?;
    scene.until("start", |scene| Ok(scene.said().contains("up")))?;
    let init = scene.init()?;
    // The default of these is to be ignored.
    for round in 0..5000 {
        if round == 4000 {
            fs::write(&held, "go\n")?;
        }
        send(init, libc::SIGWINCH)?;
        send(init, libc::SIGURG)?;
    }
    let code = scene.end()?;
    Ok(Seen::holds_if(code == 9, || format!("exit code {code}")))
}
