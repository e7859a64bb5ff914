"""What a caller has been given of a streamed response, and how such a stream is ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cosa_guard.messages import Message
from cosa_guard.wire.protocol import Asked, Piece, dumps, grown
from cosa_guard.wire.responses_items import variants
from cosa_guard.wire.sse import encode

__all__ = ["ResponsesWriter", "blank", "refused"]

_DELTAS: Mapping[str, tuple[str, str]] = {
    "response.output_text.delta": ("content", "text"),
    "response.reasoning_text.delta": ("content", "text"),
    "response.refusal.delta": ("content", "refusal"),
    "response.reasoning_summary_text.delta": ("summary", "text"),
    "response.function_call_arguments.delta": ("", "arguments"),
    "response.custom_tool_call_input.delta": ("", "input"),
}
_DONE: Mapping[str, str] = {
    "output_text": "response.output_text.done",
    "reasoning_text": "response.reasoning_text.done",
    "refusal": "response.refusal.done",
    "summary_text": "response.reasoning_summary_text.done",
}
_INDEX = {"content": "content_index", "summary": "summary_index"}
_PART_DONE = {"content": "response.content_part.done", "summary": "response.reasoning_summary_part.done"}
_ENDED: Mapping[str, Any] = {
    "status": "incomplete",
    "incomplete_details": {"reason": "content_filter"},
    "error": None,
}


def blank(asked: Asked, request: str) -> dict[str, Any]:
    """A response that says nothing yet."""
    return {
        "id": f"resp_{request}",
        "object": "response",
        "created_at": 0,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": asked.model,
        "output": [],
        "parallel_tool_calls": True,
        "temperature": None,
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "usage": {
            "input_tokens": 0,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": 0,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 0,
        },
    }


def refused(response: Mapping[str, Any], text: str, asked: Asked) -> dict[str, Any]:
    """The response with a refusal for its only output."""
    part = _part(asked)
    part[_key(part)] = text
    message = {**_message(str(response["id"]).removeprefix("resp_")), "status": "incomplete", "content": [part]}
    return {**response, **_ENDED, "output": [message]}


def _part(asked: Asked) -> dict[str, Any]:
    """An empty part for a refusal."""
    if asked.structured:
        return {"type": "refusal", "refusal": ""}
    return {"type": "output_text", "text": "", "annotations": [], "logprobs": []}


def _message(request: str) -> dict[str, Any]:
    return {"id": f"msg_{request}", "type": "message", "role": "assistant", "status": "in_progress", "content": []}


def _key(part: Mapping[str, Any]) -> str:
    return "refusal" if part.get("type") == "refusal" else "text"


@dataclass(slots=True)
class _Item:
    """An item as the caller has it."""

    head: dict[str, Any]
    lists: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)
    """Parts of its content and summary, by index."""
    open: bool = True
    begun: dict[tuple[str, int], bool] = field(default_factory=dict)
    """Parts without an end, and whether their text has one."""

    @classmethod
    def of(cls, item: Mapping[str, Any], *, is_open: bool) -> _Item:
        lists = {
            name: {place: dict(part) for place, part in enumerate(item[name]) if isinstance(part, dict)}
            for name in _INDEX
            if isinstance(item.get(name), list)
        }
        return cls({key: value for key, value in item.items() if key not in lists}, lists, is_open)

    def part(self, name: str, index: int) -> dict[str, Any]:
        return self.lists.setdefault(name, {}).setdefault(index, {})

    def written(self, **changes: Any) -> dict[str, Any]:
        lists = {name: [parts[place] for place in sorted(parts)] for name, parts in self.lists.items()}
        return {**self.head, **lists, **changes}


class ResponsesWriter:
    """Follows a stream of events."""

    def __init__(self, asked: Asked, request: str) -> None:
        self._asked = asked
        self._request = request
        self._response: dict[str, Any] | None = None
        self._items: dict[int, _Item] = {}
        self._number = -1
        self._done = False

    def sent(self, piece: Piece) -> None:
        """Note an event that went out."""
        body, kind = piece.body, str(piece.body.get("type"))
        number = body.get("sequence_number")
        self._number = number if type(number) is int else self._number + 1
        self._done = self._done or piece.last
        if isinstance(body.get("response"), dict):
            self._response = body["response"]
            for place, item in enumerate(self._response.get("output") or () if piece.last else ()):
                if isinstance(item, dict):
                    self._items[place] = _Item.of(item, is_open=False)
        elif kind.startswith("response.output_item.") and isinstance(body.get("item"), dict):
            self._items[_at(body)] = _Item.of(body["item"], is_open=kind.endswith(".added"))
        elif isinstance(body.get("part"), dict):
            name = "summary" if kind.startswith("response.reasoning_summary_part.") else "content"
            item, index = self._item(body), _at(body, _INDEX[name])
            item.lists.setdefault(name, {})[index] = dict(body["part"])
            if kind.endswith(".added"):
                item.begun[name, index] = False
            else:
                item.begun.pop((name, index), None)
        elif kind in _DELTAS and isinstance(body.get("delta"), str):
            name, key = _DELTAS[kind]
            item = self._item(body)
            holder = item.part(name, _at(body, _INDEX[name])) if name else item.head
            holder[key] = grown(holder.get(key), body["delta"])
        elif kind in _DONE.values():
            name = "summary" if "summary_index" in body else "content"
            begun, spot = self._item(body).begun, (name, _at(body, _INDEX[name]))
            if spot in begun:
                begun[spot] = True

    def refuse(self, lane: int, text: str) -> bytes:  # noqa: ARG002  # there is one
        """The refusal, and the ends of what is open."""
        out = [] if self._response is not None else self._began()
        place = next((place for place, item in self._items.items() if item.open and _is_message(item)), None)
        for other, item in sorted(self._items.items()):
            if item.open and other != place:
                out += self._ended(other, item)
        if place is None:
            place = max(self._items, default=-1) + 1
            item = self._items[place] = _Item.of(_message(f"{self._request}_{place}"), is_open=True)
            out.append(self._event("response.output_item.added", output_index=place, item=item.written()))
        item = self._items[place]
        out += self._spoken(place, item, text)
        out += self._ended(place, item)
        return b"".join(out)

    def close(self) -> bytes:
        """The end of the stream."""
        if self._done:
            return b""
        self._done = True
        output = [self._items[place].written() for place in sorted(self._items)]
        response = {**(self._response or blank(self._asked, self._request)), **_ENDED, "output": output}
        return self._event("response.incomplete", response=response)

    def turns(self, lane: int) -> Iterable[tuple[Message, ...]]:  # noqa: ARG002  # there is one
        """The turns that a caller may send back: all items, without reasoning, or the text alone."""
        return variants([self._items[place].written() for place in sorted(self._items)])

    def _item(self, body: Mapping[str, Any]) -> _Item:
        """The item that an event belongs to; one that nobody announced may be a message."""
        place = _at(body)
        if place not in self._items:
            self._items[place] = _Item.of({**_message(""), "id": body.get("item_id")}, is_open=True)
        return self._items[place]

    def _began(self) -> list[bytes]:
        self._response = blank(self._asked, self._request)
        return [self._event(f"response.{name}", response=self._response) for name in ("created", "in_progress")]

    def _spoken(self, place: int, item: _Item, text: str) -> list[bytes]:
        """The refusal as the last text of a message: in the part that is open, or in one of its own."""
        parts = item.lists.setdefault("content", {})
        index = max(parts, default=-1)
        fresh = _part(self._asked)
        fits = ("content", index) in item.begun and not item.begun["content", index]
        out = []
        if not fits or parts[index].get("type") != fresh["type"]:
            out += self._closed_parts(place, item)
            index += 1
            parts[index] = fresh
            item.begun["content", index] = False
            spot = self._spot(place, item, content_index=index)
            out.append(self._event("response.content_part.added", **spot, part=dict(fresh)))
        part, key = parts[index], _key(fresh)
        said = f"\n\n{text}" if part.get(key) else text
        part[key] = grown(part.get(key), said)
        kind = _DONE[fresh["type"]].replace(".done", ".delta")
        logs: dict[str, Any] = {} if self._asked.structured else {"logprobs": []}
        out.append(self._event(kind, **self._spot(place, item, content_index=index), delta=said, **logs))
        return out

    def _ended(self, place: int, item: _Item) -> list[bytes]:
        """The ends of an item and of what is open in it."""
        out = self._closed_parts(place, item)
        item.open = False
        item.head["status"] = "incomplete"
        out.append(self._event("response.output_item.done", output_index=place, item=item.written()))
        return out

    def _closed_parts(self, place: int, item: _Item) -> list[bytes]:
        out = []
        for (name, index), said in sorted(item.begun.items()):
            part = item.part(name, index)
            spot, kind = self._spot(place, item, **{_INDEX[name]: index}), str(part.get("type"))
            key = _key(part)
            if not said and kind in _DONE and part.get(key):  # a text that never began has no end: clients parse it
                logs: dict[str, Any] = {"logprobs": []} if kind == "output_text" else {}
                out.append(self._event(_DONE[kind], **spot, **{key: part[key]}, **logs))
            out.append(self._event(_PART_DONE[name], **spot, part=part))
        item.begun.clear()
        return out

    @staticmethod
    def _spot(place: int, item: _Item, **index: int) -> dict[str, Any]:
        return {"item_id": item.head.get("id"), "output_index": place, **index}

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._number += 1
        body = {"type": kind, "sequence_number": self._number, **fields}
        return encode(dumps(body).decode("utf-8", "replace"), kind)


def _at(body: Mapping[str, Any], name: str = "output_index") -> int:
    index = body.get(name, 0)
    return index if type(index) is int else 0


def _is_message(item: _Item) -> bool:
    return item.head.get("type") == "message"
