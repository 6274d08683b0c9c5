//! One watch: the objects and changes of a subscription as a stream of JSON lines.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::WatchEnd;
use super::ledger::Ledger;
use super::object::View;
use super::selector::Selector;
use super::status::Status;
use super::store::{Change, Feed, Subscription, key_of};

/// The annotation on the bookmark that ends the initial events.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// What a watch was asked for.
pub(super) struct Terms {
    /// `None` is all namespaces.
    pub(super) namespace: Option<String>,
    pub(super) selector: Selector,
    pub(super) view: View,
    pub(super) bookmarks: bool,
    /// Whether a bookmark marks the end of the initial events.
    pub(super) initial_events_end: bool,
    pub(super) timeout: Option<Duration>,
}

/// Why a watch is over.
enum Over {
    /// With the last chunk.
    Cleanly,
    /// Without it.
    Broken,
    /// The client went.
    Abandoned,
}

/// The sending side of one watch.
pub(super) struct Watch {
    pub(super) terms: Terms,
    pub(super) lines: mpsc::Sender<Result<Bytes, Broken>>,
    /// Held above zero while nothing may be sent.
    pub(super) stalling: watch::Receiver<usize>,
    pub(super) ledger: Arc<Ledger>,
}

impl Watch {
    /// Sends until the watch is over.
    pub(super) async fn run(mut self, subscription: Subscription) {
        if let Over::Broken = self.feed(subscription).await {
            drop(self.lines.send(Err(Broken)).await);
        }
    }

    async fn feed(&mut self, mut subscription: Subscription) -> Over {
        let deadline = self.terms.timeout.map(|timeout| Instant::now() + timeout);
        match self.begin(&subscription).await {
            Ok(()) => {}
            Err(over) => return over,
        }
        loop {
            let next = tokio::select! {
                () = self.lines.closed() => return Over::Abandoned,
                () = passed(deadline) => return Over::Cleanly,
                next = subscription.feed.recv() => next,
            };
            let sent = match next {
                None | Some(Feed::End(WatchEnd::Close)) => return Over::Cleanly,
                Some(Feed::Change(change)) => self.send_change(&change).await,
                Some(Feed::Bookmark(revision)) if self.terms.bookmarks => {
                    self.send(&self.bookmark(revision)).await
                }
                Some(Feed::Bookmark(_)) => Ok(()),
                Some(Feed::End(WatchEnd::Abort)) => return Over::Broken,
                Some(Feed::End(WatchEnd::Error { code, message })) => {
                    let status = Status::event(code, &message);
                    match self.send(&error_event(&status)).await {
                        // The server ends the stream after an error event.
                        Ok(()) => return Over::Cleanly,
                        Err(over) => Err(over),
                    }
                }
            };
            if let Err(over) = sent {
                return over;
            }
        }
    }

    async fn begin(&mut self, subscription: &Subscription) -> Result<(), Over> {
        for pod in &subscription.present {
            if self.wants(pod) {
                let event = self.object_event("ADDED", pod, None);
                self.send_of(&event, Some(pod)).await?;
            }
        }
        if self.terms.initial_events_end && self.terms.bookmarks {
            let mut bookmark = self.bookmark(subscription.revision);
            bookmark["object"]["metadata"]["annotations"] = json!({ INITIAL_EVENTS_END: "true" });
            self.send(&bookmark).await?;
        }
        for change in &subscription.missed {
            self.send_change(change).await?;
        }
        Ok(())
    }

    fn wants(&self, pod: &Pod) -> bool {
        let namespace_fits = self.terms.namespace.as_ref().is_none_or(|wanted| *wanted == key_of(pod).0);
        namespace_fits && self.terms.selector.matches(pod)
    }

    /// What a change is to this watch: an object that begins to match is added, one that no longer does is deleted.
    fn event(&self, change: &Change) -> Option<Value> {
        let before = change.before.as_deref().filter(|pod| self.wants(pod));
        let after = change.after.as_deref().filter(|pod| self.wants(pod));
        match (before, after) {
            (None, None) => None,
            (None, Some(after)) => Some(self.object_event("ADDED", after, None)),
            (Some(_), Some(after)) => Some(self.object_event("MODIFIED", after, None)),
            // The last object the client knew, at the revision it left.
            (Some(before), None) => Some(self.object_event("DELETED", before, Some(change.revision))),
        }
    }

    fn object_event(&self, kind: &str, pod: &Pod, revision: Option<u64>) -> Value {
        let mut object = self.terms.view.object(pod);
        if let Some(revision) = revision {
            object["metadata"]["resourceVersion"] = json!(revision.to_string());
        }
        json!({ "type": kind, "object": object })
    }

    fn bookmark(&self, revision: u64) -> Value {
        json!({ "type": "BOOKMARK", "object": self.terms.view.bookmark(revision) })
    }

    async fn send_change(&mut self, change: &Change) -> Result<(), Over> {
        match self.event(change) {
            // One that is gone, or no longer matches, was sent as it is before.
            Some(event) => self.send_of(&event, change.after.as_ref().filter(|pod| self.wants(pod))).await,
            None => Ok(()),
        }
    }

    async fn send(&mut self, event: &Value) -> Result<(), Over> {
        self.send_of(event, None).await
    }

    /// Sends an event, which shows this Pod.
    async fn send_of(&mut self, event: &Value, shown: Option<&Arc<Pod>>) -> Result<(), Over> {
        tokio::select! {
            () = self.lines.closed() => return Err(Over::Abandoned),
            // The sender lives as long as the server; without it there is nobody left to hold anything back.
            _ = self.stalling.wait_for(|holders| *holders == 0) => {}
        }
        if self.lines.is_closed() {
            return Err(Over::Abandoned);
        }
        if let Some(pod) = shown.filter(|_| self.terms.view == View::Whole) {
            self.ledger.serve(pod);
        }
        self.lines.send(Ok(line(event))).await.map_err(|_| Over::Abandoned)
    }
}

async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

pub(super) fn error_event(status: &Status) -> Value {
    json!({ "type": "ERROR", "object": status.body() })
}

/// An event as it goes over the wire.
pub(super) fn line(event: &Value) -> Bytes {
    Bytes::from(format!("{event}\n"))
}

/// The answer's body: lines until the sender is gone.
pub(super) struct Lines {
    receiver: mpsc::Receiver<Result<Bytes, Broken>>,
    /// What lives as long as the answer: the sender of a stream that stays silent, the count of an open watch.
    _held: Vec<Arc<dyn Send + Sync>>,
    late: Option<Pin<Box<Sleep>>>,
}

impl Lines {
    pub(super) fn new(
        receiver: mpsc::Receiver<Result<Bytes, Broken>>,
        held: Vec<Arc<dyn Send + Sync>>,
    ) -> Lines {
        Lines { receiver, _held: held, late: None }
    }

    /// The same lines, from then on.
    pub(super) fn after(self, delay: Duration) -> Lines {
        Lines { late: Some(Box::pin(sleep(delay))), ..self }
    }
}

impl Body for Lines {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let lines = self.get_mut();
        if let Some(late) = &mut lines.late {
            ready!(late.as_mut().poll(context));
            lines.late = None;
        }
        lines.receiver.poll_recv(context).map(|line| line.map(|line| line.map(Frame::data)))
    }
}

/// The stream ends without its last chunk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the watch was broken off on request")
    }
}

impl Error for Broken {}
