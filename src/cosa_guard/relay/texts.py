"""The texts of one answer: each field that carries text is judged as a text of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from cosa_guard.relay.call import Call
from cosa_guard.relay.escapes import Spelled
from cosa_guard.screening import Channel, Mode, screen
from cosa_guard.steps import Flow, Ticket
from cosa_guard.verdicts import Case, Ruling
from cosa_guard.wire.fields import Found, Kind, Place, readable
from cosa_sdk.errors import WireError

__all__ = ["ANSWER", "UNKNOWN", "Text", "Texts", "aligned", "alternatives_pass", "lawful"]

MOST = 4096
"""Texts of one answer."""
ANSWER = frozenset({"content", "text"})
"""Labels of what an answer says, whatever it thought and called."""
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
        self.unchosen: dict[int, str] = {}
        """Ends of what the tokens beside it make that were not chosen, by how likely they were."""
        self.spelled: Spelled | None = None
        """For JSON that is text."""
        self.fed = False
        self.flushed = False
        self.ended = False

    def before(self, reach: int) -> str:
        """The end of what was let out before the newest piece."""
        said, place = "", len(self.out) - 1
        while place > 0 and len(said) < reach:
            place -= 1
            said = self.out[place] + said
        return said[-reach:] if reach else ""

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
        self._newest: dict[tuple[int | None, str], Text] = {}
        self._made = 0
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
        """The texts of a lane; what nobody knows comes last, so that it stops nothing that came before it."""
        texts = [text for text in self._texts.values() if text.lane == lane]
        return iter(sorted(texts, key=lambda text: text.key[1] == UNKNOWN))

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
        if text is None or (text.whole and text.ended):
            text = self._texts[key] = self._began(key, found, text)
        return text

    def _began(self, key: Key, found: Found, ended: Text | None) -> Text:
        """A text that nothing came of yet, or one that goes on although it had ended: it is judged once more."""
        self._made += 1
        if self._made > MOST:
            raise WireError(f"the upstream's answer has more than {MOST} texts")
        streamed = found.field is not None and found.field.kind in (Kind.TEXT, Kind.COPY)
        call, last = self._call, self._newest.get(key[:2]) if streamed else None
        channel = Channel(
            call.policy,
            call.conversation.turns,
            self._mode if streamed else "whole",
            call.report,
            request=call.request,
            at_once=not streamed,
            before=last.channel.tail if last is not None else "",
        )
        text = Text(key, channel, whole=not streamed)
        if streamed:
            self._newest[key[:2]] = text
            text.spelled = Spelled() if call.asked.json and key[1] in ANSWER else None
        if ended is not None:
            text.parts += ended.parts
        return text

    def feed(self, text: Text, piece: str) -> Flow[None]:
        """The next piece of a streamed text."""
        text.fed, text.ended = True, False
        yield from self._take_in(text, piece if text.spelled is None else text.spelled.feed(piece))

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
        elif text.spelled is not None:
            yield from self._take_in(text, text.spelled.rest())
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
    if ruling.outcome == "violates" or ruling.decision.floor or call.policy.failed(ruling):
        return False
    return not strict or call.policy.allows(ruling)


def _key(lane: int | None, found: Found) -> Key:
    if found.field is None:
        return lane, UNKNOWN, ()
    return lane, found.field.label, found.place


_LISTS = frozenset({"content", "refusal"})


def aligned(logprobs: Any, texts: Mapping[str, str]) -> bool:
    """Log probabilities tell the tokens of the very text beside them, and nothing else.

    Args:
        texts: by label: `content`, `refusal`.
    """
    for label, tokens in _lists(logprobs):
        if label not in _LISTS:
            return False
        if tokens is None:
            continue
        if not isinstance(tokens, list) or not all(_is_token(token) for token in tokens):
            return False
        if tokens and "".join(token["token"] for token in tokens) != texts.get(label):
            return False
    return True


def _lists(logprobs: Any) -> Iterable[tuple[str, Any]]:
    return logprobs.items() if isinstance(logprobs, dict) else [("content", logprobs)]


_TOKEN = frozenset({"token", "logprob", "bytes", "top_logprobs"})


def _is_token(token: Any, *, chosen: bool = True) -> bool:
    if not isinstance(token, dict) or not token.keys() <= _TOKEN or not isinstance(token.get("token"), str):
        return False
    if token.get("bytes") is not None and token["bytes"] != [*token["token"].encode("utf-8", "surrogatepass")]:
        return False
    others = token.get("top_logprobs") or []
    number = type(token.get("logprob")) in {int, float, type(None)}
    if not number or not isinstance(others, list) or (others and not chosen):
        return False
    return all(_is_token(other, chosen=False) for other in others)


def alternatives_pass(call: Call, logprobs: Any, texts: Mapping[str, Text | None]) -> Flow[bool]:
    """Whether the tokens that were not chosen may go out: alone, one after the other, and behind what was said.

    Args:
        texts: what was let out of the texts beside them, by label.
    """
    reach = 8 * call.policy.holdback  # room for characters that fold to nothing
    ranks: dict[int, list[str]] = {}
    branches: list[str] = []
    for label, tokens in _lists(logprobs):
        text = texts.get(label)
        before, lines = ("", dict[int, str]()) if text is None else (text.before(reach), text.unchosen)
        for token in tokens or ():
            for rank, other in enumerate(token.get("top_logprobs") or ()):
                said = other["token"]
                ranks.setdefault(rank, []).append(said)
                if reach:
                    lines[rank] = (lines.get(rank, "") + said)[-reach:]
                    branches += [lines[rank], before + said]
            before = (before + token["token"])[-reach:] if reach else ""
    if not ranks:
        return True
    if branches and call.policy.says("\n".join(branches)):
        return False
    return (yield from lawful(call, "\n".join("".join(ranks[rank]) for rank in sorted(ranks))))
