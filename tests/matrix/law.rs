//! What proa promises of every run.

use std::fmt;

use localpod::cluster::Fault;

use super::cell::{Cell, Mode, Phase};
use super::trouble::{Api, Endpoint, Fate, Feature, Lasting, Process, Trouble, Work};
use super::world::{CODE, Observed, Premature, ended};

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

impl fmt::Display for Premature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Began => {
                "the gate opened before the sidecar was ready, or before the API server had shown that"
            }
            Self::Asked => "the sidecar was asked to exit under a main container",
            Self::Stopped => "the wrapped command was stopped under a main container",
            Self::Left => "it ended before the sidecar had, and before its time was up",
        })
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
    if let Some(early) = seen.premature.iter().find(|early| !is_excused(**early, cell, seen.told)) {
        return Err(early.to_string());
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
    let may_keep = cell.mode == Mode::Helper && refusals(cell).contains(&code) && code == 2;
    if cell.mode.asks() && seen.asked == 0 && must_ask(cell, seen.told) && !may_keep {
        return Err("the sidecar was not asked to exit".into());
    }
    if done {
        return has_reason(cell, seen).map(|()| Outcome::Done);
    }
    if seen.ran == 0 && cell.phase == Phase::Spawn && ends_the_command(cell).contains(&code) {
        return Ok(Outcome::Command(code));
    }
    if !refusals(cell).contains(&code) {
        return Err(format!("exit code {code}, expected success or one of {:?}", refusals(cell)));
    }
    names_the_cause(cell, &seen.log).map_err(|why| format!("exit code {code}, and {why}"))?;
    Ok(Outcome::Refused(code))
}

/// Who did what it is for has seen why it may.
fn has_reason(cell: &Cell, seen: &Observed) -> Result<(), String> {
    let ignores = cell.trouble == Trouble::Work(Work::IgnoresAll);
    match cell.mode {
        Mode::Sidecar if !seen.stopped && !ignores => Err("its command was not stopped".into()),
        Mode::Quit if !seen.shown_end && !is_excused(Premature::Left, cell, seen.told) => {
            Err("it succeeded, and the API server has not shown that the sidecar has exited".into())
        }
        _ => Ok(()),
    }
}

/// What lets it do so without having seen what it waits for. Nothing opens a gate but the sidecar that is ready: where a cell waits
/// for a file, that comes in addition.
fn is_excused(early: Premature, cell: &Cell, told: bool) -> bool {
    if early == Premature::Began {
        return false;
    }
    // Whoever is asked to stop waits for nobody's exit, nor a companion for main's.
    let is_stopped = told || cell.trouble == Trouble::Process(Process::Terminated);
    if is_stopped {
        return true;
    }
    let leaves = early == Premature::Left;
    match &cell.trouble {
        // Nothing is left of its Pod, and so of main.
        Trouble::Fate(Fate::Removed | Fate::Replaced) => true,
        // The kubelet stops them all, and reports of no exit any more. Or proa cannot work there, and says so. Or the sidecar that was
        // asked may have been the way to the API server: a second without a connection ends the wait.
        Trouble::Fate(Fate::Deleted | Fate::DeletedAhead | Fate::DeletedBehind)
        | Trouble::Process(Process::Without(Feature::Signalfd | Feature::Eventfd))
        | Trouble::Api(Api::Faulty(Fault::Reset | Fault::GoAway) | Api::Refused, _) => leaves,
        // There is no Pod for it, nor anybody to help.
        Trouble::Api(Api::NoToken, _) => leaves && cell.mode == Mode::Helper,
        _ => false,
    }
}

/// Whether the sidecar's endpoint has to get a request.
fn must_ask(cell: &Cell, told: bool) -> bool {
    match &cell.trouble {
        // It cannot work there.
        Trouble::Process(Process::Without(Feature::Signalfd | Feature::Eventfd)) => false,
        _ if cell.mode != Mode::Helper => true,
        // The kubelet stops the sidecars too.
        Trouble::Process(Process::Terminated) => false,
        // Where there is no Pod nobody shows main; where there was one, nothing of it is left to be stopped.
        Trouble::Fate(Fate::Removed | Fate::Replaced) if cell.phase >= Phase::Running => false,
        // Who is not shown main's end stays until the kubelet stops it.
        _ if is_main_hidden(cell) => !told,
        _ => true,
    }
}

/// Whether nothing is going to show main's end.
pub(crate) fn is_main_hidden(cell: &Cell) -> bool {
    matches!(
        cell.trouble,
        Trouble::Api(_, Lasting::ForEver)
            | Trouble::Fate(Fate::NoStatus | Fate::StartedBehind | Fate::Removed | Fate::Replaced)
    )
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
        // Where it searches for its Pod it has two seconds for that, which a slow machine may need.
        (Trouble::Api(Api::Faulty(Fault::WithoutInitialEvents(_)), _), mode)
            if mode != Mode::Quit || cell.phase != Phase::Identity =>
        {
            &[]
        }
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

/// What proa says of it without `--log-level`. What it does step by step, at the level of debugging, names much that is no cause.
fn as_logged_by_default(log: &str) -> String {
    let lines = log.lines().filter(|line| !line.contains(" DEBUG "));
    lines.collect::<Vec<_>>().join("\n").to_lowercase()
}

/// What a refusal says where the connection was closed: while it waited for an answer, or before it had written all of the
/// request. The kernel has another error for who writes after the other side has closed (EPIPE, and not ECONNRESET; send(2)).
const BROKEN_OFF: &[&str] = &["reset", "closed", "eof", "broken pipe", "no answer"];

/// What a refusal says where nothing is heard of the API server: nor of the sidecar that was seen before.
const SILENT: &[&str] =
    &["no answer", "shows nothing", "first answer", "before it showed anything", "(running, not ready)"];

/// What `proa quit` says where the API server shows no exit.
const UNSEEN: &[&str] = &["no news of", "still running: `web`"];

/// Whether its log says why it refused.
fn names_the_cause(cell: &Cell, log: &str) -> Result<(), String> {
    let (words, log) = (causes(cell), as_logged_by_default(log));
    let has_one = |words: &[&str]| words.iter().any(|word| log.contains(word));
    let is_api = matches!(cell.trouble, Trouble::Api(..));
    // The search that was under way has been broken off.
    let is_broken_off = cell.phase == Phase::Identity && is_api && has_one(BROKEN_OFF);
    // By then it has no reason to wait for but one.
    let is_unseen = cell.mode == Mode::Quit && cell.phase >= Phase::Shutdown && has_one(UNSEEN);
    if words.is_empty() || has_one(words) || is_broken_off || is_unseen {
        Ok(())
    } else {
        Err(format!("its log names none of {words:?}"))
    }
}

/// One of these is in the log of a refusal.
fn causes(cell: &Cell) -> &'static [&'static str] {
    match &cell.trouble {
        Trouble::Api(Api::Faulty(fault), _) => match fault {
            Fault::Reset => BROKEN_OFF,
            Fault::InsistsOnHttp2 => &["noapplicationprotocol"],
            Fault::GoAway => &["invalid http version"],
            Fault::StallHandshake | Fault::StallAfterHeaders | Fault::StallConsistent | Fault::Trickle => {
                SILENT
            }
            // Until it is more, nothing is heard.
            Fault::Endless => &["more than 8388608 bytes", "more than 67108864 bytes", "first answer"],
            Fault::Answer(_) => &[
                "before it showed anything",
                "expected value",
                "expected ident",
                "invalid type",
                "eof while parsing",
                "there is no pod",
            ],
            Fault::Page(_) => &["502"],
            Fault::Status(400) => &["400"],
            Fault::Status(401) => &["unauthorized"],
            Fault::Status(403) => &["forbidden"],
            Fault::Status(404) => &["404"],
            Fault::Status(410) => &["410"],
            Fault::Status(500) => &["500 internalerror"],
            Fault::Status(_) => &["503"],
            Fault::Throttle { .. } => &["too many requests"],
            Fault::Delay(_) | Fault::LateEvents(_) | Fault::WithoutInitialEvents(_) => &[],
        },
        Trouble::Api(api, _) => match api {
            Api::Refused => &["connection refused"],
            Api::Silent => SILENT,
            Api::OtherAuthority => &["certificate"],
            Api::NoToken => &["no service account"],
            Api::BadToken | Api::TokenExpired => &["unauthorized"],
            _ => &[],
        },
        Trouble::Fate(fate) => match fate {
            Fate::Deleted | Fate::DeletedAhead | Fate::DeletedBehind => &["is being deleted"],
            Fate::Removed | Fate::Replaced => &["there is no pod", "is being deleted", "uid of"],
            Fate::OutOfMemory => &["oomkilled"],
            Fate::Flapping | Fate::StartedAhead | Fate::StartedBehind => &[],
            Fate::NoStatus => &["(not started)", "still running: `web`"],
        },
        Trouble::Endpoint(endpoint) => match endpoint {
            Endpoint::Status(404) | Endpoint::TakenOver => &[": 404"],
            Endpoint::Status(403) => &[": 403"],
            Endpoint::Status(_) => &[": 500"],
            Endpoint::BusyAtFirst => &[": 503"],
            Endpoint::Redirect => &[": 307"],
            Endpoint::AcceptsAndStays | Endpoint::EndlessBody => &["still running: `web`"],
            Endpoint::NoHttp => &["invalid http version"],
            Endpoint::Reset | Endpoint::ExitsWithoutAnswer => BROKEN_OFF,
            Endpoint::Mute | Endpoint::Trickle | Endpoint::Informational | Endpoint::EndlessHeaders => {
                &["no answer"]
            }
        },
        Trouble::Process(Process::Terminated) => &["sigterm"],
        Trouble::Process(Process::FewFiles) => &["too many open files"],
        Trouble::Process(Process::NoFork) => &["temporarily unavailable"],
        Trouble::Process(Process::Without(_)) => &["not implemented"],
        Trouble::Process(Process::Killed) => &["exited for good"],
        Trouble::Process(_) | Trouble::Work(_) | Trouble::Crowd => &[],
    }
}
