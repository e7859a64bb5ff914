"""Doubles for tests of applications, judges and backends: shipped, because users test too."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from cosa_guard.backends.base import Capabilities
from cosa_guard.conversation import MessageLike
from cosa_guard.guard import Guard
from cosa_guard.messages import Delta, Request, Sampling
from cosa_guard.verdicts import Case, Report, Verdict
from cosa_sdk.config import SafetyConfig
from cosa_sdk.decide import Evidence

__all__ = ["AsyncFakeBackend", "FakeBackend", "ScriptedJudge", "Transcript", "block_network", "both", "chunked"]

Script = str | Sequence[str] | Callable[[Request], str | Sequence[str]]


def chunked(text: str, sizes: Iterable[int]) -> list[str]:
    """`text` cut into pieces of the given sizes; what is left over is the last piece."""
    pieces, start = [], 0
    for size in sizes:
        if start >= len(text):
            break
        pieces.append(text[start : start + size])
        start += size
    return [*pieces, text[start:]] if start < len(text) else pieces


@dataclass(slots=True)
class FakeBackend:
    """A backend that says what it is told to. Remembers requests and whether its streams were closed.

    Args:
        script: a text (one piece), its pieces, or a function of the request that gives either.
    """

    script: Script = "Hello."
    name: str = "fake"
    capabilities: Capabilities = field(default_factory=Capabilities)
    requests: list[Request] = field(default_factory=list)
    pulled: int = 0
    """Pieces that were asked for."""
    closed: int = 0
    """Streams that ended or were closed."""

    def stream(self, request: Request) -> Iterator[Delta]:
        """Give the scripted pieces; the last one has `finish="stop"`."""
        self.requests.append(request)
        said = self.script(request) if callable(self.script) else self.script
        pieces = [said] if isinstance(said, str) else list(said)
        try:
            for place, piece in enumerate(pieces):
                self.pulled += 1
                yield Delta(piece, finish="stop" if place == len(pieces) - 1 else None)
        finally:
            self.closed += 1


class AsyncFakeBackend:
    """A `FakeBackend` that can only be awaited."""

    def __init__(self, script: Script = "Hello.") -> None:
        self.inner = FakeBackend(script)
        self.name = "fake-async"
        self.capabilities = Capabilities()

    async def astream(self, request: Request) -> AsyncIterator[Delta]:
        """As `FakeBackend.stream`."""
        stream = self.inner.stream(request)
        try:
            for delta in stream:
                await asyncio.sleep(0)
                yield delta
        finally:
            stream.close()  # type: ignore[attr-defined]  # it is a generator


@dataclass(slots=True)
class ScriptedJudge:
    """Finds elements by plain words: `ScriptedJudge({"violence": ["fight"]})`. Examines everything.

    Args:
        words: element id (`violence`, `rule:heists`, `guideline`) to the words that show it.
        examines: the elements that it settles; all of the config's by default.
        error: raised instead of judging.
    """

    words: dict[str, Sequence[str]] = field(default_factory=dict)
    examines: frozenset[str] | None = None
    error: Exception | None = None
    name: str = "scripted/1"
    inline: bool = True
    cases: list[Case] = field(default_factory=list)

    def covers(self, config: SafetyConfig) -> frozenset[str]:
        """What it examines."""
        return config.elements if self.examines is None else self.examines

    def holdback(self, config: SafetyConfig) -> int:  # noqa: ARG002  # its words are its own
        """The longest word."""
        return max((len(word) for words in self.words.values() for word in words), default=0)

    def judge(self, case: Case) -> Verdict:
        """Look for the words, ignoring case."""
        self.cases.append(case)
        if self.error is not None:
            raise self.error
        text = " ".join([case.text, *(turn.content for turn in case.turns if case.stage == "input")]).lower()
        found = {element for element, words in self.words.items() if any(word.lower() in text for word in words)}
        examined = self.covers(case.config)
        return Verdict(judge=self.name, evidence=Evidence(found=frozenset(found), examined=examined | found))


@dataclass(frozen=True, slots=True)
class Transcript:
    """What one guarded conversation gave."""

    pieces: tuple[Delta, ...]
    report: Report

    @property
    def text(self) -> str:
        """Everything that reached the caller."""
        return "".join(piece.text for piece in self.pieces)

    @property
    def finish(self) -> str | None:
        """How it ended."""
        return self.pieces[-1].finish


def both(
    make: Callable[[], Guard], messages: str | Iterable[MessageLike], *, sampling: Sampling | None = None
) -> Transcript:
    """Run a stream sync and async on two guards made alike, assert that they are equal, and give it.

    Raises:
        AssertionError: the two differ in pieces or report.
    """
    stream = make().stream(messages, sampling=sampling)
    blocking = Transcript(tuple(stream), stream.report)

    async def awaited() -> Transcript:
        stream = make().astream(messages, sampling=sampling)
        pieces = tuple([piece async for piece in stream])
        return Transcript(pieces, stream.report)

    awaiting = asyncio.run(awaited())
    assert blocking == awaiting, f"sync and async differ:\n{blocking}\n{awaiting}"
    return blocking


@contextmanager
def block_network() -> Iterator[None]:
    """Refuse connections to anything but this machine, so that no test calls a model by accident."""
    allowed = {"127.0.0.1", "::1", "localhost"}
    real = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and address[0] not in allowed:
            raise AssertionError(f"a test tried to reach {address[0]!r}: use a FakeBackend, or allow it explicitly")
        real(self, address)

    socket.socket.connect = connect  # type: ignore[method-assign,assignment]  # put back below
    try:
        yield
    finally:
        socket.socket.connect = real  # type: ignore[method-assign]
