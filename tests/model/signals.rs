//! What becomes of every signal in every phase, and whether the exit code arrives before the kubelet's SIGKILL.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use proa::budget::{Need, Now, StopRequests, budget};
use proa::child::Ended;
use proa::exit::Outcome;
use proa::gate::Cause;
use proa::pod::{Countdown, Life, Termination};
use proa::policy::Limit;
use proa::signal::{Phase, Reaction, Received, Sender, Signal, reaction};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestRunner;

/// What each signal comes to while there is no command: from inside, and from the container's runtime, which may stop it with any
/// signal that stops a program (docs/reference.md, "Signals before the command"; signal(7) for the default actions).
const WITHOUT_COMMAND: [(&str, Reaction, Reaction); 5] = [
    ("HUP INT QUIT TERM", Reaction::Stop, Reaction::Stop),
    ("CHLD", Reaction::Reap, Reaction::Reap),
    ("TSTP TTIN TTOU", Reaction::Suspend, Reaction::Suspend),
    ("CONT URG", Reaction::Ignore, Reaction::Ignore),
    ("WINCH", Reaction::Ignore, Reaction::Stop),
];
/// The others would have killed the command.
const KILLERS: &str =
    "ILL TRAP ABRT BUS FPE USR1 SEGV USR2 PIPE ALRM STKFLT XCPU XFSZ VTALRM PROF IO PWR SYS";

/// By signal, from inside and from outside.
fn table() -> BTreeMap<Signal, (Reaction, Reaction)> {
    let named = |names: &'static str| names.split(' ').map(|name| name.parse().expect(name));
    let mut table = BTreeMap::new();
    for (names, inside, outside) in WITHOUT_COMMAND {
        for signal in named(names) {
            assert_eq!(table.insert(signal, (inside, outside)), None, "{signal}");
        }
    }
    let realtime = (34..=64).filter_map(Signal::from_number);
    for signal in named(KILLERS).chain(realtime) {
        assert_eq!(table.insert(signal, (Reaction::Drop, Reaction::Stop)), None, "{signal}");
    }
    table
}

fn stop_signals() -> impl Iterator<Item = Option<Signal>> {
    Signal::all().map(Some).chain([None])
}

#[test]
fn every_signal_means_what_is_documented_whoever_sends_it_and_whatever_stops_the_container() {
    let table = table();
    assert!(Signal::all().eq(table.keys().copied()), "each has its row");
    let mut tried = 0;
    for (signal, (inside, outside)) in &table {
        for sender in [Sender::Inside, Sender::Outside] {
            let received = Received { signal: *signal, sender };
            let by_table = if sender == Sender::Inside { *inside } else { *outside };
            for stop in stop_signals() {
                let is_the_stop = stop.unwrap_or(Signal::TERM) == *signal;
                // From outside it is one that stops, and not one that a shell or a terminal sends.
                let is_stop = is_the_stop || sender == Sender::Outside && *outside == Reaction::Stop;
                assert_eq!(received.is_stop(stop), is_stop, "{received:?} {stop:?}");
                let expected = if is_the_stop && *signal != Signal::CHLD { Reaction::Stop } else { by_table };
                for phase in [Phase::Gate { stop }, Phase::Shutdown { stop }] {
                    assert_eq!(reaction(phase, received), expected, "{received:?} {phase:?}");
                    tried += 1;
                }
            }
            let forwarded = if *signal == Signal::CHLD { Reaction::Reap } else { Reaction::Forward };
            assert_eq!(reaction(Phase::Command, received), forwarded, "{received:?}");
            tried += 1;
        }
    }
    assert_eq!(tried, 60 * 2 * (61 * 2 + 1));
}

/// Something that happens in a run.
#[derive(Debug, Clone)]
enum Event {
    Signal(Received),
    GateOpens,
    CommandEnds(Ended),
    Drained,
}

/// A run of proa, as its phases take signals.
#[derive(Debug, Default)]
struct Run {
    started: usize,
    stop: Option<Signal>,
    outcome: Option<Outcome>,
    exits: Vec<u8>,
    came_to: BTreeMap<&'static str, usize>,
    forwarded: Vec<Signal>,
    requests: StopRequests,
}

impl Run {
    fn phase(&self) -> Phase {
        match (&self.outcome, self.started) {
            (None, 0) => Phase::Gate { stop: self.stop },
            (None, _) => Phase::Command,
            (Some(_), _) => Phase::Shutdown { stop: self.stop },
        }
    }

    fn takes(&mut self, event: &Event, now: Instant) {
        let phase = self.phase();
        match (event, phase) {
            (Event::Signal(received), _) => self.signal(phase, *received, now),
            (Event::GateOpens, Phase::Gate { .. }) => self.started += 1,
            (Event::CommandEnds(ended), Phase::Command) => self.outcome = Some(Outcome::Ended(*ended)),
            (Event::Drained, Phase::Shutdown { .. }) => {
                self.exits.extend(self.outcome.as_ref().map(Outcome::code));
            }
            _ => {}
        }
    }

    fn signal(&mut self, phase: Phase, received: Received, now: Instant) {
        let what = match reaction(phase, received) {
            Reaction::Stop => {
                self.requests.note(now, received.sender);
                if self.outcome.is_none() {
                    self.outcome = Some(Cause::Stopped(received).into());
                }
                "stop"
            }
            Reaction::Forward => {
                if received.is_stop(self.stop) {
                    self.requests.note(now, received.sender);
                }
                self.forwarded.push(received.signal);
                "forward"
            }
            Reaction::Reap => "reap",
            Reaction::Suspend => "suspend",
            Reaction::Ignore => "ignore",
            Reaction::Drop => "drop",
        };
        *self.came_to.entry(what).or_default() += 1;
    }
}

#[test]
fn no_signal_is_lost_and_the_exit_code_is_the_commands() {
    let all: Vec<_> = Signal::all().collect();
    let sender = || select(vec![Sender::Inside, Sender::Outside]);
    let received = (select(all.clone()), sender()).prop_map(|(signal, sender)| Received { signal, sender });
    let ended = prop_oneof![any::<u8>().prop_map(Ended::Exited), (1..=64).prop_map(Ended::Signaled)];
    let event = prop_oneof![
        6 => received.prop_map(Event::Signal),
        1 => Just(Event::GateOpens),
        1 => ended.prop_map(Event::CommandEnds),
        1 => Just(Event::Drained),
    ];
    let stop = prop::option::of(select(all));
    let tried = TestRunner::new(super::config(2000)).run(&(stop, vec(event, 1..40)), |(stop, events)| {
        let start = Instant::now();
        let mut run = Run { stop, ..Run::default() };
        let (mut sent, mut in_command, mut stopped_first) = (0, Vec::new(), None);
        let mut command = None;
        for (event, milliseconds) in events.iter().zip((0..).step_by(700)) {
            if !run.exits.is_empty() {
                break;
            }
            let (was, before) = (run.phase(), run.requests.clone());
            if let Event::Signal(received) = event {
                sent += 1;
                if was == Phase::Command && received.signal != Signal::CHLD {
                    in_command.push(received.signal);
                }
            }
            if let (Event::CommandEnds(ended), Phase::Command) = (event, was) {
                command = Some(*ended);
            }
            run.takes(event, start + Duration::from_millis(milliseconds));
            if let (Event::Signal(received), Phase::Gate { .. }, Phase::Shutdown { .. }) =
                (event, was, run.phase())
            {
                stopped_first = Some(received.signal);
            }
            // Once asked to stop, proa never forgets it.
            prop_assert!(before.is_empty() || !run.requests.is_empty());
        }
        prop_assert_eq!(run.came_to.values().sum::<usize>(), sent, "each signal comes to one thing");
        prop_assert_eq!(&run.forwarded, &in_command, "in order, and all of them");
        prop_assert!(run.started <= 1 && run.exits.len() <= 1);
        prop_assert!(
            stopped_first.is_none() || run.started == 0,
            "stopped before the command, it never starts"
        );
        let expected = match (command, stopped_first) {
            (Some(Ended::Exited(code)), _) => Some(i32::from(code)),
            (Some(Ended::Signaled(number)), _) => Some(128 + number),
            (None, Some(signal)) => Some(128 + signal.number()),
            (None, None) => None,
        };
        if let Some(code) = run.exits.first() {
            prop_assert_eq!(Some(i32::from(*code)), expected);
        }
        Ok(())
    });
    if let Err(failure) = tried {
        panic!("{failure}");
    }
}

/// How the kubelet stops a container (`killContainer` in `pkg/kubelet/kuberuntime/kuberuntime_container.go`).
#[derive(Debug, Clone)]
struct Stop {
    /// Of the Pod, in seconds.
    grace: u64,
    /// Of the deletion, where it is another; or of the probe that has failed.
    own_grace: Option<u64>,
    by: By,
    /// How long the preStop hook takes, where there is one, in milliseconds.
    hook: Option<u64>,
    /// How long after the deletion's time the kubelet begins, and how far our clock is behind, in milliseconds.
    seen_after: u64,
    behind: u64,
    /// When the command ends after its signal, in thousandths of its time.
    ends: u64,
    limit: Limit,
    /// Whether the API server shows the Pod when the command has ended.
    shown: bool,
}

/// What has the kubelet stop it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Deletion,
    Probe,
}

fn stops() -> impl Strategy<Value = Stop> {
    let limit = prop_oneof![
        Just(Limit::Default),
        Just(Limit::None),
        (0..600_u64).prop_map(|seconds| Limit::For(Duration::from_secs(seconds))),
    ];
    let kubelet = (prop::option::of(0..40_000_u64), 0..2000_u64, 0..400_u64);
    let by = select(vec![By::Deletion, By::Probe]);
    (0..120_u64, prop::option::of(0..120_u64), by, kubelet, 0..1000_u64, limit, any::<bool>()).prop_map(
        |(grace, own_grace, by, (hook, seen_after, behind), ends, limit, shown)| Stop {
            grace,
            // Nobody deletes a Pod with more time than it asks for.
            own_grace: own_grace.map(|own| if by == By::Deletion { own.min(grace) } else { own }),
            by,
            hook,
            seen_after,
            behind,
            ends,
            limit,
            shown,
        },
    )
}

#[test]
fn the_exit_code_arrives_before_sigkill() {
    let tried = TestRunner::new(super::config(4000)).run(&stops(), |stop| {
        let milliseconds = Duration::from_millis;
        let grace = Duration::from_secs(stop.own_grace.unwrap_or(stop.grace));
        // A hook has no longer than the grace period, and the rest is 2 s at least.
        let hook = stop.hook.map(|hook| milliseconds(hook).min(grace));
        let least = Duration::from_secs(2);
        let begins = Instant::now() + Duration::from_secs(1000);
        let signal = begins + hook.unwrap_or_default();
        let killed = signal + grace.saturating_sub(hook.unwrap_or_default()).max(least);
        let ends = signal + (killed - signal).mul_f64(f64::from(u32::try_from(stop.ends).unwrap()) / 1000.0);

        // The API server's times are on another clock.
        let wall = |instant: Instant| {
            SystemTime::UNIX_EPOCH
                + Duration::from_secs(1_700_000_000)
                + (instant - begins)
                + milliseconds(stop.seen_after)
                - milliseconds(stop.behind)
        };
        let gone_by = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000) + grace;
        let countdown = if hook.is_some() { Countdown::Earlier } else { Countdown::FromSignal };
        let before = Termination {
            grace: Duration::from_secs(stop.grace),
            probe_grace: (stop.by == By::Probe).then_some(grace),
            gone_by: None,
            countdown,
        };
        let deleted = Termination { grace, probe_grace: None, gone_by: Some(gone_by), countdown };
        let (now_seen, life) = match stop.by {
            By::Deletion => (deleted, Life::Deleting),
            By::Probe => (before, Life::Active),
        };
        let mut asked = StopRequests::default();
        asked.note(signal, Sender::Outside);
        let at = |instant: Instant| Now { instant, wall: wall(instant) };

        // The look takes all the time that it has, and so does the rest.
        let looks = budget(&before, None, &asked, at(ends)).look(true, Need::Usual);
        let looked = ends + looks;
        let (termination, life) = if stop.shown { (now_seen, Some(life)) } else { (before, None) };
        let rest = budget(&termination, life, &asked, at(looked)).shutdown(stop.limit);
        let done = rest.by.map(|by| by.max(looked));

        // Nothing tells a shorter grace period, where the Pod is out of sight, or how much of it a hook has taken: then nobody's exit
        // is waited for, and the requests have what the kubelet gives at least, until that is over.
        let shorter = !stop.shown && stop.by == By::Deletion && grace < Duration::from_secs(stop.grace);
        let hooked = hook.is_some() && (!stop.shown || stop.by == By::Probe);
        let in_time = killed.duration_since(ends) >= milliseconds(1600);
        let hurried = looked < signal + least;
        if shorter || hooked {
            prop_assert!(!rest.waits);
        }
        if in_time && (hurried || !shorter && !hooked) {
            prop_assert!(
                done.is_some_and(|done| done < killed),
                "done {:?} after SIGKILL",
                done.map(|done| done - killed)
            );
        }
        prop_assert!(rest.by.is_none_or(|by| by > looked || stop.limit == Limit::For(Duration::ZERO)));
        Ok(())
    });
    if let Err(failure) = tried {
        panic!("{failure}");
    }
}
