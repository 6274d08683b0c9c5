//! Stderr, which may be a full pipe or a terminal that nobody reads: a log collector that hangs must not hold up signals, or the
//! command's exit code.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{SFlag, fstat};

use crate::deadline::{elapsed, now};

/// How long a line waits for room, in milliseconds. Those after it, until there is some again, do not wait.
const PATIENCE: u8 = 250;
/// How long a line may take in all, where its reader is slow.
const LONGEST: Duration = Duration::from_secs(1);
/// A pipe that can be written to takes at least this much at once (`PIPE_BUF`, pipe(7)).
const AT_ONCE: usize = 4096;

/// Lines since the last that could be written.
static LOST: AtomicUsize = AtomicUsize::new(0);
/// Whether the last one breaks off.
static BROKEN: AtomicBool = AtomicBool::new(false);

/// Writes it if there is room. What cannot be written cannot be complained of either: it is counted, and said later.
pub fn write(text: &str) {
    let lost = LOST.load(Ordering::Relaxed);
    let patience = if lost == 0 { PATIENCE } else { 0 };
    if !has_room(io::stderr().as_fd(), patience) {
        LOST.store(lost.saturating_add(1), Ordering::Relaxed);
        return;
    }
    let before = if lost > 0 {
        let end = if BROKEN.load(Ordering::Relaxed) { "\n" } else { "" };
        format!("{end}proa: {lost} lines of the log are lost: stderr was full\n")
    } else {
        String::new()
    };
    let mut stream = Stream::open();
    let written = stream.write(before.as_bytes(), patience).and_then(|()| {
        LOST.store(0, Ordering::Relaxed);
        BROKEN.store(false, Ordering::Relaxed);
        stream.write(text.as_bytes(), PATIENCE)
    });
    if let Err(Unwritten { broken }) = written {
        LOST.fetch_add(1, Ordering::Relaxed);
        BROKEN.fetch_or(broken, Ordering::Relaxed);
    }
}

/// There is no room for all of it, or nobody who would take it.
struct Unwritten {
    /// Whether some of it is written.
    broken: bool,
}

/// Whether it is worth having others write to it, who would wait.
#[must_use]
pub fn is_free() -> bool {
    has_room(io::stderr().as_fd(), PATIENCE)
}

/// How stderr is written to.
enum Stream {
    /// Through an open file description of our own, which never waits. The flag `O_NONBLOCK` of the one that we were given would be
    /// the command's too (fcntl(2)).
    Own(File),
    /// As it is, in pieces for which there is room once it says so. A terminal may have room for no more than a byte.
    Given { piece: usize },
}

impl Stream {
    /// A pipe or terminal can be opened once more (proc(5), /proc/PID/fd); another user's may not, nor may one whose other end is
    /// closed. What else there is may be a file, where place and size are those of the description that we were given.
    fn open() -> Self {
        let stderr = io::stderr();
        let is_terminal = stderr.is_terminal();
        let is_pipe = fstat(stderr.as_fd())
            .is_ok_and(|stat| SFlag::from_bits_truncate(stat.st_mode & libc::S_IFMT) == SFlag::S_IFIFO);
        let given = Self::Given { piece: if is_terminal { 1 } else { AT_ONCE } };
        if !is_terminal && !is_pipe {
            return given;
        }
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        let own = OpenOptions::new().write(true).custom_flags(flags).open("/proc/self/fd/2");
        own.map_or(given, Self::Own)
    }

    /// Writes it all. `patience`: how long it waits for room, in milliseconds.
    fn write(&mut self, text: &[u8], patience: u8) -> Result<(), Unwritten> {
        let (begun, mut rest) = (now(), text);
        let mut progress = begun;
        while !rest.is_empty() {
            let unwritten = Err(Unwritten { broken: rest.len() < text.len() });
            let written = match self {
                Self::Own(file) if has_room(file.as_fd(), patience) => file.write(rest),
                Self::Given { piece } if has_room(io::stderr().as_fd(), patience) => {
                    io::stderr().write(&rest[..rest.len().min(*piece)])
                }
                Self::Own(_) | Self::Given { .. } => return unwritten,
            };
            let waited = elapsed(progress) >= Duration::from_millis(patience.into());
            match written {
                Ok(count @ 1..) if elapsed(begun) < LONGEST || count == rest.len() => {
                    rest = &rest[count..];
                    progress = now();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // It said that there is room, and there is too little.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !waited => thread::sleep(PAUSE),
                Ok(_) | Err(_) => return unwritten,
            }
        }
        Ok(())
    }
}

/// Until a stream is tried again that says that there is room, and has too little.
const PAUSE: Duration = Duration::from_millis(10);

/// Whether this stream takes something within so many milliseconds.
fn has_room(stream: BorrowedFd<'_>, milliseconds: u8) -> bool {
    let mut polled = [PollFd::new(stream, PollFlags::POLLOUT)];
    loop {
        match poll(&mut polled, PollTimeout::from(milliseconds)) {
            Ok(ready) => return ready > 0,
            Err(Errno::EINTR) => {}
            // Where this cannot be asked, most streams are never full.
            Err(_) => return true,
        }
    }
}
