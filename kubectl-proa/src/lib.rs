//! kubectl-proa: finds Pods that hang or lose their network because of a sidecar, and says what to change.
//!
//! ```text
//! arguments -> input -> documents -> workloads and rights -> findings or proposals -> report
//! ```
//!
//! What proa would do in a Pod is asked of proa's own library: the same table of sidecars, command line and warnings.

pub mod check;
pub mod cli;
pub mod document;
pub mod entrypoint;
pub mod finding;
pub mod input;
pub mod plan;
pub mod report;
pub mod rules;
pub mod seen;
pub mod workload;
