//! How it ended: the one place where an outcome becomes an exit code and a termination message.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::child::{Ended, NotStarted};
use crate::cluster::NoApi;
use crate::env_file::Unusable;
use crate::gate::verdict::Reason;
use crate::gate::waiting::{PodWait, Waiting};
use crate::gate::{Cause, Refusal};
use crate::identity::Unknown;
use crate::mode::install::NotInstalled;
use crate::peer::Unannounced;
use crate::plan::Invalid;
use crate::pod::Exit;
use crate::pod::mains::Misplaced;
use crate::signal::Signal;
use crate::status::Unbound;
use crate::warnings::Remaining;

/// proa's own exit codes, beside those of the command. The numbers of 64 and more are sysexits(3)'s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// A sidecar did not exit as `proa quit` asked it to.
    NotShutDown = 1,
    /// Wrong usage, or a Pod in which proa cannot work.
    Usage = 2,
    /// A sidecar exited for good before the command could start, or stopped it.
    SidecarEnded = 69,
    /// proa itself failed.
    Internal = 70,
    /// A file that proa was to write cannot be written.
    CannotWrite = 73,
    /// The sidecars were not ready in time.
    NotReady = 75,
    /// The API server does not allow what proa needs.
    Forbidden = 77,
    /// The command is there but cannot be executed; POSIX, "Exit status for commands".
    NotExecutable = 126,
    /// The command was not found; POSIX, "Exit status for commands".
    NotFound = 127,
}

/// How it ended.
#[derive(Debug)]
pub enum Outcome {
    /// The command ended.
    Ended(Ended),
    /// A signal came before the command.
    Stopped(Signal),
    /// A sidecar exited for good while the command ran, so proa stopped the command.
    LostSidecar {
        /// The sidecar.
        name: String,
        /// How it ended.
        exit: Exit,
    },
    /// The gate stayed shut.
    Refused(Refusal),
    /// The command did not start.
    NotStarted {
        /// As it was given.
        program: String,
        /// Why.
        why: NotStarted,
    },
    /// The command line is wrong; what clap says of it.
    Usage(String),
    /// The options or variables make no sense together.
    Invalid(Invalid),
    /// Who we are is unknown.
    Unknown(Unknown),
    /// There is no API server to ask.
    NoApi(NoApi),
    /// A file of variables for the command cannot be used.
    EnvFile(Unusable),
    /// The status address cannot be listened on.
    NoStatus(Unbound),
    /// A sidecar has ended as it was asked to.
    ShutDown,
    /// The wait is over, and nothing else was asked for.
    Ready,
    /// What would be done, as text.
    Planned(String),
    /// These did not exit as they were asked to; empty: it is not known who there is.
    NotShutDown(Vec<String>),
    /// `proa sidecar` is out of place in this Pod.
    Misplaced(Misplaced),
    /// Another proa runs in this container.
    TwoProas(Unannounced),
    /// The ready file cannot be written.
    NoReadyFile(PathBuf, io::Error),
    /// proa was not installed.
    NotInstalled(NotInstalled),
    /// proa itself failed.
    Failed(anyhow::Error),
    /// proa panicked, and had decided on this exit code by then if there is one.
    Panicked(Option<u8>),
}

/// How it ended, and who stays behind.
#[derive(Debug)]
pub struct Conclusion {
    /// How it ended.
    pub outcome: Outcome,
    /// Sidecars that still run.
    pub remaining: Option<Remaining>,
}

impl From<Outcome> for Conclusion {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, remaining: None }
    }
}

impl Conclusion {
    /// What `kubectl describe pod` should show: proa's own failures, and what keeps the Pod from its end. How the command
    /// ended, or that a signal was asked for, is told by the exit code.
    #[must_use]
    pub fn termination_message(&self) -> Option<String> {
        let failure = self.outcome.failure().map(|failure| format!("proa: {failure}\n"));
        let remaining = self.remaining.as_ref().map(|remaining| format!("proa: {remaining}\n"));
        failure.into_iter().chain(remaining).reduce(|all, line| all + &line)
    }
}

impl From<Cause> for Outcome {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Stopped(received) => Self::Stopped(received.signal),
            Cause::Refused(refusal) => Self::Refused(refusal),
            Cause::Failed(error) => Self::Failed(error),
        }
    }
}

impl Outcome {
    /// The exit code: the command's own, 128+n for signal n (Bash manual, "Exit Status"), or one of [`Code`].
    #[must_use]
    pub fn code(&self) -> u8 {
        let code = match self {
            Self::ShutDown | Self::Ready | Self::Planned(_) => return 0,
            Self::NotShutDown(_) => Code::NotShutDown,
            Self::Ended(ended) => return ended.exit_code(),
            Self::Panicked(Some(code)) => return *code,
            Self::Stopped(signal) => return Ended::Signaled(signal.number()).exit_code(),
            // The kubelet's signal is on its way; this is the code that it would have led to.
            Self::Refused(Refusal::Pod(Reason::Deleting | Reason::Finished)) => {
                return Ended::Signaled(Signal::TERM.number()).exit_code();
            }
            Self::LostSidecar { .. }
            | Self::Refused(Refusal::Pod(Reason::SidecarEnded { .. } | Reason::NotSuccess { .. })) => {
                Code::SidecarEnded
            }
            Self::Refused(
                Refusal::Api(trouble)
                | Refusal::TimedOut { waiting: Waiting { pod: PodWait::Api(trouble), .. }, .. }
                | Refusal::NotReady(Waiting { pod: PodWait::Api(trouble), .. }),
            ) if trouble.is_denial() => Code::Forbidden,
            Self::Refused(Refusal::Api(trouble)) if trouble.is_passing() => Code::NotReady,
            Self::Refused(Refusal::TimedOut { .. } | Refusal::NotReady(_)) => Code::NotReady,
            Self::Refused(
                Refusal::Pod(Reason::UnknownSidecar { .. } | Reason::NeverExits(_))
                | Refusal::Impossible { .. }
                | Refusal::Api(_),
            )
            | Self::Usage(_)
            | Self::Invalid(_)
            | Self::Unknown(_)
            | Self::NoApi(_)
            | Self::EnvFile(_)
            | Self::NoStatus(_)
            | Self::Misplaced(_)
            | Self::TwoProas(_)
            | Self::NotStarted { why: NotStarted::TooLarge, .. } => Code::Usage,
            Self::NoReadyFile(..) | Self::NotInstalled(_) => Code::CannotWrite,
            Self::NotStarted { why: NotStarted::NotFound(_), .. } => Code::NotFound,
            Self::NotStarted { why: NotStarted::NotExecutable(_), .. } => Code::NotExecutable,
            Self::NotStarted { why: NotStarted::NoProcess(_), .. }
            | Self::Failed(_)
            | Self::Panicked(None) => Code::Internal,
        };
        code as u8
    }

    /// Whether the command was never run, though nobody asked for that.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        !matches!(
            self,
            Self::Ended(_)
                | Self::LostSidecar { .. }
                | Self::Stopped(_)
                | Self::ShutDown
                | Self::Ready
                | Self::Planned(_)
                | Self::NotShutDown(_)
                | Self::Failed(_)
                | Self::Panicked(_)
        )
    }

    fn failure(&self) -> Option<&Self> {
        let is_none = matches!(
            self,
            Self::Ended(_) | Self::Stopped(_) | Self::ShutDown | Self::Ready | Self::Planned(_)
        );
        (!is_none).then_some(self)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended(ended) => write!(f, "{ended}"),
            Self::Stopped(signal) => write!(f, "{signal} before the command started"),
            Self::LostSidecar { name, exit } => write!(
                f,
                "sidecar `{name}` exited for good ({exit}) while the command ran, so proa stopped the command \
                 (--on-sidecar-exit=stop); --ignore={name} if it is meant to exit"
            ),
            Self::Refused(refusal) => write!(f, "{refusal}"),
            Self::NotStarted { program, why } => write!(f, "cannot run `{program}`: {why}"),
            Self::Usage(text) => write!(f, "{}", text.trim_end()),
            Self::Invalid(invalid) => write!(f, "{invalid}"),
            Self::Unknown(unknown) => write!(f, "{unknown}"),
            Self::NoApi(none) => write!(
                f,
                "{none}; or say what to wait for without the API server: --wait-http-get, --wait-tcp, --wait-file, \
                 --wait-known"
            ),
            Self::EnvFile(unusable) => write!(f, "{unusable}"),
            Self::NoStatus(unbound) => write!(f, "{unbound}"),
            Self::ShutDown => write!(f, "stopped as asked"),
            Self::Ready => write!(f, "ready"),
            Self::Planned(text) => f.write_str(text),
            Self::NotShutDown(left) if left.is_empty() => {
                write!(f, "no sidecar was shut down, since this Pod cannot be seen")
            }
            Self::NotShutDown(left) => write!(f, "not shut down: {}", left.join(", ")),
            Self::Misplaced(misplaced) => write!(f, "{misplaced}"),
            Self::TwoProas(taken) => write!(f, "{taken}"),
            Self::NoReadyFile(path, error) => write!(
                f,
                "--ready-file {}: {error}; expected a directory that this user may write, on a volume that the main \
                 containers mount too",
                path.display()
            ),
            Self::NotInstalled(why) => write!(f, "{why}"),
            Self::Failed(error) => write!(f, "{error:#}"),
            Self::Panicked(_) => write!(f, "proa panicked, which is a bug; its log has the place"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::cluster::trouble::{Trouble, Verb};
    use crate::pod::Exit;

    #[test]
    fn the_commands_own_code_is_never_changed() {
        for code in 0..=u8::MAX {
            assert_eq!(Outcome::Ended(Ended::Exited(code)).code(), code);
            assert_eq!(Conclusion::from(Outcome::Ended(Ended::Exited(code))).termination_message(), None);
        }
    }

    #[test]
    fn every_signal_leads_to_128_and_its_number() {
        for signal in Signal::all() {
            let expected = u8::try_from(128 + signal.number()).unwrap();
            assert_eq!(Outcome::Ended(Ended::Signaled(signal.number())).code(), expected);
            assert_eq!(Outcome::Stopped(signal).code(), expected);
        }
        assert_eq!(Outcome::Ended(Ended::Signaled(9)).code(), 137);
    }

    #[test]
    fn proas_own_failures_have_codes_of_their_own() {
        let exit = Exit { code: 1, reason: "OOMKilled".into() };
        let forbidden =
            || Trouble::Forbidden { verb: Verb::Watch, namespace: "jobs".into(), message: "no".into() };
        let timed_out = |pod| Refusal::TimedOut {
            after: Duration::from_secs(1),
            waiting: Waiting { pod, direct: Vec::new() },
        };
        let not_started = |why| Outcome::NotStarted { program: "x".into(), why };
        let error = || io::Error::other("x");
        for (outcome, code) in [
            (Outcome::Usage("x".into()), 2),
            (Outcome::Invalid(Invalid::EmptyCommand), 2),
            (Outcome::NoApi(NoApi::Server), 2),
            (Outcome::Refused(Refusal::Api(Trouble::NoSuchPod("a/b".into()))), 2),
            (Outcome::Refused(Refusal::Pod(Reason::SidecarEnded { name: "x".into(), exit })), 69),
            (Outcome::Failed(anyhow::anyhow!("x")), 70),
            (not_started(NotStarted::NoProcess(error())), 70),
            (Outcome::Refused(timed_out(PodWait::FirstAnswer)), 75),
            (Outcome::Refused(timed_out(PodWait::Sidecars(Vec::new()))), 75),
            (Outcome::Refused(timed_out(PodWait::Api(Trouble::NoConnection("x".into())))), 75),
            (Outcome::Refused(timed_out(PodWait::Api(forbidden()))), 77),
            (Outcome::Refused(Refusal::Api(forbidden())), 77),
            (Outcome::Refused(Refusal::Api(Trouble::Unauthorized("x".into()))), 77),
            (not_started(NotStarted::TooLarge), 2),
            (not_started(NotStarted::NotExecutable(error())), 126),
            (not_started(NotStarted::NotFound(error())), 127),
            (Outcome::Refused(Refusal::Pod(Reason::Deleting)), 143),
        ] {
            assert_eq!(outcome.code(), code, "{outcome:?}");
            assert!(Conclusion::from(outcome).termination_message().is_some());
        }
    }

    #[test]
    fn the_api_server_is_retried_where_it_may_answer_later() {
        let code = |trouble| Outcome::Refused(Refusal::Api(trouble)).code();
        assert_eq!(code(Trouble::NoConnection("x".into())), 75);
        assert_eq!(code(Trouble::ServerError("x".into(), None)), 75);
        assert_eq!(code(Trouble::NoSuchPod("a/b".into())), 2);
        let not_ready = |pod| Outcome::Refused(Refusal::NotReady(Waiting { pod, direct: Vec::new() })).code();
        assert_eq!(not_ready(PodWait::Api(Trouble::NoConnection("x".into()))), 75);
        assert_eq!(not_ready(PodWait::Api(Trouble::Unauthorized("x".into()))), 77);
    }

    #[test]
    fn only_a_command_that_proa_did_not_let_run_was_refused() {
        let exit = || Exit { code: 1, reason: "OOMKilled".into() };
        for (outcome, refused) in [
            (Outcome::Usage("x".into()), true),
            (Outcome::Refused(Refusal::Pod(Reason::Deleting)), true),
            (Outcome::NotStarted { program: "x".into(), why: NotStarted::TooLarge }, true),
            (Outcome::Ended(Ended::Exited(1)), false),
            (Outcome::Stopped(Signal::TERM), false),
            (Outcome::LostSidecar { name: "web".into(), exit: exit() }, false),
            (Outcome::Panicked(None), false),
        ] {
            assert_eq!(outcome.is_refusal(), refused, "{outcome:?}");
        }
    }

    #[test]
    fn the_termination_message_says_what_failed_and_who_runs_on() {
        let failed = || Outcome::Refused(Refusal::Pod(Reason::Finished));
        let failure = "proa: the Pod has ended (evicted, or past its active deadline)\n";
        assert_eq!(Conclusion::from(failed()).termination_message().as_deref(), Some(failure));
        let remaining = || Some(Remaining { names: vec!["web".into()], because: Vec::new(), is_job: true });
        let both = Conclusion { outcome: failed(), remaining: remaining() }.termination_message().unwrap();
        let rest = both.strip_prefix(failure).expect("a line each");
        assert!(rest.starts_with("proa: still running when --shutdown-timeout ran out: `web`"), "{rest}");
        let alone = Conclusion { outcome: Outcome::Ended(Ended::Exited(0)), remaining: remaining() };
        assert_eq!(alone.termination_message().as_deref(), Some(rest));
    }

    #[test]
    fn quit_says_whom_it_did_not_shut_down() {
        let not_shut_down = |names: &[&str]| {
            Outcome::NotShutDown(names.iter().map(|name| (*name).to_owned()).collect()).to_string()
        };
        assert_eq!(not_shut_down(&["web", "db"]), "not shut down: web, db");
        assert_eq!(not_shut_down(&[]), "no sidecar was shut down, since this Pod cannot be seen");
    }
}
