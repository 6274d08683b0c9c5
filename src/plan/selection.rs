//! Which containers are meant: what the gate wants of each sidecar.

use crate::known::Readiness;
use crate::pod::Sidecar;

/// Which sidecars the gate looks at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// These only; all where it is empty.
    pub wait_for: Vec<String>,
    /// Not these.
    pub ignore: Vec<String>,
    /// These are main containers, no sidecars.
    pub mains: Vec<String>,
}

/// What the gate wants of a sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requirement {
    /// That Kubernetes calls it ready.
    Ready,
    /// That it has not ended for good: Kubernetes would call it ready too late.
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
        if in_list(&self.ignore) {
            Requirement::None
        } else if in_list(&self.wait_for) {
            Requirement::Ready
        } else if !self.wait_for.is_empty() {
            Requirement::None
        } else if readiness == Some(Readiness::AfterApplication) {
            Requirement::Alive
        } else {
            Requirement::Ready
        }
    }
}
