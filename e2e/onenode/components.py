"""The daemons of the node: their flags, and how each shows that it is ready."""

import json
import ssl
import subprocess
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass

from . import containerd, node, wait
from .choice import Choice
from .layout import (
    CGROUP,
    CONTAINERD_SOCKET,
    KUBECONFIG,
    LOGS,
    NODE,
    NODE_IP,
    PKI,
    POD_CIDR,
    SERVICE_CIDR,
    STATE,
)

BIN = STATE / "bin"
# The default is below /usr/libexec and would outlive the node.
FLEX_VOLUMES = "/var/lib/kubelet/volumeplugins"
ISSUER = "https://kubernetes.default.svc.cluster.local"


@dataclass(frozen=True)
class Component:
    """A daemon. `prepare` writes its configuration, `ready` is polled and may raise while it is not."""

    name: str
    command: Callable[[], list]
    ready: Callable[[], object]
    prepare: Callable[[], None] = lambda: None
    environment: tuple = ()


def kubectl(*arguments, **options):
    """Our kubectl as the cluster's administrator, from outside the node."""
    binary = (STATE / "binaries").resolve() / "kubectl"
    return subprocess.run([binary, "--kubeconfig", KUBECONFIG, *map(str, arguments)], **options)


def _answers(port, path):
    """The body of a health endpoint. Only reachability and status matter here, so the certificate is not verified; the
    client certificate is needed where anonymous requests are refused (the kubelet)."""
    context = ssl._create_unverified_context()
    context.load_cert_chain(PKI / "admin.crt", PKI / "admin.key")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    with opener.open(f"https://{NODE_IP}:{port}{path}", timeout=5) as response:
        return response.read()


# etcd --------------------------------------------------------------------------------------------------------------


def _etcd():
    return [
        BIN / "etcd",
        f"--data-dir={STATE}/etcd",
        "--listen-client-urls=http://127.0.0.1:2379",
        "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:2380",
        # The data dies with the cluster; waiting for the disk buys nothing.
        "--unsafe-no-fsync",
    ]


def _etcd_ready():
    probe = "exec 3<>/dev/tcp/127.0.0.1/2379"
    return node.run(["bash", "-c", probe], stderr=subprocess.DEVNULL).returncode == 0


# containerd --------------------------------------------------------------------------------------------------------


def _containerd_prepare():
    (STATE / "tmp").mkdir(exist_ok=True)
    (STATE / "cni").mkdir(exist_ok=True)
    (STATE / "containerd.toml").write_text(containerd.configuration(Choice.load().runtime))
    # No masquerading: Pods speak to one another and to the node, and nothing else exists for them.
    (STATE / "cni" / "10-bridge.conflist").write_text(
        json.dumps(
            {
                "cniVersion": "0.4.0",
                "name": "proa-e2e",
                "plugins": [
                    {
                        "type": "bridge",
                        "bridge": "cni0",
                        "isGateway": True,
                        "hairpinMode": True,
                        "ipam": {
                            "type": "host-local",
                            "ranges": [[{"subnet": POD_CIDR}]],
                            "routes": [{"dst": "0.0.0.0/0"}],
                        },
                    },
                ],
            },
            indent=2,
        )
    )
    # containerd sets up `lo` through this one by itself; it asks only that the plugin binary exists.


def _containerd():
    return [containerd.program("containerd"), "--config", STATE / "containerd.toml"]


def ctr(*arguments, **options):
    return node.run([containerd.program("ctr"), "--address", CONTAINERD_SOCKET, "--namespace", "k8s.io", *arguments], **options)


def _containerd_ready():
    return ctr("images", "ls", "-q", capture_output=True).returncode == 0


# Kubernetes --------------------------------------------------------------------------------------------------------


# Beta features that are off by default, and what is alpha still and changes what proa sees.
_FEATURES = {"AllBeta": True, "ContainerStopSignals": True}


def _gates():
    listed = ",".join(f"{name}={str(on).lower()}" for name, on in _FEATURES.items())
    return [f"--feature-gates={listed}"] if Choice.load().beta else []


def _apiserver():
    return [
        BIN / "kube-apiserver",
        "--etcd-servers=http://127.0.0.1:2379",
        # The kubernetes Service is an address of the node's own, and nothing translates its port.
        "--secure-port=443",
        f"--service-cluster-ip-range={SERVICE_CIDR}",
        f"--advertise-address={NODE_IP}",
        # Endpoints would be for kube-proxy, and there is none.
        "--endpoint-reconciler-type=none",
        f"--tls-cert-file={PKI}/apiserver.crt",
        f"--tls-private-key-file={PKI}/apiserver.key",
        f"--client-ca-file={PKI}/ca.crt",
        # `kubectl logs`, `exec` and `attach` are calls of the API server to the kubelet, at the node's address, since
        # nobody resolves its name.
        f"--kubelet-certificate-authority={PKI}/ca.crt",
        f"--kubelet-client-certificate={PKI}/apiserver-kubelet-client.crt",
        f"--kubelet-client-key={PKI}/apiserver-kubelet-client.key",
        "--kubelet-preferred-address-types=InternalIP",
        f"--service-account-issuer={ISSUER}",
        f"--service-account-key-file={PKI}/service-accounts.pub",
        f"--service-account-signing-key-file={PKI}/service-accounts.key",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        # Without it a graceful stop leaves watches open, and waits for them until --request-timeout (60s) has passed.
        "--shutdown-watch-termination-grace-period=1s",
        *_gates(),
        *(["--runtime-config=api/beta=true"] if Choice.load().beta else []),
    ]


def _controller_manager():
    config = PKI / "controller-manager.kubeconfig"
    return [
        BIN / "kube-controller-manager",
        f"--kubeconfig={config}",
        f"--authentication-kubeconfig={config}",
        f"--authorization-kubeconfig={config}",
        f"--service-account-private-key-file={PKI}/service-accounts.key",
        f"--root-ca-file={PKI}/ca.crt",
        "--use-service-account-credentials",
        f"--flex-volume-plugin-dir={FLEX_VOLUMES}",
        # Alone on the node: waiting for a predecessor's lease to expire would only delay restarts.
        "--leader-elect=false",
        *_gates(),
    ]


def _scheduler():
    config = PKI / "scheduler.kubeconfig"
    return [
        BIN / "kube-scheduler",
        f"--kubeconfig={config}",
        f"--authentication-kubeconfig={config}",
        f"--authorization-kubeconfig={config}",
        "--leader-elect=false",
        *_gates(),
    ]


def _kubelet_prepare():
    (STATE / "resolv.conf").write_text("")
    (STATE / "kubelet.json").write_text(
        json.dumps(
            {
                "apiVersion": "kubelet.config.k8s.io/v1beta1",
                "kind": "KubeletConfiguration",
                "authentication": {
                    "anonymous": {"enabled": False},
                    "webhook": {"enabled": True},
                    "x509": {"clientCAFile": f"{PKI}/ca.crt"},
                },
                "authorization": {"mode": "Webhook"},
                "tlsCertFile": f"{PKI}/kubelet.crt",
                "tlsPrivateKeyFile": f"{PKI}/kubelet.key",
                "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
                # There may be no systemd to ask, and the machine may still have cgroup v1.
                "cgroupDriver": "cgroupfs",
                "failCgroupV1": False,
                "cgroupRoot": f"/{CGROUP}",
                "failSwapOn": False,
                # Builds beside the cluster may fill the machine; only the truly last of it is a reason to evict.
                "evictionHard": {
                    "memory.available": "50Mi",
                    "nodefs.available": "1%",
                    "nodefs.inodesFree": "1%",
                    "imagefs.available": "1%",
                },
                # An image that was collected cannot be pulled again: there is no registry.
                "imageGCHighThresholdPercent": 100,
                "resolvConf": f"{STATE}/resolv.conf",
                "volumePluginDir": FLEX_VOLUMES,
                "maxPods": 200,
                # Switched on or left alone: false would switch those off that are on by default.
                "featureGates": _FEATURES if Choice.load().beta else {},
            },
            indent=2,
        )
    )


def _kubelet():
    return [
        BIN / "kubelet",
        f"--config={STATE}/kubelet.json",
        f"--kubeconfig={PKI}/kubelet.kubeconfig",
        f"--hostname-override={NODE}",
        f"--node-ip={NODE_IP}",
    ]


ALL = {
    component.name: component
    for component in (
        Component("etcd", _etcd, _etcd_ready),
        # Its own TMPDIR: the machine's /tmp outlives the node.
        Component("containerd", _containerd, _containerd_ready, _containerd_prepare, (("TMPDIR", f"{STATE}/tmp"),)),
        Component("apiserver", _apiserver, lambda: _answers(443, "/readyz")),
        Component("controller-manager", _controller_manager, lambda: _answers(10257, "/healthz")),
        Component("scheduler", _scheduler, lambda: _answers(10259, "/healthz")),
        Component("kubelet", _kubelet, lambda: _answers(10250, "/healthz"), _kubelet_prepare),
    )
}


def start(name):
    """Start one if it is not running; does not wait."""
    component = ALL[name]
    if node.spawned(name):
        return
    LOGS.mkdir(exist_ok=True)
    component.prepare()
    node.spawn(name, component.command(), LOGS / f"{name}.log", dict(component.environment))


def await_ready(name, seconds=120):
    component = ALL[name]

    def ready():
        if node.spawned(name) is None:
            raise wait.Fatal(f"{name} ended instead of becoming ready; the end of {LOGS}/{name}.log:\n{tail(name)}")
        return component.ready()

    wait.until(f"{name} to be ready", ready, seconds)


def tail(name, lines=15):
    log = LOGS / f"{name}.log"
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else "(none)"


def node_usable():
    """Ready, and rid of the taints that keep Pods off a node that was not ready."""
    found = kubectl("get", "node", NODE, "-o", "json", capture_output=True, check=True)
    state = json.loads(found.stdout)
    ready = {condition["type"]: condition["status"] for condition in state["status"]["conditions"]}.get("Ready")
    return ready == "True" and not state["spec"].get("taints")


def service_account_exists():
    """Pods of a namespace are refused until the controller manager has made its default service account."""
    return kubectl("get", "serviceaccount", "default", capture_output=True).returncode == 0
