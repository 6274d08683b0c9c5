//! Random histories of a Pod: what happens to its containers, what the kubelet reports of that and when, and which of the reports
//! a proa gets to see.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::Union;
use proptest_state_machine::ReferenceStateMachine;

use super::kubelet::{Container, Front, Kind, Life, Make, Manifest, Moment, Policy, Rule, Spec, State};

/// What the flags of the proa that is looked at say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Flags {
    pub(crate) wait_for: Vec<String>,
    pub(crate) ignore: Vec<String>,
    pub(crate) mains: Vec<String>,
    /// Which containers are to exit first, and whether with 0.
    pub(crate) wait_exit: Vec<(String, bool)>,
}

/// The Pod, what was reported of it, and how far the proa in it is.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) manifest: Manifest,
    pub(crate) flags: Flags,
    /// The main container that is looked at.
    pub(crate) own: usize,
    pub(crate) now: Moment,
    /// Everything that the API has shown, the newest last.
    pub(crate) reports: Vec<Moment>,
    /// Which of the reports was delivered last, if any since the last start of our container.
    pub(crate) delivered: Option<usize>,
    /// The exit code of our command, once it is over.
    pub(crate) command: Option<u8>,
    pub(crate) clock: u64,
}

/// Something that happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// The container starts, for the first time or again.
    Start(usize),
    /// Kubernetes calls it ready, or no longer.
    Ready(usize, bool),
    /// It exits.
    Exit(usize, i32),
    /// It is killed for want of memory.
    Starve(usize),
    /// The kubelet waits before it starts it again.
    BackOff(usize),
    /// A probe has it killed and started again.
    Probe(usize),
    /// All containers end and are to start anew: the node restarts. Whether the kubelet reports before ours does.
    Reboot(bool),
    /// Our container is killed, and started again at once.
    Again,
    Delete,
    Evict,
    /// The phase shows the eviction.
    Fail,
    /// The kubelet reports, as far as it does in this life.
    Report,
    /// A report reaches proa, which may be an old one: so many are newer.
    Deliver(usize),
    /// Our command ends, and proa shuts the sidecars down; each takes its request, or not, by these.
    Command(u8, Vec<u8>),
    /// proa is done, and exits with the command's exit code.
    Leave,
}

impl World {
    pub(crate) fn spec(&self, place: usize) -> &Spec {
        &self.manifest.containers[place]
    }

    fn others(&self) -> impl Iterator<Item = usize> {
        (0..self.now.containers.len()).filter(|place| *place != self.own)
    }

    fn newest(&self) -> usize {
        self.reports.len() - 1
    }

    /// The kubelet starts nothing in a Pod that goes (`syncTerminatingPod`).
    fn is_active(&self) -> bool {
        self.now.life == Life::Active
    }

    fn can_start(&self, place: usize) -> bool {
        let has_begun = |native: usize| self.now.containers[native].starts > 0;
        let in_order = self.spec(place).kind == Kind::Native
            || self.others().filter(|other| self.spec(*other).kind == Kind::Native).all(has_begun);
        self.is_active()
            && in_order
            && match self.now.containers[place].state {
                State::Created | State::BackOff(_) => true,
                State::Running => false,
                State::Ended(..) => !self.manifest.is_over(&self.now, place),
            }
    }

    fn is_possible(&self, event: &Event) -> bool {
        let runs = |place: &usize| self.now.containers[*place].state == State::Running;
        match event {
            Event::Start(place) => self.can_start(*place),
            Event::Ready(place, ready) => {
                *place != self.own && runs(place) && self.now.containers[*place].ready != *ready
            }
            Event::Exit(place, _) | Event::Starve(place) => *place != self.own && runs(place),
            Event::Probe(place) => {
                let spec = self.spec(*place);
                *place != self.own
                    && runs(place)
                    && self.is_active()
                    && spec.policy.unwrap_or(self.manifest.policy) != Policy::Never
            }
            Event::BackOff(place) => {
                *place != self.own
                    && self.is_active()
                    && matches!(self.now.containers[*place].state, State::Ended(..))
                    && !self.manifest.is_over(&self.now, *place)
            }
            Event::Reboot(_) | Event::Delete | Event::Evict => self.is_active(),
            Event::Again => self.is_active() && self.spec(self.own).restarts(self.manifest.policy, 137),
            Event::Fail => self.now.life == Life::Ending,
            Event::Report => self.reports.last() != Some(&self.now),
            Event::Deliver(back) => {
                // One from before the very first start cannot be told from one that does not know of this start yet.
                let report = self.reports.len().checked_sub(back + 1).map(|place| &self.reports[place]);
                let starts = |moment: &Moment| moment.containers[self.own].starts;
                report.is_some_and(|report| starts(report) > 0 || starts(&self.now) == 1)
            }
            // The gate was open, for which a report of this start was needed.
            Event::Command(..) => {
                let starts = |moment: &Moment| moment.containers[self.own].starts;
                let reported = self.reports.last().is_some_and(|newest| starts(newest) == starts(&self.now));
                self.command.is_none() && self.delivered.is_some() && reported && runs(&self.own)
            }
            Event::Leave => self.command.is_some() && runs(&self.own),
        }
    }

    fn start(&mut self, place: usize) {
        // Two starts of one container are a second apart: the API's times have no finer grain.
        self.clock += 1000;
        let container = &mut self.now.containers[place];
        let last = match container.state {
            State::Created => container.last,
            State::Running => Some(137),
            State::Ended(code, _) | State::BackOff(code) => Some(code),
        };
        *container = Container {
            state: State::Running,
            last,
            ready: false,
            starts: container.starts + 1,
            started: self.clock,
        };
    }

    fn end(&mut self, place: usize, code: i32, starved: bool) {
        let container = &mut self.now.containers[place];
        container.state = State::Ended(code, starved);
        container.ready = false;
        if self.is_active() && self.spec(place).restarts_all(code) {
            self.anew(starved);
        }
    }

    /// All containers are to start anew, and ours does: what is looked at is a proa.
    fn anew(&mut self, reports: bool) {
        self.now.round += 1;
        for container in &mut self.now.containers {
            let last = match container.state {
                State::Created => None,
                State::Running => Some(137),
                State::Ended(code, _) | State::BackOff(code) => Some(code),
            };
            container.last = last.or(container.last);
            container.state = State::Created;
            container.ready = false;
        }
        if reports {
            self.reports.push(self.now.clone());
        }
        // Native ones first, and in order.
        for place in 0..self.now.containers.len() {
            if self.spec(place).kind == Kind::Native {
                self.start(place);
            }
        }
        self.begin();
    }

    /// Our container starts: another proa, which has seen nothing.
    fn begin(&mut self) {
        self.start(self.own);
        self.delivered = None;
        self.command = None;
    }
}

impl ReferenceStateMachine for World {
    type State = Self;
    type Transition = Event;

    fn init_state() -> BoxedStrategy<Self> {
        manifest()
            .prop_flat_map(|manifest| {
                let flags = flags(&manifest);
                (Just(manifest), flags)
            })
            .prop_map(|(manifest, flags)| {
                let containers = vec![Container::CREATED; manifest.containers.len()];
                let now = Moment { containers, life: Life::Active, round: 0 };
                let mut world = Self {
                    own: manifest.place("main"),
                    reports: vec![now.clone()],
                    manifest,
                    flags,
                    now,
                    delivered: None,
                    command: None,
                    clock: 0,
                };
                for place in 0..world.now.containers.len() {
                    if world.spec(place).kind == Kind::Native {
                        world.start(place);
                    }
                }
                world.begin();
                world
            })
            .boxed()
    }

    fn transitions(world: &Self) -> BoxedStrategy<Event> {
        let place = || select(world.others().collect::<Vec<_>>());
        let code = || select(vec![0, 1, 3, 42, 137, 143, 255]);
        let reports = world.reports.len();
        let places = 0..world.now.containers.len();
        let starting: Vec<_> = places.filter(|place| world.can_start(*place)).collect();
        let unready = world.others().filter(|place| {
            let container = &world.now.containers[*place];
            container.state == State::Running && !container.ready
        });
        let unready: Vec<_> = unready.collect();
        let mut events = vec![
            (6, Just(Event::Report).boxed()),
            (6, Just(Event::Deliver(0)).boxed()),
            (2, (0..reports).prop_map(Event::Deliver).boxed()),
            (3, (place(), code()).prop_map(|(place, code)| Event::Exit(place, code)).boxed()),
            (1, place().prop_map(Event::Starve).boxed()),
            (2, place().prop_map(Event::BackOff).boxed()),
            (1, place().prop_map(Event::Probe).boxed()),
            (1, place().prop_map(|place| Event::Ready(place, false)).boxed()),
            (1, Just(Event::Again).boxed()),
        ];
        if !starting.is_empty() {
            events.push((8, select(starting).prop_map(Event::Start).boxed()));
        }
        if !unready.is_empty() {
            events.push((8, select(unready).prop_map(|place| Event::Ready(place, true)).boxed()));
        }
        if world.is_possible(&Event::Command(0, Vec::new())) {
            let codes = select(vec![0, 1, 3, 42, 143]);
            events
                .push((1, (codes, vec(0..4_u8, 8)).prop_map(|(code, by)| Event::Command(code, by)).boxed()));
        }
        if world.is_possible(&Event::Leave) {
            events.push((2, Just(Event::Leave).boxed()));
        }
        // What ends a history for good comes late, if at all.
        if reports > 4 {
            let last = select(vec![
                Event::Reboot(false),
                Event::Reboot(true),
                Event::Delete,
                Event::Evict,
                Event::Fail,
            ]);
            events.push((1, last.boxed()));
        }
        Union::new_weighted(events).boxed()
    }

    fn preconditions(world: &Self, event: &Event) -> bool {
        world.is_possible(event)
    }

    fn apply(mut world: Self, event: &Event) -> Self {
        world.clock += 50;
        match event {
            Event::Start(place) if *place == world.own => world.begin(),
            Event::Start(place) | Event::Probe(place) => world.start(*place),
            Event::Ready(place, ready) => world.now.containers[*place].ready = *ready,
            Event::Exit(place, code) => world.end(*place, *code, false),
            Event::Starve(place) => world.end(*place, 137, true),
            Event::BackOff(place) => {
                let container = &mut world.now.containers[*place];
                if let State::Ended(code, _) = container.state {
                    container.state = State::BackOff(code);
                }
            }
            Event::Reboot(reports) => world.anew(*reports),
            Event::Again => world.begin(),
            Event::Delete => world.now.life = Life::Deleting,
            Event::Evict => world.now.life = Life::Ending,
            Event::Fail => world.now.life = Life::Failed,
            Event::Report => {
                let mut report = world.now.clone();
                // The kubelet no longer updates what it says of the containers (kubernetes/kubernetes#106896).
                if let (Life::Deleting, Some(before)) = (report.life, world.reports.last()) {
                    report.containers.clone_from(&before.containers);
                    report.round = before.round;
                }
                world.reports.push(report);
            }
            Event::Deliver(back) => world.delivered = Some(world.newest() - back),
            Event::Command(code, _) => {
                // The look at the end is as new as the API server's store.
                world.delivered = Some(world.newest());
                world.command = Some(*code);
            }
            Event::Leave => world.end(world.own, world.command.unwrap_or_default().into(), false),
        }
        world
    }
}

fn policies() -> impl Strategy<Value = Policy> {
    select(vec![Policy::Never, Policy::OnFailure, Policy::Always])
}

/// A container's own policy, and the rules beside it.
fn own_policy() -> impl Strategy<Value = (Option<Policy>, Vec<Rule>)> {
    let rule = (any::<bool>(), vec(select(vec![0, 1, 3, 42, 137]), 1..3), prop::bool::weighted(0.2));
    let rule = rule.prop_map(|(not, codes, all)| Rule { not, codes, all });
    let own = (policies(), prop_oneof![2 => Just(Vec::new()), 1 => vec(rule, 1..3)]);
    prop_oneof![2 => Just((None, Vec::new())), 1 => own.prop_map(|(policy, rules)| (Some(policy), rules))]
}

fn manifest() -> impl Strategy<Value = Manifest> {
    let make = select(vec![
        Make::Plain,
        Make::CloudSql,
        Make::CloudSql,
        Make::Istio,
        Make::Istio,
        Make::Wrapped,
        Make::Dapr,
        Make::Wrapped,
        Make::Annotated,
        Make::ReadyAt,
        Make::Ignored,
        Make::LeavesLast,
    ]);
    let front = select(vec![Front::Proa, Front::Proa, Front::Disabled, Front::Flagged]);
    let kind = prop_oneof![
        1 => Just(Kind::Native),
        4 => make.prop_map(Kind::Sidecar),
        2 => front.prop_map(Kind::Main),
    ];
    let pod = prop_oneof![3 => Just(Policy::Never), 3 => Just(Policy::OnFailure), 1 => Just(Policy::Always)];
    (pod, own_policy(), vec((kind, own_policy()), 2..5)).prop_map(|(policy, own, others)| {
        let mut containers: Vec<Spec> = Vec::new();
        for (kind, (policy, rules)) in others {
            // Two of a kind would share an endpoint.
            let endpoint = matches!(
                kind,
                Kind::Sidecar(Make::CloudSql | Make::Istio | Make::Dapr | Make::Annotated | Make::ReadyAt)
            );
            let taken = endpoint && containers.iter().any(|other| other.kind == kind);
            let kind = if taken { Kind::Sidecar(Make::Plain) } else { kind };
            let (policy, rules) =
                if kind == Kind::Native { (Some(Policy::Always), Vec::new()) } else { (policy, rules) };
            let name = format!("c{}", containers.len());
            containers.push(Spec { name, kind, policy, rules });
        }
        let (own, rules) = own;
        containers.push(Spec { name: "main".into(), kind: Kind::Main(Front::Proa), policy: own, rules });
        Manifest { policy, containers }
    })
}

fn flags(manifest: &Manifest) -> impl Strategy<Value = Flags> + use<> {
    let others = manifest.containers.iter().filter(|container| container.name != "main");
    let names: Vec<_> = others.clone().map(|container| container.name.clone()).collect();
    let flagged = others.filter(|container| container.kind == Kind::Main(Front::Flagged));
    let mains: Vec<_> = flagged.map(|container| container.name.clone()).collect();
    let some = |weight| {
        let names = vec(select(names.clone()), 1..3);
        prop_oneof![10 => Just(Vec::new()), weight => names]
    };
    (some(2), some(2), some(1), any::<bool>()).prop_map(move |(wait_for, ignore, wait_exit, success)| Flags {
        wait_for,
        ignore,
        mains: mains.clone(),
        wait_exit: wait_exit.into_iter().map(|name| (name, success)).collect(),
    })
}
