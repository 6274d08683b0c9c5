//! Time at a container's end: nothing is left unsent for want of it, nothing takes it from the command's exit code, and no
//! value of it is too small or too large.

use std::time::{Duration, Instant};

use nix::libc;

use crate::support::http::{Endpoint, Reply};
use crate::support::{Beside, Held, Running, World, unshare};

/// As long as a clock of seconds goes.
const HUGE: &str = "18446744073709551615s";

/// A Pod `pod` with restart policy `Never`, `main` with what else is given for it, and a sidecar `web` that is ready.
fn pod(grace: i64, main: &str) -> World {
    World::of(&format!(
        "
metadata: {{name: pod, namespace: default}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: {grace}
  containers: [{{name: web, image: w}}, {{name: main, image: m{main}}}]
status:
  phase: Running
  containerStatuses:
  - {{name: web, image: w, imageID: w, ready: true, restartCount: 0, state: {{running: {{}}}}}}
  - {{name: main, image: m, imageID: m, ready: false, restartCount: 0, state: {{running: {{}}}}}}
"
    ))
}

/// A command that ends with 7 when it is asked to stop, a second later.
const SLOW: [&str; 3] = ["sh", "-c", "trap 'sleep 1; exit 7' TERM; echo up; while :; do sleep 0.01; done"];

fn hanging() -> Endpoint {
    Endpoint::replying(vec![Reply::Hang])
}

/// How long proa took from its stop signal on to an exit with this code.
#[track_caller]
fn stopped(running: Running, code: i32) -> Duration {
    let asked = Instant::now();
    running.signal(libc::SIGTERM);
    running.finish().expect(code, &[]);
    asked.elapsed()
}

#[test]
fn a_grace_period_of_0_keeps_no_sidecar_from_being_asked() {
    let quit = Endpoint::ok();
    let world = pod(0, "");
    let running = world.proa().flags(["-p", &quit.url()]).start(["sh", "-c", "exit 3"]);
    assert!(quit.request().starts_with("POST "));
    running.wait_stderr("waiting for `web` to exit");
    world.set_state("web", "terminated: {exitCode: 0}");
    running.finish().expect(3, &["quitquitquit: 200", "every sidecar has exited"]);
}

#[test]
fn a_shutdown_timeout_of_0_is_no_limit() {
    let quit = Endpoint::ok();
    let world = pod(30, "");
    let running =
        world.proa().flags(["-p", &quit.url(), "--shutdown-timeout=0"]).start(["sh", "-c", "exit 3"]);
    quit.request();
    running.wait_stderr("waiting for `web` to exit");
    world.set_state("web", "terminated: {exitCode: 0}");
    running.finish().expect(3, &["quitquitquit: 200", "every sidecar has exited"]);
}

#[test]
fn a_sidecar_that_nobody_can_ask_does_not_hold_a_mesh_up_for_most_of_an_hour() {
    let mesh = Endpoint::ok();
    let world = World::of(&format!(
        "
metadata: {{name: pod, namespace: default, annotations: {{status.sidecar.istio.io/port: '{}'}}}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 3600
  containers: [{{name: istio-proxy, image: i}}, {{name: web, image: w}}, {{name: main, image: m}}]
status:
  containerStatuses:
  - {{name: istio-proxy, image: i, imageID: i, ready: true, restartCount: 0, state: {{running: {{}}}}}}
  - {{name: web, image: w, imageID: w, ready: true, restartCount: 0, state: {{running: {{}}}}}}
",
        mesh.port()
    ));
    let running = world.proa().start(["sh", "-c", "exit 3"]);
    running.wait_stderr("waiting for `web` to exit");
    // 20 s; before it was 40 minutes, and this gives up after one.
    assert!(mesh.request().starts_with("POST /quitquitquit"));
    world.set_state("web", "terminated: {exitCode: 0}");
    world.set_state("istio-proxy", "terminated: {exitCode: 0}");
    running.finish().expect(3, &[]);
}

#[test]
fn a_stop_signal_that_no_kill_follows_leaves_all_the_time_there_is() {
    let quit = Endpoint::ok();
    let world = pod(1, "");
    // Longer than the kubelet would have let it live, and that is the subject.
    let script = "trap 'sleep 5; exit 3' TERM; echo up; while :; do sleep 0.01; done";
    let running = world.proa().flags(["-p", &quit.url()]).start(["sh", "-c", script]);
    running.wait_stdout("up");
    running.signal(libc::SIGTERM);
    quit.request();
    running.wait_stderr("waiting for `web` to exit");
    world.set_state("web", "terminated: {exitCode: 0}");
    running.finish().expect(3, &["quitquitquit: 200", "every sidecar has exited"]);
}

#[test]
fn a_deletion_with_a_grace_period_of_its_own_costs_no_exit_code() {
    let quit = hanging();
    let world = pod(30, "");
    let running = world.proa().flags(["-p", &quit.url()]).start(SLOW);
    running.wait_stdout("up");
    world.cluster.mark_deleted("default", "pod", Duration::from_secs(4));
    let took = stopped(running, 7);
    assert!(took < Duration::from_secs(4), "the kubelet would have killed it: {took:?}");
}

#[test]
fn a_hook_that_uses_up_the_grace_period_costs_no_exit_code() {
    let quit = hanging();
    let world = pod(30, ", lifecycle: {preStop: {sleep: {seconds: 26}}}");
    let running = world.proa().flags(["-p", &quit.url()]).start(SLOW);
    running.wait_stdout("up");
    // The deletion was asked for 26 s ago, which is when the kubelet began to count.
    world.cluster.mark_deleted("default", "pod", Duration::from_secs(4));
    world.update(|pod| pod.metadata.deletion_grace_period_seconds = Some(30));
    let took = stopped(running, 7);
    assert!(took < Duration::from_secs(5), "the kubelet would have killed it: {took:?}");
}

#[test]
fn a_probes_own_grace_period_costs_no_exit_code() {
    let quit = hanging();
    let world = pod(30, ", livenessProbe: {terminationGracePeriodSeconds: 4, exec: {command: ['true']}}");
    let running = world.proa().flags(["-p", &quit.url()]).start(SLOW);
    running.wait_stdout("up");
    let took = stopped(running, 7);
    assert!(took < Duration::from_secs(4), "the kubelet would have killed it: {took:?}");
}

/// proa as PID 1 of its own namespace, stopped from outside by a signal that the Pod does not show. Returns what came of it.
fn stopped_by_the_image(world: &World, meanwhile: impl FnOnce(&World)) -> Option<(Duration, String)> {
    let wrapper = unshare(&["--pid", "--fork", "--mount-proc"])?;
    let quit = hanging();
    let script = "trap 'exit 0' USR2; echo up; while :; do sleep 0.01; done";
    let running = world.proa().through(wrapper).flags(["-p", &quit.url()]).start(["sh", "-c", script]);
    running.wait_stdout("up");
    meanwhile(world);
    // unshare waits for proa, which is its only child.
    let proa = crate::support::children(running.pid())[0];
    let asked = Instant::now();
    crate::support::send(proa, libc::SIGUSR2);
    let finished = running.finish().expect(0, &["command ended: exit code 0"]);
    Some((asked.elapsed(), finished.stderr))
}

#[test]
fn a_stop_signal_that_the_pod_does_not_show_is_one_all_the_same() {
    for reachable in [true, false] {
        let world = pod(30, "");
        let mut down = None;
        let came = stopped_by_the_image(&world, |world| {
            world.cluster.mark_deleted("default", "pod", Duration::from_secs(4));
            if !reachable {
                down = Some(world.cluster.refuse());
            }
        });
        let Some((took, stderr)) = came else { return };
        assert!(took < Duration::from_secs(4), "{reachable}: {took:?}\n{stderr}");
    }
}

#[test]
fn nobody_lingers_for_a_pod_that_is_being_deleted() {
    let world = pod(30, "");
    let running = world.proa().flag("--shutdown-timeout=1h").start(SLOW);
    running.wait_stdout("up");
    world.cluster.mark_deleted("default", "pod", Duration::from_secs(30));
    let took = stopped(running, 7);
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[test]
fn a_stop_signal_while_the_sidecars_end_leaves_the_requests_what_time_there_may_be() {
    let quit = hanging();
    let world = pod(30, "");
    let running =
        world.proa().flags(["-p", &quit.url(), "--shutdown-timeout=1h"]).start(["sh", "-c", "exit 7"]);
    quit.request();
    let took = stopped(running, 7);
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[test]
fn no_duration_is_too_long() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    world.make_ready("web");
    world.update(|pod| pod.spec.as_mut().unwrap().termination_grace_period_seconds = Some(i64::MAX));
    let quit = Endpoint::ok();
    let held = Held::in_dir(&world.dir, "exit 3");
    let flags = [
        format!("--ready-timeout={HUGE}"),
        format!("--shutdown-timeout={HUGE}"),
        format!("--shutdown-http-post={}", quit.url()),
    ];
    let running = world.proa().flags(flags).start(&held.command);
    running.wait_stdout("up");
    // A request to stop, which the command has no use for, has a deadline of its own.
    running.signal(libc::SIGWINCH);
    held.let_go();
    quit.request();
    running.wait_stderr("waiting for `web` to exit");
    world.set_state("web", "terminated: {exitCode: 0}");
    let finished = running.finish().expect(3, &["every sidecar has exited"]);
    assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
}

#[test]
fn no_duration_of_a_sidecar_is_too_long() {
    for flags in [
        [format!("--stop-timeout={HUGE}"), format!("--hold-term={HUGE}")],
        ["--stop-timeout=0".to_owned(), "--hold-term=0".to_owned()],
    ] {
        let world = World::with("Never", &[Beside::Regular("web")]);
        world.update(|pod| pod.spec.as_mut().unwrap().termination_grace_period_seconds = Some(i64::MAX));
        let script = "trap 'echo clean; exit 0' TERM; echo up; while :; do sleep 0.01; done";
        let running = world.proa().sidecar("web").flags(flags).start(["sh", "-c", script]);
        running.wait_stdout("up");
        running.wait_stderr("running until the exit of `main`");
        world.set_state("main", "terminated: {exitCode: 0}");
        let finished = running.finish().expect(0, &["stopped as asked"]);
        assert!(finished.stdout.contains("clean"), "{}", finished.stderr);
        assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
    }
}

#[test]
fn a_wrapped_sidecars_command_has_its_time_under_a_grace_period_of_0() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    world.update(|pod| pod.spec.as_mut().unwrap().termination_grace_period_seconds = Some(0));
    let script = "trap 'sleep 1; echo clean; exit 0' TERM; echo up; while :; do sleep 0.01; done";
    let running = world.proa().sidecar("web").start(["sh", "-c", script]);
    running.wait_stdout("up");
    running.wait_stderr("running until the exit of `main`");
    world.set_state("main", "terminated: {exitCode: 0}");
    let finished = running.finish().expect(0, &["stopped as asked"]);
    assert!(finished.stdout.contains("clean"), "{}", finished.stderr);
    assert!(!finished.stderr.contains("SIGKILL"), "{}", finished.stderr);
}
