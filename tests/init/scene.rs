//! A run: an init with its command in a PID namespace of its own.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::pty::openpty;

use crate::probe;
use crate::proc::{Status, call, children, is_in_sleep, words};

/// The longest wait for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Proa,
    Tini,
    DumbInit,
    Catatonit,
    /// The command alone: what an init is given.
    None,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Proa => "proa",
            Self::Tini => "tini",
            Self::DumbInit => "dumb-init",
            Self::Catatonit => "catatonit",
            Self::None => "none",
        }
    }
}

/// A program that starts a command.
#[derive(Debug, Clone)]
pub(crate) struct Init {
    pub(crate) kind: Kind,
    pub(crate) path: PathBuf,
}

/// What an init is asked for by a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Signals go to the command's group.
    Group,
    /// Signals go to the command alone.
    Child,
    /// Orphans are its own where it is not PID 1.
    Subreaper,
    /// No log.
    Quiet,
}

/// How an init will be started.
#[derive(Clone)]
pub(crate) struct Stage<'a> {
    init: &'a Init,
    directory: &'a Path,
    wish: Option<Wish>,
    beside: bool,
    terminal: bool,
    set_up: String,
    through: Vec<String>,
}

impl<'a> Stage<'a> {
    /// As PID 1.
    pub(crate) fn new(init: &'a Init, directory: &'a Path) -> Self {
        let (set_up, through) = (String::new(), Vec::new());
        Self { init, directory, wish: None, beside: false, terminal: false, set_up, through }
    }

    pub(crate) fn wish(&self, wish: Wish) -> Self {
        Self { wish: Some(wish), ..self.clone() }
    }

    /// Below another PID 1, which collects nobody.
    pub(crate) fn beside(&self) -> Self {
        Self { beside: true, ..self.clone() }
    }

    /// As the leader of a session with a terminal, which is how `tty: true` starts a container.
    pub(crate) fn terminal(&self) -> Self {
        Self { terminal: true, ..self.clone() }
    }

    /// After these commands of a shell.
    pub(crate) fn set_up(&self, script: &str) -> Self {
        Self { set_up: script.to_owned(), ..self.clone() }
    }

    /// Through a program that executes it.
    pub(crate) fn through(&self, words: &[&str]) -> Self {
        Self { through: words.iter().map(|word| (*word).to_owned()).collect(), ..self.clone() }
    }

    /// Where the run leaves files.
    pub(crate) fn directory(&self) -> &Path {
        self.directory
    }

    /// Runs a probe, and waits until it says this.
    pub(crate) fn probe(&self, role: &[&str], until: &str) -> Result<Scene> {
        let program = env::current_exe()?;
        let mut command = vec![program.as_os_str(), OsStr::new(probe::FLAG)];
        command.extend(role.iter().map(OsStr::new));
        let mut scene = self.start(&command)?;
        scene.until(until, |scene| Ok(scene.said().contains(until)))?;
        Ok(scene)
    }

    /// Runs a command to its end; its exit code.
    pub(crate) fn code(&self, command: &[impl AsRef<OsStr>]) -> Result<i32> {
        self.start(command)?.end()
    }

    /// Runs `sleep`, and waits until it does nothing else any more; its ID.
    pub(crate) fn sleep(&self) -> Result<(Scene, i32)> {
        let mut scene = self.start(&["sleep", "1000"])?;
        let (init, command) = (scene.init()?, scene.command()?);
        scene.until("sleep", |_| Ok(is_in_sleep(command)))?;
        // What it does once the command runs.
        scene.settle(init)?;
        Ok((scene, command))
    }

    /// The same without an init.
    pub(crate) fn without_init(&self) -> Result<(Scene, i32)> {
        let init = Init { kind: Kind::None, path: PathBuf::new() };
        let mut scene = Stage { init: &init, ..self.clone() }.start(&["sleep", "1000"])?;
        let command = scene.first()?;
        scene.until("sleep", |_| Ok(is_in_sleep(command)))?;
        Ok((scene, command))
    }

    pub(crate) fn start(&self, command: &[impl AsRef<OsStr>]) -> Result<Scene> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let file = |kind: &str| self.directory.join(format!("{number}.{kind}"));
        let (output, errors, report) = (file("out"), file("err"), file("code"));
        let mut words: Vec<OsString> =
            ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
                .map(Into::into)
                .into();
        if self.terminal {
            words.extend(["setsid", "--ctty"].map(Into::into));
        }
        if self.beside {
            words.extend([
                env::current_exe()?.into(),
                probe::FLAG.into(),
                "parent".into(),
                report.clone().into(),
            ]);
        }
        if !self.set_up.is_empty() {
            words.extend(["sh", "-c"].map(Into::into));
            words.extend([format!("{}; exec \"$@\"", self.set_up).into(), "sh".into()]);
        }
        words.extend(self.through.iter().map(Into::into));
        if self.init.kind != Kind::None {
            words.push(self.init.path.clone().into());
            words.extend(self.wish.and_then(|wish| self.init.flag(wish)).map(Into::into));
            words.push("--".into());
        }
        words.extend(command.iter().map(|word| word.as_ref().to_owned()));
        let mut unshare = Command::new(&words[0]);
        unshare.args(&words[1..]).env_clear().env("PATH", env::var_os("PATH").unwrap_or_default());
        let (stdout, stderr) = (File::create(&output)?, File::create(&errors)?);
        let keyboard = if self.terminal {
            let terminal = openpty(None, None)?;
            let stdio = || terminal.slave.try_clone().map(Stdio::from);
            unshare.stdin(stdio()?).stdout(stdio()?).stderr(stdio()?);
            fcntl(terminal.master.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
            Some(File::from(terminal.master))
        } else {
            unshare.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
            None
        };
        let unshare = unshare.spawn().context("unshare")?;
        let program = command[0].as_ref().as_bytes().to_vec();
        let init = self.init.path.as_os_str().as_bytes().to_vec();
        let report = self.beside.then_some(report);
        Ok(Scene { unshare, init, program, output, errors, report, keyboard, screen: String::new() })
    }
}

/// A run under way. All of it is killed in the end.
pub(crate) struct Scene {
    unshare: Child,
    init: Vec<u8>,
    program: Vec<u8>,
    output: PathBuf,
    errors: PathBuf,
    report: Option<PathBuf>,
    keyboard: Option<File>,
    screen: String,
}

impl Scene {
    /// Looks again and again until it is so.
    pub(crate) fn until(&mut self, what: &str, is_so: impl FnMut(&mut Self) -> Result<bool>) -> Result<()> {
        ensure!(self.within(PATIENCE, is_so)?, "no {what} within {PATIENCE:?}; its log: {}", self.log());
        Ok(())
    }

    /// The same with another limit; whether it became so.
    pub(crate) fn within(
        &mut self,
        limit: Duration,
        mut is_so: impl FnMut(&mut Self) -> Result<bool>,
    ) -> Result<bool> {
        let started = Instant::now();
        while !is_so(self)? {
            if started.elapsed() > limit {
                return Ok(false);
            }
            thread::sleep(Duration::from_micros(300));
        }
        Ok(true)
    }

    /// PID 1.
    pub(crate) fn first(&mut self) -> Result<i32> {
        let parent = self.unshare.id().cast_signed();
        let mut found = None;
        self.until("first process", |_| {
            found = children(parent).and_then(|pids| pids.first().copied());
            Ok(found.is_some())
        })?;
        found.context("no first process")
    }

    /// PID 1 if it is the init by now.
    pub(crate) fn executed(&self) -> Option<i32> {
        let parent = self.unshare.id().cast_signed();
        let first = children(parent).and_then(|pids| pids.first().copied());
        first.filter(|pid| words(*pid).is_some_and(|words| words.first() == Some(&self.init)))
    }

    /// The process of the init: it has been executed.
    pub(crate) fn init(&mut self) -> Result<i32> {
        let mut found = self.first()?;
        let below = self.report.is_some();
        let parent = found;
        let path = self.init.clone();
        self.until("init", |_| {
            if below {
                match children(parent).and_then(|pids| pids.first().copied()) {
                    Some(pid) => found = pid,
                    None => return Ok(false),
                }
            }
            Ok(words(found).is_some_and(|words| words.first() == Some(&path)))
        })?;
        Ok(found)
    }

    /// The process of the command: it has been executed.
    pub(crate) fn command(&mut self) -> Result<i32> {
        let init = self.init()?;
        let mut found = None;
        self.until("command", |scene| {
            let pids = children(init).unwrap_or_default();
            let is_it = |pid: &i32| words(*pid).is_some_and(|words| words.first() == Some(&scene.program));
            found = pids.into_iter().find(is_it);
            ensure!(
                found.is_some() || scene.ended()?.is_none(),
                "the init has ended; its log: {}",
                scene.log()
            );
            Ok(found.is_some())
        })?;
        found.context("no command")
    }

    /// Waits until a process has nothing more to do: it sleeps or is stopped, and no signal is left for it. False if it has ended.
    pub(crate) fn settle(&mut self, pid: i32) -> Result<bool> {
        let mut lives = true;
        self.until("rest of a process", |_| {
            let status = Status::of(pid);
            lives = status.as_ref().is_some_and(|status| status.state() != 'Z');
            Ok(status.is_none_or(|status| match status.state() {
                // Who reads a signal is shown as asleep for a moment with the signal in hand; only who truly sleeps has a call here.
                'S' => status.pending() & !status.signals("SigIgn") == 0 && call(pid).is_some(),
                'T' | 'Z' => true,
                _ => false,
            }))
        })?;
        Ok(lives)
    }

    /// What the command has said.
    pub(crate) fn said(&self) -> String {
        let text = fs::read(&self.output).unwrap_or_default();
        format!("{}{}", String::from_utf8_lossy(&text), self.screen)
    }

    /// The numbers of the signals that this process has got.
    pub(crate) fn got(&self, name: &str) -> Vec<i32> {
        let text = self.said();
        // A terminal shows a key in front of what it leads to.
        let start = format!("{name} got ");
        let numbers = text.lines().filter_map(|line| Some(line.rsplit_once(&start)?.1));
        numbers.filter_map(|number| number.trim().parse().ok()).collect()
    }

    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.errors).unwrap_or_default()).into_owned()
    }

    /// The init's exit code once it has ended, 128+n after a signal.
    pub(crate) fn ended(&mut self) -> Result<Option<i32>> {
        if let Some(report) = &self.report {
            return match fs::read_to_string(report) {
                Ok(text) => Ok(Some(text.trim().parse()?)),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error.into()),
            };
        }
        let status = self.unshare.try_wait()?;
        Ok(status.and_then(|status| status.code().or_else(|| status.signal().map(|number| 128 + number))))
    }

    pub(crate) fn end(&mut self) -> Result<i32> {
        let mut code = None;
        self.until("end", |scene| {
            code = scene.ended()?;
            Ok(code.is_some())
        })?;
        code.context("no end")
    }

    pub(crate) fn type_in(&mut self, text: &str) -> Result<()> {
        Ok(self.keyboard.as_mut().context("no terminal")?.write_all(text.as_bytes())?)
    }

    /// Waits until the terminal shows this.
    pub(crate) fn shows(&mut self, text: &str) -> Result<()> {
        self.until(text, |scene| {
            scene.look()?;
            Ok(scene.screen.contains(text))
        })
    }

    /// Takes what the terminal has to show.
    pub(crate) fn look(&mut self) -> Result<()> {
        let Some(keyboard) = &mut self.keyboard else { return Ok(()) };
        let mut buffer = [0; 4096];
        loop {
            match keyboard.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => self.screen.push_str(&String::from_utf8_lossy(&buffer[..count])),
                // EIO: the last process has closed it.
                Err(error)
                    if error.kind() == ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::EIO) =>
                {
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // With PID 1 the kernel ends all others. unshare is still to be collected, so that its children's IDs are theirs.
        if let Ok(None) = self.unshare.try_wait() {
            for pid in children(self.unshare.id().cast_signed()).unwrap_or_default() {
                let _ = send(pid, libc::SIGKILL);
            }
            let _ = self.unshare.wait();
        }
    }
}

/// Sends a signal; whether somebody was there.
#[expect(unsafe_code, reason = "nix's kill knows no real-time signals")]
pub(crate) fn send(pid: i32, number: i32) -> Result<bool> {
    // SAFETY: kill(2) takes two integers and touches no memory of ours.
    if unsafe { libc::kill(pid, number) } == 0 {
        return Ok(true);
    }
    match Errno::last() {
        Errno::ESRCH => Ok(false),
        other => bail!("kill {number}: {other}"),
    }
}
