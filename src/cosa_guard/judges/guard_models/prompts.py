"""Texts for guard models: templates, the policy in words, the conversation, and no way to forge any of them.

Backends take message contents as text, but servers differ: some look for special tokens in them, and section marks
are plain text to every tokenizer. So whatever a format gives a meaning to is made inert in the text under judgement.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from importlib import resources
from typing import Literal

from cosa_guard.judges.guard_models.base import REACH
from cosa_guard.messages import Message
from cosa_guard.verdicts import Case
from cosa_sdk.compile import VERSION
from cosa_sdk.compile import compile as compile_config
from cosa_sdk.config import SafetyConfig

__all__ = ["POLICY", "Marks", "asked", "context", "filled", "policy", "spelled", "template"]

POLICY = f"judge/{VERSION}"
"""Version of the policy's wording: part of the names of judges that read it."""

_CHAT = (
    r"<\|[^|<>\n]{0,64}\|?>"  # Llama 3 and 4, ChatML, Granite, harmony: <|eot_id|>
    r"|<｜[^｜\n]{0,64}｜>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_RESULTS|TOOL_CALLS)\]|<</?SYS>>"
    r"|</?(?:s|bos|eos|pad|unk|start_of_turn|end_of_turn|think|no-think)>"
)
_SLOT = re.compile(r"\{(\w+)\}")
_BREAK = re.compile("\r\n?|[\v\f\x1c-\x1e\x85\u2028\u2029]")
"""What a model may read as the end of a line, beside the line feed."""
_ORNAMENT = r"(?:[^\w\n:]|_){0,64}"
"""Quotes, bullets, blanks: what may stand around a role at the start of a line."""


class Marks:
    """What a format gives a meaning to.

    Args:
        sections: names of its tags and sections: `transcript` for `<transcript>` and `</transcript>`.
        roles: what stands before a colon at the start of a line: `User` for `User:`.
        words: switches that work wherever they stand, such as `/think`.
    """

    def __init__(self, *, sections: Iterable[str] = (), roles: Iterable[str] = (), words: Iterable[str] = ()) -> None:
        tags = "|".join(_spaced(name) for name in sections)
        marks = [_CHAT, *([rf"<\s*/?\s*(?:{tags})\b[^<>\n]{{0,64}}>"] if tags else [])]
        marks += [rf"{re.escape(word)}\b" for word in words]
        self._marks = re.compile("|".join(marks), re.IGNORECASE)
        heads = "|".join(_spaced(name) for name in roles)
        self._heads = re.compile(rf"(?im)^({_ORNAMENT})({heads})({_ORNAMENT}):") if heads else None

    def inert(self, text: str) -> str:
        """The text with every mark in parentheses, where it means nothing: `(/transcript)`, `(User):`."""
        text = self._marks.sub(lambda match: f"({match.group().strip('<>[]/')})", _BREAK.sub("\n", text))
        return self._heads.sub(r"\1(\2)\3:", text) if self._heads else text


def _spaced(name: str) -> str:
    """A pattern for a name, however wide the blanks in it."""
    return r"[^\S\n]+".join(re.escape(word) for word in name.split())


@lru_cache(maxsize=32)
def template(name: str) -> str:
    """A prompt template by name and version, such as `dynaguard.1.txt`."""
    file = resources.files("cosa_guard.judges.guard_models").joinpath("templates").joinpath(name)
    return file.read_text("utf-8").strip()


def filled(name: str, **slots: str) -> str:
    """A template with values in its slots, put in once: a value that looks like a slot stays as it is."""
    return _SLOT.sub(lambda match: slots[match.group(1)], template(name))


@lru_cache(maxsize=256)
def policy(config: SafetyConfig) -> str:
    """The config in words, for models that follow a policy: purpose, guideline, rules, default and floor."""
    _, _, words = compile_config(config, "judge").text.partition("\n\n")  # what precedes instructs another model
    return words


def spelled(turns: Iterable[Message], marks: Marks) -> str:
    """Turns as lines; a line within a turn is indented, so that it cannot pass for a turn."""
    return "\n".join(f"{_role(turn)}: {marks.inert(turn.content)}".replace("\n", "\n  ") for turn in turns)


def asked(case: Case, marks: Marks) -> str:
    """Input: the text under judgement, earlier turns included, for they are the caller's and judged too."""
    if not case.turns:
        return marks.inert(case.text)
    return spelled((*case.turns, Message("user", case.text)), marks)


def context(case: Case) -> tuple[Message, ...]:
    """Output: the newest turns of what the reply answers that fit beside it, oldest first, roles alternating."""
    kept, room = len(case.turns), REACH - len(case.text)
    while kept and len(case.turns[kept - 1].content) <= room:
        kept -= 1
        room -= len(case.turns[kept].content)
    merged: list[Message] = []
    for turn in case.turns[kept:]:
        if merged and merged[-1].role == _role(turn):
            merged[-1] = Message(merged[-1].role, f"{merged[-1].content}\n\n{turn.content}")
        else:
            merged.append(Message(_role(turn), turn.content))
    return tuple(merged)


def _role(turn: Message) -> Literal["user", "assistant"]:
    return "assistant" if turn.role == "assistant" else "user"
