//! What connections and requests share: the Pods, who may see them, what is wrong and what has happened.

use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::access::{Access, Question};
use super::account::Account;
use super::fault::Faults;
use super::ledger::Ledger;
use super::store::Store;
use crate::sync::lock;

/// The state behind every connection and request.
pub(super) struct Shared {
    pub(super) store: Store,
    pub(super) account: Account,
    /// The service account as a user name.
    pub(super) user: String,
    pub(super) faults: Arc<Faults>,
    pub(super) ledger: Arc<Ledger>,
    access: Mutex<Access>,
    /// Counted up to close every connection.
    hangups: watch::Sender<u64>,
}

impl Shared {
    pub(super) fn new(account: Account, user: String) -> Shared {
        Shared {
            store: Store::new(),
            account,
            user,
            faults: Arc::new(Faults::new()),
            ledger: Arc::new(Ledger::default()),
            access: Mutex::default(),
            hangups: watch::Sender::new(0),
        }
    }

    pub(super) fn authorize(&self, access: Access) {
        *lock(&self.access) = access;
    }

    pub(super) fn allows(&self, question: &Question) -> bool {
        lock(&self.access).allows(question)
    }

    pub(super) fn hang_up(&self) {
        self.hangups.send_modify(|count| *count += 1);
    }

    /// Waits until every connection is to be closed. What comes after the call counts, polled or not.
    pub(super) fn hung_up(&self) -> impl Future<Output = ()> + use<> {
        let mut hangups = self.hangups.subscribe();
        async move {
            // Without a sender there is nothing left to serve.
            drop(hangups.changed().await);
        }
    }
}
