//! Log lines: to stderr, as text or JSON.

use std::env;
use std::io;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt};

use crate::policy::LogFormat;

/// Sets up logging. `RUST_LOG` says what is logged, in the form `info` or `proa=debug,kube=trace`; what
/// is logged by default are proa's own lines from `info` up.
pub fn set_up(format: LogFormat) {
    let filter = env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
    let asked = filter.as_deref().map(str::parse::<Targets>);
    let by_default = || Targets::new().with_target("proa", LevelFilter::INFO);
    let targets = match &asked {
        Some(Ok(targets)) => targets.clone(),
        Some(Err(_)) | None => by_default(),
    };
    let layer = fmt::layer().with_writer(io::stderr).with_target(false);
    let layer = match format {
        LogFormat::Text => layer.with_ansi(false).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_current_span(false).boxed(),
    };
    // Fails only where a subscriber is set already, and nobody else sets one.
    let _ = Registry::default().with(layer.with_filter(targets)).try_init();
    if let Some(Err(error)) = asked {
        tracing::warn!("RUST_LOG is not understood ({error}); expected info, or proa=debug,kube=trace");
    }
}
