//! What stands in the way of seeing the Pod is lived through as what it is: rights come back, servers are busy, and only a
//! mesh that has ended takes the connection with it.

use std::thread;
use std::time::{Duration, Instant};

use localpod::cluster::{Access, Fault, FaultGuard, WatchEnd};
use nix::libc;

use crate::support::http::{Endpoint, refusing_url};
use crate::support::{Beside, Held, PATIENCE, Proa, Running, World};

/// Longer than a denial is doubted where the Pod was never seen.
const LONG: Duration = Duration::from_secs(12);

/// Much less than any grace period here.
const PROMPT: Duration = Duration::from_secs(10);

/// Says when it is up, and ends when it is asked to.
const LOYAL: [&str; 3] =
    ["sh", "-c", "trap 'echo stopped; exit 143' TERM; echo up; while :; do sleep 0.01; done"];

const DONE: &str = "terminated: {exitCode: 0, reason: Completed}";

fn with_web() -> World {
    World::with("Never", &[Beside::Regular("web")])
}

fn with_ready_web() -> World {
    let world = with_web();
    world.make_ready("web");
    world
}

/// Answers every request with this status from now on; an open watch is closed.
fn answer_all_with(world: &World, code: u16) -> FaultGuard {
    let fault = world.cluster.inject(Fault::Status(code));
    world.cluster.end_watches(&WatchEnd::Close);
    assert!(world.cluster.wait_for_request(PATIENCE, |request| request.status == code).is_some());
    fault
}

/// Both kinds of denial side by side, each for [`LONG`] after proa has come to this point.
fn through_a_denial(start: impl Fn(&World) -> Running, world: impl Fn() -> World) -> Vec<(World, Running)> {
    let denied = [401, 403].map(|code| {
        let world = world();
        let running = start(&world);
        let denial = answer_all_with(&world, code);
        (world, running, denial)
    });
    thread::sleep(LONG);
    let lifted = denied.into_iter().map(|(world, running, denial)| {
        denial.clear();
        (world, running)
    });
    lifted.collect()
}

#[test]
fn a_wrapped_sidecar_that_was_denied_for_a_while_ends_with_its_main() {
    let start = |world: &World| {
        let running = world.proa().sidecar("web").start(LOYAL);
        running.wait_stdout("up");
        running.wait_stderr("running until the exit of `main`");
        running
    };
    for (world, running) in through_a_denial(start, with_web) {
        assert!(!running.stdout_so_far().contains("stopped"));
        world.set_state("main", DONE);
        assert!(running.finish().expect(0, &[]).stdout.contains("stopped"));
    }
}

#[test]
fn a_denial_is_named_at_the_end_where_the_gate_knew_of_none() {
    let world = World::alone();
    let down = world.cluster.refuse();
    let held = Held::in_dir(&world.dir, "exit 3");
    let main = world.proa().flag("--wait-file=/proc/self").start(&held.command);
    main.wait_stderr("going on without the API server, by the direct waits alone: it cannot be reached");
    world.cluster.authorize(Access::to(&[]));
    down.clear();
    held.let_go();
    let stderr = main.finish().expect(3, &[]).stderr;
    let line = stderr.lines().find(|line| line.contains("its restart policy is unknown")).unwrap();
    assert!(line.contains("verbs: [\"watch\"]"), "{stderr}");
}

/// Who is asked to stop shuts the sidecars down too.
#[test]
fn a_denial_is_named_after_a_gate_that_stayed_shut_for_another_reason() {
    let world = World::alone();
    let down = world.cluster.refuse();
    let main = world.proa().flag("--wait-file=/never").start(["true"]);
    main.wait_stderr("cannot be reached");
    world.cluster.authorize(Access::to(&[]));
    down.clear();
    main.signal(libc::SIGTERM);
    let stderr = main.finish().expect(143, &[]).stderr;
    assert_eq!(stderr.matches("verbs: [\"watch\"]").count(), 1, "{stderr}");
}

#[test]
fn a_wrapped_sidecar_whose_rights_come_late_ends_with_its_main() {
    let world = with_web();
    world.cluster.authorize(Access::to(&[]));
    let running = world.proa().sidecar("web").start(LOYAL);
    running.wait_stdout("up");
    assert!(world.cluster.wait_for_request(PATIENCE, |request| request.status == 403).is_some());
    thread::sleep(LONG);
    world.cluster.authorize(Access::AllowAll);
    world.set_state("main", DONE);
    running.finish().expect(0, &[]);
}

#[test]
fn a_helper_that_was_denied_for_a_while_ends_the_sidecars_after_main() {
    let quits = [Endpoint::ok(), Endpoint::ok()];
    let urls = std::cell::RefCell::new(quits.iter().map(Endpoint::url));
    let start = |world: &World| {
        let url = urls.borrow_mut().next().expect("one each");
        let running = world.proa().sidecar("helper").flags(["--until-exit=main", "-p", &url]).start_bare();
        running.wait_stderr("running until the exit of `main`");
        running
    };
    let world = || World::with("Never", &[Beside::Regular("proxy"), Beside::Regular("helper")]);
    for ((world, running), quit) in through_a_denial(start, world).into_iter().zip(&quits) {
        assert_eq!(quit.more_requests(), 0);
        world.set_state("main", DONE);
        // With proa gone nobody would ask any more.
        running.wait_stderr("POST ");
        assert!(quit.request().starts_with("POST "));
        world.set_state("proxy", DONE);
        running.finish().expect(0, &[]);
    }
}

/// A main container's proa that has seen its Pod and waits for `web`.
fn waiting(proa: Proa) -> Running {
    let running = proa.flag("--shutdown-when=never").start(["echo", "up"]);
    running.wait_stderr("waiting for web (running");
    running
}

#[test]
fn a_gate_that_was_denied_for_a_while_after_it_saw_the_pod_opens() {
    for (world, running) in through_a_denial(|world| waiting(world.proa()), with_web) {
        assert!(!running.stdout_so_far().contains("up"));
        world.make_ready("web");
        assert!(running.finish().expect(0, &[]).stdout.contains("up"));
    }
}

#[test]
fn a_denial_after_the_pod_was_seen_is_still_bounded_by_the_ready_timeout() {
    let world = with_web();
    let running = waiting(world.proa().flag("--ready-timeout=4s"));
    let _denial = answer_all_with(&world, 403);
    let rule = "verbs: [\"watch\"]";
    assert_eq!(running.finish().expect(77, &[rule]).stdout, "");
    assert!(world.termination_message().contains(rule), "{}", world.termination_message());
}

#[test]
fn denials_with_other_trouble_between_them_are_not_counted_as_one() {
    let world = with_ready_web();
    let denial = world.cluster.inject(Fault::Status(403));
    let running = world.proa().flag("--shutdown-when=never").start(["echo", "up"]);
    assert!(world.cluster.wait_for_request(PATIENCE, |request| request.status == 403).is_some());
    let down = world.cluster.refuse();
    world.cluster.hang_up();
    denial.clear();
    world.cluster.inject_times(Fault::Status(403), 1);
    thread::sleep(Duration::from_secs(11));
    down.clear();
    assert!(running.finish().expect(0, &[]).stdout.contains("up"));
}

#[test]
fn a_busy_api_server_is_no_mesh_that_has_ended() {
    let runs = [503, 429].map(|code| {
        let (world, quit) = (with_ready_web(), Endpoint::ok());
        let running = world.proa().flags(["-p", &quit.url()]).start(["sh", "-c", "exit 5"]);
        quit.request();
        let busy = answer_all_with(&world, code);
        (world, running, busy)
    });
    thread::sleep(Duration::from_secs(2));
    for (world, running, busy) in runs {
        busy.clear();
        world.set_state("web", "terminated: {exitCode: 3}");
        running.finish().expect(5, &["`web` ended with exit code 3"]);
    }
}

/// The command ends with 5 when it is asked to stop.
const STOPPABLE: [&str; 3] = ["sh", "-c", "trap 'exit 5' TERM; echo up; while :; do sleep 0.01; done"];

/// Asks proa to stop; how long it took to end with the command's code.
fn stop(running: Running) -> Duration {
    running.signal(libc::SIGTERM);
    let asked = Instant::now();
    running.finish().expect(5, &[]);
    asked.elapsed()
}

#[test]
fn asked_to_stop_where_nobody_can_be_asked_and_the_api_has_gone_it_does_not_linger() {
    let world = with_ready_web();
    let running = world.proa().flags(["-p", &refusing_url()]).start(STOPPABLE);
    running.wait_stdout("up");
    let _down = world.cluster.refuse();
    world.cluster.hang_up();
    let took = stop(running);
    assert!(took < PROMPT, "{took:?}");
}

#[test]
fn asked_to_stop_where_nobody_can_be_asked_and_the_api_was_never_there_it_does_not_linger() {
    let world = with_ready_web();
    let _down = world.cluster.refuse();
    let flags = ["--ready-timeout=300ms", "--on-timeout=run", "-p", &refusing_url()];
    let running = world.proa().flags(flags).start(STOPPABLE);
    running.wait_stdout("up");
    let took = stop(running);
    assert!(took < PROMPT, "{took:?}");
}

/// How long after a request with this answer the next one came.
fn pause_after(fault: Fault) -> Duration {
    let world = with_ready_web();
    world.cluster.inject_times(fault, 1);
    world.proa().flag("--shutdown-when=never").run(["true"]).expect(0, &[]);
    let requests = world.cluster.requests();
    let turned_away = requests.iter().position(|request| request.status != 200).expect("the fault struck");
    requests[turned_away + 1].at - requests[turned_away].at
}

#[test]
fn a_busy_api_server_is_asked_again_no_sooner_than_it_says() {
    for code in [429, 503] {
        let pause = pause_after(Fault::Status(code));
        assert!(pause >= Duration::from_secs(1), "{code}: {pause:?}");
    }
}

#[test]
fn a_retry_after_header_is_obeyed_without_a_status_object_too() {
    for code in [429, 503] {
        let pause = pause_after(Fault::Throttle { code, retry_after: 2 });
        assert!(pause >= Duration::from_secs(2), "{code}: {pause:?}");
    }
}
