"""How the systems of a run ask their models: in lockstep, so that a run can be repeated to the last bit, or at once.

Tasks are plain blocking code, one for each row. They ask through a `Shared` model, and whoever runs them decides when
a question is put:

- `Lockstep` waits until every task that runs has asked or ended, and then has all questions computed together. What is
  computed beside what depends on the tasks alone, so a run that was killed goes on as if nothing had happened.
- `AtOnce` puts each question when it comes, as many at a time as the model takes, within limits of rate and cost.
"""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from cosa_guard.backends.base import AnyBackend, Completer, Scorer, blocks
from cosa_guard.evals.limits import Meter
from cosa_guard.evals.replies import Replies, Said, key_of
from cosa_guard.messages import Delta, Finish, LogProbs, Request
from cosa_sdk.errors import BackendError, CosaError, UsageError

__all__ = ["AT_ONCE", "AtOnce", "Desk", "Lockstep", "Shared"]

T = TypeVar("T")
AT_ONCE = 8
"""Questions at a time to a server that does not say how many it takes."""
Told = Callable[[int], None]
"""Called with how many answers came."""


@dataclass(slots=True, eq=False)
class _Ask:
    """One question of one task."""

    order: int
    model: AnyBackend
    request: Request
    top: int | None
    key: str
    answer: Said | CosaError | None = None
    done: threading.Event = field(default_factory=threading.Event)


class Shared:
    """A model as tasks see it: a `Backend` and a `Scorer` whose answers are kept."""

    def __init__(self, desk: Desk, backend: AnyBackend) -> None:
        self._desk, self._backend = desk, backend
        self.name = backend.name
        self.capabilities = backend.capabilities

    def stream(self, request: Request) -> Iterator[Delta]:
        """The whole reply as one piece."""
        said = self._desk.ask(self._backend, request)
        yield Delta(said.text, said.tokens, said.finish)

    def next_logprobs(self, request: Request, *, top: int = 64) -> LogProbs:
        """See `Scorer.next_logprobs`."""
        return self._desk.ask(self._backend, request, top=top).logprobs or {}

    def count_tokens(self, request: Request) -> int:
        """See `Scorer.count_tokens`."""
        if not isinstance(self._backend, Scorer):
            raise UsageError(f"backend {self.name!r} counts no tokens")
        return self._backend.count_tokens(request)


class Desk(ABC):
    """Runs tasks, and puts their questions to models.

    Args:
        replies: what was answered before; new answers are added.
        told: called with the number of answers that came.
    """

    exact: bool
    """Whether another run gives the same answers."""

    def __init__(self, replies: Replies, *, told: Told | None = None) -> None:
        self._replies = replies
        self._told: Told = told or (lambda _: None)

    def model(self, backend: AnyBackend) -> Shared:
        """The backend as tasks may use it."""
        return Shared(self, backend)

    def ask(self, backend: AnyBackend, request: Request, *, top: int | None = None) -> Said:
        """The answer to a question, from before or from the model.

        Raises:
            CosaError: as the backend raises.
        """
        key = key_of(backend.name, request, top=top)
        return self._replies.get(key) or self._put(backend, request, top, key)

    @abstractmethod
    def run(self, tasks: Sequence[Callable[[], T]]) -> list[T | CosaError]:
        """What the tasks return, in order, or the `CosaError` that each raised. Other exceptions are raised here."""

    @abstractmethod
    def _put(self, backend: AnyBackend, request: Request, top: int | None, key: str) -> Said: ...


class Lockstep(Desk):
    """Computes the questions of all tasks together.

    What other threads ask for a task must be asked in the task's own thread.
    """

    def __init__(self, replies: Replies, *, meter: Meter | None = None, told: Told | None = None) -> None:
        super().__init__(replies, told=told)
        self.exact = True
        self._meter = meter or Meter()
        self._turn = threading.Condition()
        self._asks: list[_Ask] = []
        self._running = 0
        self._stopped = False
        self._here = threading.local()

    def model(self, backend: AnyBackend) -> Shared:
        """See `Desk.model`. A model that is not a `Completer`, such as a judge behind a server, ends exactness."""
        self.exact = self.exact and isinstance(backend, Completer)
        return super().model(backend)

    def run(self, tasks: Sequence[Callable[[], T]]) -> list[T | CosaError]:
        """See `Desk.run`; the tasks run in a thread each."""
        results: list[Any] = [None] * len(tasks)
        broken: list[BaseException] = []
        self._running, self._stopped = len(tasks), False

        def work(order: int) -> None:
            self._here.order = order
            try:
                results[order] = tasks[order]()
            except CosaError as error:
                results[order] = error
            except BaseException as error:  # noqa: BLE001  # raised where the tasks were handed in
                broken.append(error)
            finally:
                with self._turn:
                    self._running -= 1
                    self._turn.notify_all()

        for order in range(len(tasks)):
            threading.Thread(target=work, args=(order,), name=f"cosa eval {order}", daemon=True).start()
        try:
            while asks := self._next():
                self._serve(asks)
        finally:
            self._stop()
        if broken:
            raise broken[0]
        return results

    def _next(self) -> list[_Ask]:
        with self._turn:
            self._turn.wait_for(lambda: len(self._asks) == self._running)
            asks, self._asks = sorted(self._asks, key=lambda ask: ask.order), []
        return asks

    def _stop(self) -> None:
        with self._turn:
            self._stopped = True
            left, self._asks = self._asks, []
        for ask in left:
            ask.done.set()

    def _put(self, backend: AnyBackend, request: Request, top: int | None, key: str) -> Said:
        order = getattr(self._here, "order", None)
        if order is None:
            raise UsageError(f"a question for {backend.name!r} came from a thread that is no task's")
        ask = _Ask(order, backend, request, top, key)
        with self._turn:
            if self._stopped:
                raise BackendError("the run was stopped")
            self._asks.append(ask)
            self._turn.notify_all()
        ask.done.wait()
        if ask.answer is None:
            raise BackendError("the run was stopped")
        if isinstance(ask.answer, CosaError):
            raise ask.answer
        return ask.answer

    def _serve(self, asks: Sequence[_Ask]) -> None:
        """Each question once, in an order that the tasks decide; then everybody goes on."""
        first = list({ask.key: ask for ask in asks}.values())
        try:
            for model in {id(ask.model): ask.model for ask in first}.values():
                self._compute(model, [ask for ask in first if ask.model is model])
            kept = [(ask.key, ask.answer) for ask in first if isinstance(ask.answer, Said)]
            self._replies.add(kept)
            answers = {ask.key: ask.answer for ask in first}
            for ask in asks:
                ask.answer = answers[ask.key]
        finally:
            for ask in asks:
                ask.done.set()

    def _compute(self, model: AnyBackend, asks: Sequence[_Ask]) -> None:
        written = [ask for ask in asks if ask.top is None]
        if not isinstance(model, Completer):
            self._ask_at_once(model, asks)
            return
        for ask in asks:
            if ask.top is not None:
                ask.answer = _caught(partial(_answer, model, ask.request, ask.top))
                self._told(1)
        if written:
            for ask, deltas in zip(written, model.complete([ask.request for ask in written]), strict=True):
                ask.answer = _caught(partial(_said, deltas))
                self._told(1)

    def _ask_at_once(self, model: AnyBackend, asks: Sequence[_Ask]) -> None:
        """Questions to a model that takes them as they come: as many at a time as it computes."""

        def put(ask: _Ask) -> None:
            ask.answer = _caught(lambda: self._meter.call(ask.request, partial(_answer, model, ask.request, ask.top)))
            self._told(1)

        with ThreadPoolExecutor(model.capabilities.parallel or AT_ONCE, thread_name_prefix="cosa eval") as pool:
            for _ in pool.map(put, asks):
                pass


def _caught(call: Callable[[], Said]) -> Said | CosaError:
    try:
        return call()
    except CosaError as error:
        return error


def _answer(model: AnyBackend, request: Request, top: int | None) -> Said:
    if top is not None:
        if not isinstance(model, Scorer):
            raise UsageError(f"backend {model.name!r} shows no next-token probabilities")
        return Said(logprobs=dict(model.next_logprobs(request, top=top)))
    if not blocks(model):
        return asyncio.run(_awaited(model, request))
    return _said(model.stream(request))


def _said(deltas: Iterator[Delta]) -> Said:
    pieces = list(deltas)
    finish: Finish = next((piece.finish for piece in reversed(pieces) if piece.finish), "stop")
    return Said("".join(piece.text for piece in pieces), finish, sum(piece.tokens for piece in pieces))


async def _awaited(model: Any, request: Request) -> Said:
    return _said(iter([piece async for piece in model.astream(request)]))


class AtOnce(Desk):
    """Puts questions as they come.

    Args:
        concurrency: tasks that run at a time.
        meter: holds questions back that come too fast, and stops the run at its cost.
    """

    exact = False

    def __init__(
        self, replies: Replies, *, concurrency: int, meter: Meter | None = None, told: Told | None = None
    ) -> None:
        super().__init__(replies, told=told)
        self._concurrency, self._meter = concurrency, meter or Meter()
        self._lock = threading.Lock()
        self._under_way: dict[str, threading.Lock] = {}

    def run(self, tasks: Sequence[Callable[[], T]]) -> list[T | CosaError]:
        """See `Desk.run`."""

        def caught(task: Callable[[], T]) -> T | CosaError:
            try:
                return task()
            except CosaError as error:
                return error

        with ThreadPoolExecutor(self._concurrency, thread_name_prefix="cosa eval") as pool:
            started = [pool.submit(caught, task) for task in tasks]
            try:
                return [one.result() for one in started]
            except BaseException:
                for one in started:
                    one.cancel()
                raise

    def _put(self, backend: AnyBackend, request: Request, top: int | None, key: str) -> Said:
        with self._lock:
            turn = self._under_way.setdefault(key, threading.Lock())
        with turn:  # whoever asks the same meanwhile waits for this answer
            found = self._replies.get(key)
            if found is None:
                found = self._meter.call(request, lambda: _answer(backend, request, top))
                self._replies.add([(key, found)])
                self._told(1)
        return found
