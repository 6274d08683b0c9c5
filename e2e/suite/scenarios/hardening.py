"""The image as it is shipped, under the strictest settings a platform team would try."""

from suite.pieces import ENVOY, ENVOY_ADMIN, MOUNT, QUIT, STATE, before, container, main, pod, shell
from suite.scenario import in_order, scenario

STRICT = """
resources: {requests: {cpu: 50m, memory: 16Mi}, limits: {cpu: 50m, memory: 16Mi}}
securityContext:
  runAsNonRoot: true
  readOnlyRootFilesystem: true
  allowPrivilegeEscalation: false
  capabilities: {drop: [ALL]}
  seccompProfile: {type: RuntimeDefault}
"""


def restricted(*more, user=54321):
    """What the Pod Security Standard `restricted` asks of a container, with a user that no image knows and nothing to write to."""
    context = f"""
securityContext:
  runAsNonRoot: true
  runAsUser: {user}
  runAsGroup: {user}
  readOnlyRootFilesystem: true
  allowPrivilegeEscalation: false
  capabilities: {{drop: [ALL]}}
  seccompProfile: {{type: RuntimeDefault}}
"""
    return "\n".join([context.strip(), *more])


def envoy(user=54321):
    more = restricted("readinessProbe: {periodSeconds: 1, httpGet: {path: /ready, port: 9901}}", user=user)
    return container("envoy", "envoy", args=["--log-level", "info", "--config-yaml", ENVOY_ADMIN], more=more)


def enforce(t):
    """From here on the API server refuses every other Pod in the namespace."""
    t.kubectl("label", "namespace", t.namespace, "pod-security.kubernetes.io/enforce=restricted")
    refused = t.kubectl.run("run", "usual", "--image=usual", "--restart=Never")
    assert refused.returncode != 0 and "violates PodSecurity" in refused.stderr, refused


@scenario
def a_main_container_and_a_wrapped_sidecar_where_restricted_is_enforced(t):
    """Where `restricted` is enforced, `proa --` and `proa sidecar --` work, each as another user."""
    enforce(t)
    t.grant("watch")
    loop = "while :; do sleep 0.5; done"
    web = container("web", "app", args=["sidecar", "--", "sh", "-c", loop], more=restricted(user=54322))
    t.apply(pod("wrapped", web, main("id -u; sleep 1; exit 3", QUIT, more=restricted()), envoy(54323)))
    found = t.finished("wrapped", seconds=90)
    assert found.exit_codes() == {"web": 0, "main": 3, "envoy": 0}, found
    assert "54321" in t.logs("wrapped", "main").split()
    # By its presence, whichever user it runs as: no API server was asked.
    assert "the main container's proa asks this sidecar to stop" in t.logs("wrapped", "web")


@scenario
def a_wait_where_restricted_is_enforced(t):
    """Where `restricted` is enforced, `proa wait` as the last init container holds main back until Envoy is ready."""
    enforce(t)
    native = envoy() + "\n  restartPolicy: Always"
    wait = container("wait", "proa", args=["wait", "--api=off", "--wait-known=envoy"], more=restricted(user=54322))
    run = shell("main", "wget -qO- localhost:9901/ready; exit 3", restricted(user=54323))
    t.apply(pod("waited", run, initContainers=before(native, wait)))
    assert t.finished("waited", seconds=90).exit_codes()["main"] == 3
    assert "LIVE" in t.logs("waited", "main")


@scenario
def a_helper_where_restricted_is_enforced(t):
    """Where `restricted` is enforced, the helper writes its ready file and shuts Envoy down after main."""
    enforce(t)
    t.grant("watch")
    flags = ["sidecar", "--wait-for=envoy", "--ready-file=/state/ready"]
    helper = container("helper", "proa", args=flags, more=restricted(MOUNT, user=54322))
    run = shell("main", "until [ -e /state/ready ]; do sleep 0.1; done; exit 3", restricted(MOUNT))
    t.apply(pod("helped", envoy(54323), helper, run, volumes=STATE))
    assert t.finished("helped", seconds=90).exit_codes() == {"envoy": 0, "helper": 0, "main": 3}


@scenario
def a_hook_where_restricted_is_enforced(t):
    """Where `restricted` is enforced, `proa install` brings proa to a volume, and `proa quit` runs from there as a preStop hook."""
    enforce(t)
    install = container("install", "proa", args=["install", "/state/"], more=restricted(MOUNT, user=54322))
    command = '[/state/proa, quit, --api=off, --shutdown-known=envoy, --shutdown-timeout=10s]'
    hook = f"lifecycle: {{preStop: {{exec: {{command: {command}}}}}}}"
    script = "trap 'echo asked to stop; exit 0' TERM; echo up; while :; do sleep 0.1; done"
    t.apply(pod("hooked", shell("main", script, restricted(MOUNT, hook)), envoy(54323), initContainers=before(install), volumes=STATE))
    t.pod("hooked", lambda pod: pod.container("envoy").ready and pod.container("main").running, seconds=90)
    followed = t.follow("hooked")
    t.delete("hooked")
    last = t.gone("hooked")
    assert last.exit_codes() == {"main": 0, "envoy": 0}, last
    in_order(followed(), "exiting", "main: asked to stop")


@scenario
def the_empty_image_under_strict_settings(t):
    """The static binary runs in an empty image: not root, read-only, no capabilities, 16Mi and 50m."""
    t.grant("watch")
    # The one program that an empty image has to run is proa itself.
    t.apply(pod("strict", ENVOY, container("main", "proa", args=[QUIT, "--", "/proa", "--version"], more=STRICT)))
    found = t.finished("strict", seconds=90)
    assert found.exit_codes() == {"envoy": 0, "main": 0}, found
    assert "proa " in t.logs("strict", "main")


@scenario
def a_wrapped_sidecar_under_strict_settings(t):
    """A wrapped sidecar, which watches its Pod all the time, does with as little: not root, read-only, no capabilities, 16Mi."""
    t.grant("watch")
    strict = STRICT.strip() + "\n  runAsUser: 65532"
    web = container("web", "app", args=["sidecar", "--hold-term", "--", "sh", "-c", "while :; do sleep 0.5; done"], more=strict)
    t.apply(pod("strict", web, container("main", "app", args=["--", "sh", "-c", "sleep 5; exit 3"], more=strict)))
    found = t.finished("strict", seconds=90)
    assert found.exit_codes() == {"web": 0, "main": 3}, found


@scenario
def a_user_without_a_name(t):
    """Any user ID will do, and its failures reach the termination message."""
    more = "securityContext: {runAsUser: 54321, runAsGroup: 54321}"
    t.apply(pod("nameless", main("echo never", more=more)))
    main_ = t.finished("nameless").container("main")
    assert main_.exit_code == 77 and "verbs" in main_.message, main_


@scenario
def wrong_usage_is_told_to_whoever_describes_the_pod(t):
    """A mistyped flag is in the termination message, with 2."""
    t.apply(pod("mistyped", container("main", "app", args=["--redy-timeout=5m", "--", "true"])))
    main_ = t.finished("mistyped").container("main")
    assert main_.exit_code == 2 and "--redy-timeout" in main_.message, main_


@scenario
def a_program_for_another_machine(t):
    """A program built for another machine is not executable (126), not a garbled script."""
    t.grant("watch")
    # An ELF header of a machine that does not exist.
    script = r"printf '\177ELF\002\001\001\000\000\000\000\000\000\000\000\000\002\000\377\377' > /state/program; chmod +x /state/program"
    init = "[{name: build, image: busybox, command: [sh, -c, " + repr(script) + "], volumeMounts: [{name: state, mountPath: /state}]}]"
    t.apply(pod("foreign", container("main", "app", args=["--", "/state/program"], more="volumeMounts: [{name: state, mountPath: /state}]"), initContainers=init, volumes="[{name: state, emptyDir: {}}]"))
    main_ = t.finished("foreign").container("main")
    assert main_.exit_code == 126 and "cannot run `/state/program`" in main_.message, main_
