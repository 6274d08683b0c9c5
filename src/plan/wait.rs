//! What `proa wait` does.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::{Environment, Invalid, lower};
use crate::cli::WaitCli;
use crate::cluster::ApiServer;
use crate::env_file::EnvFiles;
use crate::gate::{Gate, Looks};
use crate::identity::Claim;
use crate::policy::{AskApi, Precedence};
use crate::warnings::Asked;

/// How long one look takes at most, unless a flag says: a probe has 1 second by default (`timeoutSeconds`), which starting the
/// process counts in.
const ONCE: Duration = Duration::from_millis(800);

/// Everything that was asked of a wait, checked.
#[derive(Debug, Clone)]
pub struct WaitPlan {
    /// What flags and variables say of who we are.
    pub claim: Claim,
    /// How the API server is reached.
    pub api: ApiServer,
    /// What is waited for, and how long.
    pub gate: Gate,
    /// Written once the wait is over.
    pub ready_file: Option<PathBuf>,
    /// Files that are to be readable then.
    pub env_files: EnvFiles,
    /// Where to tell what proa is doing.
    pub status: Option<SocketAddr>,
    /// Whether nothing is waited for.
    pub disabled: bool,
}

impl WaitPlan {
    /// Lowers what was asked to what will happen.
    ///
    /// # Errors
    /// When values that are fine on their own make no sense together.
    pub fn new(mut cli: WaitCli, environment: &Environment) -> Result<Self, Invalid> {
        let disabled = cli.looking.disabled;
        if disabled {
            lower::wait_for_nothing(&mut cli.waiting, &mut cli.who);
            cli.exits.wait_exit.clear();
            cli.looking.env_file.clear();
        }
        let limit = cli.waiting.ready_timeout;
        let (claim, api) = lower::who(cli.who, environment)?;
        let (mains, exits) = (lower::flatten(cli.mains.main), lower::flatten(cli.exits.wait_exit));
        if !mains.is_empty() && api.ask == AskApi::Off && !disabled {
            return Err(Invalid::NeedsApi("--main"));
        }
        let mut gate = lower::gate(cli.waiting, mains, exits, api.ask)?;
        gate.looks =
            Looks { once: cli.looking.once, pause: cli.looking.interval.filter(|pause| !pause.is_zero()) };
        if cli.looking.once && limit.is_none() {
            gate.timeout = Some(ONCE);
        }
        let paths = lower::flatten(cli.looking.env_file);
        Ok(Self {
            claim,
            api,
            gate,
            ready_file: cli.looking.ready_file,
            env_files: EnvFiles { paths, precedence: Precedence::Environment },
            // A probe's process is one of many, in a container whose proa may serve there.
            status: cli.status.status_address.filter(|_| !cli.looking.once),
            disabled,
        })
    }

    /// What was asked for, as the warnings need it.
    #[must_use]
    pub fn asked(&self) -> Asked<'_> {
        Asked {
            selection: &self.gate.selection,
            // A probe looks every few seconds: what it shows is not said each time.
            wait: (!self.disabled && !self.gate.looks.once).then(|| self.gate.wait(true)),
            shutdown: None,
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
