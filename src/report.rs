//! Says how it ended: in the log, and in the termination message that `kubectl describe pod` shows.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tracing::{debug, error, info, warn};

use crate::exit::Outcome;
use crate::identity::Mounts;

/// Where the kubelet mounts the termination message file unless the Pod says otherwise.
const TERMINATION_MESSAGE_PATH: &str = "/dev/termination-log";

/// Logs the outcome and writes the termination message, if it has one. `path`: as asked for by flag.
pub fn report(outcome: &Outcome, path: Option<&Path>, mounts: &Mounts) {
    let code = outcome.code();
    match outcome {
        Outcome::Ended(_) => info!(code, "exit"),
        Outcome::Stopped(_) | Outcome::ShutDown => info!(code, "exit: {outcome}"),
        // Whoever mistypes an option looks at a terminal as often as at a log.
        Outcome::Usage(text) => eprint!("{text}"),
        _ => error!(code, "{outcome}"),
    }
    let Some(message) = outcome.termination_message() else {
        return;
    };
    let expected = path.or(mounts.termination_message_path.as_deref());
    let path = expected.map_or_else(|| PathBuf::from(TERMINATION_MESSAGE_PATH), Path::to_path_buf);
    match write(&path, &message) {
        Ok(()) => {}
        // Not in a container: nobody would look.
        Err(error) if expected.is_none() && error.kind() == io::ErrorKind::NotFound => {
            debug!("no termination message file at {}", path.display());
        }
        Err(error) => warn!(
            "cannot write the termination message to {}: {error}; expected the file that the kubelet mounts at \
             terminationMessagePath, see --termination-message-path",
            path.display()
        ),
    }
}

/// Writes to the file that the kubelet has made; none is created.
fn write(path: &Path, message: &str) -> io::Result<()> {
    OpenOptions::new().write(true).truncate(true).open(path)?.write_all(message.as_bytes())
}
