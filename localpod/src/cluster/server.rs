//! The listening side: accepts connections, or refuses them when it is told to.

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream as StdTcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::fault::{Fault, Point};
use super::shared::Shared;

/// Connections the kernel holds for us until they are accepted.
const BACKLOG: u32 = 128;

/// A fatal alert (RFC 8446, 6; RFC 7301, 3.2).
const NO_APPLICATION_PROTOCOL: [u8; 7] = [21, 3, 3, 0, 2, 2, 120];
/// A server's first frame, without a setting (RFC 9113, 6.5).
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
/// No stream was handled, `PROTOCOL_ERROR` (RFC 9113, 6.8).
const GO_AWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// The server's port, held for its lifetime.
pub(super) struct Port {
    pub(super) address: SocketAddr,
    /// Bound and never listening: while connections are refused, it keeps everyone else from taking the port.
    _holder: TcpSocket,
}

impl Port {
    pub(super) fn take() -> io::Result<Port> {
        let holder = bind((Ipv4Addr::LOCALHOST, 0).into())?;
        Ok(Port { address: holder.local_addr()?, _holder: holder })
    }

    pub(super) fn listen(&self) -> io::Result<TcpListener> {
        bind(self.address)?.listen(BACKLOG)
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    // Lets the holder and one listener share the port, and a new listener follow a closed one at once.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Ends a listener for good.
///
/// Closing it would not do: a process that another thread is about to start has a copy of it until its exec, and as long
/// the kernel would go on accepting connections. Shutting it down ends it for all copies.
fn stop_listening(listener: TcpListener) {
    if let Ok(listener) = listener.into_std() {
        // The standard library shuts down streams only, but to the kernel they are sockets both. A failure leaves what
        // closing does.
        drop(StdTcpStream::from(OwnedFd::from(listener)).shutdown(Shutdown::Both));
    }
}

/// Serves until the runtime ends: every request is given to `answer`.
pub(super) async fn run<A, F, B>(
    shared: Arc<Shared>,
    port: Port,
    first: TcpListener,
    acceptor: TlsAcceptor,
    answer: A,
) where
    A: Fn(Arc<Shared>, Request<Incoming>) -> F + Copy + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    let mut refusing = shared.faults.refusing.subscribe();
    let mut listener = Some(first);
    loop {
        let Some(open) = &listener else {
            if refusing.wait_for(|holders| *holders == 0).await.is_err() {
                return;
            }
            // The port is held, so another attempt can only fail for want of descriptors, which may pass.
            listener = port.listen().ok();
            shared.ledger.set_listening(listener.is_some());
            if listener.is_none() {
                tokio::task::yield_now().await;
            }
            continue;
        };
        tokio::select! {
            _ = refusing.wait_for(|holders| *holders > 0) => {
                if let Some(listener) = listener.take() {
                    stop_listening(listener);
                }
                shared.ledger.set_listening(false);
            }
            accepted = open.accept() => if let Ok((stream, _)) = accepted {
                let shared = Arc::clone(&shared);
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let _open = shared.ledger.connection();
                    let hung_up = shared.hung_up();
                    tokio::select! {
                        // Dropping the stream mid-way is what a hang-up is.
                        () = hung_up => {}
                        () = converse(&shared, stream, acceptor, answer) => {}
                    }
                });
            }
        }
    }
}

async fn converse<A, F, B>(shared: &Arc<Shared>, mut stream: TcpStream, acceptor: TlsAcceptor, answer: A)
where
    A: Fn(Arc<Shared>, Request<Incoming>) -> F,
    F: Future<Output = Response<B>>,
    B: Body<Error: Into<Box<dyn Error + Send + Sync>>> + 'static,
{
    let struck = shared.faults.strike(Point::Accept);
    match struck.first() {
        Some(Fault::Reset) => {
            // Without lingering, closing sends a reset; where that fails the client still sees the end of the stream.
            drop(stream.set_zero_linger());
            return;
        }
        Some(Fault::StallHandshake) => {
            let mut ignored = [0; 1024];
            while stream.read(&mut ignored).await.is_ok_and(|read| read > 0) {}
            return;
        }
        Some(Fault::InsistsOnHttp2) => {
            // What it is a refusal of comes first, or closing would be a reset.
            if stream.read(&mut [0; 16384]).await.is_ok_and(|read| read > 0) {
                drop(stream.write_all(&NO_APPLICATION_PROTOCOL).await);
                drop(stream.shutdown().await);
            }
            return;
        }
        _ => {}
    }
    // Only latency suffers without it.
    drop(stream.set_nodelay(true));
    let Ok(mut tls) = acceptor.accept(stream).await else { return };
    if struck == [Fault::GoAway] {
        if tls.read(&mut [0; 16384]).await.is_ok_and(|read| read > 0) {
            drop(tls.write_all(&[SETTINGS.as_slice(), &GO_AWAY].concat()).await);
            drop(tls.shutdown().await);
        }
        return;
    }
    let service = service_fn(|request| {
        let answered = answer(Arc::clone(shared), request);
        async move { Ok::<_, Infallible>(answered.await) }
    });
    // A client may go at any time, and a watch may be broken off on request: neither is an error here.
    drop(http1::Builder::new().serve_connection(TokioIo::new(tls), service).await);
}
