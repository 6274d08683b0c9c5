//! The own Pod as the API server shows it, as a stream that never ends by itself.
//!
//! One request serves list and watch: a watch by name from resourceVersion 0 begins with the Pod as it is
//! ("Get State and Start at Any", Kubernetes API Concepts), so that the Role needs `watch` alone. The
//! first event may be stale, which only makes us wait; the watch brings the newer state. Whatever ends a
//! watch, the next one begins from scratch and so misses nothing.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::fs;
use std::hash::BuildHasher;
use std::path::PathBuf;
use std::time::Duration;

use futures::stream::{BoxStream, StreamExt, unfold};
use http::header::{HeaderValue, USER_AGENT};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, WatchEvent, WatchParams};
use kube::config::AuthInfo;
use kube::{Client, Config};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::debug;

use crate::causes::causes;
use crate::identity::{Identity, PodName};
use crate::pod::{Snapshot, Unreadable};
use crate::policy::AskApi;

/// The server ends a watch after this long. A connection that has gone silent without being closed is
/// found out by that, so it bounds how long a change can go unseen.
const WATCH: Duration = Duration::from_secs(30);
/// How much later than that the end must have come.
const SLACK: Duration = Duration::from_secs(5);
/// How long an answer may take at first. Doubles up to [`WATCH`] while it takes longer: a proxy that
/// swallows connections until it is up costs little, and a busy API server still gets its time.
const ANSWER: Duration = Duration::from_secs(4);
/// The pause after a first failure; doubles up to [`LAST_PAUSE`]. Inside a mesh every connection is
/// refused until the proxy is up, and the gate should open right after.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest pause between attempts.
const LAST_PAUSE: Duration = Duration::from_secs(1);
/// A hostname that names no Pod shows no event. How long a first event may take before we look for the
/// Pod by UID: it is the first thing that a watch sends.
const FIRST_EVENT: Duration = Duration::from_secs(2);
/// How the API server's audit log knows us.
const AGENT: &str = concat!("proa/", env!("CARGO_PKG_VERSION"));
/// Pods a page while looking for a UID: some hundred kilobytes of metadata.
const PAGE: u32 = 100;

/// The API server's address, set by the kubelet.
pub const SERVICE_HOST: &str = "KUBERNETES_SERVICE_HOST";
/// The API server's port, set by the kubelet.
pub const SERVICE_PORT: &str = "KUBERNETES_SERVICE_PORT";

/// How the API server is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiServer {
    /// Whether it is asked.
    pub ask: AskApi,
    /// The service account's mount: `token`, `ca.crt`, `namespace`.
    pub service_account: PathBuf,
    /// `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT`, which the kubelet gives every container.
    pub address: Option<(String, u16)>,
}

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

/// What stands in the way of seeing the Pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// No connection, no answer, or none that makes sense.
    Unreachable(String),
    /// The API server does not know the token (401).
    Unauthorized(String),
    /// RBAC does not allow it (403).
    Forbidden {
        /// `watch`, or `list` where the Pod must be found by UID.
        verb: &'static str,
        /// The namespace.
        namespace: String,
        /// The API server's own words.
        message: String,
    },
    /// The namespace has no such Pod.
    NoSuchPod(String),
    /// The Pod of that name is not the one this container belongs to.
    OtherPod {
        /// `namespace/name`.
        pod: String,
        /// The UID that the kubelet's mounts tell.
        own: String,
        /// The UID of the Pod of that name.
        found: String,
    },
    /// The Pod does not tell which container is ours.
    Unreadable(Unreadable),
}

impl Trouble {
    /// Whether the API server knows us not, or does not let us.
    #[must_use]
    pub fn is_denial(&self) -> bool {
        matches!(self, Self::Unauthorized(_) | Self::Forbidden { .. })
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) => write!(f, "the API server cannot be reached: {why}"),
            Self::Unauthorized(why) => write!(
                f,
                "the API server does not accept the service account token ({why}); expected a token of this \
                 cluster in --service-account-dir"
            ),
            Self::Forbidden { verb, namespace, message } => {
                write!(
                    f,
                    "{message}; bind this Pod's service account to a Role in namespace `{namespace}` with the rule \
                     {{apiGroups: [\"\"], resources: [\"pods\"], verbs: [\"{verb}\"]}}"
                )?;
                if *verb == "list" {
                    write!(
                        f,
                        ", or set POD_NAME from metadata.name, since the hostname is not this Pod's name"
                    )?;
                }
                Ok(())
            }
            Self::NoSuchPod(pod) => write!(
                f,
                "there is no Pod `{pod}`; set --pod-name (POD_NAME) from metadata.name and --namespace \
                 (POD_NAMESPACE) from metadata.namespace"
            ),
            Self::OtherPod { pod, own, found } => write!(
                f,
                "the Pod `{pod}` has UID {found}, but this container belongs to the Pod with UID {own}; \
                 correct --pod-name (POD_NAME)"
            ),
            Self::Unreadable(why) => write!(f, "{why}"),
        }
    }
}

/// How long the API server may deny what we ask, or know no such Pod, before we believe it. A RoleBinding
/// created together with the Pod may come later than the Pod, a cache may lag, and an API server that has
/// just started knows no Roles yet.
pub const GRACE: Duration = Duration::from_secs(10);

/// Whether to believe that something stands in the way for good: after [`GRACE`].
#[derive(Debug, Default)]
pub struct Doubt {
    since: Option<Instant>,
}

impl Doubt {
    /// For how long this trouble has been doubted. An API server out of reach is none for good.
    pub fn about(&mut self, trouble: &Trouble) -> Duration {
        match trouble {
            Trouble::Unreachable(_) => Duration::ZERO,
            Trouble::Unreadable(_) => Duration::MAX,
            Trouble::Unauthorized(_)
            | Trouble::Forbidden { .. }
            | Trouble::NoSuchPod(_)
            | Trouble::OtherPod { .. } => self.since.get_or_insert_with(Instant::now).elapsed(),
        }
    }

    /// The Pod was seen: all is well again.
    pub fn dispel(&mut self) {
        self.since = None;
    }
}

/// Why there is no way to ask an API server at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoApi {
    /// The kubelet's variables are missing.
    Server,
    /// The service account is not mounted.
    ServiceAccount {
        /// The file.
        file: String,
        /// Why it cannot be read.
        error: String,
    },
}

impl fmt::Display for NoApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server => write!(
                f,
                "{} and {} are not set; proa runs as the entrypoint of a container in a Kubernetes Pod",
                SERVICE_HOST, SERVICE_PORT
            ),
            Self::ServiceAccount { file, error } => write!(
                f,
                "no service account: {file}: {error}; mount its token (automountServiceAccountToken, or a \
                 projected volume named by --service-account-dir)"
            ),
        }
    }
}

impl std::error::Error for NoApi {}

/// The API server, as this Pod's service account reaches it.
#[derive(Debug, Clone)]
pub struct Cluster {
    api: ApiServer,
    url: String,
}

/// Where to see the own Pod.
#[derive(Debug, Clone)]
pub struct OwnPod {
    /// The API server.
    pub cluster: Cluster,
    /// Which Pod.
    pub identity: Identity,
}

impl Cluster {
    /// Checks that there is a server and a service account to ask it with.
    ///
    /// # Errors
    /// When the kubelet's variables or files are missing.
    pub fn new(api: &ApiServer) -> Result<Self, NoApi> {
        let (host, port) = api.address.as_ref().ok_or(NoApi::Server)?;
        // An IPv6 address stands in brackets.
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let cluster = Self { api: api.clone(), url: format!("https://{host}:{port}") };
        cluster.config()?;
        Ok(cluster)
    }

    /// Token and CA are read anew for every attempt: both rotate (KEP-1205).
    fn config(&self) -> Result<Config, NoApi> {
        let file = |name: &str| self.api.service_account.join(name);
        let unreadable = |name: &str, error: &dyn fmt::Display| NoApi::ServiceAccount {
            file: file(name).display().to_string(),
            error: error.to_string(),
        };
        let token = fs::read_to_string(file("token")).map_err(|error| unreadable("token", &error))?;
        fs::File::open(file("ca.crt")).map_err(|error| unreadable("ca.crt", &error))?;
        let mut config = Config::new(self.url.parse().map_err(|_| NoApi::Server)?);
        config.root_cert_file = Some(file("ca.crt"));
        // Without any certificate here kube would look for the system's, of which an empty image has none,
        // before it turns to the file.
        config.root_cert = Some(Vec::new());
        config.auth_info = AuthInfo { token: Some(token.trim().to_owned().into()), ..AuthInfo::default() };
        config.headers = vec![(USER_AGENT, HeaderValue::from_static(AGENT))];
        // Time limits and retries are this file's own.
        config.connect_timeout = None;
        config.read_timeout = None;
        config.write_timeout = None;
        config.default_retry = false;
        Ok(config)
    }

    fn client(&self) -> Result<Client, Trouble> {
        let config = self.config().map_err(|error| Trouble::Unreachable(error.to_string()))?;
        Client::try_from(config).map_err(|error| Trouble::Unreachable(causes(&error)))
    }
}

impl OwnPod {
    /// Watches the Pod. The stream goes on until it is dropped, and holds at most one connection.
    #[must_use]
    pub fn watch(&self) -> BoxStream<'static, Observation> {
        let watcher = Watcher {
            cluster: self.cluster.clone(),
            identity: self.identity.clone(),
            verified: false,
            events: None,
            answer: ANSWER,
            pause: Duration::ZERO,
            opened: None,
        };
        unfold(watcher, |mut watcher| async move {
            let observation = watcher.next().await;
            Some((observation, watcher))
        })
        .boxed()
    }
}

type Events = BoxStream<'static, kube::Result<WatchEvent<Pod>>>;

struct Watcher {
    cluster: Cluster,
    identity: Identity,
    /// Whether the Pod's name is known to be right.
    verified: bool,
    events: Option<Events>,
    answer: Duration,
    pause: Duration,
    opened: Option<Instant>,
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
                    return Observation::Trouble(trouble);
                }
            }
        }
    }

    /// Pauses if there is reason to, then opens a watch.
    async fn open(&mut self) -> Result<Option<Observation>, Trouble> {
        // A watch that lived for a while was a good one; one that ends at once must not be reopened in a
        // tight loop.
        if self.opened.take().is_some_and(|opened| opened.elapsed() > LAST_PAUSE) {
            self.pause = Duration::ZERO;
        }
        sleep(jittered(self.pause)).await;
        self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LAST_PAUSE);
        if !self.verified && self.identity.uid.is_some() && self.identity.pod.is_doubtful() {
            self.find_by_uid().await?;
        }
        let pods = self.pods()?;
        let selector = format!("metadata.name={}", self.identity.pod.as_str());
        let seconds = u32::try_from(WATCH.as_secs()).unwrap_or(u32::MAX);
        let params = WatchParams::default().fields(&selector).timeout(seconds);
        let events = match timeout(self.answer, pods.watch(&params, "0")).await {
            Err(_) => {
                let waited = self.answer;
                self.answer = (self.answer * 2).min(WATCH);
                return Err(Trouble::Unreachable(format!("no answer within {}s", waited.as_secs())));
            }
            Ok(answer) => answer.map_err(|error| self.trouble("watch", &error))?,
        };
        self.answer = ANSWER;
        self.opened = Some(Instant::now());
        self.events = Some(events.boxed());
        Ok(None)
    }

    /// The next event of the open watch; the watch is kept unless it has come to its end.
    async fn read(&mut self, mut events: Events) -> Result<Option<Observation>, Trouble> {
        let opened = self.opened.unwrap_or_else(Instant::now);
        let patience = if self.verified { WATCH + SLACK } else { FIRST_EVENT };
        match timeout_at(opened + patience, events.next()).await {
            // Silent for longer than the server lets a watch live, or ended as every watch does.
            Err(_) | Ok(None) if self.verified => Ok(None),
            Err(_) | Ok(None) => {
                self.no_such_pod().await?;
                Ok(None)
            }
            Ok(Some(Ok(event))) => {
                self.events = Some(events);
                self.event(event).await
            }
            Ok(Some(Err(error))) => Err(self.trouble("watch", &error)),
        }
    }

    async fn event(&mut self, event: WatchEvent<Pod>) -> Result<Option<Observation>, Trouble> {
        match event {
            WatchEvent::Added(pod) | WatchEvent::Modified(pod) => {
                if let Some((own, found)) = self.mismatch(&pod) {
                    self.events = None;
                    self.other_pod(own, found).await?;
                    return Ok(None);
                }
                self.verified = true;
                Snapshot::of(&pod, self.identity.container.as_deref())
                    .map(|snapshot| Some(Observation::Seen(snapshot)))
                    .map_err(Trouble::Unreadable)
            }
            // Another Pod of the same name may have been ours to mistake; a stale one ends nothing.
            WatchEvent::Deleted(pod) if self.mismatch(&pod).is_some() => Ok(None),
            WatchEvent::Deleted(_) => Ok(Some(Observation::Gone)),
            WatchEvent::Bookmark(_) => Ok(None),
            // 410 Gone above all: the next watch begins from scratch.
            WatchEvent::Error(status) => {
                self.events = None;
                debug!(code = status.code, reason = status.reason, "watch ended by the API server");
                Ok(None)
            }
        }
    }

    /// The own UID and the Pod's, where both are known and differ.
    fn mismatch(&self, pod: &Pod) -> Option<(String, String)> {
        let own = self.identity.uid.clone()?;
        let found = pod.metadata.uid.clone()?;
        (own != found).then_some((own, found))
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
        let pods = self.pods()?;
        let mut params =
            ListParams::default().fields("status.phase!=Succeeded,status.phase!=Failed").limit(PAGE);
        loop {
            let page = timeout(WATCH, pods.list_metadata(&params))
                .await
                .map_err(|_| Trouble::Unreachable(format!("no answer within {}s", WATCH.as_secs())))?
                .map_err(|error| self.trouble("list", &error))?;
            let own = page.items.into_iter().find(|pod| pod.metadata.uid == self.identity.uid);
            if let Some(name) = own.and_then(|pod| pod.metadata.name) {
                debug!(name, "found this Pod by its UID");
                self.identity.pod = PodName::Given(name);
                self.verified = true;
                self.pause = Duration::ZERO;
                return Ok(());
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Err(Trouble::NoSuchPod(self.shown_name())),
            }
        }
    }

    fn pods(&self) -> Result<Api<Pod>, Trouble> {
        Ok(Api::namespaced(self.cluster.client()?, &self.identity.namespace))
    }

    fn trouble(&self, verb: &'static str, error: &kube::Error) -> Trouble {
        match error {
            kube::Error::Api(status) if status.code == 401 => Trouble::Unauthorized(status.message.clone()),
            kube::Error::Api(status) if status.code == 403 => Trouble::Forbidden {
                verb,
                namespace: self.identity.namespace.clone(),
                message: status.message.clone(),
            },
            kube::Error::Api(status) => {
                Trouble::Unreachable(format!("{} {} {}", status.code, status.reason, status.message))
            }
            other => Trouble::Unreachable(causes(other)),
        }
    }
}

/// Between three quarters of the pause and all of it, so that Pods that lost the API server together do
/// not come back together.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().hash_one(()) % 256;
    let thousandths = 750 + u32::try_from(random).unwrap_or(0) * 250 / 256;
    pause * thousandths / 1000
}
