"""How the next token is drawn."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosa_guard.backends.choosing import Capture, Sampler, logprobs
from cosa_guard.messages import Sampling
from cosa_sdk.errors import BackendError

ODDS = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))


def sampler(matcher=None, *, ends=(), **sampling):
    return Sampler(Sampling(**sampling), lambda token: token in ends, matcher)


def drawn(count=4000, **sampling):
    each = sampler(seed=1, **sampling)
    return {token: seen / count for token, seen in Counter(each.choose(ODDS)[0] for _ in range(count)).items()}


def test_greedy_takes_the_likeliest():
    assert (0, False) == sampler().choose(ODDS)


def test_a_draw_has_the_models_shares():
    shares = drawn(temperature=1.0)

    assert all(abs(shares[token] - share) < 0.03 for token, share in enumerate([0.5, 0.3, 0.15, 0.05]))


def test_a_low_temperature_sharpens():
    assert drawn(temperature=0.25)[0] > 0.85


@pytest.mark.parametrize(("top_p", "kept"), [(0.0, {0}), (0.5, {0}), (0.51, {0, 1}), (0.79, {0, 1}), (0.9, {0, 1, 2}), (1.0, {0, 1, 2, 3})])
def test_top_p_keeps_the_fewest_that_reach_it(top_p, kept):
    assert kept == set(drawn(temperature=1.0, top_p=top_p))


def test_top_p_keeps_the_shares_among_the_kept():
    shares = drawn(temperature=1.0, top_p=0.7)

    assert abs(shares[0] - 0.5 / 0.8) < 0.03


@pytest.mark.parametrize("seed", [0, 7, -1, 2**70])
def test_a_seed_repeats_and_another_differs(seed):
    def run(seed):
        each = sampler(seed=seed, temperature=1.0)
        return [each.choose(ODDS)[0] for _ in range(50)]

    assert run(seed) == run(seed)
    assert run(seed) != run(seed + 1)


def test_the_end_is_no_token():
    assert (None, True) == sampler(ends={0}).choose(ODDS)


@pytest.mark.parametrize("odds", [[math.nan] * 4, [-math.inf] * 4, [math.inf, 0, 0, 0]])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_is_no_number_is_an_error(odds, temperature):
    with pytest.raises(BackendError, match="no numbers"):
        sampler(temperature=temperature).choose(np.array(odds, np.float32))


class Matcher:
    def __init__(self, allowed, *, over=False):
        self.allowed, self.finished, self.taken = allowed, over, []

    def mask(self):
        return np.array(self.allowed)

    def accept(self, token):
        self.taken.append(token)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_only_what_the_schema_allows_is_drawn(temperature):
    matcher = Matcher([False, False, True, False])

    assert (2, False) == sampler(matcher, temperature=temperature).choose(ODDS)
    assert [2] == matcher.taken


def test_a_whole_document_ends_the_reply():
    assert (2, True) == sampler(Matcher([False, False, True, False], over=True)).choose(ODDS)


def test_the_end_is_not_put_to_the_schema():
    matcher = Matcher([True, False, False, False])

    assert (None, True) == sampler(matcher, ends={0}).choose(ODDS)
    assert not matcher.taken


def test_capture_keeps_a_copy():
    capture, odds = Capture(), ODDS.copy()

    assert (None, True) == capture.choose(odds)
    odds[:] = 0
    assert ODDS.tolist() == capture.logits.tolist()


def test_logprobs_are_over_all_tokens_and_those_of_one_text_count_together():
    found = logprobs(ODDS + 3, 4, lambda token: "ab"[token % 2])

    assert {"a": pytest.approx(math.log(0.65), abs=1e-6), "b": pytest.approx(math.log(0.35), abs=1e-6)} == found


@given(st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=50), st.integers(1, 60))
def test_logprobs_are_sorted_and_sum_to_one_at_most(odds, top):
    found = logprobs(np.array(odds, np.float32), top, str)

    assert len(found) == min(top, len(odds))
    assert sorted(found.values(), reverse=True) == list(found.values())
    assert sum(map(math.exp, found.values())) <= 1 + 1e-9
