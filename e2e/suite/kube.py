"""Running kubectl: against KUBECONFIG where it is set, else against the one-node cluster."""

import os
import shutil
import subprocess
import time

from onenode import build, layout


class Failed(Exception):
    """kubectl ended with an error; the message is its own."""


class Kubectl:
    def __init__(self, binary, kubeconfig, namespace=None):
        self.binary, self.kubeconfig, self.namespace = binary, kubeconfig, namespace

    @classmethod
    def of_environment(cls):
        kubeconfig = os.environ.get("KUBECONFIG", str(layout.KUBECONFIG))
        own = kubeconfig == str(layout.KUBECONFIG)
        # A client and a server of releases far apart need not understand each other.
        directory = (layout.STATE / "binaries").resolve() if own else None
        found = None if own else shutil.which("kubectl")
        return cls(found or str((directory or build.binaries()) / "kubectl"), kubeconfig)

    def within(self, namespace):
        return Kubectl(self.binary, self.kubeconfig, namespace)

    def command(self, *arguments):
        scope = [f"--namespace={self.namespace}"] if self.namespace else []
        return [self.binary, f"--kubeconfig={self.kubeconfig}", *scope, *map(str, arguments)]

    def run(self, *arguments, stdin=None, timeout=120):
        """The finished process, whatever its exit code."""
        return subprocess.run(
            self.command(*arguments), input=stdin, capture_output=True, text=True, errors="replace", timeout=timeout
        )

    def __call__(self, *arguments, stdin=None, timeout=120):
        """What it printed; Failed where it failed. A refused connection is an API server that is being restarted, a handshake
        that takes too long one that is busy: such a request has reached nobody, so it is safe to repeat whatever it asks."""
        deadline = time.monotonic() + 30
        while True:
            done = self.run(*arguments, stdin=stdin, timeout=timeout)
            unheard = any(text in done.stderr for text in ("connection refused", "was refused", "TLS handshake timeout"))
            if not unheard or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        if done.returncode:
            raise Failed(f"kubectl {' '.join(map(str, arguments))}: {done.stderr.strip()}")
        return done.stdout
