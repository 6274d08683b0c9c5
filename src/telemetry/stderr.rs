//! Stderr, which may be a full pipe: a log collector that hangs must not hold up signals, or the command's exit code.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How long a line waits for room, in milliseconds. Those after it, until there is some again, do not wait.
const PATIENCE: u8 = 250;
/// A pipe that can be written to takes at least this much at once (`PIPE_BUF`, pipe(7)).
const AT_ONCE: usize = 4096;

/// Lines since the last that could be written.
static LOST: AtomicUsize = AtomicUsize::new(0);

/// Writes it if there is room. What cannot be written cannot be complained of either: it is counted, and said later.
pub fn write(text: &str) {
    let lost = LOST.load(Ordering::Relaxed);
    if !has_room(if lost == 0 { PATIENCE } else { 0 }) {
        LOST.store(lost.saturating_add(1), Ordering::Relaxed);
        return;
    }
    LOST.store(0, Ordering::Relaxed);
    let before = if lost > 0 {
        format!("proa: {lost} lines of the log are lost: stderr was full\n")
    } else {
        String::new()
    };
    for part in [before.as_bytes(), text.as_bytes()].iter().flat_map(|text| text.chunks(AT_ONCE)) {
        if !has_room(PATIENCE) || io::stderr().write_all(part).is_err() {
            return;
        }
    }
}

/// Whether it is worth having others write to it, who would wait.
#[must_use]
pub fn is_free() -> bool {
    has_room(PATIENCE)
}

/// Whether stderr takes something within this time. The flag `O_NONBLOCK` would be the command's too (fcntl(2)).
fn has_room(milliseconds: u8) -> bool {
    let stderr = io::stderr();
    let mut polled = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    loop {
        match poll(&mut polled, PollTimeout::from(milliseconds)) {
            Ok(ready) => return ready > 0,
            Err(Errno::EINTR) => {}
            // Where this cannot be asked, most streams are never full.
            Err(_) => return true,
        }
    }
}
