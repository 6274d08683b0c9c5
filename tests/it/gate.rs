//! The command starts once every selected sidecar is ready, and not if it never will be.

use crate::support::{Beside, Running, World};

fn started(running: &Running) -> bool {
    running.stderr_so_far().contains("command started")
}

/// Starts a command that says `up`, and waits until proa has seen the Pod and waits for `name`.
fn waiting(world: &World, flags: &[&str], name: &str) -> Running {
    let running = world.proa().flag("--shutdown-when=never").flags(flags).start(["echo", "up"]);
    running.wait_stderr(&format!("waiting for {name}"));
    running
}

#[test]
fn the_command_starts_when_every_sidecar_is_ready() {
    let world = World::with("Never", &[Beside::Regular("web"), Beside::Native("db")]);
    let running = waiting(&world, &[], "db (running, not ready), web (running, not ready)");
    world.make_ready("db");
    running.wait_stderr("waiting for web (running, not ready)");
    assert!(!started(&running));
    world.make_ready("web");
    let finished = running.finish().expect(0, &["gate open"]);
    assert_eq!(finished.stdout, "up\n");
}

#[test]
fn a_native_sidecar_is_waited_for() {
    let world = World::with("Never", &[Beside::Native("db")]);
    let running = waiting(&world, &[], "db");
    assert!(!started(&running));
    world.make_ready("db");
    running.finish().expect(0, &[]);
}

#[test]
fn our_own_readiness_is_not_waited_for() {
    World::alone().proa().run(["true"]).expect(0, &["sidecars: none"]);
}

#[test]
fn selectors_choose_whom_to_wait_for() {
    let world = World::with("Never", &[Beside::Regular("web"), Beside::Regular("log")]);
    let running = waiting(&world, &["--wait-for=web"], "web");
    world.make_ready("web");
    running.finish().expect(0, &[]);
    world.update_status("web", |status| status.ready = false);
    let running = waiting(&world, &["--ignore", "web absent"], "log");
    world.make_ready("log");
    running.finish().expect(0, &[]);
    world.proa().flag("--wait-for=wbe").run(["true"]).expect(2, &["`wbe`", "`web`, `log`"]);
}

#[test]
fn a_sidecar_that_ended_for_good_is_a_refusal() {
    for (policy, code) in [("Never", 1), ("Never", 0), ("OnFailure", 0)] {
        let world = World::with(policy, &[Beside::Regular("web")]);
        let running = waiting(&world, &[], "web");
        world.set_state("web", &format!("terminated: {{exitCode: {code}, reason: OOMKilled}}"));
        let finished = running.finish().expect(69, &["`web` exited for good", "OOMKilled"]);
        assert_eq!(finished.stdout, "");
        assert!(
            world.termination_message().contains("`web` exited for good"),
            "{}",
            world.termination_message()
        );
    }
}

#[test]
fn a_sidecar_that_will_be_started_again_is_waited_for() {
    for (policy, code) in [("OnFailure", 1), ("Always", 0), ("Always", 1)] {
        let world = World::with(policy, &[Beside::Regular("web")]);
        let running = waiting(&world, &[], "web (running");
        world.set_state("web", &format!("terminated: {{exitCode: {code}}}"));
        running.wait_stderr(&format!("web (ended with exit code {code}"));
        world.set_state("web", "waiting: {reason: CrashLoopBackOff}");
        running.wait_stderr("web (CrashLoopBackOff");
        world.set_state("web", "running: {}");
        world.make_ready("web");
        running.finish().expect(0, &["gate open"]);
    }
}

#[test]
fn running_out_of_time_names_the_sidecars_and_why() {
    let world = World::with("Never", &[Beside::Regular("web"), Beside::Regular("log")]);
    world.set_state("web", "waiting: {reason: ImagePullBackOff}");
    world.proa().flags(["--ready-timeout=2s", "--shutdown-when=never"]).run(["true"]).expect(
        75,
        &["not ready within", "web (ImagePullBackOff)", "log (running, not ready)", "--ready-timeout"],
    );
    assert!(world.termination_message().contains("web (ImagePullBackOff)"));
}

#[test]
fn running_out_of_time_may_run_the_command() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    let proa = world.proa().flags(["--ready-timeout=2s", "--on-timeout=run", "--shutdown-when=never"]);
    let finished = proa.run(["echo", "up"]).expect(0, &["going on all the same", "web"]);
    assert_eq!(finished.stdout, "up\n");
}

#[test]
fn a_pod_that_is_being_deleted_does_not_start_its_command() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    let running = waiting(&world, &[], "web");
    world.cluster.mark_deleted("default", "pod", std::time::Duration::from_secs(30));
    let finished = running.finish().expect(143, &["being deleted"]);
    assert_eq!(finished.stdout, "");
    let world = World::with("Never", &[Beside::Regular("web")]);
    let running = waiting(&world, &[], "web");
    world.cluster.remove("default", "pod");
    running.finish().expect(143, &["being deleted"]);
}

#[test]
fn an_evicted_pod_does_not_start_its_command() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    let running = waiting(&world, &[], "web");
    world.update(|pod| pod.status.get_or_insert_default().phase = Some("Failed".into()));
    running.finish().expect(143, &["the Pod has ended"]);
}

#[test]
fn a_sidecar_that_is_called_ready_while_the_kubelet_ends_the_pod_is_not() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    let running = waiting(&world, &[], "web");
    // What a kubelet reports past the active deadline: the probes are gone, the phase is not final yet.
    world.update(|pod| {
        let status = pod.status.get_or_insert_default();
        let condition = "{type: ContainersReady, status: 'False', reason: PodFailed}";
        status.conditions = Some(vec![serde_saphyr::from_str(condition).unwrap()]);
        status.container_statuses.iter_mut().flatten().for_each(|status| status.ready = true);
    });
    let finished = running.finish().expect(143, &["the Pod has ended"]);
    assert_eq!(finished.stdout, "");
}

#[test]
fn logs_are_json_when_asked_for() {
    let finished = World::alone().proa().env("PROA_LOG_FORMAT", "json").run(["true"]).expect(0, &[]);
    for line in finished.stderr.lines() {
        let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert!(value["message"].is_string(), "{line}");
    }
}

#[test]
fn a_normal_run_logs_a_handful_of_lines_and_no_arguments() {
    let finished = World::alone().proa().run(["echo", "s3cret"]).expect(0, &[]);
    assert!(finished.stderr.lines().count() <= 8, "{}", finished.stderr);
    assert!(!finished.stderr.contains("s3cret"), "{}", finished.stderr);
    let finished = World::alone().proa().env("RUST_LOG", "trace").run(["echo", "s3cret"]).expect(0, &[]);
    assert!(!finished.stderr.contains("s3cret"), "{}", finished.stderr);
}
