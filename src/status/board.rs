//! What the phases tell of themselves while they run. Read by the status endpoint alone.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::deadline::{elapsed, now};

/// What proa is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for the sidecars.
    Waiting,
    /// Running the command.
    Running,
    /// Serving main containers that proa is not in, which may start.
    Helping,
    /// The command is over, or never came.
    Ending,
}

/// What came of an action that ends sidecars.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ActionResult {
    /// The order was taken.
    Accepted,
    /// It was not.
    Failed,
}

/// A stretch of time that has begun, and perhaps ended.
#[derive(Debug, Clone, Copy)]
struct Span {
    begun: Instant,
    lasted: Option<Duration>,
}

impl Span {
    fn now() -> Self {
        Self { begun: now(), lasted: None }
    }

    fn end(&mut self) {
        self.lasted.get_or_insert_with(|| elapsed(self.begun));
    }

    fn length(&self) -> Duration {
        self.lasted.unwrap_or_else(|| elapsed(self.begun))
    }
}

/// What has happened so far. proa has one thread, so that the phases and the endpoint can share it.
#[derive(Debug)]
pub struct Board {
    gate: Cell<Span>,
    command: Cell<Option<Span>>,
    helping: Cell<bool>,
    drain: Cell<Option<Span>>,
    sidecars: RefCell<BTreeMap<String, Duration>>,
    direct: RefCell<BTreeMap<String, Duration>>,
    actions: RefCell<BTreeMap<(String, ActionResult), u64>>,
}

impl Default for Board {
    fn default() -> Self {
        Self {
            gate: Cell::new(Span::now()),
            command: Cell::new(None),
            helping: Cell::new(false),
            drain: Cell::new(None),
            sidecars: RefCell::default(),
            direct: RefCell::default(),
            actions: RefCell::default(),
        }
    }
}

impl Board {
    /// A sidecar is ready.
    pub fn sidecar_ready(&self, name: &str) {
        self.first(&self.sidecars, name);
    }

    /// A direct wait holds.
    pub fn direct_wait_holds(&self, name: &str) {
        self.first(&self.direct, name);
    }

    fn first(&self, times: &RefCell<BTreeMap<String, Duration>>, name: &str) {
        let mut times = times.borrow_mut();
        if !times.contains_key(name) {
            times.insert(name.to_owned(), self.gate.get().length());
        }
    }

    /// The wait is over, however it ended.
    pub fn gate_over(&self) {
        let mut gate = self.gate.get();
        gate.end();
        self.gate.set(gate);
    }

    /// The command was started.
    pub fn command_started(&self) {
        self.command.set(Some(Span::now()));
    }

    /// The command has ended.
    pub fn command_ended(&self) {
        end(&self.command);
    }

    /// The main containers may start, or have ended.
    pub fn helping(&self, helping: bool) {
        self.helping.set(helping);
    }

    /// An action was carried out.
    pub fn action(&self, action: String, taken: ActionResult) {
        *self.actions.borrow_mut().entry((action, taken)).or_default() += 1;
    }

    /// The wait for the sidecars' exit begins, unless it has.
    pub fn drain_begins(&self) {
        self.drain.set(self.drain.get().or_else(|| Some(Span::now())));
    }

    /// The wait for the sidecars' exit is over.
    pub fn drain_ends(&self) {
        end(&self.drain);
    }

    /// What proa is doing.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match (self.gate.get().lasted, self.command.get()) {
            (_, Some(Span { lasted: None, .. })) => Phase::Running,
            _ if self.helping.get() => Phase::Helping,
            (Some(_), _) | (_, Some(_)) => Phase::Ending,
            (None, None) => Phase::Waiting,
        }
    }

    pub(super) fn gate_wait(&self) -> Duration {
        self.gate.get().length()
    }

    pub(super) fn command_duration(&self) -> Option<Duration> {
        self.command.get().map(|span| span.length())
    }

    pub(super) fn drain_duration(&self) -> Option<Duration> {
        self.drain.get().map(|span| span.length())
    }

    pub(super) fn sidecar_waits(&self) -> BTreeMap<String, Duration> {
        self.sidecars.borrow().clone()
    }

    pub(super) fn direct_waits(&self) -> BTreeMap<String, Duration> {
        self.direct.borrow().clone()
    }

    pub(super) fn actions(&self) -> BTreeMap<(String, ActionResult), u64> {
        self.actions.borrow().clone()
    }
}

fn end(span: &Cell<Option<Span>>) {
    if let Some(mut running) = span.get() {
        running.end();
        span.set(Some(running));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_follow_what_is_told() {
        let board = Board::default();
        assert_eq!(board.phase(), Phase::Waiting);
        board.gate_over();
        assert_eq!(board.phase(), Phase::Ending, "a gate that stayed shut");
        board.command_started();
        assert_eq!(board.phase(), Phase::Running);
        board.command_ended();
        assert_eq!(board.phase(), Phase::Ending);
    }

    #[test]
    fn what_is_over_no_longer_grows() {
        let board = Board::default();
        board.sidecar_ready("web");
        board.gate_over();
        let first = (board.gate_wait(), board.sidecar_waits());
        board.sidecar_ready("web");
        board.gate_over();
        assert_eq!((board.gate_wait(), board.sidecar_waits()), first);
    }
}
