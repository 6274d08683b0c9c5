//! Sending a signal.

use std::io;

use nix::libc;
use nix::sys::signal::{Signal as NixSignal, raise};
use nix::unistd::Pid;

use super::Signal;

/// Who gets a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// One process.
    Process(Pid),
    /// Every process of the group that this process leads.
    Group(Pid),
}

/// Sends a signal; kill(2).
///
/// # Errors
/// `ESRCH` when nobody is there, `EPERM` when the sender may not.
#[expect(unsafe_code, reason = "nix's kill knows no real-time signals")]
pub fn send(target: Target, signal: Signal) -> io::Result<()> {
    let id = match target {
        Target::Process(pid) => pid.as_raw(),
        Target::Group(leader) => -leader.as_raw(),
    };
    // SAFETY: kill(2) takes two integers and touches no memory of ours.
    if unsafe { libc::kill(id, signal.number()) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Stops this process as the default action of a stop signal would. Without effect for PID 1.
pub fn suspend_self() {
    // Cannot fail: the signal is a constant and we may signal ourselves.
    let _ = raise(NixSignal::SIGSTOP);
}
