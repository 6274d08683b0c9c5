"""kubectl proa: what `plan` proposes is applied and completes, and `check` sees the cluster's objects."""

import json

from suite import plugin
from suite.pieces import ENVOY, before, container, job, late, pod, shell
from suite.scenario import scenario
from suite.scenarios.forms import LIVE, NATIVE

# Its owner has set it up as a regular container, which a native one is not.
RULED = (
    ENVOY.rstrip()
    + "\n  restartPolicy: Never\n  restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [42]}}]\n"
)
UNPROBED = "\n".join(line for line in ENVOY.splitlines() if "readinessProbe" not in line)


def _cured(t, manifest, proposal):
    """The objects as proposed."""
    patch = json.dumps(proposal["patch"])
    text = t.kubectl("patch", "--local", "-f", "-", "--type=json", "-p", patch, "-o", "json", stdin=manifest)
    return [json.loads(text), *proposal["objects"]]


@scenario
def what_is_proposed_completes(t):
    """What `kubectl proa plan` proposes for five Jobs that hang or start too early is applied, and each completes, its command started in time."""
    hidden = "sh -c 'sleep 2'"
    for name, expected, manifest in (
        ("native", ["native"], job("native", shell("main", LIVE), late(ENVOY, 4))),
        ("probe", ["startup-probe"], job("probe", shell("main", LIVE), initContainers=before(late(NATIVE, 4)))),
        ("wait", ["wait", "native"], job("wait", shell("main", LIVE), UNPROBED)),
        ("wrap", ["wrap"], job("wrap", shell("main", LIVE), late(RULED, 4))),
        # Without a command the image's own runs: a shell that ends at once, since nothing is to be read.
        ("helper", ["helper"], job("helper", container("main", "busybox", args=["sh", "-c", hidden]), RULED)),
    ):
        manifest = t.images.resolve(manifest)
        proposal = plugin.plan(t, manifest)
        assert proposal["forms"] == expected, (name, proposal)
        cured = _cured(t, manifest, proposal)
        items = json.dumps({"apiVersion": "v1", "kind": "List", "items": cured})
        if name != "wait":
            assert plugin.findings(t, "-f", "-", stdin=items) == [], (name, items)
        t.kubectl("apply", "-f", "-", stdin=items)
        assert t.job(name).complete, name
        found = t.pod_of(name, lambda pod: pod.finished)
        assert found.container("main").exit_code == 0, found
        if name != "helper":
            assert "LIVE" in t.logs(found.name, "main"), (name, t.logs(found.name, "main"))


@scenario
def the_plugin_reads_the_cluster(t):
    """`kubectl proa check pod/NAME` finds a live Pod that hangs, and says nothing of one whose Role the cluster has."""
    t.grant("watch")
    t.apply(pod("hangs", shell("main", "sleep 1"), ENVOY))
    t.apply(pod("works", container("main", "app", args=["--", "sh", "-c", "sleep 1"]), ENVOY))
    where = ("-n", t.namespace)
    assert plugin.findings(t, "pod/hangs", *where) == ["sidecar-runs-on"]
    found = plugin.findings(t, "pod/works", *where)
    assert found == [], found
    missing = plugin.run(t, "check", "pod/nobody", *where)
    assert missing.returncode == 2 and "not found" in missing.stderr, missing
    t.kubectl("delete", "rolebinding", "granted")
    assert plugin.findings(t, "pods", *where) == ["sidecar-runs-on", "role-missing"]
