//! What an error of the library's means.

use std::io;
use std::time::Duration;

use super::client::bounded;
use super::trouble::{Trouble, Verb};
use crate::causes::causes;

/// An error's text is not longer, whatever a proxy answers.
const LONGEST_TEXT: usize = 300;

/// What an error means.
pub(super) fn trouble_of(
    error: &kube::Error,
    verb: Verb,
    namespace: &str,
    retry_after: Option<Duration>,
) -> Trouble {
    let status = match error {
        kube::Error::Api(status) => status,
        kube::Error::Service(_) | kube::Error::HyperError(_) | kube::Error::ReadEvents(_) => {
            return match tls_failure(error) {
                Some(failure) => Trouble::Tls(failure.to_string()),
                None => Trouble::NoConnection(short(&causes(error))),
            };
        }
        other => return Trouble::ServerError(short(&causes(other)), None),
    };
    let in_body = status.details.as_ref().map(|details| u64::from(details.retry_after_seconds));
    let retry_after = retry_after.or(in_body.filter(|seconds| *seconds > 0).map(bounded));
    let message = short(&status.message);
    match status.code {
        401 => Trouble::Unauthorized(message),
        403 => Trouble::Forbidden { verb, namespace: namespace.to_owned(), message },
        429 => Trouble::Throttled(message, retry_after),
        code => Trouble::ServerError(format!("{code} {} {message}", status.reason), retry_after),
    }
}

/// The failure to establish TLS, if that is at the bottom of this: what answers is not the API server. A connection that
/// breaks while it is being secured is no connection.
fn tls_failure<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(cause) = next {
        // An I/O error's source is its inner error's source: the inner error itself is passed over.
        let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let found = inner.and_then(|inner| inner.downcast_ref()).or_else(|| cause.downcast_ref());
        if found.is_some() {
            return found;
        }
        next = cause.source();
    }
    None
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
