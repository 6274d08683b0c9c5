"""The command's end is the Pod's, and signals reach it."""

import os
import pty
import select
import subprocess
import time

from suite.pieces import ENVOY, QUIT, READY_FILE, UNTIL_TERM, container, job, main, pod, shell
from suite.scenario import in_order, scenario


@scenario
def exit_codes_reach_the_pod(t):
    """Exit codes and signals of the command are the container's: 0, 3, 255, 137, 143, 126, 127."""
    t.grant("watch")
    for name, script, code in [
        ("zero", "exit 0", 0), ("three", "exit 3", 3), ("all-ones", "exit 255", 255),
        ("killed", "kill -9 $$", 137), ("ended", "kill $$", 143),
    ]:
        t.apply(pod(name, main(script)))
    t.apply(pod("missing", container("main", "app", args=["--", "/no/such/program"])))
    t.apply(pod("directory", container("main", "app", args=["--", "/bin"])))
    for name, code in [("zero", 0), ("three", 3), ("all-ones", 255), ("killed", 137), ("ended", 143), ("missing", 127), ("directory", 126)]:
        found = t.finished(name)
        assert found.exit_codes() == {"main": code}, found
        assert found.phase == ("Succeeded" if code == 0 else "Failed")
    assert "cannot run `/no/such/program`" in t.finished("missing").container("main").message


@scenario
def a_failed_command_fails_the_job(t):
    """A command that fails fails the Job, and its sidecar ends all the same."""
    t.grant("watch")
    t.apply(job("work", ENVOY, main("exit 4", QUIT)))
    assert t.job("work").failed
    assert t.pod_of("work", lambda pod: pod.finished).exit_codes() == {"envoy": 0, "main": 4}


@scenario
def pod_failure_policy_tells_proas_failures_apart(t):
    """A Job's podFailurePolicy can ignore proa's own exit code and count the command's."""
    t.grant("watch")
    policy = """
  podFailurePolicy:
    rules:
    - {action: FailJob, onExitCodes: {containerName: main, operator: In, values: [69]}}
"""
    manifest = job("work", shell("web", "sleep 1; exit 1", READY_FILE), main("echo never"), backoff=6).replace("  template:", policy.strip("\n") + "\n  template:", 1)
    t.apply(manifest)
    failed = t.job("work").failed
    assert failed["reason"] == "PodFailurePolicy", failed
    assert len(t.pods_of("work")) == 1


def _soon(deleted):
    """By the Pod's own times, main ended long before the grace period of 30s was over."""
    taken = (deleted.container("main").finished_at - deleted.deletion_asked_at).total_seconds()
    assert taken <= 20, f"main ended {taken}s after it was asked to"


@scenario
def deleted_while_waiting(t):
    """A Pod deleted while proa waits ends at once, and the command never runs."""
    t.grant("watch")
    t.apply(pod("waiting", shell("web", UNTIL_TERM, READY_FILE), main("echo never")))
    t.logged("waiting", "main", "waiting for web")
    t.delete("waiting")
    last = t.gone("waiting")
    assert last.container("main").exit_code == 143, last
    _soon(last)


@scenario
def deleted_while_the_command_handles_term(t):
    """A Pod deleted while the command runs: SIGTERM reaches the command, whose exit code is the container's."""
    t.grant("watch")
    t.apply(pod("running", ENVOY, main("trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.1; done", QUIT)))
    t.logged("running", "main", "up")
    t.delete("running")
    last = t.gone("running")
    assert last.container("main").exit_code == 7, last
    _soon(last)


@scenario
def deleted_while_the_command_ignores_term(t):
    """A command that ignores SIGTERM is killed at the end of the grace period, as without proa."""
    t.grant("watch")
    t.apply(pod("stubborn", main("trap '' TERM; echo up; while :; do sleep 0.1; done"), terminationGracePeriodSeconds="3"))
    t.logged("stubborn", "main", "up")
    t.delete("stubborn")
    assert t.gone("stubborn").container("main").exit_code == 137


@scenario
def deleted_while_the_command_takes_most_of_the_grace_period(t):
    """A command that takes most of the grace period keeps its exit code: proa leaves before the kubelet kills it."""
    t.grant("watch")
    # A quit endpoint that hangs, so that proa has a reason to stay.
    hanging = shell("web", "trap '' TERM; touch /tmp/ready; while :; do nc -l -p 8099 >/dev/null < /dev/zero; done", READY_FILE)
    script = "trap 'sleep 6; exit 7' TERM; echo up; while :; do sleep 0.1; done"
    t.apply(pod("late", hanging, main(script, "-phttp://localhost:8099/quit"), terminationGracePeriodSeconds="9"))
    t.logged("late", "main", "up")
    t.delete("late")
    assert t.gone("late").container("main").exit_code == 7


@scenario
def a_liveness_probe_restarts_the_main_container(t):
    """A main container that its liveness probe ends is started again beside the same sidecar."""
    t.grant("watch")
    liveness = "livenessProbe: {periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 1, initialDelaySeconds: 2, exec: {command: [sh, -c, '[ ! -e /tmp/stuck ]']}}\nvolumeMounts: [{name: state, mountPath: /state}]"
    script = "[ -e /state/second ] && exit 0; touch /state/second /tmp/stuck; trap 'exit 9' TERM; while :; do sleep 0.1; done"
    t.apply(pod("probed", ENVOY, main(script, QUIT, more=liveness), restartPolicy="OnFailure", volumes="[{name: state, emptyDir: {}}]"))
    found = t.finished("probed")
    assert (found.container("main").exit_code, found.container("main").restarts) == (0, 1), found
    assert (found.container("envoy").exit_code, found.container("envoy").restarts) == (0, 0), found
    # A kubelet that has removed the first one by then no longer reports it.
    ends = [seen.container("main").previous for seen in t.history("probed")]
    assert {end["exitCode"] for end in ends if end} == {9}, ends


@scenario
def orphans_are_collected_by_pid_1(t):
    """As PID 1 proa collects orphans, holds one thread, little memory and no connection while the command runs."""
    t.grant("watch")
    script = "for i in 1 2 3 4 5; do (sh -c 'sleep 0.1' &); done; echo up; until [ -e /tmp/over ]; do sleep 0.1; done"
    t.apply(pod("first", main(script)))
    t.logged("first", "main", "up")
    # What the command itself has not collected yet is gone a moment later; what stays is a zombie.
    zombies = "i=0; while grep -q '^State:.Z' /proc/[0-9]*/status && [ $i -lt 10 ]; do sleep 0.1; i=$((i+1)); done; [ $i -lt 10 ] || echo zombies"
    look = f"sleep 1; cat /proc/1/comm; {zombies}; grep -E 'Threads|RssAnon' /proc/1/status; grep -c ' 01 ' /proc/net/tcp; touch /tmp/over"
    seen = t.exec("first", "main", "sh", "-c", look).stdout.split()
    assert seen[0] == "proa" and "zombies" not in seen, seen
    fields = dict(zip(seen[1::1], seen[2::1]))
    assert fields["Threads:"] == "1", seen
    assert int(fields["RssAnon:"]) < 1024, seen
    assert seen[-1] == "0", f"connections are open: {seen}"
    assert t.finished("first").exit_codes() == {"main": 0}


@scenario
def a_terminal(t):
    """`kubectl run -it` has a terminal on which the command is in the foreground, and keys reach it."""
    t.grant("watch")
    script = "trap 'echo interrupted; exit 5' INT; echo script up; while :; do sleep 0.1; done"
    with Terminal(t, "shell", script) as terminal:
        terminal.press(b"\x03", lambda: not terminal.attached())
        assert t.finished("shell").exit_codes() == {"shell": 5}
    assert "interrupted" in t.logs("shell", "shell")


@scenario
def a_stop_from_the_keyboard(t):
    """Ctrl-Z on a container's terminal does not stop the command for good: nobody there could continue it."""
    t.grant("watch")
    script = "trap 'echo continued' CONT; trap 'exit 5' INT; echo script up; while :; do sleep 0.1; done"
    with Terminal(t, "shell", script) as terminal:
        terminal.press(b"\x1a", lambda: "continued" in t.logs("shell", "shell"))
        terminal.press(b"\x03", lambda: not terminal.attached())
        assert t.finished("shell").exit_codes() == {"shell": 5}


class Terminal:
    """`kubectl run -it` of a Pod of one container, which runs a shell script under proa, and somebody at the keyboard
    once the script has said that it is up."""

    def __init__(self, t, name, script):
        image = t.images.reference("app")
        words = ["run", name, "-it", "--restart=Never", f"--image={image}", "--image-pull-policy=Never", "--", "--", "sh", "-c", script]
        self._master, slave = pty.openpty()
        self._process = subprocess.Popen(t.kubectl.command(*words), stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
        os.close(slave)
        t.logged(name, name, "script up")

    def __enter__(self):
        return self

    def __exit__(self, kind, *rest):
        if kind:
            self._process.kill()
        self._process.wait(10)
        os.close(self._master)

    def attached(self):
        return self._process.poll() is None

    def press(self, key, done):
        """Presses a key until it is done: before kubectl has attached it is lost."""
        deadline = time.monotonic() + 30
        while self.attached() and not done():
            assert time.monotonic() < deadline, f"{key} has no effect"
            os.write(self._master, key)
            # What is shown is read, or the terminal would fill up.
            if select.select([self._master], [], [], 0.5)[0]:
                try:
                    os.read(self._master, 4096)
                except OSError:
                    return


@scenario
def a_stop_signal_of_the_images_own(t):
    """An image's STOPSIGNAL ends the wait without the command, and reaches the command once it runs."""
    t.grant("watch")
    t.apply(pod("waiting", shell("web", UNTIL_TERM, READY_FILE), main("echo never", image="app-usr1")))
    t.apply(pod("running", main("trap 'exit 4' USR1; echo up; while :; do sleep 0.1; done", image="app-usr1")))
    t.logged("waiting", "main", "waiting for web")
    t.logged("running", "main", "up")
    t.delete("waiting")
    t.delete("running")
    # Of who waits, either the signal comes first or the news of the deletion.
    for name, codes in [("running", {4}), ("waiting", {128 + 10, 143})]:
        last = t.gone(name)
        assert last.container("main").exit_code in codes, last
        _soon(last)
