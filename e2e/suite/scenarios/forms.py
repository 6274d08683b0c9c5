"""`proa wait` and `proa quit`: the wait alone and the shutdown alone, for Pods whose commands nobody changes."""

from suite.pieces import ENVOY, UNTIL_TERM, before, container, job, late, main, pod, shell
from suite.scenario import in_order, opened_after, scenario
from suite.scenarios.examples import EXAMPLES
from suite.scenarios.known import cloud_sql

# Envoy, which the kubelet starts first and stops last.
NATIVE = ENVOY.rstrip() + "\n  restartPolicy: Always\n"


def another(envoy, name, port):
    """A second Envoy of the Pod: the two share a network namespace, and by default a socket's name in it."""
    return envoy.replace("name: envoy", f"name: {name}").replace("9901", str(port)).replace("args: [", "args: [--use-dynamic-base-id, ")


def failed(t, name):
    """The Pod once its init container `wait` has failed it."""
    return t.pod(name, lambda pod: pod.phase == "Failed" and pod.container("wait").ended, "to fail")


LIVE = "wget -q -O - http://localhost:9901/ready"


def waits(*flags, name="wait", more=""):
    """`proa wait` in an init container, from the shipped image."""
    return container(name, "proa", args=["wait", *flags], more=more)


def _work(script=LIVE, **more):
    return shell("main", script, **more)


@scenario
def the_wait_before_a_main_container_that_nobody_changed(t):
    """With `proa wait` as the last init container a plain main container starts once a slow native Envoy is ready, and the Job completes."""
    t.grant("watch")
    t.apply(job("work", _work(), initContainers=before(late(NATIVE, 5), waits())))
    assert t.job("work").complete
    found = t.pod_of("work", lambda pod: pod.finished)
    opened_after(t, found, "envoy", 5, by="wait")
    in_order(t.timeline(found.name), "gate open", "ready; exit with code 0", "main: LIVE")
    assert found.container("wait").exit_code == 0 and found.container("main").exit_code == 0, found


@scenario
def without_the_wait_it_starts_too_early(t):
    """Without `proa wait` Kubernetes starts the main container before the native sidecar is ready: the problem that it solves."""
    script = "until [ -e /state/go ]; do sleep 0.1; done; sleep 6; touch /tmp/ready; trap 'exit 0' TERM; while :; do sleep 0.1; done"
    db = shell("db", script, more="restartPolicy: Always\nreadinessProbe: {periodSeconds: 1, exec: {command: [test, -e, /tmp/ready]}}")
    t.apply(pod("early", _work("echo started"), initContainers=before(db)))
    t.logged("early", "main", "started")
    assert not t.history("early")[-1].container("db").ready, t.history("early")[-1]


@scenario
def a_startup_probe_gates_by_itself(t):
    """A native sidecar whose startupProbe stands for its readiness gates with no proa in the Pod, as the guide says."""
    probed = late(NATIVE, 5).replace("readinessProbe", "startupProbe")
    t.apply(job("work", _work(), initContainers=before(probed)))
    assert t.job("work").complete
    found = t.pod_of("work", lambda pod: pod.finished)
    assert "LIVE" in t.logs(found.name, "main"), t.logs(found.name, "main")


@scenario
def the_wait_among_other_init_containers(t):
    """`proa wait` before, between and after other init containers waits for the native sidecars before it alone."""
    t.grant("watch")
    plain = shell("plain", "echo migrated")
    second = another(late(NATIVE, 4), "second", 9902)
    init = before(waits(name="first"), NATIVE, waits(name="between"), plain, second, waits(name="last"))
    t.apply(pod("many", _work(f"{LIVE}; wget -q -O - http://localhost:9902/ready"), initContainers=init))
    found = t.finished("many")
    assert [found.container(name).exit_code for name in ("first", "between", "plain", "last", "main")] == [0] * 5, found
    assert "second" not in t.logs("many", "between") and "envoy" not in t.logs("many", "first")
    lines = t.timeline("many")
    in_order(lines, "first: ", "between: ", "plain: migrated", "last: ", "main: LIVE")


@scenario
def a_native_sidecar_that_is_never_ready(t):
    """Of two native sidecars one is never ready: `proa wait` names it alone and exits with 75, and the Pod fails."""
    t.grant("watch")
    never = another(NATIVE, "broken", 9903).replace("port: 9903}", "port: 1}")
    t.apply(pod("broken", _work(), initContainers=before(NATIVE, never, waits("--ready-timeout=25s"))))
    found = failed(t, "broken")
    assert found.container("wait").exit_code == 75, found
    message = found.container("wait").message
    assert "broken (running, not ready)" in message and "envoy" not in message, message


@scenario
def the_wait_without_rights(t):
    """With no Role, and with no token at all, `proa wait` asks a known sidecar itself; without a direct wait it exits with 77 and the rule."""
    direct = waits("--wait-known=envoy")
    t.apply(pod("norole", _work(), initContainers=before(late(NATIVE, 3), direct)))
    t.apply(pod("notoken", _work(), initContainers=before(late(NATIVE, 3), direct), automountServiceAccountToken="false"))
    t.apply(pod("denied", _work(), initContainers=before(NATIVE, waits())))
    for name in ("norole", "notoken"):
        found = t.finished(name)
        assert (found.container("wait").exit_code, found.container("main").exit_code) == (0, 0), found
    found = failed(t, "denied")
    assert found.container("wait").exit_code == 77 and 'verbs: ["watch"]' in found.container("wait").message, found


@scenario
def a_wait_that_is_restarted(t):
    """With OnFailure an init container whose wait ran out of time is restarted, and waits again."""
    t.grant("watch")
    t.apply(pod("again", _work(), initContainers=before(late(NATIVE, 12), waits("--ready-timeout=3s")), restartPolicy="OnFailure"))
    found = t.pod("again", lambda pod: pod.container("main").ended, seconds=120)
    assert found.container("wait").restarts >= 1 and found.container("main").exit_code == 0, found


@scenario
def a_pod_that_is_deleted_while_it_waits(t):
    """A Pod that is deleted while `proa wait` waits goes at once, and the main container never starts."""
    t.grant("watch")
    t.apply(pod("gone", _work(), initContainers=before(late(NATIVE, 60), waits())))
    t.logged("gone", "wait", "waiting for envoy")
    t.delete("gone")
    last = t.gone("gone", seconds=25)
    assert last.container("main").started_at is None, last


@scenario
def the_wait_and_the_wrapper(t):
    """A Pod with `proa wait` and a main container under proa needs both, and neither gets in the other's way."""
    t.grant("watch")
    t.apply(job("both", main(LIVE), another(ENVOY, "beside", 9905), initContainers=before(late(NATIVE, 4), waits())))
    assert t.job("both").complete
    found = t.pod_of("both", lambda pod: pod.finished)
    assert found.container("main").exit_code == 0 and found.container("beside").exit_code == 0, found
    lines = t.timeline(found.name)
    in_order(lines, "ready; exit with code 0", "main: LIVE")
    in_order(lines, "ready; exit with code 0", "9905/quitquitquit: 200", "every sidecar has exited")


@scenario
def a_probe_in_a_distroless_image(t):
    """`proa wait --once` is an exec probe in an image without a shell: the container is ready once its port is, and not before."""
    probe = 'readinessProbe: {periodSeconds: 1, timeoutSeconds: 10, exec: {command: [/proa, wait, --once, --api=off, "--wait-tcp=127.0.0.1:8090"]}}'
    greeter = container("greeter", "proa-example", command=["/proa", "sidecar", "--api=off", "--", "greeter", "127.0.0.1:8090", "3"], more=probe)
    t.apply(pod("probed", greeter))
    found = t.pod("probed", lambda pod: pod.container("greeter").ready)
    assert found.container("greeter").restarts == 0, found
    t.delete("probed", grace=1)


@scenario
def a_sibling_that_fails(t):
    """--wait-exit=NAME=success: the command does not start after a sibling that failed, which is named with its code; after 0 it does."""
    t.grant("watch")
    script = "until [ -e /tmp/go ]; do sleep 0.1; done; exit "
    t.apply(pod("failed", main("echo never", "--wait-exit=migrate=success"), shell("migrate", f"{script}3"), ENVOY))
    t.logged("failed", "main", "waiting for migrate (running)")
    t.touch("failed", "migrate", "/tmp/go")
    found = t.finished("failed")
    assert found.exit_codes() == {"main": 69, "migrate": 3, "envoy": 0}, found
    assert "`migrate` exited with exit code 3" in found.container("main").message, found.container("main").message
    t.apply(pod("migrated", main("echo works", "--wait-exit=migrate=success"), shell("migrate", "exit 0"), ENVOY))
    assert t.finished("migrated").exit_codes() == {"main": 0, "migrate": 0, "envoy": 0}


@scenario
def quit_in_place_of_curl(t):
    """`proa quit` by kubectl exec shuts Envoy, a Cloud SQL Auth Proxy and a wrapped nginx down and says so; --dry-run says what it would do."""
    t.grant("watch")
    mounted = "volumeMounts: [{name: bin, mountPath: /proa-bin}]"
    wrap = ["/proa-bin/proa", "sidecar", "--until-exit=main", "--stop-signal=QUIT", "--", "nginx", "-c", "/etc/nginx.conf"]
    ready = "readinessProbe: {periodSeconds: 1, httpGet: {path: /, port: 8080}}"
    nginx = container("nginx", "nginx", command=wrap, more=f"{ready}\n{mounted}")
    install = container("install", "proa", args=["install", "/proa-bin/"], more=mounted)
    plain = container("main", "app", command=["sh", "-c", UNTIL_TERM])
    spec = {"volumes": "[{name: bin, emptyDir: {}}]", "initContainers": before(install)}
    t.apply(pod("quit", plain, ENVOY, cloud_sql("--quitquitquit"), nginx, **spec))
    t.pod("quit", lambda pod: all(pod.container(name).ready for name in ("main", "envoy", "cloud-sql-proxy", "nginx")))
    # The process is younger than its container, of which the API tells.
    look = t.exec("quit", "main", "/proa", "wait", "--once", "--ready-timeout=10s")
    assert look.returncode == 0 and "gate open" in look.stderr, look
    dry = t.exec("quit", "main", "/proa", "quit", "--dry-run")
    assert dry.returncode == 0, dry
    for line in ("9091/quitquitquit to `cloud-sql-proxy` (Cloud SQL Auth Proxy): well known", "last: POST http://localhost:9901/quitquitquit to `envoy` (Envoy)", "stop request to `nginx`"):
        assert line in dry.stdout, dry.stdout
    done = t.exec("quit", "main", "/proa", "quit")
    assert done.returncode == 0 and "every sidecar has exited" in done.stderr, done
    found = t.pod("quit", lambda pod: pod.container("envoy").ended and pod.container("cloud-sql-proxy").ended and pod.container("nginx").ended)
    assert found.container("main").running and found.container("main").restarts == 0, found
    again = t.exec("quit", "main", "/proa", "quit")
    assert again.returncode == 0, again
    t.delete("quit", grace=1)


@scenario
def a_quit_by_signal_spares_its_own_container(t):
    """`proa quit --kill-all` in a shared process namespace ends the other container, and nothing of its own."""
    t.grant("watch")
    t.apply(pod("signals", container("main", "app", command=["sh", "-c", UNTIL_TERM]), shell("web", UNTIL_TERM), shareProcessNamespace="true"))
    t.pod("signals", lambda pod: pod.container("main").running and pod.container("web").running)
    t.logged("signals", "main", "up")
    t.logged("signals", "web", "up")
    done = t.exec("signals", "main", "/proa", "quit", "--kill-all")
    assert done.returncode == 0, done
    found = t.pod("signals", lambda pod: pod.container("web").ended)
    assert found.container("main").running and "asked to stop" not in t.logs("signals", "main"), found
    t.delete("signals", grace=1)


@scenario
def the_example_of_a_wait_before_an_untouched_main_container(t):
    """examples/wait-native.yaml completes."""
    t.apply((EXAMPLES / "wait-native.yaml").read_text())
    assert t.job("wait-native").complete
    found = t.pod_of("wait-native", lambda pod: pod.finished)
    in_order(t.timeline(found.name), "gate open", "main: LIVE")


@scenario
def the_example_of_a_probe(t):
    """examples/wait-probe.yaml completes: the main container starts once the sidecar listens."""
    t.apply((EXAMPLES / "wait-probe.yaml").read_text())
    assert t.job("wait-probe").complete
    found = t.pod_of("wait-probe", lambda pod: pod.finished)
    assert "stored" in t.logs(found.name, "main"), t.logs(found.name, "main")


@scenario
def the_example_of_a_prestop_hook(t):
    """examples/quit-prestop.yaml: when the Pod is deleted Envoy gets its quit request before the main container gets SIGTERM."""
    t.apply((EXAMPLES / "quit-prestop.yaml").read_text())
    t.pod("quit-prestop", lambda pod: pod.container("envoy").ready and pod.container("main").running)
    followed = t.follow("quit-prestop")
    t.delete("quit-prestop")
    last = t.gone("quit-prestop")
    assert last.exit_codes() == {"main": 0, "envoy": 0}, last
    assert any("shutting down admin due to" in str(line) or "exiting" in str(line) for line in followed()), "Envoy said nothing of its end"


@scenario
def the_example_of_two_main_containers(t):
    """examples/two-mains.yaml completes: the second starts after the first, and shuts Envoy down."""
    t.apply((EXAMPLES / "two-mains.yaml").read_text())
    assert t.job("two-mains").complete
    found = t.pod_of("two-mains", lambda pod: pod.finished)
    assert found.exit_codes() == {"first": 0, "second": 0, "envoy": 0}, found
    assert "quitquitquit" not in t.logs(found.name, "first")
    lines = t.timeline(found.name)
    in_order(lines, "first: LIVE", "second: LIVE")
    in_order(lines, "first: LIVE", "quitquitquit: 200", "every sidecar has exited")
