"""The images that manifests name: `image: busybox` in a manifest stands for the one of the catalogue; in a volume of an image,
`reference: busybox`."""

import os
import platform
import re
import subprocess
import sys
import threading
from pathlib import Path

from images import catalogue, load
from onenode.layout import E2E

# Static against glibc: unlike musl, that target is there with every toolchain.
TARGET = f"{platform.machine()}-unknown-linux-gnu"
STATIC = "-C target-feature=+crt-static"


class Images:
    """Packs and loads each image when a manifest first names it; scenarios that come later wait for that and share it."""

    NAMES = (
        "app-usr1", "app", "busybox", "cloud-sql-proxy", "envoy", "git", "iptables", "nginx", "proa-example", "proa", "python",
    )
    # A name followed by a tag, a path or more letters is somebody else's image.
    NAMED = re.compile(r"(\b(?:image|reference):\s*)(" + "|".join(NAMES) + r")(?![\w./:-])")

    def __init__(self, kubectl, proa=None):
        self.kubectl, self.proa = kubectl, proa
        self.lock = threading.Lock()
        self.references = {}
        self.target = None

    def bring_all(self):
        for name in self.NAMES:
            self.reference(name)

    def resolve(self, manifest):
        return self.NAMED.sub(lambda found: found[1] + self.reference(found[2]), manifest)

    def reference(self, name):
        with self.lock:
            if name not in self.references:
                self.target = self.target or load.target(self.kubectl)
                self.references[name] = self.target.bring(self._pack(name))
            return self.references[name]

    def _pack(self, name):
        match name:
            case "proa":
                return catalogue.proa(self._binary())
            case "proa-example":
                return catalogue.proa_example(self._binary())
            case "app-usr1":
                return catalogue.proa_in_busybox(self._binary(), "app-usr1", {"StopSignal": "SIGUSR1"})
            case "app":
                return catalogue.proa_in_busybox(self._binary())
            case _:
                return getattr(catalogue, name.replace("-", "_"))()

    def _binary(self):
        """The static binary: the one given, or built from this checkout."""
        if self.proa is None:
            print("building proa", file=sys.stderr)
            subprocess.run(
                ["cargo", "build", "--quiet", "--release", "--package", "proa", "--target", TARGET],
                cwd=E2E.parent,
                env={**os.environ, "RUSTFLAGS": STATIC},
                check=True,
            )
            root = Path(os.environ.get("CARGO_TARGET_DIR") or E2E.parent / "target")
            self.proa = root / TARGET / "release" / "proa"
        return Path(self.proa)
