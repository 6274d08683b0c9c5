//! Several main containers that end, in every interleaving: each is started, runs, ends, is killed, is started again; its proa
//! withdraws, looks around, looks at the Pod, waits, shuts the sidecars down and exits, one system call at a time; the kubelet reports
//! when it likes, and the API server is away for a while. Explored whole, from a few Pods.
//!
//! The steps are those of `end_sidecars_if_last` in src/mode/wrap.rs and of src/mode/wrap/last.rs; whose turn it is and what a sight of
//! the Pod is worth are proa's own decisions.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use proa::pod::Snapshot;
use proa::pod::mains::Mains;
use proa::policy::ShutdownWhen;
use proa::shutdown::turn::{REPORTED, goes_first};
use proa::shutdown::{Decision, Keep, Origin, Others, Turn, Worth, decide, turn};

use super::kubelet::{Container, Front, Kind, Life, Manifest, Moment, Policy, Spec, State, time};

/// What an exploration begins with, and what may happen in it.
#[derive(Debug, Clone)]
struct Scene {
    manifest: Manifest,
    /// Whether each can be seen by the others: it knows its own name before it has seen the Pod.
    seen: Vec<bool>,
    /// How many of them run their commands from the beginning on.
    begun: usize,
    /// How often a container is started at most; the last time it does not fail.
    starts: u32,
    kills: u8,
    /// How often the API server goes away.
    outages: u8,
    codes: &'static [i32],
    order: Order,
}

/// What proa does first once its command is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Withdraws,
    /// The wrong one, which the exploration has to find out.
    LooksAround,
}

/// How far a main container's process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum At {
    /// There is none, or its proa has yet to show itself.
    Nowhere,
    /// The gate is shut.
    Gate,
    Command,
    /// With this exit code.
    Over(i32),
    /// Looks at the other proas, of which it has tried so many; whether for the first time.
    Around {
        code: i32,
        first: bool,
        tried: usize,
    },
    /// Is about to look at the Pod.
    Look(i32),
    /// Waits for others.
    Awaits(i32),
    /// Shuts the sidecars down.
    Ours(i32),
}

/// A main container.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Main {
    container: Container,
    at: At,
    /// Who has left the sidecars to it and is unread, and with which exit code.
    left: BTreeMap<usize, u8>,
    /// Who has ended, as it was told.
    ended: BTreeMap<usize, u8>,
    /// What it has found in this look around, which a start takes longer than.
    present: BTreeSet<usize>,
    /// Whether one was there that had yet to show itself for the first time.
    early: bool,
    listening: BTreeSet<usize>,
    /// The Pod as it last saw it, and whether that counts as fresh.
    sight: Option<Rc<Moment>>,
    fresh: bool,
}

/// A state of the Pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Point {
    mains: Vec<Main>,
    report: Rc<Moment>,
    away: bool,
    kills: u8,
    outages: u8,
    /// How often the sidecars were shut down since a command last ran.
    shutdowns: u8,
    /// Whether one was killed that the others had left the sidecars to.
    orphaned: bool,
}

/// What an exploration came to.
#[derive(Debug, Default)]
struct Explored {
    points: usize,
    steps: usize,
    ends: usize,
    /// Shutdowns by more than one.
    twice: usize,
}

impl At {
    /// Whether other main containers can leave the sidecars to it.
    fn listens(self) -> bool {
        matches!(self, Self::Gate | Self::Command | Self::Over(_))
    }
}

impl Main {
    fn new() -> Self {
        Self {
            container: Container::CREATED,
            at: At::Nowhere,
            left: BTreeMap::new(),
            ended: BTreeMap::new(),
            present: BTreeSet::new(),
            early: false,
            listening: BTreeSet::new(),
            sight: None,
            fresh: false,
        }
    }
}

/// Explores a scene: `Err` is what is wrong, and how it came about.
struct Explorer<'a> {
    scene: &'a Scene,
    snapshots: HashMap<(usize, Rc<Moment>), Rc<Snapshot>>,
}

impl Explorer<'_> {
    fn explore(mut self) -> Result<Explored, String> {
        let count = self.scene.manifest.containers.len();
        let mut mains = vec![Main::new(); count];
        for main in &mut mains[..self.scene.begun] {
            main.container =
                Container { state: State::Running, starts: 1, started: 10_000, ..main.container };
            main.at = At::Command;
        }
        let containers = mains.iter().map(|main| main.container).collect();
        let report = Rc::new(Moment { containers, life: Life::Active, round: 0 });
        for main in &mut mains[..self.scene.begun] {
            main.sight = Some(Rc::clone(&report));
        }
        let start = Point { mains, report, away: false, kills: 0, outages: 0, shutdowns: 0, orphaned: false };
        let mut numbers = HashMap::from([(start.clone(), 0_usize)]);
        let mut from: Vec<(usize, String)> = vec![(0, "start".into())];
        let mut before: Vec<Vec<usize>> = vec![Vec::new()];
        let mut queue = VecDeque::from([start]);
        let (mut ends, mut explored) = (Vec::new(), Explored::default());
        let scene = self.scene;
        while let Some(point) = queue.pop_front() {
            let number = numbers[&point];
            let path = |from: &[(usize, String)], last: &str| {
                let mut path = vec![last.to_owned()];
                let mut at = number;
                while at != 0 {
                    path.push(from[at].1.clone());
                    at = from[at].0;
                }
                path.reverse();
                format!("{scene:?}\n  {}", path.join("\n  "))
            };
            if self.is_end(&point) {
                ends.push(number);
                explored.twice += usize::from(point.shutdowns > 1);
                if point.shutdowns == 0 && !point.orphaned {
                    return Err(format!("nobody shuts the sidecars down\n{}", path(&from, "end")));
                }
                continue;
            }
            for (step, next) in self.steps(&point) {
                let next = match next {
                    Ok(next) => next,
                    Err(wrong) => return Err(format!("{wrong}\n{}", path(&from, &step))),
                };
                explored.steps += 1;
                let new = numbers.len();
                let to = *numbers.entry(next).or_insert_with_key(|next| {
                    queue.push_back(next.clone());
                    from.push((number, step));
                    before.push(Vec::new());
                    new
                });
                before[to].push(number);
            }
        }
        // Whatever happens, there is a way to the end: nobody waits for ever.
        let mut leads: Vec<bool> = vec![false; numbers.len()];
        let mut queue = ends.clone();
        while let Some(number) = queue.pop() {
            if !std::mem::replace(&mut leads[number], true) {
                queue.extend(&before[number]);
            }
        }
        if let Some((stuck, _)) = numbers.iter().find(|(_, number)| !leads[**number]) {
            return Err(format!("somebody waits for ever: {stuck:#?}"));
        }
        Ok(Explored { points: numbers.len(), ends: ends.len(), ..explored })
    }

    fn spec(&self, main: usize) -> &Spec {
        &self.scene.manifest.containers[main]
    }

    fn runs_proa(&self, main: usize) -> bool {
        self.spec(main).kind == Kind::Main(Front::Proa)
    }

    fn restarts(&self, main: usize, code: i32) -> bool {
        self.spec(main).restarts(self.scene.manifest.policy, code)
    }

    fn is_over(&self, point: &Point, main: usize) -> bool {
        matches!(point.mains[main].container.state, State::Ended(code, _) if !self.restarts(main, code))
    }

    /// Whether it needs the sidecars, now or later.
    fn needs_them(&self, point: &Point, main: usize) -> bool {
        let is_at_work = matches!(point.mains[main].at, At::Nowhere | At::Gate | At::Command);
        match point.mains[main].container.state {
            State::Created | State::BackOff(_) => true,
            State::Running => {
                is_at_work || matches!(point.mains[main].at, At::Over(code) if self.restarts(main, code))
            }
            State::Ended(code, _) => self.restarts(main, code),
        }
    }

    fn is_end(&self, point: &Point) -> bool {
        (0..point.mains.len()).all(|main| self.is_over(point, main))
    }

    /// The Pod as this main container reads it.
    fn snapshot(&mut self, main: usize, sight: &Rc<Moment>, started: u64) -> Rc<Snapshot> {
        let manifest = &self.scene.manifest;
        let read = || {
            let mut snapshot = Snapshot::of(&manifest.shown(sight), Some(&name(main)), Some(time(started)));
            let flagged = manifest.containers.iter().filter(|spec| spec.kind == Kind::Main(Front::Flagged));
            let mains = Mains::named(flagged.map(|spec| spec.name.clone()).collect());
            if let Ok(snapshot) = &mut snapshot {
                mains.settle(snapshot);
            }
            Rc::new(snapshot.expect("our container is there"))
        };
        // A container's starts are told apart by its own part of the sight.
        let key = (main * 1_000_000 + usize::try_from(started).unwrap_or(0), Rc::clone(sight));
        Rc::clone(self.snapshots.entry(key).or_insert_with(read))
    }

    /// Everything that can happen next.
    fn steps(&mut self, point: &Point) -> Vec<(String, Result<Point, String>)> {
        let mut steps = Vec::new();
        let moment = Moment {
            containers: point.mains.iter().map(|main| main.container).collect(),
            ..(*point.report).clone()
        };
        if moment != *point.report {
            let mut next = point.clone();
            next.report = Rc::new(moment);
            steps.push(("the kubelet reports".into(), Ok(next)));
        }
        if point.away || point.outages < self.scene.outages {
            let mut next = point.clone();
            next.away = !point.away;
            next.outages += u8::from(next.away);
            steps.push((format!("the API server is {}", if next.away { "away" } else { "back" }), Ok(next)));
        }
        for main in 0..point.mains.len() {
            self.container_steps(point, main, &mut steps);
            self.proa_steps(point, main, &mut steps);
        }
        steps
    }

    fn container_steps(
        &mut self,
        point: &Point,
        main: usize,
        steps: &mut Vec<(String, Result<Point, String>)>,
    ) {
        let Main { container, at, .. } = &point.mains[main];
        let name = name(main);
        let can_start = match container.state {
            State::Created | State::BackOff(_) => true,
            State::Ended(code, _) => self.restarts(main, code),
            State::Running => false,
        };
        if can_start {
            let mut next = point.clone();
            let starts = container.starts + 1;
            let last = match container.state {
                State::Ended(code, _) | State::BackOff(code) => Some(code),
                State::Created | State::Running => None,
            };
            let started = u64::from(starts) * 10_000;
            let container = Container { state: State::Running, last, ready: false, starts, started };
            let at = if self.runs_proa(main) { At::Nowhere } else { At::Command };
            next.mains[main] = Main { container, at, ..Main::new() };
            for other in &mut next.mains {
                other.present.remove(&main);
            }
            steps.push((format!("{name} starts"), Ok(next)));
        }
        if let (State::Ended(code, _), true) = (container.state, can_start) {
            let mut next = point.clone();
            next.mains[main].container.state = State::BackOff(code);
            steps.push((format!("{name} waits for its restart"), Ok(next)));
        }
        if container.state != State::Running {
            return;
        }
        let is_last_start = container.starts >= self.scene.starts;
        if *at == At::Command {
            for code in self.scene.codes {
                if is_last_start && self.restarts(main, *code) {
                    continue;
                }
                let mut next = point.clone();
                next.shutdowns = 0;
                if self.runs_proa(main) {
                    next.mains[main].at = At::Over(*code);
                } else {
                    exit(&mut next, main, *code);
                }
                steps.push((format!("{name}'s command ends with {code}"), Ok(next)));
            }
        }
        let is_final = !self.restarts(main, 137);
        // Between its last words to another one and its exit there is no time to kill it.
        let is_leaving = !point.mains[main].listening.is_empty();
        if point.kills < self.scene.kills && (is_final || !is_last_start) && !is_leaving {
            let mut next = point.clone();
            next.kills += 1;
            // Whom it would have shut the sidecars down for has gone.
            let others = (0..point.mains.len()).filter(|other| *other != main);
            let somebody = others.clone().any(|other| self.runs_proa(other) && !self.is_over(point, other));
            let promised = !point.mains[main].left.is_empty() || !point.mains[main].ended.is_empty();
            if self.runs_proa(main) && is_final && point.shutdowns == 0 && (promised || !somebody) {
                next.orphaned = true;
            }
            if matches!(at, At::Nowhere | At::Gate | At::Command) {
                next.shutdowns = 0;
            }
            exit(&mut next, main, 137);
            steps.push((format!("{name} is killed"), Ok(next)));
        }
    }

    fn proa_steps(&mut self, point: &Point, main: usize, steps: &mut Vec<(String, Result<Point, String>)>) {
        let Main { container, at, .. } = point.mains[main].clone();
        if container.state != State::Running || !self.runs_proa(main) {
            return;
        }
        let name = name(main);
        let mut step = |what: &str, next: Result<Point, String>| steps.push((format!("{name} {what}"), next));
        let mut next = point.clone();
        let own = &mut next.mains[main];
        match at {
            At::Nowhere => {
                own.at = At::Gate;
                step("shows itself", Ok(next));
            }
            At::Gate => {
                let reported = &point.report.containers[main];
                if !point.away && reported.starts == container.starts && reported.state == State::Running {
                    own.at = At::Command;
                    own.sight = Some(Rc::clone(&point.report));
                    step("opens its gate", Ok(next));
                }
            }
            At::Command => {}
            At::Over(code) => {
                let sight = own.sight.clone().expect("the gate was open");
                let seen = self.snapshot(main, &sight, container.started);
                let byte = u8::try_from(code).expect("a code");
                match decide(ShutdownWhen::Auto, byte, Origin::Inside, Some(&seen)) {
                    Decision::Keep(Keep::Restart) => {
                        exit(&mut next, main, code);
                        step("leaves the sidecars to its restart", Ok(next));
                    }
                    Decision::Keep(_) => step("keeps the sidecars", Err("for no reason".into())),
                    Decision::End if self.scene.order == Order::Withdraws => {
                        own.ended = std::mem::take(&mut own.left);
                        self.around(&mut next, main, code, true);
                        step("withdraws, and begins to look around", Ok(next));
                    }
                    Decision::End => {
                        self.around(&mut next, main, code, true);
                        step("begins to look around", Ok(next));
                    }
                }
            }
            At::Around { code, first, tried } if tried == main => {
                own.at = At::Around { code, first, tried: tried + 1 };
                self.proa_steps(&next, main, steps);
            }
            At::Around { code, first, tried } if tried < point.mains.len() => {
                own.at = At::Around { code, first, tried: tried + 1 };
                let is_wrong = self.scene.order == Order::LooksAround;
                let late = |at: At| is_wrong && matches!(at, At::Around { first: true, .. });
                let listens = tried != main
                    && self.scene.seen[tried]
                    && self.runs_proa(tried)
                    && (point.mains[tried].at.listens() || late(point.mains[tried].at));
                if listens {
                    own.listening.insert(tried);
                    let mut told = own.ended.clone();
                    told.insert(main, u8::try_from(code).expect("a code"));
                    next.mains[tried].left.extend(told);
                }
                step(&format!("tries {}", self::name(tried)), Ok(next));
            }
            At::Around { code, first, .. } => self.turns(point, main, code, first, steps),
            At::Look(code) => {
                if !point.away {
                    own.sight = Some(Rc::clone(&point.report));
                    own.fresh = true;
                }
                self.around(&mut next, main, code, false);
                step("looks at the Pod", Ok(next));
            }
            At::Awaits(code) => {
                if !point.away && own.sight.as_ref() != Some(&point.report) {
                    let mut next = next.clone();
                    let own = &mut next.mains[main];
                    own.sight = Some(Rc::clone(&point.report));
                    own.fresh = true;
                    self.around(&mut next, main, code, false);
                    step("sees news", Ok(next));
                }
                if point.away {
                    next.mains[main].fresh = false;
                }
                self.around(&mut next, main, code, false);
                step("looks around again", Ok(next));
            }
            At::Ours(code) => {
                exit(&mut next, main, code);
                step("exits", Ok(next));
            }
        }
    }

    /// Whose turn it is, by everything that the sight may be worth by now.
    fn turns(
        &mut self,
        point: &Point,
        main: usize,
        code: i32,
        first: bool,
        steps: &mut Vec<(String, Result<Point, String>)>,
    ) {
        let own = &point.mains[main];
        let mut ended: BTreeMap<_, _> = own.ended.iter().map(|(main, code)| (name(*main), *code)).collect();
        ended.insert(name(main), u8::try_from(code).expect("a code"));
        let names = |mains: &BTreeSet<usize>| mains.iter().map(|main| name(*main)).collect();
        // Who has exited since has no socket any more.
        let stayed =
            own.present.iter().filter(|other| point.mains[**other].at != At::Nowhere).copied().collect();
        let others = Others { listening: names(&own.listening), present: names(&stayed), ended };
        if first {
            let mut next = point.clone();
            let what = if let Turn::Theirs(_) = turn(None, &others) {
                exit(&mut next, main, code);
                "leaves the sidecars to one that listens"
            } else {
                if self.scene.order == Order::LooksAround {
                    next.mains[main].ended = std::mem::take(&mut next.mains[main].left);
                }
                next.mains[main].at = At::Look(code);
                "finds nobody"
            };
            steps.push((format!("{} {what}", name(main)), Ok(next)));
            return;
        }
        let sight = own.sight.clone().expect("the gate was open");
        let seen = self.snapshot(main, &sight, own.container.started);
        let worths: BTreeMap<_, _> = times(point, main)
            .into_iter()
            .map(|(since_start, blind)| {
                let worth = Worth::of(&seen, own.fresh, since_start, blind);
                (format!("{worth:?}"), worth)
            })
            .collect();
        for (text, worth) in worths {
            let mut next = point.clone();
            let (what, next) = match turn(Some((&seen, worth)), &others) {
                Turn::Theirs(theirs) => {
                    exit(&mut next, main, code);
                    (format!("leaves them to {theirs:?}"), Ok(next))
                }
                Turn::Await(awaited)
                    if !self.scene.seen[main] && goes_first(&awaited, &name(main), Some(&seen)) =>
                {
                    exit(&mut next, main, code);
                    (format!("goes first, before {awaited:?}"), Ok(next))
                }
                Turn::Await(awaited) => {
                    next.mains[main].at = At::Awaits(code);
                    (format!("awaits {awaited:?}"), Ok(next))
                }
                Turn::Ours => {
                    next.mains[main].at = At::Ours(code);
                    next.shutdowns += 1;
                    // Itself, once it is started again.
                    let needs = |other: &usize| {
                        if *other == main {
                            self.restarts(main, code)
                        } else {
                            self.needs_them(point, *other)
                        }
                    };
                    let needing: Vec<_> = (0..point.mains.len()).filter(needs).map(name).collect();
                    let right =
                        if needing.is_empty() { Ok(next) } else { Err(format!("{needing:?} need them")) };
                    ("shuts the sidecars down".to_owned(), right)
                }
            };
            steps.push((format!("{} ({text}) {what}", name(main)), next));
        }
    }

    /// Reads which proas there are, as one look at the kernel's list; each is tried after that.
    fn around(&self, point: &mut Point, main: usize, code: i32, first: bool) {
        let is_there = |(other, its): (usize, &Main)| {
            let shows = self.runs_proa(other) && self.scene.seen[other] && its.at != At::Nowhere;
            (other != main && shows).then_some(other)
        };
        let present = point.mains.iter().enumerate().filter_map(is_there).collect();
        let begins = |main: &Main| {
            main.at == At::Nowhere && main.container.state == State::Running && main.container.starts == 1
        };
        let early = point.mains.iter().any(begins);
        let own = &mut point.mains[main];
        own.present = present;
        own.early = early;
        own.listening.clear();
        own.at = At::Around { code, first, tried: 0 };
    }
}

/// How long ago its start may be, and whether the API server may have been away for long. The kubelet reports the first start of a
/// container within [`REPORTED`], and a watch shows that at once; a proa takes less time to show itself than anybody is blind.
fn times(point: &Point, main: usize) -> Vec<(Duration, bool)> {
    let mut times = vec![(Duration::ZERO, false)];
    let now = point.mains.iter().map(|main| main.container.starts);
    let reported = point.report.containers.iter().map(|container| container.starts);
    let is_reported = reported.zip(now).all(|(reported, now)| reported > 0 || now == 0);
    if is_reported && point.mains[main].sight.as_ref() == Some(&point.report) {
        times.push((REPORTED, false));
    }
    if point.away && !point.mains[main].early {
        times.push((REPORTED, true));
    }
    times
}

fn name(main: usize) -> String {
    format!("main-{main}")
}

/// A process ends: the kernel closes its sockets.
fn exit(point: &mut Point, main: usize, code: i32) {
    let container =
        Container { state: State::Ended(code, false), ready: false, ..point.mains[main].container };
    point.mains[main] = Main { container, ..Main::new() };
}

const TWO: [Option<Policy>; 2] = [None; 2];

/// A Pod of main containers under proa, with policies of their own where they have any, and nothing that goes wrong.
fn scene(policy: Policy, own: &[Option<Policy>]) -> Scene {
    let spec = |(number, policy): (usize, &Option<Policy>)| Spec {
        name: name(number),
        kind: Kind::Main(Front::Proa),
        policy: *policy,
        rules: Vec::new(),
    };
    Scene {
        manifest: Manifest { policy, containers: own.iter().enumerate().map(spec).collect() },
        seen: vec![true; own.len()],
        begun: 0,
        starts: 1,
        kills: 0,
        outages: 0,
        codes: &[0, 1],
        order: Order::Withdraws,
    }
}

fn explore(scene: &Scene) -> Result<Explored, String> {
    Explorer { scene, snapshots: HashMap::new() }.explore()
}

/// Explores them all: each shuts the sidecars down at least once, and never under a main container that needs them.
fn hold(scenes: &[Scene]) {
    for scene in scenes {
        let begun = std::time::Instant::now();
        let explored = explore(scene).unwrap_or_else(|wrong| panic!("{wrong}"));
        let Explored { points, steps, ends, twice } = explored;
        println!(
            "{points} states, {steps} steps, {ends} ends, in {twice} shut down twice, {:?}",
            begun.elapsed()
        );
        assert!(ends > 0);
    }
}

#[test]
fn of_two_main_containers_the_last_one_shuts_the_sidecars_down() {
    let never = scene(Policy::Never, &TWO);
    let failing = Scene { starts: 2, ..scene(Policy::OnFailure, &TWO) };
    hold(&[
        never.clone(),
        Scene { kills: 1, ..never.clone() },
        Scene { kills: 1, outages: 1, ..never },
        failing.clone(),
        Scene { kills: 1, ..failing.clone() },
        Scene { begun: 2, kills: 1, outages: 1, ..failing },
        Scene { starts: 2, ..scene(Policy::Never, &[None, Some(Policy::OnFailure)]) },
    ]);
    if super::is_long() {
        hold(&[Scene { starts: 2, kills: 1, outages: 1, ..scene(Policy::OnFailure, &TWO) }]);
    }
}

#[test]
fn a_main_container_without_a_proa_is_waited_for() {
    for front in [Front::Flagged, Front::Disabled] {
        let mut never = scene(Policy::Never, &TWO);
        never.manifest.containers[1].kind = Kind::Main(front);
        let mut failing = Scene { starts: 2, ..scene(Policy::OnFailure, &TWO) };
        failing.manifest.containers[1].kind = Kind::Main(front);
        hold(&[Scene { kills: 1, outages: 1, ..never }, Scene { kills: 1, ..failing }]);
    }
}

/// Where it has no name in time, or the system does not let it show itself, the API server's word is all there is.
#[test]
fn main_containers_that_cannot_be_seen_wait_for_one_another() {
    for seen in [[false, true], [true, false], [false, false]] {
        hold(&[Scene { seen: seen.to_vec(), ..scene(Policy::Never, &TWO) }]);
    }
}

#[test]
fn of_three_main_containers_the_last_one_shuts_the_sidecars_down() {
    let three = Scene { codes: &[0], ..scene(Policy::Never, &[None; 3]) };
    hold(&[Scene { begun: 3, ..three.clone() }]);
    if super::is_long() {
        hold(&[Scene { begun: 3, kills: 1, ..three.clone() }, Scene { begun: 2, ..three.clone() }, three]);
    }
}

/// An exploration that finds nothing wrong with this shows nothing.
#[test]
fn one_that_looks_around_before_it_withdraws_is_found_out() {
    let wrong = explore(&Scene { order: Order::LooksAround, ..scene(Policy::Never, &TWO) });
    assert!(wrong.is_err_and(|wrong| wrong.starts_with("nobody shuts the sidecars down")));
}
