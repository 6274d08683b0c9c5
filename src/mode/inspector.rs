//! Says what the Pod shows that will go wrong, each thing once.

use std::cell::RefCell;

use tracing::warn;

use crate::peer::Peers;
use crate::pod::Snapshot;
use crate::warnings::{Asked, Remaining, Warning, warnings};

/// Looks at the Pod whenever it is news.
pub(super) struct Inspector<'a> {
    asked: Asked<'a>,
    said: RefCell<Vec<Warning>>,
}

impl<'a> Inspector<'a> {
    pub(super) fn new(asked: Asked<'a>) -> Self {
        Self { asked, said: RefCell::default() }
    }

    /// Before the command.
    pub(super) fn look(&self, snapshot: &Snapshot) {
        self.say(snapshot, &self.asked);
    }

    /// After the command, when there is nothing left to wait for.
    pub(super) fn look_at_end(&self, snapshot: &Snapshot) {
        self.say(snapshot, &Asked { wait: None, ..self.asked });
    }

    /// Says that these have not exited, and what changes that.
    pub(super) fn remaining(&self, names: Vec<String>, snapshot: &Snapshot) -> Remaining {
        let remaining = Remaining::of(names, snapshot, &self.asked, &peers(snapshot));
        warn!("{remaining}");
        remaining
    }

    fn say(&self, snapshot: &Snapshot, asked: &Asked) {
        let mut said = self.said.borrow_mut();
        for warning in warnings(snapshot, asked, &peers(snapshot)) {
            if !said.contains(&warning) {
                warn!(container = warning.container(), "{warning}");
                said.push(warning);
            }
        }
    }
}

fn peers(snapshot: &Snapshot) -> Peers {
    Peers::beside(&snapshot.uid, &snapshot.own.name, Vec::new()).unwrap_or_default()
}
