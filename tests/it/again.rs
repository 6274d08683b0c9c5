//! What goes wrong for a while at the end is tried again, and nothing takes the time of what comes after it.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ContainerStateRunning, ContainerStatus, Probe};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use nix::libc;

use crate::support::http::{Endpoint, Reply};
use crate::support::{Beside, Held, PATIENCE, Running, World, children, eventually, send, unshare};

const DONE: &str = "terminated: {exitCode: 0, reason: Completed}";

/// A Pod of a mesh at this port, `web` and `main`; all run.
fn beside_mesh(grace: u32, port: u16) -> World {
    World::of(&format!(
        "
metadata: {{name: pod, namespace: default, annotations: {{status.sidecar.istio.io/port: '{port}'}}}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: {grace}
  containers: [{{name: istio-proxy, image: i}}, {{name: web, image: w}}, {{name: main, image: m}}]
status:
  phase: Running
  containerStatuses:
  - {{name: istio-proxy, image: i, imageID: i, ready: true, restartCount: 0, state: {{running: {{}}}}}}
  - {{name: web, image: w, imageID: w, ready: true, restartCount: 0, state: {{running: {{}}}}}}
  - {{name: main, image: m, imageID: m, ready: false, restartCount: 0, state: {{running: {{}}}}}}
"
    ))
}

fn pod(policy: &str) -> World {
    let world = World::with(policy, &[Beside::Regular("web")]);
    world.make_ready("web");
    world
}

fn finish(world: &World, running: Running, code: i32) -> String {
    for name in ["web", "istio-proxy"] {
        world.set_state(name, DONE);
    }
    running.finish().expect(code, &[]).stderr
}

#[test]
fn a_quit_endpoint_that_is_unavailable_for_seconds_is_asked_until_it_accepts() {
    let world = pod("Never");
    let unavailable = vec![Reply::Status(503, None); 8];
    let web = Endpoint::replying([unavailable, vec![Reply::Status(200, None)]].concat());
    let running = world.proa().flags(["-p", &web.url()]).start(["sh", "-c", "exit 3"]);
    for _ in 0..9 {
        web.request();
    }
    running.wait_stderr("quitquitquit: 200");
    world.set_state("web", DONE);
    running.finish().expect(3, &["every sidecar has exited"]);
}

fn run_of_web(world: &World, id: &str) {
    world.update_status("web", |status| {
        status.container_id = Some(format!("containerd://{id}"));
        status.state = serde_saphyr::from_str("{running: {}}").ok();
    });
}

#[test]
fn a_sidecar_that_is_started_again_after_its_end_is_asked_again() {
    let quit = Endpoint::ok();
    let world = beside_mesh(30, quit.port());
    world.update(|pod| pod.spec.as_mut().unwrap().restart_policy = Some("OnFailure".into()));
    // The one that is known by name, so that the request is known to be for it.
    world.update_status("istio-proxy", |status| status.container_id = Some("containerd://a".into()));
    let running = world.proa().start(["true"]);
    running.wait_stderr("waiting for `web` to exit");
    world.set_state("web", DONE);
    quit.request();
    running.wait_stderr("waiting for `istio-proxy` to exit");
    world.set_state("istio-proxy", "terminated: {exitCode: 143}");
    world.update_status("istio-proxy", |status| {
        status.container_id = Some("containerd://b".into());
        status.state = serde_saphyr::from_str("{running: {}}").ok();
    });
    quit.request();
    finish(&world, running, 0);
}

#[test]
fn a_wrapped_sidecar_that_is_being_started_again_is_notified_once_it_listens() {
    let world = pod("OnFailure");
    let Some((main, sidecar)) = crate::sidecar::both(&world) else { return };
    world.set_state("web", "waiting: {reason: CrashLoopBackOff}");
    let main = main.flags(["--on-timeout=run", "--ready-timeout=100ms"]).start(["true"]);
    main.wait_stderr("no proa is there");
    main.wait_stderr("waiting for `web` to exit");
    let script = "trap 'exit 0' TERM; echo up; while :; do sleep 0.01; done";
    let sidecar = sidecar.flag("--api=off").start(["sh", "-c", script]);
    sidecar.wait_stdout("up");
    run_of_web(&world, "b");
    sidecar.finish().expect(0, &["the main container's proa asks this sidecar to stop"]);
    world.set_state("web", DONE);
    main.finish().expect(0, &[]);
}

#[test]
fn an_endpoint_that_hangs_leaves_the_mesh_its_time() {
    let (mesh, web) = (Endpoint::ok(), Endpoint::replying(vec![Reply::Hang]));
    let world = beside_mesh(30, mesh.port());
    let flags = ["--shutdown-timeout=3s", "--shutdown-auto", "-p", &web.url()];
    let running = world.proa().flags(flags).start(["sh", "-c", "exit 3"]);
    web.request();
    mesh.request();
    finish(&world, running, 3);
}

/// The one that hangs has used up all the time that there is: there is a moment left all the same, in which a machine may stand still.
#[test]
fn however_late_it_is_the_mesh_is_asked() {
    let was_asked = || {
        let (mesh, web) = (Endpoint::ok(), Endpoint::replying(vec![Reply::Hang]));
        let world = beside_mesh(30, mesh.port());
        let flags = ["--shutdown-timeout=100ms", "--shutdown-auto", "-p", &web.url()];
        let running = world.proa().flags(flags).start(["sh", "-c", "exit 3"]);
        web.request();
        finish(&world, running, 3);
        mesh.more_requests() == 1
    };
    assert!((0..3).any(|_| was_asked()));
}

#[test]
fn stop_signals_while_a_pod_goes_on_leave_no_mesh_unasked() {
    let (mesh, web) = (Endpoint::ok(), Endpoint::ok());
    let world = beside_mesh(30, mesh.port());
    let running = world.proa().flags(["--shutdown-auto", "-p", &web.url()]).start(["sh", "-c", "exit 3"]);
    running.wait_stderr("waiting for `web` to exit");
    running.signal(libc::SIGTERM);
    running.signal(libc::SIGINT);
    mesh.request();
    running.finish().expect(3, &["no longer waiting for the sidecars signal"]);
}

#[test]
fn a_deletion_whose_grace_period_is_shortened_costs_no_exit_code() {
    let web = Endpoint::replying(vec![Reply::Hang]);
    let world = pod("Never");
    // Longer than the second deletion would have let it live, as far as proa can tell, and that is the subject.
    let script = "trap 'sleep 4; exit 7' TERM; echo up; while :; do sleep 0.01; done";
    let running = world.proa().flags(["-p", &web.url()]).start(["sh", "-c", script]);
    running.wait_stdout("up");
    world.cluster.mark_deleted("default", "pod", Duration::from_secs(30));
    running.signal(libc::SIGTERM);
    world.cluster.mark_deleted("default", "pod", Duration::from_secs(1));
    web.request();
    let asked = Instant::now();
    running.finish().expect(7, &[]);
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
}

#[test]
fn a_request_to_somebody_unknown_holds_no_mesh_up_once_that_one_is_gone() {
    let (mesh, somebody) = (Endpoint::ok(), Endpoint::replying(vec![Reply::Last(200)]));
    let world = beside_mesh(90, mesh.port());
    let flags = ["--shutdown-auto", "-p", &somebody.url()];
    let running = world.proa().flags(flags).start(["sh", "-c", "exit 3"]);
    running.wait_stderr("command ended");
    let ended = Instant::now();
    mesh.request();
    assert!(ended.elapsed() < Duration::from_secs(30), "{:?}", ended.elapsed());
    finish(&world, running, 3);
}

#[test]
fn an_api_server_that_is_away_for_seconds_has_no_mesh_shut_down_early() {
    let (mesh, somebody) = (Endpoint::ok(), Endpoint::ok());
    let world = beside_mesh(60, mesh.port());
    let flags = ["--shutdown-auto", "-p", &somebody.url()];
    let running = world.proa().env("RUST_LOG", "proa=debug").flags(flags).start(["sh", "-c", "exit 3"]);
    running.wait_stderr("waiting for `web` to exit");
    let away = world.cluster.refuse();
    world.cluster.hang_up();
    // Pauses between looks grow up to a second: after so many it has been away for longer than a mesh takes to be gone.
    eventually("it looks again", || {
        running.stderr_so_far().matches("cannot see the sidecars exit").count() > 8
    });
    assert_eq!(mesh.more_requests(), 0);
    drop(away);
    world.set_state("web", DONE);
    mesh.request();
    finish(&world, running, 3);
}

/// In an earlier round, for a container of a PID namespace of its own.
fn started_before(status: &mut ContainerStatus) {
    let since = Time("2020-01-01T00:00:00Z".parse().expect("a time"));
    status.state.get_or_insert_default().running = Some(ContainerStateRunning { started_at: Some(since) });
}

#[test]
fn clocks_that_differ_hide_no_end_of_main() {
    let Some(wrapper) = unshare(&["--pid", "--fork", "--mount-proc"]) else { return };
    let quit = Endpoint::replying(vec![Reply::Last(200)]);
    let world = World::with("Never", &[Beside::Regular("web"), Beside::Regular("helper")]);
    for name in ["web", "helper"] {
        world.update_status(name, started_before);
    }
    world.set_state("main", DONE);
    let script = "trap 'exit 0' TERM; echo up; while :; do sleep 0.01; done";
    let until = "--until-exit=main";
    let web = world.proa().through(&wrapper).sidecar("web").flag(until).start(["sh", "-c", script]);
    let helper = world.proa().through(&wrapper).sidecar("helper");
    let helper = helper.flags([until, "--shutdown-timeout=1s", "-p", &quit.url()]).start_bare();
    web.finish().expect(0, &["the main containers have exited"]);
    quit.request();
    helper.finish().expect(0, &["the main containers have exited"]);
}

#[test]
fn a_failed_probe_keeps_the_sidecars_for_the_restart() {
    for probed in [true, false] {
        let Some(wrapper) = unshare(&["--pid", "--fork", "--mount-proc"]) else { return };
        let web = Endpoint::replying(vec![Reply::Last(200)]);
        let world = pod("OnFailure");
        world.update_container("main", |main| main.liveness_probe = probed.then(Probe::default));
        let script = "trap 'exit 0' TERM; echo up; while :; do sleep 0.01; done";
        let flags = ["--shutdown-timeout=1s", "-p", &web.url()];
        let running = world.proa().through(wrapper).flags(flags).start(["sh", "-c", script]);
        running.wait_stdout("up");
        // The runtime is outside of the container's PID namespace.
        send(children(running.pid())[0], libc::SIGTERM);
        let said =
            if probed { "the restart policy will start this container again" } else { "quitquitquit: 200" };
        running.finish().expect(0, &[said]);
        assert_eq!(web.more_requests(), usize::from(!probed));
    }
}

/// The probe may fail while the Pod is looked at, and the signal says who sent it.
#[test]
fn a_probe_that_fails_after_the_command_keeps_the_sidecars_too() {
    let Some(wrapper) = unshare(&["--pid", "--fork", "--mount-proc"]) else { return };
    let web = Endpoint::ok();
    let world = pod("OnFailure");
    world.update_container("main", |main| main.liveness_probe = Some(Probe::default()));
    let held = Held::in_dir(&world.dir, "");
    let running = world.proa().through(wrapper).flags(["-p", &web.url()]).start(&held.command);
    running.wait_stdout("up");
    // As long as a look may take.
    let _slow = world.cluster.inject(localpod::cluster::Fault::Delay(Duration::from_secs(3)));
    held.let_go();
    running.wait_stderr("command ended");
    send(children(running.pid())[0], libc::SIGTERM);
    running.finish().expect(0, &["the restart policy will start this container again"]);
    assert_eq!(web.more_requests(), 0);
}

#[test]
fn a_signal_from_outside_that_no_kill_follows_is_no_failed_probe() {
    let Some(wrapper) = unshare(&["--pid", "--fork", "--mount-proc"]) else { return };
    let web = Endpoint::replying(vec![Reply::Last(200)]);
    let world = pod("OnFailure");
    world.update(|pod| {
        let spec = pod.spec.as_mut().unwrap();
        spec.termination_grace_period_seconds = Some(0);
        spec.containers.iter_mut().find(|found| found.name == "main").unwrap().liveness_probe =
            Some(Probe::default());
    });
    // Longer than the kubelet would have let it live, and that is the subject.
    let script = "trap 'sleep 5; exit 0' HUP; echo up; while :; do sleep 0.01; done";
    let flags = ["--shutdown-timeout=1s", "-p", &web.url()];
    let running = world.proa().through(wrapper).flags(flags).start(["sh", "-c", script]);
    running.wait_stdout("up");
    send(children(running.pid())[0], libc::SIGHUP);
    web.request();
    running.finish().expect(0, &["quitquitquit: 200"]);
}

#[test]
fn a_stop_timeout_longer_than_the_grace_period_does_not_void_the_hold() {
    let world = pod("Never");
    let Some((main, sidecar)) = crate::sidecar::both(&world) else { return };
    let held = Held::in_dir(&world.dir, "");
    let main = main.flag("--shutdown-when=never").start(&held.command);
    main.wait_stdout("up");
    let script = "trap 'echo stopped; exit 0' TERM; echo up; while :; do sleep 0.01; done";
    let flags = ["--hold-term", "--stop-timeout=60s"];
    let sidecar = sidecar.flags(flags).start(["sh", "-c", script]);
    sidecar.wait_stderr("running until the exit of `main`");
    sidecar.wait_stdout("up");
    world.cluster.mark_deleted("default", "pod", Duration::from_secs(30));
    sidecar.signal(libc::SIGTERM);
    sidecar.wait_stderr("held back until the proa of `main` is gone");
    assert!(world.cluster.wait_for_connections(1, PATIENCE));
    assert!(!sidecar.stdout_so_far().contains("stopped"), "while main runs");
    held.let_go();
    main.finish();
    sidecar.finish().expect(0, &["the main container's proa is gone"]);
}

#[test]
fn a_sidecar_without_a_stop_timeout_is_done_before_the_kubelet_kills_it() {
    let world = pod("Never");
    world.update(|pod| pod.spec.as_mut().unwrap().termination_grace_period_seconds = Some(4));
    let script = "trap '' TERM; echo up; while :; do sleep 0.01; done";
    let running = world.proa().sidecar("web").flag("--stop-timeout=0").start(["sh", "-c", script]);
    running.wait_stdout("up");
    running.wait_stderr("running until the exit of `main`");
    world.set_state("main", DONE);
    running.wait_stderr("stopping the command with SIGTERM");
    let asked = Instant::now();
    running.signal(libc::SIGTERM);
    running.finish().expect(0, &["sending SIGKILL"]);
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
}

#[test]
fn a_refusal_shuts_down_a_sidecar_too_that_has_yet_to_start() {
    let mesh = Endpoint::replying(vec![Reply::Last(200)]);
    let world = beside_mesh(30, mesh.port());
    world.set_state("web", "terminated: {exitCode: 1, reason: Error}");
    world.set_state("istio-proxy", "waiting: {reason: ContainerCreating}");
    let running = world.proa().start(["true"]);
    running.wait_stderr("waiting for the start of `istio-proxy`, to shut down the sidecars");
    world.set_state("istio-proxy", "running: {}");
    mesh.request();
    finish(&world, running, 69);
}

#[test]
fn a_stop_before_the_command_has_a_sidecar_that_is_just_starting_asked_until_it_takes_it() {
    let unavailable = vec![Reply::Status(503, None); 8];
    let mesh = Endpoint::replying([unavailable, vec![Reply::Status(200, None)]].concat());
    let world = beside_mesh(30, mesh.port());
    world.update_status("istio-proxy", |status| status.ready = false);
    let running = world.proa().start(["true"]);
    running.wait_stderr("waiting for istio-proxy");
    running.signal(libc::SIGTERM);
    for _ in 0..9 {
        mesh.request();
    }
    running.finish().expect(143, &["quitquitquit: 200"]);
}

#[test]
fn an_api_server_that_is_slow_at_the_end_is_waited_for_where_nobody_would_be_shut_down_otherwise() {
    let mesh = Endpoint::replying(vec![Reply::Last(200)]);
    let world = beside_mesh(30, mesh.port());
    let away = world.cluster.refuse();
    let held = Held::in_dir(&world.dir, "exit 3");
    let waits = world.dir.join("there");
    std::fs::write(&waits, "").unwrap();
    let running = world.proa().flag(format!("--wait-file={}", waits.display())).start(&held.command);
    running.wait_stderr("going on without the API server");
    running.wait_stdout("up");
    // Longer than a look usually takes where the Pod was never seen, and that is the subject.
    let _slow = world.cluster.inject(localpod::cluster::Fault::Delay(Duration::from_millis(2500)));
    away.clear();
    held.let_go();
    mesh.request();
    finish(&world, running, 3);
}

#[test]
fn a_denial_when_the_command_ends_blinds_nobody_for_good() {
    let world = beside_mesh(30, 1);
    let web = Endpoint::ok();
    let held = Held::in_dir(&world.dir, "exit 3");
    let flags = ["--main=istio-proxy", "--shutdown-timeout=1s", "-p", &web.url()];
    let running = world.proa().flags(flags).start(&held.command);
    running.wait_stdout("up");
    world.cluster.authorize(localpod::cluster::Access::to(&[]));
    held.let_go();
    running.wait_stderr("cannot look at the Pod again");
    world.cluster.authorize(localpod::cluster::Access::to(&["watch"]));
    assert!(world.cluster.wait_for_watches(1, PATIENCE), "nobody looks any more");
    assert_eq!(web.more_requests(), 0, "under a running main container");
    world.set_state("istio-proxy", DONE);
    web.request();
    running.finish().expect(3, &[]);
}

#[test]
fn a_failed_probe_keeps_the_sidecars_though_the_api_server_is_slow() {
    let Some(wrapper) = unshare(&["--pid", "--fork", "--mount-proc"]) else { return };
    let web = Endpoint::ok();
    let world = pod("OnFailure");
    world.update_container("main", |main| main.liveness_probe = Some(Probe::default()));
    let script = "trap 'exit 0' TERM; echo up; while :; do sleep 0.01; done";
    let running = world.proa().through(wrapper).flags(["-p", &web.url()]).start(["sh", "-c", script]);
    running.wait_stdout("up");
    let _slow = world.cluster.inject(localpod::cluster::Fault::Delay(Duration::from_secs(3)));
    send(children(running.pid())[0], libc::SIGTERM);
    running.finish().expect(0, &["the restart policy will start this container again"]);
    assert_eq!(web.more_requests(), 0);
}

#[test]
fn watches_that_end_before_they_show_anything_do_not_mean_that_there_is_no_pod() {
    let world = World::alone();
    let pod = world.cluster.pod("default", "pod").expect("a Pod");
    world.cluster.remove("default", "pod");
    let running = world.proa().flag("--shutdown-when=never").start(["true"]);
    let begun = Instant::now();
    // Longer than the API server may say that there is no Pod, and that is the subject.
    while begun.elapsed() < Duration::from_secs(12) {
        assert!(world.cluster.wait_for_watches(1, PATIENCE), "it looks again");
        world.cluster.end_watches(&localpod::cluster::WatchEnd::Close);
    }
    world.cluster.apply(pod);
    running.finish().expect(0, &["gate open"]);
}

#[test]
fn main_containers_that_a_flag_names_need_the_api_server() {
    World::alone()
        .proa()
        .flags(["--api=off", "--main=job"])
        .run(["true"])
        .expect(2, &["--main needs the API server"]);
}

#[test]
fn a_helper_that_has_seen_the_pod_outlives_a_denial() {
    let web = Endpoint::replying(vec![Reply::Last(200)]);
    let world = World::with("Never", &[Beside::Regular("web"), Beside::Regular("helper")]);
    let helper = world.proa().sidecar("helper").flags(["--wait-for=web", "--until-exit=main"]);
    let helper = helper.flags(["--shutdown-timeout=1s", "-p", &web.url()]).start_bare();
    helper.wait_stderr("waiting for web");
    let denied = world.cluster.inject(localpod::cluster::Fault::Status(401));
    world.make_ready("web");
    helper.wait_stderr("gate open");
    // Longer than a denial may last where the Pod was never seen, and that is the subject.
    let asked = world.cluster.requests().len();
    let begun = Instant::now();
    eventually("it goes on asking", || {
        begun.elapsed() > Duration::from_secs(12) && world.cluster.requests().len() > asked + 8
    });
    denied.clear();
    world.set_state("main", DONE);
    web.request();
    helper.finish().expect(0, &["the main containers have exited"]);
}

#[test]
fn a_pod_name_of_63_characters_needs_no_right_to_search() {
    let world = World::alone();
    let mut pod = world.cluster.pod("default", "pod").expect("a Pod");
    let name = "n".repeat(63);
    let Some(proa) = world.mounted("main", &name) else { return };
    pod.metadata.name = Some(name.clone());
    world.cluster.apply(pod);
    world.cluster.remove("default", "pod");
    world.cluster.authorize(localpod::cluster::Access::to(&["watch"]));
    let said = format!("this is container `main` of Pod `{name}`");
    proa.flag("--shutdown-when=never").run(["true"]).expect(0, &[&said]);
}

#[test]
fn watches_that_end_with_an_error_are_trouble_that_is_named() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    let running = world.proa().flag("--shutdown-when=never").start(["true"]);
    running.wait_stderr("waiting for web");
    let end = localpod::cluster::WatchEnd::Error { code: 500, message: "no progress".into() };
    world.cluster.end_watches(&end);
    running.wait_stderr("no progress");
    world.make_ready("web");
    running.finish().expect(0, &["gate open"]);
}

/// A Pod with `web`, which is ready, and `main` and `second`, each with this field.
fn two_mains(policy: &str, field: &str) -> World {
    World::of(&format!(
        "
metadata: {{name: pod, namespace: default}}
spec:
  restartPolicy: {policy}
  terminationGracePeriodSeconds: 30
  containers:
  - {{name: web, image: w}}
  - {{name: main, image: m, {field}}}
  - {{name: second, image: s, {field}}}
status:
  phase: Running
  containerStatuses:
  - {{name: web, image: w, imageID: w, ready: true, started: true, restartCount: 0, state: {{running: {{}}}}}}
  - {{name: main, image: m, imageID: m, ready: false, restartCount: 0, state: {{running: {{}}}}}}
  - {{name: second, image: s, imageID: s, ready: false, restartCount: 0, state: {{running: {{}}}}}}
"
    ))
}

#[test]
fn a_main_container_that_will_be_retried_has_not_ended_whatever_keeps_the_sidecars() {
    let world = two_mains("OnFailure", "command: [/proa, --, work]");
    let (Some(main), Some(second)) = (world.mounted("main", "pod"), world.mounted("second", "pod")) else {
        return;
    };
    let web = Endpoint::ok();
    let held = Held::in_dir(&world.dir, "");
    let flags = ["--shutdown-when=success", "--shutdown-timeout=1s", "-p", &web.url()];
    let main = main.flags(flags).start(&held.command);
    main.wait_stdout("up");
    second.flags(flags).run(["sh", "-c", "exit 3"]).expect(3, &["the restart policy will start"]);
    world.set_state("second", "waiting: {reason: CrashLoopBackOff}");
    world.update_status("second", |status| {
        status.last_state = serde_saphyr::from_str("{terminated: {exitCode: 3}}").ok();
    });
    held.let_go();
    main.finish().expect(0, &["left running for `second`"]);
    assert_eq!(web.more_requests(), 0, "second needs it");
}

#[test]
fn the_sidecars_are_not_left_to_a_main_container_without_proa() {
    let world = two_mains("Never", "args: [work]");
    let web = Endpoint::ok();
    // No mounts, and the gate is refused.
    let flags = ["--main=second", "--wait-file=/never", "--ready-timeout=300ms", "-p", &web.url()];
    let running = world.proa().flags(flags).start(["true"]);
    running.wait_stderr("waiting for `second` (running) before the sidecars are shut down");
    world.set_state("second", DONE);
    web.request();
    world.set_state("web", DONE);
    running.finish().expect(75, &["every sidecar has exited"]);
}

#[test]
fn a_main_container_that_shows_itself_late_keeps_its_wrapped_sidecar() {
    let world = two_mains("Never", "args: [work]");
    let words = serde_saphyr::from_str("[/proa, --, work]").unwrap();
    world.update_container("main", |main| main.command = Some(words));
    let (Some(web), Some(second)) = (world.mounted("web", "pod"), world.mounted("second", "pod")) else {
        return;
    };
    let web =
        web.sidecar("web").start(["sh", "-c", "trap 'exit 0' TERM; echo up; while :; do sleep 0.01; done"]);
    web.wait_stderr("running until the exit of `main`");
    let held = Held::in_dir(&world.dir, "");
    let second = second.flag("--api=off").start(&held.command);
    second.wait_stdout("up");
    let asked = world.cluster.requests().len();
    world.set_state("main", DONE);
    crate::support::eventually("a look", || world.cluster.requests().len() > asked);
    assert!(world.cluster.wait_for_connections(1, PATIENCE), "the look is over");
    assert!(!web.stderr_so_far().contains("stopping the command"), "second runs");
    held.let_go();
    second.finish().expect(0, &[]);
    world.set_state("second", DONE);
    web.finish().expect(0, &["stopping the command"]);
}

#[test]
fn a_wrapped_sidecar_that_starts_again_after_everybody_has_exited_exits_too() {
    let world = two_mains("OnFailure", "args: [work]");
    world.set_state("main", DONE);
    world.set_state("second", DONE);
    let Some(web) = world.mounted("web", "pod") else { return };
    let script = "trap 'exit 0' TERM; echo up; while :; do sleep 0.01; done";
    web.sidecar("web").start(["sh", "-c", script]).finish().expect(0, &["the main containers have exited"]);
}

#[test]
fn a_mistake_without_the_api_server_notifies_a_wrapped_sidecar() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    let Some((main, sidecar)) = crate::sidecar::both(&world) else { return };
    let script = "trap 'exit 0' TERM; echo up; while :; do sleep 0.01; done";
    let sidecar = sidecar.flag("--api=off").start(["sh", "-c", script]);
    sidecar.wait_stdout("up");
    let _away = world.cluster.refuse();
    let main = main.flags(["--ready-timeout=0", "--nonsense"]).start(["true"]);
    sidecar.finish().expect(0, &["asks this sidecar to stop"]);
    main.finish().expect(2, &["stop request to `web`: accepted"]);
}
