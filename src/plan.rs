//! What will happen: the command line and environment, lowered to one value. Validation ends here.

mod lower;
pub mod quit;
pub mod selection;
pub mod sidecar;
pub mod wait;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;

use crate::child::Command;
use crate::cli::Cli;
use crate::cluster::{ApiServer, SERVICE_HOST, SERVICE_PORT};
use crate::env_file::EnvFiles;
use crate::gate::{Gate, Insists, Looks};
use crate::identity::Claim;
use crate::known::NoEndpoint;
use crate::policy::{AskApi, OnSidecarExit, Precedence, ShutdownAuto};
use crate::shutdown::{Shutdown, Spared};
use crate::warnings::Asked;
use selection::Selection;

/// Everything that was asked for, checked.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What flags and variables say of who we are.
    pub claim: Claim,
    /// How the API server is reached.
    pub api: ApiServer,
    /// What is waited for, and how long.
    pub gate: Gate,
    /// What is run.
    pub command: Command,
    /// Variables for it, which are read once the gate is open.
    pub env_files: EnvFiles,
    /// How the sidecars are ended.
    pub shutdown: Shutdown,
    /// What follows when a sidecar ends for good while the command runs.
    pub on_sidecar_exit: OnSidecarExit,
    /// Where to tell what proa is doing.
    pub status: Option<SocketAddr>,
    /// Whether the command is run and nothing else done.
    pub disabled: bool,
}

/// The variables that are read beside the flags' own, taken out of the environment by the caller.
pub type Environment = BTreeMap<String, String>;

/// What the downward API conventionally calls the Pod's name.
pub const POD_NAME: &str = "POD_NAME";
/// What the downward API conventionally calls the Pod's namespace.
pub const POD_NAMESPACE: &str = "POD_NAMESPACE";
/// Every variable that [`Plan::new`] looks at.
pub const VARIABLES: [&str; 4] = [POD_NAME, POD_NAMESPACE, SERVICE_HOST, SERVICE_PORT];

/// Why the command line makes no plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invalid {
    /// The command's name is empty.
    EmptyCommand,
    /// `KUBERNETES_SERVICE_PORT` is no port.
    ServicePort(String),
    /// A sidecar both waited for and ignored.
    Contradiction(String),
    /// Names of containers, and nobody to ask about them.
    Nameless(String),
    /// A well-known sidecar cannot be asked that.
    Known(NoEndpoint),
    /// A flag of `proa sidecar` that needs a command.
    NeedsCommand(&'static str),
    /// A flag of `proa sidecar` that a command has no use for.
    NoCommand(&'static str),
    /// Without the API server nothing tells which the main containers are.
    NeedsApi(&'static str),
    /// Without the API server nothing tells a helper when they have ended.
    BlindHelper,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EmptyCommand => write!(f, "the command after `--` is empty; expected a program to run"),
            Self::ServicePort(found) => {
                write!(f, "{SERVICE_PORT} is `{found}`; expected a port number from 1 to 65535")
            }
            Self::Contradiction(name) => {
                write!(f, "`{name}` is in both --wait-for and --ignore; take it out of one of them")
            }
            Self::Nameless(name) => write!(
                f,
                "--wait-for={name} needs the API server, which --api=off forbids; use --wait-http-get, --wait-tcp, \
                 --wait-file or --wait-known"
            ),
            Self::Known(unasked) => write!(f, "{unasked}"),
            Self::NeedsCommand(flag) => {
                write!(f, "{flag} is for a sidecar that proa runs; expected a command after `--`")
            }
            Self::NoCommand(flag) => write!(
                f,
                "{flag} is for `proa sidecar` without a command; with one it ends that command alone, and the main \
                 container's proa ends the others"
            ),
            Self::NeedsApi(what) => write!(f, "{what} needs the API server, which --api=off forbids"),
            Self::BlindHelper => write!(
                f,
                "`proa sidecar` without a command sees the exit of the main containers in the API, which --api=off forbids; \
                 expected a Role that allows it to watch its Pod, or proa in the main containers"
            ),
        }
    }
}

impl std::error::Error for Invalid {}

impl Plan {
    /// Lowers what was asked to what will happen.
    ///
    /// # Errors
    /// When values that are fine on their own make no sense together.
    pub fn new(mut cli: Cli, environment: &Environment) -> Result<Self, Invalid> {
        let disabled = cli.environment.disabled;
        if disabled {
            let ending = (&mut cli.when.shutdown_when, &mut cli.ending);
            lower::disable(&mut cli.waiting, &mut cli.environment, ending, &mut cli.who);
            cli.exits.wait_exit.clear();
        }
        let (claim, api) = lower::who(cli.who, environment)?;
        let gate = lower::gate(
            cli.waiting,
            lower::flatten(cli.mains.main),
            lower::flatten(cli.exits.wait_exit),
            api.ask,
        )?;
        let on_sidecar_exit = if disabled { OnSidecarExit::Ignore } else { cli.watching.on_sidecar_exit };
        if !gate.selection.mains.is_empty() && api.ask == AskApi::Off && !disabled {
            return Err(Invalid::NeedsApi("--main"));
        }
        if on_sidecar_exit == OnSidecarExit::Stop && api.ask == AskApi::Off {
            return Err(Invalid::NeedsApi("--on-sidecar-exit=stop"));
        }
        Ok(Self {
            claim,
            env_files: lower::env_files(&mut cli.environment),
            command: lower::command(cli.command, &cli.environment)?,
            shutdown: lower::shutdown(cli.when.shutdown_when, cli.ending, gate.selection.ignore.clone())?,
            status: cli.status.status_address,
            on_sidecar_exit,
            disabled,
            api,
            gate,
        })
    }

    /// What follows a command line that makes no plan: the end of the sidecars that need no flag to be known. `cli`: what
    /// can be read of it.
    #[must_use]
    pub fn after_mistake(cli: Cli, environment: &Environment) -> Self {
        let forward_to = cli.environment.forward_to;
        let (claim, api) = lower::who_is_known(cli.who, environment);
        let ignore = lower::flatten(cli.waiting.ignore);
        Self {
            claim,
            api,
            gate: Gate {
                selection: Selection {
                    ignore: ignore.clone(),
                    mains: lower::flatten(cli.mains.main),
                    ..Selection::default()
                },
                waits: Vec::new(),
                known: Vec::new(),
                timeout: lower::limit(cli.waiting.ready_timeout.unwrap_or(lower::READY_TIMEOUT)),
                looks: Looks::default(),
                insists: Insists::Yes,
                on_timeout: cli.waiting.on_timeout,
            },
            // It is never run.
            command: Command { program: OsString::new(), args: Vec::new(), forward_to },
            env_files: EnvFiles { paths: Vec::new(), precedence: Precedence::Environment },
            shutdown: Shutdown {
                when: cli.when.shutdown_when,
                actions: Vec::new(),
                auto: if cli.ending.no_shutdown_auto { ShutdownAuto::Off } else { ShutdownAuto::Otherwise },
                timeout: cli.ending.shutdown_timeout.into(),
                spared: Spared::Entrypoint,
                ignore,
            },
            on_sidecar_exit: OnSidecarExit::Ignore,
            status: None,
            disabled: cli.environment.disabled,
        }
    }

    /// What was asked for, as the warnings need it.
    #[must_use]
    pub fn asked(&self) -> Asked<'_> {
        Asked {
            selection: &self.gate.selection,
            wait: (!self.disabled).then(|| self.gate.wait(true)),
            shutdown: Some(&self.shutdown),
            stop_timeout: None,
            status_port: self.status.map(|address| address.port()),
        }
    }

    /// Whether what is asked directly makes do without an API server that denies us or cannot be reached.
    #[must_use]
    pub fn api_is_dispensable(&self) -> bool {
        self.gate.makes_do_without(self.api.ask)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cli::Task;
    use crate::endpoint::{Method, Request};
    use crate::shutdown::{Action, Processes};
    use crate::signal::Signal;

    fn plan(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Plan, Invalid> {
        let Ok(Task::Main(cli)) = Task::of(&[&["proa"], arguments].concat()) else {
            panic!("no valid command line for a main container: {arguments:?}");
        };
        let pairs = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Plan::new(*cli, &pairs.collect())
    }

    #[test]
    fn what_follows_the_two_hyphens_is_the_commands_own() {
        let plan = plan(&["--", "sh", "-c", "exit 3", "--", "--help"], &[]).unwrap();
        assert_eq!(plan.command.program, "sh");
        assert_eq!(plan.command.args, ["-c", "exit 3", "--", "--help"]);
    }

    #[test]
    fn repeated_flags_and_lists_add_up() {
        let plan = plan(
            &[
                "--ignore",
                "a b",
                "--ignore=c",
                "-g",
                "http://localhost:1/ http://localhost:2/",
                "-K",
                "--",
                "x",
            ],
            &[],
        )
        .unwrap();
        assert_eq!(plan.gate.selection.ignore, ["a", "b", "c"]);
        assert_eq!(plan.shutdown.ignore, plan.gate.selection.ignore);
        let get = |url: &str| Action::Http(Request::new(Method::Get, url.parse().unwrap()));
        let all = Action::Kill(Processes::All, Signal::TERM);
        assert_eq!(plan.shutdown.actions, [get("http://localhost:1/"), get("http://localhost:2/"), all]);
    }

    #[test]
    fn a_ready_timeout_of_0_is_none() {
        assert_eq!(plan(&["--ready-timeout=0", "--", "x"], &[]).unwrap().gate.timeout, None);
        assert_eq!(plan(&["--", "x"], &[]).unwrap().gate.timeout, Some(Duration::from_secs(600)));
    }

    #[test]
    fn flags_win_over_the_downward_apis_variables() {
        let environment = [(POD_NAME, "a"), (POD_NAMESPACE, "")];
        let claim = plan(&["--", "x"], &environment).unwrap().claim;
        assert_eq!(claim.pod_name.as_deref(), Some("a"));
        assert_eq!(claim.namespace, None, "an empty variable is none");
        assert_eq!(
            plan(&["--pod-name=b", "--", "x"], &environment).unwrap().claim.pod_name.as_deref(),
            Some("b")
        );
    }

    #[test]
    fn values_that_make_no_sense_together_are_refused() {
        assert_eq!(
            plan(&["--wait-for=a", "--ignore=a", "--", "x"], &[]).unwrap_err(),
            Invalid::Contradiction("a".into())
        );
        assert_eq!(plan(&["--", ""], &[]).unwrap_err(), Invalid::EmptyCommand);
        let environment = [(SERVICE_HOST, "10.0.0.1"), (SERVICE_PORT, "tcp://10.0.0.1:443")];
        assert!(matches!(plan(&["--", "x"], &environment), Err(Invalid::ServicePort(_))));
    }

    #[test]
    fn well_known_sidecars_stand_for_their_endpoints() {
        let flags = ["--wait-known=envoy", "--wait-file=/a /b", "--shutdown-known=vault-agent", "--", "x"];
        let plan = plan(&flags, &[]).unwrap();
        let waits: Vec<_> = plan.gate.waits.iter().map(ToString::to_string).collect();
        assert_eq!(waits, ["/a", "/b"]);
        assert_eq!(plan.gate.known[0].1.as_str(), "http://localhost:9901/ready");
        let Action::Known(known, otherwise) = &plan.shutdown.actions[0] else { panic!("another action") };
        assert_eq!(
            (known.name, otherwise.to_string().as_str()),
            ("vault-agent", "POST http://localhost:8200/agent/v1/quit")
        );
    }

    #[test]
    fn direct_waits_make_do_without_the_api_unless_it_is_required() {
        let makes_do = |flags: &[&str]| {
            let plan = plan(&[flags, &["--", "x"]].concat(), &[]).unwrap();
            plan.api_is_dispensable()
        };
        assert!(!makes_do(&[]));
        assert!(makes_do(&["--wait-tcp=a:1"]));
        assert!(!makes_do(&["--wait-tcp=a:1", "--api=require"]));
        assert!(makes_do(&["--api=off"]));
    }

    /// What stands between `/proa` and `--` in the guides.
    #[test]
    fn the_guides_commands_are_understood() {
        let docs = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/docs")).unwrap();
        let mut found = 0;
        let pages = docs.map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
        for page in pages {
            let text = std::fs::read_to_string(&page).unwrap();
            for command in text.split("command: [/proa,").skip(1) {
                let command = command.split(']').next().unwrap_or_default();
                let words = command.split(',').map(|word| word.trim().trim_matches(['"', '\'']));
                let flags: Vec<_> = words.take_while(|word| !["--", ""].contains(word)).collect();
                let words = [&["proa"], &flags[..], &["--", "/app"]].concat();
                let understood = match flags.first() {
                    Some(&("sidecar" | "install")) => Task::of(&words[..=flags.len()]).is_ok(),
                    _ => plan(&words[1..], &[]).is_ok(),
                };
                assert!(understood, "{}: {flags:?}", page.display());
                found += 1;
            }
        }
        assert!(found > 10, "{found}");
    }
}
