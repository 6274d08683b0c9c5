//! `--kill` and `--kill-all` signal the processes of a shared process namespace, and say so where there is none.

use std::ffi::OsString;

use crate::support::{Beside, World, puppet, unshare, write_executable};

/// As a Pod with `shareProcessNamespace: true`: a pause process as PID 1, a sidecar that says what ended
/// it, and proa beside them.
fn shared(flags: &[&str]) -> Option<String> {
    let mut wrapper: Vec<OsString> =
        unshare(&["--pid", "--fork", "--mount-proc"])?.into_iter().map(Into::into).collect();
    let world = World::with("Never", &[Beside::Regular("web")]);
    world.make_ready("web");
    world.update(|pod| pod.spec.get_or_insert_default().share_process_namespace = Some(true));
    let (log, sidecar) = (world.dir.join("sidecar.log"), world.dir.join("my-sidecar"));
    write_executable(&sidecar, &std::fs::read(puppet()).expect("the puppet"));
    // PID 1 survives any signal that it does not handle, as pause does; it ends when proa does.
    let script = "sidecar=$1 log=$2; shift 2; $sidecar signals --count 1 --log $log & \
                  until grep -q ready $log 2>/dev/null; do sleep 0.01; done; \"$@\"; code=$?; \
                  wait; exit $code";
    wrapper.extend(["sh", "-c", script, "sh"].map(OsString::from));
    wrapper.extend([sidecar.into(), log.clone().into()]);
    world
        .proa()
        .through(wrapper)
        .flags(["--ignore=web", "--shutdown-timeout=20s"])
        .flags(flags)
        .run(["sh", "-c", "exit 3"])
        .expect(3, &["1 signalled"]);
    Some(std::fs::read_to_string(log).expect("the sidecar's log"))
}

#[test]
fn a_sidecar_is_signalled_by_name() {
    if let Some(log) = shared(&["--kill=my-sidecar"]) {
        assert!(log.contains("got SIGTERM"), "{log}");
    }
}

#[test]
fn all_others_are_signalled_with_the_signal_asked_for() {
    if let Some(log) = shared(&["-K", "--kill-signal=RTMIN+2"]) {
        assert!(log.contains("got SIGRTMIN+2"), "{log}");
    }
}

#[test]
fn without_a_shared_process_namespace_it_says_so() {
    let Some(wrapper) = unshare(&["--pid", "--fork", "--mount-proc"]) else { return };
    let world = World::with("Never", &[Beside::Regular("web")]);
    world.make_ready("web");
    world
        .proa()
        .through(wrapper)
        .flags(["--ignore=web", "-k", "my-sidecar"])
        .run(["true"])
        .expect(0, &["shareProcessNamespace: true"]);
}

#[test]
fn processes_of_the_node_are_never_signalled() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    world.make_ready("web");
    world.update(|pod| pod.spec.get_or_insert_default().host_pid = Some(true));
    world.proa().flags(["--ignore=web", "-K"]).run(["true"]).expect(0, &["hostPID"]);
}

#[test]
fn a_name_that_nobody_has_is_reported() {
    let Some(wrapper) = unshare(&["--pid", "--fork", "--mount-proc"]) else { return };
    let world = World::with("Never", &[Beside::Regular("web")]);
    world.make_ready("web");
    world.update(|pod| pod.spec.get_or_insert_default().share_process_namespace = Some(true));
    world
        .proa()
        .through(wrapper)
        .flags(["--ignore=web", "-k", "nobody"])
        .run(["true"])
        .expect(0, &["no process has `nobody`"]);
}
