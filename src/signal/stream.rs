//! The one receiver of proa's own signals.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::libc;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::yield_now;
use tracing::info;

use super::origin::{Origin, every_signal};
use super::send::suspend_self;
use super::{Phase, Reaction, Received, Sender, Signal, reaction, reaper};
use crate::shortage::outlast;

/// How many signals are read before everything else has its turn.
const IN_A_ROW: u32 = 64;

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
    /// Those of signalfd(2) and sigprocmask(2).
    pub fn register() -> io::Result<Self> {
        Origin::capture();
        Origin::block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self { file: SignalFd::with_flags(&every_signal(), flags)? })
    }

    /// A signal that has come by now.
    fn read(&self) -> io::Result<Option<Received>> {
        // One that fails says nothing of the next; who takes it for the end leaves the command running.
        while let Some(info) = outlast(|| Ok(self.file.read_signal()?))? {
            let number = i32::try_from(info.ssi_signo).ok();
            if info.ssi_pid == std::process::id() && !number.is_some_and(is_of_an_earlier_program) {
                continue;
            }
            if let Some(signal) = number.and_then(Signal::from_number) {
                // Processes that this PID namespace does not show have no ID here (pid_namespaces(7)); nor has the
                // kernel, which says so.
                let outside = info.ssi_pid == 0 && info.ssi_code == libc::SI_USER;
                let sender = if outside { Sender::Outside } else { Sender::Inside };
                return Ok(Some(Received { signal, sender }));
            }
        }
        Ok(None)
    }

    /// Listens within the current runtime.
    ///
    /// # Errors
    /// When the runtime cannot watch the file descriptor.
    pub fn listen(&self) -> io::Result<Listener<'_>> {
        outlast(|| self.try_listen())
    }

    /// The same, at the first attempt.
    ///
    /// # Errors
    /// When the runtime cannot watch the file descriptor.
    #[expect(unsafe_code, reason = "the runtime wants a promise that the descriptor stays open")]
    pub fn try_listen(&self) -> io::Result<Listener<'_>> {
        // SAFETY: the descriptor is borrowed from `self`, which outlives the listener and never closes or
        // replaces it before it is dropped.
        let ready = unsafe { AsyncFd::register_with_interest(self.file.as_fd(), Interest::READABLE) };
        Ok(Listener { signals: self, ready: ready?, count: 0 })
    }
}

/// A signal that waits to be read and asks proa to stop even if it is from inside. It stays where it is.
#[must_use]
pub fn pending_stop(phase: Phase) -> Option<Signal> {
    let pending = Origin::pending();
    let is_pending = |signal: &Signal| pending & 1 << (signal.number() - 1) != 0;
    Signal::all().filter(is_pending).find(|&signal| {
        let received = Received { signal, sender: Sender::Inside };
        reaction(phase, received) == Reaction::Stop
    })
}

/// Whether a signal that this process sent itself is of the program that it was before it executed proa. We send none; but the
/// kernel sends them for what we write: SIGPIPE where nobody reads stderr, SIGXFSZ where it is a file that may not grow. A blocked
/// signal is queued even while it is ignored. The command has no part in it, and a log line about it would raise the next.
fn is_of_an_earlier_program(number: i32) -> bool {
    !matches!(number, libc::SIGPIPE | libc::SIGXFSZ) && Origin::capture().was_pending(number)
}

/// A [`Signals`] bound to a runtime.
pub struct Listener<'a> {
    signals: &'a Signals,
    ready: AsyncFd<BorrowedFd<'a>>,
    /// How many have been asked for.
    count: u32,
}

impl Listener<'_> {
    /// The next signal. Dropping the future before it is ready loses none.
    ///
    /// # Errors
    /// Those of reading a signalfd(2).
    pub async fn next(&mut self) -> io::Result<Received> {
        // Whoever sends them faster than they are read keeps nothing else from its turn.
        self.count = self.count.wrapping_add(1);
        if self.count.is_multiple_of(IN_A_ROW) {
            yield_now().await;
        }
        loop {
            let mut ready = self.ready.readable().await?;
            match self.signals.read()? {
                Some(received) => return Ok(received),
                None => ready.clear_ready(),
            }
        }
    }

    /// Waits until a signal asks proa to stop, and does meanwhile what the others call for while there is no command.
    ///
    /// # Errors
    /// Those of [`Listener::next`].
    pub async fn stop(&mut self, phase: Phase) -> io::Result<Received> {
        loop {
            let received = self.next().await?;
            if react(phase, received) {
                return Ok(received);
            }
        }
    }

    /// The same for the signals that have come by now, without waiting for more.
    ///
    /// # Errors
    /// Those of [`Listener::next`].
    pub fn stopped(&mut self, phase: Phase) -> io::Result<Option<Received>> {
        // More than can wait at once of those that stop a container by default, which come first: their numbers are lower.
        for _ in 0..IN_A_ROW {
            match self.signals.read()? {
                Some(received) if react(phase, received) => return Ok(Some(received)),
                Some(_) => {}
                None => break,
            }
        }
        Ok(None)
    }
}

/// Does what a signal calls for while there is no command. Whether that is to stop.
fn react(phase: Phase, received: Received) -> bool {
    let signal = received.signal;
    match reaction(phase, received) {
        Reaction::Stop => return true,
        Reaction::Reap => reaper::reap_orphans(),
        Reaction::Suspend => suspend_self(),
        Reaction::Drop if matches!(phase, Phase::Gate { .. }) => {
            info!("{signal} came before the command: not passed on");
        }
        Reaction::Drop | Reaction::Forward | Reaction::Ignore => {}
    }
    false
}
