"""A model in this process as an upstream: chat completions in and out, over any backend."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Mapping
from typing import Any, cast

from cosa_guard.backends.base import Backend, Capabilities, Scorer
from cosa_guard.conversation import as_messages
from cosa_guard.exchange import Head, Outgoing
from cosa_guard.messages import Delta, Request, Sampling
from cosa_guard.server.upstream import UpstreamError
from cosa_sdk.errors import BackendError, PromptTooLong, UsageError

__all__ = ["LocalUpstream"]

_JSON = (("content-type", "application/json"),)
_SSE = (("content-type", "text/event-stream"),)
_READ = frozenset(
    {"model", "messages", "stream", "stream_options", "temperature", "top_p", "max_tokens", "max_completion_tokens"}
    | {"seed", "stop", "response_format", "n", "store", "user"}
)
"""Fields that it understands; `store` and `user` mean nothing here."""
_SEEDS = 2**32


class LocalUpstream:
    """Speaks chat completions for a blocking backend; the driver steps it on worker threads.

    Args:
        backend: the model. It holds its own locks.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.name = backend.name
        self.capabilities = Capabilities()

    def stream(self, outgoing: Outgoing) -> Iterator[Head | bytes]:
        """The head of the answer, then its body. Closing this stops the model.

        Raises:
            UpstreamError: the model failed.
        """
        try:
            yield from self._answered(outgoing)
        except BackendError as error:
            raise UpstreamError(f"{self.name} failed: {error}") from error

    def _answered(self, outgoing: Outgoing) -> Iterator[Head | bytes]:
        body = json.loads(outgoing.body)
        try:
            request = _request(body)
            deltas = self._backend.stream(request)
            first = next(deltas, None)  # a prompt that is too long shows here
        except PromptTooLong as error:
            yield from _refused(str(error), "context_length_exceeded")
            return
        except UsageError as error:
            yield from _refused(str(error), "unsupported_value")
            return
        try:
            answer = _Answer(str(body.get("model", self.name)), self._prompt_tokens(request))
            pieces = _joined(first, deltas)
            if outgoing.stream:
                yield Head(200, _SSE)
                options = body.get("stream_options") or {}
                yield from answer.events(pieces, usage=bool(options.get("include_usage")))
            else:
                yield Head(200, _JSON)
                yield answer.whole(pieces)
        finally:
            close = getattr(deltas, "close", None)
            if close is not None:
                close()

    def _prompt_tokens(self, request: Request) -> int:
        if not hasattr(self._backend, "count_tokens"):
            return 0
        return cast("Scorer", self._backend).count_tokens(request)


def _refused(message: str, code: str) -> Iterator[Head | bytes]:
    detail = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    yield Head(400, _JSON)
    yield json.dumps({"error": detail}).encode()


def _joined(first: Delta | None, rest: Iterator[Delta]) -> Iterator[Delta]:
    if first is not None:
        yield first
        yield from rest


def _request(body: Mapping[str, Any]) -> Request:
    """What the body asks for.

    Raises:
        UsageError: a field or value that a local model has no use for.
    """
    unknown = sorted(name for name in body.keys() - _READ if body[name] not in (None, [], False))
    if unknown:
        raise UsageError(f"a local model does not read {', '.join(unknown)}: leave it out")
    if body.get("n") not in (None, 1):
        raise UsageError("a local model gives one choice: leave n out")
    stop = body.get("stop") or []
    if not isinstance(stop, str | list):
        raise UsageError("stop is neither a string nor a list of them")
    if not isinstance(body.get("stream_options") or {}, dict):
        raise UsageError("stream_options is no object")
    seed = body.get("seed")
    if seed is not None and not (type(seed) is int and 0 <= seed < _SEEDS):
        raise UsageError(f"seed is no whole number from 0 to {_SEEDS - 1}")
    given: dict[str, Any] = {
        "temperature": body.get("temperature"),
        "top_p": body.get("top_p"),
        "max_tokens": body.get("max_completion_tokens") or body.get("max_tokens"),
        "seed": seed,
        "json_schema": _schema(body.get("response_format")),
    }
    sampling = Sampling(
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        **{name: value for name, value in given.items() if value is not None},
    )
    return Request(messages=as_messages(body.get("messages") or ()), sampling=sampling)


def _schema(form: Any) -> str | None:
    match form:
        case None | {"type": "text"}:
            return None
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            return json.dumps(schema)
        case {"type": "json_object"}:
            return json.dumps({"type": "object"})
        case _:
            raise UsageError("response_format is neither text, json_object nor json_schema")


class _Answer:
    """Writes one answer."""

    def __init__(self, model: str, prompt_tokens: int) -> None:
        self._prompt = prompt_tokens
        self._tokens = 0
        self._finish = "stop"
        self._head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}

    def whole(self, deltas: Iterator[Delta]) -> bytes:
        text = "".join(map(self._taken, deltas))
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self._finish}
        return json.dumps(
            {**self._head, "object": "chat.completion", "choices": [choice], "usage": self._usage()}
        ).encode()

    def events(self, deltas: Iterator[Delta], *, usage: bool) -> Iterator[bytes]:
        yield self._event({"role": "assistant", "content": ""}, None)
        for delta in deltas:
            text = self._taken(delta)
            if text:
                yield self._event({"content": text}, None)
        yield self._event({}, self._finish)
        if usage:
            yield _sse({**self._head, "object": "chat.completion.chunk", "choices": [], "usage": self._usage()})
        yield b"data: [DONE]\n\n"

    def _taken(self, delta: Delta) -> str:
        self._tokens += delta.tokens
        self._finish = delta.finish or self._finish
        return delta.text

    def _usage(self) -> dict[str, int]:
        total = self._prompt + self._tokens
        return {"prompt_tokens": self._prompt, "completion_tokens": self._tokens, "total_tokens": total}

    def _event(self, delta: dict[str, Any], finish: str | None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _sse({**self._head, "object": "chat.completion.chunk", "choices": [choice]})


def _sse(event: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(event).encode() + b"\n\n"
