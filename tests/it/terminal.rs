//! On a terminal the command is the foreground process group, and the terminal is taken back after it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use nix::libc;
use nix::pty::openpty;

use crate::support::{PATIENCE, PROA, World, eventually, puppet, send};

/// A program as the leader of a session of its own with a terminal, and what it writes there.
struct Session {
    child: Child,
    keyboard: File,
    screen: Arc<(Mutex<String>, Condvar)>,
}

impl Session {
    #[expect(unsafe_code, reason = "a session is made between fork and exec")]
    fn start(mut command: Command) -> Self {
        let pty = openpty(None, None).expect("a terminal");
        let stdio = || Stdio::from(pty.slave.try_clone().expect("a file descriptor"));
        command.stdin(stdio()).stdout(stdio()).stderr(stdio());
        let lead_session = || {
            nix::unistd::setsid()?;
            // SAFETY: takes two integers and touches no memory of ours.
            match unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) } {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        };
        // SAFETY: the hook makes two plain system calls.
        unsafe { command.pre_exec(lead_session) };
        let child = command.spawn().expect("the session starts");
        drop(command);
        drop(pty.slave);
        let screen = Arc::new((Mutex::new(String::new()), Condvar::new()));
        let master: OwnedFd = pty.master;
        let mut output = File::from(master.try_clone().expect("a file descriptor"));
        let shown = Arc::clone(&screen);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            // EIO once the last process has closed the terminal.
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                shown.0.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..count]));
                shown.1.notify_all();
            }
        });
        Self { child, keyboard: File::from(master), screen }
    }

    fn type_in(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).expect("typing");
    }

    /// Waits until the screen shows the text for the `nth` time.
    #[track_caller]
    fn wait_for(&self, sought: &str, nth: usize) -> String {
        let guard = self.screen.0.lock().unwrap();
        let shown = |text: &mut String| text.matches(sought).count() < nth;
        let (guard, timeout) = self.screen.1.wait_timeout_while(guard, PATIENCE, shown).unwrap();
        assert!(!timeout.timed_out(), "no {sought:?} ({nth}) on the screen:\n{guard}");
        guard.clone()
    }

    fn code(&mut self) -> Option<i32> {
        self.child.wait().expect("an end").code()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The environment in which proa finds its API server.
fn environment(world: &World) -> Vec<(String, String)> {
    let mut env = world.cluster.env();
    env.push(("PATH".into(), std::env::var("PATH").unwrap_or_default()));
    env.push(("PROA_CONTAINER".into(), "main".into()));
    env.push(("PROA_POD_NAME".into(), "pod".into()));
    env
}

/// As the kubelet starts a container with `tty: true`: proa leads the session.
fn container(world: &World, command: &[&str]) -> Session {
    let mut proa = Command::new(PROA);
    proa.arg("--").args(command).env_clear().envs(environment(world));
    Session::start(proa)
}

#[test]
fn the_command_is_the_foreground() {
    let world = World::alone();
    let mut session = container(
        &world,
        &["sh", "-c", "ps -o pgid=,tpgid= -p $$ | tr -s ' '; read line; echo \"got $line\""],
    );
    session.wait_for("command started", 1);
    session.type_in("hello\n");
    let screen = session.wait_for("got hello", 1);
    let groups = screen.lines().find_map(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<i32>);
        match (numbers.next(), numbers.next(), numbers.next()) {
            (Some(Ok(own)), Some(Ok(foreground)), None) => Some((own, foreground)),
            _ => None,
        }
    });
    let (own, foreground) = groups.unwrap_or_else(|| panic!("no groups in:\n{screen}"));
    assert_eq!(own, foreground);
    assert_eq!(session.code(), Some(0));
}

/// It says that there is room for more where there is room for less than a line.
#[test]
fn a_terminal_that_nobody_reads_holds_nothing_up() {
    let world = World::alone();
    let pty = openpty(None, None).expect("a terminal");
    let mut proa = Command::new(PROA);
    proa.args(["--api=off", "--wait-file=/nonexistent/file", "--", "true"]);
    proa.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::from(pty.slave));
    let child = proa.env("PROA_TERMINATION_MESSAGE_PATH", world.dir.join("message")).spawn().unwrap();
    drop(proa);
    let mut session = Session { child, keyboard: File::from(pty.master), screen: Arc::default() };
    session.keyboard.read_exact(&mut [0; 1]).expect("a log");
    let pid = session.child.id().cast_signed();
    // A line each.
    for _ in 0..2000 {
        send(pid, libc::SIGUSR1);
        eventually("the signal is taken", || {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            status.lines().any(|line| line == "ShdPnd:\t0000000000000000")
        });
    }
    send(pid, libc::SIGTERM);
    eventually("an end", || session.child.try_wait().unwrap().is_some());
    assert_eq!(session.code(), Some(143));
}

#[test]
fn keys_reach_the_command_once() {
    let world = World::alone();
    let puppet = puppet();
    let mut session = container(&world, &[puppet.to_str().unwrap(), "signals", "--count", "2"]);
    session.wait_for("ready", 1);
    session.type_in("\x03");
    session.wait_for("got SIGINT", 1);
    session.type_in("\x1c");
    let screen = session.wait_for("got SIGQUIT", 1);
    assert_eq!(screen.matches("got SIGINT").count(), 1, "{screen}");
    assert_eq!(session.code(), Some(0));
}

#[test]
fn without_job_control_a_stop_from_the_keyboard_is_undone() {
    let world = World::alone();
    let mut session = container(&world, &["sh", "-c", "echo up; read line; exit 3"]);
    session.wait_for("up", 1);
    session.type_in("\x1a");
    session.wait_for("^Z", 1);
    session.type_in("\n");
    assert_eq!(session.code(), Some(3));
}

#[test]
fn a_shell_with_job_control_stops_continues_and_gets_its_terminal_back() {
    let world = World::alone();
    let mut shell = Command::new("sh");
    shell.args(["-i"]).env_clear().envs(environment(&world)).env("PS1", "prompt> ");
    let mut session = Session::start(shell);
    session.wait_for("prompt> ", 1);
    session.type_in(&format!("{PROA} -- {} signals --count 3\n", puppet().display()));
    session.wait_for("ready (pid", 1);
    session.type_in("\x1a");
    // The puppet catches the stop and goes on; a second one that cannot be caught stops it.
    session.wait_for("got SIGTSTP", 1);
    session.type_in("\x03\x03");
    session.wait_for("got SIGINT", 1);
    session.type_in("\x03");
    session.wait_for("prompt> ", 2);
    session
        .type_in(&format!("{PROA} -- sh -c 'echo scri''pt up; read line; echo \"li''ne $line\"; exit 4'\n"));
    session.wait_for("script up", 1);
    session.type_in("\x1a");
    session.wait_for("prompt> ", 3);
    session.type_in("echo shell''-has-it\n");
    session.wait_for("shell-has-it", 1);
    session.type_in("fg\n");
    session.type_in("text\n");
    session.wait_for("line text", 1);
    session.wait_for("prompt> ", 5);
    session.type_in("exit $?\n");
    assert_eq!(session.code(), Some(4));
}
