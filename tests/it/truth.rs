//! What is true of the Pod is what is true now: proa looks again before it acts on it, and believes nothing of an earlier round.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerStateRunning, ContainerStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use localpod::cluster::Access;
use nix::libc;

use crate::support::http::Endpoint;
use crate::support::{Beside, Held, PATIENCE, World, puppet, unshare, write_executable};

const ENDED: &str = "terminated: {exitCode: 0, reason: Completed}";

/// A Pod of Envoy, whose place its probe tells, and `main`.
fn beside_envoy(policy: &str, envoy: &Endpoint) -> World {
    World::of(&format!(
        "
metadata: {{name: pod, namespace: default}}
spec:
  restartPolicy: {policy}
  containers:
  - {{name: envoy, image: envoyproxy/envoy, readinessProbe: {{httpGet: {{path: /ready, port: {}}}}}}}
  - {{name: main, image: m}}
status:
  phase: Running
  containerStatuses:
  - {{name: envoy, image: e, imageID: e, ready: true, restartCount: 0, state: {{running: {{}}}}}}
  - {{name: main, image: m, imageID: m, ready: false, restartCount: 0, state: {{running: {{}}}}}}
",
        envoy.port()
    ))
}

/// proa's command runs without the API server, which can be reached again only after that.
fn out_of_reach_at_the_start(policy: &str, envoy: &Endpoint, code: u8) -> crate::support::Running {
    let world = beside_envoy(policy, envoy);
    let ready = Endpoint::ok();
    let held = Held::in_dir(&world.dir, &format!("exit {code}"));
    let down = world.cluster.refuse();
    let running = world.proa().flag(format!("--wait-tcp=127.0.0.1:{}", ready.port())).start(&held.command);
    running.wait_stdout("up");
    running.wait_stderr("going on without the API server");
    down.clear();
    held.let_go();
    if code == 0 {
        assert!(envoy.request().starts_with("POST /quitquitquit"));
        world.set_state("envoy", ENDED);
    }
    running.wait_stderr("exit with code ");
    running
}

#[test]
fn an_api_server_that_was_out_of_reach_at_the_start_is_asked_at_the_end() {
    let envoy = Endpoint::ok();
    out_of_reach_at_the_start("OnFailure", &envoy, 0).finish().expect(0, &["every sidecar has exited"]);
}

#[test]
fn a_retry_keeps_its_sidecars_though_the_pod_was_not_seen_at_the_start() {
    let envoy = Endpoint::ok();
    let finished = out_of_reach_at_the_start("OnFailure", &envoy, 1).finish();
    finished.expect(1, &["sidecars are left running"]);
    assert_eq!(envoy.more_requests(), 0);
}

#[test]
fn rights_that_come_while_the_command_runs_are_used_at_its_end() {
    let envoy = Endpoint::ok();
    let world = beside_envoy("Never", &envoy);
    world.cluster.authorize(Access::to(&[]));
    let ready = Endpoint::ok();
    let held = Held::in_dir(&world.dir, "exit 3");
    let running = world.proa().flag(format!("--wait-tcp=127.0.0.1:{}", ready.port())).start(&held.command);
    running.wait_stdout("up");
    world.cluster.authorize(Access::to(&["watch"]));
    held.let_go();
    assert!(envoy.request().starts_with("POST /quitquitquit"));
    world.set_state("envoy", ENDED);
    running.finish().expect(3, &["every sidecar has exited"]);
}

#[test]
fn a_deletion_since_the_gate_is_seen_at_the_end() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    world.make_ready("web");
    let held = Held::in_dir(&world.dir, "exit 3");
    let running = world.proa().flag("--shutdown-timeout=1h").start(&held.command);
    running.wait_stdout("up");
    world.cluster.mark_deleted("default", "pod", Duration::from_secs(30));
    held.let_go();
    running.finish().expect(3, &["the Pod is being deleted or ended"]);
}

#[test]
fn a_look_that_fails_leaves_what_the_gate_saw() {
    let envoy = Endpoint::ok();
    let world = beside_envoy("OnFailure", &envoy);
    let held = Held::in_dir(&world.dir, "exit 1");
    let running = world.proa().start(&held.command);
    running.wait_stdout("up");
    let _down = world.cluster.refuse();
    held.let_go();
    running.finish().expect(1, &["sidecars are left running"]);
    let world = beside_envoy("Never", &envoy);
    let held = Held::in_dir(&world.dir, "exit 1");
    let running = world.proa().start(&held.command);
    running.wait_stdout("up");
    let _down = world.cluster.refuse();
    held.let_go();
    assert!(envoy.request().starts_with("POST /quitquitquit"));
    running.finish().expect(1, &["cannot look at the Pod again"]);
}

#[test]
fn a_missing_right_to_search_is_not_taken_for_one_to_watch() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    world.make_ready("web");
    world.cluster.authorize(Access::to(&["watch"]));
    let pod = world.cluster.pod("default", "pod").unwrap();
    let ready = Endpoint::ok();
    let Some(proa) = world.mounted("main", "pod") else { return };
    // What an API server's cache shows that lags behind the Pod.
    world.cluster.remove("default", "pod");
    let flag = format!("--wait-tcp=127.0.0.1:{}", ready.port());
    let running = proa.flags([flag.as_str(), "--shutdown-when=never"]).start(["echo", "up"]);
    for _ in 0..2 {
        let listed = world.cluster.wait_for_request(PATIENCE, {
            let mut seen = 0;
            move |request| {
                seen += usize::from(request.verb == "list" && request.status == 403);
                seen > 1
            }
        });
        assert!(listed.is_some(), "never searched: {:?}", world.cluster.requests());
    }
    world.cluster.apply(pod);
    let finished = running.finish().expect(0, &["this is container `main` of Pod `pod`", "gate open"]);
    assert!(!finished.stderr.contains("going on without"), "{}", finished.stderr);
}

fn running_since(status: &mut ContainerStatus, since: &str) {
    let state = status.state.get_or_insert_default();
    state.running = Some(ContainerStateRunning { started_at: Some(Time(since.parse().expect("a time"))) });
    state.terminated = None;
}

/// When the container of this test started, for what asks the system: in the future, so that it is not before proa did.
const LATER: &str = "2099-01-01T00:00:00Z";
/// In an earlier round.
const BEFORE: &str = "2020-01-01T00:00:00Z";
const WAITS: &str = "waiting for the Pod's status to show this run of container `main`";

#[test]
fn a_round_that_is_over_refuses_no_command() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    world.set_state("web", "terminated: {exitCode: 1, reason: Error}");
    world.set_state("main", "terminated: {exitCode: 42, reason: Error}");
    let running = world.proa().flag("--shutdown-when=never").start(["echo", "up"]);
    running.wait_stderr(WAITS);
    world.set_state("web", "running: {}");
    world.set_state("main", "running: {}");
    running.wait_stderr("waiting for web");
    world.make_ready("web");
    running.finish().expect(0, &["gate open"]);
}

#[test]
fn a_round_that_is_over_opens_no_gate() {
    // Only processes of a namespace of their own tell when their container started.
    let Some(wrapper) = unshare(&["--pid", "--fork", "--mount-proc"]) else { return };
    let world = World::with("Never", &[Beside::Regular("web")]);
    world.make_ready("web");
    world.update_status("main", |status| running_since(status, BEFORE));
    let running = world.proa().through(wrapper).flag("--shutdown-when=never").start(["echo", "up"]);
    running.wait_stderr(WAITS);
    world.update_status("web", |status| status.ready = false);
    world.update_status("main", |status| running_since(status, LATER));
    running.wait_stderr("waiting for web");
    assert_eq!(running.stdout_so_far(), "", "by the readiness of an earlier round");
    world.make_ready("web");
    running.finish().expect(0, &["gate open"]);
}

#[test]
fn clocks_that_differ_keep_the_gate_shut_for_a_while_alone() {
    let Some(wrapper) = unshare(&["--pid", "--fork", "--mount-proc"]) else { return };
    let world = World::with("Never", &[Beside::Regular("web")]);
    world.make_ready("web");
    world.update_status("main", |status| running_since(status, BEFORE));
    let running = world.proa().through(wrapper).flag("--shutdown-when=never").start(["echo", "up"]);
    running.finish().expect(0, &[WAITS, "clocks", "gate open"]);
}

/// Says what it is asked, and goes on when it is asked whether it is there.
const ALIVE: [&str; 3] = [
    "sh",
    "-c",
    "trap 'echo stopped; exit 0' TERM; trap 'echo still there' USR1; echo up; while :; do sleep 0.01; done",
];

#[test]
fn a_round_that_is_over_stops_no_wrapped_sidecar() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    world.set_state("main", ENDED);
    world.set_state("web", "terminated: {exitCode: 0}");
    let running = world.proa().sidecar("web").start(ALIVE);
    running.wait_stdout("up");
    running.wait_stderr("waiting for the Pod's status to show this run of container `web`");
    world.set_state("main", "running: {}");
    world.set_state("web", "running: {}");
    running.signal(libc::SIGUSR1);
    let text = running.wait_stdout("still there");
    assert!(!text.contains("stopped"), "by main's end of an earlier round");
    world.set_state("main", ENDED);
    let finished = running.finish().expect(0, &["the main containers have exited"]);
    assert!(finished.stdout.contains("stopped"));
}

#[test]
fn an_end_that_the_cache_alone_shows_stops_no_wrapped_sidecar() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    let running = world.proa().sidecar("web").start(ALIVE);
    running.wait_stdout("up");
    running.wait_stderr("running until the exit of `main`");
    // The look that confirms it is held up, and main runs again by then.
    world.cluster.inject_times(localpod::cluster::Fault::Delay(Duration::from_secs(1)), 1);
    let asked = world.cluster.requests().len();
    world.set_state("main", ENDED);
    crate::support::eventually("a look is under way", || world.cluster.open_connections() > 1);
    world.set_state("main", "running: {}");
    let looked = world.cluster.wait_for_request(PATIENCE, {
        let mut seen = 0;
        move |_| {
            seen += 1;
            seen > asked
        }
    });
    // As the store has it now: the cache is waited for.
    let looked = looked.expect("a look");
    assert_eq!(looked.parameter("sendInitialEvents"), Some("true"));
    assert!(looked.parameter("resourceVersion").is_none_or(str::is_empty));
    assert!(world.cluster.wait_for_connections(1, PATIENCE), "the look is over");
    assert!(!running.stdout_so_far().contains("stopped"));
    world.set_state("main", ENDED);
    running.finish().expect(0, &["the main containers have exited"]);
}

#[test]
fn a_native_sidecar_does_not_wait_for_the_one_after_it() {
    let world = World::of(
        "
metadata: {name: pod, namespace: default}
spec:
  restartPolicy: Never
  initContainers:
  - {name: first, image: f, restartPolicy: Always}
  - {name: main, image: m, restartPolicy: Always}
  - {name: later, image: l, restartPolicy: Always}
  containers: [{name: app, image: a}]
status:
  phase: Pending
  initContainerStatuses:
  - {name: first, image: f, imageID: f, ready: true, started: true, restartCount: 0, state: {running: {}}}
  - {name: main, image: m, imageID: m, ready: false, started: true, restartCount: 0, state: {running: {}}}
  - {name: later, image: l, imageID: '', ready: false, restartCount: 0, state: {waiting: {reason: PodInitializing}}}
",
    );
    world.proa().run(["sh", "-c", "exit 3"]).expect(3, &["gate open"]);
}

#[test]
fn a_socket_whose_name_is_no_text_hides_no_wrapped_sidecar() {
    let odd = b"\xff\n0000: 00000002 00000000 00010000 0001 01 1 @proa/\xfe";
    let address = SocketAddr::from_abstract_name(odd).expect("a name");
    let _odd = UnixListener::bind_addr(&address).expect("nobody else has this name");
    let world = World::with("Never", &[Beside::Regular("web")]);
    let Some(main) = world.mounted("main", "pod") else { return };
    let Some(sidecar) = world.mounted("web", "pod") else { return };
    let sidecar = sidecar.flags(["sidecar", "--api=off"]).start([
        "sh",
        "-c",
        "trap 'exit 143' TERM; echo up; while :; do sleep 0.01; done",
    ]);
    sidecar.wait_stdout("up");
    main.flag("--api=off").run(["true"]).expect(0, &["stop request to `web`: accepted"]);
    sidecar.finish().expect(0, &[]);
}

#[test]
fn a_mount_point_that_is_no_text_hides_no_identity() {
    let Some(wrapper) = unshare(&[]) else { return };
    let world = World::with("Never", &[Beside::Regular("web")]);
    world.make_ready("web");
    let pods = world.dir.join(&format!("pods/{}/containers/main", world.uid()));
    std::fs::create_dir_all(&pods).unwrap();
    std::fs::write(pods.join("5f0c6d11"), "").unwrap();
    let odd = world.dir.join("mounts").join(std::ffi::OsStr::from_bytes(b"odd-\xff"));
    std::fs::create_dir_all(&odd).unwrap();
    let message = world.dir.join("message");
    std::fs::write(&message, "").unwrap();
    let script = "mount -t tmpfs none \"$1\" && mount --bind \"$2\" \"$3\" && shift 3 && exec \"$@\"";
    let mut words: Vec<std::ffi::OsString> = wrapper.into_iter().map(Into::into).collect();
    words.extend(["sh", "-c", script, "sh"].map(Into::into));
    words.extend([odd.into(), pods.join("5f0c6d11").into(), message.into()]);
    let proa = world.proa().through(words).without("PROA_CONTAINER");
    proa.flag("--shutdown-when=never").run(["true"]).expect(0, &["this is container `main`"]);
}

#[test]
fn a_process_whose_name_is_no_text_does_not_escape_a_kill() {
    let Some(wrapper) = unshare(&["--pid", "--fork", "--mount-proc"]) else { return };
    let world = World::with("Never", &[Beside::Regular("web")]);
    world.make_ready("web");
    world.update(|pod| pod.spec.get_or_insert_default().share_process_namespace = Some(true));
    // The kernel calls a process what its file was called when it started; `argv[0]` is what it was given.
    let file = world.dir.join("x").with_file_name(std::ffi::OsStr::from_bytes(b"odd-\xff-name"));
    write_executable(&file, &std::fs::read(puppet()).expect("the puppet"));
    let log = world.dir.join("sidecar.log");
    let script = "file=$1 log=$2; shift 2; bash -c 'exec -a my-sidecar \"$0\" signals --count 1 --log \"$1\"' \
                  \"$file\" \"$log\" & until grep -q ready \"$log\" 2>/dev/null; do sleep 0.01; done; \"$@\"; code=$?; \
                  wait; exit $code";
    let mut words: Vec<std::ffi::OsString> = wrapper.into_iter().map(Into::into).collect();
    words.extend(["sh", "-c", script, "sh"].map(Into::into));
    words.extend([file.into(), log.clone().into()]);
    let running = world
        .proa()
        .through(words)
        .flags(["--ignore=web", "--kill=my-sidecar", "--shutdown-timeout=20s"])
        .start(["sh", "-c", "exit 3"]);
    let finished = running.finish().expect(3, &["1 signalled"]);
    assert!(std::fs::read_to_string(log).unwrap().contains("got SIGTERM"), "{}", finished.stderr);
}
