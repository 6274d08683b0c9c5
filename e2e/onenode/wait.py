"""Waiting on observable state: a condition, a deadline, and what was last seen when it passes."""

import time


class Timeout(Exception):
    """The deadline passed; the message says what was waited for and what was seen instead."""


def until(what, condition, seconds, every=0.05):
    """Call `condition` until it returns something true and return that. An exception counts as "not yet"."""
    deadline = time.monotonic() + seconds
    seen = None
    while True:
        try:
            if value := condition():
                return value
            seen = value
        except Exception as error:  # connection refused, not found, half-written: all mean "not yet"
            if isinstance(error, Fatal):
                raise
            seen = error
        if time.monotonic() >= deadline:
            raise Timeout(f"{what}: not within {seconds}s; last seen: {seen!r}")
        time.sleep(every)


class Fatal(Exception):
    """Waiting on is pointless, for instance because the process that should become ready has ended."""
