//! The sidecar's quit endpoint.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::trouble::Endpoint;
use super::world::Event;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// Hands every request on; its port.
pub(crate) fn listen(sender: Sender<Event>) -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let sender = sender.clone();
            thread::spawn(move || {
                if let Some(path) = path(&mut client) {
                    // The run may be over.
                    let _ = sender.send(Event::Asked(client, path));
                }
            });
        }
    });
    Ok(port)
}

/// Reads a request; its path.
fn path(client: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut part = [0; 512];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match client.read(&mut part) {
            Ok(read) if read > 0 => head.extend_from_slice(&part[..read]),
            _ => return None,
        }
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    Some(text.split(' ').nth(1).unwrap_or_default().to_owned())
}

/// Answers the request of this number. Whether the sidecar exits now.
pub(crate) fn answer(endpoint: Option<Endpoint>, mut client: TcpStream, number: usize, port: u16) -> bool {
    if let Some((start, rest)) = endpoint.and_then(endless) {
        without_end(client, start, rest);
        return false;
    }
    let mut say = |status: &str| write!(client, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
    // A client that has gone is one that has had enough.
    let _ = match endpoint {
        None | Some(Endpoint::AcceptsAndStays) => client.write_all(OK),
        Some(Endpoint::BusyAtFirst) if number > 2 => client.write_all(OK),
        Some(Endpoint::BusyAtFirst) => say("503 Service Unavailable"),
        Some(Endpoint::Status(code)) => say(&format!("{code} No")),
        Some(Endpoint::TakenOver) => say("404 Not Found"),
        Some(Endpoint::Redirect) => say(&format!("307 No\r\nLocation: http://127.0.0.1:{port}/astray")),
        Some(Endpoint::NoHttp) => client.write_all(b"220 mail ready\r\n"),
        Some(Endpoint::Reset) => reset(&client),
        // Without an answer, or answered above.
        Some(_) => Ok(()),
    };
    match endpoint {
        Some(Endpoint::BusyAtFirst) => number > 2,
        Some(endpoint) => endpoint.exits(),
        None => true,
    }
}

/// What it begins with, and what it goes on with without end, where it has none.
fn endless(endpoint: Endpoint) -> Option<(&'static [u8], &'static [u8])> {
    match endpoint {
        Endpoint::Mute => Some((b"", b"")),
        Endpoint::EndlessBody => Some((b"HTTP/1.1 200 OK\r\n\r\n", &[b'x'; 4096])),
        Endpoint::EndlessHeaders => Some((b"HTTP/1.1 200 OK\r\n", b"X-More: more\r\n")),
        Endpoint::Informational => Some((b"", b"HTTP/1.1 103 Early Hints\r\n\r\n")),
        Endpoint::Trickle => Some((b"HTTP/1.1 200 OK\r\n", b"x")),
        _ => None,
    }
}

/// Sends the start, then the rest again and again until the client goes: a kilobyte at once, a byte in a second.
fn without_end(mut client: TcpStream, start: &'static [u8], rest: &'static [u8]) {
    thread::spawn(move || {
        let pause = Duration::from_millis(if rest.len() > 1 { 1 } else { 1000 });
        let mut sent = client.write_all(start);
        while sent.is_ok() {
            // Until the client goes there is nothing to read.
            let gone = client.set_read_timeout(Some(pause)).is_err() || client.read(&mut [0; 64]).is_ok();
            sent = if gone { Err(ErrorKind::BrokenPipe.into()) } else { client.write_all(rest) };
        }
    });
}

/// Closes with a reset.
fn reset(client: &TcpStream) -> std::io::Result<()> {
    nix::sys::socket::setsockopt(
        client,
        nix::sys::socket::sockopt::Linger,
        &nix::libc::linger { l_onoff: 1, l_linger: 0 },
    )?;
    Ok(())
}
