//! A command line as a manifest has it, far from where it will run: this process's words and variables say nothing of it.

use std::collections::BTreeMap;
use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{Arg, Command, CommandFactory, FromArgMatches};

use super::mistake::{self, Words};
use super::variables::{self, UnknownVariable, without_variable};
use super::{Arguments, Task, without_secrets_of};
use crate::policy::switch;

/// Reads what proa would make of these words, all but the program's own, beside these variables. `None`: it would only print
/// something.
///
/// # Errors
/// What it would say of a mistake.
pub fn read(words: &[String], variables: &BTreeMap<String, String>) -> Result<Option<Task>, String> {
    let command = Arguments::command().mut_args(without_variable);
    let mut command = command.mut_subcommands(|subcommand| subcommand.mut_args(without_variable));
    // The variables' names are gone from there.
    let named = Arguments::command();
    let subcommand = words.first().and_then(|word| named.find_subcommand(word));
    let words: Vec<_> = words.iter().map(OsString::from).collect();
    let form = subcommand.unwrap_or(&named);
    let before = usize::from(subcommand.is_some());
    let set = from_variables(form, &words[before..], variables);
    let all = [OsString::from("proa")].into_iter().chain(words[..before].iter().cloned());
    let all: Vec<_> = all.chain(set).chain(words[before..].iter().cloned()).collect();
    let arguments = command.try_get_matches_from_mut(&all).and_then(|matches| {
        Arguments::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
    });
    match arguments {
        Ok(arguments) => Ok(arguments.task()),
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => Ok(None),
        Err(error) => {
            let given = all.iter().map(|word| word.to_string_lossy().into_owned());
            Err(without_secrets_of(mistake::explain(error, &words), given))
        }
    }
}

/// The variables among these that look like a flag's and are none.
#[must_use]
pub fn unknown_variables(variables: &BTreeMap<String, String>) -> Vec<UnknownVariable> {
    let all: Vec<_> = variables.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    variables::unknown(&Arguments::command(), &all)
}

/// The flags that variables set and no word does.
fn from_variables(form: &Command, words: &[OsString], variables: &BTreeMap<String, String>) -> Vec<OsString> {
    let given = Words::of(form, words);
    let flag = |arg: &Arg| {
        let name = format!("--{}", arg.get_long()?);
        let value = variables.get(arg.get_env()?.to_str()?).filter(|value| !value.trim().is_empty())?;
        if given.has(form, arg) {
            return None;
        }
        if arg.get_action().takes_values() {
            return Some(OsString::from(format!("{name}={value}")));
        }
        match switch(value) {
            Ok(true) => Some(name.into()),
            Ok(false) => None,
            // Refused, as the variable would be.
            Err(_) => Some(format!("{name}={value}").into()),
        }
    };
    form.get_arguments().filter_map(flag).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_with(words: &[&str], variables: &[(&str, &str)]) -> Result<Option<Task>, String> {
        let words: Vec<_> = words.iter().map(ToString::to_string).collect();
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        read(&words, &variables.collect())
    }

    #[test]
    fn words_and_variables_of_another_container_are_read() {
        let Ok(Some(Task::Main(cli))) = read_with(
            &["--wait-for=a", "--", "app"],
            &[("PROA_WAIT_FOR", "b"), ("PROA_IGNORE", "c d"), ("PROA_KILL_ALL", "no"), ("PROA_MAIN", "")],
        ) else {
            panic!("a main container")
        };
        assert_eq!(cli.waiting.wait_for[0].0, ["a"], "a flag wins");
        assert_eq!(cli.waiting.ignore[0].0, ["c", "d"]);
        assert!(!cli.ending.kill_all && cli.mains.main.is_empty());
        let sidecar = read_with(&["sidecar", "--", "nginx"], &[("PROA_UNTIL_EXIT", "main")]);
        let Ok(Some(Task::Sidecar(cli))) = sidecar else { panic!("a sidecar") };
        assert_eq!(cli.until.until_exit[0].0, ["main"]);
        assert!(matches!(read_with(&["known"], &[]), Ok(None)));
        assert!(matches!(read_with(&["--help"], &[]), Ok(None)));
    }

    #[test]
    fn mistakes_are_said_as_there() {
        let said = read_with(&["--wait-fro=x", "--", "app"], &[]).unwrap_err();
        assert!(said.contains("--wait-for"), "{said}");
        assert!(read_with(&["--", "app"], &[("PROA_KILL_ALL", "maybe")]).is_err());
        assert!(read_with(&["--", "app"], &[("PROA_READY_TIMEOUT", "soon")]).is_err());
        let url = read_with(&["--wait-http-get=gopher://u:hunter2@h/", "--", "app"], &[]).unwrap_err();
        assert!(!url.contains("hunter2"), "{url}");
        let variables = [("PROA_WAIT_FRO".to_owned(), "x".to_owned())].into();
        assert_eq!(unknown_variables(&variables).len(), 1);
    }
}
