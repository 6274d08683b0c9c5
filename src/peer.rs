//! What the proas of one Pod tell one another: that they are there, and that a wrapped sidecar is to end.
//!
//! Over abstract Unix sockets (unix(7)), whose names belong to the network namespace, which the containers of a
//! Pod share. So nothing has to be set up for it: no port, no volume, no flag, no rights. And the kernel closes
//! a socket with its process, so that an end is known however it came about.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener as StdListener};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{sleep, timeout};

/// How long a peer may take to answer, or to say what it wants.
const LIMIT: Duration = Duration::from_secs(1);
/// How long until a peer whose queue is full is tried again.
const FULL: Duration = Duration::from_secs(1);
/// What a word begins with.
const QUIT: &str = "quit";
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

/// That a main container has ended: `quit NAME CODE` and a line's end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// The container.
    pub container: String,
    /// Its exit code.
    pub code: u8,
}

impl Message {
    fn parse(line: &str) -> Option<Self> {
        let mut parts = line.strip_suffix('\n')?.split(' ');
        let word = (parts.next()?, parts.next()?, parts.next()?, parts.next());
        let (QUIT, container, code, None) = word else {
            return None;
        };
        Some(Self { container: container.to_owned(), code: code.parse().ok()? })
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{QUIT} {} {}", self.container, self.code)
    }
}

/// The other proas of this Pod, as one of them sees them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peers {
    /// What is said to them.
    pub message: Message,
    /// Those that take words.
    pub listening: Vec<Peer>,
}

impl Peers {
    /// Looks around in the container that the word is of. Finds nobody where the system does not tell
    /// (`proc_net(5)`, /proc/net/unix).
    #[must_use]
    pub fn beside(uid: &str, message: Message) -> Self {
        let sockets = fs::read_to_string("/proc/net/unix").unwrap_or_default();
        // A socket is listed once for itself and once for each connection that waits for it.
        let names: BTreeSet<_> = listening(&sockets, uid).filter(|name| *name != message.container).collect();
        let peers = names.into_iter().map(|name| Peer { uid: uid.to_owned(), container: name.to_owned() });
        Self { message, listening: peers.collect() }
    }
}

fn listening<'a>(sockets: &'a str, uid: &'a str) -> impl Iterator<Item = &'a str> {
    let names = sockets.lines().filter_map(|line| line.split_whitespace().nth(7)?.strip_prefix("@proa/"));
    names.filter_map(move |name| name.strip_prefix(uid)?.strip_prefix('/')?.strip_suffix("/q"))
}

impl Peer {
    /// Where it can be seen that proa runs in this container.
    fn presence(&self) -> String {
        format!("proa/{}/{}", self.uid, self.container)
    }

    /// Where it takes words; only a sidecar's does. A name may have 107 bytes: with a UID's 36 and a container
    /// name's 63 this one has them all.
    fn inbox(&self) -> String {
        format!("proa/{}/{}/q", self.uid, self.container)
    }

    /// Says that proa runs in this container, as long as the result lives.
    ///
    /// # Errors
    /// [`Unannounced::Taken`] when another proa does.
    pub fn announce(self) -> Result<Presence, Unannounced> {
        match listen(&self.presence()) {
            Ok(listener) => Ok(Presence { peer: self, _listener: listener }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(Unannounced::Taken(self.container)),
            Err(error) => Err(Unannounced::Failed(error)),
        }
    }

    /// Waits until no proa runs in this container: at once, if none does.
    pub async fn gone(&self) {
        let mut stream = loop {
            match connect(&self.presence()).await {
                Ok(stream) => break stream,
                // It is there, and somebody has filled its queue up.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(FULL).await,
                Err(_) => return,
            }
        };
        // Nothing is ever said; what comes is the end.
        while stream.read(&mut [0; 16]).await.is_ok_and(|count| count > 0) {}
    }

    /// Asks the sidecar that proa wraps in this container to end.
    ///
    /// # Errors
    /// When no proa is there, none that wraps a sidecar, or none that answers.
    pub async fn quit(&self, message: &Message) -> io::Result<Reply> {
        let mut stream = connect(&self.inbox()).await?;
        let mut answer = [0; DONE.len()];
        let ask = async {
            stream.write_all(message.to_string().as_bytes()).await?;
            stream.read_exact(&mut answer).await
        };
        timeout(LIMIT, ask).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok(if answer == *WAIT { Reply::NotYet } else { Reply::Stopping })
    }
}

/// Succeeds or fails at once: the kernel queues connections up for a listener, and has no more room some time
/// (listen(2), `EAGAIN` in connect(2)).
async fn connect(name: &str) -> io::Result<UnixStream> {
    // A null byte first stands for an abstract name.
    UnixStream::connect(format!("\0{name}")).await
}

fn listen(name: &str) -> io::Result<StdListener> {
    StdListener::bind_addr(&SocketAddr::from_abstract_name(name)?)
}

/// What a wrapped sidecar made of the word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// It ends.
    Stopping,
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
    pub fn listen(&self) -> io::Result<MessageListener> {
        let listener = listen(&self.peer.inbox())?;
        listener.set_nonblocking(true)?;
        Ok(MessageListener(listener))
    }
}

/// Takes the messages of other proas.
#[derive(Debug)]
pub struct MessageListener(StdListener);

impl MessageListener {
    /// Waits for the next word that is `enough` to end on.
    ///
    /// # Errors
    /// When the socket cannot be listened on.
    pub async fn asked(&self, mut enough: impl FnMut(&Message) -> bool) -> io::Result<()> {
        let listener = UnixListener::from_std(self.0.try_clone()?)?;
        loop {
            let (stream, _) = listener.accept().await?;
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            let heard = timeout(LIMIT, (&mut stream).take(LONGEST).read_line(&mut line)).await;
            let Some(word) = Message::parse(&line).filter(|_| matches!(heard, Ok(Ok(_)))) else {
                continue;
            };
            let ending = enough(&word);
            // Whoever asked may be gone already.
            let _ = stream.write_all(if ending { DONE } else { WAIT }).await;
            if ending {
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

    fn word(container: &str) -> Message {
        Message { container: container.into(), code: 0 }
    }

    #[test]
    fn who_takes_words_is_seen() {
        let uid = peer("").uid;
        let there = ["seen-1", "seen-2", "seen-main"].map(|name| peer(name).announce().unwrap());
        let _ears = [there[0].listen().unwrap(), there[1].listen().unwrap()];
        let names = |own| -> Vec<_> {
            let found = Peers::beside(&uid, word(own)).listening.into_iter().map(|peer| peer.container);
            found.filter(|name| name.starts_with("seen-")).collect()
        };
        assert_eq!(names("seen-main"), ["seen-1", "seen-2"]);
        assert_eq!(names("seen-1"), ["seen-2"]);
        assert!(Peers::beside("another", word("")).listening.is_empty());
    }

    #[test]
    fn the_longest_names_fit() {
        let uid = "5f0c6d11-9b32-4c1e-8a5d-2f1a3b4c5d6e";
        let peer = Peer { uid: uid.into(), container: "c".repeat(63) };
        assert!(peer.announce().unwrap().listen().is_ok());
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
    fn who_fills_a_queue_up_hangs_nobody() {
        let there = peer("full").announce().unwrap();
        block_on(async {
            let mut crowd = Vec::new();
            while let Ok(stream) = connect(&peer("full").presence()).await {
                crowd.push(stream);
            }
            let full = peer("full");
            let mut gone = std::pin::pin!(full.gone());
            assert!(timeout(Duration::from_millis(50), &mut gone).await.is_err(), "it is still there");
            drop(there);
            gone.await;
        });
    }

    #[test]
    fn an_order_to_quit_is_taken_and_confirmed() {
        let there = peer("quitting").announce().unwrap();
        let ear = there.listen().unwrap();
        let quit = async |word| peer("quitting").quit(&word).await.unwrap();
        block_on(async {
            let mut heard = Vec::new();
            let second = |message: &Message| {
                heard.push(message.clone());
                heard.len() == 2
            };
            let said = [Message { container: "a".into(), code: 3 }, word("b")];
            let (asked, answers) = tokio::join!(ear.asked(second), async {
                [quit(said[0].clone()).await, quit(said[1].clone()).await]
            });
            asked.unwrap();
            assert_eq!(answers, [Reply::NotYet, Reply::Stopping]);
            assert_eq!(heard, said);
        });
        assert!(block_on(peer("nobody").quit(&word("a"))).is_err());
    }

    #[test]
    fn what_is_no_order_is_passed_over() {
        let there = peer("pestered").announce().unwrap();
        let ear = there.listen().unwrap();
        block_on(async {
            for said in [
                "",
                "quit",
                "quit a 0",
                "quit a\n",
                "quit a x\n",
                "quit a 0 0\n",
                "QUIT a 0\n",
                "\u{0}\n",
                &"x".repeat(500),
            ] {
                connect(&peer("pestered").inbox()).await.unwrap().write_all(said.as_bytes()).await.unwrap();
            }
            let (asked, told) =
                tokio::join!(ear.asked(|_| true), async { peer("pestered").quit(&word("a")).await });
            asked.unwrap();
            assert_eq!(told.unwrap(), Reply::Stopping);
        });
    }
}
