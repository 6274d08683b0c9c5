//! What was asked: the command line, its variables and its help.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{ArgAction, Args, Parser, Subcommand};

use crate::endpoint::{Address, HttpUrl};
use crate::known::{self, Named};
use crate::policy::{AskApi, ForwardTo, LogFormat, OnTimeout, ShutdownWhen};
use crate::signal::Signal;

const AFTER_HELP: &str = "\
Exit codes:
  the command's own, or 128+n when signal n ended it
  127  the command was not found        126  it could not be executed
    2  wrong usage or Pod set-up         69  a sidecar ended for good
   70  proa itself failed                75  sidecars not ready in time
   77  forbidden by RBAC              128+n  signal n came before the command

Every flag has a variable: --ready-timeout is PROA_READY_TIMEOUT. Where a flag
repeats, a value of it, or of its variable, may be several separated by spaces.
Durations read 500ms, 30s, 5m, 1h. RUST_LOG sets what is logged.";

/// Entrypoint of a Kubernetes container that runs beside sidecars: waits until
/// they are ready, runs COMMAND, ends them, and exits with its exit code.
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
    override_usage = "proa [OPTIONS] -- COMMAND [ARG]...\n       proa known",
)]
struct Arguments {
    #[command(subcommand)]
    other: Option<Other>,
    #[command(flatten)]
    cli: Cli,
}

/// What else there is to do.
#[derive(Debug, Subcommand)]
enum Other {
    /// Print the sidecars that proa knows, how each is asked and ended
    Known,
}

/// What is asked of the entrypoint of a main container.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "what a command line holds; the plan has enums")]
pub struct Cli {
    /// Wait for these containers only, by name
    #[arg(long, env = "PROA_WAIT_FOR", value_name = "NAME", help_heading = "Waiting", hide_env = true)]
    pub wait_for: Vec<List<String>>,

    /// Do not wait for these containers, neither to be ready nor to exit
    #[arg(long, env = "PROA_IGNORE", value_name = "NAME", help_heading = "Waiting", hide_env = true)]
    pub ignore: Vec<List<String>>,

    /// Wait until GET on this URL answers with 2xx; repeatable
    #[arg(long, env = "PROA_WAIT_HTTP_GET", value_name = "URL", help_heading = "Waiting", hide_env = true)]
    pub wait_http_get: Vec<List<HttpUrl>>,

    /// Wait until a connection to this port is accepted; repeatable
    #[arg(long, env = "PROA_WAIT_TCP", value_name = "HOST:PORT", help_heading = "Waiting", hide_env = true)]
    pub wait_tcp: Vec<List<Address>>,

    /// Wait until this file is there; repeatable
    #[arg(long, env = "PROA_WAIT_FILE", value_name = "PATH", help_heading = "Waiting", hide_env = true)]
    pub wait_file: Vec<List<PathBuf>>,

    /// Wait for a sidecar of `proa known` at its own endpoint; repeatable
    #[arg(long, env = "PROA_WAIT_KNOWN", value_name = "NAME", help_heading = "Waiting", hide_env = true)]
    pub wait_known: Vec<List<Named>>,

    /// How long sidecars may take to become ready; 0: for ever [default: 10m]
    #[arg(long, env = "PROA_READY_TIMEOUT", value_name = "DURATION", value_parser = duration,
        default_value = "10m", help_heading = "Waiting", hide_env = true, hide_default_value = true)]
    pub ready_timeout: Duration,

    /// What follows when they take longer: fail, run [default: fail]
    #[arg(
        long,
        env = "PROA_ON_TIMEOUT",
        value_name = "WHAT",
        default_value = "fail",
        help_heading = "Waiting",
        hide_env = true,
        hide_default_value = true,
        hide_possible_values = true
    )]
    pub on_timeout: OnTimeout,

    /// Read variables for the command from this file once sidecars are ready;
    /// repeatable
    #[arg(long, env = "PROA_ENV_FILE", value_name = "PATH", help_heading = "Command", hide_env = true)]
    pub env_file: Vec<List<PathBuf>>,

    /// Let them, and the last file, win over the container's own variables
    #[arg(long, env = "PROA_ENV_FILE_OVERRIDE", help_heading = "Command", hide_env = true)]
    pub env_file_override: bool,

    /// Who gets proa's signals: child, or its process group [default: child]
    #[arg(
        long,
        env = "PROA_FORWARD_TO",
        value_name = "WHOM",
        default_value = "child",
        help_heading = "Command",
        hide_env = true,
        hide_default_value = true,
        hide_possible_values = true
    )]
    pub forward_to: ForwardTo,

    /// auto, always, success, never [default: auto]. auto: unless the kubelet
    /// will start this container again
    #[arg(
        long,
        env = "PROA_SHUTDOWN_WHEN",
        value_name = "WHEN",
        default_value = "auto",
        help_heading = "Ending the sidecars",
        hide_env = true,
        hide_default_value = true,
        hide_possible_values = true
    )]
    pub shutdown_when: ShutdownWhen,

    /// GET this URL; repeatable
    #[arg(
        short = 'g',
        long,
        env = "PROA_SHUTDOWN_HTTP_GET",
        value_name = "URL",
        help_heading = "Ending the sidecars",
        hide_env = true
    )]
    pub shutdown_http_get: Vec<List<HttpUrl>>,

    /// POST to this URL; repeatable
    #[arg(
        short = 'p',
        long,
        env = "PROA_SHUTDOWN_HTTP_POST",
        value_name = "URL",
        help_heading = "Ending the sidecars",
        hide_env = true
    )]
    pub shutdown_http_post: Vec<List<HttpUrl>>,

    /// End a sidecar of `proa known` in its own way; repeatable
    #[arg(
        long,
        env = "PROA_SHUTDOWN_KNOWN",
        value_name = "NAME",
        help_heading = "Ending the sidecars",
        hide_env = true
    )]
    pub shutdown_known: Vec<List<Named>>,

    /// Signal processes of this name in the Pod's shared process namespace;
    /// repeatable
    #[arg(
        short = 'k',
        long,
        env = "PROA_KILL",
        value_name = "NAME",
        help_heading = "Ending the sidecars",
        hide_env = true
    )]
    pub kill: Vec<List<String>>,

    /// Signal all other processes there
    #[arg(short = 'K', long, env = "PROA_KILL_ALL", help_heading = "Ending the sidecars", hide_env = true)]
    pub kill_all: bool,

    /// The signal that --kill and --kill-all send [default: SIGTERM]
    #[arg(
        long,
        env = "PROA_KILL_SIGNAL",
        value_name = "SIGNAL",
        default_value = "SIGTERM",
        help_heading = "Ending the sidecars",
        hide_env = true,
        hide_default_value = true
    )]
    pub kill_signal: Signal,

    /// End well-known sidecars of this Pod beside what else is to be ended;
    /// without any of the flags above they are
    #[arg(
        long,
        env = "PROA_SHUTDOWN_AUTO",
        help_heading = "Ending the sidecars",
        hide_env = true,
        conflicts_with = "no_shutdown_auto"
    )]
    pub shutdown_auto: bool,

    /// End no sidecar that no flag names
    #[arg(long, env = "PROA_NO_SHUTDOWN_AUTO", help_heading = "Ending the sidecars", hide_env = true)]
    pub no_shutdown_auto: bool,

    /// How long ending the sidecars and their exit may take together
    /// [default: the Pod's termination grace period, else 30s]
    #[arg(long, env = "PROA_SHUTDOWN_TIMEOUT", value_name = "DURATION", value_parser = duration,
        help_heading = "Ending the sidecars", hide_env = true)]
    pub shutdown_timeout: Option<Duration>,

    /// Whether the API server is asked: auto, require, off [default: auto]. auto:
    /// what the flags --wait-http-get to --wait-known ask makes do without it
    #[arg(
        long,
        env = "PROA_API",
        value_name = "WHETHER",
        default_value = "auto",
        help_heading = "Identity",
        hide_env = true,
        hide_default_value = true,
        hide_possible_values = true
    )]
    pub api: AskApi,

    /// This Pod's namespace [default: POD_NAMESPACE, else the service account's]
    #[arg(long, env = "PROA_NAMESPACE", value_name = "NAME", help_heading = "Identity", hide_env = true)]
    pub namespace: Option<String>,

    /// This Pod's name [default: POD_NAME, else the hostname, checked by UID]
    #[arg(long, env = "PROA_POD_NAME", value_name = "NAME", help_heading = "Identity", hide_env = true)]
    pub pod_name: Option<String>,

    /// This container's name [default: as the kubelet's mounts tell]
    #[arg(long, env = "PROA_CONTAINER", value_name = "NAME", help_heading = "Identity", hide_env = true)]
    pub container: Option<String>,

    /// Where the service account is mounted
    /// [default: /var/run/secrets/kubernetes.io/serviceaccount]
    #[arg(
        long,
        env = "PROA_SERVICE_ACCOUNT_DIR",
        value_name = "DIR",
        default_value = "/var/run/secrets/kubernetes.io/serviceaccount",
        help_heading = "Identity",
        hide_env = true,
        hide_default_value = true
    )]
    pub service_account_dir: PathBuf,

    /// Serve /readyz (200 while the command runs), /livez and /metrics here
    #[arg(long, env = "PROA_STATUS_ADDRESS", value_name = "IP:PORT", value_parser = socket_address,
        help_heading = "Output", hide_env = true)]
    pub status_address: Option<SocketAddr>,

    /// text, json [default: text]
    #[arg(
        long,
        env = "PROA_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "text",
        help_heading = "Output",
        hide_env = true,
        hide_default_value = true,
        hide_possible_values = true
    )]
    pub log_format: LogFormat,

    /// Where proa's own failures are written for `kubectl describe pod`
    /// [default: as the kubelet's mounts tell, else /dev/termination-log]
    #[arg(
        long,
        env = "PROA_TERMINATION_MESSAGE_PATH",
        value_name = "PATH",
        help_heading = "Output",
        hide_env = true
    )]
    pub termination_message_path: Option<PathBuf>,

    /// Print this help
    #[arg(short = 'h', long, action = ArgAction::Help, help_heading = "Output")]
    help: Option<bool>,

    /// Print the version
    #[arg(short = 'V', long, action = ArgAction::Version, help_heading = "Output")]
    version: Option<bool>,

    /// The command to run, after `--`, and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND", hide = true)]
    pub command: Vec<OsString>,
}

/// What one occurrence of a repeatable flag, or its variable, holds: values separated by white space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List<T>(pub Vec<T>);

impl<T: FromStr> FromStr for List<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.split_whitespace().map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

/// What there is to say instead of running.
#[derive(Debug)]
pub enum Answer {
    /// Help, version or the table: for stdout.
    Asked(String),
    /// The command line is wrong: for stderr.
    Usage(String),
}

impl Cli {
    /// Reads the command line and the flags' variables.
    ///
    /// # Errors
    /// When there is nothing to run: help was asked for, or the command line is wrong.
    pub fn read() -> Result<Self, Answer> {
        let arguments = Arguments::try_parse().map_err(|error| {
            let text = error.to_string();
            match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Answer::Asked(text),
                ErrorKind::MissingRequiredArgument | ErrorKind::UnknownArgument => {
                    Answer::Usage(format!("{text}The command to run and its arguments stand after `--`.\n"))
                }
                _ => Answer::Usage(text),
            }
        })?;
        match arguments.other {
            Some(Other::Known) => Err(Answer::Asked(known::table())),
            None => Ok(arguments.cli),
        }
    }
}

#[cfg(test)]
impl Cli {
    /// Reads these words.
    pub(crate) fn of(words: &[&str]) -> Result<Self, clap::Error> {
        Arguments::try_parse_from(words).map(|arguments| arguments.cli)
    }
}

fn socket_address(text: &str) -> Result<SocketAddr, String> {
    let address = text.parse::<SocketAddr>().ok().filter(|address| address.port() > 0);
    address.ok_or_else(|| "expected IP:PORT, for instance 0.0.0.0:9400 or [::]:9400".to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    if text.trim() == "0" {
        return Ok(Duration::ZERO);
    }
    humantime::parse_duration(text).map_err(|error| format!("{error}; expected 500ms, 30s, 5m or 1h"))
}
