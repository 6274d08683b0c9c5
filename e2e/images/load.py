"""How images get to the nodes of a cluster."""

import os
import subprocess
import sys

from onenode import components, wait
from onenode.layout import KUBECONFIG


def into_node(image):
    """Import into the one-node cluster's containerd, unless it is there."""
    if _known(image.reference):
        return
    with open(image.path, "rb") as tar:
        done = components.ctr("images", "import", "-", stdin=tar, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"error: importing {image.path}: {done.stderr}")
    # The kubelet sees an image only once containerd's CRI plugin has noticed it, and marked it so.
    wait.until(f"{image.reference} to be seen by the kubelet", lambda: _known(image.reference), 30)


def _known(reference):
    # Docker's default registry is implied on both sides: containerd completes the name, and the kubelet's as well.
    listed = components.ctr("images", "ls", capture_output=True, text=True, check=True).stdout
    return any(
        line.split()[0].endswith(f"/{reference}") and "io.cri-containerd.image=managed" in line
        for line in listed.splitlines()[1:]
    )


class OneNode:
    """The cluster of e2e/cluster."""

    def bring(self, image):
        into_node(image)
        return image.reference


class Kind:
    """A kind cluster: kind imports into every node."""

    def __init__(self, name):
        self.name = name

    def bring(self, image):
        command = ["kind", "load", "image-archive", str(image.path), "--name", self.name]
        subprocess.run(command, check=True, stdout=sys.stderr)
        return image.reference


class Pushed:
    """Any other cluster pulls from a registry that this machine knows nothing about: pushing is the user's."""

    def __init__(self, prefix):
        self.prefix = prefix.rstrip("/")

    def bring(self, image):
        reference = f"{self.prefix}/{image.reference.split('/', 1)[1]}"
        print(f"needs {reference}: push {image.path} there (a docker-archive)", file=sys.stderr)
        return reference


def target(kubectl):
    """Which of the three it is, from the environment and the current context."""
    if prefix := os.environ.get("IMAGE_PREFIX"):
        return Pushed(prefix)
    if "KUBECONFIG" not in os.environ:
        return OneNode()
    context = kubectl("config", "current-context").strip()
    if context.startswith("kind-"):
        return Kind(context.removeprefix("kind-"))
    if os.environ["KUBECONFIG"] == str(KUBECONFIG):
        return OneNode()
    raise SystemExit(
        f"error: the context `{context}` is no kind cluster; set IMAGE_PREFIX to a registry and folder that its nodes pull "
        "from, and push the images there"
    )
