//! Where the containers of a Pod stand, and what follows from it.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ContainerRestartRule;

use super::restart::{BackOff, RestartPolicy};

/// Which of the Pod's lists a container is in, and in which part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Runs to its end before the next one starts.
    Init,
    /// An init container that stays: the next one starts once it has started.
    Sidecar,
    Main,
}

/// The end of a container's run.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Terminated {
    pub(super) code: i32,
    /// What ended it; the kubelet keeps that to itself.
    pub(super) signal: Option<i32>,
    pub(super) reason: &'static str,
    pub(super) message: Option<String>,
    pub(super) started_at: Timestamp,
    pub(super) finished_at: Timestamp,
    pub(super) id: String,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum State {
    /// Never started.
    Created,
    /// Its image will never be there.
    Unpullable,
    Running(Running),
    /// Over, and to be started again at once.
    Again,
    /// Over, and to be started again when this is over.
    BackOff {
        message: String,
    },
    /// Over for good.
    Ended,
}

/// A container that runs.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Running {
    /// Tells this run's messages from those of earlier ones.
    pub(super) run: u64,
    pub(super) id: String,
    pub(super) since: Timestamp,
    /// Its `postStart` hook has not returned: to the API it is still being created.
    pub(super) hooked: bool,
    pub(super) started: bool,
    pub(super) ready: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Standing {
    pub(super) name: String,
    pub(super) image: String,
    pub(super) role: Role,
    pub(super) policy: RestartPolicy,
    pub(super) rules: Vec<ContainerRestartRule>,
    pub(super) state: State,
    /// How its last run ended.
    pub(super) last: Option<Terminated>,
    pub(super) restarts: i32,
    /// An init container that no longer holds up the next: it ended well, or has started if it is a sidecar.
    pub(super) passed: bool,
    pub(super) back_off: BackOff,
}

impl Standing {
    pub(super) fn running(&self) -> Option<&Running> {
        match &self.state {
            State::Running(running) => Some(running),
            _ => None,
        }
    }

    pub(super) fn running_mut(&mut self) -> Option<&mut Running> {
        match &mut self.state {
            State::Running(running) => Some(running),
            _ => None,
        }
    }

    pub(super) fn succeeded(&self) -> bool {
        self.state == State::Ended && self.last.as_ref().is_some_and(|last| last.code == 0)
    }

    pub(super) fn failed(&self) -> bool {
        self.state == State::Ended && !self.succeeded()
    }

    /// Whether a run that ended with this code is followed by another.
    pub(super) fn starts_again(&self, code: i32) -> bool {
        match self.role {
            Role::Sidecar => true,
            // What an init container did well it need not do twice, whatever the policy.
            Role::Init => code != 0 && self.policy.restarts(&self.rules, code),
            Role::Main => self.policy.restarts(&self.rules, code),
        }
    }

    fn wants_start(&self) -> bool {
        matches!(self.state, State::Created | State::Again)
    }
}

/// What follows from where the containers stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Start this container, and ask again.
    Start(usize),
    /// Nothing, until something happens.
    Wait,
    /// The Pod has done what it was for, or failed: stop what still runs.
    Stop,
    /// Nothing runs and nothing will.
    Over,
}

/// Decides what follows; the containers are in the order of the Pod, those of its init list first.
pub(super) fn next(containers: &[Standing], stopping: bool) -> Next {
    if stopping {
        let any_runs = containers.iter().any(|container| container.running().is_some());
        return if any_runs { Next::Wait } else { Next::Over };
    }
    for (index, container) in
        containers.iter().enumerate().filter(|(_, container)| container.role != Role::Main)
    {
        if container.failed() {
            return Next::Stop;
        }
        if container.wants_start() {
            return Next::Start(index);
        }
        if !container.passed {
            return Next::Wait;
        }
    }
    let mains = containers.iter().enumerate().filter(|(_, container)| container.role == Role::Main);
    for (index, container) in mains.clone() {
        if container.wants_start() {
            return Next::Start(index);
        }
        // The kubelet starts one after the other, and a postStart hook holds up those behind it.
        if container.running().is_some_and(|running| running.hooked) {
            return Next::Wait;
        }
    }
    if mains.clone().all(|(_, container)| container.state == State::Ended) { Next::Stop } else { Next::Wait }
}

/// Whose end a container waits for before it is stopped: a sidecar goes after everything that came after it.
pub(super) fn stops_after(containers: &[Standing], index: usize) -> Vec<usize> {
    if containers[index].role != Role::Sidecar {
        return Vec::new();
    }
    (index + 1..containers.len()).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;

    pub(crate) fn standing(name: &str, role: Role) -> Standing {
        Standing {
            name: name.to_owned(),
            image: String::new(),
            role,
            policy: RestartPolicy::Never,
            rules: Vec::new(),
            state: State::Created,
            last: None,
            restarts: 0,
            passed: false,
            back_off: BackOff::new(Duration::from_secs(10)),
        }
    }

    pub(crate) fn run(container: &mut Standing, started: bool, ready: bool) {
        container.state = State::Running(Running {
            run: 1,
            id: "localpod://1".to_owned(),
            since: Timestamp::UNIX_EPOCH,
            hooked: false,
            started,
            ready,
        });
        container.passed |= container.role == Role::Sidecar && started;
    }

    pub(crate) fn end(container: &mut Standing, code: i32) {
        container.state = State::Ended;
        container.passed |= container.role == Role::Init && code == 0;
        container.last = Some(Terminated {
            code,
            signal: None,
            reason: if code == 0 { "Completed" } else { "Error" },
            message: None,
            started_at: Timestamp::UNIX_EPOCH,
            finished_at: Timestamp::UNIX_EPOCH,
            id: "localpod://1".to_owned(),
        });
    }

    #[test]
    fn init_containers_run_one_after_the_other_and_then_all_mains() {
        let mut pod =
            [standing("one", Role::Init), standing("two", Role::Init), standing("main", Role::Main)];
        assert_eq!(next(&pod, false), Next::Start(0));
        run(&mut pod[0], true, false);
        assert_eq!(next(&pod, false), Next::Wait);
        end(&mut pod[0], 0);
        assert_eq!(next(&pod, false), Next::Start(1));
        end(&mut pod[1], 0);
        assert_eq!(next(&pod, false), Next::Start(2));
    }

    #[test]
    fn a_sidecar_holds_up_the_next_until_it_has_started_not_until_it_is_ready() {
        let mut pod = [standing("sidecar", Role::Sidecar), standing("main", Role::Main)];
        run(&mut pod[0], false, false);
        assert_eq!(next(&pod, false), Next::Wait);
        run(&mut pod[0], true, false);
        assert_eq!(next(&pod, false), Next::Start(1));
    }

    #[test]
    fn a_failed_init_container_ends_the_pod() {
        let mut pod = [standing("one", Role::Init), standing("main", Role::Main)];
        end(&mut pod[0], 1);
        assert_eq!(next(&pod, false), Next::Stop);
    }

    #[test]
    fn the_end_of_the_mains_stops_sidecars_but_one_main_alone_stops_nothing() {
        let mut pod =
            [standing("sidecar", Role::Sidecar), standing("main", Role::Main), standing("other", Role::Main)];
        run(&mut pod[0], true, true);
        run(&mut pod[1], true, true);
        run(&mut pod[2], true, true);
        end(&mut pod[1], 0);
        assert_eq!(next(&pod, false), Next::Wait);
        end(&mut pod[2], 0);
        assert_eq!(next(&pod, false), Next::Stop);
        assert_eq!(next(&pod, true), Next::Wait);
        end(&mut pod[0], 143);
        assert_eq!(next(&pod, true), Next::Over);
    }

    #[test]
    fn a_sidecar_is_restarted_while_a_main_runs() {
        let mut pod = [standing("sidecar", Role::Sidecar), standing("main", Role::Main)];
        run(&mut pod[0], true, true);
        run(&mut pod[1], true, true);
        assert!(pod[0].starts_again(0));
        pod[0].state = State::Again;
        assert_eq!(next(&pod, false), Next::Start(0));
        pod[0].state = State::BackOff { message: String::new() };
        assert_eq!(next(&pod, false), Next::Wait);
    }

    #[test]
    fn a_post_start_hook_holds_up_the_containers_behind() {
        let mut pod = [standing("proxy", Role::Main), standing("main", Role::Main)];
        run(&mut pod[0], false, false);
        pod[0].running_mut().expect("running").hooked = true;
        assert_eq!(next(&pod, false), Next::Wait);
        pod[0].running_mut().expect("running").hooked = false;
        assert_eq!(next(&pod, false), Next::Start(1));
    }

    #[test]
    fn sidecars_stop_in_reverse_order_after_the_mains() {
        let pod = [
            standing("first", Role::Sidecar),
            standing("second", Role::Sidecar),
            standing("main", Role::Main),
        ];
        assert_eq!(stops_after(&pod, 0), [1, 2]);
        assert_eq!(stops_after(&pod, 1), [2]);
        assert!(stops_after(&pod, 2).is_empty());
    }
}
