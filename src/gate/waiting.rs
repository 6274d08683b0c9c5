//! What the gate waits for, in words.

use std::fmt;

use super::verdict::Unready;
use crate::cluster::trouble::Trouble;

/// What the gate waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// What the API server is to tell.
    pub pod: PodWait,
    /// Direct waits that do not hold.
    pub direct: Vec<Unready>,
}

/// What the API server is to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodWait {
    /// Nothing more: every selected sidecar is ready, or nobody is asked.
    Nothing,
    /// Anything at all.
    FirstAnswer,
    /// That these are ready.
    Sidecars(Vec<Unready>),
    /// This container's present run, in the status that it shows so far for an earlier one.
    PresentRun(String),
    /// It cannot be asked.
    Api(Trouble),
}

impl Waiting {
    /// Whether there is nothing left to wait for.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.pod == PodWait::Nothing && self.direct.is_empty()
    }

    /// Whether the same is waited for, if perhaps for another reason that will pass: a mesh proxy that is not up
    /// yet refuses dozens of connections, as it should.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        let out_of_reach = |pod: &PodWait| matches!(pod, PodWait::Api(trouble) if trouble.is_passing());
        let names =
            |waiting: &Self| -> Vec<_> { waiting.direct.iter().map(|wait| wait.name.clone()).collect() };
        let same_pod = self.pod == other.pod || (out_of_reach(&self.pod) && out_of_reach(&other.pod));
        same_pod && names(self) == names(other)
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list =
            |unready: &[Unready]| unready.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let pod = match &self.pod {
            PodWait::Nothing => None,
            PodWait::FirstAnswer => Some("the API server's first answer".to_owned()),
            PodWait::Sidecars(unready) => Some(list(unready)),
            PodWait::PresentRun(own) => {
                Some(format!("the Pod's status to show this run of container `{own}`, not an earlier one"))
            }
            PodWait::Api(Trouble::NoConnection(why)) => {
                Some(format!("the API server (it cannot be reached: {why})"))
            }
            PodWait::Api(trouble) => Some(format!("the API server ({trouble})")),
        };
        let direct = Some(list(&self.direct)).filter(|text| !text.is_empty());
        let parts: Vec<_> = direct.into_iter().chain(pod).collect();
        f.write_str(&parts.join(", "))
    }
}
