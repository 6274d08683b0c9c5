//! The API server: a [`Cluster`] serves Pods over HTTPS as a real one does.
//!
//! It knows Pods and nothing else, and only reads of them over the network; they are written through the methods of
//! [`Cluster`]. Beyond what a server does by itself, it fails on request.

mod access;
mod account;
mod fault;
mod http;
mod ledger;
mod object;
mod query;
mod selector;
mod server;
mod shared;
mod status;
mod store;
mod tls;
mod watch;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::{Timestamp, ToSpan};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tokio::runtime::{Builder, Handle, Runtime};

pub use access::{Access, Rule};
pub use fault::{Fault, FaultGuard};
pub use ledger::Request;
pub(crate) use ledger::WatchNote;

use account::Account;
use fault::Held;
use server::Port;
use shared::Shared;
use store::Key;
use tls::Identity;

/// How long the server may take to open or close its port.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the server's tasks may take to end; they only ever wait.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// How [`Cluster::end_watches`] ends them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEnd {
    /// With the last chunk, as when `timeoutSeconds` is over.
    Close,
    /// Without it: the connection just ends.
    Abort,
    /// With an `ERROR` event that carries this status.
    Error {
        /// The status code, such as 410.
        code: u16,
        /// The message of the status.
        message: String,
    },
}

impl WatchEnd {
    /// The `ERROR` event of a watch whose revision was compacted away.
    #[must_use]
    pub fn expired() -> WatchEnd {
        WatchEnd::Error {
            code: 410,
            message: "The resourceVersion for the provided watch is too old.".to_owned(),
        }
    }
}

/// An API server of its own, on an ephemeral port of 127.0.0.1, until it is dropped.
///
/// All methods block and may be called from any thread.
pub struct Cluster {
    shared: Arc<Shared>,
    address: SocketAddr,
    /// Taken on drop.
    runtime: Option<Runtime>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Cluster")
            .field("address", &self.address)
            .field("ledger", &self.shared.ledger)
            .finish_non_exhaustive()
    }
}

impl Cluster {
    /// Starts a server whose client is the service account `default` of the namespace `default`, with all rights.
    ///
    /// # Errors
    ///
    /// When the port, the certificates or the service account's directory cannot be had.
    pub fn start() -> Result<Cluster> {
        Cluster::start_for("default", "default")
    }

    /// Starts a server whose client is this service account, with all rights.
    ///
    /// # Errors
    ///
    /// As for [`Cluster::start`].
    pub fn start_for(namespace: &str, service_account: &str) -> Result<Cluster> {
        let identity = Identity::generate().context("cannot make the cluster's certificates")?;
        let account = Account::create(namespace, identity.ca_pem)
            .context("cannot write the service account's files")?;
        let user = format!("system:serviceaccount:{namespace}:{service_account}");
        let shared = Arc::new(Shared::new(account, user));
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("localpod")
            .enable_all()
            .build()
            .context("cannot start the cluster's runtime")?;
        let entered = runtime.enter();
        let port = Port::take().context("cannot take a port of 127.0.0.1")?;
        let listener = port.listen().context("cannot listen on 127.0.0.1")?;
        drop(entered);
        let address = port.address;
        shared.ledger.set_listening(true);
        runtime.spawn(server::run(Arc::clone(&shared), port, listener, identity.acceptor, http::answer));
        Ok(Cluster { shared, address, runtime: Some(runtime) })
    }

    /// Where the server listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The directory with `token`, `ca.crt` and `namespace`, laid out as the kubelet mounts it.
    #[must_use]
    pub fn service_account_dir(&self) -> &Path {
        self.shared.account.path()
    }

    /// The environment in which a client finds this server.
    #[must_use]
    pub fn env(&self) -> Vec<(String, String)> {
        let directory = self.service_account_dir().display().to_string();
        vec![
            ("KUBERNETES_SERVICE_HOST".to_owned(), self.address.ip().to_string()),
            ("KUBERNETES_SERVICE_PORT".to_owned(), self.address.port().to_string()),
            ("PROA_SERVICE_ACCOUNT_DIR".to_owned(), directory),
        ]
    }

    /// Creates or replaces a Pod.
    ///
    /// UID, creation time and, for want of one, the namespace `default` are filled in.
    pub fn apply(&self, pod: Pod) {
        self.shared.store.put(pod);
    }

    /// Changes a Pod, if it is there.
    pub fn update(&self, namespace: &str, name: &str, change: impl FnOnce(&mut Pod)) {
        self.shared.store.modify(&key(namespace, name), change);
    }

    /// The Pod as it is now.
    #[must_use]
    pub fn pod(&self, namespace: &str, name: &str) -> Option<Pod> {
        self.shared.store.get(&key(namespace, name)).map(|pod| pod.as_ref().clone())
    }

    /// Marks a Pod as being deleted: `deletionTimestamp` and `deletionGracePeriodSeconds` appear.
    pub fn mark_deleted(&self, namespace: &str, name: &str, grace: Duration) {
        let seconds = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        self.update(namespace, name, |pod| {
            // The time by which the Pod is to be gone, not the time of the request.
            let gone = Timestamp::now().checked_add(seconds.seconds()).unwrap_or(Timestamp::MAX);
            pod.metadata.deletion_timestamp = Some(Time(gone));
            pod.metadata.deletion_grace_period_seconds = Some(seconds);
        });
    }

    /// Removes a Pod.
    pub fn remove(&self, namespace: &str, name: &str) {
        self.shared.store.remove(&key(namespace, name));
    }

    /// The newest resource version.
    #[must_use]
    pub fn resource_version(&self) -> u64 {
        self.shared.store.revision()
    }

    /// Writes a new token into the service account's directory; the old one is no longer accepted.
    ///
    /// Watches that are open go on, as on a real server.
    ///
    /// # Errors
    ///
    /// When the directory cannot be written.
    pub fn rotate_token(&self) -> io::Result<()> {
        self.shared.account.rotate()
    }

    /// Has the service account's token expire: nothing is accepted until [`Cluster::rotate_token`].
    pub fn expire_token(&self) {
        self.shared.account.expire();
    }

    /// Forgets the history: a watch from any earlier resource version now gets an `ERROR` event with 410.
    pub fn compact(&self) {
        self.shared.store.compact();
    }

    /// Sends a bookmark to every open watch that allowed them.
    pub fn bookmark(&self) {
        self.shared.store.bookmark();
    }

    /// Ends every open watch.
    pub fn end_watches(&self, how: &WatchEnd) {
        self.shared.store.end_watches(how);
    }

    /// Closes every connection, in whatever state it is.
    pub fn hang_up(&self) {
        self.shared.hang_up();
    }

    /// Puts a fault in force until the guard is dropped.
    pub fn inject(&self, fault: Fault) -> FaultGuard {
        FaultGuard::new(&self.shared.faults, Held::Fault(self.shared.faults.add(fault, None)))
    }

    /// Puts a fault in force for the next `times` connections or requests.
    pub fn inject_times(&self, fault: Fault, times: usize) {
        self.shared.faults.add(fault, Some(times));
    }

    /// Refuses connections until the guard is dropped; those that are open stay so (see [`Cluster::hang_up`]).
    ///
    /// Nothing of a refused connection reaches the server, so this cannot be counted as other faults can.
    pub fn refuse(&self) -> FaultGuard {
        let guard = FaultGuard::new(&self.shared.faults, Held::Refusing);
        self.wait_for_listening(false);
        let ledger = Arc::clone(&self.shared.ledger);
        let faults = Arc::clone(&self.shared.faults);
        guard.settling(move || {
            ledger.wait(LISTEN_TIMEOUT, |state| {
                (state.listening || *faults.refusing.borrow() > 0).then_some(())
            });
        })
    }

    fn wait_for_listening(&self, listening: bool) {
        self.shared.ledger.wait(LISTEN_TIMEOUT, |state| (state.listening == listening).then_some(()));
    }

    /// Silences every watch until the guard is dropped: what happens meanwhile is withheld, and sent then.
    pub fn stall(&self) -> FaultGuard {
        FaultGuard::new(&self.shared.faults, Held::Stalling)
    }

    /// Sets the service account's rights.
    pub fn authorize(&self, access: Access) {
        self.shared.authorize(access);
    }

    /// Every request so far, in the order of their answers.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.shared.ledger.read(|state| state.requests.clone())
    }

    /// Whether a Pod that fits was among what has been sent so far: in a list, alone, or in a watch as one that is there. It is noted
    /// before its first byte goes out: what a client does with it happens later. Whether it has arrived nobody knows.
    #[must_use]
    pub fn has_served(&self, fits: impl Fn(&Pod) -> bool) -> bool {
        self.shared.ledger.read(|state| state.served.values().any(|pod| fits(pod)))
    }

    /// Blocks until a Pod that fits has been sent, as for [`Cluster::has_served`]; false when the time is over.
    #[must_use]
    pub fn wait_for_served(&self, timeout: Duration, fits: impl Fn(&Pod) -> bool) -> bool {
        self.shared
            .ledger
            .wait(timeout, |state| state.served.values().any(|pod| fits(pod)).then_some(()))
            .is_some()
    }

    /// Forgets every request so far, and what was sent: a server that runs for long needs no more memory, and what comes is news.
    pub fn forget_requests(&self) {
        self.shared.ledger.forget();
    }

    /// Blocks until some request, past or coming, fits; `None` when the time is over.
    pub fn wait_for_request(
        &self,
        timeout: Duration,
        mut fits: impl FnMut(&Request) -> bool,
    ) -> Option<Request> {
        let mut seen = 0;
        self.shared.ledger.wait(timeout, |state| {
            // Some may have been forgotten meanwhile.
            let fresh = &state.requests[seen.min(state.requests.len())..];
            seen = state.requests.len();
            fresh.iter().find(|request| fits(request)).cloned()
        })
    }

    /// How many connections are open.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.shared.ledger.read(|state| state.connections)
    }

    /// Blocks until this many connections are open; false when the time is over.
    #[must_use]
    pub fn wait_for_connections(&self, count: usize, timeout: Duration) -> bool {
        self.shared.ledger.wait(timeout, |state| (state.connections == count).then_some(())).is_some()
    }

    /// How many watches are open.
    #[must_use]
    pub fn open_watches(&self) -> usize {
        self.shared.ledger.read(|state| state.watches)
    }

    /// Blocks until this many watches are open; false when the time is over.
    #[must_use]
    pub fn wait_for_watches(&self, count: usize, timeout: Duration) -> bool {
        self.shared.ledger.wait(timeout, |state| (state.watches == count).then_some(())).is_some()
    }

    /// Calls `observer` whenever a watch opens or ends.
    pub(crate) fn observe_watches(&self, observer: impl Fn(WatchNote) + Send + Sync + 'static) {
        self.shared.ledger.observe(Box::new(observer));
    }

    /// As [`Cluster::apply`], and returns the Pod with what was filled in.
    pub(crate) fn put(&self, pod: Pod) -> Pod {
        self.shared.store.put(pod).as_ref().clone()
    }

    pub(crate) fn runtime(&self) -> Option<&Handle> {
        self.runtime.as_ref().map(Runtime::handle)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        if Handle::try_current().is_ok() {
            // A thread that runs asynchronous code must not block.
            runtime.shutdown_background();
        } else {
            // Its tasks own the port and the service account's directory, which are then gone.
            runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
        }
    }
}

fn key(namespace: &str, name: &str) -> Key {
    (namespace.to_owned(), name.to_owned())
}
