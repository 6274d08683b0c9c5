"""The sidecars are ended when they should be, in the way that was asked for, and their end is waited for."""

from suite.pieces import ENVOY, MOUNT, QUIT, READY_FILE, STATE, UNTIL_TERM, container, main, pod, shell
from suite.scenario import in_order, scenario

FAILS_ONCE = "echo run; [ -e /state/tried ] && exit 0; touch /state/tried; exit 1"


@scenario
def a_failure_that_is_final_ends_the_sidecars(t):
    """With restart policy Never the sidecars are ended after a failure too."""
    t.grant("watch")
    t.apply(pod("never", ENVOY, main(FAILS_ONCE, QUIT, more=MOUNT), volumes=STATE))
    assert t.finished("never").exit_codes() == {"envoy": 0, "main": 1}


@scenario
def a_retry_finds_the_same_sidecars(t):
    """With OnFailure a command that fails first succeeds on retry, beside sidecars that were never ended."""
    t.grant("watch")
    t.apply(pod("retried", ENVOY, main(FAILS_ONCE, QUIT, more=MOUNT), restartPolicy="OnFailure", volumes=STATE))
    found = t.finished("retried")
    assert found.phase == "Succeeded" and found.exit_codes() == {"envoy": 0, "main": 0}, found
    assert (found.container("main").restarts, found.container("envoy").restarts) == (1, 0), found


@scenario
def a_deployment_keeps_its_sidecars(t):
    """In a Deployment a main that exits is started again, and its sidecar is left alone."""
    t.grant("watch")
    t.apply("""
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: envoy
        image: envoy
        args: [--log-level, error, --config-yaml, "{admin: {address: {socket_address: {address: 0.0.0.0, port_value: 9901}}}}"]
        readinessProbe: {periodSeconds: 1, httpGet: {path: /ready, port: 9901}}
      - name: main
        image: app
        args: ["--shutdown-http-post=http://localhost:9901/quitquitquit", --, sh, -c, "echo run; sleep 1"]
""")
    name = t.pod_by_label("app=web")
    found = t.pod(name, lambda pod: pod.container("main").restarts >= 2 and not pod.container("main").running, seconds=90)
    assert found.container("envoy").restarts == 0 and found.container("envoy").running, found
    assert "sidecars are left running" in t.logs(name, "main")


@scenario
def a_sidecar_without_a_quit_endpoint_is_killed_by_name(t):
    """With a shared process namespace --kill ends a sidecar by its process's name, and its code is named."""
    t.grant("watch")
    t.apply(pod("killed", container("web", "busybox", command=["httpd", "-f", "-p", "8080"]), main("exit 3", "--kill=httpd"), shareProcessNamespace="true"))
    assert t.finished("killed").exit_codes() == {"web": 143, "main": 3}
    in_order(t.timeline("killed"), "SIGTERM to processes named `httpd`: 1 signalled", "sidecar `web` ended with exit code 143")


@scenario
def all_others_are_killed_and_native_sidecars_are_not(t):
    """--kill-all spares the pause process and native sidecars, which would only be started again."""
    t.grant("watch")
    native = "[{name: db, image: busybox, restartPolicy: Always, command: [sh, -c, \"" + UNTIL_TERM + "\"]}]"
    t.apply(pod("killed", container("web", "busybox", command=["httpd", "-f", "-p", "8080"]), main("exit 0", "-K"), shareProcessNamespace="true", initContainers=native))
    found = t.finished("killed")
    assert found.exit_codes() == {"web": 143, "main": 0}, found
    in_order(t.timeline("killed"), "1 signalled", "exit with code 0", "db: asked to stop")
    assert found.container("db").restarts == 0


@scenario
def without_a_shared_namespace_kill_says_so(t):
    """Without a shared process namespace --kill says what to set."""
    t.grant("watch")
    t.apply(pod("alone", main("exit 0", "--kill=httpd")))
    t.finished("alone")
    assert "shareProcessNamespace: true" in t.logs("alone", "main")


@scenario
def a_quit_endpoint_that_is_not_there(t):
    """A quit endpoint that is switched off is reported with what to change; the exit code stays the command's."""
    t.grant("watch")
    t.apply(pod("wrong", ENVOY, main("exit 3", "-phttp://localhost:9901/quit", "-ghttp://localhost:9901/quitquitquit", "--shutdown-timeout=2s")))
    found = t.pod("wrong", lambda pod: pod.container("main").ended)
    assert found.container("main").exit_code == 3
    log = t.logs("wrong", "main")
    assert "/quit: 404" in log and "another method" in log or "400" in log, log
    assert "still running when --shutdown-timeout ran out: `envoy`" in log, log


@scenario
def a_sidecar_that_fails_during_its_end_is_named(t):
    """A sidecar that ends non-zero is named with its code; the Pod fails, the main container does not."""
    t.grant("watch")
    ending = "trap 'exit 11' TERM; touch /tmp/ready; until [ -e /state/over ]; do sleep 0.1; done; exit 11"
    t.apply(pod("named", shell("web", ending, READY_FILE + "\n" + MOUNT), main("touch /state/over", more=MOUNT), volumes=STATE))
    found = t.finished("named")
    assert found.phase == "Failed" and found.exit_codes() == {"web": 11, "main": 0}, found
    assert "sidecar `web` ended with exit code 11" in t.logs("named", "main")


@scenario
def past_its_deadline_a_pod_ends_as_without_proa(t):
    """activeDeadlineSeconds ends the wait for a sidecar that is never ready."""
    t.grant("watch")
    t.apply(pod("overdue", shell("web", UNTIL_TERM, READY_FILE), main("echo never"), activeDeadlineSeconds="3"))
    found = t.pod("overdue", lambda pod: pod.phase == "Failed")
    assert found.status["reason"] == "DeadlineExceeded", found
    # The kubelet calls every container ready for a moment while it ends such a Pod.
    assert "main: never" not in map(str, t.timeline("overdue"))
