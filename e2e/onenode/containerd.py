"""The container runtime: Debian's containerd with runc, or the newest containerd with crun."""

from .layout import CONTAINERD_SOCKET, STATE

# The newest one's programs, where that is what runs.
PROGRAMS = STATE / "containerd-programs"

# A fixed name, so that containerd's configuration does not change with the image's content.
PAUSE = "proa-e2e/pause:sandbox"


def program(name):
    """containerd looks for its shim beside itself, too."""
    return PROGRAMS.resolve() / name if PROGRAMS.exists() else name


def configuration(runtime):
    version, own = {"debian": (2, _DEBIAN), "newest": (3, _NEWEST)}[runtime]
    return f"version = {version}\n{_COMMON}{own}"


_COMMON = f"""\
root = "{STATE}/containerd"
state = "/run/containerd"
# These find no such file system here, and say so at length.
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]

[grpc]
address = "{CONTAINERD_SOCKET}"

# The default is /opt/containerd, which would outlive the node.
[plugins."io.containerd.internal.v1.opt"]
path = "{STATE}/containerd/opt"
"""

# restrict_oom_score_adj: where this process may not lower an oom_score_adj, containers get the lowest that it may set instead of
# failing.
_DEBIAN = f"""
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{STATE}/cni"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"""

_NEWEST = f"""
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{PAUSE}"

[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["/usr/lib/cni"]
conf_dir = "{STATE}/cni"

[plugins."io.containerd.cri.v1.runtime".containerd]
default_runtime_name = "crun"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.crun]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.crun.options]
BinaryName = "crun"
"""
