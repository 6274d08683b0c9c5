//! One HTTP request and what came of it.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, HeaderValue, LOCATION, USER_AGENT};
use http::{Response, StatusCode};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use rustls::{ClientConfig, RootCertStore};
use tokio::time::timeout;

use crate::causes::{cause, causes};
use crate::endpoint::{Method, Request, without_secrets};
use crate::shortage::{is_lack_of_processes, is_shortage};
use crate::transport::{self, Failure};

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// An answer with this status, and where it leads if it is a redirect, none of which is followed.
    Status(u16, Option<String>),
    /// Nobody listens there.
    Refused,
    /// The connection was made, then broke before an answer.
    Broken(String),
    /// No connection, or no answer in time.
    None(String),
    /// Nothing was sent: the system is short of what it takes.
    Short(String),
}

/// Why a request cannot be sent at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unready {
    /// In words.
    pub why: String,
    /// Whether it is that the system is short of what it takes.
    pub short: bool,
}

impl Unready {
    fn for_good(why: &dyn fmt::Display) -> Self {
        Self { why: why.to_string(), short: false }
    }
}

/// Sends one request, as often as asked, over a new connection each time.
#[derive(Debug)]
pub struct Client {
    request: Request,
    head: Box<http::Request<Empty<Bytes>>>,
    tls: Option<Arc<ClientConfig>>,
}

impl Client {
    fn new(request: Request) -> Result<Self, Unready> {
        // Without https no certificates are needed, and an empty image has none to load.
        let tls = if request.url.is_https() { Some(trust_system()?) } else { None };
        let head = head(&request).map_err(|error| Unready::for_good(&error))?;
        Ok(Self { request, head: Box::new(head), tls })
    }

    /// The one that there is, or one that is prepared now: what that takes may be short at first.
    ///
    /// # Errors
    /// When the system's certificates are needed and cannot be read, or no HTTP request can hold this one.
    pub fn prepared<'a>(client: &'a mut Option<Self>, request: &Request) -> Result<&'a Self, Unready> {
        match client {
            Some(client) => Ok(client),
            None => Ok(client.insert(Self::new(request.clone())?)),
        }
    }

    /// Sends it. `limit`: how long until the answer's head is there.
    pub async fn send(&self, limit: Duration) -> Answer {
        let sent = Box::pin(transport::send((*self.head).clone(), self.tls.clone()));
        self.answered(sent, limit).await
    }

    /// Waits for what it comes to, however it is `sent`.
    pub async fn answered(
        &self,
        sent: impl Future<Output = Result<Response<Incoming>, Failure>>,
        limit: Duration,
    ) -> Answer {
        let silent = || format!("no answer within {}", humantime::format_duration(limit));
        match timeout(limit, sent).await {
            Ok(Ok(response)) => Answer::Status(response.status().as_u16(), location(&response)),
            // Within the Pod a connection takes no time: whoever is silent has it.
            Err(_) if self.request.url.is_loopback() => Answer::Broken(silent()),
            Err(_) => Answer::None(silent()),
            Ok(Err(failure @ Failure::Connect(_))) if is_refused(&failure) => Answer::Refused,
            Ok(Err(failure @ Failure::Connect(_))) if cause(&failure).is_some_and(is_lack_of_processes) => {
                Answer::Short(causes(&failure))
            }
            Ok(Err(failure @ Failure::Connect(_))) => Answer::None(causes(&failure)),
            Ok(Err(failure @ Failure::Exchange(_))) => Answer::Broken(causes(&failure)),
        }
    }
}

/// Whether nobody listens there.
fn is_refused(failure: &Failure) -> bool {
    cause::<io::Error>(failure).is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// The request as it is sent, with an empty body.
fn head(request: &Request) -> Result<http::Request<Empty<Bytes>>, http::Error> {
    let mut builder = http::Request::builder()
        .uri(request.url.for_request())
        .header(USER_AGENT, concat!("proa/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT, "*/*");
    builder = match request.method {
        Method::Get => builder.method(http::Method::GET),
        // Some servers want a length with every POST (RFC 9110, 8.6), which an empty body goes without.
        Method::Post => builder.method(http::Method::POST).header(CONTENT_LENGTH, 0),
    };
    if let Some(login) = request.url.login() {
        // RFC 7617.
        let mut value = HeaderValue::from_str(&format!("Basic {}", BASE64_STANDARD.encode(login)))?;
        value.set_sensitive(true);
        builder = builder.header(AUTHORIZATION, value);
    }
    for (name, value) in request.headers {
        builder = builder.header(*name, *value);
    }
    builder.body(Empty::new())
}

fn location<B>(response: &Response<B>) -> Option<String> {
    if !response.status().is_redirection() || response.status() == StatusCode::NOT_MODIFIED {
        return None;
    }
    let value = response.headers().get(LOCATION)?;
    Some(without_secrets(value.to_str().ok()?))
}

/// Trusts whom the image's system trusts.
fn trust_system() -> Result<Arc<ClientConfig>, Unready> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let is_short = |error: &&rustls_native_certs::Error| cause(*error).is_some_and(is_shortage);
        if let Some(error) = found.errors.iter().find(is_short) {
            return Err(Unready { why: error.to_string(), short: true });
        }
        let why = found.errors.first().map_or_else(|| "found none".to_owned(), ToString::to_string);
        return Err(Unready::for_good(&format!(
            "{why}; expected certificate authorities in the image, where https looks for them"
        )));
    }
    transport::tls(roots).map_err(|error| Unready::for_good(&error))
}
