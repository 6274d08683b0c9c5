//! Localpod's promises, kept over real TLS and with real processes.

mod client;
mod faults;
mod player;
mod protocol;
mod puppet;
