"""What a flow may ask for. A flow is a generator of steps; a driver answers them.

`verdict = yield from Ask(judge, case)` is a `Verdict` to the type checker, because each step is generic in its answer.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar, final

from cosa_guard.judges.base import AnyJudge
from cosa_guard.verdicts import Case, Entry, Verdict

__all__ = ["READY", "Ask", "Begin", "Close", "Emit", "Flow", "Open", "Pull", "Record", "Settle", "Step", "Ticket"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Flow = Generator["Step[Any]", Any, T]
"""Asks for steps and ends with a `T`."""


class Step(Generic[T]):
    """One thing that a flow asks for; its answer is a `T`."""

    __slots__ = ()

    def __iter__(self) -> Generator[Step[Any], Any, T]:
        answer: T = yield self
        return answer


class Ticket(Protocol[T_co]):
    """A flow that was begun and runs beside the one that began it."""

    @property
    def ready(self) -> bool:
        """It has ended: `Settle` will not wait."""
        ...


@final
class _Ready:
    __slots__ = ()

    def __repr__(self) -> str:
        return "READY"


READY: Final = _Ready()
"""What `Pull` answers when its ticket was ready before the next piece."""


@dataclass(frozen=True, slots=True)
class Ask(Step[Verdict]):
    """Have one judge read one case. A failing or slow judge is thrown into the flow as `JudgeError`."""

    judge: AnyJudge
    case: Case


@dataclass(frozen=True, slots=True)
class Begin(Step["Ticket[T]"], Generic[T]):
    """Start a flow that runs while this one goes on."""

    flow: Flow[T]


@dataclass(frozen=True, slots=True)
class Settle(Step[T], Generic[T]):
    """Wait for a begun flow and get its result."""

    ticket: Ticket[T]


@dataclass(frozen=True, slots=True)
class Open(Step[None]):
    """Start generating; an open generation is closed first.

    What is asked for is the backend's business: a `Request` for a model, an upstream call for a wire protocol.
    """

    request: Any


@dataclass(frozen=True, slots=True)
class Pull(Step[Any]):
    """The next piece of the open generation; None at its end; `READY` when `or_ticket` is ready first."""

    or_ticket: Ticket[Any] | None = None


@dataclass(frozen=True, slots=True)
class Close(Step[None]):
    """Stop the open generation: the backend stops working on it."""


@dataclass(frozen=True, slots=True)
class Emit(Step[None]):
    """Hand something to the caller: a `Delta`, or a piece of an answer on the wire."""

    piece: Any


@dataclass(frozen=True, slots=True)
class Record(Step[None]):
    """Put a ruling on record. Answered only when it would survive the end of the process."""

    entry: Entry
