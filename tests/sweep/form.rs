//! What is swept, and how a run of it goes.

use std::ffi::OsString;
use std::fmt;

use super::probe;
use super::stage::{Places, quit_path, ready_path};

/// The command's exit code.
pub(crate) const CODE: i32 = 7;
/// What tells it to the command of [`Form::Direct`], by its file of variables.
pub(crate) const VARIABLE: &str = "SWEEP_CODE";

/// What proa is started as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Form {
    /// `proa -- COMMAND`
    Wrap,
    /// The same, where the kubelet's mounts alone tell who it is, and the hostname is not the Pod's name.
    Found,
    /// The same, without the API server: with direct waits, variables from a file, and an endpoint of its own.
    Direct,
    /// `proa wait`
    Wait,
    /// `proa quit`
    Quit,
    /// `proa sidecar -- COMMAND`
    Sidecar,
    /// `proa sidecar`
    Helper,
}

impl Form {
    pub(crate) const ALL: [Self; 7] =
        [Self::Wrap, Self::Found, Self::Direct, Self::Wait, Self::Quit, Self::Sidecar, Self::Helper];

    /// The container that it is started in.
    pub(crate) fn container(self) -> &'static str {
        match self {
            Self::Wrap | Self::Found | Self::Direct | Self::Wait | Self::Quit => "main",
            Self::Sidecar => "wrapped",
            Self::Helper => "helper",
        }
    }

    /// Whether it runs a command.
    pub(crate) fn has_command(self) -> bool {
        self.is_main() || self == Self::Sidecar
    }

    /// Whether it is the entrypoint of a main container.
    pub(crate) fn is_main(self) -> bool {
        matches!(self, Self::Wrap | Self::Found | Self::Direct)
    }

    /// Whether the sidecar is not ready at first, and proa waits for it.
    pub(crate) fn has_gate(self) -> bool {
        self.is_main() || self == Self::Wait
    }

    /// Whether it sees the kubelet's mounts: a companion has its inbox by them alone.
    pub(crate) fn is_mounted(self) -> bool {
        self == Self::Found || self.accompanies()
    }

    /// Whether it runs until a main container has exited.
    pub(crate) fn accompanies(self) -> bool {
        matches!(self, Self::Sidecar | Self::Helper)
    }

    /// Its exit code if it does what it is for.
    pub(crate) fn code(self) -> i32 {
        if self.is_main() { CODE } else { 0 }
    }

    /// The arguments; `mark`: whether its command ends at [`probe::MARK`].
    pub(crate) fn arguments(self, places: &Places, mark: bool) -> Vec<OsString> {
        let Places { port, lines, ready, variables, status, .. } = places;
        let post = format!("--shutdown-http-post=http://localhost:{port}{}", quit_path());
        let get = format!("--wait-http-get=http://localhost:{port}{}", ready_path());
        let (tcp, file) =
            (format!("--wait-tcp=localhost:{port}"), format!("--wait-file={}", ready.display()));
        let status = format!("--status-address={status}");
        let variables = format!("--env-file={}", variables.display());
        let words: &[&str] = match self {
            Self::Wrap | Self::Found => &[&post, "--ready-timeout=5s", "--shutdown-timeout=10s"],
            Self::Direct => &[
                "--api=off",
                &get,
                &tcp,
                &file,
                &variables,
                &status,
                &post,
                "--ready-timeout=5s",
                "--shutdown-timeout=10s",
            ],
            Self::Wait => &["wait", "--ready-timeout=5s"],
            Self::Quit => &["quit", &post, "--shutdown-timeout=10s"],
            Self::Sidecar => &["sidecar", "--until-exit=main", "--stop-timeout=5s"],
            Self::Helper => {
                &["sidecar", "--until-exit=main", "--ignore=web", &post, "--shutdown-timeout=10s"]
            }
        };
        let mut words: Vec<OsString> = words.iter().map(OsString::from).collect();
        if self.has_command() {
            words.push("--".into());
            words.extend(match (self, mark) {
                (Self::Wrap | Self::Found, false) => {
                    let script = format!("echo ran >> {}; exit {CODE}", lines.display());
                    ["sh", "-c", &script].map(OsString::from).to_vec()
                }
                // One that has not got its variable ends with another exit code.
                (Self::Direct, false) => {
                    let script = format!("echo ran >> {}; exit ${{{VARIABLE}:-1}}", lines.display());
                    ["sh", "-c", &script].map(OsString::from).to_vec()
                }
                _ => probe::command(lines, self.code()),
            });
        }
        words
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wrap => "proa -- COMMAND",
            Self::Found => "proa -- COMMAND by mounts",
            Self::Direct => "proa -- COMMAND by direct waits",
            Self::Wait => "proa wait",
            Self::Quit => "proa quit",
            Self::Sidecar => "proa sidecar -- COMMAND",
            Self::Helper => "proa sidecar",
        })
    }
}
