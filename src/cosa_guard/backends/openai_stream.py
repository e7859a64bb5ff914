"""What an OpenAI-compatible server answers, read as it comes. Pure: bytes in, deltas out; no clock, no sockets.

An answer counts as complete when its `finish_reason` has come, and never before: a stream that ends without one is an
error, not a short reply.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, Final, NoReturn

from cosa_guard.messages import Delta, Finish, LogProbs
from cosa_guard.wire.sse import Event, SSEDecoder
from cosa_sdk.errors import BackendError, WireError

__all__ = ["JSONReader", "StreamReader", "brief", "logprobs_of", "prompt_tokens_of", "said_in"]

LARGEST_BODY: Final = 4 * 1024 * 1024
"""Bytes of an answer that is not streamed. One token with its alternatives takes a few thousand."""
LONGEST_TOKEN: Final = 256
"""Characters. A server that says more than this for each token asked for does not keep to `max_tokens`."""
MOST_SAID: Final = 300
"""Characters of a server's own words in an error message."""

# The last two are Mistral's and Together's words for the first two.
_FINISHES: Final[dict[str, Finish]] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content_filter",
    "model_length": "length",
    "eos": "stop",
}
_CALLS: Final = "the model calls a tool, though none was offered: serve it without tools, or with another chat template"
_NAME = re.compile(r"\w{1,40}\Z", re.ASCII)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def brief(said: str) -> str:
    """A server's words on one line, printable and short."""
    line = " ".join("".join(char if char.isprintable() else " " for char in said).split())
    return line if len(line) <= MOST_SAID else f"{line[: MOST_SAID - 1]}…"


def said_in(body: bytes | dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """A server's error message, and its error object where it has one."""
    if isinstance(body, bytes):
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            return body.decode("utf-8", "replace"), {}
    else:
        answer = body
    error = answer.get("error", answer) if isinstance(answer, dict) else answer
    if not isinstance(error, dict):
        return str(error), {}
    message = error.get("message") or error.get("detail") or error
    return message if isinstance(message, str) else json.dumps(message), error


def _not_a_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _object(data: str | bytes) -> dict[str, Any]:
    try:
        answer = json.loads(data, parse_constant=_not_a_number)
    except (ValueError, RecursionError) as error:
        # Not shown: it may be the model's text, which nobody has judged.
        raise WireError(f"the server sent {len(data)} characters that are not JSON") from error
    if not isinstance(answer, dict):
        raise WireError(f"the server sent a JSON {type(answer).__name__} where an object belongs")
    return answer


def _choice(answer: dict[str, Any]) -> dict[str, Any] | None:
    choices = answer.get("choices") or []
    if not choices:
        return None
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise WireError("the server sent more than one choice, or something else in `choices`; one was asked for")
    if choices[0].get("index", 0) != 0:
        raise WireError("the server sent another choice than choice 0, the only one that was asked for")
    choice: dict[str, Any] = choices[0]
    return choice


def _count(answer: dict[str, Any], name: str) -> int | None:
    usage = answer.get("usage")
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if type(value) is int and value >= 0 else None


class StreamReader:
    """Reads one streamed reply.

    Args:
        max_tokens: what was asked for; much more text than that is an error.
        scrub: takes secrets out of what the server says.
    """

    content_type: Final = "text/event-stream"

    def __init__(self, max_tokens: int, scrub: Callable[[str], str] = str) -> None:
        self._scrub = scrub
        self._decoder = SSEDecoder()
        self._room = max_tokens * LONGEST_TOKEN
        self._counted = 0
        self._total: int | None = None
        self._finish: Finish | None = None
        self.given = False
        """Text was handed out: the request must not be sent again."""
        self.events = 0
        self.over = False
        """The server said that nothing follows."""

    @property
    def complete(self) -> bool:
        """The reply is whole, whatever happens to the connection now."""
        return self._finish is not None

    def feed(self, chunk: bytes) -> Iterator[Delta]:
        """The pieces that the chunk completes.

        Raises:
            WireError: it is not a chat completion stream.
            BackendError: the server reports a failure in the stream, or the model calls a tool.
        """
        for event in self._decoder.feed(chunk):
            self.events += 1
            text = "" if self.over else self._read(event)
            if text:
                self.given = True
                self._counted += 1
                yield Delta(text)

    def end(self) -> Iterator[Delta]:
        """The last piece: how the reply ended, and the tokens that the pieces before did not stand for.

        Raises:
            WireError: the reply has no end.
        """
        if self._finish is None:
            where = "in the middle of an event" if self._decoder.pending else f"after {self._counted} pieces of text"
            raise WireError(f"the stream ended {where}, without a finish_reason: look at the server's log")
        total = self._counted if self._total is None else self._total
        yield Delta("", tokens=max(0, total - self._counted), finish=self._finish)

    def _read(self, event: Event) -> str:
        if event.data.strip() == "[DONE]":
            self.over = True
            return ""
        answer = _object(event.data)
        if answer.get("error") or event.event == "error":
            raise BackendError(
                f"the server failed in the middle of the reply: {brief(self._scrub(said_in(answer)[0]))}"
            )
        total = _count(answer, "completion_tokens")
        self._total = self._total if total is None else total
        choice = _choice(answer)
        if choice is None:
            return ""
        text = self._text(choice.get("delta") or {})
        reason = choice.get("finish_reason")
        if reason:
            self._finish = _finish(reason)
        return text

    def _text(self, delta: Any) -> str:
        if not isinstance(delta, dict):
            raise WireError(f"the server sent a delta that is a {type(delta).__name__}")
        if delta.get("tool_calls") or delta.get("function_call"):
            raise BackendError(_CALLS)
        # A refusal is the model's text to the user too. Reasoning is not part of the reply, and is left out.
        parts = [delta.get("content"), delta.get("refusal")]
        for part in parts:
            if part is not None and not isinstance(part, str):
                raise WireError(f"the server sent content that is a {type(part).__name__}, not text")
        text = _LONE_SURROGATE.sub("\ufffd", "".join(part for part in parts if part))
        if text and self._finish is not None:
            raise WireError("the server sent more text after the finish_reason")
        self._room -= len(text)
        if self._room < 0:
            raise WireError("the server sends far more text than max_tokens allows")
        return text


def _finish(reason: Any) -> Finish:
    if reason in ("tool_calls", "function_call"):
        raise BackendError(_CALLS)
    if not isinstance(reason, str) or reason not in _FINISHES:
        name = reason if isinstance(reason, str) and _NAME.match(reason) else "(not a name)"
        raise WireError(f"unknown finish_reason {name}. Known: {', '.join(_FINISHES)}.")
    return _FINISHES[reason]


class JSONReader:
    """Reads one answer that is not streamed."""

    content_type: Final = "application/json"

    def __init__(self, most: int = LARGEST_BODY) -> None:
        self._body = bytearray()
        self._most = most
        self.given = False
        self.events = 0
        self.over = False
        self.complete = False

    def feed(self, chunk: bytes) -> Iterator[dict[str, Any]]:
        """Nothing yet.

        Raises:
            WireError: the body is too large.
        """
        self._body += chunk
        if len(self._body) > self._most:
            raise WireError(f"the server's answer is larger than {self._most} bytes")
        return iter(())

    def end(self) -> Iterator[dict[str, Any]]:
        """The object.

        Raises:
            WireError: it is none.
        """
        yield _object(bytes(self._body))


def logprobs_of(answer: dict[str, Any], top: int) -> LogProbs:
    """The candidates for the first token of an answer.

    Raises:
        BackendError: the server gave none.
        WireError: they are not text with log-probabilities.
    """
    try:
        candidates = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    except (LookupError, TypeError):
        candidates = None
    if not isinstance(candidates, list) or not candidates:
        raise BackendError(
            "the server gave no log-probabilities: make the backend with logprobs=False, or have the server give them "
            "(vLLM: --max-logprobs 20)"
        )
    found: dict[str, float] = {}
    for one in candidates[:top]:
        token, logprob = _candidate(one)
        # Pieces of a character look alike once decoded; they count together.
        found[token] = _add_logs(found[token], logprob) if token in found else logprob
    return found


def _candidate(one: Any) -> tuple[str, float]:
    if isinstance(one, dict):
        token, raw, logprob = one.get("token"), one.get("bytes"), one.get("logprob")
        if isinstance(raw, list) and all(type(byte) is int and 0 <= byte < 256 for byte in raw):  # noqa: PLR2004
            token = bytes(raw).decode("utf-8", "replace")
        # A rounding error above 0 is no fault; a NaN is below nothing.
        if isinstance(token, str) and isinstance(logprob, int | float) and logprob <= 0.01:  # noqa: PLR2004
            return token, float(logprob)
    raise WireError("the server sent a candidate token without its text, or without a log-probability")


def _add_logs(left: float, right: float) -> float:
    high, low = max(left, right), min(left, right)
    return high + math.log1p(math.exp(low - high))


def prompt_tokens_of(answer: dict[str, Any]) -> int:
    """How long the prompt was.

    Raises:
        BackendError: the server does not say.
    """
    tokens = _count(answer, "prompt_tokens")
    if tokens is None:
        raise BackendError("the server does not say how many tokens the prompt has (usage.prompt_tokens)")
    return tokens
