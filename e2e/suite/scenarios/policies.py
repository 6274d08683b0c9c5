"""deploy/policies: Pods that nobody edits, in namespaces that are opted in."""

import base64
import json
import subprocess
import tempfile
import textwrap
import threading
from contextlib import contextmanager
from pathlib import Path

from onenode import wait
from onenode.layout import E2E
from suite.kube import Failed
from suite.pieces import ENVOY, ENVOY_ADMIN, before, container, job, late, pod, shell
from suite.scenario import in_order, scenario
from suite.scenarios.forms import LIVE, NATIVE
from suite.scenarios.known import cloud_sql
from suite.scenarios.proposals import RULED

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


# Policies are the cluster's, and not one scenario's alone.
_turn = threading.Lock()


@contextmanager
def _in_force(t, *policies):
    """Apply these policies as long as this lasts, and opt the namespace in. The API server hears of them as everybody does, by a
    watch: each says by a Pod what it changes."""
    with _turn:
        t.kubectl("label", "namespace", t.namespace, f"{LABEL}=enabled")
        try:
            for policy, changed in policies:
                t.kubectl.within("default")("apply", "-f", "-", stdin=_of_the_suite(t, policy))
                wait.until(f"{policy} to be in force", changed, 60, every=0.5)
            yield
        finally:
            for policy, _ in policies:
                t.kubectl.within("default")("delete", "--ignore-not-found", "-f", POLICIES / policy)
            # Whoever is next is to find its own policies alone.
            for policy, changed in policies:
                wait.until(f"{policy} to be gone", lambda: not changed(), 60, every=0.5)


def _of_the_suite(t, policy):
    """The policy with the suite's image in it."""
    text = (POLICIES / policy).read_text()
    return text.replace("\"'proa'\"", f"\"'{t.images.reference('proa')}'\"")


PLAIN = pod("plain", shell("main", LIVE), ENVOY)
UNREADY = pod("unready", shell("main", LIVE), initContainers=before(NATIVE))
RULES = pod("rules", shell("main", LIVE), RULED)
VAULT = pod("vault", shell("main", LIVE), annotations="{vault.hashicorp.com/agent-inject: 'true'}")


def _native_policy(t):
    return "native.yaml", lambda: _native(_admitted(t, PLAIN)) == ["envoy"]


def _gate_policy(t):
    return "gate.yaml", lambda: "proa-wait-1" in _all(_admitted(t, UNREADY))


def _wrap_policy(t):
    return "wrap.yaml", lambda: "proa-install" in _all(_admitted(t, RULES))


def _annotations_policy(t):
    return "annotations.yaml", lambda: "vault.hashicorp.com/agent-enable-quit" in _annotations(t, VAULT)


def _annotations(t, manifest):
    text = t.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=t.images.resolve(manifest))
    return json.loads(text)["metadata"].get("annotations", {})


def _allow(t):
    """What wrap-role.yaml allows in this namespace."""
    text = (POLICIES / "wrap-role.yaml").read_text().replace("my-namespace", t.namespace)
    t.kubectl("apply", "-f", "-", stdin=text)


@scenario(since="1.36")
def an_unedited_job_whose_sidecar_becomes_native(t):
    """The policy `native`: an unedited Job with a slow, ordinary Envoy completes without proa in it, its command started once Envoy was ready."""
    work = job("work", shell("main", LIVE), late(ENVOY, 5))
    with _in_force(t, _native_policy(t)):
        _natively(t, work)


def _natively(t, work):
    plain = PLAIN
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
    assert started["successThreshold"] == 1 and started["tcpSocket"] == {"port": 1} and started["failureThreshold"] == 1000000 and started["periodSeconds"] == 1, started
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


@scenario(since="1.36")
def an_unedited_pod_that_waits_for_its_native_sidecar(t):
    """The policy `gate`: an unedited Pod without any right starts its command only once a slow native Envoy is ready, by its probe's named port."""
    named = NATIVE.replace("port: 9901}", "port: admin}").rstrip() + "\n  ports: [{name: admin, containerPort: 9901}]\n"
    slow = pod("slow", shell("main", LIVE), initContainers=before(late(named, 6)))
    with _in_force(t, _gate_policy(t)):
        _gated(t, slow)


def _gated(t, slow):
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
    # One that nobody can ask from outside: the API tells, where it may.
    script = "sleep 4; touch /tmp/ready; trap 'exit 0' TERM; while :; do sleep 0.1; done"
    by_command = "readinessProbe: {periodSeconds: 1, timeoutSeconds: 10, exec: {command: [test, -e, /tmp/ready]}}\nrestartPolicy: Always"
    asked = pod("denied", shell("main", "true"), initContainers=before(shell("db", script, more=by_command)))
    t.apply(asked)
    assert t.finished("denied").container("main").exit_code == 0
    assert t.logs("denied", "proa-wait-1").count("going on without the API server") == 1, t.logs("denied", "proa-wait-1")
    _allow(t)
    # It is not ready before the wait has looked.
    t.apply(asked.replace("name: denied", "name: allowed").replace("sleep 4;", "until [ -e /tmp/go ]; do sleep 0.1; done;"))
    t.logged("allowed", "proa-wait-1", "waiting for db (running, not ready)")
    t.touch("allowed", "db", "/tmp/go")
    assert t.finished("allowed").container("main").exit_code == 0
    in_order(t.timeline("allowed"), "waiting for db (running, not ready)", "ready; exit with code 0")
    # One that the kubelet waits for itself, and one that would wait in vain.
    for more, name in ((NATIVE.replace("readinessProbe", "startupProbe"), "envoy"), (port, "daprd")):
        sidecar = more if name == "envoy" else shell(name, "true", more=more)
        assert "proa-wait" not in str(_all(_admitted(t, pod("kept", shell("main", LIVE), initContainers=before(sidecar))))), name


@scenario(since="1.36")
def an_unedited_job_that_is_wrapped(t):
    """The policy `wrap`: an unedited Job whose sidecar cannot be native waits for it and completes with the Role; without it the command starts all the same."""
    with _in_force(t, _wrap_policy(t)):
        t.apply(job("denied", shell("main", "echo ran; exit 0"), RULED))
        found = t.pod_of("denied", lambda pod: pod.container("main") and pod.container("main").ended)
        log = t.logs(found.name, "main")
        assert found.container("main").exit_code == 0 and "ran" in log.splitlines(), log
        assert log.count("going on without the API server") == 1 and 'verbs: ["watch"]' in log, log
        _allow(t)
        t.apply(job("allowed", shell("main", LIVE), late(RULED, 4), shell("second", "sleep 2")))
        assert t.job("allowed").complete
        found = t.pod_of("allowed", lambda pod: pod.finished)
        assert "LIVE" in t.logs(found.name, "main"), t.logs(found.name, "main")
        assert found.exit_codes() == {"main": 0, "second": 0, "envoy": 0}, found

        # Without a command nobody knows what the image runs: it is left alone, and nobody waits for it.
        hidden = container("hidden", "busybox", args=["sh", "-c", "exit 0"])
        spec = _admitted(t, pod("mixed", hidden, shell("main", "true"), RULED))
        commands = {one["name"]: one.get("command", []) for one in spec["containers"]}
        assert commands["hidden"] == [] and "--main=hidden" in commands["main"], commands
        # It may be a main container for all that is known: Envoy stays until it has exited.
        longer = container("hidden", "busybox", args=["sh", "-c", f"sleep 4; {LIVE}"])
        t.apply(job("last", longer, shell("main", "true"), RULED))
        assert t.job("last").complete
        last = t.pod_of("last", lambda pod: pod.finished)
        assert "LIVE" in t.logs(last.name, "hidden") and last.exit_codes() == {"hidden": 0, "main": 0, "envoy": 0}, last
        assert commands["main"][-4:] == ["--", "sh", "-c", "true"] and "proa-bin" not in str(commands["envoy"]), commands
        assert [one["name"] for one in spec["initContainers"]] == ["proa-install"], spec
        many = pod("many", *(shell(f"c{number}", "true") for number in range(19)), RULED)
        spec = _admitted(t, many)
        assert sum(one.get("command", [""])[0] == "/proa-bin/proa" for one in spec["containers"]) == 19, spec
        for untouched in (
            pod("alone", shell("main", "true")),
            PLAIN,
            pod("served", shell("main", "true"), RULED, restartPolicy="Always"),
            pod("ours", container("main", "app", command=["/proa", "--", "true"]), RULED),
            pod("probed", shell("main", "true", more="livenessProbe: {exec: {command: ['true']}}"), RULED),
            pod("sidecar", shell("main", "true"), container("web", "app", command=["/proa", "sidecar", "--", "sleep", "9"]), RULED),
            pod("hidden", shell("main", "true"), container("web", "app", args=["sidecar", "--", "sleep", "9"]), RULED),
            pod("scripted", shell("main", "cd /tmp && exec /proa -- true"), RULED),
            RULES.replace("metadata: {", f"metadata: {{labels: {{{LABEL}: disabled}}, "),
        ):
            assert "proa-install" not in _all(_admitted(t, untouched)), untouched


@scenario(since="1.36")
def quit_endpoints_that_a_policy_switches_on(t):
    """The policy `annotations`: Vault's, OpenBao's and Linkerd's quit endpoints are switched on before their injectors run, and what is set stays."""
    linkerd = "config.linkerd.io/proxy-admin-shutdown"
    vault, openbao = "vault.hashicorp.com/agent", "openbao.org/agent"

    def wanted(annotations, **spec):
        found = _annotations(t, pod("asks", shell("main", "true"), annotations=annotations, **spec))
        return {key: value for key, value in found.items() if key in (linkerd, f"{vault}-enable-quit", f"{openbao}-enable-quit")}

    with _in_force(t, _annotations_policy(t)):
        assert wanted(f"{{{vault}-inject: 'true'}}") == {f"{vault}-enable-quit": "true"}
        assert wanted(f"{{{openbao}-inject: 'true'}}") == {f"{openbao}-enable-quit": "true"}
        assert wanted(f"{{{vault}-inject: 'true', {vault}-pre-populate-only: 'true'}}") == {}
        assert wanted(f"{{{vault}-inject: 'true', {vault}-enable-quit: 'false'}}") == {f"{vault}-enable-quit": "false"}
        both = f"{{{vault}-inject: 'true', linkerd.io/inject: enabled}}"
        assert wanted(both) == {f"{vault}-enable-quit": "true", linkerd: "enabled"}
        assert wanted(both, restartPolicy="Always") == {} and wanted("{}") == {}
        t.kubectl("annotate", "namespace", t.namespace, "linkerd.io/inject=enabled")
        wait.until("the namespace to count", lambda: wanted("{}") == {linkerd: "enabled"}, 30, every=0.5)
        assert wanted("{linkerd.io/inject: disabled}") == {}
        bare = PLAIN.replace(", annotations: {}", "")
        assert _annotations(t, bare).get(linkerd) == "enabled", "a Pod that has no annotations at all"


CHART = f"""
apiVersion: batch/v1
kind: CronJob
metadata: {{name: nightly}}
spec:
  schedule: "0 3 1 1 *"
  jobTemplate:
    spec:
      backoffLimit: 0
      template:
        metadata: {{annotations: {{linkerd.io/inject: disabled}}}}
        spec:
          restartPolicy: Never
          initContainers:
{textwrap.indent(shell("migrate", "true"), "          ")}
          containers:
{textwrap.indent(late(ENVOY, 5).replace("name: envoy", "name: istio-proxy").strip(), "          ")}
{textwrap.indent(shell("report", LIVE + " && cat /proc/net/tcp /proc/net/tcp6 | grep -q :1538"), "          ")}
{textwrap.indent(cloud_sql("--quitquitquit").strip(), "          ")}
"""


@scenario(since="1.36")
def a_cron_job_of_a_chart_that_nobody_edits(t):
    """All policies together: an unedited CronJob with an Istio-style and a Cloud SQL sidecar completes after one label, its command started once both were ready."""
    with _in_force(t, _annotations_policy(t), _native_policy(t), _gate_policy(t), _wrap_policy(t)):
        t.apply(CHART)
        t.kubectl("create", "job", "now", "--from=cronjob/nightly")
        assert t.job("now").complete
        found = t.pod_of("now", lambda pod: pod.finished)
        assert found.container("report").exit_code == 0 and "LIVE" in t.logs(found.name, "report"), t.logs(found.name, "report")
        spec = json.loads(t.kubectl("get", "pod", found.name, "-o", "json"))["spec"]
        # The kubelet waits for both by itself: nothing of proa is needed.
        assert _all(spec) == ["migrate", "istio-proxy", "cloud-sql-proxy", "report"], spec


@scenario(since="1.36")
def every_way_to_make_a_pod(t):
    """The policy `gate` changes Pods of a Deployment, a StatefulSet, a Job and bare ones with a generated name, and no Pod that is there already."""
    sidecar = late(NATIVE, 2)
    template = pod("x", shell("main", f"{LIVE} && exec sleep 1000"), initContainers=before(sidecar), terminationGracePeriodSeconds=1)
    spec = textwrap.indent(template.split("spec:\n", 1)[1], "    ").replace("restartPolicy: Never", "restartPolicy: Always", 1)
    t.apply(UNREADY.replace("name: unready", "name: earlier"))

    def owner(kind, more=""):
        labels = f"labels: {{of: {kind.lower()}}}"
        return f"""
apiVersion: apps/v1
kind: {kind}
metadata: {{name: {kind.lower()}}}
spec:
  selector: {{matchLabels: {{of: {kind.lower()}}}}}{more}
  template:
    metadata: {{{labels}}}
    spec:
{spec}
"""

    with _in_force(t, _gate_policy(t)):
        t.apply(owner("Deployment") + "---" + owner("StatefulSet", "\n  serviceName: none"))
        t.apply(job("batch", shell("main", LIVE), initContainers=before(sidecar)))
        bare = pod("bare", shell("main", LIVE), initContainers=before(sidecar)).replace("name: bare", "generateName: bare-", 1)
        name = json.loads(t.kubectl("create", "-f", "-", "-o", "json", stdin=t.images.resolve(bare)))["metadata"]["name"]
        assert t.finished(name).container("proa-wait-1").exit_code == 0
        assert t.job("batch").complete
        for kind in ("deployment", "statefulset"):
            made = t.pod_by_label(f"of={kind}")
            t.logged(made, "main", "LIVE")
            assert t.pod(made, lambda pod: pod.container("proa-wait-1").ended).container("proa-wait-1").exit_code == 0
        t.kubectl("label", "pod", "earlier", "changed=yes")
        assert "proa-wait-1" not in t.kubectl("get", "pod", "earlier", "-o", "json")
        broken = (POLICIES / "gate.yaml").read_text().replace("!has(object.spec.initContainers) ?", "!has(object.spec.initContainer) ??")
        try:
            t.kubectl.within("default")("apply", "--dry-run=server", "-f", "-", stdin=broken)
        except Failed as refused:
            assert "Syntax error" in str(refused) or "compilation failed" in str(refused), refused
        else:
            raise AssertionError("a malformed policy was accepted")


INJECTOR = """
import base64, http.server, json, os, ssl, time
while not os.path.exists('/tmp/go'): time.sleep(0.1)
sidecar = json.loads(os.environ['SIDECAR'])
class Injector(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        review = json.loads(self.rfile.read(int(self.headers['content-length'])))
        spec = review['request']['object']['spec']
        has = any(one['name'] == sidecar['name'] for one in spec['containers'] + spec.get('initContainers', []))
        patch = [] if has else [{'op': 'add', 'path': '/spec/containers/-', 'value': sidecar}]
        answer = {'uid': review['request']['uid'], 'allowed': True, 'patchType': 'JSONPatch',
                  'patch': base64.b64encode(json.dumps(patch).encode()).decode()}
        body = json.dumps({'apiVersion': review['apiVersion'], 'kind': review['kind'], 'response': answer}).encode()
        self.send_response(200)
        self.send_header('content-type', 'application/json')
        self.send_header('content-length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain('/tmp/tls.pem')
server = http.server.ThreadingHTTPServer(('', 8443), Injector)
server.socket = context.wrap_socket(server.socket, server_side=True)
print('serving', flush=True)
server.serve_forever()
"""


def _certificate(address):
    """A certificate for this address that signs itself, with its key."""
    with tempfile.TemporaryDirectory() as folder:
        key, certificate = Path(folder) / "key", Path(folder) / "certificate"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "1"]
            + ["-subj", "/CN=injector", "-addext", f"subjectAltName=IP:{address}"],
            check=True,
            capture_output=True,
        )
        return certificate.read_text(), key.read_text()


@scenario(since="1.36")
def a_sidecar_that_a_webhook_adds(t):
    """A mesh's webhook adds its sidecar after the policies ran: they run again, make it native, and the unedited Job completes."""
    envoy = {
        "name": "istio-proxy",
        "image": t.images.reference("envoy"),
        "imagePullPolicy": "IfNotPresent",
        "args": ["--log-level", "error", "--config-yaml", ENVOY_ADMIN],
        "readinessProbe": {"periodSeconds": 1, "initialDelaySeconds": 3, "httpGet": {"path": "/ready", "port": 9901}},
    }
    more = "env: [{name: SIDECAR, value: " + json.dumps(json.dumps(envoy)) + "}]"
    t.apply(pod("injector", container("server", "python", args=["-c", INJECTOR], more=more), restartPolicy="Always", terminationGracePeriodSeconds="1"))
    t.pod("injector", lambda pod: pod.container("server").running)
    address = t.kubectl("get", "pod", "injector", "-o", "jsonpath={.status.podIP}")
    certificate, key = _certificate(address)
    write = "import sys; open('/tmp/tls.pem', 'w').write(sys.stdin.read()); open('/tmp/go', 'w')"
    written = t.exec("injector", "server", "/bin/python3", "-c", write, stdin=certificate + key)
    assert written.returncode == 0, written
    t.logged("injector", "server", "serving")
    hook = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": f"mesh-{t.namespace}"},
        "webhooks": [
            {
                "name": "mesh.example.com",
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "clientConfig": {"url": f"https://{address}:8443/", "caBundle": base64.b64encode(certificate.encode()).decode()},
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": t.namespace}},
                "objectSelector": {"matchLabels": {"mesh": "yes"}},
            }
        ],
    }
    work = job("work", shell("main", LIVE)).replace("metadata: {annotations: {}}", "metadata: {labels: {mesh: 'yes'}}")
    meshed = pod("meshed", shell("main", LIVE)).replace("metadata: {", "metadata: {labels: {mesh: 'yes'}, ")
    try:
        t.kubectl("create", "-f", "-", stdin=json.dumps(hook))
        wait.until("the webhook to be in force", lambda: "istio-proxy" in _all(_admitted(t, meshed)), 60, every=0.5)
        assert _native(_admitted(t, meshed)) == [], "without the policy it is a regular sidecar"
        with _in_force(t, _annotations_policy(t), _native_policy(t), _gate_policy(t), _wrap_policy(t)):
            assert _native(_admitted(t, meshed)) == ["istio-proxy"], _admitted(t, meshed)
            t.apply(work)
            assert t.job("work").complete
            found = t.pod_of("work", lambda pod: pod.finished)
            assert "LIVE" in t.logs(found.name, "main") and found.container("istio-proxy").exit_code == 0, found
    finally:
        t.kubectl("delete", "mutatingwebhookconfiguration", f"mesh-{t.namespace}", "--ignore-not-found")
