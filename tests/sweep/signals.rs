//! Every signal at every point where proa waits, and at its other calls.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Result, ensure};
use nix::libc;
use proa::signal::Signal;

use super::form::Form;
use super::probe::MARK;
use super::stage::{By, Observed, Stage};
use super::{Broken, each_or_again};

/// Where proa waits.
const AWAIT: &str = "epoll_wait";
/// Those that mean something to proa itself, and one for each kind of the others.
const TELLING: [i32; 10] = [
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGHUP,
    libc::SIGUSR1,
    libc::SIGCHLD,
    libc::SIGTSTP,
    libc::SIGCONT,
    libc::SIGWINCH,
    // The first real-time signal of the C libraries.
    34,
];
/// Those of them that are tried at a call at which proa does not wait, unless all are asked for; one after the other.
const OTHERWISE: [i32; 3] = [libc::SIGTERM, libc::SIGUSR1, libc::SIGCHLD];

/// When a signal came, as the run's own trace shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Moment {
    /// Before there is a command, and read before it: a stop, or nobody's.
    Before,
    /// The command's: it runs, or is made, and the wait for the sidecars is over.
    During,
    /// The command has been told to end, or has ended.
    After,
    /// There is no command in this form.
    Alone,
}

impl Moment {
    const ALL: [Self; 4] = [Self::Before, Self::During, Self::After, Self::Alone];

    fn name(self) -> &'static str {
        match self {
            Self::Before => "before the command",
            Self::During => "while it runs",
            Self::After => "after it",
            Self::Alone => "no command",
        }
    }
}

/// What was delivered where.
#[derive(Debug, Clone)]
struct Delivery {
    form: Form,
    call: String,
    when: usize,
    signal: i32,
}

impl Delivery {
    fn inject(&self) -> String {
        format!("{}:signal={}:when={}", self.call, self.signal, self.when)
    }

    fn name(&self) -> String {
        let signal =
            Signal::from_number(self.signal).map_or(self.signal.to_string(), |signal| signal.to_string());
        format!("{}, {signal}, {}", self.form, self.inject())
    }
}

/// By form, moment, and whether proa waited: runs, and those that broke a promise. `None`: the call was not made so often this time.
pub(crate) type Counts = BTreeMap<(Form, Option<Moment>, bool), (usize, usize)>;

/// Delivers what `is_meant`; all of it or what fits into a few minutes.
pub(crate) fn sweep(
    stage: &Stage<'_>,
    all: bool,
    is_meant: impl Fn(&str) -> bool,
) -> Result<(Counts, Vec<Broken>, usize)> {
    let mut runs = Vec::new();
    for form in Form::ALL {
        let recorded = stage.run(form, By::Signal, 0, None)?;
        let calls = &recorded.trace.0;
        ensure!(
            calls.iter().any(|call| call.name == AWAIT),
            "no {AWAIT} in the run of {form}: {}",
            recorded.log
        );
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for (at, call) in calls.iter().enumerate() {
            let when = counts.entry(&call.name).or_default();
            *when += 1;
            // strace itself makes the first, and the last has no way back.
            if matches!(call.name.as_str(), "execve" | "exit_group") {
                continue;
            }
            let signals = signals(form, &call.name, at, all);
            let deliveries = signals.into_iter().map(|signal| Delivery {
                form,
                call: call.name.clone(),
                when: *when,
                signal,
            });
            runs.extend(deliveries.filter(|delivery| is_meant(&delivery.name())));
        }
    }
    let (seen, repeated) = each_or_again(&runs, |worker, delivery| {
        let observed = stage.run(delivery.form, By::Signal, worker, Some(&delivery.inject()))?;
        let moment = moment(delivery, &observed);
        let judged = moment.map_or(Ok(()), |moment| judge(delivery, moment, &observed));
        Ok((moment, judged.map_err(|why| format!("{why}; its log ends: {}", observed.log))))
    })?;
    let (mut counts, mut broken) = (Counts::new(), Vec::new());
    for (delivery, (moment, judged)) in runs.iter().zip(seen) {
        let count = counts.entry((delivery.form, moment, delivery.call == AWAIT)).or_default();
        count.0 += 1;
        if let Err(why) = judged {
            count.1 += 1;
            broken.push(Broken { what: delivery.name(), why });
        }
    }
    Ok((counts, broken, repeated))
}

/// The signals for a call. `at`: which of all calls it is.
fn signals(form: Form, call: &str, at: usize, all: bool) -> Vec<i32> {
    let standard = Signal::all().map(Signal::number).filter(|number| *number < 32);
    match (form, call == AWAIT, all) {
        (Form::Wrap, true, _) | (_, true, true) => standard.chain([34]).collect(),
        (_, true, false) | (_, false, true) => TELLING.into(),
        (Form::Wrap, false, false) => vec![OTHERWISE[at % OTHERWISE.len()]],
        (_, false, false) => Vec::new(),
    }
}

fn moment(delivery: &Delivery, seen: &Observed) -> Option<Moment> {
    let trace = &seen.trace;
    let at = trace.nth(&delivery.call, delivery.when)?;
    if !delivery.form.has_command() {
        return Some(Moment::Alone);
    }
    let Some((spawned, pid)) = trace.spawn() else { return Some(Moment::Before) };
    if at < spawned && trace.reads_signals(at..spawned) {
        return Some(Moment::Before);
    }
    let told = if delivery.form.is_main() { "SIGRT_32" } else { "SIGTERM" };
    // Once signals are read no more before it is told, the end is on its way.
    let is_over = trace.sent(pid, told).is_some_and(|told| at >= told || !trace.reads_signals(at..told));
    Some(if is_over { Moment::After } else { Moment::During })
}

/// The promise that was broken.
fn judge(delivery: &Delivery, moment: Moment, seen: &Observed) -> Result<(), String> {
    let Delivery { form, signal, .. } = *delivery;
    let Some(status) = seen.status else { return Err("no end in time".into()) };
    let Some(code) = status.code() else { return Err(format!("{status}")) };
    if seen.left {
        return Err("the command is left".into());
    }
    let got = seen.got.iter().filter(|number| **number == signal).count();
    let is_stop = [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGHUP].contains(&signal);
    let at = seen.trace.nth(&delivery.call, delivery.when).unwrap_or_default();
    let is_read = seen.trace.reads_signals(at..seen.trace.0.len());
    // Who asks a companion to stop asks it to do what it does at its end.
    let stopped = if form.accompanies() { 0 } else { 128 + signal };
    let (ran, codes, gets) = match (moment, form) {
        (Moment::Before, _) if is_stop => (0, vec![stopped], 0..=0),
        (Moment::Before, _) => (1, vec![form.code()], 0..=0),
        // Collected, not passed on.
        (Moment::During, _) if signal == libc::SIGCHLD => (1, vec![form.code()], 0..=0),
        // It may have had proa's own SIGTERM as well.
        (Moment::During | Moment::After, Form::Sidecar) if signal == libc::SIGTERM => {
            (1, vec![form.code()], 1..=2)
        }
        // The command's language runtime ignores it on its way to `main`, by which one that waits already is lost (sigaction(2)).
        (Moment::During, _) if signal == libc::SIGPIPE => (1, vec![form.code()], 0..=1),
        (Moment::During, _) => (1, vec![form.code()], 1..=1),
        (Moment::After, _) => (1, vec![form.code()], 0..=1),
        (Moment::Alone, Form::Wait) if is_stop && is_read => (0, vec![stopped], 0..=0),
        // Cut short, it may not have shut down all.
        (Moment::Alone, Form::Quit) if is_stop => (0, vec![0, 1, stopped], 0..=0),
        (Moment::Alone, _) => (0, vec![form.code()], 0..=0),
    };
    let marks = seen.got.iter().filter(|number| **number == MARK).count();
    if seen.ran != ran || !codes.contains(&code) || !gets.contains(&got) {
        return Err(format!(
            "{}: ran {} times, exit code {code}, got it {got} times; expected {ran}, {codes:?}, {gets:?}",
            moment.name(),
            seen.ran
        ));
    }
    if form.is_main() && marks != ran {
        return Err(format!("the command got its last signal {marks} times"));
    }
    if let Some(panic) = &seen.panic {
        return Err(panic.clone());
    }
    if seen.ran > 0 && !seen.readied || form == Form::Wait && code == 0 && !seen.readied {
        return Err("it went on before the sidecar was ready".into());
    }
    let asks = match form {
        Form::Quit => code == 0,
        // Who was stopped before it could see the end of main leaves the sidecars to them that run.
        Form::Helper => !is_stop && !seen.cut_short,
        _ => form.is_main(),
    };
    if asks && seen.asked == 0 {
        return Err("the sidecar was not asked to exit".into());
    }
    Ok(())
}

pub(crate) fn table(counts: &Counts) -> String {
    let moments: Vec<_> = Moment::ALL.iter().map(|moment| moment.name()).collect();
    let mut text = format!(
        "| form | at | {} | call not made this time | violations |\n|---|---|{}---|---|\n",
        moments.join(" | "),
        "---|".repeat(moments.len())
    );
    for form in Form::ALL {
        for (waits, place) in [(true, "each wait"), (false, "other calls")] {
            let of = |moment| counts.get(&(form, moment, waits)).copied().unwrap_or_default();
            let all: Vec<_> = Moment::ALL.into_iter().map(Some).chain([None]).map(of).collect();
            if all.iter().all(|(runs, _)| *runs == 0) {
                continue;
            }
            let runs: Vec<_> = all.iter().map(|(runs, _)| runs.to_string()).collect();
            let broken: usize = all.iter().map(|(_, broken)| broken).sum();
            let _ = writeln!(text, "| `{form}` | {place} | {} | {broken} |", runs.join(" | "));
        }
    }
    text
}
