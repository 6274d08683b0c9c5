"""A mistake in a manifest hangs no Job, and a disabled proa only runs the command."""

from suite.pieces import ENVOY, MOUNT, QUIT, STATE, container, job, main, pod, shell
from suite.scenario import in_order, scenario
from suite.scenarios.wrapped import SERVES, wrapped


def _mistyped(*flags, more=""):
    return main("echo never", *flags, more=more)


@scenario
def a_mistyped_flag_beside_envoy(t):
    """A Job whose proa has a mistyped flag fails with 2 instead of hanging: Envoy, which starts after it, is ended without any flag."""
    t.grant("watch")
    t.apply(job("work", _mistyped("--wait-fro=envoy"), ENVOY))
    assert t.job("work").failed
    found = t.pod_of("work", lambda pod: pod.finished)
    assert found.exit_codes() == {"main": 2, "envoy": 0}, found
    assert "--wait-for" in found.container("main").message, found.container("main").message
    in_order(t.timeline(found.name), "unexpected argument '--wait-fro'", "quitquitquit: 200", "every sidecar has exited")


@scenario
def a_senseless_variable_and_a_contradiction(t):
    """A variable that makes no sense, and flags that contradict one another, end Envoy and what proa wraps: 2, and the Pods are over."""
    t.grant("watch")
    t.apply(pod("variable", _mistyped(more="env: [{name: PROA_KILL_ALL, value: maybe}]"), ENVOY))
    t.apply(pod("contradiction", _mistyped("--wait-for=web", "--ignore=web"), ENVOY, wrapped(SERVES)))
    assert t.finished("variable").exit_codes() == {"main": 2, "envoy": 0}
    assert t.finished("contradiction").exit_codes() == {"main": 2, "envoy": 0, "web": 0}


@scenario
def a_mistyped_flag_that_is_tried_again(t):
    """With restart policy OnFailure a mistyped flag leaves Envoy running: the container is started again."""
    t.grant("watch")
    t.apply(pod("retried", _mistyped("--wait-fro=envoy"), ENVOY, restartPolicy="OnFailure"))
    found = t.pod("retried", lambda pod: pod.container("main").restarts >= 1 and pod.container("envoy").running)
    assert found.container("main").previous["exitCode"] == 2 and found.container("envoy").restarts == 0, found
    t.logged("retried", "main", "sidecars are left running")


@scenario
def a_mistake_under_kubectl_exec(t):
    """Whoever tries proa in a container that runs ends no sidecar by a mistake."""
    t.grant("watch")
    work = container("main", "app", command=["sh", "-c", "until [ -e /tmp/over ]; do sleep 0.1; done"])
    t.apply(pod("tried", work, ENVOY))
    t.pod("tried", lambda pod: pod.container("main").running and pod.container("envoy").ready)
    tried = t.exec("tried", "main", "/proa", "--wait-fro=envoy", "--", "true")
    assert tried.returncode == 2 and "--wait-for" in tried.stderr and "quitquitquit" not in tried.stderr, tried
    t.touch("tried", "main", "/tmp/over")
    found = t.pod("tried", lambda pod: pod.container("main").ended)
    assert found.container("envoy").running and found.container("envoy").restarts == 0, found


@scenario
def a_disabled_proa(t):
    """With PROA_DISABLED=1 the command runs at once, without a Role, and no sidecar is shut down; a helper lets main start and exits."""
    disabled = "env: [{name: PROA_DISABLED, value: '1'}]"
    t.apply(pod("disabled", main("echo working; exit 3", QUIT, "--wait-for=nobody", more=disabled), ENVOY))
    helper = container("helper", "app", args=["sidecar", "--until-exit=main", "--ready-file=/state/ready"], more=f"{disabled}\n{MOUNT}")
    waits = shell("main", "until [ -e /state/ready ]; do sleep 0.1; done; exit 4", MOUNT)
    t.apply(pod("helped", helper, waits, volumes=STATE))
    found = t.pod("disabled", lambda pod: pod.container("main").ended and pod.container("envoy").running)
    assert found.container("main").exit_code == 3, found
    assert t.finished("helped").exit_codes() == {"helper": 0, "main": 4}


@scenario
def in_a_pod_without_a_service_account(t):
    """A Pod without a token is no place outside Kubernetes: proa refuses with 2 as ever, and runs the command where it is disabled."""
    spec = {"automountServiceAccountToken": "false"}
    t.apply(pod("bare", main("echo never"), **spec))
    t.apply(pod("bare-disabled", main("exit 3", more="env: [{name: PROA_DISABLED, value: 'yes'}]"), **spec))
    main_ = t.finished("bare").container("main")
    assert main_.exit_code == 2 and "automountServiceAccountToken" in main_.message, main_
    assert t.finished("bare-disabled").exit_codes() == {"main": 3}
