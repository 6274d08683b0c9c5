//! What the matrix is made of: modes, their phases, faults, and how long a fault lasts.

use std::fmt;

use localpod::cluster::{Fault, WatchEnd};

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

    fn phases(self) -> &'static [Phase] {
        use Phase::{Drain, Gate, Running, Shutdown, Start};
        match self {
            Self::Wrap => &[Start, Gate, Running, Shutdown, Drain],
            Self::Wait => &[Start, Gate],
            Self::Quit => &[Start, Shutdown, Drain],
            Self::Sidecar => &[Start, Running, Shutdown],
            Self::Helper => &[Start, Running, Shutdown, Drain],
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
    /// It watches the Pod, and the sidecar is not ready.
    Gate,
    /// The command runs; without one: it watches the main container.
    Running,
    /// Its request to exit has arrived and is not answered; `proa sidecar -- COMMAND`: its signal has.
    Shutdown,
    /// The request is answered, and the sidecar has yet to exit.
    Drain,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "start",
            Self::Gate => "gate",
            Self::Running => "running",
            Self::Shutdown => "shutdown",
            Self::Drain => "drain",
        })
    }
}

/// What is wrong with the API server.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Api {
    /// Every connection or request meets this.
    Faulty(Fault),
    /// No connection is accepted.
    Refused,
    /// Watches go silent, with their connections open.
    Silent,
    /// Every watch is ended so, once.
    WatchEnded(WatchEnd),
    /// Every connection is closed, once.
    HungUp,
    /// It shows a certificate of another authority.
    OtherAuthority,
    /// There is no token.
    NoToken,
    /// The token is not accepted.
    BadToken,
    /// A new token is issued, and the old one is not accepted any more.
    TokenRotated,
    /// The Pod's object is five megabytes.
    HugePod,
}

/// What becomes of the Pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is being deleted.
    Deleted,
    /// It is gone.
    Removed,
    /// Another has its name.
    Replaced,
    /// The sidecar is killed for want of memory.
    OutOfMemory,
    /// The sidecar is ready, unready, ready, ten times.
    Flapping,
    /// The kubelet has reported nothing.
    NoStatus,
}

/// What the sidecar's quit endpoint does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// Never answers.
    Mute,
    /// Answers with a body that never ends.
    EndlessBody,
    /// Answers a byte a second, without end.
    Trickle,
    /// Says that it is going on, without end.
    Informational,
    /// Answers with headers without end.
    EndlessHeaders,
    /// Sends elsewhere.
    Redirect,
    /// Answers with this status.
    Status(u16),
    /// Answers with 503 twice, then with 200.
    BusyAtFirst,
    /// Answers with what is no HTTP.
    NoHttp,
    /// Resets the connection.
    Reset,
    /// Answers with 200, and the sidecar does not exit.
    AcceptsAndStays,
    /// Exits without an answer.
    ExitsWithoutAnswer,
    /// The sidecar is gone, and another server answers with 404 at its port.
    TakenOver,
}

/// What happens to proa's own process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Process {
    /// Stdin, stdout and stderr are closed.
    NoStdio,
    /// Stderr is a full pipe that nobody reads.
    FullStderr,
    /// /proc is empty.
    NoProc,
    /// It may open few files.
    FewFiles,
    /// A hundred signals, of all kinds that have no meaning for proa.
    Noise,
    /// SIGTERM.
    Terminated,
    /// SIGSTOP, then SIGCONT.
    Stopped,
    /// SIGKILL, as a container's first process; then it is started again.
    Killed,
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Trouble {
    Api(Api, Lasting),
    Fate(Fate),
    Endpoint(Endpoint),
    Process(Process),
}

/// How long the API server's trouble lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lasting {
    /// For three connections or requests; a condition, for two seconds.
    Passing,
    /// Until proa has ended.
    ForEver,
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

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Api(api, Lasting::Passing) => write!(f, "API {}, passing", api.name()),
            Self::Api(api, Lasting::ForEver) => write!(f, "API {}, for ever", api.name()),
            Self::Fate(fate) => write!(f, "Pod {}", fate.name()),
            Self::Endpoint(endpoint) => write!(f, "endpoint {}", endpoint.name()),
            Self::Process(process) => write!(f, "process {}", process.name()),
        }
    }
}

impl Api {
    fn all() -> Vec<Self> {
        let faults = [
            Fault::Reset,
            Fault::StallHandshake,
            Fault::StallAfterHeaders,
            Fault::Endless,
            Fault::Trickle,
            Fault::Answer("{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"name\":\"po"),
            Fault::Answer("not JSON\n"),
            Fault::Answer("{\"type\":\"ADDED\",\"object\":{\"kind\":\"Pod\",\"spec\":7}}\n"),
            Fault::Answer("<html><body>Sign in</body></html>\n"),
            Fault::Page(502),
            Fault::Status(400),
            Fault::Status(401),
            Fault::Status(403),
            Fault::Status(404),
            Fault::Status(410),
            Fault::Status(500),
            Fault::Status(503),
            Fault::Throttle { code: 429, retry_after: 1 },
            Fault::Throttle { code: 429, retry_after: 86400 },
        ];
        let ends = [
            WatchEnd::Close,
            WatchEnd::Abort,
            WatchEnd::expired(),
            WatchEnd::Error { code: 500, message: "no".into() },
        ];
        let mut all: Vec<_> = faults.into_iter().map(Self::Faulty).collect();
        all.extend(ends.into_iter().map(Self::WatchEnded));
        all.extend([
            Self::Refused,
            Self::Silent,
            Self::HungUp,
            Self::OtherAuthority,
            Self::NoToken,
            Self::BadToken,
            Self::TokenRotated,
            Self::HugePod,
        ]);
        all
    }

    /// Whether it is over as soon as it has happened.
    pub(crate) fn is_instant(&self) -> bool {
        matches!(self, Self::WatchEnded(_) | Self::HungUp | Self::TokenRotated | Self::HugePod)
    }

    fn name(&self) -> String {
        match self {
            Self::Faulty(Fault::Reset) => "resets".into(),
            Self::Faulty(Fault::StallHandshake) => "accepts, and no TLS".into(),
            Self::Faulty(Fault::StallAfterHeaders) => "headers, then silence".into(),
            Self::Faulty(Fault::Endless) => "endless line".into(),
            Self::Faulty(Fault::Trickle) => "a byte a second".into(),
            Self::Faulty(Fault::Answer(text)) => format!("answers {:?}", &text[..text.len().min(9)]),
            Self::Faulty(Fault::Page(code)) => format!("{code} with HTML"),
            Self::Faulty(Fault::Status(code)) => format!("{code}"),
            Self::Faulty(Fault::Throttle { code, retry_after }) => {
                format!("{code}, Retry-After {retry_after}")
            }
            Self::Faulty(Fault::Delay(delay)) => format!("answers after {delay:?}"),
            Self::Faulty(Fault::LateEvents(delay)) => format!("events after {delay:?}"),
            Self::Faulty(Fault::StallConsistent) => "silent but for its cache".into(),
            Self::Refused => "refuses".into(),
            Self::Silent => "black hole".into(),
            Self::WatchEnded(WatchEnd::Close) => "ends the watch".into(),
            Self::WatchEnded(WatchEnd::Abort) => "breaks the watch off".into(),
            Self::WatchEnded(WatchEnd::Error { code, .. }) => format!("ends the watch with {code}"),
            Self::HungUp => "hangs up".into(),
            Self::OtherAuthority => "other authority".into(),
            Self::NoToken => "without a token".into(),
            Self::BadToken => "with a bad token".into(),
            Self::TokenRotated => "token rotated".into(),
            Self::HugePod => "Pod of 5 MB".into(),
        }
    }
}

impl Fate {
    const ALL: [Self; 6] =
        [Self::Deleted, Self::Removed, Self::Replaced, Self::OutOfMemory, Self::Flapping, Self::NoStatus];

    fn name(self) -> &'static str {
        match self {
            Self::Deleted => "being deleted",
            Self::Removed => "removed",
            Self::Replaced => "replaced",
            Self::OutOfMemory => "sidecar out of memory",
            Self::Flapping => "sidecar flapping",
            Self::NoStatus => "without status",
        }
    }
}

impl Endpoint {
    const ALL: [Self; 15] = [
        Self::Mute,
        Self::EndlessBody,
        Self::Trickle,
        Self::Informational,
        Self::EndlessHeaders,
        Self::Redirect,
        Self::Status(404),
        Self::Status(403),
        Self::Status(500),
        Self::BusyAtFirst,
        Self::NoHttp,
        Self::Reset,
        Self::AcceptsAndStays,
        Self::ExitsWithoutAnswer,
        Self::TakenOver,
    ];

    fn name(self) -> String {
        match self {
            Self::Mute => "mute".into(),
            Self::EndlessBody => "endless body".into(),
            Self::Trickle => "a byte a second".into(),
            Self::Informational => "1xx without end".into(),
            Self::EndlessHeaders => "headers without end".into(),
            Self::Redirect => "redirects".into(),
            Self::Status(code) => format!("{code}"),
            Self::BusyAtFirst => "503 twice".into(),
            Self::NoHttp => "no HTTP".into(),
            Self::Reset => "resets".into(),
            Self::AcceptsAndStays => "200, and stays".into(),
            Self::ExitsWithoutAnswer => "exits, and no answer".into(),
            Self::TakenOver => "taken over by another".into(),
        }
    }

    /// Whether the sidecar exits in the end.
    pub(crate) fn exits(self) -> bool {
        matches!(self, Self::BusyAtFirst | Self::ExitsWithoutAnswer | Self::TakenOver)
    }
}

impl Process {
    const ALL: [Self; 8] = [
        Self::NoStdio,
        Self::FullStderr,
        Self::NoProc,
        Self::FewFiles,
        Self::Noise,
        Self::Terminated,
        Self::Stopped,
        Self::Killed,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::NoStdio => "without stdin, stdout, stderr",
            Self::FullStderr => "stderr full",
            Self::NoProc => "empty /proc",
            Self::FewFiles => "12 files at most",
            Self::Noise => "a hundred signals",
            Self::Terminated => "SIGTERM",
            Self::Stopped => "SIGSTOP",
            Self::Killed => "SIGKILL, started again",
        }
    }

    /// Whether it can only be there from the start on.
    fn is_setting(self) -> bool {
        matches!(self, Self::NoStdio | Self::FullStderr | Self::NoProc | Self::FewFiles)
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
                if process.is_setting() == at_start {
                    add(Trouble::Process(process));
                }
            }
        }
    }
    cells
}
