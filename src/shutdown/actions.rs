//! What was asked for to end the sidecars.

use crate::endpoint::Request;
use crate::known::Known;
use crate::policy::{Limit, ShutdownAuto, ShutdownWhen};
use crate::signal::Signal;

/// How the sidecars are ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shutdown {
    /// After which ends.
    pub when: ShutdownWhen,
    /// In the order given: GETs, POSTs, well-known ones, kills. Those of a stage run side by side.
    pub actions: Vec<Action>,
    /// Whether the well-known sidecars of the Pod are ended too.
    pub auto: ShutdownAuto,
    /// How long the actions and the sidecars' exit may take together.
    pub timeout: Limit,
    /// Sidecars whose exit is not waited for.
    pub ignore: Vec<String>,
    /// Which processes of our own container no signal reaches.
    pub spared: Spared,
}

/// Which processes of our own container no signal reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spared {
    /// proa, and what it has started: it is the entrypoint.
    Entrypoint,
    /// All of them: the container's own program runs there.
    OwnContainer,
}

/// One way to end one or more sidecars.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// An HTTP request.
    Http(Request),
    /// The request that ends a well-known sidecar; this one if the Pod does not tell.
    Known(&'static Known, Request),
    /// A signal to processes in the Pod's shared process namespace.
    Kill(Processes, Signal),
}

/// Which processes a signal goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Processes {
    /// Those with this executable name or `argv[0]` base name.
    Named(String),
    /// All others.
    All,
}
