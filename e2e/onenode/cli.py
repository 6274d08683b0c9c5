"""The commands of `e2e/cluster`."""

import argparse
import fcntl
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from images import archive, catalogue, load

from . import build, choice, components, containerd, install, node, pki, wait
from .choice import Choice
from .layout import E2E, KUBECONFIG, LOGS, STATE


def up(arguments):
    started = time.monotonic()
    install.packages()
    binaries = build.binaries(arguments.kubernetes)
    runtime = build.containerd() if arguments.runtime == "newest" else None
    wanted = Choice.of(arguments)
    if node.init_pid() is not None and (there := Choice.load()) != wanted:
        sys.exit(f"error: found a cluster that is up with {there}, expected {wanted}; `e2e/cluster down` ends it")
    if node.init_pid() is None:
        # What a crash or a reboot left behind.
        node.destroy()
        node.remove_state()
        # Last, since a node with an init is taken for a prepared one.
        pki.create()
        wanted.save()
        (STATE / "binaries").symlink_to(binaries)
        if runtime:
            containerd.PROGRAMS.symlink_to(runtime)
        node.create(binaries, wanted.runtime)
    for name in ("etcd", "containerd", "apiserver"):
        components.start(name)
    # The kubelet would make its first sandbox at once, and needs the image for it.
    components.await_ready("containerd")
    load.into_node(catalogue.pause())
    # The controller manager gives up when its first request is forbidden; a ready API server has created the default roles.
    components.await_ready("apiserver")
    for name in components.ALL:
        components.start(name)
    for name in components.ALL:
        components.await_ready(name)
    wait.until("the node to be usable", components.node_usable, 60)
    wait.until("the default service account", components.service_account_exists, 60)
    print(f"up after {time.monotonic() - started:.1f}s", file=sys.stderr)
    print(KUBECONFIG)


def down(arguments):
    node.destroy()
    kept = None
    if arguments.keep_logs and LOGS.exists():
        kept = Path(arguments.keep_logs)
        shutil.copytree(LOGS, kept, dirs_exist_ok=True)
    node.remove_state()
    if found := node.leftovers():
        sys.exit("error: left behind:\n  " + "\n  ".join(found))
    if kept:
        print(f"logs are in {kept}", file=sys.stderr)


def status(_):
    if node.init_pid() is None:
        found = node.leftovers()
        print("down" if not found else "down, but left behind:\n  " + "\n  ".join(found))
        return 1
    broken = 0
    for name, component in components.ALL.items():
        try:
            state = "ready" if node.spawned(name) and component.ready() else "stopped"
        except Exception as error:  # whatever it is, it is why the component is not ready
            state = f"not ready: {error}"
        broken += state != "ready"
        print(f"{name:20} {state}")
    print(f"{'kubeconfig':20} {KUBECONFIG}")
    return 1 if broken else 0


def do_install(arguments):
    install.packages()
    install.envoy()
    install.nginx()
    build.binaries(arguments.kubernetes)
    if arguments.runtime == "newest":
        build.containerd()
    build.sidecars()


def start(arguments):
    for name in arguments.component:
        components.start(name)
    for name in arguments.component:
        components.await_ready(name)


def stop(arguments):
    for name in arguments.component:
        node.stop(name, now=arguments.now)


def restart(arguments):
    stop(arguments)
    start(arguments)


def kubectl(arguments):
    return components.kubectl(*arguments.rest).returncode


def enter(arguments):
    return node.run(arguments.rest or ["bash"]).returncode


def load_images(arguments):
    for path in arguments.archive:
        load.into_node(archive.Archive.of(Path(path)))


def logs(arguments):
    print((LOGS / f"{arguments.component}.log").read_text(errors="replace"), end="")


def main(argv):
    parser = argparse.ArgumentParser(prog="e2e/cluster", description="A one-node Kubernetes on this machine; needs root.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name, function, text, changes=False):
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(function=function, changes=changes)
        return added

    added = command("up", up, "install, compile and start what is missing; prints the path of the kubeconfig", changes=True)
    choice.add_all(added.add_argument)
    added = command("down", down, "end everything and remove every trace of it", changes=True)
    added.add_argument("--keep-logs", metavar="DIR", help="copy the daemons' logs there first")
    command("status", status, "what runs; exit code 0 only if all of it is ready")
    added = command("install", do_install, "install packages and compile, but start nothing", changes=True)
    choice.add_compiled(added.add_argument)
    for name, function, text in (
        ("start", start, "start daemons and wait until they are ready"),
        ("stop", stop, "stop daemons and wait until they are gone"),
        ("restart", restart, "stop, then start"),
    ):
        added = command(name, function, text, changes=True)
        added.add_argument("component", nargs="+", choices=components.ALL)
        if function is not start:
            added.add_argument("--now", action="store_true", help="SIGKILL instead of SIGTERM")
    added = command("logs", logs, "a daemon's log")
    added.add_argument("component", choices=components.ALL)
    added = command("load", load_images, "import docker-archive tars as images")
    added.add_argument("archive", nargs="+")
    for name, function, text in (
        ("kubectl", kubectl, "the cluster's own kubectl, as its administrator"),
        ("enter", enter, "run a command inside the node's namespaces (default: bash)"),
    ):
        command(name, function, text).add_argument("rest", nargs=argparse.REMAINDER)

    arguments = parser.parse_args(argv)
    if os.geteuid() != 0:
        sys.exit("error: root is needed: namespaces, mounts and cgroups")
    # Held by changing commands, so that two at once take turns. The lock is on this directory: it leaves no file.
    with_lock = os.open(E2E, os.O_RDONLY)
    try:
        if arguments.changes:
            fcntl.flock(with_lock, fcntl.LOCK_EX)
        return arguments.function(arguments)
    except (wait.Timeout, wait.Fatal) as error:
        sys.exit(f"error: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"error: {error}")
    finally:
        os.close(with_lock)
