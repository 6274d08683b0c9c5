//! What the matrix is made of: modes, their phases, and what goes wrong in them.

use std::fmt;

use localpod::cluster::Fault;

use super::trouble::{Api, Endpoint, Fate, Feature, Lasting, Process, Trouble, Work};

/// What proa is started as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mode {
    /// `proa -- COMMAND`
    Wrap,
    /// `proa wait`
    Wait,
    /// `proa quit`
    Quit,
    /// `proa sidecar -- COMMAND`
    Sidecar,
    /// `proa sidecar`
    Helper,
}

impl Mode {
    pub(crate) const ALL: [Self; 5] = [Self::Wrap, Self::Wait, Self::Quit, Self::Sidecar, Self::Helper];

    /// The container that proa runs in.
    pub(crate) fn container(self) -> &'static str {
        match self {
            Self::Wrap | Self::Wait | Self::Quit => "main",
            Self::Sidecar => "wrapped",
            Self::Helper => "helper",
        }
    }

    /// Whether it waits for the sidecars.
    pub(crate) fn has_gate(self) -> bool {
        matches!(self, Self::Wrap | Self::Wait)
    }

    /// Whether it asks the sidecar to exit.
    pub(crate) fn asks(self) -> bool {
        matches!(self, Self::Wrap | Self::Quit | Self::Helper)
    }

    /// Whether it runs until a main container has exited.
    pub(crate) fn accompanies(self) -> bool {
        matches!(self, Self::Sidecar | Self::Helper)
    }

    /// Whether it runs a command.
    pub(crate) fn has_command(self) -> bool {
        matches!(self, Self::Wrap | Self::Sidecar)
    }

    pub(crate) fn phases(self) -> &'static [Phase] {
        use Phase::{Drain, Exit, Gate, Identity, Running, Shutdown, Spawn, Start};
        match self {
            Self::Wrap => &[Start, Identity, Gate, Spawn, Running, Shutdown, Drain, Exit],
            Self::Wait => &[Start, Identity, Gate, Exit],
            Self::Quit => &[Start, Identity, Shutdown, Drain, Exit],
            Self::Sidecar => &[Start, Identity, Spawn, Running, Shutdown, Exit],
            Self::Helper => &[Start, Identity, Running, Shutdown, Drain, Exit],
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wrap => "proa -- COMMAND",
            Self::Wait => "proa wait",
            Self::Quit => "proa quit",
            Self::Sidecar => "proa sidecar -- COMMAND",
            Self::Helper => "proa sidecar",
        })
    }
}

/// What proa is doing when the fault strikes. Each begins with an event that shows from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Not started yet.
    Start,
    /// It searches for its Pod, since the hostname is not the Pod's name.
    Identity,
    /// It watches the Pod, and the sidecar is not ready.
    Gate,
    /// The command's process is there, and has yet to say anything.
    Spawn,
    /// The command runs; without one: it watches the main container.
    Running,
    /// Its request to exit has arrived and is not answered; `proa sidecar -- COMMAND`: its signal has.
    Shutdown,
    /// The request is answered, and proa watches for the sidecar's exit, which is yet to come.
    Drain,
    /// All that it waits for has happened and was shown to it, and it watches nothing any more.
    Exit,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "start",
            Self::Identity => "identity",
            Self::Gate => "gate",
            Self::Spawn => "spawn",
            Self::Running => "running",
            Self::Shutdown => "shutdown",
            Self::Drain => "drain",
            Self::Exit => "exit",
        })
    }
}

/// A run: this trouble in this phase of this mode.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cell {
    pub(crate) mode: Mode,
    pub(crate) phase: Phase,
    pub(crate) trouble: Trouble,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} / {} / {}", self.mode, self.phase, self.trouble)
    }
}

/// Whether a run of this mode ever makes a system call that is missing there, as strace shows; else the cell would show nothing.
fn meets(mode: Mode, process: Process) -> bool {
    match process {
        // A file is waited for by who has a gate.
        Process::Without(Feature::Inotify) => mode.has_gate(),
        // The proas of a Pod's containers find each other; these two have nobody who would look for them.
        Process::Without(Feature::UnixSockets) => !matches!(mode, Mode::Wait | Mode::Quit),
        // Orphans are collected by who stays.
        Process::Without(Feature::Prctl) => !matches!(mode, Mode::Wait | Mode::Quit),
        Process::NoFork | Process::Without(Feature::Clone3) => mode.has_command(),
        _ => true,
    }
}

/// Every cell that makes sense.
pub(crate) fn all() -> Vec<Cell> {
    let mut cells = Vec::new();
    for mode in Mode::ALL {
        for &phase in mode.phases() {
            let mut add = |trouble| cells.push(Cell { mode, phase, trouble });
            for api in Api::all() {
                // Ending what has not begun is nothing.
                let ends_nothing = phase == Phase::Start && matches!(api, Api::WatchEnded(_) | Api::HungUp);
                if ends_nothing {
                    continue;
                }
                if !api.is_instant() {
                    add(Trouble::Api(api.clone(), Lasting::ForEver));
                }
                // What asks to be left alone for a day is not taken at its word, but for longer than a run lasts.
                if !matches!(api, Api::Faulty(Fault::Throttle { retry_after: 86400, .. })) {
                    add(Trouble::Api(api, Lasting::Passing));
                }
            }
            for fate in Fate::ALL {
                add(Trouble::Fate(fate));
            }
            if phase == Phase::Shutdown && mode.asks() {
                for endpoint in Endpoint::ALL {
                    add(Trouble::Endpoint(endpoint));
                }
            }
            for process in Process::ALL {
                let at_start = phase == Phase::Start;
                if process.is_setting() == at_start && meets(mode, process) {
                    add(Trouble::Process(process));
                }
            }
            for work in Work::ALL {
                let phase_of = if work.is_brief() { Phase::Spawn } else { Phase::Running };
                let fits = mode == Mode::Wrap || mode == Mode::Sidecar && work == Work::IgnoresAll;
                if fits && phase == phase_of {
                    add(Trouble::Work(work));
                }
            }
            if mode.has_gate() && phase == Phase::Gate {
                add(Trouble::Crowd);
            }
        }
    }
    cells
}
