"""The kubelet, the API server and the container runtime are restarted at the worst moments."""

from suite.pieces import READY_FILE, main, pod, shell
from suite.scenario import in_order, scenario


def _survives(t, *daemons):
    """A Pod goes its way though these are killed and started anew in each of its phases."""
    t.grant("watch")
    sidecar = "until [ -e /tmp/ready ]; do sleep 0.1; done; echo serving; until [ -e /tmp/over ]; do sleep 0.1; done; exit 0"
    command = "echo working; until [ -e /tmp/done ]; do sleep 0.1; done; echo worked; exit 5"
    t.apply(pod("steady", shell("web", sidecar, READY_FILE), main(command, "--shutdown-timeout=3m")))
    for said, container, path in [
        ("waiting for web", "web", "/tmp/ready"), ("working", "main", "/tmp/done"), ("waiting for `web` to exit", "web", "/tmp/over"),
    ]:
        # After a restart of what the cluster stands on, everybody's pauses may have grown to half a minute.
        t.logged("steady", "main", said, seconds=150)
        for daemon in daemons:
            t.node.restart(daemon, now=True)
        t.touch("steady", container, path, seconds=90)
    found = t.finished("steady", seconds=120)
    assert found.exit_codes() == {"web": 0, "main": 5}, found
    assert all(container.restarts == 0 for container in found.containers().values()), found
    in_order(t.timeline("steady"), "gate open", "waiting for `web` to exit", "every sidecar has exited")
    assert "worked" in t.logs("steady", "main").splitlines(), "what a container writes is lost"


@scenario(alone=True, one_node=True)
def restarts_in_every_phase(t):
    """Kubelet and API server killed and started anew while waiting, while the command runs, and while draining."""
    _survives(t, "apiserver", "kubelet")


@scenario(alone=True, one_node=True)
def the_container_runtime_restarts(t):
    """containerd killed and started anew while waiting, while the command runs, and while draining: no container notices."""
    _survives(t, "containerd")
