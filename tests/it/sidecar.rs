//! `proa sidecar`: a sidecar ends with its main container and not before, and a helper serves main containers
//! that proa is not in.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use localpod::cluster::Access;
use nix::libc;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::support::http::{Endpoint, Reply};
use crate::support::{Beside, Held, Proa, Running, World, children, eventually, say, send};

/// Says when it is up, and what ended it.
const LOYAL: [&str; 3] =
    ["sh", "-c", "trap 'echo told; exit 143' TERM; echo up; while :; do sleep 0.01; done"];
/// Knows SIGQUIT alone.
const QUITTER: [&str; 3] =
    ["sh", "-c", "trap '' TERM; trap 'echo quit; exit 0' QUIT; echo up; while :; do sleep 0.01; done"];
const DONE: &str = "terminated: {exitCode: 0, reason: Completed}";

/// A Pod of `main` and a sidecar `web`.
fn pod(policy: &str) -> World {
    World::with(policy, &[Beside::Regular("web")])
}

fn web(world: &World) -> Proa {
    world.proa().sidecar("web")
}

fn up(proa: Proa) -> Running {
    let running = proa.start(LOYAL);
    running.wait_stdout("up");
    running
}

#[test]
fn the_command_is_ended_once_the_main_container_has_and_that_is_no_failure() {
    let world = pod("Never");
    let running = up(web(&world));
    running.wait_stderr("running until the exit of `main`");
    world.set_state("main", "terminated: {exitCode: 3}");
    let finished = running.finish().expect(0, &["the main containers have exited", "stopped as asked"]);
    assert!(finished.stdout.contains("told"));
    assert_eq!(world.termination_message(), "");
}

#[test]
fn a_main_container_that_is_started_again_has_not_ended() {
    let world = pod("OnFailure");
    let running = up(web(&world));
    running.wait_stderr("running until the exit of `main`");
    world.set_state("main", "terminated: {exitCode: 3}");
    world.set_state("main", "running: {}");
    assert!(!running.stdout_so_far().contains("told"));
    world.set_state("main", DONE);
    running.finish().expect(0, &[]);
}

#[test]
fn no_connection_is_kept_where_the_main_container_is_always_started_again() {
    let world = pod("Always");
    let running = up(web(&world));
    running.wait_stderr("running until the exit of `main`");
    assert!(world.cluster.wait_for_connections(0, crate::support::PATIENCE), "the connection is kept");
    running.signal(libc::SIGTERM);
    running.finish().expect(0, &[]);
}

#[test]
fn an_end_of_its_own_is_the_commands() {
    for (policy, code) in [("Never", 3), ("OnFailure", 0)] {
        web(&pod(policy)).run(["sh", "-c", &format!("exit {code}")]).expect(code, &["command ended"]);
    }
}

#[test]
fn all_named_containers_must_have_ended() {
    let world = World::with("Never", &[Beside::Regular("web"), Beside::Regular("second")]);
    web(&world)
        .run(LOYAL)
        .expect(2, &["cannot tell which of the containers `second`, `main`", "--until-exit"]);
    let running = up(web(&world).flags(["--until-exit=main", "--until-exit=second"]));
    world.set_state("main", DONE);
    assert!(!running.stdout_so_far().contains("told"));
    world.set_state("second", DONE);
    running.finish().expect(0, &["running until the exit of `main`, `second`"]);
}

#[test]
fn only_success_counts_where_that_is_asked_for() {
    let world = pod("Never");
    let running = up(web(&world).flag("--until-exit-success=main"));
    world.set_state("main", "terminated: {exitCode: 3}");
    running.wait_stderr("`main` ended with exit code 3: the command runs on");
    running.signal(libc::SIGTERM);
    running.finish().expect(0, &[]);
}

#[test]
fn sigterm_is_an_order_and_other_signals_are_passed_on() {
    let world = pod("Never");
    let running = web(&world).flag("--stop-signal=QUIT").start(QUITTER);
    running.wait_stdout("up");
    running.signal(libc::SIGTERM);
    let finished = running.finish().expect(0, &["asked to stop", "stopping the command with SIGQUIT"]);
    assert!(finished.stdout.contains("quit"));
    let running =
        web(&world).start(["sh", "-c", "trap 'echo hup; exit 4' HUP; echo up; while :; do sleep 0.01; done"]);
    running.wait_stdout("up");
    running.signal(libc::SIGHUP);
    running.finish().expect(4, &[]);
}

#[test]
fn a_command_that_does_not_end_is_killed() {
    let world = pod("Never");
    let running = web(&world).flag("--stop-timeout=200ms").start(QUITTER);
    running.wait_stdout("up");
    world.set_state("main", DONE);
    running.finish().expect(0, &["sending SIGKILL (--stop-timeout)", "command ended: SIGKILL"]);
}

/// No group is led by it any more.
#[test]
fn a_command_that_has_left_its_process_group_is_killed_too() {
    let world = pod("Never");
    let script = "$SIG{TERM} = 'IGNORE'; setpgrp(0, getpgrp(getppid())) or die; $| = 1; print \"up\\n\"; sleep 1 while 1";
    let running = web(&world).flag("--stop-timeout=200ms").start(["perl", "-e", script]);
    running.wait_stdout("up");
    world.set_state("main", DONE);
    running.finish().expect(0, &["sending SIGKILL (--stop-timeout)", "command ended: SIGKILL"]);
}

/// Somebody is left in the group that gets the signal.
#[test]
fn a_command_that_has_left_its_process_group_gets_the_groups_signals_too() {
    let script = "fork or exec 'sleep', '60'; $SIG{TERM} = sub { exit 7 }; setpgrp(0, getpgrp(getppid())) or die; \
                  $| = 1; print \"up\\n\"; sleep 1 while 1";
    let flags = ["--api=off", "--forward-to=group"];
    let running = World::alone().proa().flags(flags).start(["perl", "-e", script]);
    running.wait_stdout("up");
    running.signal(libc::SIGTERM);
    running.finish().expect(7, &[]);
}

#[test]
fn a_client_on_loopback_may_end_it() {
    let at = format!("127.{}.{}.9:9400", std::process::id() % 199 + 17, std::process::id() / 199 % 250);
    let running = up(web(&pod("Never")).flags(["--status-address", &at]));
    let ask = |request: &str| crate::status::ask(&at, request);
    assert!(ask("GET /readyz").starts_with("HTTP/1.1 200 "));
    assert!(ask("GET /quitquitquit").starts_with("HTTP/1.1 405 "));
    assert!(ask("POST /quitquitquit").starts_with("HTTP/1.1 200 "));
    running.finish().expect(0, &["asked to stop at /quitquitquit"]);
}

#[test]
fn rights_that_are_missing_do_not_end_a_sidecar() {
    let world = pod("Never");
    world.cluster.authorize(Access::to(&[]));
    let running = up(web(&world));
    running.wait_stderr("cannot see when the main containers exit");
    running.signal(libc::SIGTERM);
    running.finish().expect(0, &["verbs: [\"watch\"]"]);
}

#[test]
fn it_may_wait_before_it_runs_its_command() {
    let world = pod("Never");
    let file = world.dir.join("go");
    let running = web(&world).flag(format!("--wait-file={}", file.display())).start(LOYAL);
    running.wait_stderr("(not there)");
    assert!(!running.stdout_so_far().contains("up"));
    fs::write(&file, "").unwrap();
    running.wait_stdout("up");
    world.set_state("main", DONE);
    running.finish().expect(0, &[]);
}

#[test]
fn a_place_that_makes_no_sense_is_refused() {
    let world = pod("Never");
    web(&world).flag("--until-exit=mian").run(LOYAL).expect(2, &["names `mian`", "there are `main`"]);
    web(&world).flag("--until-exit=web").run(LOYAL).expect(2, &["which is this container"]);
    World::alone().proa().sidecar("main").run(LOYAL).expect(2, &["`main` has no main container beside it"]);
    assert!(world.termination_message().contains("which is this container"));
}

/// The proas of containers `main` and `web` of one Pod, as the kubelet starts them.
pub(crate) fn both(world: &World) -> Option<(Proa, Proa)> {
    let words = serde_saphyr::from_str("[/proa, sidecar, --, web]").unwrap();
    world.update_container("web", |web| web.command = Some(words));
    world.make_ready("web");
    let sidecar = world.mounted("web", "pod")?.sidecar("web");
    Some((world.mounted("main", "pod")?, sidecar))
}

#[test]
fn the_main_containers_proa_ends_it_without_any_flag() {
    let world = pod("Never");
    let Some((main, sidecar)) = both(&world) else { return };
    let sidecar = up(sidecar.flag("--api=off"));
    let main = main.start(["sh", "-c", "exit 4"]);
    sidecar.finish().expect(0, &["the main container's proa asks this sidecar to stop"]);
    world.set_state("web", DONE);
    main.finish().expect(4, &["stop request to `web`", "every sidecar has exited"]);
}

#[test]
fn of_several_main_containers_the_first_does_not_end_it() {
    let world = World::with("Never", &[Beside::Regular("web"), Beside::Regular("second")]);
    world.make_ready("second");
    let Some((main, sidecar)) = both(&world) else { return };
    let sidecar = up(sidecar.flags(["--until-exit=main", "--until-exit=second"]));
    sidecar.wait_stderr("running until the exit of `main`, `second`");
    main.flag("--ignore=second")
        .run(["true"])
        .expect(0, &["stop request to `web`: accepted, once other containers have exited too"]);
    assert!(!sidecar.stdout_so_far().contains("told"));
    world.set_state("main", DONE);
    world.set_state("second", DONE);
    sidecar.finish().expect(0, &["the main containers have exited"]);
}

#[test]
fn without_the_api_the_last_of_several_main_containers_ends_it() {
    let world = World::with("Never", &[Beside::Regular("web"), Beside::Regular("second")]);
    let Some((main, sidecar)) = both(&world) else { return };
    let Some(second) = world.mounted("second", "pod") else { return };
    let sidecar = up(sidecar.flags(["--api=off", "--until-exit=main second"]));
    let held = Held::in_dir(&world.dir, "");
    let second = second.flag("--api=off").start(&held.command);
    second.wait_stdout("up");
    let Some(again) = world.mounted("main", "pod") else { return };
    for main in [main, again] {
        let first =
            main.flag("--api=off").run(["true"]).expect(0, &["sidecars are left running for `second`"]);
        assert!(!first.stderr.contains("stop request"), "{}", first.stderr);
        assert!(!sidecar.stdout_so_far().contains("told"), "the same main container does not count twice");
    }
    held.let_go();
    second.finish().expect(0, &["stop request to `web`: accepted"]);
    sidecar.finish().expect(0, &["the main container's proa asks this sidecar to stop"]);
}

#[test]
fn one_that_still_waits_is_ended_too() {
    let world = pod("Never");
    let Some((main, sidecar)) = both(&world) else { return };
    let sidecar = sidecar.flag("--wait-file=/never").start(LOYAL);
    sidecar.wait_stderr("(not there)");
    main.flag("--api=off").run(["true"]).expect(0, &["stop request to `web`: accepted"]);
    let finished = sidecar
        .finish()
        .expect(0, &["the main container's proa asks this sidecar to stop", "stopped as asked"]);
    assert_eq!(finished.stdout, "");
}

#[test]
fn without_any_right_they_find_one_another_all_the_same() {
    let world = pod("Never");
    let Some((main, sidecar)) = both(&world) else { return };
    let sidecar = up(sidecar.flag("--api=off"));
    main.flag("--api=off")
        .run(["true"])
        .expect(0, &["stop request to `web`: accepted", "has closed its endpoint"]);
    sidecar.finish().expect(0, &["the main container's proa asks this sidecar to stop"]);
    assert_eq!(world.cluster.requests().len(), 0);
}

#[test]
fn a_wrapped_sidecar_that_has_failed_meanwhile_is_named() {
    let world = pod("Never");
    let Some((main, sidecar)) = both(&world) else { return };
    let held = Held::in_dir(&world.dir, "");
    let running = main.start(&held.command);
    running.wait_stderr("command started");
    sidecar.run(["sh", "-c", "exit 4"]).expect(4, &[]);
    world.set_state("web", "terminated: {exitCode: 4}");
    held.let_go();
    running.finish().expect(0, &["no proa is there", "sidecar `web` ended with exit code 4"]);
}

#[test]
fn a_sidecar_that_does_not_hear_is_not_waited_for_since_it_waits_for_us() {
    let world = pod("Never");
    let Some((main, _)) = both(&world) else { return };
    main.flag("--shutdown-timeout=1h").run(["true"]).expect(0, &["stop request to `web`: no proa is there"]);
}

/// Main's proa at work, and that of `web` with this command, which has seen that it has a main container.
fn beside_main(world: &World, flags: &[&str], command: [&str; 3]) -> Option<(Running, Running)> {
    let (main, sidecar) = both(world)?;
    let sidecar = sidecar.flags(flags).start(command);
    sidecar.wait_stdout("up");
    sidecar.wait_stderr("running until the exit of `main`");
    Some((up(main), sidecar))
}

fn is_held_back(flags: &[&str], command: [&str; 3], signal: i32, answer: &str) {
    let world = pod("Always");
    let Some((main, sidecar)) = beside_main(&world, flags, command) else { return };
    world.cluster.mark_deleted("default", "pod", Duration::from_secs(30));
    sidecar.signal(signal);
    sidecar.wait_stderr("held back until the proa of `main` is gone");
    assert!(!sidecar.stdout_so_far().contains(answer));
    main.signal(libc::SIGTERM);
    main.finish().expect(143, &[]);
    sidecar.finish().expect(0, &["the main container's proa is gone"]);
}

#[test]
fn the_pods_end_is_held_back_until_the_main_containers_proa_is_gone() {
    is_held_back(&["--hold-term"], LOYAL, libc::SIGTERM, "told");
}

#[test]
fn the_stop_signal_may_be_the_images_own() {
    // What the kubelet sends to an image with `STOPSIGNAL SIGQUIT`.
    is_held_back(&["--hold-term", "--stop-signal=QUIT"], QUITTER, libc::SIGQUIT, "quit");
}

#[test]
fn nothing_is_held_back_where_this_container_alone_is_to_end() {
    let world = pod("Always");
    let Some((_main, sidecar)) = beside_main(&world, &["--hold-term"], LOYAL) else { return };
    sidecar.signal(libc::SIGTERM);
    sidecar.finish().expect(0, &["held back", "the Pod goes on"]);
}

#[test]
fn a_main_container_that_is_killed_holds_nothing_back() {
    let world = pod("Always");
    let Some((mut main, sidecar)) = beside_main(&world, &["--hold-term"], LOYAL) else { return };
    world.cluster.mark_deleted("default", "pod", Duration::from_secs(30));
    sidecar.signal(libc::SIGTERM);
    sidecar.wait_stderr("held back");
    let command = children(main.pid());
    main.signal(libc::SIGKILL);
    main.end();
    // In a container it would have been killed with its process 1.
    for pid in command {
        send(pid, libc::SIGKILL);
    }
    sidecar.finish().expect(0, &["the main container's proa is gone"]);
}

#[test]
fn no_hold_is_longer_than_asked_for_or_than_the_grace_period_allows() {
    for (flag, grace) in [("--hold-term=200ms", 30), ("--hold-term", 2)] {
        let world = pod("Always");
        world.update(|pod| pod.spec.as_mut().unwrap().termination_grace_period_seconds = Some(grace));
        let Some((_main, sidecar)) = beside_main(&world, &[flag], LOYAL) else { return };
        world.cluster.mark_deleted("default", "pod", Duration::from_secs(grace.unsigned_abs()));
        sidecar.signal(libc::SIGTERM);
        sidecar.finish().expect(0, &["--hold-term has run out"]);
    }
}

#[test]
fn a_deletion_with_a_grace_period_of_its_own_shortens_the_hold() {
    let world = pod("Always");
    let Some((_main, sidecar)) = beside_main(&world, &["--hold-term"], LOYAL) else { return };
    world.cluster.mark_deleted("default", "pod", Duration::from_secs(1));
    sidecar.signal(libc::SIGTERM);
    sidecar.finish().expect(0, &["--hold-term has run out"]);
}

#[test]
fn a_clock_that_is_ahead_shortens_no_hold() {
    let world = pod("Always");
    let Some((main, sidecar)) = both(&world) else { return };
    let sidecar = up(sidecar.flag("--hold-term"));
    sidecar.wait_stderr("running until the exit of `main`");
    // Longer than the least that a kubelet gives.
    let main = main.start(["sh", "-c", "trap 'sleep 4; exit 3' TERM; echo up; while :; do sleep 0.01; done"]);
    main.wait_stdout("up");
    // By the node's clock the Pod was to be gone long ago.
    world.cluster.mark_deleted("default", "pod", Duration::ZERO);
    world.update(|pod| pod.metadata.deletion_grace_period_seconds = Some(30));
    sidecar.signal(libc::SIGTERM);
    main.signal(libc::SIGTERM);
    main.finish().expect(3, &[]);
    let finished = sidecar.finish().expect(0, &["the main container's proa is gone"]);
    assert!(!finished.stderr.contains("--hold-term has run out"), "{}", finished.stderr);
}

#[test]
fn all_main_containers_are_waited_for_even_after_one_has_failed() {
    let world = World::with("Never", &[Beside::Regular("web"), Beside::Regular("second")]);
    let Some((_, sidecar)) = both(&world) else { return };
    let mains = ["--until-exit-success=main", "--until-exit=second"];
    let sidecar = up(sidecar.flag("--hold-term").flags(mains));
    world.set_state("main", "terminated: {exitCode: 3}");
    sidecar.wait_stderr("the command runs on (--until-exit-success)");
    world.cluster.mark_deleted("default", "pod", Duration::from_secs(30));
    sidecar.signal(libc::SIGTERM);
    sidecar.finish().expect(0, &["held back until the proa of `second`, `main` is gone"]);
}

#[test]
fn a_main_container_that_fails_is_no_success_whoever_says_so() {
    let world = pod("Never");
    let Some((main, sidecar)) = both(&world) else { return };
    let sidecar = up(sidecar.flags(["--api=off", "--until-exit-success=main"]));
    main.flag("--api=off")
        .run(["sh", "-c", "exit 3"])
        .expect(3, &["stop request to `web`: accepted, once other containers have exited too"]);
    assert!(!sidecar.stdout_so_far().contains("told"));
    let Some(main) = world.mounted("main", "pod") else { return };
    main.flag("--api=off").run(["true"]).expect(0, &["stop request to `web`: accepted"]);
    sidecar.finish().expect(0, &[]);
}

#[test]
fn one_that_is_ending_already_still_answers() {
    let world = pod("Never");
    let Some((main, sidecar)) = both(&world) else { return };
    let held = Held::in_dir(&world.dir, "");
    let script = format!("trap 'echo ending; {}' TERM; {}", held.command[2], held.command[2]);
    let sidecar = sidecar.flag("--api=off").start(["sh", "-c", &script]);
    sidecar.wait_stdout("up");
    sidecar.signal(libc::SIGTERM);
    sidecar.wait_stdout("ending");
    let main = main.flag("--api=off").start(["true"]);
    main.wait_stderr("stop request to `web`: accepted");
    held.let_go();
    sidecar.finish().expect(0, &[]);
    main.finish().expect(0, &[]);
}

#[test]
fn a_short_grace_period_is_no_reason_to_kill_at_once() {
    let world = pod("Always");
    world.update(|pod| pod.spec.as_mut().unwrap().termination_grace_period_seconds = Some(1));
    let running = web(&world).start([
        "sh",
        "-c",
        "trap 'sleep 0.3; echo clean; exit' TERM; echo up; while :; do sleep 0.01; done",
    ]);
    running.wait_stdout("up");
    running.wait_stderr("running until the exit of `main`");
    world.cluster.mark_deleted("default", "pod", Duration::from_secs(1));
    running.signal(libc::SIGTERM);
    assert!(running.finish().expect(0, &["command ended: exit code 0"]).stdout.contains("clean"));
}

#[test]
fn what_it_waits_for_is_pointless_once_the_main_container_has_ended() {
    let world = pod("Never");
    let running = web(&world).flag("--wait-file=/never").start(LOYAL);
    running.wait_stderr("(not there)");
    world.set_state("main", DONE);
    let finished = running.finish().expect(0, &["the main containers have exited"]);
    assert_eq!(finished.stdout, "");
}

#[test]
fn containers_cannot_be_waited_for_without_the_api() {
    let world = pod("Never");
    let nowhere = world.dir.join("nowhere");
    web(&world)
        .flags(["--wait-for=main", "--service-account-dir"])
        .flag(nowhere)
        .run(LOYAL)
        .expect(2, &["no service account"]);
}

#[test]
fn two_proas_in_one_container_are_refused() {
    let world = World::alone();
    let Some(outer) = world.mounted("main", "pod") else { return };
    outer.run([crate::support::PROA, "--", "true"]).expect(2, &["another proa runs in container `main`"]);
}

/// A helper beside `main` and a proxy.
fn helper(world: &World) -> Proa {
    world.proa().sidecar("helper")
}

fn helped(policy: &str) -> World {
    World::with(policy, &[Beside::Regular("proxy"), Beside::Regular("helper")])
}

#[test]
fn a_helper_tells_when_to_start_and_ends_the_sidecars_afterwards() {
    let world = helped("Never");
    let (file, quit) = (world.dir.join("ready"), Endpoint::ok());
    fs::write(&file, "of an earlier run").unwrap();
    let running = helper(&world)
        .flags(["--wait-for=proxy", "--until-exit=main", "-p", &quit.url()])
        .flag(format!("--ready-file={}", file.display()))
        .start_bare();
    running.wait_stderr("waiting for proxy");
    assert!(!file.exists(), "left from an earlier run");
    world.make_ready("proxy");
    eventually("the ready file", || file.exists());
    assert_eq!(quit.more_requests(), 0);
    world.set_state("main", "terminated: {exitCode: 3}");
    assert!(quit.request().starts_with("POST "));
    world.set_state("proxy", DONE);
    running.finish().expect(0, &["the main containers have exited", "every sidecar has exited"]);
}

#[test]
fn a_helper_ends_nobody_where_success_is_asked_for_and_does_not_come() {
    let world = helped("Never");
    let quit = Endpoint::replying(vec![Reply::Status(200, None)]);
    let running = helper(&world).flags(["--until-exit-success=main", "-p", &quit.url()]).start_bare();
    running.wait_stderr("running until the exit of `main`");
    world.set_state("main", "terminated: {exitCode: 3}");
    running.finish().expect(0, &["sidecars are left running (--until-exit-success)"]);
    assert_eq!(quit.more_requests(), 0);
}

#[test]
fn a_helper_is_ready_while_the_main_containers_may_run() {
    let world = helped("Never");
    let at = format!("127.{}.{}.8:9400", std::process::id() % 199 + 17, std::process::id() / 199 % 250);
    let ready = || crate::status::ask(&at, "GET /readyz")[9..12].to_owned();
    let quit = Endpoint::replying(vec![Reply::Hang]);
    let running = helper(&world)
        .flags(["--wait-for=proxy", "--until-exit=main", "--status-address", &at, "-p", &quit.url()])
        .start_bare();
    running.wait_stderr("waiting for proxy");
    assert_eq!(ready(), "503");
    world.make_ready("proxy");
    running.wait_stderr("running until the exit of `main`");
    assert_eq!(ready(), "200");
    world.set_state("main", DONE);
    quit.request();
    assert_eq!(ready(), "503");
}

#[test]
fn a_helper_that_still_waits_ends_the_sidecars_after_main_all_the_same() {
    let world = helped("Never");
    let (quit, ready) = (Endpoint::ok(), world.dir.join("ready"));
    let running = helper(&world)
        .flags(["--wait-for=proxy", "--until-exit=main", "--shutdown-timeout=1s", "-p", &quit.url()])
        .flag(format!("--ready-file={}", ready.display()))
        .start_bare();
    running.wait_stderr("waiting for proxy");
    world.set_state("main", DONE);
    assert!(quit.request().starts_with("POST "));
    running.finish().expect(0, &["the main containers have exited"]);
    assert!(!ready.exists());
}

/// The main container's proa may be killed before it has asked everybody, or not know of everybody.
#[test]
fn a_helper_stays_until_main_has_exited_though_its_proa_has_notified_it() {
    let world = helped("Never");
    world.make_ready("proxy");
    world.make_ready("helper");
    let (quit, mains) = (Endpoint::ok(), Endpoint::replying(vec![Reply::Hang]));
    let Some((helper, main)) = world.mounted("helper", "pod").zip(world.mounted("main", "pod")) else {
        return;
    };
    let helper = helper.sidecar("helper").flags(["--until-exit=main", "-p", &quit.url()]).start_bare();
    helper.wait_stderr("running until the exit of `main`");
    let main = main.flags(["-p", &mains.url()]).start(["true"]);
    mains.request();
    main.wait_stderr("accepted, once the main containers have exited");
    main.signal(libc::SIGKILL);
    assert_eq!(quit.more_requests(), 0);
    world.set_state("main", "terminated: {exitCode: 137}");
    assert!(quit.request().starts_with("POST "));
    world.set_state("proxy", DONE);
    helper.finish().expect(0, &["the main containers have exited", "every sidecar has exited"]);
}

/// A helper that waits for what `flag` says, was told that main has exited, and sees nothing of the Pod from then on. Its gate opens
/// once `go` says so.
fn ends_the_sidecars_by_mains_word(flag: &str, go: impl Fn(&World)) {
    let (world, quit) = (helped("Never"), Endpoint::ok());
    world.make_ready("helper");
    let Some((helper, main)) = world.mounted("helper", "pod").zip(world.mounted("main", "pod")) else {
        return;
    };
    let flag = flag.replace("FILE", &world.dir.join("go").display().to_string());
    let flags = ["--until-exit=main", "--shutdown-timeout=1s", "-p", &quit.url(), &flag];
    let helper = helper.sidecar("helper").flags(flags).start_bare();
    helper.wait_stderr("waiting for");
    main.flags(["--wait-for=helper", "--shutdown-timeout=1s"])
        .run(["true"])
        .expect(0, &["accepted, once the main containers have exited"]);
    let _down = world.cluster.refuse();
    world.cluster.hang_up();
    go(&world);
    helper.finish().expect(0, &["the API server has shown nothing for 30s", "quitquitquit: 200"]);
    assert_eq!(quit.more_requests(), 1);
}

/// The message is not sent again; without it nothing would show that main has exited.
#[test]
fn a_helper_that_was_notified_while_it_waited_ends_the_sidecars_without_the_api() {
    ends_the_sidecars_by_mains_word("--wait-file=FILE", |world| fs::write(world.dir.join("go"), "").unwrap());
}

#[test]
fn a_helper_that_was_notified_and_waits_for_ever_ends_the_sidecars_without_the_api() {
    ends_the_sidecars_by_mains_word("--wait-for=proxy", |_| {});
}

/// The last main container may be killed before it says anything.
#[test]
fn a_helper_that_was_told_of_an_end_by_name_ends_the_sidecars_without_the_api() {
    let told = [
        (&["--until-exit=main"][..], ["ended other 0\n", "ended main 0\n"]),
        // Without a name all of them count: who asks it to quit speaks for them, and nobody else is heeded.
        (&["--shutdown-when=success"], ["ended other 3\n", "quit main 0\n"]),
    ]
    .map(|(flags, said)| {
        let (world, quit) = (helped("Never"), Endpoint::ok());
        world.update_container("main", |main| {
            main.command = Some(["/proa", "--", "work"].map(str::to_owned).into());
        });
        let helper = world.mounted("helper", "pod")?.sidecar("helper").flags(flags);
        let helper = helper.flags(["--shutdown-timeout=1s", "-p", &quit.url()]).start_bare();
        helper.wait_stderr("running until the exit of `main`");
        for line in said {
            assert_eq!(say(&world, "helper/q", line), "wait\nby itself\n");
        }
        let down = world.cluster.refuse();
        world.cluster.hang_up();
        Some((helper, quit, down, world))
    });
    for (helper, _quit, _down, _world) in told.into_iter().flatten() {
        helper.finish().expect(0, &["the API server has shown nothing for 30s", "quitquitquit: 200"]);
    }
}

/// It waits in vain; main runs all the same, and its sidecars need somebody who shuts them down.
#[test]
fn a_helper_that_waits_in_vain_shuts_the_sidecars_down_all_the_same() {
    let wait = ["--wait-for=proxy", "--ready-timeout=200ms", "--until-exit=main"];
    let world = helped("Never");
    let quit = Endpoint::ok();
    let running = helper(&world).flags(wait).flags(["-p", &quit.url()]).start_bare();
    running.wait_stderr("staying until the main containers have exited, to shut down the sidecars");
    assert_eq!(quit.more_requests(), 0);
    world.set_state("main", "terminated: {exitCode: 3}");
    assert!(quit.request().starts_with("POST "));
    world.set_state("proxy", DONE);
    running.finish().expect(75, &["every sidecar has exited"]);
    // The kubelet starts this one again, and it waits once more.
    let world = helped("OnFailure");
    let quit = Endpoint::ok();
    helper(&world).flags(wait).flags(["-p", &quit.url()]).start_bare().finish().expect(75, &[]);
    assert_eq!(quit.more_requests(), 0);
}

#[test]
fn a_ready_file_is_not_there_for_a_moment_before_its_time() {
    let world = helped("Never");
    let ready = world.dir.join("ready");
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK).unwrap();
    inotify.add_watch(&*world.dir.join("."), AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO).unwrap();
    let running = helper(&world)
        .flags(["--wait-for=proxy", "--until-exit=main"])
        .flag(format!("--ready-file={}", ready.display()))
        .start_bare();
    running.wait_stderr("waiting for proxy");
    let appeared = inotify.read_events().unwrap();
    assert!(appeared.iter().all(|event| event.name.as_deref() != Some("ready".as_ref())), "{appeared:?}");
    assert!(
        appeared.iter().any(|event| event.name.as_deref() == Some(".ready.proa".as_ref())),
        "{appeared:?}"
    );
    world.make_ready("proxy");
    eventually("a ready file", || ready.exists());
}

#[test]
fn a_helper_that_is_asked_to_end_does() {
    let world = helped("Never");
    let running = helper(&world).flag("--until-exit=main").start_bare();
    running.wait_stderr("running until the exit of `main`");
    running.signal(libc::SIGTERM);
    running.finish().expect(0, &["asked to stop"]);
}

#[test]
fn a_ready_file_that_cannot_be_written_is_reported_before_anything_is_waited_for() {
    let world = helped("Never");
    let missing = world.dir.join("nowhere/ready");
    helper(&world)
        .flag(format!("--ready-file={}", missing.display()))
        .start_bare()
        .finish()
        .expect(73, &["--ready-file", "nowhere/ready", "No such file"]);
    assert_eq!(world.cluster.requests().len(), 0);
}

#[test]
fn a_helper_needs_the_api() {
    let world = helped("Never");
    helper(&world).flag("--api=off").start_bare().finish().expect(2, &["--api=off forbids"]);
    world.cluster.authorize(Access::to(&[]));
    helper(&world).flag("--until-exit=main").start_bare().finish().expect(77, &["verbs: [\"watch\"]"]);
}

fn install(destination: &std::path::Path) -> (i32, String) {
    let output = std::process::Command::new(crate::support::PROA)
        .arg("install")
        .arg(destination)
        .env("PROA_TERMINATION_MESSAGE_PATH", "/dev/null")
        .output()
        .unwrap();
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn proa_installs_itself_whole_or_not_at_all() {
    let world = World::alone();
    let directory = world.dir.join("bin");
    fs::create_dir(&directory).unwrap();
    for _ in 0..2 {
        assert_eq!(install(&directory).0, 0, "an earlier one is replaced");
    }
    // This binary is as it is built; CI installs a static one.
    let warned = install(&directory).1.contains("this binary is dynamically linked");
    assert_eq!(warned, !cfg!(target_feature = "crt-static"));
    let installed = directory.join("proa");
    assert_eq!(fs::read(&installed).unwrap(), fs::read(crate::support::PROA).unwrap());
    assert_eq!(fs::metadata(&installed).unwrap().permissions().mode() & 0o777, 0o755);
    assert_eq!(install(&world.dir.join("other")).0, 0);
    let (code, stderr) = install(&world.dir.join("nowhere/proa"));
    assert!(code == 73 && stderr.contains("nowhere/proa"), "{code} {stderr}");
    let names: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["proa"], "nothing half-written is left");
}

#[test]
fn several_may_install_at_once_where_each_is_process_1() {
    let world = World::alone();
    let Some(wrapper) = crate::support::unshare(&["--pid", "--fork"]) else { return };
    let volume = world.dir.join("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join(".proa.1"), "left over by one that was killed").unwrap();
    let start = || {
        let mut command = std::process::Command::new(&wrapper[0]);
        command.args(&wrapper[1..]).args([crate::support::PROA, "install"]).arg(&volume);
        command.stderr(std::process::Stdio::piped()).spawn().unwrap()
    };
    let all: Vec<_> = (0..4).map(|_| start()).collect();
    for one in all {
        let output = one.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(fs::read_dir(&volume).unwrap().count(), 2, "nothing half-written is left");
}

#[test]
fn a_volume_without_room_is_left_as_it_was() {
    let world = World::alone();
    let Some(wrapper) = crate::support::unshare(&[]) else { return };
    let volume = world.dir.join("volume");
    fs::create_dir(&volume).unwrap();
    let script = format!(
        "mount -t tmpfs -o size=64k tmpfs {0} && {1} install {0}; code=$?; ls -A {0} | wc -l; exit $code",
        volume.display(),
        crate::support::PROA
    );
    let output = std::process::Command::new(&wrapper[0])
        .args(&wrapper[1..])
        .args(["sh", "-c", &script])
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(73), "{stderr}");
    assert!(stderr.contains("No space left"), "{stderr}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "0");
}
