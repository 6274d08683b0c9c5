//! What the proas of one Pod tell one another: that they are there, and that a wrapped sidecar is to end.
//!
//! Over abstract Unix sockets (unix(7)), whose names belong to the network namespace, which the containers of a
//! Pod share. So nothing has to be set up for it: no port, no volume, no flag, no rights. And the kernel closes
//! a socket with its process, so that an end is known however it came about.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener as StdListener, UnixStream as StdStream};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

/// How long a peer may take to answer, or to say what it wants.
const LIMIT: Duration = Duration::from_secs(1);
/// The word for the end; the name of the container that says it follows, and a line's end.
const QUIT: &str = "quit ";
const DONE: &[u8] = b"done\n";
const WAIT: &[u8] = b"wait\n";
/// The longest line to expect: a container's name has 63 characters at most (RFC 1123, DNS label).
const LONGEST: u64 = 128;

/// A container of this Pod in which proa may run. Its Pod's UID keeps it apart from those of other Pods where
/// they share the node's network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The Pod's UID.
    pub uid: String,
    /// The container's name.
    pub container: String,
}

/// The other proas of this Pod, as one of them sees them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peers {
    /// Whose name goes with a word to them: this container's.
    pub own: String,
    /// Those that take words.
    pub hearing: Vec<Peer>,
}

impl Peers {
    /// Looks around in container `own`. Finds nobody where the system does not tell (`proc_net(5)`,
    /// /proc/net/unix).
    #[must_use]
    pub fn beside(uid: &str, own: &str) -> Self {
        let sockets = fs::read_to_string("/proc/net/unix").unwrap_or_default();
        // A socket is listed once for itself and once for each connection that waits for it.
        let names: BTreeSet<_> = hearing(&sockets, uid).filter(|name| *name != own).collect();
        let peers = names.into_iter().map(|name| Peer { uid: uid.to_owned(), container: name.to_owned() });
        Self { own: own.to_owned(), hearing: peers.collect() }
    }
}

fn hearing<'a>(sockets: &'a str, uid: &'a str) -> impl Iterator<Item = &'a str> {
    let names = sockets.lines().filter_map(|line| line.split_whitespace().nth(7)?.strip_prefix("@proa/"));
    names.filter_map(move |name| name.strip_prefix(uid)?.strip_prefix('/')?.strip_suffix("/quit"))
}

impl Peer {
    /// Where it can be seen that proa runs in this container.
    fn presence(&self) -> io::Result<SocketAddr> {
        SocketAddr::from_abstract_name(format!("proa/{}/{}", self.uid, self.container))
    }

    /// Where it takes words; only a sidecar's does.
    fn ear(&self) -> io::Result<SocketAddr> {
        SocketAddr::from_abstract_name(format!("proa/{}/{}/quit", self.uid, self.container))
    }

    /// Says that proa runs in this container, as long as the result lives.
    ///
    /// # Errors
    /// [`Unannounced::Taken`] when another proa does.
    pub fn announce(self) -> Result<Presence, Unannounced> {
        let listen = || StdListener::bind_addr(&self.presence()?);
        match listen() {
            Ok(listener) => Ok(Presence { peer: self, _listener: listener }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(Unannounced::Taken(self.container)),
            Err(error) => Err(Unannounced::Failed(error)),
        }
    }

    /// Waits until no proa runs in this container: at once, if none does.
    pub async fn gone(&self) {
        let Ok(mut stream) = self.presence().and_then(|address| connect(&address)) else { return };
        // Nothing is ever said; what comes is the end.
        while stream.read(&mut [0; 16]).await.is_ok_and(|count| count > 0) {}
    }

    /// Asks the sidecar that proa wraps in this container to end, on behalf of container `from`.
    ///
    /// # Errors
    /// When no proa is there, none that wraps a sidecar, or none that answers.
    pub async fn quit(&self, from: &str) -> io::Result<Heard> {
        let mut stream = connect(&self.ear()?)?;
        let mut answer = [0; DONE.len()];
        let ask = async {
            stream.write_all(format!("{QUIT}{from}\n").as_bytes()).await?;
            stream.read_exact(&mut answer).await
        };
        timeout(LIMIT, ask).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok(if answer == *WAIT { Heard::NotYet } else { Heard::Ending })
    }
}

fn connect(address: &SocketAddr) -> io::Result<UnixStream> {
    // Succeeds or fails at once: the kernel queues connections up for a listener (listen(2)).
    let stream = StdStream::connect_addr(address)?;
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
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
    peer: Peer,
    _listener: StdListener,
}

impl Presence {
    /// Takes words from now on.
    ///
    /// # Errors
    /// When the system does not allow it.
    pub fn hear(&self) -> io::Result<Ear> {
        let listener = StdListener::bind_addr(&self.peer.ear()?)?;
        listener.set_nonblocking(true)?;
        Ok(Ear { listener, asked: RefCell::default() })
    }
}

/// Takes the words of other proas.
#[derive(Debug)]
pub struct Ear {
    listener: StdListener,
    /// The containers whose proas have asked for the end.
    asked: RefCell<BTreeSet<String>>,
}

impl Ear {
    /// Waits until those have asked for the end who are `enough`. Who has asked once need not ask again, whatever
    /// becomes of this wait.
    ///
    /// # Errors
    /// When the socket cannot be listened on.
    pub async fn asked(&self, enough: impl Fn(&BTreeSet<String>) -> bool) -> io::Result<()> {
        let listener = UnixListener::from_std(self.listener.try_clone()?)?;
        while !enough(&self.asked.borrow()) {
            let (stream, _) = listener.accept().await?;
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            let heard = timeout(LIMIT, (&mut stream).take(LONGEST).read_line(&mut line)).await;
            let from = line.strip_suffix('\n').and_then(|line| line.strip_prefix(QUIT));
            let Some(from) = from.filter(|_| matches!(heard, Ok(Ok(_)))) else {
                continue;
            };
            self.asked.borrow_mut().insert(from.to_owned());
            let answer = if enough(&self.asked.borrow()) { DONE } else { WAIT };
            // Whoever asked may be gone already.
            let _ = stream.write_all(answer).await;
        }
        Ok(())
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
    fn who_takes_words_is_seen() {
        let uid = peer("").uid;
        let there = ["seen-1", "seen-2", "seen-main"].map(|name| peer(name).announce().unwrap());
        let _ears = [there[0].hear().unwrap(), there[1].hear().unwrap()];
        let names = |own| -> Vec<_> {
            let found = Peers::beside(&uid, own).hearing.into_iter().map(|peer| peer.container);
            found.filter(|name| name.starts_with("seen-")).collect()
        };
        assert_eq!(names("seen-main"), ["seen-1", "seen-2"]);
        assert_eq!(names("seen-1"), ["seen-2"]);
        assert!(Peers::beside("another", "").hearing.is_empty());
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
        let ear = there.hear().unwrap();
        let quit = async |from: &str| peer("quitting").quit(from).await.unwrap();
        block_on(async {
            let both = |asked: &BTreeSet<_>| asked.len() == 2;
            let (asked, answers) =
                tokio::join!(ear.asked(both), async { [quit("a").await, quit("a").await, quit("b").await] });
            asked.unwrap();
            assert_eq!(answers, [Heard::NotYet, Heard::NotYet, Heard::Ending]);
            ear.asked(both).await.unwrap();
        });
        assert_eq!(*ear.asked.borrow(), ["a", "b"].map(String::from).into());
        assert!(block_on(peer("nobody").quit("a")).is_err());
    }

    #[test]
    fn what_is_no_order_is_passed_over() {
        let there = peer("pestered").announce().unwrap();
        let ear = there.hear().unwrap();
        for said in ["", "quit", "quit a", "QUIT a\n", "\u{0}\n", &"x".repeat(500)] {
            let mut stream = StdStream::connect_addr(&peer("pestered").ear().unwrap()).unwrap();
            io::Write::write_all(&mut stream, said.as_bytes()).unwrap();
        }
        block_on(async {
            let any = |asked: &BTreeSet<_>| !asked.is_empty();
            let (asked, told) = tokio::join!(ear.asked(any), async { peer("pestered").quit("a").await });
            asked.unwrap();
            assert_eq!(told.unwrap(), Heard::Ending);
        });
    }
}
