//! The own Pod as the API server shows it, as a stream that never ends by itself.
//!
//! One request serves list and watch: a watch by name from resourceVersion 0 begins with the Pod as it is
//! ("Get State and Start at Any", Kubernetes API Concepts), so that the Role needs `watch` alone. The
//! first event may be stale; [`crate::pod::run::Run`] shows whether it is of use, and the watch brings the newer state. Whatever
//! ends a watch, the next one begins from scratch and so misses nothing.

pub mod answer;
mod client;
mod errors;
mod pause;
pub mod trouble;

use std::time::{Duration, Instant};

use futures::stream::{BoxStream, StreamExt, unfold};
use kube::Resource;
use kube::core::Request;
use kube::core::params::{ListParams, WatchParams};
use tokio::time::{timeout, timeout_at};
use tracing::debug;

use crate::deadline::{elapsed, now};
use crate::identity::{Identity, PodName};
use crate::pod::Snapshot;
use crate::pod::object::{Pod, PodNames};
use answer::{Event, Events, Failure};
pub use client::{ApiServer, Cluster, NoApi};
use errors::trouble_of;
use pause::{LAST_PAUSE, Pause, scattered};
use trouble::{Trouble, Verb};

/// The API server's address, set by the kubelet.
pub const SERVICE_HOST: &str = "KUBERNETES_SERVICE_HOST";
/// The API server's port, set by the kubelet.
pub const SERVICE_PORT: &str = "KUBERNETES_SERVICE_PORT";

/// The server ends a watch after this long, and up to [`SPREAD`] more, so that Pods that started together do not come back
/// together. A connection that has gone silent without being closed is found out by that, so it bounds how long a
/// change can go unseen.
const WATCH: Duration = Duration::from_secs(30);
const SPREAD: Duration = Duration::from_secs(5);
/// How much later than that the end must have come.
const SLACK: Duration = Duration::from_secs(5);
/// How long an answer may take at first. Doubles up to [`WATCH`] while it takes longer: a proxy that
/// swallows connections until it is up costs little, and a busy API server still gets its time.
const ANSWER: Duration = Duration::from_secs(4);
/// A name without a Pod shows no event. How long a watch's first event may take before we doubt the name, or the
/// API server: it is the first thing that a watch sends. Doubles up to [`WATCH`] while none comes: a busy API server still
/// gets its time.
const FIRST_EVENT: Duration = Duration::from_secs(2);
/// Pods a page while looking for a UID: some hundred kilobytes of metadata.
const PAGE: u32 = 100;

/// What came of watching.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observation {
    /// The Pod as it is.
    Seen(Snapshot),
    /// The Pod no longer exists.
    Gone,
    /// Something stood in the way; another attempt follows.
    Trouble(Trouble),
}

/// What a look at the Pod came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Looked {
    /// The Pod as it is.
    Seen(Snapshot),
    /// It no longer exists.
    Gone,
    /// What stood in the way until time was up.
    Not(Trouble),
}

/// Where to see the own Pod.
#[derive(Debug, Clone)]
pub struct OwnPod {
    /// The API server.
    pub cluster: Cluster,
    /// Which Pod.
    pub identity: Identity,
}

impl OwnPod {
    /// Watches the Pod. The stream goes on until it is dropped, and holds at most one connection.
    #[must_use]
    pub fn watch(&self) -> BoxStream<'static, Observation> {
        self.observe(Start::Cached, false)
    }

    /// The same for who has seen the Pod by this name: where there is none of it, it is gone.
    #[must_use]
    pub fn watch_again(&self) -> BoxStream<'static, Observation> {
        self.observe(Start::Cached, true)
    }

    /// Looks at the Pod once, for so long at most. What is seen is not older than the request, where the API server can tell.
    /// `denial_is_final`: not to be asked again.
    pub async fn look(&self, limit: Duration, denial_is_final: bool) -> Looked {
        let mut observations = self.observe(Start::Consistent, false);
        let mut last = Trouble::NoConnection("no answer in time".to_owned());
        let looking = async {
            while let Some(observation) = observations.next().await {
                match observation {
                    Observation::Seen(snapshot) => return Looked::Seen(snapshot),
                    Observation::Gone => return Looked::Gone,
                    Observation::Trouble(trouble) => {
                        if trouble.is_denial() && denial_is_final {
                            return Looked::Not(trouble);
                        }
                        last = trouble;
                    }
                }
            }
            // The stream has no end.
            std::future::pending().await
        };
        match timeout(limit, looking).await {
            Ok(looked) => looked,
            Err(_) => Looked::Not(last),
        }
    }

    /// The same, by the name that was found out: the search for it need not be made again.
    #[must_use]
    pub fn named(&self, name: &str) -> Self {
        let identity = Identity { pod: PodName::Given(name.to_owned()), ..self.identity.clone() };
        Self { cluster: self.cluster.clone(), identity }
    }

    fn observe(&self, start: Start, verified: bool) -> BoxStream<'static, Observation> {
        let watcher = Watcher {
            cluster: self.cluster.clone(),
            identity: self.identity.clone(),
            start,
            first_start: start,
            verified,
            shown: false,
            events: None,
            answer: ANSWER,
            first_event: FIRST_EVENT,
            pause: Pause::default(),
            opened: None,
        };
        unfold(watcher, |mut watcher| async move {
            let observation = watcher.next().await;
            Some((observation, watcher))
        })
        .boxed()
    }
}

/// How new the first event is at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// As the API server's cache has it, which may lag.
    Cached,
    /// As the store had it when the request came: the cache is waited for (KEP-3157, `sendInitialEvents`). Needs no right but to
    /// watch.
    Consistent,
    /// As new as an API server without that offers: before Kubernetes 1.32, and in 1.33.
    Newest,
}

impl Start {
    fn resource_version(self) -> &'static str {
        match self {
            Self::Cached => "0",
            Self::Consistent | Self::Newest => "",
        }
    }
}

/// Whether the API server does not know an option, by its status: `Invalid` (422), or 400.
fn is_unsupported(failure: &Failure) -> bool {
    matches!(failure, Failure::Status(status, _) if matches!(status.code, 400 | 422))
}

/// What came of a watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watched {
    /// It showed the Pod, and lived for a while.
    Good,
    /// It did not: the API server has trouble enough.
    Poor,
}

struct Watcher {
    cluster: Cluster,
    identity: Identity,
    start: Start,
    /// The one that was asked for; a silent API server, or an old one, changes it.
    first_start: Start,
    /// Whether the Pod's name is known to be right.
    verified: bool,
    /// Whether the open watch has shown the Pod.
    shown: bool,
    events: Option<Events>,
    answer: Duration,
    first_event: Duration,
    pause: Pause,
    /// When the open watch was opened, and when its end must have come.
    opened: Option<(Instant, Instant)>,
}

impl Watcher {
    async fn next(&mut self) -> Observation {
        loop {
            let step = match self.events.take() {
                None => self.open().await,
                Some(events) => self.read(events).await,
            };
            match step {
                Ok(Some(observation)) => return observation,
                Ok(None) => {}
                Err(trouble) => {
                    debug!(%trouble, "watch failed");
                    self.events = None;
                    if self.take_opened() == Some(Watched::Good) {
                        self.pause.after_a_good_watch();
                    }
                    self.pause.after(&trouble, now());
                    // A store that is away keeps nobody from showing what the cache has; a name is doubted by the store alone.
                    if trouble.is_passing() && !self.shown && self.first_start == Start::Cached {
                        self.start = self.first_start;
                    }
                    return Observation::Trouble(trouble);
                }
            }
        }
    }

    /// Closes the open watch: what came of it.
    fn take_opened(&mut self) -> Option<Watched> {
        let (opened, _) = self.opened.take()?;
        Some(if self.shown && elapsed(opened) > LAST_PAUSE { Watched::Good } else { Watched::Poor })
    }

    /// Pauses if there is reason to, then opens a watch.
    async fn open(&mut self) -> Result<Option<Observation>, Trouble> {
        match self.take_opened() {
            Some(Watched::Good) => self.pause.after_a_good_watch(),
            Some(Watched::Poor) => self.pause.grow(),
            None => {}
        }
        self.pause.pass().await;
        if !self.verified && self.identity.uid.is_some() && self.identity.pod.is_doubtful() {
            match self.find_by_uid().await {
                // Names of 63 characters, and with dots, mostly are the Pod's own: the Role need not let us search.
                Err(trouble) if trouble.is_denial() => debug!(%trouble, "watching by the hostname"),
                found => found?,
            }
        }
        let lifetime = scattered(WATCH, SPREAD);
        let selector = format!("metadata.name={}", self.identity.pod.as_str());
        let seconds = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX);
        let params = WatchParams::default().fields(&selector).timeout(seconds);
        let params = if self.start == Start::Consistent { params.initial_events() } else { params };
        let request = self.pods().watch(&params, self.start.resource_version());
        let asked = async { self.cluster.send(request.map_err(Failure::Request)?).await };
        let body = match timeout(self.answer, asked).await {
            Err(_) => return Err(self.unanswered()),
            Ok(Err(failure)) if self.start == Start::Consistent && is_unsupported(&failure) => {
                self.start = Start::Newest;
                return Ok(None);
            }
            Ok(answer) => answer.map_err(|failure| self.trouble(Verb::Watch, &failure))?,
        };
        self.answer = ANSWER;
        let opened = now();
        self.opened = Some((opened, opened + self.first_event));
        self.shown = false;
        self.events = Some(Events::new(body));
        Ok(None)
    }

    /// The next event of the open watch; the watch is kept unless it has come to its end.
    async fn read(&mut self, mut events: Events) -> Result<Option<Observation>, Trouble> {
        let by = self.opened.map_or_else(now, |(_, by)| by);
        match timeout_at(by.into(), events.next()).await {
            // Silent for longer than the server lets a watch live; or ended, as every watch does.
            Err(_) | Ok(None) if self.shown => Ok(None),
            Ok(None) => Err(Trouble::ServerError("a watch ended before it showed anything".to_owned(), None)),
            Err(_) => self.silent().await,
            Ok(Some(Ok(event))) => {
                self.events = Some(events);
                self.event(event).await
            }
            Ok(Some(Err(failure))) => Err(self.trouble(Verb::Watch, &failure)),
        }
    }

    /// A live watch shows nothing: there is no such Pod, or something in between withholds the events.
    async fn silent(&mut self) -> Result<Option<Observation>, Trouble> {
        let waited = self.first_event;
        self.first_event = (waited * 2).min(WATCH);
        match self.start {
            // This one says when it has shown all that is there.
            Start::Cached => self.start = Start::Consistent,
            Start::Newest if !self.verified => self.no_such_pod().await?,
            Start::Consistent | Start::Newest => {
                let seconds = waited.as_secs();
                let why = format!("a watch was opened, and shows nothing within {seconds}s");
                return Err(Trouble::NoConnection(why));
            }
        }
        Ok(None)
    }

    async fn event(&mut self, event: Event) -> Result<Option<Observation>, Trouble> {
        match event {
            Event::Seen(pod) => {
                if let Some((own, found)) = self.mismatch(&pod) {
                    self.events = None;
                    self.other_pod(own, found).await?;
                    return Ok(None);
                }
                self.verified = true;
                if !self.shown {
                    self.shown = true;
                    self.first_event = FIRST_EVENT;
                    if self.start == Start::Consistent {
                        self.start = self.first_start;
                    }
                    self.opened = self.opened.map(|(opened, _)| (opened, opened + WATCH + SPREAD + SLACK));
                }
                Snapshot::of(&pod, self.identity.container.as_deref(), self.identity.started)
                    .map(|snapshot| Some(Observation::Seen(snapshot)))
                    .map_err(Trouble::Unreadable)
            }
            // Another Pod of the same name may have been ours to mistake; a stale one ends nothing.
            Event::Deleted(pod) if self.mismatch(&pod).is_some() => Ok(None),
            Event::Deleted(_) => Ok(Some(Observation::Gone)),
            // It went while nobody watched.
            Event::AllShown if !self.shown && self.verified => Ok(Some(Observation::Gone)),
            Event::AllShown if !self.shown => {
                self.events = None;
                self.no_such_pod().await?;
                Ok(None)
            }
            Event::AllShown | Event::Other => Ok(None),
            // One that shows nothing is trouble, whatever it ends with.
            Event::Error(status) if status.code != 410 || !self.shown => Err(Trouble::ServerError(
                format!("{} {} {}", status.code, status.reason, status.message),
                None,
            )),
            // The next watch begins from scratch.
            Event::Error(status) => {
                self.events = None;
                debug!(code = status.code, reason = status.reason, "watch ended by the API server");
                Ok(None)
            }
        }
    }

    /// The own UID and the Pod's, where both are known and differ.
    fn mismatch(&self, pod: &Pod) -> Option<(String, String)> {
        let own = self.identity.uid.as_deref()?;
        let found = pod.uid()?;
        (own != found).then(|| (own.to_owned(), found.to_owned()))
    }

    async fn no_such_pod(&mut self) -> Result<(), Trouble> {
        match (&self.identity.pod, &self.identity.uid) {
            (PodName::Hostname(_), Some(_)) => self.find_by_uid().await,
            _ => Err(Trouble::NoSuchPod(self.shown_name())),
        }
    }

    async fn other_pod(&mut self, own: String, found: String) -> Result<(), Trouble> {
        match &self.identity.pod {
            PodName::Hostname(_) => self.find_by_uid().await,
            PodName::Given(_) => Err(Trouble::OtherPod { pod: self.shown_name(), own, found }),
        }
    }

    fn shown_name(&self) -> String {
        format!("{}/{}", self.identity.namespace, self.identity.pod.as_str())
    }

    /// Finds the Pod's name by its UID, for which the API has no selector: reads the metadata of the
    /// namespace's live Pods page by page, so that a large namespace costs time but no memory.
    async fn find_by_uid(&mut self) -> Result<(), Trouble> {
        let uid = self.identity.uid.clone().unwrap_or_default();
        let mut params =
            ListParams::default().fields("status.phase!=Succeeded,status.phase!=Failed").limit(PAGE);
        loop {
            let request = self.pods().list_metadata(&params);
            let asked = async {
                answer::object::<PodNames>(self.cluster.send(request.map_err(Failure::Request)?).await?).await
            };
            let page = match timeout(self.answer, asked).await {
                Err(_) => return Err(self.unanswered()),
                Ok(page) => page.map_err(|failure| self.trouble(Verb::List, &failure))?,
            };
            let next = page.next().map(str::to_owned);
            if let Some(name) = page.name_of(&uid) {
                debug!(name, "found this Pod by its UID");
                self.identity.pod = PodName::Given(name);
                self.pause = Pause::default();
                return Ok(());
            }
            match next {
                Some(token) => params = params.continue_token(&token),
                None => return Err(Trouble::NoSuchPod(self.shown_name())),
            }
        }
    }

    /// The next answer may take longer.
    fn unanswered(&mut self) -> Trouble {
        let waited = self.answer;
        self.answer = (waited * 2).min(WATCH);
        Trouble::NoConnection(format!("no answer within {}s", waited.as_secs()))
    }

    fn pods(&self) -> Request {
        Request::new(k8s_openapi::api::core::v1::Pod::url_path(&(), Some(&self.identity.namespace)))
    }

    fn trouble(&self, verb: Verb, failure: &Failure) -> Trouble {
        trouble_of(failure, verb, &self.identity.namespace)
    }
}
