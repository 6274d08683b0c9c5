//! Whom proa talks to: the server that it means, proven by its certificate; never one that an answer or the environment names.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use rustls::crypto::ring;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ServerConfig, ServerConnection, Stream};

use crate::support::http::{Endpoint, Reply};
use crate::support::{Beside, PATIENCE, Proa, World};

/// What is wrong with a server's certificate.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Flaw {
    None,
    WrongName,
    Expired,
    NotYetValid,
    SelfSigned,
    OtherAuthority,
    /// It is that of a client.
    OtherUse,
}

const FLAWS: [Flaw; 6] = [
    Flaw::WrongName,
    Flaw::Expired,
    Flaw::NotYetValid,
    Flaw::SelfSigned,
    Flaw::OtherAuthority,
    Flaw::OtherUse,
];

/// A certificate authority.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "kubernetes");
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// What a server on this machine proves itself with.
    fn certify(&self, flaw: Flaw) -> Arc<ServerConfig> {
        let names = match flaw {
            Flaw::WrongName => vec!["another.invalid".to_owned(), "127.0.0.2".to_owned()],
            _ => vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
        };
        let mut params = CertificateParams::new(names).unwrap();
        params.use_authority_key_identifier_extension = true;
        params.extended_key_usages = vec![match flaw {
            Flaw::OtherUse => ExtendedKeyUsagePurpose::ClientAuth,
            _ => ExtendedKeyUsagePurpose::ServerAuth,
        }];
        match flaw {
            Flaw::Expired => params.not_after = date_time_ymd(2020, 1, 1),
            Flaw::NotYetValid => params.not_before = date_time_ymd(4000, 1, 1),
            _ => {}
        }
        let key = KeyPair::generate().unwrap();
        let certificate = match flaw {
            Flaw::SelfSigned => params.self_signed(&key),
            Flaw::OtherAuthority => params.signed_by(&key, &Authority::new().issuer),
            _ => params.signed_by(&key, &self.issuer),
        };
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        Arc::new(config.with_single_cert(vec![certificate.unwrap().der().clone()], key).unwrap())
    }
}

/// A server, and what it came to hear of each connection.
struct Server {
    address: SocketAddr,
    heard: Receiver<String>,
}

impl Server {
    fn start(converse: impl Fn(TcpStream) -> String + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, heard): (Sender<String>, _) = channel();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                if sender.send(converse(stream)).is_err() {
                    return;
                }
            }
        });
        Self { address, heard }
    }

    /// Over TLS, with this answer to every request; what is heard is a request's head.
    fn secured(config: Arc<ServerConfig>, answer: String) -> Self {
        Self::start(move |mut stream| {
            let mut connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut secured = Stream::new(&mut connection, &mut stream);
            let head = read_head(&mut secured);
            if !head.is_empty() {
                let _ = secured.write_all(answer.as_bytes());
                connection.send_close_notify();
                let _ = connection.write_tls(&mut stream);
            }
            head
        })
    }

    /// What the next connection brought.
    #[track_caller]
    fn heard(&self) -> String {
        self.heard.recv_timeout(PATIENCE).expect("a connection")
    }
}

/// As much of a request's head as comes.
fn read_head(from: &mut impl Read) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        match from.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Ok(_) | Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap()
}

const REFUSED: &str = "HTTP/1.1 500 X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
const TOKEN: &str = "a-token-of-nobody";

/// proa whose API server is this one, whom `authority` is to vouch for.
fn asking(world: &World, server: &Server, authority: &Authority) -> Proa {
    let account = world.dir.join("account");
    fs::create_dir_all(&account).unwrap();
    for (file, text) in [("token", TOKEN), ("namespace", "default"), ("ca.crt", &authority.pem)] {
        fs::write(account.join(file), text).unwrap();
    }
    let proa = world.proa().env("PROA_SERVICE_ACCOUNT_DIR", account).env("PROA_READY_TIMEOUT", "2s");
    let proa = proa.env("PROA_SHUTDOWN_WHEN", "never");
    proa.env("KUBERNETES_SERVICE_PORT", server.address.port().to_string())
}

/// The authorities that an image trusts: this one alone.
fn trusting(world: &World, authority: &Authority) -> PathBuf {
    let file = world.dir.join("authorities.pem");
    fs::write(&file, &authority.pem).unwrap();
    file
}

#[test]
fn the_token_is_for_the_api_server_alone() {
    let (world, authority) = (World::alone(), Authority::new());
    let server = Server::secured(authority.certify(Flaw::None), REFUSED.to_owned());
    asking(&world, &server, &authority).run(["true"]).expect(75, &["500"]);
    assert!(server.heard().contains(TOKEN), "whom the authority vouches for");
    for flaw in FLAWS {
        let server = Server::secured(authority.certify(flaw), REFUSED.to_owned());
        let finished = asking(&world, &server, &authority).run(["echo", "up"]).expect(75, &["certificate"]);
        assert_eq!(finished.stdout, "", "{flaw:?}");
        assert_eq!(server.heard(), "", "{flaw:?}");
        // What the image trusts says nothing of the API server.
        let trusted = trusting(&world, &authority);
        let other = Authority::new();
        let server = Server::secured(authority.certify(Flaw::None), REFUSED.to_owned());
        asking(&world, &server, &other)
            .env("SSL_CERT_FILE", trusted)
            .run(["true"])
            .expect(75, &["certificate"]);
        assert_eq!(server.heard(), "");
    }
}

#[test]
fn a_sidecars_certificate_is_verified_too() {
    let (world, authority) = (World::alone(), Authority::new());
    let trusted = trusting(&world, &authority);
    let wait = |server: &Server, host: &str| {
        let url = format!("https://user:word@{host}:{}/ready", server.address.port());
        let proa = world.proa().env("SSL_CERT_FILE", &trusted).env("SSL_CERT_DIR", "/nowhere");
        proa.flags(["--api=off", "--ready-timeout=2s", "--wait-http-get", &url]).run(["echo", "up"])
    };
    for host in ["localhost", "127.0.0.1"] {
        let server = Server::secured(authority.certify(Flaw::None), OK.to_owned());
        wait(&server, host).expect(0, &[]);
        assert!(server.heard().contains("GET /ready"));
        for flaw in FLAWS {
            let server = Server::secured(authority.certify(flaw), OK.to_owned());
            let finished = wait(&server, host).expect(75, &["certificate"]);
            assert_eq!((finished.stdout.as_str(), server.heard().as_str()), ("", ""), "{flaw:?}");
        }
    }
}

/// The versions that a client offers (RFC 8446, 4.2.1), or an error.
fn offered(hello: &[u8]) -> Option<Vec<u16>> {
    // Record and handshake headers, version and random; then three lists, each behind its length.
    let mut rest = hello.get(5 + 4 + 2 + 32..)?;
    for width in [1, 2, 1] {
        let (length, after) = rest.split_at_checked(width)?;
        let length = length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        rest = after.get(length..)?;
    }
    rest = rest.get(2..)?;
    while let [kind_high, kind_low, high, low, after @ ..] = rest {
        let (content, after) = after.split_at_checked(usize::from(u16::from_be_bytes([*high, *low])))?;
        if [*kind_high, *kind_low] == [0, 43] {
            return Some(
                content.get(1..)?.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect(),
            );
        }
        rest = after;
    }
    None
}

/// Reads a record of TLS.
fn record(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut record = vec![0; 5];
    stream.read_exact(&mut record).ok()?;
    let length = usize::from(u16::from_be_bytes([record[3], record[4]]));
    record.resize(5 + length, 0);
    stream.read_exact(&mut record[5..]).ok()?;
    Some(record)
}

/// A server that knows TLS 1.1 at most, and answers as one (RFC 4346, 7.4.1.3). What it hears: the versions that were offered, and the
/// alert that follows.
fn of_old() -> Server {
    Server::start(|mut stream| {
        let Some(hello) = record(&mut stream) else { return "no hello".into() };
        let mut body = vec![3, 2];
        body.extend([7; 32]);
        // No session, TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA, no compression.
        body.extend([0, 0xc0, 0x13, 0]);
        let mut answer = vec![22, 3, 2, 0, 4 + 38, 2, 0, 0, 38];
        answer.extend(body);
        let _ = stream.write_all(&answer);
        let alert = record(&mut stream).map(|record| (record[0], record[5..].to_vec()));
        let mut more = Vec::new();
        let _ = stream.read_to_end(&mut more);
        format!("{:x?} {alert:?} {more:?}", offered(&hello))
    })
}

#[test]
fn tls_below_1_2_is_refused() {
    let (world, authority) = (World::alone(), Authority::new());
    // An alert (21) that is fatal (2): protocol_version (70). Nothing follows it.
    let refused = "Some([304, 303]) Some((21, [2, 70])) []";
    let server = of_old();
    asking(&world, &server, &authority).run(["echo", "up"]).expect(75, &[]);
    assert_eq!(server.heard(), refused);
    let server = of_old();
    let proa = world.proa().env("SSL_CERT_FILE", trusting(&world, &authority));
    let url = format!("https://localhost:{}/ready", server.address.port());
    proa.flags(["--api=off", "--ready-timeout=2s", "--wait-http-get", &url])
        .run(["echo", "up"])
        .expect(75, &[]);
    assert_eq!(server.heard(), refused);
}

#[test]
fn no_redirect_is_followed() {
    let (world, authority, elsewhere) = (World::alone(), Authority::new(), Endpoint::ok());
    // Not of the API server, which would bring the token elsewhere.
    for status in [301, 302, 303, 307, 308] {
        let answer = format!(
            "HTTP/1.1 {status} X\r\nlocation: {}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            elsewhere.url()
        );
        let server = Server::secured(authority.certify(Flaw::None), answer);
        asking(&world, &server, &authority).run(["true"]).expect(75, &[]);
        assert!(server.heard().contains(TOKEN));
        let location = Some(format!("location: {}", elsewhere.url()));
        let sidecar = Endpoint::replying(vec![Reply::Status(status, location)]);
        let proa = || world.proa().flag("--api=off");
        proa()
            .flags(["--ready-timeout=300ms", "--wait-http-get", &sidecar.url()])
            .run(["true"])
            .expect(75, &[]);
        proa().flags(["-p", &sidecar.url(), "-g", &sidecar.url()]).run(["true"]).expect(0, &["redirect"]);
        sidecar.request();
    }
    assert_eq!(elsewhere.more_requests(), 0);
}

#[test]
fn no_request_goes_through_a_proxy_that_the_environment_names() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    let (proxy, ready, quit) = (Endpoint::ok(), Endpoint::ok(), Endpoint::ok());
    let url = format!("http://127.0.0.1:{}", proxy.port());
    let mut proa = world.proa().flags(["--wait-http-get", &ready.url(), "-p", &quit.url()]);
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "FTP_PROXY", "SOCKS_PROXY"] {
        proa = proa.env(name, &url).env(&name.to_lowercase(), &url);
    }
    let running = proa.env("NO_PROXY", "").env("no_proxy", "").start(["sh", "-c", "echo up $https_proxy"]);
    running.wait_stderr("waiting for web");
    world.make_ready("web");
    // They are meant for the command.
    running.wait_stdout(&format!("up {url}"));
    ready.request();
    assert!(quit.request().starts_with("POST /quitquitquit "));
    world.set_state("web", "terminated: {exitCode: 0, reason: Completed}");
    running.finish().expect(0, &["every sidecar has exited"]);
    assert_eq!(proxy.more_requests(), 0);
}
