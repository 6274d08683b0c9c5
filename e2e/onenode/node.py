"""The namespaces the node lives in: create them, run and spawn in them, destroy them."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

from . import wait
from .layout import API_SERVICE_IP, CGROUP, HOST_IP, HOST_LINK, LINK_PREFIX, NODE, NODE_IP, STATE

# The daemons must not differ with who starts them: a proxy variable, for one, would divert the API server's own traffic.
ENVIRONMENT = {"PATH": os.environ["PATH"], "HOME": "/root", "LANG": "C"}

INIT = STATE / "init.pid"
PIDS = STATE / "pids"
SYSCTLS = STATE / "sysctls"

# The kubelet sets these for the whole machine, namespaces or not (its protectKernelDefaults=false).
GLOBAL_SYSCTLS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)

# Runs as the first process of the new namespaces. Everything is bound while the mounts are private, and shared only
# then: the kubelet wants a shared tree, and binds of an already shared tree would repeat every later mount in each copy.
# catatonit stays as init: it reaps what daemons and container shims leave behind, and does nothing else.
# crun refuses a machine with cgroup v1 and some controllers in v2 beside it ("cgroups in hybrid mode not supported"): it sees v1 alone.
# mount -n: libmount would otherwise make /run/mount, still in the machine's own /run.
SETUP = f"""
set -e
mkdir -p {STATE}/bin {STATE}/var/lib/{STATE.name} {STATE}/var/log {STATE}/var/tmp
ln -sfn /run {STATE}/var/run
mount -n --bind "$BINARIES" {STATE}/bin
mount -n --rbind {STATE} {STATE}/var/lib/{STATE.name}
mount -n --rbind {STATE}/var /var
mount -n -t tmpfs -o mode=755 tmpfs /run
if [ "$RUNTIME" = crun ] && [ -e /sys/fs/cgroup/unified/cgroup.controllers ]; then umount -n /sys/fs/cgroup/unified; fi
mount -n --make-rshared /
hostname {NODE}
ip link set lo up
ip address add {API_SERVICE_IP}/32 dev lo
exec catatonit -P
"""

NAMESPACES = ("--mount", "--net", "--pid", "--uts", "--ipc")


def _start_time(pid):
    """With the id, this tells a process from a later one that was given the same id."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return None


def init_pid():
    """The node's init as the machine numbers it, or None where there is no node."""
    try:
        pid, started = INIT.read_text().split()
    except (FileNotFoundError, ValueError):
        return None
    return int(pid) if _start_time(pid) == started else None


def create(binaries, runtime):
    STATE.mkdir(parents=True, exist_ok=True)
    PIDS.mkdir(exist_ok=True)
    kept = (f"{name} {_sysctl(name).read_text().strip()}\n" for name in GLOBAL_SYSCTLS)
    SYSCTLS.write_text("".join(kept))
    for root in _cgroup_roots():
        (root / CGROUP).mkdir(exist_ok=True)
        _fill_cpuset(root)
    with open(STATE / "init.log", "wb") as log:
        flags = ("--propagation", "private", "--mount-proc", "--fork", "--kill-child")
        outer = subprocess.Popen(
            ["unshare", *NAMESPACES, *flags, "sh", "-c", SETUP],
            env={**ENVIRONMENT, "BINARIES": str(binaries), "RUNTIME": runtime},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    def settled():
        if outer.poll() is not None:
            raise wait.Fatal(f"the node's namespaces: {(STATE / 'init.log').read_text()}")
        (child,) = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()
        return Path(f"/proc/{child}/comm").read_text() == "catatonit\n" and child

    try:
        pid = wait.until("the node's init", settled, 10, every=0.01)
        INIT.write_text(f"{pid} {_start_time(pid)}")
        _connect(pid)
    except BaseException:
        # Not yet on record, the node would be out of `down`'s reach. Its init dies with unshare.
        outer.kill()
        raise


def _connect(pid):
    subprocess.run(["ip", "link", "add", HOST_LINK, "type", "veth", "peer", "name", "eth0", "netns", str(pid)], check=True)
    subprocess.run(["ip", "address", "add", f"{HOST_IP}/{LINK_PREFIX}", "dev", HOST_LINK], check=True)
    subprocess.run(["ip", "link", "set", HOST_LINK, "up"], check=True)
    run(["ip", "address", "add", f"{NODE_IP}/{LINK_PREFIX}", "dev", "eth0"], check=True)
    run(["ip", "link", "set", "eth0", "up"], check=True)


def entered(command):
    """The same command, run inside the node."""
    pid = init_pid()
    if pid is None:
        raise SystemExit("error: the cluster is not up; `e2e/cluster up` starts it")
    return ["nsenter", "--target", str(pid), *NAMESPACES, "--", *map(str, command)]


def run(command, **options):
    return subprocess.run(entered(command), **options)


def spawn(name, command, log, environment):
    """Start a daemon inside the node. The shell ends at once, so that the node's init inherits and reaps the daemon."""
    done = run(
        ["sh", "-c", 'cd /; setsid "$@" >>"$LOG" 2>&1 </dev/null & echo $!', "sh", *command],
        env={**ENVIRONMENT, **environment, "LOG": str(log)},
        check=True,
        capture_output=True,
        text=True,
    )
    (PIDS / name).write_text(done.stdout.strip())


def spawned(name):
    """The daemon's id as the node numbers it, or None once it has ended."""
    root = init_pid()
    try:
        pid = int((PIDS / name).read_text())
    except FileNotFoundError:
        return None
    return pid if root and Path(f"/proc/{root}/root/proc/{pid}").exists() else None


def stop(name, now=False):
    pid = spawned(name)
    if pid is None:
        return
    run(["sh", "-c", f"kill -{'KILL' if now else 'TERM'} {pid}"], check=False, stderr=subprocess.DEVNULL)
    try:
        wait.until(f"the end of {name}", lambda: spawned(name) is None, 75)
    except wait.Timeout:
        run(["sh", "-c", f"kill -KILL {pid}"], check=False)
        wait.until(f"the end of {name} after SIGKILL", lambda: spawned(name) is None, 10)
    (PIDS / name).unlink()


def destroy():
    """End the node and remove every trace of it. Safe to repeat, and to run on what a crash left behind."""
    pid = init_pid()
    if pid is not None:
        # The kernel ends every process of a PID namespace with its init; when init is gone, they all are.
        os.kill(pid, signal.SIGKILL)
        wait.until("the end of the node's processes", lambda: init_pid() is None, 60)
    if _link().exists():
        subprocess.run(["ip", "link", "delete", HOST_LINK], check=False, stderr=subprocess.DEVNULL)
    wait.until("the end of the node's network link", lambda: not _link().exists(), 30)
    wait.until("the removal of the node's cgroups", _remove_cgroups, 30)
    if SYSCTLS.exists():
        for line in SYSCTLS.read_text().splitlines():
            name, value = line.split(" ", 1)
            if _sysctl(name).read_text().strip() != value:
                _sysctl(name).write_text(value)


def remove_state():
    # A mount below the state directory would have its contents deleted along with it.
    if mounts := _mounts_below(STATE):
        raise SystemExit(f"error: still mounted below {STATE}, which is therefore kept: {' '.join(mounts)}")
    shutil.rmtree(STATE, ignore_errors=True)


def leftovers():
    """What `down` should have removed and has not; empty after a clean one."""
    found = [f"process {pid}" for pid in _strays()]
    found += [f"mount {path}" for path in _mounts_below(STATE)]
    found += [f"interface {HOST_LINK}"] if _link().exists() else []
    found += [f"cgroup {root / CGROUP}" for root in _cgroup_roots() if (root / CGROUP).exists()]
    return found


def _strays():
    """Processes whose executable or command line names the state directory."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_bytes().split(b"\0")
            if any(argument.startswith((bytes(STATE) + b"/", b"--kubeconfig=" + bytes(STATE))) for argument in arguments):
                yield process.name
        except (FileNotFoundError, ProcessLookupError):
            continue


def _mounts_below(path):
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [point for point in points if Path(point).is_relative_to(path)]


def _link():
    return Path("/sys/class/net") / HOST_LINK


def _sysctl(name):
    return Path("/proc/sys") / name


def _cgroup_roots():
    """Every hierarchy of cgroup v1, or the single one of v2."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, kind = line.partition(" - ")
        if kind.split()[0] in ("cgroup", "cgroup2"):
            yield Path(fields.split()[4])


def _fill_cpuset(root):
    """A new cgroup v1 cpuset is empty, and nothing can run in it or below until it is given its parent's."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        setting = root / CGROUP / name
        if setting.exists() and not setting.read_text().strip():
            setting.write_text((root / name).read_text())


def _remove_cgroups():
    """True once all are gone. A cgroup stays busy for a moment after its last process."""
    for root in _cgroup_roots():
        top = root / CGROUP
        if not top.exists():
            continue
        for directory, _, _ in os.walk(top, topdown=False):
            os.rmdir(directory)
    return True
