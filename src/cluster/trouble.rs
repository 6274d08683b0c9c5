//! What can stand in the way of seeing the Pod, and what each kind of it means: one meaning, for every phase.

use std::fmt;
use std::time::{Duration, Instant};

use crate::pod::Unreadable;

/// What stands in the way of seeing the Pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// No connection, or no answer in time. What a proxy that carries our traffic leaves behind when it is gone.
    NoConnection(String),
    /// The service account's files cannot be read just now, as when the kubelet replaces them.
    Account(String),
    /// Somebody answers who is not this cluster's API server, or cannot prove it.
    Tls(String),
    /// The API server asks for less (429), and says perhaps how much later.
    Throttled(String, Option<Duration>),
    /// The API server fails (5xx), or what it says makes no sense; and how much later to ask again, perhaps.
    ServerError(String, Option<Duration>),
    /// The API server does not know the token (401).
    Unauthorized(String),
    /// RBAC does not allow it (403).
    Forbidden {
        /// What is not allowed.
        verb: Verb,
        /// The namespace.
        namespace: String,
        /// The API server's own text.
        message: String,
    },
    /// The namespace has no such Pod.
    NoSuchPod(String),
    /// The Pod of that name is not the one this container belongs to.
    OtherPod {
        /// `namespace/name`.
        pod: String,
        /// The UID that the kubelet's mounts show.
        own: String,
        /// The UID of the Pod of that name.
        found: String,
    },
    /// The Pod does not show which container is ours.
    Unreadable(Unreadable),
}

/// What proa may need a right for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// To see the Pod.
    Watch,
    /// To find the Pod by its UID.
    List,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Watch => "watch",
            Self::List => "list",
        })
    }
}

impl Trouble {
    /// Whether the API server knows us not, or does not let us.
    #[must_use]
    pub fn is_denial(&self) -> bool {
        matches!(self, Self::Unauthorized(_) | Self::Forbidden { .. })
    }

    /// Whether the API server may be as well as ever, and something else keeps us from asking it: nothing but this is a sign
    /// that a proxy which carried our traffic is gone.
    #[must_use]
    pub fn is_no_connection(&self) -> bool {
        matches!(self, Self::NoConnection(_))
    }

    /// Whether it passes by itself, as far as we know: nobody has refused us anything.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::NoConnection(_)
            | Self::Account(_)
            | Self::Tls(_)
            | Self::Throttled(..)
            | Self::ServerError(..) => true,
            Self::Unauthorized(_)
            | Self::Forbidden { .. }
            | Self::NoSuchPod(_)
            | Self::OtherPod { .. }
            | Self::Unreadable(_) => false,
        }
    }

    /// How much later the API server wants to be asked again.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Throttled(_, after) | Self::ServerError(_, after) => *after,
            _ => None,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoConnection(why) => write!(f, "the API server cannot be reached: {why}"),
            Self::Account(why) => write!(f, "{why}"),
            Self::Tls(why) => write!(
                f,
                "no secure connection to the API server: {why}; expected a certificate by an authority of ca.crt in \
                 --service-account-dir"
            ),
            Self::Throttled(why, _) => write!(f, "the API server is throttling requests: {why}"),
            Self::ServerError(why, _) => write!(f, "the API server failed: {why}"),
            Self::Unauthorized(why) => write!(
                f,
                "the API server does not accept the service account token ({why}); expected a token of this \
                 cluster in --service-account-dir"
            ),
            Self::Forbidden { verb, namespace, message } => {
                write!(
                    f,
                    "{message}; bind this Pod's service account to a Role in namespace `{namespace}` with the rule \
                     {{apiGroups: [\"\"], resources: [\"pods\"], verbs: [\"{verb}\"]}}"
                )?;
                if *verb == Verb::List {
                    write!(
                        f,
                        ", or set POD_NAME from metadata.name, since the hostname is not this Pod's name"
                    )?;
                }
                Ok(())
            }
            Self::NoSuchPod(pod) => write!(
                f,
                "there is no Pod `{pod}`; set --pod-name (POD_NAME) from metadata.name and --namespace \
                 (POD_NAMESPACE) from metadata.namespace"
            ),
            Self::OtherPod { pod, own, found } => write!(
                f,
                "the Pod `{pod}` has UID {found}, but this container belongs to the Pod with UID {own}; \
                 correct --pod-name (POD_NAME)"
            ),
            Self::Unreadable(why) => write!(f, "{why}"),
        }
    }
}

/// How long the API server may deny what we ask, or know no such Pod, before we believe it. A RoleBinding
/// created together with the Pod may come later than the Pod, a cache may lag, and an API server that has
/// just started knows no Roles yet.
const GRACE: Duration = Duration::from_secs(10);

/// How long it may deny us where we make do without it.
const DISPENSABLE: Duration = Duration::from_secs(2);

/// How long a refusal has lasted, and so whether it is for good.
#[derive(Debug, Default)]
pub struct Refused {
    pod_seen: bool,
    since: Option<Instant>,
}

impl Refused {
    /// The Pod was seen: nothing that we are refused from now on is for good, since we were allowed before.
    pub fn pod_seen(&mut self) {
        self.pod_seen = true;
        self.since = None;
    }

    /// Whether this stands in the way for good: refused for 10 seconds without a break where the Pod was never seen. A
    /// break is anything else, since what happened before it and after it may have different causes.
    pub fn is_final(&mut self, trouble: &Trouble, now: Instant) -> bool {
        matches!(trouble, Trouble::Unreadable(_)) || self.lasted(trouble, now) >= GRACE && !self.pod_seen
    }

    /// Whether it is enough to go on without the API server, where that is possible. A missing right to search for the
    /// Pod does not mean that we may not watch it, which goes on meanwhile.
    pub fn is_enough_to_go_without(&mut self, trouble: &Trouble, now: Instant) -> bool {
        let limit = match trouble {
            Trouble::Forbidden { verb: Verb::List, .. } => GRACE,
            _ => DISPENSABLE,
        };
        trouble.is_denial() && self.lasted(trouble, now) >= limit
    }

    fn lasted(&mut self, trouble: &Trouble, now: Instant) -> Duration {
        if trouble.is_passing() {
            self.since = None;
            return Duration::ZERO;
        }
        now.saturating_duration_since(*self.since.get_or_insert(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(verb: Verb) -> Trouble {
        Trouble::Forbidden { verb, namespace: "jobs".into(), message: "no".into() }
    }

    fn at(seconds: u64, start: Instant) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn a_denial_is_believed_after_a_while_without_a_break() {
        let start = Instant::now();
        let mut refused = Refused::default();
        let denial = denied(Verb::Watch);
        assert!(!refused.is_final(&denial, start));
        assert!(!refused.is_final(&denial, at(9, start)));
        assert!(refused.is_final(&denial, at(10, start)));
        assert!(refused.is_final(&Trouble::Unauthorized("x".into()), at(10, start)));
    }

    #[test]
    fn anything_else_in_between_starts_the_count_anew() {
        let start = Instant::now();
        for other in [
            Trouble::NoConnection("x".into()),
            Trouble::Throttled("x".into(), None),
            Trouble::ServerError("x".into(), None),
            Trouble::Tls("x".into()),
        ] {
            let mut refused = Refused::default();
            assert!(!refused.is_final(&denied(Verb::Watch), start));
            assert!(!refused.is_final(&other, at(11, start)), "{other}");
            assert!(!refused.is_final(&denied(Verb::Watch), at(12, start)), "{other}");
            assert!(refused.is_final(&denied(Verb::Watch), at(22, start)), "{other}");
        }
    }

    #[test]
    fn once_the_pod_was_seen_no_denial_is_for_good() {
        let start = Instant::now();
        let mut refused = Refused::default();
        refused.pod_seen();
        assert!(!refused.is_final(&denied(Verb::Watch), start));
        assert!(!refused.is_final(&denied(Verb::Watch), at(1_000_000, start)));
    }

    #[test]
    fn a_missing_right_to_list_is_no_denial_of_the_watch() {
        let start = Instant::now();
        let mut refused = Refused::default();
        for verb in [Verb::Watch, Verb::List] {
            assert!(!refused.is_enough_to_go_without(&denied(verb), start));
        }
        assert!(refused.is_enough_to_go_without(&denied(Verb::Watch), at(3, start)));
        assert!(!refused.is_enough_to_go_without(&denied(Verb::List), at(3, start)));
        assert!(refused.is_enough_to_go_without(&denied(Verb::List), at(11, start)));
        assert!(!refused.is_enough_to_go_without(&Trouble::NoSuchPod("x".into()), at(60, start)));
    }
}
