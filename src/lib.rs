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
//! - [`known`] says what is true of well-known sidecars: how each is recognised, asked and ended.
//! - [`status`] tells what the phases do, over HTTP, while they do it.
//! - [`sidecar`] is the same for the other containers, [`install`] for images without proa; [`peer`] is how the
//!   proas of one Pod hear of one another.
//! - [`exit`] turns how it ended into an exit code and a termination message; [`report`] delivers them.
//!
//! Decisions are pure functions over snapshots and return a reason; the loops around them apply it.
//! Signals are blocked before `main` and read from one place ([`signal::stream`]), so that none is lost.
//! Each phase runs on a single thread, on a runtime that ends with it.

pub mod causes;
pub mod child;
pub mod cli;
pub mod cluster;
pub mod deadline;
pub mod endpoint;
pub mod env_file;
pub mod exit;
pub mod gate;
pub mod http;
pub mod identity;
pub mod known;
pub mod mode;
pub mod peer;
pub mod plan;
pub mod pod;
pub mod policy;
pub mod report;
pub mod shutdown;
pub mod signal;
pub mod status;
pub mod tcp;
pub mod telemetry;
