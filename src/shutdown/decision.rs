//! Whether the sidecars are ended: a decision over the policy, the exit code and one snapshot.

use std::fmt;

use crate::pod::{Life, Role, Snapshot};
use crate::policy::ShutdownWhen;

/// Whether the sidecars are ended, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// They are.
    End,
    /// They stay, for this reason.
    Keep(Keep),
}

/// Why the sidecars stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// `--shutdown-when=never`.
    Never,
    /// `--shutdown-when=success`, and it was none.
    NoSuccess,
    /// The kubelet will start this container again, which needs its sidecars then.
    Restart,
    /// The regular containers have not even started.
    InitContainer,
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Never => "--shutdown-when=never",
            Self::NoSuccess => "--shutdown-when=success, and the exit code is not 0",
            Self::Restart => "the restart policy will start this container again, which needs them then",
            Self::InitContainer => "this is an init container",
        })
    }
}

/// What brought the end about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The command itself, or somebody in the container.
    Inside,
    /// The container's runtime, which was asked to stop this container.
    Runtime,
}

/// Decides whether the sidecars are ended after an end with this exit code.
#[must_use]
pub fn decide(when: ShutdownWhen, code: u8, origin: Origin, snapshot: Option<&Snapshot>) -> Decision {
    let restarts = snapshot.is_some_and(|seen| {
        let probed = origin == Origin::Runtime && is_probed_to_death(seen);
        seen.own.role != Role::Init && (seen.own.restart.after(code.into()) || probed)
    });
    match (when, snapshot) {
        // First of all: who is started again has not ended, whatever keeps the sidecars.
        (ShutdownWhen::Never, _) if restarts => Decision::Keep(Keep::Restart),
        (ShutdownWhen::Success, _) if restarts && code != 0 => Decision::Keep(Keep::Restart),
        (ShutdownWhen::Never, _) => Decision::Keep(Keep::Never),
        (ShutdownWhen::Success, _) if code != 0 => Decision::Keep(Keep::NoSuccess),
        (ShutdownWhen::Auto, Some(snapshot)) if snapshot.own.role == Role::Init => {
            Decision::Keep(Keep::InitContainer)
        }
        (ShutdownWhen::Auto, _) if restarts => Decision::Keep(Keep::Restart),
        _ => Decision::End,
    }
}

/// Whether the runtime stops this container alone, to start it again: for a failed probe, since the Pod goes on.
fn is_probed_to_death(snapshot: &Snapshot) -> bool {
    snapshot.life == Life::Active && !snapshot.own.probes.is_empty() && snapshot.own.restart.after_probe()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::tests::snapshot;

    fn pod(policy: &str) -> Snapshot {
        snapshot(&format!("spec: {{restartPolicy: {policy}, containers: [{{name: main, image: m}}]}}"))
    }

    #[test]
    fn auto_asks_whether_this_container_will_be_started_again() {
        let auto = |policy: &str, code| decide(ShutdownWhen::Auto, code, Origin::Inside, Some(&pod(policy)));
        let again = Decision::Keep(Keep::Restart);
        assert_eq!([auto("Never", 0), auto("Never", 1)], [Decision::End, Decision::End]);
        assert_eq!([auto("OnFailure", 0), auto("OnFailure", 1)], [Decision::End, again]);
        assert_eq!([auto("Always", 0), auto("Always", 1)], [again, again]);
    }

    #[test]
    fn without_knowledge_of_the_pod_auto_is_always() {
        assert_eq!(decide(ShutdownWhen::Auto, 0, Origin::Inside, None), Decision::End);
        assert_eq!(decide(ShutdownWhen::Auto, 1, Origin::Inside, None), Decision::End);
    }

    #[test]
    fn a_failed_probe_has_the_container_started_again_whatever_its_exit_code() {
        let pod = |policy: &str, probe: &str| {
            snapshot(&format!(
                "spec: {{restartPolicy: {policy}, containers: [{{name: main, image: m{probe}}}]}}"
            ))
        };
        let probe = ", livenessProbe: {exec: {command: [check]}}";
        let auto = |pod: &Snapshot, origin| decide(ShutdownWhen::Auto, 0, origin, Some(pod));
        assert_eq!(auto(&pod("OnFailure", probe), Origin::Runtime), Decision::Keep(Keep::Restart));
        for (pod, origin) in [
            (pod("OnFailure", probe), Origin::Inside),
            (pod("OnFailure", ""), Origin::Runtime),
            (pod("Never", probe), Origin::Runtime),
            (Snapshot { life: Life::Deleting, ..pod("OnFailure", probe) }, Origin::Runtime),
        ] {
            assert_eq!(auto(&pod, origin), Decision::End);
        }
    }

    #[test]
    fn explicit_policies_do_not_look_at_the_pod() {
        let pod = pod("Always");
        assert_eq!(decide(ShutdownWhen::Always, 1, Origin::Inside, Some(&pod)), Decision::End);
        assert_eq!(decide(ShutdownWhen::Never, 0, Origin::Inside, None), Decision::Keep(Keep::Never));
        assert_eq!(decide(ShutdownWhen::Success, 0, Origin::Inside, Some(&pod)), Decision::End);
        assert_eq!(decide(ShutdownWhen::Success, 1, Origin::Inside, None), Decision::Keep(Keep::NoSuccess));
    }

    #[test]
    fn an_init_container_ends_no_sidecars() {
        let init =
            snapshot("spec: {initContainers: [{name: main, image: m}], containers: [{name: app, image: a}]}");
        assert_eq!(
            decide(ShutdownWhen::Auto, 0, Origin::Inside, Some(&init)),
            Decision::Keep(Keep::InitContainer)
        );
    }

    #[test]
    fn one_that_is_started_again_has_not_ended_whatever_keeps_the_sidecars() {
        let decided = |when, code, pod: &Snapshot| decide(when, code, Origin::Inside, Some(pod));
        let (always, never) = (pod("Always"), pod("Never"));
        let init =
            snapshot("spec: {initContainers: [{name: main, image: m}], containers: [{name: app, image: a}]}");
        for (when, code, pod, kept) in [
            (ShutdownWhen::Never, 0, &always, Some(Keep::Restart)),
            (ShutdownWhen::Never, 0, &never, Some(Keep::Never)),
            (ShutdownWhen::Never, 1, &init, Some(Keep::Never)),
            (ShutdownWhen::Success, 1, &always, Some(Keep::Restart)),
            (ShutdownWhen::Success, 1, &never, Some(Keep::NoSuccess)),
            (ShutdownWhen::Success, 0, &always, None),
        ] {
            let expected = kept.map_or(Decision::End, Decision::Keep);
            assert_eq!(decided(when, code, pod), expected, "{when:?} {code} {kept:?}");
        }
    }

    #[test]
    fn it_is_said_why_the_sidecars_stay() {
        let said =
            [Keep::Never, Keep::NoSuccess, Keep::Restart, Keep::InitContainer].map(|keep| keep.to_string());
        assert_eq!(
            said,
            [
                "--shutdown-when=never",
                "--shutdown-when=success, and the exit code is not 0",
                "the restart policy will start this container again, which needs them then",
                "this is an init container",
            ]
        );
    }
}
