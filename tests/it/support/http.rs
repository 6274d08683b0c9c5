//! An HTTP endpoint of a sidecar, which answers as it is told and remembers what it was asked.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{Backlog, listen};

use super::PATIENCE;

/// What happens to one connection.
#[derive(Clone)]
pub(crate) enum Reply {
    /// This status, with this header line if there is one.
    Status(u16, Option<String>),
    /// This status, and nobody listens any more.
    Last(u16),
    /// The connection is closed after the request, without an answer.
    Close,
    /// The same, and nobody listens any more.
    CloseForGood,
    /// No answer, while the test lasts.
    Hang,
}

/// The endpoint.
pub(crate) struct Endpoint {
    address: SocketAddr,
    requests: Receiver<String>,
}

impl Endpoint {
    /// Answers with these, one a connection; with the last for ever.
    pub(crate) fn replying(replies: Vec<Reply>) -> Self {
        Self::at("127.0.0.1:0", replies)
    }

    pub(crate) fn at(address: &str, replies: Vec<Reply>) -> Self {
        let listener = TcpListener::bind(address).expect("a port");
        let address = listener.local_addr().expect("an address");
        let (sender, requests) = channel();
        thread::spawn(move || serve(listener, &replies, &sender));
        Self { address, requests }
    }

    pub(crate) fn ok() -> Self {
        Self::replying(vec![Reply::Status(200, None)])
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/quitquitquit", self.address)
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// The next request's head, as it was sent.
    #[track_caller]
    pub(crate) fn request(&self) -> String {
        self.requests.recv_timeout(PATIENCE).expect("a request")
    }

    /// Requests that have come and were not looked at.
    pub(crate) fn more_requests(&self) -> usize {
        self.requests.try_iter().count()
    }
}

/// A URL at which nobody listens.
pub(crate) fn refusing_url() -> String {
    // The port of tcpmux, a service of the eighties. One that was free a moment ago may be another test's now.
    "http://127.0.0.1:1/quitquitquit".to_owned()
}

/// An address that answers nothing to whoever connects, while this is held: the kernel drops what a full queue has no room for.
pub(crate) fn silent(address: SocketAddr) -> impl Sized {
    let listener = TcpListener::bind(address).expect("a free port");
    listen(&listener, Backlog::new(0).expect("a length")).expect("a listener may be told anew");
    let mut queue = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) {
        queue.push(stream);
    }
    (listener, queue)
}

fn serve(listener: TcpListener, replies: &[Reply], requests: &Sender<String>) {
    let mut hung = Vec::new();
    for number in 0.. {
        let Ok((stream, _)) = listener.accept() else { return };
        let Some(head) = read_head(&stream) else { continue };
        if requests.send(head).is_err() {
            return;
        }
        match replies[number.min(replies.len() - 1)].clone() {
            Reply::Status(status, header) => {
                let header = header.map(|line| line + "\r\n").unwrap_or_default();
                let _ = write!(
                    &stream,
                    "HTTP/1.1 {status} X\r\n{header}content-length: 0\r\nconnection: close\r\n\r\n"
                );
            }
            Reply::Last(status) => {
                // Whoever has the answer is to find nobody listening.
                drop(listener);
                let _ =
                    write!(&stream, "HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                return;
            }
            Reply::Close => {}
            Reply::CloseForGood => return,
            Reply::Hang => hung.push(stream),
        }
    }
}

fn read_head(stream: &TcpStream) -> Option<String> {
    let mut head = String::new();
    let mut reader = BufReader::new(stream);
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    Some(head)
}
