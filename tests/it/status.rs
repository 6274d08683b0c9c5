//! The status endpoint tells what proa is doing, and slows nothing down.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use crate::support::http::Endpoint;
use crate::support::{Beside, Held, PATIENCE, World};

/// An address of each test's own: the port is the same for all.
pub(crate) fn address(test: u8) -> String {
    format!("127.{}.{}.{test}:9400", std::process::id() % 199 + 17, std::process::id() / 199 % 250)
}

pub(crate) fn ask(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("the endpoint listens");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "{request} HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

fn status(address: &str, path: &str) -> u16 {
    ask(address, &format!("GET {path}")).split(' ').nth(1).unwrap().parse().unwrap()
}

fn metric(address: &str, name: &str) -> Option<f64> {
    let text = ask(address, "GET /metrics");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    Some(line.parse().unwrap_or_else(|_| panic!("{name} {line}")))
}

#[test]
fn readiness_is_that_of_the_command() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    let (at, hanging) = (address(1), Endpoint::replying(vec![crate::support::http::Reply::Hang]));
    let held = Held::in_dir(&world.dir, "");
    let running = world
        .proa()
        .flags(["--status-address", &at, "-p", &hanging.url(), "--ignore=gone"])
        .start(&held.command);
    running.wait_stderr("waiting for web");
    assert_eq!([status(&at, "/readyz"), status(&at, "/livez")], [503, 200]);
    assert_eq!(metric(&at, "proa_command_running"), Some(0.0));
    assert_eq!(metric(&at, "proa_sidecar_wait_seconds{container=\"web\"}"), None);
    world.make_ready("web");
    running.wait_stdout("up");
    assert_eq!([status(&at, "/readyz"), status(&at, "/livez")], [200, 200]);
    assert_eq!(metric(&at, "proa_command_running"), Some(1.0));
    assert!(metric(&at, "proa_sidecar_wait_seconds{container=\"web\"}").unwrap() > 0.0);
    assert!(metric(&at, "proa_gate_wait_seconds").unwrap() > 0.0);
    held.let_go();
    hanging.request();
    assert_eq!([status(&at, "/readyz"), status(&at, "/livez")], [503, 200]);
    assert_eq!(metric(&at, "proa_command_running"), Some(0.0));
    assert!(metric(&at, "proa_command_duration_seconds").unwrap() > 0.0);
}

#[test]
fn what_came_of_ending_the_sidecars_is_counted() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    world.make_ready("web");
    let (at, quit) = (address(2), Endpoint::ok());
    let off = Endpoint::replying(vec![crate::support::http::Reply::Status(404, None)]);
    let running =
        world.proa().flags(["--status-address", &at, "-p", &quit.url(), "-g", &off.url()]).start(["true"]);
    running.wait_stderr("waiting for `web` to exit");
    for (action, result) in
        [(format!("POST {}", quit.url()), "accepted"), (format!("GET {}", off.url()), "failed")]
    {
        let name = format!("proa_shutdown_actions_total{{action=\"{action}\",result=\"{result}\"}}");
        assert_eq!(metric(&at, &name), Some(1.0), "{}", ask(&at, "GET /metrics"));
    }
    assert!(metric(&at, "proa_drain_duration_seconds").unwrap() >= 0.0);
    world.set_state("web", "terminated: {exitCode: 0}");
    running.finish().expect(0, &["every sidecar has exited"]);
}

#[test]
fn only_what_there_is_is_answered() {
    let world = World::alone();
    let at = address(3);
    let held = Held::in_dir(&world.dir, "");
    let running = world.proa().flags(["--status-address", &at]).start(&held.command);
    running.wait_stdout("up");
    assert_eq!(status(&at, "/"), 404);
    assert!(ask(&at, "POST /readyz").starts_with("HTTP/1.1 405 "));
    assert!(ask(&at, "HEAD /livez").ends_with("\r\n\r\n"), "no body");
    let metrics = ask(&at, "GET /metrics");
    assert!(metrics.contains("application/openmetrics-text; version=1.0.0"), "{metrics}");
    assert!(metrics.ends_with("# EOF\n"), "{metrics}");
}

#[test]
fn clients_that_say_nothing_hold_up_nobody() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    let at = address(4);
    let running =
        world.proa().flags(["--status-address", &at, "--shutdown-when=never"]).start(["echo", "up"]);
    running.wait_stderr("waiting for web");
    let silent: Vec<_> = (0..40).map(|_| TcpStream::connect(&at).unwrap()).collect();
    world.make_ready("web");
    running.finish().expect(0, &["gate open"]);
    drop(silent);
}

#[test]
fn an_address_that_cannot_be_had_is_reported_before_anything_starts() {
    let world = World::alone();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (address, said) in [
        (taken.as_str(), "in use"),
        ("192.0.2.1:9400", "assign requested address"),
        ("127.0.0.1:0", "IP:PORT"),
        (":9400", "IP:PORT"),
        ("localhost:9400", "IP:PORT"),
    ] {
        let finished = world.proa().flags(["--status-address", address]).run(["echo", "up"]);
        assert_eq!(finished.expect(2, &["--status-address", said]).stdout, "");
    }
}
