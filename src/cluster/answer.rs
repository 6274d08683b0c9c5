//! What the API server answers: an object, or events one after the other, of bounded size.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use http::Response;
use http::header::RETRY_AFTER;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use kube::core::Status;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::NoApi;
use super::client::bounded;
use crate::causes::cause;
use crate::pod::object::{Bookmark, Pod};
use crate::transport;

/// An answer's size, in bytes. The largest is a page of metadata, of a hundred objects of which etcd takes none above 1.5 MiB.
const LONGEST_ANSWER: usize = 64 * 1024 * 1024;
/// An event's size, in bytes: a Pod and some words.
const LONGEST_EVENT: usize = 8 * 1024 * 1024;

/// Why there is no answer, or none of use.
#[derive(Debug)]
pub enum Failure {
    /// The service account's files.
    Account(NoApi),
    /// No request can be made of this.
    Request(kube::core::request::Error),
    /// No connection, or no answer over it.
    NoAnswer(transport::Failure),
    /// An answer that broke off.
    Broken(hyper::Error),
    /// More than anybody would send who is an API server.
    TooLong(usize),
    /// An error, and when to ask again.
    Status(Box<Status>, Option<Duration>),
    /// No JSON, or none of the kind that was asked for.
    Unreadable(serde_json::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Account(error) => error.fmt(f),
            Self::Request(error) => error.fmt(f),
            Self::NoAnswer(error) => error.fmt(f),
            Self::Broken(error) => error.fmt(f),
            Self::TooLong(limit) => {
                write!(f, "an answer of more than {limit} bytes; expected one of an API server")
            }
            Self::Status(status, _) => write!(f, "{} {} {}", status.code, status.reason, status.message),
            Self::Unreadable(error) => error.fmt(f),
        }
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Account(error) => error.source(),
            Self::Request(error) => error.source(),
            Self::NoAnswer(error) => error.source(),
            Self::Broken(error) => error.source(),
            Self::TooLong(_) | Self::Status(..) => None,
            Self::Unreadable(error) => error.source(),
        }
    }
}

/// The answer, unless it says that something is wrong.
///
/// # Errors
/// With what is wrong.
pub async fn accepted(answer: Response<Incoming>) -> Result<Incoming, Failure> {
    let code = answer.status();
    if !code.is_client_error() && !code.is_server_error() {
        return Ok(answer.into_body());
    }
    let seconds =
        answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let body = whole(answer.into_body()).await?;
    // A proxy's is a page, or nothing.
    let status: Status = serde_json::from_slice(&body).unwrap_or_else(|_| {
        Status::failure(String::from_utf8_lossy(&body).trim(), "").with_code(code.as_u16())
    });
    let in_body = status.details.as_ref().map(|details| u64::from(details.retry_after_seconds));
    let seconds = [seconds, in_body].into_iter().flatten().find(|seconds| *seconds > 0);
    Err(Failure::Status(Box::new(status), seconds.map(bounded)))
}

/// The object that an answer consists of.
///
/// # Errors
/// When there is none, or none of this kind.
pub async fn object<T: DeserializeOwned>(body: Incoming) -> Result<T, Failure> {
    serde_json::from_slice(&whole(body).await?).map_err(Failure::Unreadable)
}

async fn whole(body: Incoming) -> Result<Bytes, Failure> {
    match Limited::new(body, LONGEST_ANSWER).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) => Err(match error.downcast::<hyper::Error>() {
            Ok(error) => Failure::Broken(*error),
            Err(error) => {
                debug_assert!(error.is::<LengthLimitError>(), "{error}");
                Failure::TooLong(LONGEST_ANSWER)
            }
        }),
    }
}

/// One event of a watch.
#[derive(Debug)]
pub enum Event {
    /// The Pod is there, or has changed.
    Seen(Pod),
    /// The Pod, as it was, is gone.
    Deleted(Pod),
    /// Something went wrong.
    Error(Box<Status>),
    /// All that there was when the watch began has been shown (KEP-3157).
    AllShown,
    /// News of no use here, as other bookmarks are.
    Other,
}

/// A watch's events, which stand on a line each ("Efficient detection of changes", Kubernetes API Concepts).
#[derive(Debug)]
pub struct Events {
    body: Incoming,
    lines: Lines,
}

impl Events {
    /// Those of this watch.
    #[must_use]
    pub fn new(body: Incoming) -> Self {
        Self { body, lines: Lines::default() }
    }

    /// The next one. `None`: the watch has ended, as all do. What has come of a line by then is of no use.
    pub async fn next(&mut self) -> Option<Result<Event, Failure>> {
        loop {
            if let Some(event) = self.lines.next() {
                return Some(event);
            }
            match self.body.frame().await? {
                Ok(frame) => self.lines.extend(frame.data_ref().map_or(&[], |data| data)),
                Err(error) if has_ended(&error) => return None,
                Err(error) => return Some(Err(Failure::Broken(error))),
            }
        }
    }
}

/// What has come of a watch, and has not been read as events yet.
#[derive(Debug, Default)]
pub struct Lines {
    received: Vec<u8>,
    /// So much of it has been given out.
    read: usize,
    /// So much of it has no further end of a line.
    searched: usize,
}

impl Lines {
    /// More has come.
    pub fn extend(&mut self, bytes: &[u8]) {
        // Once for all that was given out since, not for each line: an answer may consist of line ends.
        self.received.drain(..self.read);
        self.searched -= self.read;
        self.read = 0;
        self.received.extend_from_slice(bytes);
    }

    /// The next event, or what is wrong with it. `None`: more has to come first.
    #[expect(clippy::should_implement_trait, reason = "there may be a next one again")]
    pub fn next(&mut self) -> Option<Result<Event, Failure>> {
        loop {
            let end = self.received[self.searched..].iter().position(|byte| *byte == b'\n');
            let end = end.map(|end| self.searched + end);
            self.searched = end.unwrap_or(self.received.len());
            // Whether its end has come too depends on the pieces that it comes in.
            if self.searched - self.read > LONGEST_EVENT {
                return Some(Err(Failure::TooLong(LONGEST_EVENT)));
            }
            let line = &self.received[self.read..end?];
            self.searched += 1;
            self.read = self.searched;
            if !line.trim_ascii().is_empty() {
                return Some(event(line));
            }
        }
    }
}

/// Whether the server has gone, or what stands before it: a watch that is cut off is one that has ended.
fn has_ended(error: &hyper::Error) -> bool {
    let is_end = |error: &io::Error| error.kind() == io::ErrorKind::UnexpectedEof;
    error.is_incomplete_message() || cause::<io::Error>(error).is_some_and(is_end)
}

fn event(line: &[u8]) -> Result<Event, Failure> {
    // Two steps: what an event holds depends on its type, and to read it as whatever it may be takes much more code.
    #[derive(Deserialize)]
    struct Line<'a> {
        // With an escape in it, it is not to be had without a copy.
        #[serde(borrow)]
        r#type: Cow<'a, str>,
        #[serde(borrow)]
        object: &'a RawValue,
    }

    let read = || {
        let Line { r#type, object } = serde_json::from_slice(line)?;
        match &*r#type {
            "ADDED" | "MODIFIED" => serde_json::from_str(object.get()).map(Event::Seen),
            "DELETED" => serde_json::from_str(object.get()).map(Event::Deleted),
            "ERROR" => serde_json::from_str(object.get()).map(Event::Error),
            "BOOKMARK" => serde_json::from_str(object.get()).map(|mark: Bookmark| {
                if mark.ends_initial_events() { Event::AllShown } else { Event::Other }
            }),
            _ => Ok(Event::Other),
        }
    };
    read().map_err(|error: serde_json::Error| {
        // An error that came too late to be the answer's status.
        let status = serde_json::from_slice::<Status>(line).ok().filter(|status| status.code > 0);
        status.map_or(Failure::Unreadable(error), |status| Failure::Status(Box::new(status), None))
    })
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn an_event_is_too_long_in_whatever_pieces_it_comes() {
        let line = |length: usize| [&vec![b' '; length - 2][..], b"{}\n"].concat();
        for (length, too_long) in [(LONGEST_EVENT, false), (LONGEST_EVENT + 1, true)] {
            for size in [usize::MAX, LONGEST_EVENT, 1 << 20] {
                let (mut lines, line) = (Lines::default(), line(length));
                let found = line.chunks(size).find_map(|piece| {
                    lines.extend(piece);
                    lines.next()
                });
                assert_eq!(matches!(found, Some(Err(Failure::TooLong(_)))), too_long, "{length} by {size}");
            }
        }
    }

    #[test]
    fn an_answer_of_line_ends_takes_no_longer_than_another() {
        let mut lines = Lines::default();
        lines.extend(&vec![b'\n'; 4 << 20]);
        let started = Instant::now();
        assert!(lines.next().is_none());
        // By moving the rest up for each it was minutes.
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
        lines.extend(b"{\"type\": \"LATER\", \"object\": 1}\n");
        assert!(matches!(lines.next(), Some(Ok(Event::Other))));
        assert!(lines.next().is_none());
    }

    #[test]
    fn an_event_is_what_its_type_says() {
        let seen = |line: &str| event(line.as_bytes());
        let pod = r#"{"metadata": {"uid": "u"}}"#;
        for kind in ["ADDED", "MODIFIED"] {
            let line = format!(r#"{{"type": "{kind}", "object": {pod}}}"#);
            assert!(matches!(seen(&line), Ok(Event::Seen(pod)) if pod.uid() == Some("u")), "{line}");
        }
        let line = format!(r#"{{"object": {pod}, "type": "DELETED"}}"#);
        assert!(matches!(seen(&line), Ok(Event::Deleted(pod)) if pod.uid() == Some("u")));
        let line = r#"{"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}"#;
        assert!(matches!(seen(line), Ok(Event::Error(status)) if status.code == 410));
        let bookmark =
            r#"{"type": "BOOKMARK", "object": {"kind": "Pod", "metadata": {"resourceVersion": "9"}}}"#;
        assert!(matches!(seen(bookmark), Ok(Event::Other)));
        let all_shown = r#"{"type": "BOOKMARK", "object": {"kind": "Pod", "metadata": {"resourceVersion": "9",
            "annotations": {"k8s.io/initial-events-end": "true"}}, "spec": {"containers": null}}}"#;
        assert!(matches!(seen(all_shown), Ok(Event::AllShown)));
        assert!(matches!(seen(r#"{"type": "LATER", "object": 1}"#), Ok(Event::Other)));
        let escaped = r#"{"type": "ADD\u0045D", "object": {"metadata": {"uid": "u"}}}"#;
        assert!(matches!(seen(escaped), Ok(Event::Seen(_))));
        let status = r#"{"kind": "Status", "code": 504, "message": "late"}"#;
        assert!(matches!(seen(status), Err(Failure::Status(status, None)) if status.code == 504));
        for line in ["{}", "1", "<html>", r#"{"type": "ADDED", "object": 1}"#, r#"{"type": "ADDED"}"#] {
            assert!(matches!(seen(line), Err(Failure::Unreadable(_))), "{line}");
        }
    }
}
