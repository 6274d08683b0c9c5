//! A job for the examples: calls the sidecar once, prints its answer, and ends.
//!
//! `caller HOST:PORT PATH`. Fails when the sidecar is not there, as any client would that started too early.

use std::io::{Read, Write};
use std::net::TcpStream;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, path] = arguments.as_slice() else {
        return Err("usage: caller HOST:PORT PATH".into());
    };
    let mut connection = TcpStream::connect(address)?;
    write!(connection, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no HTTP answer")?;
    if !head.starts_with("HTTP/1.1 200") {
        return Err(format!("unexpected answer: {head}").into());
    }
    print!("the sidecar says: {body}");
    Ok(())
}
