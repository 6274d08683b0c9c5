//! Which form of proa a Pod template needs, if any: the least that solves its problem.

mod forms;

use std::fmt::{self, Write};

use proa::known::Ready;
use proa::pod::{Sidecar, Snapshot};
use serde_json::{Value, json};

use crate::check::{is_awaited, is_native, main_container, starts_unready};
use crate::document::Path;
use crate::entrypoint::{self, Entrypoint, entrypoint};
use crate::finding::yaml;
use crate::report::indented;
use crate::seen::snapshot;
use crate::workload::Workload;
use forms::Patch;

/// What is done about a Pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// Nothing.
    Nothing,
    /// A native sidecar gets its readinessProbe as startupProbe. No proa.
    Probe,
    /// Sidecars become native. No proa.
    Native,
    /// `proa wait` is the last init container.
    Wait,
    /// proa stands in front of the main containers' commands.
    Wrap,
    /// `proa sidecar` without a command is a container of its own.
    Helper,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "nothing",
            Self::Probe => "startup-probe",
            Self::Native => "native",
            Self::Wait => "wait",
            Self::Wrap => "wrap",
            Self::Helper => "helper",
        })
    }
}

/// What is proposed for one Pod template.
#[derive(Debug, Clone)]
pub struct Proposal {
    /// Whose it is: `Job/backup`.
    pub object: String,
    /// The text that it stands in, and the line.
    pub place: String,
    /// What is done, the greatest first.
    pub forms: Vec<Form>,
    /// Why.
    pub why: Vec<String>,
    /// JSON Patch (RFC 6902) for the object.
    pub patch: Vec<Value>,
    /// Objects to create beside it.
    pub objects: Vec<Value>,
}

/// What the proposals take for granted.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    /// proa's image.
    pub image: &'a str,
    /// Containers that are sidecars, though nothing shows it.
    pub sidecars: &'a [String],
}

/// Decides.
#[must_use]
pub fn plan(workload: &Workload, given: Given) -> Proposal {
    let position = workload.node.position(&workload.template);
    let mut proposal = Proposal {
        object: workload.object.to_string(),
        place: format!("{}:{}", workload.source, position.line),
        forms: Vec::new(),
        why: Vec::new(),
        patch: Vec::new(),
        objects: Vec::new(),
    };
    let entrypoints: Vec<_> =
        workload.all().map(|(_, container)| (container.name.clone(), entrypoint(container))).collect();
    let is_there =
        |entrypoint: &Entrypoint| !matches!(entrypoint, Entrypoint::Absent | Entrypoint::Install(_));
    let by_hook = workload.all().find(|(_, container)| entrypoint::is_in_hook(container));
    let by_command = entrypoints.iter().find(|(_, entrypoint)| is_there(entrypoint)).map(|(name, _)| name);
    if let Some(name) = by_command.or(by_hook.map(|(_, container)| &container.name)) {
        proposal.why.push(format!(
            "proa is in `{name}` already; `kubectl proa check` says what is wrong with it, if anything"
        ));
        return proposal.done();
    }
    let main = main_container(workload, given.sidecars);
    let seen = main.and_then(|main| Some((snapshot(workload, &main).ok()?, main)));
    let Some((pod, main)) = seen else {
        proposal.why.push("every container is a sidecar, so there is no main container to help".to_owned());
        return proposal.done();
    };
    let mut patch = Patch::of(workload);
    await_native(workload, &pod, &entrypoints, &mut patch, &mut proposal);
    end_regular(workload, &main, &pod, given, &mut patch, &mut proposal);
    proposal.patch = patch.operations();
    proposal.done()
}

impl Proposal {
    fn done(mut self) -> Self {
        self.forms.sort_unstable();
        self.forms.reverse();
        self.forms.dedup();
        if self.forms.is_empty() {
            self.forms.push(Form::Nothing);
        }
        if self.why.is_empty() {
            self.why.push("no sidecar that is known, and no native one that has to be waited for".to_owned());
        }
        self
    }
}

/// Native sidecars that the main container starts too early beside.
fn await_native(
    workload: &Workload,
    pod: &Snapshot,
    entrypoints: &[(String, Entrypoint)],
    patch: &mut Patch,
    proposal: &mut Proposal,
) {
    for container in workload.init().iter().filter(|container| is_native(container)) {
        let Some(sidecar) = pod.sidecars.iter().find(|sidecar| sidecar.name == container.name) else {
            continue;
        };
        if starts_unready(container, sidecar) && !is_awaited(workload, entrypoints, &container.name) {
            patch.add_startup_probe(&container.name);
            proposal.forms.push(Form::Probe);
            proposal.why.push(format!(
                "the main container starts when the native sidecar `{}` has started: with its readinessProbe as startupProbe the \
                 kubelet waits until it is ready",
                container.name
            ));
        }
    }
}

/// Regular sidecars that keep the Pod from completing, or that the main container starts beside.
fn end_regular(
    workload: &Workload,
    main: &str,
    pod: &Snapshot,
    given: Given,
    patch: &mut Patch,
    proposal: &mut Proposal,
) {
    let is_sidecar = |sidecar: &&Sidecar| sidecar.is_sidecar() || given.sidecars.contains(&sidecar.name);
    let regular: Vec<_> = pod.sidecars.iter().filter(|sidecar| !sidecar.native).filter(is_sidecar).collect();
    let (leaving, staying): (Vec<_>, Vec<_>) = regular.into_iter().partition(|sidecar| sidecar.leaves_last());
    for sidecar in leaving {
        proposal
            .why
            .push(format!("{} exits by itself once every other container has", sidecar.introduction()));
    }
    if staying.is_empty() {
        return;
    }
    let problem = if workload.completes() {
        "keeps the Pod from completing"
    } else {
        "may start after the main container"
    };
    if staying.iter().all(|sidecar| may_be_native(workload, sidecar)) {
        for sidecar in &staying {
            patch.make_native(&sidecar.name);
            proposal.why.push(format!(
                "{} {problem}: as a native sidecar the kubelet starts it first, and stops it after the main container",
                sidecar.introduction()
            ));
        }
        proposal.forms.push(Form::Native);
        wait_for_unprobed(&staying, given, patch, proposal);
        return;
    }
    if !workload.completes() {
        return;
    }
    for sidecar in &staying {
        let why_not = if may_be_native(workload, sidecar) {
            ""
        } else {
            ", and cannot do its work as a native sidecar"
        };
        proposal.why.push(format!("{} {problem}{why_not}", sidecar.introduction()));
        if let Some(needs) =
            sidecar.known.as_ref().filter(|known| known.end_is_off).and_then(|known| known.known.needs())
        {
            patch.switch_on(needs, &sidecar.name);
            proposal.why.push(format!("its quit endpoint is switched on: {needs}"));
        }
    }
    let names: Vec<_> = staying.iter().map(|sidecar| &sidecar.name).collect();
    let mains: Vec<_> =
        workload.regular().iter().filter(|container| !names.contains(&&container.name)).collect();
    if mains.iter().all(|container| container.command.as_ref().is_some_and(|command| !command.is_empty())) {
        patch.wrap(&mains.iter().map(|container| container.name.as_str()).collect::<Vec<_>>(), given.image);
        proposal.forms.push(Form::Wrap);
        proposal.why.push(
            "proa in front of the command waits for the sidecars, and shuts them down after it".to_owned(),
        );
    } else {
        patch.help(given.image, &mains.iter().map(|container| container.name.as_str()).collect::<Vec<_>>());
        proposal.forms.push(Form::Helper);
        proposal.why.push(format!(
            "`{main}` states no command, so nobody can put proa in front of it without knowing its image: a helper container shuts \
             the sidecars down, and does not wait for them before the main container starts"
        ));
    }
    proposal.objects = forms::role(workload);
}

/// A native sidecar without a probe has started as soon as its process runs.
fn wait_for_unprobed(sidecars: &[&Sidecar], given: Given, patch: &mut Patch, proposal: &mut Proposal) {
    let mut flags = Vec::new();
    for sidecar in sidecars.iter().filter(|sidecar| !sidecar.is_probed) {
        let row = sidecar.known.as_ref().map(|known| known.known);
        let askable = row.filter(|row| matches!(row.ready, Ready::Kubernetes(_, None)) && row.wait().is_ok());
        match askable.and(sidecar.ready_at()) {
            Some(url) => {
                flags.push(format!("--wait-http-get={url}"));
                proposal.why.push(format!(
                    "`{}` has no readinessProbe, so `proa wait` asks it itself before the main container starts",
                    sidecar.name
                ));
            }
            None => proposal.why.push(format!(
                "`{}` has no readinessProbe: give it one, as startupProbe too, if the main container needs it at once",
                sidecar.name
            )),
        }
    }
    if !flags.is_empty() {
        patch.wait(given.image, &flags);
        proposal.forms.push(Form::Wait);
    }
}

/// Whether the kubelet can start and stop it in the application's place.
fn may_be_native(workload: &Workload, sidecar: &Sidecar) -> bool {
    let known = sidecar.known.as_ref().is_none_or(|known| known.known.may_be_native());
    // An init container takes them too, but its owner has set them up for a regular one.
    let rules = workload.node.get(&workload.container(&sidecar.name).field("restartPolicyRules"));
    known && rules.is_none()
}

/// For people.
#[must_use]
pub fn text(proposals: &[(Proposal, &Workload)]) -> String {
    let mut text = String::new();
    for (proposal, workload) in proposals {
        let forms: Vec<_> = proposal.forms.iter().map(ToString::to_string).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}: {}: {}", proposal.place, proposal.object, forms.join(" + "));
        for why in &proposal.why {
            let _ = writeln!(text, "  - {why}");
        }
        if !proposal.patch.is_empty() {
            let _ = writeln!(text, "  the Pod template then ({}):", shown(&workload.template));
            text.push_str(&indented(&yaml(&forms::applied(workload, &proposal.patch)), 4));
        }
        if !proposal.objects.is_empty() {
            text.push_str("  and beside it:\n");
            let objects: Vec<_> = proposal.objects.iter().map(yaml).collect();
            text.push_str(&indented(&objects.join("---\n"), 4));
        }
        text.push('\n');
    }
    text
}

fn shown(path: &Path) -> String {
    let path = path.to_string();
    if path.is_empty() { "the Pod itself".to_owned() } else { path }
}

/// An array of objects.
#[must_use]
pub fn json(proposals: &[(Proposal, &Workload)]) -> Value {
    let proposal = |(proposal, workload): &(Proposal, &Workload)| {
        json!({
            "object": {"kind": workload.object.kind, "name": workload.object.name},
            "place": proposal.place,
            "forms": proposal.forms.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "why": proposal.why,
            "patch": proposal.patch,
            "objects": proposal.objects,
        })
    };
    proposals.iter().map(proposal).collect()
}
