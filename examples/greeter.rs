//! A sidecar for the examples: an HTTP server that needs a while before it is ready, and ends when asked to.
//!
//! `greeter ADDRESS SECONDS`: listens on ADDRESS and is ready after SECONDS.
//! GET /ready: 503, then 200. GET /greeting: a greeting. POST /quitquitquit: 200, then the end, with exit code 0.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, seconds] = arguments.as_slice() else {
        return Err("usage: greeter ADDRESS SECONDS".into());
    };
    let listener = TcpListener::bind(address)?;
    let ready = Instant::now() + Duration::from_secs(seconds.parse()?);
    println!("listening on {address}, ready in {seconds}s");
    for connection in listener.incoming() {
        let mut connection = connection?;
        let mut lines = BufReader::new(&connection).lines();
        let Some(Ok(request)) = lines.next() else { continue };
        // The rest of the head, so that the client is not cut off while it writes.
        while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
        let (status, body) = match request.split(' ').take(2).collect::<Vec<_>>().as_slice() {
            ["GET", "/ready"] if Instant::now() < ready => ("503 Service Unavailable", "not yet\n"),
            ["GET", "/ready"] => ("200 OK", "ready\n"),
            ["GET", "/greeting"] => ("200 OK", "hello from the sidecar\n"),
            ["POST", "/quitquitquit"] => ("200 OK", "bye\n"),
            _ => ("404 Not Found", "nothing here\n"),
        };
        let length = body.len();
        // Whoever has gone meanwhile needs no answer.
        let _ = write!(
            connection,
            "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
        if body == "bye\n" {
            println!("asked to quit");
            break;
        }
    }
    Ok(())
}
