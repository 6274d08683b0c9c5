//! Answers of the API server, or of whoever sits in its place: the same whatever pieces they come in, read in bounded time.

#![no_main]

use libfuzzer_sys::fuzz_target;
use proa::cluster::answer::{Event, Events, Failure, accepted, object};
use proa::pod::object::PodNames;
use proa_fuzz::{LONG, Then, ask, block_on, peer};
use tokio::time::timeout;

/// As many events as anybody looks at.
const EVENTS: usize = 1000;

/// What is read of it, in words that do not depend on where it broke off.
async fn read(connection: tokio::io::DuplexStream, as_watch: bool) -> Vec<String> {
    let Ok(answer) = ask(connection).await else { return vec!["no answer".to_owned()] };
    let body = match accepted(answer).await {
        Ok(body) => body,
        Err(Failure::Status(status, again)) => {
            assert!(again.is_none_or(|again| !again.is_zero()), "{again:?}");
            return vec![format!("{} {again:?}", status.code)];
        }
        Err(Failure::Broken(_)) => return vec!["broken".to_owned()],
        Err(failure) => return vec![failure.to_string()],
    };
    if !as_watch {
        return vec![match object::<PodNames>(body).await {
            Ok(names) => format!("{names:?}"),
            Err(Failure::Broken(_)) => "broken".to_owned(),
            Err(failure) => failure.to_string(),
        }];
    }
    let (mut events, mut found) = (Events::new(body), Vec::new());
    while let Some(event) = events.next().await {
        found.push(match &event {
            Ok(Event::Seen(pod) | Event::Deleted(pod)) => format!("{pod:?}"),
            Ok(event) => format!("{event:?}"),
            Err(Failure::Broken(_)) => "broken".to_owned(),
            Err(failure) => failure.to_string(),
        });
        if event.is_err() || found.len() == EVENTS {
            break;
        }
    }
    found
}

fuzz_target!(|input: &[u8]| {
    let [then, length, says @ ..] = input else { return };
    let read = |lengths: [u8; 1]| {
        block_on(async {
            let (connection, _) = peer(says, &lengths, Then::of(then >> 1));
            // Whoever watches has a limit of its own for silence.
            timeout(LONG, read(connection, then % 2 == 0))
                .await
                .unwrap_or_else(|_| vec!["silence".to_owned()])
        })
    };
    // hyper may see at once what is wrong with a head of which more could come, or wait for that.
    let headless = |found: &[String]| matches!(found, [only] if only == "no answer" || only == "silence");
    let (whole, parts) = (read([255]), read([*length]));
    assert!(whole == parts || headless(&whole) && headless(&parts), "{whole:?} {parts:?}");
});
