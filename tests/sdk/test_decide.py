"""The set logic of a decision: what `config.md` says, as examples and as laws over random configs and evidence.

The laws compare `decide` with a classical, two-valued reading of the same config, written here on its own. A *world*
settles every element. Evidence leaves some open; its worlds are all ways to settle them in which a condition of a rule
on a risk holds only where the risk is shown (an absent risk satisfies its limits), and a guideline that decides no
default is kept unless found broken. A permission on which judges disagree is open. `decide` never looks at worlds, and
yet says of them exactly what holds in all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import product

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from cosa_sdk import presets
from cosa_sdk.config import SafetyConfig
from cosa_sdk.decide import Evidence, decide, uncovered
from cosa_sdk.errors import UsageError
from cosa_sdk.taxonomy import FLOOR

quick = settings(max_examples=40, deadline=None)
RISKS = ("violence", "financial_crime", "drugs", "gambling", "other")
MOST_OPEN = 8


# --- a classical reading, for comparison ---


@dataclass
class World:
    """What a config says when every element is known."""

    broken: set[str] = field(default_factory=set)
    """Every reason there is for a violation."""
    permits: set[str] = field(default_factory=set)
    allowed: bool = False
    disallowed: bool = False

    @property
    def prompt_type(self):
        if self.disallowed:
            return "partial" if self.allowed else "disallowed"
        return "allowed"


def settled(config, true):
    """The paper's R and A, in a world where the elements of `true` hold and the others do not."""
    world = World()
    for floor in FLOOR:
        if floor in true:
            world.broken.add(floor)
    for rule in config.rules:
        if rule.stance == "forbid" and rule.risk is None and rule.element in true:
            world.broken.add(rule.id)
    if config.guideline and "guideline" in true:
        world.broken.add("guideline")
    world.disallowed = bool(world.broken)
    for risk in config.vocabulary.ids:
        reasons, permits = of_risk(config, risk, true)
        if reasons:
            world.broken |= reasons
            world.disallowed = True
        elif permits:
            world.permits |= permits
            world.allowed = True
    return world


def of_risk(config, risk, true):
    about = [rule for rule in config.rules if rule.risk == risk]
    reasons = {rule.id for rule in about if rule.element in true and (rule.terms or rule.text or rule.unless)}
    if risk not in true:
        return reasons, set()
    bans = {rule.id for rule in about if rule.stance == "forbid" and not rule.text and not rule.unless}
    limits = {rule.id for rule in about if rule.stance != "forbid" and (rule.text or rule.unless)}
    allows = {rule.id for rule in about if rule.stance == "allow" and not rule.text and not rule.unless}
    carves = {rule.id for rule in config.rules if risk in rule.within and rule.element in true}
    if bans or limits or allows:
        return reasons | bans, limits or allows
    if config.default == "allow" and risk != "other":
        return reasons, carves | {f"default:{risk}"}
    if config.default == "guideline" and risk != "other" and "guideline" not in true:
        return reasons, carves | {"guideline"}
    if carves:
        return reasons, carves
    return reasons | {f"default:{risk}" if risk == "other" or config.default == "forbid" else "guideline"}, set()


def worlds(config, evidence):
    disputed = {r.element for r in config.rules if r.within} & evidence.found & evidence.denied
    kept = {"guideline"} if config.default != "guideline" else set()
    unknown = sorted((config.elements - evidence.found - evidence.examined - kept) | disputed)
    known = (evidence.found & config.elements) - disputed
    owned = {rule.element: rule.risk for rule in config.rules if rule.risk}
    for choice in product((False, True), repeat=len(unknown)):
        chosen = {element for element, holds in zip(unknown, choice, strict=True) if holds}
        if all(owned[element] in known | chosen for element in chosen if element in owned):
            yield settled(config, known | chosen)


# --- random configs and evidence ---


@st.composite
def rules(draw, position):
    conditions = st.sampled_from([{"text": "t"}, {"unless": "u"}, {"text": "t", "unless": "u"}])
    patience = {"undecided": draw(st.sampled_from([None, None, "allow", "block"])), "id": f"r{position}"}
    match draw(st.sampled_from(["ban", "permit", "limit", "narrow", "hedge", "custom", "terms", "carve"])):
        case "ban":
            extra = draw(st.sampled_from([{}, {"terms": ["word"]}]))
            return {"stance": "forbid", "risk": draw(st.sampled_from(RISKS)), **extra, **patience}
        case "permit":
            return {"stance": "allow", "risk": draw(st.sampled_from(RISKS[:-1])), **patience}
        case "limit":
            extra = draw(st.sampled_from([{}, {"unless": "u"}, {"terms": ["word"]}]))
            return {"stance": "limit", "risk": draw(st.sampled_from(RISKS[:-1])), "text": "t", **extra, **patience}
        case "narrow":
            return {"stance": "forbid", "risk": draw(st.sampled_from(RISKS)), **draw(conditions), **patience}
        case "hedge":
            return {"stance": "allow", "risk": draw(st.sampled_from(RISKS[:-1])), **draw(conditions), **patience}
        case "custom":
            return {"stance": "forbid", "text": "t", **patience}
        case "terms":
            return {"stance": "forbid", "terms": ["word"], **patience}
        case _:
            within = draw(st.lists(st.sampled_from(RISKS[:-1]), min_size=1, max_size=2, unique=True))
            return {"stance": "allow", "text": "t", "within": within, **patience}


@st.composite
def configs(draw):
    drawn, whole = [], set()
    for position in range(draw(st.integers(0, 5))):
        rule = draw(rules(position))
        if "risk" in rule and "text" not in rule and "unless" not in rule:
            if rule["risk"] in whole:
                continue
            whole.add(rule["risk"])
        drawn.append(rule)
    guideline = draw(st.sampled_from([None, "Be kind."]))
    default = draw(st.sampled_from(["forbid", "allow", "guideline"] if guideline else ["forbid", "allow"]))
    own = [{"id": "gambling", "name": "Gambling", "definition": "Bets."}]
    return SafetyConfig(name="random", rules=drawn, guideline=guideline, default=default, risks=own)


def of_interest(config):
    """Elements in an order in which the first ones are worth leaving open."""
    named = {risk for rule in config.rules for risk in (rule.risk, *rule.within) if risk}
    first = sorted(element for element in config.elements if ":" in element or element in named | {"guideline"})
    return first + sorted(config.elements - set(first))


@st.composite
def evidences(draw, config, most_open=None):
    elements = of_interest(config)
    found = draw(st.frozensets(st.sampled_from(elements), max_size=4))
    unknown = draw(st.frozensets(st.sampled_from(elements), max_size=most_open))
    examined = frozenset(elements) - unknown
    disputable = [rule.element for rule in config.rules if rule.within]
    denied = draw(st.frozensets(st.sampled_from(disputable))) if disputable else frozenset()
    violates = draw(st.sampled_from([False] * 7 + [True]))
    return Evidence(found=found, examined=examined, denied=denied, violates=violates)


@st.composite
def cases(draw, most_open=None):
    config = draw(configs())
    return config, draw(evidences(config, most_open))


def impartial(config):
    """The config without any rule's own `undecided`."""
    return config.replace(rules=[rule.model_dump() | {"undecided": None} for rule in config.rules])


def config(*rules, **fields):
    return SafetyConfig(name="example", rules=rules, **fields)


def seen(config, *found, unseen=(), denied=()):
    """Evidence of judges that looked at everything but `unseen`."""
    return Evidence(found=frozenset(found), examined=config.elements - frozenset(unseen), denied=frozenset(denied))


HEISTS = {"id": "heists", "stance": "limit", "risk": "financial_crime", "text": "crimes in a plot", "unless": "usable"}
FIGHTS = {"id": "fights", "stance": "allow", "risk": "violence"}
LIMBS = {"id": "limbs", "stance": "forbid", "risk": "violence", "text": "severed limbs"}
NAMES = {"id": "names", "stance": "forbid", "text": "names of rivals", "terms": ["Acme Pictures"]}
SPARRING = {"id": "sparring", "stance": "allow", "text": "martial arts lessons", "within": ["violence"]}
DRUGS = {"stance": "forbid", "risk": "drugs"}


# --- examples ---


def rests_on(config, *found, **others):
    decision = decide(config, seen(config, *found, **others))
    return decision.outcome, decision.rules


def leaves_open(config, *found, **others):
    decision = decide(config, seen(config, *found, **others))
    return decision.outcome, decision.unexamined


def test_working_fraud_guide_breaks_financial_crime_unless_usable():
    film = presets.load("film-studio")

    assert ("compliant", ("crime-plots",)) == rests_on(film, "financial_crime")
    assert ("violates", ("crime-plots",)) == rests_on(film, "financial_crime", "rule:crime-plots")


def test_severed_limbs_are_forbidden_while_violence_is_allowed():
    studio = config(FIGHTS, LIMBS)

    assert ("compliant", ("fights",)) == rests_on(studio, "violence")
    assert ("violates", ("limbs",)) == rests_on(studio, "violence", "rule:limbs")


def test_condition_found_is_a_breach_even_where_no_judge_names_the_risk():
    studio = config(FIGHTS, LIMBS)

    assert ("violates", ("limbs",)) == rests_on(studio, "rule:limbs")


def test_absent_risk_satisfies_its_limit_without_a_text_judge():
    film = config(HEISTS)

    assert ("compliant", ()) == leaves_open(film, unseen=["rule:heists"])
    assert ("undecided", ("heists",)) == leaves_open(film, "financial_crime", unseen=["rule:heists"])
    assert ("undecided", ("heists",)) == leaves_open(film, unseen=["rule:heists", "financial_crime"])


def test_custom_rule_needs_no_risk():
    shop = config(NAMES, default="allow")

    assert ("compliant", ()) == leaves_open(shop)
    assert ("violates", ("names",)) == rests_on(shop, "rule:names")
    assert ("undecided", ("names",)) == leaves_open(shop, unseen=["rule:names"])


def test_terms_of_a_whole_risk_need_no_examination_of_their_own():
    pharmacy = config({**DRUGS, "terms": ["crack"]}, default="allow")

    assert ("compliant", ()) == leaves_open(pharmacy, unseen=["rule:drugs"])
    assert ("violates", ("drugs",)) == rests_on(pharmacy, "rule:drugs")


def test_carve_out_permits_only_what_it_describes():
    dojo = config(SPARRING)

    assert ("compliant", ("sparring",)) == rests_on(dojo, "violence", "rule:sparring")
    assert ("violates", ("default:violence",)) == rests_on(dojo, "violence")
    assert ("violates", ("default:drugs",)) == rests_on(dojo, "drugs", "rule:sparring")
    assert ("undecided", ("default:violence", "sparring")) == leaves_open(dojo, "violence", unseen=["rule:sparring"])


def test_carve_out_yields_to_a_forbid():
    banned = config(SPARRING, {"id": "none", "stance": "forbid", "risk": "violence"})
    narrowed = config(SPARRING, LIMBS)

    assert ("violates", ("none",)) == rests_on(banned, "violence", "rule:sparring")
    assert ("violates", ("limbs",)) == rests_on(narrowed, "violence", "rule:sparring", "rule:limbs")


def test_two_limits_on_one_risk_hold_together():
    film = config(HEISTS, {**HEISTS, "id": "taste", "text": "without glamour"})

    assert ("compliant", ("heists", "taste")) == rests_on(film, "financial_crime")
    assert ("violates", ("taste",)) == rests_on(film, "financial_crime", "rule:taste")


@pytest.mark.parametrize(
    ("default", "outcome", "rules"),
    [
        ("forbid", "violates", ("default:drugs",)),
        ("allow", "compliant", ("default:drugs",)),
        ("guideline", "compliant", ("guideline",)),
    ],
)
def test_default_decides_risks_that_no_rule_names(default, outcome, rules):
    some = config(FIGHTS, guideline="Talk freely about medicine.", default=default)

    assert (outcome, rules) == rests_on(some, "drugs")


def test_guideline_default_is_undecided_without_a_judge_that_reads_it():
    free = SafetyConfig.from_text("Violence is fine.")

    assert ("compliant", ("guideline",)) == rests_on(free, "violence")
    assert ("violates", ("guideline",)) == rests_on(free, "violence", "guideline")
    assert ("undecided", ("guideline",)) == leaves_open(free, "violence", unseen=["guideline"])


def test_guideline_beside_another_default_need_not_be_read_but_may_be_found_broken():
    some = config(FIGHTS, guideline="Nobody smokes.")

    assert ("compliant", ()) == leaves_open(some, "violence", unseen=["guideline"])
    assert ("violates", ("guideline",)) == rests_on(some, "violence", "guideline")


@pytest.mark.parametrize("default", ["forbid", "allow", "guideline"])
def test_other_is_never_allowed(default):
    some = config(guideline="Everything is fine.", default=default)

    assert ("violates", ("default:other",)) == rests_on(some, "other")


def test_judge_of_the_whole_config_need_not_name_a_rule():
    some = config(FIGHTS)
    decision = decide(some, replace(seen(some, "violence"), violates=True))

    assert ("violates", ("config",), "undecided") == (decision.outcome, decision.rules, decision.prompt_type)


def test_breach_rests_on_what_is_certain():
    assert ("violates", ("default:violence",)) == rests_on(config(LIMBS), "violence", unseen=["rule:limbs"])


def test_permission_rests_on_what_is_certain():
    open_house = config(SPARRING, default="allow")

    assert ("compliant", ("default:violence",)) == rests_on(open_house, "violence", unseen=["rule:sparring"])


@pytest.mark.parametrize(
    ("undecided", "outcome", "tolerated", "strict"),
    [("allow", "compliant", ("heists",), False), ("block", "undecided", (), True), (None, "undecided", (), False)],
)
def test_rule_says_itself_what_undecided_means(undecided, outcome, tolerated, strict):
    film = config({**HEISTS, "undecided": undecided})
    decision = decide(film, seen(film, "financial_crime", unseen=["rule:heists"]))

    assert (outcome, ("heists",), tolerated, strict) == (
        decision.outcome,
        decision.unexamined,
        decision.tolerated,
        decision.strict,
    )


def test_tolerant_rule_does_not_speak_for_a_stricter_one_on_the_same_risk():
    film = config({**HEISTS, "undecided": "allow"}, {**HEISTS, "id": "again"})
    decision = decide(film, seen(film, "financial_crime", unseen=["rule:heists", "rule:again"]))

    assert ("undecided", ("heists",)) == (decision.outcome, decision.tolerated)


def test_unexamined_lists_what_could_be_broken():
    everything = config(FIGHTS, NAMES, HEISTS, default="forbid")
    decision = decide(everything, Evidence())
    rest = ("discrimination", "privacy", "drugs", "sexual", "weapons", "other")

    assert {*FLOOR, "names", "heists", *(f"default:{risk}" for risk in rest)} == set(decision.unexamined)


def test_uncovered_leaves_out_what_its_author_accepted():
    film = config({**HEISTS, "undecided": "allow"}, NAMES, default="allow")

    assert ("names",) == uncovered(film, film.elements - {"rule:heists", "rule:names"})


@pytest.mark.parametrize(
    ("found", "unseen", "prompt_type"),
    [
        ([], [], "allowed"),
        (["violence"], [], "allowed"),
        (["violence", "drugs"], [], "partial"),
        (["drugs"], [], "disallowed"),
        (["rule:names"], [], "disallowed"),
        (["violence", "rule:names"], [], "partial"),
        (["violence", "drugs"], ["privacy", "rule:names"], "partial"),
        (["drugs"], ["violence"], "undecided"),
        (["violence"], ["drugs"], "undecided"),
        (["drugs"], ["privacy"], "disallowed"),
    ],
)
def test_prompt_type(found, unseen, prompt_type):
    studio = config(FIGHTS, DRUGS, NAMES)

    assert prompt_type == decide(studio, seen(studio, *found, unseen=unseen)).prompt_type


@pytest.mark.parametrize("kind", [set, list, tuple, frozenset, iter])
def test_evidence_takes_any_collection_of_ids(kind):
    evidence = Evidence(found=kind(["drugs"]), examined=kind(["drugs", "violence"]), denied=kind([]))

    assert Evidence(found=frozenset({"drugs"}), examined=frozenset({"drugs", "violence"})) == evidence
    assert hash(evidence) == hash(replace(evidence))


@pytest.mark.parametrize("name", ["found", "examined", "denied"])
@pytest.mark.parametrize("ids", ["drugs", None, 3])
def test_evidence_refuses_what_is_no_collection_of_ids(name, ids):
    with pytest.raises(UsageError, match=rf"Evidence\({name}={ids!r}\): give a set of ids"):
        Evidence(**{name: ids})


# --- laws ---


@quick
@given(cases(), st.sampled_from(FLOOR))
def test_floor_found_violates_under_every_config(case, floor):
    config, evidence = case
    decision = decide(config, replace(evidence, found=evidence.found | {floor}))

    assert ("violates", True) == (decision.outcome, decision.floor)
    assert floor in decision.rules


@quick
@given(cases())
def test_floor_is_reported_only_when_found(case):
    config, evidence = case

    assert bool(evidence.found & set(FLOOR)) == decide(config, evidence).floor


BAN = {"id": "ban", "stance": "forbid", "risk": "violence"}
LIMIT = {"id": "limit", "stance": "limit", "risk": "violence", "text": "on a stage"}


@pytest.mark.parametrize("default", ["forbid", "allow", "guideline"])
@pytest.mark.parametrize(
    ("higher", "lower", "outcome"),
    [
        (BAN, LIMBS, "violates"),
        (BAN, LIMIT, "violates"),
        (BAN, SPARRING, "violates"),
        (LIMBS, LIMIT, "violates"),
        (LIMBS, FIGHTS, "violates"),
        (LIMBS, SPARRING, "violates"),
        (LIMIT, FIGHTS, "compliant"),
        (LIMIT, SPARRING, "compliant"),
        (FIGHTS, SPARRING, "compliant"),
    ],
    ids=lambda part: part["id"] if isinstance(part, dict) else part,
)
def test_precedence_forbid_limit_allow_default(higher, lower, outcome, default):
    both = config(lower, higher, guideline="g", default=default)
    met = {"rule:limbs"} if higher == LIMBS else set()
    met |= {"rule:sparring"} if lower == SPARRING else set()

    assert (outcome, (higher["id"],)) == rests_on(both, "violence", *met)
    assert "violates" == rests_on(both, "violence", *met, FLOOR[0])[0]


@quick
@given(configs(), st.sampled_from(RISKS))
def test_rules_on_a_risk_outrank_the_default(config, risk):
    assume(any(rule.risk == risk and (rule.unconditional or rule.stance != "forbid") for rule in config.rules))
    text = seen(config, risk)
    changed = "allow" if config.default == "forbid" else "forbid"

    assert decide(config.replace(default=changed), text).outcome == decide(config, text).outcome


@quick
@given(cases(), st.data())
def test_examining_more_settles_and_never_reverses(case, data):
    config, evidence = case
    more = data.draw(st.frozensets(st.sampled_from(sorted(config.elements))))
    before, after = decide(config, evidence), decide(config, replace(evidence, examined=evidence.examined | more))

    assert before.outcome in {"undecided", after.outcome}
    assert set(after.unexamined) <= set(before.unexamined)
    assert before.prompt_type in {"undecided", after.prompt_type}


@quick
@given(cases(), st.data())
def test_finding_more_never_excuses(case, data):
    config, evidence = case
    permits = {rule.element for rule in config.rules if rule.within}
    more = data.draw(st.frozensets(st.sampled_from(sorted(config.elements - permits))))
    assume("violates" == decide(config, evidence).outcome)

    assert "violates" == decide(config, replace(evidence, found=evidence.found | more)).outcome


@settings(max_examples=150, deadline=None)
@given(cases(most_open=MOST_OPEN))
def test_decision_is_exactly_what_holds_in_every_world(case):
    """Sound and complete: `decide` is undecided only where two worlds differ, tolerance aside."""
    config, evidence = case
    config = impartial(config)
    possible = list(worlds(config, evidence))
    outcomes = {"violates" if evidence.violates or world.disallowed else "compliant" for world in possible}
    types = {world.prompt_type for world in possible}
    decision = decide(config, evidence)

    assert (outcomes.pop() if len(outcomes) == 1 else "undecided") == decision.outcome
    if not evidence.violates:
        assert (types.pop() if len(types) == 1 else "undecided") == decision.prompt_type
    else:
        # Nobody knows which item the judge meant, so its type is known only where a named breach settles it.
        assert decision.prompt_type in {"undecided", *types}


@quick
@given(cases(most_open=MOST_OPEN))
def test_named_rules_hold_in_every_world(case):
    config, evidence = case
    possible = list(worlds(config, evidence))
    decision = decide(config, evidence)
    named = set(decision.rules) - {"config"}

    if "violates" == decision.outcome:
        assert decision.rules
        assert all(named <= world.broken for world in possible)
    else:
        assert all(named <= world.permits for world in possible)


@quick
@given(cases(most_open=MOST_OPEN))
def test_unexamined_names_what_some_world_breaks_and_another_keeps(case):
    config, evidence = case
    possible = list(worlds(config, evidence))
    carves = {rule.id for rule in config.rules if rule.within}
    open_to_breach = set(decide(config, evidence).unexamined) - carves

    assert all(any(owner in world.broken for world in possible) for owner in open_to_breach)
    assert all(any(owner not in world.broken for world in possible) for owner in open_to_breach)


@quick
@given(cases())
def test_tolerance_only_turns_undecided_into_compliant(case):
    config, evidence = case
    strictly, decision = decide(impartial(config), evidence), decide(config, evidence)
    patient = {rule.id for rule in config.rules if rule.undecided == "allow"}

    assert strictly.unexamined == decision.unexamined
    assert set(decision.tolerated) <= patient & set(decision.unexamined)
    if decision.outcome != strictly.outcome:
        assert ("undecided", "compliant") == (strictly.outcome, decision.outcome)
        assert decision.unexamined == decision.tolerated


@quick
@given(cases())
def test_strict_means_that_an_open_rule_asks_to_block(case):
    config, evidence = case
    decision = decide(config, evidence)
    asking = {rule.id for rule in config.rules if rule.undecided == "block"} & set(decision.unexamined)

    assert ("undecided" == decision.outcome and bool(asking)) == decision.strict


@quick
@given(cases())
def test_compliant_leaves_nothing_open_but_what_is_tolerated(case):
    config, evidence = case
    decision = decide(config, evidence)

    assert ("compliant" == decision.outcome) == (
        "violates" != decision.outcome and decision.unexamined == decision.tolerated
    )


@quick
@given(configs())
@example(SafetyConfig(name="open", default="allow"))
@example(SafetyConfig.from_text("Everything is fine."))
def test_nobody_looked_is_never_compliant(config):
    decision = decide(config, Evidence())

    assert "undecided" == decision.outcome
    assert set(FLOOR) <= set(decision.unexamined) - set(decision.tolerated)


@quick
@given(configs(), st.data())
def test_together_is_commutative_associative_and_idempotent(config, data):
    a, b, c = (data.draw(evidences(config)) for _ in range(3))

    assert a | b == b | a
    assert (a | b) | c == a | (b | c)
    assert decide(config, a) == decide(config, a | a)
    assert decide(config, a | b) == decide(config, (a | b) | (a | b))
    assert decide(config, a) == decide(config, a | Evidence())


@quick
@given(configs(), st.data())
def test_another_judge_never_excuses_what_one_found(config, data):
    a, b = (data.draw(evidences(config)) for _ in range(2))
    permits = {rule.element for rule in config.rules if rule.within}
    assume("violates" == decide(config, a).outcome and not permits & b.found)

    assert "violates" == decide(config, a | b).outcome


def test_one_judge_denies_what_another_permits():
    dojo = config(SPARRING)
    lesson, brawl = seen(dojo, "violence", "rule:sparring"), seen(dojo, "violence")

    assert ["compliant", "violates", "undecided", "undecided"] == [
        decide(dojo, evidence).outcome for evidence in (lesson, brawl, lesson | brawl, lesson | lesson | brawl)
    ]


@quick
@given(cases(), st.frozensets(st.sampled_from(["nonsense", "rule:none", "floor.none", "default", "config", "rule:"])))
def test_ids_that_are_no_elements_change_nothing(case, strangers):
    config, evidence = case
    noisy = replace(
        evidence,
        found=evidence.found | strangers,
        examined=evidence.examined | strangers,
        denied=evidence.denied | strangers,
    )

    assert decide(config, evidence) == decide(config, noisy)


@quick
@given(configs())
def test_elements_of_whole_rules_are_none(config):
    whole = {rule.element for rule in config.rules if rule.unconditional and not rule.terms}

    assert set() == whole & config.elements
    assert decide(config, Evidence()) == decide(config, Evidence(found=frozenset(whole)))
