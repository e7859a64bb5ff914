"""What the findings of judges mean under a config. Pure set logic, three-valued.

The paper calls a text compliant iff the risks R that it shows are within what the config allows, A. Real configs have
conditions, and real judges do not look at everything, so each *item* of a config (a risk, a custom rule, a floor id,
the guideline) is in one of three states in a text: absent, shown and allowed, or shown and disallowed. Where evidence
is missing an item keeps a *set* of possible states, and

- a text violates iff some item can only be disallowed,
- a text is compliant iff no item can be disallowed,
- otherwise the decision is undecided: 'compliant' never means that nobody looked.

Precedence within a risk: floor > forbid > limit > allow > default.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import Literal

from cosa_sdk.config import Rule, SafetyConfig
from cosa_sdk.errors import UsageError
from cosa_sdk.taxonomy import FLOOR, OTHER

__all__ = ["Decision", "Evidence", "Outcome", "PromptType", "decide", "uncovered"]

Outcome = Literal["compliant", "violates", "undecided"]
PromptType = Literal["allowed", "partial", "disallowed", "undecided"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What judges found in one text, in the ids of `SafetyConfig.elements`.

    For a risk or floor id, found means that the text shows it. For `rule:<id>` it means that the rule's condition was
    met: of a `forbid`, what it forbids; of a `limit` or conditional `allow`, a breach of its terms; of an `allow`
    that carves out, what it permits. `guideline` found means broken.
    """

    found: frozenset[str] = frozenset()
    examined: frozenset[str] = frozenset()
    """What was looked for and settled, found or not."""
    denied: frozenset[str] = frozenset()
    """What some judge looked for and did not find: matters only where found means permitted."""
    violates: bool = False
    """A judge that reads the whole config says that the text breaks it, without naming the rule."""

    def __post_init__(self) -> None:
        for name in ("found", "examined", "denied"):
            ids = getattr(self, name)
            if type(ids) is frozenset:
                continue
            if isinstance(ids, str) or not isinstance(ids, Iterable):
                raise UsageError(f"Evidence({name}={ids!r}): give a set of ids, such as {{'violence', 'rule:heists'}}")
            object.__setattr__(self, name, frozenset(ids))

    def __or__(self, other: Evidence) -> Evidence:
        """Both together: what any judge found is found."""
        return Evidence(
            found=self.found | other.found,
            examined=self.examined | other.examined,
            denied=(self.denied | other.denied | (self.examined - self.found) | (other.examined - other.found)),
            violates=self.violates or other.violates,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a config says about a text, given the evidence."""

    outcome: Outcome
    prompt_type: PromptType
    """The text read as a prompt: are the risks it asks for within the config, outside, or some of each?"""
    rules: tuple[str, ...] = ()
    """What the decision rests on: ids of the rules broken (when compliant: of those that permit), risks that fell to
    the default as `default:<risk>`, floor ids, `guideline`, or `config` when a judge named no rule."""
    unexamined: tuple[str, ...] = ()
    """Rules, floor ids, `default` and `guideline` that could be broken and that no judge settled."""
    tolerated: tuple[str, ...] = ()
    """Rules among `unexamined` whose own `undecided: allow` let the text pass."""
    strict: bool = False
    """Some unexamined rule says `undecided: block` for itself."""
    floor: bool = False
    """A floor id was found: refused whatever the enforcement says."""


class _State(Enum):
    ABSENT = 0
    ALLOWED = 1
    DISALLOWED = 2


_ABSENT, _ALLOWED, _DISALLOWED = _State


@dataclass(slots=True)
class _Item:
    """Possible states of one item, and who answers for them."""

    states: set[_State] = field(default_factory=set)
    broken: list[str] = field(default_factory=list)
    """Owners of the DISALLOWED states."""
    permits: list[str] = field(default_factory=list)
    """Owners of the ALLOWED states."""

    def may(self, state: _State, owner: str = "") -> None:
        self.states.add(state)
        if owner and state is _DISALLOWED:
            self.broken.append(owner)
        elif owner and state is _ALLOWED:
            self.permits.append(owner)


_Truth = bool | None
"""Found, ruled out, or unknown."""


@lru_cache(maxsize=4096)
def decide(config: SafetyConfig, evidence: Evidence) -> Decision:
    """Apply a config to evidence.

    Args:
        evidence: ids outside `config.elements` are ignored.
    """
    items = [_floor_item(evidence, floor) for floor in FLOOR]
    items += [_risk_item(config, evidence, risk) for risk in config.vocabulary.ids]
    items += [_custom_item(evidence, rule) for rule in config.rules if rule.stance == "forbid" and rule.risk is None]
    if config.guideline:
        items.append(_guideline_item(config, evidence))
    floor = any(item.states == {_DISALLOWED} for item in items[: len(FLOOR)])
    definite = [item for item in items if item.states == {_DISALLOWED}]
    if definite or evidence.violates:
        owners = _unique(owner for item in definite for owner in item.broken) or ("config",)
        return Decision(
            outcome="violates",
            prompt_type=_prompt_type(items, unnamed=evidence.violates and not definite),
            rules=owners,
            unexamined=tuple(owner for owner in _open(items) if owner not in owners),
            floor=floor,
        )
    unexamined = _open(items)
    tolerant = {rule.id for rule in config.rules if rule.undecided == "allow"}
    strict = {rule.id for rule in config.rules if rule.undecided == "block"}
    blocking = [owner for owner in unexamined if owner not in tolerant]
    return Decision(
        outcome="undecided" if blocking else "compliant",
        prompt_type=_prompt_type(items, unnamed=False),
        rules=_unique(owner for item in items if item.states == {_ALLOWED} for owner in item.permits),
        unexamined=unexamined,
        tolerated=tuple(owner for owner in unexamined if owner in tolerant),
        strict=any(owner in strict for owner in blocking),
    )


@lru_cache(maxsize=256)
def uncovered(config: SafetyConfig, covered: frozenset[str]) -> tuple[str, ...]:
    """What stays unexamined under judges that settle `covered` and find nothing, as in `Decision.unexamined`.

    Rules that say `undecided: allow` are left out: their author accepted that nobody may be able to look.
    """
    decision = decide(config, Evidence(examined=covered))
    return tuple(owner for owner in decision.unexamined if owner not in decision.tolerated)


def _truth(evidence: Evidence, element: str) -> _Truth:
    if element in evidence.found:
        return True
    return False if element in evidence.examined else None


def _floor_item(evidence: Evidence, floor: str) -> _Item:
    return _simple(_truth(evidence, floor), floor)


def _simple(found: _Truth, owner: str) -> _Item:
    item = _Item()
    if found is not True:
        item.may(_ABSENT)
    if found is not False:
        item.may(_DISALLOWED, owner)
    return item


def _custom_item(evidence: Evidence, rule: Rule) -> _Item:
    return _simple(_truth(evidence, rule.element), rule.id)


def _guideline_item(config: SafetyConfig, evidence: Evidence) -> _Item:
    found = _truth(evidence, "guideline")
    if found is None and config.default != "guideline":
        found = False  # the rules and the default decide; the guideline then only speaks to the model
    return _simple(found, "guideline")


def _risk_item(config: SafetyConfig, evidence: Evidence, risk: str) -> _Item:
    shown = _truth(evidence, risk)
    rules = [rule for rule in config.rules if rule.risk == risk]
    conditions = {rule.id: _condition(evidence, rule, shown) for rule in rules}
    item = _Item()
    broken = [owner for owner, met in conditions.items() if met is True]
    if broken:
        for owner in broken:
            item.may(_DISALLOWED, owner)
        return item
    if shown is not True:
        item.may(_ABSENT)
    if shown is not False:
        _when_shown(config, evidence, risk, rules, item)
    unsettled = [owner for owner, met in conditions.items() if met is None]
    if unsettled and item.states != {_DISALLOWED}:  # else the breach rests on what is certain, not on them
        item.states.add(_DISALLOWED)
        item.broken[:0] = unsettled
    return item


def _condition(evidence: Evidence, rule: Rule, shown: _Truth) -> _Truth:
    """Whether the rule's own condition is broken; False for a rule that has none."""
    if rule.unconditional and not rule.terms:
        return False
    found = _truth(evidence, rule.element)
    if found is None and (shown is False or rule.unconditional):
        return False  # no risk, no breach; and a whole-risk rule is settled by the risk, its terms only find more
    return found


def _when_shown(config: SafetyConfig, evidence: Evidence, risk: str, rules: list[Rule], item: _Item) -> None:
    """Add the states of a risk that the text shows, no condition being broken."""
    forbids = [rule for rule in rules if rule.unconditional and rule.stance == "forbid"]
    limits = [rule for rule in rules if rule.stance != "forbid" and not rule.unconditional]
    allows = [rule for rule in rules if rule.unconditional and rule.stance == "allow"]
    if forbids:
        item.may(_DISALLOWED, forbids[0].id)
        return
    if limits or allows:
        for rule in limits or allows:
            item.may(_ALLOWED, rule.id)
        return
    carves = {
        rule.id: _permitted(evidence, rule) for rule in config.rules if rule.stance == "allow" and risk in rule.within
    }
    for owner, applies in carves.items():
        if applies is not False:
            item.may(_ALLOWED, owner if applies else "")
    if any(applies is True for applies in carves.values()):
        return
    _by_default(config, evidence, risk, item)
    if _DISALLOWED in item.states:
        item.broken += [owner for owner, applies in carves.items() if applies is None]


def _permitted(evidence: Evidence, rule: Rule) -> _Truth:
    """Whether a carve-out applies. Judges that disagree about a permission leave it open."""
    found = _truth(evidence, rule.element)
    return None if found and rule.element in evidence.denied else found


def _by_default(config: SafetyConfig, evidence: Evidence, risk: str, item: _Item) -> None:
    if risk == OTHER or config.default == "forbid":
        item.may(_DISALLOWED, f"default:{risk}")
    elif config.default == "allow":
        item.may(_ALLOWED, f"default:{risk}")
    else:
        broken = _truth(evidence, "guideline")
        if broken is not True:
            item.may(_ALLOWED, "guideline")
        if broken is not False:
            item.may(_DISALLOWED, "guideline")


def _open(items: list[_Item]) -> tuple[str, ...]:
    """Owners of items that could be disallowed and need not be."""
    return _unique(
        owner for item in items if _DISALLOWED in item.states and len(item.states) > 1 for owner in item.broken
    )


def _prompt_type(items: list[_Item], *, unnamed: bool) -> PromptType:
    """Exact under the evidence: the type that every completion of it gives, else undecided."""
    allowed = any(item.states == {_ALLOWED} for item in items)
    disallowed = any(item.states == {_DISALLOWED} for item in items)
    may_allow = any(_ALLOWED in item.states for item in items)
    may_disallow = any(_DISALLOWED in item.states for item in items)
    if unnamed:
        return "undecided"
    if allowed and disallowed:
        return "partial"
    if disallowed and not may_allow:
        return "disallowed"
    if not may_disallow:
        return "allowed"
    return "undecided"


def _unique(owners: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(owners))
