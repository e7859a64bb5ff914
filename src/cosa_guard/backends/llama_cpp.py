"""A local model on llama.cpp, function by function: the fastest way to run a config on one's own machine.

Several requests are computed together. A compiled config is computed once: going back to it costs nothing while a
sequence still holds it, and a copy of about 23 KB a token (135M model) after that. The config is computed apart from
what follows, so a request gives the same reply whether its config came from the cache or not. Beside other requests
numbers differ in their last digits, since batches of other sizes add up in another order.
"""

from __future__ import annotations

import codecs
import contextlib
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from cosa_guard.backends.base import Capabilities, PrefixUse
from cosa_guard.backends.chat_template import ChatTemplate, Segment, Tokens
from cosa_guard.backends.choosing import Capture, Sampler, logprobs
from cosa_guard.backends.gguf_model import check_adapter, read_model
from cosa_guard.backends.jinja_template import compile_template
from cosa_guard.backends.limits import check_length, check_numbers, check_sampling, options_of, scales_of
from cosa_guard.backends.llama_core import Wanted, load
from cosa_guard.backends.llama_engine import Chooser, Job
from cosa_guard.backends.llama_native import use_plain_kernels
from cosa_guard.backends.llama_places import Adapters, Prompt
from cosa_guard.backends.llama_request import Stopper, closed_schema
from cosa_guard.backends.models import resolve_model
from cosa_guard.backends.prefix_store import StoreUse, prefix_key
from cosa_guard.backends.probe import check_loads
from cosa_guard.backends.settings import check_memory, free_memory
from cosa_guard.messages import Adapter, Delta, LogProbs, Message, Request
from cosa_sdk.errors import CosaError, UsageError

if TYPE_CHECKING:
    from cosa_guard.backends.json_grammar import Grammar

__all__ = ["LlamaCpp", "LlamaCppOptions", "make"]

_LEAST: Final = {"context": 64, "sequences": 1, "threads": 1, "batch": 32, "prefix_ram_mib": 0, "prefix_disk_mib": 0}
_MIB: Final = 1 << 20
_SHORT_PREFIX: Final = 16
"""Tokens below which a prefix is computed faster than it is copied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaCppOptions:
    """How a local model is run."""

    context: int = 4096
    """Tokens that a prompt and its reply may take together, in each request; at most what the model was trained with.
    """
    sequences: int = 4
    """Requests that are computed at the same time, and configs that stay in place. Each takes a context of memory."""
    threads: int | None = None
    """None: `COSA_THREADS`; else 1 where `CI` is set; else what was quickest here (`calibrate`)."""
    batch: int | None = None
    """Prompt tokens computed at once. A request that is given up stops at the end of a batch. None: what was quickest
    here, 128 where nothing was measured."""
    calibrate: bool = True
    """Measure threads and batch when a model is first loaded on this machine, for 2 to 4 seconds, and remember them in
    the user's cache. Never where `CI` or `COSA_THREADS` is set, or `threads` is given."""
    requantize: bool | None = None
    """Use a Q8_0 copy of the file, made once in the user's cache (2 seconds): it reads prompts about twice as fast as
    Q4_1, and is used only if it agrees with the original. None: for the default model, where `CI` is not set."""
    adapters: Mapping[str, str | Path] = field(default_factory=dict)
    """LoRA files by the name that requests call them."""
    prefix_ram_mib: int = 512
    """Memory for computed configs that no sequence holds any more."""
    prefix_disk_mib: int = 0
    """Disk space for computed configs, so that the first request after a start is quick too; 0: none."""
    prefix_folder: str | Path | None = None
    """Where they lie; None: `prefixes` beside the model library."""
    chat_template: str | None = None
    """Jinja text to use instead of the template in the model's file."""
    gpu_layers: int = -1
    """Layers that a GPU computes, where llama-cpp-python was built for one; -1: all."""

    def __post_init__(self) -> None:
        check_numbers(self, _LEAST, backend="llama-cpp", optional=("threads", "batch"))


def make(argument: str | None = None, **options: Any) -> LlamaCpp:
    """The backend for a model file or name (`resolve_model`), with fields of `LlamaCppOptions` as options."""
    own = options_of(LlamaCppOptions, "llama-cpp", options)
    return LlamaCpp(resolve_model(argument), options=own)


class LlamaCpp:
    """A `Backend` and a `Scorer`. Many threads may call it; `close` it, or use it in a `with` statement.

    Raises (on construction):
        MissingExtra: llama-cpp-python is not installed.
        ModelFileError: the file is missing, damaged, no model, or has no chat template.
        AdapterError: an adapter is missing, is none, or does not fit the model.
        OutOfMemory: the model and its context do not fit into the memory that is free.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        options: LlamaCppOptions | None = None,
        free_memory: Callable[[], int | None] = free_memory,
    ) -> None:
        self.options = own = options or LlamaCppOptions()
        header, markers, special = read_model(Path(model), has_template=own.chat_template is not None)
        self.header = header
        self.name = f"llama-cpp:{header.path.stem}"
        adapters = [(name, Path(path).expanduser()) for name, path in own.adapters.items()]
        for name, path in adapters:
            check_adapter(name, path, header)
        self._adapters = tuple(name for name, _ in adapters)
        self._context = min(own.context, header.context_length or own.context)
        check_memory(
            sum(path.stat().st_size for path in (header.path, *(path for _, path in adapters))),
            header.kv_bytes_per_token * self._context * own.sequences + own.prefix_ram_mib * _MIB,
            model=header.path.name,
            what=f"{own.sequences} sequences of {self._context} tokens and {own.prefix_ram_mib} MiB of prefixes",
            free=free_memory,
            options="sequences, context or prefix_ram_mib",
        )
        files = [path for _, path in adapters]
        if check_loads("llama_cpp", header.path, files, chat_template=own.chat_template) == "plain":
            use_plain_kernels()
        self.capabilities = Capabilities(
            logprobs=True,
            json_schema=True,
            adapters=self._adapters,
            prefix_cache=True,
            context=self._context,
            parallel=own.sequences,
            resident=own.sequences,
        )
        self._core = load(
            self.name,
            header.path,
            adapters,
            Wanted(
                context=self._context,
                sequences=own.sequences,
                threads=own.threads,
                batch=own.batch,
                calibrate=own.calibrate,
                requantize=own.requantize,
                gpu_layers=own.gpu_layers,
                prefix_ram=own.prefix_ram_mib * _MIB,
                prefix_disk=own.prefix_disk_mib * _MIB,
                prefix_folder=own.prefix_folder,
            ),
        )
        self.running = self._core.running
        """How the model is computed: threads, batch, the file that was loaded."""
        self._model, self._engine, self._store = self._core.model, self._core.engine, self._core.store
        self._ready(header.chat_template or "", markers, special)

    def _ready(self, template: str, markers: list[str], special: set[int]) -> None:
        """What turns requests into tokens. An error in it must not leave the model in memory."""
        # Also at interpreter exit: the thread that computes must not outlive the interpreter.
        self._close = weakref.finalize(self, self._core.close)
        try:
            model, own = self._model, self.options.chat_template
            where = "the option chat_template" if own is not None else f"the chat template in {self.header.path.name!r}"
            apply = compile_template(own or template, bos=model.bos_text, eos=model.eos_text, where=where)
            self._template = ChatTemplate(apply)
            self._tokens = Tokens(model.tokenize, bos=model.bos, markers=markers, forbidden=special)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Frees the model. Streams in progress end with a BackendError. May be called again."""
        self._close()

    @property
    def prefix_use(self) -> PrefixUse:
        """What the prefix cache was worth so far."""
        return self._engine.use

    @property
    def store_use(self) -> StoreUse:
        """What the tiers behind the sequences hold, and what they were worth."""
        return self._store.use

    @property
    def idle(self) -> bool:
        """Whether no request runs or waits."""
        return self._engine.idle

    def stream(self, request: Request) -> Iterator[Delta]:
        """See `Backend.stream`. The request is checked at once, the model is asked when iteration begins."""
        return self._generate(self._job(request), request)

    def complete(self, requests: Sequence[Request]) -> list[Iterator[Delta]]:
        """See `Completer.complete`. The model is asked at once; stop strings cut a reply, and save no work."""
        jobs: list[Job | CosaError] = []
        for request in requests:
            try:
                jobs.append(self._job(request))
            except CosaError as error:
                jobs.append(error)
        made = [job for job in jobs if isinstance(job, Job)]
        # Alone, so that a config's numbers are the same whoever asks first.
        for prompt in {job.prompt.key: job.prompt for job in made if job.prompt.prefix}.values():
            head = prompt.ids[: prompt.prefix]
            self._run(Prompt(ids=head, prefix=len(head), key=prompt.key, adapters=prompt.adapters), 0, Capture())
        self._engine.submit_together(made)
        return [
            self._read(job, request, to_end=True) if isinstance(job, Job) else _raising(job)
            for job, request in zip(jobs, requests, strict=True)
        ]

    def _job(self, request: Request) -> Job:
        check_sampling(request.sampling)
        schema = closed_schema(request.sampling.json_schema)
        with self._core.using():
            matcher = None if schema is None else self._grammar.matcher(schema)
            prompt = self._prompt(request)
        limit = min(request.sampling.max_tokens, self._context - len(prompt.ids))
        return Job(prompt, limit, Sampler(request.sampling, self._model.ends, matcher))

    def next_logprobs(self, request: Request, *, top: int = 64) -> LogProbs:
        """See `Scorer.next_logprobs`. Tokens that are markup, such as the end of a turn, count together as `''`."""
        if top < 1:
            raise UsageError(f"top={top!r} must be at least 1.")
        with self._core.using():
            prompt = self._prompt(request)
        capture = Capture()
        self._run(prompt, 1, capture)
        with self._core.using():
            return logprobs(capture.logits, top, lambda token: self._model.piece(token).decode(errors="replace"))

    def count_tokens(self, request: Request) -> int:
        """See `Scorer.count_tokens`."""
        return len(self.render(request))

    def render(self, request: Request) -> list[int]:
        """The prompt as token ids, BOS included."""
        with self._core.using():
            return self._tokens.ids(self._template.render(request.messages))

    def warm(self, system_text: str, *, adapters: tuple[Adapter, ...] = ()) -> int:
        """Computes a compiled config, so that the first question under it is quick; gives its length in tokens."""
        with self._core.using():
            segments = self._template.render((Message("system", system_text), Message("user", "-")))
            ids = self._tokens.ids(_constant(segments))
        self._check_length(len(ids))
        chosen = self._chosen(adapters)
        prompt = Prompt(ids=ids, prefix=len(ids), key=self._key(chosen, ids), adapters=chosen)
        self._run(prompt, 0, Capture())
        return len(ids)

    def _run(self, prompt: Prompt, limit: int, chooser: Chooser) -> None:
        job = Job(prompt, limit, chooser)
        self._engine.submit(job)
        for _ in job.read():
            pass

    def _generate(self, job: Job, request: Request) -> Iterator[Delta]:
        self._engine.submit(job)
        yield from self._read(job, request)

    def _read(self, job: Job, request: Request, *, to_end: bool = False) -> Iterator[Delta]:
        stopper = Stopper(request.sampling.stop)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        with contextlib.closing(job.read()) as items:
            for item in items:
                if isinstance(item, str):
                    # Half a character that the limit left over is no text.
                    yield Delta(stopper.held, int(job.ended), item)
                    return
                text, stopped = stopper.feed(decoder.decode(self._model.piece(item)))
                yield Delta(text, 1, "stop" if stopped else None)
                if stopped:
                    # Giving it up would let the next request in at a moment that chance decides.
                    deque(items if to_end else (), maxlen=0)
                    return

    def _prompt(self, request: Request) -> Prompt:
        segments = self._template.render(request.messages, request.shared)
        ids = self._tokens.ids(segments)
        self._check_length(len(ids))
        chosen = self._chosen(request.adapters)
        head = self._tokens.ids(_constant(segments))
        prefix = len(head) if _SHORT_PREFIX <= len(head) < len(ids) and ids[: len(head)] == head else 0
        key = self._key(chosen, head) if prefix else b""
        return Prompt(ids=ids, prefix=prefix, key=key, adapters=chosen, scope=request.scope)

    def _key(self, adapters: Adapters, ids: list[int]) -> bytes:
        return prefix_key(
            self._core.identity, [(self._core.identities[index], scale) for index, scale in adapters], ids
        )

    def _check_length(self, tokens: int) -> None:
        check_length(tokens, context=self._context, trained=self.header.context_length, model=self.name)

    def _chosen(self, adapters: tuple[Adapter, ...]) -> Adapters:
        scales = scales_of(adapters, self._adapters, model=self.name)
        return tuple(sorted((self._adapters.index(name), scale) for name, scale in scales.items()))

    @cached_property
    def _grammar(self) -> Grammar:
        from cosa_guard.backends.json_grammar import Grammar  # noqa: PLC0415  # takes a while, and few requests need it

        model = self._model
        tokens = [model.piece(token) for token in range(model.size)]
        ends = [token for token in range(model.size) if model.ends(token)]
        return Grammar(tokens, end=ends, extra="llama-cpp", tokenize=lambda text: model.tokenize([text], False))


def _raising(error: Exception) -> Iterator[Delta]:
    raise error
    yield  # a generator: the error is raised where the reply is read


def _constant(segments: Sequence[Segment]) -> tuple[Segment, ...]:
    """The head of a prompt that is the same for all requests under a config."""
    return tuple(takewhile(lambda segment: segment.constant, segments))
