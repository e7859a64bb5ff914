"""What makes a model fast on this machine: the number of threads, the size of a batch, the file's quantization.

All of it is measured once, remembered in the user's cache, and can be overridden. How many threads are best is no
matter of counting cores: on two cores with a busy neighbour, two threads took twice as long as one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, NamedTuple

from cosa_guard.backends.llama_native import ContextSettings, Input, NativeContext, NativeModel, requantize
from cosa_guard.backends.models import cache_folder
from cosa_guard.backends.settings import cores

__all__ = ["Quick", "Tuning", "quick_copy", "recall_tuning", "tune"]

_log = logging.getLogger(__name__)

_READ, _WRITTEN = 16, 4
"""Tokens of one measurement; how many follow one by one."""
_USUAL: Final = (256, 128)
"""Tokens of a usual request: read, and written. They weigh what was measured."""
_ROUNDS, _SECONDS = 2, 2.0
_HOPELESS: Final = 1.5
"""A number of threads that takes this much longer than another is not tried again."""
_WORTH_IT: Final = 0.95
"""More threads, or a larger batch, must take less than this share of the time of fewer."""
_BATCHES: Final = (64, 128, 256)
_DEFAULT_BATCH: Final = 128
_LONGEST_BATCH_S: Final = 1.5
_DIVERGENCE: Final = 0.02
"""Nats that a requantized model's next-token distributions may be off the original's, on average. SmolLM2 in Q4_1 is
0.0033 off its own F16 weights, through the arithmetic alone, its Q8_0 copy 0.0045, and the two are 0.006 apart."""
_CHECKED_TOKENS: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """How a model is computed fastest here."""

    threads: int
    batch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Quick:
    """A copy of a model that this machine computes faster, or why there is none."""

    path: Path | None
    divergence: float
    """Mean Kullback-Leibler divergence of its next-token distributions from the original's, in nats."""


def recall_tuning(key: str, folder: Path | None = None) -> Tuning | None:
    """What `tune` found for `key` before, or None."""
    found = _read(_memory(folder)).get(_digest(key))
    try:
        return Tuning(threads=int(found["threads"]), batch=int(found["batch"])) if found else None
    except (KeyError, TypeError, ValueError):
        return None


def tune(
    model: NativeModel, key: str, folder: Path | None = None, *, clock: Callable[[], float] = time.perf_counter
) -> Tuning:
    """Measures for about 2 to 4 seconds and remembers the result under `key`.

    Args:
        key: All that the result depends on but the machine's cores: the file, and what computes it.
        folder: Where to remember it; the user's cache by default.
        clock: Seconds.
    """
    threads = _threads(model, clock)
    tuning = Tuning(threads=threads, batch=_batch(model, threads, clock))
    known = _read(_memory(folder))
    known[_digest(key)] = asdict(tuning)
    _write(_memory(folder), json.dumps(known, indent=1).encode())
    return tuning


def quick_copy(source: Path, key: str, text: str, folder: Path | None = None, *, threads: int = 1) -> Quick:
    """The file as Q8_0, made once: it reads prompts about twice as fast as Q4_1. Used only if it says the same.

    Args:
        key: All that the copy depends on: the file, and what computes it.
        text: On which the two are compared, such as a compiled config.
        folder: Where it lies; the user's cache by default.
        threads: To make it with.

    Raises:
        BackendError: llama.cpp cannot write or load it.
        OSError: the folder cannot be written to.
    """
    folder = folder or cache_folder().parent / "requantized"
    name = f"{source.stem}.Q8_0-{_digest(key)[:12]}"
    path, note = folder / f"{name}.gguf", folder / f"{name}.json"
    known = _read(note).get("divergence")
    if isinstance(known, float) and (path.is_file() or known > _DIVERGENCE):
        return Quick(path=path if path.is_file() else None, divergence=known)
    folder.mkdir(parents=True, exist_ok=True)
    with _new_file(folder) as new:
        requantize(source, new, threads)
        found = _divergence(source, new, text, threads)
        good = found <= _DIVERGENCE  # not so for a NaN
        if good:
            new.replace(path)
    _write(note, json.dumps({"source": source.name, "divergence": found, "limit": _DIVERGENCE}).encode())
    if not good:
        _log.warning("the Q8_0 copy of %s is %.3f nats off and is not used", source.name, found)
    return Quick(path=path if good else None, divergence=found)


def _threads(model: NativeModel, clock: Callable[[], float]) -> int:
    available = cores()
    candidates = sorted({1, max(1, available // 2), max(1, available - 1), available})
    best: dict[int, float] = {}
    with contextlib.ExitStack() as stack:
        contexts = {count: stack.enter_context(_context(model, count, _READ)) for count in candidates}
        start, rounds = clock(), 0
        # In turns, so that a neighbour's minute hits all alike.
        while rounds < _ROUNDS or clock() - start < _SECONDS:
            rounds += 1
            for count, context in list(contexts.items()):
                quickest = min(best.values(), default=float("inf"))
                spent = _usual(context, clock, _HOPELESS * quickest)
                if spent is None:
                    del contexts[count]  # freed with the rest
                else:
                    best[count] = min(spent, best.get(count, spent))
    return _least(best)


def _batch(model: NativeModel, threads: int, clock: Callable[[], float]) -> int:
    best: dict[int, float] = {}
    for size in _BATCHES:
        with _context(model, threads, size) as context:
            spent = _read_time(context, size, clock)
        best[size] = spent / size
        if spent > _LONGEST_BATCH_S:
            break  # a request that is given up would go on for longer than that
    return _least(best) if best else _DEFAULT_BATCH


def _least(best: dict[int, float]) -> int:
    """The smallest number that is about as quick as any."""
    chosen = min(best)
    for number in sorted(best):
        if best[number] < best[chosen] * _WORTH_IT:
            chosen = number
    return chosen


def _usual(context: NativeContext, clock: Callable[[], float], most: float) -> float | None:
    """Seconds of a usual request; None where a few tokens show that it would take more than `most`.

    With a busy neighbour, measuring threads that wait for each other took 40 s: nobody waits for that.
    """
    reading = _read_time(context, 1, clock)
    if _USUAL[1] * reading > most:
        return None
    reading = _read_time(context, _READ, clock) / _READ
    start = clock()
    for place in range(_WRITTEN):
        context.compute([Input(1 + place, _READ + place, 0, wanted=True)])
        context.logits(0)
    writing = (clock() - start) / _WRITTEN
    return _USUAL[0] * reading + _USUAL[1] * writing


def _read_time(context: NativeContext, count: int, clock: Callable[[], float]) -> float:
    context.clear(0)
    start = clock()
    context.compute([Input(1 + place % 200, place, 0, wanted=place == count - 1) for place in range(count)])
    context.logits(count - 1)
    return clock() - start


@contextlib.contextmanager
def _context(model: NativeModel, threads: int, batch: int) -> Iterator[NativeContext]:
    context = model.context(
        ContextSettings(context=max(2 * batch, 256), sequences=1, threads=threads, batch=max(batch, 32))
    )
    try:
        yield context
    finally:
        context.free()


def _divergence(source: Path, copy: Path, text: str, threads: int) -> float:
    left, right = (_distributions(path, text, threads) for path in (source, copy))
    return float((left.exp * (left.log - right.log)).sum(axis=1).mean())


class _Rows(NamedTuple):
    log: Any
    exp: Any


def _distributions(path: Path, text: str, threads: int) -> _Rows:
    """What a model says of each token of a text, as an array of log-probabilities."""
    import numpy as np  # noqa: PLC0415  # comes with llama-cpp-python

    model = NativeModel(path)
    try:
        ids = model.tokenize([text], False)[:_CHECKED_TOKENS]
        with _context(model, threads, _CHECKED_TOKENS) as context:
            context.compute([Input(token, place, 0, wanted=True) for place, token in enumerate(ids)])
            rows = np.stack([context.logits(place) for place in range(len(ids))]).astype(np.float64)
    finally:
        model.free()
    rows -= rows.max(axis=1, keepdims=True)
    rows -= np.log(np.exp(rows).sum(axis=1, keepdims=True))
    return _Rows(rows, np.exp(rows))


def _digest(key: str) -> str:
    return blake2b(f"{key} {cores()}".encode(), digest_size=16).hexdigest()


def _memory(folder: Path | None) -> Path:
    return (folder or cache_folder().parent) / "tuning.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(path: Path, raw: bytes) -> None:
    """Whole or not at all; a cache that cannot be written costs time at the next start, nothing else."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _new_file(path.parent) as new:
            new.write_bytes(raw)
            new.replace(path)
    except OSError as error:
        _log.warning("what was measured is not remembered: %s", error)


@contextlib.contextmanager
def _new_file(folder: Path) -> Iterator[Path]:
    handle, name = tempfile.mkstemp(dir=folder, prefix=".new")
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)
