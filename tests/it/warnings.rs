//! What the Pod shows that will go wrong is said before the command starts; and at the end, what keeps the Pod from its own.

use crate::support::http::Endpoint;
use crate::support::{Beside, Held, World};

const ENDED: &str = "terminated: {exitCode: 0, reason: Completed}";
const COMPLETES: &str = "this Pod does not complete until they exit";

fn world(spec: &str, main: &str, beside: &str) -> World {
    World::of(&format!(
        "
metadata: {{name: pod, namespace: default}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 30
  {spec}
  containers:
  - {{name: main, image: m{main}}}
  - {{{beside}}}
status:
  phase: Running
  containerStatuses:
  - {{name: main, image: m, imageID: m, ready: false, restartCount: 0, state: {{running: {{}}}}}}
  - {{name: web, image: w, imageID: w, ready: true, restartCount: 0, state: {{running: {{}}}}}}
"
    ))
}

/// Fields of the spec, of main, the sidecar `web`, flags, and what is to be said.
type Case<'a> = (&'a str, &'a str, &'a str, &'a [&'a str], &'a [&'a str]);

/// The warnings that stand before this in the log.
fn warned_before<'a>(stderr: &'a str, event: &str) -> Vec<&'a str> {
    let (before, _) = stderr.split_once(event).unwrap_or_else(|| panic!("no {event:?} in stderr:\n{stderr}"));
    before.lines().filter(|line| line.contains("WARN")).collect()
}

#[test]
fn what_will_go_wrong_is_said_once_before_the_command_starts() {
    let probed = "readinessProbe: {tcpSocket: {port: 1}}";
    let web = &format!("name: web, image: w, {probed}");
    let linkerd = &format!("name: web, image: linkerd/proxy, {probed}");
    let cases: [Case; 7] = [
        ("", "", web, &[], &["nobody shuts down `web`", "--shutdown-http-post", "--main=web"]),
        (
            "",
            "",
            linkerd,
            &[],
            &["(Linkerd)", "switched off", "config.linkerd.io/proxy-admin-shutdown: enabled"],
        ),
        ("", "", "name: web, image: w", &["-K", "--ignore=x"], &["no readinessProbe on `web`", "--wait-tcp"]),
        ("", "", web, &["--ignore=wbe", "--ignore=web"], &["--ignore names `wbe`", "there are `web`"]),
        (
            "",
            "",
            web,
            &["--kill=w", "-p=http://localhost:9/"],
            &["--kill reaches no other", "shareProcessNamespace: true"],
        ),
        (
            "",
            ", livenessProbe: {exec: {command: [x]}}",
            web,
            &["-p=http://localhost:9/"],
            &["the livenessProbe", "startupProbe", "/livez"],
        ),
        ("shareProcessNamespace: true", "", web, &["--kill=none", "--ignore=y"], &["--ignore names `y`"]),
    ];
    for (spec, main, beside, flags, expected) in cases {
        let world = world(spec, main, beside);
        let finished = world.proa().flags(flags).flag("--shutdown-timeout=1s").run(["sh", "-c", "exit 5"]);
        let finished = finished.expect(5, &[]);
        let warned = warned_before(&finished.stderr, "command started");
        let line = warned.iter().find(|line| line.contains(expected[0]));
        let line = line
            .unwrap_or_else(|| panic!("{flags:?}: no {expected:?} before the command:\n{}", finished.stderr));
        for part in expected {
            assert!(line.contains(part), "{flags:?}: no {part:?} in {line}");
        }
        let said = line.split_once("WARN").unwrap().1;
        assert_eq!(finished.stderr.matches(said).count(), 1, "{}", finished.stderr);
    }
}

#[test]
fn a_pod_in_order_is_warned_of_nothing() {
    let quit = Endpoint::ok();
    let world = world("", "", "name: web, image: w, readinessProbe: {tcpSocket: {port: 1}}");
    let running = world.proa().flag(format!("-p=http://localhost:{}/quit", quit.port())).start(["true"]);
    quit.request();
    world.set_state("web", ENDED);
    let finished = running.finish().expect(0, &["every sidecar has exited"]);
    assert!(!finished.stderr.contains("WARN"), "{}", finished.stderr);
    assert_eq!(world.termination_message(), "");
}

#[test]
fn what_proa_wraps_behind_an_images_entrypoint_is_shut_down_by_somebody() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    let Some(sidecar) = world.mounted("web", "pod") else { return };
    let sidecar = sidecar.sidecar("web").start(["sleep", "600"]);
    sidecar.wait_stderr("command started");
    world.make_ready("web");
    let Some(main) = world.mounted("main", "pod") else { return };
    let main = main.start(["true"]);
    main.wait_stderr("to exit");
    sidecar.finish();
    world.set_state("web", ENDED);
    let finished = main.finish().expect(0, &["every sidecar has exited"]);
    assert!(!finished.stderr.contains("nobody shuts down"), "{}", finished.stderr);
}

#[test]
fn at_the_end_it_is_said_that_the_pod_does_not_complete_in_the_termination_message_too() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    world.make_ready("web");
    let finished = world.proa().flag("--shutdown-timeout=1s").run(["sh", "-c", "exit 7"]);
    finished.expect(7, &["still running when --shutdown-timeout ran out: `web`", COMPLETES]);
    let message = world.termination_message();
    for part in ["proa: still running", COMPLETES, "`web`: it is not well known", "--shutdown-http-post"] {
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(message.lines().count(), 1, "{message}");
}

#[test]
fn one_that_was_asked_and_runs_on_is_told_from_one_that_nobody_asked() {
    let quit = Endpoint::ok();
    let world = World::with("Never", &[Beside::Regular("web")]);
    world.make_ready("web");
    let flag = format!("-p=http://localhost:{}/quit", quit.port());
    let finished = world.proa().flags([flag.as_str(), "--shutdown-timeout=1s"]).run(["true"]);
    finished.expect(0, &[COMPLETES, "`web` did not exit in time: look at its log", "--shutdown-timeout"]);
    assert!(world.termination_message().contains("did not exit in time"));
}

#[test]
fn a_refusal_and_what_keeps_the_pod_from_its_end_are_both_in_the_message() {
    let world = World::with("Never", &[Beside::Regular("web"), Beside::Regular("db")]);
    world.make_ready("db");
    world.set_state("web", "terminated: {exitCode: 3, reason: Error}");
    let finished = world.proa().flag("--shutdown-timeout=1s").run(["echo", "up"]);
    assert_eq!(finished.expect(69, &["`web` exited for good", COMPLETES]).stdout, "");
    let message = world.termination_message();
    let lines: Vec<_> = message.lines().collect();
    assert!(
        matches!(lines.as_slice(), [refusal, left] if refusal.contains("`web` exited for good") && left.contains("`db`")),
        "{message}"
    );
}

#[test]
fn after_a_mistake_too() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    world.make_ready("web");
    let finished = world.proa().flags(["--kil=x", "--shutdown-timeout=1s"]).run(["echo", "up"]);
    finished.expect(2, &["--kil", "nobody shuts down `web`", COMPLETES]);
    let message = world.termination_message();
    assert!(message.contains("--kil") && message.contains(COMPLETES), "{message}");
}

#[test]
fn a_pod_that_is_seen_only_after_the_command_is_warned_of_then() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    world.make_ready("web");
    let away = world.cluster.refuse();
    let file = world.dir.join("there");
    std::fs::write(&file, "").unwrap();
    let held = Held::in_dir(&world.dir, "exit 0");
    let flags = [format!("--wait-file={}", file.display()), "--shutdown-timeout=1s".to_owned()];
    let running = world.proa().flags(flags).start(&held.command);
    running.wait_stdout("up");
    drop(away);
    held.let_go();
    let finished = running.finish().expect(0, &["nobody shuts down `web`", COMPLETES]);
    assert!(
        !finished.stderr.contains("no readinessProbe"),
        "nothing is waited for any more:\n{}",
        finished.stderr
    );
}

#[test]
fn a_helper_warns_before_the_main_containers_end_and_says_what_stays_behind() {
    let world = World::with("Never", &[Beside::Regular("web"), Beside::Regular("proa")]);
    let flags = ["--until-exit=main", "--ignore=wbe", "--shutdown-timeout=1s"];
    let running = world.proa().sidecar("proa").flags(flags).start_bare();
    running.wait_stderr("nobody shuts down `web`");
    running.wait_stderr("--ignore names `wbe`");
    world.set_state("main", ENDED);
    let finished = running.finish().expect(0, &[COMPLETES]);
    assert!(!finished.stderr.contains("`main`, and this Pod"), "main is no sidecar:\n{}", finished.stderr);
    assert!(world.termination_message().contains(COMPLETES));
}

#[test]
fn a_helper_that_waits_takes_no_main_container_for_a_sidecar() {
    for flags in [vec!["--until-exit=main"], vec![]] {
        let world = World::with("Never", &[Beside::Native("db"), Beside::Regular("proa")]);
        let running = world.proa().sidecar("proa").flag("--wait-for=db").flags(flags).start_bare();
        running.wait_stderr("no readinessProbe on `db`");
        world.make_ready("db");
        running.wait_stderr("running until the exit of `main`");
        world.set_state("main", ENDED);
        let finished = running.finish().expect(0, &[]);
        assert!(!finished.stderr.contains("nobody shuts down"), "{}", finished.stderr);
    }
}

#[test]
fn a_wrapped_sidecars_stop_timeout_is_held_against_the_grace_period() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    let running = world.proa().sidecar("web").flag("--stop-timeout=1m").start(["sleep", "600"]);
    running.wait_stderr("the grace period of 30s is shorter than --stop-timeout=1m");
    world.set_state("main", ENDED);
    running.finish().expect(0, &["terminationGracePeriodSeconds"]);
}

#[test]
fn a_deployments_sidecars_are_not_to_exit() {
    let world = World::with("Always", &[Beside::Regular("web")]);
    world.make_ready("web");
    let finished = world.proa().run(["sh", "-c", "exit 6"]).expect(6, &["sidecars are left running"]);
    assert!(!finished.stderr.contains("nobody shuts down"), "{}", finished.stderr);
    let finished = world.proa().flags(["--shutdown-when=always", "--shutdown-timeout=1s"]).run(["true"]);
    let finished = finished.expect(0, &[]);
    assert!(!finished.stderr.contains(COMPLETES), "{}", finished.stderr);
}
