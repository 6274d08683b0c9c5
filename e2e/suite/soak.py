"""Pods by the thousand, in batches, each with an exit code of its own: `e2e/run --soak N`. No part of the usual scenarios."""

from onenode import components, wait

from .pieces import container, main, pod
from .scenario import ALL, scenario

# The node has room for 200 Pods, those of the cluster and those that the last batch leaves behind for a while among them.
BATCH = 50


def batches(count):
    """Registers scenarios, one after the other, of as many Pods in all; returns them."""
    others = len(ALL)
    for first in range(0, count, BATCH):
        scenario(alone=True, one_node=True)(_batch(first, min(BATCH, count - first)))
    return ALL[others:]


def _batch(first, count):
    def run(t):
        _run(first, count, t)

    run.__name__ = f"soak_{first}"
    run.__doc__ = f"Pods {first} to {first + count - 1}: every exit code is the command's, every Pod is over, nothing of them is left"
    return run


def _run(first, count, t):
    before = _left()
    t.grant("watch")
    codes = {f"soak-{number}": number % 256 for number in range(first, first + count)}
    t.apply("\n---\n".join(_pod(name, code) for name, code in codes.items()))
    wrong = []
    for name, code in codes.items():
        found = t.finished(name, seconds=600)
        expected = ({"main": code, "web": 0}, "Failed" if code else "Succeeded")
        restarts = sum(container.restarts for container in found.containers().values())
        if (found.exit_codes(), found.phase) != expected or restarts:
            wrong.append(f"{found}, instead of {expected}\n{t.logs(name, 'main')}")
    assert not wrong, f"{len(wrong)} of {count}:\n" + "\n".join(wrong)
    t.kubectl("delete", "pods", "--all", "--wait=false")
    for name in codes:
        t.gone(name, seconds=300)
    # The kubelet removes a Pod's sandbox after the Pod itself is gone.
    wait.until("the end of the containers and sandboxes", lambda: _left() <= before, 300)


def _pod(name, code):
    """A main container, and a sidecar that has no end but the one that proa gives it."""
    ready = "readinessProbe: {periodSeconds: 1, exec: {command: [test, -e, /tmp/ready]}}"
    serve = "touch /tmp/ready; exec sleep 1000000"
    wrapped = container("web", "app", args=["sidecar", "--", "sh", "-c", serve], more=ready)
    return pod(name, main(f"exit {code}"), wrapped)


def _left():
    """The containers that containerd has, sandboxes among them."""
    listed = components.ctr("containers", "list", "--quiet", check=True, capture_output=True, text=True)
    return set(listed.stdout.split())
