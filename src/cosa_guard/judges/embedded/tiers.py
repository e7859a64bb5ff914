"""The two networks, run by onnxruntime. The only module that needs the `embedded` extra.

Both take word-piece ids and give the same outputs: logits of all heads, and the encoder also a vector of what the
text is about. They are immutable and safe to share between threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, TypeAlias

from cosa_guard.judges.embedded.windows import Coded
from cosa_guard.judges.embedded.wordpiece import PAD, WordPiece
from cosa_sdk.errors import MissingExtra

try:
    import numpy as np
    import onnxruntime
except ImportError as error:  # pragma: no cover  # tests/test_install.py runs without it
    raise MissingExtra("the embedded judge", "embedded") from error

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["CODES", "HEADS", "MEANING", "Array", "Tier", "load", "logsumexp", "stack", "vocabulary"]

Array: TypeAlias = "npt.NDArray[np.float32]"
"""What the networks give: logits and vectors."""

CODES = "DFPVRSWO"
"""Order of the risks in every head."""
HEADS = {"prompt": slice(0, 8), "text": slice(8, 16), "response": slice(16, 24), "reply": slice(24, 26)}
"""Where each head's logits stand; `reply` is refused?, addressed?."""
MEANING = slice(26, None)
"""Where the vector of the encoder stands behind the logits."""

_AT_ONCE = {"fast": 256, "encoder": 1}
"""Readings in one run. The encoder computes in integers whose scale all readings of a run share: read alone, none is
read more coarsely because of what stands beside it. And memory is bounded, however many sentences a text has."""


class Tier:
    """One network.

    Args:
        data: the ONNX file.
        at_once: readings in one run.
    """

    def __init__(self, data: bytes, *, at_once: int = 1) -> None:
        self._at_once = at_once
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # threads cost more than a few ms of work
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def read(self, rows: Sequence[Coded]) -> Array:
        """Outputs of each reading, (rows, outputs), float32."""
        size = self._at_once
        return stack([self._run(rows[start : start + size]) for start in range(0, len(rows), size)])

    def _run(self, rows: Sequence[Coded]) -> Array:
        length = max(len(ids) for ids, _ in rows)
        ids: npt.NDArray[np.int64] = np.full((len(rows), length), PAD, dtype=np.int64)
        segments: npt.NDArray[np.int64] = np.zeros((len(rows), length), dtype=np.int64)
        mask: Array = np.zeros((len(rows), length), dtype=np.float32)
        for number, (row, where) in enumerate(rows):
            ids[number, : len(row)] = row
            segments[number, : len(row)] = where
            mask[number, : len(row)] = 1.0
        out: Array = self._session.run(None, {"ids": ids, "segments": segments, "mask": mask})[0]
        return out


def _file(name: str) -> bytes:
    return resources.files("cosa_guard.judges.embedded").joinpath("weights").joinpath(name).read_bytes()


@cache
def load(name: str) -> Tier:
    """`fast` or `encoder`, loaded once a process."""
    return Tier(_file(f"{name}.onnx"), at_once=_AT_ONCE[name])


@cache
def vocabulary() -> WordPiece:
    """The word pieces that both tiers read."""
    return WordPiece(_file("vocabulary.txt").decode("utf-8").rstrip("\n").split("\n"))


def logsumexp(logits: Array) -> Array:
    """Along the last axis: what ranks 'any risk' better than a head of its own."""
    top = logits.max(axis=-1, keepdims=True)
    sums: Array = top + np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))
    return sums[..., 0]


def stack(parts: Sequence[Array]) -> Array:
    """Rows of several arrays under each other."""
    return np.concatenate(parts)
