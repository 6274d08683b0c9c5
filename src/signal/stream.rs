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
            let Ok(number) = i32::try_from(info.ssi_signo) else { continue };
            let was_pending = |number| Origin::capture().was_pending(number);
            if let Some(received) = heard(number, info.ssi_code, info.ssi_pid, was_pending) {
                return Ok(Some(received));
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
    first_stop(Origin::pending(), phase)
}

/// The first of these that does: a bit for each number, that of 1 first.
fn first_stop(pending: u64, phase: Phase) -> Option<Signal> {
    let is_pending = |signal: &Signal| pending & 1 << (signal.number() - 1) != 0;
    Signal::all().filter(is_pending).find(|&signal| {
        let received = Received { signal, sender: Sender::Inside };
        reaction(phase, received) == Reaction::Stop
    })
}

/// What a signal is to us, by its number, code and sender (signalfd(2), `ssi_signo`, `ssi_code`, `ssi_pid`); `None`: nothing. `was_pending`: whether it
/// waited at our first instruction already.
fn heard(number: i32, code: i32, process: u32, was_pending: impl Fn(i32) -> bool) -> Option<Received> {
    // From ourselves it is of the program that we were before we executed proa. We send none; but the kernel sends them for what we
    // write: SIGPIPE where nobody reads stderr, SIGXFSZ where it is a file that may not grow. A blocked signal is queued even while
    // it is ignored. The command has no part in it, and a log line about it would raise the next.
    let is_of_an_earlier_program = || !matches!(number, libc::SIGPIPE | libc::SIGXFSZ) && was_pending(number);
    if process == std::process::id() && !is_of_an_earlier_program() {
        return None;
    }
    // Processes that this PID namespace does not show have no ID here (pid_namespaces(7)); nor has the kernel, which says so.
    let outside = process == 0 && code == libc::SI_USER;
    let sender = if outside { Sender::Outside } else { Sender::Inside };
    Some(Received { signal: Signal::from_number(number)?, sender })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_signal_that_waits_and_stops_is_found_among_those_that_do_not() {
        let bits = |signals: &[i32]| signals.iter().fold(0_u64, |bits, number| bits | 1 << (number - 1));
        let gate = Phase::Gate { stop: None };
        assert_eq!(first_stop(0, gate), None);
        assert_eq!(first_stop(bits(&[libc::SIGUSR1, libc::SIGCHLD, 64]), gate), None);
        assert_eq!(
            first_stop(bits(&[libc::SIGUSR1, libc::SIGTERM, libc::SIGCHLD]), gate),
            Some(Signal::TERM)
        );
        assert_eq!(first_stop(bits(&[libc::SIGHUP, libc::SIGTERM]), gate), Some(Signal::HUP));
        let last = Signal::from_number(64);
        assert_eq!(first_stop(bits(&[64]), Phase::Shutdown { stop: last }), last);
    }

    #[test]
    fn what_has_no_sender_here_is_the_runtimes_unless_the_kernel_sent_it() {
        let sender = |code, process| heard(libc::SIGTERM, code, process, |_| false).unwrap().sender;
        assert_eq!(sender(libc::SI_USER, 0), Sender::Outside);
        assert_eq!(sender(libc::SI_KERNEL, 0), Sender::Inside, "a terminal's");
        assert_eq!(sender(libc::SI_USER, std::process::id() + 1), Sender::Inside);
    }

    #[test]
    fn of_our_own_signals_only_an_earlier_programs_count() {
        let heard = |number, earlier| {
            let received = heard(number, libc::SI_USER, std::process::id(), |_| earlier);
            received.map(|received| received.signal)
        };
        assert_eq!(heard(libc::SIGTERM, true), Some(Signal::TERM));
        assert_eq!(heard(libc::SIGTERM, false), None);
        for raised in [libc::SIGPIPE, libc::SIGXFSZ] {
            assert_eq!(heard(raised, true), None, "for what we wrote");
        }
    }

    #[test]
    fn what_cannot_be_caught_is_not_heard() {
        for number in [0, libc::SIGKILL, libc::SIGSTOP, 32, 65] {
            assert_eq!(heard(number, libc::SI_USER, 0, |_| false), None, "{number}");
        }
    }

    #[test]
    fn without_a_command_some_signals_stop_proa_and_others_do_nothing() {
        let (gate, shutdown) = (Phase::Gate { stop: None }, Phase::Shutdown { stop: None });
        let inside =
            |number| Received { signal: Signal::from_number(number).unwrap(), sender: Sender::Inside };
        for phase in [gate, shutdown] {
            assert!(react(phase, inside(libc::SIGTERM)));
            assert!(!react(phase, inside(libc::SIGWINCH)) && !react(phase, inside(libc::SIGUSR1)));
        }
    }
}
