"""One line for each request, without texts. Lines are gathered for a moment, so that a request costs no system call."""

from __future__ import annotations

import asyncio
import re
import sys
import time
import traceback
from pathlib import Path

__all__ = ["RequestLog", "place_of", "trouble"]

FLUSH_SECONDS = 0.25
_JUDGE = re.compile(
    r"judge '[^']{1,100}' (raised \w+|gave no verdict within [\d.e+]+ s|answered \w+, not a Verdict)"
    r"|all \d+ judge threads are busy"
)
"""The guard's own words about a judge that failed. What a judge says itself may quote the conversation."""


class RequestLog:
    """Writes to stderr. A killed process may lose its last quarter of a second: the audit log is the record."""

    def __init__(self, *, requests: bool = True) -> None:
        self._lines: list[str] = []
        self._requests = requests
        self._time = ""
        """Of the lines that are waiting: one call for all of them."""

    def request(
        self, route: str, status: int, *, tenant: str, key: str, act: str, outcome: str, seconds: float, name: str
    ) -> None:
        """A request was answered."""
        if not self._requests:
            return
        if not self._lines:
            self._time = _now()
            asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)
        self._lines.append(
            f"{self._time} {route} {status} tenant={tenant} key={key} act={act} outcome={outcome} "
            f"{seconds * 1000:.1f}ms {name}"
        )

    def event(self, text: str) -> None:
        """Something else happened: at once."""
        self._lines.append(f"{_now()} cosa serve: {text}")
        self.flush()

    def flush(self) -> None:
        """Write what is waiting."""
        lines, self._lines = self._lines, []
        if lines:
            sys.stderr.write("\n".join((*lines, "")))
            sys.stderr.flush()


def place_of(error: BaseException) -> str:
    """An unexpected error by its kind and the line that raised it. Not its text: that may quote a conversation."""
    last = traceback.extract_tb(error.__traceback__)[-1:]
    return "".join([type(error).__name__, *(f" at {Path(one.filename).name}:{one.lineno}" for one in last)])


def trouble(error: str) -> str:
    """What a log may say of a judge's error; the audit record has it all."""
    found = _JUDGE.match(error)
    return found[0] if found else "a judge failed"


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
