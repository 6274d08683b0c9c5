"""Certificates, the service account key and kubeconfigs; new for every cluster."""

import json
import subprocess

from .layout import API_SERVICE_IP, KUBECONFIG, NODE, NODE_IP, PKI

API_URL = f"https://{NODE_IP}:443"


def _openssl(*arguments):
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"openssl {arguments[0]}: {done.stderr}")


def _key(path):
    _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", path)
    path.chmod(0o600)


def _authority():
    _key(PKI / "ca.key")
    _openssl(
        "req", "-x509", "-new", "-key", PKI / "ca.key", "-days", 30, "-subj", "/CN=proa-e2e", "-out", PKI / "ca.crt"
    )


def _issue(name, common_name, organization=None, hosts=()):
    """A certificate for both ends of a connection: `hosts` for the serving one, the subject for the client."""
    _key(PKI / f"{name}.key")
    subject = (f"/O={organization}" if organization else "") + f"/CN={common_name}"
    extensions = ["extendedKeyUsage=serverAuth,clientAuth", "keyUsage=digitalSignature"]
    if hosts:
        kind = {True: "IP", False: "DNS"}
        names = ",".join(f"{kind[host.replace('.', '').isdigit()]}:{host}" for host in hosts)
        extensions.append(f"subjectAltName={names}")
    (PKI / f"{name}.ext").write_text("\n".join(extensions))
    _openssl("req", "-new", "-key", PKI / f"{name}.key", "-subj", subject, "-out", PKI / f"{name}.csr")
    _openssl(
        "x509", "-req", "-in", PKI / f"{name}.csr", "-CA", PKI / "ca.crt", "-CAkey", PKI / "ca.key", "-CAcreateserial",
        "-days", 30, "-extfile", PKI / f"{name}.ext", "-out", PKI / f"{name}.crt",
    )


def _kubeconfig(path, name, server):
    """JSON is YAML. Keys are named by path, so the kubeconfig dies with them."""
    user = {"client-certificate": f"{PKI}/{name}.crt", "client-key": f"{PKI}/{name}.key"}
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [
                    {"name": NODE, "cluster": {"server": server, "certificate-authority": f"{PKI}/ca.crt"}},
                ],
                "users": [{"name": name, "user": user}],
                "contexts": [{"name": NODE, "context": {"cluster": NODE, "user": name}}],
                "current-context": NODE,
            },
            indent=2,
        )
    )
    path.chmod(0o600)


def create():
    PKI.mkdir(parents=True)
    _authority()
    _key(PKI / "service-accounts.key")
    _openssl("ec", "-in", PKI / "service-accounts.key", "-pubout", "-out", PKI / "service-accounts.pub")
    service = "kubernetes.default.svc.cluster.local"
    names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", service)
    _issue("apiserver", "kube-apiserver", hosts=(API_SERVICE_IP, NODE_IP, "127.0.0.1", "localhost", *names))
    _issue("apiserver-kubelet-client", "kube-apiserver-kubelet-client", "system:masters")
    # The Node authorizer knows a kubelet by exactly this name and group.
    _issue("kubelet", f"system:node:{NODE}", "system:nodes", hosts=(NODE_IP, NODE))
    _issue("controller-manager", "system:kube-controller-manager")
    _issue("scheduler", "system:kube-scheduler")
    _issue("admin", "admin", "system:masters")
    for name in ("kubelet", "controller-manager", "scheduler"):
        _kubeconfig(PKI / f"{name}.kubeconfig", name, API_URL)
    _kubeconfig(KUBECONFIG, "admin", API_URL)
