//! What may block, in a thread of its own.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Builder;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::deadline::now;
use crate::shortage::{is_lack_of_processes, once_there_is_enough_of};

/// What work comes to that a system call may keep for ever: a file of a volume whose server is away, a process that hangs, a name
/// server. Nobody has to wait for it: the thread goes on without whoever has gone. A limit of processes may keep the system from making
/// one (`pthread_create(3)`, EAGAIN; tokio's own would panic): then it is tried again for so long.
///
/// # Errors
/// When there was none to be had ([`is_lack_of_processes`]), or the work panicked.
pub async fn aside<T: Send + 'static>(
    patience: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (sender, receiver) = oneshot::channel();
    // A thread that could not be made has not taken it.
    let work = Arc::new(Mutex::new(Some((work, sender))));
    let start = || {
        let work = Arc::clone(&work);
        Builder::new().spawn(move || {
            let taken = work.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some((work, sender)) = taken {
                // Whoever asked may be gone.
                let _ = sender.send(work());
            }
        })
    };
    once_there_is_enough_of(now().checked_add(patience), is_lack_of_processes, start).await?;
    // It has said so itself.
    receiver.await.map_err(|_| io::Error::other("the thread panicked"))
}
