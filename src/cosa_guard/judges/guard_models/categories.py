"""From the fixed categories of a model to evidence in the ids of a config.

The tables are the SDK's (`taxonomies/mappings.json`); `coverage.json` says which of our risks a model's silence rules
out. A category may lie across several of ours: then nobody knows which one the text shows, so none of them is found
and none is ruled out, unless each of them would break the config: then it is broken, whichever it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from importlib import resources

from cosa_sdk.config import SafetyConfig
from cosa_sdk.decide import Evidence, decide
from cosa_sdk.taxonomy import FLOOR, builtin, from_external, to_external

__all__ = ["categories", "coverage", "evidence"]


@cache
def categories(table: str) -> frozenset[str]:
    """Every category of a table."""
    ours = (*builtin().ids, *FLOOR)
    return frozenset(category for risk in ours for category in to_external(table, risk))


@cache
def coverage(table: str) -> frozenset[str]:
    """Our ids that are absent where the model flags nothing."""
    file = resources.files("cosa_guard.judges.guard_models").joinpath("coverage.json")
    return frozenset(json.loads(file.read_text("utf-8"))[table])


def evidence(table: str, config: SafetyConfig, flagged: Iterable[str], *, unsure: Iterable[str] = ()) -> Evidence:
    """What a set of flagged categories shows.

    Args:
        flagged: the categories that the model found; it looked for all others of the table and did not find them,
        unsure: except for these.
    """
    found: set[str] = set()
    unsettled = {risk for category in unsure for risk in from_external(table, category)}
    violates = False
    for category in flagged:
        risks = from_external(table, category)
        if len(risks) == 1:
            found.update(risks)
        else:
            unsettled.update(risks)
            violates = violates or all(_breaks(config, risk) for risk in risks)
    examined = (coverage(table) - unsettled) | found
    known = config.elements
    return Evidence(found=frozenset(found) & known, examined=examined & known, violates=violates)


def _breaks(config: SafetyConfig, risk: str) -> bool:
    """The risk alone, with nothing else in the text, violates the config."""
    shown = Evidence(found=frozenset({risk}), examined=config.elements)
    return decide(config, shown).outcome == "violates"
