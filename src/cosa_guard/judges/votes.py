"""How the findings of several judges become one, three-valued. Pure.

A judge says of an element that it is there, that it is not, or nothing. What a rule makes of that is what it would make
of every way in which the silent ones might have spoken:

| said: there, not, nothing | any | all | majority |
|---|---|---|---|
| all there | there | there | there |
| none there, none silent | not | not | not |
| some there, the others not | there | not | what more than half say; a tie is open |
| some there, the others silent | there | open | there if more than half |
| none there, some silent | open | not, if any says not | not if more than half |
| all silent | open | open | open |

Two kinds of element are counted otherwise. The floor is there when any judge finds it, whatever the rule. Of what a
config *permits* (an `allow` that carves out), finding is the lenient answer, so `any` and `all` change places.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from cosa_guard.verdicts import Case
from cosa_sdk.config import SafetyConfig
from cosa_sdk.decide import Evidence, decide
from cosa_sdk.taxonomy import FLOOR

__all__ = ["Voting", "settles", "stops", "tally", "together"]

Voting = Literal["any", "all", "majority"]
_DUAL: dict[Voting, Voting] = {"any": "all", "all": "any", "majority": "majority"}


def tally(voting: Voting, votes: Iterable[bool | None]) -> bool | None:
    """What the votes come to: there, not there, or open."""
    given = list(votes)
    yes, no, cast = given.count(True), given.count(False), len(given)
    if not cast:
        return None
    match voting:
        case "any":
            found, absent = yes > 0, no == cast
        case "all":
            found, absent = yes == cast, no > 0
        case "majority":
            found, absent = 2 * yes > cast, 2 * no > cast
    return True if found else False if absent else None


def together(voting: Voting, config: SafetyConfig, said: Sequence[tuple[frozenset[str], Evidence]]) -> Evidence:
    """One evidence of several.

    Where any, all or most members call the text a violation by themselves, so does the result, although they may
    name different elements or none.

    Args:
        said: of each member what it can settle, and what it says. On an element only those vote who can settle it.
    """
    found, examined = set(), set()
    permitting = {rule.element for rule in config.rules if rule.stance == "allow" and rule.risk is None}
    for element in frozenset[str]().union(*(covered | one.found | one.examined for covered, one in said)):
        how: Voting = "any" if element in FLOOR else _DUAL[voting] if element in permitting else voting
        votes = [_vote(one, element) for covered, one in said if element in covered | one.found | one.examined]
        there = tally(how, votes)
        if there is not None:
            examined.add(element)
        if there:
            found.add(element)
    evidence = Evidence(found=frozenset(found), examined=frozenset(examined))
    outcomes = [decide(config, one).outcome for _, one in said]
    verdicts = [None if outcome == "undecided" else outcome == "violates" for outcome in outcomes]
    if tally(voting, verdicts) and decide(config, evidence).outcome != "violates":
        return Evidence(found=evidence.found, examined=evidence.examined, violates=True)
    return evidence


def settles(case: Case, covered: frozenset[str], evidence: Evidence) -> bool:
    """Nothing that is still open matters: what could be found is settled, or the text is stopped whatever is found."""
    return covered <= evidence.examined | evidence.found or stops(case, evidence)


def stops(case: Case, evidence: Evidence) -> bool:
    """It is a violation that the config refuses.

    One that may be let through (warned of, masked, answered in part) does not: there the rest counts too, and in the
    rest the floor.
    """
    decision, enforcement = decide(case.config, evidence), case.config.enforcement
    if decision.floor or decision.outcome != "violates":
        return decision.floor
    if case.stage == "input":
        return enforcement.input == "refuse" and decision.prompt_type != "partial"
    return enforcement.output in {"refuse", "regenerate"}


def _vote(evidence: Evidence, element: str) -> bool | None:
    if element in evidence.found:
        return True
    return False if element in evidence.examined else None
