//! What the Pod's annotations say of its sidecars. Whoever adds a sidecar writes down once how it is treated:
//! `proa.ironcorelabs.com/CONTAINER.shutdown` and its like.

use std::collections::BTreeMap;
use std::fmt;

use super::list;
use crate::endpoint::{HttpUrl, InvalidUrl, Method, Request, without_secrets};
use crate::known::Traffic;

/// What every key starts with.
pub const PREFIX: &str = "proa.ironcorelabs.com/";

/// What can follow the container's name in a key.
const SETTINGS: [&str; 4] = ["shutdown", "ready", "traffic", "ignore"];

/// What the annotations say of one container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Annotated {
    /// The request that ends it.
    pub shutdown: Option<Request>,
    /// Where it is asked whether it is ready, in place of Kubernetes.
    pub ready: Option<HttpUrl>,
    /// Whose connections go through it.
    pub traffic: Option<Traffic>,
    /// Whether nobody waits for it, neither to be ready nor to exit.
    pub ignore: bool,
}

impl Annotated {
    /// Whether only a sidecar would have these. A main container may be ignored too, by another one.
    #[must_use]
    pub fn is_sidecar(&self) -> bool {
        self.shutdown.is_some() || self.ready.is_some() || self.traffic.is_some()
    }
}

/// The key of such an annotation.
#[must_use]
pub fn key(container: &str, setting: &str) -> String {
    format!("{PREFIX}{container}.{setting}")
}

/// An annotation that says nothing usable. All others count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// Its key.
    pub key: String,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with an annotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// A setting, and no container.
    WithoutContainer(String),
    /// No setting has this name.
    Setting(String),
    /// The Pod has no such container.
    Container {
        /// The name in the key.
        name: String,
        /// The names there are.
        found: Vec<String>,
    },
    /// Not a method and a URL.
    Request(String),
    /// Another method than GET and POST.
    Method(String),
    /// No URL.
    Url(InvalidUrl),
    /// A URL that leads out of the Pod.
    Elsewhere(HttpUrl),
    /// Neither `pod` nor `own`.
    Traffic(String),
    /// Neither `true` nor `false`.
    Ignore(String),
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "annotation {} is not used: {}", self.key, self.problem)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WithoutContainer(setting) => {
                write!(f, "it names no container; expected {PREFIX}CONTAINER.{setting}")
            }
            Self::Setting(found) => {
                write!(f, "found setting `{found}`; expected one of {}", SETTINGS.join(", "))
            }
            Self::Container { name, found } => {
                write!(f, "no container `{name}` in this Pod; expected one of {}", list(found))
            }
            Self::Request(found) => write!(
                f,
                "found `{}`; expected a method and a URL, for instance POST http://localhost:9000/quit",
                shown(found)
            ),
            Self::Method(found) => write!(f, "found method `{}`; expected GET or POST", shown(found)),
            Self::Url(error) => write!(f, "{error}"),
            Self::Elsewhere(url) => write!(
                f,
                "found {}, which is outside of the Pod; expected localhost or a loopback address, for instance \
                 http://localhost:9000/quit",
                shown(&url.to_string())
            ),
            Self::Traffic(found) => write!(f, "found `{}`; expected pod or own", shown(found)),
            Self::Ignore(found) => write!(f, "found `{}`; expected true or false", shown(found)),
        }
    }
}

impl std::error::Error for Malformed {}

/// A value as a log line can hold it: an annotation may have 256 KiB, line breaks and passwords.
fn shown(value: &str) -> String {
    const LONG: usize = 100;
    let value = without_secrets(value);
    let mut text: String = value.chars().take(LONG).flat_map(char::escape_debug).collect();
    if value.chars().nth(LONG).is_some() {
        text.push_str("...");
    }
    text
}

/// Reads the annotations of a Pod with these containers: what they say of each, and which say nothing usable. Keys without a
/// dot are no settings of a container, and not read here.
#[must_use]
pub fn read(
    annotations: Option<&BTreeMap<String, String>>,
    containers: &[&str],
) -> (BTreeMap<String, Annotated>, Vec<Malformed>) {
    let mut found: BTreeMap<String, Annotated> = BTreeMap::new();
    let mut malformed = Vec::new();
    let ours = annotations.into_iter().flatten();
    for (key, name, value) in ours.filter_map(|(key, value)| Some((key, key.strip_prefix(PREFIX)?, value))) {
        let said = parse(name, containers).and_then(|place| {
            let Some((container, setting)) = place else { return Ok(()) };
            apply(found.entry(container.to_owned()).or_default(), setting, value.trim())
        });
        if let Err(problem) = said {
            malformed.push(Malformed { key: key.clone(), problem });
        }
    }
    (found, malformed)
}

/// The container and the setting that a key names, if it is one of these.
fn parse<'a>(name: &'a str, containers: &[&str]) -> Result<Option<(&'a str, &'a str)>, Problem> {
    // Container names have no dots.
    let Some((container, setting)) = name.split_once('.') else {
        return if SETTINGS.contains(&name) {
            Err(Problem::WithoutContainer(name.to_owned()))
        } else {
            Ok(None)
        };
    };
    if !SETTINGS.contains(&setting) {
        return Err(Problem::Setting(setting.to_owned()));
    }
    if !containers.contains(&container) {
        let found = containers.iter().map(|name| (*name).to_owned()).collect();
        return Err(Problem::Container { name: container.to_owned(), found });
    }
    Ok(Some((container, setting)))
}

fn apply(annotated: &mut Annotated, setting: &str, value: &str) -> Result<(), Problem> {
    match setting {
        "shutdown" => annotated.shutdown = Some(request(value)?),
        "ready" => annotated.ready = Some(url(value)?),
        "traffic" => {
            annotated.traffic = Some(match value {
                "pod" => Traffic::Pod,
                "own" => Traffic::Own,
                other => return Err(Problem::Traffic(other.to_owned())),
            });
        }
        _ => {
            annotated.ignore = match value {
                "true" => true,
                "false" => false,
                other => return Err(Problem::Ignore(other.to_owned())),
            }
        }
    }
    Ok(())
}

fn request(value: &str) -> Result<Request, Problem> {
    let words: Vec<_> = value.split_whitespace().collect();
    let [method, place] = words.as_slice() else {
        return Err(Problem::Request(value.to_owned()));
    };
    let method = match *method {
        "GET" => Method::Get,
        "POST" => Method::Post,
        other => return Err(Problem::Method(other.to_owned())),
    };
    Ok(Request::new(method, url(place)?))
}

fn url(text: &str) -> Result<HttpUrl, Problem> {
    let url: HttpUrl = text.parse().map_err(Problem::Url)?;
    if url.is_loopback() { Ok(url) } else { Err(Problem::Elsewhere(url)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_one(name: &str, value: &str) -> (Option<Annotated>, Vec<String>) {
        let annotations = BTreeMap::from([(format!("{PREFIX}{name}"), value.to_owned())]);
        let (mut found, malformed) = read(Some(&annotations), &["web", "main"]);
        (found.remove("web"), malformed.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_sidecar_says_how_it_is_treated() {
        let said = |setting: &str, value: &str| {
            let (found, malformed) = read_one(&format!("web.{setting}"), value);
            assert!(malformed.is_empty(), "{malformed:?}");
            found.unwrap()
        };
        let shutdown = |value| said("shutdown", value).shutdown.unwrap().to_string();
        assert_eq!(shutdown("POST http://localhost:9000/quit"), "POST http://localhost:9000/quit");
        assert_eq!(shutdown(" GET  http://[::1]:9000/quit\n"), "GET http://[::1]:9000/quit");
        assert_eq!(said("ready", "http://127.0.0.1:1/r").ready.unwrap().as_str(), "http://127.0.0.1:1/r");
        assert_eq!(said("traffic", "pod").traffic, Some(Traffic::Pod));
        assert_eq!(said("traffic", "own").traffic, Some(Traffic::Own));
        assert!(said("ignore", "true").ignore);
        assert!(!said("ignore", "false").ignore);
    }

    #[test]
    fn a_malformed_annotation_is_named_with_what_was_expected() {
        for (name, value, expected) in [
            (
                "web.shutdwn",
                "POST http://localhost/",
                "found setting `shutdwn`; expected one of shutdown, ready",
            ),
            ("web.shutdown.now", "", "found setting `shutdown.now`"),
            ("web.", "", "found setting ``"),
            ("shutdown", "", "expected proa.ironcorelabs.com/CONTAINER.shutdown"),
            ("wbe.ignore", "true", "no container `wbe` in this Pod; expected one of `web`, `main`"),
            (".ignore", "true", "no container ``"),
            ("web.shutdown", "", "expected a method and a URL"),
            ("web.shutdown", "http://localhost:1/", "expected a method and a URL"),
            ("web.shutdown", "POST http://localhost:1/ now", "expected a method and a URL"),
            ("web.shutdown", "DELETE http://localhost:1/", "found method `DELETE`; expected GET or POST"),
            ("web.shutdown", "post http://localhost:1/", "found method `post`; expected GET or POST"),
            ("web.shutdown", "POST http://10.0.0.1/quit", "found http://10.0.0.1/quit, which is outside"),
            (
                "web.shutdown",
                "POST http://localhost@example.com/",
                "found http://example.com/, which is outside",
            ),
            ("web.shutdown", "POST localhost:9000/quit", "expected http://HOST[:PORT]/PATH"),
            ("web.ready", "http://localhost.example/", "expected localhost or a loopback address"),
            ("web.ready", "ftp://localhost/", "found scheme `ftp`"),
            ("web.ready", "http://localhost:0/", "nothing listens on port 0"),
            ("web.traffic", "all", "found `all`; expected pod or own"),
            ("web.ignore", "yes", "found `yes`; expected true or false"),
            ("web.ignore", "", "found ``; expected true or false"),
        ] {
            let (found, malformed) = read_one(name, value);
            assert_eq!(found.unwrap_or_default(), Annotated::default(), "{name}: {value}");
            let [line] = malformed.as_slice() else { panic!("{name}: {value}: {malformed:?}") };
            let start = format!("annotation {PREFIX}{name} is not used: ");
            assert!(line.starts_with(&start) && line.contains(expected), "{line}");
        }
    }

    #[test]
    fn a_malformed_one_spoils_no_other() {
        let annotations =
            [("web.shutdown", "POST nowhere"), ("web.ignore", "true"), ("main.ignore", "maybe")];
        let annotations = annotations.map(|(name, value)| (format!("{PREFIX}{name}"), value.to_owned()));
        let (found, malformed) = read(Some(&annotations.into()), &["web", "main"]);
        assert!(found["web"].ignore);
        assert_eq!(malformed.len(), 2, "{malformed:?}");
    }

    #[test]
    fn a_key_is_read_as_it_is_written() {
        let annotations = BTreeMap::from([(key("web", "ignore"), "true".to_owned())]);
        assert!(read(Some(&annotations), &["web"]).0["web"].ignore);
    }

    #[test]
    fn what_is_not_ours_is_not_read() {
        assert_eq!(read(None, &["web"]), (BTreeMap::new(), Vec::new()));
        assert_eq!(read_one("inject", "enabled"), (None, Vec::new()), "no setting of a container");
        let foreign = BTreeMap::from([("example.com/web.shutdown".to_owned(), "x".to_owned())]);
        assert_eq!(read(Some(&foreign), &["web"]), (BTreeMap::new(), Vec::new()));
    }

    #[test]
    fn a_warning_holds_neither_secrets_nor_a_whole_book() {
        let (_, malformed) = read_one("web.shutdown", "POST http://u:secret@example.com/quit?token=secret");
        assert!(malformed[0].contains("example.com") && !malformed[0].contains("secret"), "{malformed:?}");
        let (_, malformed) = read_one("web.shutdown", "POST at http://u:secret@localhost/quit?token=secret");
        assert!(!malformed[0].contains("secret"), "{malformed:?}");
        let (_, malformed) = read_one("web.ignore", &"a\n".repeat(100_000));
        assert!(malformed[0].len() < 400 && !malformed[0].contains('\n'), "{malformed:?}");
    }
}
