"""What a chat message says, in one text: what judges read, what a turn is recognised by, and how it is sent on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cosa_guard.folding import whole_characters
from cosa_guard.messages import Message
from cosa_guard.wire.fields import opened, readable
from cosa_guard.wire.protocol import apart, expect, inert, inert_json, lasting, lines
from cosa_sdk.errors import UnsupportedField, UsageError
from cosa_sdk.wording import neutralised

__all__ = ["content_of", "fenced", "ids_of", "outgoing", "placeholder", "variants", "words"]

_WRITTEN = frozenset({"text", "input_text", "output_text", "refusal"})
_UNSEEN = frozenset("image_url input_image input_audio audio_url video_url file input_file document".split())
_BYTES = frozenset({"data", "file_data"})
_APART = frozenset({"type", "text", "refusal", "cache_control", "annotations", "logprobs"})
_CALLS = {"function": "arguments", "custom": "input"}
_PLAIN = frozenset({"role", "content"})
_KNOWN = frozenset("role content refusal tool_calls function_call tool_call_id annotations".split())


def fenced(content: str) -> str:
    """System text of a proxy's caller: below the config, as a section of a user's turn."""
    return f"[application]\n{neutralised(inert(content))}\n[/application]"


def content_of(content: Any, place: str) -> tuple[str, tuple[str, ...]]:
    """Text and kinds of media of a message's content.

    Raises:
        UnsupportedField: a part refers to a file on the server.
        UsageError: it is neither text nor a list of parts.
    """
    if content is None or isinstance(content, str):
        return content or "", ()
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise UsageError(f"{place}.content is {type(content).__name__}; give text or a list of parts")
    texts: list[str] = []
    media: list[str] = []
    for position, part in enumerate(content):
        kind = str(part.get("type"))
        if kind not in _WRITTEN:
            media.append(kind)
            texts += [] if kind in _UNSEEN else [kind]
            if _refers(part):
                where = f"{place}.content[{position}].file_id"
                raise UnsupportedField(where, f"{where} names a file that no judge has read. Send its data.")
        texts += [part[key] for key in ("text", "refusal") if isinstance(part.get(key), str)]
        rest = {key: value for key, value in part.items() if key not in _APART}
        if kind not in _WRITTEN and rest:
            texts += _outside_media(rest)
    return "\n".join(texts), tuple(media)


def _refers(part: Mapping[str, Any]) -> bool:
    return any(isinstance(one, dict) and one.get("file_id") is not None for one in (part, *part.values()))


_USUAL = frozenset(
    {*_UNSEEN, *_BYTES, *"url file_url detail format filename id auto low high wav mp3 png jpeg".split()}
)


def _outside_media(value: Any) -> Iterable[str]:
    """Strings of a part that is not text, without the bytes of pictures and sound or where they are."""
    for key, item in value.items() if isinstance(value, dict) else ((None, one) for one in value):
        if isinstance(item, dict | list):
            yield from _outside_media(item)
        elif isinstance(item, str) and key not in _BYTES and item not in _USUAL and not _is_address(item):
            yield item
        if key is not None and key not in _USUAL:
            yield key


def _is_address(text: str) -> bool:
    return text.startswith(("data:", "http://", "https://")) and " " not in text


def words(message: Mapping[str, Any]) -> str:
    """Everything that a message says, in one text: what is judged, and what a turn is recognised by."""
    content: str = message.get("content") or ""
    for key, value in message.items():
        if value and key not in _PLAIN:
            return _all_words(message, content)
    return opened(content)


def _all_words(message: Mapping[str, Any], content: str) -> str:
    said = [opened(content), expect(message, "refusal", str, "")]
    for call in _calls(message):
        said += _call_words(call)
    # Of what nobody knows the name is read too; where it is empty it is not sent on.
    rest = [(key, value) for key, value in message.items() if key not in _KNOWN and value]
    said += [readable(value if key in _READ else {key: value}) for key, value in rest]
    return whole_characters("\n".join(part for part in said if part))


_READ = frozenset({"name", "reasoning", "reasoning_content"})


def _calls(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Calls of tools, today's and those of old.

    Raises:
        UsageError: they are none.
    """
    calls: list[Any] = [*expect(message, "tool_calls", list, [])]
    if message.get("function_call"):
        calls.append({"function": message["function_call"]})
    for call in calls:
        if not isinstance(call, dict) or not all(isinstance(call.get(kind) or {}, dict) for kind in _CALLS):
            raise UsageError("a tool call is no object with a function; give its id, type and function")
    return calls


def _call_words(call: Mapping[str, Any]) -> list[str]:
    said: list[str] = []
    for kind, given in _CALLS.items():
        part = call.get(kind) or {}
        rest = {key: value for key, value in part.items() if key not in {"name", given}}
        said += [str(part.get("name") or ""), readable(part.get(given) or ""), lines(rest)]
    usual = {"id", "index", *_CALLS, *(("type",) if call.get("type") in (None, *_CALLS) else ())}
    return [*said, lines({key: value for key, value in call.items() if key not in usual})]


def ids_of(message: Mapping[str, Any]) -> Iterable[Any]:
    """What names calls of tools in a message: judged by its shape."""
    if message.get("tool_call_id") is not None:
        yield message["tool_call_id"]
    for call in message.get("tool_calls") or ():
        yield call.get("id")
        yield call.get("index")


def outgoing(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message for the upstream, without what was not read of it."""
    kept = {key: value for key, value in message.items() if key not in _REWRITTEN and (value or key == "content")}
    sent: dict[str, Any] = inert(kept)
    if isinstance(message.get("content"), list):
        sent["content"] = apart([_part(part) for part in message["content"]])
    if message.get("tool_calls"):
        sent["tool_calls"] = [
            inert(call) | {key: _called(call[key]) for key in _CALLS if call.get(key)} for call in message["tool_calls"]
        ]
    if message.get("function_call"):
        sent["function_call"] = _called(message["function_call"])
    return {"role": message["role"], **sent}


_REWRITTEN = frozenset({"role", "tool_calls", "function_call", "annotations"})


def placeholder(message: Mapping[str, Any], content: str) -> dict[str, Any]:
    """A message of the same role that says something else."""
    kept = ("tool_call_id",) if message["role"] == "tool" else ("name",) if message["role"] == "function" else ()
    return {"role": message["role"], **{key: inert(message.get(key)) for key in kept}, "content": content}


def _called(part: Mapping[str, Any]) -> dict[str, Any]:
    """What a tool is called with; a server may open its JSON before it writes the prompt."""
    arguments = {"arguments": inert_json(part["arguments"])} if "arguments" in part else {}
    return {**inert(part), **arguments}


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    kind = part.get("type")
    if kind not in _WRITTEN:
        return inert(part)  # type: ignore[no-any-return]  # an object stays one
    said = {key: inert(part[key]) for key in ("text", "refusal") if isinstance(part.get(key), str)}
    return {"type": kind, **said, **lasting(part)}


def variants(message: Any) -> Iterable[tuple[Message, ...]]:
    """The turn as a caller may send it back: as it was given, and without its reasoning; none of an odd one."""
    if not isinstance(message, dict):
        return
    try:
        if not isinstance(message.get("content"), str):
            message = {**message, "content": content_of(message.get("content"), "")[0]}
        yield (Message("assistant", words(message)),)
        bare = {key: value for key, value in message.items() if not key.startswith("reasoning")}
        if len(bare) != len(message):
            yield (Message("assistant", words(bare)),)
    except UsageError:
        return
