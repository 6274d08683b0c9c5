//! What proa is doing, over HTTP: `/readyz`, `/livez`, `/metrics`.
//!
//! Served beside each phase on the phase's own thread and runtime; between two phases the kernel keeps new
//! connections for the next. Without `--status-address` there is nothing of this.

pub mod board;
mod metrics;

use std::convert::Infallible;
use std::fmt;
use std::future::pending;
use std::io;
use std::net::{self, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use http::header::{ALLOW, CONTENT_TYPE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::timeout;
use tracing::{debug, info};

use crate::crowd::Crowd;
use crate::shortage::outlast_shortage;
use board::{Board, Phase};

/// How long a client may take over request and answer.
const LIMIT: Duration = Duration::from_secs(2);
/// How many clients are served side by side. One more, and the oldest has to go: a probe has made its request long before.
const CLIENTS: usize = 32;
/// How long a request's headers may be; hyper's minimum.
const HEADERS: usize = 8 * 1024;
/// How long to let pass after a failure to accept a client.
const RECOVER: Duration = Duration::from_millis(100);

/// The address cannot be listened on.
#[derive(Debug)]
pub struct Unbound {
    address: SocketAddr,
    error: io::Error,
}

impl fmt::Display for Unbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "--status-address {}: {}; expected an address of this Pod, or 0.0.0.0, and a port that is free here",
            self.address, self.error
        )
    }
}

impl std::error::Error for Unbound {}

/// Whether `POST /quitquitquit` is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quit {
    /// To clients on the Pod's loopback interface.
    Offered,
    /// To nobody.
    None,
}

/// The listener, where there is to be one.
#[derive(Debug)]
pub struct Server {
    listener: Option<net::TcpListener>,
    quit: Quit,
    quit_asked: Notify,
}

impl Server {
    /// Listens.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub fn bind(address: Option<SocketAddr>, quit: Quit) -> Result<Self, Unbound> {
        let Some(address) = address else {
            return Ok(Self::none());
        };
        let listen = || {
            let listener = net::TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            io::Result::Ok(listener)
        };
        let listener = outlast_shortage(listen).map_err(|error| Unbound { address, error })?;
        info!("status at http://{address}/metrics, /readyz and /livez");
        Ok(Self { listener: Some(listener), quit, quit_asked: Notify::new() })
    }

    /// Listens nowhere.
    #[must_use]
    pub fn none() -> Self {
        Self { listener: None, quit: Quit::None, quit_asked: Notify::new() }
    }

    /// Waits until a client asks for the end.
    pub async fn quit_asked(&self) {
        self.quit_asked.notified().await;
    }

    /// Serves while the phase lasts. The phase comes first.
    pub async fn during<T>(&self, board: &Board, phase: impl Future<Output = T>) -> T {
        tokio::select! {
            biased;
            result = phase => result,
            never = self.serve(board) => match never {},
        }
    }

    async fn serve(&self, board: &Board) -> Infallible {
        let Some(listener) = &self.listener else {
            return pending().await;
        };
        let listener = loop {
            match listener.try_clone().and_then(TcpListener::from_std) {
                Ok(listener) => break listener,
                Err(error) => debug!(%error, "cannot listen for clients"),
            }
            tokio::time::sleep(RECOVER).await;
        };
        let mut clients = Crowd::new(CLIENTS);
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((client, from)) => {
                        // A mesh's proxy passes strangers on from a loopback address (Istio: 127.0.0.6), but to the
                        // Pod's own.
                        let beside = is_loopback(from) && client.local_addr().is_ok_and(is_loopback);
                        clients.enter(self.converse(client, beside, board));
                    }
                    // Out of file descriptors, say.
                    Err(error) => {
                        debug!(%error, "cannot accept a client");
                        tokio::time::sleep(RECOVER).await;
                    }
                },
                () = clients.next() => {}
            }
        }
    }

    /// Answers a client's one request. `beside`: whether the client is in this Pod.
    pub async fn converse(&self, client: impl AsyncRead + AsyncWrite + Unpin, beside: bool, board: &Board) {
        let service = service_fn(|request: Request<hyper::body::Incoming>| async move {
            let (method, path) = (request.method(), request.uri().path());
            Ok::<_, Infallible>(match path {
                "/quitquitquit" if self.quit == Quit::Offered => self.quit(method, beside),
                _ => answer(method, path, board),
            })
        });
        // One request a connection: what is kept open would be cut off by the end of the phase.
        let mut server = http1::Builder::new();
        let connection =
            server.keep_alive(false).max_buf_size(HEADERS).serve_connection(TokioIo::new(client), service);
        if let Ok(Err(error)) = timeout(LIMIT, pin!(connection)).await {
            debug!(%error, "client gone");
        }
    }

    fn quit(&self, method: &Method, beside: bool) -> Response<Full<Bytes>> {
        if *method != Method::POST {
            return not_allowed("expected POST\n", "POST");
        }
        // A probe's address is the Pod's own to the whole cluster; who may end us sits beside us.
        if !beside {
            return text(StatusCode::FORBIDDEN, "expected a client on this Pod's loopback interface\n");
        }
        self.quit_asked.notify_one();
        text(StatusCode::OK, "ending\n")
    }
}

fn is_loopback(end: SocketAddr) -> bool {
    end.ip().to_canonical().is_loopback()
}

fn answer(method: &Method, path: &str, board: &Board) -> Response<Full<Bytes>> {
    let response = match path {
        "/livez" => text(StatusCode::OK, "alive\n"),
        "/readyz" => match board.phase() {
            Phase::Waiting => text(StatusCode::SERVICE_UNAVAILABLE, "waiting for the sidecars\n"),
            Phase::Running => text(StatusCode::OK, "the command runs\n"),
            Phase::Helping => text(StatusCode::OK, "the main containers may start\n"),
            Phase::Ending => text(StatusCode::SERVICE_UNAVAILABLE, "the command has ended\n"),
        },
        "/metrics" => respond(StatusCode::OK, metrics::CONTENT_TYPE, metrics::encode(board).into()),
        _ => text(StatusCode::NOT_FOUND, "expected /readyz, /livez or /metrics\n"),
    };
    if matches!(*method, Method::GET | Method::HEAD) || response.status() == StatusCode::NOT_FOUND {
        response
    } else {
        not_allowed("expected GET\n", "GET, HEAD")
    }
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", body.into())
}

fn not_allowed(body: &'static str, allowed: &'static str) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, body);
    response.headers_mut().insert(ALLOW, http::HeaderValue::from_static(allowed));
    response
}

fn respond(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}
