//! Whether an ended container is started again, and after how long.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ContainerRestartRule;

/// The restart policy that holds for one container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

impl RestartPolicy {
    pub(super) fn parse(text: &str) -> Option<RestartPolicy> {
        Some(match text {
            "Always" => RestartPolicy::Always,
            "OnFailure" => RestartPolicy::OnFailure,
            "Never" => RestartPolicy::Never,
            _ => return None,
        })
    }

    /// The first rule that fits the code decides; without one, the policy does.
    pub(super) fn restarts(self, rules: &[ContainerRestartRule], code: i32) -> bool {
        if rules.iter().any(|rule| fits(rule, code)) {
            // There is no other action than to restart.
            return true;
        }
        match self {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => code != 0,
            RestartPolicy::Never => false,
        }
    }
}

fn fits(rule: &ContainerRestartRule, code: i32) -> bool {
    rule.exit_codes.as_ref().is_some_and(|codes| {
        let listed = codes.values.iter().flatten().any(|value| *value == code);
        match codes.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        }
    })
}

/// The kubelet's delays between restarts: none before the first, then doubling up to a limit.
#[derive(Clone, Debug)]
pub(super) struct BackOff {
    base: Duration,
    /// The delay after the next exit, and when the one before it began.
    next: Option<(Duration, Instant)>,
}

/// The longest delay, in multiples of the first: 10 s up to 5 minutes.
const LIMIT: u32 = 30;

impl BackOff {
    pub(super) fn new(base: Duration) -> BackOff {
        BackOff { base, next: None }
    }

    /// How long to wait after an exit at `now`.
    pub(super) fn after_exit(&mut self, now: Instant) -> Duration {
        let limit = self.base * LIMIT;
        let delay = match self.next {
            // A container that then ran for twice the longest delay starts afresh.
            Some((delay, since)) if now.duration_since(since) <= limit * 2 => delay,
            _ => Duration::ZERO,
        };
        let following = if delay.is_zero() { self.base } else { (delay * 2).min(limit) };
        self.next = Some((following, now));
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ContainerRestartRuleOnExitCodes;

    fn rule(operator: &str, values: &[i32]) -> ContainerRestartRule {
        ContainerRestartRule {
            action: "Restart".to_owned(),
            exit_codes: Some(ContainerRestartRuleOnExitCodes {
                operator: operator.to_owned(),
                values: Some(values.to_vec()),
            }),
        }
    }

    #[test]
    fn the_policy_looks_at_the_exit_code() {
        let restarted = |policy: RestartPolicy| [0, 1].map(|code| policy.restarts(&[], code));
        assert_eq!(restarted(RestartPolicy::Always), [true, true]);
        assert_eq!(restarted(RestartPolicy::OnFailure), [false, true]);
        assert_eq!(restarted(RestartPolicy::Never), [false, false]);
    }

    #[test]
    fn a_rule_that_fits_overrules_the_policy() {
        let never = RestartPolicy::Never;
        assert!(never.restarts(&[rule("In", &[42])], 42));
        assert!(!never.restarts(&[rule("In", &[42])], 1));
        assert!(never.restarts(&[rule("NotIn", &[0])], 1));
        assert!(!never.restarts(&[rule("NotIn", &[0])], 0));
    }

    #[test]
    fn delays_double_from_ten_seconds_to_five_minutes_and_then_start_afresh() {
        let mut back_off = BackOff::new(Duration::from_secs(10));
        let start = Instant::now();
        let delays: Vec<u64> = (0..8).map(|_| back_off.after_exit(start).as_secs()).collect();
        assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(back_off.after_exit(start + Duration::from_secs(601)), Duration::ZERO);
    }
}
