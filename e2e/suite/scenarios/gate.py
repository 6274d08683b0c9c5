"""The command starts once every sidecar is ready, and not if it never will be."""

from suite.pieces import ENVOY, MOUNT, QUIT, READY_FILE, STATE, UNTIL_TERM, container, job, late, main, pod, shell
from suite.scenario import in_order, opened_after, scenario


@scenario
def a_job_with_envoy_completes(t):
    """A Job with Envoy as its sidecar starts when Envoy is ready, ends it, and completes."""
    t.grant("watch")
    t.apply(job("work", late(ENVOY, 3), main("wget -qO- localhost:9901/ready; exit 0", QUIT)))
    assert t.job("work").complete
    found = t.pod_of("work", lambda pod: pod.finished)
    assert found.exit_codes() == {"envoy": 0, "main": 0}, found
    opened_after(t, found, "envoy", 3)
    in_order(t.timeline(found.name), "gate open", "quitquitquit: 200", "every sidecar has exited")
    assert "LIVE" in t.logs(found.name, "main")


@scenario
def a_sidecar_injected_as_the_first_container(t):
    """proa knows its own container where an injector put its proxy first, and main has a readinessProbe of its own."""
    t.grant("watch")
    never = "readinessProbe: {periodSeconds: 1, exec: {command: ['false']}}"
    t.apply(pod("injected", ENVOY, main("exit 6", QUIT, more=never)))
    assert t.finished("injected").exit_codes() == {"envoy": 0, "main": 6}
    assert "this is container `main`" in t.logs("injected", "main")


@scenario
def a_native_sidecar_that_is_slow_to_become_ready(t):
    """The command does not start before a native sidecar is ready, and proa does not wait for it to exit."""
    t.grant("watch")
    slow = "until [ -e /tmp/go ]; do sleep 0.1; done; echo ready; touch /tmp/ready; trap 'echo asked to stop; exit 0' TERM; while :; do sleep 0.1; done"
    native = "[{name: db, image: busybox, restartPolicy: Always, command: [sh, -c, \"" + slow + "\"], " + READY_FILE + "}]"
    t.apply(pod("native", main("echo working"), initContainers=native))
    t.logged("native", "main", "waiting for db")
    t.touch("native", "db", "/tmp/go")
    assert t.finished("native").phase == "Succeeded"
    in_order(t.timeline("native"), "waiting for db", "db: ready", "main: working", "db: asked to stop")
    in_order(t.timeline("native"), "gate open", "exit with code 0", "db: asked to stop")


@scenario
def a_sidecar_that_fails_for_good(t):
    """A sidecar that exited for good is a refusal with 69, and the reason is in the termination message."""
    t.grant("watch")
    t.apply(pod("refused", shell("web", "sleep 2; exit 3", READY_FILE), main("echo never")))
    main_ = t.finished("refused").container("main")
    assert main_.exit_code == 69, main_
    assert "`web` exited for good (exit code 3)" in main_.message, main_
    assert "main: never" not in map(str, t.timeline("refused"))


@scenario
def a_sidecar_that_crashes_and_recovers(t):
    """A sidecar that crashes and is started again is waited for; the command runs once it is ready."""
    t.grant("watch")
    crash = "[ -e /state/tried ] || { until [ -e /state/crash ]; do sleep 0.1; done; touch /state/tried; exit 1; }; echo recovered; touch /tmp/ready; " + UNTIL_TERM
    # Nothing here can end the sidecar: the drain ends with --shutdown-timeout, the Pod with its deletion.
    t.apply(pod("crashing", shell("web", crash, f"{READY_FILE}\n{MOUNT}"), main("echo working", "--shutdown-timeout=1s"), restartPolicy="OnFailure", volumes=STATE))
    t.logged("crashing", "main", "waiting for web")
    t.touch("crashing", "web", "/state/crash")
    found = t.pod("crashing", lambda pod: pod.container("main").ended)
    assert found.container("main").exit_code == 0 and found.container("web").restarts == 1, found
    in_order(t.timeline("crashing"), "web: recovered", "main: working")


@scenario
def a_sidecar_whose_image_cannot_be_pulled(t):
    """Running out of time names the sidecar and the kubelet's reason, with 75."""
    t.grant("watch")
    missing = container("web", "no-such-image:none", more="imagePullPolicy: Never")
    # The kubelet tells why only when it looks at the Pod for the second time.
    t.apply(pod("unpullable", missing, main("echo never", "--ready-timeout=15s", "--shutdown-timeout=1s")))
    pod_ = t.pod("unpullable", lambda pod: pod.container("main").ended)
    assert pod_.container("main").exit_code == 75
    assert "web (ErrImageNeverPull)" in pod_.container("main").message, pod_


@scenario
def a_sidecar_that_is_oom_killed(t):
    """An OOM-killed sidecar is a refusal that says so."""
    t.grant("watch")
    greedy = "resources: {limits: {memory: 20Mi}}\n" + READY_FILE
    t.apply(pod("greedy", shell("web", "sleep 2; x=x; while :; do x=$x$x; done", greedy), main("echo never")))
    found = t.finished("greedy")
    main_ = found.container("main")
    assert main_.exit_code == 69 and "exited for good (exit code 137" in main_.message, main_
    # The runtime may see the end before it hears of the reason, and reports an error at first. proa takes the first word for it.
    first = next(pod for pod in t.history("greedy") if pod.container("web").ended)
    assert first.container("web").reason != "OOMKilled" or "OOMKilled" in main_.message, first


@scenario
def several_sidecars_at_once(t):
    """With several sidecars the command starts after the last is ready, and each is ended in its own way."""
    t.grant("watch")
    slow = "sleep 3; echo ready; touch /tmp/ready; until [ -e /state/over ]; do sleep 0.1; done"
    script = "echo working; touch /state/over"
    t.apply(pod("several", ENVOY, shell("log", slow, f"{READY_FILE}\n{MOUNT}"), main(script, QUIT, more=MOUNT), volumes=STATE))
    assert t.finished("several").exit_codes() == {"envoy": 0, "log": 0, "main": 0}
    in_order(t.timeline("several"), "log: ready", "main: working")
    in_order(t.timeline("several"), "gate open", "every sidecar has exited")


@scenario
def rights_that_are_missing(t):
    """Without the Role proa ends with 77 and spells out the rule, in the termination message too."""
    t.apply(pod("denied", main("echo never")))
    main_ = t.finished("denied").container("main")
    assert main_.exit_code == 77, main_
    assert 'resources: ["pods"], verbs: ["watch"]' in main_.message, main_


@scenario
def rights_that_are_granted_late(t):
    """A RoleBinding that comes after the Pod is early enough."""
    t.role("watch")
    # proa takes a denial for final after 10s. Where it takes us longer to see the first one and to bind, a second Pod may tell.
    for name in ("late", "again"):
        t.apply(pod(name, main("echo working")))
        t.logged(name, "main", 'verbs: ["watch"]')
        t.bind()
        found = t.finished(name)
        if found.exit_codes() == {"main": 0}:
            return
        t.kubectl("delete", "rolebinding", "granted")
    raise AssertionError(found)


@scenario
def a_debug_container_is_no_sidecar(t):
    """An ephemeral container that is never ready is neither waited for nor drained."""
    t.grant("watch")
    web = shell("web", "until [ -e /state/over ]; do sleep 0.1; done", f"{READY_FILE}\n{MOUNT}")
    t.apply(pod("debugged", web, main("touch /state/over", more=MOUNT), volumes=STATE))
    t.logged("debugged", "main", "waiting for web")
    t.kubectl("debug", "debugged", f"--image={t.images.reference('busybox')}", "--image-pull-policy=Never", "--container=debugger", "--profile=general", "--", "sleep", "1000")
    t.pod("debugged", lambda pod: "debugger" in pod.containers("ephemeralContainers") and pod.container("debugger").running)
    t.touch("debugged", "web", "/tmp/ready")
    assert t.pod("debugged", lambda pod: pod.container("main").ended).container("main").exit_code == 0


@scenario
def an_init_container_waits_for_a_native_sidecar(t):
    """proa in an init container waits for the native sidecar before it, which Kubernetes would not."""
    t.grant("watch")
    slow = "sleep 3; echo ready; touch /tmp/ready; " + UNTIL_TERM
    init = "[{name: db, image: busybox, restartPolicy: Always, command: [sh, -c, \"" + slow + "\"], " + READY_FILE + "}, " \
        "{name: migrate, image: app, args: [--, echo, migrating]}]"
    t.apply(pod("initial", shell("app", "echo serving"), initContainers=init))
    assert t.finished("initial").phase == "Succeeded"
    in_order(t.timeline("initial"), "db: ready", "migrate: migrating", "app: serving")
