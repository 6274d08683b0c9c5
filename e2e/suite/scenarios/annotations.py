"""A sidecar that nobody knows says by annotations of the Pod how it is treated."""

import json

from suite.pieces import ENVOY, READY_FILE, UNTIL_TERM, container, job, main, pod, shell
from suite.scenario import in_order, opened_after, scenario

# Ready a while after its start, at its own endpoint alone; asked to quit, it answers and ends with 0.
SERVER = """
import http.server, time

started = time.monotonic()
asked = []

class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, status):
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self):
        self.answer(200 if self.path == "/ready" and time.monotonic() - started >= 4 else 503)

    def do_POST(self):
        self.answer(200 if self.path == "/quit" else 404)
        if self.path == "/quit":
            print("asked to quit", flush=True)
            asked.append(self.path)

server = http.server.HTTPServer(("127.0.0.1", 9000), Handler)
while not asked:
    server.handle_request()
"""

# On loopback, where no probe of the kubelet reaches it.
TUNNEL = container("tunnel", "python", args=["-c", SERVER])
PREFIX = "proa.ironcorelabs.com"
QUIT = "POST http://localhost:9000/quit"


def says(**settings):
    """Annotations of the container `tunnel`, as YAML."""
    return json.dumps({f"{PREFIX}/tunnel.{setting}": value for setting, value in settings.items()})


@scenario
def an_unknown_sidecar_quits_by_annotation(t):
    """A Job with a sidecar that nobody knows completes without any flag: its annotation says how it is ended."""
    t.grant("watch")
    t.apply(job("work", TUNNEL, main("echo working"), annotations=says(shutdown=QUIT)))
    assert t.job("work").complete
    found = t.pod_of("work", lambda pod: pod.finished)
    assert found.exit_codes() == {"tunnel": 0, "main": 0}, found
    in_order(t.timeline(found.name), "gate open", "quit: 200", "every sidecar has exited")
    assert "asked to quit" in t.logs(found.name, "tunnel").splitlines()


@scenario
def a_sidecar_is_ready_by_annotation(t):
    """A sidecar that the kubelet cannot probe is waited for at its own endpoint, and ended before Envoy."""
    t.grant("watch")
    annotations = says(ready="http://localhost:9000/ready", shutdown=QUIT, traffic="own")
    t.apply(pod("ready", TUNNEL, ENVOY, main("exit 3"), annotations=annotations))
    found = t.finished("ready")
    assert found.exit_codes() == {"tunnel": 0, "envoy": 0, "main": 3}, found
    opened_after(t, found, "tunnel", 4)
    in_order(t.timeline("ready"), f"annotation {PREFIX}/tunnel.ready says so", "gate open", "tunnel: asked to quit", "9901/quitquitquit: 200")


@scenario
def a_sidecar_is_ignored_by_annotation(t):
    """A sidecar that says so is waited for neither to be ready nor to exit."""
    t.grant("watch")
    never = shell("tunnel", UNTIL_TERM, READY_FILE)
    t.apply(pod("ignored", never, ENVOY, main("exit 3"), annotations=says(ignore="true")))
    found = t.pod("ignored", lambda pod: pod.container("main").ended and pod.container("envoy").ended)
    assert (found.container("main").exit_code, found.container("envoy").exit_code) == (3, 0), found
    assert found.container("tunnel").running, found


@scenario
def a_malformed_annotation_is_warned_of(t):
    """What an annotation cannot mean is one warning with its key, and the well-formed one beside it counts."""
    t.grant("watch")
    annotations = says(shutdown=QUIT, shutdwn=QUIT, ready="http://example.com/ready")
    t.apply(pod("malformed", TUNNEL, main("exit 3"), annotations=annotations))
    assert t.finished("malformed").exit_codes() == {"tunnel": 0, "main": 3}
    warnings = [line for line in t.logs("malformed", "main").splitlines() if "WARN" in line]
    for key, expected in [("shutdwn", "expected one of shutdown, ready, traffic, ignore"), ("ready", "expected localhost or a loopback address")]:
        named = [line for line in warnings if f"{PREFIX}/tunnel.{key} " in line]
        assert len(named) == 1 and expected in named[0], warnings
