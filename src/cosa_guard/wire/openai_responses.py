"""OpenAI's responses, as vendors and local servers speak them.

Source: OpenAI's API reference, responses and their streaming events; vLLM's additions that are known are listed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cosa_guard.messages import Message
from cosa_guard.wire.chat_messages import fenced
from cosa_guard.wire.fields import (
    LOGPROBS,
    MEDIA,
    META,
    OPAQUE,
    Found,
    Place,
    Table,
    copy_of,
    text,
    walk,
    whole,
)
from cosa_guard.wire.openai_chat import DENIED as CHAT_DENIED
from cosa_guard.wire.openai_chat import read_event
from cosa_guard.wire.protocol import ALL, Asked, Codec, Piece, Turn, dumps, expect, inert, lines, refused_fields
from cosa_guard.wire.responses_items import CALLS, OUTPUTS, items_of, outgoing, placeholder, turn_of, variants
from cosa_guard.wire.responses_writer import ResponsesWriter, blank, refused
from cosa_guard.wire.sse import Event, encode
from cosa_sdk.errors import UnsupportedField, WireError

__all__ = ["Responses"]


def _part(*, again: bool) -> Table:
    said = copy_of if again else text
    return {
        "type": META,
        "text": said("content"),
        "refusal": said("refusal"),
        "transcript": said("transcript"),
        "annotations": whole("annotations", copy=again),
        "logprobs": LOGPROBS,
        "data": MEDIA,
    }


def _item(*, again: bool) -> Table:
    """An item's fields.

    Args:
        again: its text came before, in events of its own.
    """
    return {
        **dict.fromkeys(("id", "type", "status", "role", "phase", "call_id", "namespace", "caller"), META),
        "content": {"*": _part(again=again)},
        "summary": {"*": {"type": META, "text": (copy_of if again else text)("summary")}},
        "name": whole("name", copy=again),
        "arguments": whole("arguments", copy=again),
        "input": whole("input", copy=again),
        "encrypted_content": OPAQUE,
        "result": MEDIA,
    }


def _response(*, again: bool) -> Table:
    names = (
        "id object status model service_tier usage incomplete_details previous_response_id conversation tool_choice "
        "reasoning truncation prompt_cache_retention prompt_cache_options billing access_programs tool_usage"
    )
    return {
        **dict.fromkeys(names.split(), META),
        "error": {"code": META, "type": META, "param": META, "message": text("error")},
        "output": {"*": _item(again=again)},
        "output_text": text("output_text"),
    }


REPLY = _response(again=False)
_ECHO = (
    "instructions tools text metadata user safety_identifier prompt_cache_key prompt input input_messages "
    "prompt_token_ids"
).split()
"""What a response repeats of its request. The compiled config is there, and the caller knows the rest."""
STEP: Table = dict.fromkeys(
    "type sequence_number output_index content_index summary_index annotation_index item_id obfuscation status".split(),
    META,
)
"""What events have beside what they are about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """An event that carries text."""

    table: Table
    at: tuple[str, ...] = ()
    """Names of the indices that place it."""
    holds: str = ""
    """The object in it."""
    ends: bool = False
    """What is at its place is complete."""
    last: bool = False


_ITEM, _PART, _SUMMARY = (
    ("output_index",),
    ("output_index", "content_index"),
    ("output_index", "summary_index"),
)


def _lifecycle(*, last: bool) -> _Shape:
    return _Shape(table={**STEP, "response": _response(again=True)}, holds="response", last=last)


def _grows(at: tuple[str, ...], *, item: str = "", part: str = "", name: str = "text") -> tuple[_Shape, _Shape]:
    """A text that comes in deltas, and the event that has it once more, complete."""
    delta = whole(item) if item else text(part)
    done = whole(item, copy=True) if item else copy_of(part)
    logs: Table = {"logprobs": LOGPROBS} if part == "content" else {}
    names: Table = {"name": whole("name", copy=True)} if item else {}
    return (
        _Shape(table={**STEP, **logs, "delta": delta}, at=at),
        _Shape(table={**STEP, **logs, **names, name: done}, at=at, ends=True),
    )


def _added(at: tuple[str, ...], holds: str, tables: tuple[Table, Table]) -> tuple[_Shape, _Shape]:
    """An object that begins, and the event that has it once more, complete."""
    return (
        _Shape(table={**STEP, holds: tables[0]}, at=at, holds=holds),
        _Shape(table={**STEP, holds: tables[1]}, at=at, holds=holds, ends=True),
    )


_PARTS = (_part(again=False), _part(again=True))
_PAIRS = {
    "response.output_item.{added,done}": _added(_ITEM, "item", (_item(again=False), _item(again=True))),
    "response.content_part.{added,done}": _added(_PART, "part", _PARTS),
    "response.reasoning_part.{added,done}": _added(_PART, "part", _PARTS),
    "response.reasoning_summary_part.{added,done}": _added(
        _SUMMARY, "part", ({"type": META, "text": text("summary")}, {"type": META, "text": copy_of("summary")})
    ),
    "response.output_text.{delta,done}": _grows(_PART, part="content"),
    "response.reasoning_text.{delta,done}": _grows(_PART, part="content"),
    "response.refusal.{delta,done}": _grows(_PART, part="refusal", name="refusal"),
    "response.reasoning_summary_text.{delta,done}": _grows(_SUMMARY, part="summary"),
    "response.function_call_arguments.{delta,done}": _grows(_ITEM, item="arguments", name="arguments"),
    "response.custom_tool_call_input.{delta,done}": _grows(_ITEM, item="input", name="input"),
}
EVENTS: Mapping[str, _Shape] = {
    **{
        pattern.split("{")[0] + word: shape
        for pattern, pair in _PAIRS.items()
        for word, shape in zip(pattern.rstrip("}").split("{")[1].split(","), pair, strict=True)
    },
    **{f"response.{name}": _lifecycle(last=False) for name in ("created", "queued", "in_progress")},
    **{f"response.{name}": _lifecycle(last=True) for name in ("completed", "incomplete", "failed")},
    "response.output_text.annotation.added": _Shape(
        table={**STEP, "annotation": whole("annotation")}, at=(*_PART, "annotation_index"), ends=True
    ),
    "response.audio.delta": _Shape(table={**STEP, "delta": MEDIA}),
    "response.audio.transcript.delta": _Shape(table={**STEP, "delta": text("transcript")}),
    "response.image_generation_call.partial_image": _Shape(table={**STEP, "partial_image_b64": MEDIA}),
    "error": _Shape(
        table={
            **STEP,
            **dict.fromkeys(("code", "param"), META),
            "message": text("error"),
            "error": {"code": META, "type": META, "param": META, "message": text("error")},
        },
        last=True,
    ),
}
_OTHER = _Shape(table=STEP)
"""Of any other event, each further string is unknown; those of tools that run on the server are among them."""
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
    "truncate_prompt_tokens": "it could cut the safety config out of the prompt",
}
_TENANT = frozenset({"user", "metadata", "prompt_cache_key", "prompt_cache_options", "safety_identifier", "store"})
_TOOLS = ("custom", "function")
_INCLUDED = ("message.output_text.logprobs", "reasoning.encrypted_content")
_ENVELOPE = ("id", "object", "created_at", "model", "service_tier", "usage")


class Responses(Codec):
    """`POST /responses`."""

    name = "openai-responses"
    path = "/responses"

    def read(self, body: Mapping[str, Any], *, proxy: bool) -> Asked:
        refused_fields(body, allowed=_ALLOWED if proxy else None, denied=DENIED)
        _check(body)
        found = [turn_of(item, place) for place, item in enumerate(items_of(body.get("input")))]
        turns = [turn for turn in found if turn is not None]
        if turns and turns[-1].message.role == "assistant":
            raise UnsupportedField(
                "input",
                "the last item is the assistant's: it lets a caller begin the model's reply. End with a user's.",
            )
        instructions = expect(body, "instructions", str, "")
        form = expect(expect(body, "text", dict, {}), "format", dict, {})
        tools = _tools(body)
        first = [lines(tools, form) if proxy else "", instructions]
        turns = [*(Turn(Message("system", said), None) for said in first if said), *turns]
        return Asked(
            body=body,
            turns=tuple(turns),
            model=expect(body, "model", str, ""),
            stream=expect(body, "stream", bool, default=False),
            structured=form.get("type") == "json_schema",
            tools=frozenset(tool["name"] for tool in tools if isinstance(tool.get("name"), str)),
        )

    def ask(
        self, asked: Asked, turns: Sequence[tuple[Turn, Message]], system: str, identity: str | None = None
    ) -> dict[str, Any]:
        out = {key: value for key, value in asked.body.items() if key not in {"input", "instructions"}}
        if identity is not None:
            out = inert({key: value for key, value in out.items() if key not in _TENANT})
            out |= {"user": identity, "store": False}
        given, items, calls = items_of(asked.body.get("input")), [], set()
        for turn, message in turns:
            if turn.message.role == "system":
                if turn.source is not None or turn.message.content == asked.body.get("instructions"):
                    items.append({"type": "message", "role": "user", "content": fenced(inert(message.content))})
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

    def pieces(self, event: Event, tools: frozenset[str]) -> list[Piece]:
        if event.data == "[DONE]":
            return []  # some servers end every stream with it; here the last event does
        body = read_event(event)
        kind = body.get("type")
        if not isinstance(kind, str):
            raise WireError("the upstream sent an event without a type")
        shape = EVENTS.get(kind, _OTHER)
        place = tuple(_index(body, name) for name in shape.at)
        held = body.get(shape.holds) if shape.holds else None
        if shape.holds and not isinstance(held, dict):
            raise WireError(f"the upstream sent {kind} without {shape.holds!r}")
        raw = event.raw if event.event in {"", kind} else None
        if shape.holds == "response" and held is not None and _quieted(held, beginning=not shape.last):
            raw = None
        found = _placed(walk(shape.table, body, tools), place, tools)
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

    def reply(self, body: dict[str, Any], tools: frozenset[str]) -> list[Piece]:
        if not isinstance(body.get("output"), list):
            raise WireError("the upstream's reply has no output")
        echo = _quieted(body, beginning=False)
        found = _placed(walk(REPLY, body, tools), (), tools)
        if echo:
            # Nothing to judge, but the reply must be written anew: the relay drops it like stray log probabilities.
            found.append(Found(LOGPROBS, (), {"echo": "taken out"}, "echo", ".instructions"))
        return [Piece(0, body, found=found, ends=(ALL,))]

    def refuse(self, body: dict[str, Any], lane: int, text: str, asked: Asked) -> None:  # noqa: ARG002  # one lane
        known = {key: body[key] for key in _ENVELOPE if key in body}
        for found in walk(REPLY, known):  # an identifier that is none may be what was refused
            del known[found.key]
        body.clear()
        body.update(refused({**blank(asked, ""), **known}, text, asked))

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


def _placed(fields: list[Found], place: Place, tools: frozenset[str]) -> list[Found]:
    """The fields at their places in the whole answer, without names of declared tools."""
    kept = []
    for found in fields:
        if (
            found.field is not None
            and found.field.label == "name"
            and isinstance(found.value, str)
            and found.value in tools
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
    said = [key for key in (*_ECHO, *(("output",) if beginning else ())) if response.get(key)]
    for key in said:
        value = response[key]
        response[key] = type(value)() if isinstance(value, list | dict) else None
    return bool(said)
