//! What was asked: the command line, its variables and its help.

pub mod flags;
pub mod manifest;
mod mistake;
pub mod variables;

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::endpoint::without_secrets;
use crate::known;
use flags::{
    Ending, Environment, Exits, Looking, Mains, Output, Quitting, Status, Stopping, Until, Waiting, Watching,
    When, Who,
};
use variables::{UnknownVariable, is_ours, unknown, without_unset};

const AFTER_HELP: &str = "\
Exit codes:
  the command's own, or 128+n when signal n ended it
  127  the command was not found        126  it could not be executed
    2  wrong usage or Pod set-up         69  a sidecar exited for good
   70  proa itself failed                75  sidecars not ready in time
   77  forbidden by RBAC              128+n  signal n came before the command

Every flag has a variable: --ready-timeout is PROA_READY_TIMEOUT. The variable
of a repeatable flag takes several values separated by spaces. An empty
variable counts as unset. A switch takes 1 or 0, true or false, yes or no.
Durations read 500ms, 30s, 5m, 1h; 0 is no limit.
RUST_LOG counts only where it names proa, as in RUST_LOG=proa=debug: any other
is meant for COMMAND.";

/// Entrypoint of a Kubernetes container that runs beside sidecars: waits until
/// they are ready, runs COMMAND, shuts them down, and exits with its exit code.
#[derive(Debug, Parser)]
#[command(
    name = "proa",
    version,
    after_help = AFTER_HELP,
    term_width = 80,
    disable_help_flag = true,
    disable_version_flag = true,
    disable_help_subcommand = true,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    override_usage = "proa [OPTIONS] -- COMMAND [ARG]...\n       proa sidecar [OPTIONS] [-- COMMAND [ARG]...]\n       \
                      proa wait [OPTIONS]\n       proa quit [OPTIONS]\n       proa install DEST\n       proa known",
)]
struct Arguments {
    #[command(subcommand)]
    other: Option<Other>,
    #[command(flatten)]
    cli: Cli,
    /// Print the version
    #[arg(short = 'V', long, action = ArgAction::Version, help_heading = "Output")]
    version: Option<bool>,
}

/// What else there is to do.
#[derive(Debug, Subcommand)]
enum Other {
    /// Entrypoint of a sidecar, or helper container
    Sidecar(Box<SidecarCli>),
    /// Wait until the sidecars are ready, and exit: for init containers and probes
    Wait(Box<WaitCli>),
    /// Shut the sidecars down, and exit: for preStop hooks and scripts
    Quit(Box<QuitCli>),
    /// Copy this binary to a volume, for images that do not have it
    Install {
        /// Target: a file, or a directory, where it is called `proa`
        #[arg(value_name = "DEST")]
        destination: PathBuf,
        /// Print this help
        #[arg(short = 'h', long, action = ArgAction::Help)]
        help: Option<bool>,
    },
    /// List the well-known sidecars: how proa waits for each and shuts it down
    Known {
        /// Print this help
        #[arg(short = 'h', long, action = ArgAction::Help)]
        help: Option<bool>,
    },
}

/// What is asked of the entrypoint of a main container.
#[derive(Debug, Args)]
pub struct Cli {
    /// What is waited for.
    #[command(flatten)]
    pub waiting: Waiting,
    /// Whose exit is waited for.
    #[command(flatten)]
    pub exits: Exits,
    /// Which containers are no sidecars.
    #[command(flatten)]
    pub mains: Mains,
    /// What is watched while the command runs.
    #[command(flatten)]
    pub watching: Watching,
    /// How the command is run.
    #[command(flatten)]
    pub environment: Environment,
    /// After which exits the sidecars are shut down.
    #[command(flatten)]
    pub when: When,
    /// How the sidecars are shut down.
    #[command(flatten)]
    pub ending: Ending,
    /// Who we are.
    #[command(flatten)]
    pub who: Who,
    /// Where it is seen what proa does.
    #[command(flatten)]
    pub status: Status,
    /// What is told.
    #[command(flatten)]
    pub output: Output,
    /// The command to run, after `--`, and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND", hide = true)]
    pub command: Vec<OsString>,
}

const AFTER_SIDECAR_HELP: &str = "\
With COMMAND: runs it, stops it once the main containers have exited for good,
and exits with 0 if proa stopped it, with its own code otherwise. Without:
waits as the flags say, writes the ready file, and shuts down the Pod's other
sidecars once the main containers have exited for good.

Exit codes beside those of `proa --help`:
   73  the ready file cannot be written";

/// Entrypoint of a sidecar: runs COMMAND until the main containers have exited. Or,
/// without COMMAND, a helper for main containers that proa is not in.
#[derive(Debug, Args)]
#[command(
    after_help = AFTER_SIDECAR_HELP,
    term_width = 80,
    disable_help_flag = true,
    override_usage = "proa sidecar [OPTIONS] [-- COMMAND [ARG]...]",
)]
pub struct SidecarCli {
    /// Whose end is waited for.
    #[command(flatten)]
    pub until: Until,
    /// How the command is ended.
    #[command(flatten)]
    pub stopping: Stopping,
    /// What is waited for first.
    #[command(flatten)]
    pub waiting: Waiting,
    /// How the command is run.
    #[command(flatten)]
    pub environment: Environment,
    /// After which exits the other sidecars are shut down.
    #[command(flatten)]
    pub when: When,
    /// How the other sidecars are shut down.
    #[command(flatten)]
    pub ending: Ending,
    /// Who we are.
    #[command(flatten)]
    pub who: Who,
    /// Where it is seen what proa does.
    #[command(flatten)]
    pub status: Status,
    /// What is told.
    #[command(flatten)]
    pub output: Output,
    /// The command to run, after `--`, and its arguments
    #[arg(last = true, value_name = "COMMAND", hide = true)]
    pub command: Vec<OsString>,
}

const AFTER_WAIT_HELP: &str = "\
As an init container it waits for the native sidecars before it, and exits.
Exit codes are those of `proa --help`: 0 once the wait is over, 75 if it is not
over in time.";

/// Waits until the sidecars are ready, and exits.
#[derive(Debug, Args)]
#[command(
    after_help = AFTER_WAIT_HELP,
    term_width = 80,
    disable_help_flag = true,
    override_usage = "proa wait [OPTIONS]",
)]
pub struct WaitCli {
    /// What is waited for.
    #[command(flatten)]
    pub waiting: Waiting,
    /// Whose exit is waited for.
    #[command(flatten)]
    pub exits: Exits,
    /// Which containers are no sidecars.
    #[command(flatten)]
    pub mains: Mains,
    /// How it looks, and what it leaves behind.
    #[command(flatten)]
    pub looking: Looking,
    /// Who we are.
    #[command(flatten)]
    pub who: Who,
    /// Where it is seen what proa does.
    #[command(flatten)]
    pub status: Status,
    /// What is told.
    #[command(flatten)]
    pub output: Output,
}

const AFTER_QUIT_HELP: &str = "\
Exit codes: 0 if every sidecar took its request and exited, 1 if not, with its
name; 2 and 70 as in `proa --help`.";

/// Shuts the sidecars down, and exits.
#[derive(Debug, Args)]
#[command(
    after_help = AFTER_QUIT_HELP,
    term_width = 80,
    disable_help_flag = true,
    override_usage = "proa quit [OPTIONS]",
)]
pub struct QuitCli {
    /// How it goes about it.
    #[command(flatten)]
    pub quitting: Quitting,
    /// How the sidecars are shut down.
    #[command(flatten)]
    pub ending: Ending,
    /// Which containers are no sidecars.
    #[command(flatten)]
    pub mains: Mains,
    /// Who we are.
    #[command(flatten)]
    pub who: Who,
    /// What is told.
    #[command(flatten)]
    pub output: Output,
}

/// What proa is to do.
#[derive(Debug)]
pub enum Task {
    /// Be the entrypoint of a main container.
    Main(Box<Cli>),
    /// Be a sidecar.
    Sidecar(Box<SidecarCli>),
    /// Wait, and exit.
    Wait(Box<WaitCli>),
    /// Shut the sidecars down, and exit.
    Quit(Box<QuitCli>),
    /// Copy the binary there.
    Install(PathBuf),
}

/// What there is to say instead of running.
#[derive(Debug)]
pub enum Answer {
    /// Help, version or the table: for stdout.
    Asked(String),
    /// The command line is wrong.
    Usage {
        /// What is wrong with it: for stderr.
        text: String,
        /// What can be read all the same, where it is meant for the entrypoint of a main container.
        readable: Option<Box<Cli>>,
    },
}

/// Reads the command line and the flags' variables.
///
/// # Errors
/// When there is nothing to do: help was asked for, or the command line is wrong.
pub fn read() -> Result<Task, Answer> {
    read_words(&env::args_os().collect::<Vec<_>>())
}

/// Reads these words, of which the first is the program's own, and the flags' variables.
///
/// # Errors
/// When there is nothing to do: help was asked for, or the command line is wrong.
pub fn read_words(words: &[OsString]) -> Result<Task, Answer> {
    let arguments =
        parse(without_unset(Arguments::command()), words).map_err(|error| match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Answer::Asked(error.to_string()),
            _ => {
                let given = words.get(1..).unwrap_or_default();
                Answer::Usage {
                    text: without_secrets_of(mistake::explain(error, given), texts(given)),
                    readable: mistake::readable(given).map(Box::new),
                }
            }
        })?;
    arguments.task().ok_or_else(|| Answer::Asked(known::table()))
}

impl Arguments {
    /// What there is to do. `None`: to print the table of well-known sidecars.
    fn task(self) -> Option<Task> {
        Some(match self.other {
            None => Task::Main(Box::new(self.cli)),
            Some(Other::Sidecar(cli)) => Task::Sidecar(cli),
            Some(Other::Wait(cli)) => Task::Wait(cli),
            Some(Other::Quit(cli)) => Task::Quit(cli),
            Some(Other::Install { destination, .. }) => Task::Install(destination),
            Some(Other::Known { .. }) => return None,
        })
    }
}

impl Task {
    /// What is told meanwhile, and where.
    #[must_use]
    pub fn output(&self) -> Option<&Output> {
        match self {
            Self::Main(cli) => Some(&cli.output),
            Self::Sidecar(cli) => Some(&cli.output),
            Self::Wait(cli) => Some(&cli.output),
            Self::Quit(cli) => Some(&cli.output),
            Self::Install(_) => None,
        }
    }
}

fn parse(mut command: clap::Command, words: &[OsString]) -> Result<Arguments, clap::Error> {
    let matches = command.try_get_matches_from_mut(words)?;
    Arguments::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

/// What can be read of a command line that cannot be carried out. `None`: it is not meant for the entrypoint of a main
/// container.
#[must_use]
pub fn readable() -> Option<Cli> {
    let words: Vec<_> = env::args_os().skip(1).collect();
    mistake::readable(&words)
}

/// The variables that look like a flag's and are none.
#[must_use]
pub fn unknown_variables() -> Vec<UnknownVariable> {
    let text = |text: OsString| text.to_string_lossy().into_owned();
    let all: Vec<_> = env::vars_os().map(|(name, value)| (text(name), text(value))).collect();
    unknown(&Arguments::command(), &all)
}

/// What was given: every word and every variable of ours.
fn texts(words: &[OsString]) -> impl Iterator<Item = String> {
    let words = words.iter().map(|word| word.to_string_lossy().into_owned());
    let variables = env::vars_os().filter(|(name, _)| is_ours(name));
    words.chain(variables.map(|(_, value)| value.to_string_lossy().into_owned()))
}

/// An error quotes what it is about, which may be a URL with a password or a token in it.
fn without_secrets_of(mut text: String, given: impl Iterator<Item = String>) -> String {
    let parts = given.flat_map(|value| {
        let behind = value.split_once('=').map(|(_, rest)| rest.to_owned());
        // One word may hold several values.
        let parts: Vec<_> = value.split_whitespace().map(str::to_owned).collect();
        [Some(value), behind].into_iter().flatten().chain(parts)
    });
    let mut secret: Vec<_> = parts.filter(|value| value.contains(['?', '#', '@'])).collect();
    // The whole before its parts.
    secret.sort_by_key(|value| std::cmp::Reverse(value.len()));
    for value in secret {
        text = text.replace(&value, &without_secrets(&value));
    }
    text
}

#[cfg(test)]
impl Task {
    /// Reads these words.
    pub(crate) fn of(words: &[&str]) -> Result<Self, clap::Error> {
        let words: Vec<_> = words.iter().map(OsString::from).collect();
        let arguments = parse(without_unset(Arguments::command()), &words)?;
        Ok(arguments.task().expect("something to do"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_main_containers_flags_are_known_by_their_names() {
        let command = Arguments::command();
        let flags = command.get_arguments().filter_map(clap::Arg::get_long);
        let mut flags: Vec<_> = flags.filter(|flag| !["help", "version"].contains(flag)).collect();
        flags.sort_unstable();
        assert_eq!(flags, known::FLAGS);
    }
}
