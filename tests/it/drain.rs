//! After the sidecars were asked to exit, proa waits until they have, and names those that failed.

use localpod::cluster::Access;

use crate::support::http::Endpoint;
use crate::support::{Beside, Running, World};

fn world(policy: &str) -> World {
    let world = World::with(policy, &[Beside::Regular("web"), Beside::Native("db")]);
    world.make_ready("web");
    world.make_ready("db");
    world
}

/// Starts a command that ends with 5, and waits until proa waits for `web`.
fn draining(world: &World, flags: &[&str]) -> Running {
    let running = world.proa().flags(flags).start(["sh", "-c", "exit 5"]);
    running.wait_stderr("waiting for `web` to exit");
    running
}

#[test]
fn waits_for_regular_sidecars_and_not_for_native_ones() {
    let world = world("Never");
    let running = draining(&world, &[]);
    world.set_state("web", "terminated: {exitCode: 0}");
    running.finish().expect(5, &["every sidecar has exited"]);
}

#[test]
fn names_a_sidecar_that_failed_with_its_code() {
    let world = world("Never");
    let running = draining(&world, &[]);
    world.set_state("web", "terminated: {exitCode: 137, reason: OOMKilled}");
    running.finish().expect(5, &["sidecar `web` ended with exit code 137, OOMKilled"]);
}

#[test]
fn a_sidecar_that_is_started_again_has_not_ended() {
    let world = world("OnFailure");
    let running = world.proa().flag("--shutdown-when=always").start(["true"]);
    running.wait_stderr("waiting for `web` to exit");
    world.set_state("web", "terminated: {exitCode: 1}");
    running.wait_stderr("sidecar `web` ended with exit code 1");
    world.set_state("web", "running: {}");
    world.set_state("web", "terminated: {exitCode: 0}");
    let finished = running.finish().expect(0, &["every sidecar has exited"]);
    assert_eq!(finished.stderr.matches("waiting for `web` to exit").count(), 1, "{}", finished.stderr);
}

#[test]
fn gives_up_at_the_deadline_and_names_who_still_runs() {
    let world = world("Never");
    draining(&world, &["--shutdown-timeout=200ms"])
        .finish()
        .expect(5, &["still running when --shutdown-timeout ran out: `web`"]);
}

#[test]
fn is_done_before_the_grace_period_that_the_command_has_used_ends() {
    let world = world("Never");
    world.update(|pod| pod.spec.get_or_insert_default().termination_grace_period_seconds = Some(6));
    let running = world.proa().start([
        "sh",
        "-c",
        "trap 'sleep 4; exit 5' TERM; echo up; while :; do sleep 0.01; done",
    ]);
    running.wait_stdout("up");
    let asked = std::time::Instant::now();
    running.signal(nix::libc::SIGTERM);
    running.finish().expect(5, &["still running when", "`web`"]);
    // Counted from the command's end it would be ten seconds.
    assert!(asked.elapsed() < std::time::Duration::from_secs(9), "the kubelet would have killed it");
}

#[test]
fn does_not_wait_for_a_pod_that_is_being_deleted() {
    let world = world("Never");
    let running = draining(&world, &["--shutdown-timeout=1h"]);
    world.cluster.mark_deleted("default", "pod", std::time::Duration::from_secs(30));
    running.finish().expect(5, &["the Pod is being deleted or ended"]);
}

#[test]
fn asks_no_more_than_once_where_nothing_is_to_be_waited_for() {
    let native_alone = World::with("Never", &[Beside::Native("db")]);
    native_alone.make_ready("db");
    native_alone.proa().run(["true"]).expect(0, &[]);
    assert_eq!(native_alone.cluster.requests().len(), 2, "the gate's watch, and one look at the end");
    let restarted = world("Always");
    restarted.proa().flag("--shutdown-when=always").run(["true"]).expect(0, &[]);
    assert_eq!(restarted.cluster.requests().len(), 2, "the gate's watch, and one look at the end");
}

#[test]
fn an_api_that_is_gone_once_a_sidecar_was_told_to_quit_means_that_the_mesh_has_ended() {
    let world = world("Never");
    let quit = Endpoint::ok();
    let running = world.proa().flags(["-p", &quit.url(), "--shutdown-timeout=1h"]).start([
        "sh",
        "-c",
        "read line < /dev/stdin; exit 5",
    ]);
    quit.request();
    running.wait_stderr("waiting for `web` to exit");
    let _down = world.cluster.refuse();
    world.cluster.hang_up();
    running.finish().expect(5, &["not waiting any longer"]);
}

#[test]
fn rights_that_are_missing_for_a_moment_do_not_end_the_wait() {
    // An API server that has just started knows no Roles yet.
    let world = world("Never");
    let running = draining(&world, &["--shutdown-timeout=1h"]);
    world.cluster.inject_times(localpod::cluster::Fault::Status(403), 2);
    world.cluster.end_watches(&localpod::cluster::WatchEnd::Close);
    world.set_state("web", "terminated: {exitCode: 0}");
    running.finish().expect(5, &["every sidecar has exited"]);
}

#[test]
fn rights_that_were_taken_away_end_the_wait() {
    let world = world("Never");
    let running = draining(&world, &["--shutdown-timeout=1h"]);
    world.cluster.authorize(Access::to(&[]));
    world.cluster.end_watches(&localpod::cluster::WatchEnd::Close);
    running.finish().expect(5, &["not waiting for the sidecars to exit"]);
}
