"""What of a case the encoder reads, as the static tier ranks it: its cost has a bound, whatever there is to read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cosa_guard.judges.embedded.tiers import HEADS, Array, Tier, logsumexp
from cosa_guard.judges.embedded.windows import ROOM, Coded, coded, ends, sentences
from cosa_guard.judges.embedded.wordpiece import WordPiece

__all__ = ["Plan", "Planner", "telling"]

_LIKELIEST = 4
"""Parts of a long text, or of earlier turns, that the encoder reads because any risk is likeliest there."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is read."""

    readings: list[Coded]
    """The text first, then what else is read as a whole, then single sentences: with its neighbours a sentence is read
    wrongly, for harmless ones dilute it."""
    whole: int
    """How many are no single sentences."""
    nothing: bool
    """The static tier is sure that no part shows anything, those that are not read among them."""


@dataclass(frozen=True, slots=True)
class _Part:
    """What may be read, and whether it is a single sentence."""

    ids: list[int]
    single: bool


@dataclass(frozen=True, slots=True)
class Planner:
    """Chooses what is read of texts.

    Args:
        tokenizer: makes the ids.
        fast: the static tier.
        head: whose logits rank the parts.
        sure: logit of any risk up to which the static tier is sure that there is nothing.
        asked: ids of what a response answers.
    """

    tokenizer: WordPiece
    fast: Tier
    head: str
    sure: float
    asked: list[int] | None = None

    def plan(self, forms: Sequence[str], turns: Sequence[str] = ()) -> Plan:
        """All of each form, the telling sentences of long forms, and the telling ones among the turns.

        Args:
            forms: the text and its decoded forms, and so of what else is read whatever it looks like.
            turns: forms of earlier turns. They compete with each other only: old ones must not hide the text.
        """
        whole: list[_Part] = []
        groups: list[list[_Part]] = []
        for form in forms:
            all_of_it, *parts = self._parts(form)
            whole.append(all_of_it)
            groups.append(parts)
        groups.append([part for turn in turns for part in self._parts(turn)])
        highest = [float(logsumexp(self._logits(whole)).max())]
        single: dict[tuple[int, ...], bool] = {tuple(part.ids): False for part in whole}
        for parts in filter(None, groups):
            logits = self._logits(parts)
            highest.append(float(logsumexp(logits).max()))
            for number in telling([part.ids for part in parts], logits, self.sure):
                part = parts[number]
                key = tuple(part.ids)
                single[key] = part.single and single.get(key, True)  # a whole turn somewhere counts in full
        chosen = sorted(single.items(), key=lambda pair: pair[1])
        readings = [coded(list(ids), self.asked) for ids, _ in chosen]
        return Plan(readings, len(chosen) - sum(single.values()), max(highest) <= self.sure)

    def _parts(self, text: str) -> list[_Part]:
        """A text as a whole, and the sentences of a long one."""
        body = self.tokenizer.ids(text)
        pieces = sentences(self.tokenizer, text) if len(body) > ROOM else []
        return [_Part(ends(body), single=False), *(_Part(piece, single=True) for piece in pieces)]

    def _logits(self, parts: Sequence[_Part]) -> Array:
        """(parts, risks): what the static tier says."""
        return self.fast.read([coded(part.ids, self.asked) for part in parts])[:, HEADS[self.head]]


def telling(parts: Sequence[list[int]], logits: Array, sure: float) -> list[int]:
    """Numbers of the parts that the encoder should read: different ones, for repeating one must not hide another.

    The likeliest by any risk, and the likeliest of each risk: else those of a risk that the config allows would crowd
    out the one of a risk that it forbids.

    Args:
        parts: ids of each.
        logits: (parts, risks).
        sure: logit of any risk up to which a part shows nothing for sure; such a part stands for no single risk.
    """
    found: dict[tuple[int, ...], int] = {}
    scores = logsumexp(logits)
    for number in scores.argsort()[::-1]:
        found.setdefault(tuple(parts[number]), int(number))
        if len(found) == _LIKELIEST:
            break
    for number in logits.argmax(axis=0):
        if scores[number] > sure:
            found.setdefault(tuple(parts[number]), int(number))
    return list(found.values())
