"""What a chat message says, in one text: what judges read, and what a turn is recognised by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cosa_guard.messages import Message
from cosa_guard.wire.fields import opened, readable
from cosa_guard.wire.protocol import expect, lines
from cosa_sdk.errors import UsageError
from cosa_sdk.wording import neutralised

__all__ = ["content_of", "fenced", "variants", "words"]


def fenced(content: str) -> str:
    """System text of a proxy's caller: below the config, as a section of a user's turn."""
    return f"[application]\n{neutralised(content)}\n[/application]"


def content_of(content: Any, place: str) -> tuple[str, tuple[str, ...]]:
    """Text and kinds of media of a message's content.

    Raises:
        UsageError: it is neither text nor a list of parts.
    """
    if content is None or isinstance(content, str):
        return content or "", ()
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise UsageError(f"{place}.content is {type(content).__name__}; give text or a list of parts")
    texts: list[str] = []
    media: list[str] = []
    for part in content:
        kind = str(part.get("type"))
        if kind not in {"text", "input_text", "output_text", "refusal"}:
            media.append(kind)
        texts.extend(value for key, value in part.items() if key in {"text", "refusal"} and isinstance(value, str))
        texts.extend(
            line
            for key, value in part.items()
            if key not in {"type", "text", "refusal", "cache_control", "annotations", "logprobs"}
            for line in _outside_media(value)
        )
    return "\n".join(texts), tuple(media)


def _outside_media(value: Any) -> Iterable[str]:
    """Strings of a part that is not text, without the bytes of pictures and sound."""
    return (line for line in lines(value).split("\n") if " " in line) if value else ()


_PLAIN = frozenset({"role", "content"})


def words(message: Mapping[str, Any]) -> str:
    """Everything that a message says, in one text: what is judged, and what a turn is recognised by."""
    content: str = message.get("content") or ""
    for key, value in message.items():
        if value and key not in _PLAIN:
            return _all_words(message, content)
    return content if "\\u" not in content else _all_words(message, content)


def _all_words(message: Mapping[str, Any], content: str) -> str:
    calls = expect(message, "tool_calls", list, [])
    said = [opened(content), message.get("refusal") or ""]
    for call in [*calls, message.get("function_call") or {}]:
        for part in (call.get("function"), call.get("custom"), call):
            if isinstance(part, dict):
                said += [
                    str(part.get("name") or ""),
                    *(readable(part[key]) for key in ("arguments", "input") if part.get(key)),
                ]
    known = {"role", "content", "refusal", "tool_calls", "function_call", "tool_call_id", "annotations"}
    said += [readable(value) for key, value in message.items() if key not in known and value]
    return "\n".join(part for part in said if part)


def variants(message: Mapping[str, Any]) -> Iterable[tuple[Message, ...]]:
    """The turn as a caller may send it back: as it was given, and without its reasoning."""
    yield (Message("assistant", words(message)),)
    bare = {key: value for key, value in message.items() if not key.startswith("reasoning")}
    if len(bare) != len(message):
        yield (Message("assistant", words(bare)),)
