//! Asking a sidecar to end over HTTP.

use std::fmt;
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tracing::debug;

use crate::deadline::{before, elapsed, now};
use crate::endpoint::Request;
use crate::http::{Answer, Client};
use crate::shortage;

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(5);
/// Pauses before the second and each further attempt. A sidecar that is restarting, or still busy
/// starting, gets some seconds; one that is not there must not hold up the Pod's end for long.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_millis(600),
    Duration::from_secs(1),
];

/// No attempt starts later than this after the first: an endpoint that hangs has one more attempt than the
/// first, and costs no more than two.
const LAST_START: Duration = Duration::from_secs(6);

/// How a sidecar took the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// It answered with a status of 2xx.
    Accepted(u16),
    /// It got the request, and was gone before it answered.
    Gone,
}

impl Done {
    /// The status that it answered with.
    #[must_use]
    pub fn status(self) -> Option<u16> {
        match self {
            Self::Accepted(status) => Some(status),
            Self::Gone => None,
        }
    }
}

impl Failure {
    /// The status that it answered with.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Status { status, .. } => Some(*status),
            Self::Refused | Self::NoAnswer(_) => None,
        }
    }
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted(status) => write!(f, "{status}"),
            Self::Gone => write!(f, "it is gone"),
        }
    }
}

/// Why a sidecar was not asked to stop, or did not agree to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Nobody listens there.
    Refused,
    /// The connection failed, or no answer came.
    NoAnswer(String),
    /// An answer that means no.
    Status {
        /// The status.
        status: u16,
        /// Where a redirect leads.
        location: Option<String>,
    },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => write!(
                f,
                "connection refused: nobody listens there; the sidecar is gone already, or the port is another"
            ),
            Self::NoAnswer(why) => write!(f, "{why}"),
            Self::Status { status, location: Some(location) } => {
                write!(f, "{status}: redirects are not followed; give the URL that it leads to: {location}")
            }
            Self::Status { status: status @ (404 | 403 | 401), .. } => write!(
                f,
                "{status}: expected 2xx; the path is another, or the sidecar's quit endpoint must be enabled in \
                 its own settings"
            ),
            Self::Status { status: status @ 405, .. } => write!(
                f,
                "{status}: the endpoint wants another method; use --shutdown-http-post for \
                 --shutdown-http-get, or the reverse"
            ),
            Self::Status { status, .. } => write!(f, "{status}: expected 2xx"),
        }
    }
}

/// What follows from an attempt.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// The sidecar is going to exit.
    Done(Done),
    /// It was not asked, for want of descriptors or memory.
    NotYet(Failure),
    /// It is worth another attempt.
    Retry(Failure),
    /// It is not.
    GiveUp(Failure),
}

/// Decides what follows. `reached`: whether an earlier attempt got through to the sidecar, so that a
/// refused connection now means that it has ended.
#[must_use]
pub fn next(answer: Answer, reached: bool) -> Next {
    match answer {
        Answer::Status(status @ 200..=299, _) => Next::Done(Done::Accepted(status)),
        Answer::Status(status @ (408 | 425 | 429 | 500..=599), location) => {
            Next::Retry(Failure::Status { status, location })
        }
        Answer::Status(status, location) => Next::GiveUp(Failure::Status { status, location }),
        Answer::Refused if reached => Next::Done(Done::Gone),
        Answer::Refused => Next::Retry(Failure::Refused),
        Answer::Broken(why) | Answer::None(why) => Next::Retry(Failure::NoAnswer(why)),
        Answer::Short(why) => Next::NotYet(Failure::NoAnswer(why)),
    }
}

/// Sends the request until the sidecar accepts it, refuses it for good, or attempts or time run out.
///
/// # Errors
/// Why the sidecar was not ended by this.
pub async fn ask(request: &Request, by: Option<Instant>) -> Result<Done, Failure> {
    let mut last =
        Failure::NoAnswer("no answer before --shutdown-timeout ran out, or the grace period".to_owned());
    before(by, persist(request, &mut last)).await.unwrap_or(Err(last))
}

/// Asks until there is an end to it. `last` is how the attempt before failed, for whoever cuts this short.
async fn persist(request: &Request, last: &mut Failure) -> Result<Done, Failure> {
    let mut client = None;
    let begun = now();
    let mut started = begun;
    let mut reached = false;
    let mut pauses = PAUSES.into_iter();
    loop {
        let answer = match Client::prepared(&mut client, request) {
            Ok(client) => client.send(ATTEMPT).await,
            Err(unready) if unready.short => Answer::Short(unready.why),
            Err(unready) => return Err(Failure::NoAnswer(unready.why)),
        };
        debug!(url = %request.url, ?answer, "asked");
        let connected = matches!(answer, Answer::Status(..) | Answer::Broken(_));
        match next(answer, reached) {
            Next::Done(done) => return Ok(done),
            // Which is no attempt of those that the sidecar has.
            Next::NotYet(failure) if elapsed(begun) < shortage::LONGEST => {
                *last = failure;
                sleep(shortage::PAUSE).await;
                started = now();
            }
            Next::NotYet(failure) | Next::GiveUp(failure) => return Err(failure),
            Next::Retry(failure) => match pauses.next() {
                Some(pause) if elapsed(started) + pause < LAST_START => {
                    *last = failure;
                    sleep(pause).await;
                }
                _ => return Err(failure),
            },
        }
        reached |= connected;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_checked() {
        for status in [200, 202, 204] {
            assert_eq!(next(Answer::Status(status, None), false), Next::Done(Done::Accepted(status)));
        }
        for status in [301, 307, 400, 401, 403, 404, 405, 410] {
            assert!(matches!(next(Answer::Status(status, None), true), Next::GiveUp(_)), "{status}");
        }
        for status in [429, 500, 502, 503, 504] {
            assert!(matches!(next(Answer::Status(status, None), false), Next::Retry(_)), "{status}");
        }
    }

    #[test]
    fn a_refused_connection_means_gone_only_after_one_that_got_through() {
        assert_eq!(next(Answer::Refused, false), Next::Retry(Failure::Refused));
        assert_eq!(next(Answer::Refused, true), Next::Done(Done::Gone));
    }

    #[test]
    fn what_to_change_is_said() {
        let says = |status, location: Option<&str>| {
            Failure::Status { status, location: location.map(str::to_owned) }.to_string()
        };
        assert!(says(404, None).contains("must be enabled"));
        assert!(says(405, None).contains("--shutdown-http-post"));
        assert!(says(302, Some("http://x/")).contains("http://x/"));
    }
}
