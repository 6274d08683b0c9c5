//! Where and how something outside of proa is asked: URLs, addresses, requests, direct waits.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use url::{Host, Url};

/// What `localhost` means in an image without /etc/hosts too (RFC 6761, 6.3).
pub const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// The method of a request.
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

    /// The URL as an HTTP client takes it: without what logs in and without the fragment, neither of which is part of a request.
    #[must_use]
    pub fn for_request(&self) -> String {
        let mut url = self.0.clone();
        // Both can only fail for URLs that cannot have them.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.set_fragment(None);
        url.into()
    }

    /// User name and password as basic authentication has them, `user:password`, if the URL carries them.
    #[must_use]
    pub fn login(&self) -> Option<Vec<u8>> {
        let (user, password) = (self.0.username(), self.0.password());
        if user.is_empty() && password.is_none() {
            return None;
        }
        let parts = [user, ":", password.unwrap_or_default()];
        Some(parts.into_iter().flat_map(percent_decode_str).collect())
    }

    /// Whether the request is encrypted.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// Whether the request stays in this Pod's network namespace: `localhost` (RFC 6761) or a loopback address.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.0.host().is_some_and(|host| is_loopback(&host))
    }

    /// Where the request goes.
    ///
    /// # Panics
    /// Never: an HTTP URL has a host and, if only by its scheme, a port.
    #[must_use]
    pub fn address(&self) -> Address {
        let host = self.0.host().expect("an HTTP URL has a host").to_owned();
        Address { host, port: self.0.port_or_known_default().expect("an HTTP URL has a port") }
    }

    /// The path, which starts with a slash.
    #[must_use]
    pub fn path(&self) -> &str {
        self.0.path()
    }

    /// `http://localhost:PORT/PATH`, whatever the path looks like.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn on_loopback(port: u16, path: &str) -> Self {
        let mut url = Url::parse("http://localhost").expect("a valid URL");
        url.set_port(Some(port)).expect("an HTTP URL may have a port");
        url.set_path(path);
        Self(url)
    }
}

/// A name that stands for [`LOOPBACK`] (RFC 6761).
#[must_use]
pub fn is_loopback_name(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost")
}

/// `localhost` (RFC 6761) or a loopback address.
fn is_loopback<S: AsRef<str>>(host: &Host<S>) -> bool {
    match host {
        Host::Domain(name) => is_loopback_name(name.as_ref()),
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    }
}

/// Without the user name, password and query that a URL may carry: logs and metrics must not, where they may be
/// secrets.
impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.0.clone();
        // Both can only fail for URLs that cannot have them.
        let _ = shown.set_username("");
        let _ = shown.set_password(None);
        shown.set_query(self.0.query().map(|_| "..."));
        shown.set_fragment(None);
        shown.fmt(f)
    }
}

/// The same for a text that may be no URL at all.
#[must_use]
pub fn without_secrets(text: &str) -> String {
    let is_scheme =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    let (scheme, rest) = match text.find("://").filter(|end| is_scheme(&text[..*end])) {
        Some(end) => text.split_at(end + "://".len()),
        None => ("", text),
    };
    let (place, query) = match rest.find(['?', '#']) {
        Some(end) => (&rest[..end], "?..."),
        None => (rest, ""),
    };
    // A password may hold any sign: rather too little is shown than too much. Where it holds one of these two this is no URL.
    if rest[place.len()..].contains('@') && text.parse::<HttpUrl>().is_err() {
        return format!("{scheme}...");
    }
    let host = place.rfind('@').map_or(0, |at| at + 1);
    format!("{scheme}{}{query}", &place[host..])
}

/// What an HTTP client is to send, with an empty body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// GET or POST.
    pub method: Method,
    /// Where to.
    pub url: HttpUrl,
    /// Names and values.
    pub headers: &'static [(&'static str, &'static str)],
}

impl Request {
    /// A request without headers.
    #[must_use]
    pub fn new(method: Method, url: HttpUrl) -> Self {
        Self { method, url, headers: &[] }
    }

    /// Whether both go to the same path of the same port of this Pod, whatever they call its loopback interface.
    #[must_use]
    pub fn goes_where(&self, other: &Self) -> bool {
        let place = |url: &HttpUrl| (url.address().port, url.path().to_owned());
        self.url.is_loopback() && other.url.is_loopback() && place(&self.url) == place(&other.url)
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.url)
    }
}

/// A host and a port to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// A name, or an IP address.
    pub host: Host,
    /// Not 0.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Why a text is no [`Address`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidAddress {
    /// No colon, or nothing before it.
    Host,
    /// No host could be called that.
    HostSyntax(url::ParseError),
    /// No number from 1 to 65535 after the colon.
    Port,
}

impl fmt::Display for InvalidAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => write!(f, "found no host")?,
            Self::HostSyntax(error) => write!(f, "{error}")?,
            Self::Port => write!(f, "found no port from 1 to 65535")?,
        }
        write!(f, "; expected HOST:PORT, for instance localhost:5432 or [::1]:5432")
    }
}

impl std::error::Error for InvalidAddress {}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = text.rsplit_once(':').ok_or(InvalidAddress::Host)?;
        if host.is_empty() {
            return Err(InvalidAddress::Host);
        }
        let port = port.parse().ok().filter(|port| *port > 0).ok_or(InvalidAddress::Port)?;
        // As `$(POD_IP):PORT` has it where the Pod's address is one of IPv6.
        if let Ok(address) = host.parse() {
            return Ok(Self { host: Host::Ipv6(address), port });
        }
        Ok(Self { host: Host::parse(host).map_err(InvalidAddress::HostSyntax)?, port })
    }
}

/// A condition that is asked for directly, without the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DirectWait {
    /// GET answers with a status of 2xx.
    Http(HttpUrl),
    /// A connection is accepted.
    Tcp(Address),
    /// The file is there.
    File(PathBuf),
}

impl fmt::Display for DirectWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(url) => write!(f, "{url}"),
            Self::Tcp(address) => write!(f, "{address}"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
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

/// An IPv6 address without brackets, and a port behind it, as `http://$(POD_IP):PORT` has them: the same with brackets.
fn with_brackets(text: &str) -> Cow<'_, str> {
    let bracketed = || {
        let (scheme, rest) = text.split_once("://")?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (host, port) = rest[..end].rsplit_once(':')?;
        let address: Ipv6Addr = host.parse().ok()?;
        Some(format!("{scheme}://[{address}]:{port}{}", &rest[end..]))
    };
    bracketed().map_or(Cow::Borrowed(text), Cow::Owned)
}

impl FromStr for HttpUrl {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let url = Url::parse(&with_brackets(text)).map_err(InvalidUrl::Syntax)?;
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
        assert_eq!(
            url("http://fd00::1:9901/ready?x=::1:1").unwrap().as_str(),
            "http://[fd00::1]:9901/ready?x=::1:1"
        );
        assert_eq!(url("http://10.0.0.1:9901/ready").unwrap().as_str(), "http://10.0.0.1:9901/ready");
        assert_eq!("fd00::1:5432".parse::<Address>().unwrap().to_string(), "[fd00::1]:5432");
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
        let url = url("http://user:secret@localhost/quit?token=secret").unwrap();
        assert_eq!(url.to_string(), "http://localhost/quit?...");
        assert_eq!(url.as_str(), "http://user:secret@localhost/quit?token=secret");
    }

    #[test]
    fn what_is_no_url_keeps_its_secrets_too() {
        for (text, shown) in [
            ("http://u:p@w@host:99999/quit?token=x#y", "http://host:99999/quit?..."),
            ("localhost:1/quit?token=x", "localhost:1/quit?..."),
            ("/login?state=x", "/login?..."),
            ("http://u:p/w@host/quit", "http://host/quit"),
            ("u:p@host", "host"),
            ("http://u:p?w@host/quit", "http://..."),
            ("http://u:p#w@host:99999/quit?token=x", "http://..."),
            ("u:p://w@host", "host"),
            ("u:p@w://host", "w://host"),
            ("http://[::1", "http://[::1"),
            ("", ""),
        ] {
            assert_eq!(without_secrets(text), shown, "{text}");
        }
    }

    #[test]
    fn an_address_needs_host_and_port() {
        let address = |text: &str| text.parse::<Address>().map(|address| address.to_string());
        assert_eq!(address("localhost:5432").as_deref(), Ok("localhost:5432"));
        assert_eq!(address("[::1]:1").as_deref(), Ok("[::1]:1"));
        assert_eq!(address("10.0.0.1:65535").as_deref(), Ok("10.0.0.1:65535"));
        for text in ["", "localhost", ":80"] {
            assert_eq!(address(text), Err(InvalidAddress::Host), "{text}");
        }
        for text in ["a:0", "a:", "a:65536", "a:x", "a:-1"] {
            assert_eq!(address(text), Err(InvalidAddress::Port), "{text}");
        }
        assert_eq!(address("::1:5432").as_deref(), Ok("[::1]:5432"), "what `$(POD_IP):5432` may come to");
        for text in ["a b:1", ":::1:5432", "http://x:1"] {
            assert!(matches!(address(text), Err(InvalidAddress::HostSyntax(_))), "{text}");
        }
    }

    #[test]
    fn a_url_tells_where_it_leads() {
        assert_eq!(url("http://localhost/quit").unwrap().address().to_string(), "localhost:80");
        assert_eq!(url("https://[::1]:8443/").unwrap().address().to_string(), "[::1]:8443");
        assert_eq!(HttpUrl::on_loopback(9901, "/ready").as_str(), "http://localhost:9901/ready");
    }
}
