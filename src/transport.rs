//! One HTTP request over one connection: TCP, TLS where it is asked for, HTTP/1.1. What the API server and the sidecars are
//! reached by. Follows no redirect, uses no proxy, keeps no connection.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use http::header::{HOST, HeaderValue};
use http::uri::{PathAndQuery, Scheme};
use http::{Request, Response, Uri};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tracing::debug;

use crate::endpoint::{Address, InvalidAddress};
use crate::tcp;

/// What went wrong, whatever it was.
type BoxError = Box<dyn Error + Send + Sync>;

/// How long an answer's head may be, in bytes: several times what servers themselves accept of a request's.
const LONGEST_HEAD: usize = 32 * 1024;

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// No connection, or none that is as secure as it must be.
    Connect(BoxError),
    /// The connection was made, then failed before an answer.
    Exchange(hyper::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => error.fmt(f),
            Self::Exchange(error) => error.fmt(f),
        }
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Connect(error) => Some(error.as_ref()),
            Self::Exchange(error) => Some(error),
        }
    }
}

/// Who is trusted to vouch for a server.
///
/// # Errors
/// Never with this cryptography; the library leaves the choice of it open.
pub fn tls(roots: RootCertStore) -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    // What would make the next connection cheaper would be held while the command runs.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Sends a request to the host that its URI names, over a new connection. `tls`: for `https`; a URI of `http` needs none.
///
/// # Errors
/// When there is no connection, or it breaks before the answer's head is there.
pub async fn send<B>(
    mut request: Request<B>,
    tls: Option<Arc<ClientConfig>>,
) -> Result<Response<Incoming>, Failure>
where
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let uri = std::mem::take(request.uri_mut());
    let authority = uri.authority().ok_or_else(|| Failure::Connect("a URL without a host".into()))?;
    // Without what logs in, which is no part of a host.
    let host = authority.as_str().rsplit_once('@').map_or(authority.as_str(), |(_, host)| host);
    request
        .headers_mut()
        .insert(HOST, HeaderValue::from_str(host).map_err(|error| Failure::Connect(error.into()))?);
    let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = path.into();

    let stream = connect(&uri).await.map_err(Failure::Connect)?;
    if !is_https(&uri) {
        return exchange(TokioIo::new(stream), request).await;
    }
    let tls = tls.ok_or_else(|| Failure::Connect("no certificate authorities to trust".into()))?;
    let server = uri.host().map(|host| host.trim_matches(['[', ']']).to_owned()).unwrap_or_default();
    let server = ServerName::try_from(server).map_err(|error| Failure::Connect(error.into()))?;
    let secured = TlsConnector::from(tls).connect(server, stream).await;
    exchange(TokioIo::new(secured.map_err(|error| Failure::Connect(error.into()))?), request).await
}

/// Whom a URI names.
///
/// # Errors
/// When it names no host.
pub fn address(uri: &Uri) -> Result<Address, InvalidAddress> {
    let default = if is_https(uri) { 443 } else { 80 };
    format!("{}:{}", uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(default)).parse()
}

fn is_https(uri: &Uri) -> bool {
    uri.scheme() == Some(&Scheme::HTTPS)
}

async fn connect(uri: &Uri) -> Result<TcpStream, BoxError> {
    let stream = tcp::connect(&address(uri)?).await?;
    // A request is one write, and nothing follows that it could wait for; otherwise it is sent a little later.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// Sends a request over a connection.
///
/// # Errors
/// When that breaks before the answer's head is there.
pub async fn exchange<S, B>(stream: S, request: Request<B>) -> Result<Response<Incoming>, Failure>
where
    S: Read + Write + Unpin + Send + 'static,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    // An answer's head is read from its start again with each piece that comes of it: what comes byte by byte takes the square of
    // its length.
    let handshake = http1::Builder::new().max_buf_size(LONGEST_HEAD).handshake(stream);
    let (mut sender, connection) = handshake.await.map_err(Failure::Exchange)?;
    // Goes on while the answer's body is read, and ends with it: nobody is left who could send again.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            debug!(%error, "connection ended");
        }
    });
    sender.send_request(request).await.map_err(Failure::Exchange)
}
