//! `--on-sidecar-exit`: what follows when a sidecar ends for good while the command runs.

use crate::support::http::Endpoint;
use crate::support::{Beside, Held, PATIENCE, World};

/// Says when it is up, and that it was asked to stop; ends with a code of its own then.
const LOYAL: [&str; 3] =
    ["sh", "-c", "trap 'echo stopped; exit 7' TERM; echo up; while :; do sleep 0.01; done"];

fn pod(policy: &str) -> World {
    let world = World::with(policy, &[Beside::Regular("web"), Beside::Regular("log")]);
    world.make_ready("web");
    world.make_ready("log");
    world
}

#[test]
fn a_sidecar_that_ends_for_good_stops_the_command_where_that_is_asked_for() {
    let world = pod("Never");
    let log = Endpoint::ok();
    let flags = ["--on-sidecar-exit=stop", "--shutdown-timeout=1s", "-p", &log.url()];
    let running = world.proa().flags(flags).start(LOYAL);
    running.wait_stdout("up");
    world.set_state("web", "terminated: {exitCode: 0, reason: Completed}");
    log.request();
    let finished = running.finish().expect(
        69,
        &["sidecar `web` exited for good (exit code 0): stopping the command", "command ended: exit code 7"],
    );
    assert!(finished.stdout.contains("stopped"));
    let message = world.termination_message();
    assert!(
        message.contains("sidecar `web` exited for good (exit code 0) while the command ran"),
        "{message}"
    );
}

#[test]
fn nobody_looks_where_it_is_not_asked_for() {
    let world = pod("Never");
    let held = Held::in_dir(&world.dir, "exit 3");
    let running = world.proa().flags(["--shutdown-when=never"]).start(&held.command);
    running.wait_stdout("up");
    assert!(world.cluster.wait_for_connections(0, PATIENCE), "a connection is kept");
    world.set_state("web", "terminated: {exitCode: 1}");
    held.let_go();
    running.finish().expect(3, &[]);
}

#[test]
fn one_that_is_started_again_or_ignored_stops_nobody() {
    let world = pod("OnFailure");
    let held = Held::in_dir(&world.dir, "exit 3");
    let flags = ["--on-sidecar-exit=stop", "--ignore=log", "--shutdown-when=never"];
    let running = world.proa().flags(flags).start(&held.command);
    running.wait_stdout("up");
    world.set_state("web", "terminated: {exitCode: 1}");
    world.set_state("log", "terminated: {exitCode: 0}");
    world.set_state("web", "running: {}");
    held.let_go();
    running.finish().expect(3, &[]);
}

#[test]
fn a_pod_that_is_deleted_stops_its_command_as_ever() {
    let world = pod("Never");
    let running = world.proa().flag("--on-sidecar-exit=stop").start(LOYAL);
    running.wait_stdout("up");
    world.cluster.mark_deleted("default", "pod", std::time::Duration::from_secs(30));
    world.set_state("web", "terminated: {exitCode: 0}");
    running.signal(nix::libc::SIGTERM);
    running.finish().expect(7, &[]);
}

#[test]
fn it_needs_the_api_server() {
    let running = World::alone().proa().flags(["--api=off", "--on-sidecar-exit=stop"]).run(["true"]);
    running.expect(2, &["--on-sidecar-exit=stop needs the API server, which --api=off forbids"]);
}

/// Nothing but its presence showed that it is one, and that ends with it.
#[test]
fn another_main_container_that_is_over_is_no_sidecar_that_was_lost() {
    let world = pod("Never");
    let Some((main, other)) = world.mounted("main", "pod").zip(world.mounted("log", "pod")) else { return };
    let other =
        other.flags(["--api=off", "--shutdown-when=never"]).start(["sh", "-c", "echo up; exec sleep 600"]);
    other.wait_stdout("up");
    let held = Held::in_dir(&world.dir, "exit 3");
    let flags = ["--on-sidecar-exit=stop", "--shutdown-when=never"];
    let main = main.flags(flags).start(&held.command);
    main.wait_stdout("up");
    drop(other);
    let watching = world.cluster.wait_for_watches(1, PATIENCE);
    assert!(watching, "nobody watches");
    world.set_state("log", "terminated: {exitCode: 0}");
    world.set_state("web", "running: {startedAt: 2020-01-01T00:00:00Z}");
    held.let_go();
    main.finish().expect(3, &["other main containers: `log`"]);
}
