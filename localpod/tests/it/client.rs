//! A small blocking HTTPS client: everything a test sees, it has read off the wire.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use localpod::Cluster;
use serde_json::Value;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// How long anything may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A connection that has sent one request and is reading its answer.
pub(crate) struct Answer {
    reader: BufReader<StreamOwned<ClientConnection, TcpStream>>,
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
}

/// Sends a GET with the service account's current token.
pub(crate) fn get(cluster: &Cluster, path: &str) -> io::Result<Answer> {
    let token = fs::read_to_string(cluster.service_account_dir().join("token"))?;
    send(cluster, "GET", path, &[("Authorization", &format!("Bearer {token}"))])
}

/// Sends a GET that accepts only `media_type`.
pub(crate) fn get_as(cluster: &Cluster, path: &str, media_type: &str) -> io::Result<Answer> {
    let token = fs::read_to_string(cluster.service_account_dir().join("token"))?;
    send(cluster, "GET", path, &[("Authorization", &format!("Bearer {token}")), ("Accept", media_type)])
}

pub(crate) fn send(
    cluster: &Cluster,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> io::Result<Answer> {
    let stream = TcpStream::connect(cluster.address())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let connection = ClientConnection::new(
        Arc::new(config(cluster.service_account_dir())),
        "localhost".try_into().unwrap(),
    )
    .map_err(io::Error::other)?;
    let mut tls = StreamOwned::new(connection, stream);
    write!(tls, "{method} {path} HTTP/1.1\r\nHost: localhost\r\n")?;
    for (name, value) in headers {
        write!(tls, "{name}: {value}\r\n")?;
    }
    write!(tls, "\r\n")?;
    tls.flush()?;
    Answer::read(BufReader::new(tls))
}

fn config(directory: &Path) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(directory.join("ca.crt")).expect("the authority"))
        .expect("a root");
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("TLS versions")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

impl Answer {
    fn read(mut reader: BufReader<StreamOwned<ClientConnection, TcpStream>>) -> io::Result<Answer> {
        let status_line = read_line(&mut reader)?;
        let status = status_line
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .ok_or(io::ErrorKind::InvalidData)?;
        let mut headers = Vec::new();
        loop {
            let line = read_line(&mut reader)?;
            match line.split_once(": ") {
                Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.to_owned())),
                None => return Ok(Answer { reader, status, headers }),
            }
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The whole body.
    pub(crate) fn json(mut self) -> Value {
        let length = self.header("content-length").expect("a length").parse().expect("a number");
        let mut body = vec![0; length];
        self.reader.read_exact(&mut body).expect("the body");
        serde_json::from_slice(&body).expect("JSON")
    }

    /// The next event of a watch; `None` after the last chunk, an error where that is missing.
    ///
    /// The server sends each event as a chunk of its own.
    pub(crate) fn next(&mut self) -> io::Result<Option<Value>> {
        let size = usize::from_str_radix(&read_line(&mut self.reader)?, 16).map_err(io::Error::other)?;
        let mut chunk = vec![0; size + 2];
        self.reader.read_exact(&mut chunk)?;
        if size == 0 {
            return Ok(None);
        }
        assert_eq!(chunk[size - 1], b'\n', "an event is a line");
        Ok(Some(serde_json::from_slice(&chunk[..size])?))
    }

    /// Type, name and resource version of the next event.
    pub(crate) fn event(&mut self) -> Value {
        self.next().expect("the stream goes on").expect("an event")
    }

    /// Type and name of the next event, for comparisons.
    pub(crate) fn brief(&mut self) -> String {
        let event = self.event();
        format!(
            "{} {}",
            event["type"].as_str().expect("a type"),
            event["object"]["metadata"]["name"].as_str().unwrap_or("-")
        )
    }

    /// True when nothing arrives for a moment.
    pub(crate) fn is_silent(&mut self) -> bool {
        let moment = Duration::from_millis(50);
        self.reader.get_ref().sock.set_read_timeout(Some(moment)).expect("a timeout");
        let silent = self.reader.fill_buf().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        self.reader.get_ref().sock.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        silent
    }
}

fn read_line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end().to_owned())
}
