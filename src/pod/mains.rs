//! The main containers: which they are, and how far they are, as a sidecar or another main container sees them.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::pod::{Exit, KnownBy, Main, Role, Sidecar, Snapshot, State, list};

/// Which containers are main ones beside those whose command shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mains {
    named: Vec<String>,
    present: BTreeSet<String>,
    without_doubt: bool,
}

impl Mains {
    /// Those that a flag names.
    #[must_use]
    pub fn named(named: Vec<String>) -> Self {
        Self { named, ..Self::default() }
    }

    /// These are main ones, as nothing else can be.
    pub fn add(&mut self, found: &[Awaited]) {
        let new = found.iter().map(|main| &main.name).filter(|name| !self.named.contains(name));
        let new: Vec<_> = new.cloned().collect();
        self.named.extend(new);
    }

    /// Notes that proa runs in these, in front of a command. Whether that is news.
    pub fn see(&mut self, present: impl IntoIterator<Item = String>) -> bool {
        let before = self.present.len();
        self.present.extend(present);
        self.present.len() > before
    }

    /// Takes no proa for switched off that only may be. For one that nobody sees: where two of them waited for each other in
    /// doubt, neither would end.
    #[must_use]
    pub fn without_doubt(self) -> Self {
        Self { without_doubt: true, ..self }
    }

    /// Calls them main containers in what was seen of the Pod.
    pub fn settle(&self, snapshot: &mut Snapshot) {
        let known_by = |sidecar: &Sidecar| {
            if sidecar.native {
                None
            } else if self.present.contains(&sidecar.name) {
                Some(KnownBy::Presence)
            } else {
                self.named.contains(&sidecar.name).then_some(KnownBy::Flag)
            }
        };
        let mains = snapshot.sidecars.extract_if(.., |sidecar| known_by(sidecar).is_some());
        let mains = mains
            .filter_map(|container| Some(Main { known_by: known_by(&container)?, container, seen: false }));
        snapshot.mains.extend(mains);
        for main in &mut snapshot.mains {
            main.seen |= self.present.contains(&main.container.name);
            main.known_by = match main.known_by {
                KnownBy::Doubtful if main.seen => KnownBy::Presence,
                KnownBy::Doubtful if self.without_doubt => KnownBy::Command,
                known_by => known_by,
            };
        }
    }
}

/// A container, and which end of it counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Awaited {
    /// The container.
    pub name: String,
    /// Which end.
    pub end: End,
}

/// Neither `NAME` nor `NAME=success`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoExit;

impl fmt::Display for NoExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected the name of a container, or NAME=success")
    }
}

impl std::error::Error for NoExit {}

impl FromStr for Awaited {
    type Err = NoExit;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, end) = match text.split_once('=') {
            None => (text, End::ForGood),
            Some((name, "success")) => (name, End::Success),
            Some(_) => return Err(NoExit),
        };
        if name.is_empty() { Err(NoExit) } else { Ok(Self { name: name.to_owned(), end }) }
    }
}

/// Which end of a main container counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Every one after which it will not be started again.
    ForGood,
    /// Exit code 0.
    Success,
}

/// Why a sidecar is out of place in this Pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Misplaced {
    /// The Pod has no such container.
    NoSuchMain {
        /// The name given.
        name: String,
        /// The names there are.
        found: Vec<String>,
    },
    /// Nothing tells which container is the main one.
    WhichMain(Vec<String>),
    /// There is no other container that could be the main one.
    NoMain(String),
    /// It waits for its own end.
    Itself(String),
    /// It runs as an init container, before everything else.
    Init,
    /// It runs as a native sidecar, which the kubelet ends after the main containers.
    Native,
}

impl fmt::Display for Misplaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchMain { name, found } => write!(
                f,
                "--until-exit names `{name}`, which is no container beside this one; there are {}",
                list(found)
            ),
            Self::WhichMain(found) => write!(
                f,
                "cannot tell which of the containers {} is the main one; set --until-exit (PROA_UNTIL_EXIT)",
                list(found)
            ),
            Self::NoMain(own) => write!(
                f,
                "`{own}` has no main container beside it; expected `proa sidecar` in a sidecar, and `proa -- COMMAND` \
                 in the main container"
            ),
            Self::Itself(own) => {
                write!(
                    f,
                    "--until-exit names `{own}`, which is this container; expected the main container's name"
                )
            }
            Self::Init => write!(
                f,
                "`proa sidecar` runs in an init container, and the Pod would wait for ever for it to exit; expected a \
                 regular container, or restartPolicy: Always on this one"
            ),
            Self::Native => write!(
                f,
                "this is a native sidecar, which the kubelet stops after the main containers; leave out --until-exit, or \
                 make it a regular container"
            ),
        }
    }
}

impl std::error::Error for Misplaced {}

/// Finds the main containers: those named, else those that proa runs in front of a command in, else the only one that is
/// no sidecar. `None`: it is too early to tell.
///
/// # Errors
/// When there are none of these names, or not one alone.
pub fn find(snapshot: &Snapshot, named: &[Awaited]) -> Result<Option<Vec<Awaited>>, Misplaced> {
    match snapshot.own.role {
        Role::Init => return Err(Misplaced::Init),
        // Nothing to wait for: the kubelet ends it, and in order.
        Role::NativeSidecar if named.is_empty() => return Ok(Some(Vec::new())),
        Role::NativeSidecar => return Err(Misplaced::Native),
        Role::Regular => {}
    }
    let regular: Vec<_> = snapshot.beside().filter(|container| !container.native).collect();
    if let Some(itself) = named.iter().find(|awaited| awaited.name == snapshot.own.name) {
        return Err(Misplaced::Itself(itself.name.clone()));
    }
    let list = |found: &[&Sidecar]| found.iter().map(|sidecar| sidecar.name.clone()).collect::<Vec<_>>();
    if let Some(missing) = named.iter().find(|awaited| regular.iter().all(|s| s.name != awaited.name)) {
        return Err(Misplaced::NoSuchMain { name: missing.name.clone(), found: list(&regular) });
    }
    if !named.is_empty() {
        return Ok(Some(named.to_vec()));
    }
    let sidecars = snapshot.sidecars.iter().filter(|sidecar| !sidecar.native);
    let unknown: Vec<_> = sidecars.filter(|sidecar| !sidecar.is_sidecar()).collect();
    // An image's entrypoint may hide the proa of one that has yet to start, or to be started again.
    let is_early = unknown.iter().any(|sidecar| matches!(sidecar.state, State::Waiting(_)));
    let awaited = |container: &Sidecar| Awaited { name: container.name.clone(), end: End::ForGood };
    match (snapshot.mains.as_slice(), unknown.as_slice()) {
        // Whichever of them is the main one, it is over.
        ([], several @ [_, _, ..]) if several.iter().all(|found| found.ended_for_good().is_some()) => {
            Ok(Some(several.iter().map(|found| awaited(found)).collect()))
        }
        ([], []) => Err(Misplaced::NoMain(snapshot.own.name.clone())),
        ([], [main]) => Ok(Some(vec![awaited(main)])),
        _ if is_early => Ok(None),
        ([], several) => Err(Misplaced::WhichMain(list(several))),
        (mains, _) => Ok(Some(mains.iter().map(|main| awaited(&main.container)).collect())),
    }
}

/// What the main containers' proas have said: each speaks for its own container alone.
#[derive(Debug, Default)]
pub struct Notifications {
    /// For whom the sidecar was asked to quit.
    quit: BTreeSet<String>,
    /// Who said of itself that it has ended, while others went on.
    ended: BTreeSet<String>,
}

impl Notifications {
    /// Notes that the sidecar is to quit, as far as this main container is concerned.
    pub fn note_quit(&mut self, container: &str, code: u8, named: &[Awaited]) {
        self.quit.extend(counted(container, code, named));
    }

    /// Notes that a main container has ended.
    pub fn note_ended(&mut self, container: &str, code: u8, named: &[Awaited]) {
        self.ended.extend(counted(container, code, named));
    }

    /// Whether that is enough to stop on: it was said of all that are named. `runs`: whether one that has said that it ended runs again.
    /// It has to say so once more then.
    ///
    /// # Errors
    /// That of `runs`, which says nothing, and on which nothing is decided.
    pub fn settle<E>(
        &mut self,
        named: &[Awaited],
        runs: impl Fn(&str) -> Result<bool, E>,
    ) -> Result<bool, E> {
        let mut unknown = None;
        let Self { quit, ended } = self;
        ended.retain(|name| {
            // What it asked for itself it is not asked about.
            quit.contains(name)
                || !runs(name).unwrap_or_else(|error| {
                    unknown = Some(error);
                    false
                })
        });
        match unknown {
            Some(error) => Err(error),
            None => Ok(named.iter().all(|main| quit.contains(&main.name) || ended.contains(&main.name))),
        }
    }
}

/// The container, if it is named and such an end counts.
fn counted(container: &str, code: u8, named: &[Awaited]) -> Option<String> {
    let counts = |main: &&Awaited| main.name == container && (main.end == End::ForGood || code == 0);
    named.iter().find(counts).map(|main| main.name.clone())
}

/// How far the main containers are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// These have not ended.
    Running(Vec<String>),
    /// All have, as awaited; the worst of their exit codes.
    Ended(i32),
    /// This one ended otherwise, and will not be started again.
    Failed(String, Exit),
    /// They have no end to wait for: one is started again after every end, or there are none.
    Endless,
    /// Unknown: what is seen is from before this container was started.
    Outdated,
}

/// Decides how far they are.
#[must_use]
pub fn progress(snapshot: &Snapshot, mains: &[Awaited]) -> Progress {
    let of = |main: &Awaited| snapshot.beside().find(|container| container.name == main.name);
    if mains.is_empty() || mains.iter().filter_map(of).any(|sidecar| sidecar.restart.always()) {
        return Progress::Endless;
    }
    if snapshot.own.run.is_outdated() {
        return Progress::Outdated;
    }
    let mut running = Vec::new();
    let mut worst = 0;
    for main in mains {
        match of(main).and_then(Sidecar::ended_for_good) {
            Some(exit) if main.end == End::Success && exit.code != 0 => {
                return Progress::Failed(main.name.clone(), exit.clone());
            }
            Some(exit) => worst = worst.max(exit.code),
            None => running.push(main.name.clone()),
        }
    }
    if running.is_empty() { Progress::Ended(worst) } else { Progress::Running(running) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::tests::pod;

    fn seen_by(own: &str, policy: &str, status: &str) -> Snapshot {
        let pod = pod(&format!(
            "
spec:
  restartPolicy: {policy}
  initContainers: [{{name: native, image: n, restartPolicy: Always}}, {{name: init, image: i}}]
  containers:
  - {{name: istio-proxy, image: i}}
  - {{name: wrapped, image: w, command: [/proa, sidecar, --, w]}}
  - {{name: web, image: w}}
  - {{name: app, image: a}}
status:
  containerStatuses:
  - {{name: app, image: a, imageID: a, ready: false, restartCount: 0, state: {{{status}}}}}
  - {{name: web, image: w, imageID: w, ready: false, restartCount: 0, state: {{running: {{}}}}}}
"
        ));
        Snapshot::of(&pod, Some(own), None).unwrap()
    }

    fn named(names: &[&str], end: End) -> Vec<Awaited> {
        names.iter().map(|name| Awaited { name: (*name).to_owned(), end }).collect()
    }

    fn found(own: &str, names: &[&str]) -> Result<Vec<String>, Misplaced> {
        let found = find(&seen_by(own, "Never", "running: {}"), &named(names, End::ForGood))?;
        Ok(found.expect("not too early").into_iter().map(|main| main.name).collect())
    }

    #[test]
    fn the_only_container_that_is_no_sidecar_is_the_main_one() {
        assert_eq!(found("web", &[]), Ok(vec!["app".into()]));
        assert_eq!(found("wrapped", &[]), Err(Misplaced::WhichMain(vec!["web".into(), "app".into()])));
        assert_eq!(found("wrapped", &["app"]), Ok(vec!["app".into()]));
        assert_eq!(found("wrapped", &["app", "web"]), Ok(vec!["app".into(), "web".into()]));
    }

    #[test]
    fn those_that_run_proa_are_the_main_ones_however_that_shows() {
        let pod = |second: &str| {
            let yaml = format!(
                "
spec:
  containers:
  - {{name: web, image: w}}
  - {{name: first, image: a, command: [/proa, --, first]}}
  - {{name: second, image: b}}
  - {{name: wrapped, image: w, command: [/proa, sidecar, --, w]}}
status:
  containerStatuses:
  - {{name: web, image: w, imageID: w, ready: false, restartCount: 0, state: {{running: {{}}}}}}
  - {{name: second, image: w, imageID: w, ready: false, restartCount: 0, state: {{{second}}}}}
"
            );
            Snapshot::of(&pod(&yaml), Some("wrapped"), None).unwrap()
        };
        let names = |snapshot: &Snapshot| {
            let found = find(snapshot, &[]).unwrap()?;
            Some(found.into_iter().map(|main| main.name).collect::<Vec<_>>())
        };
        let early = pod("waiting: {reason: ContainerCreating}");
        assert_eq!(names(&early), None, "the second may be one too");
        assert_eq!(names(&pod("running: {}")), Some(vec!["first".into()]));
        let mut seen = pod("running: {}");
        let mut mains = Mains::default();
        assert!(mains.see(["second".to_owned()]) && !mains.see(["second".to_owned()]));
        mains.settle(&mut seen);
        assert_eq!(names(&seen), Some(vec!["first".into(), "second".into()]));
    }

    #[test]
    fn a_proa_that_was_seen_is_not_switched_off() {
        let seen = || {
            let pod = pod("
spec:
  containers:
  - {name: own, image: o}
  - {name: main, image: m, command: [/proa, --, work], envFrom: [{secretRef: {name: s}}]}
  - {name: off, image: m, command: [/proa, --disabled, --, work]}
");
            Snapshot::of(&pod, Some("own"), None).unwrap()
        };
        let known_by = |mains: Mains| {
            let mut seen = seen();
            mains.settle(&mut seen);
            seen.mains.iter().map(|main| main.known_by).collect::<Vec<_>>()
        };
        assert_eq!(known_by(Mains::default()), [KnownBy::Doubtful, KnownBy::Disabled]);
        assert_eq!(known_by(Mains::default().without_doubt()), [KnownBy::Command, KnownBy::Disabled]);
        let mut mains = Mains::default();
        mains.see(["main".to_owned(), "off".to_owned()]);
        assert_eq!(known_by(mains), [KnownBy::Presence, KnownBy::Disabled]);
    }

    #[test]
    fn a_flag_names_main_containers_that_nothing_else_shows() {
        let mut snapshot = seen_by("app", "Never", "running: {}");
        let mains = Mains::named(vec!["web".into(), "app".into(), "wbe".into(), "native".into()]);
        mains.settle(&mut snapshot);
        assert_eq!(snapshot.mains.len(), 1);
        assert_eq!(
            (snapshot.mains[0].container.name.as_str(), snapshot.mains[0].known_by),
            ("web", KnownBy::Flag)
        );
        assert!(
            snapshot.sidecars.iter().any(|sidecar| sidecar.name == "native"),
            "a native one is a sidecar"
        );
    }

    #[test]
    fn a_container_that_says_how_it_ends_is_no_main_one() {
        let pod = pod("
metadata: {annotations: {proa.ironcorelabs.com/web.shutdown: 'POST http://localhost:1/quit'}}
spec: {containers: [{name: own, image: o}, {name: web, image: w}, {name: app, image: a}]}
");
        let mains =
            find(&Snapshot::of(&pod, Some("own"), None).unwrap(), &[]).unwrap().expect("not too early");
        assert_eq!(mains.iter().map(|main| main.name.as_str()).collect::<Vec<_>>(), ["app"]);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert!(matches!(found("web", &["ap"]), Err(Misplaced::NoSuchMain { .. })));
        assert_eq!(found("app", &["app"]), Err(Misplaced::Itself("app".into())));
        assert_eq!(found("init", &[]), Err(Misplaced::Init));
        assert_eq!(found("native", &[]), Ok(Vec::new()));
        assert_eq!(found("native", &["app"]), Err(Misplaced::Native));
        let alone = crate::pod::tests::snapshot("spec: {containers: [{name: main, image: m}]}");
        assert_eq!(find(&alone, &[]), Err(Misplaced::NoMain("main".into())));
    }

    #[test]
    fn an_end_counts_once_the_container_is_not_started_again() {
        let after = |policy: &str, code: i32, end| {
            let status = format!("terminated: {{exitCode: {code}}}");
            progress(&seen_by("web", policy, &status), &named(&["app"], end))
        };
        assert_eq!(after("Never", 3, End::ForGood), Progress::Ended(3));
        assert_eq!(after("OnFailure", 0, End::ForGood), Progress::Ended(0));
        assert_eq!(after("OnFailure", 3, End::ForGood), Progress::Running(vec!["app".into()]));
        assert_eq!(after("Always", 0, End::ForGood), Progress::Endless);
        assert_eq!(after("OnFailure", 3, End::Success), Progress::Running(vec!["app".into()]));
        assert!(matches!(after("Never", 3, End::Success), Progress::Failed(..)));
        assert_eq!(after("Never", 0, End::Success), Progress::Ended(0));
    }

    /// Nobody runs again.
    const NOBODY: fn(&str) -> Result<bool, ()> = |_| Ok(false);

    #[test]
    fn each_main_container_speaks_for_itself() {
        let ask = |mains: &[Awaited], words: &[(&str, u8)]| {
            let mut said = Notifications::default();
            let take = |(name, code): &(&str, u8)| {
                said.note_quit(name, *code, mains);
                said.settle(mains, NOBODY).unwrap()
            };
            words.iter().map(take).collect::<Vec<_>>()
        };
        assert_eq!(ask(&[], &[("app", 3)]), [true]);
        let both = named(&["app", "web"], End::ForGood);
        assert_eq!(
            ask(&both, &[("app", 0), ("app", 0), ("other", 0), ("web", 3)]),
            [false, false, false, true]
        );
        assert_eq!(ask(&both[..1], &[("web", 0), ("app", 1), ("app", 1)]), [false, true, true]);
        assert_eq!(ask(&named(&["app"], End::Success), &[("app", 3), ("app", 0)]), [false, true]);
    }

    #[test]
    fn one_that_runs_again_has_not_ended() {
        let mut said = Notifications::default();
        let both = named(&["app", "web"], End::ForGood);
        let runs = |running: &'static str| move |name: &str| Ok::<_, ()>(name == running);
        said.note_ended("app", 0, &both);
        assert_eq!(said.settle(&both, runs("app")), Ok(false));
        said.note_ended("web", 0, &both);
        assert_eq!(said.settle(&both, NOBODY), Ok(false), "it has to end once more");
        said.note_ended("app", 3, &both);
        assert_eq!(said.settle(&both, |_| Err(())), Err(()), "which says nothing");
        assert_eq!(said.settle(&both, runs("other")), Ok(true));
        said.note_quit("app", 0, &both);
        assert_eq!(said.settle(&both, runs("app")), Ok(true), "it asked for that");
    }

    #[test]
    fn what_was_beside_an_earlier_run_is_no_end() {
        let mut snapshot = seen_by("web", "Never", "terminated: {exitCode: 0}");
        snapshot.own.run = crate::pod::run::Run::Over;
        assert_eq!(progress(&snapshot, &named(&["app"], End::ForGood)), Progress::Outdated);
    }

    #[test]
    fn nothing_to_wait_for_has_no_end() {
        assert_eq!(progress(&seen_by("native", "Never", "running: {}"), &[]), Progress::Endless);
    }

    #[test]
    fn an_end_is_read_from_a_name_and_perhaps_success() {
        let read = |text: &str| text.parse::<Awaited>();
        let awaited = |end| Ok(Awaited { name: "app".into(), end });
        assert_eq!(read("app"), awaited(End::ForGood));
        assert_eq!(read("app=success"), awaited(End::Success));
        for text in ["", "=success", "app=", "app=failure", "app=success=success"] {
            assert_eq!(read(text), Err(NoExit), "{text:?}");
        }
        assert_eq!(NoExit.to_string(), "expected the name of a container, or NAME=success");
    }

    #[test]
    fn of_several_that_might_be_the_main_one_all_over_is_the_end() {
        let pod = |second: &str| {
            let yaml = format!(
                "
spec:
  restartPolicy: OnFailure
  containers:
  - {{name: own, image: o}}
  - {{name: first, image: a}}
  - {{name: second, image: b}}
status:
  containerStatuses:
  - {{name: first, image: a, imageID: a, ready: false, restartCount: 0, state: {{terminated: {{exitCode: 0}}}}}}
  - {{name: second, image: b, imageID: b, ready: false, restartCount: 0, state: {{{second}}}}}
"
            );
            find(&Snapshot::of(&pod(&yaml), Some("own"), None).unwrap(), &[])
        };
        let both = vec!["first".to_owned(), "second".to_owned()];
        assert_eq!(pod("terminated: {exitCode: 0}"), Ok(Some(named(&["first", "second"], End::ForGood))));
        assert_eq!(pod("running: {}"), Err(Misplaced::WhichMain(both.clone())));
        assert_eq!(pod("terminated: {exitCode: 1}"), Err(Misplaced::WhichMain(both)), "to be restarted");
    }

    #[test]
    fn main_containers_that_were_found_are_called_so_from_then_on() {
        let mut mains = Mains::named(vec!["app".into()]);
        mains.add(&named(&["app", "web"], End::ForGood));
        assert_eq!(mains, Mains::named(vec!["app".into(), "web".into()]));
    }

    #[test]
    fn a_sidecar_out_of_place_is_told_what_was_expected() {
        for (misplaced, says) in [
            (
                Misplaced::NoSuchMain { name: "ap".into(), found: vec!["app".into(), "web".into()] },
                "--until-exit names `ap`, which is no container beside this one; there are `app`, `web`",
            ),
            (
                Misplaced::WhichMain(vec!["app".into(), "web".into()]),
                "`app`, `web` is the main one; set --until-exit",
            ),
            (
                Misplaced::NoMain("web".into()),
                "`web` has no main container beside it; expected `proa sidecar`",
            ),
            (Misplaced::Itself("web".into()), "--until-exit names `web`, which is this container; expected"),
            (
                Misplaced::Init,
                "in an init container, and the Pod would wait for ever for it to exit; expected",
            ),
            (Misplaced::Native, "leave out --until-exit, or make it a regular container"),
        ] {
            let text = misplaced.to_string();
            assert!(text.contains(says), "{text}");
        }
    }
}
