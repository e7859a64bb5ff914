"""Rates, tries and cost, by a clock of the test's own."""

from __future__ import annotations

import pytest

from cosa_guard.evals.limits import Limits, Meter
from cosa_guard.evals.replies import Said
from cosa_guard.messages import Message, Request, Sampling
from cosa_sdk.errors import BackendError, ModelFileError, UsageError

ASKED = Request(messages=(Message("user", "x" * 400),), sampling=Sampling(max_tokens=100))


class Clock:
    def __init__(self):
        self.now, self.slept = 0.0, []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(round(seconds, 6))
        self.now += seconds


def meter(**limits):
    clock = Clock()
    return Meter(Limits(**limits), clock=clock, sleep=clock.sleep), clock


def test_requests_are_spread_over_the_minute():
    one, clock = meter(requests_per_minute=30)
    for _ in range(4):
        one.call(ASKED, lambda: Said("a", "stop", 5))

    assert [2, 2, 2] == clock.slept


def test_tokens_are_spread_over_the_minute():
    one, clock = meter(tokens_per_minute=600)  # a call is counted as 100 tokens of prompt and 100 of reply
    for _ in range(3):
        one.call(ASKED, lambda: Said("a", "stop", 5))

    assert [20, 20] == clock.slept


def test_time_that_went_by_is_not_waited_for_again():
    one, clock = meter(requests_per_minute=30)
    one.call(ASKED, lambda: Said())
    clock.now += 1.5
    one.call(ASKED, lambda: Said())
    clock.now += 100
    one.call(ASKED, lambda: Said())

    assert [0.5] == clock.slept


def failing(times, error=BackendError):
    left = [times]

    def ask():
        if left[0]:
            left[0] -= 1
            raise error("busy")
        return Said("at last", "stop", 2)

    return ask


def test_a_failed_call_is_tried_again_after_longer_and_longer_pauses():
    one, clock = meter(retries=4)

    assert "at last" == one.call(ASKED, failing(4)).text
    assert [1, 2, 4, 8] == clock.slept


def test_the_last_failure_is_raised():
    one, clock = meter(retries=2)

    with pytest.raises(BackendError, match="busy"):
        one.call(ASKED, failing(3))
    assert [1, 2] == clock.slept


def test_no_pause_is_longer_than_a_minute():
    one, clock = meter(retries=8)
    one.call(ASKED, failing(8))

    assert 60 == max(clock.slept)


def test_what_will_fail_again_is_not_tried_again():
    one, clock = meter(retries=3)

    with pytest.raises(ModelFileError):
        one.call(ASKED, failing(1, ModelFileError))
    assert [] == clock.slept


def test_the_run_stops_at_its_cost():
    one, _ = meter(price_in=10, price_out=1000, max_cost=0.011)  # a call: 100 in, 5 out: 0.001 + 0.005
    for _ in range(2):
        one.call(ASKED, lambda: Said("a", "stop", 5))

    with pytest.raises(UsageError, match=r"has cost 0.012 of at most 0.011 .*raise --max-cost"):
        one.call(ASKED, lambda: Said("a", "stop", 5))
    assert (2, 200, 10) == (one.calls, one.prompt_tokens, one.completion_tokens)


def test_failed_calls_may_be_charged_for():
    one, _ = meter(price_in=10, retries=1)
    with pytest.raises(BackendError):
        one.call(ASKED, failing(2))

    assert pytest.approx(0.002) == one.cost


@pytest.mark.parametrize("wrong", [{"requests_per_minute": 0}, {"tokens_per_minute": -1}, {"retries": -1}, {"retries": 1.5}, {"retries": True}, {"price_in": -1}, {"max_cost": 0, "price_in": 1}, {"requests_per_minute": float("nan")}])
def test_limits_that_mean_nothing_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Limits(**wrong)


def test_a_cost_needs_prices():
    with pytest.raises(UsageError, match="needs prices"):
        Limits(max_cost=5)
