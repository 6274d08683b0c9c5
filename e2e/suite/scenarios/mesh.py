"""A transparent mesh: all traffic of the Pod goes through Envoy, the API server's included."""

from datetime import datetime

from suite.pieces import MOUNT, QUIT, UNTIL_TERM, before, container, main, pod, shell
from suite.scenario import in_order, scenario

# As Istio and Linkerd set it up: everything that leaves the Pod is redirected, but the proxy's own traffic (by its
# user) and the loopback interface. Until Envoy listens, and after it has quit, every connection is refused.
RULES = """
iptables -t nat -A OUTPUT -m owner --uid-owner 1337 -j RETURN
iptables -t nat -A OUTPUT -o lo -j RETURN
iptables -t nat -A OUTPUT -d 127.0.0.1/32 -j RETURN
iptables -t nat -A OUTPUT -p tcp -j REDIRECT --to-ports 15001
""".strip().replace("\n", " && ")

CONFIG = """
admin: {address: {socket_address: {address: 0.0.0.0, port_value: 9901}}}
static_resources:
  listeners:
  - name: outbound
    address: {socket_address: {address: 0.0.0.0, port_value: 15001}}
    listener_filters:
    - name: envoy.filters.listener.original_dst
      typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst}
    filter_chains:
    - filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: out, cluster: original}
  clusters:
  - {name: original, type: ORIGINAL_DST, connect_timeout: 5s, lb_policy: CLUSTER_PROVIDED}
"""


def meshed(name, delay, script, *others, flags=(QUIT,), native=False, **spec):
    """A meshed Pod whose proxy takes this many seconds before it even starts; `native`: as a native sidecar."""
    indented = CONFIG.strip().replace("\n", "\n      ")
    proxy = f"""
- name: proxy
  image: envoy
  securityContext: {{runAsUser: 1337}}
  command: [/tools/busybox, sh, -c, 'sleep {delay}; exec /bin/envoy --log-level info --config-yaml "$CONFIG"']
  env:
  - name: CONFIG
    value: |
      {indented}
  readinessProbe: {{periodSeconds: 1, httpGet: {{path: /ready, port: 9901}}}}
  volumeMounts: [{{name: tools, mountPath: /tools}}]
"""
    tools = container("tools", "busybox", command=["cp", "/bin/busybox", "/tools/"], more="volumeMounts: [{name: tools, mountPath: /tools}]")
    rules = container("rules", "iptables", command=["sh", "-c", RULES], more="securityContext: {privileged: true}")
    command = main(script, *flags, more=MOUNT)
    volumes = "[{name: tools, emptyDir: {}}, {name: state, emptyDir: {}}]"
    if native:
        proxy = proxy.rstrip() + "\n  restartPolicy: Always\n"
        return pod(name, command, *others, initContainers=before(tools, rules, proxy), volumes=volumes, **spec)
    return pod(name, proxy, command, *others, initContainers=before(tools, rules), volumes=volumes, **spec)


def at(lines, text):
    """The time of the first line with this text, in seconds."""
    line = next(line for line in lines if text in str(line))
    seconds, fraction = line.at
    return datetime.fromisoformat(seconds + "+00:00").timestamp() + float("0." + fraction)


def _measure(t, delay):
    name = f"meshed-{delay}"
    t.apply(meshed(name, delay, "echo working; sleep 2; exit 5"))
    found = t.finished(name, seconds=90)
    assert found.exit_codes() == {"proxy": 0, "main": 5}, found
    lines = t.timeline(name)
    in_order(lines, "starting workers", "main: working")
    in_order(lines, "starting workers", "gate open", "quitquitquit: 200", "exit code=5")
    first = next(line for line in lines if line.container == "main")
    life = at(lines, "exit code=5") - at(lines, str(first))
    # Until Envoy serves, plus its readiness probe's period, plus the command.
    start_up = max(at(lines, "starting workers") - at(lines, str(first)), 0) + 1
    bound = start_up + 2 + 2
    assert life <= bound, f"main lived {life:.3f}s, start-up took {start_up:.3f}s\n" + "\n".join(map(str, lines))
    # The container's own life, of which the kubelet tells whole seconds: no wait hides behind the last line.
    main_ = found.container("main")
    reported = (main_.finished_at - main_.started_at).total_seconds()
    assert reported <= bound + 1, f"the kubelet says {reported}s, allowed are {bound:.3f}s"


@scenario
def a_mesh_that_is_up_at_once(t):
    """In a transparent mesh main lives at most 2s longer than the proxy's start-up and the command: quick start-up."""
    t.grant("watch")
    _measure(t, 0)


@scenario
def a_mesh_that_takes_its_time(t):
    """In a transparent mesh main lives at most 2s longer than the proxy's start-up and the command: slow start-up."""
    t.grant("watch")
    _measure(t, 7)


@scenario
def a_mesh_whose_proxy_is_a_native_sidecar(t):
    """In a mesh whose proxy is a native sidecar the command starts with a network, and the proxy outlives it."""
    t.grant("watch")
    # Reaches the API server through the proxy, or fails.
    script = "nc -w 2 $KUBERNETES_SERVICE_HOST 443 < /dev/null && echo through; exit 5"
    t.apply(meshed("native", 3, script, flags=(), native=True))
    found = t.finished("native", seconds=90)
    assert found.exit_codes() == {"main": 5}, found
    assert found.container("proxy").restarts == 0, found
    lines = t.timeline("native")
    in_order(lines, "starting workers", "main: through")
    # The end of an API server that is still there is not waited for.
    assert at(lines, "exit code=5") - at(lines, "command ended") <= 1, "\n".join(map(str, lines))


@scenario
def a_mesh_with_another_sidecar_that_lingers(t):
    """In a mesh a sidecar that outlives the proxy cannot be seen any more, so main does not wait for it."""
    t.grant("watch")
    lingers = shell("log", "touch /tmp/ready; until [ -e /state/over ]; do sleep 0.1; done; sleep 8", MOUNT)
    t.apply(meshed("lingering", 0, "touch /state/over; exit 5", lingers))
    found = t.finished("lingering", seconds=90)
    assert found.exit_codes() == {"proxy": 0, "main": 5, "log": 0}, found
    lines = t.timeline("lingering")
    assert at(lines, "exit code=5") - at(lines, "command ended") <= 2, "\n".join(map(str, lines))


@scenario
def a_retry_inside_a_mesh(t):
    """In a mesh a command that fails first finds the proxy still there on its retry, which ends it."""
    t.grant("watch")
    script = "nc -w 2 $KUBERNETES_SERVICE_HOST 443 < /dev/null || exit 99; [ -e /state/tried ] && exit 0; touch /state/tried; exit 1"
    t.apply(meshed("retried", 1, script, restartPolicy="OnFailure"))
    found = t.finished("retried", seconds=90)
    assert found.exit_codes() == {"proxy": 0, "main": 0}, found
    assert (found.container("main").restarts, found.container("proxy").restarts) == (1, 0), found
    assert found.container("main").previous["exitCode"] == 1, found


@scenario
def a_mesh_that_never_comes_up(t):
    """In a mesh whose proxy never comes up the API cannot be asked: a deletion still ends the wait, time does too."""
    t.grant("watch")
    for name, flags in [("deleted", ()), ("overdue", ("--ready-timeout=4s", "--shutdown-timeout=1s"))]:
        t.apply(meshed(name, 3600, "echo never", flags=flags, terminationGracePeriodSeconds="5"))
    main_ = t.pod("overdue", lambda pod: pod.container("main").ended).container("main")
    assert main_.exit_code == 75 and "cannot be reached" in main_.message, main_
    t.logged("deleted", "main", "waiting for the API server")
    t.delete("deleted")
    last = t.gone("deleted").container("main")
    # Not SIGKILL at the end of the grace period, which the proxy's shell needs.
    assert last.exit_code == 143, last
