//! How long anything at a container's end may take: one reckoning, which every phase asks and none repeats.
//!
//! The kubelet's rules are those of `killContainer` in `pkg/kubelet/kuberuntime/kuberuntime_container.go`: a container has
//! its grace period from its stop signal on, less what its preStop hook, or as a native sidecar the wait for the main
//! containers, has used up, and never less than 2 s.

use std::time::{Duration, Instant, SystemTime};

use crate::pod::{Countdown, DEFAULT_GRACE, Life, Termination};
use crate::policy::{HoldTerm, Limit};
use crate::signal::Sender;

/// The kubelet gives every container this long, whatever the grace period (`minimumGracePeriodInSeconds`).
const LEAST_GRACE: Duration = Duration::from_secs(2);
/// How long before the kubelet's SIGKILL proa is done, so that the exit code is the command's.
const MARGIN: Duration = Duration::from_secs(1);
/// How much later than reckoned the SIGKILL may come: whoever is alive after that is not going to get it.
const LATE: Duration = Duration::from_secs(2);
/// What they may take however late it is: a request that is never sent helps nobody.
pub const LEAST: Duration = Duration::from_millis(250);
/// How long a sidecar that nobody can ask may hold up those that carry its traffic: two thirds of the default.
const UNASKED: Duration = Duration::from_secs(20);
/// The most that is kept for a held command's own end, a quarter of the grace period at most.
const RESERVE: Duration = Duration::from_secs(5);
/// How long a look at the Pod may take at leisure, where the Pod was never seen, and in a hurry.
const LOOK: Duration = Duration::from_secs(5);
const FIRST_LOOK: Duration = Duration::from_secs(2);
const HURRIED_LOOK: Duration = Duration::from_secs(1);
/// Signals within this belong together.
const BURST: Duration = Duration::from_secs(1);
/// How many requests are remembered; more than that only somebody sends who is not the kubelet.
const MOST_REQUESTS: usize = 64;

/// Both clocks, read together: the monotonic one that deadlines are in, and the one that the Pod's times are in.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// For deadlines.
    pub instant: Instant,
    /// For the API server's times.
    pub wall: SystemTime,
}

/// When the container was asked to stop: each time, since a signal that no kill follows says nothing of a later one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StopRequests {
    at: Vec<Instant>,
    by_runtime: bool,
}

impl StopRequests {
    /// It is asked now.
    pub fn note(&mut self, now: Instant, sender: Sender) {
        self.by_runtime |= sender == Sender::Outside;
        // A burst is one request, and as old as its first signal.
        if self.at.last().is_some_and(|last| now.saturating_duration_since(*last) < BURST) {
            return;
        }
        if self.at.len() == MOST_REQUESTS {
            self.at.remove(0);
        }
        self.at.push(now);
    }

    /// Whether it never was.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.at.is_empty()
    }

    /// Whether the container's runtime was among those who asked.
    #[must_use]
    pub fn is_by_runtime(&self) -> bool {
        self.by_runtime
    }
}

/// What depends on a look at the Pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// What is known and asked for makes do without.
    Usual,
    /// Without it no sidecar is shut down.
    Urgent,
}

/// What the container's end looks like from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Nobody is going to kill us.
    AtLeisure,
    /// The kubelet stops this container then, in a Pod that goes on.
    Alone(Instant),
    /// The whole Pod is deleted, every sidecar with it.
    WholePod(Instant),
    /// The container was asked to stop, and what happens to the Pod is unknown; or the kubelet ends the Pod on its own
    /// account, for which it may have a grace period of its own (eviction, the node's shutdown); or it stops this container alone,
    /// after a preStop hook that has taken nobody knows how long.
    Unconfirmed {
        /// When it was asked.
        asked_at: Instant,
        /// The latest that SIGKILL comes.
        kill_at: Instant,
    },
    /// The container was asked to stop longer ago than its grace period as it was last known, or the default; what happens to the Pod is
    /// unknown, and it may have another (`kubectl delete --grace-period`).
    Overdue,
}

/// How long what is left may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    now: Instant,
    /// The Pod's, or its deletion's.
    grace: Duration,
    /// This container's, where a probe has another.
    own_grace: Duration,
    end: End,
}

/// How long ending the sidecars may take. `None`: as long as it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShutdownBudget {
    /// All of it.
    pub by: Option<Instant>,
    /// Those that took a request and end before the one that carries their traffic.
    pub others_by: Option<Instant>,
    /// Those that nobody asked, likewise.
    pub unasked_by: Instant,
    /// Those that nobody asked, where nobody waits for their end.
    pub idle_by: Option<Instant>,
    /// Whether anybody's exit is waited for.
    pub waits: bool,
}

/// Reckons how much time there is. `termination`: what the Pod says of its end. `life`: whether it is on its way out, as far
/// as that is known for certain. `asked`: when the container was asked to stop.
#[must_use]
pub fn budget(termination: &Termination, life: Option<Life>, asked: &StopRequests, now: Now) -> Budget {
    let leaving = matches!(life, Some(Life::Deleting | Life::Finished));
    // A probe may have a grace period of its own, which holds where it alone ends the container.
    let grace = match termination.probe_grace {
        Some(probe) if !leaving => termination.grace.min(probe),
        _ => termination.grace,
    };
    // Which of the two it is nothing tells.
    let graces = [Some(termination.grace), termination.probe_grace.filter(|_| !leaving)];
    let kills = asked.at.iter().flat_map(|asked_at| {
        let graces = graces.iter().flatten();
        graces.filter_map(|grace| Some((*asked_at, kill_at(*grace, termination, *asked_at, now)?)))
    });
    // The earliest that can still come: being alive past the others proves that they do not.
    let still_to_come = kills.filter(|(_, kill_at)| !is_past(*kill_at, now.instant));
    let kill = still_to_come.min_by_key(|(_, kill_at)| *kill_at).or_else(|| {
        // A Pod that goes is killed for certain: the signal is still to come, or the clocks or a shorter grace period that
        // came later have misled us.
        let kill_at = within(gone_by(termination, now), now.instant, LEAST_GRACE, grace)?;
        leaving.then_some((now.instant, kill_at))
    });
    let end = match kill {
        // Being alive proves something only where the grace period is known.
        None if life.is_none() && !asked.is_empty() => End::Overdue,
        None => End::AtLeisure,
        Some((asked_at, kill_at)) => match life {
            Some(Life::Deleting) => End::WholePod(kill_at),
            // For a probe, as far as the runtime asked: when a hook began before that nothing tells.
            Some(Life::Active) if termination.countdown == Countdown::FromSignal || !asked.by_runtime => {
                End::Alone(kill_at)
            }
            Some(Life::Active | Life::Finished) | None => End::Unconfirmed { asked_at, kill_at },
        },
    };
    Budget { now: now.instant, grace: termination.grace, own_grace: grace, end }
}

/// When the kubelet kills what was asked to stop then.
fn kill_at(grace: Duration, termination: &Termination, asked_at: Instant, now: Now) -> Option<Instant> {
    match termination.countdown {
        // The clocks of node and API server may differ; the node's own counting does not.
        Countdown::FromSignal => asked_at.checked_add(grace.max(LEAST_GRACE)),
        Countdown::Earlier => within(gone_by(termination, now), asked_at, LEAST_GRACE, grace),
    }
}

/// The moment, but not before `least` nor after `most` since then; the latter where there is none.
fn within(moment: Option<Instant>, since: Instant, least: Duration, most: Duration) -> Option<Instant> {
    let latest = since.checked_add(most.max(least));
    let earliest = since.checked_add(least)?;
    match (moment, latest) {
        (Some(moment), Some(latest)) => Some(moment.clamp(earliest, latest)),
        (Some(moment), None) => Some(moment.max(earliest)),
        (None, latest) => latest,
    }
}

/// The API server's time on our monotonic clock.
fn gone_by(termination: &Termination, now: Now) -> Option<Instant> {
    match termination.gone_by?.duration_since(now.wall) {
        Ok(ahead) => now.instant.checked_add(ahead),
        Err(past) => Some(now.instant.checked_sub(past.duration()).unwrap_or(now.instant)),
    }
}

/// Whether the kubelet would have killed us by now, if it were going to.
fn is_past(kill_at: Instant, now: Instant) -> bool {
    now.checked_duration_since(kill_at).is_some_and(|late| late > LATE)
}

impl Budget {
    /// When the kubelet kills this container, if it is going to.
    #[must_use]
    pub fn kill_at(&self) -> Option<Instant> {
        match self.end {
            End::AtLeisure | End::Overdue => None,
            End::Alone(kill_at) | End::WholePod(kill_at) | End::Unconfirmed { kill_at, .. } => Some(kill_at),
        }
    }

    /// How long a look at the Pod may take. `seen`: whether the Pod was ever seen.
    #[must_use]
    pub fn look(&self, seen: bool, need: Need) -> Duration {
        match self.end {
            // Nobody would be shut down otherwise.
            End::AtLeisure if !seen && need == Need::Urgent => self.at_leisure(),
            End::AtLeisure if seen => LOOK,
            End::AtLeisure => FIRST_LOOK,
            End::Overdue => HURRIED_LOOK,
            End::Alone(kill_at) | End::WholePod(kill_at) | End::Unconfirmed { kill_at, .. } => {
                (kill_at.saturating_duration_since(self.now) / 4).clamp(LEAST, HURRIED_LOOK)
            }
        }
    }

    /// When what the sidecars are shut down with is done without. `seen`: whether the Pod was ever seen, so that its grace period is
    /// known. In a Pod that goes on nobody else shuts the sidecars down, so it is not as soon as a Pod that goes may be killed.
    #[must_use]
    pub fn give_up_at(&self, seen: bool) -> Option<Instant> {
        let kill_at = match self.end {
            End::AtLeisure => return None,
            End::Overdue => self.after(LEAST_GRACE).unwrap_or(self.now),
            End::Unconfirmed { asked_at, kill_at } if !seen => self.soonest(asked_at, kill_at),
            End::Alone(kill_at) | End::WholePod(kill_at) | End::Unconfirmed { kill_at, .. } => kill_at,
        };
        Some(kill_at.checked_sub(MARGIN).unwrap_or(self.now))
    }

    /// It may be as soon as the kubelet ever kills, until that is past.
    fn soonest(&self, asked_at: Instant, kill_at: Instant) -> Instant {
        let soonest = asked_at.checked_add(LEAST_GRACE).filter(|soonest| !is_past(*soonest, self.now));
        soonest.unwrap_or(kill_at).min(kill_at)
    }

    /// How long ending the sidecars and their exit may take. `limit`: --shutdown-timeout.
    #[must_use]
    pub fn shutdown(&self, limit: Limit) -> ShutdownBudget {
        let by = self.limited(limit);
        let by = match self.end {
            End::AtLeisure => by,
            End::Alone(kill_at) | End::WholePod(kill_at) => Some(earlier(by, self.before(kill_at, LEAST))),
            End::Unconfirmed { asked_at, kill_at } => {
                Some(earlier(by, self.before(self.soonest(asked_at, kill_at), LEAST)))
            }
            End::Overdue => self.after(LEAST_GRACE).map(|soon| earlier(by, soon)),
        };
        let whole = by.map_or_else(|| self.at_leisure(), |by| by.saturating_duration_since(self.now));
        // Two thirds, without the overflow of a multiplication.
        let others = whole.saturating_sub(whole / 3);
        ShutdownBudget {
            by,
            // Without a limit they have all the time, as much as those that carry their traffic.
            others_by: by.and(self.after(others)),
            unasked_by: self.after(others.min(UNASKED)).unwrap_or(self.now),
            idle_by: match limit {
                Limit::Default => self.after(whole.min(DEFAULT_GRACE)),
                Limit::For(_) | Limit::None => by,
            },
            waits: matches!(self.end, End::AtLeisure | End::Alone(_)),
        }
    }

    /// When a wrapped sidecar's command that was asked to stop just now is killed; `None`: never. `limit`: --stop-timeout.
    #[must_use]
    pub fn command(&self, limit: Limit) -> Option<Instant> {
        let by = self.limited(limit);
        let Some(kill_at) = self.kill_at() else {
            return by;
        };
        // It has the kubelet's own minimum all the same.
        let least = match limit {
            Limit::For(limit) => limit.min(LEAST_GRACE),
            Limit::Default | Limit::None => LEAST_GRACE,
        };
        Some(earlier(by, self.before(kill_at, least)))
    }

    /// How long the stop of a wrapped sidecar's command that was asked to stop then is held back: as long as the command
    /// still has its time afterwards. `limit`: --stop-timeout.
    #[must_use]
    pub fn hold(&self, hold: HoldTerm, asked_at: Instant, limit: Limit) -> Instant {
        let reserve = match limit {
            // A limit is no need: half of the time is for the hold all the same.
            Limit::For(limit) => limit.min(self.own_grace / 2),
            Limit::Default | Limit::None => (self.own_grace / 4).min(RESERVE),
        };
        let latest = self.kill_at().and_then(|kill_at| kill_at.checked_sub(MARGIN)?.checked_sub(reserve));
        let latest = latest.unwrap_or(self.now).max(self.now);
        match hold {
            HoldTerm::Grace => latest,
            HoldTerm::For(limit) => earlier(asked_at.checked_add(limit), latest),
        }
    }

    /// When the limit is over that a flag sets, or the Pod.
    fn limited(&self, limit: Limit) -> Option<Instant> {
        match (limit, self.end) {
            (Limit::None, _) => None,
            (Limit::For(limit), _) => self.after(limit),
            (Limit::Default, End::AtLeisure) => self.after(self.at_leisure()),
            (Limit::Default, _) => self.after(self.own_grace.max(LEAST_GRACE)),
        }
    }

    /// Where nobody is going to kill us a short grace period is no reason to hurry.
    fn at_leisure(&self) -> Duration {
        self.grace.max(DEFAULT_GRACE)
    }

    /// A while before the kill, but not sooner than `least` from now.
    fn before(&self, kill_at: Instant, least: Duration) -> Instant {
        let end = kill_at.checked_sub(MARGIN).unwrap_or(self.now);
        end.max(self.after(least).unwrap_or(self.now))
    }

    /// `None`: later than the clock can tell, which is never.
    fn after(&self, duration: Duration) -> Option<Instant> {
        self.now.checked_add(duration)
    }
}

/// The earlier of two moments, the first of which may never come.
fn earlier(maybe: Option<Instant>, other: Instant) -> Instant {
    maybe.map_or(other, |moment| moment.min(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HUGE: Duration = Duration::MAX;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn now() -> Now {
        // Late enough that the past of these tests is on the clock too.
        Now { instant: Instant::now() + seconds(100_000), wall: SystemTime::now() }
    }

    fn before(now: Now, ago: u64) -> Instant {
        now.instant.checked_sub(seconds(ago)).expect("on the clock")
    }

    fn never() -> StopRequests {
        StopRequests::default()
    }

    fn once(at: Instant) -> StopRequests {
        StopRequests { at: vec![at], by_runtime: true }
    }

    fn pod(grace: Duration) -> Termination {
        Termination { grace, probe_grace: None, gone_by: None, countdown: Countdown::FromSignal }
    }

    #[test]
    fn at_leisure_a_short_grace_period_is_no_budget() {
        let now = now();
        for (grace, expected) in [(0, 30), (1, 30), (30, 30), (45, 45), (3600, 3600)] {
            let budget = budget(&pod(seconds(grace)), Some(Life::Active), &never(), now);
            let shutdown = budget.shutdown(Limit::Default);
            assert_eq!(shutdown.by, Some(now.instant + seconds(expected)), "{grace}");
            assert_eq!(budget.command(Limit::Default), shutdown.by, "{grace}");
            assert!(shutdown.waits);
        }
    }

    /// A quarter of the grace period is kept for the command's own end.
    #[test]
    fn a_probes_grace_period_is_the_containers_own_unless_the_pod_goes() {
        let now = now();
        let probed = Termination { probe_grace: Some(seconds(8)), ..pod(seconds(30)) };
        let held = |life| {
            let asked = once(now.instant);
            budget(&probed, Some(life), &asked, now).hold(HoldTerm::Grace, now.instant, Limit::Default)
        };
        assert_eq!(held(Life::Active), now.instant + seconds(5));
        assert_eq!(held(Life::Deleting), now.instant + seconds(24));
    }

    #[test]
    fn what_cannot_be_had_is_given_up_before_the_kill() {
        let now = now();
        let asked = |ago| StopRequests { at: vec![before(now, ago)], by_runtime: false };
        let at = |asked: &StopRequests, seen| budget(&pod(seconds(30)), None, asked, now).give_up_at(seen);
        assert_eq!([true, false].map(|seen| at(&never(), seen)), [None, None]);
        assert_eq!(at(&asked(0), true), Some(now.instant + seconds(29)));
        assert_eq!(at(&asked(0), false), Some(now.instant + seconds(1)), "the Pod may have any grace period");
        assert_eq!(at(&asked(2), false), Some(before(now, 1)));
        assert_eq!(at(&asked(5), false), Some(now.instant + seconds(24)), "and has not the least");
        assert_eq!(
            at(&asked(33), true),
            Some(now.instant + seconds(1)),
            "nobody has killed us, and nothing is known"
        );
    }

    /// `kubectl delete --grace-period=60`, say.
    #[test]
    fn being_alive_proves_nothing_where_the_grace_period_is_not_known() {
        let now = now();
        let asked = once(before(now, 34));
        let [unknown, stays] =
            [None, Some(Life::Active)].map(|life| budget(&pod(seconds(30)), life, &asked, now));
        let shutdown = |budget: Budget| {
            let ShutdownBudget { by, waits, .. } = budget.shutdown(Limit::Default);
            (by, waits)
        };
        assert_eq!(shutdown(unknown), (Some(now.instant + seconds(2)), false));
        assert_eq!(shutdown(stays), (Some(now.instant + seconds(30)), true));
        assert_eq!(unknown.look(false, Need::Urgent), seconds(1));
        assert_eq!(unknown.give_up_at(true), Some(now.instant + seconds(1)));
    }

    #[test]
    fn zero_is_no_limit_for_every_flag() {
        let now = now();
        let leisure = budget(&pod(seconds(30)), Some(Life::Active), &never(), now);
        assert_eq!(leisure.shutdown(Limit::None).by, None);
        assert_eq!(leisure.shutdown(Limit::None).others_by, None);
        assert_eq!(leisure.command(Limit::None), None);
        let stopped = budget(&pod(seconds(30)), Some(Life::Active), &once(now.instant), now);
        assert_eq!(stopped.shutdown(Limit::None).by, Some(now.instant + seconds(29)));
        assert_eq!(stopped.command(Limit::None), Some(now.instant + seconds(29)));
    }

    #[test]
    fn what_nobody_asked_holds_a_mesh_up_for_20_s_at_most() {
        let now = now();
        let shutdown =
            |grace, limit| budget(&pod(seconds(grace)), Some(Life::Active), &never(), now).shutdown(limit);
        let hour = shutdown(3600, Limit::Default);
        assert_eq!(hour.unasked_by - now.instant, seconds(20));
        assert_eq!(hour.others_by.unwrap() - now.instant, seconds(2400));
        assert_eq!(shutdown(3600, Limit::None).unasked_by - now.instant, seconds(20));
        assert_eq!(hour.idle_by, Some(now.instant + seconds(30)), "nor the end of the Pod for an hour");
        assert_eq!(shutdown(30, Limit::For(HUGE)).idle_by, None, "unless a flag says so");
        let short = shutdown(30, Limit::For(seconds(9)));
        assert_eq!(
            (short.unasked_by - now.instant, short.others_by.unwrap() - now.instant),
            (seconds(6), seconds(6))
        );
    }

    #[test]
    fn the_kubelet_counts_from_the_signal_whatever_the_clocks_say() {
        let now = now();
        let deleted = |gone_by| Termination { gone_by: Some(gone_by), ..pod(seconds(30)) };
        for skewed in [SystemTime::UNIX_EPOCH, now.wall + seconds(3600), now.wall] {
            let budget = budget(&deleted(skewed), Some(Life::Deleting), &once(now.instant), now);
            assert_eq!(budget.kill_at(), Some(now.instant + seconds(30)));
        }
    }

    #[test]
    fn a_pre_stop_hook_has_used_up_some_of_it() {
        let now = now();
        let kill_in = |left: i64| {
            let by = SystemTime::checked_add(&now.wall, Duration::from_secs(left.unsigned_abs()));
            let gone_by = if left < 0 { now.wall.checked_sub(seconds(left.unsigned_abs())) } else { by };
            let termination = Termination { gone_by, countdown: Countdown::Earlier, ..pod(seconds(30)) };
            let budget = budget(&termination, Some(Life::Deleting), &once(now.instant), now);
            budget.kill_at().unwrap() - now.instant
        };
        assert_eq!(kill_in(7), seconds(7));
        assert_eq!(kill_in(1), seconds(2), "the kubelet's minimum");
        assert_eq!(kill_in(-100), seconds(2), "a clock that is ahead");
        assert_eq!(kill_in(1000), seconds(30), "a clock that is behind");
    }

    #[test]
    fn being_alive_past_the_kill_proves_that_none_comes() {
        let now = now();
        let asked = |ago| {
            let asked_at = before(now, ago);
            budget(&pod(seconds(10)), Some(Life::Active), &once(asked_at), now)
        };
        assert!(asked(9).kill_at().is_some());
        assert!(asked(12).kill_at().is_some(), "it may be late");
        assert_eq!(asked(13).kill_at(), None);
        assert_eq!(asked(13).shutdown(Limit::Default).by, Some(now.instant + seconds(30)));
    }

    #[test]
    fn of_several_requests_the_earliest_counts_that_can_still_be_followed_by_a_kill() {
        let now = now();
        let asked = |times: &[u64]| {
            let asked =
                StopRequests { at: times.iter().map(|ago| before(now, *ago)).collect(), by_runtime: true };
            budget(&pod(seconds(10)), None, &asked, now).kill_at()
        };
        assert_eq!(asked(&[1000, 500]), None);
        assert_eq!(asked(&[1000, 4, 2]), Some(now.instant + seconds(6)));
        let mut burst = StopRequests::default();
        for _ in 0..3 {
            burst.note(now.instant, Sender::Outside);
        }
        burst.note(now.instant + seconds(2), Sender::Inside);
        assert_eq!(burst.at.len(), 2);
        for more in 0..1000 {
            burst.note(now.instant + seconds(10 + 2 * more), Sender::Inside);
        }
        assert_eq!(burst.at.len(), MOST_REQUESTS);
    }

    #[test]
    fn without_knowing_how_long_there_is_the_requests_have_the_least() {
        let now = now();
        let unknown = budget(&pod(seconds(30)), None, &once(now.instant), now).shutdown(Limit::Default);
        assert_eq!(
            (unknown.by, unknown.waits),
            (Some(now.instant + seconds(1)), false),
            "the kubelet may kill after 2 s"
        );
    }

    #[test]
    fn a_kubelet_that_ends_the_pod_on_its_own_account_may_be_in_more_of_a_hurry() {
        let now = now();
        let evicted = budget(&pod(seconds(30)), Some(Life::Finished), &once(now.instant), now);
        assert_eq!(evicted.shutdown(Limit::Default).by, Some(now.instant + seconds(1)));
        let asked = |ago| {
            let budget = budget(&pod(seconds(30)), Some(Life::Finished), &once(before(now, ago)), now);
            budget.shutdown(Limit::Default).by.unwrap() - now.instant
        };
        assert_eq!([asked(1), asked(4)], [LEAST; 2]);
        assert_eq!(asked(5), seconds(24), "it was not in such a hurry");
    }

    #[test]
    fn a_pod_that_goes_is_killed_whatever_the_clocks_or_a_later_deletion_say() {
        let now = now();
        // Deleted with 30 s, then with less: its time is over by the API server's clock, and it was asked long ago.
        let shortened = Termination { gone_by: Some(now.wall), ..pod(seconds(1)) };
        let budget = budget(&shortened, Some(Life::Deleting), &once(before(now, 8)), now);
        assert_eq!(budget.kill_at(), Some(now.instant + seconds(2)));
        assert_eq!(budget.shutdown(Limit::Default).by, Some(now.instant + seconds(1)));
        assert!(!budget.shutdown(Limit::Default).waits);
    }

    #[test]
    fn a_probes_own_grace_period_counts_while_the_pod_goes_on() {
        let now = now();
        let probed = Termination { probe_grace: Some(seconds(3)), ..pod(seconds(30)) };
        let kill_in =
            |life| budget(&probed, Some(life), &once(now.instant), now).kill_at().unwrap() - now.instant;
        assert_eq!((kill_in(Life::Active), kill_in(Life::Deleting)), (seconds(3), seconds(30)));
        // Whichever of the two it was: one is past, and the other is still to come.
        let slow = Termination { probe_grace: Some(seconds(60)), ..pod(seconds(5)) };
        let late = budget(&slow, Some(Life::Active), &once(before(now, 20)), now);
        assert_eq!(late.kill_at(), Some(now.instant + seconds(40)));
        assert_eq!(
            budget(&slow, Some(Life::Active), &once(now.instant), now).kill_at(),
            Some(now.instant + seconds(5))
        );
        let long = Termination { grace: seconds(45), ..probed };
        let leisure = budget(&long, Some(Life::Active), &never(), now).shutdown(Limit::Default);
        assert_eq!(leisure.by, Some(now.instant + seconds(45)), "at leisure no probe ends it");
    }

    #[test]
    fn how_long_a_hook_took_before_a_probes_kill_is_unknown() {
        let now = now();
        let hooked = Termination { countdown: Countdown::Earlier, ..pod(seconds(30)) };
        let probed = budget(&hooked, Some(Life::Active), &once(now.instant), now).shutdown(Limit::Default);
        assert_eq!((probed.by, probed.waits), (Some(now.instant + seconds(1)), false));
        let inside = StopRequests { by_runtime: false, ..once(now.instant) };
        let asked = budget(&hooked, Some(Life::Active), &inside, now).shutdown(Limit::Default);
        assert_eq!(
            (asked.by, asked.waits),
            (Some(now.instant + seconds(29)), true),
            "no hook runs before that"
        );
    }

    #[test]
    fn who_asked_is_kept_and_a_second_later_it_is_another_request() {
        let now = now().instant;
        let mut asked = StopRequests::default();
        assert!(asked.is_empty() && !asked.is_by_runtime());
        asked.note(now, Sender::Inside);
        assert!(!asked.is_empty() && !asked.is_by_runtime());
        asked.note(now + BURST / 2, Sender::Outside);
        assert!(asked.is_by_runtime());
        asked.note(now + BURST, Sender::Inside);
        assert!(asked.is_by_runtime(), "it was among them");
        assert_eq!(asked.at, [now, now + BURST]);
    }

    #[test]
    fn a_look_at_the_pod_is_shorter_the_less_time_there_is() {
        let now = now();
        let look = |grace, asked: &StopRequests, seen, need| {
            budget(&pod(seconds(grace)), Some(Life::Active), asked, now).look(seen, need)
        };
        let stopped = once(now.instant);
        for (grace, asked, seen, need, expected) in [
            (30, &never(), true, Need::Usual, LOOK),
            (30, &never(), true, Need::Urgent, LOOK),
            (30, &never(), false, Need::Usual, FIRST_LOOK),
            (45, &never(), false, Need::Urgent, seconds(45)),
            (45, &stopped, false, Need::Urgent, HURRIED_LOOK),
            (30, &stopped, true, Need::Usual, HURRIED_LOOK),
            (2, &stopped, true, Need::Usual, Duration::from_millis(500)),
        ] {
            assert_eq!(look(grace, asked, seen, need), expected, "{grace} {asked:?} {seen} {need:?}");
        }
    }

    #[test]
    fn a_hold_leaves_the_command_its_time() {
        let now = now();
        let held = |hold, grace, limit| {
            let budget = budget(&pod(seconds(grace)), None, &once(now.instant), now);
            budget.hold(hold, now.instant, limit) - now.instant
        };
        assert_eq!(held(HoldTerm::Grace, 30, Limit::Default), seconds(24));
        assert_eq!(held(HoldTerm::Grace, 8, Limit::Default), seconds(5));
        assert_eq!(held(HoldTerm::Grace, 30, Limit::For(seconds(10))), seconds(19));
        assert_eq!(held(HoldTerm::For(seconds(3)), 30, Limit::Default), seconds(3));
        assert_eq!(held(HoldTerm::For(seconds(60)), 30, Limit::Default), seconds(24));
        assert_eq!(held(HoldTerm::For(HUGE), 30, Limit::For(HUGE)), seconds(14), "a limit is no need");
        assert_eq!(held(HoldTerm::Grace, 0, Limit::Default), seconds(1));
        assert_eq!(held(HoldTerm::Grace, 5, Limit::For(seconds(60))), Duration::from_millis(1500));
    }

    #[test]
    fn a_held_command_has_the_kubelets_minimum() {
        let now = now();
        let killed = |grace, limit| {
            let budget = budget(&pod(seconds(grace)), Some(Life::Deleting), &once(now.instant), now);
            budget.command(limit).unwrap() - now.instant
        };
        assert_eq!([killed(0, Limit::Default), killed(1, Limit::Default)], [seconds(2), seconds(2)]);
        assert_eq!(killed(30, Limit::Default), seconds(29));
        assert_eq!(killed(30, Limit::For(seconds(1))), seconds(1));
    }

    /// Every combination of what may be 0, past, huge, unknown or skewed.
    #[test]
    fn no_value_leaves_the_bounds() {
        let now = now();
        let times = [0, 1, 2, 3, 4, 29, 30, 31, 3600, u64::MAX / 2, u64::MAX];
        let graces = times.map(seconds).into_iter().chain([HUGE, Duration::from_nanos(1)]);
        let asked = [0, 1, 2, 31, 33, 50_000].map(|ago| Some(before(now, ago)));
        let asked = || asked.into_iter().chain([None, Some(now.instant + seconds(5))]);
        let far = SystemTime::UNIX_EPOCH + seconds(u64::from(u32::MAX) * 1000);
        let moments =
            [SystemTime::UNIX_EPOCH, now.wall, now.wall + seconds(3), now.wall + seconds(1000), far];
        let moments = || moments.into_iter().map(Some).chain([None]);
        let lives = [None, Some(Life::Active), Some(Life::Deleting), Some(Life::Finished)];
        let limits = || times.map(|time| Limit::For(seconds(time))).into_iter();
        let limits = || limits().chain([Limit::Default, Limit::None, Limit::For(HUGE)]);
        let mut swept = 0;
        for grace in graces {
            for (asked_at, gone_by) in asked().flat_map(|asked| moments().map(move |moment| (asked, moment)))
            {
                for (life, countdown) in lives
                    .iter()
                    .flat_map(|life| [Countdown::FromSignal, Countdown::Earlier].map(|kind| (*life, kind)))
                {
                    for probe_grace in [None, Some(Duration::ZERO), Some(HUGE)] {
                        let termination = Termination { grace, probe_grace, gone_by, countdown };
                        let asked = asked_at.map_or_else(never, once);
                        let budget = budget(&termination, life, &asked, now);
                        let leaving = matches!(life, Some(Life::Deleting | Life::Finished));
                        assert!(
                            !leaving || budget.kill_at().is_some() || grace > seconds(3600),
                            "{budget:?}"
                        );
                        for limit in limits() {
                            hold_bounds(&budget, limit, now.instant, asked_at);
                            swept += 1;
                        }
                    }
                }
            }
        }
        assert!(swept > 100_000, "{swept}");
    }

    fn hold_bounds(budget: &Budget, limit: Limit, now: Instant, asked_at: Option<Instant>) {
        let context = format!("{budget:?} {limit:?}");
        let shutdown = budget.shutdown(limit);
        let immediate = limit == Limit::For(Duration::ZERO);
        // Whatever the time, there is some to send a request in.
        assert!(shutdown.by.is_none_or(|by| by > now || immediate), "{context}");
        assert!(shutdown.others_by.is_none_or(|others| shutdown.unasked_by <= others), "{context}");
        assert!(
            shutdown.unasked_by >= now
                && shutdown.by.is_none_or(|by| shutdown.others_by.is_some_and(|others| others <= by)),
            "{context}"
        );
        assert!(shutdown.unasked_by <= now + UNASKED, "{context}");
        assert_eq!(
            budget.look(false, Need::Urgent) >= FIRST_LOOK,
            budget.end == End::AtLeisure,
            "{budget:?}"
        );
        let look = budget.look(true, Need::Usual);
        assert!(look >= LEAST && look <= LOOK, "{context}");
        if let Some(kill_at) = budget.kill_at() {
            let done_by = kill_at.checked_sub(MARGIN).unwrap().max(now + LEAST);
            assert!(shutdown.by.is_some_and(|by| by <= done_by), "{context}");
            let command = budget.command(limit).unwrap();
            assert!(command <= kill_at.max(now + LEAST_GRACE), "{context}");
            assert!(!is_past(kill_at, now), "{context}");
        } else if budget.end == End::Overdue {
            assert!(!shutdown.waits && shutdown.by.is_some_and(|by| by <= now + LEAST_GRACE), "{context}");
        } else {
            assert!(shutdown.waits, "{context}");
            let default = limit == Limit::Default;
            assert!(!default || shutdown.by.is_none_or(|by| by >= now + DEFAULT_GRACE), "{context}");
        }
        for hold in [HoldTerm::Grace, HoldTerm::For(Duration::ZERO), HoldTerm::For(HUGE)] {
            let until = budget.hold(hold, asked_at.unwrap_or(now), limit);
            let latest = budget.kill_at().and_then(|at| at.checked_sub(MARGIN)).unwrap_or(now).max(now);
            assert!(until <= latest, "{context}");
        }
    }
}
