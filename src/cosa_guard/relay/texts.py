"""The texts of one answer: each field that carries text is judged as a text of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from cosa_guard.relay.call import Call
from cosa_guard.screening import Channel, Mode, screen
from cosa_guard.steps import Flow, Ticket
from cosa_guard.verdicts import Case, Ruling
from cosa_guard.wire.fields import Found, Kind, Place, readable

__all__ = ["UNKNOWN", "Text", "Texts", "aligned", "alternatives", "lawful"]

UNKNOWN = "?"
"""Label of everything in a lane that no table knows."""
Key = tuple[int | None, str, Place]


class Text:
    """One text of an answer.

    Args:
        whole: it means something only when it is complete, so it is released whole or not at all.
    """

    def __init__(self, key: Key, channel: Channel, *, whole: bool) -> None:
        self.key = key
        self.channel = channel
        self.whole = whole
        self.parts: list[Any] = []
        self.out: list[str] = []
        self.fed = False
        self.flushed = False
        self.ended = False

    @property
    def lane(self) -> int | None:
        """The lane that it belongs to."""
        return self.key[0]

    @property
    def passed(self) -> bool:
        """All of a complete text may go out."""
        return self.ended and self.channel.oldest is None and self.channel.releasable >= self.channel.length

    @property
    def said(self) -> Any:
        """What arrived of a whole text, as one value."""
        if self.key[1] == UNKNOWN:  # pieces of one name may be pieces of one word, or words of their own
            together: dict[str, str] = {}
            for part in self.parts:
                for name, value in part.items():
                    together[name] = together.get(name, "") + (value if isinstance(value, str) else readable(value))
            return [together, *self.parts] if len(self.parts) > 1 else together
        if all(isinstance(part, str) for part in self.parts):
            return "".join(self.parts)
        return self.parts[-1] if len(self.parts) == 1 else self.parts

    def release(self, upto: int) -> str:
        """The next text, up to a releasable position."""
        text = self.channel.text(upto)
        self.out.append(text)
        return text


class Texts:
    """All texts of a streamed answer, and the verdicts that are waited for."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._mode: Mode = call.policy.config.enforcement.stream
        self._texts: dict[Key, Text] = {}
        self._waiting: deque[Text] = deque()

    @property
    def oldest(self) -> Ticket[Ruling] | None:
        """The verdict that is waited for next."""
        return self._waiting[0].channel.oldest if self._waiting else None

    @property
    def crowded(self) -> bool:
        """So many units wait that the model must wait too."""
        return any(text.channel.crowded for text in self._waiting)

    def of(self, lane: int | None) -> Iterator[Text]:
        """The texts of a lane."""
        return (text for text in [*self._texts.values()] if text.lane == lane)

    def lanes(self) -> set[int | None]:
        """Lanes that have texts."""
        return {text.lane for text in self._texts.values()}

    def known(self, lane: int | None, found: Found) -> Text | None:
        """The text that a field belongs to, when it has begun."""
        return self._texts.get(_key(lane, found))

    def of_field(self, lane: int | None, found: Found) -> Text:
        """The text that a field belongs to."""
        key = _key(lane, found)
        text = self._texts.get(key)
        if text is None:
            streamed = found.field is not None and found.field.kind in (Kind.TEXT, Kind.COPY)
            call = self._call
            channel = Channel(
                call.policy,
                call.conversation.turns,
                self._mode if streamed else "whole",
                call.report,
                request=call.request,
                at_once=not streamed,
            )
            text = self._texts[key] = Text(key, channel, whole=not streamed)
        return text

    def feed(self, text: Text, piece: str) -> Flow[None]:
        """The next piece of a streamed text."""
        text.fed = True
        yield from self._take_in(text, piece)

    def flush(self, text: Text) -> Flow[None]:
        """Judge what is there of a text as if it ended here, once: another text of its lane has begun."""
        if not text.flushed and not text.whole:
            text.flushed = True
            yield from self._take_in(text, None)

    def end(self, text: Text) -> Flow[None]:
        """The text is complete."""
        if text.ended:
            return
        text.ended = True
        if text.whole:
            yield from self._take_in(text, readable(text.said))
        yield from self._take_in(text, None)

    def settle(self) -> Flow[Text | None]:
        """Wait for the oldest verdict; the text that must stop, if it must."""
        text = self._waiting.popleft()
        passed = yield from text.channel.settle()
        if passed and text.whole and text.passed:
            # A mask over a part of it would make it another value.
            passed = text.release(text.channel.length) == readable(text.said)
        return None if passed else text

    def drop(self, lane: int | None) -> None:
        """Forget a lane: nothing of it will go out."""
        self._waiting = deque(text for text in self._waiting if text.lane != lane)
        self._texts = {key: text for key, text in self._texts.items() if text.lane != lane}

    def _take_in(self, text: Text, piece: str | None) -> Flow[None]:
        units = text.channel.cut(piece)
        if units:
            yield from text.channel.begin(units)
            self._waiting.extend([text] * len(units))


def lawful(call: Call, text: str, *, strict: bool = True) -> Flow[bool]:
    """Whether a text beside the answer, such as tokens that were not chosen, may go out.

    Args:
        strict: as the model's own text; else only what is found stops it, not what nobody could settle.
    """
    case = Case(config=call.policy.config, stage="output", text=text, turns=call.conversation.turns)
    ruling = yield from screen(call.policy, case, call.request)
    if ruling.outcome == "violates" or ruling.decision.floor:
        return False
    return not strict or call.policy.allows(ruling)


def _key(lane: int | None, found: Found) -> Key:
    if found.field is None:
        return lane, UNKNOWN, ()
    return lane, found.field.label, found.place


def aligned(logprobs: Any, texts: Mapping[str, str]) -> bool:
    """Log probabilities tell the tokens of the very text beside them, and nothing else.

    Args:
        texts: by label: `content`, `refusal`.
    """
    lists = logprobs.items() if isinstance(logprobs, dict) else [("content", logprobs)]
    for label, tokens in lists:
        if tokens is None:
            continue
        if not isinstance(tokens, list) or not all(_is_token(token) for token in tokens):
            return False
        if tokens and "".join(token["token"] for token in tokens) != texts.get(label):
            return False
    return True


_TOKEN = frozenset({"token", "logprob", "bytes", "top_logprobs"})


def _is_token(token: Any) -> bool:
    if not isinstance(token, dict) or not token.keys() <= _TOKEN or not isinstance(token.get("token"), str):
        return False
    if token.get("bytes") is not None and token["bytes"] != [*token["token"].encode("utf-8", "surrogatepass")]:
        return False
    others = token.get("top_logprobs") or []
    number = type(token.get("logprob")) in {int, float, type(None)}
    return number and isinstance(others, list) and all(_is_token(other) for other in others)


def alternatives(logprobs: Any) -> list[str]:
    """Tokens that were not chosen, as the lines that they make: the likeliest ones, the second likeliest, and so on."""
    ranks: dict[int, list[str]] = {}
    for tokens in logprobs.values() if isinstance(logprobs, dict) else [logprobs]:
        for token in tokens or ():
            for rank, other in enumerate(token.get("top_logprobs") or ()):
                ranks.setdefault(rank, []).append(other["token"])
    return ["".join(ranks[rank]) for rank in sorted(ranks)]
