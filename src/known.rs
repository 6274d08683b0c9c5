//! What is true of well-known sidecars: how each is recognised, asked whether it is ready, and ended.
//!
//! To add a sidecar, add a row to [`SIDECARS`], with the source of its facts.

mod sidecars;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use crate::endpoint::{HttpUrl, Method, Request};
pub use sidecars::SIDECARS;
use sidecars::{NO_QUIT, WRAPPED};

/// A sidecar that many Pods have.
#[derive(Debug, PartialEq, Eq)]
pub struct Known {
    /// What `--wait-known` and `--shutdown-known` call it.
    pub name: &'static str,
    /// What its makers call it.
    pub title: &'static str,
    /// What its container is called.
    pub containers: &'static [&'static str],
    /// What its image's repository ends with, in whole path segments.
    pub images: &'static [&'static str],
    /// When it is ready.
    pub ready: Ready,
    /// How it is ended.
    pub end: End,
    /// Whether others need it to end well.
    pub traffic: Traffic,
    /// When its injector makes it a native sidecar, whose end is the kubelet's.
    pub native: Option<&'static str>,
    /// Where these facts come from: project, version, file.
    pub source: &'static str,
}

/// When a sidecar is ready.
#[derive(Debug, PartialEq, Eq)]
pub enum Ready {
    /// When Kubernetes says so; asked without the API server, when a GET here answers with 2xx. The text is what must
    /// be enabled for that, if anything.
    Kubernetes(Endpoint, Option<&'static str>),
    /// When Kubernetes says so; it has nothing to be asked at.
    KubernetesAlone,
    /// For Kubernetes only once the application listens, so that waiting for that would last for ever. What the
    /// application needs of it is there when a GET here answers with 2xx.
    AfterApplication(Endpoint),
}

/// How a sidecar is ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// By this request, once what it needs is enabled, if anything.
    Ask(Method, Endpoint, Option<Needs>),
    /// It cannot be asked to; the text is what helps.
    Cannot(&'static str),
    /// Somebody else shuts it down once every other container has exited, ours included. The text says who.
    AfterOthers(&'static str),
    /// By telling the proa that wraps it.
    Peer,
}

/// What must be enabled before a sidecar takes the request that ends it.
#[derive(Debug, PartialEq, Eq)]
pub struct Needs {
    /// In words.
    pub text: &'static str,
    /// What enables it: the first that is set.
    pub enabled_by: &'static [Enabling],
    /// When it is off, where nothing enables it.
    pub off: Off,
    /// Where else it may be enabled, out of sight of the manifest.
    pub hidden_in: &'static [Setting],
}

/// A setting that enables something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enabling {
    /// A boolean as Go's `strconv.ParseBool` reads it; a flag without a value is true.
    Bool(Setting),
    /// This word alone.
    Word(Setting, &'static str),
}

/// When a manifest shows that something is off, which nothing in it enables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Off {
    /// Never: what enables it stands elsewhere.
    Unseen,
    /// Always.
    Default,
    /// When the sidecar was recognised by its image. A name alone may be another program's.
    ByImage,
    /// When the Pod has this annotation with this value.
    Annotated(&'static str, &'static str),
}

/// Whose connections go through a sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// The whole Pod's, so that it is ended last.
    Pod,
    /// Only those made to it.
    Own,
}

/// Where a sidecar is asked, on the Pod's loopback interface.
#[derive(Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The port unless something moves it.
    pub port: u16,
    /// The port that its injector sets, if that is another: the best guess where the Pod is not seen.
    pub injected: Option<u16>,
    /// What moves the port, the first that is set.
    pub moved_by: &'static [Setting],
    /// The path unless something moves it.
    pub path: &'static str,
    /// What moves the path, the first that is set.
    pub path_by: &'static [Setting],
    /// Headers that it wants.
    pub headers: &'static [(&'static str, &'static str)],
}

/// Where a port is set, a number or an address that ends with one; or a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// An annotation of the Pod.
    Annotation(&'static str),
    /// A field of the YAML or JSON in an annotation of the Pod.
    InAnnotation(&'static str, &'static str),
    /// A command line flag of the sidecar, without its hyphens.
    Flag(&'static str),
    /// A variable of the sidecar.
    Variable(&'static str),
    /// A field of the YAML or JSON in a variable of the sidecar.
    InVariable(&'static str, &'static str),
    /// The sidecar's readiness or start-up probe that GETs this path.
    Probe(&'static str),
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Annotation(key) => write!(f, "annotation {key}"),
            Self::InAnnotation(key, field) => write!(f, "{field} in annotation {key}"),
            Self::Flag(name) => write!(f, "its flag {name}"),
            Self::Variable(name) => write!(f, "its variable {name}"),
            Self::InVariable(name, field) => write!(f, "{field} in its variable {name}"),
            Self::Probe(path) => write!(f, "its probe of {path}"),
        }
    }
}

/// What a container's manifest tells of which sidecar it is.
#[derive(Debug, Clone, Copy)]
pub struct Container<'a> {
    /// Name.
    pub name: &'a str,
    /// Image reference.
    pub image: &'a str,
    /// `command`, then `args`, as the program gets them.
    pub words: &'a [&'a str],
    /// Variables with values of their own.
    pub variables: &'a [(&'a str, &'a str)],
    /// Names of those whose values stand elsewhere (`valueFrom`).
    pub referenced: &'a [&'a str],
    /// Whether it has others whose very names stand elsewhere (`envFrom`).
    pub has_env_from: bool,
    /// Paths and ports of its HTTP readiness and start-up probes.
    pub probes: &'a [(&'a str, u16)],
    /// The Pod's annotations.
    pub annotations: &'a BTreeMap<String, String>,
}

/// When Kubernetes calls a sidecar ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// When it is.
    InTime,
    /// Only once the application listens.
    AfterApplication,
}

/// A sidecar of the table, as one Pod has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recognised {
    /// Its row.
    pub known: &'static Known,
    /// Whose connections go through it, whether proa wraps it or not.
    pub traffic: Traffic,
    /// When Kubernetes calls it ready.
    pub readiness: Readiness,
    /// Where it is asked whether it is ready, if anywhere.
    pub ready: Option<HttpUrl>,
    /// The request that ends it, if there is one.
    pub end: Option<Request>,
    /// Whether the manifest shows that this request is switched off.
    pub end_is_off: bool,
}

/// Recognises a sidecar: by its command if that is ours, by its image, which tells more, else by its name.
#[must_use]
pub fn recognise(container: &Container) -> Option<Recognised> {
    let repository = repository(container.image);
    let by_image = |known: &&Known| known.images.iter().any(|image| ends_with(repository, image));
    let by_name = |known: &&Known| known.containers.contains(&container.name);
    let known = SIDECARS.iter().find(by_image).or_else(|| SIDECARS.iter().find(by_name));
    // What proa wraps is what it is, but for its end.
    let (known, end) =
        if container.is_wrapped() { (known.unwrap_or(&WRAPPED), &WRAPPED) } else { (known?, known?) };
    let at = |endpoint: &Endpoint| {
        let port = endpoint.moved_by.iter().find_map(|setting| container.port(*setting));
        let path = endpoint.path_by.iter().find_map(|setting| container.path(*setting));
        HttpUrl::on_loopback(port.unwrap_or(endpoint.port), path.unwrap_or(endpoint.path))
    };
    Some(Recognised {
        known: end,
        traffic: known.traffic,
        readiness: match known.ready {
            Ready::AfterApplication(_) => Readiness::AfterApplication,
            Ready::Kubernetes(..) | Ready::KubernetesAlone => Readiness::InTime,
        },
        ready: known.readiness().map(at),
        end: end.request(at),
        end_is_off: end.switch().is_some_and(|needs| {
            container.shows_off(needs, known.images.iter().any(|image| ends_with(repository, image)))
        }),
    })
}

/// The sidecar that this request ends, where nothing moves its endpoint, or its injector alone does.
#[must_use]
pub fn ended_by(request: &Request) -> Option<&'static Known> {
    SIDECARS.iter().find(|known| {
        let ends = [Endpoint::url, Endpoint::unseen].map(|at| known.request(at));
        ends.iter().flatten().any(|end| end.goes_where(request))
    })
}

impl Known {
    /// How to wait for it without the API server, where nothing moves its endpoint.
    ///
    /// # Errors
    /// When it has nothing to be asked at.
    pub fn wait(&self) -> Result<HttpUrl, NoEndpoint> {
        let endpoint = self.readiness().ok_or(NoEndpoint::NoReadiness(self.name))?;
        Ok(endpoint.unseen())
    }

    /// How to end it without the API server, where nothing moves its endpoint.
    ///
    /// # Errors
    /// When it cannot be asked to stop.
    pub fn shutdown(&self) -> Result<Request, NoEndpoint> {
        match self.end {
            End::Ask(..) => {}
            End::Cannot(why) => return Err(NoEndpoint::NoQuit(self.name, why)),
            End::AfterOthers(who) => return Err(NoEndpoint::EndedBy(self.name, who)),
            End::Peer => return Err(NoEndpoint::NoQuit(self.name, NO_QUIT)),
        }
        self.request(Endpoint::unseen).ok_or(NoEndpoint::NoQuit(self.name, NO_QUIT))
    }

    /// What must be enabled before it can be asked to stop.
    #[must_use]
    pub fn needs(&self) -> Option<&'static str> {
        self.switch().map(|needs| needs.text)
    }

    fn switch(&self) -> Option<&Needs> {
        match &self.end {
            End::Ask(_, _, needs) => needs.as_ref(),
            End::Cannot(_) | End::AfterOthers(_) | End::Peer => None,
        }
    }

    /// Whether it does as well as a native sidecar: Kubernetes can wait for it before the application starts, and nobody else
    /// shuts it down.
    #[must_use]
    pub fn may_be_native(&self) -> bool {
        !matches!(self.ready, Ready::AfterApplication(_)) && !matches!(self.end, End::AfterOthers(_))
    }

    fn readiness(&self) -> Option<&Endpoint> {
        match &self.ready {
            Ready::Kubernetes(endpoint, _) | Ready::AfterApplication(endpoint) => Some(endpoint),
            Ready::KubernetesAlone => None,
        }
    }

    fn request(&self, at: impl Fn(&Endpoint) -> HttpUrl) -> Option<Request> {
        let End::Ask(method, endpoint, _) = &self.end else {
            return None;
        };
        Some(Request { method: *method, url: at(endpoint), headers: endpoint.headers })
    }
}

impl Endpoint {
    /// Where it is unless something moves it.
    fn url(&self) -> HttpUrl {
        HttpUrl::on_loopback(self.port, self.path)
    }

    /// Where it most likely is, when nobody sees the Pod.
    fn unseen(&self) -> HttpUrl {
        HttpUrl::on_loopback(self.injected.unwrap_or(self.port), self.path)
    }
}

/// The flags of `proa -- COMMAND`, as they stand in an image's arguments where its entrypoint hides proa.
pub const FLAGS: [&str; 34] = [
    "api",
    "container",
    "disabled",
    "env-file",
    "env-file-override",
    "forward-to",
    "ignore",
    "kill",
    "kill-all",
    "kill-signal",
    "log-format",
    "log-level",
    "main",
    "namespace",
    "no-shutdown-auto",
    "on-sidecar-exit",
    "on-timeout",
    "pod-name",
    "ready-timeout",
    "service-account-dir",
    "shutdown-auto",
    "shutdown-http-get",
    "shutdown-http-post",
    "shutdown-known",
    "shutdown-timeout",
    "shutdown-when",
    "status-address",
    "termination-message-path",
    "wait-exit",
    "wait-file",
    "wait-for",
    "wait-http-get",
    "wait-known",
    "wait-tcp",
];

/// Whether these are a container's only words, `[FLAGS] -- COMMAND`, with flags that are proa's: its image's entrypoint is proa.
#[must_use]
pub fn are_main_arguments(words: &[&str]) -> bool {
    let Some(dashes) = words.iter().position(|word| *word == "--") else {
        return false;
    };
    let is_ours = |word: &&str| {
        let long = word.strip_prefix("--").and_then(|rest| rest.split('=').next());
        long.map_or_else(
            || ["-g", "-p", "-k", "-K"].iter().any(|short| word.starts_with(short)),
            |long| FLAGS.contains(&long),
        )
    };
    let mut flags = words[..dashes].iter().filter(|word| word.starts_with('-'));
    let starts_with_flag = words[0].starts_with('-');
    starts_with_flag && flags.all(is_ours) && dashes + 1 < words.len()
}

/// What proa does other than to run a main container's command.
const OTHER_FORMS: [&str; 5] = ["sidecar", "wait", "quit", "install", "known"];

fn is_proa(word: &str) -> bool {
    word.rsplit('/').next() == Some("proa")
}

/// What stands before the flags of `proa [FLAGS] -- COMMAND`, and the flags; `None` where these words are something else.
#[must_use]
pub fn main_entrypoint<'a>(words: &'a [&'a str]) -> Option<(&'a [&'a str], &'a [&'a str])> {
    let proa = words.iter().position(|word| is_proa(word))?;
    let rest = &words[proa + 1..];
    let other = rest.first().is_some_and(|word| OTHER_FORMS.contains(word));
    let dashes = rest.iter().position(|word| *word == "--")?;
    (!other && dashes + 1 < rest.len()).then(|| (&words[..proa], &rest[..dashes]))
}

/// Whether these words are `proa [FLAGS] -- COMMAND`, whatever runs that.
#[must_use]
pub fn is_main_entrypoint(words: &[&str]) -> bool {
    main_entrypoint(words).is_some()
}

impl Container<'_> {
    /// Whether its command is `proa sidecar`, or its arguments are `sidecar ...`, in our manner, for an image's
    /// entrypoint that may be proa. Thanos too has a sidecar of that name.
    fn is_wrapped(&self) -> bool {
        let is_ours =
            |word: &&str| *word == "--" || word.starts_with("--until-exit") || *word == "--ready-file";
        match self.words {
            ["sidecar", rest @ ..] => rest.iter().any(is_ours),
            words => words.windows(2).any(|pair| is_proa(pair[0]) && pair[1] == "sidecar"),
        }
    }

    fn port(&self, setting: Setting) -> Option<u16> {
        if let Setting::Probe(path) = setting {
            return self.probes.iter().find(|(found, _)| *found == path).map(|(_, port)| *port);
        }
        // `4191`, or `0.0.0.0:4191`.
        self.value(setting)?.rsplit(':').next()?.parse().ok().filter(|port| *port > 0)
    }

    fn path(&self, setting: Setting) -> Option<&str> {
        self.value(setting).filter(|path| path.starts_with('/'))
    }

    fn value(&self, setting: Setting) -> Option<&str> {
        let annotation = |key| self.annotations.get(key).map(String::as_str);
        let variable =
            |name| self.variables.iter().find(|(found, _)| *found == name).map(|(_, value)| *value);
        match setting {
            Setting::Annotation(key) => annotation(key),
            Setting::InAnnotation(key, name) => field(annotation(key)?, name),
            Setting::Flag(name) => self.flag(name),
            Setting::Variable(name) => variable(name),
            Setting::InVariable(key, name) => field(variable(key)?, name),
            Setting::Probe(_) => None,
        }
    }

    /// Whether it shows that what a sidecar needs is off.
    fn shows_off(&self, needs: &Needs, by_image: bool) -> bool {
        let enabled = needs.enabled_by.iter().find_map(|enabling| self.enabled(*enabling));
        let enabling = needs.enabled_by.iter().map(|enabling| enabling.setting());
        let hidden = enabling.chain(needs.hidden_in.iter().copied()).any(|setting| self.hides(setting));
        let set = needs.hidden_in.iter().any(|setting| self.value(*setting).is_some());
        let off = match needs.off {
            Off::Unseen => false,
            Off::Default => true,
            Off::ByImage => by_image && !self.runs_script(),
            Off::Annotated(key, value) => self.annotations.get(key).is_some_and(|found| found == value),
        };
        enabled.map_or(off && !hidden && !set, |enabled| !enabled)
    }

    /// Whether this may be set out of sight.
    fn hides(&self, setting: Setting) -> bool {
        match setting {
            Setting::Variable(name) | Setting::InVariable(name, _) => {
                self.has_env_from || self.referenced.contains(&name)
            }
            Setting::Annotation(_) | Setting::InAnnotation(..) | Setting::Flag(_) | Setting::Probe(_) => {
                false
            }
        }
    }

    /// Whether its command is a file that may hold any flag.
    fn runs_script(&self) -> bool {
        self.words.iter().any(|word| Path::new(word).extension().is_some_and(|kind| kind == "sh"))
    }

    /// Whether this enables something; `None` if it is not set.
    fn enabled(&self, enabling: Enabling) -> Option<bool> {
        match enabling {
            Enabling::Word(setting, word) => self.value(setting).map(|value| value == word),
            Enabling::Bool(Setting::Flag(name)) => self.switch(name),
            Enabling::Bool(setting) => self.value(setting).map(is_true),
        }
    }

    /// The value of `--name` or `--name=BOOL`; the last one counts.
    fn switch(&self, name: &str) -> Option<bool> {
        let given = self.words.iter().rev().filter_map(|word| {
            let rest = word.strip_prefix('-')?;
            match rest.strip_prefix('-').unwrap_or(rest).strip_prefix(name)? {
                "" => Some(true),
                value => value.strip_prefix('=').map(is_true),
            }
        });
        given.into_iter().next()
    }

    /// The value of `--name=value`, `-name=value` or `--name value`; the last one counts.
    fn flag(&self, name: &str) -> Option<&str> {
        let mut found = None;
        let mut words = self.words.iter();
        while let Some(word) = words.next() {
            let Some(rest) = word.strip_prefix('-') else { continue };
            match rest.strip_prefix('-').unwrap_or(rest).strip_prefix(name) {
                Some("") => found = words.next().copied(),
                Some(value) if value.starts_with('=') => found = Some(&value[1..]),
                _ => {}
            }
        }
        found
    }
}

impl Enabling {
    fn setting(self) -> Setting {
        match self {
            Self::Bool(setting) | Self::Word(setting, _) => setting,
        }
    }
}

/// As Go's `strconv.ParseBool` reads it.
fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

/// The number in `name: 1`, `"name": 1` or `{"name":"1"}`: enough of YAML and JSON for a setting that is one number in them.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let quote = |c| c == '"' || c == '\'';
    let places =
        lines.flat_map(|line| line.match_indices(name).map(move |(at, _)| (&line[..at], &line[at..])));
    let mut values = places.filter_map(|(before, rest)| {
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        if before.ends_with(is_part) {
            return None;
        }
        let value = rest[name.len()..].trim_start_matches(quote).trim_start().strip_prefix(':')?;
        let value = value.trim_start().trim_start_matches(quote);
        let end = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
        Some(&value[..end]).filter(|digits| !digits.is_empty())
    });
    values.next()
}

/// An image reference without its tag and digest.
fn repository(image: &str) -> &str {
    let image = image.split('@').next().unwrap_or(image);
    // A colon before the last slash belongs to the registry's port.
    match image.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => image,
    }
}

fn ends_with(repository: &str, image: &str) -> bool {
    let Some(rest) = repository.strip_suffix(image) else {
        return false;
    };
    rest.is_empty() || rest.ends_with('/')
}

/// A row, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named(pub &'static Known);

/// No row has this name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownName;

impl fmt::Display for UnknownName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = SIDECARS.iter().map(|known| known.name).collect();
        write!(f, "expected one of {}", names.join(", "))
    }
}

impl std::error::Error for UnknownName {}

impl FromStr for Named {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        SIDECARS.iter().find(|known| known.name == text).map(Self).ok_or(UnknownName)
    }
}

/// Why a sidecar of the table cannot be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoEndpoint {
    /// It has no readiness endpoint.
    NoReadiness(&'static str),
    /// It has no quit endpoint; and what helps.
    NoQuit(&'static str, &'static str),
    /// Somebody else ends it.
    EndedBy(&'static str, &'static str),
}

impl fmt::Display for NoEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoReadiness(name) => write!(
                f,
                "--wait-known={name}: it has no readiness endpoint; wait for what it makes with --wait-file or --wait-tcp"
            ),
            Self::NoQuit(name, helps) => write!(f, "--shutdown-known={name}: {helps}"),
            Self::EndedBy(name, who) => {
                write!(
                    f,
                    "--shutdown-known={name}: {who} shuts it down once every other container has exited"
                )
            }
        }
    }
}

/// The table, as `proa known` prints it.
#[must_use]
pub fn table() -> String {
    let rows: Vec<_> = SIDECARS.iter().map(ToString::to_string).collect();
    rows.join("\n")
}

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.name, self.title)?;
        for (what, names) in [("container", self.containers), ("image", self.images)] {
            if !names.is_empty() {
                writeln!(f, "  {what:<9} {}", names.join(", "))?;
            }
        }
        match &self.ready {
            Ready::Kubernetes(at, needs) => asked(f, "ready", Method::Get, at, *needs)?,
            Ready::KubernetesAlone => {}
            Ready::AfterApplication(at) => {
                asked(f, "ready", Method::Get, at, None)?;
                writeln!(
                    f,
                    "            Kubernetes calls it ready only once the application listens: proa asks here instead"
                )?;
            }
        }
        match &self.end {
            End::Ask(method, at, needs) => {
                asked(f, "shutdown", *method, at, needs.as_ref().map(|needs| needs.text))?;
            }
            End::Cannot(why) => writeln!(f, "  shutdown  {why}")?,
            End::AfterOthers(who) => {
                writeln!(
                    f,
                    "  shutdown  by {who}, after every other container: proa does not wait for its exit"
                )?;
            }
            End::Peer => writeln!(f, "  shutdown  by the main container's proa")?,
        }
        if self.traffic == Traffic::Pod {
            writeln!(f, "  last, since it carries the others' traffic")?;
        }
        if let Some(native) = self.native {
            writeln!(f, "  native    {native}")?;
        }
        writeln!(f, "  source    {}", self.source)
    }
}

fn asked(
    f: &mut fmt::Formatter<'_>,
    what: &str,
    method: Method,
    at: &Endpoint,
    needs: Option<&str>,
) -> fmt::Result {
    writeln!(f, "  {what:<9} {method} {}", at.url())?;
    if let Some(needs) = needs {
        writeln!(f, "            needs {needs}")?;
    }
    if let Some(port) = at.injected {
        writeln!(f, "            port {port} where its injector sets it, and without sight of the Pod")?;
    }
    at.moved_by.iter().try_for_each(|setting| writeln!(f, "            port from {setting}"))?;
    at.path_by.iter().try_for_each(|setting| writeln!(f, "            path from {setting}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    static NOTHING: BTreeMap<String, String> = BTreeMap::new();

    fn container<'a>(name: &'a str, image: &'a str) -> Container<'a> {
        Container {
            name,
            image,
            words: &[],
            variables: &[],
            referenced: &[],
            has_env_from: false,
            probes: &[],
            annotations: &NOTHING,
        }
    }

    fn name(name: &str, image: &str) -> Option<&'static str> {
        recognise(&container(name, image)).map(|found| found.known.name)
    }

    #[test]
    fn recognised_by_image_or_name() {
        assert_eq!(name("istio-proxy", "auto"), Some("istio"));
        assert_eq!(name("p", "example.com/istio/proxyv2:1.29.0-distroless"), Some("istio"));
        assert_eq!(name("p", "localhost:5000/linkerd/proxy@sha256:0123"), Some("linkerd"));
        assert_eq!(name("envoy", "example/aws-appmesh-envoy:v1"), Some("app-mesh"));
        assert_eq!(name("envoy", "envoyproxy/envoy:v1.30"), Some("envoy"));
        assert_eq!(name("p", "gcr.io/cloud-sql-connectors/cloud-sql-proxy:2.27.0"), Some("cloud-sql-proxy"));
        assert_eq!(name("p", "gcr.io/cloudsql-docker/gce-proxy:1.38.3"), Some("cloud-sql-proxy-v1"));
        assert_eq!(name("p", "fluent/fluentd:v1.19-1"), Some("fluentd"));
        assert_eq!(name("p", "public.ecr.aws/aws-observability/aws-sigv4-proxy"), Some("aws-sigv4-proxy"));
        assert_eq!(name("p", "gcr.io/cloud-spanner-pg-adapter/pgadapter"), Some("pgadapter"));
        for (container, image) in
            [("app", "app"), ("proxy", "squid/proxy"), ("web", "my-envoy:1"), ("e", "envoy/app")]
        {
            assert_eq!(name(container, image), None, "{container} {image}");
        }
    }

    #[test]
    fn a_main_container_is_recognised_by_proa_in_front_of_its_command() {
        for words in [
            &["/proa/proa", "--", "report"][..],
            &["proa", "--wait-for=db", "--", "report", "--", "x"],
            &["tini", "--", "proa", "-g=http://localhost/quit", "--", "report"],
            &["sh", "-c", "exec", "/proa", "--", "report"],
        ] {
            assert!(is_main_entrypoint(words), "{words:?}");
        }
        for words in [
            &["proa", "sidecar", "--", "nginx"][..],
            &["/proa", "install", "/shared"],
            &["proa", "--"],
            &["cp", "/proa", "/shared"],
            &["report", "--", "x"],
            &[],
        ] {
            assert!(!is_main_entrypoint(words), "{words:?}");
        }
    }

    #[test]
    fn a_main_container_is_recognised_by_its_arguments_where_the_image_hides_proa() {
        for words in
            [&["--", "report"][..], &["--wait-for=db", "-g", "http://x/", "--ignore", "a", "--", "r", "-x"]]
        {
            assert!(are_main_arguments(words), "{words:?}");
        }
        for words in [
            &["--"][..],
            &["report", "--", "x"],
            &["--config=x", "--", "serve"],
            &["--wait-for=db", "--config=x", "--", "serve"],
            &["--wait-for=db"],
            &["sidecar", "--", "web"],
            &[],
        ] {
            assert!(!are_main_arguments(words), "{words:?}");
        }
    }

    #[test]
    fn a_sidecar_that_proa_wraps_is_recognised_by_its_command() {
        let name = |words: &[&str]| {
            recognise(&Container { words, ..container("envoy", "envoy") }).unwrap().known.name
        };
        assert_eq!(name(&["/proa/proa", "sidecar", "--", "nginx"]), "proa-sidecar");
        assert_eq!(name(&["sidecar", "--", "nginx"]), "proa-sidecar");
        assert_eq!(name(&["tini", "--", "proa", "sidecar"]), "proa-sidecar");
        assert_eq!(name(&["sidecar", "--until-exit=app"]), "proa-sidecar");
        assert_eq!(name(&["/proa", "--", "sidecar"]), "envoy");
        assert_eq!(name(&["sidecar", "--tsdb.path=/data"]), "envoy", "Thanos has a sidecar too");
    }

    #[test]
    fn ports_move() {
        let quit = |container: &Container| recognise(container).unwrap().end.unwrap().url.to_string();
        let sql = container("db", "cloud-sql-connectors/cloud-sql-proxy");
        assert_eq!(quit(&sql), "http://localhost:9091/quitquitquit");
        for words in [["--quitquitquit", "--admin-port=1234"].as_slice(), &["-admin-port", "1234", "x:y:z"]] {
            assert_eq!(quit(&Container { words, ..sql }), "http://localhost:1234/quitquitquit", "{words:?}");
        }
        let variables = [("CSQL_PROXY_ADMIN_PORT", "1234")];
        assert_eq!(quit(&Container { variables: &variables, ..sql }), "http://localhost:1234/quitquitquit");
        let envoy = container("e", "envoyproxy/envoy");
        let probes = [("/live", 1), ("/ready", 19000)];
        assert_eq!(quit(&Container { probes: &probes, ..envoy }), "http://localhost:19000/quitquitquit");
        let moved = BTreeMap::from([("status.sidecar.istio.io/port".to_owned(), "15420".to_owned())]);
        let istio = Container { annotations: &moved, ..container("istio-proxy", "i") };
        assert_eq!(quit(&istio), "http://localhost:15420/quitquitquit");
        let config = |text: &str| BTreeMap::from([("proxy.istio.io/config".to_owned(), text.to_owned())]);
        for text in [
            "statusPort: 15421",
            "concurrency: 2\n# statusPort: 1\nstatusPort: '15421'",
            r#"{"holdApplicationUntilProxyStarts":true, "statusPort": 15421}"#,
            "oldstatusPort: 1\nstatusPort : 15421 # moved",
        ] {
            let moved = config(text);
            let istio = Container { annotations: &moved, ..container("istio-proxy", "i") };
            assert_eq!(quit(&istio), "http://localhost:15421/quitquitquit", "{text}");
        }
        for text in
            ["", "statusPort", "statusPort:", "statusPort: none", "{\"statusPorts\": 1}", "statusPort: 0"]
        {
            let moved = config(text);
            let istio = Container { annotations: &moved, ..container("istio-proxy", "i") };
            assert_eq!(quit(&istio), "http://localhost:15020/quitquitquit", "{text}");
        }
        let variables = [("PROXY_CONFIG", r#"{"statusPort":15422}"#)];
        let istio = Container { variables: &variables, ..container("istio-proxy", "i") };
        assert_eq!(quit(&istio), "http://localhost:15422/quitquitquit");
        for nonsense in ["", "x", "0", "99999"] {
            let variables = [("CSQL_PROXY_ADMIN_PORT", nonsense)];
            let quit = quit(&Container { variables: &variables, ..sql });
            assert_eq!(quit, "http://localhost:9091/quitquitquit", "{nonsense}");
        }
    }

    #[test]
    fn paths_move_and_stay_in_the_pod() {
        let quit = |words: &[&str]| {
            let dataplane =
                Container { words, ..container("consul-dataplane", "hashicorp/consul-dataplane") };
            recognise(&dataplane).unwrap().end.unwrap().url.to_string()
        };
        assert_eq!(quit(&[]), "http://localhost:20300/graceful_shutdown", "its own default");
        assert_eq!(
            quit(&["-graceful-port=20600"]),
            "http://localhost:20600/graceful_shutdown",
            "its injector's"
        );
        assert_eq!(quit(&["-graceful-shutdown-path=/quit"]), "http://localhost:20300/quit");
        assert_eq!(quit(&["-graceful-shutdown-path=quit"]), "http://localhost:20300/graceful_shutdown");
        let elsewhere = quit(&["-graceful-shutdown-path=//example.com/quit"]);
        assert!(elsewhere.parse::<HttpUrl>().unwrap().is_loopback(), "{elsewhere}");
    }

    #[test]
    fn without_sight_of_the_pod_the_injectors_port_is_asked() {
        let Named(dataplane) = "consul-dataplane".parse().unwrap();
        let unseen = dataplane.shutdown().unwrap();
        assert_eq!(unseen.url.as_str(), "http://localhost:20600/graceful_shutdown");
        for port in [20300, 20600] {
            let url = HttpUrl::on_loopback(port, "/graceful_shutdown");
            assert_eq!(ended_by(&Request::new(Method::Post, url)), Some(dataplane), "{port}");
        }
    }

    #[test]
    fn every_row_is_sound() {
        for (number, known) in SIDECARS.iter().enumerate() {
            let unique = SIDECARS[..number].iter().all(|other| other.name != known.name);
            assert!(unique, "{} is there twice", known.name);
            assert!(!known.containers.is_empty() || !known.images.is_empty(), "{}", known.name);
            assert!(!known.source.is_empty(), "{}", known.name);
            for found in known.containers {
                assert_eq!(name(found, ""), Some(known.name), "another row has container {found}");
            }
            for found in known.images {
                assert_eq!(name("x", found), Some(known.name), "another row has image {found}");
            }
            if let Ok(url) = known.wait() {
                assert!(url.is_loopback(), "{}", known.name);
            }
        }
    }

    #[test]
    fn the_table_fits_a_terminal() {
        for line in table().lines() {
            assert!(line.len() <= 100, "{line}");
        }
    }

    #[test]
    fn the_manifest_shows_that_a_request_is_switched_off() {
        let off = |container: &Container| recognise(container).unwrap().end_is_off;
        let annotations = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };

        let linkerd = container("linkerd-proxy", "cr.l5d.io/linkerd/proxy:edge-26.8.3");
        let by_annotation = |value| annotations(&[("config.linkerd.io/proxy-admin-shutdown", value)]);
        let by_variable = |value| [("LINKERD2_PROXY_SHUTDOWN_ENDPOINT_ENABLED", value)];
        assert!(off(&linkerd));
        assert!(!off(&Container { annotations: &by_annotation("enabled"), ..linkerd }));
        assert!(
            off(&Container { annotations: &by_annotation("true"), ..linkerd }),
            "the injector wants `enabled`"
        );
        assert!(!off(&Container { variables: &by_variable("true"), ..linkerd }));
        // Injected before the annotation was set.
        let (variables, late) = (by_variable("false"), by_annotation("enabled"));
        assert!(off(&Container { variables: &variables, annotations: &late, ..linkerd }));
        assert!(off(&Container { referenced: &["_pod_name"], ..linkerd }), "which is another variable");

        for (name, prefix) in [("vault-agent", "vault.hashicorp.com"), ("openbao-agent", "openbao.org")] {
            let agent = container(name, "agent");
            let with = |pairs: &[(&str, &str)]| {
                let pairs: Vec<_> = pairs
                    .iter()
                    .map(|(key, value)| (format!("{prefix}/{key}"), (*value).to_owned()))
                    .collect();
                off(&Container { annotations: &pairs.into_iter().collect(), ..agent })
            };
            let injected = ("agent-inject-status", "injected");
            assert!(!with(&[]), "who wrote it by hand has configured it elsewhere");
            assert!(with(&[injected]));
            assert!(with(&[injected, ("agent-enable-quit", "false")]));
            assert!(!with(&[injected, ("agent-enable-quit", "t")]));
            assert!(!with(&[injected, ("agent-configmap", "mine")]));
        }

        for (image, prefix) in
            [("cloud-sql-connectors/cloud-sql-proxy", "CSQL"), ("alloydb-auth-proxy", "ALLOYDB")]
        {
            let proxy = container("proxy", image);
            let name = format!("{prefix}_PROXY_QUITQUITQUIT");
            assert!(off(&Container { words: &["p:r:i"], ..proxy }));
            assert!(!off(&Container { words: &["--port=1", "--quitquitquit"], ..proxy }));
            assert!(!off(&Container { words: &["--quitquitquit", "p:r:i"], ..proxy }));
            assert!(off(&Container { words: &["--quitquitquit=false", "p:r:i"], ..proxy }));
            assert!(!off(&Container { variables: &[(&name, "1")], ..proxy }));
            assert!(!off(&Container { referenced: &[&name], ..proxy }));
            assert!(!off(&Container { has_env_from: true, ..proxy }));
            assert!(!off(&Container { words: &["--config-file", "c.yaml"], ..proxy }));
            assert!(!off(&Container { words: &["/start.sh"], ..proxy }));
        }
        // By its name alone it may be another program.
        assert!(!off(&container("cloud-sql-proxy", "my/proxy")));
        assert!(!off(&container("envoy", "envoyproxy/envoy")));
    }

    #[test]
    fn the_policies_know_the_same_sidecars() {
        let read = |name: &str| {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/policies").join(name);
            std::fs::read_to_string(path).unwrap()
        };
        let quoted = |rows: &[&Known]| {
            let words = rows.iter().flat_map(|known| known.containers).map(|name| format!("'{name}'"));
            words.collect::<Vec<_>>().join(", ")
        };
        let images = |rows: &[&Known]| {
            let words: Vec<_> = rows.iter().flat_map(|known| known.images).copied().collect();
            words.join("|")
        };
        let (native, others): (Vec<_>, Vec<_>) = SIDECARS.iter().partition(|known| known.may_be_native());
        let policy = read("native.yaml");
        for expected in [
            format!("      [{}] +\n", quoted(&native)),
            format!("      '^(.*/)?({})(:[^/]*)?", images(&native)),
            format!("      '^(.*/)?({})(:[^/]*)?", images(&others)),
        ] {
            assert!(policy.contains(&expected), "deploy/policies/native.yaml lacks\n{expected}");
        }
        let all: Vec<_> = SIDECARS.iter().collect();
        let policy = read("wrap.yaml");
        for expected in
            [format!("      [{}]\n", quoted(&all)), format!("      '^(.*/)?({})(:[^/]*)?", images(&all))]
        {
            assert!(policy.contains(&expected), "deploy/policies/wrap.yaml lacks\n{expected}");
        }
        let policy = read("annotations.yaml");
        for annotation in [
            "vault.hashicorp.com/agent-enable-quit",
            "openbao.org/agent-enable-quit",
            "config.linkerd.io/proxy-admin-shutdown",
        ] {
            let is_known = |known: &&Known| known.needs().is_some_and(|needs| needs.contains(annotation));
            assert!(all.iter().copied().any(|known| is_known(&known)), "{annotation}");
            let (domain, key) = annotation.split_once('/').unwrap();
            assert!(
                policy.contains(domain) && policy.contains(key),
                "deploy/policies/annotations.yaml lacks {annotation}"
            );
        }
        let late = SIDECARS.iter().filter(|known| matches!(known.ready, Ready::AfterApplication(_)));
        let late: Vec<_> = late.collect();
        for name in ["gate.yaml", "wrap.yaml"] {
            let expected = format!("      [{}]\n", quoted(&late));
            assert!(read(name).contains(&expected), "deploy/policies/{name} lacks\n{expected}");
        }
        let expected = format!("      '^(.*/)?({})(:[^/]*)?", images(&late));
        assert!(read("wrap.yaml").contains(&expected), "deploy/policies/wrap.yaml lacks\n{expected}");
    }

    #[test]
    fn the_policies_for_kyverno_do_the_same() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/policies");
        let does = |path: &str| {
            let text = std::fs::read_to_string(folder.join(path)).unwrap();
            let from = text.find("\n  variables:\n").unwrap_or_else(|| panic!("{path} has no variables"));
            text[from..].split("\n---\n").next().unwrap().trim().to_owned()
        };
        for name in ["annotations.yaml", "gate.yaml", "native.yaml"] {
            assert_eq!(does(&format!("kyverno/{name}")), does(name), "{name}");
        }
    }
}
