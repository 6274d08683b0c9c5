//! Failures on request: what a client must live through.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;

use crate::sync::lock;

/// Something that goes wrong with a connection or a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection is accepted and at once reset.
    Reset,
    /// The connection is accepted, and the TLS handshake never answered.
    StallHandshake,
    /// The connection is accepted, and the TLS handshake refused: the server speaks HTTP/2 alone, and wants it negotiated (ALPN).
    InsistsOnHttp2,
    /// A request is answered in HTTP/2, whatever it was asked in: settings, and `GOAWAY`.
    GoAway,
    /// A request for initial events is turned away with this status, as by a server that does not know the option.
    WithoutInitialEvents(u16),
    /// A request is answered with headers and then silence.
    StallAfterHeaders,
    /// A watch that asks for the state as of now is answered with headers and then silence, as by an API server whose store is
    /// away; one that takes the cache's is not.
    StallConsistent,
    /// A watch is answered with headers, and its first event comes after this long.
    LateEvents(Duration),
    /// A request is answered with a line that never ends.
    Endless,
    /// A request is answered with 200 and this text, as something may that is no API server.
    Answer(&'static str),
    /// A request is answered with 200 and then one byte a second, without end.
    Trickle,
    /// A request is answered with this status and a page of HTML, as by a proxy in between.
    Page(u16),
    /// A request is answered only after this long.
    Delay(Duration),
    /// A request is answered with this status and its `Status` object.
    Status(u16),
    /// A request is answered with this status, a `Retry-After` header and a line of text, without the `Status` object that
    /// would repeat it: as API priority and fairness turns requests away.
    Throttle {
        /// The status.
        code: u16,
        /// Seconds.
        retry_after: u32,
    },
}

impl Fault {
    fn strikes(self, point: Point) -> bool {
        point
            == match self {
                Fault::Reset | Fault::StallHandshake | Fault::InsistsOnHttp2 | Fault::GoAway => Point::Accept,
                Fault::WithoutInitialEvents(_) => Point::InitialEvents,
                _ => Point::Request,
            }
    }
}

/// Where a fault can strike.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Point {
    Accept,
    Request,
    /// A request that wants initial events.
    InitialEvents,
}

/// The faults in force and the conditions that last.
#[derive(Debug)]
pub(super) struct Faults {
    active: Mutex<Active>,
    /// How many hold the server's ear shut: connections are refused while any does.
    pub(super) refusing: watch::Sender<usize>,
    /// How many hold the watches silent.
    pub(super) stalling: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct Active {
    next_id: u64,
    faults: Vec<Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    id: u64,
    fault: Fault,
    /// Strikes left; `None` is until cleared.
    left: Option<usize>,
}

impl Faults {
    pub(super) fn new() -> Faults {
        Faults { active: Mutex::default(), refusing: watch::Sender::new(0), stalling: watch::Sender::new(0) }
    }

    pub(super) fn add(&self, fault: Fault, times: Option<usize>) -> u64 {
        let mut active = lock(&self.active);
        let id = active.next_id;
        active.next_id += 1;
        active.faults.push(Entry { id, fault, left: times });
        id
    }

    fn clear(&self, id: u64) {
        lock(&self.active).faults.retain(|entry| entry.id != id);
    }

    /// The faults that strike now, oldest first, each counted; none after one that already settles the answer.
    pub(super) fn strike(&self, point: Point) -> Vec<Fault> {
        let mut active = lock(&self.active);
        let mut struck = Vec::new();
        for entry in &mut active.faults {
            if !entry.fault.strikes(point) || entry.left == Some(0) {
                continue;
            }
            if let Some(left) = &mut entry.left {
                *left -= 1;
            }
            struck.push(entry.fault);
            if !matches!(entry.fault, Fault::Delay(_) | Fault::StallConsistent | Fault::LateEvents(_)) {
                break;
            }
        }
        active.faults.retain(|entry| entry.left != Some(0));
        struck
    }
}

/// Keeps a fault in force until it is dropped.
#[must_use = "the fault is cleared when this is dropped"]
pub struct FaultGuard {
    faults: Arc<Faults>,
    held: Held,
    /// Runs once the condition is lifted: waits until the server has acted on it.
    settle: Option<Box<dyn FnOnce() + Send>>,
}

pub(super) enum Held {
    Fault(u64),
    Refusing,
    Stalling,
}

impl FaultGuard {
    pub(super) fn new(faults: &Arc<Faults>, held: Held) -> FaultGuard {
        match held {
            Held::Fault(_) => {}
            Held::Refusing => faults.refusing.send_modify(|holders| *holders += 1),
            Held::Stalling => faults.stalling.send_modify(|holders| *holders += 1),
        }
        FaultGuard { faults: Arc::clone(faults), held, settle: None }
    }

    pub(super) fn settling(mut self, settle: impl FnOnce() + Send + 'static) -> FaultGuard {
        self.settle = Some(Box::new(settle));
        self
    }

    /// Ends the fault.
    pub fn clear(self) {
        drop(self);
    }
}

impl Drop for FaultGuard {
    fn drop(&mut self) {
        match self.held {
            Held::Fault(id) => self.faults.clear(id),
            Held::Refusing => self.faults.refusing.send_modify(|holders| *holders -= 1),
            Held::Stalling => self.faults.stalling.send_modify(|holders| *holders -= 1),
        }
        if let Some(settle) = self.settle.take() {
            settle();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counted_fault_strikes_that_often() {
        let faults = Faults::new();
        faults.add(Fault::Status(500), Some(2));
        assert_eq!(faults.strike(Point::Request), [Fault::Status(500)]);
        assert!(faults.strike(Point::Accept).is_empty());
        assert_eq!(faults.strike(Point::Request), [Fault::Status(500)]);
        assert!(faults.strike(Point::Request).is_empty());
    }

    #[test]
    fn a_delay_goes_together_with_the_fault_behind_it() {
        let faults = Faults::new();
        let delay = Fault::Delay(Duration::from_millis(1));
        faults.add(delay, None);
        faults.add(Fault::Status(503), Some(1));
        faults.add(Fault::Status(429), Some(1));
        assert_eq!(faults.strike(Point::Request), [delay, Fault::Status(503)]);
        assert_eq!(faults.strike(Point::Request), [delay, Fault::Status(429)]);
    }

    #[test]
    fn dropping_the_guard_clears_the_fault() {
        let faults = Arc::new(Faults::new());
        let guard = FaultGuard::new(&faults, Held::Fault(faults.add(Fault::Reset, None)));
        assert_eq!(faults.strike(Point::Accept), [Fault::Reset]);
        guard.clear();
        assert!(faults.strike(Point::Accept).is_empty());
    }
}
