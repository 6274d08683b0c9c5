//! Which containers are meant: what the gate wants of each sidecar.

use crate::known::Readiness;
use crate::pod::Sidecar;
use crate::pod::mains::Awaited;

/// Which sidecars the gate looks at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// These only; all where it is empty.
    pub wait_for: Vec<String>,
    /// Not these.
    pub ignore: Vec<String>,
    /// These are main containers, no sidecars.
    pub mains: Vec<String>,
    /// Not until these have exited, for good.
    pub wait_exit: Vec<Awaited>,
}

/// What the gate wants of a sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requirement {
    /// That Kubernetes calls it ready.
    Ready,
    /// That it has not exited for good, since it is asked itself whether it is ready: an annotation says so, or Kubernetes would
    /// call it ready too late.
    Alive,
    /// Nothing.
    None,
}

impl Selection {
    /// What is wanted of this sidecar.
    #[must_use]
    pub fn requirement(&self, sidecar: &Sidecar) -> Requirement {
        let in_list = |list: &[String]| list.contains(&sidecar.name);
        let readiness = sidecar.known.as_ref().map(|recognised| recognised.readiness);
        // The flags say which sidecars to wait for; what "ready" means is still what the annotation says.
        let by_name = if sidecar.annotated.ready.is_some() { Requirement::Alive } else { Requirement::Ready };
        let is_to_exit = self.wait_exit.iter().any(|awaited| awaited.name == sidecar.name);
        if in_list(&self.ignore) || is_to_exit {
            Requirement::None
        } else if in_list(&self.wait_for) {
            by_name
        } else if !self.wait_for.is_empty() || sidecar.annotated.ignore {
            Requirement::None
        } else if readiness == Some(Readiness::AfterApplication) {
            Requirement::Alive
        } else {
            by_name
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::tests::snapshot;

    fn requirement(annotation: &str, selection: &Selection) -> Requirement {
        let pod = snapshot(&format!(
            "
metadata: {{annotations: {{proa.ironcorelabs.com/web.{annotation}}}}}
spec: {{containers: [{{name: web, image: w}}, {{name: main, image: m}}]}}
"
        ));
        selection.requirement(&pod.sidecars[0])
    }

    #[test]
    fn flags_win_over_annotations() {
        let all = Selection::default();
        let ignoring = Selection { ignore: vec!["web".into()], ..Selection::default() };
        let by_name = Selection { wait_for: vec!["web".into()], ..Selection::default() };
        let others = Selection { wait_for: vec!["db".into()], ..Selection::default() };
        let required = |annotation| {
            [&all, &ignoring, &by_name, &others].map(|selection| requirement(annotation, selection))
        };
        let (ready, alive, none) = (Requirement::Ready, Requirement::Alive, Requirement::None);
        assert_eq!(required("ignore: 'true'"), [none, none, ready, none]);
        assert_eq!(required("ignore: 'false'"), [ready, none, ready, none]);
        assert_eq!(required("ready: http://localhost:1/"), [alive, none, alive, none]);
        assert_eq!(required("ready: http://example.com/"), [ready, none, ready, none], "malformed");
    }
}
