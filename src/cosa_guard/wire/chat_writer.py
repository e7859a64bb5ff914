"""What a caller has been given of streamed chat completions, and how such a stream is ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cosa_guard.messages import Message
from cosa_guard.wire.chat_messages import variants
from cosa_guard.wire.protocol import Asked, Piece, dumps

__all__ = ["ChatWriter", "data_event"]

_IDS = frozenset({"role", "tool_call_id", "id", "type"})


def data_event(body: Mapping[str, Any]) -> bytes:
    """An event without a name."""
    return b"data: " + dumps(body) + b"\n\n"


@dataclass(slots=True)
class _Lane:
    """What the caller has of one choice."""

    started: bool = False
    message: dict[str, Any] = field(default_factory=dict)
    calls: dict[int, dict[str, Any]] = field(default_factory=dict)
    function: dict[str, Any] = field(default_factory=dict)


class ChatWriter:
    """Follows a stream of chunks."""

    def __init__(self, asked: Asked, request: str) -> None:
        self._asked = asked
        self._envelope: dict[str, Any] = {
            "id": f"chatcmpl-{request}",
            "object": "chat.completion.chunk",
            "created": 0,
            "model": asked.model,
        }
        self._lanes: dict[int, _Lane] = {}
        self._done = False

    def sent(self, piece: Piece) -> None:
        """Note a chunk that went out."""
        self._done = self._done or piece.last
        body = piece.body
        if piece.lane is None:
            return
        for key in ("id", "created", "model"):
            if key in body:
                self._envelope[key] = body[key]
        lane = self._lanes.setdefault(piece.lane, _Lane())
        lane.started = True
        delta = body["choices"][0].get("delta")
        for key, value in delta.items() if isinstance(delta, dict) else ():
            if isinstance(value, str) and key != "role":
                lane.message[key] = lane.message.get(key, "") + value
            elif key == "tool_calls" and isinstance(value, list):
                for call in value:
                    if isinstance(call, dict):
                        _add(lane.calls.setdefault(call.get("index") or 0, {}), call)
            elif key == "function_call" and isinstance(value, dict):
                _add(lane.function, value)

    def refuse(self, lane: int, text: str) -> bytes:
        """The refusal, and the end of the choice."""
        known = self._lanes.setdefault(lane, _Lane())
        name = "refusal" if self._asked.structured else "content"
        delta = {name: f"\n\n{text}" if known.message.get(name) else text}
        if not known.started:
            delta = {"role": "assistant", **delta}
        known.started = True
        known.message[name] = known.message.get(name, "") + delta[name]
        return self._chunk(lane, delta, None) + self._chunk(lane, {}, "content_filter")

    def close(self) -> bytes:
        """The end of the stream."""
        return b"" if self._done else b"data: [DONE]\n\n"

    def turns(self, lane: int) -> Iterable[tuple[Message, ...]]:
        """The turn that a caller may send back, with and without the reasoning."""
        known = self._lanes.get(lane)
        if known is not None:
            calls = [known.calls[index] for index in sorted(known.calls)]
            yield from variants({**known.message, "tool_calls": calls, "function_call": known.function})

    def _chunk(self, lane: int, delta: dict[str, str], finish: str | None) -> bytes:
        return data_event({**self._envelope, "choices": [{"index": lane, "delta": delta, "finish_reason": finish}]})


def _add(whole: dict[str, Any], piece: Mapping[str, Any]) -> None:
    """Put the next piece of a tool call to what is there: strings grow, except those that name things."""
    for key, value in piece.items():
        known = whole.get(key)
        if isinstance(value, dict) and isinstance(known, dict | None):
            _add(whole.setdefault(key, {}), value)
        elif isinstance(value, str) and isinstance(known, str) and key not in _IDS:
            whole[key] = known + value
        elif value is not None:
            whole[key] = value
