//! One TCP connection and what came of it.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::trace;
use url::Host;

use crate::endpoint::{Address, LOOPBACK, is_loopback_name};
use crate::thread::aside;

/// How long an address is asked alone before the next one is asked too (RFC 8305, 5).
const HEAD_START: Duration = Duration::from_millis(250);

/// What came of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It was accepted, and is closed by now.
    Accepted,
    /// Nobody listens there.
    Refused,
    /// Another failure.
    Failed(String),
    /// No answer in time.
    None,
}

/// Connects. `limit`: how long that may take.
pub async fn probe(address: &Address, limit: Duration) -> Answer {
    match timeout(limit, connect(address)).await {
        Ok(Ok(_)) => Answer::Accepted,
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Answer::Refused,
        Ok(Err(error)) => Answer::Failed(error.to_string()),
        Err(_) => Answer::None,
    }
}

/// Connects to whichever address of a host is the first to answer, in the order they have: behind one that is silent there may be one that
/// does answer.
///
/// # Errors
/// When the host has no address, or none of them answers: what became of the first.
pub async fn connect(address: &Address) -> io::Result<TcpStream> {
    let mut left = addresses(address).await?.into_iter().enumerate();
    let (mut attempts, mut failures) = (FuturesUnordered::new(), BTreeMap::new());
    loop {
        let patience = match left.next() {
            Some((turn, address)) => {
                trace!(%address, "connecting");
                attempts.push(async move { (turn, TcpStream::connect(address).await) });
                HEAD_START
            }
            None if attempts.is_empty() => break,
            None => Duration::MAX,
        };
        match timeout(patience, attempts.next()).await {
            Ok(Some((_, Ok(stream)))) => return Ok(stream),
            Ok(Some((turn, Err(error)))) => drop(failures.insert(turn, error)),
            Ok(None) | Err(_) => {}
        }
    }
    Err(failures.pop_first().map_or_else(|| io::Error::other("the host has no address"), |(_, error)| error))
}

async fn addresses(address: &Address) -> io::Result<Vec<SocketAddr>> {
    let port = address.port;
    match &address.host {
        // RFC 6761, 6.3: not to be asked of anybody. An image may have no /etc/hosts, and the kubelet's may say less.
        Host::Domain(name) if is_loopback_name(name) => {
            Ok(LOOPBACK.map(|ip| SocketAddr::new(ip, port)).to_vec())
        }
        Host::Domain(name) => look_up(name.clone(), port).await,
        Host::Ipv4(ip) => Ok(vec![SocketAddr::new((*ip).into(), port)]),
        Host::Ipv6(ip) => Ok(vec![SocketAddr::new((*ip).into(), port)]),
    }
}

/// The addresses of a host, as the system's resolver has them. In a thread of its own: a name server that is silent keeps it for a
/// minute.
async fn look_up(name: String, port: u16) -> io::Result<Vec<SocketAddr>> {
    aside(Duration::ZERO, move || Ok((name, port).to_socket_addrs()?.collect())).await?
}
