"""What a caller has been given of a streamed Anthropic message, and how such a stream is ended."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from cosa_guard.messages import Message
from cosa_guard.wire.anthropic_blocks import variants
from cosa_guard.wire.protocol import Asked, Piece, dumps, grown
from cosa_guard.wire.sse import encode

__all__ = ["AnthropicWriter", "blank", "ended", "named_event"]

_GROWS: Mapping[str, str] = {"text_delta": "text", "thinking_delta": "thinking"}


def named_event(body: Mapping[str, Any]) -> bytes:
    """An event under the name of its type: SDKs skip one without."""
    return encode(dumps(body).decode("utf-8", "replace"), str(body["type"]))


def blank(asked: Asked, request: str) -> dict[str, Any]:
    """A message that says nothing yet."""
    return {
        "id": f"msg_{request}",
        "type": "message",
        "role": "assistant",
        "model": asked.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 0, "output_tokens": 0},
    }


def ended(text: str) -> dict[str, Any]:
    """How a message ends that was refused."""
    details = {"type": "refusal", "category": None, "explanation": text}
    return {"stop_reason": "refusal", "stop_sequence": None, "stop_details": details}


class AnthropicWriter:
    """Follows a stream of events."""

    def __init__(self, asked: Asked, request: str) -> None:
        self._asked = asked
        self._request = request
        self._begun = False
        self._done = False
        self._blocks: dict[int, dict[str, Any]] = {}
        self._arguments: dict[int, str] = {}
        self._open: set[int] = set()
        self._used = 0
        self._refusal = ""

    def sent(self, piece: Piece) -> None:
        """Note an event that went out."""
        body, kind = piece.body, piece.body.get("type")
        self._done = self._done or piece.last
        place = body.get("index", 0)
        if kind == "message_start":
            self._begun = True
            message = body["message"]
            self._count(message.get("usage"))
            given = message.get("content")
            for position, block in enumerate(given if isinstance(given, list) else ()):
                if isinstance(block, dict):
                    self._blocks[position] = dict(block)
        elif kind == "content_block_start":
            self._blocks[place] = dict(body["content_block"])
            self._open.add(place)
        elif kind == "content_block_delta":
            self._grow(place, body["delta"])
        elif kind == "content_block_stop":
            self._open.discard(place)
        elif kind == "message_delta":
            self._count(body.get("usage"))

    def refuse(self, lane: int, text: str) -> bytes:  # noqa: ARG002  # there is one
        """The refusal, and the ends of what is open."""
        out = []
        self._refusal = text
        if not self._begun:
            self._begun = True
            out.append(named_event({"type": "message_start", "message": blank(self._asked, self._request)}))
        place = next((place for place in sorted(self._open) if self._blocks[place].get("type") == "text"), None)
        out += [self._stopped(other) for other in sorted(self._open - {place})]
        if not self._asked.structured:  # a schema has no place for it: it stands in the message's end alone
            if place is None:
                place = max(self._blocks, default=-1) + 1
                block = self._blocks[place] = {"type": "text", "text": ""}
                out.append(named_event({"type": "content_block_start", "index": place, "content_block": dict(block)}))
            said = f"\n\n{text}" if self._blocks[place].get("text") else text
            delta = {"type": "text_delta", "text": said}
            out.append(named_event({"type": "content_block_delta", "index": place, "delta": delta}))
            self._grow(place, delta)
        if place is not None:
            out.append(self._stopped(place))
        return b"".join(out)

    def close(self) -> bytes:
        """The end of the stream."""
        if self._done:
            return b""
        self._done = True
        usage = {"output_tokens": self._used}
        last = {"type": "message_delta", "delta": ended(self._refusal), "usage": usage}
        return named_event(last) + named_event({"type": "message_stop"})

    def turns(self, lane: int) -> Iterable[tuple[Message, ...]]:  # noqa: ARG002  # there is one
        """The turn that a caller may send back."""
        return variants([self._block(place) for place in sorted(self._blocks)])

    def _grow(self, place: int, delta: Mapping[str, Any]) -> None:
        block, kind = self._blocks.setdefault(place, {"type": "text"}), delta.get("type")
        if kind == "input_json_delta" and isinstance(delta.get("partial_json"), str):
            self._arguments[place] = self._arguments.get(place, "") + delta["partial_json"]
        for known, key in _GROWS.items():
            if kind == known and isinstance(delta.get(key), str):
                block[key] = grown(block.get(key), delta[key])

    def _block(self, place: int) -> dict[str, Any]:
        """A block as a client puts it together."""
        if place not in self._arguments:
            return self._blocks[place]
        try:
            given = json.loads(self._arguments[place])
        except (ValueError, RecursionError):
            given = self._arguments[place]
        return {**self._blocks[place], "input": given}

    def _count(self, usage: Any) -> None:
        used = usage.get("output_tokens") if isinstance(usage, dict) else None
        self._used = used if type(used) is int else self._used

    def _stopped(self, place: int) -> bytes:
        self._open.discard(place)
        return named_event({"type": "content_block_stop", "index": place})
