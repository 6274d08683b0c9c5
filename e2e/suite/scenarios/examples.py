"""The examples do what they say, as they are, images aside."""

from onenode.layout import E2E
from suite.scenario import in_order, scenario

EXAMPLES = E2E.parent / "examples"


@scenario
def the_readmes_job(t):
    """examples/job.yaml, which README and demo show, completes."""
    t.apply((EXAMPLES / "job.yaml").read_text())
    assert t.job("proa-example").complete
    pod = t.pod_of("proa-example", lambda pod: pod.finished)
    assert pod.exit_codes() == {"greeter": 0, "main": 0}, pod
    in_order(t.timeline(pod.name), "waiting for greeter", "gate open", "every sidecar has ended", "exit code=0")
    assert "the sidecar says: hello from the sidecar" in t.logs(pod.name, "main")
