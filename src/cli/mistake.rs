//! A command line that is wrong: what it is told, and what of it can be read all the same.

use std::ffi::{OsStr, OsString};

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command, CommandFactory, Error, FromArgMatches};
use strsim::damerau_levenshtein;

use super::variables::{is_blank, variable, without_variable};
use super::{Arguments, Cli};

/// What decides, where it can be read, what follows a mistake: who we are, whom to ask, and what keeps the sidecars from being
/// ended. No flag that ends a sidecar is among them: words that do not stand where they should may not be meant for proa.
const READ: [&str; 15] = [
    "main",
    "ready_timeout",
    "ignore",
    "disabled",
    "shutdown_when",
    "no_shutdown_auto",
    "shutdown_timeout",
    "api",
    "namespace",
    "pod_name",
    "container",
    "service_account_dir",
    "log_format",
    "log_level",
    "termination_message_path",
];

/// Those of them that count even where they may belong to a command without `--` before it: they restrain, and no other
/// program has them.
const RESTRAINING: [&str; 2] = ["shutdown_when", "no_shutdown_auto"];

/// How many letters may be wrong in a subcommand, by its length. `wget` is a command whose `--` is missing, and no `wait`.
fn wrong_letters(subcommand: &str) -> usize {
    if subcommand.len() > 4 { 2 } else { 1 }
}

/// The words before `--`, taken apart as far as they can be.
#[derive(Debug, Default)]
pub(super) struct Words<'a> {
    flags: Vec<Flag<'a>>,
    /// The first word that is neither a flag nor the value of one that is known.
    stray: Option<&'a OsStr>,
    /// Whether a command follows.
    command: bool,
}

/// A flag, with its value if that is a word of its own.
#[derive(Debug)]
struct Flag<'a> {
    name: String,
    words: Vec<&'a OsStr>,
    /// Whether it stands behind a word that may be a command.
    doubtful: bool,
}

impl<'a> Words<'a> {
    /// Whether this flag is among them.
    pub(super) fn has(&self, command: &Command, arg: &Arg) -> bool {
        self.flags
            .iter()
            .any(|flag| last_of(command, &flag.name).is_some_and(|found| found.get_id() == arg.get_id()))
    }

    /// `words`: all but the program's own.
    pub(super) fn of(command: &Command, words: &'a [OsString]) -> Self {
        let mut found = Self::default();
        let mut words = words.iter().map(OsString::as_os_str).peekable();
        // Whether a flag that is unknown may have the next word for its value.
        let mut may_be_value = false;
        let mut doubtful = false;
        while let Some(word) = words.next() {
            let text = word.to_string_lossy();
            if text == "--" {
                found.command = words.next().is_some();
                break;
            }
            if !text.starts_with('-') || text == "-" {
                found.stray = found.stray.or(Some(word));
                doubtful |= !may_be_value;
                may_be_value = false;
                continue;
            }
            let name = text.split('=').next().unwrap_or_default().to_owned();
            let arg = last_of(command, &name);
            let mut flag = Flag { name, words: vec![word], doubtful };
            let wants_value =
                arg.is_some_and(takes_value) && !text.contains('=') && !has_attached(&text, arg);
            let value = words.next_if(|next| wants_value && !next.to_string_lossy().starts_with('-'));
            flag.words.extend(value);
            may_be_value = arg.is_none() && !text.contains('=');
            found.flags.push(flag);
        }
        found
    }
}

/// The flag by its long name, or the last of short ones that are written together.
fn last_of<'a>(command: &'a Command, name: &str) -> Option<&'a Arg> {
    let mut args = command.get_arguments();
    if let Some(long) = name.strip_prefix("--") {
        return args.find(|arg| arg.get_long() == Some(long));
    }
    let short = |letter| command.get_arguments().find(|arg| arg.get_short() == Some(letter));
    let mut last = None;
    for letter in name.chars().skip(1) {
        last = short(letter);
        // What follows is its value.
        if last.is_none_or(takes_value) {
            break;
        }
    }
    last
}

/// Whether a short flag's value is in the same word, as in `-gURL`.
fn has_attached(text: &str, arg: Option<&Arg>) -> bool {
    let short = arg.and_then(Arg::get_short).filter(|_| !text.starts_with("--"));
    short.is_some_and(|letter| !text.ends_with(letter))
}

fn takes_value(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Set | ArgAction::Append) && !arg.is_require_equals_set()
}

/// What the command line is meant for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `proa -- COMMAND`.
    Main,
    /// A subcommand, as far as can be told.
    Other,
}

fn form(command: &Command, words: &Words<'_>) -> Form {
    let subcommand = words.stray.and_then(|word| subcommand_near(command, word));
    // Of the subcommands a sidecar alone has a command.
    let may_be = |subcommand: &str| !words.command || subcommand == "sidecar";
    let of_subcommand = || {
        let known = words.flags.iter().filter(|flag| !flag.doubtful);
        known.filter_map(|flag| owner(command, &flag.name)).any(may_be)
    };
    if subcommand.is_some() || of_subcommand() { Form::Other } else { Form::Main }
}

fn subcommand_near<'a>(command: &'a Command, word: &OsStr) -> Option<&'a str> {
    let word = word.to_string_lossy();
    let distance = |name: &&str| damerau_levenshtein(name, &word);
    let nearest = command.get_subcommands().map(Command::get_name).min_by_key(distance)?;
    (distance(&nearest) <= wrong_letters(nearest)).then_some(nearest)
}

/// The subcommand that alone has this flag.
fn owner<'a>(command: &'a Command, flag: &str) -> Option<&'a str> {
    let has = |command: &Command| last_of(command, flag).is_some();
    if !flag.starts_with("--") || has(command) {
        return None;
    }
    command.get_subcommands().find(|subcommand| has(subcommand)).map(Command::get_name)
}

/// Reads what can be read of words that make no sense as a whole, and of the variables. `None`: they are not meant for
/// the entrypoint of a main container. `words`: all but the program's own.
pub(super) fn readable(words: &[OsString]) -> Option<Cli> {
    let command = Arguments::command();
    let words = Words::of(&command, words);
    if form(&command, &words) == Form::Other {
        return None;
    }
    let variables = command.get_arguments().filter_map(from_variable);
    let flags = words.flags.iter().filter_map(|flag| {
        let arg = last_of(&command, &flag.name).filter(|_| flag.name.starts_with("--"))?;
        let id = arg.get_id().as_str();
        let counts = READ.contains(&id) && (!flag.doubtful || RESTRAINING.contains(&id));
        counts.then(|| flag.words.iter().map(|word| (*word).to_owned()).collect())
    });
    // One after the other, so that one that is wrong takes no other along. Flags come last, and win.
    let mut read = Vec::new();
    for more in variables.chain(flags) {
        let more: Vec<OsString> = more;
        let both = [read.clone(), more].concat();
        if understood(&both).is_some() {
            read = both;
        }
    }
    understood(&read)
}

/// A flag as its variable has it.
fn from_variable(arg: &Arg) -> Option<Vec<OsString>> {
    let (_, value) = variable(arg).filter(|(_, value)| !is_blank(value))?;
    if !READ.contains(&arg.get_id().as_str()) {
        return None;
    }
    let mut word = OsString::from(format!("--{}", arg.get_long()?));
    if takes_value(arg) {
        word.push("=");
        word.push(value);
    } else if !crate::policy::switch(value.to_str()?).ok()? {
        return None;
    }
    Some(vec![word])
}

/// These flags in front of some command, without any variable.
fn understood(flags: &[OsString]) -> Option<Cli> {
    let command = Arguments::command().mut_args(without_variable).args_override_self(true);
    let ends = ["--", "command"].map(OsString::from);
    let words = std::iter::once(OsString::from("proa")).chain(flags.iter().cloned()).chain(ends);
    let matches = command.try_get_matches_from(words).ok()?;
    Arguments::from_arg_matches(&matches).ok().map(|arguments| arguments.cli)
}

/// What clap says, with the tips that help and without the one that does not: `-- --wait-fro` would run what was mistyped.
/// `words`: all but the program's own.
pub(super) fn explain(mut error: Error, words: &[OsString]) -> String {
    let root = Arguments::command();
    let subcommand = words.first().and_then(|word| root.find_subcommand(word));
    let mut tips = match error.remove(ContextKind::Suggested) {
        Some(ContextValue::StyledStrs(tips)) => tips,
        _ => Vec::new(),
    };
    tips.retain(|tip| !tip.to_string().starts_with("to pass '"));
    let found = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(found)) => found.clone(),
        _ => String::new(),
    };
    let form = subcommand.unwrap_or(&root);
    if matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue) {
        tips.extend(source(form, &found, words));
    }
    if error.kind() == ErrorKind::UnknownArgument {
        tips.extend(tip(form, subcommand.is_none(), &found, words));
    }
    if !tips.is_empty() {
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
    }
    let missing = matches!(error.kind(), ErrorKind::UnknownArgument | ErrorKind::MissingRequiredArgument)
        && !Words::of(form, words).command;
    // A helper needs no command, but a word that is no flag is one that was meant.
    let helps = match subcommand.map(Command::get_name) {
        None => true,
        Some("sidecar") => !found.starts_with('-'),
        Some(_) => false,
    };
    if missing && helps {
        return format!("{error}The command to run and its arguments stand after `--`.\n");
    }
    error.to_string()
}

/// Which variable a value is from, where no word gives it. `found`: the flag with its value's name.
fn source(command: &Command, found: &str, words: &[OsString]) -> Option<StyledStr> {
    let name = found.split([' ', '=', '[']).next().unwrap_or_default();
    let (variable, _) = variable(last_of(command, name)?)?;
    let given = Words::of(command, words).flags.iter().any(|flag| flag.name == name);
    (!given).then(|| format!("the value is that of the variable {}", variable.to_string_lossy()).into())
}

/// What else may help with a word that is not understood.
fn tip(command: &Command, top: bool, found: &str, words: &[OsString]) -> Option<StyledStr> {
    let place = words.iter().position(|word| word.to_string_lossy() == found);
    let before = place.and_then(|place| place.checked_sub(1)).map(|place| words[place].to_string_lossy());
    let before =
        before.and_then(|before| last_of(command, &before)).filter(|arg| arg.is_require_equals_set());
    if let Some(long) = before.and_then(Arg::get_long) {
        return Some(format!("the value follows an equals sign: '--{long}={found}'").into());
    }
    if !top {
        return None;
    }
    if let Some(owner) = owner(command, found) {
        return Some(format!("'{found}' is a flag of 'proa {owner}'").into());
    }
    // `proa` is to be the first word of all, whatever the command is called.
    let near = subcommand_near(command, OsStr::new(found)).filter(|_| !found.starts_with('-'))?;
    Some(if near == found {
        format!("a subcommand comes before its flags: 'proa {near} [OPTIONS]'").into()
    } else {
        format!("a similar subcommand exists: '{near}'").into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{AskApi, ShutdownWhen};

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    fn read(line: &[&str]) -> Cli {
        readable(&words(line)).expect("a main container's")
    }

    #[test]
    fn what_can_be_read_beside_a_mistake_counts() {
        let cli = read(&[
            "--wait-fro=x",
            "--api=off",
            "--shutdown-when",
            "never",
            "--no-shutdown-auto",
            "--pod-name",
            "p",
            "--ready-timeout=soon",
            "--container=c",
            "--",
            "app",
        ]);
        assert_eq!((cli.who.api, cli.when.shutdown_when), (AskApi::Off, ShutdownWhen::Never));
        assert!(cli.ending.no_shutdown_auto);
        assert_eq!((cli.who.pod_name.as_deref(), cli.who.container.as_deref()), (Some("p"), Some("c")));
        assert_eq!(cli.waiting.ready_timeout, None, "what was mistyped decides nothing");
    }

    #[test]
    fn what_is_mistyped_or_the_commands_decides_nothing() {
        for line in [
            &["--no-shutdown-aut", "--", "app"][..],
            &["--shutdown-when=nver", "--", "app"],
            &["--wait-fro=x", "--", "app", "--no-shutdown-auto", "--shutdown-when=never"],
            &["--namespace", "--no-shutdown-aut"],
            &[],
        ] {
            let cli = read(line);
            assert!(!cli.ending.no_shutdown_auto, "{line:?}");
            assert_eq!(cli.when.shutdown_when, ShutdownWhen::Auto, "{line:?}");
        }
        // A command without `--` before it has flags of its own.
        let cli = read(&["kubectl", "get", "--namespace", "other", "-K", "-p", "http://localhost:1/"]);
        assert_eq!(cli.who.namespace, None);
        assert!(!cli.ending.kill_all && cli.ending.shutdown_http_post.is_empty());
        // The value of an unknown flag is none.
        assert_eq!(
            read(&["--wait-fro", "x", "--namespace=n", "--", "app"]).who.namespace.as_deref(),
            Some("n")
        );
        assert_eq!(read(&["-p", "x", "--namespace=n", "--", "app"]).who.namespace.as_deref(), Some("n"));
        assert_eq!(read(&["-px", "--namespace=n", "--", "app"]).who.namespace.as_deref(), Some("n"));
        assert_eq!(read(&["-Kp", "x", "--namespace=n", "--", "app"]).who.namespace.as_deref(), Some("n"));
    }

    #[test]
    fn the_last_of_several_counts() {
        let cli = read(&[
            "--namespace=a",
            "--namespace=b",
            "--shutdown-when=never",
            "--shutdown-when=x",
            "--",
            "app",
        ]);
        assert_eq!(cli.who.namespace.as_deref(), Some("b"));
        assert_eq!(cli.when.shutdown_when, ShutdownWhen::Never);
    }

    #[test]
    fn only_the_main_containers_form_is_read() {
        for line in [
            &["sidecar", "--nonsense", "--", "nginx"][..],
            &["sidcar", "--stop-signal=QUIT", "--", "nginx"],
            &["--log-format", "json", "sidecar", "--", "nginx"],
            &["--nonsense", "sidecar", "--", "nginx"],
            &["--until-exit=main", "--", "nginx"],
            &["--ready-file", "/run/ready"],
            &["install"],
            &["instal", "/proa"],
            &["known", "x"],
            &["wait", "--nonsense"],
            &["wiat", "--wait-tcp=localhost:1"],
            &["--once"],
            &["quit", "--", "app"],
        ] {
            assert!(readable(&words(line)).is_none(), "{line:?}");
        }
        for line in [
            &["--ignore", "sidecar", "--wait-fro=x", "--", "app"][..],
            &["--wait-fro=x", "--", "sidecar"],
            &["wget", "http://localhost/"],
            &["cat", "/etc/hosts"],
            &["exit", "0"],
            &["--once", "--", "app"],
            &["--dry-run", "--", "app"],
            &["bash", "-c", "sidecar", "--until-exit"],
            &["./job"],
        ] {
            assert!(readable(&words(line)).is_some(), "{line:?}");
        }
    }

    fn said(line: &[&str]) -> String {
        let line = words(line);
        let words = std::iter::once(OsString::from("proa")).chain(line.iter().cloned());
        explain(Arguments::command().try_get_matches_from(words).expect_err("a mistake"), &line)
    }

    const HINT: &str = "stand after `--`";

    #[test]
    fn a_mistyped_flag_has_its_suggestion_and_nothing_that_would_run_it() {
        for (typed, meant) in [
            ("--wait-fro=x", "'--wait-for'"),
            ("--shutdown-autp", "'--shutdown-auto'"),
            ("--kill-al", "'--kill-all'"),
        ] {
            let said = said(&[typed, "--", "app"]);
            assert!(said.contains(meant), "{said}");
            assert!(!said.contains("as a value") && !said.contains(HINT), "{said}");
        }
        assert!(!said(&["-x", "--", "app"]).contains("as a value"));
        assert!(!said(&["--xyzzy", "--", "app"]).contains("tip:"));
    }

    #[test]
    fn the_two_hyphens_are_mentioned_where_they_help() {
        for line in [&["sleep", "5"][..], &[], &["--"], &["--wait-fro=x"], &["sidecar", "nginx"]] {
            assert!(said(line).contains(HINT), "{line:?}");
        }
        for line in [
            &["--wait-fro=x", "--", "app"][..],
            &["sidecar", "--nonsense"],
            &["sidecar", "--nonsense", "--", "app"],
            &["install"],
            &["install", "a", "b"],
            &["known", "x"],
        ] {
            assert!(!said(line).contains(HINT), "{line:?}");
        }
    }

    #[test]
    fn other_words_have_a_tip_of_their_own() {
        for (line, tip) in [
            (&["sidecar", "--hold-term", "20s", "--", "app"][..], "'--hold-term=20s'"),
            (&["sidcar", "--", "app"], "a similar subcommand exists: 'sidecar'"),
            (&["--log-format=json", "sidecar", "--", "app"], "'proa sidecar [OPTIONS]'"),
            (&["--until-exit=main", "--", "app"], "'--until-exit' is a flag of 'proa sidecar'"),
            (&["--hold-term=1s", "--", "app"], "'--hold-term' is a flag of 'proa sidecar'"),
        ] {
            assert!(said(line).contains(tip), "{}", said(line));
        }
    }
}
