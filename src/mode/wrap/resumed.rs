//! After a panic while the command ran: the command has noticed nothing of it, and its exit code still counts.

use anyhow::Context;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use tracing::{info, warn};

use crate::budget::StopRequests;
use crate::child::Child;
use crate::identity::Mounts;
use crate::mode::{appear, runtime};
use crate::peer::{Part, Presence};
use crate::policy::ForwardTo;
use crate::shortage::insist;
use crate::signal::stream::Signals;

/// Forwards signals until the command ends: its exit code, and our place among the main containers, by which others may have
/// left the sidecars to us.
///
/// # Errors
/// When signals cannot be received, the command's end among them.
pub fn wait(
    pid: Pid,
    forward_to: ForwardTo,
    mounts: &Mounts,
    signals: &Signals,
) -> anyhow::Result<(u8, Option<Presence>)> {
    warn!("proa panicked, which is a bug: it has started over, and waits for the command");
    // The other main containers would take the command for over, and `--hold-term` this one for gone.
    let presence = appear(mounts, Part::Main).ok().flatten();
    let child = Child::resumed(pid, forward_to);
    // Where it is not to be had, nothing else brings the exit code.
    let (runtime, mut signals) = insist(|| {
        let runtime = runtime()?;
        let listener = runtime.block_on(async { signals.try_listen() })?;
        anyhow::Ok((runtime, listener))
    });
    let ended = runtime.block_on(async {
        let mut asked = StopRequests::default();
        // The news of its end may have been read before the panic.
        let mut ended = child.collect();
        if ended.is_none() {
            kill(pid, None).context("the command is gone")?;
        }
        while ended.is_none() {
            let received = signals.next().await.context("cannot receive signals")?;
            ended = child.receive(received, None, &mut asked);
        }
        anyhow::Ok(ended)
    })?;
    let ended = ended.context("the command is gone")?;
    info!(exit_code = ended.exit_code(), "command ended: {ended}");
    Ok((ended.exit_code(), presence))
}
