//! The flags' variables: an empty one is not set, and one that belongs to no flag is a mistake.

use std::ffi::{OsStr, OsString};
use std::fmt;

use clap::builder::{OsStr as ClapStr, Resettable};
use clap::{Arg, ArgAction, Command};
use strsim::jaro;

use crate::policy::switch;

/// What all of them begin with.
const PREFIX: &str = "PROA_";

/// A variable that no flag has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownVariable {
    name: String,
    nearest: Option<String>,
}

impl UnknownVariable {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The variable that is spelt most like it.
    #[must_use]
    pub fn nearest(&self) -> Option<&str> {
        self.nearest.as_deref()
    }
}

impl fmt::Display for UnknownVariable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "proa has no variable {}, so it has no effect", self.name)?;
        match &self.nearest {
            Some(nearest) => write!(f, "; did you mean {nearest}?"),
            None => write!(f, "; `proa --help` lists the flags, and each has a variable"),
        }
    }
}

/// Takes empty variables for unset ones: a template whose value is missing leaves such behind. And those by which a flag
/// without a value is not given: it contradicts no other.
pub(super) fn without_unset(command: Command) -> Command {
    let unset = |arg: Arg| match variable(&arg) {
        Some((_, value)) if is_blank(&value) || is_switched_off(&arg, &value) => without_variable(arg),
        _ => arg,
    };
    command.mut_args(unset).mut_subcommands(move |subcommand| subcommand.mut_args(unset))
}

/// The same flag without its variable.
pub(super) fn without_variable(arg: Arg) -> Arg {
    arg.env(Resettable::<ClapStr>::Reset)
}

/// A flag's variable and its value, where it is set.
pub(super) fn variable(arg: &Arg) -> Option<(&OsStr, OsString)> {
    let name = arg.get_env()?;
    Some((name, std::env::var_os(name)?))
}

fn is_switched_off(arg: &Arg, value: &OsStr) -> bool {
    let off = || value.to_str().is_some_and(|text| switch(text) == Ok(false));
    matches!(arg.get_action(), ArgAction::SetTrue) && off()
}

/// Whether a value is none.
pub(super) fn is_blank(value: &OsStr) -> bool {
    value.to_str().is_some_and(|text| text.trim().is_empty())
}

/// Whether it is one of proa's, or means to be.
pub(super) fn is_ours(name: &OsStr) -> bool {
    name.to_string_lossy().starts_with(PREFIX)
}

/// Finds the variables that no flag of this command or its subcommands has. Those of every form count: a Pod may give all of
/// its containers the same ones.
pub(super) fn unknown(command: &Command, variables: &[(String, String)]) -> Vec<UnknownVariable> {
    let all = std::iter::once(command).chain(command.get_subcommands());
    let known: Vec<_> =
        all.flat_map(Command::get_arguments).filter_map(|arg| arg.get_env()?.to_str()).collect();
    let ours = variables.iter().filter(|(name, value)| {
        is_ours(OsStr::new(name)) && !known.contains(&name.as_str()) && !is_service_link(name, value)
    });
    let unknown = ours.map(|(name, _)| UnknownVariable {
        name: name.clone(),
        nearest: nearest(name, &known).map(ToOwned::to_owned),
    });
    unknown.collect()
}

/// Whether the kubelet has made it of a Service whose name begins with `proa` (`FromServices` and `makeLinkVariables`,
/// `pkg/kubelet/envvars/envvars.go`, Kubernetes 1.36).
fn is_service_link(name: &str, value: &str) -> bool {
    let numbered =
        || name.split("_PORT_").skip(1).any(|rest| rest.starts_with(|first: char| first.is_ascii_digit()));
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT") && value.contains("://")
        || numbered()
}

fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let rest = |name: &'a str| name.strip_prefix(PREFIX).unwrap_or(name);
    let own = name.strip_prefix(PREFIX).unwrap_or(name).to_uppercase();
    // What a few letters make another.
    let close = known.iter().map(|known| (jaro(&own, rest(known)), *known));
    close.filter(|(close, _)| *close > 0.7).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Arguments;

    fn said(name: &str, value: &str) -> Vec<String> {
        let found = unknown(&Arguments::command(), &[(name.to_owned(), value.to_owned())]);
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_nearest_name_is_told_and_no_value() {
        for (name, nearest) in [
            ("PROA_WAIT_FRO", Some("PROA_WAIT_FOR")),
            ("PROA_READYTIMEOUT", Some("PROA_READY_TIMEOUT")),
            ("PROA_SHUTDOWN_HTTP_POTS", Some("PROA_SHUTDOWN_HTTP_POST")),
            ("PROA_UNTIL_EXITS", Some("PROA_UNTIL_EXIT")),
            ("PROA_XYZZY", None),
            ("PROA_", None),
        ] {
            let said = said(name, "hunter2");
            assert_eq!(said.len(), 1, "{name}");
            assert!(!said[0].contains("hunter2"));
            match nearest {
                Some(nearest) => {
                    assert!(said[0].ends_with(&format!("did you mean {nearest}?")), "{}", said[0]);
                }
                None => assert!(said[0].contains("proa --help"), "{}", said[0]),
            }
        }
    }

    #[test]
    fn variables_of_flags_and_of_services_are_not_unknown() {
        for (name, value) in [
            ("PROA_WAIT_FOR", "x"),
            ("PROA_HOLD_TERM", "x"),
            ("PATH", "x"),
            ("PROA_SERVICE_HOST", "10.0.0.1"),
            ("PROA_WEB_SERVICE_PORT", "80"),
            ("PROA_WEB_SERVICE_PORT_HTTP", "80"),
            ("PROA_PORT", "tcp://10.0.0.1:80"),
            ("PROA_PORT_80_TCP", "tcp://10.0.0.1:80"),
            ("PROA_PORT_80_TCP_ADDR", "10.0.0.1"),
            ("PROA_PORT_80_TCP_PROTO", "tcp"),
        ] {
            assert_eq!(said(name, value), [""; 0], "{name}");
        }
        assert_eq!(said("PROA_PORT", "80").len(), 1, "no Service has made this");
    }
}
