"""A request in the words of an OpenAI-compatible server. Pure.

Only the protocol's own fields are sent. Sampling is said in full, also where it is the protocol's default: vLLM draws
from the model's own defaults otherwise.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cosa_guard.backends.llama_request import closed_schema
from cosa_guard.messages import Adapter, Message, Request
from cosa_sdk.errors import AdapterError, UsageError, nearest

__all__ = ["MOST_LOGPROBS", "Dialect", "as_text", "chat_body", "count_body", "encoded", "score_body", "served_model"]

MOST_LOGPROBS = 20
"""The protocol's limit on `top_logprobs`."""

_MARKER = re.compile(
    r"""
    <(?=[|｜]\S)                        # <|im_start|> and its like; DeepSeek's wide bars
    | <(?=\w{1,40}\|>)                  # <turn|>
    | <(?=/?s>|<SYS>>|</SYS>>)
    | <(?=(?:bos|eos|pad|unk|sop|eop|(?:start|end)_of_\w{1,20}|(?:extra_id|reserved|SPECIAL)_\d{1,6})>)
    | \[(?=/?[A-Z_]{3,40}\]|gMASK\])    # [INST], [SYSTEM_PROMPT], [/TOOL_RESULTS]
    | \[(?=\|\w{1,40}\|\])              # [|system|]
    """,
    re.VERBOSE,
)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def as_text(content: str) -> str:
    """The content with a space in everything that the known chat templates use as markup.

    Servers put contents into the template and read the result for special tokens, so `<|im_end|>` typed by a user
    would end the user's turn. Half a character (a lone surrogate) becomes U+FFFD.
    """
    return _MARKER.sub(lambda found: found[0] + " ", _LONE_SURROGATE.sub("\ufffd", content))


@dataclass(frozen=True, slots=True)
class Dialect:
    """Where servers differ; learnt from what they refuse."""

    length: str = "max_tokens"
    """What the limit is called. OpenAI's newer models take `max_completion_tokens` only, many servers the old name."""
    usage: bool = True
    """`stream_options` are understood. Mistral refuses them."""

    def after(self, status: int, said: str) -> Dialect | None:
        """The dialect to try when this one was refused; None when the refusal is about something else."""
        if status not in {400, 422}:
            return None
        if self.length == "max_tokens" and "max_completion_tokens" in said:
            return replace(self, length="max_completion_tokens")
        if self.usage and "stream_options" in said:
            return replace(self, usage=False)
        return None


def served_model(adapters: tuple[Adapter, ...], model: str, served: Mapping[str, str]) -> str:
    """The model to ask for: an adapter is a model of its own to servers that serve it by name.

    Raises:
        AdapterError: the adapter is not one of `served`.
        UsageError: more than one adapter, or a scale, which cannot be said in this protocol.
    """
    if not adapters:
        return model
    if len(adapters) > 1:
        names = ", ".join(adapter.name for adapter in adapters)
        raise UsageError(f"adapters {names}: over HTTP one request takes one adapter; merge them, or serve them merged")
    (adapter,) = adapters
    if adapter.name not in served:
        meant = nearest(adapter.name, served)
        raise AdapterError(
            f"unknown adapter {adapter.name!r}{f': did you mean {meant!r}?' if meant else '.'} This backend has: "
            f"{', '.join(served) or 'none; name it in the option adapters'}."
        )
    if adapter.scale != 1.0:
        raise UsageError(
            f"Adapter(name={adapter.name!r}, scale={adapter.scale!r}): a server applies it whole; give 1.0"
        )
    return served[adapter.name]


def _messages(messages: tuple[Message, ...]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": as_text(message.content)} for message in messages]


def chat_body(request: Request, model: str, dialect: Dialect) -> dict[str, Any]:
    """A streamed completion.

    Raises:
        UsageError: the JSON schema is not the text of a JSON object.
    """
    sampling = request.sampling
    body: dict[str, Any] = {
        "model": model,
        "messages": _messages(request.messages),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        dialect.length: sampling.max_tokens,
        "stream": True,
    }
    if dialect.usage:
        body["stream_options"] = {"include_usage": True}
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if (schema := closed_schema(sampling.json_schema)) is not None:
        format_ = {"name": "reply", "strict": True, "schema": schema}
        body["response_format"] = {"type": "json_schema", "json_schema": format_}
    return body


def count_body(request: Request, model: str, dialect: Dialect) -> dict[str, Any]:
    """One token, not streamed: its usage says how long the prompt is."""
    length = {dialect.length: 1}
    return {"model": model, "messages": _messages(request.messages), "temperature": 0.0, "top_p": 1.0, **length}


def score_body(request: Request, model: str, dialect: Dialect, *, top: int) -> dict[str, Any]:
    """One token, and the likeliest others in its place."""
    return count_body(request, model, dialect) | {"logprobs": True, "top_logprobs": min(top, MOST_LOGPROBS)}


def encoded(body: Mapping[str, Any]) -> bytes:
    """The body as sent."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
