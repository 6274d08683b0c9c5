//! A container's program that does what its arguments say.
//!
//! ```text
//! puppet exit N                     exits with N
//! puppet die SIGNAL                 is ended by SIGNAL
//! puppet signals [--count N] [--log FILE]
//!                                   says `ready (pid P pgid G sid S)`, then `got NAME` for every signal it is sent, real-time
//!                                   ones as SIGRTMIN+n; exits with 0 after N signals, else at the second SIGTERM
//! puppet serve [OPTIONS]            a sidecar's HTTP server; see `serve.rs`
//! puppet http METHOD URL            prints the answer's status; exits with 0 if it is 2xx, 1 if not, 2 without an answer
//! puppet log FILE TEXT              appends a line
//! puppet touch FILE                 creates a file
//! puppet await FILE                 waits until a file is there
//! puppet sleep DURATION             e.g. 500ms, 30s, 5m
//! puppet env                        prints its environment
//! puppet dispositions               prints its signal mask and dispositions, process group, session and, on a terminal,
//!                                   the foreground process group, as `name value`
//! puppet orphans N [--release FILE] [--until FILE]
//!                                   leaves N grandchildren without a parent, says `orphans PID...`; they exit once FILE is
//!                                   there, by default at once, and it exits once the other FILE is, by default at once
//! puppet spawn-tree                 has a child that ignores SIGTERM, says `parent PID child PID`, and waits for a signal
//! puppet ignore-term                says `ready (pid P)` and ignores SIGTERM
//! ```

// The entry point is C's: Rust's own would have SIGPIPE ignored before it could be asked how it was inherited.
#![no_main]

mod http;
mod serve;
mod signals;

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::parent_id;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use nix::libc::c_int;
use nix::unistd::{Pid, getpgid, getpid, getsid, tcgetpgrp};

/// How often a file is looked for.
const POLL: Duration = Duration::from_millis(2);

/// What ends a puppet that could not do what it was told.
type Failure = Box<dyn std::error::Error>;

#[expect(unsafe_code, reason = "an entry point's name cannot be mangled")]
// SAFETY: there is no other `main` to collide with.
#[unsafe(no_mangle)]
extern "C" fn main(_count: c_int, _arguments: *const *const u8) -> c_int {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    act(&arguments).unwrap_or_else(|error| {
        eprintln!("puppet: {error}");
        2
    })
}

fn act(arguments: &[&str]) -> Result<i32, Failure> {
    match *arguments {
        ["exit", code] => return Ok(code.parse()?),
        ["die", signal] => return signals::die(signal),
        ["signals", ref options @ ..] => return signals::report(options),
        ["serve", ref options @ ..] => return serve::serve(options),
        ["http", method, url] => return http::request(method, url),
        ["log", file, text] => append(Path::new(file), text)?,
        ["touch", file] => drop(File::create(file)?),
        ["await", file] => wait_for_file(Path::new(file)),
        ["sleep", time] => sleep(duration(time)?),
        ["env"] => env::vars().for_each(|(name, value)| println!("{name}={value}")),
        ["dispositions"] => dispositions()?,
        ["orphans", count, ref options @ ..] => orphans(count.parse()?, options)?,
        ["orphan-parent", ref options @ ..] => orphan_parent(options)?,
        ["orphan", ref options @ ..] => orphan(options),
        ["spawn-tree"] => spawn_tree()?,
        ["ignore-term"] => signals::ignore_term()?,
        _ => return Err(format!("unknown arguments {arguments:?}").into()),
    }
    Ok(0)
}

/// The value of an option.
fn option<'a>(options: &[&'a str], name: &str) -> Option<&'a str> {
    options.windows(2).find(|pair| pair[0] == name).map(|pair| pair[1])
}

/// Reads `500ms`, `30s`, `5m`.
fn duration(text: &str) -> Result<Duration, Failure> {
    let digits = text.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let number: u64 = digits.parse()?;
    match &text[digits.len()..] {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(60 * number)),
        unit => Err(format!("unknown unit `{unit}`").into()),
    }
}

/// Appends a line in one write, so that the lines of several processes do not mix.
fn append(file: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().create(true).append(true).open(file)?.write_all(format!("{text}\n").as_bytes())
}

fn wait_for_file(file: &Path) {
    while !file.exists() {
        sleep(POLL);
    }
}

fn dispositions() -> Result<(), Failure> {
    let status = fs::read_to_string("/proc/self/status")?;
    for name in ["SigBlk", "SigIgn", "SigCgt"] {
        let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        println!("{name} {}", value.unwrap_or_default().trim());
    }
    println!("pid {}", getpid());
    println!("pgid {}", getpgid(None)?);
    println!("sid {}", getsid(None)?);
    if let Ok(terminal) = File::open("/dev/tty") {
        println!("foreground {}", tcgetpgrp(terminal)?);
    }
    Ok(())
}

fn puppet() -> io::Result<Command> {
    Ok(Command::new(env::current_exe()?))
}

fn orphans(count: usize, options: &[&str]) -> Result<(), Failure> {
    let mut pids = Vec::new();
    for _ in 0..count {
        let output = puppet()?.arg("orphan-parent").args(options).stderr(Stdio::inherit()).output()?;
        pids.push(String::from_utf8(output.stdout)?.trim().to_owned());
    }
    println!("orphans {}", pids.join(" "));
    if let Some(file) = option(options, "--until") {
        wait_for_file(Path::new(file));
    }
    Ok(())
}

fn orphan_parent(options: &[&str]) -> Result<(), Failure> {
    let mut command = puppet()?;
    // Its output is not the parent's, which is read to its end.
    command.arg("orphan").args(options).arg("--parent").arg(getpid().to_string()).stdout(Stdio::null());
    println!("{}", command.spawn()?.id());
    Ok(())
}

fn orphan(options: &[&str]) {
    let parent = option(options, "--parent").unwrap_or_default();
    while parent_id().to_string() == parent {
        sleep(POLL);
    }
    if let Some(file) = option(options, "--release") {
        wait_for_file(Path::new(file));
    }
}

fn spawn_tree() -> Result<(), Failure> {
    let mut child = puppet()?.arg("ignore-term").stdout(Stdio::piped()).spawn()?;
    let mut ready = String::new();
    // Said only once it ignores the signal.
    BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut ready)?;
    println!("parent {} child {}", getpid(), Pid::from_raw(child.id().cast_signed()));
    loop {
        std::thread::park();
    }
}
