"""The container runtime: Debian's containerd with runc or crun, or the newest containerd. (Debian 12's crun refuses what that asks for.)"""

from .layout import CONTAINERD_SOCKET, STATE

# The newest one's programs, where that is what runs.
PROGRAMS = STATE / "containerd-programs"

# A fixed name, so that containerd's configuration does not change with the image's content.
PAUSE = "proa-e2e/pause:sandbox"


def program(name):
    """containerd, or ctr, of the runtime that was asked for."""
    return PROGRAMS.resolve() / name if PROGRAMS.exists() else name


def configuration(runtime):
    version, own = (3, _NEWEST) if runtime == "newest" else (2, _DEBIAN.format(runtime="crun" if runtime == "crun" else "runc"))
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

[plugins."io.containerd.grpc.v1.cri".containerd]
default_runtime_name = "{{runtime}}"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{{runtime}}]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{{runtime}}.options]
BinaryName = "{{runtime}}"
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
default_runtime_name = "runc"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
# Debian's older one, in PATH, would be found first.
runtime_path = "{PROGRAMS}/containerd-shim-runc-v2"
"""
