//! What `proa quit` does.

use super::{Environment, Invalid, lower};
use crate::cli::QuitCli;
use crate::cluster::ApiServer;
use crate::identity::Claim;
use crate::policy::{AskApi, ShutdownWhen};
use crate::shutdown::{Shutdown, Spared};

/// Everything that was asked of a shutdown, checked.
#[derive(Debug, Clone)]
pub struct QuitPlan {
    /// What flags and variables say of who we are.
    pub claim: Claim,
    /// How the API server is reached.
    pub api: ApiServer,
    /// How the sidecars are shut down.
    pub shutdown: Shutdown,
    /// Other main containers.
    pub mains: Vec<String>,
    /// Whether it is only said what would be done.
    pub dry_run: bool,
    /// Whether nothing is done.
    pub disabled: bool,
}

impl QuitPlan {
    /// Lowers what was asked to what will happen.
    ///
    /// # Errors
    /// When values that are fine on their own make no sense together.
    pub fn new(cli: QuitCli, environment: &Environment) -> Result<Self, Invalid> {
        let (claim, api) = lower::who(cli.who, environment)?;
        let mains = lower::flatten(cli.mains.main);
        if !mains.is_empty() && api.ask == AskApi::Off && !cli.quitting.disabled {
            return Err(Invalid::NeedsApi("--main"));
        }
        let ignore = lower::flatten(cli.quitting.ignore);
        let shutdown = lower::shutdown(ShutdownWhen::Always, cli.ending, ignore)?;
        Ok(Self {
            claim,
            api,
            shutdown: Shutdown { spared: Spared::OwnContainer, ..shutdown },
            mains,
            dry_run: cli.quitting.dry_run,
            disabled: cli.quitting.disabled,
        })
    }

    /// Whether the flags say what to do without sight of the Pod.
    #[must_use]
    pub fn api_is_dispensable(&self) -> bool {
        self.api.ask != AskApi::Require && !self.shutdown.actions.is_empty()
    }
}
