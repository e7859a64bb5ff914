"""The one thread that computes with a torch model: requests join and leave its batches at any token."""

from __future__ import annotations

import inspect
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from cosa_guard.backends.base import PrefixUse
from cosa_guard.backends.torch_job import Job
from cosa_guard.backends.torch_lora import Adapters, Scales
from cosa_guard.backends.torch_rows import Prefixes, Rows, cache_of, states_of
from cosa_guard.backends.torch_runtime import as_backend_error, torch
from cosa_sdk.errors import BackendError

__all__ = ["Forward", "Worker"]


class Forward:
    """One call of a model: more tokens in, logits behind the last of them out.

    Args:
        model: A causal language model of transformers.
    """

    def __init__(self, model: Any) -> None:
        self.device: torch.device = model.device
        self._model = model
        parameters = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in parameters
        self._last = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}
        # Renamed in transformers 5.2x; other people's models have the old name.
        self._cache = "cache" if "cache" in parameters else "past_key_values"

    def __call__(self, tokens: list[list[int]], cache: Any, mask: Any = None, positions: Any = None) -> torch.Tensor:
        """Logits in float32, (rows, vocabulary). Lengthens the cache."""
        more = {} if mask is None else {"attention_mask": mask}
        if positions is not None and self._takes_positions:
            more["position_ids"] = positions
        inputs = torch.tensor(tokens, device=self.device)
        found = self._model(input_ids=inputs, use_cache=True, **{self._cache: cache}, **self._last, **more)
        logits: torch.Tensor = found.logits[:, -1].float()
        return logits


@dataclass(slots=True)
class _Group:
    """Requests with the same adapters."""

    reading: list[Job] = field(default_factory=list)
    writing: list[Job] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    """The last token of each that writes."""
    rows: Rows = field(default_factory=Rows)

    def __iter__(self) -> Iterator[Job]:
        yield from self.reading
        yield from self.writing

    def drop_cancelled(self) -> None:
        """Drops the requests that nobody waits for."""
        self.reading = [job for job in self.reading if not job.cancelled]
        self.go_on([None if job.cancelled else token for job, token in zip(self.writing, self.tokens, strict=True)])

    def go_on(self, tokens: Sequence[int | None]) -> None:
        """Takes note of a next token for each that writes; drops those that have none."""
        rows = [row for row, token in enumerate(tokens) if token is not None]
        self.writing = [self.writing[row] for row in rows]
        self.tokens = [token for token in tokens if token is not None]
        self.rows.keep(rows)


class Worker:
    """Computes jobs until it is closed. Many threads may use it.

    Args:
        forward: The model.
        adapters: Its adapters.
        parallel: Jobs in work at once; more of them wait.
        batch: Prompt tokens computed at once.
        prefix_bytes: Memory for constant prefixes.
        threads: Of the processor.
        name: Of the model, for errors.
    """

    def __init__(
        self,
        forward: Forward,
        adapters: Adapters,
        *,
        parallel: int,
        batch: int,
        prefix_bytes: int,
        threads: int,
        name: str,
    ) -> None:
        self._forward = forward
        self._adapters = adapters
        self._parallel = parallel
        self._batch = batch
        self._prefixes = Prefixes(prefix_bytes)
        self._name = name
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._groups: dict[Scales, _Group] = {}
        self._closed = False
        self._use = PrefixUse()
        # A daemon, so that the interpreter gets to its exit handlers, one of which closes this.
        self._thread = threading.Thread(target=self._run, args=(threads,), name=f"cosa {name}", daemon=True)
        self._thread.start()

    @property
    def use(self) -> PrefixUse:
        """What the kept prefixes were worth so far."""
        with self._changed:
            return self._use

    def submit(self, job: Job) -> None:
        """Queues a job; its results come into its outbox.

        Raises:
            BackendError: the worker is closed.
        """
        with self._changed:
            if self._closed:
                raise self._gone()
            self._waiting.append(job)
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Nobody waits for this job any more. It need not have been submitted, and may be done."""
        with self._changed:
            job.cancelled = True
            self._changed.notify()

    def close(self) -> None:
        """Ends all jobs with a BackendError, and the thread. May be called again, from any thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _gone(self) -> BackendError:
        return BackendError(f"the model {self._name!r} was closed; make a new backend.")

    def _run(self, threads: int) -> None:
        try:
            # This counts for all that torch computes in this process.
            torch.set_num_threads(threads)
            with torch.inference_mode():
                while self._admit():
                    for scales, group in list(self._groups.items()):
                        self._advance(scales, group)
        finally:
            with self._changed:
                self._closed = True
                left = [*self._waiting, *(job for group in self._groups.values() for job in group)]
                self._waiting.clear()
            for job in left:
                job.outbox.put(self._gone())
            self._groups.clear()
            del self._prefixes, self._forward, self._adapters

    def _admit(self) -> bool:
        """Waits for work and takes in what there is room for; whether to go on."""
        with self._changed:
            while not self._closed:
                room = self._parallel - sum(1 for group in self._groups.values() for _ in group)
                while room > 0 and self._waiting:
                    job = self._waiting.popleft()
                    if not job.cancelled:
                        self._groups.setdefault(job.scales, _Group()).reading.append(job)
                        room -= 1
                if self._groups:
                    return True
                self._changed.wait()
            return False

    def _advance(self, scales: Scales, group: _Group) -> None:
        """One token of every reply, and a piece of every prompt, so that replies soon go on side by side."""
        try:
            group.drop_cancelled()
            self._adapters.use(scales)
            if group.writing:
                mask, positions = group.rows.places(self._forward.device)
                logits = self._forward([[token] for token in group.tokens], group.rows.cache, mask, positions)
                group.go_on([self._next(job, row) for job, row in zip(group.writing, logits, strict=True)])
            begun = set()
            for job in list(group.reading):
                # Who has a config that another one is reading waits for it.
                if job.key not in begun:
                    self._read_on(job, group)
                if 0 < job.read < job.prefix:
                    begun.add(job.key)
        except Exception as error:  # noqa: BLE001  # whatever it is, who asked is told
            for job in group:
                self._fail(job, error)
            del self._groups[scales]
        else:
            if not any(True for _ in group):
                del self._groups[scales]

    def _read_on(self, job: Job, group: _Group) -> None:
        """A piece of a prompt; behind its end, the first token of its reply."""
        try:
            if not self._read(job):
                return
            token = job.next(job.logits)
            if token is not None:
                group.rows.add(states_of(job.cache), len(job.ids))
                group.writing.append(job)
                group.tokens.append(token)
        except Exception as error:  # noqa: BLE001  # the other requests have nothing to do with it
            self._fail(job, error)
        group.reading.remove(job)
        job.cache = job.logits = None

    def _read(self, job: Job) -> bool:
        """Reads a piece of the prompt; whether that was the last one."""
        if job.cache is None:
            self._find_prefix(job)
        if job.read < len(job.ids):
            end = min(job.read + self._batch, job.prefix if job.read < job.prefix else len(job.ids))
            job.logits = self._forward([job.ids[job.read : end]], job.cache)[0]
            job.read = end
            if end == job.prefix:
                self._prefixes.put(job.key, states_of(job.cache))
        return job.read == len(job.ids)

    def _find_prefix(self, job: Job) -> None:
        states = self._prefixes.get(job.key) if job.prefix else None
        job.read = 0 if states is None else min(job.prefix, len(job.ids) - job.wants_logits)
        job.cache = cache_of(states or (), length=job.read)
        with self._changed:
            self._use = PrefixUse(
                requests=self._use.requests + 1,
                prompt_tokens=self._use.prompt_tokens + len(job.ids),
                cached_tokens=self._use.cached_tokens + job.read,
            )

    def _next(self, job: Job, logits: torch.Tensor) -> int | None:
        try:
            return job.next(logits)
        except Exception as error:  # noqa: BLE001  # its own grammar, say
            self._fail(job, error)
            return None

    def _fail(self, job: Job, error: Exception) -> None:
        failure = as_backend_error(error, self._name)
        failure.__cause__ = error
        job.outbox.put(failure)
