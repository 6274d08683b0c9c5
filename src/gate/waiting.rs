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

impl PodWait {
    /// Whether the API server denies us the Pod.
    #[must_use]
    pub fn is_denial(&self) -> bool {
        matches!(self, Self::Api(trouble) if trouble.is_denial())
    }
}

impl Waiting {
    /// Whether there is nothing left to wait for.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.pod == PodWait::Nothing && self.direct.is_empty()
    }

    fn pod_text(&self) -> Option<String> {
        match &self.pod {
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
        }
    }

    /// Without reasons that are long: they were said before.
    #[must_use]
    pub fn in_short(&self) -> String {
        const LONG: usize = 60;
        let short = |unready: &Unready| {
            if unready.why.len() > LONG { unready.name.clone() } else { unready.to_string() }
        };
        let direct = self.direct.iter().map(short);
        let pod = match &self.pod {
            PodWait::Sidecars(unready) => unready.iter().map(short).collect(),
            PodWait::Api(trouble) if trouble.to_string().len() > LONG => vec!["the API server".to_owned()],
            _ => Vec::from_iter(self.pod_text()),
        };
        direct.chain(pod).collect::<Vec<_>>().join(", ")
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

fn list(unready: &[Unready]) -> String {
    unready.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direct = Some(list(&self.direct)).filter(|text| !text.is_empty());
        let parts: Vec<_> = direct.into_iter().chain(self.pod_text()).collect();
        f.write_str(&parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_reason_is_said_once() {
        let denied = "403 Forbidden: pods \"job\" is forbidden: User cannot watch resource \"pods\" in namespace \"jobs\"";
        let api = Waiting { pod: PodWait::Api(Trouble::Unauthorized(denied.into())), direct: Vec::new() };
        assert_eq!(api.in_short(), "the API server");
        let unready = |name: &str, why: &str| Unready { name: name.into(), why: why.into() };
        let sidecars = vec![unready("web", "ImagePullBackOff")];
        let direct = vec![unready("http://localhost:1/", denied), unready("tcp", "refused")];
        let waiting = Waiting { pod: PodWait::Sidecars(sidecars), direct };
        assert_eq!(waiting.in_short(), "http://localhost:1/, tcp (refused), web (ImagePullBackOff)");
    }
}
