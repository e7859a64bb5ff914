"""Items of OpenAI's responses: what they say, and how they are sent on.

An item that is sent on is written anew from the fields that were read: what nobody read does not reach the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cosa_guard.messages import Message, Role
from cosa_guard.wire.chat_messages import content_of
from cosa_guard.wire.fields import opened, readable
from cosa_guard.wire.protocol import Turn, apart, inert, inert_json
from cosa_sdk.errors import UnsupportedField, UsageError

__all__ = ["CALLS", "OUTPUTS", "items_of", "outgoing", "placeholder", "turn_of", "variants"]

CALLS: Mapping[str, str] = {"function_call": "arguments", "custom_tool_call": "input"}
"""Calls of tools, and the field with what they are called with."""
OUTPUTS = frozenset({"function_call_output", "custom_tool_call_output"})
_ROLES: Mapping[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_KINDS = ("message", *CALLS, *sorted(OUTPUTS), "reasoning")
_WRITTEN = frozenset({"text", "input_text", "output_text", "refusal"})
_PARTS = (*sorted(_WRITTEN), "input_image", "input_file", "input_audio")
_PHASES = ("commentary", "final_answer")


def items_of(given: Any) -> list[Any]:
    """A request's `input` as a list of items.

    Raises:
        UsageError: it is neither text nor a list, or empty.
    """
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": given}]
    if not isinstance(given, list) or not given:
        raise UsageError("input is missing or empty; give text or a list of items, such as a user's message")
    return given


def turn_of(item: Any, place: int) -> Turn | None:
    """What an item says; None for reasoning that nobody can read, which is not sent on either.

    Raises:
        UnsupportedField: it refers to something on the server.
        UsageError: it is no item.
    """
    where = f"input[{place}]"
    if not isinstance(item, dict):
        raise UsageError(f"{where} is {type(item).__name__}; give an object, such as a message with role and content")
    kind = _kind(item)
    if kind == "item_reference" or (kind is None and "id" in item):
        raise UnsupportedField(where, f"{where} refers to an item on the server that no judge has read. Send the item.")
    if kind not in _KINDS:
        raise UsageError(f"{where}.type is {kind!r}; choices: {', '.join(_KINDS)}")
    if kind == "message":
        return Turn(_message(item, where), place)
    if kind == "reasoning":
        said = words(item)
        return Turn(Message("assistant", said), place) if said else None
    for name in ("call_id", *(("name", CALLS[kind]) if kind in CALLS else ())):
        if not isinstance(item.get(name), str):
            raise UsageError(f"{where}.{name} is {type(item.get(name)).__name__}; give text")
    if kind in CALLS:
        return Turn(Message("assistant", words(item)), place)
    said, media = _content(item.get("output"), f"{where}.output")
    return Turn(Message("tool", opened(said), media), place)


def words(item: Mapping[str, Any]) -> str:
    """Everything that an item of the model's says, in one text: what is judged, and what a turn is recognised by."""
    kind = _kind(item)
    if kind in CALLS:
        said = [opened(str(item.get("name") or "")), readable(item.get(CALLS[kind]) or "")]
    elif kind == "reasoning":
        said = [*map(opened, _texts(item.get("summary"))), *map(opened, _texts(item.get("content")))]
    else:
        return opened(_text(item))
    return "\n".join(part for part in said if part)


def outgoing(item: Mapping[str, Any], place: int) -> dict[str, Any] | None:
    """An item for the upstream; None where nothing of it is sent on.

    Ids are left out: a server that keeps items might read its own in the place of what was judged.
    """
    kind = _kind(item)
    if kind == "message" and item["role"] == "assistant":
        phase = {"phase": item["phase"]} if item.get("phase") in _PHASES else {}
        return {"type": "message", "role": "assistant", "content": inert(_text(item)), **phase}
    if kind == "message":
        return {"type": "message", "role": item["role"], "content": _sent(item.get("content") or "")}
    if kind == "reasoning":
        texts = _texts(item.get("content"))
        content = [{"type": "reasoning_text", "text": inert(text)} for text in texts]
        # A summary is for people. Sealed reasoning is for no judge.
        return {"type": "reasoning", "id": f"rs_{place}", "summary": [], "content": content} if texts else None
    if kind in CALLS:
        given = CALLS[kind]
        opened_ = inert_json if given == "arguments" else inert
        return {"type": kind, "call_id": item["call_id"], "name": inert(item["name"]), given: opened_(item[given])}
    return {"type": kind, "call_id": inert(item["call_id"]), "output": _sent(item.get("output") or "")}


def placeholder(item: Mapping[str, Any], content: str) -> dict[str, Any]:
    """An item of the same kind that says something else."""
    if _kind(item) in OUTPUTS:
        return {"type": item["type"], "call_id": inert(item["call_id"]), "output": content}
    return {"type": "message", "role": item.get("role") or "assistant", "content": content}


def variants(output: Any) -> Iterable[tuple[Message, ...]]:
    """The turns that a caller may send back for an answer: all items, without reasoning, or the text alone."""
    items = [item for item in output if isinstance(item, dict)] if isinstance(output, list) else []
    given: list[tuple[Message, ...]] = []
    for kinds in (_KINDS, tuple(kind for kind in _KINDS if kind != "reasoning")):
        said = [(item, words(item)) for item in items if _kind(item) in kinds]
        given.append(tuple(Message("assistant", text) for item, text in said if text or _kind(item) != "reasoning"))
    texts = [part for item in items if _kind(item) == "message" for part in _texts(item.get("content"))]
    given.append((Message("assistant", opened("".join(texts))),) if texts else ())
    yield from dict.fromkeys(turns for turns in given if turns)


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else "\n".join(_texts(content))


def _kind(item: Mapping[str, Any]) -> Any:
    """An item's type, by its role where it is left out; None for anything odd."""
    kind = item.get("type")
    if kind is None and "role" in item:
        return "message"
    return kind if isinstance(kind, str) else None


def _message(item: Mapping[str, Any], where: str) -> Message:
    role = item.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise UsageError(f"{where}.role is {role!r}; choices: {', '.join(_ROLES)}")
    content, media = _content(item.get("content"), where)
    if role == "assistant":
        if media:
            raise UsageError(f"{where}.content of the assistant has the part {media[0]!r}; give output_text or refusal")
        content = _text(item)
    return Message(_ROLES[role], opened(content), media)


def _content(content: Any, where: str) -> tuple[str, tuple[str, ...]]:
    """As `content_of`, for the kinds of parts that responses have."""
    said = content_of(content, where)
    for position, part in enumerate(content if isinstance(content, list) else ()):
        kind, place = part.get("type"), f"{where}.content[{position}]"
        if kind not in _PARTS:
            raise UsageError(f"{place}.type is {kind!r}; choices: {', '.join(_PARTS)}")
        if kind in _WRITTEN and not isinstance(part.get(_said_in(kind)), str):
            raise UsageError(f"{place} has no {_said_in(kind)!r}; give text")
        if part.get("file_id") is not None:
            raise UnsupportedField(
                f"{place}.file_id", f"{place}.file_id names a file on the server that no judge has read. Send its data."
            )
    return said


def _said_in(kind: str) -> str:
    return "refusal" if kind == "refusal" else "text"


def _texts(parts: Any) -> list[str]:
    """What the parts of a content or summary say; nothing for what is no part."""
    found = parts if isinstance(parts, list) else []
    said = [part.get(name) for part in found if isinstance(part, dict) for name in ("text", "refusal")]
    return [text for text in said if isinstance(text, str) and text]


def _sent(content: Any) -> Any:
    """A caller's content with nothing in its text parts but text."""
    if isinstance(content, str):
        return inert(content)
    return apart(
        [
            {"type": "input_text", "text": inert(part[_said_in(part["type"])])}
            if part["type"] in _WRITTEN
            else inert(part)
            for part in content
        ]
    )
