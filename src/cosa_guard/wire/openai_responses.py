"""OpenAI's responses, as vendors and local servers speak them: their events and fields are in `responses_events.py`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cosa_guard.messages import Message
from cosa_guard.wire.chat_messages import fenced
from cosa_guard.wire.fields import LOGPROBS, USUAL, Found, Known, Place, opened, walk, whole
from cosa_guard.wire.openai_chat import DENIED as CHAT_DENIED
from cosa_guard.wire.openai_chat import read_event
from cosa_guard.wire.protocol import ALL, Asked, Codec, Piece, Turn, dumps, expect, inert, refused_fields, settings
from cosa_guard.wire.responses_events import ECHO, EVENTS, OTHER, REPLY
from cosa_guard.wire.responses_items import CALLS, OUTPUTS, items_of, outgoing, placeholder, turn_of, variants
from cosa_guard.wire.responses_writer import ResponsesWriter, blank, refused
from cosa_guard.wire.sse import Event, encode
from cosa_sdk.errors import UnsupportedField, WireError

__all__ = ["Responses"]


_ALIVE = "keepalive"
_NAME = re.compile(r"[\w.]{1,64}\Z", re.ASCII)

_ALLOWED = frozenset(
    "model input instructions stream stream_options temperature top_p max_output_tokens max_tool_calls "
    "parallel_tool_calls reasoning text tools tool_choice top_logprobs truncation include service_tier background "
    "user metadata store prompt_cache_key prompt_cache_retention prompt_cache_options safety_identifier".split()
)
_STATE = "it refers to text on the server that no judge has read"
DENIED: Mapping[str, str] = {
    **CHAT_DENIED,
    "context_management": "the server would write a summary into the prompt that no judge has read",
    "enable_response_messages": "it would show the prompt, and with it the safety config",
    "previous_input_messages": _STATE,
}
_TENANT = frozenset({"user", "metadata", "prompt_cache_key", "prompt_cache_options", "safety_identifier", "store"})
_READ = frozenset({"input", "instructions", "model", *_TENANT})
"""What is no setting: read elsewhere, or not sent on."""
_TOOLS = ("custom", "function")
_INCLUDED = ("message.output_text.logprobs", "reasoning.encrypted_content")
_ENVELOPE = ("id", "object", "created_at", "model", "service_tier", "usage")


class Responses(Codec):
    """`POST /responses`."""

    name = "openai-responses"
    path = "/responses"
    usual = USUAL | EVENTS.keys()

    def read(self, body: Mapping[str, Any], *, proxy: bool) -> Asked:
        refused_fields(body, allowed=_ALLOWED if proxy else None, denied=DENIED)
        _check(body)
        items = items_of(body.get("input"))
        found = [turn_of(item, place) for place, item in enumerate(items)]
        turns = [turn for turn in found if turn is not None]
        if turns and turns[-1].message.role == "assistant":
            raise UnsupportedField(
                "input",
                "the last item is the assistant's: it lets a caller begin the model's reply. End with a user's.",
            )
        instructions = opened(expect(body, "instructions", str, ""))
        form = expect(expect(body, "text", dict, {}), "format", dict, {})
        tools = _tools(body)
        first = [settings(body, _READ) if proxy else "", instructions]
        turns = [*(Turn(Message("system", said), None) for said in first if said), *turns]
        return Asked(
            body=body,
            turns=tuple(turns),
            model=expect(body, "model", str, ""),
            stream=expect(body, "stream", bool, default=False),
            structured=form.get("type") == "json_schema",
            json=form.get("type") not in (None, "text"),
            tools=frozenset(tool["name"] for tool in tools if isinstance(tool.get("name"), str)),
            ids=tuple(item["call_id"] for item in items if item.get("call_id") is not None),
        )

    def ask(
        self, asked: Asked, turns: Sequence[tuple[Turn, Message]], system: str, identity: str | None = None
    ) -> dict[str, Any]:
        out = {key: value for key, value in asked.body.items() if key not in {"input", "instructions"}}
        if identity is not None:
            out = inert({key: value for key, value in out.items() if key not in _TENANT})
            out |= {"user": identity, "store": False}
        own = opened(asked.body.get("instructions") or "")
        given, items, calls = items_of(asked.body.get("input")), [], set()
        for turn, message in turns:
            if turn.message.role == "system":
                if turn.source is not None or turn.message.content == own:
                    items.append({"type": "message", "role": "user", "content": fenced(message.content)})
                continue  # what tools say stays with them
            place = turn.source or 0
            raw = given[place]
            if raw.get("type") in OUTPUTS and raw["call_id"] not in calls:
                continue  # a result whose call was dropped would be refused upstream
            same = message.content == turn.message.content
            item = outgoing(raw, place) if same else placeholder(raw, message.content)
            if item is not None:
                items.append(item)
            if raw.get("type") in CALLS:
                calls.add(raw["call_id"])
        return {**out, "instructions": system, "input": items}

    def pieces(self, event: Event, known: Known) -> list[Piece]:
        if event.data == "[DONE]":
            return []  # some servers end every stream with it; here the last event does
        body = read_event(event)
        kind = body.get("type")
        if not isinstance(kind, str):
            raise WireError("the upstream sent an event without a type")
        shape = EVENTS.get(kind, OTHER)
        place = tuple(_index(body, name) for name in shape.at)
        held = body.get(shape.holds) if shape.holds else None
        if shape.holds and not isinstance(held, dict):
            raise WireError(f"the upstream sent {kind} without {shape.holds!r}")
        raw = event.raw if event.event in {"", kind} else None
        if shape.holds == "response" and held is not None and _quieted(held, beginning=not shape.last):
            raw = None
        found = _placed(walk(shape.table, body, known), place, known)
        if kind not in EVENTS and not known.name(kind):
            found.append(Found(None, place, body, "type", ".type"))
        if kind == "response.output_item.added" and held is not None:
            found += _begun(held, place)
        ends: tuple[Place, ...] = (ALL,) if shape.last else (place,) if shape.ends else ()
        lane = None if kind == _ALIVE else 0
        name = kind if _NAME.match(kind) else ""
        return [Piece(lane, body, name, raw, found, ends, shape.last)]

    def encode(self, piece: Piece) -> bytes:
        if piece.body.get("logprobs", 0) is None:
            piece.body["logprobs"] = []  # the events' own way to say none
        return super().encode(piece)

    def reply(self, body: dict[str, Any], known: Known) -> list[Piece]:
        if not isinstance(body.get("output"), list):
            raise WireError("the upstream's reply has no output")
        echo = _quieted(body, beginning=False)
        found = _placed(walk(REPLY, body, known), (), known)
        if echo:
            # Nothing to judge, but the reply must be written anew: the relay drops it like stray log probabilities.
            found.append(Found(LOGPROBS, (), {"echo": "taken out"}, "echo", ".instructions"))
        return [Piece(0, body, found=found, ends=(ALL,))]

    def refuse(self, body: dict[str, Any], lane: int, text: str, asked: Asked, known: Known) -> None:  # noqa: ARG002  # one lane
        kept = {key: body[key] for key in _ENVELOPE if key in body}
        for found in walk(REPLY, kept, known):  # an identifier that is none may be what was refused
            del kept[found.key]
        body.clear()
        body.update(refused({**blank(asked, ""), **kept}, text, asked))

    def refusal(self, asked: Asked, text: str, request: str) -> dict[str, Any]:
        return refused(blank(asked, request), text, asked)

    def said(self, body: Mapping[str, Any], lane: int) -> Iterable[tuple[Message, ...]]:  # noqa: ARG002  # one lane
        return variants(body.get("output"))

    def writer(self, asked: Asked, request: str) -> ResponsesWriter:
        return ResponsesWriter(asked, request)

    def error(self, status: int, code: str, message: str, param: str | None = None) -> dict[str, Any]:
        kind = "invalid_request_error" if status < 500 else "server_error"  # noqa: PLR2004  # HTTP's own line
        return {"error": {"message": message, "type": kind, "param": param, "code": code}}

    def error_event(self, code: str, message: str) -> bytes:
        event = {"type": "error", "code": code, "message": message, "param": None, "sequence_number": 0}
        return encode(dumps(event).decode("utf-8", "replace"), "error")


def _check(body: Mapping[str, Any]) -> None:
    """Stop at values that are not let through."""
    if body.get("background") not in (None, False):  # a set would hash what a caller wrote
        raise UnsupportedField("background", "background: true would have the server answer later, unseen. Remove it.")
    truncation = body.get("truncation")
    if truncation not in (None, "disabled"):  # as above
        raise UnsupportedField(
            "truncation", f"truncation is {truncation!r}: it could cut the safety config out. Give 'disabled'."
        )
    for name in expect(body, "include", list, []):
        if name not in _INCLUDED:
            raise UnsupportedField("include", f"include names {name!r}; choices: {', '.join(_INCLUDED)}")


def _tools(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    tools: list[dict[str, Any]] = expect(body, "tools", list, [])
    for place, tool in enumerate(tools):
        kind = tool.get("type") if isinstance(tool, dict) else None
        if kind not in _TOOLS:
            raise UnsupportedField(
                f"tools[{place}]",
                f"tools[{place}] has the type {kind!r}; choices: {', '.join(_TOOLS)}. "
                "The server would run any other, unseen by the guard.",
            )
    return tools


def _index(body: Mapping[str, Any], name: str) -> int:
    index = body.get(name, 0)
    if type(index) is not int or index < 0:
        raise WireError(f"the upstream sent an event whose {name} is no index")
    return _summary(index) if name == "summary_index" else index


def _summary(index: int) -> int:
    """Parts of a summary count downwards from -1, apart from the parts of the content of the same item."""
    return -1 - index


def _placed(fields: list[Found], place: Place, known: Known) -> list[Found]:
    """The fields at their places in the whole answer, without names of declared tools."""
    kept = []
    for found in fields:
        if (
            found.field is not None
            and found.field.label == "name"
            and isinstance(found.value, str)
            and found.value in known.tools
        ):
            continue
        below = found.place
        if ".summary[]" in found.path:
            below = (*below[:-1], _summary(below[-1]))
        found.place = (*place, *below)
        kept.append(found)
    return kept


def _begun(item: dict[str, Any], place: Place) -> list[Found]:
    """A call is not begun before what it is called with has passed: its beginning waits for the arguments."""
    kind = item.get("type")
    name = CALLS.get(kind) if isinstance(kind, str) else None
    if name is None or item.get(name):
        return []
    return [Found(whole(name), place, {name: ""}, name, f".item.{name}")]


def _quieted(response: dict[str, Any], *, beginning: bool) -> bool:
    """Take out of a response what it repeats of its request; whether there was anything.

    Args:
        beginning: what it has of the answer comes again, in events of its own.
    """
    said = [key for key in (*ECHO, *(("output",) if beginning else ())) if response.get(key)]
    for key in said:
        value = response[key]
        response[key] = type(value)() if isinstance(value, list | dict) else None
    return bool(said)
