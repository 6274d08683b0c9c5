//! Requests to the status address: every client is answered or cut off in bounded time, with what it asked for alone.

#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use proa::status::Server;
use proa::status::board::Board;
use proa_fuzz::{Then, block_on, pieces};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::time::{Instant, timeout};

fuzz_target!(|input: &[u8]| {
    let [then, length, request @ ..] = input else { return };
    let (then, lengths) = (Then::of(*then), [*length]);
    block_on(async {
        let started = Instant::now();
        let (client, server) = duplex(1 << 20);
        let (status, board) = (Server::none(), Board::default());
        let (mut answer, mut request_end) = tokio::io::split(client);
        let talk = async {
            loop {
                for piece in pieces(request, &lengths) {
                    if request_end.write_all(piece).await.is_err() {
                        return;
                    }
                    tokio::task::yield_now().await;
                }
                match then {
                    Then::Repeat if !request.is_empty() => {}
                    // `Hang`: the end stays open until the server has gone.
                    Then::Hang | Then::Repeat => return std::future::pending().await,
                    Then::Close => {
                        let _ = request_end.shutdown().await;
                        return std::future::pending().await;
                    }
                }
            }
        };
        let serve = status.converse(server, true, &board);
        tokio::select! {
            () = serve => {}
            () = talk => panic!("a server that has gone has not returned"),
        }
        assert!(started.elapsed() <= Duration::from_secs(3), "{:?}", started.elapsed());
        let mut text = Vec::new();
        let read = timeout(Duration::from_secs(1), answer.read_to_end(&mut text)).await;
        assert!(read.is_ok(), "the connection is still open");
        assert!(text.len() < 64 * 1024, "{} bytes", text.len());
        if !text.is_empty() {
            let is_known = ["200", "400", "404", "405", "414", "431", "503"].iter().any(|status| {
                text.starts_with(format!("HTTP/1.1 {status} ").as_bytes())
                    || text.starts_with(format!("HTTP/1.0 {status} ").as_bytes())
            });
            assert!(is_known, "{}", String::from_utf8_lossy(&text));
        }
    });
});
