//! Failures on request.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use localpod::Cluster;
use localpod::cluster::Fault;

use crate::client::{PATIENCE, get};

const PODS: &str = "/api/v1/namespaces/default/pods";

fn pod(name: &str) -> Pod {
    Pod { metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }, ..Pod::default() }
}

fn cluster() -> Cluster {
    Cluster::start().expect("a cluster")
}

#[test]
fn connections_are_refused_until_the_guard_goes() {
    let cluster = cluster();
    let refusal = cluster.refuse();
    let error = TcpStream::connect(cluster.address()).expect_err("nobody listens");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    refusal.clear();
    assert_eq!(get(&cluster, PODS).expect("an answer").status, 200);
}

#[test]
fn a_counted_status_is_followed_by_the_real_answer() {
    let cluster = cluster();
    for code in [401, 403, 404, 410, 429, 500, 503, 504] {
        cluster.inject_times(Fault::Status(code), 1);
        let answer = get(&cluster, PODS).expect("an answer");
        assert_eq!(answer.status, code);
        assert_eq!(answer.header("retry-after").is_some(), matches!(code, 429 | 503), "{code}");
        let body = answer.json();
        assert_eq!((&body["kind"], &body["code"]), (&"Status".into(), &code.into()));
        assert_eq!(get(&cluster, PODS).expect("an answer").status, 200);
    }
}

#[test]
fn a_throttled_client_learns_from_the_header_alone_when_to_come_back() {
    let cluster = cluster();
    cluster.inject_times(Fault::Throttle { code: 429, retry_after: 7 }, 1);
    let answer = get(&cluster, PODS).expect("an answer");
    assert_eq!((answer.status, answer.header("retry-after")), (429, Some("7")));
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(get(&cluster, PODS).expect("an answer").status, 200);
}

#[test]
fn a_reset_connection_gives_no_answer() {
    let cluster = cluster();
    cluster.inject_times(Fault::Reset, 1);
    assert!(get(&cluster, PODS).is_err());
    assert_eq!(get(&cluster, PODS).expect("an answer").status, 200);
}

#[test]
fn a_server_of_http_2_alone_gives_no_answer_in_http_1() {
    let cluster = cluster();
    for fault in [Fault::InsistsOnHttp2, Fault::GoAway] {
        cluster.inject_times(fault, 1);
        let answer = get(&cluster, PODS);
        assert!(answer.as_ref().map_or(true, |answer| answer.status != 200), "{fault:?}");
        let is_alert = answer.err().is_some_and(|error| error.to_string().contains("NoApplicationProtocol"));
        assert_eq!(is_alert, fault == Fault::InsistsOnHttp2);
        assert_eq!(get(&cluster, PODS).expect("an answer").status, 200);
    }
}

#[test]
fn an_older_server_knows_no_initial_events() {
    let cluster = cluster();
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&timeoutSeconds=1";
    for code in [400, 422] {
        let older = cluster.inject(Fault::WithoutInitialEvents(code));
        assert_eq!(get(&cluster, &format!("{PODS}?{query}")).expect("an answer").status, code);
        assert_eq!(get(&cluster, PODS).expect("an answer").status, 200);
        older.clear();
        assert_eq!(get(&cluster, &format!("{PODS}?{query}")).expect("an answer").status, 200);
    }
}

#[test]
fn a_token_that_has_expired_is_accepted_by_nobody_until_there_is_another() {
    let cluster = cluster();
    cluster.expire_token();
    assert_eq!(get(&cluster, PODS).expect("an answer").status, 401);
    cluster.rotate_token().expect("a new token");
    assert_eq!(get(&cluster, PODS).expect("an answer").status, 200);
}

#[test]
fn a_stalled_handshake_stays_open_and_says_nothing() {
    let cluster = cluster();
    let fault = cluster.inject(Fault::StallHandshake);
    let connection = TcpStream::connect(cluster.address()).expect("accepted");
    assert!(cluster.wait_for_connections(1, PATIENCE));
    fault.clear();
    assert_eq!(get(&cluster, PODS).expect("an answer").status, 200);
    drop(connection);
    assert!(cluster.wait_for_connections(0, PATIENCE));
    assert_eq!(cluster.requests().len(), 1);
}

#[test]
fn headers_can_be_all_there_is() {
    let cluster = cluster();
    cluster.apply(pod("a"));
    cluster.inject_times(Fault::StallAfterHeaders, 1);
    let mut answer = get(&cluster, &format!("{PODS}?watch=true")).expect("headers");
    assert_eq!(answer.status, 200);
    assert!(answer.is_silent());
}

#[test]
fn a_first_event_can_be_late() {
    let cluster = cluster();
    cluster.apply(pod("a"));
    let delay = Duration::from_millis(300);
    cluster.inject_times(Fault::LateEvents(delay), 1);
    let asked = Instant::now();
    let mut watch = get(&cluster, &format!("{PODS}?watch=true")).expect("headers");
    assert_eq!(watch.brief(), "ADDED a");
    assert!(asked.elapsed() >= delay);
}

#[test]
fn the_store_can_be_away_while_the_cache_is_not() {
    let cluster = cluster();
    cluster.apply(pod("a"));
    let _away = cluster.inject(Fault::StallConsistent);
    let mut cached = get(&cluster, &format!("{PODS}?watch=true&resourceVersion=0")).expect("headers");
    assert_eq!(cached.brief(), "ADDED a");
    let consistent =
        "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut consistent = get(&cluster, &format!("{PODS}?{consistent}")).expect("headers");
    assert!(consistent.is_silent());
}

#[test]
fn a_stalled_watch_withholds_its_events_until_it_goes_on() {
    let cluster = cluster();
    cluster.apply(pod("a"));
    let mut watch = get(&cluster, &format!("{PODS}?watch=true")).expect("an answer");
    assert_eq!(watch.brief(), "ADDED a");
    let stall = cluster.stall();
    cluster.apply(pod("b"));
    assert!(watch.is_silent());
    stall.clear();
    assert_eq!(watch.brief(), "ADDED b");
}

#[test]
fn an_answer_can_be_delayed() {
    let cluster = cluster();
    let delay = Duration::from_millis(100);
    cluster.inject_times(Fault::Delay(delay), 1);
    let asked = Instant::now();
    assert_eq!(get(&cluster, PODS).expect("an answer").status, 200);
    assert!(asked.elapsed() >= delay);
}

#[test]
fn a_hang_up_closes_what_is_open() {
    let cluster = cluster();
    let mut watch = get(&cluster, &format!("{PODS}?watch=true")).expect("an answer");
    cluster.hang_up();
    assert!(watch.next().is_err());
    assert!(cluster.wait_for_connections(0, PATIENCE));
}

#[test]
fn a_page_of_a_proxy_is_no_answer_of_an_api_server() {
    let cluster = cluster();
    cluster.inject_times(Fault::Page(502), 1);
    let answer = get(&cluster, PODS).expect("an answer");
    assert_eq!((answer.status, answer.header("content-type")), (502, Some("text/html")));
    assert_eq!(get(&cluster, PODS).expect("an answer").status, 200);
}
