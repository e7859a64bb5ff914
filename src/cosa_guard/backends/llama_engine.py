"""Computes the requests of many threads on one llama.cpp context: continuous batching over sequences.

One thread owns the context. In each turn it computes one batch: the next token of every reply that is being written,
and a piece of the prompts that are being read. Requests join and leave at any turn. Those with other adapters take
turns, since adapters apply to a whole batch; what a sequence holds stays with the adapters it was computed through.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from queue import SimpleQueue
from typing import TYPE_CHECKING, Protocol

from cosa_guard.backends.base import PrefixUse
from cosa_guard.backends.llama_native import Input, NativeContext
from cosa_guard.backends.llama_places import Adapters, Place, Places, Prompt
from cosa_guard.backends.prefix_store import PrefixStore
from cosa_guard.messages import Finish
from cosa_sdk.errors import BackendError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["Chooser", "Engine", "Job"]

_LEAST_PIECE = 32


class Chooser(Protocol):
    """Draws the tokens of one reply. Called by the engine's thread only."""

    def choose(self, logits: npt.NDArray[np.float32]) -> tuple[int | None, bool]:
        """The next token, or None where the reply ended before it; and whether the reply ends behind it."""
        ...


@dataclass(slots=True, eq=False)
class Job:
    """One request. Another thread reads `out`: tokens, then how it ended, or an error."""

    prompt: Prompt
    limit: int
    """Tokens to write."""
    chooser: Chooser
    out: SimpleQueue[int | Finish | Exception] = field(default_factory=SimpleQueue)
    cancelled: bool = False
    """Set by anybody, at any time: the request is given up after the current batch."""
    cached: int = 0
    """Tokens of the prompt that were not computed."""
    place: Place | None = None
    done: int = 0
    """Tokens of the prompt and the reply that are computed."""
    pending: int | None = None
    """The token that is to be computed next, when the prompt is."""
    written: int = 0
    ended: bool = False
    """The model ended the reply itself, with a token that has no text."""

    def read(self) -> Generator[int | Finish]:
        """What comes out, down to the end; closing the iterator gives the request up."""
        try:
            while True:
                item = self.out.get()
                if isinstance(item, Exception):
                    raise item
                yield item
                if isinstance(item, str):
                    return
        finally:
            self.cancelled = True


class Engine:
    """Runs jobs. Many threads may `submit`.

    Args:
        context: Is freed when the engine stops.
        free: Called in the engine's thread after the context is freed.
        name: The backend's, for errors and the thread.
    """

    def __init__(
        self, context: NativeContext, sequences: int, store: PrefixStore, *, name: str, free: Callable[[], None]
    ) -> None:
        self._context, self._store, self._name, self._free = context, store, name, free
        self._places = Places(sequences)
        self._inbox: SimpleQueue[Job | Sequence[Job] | None] = SimpleQueue()
        self._together: deque[Sequence[Job]] = deque()
        self._waiting: list[Job] = []
        self._active: list[Job] = []
        self._last_group: Adapters = ()
        self._lock = threading.Lock()
        self._stopped = False
        self._use = PrefixUse()
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._run, name=f"cosa {name}", daemon=True)
        self._thread.start()

    @property
    def use(self) -> PrefixUse:
        """What was computed so far."""
        return self._use

    @property
    def idle(self) -> bool:
        """Whether no request runs or waits, and no sequence is taken; for tests of what is left behind."""
        waits = self._waiting or self._active or self._together
        return not waits and not any(place.busy for place in self._places.all)

    def submit(self, job: Job) -> None:
        """Hands a request in.

        Raises:
            BackendError: the engine was stopped, or belongs to a process that this one was forked from.
        """
        self._hand_in(job)

    def submit_together(self, jobs: Sequence[Job]) -> None:
        """Hands requests in that begin together, when nothing else runs, on sequences that were cleared.

        What is computed with what depends on the requests alone then, and so do the last bits of the replies.

        Raises:
            BackendError: as `submit`.
        """
        self._hand_in(jobs)

    def _hand_in(self, job: Job | Sequence[Job]) -> None:
        if os.getpid() != self._process:
            raise BackendError(f"the model {self._name!r} was loaded before this process was forked; load it here.")
        with self._lock:
            if self._stopped:
                raise BackendError(f"the model {self._name!r} was closed; make a new backend.")
            self._inbox.put(job)

    def stop(self) -> None:
        """Ends all requests with a BackendError and frees the context; waits for the batch that is being computed."""
        with self._lock:
            first, self._stopped = not self._stopped, True
            if first:
                self._inbox.put(None)
        if os.getpid() == self._process and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        error: Exception | None = None
        try:
            while self._collect():
                self._turn()
        except Exception as caught:  # noqa: BLE001  # whatever it is, nobody may wait for ever
            error = caught
        with self._lock:
            self._stopped = True
        left = [*self._active, *self._waiting, *chain(*self._together), *_drained(self._inbox)]
        self._active, self._waiting = [], []
        self._together.clear()
        for job in left:
            job.out.put(_ended(self._name, error))
        self._context.free()
        self._free()

    def _collect(self) -> bool:
        """Takes in what came; waits when there is nothing else to do. False when it is time to stop."""
        while True:
            self._waiting = [job for job in self._waiting if not job.cancelled]
            for job in [job for job in self._active if job.cancelled]:
                self._leave(job)
            if not self._active and not self._waiting and self._together:
                self._begin(self._together.popleft())
            idle = not self._active and not self._waiting
            if not idle and self._inbox.empty():
                return True
            came = self._inbox.get()
            if came is None:
                return False
            if isinstance(came, Job):
                self._waiting.append(came)
            else:
                self._together.append(came)

    def _begin(self, jobs: Sequence[Job]) -> None:
        for place in self._places.all:
            self._context.clear(place.sequence)
        self._places.forget()
        self._last_group = ()
        self._waiting += jobs

    def _turn(self) -> None:
        for job in list(self._waiting):
            if self._admit(job):
                self._waiting.remove(job)
        if not self._active:
            return
        group = self._next_group()
        jobs = [job for job in self._active if job.prompt.adapters == group]
        inputs, pieces = self._batch(jobs)
        try:
            self._context.apply(group)
            self._context.compute(inputs)
        except BackendError as error:
            for job in jobs:
                self._fail(job, error)
            return
        for job, first, count in pieces:
            try:
                self._advance(job, inputs[first : first + count], first + count - 1)
            except Exception as error:  # noqa: BLE001  # one request's trouble is not its neighbours'
                self._fail(job, error)

    def _admit(self, job: Job) -> bool:
        """Gives a request its sequence, if there is one and nobody else is computing the same config for it."""
        prompt = job.prompt
        if prompt.prefix and any(
            other.prompt.key == prompt.key and other.done < other.prompt.prefix for other in self._active
        ):
            return False
        taken = self._places.take(prompt)
        if taken is None:
            return False
        place, kept = taken
        job.place = place
        job.done = job.cached = self._prepare(place, prompt, kept)
        self._active.append(job)
        if job.done == len(prompt.ids):  # a config that was to be warmed, and is warm
            self._count(job)
            job.out.put("stop")
            self._leave(job)
        return True

    def _prepare(self, place: Place, prompt: Prompt, kept: int) -> int:
        """Makes the sequence hold the head of a prompt, as far as it is known; gives its length."""
        if kept and self._context.trim(place.sequence, kept):
            place.tokens = prompt.ids[:kept]
        else:
            kept = 0
            self._context.clear(place.sequence)
            place.forget()
            state = self._store.get(prompt.key) if prompt.prefix else None
            if state is not None and self._context.restore(place.sequence, state):
                kept, place.tokens = prompt.prefix, prompt.ids[: prompt.prefix]
            elif state is not None:
                self._store.drop(prompt.key)
        place.prompt = prompt
        return kept

    def _next_group(self) -> Adapters:
        groups = list(dict.fromkeys(job.prompt.adapters for job in self._active))
        after = groups.index(self._last_group) + 1 if self._last_group in groups else 0
        self._last_group = groups[after % len(groups)]
        return self._last_group

    def _batch(self, jobs: list[Job]) -> tuple[list[Input], list[tuple[Job, int, int]]]:
        """What is computed next, and which of it is whose: request, first input, number of inputs."""
        writing = sum(job.pending is not None for job in jobs)
        # Replies that are being written wait for a whole batch: give the prompts smaller ones then.
        room = self._context.batch - writing
        if writing:
            room = min(room, max(self._context.batch // 4, _LEAST_PIECE))
        # First come, first served.
        ends: dict[Job, int] = {}
        for job in jobs:
            if job.pending is None:
                # The config apart from the rest, so that a config from the cache gives the very same numbers.
                end = job.prompt.prefix if job.done < job.prompt.prefix else len(job.prompt.ids)
                ends[job] = min(end, job.done + room)
                room -= ends[job] - job.done
        inputs: list[Input] = []
        pieces: list[tuple[Job, int, int]] = []
        # llama.cpp computes sequences together only where their numbers follow each other: 74 ms for 8 replies, or 139.
        for job in sorted(jobs, key=_sequence):
            first, sequence, ids = len(inputs), _sequence(job), job.prompt.ids
            if job.pending is not None:
                inputs.append(Input(job.pending, job.done, sequence, wanted=True))
            wanted = range(job.done, ends.get(job, 0))
            inputs += [Input(ids[at], at, sequence, wanted=at == len(ids) - 1) for at in wanted]
            if len(inputs) > first:
                pieces.append((job, first, len(inputs) - first))
        return inputs, pieces

    def _advance(self, job: Job, computed: list[Input], last: int) -> None:
        place = job.place
        assert place is not None
        prompt = job.prompt
        place.tokens += [one.token for one in computed]
        before, job.done = job.done, job.done + len(computed)
        if before < prompt.prefix == job.done:
            self._store.put(prompt.key, self._context.save(place.sequence))
        if job.done < len(prompt.ids):
            return
        if job.written == 0:
            self._count(job)
        token, over = job.chooser.choose(self._context.logits(last)) if job.limit else (None, True)
        if token is not None:
            job.written += 1
            job.out.put(token)
        if token is None or over or job.written == job.limit:
            job.ended = token is None and job.limit > 0
            job.out.put("stop" if token is None or over else "length")
            self._leave(job)
        job.pending = token

    def _count(self, job: Job) -> None:
        use = self._use
        self._use = PrefixUse(
            requests=use.requests + 1,
            prompt_tokens=use.prompt_tokens + len(job.prompt.ids),
            cached_tokens=use.cached_tokens + job.cached,
        )

    def _fail(self, job: Job, error: Exception) -> None:
        job.out.put(error)
        if job.place is not None:
            # What the sequence holds is not certain any more.
            self._context.clear(job.place.sequence)
            job.place.forget()
        self._leave(job)

    def _leave(self, job: Job) -> None:
        self._active.remove(job)
        if job.place is not None:
            self._places.give(job.place)


def _sequence(job: Job) -> int:
    assert job.place is not None
    return job.place.sequence


def _drained(inbox: SimpleQueue[Job | Sequence[Job] | None]) -> Iterator[Job]:
    while not inbox.empty():
        came = inbox.get()
        if came is not None:
            yield from [came] if isinstance(came, Job) else came


def _ended(name: str, error: Exception | None) -> BackendError:
    if error is None:
        return BackendError(f"the model {name!r} was closed while it answered.")
    return BackendError(f"the model {name!r} stopped working: {error!r}. Make a new backend.")
