//! After a panic while the command ran: the command has noticed nothing of it, and its exit code still counts.

use anyhow::Context;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use tracing::{info, warn};

use crate::budget::StopRequests;
use crate::child::{Child, Ended};
use crate::identity::Mounts;
use crate::mode::{appear, note_pending, runtime};
use crate::peer::{Part, Presence};
use crate::policy::ForwardTo;
use crate::shortage::insist;
use crate::signal::stream::Signals;

/// Forwards signals until the command ends. Returns its exit code, and our place among the main containers, by which others may have
/// left the sidecars to us. `asked`: when proa was asked to stop, so far.
///
/// # Errors
/// When signals cannot be received, the command's end among them.
pub fn wait(
    pid: Pid,
    forward_to: ForwardTo,
    mounts: &Mounts,
    asked: &mut StopRequests,
) -> anyhow::Result<(u8, Option<Presence>)> {
    warn!("proa panicked, which is a bug: it has started over, and waits for the command");
    // The other main containers would take the command for over, and `--hold-term` this one for gone.
    let presence = appear(mounts, Part::Main, asked).ok().flatten();
    let ended = end_of(&Child::resumed(pid, forward_to), asked)?;
    info!(exit_code = ended.exit_code(), "command ended: {ended}");
    Ok((ended.exit_code(), presence))
}

/// The command's end, which can be seen without what is short; and a stop request, from which time counts.
fn meanwhile(child: &Child, asked: &mut StopRequests, noted: &mut bool) -> Option<Ended> {
    note_pending(asked, noted, None);
    child.collect()
}

fn end_of(child: &Child, asked: &mut StopRequests) -> anyhow::Result<Ended> {
    // The news of its end may have been read before the panic.
    if let Some(ended) = child.collect() {
        return Ok(ended);
    }
    kill(child.pid(), None).context("the command is gone")?;
    // What it takes to wait may be short. Its end can be collected without.
    let mut noted = false;
    let signals = match insist(Signals::register, || meanwhile(child, asked, &mut noted)) {
        Ok(signals) => signals,
        Err(ended) => return Ok(ended),
    };
    let made = insist(
        || {
            let runtime = runtime()?;
            let listener = runtime.block_on(async { signals.try_listen() })?;
            anyhow::Ok((runtime, listener))
        },
        || meanwhile(child, asked, &mut noted),
    );
    let (runtime, mut signals) = match made {
        Ok(made) => made,
        Err(ended) => return Ok(ended),
    };
    runtime.block_on(async {
        loop {
            if let Some(ended) = child.collect() {
                return Ok(ended);
            }
            let received = signals.next().await.context("cannot receive signals")?;
            if let Some(ended) = child.receive(received, None, asked) {
                return Ok(ended);
            }
        }
    })
}
