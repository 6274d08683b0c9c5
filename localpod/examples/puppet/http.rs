//! As much of HTTP as a sidecar and its client need.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use crate::Failure;

/// Reads a request up to the end of its body; method and path, or nothing if there was no request.
pub(crate) fn read_request(stream: &TcpStream) -> io::Result<Option<(String, String)>> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut words = first.split_ascii_whitespace();
    let (Some(method), Some(target)) = (words.next(), words.next()) else { return Ok(None) };
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse().unwrap_or(0);
            }
            Some(_) => {}
            None => break,
        }
    }
    io::copy(&mut reader.take(length), &mut io::sink())?;
    let path = target.split('?').next().unwrap_or(target);
    Ok(Some((method.to_owned(), path.to_owned())))
}

/// Answers and closes.
pub(crate) fn respond(mut stream: &TcpStream, status: u16, header: &str, body: &str) -> io::Result<()> {
    let length = body.len();
    // In one piece, since a client may have seen enough of the first.
    let answer = format!(
        "HTTP/1.1 {status} puppet\r\nContent-Length: {length}\r\nConnection: close\r\n{header}\r\n{body}"
    );
    stream.write_all(answer.as_bytes())
}

/// Sends a request and prints the status of its answer.
pub(crate) fn request(method: &str, url: &str) -> Result<i32, Failure> {
    let rest = url.strip_prefix("http://").ok_or("only http is spoken")?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let mut stream = TcpStream::connect(authority)?;
    write!(
        stream,
        "{method} /{path} HTTP/1.1\r\nHost: {authority}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    let status: u16 = line.split(' ').nth(1).ok_or("no answer")?.parse()?;
    println!("{status}");
    Ok(i32::from(!(200..300).contains(&status)))
}
