//! What proa makes of each report that reaches it, in every phase, against what is true by that report.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use proa::gate::verdict::{Reason, Verdict, verdict};
use proa::peer::{Message, Peer, Peers};
use proa::plan::selection::Selection;
use proa::pod::mains::{Awaited as MainAwaited, End, Mains, Progress, find, progress};
use proa::pod::{KnownBy, Snapshot};
use proa::policy::{Limit, ShutdownAuto, ShutdownWhen};
use proa::shutdown::actions::{Shutdown, Spared};
use proa::shutdown::again::DoneTask;
use proa::shutdown::awaited::{
    Asked, Awaited, Drain, Pointless, Rounds, Scope, Seen, TaskResult, awaited, drain,
};
use proa::shutdown::stages::{Stages, stages};
use proa::shutdown::{Decision, Keep, Origin, decide};
use proptest::test_runner::TestRunner;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest};

use super::kubelet::{Front, Kind, Life, Make, Manifest, Moment, State, time};
use super::world::{Event, World};

/// The proa of one start of our container.
#[derive(Default)]
struct Proa {
    /// Which start.
    starts: u32,
    ending: Option<Ending>,
}

/// The sidecars' end under way.
struct Ending {
    done: Vec<DoneTask>,
    awaited: Vec<Awaited>,
    rounds: Rounds,
    /// How often each container had been started when it was asked.
    starts: BTreeMap<String, u32>,
}

/// How often each decision was made: a model that never gets there shows nothing.
static MADE: Mutex<BTreeMap<String, usize>> = Mutex::new(BTreeMap::new());

fn made(decision: &str) {
    *MADE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .entry(decision.to_owned())
        .or_default() += 1;
}

#[test]
fn decisions_are_right_by_the_report_that_they_are_made_on() {
    let config = super::config(512);
    let cases = config.cases;
    let histories = World::sequential_strategy(20..60);
    let tried = TestRunner::new(config.clone()).run(&histories, |(world, events, seen)| {
        Proa::test_sequential(config.clone(), world, events, seen);
        Ok(())
    });
    if let Err(failure) = tried {
        panic!("{failure}");
    }
    let made = MADE.lock().expect("no failure");
    println!("{cases} histories: {made:#?}");
    for decision in [
        "event",
        "gate open",
        "gate wait",
        "gate refuse",
        "gate outdated",
        "keep",
        "end",
        "task",
        "drain done",
        "drain waiting",
        "drain pointless",
        "again",
        "mains ended",
        "mains running",
        "mains outdated",
        "mains endless",
    ] {
        assert!(
            made.get(decision).is_some_and(|count| *count * 100 >= cases as usize),
            "{decision}: {made:#?}"
        );
    }
}

impl StateMachineTest for Proa {
    type SystemUnderTest = Self;
    type Reference = World;

    fn init_test(world: &World) -> Self {
        Self { starts: world.now.containers[world.own].starts, ending: None }
    }

    fn apply(mut proa: Self, world: &World, event: Event) -> Self {
        made("event");
        let starts = world.now.containers[world.own].starts;
        if proa.starts != starts {
            proa = Self { starts, ending: None };
        }
        let Some(report) = world.delivered.map(|place| &world.reports[place]) else { return proa };
        if !runs(world) {
            companions(world, report);
            return proa;
        }
        match event {
            Event::Deliver(_) => proa.sees(world, report),
            Event::Command(code, results) => proa.ends(world, report, code, &results),
            _ => {}
        }
        proa
    }

    /// Once nothing more happens, and the kubelet has reported all that did.
    fn teardown(proa: Self, world: World) {
        let world = World::apply(world, &Event::Report);
        let world = World::apply(world, &Event::Deliver(0));
        let report = world.reports.last().expect("a report");
        if !runs(&world) {
            companions(&world, report);
            return;
        }
        let seen = see(&world, report, world.own);
        let outdated = verdict(&seen, &selection(&world)) == Verdict::Outdated;
        assert!(!outdated || report.life != Life::Active, "the newest report is good enough for nobody");
        proa.sees(&world, report);
    }
}

/// Whether our container does.
fn runs(world: &World) -> bool {
    world.now.containers[world.own].state == State::Running
}

/// The Pod, as a proa in this container reads it.
fn see(world: &World, report: &Moment, place: usize) -> Snapshot {
    let name = &world.spec(place).name;
    let started = time(world.now.containers[place].started);
    let pod = world.manifest.shown(report);
    let mut snapshot = Snapshot::of(&pod, Some(name), Some(started)).expect("our container is there");
    Mains::named(world.flags.mains.clone()).settle(&mut snapshot);
    snapshot
}

fn selection(world: &World) -> Selection {
    let flags = world.flags.clone();
    let end = |success| if success { End::Success } else { End::ForGood };
    let wait_exit =
        flags.wait_exit.into_iter().map(|(name, success)| MainAwaited { name, end: end(success) });
    Selection {
        wait_for: flags.wait_for,
        ignore: flags.ignore,
        mains: flags.mains,
        wait_exit: wait_exit.collect(),
    }
}

/// What the gate wants of a container, as docs/reference.md has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Ready,
    Alive,
    Nothing,
}

fn wanted(world: &World, place: usize) -> Wanted {
    let (spec, flags) = (world.spec(place), &world.flags);
    if place == world.own
        || flags.ignore.contains(&spec.name)
        || flags.wait_exit.iter().any(|(name, _)| *name == spec.name)
    {
        return Wanted::Nothing;
    }
    let is_named = flags.wait_for.contains(&spec.name);
    if !flags.wait_for.is_empty() && !is_named {
        return Wanted::Nothing;
    }
    match spec.kind {
        Kind::Sidecar(Make::ReadyAt) => Wanted::Alive,
        Kind::Sidecar(Make::Dapr) if !is_named => Wanted::Alive,
        Kind::Sidecar(Make::Ignored) | Kind::Main(_) if !is_named => Wanted::Nothing,
        _ => Wanted::Ready,
    }
}

/// Whether a report is of the present start of a container.
fn is_outdated(world: &World, report: &Moment, place: usize) -> bool {
    let then = report.containers[place].starts;
    then > 0 && then != world.now.containers[place].starts
}

impl Proa {
    fn sees(&self, world: &World, report: &Moment) {
        let seen = see(world, report, world.own);
        match &self.ending {
            None => gate(world, report, &seen),
            Some(ending) => ending.check(world, report, seen),
        }
        companions(world, report);
    }

    /// Our command ends.
    fn ends(&mut self, world: &World, report: &Moment, code: u8, results: &[u8]) {
        let seen = see(world, report, world.own);
        let again = world.spec(world.own).restarts(world.manifest.policy, code.into());
        let decision = decide(ShutdownWhen::Auto, code, Origin::Inside, Some(&seen));
        if again {
            made("keep");
            assert_eq!(
                decision,
                Decision::Keep(Keep::Restart),
                "the kubelet starts this container again after {code}"
            );
            return;
        }
        made("end");
        assert_eq!(decision, Decision::End, "the kubelet does not start this container again after {code}");
        self.ending = Some(Ending::begin(world, report, &seen, results));
    }
}

/// The gate, by this report.
fn gate(world: &World, report: &Moment, seen: &Snapshot) {
    let decided = verdict(seen, &selection(world));
    let places = || 0..report.containers.len();
    let name = |place: usize| world.spec(place).name.clone();
    if report.life != Life::Active {
        made("gate refuse");
        let reason = if report.life == Life::Deleting { Reason::Deleting } else { Reason::Finished };
        assert_eq!(decided, Verdict::Refuse(reason));
        return;
    }
    if is_outdated(world, report, world.own) {
        made("gate outdated");
        assert_eq!(decided, Verdict::Outdated, "it says nothing of this start of ours");
        return;
    }
    let is_over = |place: usize| world.manifest.is_over(report, place);
    let lost = |place: &usize| wanted(world, *place) != Wanted::Nothing && is_over(*place);
    let lost: BTreeSet<_> = places().filter(lost).map(name).collect();
    let unready = |place: &usize| wanted(world, *place) == Wanted::Ready && !report.containers[*place].ready;
    let mut waiting: BTreeSet<_> = places().filter(unready).map(name).collect();
    let (mut failed, mut endless) = (BTreeSet::new(), BTreeSet::new());
    for (name, success) in &world.flags.wait_exit {
        let place = world.manifest.place(name);
        match report.containers[place].state {
            State::Ended(code, _) if is_over(place) => {
                if *success && code != 0 {
                    failed.insert(name.clone());
                }
            }
            _ if !world.spec(place).can_end(world.manifest.policy) => {
                endless.insert(name.clone());
            }
            _ => {
                waiting.insert(name.clone());
            }
        }
    }
    match &decided {
        Verdict::Open => made("gate open"),
        Verdict::Wait(_) => made("gate wait"),
        Verdict::Refuse(_) | Verdict::Outdated => made("gate refuse"),
    }
    match decided {
        Verdict::Refuse(Reason::SidecarEnded { name, .. }) => {
            assert!(lost.contains(&name), "{name} can recover");
        }
        Verdict::Refuse(Reason::NotSuccess { name, .. }) => {
            assert!(failed.contains(&name), "{name} has not failed");
        }
        Verdict::Refuse(Reason::NeverExits(name)) => assert!(endless.contains(&name), "{name} can end"),
        Verdict::Wait(unready) => {
            assert!(lost.is_empty(), "{lost:?} cannot recover");
            assert!(failed.is_empty() && endless.is_empty(), "{failed:?} {endless:?} are waited for in vain");
            let unready: BTreeSet<_> = unready.into_iter().map(|unready| unready.name).collect();
            assert_eq!(unready, waiting);
        }
        Verdict::Open => {
            assert!(waiting.is_empty(), "open without {waiting:?}");
            assert!(
                lost.is_empty() && failed.is_empty() && endless.is_empty(),
                "open without {lost:?} {failed:?} {endless:?}"
            );
        }
        other => panic!("{other:?}"),
    }
}

/// The sidecars that proa wraps, by this report: how far the main containers are.
fn companions(world: &World, report: &Moment) {
    let wrapped = |place: &usize| {
        world.spec(*place).kind == Kind::Sidecar(Make::Wrapped)
            && world.now.containers[*place].state == State::Running
    };
    for place in (0..report.containers.len()).filter(wrapped) {
        let mut seen = see(world, report, place);
        seen.mains.retain(|main| main.known_by != KnownBy::Flag);
        let Ok(Some(mains)) = find(&seen, &[]) else { continue };
        let expected: BTreeSet<_> = main_names(&world.manifest).collect();
        let found: BTreeSet<_> = mains.iter().map(|main| main.name.as_str()).collect();
        assert_eq!(found, expected);
        let places: Vec<_> = expected.iter().map(|name| world.manifest.place(name)).collect();
        let over = places.iter().all(|place| world.manifest.is_over(report, *place));
        let endless = places.iter().any(|place| !world.spec(*place).can_end(world.manifest.policy));
        let reported = report.containers[place].starts > 0 || world.now.containers[place].starts == 1;
        match progress(&seen, &mains) {
            Progress::Endless => {
                made("mains endless");
                assert!(endless, "each of them can end");
            }
            _ if endless => panic!("one of them never ends"),
            Progress::Outdated => {
                made("mains outdated");
                assert!(is_outdated(world, report, place));
            }
            _ if !reported => {}
            _ if is_outdated(world, report, place) => panic!("it says nothing of this start of ours"),
            Progress::Ended(_) => {
                made("mains ended");
                assert!(over, "one of them runs, or will again");
            }
            Progress::Running(running) => {
                made("mains running");
                assert!(!over && !running.is_empty(), "all of them are over");
            }
            Progress::Failed(..) => panic!("every exit code counts"),
        }
    }
}

/// The main containers that the manifest shows.
fn main_names(manifest: &Manifest) -> impl Iterator<Item = &str> {
    let shows = |kind| matches!(kind, Kind::Main(Front::Proa | Front::Disabled));
    manifest.containers.iter().filter(move |spec| shows(spec.kind)).map(|spec| spec.name.as_str())
}

impl Ending {
    fn begin(world: &World, report: &Moment, seen: &Snapshot, results: &[u8]) -> Self {
        let shutdown = Shutdown {
            when: ShutdownWhen::Auto,
            actions: Vec::new(),
            auto: ShutdownAuto::Otherwise,
            timeout: Limit::Default,
            ignore: world.flags.ignore.clone(),
            spared: Spared::Entrypoint,
        };
        let places = || 0..report.containers.len();
        let kind = |place: usize| world.spec(place).kind;
        let name = |place: usize| world.spec(place).name.clone();
        let listens = |place: &usize| {
            kind(*place) == Kind::Sidecar(Make::Wrapped)
                && world.now.containers[*place].state == State::Running
        };
        let listening: Vec<_> = places().filter(listens).map(name).collect();
        let peers = Peers {
            ended: vec![Message { container: name(world.own), code: 0 }],
            listening: listening
                .iter()
                .map(|name| Peer { uid: "u".into(), container: name.clone() })
                .collect(),
        };
        let Stages { first, last } = stages(&shutdown, Some(seen), &peers);
        // Whoever can be ended is asked once, and who carries the others' traffic after them.
        let names = |tasks: &[proa::shutdown::stages::Task]| {
            let mut names: Vec<_> =
                tasks.iter().map(|task| task.container.clone().expect("a container")).collect();
            names.sort();
            names
        };
        let asked = |place: &usize| {
            let own_traffic = [Make::CloudSql, Make::Dapr, Make::Wrapped, Make::Annotated];
            matches!(kind(*place), Kind::Sidecar(make) if own_traffic.contains(&make))
        };
        let carries = |place: &usize| kind(*place) == Kind::Sidecar(Make::Istio);
        assert_eq!(names(&first), places().filter(asked).map(name).collect::<Vec<_>>());
        assert_eq!(names(&last), places().filter(carries).map(name).collect::<Vec<_>>());
        let result = |task: &proa::shutdown::stages::Task, number: u8| {
            let place = world.manifest.place(task.container.as_deref().expect("a container"));
            match (number, kind(place)) {
                (0 | 1, _) => TaskResult::Accepted,
                (2, Kind::Sidecar(Make::Wrapped)) => TaskResult::NotYet,
                (3, Kind::Sidecar(Make::Wrapped)) => TaskResult::Absent,
                _ => TaskResult::Failed,
            }
        };
        let tasks = first.into_iter().chain(last).zip(results.iter().cycle());
        let done = tasks.map(|(task, number)| {
            made("task");
            let result = result(&task, *number);
            DoneTask::new(task, result, Some(seen))
        });
        let done: Vec<_> = done.collect();
        let scoped =
            |scope| awaited(&done, Some(seen), scope, &shutdown.ignore, &listening, Spared::Entrypoint);
        let awaited = scoped(Scope::All);
        let came_to = |place: usize| {
            done.iter().find(|done| done.task.container == Some(name(place))).map(|done| done.result)
        };
        let expected = |place: &usize| {
            let Kind::Sidecar(make) = kind(*place) else { return false };
            let runs = report.containers[*place].state == State::Running;
            let ends_with_us = match make {
                Make::Ignored | Make::LeavesLast => false,
                // It waits for our exit, unless it was notified, or will be once it runs.
                Make::Wrapped => {
                    let result = came_to(*place);
                    result == Some(TaskResult::Accepted) || result == Some(TaskResult::Absent) && !runs
                }
                _ => true,
            };
            ends_with_us
                && !world.flags.ignore.contains(&name(*place))
                && !world.flags.mains.contains(&name(*place))
                && world.spec(*place).can_end(world.manifest.policy)
        };
        let waits_for = |awaited: &[Awaited]| awaited.iter().map(|one| one.name.clone()).collect::<Vec<_>>();
        assert_eq!(waits_for(&awaited), places().filter(expected).map(name).collect::<Vec<_>>(), "{done:?}");
        let others = places().filter(|place| expected(place) && !carries(place)).map(name);
        assert_eq!(waits_for(&scoped(Scope::Others)), others.collect::<Vec<_>>());
        for one in &awaited {
            let accepted = came_to(world.manifest.place(&one.name)) == Some(TaskResult::Accepted);
            assert_eq!(one.asked, if accepted { Asked::Yes } else { Asked::No });
        }
        let starts = places().map(|place| (name(place), report.containers[place].starts)).collect();
        Self { done, awaited, rounds: Rounds::told_by(Some(seen)), starts }
    }

    fn check(&self, world: &World, report: &Moment, seen: Snapshot) {
        for done in &self.done {
            let name = done.task.container.as_ref().expect("a container");
            let container = &report.containers[world.manifest.place(name)];
            let runs = container.state == State::Running;
            let again = match done.result {
                TaskResult::Failed | TaskResult::Absent => true,
                TaskResult::Accepted => self.starts[name] > 0 && self.starts[name] != container.starts,
                TaskResult::NotYet | TaskResult::ByItself => false,
            };
            if runs && again {
                made("again");
            }
            assert_eq!(done.is_due_again(Some(&seen)), runs && again, "{done:?}");
        }
        let drained =
            drain(&self.awaited, &Seen { snapshot: Some(seen), rounds: self.rounds, ..Seen::default() });
        if report.life != Life::Active {
            made("drain pointless");
            assert_eq!(drained, Drain::Pointless(Pointless::Leaving));
            return;
        }
        let is_present = !is_outdated(world, report, world.own);
        let is_over = |name: &str| is_present && world.manifest.is_over(report, world.manifest.place(name));
        let left = (0..self.awaited.len()).filter(|place| !is_over(&self.awaited[*place].name));
        let left: Vec<_> = left.collect();
        if left.is_empty() {
            made("drain done");
            assert_eq!(drained, Drain::Done);
        } else {
            made("drain waiting");
            assert_eq!(drained, Drain::Waiting(left));
        }
    }
}
