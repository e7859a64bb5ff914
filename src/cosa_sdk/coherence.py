"""What must hold between the parts of a config, beyond each part by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cosa_sdk.errors import nearest
from cosa_sdk.taxonomy import FLOOR, OTHER, builtin
from cosa_sdk.validation import fault

if TYPE_CHECKING:
    from pydantic_core import PydanticCustomError

    from cosa_sdk.config import Rule, SafetyConfig

__all__ = ["check"]

TRAIL_NEEDS = ("sexual", "weapons")
"""Risks whose permission makes the floor a matter of degree: text must be judged before it is released."""
RESERVED = ("config", "guideline")
"""Ids by which decisions and evidence name what is neither rule nor risk."""


def check(config: SafetyConfig) -> None:
    """Raise the first incoherence as a pydantic error whose `at` names the place."""
    first = _first(config)
    if first is not None:
        raise first


def _first(config: SafetyConfig) -> PydanticCustomError | None:
    known = builtin(config.taxonomy).ids
    for position, risk in enumerate(config.risks):
        problem = _own_risk(risk.id, f"risks[{position}].id", known)
        if problem is not None:
            return problem
        known = (*known, risk.id)
    seen: dict[str, int] = {}
    whole: dict[str, tuple[int, Rule]] = {}
    for position, rule in enumerate(config.rules):
        at = f"rules[{position}]"
        problem = _names(rule, at, known) or _reserved(rule.id, f"{at}.id")
        if problem is not None:
            return problem
        if rule.unconditional and rule.risk is not None:
            if rule.risk in whole:
                return _contradiction(rule, at, *whole[rule.risk])
            whole[rule.risk] = (position, rule)
        if rule.id in seen:
            return fault(
                "duplicate-id",
                f"rule id {rule.id!r} is used by rules[{seen[rule.id]}] too",
                "ids are unique",
                f"{at}.id",
            )
        seen[rule.id] = position
    if config.default == "guideline" and not config.guideline:
        return fault("default", "default: guideline needs a guideline", "write one, or say forbid or allow", "default")
    return _trail(config)


def _own_risk(risk: str, place: str, known: tuple[str, ...]) -> PydanticCustomError | None:
    """Faults in the id of a risk that the config adds."""
    if risk in known:
        return fault("risk-id", f"{risk!r} is a risk already", "drop it, or rename yours", place)
    return _reserved(risk, place)


def _reserved(name: str, place: str) -> PydanticCustomError | None:
    """Decisions would take an id of this name for their own: a rule called `floor.minors` could speak for the floor."""
    if name.startswith("floor."):
        return fault("floor", f"{name!r} is the name of a floor id, which no config may define", "rename it", place)
    return fault("reserved-id", f"the id {name!r} is reserved", "rename it", place) if name in RESERVED else None


def _names(rule: Rule, at: str, known: tuple[str, ...]) -> PydanticCustomError | None:
    """Faults in the ids that a rule names."""
    named = [(rule.risk, f"{at}.risk")] if rule.risk is not None else []
    named += [(risk, f"{at}.within") for risk in rule.within]
    for risk, place in named:
        if risk in FLOOR or risk.startswith("floor."):
            return fault(
                "floor",
                f"{risk!r} is on the floor: refused under every config, so no rule may name it",
                "drop the rule",
                place,
            )
        if risk not in known:
            meant = nearest(risk, known)
            return fault(
                "unknown-risk",
                f"unknown risk {risk!r}; known: {', '.join(known)}",
                f"did you mean {meant!r}?" if meant else "or add it under `risks`",
                place,
            )
        if risk == OTHER and rule.stance != "forbid":
            return fault("other", f"{OTHER!r} can never be allowed", "add a risk of your own under `risks`", place)
    return None


def _contradiction(rule: Rule, at: str, position: int, earlier: Rule) -> PydanticCustomError:
    if rule.stance == earlier.stance:
        said = f"rules {earlier.id!r} and {rule.id!r} both {rule.stance} {rule.risk!r}"
        return fault("duplicate-rule", said, "keep one", at)
    said = f"{earlier.id!r} (rules[{position}]) is {earlier.stance} and {rule.id!r} is {rule.stance} for {rule.risk!r}"
    return fault("contradiction", said, "keep one, or narrow one of them with `text`", at)


def _trail(config: SafetyConfig) -> PydanticCustomError | None:
    if config.enforcement.stream != "trail":
        return None
    named = {risk for rule in config.rules if rule.stance != "forbid" for risk in (rule.risk, *rule.within)}
    ruled = {rule.risk for rule in config.rules if rule.unconditional and rule.stance == "forbid"}
    opened = [risk for risk in TRAIL_NEEDS if risk not in ruled and (risk in named or config.default != "forbid")]
    if not opened:
        return None
    said = f"trail releases text before it is judged, and this config may allow {opened[0]!r}, which borders the floor"
    return fault("trail", said, "use hold or whole", "enforcement.stream")
