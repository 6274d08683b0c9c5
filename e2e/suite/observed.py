"""Pods and Jobs as the API reports them: read-only views with the words that assertions use."""

import re
from datetime import datetime, timedelta, timezone


def _time(text):
    return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(timezone.utc) if text else None


class Container:
    """One container's spec and status; before the kubelet has reported any, everything is absent."""

    def __init__(self, name, status):
        self.name = name
        self.status = status or {}
        self.state = self.status.get("state", {})

    @property
    def running(self):
        return "running" in self.state

    @property
    def ended(self):
        """The `terminated` state, or None while it waits or runs."""
        return self.state.get("terminated")

    @property
    def exit_code(self):
        return self.ended["exitCode"] if self.ended else None

    @property
    def reason(self):
        """Why it waits or how it ended, in the kubelet's word: CrashLoopBackOff, OOMKilled, Completed, Error, ..."""
        return (self.ended or self.state.get("waiting") or {}).get("reason")

    @property
    def message(self):
        """The termination message."""
        return (self.ended or {}).get("message", "")

    @property
    def ready(self):
        return self.status.get("ready", False)

    @property
    def restarts(self):
        return self.status.get("restartCount", 0)

    @property
    def previous(self):
        """How the run before the present one ended, as a `terminated` state, or None."""
        return self.status.get("lastState", {}).get("terminated")

    @property
    def started_at(self):
        return _time((self.ended or self.state.get("running") or {}).get("startedAt"))

    @property
    def finished_at(self):
        """To the second: the API carries no more. For what happens within one, use the timeline of log lines."""
        return _time((self.ended or {}).get("finishedAt"))

    def __str__(self):
        kind = next(iter(self.state), "unreported")
        words = [f"exit {self.exit_code}" if self.ended else None, self.reason, "ready" if self.ready else None]
        words += [f"{self.restarts} restarts" if self.restarts else None, repr(self.message) if self.message else None]
        return f"{self.name}: {kind}" + "".join(f", {word}" for word in words if word)


class Pod:
    """A snapshot of a Pod."""

    def __init__(self, raw):
        self.raw = raw
        self.name = raw["metadata"]["name"]
        self.spec = raw["spec"]
        self.status = raw.get("status", {})

    @property
    def phase(self):
        return self.status.get("phase")

    @property
    def deleting(self):
        return "deletionTimestamp" in self.raw["metadata"]

    @property
    def deletion_asked_at(self):
        """To the second. The API has the end of the grace period, which the kubelet cuts to nothing at the very end."""
        metadata = self.raw["metadata"]
        return _time(metadata["deletionTimestamp"]) - timedelta(seconds=metadata["deletionGracePeriodSeconds"])

    def is_of(self, job):
        """Whether the Job of this name made it."""
        owners = self.raw["metadata"].get("ownerReferences", [])
        return any(owner["kind"] == "Job" and owner["name"] == job for owner in owners)

    def containers(self, of="containers"):
        """By name, in the spec's order; `of` is containers, initContainers or ephemeralContainers."""
        reported = self.status.get(f"{of.removesuffix('s')}Statuses", [])
        statuses = {status["name"]: status for status in reported}
        return {spec["name"]: Container(spec["name"], statuses.get(spec["name"])) for spec in self.spec.get(of, [])}

    def container(self, name):
        """Of whichever kind."""
        for of in ("containers", "initContainers", "ephemeralContainers"):
            if name in (found := self.containers(of)):
                return found[name]
        raise AssertionError(f"Pod {self.name} has no container {name}")

    def exit_codes(self):
        return {name: container.exit_code for name, container in self.containers().items()}

    @property
    def finished(self):
        """Over for good, and every regular container's end reported. The phase alone may run ahead of the statuses."""
        return self.phase in ("Succeeded", "Failed") and all(container.ended for container in self.containers().values())

    def condition(self, kind):
        return _condition(self.status, kind)

    def __str__(self):
        every = [*self.containers("initContainers").values(), *self.containers().values()]
        return f"Pod {self.name} {self.phase}" + (" (being deleted)" if self.deleting else "") + "".join(
            f"\n  {container}" for container in every
        )


class Job:
    """A snapshot of a Job."""

    def __init__(self, raw):
        self.raw = raw
        self.name = raw["metadata"]["name"]
        self.status = raw.get("status", {})

    def condition(self, kind):
        return _condition(self.status, kind)

    @property
    def complete(self):
        return bool(self.condition("Complete"))

    @property
    def failed(self):
        """The Failed condition, whose `reason` and `message` tell why, or None."""
        return self.condition("Failed")

    @property
    def finished(self):
        return self.complete or self.failed is not None

    def __str__(self):
        conditions = [f"{condition['type']}={condition['status']}" for condition in self.status.get("conditions", [])]
        counts = [f"{name} {self.status[name]}" for name in ("active", "succeeded", "failed") if self.status.get(name)]
        return f"Job {self.name}: " + (", ".join(conditions + counts) or "nothing reported")


def _condition(status, kind):
    """The condition where it is true, else None."""
    for condition in status.get("conditions", []):
        if condition["type"] == kind and condition["status"] == "True":
            return condition
    return None


class Line:
    """A log line with the container it came from and the runtime's time of it, exact to the nanosecond."""

    STAMP = re.compile(r"^(\S+Z|\S+[+-]\d\d:\d\d) ?(.*)$")

    def __init__(self, container, raw):
        self.container = container
        stamp, self.text = self.STAMP.match(raw).groups()
        seconds, _, fraction = stamp.rstrip("Z").partition(".")
        self.at = (seconds, fraction.ljust(9, "0"))

    def __str__(self):
        return f"{self.container}: {self.text}"
