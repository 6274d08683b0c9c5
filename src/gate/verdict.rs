//! Whether the command may start: a decision over one snapshot.

use std::fmt;

use crate::endpoint::HttpUrl;
use crate::plan::selection::{Requirement, Selection};
use crate::pod::annotations;
use crate::pod::mains::{Awaited, End};
use crate::pod::{Exit, Life, Sidecar, Snapshot, list};

/// What follows from a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Not yet, because of these.
    Wait(Vec<Unready>),
    /// Every selected sidecar is ready.
    Open,
    /// It will never open.
    Refuse(Reason),
    /// Not by this snapshot, which shows an earlier run of our own container and what was beside that.
    Outdated,
}

/// A sidecar that is not ready, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unready {
    /// The sidecar.
    pub name: String,
    /// In the kubelet's words where there are any.
    pub why: String,
}

impl fmt::Display for Unready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.why)
    }
}

/// Why the gate will never open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// A sidecar ended and will not be started again.
    SidecarEnded {
        /// The sidecar.
        name: String,
        /// How it ended.
        exit: Exit,
    },
    /// The Pod is being deleted.
    Deleting,
    /// The Pod's phase is final.
    Finished,
    /// A container that was to exit with 0 exited otherwise, for good.
    NotSuccess {
        /// The container.
        name: String,
        /// How it ended.
        exit: Exit,
    },
    /// A container that is to exit is started again after every exit.
    NeverExits(String),
    /// A flag names a container that the Pod does not have.
    UnknownSidecar {
        /// The flag.
        flag: &'static str,
        /// The name.
        name: String,
        /// The names there are.
        found: Vec<String>,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SidecarEnded { name, exit } => write!(
                f,
                "sidecar `{name}` exited for good ({exit}) before the command could start: \
                 its restart policy will not start it again; --ignore={name} if it is meant to, --main={name} if it is a \
                 main container"
            ),
            Self::Deleting => write!(f, "the Pod is being deleted"),
            Self::Finished => write!(f, "the Pod has ended (evicted, or past its active deadline)"),
            Self::NotSuccess { name, exit } => write!(
                f,
                "`{name}` exited with {exit}, where --wait-exit={name}=success expected exit code 0; --wait-exit={name} takes \
                 every exit code"
            ),
            Self::NeverExits(name) => write!(
                f,
                "--wait-exit names `{name}`, which never exits for good: the kubelet starts it again after every exit \
                 (restartPolicy: Always, or its rules); expected another policy"
            ),
            Self::UnknownSidecar { flag, name, found } if found.is_empty() => {
                write!(f, "{flag} names `{name}`, but no container runs beside this one")
            }
            Self::UnknownSidecar { flag, name, found } => write!(
                f,
                "{flag} names `{name}`, which is no container beside this one; there are {}",
                list(found)
            ),
        }
    }
}

/// Decides whether the command may start.
///
/// An unknown name in `ignore` is let through: one manifest may serve with and without an injected sidecar.
#[must_use]
pub fn verdict(snapshot: &Snapshot, selection: &Selection) -> Verdict {
    match snapshot.life {
        Life::Active => {}
        Life::Deleting => return Verdict::Refuse(Reason::Deleting),
        Life::Finished => return Verdict::Refuse(Reason::Finished),
    }
    let known = |name: &str| snapshot.beside().any(|container| container.name == name);
    let to_be_ready = selection.wait_for.iter().map(|name| ("--wait-for", name));
    let to_exit = selection.wait_exit.iter().map(|awaited| ("--wait-exit", &awaited.name));
    // The sidecars would be shut down under one whose name is mistyped.
    let mains =
        selection.mains.iter().filter(|name| **name != snapshot.own.name).map(|name| ("--main", name));
    if let Some((flag, name)) = to_be_ready.chain(to_exit).chain(mains).find(|(_, name)| !known(name)) {
        return Verdict::Refuse(Reason::UnknownSidecar {
            flag,
            name: name.clone(),
            found: snapshot.beside().map(|container| container.name.clone()).collect(),
        });
    }
    if snapshot.own.run.is_outdated() {
        return Verdict::Outdated;
    }
    // Main containers do not wait for one another, unless one is asked to.
    let mains = || snapshot.mains.iter().filter(|main| selection.wait_for.contains(&main.container.name));
    let beside = || snapshot.sidecars.iter().chain(mains().map(|main| &main.container));
    let selected = || beside().filter(|sidecar| selection.requirement(sidecar) != Requirement::None);
    let ended = |sidecar: &Sidecar| Some((sidecar.name.clone(), sidecar.ended_for_good()?.clone()));
    if let Some((name, exit)) = selected().find_map(ended) {
        return Verdict::Refuse(Reason::SidecarEnded { name, exit });
    }
    let unready = selected()
        .filter(|sidecar| selection.requirement(sidecar) == Requirement::Ready && !sidecar.ready)
        .map(|sidecar| Unready { name: sidecar.name.clone(), why: sidecar.why_not_ready() });
    let mut unready: Vec<_> = unready.collect();
    match running_on(snapshot, selection) {
        Ok(running) => unready.extend(running),
        Err(reason) => return Verdict::Refuse(reason),
    }
    if unready.is_empty() { Verdict::Open } else { Verdict::Wait(unready) }
}

/// Those that are to exit, and have not.
fn running_on(snapshot: &Snapshot, selection: &Selection) -> Result<Vec<Unready>, Reason> {
    let mut running = Vec::new();
    for Awaited { name, end } in &selection.wait_exit {
        let Some(container) = snapshot.beside().find(|container| container.name == *name) else { continue };
        match container.ended_for_good() {
            Some(exit) if *end == End::Success && exit.code != 0 => {
                return Err(Reason::NotSuccess { name: name.clone(), exit: exit.clone() });
            }
            Some(_) => {}
            None if container.native || container.restart.always() => {
                return Err(Reason::NeverExits(name.clone()));
            }
            None => running.push(Unready { name: name.clone(), why: container.why_not_over() }),
        }
    }
    Ok(running)
}

/// A sidecar that is asked itself in place of Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instead {
    /// The sidecar.
    pub name: String,
    /// Where it is asked.
    pub url: HttpUrl,
    /// Why.
    pub why: Why,
}

/// Why a sidecar is asked itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// An annotation says so.
    Annotated,
    /// Kubernetes would call it ready only once the application listens.
    AfterApplication,
}

impl fmt::Display for Instead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is asked at {}: ", self.name, self.url)?;
        match self.why {
            Why::Annotated => write!(f, "annotation {} says so", annotations::key(&self.name, "ready")),
            Why::AfterApplication => {
                write!(f, "Kubernetes would call it ready only once the application listens")
            }
        }
    }
}

/// The sidecars that are asked themselves in place of Kubernetes, and where.
pub fn asked_instead<'a>(
    snapshot: &'a Snapshot,
    selection: &'a Selection,
) -> impl Iterator<Item = Instead> + 'a {
    let alive =
        snapshot.sidecars.iter().filter(|sidecar| selection.requirement(sidecar) == Requirement::Alive);
    alive.filter_map(|sidecar| {
        let annotated = sidecar.annotated.ready.is_some();
        let why = if annotated { Why::Annotated } else { Why::AfterApplication };
        Some(Instead { name: sidecar.name.clone(), url: sidecar.ready_at()?.clone(), why })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::run::Run;
    use crate::pod::tests::snapshot;

    /// A Pod with our container, `web`, and what else is given: a state and readiness for `web`.
    fn beside_web(policy: &str, ready: bool, state: &str) -> Snapshot {
        snapshot(&format!(
            "
spec:
  restartPolicy: {policy}
  containers: [{{name: web, image: w}}, {{name: main, image: m}}]
status:
  containerStatuses:
  - {{name: web, image: w, imageID: w, ready: {ready}, restartCount: 0, state: {{{state}}}}}
"
        ))
    }

    fn all() -> Selection {
        Selection::default()
    }

    fn waits(verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::Wait(_))
    }

    #[test]
    fn opens_when_every_sidecar_is_ready() {
        assert_eq!(verdict(&beside_web("Never", true, "running: {}"), &all()), Verdict::Open);
    }

    #[test]
    fn opens_when_there_is_no_sidecar() {
        let alone = snapshot("spec: {containers: [{name: main, image: m}]}");
        assert_eq!(verdict(&alone, &all()), Verdict::Open);
    }

    #[test]
    fn waits_for_a_sidecar_without_a_status_yet() {
        let unseen = snapshot("spec: {containers: [{name: web, image: w}, {name: main, image: m}]}");
        let expected = vec![Unready { name: "web".into(), why: "not started".into() }];
        assert_eq!(verdict(&unseen, &all()), Verdict::Wait(expected));
    }

    #[test]
    fn waits_for_native_sidecars_too() {
        let native = snapshot(
            "
spec:
  initContainers: [{name: db, image: d, restartPolicy: Always}]
  containers: [{name: main, image: m}]
status:
  initContainerStatuses: [{name: db, image: d, imageID: d, ready: false, started: true, restartCount: 0, state: {running: {}}}]
",
        );
        assert!(waits(&verdict(&native, &all())));
    }

    #[test]
    fn refuses_when_a_sidecar_will_not_be_started_again() {
        for (policy, code, refused) in [
            ("Never", 0, true),
            ("Never", 1, true),
            ("OnFailure", 0, true),
            ("OnFailure", 1, false),
            ("Always", 0, false),
            ("Always", 1, false),
        ] {
            let state = format!("terminated: {{exitCode: {code}, reason: Error}}");
            let found = verdict(&beside_web(policy, false, &state), &all());
            let ended = matches!(found, Verdict::Refuse(Reason::SidecarEnded { .. }));
            assert_eq!(ended, refused, "{policy} {code}: {found:?}");
            assert_eq!(waits(&found), !refused, "{policy} {code}: {found:?}");
        }
    }

    #[test]
    fn refuses_when_the_pod_is_on_its_way_out() {
        for (life, reason) in [(Life::Deleting, Reason::Deleting), (Life::Finished, Reason::Finished)] {
            let leaving = Snapshot { life, ..beside_web("Never", true, "running: {}") };
            assert_eq!(verdict(&leaving, &all()), Verdict::Refuse(reason));
        }
    }

    #[test]
    fn selectors_choose_by_name() {
        let unready = beside_web("Never", false, "running: {}");
        let ignoring = Selection { ignore: vec!["web".into(), "absent".into()], ..all() };
        assert_eq!(verdict(&unready, &ignoring), Verdict::Open);
        let waiting = Selection { wait_for: vec!["web".into()], ..all() };
        assert!(waits(&verdict(&unready, &waiting)));
        let unknown = Selection { wait_for: vec!["wbe".into()], ..all() };
        let expected =
            Reason::UnknownSidecar { flag: "--wait-for", name: "wbe".into(), found: vec!["web".into()] };
        assert_eq!(verdict(&unready, &unknown), Verdict::Refuse(expected));
    }

    #[test]
    fn a_sidecar_that_is_not_selected_may_fail() {
        let failed = beside_web("Never", false, "terminated: {exitCode: 1}");
        let ignoring = Selection { ignore: vec!["web".into()], ..all() };
        assert_eq!(verdict(&failed, &ignoring), Verdict::Open);
    }

    #[test]
    fn a_sidecar_that_is_ready_only_after_the_application_is_asked_directly() {
        let dapr = |state: &str| {
            snapshot(&format!(
                "
spec:
  restartPolicy: Never
  containers: [{{name: daprd, image: daprio/daprd, args: [--dapr-http-port, '3501']}}, {{name: main, image: m}}]
status:
  containerStatuses: [{{name: daprd, image: d, imageID: d, ready: false, restartCount: 0, state: {{{state}}}}}]
"
            ))
        };
        let running = dapr("running: {}");
        assert_eq!(verdict(&running, &all()), Verdict::Open);
        let selection = all();
        let asked: Vec<_> = asked_instead(&running, &selection).collect();
        let url = HttpUrl::on_loopback(3501, "/v1.0/healthz/outbound");
        assert_eq!(asked, [Instead { name: "daprd".into(), url, why: Why::AfterApplication }]);
        assert_eq!(
            asked[0].to_string(),
            "`daprd` is asked at http://localhost:3501/v1.0/healthz/outbound: Kubernetes would call it ready only once the \
             application listens"
        );
        let ended = verdict(&dapr("terminated: {exitCode: 1}"), &all());
        assert!(matches!(ended, Verdict::Refuse(Reason::SidecarEnded { .. })), "{ended:?}");
        let by_name = Selection { wait_for: vec!["daprd".into()], ..all() };
        assert!(waits(&verdict(&running, &by_name)), "asked for by name, Kubernetes decides");
        assert_eq!(asked_instead(&running, &by_name).count(), 0);
    }

    #[test]
    fn a_sidecar_with_an_annotation_is_asked_there_and_may_not_end() {
        let annotated = |annotation: &str, state: &str| {
            let mut pod = beside_web("Never", false, state);
            let read = snapshot(&format!(
                "
metadata: {{annotations: {{proa.ironcorelabs.com/web.{annotation}}}}}
spec: {{containers: [{{name: web, image: w}}, {{name: main, image: m}}]}}
"
            ));
            pod.sidecars[0].annotated = read.sidecars[0].annotated.clone();
            pod
        };
        let ready = "ready: http://localhost:9000/ready";
        let running = annotated(ready, "running: {}");
        assert_eq!(verdict(&running, &all()), Verdict::Open, "but for what is asked directly");
        let asked: Vec<_> = asked_instead(&running, &all()).map(|instead| instead.to_string()).collect();
        assert_eq!(
            asked,
            [
                "`web` is asked at http://localhost:9000/ready: annotation proa.ironcorelabs.com/web.ready says so"
            ]
        );
        let ended = verdict(&annotated(ready, "terminated: {exitCode: 0}"), &all());
        assert!(matches!(ended, Verdict::Refuse(Reason::SidecarEnded { .. })), "{ended:?}");
        let ignored = annotated("ignore: 'true'", "terminated: {exitCode: 1}");
        assert_eq!(verdict(&ignored, &all()), Verdict::Open);
    }

    #[test]
    fn what_was_beside_an_earlier_run_decides_nothing() {
        let ended = beside_web("Never", false, "terminated: {exitCode: 1}");
        for mut outdated in [beside_web("Never", true, "running: {}"), ended] {
            for run in [Run::Over, Run::Older] {
                outdated.own.run = run;
                assert_eq!(verdict(&outdated, &all()), Verdict::Outdated);
            }
            outdated.life = Life::Deleting;
            assert_eq!(verdict(&outdated, &all()), Verdict::Refuse(Reason::Deleting), "that is never undone");
        }
    }

    #[test]
    fn waiting_reasons_are_the_kubelets() {
        let pulling = beside_web("Never", false, "waiting: {reason: ImagePullBackOff}");
        let Verdict::Wait(unready) = verdict(&pulling, &all()) else { panic!("should wait") };
        assert_eq!(unready[0].to_string(), "web (ImagePullBackOff)");
    }

    #[test]
    fn one_that_is_to_exit_is_waited_for_until_it_has_for_good() {
        let after = |policy: &str, state: &str, end| {
            let wait_exit = vec![Awaited { name: "web".into(), end }];
            let selection = Selection { wait_exit, ..all() };
            verdict(&beside_web(policy, false, state), &selection)
        };
        let wait = |why: &str| Verdict::Wait(vec![Unready { name: "web".into(), why: why.into() }]);
        let failed = "terminated: {exitCode: 3}";
        let refused = Verdict::Refuse(Reason::NotSuccess {
            name: "web".into(),
            exit: Exit { code: 3, reason: String::new() },
        });
        for (policy, state, end, expected) in [
            ("Never", "running: {}", End::ForGood, wait("running")),
            ("Never", "terminated: {exitCode: 0}", End::Success, Verdict::Open),
            ("Never", failed, End::ForGood, Verdict::Open),
            ("Never", failed, End::Success, refused),
            ("OnFailure", failed, End::Success, wait("ended with exit code 3, to be restarted")),
            ("Always", "running: {}", End::ForGood, Verdict::Refuse(Reason::NeverExits("web".into()))),
        ] {
            assert_eq!(after(policy, state, end), expected, "{policy} {state} {end:?}");
        }
        let unknown = Awaited { name: "wbe".into(), end: End::ForGood };
        let unknown = Selection { wait_exit: vec![unknown], ..all() };
        let found = verdict(&beside_web("Never", true, "running: {}"), &unknown);
        assert!(
            matches!(found, Verdict::Refuse(Reason::UnknownSidecar { flag: "--wait-exit", .. })),
            "{found:?}"
        );
    }

    #[test]
    fn a_native_sidecar_never_exits_before_the_command() {
        let native = snapshot(
            "
spec:
  restartPolicy: Never
  initContainers: [{name: db, image: d, restartPolicy: Always}]
  containers: [{name: main, image: m}]
",
        );
        let selection =
            Selection { wait_exit: vec![Awaited { name: "db".into(), end: End::ForGood }], ..all() };
        assert_eq!(verdict(&native, &selection), Verdict::Refuse(Reason::NeverExits("db".into())));
    }

    #[test]
    fn main_containers_do_not_wait_for_one_another_unless_one_is_asked_to() {
        let pod = snapshot(
            "
spec:
  restartPolicy: Never
  containers:
  - {name: other, image: o, command: [/proa, --, other]}
  - {name: third, image: t, command: [/proa, --, third]}
  - {name: main, image: m}
",
        );
        assert_eq!(verdict(&pod, &all()), Verdict::Open);
        let asked_to = Selection { wait_for: vec!["other".into()], ..all() };
        let expected = vec![Unready { name: "other".into(), why: "not started".into() }];
        assert_eq!(verdict(&pod, &asked_to), Verdict::Wait(expected));
    }

    #[test]
    fn a_main_container_whose_name_is_mistyped_is_refused() {
        let mains = |names: &[&str]| {
            let mains = names.iter().map(|name| (*name).to_owned()).collect();
            verdict(&beside_web("Never", true, "running: {}"), &Selection { mains, ..all() })
        };
        assert_eq!(mains(&["web", "main"]), Verdict::Open, "our own may be among them");
        let expected =
            Reason::UnknownSidecar { flag: "--main", name: "mian".into(), found: vec!["web".into()] };
        assert_eq!(mains(&["web", "mian"]), Verdict::Refuse(expected));
    }

    #[test]
    fn a_refusal_names_the_container_and_what_changes_it() {
        let exit = || Exit { code: 3, reason: "Error".into() };
        let unknown = |found: &[&str]| Reason::UnknownSidecar {
            flag: "--wait-for",
            name: "wbe".into(),
            found: found.iter().map(|name| (*name).to_owned()).collect(),
        };
        let cases: [(_, &[&str]); 7] = [
            (
                Reason::SidecarEnded { name: "web".into(), exit: exit() },
                &["`web`", "exit code 3", "--ignore=web"],
            ),
            (
                Reason::NotSuccess { name: "web".into(), exit: exit() },
                &["`web`", "exit code 3", "--wait-exit=web takes every exit code"],
            ),
            (Reason::NeverExits("web".into()), &["--wait-exit", "`web`", "restartPolicy: Always"]),
            (Reason::Deleting, &["the Pod is being deleted"]),
            (Reason::Finished, &["the Pod has ended"]),
            (unknown(&["web", "db"]), &["--wait-for", "`wbe`", "there are `web`, `db`"]),
            (unknown(&[]), &["--wait-for", "`wbe`", "no container runs beside this one"]),
        ];
        for (reason, says) in cases {
            let text = reason.to_string();
            assert!(says.iter().all(|part| text.contains(part)), "{text}");
        }
    }
}
