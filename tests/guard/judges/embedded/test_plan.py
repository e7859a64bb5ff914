"""What of a case the encoder reads: no risk hides another, and the cost has a bound."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tests.guard.judges.embedded.build import Told

from cosa_guard.judges.embedded.plan import Planner, telling
from cosa_guard.judges.embedded.tiers import CODES, logsumexp, vocabulary
from cosa_guard.judges.embedded.windows import ROOM

SURE = -2.0
RISKS = len(CODES)
LOGITS = arrays.arrays(np.float32, st.tuples(st.integers(1, 30), st.just(RISKS)), elements=st.floats(-9, 9, width=32))
LONG = " ".join(
    f"The {word} is here." for word in ["garden", "train", "river", "house", "book", "museum", "dog", "cat"] * 4
)


def planned(says, forms, turns=()):
    return Planner(vocabulary(), Told(says), "prompt", SURE).plan(forms, turns)


def words(*texts):
    return [[2, *vocabulary().ids(text), 3] for text in texts]


@given(LOGITS)
def test_the_likeliest_by_any_risk_and_by_each_are_told(logits):
    scores = logsumexp(logits)
    found = telling([[number] for number in range(len(logits))], logits, SURE)

    assert len(set(found)) == len(found) <= 4 + RISKS
    assert min(4, len(logits)) <= len(found)
    assert max(scores) == max(scores[found])
    for risk in range(RISKS):
        best = logits[:, risk].argmax()
        assert scores[best] <= SURE or max(logits[found, risk]) == logits[best, risk]


@given(LOGITS)
def test_beside_the_likeliest_nothing_is_told_that_shows_nothing_for_sure(logits):
    found = telling([[number] for number in range(len(logits))], logits, SURE)

    assert all(logsumexp(logits)[found[4:]] > SURE)


@given(LOGITS)
def test_the_same_part_is_told_once(logits):
    assert 1 == len(telling([[7]] * len(logits), logits, SURE))


def test_a_short_text_is_read_as_a_whole_alone():
    plan = planned({}, ["A text.", "A form."])

    assert words("A text.", "A form.") == [ids for ids, _ in plan.readings]
    assert (2, True) == (plan.whole, plan.nothing)


def test_sentences_come_behind_what_is_whole():
    plan = planned({}, [LONG, "A form."], ["A turn."])

    assert ROOM + 2 == len(plan.readings[0][0])
    assert words("A form.", "A turn.") == [ids for ids, _ in plan.readings[1:3]]
    assert 3 == plan.whole
    assert 3 + 4 == len(plan.readings)


def test_a_sentence_that_is_a_whole_turn_elsewhere_counts_in_full():
    plan = planned({}, [LONG], ["The garden is here."])
    found = [ids for ids, _ in plan.readings]

    assert 1 == sum(ids == words("The garden is here.")[0] for ids in found)
    assert words("The garden is here.")[0] in found[: plan.whole]


@pytest.mark.parametrize(("where", "nothing"), [("form", False), ("sentence", False), ("turn", False), ("", True)])
def test_it_is_sure_of_nothing_only_where_no_part_shows_anything(where, nothing):
    needle = vocabulary().ids("zebra")[0]
    long = f"{LONG} The zebra is here. {LONG}" if where == "sentence" else LONG
    plan = planned(
        lambda ids: {"drugs": 0.0 if needle in ids else -9.0},
        [long, "A zebra." if where == "form" else "A form."],
        ["A zebra." if where == "turn" else "A turn."],
    )

    assert nothing is plan.nothing


@pytest.mark.parametrize(
    "turns", [[f"Turn {number}." for number in range(500)], [f"{number} {LONG}" for number in range(30)]]
)
def test_few_of_many_turns_are_read(turns):
    plan = planned(lambda ids: {"drugs": 1.0 + len(ids) / 100}, ["A text."], turns)

    assert 1 + 4 <= len(plan.readings) <= 1 + 4 + RISKS
