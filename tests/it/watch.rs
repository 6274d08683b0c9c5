//! The watch survives whatever happens to it, asks for `watch` alone, and is gone while the command runs.

use std::time::Duration;

use localpod::cluster::{Access, Fault, WatchEnd};

use crate::support::{Beside, Held, PATIENCE, Running, World, eventually};

fn waiting(world: &World) -> Running {
    let running = world.proa().flag("--shutdown-when=never").start(["echo", "up"]);
    running.wait_stderr("waiting for web");
    running
}

fn with_web() -> World {
    World::with("Never", &[Beside::Regular("web")])
}

#[test]
fn one_request_by_name_from_resource_version_0_is_all() {
    let world = with_web();
    world.cluster.authorize(Access::to(&["watch"]));
    let running = waiting(&world);
    world.make_ready("web");
    running.finish().expect(0, &[]);
    let requests = world.cluster.requests();
    assert_eq!(requests.len(), 1, "{requests:?}");
    assert_eq!(requests[0].verb, "watch");
    assert_eq!(requests[0].parameter("fieldSelector"), Some("metadata.name=pod"));
    assert_eq!(requests[0].parameter("resourceVersion"), Some("0"));
}

#[test]
fn no_connection_and_one_thread_are_left_while_the_command_runs() {
    let world = with_web();
    let held = Held::in_dir(&world.dir, "");
    let running = world.proa().flag("--shutdown-when=never").start(&held.command);
    running.wait_stderr("waiting for web");
    assert_eq!(world.cluster.open_connections(), 1);
    world.make_ready("web");
    running.wait_stdout("up");
    assert!(world.cluster.wait_for_connections(0, PATIENCE), "the connection is kept");
    let tasks = || std::fs::read_dir(format!("/proc/{}/task", running.pid())).expect("tasks").count();
    eventually("one thread", || tasks() == 1);
    held.let_go();
    running.finish().expect(0, &[]);
}

#[test]
fn a_watch_that_ends_is_taken_up_again_without_losing_anything() {
    for end in [
        WatchEnd::Close,
        WatchEnd::Abort,
        WatchEnd::expired(),
        WatchEnd::Error { code: 500, message: "internal error".into() },
    ] {
        let world = with_web();
        let running = waiting(&world);
        // What happens between the two watches must not be lost.
        let down = world.cluster.refuse();
        world.cluster.end_watches(&end);
        world.make_ready("web");
        down.clear();
        running.finish().expect(0, &["gate open"]);
    }
}

/// What was seen before them is old by then.
#[test]
fn watches_that_end_and_show_nothing_are_reported() {
    let world = with_web();
    let running = waiting(&world);
    let cut =
        world.cluster.inject(Fault::Answer("{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"name\":\"po"));
    world.cluster.end_watches(&WatchEnd::Close);
    running.wait_stderr("a watch ended before it showed anything");
    cut.clear();
    world.make_ready("web");
    running.finish().expect(0, &["gate open"]);
}

#[test]
fn bookmarks_are_nothing_new() {
    let world = with_web();
    let running = waiting(&world);
    world.cluster.bookmark();
    world.make_ready("web");
    running.finish().expect(0, &[]);
}

#[test]
fn an_api_server_that_cannot_be_reached_yet_is_waited_for() {
    let world = with_web();
    world.make_ready("web");
    let down = world.cluster.refuse();
    let running = world.proa().flag("--shutdown-when=never").start(["echo", "up"]);
    running.wait_stderr("onnection refused");
    down.clear();
    running.finish().expect(0, &["gate open"]);
}

#[test]
fn bad_answers_are_asked_for_again() {
    for fault in [
        Fault::Reset,
        Fault::StallHandshake,
        Fault::Status(429),
        Fault::Status(500),
        Fault::Status(503),
        Fault::Status(504),
        Fault::Status(410),
    ] {
        let world = with_web();
        world.make_ready("web");
        world.cluster.inject_times(fault, 2);
        world.proa().flag("--shutdown-when=never").run(["true"]).expect(0, &["gate open"]);
    }
}

#[test]
fn watches_that_have_expired_before_they_show_anything_are_named() {
    const EXPIRED: &str = concat!(
        r#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"too old resource version","reason":"Expired","code":410}}"#,
        "\n"
    );
    let world = with_web();
    world.make_ready("web");
    let expired = world.cluster.inject(Fault::Answer(EXPIRED));
    let running = world.proa().flag("--shutdown-when=never").start(["true"]);
    running.wait_stderr("410 Expired too old resource version");
    expired.clear();
    running.finish().expect(0, &["gate open"]);
}

#[test]
fn a_watch_that_says_nothing_at_first_is_given_up() {
    let world = with_web();
    world.make_ready("web");
    world.cluster.inject_times(Fault::StallAfterHeaders, 1);
    world.proa().flag("--shutdown-when=never").run(["true"]).expect(0, &["gate open"]);
}

/// A watch that is open and silent is what a name without a Pod looks like, too.
#[test]
fn a_silent_api_server_is_not_taken_for_one_without_the_pod() {
    let world = with_web();
    world.make_ready("web");
    let silent = world.cluster.inject(Fault::StallAfterHeaders);
    let running = world.proa().flag("--shutdown-when=never").start(["echo", "up"]);
    // Longer than a Pod that does not exist is asked for.
    running.wait_stderr("a watch was opened, and shows nothing within ");
    let seen = running.wait_stderr("still waiting for");
    assert!(!seen.contains("there is no Pod"), "{seen}");
    silent.clear();
    running.finish().expect(0, &["gate open"]);
}

/// Every watch begins with the Pod as it is: one that does not is not waited for until its end.
#[test]
fn a_watch_taken_up_again_that_says_nothing_is_given_up() {
    let world = with_web();
    let running = world.proa().flags(["--shutdown-when=never", "--ready-timeout=20s"]).start(["echo", "up"]);
    running.wait_stderr("waiting for web");
    world.cluster.inject_times(Fault::StallAfterHeaders, 1);
    world.cluster.end_watches(&WatchEnd::Close);
    world.make_ready("web");
    running.finish().expect(0, &["gate open"]);
}

/// Its DELETED event was nobody's to see.
#[test]
fn a_pod_that_went_while_nobody_watched_is_gone() {
    let world = with_web();
    let running = world.proa().flags(["--shutdown-when=never", "--ready-timeout=60s"]).start(["echo", "up"]);
    running.wait_stderr("waiting for web");
    let down = world.cluster.refuse();
    world.cluster.hang_up();
    world.cluster.remove("default", "pod");
    down.clear();
    running.finish().expect(143, &["the Pod is being deleted"]);
}

/// It is busy, and every watch's first event is late.
#[test]
fn a_first_event_that_comes_late_is_seen() {
    let world = with_web();
    world.make_ready("web");
    let _late = world.cluster.inject(Fault::LateEvents(Duration::from_secs(10)));
    world.proa().flag("--shutdown-when=never").run(["true"]).expect(0, &["gate open"]);
}

/// The API server's store is away, and its cache is not.
#[test]
fn what_the_cache_has_is_seen_while_the_store_is_away() {
    let world = with_web();
    world.make_ready("web");
    let _away = world.cluster.inject(Fault::StallConsistent);
    world.cluster.inject_times(Fault::StallAfterHeaders, 1);
    world.proa().flag("--shutdown-when=never").run(["true"]).expect(0, &["gate open"]);
}

#[test]
fn an_answer_without_an_end_is_given_up() {
    let world = with_web();
    world.make_ready("web");
    let endless = world.cluster.inject(Fault::Endless);
    let flags = ["--shutdown-when=never", "--ready-timeout=10s"];
    world.proa().flags(flags).run(["true"]).expect(75, &["an answer of more than 8388608 bytes"]);
    drop(endless);
    world.cluster.inject_times(Fault::Endless, 2);
    world.proa().flag("--shutdown-when=never").run(["true"]).expect(0, &["gate open"]);
}

#[test]
fn an_answer_of_somebody_else_is_asked_for_again() {
    for answer in [
        "",
        "\n\n",
        "<html><body>Bad gateway</body></html>",
        "not json\n",
        "{}\n",
        "[1, 2]\n",
        "{\"type\": \"ADDED\", \"object\": {\"metadata\"",
        "{\"type\": \"ADDED\", \"object\": \"a Pod\"}\n",
        "{\"type\": \"ADDED\", \"object\": {\"spec\": {\"containers\": 7}}}\n",
        "{\"type\": \"ADDED\", \"object\": {\"status\": {\"containerStatuses\": [{\"ready\": \"yes\"}]}}}\n",
        "{\"type\": \"ERROR\", \"object\": {\"code\": \"many\"}}\n",
        "\u{0}\u{1}\n",
    ] {
        let world = with_web();
        world.make_ready("web");
        world.cluster.inject_times(Fault::Answer(answer), 2);
        world.proa().flag("--shutdown-when=never").run(["true"]).expect(0, &["gate open"]);
    }
}

#[test]
fn a_watch_that_falls_silent_is_given_up() {
    let world = with_web();
    let running = waiting(&world);
    let stalled = world.cluster.stall();
    world.make_ready("web");
    // The server's own end of the watch is withheld too; proa must come back by itself.
    let again = world.cluster.wait_for_request(PATIENCE, {
        let mut seen = 0;
        move |_| {
            seen += 1;
            seen > 1
        }
    });
    assert!(again.is_some(), "never asked again");
    stalled.clear();
    running.finish().expect(0, &["gate open"]);
}

#[test]
fn a_slow_api_server_gets_its_time() {
    let world = with_web();
    world.make_ready("web");
    world.cluster.inject_times(Fault::Delay(Duration::from_secs(5)), 3);
    world.proa().flag("--shutdown-when=never").run(["true"]).expect(0, &["gate open"]);
}

#[test]
fn a_rotated_token_is_read_again() {
    let world = with_web();
    let running = waiting(&world);
    world.cluster.rotate_token().expect("a new token");
    world.cluster.end_watches(&WatchEnd::Abort);
    world.make_ready("web");
    running.finish().expect(0, &["gate open"]);
}

#[test]
fn missing_rights_are_a_refusal_that_spells_out_the_rule() {
    let world = with_web();
    world.cluster.authorize(Access::to(&["get", "list"]));
    let finished = world.proa().flag("--shutdown-when=never").run(["echo", "never"]);
    let rule = r#"{apiGroups: [""], resources: ["pods"], verbs: ["watch"]}"#;
    let finished = finished.expect(77, &[rule, "namespace `default`"]);
    assert_eq!(finished.stdout, "");
    assert!(world.termination_message().contains(rule), "{}", world.termination_message());
}

#[test]
fn a_token_that_is_not_accepted_is_a_refusal() {
    let world = with_web();
    let _denied = world.cluster.inject(Fault::Status(401));
    world.proa().flag("--shutdown-when=never").run(["true"]).expect(77, &["token"]);
}

#[test]
fn rights_that_are_granted_late_are_enough() {
    let world = with_web();
    world.make_ready("web");
    world.cluster.authorize(Access::to(&[]));
    let running = world.proa().flag("--shutdown-when=never").start(["true"]);
    running.wait_stderr("verbs: [\"watch\"]");
    world.cluster.authorize(Access::to(&["watch"]));
    running.finish().expect(0, &["gate open"]);
}

#[test]
fn a_server_that_never_answered_is_not_asked_for_the_sidecars_exit() {
    let world = with_web();
    let _down = world.cluster.refuse();
    let started = std::time::Instant::now();
    let finished = world.proa().flags(["--ready-timeout=300ms", "--shutdown-timeout=1h"]).run(["echo", "up"]);
    let finished = finished.expect(75, &["not ready within 300ms", "no sidecar is shut down"]);
    assert!(!finished.stderr.contains("no news"), "{}", finished.stderr);
    assert!(started.elapsed() < PATIENCE);
}
