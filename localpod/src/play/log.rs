//! The events of a play, and a way to wait for one.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::event::{Event, What};
use crate::sync::lock;

/// Called with every event, in their order.
pub type OnEvent = Arc<dyn Fn(&Event) + Send + Sync>;

pub(super) struct Log {
    begun: Instant,
    events: Mutex<Vec<Event>>,
    changed: Condvar,
    observer: Option<OnEvent>,
    /// Held from the writing of an event until it was observed: the observer sees the log's order, and may read it.
    order: Mutex<()>,
}

impl Log {
    pub(super) fn new(observer: Option<OnEvent>) -> Log {
        Log {
            begun: Instant::now(),
            events: Mutex::default(),
            changed: Condvar::new(),
            observer,
            order: Mutex::new(()),
        }
    }

    pub(super) fn write(&self, pod: &str, what: What) {
        let _order = lock(&self.order);
        let event = Event { elapsed: self.begun.elapsed(), pod: pod.to_owned(), what };
        lock(&self.events).push(event.clone());
        self.changed.notify_all();
        if let Some(observer) = &self.observer {
            observer(&event);
        }
    }

    pub(super) fn events(&self) -> Vec<Event> {
        lock(&self.events).clone()
    }

    /// Blocks until some event, past or coming, fits; `None` when the time is over.
    pub(super) fn wait_for(&self, timeout: Duration, mut fits: impl FnMut(&Event) -> bool) -> Option<Event> {
        let deadline = Instant::now() + timeout;
        let mut seen = 0;
        let mut events = lock(&self.events);
        loop {
            if let Some(event) = events[seen..].iter().find(|event| fits(event)) {
                return Some(event.clone());
            }
            seen = events.len();
            let left = deadline.checked_duration_since(Instant::now())?;
            events = self.changed.wait_timeout(events, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
