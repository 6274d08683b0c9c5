//! The controlling terminal: which process group is in the foreground.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;

use nix::sys::signal::SigSet;
use nix::unistd::{Pid, getpgrp, getpid, getsid, tcgetpgrp, tcsetpgrp};

use crate::shortage::is_shortage;

/// A controlling terminal of which our process group was the foreground.
#[derive(Debug)]
pub struct Terminal {
    file: File,
    own_group: Pid,
}

impl Terminal {
    /// The terminal, if there is one and it is ours to give away.
    ///
    /// # Errors
    /// When there is one to all appearances, and the system is short of what it takes to open it. Where there is none it is short of a
    /// descriptor before it says so.
    pub fn in_foreground() -> io::Result<Option<Self>> {
        // Opens the controlling terminal, whatever stdin is; fails where there is none (tty(4)).
        let file = match OpenOptions::new().read(true).write(true).open("/dev/tty") {
            Err(error) if is_shortage(&error) && has_terminal() => return Err(error),
            opened => opened.ok(),
        };
        let own_group = getpgrp();
        let ours = file.filter(|file| tcgetpgrp(file).is_ok_and(|foreground| foreground == own_group));
        Ok(ours.map(|file| Self { file, own_group }))
    }

    /// A second handle, for the forked child.
    ///
    /// # Errors
    /// When there is no file descriptor left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()?, own_group: self.own_group })
    }

    /// Makes a process group the foreground.
    ///
    /// # Errors
    /// Those of tcsetpgrp(3).
    pub fn give_to(&self, group: Pid) -> io::Result<()> {
        tcsetpgrp(self.file.as_fd(), group).map_err(io::Error::from)
    }

    /// Makes the calling process's group the foreground, for a forked child that has just become the
    /// leader of its own. From the background this raises `SIGTTOU` unless it is blocked (tcsetpgrp(3)).
    ///
    /// # Errors
    /// Those of tcsetpgrp(3).
    pub fn take_in_child(&self) -> io::Result<()> {
        SigSet::all().thread_block()?;
        self.give_to(getpgrp())
    }

    /// Makes our group the foreground again.
    ///
    /// # Errors
    /// Those of tcsetpgrp(3).
    pub fn take_back(&self) -> io::Result<()> {
        self.give_to(self.own_group)
    }

    /// Whether our group is the foreground.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        tcgetpgrp(&self.file).is_ok_and(|foreground| foreground == self.own_group)
    }

    /// Whether a shell with job control waits for us: it could resume us if we stopped. A session leader
    /// (the container's PID 1 on a terminal) has none.
    #[must_use]
    pub fn has_job_control(&self) -> bool {
        getsid(None).is_ok_and(|session| session != getpid())
    }
}

/// Whether one of the standard streams is a terminal, which takes no descriptor to tell.
fn has_terminal() -> bool {
    io::stdin().is_terminal() || io::stdout().is_terminal() || io::stderr().is_terminal()
}
