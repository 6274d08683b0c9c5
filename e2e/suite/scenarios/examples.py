"""The examples do what they say, as they are, images aside."""

import json

from onenode import wait
from onenode.layout import E2E
from suite.observed import Job
from suite.pieces import container, pod
from suite.scenario import in_order, opened_after, said_at, scenario

EXAMPLES = E2E.parent / "examples"


@scenario
def the_readmes_job(t):
    """examples/job.yaml, which README and demo show, completes."""
    t.apply((EXAMPLES / "job.yaml").read_text())
    assert t.job("proa-example").complete
    found = t.pod_of("proa-example", lambda pod: pod.finished)
    assert found.exit_codes() == {"greeter": 0, "main": 0}, found
    opened_after(t, found, "greeter", 3)
    in_order(t.timeline(found.name), "gate open", "every sidecar has exited", "exit with code 0")
    assert "the sidecar says: hello from the sidecar" in t.logs(found.name, "main")


@scenario
def the_native_example(t):
    """examples/native.yaml completes: the command starts once the native sidecar is ready, and the kubelet ends that."""
    t.apply((EXAMPLES / "native.yaml").read_text())
    assert t.job("native").complete
    found = t.pod_of("native", lambda pod: pod.finished)
    assert found.exit_codes() == {"main": 0} and found.container("greeter").restarts == 0, found
    opened_after(t, found, "greeter", 3)
    in_order(t.timeline(found.name), "gate open", "exit with code 0", "stopping the command with SIGTERM")
    assert "the sidecar says: hello from the sidecar" in t.logs(found.name, "main")
    assert "quitquitquit" not in t.logs(found.name, "main")


@scenario
def the_distroless_example_with_an_istio_style_proxy(t):
    """examples/distroless-istio.yaml completes: without a shell, and the proxy is ended at localhost:15020/quitquitquit."""
    t.apply((EXAMPLES / "distroless-istio.yaml").read_text())
    assert t.job("distroless-istio").complete
    found = t.pod_of("distroless-istio", lambda pod: pod.finished)
    assert found.exit_codes() == {"main": 0, "istio-proxy": 0}, found
    in_order(t.timeline(found.name), "gate open", "POST http://localhost:15020/quitquitquit: 200", "every sidecar has exited", "exit with code 0")
    assert "the sidecar says: hello through the proxy" in t.logs(found.name, "main")


@scenario
def the_helper_example(t):
    """examples/helper.yaml completes: two plain scripts start when Envoy is ready, and Envoy ends after both."""
    t.apply((EXAMPLES / "helper.yaml").read_text())
    assert t.job("helper").complete
    found = t.pod_of("helper", lambda pod: pod.finished)
    assert found.exit_codes() == {"first": 0, "second": 0, "helper": 0, "envoy": 0}, found
    lines = t.timeline(found.name)
    in_order(lines, "wrote /ready/envoy", "second: Envoy is LIVE", "main containers have exited", "quitquitquit: 200")
    assert "first: Envoy is LIVE" in t.logs(found.name, "first")
    assert t.ends(found.name)[0] == "first", t.ends(found.name)


@scenario
def the_example_that_installs_proa(t):
    """examples/install.yaml completes: an init container copies proa beside an untouched image, which runs under it."""
    t.apply((EXAMPLES / "install.yaml").read_text())
    assert t.job("install").complete
    found = t.pod_of("install", lambda pod: pod.finished)
    assert found.exit_codes() == {"main": 0, "envoy": 0}, found
    assert "is at /proa-bin/proa" in t.logs(found.name, "install-proa")
    assert "LIVE" in t.logs(found.name, "main")
    in_order(t.timeline(found.name), "gate open", "quitquitquit: 200", "exit with code 0")


@scenario
def the_example_that_mounts_proa(t):
    """examples/install-image-volume.yaml is accepted, and completes where the node's runtime can mount images."""
    example = (EXAMPLES / "install-image-volume.yaml").read_text()
    (node, *_) = json.loads(t.kubectl("get", "nodes", "-o", "json"))["items"]
    name, _, version = node["status"]["nodeInfo"]["containerRuntimeVersion"].partition("://")
    if name == "containerd" and [int(part) for part in version.split(".")[:2]] < [2, 1]:
        # It ignores the image, and finds a mount without a source. The API server knows better.
        t.kubectl("apply", "--dry-run=server", "-f", "-", stdin=t.images.resolve(example))
        return
    t.apply(example)
    assert t.job("install-image-volume").complete
    found = t.pod_of("install-image-volume", lambda pod: pod.finished)
    assert found.exit_codes() == {"main": 0, "envoy": 0}, found


@scenario
def the_example_with_a_wrapped_nginx(t):
    """examples/wrapped-nginx.yaml completes: nginx, which has no quit endpoint, ends with 0 under `proa sidecar`."""
    t.apply((EXAMPLES / "wrapped-nginx.yaml").read_text())
    assert t.job("wrapped-nginx").complete
    found = t.pod_of("wrapped-nginx", lambda pod: pod.finished)
    assert found.exit_codes() == {"main": 0, "nginx": 0}, found
    assert "hello from nginx" in t.logs(found.name, "main")
    lines = t.timeline(found.name)
    assert said_at(lines, "main", "command ended") < said_at(lines, "nginx", "stopping the command with SIGQUIT")
    in_order(lines, "gate open", "every sidecar has exited", "exit with code 0")


@scenario
def the_example_with_a_signal(t):
    """examples/kill.yaml completes: nginx is ended by SIGQUIT in the shared process namespace."""
    t.apply((EXAMPLES / "kill.yaml").read_text())
    assert t.job("kill").complete
    found = t.pod_of("kill", lambda pod: pod.finished)
    assert found.exit_codes() == {"main": 0, "nginx": 0}, found
    assert "hello from nginx" in t.logs(found.name, "main")
    in_order(t.timeline(found.name), "gate open", "SIGQUIT to processes named `nginx`", "every sidecar has exited", "exit with code 0")


@scenario
def the_cron_jobs_example(t):
    """examples/cronjob.yaml: a Job made by hand completes, and so do those that its schedule makes, one after the other."""
    t.apply((EXAMPLES / "cronjob.yaml").read_text())
    t.kubectl("create", "job", "by-hand", "--from=cronjob/cronjob")
    assert t.job("by-hand").complete
    found = t.pod_of("by-hand", lambda pod: pod.finished)
    assert found.exit_codes() == {"main": 0, "envoy": 0}, found
    assert "LIVE" in t.logs(found.name, "main").splitlines()
    # What cron makes of it is the same in a minute as in a night.
    t.kubectl("patch", "cronjob", "cronjob", "--type=merge", "-p", '{"spec": {"schedule": "* * * * *"}}')

    def complete():
        jobs = json.loads(t.kubectl("get", "jobs", "-o", "json"))["items"]
        made = [job for job in map(Job, jobs) if job.name != "by-hand"]
        return len(made) >= 2 and all(job.complete for job in made)

    # With concurrencyPolicy: Forbid there is no second before the first is over.
    wait.until("the second Job of the schedule to complete", complete, 300, every=1)


# A repository whose daemon starts when told to, so that there is a time before the first clone.
SERVE = """
git init -q --bare -b main /srv/site.git
commit() {
  echo "$1" > index.html
  git add . && git -c user.name=author -c user.email=author@example.com commit -q -m "$1" && git push -q origin HEAD:main
}
git clone -q /srv/site.git /tmp/work && cd /tmp/work && commit first
until [ -e /tmp/serve ]; do sleep 0.1; done
git daemon --export-all --base-path=/srv &
until [ -e /tmp/commit ]; do sleep 0.1; done
commit second
wait
"""


@scenario
def the_example_that_serves_from_git(t):
    """examples/git-site.yaml: served after the first clone, a commit shows within a minute, and the server ends before the sidecar."""
    t.apply(pod("repository", container("git", "git", command=["sh", "-c", SERVE]), terminationGracePeriodSeconds="1"))
    address = t.pod("repository", lambda pod: pod.container("git").running).status["podIP"]
    t.kubectl("create", "configmap", "git-site", f"--from-literal=repository=git://{address}/site.git")
    t.apply((EXAMPLES / "git-site.yaml").read_text())
    first = t.pod_by_label("app=git-site")
    t.logged(first, "web", "waiting for git (running, not ready)")
    # It is a while before anything changes, so a server that did not wait would be seen.
    t.logged(first, "git", "fatal: ")
    assert "command started" not in t.logs(first, "web")
    t.touch("repository", "git", "/tmp/serve")

    def page():
        # The API server asks one of the Service's Pods by itself, which needs no kube-proxy.
        return t.kubectl("get", "--raw", f"/api/v1/namespaces/{t.namespace}/services/git-site:80/proxy/").strip()

    wait.until("the first page", lambda: page() == "first", 60, every=0.5)
    in_order([line for line in t.timeline(first) if line.container == "web"], "waiting for git", "gate open", "command started")
    t.touch("repository", "git", "/tmp/commit")
    wait.until("the second page", lambda: page() == "second", 60, every=0.5)

    followed = t.follow(first)
    t.kubectl("rollout", "restart", "deployment/git-site")
    # The old Pod is ended only once the new one serves; it may take a moment until it is asked no more.
    t.pod(first, lambda pod: pod.deleting)
    wait.until("the page of the new Pod", lambda: page() == "second", 60)
    _web_ends_first(followed, t.gone(first))
    second = t.pod_by_label("app=git-site")
    t.pod(second, lambda pod: pod.container("web").ready and pod.container("git").ready)
    followed = t.follow(second)
    t.logged(second, "git", "running until the exit of")
    t.delete(second)
    _web_ends_first(followed, t.gone(second))


def _web_ends_first(followed, last):
    lines = followed()
    # By their own clocks, which are one: two containers' lines have no order within milliseconds.
    ended, asked = said_at(lines, "web", "command ended"), said_at(lines, "git", "stopping the command with SIGTERM")
    assert said_at(lines, "git", "held back until the proa of `web` is gone") < asked and ended < asked, "\n".join(map(str, lines))
    assert last.exit_codes() == {"web": 143, "git": 0}, last
