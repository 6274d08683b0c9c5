"""Flags and variables mean in a cluster what the help says."""

import json

from suite.pieces import ENVOY, QUIT, READY_FILE, UNTIL_TERM, main, pod, shell
from suite.scenario import scenario


@scenario
def sidecars_that_are_ignored(t):
    """A sidecar named by --ignore is waited for neither to be ready nor to exit."""
    t.grant("watch")
    never = shell("log", UNTIL_TERM, READY_FILE)
    t.apply(pod("ignoring", main("exit 3", QUIT, "--ignore=log"), ENVOY, never))
    found = t.pod("ignoring", lambda pod: pod.container("main").ended and pod.container("envoy").ended)
    assert (found.container("main").exit_code, found.container("log").running) == (3, True), found


@scenario
def the_one_sidecar_that_matters(t):
    """With --wait-for the command starts when that one is ready, whatever the others are."""
    t.grant("watch")
    never = shell("log", UNTIL_TERM, READY_FILE)
    t.apply(pod("waiting", main("exit 3", QUIT, "--wait-for=envoy", "--shutdown-timeout=2s"), ENVOY, never))
    found = t.pod("waiting", lambda pod: pod.container("main").ended)
    assert found.container("main").exit_code == 3 and not found.container("log").ready, found
    t.apply(pod("mistyped", main("echo never", "--wait-for=envoi", QUIT), ENVOY))
    main_ = t.finished("mistyped").container("main")
    assert main_.exit_code == 2 and "`envoi`" in main_.message and "`envoy`" in main_.message, main_


@scenario
def running_all_the_same(t):
    """With --on-timeout=run the command starts when time has run out, and the log says beside whom."""
    t.grant("watch")
    unready = ENVOY.replace("/ready", "/no-such-page")
    t.apply(pod("impatient", main("exit 3", QUIT, "--ready-timeout=10s", "--on-timeout=run"), unready))
    assert t.finished("impatient").exit_codes() == {"main": 3, "envoy": 0}
    assert "going on all the same: envoy (running, not ready)" in t.logs("impatient", "main")


@scenario
def when_the_sidecars_are_ended(t):
    """--shutdown-when=success keeps the sidecars after a failure, and always ends them in a Pod that is started again."""
    t.grant("watch")
    t.apply(pod("success", main("exit 3", QUIT, "--shutdown-when=success"), ENVOY))
    t.apply(pod("always", main("sleep 1", QUIT, "--shutdown-when=always"), ENVOY, restartPolicy="Always"))
    found = t.pod("success", lambda pod: pod.container("main").ended)
    assert found.container("main").exit_code == 3 and found.container("envoy").running, found
    assert t.pod("always", lambda pod: pod.container("envoy").restarts >= 1).container("envoy").previous["exitCode"] == 0
    assert t.pod("success", lambda pod: True).container("envoy").restarts == 0


@scenario
def flags_from_the_environment(t):
    """Flags come from a ConfigMap as well, and the command inherits the Pod's environment and working directory."""
    t.grant("watch")
    variables = {"PROA_SHUTDOWN_HTTP_POST": "http://localhost:9901/quitquitquit", "PROA_LOG_FORMAT": "json"}
    literals = [f"--from-literal={name}={value}" for name, value in variables.items()]
    t.kubectl("create", "configmap", "settings", *literals)
    t.kubectl("create", "secret", "generic", "login", "--from-literal=PASSWORD=correct horse")
    more = "workingDir: /var/work\nenvFrom: [{configMapRef: {name: settings}}, {secretRef: {name: login}}]"
    t.apply(pod("configured", main('echo "$PWD $PASSWORD"; exit 3', more=more), ENVOY))
    assert t.finished("configured").exit_codes() == {"main": 3, "envoy": 0}
    lines = t.logs("configured", "main").splitlines()
    assert "/var/work correct horse" in lines, lines
    entries = [json.loads(line) for line in lines if line.startswith("{")]
    assert len(entries) == len(lines) - 1 and all("level" in entry for entry in entries), lines


@scenario
def a_talkative_log_keeps_secrets(t):
    """At the most talkative level neither the command's arguments, nor its environment, nor the token are logged."""
    t.grant("watch")
    env = "env: [{name: PROA_LOG_LEVEL, value: trace}, {name: PASSWORD, value: correct-horse}]"
    account = "/var/run/secrets/kubernetes.io/serviceaccount/token"
    # The token goes where only this scenario looks, and never to the log.
    script = f"cp {account} /tmp/token; : battery-staple; until [ -e /tmp/over ]; do sleep 0.1; done"
    t.apply(pod("talkative", main(script, QUIT, more=env), ENVOY))
    t.pod("talkative", lambda pod: pod.container("main").running)
    t.logged("talkative", "main", "command started")
    token = t.exec("talkative", "main", "cat", account).stdout
    assert token.count(".") == 2, "that is no token"
    t.touch("talkative", "main", "/tmp/over")
    assert t.finished("talkative").exit_codes() == {"main": 0, "envoy": 0}
    log = t.logs("talkative", "main")
    assert "DEBUG" in log or "TRACE" in log, "it was not talkative"
    for secret in ("battery-staple", "correct-horse", token, token.split(".")[2]):
        assert secret not in log, secret[:20]


@scenario
def a_proxy_for_everything_else(t):
    """A proxy that the environment names, and that nobody can reach, keeps proa neither from the API nor from Envoy."""
    t.grant("watch")
    names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
    env = "env: [" + ", ".join(f"{{name: {name}, value: 'http://127.0.0.1:1'}}" for name in names) + "]"
    t.apply(pod("proxied", main("exit 3", QUIT, more=env), ENVOY))
    assert t.finished("proxied").exit_codes() == {"main": 3, "envoy": 0}
