//! A sidecar says by annotations of the Pod how it is treated: how it is ended, when it is ready, when it is to go last, and
//! that nobody waits for it.

use crate::support::http::{Endpoint, Reply};
use crate::support::{Beside, Held, World};

const ENDED: &str = "terminated: {exitCode: 0, reason: Completed}";

/// A Pod with restart policy `Never`, a regular sidecar `web` that nobody knows, and these annotations of it.
fn annotated(annotations: &[(&str, &str)]) -> World {
    beside(&[Beside::Regular("web")], annotations)
}

fn beside(sidecars: &[Beside], annotations: &[(&str, &str)]) -> World {
    let world = World::with("Never", sidecars);
    for (name, value) in annotations {
        annotate(&world, name, value);
    }
    world
}

fn annotate(world: &World, name: &str, value: &str) {
    world.update(|pod| {
        let annotations = pod.metadata.annotations.get_or_insert_default();
        annotations.insert(format!("proa.ironcorelabs.com/{name}"), value.to_owned());
    });
}

fn at(endpoint: &Endpoint) -> String {
    format!("http://localhost:{}/here", endpoint.port())
}

#[test]
fn an_unknown_sidecar_is_ended_as_its_annotation_says() {
    for method in ["GET", "POST"] {
        let quit = Endpoint::ok();
        let world = annotated(&[("web.shutdown", &format!("{method} {}", at(&quit)))]);
        world.make_ready("web");
        let running = world.proa().start(["sh", "-c", "exit 4"]);
        assert!(quit.request().starts_with(&format!("{method} /here ")));
        world.set_state("web", ENDED);
        running.finish().expect(4, &[&format!("{method} {}: 200", at(&quit)), "every sidecar has exited"]);
    }
}

#[test]
fn a_request_that_fails_is_reported_with_the_annotation_that_gives_it() {
    let off = Endpoint::replying(vec![Reply::Status(404, None)]);
    let world = annotated(&[("web.shutdown", &format!("POST {}", at(&off)))]);
    world.make_ready("web");
    let finished = world.proa().flag("--shutdown-timeout=1s").run(["sh", "-c", "exit 4"]);
    finished.expect(4, &["/here: 404", "annotation proa.ironcorelabs.com/web.shutdown says"]);
}

#[test]
fn a_sidecar_is_ready_when_its_own_endpoint_says_so_whatever_kubernetes_says() {
    for kubernetes in [false, true] {
        let ready = Endpoint::replying(vec![Reply::Status(503, None), Reply::Status(200, None)]);
        let world = annotated(&[("web.ready", &at(&ready)), ("web.ignore", "false")]);
        world.update_status("web", |status| status.ready = kubernetes);
        let running = world.proa().flag("--shutdown-timeout=1ms").start(["true"]);
        for _ in 0..2 {
            assert!(ready.request().starts_with("GET /here "));
        }
        let finished = running.finish();
        finished.expect(0, &["annotation proa.ironcorelabs.com/web.ready says so", "(503", "gate open"]);
    }
}

#[test]
fn a_native_sidecar_is_ready_by_annotation_too_and_left_to_the_kubelet() {
    let (ready, quit) = (Endpoint::ok(), Endpoint::ok());
    let shutdown = format!("POST {}", at(&quit));
    let world = beside(&[Beside::Native("web")], &[("web.ready", &at(&ready)), ("web.shutdown", &shutdown)]);
    world.proa().run(["true"]).expect(0, &["gate open"]);
    assert!(ready.request().starts_with("GET /here "));
    assert_eq!(quit.more_requests(), 0);
}

#[test]
fn an_annotation_that_is_set_right_while_proa_waits_is_obeyed() {
    let ready = Endpoint::ok();
    let world = annotated(&[("web.ready", "http://localhost:1/here")]);
    let running = world.proa().flag("--shutdown-timeout=1ms").start(["true"]);
    running.wait_stderr("waiting for web at http://localhost:1/here");
    annotate(&world, "web.ready", &at(&ready));
    running.finish().expect(0, &["gate open"]);
    assert!(ready.request().starts_with("GET /here "));
}

#[test]
fn an_ignored_sidecar_is_waited_for_neither_to_be_ready_nor_to_exit() {
    let world = annotated(&[("web.ignore", "true")]);
    let finished = world.proa().flag("--shutdown-timeout=1h").run(["sh", "-c", "exit 4"]);
    let finished = finished.expect(4, &["gate open"]);
    assert!(!finished.stderr.contains("to exit"), "{}", finished.stderr);
}

#[test]
fn a_sidecar_that_carries_the_pods_traffic_is_ended_once_the_others_have_ended() {
    let (mesh, db) = (Endpoint::ok(), Endpoint::ok());
    let world = beside(
        &[Beside::Regular("mesh"), Beside::Regular("db")],
        &[
            ("mesh.shutdown", &format!("POST {}", at(&mesh))),
            ("mesh.traffic", "pod"),
            ("db.shutdown", &format!("POST {}", at(&db))),
        ],
    );
    world.make_ready("mesh");
    world.make_ready("db");
    let running = world.proa().start(["true"]);
    db.request();
    running.wait_stderr("waiting for `db` to exit");
    assert_eq!(mesh.more_requests(), 0);
    world.set_state("db", ENDED);
    mesh.request();
    world.set_state("mesh", ENDED);
    running.finish().expect(0, &["the others have exited", "every sidecar has exited"]);
}

#[test]
fn flags_win_over_annotations() {
    let (quit, given) = (Endpoint::ok(), Endpoint::ok());
    let other_path = format!("http://localhost:{}/stop", quit.port());
    for (flag, asked) in [
        ("--no-shutdown-auto".to_owned(), vec![]),
        (format!("-p={other_path}"), vec!["POST /stop "]),
        (format!("-p={}", given.url()), vec!["POST /here "]),
    ] {
        // Ignored by flag, though it says when it is ready: nobody listens there.
        let world = annotated(&[
            ("web.shutdown", &format!("POST {}", at(&quit))),
            ("web.ready", "http://localhost:1/"),
        ]);
        world.proa().flags(["--ignore=web", &flag]).run(["true"]).expect(0, &["gate open"]);
        for expected in &asked {
            let request = quit.request();
            assert!(request.starts_with(expected), "{flag}: {request}");
        }
        assert_eq!(quit.more_requests(), 0, "{flag}");
    }
    assert_eq!(given.more_requests(), 1);
}

#[test]
fn a_malformed_annotation_is_one_warning_and_the_others_count() {
    for (name, value, expected) in [
        ("web.shutdwn", "POST http://localhost:1/", "found setting `shutdwn`; expected one of shutdown,"),
        ("wbe.ignore", "true", "no container `wbe` in this Pod; expected one of `web`, `main`"),
        ("web.shutdown", "PUT http://localhost:1/", "found method `PUT`; expected GET or POST"),
        ("web.ready", "http://example.com/", "expected localhost or a loopback address"),
    ] {
        let world = annotated(&[(name, value), ("web.ignore", "true")]);
        let finished = world.proa().run(["sh", "-c", "exit 4"]).expect(4, &[expected]);
        let lines: Vec<_> =
            finished.stderr.lines().filter(|line| line.contains(&format!("/{name}"))).collect();
        let [line] = lines.as_slice() else { panic!("{name}: {}", finished.stderr) };
        assert!(line.contains("WARN"), "{line}");
    }
}

#[test]
fn one_that_comes_while_the_command_runs_is_obeyed_or_warned_of_at_the_end() {
    let quit = Endpoint::ok();
    let world = annotated(&[("web.ignore", "yes")]);
    world.make_ready("web");
    let held = Held::in_dir(&world.dir, "exit 4");
    let running = world.proa().start(&held.command);
    running.wait_stdout("up");
    annotate(&world, "web.shutdown", &format!("POST {}", at(&quit)));
    annotate(&world, "web.traffic", "all");
    held.let_go();
    assert!(quit.request().starts_with("POST /here "));
    world.set_state("web", ENDED);
    let finished =
        running.finish().expect(4, &["found `all`; expected pod or own", "every sidecar has exited"]);
    for key in ["web.traffic", "web.ignore"] {
        assert_eq!(finished.stderr.matches(&format!("annotation proa.ironcorelabs.com/{key} ")).count(), 1);
    }
}

#[test]
fn a_helper_obeys_annotations_and_warns_of_malformed_ones() {
    let quit = Endpoint::ok();
    let shutdown = format!("POST {}", at(&quit));
    let world = beside(
        &[Beside::Regular("web"), Beside::Regular("helper")],
        &[("web.shutdown", &shutdown), ("web.traffic", "all")],
    );
    // `web` says how it is ended, so that `main` is the only main container.
    let running = world.proa().sidecar("helper").start_bare();
    running.wait_stderr("running until the exit of `main`");
    world.set_state("main", ENDED);
    assert!(quit.request().starts_with("POST /here "));
    world.set_state("web", ENDED);
    running.finish().expect(0, &["found `all`; expected pod or own", "every sidecar has exited"]);
}
