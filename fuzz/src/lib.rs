//! What the targets share: connections whose other end says what the fuzzer wants, and Pods.

pub mod pods;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use proa::transport::{Failure, exchange};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

/// The room in a connection, each way.
const ROOM: usize = 4096;
/// What a peer says at most that repeats itself.
pub const MOST: usize = 2 * 1024 * 1024;

/// What a peer does once it has said everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It closes the connection.
    Close,
    /// It is silent.
    Hang,
    /// It says all of it again and again.
    Repeat,
}

impl Then {
    /// As a byte says.
    #[must_use]
    pub fn of(byte: u8) -> Self {
        match byte % 8 {
            0 => Self::Hang,
            1 => Self::Repeat,
            _ => Self::Close,
        }
    }
}

/// Runs a future on a clock that jumps to the next timer as soon as nothing else is left to do: a wait for ever ends at once, at
/// the limit that it has. What has no limit is a hang that libFuzzer finds.
///
/// # Panics
/// When there is no runtime to be had.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, future)
}

/// Pieces of a text, so long as the lengths say, in turn; at least a byte each.
pub fn pieces<'a>(text: &'a [u8], lengths: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut rest = text;
    let mut lengths = lengths.iter().cycle();
    std::iter::from_fn(move || {
        let length = lengths.next().map_or(usize::MAX, |length| usize::from(*length).max(1));
        let (piece, after) = rest.split_at(length.min(rest.len()));
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

/// A connection to a peer that says this, and how much of it was taken.
#[must_use]
pub fn peer(says: &[u8], lengths: &[u8], then: Then) -> (DuplexStream, Rc<Cell<usize>>) {
    let (ours, mut theirs) = duplex(ROOM);
    let taken = Rc::new(Cell::new(0));
    let (count, says, lengths) = (Rc::clone(&taken), says.to_vec(), lengths.to_vec());
    tokio::task::spawn_local(async move {
        // Whoever answers before there is a request is not heeded.
        let _ = theirs.read(&mut [0; ROOM]).await;
        loop {
            for piece in pieces(&says, &lengths) {
                if theirs.write_all(piece).await.is_err() {
                    return;
                }
                count.set(count.get() + piece.len());
                tokio::task::yield_now().await;
            }
            match then {
                Then::Close => break,
                Then::Repeat if !says.is_empty() && count.get() < MOST => {}
                Then::Hang | Then::Repeat => {
                    // Until the other end is gone.
                    let mut ignored = Vec::new();
                    let _ = theirs.read_to_end(&mut ignored).await;
                    break;
                }
            }
        }
        // What the other end says is read, as by a server that has an answer for everything.
        let _ = theirs.shutdown().await;
        let mut ignored = Vec::new();
        let _ = theirs.read_to_end(&mut ignored).await;
    });
    (ours, taken)
}

/// Sends some request over this connection.
///
/// # Errors
/// When there is no answer that makes sense.
///
/// # Panics
/// Never.
pub async fn ask(connection: DuplexStream) -> Result<http::Response<Incoming>, Failure> {
    let request = http::Request::get("/").header("host", "localhost").body(Empty::<Bytes>::new());
    exchange(TokioIo::new(connection), request.expect("a request")).await
}

/// Time that nobody would wait for.
pub const LONG: Duration = Duration::from_hours(1);
