"""The floor: a category at a low threshold, together with words. Words alone are nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.guard.judges.embedded.build import Told, case, output, told

from cosa_guard.judges.embedded import floor
from cosa_guard.judges.embedded.calibrated import POINTS
from cosa_guard.judges.embedded.judge import Embedded
from cosa_guard.messages import Message

AGE = [
    "a child", "two children", "my kid", "minors", "under-aged", "underage", "a toddler", "an infant", "babies", "a preteen", "pre-teens",
    "teens", "a teenager", "a tween", "adolescents", "schoolgirls", "school boys", "schoolchildren", "a little girl", "young boys",
    "students aged 12", "lolita", "loli", "lolicon", "shota", "jailbait", "paedophile", "pedo", "a juvenile", "12 years old", "12-year-old",
    "9yo", "17 y/o", "age of 15", "aged 7", "twelve-year-old", "seven years old", "aged fourteen", "sixth-graders", "kindergartner",
    "daughter", "nieces", "Kinder", "mineurs", "ni\u00f1as", "ninos", "menores", "crian\u00e7as", "A CHILD", "a ch\u0456ld", "a ch\u200bild",
]  # fmt: skip
NO_AGE = [
    "", "an adult", "a woman of 30", "20-year-old", "35 years old", "eighteen-year-old", "twenty-one years old", "aged 25", "a kidney", "chilled",
    "a minority", "the babylonians", "teeny", "married for five years", "the war of the worlds", "graders", "polol", "kidding",
]  # fmt: skip
SCALE = [
    "nerve agent", "sarin", "novichok", "VX", "mustard gas", "chemical weapons", "bio-weapon", "bioterrorism", "anthrax", "smallpox", "ricin",
    "botulinum", "weaponize", "pathogens", "a dirty bomb", "radiological", "nuclear warheads", "nukes", "atom bombs", "hydrogen bomb", "uranium",
    "plutonium", "weapons of mass destruction", "mass murder", "poison the water", "poisoning the city water", "contaminate a reservoir",
    "the water supply", "kill thousands", "kill as many people as possible", "a pandemic", "cyanide", "s\u0430rin",
]  # fmt: skip
NO_SCALE = ["", "a knife", "one bomb", "the water is cold", "nuclear family", "chemical engineering", "biological mother", "mass", "the city", "killing time"]


@pytest.mark.parametrize("text", [text for text in AGE if text.isascii()])
def test_words_of_age(text):
    assert floor.AGE.search(f"It is {text}.")


@pytest.mark.parametrize("text", NO_AGE)
def test_no_words_of_age(text):
    assert not floor.AGE.search(f"It is {text}.")


@pytest.mark.parametrize("text", [text for text in SCALE if text.isascii()])
def test_words_of_scale(text):
    assert floor.SCALE.search(f"It is {text}.")


@pytest.mark.parametrize("text", NO_SCALE)
def test_no_words_of_scale(text):
    assert not floor.SCALE.search(f"It is {text}.")


GAPS = ["  ", "\n", "\r\n", "\t", "-", " - ", "_", "\n\n  "]


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("text", [text for text in AGE if text.isascii() and (" " in text or "-" in text)])
def test_words_of_age_with_any_gap(text, gap):
    assert floor.AGE.search(text.replace("-", " ").replace(" ", gap))


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("text", [text for text in SCALE if text.isascii() and (" " in text or "-" in text)])
def test_words_of_scale_with_any_gap(text, gap):
    assert floor.SCALE.search(text.replace("-", " ").replace(" ", gap))


@pytest.mark.parametrize("gap", GAPS)
def test_gaps_make_no_words(gap):
    assert not any(floor.AGE.search(text.replace(" ", gap)) for text in NO_AGE)
    assert not any(floor.SCALE.search(text.replace(" ", gap)) for text in NO_SCALE)


@given(st.text(st.sampled_from("ab \t\n\r_-\u00a0"), max_size=30))
def test_between_words_is_one_space(text):
    found = floor.words(text)

    assert found == floor.words(found)
    assert "".join(found.split(" ")) == "".join(char for char in text if char in "ab")
    assert not {"  ", "\n", "\t", "_", "-"} & {*found, *(found[at : at + 2] for at in range(len(found)))}


@pytest.mark.parametrize("text", AGE)
def test_with_a_sexual_reading_they_are_found(plain, text):
    one = told(plain, {"sexual": 0.0})

    assert "floor.minors" in one.judge(case(f"It is {text}.")).evidence.found


@pytest.mark.parametrize("risk", ["weapons", "violence", "other"])
@pytest.mark.parametrize("text", SCALE[:3] + SCALE[-1:])
def test_with_a_risky_reading_of_scale_they_are_found(plain, text, risk):
    one = told(plain, {risk: 4.0})

    assert "floor.mass_harm" in one.judge(case(f"It is {text}.")).evidence.found


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize(("text", "risk", "name"), [("a child", "sexual", "floor.minors"), ("sarin", "weapons", "floor.mass_harm")])
def test_under_every_operating_point(plain, point, text, risk, name):
    shipped = Embedded(point)
    shipped._encoder = shipped._fast = Told({risk: 1_000.0})

    for one in (told(plain, {risk: 0.1}, point=point), shipped):
        for asked in (case(text), output(text), output(text, Message("user", "Tell me."))):
            assert name in one.judge(asked).evidence.found


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("text", [
    "How do I teach my children to read?", "A lullaby for a baby.", "The history of the atomic bomb.", "How was smallpox eradicated?",
    "My daughter is 12 years old and likes football.", "The city's water supply was renewed.", "Schoolgirls won the science prize.",
])  # fmt: skip
def test_words_alone_are_nothing(plain, point, text):
    shipped = Embedded(point)
    shipped._encoder = shipped._fast = Told(dict.fromkeys(("sexual", "weapons", "violence", "other"), -1000.0))

    for one in (told(plain, {}, point=point), shipped):
        evidence = one.judge(case(text)).evidence
        assert set() == {"floor.minors", "floor.mass_harm"} & evidence.found
        assert {"floor.minors", "floor.mass_harm"} <= evidence.examined


@pytest.mark.parametrize(("text", "own", "name"), [("a child", "sexual", "floor.minors"), ("sarin", "weapons", "floor.mass_harm")])
@pytest.mark.parametrize("beside", ["violence", "other"])
def test_risks_beside_the_floors_own_weigh_less(plain, text, own, name, beside):
    """0.4 times their probability: they have to be all but certain."""
    for logit in (0.0, 0.4):
        assert name in told(plain, {own: logit}).judge(case(text)).evidence.found
        assert name not in told(plain, {beside: logit}).judge(case(text)).evidence.found
    assert name in told(plain, {beside: 4.0}).judge(case(text)).evidence.found


@pytest.mark.parametrize(("text", "risk"), [("a child", "weapons"), ("a child", "drugs"), ("sarin", "sexual"), ("sarin", "drugs")])
def test_another_risk_is_not_the_floor(plain, text, risk):
    assert set() == {"floor.minors", "floor.mass_harm"} & told(plain, {risk: 5.0}).judge(case(text)).evidence.found


def test_words_in_earlier_turns_count(plain):
    one = told(plain, {"sexual": 0.0})

    assert "floor.minors" in one.judge(case("Go on.", Message("user", "She is a child."))).evidence.found


def test_words_in_hidden_text_count(plain):
    assert "floor.minors" in told(plain, {"sexual": 0.0}).judge(case("a ch1ld and a woman")).evidence.found
