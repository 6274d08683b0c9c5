//! The one receiver of proa's own signals.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::Signal;
use super::origin::Origin;

/// Every catchable signal sent to proa, in the order in which the kernel gives them out: standard
/// signals before real-time ones, lowest number first (signal(7)). Equal standard signals that arrive
/// before the first is read merge into one, as they do for any process.
pub struct Signals {
    file: SignalFd,
}

impl Signals {
    /// Opens the receiver. Nothing sent since the process's first instruction is missed, since all
    /// signals have been blocked, and so kept, from there on.
    ///
    /// # Errors
    /// Those of signalfd(2).
    pub fn register() -> io::Result<Self> {
        Origin::capture();
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self { file: SignalFd::with_flags(&SigSet::all(), flags)? })
    }

    /// Listens within the current runtime.
    ///
    /// # Errors
    /// When the runtime cannot watch the file descriptor.
    #[expect(unsafe_code, reason = "the runtime wants a promise that the descriptor stays open")]
    pub fn listen(&self) -> io::Result<Listener<'_>> {
        let file = self.file.as_fd();
        // SAFETY: the descriptor is borrowed from `self`, which outlives the listener and never closes or
        // replaces it before it is dropped.
        let ready = unsafe { AsyncFd::register_with_interest(file, Interest::READABLE) };
        Ok(Listener { signals: self, ready: ready? })
    }
}

/// A [`Signals`] bound to a runtime.
pub struct Listener<'a> {
    signals: &'a Signals,
    ready: AsyncFd<BorrowedFd<'a>>,
}

impl Listener<'_> {
    /// The next signal. Dropping the future before it is ready loses none.
    ///
    /// # Errors
    /// Those of reading a signalfd(2).
    pub async fn next(&mut self) -> io::Result<Signal> {
        loop {
            let mut ready = self.ready.readable().await?;
            match self.signals.file.read_signal()? {
                // A broken pipe of ours (stderr gone, say) raises SIGPIPE in us, and a blocked signal is
                // queued even while it is ignored. The command has no part in it.
                Some(info) if info.ssi_pid == std::process::id() => {}
                Some(info) => {
                    if let Some(signal) = i32::try_from(info.ssi_signo).ok().and_then(Signal::from_number) {
                        return Ok(signal);
                    }
                }
                None => ready.clear_ready(),
            }
        }
    }
}
