"""Time, truth and trouble: grace periods of every kind, statuses of an earlier run, and an API server that denies or comes late."""

from contextlib import contextmanager

from onenode import node, wait
from suite.pieces import ENVOY, MOUNT, READY_FILE, STATE, UNTIL_TERM, before, container, job, main, pod, shell
from suite.scenario import in_order, scenario
from suite.scenarios.helper import READY, helper
from suite.scenarios.wrapped import SERVES, wrapped

# A sidecar that takes connections and never answers, and the flag that asks it all the same. As PID 1 it ignores SIGTERM.
HANGS = container(
    "web", "busybox", command=["nc", "-ll", "-p", "8099", "-e", "sleep", "1000"],
    more="readinessProbe: {periodSeconds: 1, tcpSocket: {port: 8099}}",
)
ASKS = "--shutdown-http-post=http://localhost:8099/quit"

UNTIL = "until [ -e /state/{0} ]; do sleep 0.1; done"
WORKS = "echo working; until [ -e /tmp/over ]; do sleep 0.1; done"


# Grace periods


def _completes(t, *flags, **spec):
    """A Job completes whose sidecar `log` ends some time after the command, and needs Envoy until then."""
    t.grant("watch")
    flush = f"touch /tmp/ready; {UNTIL.format('over')}; sleep 2; wget -qO- localhost:9901/ready || exit 9"
    log = shell("log", flush, f"{READY_FILE}\n{MOUNT}")
    t.apply(job("work", ENVOY, log, main("touch /state/over; exit 0", *flags, more=MOUNT), volumes=STATE, **spec))
    assert t.pod_of("work", lambda pod: pod.finished).exit_codes() == {"envoy": 0, "log": 0, "main": 0}
    assert t.job("work").complete


@scenario
def a_grace_period_of_0(t):
    """With terminationGracePeriodSeconds: 0 a Job whose command ends by itself has time to end its sidecars, and completes."""
    _completes(t, terminationGracePeriodSeconds="0")


@scenario
def a_wrapped_sidecar_under_a_grace_period_of_0(t):
    """With terminationGracePeriodSeconds: 0 a wrapped sidecar that main's end stops has its time to end well."""
    t.grant("watch")
    flushes = "trap 'sleep 1; echo flushed; exit 0' TERM; touch /tmp/ready; while :; do sleep 0.1; done"
    t.apply(job("work", wrapped(flushes, more=READY_FILE), main("exit 0"), terminationGracePeriodSeconds="0"))
    assert t.job("work", seconds=45).complete
    found = t.pod_of("work", lambda pod: pod.finished)
    assert found.exit_codes() == {"web": 0, "main": 0}, found
    assert "flushed" in t.logs(found.name, "web").splitlines(), t.logs(found.name, "web")


@scenario
def a_shutdown_timeout_of_0(t):
    """--shutdown-timeout=0 sets no limit: a Job's sidecars have time to end, and it completes."""
    _completes(t, "--shutdown-timeout=0")


@scenario
def a_deletion_with_a_grace_period_of_its_own(t):
    """A Pod deleted with --grace-period=4 where its spec says 30: the command's code survives a quit endpoint that hangs."""
    t.grant("watch")
    t.apply(pod("hurried", HANGS, main(f"trap 'sleep 1; exit 7' TERM; {WORKS}", ASKS)))
    t.logged("hurried", "main", "working")
    t.delete("hurried", grace=4)
    assert t.gone("hurried").container("main").exit_code == 7, t.history("hurried")[-1]


@scenario
def a_hook_that_takes_most_of_the_grace_period(t):
    """A preStop hook that takes most of the grace period leaves less of it, and the command's code survives."""
    t.grant("watch")
    hook = "lifecycle: {preStop: {exec: {command: [sleep, '6']}}}"
    t.apply(pod("hooked", HANGS, main(f"trap 'exit 7' TERM; {WORKS}", ASKS, more=hook), terminationGracePeriodSeconds="9"))
    t.logged("hooked", "main", "working")
    t.delete("hooked")
    assert t.gone("hooked").container("main").exit_code == 7, t.history("hooked")[-1]


@scenario
def a_stop_signal_that_the_pod_does_not_show(t):
    """An image's STOPSIGNAL counts as the request to stop, with a Role and without: the command's 0 survives."""
    t.grant("watch")
    t.kubectl("create", "serviceaccount", "stranger")
    command = f"trap 'exit 0' USR1; {WORKS}"
    t.apply(pod("seeing", HANGS, main(command, ASKS, image="app-usr1"), terminationGracePeriodSeconds="5"))
    blind = main(command, ASKS, "--wait-tcp=localhost:8099", image="app-usr1")
    t.apply(pod("blind", HANGS, blind, terminationGracePeriodSeconds="5", serviceAccountName="stranger"))
    for name in ("seeing", "blind"):
        t.logged(name, "main", "working")
        t.delete(name)
    for name in ("seeing", "blind"):
        assert t.gone(name).container("main").exit_code == 0, t.history(name)[-1]


@scenario(needs="--beta --runtime=newest")
def a_stop_signal_of_the_pods_own(t):
    """The stop signal that the Pod sets for a container reaches the command, ends a wait, and stops a wrapped sidecar."""
    t.grant("watch")
    usr1 = "lifecycle: {stopSignal: SIGUSR1}"
    spec = {"os": "{name: linux}", "terminationGracePeriodSeconds": "10"}
    works = main(f"trap 'exit 0' USR1; {WORKS}", more=usr1)
    serves = wrapped(f"trap 'exit 0' TERM; {WORKS}", "--hold-term=0s", more=usr1)
    t.apply(pod("working", shell("web", UNTIL_TERM, usr1.replace("USR1", "TERM")), works, **spec))
    t.apply(pod("waiting", shell("web", UNTIL_TERM, READY_FILE), main("echo never", more=usr1), **spec))
    t.apply(pod("wrapped", serves, shell("main", UNTIL_TERM), **spec))
    t.logged("working", "main", "working")
    t.logged("waiting", "main", "waiting for web")
    t.logged("wrapped", "web", "working")
    for name in ("working", "waiting", "wrapped"):
        t.delete(name)
    # Who waits may see the Pod's deletion before the signal comes.
    for name, container, codes in [("working", "main", {0}), ("waiting", "main", {128 + 10, 143}), ("wrapped", "web", {0})]:
        found = t.gone(name)
        status = next(one for one in found.raw["status"]["containerStatuses"] if one["name"] == container)
        assert status.get("stopSignal") == "SIGUSR1", status
        assert found.container(container).exit_code in codes, found


@scenario
def a_liveness_probe_with_a_grace_period_of_its_own(t):
    """A liveness probe with a terminationGracePeriodSeconds of its own, shorter than the Pod's: the command's code survives."""
    t.grant("watch")
    probe = (
        "livenessProbe: {periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 1, terminationGracePeriodSeconds: 4, "
        "exec: {command: [sh, -c, '[ ! -e /tmp/stuck ]']}}"
    )
    t.apply(pod("probed", HANGS, main(f"trap 'exit 7' TERM; {WORKS}", ASKS, more=probe), terminationGracePeriodSeconds="20"))
    t.logged("probed", "main", "working")
    t.touch("probed", "main", "/tmp/stuck")
    found = t.pod("probed", lambda pod: pod.container("main").ended)
    assert (found.container("main").exit_code, found.container("main").restarts) == (7, 0), found


@scenario
def a_term_that_no_kill_follows(t):
    """A SIGTERM sent by hand, which the command outlives by more than the grace period, does not keep Envoy: the Job completes."""
    t.grant("watch")
    ignores = "trap 'echo ignored; sleep 8; exit 0' TERM; echo working; while :; do sleep 0.1; done"
    t.apply(job("work", ENVOY, main(ignores), terminationGracePeriodSeconds="3"))
    found = t.pod_of("work")
    t.logged(found.name, "main", "working")
    sent = t.exec(found.name, "main", "kill", "-TERM", "1")
    assert sent.returncode == 0, sent
    assert t.job("work", seconds=45).complete
    assert t.pod_of("work", lambda pod: pod.finished).exit_codes() == {"envoy": 0, "main": 0}
    assert "ignored" in t.logs(found.name, "main").splitlines()


# Statuses of an earlier run


# Ready every other second. Whenever the status of any Pod changes, the kubelet sends all that it was refused.
FLIPS = shell(
    "main", "sleep 1000",
    "readinessProbe: {periodSeconds: 1, timeoutSeconds: 10, failureThreshold: 1, "
    "exec: {command: [sh, -c, 'rm /tmp/ready || ! touch /tmp/ready']}}",
)


@contextmanager
def lagging_statuses(t, name):
    """Meanwhile the API server refuses what the kubelet reports of this namespace's Pods, as if the kubelet were late with it: the
    statuses that clients see stay as they are. That must not last long: after 15s proa believes what it sees. So nothing is
    done at its end but what ends it."""
    t.apply(pod("flips", FLIPS, terminationGracePeriodSeconds="1"))
    t.pod("flips", lambda pod: pod.container("main").ready)
    t.kubectl("apply", "-f", "-", stdin=f"""
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {{name: {t.namespace}}}
spec:
  failurePolicy: Fail
  matchConstraints:
    namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {t.namespace}}}}}
    resourceRules: [{{apiGroups: [""], apiVersions: [v1], operations: [UPDATE], resources: [pods/status]}}]
  validations: [{{expression: "false", message: statuses lag}}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {{name: {t.namespace}}}
spec: {{policyName: {t.namespace}, validationActions: [Deny]}}
""")
    update = ("patch", "pod", name, "--subresource=status", "--type=merge", "--dry-run=server", "-p", '{"status": {"message": "new"}}')
    try:
        wait.until("statuses to be refused", lambda: "statuses lag" in t.kubectl.run(*update).stderr, 30)
        yield
    finally:
        kinds = ("validatingadmissionpolicybinding", "validatingadmissionpolicy")
        t.kubectl("delete", "--wait=false", *(f"{kind}/{t.namespace}" for kind in kinds))


ANEW = "restartPolicyRules: [{action: RestartAllContainers, exitCodes: {operator: In, values: [42]}}]"
# Ready at once in the first round, and not before it is let in the second.
SLOW_AGAIN = f"[ -e /state/tried ] && until [ -e /tmp/go ]; do sleep 0.1; done; echo ready; touch /tmp/ready; {UNTIL.format('over')}"
# What proa says of a status that is older than its container.
OLD_STATUS = "to show this run of container `{0}`"


def _starts_after_the_sidecar(t, name, begin_again):
    """The second round's command starts once the sidecar is ready in that round, though at first the API server shows it as it was
    in the first, which is ready."""

    def looked():
        log = t.logs(name, "main")
        return log if OLD_STATUS.format("main") in log or "second round" in log else None

    t.logged(name, "main", "first round")
    t.pod(name, lambda pod: pod.container("main").running and pod.container("web").ready)
    with lagging_statuses(t, name):
        begin_again()
        log = wait.until("main's proa to see the old status", looked, 60)
        assert "second round" not in log, log
    t.pod(name, lambda pod: pod.container("main").running and pod.container("main").restarts and not pod.container("web").ready)
    t.touch(name, "web", "/tmp/go")
    found = t.finished(name)
    in_order(t.timeline(name), "web: ready", "main: second round")
    return found


@scenario(since="1.36")
def a_second_round_of_all_containers(t):
    """After RestartAllContainers the command starts once the sidecar is ready anew, whatever the first round's status says."""
    t.grant("watch")
    script = f"[ -e /state/tried ] && {{ echo second round; touch /state/over; exit 0; }}; echo first round; {UNTIL.format('tried')}; exit 42"
    command = main(script, more=f"restartPolicy: Never\n{ANEW}\n{MOUNT}")
    t.apply(pod("anew", shell("web", SLOW_AGAIN, f"{READY_FILE}\n{MOUNT}"), command, volumes=STATE))
    found = _starts_after_the_sidecar(t, "anew", lambda: t.touch("anew", "main", "/state/tried"))
    assert found.phase == "Succeeded" and found.exit_codes() == {"web": 0, "main": 0}, found
    assert found.container("main").restarts == 1, found


def _second_round(t, web, first, second):
    """All containers of a Pod start anew: the wrapped sidecar `web`, and main, which runs `first`, then `second`. In the second round
    the API server shows at first that main has ended, as it has in the first."""
    t.grant("watch")
    trigger = shell("trigger", f"[ -e /state/tried ] && exit 0; {UNTIL.format('tried')}; exit 42", f"restartPolicy: Never\n{ANEW}\n{MOUNT}")
    script = f"[ -e /state/tried ] || {{ {first}; }}; {UNTIL.format('over')}; {second}"
    t.apply(pod("anew", web, shell("main", script, MOUNT), trigger, volumes=STATE, terminationGracePeriodSeconds="3"))
    t.pod("anew", lambda pod: pod.container("main").ended and pod.container("web").running)
    with lagging_statuses(t, "anew"):
        t.touch("anew", "trigger", "/state/tried")
        t.logged("anew", "web", OLD_STATUS.format("web"))
    t.pod("anew", lambda pod: pod.container("main").running and pod.container("main").restarts)
    t.touch("anew", "main", "/state/over")
    found = t.finished("anew")
    assert found.exit_codes() == {"web": 0, "main": 0, "trigger": 0}, found


@scenario(since="1.36")
def a_wrapped_sidecar_in_a_second_round(t):
    """After RestartAllContainers a wrapped sidecar runs until main ends in that round: main's success in the first is none."""
    # In the first round it is still busy ending when all begins anew.
    script = f"[ -e /state/tried ] || trap 'echo busy' TERM; mkdir /tmp/www; echo page > /tmp/www/index.html; httpd -p 7000 -h /tmp/www; {SERVES}"
    web = wrapped(script, "--until-exit=main", "--stop-timeout=60s", more=MOUNT)
    _second_round(t, web, "until wget -qO- localhost:7000; do sleep 0.1; done; exit 0", "wget -qO- localhost:7000 || exit 9; exit 0")


@scenario(since="1.36")
def a_wrapped_sidecar_after_a_failure_in_the_first_round(t):
    """After RestartAllContainers a wrapped sidecar ends with main's success in that round: main's failure in the first is none."""
    _second_round(t, wrapped(SERVES, "--until-exit-success=main"), "exit 3", "exit 0")


@scenario
def a_pod_whose_containers_all_start_anew(t):
    """All containers killed with their sandbox, as by a node's reboot: the command starts once the sidecar is ready anew."""
    t.grant("watch")
    script = f"[ -e /state/tried ] && {{ echo second round; touch /state/over; exit 0; }}; echo first round; {UNTIL.format('never')}"
    web = shell("web", SLOW_AGAIN, f"{READY_FILE}\n{MOUNT}")
    t.apply(pod("anew", web, main(script, more=MOUNT), restartPolicy="OnFailure", shareProcessNamespace="true", volumes=STATE))

    def reboot():
        # The sandbox is PID 1, with which the kernel ends all others.
        t.exec("anew", "main", "sh", "-c", "touch /state/tried; kill -TERM 1")

    found = _starts_after_the_sidecar(t, "anew", reboot)
    assert found.phase == "Succeeded" and found.exit_codes() == {"web": 0, "main": 0}, found


@scenario
def a_native_sidecar_that_restarted_under_the_command(t):
    """--kill and --kill-all leave a native sidecar alone that was started again while the command ran."""
    t.grant("watch")
    native = before(shell("db", f"echo $$ > /tmp/pid; {UNTIL_TERM}", "restartPolicy: Always"))
    for name, flag in [("all", "--kill-all"), ("named", "--kill=sh")]:
        t.apply(pod(name, shell("web", UNTIL_TERM), main(WORKS, flag), shareProcessNamespace="true", initContainers=native))
    for name in ("all", "named"):
        t.logged(name, "main", "working")
        t.exec(name, "db", "sh", "-c", "kill -KILL $(cat /tmp/pid)")
    for name in ("all", "named"):
        t.pod(name, lambda pod: pod.container("db").restarts == 1 and pod.container("db").running)
        # It is up: what it is sent from here on it says.
        t.logged(name, "db", "up")
        t.touch(name, "main", "/tmp/over")
    for name in ("all", "named"):
        found = t.finished(name)
        assert found.exit_codes() == {"web": 0, "main": 0} and found.container("db").restarts == 1, found
        in_order(t.timeline(name), "exit with code 0", "db: asked to stop")


@scenario
def a_native_sidecar_that_the_next_one_needs(t):
    """proa before a native sidecar's command waits for those listed before it alone: the next one needs it to be started."""
    t.grant("watch")
    first = shell("db", f"sleep 2; echo ready; touch /tmp/ready; {UNTIL_TERM}", f"restartPolicy: Always\n{READY_FILE}")
    started = "restartPolicy: Always\nstartupProbe: {periodSeconds: 1, timeoutSeconds: 10, failureThreshold: 60, exec: {command: [test, -e, /tmp/up]}}"
    second = main(f"echo serving; touch /tmp/up; {UNTIL_TERM}", name="proxy", more=started)
    third = shell("log", UNTIL_TERM, "restartPolicy: Always")
    t.apply(pod("chain", main("echo working; exit 3"), initContainers=before(first, second, third)))
    found = t.finished("chain", seconds=90)
    assert found.exit_codes() == {"main": 3} and found.container("proxy").restarts == 0, found
    in_order(t.timeline("chain"), "db: ready", "proxy: serving", "log: up", "main: working")


# An API server that denies, or comes late


def _allowed(t):
    """Wait until the API server knows that the namespace's default service account may watch Pods."""
    ask = ("auth", "can-i", "watch", "pods", f"--as=system:serviceaccount:{t.namespace}:default")
    wait.until("the right to watch Pods", lambda: t.kubectl.run(*ask).stdout.strip() == "yes", 30)


def _denied_for_a_while(t, watches, *sidecars):
    """The end of a Pod of these sidecars, one of which watches the Pod, and a main container that ends with 3, after the right to
    watch Pods was taken away while it ran, and given back."""
    t.grant("watch")
    # The API server asks for the right when a watch begins, and proa's last for 30s: this is 14s of denial.
    script = f"echo working; {UNTIL.format('denied')}; sleep 44; echo denied; {UNTIL.format('over')}; exit 3"
    t.apply(pod("denied", *sidecars, shell("main", script, MOUNT), volumes=STATE))
    t.logged("denied", "main", "working")
    # Once it says whose end it waits for, it has seen the Pod.
    t.logged("denied", watches, "`main`")
    t.kubectl("delete", "rolebinding", "granted")
    t.touch("denied", "main", "/state/denied")
    t.logged("denied", "main", "denied")
    t.kubectl("create", "rolebinding", "granted", "--role=granted", f"--serviceaccount={t.namespace}:default")
    _allowed(t)
    t.touch("denied", "main", "/state/over")
    # A right that is missing is asked for every 30s at the latest.
    return t.finished("denied", seconds=70)


@scenario
def a_wrapped_sidecar_that_is_denied_for_a_while(t):
    """A wrapped sidecar whose rights are taken away while main runs, and come back, ends with main all the same."""
    found = _denied_for_a_while(t, "web", wrapped(SERVES))
    assert found.exit_codes() == {"web": 0, "main": 3}, found


@scenario
def a_helper_that_is_denied_for_a_while(t):
    """A helper whose rights are taken away while main runs, and come back, shuts Envoy down after main all the same."""
    found = _denied_for_a_while(t, "helper", ENVOY, helper("--wait-for=envoy", READY))
    assert found.exit_codes() == {"envoy": 0, "helper": 0, "main": 3}, found


def _final(t, **spec):
    """A Pod whose command starts without sight of the Pod, and fails for good."""
    t.apply(pod("final", ENVOY, main(f"{WORKS}; exit 3", "--wait-tcp=localhost:9901"), **spec))


def _retried(t, **spec):
    """One whose command fails once, and is started again."""
    fails_once = f"{WORKS}; [ -e /state/tried ] && exit 0; touch /state/tried; exit 3"
    command = main(fails_once, "--wait-tcp=localhost:9901", "--shutdown-known=envoy", more=MOUNT)
    t.apply(pod("retried", ENVOY, command, restartPolicy="OnFailure", volumes=STATE, **spec))


def _lets_envoy_end(t):
    t.touch("final", "main", "/tmp/over")
    assert t.finished("final").exit_codes() == {"envoy": 0, "main": 3}


def _keeps_envoy(t):
    t.touch("retried", "main", "/tmp/over")
    found = t.pod("retried", lambda pod: pod.container("main").restarts == 1 and pod.container("main").running)
    assert found.container("main").previous["exitCode"] == 3, found
    t.logged("retried", "main", "working")
    t.touch("retried", "main", "/tmp/over")
    found = t.finished("retried")
    assert found.exit_codes() == {"envoy": 0, "main": 0}, found
    assert (found.container("main").restarts, found.container("envoy").restarts) == (1, 0), found


@scenario
def rights_that_come_while_the_command_runs(t):
    """Rights that come only while the command runs are used at its end: Envoy, which no flag names, is shut down."""
    _final(t)
    t.logged("final", "main", "working")
    t.grant("watch")
    _allowed(t)
    _lets_envoy_end(t)


@scenario
def rights_that_come_before_a_retry(t):
    """Rights that come only while the command runs are used at its end: with OnFailure a failure leaves Envoy to the retry."""
    _retried(t)
    t.logged("retried", "main", "working")
    t.grant("watch")
    _allowed(t)
    _keeps_envoy(t)


@scenario(alone=True, one_node=True)
def an_api_server_that_comes_while_the_command_runs(t):
    """An API server that is down until the command runs is asked at its end: Envoy is shut down, or left for the retry."""
    t.grant("watch")
    # Ends, and lets the others start, once nobody listens there.
    outage = before(shell("outage", "echo up; while nc -w 1 10.96.0.1 443 < /dev/null; do sleep 0.1; done"))
    _final(t, initContainers=outage)
    _retried(t, initContainers=outage)
    names = ("final", "retried")
    for name in names:
        t.logged(name, "outage", "up")
    t.node.stop("apiserver", now=True)
    try:
        for name in names:
            # Nobody but the kubelet's files tells now.
            said = f"grep -qs ' working$' /var/log/pods/{t.namespace}_{name}_*/main/0.log"
            wait.until(f"the command of {name}", lambda: node.run(["sh", "-c", said]).returncode == 0, 90)
    finally:
        t.node.start("apiserver")
    for name in names:
        # An API server that has only just come back may refuse the first.
        wait.until(f"{name} to be reached", lambda: t.exec(name, "main", "true").returncode == 0, 60)
    _lets_envoy_end(t)
    _keeps_envoy(t)
