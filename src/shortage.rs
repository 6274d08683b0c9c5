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
pub fn outlast<T>(mut make: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 1..ATTEMPTS {
        match make() {
            Ok(thing) => return Ok(thing),
            Err(error) => debug!(%error, "trying again"),
        }
        sleep(PAUSE);
    }
    make()
}

/// Makes what the sidecars are shut down with, however long that takes, within reason.
///
/// # Errors
/// Those of the last attempt.
pub fn persist<T, E: fmt::Display>(mut make: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    for _ in 1..ATTEMPTS_IN_THE_END {
        match make() {
            Ok(thing) => return Ok(thing),
            Err(error) => info!("trying again: {error:#}"),
        }
        sleep(PAUSE_IN_THE_END);
    }
    make()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_that_passes_is_outlasted_and_another_is_reported() {
        let attempts = |good: usize| {
            let mut attempt = 0;
            let made = outlast(|| {
                attempt += 1;
                if attempt == good { Ok(attempt) } else { Err(io::ErrorKind::OutOfMemory.into()) }
            });
            made.map_err(|error| error.kind())
        };
        assert_eq!(attempts(1), Ok(1));
        assert_eq!(attempts(ATTEMPTS), Ok(ATTEMPTS));
        assert_eq!(attempts(ATTEMPTS + 1), Err(io::ErrorKind::OutOfMemory));
    }
}
