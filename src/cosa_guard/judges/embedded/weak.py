"""Rules written in words, matched by meaning: a weak signal, said to be weak, and calibrated as such.

The encoder also says what a text is about. How near that is to a rule's own words tells a text that is far
from the rule's subject from one that is near it; it cannot tell a report of a deed from the deed, nor see a
condition. So it may only *find* what a rule forbids, or rule out that the subject comes up; never that something is
permitted.
"""

from __future__ import annotations

from functools import lru_cache

from cosa_guard.judges.embedded.tiers import MEANING, Array, load, vocabulary
from cosa_guard.judges.embedded.windows import ROOM, coded
from cosa_sdk.config import Rule, SafetyConfig

__all__ = ["likeness", "weak_rules"]


def weak_rules(config: SafetyConfig) -> tuple[Rule, ...]:
    """Rules that words describe and that forbid: what can be matched."""
    return tuple(rule for rule in config.rules if rule.stance == "forbid" and rule.text)


@lru_cache(maxsize=256)
def _vectors(config: SafetyConfig) -> Array:
    """Unit vectors of what the rules forbid, (rules, MEANING).

    Their words alone, as calibrated. Examples say what a reply should be, and a harmless question may be one: a rule on
    finished homework with an essay on volcanoes as its example forbade every question on volcanoes.
    """
    told = [coded(vocabulary().ids(str(rule.text))[:ROOM]) for rule in weak_rules(config)]
    return unit(load("encoder").read(told)[:, MEANING])


def unit(vectors: Array) -> Array:
    """Rows of length one."""
    lengths = (vectors * vectors).sum(axis=1, keepdims=True) ** 0.5
    return vectors / (lengths + 1e-9)


def likeness(config: SafetyConfig, meanings: Array) -> dict[str, float]:
    """Rule element -> cosine of its words to the nearest reading of the text, -1 to 1."""
    rules = weak_rules(config)
    if not rules:
        return {}
    near = (_vectors(config) @ unit(meanings).T).max(axis=1)
    return {rule.element: float(cosine) for rule, cosine in zip(rules, near, strict=True)}
