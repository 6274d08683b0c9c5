//! The one place that collects children.
//!
//! As PID 1, or as the nearest subreaper, proa inherits every process whose parent has ended
//! (`pid_namespaces(7)`, `PR_SET_CHILD_SUBREAPER`) and must collect it, or it stays a zombie.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use nix::errno::Errno;
use nix::libc;
use nix::unistd::Pid;
use tracing::debug;

/// Makes orphans of our descendants ours to collect even where another process is PID 1, as the pause
/// container is under `shareProcessNamespace`.
///
/// # Errors
/// Those of prctl(2).
#[expect(unsafe_code, reason = "nix offers this call only together with features that nothing else needs")]
pub fn become_subreaper() -> io::Result<()> {
    // SAFETY: the option takes one integer and touches no memory of ours.
    match unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Collects every child that has ended or stopped. Only what `own` did is returned, in order; whatever
/// orphans do decides nothing.
#[must_use]
pub fn reap(own: Pid) -> Vec<ExitStatus> {
    let mut statuses = Vec::new();
    while let Some((pid, status)) = next() {
        if pid == own {
            statuses.push(status);
        } else {
            debug!(pid = pid.as_raw(), %status, "orphan changed state");
        }
    }
    statuses
}

/// Collects orphans while there is no command.
pub fn reap_orphans() {
    while let Some((pid, status)) = next() {
        debug!(pid = pid.as_raw(), %status, "orphan changed state");
    }
}

/// The next child that has changed state, without waiting for one.
#[expect(unsafe_code, reason = "nix's waitpid loses the status of a child that a real-time signal ended")]
fn next() -> Option<(Pid, ExitStatus)> {
    let mut status = 0;
    let pid = loop {
        // SAFETY: `status` is a valid place for one integer.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG | libc::WUNTRACED) };
        // With every signal blocked there is nothing to interrupt it; what emulates a kernel may do so all the same.
        if pid != -1 || Errno::last() != Errno::EINTR {
            break pid;
        }
    };
    // 0: none has changed. -1: ECHILD, there are none.
    (pid > 0).then(|| (Pid::from_raw(pid), ExitStatus::from_raw(status)))
}
