//! The choices a user makes, as types in which nothing else can be written.

use std::fmt;
use std::str::FromStr;

use clap::ValueEnum;
use url::{Host, Url};

/// What follows when the sidecars are not ready in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnTimeout {
    /// End with exit code 75.
    Fail,
    /// Run the command all the same.
    Run,
}

/// After which ends the sidecars are ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ShutdownWhen {
    /// Unless the kubelet will start this container again.
    Auto,
    /// After every end.
    Always,
    /// After exit code 0.
    Success,
    /// After none.
    Never,
}

/// Who gets the signals that proa receives while the command runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ForwardTo {
    /// The command's first process.
    Child,
    /// Its process group.
    Group,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One line of text an event.
    Text,
    /// One JSON object an event.
    Json,
}

/// The method of a shutdown request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// GET
    Get,
    /// POST, with an empty body.
    Post,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Get => "GET",
            Self::Post => "POST",
        })
    }
}

/// A URL that an HTTP client can be sent to: `http` or `https`, with a host, and a port that is not 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpUrl(Url);

impl HttpUrl {
    /// The URL.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Whether the request is encrypted.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// Whether the request stays in this Pod's network namespace: `localhost` (RFC 6761) or a loopback address.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self.0.host() {
            Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        }
    }
}

/// Without the user name and password that a URL may carry: logs must not.
impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.username().is_empty() && self.0.password().is_none() {
            return self.0.fmt(f);
        }
        let mut shown = self.0.clone();
        // Both can only fail for URLs that cannot have them.
        let _ = shown.set_username("");
        let _ = shown.set_password(None);
        shown.fmt(f)
    }
}

/// Why a text is no [`HttpUrl`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvalidUrl {
    /// No URL at all.
    Syntax(url::ParseError),
    /// Neither `http` nor `https`.
    Scheme(String),
    /// Nothing can listen on port 0.
    PortZero,
}

impl fmt::Display for InvalidUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax(error) => write!(f, "{error}")?,
            Self::Scheme(scheme) => write!(f, "found scheme `{scheme}`")?,
            Self::PortZero => write!(f, "nothing listens on port 0")?,
        }
        write!(f, "; expected http://HOST[:PORT]/PATH")
    }
}

impl std::error::Error for InvalidUrl {}

impl FromStr for HttpUrl {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let url = Url::parse(text).map_err(InvalidUrl::Syntax)?;
        match url.scheme() {
            "http" | "https" => {}
            other => return Err(InvalidUrl::Scheme(other.to_owned())),
        }
        if url.port() == Some(0) {
            return Err(InvalidUrl::PortZero);
        }
        Ok(Self(url))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Result<HttpUrl, InvalidUrl> {
        text.parse()
    }

    #[test]
    fn a_url_needs_scheme_host_and_port() {
        assert!(url("http://localhost:15020/quitquitquit").is_ok());
        assert!(url("https://[::1]:8443/").is_ok());
        assert_eq!(url("localhost:15020/quit"), Err(InvalidUrl::Scheme("localhost".into())));
        assert_eq!(url("ftp://x/"), Err(InvalidUrl::Scheme("ftp".into())));
        assert_eq!(url("http://localhost:0/"), Err(InvalidUrl::PortZero));
        for text in ["", "/quit", "http://", "http://:80/", "http://host:99999/"] {
            assert!(matches!(url(text), Err(InvalidUrl::Syntax(_))), "{text}");
        }
    }

    #[test]
    fn loopback_is_known_by_name_and_address() {
        for text in ["http://localhost/", "http://a.localhost/", "http://127.8.9.1:1/", "http://[::1]/"] {
            assert!(url(text).unwrap().is_loopback(), "{text}");
        }
        for text in ["http://example.com/", "http://10.0.0.1/", "http://localhost.example/"] {
            assert!(!url(text).unwrap().is_loopback(), "{text}");
        }
    }

    #[test]
    fn credentials_are_not_shown() {
        let url = url("http://user:secret@localhost/quit").unwrap();
        assert_eq!(url.to_string(), "http://localhost/quit");
        assert_eq!(url.as_str(), "http://user:secret@localhost/quit");
    }
}
