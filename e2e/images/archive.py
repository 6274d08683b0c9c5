"""Docker archives: manifest.json, one configuration, one layer. The same content gives the same bytes and the same tag."""

import hashlib
import io
import json
import os
import platform
import stat
import tarfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from onenode.layout import CACHE

ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


@dataclass(frozen=True)
class Link:
    """A symbolic link."""

    target: str


@dataclass(frozen=True)
class Directory:
    """An empty directory."""

    mode: int = 0o755


@dataclass
class Image:
    """What goes in. `files` maps absolute paths to a Path (copied, its permissions kept), bytes, a Link or a Directory."""

    name: str
    files: dict
    config: dict = field(default_factory=dict)
    tag: str | None = None

    def pack(self):
        layer = _layer(self.files)
        config = json.dumps(
            {
                "architecture": ARCHITECTURE,
                "os": "linux",
                "config": self.config,
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
            },
            sort_keys=True,
        ).encode()
        digest = hashlib.sha256(config).hexdigest()
        reference = f"proa-e2e/{self.name}:{self.tag or digest[:12]}"
        path = CACHE / "images" / f"{self.name}-{digest[:12]}.tar"
        if not path.exists():
            manifest = [{"Config": f"{digest}.json", "RepoTags": [reference], "Layers": ["layer.tar"]}]
            path.parent.mkdir(parents=True, exist_ok=True)
            for stale in path.parent.glob(f"{self.name}-{'?' * 12}.tar"):
                stale.unlink()
            unfinished = path.with_suffix(f".{os.getpid()}")
            with tarfile.open(unfinished, "w", format=tarfile.USTAR_FORMAT) as tar:
                _add(tar, f"{digest}.json", config)
                _add(tar, "layer.tar", layer)
                _add(tar, "manifest.json", json.dumps(manifest).encode())
            unfinished.rename(path)
        return Archive(self.name, reference, path)


@dataclass(frozen=True)
class Archive:
    """A packed image: the reference that manifests use, and the tar that carries it."""

    name: str
    reference: str
    path: Path

    @classmethod
    def of(cls, path):
        with tarfile.open(path) as tar:
            (manifest,) = json.load(tar.extractfile("manifest.json"))
        (reference,) = manifest["RepoTags"]
        return cls(reference.rsplit("/", 1)[-1].split(":")[0], reference, path)


def _add(tar, name, content=b"", mode=0o644, kind=tarfile.REGTYPE, target=""):
    # Everything a tar header would take from this machine stays at its default: owner root, time 0.
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.type, entry.linkname = len(content), mode, kind, target
    tar.addfile(entry, io.BytesIO(content))


def _layer(files):
    buffer = io.BytesIO()
    parents = {str(parent): Directory() for path in files for parent in PurePosixPath(path).parents if str(parent) != "/"}
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path, source in sorted({**parents, **files}.items()):
            name = path.lstrip("/")
            match source:
                case Link():
                    _add(tar, name, mode=0o777, kind=tarfile.SYMTYPE, target=source.target)
                case Directory():
                    _add(tar, name, mode=source.mode, kind=tarfile.DIRTYPE)
                case bytes():
                    _add(tar, name, source)
                case Path():
                    executable = source.stat().st_mode & stat.S_IXUSR
                    _add(tar, name, source.read_bytes(), 0o755 if executable else 0o644)
    return buffer.getvalue()
