"""What models said in a run, kept on disk: no question is asked twice, not even by another system or after a crash.

One line of the file holds what was computed together. A run that is killed loses the line it was writing, whole, so
that what is computed next is computed beside the same neighbours as before.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from cosa_guard.messages import Finish, Request
from cosa_sdk.config import canonical_json
from cosa_sdk.errors import UsageError

__all__ = ["Replies", "Said", "key_of", "whole_lines"]


@dataclass(frozen=True, slots=True)
class Said:
    """What a model answered: a text, or the distribution over its next token."""

    text: str = ""
    finish: Finish = "stop"
    tokens: int = 0
    logprobs: Mapping[str, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """As written."""
        if self.logprobs is not None:
            return {"logprobs": dict(self.logprobs)}
        return {"text": self.text, "finish": self.finish, "tokens": self.tokens}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Said:
        """As read."""
        if "logprobs" in value:
            return cls(logprobs={str(token): float(logprob) for token, logprob in value["logprobs"].items()})
        return cls(str(value["text"]), cast("Finish", value["finish"]), int(value["tokens"]))


def key_of(model: str, request: Request, *, top: int | None = None) -> str:
    """Names a question to a model: the same key, the same answer.

    Args:
        top: of a question for the next token's distribution, how many tokens it shows.
    """
    sampling = request.sampling
    return hashlib.sha256(
        canonical_json(
            {
                "model": model,
                "messages": [[one.role, one.content] for one in request.messages],
                "sampling": [
                    sampling.temperature,
                    sampling.top_p,
                    sampling.max_tokens,
                    sampling.seed,
                    list(sampling.stop),
                    sampling.json_schema,
                ],
                "adapters": [[one.name, one.scale] for one in request.adapters],
                "top": top,
            }
        )
    ).hexdigest()[:32]


def whole_lines(path: Path) -> list[str]:
    """The lines of a file that were written to their end; what a crash left of another one is cut off the file.

    Raises:
        UsageError: the file is not UTF-8.
    """
    if not path.exists():
        return []
    with path.open("r+b") as file:
        content = file.read()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            file.truncate(end)
    try:
        return content[:end].decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no file of a run: byte {error.start} is not UTF-8. Name another folder.") from None


class Replies:
    """Answers by the key of their question. Many threads may use it.

    Args:
        path: where they are kept; None: in memory only.

    Raises:
        UsageError: the file holds something else.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, Said] = {}
        self._file: int | None = None
        self.read = 0
        """Answers that were there when the run began."""
        if path is None:
            return
        for number, line in enumerate(whole_lines(path), 1):
            try:
                self._known.update(_wave(json.loads(line)))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise UsageError(
                    f"{path}:{number} is no line of a run's replies ({error}): name another folder"
                ) from None
        self.read = len(self._known)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def get(self, key: str) -> Said | None:
        """The answer, if the question was asked before."""
        return self._known.get(key)

    def add(self, answers: Sequence[tuple[str, Said]]) -> None:
        """Keep what was computed together; written before anybody uses it."""
        if not answers:
            return
        line = json.dumps([[key, said.to_json()] for key, said in answers], ensure_ascii=True) + "\n"
        with self._lock:
            if self._file is not None:
                _write(self._file, line.encode())
            self._known.update(answers)

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            if self._file is not None:
                os.close(self._file)
            self._file = None


def _wave(value: Any) -> dict[str, Said]:
    if not isinstance(value, list):
        raise TypeError("not a list")
    return {str(key): Said.from_json(said) for key, said in value}


def _write(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]
