//! What proa promises, tried on the real binary: real processes, signals, HTTP and TLS, against localpod's
//! Kubernetes API. A module is a promise; a test synchronises on what it can see, never on time.
//!
//! The library is not linked here on purpose: it blocks signals before `main`, as proa needs it.

mod support;

mod again;
mod annotations;
mod bad_input;
mod demo;
mod dependencies;
mod direct;
mod docs;
mod drain;
mod env_file;
mod exit_codes;
#[path = "../filter.rs"]
mod filter;
mod gate;
mod guard;
mod hardening;
mod help;
mod house;
mod identity;
mod kill;
mod known;
mod log;
mod mains;
mod matrix;
mod mistakes;
mod order;
mod quit;
mod security;
mod shortage;
mod shutdown;
mod sidecar;
mod signals;
mod status;
mod terminal;
mod time;
mod trouble;
mod truth;
mod wait;
mod warnings;
mod watch;
mod zombies;
