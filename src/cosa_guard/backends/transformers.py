"""A local model on torch and transformers: any causal language model, on a processor or a GPU, with PEFT adapters.

Prompts are tokenised segment by segment (`chat_template`), so markup that is typed stays text. One thread computes;
requests join its batches and leave them at any token. The states of a compiled config are computed once, kept apart
from all conversations, and read by every request under that config.

Requests that are computed together add up in another order than alone. In float32 their logits differ by up to 6e-5, in
bfloat16 by up to 0.6 (SmolLM2 on a processor), which changes a greedy reply where two tokens are as likely.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from cosa_guard.backends.base import Capabilities, PrefixUse
from cosa_guard.backends.chat_template import ChatTemplate
from cosa_guard.backends.json_grammar import Grammar
from cosa_guard.backends.limits import check_length, check_numbers, check_sampling, options_of, scales_of
from cosa_guard.backends.llama_request import closed_schema
from cosa_guard.backends.models import resolve_model
from cosa_guard.backends.settings import default_threads, free_memory
from cosa_guard.messages import Adapter, Delta, LogProbs, Message, Request
from cosa_sdk.errors import UsageError

if TYPE_CHECKING:
    from cosa_guard.backends.torch_job import Job

__all__ = ["Transformers", "TransformersOptions", "make"]

_LEAST: Final = {"context": 64, "parallel": 1, "threads": 1, "prefix_cache_mib": 0, "batch": 32}
_HUB_ID: Final = re.compile(r"\w[\w.-]*/\w[\w.-]*(?<!\.gguf)")
_MIB: Final = 1 << 20
_CONFIG_TOKENS: Final = 600
"""Length of a long compiled config."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformersOptions:
    """How a local model is run."""

    context: int = 4096
    """Tokens that a prompt and its reply may take together, in each request; at most what the model was trained with.
    """
    parallel: int = 4
    """Requests that are computed at the same time; more of them wait."""
    threads: int | None = None
    """Of the processor, for all that torch computes in this process. None: as for `XLlamaCppOptions.threads`."""
    device: str = "auto"
    """`cuda`, `cuda:1`, `mps` or `cpu`; `auto` takes the first of them that is there."""
    dtype: str = "auto"
    """`float32`, `bfloat16` or `float16`; `auto` is bfloat16 on CUDA, else float32."""
    adapters: Mapping[str, str | Path] = field(default_factory=dict)
    """Folders of LoRA adapters, as PEFT saves them, by the name that requests call them."""
    prefix_cache_mib: int = 512
    """Memory for the states of compiled configs, the ones used last; `Capabilities.resident` counts such of 600 tokens.
    """
    batch: int = 512
    """Tokens of a prompt computed at once. Other replies go on, and a request that is given up stops, in between."""
    chat_template: str | None = None
    """Jinja text to use instead of the model's own template."""

    def __post_init__(self) -> None:
        check_numbers(self, _LEAST, backend="transformers", optional=("threads",))


def make(argument: str | None = None, **options: Any) -> Transformers:
    """The backend for a model, with fields of `TransformersOptions` as options.

    Args:
        argument: A folder, a GGUF file, a name (`resolve_model`), or the id of a model on a hub, such as `owner/model`.
        options: Fields of `TransformersOptions`.
    """
    own = options_of(TransformersOptions, "transformers", options)
    on_hub = argument is not None and _HUB_ID.fullmatch(argument) and not Path(argument).exists()
    model = Path(argument) if argument is not None and on_hub else resolve_model(argument)
    return Transformers(model, options=own)


class Transformers:
    """A `Backend` and a `Scorer`. Many threads may call it; `close` it, or use it in a `with` statement.

    Args:
        model: A folder with safetensors, a GGUF file, or the id of a model on a hub.
        options: How it is run.
        free_memory: A stand-in for the function of that name.

    Raises (on construction):
        MissingExtra: torch, transformers or peft is not installed.
        ModelFileError: the model is missing, damaged, pickled, needs code of its own, or has no chat template.
        AdapterError: an adapter is missing, is none, or does not fit the model.
        OutOfMemory: the model and its caches do not fit into the memory that is free.
        UsageError: there is no such device or dtype.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        options: TransformersOptions | None = None,
        free_memory: Callable[[], int | None] = free_memory,
    ) -> None:
        # torch and all that stands on it, only where a model is used.
        from cosa_guard.backends import torch_job, torch_load, torch_lora, torch_runtime, torch_worker  # noqa: PLC0415

        self.options = options or TransformersOptions()
        self.name = f"transformers:{Path(model).stem if Path(model).is_file() else Path(model).name}"
        adapters = {name: Path(path).expanduser() for name, path in self.options.adapters.items()}
        device = torch_runtime.choose_device(self.options.device)
        prefix_bytes = self.options.prefix_cache_mib * _MIB
        loaded = torch_load.load(
            str(model),
            device=device,
            dtype=torch_runtime.choose_dtype(self.options.dtype, device),
            chat_template=self.options.chat_template,
            budget=torch_load.Budget(
                context=self.options.context,
                parallel=self.options.parallel,
                prefix_bytes=prefix_bytes,
                adapter_bytes=torch_lora.size_of(adapters),
                free=torch_runtime.free_on(device, free_memory),
            ),
        )
        self._jobs = torch_job
        self._device = device
        self._trained = loaded.trained_context
        self._context = min(self.options.context, loaded.trained_context or self.options.context)
        self._template = ChatTemplate(loaded.apply_template)
        self._vocabulary = loaded.vocabulary
        self._grammar: Grammar | None = None
        self._adapters = tuple(adapters)
        self.capabilities = Capabilities(
            logprobs=True,
            json_schema=True,
            adapters=self._adapters,
            prefix_cache=prefix_bytes > 0,
            context=self._context,
            parallel=self.options.parallel,
            resident=prefix_bytes // (loaded.kv_bytes_per_token * _CONFIG_TOKENS),
        )
        self._worker = torch_worker.Worker(
            torch_worker.Forward(loaded.model),
            torch_lora.Adapters(loaded.model, adapters, name=self.name),
            parallel=self.options.parallel,
            batch=self.options.batch,
            prefix_bytes=prefix_bytes,
            threads=self.options.threads or default_threads(),
            name=self.name,
        )
        # Also when this object is forgotten, and when the interpreter ends.
        self._close = weakref.finalize(self, self._worker.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Frees the model. Streams in progress end with a BackendError. May be called again."""
        self._close()

    @property
    def prefix_use(self) -> PrefixUse:
        """What the kept configs were worth so far."""
        return self._worker.use

    def stream(self, request: Request) -> Iterator[Delta]:
        """See `Backend.stream`. The request is checked at once, the model is asked when iteration begins."""
        check_sampling(request.sampling)
        schema = closed_schema(request.sampling.json_schema)
        ids, prefix = self._prompt(request.messages)
        job = self._jobs.Reply(
            ids,
            prefix=prefix,
            scales=self._scales(request.adapters),
            sampling=request.sampling,
            limit=min(request.sampling.max_tokens, self._context - len(ids)),
            vocabulary=self._vocabulary,
            matcher=None if schema is None else self._json().matcher(schema),
            device=self._device,
        )
        return self._deltas(job)

    def next_logprobs(self, request: Request, *, top: int = 64) -> LogProbs:
        """See `Scorer.next_logprobs`. Tokens that are markup, such as the end of a turn, count together as `''`."""
        if top < 1:
            raise UsageError(f"top={top!r} must be at least 1.")
        ids, prefix = self._prompt(request.messages)
        scales = self._scales(request.adapters)
        found: LogProbs = self._result(
            self._jobs.Odds(ids, prefix=prefix, scales=scales, top=top, vocabulary=self._vocabulary)
        )
        return found

    def count_tokens(self, request: Request) -> int:
        """See `Scorer.count_tokens`."""
        return len(self.render(request))

    def render(self, request: Request) -> list[int]:
        """The prompt as token ids, BOS included."""
        return self._vocabulary.tokens.ids(self._template.render(request.messages))

    def warm(self, system_text: str, *, adapters: tuple[Adapter, ...] = ()) -> int:
        """Reads a compiled config, so that the first question under it is quick; gives its length in tokens."""
        ids, prefix = self._prompt((Message("system", system_text), Message("user", "-")))
        self._result(self._jobs.Warm(ids[:prefix], prefix=prefix, scales=self._scales(adapters)))
        return prefix

    def _prompt(self, messages: tuple[Message, ...]) -> tuple[list[int], int]:
        """Token ids, and how many of them are the same for all requests under this config."""
        segments = self._template.render(messages)
        constant = tuple(takewhile(lambda segment: segment.constant, segments))
        ids = self._vocabulary.tokens.ids(segments)
        check_length(len(ids), context=self._context, trained=self._trained, model=self.name)
        return ids, len(self._vocabulary.tokens.ids(constant))

    def _scales(self, adapters: tuple[Adapter, ...]) -> tuple[tuple[str, float], ...]:
        return tuple(sorted(scales_of(adapters, self._adapters, model=self.name, form="folder").items()))

    def _json(self) -> Grammar:
        if self._grammar is None:
            self._grammar = Grammar(
                self._vocabulary.bytes,
                end=self._vocabulary.ends,
                extra="transformers",
                tokenize=self._vocabulary.encode,
            )
        return self._grammar

    def _deltas(self, job: Job) -> Iterator[Delta]:
        self._worker.submit(job)
        try:
            while True:
                piece: Delta = _taken(job)
                yield piece
                if piece.finish:
                    return
        finally:
            self._worker.cancel(job)

    def _result(self, job: Job) -> Any:
        """The one thing that a job is for."""
        self._worker.submit(job)
        try:
            return _taken(job)
        finally:
            self._worker.cancel(job)


def _taken(job: Job) -> Any:
    found = job.outbox.get()
    if isinstance(found, Exception):
        raise found
    return found
