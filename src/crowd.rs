//! Clients that are served side by side, none of whom can keep the others waiting.

use std::collections::VecDeque;

use futures::future::{AbortHandle, Abortable, abortable};
use futures::stream::{FuturesUnordered, StreamExt};

/// At most so many clients. The newest is always let in: the one who has been there longest goes for it, since whoever has a
/// request to make has long made it by then.
#[derive(Debug)]
pub struct Crowd<F> {
    clients: FuturesUnordered<Abortable<F>>,
    /// From the oldest to the newest; those that are done among them.
    handles: VecDeque<AbortHandle>,
    most: usize,
}

impl<F: Future> Crowd<F> {
    /// Nobody yet. `most`: how many at once.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { clients: FuturesUnordered::new(), handles: VecDeque::with_capacity(most), most }
    }

    /// Lets a client in.
    pub fn enter(&mut self, client: F) {
        if self.handles.len() == self.most
            && let Some(oldest) = self.handles.pop_front()
        {
            oldest.abort();
        }
        let (client, handle) = abortable(client);
        self.clients.push(client);
        self.handles.push_back(handle);
    }

    /// The next client who is done, and what that came to. Never returns while there is nobody.
    pub async fn next(&mut self) -> F::Output {
        loop {
            match self.clients.next().await {
                Some(Ok(done)) => return done,
                // Made room for another.
                Some(Err(_)) => {}
                None => std::future::pending().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::{FutureExt, pending};

    #[test]
    fn the_newest_is_let_in_for_the_oldest() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut crowd = Crowd::new(2);
            let silent = || pending::<u8>().boxed();
            for _ in 0..100 {
                crowd.enter(silent());
            }
            crowd.enter(async { 7 }.boxed());
            assert_eq!(crowd.next().await, 7);
            assert!(crowd.clients.len() <= 2, "those who had to go are forgotten");
        });
    }
}
