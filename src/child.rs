//! The command: spawned, signalled, waited for.

pub mod exec;
pub mod terminal;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process;

use nix::errno::Errno;
use nix::sys::signal::{Signal as NixSignal, kill, killpg};
use nix::unistd::{Pid, chdir, getpgid};
use tracing::{debug, warn};

use crate::budget::StopRequests;
use crate::crash::Progress;
use crate::deadline::now;
use crate::policy::ForwardTo;
use crate::shortage::{outlast_lack_of_processes, outlast_shortage};
use crate::signal::origin::Origin;
use crate::signal::send::{Target, send, suspend_self};
use crate::signal::{self, Phase, Reaction, Received, Signal, reaper};
use exec::Image;
use terminal::Terminal;

/// What is run.
#[derive(Debug, Clone)]
pub struct Command {
    /// The program, looked up in `PATH` if it has no slash.
    pub program: OsString,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Who gets the signals that proa receives.
    pub forward_to: ForwardTo,
}

/// Variables by name.
pub type Variables = BTreeMap<String, String>;

/// How the command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this code.
    Exited(u8),
    /// By the signal of this number.
    Signaled(i32),
}

impl Ended {
    /// As a shell has it: 128+n after signal n (Bash manual, "Exit Status"). Signals end at 64, so that this always fits.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Exited(code) => code,
            Self::Signaled(number) => u8::try_from(128 + number).unwrap_or(u8::MAX),
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Exited(code) => write!(f, "exit code {code}"),
            Self::Signaled(number) => match Signal::from_number(number) {
                Some(signal) => write!(f, "{signal}"),
                None if number == NixSignal::SIGKILL as i32 => write!(f, "SIGKILL"),
                None => write!(f, "signal {number}"),
            },
        }
    }
}

/// Why the command did not start.
#[derive(Debug)]
pub enum NotStarted {
    /// No such program, or its interpreter is missing.
    NotFound(io::Error),
    /// There, but not to be executed.
    NotExecutable(io::Error),
    /// Arguments and environment together are larger than the system takes.
    TooLarge,
    /// The system could not make a process.
    NoProcess(io::Error),
}

impl fmt::Display for NotStarted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound(_) => write!(
                f,
                "not found; expected a program in this image: an absolute path, or a name in PATH (for a script, \
                 its interpreter too)"
            ),
            Self::NotExecutable(error) => {
                write!(f, "{error}; expected a file that this user may execute, built for this machine")
            }
            Self::TooLarge => write!(
                f,
                "the argument list and the environment together are larger than the system takes (execve(2), E2BIG); expected fewer \
                 variables: see --env-file, and enableServiceLinks: false in the Pod's spec"
            ),
            Self::NoProcess(error) => write!(f, "{error}"),
        }
    }
}

/// The running command.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    forward_to: ForwardTo,
    terminal: Option<Terminal>,
}

/// Starts the command in a process group of its own, as the foreground of the terminal if there is one,
/// with the signal mask and dispositions that proa was started with. `variables`: what replaces or adds to its
/// environment.
///
/// # Errors
/// When there is no such program, it may not be executed, or no process can be made.
pub fn spawn(command: &Command, variables: &Variables) -> Result<Child, NotStarted> {
    let image = Image::new(command, variables).map_err(|error| NotStarted::NotFound(error.into()))?;
    let origin = Origin::capture();
    let terminal = outlast_shortage(Terminal::in_foreground)
        .map_err(|error| NotStarted::NoProcess(io::Error::other(format!("/dev/tty: {error}"))))?;
    let spawned = match &terminal {
        None if !origin.needs_fork() => outlast_lack_of_processes(|| image.spawn(origin)),
        terminal => fork(image, origin, terminal.as_ref()),
    };
    match spawned {
        Ok(pid) => {
            // The C library blocks signals around the spawn, and restores what it believes the mask to have been.
            if let Err(error) = Origin::block() {
                debug!(%error, "cannot block signals");
            }
            // Ours would keep a volume busy for as long as the command runs; the command has its own by now.
            if let Err(error) = chdir("/") {
                debug!(%error, "cannot leave the working directory");
            }
            Progress::Running(pid).note();
            Ok(Child { pid, forward_to: command.forward_to, terminal })
        }
        Err(error) => {
            take_back(terminal.as_ref());
            Err(match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::ENOENT | Errno::ENOTDIR) => NotStarted::NotFound(error),
                Some(Errno::E2BIG) => NotStarted::TooLarge,
                Some(Errno::EAGAIN | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE) => {
                    NotStarted::NoProcess(error)
                }
                _ => NotStarted::NotExecutable(error),
            })
        }
    }
}

/// Starts the command with a step between fork and exec: the child must make itself the terminal's
/// foreground before it runs, or its first look at the keyboard would stop it (termios(3), `SIGTTIN`).
#[expect(unsafe_code, reason = "a pre_exec hook is the only place between fork and exec")]
fn fork(image: Image, origin: &'static Origin, terminal: Option<&Terminal>) -> io::Result<Pid> {
    let terminal = outlast_shortage(|| terminal.map(Terminal::try_clone).transpose())?;
    // The hook becomes the command itself; the library's own program name is for its messages alone.
    let mut builder = process::Command::new("command");
    builder.process_group(0);
    let hook = move || {
        if let Some(terminal) = &terminal {
            terminal.take_in_child()?;
        }
        // Last: from here on a signal that is already on its way acts on the command.
        origin.restore()?;
        match image.execute()? {}
    };
    // SAFETY: the hook makes system calls, and allocates as execve's wrapper needs to: proa's code has a single
    // thread, and the C library's fork keeps its allocator usable beside a resolver thread that still hangs.
    unsafe { builder.pre_exec(hook) };
    // The handle is dropped without a wait: the reaper alone collects children.
    let child = outlast_lack_of_processes(|| builder.spawn())?;
    Ok(Pid::from_raw(child.id().cast_signed()))
}

fn take_back(terminal: Option<&Terminal>) {
    if let Some(Err(error)) = terminal.map(Terminal::take_back) {
        // The terminal may be gone: its hang-up is what ended the command.
        debug!(%error, "cannot take the terminal back");
    }
}

impl Child {
    /// One that was started before this program was executed anew.
    #[must_use]
    pub fn resumed(pid: Pid, forward_to: ForwardTo) -> Self {
        Self { pid, forward_to, terminal: None }
    }

    /// The command's process.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Passes a signal on.
    pub fn forward(&self, signal: Signal) {
        let sent = match self.forward_to {
            ForwardTo::Child => send(self.itself(), signal),
            ForwardTo::Group => {
                let group = send(Target::Group(self.pid), signal);
                // It may have moved to a group of another process.
                let has_left = getpgid(Some(self.pid)).is_ok_and(|group| group != self.pid);
                if has_left { send(self.itself(), signal) } else { group }
            }
        };
        match sent {
            Ok(()) => debug!(%signal, "forwarded"),
            // ESRCH: it has ended, and the news of that is on its way.
            Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => {}
            Err(error) => warn!(%signal, %error, "cannot forward"),
        }
    }

    fn itself(&self) -> Target {
        Target::Process(self.pid)
    }

    /// Takes a signal while the command runs: forwards it, or collects who has ended; how the command did, if it is among
    /// them. `stop` is the container's own stop signal, where the Pod shows it. `asked`: when the container was asked to stop.
    pub fn receive(
        &self,
        received: Received,
        stop: Option<Signal>,
        asked: &mut StopRequests,
    ) -> Option<Ended> {
        match signal::reaction(Phase::Command, received) {
            Reaction::Reap => return self.collect(),
            Reaction::Forward => {
                if received.is_stop(stop) {
                    asked.note(now(), received.sender);
                }
                self.forward(received.signal);
            }
            Reaction::Stop | Reaction::Suspend | Reaction::Ignore | Reaction::Drop => {}
        }
        None
    }

    /// Ends the command and what is left of its process group at once.
    pub fn kill(&self) {
        // ESRCH: it has ended, and the news of that is on its way; or it has moved to a group of another process.
        let group = killpg(self.pid, NixSignal::SIGKILL);
        let itself = kill(self.pid, NixSignal::SIGKILL);
        debug!(?group, ?itself, "killed");
    }

    /// Collects children that have changed state; how the command ended, if it is among them.
    #[must_use]
    pub fn collect(&self) -> Option<Ended> {
        for status in reaper::reap(self.pid) {
            // waitpid(2) gives the low 8 bits alone.
            let exited = status.code().map(|code| Ended::Exited(u8::try_from(code).unwrap_or(u8::MAX)));
            if let Some(ended) = exited.or_else(|| status.signal().map(Ended::Signaled)) {
                Progress::Decided(ended.exit_code()).note();
                take_back(self.terminal.as_ref());
                self.end_leftovers();
                return Some(ended);
            }
            if status.stopped_signal().is_some() {
                self.stopped();
            }
        }
        None
    }

    /// What the command has left in its process group has no one to pass it signals any more.
    fn end_leftovers(&self) {
        if self.forward_to == ForwardTo::Group {
            // ESRCH: nothing is left.
            let sent = send(Target::Group(self.pid), Signal::TERM);
            debug!(?sent, "SIGTERM to what is left of the command's process group");
        }
    }

    /// The command has stopped. On a terminal with job control proa stops too, so that the shell gets its
    /// prompt back, and hands the terminal over again once continued. Without job control nobody could
    /// ever continue a command that was stopped from the keyboard, so it goes on. Off the terminal
    /// whoever stopped the command continues it.
    fn stopped(&self) {
        let Some(terminal) = &self.terminal else {
            return;
        };
        if terminal.has_job_control() {
            take_back(Some(terminal));
            suspend_self();
            // Back again: `fg` has made our group the foreground, `bg` has not.
            if terminal.is_ours()
                && let Err(error) = terminal.give_to(self.pid)
            {
                debug!(%error, "cannot hand the terminal over");
            }
        }
        let continued = send(Target::Group(self.pid), Signal::CONT);
        debug!(?continued, "command was stopped and goes on");
    }
}
