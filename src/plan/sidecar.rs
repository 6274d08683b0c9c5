//! What will happen in a sidecar.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::{Environment, Invalid, lower};
use crate::child::Command;
use crate::cli::SidecarCli;
use crate::cluster::ApiServer;
use crate::env_file::EnvFiles;
use crate::gate::Gate;
use crate::identity::Claim;
use crate::pod::mains::{Awaited, End};
use crate::policy::{AskApi, HoldTerm, Limit, ShutdownAuto};
use crate::shutdown::Shutdown;
use crate::signal::Signal;
use crate::warnings::Asked;

/// Everything that was asked of a sidecar, checked.
#[derive(Debug, Clone)]
pub struct SidecarPlan {
    /// What flags and variables say of who we are.
    pub claim: Claim,
    /// How the API server is reached.
    pub api: ApiServer,
    /// What is waited for first.
    pub gate: Gate,
    /// The main containers, whose end is waited for; empty: the only one that is no sidecar.
    pub mains: Vec<Awaited>,
    /// What is done.
    pub duty: Duty,
    /// Where to tell what proa is doing.
    pub status: Option<SocketAddr>,
    /// Whether the command is run and nothing else done.
    pub disabled: bool,
}

/// What a sidecar does.
#[derive(Debug, Clone)]
pub enum Duty {
    /// Run a command until the main containers have exited.
    Command(Command, EnvFiles, Stop),
    /// Tell when the main containers may start, and end the other sidecars after them.
    Help {
        /// Written once what is waited for is ready.
        ready_file: Option<PathBuf>,
        /// How the sidecars are ended.
        shutdown: Shutdown,
    },
}

/// How the command is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// By this signal.
    pub signal: Signal,
    /// How long until `SIGKILL` follows.
    pub timeout: Limit,
    /// Whether the Pod's end is kept from it for a while.
    pub hold: Option<HoldTerm>,
}

impl SidecarPlan {
    /// What was asked for, as the warnings need it.
    #[must_use]
    pub fn asked(&self) -> Asked<'_> {
        let sidecars = !self.gate.selection.wait_for.is_empty();
        let (stop_timeout, shutdown) = match &self.duty {
            Duty::Command(_, _, Stop { timeout: Limit::For(timeout), .. }) => (Some(*timeout), None),
            Duty::Command(..) => (None, None),
            Duty::Help { shutdown, .. } => (None, Some(shutdown)),
        };
        Asked {
            selection: &self.gate.selection,
            wait: (sidecars || self.gate.asks_directly()).then(|| self.gate.wait(sidecars)),
            shutdown,
            stop_timeout,
            status_port: self.status.map(|address| address.port()),
        }
    }

    /// Lowers what was asked to what will happen.
    ///
    /// # Errors
    /// When values that are fine on their own make no sense together.
    pub fn new(mut cli: SidecarCli, environment: &Environment) -> Result<Self, Invalid> {
        let disabled = cli.environment.disabled;
        if disabled {
            let ending = (&mut cli.when.shutdown_when, &mut cli.ending);
            lower::disable(&mut cli.waiting, &mut cli.environment, ending, &mut cli.who);
            cli.until.until_exit.clear();
            cli.until.until_exit_success.clear();
            cli.stopping.hold_term = None;
        }
        let (claim, api) = lower::who(cli.who, environment)?;
        let gate = lower::gate(cli.waiting, Vec::new(), Vec::new(), api.ask)?;
        let awaited = |end| move |name| Awaited { name, end };
        let for_good = lower::flatten(cli.until.until_exit).into_iter().map(awaited(End::ForGood));
        let success = lower::flatten(cli.until.until_exit_success).into_iter().map(awaited(End::Success));
        let mains: Vec<_> = for_good.chain(success).collect();
        let shutdown = lower::shutdown(cli.when.shutdown_when, cli.ending, gate.selection.ignore.clone())?;
        let duty = if cli.command.is_empty() {
            if cli.stopping.hold_term.is_some() {
                return Err(Invalid::NeedsCommand("--hold-term"));
            }
            if !cli.environment.env_file.is_empty() {
                return Err(Invalid::NeedsCommand("--env-file"));
            }
            if api.ask == AskApi::Off && !disabled {
                return Err(Invalid::BlindHelper);
            }
            Duty::Help { ready_file: cli.stopping.ready_file, shutdown }
        } else {
            if cli.stopping.ready_file.is_some() {
                return Err(Invalid::NoCommand("--ready-file"));
            }
            if !shutdown.actions.is_empty() || shutdown.auto == ShutdownAuto::Too {
                return Err(Invalid::NoCommand(
                    "what ends sidecars (-g, -p, -k, -K, --shutdown-known, --shutdown-auto)",
                ));
            }
            if cli.stopping.hold_term.is_some() && api.ask == AskApi::Off && mains.is_empty() {
                return Err(Invalid::NeedsApi("--hold-term without --until-exit=NAME"));
            }
            let stop = Stop {
                signal: cli.stopping.stop_signal,
                timeout: cli.stopping.stop_timeout.into(),
                hold: cli.stopping.hold_term,
            };
            let env_files = lower::env_files(&mut cli.environment);
            Duty::Command(lower::command(cli.command, &cli.environment)?, env_files, stop)
        };
        Ok(Self { claim, mains, duty, status: cli.status.status_address, disabled, api, gate })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cli::Task;

    fn plan(arguments: &[&str]) -> Result<SidecarPlan, Invalid> {
        let Ok(Task::Sidecar(cli)) = Task::of(&[&["proa", "sidecar"], arguments].concat()) else {
            panic!("no valid command line for a sidecar: {arguments:?}");
        };
        SidecarPlan::new(*cli, &Environment::new())
    }

    #[test]
    fn the_main_containers_may_be_named_by_the_end_that_counts() {
        let mains = plan(&["--until-exit=a b", "--until-exit-success=c", "--", "x"]).unwrap().mains;
        let ends: Vec<_> = mains.iter().map(|main| (main.name.as_str(), main.end)).collect();
        assert_eq!(ends, [("a", End::ForGood), ("b", End::ForGood), ("c", End::Success)]);
    }

    #[test]
    fn hold_term_takes_a_time_or_none() {
        let hold = |flag: &str| match plan(&[flag, "--", "x"]).unwrap().duty {
            Duty::Command(_, _, stop) => stop.hold,
            Duty::Help { .. } => panic!("a command was given"),
        };
        assert_eq!(hold("--hold-term"), Some(HoldTerm::Grace));
        assert_eq!(hold("--hold-term=20s"), Some(HoldTerm::For(Duration::from_secs(20))));
        assert_eq!(hold("--hold-term=0"), Some(HoldTerm::Grace), "0 is no limit of its own");
    }

    #[test]
    fn what_a_command_has_no_use_for_or_needs_is_refused() {
        assert!(matches!(plan(&["--hold-term"]), Err(Invalid::NeedsCommand("--hold-term"))));
        assert!(matches!(plan(&["--ready-file=/r", "--", "x"]), Err(Invalid::NoCommand("--ready-file"))));
        assert!(matches!(plan(&["-K", "--", "x"]), Err(Invalid::NoCommand(_))));
        assert!(matches!(plan(&["--api=off"]), Err(Invalid::BlindHelper)));
        assert!(matches!(
            plan(&["--api=off", "--hold-term", "--", "x"]),
            Err(Invalid::NeedsApi("--hold-term without --until-exit=NAME"))
        ));
        assert!(plan(&["--api=off", "--", "x"]).is_ok());
    }
}
