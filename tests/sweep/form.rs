//! What is swept, and how a run of it goes.

use std::ffi::OsString;
use std::fmt;
use std::path::Path;

use super::probe;
use super::stage::path;

/// The command's exit code.
pub(crate) const CODE: i32 = 7;

/// What proa is started as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Form {
    /// `proa -- COMMAND`
    Wrap,
    /// The same, where the kubelet's mounts alone tell who it is, and the hostname is not the Pod's name.
    Found,
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
    pub(crate) const ALL: [Self; 6] =
        [Self::Wrap, Self::Found, Self::Wait, Self::Quit, Self::Sidecar, Self::Helper];

    /// The container that it is started in.
    pub(crate) fn container(self) -> &'static str {
        match self {
            Self::Wrap | Self::Found | Self::Wait | Self::Quit => "main",
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
        matches!(self, Self::Wrap | Self::Found)
    }

    /// Whether it runs until a main container has exited.
    pub(crate) fn accompanies(self) -> bool {
        matches!(self, Self::Sidecar | Self::Helper)
    }

    /// Its exit code if it does what it is for.
    pub(crate) fn code(self) -> i32 {
        if self.is_main() { CODE } else { 0 }
    }

    /// The arguments; `quit`: the port of the sidecar's endpoint, `lines`: what the command says, `mark`: whether its command ends at
    /// [`probe::MARK`].
    pub(crate) fn arguments(self, quit: u16, lines: &Path, mark: bool) -> Vec<OsString> {
        let post = format!("--shutdown-http-post=http://localhost:{quit}{}", path());
        let words: &[&str] = match self {
            Self::Wrap | Self::Found => &[&post, "--ready-timeout=5s", "--shutdown-timeout=10s"],
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
            Self::Wait => "proa wait",
            Self::Quit => "proa quit",
            Self::Sidecar => "proa sidecar -- COMMAND",
            Self::Helper => "proa sidecar",
        })
    }
}
