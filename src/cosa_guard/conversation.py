"""From what a caller sends to what is judged and what the model reads. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast, get_args

from cosa_guard.folding import whole_characters
from cosa_guard.messages import Message, Role
from cosa_guard.recollection import Recollection
from cosa_sdk.errors import PromptTooLong, UsageError
from cosa_sdk.wording import neutralised

__all__ = ["DECLINED", "Conversation", "MessageLike", "admit", "as_messages"]

DECLINED = "(a request that was declined)"
"""Stands for turns that the guard refused, for model and judge: they neither work later nor block the chat."""

MessageLike = Message | Mapping[str, Any]
"""A message, or a mapping with `role` and `content` as in OpenAI's API."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """An admitted conversation."""

    system: str
    """The application's own system text, fenced; empty when there is none."""
    turns: tuple[Message, ...]
    """What the model reads after the system prompt."""
    judged: tuple[Message, ...]
    """Caller-supplied turns before the last one: everything but the guard's own replies."""
    text: str
    """The last turn."""
    raw: tuple[Message, ...]
    """As the caller sent it, for recognising the guard's own turns next time."""
    dropped: int
    media: tuple[str, ...]
    places: tuple[int, ...]
    """Where each of `turns` stands among the messages that were admitted."""


def as_messages(messages: str | Iterable[MessageLike]) -> tuple[Message, ...]:
    """Coerce what callers write into messages.

    Raises:
        UsageError: no messages, an unknown role, or content that is not text or parts.
    """
    if isinstance(messages, str):
        return (Message("user", messages),)
    if isinstance(messages, Mapping | Message):
        messages = [messages]
    if not isinstance(messages, Iterable):
        raise UsageError(f"messages={messages!r}: give text, or a list of messages with role and content")
    found = tuple(_message(item, place) for place, item in enumerate(messages))
    if not any(message.role != "system" for message in found):
        raise UsageError("there is no message to answer: give at least one user message")
    return found


def _message(item: MessageLike, place: int) -> Message:
    if isinstance(item, Message):
        role: Any
        role, content, media = item.role, item.content, item.media
    elif isinstance(item, Mapping):
        role = "system" if item.get("role") == "developer" else item.get("role")
        content, media = _parts(item.get("content"), place)
    else:
        raise UsageError(
            f"messages[{place}] is {type(item).__name__}; give a Message or a mapping with role and content"
        )
    if role not in get_args(Role):
        raise UsageError(f"messages[{place}] has the role {role!r}; choices: {', '.join(get_args(Role))}")
    if not isinstance(content, str):
        raise UsageError(f"messages[{place}].content is {type(content).__name__}; give text")
    return Message(cast("Role", role), whole_characters(content), media)


def _parts(content: Any, place: int) -> tuple[Any, tuple[str, ...]]:
    """Text and kinds of media of a content that may be a list of parts."""
    if not isinstance(content, list | tuple):
        return content, ()
    texts: list[str] = []
    media: list[str] = []
    for part in content:
        if isinstance(part, Mapping) and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif isinstance(part, Mapping):
            media.append(str(part.get("type", "unknown")))
        else:
            raise UsageError(f"messages[{place}].content has a part of type {type(part).__name__}; give mappings")
    return "\n".join(texts), tuple(media)


def admit(
    messages: Sequence[Message], *, own: Recollection, tenant: str, widest: int, system_is_caller: bool
) -> Conversation:
    """Sort a conversation: whose text is what, and how much of it anybody reads.

    Args:
        widest: most characters of turns that are judged. Older turns are dropped from the model's input as well: it
            never sees what no judge saw.
        system_is_caller: system messages come from outside (a proxy's clients) and are judged like any other turn.

    Raises:
        PromptTooLong: the last turn alone is wider than that.
    """
    system = [] if system_is_caller else [turn.content for turn in messages if turn.role == "system"]
    origin = [place for place, turn in enumerate(messages) if system_is_caller or turn.role != "system"]
    raw = tuple(messages[place] for place in origin)
    if not raw:
        raise UsageError("there is no message to answer: give at least one user message")
    kinds = [own.recall(tenant, raw[:place], turn.content) if turn.role == "assistant" else None
             for place, turn in enumerate(raw)]  # fmt: skip
    turns = list(raw)
    for place, kind in enumerate(kinds):
        asked = place - 1
        while kind == "refusal" and asked >= 0 and turns[asked].role in {"user", "tool"}:
            turns[asked] = replace(turns[asked], content=DECLINED, media=())
            asked -= 1
    kept = _within(turns, widest)
    last = turns[-1]
    return Conversation(
        system="\n\n".join(neutralised(text) for text in system),
        turns=tuple(_as_caller(turns[place]) for place in kept),
        judged=tuple(turns[place] for place in kept[:-1] if kinds[place] is None and turns[place].content != DECLINED),
        text=last.content,
        raw=raw,
        dropped=len(turns) - len(kept),
        media=tuple(kind for place in kept for kind in turns[place].media),
        places=tuple(origin[place] for place in kept),
    )


def _within(turns: Sequence[Message], widest: int) -> list[int]:
    """The turns that are judged: the last, a caller's system text, and the newest others for which there is room.

    Raises:
        PromptTooLong: the first two alone are too wide.
    """
    last = len(turns) - 1
    pinned = {last, *(place for place, turn in enumerate(turns) if turn.role == "system")}
    room = widest - sum(len(turns[place].content) for place in pinned)
    if room < 0:
        what = "the last message has" if len(pinned) == 1 else "the last message, with the system text and tools, has"
        raise PromptTooLong(
            f"{what} {widest - room} characters; this guard judges at most {widest}",
            tokens=widest - room, budget=widest,
        )  # fmt: skip
    for place in range(last - 1, -1, -1):
        if place in pinned:
            continue
        room -= len(turns[place].content)
        if room < 0:
            break
        pinned.add(place)
    return sorted(pinned)


def _as_caller(turn: Message) -> Message:
    """A system message from outside is caller text below the config: the model reads it as a user's."""
    return replace(turn, role="user") if turn.role == "system" else turn
