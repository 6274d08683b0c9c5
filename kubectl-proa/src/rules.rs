//! What is looked for. Each rule has a section in docs/check.md, and a good and a bad manifest in tests/rules.

use crate::finding::Severity;

/// One thing that is looked for.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name.
    pub name: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, in a few words.
    pub summary: &'static str,
}

impl Rule {
    /// Where it is explained.
    #[must_use]
    pub fn page(&self) -> String {
        format!("https://github.com/IronCoreLabs/proa/blob/main/docs/check.md#{}", self.name)
    }
}

macro_rules! rules {
    ($($id:ident $name:literal $severity:ident $summary:literal;)*) => {
        $(
            #[doc = $summary]
            pub static $id: Rule = Rule { name: $name, severity: Severity::$severity, summary: $summary };
        )*
        /// All of them.
        pub static RULES: &[&Rule] = &[$(&$id),*];
    };
}

rules! {
    SIDECAR_RUNS_ON "sidecar-runs-on" Error "nothing shuts a sidecar down, so the Pod never completes";
    QUIT_ENDPOINT_OFF "quit-endpoint-off" Error "a sidecar's quit endpoint is switched off";
    SIDECAR_UNPROBED "sidecar-unprobed" Warning "a sidecar has no readinessProbe, so ready means running";
    NATIVE_SIDECAR_NOT_AWAITED "native-sidecar-not-awaited" Warning "the main container starts before a native sidecar is ready";
    PROBE_DURING_WAIT "probe-during-wait" Warning "the main container's own probe restarts it while proa waits";
    HOOK_DRAINS_EARLY "hook-drains-early" Warning "a preStop hook ends a native sidecar while the main container still works";
    RETRY_WITHOUT_SIDECAR "retry-without-sidecar" Warning "after a failure the main container is started again without its sidecar";
    GRACE_PERIOD_TOO_SHORT "grace-period-too-short" Warning "the kubelet kills before the time that something is given";
    POD_NAME_UNKNOWN "pod-name-unknown" Error "the hostname is not the Pod's name, and nothing else tells proa";
    ROLE_MISSING "role-missing" Warning "no Role here allows proa to watch its Pod";
    ROLE_TOO_WIDE "role-too-wide" Note "a Role that is there for proa allows more than proa needs";
    KILL_NOT_SHARED "kill-not-shared" Error "a signal to another container, without a shared process namespace";
    BINARY_NOT_EXECUTABLE "binary-not-executable" Error "proa stands in a volume from which nothing can be executed, or installed to";
    COMMAND_LINE "command-line" Error "proa does not understand its flags or variables";
    UNKNOWN_VARIABLE "unknown-variable" Warning "a PROA_ variable that no flag has";
    NO_SUCH_CONTAINER "no-such-container" Error "a flag names a container that the Pod does not have";
    ANNOTATION_MALFORMED "annotation-malformed" Error "an annotation for proa that says nothing usable";
    OUT_OF_PLACE "out-of-place" Error "proa sidecar or proa wait in a container where it cannot do its work";
    RESTART_RULE_NEVER_MATCHES "restart-rule-never-matches" Warning "a restart rule that no exit code can match";
}
