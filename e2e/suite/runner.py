"""Runs scenarios: each in a namespace of its own, side by side, one line each, and keeps what a failure leaves."""

import json
import shutil
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from onenode import layout, wait
from onenode.choice import Choice

from .scenario import T


@dataclass
class Result:
    scenario: object
    seconds: float
    outcome: str
    why: str = ""


def _release(text):
    """`1.36` as what can be compared; nothing is older than all."""
    return tuple(int(part) for part in text.split(".") if part)


class Runner:
    def __init__(self, kubectl, images, artefacts, keep=False):
        self.kubectl, self.images, self.artefacts, self.keep = kubectl, images, Path(artefacts), keep
        self.own = kubectl.kubeconfig == str(layout.KUBECONFIG)
        self.run_id = format(time.time_ns() // 1_000_000 % 36**6, "x")
        self.printing = threading.Lock()
        server = json.loads(kubectl("version", "-o", "json"))["serverVersion"]
        # Some providers write `36+`.
        self.release = _release(f"{server['major']}.{server['minor'].rstrip('+')}")

    def run(self, scenarios, jobs):
        """Results in the order in which they came."""
        shutil.rmtree(self.artefacts, ignore_errors=True)
        results = []
        with ThreadPoolExecutor(jobs) as pool:
            numbered = list(enumerate(scenarios))
            together = [pool.submit(self._one, scenario, number) for number, scenario in numbered if not scenario.alone]
            for future in as_completed(together):
                results.append(future.result())
        for number, scenario in numbered:
            if scenario.alone:
                results.append(self._one(scenario, number))
        if self.own and any(result.outcome == "FAIL" for result in results):
            shutil.copytree(layout.LOGS, self.artefacts / "node", dirs_exist_ok=True)
        return results

    def _one(self, scenario, number):
        started = time.monotonic()
        if why := self._skipped(scenario):
            return self._report(Result(scenario, 0, "skip", why))
        name = scenario.name.replace("_", "-")[:40].strip("-")
        t = T(self.kubectl, f"proa-{self.run_id}-{number}-{name}", self.images)
        try:
            self.kubectl("create", "namespace", t.namespace)
            # Pods are refused before the controller manager has made this, which takes its time after a restart of etcd.
            wait.until("the service account", lambda: t.kubectl("get", "serviceaccount", "default"), 90)
            t.begin()
            scenario.function(t)
            result = Result(scenario, time.monotonic() - started, "ok")
        except BaseException as error:  # whatever it is, this scenario failed and the others go on
            result = Result(scenario, time.monotonic() - started, "FAIL", str(error) or repr(error))
            self._save(scenario, t, traceback.format_exc())
        finally:
            t.close()
            if not self.keep:
                self.kubectl.run("delete", "namespace", t.namespace, "--wait=false")
        return self._report(result)

    def _skipped(self, scenario):
        """Why this cluster cannot show it, or None."""
        if scenario.one_node and not self.own:
            return "needs the cluster of e2e/cluster"
        if _release(scenario.since) > self.release:
            return f"needs Kubernetes {scenario.since}"
        if missing := set(scenario.needs.split()) - (set(Choice.load().flags()) if self.own else set()):
            return f"needs the cluster of `e2e/cluster up {' '.join(sorted(missing))}`"
        return None

    def _report(self, result):
        with self.printing:
            why = f"\n      {result.why.replace(chr(10), chr(10) + '      ')}" if result.why else ""
            print(f"{result.outcome:4} {result.seconds:6.1f}s  {result.scenario.promise}{why}", flush=True)
        return result

    def _save(self, scenario, t, trace):
        """What is needed to understand the failure once the cluster is gone. Nothing here may fail the run."""
        folder = self.artefacts / scenario.name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "failure.txt").write_text(trace)
        try:
            for kind in ("pods", "jobs"):
                (folder / f"{kind}.yaml").write_text(t.kubectl("get", kind, "-o", "yaml"))
            (folder / "describe.txt").write_text(t.kubectl("describe", "pods"))
            (folder / "events.txt").write_text(t.kubectl("get", "events", "--sort-by=.metadata.creationTimestamp"))
            for name in list(t.watches["pods"].history):
                snapshots = t.history(name)
                (folder / f"{name}.history.json").write_text(json.dumps([pod.raw for pod in snapshots], indent=1))
                for of in ("initContainers", "containers"):
                    for container in snapshots[-1].spec.get(of, []):
                        for previous in (False, True):
                            if text := t.logs(name, container["name"], previous):
                                suffix = ".previous.log" if previous else ".log"
                                (folder / f"{name}.{container['name']}{suffix}").write_text(text)
        except Exception:
            (folder / "incomplete.txt").write_text(traceback.format_exc())
