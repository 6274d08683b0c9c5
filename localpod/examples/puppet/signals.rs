//! Signals: reporting, ignoring, and ending by them.

use std::path::Path;

use nix::libc;
use nix::sys::signal::{SigHandler, SigSet, Signal, raise, signal};
use nix::sys::signalfd::SignalFd;
use nix::unistd::{getpgid, getpid, getsid};

use crate::{Failure, append, option};

/// The name of a signal by number, real-time ones relative to the first.
fn name(number: i32) -> String {
    match Signal::try_from(number) {
        Ok(signal) => signal.as_str().to_owned(),
        Err(_) => format!("SIGRTMIN+{}", number - libc::SIGRTMIN()),
    }
}

/// Prints every signal it is sent.
pub(crate) fn report(options: &[&str]) -> Result<i32, Failure> {
    let count: Option<usize> = option(options, "--count").map(str::parse).transpose()?;
    let log = option(options, "--log").map(Path::new);
    let say = |line: &str| -> Result<(), Failure> {
        // The log first: who has seen the line may rely on it being there, too.
        log.map_or(Ok(()), |log| append(log, line))?;
        println!("{line}");
        Ok(())
    };
    // Blocked before it says that it is ready, so that none is lost; the full set has the real-time signals, too.
    SigSet::all().thread_block()?;
    let signals = SignalFd::new(&SigSet::all())?;
    say(&format!("ready (pid {} pgid {} sid {})", getpid(), getpgid(None)?, getsid(None)?))?;
    let (mut seen, mut terms) = (0, 0);
    while count.map_or(terms < 2, |count| seen < count) {
        let Some(received) = signals.read_signal()? else { continue };
        let number = i32::try_from(received.ssi_signo)?;
        say(&format!("got {}", name(number)))?;
        seen += 1;
        terms += usize::from(number == Signal::SIGTERM as i32);
    }
    Ok(0)
}

/// Waits for SIGTERM or SIGINT, which must be blocked, and returns its name.
pub(crate) fn wait_for_stop() -> Result<&'static str, Failure> {
    Ok(stops().wait()?.as_str())
}

/// Blocks the signals that [`wait_for_stop`] waits for, in this thread and those it starts.
pub(crate) fn block_stops() -> Result<(), Failure> {
    Ok(stops().thread_block()?)
}

fn stops() -> SigSet {
    SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT])
}

pub(crate) fn ignore_term() -> Result<(), Failure> {
    stops().thread_block()?;
    println!("ready (pid {})", getpid());
    loop {
        std::thread::park();
    }
}

/// Ends by a signal, whatever was inherited for it.
#[expect(unsafe_code, reason = "dispositions cannot be set safely")]
pub(crate) fn die(name: &str) -> Result<i32, Failure> {
    let number: Signal = name.parse()?;
    if !matches!(number, Signal::SIGKILL | Signal::SIGSTOP) {
        // SAFETY: it sets no handler, only the default.
        unsafe { signal(number, SigHandler::SigDfl) }?;
    }
    SigSet::all().thread_unblock()?;
    raise(number)?;
    Err(format!("{name} does not end a process").into())
}
