//! The flags, in groups that the main container's wrapper and `proa sidecar` share.

use std::net::SocketAddr;
use std::path::{self, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::{ArgAction, Args};

use crate::endpoint::{Address, HttpUrl};
use crate::known::Named;
use crate::pod::mains::Awaited;
use crate::policy::{
    AskApi, ForwardTo, HoldTerm, LogFormat, LogLevel, OnSidecarExit, OnTimeout, ShutdownWhen, switch,
};
use crate::signal::Signal;

/// What is waited for before the command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Waiting")]
pub struct Waiting {
    /// Wait for these containers only; repeatable
    #[arg(long, env = "PROA_WAIT_FOR", value_name = "NAME", hide_env = true)]
    pub wait_for: Vec<List<String>>,

    /// Do not wait for these containers to be ready, nor to exit; repeatable
    #[arg(long, env = "PROA_IGNORE", value_name = "NAME", hide_env = true)]
    pub ignore: Vec<List<String>>,

    /// Wait until a GET on this URL answers with 2xx; repeatable
    #[arg(long, env = "PROA_WAIT_HTTP_GET", value_name = "URL", hide_env = true)]
    pub wait_http_get: Vec<List<HttpUrl>>,

    /// Wait until this port accepts a connection; repeatable
    #[arg(long, env = "PROA_WAIT_TCP", value_name = "HOST:PORT", hide_env = true)]
    pub wait_tcp: Vec<List<Address>>,

    /// Wait until this file exists; repeatable
    #[arg(long, env = "PROA_WAIT_FILE", value_name = "PATH", hide_env = true)]
    pub wait_file: Vec<List<PathBuf>>,

    /// Wait for this well-known sidecar by its own endpoint (see `proa known`);
    /// repeatable
    #[arg(long, env = "PROA_WAIT_KNOWN", value_name = "NAME", hide_env = true)]
    pub wait_known: Vec<List<Named>>,

    /// How long to wait for all of this [default: 10m]
    #[arg(long, env = "PROA_READY_TIMEOUT", value_name = "DURATION", value_parser = duration, hide_env = true)]
    pub ready_timeout: Option<Duration>,

    /// When that time is up: fail, or go on all the same
    /// [default: fail]
    #[arg(
        long,
        env = "PROA_ON_TIMEOUT",
        value_name = "fail|run",
        default_value = "fail",
        hide_env = true,
        hide_default_value = true,
        hide_possible_values = true
    )]
    pub on_timeout: OnTimeout,
}

/// Whose exit is waited for before the command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Waiting")]
pub struct Exits {
    /// Wait until this container of the Pod has exited for good, with
    /// `NAME=success` with exit code 0; repeatable
    #[arg(long, env = "PROA_WAIT_EXIT", value_name = "NAME[=success]", hide_env = true)]
    pub wait_exit: Vec<List<Awaited>>,
}

/// Which containers are no sidecars.
#[derive(Debug, Args)]
#[command(next_help_heading = "Waiting")]
pub struct Mains {
    /// Another main container of this Pod, not a sidecar; repeatable
    #[arg(long, env = "PROA_MAIN", value_name = "NAME", hide_env = true)]
    pub main: Vec<List<String>>,
}

/// What is watched while the command runs.
#[derive(Debug, Args)]
#[command(next_help_heading = "Command")]
pub struct Watching {
    /// When a sidecar exits for good while the command runs: ignore it, or stop
    /// the command and exit with 69 [default: ignore]
    #[arg(
        long,
        env = "PROA_ON_SIDECAR_EXIT",
        value_name = "ignore|stop",
        default_value = "ignore",
        hide_env = true,
        hide_default_value = true,
        hide_possible_values = true
    )]
    pub on_sidecar_exit: OnSidecarExit,
}

/// How the command is run.
#[derive(Debug, Args)]
#[command(next_help_heading = "Command")]
pub struct Environment {
    /// Read environment variables for the command from this file, once the
    /// sidecars are ready; repeatable
    #[arg(long, env = "PROA_ENV_FILE", value_name = "PATH", hide_env = true)]
    pub env_file: Vec<List<PathBuf>>,

    /// Let these files override the container's own variables, the last file
    /// first
    #[arg(long, env = "PROA_ENV_FILE_OVERRIDE", value_parser = switch, hide_env = true)]
    pub env_file_override: bool,

    /// Forward signals to the child alone, or to its process group [default:
    /// child]
    #[arg(
        long,
        env = "PROA_FORWARD_TO",
        value_name = "child|group",
        default_value = "child",
        hide_env = true,
        hide_default_value = true,
        hide_possible_values = true
    )]
    pub forward_to: ForwardTo,

    /// Only run the command, forward signals and reap orphans: wait for nothing,
    /// shut nothing down
    #[arg(long, env = "PROA_DISABLED", value_parser = switch, hide_env = true)]
    pub disabled: bool,
}

/// After which exits the sidecars are shut down.
#[derive(Debug, Args)]
#[command(next_help_heading = "Shutting down the sidecars")]
pub struct When {
    /// When to shut them down: auto, always, success, never [default: auto].
    /// auto: unless the kubelet will restart this container
    #[arg(
        long,
        env = "PROA_SHUTDOWN_WHEN",
        value_name = "WHEN",
        default_value = "auto",
        hide_env = true,
        hide_default_value = true,
        hide_possible_values = true
    )]
    pub shutdown_when: ShutdownWhen,
}

/// How the sidecars are shut down.
#[derive(Debug, Args)]
#[command(next_help_heading = "Shutting down the sidecars")]
pub struct Ending {
    /// Send a GET to this URL; repeatable
    #[arg(short = 'g', long, env = "PROA_SHUTDOWN_HTTP_GET", value_name = "URL", hide_env = true)]
    pub shutdown_http_get: Vec<List<HttpUrl>>,

    /// Send a POST to this URL; repeatable
    #[arg(short = 'p', long, env = "PROA_SHUTDOWN_HTTP_POST", value_name = "URL", hide_env = true)]
    pub shutdown_http_post: Vec<List<HttpUrl>>,

    /// Shut down this well-known sidecar by its own endpoint; repeatable
    #[arg(long, env = "PROA_SHUTDOWN_KNOWN", value_name = "NAME", hide_env = true)]
    pub shutdown_known: Vec<List<Named>>,

    /// Send a signal to processes of this name; needs shareProcessNamespace;
    /// repeatable
    #[arg(short = 'k', long, env = "PROA_KILL", value_name = "NAME", hide_env = true)]
    pub kill: Vec<List<String>>,

    /// Send a signal to the processes of all regular sidecars
    #[arg(short = 'K', long, env = "PROA_KILL_ALL", value_parser = switch, hide_env = true)]
    pub kill_all: bool,

    /// Signal for --kill and --kill-all [default: SIGTERM]
    #[arg(
        long,
        env = "PROA_KILL_SIGNAL",
        value_name = "SIGNAL",
        default_value = "SIGTERM",
        hide_env = true,
        hide_default_value = true
    )]
    pub kill_signal: Signal,

    /// Shut down this Pod's well-known sidecars too, when other flags of this
    /// group are given; without any this is the default
    #[arg(long, env = "PROA_SHUTDOWN_AUTO", value_parser = switch, hide_env = true,
        conflicts_with = "no_shutdown_auto")]
    pub shutdown_auto: bool,

    /// Shut down only what the flags of this group name
    #[arg(long, env = "PROA_NO_SHUTDOWN_AUTO", value_parser = switch, hide_env = true)]
    pub no_shutdown_auto: bool,

    /// How long to shut them down and wait for their exit [default: the Pod's
    /// termination grace period, but at least 30s]
    #[arg(long, env = "PROA_SHUTDOWN_TIMEOUT", value_name = "DURATION", value_parser = duration, hide_env = true)]
    pub shutdown_timeout: Option<Duration>,
}

/// Who we are, and whom to ask about it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Identity")]
pub struct Who {
    /// Use of the API server [default: auto]. auto: required, unless a direct wait is given (--wait-http-get, --wait-tcp, --wait-file,
    /// --wait-known). optional: never required
    #[arg(
        long,
        env = "PROA_API",
        value_name = "auto|require|optional|off",
        default_value = "auto",
        hide_env = true,
        hide_default_value = true,
        hide_possible_values = true
    )]
    pub api: AskApi,

    /// Namespace of this Pod [default: POD_NAMESPACE, else the service account's]
    #[arg(long, env = "PROA_NAMESPACE", value_name = "NAME", hide_env = true)]
    pub namespace: Option<String>,

    /// Name of this Pod [default: POD_NAME, else the hostname, verified by UID]
    #[arg(long, env = "PROA_POD_NAME", value_name = "NAME", hide_env = true)]
    pub pod_name: Option<String>,

    /// Name of this container [default: from the kubelet's mounts]
    #[arg(long, env = "PROA_CONTAINER", value_name = "NAME", hide_env = true)]
    pub container: Option<String>,

    /// Directory of the service account's token
    /// [default: /var/run/secrets/kubernetes.io/serviceaccount]
    #[arg(
        long,
        env = "PROA_SERVICE_ACCOUNT_DIR",
        value_name = "DIR",
        default_value = "/var/run/secrets/kubernetes.io/serviceaccount",
        value_parser = absolute,
        hide_env = true,
        hide_default_value = true
    )]
    pub service_account_dir: PathBuf,
}

/// Where it is seen what proa does.
#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub struct Status {
    /// Serve /readyz (200 while the command runs), /livez and /metrics here
    #[arg(long, env = "PROA_STATUS_ADDRESS", value_name = "IP:PORT", value_parser = socket_address, hide_env = true)]
    pub status_address: Option<SocketAddr>,
}

/// What is told, and where.
#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub struct Output {
    /// Format of the log [default: text]
    #[arg(
        long,
        env = "PROA_LOG_FORMAT",
        value_name = "text|json",
        default_value = "text",
        hide_env = true,
        hide_default_value = true,
        hide_possible_values = true
    )]
    pub log_format: LogFormat,

    /// Least level that is logged: error, warn, info, debug, trace
    /// [default: info]
    #[arg(long, env = "PROA_LOG_LEVEL", value_name = "LEVEL", hide_env = true, hide_possible_values = true)]
    pub log_level: Option<LogLevel>,

    /// File for proa's own failures, which `kubectl describe pod` shows
    /// [default: from the kubelet's mounts, else /dev/termination-log]
    #[arg(long, env = "PROA_TERMINATION_MESSAGE_PATH", value_name = "PATH", value_parser = absolute, hide_env = true)]
    pub termination_message_path: Option<PathBuf>,

    /// Print this help
    #[arg(short = 'h', long, action = ArgAction::Help)]
    help: Option<bool>,
}

/// Whose end a sidecar waits for.
#[derive(Debug, Args)]
#[command(next_help_heading = "Main containers")]
pub struct Until {
    /// Run until this main container has exited for good; repeatable
    /// [default: the only container that is not a sidecar]
    #[arg(long, env = "PROA_UNTIL_EXIT", value_name = "NAME", hide_env = true)]
    pub until_exit: Vec<List<String>>,

    /// The same, but only exit code 0 counts; repeatable
    #[arg(long, env = "PROA_UNTIL_EXIT_SUCCESS", value_name = "NAME", hide_env = true)]
    pub until_exit_success: Vec<List<String>>,
}

/// How a sidecar is ended, or told of.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sidecar")]
pub struct Stopping {
    /// Signal that stops COMMAND; name the image's STOPSIGNAL if it has one
    /// [default: SIGTERM]
    #[arg(
        long,
        env = "PROA_STOP_SIGNAL",
        value_name = "SIGNAL",
        default_value = "SIGTERM",
        hide_env = true,
        hide_default_value = true
    )]
    pub stop_signal: Signal,

    /// How long COMMAND may take to exit before SIGKILL [default: the Pod's
    /// termination grace period, but at least 30s]
    #[arg(long, env = "PROA_STOP_TIMEOUT", value_name = "DURATION", value_parser = duration, hide_env = true)]
    pub stop_timeout: Option<Duration>,

    /// When the Pod is deleted, hold SIGTERM back from COMMAND until the main
    /// containers' proa is gone, for this long at most, and no longer than the
    /// grace period allows. The variable takes a duration, or `grace` for the
    /// flag without a value
    #[arg(long, env = "PROA_HOLD_TERM", value_name = "DURATION", num_args = 0..=1, require_equals = true,
        default_missing_value = "grace", value_parser = hold, hide_env = true)]
    pub hold_term: Option<HoldTerm>,

    /// Without COMMAND: write this file once the wait is over
    #[arg(long, env = "PROA_READY_FILE", value_name = "PATH", hide_env = true)]
    pub ready_file: Option<PathBuf>,
}

/// How `proa quit` goes about it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Shutting down the sidecars")]
pub struct Quitting {
    /// Print what would be done, to which sidecar and why, and do nothing
    #[arg(long, env = "PROA_DRY_RUN", value_parser = switch, hide_env = true)]
    pub dry_run: bool,

    /// Do not wait for these containers to exit; repeatable
    #[arg(long, env = "PROA_IGNORE", value_name = "NAME", hide_env = true)]
    pub ignore: Vec<List<String>>,

    /// Do nothing
    #[arg(long, env = "PROA_DISABLED", value_parser = switch, hide_env = true)]
    pub disabled: bool,
}

/// How `proa wait` looks, and what it leaves behind.
#[derive(Debug, Args)]
#[command(next_help_heading = "Waiting")]
pub struct Looking {
    /// Look once, and exit with 0 or 75: for an exec probe. Takes 800ms at most,
    /// or --ready-timeout
    #[arg(long, env = "PROA_ONCE", value_parser = switch, hide_env = true)]
    pub once: bool,

    /// Pause between looks at URLs, ports and files [default: 20ms, growing to
    /// 1s]
    #[arg(long, env = "PROA_INTERVAL", value_name = "DURATION", value_parser = duration, hide_env = true)]
    pub interval: Option<Duration>,

    /// Write this file once the wait is over
    #[arg(long, env = "PROA_READY_FILE", value_name = "PATH", hide_env = true)]
    pub ready_file: Option<PathBuf>,

    /// Check that this file of environment variables can be read; repeatable
    #[arg(long, env = "PROA_ENV_FILE", value_name = "PATH", hide_env = true)]
    pub env_file: Vec<List<PathBuf>>,

    /// Wait for nothing
    #[arg(long, env = "PROA_DISABLED", value_parser = switch, hide_env = true)]
    pub disabled: bool,
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

fn socket_address(text: &str) -> Result<SocketAddr, String> {
    let address = text.parse::<SocketAddr>().ok().filter(|address| address.port() > 0);
    address.ok_or_else(|| "expected IP:PORT, for instance 0.0.0.0:9400 or [::]:9400".to_owned())
}

/// proa leaves its working directory once the command runs; what is given means the same afterwards.
fn absolute(text: &str) -> Result<PathBuf, String> {
    path::absolute(text).map_err(|error| error.to_string())
}

/// Reads a duration.
///
/// # Errors
/// When it is none, with what was expected.
pub fn duration(text: &str) -> Result<Duration, String> {
    if text.trim() == "0" {
        return Ok(Duration::ZERO);
    }
    let wrong = |error: humantime::DurationError| format!("{error}; expected 500ms, 30s, 5m or 1h");
    // Each number with its unit on its own: where the library adds them up, it panics on a sum that is just too large.
    let (mut sum, mut rest) = (Duration::ZERO, text);
    loop {
        let unit = rest.find(char::is_alphabetic).unwrap_or(rest.len());
        let next = rest[unit..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |digit| unit + digit);
        let (one, others) = rest.split_at(next);
        let one = humantime::parse_duration(one).map_err(wrong)?;
        sum = sum.checked_add(one).ok_or_else(|| wrong(humantime::DurationError::NumberOverflow))?;
        if others.is_empty() {
            return Ok(sum);
        }
        rest = others;
    }
}

fn hold(text: &str) -> Result<HoldTerm, String> {
    if matches!(text, "grace" | "true") {
        return Ok(HoldTerm::Grace);
    }
    duration(text).map(|limit| if limit.is_zero() { HoldTerm::Grace } else { HoldTerm::For(limit) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_may_be_as_long_as_can_be_told_and_no_longer() {
        for (text, expected) in [
            ("500ms", Duration::from_millis(500)),
            (" 1h 30m ", Duration::from_secs(5400)),
            ("1m2s3ms", Duration::from_millis(62_003)),
            ("1.5s", Duration::from_millis(1500)),
            ("18446744073709551615s 999999999ns", Duration::MAX),
            ("0", Duration::ZERO),
        ] {
            assert_eq!(duration(text), Ok(expected), "{text}");
        }
        for text in
            ["", "soon", "5", "1s x", "18446744073709551615s 1000ms", "18446744073709551615s 1s", "1s 2"]
        {
            assert!(duration(text).unwrap_err().ends_with("; expected 500ms, 30s, 5m or 1h"), "{text}");
        }
    }
}
