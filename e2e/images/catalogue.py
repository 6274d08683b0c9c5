"""What is in each image."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from onenode import build, install
from onenode.containerd import PAUSE
from onenode.layout import CACHE, E2E

from . import dockerfile
from .archive import Directory, Image, Link

BASE = {
    "/etc/passwd": b"root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n",
    "/etc/group": b"root:x:0:\nnogroup:x:65534:\n",
    "/tmp": Directory(0o1777),
}


def _program(name):
    found = shutil.which(name)
    if not found:
        raise SystemExit(f"error: `{name}` not found; `e2e/cluster install` installs what is needed")
    return Path(found)


def _libraries(*binaries):
    """What the dynamic linker would load, and the linker itself, where it looks for them. Nothing for static programs."""
    found = {}
    for binary in binaries:
        listed = subprocess.run(["ldd", str(binary)], capture_output=True, text=True)
        if lacking := [line.strip() for line in listed.stdout.splitlines() if line.endswith("not found")]:
            raise SystemExit(f"error: {binary} needs libraries that are not on this machine: {', '.join(lacking)}")
        for line in listed.stdout.splitlines():
            # "libc.so.6 => /lib/.../libc.so.6 (0x...)", or "/lib64/ld-linux-x86-64.so.2 (0x...)"
            for word in line.split():
                if word.startswith("/"):
                    found[word] = Path(word).resolve()
    return found


def _dynamic(path, binary):
    return {path: binary, **_libraries(binary)}


def _busybox():
    binary = _program("busybox")
    if _libraries(binary):
        raise SystemExit(f"error: {binary} is not static; install busybox-static")
    applets = subprocess.run([binary, "--list"], capture_output=True, text=True, check=True).stdout.split()
    return {
        "/bin/busybox": binary,
        **{f"/bin/{applet}": Link("busybox") for applet in applets if applet != "busybox"},
    }


def pause():
    """The sandbox container. catatonit reaps as well, which matters when Pods share their process namespace."""
    name, tag = PAUSE.rsplit("/", 1)[-1].split(":")
    return Image(name, {"/pause": _program("catatonit")}, {"Entrypoint": ["/pause", "-P"]}, tag).pack()


def busybox():
    """A shell and tools."""
    return Image("busybox", {**BASE, **_busybox()}, {"Cmd": ["sh"], "Env": ["PATH=/bin"]}).pack()


def envoy():
    """The real Envoy; configure it with --config-yaml."""
    return Image("envoy", {**BASE, **_dynamic("/bin/envoy", install.envoy())}, {"Entrypoint": ["/bin/envoy"]}).pack()


def cloud_sql_proxy():
    """The real Cloud SQL Auth Proxy. With --token and --port it starts without an account and without a network."""
    binary = _static(build.sidecars() / "cloud-sql-proxy")
    config = {"User": "65532:65532", "Entrypoint": ["/cloud-sql-proxy"]}
    return Image("cloud-sql-proxy", {**BASE, "/cloud-sql-proxy": binary}, config).pack()


def iptables():
    """What a mesh's init container has: iptables and a shell."""
    binary = _program("xtables-legacy-multi")
    extensions = Path("/usr/lib") / sysconfig.get_config_var("MULTIARCH") / "xtables"
    names = ("iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore")
    return Image(
        "iptables",
        {
            **BASE,
            **_busybox(),
            **_dynamic("/bin/xtables-legacy-multi", binary),
            **{str(extension): extension for extension in sorted(extensions.glob("*.so"))},
            **{f"/bin/{name}": Link("xtables-legacy-multi") for name in names},
        },
        # The default lock file is in /run, which an image from scratch does not have.
        {"Cmd": ["sh"], "Env": ["PATH=/bin", "XTABLES_LOCKFILE=/tmp/xtables.lock"]},
    ).pack()


NGINX = b"""
daemon off;
user root;
pid /tmp/nginx.pid;
error_log stderr;
events {}
http {
  access_log off;
  server { listen 8080; location / { return 200 "served\\n"; } }
}
"""


def nginx():
    """The real nginx, which answers every request to port 8080. A sidecar with no quit endpoint: SIGQUIT ends it well."""
    # What Debian's build expects to be there.
    folders = {path: Directory() for path in ("/var/lib/nginx", "/var/log/nginx")}
    files = {**BASE, **folders, "/etc/nginx.conf": NGINX, **_dynamic("/bin/nginx", install.nginx())}
    config = {"Entrypoint": ["/bin/nginx", "-c", "/etc/nginx.conf"], "Env": ["PATH=/bin"], "StopSignal": "SIGQUIT"}
    return Image("nginx", files, config).pack()


def git():
    """git and a shell. It speaks git's own protocol (`git daemon` too), and to folders."""
    # Debian's package is on this machine. Its helpers for HTTP and mail need more than it.
    programs = Path("/usr/lib/git-core")
    return Image(
        "git",
        {
            **BASE,
            **_busybox(),
            **_dynamic("/usr/bin/git", _program("git")),
            **_dynamic(f"{programs}/git-daemon", programs / "git-daemon"),
            # git starts its other half by this name.
            f"{programs}/git": Link("/usr/bin/git"),
            f"{programs}/git-upload-pack": Link("/usr/bin/git"),
            f"{programs}/git-receive-pack": Link("/usr/bin/git"),
        },
        {"Cmd": ["sh"], "Env": ["PATH=/bin:/usr/bin"]},
    ).pack()


def python():
    """The Python that runs this, with its standard library, at the same paths."""
    executable = Path(sys.executable).resolve()
    library = Path(sysconfig.get_path("stdlib"))
    unwanted = {"__pycache__", "dist-packages", "ensurepip", "idlelib", "lib2to3", "site-packages", "test", "tkinter"}
    modules = {}
    for directory, below, names in os.walk(library):
        below[:] = sorted(name for name in below if name not in unwanted and not name.startswith("config-"))
        modules |= {f"{directory}/{name}": Path(directory, name) for name in names}
    native = [path for path in modules.values() if path.suffix == ".so"]
    return Image(
        "python",
        {
            **BASE,
            **modules,
            **_dynamic(str(executable), executable),
            **_libraries(*native),
            "/bin/python3": Link(str(executable)),
        },
        {"Entrypoint": ["/bin/python3"], "Env": ["PATH=/bin", "PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1"]},
    ).pack()


def _static(binary):
    if _libraries(binary):
        raise SystemExit(f"error: {binary} is not static; in an image from scratch it would not start")
    return Path(binary)


def proa(binary):
    """proa as it is shipped: the Dockerfile's final stage around the given binary."""
    _static(binary)
    files, config = dockerfile.final_stage(binary)
    return Image("proa", files, config).pack()


def proa_example(binary):
    """What examples/Dockerfile makes on an empty base: proa and the example's two programs."""
    files = {"/proa": _static(binary)}
    for name in ("greeter", "caller"):
        program = CACHE / "examples" / name
        program.parent.mkdir(parents=True, exist_ok=True)
        source = E2E.parent / "examples" / f"{name}.rs"
        flags = ["--edition=2024", "-Copt-level=s", "-Ctarget-feature=+crt-static"]
        subprocess.run(["rustc", *flags, "-o", program, source], check=True)
        files[f"/bin/{name}"] = program
    config = {"User": "65532:65532", "Entrypoint": ["/proa"], "Env": ["PATH=/bin"]}
    return Image("example", files, config).pack()


def proa_in_busybox(binary, name="app", more=None):
    """proa as it is used: in an application's image, here one with a shell to write scenarios in."""
    files = {**BASE, **_busybox(), "/proa": _static(binary)}
    return Image(name, files, {"Entrypoint": ["/proa"], "Env": ["PATH=/bin"], **(more or {})}).pack()
