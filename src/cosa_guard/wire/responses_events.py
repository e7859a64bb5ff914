"""Which events and fields of OpenAI's responses carry text.

Source: OpenAI's API reference, responses and their streaming events; vLLM's additions that are known are listed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cosa_guard.wire.fields import ID, LOGPROBS, MEDIA, META, MODEL, OPAQUE, Table, copy_of, text, whole

__all__ = ["ECHO", "EVENTS", "OTHER", "REPLY", "STEP", "Shape"]


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
        **dict.fromkeys(("id", "type", "status", "role", "phase", "namespace", "caller"), META),
        "call_id": ID,
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
        "id object status service_tier usage incomplete_details previous_response_id conversation tool_choice "
        "reasoning truncation prompt_cache_retention prompt_cache_options billing access_programs tool_usage"
    )
    return {
        **dict.fromkeys(names.split(), META),
        "model": MODEL,
        "error": {"code": META, "type": META, "param": META, "message": text("error")},
        "output": {"*": _item(again=again)},
        "output_text": text("output_text"),
    }


REPLY = _response(again=False)
ECHO = (
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
class Shape:
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


def _lifecycle(*, last: bool) -> Shape:
    return Shape(table={**STEP, "response": _response(again=True)}, holds="response", last=last)


def _grows(at: tuple[str, ...], *, item: str = "", part: str = "", name: str = "text") -> tuple[Shape, Shape]:
    """A text that comes in deltas, and the event that has it once more, complete."""
    delta = whole(item) if item else text(part)
    done = whole(item, copy=True) if item else copy_of(part)
    logs: Table = {"logprobs": LOGPROBS} if part == "content" else {}
    names: Table = {"name": whole("name", copy=True)} if item else {}
    return (
        Shape(table={**STEP, **logs, "delta": delta}, at=at),
        Shape(table={**STEP, **logs, **names, name: done}, at=at, ends=True),
    )


def _added(at: tuple[str, ...], holds: str, tables: tuple[Table, Table]) -> tuple[Shape, Shape]:
    """An object that begins, and the event that has it once more, complete."""
    return (
        Shape(table={**STEP, holds: tables[0]}, at=at, holds=holds),
        Shape(table={**STEP, holds: tables[1]}, at=at, holds=holds, ends=True),
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
EVENTS: Mapping[str, Shape] = {
    **{
        pattern.split("{")[0] + word: shape
        for pattern, pair in _PAIRS.items()
        for word, shape in zip(pattern.rstrip("}").split("{")[1].split(","), pair, strict=True)
    },
    **{f"response.{name}": _lifecycle(last=False) for name in ("created", "queued", "in_progress")},
    **{f"response.{name}": _lifecycle(last=True) for name in ("completed", "incomplete", "failed")},
    "response.output_text.annotation.added": Shape(
        table={**STEP, "annotation": whole("annotation")}, at=(*_PART, "annotation_index"), ends=True
    ),
    "response.audio.delta": Shape(table={**STEP, "delta": MEDIA}),
    "response.audio.transcript.delta": Shape(table={**STEP, "delta": text("transcript")}),
    "response.image_generation_call.partial_image": Shape(table={**STEP, "partial_image_b64": MEDIA}),
    "error": Shape(
        table={
            **STEP,
            **dict.fromkeys(("code", "param"), META),
            "message": text("error"),
            "error": {"code": META, "type": META, "param": META, "message": text("error")},
        },
        last=True,
    ),
}
OTHER = Shape(table=STEP)
"""Of any other event, each further string is unknown; those of tools that run on the server are among them."""
