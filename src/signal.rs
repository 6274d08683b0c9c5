//! Signals as values, and what each one means in each phase.

pub mod origin;
pub mod reaper;
pub mod send;
pub mod stream;

use std::fmt;
use std::str::FromStr;

use nix::libc;

/// The number of the first real-time signal that programs may use. The C libraries keep 32 to 34 to
/// themselves (nptl(7): "the first two real-time signals"; musl takes three), so the numbering follows
/// theirs, which is what `kill -l` prints.
const REALTIME_FIRST: i32 = 34;
/// The last real-time signal (`SIGRTMAX`; signal(7)).
const REALTIME_LAST: i32 = 64;

/// A signal that a process can catch: every signal but `SIGKILL`, `SIGSTOP` and the two that the C
/// library keeps for itself. See signal(7).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signal(i32);

/// The standard signals by name. Numbers come from the C library, since they differ between architectures.
const STANDARD: [(&str, i32); 29] = [
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("STKFLT", libc::SIGSTKFLT),
    ("CHLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
    ("VTALRM", libc::SIGVTALRM),
    ("PROF", libc::SIGPROF),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
    ("PWR", libc::SIGPWR),
    ("SYS", libc::SIGSYS),
];

impl Signal {
    /// A child of ours stopped, continued or ended.
    pub const CHLD: Self = Self(libc::SIGCHLD);
    /// Continue if stopped.
    pub const CONT: Self = Self(libc::SIGCONT);
    /// The terminal hung up.
    pub const HUP: Self = Self(libc::SIGHUP);
    /// Interrupt from the keyboard.
    pub const INT: Self = Self(libc::SIGINT);
    /// Quit from the keyboard.
    pub const QUIT: Self = Self(libc::SIGQUIT);
    /// Asked to end; what the kubelet sends unless told otherwise.
    pub const TERM: Self = Self(libc::SIGTERM);
    /// Stop typed at the terminal.
    pub const TSTP: Self = Self(libc::SIGTSTP);
    /// Terminal input for a background process.
    pub const TTIN: Self = Self(libc::SIGTTIN);
    /// Terminal output of a background process.
    pub const TTOU: Self = Self(libc::SIGTTOU);

    /// Every signal there is in this domain, in ascending order of number.
    pub fn all() -> impl Iterator<Item = Self> {
        (1..=REALTIME_LAST).filter_map(Self::from_number)
    }

    /// The signal with this number, if it can be caught.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        let standard = STANDARD.iter().any(|&(_, n)| n == number);
        (standard || (REALTIME_FIRST..=REALTIME_LAST).contains(&number)).then_some(Self(number))
    }

    /// The number on this machine's architecture.
    #[must_use]
    pub const fn number(self) -> i32 {
        self.0
    }
}

/// `SIGTERM`, `SIGRTMIN+3`.
impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match STANDARD.iter().find(|&&(_, n)| n == self.0) {
            Some((name, _)) => write!(f, "SIG{name}"),
            None if self.0 == REALTIME_FIRST => write!(f, "SIGRTMIN"),
            None => write!(f, "SIGRTMIN+{}", self.0 - REALTIME_FIRST),
        }
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text names no signal that can be caught.
#[derive(Debug, PartialEq, Eq)]
pub struct UnknownSignal;

impl fmt::Display for UnknownSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected a signal that can be caught, such as TERM, SIGTERM, 15 or RTMIN+3")
    }
}

impl std::error::Error for UnknownSignal {}

/// Reads `TERM`, `SIGTERM`, `term`, `15`, `RTMIN`, `RTMIN+3` and `RTMAX-1`.
impl FromStr for Signal {
    type Err = UnknownSignal;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let upper = text.trim().to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let number = if let Some((_, number)) = STANDARD.iter().find(|&&(n, _)| n == name) {
            Some(*number)
        } else if let Some(offset) = name.strip_prefix("RTMIN") {
            realtime_offset(offset, '+').map(|n| REALTIME_FIRST + n)
        } else if let Some(offset) = name.strip_prefix("RTMAX") {
            realtime_offset(offset, '-').map(|n| REALTIME_LAST - n)
        } else if name == "POLL" {
            Some(libc::SIGIO)
        } else {
            name.parse().ok()
        };
        number.and_then(Self::from_number).ok_or(UnknownSignal)
    }
}

/// The `3` of `RTMIN+3`; nothing at all counts as 0.
fn realtime_offset(text: &str, sign: char) -> Option<i32> {
    if text.is_empty() {
        return Some(0);
    }
    let digits = text.strip_prefix(sign)?;
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().filter(|n| *n <= REALTIME_LAST)
}

/// A signal that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Which.
    pub signal: Signal,
    /// Who sent it.
    pub sender: Sender,
}

/// Who sent a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// A process of this PID namespace, or the kernel.
    Inside,
    /// A process that is not in sight from here, which in a container is its runtime: whoever signals by `kubectl exec` is
    /// inside.
    Outside,
}

impl Received {
    /// Whether this is how the runtime stops the container, as far as can be told. An image's own `STOPSIGNAL`, SIGQUIT or
    /// SIGWINCH say, the Pod shows only where the runtime reports it (KEP-4960).
    #[must_use]
    pub fn is_stop(self, stop: Option<Signal>) -> bool {
        let may_be_one = match self.signal {
            Signal::CHLD | Signal::CONT | Signal::TSTP | Signal::TTIN | Signal::TTOU => false,
            Signal(number) => number != libc::SIGURG,
        };
        self.signal == stop.unwrap_or(Signal::TERM) || (self.sender == Sender::Outside && may_be_one)
    }
}

/// What proa is doing when a signal arrives. `stop` is the container's own stop signal once the Pod has
/// told it: an image or the Pod (KEP-4960) may have chosen another than `SIGTERM`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for the sidecars.
    Gate {
        /// The signal with which the runtime stops this container.
        stop: Option<Signal>,
    },
    /// The command runs.
    Command,
    /// Ending the sidecars, or waiting for them to exit.
    Shutdown {
        /// The signal with which the runtime stops this container.
        stop: Option<Signal>,
    },
}

/// What follows from a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// Give up what is under way and end.
    Stop,
    /// Pass it to the command.
    Forward,
    /// Collect children that have changed state.
    Reap,
    /// Stop proa itself, as the default action would.
    Suspend,
    /// Nothing: its default action is to be ignored too.
    Ignore,
    /// Nothing, and to say so: the command that it is for does not exist yet, or no longer. As the container's first process
    /// it would have been protected from what it has no handler for (`pid_namespaces(7)`), and so it is here; a handler
    /// it cannot have before it runs.
    Drop,
}

/// What a signal means in a phase.
#[must_use]
pub fn reaction(phase: Phase, received: Received) -> Reaction {
    let signal = received.signal;
    if signal == Signal::CHLD {
        return Reaction::Reap;
    }
    match phase {
        Phase::Command => Reaction::Forward,
        Phase::Gate { stop } | Phase::Shutdown { stop } if received.is_stop(stop) => Reaction::Stop,
        Phase::Gate { .. } | Phase::Shutdown { .. } => match signal {
            Signal::TERM | Signal::INT | Signal::QUIT | Signal::HUP => Reaction::Stop,
            Signal::TSTP | Signal::TTIN | Signal::TTOU => Reaction::Suspend,
            // signal(7): ignored by default.
            Signal::CONT | Signal(libc::SIGWINCH | libc::SIGURG) => Reaction::Ignore,
            _ => Reaction::Drop,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_reads_back_from_its_name_and_number() {
        let all: Vec<_> = Signal::all().collect();
        assert_eq!(all.len(), 29 + 31);
        for signal in all {
            assert_eq!(signal.to_string().parse(), Ok(signal));
            assert_eq!(signal.number().to_string().parse(), Ok(signal));
            assert_eq!(format!("{signal:?}"), signal.to_string());
            assert_eq!(signal.to_string().trim_start_matches("SIG").to_lowercase().parse(), Ok(signal));
        }
    }

    #[test]
    fn real_time_signals_count_from_both_ends() {
        assert_eq!("RTMIN+3".parse(), Ok(Signal(37)));
        assert_eq!("RTMIN".parse(), Ok(Signal(34)));
        assert_eq!("SIGRTMAX-1".parse(), Ok(Signal(63)));
        assert_eq!("RTMAX".parse(), Ok(Signal(64)));
        assert_eq!("POLL".parse(), Ok(Signal(libc::SIGIO)));
        assert_eq!("RTMAX-30".parse(), Ok(Signal(34)));
        assert_eq!([34, 37, 64].map(|n| Signal(n).to_string()), ["SIGRTMIN", "SIGRTMIN+3", "SIGRTMIN+30"]);
    }

    #[test]
    fn what_cannot_be_caught_is_no_signal() {
        for text in [
            "",
            "KILL",
            "SIGSTOP",
            "9",
            "19",
            "0",
            "65",
            "33",
            "RTMIN+31",
            "RTMAX-31",
            "RTMIN-1",
            "RTMIN++1",
            "RTMIN+2147483647",
            "NOPE",
            "-15",
        ] {
            assert_eq!(text.parse::<Signal>(), Err(UnknownSignal), "{text:?}");
        }
        assert!(UnknownSignal.to_string().contains("TERM, SIGTERM, 15 or RTMIN+3"));
    }

    #[test]
    fn while_the_command_runs_everything_but_child_events_is_forwarded() {
        for signal in Signal::all() {
            let expected = if signal == Signal::CHLD { Reaction::Reap } else { Reaction::Forward };
            assert_eq!(reaction(Phase::Command, inside(signal)), expected, "{signal}");
        }
    }

    #[test]
    fn before_the_command_the_four_ends_stop_the_wait() {
        let gate = Phase::Gate { stop: None };
        for signal in Signal::all() {
            let stops = [Signal::TERM, Signal::INT, Signal::QUIT, Signal::HUP].contains(&signal);
            assert_eq!(reaction(gate, inside(signal)) == Reaction::Stop, stops, "{signal}");
        }
        assert_eq!(reaction(gate, inside(Signal(libc::SIGUSR1))), Reaction::Drop);
    }

    #[test]
    fn without_a_command_the_terminal_suspends_proa_and_news_of_it_are_ignored() {
        for phase in [Phase::Gate { stop: None }, Phase::Shutdown { stop: None }] {
            for signal in [Signal::TSTP, Signal::TTIN, Signal::TTOU] {
                assert_eq!(reaction(phase, inside(signal)), Reaction::Suspend, "{signal}");
            }
            for signal in [Signal::CONT, Signal(libc::SIGWINCH), Signal(libc::SIGURG)] {
                assert_eq!(reaction(phase, inside(signal)), Reaction::Ignore, "{signal}");
            }
        }
    }

    #[test]
    fn the_containers_own_stop_signal_stops_the_wait_too() {
        for stop in Signal::all().filter(|s| *s != Signal::CHLD) {
            assert_eq!(reaction(Phase::Gate { stop: Some(stop) }, inside(stop)), Reaction::Stop, "{stop}");
            assert_eq!(
                reaction(Phase::Shutdown { stop: Some(stop) }, inside(stop)),
                Reaction::Stop,
                "{stop}"
            );
        }
    }

    fn inside(signal: Signal) -> Received {
        Received { signal, sender: Sender::Inside }
    }

    #[test]
    fn what_the_runtime_sends_is_a_stop_whatever_the_image_calls_for() {
        let outside = |number| Received { signal: Signal(number), sender: Sender::Outside };
        for number in [libc::SIGTERM, libc::SIGQUIT, libc::SIGUSR1, libc::SIGWINCH, 37] {
            assert!(outside(number).is_stop(None), "{number}");
            assert_eq!(reaction(Phase::Gate { stop: None }, outside(number)), Reaction::Stop, "{number}");
            let is_default = number == libc::SIGTERM;
            assert_eq!(inside(Signal(number)).is_stop(None), is_default, "{number}");
        }
        for number in [libc::SIGCONT, libc::SIGCHLD, libc::SIGTSTP, libc::SIGURG] {
            assert!(!outside(number).is_stop(None), "{number}");
        }
    }

    #[test]
    fn after_the_command_nothing_is_kept_for_it() {
        for signal in Signal::all() {
            let found = reaction(Phase::Shutdown { stop: None }, inside(signal));
            assert_ne!(found, Reaction::Forward, "{signal}");
        }
    }
}
