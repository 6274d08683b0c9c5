"""Kubernetes and etcd, compiled from the module's pinned tools and cached by what went in."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from .layout import CACHE, E2E

VERSION_PACKAGE = "k8s.io/component-base/version"


def _go(*arguments, **options):
    done = subprocess.run(["go", *arguments], cwd=E2E, check=True, stdout=subprocess.PIPE, text=True, **options)
    return done.stdout.strip()


def _key():
    digest = hashlib.sha256()
    for path in (E2E / "go.mod", E2E / "go.sum", *sorted((E2E / "etcd").glob("*.go"))):
        digest.update(path.read_bytes())
    digest.update(_go("env", "GOVERSION").encode())
    return digest.hexdigest()[:16]


def binaries():
    """The directory with kube-apiserver, kube-controller-manager, kube-scheduler, kubectl, kubelet and etcd."""
    if not shutil.which("go"):
        sys.exit("error: `go` not found; it compiles Kubernetes and etcd (see go.mod for the version)")
    target = CACHE / f"bin-{_key()}"
    if target.exists():
        return target
    print("compiling Kubernetes and etcd; this takes minutes, once", file=sys.stderr)
    CACHE.mkdir(parents=True, exist_ok=True)
    version = _go("list", "-m", "-f", "{{.Version}}", "k8s.io/kubernetes")
    major, minor, _ = version.removeprefix("v").split(".", 2)
    # Kubernetes' own build stamps its version; unstamped, the components report v0.0.0-master.
    stamp = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    linked = " ".join(["-s -w", *(f"-X {VERSION_PACKAGE}.{name}={value}" for name, value in stamp.items())])
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="building-") as scratch:
        # Linked into another directory and renamed, so that an interrupted build is never taken for a finished one.
        unfinished = Path(scratch) / "bin"
        unfinished.mkdir()
        flags = ["-trimpath", "-buildvcs=false", "-ldflags", linked, "-o", f"{unfinished}/"]
        _go("build", *flags, "tool", "./etcd", env={**os.environ, "CGO_ENABLED": "0"})
        unfinished.rename(target)
    for stale in CACHE.glob("bin-*"):
        if stale != target:
            shutil.rmtree(stale)
    return target
