"""Parts that many scenarios' manifests share, each a container at the indentation of a Pod's list."""

import json
import textwrap

ENVOY_ADMIN = "{admin: {address: {socket_address: {address: 0.0.0.0, port_value: 9901}}}}"

# The usual sidecar: real Envoy, which is ready when its admin endpoint says so and ends on POST /quitquitquit. By default a probe
# that takes more than a second counts as failed, as it may on a busy machine.
ENVOY = f"""
- name: envoy
  image: envoy
  args: [--log-level, error, --config-yaml, "{ENVOY_ADMIN}"]
  readinessProbe: {{periodSeconds: 1, timeoutSeconds: 10, httpGet: {{path: /ready, port: 9901}}}}
"""

QUIT = "--shutdown-http-post=http://localhost:9901/quitquitquit"


def pod(name, *containers, annotations="{}", **spec):
    """A Pod of these containers. `spec` is YAML for further fields; restartPolicy is Never unless given."""
    fields = {"restartPolicy": "Never", **spec}
    lines = [f"  {field}: {value}" for field, value in fields.items()]
    head = f"apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, annotations: {annotations}}}\nspec:"
    return "\n".join([head, *lines, "  containers:", *map(_item, containers)])


def job(name, *containers, backoff=0, annotations="{}", **spec):
    """A Job around such a Pod."""
    fields = {"restartPolicy": "Never", **spec}
    template = "\n".join([*(f"{field}: {value}" for field, value in fields.items()), "containers:", *map(_item, containers)])
    head = f"""
apiVersion: batch/v1
kind: Job
metadata: {{name: {name}}}
spec:
  backoffLimit: {backoff}
  template:
    metadata: {{annotations: {annotations}}}
    spec:
"""
    return head + textwrap.indent(template, "      ")


def main(script, *flags, image="app", name="main", more=""):
    """The container that proa is the entrypoint of: `flags` for it, a shell script as its command."""
    return container(name, image, args=[*flags, "--", "sh", "-c", script], more=more)


def container(name, image, command=None, args=None, more=""):
    """A container; `more` is YAML for further fields, one a line."""
    lines = [f"- name: {name}", f"  image: {image}"]
    lines += [f"  command: {_words(command)}"] if command else []
    lines += [f"  args: {_words(args)}"] if args else []
    lines += [f"  {line}" for line in more.strip().splitlines()]
    return "\n".join(lines)


def shell(name, script, more=""):
    """A busybox container that runs a script. Without a trap, PID 1 ignores SIGTERM."""
    return container(name, "busybox", command=["sh", "-c", script], more=more)


def late(sidecar, seconds):
    """A sidecar with a readiness probe every second that cannot be ready for so long after its start."""
    assert "{periodSeconds: 1," in sidecar, sidecar
    return sidecar.replace("{periodSeconds: 1,", f"{{periodSeconds: 1, initialDelaySeconds: {seconds},")


def before(*containers):
    """These containers as a Pod's `initContainers`; one with `restartPolicy: Always` is a native sidecar."""
    return "\n" + "\n".join(map(_item, containers))


def _words(words):
    # Kubernetes reads `$$` in a command as an escaped `$`.
    return json.dumps([word.replace("$$", "$$$$") for word in words])


def _item(text):
    return textwrap.indent(textwrap.dedent(text).strip("\n"), "  ")


# Ready once /tmp/ready is there; ends with 0 when asked to.
READY_FILE = "readinessProbe: {periodSeconds: 1, timeoutSeconds: 10, exec: {command: [test, -e, /tmp/ready]}}"
UNTIL_TERM = "trap 'echo asked to stop; exit 0' TERM; echo up; while :; do sleep 0.1; done"

# A volume that outlives containers and that all of them see.
STATE = "[{name: state, emptyDir: {}}]"
MOUNT = "volumeMounts: [{name: state, mountPath: /state}]"
