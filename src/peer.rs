//! How the proas of one Pod know of one another: that they are there, and that a wrapped sidecar is to shut down.
//!
//! Over abstract Unix sockets (unix(7)), whose names belong to the network namespace, which the containers of a
//! Pod share. So nothing has to be set up for it: no port, no volume, no flag, no rights. And the kernel closes
//! a socket with its process, so that an end is known however it came about.
//!
//! Whoever is in the network namespace can take a name or say that a main container has ended; with `hostNetwork` that is
//! every process of the node. Where the kernel shows that a process is of another Pod it is not heeded: that takes a PID
//! namespace in which we see it (`hostPID`), so under `hostNetwork` alone nobody is refused. A name that somebody else has taken
//! stops nobody.

pub mod handover;
pub mod message;
mod sender;

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener as StdListener};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, socket};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{sleep, timeout};
use tracing::debug;

use crate::crowd::Crowd;
use crate::identity::Mounts;
use crate::shortage::{is_shortage, once_there_is_enough};
use handover::Handover;
pub use message::{Message, Peer, Peers, Reply, Word};
use sender::Sender;

/// How long a peer may take to answer, or to say what it wants.
const LIMIT: Duration = Duration::from_secs(1);
/// How often it is asked, where it is there and does not answer.
const ATTEMPTS: usize = 3;
/// How long until a peer whose queue is full, or that cannot be reached for want of resources, is tried again.
const AGAIN: Duration = Duration::from_millis(500);
/// How long until messages are taken again after a failure to.
const RECOVER: Duration = Duration::from_millis(100);
/// How long a main container that is not the last one waits until sidecars have heard of its end.
const MOMENT: Duration = Duration::from_millis(100);
/// How many are listened to at once.
const CLIENTS: usize = 16;
const DONE: &[u8] = b"done\n";
const WAIT: &[u8] = b"wait\n";
/// A helper's: who knows the first line alone reads that it does not exit for the message.
const BY_ITSELF: &[u8] = b"wait\nby itself\n";
/// The longest line to expect: a container's name has 63 characters at most (RFC 1123, DNS label).
const LONGEST: u64 = 128;
/// The most that is read of the list of sockets: a line each for tens of thousands, more than a busy node has. Anybody may make more.
const LONGEST_LIST: u64 = 8 * 1024 * 1024;

impl Peers {
    /// Looks around in this container. Finds nobody where the system does not tell (`proc_net(5)`, /proc/net/unix).
    ///
    /// # Errors
    /// When it is short of what it takes to look, which says nothing.
    pub fn beside(uid: &str, container: &str, ended: Vec<Message>) -> io::Result<Self> {
        let sockets = sockets()?;
        // A socket is listed once for itself and once for each connection that waits for it.
        let names: BTreeSet<_> =
            message::listening(&sockets, uid).filter(|name| *name != container).collect();
        let peers = names.into_iter().map(|name| Peer { uid: uid.to_owned(), container: name.to_owned() });
        Ok(Self { listening: peers.collect(), ended })
    }
}

impl Peer {
    /// Ourselves, as far as the kubelet's mounts tell.
    #[must_use]
    pub fn of(mounts: &Mounts) -> Option<Self> {
        Some(Self { uid: mounts.uid.clone()?, container: mounts.container.clone()? })
    }

    /// Where it can be seen that proa runs in this container.
    fn presence(&self) -> String {
        format!("proa/{}/{}", self.uid, self.container)
    }

    /// Where it takes messages; only a sidecar's does. A name may have 107 bytes: with a UID's 36 and a container
    /// name's 63 this one has them all.
    fn inbox(&self) -> String {
        format!("proa/{}/{}/q", self.uid, self.container)
    }

    /// Where other main containers leave the sidecars to it; only a main container's does, and only until its command is over.
    fn handover(&self) -> String {
        format!("proa/{}/{}/m", self.uid, self.container)
    }

    /// Shows that proa runs in this container, as long as the result lives.
    ///
    /// # Errors
    /// [`Unannounced::Taken`] when another proa does.
    pub fn announce(self, part: Part) -> Result<Presence, Unannounced> {
        // First: a main container that is there and takes nothing is one whose command is over.
        let handover = match part {
            Part::Main => Some(Handover::open(&self)),
            Part::Sidecar => None,
        };
        match listen(&self.presence()) {
            Ok(listener) => match handover.transpose() {
                Ok(handover) => Ok(Presence { peer: self, handover, _listener: listener }),
                Err(error) => Err(Unannounced::Failed(error)),
            },
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => Err(Unannounced::Failed(error)),
            Err(_) => match owner(&self.presence()) {
                Ok(owner) if owner.is_in_our_container() => Err(Unannounced::Taken(self.container)),
                // Who that is cannot be told yet. One that refuses has just gone, or has yet to listen.
                Err(error) if is_shortage(&error) || error.kind() == io::ErrorKind::ConnectionRefused => {
                    Err(Unannounced::Failed(error))
                }
                Ok(_) | Err(_) => Err(Unannounced::Stranger(self.container)),
            },
        }
    }

    /// Whether proa runs in this container, where the system does not list that.
    ///
    /// # Errors
    /// When the system is short of what it takes to ask, which says nothing.
    pub async fn is_there(&self) -> io::Result<bool> {
        match connect(&self.presence()).await {
            Err(error) if is_shortage(&error) => Err(error),
            connected => Ok(shows_presence(&connected)),
        }
    }

    /// Whether proa runs in front of this main container's command, which is not over. Never waits.
    ///
    /// # Errors
    /// When the system is short of what it takes to ask, which says nothing.
    pub fn runs(&self) -> io::Result<bool> {
        match owner(&self.handover()) {
            Ok(owner) => Ok(!owner.is_of_another_pod(&self.uid)),
            Err(error) if is_shortage(&error) => Err(error),
            refused => Ok(shows_presence(&refused)),
        }
    }

    /// Waits until no proa runs in this container: at once, if none does.
    pub async fn gone(&self) {
        loop {
            match connect(&self.presence()).await {
                Ok(mut stream) => {
                    if closed(&mut stream).await {
                        return;
                    }
                }
                // Nobody listens: the kernel has closed the socket with its process.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return,
                // Somebody has filled its queue up (listen(2), connect(2) `EAGAIN`), or we are short of something. Neither
                // is an end.
                Err(error) => debug!(%error, container = self.container, "cannot tell whether proa is there"),
            }
            sleep(AGAIN).await;
        }
    }

    /// Notifies the sidecar that proa wraps in this container of each that has ended, until it shuts down.
    ///
    /// # Errors
    /// When no proa is there ([`io::ErrorKind::ConnectionRefused`]), none that wraps a sidecar, or none that answers.
    pub async fn notify(&self, ended: &[Message]) -> io::Result<Reply> {
        let mut last = Reply::NotYet;
        for message in ended {
            last = self.notify_of(message).await?;
            if last == Reply::Stopping {
                break;
            }
        }
        Ok(last)
    }

    async fn notify_of(&self, message: &Message) -> io::Result<Reply> {
        let mut last = io::Error::from(io::ErrorKind::TimedOut);
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                sleep(AGAIN).await;
            }
            // Where there is no socket to be had, it is not asked.
            let _ = once_there_is_enough(None, UnixDatagram::unbound).await;
            // Saying it twice does no harm.
            match timeout(LIMIT, self.converse(&Word::Quit(message.clone()))).await {
                Ok(Ok(reply)) => return Ok(reply),
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => return Err(error),
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(last)
    }

    /// Tells the sidecar that proa wraps in this container that a main one has ended, while the sidecars are left to others. An exit
    /// code waits for it, so that takes a moment at most: a sidecar that does not answer finds the word in its socket later.
    ///
    /// # Errors
    /// When no proa is there ([`io::ErrorKind::ConnectionRefused`]), none that wraps a sidecar, or none that answers. The last main
    /// container speaks for all.
    pub async fn tell(&self, ended: Message) -> io::Result<Reply> {
        let word = Word::Ended(ended);
        let attempts = async {
            let mut last = io::Error::from(io::ErrorKind::TimedOut);
            for attempt in 0..ATTEMPTS {
                if attempt > 0 {
                    sleep(MOMENT / 10).await;
                }
                match self.converse(&word).await {
                    // Its queue was full, or the end of a phase has cut it off. Or it is of a release that does not know the word.
                    Err(error) if error.kind() != io::ErrorKind::ConnectionRefused => last = error,
                    done => return done,
                }
            }
            Err(last)
        };
        timeout(MOMENT, attempts).await?
    }

    async fn converse(&self, word: &Word) -> io::Result<Reply> {
        let mut stream = connect(&self.inbox()).await?;
        stream.write_all(word.to_string().as_bytes()).await?;
        let mut answer = vec![0; DONE.len()];
        stream.read_exact(&mut answer).await?;
        if answer != WAIT {
            return Ok(Reply::Stopping);
        }
        // Nothing follows but more of the answer, and its end.
        let _ = stream.take(LONGEST).read_to_end(&mut answer).await;
        Ok(if answer == BY_ITSELF { Reply::ByItself } else { Reply::NotYet })
    }
}

/// A queue that is full is somebody's (connect(2), `EAGAIN`). That we are not allowed to ask says nothing of anybody.
fn shows_presence<T>(connected: &io::Result<T>) -> bool {
    match connected {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

/// Waits for the other end to close a connection on which nothing is ever said. Whether it did: other failures say
/// nothing of that.
async fn closed(stream: &mut UnixStream) -> bool {
    loop {
        match stream.read(&mut [0; 16]).await {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == io::ErrorKind::ConnectionReset,
        }
    }
}

/// Succeeds or fails at once: the kernel queues connections up for a listener, and has no more room some time
/// (listen(2), `EAGAIN` in connect(2)).
async fn connect(name: &str) -> io::Result<UnixStream> {
    // A null byte first stands for an abstract name.
    UnixStream::connect(format!("\0{name}")).await
}

/// The sockets of our network namespace (`proc_net(5)`); none where the system does not list them. A failure is a shortage.
fn sockets() -> io::Result<Vec<u8>> {
    let mut list = Vec::new();
    let read =
        fs::File::open("/proc/net/unix").and_then(|file| file.take(LONGEST_LIST).read_to_end(&mut list));
    if let Err(error) = read {
        debug!(%error, "cannot list the sockets of this network namespace");
        if is_shortage(&error) {
            return Err(error);
        }
    }
    Ok(list)
}

fn listen(name: &str) -> io::Result<StdListener> {
    StdListener::bind_addr(&SocketAddr::from_abstract_name(name)?)
}

/// Who listens under this name. Never waits, however full its queue is.
fn owner(name: &str) -> io::Result<Sender> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let client: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    nix::sys::socket::connect(client.as_raw_fd(), &UnixAddr::new_abstract(name.as_bytes())?)?;
    Ok(Sender::of(&client))
}

/// Why it could not be shown that proa runs here.
#[derive(Debug)]
pub enum Unannounced {
    /// Another proa runs in this container.
    Taken(String),
    /// Somebody outside of this container has taken its name.
    Stranger(String),
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
            Self::Stranger(container) => write!(
                f,
                "a process outside of this container holds the socket by which wrapped sidecars see that `{container}` runs; \
                 going on without it: with --hold-term they wait as long as their grace period allows"
            ),
            Self::Failed(error) => write!(f, "cannot be seen by other proas of this Pod: {error}"),
        }
    }
}

impl std::error::Error for Unannounced {}

/// What proa is the entrypoint of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A main container.
    Main,
    /// A sidecar.
    Sidecar,
}

/// proa is there.
#[derive(Debug)]
pub struct Presence {
    peer: Peer,
    handover: Option<Handover>,
    _listener: StdListener,
}

impl Presence {
    /// What other main containers leave the sidecars by; once, and a main container's alone.
    pub fn handover(&mut self) -> Option<Handover> {
        self.handover.take()
    }

    /// Takes messages from now on.
    ///
    /// # Errors
    /// When the system does not allow it.
    pub fn listen(&self) -> io::Result<MessageListener> {
        let listener = listen(&self.peer.inbox())?;
        listener.set_nonblocking(true)?;
        Ok(MessageListener { listener, uid: self.peer.uid.clone() })
    }
}

/// Takes the messages of other proas.
#[derive(Debug)]
pub struct MessageListener {
    listener: StdListener,
    uid: String,
}

impl MessageListener {
    /// Waits for a word to which the `answer` is that we shut down. Nobody can keep the others waiting, and no failure is for
    /// good.
    pub async fn asked(&self, mut answer: impl FnMut(&Word) -> Reply) {
        let listener = loop {
            let copy = self.listener.try_clone().and_then(UnixListener::from_std);
            match copy {
                Ok(listener) => break listener,
                Err(error) => debug!(%error, "cannot listen for other proas of this Pod"),
            }
            sleep(RECOVER).await;
        };
        let mut clients = Crowd::new(CLIENTS);
        loop {
            let (mut stream, word) = tokio::select! {
                accepted = listener.accept() => {
                    match accepted {
                        Ok((stream, _)) => clients.enter(take(stream, &self.uid)),
                        Err(error) => {
                            debug!(%error, "cannot accept a message");
                            sleep(RECOVER).await;
                        }
                    }
                    continue;
                }
                taken = clients.next() => match taken {
                    Some(taken) => taken,
                    None => continue,
                },
            };
            let reply = answer(&word);
            let words = match reply {
                Reply::Stopping => DONE,
                Reply::NotYet => WAIT,
                Reply::ByItself => BY_ITSELF,
            };
            // Whoever asked may be gone already. The answer has room in the socket: this never waits.
            let _ = timeout(LIMIT, stream.write_all(words)).await;
            if reply == Reply::Stopping {
                return;
            }
        }
    }
}

/// Takes a word; `None` where there is none, or where it is of another Pod's process.
async fn take(stream: UnixStream, uid: &str) -> Option<(UnixStream, Word)> {
    if Sender::of(&stream).is_of_another_pod(uid) {
        debug!("a process of another Pod is not heeded");
        return None;
    }
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    timeout(LIMIT, (&mut stream).take(LONGEST).read_until(b'\n', &mut line)).await.ok()?.ok()?;
    Some((stream.into_inner(), Word::parse(&line)?))
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;

    fn peer(container: &str) -> Peer {
        Peer { uid: format!("test-{}", std::process::id()), container: container.into() }
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn one_proa_a_container() {
        let first = peer("one").announce(Part::Sidecar).unwrap();
        assert!(matches!(peer("one").announce(Part::Sidecar), Err(Unannounced::Taken(_))));
        assert!(peer("two").announce(Part::Sidecar).is_ok());
        drop(first);
        assert!(peer("one").announce(Part::Sidecar).is_ok());
    }

    fn from(container: &str) -> Message {
        Message { container: container.into(), code: 0 }
    }

    #[test]
    fn who_takes_messages_is_seen() {
        let uid = peer("").uid;
        let there = ["seen-1", "seen-2", "seen-main"].map(|name| peer(name).announce(Part::Sidecar).unwrap());
        let _listeners = [there[0].listen().unwrap(), there[1].listen().unwrap()];
        let names = |own| -> Vec<_> {
            let found = Peers::beside(&uid, own, Vec::new())
                .unwrap()
                .listening
                .into_iter()
                .map(|peer| peer.container);
            found.filter(|name| name.starts_with("seen-")).collect()
        };
        assert_eq!(names("seen-main"), ["seen-1", "seen-2"]);
        assert_eq!(names("seen-1"), ["seen-2"]);
        assert!(Peers::beside("another", "", Vec::new()).unwrap().listening.is_empty());
    }

    #[test]
    fn the_longest_names_fit() {
        let uid = "5f0c6d11-9b32-4c1e-8a5d-2f1a3b4c5d6e";
        let peer = Peer { uid: uid.into(), container: "c".repeat(63) };
        assert!(peer.announce(Part::Sidecar).unwrap().listen().is_ok());
    }

    #[test]
    fn an_end_is_seen() {
        let there = peer("ending").announce(Part::Sidecar).unwrap();
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
    fn a_failure_of_ours_is_nobody() {
        for (errno, there) in [
            (Errno::EAGAIN, true),
            (Errno::ECONNREFUSED, false),
            (Errno::EMFILE, false),
            (Errno::ENFILE, false),
            (Errno::ENOMEM, false),
            (Errno::EACCES, false),
        ] {
            assert_eq!(shows_presence::<()>(&Err(errno.into())), there, "{errno}");
        }
    }

    #[test]
    fn who_fills_a_queue_up_hangs_nobody() {
        let there = peer("full").announce(Part::Sidecar).unwrap();
        block_on(async {
            let mut crowd = Vec::new();
            while let Ok(stream) = connect(&peer("full").presence()).await {
                crowd.push(stream);
            }
            assert!(
                peer("full").is_there().await.unwrap() && !peer("nobody-there").is_there().await.unwrap()
            );
            let full = peer("full");
            let mut gone = std::pin::pin!(full.gone());
            assert!(timeout(Duration::from_millis(50), &mut gone).await.is_err(), "it is still there");
            drop(there);
            gone.await;
        });
    }

    #[test]
    fn a_message_is_taken_and_confirmed() {
        let there = peer("quitting").announce(Part::Sidecar).unwrap();
        let listener = there.listen().unwrap();
        let notify = async |message| peer("quitting").notify(&[message]).await.unwrap();
        block_on(async {
            let mut taken = Vec::new();
            let replies = [Reply::NotYet, Reply::ByItself, Reply::Stopping];
            let third = |word: &Word| {
                taken.push(word.clone());
                replies[taken.len() - 1]
            };
            let ((), heard) = tokio::join!(listener.asked(third), async {
                let first = peer("quitting").tell(Message { container: "a".into(), code: 3 }).await.unwrap();
                [first, notify(from("b")).await, notify(from("c")).await]
            });
            assert_eq!(heard, replies);
            let ended = Word::Ended(Message { container: "a".into(), code: 3 });
            assert_eq!(taken, [ended, Word::Quit(from("b")), Word::Quit(from("c"))]);
        });
        assert!(block_on(peer("nobody").notify(&[from("a")])).is_err());
        assert!(block_on(peer("nobody").tell(from("a"))).is_err());
    }

    #[test]
    fn who_tells_of_an_end_waits_for_a_moment_at_most_and_is_heard_later() {
        let there = peer("hung").announce(Part::Sidecar).unwrap();
        let listener = there.listen().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        runtime.unwrap().block_on(async {
            let begun = crate::deadline::now();
            let told = peer("hung").tell(from("a")).await;
            assert_eq!(told.unwrap_err().kind(), io::ErrorKind::TimedOut);
            // A timer is late by a millisecond at most.
            assert!(crate::deadline::elapsed(begun) <= MOMENT + Duration::from_millis(1));
            let mut taken = None;
            listener
                .asked(|word| {
                    taken = Some(word.clone());
                    Reply::Stopping
                })
                .await;
            assert_eq!(taken, Some(Word::Ended(from("a"))));
        });
    }

    #[test]
    fn a_main_container_runs_until_its_command_is_over_however_full_its_queue_is() {
        let main = peer("running");
        assert!(!main.runs().unwrap());
        let mut there = peer("running").announce(Part::Main).unwrap();
        assert!(main.runs().unwrap());
        block_on(there.handover().unwrap().withdraw(&handover::Left::default()));
        assert!(!main.runs().unwrap(), "its command is over");
        drop(there);
        let _there = peer("running").announce(Part::Main).unwrap();
        // The kernel keeps each in the queue, though it is closed at once.
        let full = std::iter::repeat_with(|| owner(&main.handover())).find_map(Result::err).unwrap();
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        assert!(main.runs().unwrap());
    }

    #[test]
    fn what_is_no_message_is_passed_over_and_the_silent_keep_nobody_waiting() {
        let there = peer("pestered").announce(Part::Sidecar).unwrap();
        let listener = there.listen().unwrap();
        block_on(async {
            let mut silent = Vec::new();
            for sent in ["", "quit a x\n", &"x".repeat(500)] {
                let mut stream = connect(&peer("pestered").inbox()).await.unwrap();
                stream.write_all(sent.as_bytes()).await.unwrap();
            }
            for _ in 0..50 {
                silent.push(connect(&peer("pestered").inbox()).await.unwrap());
            }
            let ((), reply) = tokio::join!(listener.asked(|_| Reply::Stopping), async {
                peer("pestered").notify(&[from("a")]).await
            });
            assert_eq!(reply.unwrap(), Reply::Stopping);
        });
    }

    /// There may be another release of proa in each container.
    #[test]
    fn an_older_proa_takes_a_helper_for_one_that_stays() {
        assert_eq!(BY_ITSELF[..DONE.len()], *WAIT);
    }

    #[test]
    fn a_message_that_gets_no_answer_is_sent_again() {
        let there = peer("deaf").announce(Part::Sidecar).unwrap();
        let inbox = listen(&peer("deaf").inbox()).unwrap();
        inbox.set_nonblocking(true).unwrap();
        block_on(async {
            let inbox = UnixListener::from_std(inbox).unwrap();
            let answering = async {
                // The first connection breaks without an answer.
                drop(inbox.accept().await.unwrap());
                let (mut stream, _) = inbox.accept().await.unwrap();
                stream.write_all(DONE).await.unwrap();
                stream
            };
            let (_stream, reply) = tokio::join!(answering, async { peer("deaf").notify(&[from("a")]).await });
            assert_eq!(reply.unwrap(), Reply::Stopping);
        });
        drop(there);
    }
}
