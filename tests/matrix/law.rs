//! What proa promises of every run.

use std::fmt;

use localpod::cluster::Fault;

use super::cell::{Cell, Mode, Phase};
use super::trouble::{Api, Endpoint, Fate, Feature, Lasting, Process, Trouble, Work};
use super::world::{CODE, Observed, ended};

/// How a run that kept the promises ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// It did what it is for.
    Done,
    /// It did not, and said why with this exit code.
    Refused(i32),
    /// Its command ended without a word: with this exit code, as it was to.
    Command(i32),
    /// It went on until SIGKILL, as it was to.
    Killed,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => write!(f, "done"),
            Self::Refused(code) | Self::Command(code) => write!(f, "{code}"),
            Self::Killed => write!(f, "killed"),
        }
    }
}

/// What came of the run, or the promise that it broke.
pub(crate) fn judge(cell: &Cell, seen: &Observed) -> Result<Outcome, String> {
    let Some(status) = seen.status else { return Err("no end in time".into()) };
    if !seen.struck {
        return Err("the trouble never struck".into());
    }
    if seen.ran > 1 {
        return Err(format!("the command ran {} times", seen.ran));
    }
    if seen.led_astray > 0 {
        return Err("it followed a redirect".into());
    }
    if !seen.left.is_empty() {
        return Err(format!("left: {}", seen.left.join(", ")));
    }
    if cell.trouble == Trouble::Work(Work::IgnoresAll) && cell.mode == Mode::Wrap {
        return if seen.killed && seen.ran == 1 {
            Ok(Outcome::Killed)
        } else {
            Err(format!("{}, ran {}", ended(status), seen.ran))
        };
    }
    let Some(code) = status.code() else { return Err(ended(status)) };
    let done = match cell.mode {
        Mode::Wrap if seen.ran == 1 && code != CODE => {
            return Err(format!("the command's exit code {CODE} became {code}"));
        }
        Mode::Sidecar if seen.ran == 1 && code != 0 => {
            return Err(format!("the command's exit code 0 became {code}"));
        }
        Mode::Wrap | Mode::Sidecar => seen.ran == 1,
        Mode::Wait | Mode::Quit | Mode::Helper => code == 0,
    };
    if cell.mode.asks() && seen.asked == 0 && must_ask(cell) {
        return Err("the sidecar was not asked to exit".into());
    }
    if done {
        return Ok(Outcome::Done);
    }
    if seen.ran == 0 && cell.phase == Phase::Spawn && ends_the_command(cell).contains(&code) {
        return Ok(Outcome::Command(code));
    }
    if !refusals(cell).contains(&code) {
        return Err(format!("exit code {code}, expected success or one of {:?}", refusals(cell)));
    }
    let words = causes(cell);
    let log = seen.log.to_lowercase();
    // The search that was under way has been broken off.
    let is_broken_off = cell.phase == Phase::Identity
        && matches!(cell.trouble, Trouble::Api(..))
        && BROKEN_OFF.iter().any(|word| log.contains(word));
    if !words.is_empty() && !is_broken_off && !words.iter().any(|word| log.contains(word)) {
        return Err(format!("exit code {code}, and its log names none of {words:?}"));
    }
    Ok(Outcome::Refused(code))
}

/// Whether the sidecar's endpoint has to get a request.
fn must_ask(cell: &Cell) -> bool {
    match &cell.trouble {
        // It has exited; or the kubelet stops it. Or proa cannot work there.
        Trouble::Process(Process::Without(Feature::Signalfd | Feature::Eventfd))
        | Trouble::Fate(
            Fate::OutOfMemory
            | Fate::Deleted
            | Fate::DeletedAhead
            | Fate::DeletedBehind
            | Fate::Removed
            | Fate::Replaced,
        ) => false,
        // A helper that never sees main's end is stopped by the kubelet, which stops the sidecars too.
        Trouble::Api(_, Lasting::ForEver)
        | Trouble::Fate(_)
        | Trouble::Process(Process::Terminated | Process::FewFiles) => cell.mode != Mode::Helper,
        Trouble::Api(Api::NoToken, _) => cell.mode != Mode::Helper || cell.phase != Phase::Start,
        _ => true,
    }
}

/// The exit codes of a command whose process is there, and says nothing.
fn ends_the_command(cell: &Cell) -> &'static [i32] {
    match cell.trouble {
        Trouble::Work(Work::DiesBeforeExec) => &[137],
        Trouble::Work(Work::NotFound) => &[127],
        Trouble::Work(Work::NotExecutable) => &[126],
        // Before it has set its traps.
        Trouble::Process(Process::Terminated) if cell.mode == Mode::Sidecar => &[0],
        Trouble::Process(Process::Terminated) => &[143],
        _ => &[],
    }
}

/// The exit codes with which it may refuse (docs/reference.md).
fn refusals(cell: &Cell) -> &'static [i32] {
    match cell.trouble {
        Trouble::Process(Process::Without(Feature::Signalfd | Feature::Eventfd)) => return &[70],
        Trouble::Process(Process::NoFork) if cell.mode.has_command() => return &[70],
        // Asked to stop that early, the command may not have come to its first line.
        Trouble::Process(Process::Terminated)
            if cell.mode == Mode::Sidecar && cell.phase < Phase::Running =>
        {
            return &[0];
        }
        _ => {}
    }
    // Started again, it finds a sidecar that has exited for good.
    if cell.trouble == Trouble::Process(Process::Killed)
        && cell.mode == Mode::Wrap
        && cell.phase >= Phase::Shutdown
    {
        return &[69];
    }
    let before_the_work = match cell.mode {
        Mode::Wrap | Mode::Wait => cell.phase <= Phase::Gate,
        // They work from the start on.
        Mode::Quit | Mode::Helper => true,
        Mode::Sidecar => false,
    };
    if !before_the_work {
        return &[];
    }
    match (&cell.trouble, cell.mode) {
        // No service account, as far as it can tell, is a Pod in which it cannot work.
        (Trouble::Api(Api::NoToken, _), Mode::Wrap | Mode::Wait | Mode::Helper)
            if cell.phase == Phase::Start =>
        {
            &[2]
        }
        (Trouble::Api(Api::Faulty(Fault::WithoutInitialEvents(_)), _), _) => &[],
        (Trouble::Api(_, Lasting::Passing), Mode::Quit) => &[1],
        (Trouble::Api(_, Lasting::Passing), _) => &[],
        (
            Trouble::Api(Api::Faulty(Fault::Status(401 | 403)) | Api::BadToken | Api::TokenExpired, _),
            Mode::Wrap | Mode::Wait,
        ) => &[75, 77],
        (Trouble::Api(..) | Trouble::Fate(Fate::NoStatus), Mode::Wrap | Mode::Wait) => &[75],
        (
            Trouble::Api(..)
            | Trouble::Fate(_)
            | Trouble::Endpoint(_)
            | Trouble::Process(Process::Terminated),
            Mode::Quit,
        ) => &[1],
        (Trouble::Api(..), Mode::Helper) => &[2, 77, 143],
        (
            Trouble::Fate(Fate::Deleted | Fate::DeletedAhead | Fate::DeletedBehind),
            Mode::Wrap | Mode::Wait,
        )
        | (Trouble::Process(Process::Terminated), _) => &[143],
        (Trouble::Fate(Fate::Removed | Fate::Replaced), Mode::Wrap | Mode::Wait) => &[2, 75, 143],
        (Trouble::Fate(Fate::OutOfMemory), Mode::Wrap | Mode::Wait) => &[69],
        (Trouble::Fate(_), Mode::Helper) => &[2, 143],
        (Trouble::Process(Process::FewFiles), _) => &[70, 75],
        _ => &[],
    }
}

/// What a refusal says where the connection was closed: while it waited for an answer, or before it had written all of the
/// request. The kernel has another error for who writes after the other side has closed (EPIPE, and not ECONNRESET; send(2)).
const BROKEN_OFF: &[&str] = &["reset", "closed", "eof", "broken pipe", "in time"];

/// What a refusal says where nothing is heard of the API server.
const SILENT: &[&str] = &[
    "no answer",
    "shows nothing",
    "first answer",
    "before it showed anything",
    "not ready",
    "no news",
    "in time",
];

/// One of these is in the log of a refusal.
fn causes(cell: &Cell) -> &'static [&'static str] {
    match &cell.trouble {
        Trouble::Api(Api::Faulty(fault), _) => match fault {
            Fault::Reset => &["reset", "closed"],
            Fault::InsistsOnHttp2 => &["noapplicationprotocol"],
            Fault::GoAway => &["invalid http version"],
            Fault::StallHandshake | Fault::StallAfterHeaders | Fault::StallConsistent | Fault::Trickle => {
                SILENT
            }
            Fault::Endless => &["more than 8388608 bytes", "more than 67108864 bytes"],
            Fault::Answer(_) => &["json", "closed", "watch"],
            Fault::Page(_) => &["502"],
            Fault::Status(400) => &["400"],
            Fault::Status(401) => &["401", "unauthorized"],
            Fault::Status(403) => &["403", "forbidden"],
            Fault::Status(404) => &["404", "could not find"],
            Fault::Status(410) => &["410", "too old"],
            Fault::Status(500) => &["500", "internal error"],
            Fault::Status(_) => &["503", "not ready"],
            Fault::Throttle { .. } => &["429", "too many"],
            Fault::Delay(_) | Fault::LateEvents(_) | Fault::WithoutInitialEvents(_) => &[],
        },
        Trouble::Api(api, _) => match api {
            Api::Refused => &["refused"],
            Api::Silent => SILENT,
            Api::OtherAuthority => &["certificate"],
            Api::NoToken => &["token"],
            Api::BadToken | Api::TokenExpired => &["401", "unauthorized"],
            _ => &[],
        },
        Trouble::Fate(fate) => match fate {
            Fate::Deleted | Fate::DeletedAhead | Fate::DeletedBehind => &["deleted"],
            Fate::Removed | Fate::Replaced => {
                &["gone", "deleted", "uid", "no pod", "not found", "still running"]
            }
            Fate::OutOfMemory => &["137", "oomkilled"],
            Fate::Flapping | Fate::StartedAhead | Fate::StartedBehind => &[],
            Fate::NoStatus => &["not reported", "not ready", "still running"],
        },
        Trouble::Endpoint(endpoint) => match endpoint {
            Endpoint::Status(404) | Endpoint::TakenOver => &["404"],
            Endpoint::Status(403) => &["403"],
            Endpoint::Status(_) => &["500"],
            Endpoint::Redirect => &["307"],
            Endpoint::AcceptsAndStays => &["still running", "web"],
            _ => &["quit"],
        },
        Trouble::Process(Process::Terminated) => &["sigterm", "still running"],
        Trouble::Process(Process::FewFiles) => &["too many open files"],
        Trouble::Process(Process::NoFork) => &["temporarily unavailable"],
        Trouble::Process(Process::Without(_)) => &["not implemented"],
        Trouble::Process(_) | Trouble::Work(_) | Trouble::Crowd => &[],
    }
}
