"""A Pod on the real API server of e2e, which no kubelet runs: its status is what a benchmark writes."""

import base64
import http.client
import json
import re
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "e2e"))

from onenode import layout  # noqa: E402

NAMESPACE = "proa-bench"
ACCOUNT = "bench"


def up():
    subprocess.run([ROOT / "e2e/cluster", "up"], check=True, timeout=600, stdout=subprocess.DEVNULL)


class Api:
    """The administrator's connection, kept open."""

    def __init__(self):
        text = layout.KUBECONFIG.read_text()
        server = re.search(r"server: https://([^\s\"]+)", text) or re.search(r'"server": "https://([^"]+)"', text)
        host, _, port = server.group(1).partition(":")
        self.host, self.port = host, int(port or 443)
        self.context = ssl.create_default_context(cafile=layout.PKI / "ca.crt")
        self.context.load_cert_chain(layout.PKI / "admin.crt", layout.PKI / "admin.key")
        self.connection = None

    def __call__(self, method, path, body=None, kind="application/json", expect=(200, 201)):
        for attempt in range(2):
            if self.connection is None:
                self.connection = http.client.HTTPSConnection(self.host, self.port, context=self.context, timeout=60)
            try:
                self.connection.request(method, path, json.dumps(body) if body is not None else None, {"Content-Type": kind})
                answer = self.connection.getresponse()
                text = answer.read()
                break
            except (http.client.HTTPException, OSError):
                self.connection = None
                if attempt:
                    raise
        if expect and answer.status not in expect:
            raise RuntimeError(f"{method} {path}: {answer.status} {text[:300]}")
        return text


def prepare(api):
    """A namespace, and a service account that may watch Pods; the directory of its mount, and a kubeconfig of its."""
    base = f"/api/v1/namespaces/{NAMESPACE}"
    there = (200, 201, 409)
    api("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}}, expect=there)
    api("POST", f"{base}/serviceaccounts", {"metadata": {"name": ACCOUNT}}, expect=there)
    rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}"
    rule = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}
    api("POST", f"{rbac}/roles", {"metadata": {"name": "bench"}, "rules": [rule]}, expect=there)
    subject = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "bench"}
    binding = {"metadata": {"name": "bench"}, "roleRef": reference, "subjects": [subject]}
    api("POST", f"{rbac}/rolebindings", binding, expect=there)
    request = {"spec": {"expirationSeconds": 7200, "audiences": []}}
    token = json.loads(api("POST", f"{base}/serviceaccounts/{ACCOUNT}/token", request))["status"]["token"]
    mount = Path(tempfile.mkdtemp(prefix="proa-bench-"))
    authority = (layout.PKI / "ca.crt").read_bytes()
    (mount / "token").write_text(token)
    (mount / "ca.crt").write_bytes(authority)
    (mount / "namespace").write_text(NAMESPACE)
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "bench",
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench", "namespace": NAMESPACE}}],
        "users": [{"name": "bench", "user": {"token": token}}],
        "clusters": [
            {
                "name": "bench",
                "cluster": {
                    "server": f"https://{api.host}:{api.port}",
                    "certificate-authority-data": base64.b64encode(authority).decode(),
                },
            }
        ],
    }
    (mount / "kubeconfig").write_text(json.dumps(config))
    return mount


class Pod:
    """`main`, and a sidecar `proxy`. No scheduler takes it, so that nothing but this changes it."""

    def __init__(self, api, name, ready):
        self.api, self.name = api, name
        self.path = f"/api/v1/namespaces/{NAMESPACE}/pods/{name}"
        self.renew(ready)

    def renew(self, ready=False):
        """The same anew: a container that has ended runs no more."""
        self.delete()
        container = {"image": "none", "resources": {}}
        spec = {
            "schedulerName": "nobody",
            "restartPolicy": "Never",
            "containers": [{"name": "main", **container}, {"name": "proxy", **container}],
        }
        self.api("POST", self.path.rsplit("/", 1)[0], {"metadata": {"name": self.name}, "spec": spec})
        self.status(ready)

    def status(self, ready, ended=False):
        running = {"running": {"startedAt": None}}
        ended_state = {"terminated": {"exitCode": 0, "reason": "Completed"}}
        common = {"image": "none", "imageID": "none", "restartCount": 0, "lastState": {}}
        statuses = [
            {"name": "main", "ready": True, "state": running, **common},
            {"name": "proxy", "ready": ready, "state": ended_state if ended else running, **common},
        ]
        body = {"status": {"phase": "Running", "containerStatuses": statuses}}
        self.api("PATCH", f"{self.path}/status", body, "application/merge-patch+json")

    def delete(self):
        self.api("DELETE", self.path, {"gracePeriodSeconds": 0}, expect=(200, 202, 404))

    def environment(self, mount):
        return {
            "KUBERNETES_SERVICE_HOST": self.api.host,
            "KUBERNETES_SERVICE_PORT": str(self.api.port),
            "PROA_SERVICE_ACCOUNT_DIR": str(mount),
            "KUBECONFIG": str(mount / "kubeconfig"),
            "POD_NAME": self.name,
            "POD_NAMESPACE": NAMESPACE,
            "PROA_CONTAINER": "main",
            "PROA_LOG_LEVEL": "warn",
            "PATH": "/usr/bin:/bin",
        }

    def watch_command(self, mount):
        """A raw watch of this Pod by curl."""
        query = f"watch=1&resourceVersion=0&fieldSelector=metadata.name={self.name}"
        url = f"https://{self.api.host}:{self.api.port}/api/v1/namespaces/{NAMESPACE}/pods?{query}"
        token = (mount / "token").read_text()
        return ["curl", "-sN", "--cacert", mount / "ca.crt", "-H", f"Authorization: Bearer {token}", url]
