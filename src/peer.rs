//! What the proas of one Pod tell one another: that they are there, and that a wrapped sidecar is to end.
//!
//! Over abstract Unix sockets (unix(7)), whose names belong to the network namespace, which the containers of a
//! Pod share. So nothing has to be set up for it: no port, no volume, no flag, no rights. And the kernel closes
//! a socket with its process, so that an end is known however it came about.

use std::fmt;
use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener as StdListener, UnixStream as StdStream};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

/// How long a peer may take to answer, or to say what it wants.
const LIMIT: Duration = Duration::from_secs(1);
const QUIT: &[u8] = b"quit\n";
const DONE: &[u8] = b"done\n";
const WAIT: &[u8] = b"wait\n";

/// A container of this Pod in which proa may run. Its Pod's UID keeps it apart from those of other Pods where
/// they share the node's network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The Pod's UID.
    pub uid: String,
    /// The container's name.
    pub container: String,
}

/// The containers of this Pod in which a proa runs, but `own`. Nothing where the system does not tell
/// (`proc_net(5)`, /proc/net/unix).
#[must_use]
pub fn beside(uid: &str, own: Option<&str>) -> Vec<Peer> {
    let sockets = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let mut names: Vec<_> = containers(&sockets, uid).filter(|name| Some(*name) != own).collect();
    // A socket is listed once for itself and once for each connection that waits for it.
    names.sort_unstable();
    names.dedup();
    names.into_iter().map(|name| Peer { uid: uid.to_owned(), container: name.to_owned() }).collect()
}

fn containers<'a>(sockets: &'a str, uid: &'a str) -> impl Iterator<Item = &'a str> {
    let names = sockets.lines().filter_map(|line| line.split_whitespace().nth(7)?.strip_prefix("@proa/"));
    names.filter_map(move |name| name.strip_prefix(uid)?.strip_prefix('/'))
}

impl Peer {
    fn address(&self) -> io::Result<SocketAddr> {
        SocketAddr::from_abstract_name(format!("proa/{}/{}", self.uid, self.container))
    }

    /// Says that proa runs in this container, as long as the result lives.
    ///
    /// # Errors
    /// [`Unannounced::Taken`] when another proa does.
    pub fn announce(&self) -> Result<Presence, Unannounced> {
        let listen = || StdListener::bind_addr(&self.address()?);
        match listen() {
            Ok(listener) => Ok(Presence { listener }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                Err(Unannounced::Taken(self.container.clone()))
            }
            Err(error) => Err(Unannounced::Failed(error)),
        }
    }

    /// Waits until no proa runs in this container: at once, if none does.
    pub async fn gone(&self) {
        let Ok(mut stream) = self.connect() else { return };
        // Nothing is ever said; what comes is the end.
        while stream.read(&mut [0; 16]).await.is_ok_and(|count| count > 0) {}
    }

    /// Asks the sidecar that proa wraps in this container to end.
    ///
    /// # Errors
    /// When no proa is there, or none that wraps a sidecar.
    pub async fn quit(&self) -> io::Result<Heard> {
        let mut stream = self.connect()?;
        let mut answer = [0; DONE.len()];
        let ask = async {
            stream.write_all(QUIT).await?;
            stream.read_exact(&mut answer).await
        };
        timeout(LIMIT, ask).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok(if answer == *WAIT { Heard::NotYet } else { Heard::Ending })
    }

    fn connect(&self) -> io::Result<UnixStream> {
        // Succeeds or fails at once: the kernel queues connections up for a listener (listen(2)).
        let stream = StdStream::connect_addr(&self.address()?)?;
        stream.set_nonblocking(true)?;
        UnixStream::from_std(stream)
    }
}

/// What a wrapped sidecar made of the word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// It ends.
    Ending,
    /// It serves others too.
    NotYet,
}

/// Why it could not be said that proa runs here.
#[derive(Debug)]
pub enum Unannounced {
    /// Another proa runs in this container.
    Taken(String),
    /// The system does not let us.
    Failed(io::Error),
}

impl fmt::Display for Unannounced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken(container) => write!(
                f,
                "another proa runs in container `{container}` already; expected one, as the parent of everything else"
            ),
            Self::Failed(error) => write!(f, "cannot be seen by other proas of this Pod: {error}"),
        }
    }
}

impl std::error::Error for Unannounced {}

/// proa is there.
#[derive(Debug)]
pub struct Presence {
    listener: StdListener,
}

impl Presence {
    /// Waits until so many proas of this Pod have asked for the end: of several main containers the first speaks
    /// for itself alone.
    ///
    /// # Errors
    /// When the socket cannot be listened on.
    pub async fn quit_asked(&self, mut words: usize) -> io::Result<()> {
        let listener = self.listener.try_clone()?;
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        loop {
            let (mut stream, _) = listener.accept().await?;
            let mut said = [0; QUIT.len()];
            let heard = timeout(LIMIT, stream.read_exact(&mut said)).await;
            if !matches!(heard, Ok(Ok(_))) || said != *QUIT {
                continue;
            }
            words = words.saturating_sub(1);
            // Whoever asked may be gone already.
            let _ = stream.write_all(if words == 0 { DONE } else { WAIT }).await;
            if words == 0 {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(container: &str) -> Peer {
        Peer { uid: format!("test-{}", std::process::id()), container: container.into() }
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn one_proa_a_container() {
        let first = peer("one").announce().unwrap();
        assert!(matches!(peer("one").announce(), Err(Unannounced::Taken(_))));
        assert!(peer("two").announce().is_ok());
        drop(first);
        assert!(peer("one").announce().is_ok());
    }

    #[test]
    fn who_is_there_is_seen() {
        let uid = peer("").uid;
        let (_one, _two) = (peer("seen-1").announce().unwrap(), peer("seen-2").announce().unwrap());
        let names = |own| -> Vec<_> {
            let found = beside(&uid, own).into_iter().map(|peer| peer.container);
            found.filter(|name| name.starts_with("seen-")).collect()
        };
        assert_eq!(names(None), ["seen-1", "seen-2"]);
        assert_eq!(names(Some("seen-1")), ["seen-2"]);
        assert!(beside("another", None).is_empty());
    }

    #[test]
    fn an_end_is_seen() {
        let there = peer("ending").announce().unwrap();
        block_on(async {
            let gone = peer("ending");
            let mut gone = std::pin::pin!(gone.gone());
            assert!(timeout(Duration::from_millis(50), &mut gone).await.is_err(), "it is still there");
            drop(there);
            gone.await;
            peer("ending").gone().await;
        });
    }

    #[test]
    fn an_order_to_quit_is_taken_and_confirmed() {
        let there = peer("quitting").announce().unwrap();
        block_on(async {
            let (asked, told) = tokio::join!(there.quit_asked(1), async { peer("quitting").quit().await });
            asked.unwrap();
            assert_eq!(told.unwrap(), Heard::Ending);
            let (asked, (first, second)) = tokio::join!(there.quit_asked(2), async {
                (peer("quitting").quit().await, peer("quitting").quit().await)
            });
            asked.unwrap();
            assert_eq!((first.unwrap(), second.unwrap()), (Heard::NotYet, Heard::Ending));
        });
        assert!(block_on(async { peer("nobody").quit().await }).is_err());
    }
}
