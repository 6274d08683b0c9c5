//! proa: the entrypoint of a Kubernetes container that runs beside sidecars.
//!
//! # Theory of operation
//!
//! Data goes one way:
//!
//! ```text
//! Cli + environment -> Plan -> who am I -> gate -> command -> shutdown -> drain -> exit code
//! ```
//!
//! - [`cli`] says what was asked, [`plan`] what will happen; after it nothing is left to validate. Of a command line that makes
//!   no plan [`cli::readable`] says what can be read, and [`mode::wrap::mistake`] shuts the sidecars down.
//! - [`mode`] has a room for each thing that proa can be: [`mode::wrap`] for `proa -- COMMAND`, [`mode::sidecar`] for
//!   `proa sidecar -- COMMAND`, [`mode::helper`] for `proa sidecar`, [`mode::wait`] for `proa wait`, [`mode::quit`] for `proa quit`, [`mode::install`]. They put the phases together.
//! - [`identity`] says which Pod and container this is, before anybody is asked.
//! - [`cluster`] turns the API server into a stream of [`pod::Snapshot`]s; [`cluster::trouble`] says what each thing means that
//!   can stand in the way.
//! - [`gate`] lets the command through once [`gate::verdict`] says so; [`env_file`] reads what the sidecars have left for it.
//! - [`child`] runs the command: from its start on, proa's outcome is the command's.
//! - [`shutdown`] looks at the Pod once more, ends the sidecars and waits for them: [`shutdown::stages`] decides how,
//!   [`shutdown::awaited`] whose exit is waited for and how it shows. With several main containers [`mod@shutdown::turn`] decides
//!   whose turn it is: the last one's.
//! - [`crash`] has proa start over after a bug of its own, and [`mode::wrap::resumed`] bring to an end what had begun.
//! - [`exit`] turns how it ended into an exit code and a termination message; [`report`] delivers them.
//! - [`warnings`] says as soon as the Pod is seen what will go wrong later.
//!
//! What all of them share: [`deadline`] has the one clock; [`budget`] reckons how long anything at a container's end may take, and nothing else does;
//! [`pod`] says what is true of the Pod, [`pod::mains`] of its main containers, [`pod::annotations`] what it says of its sidecars
//! itself, [`pod::run`] whether what is seen is of this run at all; [`known`] what is true of well-known sidecars; [`peer`] is how
//! the proas of one Pod know of one another; [`signal`] has every signal from the first instruction on; [`status`] shows over
//! HTTP what the phases do.
//!
//! # Who may know of whom
//!
//! Imports point down: `main` → `mode` → phases (`gate`, `env_file`, `child`, `shutdown`) → tools (`cluster`, `identity`, `peer`,
//! `http`, `tcp`, `transport`, `signal::stream`, ...) → pure rooms. Decisions are pure functions over snapshots and return a reason; the
//! loops around them apply it. Nothing pure touches a clock, files, the network or a runtime, or imports a phase or a mode;
//! phases do not import one another, nor do modes. [`plan`] and [`exit`] are the flow's two ends: they put together the
//! phases' inputs, and name their failures, and only modes know of them. `tests/it/house.rs` holds this.
//!
//! Signals are blocked before `main` and read from one place ([`signal::stream`]), so that none is lost.
//! Each phase runs on a single thread, on a runtime that ends with it.

pub mod budget;
pub mod causes;
pub mod child;
pub mod cli;
pub mod cluster;
pub mod crash;
pub mod crowd;
pub mod deadline;
pub mod endpoint;
pub mod env_file;
pub mod exit;
pub mod gate;
pub mod http;
pub mod identity;
pub mod known;
pub mod memory;
pub mod mode;
pub mod peer;
pub mod plan;
pub mod pod;
pub mod policy;
pub mod procfs;
pub mod report;
pub mod shortage;
pub mod shutdown;
pub mod signal;
pub mod status;
pub mod tcp;
pub mod telemetry;
pub mod thread;
pub mod transport;
pub mod warnings;
