//! One HTTP request and what came of it. The sole importer of reqwest.

use std::error::Error as _;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use nix::errno::Errno;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_LENGTH, LOCATION};
use reqwest::redirect::Policy;

use crate::causes::causes;
use crate::endpoint::{HttpUrl, LOOPBACK, Method, Request, without_secrets};

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
}

/// Sends one request, as often as asked, over a new connection each time.
#[derive(Debug)]
pub struct Client {
    client: reqwest::Client,
    request: Request,
}

impl Client {
    /// Prepares to send this request.
    ///
    /// # Errors
    /// When the system's certificates are needed and cannot be read.
    pub fn new(request: Request) -> Result<Self, String> {
        let no_certificates = |error: reqwest::Error| {
            let why = root(&error);
            format!("{why}; expected certificate authorities in the image, where https looks for them")
        };
        let client = client(&request.url).map_err(no_certificates)?;
        Ok(Self { client, request })
    }

    /// Sends it. `limit`: how long until the whole answer is there.
    pub async fn send(&self, limit: Duration) -> Answer {
        let url = self.request.url.as_str();
        let mut builder = match self.request.method {
            Method::Get => self.client.get(url),
            // Some servers want a length with every POST (RFC 9110, 8.6), which the client leaves out of an empty one.
            Method::Post => self.client.post(url).header(CONTENT_LENGTH, 0),
        };
        for (name, value) in self.request.headers {
            builder = builder.header(*name, *value);
        }
        let silent = || format!("no answer within {}", humantime::format_duration(limit));
        match builder.timeout(limit).send().await {
            Ok(response) => Answer::Status(response.status().as_u16(), location(&response)),
            // Within the Pod a connection takes no time: whoever is silent has it.
            Err(error) if error.is_timeout() && self.request.url.is_loopback() => Answer::Broken(silent()),
            Err(error) if error.is_timeout() => Answer::None(silent()),
            Err(error) if error.is_connect() && self.is_refused(&error) => Answer::Refused,
            // Its own text has the whole URL, secrets included.
            Err(error) if error.is_connect() => Answer::None(causes(&error.without_url())),
            Err(error) => Answer::Broken(causes(&error.without_url())),
        }
    }

    /// Whether nobody listens there. What is known of `localhost` is the failure of its second address alone, and a
    /// Pod may have no IPv6; its first can fail in no other way.
    fn is_refused(&self, error: &reqwest::Error) -> bool {
        let Some(io) = io_error(error) else {
            return false;
        };
        let no_ipv6 = [Errno::EADDRNOTAVAIL, Errno::EAFNOSUPPORT, Errno::ENETUNREACH];
        let second = || self.request.url.address().is_loopback_name();
        let is_missing = |number| no_ipv6.contains(&Errno::from_raw(number));
        io.kind() == io::ErrorKind::ConnectionRefused || second() && io.raw_os_error().is_some_and(is_missing)
    }
}

fn location(response: &reqwest::Response) -> Option<String> {
    if !response.status().is_redirection() || response.status() == StatusCode::NOT_MODIFIED {
        return None;
    }
    let value = response.headers().get(LOCATION)?;
    Some(without_secrets(value.to_str().ok()?))
}

fn client(url: &HttpUrl) -> reqwest::Result<reqwest::Client> {
    // The same cryptography that serves the API server. Fails where it is installed already, by kube for instance.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = reqwest::Client::builder()
        .redirect(Policy::none())
        .retry(reqwest::retry::never())
        // A sidecar that is about to end is not to be kept waiting by a connection that we would use again.
        .pool_max_idle_per_host(0)
        .user_agent(concat!("proa/", env!("CARGO_PKG_VERSION")));
    if url.is_loopback() {
        // A proxy elsewhere knows nothing of our loopback interface. Port 0 stands for the URL's.
        let loopback = LOOPBACK.map(|address| SocketAddr::new(address, 0));
        builder = builder.no_proxy().resolve_to_addrs(&url.address().host.to_string(), &loopback);
    }
    if !url.is_https() {
        // No certificates are needed, and an empty image has none to load.
        builder = builder.tls_certs_only([]);
    }
    builder.build()
}

/// The innermost cause, which alone says something.
fn root(error: &reqwest::Error) -> String {
    let mut root: &dyn std::error::Error = error;
    while let Some(cause) = root.source() {
        root = cause;
    }
    root.to_string()
}

fn io_error(error: &reqwest::Error) -> Option<&io::Error> {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            return Some(io);
        }
        source = cause.source();
    }
    None
}
