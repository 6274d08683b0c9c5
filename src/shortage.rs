//! What the system is short of, memory, descriptors, watches, it may have again a moment later.

use std::fmt;
use std::io;
use std::thread::sleep;
use std::time::Duration;

use tracing::{debug, info};

const ATTEMPTS: usize = 5;
const PAUSE: Duration = Duration::from_millis(100);
/// How long [`persist`] goes on, and its pause: with an exit code that is decided nothing else is left to do.
const ATTEMPTS_IN_THE_END: usize = 15;
const PAUSE_IN_THE_END: Duration = Duration::from_secs(1);

/// Makes what nothing goes on without. Who gives up at the first failure leaves the sidecars of a finished command running.
///
/// # Errors
/// Those of the last attempt.
pub fn outlast<T>(make: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    attempt(ATTEMPTS, make, |error| {
        debug!(%error, "trying again");
        sleep(PAUSE);
        true
    })
}

/// Makes what the sidecars are shut down with, however long that takes, within reason. `pause`: waits for so long, and tells
/// whether there is time for another attempt: a container that is being stopped has less than this.
///
/// # Errors
/// Those of the last attempt.
pub fn persist<T, E: fmt::Display>(
    make: impl FnMut() -> Result<T, E>,
    mut pause: impl FnMut(Duration) -> bool,
) -> Result<T, E> {
    attempt(ATTEMPTS_IN_THE_END, make, |error| {
        info!("trying again: {error:#}");
        pause(PAUSE_IN_THE_END)
    })
}

fn attempt<T, E>(
    most: usize,
    mut make: impl FnMut() -> Result<T, E>,
    mut again: impl FnMut(&E) -> bool,
) -> Result<T, E> {
    for _ in 1..most {
        match make() {
            Err(error) if again(&error) => {}
            done => return done,
        }
    }
    make()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An attempt that succeeds the `good`th time.
    fn attempts(good: usize) -> impl FnMut() -> Result<usize, String> {
        let mut attempt = 0;
        move || {
            attempt += 1;
            if attempt == good { Ok(attempt) } else { Err(format!("attempt {attempt}")) }
        }
    }

    #[test]
    fn a_shortage_that_passes_is_outlasted_and_another_is_reported() {
        let outlasted = |good| {
            let mut attempt = attempts(good);
            outlast(|| attempt().map_err(io::Error::other)).ok()
        };
        assert_eq!([1, ATTEMPTS, ATTEMPTS + 1].map(outlasted), [Some(1), Some(ATTEMPTS), None]);
    }

    #[test]
    fn in_the_end_a_shortage_is_outlasted_for_as_long_as_there_is_time() {
        let mut paused = Duration::ZERO;
        let made = persist(attempts(ATTEMPTS_IN_THE_END), |pause| {
            paused += pause;
            true
        });
        assert_eq!((made, paused), (Ok(ATTEMPTS_IN_THE_END), PAUSE_IN_THE_END * 14));
        assert_eq!(persist(attempts(ATTEMPTS_IN_THE_END + 1), |_| true), Err("attempt 15".into()));
        assert_eq!(persist(attempts(9), |_| false), Err("attempt 1".into()), "and no longer");
    }
}
