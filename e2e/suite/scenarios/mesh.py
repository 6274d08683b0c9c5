"""A transparent mesh: all traffic of the Pod goes through Envoy, the API server's included."""

from datetime import datetime

from suite.pieces import QUIT, main, pod
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


def meshed(name, *containers, delay=0, **spec):
    """A meshed Pod of these containers and the proxy, which takes `delay` seconds before it even starts."""
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
    tools = "{name: tools, image: busybox, command: [cp, /bin/busybox, /tools/], volumeMounts: [{name: tools, mountPath: /tools}]}"
    rules = f"{{name: rules, image: iptables, securityContext: {{privileged: true}}, command: [sh, -c, '{RULES}']}}"
    return pod(name, proxy, *containers, initContainers=f"[{tools}, {rules}]", volumes="[{name: tools, emptyDir: {}}]", **spec)


def at(lines, text):
    """The time of the first line with this text, in seconds."""
    line = next(line for line in lines if text in str(line))
    seconds, fraction = line.at
    return datetime.fromisoformat(seconds + "+00:00").timestamp() + float("0." + fraction)


def _measure(t, delay):
    """Up to three times, since a machine that is busy makes a life longer."""
    for attempt in (1, 2, 3):
        life, most, lines = _meshed(t, f"meshed-{delay}-{attempt}", delay)
        if life <= most:
            return
    raise AssertionError(f"main lived {life:.3f}s, {most:.3f}s at most are expected\n" + "\n".join(map(str, lines)))


def _meshed(t, name, delay):
    t.apply(meshed(name, main("echo working; sleep 2; exit 5", QUIT), delay=delay))
    found = t.finished(name, seconds=90)
    assert found.exit_codes() == {"proxy": 0, "main": 5}, found
    lines = t.timeline(name)
    in_order(lines, "starting workers", "main: working")
    in_order(lines, "starting workers", "gate open", "quitquitquit: 200", "exit with code 5")
    first = next(line for line in lines if line.container == "main")
    life = at(lines, "exit with code 5") - at(lines, str(first))
    # Until Envoy serves, plus its readiness probe's period, plus the command.
    start_up = max(at(lines, "starting workers") - at(lines, str(first)), 0) + 1
    return life, start_up + 2 + 2, lines


@scenario(alone=True)
def a_mesh_that_is_up_at_once(t):
    """In a transparent mesh main lives at most 2s longer than the proxy's start-up and the command: quick start-up."""
    t.grant("watch")
    _measure(t, 0)


@scenario(alone=True)
def a_mesh_that_takes_its_time(t):
    """In a transparent mesh main lives at most 2s longer than the proxy's start-up and the command: slow start-up."""
    t.grant("watch")
    _measure(t, 7)
