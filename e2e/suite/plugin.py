"""Running kubectl-proa, built from this checkout."""

import json
import os
import subprocess
import threading
from pathlib import Path

from onenode.layout import E2E

_lock = threading.Lock()
_built = []


def binary():
    """It, built when first asked for."""
    with _lock:
        if not _built:
            root = E2E.parent
            subprocess.run(["cargo", "build", "--quiet", "--package", "kubectl-proa"], cwd=root, check=True)
            _built.append(Path(os.environ.get("CARGO_TARGET_DIR") or root / "target") / "debug" / "kubectl-proa")
        return _built[0]


def run(t, *arguments, stdin=None):
    """The finished process, whatever its exit code. It finds the suite's kubectl as a shell would."""
    path = f"{Path(t.kubectl.binary).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "KUBECONFIG": t.kubectl.kubeconfig}
    command = [binary(), *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, env=environment)


def plan(t, manifest):
    """What is proposed for the one Pod template of a manifest."""
    done = run(t, "plan", "-f", "-", "-o", "json", "--image", t.images.reference("proa"), stdin=manifest)
    assert done.returncode == 0, done.stderr
    (proposal,) = json.loads(done.stdout)
    return proposal


def findings(t, *arguments, stdin=None):
    """The rules that are broken."""
    done = run(t, "check", "-o", "json", *arguments, stdin=stdin)
    assert done.returncode in (0, 1), done.stderr
    return [finding["rule"] for finding in json.loads(done.stdout)]
