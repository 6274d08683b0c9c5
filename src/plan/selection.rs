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
}

/// What the gate wants of a sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Care {
    /// That Kubernetes calls it ready.
    Ready,
    /// That it has not ended for good: Kubernetes would call it ready too late.
    Alive,
    /// Nothing.
    Nothing,
}

impl Selection {
    /// What is wanted of this sidecar.
    #[must_use]
    pub fn care(&self, sidecar: &Sidecar) -> Care {
        let in_list = |list: &[String]| list.contains(&sidecar.name);
        let readiness = sidecar.known.as_ref().map(|recognised| recognised.readiness);
        if in_list(&self.ignore) {
            Care::Nothing
        } else if in_list(&self.wait_for) {
            Care::Ready
        } else if !self.wait_for.is_empty() {
            Care::Nothing
        } else if readiness == Some(Readiness::AfterApplication) {
            Care::Alive
        } else {
            Care::Ready
        }
    }
}
