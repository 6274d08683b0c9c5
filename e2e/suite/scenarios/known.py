"""Well-known sidecars are recognised and ended without a flag; and what can be had of them without the API server."""

from suite.pieces import ENVOY, ENVOY_ADMIN, MOUNT, QUIT, READY_FILE, STATE, before, container, job, late, main, pod, shell
from suite.scenario import in_order, opened_after, scenario, seconds_between
from suite.scenarios.mesh import meshed

NGINX = container("nginx", "nginx", more="readinessProbe: {periodSeconds: 1, httpGet: {path: /, port: 8080}}")

# What asks and ends Envoy without the API server.
DIRECT = ("--wait-http-get=http://localhost:9901/ready", QUIT)
KNOWN = ("--wait-known=envoy", "--shutdown-known=envoy")


def cloud_sql(*flags, name="cloud-sql-proxy", health=9090, more=""):
    """The Cloud SQL Auth Proxy. It speaks to the cloud only for the first client, and there is none."""
    # Kubernetes asks from outside of the Pod; by default the proxy listens on loopback alone.
    args = ["--token=none", "--port=5432", "--health-check", "--http-address=0.0.0.0", *flags, "project:region:instance"]
    probe = f"readinessProbe: {{periodSeconds: 1, httpGet: {{path: /readiness, port: {health}}}}}"
    return container(name, "cloud-sql-proxy", args=args, more=f"{probe}\n{more}")


def asked_to_quit(t, pod, port, name="cloud-sql-proxy"):
    """Assert that the proxy was asked at this port, and its end seen. It may be gone before its answer has left."""
    assert "/quitquitquit received request" in t.logs(pod, name), t.logs(pod, name)
    in_order(t.timeline(pod), f":{port}/quitquitquit: ", "every sidecar has exited")


def seconds_after(earlier, later):
    """From the end of one container to that of another, in the kubelet's whole seconds."""
    return (later.finished_at - earlier.finished_at).total_seconds()


# Recognised by name and by image


@scenario
def envoy_needs_no_flag(t):
    """A Job with Envoy completes without any flag: Envoy is recognised, waited for and ended, and the log says so."""
    t.grant("watch")
    t.apply(job("work", ENVOY, main("wget -qO- localhost:9901/ready")))
    assert t.job("work").complete
    found = t.pod_of("work", lambda pod: pod.finished)
    assert found.exit_codes() == {"envoy": 0, "main": 0}, found
    log = t.logs(found.name, "main")
    assert "LIVE" in log and "`envoy` (Envoy)" in log, log
    in_order(t.timeline(found.name), "gate open", ":9901/quitquitquit: 200", "every sidecar has exited")


@scenario
def envoy_by_another_name_on_another_port(t):
    """Envoy is recognised by its image alone, and found on the port that its probe names."""
    t.grant("watch")
    proxy = ENVOY.replace("name: envoy", "name: proxy").replace("9901", "19000")
    t.apply(pod("renamed", main("exit 3"), proxy))
    assert t.finished("renamed").exit_codes() == {"main": 3, "proxy": 0}
    assert ":19000/quitquitquit: 200" in t.logs("renamed", "main")


@scenario
def a_sidecar_that_nobody_knows_is_left_alone(t):
    """A sidecar that is not well-known is not touched; the one beside it is ended all the same, in bounded time."""
    t.grant("watch")
    proxy = ENVOY.replace("name: envoy", "name: proxy")
    t.apply(pod("mixed", proxy, NGINX, main("exit 3", "--shutdown-timeout=6s")))
    found = t.pod("mixed", lambda pod: pod.container("main").ended and pod.container("proxy").ended)
    assert (found.container("main").exit_code, found.container("proxy").exit_code) == (3, 0), found
    assert found.container("nginx").running and found.container("nginx").restarts == 0, found
    assert seconds_between(t.timeline("mixed"), "main", "command ended", "exit with code 3") <= 9
    log = t.logs("mixed", "main").split("command ended")[-1]
    # Envoy is asked once nginx has had its time.
    assert "waiting for `nginx` to exit" in log.split("quitquitquit")[0] and "still running when --shutdown-timeout ran out: `nginx`" in log, log


@scenario
def the_cloud_sql_proxy_needs_no_flag(t):
    """A Job with the Cloud SQL Auth Proxy completes without any flag: it is waited for, and ended through its quit endpoint."""
    t.grant("watch")
    t.apply(job("work", late(cloud_sql("--quitquitquit"), 3), main("grep -q :1538 /proc/net/tcp && echo listens")))
    assert t.job("work").complete
    found = t.pod_of("work", lambda pod: pod.finished)
    assert found.exit_codes() == {"cloud-sql-proxy": 0, "main": 0}, found
    opened_after(t, found, "cloud-sql-proxy", 3)
    asked_to_quit(t, found.name, 9091)
    # Port 5432, as the kernel writes it.
    assert "listens" in t.logs(found.name, "main").splitlines()


@scenario
def a_cloud_sql_proxy_on_other_ports(t):
    """The Cloud SQL Auth Proxy is recognised by its image, and found where its flags and variables have moved it."""
    t.grant("watch")
    env = "env: [{name: CSQL_PROXY_HTTP_PORT, value: '9190'}, {name: CSQL_PROXY_ADMIN_PORT, value: '9999'}]"
    # Where both are given, the proxy takes the flag.
    t.apply(pod("moved", cloud_sql("--quitquitquit", "--admin-port=9191", name="db", health=9190, more=env), main("exit 3")))
    assert t.finished("moved").exit_codes() == {"db": 0, "main": 3}
    asked_to_quit(t, "moved", 9191, "db")
    env = env.replace("9999", "9192")
    t.apply(pod("variable", cloud_sql("--quitquitquit", name="db", health=9190, more=env), main("exit 3")))
    assert t.finished("variable").exit_codes() == {"db": 0, "main": 3}
    asked_to_quit(t, "variable", 9192, "db")


@scenario
def a_cloud_sql_proxy_that_cannot_be_asked(t):
    """A Cloud SQL Auth Proxy without --quitquitquit: the log says what to set, and the exit code stays the command's."""
    t.grant("watch")
    t.apply(pod("unasked", cloud_sql(), main("exit 3", "--shutdown-timeout=4s")))
    found = t.pod("unasked", lambda pod: pod.container("main").ended)
    assert found.container("main").exit_code == 3 and found.container("cloud-sql-proxy").running, found
    warnings = [line for line in t.logs("unasked", "main").splitlines() if "WARN" in line]
    assert any("--quitquitquit" in line for line in warnings), warnings


@scenario
def what_is_known_without_the_api(t):
    """Envoy and the Cloud SQL Auth Proxy are waited for and ended by name, with nobody to ask what the Pod has."""
    flags = ["--api=off", *KNOWN, "--wait-known=cloud-sql-proxy", "--shutdown-known=cloud-sql-proxy"]
    script = "wget -qO- localhost:9901/ready localhost:9090/readiness; exit 3"
    t.apply(pod("named", main(script, *flags), ENVOY, cloud_sql("--quitquitquit")))
    assert t.finished("named").exit_codes() == {"main": 3, "envoy": 0, "cloud-sql-proxy": 0}
    assert "LIVE" in t.logs("named", "main")


@scenario
def nothing_is_ended_by_itself(t):
    """--no-shutdown-auto leaves Envoy alone; the container ends in bounded time, with the command's exit code."""
    t.grant("watch")
    t.apply(pod("spared", ENVOY, main("exit 3", "--no-shutdown-auto", "--shutdown-timeout=2s")))
    found = t.pod("spared", lambda pod: pod.container("main").ended)
    assert found.container("main").exit_code == 3 and found.container("envoy").running, found
    assert seconds_between(t.timeline("spared"), "main", "command ended", "exit with code 3") <= 6
    assert "quitquitquit" not in t.logs("spared", "main")


@scenario
def an_action_of_ones_own_is_all_there_is(t):
    """Where an action is given, well-known sidecars are not asked besides."""
    t.grant("watch")
    flags = ("--kill=nginx", "--kill-signal=SIGQUIT", "--shutdown-timeout=4s")
    t.apply(pod("explicit", ENVOY, NGINX, main("exit 3", *flags), shareProcessNamespace="true"))
    found = t.pod("explicit", lambda pod: pod.container("main").ended and pod.container("nginx").ended)
    assert (found.container("main").exit_code, found.container("nginx").exit_code) == (3, 0), found
    assert found.container("envoy").running and "quitquitquit" not in t.logs("explicit", "main"), found


@scenario
def well_known_sidecars_and_an_action_of_ones_own(t):
    """With --shutdown-auto both end well: nginx by the signal that is given, and Envoy in its own way."""
    t.grant("watch")
    flags = ("--shutdown-auto", "--kill=nginx", "--kill-signal=SIGQUIT")
    t.apply(job("work", ENVOY, NGINX, main("wget -qO- localhost:8080", *flags), shareProcessNamespace="true"))
    assert t.job("work").complete
    found = t.pod_of("work", lambda pod: pod.finished)
    assert found.exit_codes() == {"envoy": 0, "nginx": 0, "main": 0}, found
    in_order(t.timeline(found.name), "SIGQUIT to processes named `nginx`", "quitquitquit: 200", "every sidecar has exited")


@scenario
def a_well_known_native_sidecar_is_the_kubelets(t):
    """A native Envoy is waited for, and proa does not end it: the kubelet does."""
    t.grant("watch")
    native = ENVOY.rstrip() + "\n  restartPolicy: Always\n"
    # The kubelet starts main as soon as Envoy has been started.
    t.apply(job("work", main("echo working"), initContainers=before(late(native, 3))))
    assert t.job("work").complete
    found = t.pod_of("work", lambda pod: pod.finished)
    assert found.exit_codes() == {"main": 0} and found.container("envoy").restarts == 0, found
    opened_after(t, found, "envoy", 3)
    assert "quitquitquit" not in t.logs(found.name, "main")


# What carries the others' traffic goes last

# Asked to quit, it answers, waits, and then needs the network to end well.
FLUSH = """
import http.server, os, sys, threading, time, urllib.request

asked = threading.Event()

class Quit(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        found = self.path == os.environ["QUIT"]
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()
        if found:
            asked.set()

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

server = http.server.ThreadingHTTPServer(("", int(os.environ["PORT"])), Quit)
threading.Thread(target=server.serve_forever, daemon=True).start()
asked.wait()
print("asked to quit", flush=True)
server.shutdown()
server.server_close()
time.sleep(2)
try:
    print("flushed:", urllib.request.urlopen(os.environ["UPSTREAM"], timeout=5).read().decode().strip(), flush=True)
except OSError as error:
    sys.exit(f"nothing was flushed: {error}")
"""


def flusher(name, quit, port, upstream):
    env = f"env: [{{name: QUIT, value: {quit}}}, {{name: PORT, value: '{port}'}}, {{name: UPSTREAM, value: '{upstream}'}}]"
    probe = f"readinessProbe: {{periodSeconds: 1, httpGet: {{path: /, port: {port}}}}}"
    return container(name, "python", args=["-c", FLUSH], more=f"{env}\n{probe}")


def backend(t):
    """A Pod that serves HTTP on 8080; returns its address."""
    t.apply(pod("backend", NGINX, terminationGracePeriodSeconds="1"))
    return t.pod("backend", lambda pod: pod.container("nginx").ready).status["podIP"]


@scenario
def a_proxy_that_others_need_goes_last(t):
    """A sidecar whose end needs the network through Envoy gets it: both are recognised, Envoy is asked last, both end well."""
    t.grant("watch")
    address = backend(t)
    listener = (
        "static_resources: {listeners: [{address: {socket_address: {address: 127.0.0.1, port_value: 10000}}, filter_chains: "
        "[{filters: [{name: envoy.filters.network.tcp_proxy, typed_config: {'@type': "
        "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: out, cluster: backend}}]}]}], "
        "clusters: [{name: backend, type: STATIC, connect_timeout: 5s, load_assignment: {cluster_name: backend, endpoints: "
        f"[{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {address}, port_value: 8080}}}}}}}}]}}]}}}}]}}"
    )
    envoy = ENVOY.replace(ENVOY_ADMIN, f"{ENVOY_ADMIN[:-1]}, {listener}}}")
    # Vault Agent's name and endpoint: recognised, and not a proxy.
    agent = flusher("vault-agent", "/agent/v1/quit", 8200, "http://127.0.0.1:10000")
    t.apply(pod("carried", envoy, agent, main("wget -qO- localhost:10000; exit 3")))
    assert t.finished("carried").exit_codes() == {"envoy": 0, "vault-agent": 0, "main": 3}
    assert "served" in t.logs("carried", "main").splitlines()
    in_order(t.timeline("carried"), "vault-agent: asked to quit", "vault-agent: flushed: served", "9901/quitquitquit: 200", "every sidecar has exited")


@scenario
def a_mesh_that_others_need_goes_last(t):
    """In a transparent mesh a sidecar that is ended by a flag still has its network, and the API is lost only with Envoy."""
    t.grant("watch")
    address = backend(t)
    flush = flusher("reporter", "/quit", 8099, f"http://{address}:8080")
    flags = ("--shutdown-auto", "--shutdown-http-post=http://localhost:8099/quit")
    t.apply(meshed("meshed", main(f"wget -qO- {address}:8080; exit 3", *flags), flush))
    found = t.finished("meshed")
    assert found.exit_codes() == {"proxy": 0, "reporter": 0, "main": 3}, found
    assert "served" in t.logs("meshed", "main").splitlines()
    in_order(t.timeline("meshed"), "reporter: asked to quit", "reporter: flushed: served", "9901/quitquitquit: 200", "exit with code 3")
    # Without the API the end of the proxy is not seen, and what is left of --shutdown-timeout is not spent on it.
    assert seconds_after(found.container("proxy"), found.container("main")) <= 12, found


@scenario
def a_proxy_does_not_wait_for_ever(t):
    """A sidecar that does not end, told to or not, keeps Envoy for two thirds of --shutdown-timeout (20 seconds at most if nobody can ask it), and no longer."""
    t.grant("watch")
    # nginx says yes to everything.
    told = ("--shutdown-auto", "--shutdown-http-get=http://localhost:8080/quit")
    for name, flags in [("told", told), ("untold", ())]:
        t.apply(pod(name, ENVOY, NGINX, main("exit 3", *flags, "--shutdown-timeout=9s")))
    for name in ("told", "untold"):
        found = t.pod(name, lambda pod: pod.container("main").ended and pod.container("envoy").ended)
        assert (found.container("main").exit_code, found.container("envoy").exit_code) == (3, 0), found
        assert found.container("nginx").running, found
        kept = seconds_between(t.timeline(name), "main", "command ended", "9901/quitquitquit: 200")
        assert 5.9 <= kept < 9, kept


@scenario
def a_proxy_waits_for_those_that_nobody_told(t):
    """A sidecar that notices main's end by itself, and needs Envoy to end well, has it for up to 20 seconds."""
    t.grant("watch")
    flush = "touch /tmp/ready; until [ -e /state/over ]; do sleep 0.1; done; sleep 3; wget -qO- localhost:9901/ready || exit 9; echo flushed"
    more = f"{READY_FILE}\n{MOUNT}"
    t.apply(pod("patient", ENVOY, shell("log", flush, more), main("touch /state/over; exit 3", more=MOUNT), volumes=STATE))
    assert t.finished("patient").exit_codes() == {"envoy": 0, "log": 0, "main": 3}
    in_order(t.timeline("patient"), "waiting for `log` to exit", "log: flushed", "the others have exited", "9901/quitquitquit: 200", "every sidecar has exited")


# Without the API server


def once(t, name, text):
    """The one line of main's log that has this text."""
    lines = [line for line in t.logs(name, "main").splitlines() if text in line]
    assert len(lines) == 1, f"{len(lines)} lines with {text!r}:\n{t.logs(name, 'main')}"
    return lines[0]


@scenario
def a_service_account_without_any_role(t):
    """Without a Role direct waits and actions are enough; the log says once that the API server is not asked."""
    t.apply(pod("by-url", main("wget -qO- localhost:9901/ready; exit 3", *DIRECT), ENVOY))
    t.apply(pod("by-name", main("wget -qO- localhost:9901/ready; exit 4", *KNOWN), ENVOY))
    for name, code in [("by-url", 3), ("by-name", 4)]:
        found = t.finished(name)
        assert found.exit_codes() == {"main": code, "envoy": 0}, found
        assert "LIVE" in t.logs(name, "main")
        once(t, name, 'verbs: ["watch"]')


@scenario
def no_api_on_request(t):
    """With --api=off nobody asks for rights, and Envoy is waited for and ended by its name."""
    t.apply(pod("without", main("wget -qO- localhost:9901/ready; exit 3", "--api=off", *KNOWN), ENVOY))
    assert t.finished("without").exit_codes() == {"main": 3, "envoy": 0}
    log = t.logs("without", "main")
    assert "LIVE" in log and "verbs" not in log, log


@scenario
def no_service_account_at_all(t):
    """Without a service account direct waits and actions are enough; with nothing to wait for, that is an error (2)."""
    t.apply(pod("direct", main("wget -qO- localhost:9901/ready; exit 3", *KNOWN), ENVOY, automountServiceAccountToken="false"))
    t.apply(pod("nothing", main("echo never"), automountServiceAccountToken="false"))
    assert t.finished("direct").exit_codes() == {"main": 3, "envoy": 0}
    assert "LIVE" in t.logs("direct", "main")
    main_ = t.finished("nothing").container("main")
    assert main_.exit_code == 2 and "service account" in main_.message, main_


@scenario
def an_api_that_must_be_there(t):
    """With --api=require direct waits are no substitute: without the Role the exit code is 77."""
    t.apply(pod("required", main("echo never", "--api=require", *DIRECT), ENVOY))
    found = t.finished("required")
    assert found.container("main").exit_code == 77 and 'verbs: ["watch"]' in found.container("main").message, found
    # A refusal is an end too: Envoy is not left behind. And a refusal of the API is believed once.
    assert found.container("envoy").exit_code == 0, found
    lived = (found.container("main").finished_at - found.container("main").started_at).total_seconds()
    assert lived < 20, lived
    assert "never" not in [line.text for line in t.timeline("required")]


@scenario
def an_api_that_cannot_be_reached(t):
    """An API server that does not answer holds up the command for seconds, once the direct waits hold."""
    t.grant("watch")
    env = "env: [{name: KUBERNETES_SERVICE_HOST, value: 127.0.0.1}, {name: KUBERNETES_SERVICE_PORT, value: '1'}]"
    t.apply(pod("cut-off", main("echo working; exit 3", *KNOWN, more=env), ENVOY))
    found = t.finished("cut-off")
    assert found.exit_codes() == {"main": 3, "envoy": 0}, found
    assert (found.container("main").finished_at - found.container("main").started_at).total_seconds() <= 20, found
    assert "working" in t.logs("cut-off", "main").splitlines()
    assert "it cannot be reached" in once(t, "cut-off", "going on without the API server")
    # Without anything else to wait for, that is what is waited for in vain.
    t.apply(pod("in-vain", main("echo never", "--ready-timeout=3s", more=env)))
    refused = t.finished("in-vain").container("main")
    assert refused.exit_code == 75 and "the API server (it cannot be reached: " in refused.message, refused
    assert (refused.finished_at - refused.started_at).total_seconds() <= 15, refused


@scenario
def nothing_to_end_without_sight_of_the_pod(t):
    """Without the API server and without an action no sidecar is shut down, and a warning says so, and with what flags it would be."""
    t.apply(pod("blind", main("exit 3", "--api=off", "--wait-known=envoy", "--shutdown-timeout=4s"), ENVOY))
    found = t.pod("blind", lambda pod: pod.container("main").ended)
    assert found.container("main").exit_code == 3 and found.container("envoy").running, found
    assert "WARN" in once(t, "blind", "no sidecar is shut down") and "--shutdown-known" in once(t, "blind", "no sidecar is shut down")


# What a sidecar writes and where it listens


@scenario
def variables_that_a_sidecar_writes(t):
    """What a sidecar wrote before it was ready is in the command's environment, and the container's own variables win."""
    t.grant("watch")
    write = r"""sleep 3; printf 'PASSWORD="correct horse"\nNAME=file\n' > /state/login.env; touch /tmp/ready; until [ -e /state/over ]; do sleep 0.1; done"""
    script = 'echo "$NAME: $PASSWORD"; touch /state/$NAME; [ -e /state/own ] && [ -e /state/file ] && touch /state/over; exit 3'
    more = f"{MOUNT}\nenv: [{{name: NAME, value: own}}]"
    first = main(script, "--env-file=/state/login.env", "--ignore=second", "--shutdown-when=never", name="first", more=more)
    second = main(script, "--env-file=/state/login.env", "--env-file-override", "--ignore=first", name="second", more=more)
    t.apply(pod("written", first, second, shell("agent", write, f"{READY_FILE}\n{MOUNT}"), volumes=STATE))
    assert t.finished("written").exit_codes() == {"first": 3, "second": 3, "agent": 0}
    assert "own: correct horse\n" in t.logs("written", "first")
    assert "file: correct horse\n" in t.logs("written", "second")


@scenario
def a_file_that_a_sidecar_writes(t):
    """With --wait-file the command starts when the file is there, though Kubernetes called its writer ready from the start."""
    t.grant("watch")
    # The runtime reads the two containers' lines one by one: an order within milliseconds is none.
    write = "echo up; sleep 3; echo NAME=file > /state/new; echo written; sleep 1; mv /state/new /state/login.env; until [ -e /state/over ]; do sleep 0.1; done"
    flags = ("--wait-file=/state/login.env", "--env-file=/state/login.env")
    t.apply(pod("waiting", main('echo "working as $NAME"; touch /state/over; exit 3', *flags, more=MOUNT), shell("agent", write, MOUNT), volumes=STATE))
    assert t.finished("waiting").exit_codes() == {"main": 3, "agent": 0}
    in_order(t.timeline("waiting"), "agent: written", "main: working as file")


@scenario
def a_file_of_variables_that_is_wrong(t):
    """A missing or malformed --env-file is 2; the message has the file and the line, and never a value. Envoy is ended."""
    t.grant("watch")
    write = r"printf 'NAME=file\nPASSWORD correct-horse\n' > /state/malformed.env"
    init = before(shell("write", write, MOUNT))
    for name in ("missing", "malformed"):
        t.apply(pod(name, ENVOY, main("echo never", f"--env-file=/state/{name}.env", more=MOUNT), initContainers=init, volumes=STATE))
    for name in ("missing", "malformed"):
        found = t.finished(name)
        assert found.exit_codes() == {"envoy": 0, "main": 2}, found
        assert f"/state/{name}.env" in found.container("main").message, found
        log = t.logs(name, "main")
        assert "correct-horse" not in log + found.container("main").message and "never" not in log.splitlines(), log
    assert "line 2" in found.container("main").message or "malformed.env:2" in found.container("main").message, found


@scenario
def a_port_that_is_opened_late(t):
    """With --wait-tcp the command starts when the port is open, though Kubernetes called the sidecar ready from the start."""
    t.grant("watch")
    late = "sleep 3; echo listening; sleep 1; httpd -p 7000; until [ -e /state/over ]; do sleep 0.1; done"
    t.apply(pod("late", main("echo working; touch /state/over; exit 3", "--wait-tcp=localhost:7000", more=MOUNT), shell("db", late, MOUNT), volumes=STATE))
    assert t.finished("late").exit_codes() == {"main": 3, "db": 0}
    in_order(t.timeline("late"), "waiting for", "db: listening", "main: working")


@scenario
def direct_waits_that_never_hold(t):
    """What is waited for in vain is named when time runs out, with 75."""
    t.grant("watch")
    flags = ("--wait-tcp=localhost:7000", "--wait-file=/no/such/file", "--wait-http-get=http://localhost:9901/no-such-page", "--ready-timeout=3s")
    t.apply(pod("vain", ENVOY, main("echo never", *flags)))
    found = t.finished("vain")
    assert found.exit_codes() == {"envoy": 0, "main": 75}, found
    for what in ("localhost:7000", "/no/such/file", "http://localhost:9901/no-such-page"):
        assert what in found.container("main").message, found


# Takes every question, and answers none.
SILENT = "import socket, time; server = socket.socket(type=socket.SOCK_DGRAM); server.bind(('127.0.0.1', 53)); time.sleep(1000)"


@scenario
def a_name_server_that_never_answers(t):
    """A name look-up that hangs outlasts neither --ready-timeout nor, with --on-timeout=run, the command."""
    t.grant("watch")
    dns = {"dnsPolicy": "None", "dnsConfig": "{nameservers: [127.0.0.1], options: [{name: timeout, value: '25'}, {name: attempts, value: '1'}]}"}
    silent = container("dns", "python", args=["-c", SILENT])
    # It ends with its Pod.
    flags = ("--wait-http-get=http://sidecar.example:9901/ready", "--ready-timeout=3s", "--ignore=dns")
    t.apply(pod("refused", ENVOY, silent, main("echo never", *flags), terminationGracePeriodSeconds="1", **dns))
    t.apply(pod("run", ENVOY, silent, main("exit 4", *flags, "--on-timeout=run"), terminationGracePeriodSeconds="1", **dns))
    for name, code in [("refused", 75), ("run", 4)]:
        found = t.pod(name, lambda pod: pod.container("main").ended and pod.container("envoy").ended)
        assert (found.container("main").exit_code, found.container("envoy").exit_code) == (code, 0), found
        lived = (found.container("main").finished_at - found.container("main").started_at).total_seconds()
        assert lived <= 22, f"{name} lived {lived}s, and the look-up takes 25s"
    assert "sidecar.example" in t.pod("refused", lambda pod: True).container("main").message


# What proa tells of itself


@scenario
def a_status_that_kubernetes_asks_for(t):
    """/readyz makes main ready exactly while the command runs, /livez keeps it alive, and /metrics tells the rest."""
    t.grant("watch")
    probes = (
        "readinessProbe: {periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 1, httpGet: {path: /readyz, port: 9400}}\n"
        "livenessProbe: {periodSeconds: 1, timeoutSeconds: 20, initialDelaySeconds: 1, httpGet: {path: /livez, port: 9400}}\n"
    )
    until = "until [ -e /state/{0} ]; do sleep 0.1; done"
    command = main(f"echo working; {until.format('done')}; exit 3", "--status-address=0.0.0.0:9400", more=probes + MOUNT)
    scraper = shell("scraper", until.format("over"), f"{READY_FILE}\n{MOUNT}")
    t.apply(pod("told", command, scraper, volumes=STATE))

    def asked(path):
        found = t.exec("told", "scraper", "wget", "-qO-", f"http://localhost:9400{path}")
        return found.stdout if found.returncode == 0 else found.stderr

    def metric(name):
        lines = [line for line in asked("/metrics").splitlines() if line.startswith(name)]
        return [line.rpartition(" ")[2] for line in lines]

    t.logged("told", "main", "waiting for scraper (running")
    assert metric("proa_command_running") == ["0"] and "503" in asked("/readyz"), (asked("/metrics"), asked("/readyz"))
    t.touch("told", "scraper", "/tmp/ready")
    found = t.pod("told", lambda pod: pod.container("main").ready)
    assert found.container("main").running, found
    assert metric("proa_command_running") == ["1"], asked("/metrics")
    assert "working" in t.logs("told", "main")
    t.touch("told", "scraper", "/state/done")
    # The command has ended, and proa waits for the scraper.
    t.logged("told", "main", "command ended")
    t.pod("told", lambda pod: not pod.container("main").ready and pod.container("main").running)
    assert metric("proa_command_running") == ["0"], asked("/metrics")
    t.touch("told", "scraper", "/state/over")
    found = t.finished("told")
    assert found.exit_codes() == {"main": 3, "scraper": 0} and found.container("main").restarts == 0, found
