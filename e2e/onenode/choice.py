"""What cluster is asked for. It is kept beside the cluster: a daemon that is started later must be of the same kind."""

import json
from dataclasses import asdict, dataclass

from .layout import STATE

# Which release, and the Go module file that pins it.
KUBERNETES = {"newest": "go.mod", "oldest": "oldest.mod"}
# Which container runtime: Debian's containerd with runc, the same with crun, or the newest containerd with runc.
RUNTIMES = ("debian", "crun", "newest")

_FILE = STATE / "choice.json"


@dataclass(frozen=True)
class Choice:
    kubernetes: str = "newest"
    beta: bool = False
    runtime: str = "debian"

    @classmethod
    def of(cls, arguments):
        return cls(arguments.kubernetes, arguments.beta, arguments.runtime)

    @classmethod
    def load(cls):
        return cls(**json.loads(_FILE.read_text()))

    def save(self):
        _FILE.write_text(json.dumps(asdict(self)))

    def flags(self):
        """As the command line has it."""
        beta = ["--beta"] if self.beta else []
        return [f"--kubernetes={self.kubernetes}", f"--runtime={self.runtime}", *beta]

    def __str__(self):
        return " ".join(self.flags())


def add_compiled(add):
    """What is compiled depends on these."""
    text = "the newest release, or the oldest that upstream still supports (default: newest)"
    add("--kubernetes", choices=KUBERNETES, default="newest", help=text)


    text = "Debian's containerd with runc, the same with crun, or the newest containerd with runc (default: debian)"
    add("--runtime", choices=RUNTIMES, default="debian", help=text)


def add_all(add):
    add_compiled(add)
    add("--beta", action="store_true", help="switch every beta feature and API on, and the stop signals of KEP-4960")
