"""The simple record: one file of JSON lines, without a chain."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Self

from cosa_guard.audit.files import LOOK_SECONDS, must_exist, open_to_append, write_once
from cosa_guard.verdicts import Entry

__all__ = ["JsonlRecord"]


class JsonlRecord:
    """Appends one JSON line for each ruling: `Guard(…, record=JsonlRecord("audit.jsonl"))`.

    A line is handed to the operating system before the call returns: it survives `kill -9` of the process (not a power
    cut). It holds decisions, never texts. Nothing shows whether the file was changed later: see `AuditLog`.

    Raises:
        AuditError: the file cannot be opened or written; the guard then releases nothing.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._lock = Lock()
        self._file = open_to_append(self._path)
        self._looked = time.time()

    def __call__(self, entry: Entry) -> None:
        """Record one ruling."""
        ruling, decision = entry.ruling, entry.ruling.decision
        now = time.time()
        line = json.dumps(
            {
                "time": now,
                "request": entry.request,
                "tenant": entry.tenant,
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
            if abs(now - self._looked) >= LOOK_SECONDS:
                must_exist(self._file, self._path)
                self._looked = now
            write_once(self._file, data, self._path)

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
