"""One `kubectl get --watch` per scenario and kind. Waiting sleeps on a condition variable until an event satisfies it, so
no state is missed between two polls, and the history of every object is kept."""

import json
import subprocess
import threading
import time


class Timeout(AssertionError):
    """What was waited for did not come; the message shows the last that was seen."""


class Watch:
    def __init__(self, kubectl, kind, view):
        self.kubectl, self.kind, self.view = kubectl, kind, view
        self.latest = {}
        self.history = {}
        self.changed = threading.Condition()
        self.stopping = threading.Event()
        self.process = None
        self.thread = threading.Thread(target=self._follow, daemon=True, name=f"watch {kind}")
        self.thread.start()

    def stop(self):
        self.stopping.set()
        if self.process:
            self.process.kill()
        self.thread.join(timeout=10)

    def until(self, name, satisfied, what, seconds):
        """The first snapshot of `name` (None where it does not exist) that satisfies; AssertionError at the deadline."""
        deadline = time.monotonic() + seconds
        with self.changed:
            looked_at = len(self.history.get(name, []))
            while True:
                # Several events may have come before this thread had its turn.
                history, snapshot = self.history.get(name, []), self.latest.get(name)
                for seen in [*history[looked_at:], snapshot]:
                    if satisfied(seen):
                        return seen
                looked_at = len(history)
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise Timeout(f"{self.kind}/{name} {what}: not within {seconds}s; last seen: {snapshot}")
                self.changed.wait(remaining)

    def any(self, satisfied, what, seconds):
        """The first of all objects that satisfies."""
        deadline = time.monotonic() + seconds
        with self.changed:
            while True:
                for snapshot in self.latest.values():
                    if satisfied(snapshot):
                        return snapshot
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    seen = "; ".join(map(str, self.latest.values())) or "none"
                    raise Timeout(f"{self.kind} {what}: not within {seconds}s; seen: {seen}")
                self.changed.wait(remaining)

    def _follow(self):
        # kubectl ends when the API server does. The next one starts with the present state, so nothing final is missed.
        while not self.stopping.is_set():
            self.process = subprocess.Popen(
                self.kubectl.command("get", self.kind, "--watch", "--output-watch-events", "-o", "json"),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            if self.stopping.is_set():
                self.process.kill()
            # One event a line.
            for line in self.process.stdout:
                self._apply(json.loads(line))
            self.process.wait()
            self.stopping.wait(0.2)

    def _apply(self, event):
        raw = event["object"]
        if event["type"] not in ("ADDED", "MODIFIED", "DELETED"):
            return
        snapshot = self.view(raw)
        with self.changed:
            if event["type"] == "DELETED":
                self.latest.pop(snapshot.name, None)
            else:
                self.latest[snapshot.name] = snapshot
            self.history.setdefault(snapshot.name, []).append(snapshot)
            self.changed.notify_all()
