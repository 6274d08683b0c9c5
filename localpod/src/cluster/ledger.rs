//! What happened at the server so far: requests, open connections, open watches.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;

use crate::sync::lock;

/// One answered request.
#[derive(Clone, Debug)]
pub struct Request {
    /// When its answer began.
    pub at: Instant,
    /// What the authorizer calls it: `get`, `list` or `watch`; for other methods than GET, the method in lower case.
    pub verb: String,
    /// The path without the query.
    pub path: String,
    /// The decoded query, in its order.
    pub query: Vec<(String, String)>,
    /// The `User-Agent` header.
    pub user_agent: Option<String>,
    /// The status of the answer.
    pub status: u16,
}

impl Request {
    /// The first value of a query parameter.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// A change in the watches, for the timeline.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum WatchNote {
    Opened,
    Ended,
}

type Observer = Box<dyn Fn(WatchNote) + Send + Sync>;

/// The counts and the log, and a way to wait for them to change.
#[derive(Default)]
pub(super) struct Ledger {
    state: Mutex<State>,
    changed: Condvar,
    observer: OnceLock<Observer>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) requests: Vec<Request>,
    /// The Pods that went out whole, by their resource versions, of which no two are the same.
    pub(super) served: BTreeMap<String, Arc<Pod>>,
    pub(super) connections: usize,
    pub(super) watches: usize,
    pub(super) listening: bool,
}

impl fmt::Debug for Ledger {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.read(|state| fmt::Debug::fmt(state, formatter))
    }
}

impl Ledger {
    pub(super) fn observe(&self, observer: Observer) {
        // A second observer would be a mistake in this crate, and only its timeline would lack something.
        drop(self.observer.set(observer));
    }

    pub(super) fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&lock(&self.state))
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut lock(&self.state));
        self.changed.notify_all();
    }

    /// Blocks until `look` sees what it wants, or the time is over.
    pub(super) fn wait<T>(&self, timeout: Duration, mut look: impl FnMut(&State) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + timeout;
        let mut state = lock(&self.state);
        loop {
            if let Some(found) = look(&state) {
                return Some(found);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(super) fn log(&self, request: Request) {
        self.change(|state| state.requests.push(request));
    }

    /// Before its first byte goes out, so that whatever follows from it comes later.
    pub(super) fn serve(&self, pod: &Arc<Pod>) {
        let version = pod.metadata.resource_version.clone().unwrap_or_default();
        self.change(|state| drop(state.served.insert(version, Arc::clone(pod))));
    }

    pub(super) fn forget(&self) {
        self.change(|state| {
            state.requests.clear();
            state.served.clear();
        });
    }

    pub(super) fn set_listening(&self, listening: bool) {
        self.change(|state| state.listening = listening);
    }

    pub(super) fn connection(self: &Arc<Ledger>) -> OpenConnection {
        self.change(|state| state.connections += 1);
        OpenConnection(Arc::clone(self))
    }

    pub(super) fn watch(self: &Arc<Ledger>) -> OpenWatch {
        self.change(|state| state.watches += 1);
        self.note(WatchNote::Opened);
        OpenWatch(Arc::clone(self))
    }

    fn note(&self, note: WatchNote) {
        if let Some(observer) = self.observer.get() {
            observer(note);
        }
    }
}

/// Counts a connection for as long as it lives.
pub(super) struct OpenConnection(Arc<Ledger>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.change(|state| state.connections -= 1);
    }
}

/// Counts a watch for as long as it lives.
pub(super) struct OpenWatch(Arc<Ledger>);

impl Drop for OpenWatch {
    fn drop(&mut self) {
        self.0.change(|state| state.watches -= 1);
        self.0.note(WatchNote::Ended);
    }
}
