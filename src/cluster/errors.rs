//! What a failure of a request means.

use super::answer::Failure;
use super::trouble::{Trouble, Verb};
use crate::causes::{cause, causes};

/// An error's text is not longer, whatever a proxy answers.
const LONGEST_TEXT: usize = 300;

/// What a failure means.
pub(super) fn trouble_of(failure: &Failure, verb: Verb, namespace: &str) -> Trouble {
    let (status, retry_after) = match failure {
        Failure::Account(error) => return Trouble::Account(error.to_string()),
        Failure::NoAnswer(error) => return no_connection(error),
        Failure::Broken(error) => return no_connection(error),
        Failure::Status(status, retry_after) => (status, *retry_after),
        other => return Trouble::ServerError(short(&causes(other)), None),
    };
    let message = short(&status.message);
    match status.code {
        401 => Trouble::Unauthorized(message),
        403 => Trouble::Forbidden { verb, namespace: namespace.to_owned(), message },
        429 => Trouble::Throttled(message, retry_after),
        code => Trouble::ServerError(format!("{code} {} {message}", status.reason), retry_after),
    }
}

/// What answers is not the API server where TLS is what failed. A connection that breaks while it is being secured is no connection.
fn no_connection(error: &(dyn std::error::Error + 'static)) -> Trouble {
    match cause::<rustls::Error>(error) {
        Some(failure) => Trouble::Tls(failure.to_string()),
        None => Trouble::NoConnection(short(&causes(error))),
    }
}

/// The beginning of a text, on one line.
fn short(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LONGEST_TEXT) {
        Some((end, _)) => format!("{} ...", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_in_a_line() {
        let page = format!("<html>\n  <b>{}</b>", "x".repeat(5_000_000));
        assert!(short(&page).starts_with("<html> <b>xx"));
        assert_eq!(short(&page).len(), LONGEST_TEXT + 4);
    }
}
