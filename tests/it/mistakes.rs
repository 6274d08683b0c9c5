//! A mistake in the command line or the variables hangs no Pod and breaks no other container; and where there is no Kubernetes,
//! or proa is disabled, the command runs all the same.

use std::ffi::OsString;
use std::process::Command;

use localpod::cluster::Fault;
use nix::libc;

use crate::sidecar::both;
use crate::status::address;
use crate::support::http::Endpoint;
use crate::support::{Beside, Finished, Held, PROA, Proa, World, children, eventually, unshare};

/// A Pod of `main` and an Envoy called `proxy`, which is asked at this endpoint.
pub(crate) fn beside_envoy(policy: &str, quit: &Endpoint, state: &str) -> World {
    World::of(&format!(
        "
metadata: {{name: pod, namespace: default}}
spec:
  restartPolicy: {policy}
  terminationGracePeriodSeconds: 30
  containers:
  - name: proxy
    image: envoyproxy/envoy
    readinessProbe: {{httpGet: {{path: /ready, port: {}}}}}
  - {{name: main, image: i}}
status:
  phase: Running
  containerStatuses:
  - {{name: proxy, image: i, imageID: i, ready: false, restartCount: 0, state: {{{state}}}}}
  - {{name: main, image: i, imageID: i, ready: false, restartCount: 0, state: {{running: {{}}}}}}
",
        quit.port()
    ))
}

const RUNNING: &str = "running: {}";
const ENDED: &str = "terminated: {exitCode: 0, reason: Completed}";

/// Each another mistake, with what it is told.
fn mistakes(world: &World) -> Vec<(Proa, &'static str)> {
    let line = |words: &[&str], said| (world.proa().flags(words), said);
    vec![
        line(&["--wait-fro=x", "--", "true"], "error: unexpected argument '--wait-fro' found"),
        line(&["--ready-timeout=soon", "--", "true"], "error: invalid value 'soon'"),
        line(&["--shutdown-when=nver", "--no-shutdown-aut", "--", "true"], "error: "),
        line(&["--shutdown-auto", "--shutdown-auto", "--", "true"], "error: "),
        line(&["sleep", "5"], "error: unexpected argument 'sleep' found"),
        line(&[], "error: the following required arguments"),
        line(&["--wait-for=a", "--ignore=a", "--", "true"], "both --wait-for and --ignore"),
        line(&["--", ""], "empty"),
        (world.proa().env("PROA_KILL_ALL", "maybe").flags(["--", "true"]), "error: invalid value 'maybe'"),
    ]
}

#[test]
fn a_mistake_ends_the_sidecars_of_a_pod_that_will_not_start_this_container_again() {
    let count = mistakes(&World::alone()).len();
    for number in 0..count {
        let quit = Endpoint::ok();
        let world = beside_envoy("Never", &quit, RUNNING);
        let (proa, said) = mistakes(&world).swap_remove(number);
        let running = proa.start_bare();
        assert!(quit.request().starts_with("POST /quitquitquit "), "{said}");
        // It was said before anybody was asked, and kept for `kubectl describe pod`.
        let message = world.termination_message();
        assert!(message.contains(said), "{message}");
        world.set_state("proxy", ENDED);
        let finished = running.finish().expect(2, &[said, "every sidecar has exited"]);
        assert_eq!(finished.stdout, "");
        if said.starts_with("error: ") {
            assert!(finished.stderr.starts_with(&format!("proa: {said}")), "{}", finished.stderr);
        }
    }
}

#[test]
fn a_status_address_that_cannot_be_had_ends_the_sidecars() {
    let quit = Endpoint::ok();
    let world = beside_envoy("Never", &quit, RUNNING);
    // An address of nobody's here (RFC 5737).
    let running = world.proa().flag("--status-address=203.0.113.1:9400").start(["true"]);
    quit.request();
    world.set_state("proxy", ENDED);
    running.finish().expect(2, &["--status-address", "every sidecar has exited"]);
}

/// That the command line is refused with 2 and the sidecar is not asked.
#[track_caller]
fn assert_kept(policy: &str, line: &[&str], variables: &[(&str, &str)], said: &[&str]) -> World {
    let quit = Endpoint::ok();
    let world = beside_envoy(policy, &quit, RUNNING);
    let proa = world.proa().flags(line);
    let proa = variables.iter().fold(proa, |proa, (name, value)| proa.env(name, value));
    proa.start_bare().finish().expect(2, said);
    assert_eq!(quit.more_requests(), 0, "{line:?} {variables:?}");
    world
}

#[test]
fn a_mistake_keeps_the_sidecars_of_a_container_that_is_started_again() {
    for policy in ["OnFailure", "Always"] {
        assert_kept(policy, &["--wait-fro=x", "--", "true"], &[], &["sidecars are left running"]);
    }
}

#[test]
fn what_keeps_the_sidecars_is_read_beside_a_mistake() {
    for line in [
        &["--wait-fro=x", "--no-shutdown-auto", "--shutdown-timeout=0s", "--ignore=proxy", "--", "true"][..],
        &["--shutdown-when", "never", "--wait-fro", "x", "--", "true"],
        &["sleep", "5", "--shutdown-when=never"],
        &["--shutdown-when=success", "--nonsense", "--", "true"],
    ] {
        assert_kept("Never", line, &[], &[]);
    }
    let line = ["--wait-fro=x", "--ignore=proxy", "--", "true"];
    for (name, value) in
        [("PROA_SHUTDOWN_WHEN", "never"), ("PROA_NO_SHUTDOWN_AUTO", "Yes"), ("PROA_DISABLED", "1")]
    {
        assert_kept("Never", &line, &[(name, value)], &[]);
    }
    let world = assert_kept("Never", &["--api=off", "--wait-fro=x", "--", "true"], &[], &[]);
    assert_eq!(world.cluster.requests().len(), 0);
}

#[test]
fn no_action_of_a_command_line_with_a_mistake_is_carried_out() {
    let (quit, given) = (Endpoint::ok(), Endpoint::ok());
    let world = beside_envoy("Never", &quit, RUNNING);
    // It may be meant for the command, whose `--` was forgotten.
    let running = world.proa().flags(["-p", &given.url(), "curl", "-p", &given.url()]).start_bare();
    quit.request();
    world.set_state("proxy", ENDED);
    running.finish().expect(2, &["unexpected argument 'curl'"]);
    assert_eq!(given.more_requests(), 0);
}

#[test]
fn a_mistyped_sidecar_or_install_ends_nobody() {
    for line in [
        &["sidecar", "--nonsense", "--", "true"][..],
        &["sidecar", "--ready-file=/r", "--", "true"],
        &["sidcar", "--stop-signal=QUIT", "--", "true"],
        &["--until-exit=main", "--", "true"],
        &["install"],
        &["known", "x"],
    ] {
        let world = assert_kept("Never", line, &[], &[]);
        assert_eq!(world.cluster.requests().len(), 0, "{line:?}");
    }
}

#[test]
fn a_sidecar_that_starts_after_the_mistake_is_ended_too() {
    let quit = Endpoint::ok();
    let world = beside_envoy("Never", &quit, "waiting: {reason: ContainerCreating}");
    let running = world.proa().flags(["--wait-fro=x", "--", "true"]).start_bare();
    running.wait_stderr("waiting for the start of `proxy`");
    assert_eq!(quit.more_requests(), 0);
    world.set_state("proxy", RUNNING);
    quit.request();
    world.set_state("proxy", ENDED);
    running.finish().expect(2, &["every sidecar has exited"]);
}

#[test]
fn an_api_server_that_is_late_does_not_hide_the_sidecars_of_a_mistake() {
    let quit = Endpoint::ok();
    let world = beside_envoy("Never", &quit, RUNNING);
    let fault = world.cluster.inject(Fault::Reset);
    let running = world.proa().flags(["--wait-fro=x", "--", "true"]).start_bare();
    // Longer than a look takes where the Pod was never seen.
    running.wait_stderr("still waiting for");
    drop(fault);
    quit.request();
    world.set_state("proxy", ENDED);
    running.finish().expect(2, &["every sidecar has exited"]);
}

#[test]
fn whoever_stops_the_container_after_a_mistake_is_obeyed() {
    let world = beside_envoy("Never", &Endpoint::ok(), "waiting: {reason: ImagePullBackOff}");
    let running = world.proa().flags(["--wait-fro=x", "--", "true"]).start_bare();
    running.wait_stderr("waiting for the start of `proxy`");
    running.signal(libc::SIGTERM);
    running.finish().expect(2, &["asked to stop"]);
    let running =
        world.proa().flags(["--wait-fro=x", "--ready-timeout=1s", "--shutdown-timeout=1s", "--", "true"]);
    running.start_bare().finish().expect(2, &["no longer waiting for the start of `proxy`"]);
}

#[test]
fn a_mistake_ends_what_proa_wraps() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    let Some((main, sidecar)) = both(&world) else { return };
    let sidecar = sidecar.flag("--api=off").start(["sh", "-c", "echo up; while :; do sleep 0.01; done"]);
    sidecar.wait_stdout("up");
    let main = main.flags(["--wait-fro=x", "--api=off", "--", "true"]).start_bare();
    sidecar.finish().expect(0, &["the main container's proa asks this sidecar to stop"]);
    main.finish().expect(2, &["stop request to `web`"]);
}

#[test]
fn whoever_tries_proa_in_a_container_that_runs_ends_nobody_by_a_mistake() {
    let quit = Endpoint::ok();
    let world = beside_envoy("Never", &quit, RUNNING);
    world.make_ready("proxy");
    let Some(mut words) = unshare(&["--pid", "--fork", "--mount-proc"]) else { return };
    // The container's PID 1, which is not proa; and what `kubectl exec` starts beside it.
    let mut first = Command::new(words.remove(0)).args(words).args(["sleep", "60"]).spawn().expect("it runs");
    let unshared = first.id().cast_signed();
    eventually("the container runs", || !children(unshared).is_empty());
    let target = children(unshared)[0].to_string();
    let exec = ["nsenter", "-t", &target, "-U", "--preserve-credentials", "-m", "-p"];
    // Entering before it has its own /proc would show ours.
    eventually("it has its own /proc", || {
        let first = Command::new(exec[0]).args(&exec[1..]).args(["cat", "/proc/1/comm"]).output();
        first.is_ok_and(|output| output.stdout == b"sleep\n")
    });
    let tried = world.proa().through(exec).flags(["--wait-fro=x", "--", "true"]).start_bare().finish();
    crate::support::send(children(unshared)[0], libc::SIGKILL);
    let _ = first.wait();
    tried.expect(2, &["--wait-fro"]);
    assert_eq!((quit.more_requests(), world.cluster.requests().len()), (0, 0));
}

/// proa as `docker run` starts it: nothing of Kubernetes is there.
fn outside(world: &World) -> Proa {
    let nowhere = world.dir.join("nowhere");
    let proa = ["KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT", "PROA_CONTAINER", "PROA_POD_NAME"]
        .into_iter()
        .fold(world.proa(), Proa::without);
    proa.env("PROA_SERVICE_ACCOUNT_DIR", nowhere)
}

const NO_POD: &str = "there is no Pod to look at";

#[track_caller]
fn lines(finished: &Finished, sought: &str) -> usize {
    finished.stderr.lines().filter(|line| line.contains(sought)).count()
}

#[test]
fn outside_kubernetes_the_command_runs() {
    let world = World::alone();
    let finished = outside(&world).flag("--wait-for=envoy").run(["sh", "-c", "exit 7"]).expect(7, &[]);
    assert_eq!(lines(&finished, NO_POD), 1);
    assert_eq!(lines(&finished, "WARN"), 0, "{}", finished.stderr);
    let running =
        outside(&world).start(["sh", "-c", "trap 'exit 9' TERM; echo up; while :; do sleep 0.01; done"]);
    running.wait_stdout("up");
    running.signal(libc::SIGTERM);
    running.finish().expect(9, &[]);
    outside(&world).sidecar("web").run(["sh", "-c", "exit 7"]).expect(7, &[NO_POD]);
    assert_eq!(world.cluster.requests().len(), 0);
}

#[test]
fn outside_kubernetes_what_flags_name_is_waited_for_and_ended() {
    let (world, quit) = (World::alone(), Endpoint::ok());
    let file = world.dir.join("ready");
    let running = outside(&world)
        .flags([OsString::from("--wait-file"), file.clone().into(), "-p".into(), quit.url().into()])
        .start(["sh", "-c", "exit 7"]);
    running.wait_stderr("waiting for");
    std::fs::write(file, "").unwrap();
    running.finish().expect(7, &[&format!("POST {}: 200", quit.url())]);
    quit.request();
}

#[test]
fn outside_kubernetes_is_where_neither_variable_nor_service_account_is() {
    let world = World::alone();
    outside(&world).flag("--api=require").run(["true"]).expect(2, &["KUBERNETES_SERVICE_HOST"]);
    for name in ["KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"] {
        outside(&world).env(name, "443").run(["true"]).expect(2, &[]);
    }
    let account = world.cluster.service_account_dir().to_owned();
    outside(&world).env("PROA_SERVICE_ACCOUNT_DIR", account).run(["true"]).expect(2, &["are not set"]);
    outside(&world).flag("sidecar").start_bare().finish().expect(2, &["are not set"]);
}

#[test]
fn outside_kubernetes_a_mistake_is_told_and_nothing_else() {
    let world = World::alone();
    let finished = outside(&world).flags(["--wait-fro=x", "--", "true"]).start_bare().finish().expect(2, &[]);
    assert!(
        finished.stderr.starts_with("proa: error: ") && finished.stderr.ends_with("try '--help'.\n"),
        "{}",
        finished.stderr
    );
}

/// The kubelet's mounts know better who we are.
#[test]
fn a_container_that_the_pod_does_not_have_keeps_no_sidecar() {
    let quit = Endpoint::ok();
    let world = beside_envoy("Never", &quit, RUNNING);
    let Some(proa) = world.mounted("main", "pod") else { return };
    let running = proa.flag("--container=mian").start(["true"]);
    assert!(quit.request().starts_with("POST /quitquitquit "));
    world.set_state("proxy", ENDED);
    running.finish().expect(2, &["no container `mian` in this Pod", "every sidecar has exited"]);
}

fn disabled(world: &World) -> Proa {
    world.proa().env("PROA_DISABLED", "Yes")
}

#[test]
fn a_disabled_proa_only_runs_the_command() {
    let (quit, given) = (Endpoint::ok(), Endpoint::ok());
    let world = beside_envoy("Never", &quit, RUNNING);
    let flags = ["--wait-tcp=localhost:1", "--wait-for=proxy", "--env-file=/nowhere", "-p", &given.url()];
    let held = Held::in_dir(&world.dir, "exit 6");
    let at = address(31);
    // An orphan, which proa collects.
    let script = format!("(sleep 0.05 &) ; {}", held.command[2]);
    let running = disabled(&world).flags(flags).flags(["--status-address", &at]).start(["sh", "-c", &script]);
    running.wait_stdout("up");
    eventually("the orphan is collected", || children(running.pid()).len() == 1);
    held.let_go();
    running.finish().expect(6, &["PROA_DISABLED"]);
    assert_eq!((quit.more_requests(), given.more_requests(), world.cluster.requests().len()), (0, 0, 0));
    for off in ["0", "no", "FALSE", ""] {
        let proa = world.proa().env("PROA_DISABLED", off).flag("--ready-timeout=1s");
        proa.flag("--no-shutdown-auto").flag("--shutdown-timeout=1s").run(["true"]).expect(75, &[]);
    }
}

#[test]
fn a_disabled_sidecar_runs_its_command_until_that_ends_or_is_stopped() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    world.set_state("main", ENDED);
    let web = || disabled(&world).sidecar("web").flags(["--hold-term", "--until-exit=main"]);
    web().run(["sh", "-c", "exit 6"]).expect(6, &["PROA_DISABLED"]);
    let running = web().start(["sh", "-c", "trap 'exit 143' TERM; echo up; while :; do sleep 0.01; done"]);
    running.wait_stdout("up");
    running.signal(libc::SIGTERM);
    running.finish().expect(0, &["command ended: exit code 143"]);
    assert_eq!(world.cluster.requests().len(), 0);
}

#[test]
fn a_disabled_helper_lets_the_main_containers_start_and_ends() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    let file = world.dir.join("ready");
    let helper = disabled(&world).sidecar("web").flags([
        "--until-exit=main",
        "--wait-tcp=localhost:1",
        "--ready-file",
    ]);
    helper.flag(&file).start_bare().finish().expect(0, &["PROA_DISABLED", "wrote "]);
    assert!(file.exists());
    assert_eq!(world.cluster.requests().len(), 0);
}

#[test]
fn an_empty_variable_is_not_set() {
    let names = [
        "WAIT_FOR",
        "WAIT_TCP",
        "READY_TIMEOUT",
        "ON_TIMEOUT",
        "KILL_ALL",
        "KILL_SIGNAL",
        "SHUTDOWN_WHEN",
        "SHUTDOWN_AUTO",
        "NO_SHUTDOWN_AUTO",
        "SHUTDOWN_TIMEOUT",
        "API",
        "NAMESPACE",
        "STATUS_ADDRESS",
        "LOG_FORMAT",
        "DISABLED",
        "ENV_FILE",
    ];
    let world = World::alone();
    for empty in ["", " \n"] {
        let proa =
            names.into_iter().fold(world.proa(), |proa, name| proa.env(&format!("PROA_{name}"), empty));
        let finished = proa.run(["sh", "-c", "exit 5"]).expect(5, &["this is container `main`"]);
        assert_eq!(lines(&finished, "WARN"), 0, "{}", finished.stderr);
    }
    // Beside a main container, whose end it would else be told of before the command's.
    let world = World::with("Never", &[Beside::Regular("web")]);
    let sidecar = world.proa().sidecar("web").env("PROA_STOP_TIMEOUT", "").env("PROA_HOLD_TERM", "");
    sidecar.env("PROA_STOP_SIGNAL", "").run(["sh", "-c", "exit 5"]).expect(5, &[]);
}

#[test]
fn a_switch_is_on_or_off() {
    let world = World::alone();
    for (value, code) in [("1", 2), ("true", 2), ("YES", 2), ("0", 0), ("False", 0), ("no", 0)] {
        // Both at once is a contradiction.
        let proa = world.proa().env("PROA_SHUTDOWN_AUTO", value).flag("--no-shutdown-auto");
        proa.run(["true"]).expect(code, &[]);
    }
    let maybe = world.proa().env("PROA_ENV_FILE_OVERRIDE", "maybe").run(["true"]);
    maybe.expect(2, &["expected 1 or 0, true or false, yes or no", "PROA_ENV_FILE_OVERRIDE"]);
}

#[test]
fn an_unknown_variable_is_one_warning() {
    let world = World::alone();
    let link = "tcp://10.0.0.1:80";
    let mistyped =
        || world.proa().env("PROA_WAIT_FRO", "s3cr3t").env("PROA_PORT", link).env("PROA_UNTIL_EXIT", "x");
    let finished = mistyped().run(["true"]).expect(0, &["did you mean PROA_WAIT_FOR?"]);
    assert_eq!((lines(&finished, "WARN"), lines(&finished, "s3cr3t")), (1, 0), "{}", finished.stderr);
    mistyped().sidecar("main").run(["true"]).expect(0, &["did you mean PROA_WAIT_FOR?"]);
}

#[test]
fn what_is_close_to_a_flag_is_suggested_and_never_run() {
    for (line, said, unsaid) in [
        (&["--wait-fro=x", "--", "true"][..], "a similar argument exists: '--wait-for'", "-- --wait-fro"),
        (&["--wait-fro=x", "--", "true"], "'--wait-fro'", "stand after"),
        (&["sleep", "5"], "stand after `--`", "tip:"),
        (&["sidecar", "--hold-term", "20s", "--", "true"], "'--hold-term=20s'", "stand after"),
    ] {
        let output = Command::new(PROA).args(line).output().expect("proa runs");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2));
        assert!(text.contains(said) && !text.contains(unsaid), "{text}");
    }
}
