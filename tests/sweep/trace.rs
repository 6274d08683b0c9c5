//! What strace has written: the calls of proa's one thread, in their order.

/// A call of the system.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) name: String,
    /// From the arguments on, with what it returned.
    rest: String,
}

impl Call {
    /// Whether its arguments have these words.
    pub(crate) fn has(&self, words: &str) -> bool {
        self.rest.contains(words)
    }

    /// What it returned, if that is a number.
    fn returned(&self) -> Option<i32> {
        let (_, value) = self.rest.rsplit_once(" = ")?;
        value.split_whitespace().next()?.parse().ok()
    }
}

/// The calls of a run.
#[derive(Debug)]
pub(crate) struct Trace(pub(crate) Vec<Call>);

impl Trace {
    pub(crate) fn parse(text: &str) -> Self {
        let is_name = |call: &str| !call.is_empty() && call.chars().all(|c| c.is_alphanumeric() || c == '_');
        let calls = text.lines().filter_map(|line| {
            let (name, rest) = line.split_once('(').filter(|(name, _)| is_name(name))?;
            Some(Call { name: name.to_owned(), rest: rest.to_owned() })
        });
        Self(calls.collect())
    }

    /// Where `main` begins: its first call reads the kubelet's mounts, which neither the loader nor the runtime's start-up does.
    pub(crate) fn main(&self) -> Option<usize> {
        let is_first = |call: &Call| call.name == "openat" && call.rest.contains("\"/proc/self/mountinfo\"");
        self.0.iter().position(is_first)
    }

    /// Where the call of this name and number is.
    pub(crate) fn nth(&self, name: &str, number: usize) -> Option<usize> {
        let mut same = self.0.iter().enumerate().filter(|(_, call)| call.name == name);
        same.nth(number.checked_sub(1)?).map(|(at, _)| at)
    }

    /// The call of this name and number.
    pub(crate) fn call(&self, name: &str, number: usize) -> Option<&Call> {
        self.nth(name, number).map(|at| &self.0[at])
    }

    /// Where the command's process is made, and which it is.
    pub(crate) fn spawn(&self) -> Option<(usize, i32)> {
        self.0.iter().enumerate().find_map(|(at, call)| {
            let makes = matches!(call.name.as_str(), "clone" | "clone3" | "fork" | "vfork");
            let is_process = makes && !call.rest.contains("CLONE_THREAD");
            call.returned().filter(|pid| is_process && *pid > 0).map(|pid| (at, pid))
        })
    }

    /// Where this signal is sent to this process, as strace calls it.
    pub(crate) fn sent(&self, pid: i32, signal: &str) -> Option<usize> {
        let arguments = format!("{pid}, {signal})");
        self.0.iter().position(|call| call.name == "kill" && call.rest.starts_with(&arguments))
    }

    /// Whether signals are read in this part of the run, for as long as there are any.
    pub(crate) fn reads_signals(&self, mut part: impl Iterator<Item = usize>) -> bool {
        let opened = self.0.iter().find(|call| call.name == "signalfd4");
        let Some(file) = opened.and_then(Call::returned) else { return false };
        let start = format!("{file}, ");
        part.any(|at| self.0[at].name == "read" && self.0[at].rest.starts_with(&start))
    }
}
