//! Which of a Pod's main containers shuts the sidecars down: the last. Each listens for as long as it may need them. One whose
//! command is over stops listening, and looks only then who still listens: of two that end in the same instant at least one
//! finds nobody left.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener as StdListener;
use std::time::Duration;

use futures::future::join_all;
use nix::sys::socket::{Shutdown, shutdown};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::message::{self, Message, Peer};
use super::sender::Sender;
use super::{LIMIT, LONGEST, connect, listen, sockets};
use crate::deadline::{elapsed, now};
use crate::shortage::{self, PAUSE, is_shortage};

/// How often a main container whose queue is full is tried, and the pause between.
const ATTEMPTS: usize = 5;
const AGAIN: Duration = Duration::from_millis(50);
/// The most that is read of what another main container left: a line for each of dozens.
const LONGEST_TEXT: u64 = 4 * 1024;
/// How many main containers can have left the sidecars to one. Anybody may say so of any name, and the kernel queues up thousands who do.
const MOST: usize = 256;

/// Takes what other main containers leave to this one. They never wait for that: the kernel queues their connections up, and
/// nobody reads them before this one's command is over.
#[derive(Debug)]
pub struct Handover {
    listener: StdListener,
    /// A descriptor to give back: without a free one accept(2) fails, even if the queue is empty.
    spare: Option<StdListener>,
    uid: String,
}

impl Handover {
    pub(super) fn open(peer: &Peer) -> io::Result<Self> {
        let listener = listen(&peer.handover())?;
        listener.set_nonblocking(true)?;
        let spare = listener.try_clone().ok();
        Ok(Self { listener, spare, uid: peer.uid.clone() })
    }

    /// Stops listening, and takes what the main containers have `left` that have ended: who stops this half way has what came so far.
    pub async fn withdraw(mut self, left: &Left) {
        // A listener that is shut down refuses connections, and those in its queue can still be accepted (unix(7);
        // `unix_stream_connect` and `unix_accept` in net/unix/af_unix.c): nothing is lost between the last look and the close.
        if let Err(error) = shutdown(self.listener.as_raw_fd(), Shutdown::Read) {
            debug!(%error, "cannot shut the listener down before its last connections are taken");
        }
        let begun = now();
        loop {
            let (queued, end) = self.queued();
            let any = !queued.is_empty();
            // Side by side: nobody who is silent takes more time than one. Of each no more is kept than a line, and of all of them what
            // is new: who floods us must not have the kernel kill us for want of memory, and the exit code be lost.
            let read = queued.into_iter().map(async |stream| {
                if Sender::of(&stream).is_of_another_pod(&self.uid) {
                    debug!("a process of another Pod is not heeded");
                    return;
                }
                let _ = timeout(LIMIT, read_lines(stream, |message| left.note(message))).await;
            });
            join_all(read).await;
            // What took descriptors has given them back; or somebody else does, later.
            match end {
                Some(error) if elapsed(begun) < shortage::LONGEST => {
                    debug!(%error, "cannot take all that other main containers have left yet");
                    if !any && self.spare.take().is_none() {
                        sleep(PAUSE).await;
                    }
                }
                Some(error) => {
                    warn!("what other main containers have left to this one is not taken: {error}");
                    break;
                }
                None => break,
            }
        }
    }

    /// The connections in the queue; an error: there are more, which a shortage keeps there.
    fn queued(&self) -> (Vec<UnixStream>, Option<io::Error>) {
        let mut left = Vec::new();
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    let _ = stream.set_nonblocking(true);
                    left.extend(UnixStream::from_std(stream).ok());
                }
                Err(error) => return (left, Some(error).filter(is_shortage)),
            }
        }
    }
}

/// Takes one message a line, until there are no more or one line is longer than any.
async fn read_lines(stream: UnixStream, mut take: impl FnMut(Message)) {
    let size = usize::try_from(LONGEST).unwrap_or(usize::MAX);
    let mut stream = BufReader::with_capacity(size, stream.take(LONGEST_TEXT));
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut stream).take(LONGEST).read_until(b'\n', &mut line).await {
            Ok(1..) if line.ends_with(b"\n") => Message::parse(&line).into_iter().for_each(&mut take),
            Ok(_) | Err(_) => return,
        }
    }
}

/// What other main containers have left to one: who of them has ended.
#[derive(Debug, Default)]
pub struct Left(RefCell<BTreeMap<String, u8>>);

impl Left {
    /// The last word on a container counts: it may have been started again.
    fn note(&self, Message { container, code }: Message) {
        let mut found = self.0.borrow_mut();
        if found.len() < MOST || found.contains_key(&container) {
            found.insert(container, code);
        }
    }

    /// A message of each.
    #[must_use]
    pub fn into_messages(self) -> Vec<Message> {
        self.0.into_inner().into_iter().map(|(container, code)| Message { container, code }).collect()
    }
}

/// Leaves the sidecars to those of these main containers that still listen: their names. `ended`: who will not need the
/// sidecars any more.
///
/// # Errors
/// When none is seen to, and the system is short of what it takes to ask one of them, which says nothing.
pub async fn hand_over(peers: Vec<Peer>, ended: &[Message]) -> io::Result<BTreeSet<String>> {
    let text: String = ended.iter().map(ToString::to_string).collect();
    let (mut listening, mut short) = (BTreeSet::new(), None);
    for peer in peers {
        match leave_to(&peer, &text).await {
            Ok(true) => drop(listening.insert(peer.container)),
            Ok(false) => {}
            Err(error) => short = Some(error),
        }
    }
    // Who listens keeps the sidecars, whoever else there is.
    short.filter(|_| listening.is_empty()).map_or(Ok(listening), Err)
}

async fn leave_to(peer: &Peer, text: &str) -> io::Result<bool> {
    let mut is_full = false;
    for _ in 0..ATTEMPTS {
        match connect(&peer.handover()).await {
            Ok(stream) if Sender::of(&stream).is_of_another_pod(&peer.uid) => return Ok(false),
            Ok(mut stream) => {
                return match timeout(LIMIT, stream.write_all(text.as_bytes())).await {
                    Ok(Err(error)) if is_shortage(&error) => Err(error),
                    // It has closed its queue meanwhile.
                    Ok(Err(_)) => Ok(false),
                    // What is not read is somebody's all the same.
                    Ok(Ok(())) | Err(_) => Ok(true),
                };
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(false),
            Err(error) if is_shortage(&error) => return Err(error),
            Err(error) => {
                // Its queue is full (connect(2), `EAGAIN`): it is there. That we may not ask says nothing of it.
                is_full = error.kind() == io::ErrorKind::WouldBlock;
                debug!(%error, container = peer.container, "cannot leave the sidecars to it yet");
            }
        }
        sleep(AGAIN).await;
    }
    Ok(is_full)
}

/// The other proas of the Pod, as /proc/net/unix shows them (`proc_net(5)`); none where the system does not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sockets {
    /// Containers in which proa runs.
    pub present: BTreeSet<String>,
    /// Containers in which it runs in front of a main container's command that is not over.
    pub mains: BTreeSet<String>,
}

impl Sockets {
    /// Looks.
    ///
    /// # Errors
    /// When the system is short of what it takes to look, which says nothing.
    pub fn look(uid: &str) -> io::Result<Self> {
        let sockets = sockets()?;
        let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
        Ok(Self {
            present: owned(message::present(&sockets, uid).collect()),
            mains: owned(message::mains(&sockets, uid).collect()),
        })
    }

    /// The same for who looks often, and takes from each look what is new.
    #[must_use]
    pub fn of(uid: &str) -> Self {
        Self::look(uid).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::{Part, Presence};

    fn peer(container: &str) -> Peer {
        Peer { uid: format!("handover-{}", std::process::id()), container: container.into() }
    }

    fn main(container: &str) -> (Presence, Handover) {
        let mut presence = peer(container).announce(Part::Main).unwrap();
        let handover = presence.handover().unwrap();
        (presence, handover)
    }

    fn from(container: &str, code: u8) -> Message {
        Message { container: container.into(), code }
    }

    async fn withdrawn(handover: Handover) -> Vec<Message> {
        let left = Left::default();
        handover.withdraw(&left).await;
        left.into_messages()
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn what_is_left_to_one_that_runs_is_there_once_it_is_over() {
        let (_there, handover) = main("left-to");
        block_on(async {
            let left =
                hand_over(vec![peer("left-to"), peer("left-to-nobody")], &[from("a", 3), from("b", 0)]).await;
            assert_eq!(left.unwrap(), BTreeSet::from(["left-to".to_owned()]));
            assert_eq!(withdrawn(handover).await, [from("a", 3), from("b", 0)]);
        });
    }

    #[test]
    fn one_that_has_withdrawn_takes_nothing_and_is_still_there() {
        let (_there, handover) = main("withdrawn");
        let uid = peer("").uid;
        assert!(Sockets::of(&uid).mains.contains("withdrawn"));
        block_on(async {
            withdrawn(handover).await;
            assert!(hand_over(vec![peer("withdrawn")], &[from("a", 0)]).await.unwrap().is_empty());
        });
        let sockets = Sockets::of(&uid);
        assert!(sockets.present.contains("withdrawn") && !sockets.mains.contains("withdrawn"));
    }

    #[test]
    fn who_connects_and_says_nothing_keeps_nobody_for_long() {
        let (_there, handover) = main("pestered-main");
        block_on(async {
            let mut silent = Vec::new();
            for _ in 0..20 {
                silent.push(connect(&peer("pestered-main").handover()).await.unwrap());
            }
            let begun = std::time::Instant::now();
            hand_over(vec![peer("pestered-main")], &[from("a", 0)]).await.unwrap();
            assert_eq!(withdrawn(handover).await, [from("a", 0)]);
            assert!(begun.elapsed() < LIMIT * 5, "{:?}", begun.elapsed());
        });
    }

    /// As where the container is about to be killed.
    #[test]
    fn who_stops_half_way_has_what_came_so_far() {
        let (_there, handover) = main("half-way");
        let left = Left::default();
        block_on(async {
            let _silent = connect(&peer("half-way").handover()).await.unwrap();
            hand_over(vec![peer("half-way")], &[from("a", 3)]).await.unwrap();
            tokio::select! {
                biased;
                () = handover.withdraw(&left) => panic!("one is silent"),
                () = async { while left.0.borrow().is_empty() { sleep(Duration::from_millis(1)).await } } => {}
            }
        });
        assert_eq!(left.into_messages(), [from("a", 3)]);
    }

    #[test]
    fn a_full_queue_is_somebody() {
        let (_there, _handover) = main("full-main");
        block_on(async {
            let mut crowd = Vec::new();
            while let Ok(stream) = connect(&peer("full-main").handover()).await {
                crowd.push(stream);
            }
            assert_eq!(hand_over(vec![peer("full-main")], &[]).await.unwrap().len(), 1);
        });
    }

    #[test]
    fn of_many_that_withdraw_together_at_least_one_finds_nobody() {
        const TOGETHER: usize = 3;
        for round in 0..300 {
            let name = |number: usize| format!("race-{round}-{number}");
            let mains: Vec<_> = (0..TOGETHER).map(|number| main(&name(number))).collect();
            let barrier = std::sync::Barrier::new(TOGETHER);
            let alone = std::thread::scope(|scope| {
                let racing: Vec<_> = mains
                    .into_iter()
                    .enumerate()
                    .map(|(number, (presence, handover))| {
                        let barrier = &barrier;
                        scope.spawn(move || {
                            barrier.wait();
                            block_on(async {
                                withdrawn(handover).await;
                                let others = (0..TOGETHER).filter(|other| *other != number);
                                let others = others.map(|other| peer(&name(other))).collect();
                                let left = hand_over(others, &[from(&name(number), 0)]).await;
                                drop(presence);
                                left.unwrap().is_empty()
                            })
                        })
                    })
                    .collect();
                racing.into_iter().map(|race| race.join().unwrap()).filter(|alone| *alone).count()
            });
            assert!(alone >= 1, "round {round}");
        }
    }
}
