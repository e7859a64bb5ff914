"""Content blocks of Anthropic's messages: what they say, and how they are sent on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from cosa_guard.folding import whole_characters
from cosa_guard.messages import Message, Role
from cosa_guard.wire.fields import opened, readable
from cosa_guard.wire.protocol import Turn, apart, expect, inert, lasting
from cosa_sdk.errors import UnsupportedField, UsageError

__all__ = ["ids_of", "outgoing", "placeholder", "text_of", "turn_of", "variants"]

_ROLES: Mapping[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
_KINDS: Mapping[str, tuple[str, ...]] = {
    "system": ("text",),
    "user": ("text", "image", "document", "search_result", "tool_result"),
    "assistant": ("text", "thinking", "redacted_thinking", "tool_use"),
    "tool_result": ("text", "image", "document", "search_result"),
    "document": ("text", "image"),
    "search_result": ("text",),
}
"""Blocks by where they may stand."""
_FIELDS: Mapping[str, tuple[str, ...]] = {
    "text": ("text",),
    "image": ("source",),
    "document": ("source", "title", "context", "citations"),
    "search_result": ("source", "title", "content", "citations"),
    "tool_use": ("id", "name", "input"),
    "tool_result": ("tool_use_id", "content", "is_error"),
    "thinking": ("thinking", "signature"),
}
"""What is sent on of a block."""
_STRINGS: Mapping[str, tuple[str, ...]] = {
    "text": ("text",),
    "tool_use": ("id", "name"),
    "tool_result": ("tool_use_id",),
    "search_result": ("source", "title"),
    "thinking": ("thinking",),
}
"""What a block must have."""
_OTHERS: Mapping[str, Mapping[str, type]] = {
    "thinking": {"signature": str},
    "tool_use": {"input": dict},
    "tool_result": {"is_error": bool},
    "document": {"citations": dict},
    "search_result": {"citations": dict},
}
"""What it may have, and of which kind that is."""
_THOUGHTS = ("thinking", "redacted_thinking")
_SOURCES = ("base64", "url", "text", "content")
_SEAL = re.compile(r"[A-Za-z0-9+/=_-]+\Z")
_MIME = re.compile(r"(?:(?:text|image|application)/(?:plain|png|jpeg|gif|webp|pdf))?\Z")


def text_of(system: Any, where: str) -> str:
    """System text, given as text or as blocks.

    Raises:
        UsageError: it is something else.
    """
    return _content(system, where, "system")[0]


def turn_of(item: Any, place: int) -> Turn:
    """What a message says.

    Raises:
        UnsupportedField: it refers to something on the server.
        UsageError: it is no message.
    """
    where = f"messages[{place}]"
    if not isinstance(item, dict):
        raise UsageError(f"{where} is {type(item).__name__}; give an object with role and content")
    given = item.get("role")
    if not isinstance(given, str) or given not in _ROLES:
        raise UsageError(f"{where}.role is {given!r}; choices: {', '.join(_ROLES)}")
    content, role = item.get("content"), _ROLES[given]
    said, media = _content(content, f"{where}.content", given)
    if role == "user" and {block["type"] for block in _blocks(content)} == {"tool_result"}:
        role = "tool"
    return Turn(Message(role, said, media), place)


def ids_of(content: Any) -> Iterable[str]:
    """What names calls of tools in a content: judged by its shape."""
    for block in _blocks(content):
        name = {"tool_use": "id", "tool_result": "tool_use_id"}.get(block["type"])
        if name is not None:
            yield block[name]


def outgoing(content: Any, calls: set[str]) -> Any:
    """A message's content for the upstream, each block written anew from what was read.

    Args:
        calls: tools called so far, which it adds to; a result without a call would be refused upstream.
    """
    if isinstance(content, str):
        return inert(content)
    sent = []
    for block in content:
        kind = block["type"]
        if kind == "tool_use":
            calls.add(block["id"])
        # Only the upstream can read sealed thinking; where there is text beside it, it checks that they are the same.
        sealed = kind == "redacted_thinking" or (kind == "thinking" and not _is_open(block))
        if sealed or (kind == "tool_result" and block["tool_use_id"] not in calls):
            continue
        sent.append(_sent(block))
    return apart(sent)


def _is_open(block: Mapping[str, Any]) -> bool:
    return bool(block["thinking"]) and _SEAL.match(block.get("signature") or "") is not None


def placeholder(content: Any, said: str, calls: set[str]) -> Any:
    """A message's content that says something else; results of tools stay results, or the upstream would miss them."""
    results = [block for block in _blocks(content) if block["type"] == "tool_result" and block["tool_use_id"] in calls]
    return [{"type": "tool_result", "tool_use_id": block["tool_use_id"], "content": said} for block in results] or said


def words(content: Any) -> str:
    """Everything that an answer says, in one text: what is judged, and what a turn is recognised by."""
    if isinstance(content, str):
        return opened(content)
    said: list[str] = []
    for block in _blocks(content):
        said += [opened(value) for key in ("text", "thinking", "name") if isinstance(value := block.get(key), str)]
        if block.get("input"):
            said.append(readable(block["input"]))
    return "\n".join(part for part in said if part)


def variants(content: Any) -> Iterable[tuple[Message, ...]]:
    """The turn as a caller may send it back: as it was given, without its thinking, or its text alone."""
    blocks = _blocks(content)
    bare = [block for block in blocks if block.get("type") not in _THOUGHTS]
    texts = [str(block.get("text") or "") for block in bare if block.get("type") == "text"]
    given = (words(blocks), words(bare), words("".join(texts)))
    yield from ((Message("assistant", said),) for said in dict.fromkeys(given) if said)


def _blocks(content: Any) -> list[dict[str, Any]]:
    return [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []


def _content(content: Any, where: str, owner: str) -> tuple[str, tuple[str, ...]]:
    """Text and kinds of media of a content.

    Args:
        owner: whose content it is: a role, or a block that has blocks.
    """
    if isinstance(content, str):
        return opened(content), ()
    if not isinstance(content, list):
        raise UsageError(f"{where} is {type(content).__name__}; give text or a list of blocks")
    said: list[str] = []
    media: list[str] = []
    for position, block in enumerate(content):
        here = f"{where}[{position}]"
        if not isinstance(block, dict):
            raise UsageError(f"{here} is {type(block).__name__}; give a block with a type")
        kind = block.get("type")
        if kind not in _KINDS[owner]:
            raise UsageError(f"{here}.type is {kind!r}; choices: {', '.join(_KINDS[owner])}")
        for name in _STRINGS.get(kind, ()):
            if not isinstance(block.get(name), str):
                raise UsageError(f"{here}.{name} is {type(block.get(name)).__name__}; give text")
        if kind in {"image", "document"}:
            _media(block, here, said, media)
        elif kind in {"tool_result", "search_result"}:
            inner = _content(block.get("content") or "", f"{here}.content", kind)
            said += [*(block[name] for name in _STRINGS[kind] if name != "tool_use_id"), inner[0]]
            media += inner[1]
        else:
            said.append(words([block]))
        for name, wanted in _OTHERS.get(kind, {}).items():
            expect(block, name, wanted)
        if "citations" in _OTHERS.get(kind, ()):
            expect(block.get("citations") or {}, "enabled", bool)
    return whole_characters("\n".join(part for part in said if part)), tuple(media)


def _media(block: Mapping[str, Any], where: str, said: list[str], media: list[str]) -> None:
    """What can be read of a picture or document, and that there is more."""
    kind, source = block["type"], expect(block, "source", dict, {})
    known = source.get("type")
    if known == "file":
        raise UnsupportedField(
            f"{where}.source", f"{where}.source names a file on the server that no judge has read. Send its data."
        )
    if known not in _SOURCES:
        raise UsageError(f"{where}.source.type is {known!r}; choices: {', '.join(_SOURCES)}")
    if not _MIME.match(expect(source, "media_type", str, "")):
        raise UsageError(f"{where}.source.media_type is none; give one such as 'text/plain' or 'image/png'")
    said += [expect(block, name, str, "") for name in ("title", "context")]
    if known == "text":
        said.append(opened(expect(source, "data", str, "")))
    elif known == "content":
        inner = _content(source.get("content") or "", f"{where}.source.content", "document")
        said.append(inner[0])
        media += inner[1]
    else:
        media.append(kind)


def _sent(block: Mapping[str, Any]) -> dict[str, Any]:
    """A block with the fields that were read, and the mark that a prompt's cache ends there."""
    kind = block["type"]
    sent = {name: inert(block[name]) for name in _FIELDS[kind] if block.get(name) is not None}
    for name in ("content", "source"):
        if isinstance(sent.get(name), list):
            sent[name] = apart([_sent(inner) for inner in sent[name]])
        elif isinstance(sent.get(name), dict):
            sent[name] = _source(sent[name])
    if kind == "tool_use":
        sent.setdefault("input", {})
    if "citations" in sent:
        sent["citations"] = {"enabled": sent["citations"].get("enabled") or False}
    return {"type": kind, **sent, **lasting(block)}


def _source(source: Mapping[str, Any]) -> dict[str, Any]:
    sent = {name: source[name] for name in ("type", "media_type", "data", "url", "content") if name in source}
    if isinstance(sent.get("content"), list):
        sent["content"] = apart([_sent(inner) for inner in sent["content"]])
    return sent
