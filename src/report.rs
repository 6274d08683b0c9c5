//! Says how it ended: in the log, and in the termination message that `kubectl describe pod` shows.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc;
use tracing::{debug, error, info, warn};

use crate::exit::{Conclusion, Outcome};
use crate::identity::{Mounts, came_later};
use crate::telemetry::stderr;

/// Where the kubelet mounts the termination message file unless the Pod says otherwise.
const TERMINATION_MESSAGE_PATH: &str = "/dev/termination-log";

/// Logs the outcome and writes the termination message, if it has one. `path`: as asked for by flag.
pub fn report(conclusion: &Conclusion, path: Option<&Path>, mounts: &Mounts) {
    let outcome = &conclusion.outcome;
    let code = outcome.code();
    match outcome {
        Outcome::Ended(_) => info!(exit_code = code, "exit with code {code}"),
        Outcome::Stopped(_) | Outcome::ShutDown | Outcome::Ready => {
            info!(exit_code = code, "{outcome}; exit with code {code}");
        }
        // Of no use to anybody if it cannot be said.
        Outcome::Planned(text) => drop(io::stdout().write_all(text.as_bytes())),
        // Whoever mistypes an option looks at a terminal as often as at a log.
        Outcome::Usage(text) => stderr::write(&format!("proa: {text}")),
        _ => error!(exit_code = code, "{outcome}; exit with code {code}"),
    }
    write_message(conclusion, path, mounts);
}

/// Writes the termination message, if there is one.
pub fn write_message(conclusion: &Conclusion, path: Option<&Path>, mounts: &Mounts) {
    let Some(message) = conclusion.termination_message() else {
        return;
    };
    // The message is that of the container's own run, not of a probe or a hook in it.
    if path.is_none() && came_later().unwrap_or_default() {
        return;
    }
    let message = beginning(&message);
    let expected = path.or(mounts.termination_message_path.as_deref());
    let path = expected.map_or_else(|| PathBuf::from(TERMINATION_MESSAGE_PATH), Path::to_path_buf);
    match write(&path, message) {
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

/// As much of it as the kubelet takes, which is the end of the file (`MaxContainerTerminationMessageLength`,
/// `pkg/kubelet/container/runtime.go`): the beginning says what happened.
fn beginning(message: &str) -> &str {
    const MOST: usize = 4096;
    let end = (0..=MOST.min(message.len())).rev().find(|end| message.is_char_boundary(*end));
    &message[..end.unwrap_or(0)]
}

/// Writes to the file that the kubelet has made; none is created. Where it is a pipe nobody's reading is waited for: the exit code is more.
fn write(path: &Path, message: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).truncate(true).custom_flags(libc::O_NONBLOCK);
    options.open(path)?.write_all(message.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_keeps_its_beginning() {
        assert_eq!(beginning("proa: short\n"), "proa: short\n");
        let long = format!("proa: {}", "é".repeat(4000));
        assert!(beginning(&long).starts_with("proa: é"));
        assert_eq!(beginning(&long).len(), 4096, "and no character is cut");
        assert!(beginning(&format!("x{long}")).len() < 4096);
    }
}
