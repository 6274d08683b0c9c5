"""A sidecar whose entrypoint is `proa sidecar` ends with the main container, and well."""

from datetime import datetime

from suite.pieces import ENVOY, MOUNT, READY_FILE, STATE, before, container, job, main, pod, shell
from suite.scenario import in_order, said_at, scenario, seconds_between


def wrapped(script, *flags, name="web", image="app", more=""):
    """A sidecar under proa: `flags` for it, a shell script as its command."""
    return container(name, image, args=["sidecar", *flags, "--", "sh", "-c", script], more=more)


# Ready soon, and ended by SIGTERM, as a program is that does not handle it.
SERVES = "touch /tmp/ready; echo serving; while :; do sleep 0.1; done"
UNTIL = "until [ -e /state/over ]; do sleep 0.1; done"


# In a Job


@scenario
def a_wrapped_sidecar_ends_with_0(t):
    """A sidecar that SIGTERM kills (143) is reported as 0 when main's end ended it: the Job completes, and 0 or 3 is main's."""
    t.grant("watch")
    t.apply(job("work", wrapped(SERVES, more=READY_FILE), main("echo working; sleep 1")))
    t.apply(pod("failing", wrapped(SERVES, more=READY_FILE), main("exit 3")))
    assert t.job("work").complete
    found = t.pod_of("work", lambda pod: pod.finished)
    assert found.exit_codes() == {"web": 0, "main": 0}, found
    lines = t.timeline(found.name)
    in_order(lines, "web: serving", "main: working", "stopping the command with SIGTERM", "command ended: SIGTERM", "every sidecar has exited")
    assert t.finished("failing").exit_codes() == {"web": 0, "main": 3}


@scenario
def a_wrapped_sidecar_that_fails_by_itself(t):
    """A wrapped sidecar that fails by itself keeps its own code: 3 before main may start, which is refused with 69; 4 after it."""
    t.grant("watch")
    t.apply(pod("early", wrapped("sleep 2; exit 3", more=READY_FILE), main("echo never")))
    late = wrapped(f"touch /tmp/ready; {UNTIL}; exit 4", more=f"{READY_FILE}\n{MOUNT}")
    t.apply(pod("late", late, main("touch /state/over; until [ -e /tmp/over ]; do sleep 0.1; done; exit 5", more=MOUNT), volumes=STATE))
    early = t.finished("early")
    assert early.exit_codes() == {"web": 3, "main": 69}, early
    t.pod("late", lambda pod: pod.container("web").ended)
    t.touch("late", "main", "/tmp/over")
    assert t.finished("late").exit_codes() == {"web": 4, "main": 5}
    assert "sidecar `web` ended with exit code 4" in t.logs("late", "main")


@scenario
def a_wrapped_sidecar_that_ends_with_its_own_code_when_asked(t):
    """What a sidecar says when it is asked to stop does not fail the Pod: 7 after its own signal is reported as 0."""
    t.grant("watch")
    script = "trap 'echo draining; exit 7' USR1; touch /tmp/ready; while :; do sleep 0.1; done"
    t.apply(pod("asked", wrapped(script, "--stop-signal=USR1", more=READY_FILE), main("exit 3")))
    assert t.finished("asked").exit_codes() == {"web": 0, "main": 3}
    assert "draining" in t.logs("asked", "web").splitlines()


@scenario
def a_wrapped_sidecar_that_does_not_end(t):
    """A wrapped sidecar that ignores its signal is killed after --stop-timeout, and the Job completes."""
    t.grant("watch")
    script = "trap '' TERM; touch /tmp/ready; while :; do sleep 0.1; done"
    t.apply(job("work", wrapped(script, "--stop-timeout=2s", more=READY_FILE), main("echo working")))
    assert t.job("work").complete
    found = t.pod_of("work", lambda pod: pod.finished)
    assert found.exit_codes() == {"web": 0, "main": 0}, found
    in_order(t.timeline(found.name), "stopping the command with SIGTERM", "sending SIGKILL")


@scenario
def a_main_container_without_proa(t):
    """A main container that is left as it is ends its wrapped sidecar too: that one sees it in the API."""
    t.grant("watch")
    t.apply(job("work", wrapped(SERVES), shell("main", f"{UNTIL}; echo worked", MOUNT), volumes=STATE))
    t.apply(pod("failing", wrapped(SERVES), shell("main", "sleep 1; exit 3")))
    name = t.pod_of("work").name
    t.logged(name, "web", "running until the exit of `main`")
    t.touch(name, "main", "/state/over")
    assert t.job("work").complete
    found = t.pod_of("work", lambda pod: pod.finished)
    assert found.exit_codes() == {"web": 0, "main": 0}, found
    in_order(t.timeline(found.name), "running until the exit of `main`", "main: worked", "the main containers have exited")
    assert t.finished("failing").exit_codes() == {"web": 0, "main": 3}


@scenario
def a_retry_of_main_finds_its_wrapped_sidecar(t):
    """With OnFailure a main that is retried, under proa or not, keeps its wrapped sidecar, which is ended after the success."""
    t.grant("watch")
    tries = "[ -e /state/tried ] && exit 0; touch /state/tried; exit 3"
    t.apply(pod("under-proa", wrapped(SERVES, more=READY_FILE), main(tries, more=MOUNT), restartPolicy="OnFailure", volumes=STATE))
    t.apply(pod("plain", wrapped(SERVES, more=READY_FILE), shell("main", tries, MOUNT), restartPolicy="OnFailure", volumes=STATE))
    for name in ("under-proa", "plain"):
        found = t.finished(name)
        assert found.phase == "Succeeded" and found.exit_codes() == {"web": 0, "main": 0}, found
        assert (found.container("main").restarts, found.container("web").restarts) == (1, 0), found


@scenario
def a_wrapped_sidecar_under_another_name(t):
    """A sidecar whose proa goes by another name is told as well, and nobody waits for --shutdown-timeout."""
    t.grant("watch")
    install = before(container("install", "proa", args=["install", "/state/entrypoint"], more=MOUNT))
    web = container("web", "busybox", command=["/state/entrypoint", "sidecar", "--", "sh", "-c", SERVES], more=f"{READY_FILE}\n{MOUNT}")
    t.apply(pod("renamed", web, main("exit 3"), initContainers=install, volumes=STATE))
    found = t.finished("renamed")
    assert found.exit_codes() == {"web": 0, "main": 3}, found
    assert seconds_between(t.timeline("renamed"), "main", "command ended", "exit with code 3") <= 20, "--shutdown-timeout is 30s"


@scenario
def a_wrapped_sidecar_that_waits_for_a_success(t):
    """With --until-exit-success the sidecar runs on after a main that failed, though that one's proa tells it."""
    t.grant("watch")
    t.apply(pod("failed", wrapped(SERVES, "--until-exit-success=main", more=READY_FILE), main("exit 3")))
    t.logged("failed", "web", "the command runs on (--until-exit-success)")
    assert t.pod("failed", lambda pod: pod.container("main").exit_code == 3).container("web").running
    t.delete("failed")
    assert t.gone("failed").exit_codes() == {"web": 0, "main": 3}


@scenario
def a_wrapped_sidecar_that_waits_in_vain(t):
    """A wrapped sidecar that still waits for something when main has ended does not keep the Pod, nor fail it."""
    t.grant("watch")
    waits = wrapped("echo never", "--wait-file=/state/never", more=MOUNT)
    t.apply(pod("vain", waits, shell("main", "sleep 1; exit 0"), volumes=STATE))
    assert t.finished("vain").exit_codes() == {"web": 0, "main": 0}
    assert "never" not in t.logs("vain", "web").splitlines()


@scenario
def a_wrapped_sidecar_of_two_mains(t):
    """A wrapped sidecar of two main containers, each under proa, outlives the first and ends after the second, with or without the API."""
    t.grant("watch")
    serves = "mkdir /tmp/www; echo page > /tmp/www/index.html; httpd -p 7000 -h /tmp/www; " + SERVES
    web = wrapped(serves, "--until-exit=first", "--until-exit=second", more=READY_FILE)
    first = main("exit 3", name="first")
    script = "until [ -e /tmp/over ]; do sleep 0.1; done; wget -qO- localhost:7000; exit 4"
    second = main(script, name="second")
    t.apply(pod("shared", web, first, second))
    unasked = "--api=off", "--wait-http-get=http://localhost:7000/"
    alone = (wrapped(serves, "--api=off", "--until-exit=first", "--until-exit=second"),
             main("exit 3", *unasked, name="first"),
             main(script, *unasked, name="second"))
    t.apply(pod("unasked", *alone))
    for name in ("shared", "unasked"):
        t.pod(name, lambda pod: pod.container("first").ended)
        t.touch(name, "second", "/tmp/over")
        assert t.finished(name).exit_codes() == {"web": 0, "first": 3, "second": 4}
        lines = t.timeline(name)
        in_order(lines, "exit with code 3", "the main container's proa asks this sidecar to stop")
        assert "page" in t.logs(name, "second").splitlines(), "the sidecar did not outlive the first"
        assert not any("`second` told" in line.text for line in lines), lines


@scenario
def two_wrapped_sidecars_and_envoy(t):
    """Two wrapped sidecars and Envoy end after main without any flag, Envoy last, though none is told of the others."""
    t.grant("watch")
    first, second = (wrapped(SERVES, more=READY_FILE, name=name) for name in ("first", "second"))
    t.apply(pod("three", first, ENVOY, second, main("exit 3")))
    assert t.finished("three").exit_codes() == {"first": 0, "second": 0, "envoy": 0, "main": 3}
    lines = t.timeline("three")
    in_order(lines, "the others have exited", "9901/quitquitquit: 200", "every sidecar has exited")
    for name in ("first", "second"):
        assert said_at(lines, name, "command ended") < said_at(lines, "main", "9901/quitquitquit: 200")


# Without rights

# What a container mounts that alone may ask the API server.
ACCOUNT = "[{name: account, projected: {sources: [{serviceAccountToken: {path: token}}, {configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}}, {downwardAPI: {items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]}}]}}]"
ACCOUNT_MOUNT = "volumeMounts: [{name: account, mountPath: /var/run/secrets/kubernetes.io/serviceaccount}]"


@scenario
def a_wrapped_sidecar_without_an_account(t):
    """A wrapped sidecar that cannot ask the API server runs, and main's proa ends it: the two need no rights to talk."""
    t.grant("watch")
    command = main("echo working; sleep 1; exit 3", more=ACCOUNT_MOUNT)
    spec = {"automountServiceAccountToken": "false", "volumes": ACCOUNT}
    t.apply(pod("mute", wrapped(SERVES, more=READY_FILE), command, **spec))
    assert t.finished("mute").exit_codes() == {"web": 0, "main": 3}
    in_order(t.timeline("mute"), "going on without the API server", "main: working", "the main container's proa asks this sidecar to stop")


@scenario
def a_wrapped_sidecar_without_any_role(t):
    """Without a Role the wrapped sidecar runs all the same and says so; main, which sees no Pod either, ends it."""
    serves = "touch /state/ready; while :; do sleep 0.1; done"
    command = main(f"{UNTIL}; exit 3", "--wait-file=/state/ready", more=MOUNT)
    t.apply(pod("denied", wrapped(serves, more=MOUNT), command, volumes=STATE))
    t.apply(pod("unasked", wrapped(SERVES, "--api=off"), main("until [ -e /tmp/over ]; do sleep 0.1; done; exit 4", "--api=off")))
    t.logged("unasked", "web", "serving")
    t.touch("unasked", "main", "/tmp/over")
    # It takes a while until a refusal is believed: rights may come late.
    log = t.logged("denied", "web", "cannot see when the main containers exit")
    assert 'verbs: ["watch"]' in log, log
    t.touch("denied", "web", "/state/over")
    assert t.finished("denied").exit_codes() == {"web": 0, "main": 3}
    in_order(t.timeline("denied"), "the main container's proa asks this sidecar to stop", "stopping the command with SIGTERM")
    assert t.finished("unasked").exit_codes() == {"web": 0, "main": 4}


@scenario
def a_wrapped_sidecar_that_is_asked_over_http(t):
    """POST /quitquitquit at the status address ends a wrapped sidecar with 0, from within the Pod alone."""
    t.grant("watch")
    t.apply(pod("served", wrapped(SERVES, "--status-address=0.0.0.0:9400"), shell("main", f"{UNTIL}; exit 3", MOUNT), volumes=STATE))
    t.logged("served", "web", "serving")
    address = t.pod("served", lambda pod: pod.container("main").running).status["podIP"]
    t.apply(pod("stranger", shell("main", f"wget -O- --post-data= {address}:9400/quitquitquit 2>&1; wget -qO- {address}:9400/livez")))
    t.finished("stranger")
    log = t.logs("stranger", "main")
    assert "403" in log and "alive" in log, log
    assert t.pod("served", lambda pod: True).container("web").running
    asked = t.exec("served", "main", "wget", "-qO-", "--post-data=", "localhost:9400/quitquitquit")
    assert asked.returncode == 0, asked
    found = t.pod("served", lambda pod: pod.container("web").ended)
    assert found.container("web").exit_code == 0 and found.container("main").running, found
    t.touch("served", "main", "/state/over")
    assert t.finished("served").exit_codes() == {"web": 0, "main": 3}


# When the Pod is deleted

LINGERS = "trap 'echo leaving; sleep 3; echo left; sleep 1; exit 7' TERM; echo working; while :; do sleep 0.1; done"


def _deleted(t, web, main, code=7, **spec):
    """The log of a Pod that is deleted while main works: `web` ends with 0, main with `code`."""
    t.apply(pod("deleted", web, main, **spec))
    t.logged("deleted", "main", "working")
    followed = t.follow("deleted")
    t.delete("deleted")
    last = t.gone("deleted")
    assert last.exit_codes() == {"web": 0, "main": code}, last
    return followed()


@scenario
def a_sidecar_whose_term_is_held_back(t):
    """With --hold-term a deleted Pod's sidecar gets SIGTERM only once main's command has ended, though both are told at once."""
    t.grant("watch")
    lines = _deleted(t, wrapped(SERVES, "--hold-term", more=READY_FILE), main(LINGERS))
    told, asked = (said_at(lines, "web", text) for text in ("held back until the proa of `main`", "stopping the command with SIGTERM"))
    assert told < said_at(lines, "main", "command ended") < asked, "\n".join(map(str, lines))
    in_order(lines, "held back until the proa of `main`", "main: left", "stopping the command with SIGTERM")


@scenario
def a_sidecar_whose_term_is_not_held_back(t):
    """Without --hold-term a wrapped sidecar ends at once with its Pod, beside a main that takes its time."""
    t.grant("watch")
    lines = _deleted(t, wrapped(SERVES, more=READY_FILE), main(LINGERS))
    assert said_at(lines, "web", "command ended") < said_at(lines, "main", "command ended"), "\n".join(map(str, lines))
    in_order(lines, "command ended: SIGTERM", "main: left")


@scenario
def a_stop_signal_that_is_held_back(t):
    """An image's own STOPSIGNAL is held back as well, where --stop-signal names it."""
    t.grant("watch")
    ends = "trap 'echo flushed; exit 9' USR1; touch /tmp/ready; while :; do sleep 0.1; done"
    web = wrapped(ends, "--hold-term", "--stop-signal=USR1", image="app-usr1", more=READY_FILE)
    lines = _deleted(t, web, main(LINGERS))
    assert said_at(lines, "main", "command ended") < said_at(lines, "web", "stopping the command with SIGUSR1"), "\n".join(map(str, lines))
    in_order(lines, "held back until the proa of `main`", "web: flushed")


@scenario
def a_hold_that_main_outlasts(t):
    """Where main ignores SIGTERM, the sidecar gets it before the grace period is over, and still ends with 0."""
    t.grant("watch")
    ends = "trap 'echo flushed; exit 0' TERM; touch /tmp/ready; while :; do sleep 0.1; done"
    stubborn = main("trap '' TERM; echo working; while :; do sleep 0.1; done")
    lines = _deleted(t, wrapped(ends, "--hold-term", more=READY_FILE), stubborn, code=137, terminationGracePeriodSeconds="12")
    in_order(lines, "held back until the proa of `main`", "--hold-term has run out")
    in_order(lines, "held back until the proa of `main`", "web: flushed")
    held = seconds_between(lines, "web", "held back until", "stopping the command with SIGTERM")
    # A quarter of the 12 seconds, and one more, are the sidecar's. They count from the deletion, rounded down to a second.
    assert 3 <= held <= 9, held


@scenario
def a_hold_with_a_time_of_its_own(t):
    """--hold-term=2s holds SIGTERM back for two seconds, and no longer."""
    t.grant("watch")
    lines = _deleted(t, wrapped(SERVES, "--hold-term=2s", more=READY_FILE), main(LINGERS.replace("sleep 3", "sleep 5")))
    held = seconds_between(lines, "web", "held back until", "stopping the command with SIGTERM")
    assert held >= 1.9, held
    in_order(lines, "stopping the command with SIGTERM", "main: left")


@scenario
def a_hold_without_the_api(t):
    """--hold-term needs no rights where --until-exit names main."""
    flags = ("--api=off", "--until-exit=main", "--hold-term")
    lines = _deleted(t, wrapped("while :; do sleep 0.1; done", *flags), main(LINGERS, "--api=off"), automountServiceAccountToken="false")
    assert said_at(lines, "main", "command ended") < said_at(lines, "web", "stopping the command with SIGTERM"), "\n".join(map(str, lines))
    in_order(lines, "held back until the proa of `main`", "main: left", "stopping the command with SIGTERM")


@scenario
def a_hold_past_the_pods_deadline(t):
    """A Pod past its activeDeadlineSeconds, which nobody deletes, ends in the same order."""
    t.grant("watch")
    t.apply(pod("overdue", wrapped(SERVES, "--hold-term", more=READY_FILE), main(LINGERS)))
    t.logged("overdue", "main", "working")
    t.kubectl("patch", "pod", "overdue", "--type=merge", "-p", '{"spec": {"activeDeadlineSeconds": 1}}')
    assert t.finished("overdue").exit_codes() == {"web": 0, "main": 7}
    in_order(t.timeline("overdue"), "held back until the proa of `main`", "main: left", "stopping the command with SIGTERM")


@scenario
def a_hold_is_for_the_pods_end_alone(t):
    """A sidecar that its own liveness probe ends is not held back: it is started again within seconds, beside the same main."""
    t.grant("watch")
    probe = f"livenessProbe: {{periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 1, exec: {{command: [sh, -c, '[ ! -e /tmp/stuck ]']}}}}\n{MOUNT}"
    web = wrapped("echo up; while :; do sleep 0.1; done", "--hold-term", more=probe)
    t.apply(pod("probed", web, main(f"echo working; {UNTIL}; exit 0", more=MOUNT), restartPolicy="OnFailure", volumes=STATE))
    t.logged("probed", "main", "working")
    t.touch("probed", "web", "/tmp/stuck")
    found = t.pod("probed", lambda pod: pod.container("web").restarts == 1)
    log = t.logs("probed", "web", previous=True)
    held, ended = (line.split(" ")[0] for line in log.splitlines() if "held back" in line or "stopping the command" in line)
    assert (datetime.fromisoformat(ended) - datetime.fromisoformat(held)).total_seconds() <= 10, log
    assert found.container("main").running and found.container("main").restarts == 0, found
    t.touch("probed", "main", "/state/over")
    assert t.finished("probed").exit_codes() == {"web": 0, "main": 0}


# What cannot work


@scenario
def a_main_container_that_is_not_there(t):
    """--until-exit with the name of no container is 2, and the names that there are are told; the command is not left behind."""
    t.grant("watch")
    t.apply(pod("mistyped", wrapped(SERVES, "--until-exit=mian"), main("echo never", "--wait-for=web", "--ready-timeout=20s", name="main")))
    found = t.finished("mistyped")
    web = found.container("web")
    assert web.exit_code == 2 and "`mian`" in web.message and "`main`" in web.message, web


@scenario
def a_sidecar_with_no_main_beside_it(t):
    """`proa sidecar` in the only container is 2; so is waiting for itself, and, with two that could be main, for neither."""
    t.grant("watch")
    t.apply(pod("alone", wrapped(SERVES)))
    t.apply(pod("itself", wrapped(SERVES, "--until-exit=web"), shell("main", "sleep 1")))
    # Neither ends: once both are over, either was the main one.
    both = (shell(name, "sleep 1000") for name in ("one", "two"))
    t.apply(pod("which", wrapped(SERVES), *both, terminationGracePeriodSeconds="1"))
    for name, word in [("alone", "no main container"), ("itself", "this container"), ("which", "--until-exit")]:
        web = t.pod(name, lambda pod: pod.container("web").ended).container("web")
        assert web.exit_code == 2 and word in web.message, web


@scenario
def two_proas_in_one_container(t):
    """A second proa under the first, in whichever mode, is 2 and says so."""
    t.grant("watch")
    t.apply(pod("twice", container("main", "app", args=["--", "/proa", "--", "true"])))
    t.apply(pod("mixed", container("web", "app", args=["sidecar", "--", "/proa", "--", "true"]), shell("main", "sleep 1")))
    for name, own in [("twice", "main"), ("mixed", "web")]:
        found = t.finished(name).container(own)
        assert found.exit_code == 2, found
        assert "another proa runs in container" in found.message + t.logs(name, own), found
