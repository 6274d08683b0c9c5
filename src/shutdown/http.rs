//! Asking a sidecar to end over HTTP.

use std::error::Error as _;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use reqwest::header::{CONTENT_LENGTH, LOCATION};
use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::debug;

use crate::causes::causes;
use crate::policy::{HttpUrl, Method};

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

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted(status) => write!(f, "{status}"),
            Self::Gone => write!(f, "it is gone"),
        }
    }
}

/// Why a sidecar was not asked to end, or did not agree to.
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
enum Next {
    Done(Done),
    Retry(Failure),
    GiveUp(Failure),
}

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Attempt {
    Status(u16, Option<String>),
    Refused,
    /// The connection was made, then broke before an answer.
    Broken(String),
    NoAnswer(String),
}

/// Decides what follows. `reached`: whether an earlier attempt got through to the sidecar, so that a
/// refused connection now means that it has ended.
fn next(attempt: Attempt, reached: bool) -> Next {
    match attempt {
        Attempt::Status(status @ 200..=299, _) => Next::Done(Done::Accepted(status)),
        Attempt::Status(status @ (408 | 425 | 429 | 500..=599), location) => {
            Next::Retry(Failure::Status { status, location })
        }
        Attempt::Status(status, location) => Next::GiveUp(Failure::Status { status, location }),
        Attempt::Refused if reached => Next::Done(Done::Gone),
        Attempt::Refused => Next::Retry(Failure::Refused),
        Attempt::Broken(why) | Attempt::NoAnswer(why) => Next::Retry(Failure::NoAnswer(why)),
    }
}

/// Sends the request until the sidecar accepts it, refuses it for good, or attempts or time run out.
///
/// # Errors
/// Why the sidecar was not ended by this.
pub async fn ask(method: Method, url: &HttpUrl, deadline: Instant) -> Result<Done, Failure> {
    let mut last = Failure::NoAnswer("no answer before --shutdown-timeout ran out".to_owned());
    timeout_at(deadline, persist(method, url, &mut last)).await.unwrap_or(Err(last))
}

/// Asks until there is an end to it. `last` is how the attempt before failed, for whoever cuts this short.
async fn persist(method: Method, url: &HttpUrl, last: &mut Failure) -> Result<Done, Failure> {
    let client = client(url).map_err(|error| Failure::NoAnswer(causes(&error)))?;
    let started = Instant::now();
    let mut reached = false;
    let mut pauses = PAUSES.into_iter();
    loop {
        let attempt = attempt(&client, method, url).await;
        debug!(%url, ?attempt, "asked");
        let connected = !matches!(attempt, Attempt::Refused | Attempt::NoAnswer(_));
        match next(attempt, reached) {
            Next::Done(done) => return Ok(done),
            Next::GiveUp(failure) => return Err(failure),
            Next::Retry(failure) => match pauses.next() {
                Some(pause) if started.elapsed() + pause < LAST_START => {
                    *last = failure;
                    sleep(pause).await;
                }
                _ => return Err(failure),
            },
        }
        reached |= connected;
    }
}

async fn attempt(client: &Client, method: Method, url: &HttpUrl) -> Attempt {
    let request = match method {
        Method::Get => client.get(url.as_str()),
        // Some servers want a length with every POST (RFC 9110, 8.6), which the client leaves out of an empty one.
        Method::Post => client.post(url.as_str()).header(CONTENT_LENGTH, 0),
    };
    match request.send().await {
        Ok(response) => Attempt::Status(response.status().as_u16(), location(&response)),
        Err(error) if error.is_timeout() => {
            Attempt::NoAnswer(format!("no answer within {}s", ATTEMPT.as_secs()))
        }
        Err(error) if error.is_connect() => {
            if is_refused(&error) {
                Attempt::Refused
            } else {
                Attempt::NoAnswer(causes(&error))
            }
        }
        Err(error) => Attempt::Broken(causes(&error)),
    }
}

fn location(response: &reqwest::Response) -> Option<String> {
    if !response.status().is_redirection() || response.status() == StatusCode::NOT_MODIFIED {
        return None;
    }
    let value = response.headers().get(LOCATION)?;
    Some(value.to_str().ok()?.to_owned())
}

fn client(url: &HttpUrl) -> reqwest::Result<Client> {
    let mut builder = Client::builder()
        .redirect(Policy::none())
        .retry(reqwest::retry::never())
        .timeout(ATTEMPT)
        .user_agent(concat!("proa/", env!("CARGO_PKG_VERSION")));
    if url.is_loopback() {
        // A proxy elsewhere knows nothing of our loopback interface. And `localhost` is loopback in an image
        // without /etc/hosts too (RFC 6761, 6.3); port 0 stands for the URL's.
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        builder = builder
            .no_proxy()
            .resolve_to_addrs("localhost", &loopback.map(|address| SocketAddr::new(address, 0)));
    }
    if !url.is_https() {
        // No certificates are needed, and an empty image has none to load.
        builder = builder.tls_certs_only([]);
    }
    builder.build()
}

fn is_refused(error: &reqwest::Error) -> bool {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            return io.kind() == std::io::ErrorKind::ConnectionRefused;
        }
        source = cause.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_checked() {
        for status in [200, 202, 204] {
            assert_eq!(next(Attempt::Status(status, None), false), Next::Done(Done::Accepted(status)));
        }
        for status in [301, 307, 400, 401, 403, 404, 405, 410] {
            assert!(matches!(next(Attempt::Status(status, None), true), Next::GiveUp(_)), "{status}");
        }
        for status in [429, 500, 502, 503, 504] {
            assert!(matches!(next(Attempt::Status(status, None), false), Next::Retry(_)), "{status}");
        }
    }

    #[test]
    fn a_refused_connection_means_gone_only_after_one_that_got_through() {
        assert_eq!(next(Attempt::Refused, false), Next::Retry(Failure::Refused));
        assert_eq!(next(Attempt::Refused, true), Next::Done(Done::Gone));
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
