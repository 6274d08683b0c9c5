//! What runs below an init: this program again, in one of these roles. All of them run until they are killed.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{Write, pipe, stdout};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};
use nix::libc;
use nix::sys::prctl;
use nix::sys::signal::SigSet;
use nix::sys::signalfd::SignalFd;

/// The first argument of a probe.
pub(crate) const FLAG: &str = "--probe";

pub(crate) fn run(arguments: &[OsString]) -> Result<()> {
    let mut words = arguments.iter().filter_map(|word| word.to_str());
    let role = words.next().context("a role")?;
    match role {
        "parent" => parent(&arguments[1..]),
        "signals" => signals(words.next().unwrap_or("command")),
        "family" => {
            Command::new(env::current_exe()?).args([FLAG, "signals", "grandchild"]).spawn()?;
            signals("command")
        }
        "orphans" => {
            let (count, kind) = (words.next().context("a count")?, words.next().context("a kind")?);
            orphans(count, kind)
        }
        "leave" => {
            let (count, kind) = (words.next().context("a count")?, words.next().context("a kind")?);
            leave(count.parse()?, kind)
        }
        "death-signal" => {
            let signal = prctl::get_pdeathsig()?;
            say(&format!("death signal {}", signal.map_or("none", |signal| signal.as_str())))?;
            forever()
        }
        other => bail!("no role {other}"),
    }
}

/// One write a line: the others write to the same file.
fn say(line: &str) -> Result<()> {
    let mut stdout = stdout().lock();
    stdout.write_all(format!("{line}\n").as_bytes())?;
    Ok(stdout.flush()?)
}

fn forever() -> ! {
    loop {
        thread::park();
    }
}

/// PID 1 that is no init: starts one, and leaves its end in a file.
fn parent(words: &[OsString]) -> Result<()> {
    let [report, program, arguments @ ..] = words else { bail!("expected REPORT PROGRAM ...") };
    let status = Command::new(program).args(arguments).status()?;
    let code = status.code().or_else(|| status.signal().map(|number| 128 + number)).context("no end")?;
    // By a rename, so that nobody reads half of it.
    let half = format!("{}.half", report.display());
    fs::write(&half, code.to_string())?;
    fs::rename(&half, report)?;
    forever()
}

/// Says each signal that comes.
fn signals(name: &str) -> Result<()> {
    let all = SigSet::all();
    all.thread_block()?;
    let file = SignalFd::new(&all)?;
    say(&format!("{name} up"))?;
    loop {
        if let Some(info) = file.read_signal()? {
            say(&format!("{name} got {}", info.ssi_signo))?;
        }
    }
}

/// Has `count` processes lose their parent. They end at SIGUSR1, and it ends at SIGUSR2.
fn orphans(count: &str, kind: &str) -> Result<()> {
    let all = SigSet::all();
    all.thread_block()?;
    let file = SignalFd::new(&all)?;
    let (reader, writer) = pipe()?;
    let status =
        Command::new(env::current_exe()?).args([FLAG, "leave", count, kind]).stdin(reader).status()?;
    anyhow::ensure!(status.success(), "{status}");
    say("left")?;
    let mut writer = Some(writer);
    loop {
        match file.read_signal()?.map(|info| info.ssi_signo.cast_signed()) {
            Some(libc::SIGUSR1) => writer = None,
            Some(libc::SIGUSR2) => {
                drop(writer);
                std::process::exit(6);
            }
            _ => {}
        }
    }
}

/// Leaves processes behind that end with the pipe at stdin.
fn leave(count: usize, kind: &str) -> Result<()> {
    let words: &[&str] = match kind {
        "plain" => &["cat"],
        "setsid" => &["setsid", "cat"],
        // A shell gives /dev/null to what it has in the background.
        "double" => &["sh", "-c", "exec 3<&0; (cat <&3 3<&- &)"],
        // The one that it leaves behind is killed, and another fails.
        "failing" => &["sh", "-c", "read line; kill -9 $$"],
        other => bail!("no kind {other}"),
    };
    for _ in 0..count {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).stdin(Stdio::inherit()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        if kind == "double" {
            child.wait()?;
        }
    }
    Ok(())
}
