//! What can go wrong, and how long it lasts.

use std::fmt;

use localpod::cluster::{Fault, WatchEnd};

const TRUNCATED: &str = "{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"name\":\"po";
const NO_JSON: &str = "not JSON\n";
const NO_POD: &str = "{\"type\":\"ADDED\",\"object\":{\"kind\":\"Pod\",\"spec\":7}}\n";

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
    /// The token is not accepted any more, and there is no other yet.
    TokenExpired,
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
    /// The containers were started years from now: the node's clock has been set back since.
    StartedAhead,
    /// The containers were started years ago: the node's clock has been set forward since.
    StartedBehind,
    /// It is being deleted, and to be gone in years: the API server's clock is ahead.
    DeletedAhead,
    /// It is being deleted, and was to be gone years ago: the API server's clock is behind.
    DeletedBehind,
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
    /// /proc shows other users' processes to nobody.
    HiddenProc,
    /// What /proc says of this process is nothing.
    MaskedProc,
    /// It may open few files.
    FewFiles,
    /// No process and no thread can be made.
    NoFork,
    /// The system has no such feature.
    Without(Feature),
    /// A hundred signals, of all kinds that have no meaning for proa.
    Noise,
    /// SIGTERM.
    Terminated,
    /// SIGSTOP, then SIGCONT.
    Stopped,
    /// SIGKILL, as a container's first process; then it is started again.
    Killed,
}

/// What a kernel, an emulation of one, or a filter of system calls may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Feature {
    /// `inotify_init1`
    Inotify,
    /// Unix sockets, those without a path among them.
    UnixSockets,
    /// `signalfd4`
    Signalfd,
    /// `eventfd2`
    Eventfd,
    /// `clone3`
    Clone3,
    /// `getrandom`
    Getrandom,
    /// `prctl`
    Prctl,
}

/// What the command does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Ends as soon as it has begun.
    EndsAtOnce,
    /// Its process is killed before it executes the command.
    DiesBeforeExec,
    /// There is no such program.
    NotFound,
    /// The file may not be executed.
    NotExecutable,
    /// Leaves a daemon behind, which has forked twice.
    DoubleForks,
    /// Does its work in a session of its own.
    OwnSession,
    /// Ignores every signal, so that only SIGKILL ends it.
    IgnoresAll,
    /// Leaves ten thousand orphans.
    Orphans,
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Trouble {
    Api(Api, Lasting),
    Fate(Fate),
    Endpoint(Endpoint),
    Process(Process),
    Work(Work),
    /// The API server restarts while five hundred wait.
    Crowd,
}

/// How long the API server's trouble lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lasting {
    /// For three connections or requests; a condition, for two seconds.
    Passing,
    /// Until proa has ended.
    ForEver,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Api(api, Lasting::Passing) => write!(f, "API {}, passing", api.name()),
            Self::Api(api, Lasting::ForEver) => write!(f, "API {}, for ever", api.name()),
            Self::Fate(fate) => write!(f, "Pod {}", fate.name()),
            Self::Endpoint(endpoint) => write!(f, "endpoint {}", endpoint.name()),
            Self::Process(process) => write!(f, "process {}", process.name()),
            Self::Work(work) => write!(f, "command {}", work.name()),
            Self::Crowd => write!(f, "API restarts under 500"),
        }
    }
}

impl Api {
    pub(crate) fn all() -> Vec<Self> {
        let faults = [
            Fault::Reset,
            Fault::StallHandshake,
            Fault::InsistsOnHttp2,
            Fault::GoAway,
            Fault::WithoutInitialEvents(400),
            Fault::WithoutInitialEvents(422),
            Fault::StallAfterHeaders,
            Fault::Endless,
            Fault::Trickle,
            Fault::Answer(TRUNCATED),
            Fault::Answer(NO_JSON),
            Fault::Answer(NO_POD),
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
            Self::TokenExpired,
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
            Self::Faulty(Fault::InsistsOnHttp2) => "HTTP/2 alone".into(),
            Self::Faulty(Fault::GoAway) => "GOAWAY".into(),
            Self::Faulty(Fault::WithoutInitialEvents(code)) => format!("{code} to sendInitialEvents"),
            Self::Faulty(Fault::StallAfterHeaders) => "headers, then silence".into(),
            Self::Faulty(Fault::Endless) => "endless line".into(),
            Self::Faulty(Fault::Trickle) => "a byte a second".into(),
            Self::Faulty(Fault::Answer(TRUNCATED)) => "truncated event".into(),
            Self::Faulty(Fault::Answer(NO_JSON)) => "no JSON".into(),
            Self::Faulty(Fault::Answer(NO_POD)) => "JSON that is no Pod".into(),
            Self::Faulty(Fault::Answer(_)) => "HTML".into(),
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
            Self::TokenExpired => "token expired".into(),
            Self::TokenRotated => "token rotated".into(),
            Self::HugePod => "Pod of 5 MB".into(),
        }
    }
}

impl Fate {
    pub(crate) const ALL: [Self; 10] = [
        Self::Deleted,
        Self::Removed,
        Self::Replaced,
        Self::OutOfMemory,
        Self::Flapping,
        Self::NoStatus,
        Self::StartedAhead,
        Self::StartedBehind,
        Self::DeletedAhead,
        Self::DeletedBehind,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Deleted => "being deleted",
            Self::Removed => "removed",
            Self::Replaced => "replaced",
            Self::OutOfMemory => "sidecar out of memory",
            Self::Flapping => "sidecar flapping",
            Self::NoStatus => "without status",
            Self::StartedAhead => "started in years",
            Self::StartedBehind => "started years ago",
            Self::DeletedAhead => "being deleted in years",
            Self::DeletedBehind => "being deleted years ago",
        }
    }
}

impl Endpoint {
    pub(crate) const ALL: [Self; 15] = [
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

    /// Whether the sidecar has exited by the time of an answer.
    pub(crate) fn is_gone(self) -> bool {
        matches!(self, Self::ExitsWithoutAnswer | Self::TakenOver)
    }

    /// Whether the sidecar exits in the end.
    pub(crate) fn exits(self) -> bool {
        matches!(self, Self::BusyAtFirst | Self::ExitsWithoutAnswer | Self::TakenOver)
    }
}

impl Process {
    pub(crate) const ALL: [Self; 18] = [
        Self::NoStdio,
        Self::FullStderr,
        Self::NoProc,
        Self::HiddenProc,
        Self::MaskedProc,
        Self::FewFiles,
        Self::NoFork,
        Self::Without(Feature::Inotify),
        Self::Without(Feature::UnixSockets),
        Self::Without(Feature::Signalfd),
        Self::Without(Feature::Eventfd),
        Self::Without(Feature::Clone3),
        Self::Without(Feature::Getrandom),
        Self::Without(Feature::Prctl),
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
            Self::HiddenProc => "/proc with hidepid=2",
            Self::MaskedProc => "/proc masked",
            Self::FewFiles => "12 files at most",
            Self::NoFork => "fork fails",
            Self::Without(feature) => feature.name(),
            Self::Noise => "a hundred signals",
            Self::Terminated => "SIGTERM",
            Self::Stopped => "SIGSTOP",
            Self::Killed => "SIGKILL, started again",
        }
    }

    /// Whether it can only be there from the start on.
    pub(crate) fn is_setting(self) -> bool {
        !matches!(self, Self::Noise | Self::Terminated | Self::Stopped | Self::Killed)
    }
}

impl Feature {
    fn name(self) -> &'static str {
        match self {
            Self::Inotify => "without inotify",
            Self::UnixSockets => "without Unix sockets",
            Self::Signalfd => "without signalfd",
            Self::Eventfd => "without eventfd",
            Self::Clone3 => "without clone3",
            Self::Getrandom => "without getrandom",
            Self::Prctl => "without prctl",
        }
    }
}

impl Work {
    pub(crate) const ALL: [Self; 8] = [
        Self::EndsAtOnce,
        Self::DiesBeforeExec,
        Self::NotFound,
        Self::NotExecutable,
        Self::DoubleForks,
        Self::OwnSession,
        Self::IgnoresAll,
        Self::Orphans,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::EndsAtOnce => "ends at once",
            Self::DiesBeforeExec => "dies between fork and exec",
            Self::NotFound => "not found",
            Self::NotExecutable => "not executable",
            Self::DoubleForks => "forks twice",
            Self::OwnSession => "in a session of its own",
            Self::IgnoresAll => "ignores all signals",
            Self::Orphans => "leaves 10000 orphans",
        }
    }

    /// Whether it is over, or never there, before it says anything.
    pub(crate) fn is_brief(self) -> bool {
        matches!(self, Self::EndsAtOnce | Self::DiesBeforeExec | Self::NotFound | Self::NotExecutable)
    }
}
