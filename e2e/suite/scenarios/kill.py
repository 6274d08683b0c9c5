"""Sidecars without a quit endpoint are ended by signal, and nothing else is."""

from suite.pieces import ENVOY, QUIT, READY_FILE, UNTIL_TERM, container, main, pod, shell
from suite.scenario import in_order, scenario

SHARED = {"shareProcessNamespace": "true"}


@scenario
def a_signal_of_the_sidecars_own(t):
    """--kill-signal sends the signal that ends a sidecar in its own clean way, as SIGQUIT does nginx."""
    t.grant("watch")
    sidecar = shell("web", "trap 'echo draining; exit 0' QUIT; touch /tmp/ready; while :; do sleep 0.1; done", READY_FILE)
    t.apply(pod("quit", main("exit 3", "--kill=sh", "--kill-signal=QUIT"), sidecar, **SHARED))
    assert t.finished("quit").exit_codes() == {"main": 3, "web": 0}


@scenario
def a_sidecar_of_another_user(t):
    """--kill on another user's process says what is missing, and the exit code stays the command's."""
    t.grant("watch")
    user = "securityContext: {runAsUser: 1000, capabilities: {drop: [ALL]}}"
    sidecar = container("web", "busybox", command=["httpd", "-f", "-p", "8080"], more="securityContext: {runAsUser: 1001}")
    t.apply(pod("strangers", main("exit 3", "--kill=httpd", "--shutdown-timeout=2s", more=user), sidecar, **SHARED))
    main_ = t.pod("strangers", lambda pod: pod.container("main").ended).container("main")
    assert main_.exit_code == 3, main_
    assert "run the containers as the same user" in t.logs("strangers", "main")


@scenario
def the_nodes_processes_are_left_alone(t):
    """Under hostPID, with all of the node's processes in sight, --kill and --kill-all signal none."""
    t.grant("watch")
    # A process of this name, outside of the Pod, is what must survive.
    t.apply(pod("bystander", container("web", "busybox", command=["httpd", "-f", "-p", "8080"])))
    t.pod("bystander", lambda pod: pod.container("web").running)
    t.apply(pod("sees-all", main("exit 3", "--kill=httpd", "-K"), hostPID="true"))
    assert t.finished("sees-all").exit_codes() == {"main": 3}
    assert "hostPID" in t.logs("sees-all", "main")
    assert t.exec("bystander", "web", "true").returncode == 0
    assert t.pod("bystander", lambda pod: True).container("web").running


@scenario
def each_sidecar_in_its_own_way(t):
    """POST, GET and signal side by side: each sidecar is ended in its own way, and all are waited for."""
    t.grant("watch")
    server = "import http.server as h\n\nclass Quits(h.BaseHTTPRequestHandler):\n    def do_GET(self):\n        self.send_response(200)\n        self.end_headers()\n        if self.path == '/quit':\n            raise SystemExit\n\nh.HTTPServer(('', 8099), Quits).serve_forever()\n"
    getting = container("getting", "python", args=["-c", server], more="readinessProbe: {periodSeconds: 1, httpGet: {path: /, port: 8099}}")
    signalled = shell("signalled", "trap 'exit 0' TERM; echo up; while :; do sleep 0.1; done")
    flags = (QUIT, "--shutdown-http-get=http://localhost:8099/quit", "--kill=sh")
    t.apply(pod("mixed", container("main", "app", args=[*flags, "--", "true"]), ENVOY, getting, signalled, **SHARED))
    assert t.finished("mixed").exit_codes() == {"main": 0, "envoy": 0, "getting": 0, "signalled": 0}


@scenario
def orphans_are_collected_below_a_shared_pid_1(t):
    """With a shared process namespace, where proa is not PID 1, orphans of the command are collected all the same."""
    t.grant("watch")
    script = "for i in 1 2 3; do (sh -c 'sleep 0.1' &); done; echo up; until [ -e /tmp/over ]; do sleep 0.1; done"
    t.apply(pod("below", main(script), shell("web", UNTIL_TERM.replace("exit 0", "exit 0")), **SHARED))
    t.logged("below", "main", "up")
    # The last orphan ends while this looks; what is there for good is a zombie.
    look = "for i in 1 2 3 4 5 6 7 8 9 10; do grep -l '^State:.Z' /proc/[0-9]*/status || exit 0; sleep 0.2; done; exit 1"
    assert t.exec("below", "main", "sh", "-c", look).returncode == 0
    t.touch("below", "main", "/tmp/over")
    assert t.pod("below", lambda pod: pod.container("main").running or pod.container("main").ended)
