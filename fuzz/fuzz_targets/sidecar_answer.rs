//! Answers of sidecars: whatever they are, what follows is known in bounded time, and no more of them is read than anybody would
//! send.

#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use proa::endpoint::{HttpUrl, Method, Request};
use proa::http::{Answer, Client};
use proa::shutdown::http::{Done, Next, next};
use proa_fuzz::{Then, ask, block_on, peer};
use tokio::time::Instant;

/// What of an answer is read before its head is over: the limit for that, and the room in the connection.
const MOST: usize = 64 * 1024;
const LIMIT: Duration = Duration::from_secs(5);

fuzz_target!(|input: &[u8]| {
    let [then, length, says @ ..] = input else { return };
    let request = Request::new(Method::Post, HttpUrl::on_loopback(9000, "/quit"));
    let mut client = None;
    let client = Client::prepared(&mut client, &request).expect("a client");
    // Answers that are none yet (1xx) may go on until time is up: none of them is kept.
    let says_interim = says.windows(10).any(|part| part.starts_with(b"HTTP/1.") && part.ends_with(b" 1"));
    let answered = |lengths: [u8; 1]| {
        block_on(async {
            let started = Instant::now();
            let (connection, taken) = peer(says, &lengths, Then::of(*then));
            let answer = client.answered(ask(connection), LIMIT).await;
            assert!(started.elapsed() <= LIMIT, "{:?}", started.elapsed());
            assert!(taken.get() <= MOST || says_interim, "{} bytes", taken.get());
            answer
        })
    };
    if says.starts_with(b"HTTP/1.1 204 No Content\r\n\r\n") {
        assert_eq!(answered([255]), Answer::Status(204, None));
    }
    let (whole, parts) = (answered([255]), answered([*length]));
    match (&whole, &parts) {
        (Answer::Broken(_), Answer::Broken(_)) => {}
        _ => assert_eq!(whole, parts),
    }
    if let Answer::Status(status, location) = &whole {
        // Of those below 200 one alone is an answer: it changes the protocol.
        assert!(*status == 101 || (200..1000).contains(status), "{status}");
        assert!(location.is_none() || (300..400).contains(status), "{status} {location:?}");
    }
    for reached in [false, true] {
        match next(whole.clone(), reached) {
            Next::Done(Done::Accepted(status)) => assert!((200..300).contains(&status), "{status}"),
            Next::Done(Done::Gone) | Next::NotYet(_) => panic!("somebody answered"),
            Next::Retry(failure) | Next::GiveUp(failure) => {
                assert!(failure.status().is_none_or(|status| !(200..300).contains(&status)));
                assert!(!failure.to_string().contains(['\n', '\r', '\0']), "{failure}");
            }
        }
    }
});
