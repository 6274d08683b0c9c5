//! What the system is short of, memory, descriptors, watches, it may have again a moment later.

use std::io;
use std::thread::sleep;
use std::time::Duration;

use tracing::debug;

const ATTEMPTS: usize = 5;
const PAUSE: Duration = Duration::from_millis(100);

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
