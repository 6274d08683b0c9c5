"""Containers that the kubelet starts again: by a policy or rule of their own, or because a probe failed."""

from suite.pieces import ENVOY, MOUNT, QUIT, READY_FILE, STATE, UNTIL_TERM, main, pod, shell
from suite.scenario import in_order, scenario

FAILS_ONCE = "[ -e /state/tried ] && exit 0; touch /state/tried; exit 42"


def _retried(t, name, more, **spec):
    """A main that fails once finds the very Envoy it had, which is ended after its success alone."""
    t.grant("watch")
    t.apply(pod(name, ENVOY, main(FAILS_ONCE, QUIT, more=f"{more}\n{MOUNT}"), volumes=STATE, **spec))
    found = t.finished(name)
    assert found.phase == "Succeeded" and found.exit_codes() == {"envoy": 0, "main": 0}, found
    assert (found.container("main").restarts, found.container("envoy").restarts) == (1, 0), found
    # On the second run it was there to be asked.
    assert "quitquitquit: 200" in t.logs(name, "main")


@scenario
def a_restart_policy_of_mains_own(t):
    """A main container whose own restart policy is OnFailure keeps its sidecars for the retry, in a Pod with Never."""
    _retried(t, "own-policy", "restartPolicy: OnFailure")


@scenario
def a_restart_rule_of_mains_own(t):
    """A restart rule for the command's exit code keeps the sidecars for the retry, in a Pod with Never."""
    rule = "restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [42]}}]"
    _retried(t, "own-rule", f"restartPolicy: Never\n{rule}")


@scenario
def a_restart_rule_for_another_exit_code(t):
    """A restart rule that does not match the command's exit code ends the sidecars: the failure is final."""
    t.grant("watch")
    rule = "restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [43]}}]"
    more = f"restartPolicy: Never\n{rule}\n{MOUNT}"
    t.apply(pod("other-rule", ENVOY, main(FAILS_ONCE, QUIT, more=more), volumes=STATE))
    found = t.finished("other-rule")
    assert found.exit_codes() == {"envoy": 0, "main": 42}, found


@scenario(since="1.36")
def a_rule_that_restarts_the_whole_pod(t):
    """With the rule RestartAllContainers every container starts anew, and the second run completes."""
    t.grant("watch")
    rule = "restartPolicyRules: [{action: RestartAllContainers, exitCodes: {operator: In, values: [42]}}]"
    more = f"restartPolicy: Never\n{rule}\n{MOUNT}"
    t.apply(pod("all-anew", ENVOY, main(FAILS_ONCE, QUIT, more=more), volumes=STATE))
    found = t.finished("all-anew", seconds=90)
    assert found.phase == "Succeeded" and found.exit_codes() == {"envoy": 0, "main": 0}, found
    assert found.container("main").restarts == 1, found


@scenario
def a_restart_policy_of_the_sidecars_own(t):
    """A sidecar whose own restart policy starts it again is waited for, although the Pod's is Never."""
    t.grant("watch")
    crash = "[ -e /state/up ] || { touch /state/up; exit 1; }; touch /tmp/ready; until [ -e /state/over ]; do sleep 0.1; done"
    sidecar = shell("web", crash, f"restartPolicy: OnFailure\n{READY_FILE}\n{MOUNT}")
    t.apply(pod("crashing", main("touch /state/over; exit 3", more=MOUNT), sidecar, volumes=STATE))
    found = t.finished("crashing")
    assert found.exit_codes() == {"main": 3, "web": 0}, found
    assert found.container("web").restarts == 1, found


@scenario
def a_sidecar_that_a_probe_restarts_under_the_command(t):
    """A sidecar that its liveness probe restarts while the command runs does not disturb it, and is ended after it."""
    t.grant("watch")
    # The admin endpoint closes, as it would in a process that hangs, until the kubelet starts the container again.
    probe = """
livenessProbe: {periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 1, exec: {command: [sh, -c, '[ ! -e /tmp/stuck ]']}}
readinessProbe: {periodSeconds: 1, httpGet: {path: /, port: 8099}}
"""
    server = "mkdir -p /www; echo ok > /www/index.html; httpd -p 8099 -h /www; " + UNTIL_TERM
    script = "echo working; until [ -e /state/over ]; do sleep 0.1; done; touch /state/quit; exit 3"
    quits = server.replace("while :;", "until [ -e /state/quit ];")
    t.apply(
        pod("probed", main(script, more=MOUNT), shell("web", quits, probe + MOUNT), restartPolicy="OnFailure", volumes=STATE)
    )
    t.logged("probed", "main", "working")
    t.touch("probed", "web", "/tmp/stuck")
    t.pod("probed", lambda pod: pod.container("web").restarts == 1 and pod.container("web").ready)
    assert t.pod("probed", lambda pod: True).container("main").restarts == 0
    # A failure first: the sidecar stays for the retry. Then a success, after which all is over.
    t.touch("probed", "main", "/state/over")
    found = t.pod("probed", lambda pod: pod.container("main").restarts == 1)
    assert found.container("main").previous["exitCode"] == 3, found


@scenario
def a_sidecar_that_is_done_too_early(t):
    """With OnFailure a sidecar that ended with 0 before it was ready is a refusal: nobody will start it again."""
    t.grant("watch")
    t.apply(pod("early", main("echo never"), shell("web", "exit 0", READY_FILE), restartPolicy="OnFailure"))
    found = t.pod("early", lambda pod: pod.container("main").previous)
    assert found.container("main").previous["exitCode"] == 69, found
    assert "`web` exited for good (exit code 0)" in found.container("main").previous["message"], found
    assert "main: never" not in map(str, t.timeline("early"))


@scenario
def a_stateful_sets_pod_comes_back(t):
    """A StatefulSet's Pod that is deleted comes back under its name, and proa in it knows the new from the old."""
    t.grant("watch")
    t.apply("""
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      containers:
      - {name: main, image: app, args: [--, sh, -c, "trap 'exit 0' TERM; echo working; while :; do sleep 0.1; done"]}
      - name: web
        image: busybox
        command: [sh, -c, "trap 'exit 0' TERM; echo ready; touch /tmp/ready; while :; do sleep 0.1; done"]
        readinessProbe: {periodSeconds: 1, timeoutSeconds: 10, exec: {command: [test, -e, /tmp/ready]}}
""")
    first = t.pod("db-0", lambda pod: pod.container("main").running).raw["metadata"]["uid"]
    t.logged("db-0", "main", "working")
    t.delete("db-0")
    t.pod("db-0", lambda pod: pod.raw["metadata"]["uid"] != first and pod.container("main").running)
    t.logged("db-0", "main", "working")
    in_order(t.timeline("db-0"), "web: ready", "gate open")
