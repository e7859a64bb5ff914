"""Rules in words, matched by what a text is about: never that something is permitted."""

from __future__ import annotations

import pytest
from tests.guard.judges.embedded.build import FORBID, case, output, told

from cosa_guard.judges.embedded import judge as judge_module
from cosa_guard.judges.embedded.judge import Embedded
from cosa_guard.judges.embedded.weak import likeness, weak_rules
from cosa_sdk import SafetyConfig, presets

TEXTS = {
    "horses": "cruelty to horses in a race",
    "taxes": "advice on taxes and how to file them",
    "football": "predictions of football results",
    "weather": "tomorrow's weather forecast",
}
RULES = [{"id": name, "stance": "forbid", "text": text} for name, text in TEXTS.items()]
CONFIG = SafetyConfig(name="words", default="allow", rules=RULES)
OTHERS = SafetyConfig(name="others", rules=[
    {"id": "fights", "stance": "limit", "risk": "violence", "text": "fights between adults"},
    {"id": "news", "stance": "allow", "within": ["violence"], "text": "reports of wars in the news"},
    {"id": "pills", "stance": "allow", "risk": "drugs", "text": "medicine that a doctor prescribed"},
    {"id": "names", "stance": "forbid", "terms": ["Acme"]},
    {"risk": "weapons", "stance": "forbid"},
])  # fmt: skip


def test_only_what_forbids_in_words():
    assert tuple(TEXTS) == tuple(rule.id for rule in weak_rules(CONFIG))
    assert () == weak_rules(OTHERS)


@pytest.mark.parametrize("name", TEXTS)
def test_a_rule_is_nearest_to_its_own_words(shipped, name):
    near = likeness(CONFIG, shipped.read(TEXTS[name], meant=True).meanings)

    assert f"rule:{name}" == max(near, key=near.get)
    assert near[f"rule:{name}"] > 0.99
    assert all(-1.001 <= cosine <= 1.001 for cosine in near.values())


def test_an_example_is_not_what_a_rule_forbids(shipped):
    example = "Who wins the cup final on Sunday?"
    bare = {"id": "sport", "stance": "forbid", "text": "gambling"}
    told = {**bare, "examples": [{"prompt": example, "good": "No idea."}]}
    read = shipped.read(example, meant=True).meanings

    assert likeness(SafetyConfig(name="e", rules=[told]), read) == likeness(SafetyConfig(name="e", rules=[bare]), read)


def test_a_question_on_the_subject_of_an_example_is_not_refused():
    from cosa_guard import Guard
    from cosa_sdk import presets

    assert Guard(presets.load("childrens-learning"), accept_unexamined=True).check("How do volcanoes erupt?").outcome != "violates"


def test_a_rule_as_long_as_configs_allow(shipped):
    long = SafetyConfig(name="long", rules=[{"id": "long", "stance": "forbid", "text": "horses and races " * 20}])

    assert {"rule:long"} == set(likeness(long, shipped.read("horses", meant=True).meanings))


def test_without_rules_in_words_nothing_is_near(shipped):
    assert {} == likeness(OTHERS, shipped.read("fights between adults", meant=True).meanings)


@pytest.mark.parametrize("text", ["fights between adults", "reports of wars in the news", "medicine that a doctor prescribed", "Acme"])
def test_it_settles_no_allowance_and_no_limit(shipped, text):
    rules = {f"rule:{name}" for name in ("fights", "news", "pills", "names")}

    for given in (case(text, config=OTHERS), output(text, config=OTHERS)):
        evidence = shipped.judge(given).evidence
        assert set() == rules & (evidence.found | evidence.examined | evidence.denied)
    assert set() == rules & shipped.covers(OTHERS)


@pytest.mark.parametrize("name", presets.names())
def test_in_presets_only_forbidding_rules_are_covered(shipped, name):
    config = presets.load(name)
    rules = {rule.element for rule in config.rules if rule.stance == "forbid" and rule.text}

    assert rules == {element for element in shipped.covers(config) if element.startswith("rule:")}


# Slope 10 and intercept -5: 0.72 gives 0.9, 0.28 gives 0.1.
@pytest.mark.parametrize(("cosine", "found", "examined"), [(1.0, True, True), (0.8, True, True), (0.5, False, False), (0.2, False, True), (-1.0, False, True)])
def test_thresholds(plain, monkeypatch, cosine, found, examined):
    monkeypatch.setattr(judge_module, "likeness", lambda config, meanings: {"rule:horses": cosine})
    verdict = told(plain, {}).judge(case("A text.", config=CONFIG))

    assert found is ("rule:horses" in verdict.evidence.found)
    assert examined is ("rule:horses" in verdict.evidence.examined)
    assert found is ("weak match rule:horses" in verdict.reason)
    assert 0.0 <= verdict.risks["rule:horses"] <= 1.0


def test_a_text_that_the_static_tier_is_sure_of_is_still_matched(plain, monkeypatch):
    """Else every harmless text would be undecided under a config with a rule in words."""
    monkeypatch.setattr(judge_module, "likeness", lambda config, meanings: dict.fromkeys((f"rule:{name}" for name in TEXTS), 0.0))
    one = told(plain, {})
    object.__setattr__(one.calibrated, "sure", dict.fromkeys(one.calibrated.sure, 99.0))

    assert "(fast)" in one.judge(case("A text.", config=FORBID)).reason
    for given in (case("A text.", config=CONFIG), output("A text.", config=CONFIG)):
        verdict = one.judge(given)
        assert "(encoder)" in verdict.reason
        assert CONFIG.elements == verdict.evidence.examined


def test_the_static_tier_alone_covers_no_words():
    fast = Embedded(tier="fast")

    assert not any(element.startswith("rule:") for element in fast.covers(CONFIG))
    assert CONFIG.elements - {f"rule:{name}" for name in TEXTS} == fast.covers(CONFIG)
    assert not any(element.startswith("rule:") for element in fast.judge(case("A horse.", config=CONFIG)).evidence.examined)
