//! The contracts.

mod end;
mod group;
mod reap;
mod signal;
mod state;

use anyhow::Result;

use crate::Seen;
use crate::scene::{Stage, Wish};

/// What is expected of an init.
pub(crate) struct Contract {
    pub(crate) name: &'static str,
    pub(crate) text: &'static str,
    pub(crate) observe: fn(&Stage<'_>) -> Result<Seen>,
    /// What to ask an init for with which it does not hold otherwise.
    pub(crate) wish: Option<Wish>,
    /// What is expected of proa, where that is not that it holds.
    pub(crate) proa: Option<&'static str>,
}

const fn holds(name: &'static str, text: &'static str, observe: fn(&Stage<'_>) -> Result<Seen>) -> Contract {
    Contract { name, text, observe, wish: None, proa: None }
}

impl Contract {
    const fn wish(self, wish: Wish) -> Self {
        Self { wish: Some(wish), ..self }
    }

    const fn but_proa(self, seen: &'static str) -> Self {
        Self { proa: Some(seen), ..self }
    }
}

pub(crate) const CONTRACTS: [Contract; 49] = [
    holds("exit-codes", "the exit code is the command's", end::codes),
    holds(
        "exit-by-signal",
        "128+n after a command that signal n has ended, real-time signals too",
        end::by_signal,
    ),
    holds("not-found", "127 if there is no such command, and a message that names it", end::not_found),
    holds("no-interpreter", "127 if a script's interpreter is missing", end::no_interpreter),
    holds("not-executable", "126 if the command's file may not be executed", end::not_executable),
    holds("directory", "126 if the command is a directory", end::directory),
    holds("no-format", "126 if the kernel does not know the file's format", end::no_format),
    holds("quick-end", "100 commands that end at once: each exit code arrives", end::quick),
    holds("stdout", "nothing but what the command writes is on stdout", end::stdout),
    holds("stderr", "nothing but what the command writes is on stderr", end::stderr)
        .wish(Wish::Quiet)
        .but_proa("only with `--log-level=error`"),
    holds("full-stderr", "the exit code arrives if stderr cannot be written to", end::full_stderr),
    holds(
        "signals",
        "each of 60 signals to PID 1 reaches the command unchanged, once",
        signal::each_to_first,
    ),
    holds("signals-beside", "the same if the init is not PID 1", signal::each_beside),
    holds("burst", "56 different signals at once: the command gets each, once", signal::burst),
    holds("queue", "a real-time signal sent 100 times arrives 100 times", signal::queue),
    holds("early", "200 times SIGTERM on the way to the command's start: it ends each", signal::early),
    holds(
        "pending-term",
        "a SIGTERM that is pending before the init's first instruction counts",
        signal::pending_term,
    ),
    holds("pending-usr1", "the same of SIGUSR1, which the command gets", signal::pending_usr1)
        .but_proa("exit code 138"),
    holds("child-event", "SIGCHLD from anybody is neither an end nor the command's", signal::child_event),
    holds(
        "stopped-command",
        "a command that is stopped ends nothing, and gets signals once continued through the init",
        signal::stopped_command,
    ),
    holds(
        "stopped-init",
        "a stopped init does not stop the command, and forwards once continued",
        signal::stopped_init,
    ),
    holds("storm", "the exit code arrives amid 10,000 signals and 200 orphans", signal::storm),
    holds("orphan", "an orphan that ends is collected", reap::one),
    holds("orphans", "1,000 orphans that end at once are collected", reap::thousand),
    holds("orphans-double-fork", "orphans of a process that forks twice are collected", reap::double_fork),
    holds("orphans-session", "orphans with a session of their own are collected", reap::session),
    holds("orphan-end", "an orphan's end by SIGKILL is not the command's", reap::failing),
    holds("subreaper", "orphans are collected if the init is not PID 1", reap::subreaper)
        .wish(Wish::Subreaper),
    holds("direct", "the command is the init's only child, and nothing else runs", group::direct),
    holds("group", "the command leads a process group of its own", group::own),
    holds("session", "the command stays in the init's session", group::session),
    holds("to-command", "a signal goes to the command's process alone", group::to_command).wish(Wish::Child),
    holds("to-group", "a signal goes to all of the command's group, once", group::to_group)
        .wish(Wish::Group)
        .but_proa("only with `--forward-to=group`"),
    holds("left", "what the command leaves behind is left alone if the init is not PID 1", group::left)
        .wish(Wish::Child),
    holds("left-term", "what the command leaves in its group gets SIGTERM", group::left_term)
        .wish(Wish::Group)
        .but_proa("only with `--forward-to=group`"),
    holds(
        "left-first",
        "what the command leaves behind does not delay the end of PID 1, and ends with it",
        group::left_first,
    ),
    holds("foreground", "the command's group is the terminal's foreground", group::foreground),
    holds("key-once", "Ctrl-C reaches the command once", group::key),
    holds("key-stop", "Ctrl-Z in a container leaves no command stopped for good", group::key_stop),
    holds(
        "signal-state",
        "no signal is blocked or ignored that was not (but for 32 and 33)",
        state::signals_plain,
    ),
    holds(
        "signal-state-kept",
        "signals that were blocked or ignored still are, and no others",
        state::signals_odd,
    ),
    holds("child-ignored", "started with SIGCHLD ignored: the exit code arrives", state::child_ignored),
    holds("environment", "environment and arguments are unchanged, byte by byte", state::environment),
    holds(
        "attributes",
        "working directory, umask, limits, nice, oom_score_adj, rights and the rest are unchanged",
        state::attributes,
    ),
    holds("death-signal", "no parent-death signal is set", state::death_signal),
    holds(
        "descriptors",
        "the command has the descriptors that the init was given, and no others",
        state::kept_descriptors,
    ),
    holds(
        "closed",
        "started with 0, 1 and 2 closed: nothing but /dev/null is in their place, and the exit code arrives",
        state::closed,
    ),
    holds("volume", "the init does not keep its working directory busy", state::volume),
    holds("output", "the init does not hold the command's stdout open", state::output)
        .but_proa("holds it open"),
];
