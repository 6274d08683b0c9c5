//! Every system call failing in turn.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::os::unix::process::ExitStatusExt;

use anyhow::{Result, ensure};

use super::form::Form;
use super::stage::{By, Observed, Stage};
use super::{Broken, each_or_again};

/// What proa exits with if the command did not run (docs/reference.md), and how a process ends that fails before `main`.
const REFUSALS: [i32; 8] = [2, 69, 70, 75, 77, 126, 127, 143];
/// A call that is made more often than this is swept at its first and last occurrences.
const OCCURRENCES: usize = 24;

/// Errors that a call may fail with, by the kernel's manual pages.
fn errors(call: &str) -> &'static [&'static str] {
    match call {
        // They end the process, or are strace's own business.
        "exit_group" | "exit" | "execve" | "rt_sigreturn" | "restart_syscall" => &[],
        "mmap" | "mremap" | "brk" => &["ENOMEM"],
        "munmap" | "madvise" | "mprotect" => &["ENOMEM", "EINVAL"],
        "openat" | "open" => &["EMFILE", "ENFILE", "ENOMEM", "EACCES", "EPERM", "ENOENT", "EIO", "EINTR"],
        "read" | "recvfrom" | "recvmsg" | "pread64" => &["EINTR", "EIO", "EAGAIN", "ENOMEM"],
        "write" | "writev" | "sendto" | "sendmsg" => &["EINTR", "EIO", "EAGAIN", "ENOSPC", "EPIPE", "ENOMEM"],
        "close" => &["EINTR", "EIO", "ENOSPC"],
        "socket" | "accept4" | "signalfd4" | "epoll_create1" | "eventfd2" | "timerfd_create" | "dup"
        | "fcntl" => &["EMFILE", "ENOMEM", "EPERM"],
        "bind" | "listen" => &["EADDRINUSE", "ENOMEM", "EPERM"],
        "getsockopt" | "setsockopt" | "getsockname" | "getpeername" => &["ENOMEM", "EPERM"],
        "connect" => &["ECONNREFUSED", "ETIMEDOUT", "ENETUNREACH", "EINTR", "EAGAIN", "EPERM"],
        "epoll_wait" | "epoll_pwait" | "poll" | "ppoll" => &["EINTR", "EIO", "ENOMEM"],
        "epoll_ctl" => &["ENOMEM", "ENOSPC"],
        "clone" | "clone3" | "vfork" | "fork" => &["EAGAIN", "ENOMEM", "EPERM"],
        "wait4" | "waitid" => &["EINTR"],
        "getrandom" => &["ENOSYS", "EINTR", "EAGAIN"],
        "rt_sigprocmask" | "rt_sigaction" => &["EINVAL"],
        "readlink" | "readlinkat" | "access" | "faccessat" | "faccessat2" | "statx" | "newfstatat"
        | "fstat" => &["EACCES", "ENOENT", "EIO", "ENOMEM", "ENOSYS"],
        _ => &["EPERM", "ENOSYS"],
    }
}

/// Whether an error says that the system is short of something, which it has again at the next call: proa does what it is for all the
/// same. What the allocator asks for is not asked for twice, and neither the kernel's waiting nor its wake-ups take memory.
fn passes(call: &str, error: &str) -> bool {
    match error {
        "EMFILE" | "ENFILE" => true,
        "ENOMEM" => errors(call).contains(&"EMFILE") || ["read", "bind", "listen"].contains(&call),
        // A thread or a process.
        "EAGAIN" => call.starts_with("clone"),
        _ => false,
    }
}

/// What came of the runs of a form.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Count {
    done: usize,
    refused: usize,
    broken: usize,
    /// The call was not made so often this time.
    missed: usize,
}

impl Count {
    fn all(&self) -> usize {
        self.done + self.refused + self.broken + self.missed
    }

    fn add(self, other: &Self) -> Self {
        Self {
            done: self.done + other.done,
            refused: self.refused + other.refused,
            broken: self.broken + other.broken,
            missed: self.missed + other.missed,
        }
    }
}

/// By form and call.
pub(crate) type Counts = BTreeMap<(Form, String), Count>;

/// Sweeps what `is_meant`, all occurrences or not.
pub(crate) fn sweep(
    stage: &Stage<'_>,
    all: bool,
    is_meant: impl Fn(&str) -> bool,
) -> Result<(Counts, Vec<Broken>, usize)> {
    let mut runs = Vec::new();
    for form in Form::ALL {
        let recorded = stage.run(form, By::Error, 0, None)?;
        ensure!(verdict(form, &recorded) == Ok(true), "{form} fails by itself: {}", recorded.log);
        let mut calls: BTreeMap<&str, usize> = BTreeMap::new();
        recorded.trace.0.iter().for_each(|call| *calls.entry(&call.name).or_default() += 1);
        for (call, count) in calls {
            let whens = (1..=count).filter(|when| all || *when <= OCCURRENCES || when + OCCURRENCES > count);
            for when in whens {
                let injections = errors(call).iter().map(|error| format!("{call}:error={error}:when={when}"));
                let meant = injections.filter(|inject| is_meant(&format!("{form}, {inject}")));
                runs.extend(meant.map(|inject| (form, call.to_owned(), when, inject)));
            }
        }
    }
    let (seen, repeated) = each_or_again(&runs, |worker, (form, call, when, inject)| {
        let observed = stage.run(*form, By::Error, worker, Some(inject))?;
        let seen = observed.trace.nth(call, *when).map(drop);
        let error = inject.split([':', '=']).nth(2).unwrap_or_default();
        let verdict = match verdict(*form, &observed) {
            Ok(false) if passes(call, error) && seen.is_some() => {
                Err("a shortage that passed at once made it refuse".into())
            }
            verdict => verdict,
        };
        Ok((seen, verdict.map_err(|why| format!("{why}; its log ends: {}", observed.log))))
    })?;
    let (mut counts, mut broken) = (Counts::new(), Vec::new());
    for ((form, call, _, inject), (seen, verdict)) in runs.iter().zip(seen) {
        let count = counts.entry((*form, call.clone())).or_default();
        match verdict {
            Err(why) => {
                count.broken += 1;
                broken.push(Broken { what: format!("{form}, {inject}"), why });
            }
            Ok(_) if seen.is_none() => count.missed += 1,
            Ok(true) => count.done += 1,
            Ok(false) => count.refused += 1,
        }
    }
    Ok((counts, broken, repeated))
}

/// Whether it did what it is for, if all promises were kept.
fn verdict(form: Form, seen: &Observed) -> Result<bool, String> {
    let Some(status) = seen.status else { return Err("no end in time".into()) };
    if seen.left {
        return Err("the command is left".into());
    }
    let (code, signal) = (status.code(), status.signal());
    let expected = usize::from(form.has_command());
    let done = match (seen.ran, code, signal) {
        (ran, Some(code), _) if ran == expected && code == form.code() => true,
        // Not all was shut down, and it says so.
        (0, Some(1), _) if form == Form::Quit => false,
        // Stopped, as it is by a kubelet, before it has seen what it waits for.
        (0, Some(0), _) if form.accompanies() => false,
        (0, Some(code), _) if REFUSALS.contains(&code) => false,
        // Before `main` the C library knows no better.
        (0, None, Some(_)) => return Ok(false),
        (ran, code, signal) => {
            return Err(format!("the command ran {ran} times, exit code {code:?}, signal {signal:?}"));
        }
    };
    // One that was killed by what failed before it could begin is started again, or is not.
    let began = seen.trace.nth("signalfd4", 1).is_some();
    if form.is_main() && began && seen.asked == 0 {
        return Err(format!("exit code {code:?}, and the sidecar was not asked to exit"));
    }
    Ok(done)
}

/// Runs by form.
pub(crate) fn summary(counts: &Counts) -> String {
    let mut text = "| form | runs | did what it is for | refused, with an exit code that says so | call not made this time | violations |\n\
                    |---|---|---|---|---|---|\n"
        .to_owned();
    for form in Form::ALL {
        let of_form = counts.iter().filter(|((other, _), _)| *other == form).map(|(_, count)| count);
        let sum = of_form.fold(Count::default(), Count::add);
        if sum.all() > 0 {
            let Count { done, refused, broken, missed } = sum;
            let _ = writeln!(text, "| `{form}` | {} | {done} | {refused} | {missed} | {broken} |", sum.all());
        }
    }
    text
}

/// Runs by call: a row for each, a column for each form.
pub(crate) fn by_call(counts: &Counts) -> String {
    let forms: BTreeSet<Form> = counts.keys().map(|(form, _)| *form).collect();
    let names: Vec<_> = forms.iter().map(|form| format!("`{form}`")).collect();
    let mut text = format!("| system call | {} |\n|---|{}\n", names.join(" | "), "---|".repeat(forms.len()));
    let calls: BTreeSet<&str> = counts.keys().map(|(_, call)| call.as_str()).collect();
    for call in calls {
        let cell = |form: &Form| {
            counts.get(&(*form, call.to_owned())).map_or("-".to_owned(), |count| {
                let violations = if count.broken > 0 {
                    format!(", **{} violations**", count.broken)
                } else {
                    String::new()
                };
                format!("{} of {}{violations}", count.done, count.all() - count.missed)
            })
        };
        let row: Vec<_> = forms.iter().map(cell).collect();
        let _ = writeln!(text, "| `{call}` | {} |", row.join(" | "));
    }
    text
}
