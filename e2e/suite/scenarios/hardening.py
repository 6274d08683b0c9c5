"""The image as it is shipped, under the strictest settings a platform team would try."""

from suite.pieces import ENVOY, QUIT, READY_FILE, container, main, pod, shell
from suite.scenario import scenario

STRICT = """
resources: {requests: {cpu: 50m, memory: 16Mi}, limits: {cpu: 50m, memory: 16Mi}}
securityContext:
  runAsNonRoot: true
  readOnlyRootFilesystem: true
  allowPrivilegeEscalation: false
  capabilities: {drop: [ALL]}
  seccompProfile: {type: RuntimeDefault}
"""


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
