"""`proa sidecar` without a command helps main containers that are left as they are; `proa install` brings proa to them."""

from suite.pieces import ENVOY, MOUNT, QUIT, READY_FILE, STATE, before, container, late, main, pod, shell
from suite.scenario import in_order, scenario

READY = "--ready-file=/state/ready"


def helper(*flags, name="helper", more=MOUNT):
    """The helper container, from the image as it is shipped."""
    return container(name, "proa", args=["sidecar", *flags], more=more)


def plain(script, name="main"):
    """A main container without proa, which waits for the ready file."""
    return shell(name, f"until [ -e /state/ready ]; do sleep 0.1; done; {script}", MOUNT)


# Helping


@scenario
def a_helper_for_one_main(t):
    """With one main container nothing needs to be named but Envoy: the helper ends it after main, whose exit code is its own."""
    t.grant("watch")
    t.apply(pod("helped", ENVOY, helper("--wait-for=envoy", READY), plain("sleep 1; wget -qO- localhost:9901/ready; exit 3"), volumes=STATE))
    assert t.finished("helped").exit_codes() == {"envoy": 0, "helper": 0, "main": 3}
    assert "LIVE" in t.logs("helped", "main")
    in_order(t.timeline("helped"), "gate open", "wrote /state/ready", "main: LIVE", "the main containers have exited", "quitquitquit: 200")


@scenario
def a_helper_that_asks_envoy_itself(t):
    """With --wait-known the helper writes the ready file when Envoy itself says so."""
    t.grant("watch")
    t.apply(pod("helped", ENVOY, helper("--wait-known=envoy", READY), plain("wget -qO- localhost:9901/ready; exit 3"), volumes=STATE))
    assert t.finished("helped").exit_codes() == {"envoy": 0, "helper": 0, "main": 3}
    assert "LIVE" in t.logs("helped", "main")


@scenario
def a_helper_with_an_action_of_its_own(t):
    """A helper ends what its flags say: Envoy by a POST, a sidecar that nobody knows by a signal."""
    t.grant("watch")
    web = shell("web", "trap 'echo leaving; exit 0' TERM; touch /tmp/ready; while :; do sleep 0.1; done", READY_FILE)
    # The helper's user is not root's; where it may not signal, it needs the right to.
    more = f"{MOUNT}\nsecurityContext: {{runAsUser: 0}}"
    helps = helper("--wait-for=envoy", READY, "--until-exit=main", QUIT, "--kill=sh", more=more)
    t.apply(pod("helped", ENVOY, web, helps, plain("exit 3"), shareProcessNamespace="true", volumes=STATE))
    assert t.finished("helped").exit_codes() == {"envoy": 0, "web": 0, "helper": 0, "main": 3}
    assert "leaving" in t.logs("helped", "web")


@scenario
def a_helper_waits_for_all_main_containers(t):
    """With several --until-exit Envoy ends after the last of them, retried ones included."""
    t.grant("watch")
    retried = "[ -e /state/tried ] && { sleep 2; wget -qO- localhost:9901/ready; exit 0; }; touch /state/tried; exit 3"
    helps = helper("--wait-for=envoy", READY, "--until-exit=first second")
    t.apply(pod("both", ENVOY, helps, plain("exit 0", name="first"), plain(retried, name="second"), restartPolicy="OnFailure", volumes=STATE))
    found = t.finished("both")
    assert found.exit_codes() == {"envoy": 0, "helper": 0, "first": 0, "second": 0}, found
    assert (found.container("second").restarts, found.container("envoy").restarts) == (1, 0), found
    assert "LIVE" in t.logs("both", "second")


@scenario
def a_helper_that_success_alone_counts_for(t):
    """With --until-exit-success a main that fails keeps Envoy, and the helper says so; one that succeeds does not."""
    t.grant("watch")
    for name, code in [("failing", 3), ("working", 0)]:
        t.apply(pod(name, ENVOY, helper("--wait-for=envoy", READY, "--until-exit-success=main"), plain(f"exit {code}"), volumes=STATE))
    assert t.finished("working").exit_codes() == {"envoy": 0, "helper": 0, "main": 0}
    found = t.pod("failing", lambda pod: pod.container("main").ended and pod.container("helper").ended)
    assert (found.container("main").exit_code, found.container("envoy").running) == (3, True), found
    assert "sidecars are left running" in t.logs("failing", "helper")


@scenario
def a_ready_file_of_an_earlier_run(t):
    """A ready file that is there from an earlier run of the helper is taken away until Envoy is ready again."""
    t.grant("watch")
    stale = before(shell("stale", "touch /state/ready; chmod 777 /state/ready", MOUNT))
    # Root, as the file is.
    helps = helper("--wait-for=envoy", READY, more=f"{MOUNT}\nsecurityContext: {{runAsUser: 0}}")
    script = "while [ -e /state/ready ]; do sleep 0.1; done; until [ -e /state/ready ]; do sleep 0.1; done; sleep 1; echo started; exit 3"
    # Envoy is the last to start, so that the file is not back before main has seen it gone.
    t.apply(pod("anew", helps, shell("main", script, MOUNT), late(ENVOY, 5), initContainers=stale, volumes=STATE))
    assert t.finished("anew").exit_codes() == {"envoy": 0, "helper": 0, "main": 3}
    in_order(t.timeline("anew"), "wrote /state/ready", "main: started")


@scenario
def a_helper_whose_sidecar_never_becomes_ready(t):
    """A helper that waits in vain ends with 75, names the sidecar, and writes no ready file."""
    t.grant("watch")
    unready = ENVOY.replace("/ready", "/no-such-page")
    script = "sleep 12; [ -e /state/ready ] && exit 9; exit 3"
    t.apply(pod("vain", unready, helper("--wait-for=envoy", READY, "--ready-timeout=6s"), shell("main", script, MOUNT), volumes=STATE))
    found = t.pod("vain", lambda pod: pod.container("main").ended and pod.container("helper").ended)
    assert found.container("helper").exit_code == 75 and "envoy" in found.container("helper").message, found
    assert found.container("main").exit_code == 3, found


@scenario
def a_helper_in_a_pod_that_is_deleted(t):
    """A helper whose Pod is deleted ends at once, with 0."""
    t.grant("watch")
    t.apply(pod("leaving", ENVOY, helper("--wait-for=envoy", READY), plain("echo working; trap 'exit 7' TERM; while :; do sleep 0.1; done"), volumes=STATE))
    t.logged("leaving", "main", "working")
    t.delete("leaving")
    assert t.gone("leaving").exit_codes() == {"envoy": 0, "helper": 0, "main": 7}


# What cannot work


@scenario
def a_helper_without_rights(t):
    """Without the Role the helper ends with 77 and spells out the rule."""
    t.apply(pod("denied", helper("--wait-for=envoy", READY), ENVOY, plain("exit 0"), volumes=STATE, terminationGracePeriodSeconds="1"))
    ended = t.pod("denied", lambda pod: pod.container("helper").ended).container("helper")
    assert ended.exit_code == 77 and 'verbs: ["watch"]' in ended.message, ended


@scenario
def a_ready_file_that_cannot_be_written(t):
    """A --ready-file on a read-only volume, or in a folder that is not there, is 73 at once, and the message has the path."""
    t.grant("watch")
    read_only = "volumeMounts: [{name: state, mountPath: /state, readOnly: true}]"
    for name, flag, more in [("read-only", READY, read_only), ("missing", "--ready-file=/nowhere/ready", MOUNT)]:
        t.apply(pod(name, helper("--wait-for=main", flag, more=more), shell("main", "sleep 1"), volumes=STATE))
    for name, path in [("read-only", "/state/ready"), ("missing", "/nowhere/ready")]:
        ended = t.finished(name).container("helper")
        assert ended.exit_code == 73 and path in ended.message, ended


# Installing


@scenario
def proa_on_a_volume(t):
    """`proa install` puts proa where another image, as another user, runs it; a second time over does no harm."""
    t.grant("watch")
    installers = [container(name, "proa", args=["install", target], more=MOUNT) for name, target in [("first", "/state/"), ("second", "/state"), ("named", "/state/entrypoint")]]
    more = f"{MOUNT}\nsecurityContext: {{runAsUser: 54321, runAsGroup: 54321, runAsNonRoot: true}}"
    runs = container("main", "busybox", command=["/state/proa", "--", "sh", "-c", "ls -lA /state; cmp /state/proa /state/entrypoint && exit 3"], more=more)
    t.apply(pod("installed", ENVOY, runs, initContainers=before(*installers), volumes=STATE))
    assert t.finished("installed").exit_codes() == {"envoy": 0, "main": 3}
    listed = [line.split() for line in t.logs("installed", "main").splitlines() if line.startswith("-")]
    assert sorted((line[0], line[-1]) for line in listed) == [("-rwxr-xr-x", "entrypoint"), ("-rwxr-xr-x", "proa")], listed


@scenario
def a_volume_that_proa_cannot_be_put_on(t):
    """`proa install` to a read-only volume, to a full one, or to a folder that is not there is 73 and leaves nothing half-written."""
    read_only = "volumeMounts: [{name: state, mountPath: /state, readOnly: true}]"
    small = "[{name: state, emptyDir: {medium: Memory, sizeLimit: 1Mi}}]"
    for name, target, more, volumes in [
        ("read-only", "/state/", read_only, STATE),
        ("full", "/state/", MOUNT, small),
        ("missing", "/state/no/such/proa", MOUNT, STATE),
    ]:
        installs = container("install", "proa", args=["install", target], more=more)
        looks = shell("look", "sleep 3; ls -A /state", MOUNT)
        t.apply(pod(name, installs, looks, volumes=volumes))
    for name, said in [("read-only", "Read-only file system"), ("full", "No space left"), ("missing", "/state/no/such/proa")]:
        found = t.finished(name)
        ended = found.container("install")
        assert ended.exit_code == 73 and said in ended.message, ended
        assert t.logs(name, "look") == "", t.logs(name, "look")


@scenario
def an_installation_that_fails_stops_the_pod(t):
    """An init container that cannot install proa fails the Pod before main starts, and the reason is in its message."""
    read_only = "volumeMounts: [{name: state, mountPath: /state, readOnly: true}]"
    init = before(container("install", "proa", args=["install", "/state/"], more=read_only))
    t.apply(pod("stopped", shell("main", "echo never", MOUNT), initContainers=init, volumes=STATE))
    found = t.pod("stopped", lambda pod: pod.phase == "Failed")
    ended = found.container("install")
    assert ended.exit_code == 73 and "/state/" in ended.message, ended
    assert t.logs("stopped", "main") == "", found
