"""Several main containers under proa: no flag is needed, none waits for another, and the last one shuts the sidecars down."""

from suite.pieces import ENVOY, MOUNT, READY_FILE, STATE, container, job, main, pod, shell
from suite.scenario import in_order, scenario
from suite.scenarios.wrapped import SERVES, wrapped

LEFT = "sidecars are left running for `second`"
NEEDS_ENVOY = "wget -qO- localhost:9901/ready || exit 9"


def _until(file):
    return f"until [ -e /state/{file} ]; do sleep 0.1; done"


def _shown(name, script, more=""):
    """A main container whose command shows proa, where the image's entrypoint usually hides it."""
    return container(name, "app", command=["/proa", "--", "sh", "-c", script], more=more)


def _hidden(name, script, more=""):
    return main(script, name=name, more=more)


def _ready_by_command(make, name, other):
    probe = f"readinessProbe: {{periodSeconds: 1, timeoutSeconds: 10, exec: {{command: [test, -e, /tmp/serves]}}}}\n{MOUNT}"
    return make(name, f"touch /tmp/serves /state/{name}; {_until(other)}; {NEEDS_ENVOY}", probe)


@scenario
def two_main_containers_with_readiness_probes(t):
    """Two main containers whose readiness depends on their commands do not wait for one another, however proa shows in them."""
    t.grant("watch")
    for kind, make in (("shown", _shown), ("hidden", _hidden)):
        both = [_ready_by_command(make, "first", "second"), _ready_by_command(make, "second", "first")]
        t.apply(job(kind, ENVOY, *both, volumes=STATE))
    for kind in ("shown", "hidden"):
        assert t.job(kind, seconds=60).complete
        found = t.pod_of(kind, lambda pod: pod.finished)
        assert found.exit_codes() == {"envoy": 0, "first": 0, "second": 0}, found


@scenario
def two_main_containers_that_end_one_after_the_other(t):
    """The first main container to end leaves Envoy to the other and exits at once; the last one shuts it down, and nobody warns."""
    t.grant("watch")
    for kind, make in (("shown", _shown), ("hidden", _hidden)):
        first = make("first", "exit 3", MOUNT)
        t.apply(pod(kind, ENVOY, first, make("second", f"{_until('over')}; {NEEDS_ENVOY}", MOUNT), volumes=STATE))
    for kind in ("shown", "hidden"):
        left = t.pod(kind, lambda pod: pod.container("first").ended)
        assert left.container("first").exit_code == 3 and left.container("envoy").running, left
        assert left.container("second").running, left
        t.touch(kind, "second", "/state/over")
        found = t.finished(kind)
        assert found.exit_codes() == {"envoy": 0, "first": 3, "second": 0}, found
        lines = t.timeline(kind)
        in_order(lines, LEFT, "quitquitquit: 200", "every sidecar has exited")
        assert not [line for line in lines if line.container in ("first", "second") and " WARN " in str(line)], lines


@scenario
def two_main_containers_that_end_together(t):
    """Ten Jobs of two main containers whose commands end in the same instant all complete."""
    t.grant("watch")
    names = [f"work-{number}" for number in range(10)]
    for name in names:
        both = [_hidden(each, f"touch /state/{each}; {_until('go')}", MOUNT) for each in ("first", "second")]
        # Whoever exits for good before a command has started is a failure to proa.
        starts = shell("starter", f"{_until('first')}; {_until('second')}; touch /state/go", MOUNT)
        t.apply(job(name, ENVOY, *both, starts, volumes=STATE))
    for name in names:
        assert t.job(name, seconds=180).complete


@scenario
def a_main_container_that_is_restarted(t):
    """Under OnFailure a main container that fails is tried again beside Envoy, though another's command is over; the retry ends it."""
    t.grant("watch")
    fails_once = f"[ -e /state/tried ] || {{ touch /state/tried; exit 5; }}; {NEEDS_ENVOY}"
    t.apply(job("work", ENVOY, _hidden("first", "exit 0"), _hidden("second", fails_once, MOUNT), volumes=STATE,
                restartPolicy="OnFailure", backoff=3))
    assert t.job("work").complete
    found = t.pod_of("work", lambda pod: pod.finished)
    assert (found.container("second").restarts, found.container("envoy").restarts) == (1, 0), found


@scenario
def a_main_container_that_proa_is_not_in(t):
    """A main container without proa, named by --main, has Envoy until its end; then proa shuts it down."""
    t.grant("watch")
    plain = shell("plain", f"{_until('over')}; {NEEDS_ENVOY}", MOUNT)
    t.apply(pod("mixed", ENVOY, plain, main("exit 4", "--main=plain", name="first"), volumes=STATE))
    t.logged("mixed", "first", "waiting for `plain` (running) before the sidecars are shut down")
    t.touch("mixed", "plain", "/state/over")
    found = t.finished("mixed")
    assert found.exit_codes() == {"envoy": 0, "plain": 0, "first": 4}, found


@scenario
def a_main_container_that_is_killed(t):
    """A main container that is killed beside another does not keep that one from shutting Envoy down at its end."""
    t.grant("watch")
    hog = "resources: {limits: {memory: 24Mi}}"
    # The second is killed once the command of the first runs, which ends once Kubernetes shows that.
    dies = f"{_until('first')}; tail -c 200m /dev/zero | tail -c 200m >/dev/null; exit 6"
    survives = _hidden("first", f"touch /state/first; {_until('over')}; {NEEDS_ENVOY}", MOUNT)
    t.apply(job("work", ENVOY, survives, _hidden("second", dies, f"{hog}\n{MOUNT}"), volumes=STATE))
    found = t.pod_of("work", lambda pod: pod.container("second").ended)
    t.touch(found.name, "first", "/state/over")
    found = t.pod_of("work", lambda pod: pod.finished)
    assert found.exit_codes()["first"] == 0 and found.exit_codes()["envoy"] == 0, found
    assert found.container("second").exit_code != 0, found


@scenario
def a_last_main_container_that_starts_over(t):
    """Without the API a wrapped sidecar of two main containers ends with the second, which was killed and restarted after the first's end."""
    first = main(f"{_until('second')}; echo $PPID > /state/first", "--api=off", name="first", more=MOUNT)
    # The first's proa is gone once the shared process namespace shows it no more; SIGKILL from within takes one that is not PID 1.
    gone = "until [ -s /state/first ] && ! [ -e /proc/$(cat /state/first) ]; do sleep 0.1; done"
    script = f"[ -e /state/killed ] && exit 0; touch /state/second; {gone}; touch /state/killed; kill -KILL $PPID; sleep 60"
    second = main(script, "--api=off", name="second", more=MOUNT)
    web = wrapped(SERVES, "--api=off", "--until-exit=first", "--until-exit=second", more=READY_FILE)
    t.apply(job("work", web, first, second, volumes=STATE, restartPolicy="OnFailure", backoff=3, shareProcessNamespace="true"))
    assert t.job("work").complete
    found = t.pod_of("work", lambda pod: pod.finished)
    assert found.exit_codes() == {"web": 0, "first": 0, "second": 0}, found
    assert {name: one.restarts for name, one in found.containers().items()} == {"web": 0, "first": 0, "second": 1}, found


@scenario
def a_wrapped_sidecar_of_two_main_containers(t):
    """A wrapped sidecar needs no flag for two main containers: it runs until both have ended, seen in the API or notified."""
    t.grant("watch")
    t.kubectl("create", "serviceaccount", "stranger")
    for name, account, flags in (("seeing", "default", []), ("blind", "stranger", ["--api=off"])):
        first = main(_until("second"), *flags, name="first", more=MOUNT)
        second = main(f"touch /state/second; {_until('over')}", *flags, name="second", more=MOUNT)
        t.apply(pod(name, wrapped(SERVES), first, second, volumes=STATE, serviceAccountName=account))
    for name in ("seeing", "blind"):
        ended = t.pod(name, lambda pod: pod.container("first").ended)
        assert ended.container("web").running and ended.container("first").exit_code == 0, ended
        t.touch(name, "second", "/state/over")
        found = t.finished(name)
        assert found.exit_codes() == {"web": 0, "first": 0, "second": 0}, found
