//! The Pods, their history, and the watches on it: the part etcd and the watch cache play.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tokio::sync::mpsc;

use super::WatchEnd;
use crate::random;
use crate::sync::lock;

/// Namespace and name.
pub(super) type Key = (String, String);

/// One write, with the object on either side of it.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) revision: u64,
    pub(super) before: Option<Arc<Pod>>,
    pub(super) after: Option<Arc<Pod>>,
}

/// What reaches an open watch.
#[derive(Clone, Debug)]
pub(super) enum Feed {
    Change(Arc<Change>),
    Bookmark(u64),
    End(WatchEnd),
}

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Start {
    /// The present objects first, as synthetic additions.
    State,
    /// Changes from now on.
    Now,
    /// Changes after this revision.
    After(u64),
}

/// A begun watch: what came before, and what comes.
pub(super) struct Subscription {
    pub(super) revision: u64,
    pub(super) present: Vec<Arc<Pod>>,
    pub(super) missed: Vec<Arc<Change>>,
    pub(super) feed: mpsc::UnboundedReceiver<Feed>,
}

/// The history before this revision is no longer there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Compacted {
    pub(super) oldest: u64,
}

#[derive(Debug)]
pub(super) struct Store(Mutex<State>);

#[derive(Debug)]
struct State {
    revision: u64,
    /// Reads at or after this revision can still be served.
    oldest: u64,
    pods: BTreeMap<Key, Arc<Pod>>,
    history: Vec<Arc<Change>>,
    watches: Vec<mpsc::UnboundedSender<Feed>>,
}

impl Store {
    pub(super) fn new() -> Store {
        // A real cluster has written other things before the first Pod; clients must not expect to start at 1.
        Store(Mutex::new(State {
            revision: 1000,
            oldest: 1000,
            pods: BTreeMap::new(),
            history: Vec::new(),
            watches: Vec::new(),
        }))
    }

    /// Creates or replaces; what the server fills in is filled in.
    pub(super) fn put(&self, pod: Pod) -> Arc<Pod> {
        lock(&self.0).put(pod)
    }

    /// Changes the object if it is there.
    pub(super) fn modify(&self, key: &Key, change: impl FnOnce(&mut Pod)) -> Option<Arc<Pod>> {
        let mut state = lock(&self.0);
        let mut pod = state.pods.get(key)?.as_ref().clone();
        change(&mut pod);
        Some(state.put(pod))
    }

    pub(super) fn remove(&self, key: &Key) -> Option<Arc<Pod>> {
        let mut state = lock(&self.0);
        let before = state.pods.remove(key)?;
        state.revision += 1;
        state.commit(Some(Arc::clone(&before)), None);
        Some(before)
    }

    pub(super) fn get(&self, key: &Key) -> Option<Arc<Pod>> {
        lock(&self.0).pods.get(key).cloned()
    }

    pub(super) fn revision(&self) -> u64 {
        lock(&self.0).revision
    }

    /// The objects as they were at `revision`, or are now, in the order of their keys.
    pub(super) fn list(&self, revision: Option<u64>) -> Result<(u64, Vec<Arc<Pod>>), Compacted> {
        let state = lock(&self.0);
        let revision = revision.unwrap_or(state.revision);
        if revision < state.oldest {
            return Err(Compacted { oldest: state.oldest });
        }
        let mut pods = state.pods.clone();
        for change in state.history.iter().rev().take_while(|change| change.revision > revision) {
            match (&change.before, &change.after) {
                (Some(before), _) => drop(pods.insert(key_of(before), Arc::clone(before))),
                (None, Some(after)) => drop(pods.remove(&key_of(after))),
                (None, None) => {}
            }
        }
        Ok((revision, pods.into_values().collect()))
    }

    /// Begins a watch; nothing is lost between what it starts with and what it is fed.
    pub(super) fn watch(&self, start: Start) -> Result<Subscription, Compacted> {
        let mut state = lock(&self.0);
        let (present, missed) = match start {
            Start::State => (state.pods.values().cloned().collect(), Vec::new()),
            Start::Now => (Vec::new(), Vec::new()),
            Start::After(revision) if revision < state.oldest => {
                return Err(Compacted { oldest: state.oldest });
            }
            Start::After(revision) => {
                let later = state.history.iter().filter(|change| change.revision > revision);
                (Vec::new(), later.cloned().collect())
            }
        };
        let (sender, feed) = mpsc::unbounded_channel();
        state.watches.push(sender);
        Ok(Subscription { revision: state.revision, present, missed, feed })
    }

    /// Forgets the history, as etcd does after some minutes.
    pub(super) fn compact(&self) {
        let mut state = lock(&self.0);
        // The revision moves on, since a compaction that left the newest one readable would spare the client that is up
        // to date, and it is other objects' writes that make a quiet watch too old.
        state.revision += 1;
        state.oldest = state.revision;
        state.history.clear();
    }

    pub(super) fn bookmark(&self) {
        let mut state = lock(&self.0);
        let bookmark = Feed::Bookmark(state.revision);
        state.tell(&bookmark);
    }

    pub(super) fn end_watches(&self, end: &WatchEnd) {
        lock(&self.0).tell(&Feed::End(end.clone()));
    }
}

impl State {
    fn put(&mut self, mut pod: Pod) -> Arc<Pod> {
        self.revision += 1;
        let metadata = &mut pod.metadata;
        let namespace = metadata.namespace.get_or_insert_with(|| "default".to_owned()).clone();
        let key = (namespace, metadata.name.clone().unwrap_or_default());
        let before = self.pods.get(&key).cloned();
        let kept = before.as_ref().map(|before| &before.metadata);
        if metadata.uid.is_none() {
            metadata.uid = kept.and_then(|kept| kept.uid.clone()).or_else(|| random::uid().ok());
        }
        if metadata.creation_timestamp.is_none() {
            metadata.creation_timestamp = kept
                .and_then(|kept| kept.creation_timestamp.clone())
                .or_else(|| Some(Time(Timestamp::now())));
        }
        metadata.resource_version = Some(self.revision.to_string());
        let after = Arc::new(pod);
        self.pods.insert(key, Arc::clone(&after));
        self.commit(before, Some(Arc::clone(&after)));
        after
    }

    fn commit(&mut self, before: Option<Arc<Pod>>, after: Option<Arc<Pod>>) {
        let change = Arc::new(Change { revision: self.revision, before, after });
        self.history.push(Arc::clone(&change));
        self.tell(&Feed::Change(change));
    }

    fn tell(&mut self, feed: &Feed) {
        self.watches.retain(|watch| watch.send(feed.clone()).is_ok());
    }
}

pub(super) fn key_of(pod: &Pod) -> Key {
    (pod.metadata.namespace.clone().unwrap_or_default(), pod.metadata.name.clone().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    fn pod(name: &str) -> Pod {
        Pod {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            ..Pod::default()
        }
    }

    fn names(pods: &[Arc<Pod>]) -> Vec<String> {
        pods.iter().map(|pod| key_of(pod).1).collect()
    }

    #[test]
    fn a_replaced_object_keeps_its_identity_and_gets_a_new_revision() {
        let store = Store::new();
        let first = store.put(pod("a"));
        let second = store.put(pod("a"));
        assert_eq!(first.metadata.uid, second.metadata.uid);
        assert_eq!(first.metadata.creation_timestamp, second.metadata.creation_timestamp);
        assert_ne!(first.metadata.resource_version, second.metadata.resource_version);
    }

    #[test]
    fn a_list_can_be_read_as_of_an_earlier_revision() {
        let store = Store::new();
        store.put(pod("a"));
        let then = store.revision();
        store.put(pod("b"));
        store.remove(&("default".to_owned(), "a".to_owned()));
        assert_eq!(names(&store.list(None).expect("present").1), ["b"]);
        assert_eq!(names(&store.list(Some(then)).expect("kept").1), ["a"]);
    }

    #[test]
    fn a_watch_replays_what_came_after_its_revision() {
        let store = Store::new();
        store.put(pod("a"));
        let then = store.revision();
        store.put(pod("b"));
        let subscription = store.watch(Start::After(then)).expect("kept");
        assert_eq!(subscription.missed.len(), 1);
        assert!(subscription.present.is_empty());
    }

    #[test]
    fn compaction_makes_every_earlier_revision_too_old() {
        let store = Store::new();
        store.put(pod("a"));
        let then = store.revision();
        store.compact();
        let now = store.revision();
        assert_eq!(store.watch(Start::After(then)).err(), Some(Compacted { oldest: now }));
        assert_eq!(store.list(Some(then)).err(), Some(Compacted { oldest: now }));
        assert!(store.watch(Start::After(now)).is_ok());
    }
}
