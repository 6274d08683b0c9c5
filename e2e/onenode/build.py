"""Go programs, compiled from the pinned tools of their module and cached by what went in: Kubernetes and etcd, and sidecars."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from .choice import KUBERNETES
from .layout import CACHE, E2E

VERSION_PACKAGE = "k8s.io/component-base/version"


def _go(*arguments, module=E2E, **options):
    done = subprocess.run(["go", *arguments], cwd=module, check=True, stdout=subprocess.PIPE, text=True, **options)
    return done.stdout.strip()


def _key(*sources):
    digest = hashlib.sha256()
    for path in sources:
        digest.update(path.read_bytes())
    digest.update(_go("env", "GOVERSION").encode())
    return digest.hexdigest()[:16]


def _compiled(name, what, module, packages, stamp, more=(), modfile="go.mod"):
    """The directory NAME-KEY with these packages' programs; `stamp` gives the linker's variables."""
    if not shutil.which("go"):
        sys.exit(f"error: `go` not found; it compiles {what} (see go.mod for the version)")
    pinned = module / modfile
    target = CACHE / f"{name}-{_key(pinned, pinned.with_suffix('.sum'), *more)}"
    if target.exists():
        return target
    print(f"compiling {what}; this takes minutes, once", file=sys.stderr)
    CACHE.mkdir(parents=True, exist_ok=True)
    linked = " ".join(["-s -w", *(f"-X {variable}={value}" for variable, value in stamp().items())])
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="building-") as scratch:
        # Linked into another directory and renamed, so that an interrupted build is never taken for a finished one.
        unfinished = Path(scratch) / "bin"
        unfinished.mkdir()
        flags = ["-trimpath", "-buildvcs=false", f"-modfile={modfile}", "-ldflags", linked, "-o", f"{unfinished}/"]
        _go("build", *flags, *packages, module=module, env={**os.environ, "CGO_ENABLED": "0"})
        unfinished.rename(target)
    for stale in CACHE.glob(f"{name}-*"):
        if stale != target:
            shutil.rmtree(stale)
    return target


def _kubernetes_version(modfile):
    version = _go("list", f"-modfile={modfile}", "-m", "-f", "{{.Version}}", "k8s.io/kubernetes")
    major, minor, _ = version.removeprefix("v").split(".", 2)
    # Kubernetes' own build stamps its version; unstamped, the components report v0.0.0-master.
    stamp = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    return {f"{VERSION_PACKAGE}.{name}": value for name, value in stamp.items()}


def binaries(kubernetes="newest"):
    """The directory with kube-apiserver, kube-controller-manager, kube-scheduler, kubectl, kubelet and etcd."""
    modfile = KUBERNETES[kubernetes]
    sources = sorted((E2E / "etcd").glob("*.go"))
    stamp = lambda: _kubernetes_version(modfile)  # noqa: E731
    return _compiled(f"bin-{kubernetes}", "Kubernetes and etcd", E2E, ["tool", "./etcd"], stamp, sources, modfile)


def containerd():
    """The directory with containerd, its shim and ctr."""
    return _compiled("containerd", "containerd", E2E / "containerd", ["tool"], dict)


def sidecars():
    """The directory with cloud-sql-proxy. A module of its own: only the image needs it, and it moves by itself."""
    return _compiled("sidecars", "the Cloud SQL Auth Proxy", E2E / "sidecars", ["tool"], dict)
