//! What docs/security.md says: of secrets, of what the command inherits, of whom proa talks to, and of who may end what.

mod inherited;
mod neighbours;
mod secrets;
mod servers;
