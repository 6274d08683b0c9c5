"""The decorator that makes a function a scenario, and the `t` it is handed."""

import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from onenode import components, node, wait

from .kube import Failed
from .observed import Job, Line, Pod
from .watch import Timeout, Watch

ALL = []

# The exit code of what SIGKILL ended.
KILLED = 128 + signal.SIGKILL


@dataclass(frozen=True)
class Scenario:
    name: str
    promise: str
    function: Callable
    alone: bool
    one_node: bool
    since: str
    needs: str


def scenario(function=None, *, alone=False, one_node=False, since="", needs=""):
    """Register a function `(t) -> None`. Its docstring's first line is the promise that is printed; an AssertionError
    breaks it.

    `alone`: after all others and by itself, because it disturbs the cluster, or measures what others would disturb.
    `one_node`: uses `t.node`, so it is skipped on any cluster but the one of e2e/cluster. (It should then also be `alone`.)
    `since`: the Kubernetes release, such as "1.36", that has what it is about by default. On older ones it is skipped.
    `needs`: flags of e2e/cluster, without which it is skipped.
    """

    def register(function):
        promise = function.__doc__.strip().splitlines()[0].rstrip(".")
        ALL.append(Scenario(function.__name__, promise, function, alone, one_node, since, needs))
        return function

    return register(function) if function else register


class Node:
    """The daemons of the one-node cluster."""

    def stop(self, name, now=False):
        node.stop(name, now)

    def start(self, name):
        components.start(name)
        components.await_ready(name)

    def restart(self, name, now=False):
        self.stop(name, now)
        self.start(name)


class T:
    """A scenario's namespace, and everything it does there. Every wait is bounded by its own `seconds`."""

    def __init__(self, kubectl, namespace, images):
        self.namespace = namespace
        self.kubectl = kubectl.within(namespace)
        self.images = images
        self.node = Node()
        self.watches = {}

    # Acting

    def apply(self, manifest):
        """Apply YAML. `image: NAME` stands for the image of that name in the catalogue."""
        self.kubectl("apply", "-f", "-", stdin=self.images.resolve(manifest))

    def grant(self, *verbs, resource="pods"):
        """Let the namespace's default service account do this, and nothing else."""
        self.role(*verbs, resource=resource)
        self.bind()

    def role(self, *verbs, resource="pods"):
        """The Role of `grant`, which nobody has yet."""
        self.kubectl("create", "role", "granted", f"--verb={','.join(verbs)}", f"--resource={resource}")

    def bind(self):
        """Give it to the service account."""
        account = f"--serviceaccount={self.namespace}:default"
        self.kubectl("create", "rolebinding", "granted", "--role=granted", account)

    def delete(self, pod, grace=None):
        """Ask for the deletion of a Pod, and do not wait for it."""
        period = [] if grace is None else [f"--grace-period={grace}"]
        self.kubectl("delete", "pod", pod, "--wait=false", *period)

    def exec(self, pod, container, *command, stdin=None):
        """The finished `kubectl exec`, whatever its exit code: returncode, stdout, stderr. A command that ends its own container
        comes to its end with that, by SIGKILL, unless it is quicker: see `touch`."""
        interactive = [] if stdin is None else ["-i"]
        return self.kubectl.run("exec", pod, "-c", container, *interactive, "--", *command, stdin=stdin)

    def touch(self, pod, container, path, seconds=15):
        """Make the file that a container's script waits for. A kubelet that is busy, or an API server that has only just come
        back, may refuse it at first, which `seconds` allows for: a file may be made twice."""

        def made():
            done = self.exec(pod, container, "touch", path)
            # The file may end the container, and with its PID 1 the kernel kills whatever else runs in it: `touch` too, if it has
            # made the file and not exited yet.
            assert done.returncode in (0, KILLED), done
            return True

        wait.until(f"touch {path}", made, seconds)

    # Waiting

    def pod(self, name, until, what="as expected", seconds=60):
        """The first snapshot of the Pod for which `until(pod)` holds."""
        return self._watch("pods").until(name, lambda pod: pod is not None and until(pod), what, seconds)

    def finished(self, name, seconds=60):
        """The Pod once it is over for good, with the end of every regular container reported."""
        return self.pod(name, lambda pod: pod.finished, "to finish", seconds)

    def gone(self, name, seconds=60):
        """Until the Pod no longer exists; returns the last snapshot there was."""
        watch = self._watch("pods")
        watch.until(name, lambda pod: pod is None and name in watch.history, "to be gone", seconds)
        return self.history(name)[-1]

    def job(self, name, until=lambda job: job.finished, what="to finish", seconds=90):
        """The first snapshot of the Job for which `until(job)` holds."""
        return self._watch("jobs").until(name, lambda job: job is not None and until(job), what, seconds)

    def pod_of(self, job, until=lambda pod: True, what="to be created", seconds=60):
        """The first Pod of the Job for which `until(pod)` holds."""

        def matches(pod):
            return pod.is_of(job) and until(pod)

        return self._watch("pods").any(matches, f"of job {job} {what}", seconds)

    def pod_by_label(self, selector, seconds=60):
        """The name of the first Pod that these labels select."""
        found = []

        def named():
            found.extend(self.kubectl("get", "pods", "-l", selector, "-o", "name").split())
            return found

        wait.until(f"a Pod with {selector}", named, seconds)
        return found[0].removeprefix("pod/")

    def pods_of(self, job):
        """All Pods the Job has had so far, by creation, deleted ones as last seen."""
        last = [self.history(name)[-1] for name in list(self._watch("pods").history)]
        owned = [pod for pod in last if pod.is_of(job)]
        return sorted(owned, key=lambda pod: (pod.raw["metadata"]["creationTimestamp"], pod.name))

    def logged(self, pod, container, text, seconds=60):
        """Until the container's log has `text`; returns the log so far."""
        deadline = time.monotonic() + seconds
        while True:
            seen = self.logs(pod, container)
            if text in seen:
                return seen
            if time.monotonic() > deadline:
                raise Timeout(f"log of {pod}/{container}: no {text!r} within {seconds}s; so far:\n{seen}")
            # Following the log would need a reader per call; a short poll of an append-only file misses nothing.
            time.sleep(0.2)

    # Looking

    def logs(self, pod, container, previous=False):
        """The container's log; empty while there is none."""
        try:
            return self.kubectl("logs", pod, "-c", container, *(["--previous"] if previous else []))
        except Failed:
            return ""

    def timeline(self, pod):
        """The log lines of all the Pod's containers in the order in which they were written."""
        spec = self.history(pod)[-1].spec
        lines = []
        for of in ("initContainers", "containers"):
            for container in spec.get(of, []):
                try:
                    text = self.kubectl("logs", pod, "-c", container["name"], "--timestamps")
                except Failed:
                    continue
                # The kubelet may add a complaint of its own, which has no time.
                lines += [Line(container["name"], line) for line in text.splitlines() if Line.STAMP.match(line)]
        return sorted(lines, key=lambda line: line.at)

    def follow(self, pod):
        """Read the logs of the Pod's containers from here on, so that they outlive the Pod. What it returns, called after the
        Pod's end, gives the lines in the order in which they were written."""
        followed = []
        for name in self.history(pod)[-1].containers():
            command = self.kubectl.command("logs", pod, "-c", name, "--timestamps", "--follow")
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors="replace")
            read, began = [], threading.Event()
            reader = threading.Thread(target=_read, args=(process.stdout, read, began), daemon=True)
            reader.start()
            # Whoever has a line has reached the kubelet, and gets the others.
            if self.logs(pod, name) and not began.wait(60):
                raise Timeout(f"log of {pod}/{name}: no line within 60s")
            followed.append((name, reader, read))

        def lines():
            read = []
            for name, reader, its in followed:
                reader.join(60)
                # The kubelet may end with a complaint of its own that the container is gone.
                read += [Line(name, line) for line in its if Line.STAMP.match(line)]
            return sorted(read, key=lambda line: line.at)

        return lines

    def ends(self, pod):
        """The Pod's containers in the order in which they ended (to the second; the kubelet reports no finer)."""
        last = self.history(pod)[-1]
        every = {**last.containers("initContainers"), **last.containers()}
        return [name for name, found in sorted(every.items(), key=lambda item: str(item[1].finished_at)) if found.ended]

    def history(self, pod):
        """Every snapshot of the Pod that the watch has seen: at least one, which may come later than the first log line."""
        watch = self._watch("pods")
        watch.until(pod, lambda _: pod in watch.history, "to be seen", 60)
        return watch.history[pod]

    def events(self, name):
        """The (reason, message) of the Kubernetes events about an object, oldest first."""
        found = json.loads(self.kubectl("get", "events", f"--field-selector=involvedObject.name={name}", "-o", "json"))
        items = sorted(found["items"], key=lambda event: event["metadata"]["creationTimestamp"])
        return [(event["reason"], event.get("message", "")) for event in items]

    def _watch(self, kind):
        if kind not in self.watches:
            self.watches[kind] = Watch(self.kubectl, kind, {"pods": Pod, "jobs": Job}[kind])
        return self.watches[kind]

    def begin(self):
        """Watch Pods from before the first one is made, so that their history is whole."""
        self._watch("pods")

    def close(self):
        for watch in self.watches.values():
            watch.stop()


def _read(stream, lines, began):
    """Take the lines as they come, to the stream's end."""
    for line in stream:
        lines.append(line.rstrip("\n"))
        began.set()


def in_order(lines, *expected):
    """Assert that lines with these texts occur, in this order, others between them allowed. An expectation is
    "container: text" or "text"; it matches a line that contains it. Lines that one container writes to stdout and to stderr
    within milliseconds have no order: the runtime reads two pipes."""
    remaining = iter(lines)
    for text in expected:
        if not any(text in str(line) for line in remaining):
            listing = "\n  ".join(map(str, lines))
            raise AssertionError(f"no line with {text!r} at its place in\n  {listing}")


def said_at(lines, container, text):
    """When this container's proa logged the first line with this text: its own time, exact to the microsecond."""
    for line in lines:
        if line.container == container and text in line.text:
            return datetime.fromisoformat(line.text.split(" ", 1)[0])
    listing = "\n  ".join(map(str, lines))
    raise AssertionError(f"{container}: no line with {text!r} in\n  {listing}")


def seconds_between(lines, container, first, second):
    """From one line of this container's proa to another, by its own clock."""
    return (said_at(lines, container, second) - said_at(lines, container, first)).total_seconds()


def opened_after(t, pod, sidecar, seconds, by="main"):
    """Assert that the gate of `by` opened no sooner than this long after the sidecar's start, before which it cannot be ready.
    (That proa says whom it waits for proves nothing else, and says it only where it starts before the sidecar is ready.)"""
    opened = said_at(t.timeline(pod.name), by, "gate open")
    waited = (opened - pod.container(sidecar).started_at).total_seconds()
    assert waited >= seconds, f"the gate opened {waited}s after the start of {sidecar}, which is ready after {seconds}s"
