"""Rules written in words, matched by meaning: a weak signal, said to be weak, and calibrated as such.

The encoder also says what a text is about. How near that is to a rule's own words and examples tells a text that is
far from the rule's subject from one that is near it; it cannot tell a report of a deed from the deed, nor see a
condition. So it may only *find* what a rule forbids, or rule out that the subject comes up; never that something is
permitted.
"""

from __future__ import annotations

from functools import lru_cache

from cosa_guard.judges.embedded.tiers import MEANING, Array, load, vocabulary
from cosa_guard.judges.embedded.windows import ROOM, Coded, coded
from cosa_sdk.config import Rule, SafetyConfig

__all__ = ["likeness", "weak_rules"]


def weak_rules(config: SafetyConfig) -> tuple[Rule, ...]:
    """Rules that words describe and that forbid: what can be matched."""
    return tuple(rule for rule in config.rules if rule.stance == "forbid" and rule.text)


def _subjects(rule: Rule) -> list[str]:
    told = [str(rule.text)]
    for example in rule.examples:
        told += [text for text in (example.prompt, example.bad) if text]
    return told


@lru_cache(maxsize=256)
def _vectors(config: SafetyConfig) -> tuple[Array, tuple[slice, ...]]:
    """Unit vectors of all rules' subjects, and which rows belong to which rule."""
    ids: list[Coded] = []
    parts: list[slice] = []
    for rule in weak_rules(config):
        told = [vocabulary().ids(text)[:ROOM] for text in _subjects(rule)]
        parts.append(slice(len(ids), len(ids) + len(told)))
        ids += [coded(one) for one in told]
    return unit(load("encoder").read(ids)[:, MEANING]), tuple(parts)


def unit(vectors: Array) -> Array:
    """Rows of length one."""
    lengths = (vectors * vectors).sum(axis=1, keepdims=True) ** 0.5
    return vectors / (lengths + 1e-9)


def likeness(config: SafetyConfig, meanings: Array) -> dict[str, float]:
    """Rule element -> cosine of the nearest of its subjects to the nearest reading of the text, -1 to 1."""
    rules = weak_rules(config)
    if not rules:
        return {}
    vectors, parts = _vectors(config)
    near = vectors @ unit(meanings).T
    return {rule.element: float(near[part].max()) for rule, part in zip(rules, parts, strict=True)}
