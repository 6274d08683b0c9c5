//! proa's decisions against a model of Kubernetes: random histories of Pods, and every interleaving of main containers that end.
//!
//! The functions are proa's own. What they decide is compared with a simulated kubelet, which is written from Kubernetes' rules and
//! shares no line with them. `PROPTEST_CASES` sets how many histories are tried, `PROPTEST_RNG_SEED` which: without it they are the
//! same in every run, so that a failure is of the change under test. A failure is printed as the shortest history that shows it, and
//! becomes a unit test beside the decision.

mod decisions;
mod kubelet;
mod mains;
mod signals;
mod world;

use proptest::test_runner::{Config, RngSeed};

/// So many histories, unless `PROPTEST_CASES` says otherwise.
fn config(cases: u32) -> Config {
    // Events that cannot happen are left out, however many there are of them.
    let mut config = Config {
        failure_persistence: None,
        max_shrink_iters: 50_000,
        max_local_rejects: u32::MAX,
        ..Config::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = cases;
    }
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(1);
    }
    config
}

/// Whether so many are asked for that what takes minutes is explored too.
fn is_long() -> bool {
    config(0).cases >= 10_000
}
