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

/// Signals whose disposition proa cannot leave alone: the runtime ignores `SIGPIPE`, and with `SIGCHLD`
/// ignored the kernel reaps children behind our back (wait(2), "`ECHILD`").
const RESET: [i32; 2] = [libc::SIGPIPE, libc::SIGCHLD];

/// The signal state at the first instruction.
pub struct Origin {
    mask: libc::sigset_t,
    ignored: [bool; RESET.len()],
}

static ORIGIN: OnceLock<Origin> = OnceLock::new();

/// Runs before `main`, and before the runtime's own start-up code.
#[cfg(not(test))]
#[expect(unsafe_code, reason = "the only code that runs before the runtime is a constructor")]
// SAFETY: the linker and the C library call every function of this section once, before main, while
// the process has a single thread; the function uses async-signal-safe calls and a OnceLock alone.
#[unsafe(link_section = ".init_array")]
#[used]
static CONSTRUCTOR: extern "C" fn() = {
    extern "C" fn constructor() {
        Origin::capture();
    }
    constructor
};

impl Origin {
    /// The state at the first instruction; every signal is blocked from then on.
    pub fn capture() -> &'static Self {
        ORIGIN.get_or_init(Self::read_and_block)
    }

    #[expect(unsafe_code, reason = "nix's SigSet cannot be copied in a forked child without its own checks")]
    fn read_and_block() -> Self {
        let ignored = RESET.map(|signal| {
            let mut old = MaybeUninit::<libc::sigaction>::zeroed();
            // SAFETY: a null new action only reads; `old` is a valid place for one sigaction.
            let failed = unsafe { libc::sigaction(signal, std::ptr::null(), old.as_mut_ptr()) };
            // SAFETY: zeroed is a valid sigaction, and the call above filled it where it succeeded.
            let old = unsafe { old.assume_init() };
            failed == 0 && old.sa_sigaction == libc::SIG_IGN
        });
        let mut every = MaybeUninit::<libc::sigset_t>::zeroed();
        let mut mask = MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: `every` is a valid place for one sigset_t.
        unsafe { libc::sigfillset(every.as_mut_ptr()) };
        // SAFETY: both point to initialised sets; blocking has no other precondition.
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, every.as_ptr(), mask.as_mut_ptr()) };
        // SAFETY: SIG_DFL is a valid disposition for SIGCHLD.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
        Self {
            // SAFETY: zeroed is a valid (empty) set, and the call above stored the old one.
            mask: unsafe { mask.assume_init() },
            ignored,
        }
    }

    /// Puts dispositions and mask back, in that order: once the mask is open, a pending signal acts.
    ///
    /// For a forked child before it executes another program; only async-signal-safe calls are made
    /// (signal-safety(7)).
    ///
    /// # Errors
    /// Those of sigprocmask(2).
    #[expect(unsafe_code, reason = "runs between fork and exec, where only plain system calls are allowed")]
    pub fn restore(&self) -> io::Result<()> {
        for (signal, ignored) in RESET.into_iter().zip(self.ignored) {
            let disposition = if ignored { libc::SIG_IGN } else { libc::SIG_DFL };
            // SAFETY: both dispositions are valid for these signals; no handler is installed.
            unsafe { libc::signal(signal, disposition) };
        }
        // SAFETY: `mask` is an initialised set; a null old set is allowed.
        let failed =
            unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const self.mask, std::ptr::null_mut()) };
        if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// Blocks every signal in the calling process, for a forked child that is about to move between
/// process groups of a terminal.
#[expect(unsafe_code, reason = "runs between fork and exec, where only plain system calls are allowed")]
pub(crate) fn block_all() {
    let mut every = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: `every` is a valid place for one sigset_t.
    unsafe { libc::sigfillset(every.as_mut_ptr()) };
    // SAFETY: `every` is initialised; a null old set is allowed.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, every.as_ptr(), std::ptr::null_mut()) };
}
