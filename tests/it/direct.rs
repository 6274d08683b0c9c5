//! Direct waits hold the gate, beside the API server or without it.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use localpod::cluster::Access;
use nix::libc;

use crate::support::http::{Endpoint, Reply, refusing_url, silent};
use crate::support::{Beside, Dir, Proa, World, unshare};

fn status(code: u16) -> Reply {
    Reply::Status(code, None)
}

/// proa as a Pod without a service account has it.
fn without_account(world: &World) -> Proa {
    world.proa().flag("--service-account-dir").flag(world.dir.join("nowhere"))
}

#[test]
fn http_waits_want_2xx_and_follow_no_redirect() {
    let redirect = Reply::Status(302, Some("location: /elsewhere".into()));
    let ready = Endpoint::replying(vec![status(503), redirect, Reply::Close, status(204)]);
    let world = World::alone();
    let running = world.proa().flags(["--wait-http-get", &ready.url()]).start(["echo", "up"]);
    running.wait_stderr(&format!("waiting for {} (503)", ready.url()));
    for _ in 0..4 {
        assert!(ready.request().starts_with("GET /quitquitquit "));
    }
    assert!(running.finish().expect(0, &["gate open"]).stdout.contains("up"));
}

#[test]
fn tcp_waits_want_a_connection() {
    // An address of this test's own, so that the port is nobody else's meanwhile.
    let free = TcpListener::bind("127.71.82.93:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let world = World::alone();
    let running = world.proa().flag(format!("--wait-tcp={address}")).start(["echo", "up"]);
    running.wait_stderr(&format!("waiting for {address} (connection refused)"));
    let _listening = TcpListener::bind(address).unwrap();
    running.finish().expect(0, &["gate open"]);
}

#[test]
fn nobody_listens_on_localhost_is_said_without_ipv6_too() {
    let world = World::alone();
    let Some(mut namespace) = unshare(&["--net"]) else { return };
    let lonely = "ip link set lo up && echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6 && exec \"$@\"";
    namespace.extend(["sh", "-c", lonely, "sh"].map(str::to_owned));
    let flags =
        ["--api=off", "--wait-http-get=http://localhost:9/", "--wait-tcp=localhost:9", "--ready-timeout=1s"];
    let finished = world.proa().through(namespace).flags(flags).run(["true"]).expect(75, &[]);
    assert!(
        finished
            .stderr
            .contains("http://localhost:9/ (connection refused), localhost:9 (connection refused)")
    );
}

#[test]
fn file_waits_want_the_file_though_its_directory_is_made_later() {
    let world = World::alone();
    let (here, later) = (world.dir.join("here"), world.dir.join("later/there"));
    let flags = [&here, &later].map(|path| format!("--wait-file={}", path.display()));
    let running = world.proa().flags(flags).start(["echo", "up"]);
    running.wait_stderr(&format!("{} (not there)", later.display()));
    fs::write(&here, "").unwrap();
    fs::create_dir(later.parent().unwrap()).unwrap();
    fs::write(&later, "").unwrap();
    running.finish().expect(0, &["gate open"]);
}

#[test]
fn what_held_once_must_hold_when_the_gate_opens() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    let file = world.dir.join("ready");
    fs::write(&file, "").unwrap();
    let running = world
        .proa()
        .flag("--shutdown-when=never")
        .flag(format!("--wait-file={}", file.display()))
        .start(["echo", "up"]);
    running.wait_stderr("waiting for web (");
    fs::remove_file(&file).unwrap();
    running.wait_stderr("(not there), web (");
    world.make_ready("web");
    running.wait_stderr(&format!("waiting for {} (not there)\n", file.display()));
    assert!(!running.stdout_so_far().contains("up"));
    fs::write(&file, "").unwrap();
    running.finish().expect(0, &["gate open"]);
}

#[test]
fn what_is_missing_is_named_when_time_runs_out() {
    let broken = Endpoint::replying(vec![status(500)]);
    let world = World::alone();
    let refused = refusing_url();
    world
        .proa()
        .flags(["--wait-http-get", &broken.url(), "--wait-http-get", &refused, "--ready-timeout=3s"])
        .run(["echo", "up"])
        .expect(75, &[&format!("{} (500)", broken.url()), &format!("{refused} (connection refused)")]);
    assert!(world.termination_message().contains("(500)"));
}

#[test]
fn a_signal_ends_a_direct_wait() {
    let world = World::alone();
    let running = world.proa().flags(["--wait-http-get", &refusing_url()]).start(["echo", "up"]);
    running.wait_stderr("(connection refused)");
    running.signal(libc::SIGTERM);
    running.finish().expect(143, &["SIGTERM before the command started"]);
}

#[test]
fn without_a_service_account_direct_waits_are_enough() {
    let world = World::alone();
    let (ready, quit) = (Endpoint::ok(), Endpoint::replying(vec![Reply::Last(200)]));
    let finished = without_account(&world)
        .flags(["--wait-http-get", &ready.url(), "-p", &quit.url()])
        .run(["sh", "-c", "exit 4"])
        .expect(4, &["going on without the API server", "gate open", "closed its endpoint"]);
    assert_eq!(finished.stderr.matches("without the API server").count(), 1, "{}", finished.stderr);
    assert!(
        quit.request().starts_with("POST "),
        "ended after a failure too: nothing says that it is retried"
    );
    assert_eq!(world.cluster.requests().len(), 0);
}

#[test]
fn without_a_service_account_and_with_nothing_to_wait_for_it_says_so() {
    let world = World::alone();
    without_account(&world).run(["echo", "up"]).expect(2, &["no service account", "--wait-http-get"]);
    without_account(&world)
        .flags(["--api=require", "--wait-http-get", &Endpoint::ok().url()])
        .run(["echo", "up"])
        .expect(2, &["no service account"]);
}

#[test]
fn off_asks_nobody() {
    let world = World::with("Always", &[Beside::Regular("web")]);
    let quit = Endpoint::replying(vec![Reply::Last(200)]);
    world.proa().flags(["--api=off", "-p", &quit.url()]).run(["echo", "up"]).expect(0, &[": 200"]);
    assert_eq!(world.cluster.requests().len(), 0);
}

#[test]
fn a_sidecar_that_does_not_end_is_waited_for_until_the_deadline_without_the_api_too() {
    let world = World::alone();
    let quit = Endpoint::ok();
    world
        .proa()
        .flags(["--api=off", "--shutdown-timeout=1s", "-p", &quit.url()])
        .run(["sh", "-c", "exit 4"])
        .expect(4, &["still listening when --shutdown-timeout ran out"]);
}

#[test]
fn an_api_that_denies_us_is_done_without_and_said_once() {
    let world = World::with("Always", &[Beside::Regular("web")]);
    world.cluster.authorize(Access::to(&[]));
    let (ready, quit) = (Endpoint::ok(), Endpoint::replying(vec![Reply::Last(200)]));
    let finished = world
        .proa()
        .flags(["--wait-http-get", &ready.url(), "-p", &quit.url()])
        .run(["echo", "up"])
        .expect(0, &["going on without the API server", "verbs: [\"watch\"]", "closed its endpoint"]);
    assert_eq!(finished.stderr.matches("forbidden").count(), 1, "{}", finished.stderr);
}

#[test]
fn an_api_out_of_reach_is_done_without_once_the_direct_waits_hold() {
    let world = World::alone();
    let down = world.cluster.refuse();
    let file = world.dir.join("ready");
    let running = world.proa().flag(format!("--wait-file={}", file.display())).start(["echo", "up"]);
    running.wait_stderr("(not there)");
    fs::write(&file, "").unwrap();
    running.finish().expect(0, &["cannot be reached", "gate open"]);
    drop(down);
}

#[test]
fn an_api_that_comes_back_in_time_is_heard() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    let down = world.cluster.refuse();
    let ready = Endpoint::ok();
    let running =
        world.proa().flags(["--wait-http-get", &ready.url(), "--shutdown-when=never"]).start(["echo", "up"]);
    running.wait_stderr("waiting for the API server");
    drop(down);
    running.wait_stderr("waiting for web");
    world.make_ready("web");
    let finished = running.finish().expect(0, &["gate open"]);
    assert!(!finished.stderr.contains("going on without"), "{}", finished.stderr);
}

#[test]
fn require_does_not_go_on_without_the_api() {
    let world = World::alone();
    world.cluster.authorize(Access::to(&[]));
    world
        .proa()
        .flags(["--api=require", "--ready-timeout=3s", "--wait-http-get", &Endpoint::ok().url()])
        .run(["echo", "up"])
        .expect(77, &["verbs: [\"watch\"]"]);
}

/// proa where somebody else has put it.
fn optional(world: &World) -> Proa {
    world.proa().flag("--api=optional")
}

fn goes_on(proa: Proa, why: &[&str]) {
    let finished = proa.run(["sh", "-c", "echo up; exit 3"]).expect(3, why);
    assert_eq!(finished.stdout, "up\n");
    let said = finished.stderr.matches("going on without the API server").count();
    assert_eq!(said, 1, "{}", finished.stderr);
}

/// For [`Proa::through`]: with this file for /etc/hosts.
fn with_hosts(file: &Path) -> Option<Vec<String>> {
    let mut wrapper = unshare(&[])?;
    let script = format!("mount --bind {} /etc/hosts && exec \"$@\"", file.display());
    wrapper.extend(["sh", "-c", &script, "sh"].map(str::to_owned));
    Some(wrapper)
}

/// The system's resolver asks the file first, and opening a pipe that nobody writes to never ends. As a name server that is silent, for a
/// minute or more.
#[test]
fn a_look_up_that_hangs_keeps_no_signal_and_no_command_waiting() {
    let (world, dir) = (World::alone(), Dir::new());
    let hosts = dir.join("hosts");
    nix::unistd::mkfifo(&hosts, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let Some(wrapper) = with_hosts(&hosts) else { return };
    for wait in ["--wait-tcp=db.example:1", "--wait-http-get=http://db.example/"] {
        let waiting = world.proa().through(&wrapper).flags(["wait", "--api=off", wait]).start_bare();
        waiting.wait_stderr("waiting for");
        waiting.signal(libc::SIGTERM);
        waiting.finish().expect(143, &["db.example"]);
        let flags = ["--api=off", wait, "--ready-timeout=1s", "--on-timeout=run"];
        let running = world.proa().through(&wrapper).flags(flags);
        let running =
            running.start(["sh", "-c", "trap 'exit 7' TERM; echo up; while :; do sleep 0.01; done"]);
        running.wait_stdout("up");
        running.signal(libc::SIGTERM);
        running.finish().expect(7, &["db.example"]);
    }
}

/// A name of two addresses, as of a Service without an address of its own or of a host of both families; the first one's host is down.
#[test]
fn an_address_that_is_silent_keeps_none_from_the_next() {
    let (world, dir) = (World::alone(), Dir::new());
    let ready = Endpoint::at("127.71.82.95:0", vec![status(204)]);
    let port = ready.port();
    let _silent = silent(([127, 71, 82, 94], port).into());
    let hosts = dir.join("hosts");
    fs::write(&hosts, "127.71.82.94 db.example\n127.71.82.95 db.example\n").unwrap();
    let Some(wrapper) = with_hosts(&hosts) else { return };
    for wait in
        [format!("--wait-tcp=db.example:{port}"), format!("--wait-http-get=http://db.example:{port}/")]
    {
        let waiting = world.proa().through(&wrapper).flags(["--api=off", &wait, "--ready-timeout=10s"]);
        waiting.run(["true"]).expect(0, &["gate open"]);
    }
}

#[test]
fn where_nothing_depends_on_the_api_what_there_is_to_see_counts() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    let running = optional(&world).start(["echo", "up"]);
    running.wait_stderr("waiting for web (running, not ready)");
    world.make_ready("web");
    running.wait_stderr("gate open");
    world.set_state("web", "terminated: {exitCode: 0, reason: Completed}");
    running.finish().expect(0, &["every sidecar has exited"]);
}

#[test]
fn where_nothing_depends_on_the_api_a_denial_keeps_no_command_from_starting() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    world.cluster.authorize(Access::to(&[]));
    goes_on(optional(&world), &["without waiting for any sidecar", "verbs: [\"watch\"]"]);
    let nowhere = optional(&world).flag("--service-account-dir").flag(world.dir.join("nowhere"));
    goes_on(nowhere, &["WARN proa: going on without the API server: no service account"]);
}

#[test]
fn where_nothing_depends_on_the_api_no_answer_keeps_no_command_from_starting() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    // What cannot be reached may be a mesh's fault, and one that hangs may answer yet: both have the time that there is.
    let flags = ["--ready-timeout=5s", "--on-timeout=run", "--shutdown-when=never"];
    let away = world.cluster.refuse();
    let finished = optional(&world).flags(flags).run(["echo", "up"]);
    finished.expect(0, &["cannot be reached", "not ready in time, going on all the same"]);
    drop(away);
    let hanging = world.cluster.stall();
    let finished = optional(&world).flags(flags).run(["echo", "up"]);
    finished.expect(0, &["not ready in time, going on all the same"]);
    drop(hanging);
}

#[test]
fn where_nothing_depends_on_the_api_another_hostname_keeps_no_command_from_starting() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    let proa = optional(&world).flags(["--pod-name=another", "--shutdown-when=never"]);
    goes_on(proa, &["there is no Pod"]);
}
