"""What a Pod shows that will go wrong is said before the command starts, and at the end what keeps the Pod from completing."""

from suite.pieces import ENVOY, QUIT, UNTIL_TERM, job, late, main, pod, shell
from suite.scenario import in_order, scenario
from suite.scenarios.known import cloud_sql


def _warned(log, text):
    """That this is a warning, before the command started."""
    before = log.split("command started")[0]
    assert any("WARN" in line and text in line for line in before.splitlines()), f"no {text!r} in {before}"


@scenario
def a_sidecar_that_nobody_shuts_down(t):
    """A sidecar that nobody shuts down is warned of before the command; once it is over, kubectl describe says why the Pod does not complete."""
    t.grant("watch")
    t.apply(pod("stays", main("exit 3", "--shutdown-timeout=3s"), shell("web", UNTIL_TERM)))
    found = t.pod("stays", lambda pod: pod.container("main").ended)
    assert found.container("main").exit_code == 3 and found.container("web").running, found
    _warned(t.logs("stays", "main"), "nobody shuts down `web`")
    _warned(t.logs("stays", "main"), "no readinessProbe on `web`")
    message = found.container("main").message
    assert "this Pod does not complete until they exit" in message and "--shutdown-http-post" in message, message


@scenario
def a_quit_endpoint_that_is_switched_off(t):
    """A Cloud SQL Auth Proxy without --quitquitquit is warned of by the flag that it lacks; Envoy beside it is not."""
    t.grant("watch")
    t.apply(pod("lacking", main("exit 0", "--shutdown-timeout=3s"), cloud_sql(), ENVOY))
    found = t.pod("lacking", lambda pod: pod.container("main").ended)
    log = t.logs("lacking", "main")
    _warned(log, "`cloud-sql-proxy` (Cloud SQL Auth Proxy)")
    _warned(log, "switched off; expected --quitquitquit")
    assert "nobody shuts down `envoy`" not in log, log
    assert "--quitquitquit" in found.container("main").message, found.container("main").message


@scenario
def a_liveness_probe_that_runs_while_proa_waits(t):
    """Main's own livenessProbe restarts it while proa waits for a slow sidecar, as the warning says; a startupProbe that allows as much does not."""
    t.grant("watch")
    # It fails after proa's first look at the Pod, and long before Envoy is ready.
    probe = "{periodSeconds: 1, timeoutSeconds: 10, failureThreshold: 6, exec: {command: [test, -e, /tmp/up]}}"
    script = "touch /tmp/up; exit 0"
    t.apply(pod("early", main(script, QUIT, more=f"livenessProbe: {probe}"), late(ENVOY, 30), restartPolicy="OnFailure"))
    t.pod("early", lambda pod: pod.container("main").restarts >= 1)
    assert "the livenessProbe of this container runs while proa waits" in t.logs("early", "main", previous=True)
    generous = "{periodSeconds: 1, timeoutSeconds: 10, failureThreshold: 60, exec: {command: [test, -e, /tmp/up]}}"
    patient = main(script, QUIT, "--ready-timeout=1m", more=f"startupProbe: {generous}\nlivenessProbe: {probe}")
    t.apply(pod("patient", patient, late(ENVOY, 12)))
    found = t.finished("patient")
    assert found.exit_codes() == {"main": 0, "envoy": 0} and found.container("main").restarts == 0, found
    assert "livenessProbe" not in t.logs("patient", "main"), t.logs("patient", "main")


@scenario
def a_pod_in_order(t):
    """A Job whose sidecars are all in order is warned of nothing."""
    t.grant("watch")
    t.apply(job("mesh", main("true"), ENVOY))
    assert t.job("mesh").complete
    found = t.pod_of("mesh", lambda pod: pod.finished)
    log = t.logs(found.name, "main")
    assert "WARN" not in log, log
    in_order(t.timeline(found.name), "gate open", "quitquitquit: 200", "every sidecar has exited")
