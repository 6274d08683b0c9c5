//! What proa was started with: the signal mask, and which signals were ignored.
//!
//! The command gets both back. They must be read before the language runtime starts, since it ignores
//! `SIGPIPE` on its way to `main`. At the same moment every signal is blocked: a blocked signal is kept
//! by the kernel until it is read, even for PID 1, for which an unblocked one without a handler is
//! dropped (`sig_task_ignored` in kernel/signal.c). So there is no instant at which a signal is lost.

use std::io;
use std::mem::MaybeUninit;
use std::sync::OnceLock;

use nix::libc;
use nix::sys::signal::{SigSet, Signal as NixSignal};

/// The signal state at the first instruction.
pub struct Origin {
    /// A bit for each number, that of 1 first.
    mask: u64,
    pipe_ignored: bool,
    child_ignored: bool,
    /// Likewise.
    pending: u64,
}

/// All but the two that every C library needs for itself, as the kernel has it: a bit for each number, that of 1 first. That `SIGKILL` and
/// `SIGSTOP` cannot be blocked does no harm (sigprocmask(2), signalfd(2)).
const EVERY: u64 = !(0b11 << (32 - 1));

static ORIGIN: OnceLock<Origin> = OnceLock::new();

impl Origin {
    /// The state at the first instruction; every signal is blocked from then on.
    pub fn capture() -> &'static Self {
        ORIGIN.get_or_init(|| {
            let pipe_ignored = is_ignored(libc::SIGPIPE);
            let child_ignored = is_ignored(libc::SIGCHLD);
            // Where it fails, `block` says so.
            let mask = swap_mask(EVERY).unwrap_or(0);
            // After that: none of the program that this process was comes later.
            let pending = Self::pending();
            // Ignored, it would have the kernel collect children behind our back (wait(2), "ECHILD").
            set_disposition(libc::SIGCHLD, libc::SIG_DFL);
            Self { mask, pipe_ignored, child_ignored, pending }
        })
    }

    /// Has every signal blocked, whatever has happened to the mask: one that is not would be lost, the news of the command's end among
    /// them.
    ///
    /// # Errors
    /// Those of sigprocmask(2), which only a system has that forbids it.
    pub fn block() -> io::Result<()> {
        swap_mask(EVERY).map(drop)
    }

    /// The signals that wait to be read: a bit for each number, that of 1 first.
    #[expect(unsafe_code, reason = "nix knows no real-time signals")]
    #[must_use]
    pub fn pending() -> u64 {
        let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: `set` is a valid place for one set.
        unsafe { libc::sigpending(set.as_mut_ptr()) };
        // SAFETY: zeroed is an empty set, and the call above filled it unless it failed.
        let set = unsafe { set.assume_init() };
        // SAFETY: reads a valid set; a number that is none is said to be by an error, which is not 1.
        let is_member = |number: i32| unsafe { libc::sigismember(&raw const set, number) } == 1;
        (1..=64).filter(|number| is_member(*number)).fold(0, |bits, number| bits | 1 << (number - 1))
    }

    /// Whether this one waited to be read already.
    #[must_use]
    pub fn was_pending(&self, number: i32) -> bool {
        (1..=64).contains(&number) && self.pending & 1 << (number - 1) != 0
    }

    /// The signals that were blocked.
    #[must_use]
    pub fn mask(&self) -> SigSet {
        set_of(self.mask)
    }

    /// Those that we ignore and that were not ignored.
    #[must_use]
    pub fn defaults(&self) -> SigSet {
        let mut defaults = SigSet::empty();
        if !self.pipe_ignored {
            defaults.add(NixSignal::SIGPIPE);
        }
        defaults
    }

    /// Whether the state can be restored only from within the child: what is spawned can be told to set a
    /// signal to its default, not to ignore it (`posix_spawn(3)`).
    #[must_use]
    pub fn needs_fork(&self) -> bool {
        self.child_ignored
    }

    /// Puts dispositions and mask back, in that order: once the mask is open, a pending signal acts.
    ///
    /// For a forked child before it executes another program; only async-signal-safe calls are made
    /// (signal-safety(7)).
    ///
    /// # Errors
    /// Those of sigprocmask(2).
    pub fn restore(&self) -> io::Result<()> {
        for (signal, ignored) in [(libc::SIGPIPE, self.pipe_ignored), (libc::SIGCHLD, self.child_ignored)] {
            set_disposition(signal, if ignored { libc::SIG_IGN } else { libc::SIG_DFL });
        }
        swap_mask(self.mask).map(drop)
    }
}

/// Every signal that there is for us. What the C library calls all of them lacks those that it keeps for itself: with musl that is one
/// more than with others, 34, which is what container runtimes send for `SIGRTMIN`.
#[must_use]
pub fn every_signal() -> SigSet {
    set_of(EVERY)
}

#[expect(unsafe_code, reason = "the C library adds no signal to a set that it keeps for itself")]
fn set_of(bits: u64) -> SigSet {
    const WORDS: usize = size_of::<libc::sigset_t>() / size_of::<u64>();
    let mut words = [0; WORDS];
    words[0] = bits;
    // SAFETY: a set is an array of bits, which begins with those that the kernel has.
    let set = unsafe { std::mem::transmute::<[u64; WORDS], libc::sigset_t>(words) };
    // SAFETY: none of its bits is unset.
    unsafe { SigSet::from_sigset_t_unchecked(set) }
}

/// Sets this thread's mask; the one before. By the system call itself: what the C library keeps for itself it takes out of masks on their way.
#[expect(unsafe_code, reason = "the C library changes masks")]
fn swap_mask(mask: u64) -> io::Result<u64> {
    let mut before = 0_u64;
    let (new, old) = (&raw const mask, &raw mut before);
    // SAFETY: both are as large as the size says, which is that of the kernel's sets (sigprocmask(2), "C library/kernel differences").
    let failed =
        unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, new, old, size_of::<u64>()) };
    if failed == 0 { Ok(before) } else { Err(io::Error::last_os_error()) }
}

#[expect(unsafe_code, reason = "nix reads a disposition only by setting one")]
fn is_ignored(signal: i32) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null new action only reads; `action` is a valid place for one sigaction.
    let failed = unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) };
    // SAFETY: zeroed is a valid sigaction, and the call above filled it where it succeeded.
    let action = unsafe { action.assume_init() };
    failed == 0 && action.sa_sigaction == libc::SIG_IGN
}

#[expect(unsafe_code, reason = "changing a disposition is unsafe, since it may install a handler")]
fn set_disposition(signal: i32, disposition: libc::sighandler_t) {
    // SAFETY: callers pass SIG_DFL or SIG_IGN: no handler is installed.
    unsafe { libc::signal(signal, disposition) };
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::raise;

    use super::*;
    use crate::signal::Signal;

    fn origin(pipe_ignored: bool, child_ignored: bool, pending: u64) -> Origin {
        Origin { mask: 0, pipe_ignored, child_ignored, pending }
    }

    #[test]
    fn every_signal_that_can_be_caught_is_blocked() {
        let bit = |number: i32| 1_u64 << (number - 1);
        assert!(Signal::all().all(|signal| EVERY & bit(signal.number()) != 0));
        // Those the C library needs for itself (nptl(7)).
        assert!([32, 33].into_iter().all(|number| EVERY & bit(number) == 0));
    }

    /// On a thread of its own, whose mask it is.
    #[test]
    fn a_mask_is_set_whole_and_the_one_before_it_is_told() {
        std::thread::spawn(|| {
            let bit = |number: i32| 1_u64 << (number - 1);
            let some = bit(libc::SIGTERM) | bit(34);
            let before = swap_mask(some).unwrap();
            assert_eq!(swap_mask(EVERY).unwrap(), some);
            assert_eq!(swap_mask(before).unwrap(), EVERY & !bit(libc::SIGKILL) & !bit(libc::SIGSTOP));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn what_waited_at_the_first_instruction_is_told_by_its_number() {
        let origin = origin(false, false, 1 | 1 << 14 | 1 << 63);
        for (number, waited) in [
            (libc::SIGHUP, true),
            (libc::SIGTERM, true),
            (64, true),
            (libc::SIGINT, false),
            (libc::SIGSTKFLT, false),
            (0, false),
            (65, false),
            (-1, false),
        ] {
            assert_eq!(origin.was_pending(number), waited, "{number}");
        }
    }

    /// The language runtime has ignored it meanwhile.
    #[test]
    fn sigpipe_is_put_back_unless_it_was_ignored_from_the_start() {
        let (put_back, ignored) = (origin(false, true, 0), origin(true, false, 0));
        assert!(
            put_back.defaults().contains(NixSignal::SIGPIPE)
                && !ignored.defaults().contains(NixSignal::SIGPIPE)
        );
        assert!(put_back.needs_fork() && !ignored.needs_fork(), "which an ignored SIGCHLD alone takes");
    }

    /// On a thread of its own, with which the signal goes.
    #[test]
    fn a_signal_that_waits_is_the_bit_of_its_number() {
        std::thread::spawn(|| {
            let bits = |signal: NixSignal| 1_u64 << (signal as i32 - 1);
            let both = bits(NixSignal::SIGUSR1) | bits(NixSignal::SIGUSR2);
            SigSet::all().thread_block().unwrap();
            raise(NixSignal::SIGUSR2).unwrap();
            assert_eq!(Origin::pending() & both, bits(NixSignal::SIGUSR2));
        })
        .join()
        .unwrap();
    }
}
