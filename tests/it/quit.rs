//! `proa quit`: the shutdown alone, for preStop hooks, traps and `kubectl exec`.

use std::time::Duration;

use crate::support::http::{Endpoint, Reply, refusing_url as refusing};
use crate::support::{Beside, Proa, World};

const ENDED: &str = "terminated: {exitCode: 0, reason: Completed}";

fn quit(world: &World) -> Proa {
    world.proa().flag("quit")
}

fn beside(policy: &str) -> World {
    let world = World::with(policy, &[Beside::Regular("web")]);
    world.make_ready("web");
    world
}

fn annotate(world: &World, url: &str) {
    world.update(|pod| {
        let annotations = pod.metadata.annotations.get_or_insert_default();
        annotations.insert("proa.ironcorelabs.com/web.shutdown".to_owned(), format!("POST {url}"));
    });
}

#[test]
fn it_shuts_the_sidecars_down_and_waits_for_their_exit() {
    let asked = Endpoint::ok();
    let world = beside("Never");
    annotate(&world, &asked.url());
    let running = quit(&world).start_bare();
    assert!(asked.request().starts_with("POST /quitquitquit "));
    running.wait_stderr("waiting for `web` to exit");
    world.set_state("web", ENDED);
    let finished = running.finish().expect(0, &["/quitquitquit: 200", "every sidecar has exited"]);
    assert!(!finished.stderr.contains("WARN"), "{}", finished.stderr);
    assert_eq!(world.termination_message(), "");
}

#[test]
fn it_needs_no_role_for_what_flags_name() {
    let asked = Endpoint::replying(vec![Reply::Last(200)]);
    let world = beside("Never");
    let flags = ["--api=off".to_owned(), format!("-p={}", asked.url())];
    quit(&world).flags(flags).start_bare().finish().expect(0, &["has closed its endpoint"]);
    assert_eq!(world.cluster.requests().len(), 0);
}

#[test]
fn whoever_does_not_do_as_asked_is_named() {
    let world = beside("Never");
    annotate(&world, &refusing());
    let finished = quit(&world).flag("--shutdown-timeout=1s").start_bare().finish();
    finished.expect(1, &["connection refused", "not shut down: `web` (POST http://127.0.0.1"]);

    let asked = Endpoint::ok();
    let world = beside("Never");
    annotate(&world, &asked.url());
    let finished = quit(&world).flag("--shutdown-timeout=1s").start_bare().finish();
    finished.expect(1, &["still running: `web`", "not shut down: `web`"]);

    let world = beside("Never");
    world.cluster.authorize(localpod::cluster::Access::to(&[]));
    quit(&world).start_bare().finish().expect(1, &["no sidecar is shut down", "this Pod cannot be seen"]);
}

#[test]
fn an_exit_that_nobody_saw_is_none() {
    let away = |world: &World, running: &crate::support::Running| {
        running.wait_stderr("waiting for `web` to exit");
        world.cluster.refuse()
    };
    let asked = Endpoint::ok();
    let world = beside("Never");
    annotate(&world, &asked.url());
    let running = quit(&world).flag("--shutdown-timeout=2s").start_bare();
    let fault = away(&world, &running);
    world.cluster.hang_up();
    running.finish().expect(1, &["no news of `web`", "not shut down: `web`"]);
    drop(fault);

    // Nor is one that a signal kept it from seeing.
    let asked = Endpoint::ok();
    let world = beside("Never");
    annotate(&world, &asked.url());
    let running = quit(&world).start_bare();
    running.wait_stderr("waiting for `web` to exit");
    running.signal(15);
    running.finish().expect(1, &["no longer waiting", "not shut down: `web`"]);
}

#[test]
fn whoever_still_listens_has_not_exited() {
    let asked = Endpoint::ok();
    let world = beside("Never");
    let flags = ["--api=off".to_owned(), "--shutdown-timeout=1s".to_owned(), format!("-p={}", asked.url())];
    let finished = quit(&world).flags(flags).start_bare().finish();
    finished.expect(1, &["still listening", "not shut down: POST http://127.0.0.1"]);

    // With sight of the Pod the sidecar is named that a request without a name may be for.
    let flags = ["--shutdown-timeout=1s".to_owned(), format!("-p={}", asked.url())];
    let finished = quit(&world).flags(flags).start_bare().finish();
    finished.expect(1, &["still running: `web`", "not shut down: `web`"]);
}

#[test]
fn who_exits_while_it_waits_is_no_failure_though_the_request_was_refused() {
    let world = beside("Never");
    annotate(&world, &refusing());
    let running = quit(&world).start_bare();
    running.wait_stderr("waiting for `web` to exit");
    world.set_state("web", ENDED);
    running.finish().expect(0, &["connection refused", "every sidecar has exited"]);
    // The same without a name: nobody is left whom the request can have been for.
    let world = beside("Never");
    let running = quit(&world).flag(format!("-p={}", refusing())).start_bare();
    running.wait_stderr("waiting for `web` to exit");
    world.set_state("web", ENDED);
    running.finish().expect(0, &["connection refused", "every sidecar has exited"]);
}

#[test]
fn a_wrapped_sidecar_that_cannot_be_notified_is_not_shut_down() {
    let world = beside("Never");
    let words = ["/proa", "sidecar", "--", "nginx"].map(str::to_owned).to_vec();
    world.update_container("web", |web| web.command = Some(words));
    let running = quit(&world).flag("--shutdown-timeout=2s").start_bare();
    running.wait_stderr("no proa is there");
    running.finish().expect(1, &["not shut down: `web`"]);
    // One that is on its way out has no proa either, and its status follows.
    let running = quit(&world).start_bare();
    running.wait_stderr("waiting for `web` to exit");
    world.set_state("web", ENDED);
    running.finish().expect(0, &["every sidecar has exited"]);
}

#[test]
fn a_second_quit_finds_nothing_left_to_do() {
    let world = beside("Never");
    annotate(&world, &refusing());
    world.set_state("web", ENDED);
    quit(&world).start_bare().finish().expect(0, &[]);
}

#[test]
fn a_sidecar_that_nobody_asked_is_no_failure() {
    let world = beside("Never");
    let finished = quit(&world).flag("--shutdown-timeout=1s").start_bare().finish();
    finished.expect(0, &["nobody shuts down `web`"]);
}

#[test]
fn it_says_what_it_would_do_and_does_nothing() {
    let asked = Endpoint::ok();
    let world = World::of(
        "
metadata:
  name: pod
  namespace: default
spec:
  restartPolicy: Never
  initContainers: [{name: db, image: d, restartPolicy: Always}]
  containers:
  - {name: main, image: m}
  - {name: web, image: w}
  - {name: other, image: o}
  - {name: istio-proxy, image: istio/proxyv2}
status:
  containerStatuses:
  - {name: main, image: m, imageID: m, ready: true, restartCount: 0, state: {running: {}}}
  - {name: web, image: m, imageID: m, ready: true, restartCount: 0, state: {running: {}}}
  - {name: other, image: m, imageID: m, ready: true, restartCount: 0, state: {running: {}}}
  - {name: istio-proxy, image: m, imageID: m, ready: true, restartCount: 0, state: {running: {}}}
",
    );
    annotate(&world, &asked.url());
    let finished = quit(&world).flag("--dry-run").start_bare().finish().expect(0, &[]);
    for line in [
        &format!("POST {} to `web`: an annotation of the Pod", asked.url()),
        "last: POST http://localhost:15020/quitquitquit to `istio-proxy` (Istio): well known as istio",
        "left to the kubelet: `db`, a native sidecar",
        "nobody shuts down `other`",
    ] {
        assert!(finished.stdout.contains(line), "no {line:?} in {}", finished.stdout);
    }
    assert_eq!(asked.more_requests(), 0);
    let finished = quit(&world).flags(["--dry-run", "--api=off"]).start_bare().finish().expect(0, &[]);
    assert!(finished.stdout.contains("without sight of the Pod"), "{}", finished.stdout);
}

#[test]
fn in_a_pod_that_is_being_deleted_it_asks_and_does_not_wait() {
    let asked = Endpoint::ok();
    let world = beside("Always");
    annotate(&world, &asked.url());
    world.cluster.mark_deleted("default", "pod", Duration::from_secs(30));
    quit(&world).start_bare().finish().expect(0, &["/quitquitquit: 200", "not waiting for the sidecars"]);
}

#[test]
fn it_takes_nobodys_place_beside_the_proa_of_its_container() {
    let asked = Endpoint::ok();
    let world = beside("Never");
    let Some(main) = world.mounted("main", "pod") else { return };
    let main = main.flag("--shutdown-when=never").start(["sleep", "600"]);
    main.wait_stderr("command started");
    annotate(&world, &asked.url());
    let Some(proa) = world.mounted("main", "pod") else { return };
    let running = proa.flag("quit").start_bare();
    asked.request();
    world.set_state("web", ENDED);
    running.finish().expect(0, &["every sidecar has exited"]);
    main.signal(nix::libc::SIGTERM);
    main.finish().expect(143, &[]);
}

#[test]
fn a_wrapped_sidecar_is_notified() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    let Some(sidecar) = world.mounted("web", "pod") else { return };
    let sidecar = sidecar.sidecar("web").start(["sleep", "600"]);
    sidecar.wait_stderr("running until the exit of `main`");
    let Some(proa) = world.mounted("main", "pod") else { return };
    let running = proa.flag("quit").start_bare();
    sidecar.finish().expect(0, &["asks this sidecar to stop"]);
    world.set_state("web", ENDED);
    running.finish().expect(0, &["stop request to `web`: accepted"]);
}

/// It goes by itself once the API shows main's exit, which a Job's script must not fail for.
#[test]
fn a_helper_beside_it_is_no_failure() {
    let world = World::with("Never", &[Beside::Regular("proxy"), Beside::Regular("helper")]);
    let proxy = Endpoint::ok();
    let Some((helper, main)) = world.mounted("helper", "pod").zip(world.mounted("main", "pod")) else {
        return;
    };
    let helper = helper.sidecar("helper").flag("--until-exit=main").start_bare();
    helper.wait_stderr("running until the exit of `main`");
    let running = main.flags(["quit", "-p", &proxy.url()]).start_bare();
    proxy.request();
    world.set_state("proxy", ENDED);
    running.finish().expect(0, &["stop request to `helper`: accepted, once the main containers have exited"]);
    world.set_state("main", ENDED);
    helper.finish().expect(0, &["the main containers have exited"]);
}

#[test]
fn a_mistake_is_2_and_disabled_does_nothing() {
    let world = beside("Never");
    quit(&world).flag("--shutdown-htp-post=x").start_bare().finish().expect(2, &["--shutdown-http-post"]);
    quit(&world).env("PROA_DISABLED", "1").start_bare().finish().expect(0, &["disabled"]);
    quit(&world).start(["true"]).finish().expect(2, &[]);
    assert_eq!(world.cluster.requests().len(), 0);
}
