//! proa: the entrypoint of a Kubernetes container that runs beside sidecars.
//!
//! # Theory of operation
//!
//! Data goes one way:
//!
//! ```text
//! Cli + environment -> Plan -> Identity -> gate -> command -> shutdown -> drain -> exit code
//! ```
//!
//! - [`cli`] says what was asked, [`plan`] what will happen; after it nothing is left to validate.
//! - [`identity`] says which Pod and container this is, before anybody is asked.
//! - [`cluster`] turns the API server into a stream of [`pod::Snapshot`]s.
//! - [`gate`] lets the command through once [`gate::verdict`] says so.
//! - [`child`] runs the command: from its start on, proa's outcome is the command's.
//! - [`shutdown`] ends the sidecars and waits for them.
//! - [`exit`] turns how it ended into an exit code and a termination message; [`report`] delivers them.
//!
//! Decisions are pure functions over snapshots and return a reason; the loops around them apply it.
//! Signals are blocked before `main` and read from one place ([`signal::stream`]), so that none is lost.
//! Each phase runs on a single thread, on a runtime that ends with it.

pub mod causes;
pub mod child;
pub mod cli;
pub mod cluster;
pub mod exit;
pub mod gate;
pub mod identity;
pub mod plan;
pub mod pod;
pub mod policy;
pub mod report;
pub mod run;
pub mod shutdown;
pub mod signal;
pub mod telemetry;
