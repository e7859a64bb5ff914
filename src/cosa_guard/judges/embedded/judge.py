"""The embedded judge: what a text shows, read by the shipped networks in milliseconds, offline.

The static tier decides which parts of a long text and which earlier turns the encoder reads, and answers alone where it
is sure that nothing is there. The encoder gives logits for every risk; calibration makes probabilities of them, an
operating point makes findings. What lies between the thresholds is not examined, and neither is a text in a language
that the networks cannot read, so that the decision is undecided, or another judge's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from typing import Any

from cosa_guard.judges.embedded import calibrated, floor
from cosa_guard.judges.embedded.legible import unread
from cosa_guard.judges.embedded.plan import Planner
from cosa_guard.judges.embedded.recalibration import head_of, recalibrated
from cosa_guard.judges.embedded.tiers import CODES, HEADS, MEANING, Array, Tier, load, logsumexp, vocabulary
from cosa_guard.judges.embedded.views import views
from cosa_guard.judges.embedded.weak import likeness, weak_rules
from cosa_guard.judges.embedded.windows import PROMPT_ROOM
from cosa_guard.judges.embedded.wordpiece import UNK, lowered
from cosa_guard.labelled import LabelledRow
from cosa_guard.verdicts import Case, Verdict
from cosa_sdk import taxonomy
from cosa_sdk.config import SafetyConfig
from cosa_sdk.decide import Evidence, decide

__all__ = ["Embedded", "Reading"]

RISKS = tuple(taxonomy.by_code(code) for code in CODES)
HOLDBACK = 40
"""Characters: what makes a sentence bad may be its last word."""
REACH = 24_000
"""Most characters of a conversation that the judge reads."""
_TOGETHER = 3
"""Earlier turns that are read together with the text: what is asked may be spread over turns."""
_DISCOUNT = 1.5
"""Log-odds that a single sentence must show more than a whole text: the highest of several is high by chance, and a
sentence without its context looks worse than it is (`training/LOG.md`)."""
_EXPLAINED = 80
"""Words that an explanation leaves out in turn."""
_WORD = re.compile(r"\S+")
_MINORS, _MASS_HARM = taxonomy.FLOOR


@dataclass(frozen=True, slots=True)
class Reading:
    """What the networks say of one text, before any config."""

    risks: Mapping[str, float]
    """Calibrated probabilities, the floor ids among them."""
    any_risk: float
    logits: Mapping[str, float]
    """Uncalibrated, for recalibration: by risk, and `any`."""
    meanings: Array | None
    """(readings, MEANING): what its parts are about; None where the static tier answered."""
    refused: float = 0.0
    addressed: float = 0.0
    tier: str = "encoder"
    unread: str = ""
    """Why the networks cannot read the text, where they cannot: what they do not see in it is not absent."""


class Embedded:
    """The judge behind the name `embedded`.

    Args:
        argument: an operating point (`balanced`, `strict`, `permissive`), or a calibration file made by `cosa judge
            calibrate`, optionally as `FILE#point`.
        tier: `both`, or `fast` for the static tier alone: twenty times faster, and much weaker.
    """

    inline = False
    reach = REACH

    def __init__(self, argument: str | None = None, *, tier: calibrated.Tiers = "both") -> None:
        self.calibrated = calibrated.load(argument, tier)
        self._tier = tier
        self._tokenizer = vocabulary()
        self._fast: Tier = load("fast")
        self._encoder: Tier | None = load("encoder") if tier == "both" else None
        own = "" if self.calibrated.name == "shipped" else f"{self.calibrated.name}#"
        self.operating_point = self.calibrated.point
        self.name = f"{'embedded' if self._encoder else 'fast'}/1:{own}{self.operating_point}"

    def covers(self, config: SafetyConfig) -> frozenset[str]:
        """The risks, the floor, and (weakly, by the encoder) rules that forbid in words. No limits, no guideline."""
        rules = weak_rules(config) if self._encoder else ()
        mine = {*RISKS, *taxonomy.FLOOR, *(rule.element for rule in rules)}
        return frozenset(mine) & config.elements

    def holdback(self, config: SafetyConfig) -> int:  # noqa: ARG002  # the same for every config
        """About ten tokens."""
        return HOLDBACK

    def judge(self, case: Case) -> Verdict:
        """Read a case."""
        reading = self._of_case(case)
        evidence, weak = self._evidence(case, reading)
        # What is found comes first: thresholds differ, so that a risk may be found below one that is not.
        likely = sorted(reading.risks.items(), key=lambda pair: (pair[0] not in evidence.found, -pair[1]))[:2]
        said = ", ".join(f"{risk} {p:.2f}" for risk, p in likely)
        matched = "".join(f"; weak match {element} {p:.2f}" for element, p in weak.items() if element in evidence.found)
        not_read = f"not read: {reading.unread}; " if reading.unread else ""
        return Verdict(
            judge=self.name,
            evidence=evidence,
            risks={**reading.risks, **weak},
            score=_score(case.config, reading, weak),
            reason=f"{not_read}{said}{matched} ({reading.tier})",
        )

    def reply_signs(self, case: Case) -> Mapping[str, float]:
        """Probabilities that a response `refused` to answer, and that it `addressed` what was asked."""
        reading = self._of_case(case)
        return {"refused": reading.refused, "addressed": reading.addressed}

    def explain(self, case: Case) -> list[tuple[int, int, str, float]]:
        """The words that moved the likeliest risk: start, end, risk id, and how far the word raises its probability.

        Each of the first 80 words is left out in turn, and what is left is read by the network that read the whole:
        another one would move the probability by itself. Sorted by size.
        """
        whole = self._of_case(case)
        risk = max(RISKS, key=lambda name: whole.risks[name])
        found = []
        for match in islice(_WORD.finditer(case.text), _EXPLAINED):
            start, end = match.span()
            rest = replace(case, text=f"{case.text[:start]} {case.text[end:]}")
            without = self._of_case(rest, tier=whole.tier)
            found.append((start, end, risk, whole.risks[risk] - without.risks[risk]))
        return sorted(found, key=lambda word: -abs(word[3]))

    def recalibrate(self, rows: Sequence[LabelledRow], name: str) -> dict[str, Any]:
        """A calibration for the sources of these rows: see `recalibration.recalibrated`."""
        return recalibrated(self.calibrated, [(row, self.read_row(row)) for row in rows], name, self._tier)

    def read_row(self, row: LabelledRow) -> Reading:
        """What the networks say of a labelled row."""
        return self.read(row.text, row.prompt, head=head_of(row))

    def _of_case(self, case: Case, tier: str | None = None) -> Reading:
        meant = bool(weak_rules(case.config))
        turns = tuple(turn.content for turn in case.turns if turn.content.strip())
        prompt = "" if case.stage == "input" else _asked(case)
        return self.read(case.text, prompt, head=_head(case), meant=meant, turns=turns, tier=tier)

    def read(
        self,
        text: str,
        prompt: str = "",
        *,
        head: str = "prompt",
        meant: bool = False,
        turns: Sequence[str] = (),
        tier: str | None = None,
    ) -> Reading:
        """What the networks say of a text.

        Args:
            prompt: what a response answers.
            head: `prompt`, `text` or `response`.
            meant: what the text is about is needed too, so the static tier cannot answer alone.
            turns: what was said before. Read too where the text is a prompt; always searched for words of the floor.
            tier: `encoder` or `fast`; else the encoder where there is one and the static tier is not sure.
        """
        texts, earlier = _texts(text, turns if head == "prompt" else ())
        forms = [form for one in texts for form in views(one, self._knows)]
        before = [form for one in earlier for form in views(one, self._knows)]
        asked = self._tokenizer.ids(prompt[-PROMPT_ROOM * 20 :]) if prompt else None
        known = self.calibrated
        plan = Planner(self._tokenizer, self._fast, head, known.sure[head], asked).plan(forms, before)
        alone = plan.nothing and not meant if tier is None else tier == "fast"
        network = self._fast if self._encoder is None or alone else self._encoder
        out = network.read(plan.readings)
        told = out[:, HEADS[head]].copy()
        told[plan.whole :] -= _DISCOUNT
        z, together = told.max(axis=0), float(logsumexp(told).max())
        risks = {risk: known.probability(head, risk, float(z[i])) for i, risk in enumerate(RISKS)}
        risks |= self._floor([*forms, *before, *turns, prompt], risks)
        reply = out[0, HEADS["reply"]] if head == "response" else None
        return Reading(
            risks=risks,
            any_risk=known.probability(head, "any", together),
            logits={**{risk: float(z[i]) for i, risk in enumerate(RISKS)}, "any": together},
            meanings=out[:, MEANING] if network is self._encoder else None,
            refused=known.probability("reply", "refused", float(reply[0])) if reply is not None else 0.0,
            addressed=known.probability("reply", "addressed", float(reply[1])) if reply is not None else 0.0,
            tier="encoder" if network is self._encoder else "fast",
            unread=next((why for one in (*texts, *earlier, *forms, *before) if (why := unread(one, self._knows))), ""),
        )

    def _knows(self, word: str) -> bool:
        return self._tokenizer.number(word) != UNK

    def _floor(self, said: list[str], risks: Mapping[str, float]) -> dict[str, float]:
        """`said`: the text, its forms, and all that was said before: an age may stand in the first turn alone."""
        text = lowered("\n".join(dict.fromkeys(said)))
        # Abuse of children that is not sexual, and mass harm without a weapon, show as violence or other.
        beside = self.calibrated.floor["beside"] * max(risks["violence"], risks["other"])
        minors = max(risks["sexual"], beside) if floor.AGE.search(text) else 0.0
        many = max(risks["weapons"], beside) if floor.SCALE.search(text) else 0.0
        return {_MINORS: minors, _MASS_HARM: many}

    def _evidence(self, case: Case, reading: Reading) -> tuple[Evidence, dict[str, float]]:
        found: set[str] = set()
        examined: set[str] = set()
        bounds = self.calibrated.thresholds[_head(case)]
        likeliest = max(RISKS, key=lambda risk: reading.risks[risk])
        for risk in RISKS:
            p = reading.risks[risk]
            if p >= bounds[risk].high or (risk == likeliest and reading.any_risk >= bounds["any"].high):
                found.add(risk)
            elif p < bounds[risk].low or reading.any_risk < bounds["any"].low:
                examined.add(risk)
        examined |= found
        for name in taxonomy.FLOOR:
            examined.add(name)
            if reading.risks[name] >= self.calibrated.floor[name]:
                found.add(name)
        weak = self._weak(case.config, reading)
        for element, p in weak.items():
            if p >= self.calibrated.weak["found"]:
                found.add(element)
            if p >= self.calibrated.weak["found"] or p < self.calibrated.weak["absent"]:
                examined.add(element)
        if reading.unread:  # that nothing shows in it means nothing
            examined = found
        known = case.config.elements
        return Evidence(found=frozenset(found & known), examined=frozenset(examined & known)), weak

    def _weak(self, config: SafetyConfig, reading: Reading) -> dict[str, float]:
        if reading.meanings is None:
            return {}
        match = self.calibrated.weak
        near = likeness(config, reading.meanings)
        return {
            element: calibrated.sigmoid(match["slope"] * cosine + match["intercept"])
            for element, cosine in near.items()
        }


def _asked(case: Case) -> str:
    """What a reply answers: the user's last turn that says anything."""
    return next((turn.content for turn in reversed(case.turns) if turn.role == "user" and turn.content.strip()), "")


def _head(case: Case) -> str:
    """What reads a case, and whose thresholds hold."""
    if case.stage == "input":
        return "prompt"
    return "response" if _asked(case) else "text"


def _texts(text: str, turns: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is read whatever it looks like, and the earlier turns each by itself: others must not dilute them."""
    if not turns:
        return [text], []
    together = "\n".join([*turns[-_TOGETHER:], text])
    return list(dict.fromkeys([text, together])), [turn for turn in dict.fromkeys(turns) if turn != text]


def _score(config: SafetyConfig, reading: Reading, weak: Mapping[str, float]) -> float:
    """Probability that any of what the config disallows shows: risks, the floor, and rules that forbid in words."""
    disallowed = _disallowed(config)
    risks = [reading.risks[name] for name in (*disallowed, *taxonomy.FLOOR)]
    whole = reading.any_risk if len(disallowed) == len(RISKS) else 0.0
    return max(whole, *risks, *weak.values())


@lru_cache(maxsize=256)
def _disallowed(config: SafetyConfig) -> tuple[str, ...]:
    """Risks that break the config wherever they show."""
    everything = config.elements
    return tuple(
        risk
        for risk in RISKS
        if decide(config, Evidence(found=frozenset({risk}) & everything, examined=everything)).outcome == "violates"
    )
