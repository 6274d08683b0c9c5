"""The command line of `e2e/run`."""

import argparse
import importlib
import os
import pkgutil
import subprocess
import sys

from onenode import choice
from onenode.layout import E2E

from . import plugin, scenario, scenarios, soak
from .images import Images
from .kube import Kubectl
from .runner import Runner


def main(argv):
    parser = argparse.ArgumentParser(
        prog="e2e/run",
        description="Run the end-to-end scenarios against KUBECONFIG, else against the cluster of e2e/cluster.",
    )
    add = parser.add_argument
    add("pattern", nargs="*", help="run only scenarios whose name or promise contains one of these")
    add("--list", action="store_true", help="list the scenarios and end")
    jobs = min(6, 2 * (os.cpu_count() or 1))
    add("--jobs", type=int, default=jobs, metavar="N", help=f"how many run side by side (default: {jobs})")
    add("--repeat", type=int, default=1, metavar="N", help="run each N times")
    add("--soak", type=int, metavar="N", help="run N Pods in batches instead, each with an exit code of its own")
    add("--proa", default=os.environ.get("PROA_BINARY"), metavar="PATH", help="the static binary (default: build it)")
    choice.add_all(add)
    add("--artefacts", default=E2E / "artefacts", metavar="DIR", help="where failures leave their logs and manifests")
    add("--keep", action="store_true", help="leave the namespaces in the cluster")
    arguments = parser.parse_args(argv)

    for module in pkgutil.iter_modules(scenarios.__path__):
        importlib.import_module(f"{scenarios.__name__}.{module.name}")
    chosen = [
        found
        for found in scenario.ALL
        if not arguments.pattern or any(pattern in found.name or pattern in found.promise for pattern in arguments.pattern)
    ]
    if arguments.soak:
        chosen = soak.batches(arguments.soak)
    if arguments.list:
        for found in chosen:
            print(f"{found.name:45} {found.promise}")
        return 0
    if not chosen:
        sys.exit("error: no scenario has such a name or promise; `e2e/run --list` lists them")

    if "KUBECONFIG" not in os.environ:
        subprocess.run([E2E / "cluster", "up", *choice.Choice.of(arguments).flags()], check=True, stdout=sys.stderr)
    kubectl = Kubectl.of_environment()
    images = Images(kubectl, arguments.proa)
    if not arguments.pattern and not arguments.soak:
        # All will be needed: what is compiled and packed beside scenarios takes the time that these allow for.
        images.bring_all()
        plugin.binary()
    runner = Runner(kubectl, images, arguments.artefacts, arguments.keep)
    results = runner.run(chosen * arguments.repeat, arguments.jobs)

    count = {outcome: sum(result.outcome == outcome for result in results) for outcome in ("ok", "FAIL", "skip")}
    if count["FAIL"]:
        print(f"\nlogs, events and YAML of the failures are in {arguments.artefacts}")
    print(f"\n{count['ok']} passed, {count['FAIL']} failed, {count['skip']} skipped")
    return 1 if count["FAIL"] else 0
