//! The way to the API server: TLS set up once, token and authority as the files have them now.

use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderValue, USER_AGENT};
use http::uri::{Authority, Scheme};
use http::{Request, Uri};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use super::answer::{Failure, accepted};
use super::{SERVICE_HOST, SERVICE_PORT};
use crate::memory;
use crate::policy::AskApi;
use crate::shortage::is_shortage;
use crate::transport;

/// How the API server's audit log knows us.
const AGENT: &str = concat!("proa/", env!("CARGO_PKG_VERSION"));
/// The longest time to stay away for, whatever an answer says.
const LONGEST_RETRY_AFTER: u64 = 30;

/// How the API server is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiServer {
    /// Whether it is asked.
    pub ask: AskApi,
    /// The service account's mount: `token`, `ca.crt`, `namespace`.
    pub service_account: PathBuf,
    /// `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT`, which the kubelet gives every container.
    pub address: Option<(String, u16)>,
    /// Whether either of the two is set at all.
    pub announced: bool,
}

impl ApiServer {
    /// Whether nothing of Kubernetes is here: neither the kubelet's variables, which it gives every container of an API
    /// server's Pods (`getServiceEnvVarMap`, `pkg/kubelet/kubelet_pods.go`, Kubernetes 1.36), nor a service account.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        !self.announced && !self.service_account.exists()
    }
}

/// Why there is no way to ask an API server at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoApi {
    /// The kubelet's variables are missing.
    Server,
    /// The service account is not mounted.
    ServiceAccount {
        /// The file.
        file: String,
        /// Why it cannot be used.
        error: String,
    },
}

impl fmt::Display for NoApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server => write!(
                f,
                "{SERVICE_HOST} and {SERVICE_PORT} are not set; proa runs as the entrypoint of a container in a Kubernetes \
                 Pod"
            ),
            Self::ServiceAccount { file, error } => write!(
                f,
                "no service account: {file}: {error}; mount its token (automountServiceAccountToken, or a \
                 projected volume named by --service-account-dir)"
            ),
        }
    }
}

impl std::error::Error for NoApi {}

/// The API server, as this Pod's service account reaches it.
#[derive(Debug, Clone)]
pub struct Cluster {
    service_account: PathBuf,
    authority: Authority,
    tls: Arc<Mutex<Option<Tls>>>,
}

/// A file of the service account that cannot be used just now.
struct Unusable {
    file: PathBuf,
    error: io::Error,
}

impl From<Unusable> for NoApi {
    fn from(Unusable { file, error }: Unusable) -> Self {
        Self::ServiceAccount { file: file.display().to_string(), error: error.to_string() }
    }
}

/// What a `ca.crt` came to.
#[derive(Debug)]
struct Tls {
    pem: Vec<u8>,
    config: Arc<ClientConfig>,
}

/// As long as an API server may keep us away.
pub(super) fn bounded(seconds: u64) -> Duration {
    Duration::from_secs(seconds.min(LONGEST_RETRY_AFTER))
}

impl Cluster {
    /// Checks that there is a server and a service account to ask it with.
    ///
    /// # Errors
    /// When the system is short of what it takes, which says nothing; and when the kubelet's variables or files are missing.
    pub fn new(server: &ApiServer) -> io::Result<Result<Self, NoApi>> {
        let Some(cluster) = Self::at(server) else { return Ok(Err(NoApi::Server)) };
        match cluster.token().err().or_else(|| cluster.tls().err()) {
            None => Ok(Ok(cluster)),
            Some(unusable) if is_shortage(&unusable.error) => Err(unusable.error),
            Some(unusable) => Ok(Err(unusable.into())),
        }
    }

    fn at(server: &ApiServer) -> Option<Self> {
        let (host, port) = server.address.as_ref()?;
        // An IPv6 address stands in brackets.
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        Some(Self {
            service_account: server.service_account.clone(),
            authority: format!("{host}:{port}").parse().ok()?,
            tls: Arc::default(),
        })
    }

    /// Sends a request, with the token and the authority of now: both rotate (KEP-1205).
    ///
    /// # Errors
    /// When their files cannot be read or make no sense, or there is no answer, or one that says no.
    pub(super) async fn send(&self, request: Request<Vec<u8>>) -> Result<Incoming, Failure> {
        let unusable = |file: Unusable| Failure::Account(file.into());
        let (token, tls) = (self.token().map_err(unusable)?, self.tls().map_err(unusable)?);
        // Only questions are sent, and those have no body.
        let mut request = request.map(|_| Empty::<Bytes>::new());
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(Scheme::HTTPS);
        parts.authority = Some(self.authority.clone());
        // Cannot fail: all parts of an absolute URI are there.
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        headers.insert(AUTHORIZATION, token);
        // From Kubernetes 1.37 on a watch may be compressed, event by event.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        accepted(Box::pin(transport::send(request, Some(tls))).await.map_err(Failure::NoAnswer)?).await
    }

    fn token(&self) -> Result<HeaderValue, Unusable> {
        memory::clear_what_is_freed();
        let unusable = |error| self.unusable("token", error);
        let text = fs::read_to_string(self.file("token")).map_err(unusable)?;
        let mut header = HeaderValue::from_str(&format!("Bearer {}", text.trim()))
            .map_err(|error| unusable(io::Error::other(error)))?;
        header.set_sensitive(true);
        Ok(header)
    }

    /// Made once for each content of `ca.crt`.
    fn tls(&self) -> Result<Arc<ClientConfig>, Unusable> {
        let unusable = |error| self.unusable("ca.crt", error);
        let pem = fs::read(self.file("ca.crt")).map_err(unusable)?;
        let mut known = self.tls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tls) = known.as_ref().filter(|tls| tls.pem == pem) {
            return Ok(Arc::clone(&tls.config));
        }
        let config = client_config(&pem).map_err(unusable)?;
        *known = Some(Tls { pem, config: Arc::clone(&config) });
        Ok(config)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.service_account.join(name)
    }

    fn unusable(&self, name: &str, error: io::Error) -> Unusable {
        Unusable { file: self.file(name), error }
    }
}

fn client_config(pem: &[u8]) -> io::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
    }
    if roots.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "no certificate in it"));
    }
    transport::tls(roots).map_err(io::Error::other)
}
