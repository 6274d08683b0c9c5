//! `proa wait`: the gate alone, for init containers, probes and scripts. And `--wait-exit`, there and before a command.

use std::fs;

use localpod::cluster::Access;
use nix::libc;

use crate::support::http::{Endpoint, Reply};
use crate::support::{Beside, Proa, Running, World};

/// An init container `proa` behind the native sidecar `db` and before the native sidecar `later` and the container `main`.
fn init() -> World {
    World::of(
        "
metadata: {name: pod, namespace: default}
spec:
  restartPolicy: Never
  initContainers:
  - {name: db, image: d, restartPolicy: Always}
  - {name: proa, image: p}
  - {name: later, image: l, restartPolicy: Always}
  containers:
  - {name: main, image: m}
status:
  phase: Pending
  initContainerStatuses:
  - {name: db, image: d, imageID: d, ready: false, restartCount: 0, state: {running: {}}}
  - {name: proa, image: p, imageID: p, ready: false, restartCount: 0, state: {running: {}}}
  - {name: later, image: l, imageID: l, ready: false, restartCount: 0, state: {waiting: {reason: PodInitializing}}}
  containerStatuses:
  - {name: main, image: m, imageID: m, ready: false, restartCount: 0, state: {waiting: {reason: PodInitializing}}}
",
    )
}

fn wait_in(world: &World, container: &str) -> Proa {
    world.proa().env("PROA_CONTAINER", container).flag("wait")
}

fn started(world: &World) -> Running {
    wait_in(world, "proa").start_bare()
}

#[test]
fn as_an_init_container_it_waits_for_the_native_sidecars_before_it_alone() {
    let world = init();
    let running = started(&world);
    running.wait_stderr("waiting for db (running, not ready)");
    world.make_ready("db");
    let finished = running.finish().expect(0, &["gate open", "ready; exit with code 0"]);
    assert!(!finished.stderr.contains("later") && !finished.stderr.contains("`main`"), "{}", finished.stderr);
    assert_eq!((finished.stdout.as_str(), world.termination_message().as_str()), ("", ""));
    let requests = world.cluster.requests();
    assert!(
        requests.iter().all(|request| request.parameter("watch") == Some("true")),
        "watch alone: {requests:?}"
    );
}

#[test]
fn it_asks_well_known_sidecars_themselves_without_a_role() {
    let ready = Endpoint::replying(vec![Reply::Status(503, None), Reply::Status(200, None)]);
    let world = init();
    world.cluster.authorize(Access::to(&[]));
    let flags = ["--api=off".to_owned(), format!("--wait-http-get={}", ready.url())];
    wait_in(&world, "proa").flags(flags).start_bare().finish().expect(0, &["gate open"]);
    assert_eq!(world.cluster.requests().len(), 0);
}

#[test]
fn it_refuses_with_the_gates_exit_codes() {
    let world = init();
    wait_in(&world, "proa")
        .flag("--ready-timeout=2s")
        .start_bare()
        .finish()
        .expect(75, &["db (running, not ready)"]);
    assert!(world.termination_message().contains("not ready within 2s"));
    wait_in(&world, "proa")
        .flags(["--ready-timeout=2s", "--on-timeout=run"])
        .start_bare()
        .finish()
        .expect(0, &[]);
    wait_in(&world, "proa")
        .flag("--wait-for=main")
        .start_bare()
        .finish()
        .expect(2, &["which is no container beside"]);
    world.cluster.authorize(Access::to(&[]));
    let forbidden = wait_in(&world, "proa").start_bare().finish();
    forbidden.expect(77, &["verbs: [\"watch\"]"]);
}

#[test]
fn a_stop_signal_ends_it() {
    let world = init();
    let running = started(&world);
    running.wait_stderr("waiting for db");
    running.signal(libc::SIGTERM);
    running.finish().expect(143, &["SIGTERM before the command started"]);
    world.cluster.remove("default", "pod");
    wait_in(&world, "proa").flag("--ready-timeout=1m").start_bare().finish().expect(2, &["there is no Pod"]);
}

#[test]
fn it_writes_a_ready_file_once_the_wait_is_over() {
    let world = init();
    let file = world.dir.join("ready");
    fs::write(&file, "of an earlier run").unwrap();
    let running = wait_in(&world, "proa").flag(format!("--ready-file={}", file.display())).start_bare();
    running.wait_stderr("waiting for db");
    assert!(!file.exists(), "one of an earlier run would let others start too early");
    world.make_ready("db");
    running.finish().expect(0, &["wrote "]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "");
    let nowhere = world.dir.join("nowhere/ready");
    let running = wait_in(&world, "proa").flag(format!("--ready-file={}", nowhere.display())).start_bare();
    running.finish().expect(73, &["--ready-file"]);
}

#[test]
fn it_checks_files_of_variables() {
    let world = init();
    world.make_ready("db");
    let file = world.dir.join("variables");
    fs::write(&file, "NAME=value\n").unwrap();
    let flag = format!("--env-file={}", file.display());
    wait_in(&world, "proa").flag(&flag).start_bare().finish().expect(0, &[]);
    fs::write(&file, "NAME=value\n= nonsense\n").unwrap();
    wait_in(&world, "proa").flag(&flag).start_bare().finish().expect(2, &["line 2"]);
}

#[test]
fn one_look_tells_a_probe_whether_it_is_ready() {
    let world = init();
    // A busy machine gets more than a probe's time.
    let once = || wait_in(&world, "proa").flags(["--once", "--ready-timeout=30s"]).start_bare().finish();
    once().expect(75, &["not ready: db (running, not ready)"]);
    world.make_ready("db");
    once().expect(0, &[]);

    let direct = |url: &str| {
        let flags = ["--once".to_owned(), "--api=off".to_owned(), format!("--wait-http-get={url}")];
        wait_in(&world, "proa").flags(flags).start_bare().finish()
    };
    let busy = Endpoint::replying(vec![Reply::Status(503, None), Reply::Status(200, None)]);
    direct(&busy.url()).expect(75, &["(503)"]);
    assert_eq!(busy.more_requests(), 1, "one look");
    direct(&busy.url()).expect(0, &[]);
    let hanging = Endpoint::replying(vec![Reply::Hang]);
    direct(&hanging.url()).expect(75, &["not ready within 800ms"]);
}

#[test]
fn one_look_goes_on_without_an_api_server_that_is_not_needed() {
    let world = init();
    let ready = Endpoint::ok();
    let once = || {
        let flags =
            ["--once", "--ready-timeout=30s", &format!("--wait-http-get={}", ready.url())].map(str::to_owned);
        wait_in(&world, "proa").flags(flags).start_bare().finish()
    };
    world.cluster.authorize(Access::to(&[]));
    once().expect(0, &["going on without the API server"]);
    // One look that fails tells nothing: a start-up probe that passes once is never asked again.
    world.cluster.authorize(Access::default());
    let away = world.cluster.refuse();
    once().expect(75, &["not ready: "]);
    drop(away);
    let hanging = world.cluster.stall();
    let flags = ["--once".to_owned(), format!("--wait-http-get={}", ready.url())];
    wait_in(&world, "proa").flags(flags).start_bare().finish().expect(75, &["not ready within 800ms"]);
    // Whatever else is set for all containers of the Pod.
    let flags = ["--once", "--on-timeout=run"];
    wait_in(&world, "proa").flags(flags).start_bare().finish().expect(75, &["not ready within 800ms"]);
    drop(hanging);
}

#[test]
fn what_hangs_holds_no_look_up() {
    let world = init();
    world.make_ready("db");
    let pipe = world.dir.join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let flag = format!("--env-file={}", pipe.display());
    let flags = ["--once", "--ready-timeout=2s", &flag];
    wait_in(&world, "proa").flags(flags).start_bare().finish().expect(75, &["not ready within 2s"]);
    let flags =
        ["--once".to_owned(), "--ready-timeout=30s".to_owned(), format!("--ready-file={}", pipe.display())];
    wait_in(&world, "proa").flags(flags).start_bare().finish().expect(73, &["--ready-file"]);
}

#[test]
fn a_ready_file_that_is_there_keeps_what_it_holds() {
    let world = init();
    world.make_ready("db");
    let file = world.dir.join("ready");
    std::fs::write(&file, "kept").unwrap();
    let flags =
        ["--once".to_owned(), "--ready-timeout=30s".to_owned(), format!("--ready-file={}", file.display())];
    wait_in(&world, "proa").flags(flags).start_bare().finish().expect(0, &[]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept");
    let folder = format!("--ready-file={}/", world.dir.join("new").display());
    wait_in(&world, "proa").flag(&folder).start_bare().finish().expect(73, &["--ready-file"]);
}

#[test]
fn it_takes_nobodys_place() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    world.make_ready("web");
    let Some(main) = world.mounted("main", "pod") else { return };
    let main = main.flag("--shutdown-when=never").start(["sleep", "600"]);
    main.wait_stderr("command started");
    let Some(wait) = world.mounted("main", "pod") else { return };
    wait.flag("wait").start_bare().finish().expect(0, &["gate open"]);
    main.signal(libc::SIGTERM);
    main.finish().expect(143, &[]);
}

#[test]
fn disabled_it_waits_for_nothing() {
    let world = init();
    let finished = wait_in(&world, "proa")
        .flags(["--wait-exit=x", "--wait-for=y"])
        .env("PROA_DISABLED", "1")
        .start_bare();
    finished.finish().expect(0, &["disabled"]);
    assert_eq!(world.cluster.requests().len(), 0);
}

#[test]
fn a_mistake_is_2_and_shuts_nothing_down() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    let finished =
        wait_in(&world, "main").flag("--wait-fro=x").start_bare().finish().expect(2, &["--wait-for"]);
    assert_eq!(world.cluster.requests().len(), 0, "{}", finished.stderr);
    wait_in(&world, "main").flag("--wait-exit=x=soon").start_bare().finish().expect(2, &["NAME=success"]);
    wait_in(&world, "main")
        .flags(["--wait-exit=web", "--api=off"])
        .start_bare()
        .finish()
        .expect(2, &["--wait-exit needs the API"]);
    wait_in(&world, "main").start(["true"]).finish().expect(2, &[]);
}

/// What `main` waits for: the container `migrate` beside the sidecar `web`.
fn migrating(policy: &str) -> World {
    let world = World::with(policy, &[Beside::Regular("web"), Beside::Regular("migrate")]);
    world.make_ready("web");
    world
}

#[test]
fn another_containers_exit_is_waited_for() {
    for (flag, exit) in [("--wait-exit=migrate", 3), ("--wait-exit=migrate=success", 0)] {
        let world = migrating("Never");
        let running = world.proa().flags([flag, "--shutdown-when=never"]).start(["echo", "up"]);
        running.wait_stderr("waiting for migrate (running)");
        assert_eq!(running.stdout_so_far(), "");
        world.set_state("migrate", &format!("terminated: {{exitCode: {exit}}}"));
        assert_eq!(running.finish().expect(0, &["gate open"]).stdout, "up\n");
    }
}

#[test]
fn one_that_fails_is_a_refusal_where_success_is_asked_for() {
    let world = migrating("Never");
    world.set_state("migrate", "terminated: {exitCode: 3, reason: Error}");
    let flags = ["--wait-exit=migrate=success", "--shutdown-when=never"];
    let finished = world.proa().flags(flags).run(["echo", "up"]);
    assert_eq!(finished.expect(69, &["`migrate` exited with exit code 3", "--wait-exit=migrate"]).stdout, "");
    assert!(world.termination_message().contains("`migrate`"));
}

#[test]
fn one_that_is_restarted_has_not_exited() {
    let world = migrating("OnFailure");
    world.set_state("migrate", "terminated: {exitCode: 3, reason: Error}");
    let running = world.proa().flags(["--wait-exit=migrate", "--shutdown-when=never"]).start(["echo", "up"]);
    running.wait_stderr("waiting for migrate (ended with exit code 3, to be restarted)");
    world.set_state("migrate", "terminated: {exitCode: 0, reason: Completed}");
    running.finish().expect(0, &["gate open"]);
}

#[test]
fn one_that_never_exits_or_is_not_there_is_a_refusal() {
    let world = migrating("Always");
    let flags = ["--wait-exit=migrate", "--shutdown-when=never"];
    world.proa().flags(flags).run(["echo", "up"]).expect(2, &["`migrate`, which never exits for good"]);
    let world = migrating("Never");
    let flags = ["--wait-exit=migrat", "--shutdown-when=never"];
    world
        .proa()
        .flags(flags)
        .run(["echo", "up"])
        .expect(2, &["--wait-exit names `migrat`", "`web`, `migrate`"]);
}

#[test]
fn an_exit_is_nothing_that_a_direct_wait_makes_do_without() {
    let world = migrating("Never");
    let ready = Endpoint::ok();
    let away = world.cluster.refuse();
    let flags = [format!("--wait-http-get={}", ready.url()), "--wait-exit=migrate".to_owned()];
    let running = world.proa().flags(flags).flag("--shutdown-when=never").start(["echo", "up"]);
    running.wait_stderr("waiting for the API server");
    drop(away);
    running.wait_stderr("waiting for migrate (running)");
    world.set_state("migrate", "terminated: {exitCode: 0}");
    running.finish().expect(0, &["gate open"]);
}

#[test]
fn a_probe_serves_nowhere_since_its_container_may_have_a_proa_that_does() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let world = init();
    world.make_ready("db");
    let proa = || wait_in(&world, "proa").env("PROA_STATUS_ADDRESS", &address);
    proa().flags(["--once", "--ready-timeout=30s"]).start_bare().finish().expect(0, &[]);
    proa().start_bare().finish().expect(2, &["--status-address"]);
    world.proa().flag("quit").env("PROA_STATUS_ADDRESS", &address).start_bare().finish().expect(0, &[]);
}

#[test]
fn an_interval_of_0_is_the_default() {
    let busy = Endpoint::replying(vec![
        Reply::Status(503, None),
        Reply::Status(503, None),
        Reply::Status(200, None),
    ]);
    let world = init();
    let flags = ["--api=off", "--interval=0", &format!("--wait-http-get={}", busy.url())].map(str::to_owned);
    wait_in(&world, "proa").flags(flags).start_bare().finish().expect(0, &["gate open"]);
}
