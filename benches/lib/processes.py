"""Processes of the benchmarks, and what they print."""

import os
import select
import subprocess
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def build_stamp():
    binary = Path(tempfile.mkdtemp(prefix="proa-bench-")) / "stamp"
    subprocess.run(["cc", "-O2", "-static", "-o", binary, HERE / "stamp.c"], check=True, timeout=60)
    return binary


class Silent(Exception):
    """It has ended, or says nothing."""


class Process:
    """One that prints lines of a word and a number."""

    def __init__(self, command, environment=None, stdin=subprocess.DEVNULL):
        self.process = subprocess.Popen(
            [str(word) for word in command], env=environment, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.pid = self.process.pid
        self.received = b""

    def line(self, word, seconds=30):
        """The number behind the next line with this word."""
        deadline = time.monotonic() + seconds
        while True:
            while b"\n" in self.received:
                line, _, self.received = self.received.partition(b"\n")
                words = line.split()
                if len(words) == 2 and words[0].decode() == word:
                    return int(words[1])
            readable, _, _ = select.select([self.process.stdout], [], [], max(0, deadline - time.monotonic()))
            more = os.read(self.process.stdout.fileno(), 65536) if readable else b""
            if not more:
                raise Silent(f"{self.process.args[0]} has not said {word}")
            self.received += more

    def forget(self):
        """What it has said so far."""
        while select.select([self.process.stdout], [], [], 0)[0] and os.read(self.process.stdout.fileno(), 65536):
            pass
        self.received = b""

    def memory(self):
        """Resident and anonymous memory in KiB, threads, and voluntary context switches."""
        found = dict(line.split(":", 1) for line in Path(f"/proc/{self.pid}/status").read_text().splitlines())
        number = lambda key: int(found[key].split()[0])  # noqa: E731
        return number("VmRSS"), number("RssAnon"), number("Threads"), number("voluntary_ctxt_switches")

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()
