//! Every system call failing in turn.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::os::unix::process::ExitStatusExt;

use anyhow::{Result, ensure};

use super::form::Form;
use super::stage::{By, Observed, Stage};
use super::trace::Call;
use super::{Broken, each_or_again};

/// What proa exits with if the command did not run (docs/reference.md).
const REFUSALS: [i32; 7] = [2, 69, 70, 75, 77, 126, 127];
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
        // Both limits, the process's and the system's, are a shortage to the same code; this call stands for the others.
        "socket" => &["EMFILE", "ENFILE", "ENOMEM", "EPERM"],
        "accept4" | "signalfd4" | "epoll_create1" | "eventfd2" | "timerfd_create" | "dup" | "fcntl" => {
            &["EMFILE", "ENOMEM", "EPERM"]
        }
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

/// As strace takes it. brk(2) that cannot move the break returns it as it is, and never an error's number: the C library would take that
/// for an address, and write there. 0 is below every break.
fn injection(call: &str, error: &str, when: usize) -> String {
    let result = if call == "brk" { "retval=0".to_owned() } else { format!("error={error}") };
    format!("{call}:{result}:when={when}")
}

/// Whether an error says that the system is short of something, which it has again at the next call: proa does what it is for all the
/// same. What the allocator is refused by one of its calls it asks for by another. Neither the kernel's waiting nor its wake-ups take
/// memory.
fn passes(call: &str, error: &str) -> bool {
    match error {
        "EMFILE" | "ENFILE" => true,
        "ENOMEM" => errors(call).contains(&"EMFILE") || ["read", "bind", "listen", "mmap"].contains(&call),
        "0" => call == "brk",
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
    early: usize,
    broken: usize,
    /// The call was not made so often this time.
    missed: usize,
}

impl Count {
    fn all(&self) -> usize {
        self.done + self.refused + self.early + self.broken + self.missed
    }

    fn add(self, other: &Self) -> Self {
        Self {
            done: self.done + other.done,
            refused: self.refused + other.refused,
            early: self.early + other.early,
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
        let itself = verdict(form, None, &recorded);
        ensure!(itself == Ok(End::Done), "{form} fails by itself, {itself:?}: {}", recorded.log);
        let mut calls: BTreeMap<&str, usize> = BTreeMap::new();
        recorded.trace.0.iter().for_each(|call| *calls.entry(&call.name).or_default() += 1);
        for (call, count) in calls {
            let whens = (1..=count).filter(|when| all || *when <= OCCURRENCES || when + OCCURRENCES > count);
            for when in whens {
                let early = recorded.trace.nth(call, when) < recorded.trace.main();
                let injections = errors(call).iter().map(|error| injection(call, error, when));
                let meant = injections.filter(|inject| is_meant(&format!("{form}, {inject}")));
                runs.extend(meant.map(|inject| (form, call.to_owned(), when, early, inject)));
            }
        }
    }
    let (seen, repeated) = each_or_again(&runs, |worker, (form, call, when, early, inject)| {
        let observed = stage.run(*form, By::Error, worker, Some(inject))?;
        let seen = observed.trace.nth(call, *when).map(drop);
        let error = inject.split([':', '=']).nth(2).unwrap_or_default();
        let failed = Failed { call, when: *when, error, early: *early };
        let verdict = match verdict(*form, Some(&failed), &observed) {
            Ok(End::Refused) if passes(call, error) && seen.is_some() => {
                Err("a shortage that passed at once made it refuse".into())
            }
            verdict => verdict,
        };
        Ok((seen, verdict.map_err(|why| format!("{why}; its log ends: {}", observed.log))))
    })?;
    let (mut counts, mut broken) = (Counts::new(), Vec::new());
    for ((form, call, .., inject), (seen, verdict)) in runs.iter().zip(seen) {
        let count = counts.entry((*form, call.clone())).or_default();
        match verdict {
            Err(why) => {
                count.broken += 1;
                broken.push(Broken { what: format!("{form}, {inject}"), why });
            }
            Ok(_) if seen.is_none() => count.missed += 1,
            Ok(End::Done) => count.done += 1,
            Ok(End::Refused) => count.refused += 1,
            Ok(End::Early) => count.early += 1,
        }
    }
    Ok((counts, broken, repeated))
}

/// The call that failed.
struct Failed<'a> {
    call: &'a str,
    when: usize,
    error: &'a str,
    /// Whether it comes before `main`, as the undisturbed run shows.
    early: bool,
}

/// How a run ended that kept all promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It did what it is for.
    Done,
    /// It did not, and its exit code or its log says so.
    Refused,
    /// A call of the C library's or of the language's start-up failed before `main`, and they gave up.
    Early,
}

/// Why a panic is no finding: the kernel gives no such error there, and the libraries have no way to return it. `at`: the call.
fn may_panic(failed: &Failed<'_>, at: &Call) -> Option<&'static str> {
    match (failed.call, failed.error) {
        ("epoll_wait" | "epoll_pwait", "EIO" | "ENOMEM") => Some("no error of epoll_wait(2)"),
        ("write", error) if error != "EAGAIN" && at.has(r#", "\1\0\0\0\0\0\0\0", 8)"#) => {
            Some("a wake-up: eventfd(2) has EAGAIN alone for one that does not block")
        }
        ("getrandom", "EAGAIN") if at.has("GRND_INSECURE") => {
            Some("getrandom(2) has it for GRND_NONBLOCK alone")
        }
        _ => None,
    }
}

/// How it ended; an error is a broken promise. `failed`: the disturbance, if there was one.
fn verdict(form: Form, failed: Option<&Failed<'_>>, seen: &Observed) -> Result<End, String> {
    let Some(status) = seen.status else { return Err("no end in time".into()) };
    if seen.left {
        return Err("the command is left".into());
    }
    let (code, signal) = (status.code(), status.signal());
    let nothing = seen.ran == 0 && seen.asked == 0 && code != Some(0);
    match (seen.trace.main(), failed) {
        (None, Some(Failed { early: true, .. })) if nothing => return Ok(End::Early),
        // The C library checks what it has left of the heap when it has to grow, and aborts.
        (Some(_), Some(Failed { call: "brk", early: true, .. })) if nothing && signal.is_some() => {
            return Ok(End::Early);
        }
        (None, _) => {
            let why = "it did not reach its main, and no call before it failed";
            return Err(format!("{why}; exit code {code:?}, signal {signal:?}"));
        }
        (Some(_), _) => {}
    }
    if let Some(panic) = &seen.panic
        && failed.and_then(|failed| may_panic(failed, seen.trace.call(failed.call, failed.when)?)).is_none()
    {
        return Err(format!("{panic}; exit code {code:?}, signal {signal:?}"));
    }
    if seen.ran > 0 && !seen.readied {
        return Err("the command ran before the sidecar was ready".into());
    }
    let expected = usize::from(form.has_command());
    let end = match (seen.ran, code) {
        (ran, Some(code)) if ran == expected && code == form.code() => End::Done,
        // Not all was shut down, and it says so.
        (0, Some(1)) if form == Form::Quit => End::Refused,
        // Stopped, as it is by a kubelet, or main ended, before there was a command.
        (0, Some(0)) if form.accompanies() && seen.cut_short => End::Refused,
        (0, Some(code)) if REFUSALS.contains(&code) => End::Refused,
        (ran, code) => {
            return Err(format!("the command ran {ran} times, exit code {code:?}, signal {signal:?}"));
        }
    };
    match (form, end) {
        (Form::Wait, End::Done) if !seen.readied => Err("it was over before the sidecar was ready".into()),
        // Who was stopped before it could see the end of main leaves the sidecars to them that run.
        (Form::Helper, End::Done) if seen.asked == 0 && seen.cut_short => Ok(End::Refused),
        (Form::Quit | Form::Helper, End::Done) | (Form::Wrap | Form::Found | Form::Direct, _)
            if seen.asked == 0 =>
        {
            Err(format!("exit code {code:?}, and the sidecar was not asked to exit"))
        }
        (_, end) => Ok(end),
    }
}

/// Runs by form.
pub(crate) fn summary(counts: &Counts) -> String {
    let mut text = "| form | runs | did what it is for | refused, with an exit code that says so | ended before `main` | call not made this time | violations |\n\
                    |---|---|---|---|---|---|---|\n"
        .to_owned();
    for form in Form::ALL {
        let of_form = counts.iter().filter(|((other, _), _)| *other == form).map(|(_, count)| count);
        let sum = of_form.fold(Count::default(), Count::add);
        if sum.all() > 0 {
            let Count { done, refused, early, broken, missed } = sum;
            let _ = writeln!(
                text,
                "| `{form}` | {} | {done} | {refused} | {early} | {missed} | {broken} |",
                sum.all()
            );
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
