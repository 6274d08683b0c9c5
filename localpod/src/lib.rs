//! A stand-in for Kubernetes: plays a Pod or Job manifest as processes of this machine.
//!
//! [`Cluster`] is an API server that speaks the real protocol over TLS and knows nothing but Pods. [`Play`] puts a
//! [`Manifest`]'s Pod on one, runs each container's command as a process tree of its own, and keeps the Pod's status as the
//! kubelet would. What happens meanwhile is told as [`Event`]s, which a [`timeline::Timeline`] makes readable.
//!
//! Both block, and bring a runtime of their own, so that a plain test can use them:
//!
//! ```no_run
//! use std::time::Duration;
//! use localpod::{Manifest, Options, Play};
//!
//! let manifest = Manifest::parse(
//!     "{ kind: Pod, metadata: { name: web }, spec: { restartPolicy: Never, containers: [{ name: main, command: ['true'] }] } }",
//! )?;
//! let play = Play::start(manifest, Options::default())?;
//! let outcome = play.wait(Duration::from_secs(10)).expect("an end");
//! assert!(outcome.is_success());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What it does as Kubernetes does, and what it leaves out, is in the README beside this crate.
//!
//! A play is one way: a manifest is checked and refused as a whole before anything starts; then a worker asks a pure
//! function over the containers' states what follows, does it, and waits for the next message, be it the end of a process, a
//! probe's verdict or a deletion. Processes are followed by threads, everything else by tasks.

pub mod cluster;
pub mod event;
pub mod manifest;
pub mod play;
mod random;
mod scratch;
mod sync;
pub mod timeline;

pub use cluster::Cluster;
pub use event::{Event, What};
pub use manifest::{Manifest, ManifestError};
pub use play::{Options, Outcome, Play};
