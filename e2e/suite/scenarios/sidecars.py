"""Sidecars that do what nobody expects."""

from suite.pieces import (
    ENVOY, ENVOY_ADMIN, MOUNT, QUIT, READY_FILE, STATE, UNTIL_TERM, before, container, job, main, pod, shell,
)
from suite.scenario import in_order, scenario, seconds_between

NATIVE = "restartPolicy: Always\n"


@scenario
def ready_all_at_the_same_time(t):
    """A sidecar that was ready once and is not any more is waited for again: all must be ready at the same time."""
    t.grant("watch")
    waits = "until [ -e /tmp/ready ]; do sleep 0.1; done; echo ready; until [ -e /state/over ]; do sleep 0.1; done"
    more = READY_FILE.replace("periodSeconds: 1", "periodSeconds: 1, failureThreshold: 1") + "\n" + MOUNT
    script = "echo working; touch /state/over"
    t.apply(pod("flapping", main(script, more=MOUNT), shell("a", waits, more), shell("b", waits, more), volumes=STATE))
    t.logged("flapping", "main", "waiting for a (running, not ready), b (running, not ready)")
    for command, seen in [(("touch", "/tmp/ready"), True), (("rm", "/tmp/ready"), False)]:
        assert t.exec("flapping", "a", *command).returncode == 0
        t.pod("flapping", lambda pod: pod.container("a").ready == seen)
    t.touch("flapping", "b", "/tmp/ready")
    t.pod("flapping", lambda pod: pod.container("b").ready)
    t.logged("flapping", "main", "waiting for a (running, not ready)\n")
    # The file opens the gate, and so may end the container and all that runs in it.
    assert t.exec("flapping", "a", "sh", "-c", "echo again > /proc/1/fd/1").returncode == 0
    t.touch("flapping", "a", "/tmp/ready")
    assert t.finished("flapping").exit_codes() == {"main": 0, "a": 0, "b": 0}
    in_order(t.timeline("flapping"), "b: ready", "a: again", "gate open")


@scenario
def a_sidecar_that_takes_longer_than_a_watch_lasts(t):
    """A sidecar that becomes ready only after the API server has ended proa's watch, as it regularly does."""
    t.grant("watch")
    slow = "sleep 33; echo ready; touch /tmp/ready; until [ -e /state/over ]; do sleep 0.1; done"
    t.apply(pod("slow", main("touch /state/over; exit 3", more=MOUNT), shell("web", slow, f"{READY_FILE}\n{MOUNT}"), volumes=STATE))
    assert t.finished("slow", seconds=90).exit_codes() == {"main": 3, "web": 0}
    in_order(t.timeline("slow"), "still waiting for web", "still waiting for web", "still waiting for web", "web: ready", "gate open")


@scenario
def a_sidecar_that_fails_while_the_command_runs(t):
    """A sidecar that fails while the command runs changes neither its run nor its exit code, and is named."""
    t.grant("watch")
    fails = "touch /tmp/ready; until [ -e /state/fail ]; do sleep 0.1; done; exit 11"
    script = "touch /state/fail; until [ -e /state/over ]; do sleep 0.1; done; exit 3"
    t.apply(pod("outlived", main(script, QUIT, more=MOUNT), ENVOY, shell("web", fails, f"{READY_FILE}\n{MOUNT}"), volumes=STATE))
    t.pod("outlived", lambda pod: pod.container("web").ended)
    t.touch("outlived", "main", "/state/over")
    assert t.finished("outlived").exit_codes() == {"main": 3, "envoy": 0, "web": 11}
    assert "sidecar `web` ended with exit code 11" in t.logs("outlived", "main")


@scenario
def a_sidecar_that_is_gone_before_it_is_asked(t):
    """A quit endpoint that is gone with its sidecar holds up the Pod's end for seconds at most."""
    t.grant("watch")
    script = "wget -qO- --post-data= localhost:9901/quitquitquit; sleep 1; exit 3"
    t.apply(pod("gone", main(script, QUIT), ENVOY))
    found = t.finished("gone")
    assert found.exit_codes() == {"main": 3, "envoy": 0}, found
    assert (found.container("main").finished_at - found.container("envoy").finished_at).total_seconds() <= 20, found


@scenario
def a_quit_endpoint_that_hangs(t):
    """A quit endpoint that takes the request and never answers costs a bounded time, and no exit code."""
    t.grant("watch")
    hangs = "touch /tmp/ready; while :; do nc -l -p 8099 > /dev/null < /dev/zero; done"
    flags = ("--shutdown-http-get=http://localhost:8099/quit", "--shutdown-timeout=4s")
    t.apply(pod("hanging", main("exit 5", *flags), shell("web", hangs, READY_FILE), terminationGracePeriodSeconds="1"))
    main_ = t.pod("hanging", lambda pod: pod.container("main").ended).container("main")
    assert main_.exit_code == 5, main_
    assert seconds_between(t.timeline("hanging"), "main", "command ended", "exit with code 5") <= 9


@scenario
def a_native_envoy_needs_no_flag(t):
    """Envoy as a native sidecar: the command starts when it is ready, and it outlives the command without any flag."""
    t.grant("watch")
    native = ENVOY.rstrip() + "\n  restartPolicy: Always\n"
    t.apply(job("work", main("wget -qO- localhost:9901/ready; exit 0"), initContainers=before(native)))
    assert t.job("work").complete
    found = t.pod_of("work", lambda pod: pod.finished)
    assert found.container("envoy").restarts == 0, found
    assert "LIVE" in t.logs(found.name, "main")


@scenario
def a_native_sidecar_that_is_asked_to_quit_all_the_same(t):
    """Flags left over from before a sidecar became native do no harm: the Job completes, however often it is restarted."""
    t.grant("watch")
    native = ENVOY.rstrip() + "\n  restartPolicy: Always\n"
    t.apply(job("work", main("exit 0", QUIT), initContainers=before(native)))
    assert t.job("work").complete
    assert t.pod_of("work", lambda pod: pod.finished).exit_codes() == {"main": 0}


@scenario
def a_native_sidecar_that_crashes_and_recovers(t):
    """A native sidecar that crashes is started again even in a Pod with Never, so it is waited for."""
    t.grant("watch")
    crash = "[ -e /state/tried ] || { touch /state/tried; exit 1; }; echo ready; touch /tmp/ready; " + UNTIL_TERM
    native = shell("db", crash, f"{NATIVE}{READY_FILE}\n{MOUNT}")
    t.apply(pod("native", main("echo working"), initContainers=before(native), volumes=STATE))
    found = t.finished("native")
    assert found.phase == "Succeeded" and found.container("db").restarts == 1, found
    in_order(t.timeline("native"), "db: ready", "main: working")


@scenario
def a_pod_condition_of_somebody_elses(t):
    """A readiness gate that nobody fulfils keeps the Pod unready, and not the command: containers count."""
    t.grant("watch")
    t.apply(pod("gated", main("exit 3", QUIT), ENVOY, readinessGates="[{conditionType: example.com/registered}]"))
    found = t.finished("gated")
    assert found.exit_codes() == {"main": 3, "envoy": 0}, found
    assert not any(pod.condition("Ready") for pod in t.history("gated")), "the gate is open, so this proves nothing"


@scenario
def two_commands_in_one_pod(t):
    """Two containers that both run under proa end one after the other, as long as each ignores the other."""
    t.grant("watch")
    first = main("echo working; exit 3", "--ignore=second", "--shutdown-when=never", "--shutdown-timeout=20s", name="first")
    second = main("until [ -e /tmp/over ]; do sleep 0.1; done; exit 4", "--ignore=first", QUIT, name="second")
    t.apply(pod("both", first, second, ENVOY))
    # The first keeps Envoy, which the second still needs.
    found = t.pod("both", lambda pod: pod.container("first").ended)
    assert found.container("envoy").running, found
    t.touch("both", "second", "/tmp/over")
    assert t.finished("both").exit_codes() == {"first": 3, "second": 4, "envoy": 0}


@scenario
def many_sidecars(t):
    """Six sidecars, the last of them listed after main, are waited for and ended by one flag."""
    t.grant("watch")
    # Each is an Envoy on a port of its own, so that each is asked in its own way.
    ports = range(9901, 9907)
    sidecars = [ENVOY.replace("name: envoy", f"name: envoy-{port}").replace("9901", str(port)) for port in ports]
    urls = " ".join(f"http://localhost:{port}/quitquitquit" for port in ports)
    env = f"env: [{{name: PROA_SHUTDOWN_HTTP_POST, value: '{urls}'}}]"
    # Envoys of one network namespace share an abstract socket unless told apart.
    sidecars = [text.replace("--log-level", f'--base-id, "{port}", --log-level') for text, port in zip(sidecars, ports)]
    t.apply(pod("many", *sidecars[:3], main("exit 3", more=env), *sidecars[3:]))
    found = t.finished("many", seconds=90)
    assert found.exit_codes() == {"main": 3, **{f"envoy-{port}": 0 for port in ports}}, found


@scenario
def a_sidecar_that_ends_under_the_command(t):
    """--on-sidecar-exit=stop: a sidecar that ends for good has the command stopped, 69 and a message; the others are ended as ever."""
    t.grant("watch")
    dies = shell("tunnel", "touch /tmp/ready; until [ -e /state/over ]; do sleep 0.1; done; exit 4", f"{READY_FILE}\n{MOUNT}")
    works = "trap 'echo stopped; exit 7' TERM; touch /state/over; while :; do sleep 0.1; done"
    t.apply(job("work", ENVOY, dies, main(works, "--on-sidecar-exit=stop", more=MOUNT), volumes=STATE))
    found = t.pod_of("work", lambda pod: pod.finished)
    assert found.exit_codes() == {"envoy": 0, "tunnel": 4, "main": 69}, found
    assert "sidecar `tunnel` exited for good (exit code 4)" in found.container("main").message, found
    in_order(t.timeline(found.name), "stopping the command", "command ended", "quitquitquit: 200")
    assert "stopped" in t.logs(found.name, "main").splitlines(), found
