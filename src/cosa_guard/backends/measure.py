"""How fast a backend runs a model here: one round, in a process of its own.

`python -m cosa_guard.backends.measure NAME:MODEL` prints the figures as one JSON object. Its memory is the backend's
and nobody else's, and a native library that aborts ends no other process.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, cast

from cosa_guard import backends
from cosa_guard.backends.base import AnyBackend, Backend, Scorer, blocks
from cosa_guard.messages import Delta, Message, Request, Sampling
from cosa_sdk import compile as compile_config
from cosa_sdk import presets
from cosa_sdk.errors import BackendError, CosaError, UsageError
from cosa_sdk.tokens import estimate

__all__ = ["Round", "main", "measure"]

PROMPT_TOKENS: Final = 600
REPLY_TOKENS: Final = 64
_FEWEST: Final = 8
"""Tokens after the first, below which a reply says nothing about speed."""
_CONFIG: Final = "film-studio"
_QUESTIONS: Final = ("What does a film editor do all day?", "What does a sound mixer do all day?")
_STORY: Final = "Write a long story about a lighthouse, a storm and a boat. Begin with the morning before the storm."


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """The figures of one round. None where a backend does not tell, or said too little."""

    load_s: float
    """From the backend's name to one that takes requests; its library is imported on the way."""
    ttft_cold_ms: float
    """To the first text of the first reply under a config."""
    ttft_warm_ms: float
    """The same for the next question under it."""
    prefill_tps: float
    """Tokens of a new prompt read in a second."""
    generate_tps: float | None
    """Tokens written in a second, after the first."""
    peak_mb: float | None
    """Most memory that the process held, in 10^6 bytes; files that are mapped count as far as they were read."""
    prompt_tokens: int
    """Read for `prefill_tps`."""
    config_tokens: int
    """Of the prompt whose first text `ttft_…` waits for."""
    counted: bool
    """Tokens of prompts were counted by the model's tokenizer; else they are estimated from the text's length."""


def measure(spec: str) -> Round:
    """One round with the backend that `spec` names, `name:model`, and its own settings.

    Raises:
        UsageError: the backend can only be awaited.
        CosaError: whatever the backend raises.
    """
    started = time.perf_counter()
    backend = backends.make(spec)
    load_s = time.perf_counter() - started
    if not blocks(backend):
        raise UsageError(f"{backend.name!r} can only be awaited: only a backend that blocks is measured")
    try:
        return _round(backend, load_s)
    finally:
        if close := getattr(backend, "close", None):
            close()


def _round(backend: Backend, load_s: float) -> Round:
    system = Message("system", compile_config(presets.load(_CONFIG)).text)
    first, second = (Request(messages=(system, Message("user", question))) for question in _QUESTIONS)
    cold = _first_text(backend, first)
    if warm := getattr(backend, "warm", None):
        warm(system.content)
    warm_s = _first_text(backend, second)
    prompt = _long_prompt(backend)
    before = _cached(backend)
    tokens, seconds = _count(backend, prompt), _first_text(backend, prompt)
    # What it had in memory already, such as the template's first words, it did not read.
    tokens -= _cached(backend) - before
    return Round(
        load_s=round(load_s, 3),
        ttft_cold_ms=round(cold * 1000, 1),
        ttft_warm_ms=round(warm_s * 1000, 1),
        prefill_tps=round(tokens / seconds, 1),
        generate_tps=_generation(backend),
        peak_mb=_peak_mb(),
        prompt_tokens=tokens,
        config_tokens=_count(backend, first),
        counted=hasattr(backend, "count_tokens"),
    )


def _first_text(backend: Backend, request: Request) -> float:
    """Seconds from a request to its first token."""
    started = time.perf_counter()
    with closing(_pieces(backend, request, 1)) as pieces:
        if next(pieces, None) is None:
            raise BackendError(f"{backend.name!r} answered nothing at all")
        return time.perf_counter() - started


def _generation(backend: Backend) -> float | None:
    at: list[float] = []
    tokens: list[int] = []
    with closing(_pieces(backend, Request(messages=(Message("user", _STORY),)), REPLY_TOKENS)) as pieces:
        for piece in pieces:
            at.append(time.perf_counter())
            tokens.append(piece.tokens)
    after = sum(tokens[1:])
    return round(after / (at[-1] - at[0]), 1) if after >= _FEWEST else None


def _pieces(backend: Backend, request: Request, most: int) -> Generator[Delta, None, None]:
    """As a generator, which can be closed even where a backend's iterator cannot."""
    for piece in backend.stream(request.replace(sampling=Sampling(max_tokens=most))):
        if piece.tokens or piece.text:
            yield piece


def _long_prompt(backend: Backend) -> Request:
    """About `PROMPT_TOKENS` tokens that nothing has in memory, or what fits the context beside a reply."""
    context = backend.capabilities.context
    most = min(PROMPT_TOKENS, context // 2) if context else PROMPT_TOKENS
    lines: list[str] = []
    while True:
        place = len(lines) + 1
        lines.append(
            f"{place}. On day {place} the keeper lit the lamp, counted {place * 7} ships and wrote it all down."
        )
        request = Request(messages=(Message("user", "\n".join(lines)),))
        if _count(backend, request) >= most:
            return request


def _count(backend: AnyBackend, request: Request) -> int:
    if hasattr(backend, "count_tokens"):
        return cast("Scorer", backend).count_tokens(request)
    return sum(estimate(message.content) for message in request.messages)


def _cached(backend: AnyBackend) -> int:
    """Tokens of prompts that were not computed, so far; 0 where the backend does not count them."""
    return int(getattr(getattr(backend, "prefix_use", None), "cached_tokens", 0))


def _peak_mb() -> float | None:
    # Not getrusage() first: on Linux a child inherits there what its parent held.
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) * 1024 / 1e6, 1)
    except OSError:
        pass
    try:
        import resource  # noqa: PLC0415  # Windows has none
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(most * (1 if sys.platform == "darwin" else 1024) / 1e6, 1)


def main() -> None:
    """Measures what the first argument names."""
    # Native libraries print where they like: what was standard output is the answer's alone.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        answer: dict[str, Any]
        try:
            answer = asdict(measure(sys.argv[1]))
        except CosaError as error:
            answer = {"error": str(error)}
        out.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
