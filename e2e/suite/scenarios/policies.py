"""deploy/policies: Pods that nobody edits, in namespaces that are opted in."""

import json

from onenode import wait
from onenode.layout import E2E
from suite.pieces import ENVOY, before, job, late, pod, shell
from suite.scenario import in_order, scenario
from suite.scenarios.forms import LIVE, NATIVE

POLICIES = E2E.parent / "deploy" / "policies"
LABEL = "proa.ironcorelabs.com/inject"


def _admitted(t, manifest, namespace=None):
    """The Pod as the API server would admit it."""
    kubectl = t.kubectl.within(namespace) if namespace else t.kubectl
    text = kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=t.images.resolve(manifest))
    return json.loads(text)["spec"]


def _native(spec):
    return [one["name"] for one in spec.get("initContainers", []) if one.get("restartPolicy") == "Always"]


def _all(spec):
    return [one["name"] for one in spec.get("initContainers", []) + spec["containers"]]


def _opt_in(t, policy, changes):
    """Apply the policy, and wait until the API server has it: it hears of it as everybody does, by a watch."""
    namespace = "proa-system" if policy == "gate.yaml" else "default"
    t.kubectl.within(namespace)("apply", "-f", "-", stdin=t.images.resolve((POLICIES / policy).read_text()))
    t.kubectl("label", "namespace", t.namespace, f"{LABEL}=enabled")
    wait.until(f"{policy} to be in force", changes, 60, every=0.5)


@scenario
def an_unedited_job_whose_sidecar_becomes_native(t):
    """The policy `native`: an unedited Job with a slow, ordinary Envoy completes without proa in it, its command started once Envoy was ready."""
    work = job("work", shell("main", LIVE), late(ENVOY, 5))
    plain = pod("plain", shell("main", LIVE), ENVOY)
    _opt_in(t, "native.yaml", lambda: _native(_admitted(t, plain)) == ["envoy"])
    t.apply(work)
    assert t.job("work").complete
    found = t.pod_of("work", lambda pod: pod.finished)
    assert "LIVE" in t.logs(found.name, "main"), t.logs(found.name, "main")
    assert found.container("envoy").exit_code == 0 and found.container("envoy").restarts == 0, found

    # Two of them, one behind another container, beside an init container and with a readiness probe that is no startup probe.
    probe = "readinessProbe: {periodSeconds: 1, successThreshold: 2, tcpSocket: {port: 1}}"
    several = pod("several", ENVOY, shell("main", LIVE), shell("otc-container", "true", more=probe), initContainers=before(shell("first", "true")))
    spec = _admitted(t, several)
    assert _all(spec) == ["first", "envoy", "otc-container", "main"] and _native(spec) == ["envoy", "otc-container"], spec
    started = spec["initContainers"][2]["startupProbe"]
    assert started["successThreshold"] == 1 and started["tcpSocket"] == {"port": 1} and started["failureThreshold"] == 1000000, started
    named = pod("named", shell("main", LIVE), shell("web", "true"), annotations='{proa.ironcorelabs.com/native: "web, other"}')
    assert _native(_admitted(t, named)) == ["web"]
    # By its image, whatever its name.
    renamed = pod("renamed", shell("main", LIVE), ENVOY.replace("name: envoy", "name: proxy"))
    assert _native(_admitted(t, renamed)) == ["proxy"]

    for untouched in (
        pod("served", shell("main", LIVE), ENVOY, restartPolicy="Always"),
        pod("alone", ENVOY),
        pod("application", shell("main", LIVE), shell("daprd", "true")),
        pod("wrapped", shell("main", LIVE), ENVOY.replace("  args:", "  command: [/proa, sidecar, --, envoy]\n  args:")),
        plain.replace("metadata: {", f"metadata: {{labels: {{{LABEL}: disabled}}, "),
    ):
        assert _native(_admitted(t, untouched)) == [], untouched
    assert _native(_admitted(t, plain, "default")) == [], "a namespace that is not opted in"
    t.kubectl.within("default")("delete", "-f", str(POLICIES / "native.yaml"))


@scenario
def an_unedited_pod_that_waits_for_its_native_sidecar(t):
    """The policy `gate`: an unedited Pod without any right starts its command only once a slow native Envoy is ready, by its probe's named port."""
    named = NATIVE.replace("port: 9901}", "port: admin}").rstrip() + "\n  ports: [{name: admin, containerPort: 9901}]\n"
    slow = pod("slow", shell("main", LIVE), initContainers=before(late(named, 6)))
    _opt_in(t, "gate.yaml", lambda: "proa-wait-1" in _all(_admitted(t, slow)))
    t.apply(slow)
    found = t.finished("slow")
    assert found.container("proa-wait-1").exit_code == 0 and found.container("main").exit_code == 0, found
    lines = t.timeline("slow")
    in_order(lines, "proa-wait-1: ", "ready; exit with code 0", "main: LIVE")
    assert "WARN" not in t.logs("slow", "proa-wait-1"), t.logs("slow", "proa-wait-1")

    port = "readinessProbe: {tcpSocket: {port: 5432}}\nrestartPolicy: Always"
    secure = "readinessProbe: {httpGet: {scheme: HTTPS, path: /x, port: 8443}}\nrestartPolicy: Always"
    spec = _admitted(t, pod("kinds", shell("main", LIVE), initContainers=before(shell("db", "true", more=port), shell("tls", "true", more=secure))))
    assert [word for word in spec["initContainers"][2]["args"] if word.startswith("--wait")] == ["--wait-tcp=$(POD_IP):8443", "--wait-tcp=$(POD_IP):5432"], spec
    # What a quota asks for, and what the standard `restricted` does.
    injected = spec["initContainers"][2]
    assert set(injected["resources"]) == {"requests", "limits"} and injected["securityContext"]["runAsNonRoot"], injected
    odd = "readinessProbe: {httpGet: {path: is it, port: 1}}\nrestartPolicy: Always"
    spec = _admitted(t, pod("odd", shell("main", LIVE), initContainers=before(shell("db", "true", more=odd))))
    assert "--wait-http-get=http://$(POD_IP):1/is%20it" in spec["initContainers"][1]["args"], spec
    # One that the kubelet waits for itself, one that nobody can ask from outside, and one that would wait in vain.
    for more, name in ((NATIVE.replace("readinessProbe", "startupProbe"), "envoy"), (None, "db"), (port, "daprd")):
        probe = "readinessProbe: {exec: {command: [x]}}\nrestartPolicy: Always"
        sidecar = more if name == "envoy" else shell(name, "true", more=more or probe)
        assert "proa-wait" not in str(_all(_admitted(t, pod("kept", shell("main", LIVE), initContainers=before(sidecar))))), name
    t.kubectl.within("proa-system")("delete", "-f", str(POLICIES / "gate.yaml"))
