"""A record of every ruling, written before the text it is about is released."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Self

from cosa_guard.verdicts import Entry
from cosa_sdk.errors import CosaError

__all__ = ["AuditError", "JsonlRecord"]


class AuditError(CosaError):
    """A ruling could not be recorded, so nothing was released."""


class JsonlRecord:
    """Appends one JSON line for each ruling: `Guard(…, record=JsonlRecord("audit.jsonl"))`.

    A line is handed to the operating system before the call returns: it survives `kill -9` of the process (not a power
    cut). It holds decisions, never texts.

    Raises:
        AuditError: the file cannot be opened or written; the guard then releases nothing.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._lock = Lock()
        try:
            self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError as error:
            raise AuditError(f"cannot open the audit record {str(path)!r}: {error.strerror}") from None

    def __call__(self, entry: Entry) -> None:
        """Record one ruling."""
        ruling, decision = entry.ruling, entry.ruling.decision
        line = json.dumps(
            {
                "time": time.time(),
                "config": entry.config,
                "stage": ruling.stage,
                "outcome": decision.outcome,
                "prompt_type": decision.prompt_type,
                "rules": decision.rules,
                "unexamined": decision.unexamined,
                "tolerated": decision.tolerated,
                "judges": [verdict.judge for verdict in ruling.verdicts],
                "error": ruling.error,
            },
            ensure_ascii=False,
        )
        data = f"{line}\n".encode("utf-8", "backslashreplace")
        with self._lock:
            try:
                written = os.write(self._file, data)
            except OSError as error:
                raise AuditError(f"cannot write the audit record {str(self._path)!r}: {error.strerror}") from None
        if written != len(data):
            raise AuditError(f"the audit record {str(self._path)!r} took only {written} of {len(data)} bytes")

    def close(self) -> None:
        """Close the file; recording fails from then on."""
        with self._lock:
            # The number may belong to another file soon.
            file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
