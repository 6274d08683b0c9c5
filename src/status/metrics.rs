//! The board in Prometheus's words: names, units and the OpenMetrics text format.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::board::{ActionResult, Board, Phase};

/// The format's media type.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = Vec<(&'static str, String)>;
type Seconds = Gauge<f64, AtomicU64>;

/// Every metric as it is now.
pub(super) fn encode(board: &Board) -> String {
    let mut registry = Registry::with_prefix("proa");
    let info = Family::<Labels, Gauge>::default();
    info.get_or_create(&vec![("version", env!("CARGO_PKG_VERSION").to_owned())]).set(1);
    registry.register("build_info", "proa's version", info);
    seconds(&mut registry, "gate_wait", "how long the command has waited, or had to wait", board.gate_wait());
    by_label(
        &mut registry,
        ("sidecar_wait", "how long until Kubernetes called a sidecar ready"),
        "container",
        board.sidecar_waits(),
    );
    by_label(
        &mut registry,
        ("direct_wait", "how long until a direct wait held"),
        "wait",
        board.direct_waits(),
    );
    let running = Gauge::<i64>::default();
    running.set((board.phase() == Phase::Running).into());
    registry.register("command_running", "whether the command runs", running);
    if let Some(duration) = board.command_duration() {
        seconds(&mut registry, "command_duration", "how long the command has run, or ran", duration);
    }
    registry.register("shutdown_actions", "actions to end sidecars, by what came of them", actions(board));
    if let Some(duration) = board.drain_duration() {
        let help = "how long the sidecars have taken, or took, to exit";
        seconds(&mut registry, "drain_duration", help, duration);
    }
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = text::encode(&mut text, &registry);
    text
}

fn actions(board: &Board) -> Family<Labels, Counter> {
    let actions = Family::<Labels, Counter>::default();
    for ((action, taken), count) in board.actions() {
        let result = match taken {
            ActionResult::Accepted => "accepted",
            ActionResult::Failed => "failed",
        };
        actions.get_or_create(&vec![("action", action), ("result", result.to_owned())]).inc_by(count);
    }
    actions
}

fn seconds(registry: &mut Registry, name: &str, help: &str, value: Duration) {
    let gauge = Seconds::default();
    gauge.set(value.as_secs_f64());
    registry.register_with_unit(name, help, Unit::Seconds, gauge);
}

fn by_label(
    registry: &mut Registry,
    (name, help): (&str, &str),
    label: &'static str,
    values: BTreeMap<String, Duration>,
) {
    let family = Family::<Labels, Seconds>::default();
    for (key, value) in values {
        family.get_or_create(&vec![(label, key)]).set(value.as_secs_f64());
    }
    registry.register_with_unit(name, help, Unit::Seconds, family);
}
