"""The `rules` judge: fixed words, patterns and personal data, found in linear time, with their places.

It examines a rule fully only where terms are all there is to the rule. A rule that also describes its subject in
words (`text`) can be *found* broken here, but not ruled out: that takes a judge that reads.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any

from cosa_guard.folding import fold
from cosa_guard.judges import pii
from cosa_guard.verdicts import Case, Span, Verdict
from cosa_sdk import patterns
from cosa_sdk.config import Rule, SafetyConfig, Term
from cosa_sdk.decide import Evidence
from cosa_sdk.errors import UsageError

__all__ = ["Rules", "make"]

NAME = "rules/1"
GAP = 8
"""Most spaces, line breaks, hyphens or underscores between two words of a phrase."""
# Scripts that put no spaces between words: a phrase there is found inside longer runs.
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u1100-\u11ff]")


class _Subject:
    """A folded text as the engine takes it: bytes. Turned into them at each match, a long text takes quadratic time."""

    __slots__ = ("_places", "data", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.data = text.encode()
        ascii_only = len(self.data) == len(text)
        self._places = None if ascii_only else [0, *accumulate(len(char.encode()) for char in text)]

    def span(self, pattern: Any, position: int) -> Span | None:
        """The first match from a position on."""
        places = self._places
        found = pattern.search(self.data, position if places is None else places[position])
        if found is None:
            return None
        start, end = found.span()
        return (start, end) if places is None else (bisect_left(places, start), bisect_left(places, end))


@dataclass(frozen=True, slots=True)
class _Matcher:
    element: str
    pattern: Any
    width: int
    word_start: bool
    """A match may not begin inside a word."""
    word_end: bool
    kind: str = ""
    """The kind of personal data, whose check digits must hold."""

    def matches(self, subject: _Subject, first: int) -> Iterator[Span]:
        """Every match that starts at or after `first`, overlapping ones too: cutting the text changes none."""
        text, position = subject.text, first
        while found := subject.span(self.pattern, position):
            start, end = found
            position = start + 1
            if self.word_start and start and text[start - 1].isalnum():
                continue
            if self.kind:
                end = start + pii.accepted_length(self.kind, text[start:end], text[end : end + 1])
                if end == start:
                    continue
            elif self.word_end and end < len(text) and text[end].isalnum():
                continue
            yield start, end


@dataclass(frozen=True, slots=True)
class _Compiled:
    matchers: tuple[_Matcher, ...]
    screen: Any
    """One pattern that matches wherever any matcher might: most texts stop here."""
    width: int
    examined: frozenset[str]
    clean: Verdict
    """The verdict on a text without any term."""


def _matcher(rule: Rule, term: Term) -> tuple[_Matcher, str]:
    if term.phrase is not None:
        words = fold(term.phrase).text.split()
        if not words:
            raise UsageError(f"the phrase {term.phrase!r} of rule {rule.id!r} has no visible character")
        source = rf"[\s_-]{{1,{GAP}}}".join(re.escape(word) for word in words)
        width = sum(map(len, words)) + GAP * (len(words) - 1)
        starts, ends = (char.isalnum() and not _UNSPACED.match(char) for char in (words[0][0], words[-1][-1]))
        return _Matcher(rule.element, patterns.engine(source), width, starts, ends), source
    if term.pii is not None:
        source = pii.PATTERNS[term.pii]
        return _Matcher(rule.element, patterns.engine(source), patterns.width(source), True, True, term.pii), source
    source = patterns.bounded("".join(map(_in_pattern, term.regex or "")))
    return _Matcher(rule.element, patterns.engine(source), patterns.width(source), False, False), source


def _in_pattern(char: str) -> str:
    """A character of a pattern as folded texts have it. What folds to a sign of the syntax stays a literal."""
    return char if char.isascii() else re.escape(fold(char).text) or char


@lru_cache(maxsize=256)
def _compiled(config: SafetyConfig) -> _Compiled:
    built = [_matcher(rule, term) for rule in config.rules for term in rule.terms]
    examined = frozenset(
        rule.element for rule in config.rules if rule.terms and rule.risk is None and rule.text is None
    )
    return _Compiled(
        matchers=tuple(matcher for matcher, _ in built),
        screen=patterns.engine("|".join(f"(?:{source})" for _, source in built)) if built else None,
        width=max((matcher.width for matcher, _ in built), default=0),
        examined=examined,
        clean=Verdict(judge=NAME, evidence=Evidence(examined=examined)),
    )


class Rules:
    """Finds the terms of a config. Needs nothing, costs microseconds, never guesses."""

    name = NAME
    inline = True
    windowed = True
    """Judging a stream unit by unit finds exactly what judging the whole finds."""

    def covers(self, config: SafetyConfig) -> frozenset[str]:
        """The rules that are terms and nothing else."""
        return _compiled(config).examined

    def holdback(self, config: SafetyConfig) -> int:
        """The widest term and the one character behind it that word ends need."""
        width = _compiled(config).width
        return width + 1 if width else 0

    def judge(self, case: Case) -> Verdict:
        """Find every term in the text and, on input, in the caller's earlier turns."""
        compiled = _compiled(case.config)
        if compiled.screen is None:
            return compiled.clean
        spans = tuple(self._spans(compiled, case))
        elsewhere = self._in_turns(compiled, case) if case.stage == "input" else frozenset()
        if not (spans or elsewhere):
            return compiled.clean
        found = elsewhere | {element for _, element in spans}
        evidence = Evidence(found=found, examined=compiled.examined | found)
        return Verdict(judge=NAME, evidence=evidence, spans=spans, turns_found=bool(elsewhere))

    def _spans(self, compiled: _Compiled, case: Case) -> Iterator[tuple[Span, str]]:
        folded = fold(case.text)
        # The character before an inner unit is there for word starts only; what starts on it was settled before.
        first = folded.to_folded(1) if case.start and case.text else 0
        subject = _Subject(folded.text)
        if subject.span(compiled.screen, first) is None:
            return
        for matcher in compiled.matchers:
            for start, end in matcher.matches(subject, first):
                if case.final or end < len(folded.text):
                    yield folded.span(start, end), matcher.element

    @staticmethod
    def _in_turns(compiled: _Compiled, case: Case) -> frozenset[str]:
        found: set[str] = set()
        for turn in case.turns:
            subject = _Subject(fold(turn.content).text)
            if subject.span(compiled.screen, 0) is not None:
                found.update(m.element for m in compiled.matchers if next(m.matches(subject, 0), None))
        return frozenset(found)


def make(argument: str | None = None) -> Rules:
    """The judge for the name `rules`.

    Raises:
        UsageError: it takes no argument.
    """
    if argument is not None:
        raise UsageError(f"the judge 'rules' takes no argument, got {argument!r}: its terms stand in the config")
    return Rules()
