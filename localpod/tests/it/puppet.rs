//! The puppet does what it is told; other crates' tests rely on it.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdout, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::player::{bin_dir, scratch};

fn puppet(arguments: &[&str]) -> Command {
    let mut command = Command::new(bin_dir().join("puppet"));
    command.args(arguments).stdout(Stdio::piped());
    command
}

fn start(arguments: &[&str]) -> (Child, BufReader<ChildStdout>, String) {
    let mut child = puppet(arguments).spawn().expect("a puppet");
    let mut stdout = BufReader::new(child.stdout.take().expect("its output"));
    let mut first = String::new();
    stdout.read_line(&mut first).expect("a line");
    (child, stdout, first.trim_end().to_owned())
}

fn tell(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().cast_signed()), signal).expect("a signal");
}

#[test]
fn it_exits_and_dies_as_told() {
    assert_eq!(puppet(&["exit", "7"]).status().expect("an end").code(), Some(7));
    assert_eq!(puppet(&["die", "SIGUSR2"]).status().expect("an end").signal(), Some(12));
}

#[test]
fn it_names_the_signals_it_gets() {
    let (mut child, mut stdout, first) = start(&["signals", "--count", "2"]);
    assert!(first.starts_with(&format!("ready (pid {} pgid ", child.id())), "{first}");
    tell(&child, Signal::SIGWINCH);
    let mut line = String::new();
    stdout.read_line(&mut line).expect("a line");
    assert_eq!(line, "got SIGWINCH\n");
    let real_time = format!("kill -s RTMIN+3 {}", child.id());
    assert!(Command::new("bash").args(["-c", &real_time]).status().expect("a shell").success());
    line.clear();
    stdout.read_line(&mut line).expect("a line");
    assert_eq!(line, "got SIGRTMIN+3\n");
    assert!(child.wait().expect("an end").success());
}

#[test]
fn it_ends_at_the_second_term() {
    let (mut child, mut stdout, _) = start(&["signals"]);
    let mut line = String::new();
    for _ in 0..2 {
        tell(&child, Signal::SIGTERM);
        stdout.read_line(&mut line).expect("a line");
    }
    assert_eq!(line, "got SIGTERM\ngot SIGTERM\n");
    assert!(child.wait().expect("an end").success());
}

#[test]
fn it_serves_readiness_and_quits_when_asked() {
    let log = scratch("serve").join("log");
    let log_path = log.display().to_string();
    let (mut child, _stdout, first) = start(&[
        "serve",
        "--name",
        "proxy",
        "--log",
        &log_path,
        "--not-ready",
        "--quit-code",
        "3",
        "--status-for",
        "/x=418",
    ]);
    let address = first.strip_prefix("listening on ").expect("an address");
    let ask = |method: &str, path: &str| {
        let output =
            puppet(&["http", method, &format!("http://{address}{path}")]).output().expect("an answer");
        String::from_utf8(output.stdout).expect("text").trim_end().to_owned()
    };
    assert_eq!(ask("GET", "/ready"), "503");
    assert_eq!(ask("POST", "/make-ready"), "200");
    assert_eq!(ask("GET", "/ready"), "200");
    assert_eq!(ask("GET", "/x"), "418");
    assert_eq!(ask("GET", "/nothing"), "404");
    assert_eq!(ask("POST", "/quitquitquit"), "200");
    assert_eq!(child.wait().expect("an end").code(), Some(3));
    let log = fs::read_to_string(log).expect("the log");
    assert_eq!(log, "proxy started\nproxy ready\nproxy quit POST\nproxy exited\n");
}

#[test]
fn a_sidecar_says_which_signal_ended_it() {
    let log = scratch("term").join("log");
    let (mut child, _stdout, _) =
        start(&["serve", "--name", "proxy", "--log", &log.display().to_string(), "--term-code", "0"]);
    tell(&child, Signal::SIGTERM);
    assert!(child.wait().expect("an end").success());
    let log = fs::read_to_string(log).expect("the log");
    assert_eq!(log, "proxy started\nproxy ready\nproxy got SIGTERM\nproxy exited\n");
}

#[test]
fn orphans_outlive_their_parents_until_released() {
    let directory = scratch("orphans");
    let (release, until) = (directory.join("release"), directory.join("until"));
    let (release_path, until_path) = (release.display().to_string(), until.display().to_string());
    let (mut child, mut stdout, first) =
        start(&["orphans", "2", "--release", &release_path, "--until", &until_path]);
    let pids: Vec<&str> = first.strip_prefix("orphans ").expect("pids").split(' ').collect();
    assert_eq!(pids.len(), 2);
    for pid in &pids {
        assert!(fs::exists(format!("/proc/{pid}")).expect("an answer"));
    }
    fs::write(release, "").expect("a file");
    fs::write(until, "").expect("a file");
    assert!(child.wait().expect("an end").success());
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("the rest");
    assert!(rest.is_empty(), "{rest}");
}
