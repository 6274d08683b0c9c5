//! The choices a user makes, as types in which nothing else can be written.

use std::time::Duration;

use clap::ValueEnum;

/// Whether the API server is asked about the own Pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AskApi {
    /// Where it can be; direct waits make do without it.
    Auto,
    /// Always: nothing goes on without it.
    Require,
    /// Where it can be; nothing depends on it: somebody else has put proa here.
    Optional,
    /// Never.
    Off,
}

/// What follows when the sidecars are not ready in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnTimeout {
    /// End with exit code 75.
    Fail,
    /// Go on all the same: run the command, if there is one.
    Run,
}

/// What follows when a sidecar ends for good while the command runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnSidecarExit {
    /// Nothing: nobody looks.
    Ignore,
    /// The command is stopped.
    Stop,
}

/// After which ends the sidecars are ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ShutdownWhen {
    /// Unless the kubelet will start this container again.
    Auto,
    /// After every end.
    Always,
    /// After exit code 0.
    Success,
    /// After none.
    Never,
}

/// Whether well-known sidecars are ended in their own way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShutdownAuto {
    /// Where no action is given.
    Otherwise,
    /// Beside the actions given.
    Too,
    /// Not at all.
    Off,
}

/// Whose word counts where the container's environment and a file of variables both have one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precedence {
    /// The environment's, then the first file's.
    Environment,
    /// The last file's.
    File,
}

/// Who gets the signals that proa receives while the command runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ForwardTo {
    /// The command's first process.
    Child,
    /// Its process group.
    Group,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One line of text an event.
    Text,
    /// One JSON object an event.
    Json,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// What makes proa fail.
    Error,
    /// What will go wrong, too.
    Warn,
    /// What proa does, too.
    Info,
    /// Why, too.
    Debug,
    /// Everything.
    Trace,
}

/// How long a sidecar's command is kept from the end of its Pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoldTerm {
    /// As long as the grace period allows.
    Grace,
    /// No longer than this either.
    For(Duration),
}

/// A limit of time that a flag sets. 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Not set: as the Pod says.
    Default,
    /// No limit of the flag's own.
    None,
    /// This long.
    For(Duration),
}

impl From<Option<Duration>> for Limit {
    fn from(flag: Option<Duration>) -> Self {
        match flag {
            None => Self::Default,
            Some(Duration::ZERO) => Self::None,
            Some(limit) => Self::For(limit),
        }
    }
}

/// What the variable of a flag without a value may be.
///
/// # Errors
/// When it is none of these, with what was expected.
pub fn switch(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" => Ok(true),
        "0" | "false" | "no" => Ok(false),
        _ => Err("expected 1 or 0, true or false, yes or no".to_owned()),
    }
}
