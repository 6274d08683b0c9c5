//! What the system is short of, memory, descriptors, watches, it may have again a moment later.

use std::fmt;
use std::io;
use std::mem;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use tracing::{debug, info};

use crate::deadline::{elapsed, now};

/// How many attempts there are for what somebody waits for, and during a shortage for what the sidecars are shut down with: with an exit
/// code that is decided nothing else is left to do.
const ATTEMPTS: usize = 5;
const ATTEMPTS_IN_THE_END: usize = 150;
/// How long until the next.
pub const PAUSE: Duration = Duration::from_millis(100);
/// How long a refusal waits that would follow from a shortage.
pub const PATIENCE: Duration = Duration::from_millis(500);

/// How long it may keep the sidecars from being shut down.
pub const LONGEST: Duration = Duration::from_secs(15);

/// Whether an error says that the system is short of something, and nothing of what was to be done.
#[must_use]
pub fn is_shortage(error: &io::Error) -> bool {
    // ENOSPC: of watches, by epoll_ctl(2).
    let short = [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::ENOBUFS, Errno::ENOSPC];
    error.raw_os_error().is_some_and(|number| short.contains(&Errno::from_raw(number)))
}

/// The same of an error of clone(2), or of what it makes: as many processes and threads as there may be can be there already.
#[must_use]
pub fn is_lack_of_processes(error: &io::Error) -> bool {
    is_shortage(error) || error.raw_os_error() == Some(Errno::EAGAIN as i32)
}

/// What was read, if it is there and may be read.
///
/// # Errors
/// When the system is short of what it takes to read it, which says nothing.
pub fn unless_short<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Err(error) if is_shortage(&error) => Err(error),
        read => Ok(read.ok()),
    }
}

/// Makes what nothing goes on without. Who gives up at the first failure leaves the sidecars of a finished command running.
///
/// # Errors
/// Those of the last attempt.
pub fn outlast<T>(make: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    attempt_while(ATTEMPTS, make, |_| true)
}

/// Makes what a refusal follows from. Only what fails for want of something is tried again.
///
/// # Errors
/// Those of the last attempt.
pub fn outlast_shortage<T>(make: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    attempt_while(ATTEMPTS, make, is_shortage)
}

/// The same of a process.
///
/// # Errors
/// Those of the last attempt.
pub fn outlast_lack_of_processes<T>(make: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    attempt_while(ATTEMPTS, make, is_lack_of_processes)
}

/// Makes what is looked at while the sidecars are shut down, however long a shortage lasts, within reason. `is_short`: whether an error is one.
///
/// # Errors
/// Those of the last attempt.
pub fn outlast_for_long<T, E: fmt::Display>(
    make: impl FnMut() -> Result<T, E>,
    is_short: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let begun = now();
    // An attempt may take its time itself.
    attempt_while(ATTEMPTS_IN_THE_END, make, |error| is_short(error) && elapsed(begun) < LONGEST)
}

/// Makes what the sidecars are shut down with, however long a shortage lasts, within reason; while there `is_time`.
///
/// # Errors
/// Those of the last attempt.
pub fn persist<T>(
    make: impl FnMut() -> anyhow::Result<T>,
    mut is_time: impl FnMut() -> bool,
) -> anyhow::Result<T> {
    let (begun, mut said, mut others) = (now(), false, 0);
    attempt(ATTEMPTS_IN_THE_END, make, |error| {
        // What a system does not have at all, it will not have in a while.
        let passes = error.chain().filter_map(|cause| cause.downcast_ref()).any(is_shortage);
        others += usize::from(!passes);
        let is_worth_it = if passes { elapsed(begun) < LONGEST } else { others < ATTEMPTS };
        let again = is_worth_it && is_time();
        match again {
            true if passes && !mem::replace(&mut said, true) => info!("trying again: {error:#}"),
            true => debug!("trying again: {error:#}"),
            false => {}
        }
        again
    })
}

/// Makes what an exit code depends on, however long that takes; unless there is something `instead` of it.
///
/// # Errors
/// What there is instead.
pub fn insist<T, E: fmt::Display, I>(
    mut make: impl FnMut() -> Result<T, E>,
    mut instead: impl FnMut() -> Option<I>,
) -> Result<T, I> {
    let mut said = false;
    loop {
        match make() {
            Ok(done) => return Ok(done),
            Err(error) if !said => info!("trying again: {error:#}"),
            Err(_) => {}
        }
        said = true;
        if let Some(instead) = instead() {
            return Err(instead);
        }
        sleep(PAUSE);
    }
}

/// What it comes to once nothing that it takes is short, or time is up: at [`LONGEST`], or at this moment.
///
/// # Errors
/// Those of the last attempt.
pub async fn once_there_is_enough<T>(
    by: Option<Instant>,
    make: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    once_there_is_enough_of(by, is_shortage, make).await
}

/// The same. `is_short`: whether an error is a shortage of what it takes.
///
/// # Errors
/// Those of the last attempt.
pub async fn once_there_is_enough_of<T>(
    by: Option<Instant>,
    is_short: impl Fn(&io::Error) -> bool,
    mut make: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    let begun = now();
    loop {
        match make() {
            Err(error) if is_short(&error) && elapsed(begun) < LONGEST && by.is_none_or(|by| now() < by) => {
                debug!(%error, "trying again");
                tokio::time::sleep(PAUSE).await;
            }
            done => return done,
        }
    }
}

/// Attempts it while that `is_worth_it`, by the error, and says so.
fn attempt_while<T, E: fmt::Display>(
    most: usize,
    make: impl FnMut() -> Result<T, E>,
    is_worth_it: impl Fn(&E) -> bool,
) -> Result<T, E> {
    attempt(most, make, |error| {
        let again = is_worth_it(error);
        if again {
            debug!(%error, "trying again");
        }
        again
    })
}

fn attempt<T, E>(
    most: usize,
    mut make: impl FnMut() -> Result<T, E>,
    mut again: impl FnMut(&E) -> bool,
) -> Result<T, E> {
    for _ in 1..most {
        match make() {
            Err(error) if again(&error) => sleep(PAUSE),
            done => return done,
        }
    }
    make()
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    /// An attempt that succeeds the `good`th time, and fails for want of something before, or because it is forbidden.
    fn attempts(good: usize, error: Errno) -> impl FnMut() -> anyhow::Result<usize> {
        let mut attempt = 0;
        move || {
            attempt += 1;
            if attempt == good { Ok(attempt) } else { Err(io::Error::from(error)).context(attempt) }
        }
    }

    #[test]
    fn a_shortage_that_passes_is_outlasted_and_another_is_reported() {
        let outlasted = |good| {
            let mut attempt = attempts(good, Errno::EMFILE);
            outlast(|| attempt().map_err(io::Error::other)).ok()
        };
        assert_eq!([1, ATTEMPTS, ATTEMPTS + 1].map(outlasted), [Some(1), Some(ATTEMPTS), None]);
    }

    #[test]
    fn in_the_end_a_shortage_is_outlasted_for_as_long_as_there_is_time() {
        let persisted = |good, error| persist(attempts(good, error), || true).ok();
        assert_eq!(persisted(9, Errno::EMFILE), Some(9));
        assert_eq!(
            [ATTEMPTS, ATTEMPTS + 1].map(|good| persisted(good, Errno::EPERM)),
            [Some(ATTEMPTS), None]
        );
        let mut errors = [Errno::EMFILE; ATTEMPTS].into_iter().chain([Errno::EPERM]);
        let mixed = || errors.next().map_or(Ok(7), |error| Err(io::Error::from(error).into()));
        assert_eq!(persist(mixed, || true).ok(), Some(7), "a shortage takes no attempt of another failure's");
        let mut left = 3;
        let is_time = || {
            left -= 1;
            left > 0
        };
        let error = persist(attempts(9, Errno::EMFILE), is_time).unwrap_err();
        assert_eq!(error.to_string(), "3", "and no longer");
        assert_eq!(insist(attempts(3, Errno::EPERM), || None::<()>), Ok(3));
        assert_eq!(insist(attempts(3, Errno::EPERM), || Some(7)), Err(7));
    }

    #[test]
    fn what_is_not_there_is_no_shortage() {
        assert!(is_shortage(&Errno::EMFILE.into()) && is_shortage(&Errno::ENFILE.into()));
        assert!(!is_shortage(&Errno::ENOENT.into()) && !is_shortage(&io::Error::other("x")));
    }
}
