"""A local model on llama.cpp's server, from a prebuilt wheel.

The server's chat endpoint is never used: it parses special tokens that a user types. Prompts are tokenised here,
segment by segment (`chat_template`), and go to `/completion` as token ids.

A prompt whose beginning is cached and the same prompt computed afresh differ a little in their probabilities (up to 0.1
in log-probability), since batches of other sizes add up in another order. `reproducible=True` buys that back.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from cosa_guard.backends.base import Capabilities, PrefixUse
from cosa_guard.backends.chat_template import ChatTemplate, TemplateRefused, Tokens
from cosa_guard.backends.gguf import GGUFHeader
from cosa_guard.backends.gguf_model import check_adapter, read_model
from cosa_guard.backends.limits import check_length, check_numbers, check_sampling, options_of, scales_of
from cosa_guard.backends.llama_request import Stopper, closed_schema, sampling_fields
from cosa_guard.backends.llama_server import (
    TEMPLATE_PATH,
    LlamaServer,
    ServerRefused,
    ServerSettings,
)
from cosa_guard.backends.models import resolve_model
from cosa_guard.backends.probe import check_loads
from cosa_guard.backends.settings import check_memory, default_threads, free_memory
from cosa_guard.backends.slots import Chain, SlotTable, chain_of
from cosa_guard.messages import Adapter, Delta, LogProbs, Message, Request
from cosa_sdk.errors import BackendError, ModelFileError, UsageError

__all__ = ["PrefixUse", "XLlamaCpp", "XLlamaCppOptions", "make"]

_NOT_JSON: Final = "Z"
"""No JSON value begins with it."""
_GUIDANCE: Final = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""For llguidance, in this wheel: blanks as in ordinary JSON. Left to itself, a small model writes blanks for ever."""
_REMEMBERED_SCHEMAS: Final = 256
_LEAST: Final = {"context": 64, "slots": 1, "threads": 1, "prefix_cache_mib": 0, "batch": 32}


@dataclass(frozen=True, slots=True, kw_only=True)
class XLlamaCppOptions:
    """How a local model is run."""

    context: int = 4096
    """Tokens that a prompt and its reply may take together, in each request; at most what the model was trained with.
    """
    slots: int = 4
    """Requests that run at the same time, and configs whose prefix stays in place. Each takes a context of memory."""
    threads: int | None = None
    """None: `COSA_THREADS`; else 1 where `CI` is set; else one less than there are cores.

    One core is left free on purpose: with a busy neighbour on every core, 2 threads took 2.5 to 8 times as long as 1.
    """
    adapters: Mapping[str, str | Path] = field(default_factory=dict)
    """LoRA files by the name that requests call them."""
    prefix_cache_mib: int = 512
    """Memory for prefixes that no slot holds any more. Not used beside adapters, whose states it would mix up."""
    batch: int = 512
    """Prompt tokens computed at once. A request that is given up stops at the end of a batch."""
    chat_template: str | None = None
    """Jinja text to use instead of the template in the model's file."""
    reproducible: bool = False
    """Compute every prompt afresh, so that the same request gives the same reply. Slow: no prefix is reused."""
    timeout_s: float = 600.0
    """Silence after which a request is given up. The server is silent until it has read the prompt."""

    def __post_init__(self) -> None:
        check_numbers(self, _LEAST, backend="xllamacpp", optional=("threads",))
        if not self.timeout_s > 0:
            raise UsageError(f"option timeout_s={self.timeout_s!r} of 'xllamacpp' must be above 0.")


def make(argument: str | None = None, **options: Any) -> XLlamaCpp:
    """The backend for a model file or name (`resolve_model`), with fields of `XLlamaCppOptions` as options."""
    own = options_of(XLlamaCppOptions, "xllamacpp", options)
    return XLlamaCpp(resolve_model(argument), options=own)


class XLlamaCpp:
    """A `Backend` and a `Scorer`. Many threads may call it; `close` it, or use it in a `with` statement.

    Raises (on construction):
        MissingExtra: xllamacpp is not installed.
        ModelFileError: the file is missing, damaged, no model, or has no chat template.
        AdapterError: an adapter is missing, is none, or does not fit the model.
        OutOfMemory: the model and its context do not fit into the memory that is free.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        options: XLlamaCppOptions | None = None,
        free_memory: Callable[[], int | None] = free_memory,
    ) -> None:
        self.options = options or XLlamaCppOptions()
        header, markers, special = read_model(Path(model), has_template=self.options.chat_template is not None)
        self.header = header
        self.name = f"xllamacpp:{header.path.stem}"
        adapters = {name: Path(path).expanduser() for name, path in self.options.adapters.items()}
        for name, path in adapters.items():
            check_adapter(name, path, header)
        self._adapters = tuple(adapters)
        self._context = min(self.options.context, header.context_length or self.options.context)
        settings = ServerSettings(
            model=header,
            context=self._context,
            slots=self.options.slots,
            threads=self.options.threads or default_threads(),
            batch=self.options.batch,
            prefix_cache_mib=self.options.prefix_cache_mib,
            adapters=tuple(adapters.values()),
            chat_template=self.options.chat_template,
            timeout_s=self.options.timeout_s,
        )
        check_memory(
            header.size_bytes + sum(path.stat().st_size for path in adapters.values()),
            header.kv_bytes_per_token * self._context * self.options.slots,
            model=header.path.name,
            what=f"{self.options.slots} slots of {self._context} tokens",
            free=free_memory,
        )
        self.capabilities = Capabilities(
            logprobs=True,
            json_schema=True,
            adapters=self._adapters,
            prefix_cache=not self.options.reproducible,
            context=self._context,
            parallel=self.options.slots,
            resident=None if self.options.reproducible else self.options.slots,
        )
        check_loads("xllamacpp", header.path, settings.adapters, chat_template=self.options.chat_template)
        self._server = LlamaServer(settings)
        self._slots = SlotTable(self.options.slots)
        self._template = ChatTemplate(partial(_apply_template, self._server))
        tokenize = partial(_tokenize, self._server)
        bos = _tokenize(self._server, [""], True, add_special=True)[:1]
        self._tokens = Tokens(tokenize, bos=bos[0] if bos else None, markers=markers, forbidden=special)
        self._not_json = _last_token(header, tokenize([_NOT_JSON], False))
        self._lock = threading.Lock()
        self._use = PrefixUse()
        self._good_schemas: dict[bytes, None] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Frees the model. Streams in progress end with a BackendError. May be called again."""
        self._server.close()

    @property
    def prefix_use(self) -> PrefixUse:
        """What the prefix cache was worth so far."""
        with self._lock:
            return self._use

    def stream(self, request: Request) -> Iterator[Delta]:
        """See `Backend.stream`. The request is checked at once, the model is asked when iteration begins."""
        check_sampling(request.sampling)
        schema = closed_schema(request.sampling.json_schema)
        ids = self._fitting(request)
        body = self._body(ids, request.adapters) | sampling_fields(request.sampling)
        body["n_predict"] = min(request.sampling.max_tokens, self._context - len(ids))
        if schema is not None:
            body["json_schema"] = schema | {"x-guidance": _GUIDANCE}
        return self._generate(body, chain_of(request.messages, request.adapters, request.scope), request.sampling.stop)

    def next_logprobs(self, request: Request, *, top: int = 64) -> LogProbs:
        """See `Scorer.next_logprobs`. Tokens that are markup, such as the end of a turn, count together as `''`."""
        if top < 1:
            raise UsageError(f"top={top!r} must be at least 1.")
        body = self._body(self._fitting(request), request.adapters)
        # The likeliest token may be half a character, with which the server shows no probabilities: it has to write
        # another, and the probabilities are those before that.
        body |= {"n_predict": 1, "temperature": 0.0, "n_probs": top, "logit_bias": [[self._not_json, 1000.0]]}
        answer = self._ask(body, chain_of(request.messages, request.adapters, request.scope))
        found: dict[str, float] = {}
        for one in answer["completion_probabilities"][0]["top_logprobs"]:
            text = bytes(one["bytes"]).decode("utf-8", errors="replace")
            found[text] = _add_logs(found[text], one["logprob"]) if text in found else one["logprob"]
        return found

    def count_tokens(self, request: Request) -> int:
        """See `Scorer.count_tokens`."""
        return len(self.render(request))

    def render(self, request: Request) -> list[int]:
        """The prompt as token ids, BOS included."""
        return self._tokens.ids(self._template.render(request.messages))

    def warm(self, system_text: str, *, adapters: tuple[Adapter, ...] = ()) -> int:
        """Reads a compiled config, so that the first question under it is quick; gives its length in tokens."""
        messages = (Message("system", system_text), Message("user", "-"))
        prefix = takewhile(lambda segment: segment.constant, self._template.render(messages))
        ids = self._tokens.ids(tuple(prefix))
        self._check_length(len(ids))
        self._ask(self._body(ids, adapters) | {"n_predict": 0}, chain_of(messages[:1], adapters))
        return len(ids)

    def _generate(self, body: dict[str, Any], chain: Chain, stops: tuple[str, ...]) -> Iterator[Delta]:
        slot = self._slots.take(chain)
        try:
            body |= {"stream": True, "id_slot": -1 if slot is None else slot}
            if "json_schema" in body:
                self._check_schema(body)
            stopper, counted = Stopper(stops), 0
            with self._server.events("/completion", body) as events:
                for event in events:
                    tokens, counted = event["tokens_predicted"] - counted, event["tokens_predicted"]
                    text, stopped = stopper.feed(event["content"])
                    if stopped:
                        yield Delta(text, tokens, "stop")
                        return
                    if event["stop"]:
                        self._note(event, chain)
                        yield Delta(text + stopper.held, tokens, "length" if event["stop_type"] == "limit" else "stop")
                        return
                    yield Delta(text, tokens)
            raise BackendError(f"the model {self.name!r} ended its answer in the middle. Was the backend closed?")
        finally:
            self._slots.give(slot)

    def _ask(self, body: dict[str, Any], chain: Chain) -> dict[str, Any]:
        """One answer that is not streamed."""
        slot = self._slots.take(chain)
        try:
            answer = self._server.call("/completion", body | {"id_slot": -1 if slot is None else slot})
        finally:
            self._slots.give(slot)
        self._note(answer, chain)
        return answer

    def _note(self, answer: Mapping[str, Any], chain: Chain) -> None:
        self._slots.record(answer["id_slot"], chain)
        with self._lock:
            self._use = PrefixUse(
                requests=self._use.requests + 1,
                prompt_tokens=self._use.prompt_tokens + answer["tokens_evaluated"],
                cached_tokens=self._use.cached_tokens + answer["timings"]["cache_n"],
            )

    def _fitting(self, request: Request) -> list[int]:
        ids = self.render(request)
        self._check_length(len(ids))
        return ids

    def _check_length(self, tokens: int) -> None:
        check_length(tokens, context=self._context, trained=self.header.context_length, model=self.name)

    def _body(self, ids: list[int], adapters: tuple[Adapter, ...]) -> dict[str, Any]:
        scales = scales_of(adapters, self._adapters, model=self.name)
        # All of them, each time: an adapter that goes unnamed would keep whatever scale the server has for it.
        lora = [{"id": index, "scale": scales.get(name, 0.0)} for index, name in enumerate(self._adapters)]
        return {"prompt": ids, "cache_prompt": not self.options.reproducible, "lora": lora}

    def _check_schema(self, body: Mapping[str, Any]) -> None:
        """Raises UsageError for a schema that llama.cpp cannot apply: it would drop it without a word.

        Asked for something that is not JSON with all its might, the model can only obey if nothing forbids it.
        """
        schema = body["json_schema"]
        key = blake2b(json.dumps(schema).encode(), digest_size=16).digest()
        if key in self._good_schemas:
            return
        might = {"logit_bias": [[self._not_json, 1000.0]], "n_predict": 1, "temperature": 0.0, "stream": False}
        answer = self._server.call("/completion", {**body, **might})
        if answer["content"].strip() == _NOT_JSON:
            raise UsageError(
                "llama.cpp cannot apply this json_schema, and would generate without it: it knows no remote "
                f"references, no look-around in patterns, no uniqueItems. It is {json.dumps(schema)[:300]}"
            )
        if len(self._good_schemas) < _REMEMBERED_SCHEMAS:
            self._good_schemas[key] = None


def _last_token(header: GGUFHeader, ids: Sequence[int]) -> int:
    if not ids:
        raise ModelFileError(f"the vocabulary of {str(header.path)!r} has no token for {_NOT_JSON!r}: it is damaged.")
    return ids[-1]


def _tokenize(server: LlamaServer, texts: Any, special: bool, *, add_special: bool = False) -> list[int]:
    answer = server.call("/tokenize", {"content": list(texts), "add_special": add_special, "parse_special": special})
    return list(answer["tokens"])


def _apply_template(server: LlamaServer, turns: Any) -> str:
    try:
        return str(server.call(TEMPLATE_PATH, {"messages": list(turns)})["prompt"])
    except ServerRefused as refusal:
        # What the template raised comes at the end, behind an account of where.
        raise TemplateRefused(refusal.reason.rpartition("Jinja Exception: ")[2].strip()) from refusal


def _add_logs(left: float, right: float) -> float:
    high, low = max(left, right), min(left, right)
    return high + math.log1p(math.exp(low - high))
