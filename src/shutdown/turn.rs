//! Whose turn it is to shut the sidecars down: that of the last main container. A decision over one snapshot and what the Pod's
//! proas show of themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use crate::pod::{Main, Snapshot, State};

/// How long after our start the kubelet may not have reported what became of the containers that were started with ours.
pub const REPORTED: Duration = Duration::from_secs(10);

/// What the proas of the other main containers show of themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Others {
    /// Those that were left the sidecars just now: their commands have yet to start, or run.
    pub listening: BTreeSet<String>,
    /// Those in which proa runs at all, before it was seen who listens and after.
    pub present: BTreeSet<String>,
    /// Those that have left the sidecars to this one, with their exit codes. One that does not see its restart policy does so
    /// before a restart too.
    pub ended: BTreeMap<String, u8>,
}

/// What the snapshot is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Worth {
    /// It shows the Pod as it is.
    Current,
    /// Our container has just started, and the kubelet may not have reported yet what became of those that started with it.
    Early,
    /// It shows the Pod as it was some time ago.
    Past,
    /// The same, and the API server has shown nothing for long: what else shows a main container's end has to do.
    Blind,
}

impl Worth {
    /// What a snapshot is worth that was `fresh` when it came, to a proa that was started so long ago. `blind`: whether the API
    /// server has shown nothing for long.
    #[must_use]
    pub fn of(snapshot: &Snapshot, fresh: bool, since_start: Duration, blind: bool) -> Self {
        if blind {
            Self::Blind
        } else if !fresh || snapshot.own.run.is_outdated() {
            Self::Past
        } else if since_start < REPORTED {
            Self::Early
        } else {
            Self::Current
        }
    }
}

/// The exit code of a container whose process SIGKILL ended.
pub const KILLED: i32 = 137;

/// Whose turn it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// Ours: nobody else will.
    Ours,
    /// Theirs.
    Theirs(Vec<Other>),
    /// These may need the sidecars still, and it is unknown whether anybody shuts them down after that.
    Await(Vec<Other>),
}

/// Another main container that may need the sidecars still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    /// Its name.
    pub name: String,
    /// Why it may.
    pub why: Why,
}

/// Why a main container may need the sidecars still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Its command has yet to end.
    Runs,
    /// It has yet to start.
    YetToStart,
    /// The kubelet will start it again.
    StartsAgain,
}

impl fmt::Display for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.why {
            Why::Runs => "running",
            Why::YetToStart => "not started yet",
            Why::StartsAgain => "to be restarted",
        };
        write!(f, "`{}` ({why})", self.name)
    }
}

/// Decides whose turn it is, once our command is over and nobody can leave the sidecars to us any more. `snapshot`: the Pod,
/// where it is seen at all.
#[must_use]
pub fn turn(snapshot: Option<(&Snapshot, Worth)>, others: &Others) -> Turn {
    let listening = others.listening.iter().map(|name| Other { name: name.clone(), why: Why::Runs });
    let mut theirs: Vec<_> = listening.collect();
    let mut awaited = Vec::new();
    let (mains, worth) = snapshot.map_or(([].as_slice(), Worth::Past), |(seen, worth)| (&seen.mains, worth));
    for main in mains {
        let name = &main.container.name;
        if others.listening.contains(name) {
            continue;
        }
        let why = match others.ended.get(name) {
            Some(code) => main.container.restart.after((*code).into()).then_some(Why::StartsAgain),
            None => needs(main, others, worth),
        };
        let Some(why) = why else { continue };
        let other = Other { name: name.clone(), why };
        if main.container.restart.always() || main.known_by.shuts_down() && is_certain(main, why, worth) {
            theirs.push(other);
        } else {
            awaited.push(other);
        }
    }
    if !theirs.is_empty() {
        Turn::Theirs(theirs)
    } else if awaited.is_empty() {
        Turn::Ours
    } else {
        Turn::Await(awaited)
    }
}

/// Whether a main container that the others cannot see leaves the sidecars to one of those that it would wait for: that one may
/// be waiting likewise, and one of two goes first. One without proa waits for nobody.
#[must_use]
pub fn goes_first(awaited: &[Other], own: &str, snapshot: Option<&Snapshot>) -> bool {
    let mains = snapshot.iter().flat_map(|seen| &seen.mains);
    let bare = mains.filter(|main| !main.known_by.shuts_down()).map(|main| main.container.name.as_str());
    let bare: BTreeSet<_> = bare.collect();
    awaited.iter().any(|other| other.name.as_str() > own && !bare.contains(other.name.as_str()))
}

/// Why one whose proa does not listen may need the sidecars still.
fn needs(main: &Main, others: &Others, worth: Worth) -> Option<Why> {
    let container = &main.container;
    match &container.state {
        State::Terminated(exit) => container.restart.after(exit.code).then_some(Why::StartsAgain),
        // Its command is over, and this is not restarted: else its proa would listen until its own end.
        _ if others.present.contains(&container.name) || is_killed(main, others, worth) => None,
        State::Waiting(_) if container.has_yet_to_start() => Some(Why::YetToStart),
        State::Waiting(_) => Some(Why::StartsAgain),
        State::Running => Some(Why::Runs),
    }
}

/// Whether it is over, and nothing but its proa's absence shows it: that was seen, and has been killed, since it left the sidecars to
/// nobody. One that was never seen may have yet to start, behind an entrypoint that takes its time, or be switched off by a
/// variable that the manifest does not show. One that may be started again shows itself then.
#[must_use]
pub fn is_killed(main: &Main, others: &Others, worth: Worth) -> bool {
    let name = &main.container.name;
    let is_silent = ![&others.listening, &others.present].into_iter().any(|shown| shown.contains(name));
    worth == Worth::Blind
        && main.seen
        && main.container.restart.never()
        && is_silent
        && !others.ended.contains_key(name)
}

/// Whether it is certain that its proa will look whose turn it is, after we did.
fn is_certain(main: &Main, why: Why, worth: Worth) -> bool {
    match (why, worth) {
        // Not listening though running: proa is about to, or was killed, and the kubelet's report will tell. One that has yet to
        // start may have been started, and killed, since an early report.
        (Why::Runs, _) | (_, Worth::Past | Worth::Blind) | (Why::YetToStart, Worth::Early) => false,
        // One whose proa has been there has started: the report lags.
        (Why::YetToStart, Worth::Current) => !main.seen,
        // It may have been restarted since, and killed: a report lags.
        (Why::StartsAgain, Worth::Current | Worth::Early) => main.container.restart.after(KILLED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::KnownBy;
    use crate::pod::mains::Mains;
    use crate::pod::run::Run;
    use crate::pod::tests::snapshot;

    fn pod(policy: &str, status: &str) -> Snapshot {
        snapshot(&format!(
            "
spec:
  restartPolicy: {policy}
  containers:
  - {{name: envoy, image: e}}
  - {{name: main, image: m}}
  - {{name: other, image: o, command: [/proa, --, other]}}
status:
  containerStatuses:
  - {{name: other, image: o, imageID: o, ready: false, restartCount: 0, state: {{{status}}}}}
"
        ))
    }

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn ended_with(code: u8) -> BTreeMap<String, u8> {
        BTreeMap::from([("other".to_owned(), code)])
    }

    fn theirs(why: Why) -> Turn {
        Turn::Theirs(vec![Other { name: "other".into(), why }])
    }

    fn awaited(why: Why) -> Turn {
        Turn::Await(vec![Other { name: "other".into(), why }])
    }

    fn decided(policy: &str, status: &str, worth: Worth) -> Turn {
        turn(Some((&pod(policy, status), worth)), &Others::default())
    }

    const WAITING: &str = "waiting: {reason: ContainerCreating}";
    const RUNNING: &str = "running: {}";

    #[test]
    fn alone_it_is_ours() {
        let alone = snapshot("spec: {containers: [{name: envoy, image: e}, {name: main, image: m}]}");
        assert_eq!(turn(Some((&alone, Worth::Current)), &Others::default()), Turn::Ours);
        assert_eq!(turn(None, &Others::default()), Turn::Ours);
    }

    #[test]
    fn it_is_theirs_who_listen_whatever_else_is_seen() {
        let listening = Others { listening: names(&["other"]), ended: ended_with(0), ..Others::default() };
        for status in [WAITING, RUNNING, "terminated: {exitCode: 0}"] {
            for worth in [Worth::Current, Worth::Early, Worth::Past] {
                assert_eq!(turn(Some((&pod("Never", status), worth)), &listening), theirs(Why::Runs));
            }
        }
        assert_eq!(turn(None, &listening), theirs(Why::Runs));
    }

    #[test]
    fn one_that_will_start_is_left_the_sidecars_once_the_kubelet_has_had_time_to_report() {
        assert_eq!(decided("Never", WAITING, Worth::Current), theirs(Why::YetToStart));
        assert_eq!(decided("Never", WAITING, Worth::Early), awaited(Why::YetToStart));
        assert_eq!(decided("Never", WAITING, Worth::Past), awaited(Why::YetToStart));
    }

    #[test]
    fn one_that_is_restarted_is_left_the_sidecars() {
        let failed = "terminated: {exitCode: 3}";
        assert_eq!(decided("OnFailure", failed, Worth::Current), theirs(Why::StartsAgain));
        assert_eq!(decided("OnFailure", failed, Worth::Early), theirs(Why::StartsAgain));
        assert_eq!(decided("OnFailure", failed, Worth::Past), awaited(Why::StartsAgain));
        assert_eq!(decided("OnFailure", "terminated: {exitCode: 0}", Worth::Current), Turn::Ours);
        assert_eq!(decided("Never", failed, Worth::Past), Turn::Ours);
        let mut back_off = pod("OnFailure", "waiting: {reason: CrashLoopBackOff}");
        back_off.mains[0].container.last = Some(crate::pod::Exit { code: 3, reason: "Error".into() });
        assert_eq!(turn(Some((&back_off, Worth::Current)), &Others::default()), theirs(Why::StartsAgain));
        assert_eq!(decided("Always", RUNNING, Worth::Current), theirs(Why::Runs), "it has no end");
    }

    #[test]
    fn one_that_runs_and_does_not_listen_is_waited_for_unless_its_command_is_over() {
        for worth in [Worth::Current, Worth::Early, Worth::Past] {
            assert_eq!(decided("Never", RUNNING, worth), awaited(Why::Runs));
            let over = Others { present: names(&["other"]), ..Others::default() };
            assert_eq!(turn(Some((&pod("Never", RUNNING), worth)), &over), Turn::Ours);
        }
    }

    #[test]
    fn one_that_said_that_it_has_ended_has_whatever_the_kubelet_has_reported() {
        let ended = Others { ended: ended_with(3), ..Others::default() };
        for status in [WAITING, RUNNING] {
            assert_eq!(turn(Some((&pod("Never", status), Worth::Current)), &ended), Turn::Ours);
        }
    }

    /// One that does not look at the Pod leaves the sidecars before a restart, too.
    #[test]
    fn one_that_said_that_it_has_ended_and_is_restarted_is_left_the_sidecars() {
        let failed = Others { ended: ended_with(3), ..Others::default() };
        let over = Others { ended: ended_with(0), ..Others::default() };
        for status in [WAITING, RUNNING, "terminated: {exitCode: 3}"] {
            let pod = pod("OnFailure", status);
            assert_eq!(turn(Some((&pod, Worth::Current)), &failed), theirs(Why::StartsAgain), "{status}");
        }
        assert_eq!(turn(Some((&pod("OnFailure", RUNNING), Worth::Current)), &over), Turn::Ours);
    }

    #[test]
    fn one_whose_proa_is_gone_is_not_waited_for_by_who_sees_nothing_more() {
        let decided = |pod: &mut Snapshot, worth: Worth, others: &Others| {
            pod.mains[0].seen = true;
            turn(Some((&*pod, worth)), others)
        };
        let nobody = Others::default();
        assert_eq!(decided(&mut pod("Never", RUNNING), Worth::Blind, &nobody), Turn::Ours);
        assert_eq!(decided(&mut pod("Never", RUNNING), Worth::Past, &nobody), awaited(Why::Runs));
        assert_eq!(
            decided(&mut pod("Never", WAITING), Worth::Blind, &nobody),
            Turn::Ours,
            "it was seen since"
        );
        // Killed, it is started again, and shows itself then.
        assert_eq!(decided(&mut pod("OnFailure", RUNNING), Worth::Blind, &nobody), awaited(Why::Runs));
        let mut ruled = pod("Never", RUNNING);
        ruled.mains[0].container.restart = pod("OnFailure", RUNNING).own.restart;
        assert_eq!(decided(&mut ruled, Worth::Blind, &nobody), awaited(Why::Runs));
        let killed = pod("Never", RUNNING);
        let killed = &Main { seen: true, ..killed.mains[0].clone() };
        assert!(is_killed(killed, &nobody, Worth::Blind));
        for others in [
            Others { listening: names(&["other"]), ..Others::default() },
            Others { present: names(&["other"]), ..Others::default() },
            Others { ended: ended_with(0), ..Others::default() },
        ] {
            assert!(!is_killed(killed, &others, Worth::Blind), "{others:?}");
        }
    }

    /// It may be behind an entrypoint that takes its time, or be switched off by a variable that the manifest does not show.
    #[test]
    fn one_whose_proa_was_never_seen_is_waited_for_by_who_sees_nothing_more() {
        assert_eq!(decided("Never", RUNNING, Worth::Blind), awaited(Why::Runs));
        assert_eq!(decided("Never", WAITING, Worth::Blind), awaited(Why::YetToStart));
    }

    /// It has started, and may have been killed, since that report.
    #[test]
    fn one_whose_start_or_restart_a_late_report_has_yet_to_show_is_waited_for() {
        let mut waiting = pod("Never", WAITING);
        waiting.mains[0].seen = true;
        assert_eq!(turn(Some((&waiting, Worth::Current)), &Others::default()), awaited(Why::YetToStart));
        let rule = "restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [42]}}]";
        let ruled = snapshot(&format!(
            "
spec:
  restartPolicy: Never
  containers: [{{name: main, image: m}}, {{name: other, image: o, command: [/proa, --, other], restartPolicy: Never, {rule}}}]
status:
  containerStatuses:
  - {{name: other, image: o, imageID: o, ready: false, restartCount: 0, state: {{terminated: {{exitCode: 42}}}}}}
"
        ));
        assert_eq!(turn(Some((&ruled, Worth::Current)), &Others::default()), awaited(Why::StartsAgain));
    }

    /// It may have been restarted since, and be over.
    #[test]
    fn one_that_was_to_be_restarted_when_it_was_last_seen_is_not_left_the_sidecars() {
        let failed = "terminated: {exitCode: 3}";
        assert_eq!(decided("OnFailure", failed, Worth::Blind), awaited(Why::StartsAgain));
        let message = Others { ended: ended_with(3), ..Others::default() };
        assert_eq!(
            turn(Some((&pod("OnFailure", RUNNING), Worth::Blind)), &message),
            awaited(Why::StartsAgain)
        );
    }

    #[test]
    fn one_whose_proa_is_switched_off_is_waited_for() {
        let mut off = pod("OnFailure", "terminated: {exitCode: 3}");
        off.mains[0].known_by = KnownBy::Disabled;
        assert_eq!(turn(Some((&off, Worth::Current)), &Others::default()), awaited(Why::StartsAgain));
    }

    #[test]
    fn one_without_proa_is_waited_for() {
        let mut pod = snapshot(
            "
spec:
  restartPolicy: OnFailure
  containers: [{name: main, image: m}, {name: plain, image: p}]
status:
  containerStatuses:
  - {name: plain, image: p, imageID: p, ready: false, restartCount: 0, state: {terminated: {exitCode: 3}}}
",
        );
        Mains::named(vec!["plain".into()]).settle(&mut pod);
        let decided = turn(Some((&pod, Worth::Current)), &Others::default());
        assert_eq!(decided, Turn::Await(vec![Other { name: "plain".into(), why: Why::StartsAgain }]));
    }

    #[test]
    fn what_is_seen_is_worth_less_the_older_it_is() {
        let moment = Duration::from_millis(1);
        let present = pod("Never", RUNNING);
        let mut earlier = pod("Never", RUNNING);
        earlier.own.run = Run::Over;
        for (snapshot, fresh, since, worth) in [
            (&present, true, REPORTED, Worth::Current),
            (&present, true, REPORTED + moment, Worth::Current),
            (&present, true, REPORTED.saturating_sub(moment), Worth::Early),
            (&present, false, REPORTED, Worth::Past),
            (&earlier, true, REPORTED, Worth::Past),
            (&earlier, false, Duration::ZERO, Worth::Past),
        ] {
            assert_eq!(Worth::of(snapshot, fresh, since, false), worth);
            assert_eq!(Worth::of(snapshot, fresh, since, true), Worth::Blind);
        }
    }

    /// The others must come to the opposite by what they see.
    #[test]
    fn of_two_that_cannot_be_seen_the_later_name_shuts_the_sidecars_down() {
        let mut seen = pod("Never", RUNNING);
        let first = |own, seen: &Snapshot| {
            let awaited = ["other".to_owned(), "another".into()].map(|name| Other { name, why: Why::Runs });
            goes_first(&awaited, own, Some(seen))
        };
        assert!(first("main", &seen) && first("a", &seen));
        assert!(!first("other", &seen) && !first("z", &seen));
        // One without proa waits for nobody, and shuts nobody down.
        seen.mains[0].known_by = KnownBy::Flag;
        assert!(!first("main", &seen) && first("a", &seen), "`another` may have one");
        assert!(!goes_first(&[], "main", Some(&seen)) && !goes_first(&[], "main", None));
    }

    #[test]
    fn it_is_said_who_may_need_the_sidecars_still_and_why() {
        let said = [Why::Runs, Why::YetToStart, Why::StartsAgain]
            .map(|why| Other { name: "other".into(), why }.to_string());
        assert_eq!(said, ["`other` (running)", "`other` (not started yet)", "`other` (to be restarted)"]);
    }
}
