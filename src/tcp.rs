//! One TCP connection and what came of it.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::endpoint::{Address, LOOPBACK};
use crate::thread::aside;

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

async fn connect(address: &Address) -> io::Result<TcpStream> {
    let text = address.to_string();
    let addresses = if address.is_loopback_name() {
        // A Pod may have no IPv6 at all; so that one comes first.
        let [v4, v6] = LOOPBACK.map(|ip| SocketAddr::new(ip, address.port));
        vec![v6, v4]
    } else if let Ok(address) = text.parse() {
        vec![address]
    } else {
        look_up(text).await?
    };
    // One after the other; the last failure is told.
    TcpStream::connect(addresses.as_slice()).await
}

/// The addresses of a host, as the system's resolver has them. In a thread of its own: a name server that is silent keeps it for a
/// minute.
///
/// # Errors
/// When there is no such name, nobody says so, or the system is short of what it takes to ask.
pub async fn look_up(host: impl ToSocketAddrs + Send + 'static) -> io::Result<Vec<SocketAddr>> {
    aside(Duration::ZERO, move || Ok(host.to_socket_addrs()?.collect())).await?
}
