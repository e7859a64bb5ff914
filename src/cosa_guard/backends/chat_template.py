"""Turns a conversation into token ids so that its contents stay text: markup that is typed is not markup.

A chat template is rendered with unguessable words in place of the contents and split at those words, so contents never
pass through a template engine. The template's own text is then tokenised with special tokens on, each content with
special tokens off.

Pure: what renders a template and what tokenises a string are handed in.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, get_args

from cosa_guard.messages import Message, Role
from cosa_sdk.errors import BackendError, UnknownName

__all__ = ["Apply", "ChatTemplate", "Segment", "TemplateRefused", "Tokenize", "Tokens"]

Apply = Callable[[Sequence[Mapping[str, str]]], str]
"""Renders messages with a model's chat template, ending where the assistant's turn begins."""
Tokenize = Callable[[Sequence[str], bool], Sequence[int]]
"""Token ids of texts that are tokenised apart, without BOS; the flag says whether special tokens are parsed."""

_ROLES: Final = get_args(Role)
_JOINER: Final = "\n\n"


class TemplateRefused(Exception):
    """The template engine raised, as templates do for a role or an order that they do not know. Caught in here."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a rendered prompt."""

    text: str
    special: bool
    """Whether it is the template's own text, in which special tokens mean something."""
    constant: bool = False
    """Whether it is the same for many requests, as template text and a compiled config are."""


class ChatTemplate:
    """One model's chat template. Many threads may use it."""

    def __init__(self, apply: Apply, *, remember: int = 256) -> None:
        self._apply = apply
        # Without whitespace, since templates trim; of letters and digits only, since templates escape.
        self._word = f"c{secrets.token_hex(16)}"
        self._pieces = lru_cache(maxsize=remember)(self._split)

    def render(self, messages: Sequence[Message], shared: int | None = None) -> tuple[Segment, ...]:
        """The conversation in segments: template text and contents in turn, empty ones left out.

        A template that refuses the conversation is asked again with neighbours of one role joined, then with the system
        text at the head of the first user turn.

        Args:
            shared: See `Request.shared`.

        Raises:
            BackendError: the template refuses the roles, or drops, doubles or reorders contents.
            UnknownName: a role that is not one; templates write roles unescaped.
        """
        for message in messages:
            if message.role not in _ROLES:
                raise UnknownName("role", message.role, _ROLES)
        pieces = self._pieces(tuple(message.role for message in messages))
        segments = [Segment(pieces[0], True, True)]
        for index, (message, piece) in enumerate(zip(messages, pieces[1:], strict=True)):
            config = index < shared if shared is not None else index == 0 and message.role == "system"
            segments += [Segment(message.content, False, config), Segment(piece, True, True)]
        return tuple(segment for segment in segments if segment.text)

    def _split(self, roles: tuple[Role, ...]) -> tuple[str, ...]:
        """The template's text around the contents of `roles`: one more piece than there are contents."""
        said: list[str] = []
        for plan in dict.fromkeys((_as_is(roles), _joined(roles), _joined(_folded(roles)))):
            turns: list[dict[str, str]] = []
            count = 0
            for role, number in plan:
                words = (f"{self._word}n{index}e" for index in range(count, count + number))
                turns.append({"role": role, "content": _JOINER.join(words)})
                count += number
            try:
                rendered = self._apply(turns)
            except TemplateRefused as refusal:
                said.append(str(refusal))
                continue
            pieces = re.split(rf"{self._word}n(\d+)e", rendered)
            if pieces[1::2] == [str(index) for index in range(len(roles))]:
                return tuple(pieces[::2])
            said.append("it drops, doubles or reorders contents")
        raise BackendError(
            f"the chat template of this model cannot hold a conversation of {' > '.join(roles) or 'no turns'}: "
            f"{'; '.join(dict.fromkeys(said))}. Use another model, or pass a template with the option chat_template."
        )


Plan = tuple[tuple[Role, int], ...]
"""Turns to render: the role, and how many contents the turn takes."""


def _as_is(roles: Sequence[Role]) -> Plan:
    return tuple((role, 1) for role in roles)


def _joined(roles: Sequence[Role]) -> Plan:
    turns: list[tuple[Role, int]] = []
    for role in roles:
        if turns and turns[-1][0] == role:
            turns[-1] = (role, turns[-1][1] + 1)
        else:
            turns.append((role, 1))
    return tuple(turns)


def _folded(roles: Sequence[Role]) -> tuple[Role, ...]:
    return tuple("user" if role == "system" else role for role in roles)


class Tokens:
    """Tokenises segments. Many threads may use it.

    llama.cpp parses tokens of type `user-defined` even with special tokens off, so a typed `<tool_call>` would become
    one token in some models. `markers` are the texts of those tokens: a content is cut inside each of them, and the
    pieces are tokenised apart. `forbidden` are the ids that no content may have, whatever the server does.
    """

    def __init__(
        self,
        tokenize: Tokenize,
        *,
        bos: int | None = None,
        markers: Iterable[str] = (),
        forbidden: Collection[int] = (),
        remember: int = 512,
    ) -> None:
        self._tokenize = tokenize
        self._bos = bos
        self._forbidden = frozenset(forbidden)
        # One character cannot be cut, and means no more than itself.
        cuttable = sorted({marker for marker in markers if len(marker) > 1})
        self._markers = re.compile("|".join(map(re.escape, cuttable))) if cuttable else None
        self._remembered = lru_cache(maxsize=remember)(self._fresh)

    def ids(self, segments: Sequence[Segment]) -> list[int]:
        """Token ids of a prompt, BOS in front where the model wants one. Only constant segments are remembered.

        Raises:
            BackendError: a content would become a special token after all.
        """
        found: list[int] = []
        for segment in segments:
            tokens = self._remembered if segment.constant else self._fresh
            found += tokens(segment.text, segment.special)
        # Some templates write BOS themselves; twice is worse than once.
        if self._bos is not None and found[:1] != [self._bos]:
            found.insert(0, self._bos)
        return found

    def _fresh(self, text: str, special: bool) -> tuple[int, ...]:
        # A lone surrogate is legal in a Python string and in nothing that leaves it.
        text = text.encode("utf-8", errors="replace").decode("utf-8")
        if special:
            return tuple(self._tokenize([text], True))
        found = tuple(self._tokenize(self._cut(text), False))
        wrong = self._forbidden.intersection(found)
        if wrong:
            raise BackendError(f"text became the special tokens {sorted(wrong)!r} of this model; it was not sent.")
        return found

    def _cut(self, text: str) -> list[str]:
        if self._markers is None:
            return [text]
        cuts, at = [0], 0
        while found := self._markers.search(text, at):
            # Just behind its first character, so that a marker that overlaps this one is found too.
            at = found.start() + 1
            cuts.append(at)
        return [text[start:end] for start, end in zip(cuts, [*cuts[1:], len(text)], strict=True) if start < end]
