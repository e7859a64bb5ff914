"""The verdict cache: what is kept, what is not, and that two questions never share an answer."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.guard.build import AwaitedJudge, OwnJudge, guard
from tests.guard.judges.said import CONFIG, HELLO, Scorer, input_case, output_case

from cosa_guard import judges
from cosa_guard.judges.cache import Cached, key
from cosa_guard.judges.calibration import Calibration
from cosa_guard.judges.combine import any_of, cascade
from cosa_guard.messages import Message
from cosa_guard.testing import AsyncFakeBackend, FakeBackend
from cosa_guard.verdicts import Case, Verdict
from cosa_sdk.decide import Evidence
from cosa_sdk.errors import JudgeError, UsageError


class Counting(OwnJudge):
    """Answers as a function says, and counts how often it was asked."""

    def __init__(self, function=None, **options):
        super().__init__(function or (lambda case: Verdict(judge="own/1", evidence=Evidence(examined=case.config.elements), tokens=5)), **options)
        self.asked = 0
        self.lock = threading.Lock()

    def judge(self, case):
        with self.lock:
            self.asked += 1
        return super().judge(case)


def test_a_verdict_is_asked_for_once():
    judge = Counting()
    cached = Cached(judge)
    first, again = cached.judge(input_case()), cached.judge(input_case())

    assert first == dataclasses.replace(again, tokens=5)
    assert (5, 0) == (first.tokens, again.tokens)
    assert (1, 1, 1, 0) == (judge.asked, cached.hits, cached.misses, cached.evictions)


def test_an_awaited_judge_is_asked_once():
    asked = []

    async def verdict(case):
        asked.append(case)
        return Verdict(judge="awaited/1", evidence=Evidence(examined=case.config.elements))

    cached = Cached(AwaitedJudge(verdict))

    async def run():
        return [await cached.ajudge(input_case()) for _ in range(3)]

    assert 1 == len(set(map(id, [verdict.evidence for verdict in asyncio.run(run())])))
    assert (1, 2, 1) == (len(asked), cached.hits, cached.misses)
    assert not hasattr(cached, "judge")


@pytest.mark.parametrize(
    ("evidence", "kept"),
    [
        (Evidence(examined=CONFIG.elements), True),
        (Evidence(violates=True), True),
        (Evidence(found=frozenset({"drugs"})), True),
        (Evidence(found=frozenset({"violence"}), examined=CONFIG.elements), True),
        (Evidence(found=frozenset({"violence"})), False),
        (Evidence(), False),
        (Evidence(examined=CONFIG.elements - {"other"}), False),
        (Evidence(examined=CONFIG.elements | {"no_such_id"}), False),
    ],
)
def test_only_settled_verdicts_are_kept(evidence, kept):
    judge = Counting(lambda case: Verdict(judge="own/1", evidence=evidence))
    cached = Cached(judge)
    for _ in range(2):
        cached.judge(input_case())

    assert (1 if kept else 2, int(kept)) == (judge.asked, len(cached))


def test_a_judge_that_covers_little_is_settled_when_that_is():
    judge = Counting(lambda case: Verdict(judge="own/1", evidence=Evidence(examined=frozenset({"drugs"}))))
    judge.covers = lambda config: frozenset({"drugs"})
    cached = Cached(judge)
    for _ in range(2):
        cached.judge(input_case())

    assert 1 == judge.asked


@pytest.mark.parametrize("answer", [JudgeError("no verdict"), OSError("no route"), None, "safe"])
def test_failures_and_nonsense_are_not_kept(answer):
    def fail(case):
        if isinstance(answer, Exception):
            raise answer
        return answer

    judge = Counting(fail)
    cached = Cached(judge)
    for _ in range(2):
        if isinstance(answer, Exception):
            with pytest.raises(type(answer)):
                cached.judge(input_case())
        else:
            assert answer == cached.judge(input_case())

    assert (2, 0, 2, 0) == (judge.asked, cached.hits, cached.misses, len(cached))
    assert "undecided" == guard(CONFIG, judge=cached).check(HELLO).outcome


def test_the_least_recently_used_is_forgotten_first():
    judge = Counting()
    cached = Cached(judge, size=2)
    for text in ("a", "b", "a", "c", "a", "b"):
        cached.judge(input_case(text))

    assert (4, 2, 4, 2, 2) == (judge.asked, cached.hits, cached.misses, cached.evictions, len(cached))


# --- keys ---

OTHER = CONFIG.replace(version=2)
TURN = Message("user", "Hello")
VARIANTS = {
    "stage": output_case("Yes, that works.", turns=()),
    "text": input_case("Yes, that works"),
    "start": output_case("Yes, that works.", turns=(), start=1),
    "final": output_case("Yes, that works.", turns=(), final=False),
    "turns": input_case("Yes, that works.", turns=(TURN,)),
    "another turn": input_case("Yes, that works.", turns=(Message("user", "Hello!"),)),
    "role": input_case("Yes, that works.", turns=(Message("assistant", "Hello"),)),
    "media": input_case("Yes, that works.", turns=(Message("user", "Hello", ("image_url",)),)),
    "more media": input_case("Yes, that works.", turns=(Message("user", "Hello", ("image_url", "image_url")),)),
    "order": input_case("Hello", turns=(Message("user", "Yes, that works."),)),
    "config": input_case("Yes, that works.", config=OTHER),
    "plain": input_case("Yes, that works."),
}


def test_every_part_of_a_case_is_part_of_its_key():
    assert {"config", "stage", "text", "turns", "start", "final"} == {field.name for field in dataclasses.fields(Case)}, "a new field belongs in the key"
    assert {"role", "content", "media"} == {field.name for field in dataclasses.fields(Message)}, "a new field belongs in the key"
    assert len(VARIANTS) == len({key(Counting(), case) for case in VARIANTS.values()})


def test_yes_is_not_one_verdict_for_all_questions():
    judge = Counting()
    cached = Cached(judge)
    for case in VARIANTS.values():
        cached.judge(case)

    assert (len(VARIANTS), 0) == (judge.asked, cached.hits)


def test_tenant_judge_and_thresholds_are_part_of_the_key():
    case = input_case()
    cut = Cached(judges.make("shieldgemma", backend=Scorer(0.1)))
    keys = [key(Counting(), case), key(Counting(), case, tenant="a"), key(Counting(), case, tenant="b"), key(Counting(name="own/2"), case), key(cut, case)]
    cut._inner.calibration = lambda stage: Calibration(low=0.1, high=0.9)
    keys.append(key(cut, case))
    keys += [key(cascade(Counting(), Counting(), calibration=Calibration(low=0.1, high=high)), case) for high in (0.8, 0.9)]
    keys += [key(cascade(Counting(), Counting(), point=point), case) for point in ("strict", "balanced")]
    pointed = Counting()
    for point in ("strict", "balanced"):
        pointed.operating_point = point
        keys.append(key(pointed, case))

    assert len(keys) == len(set(keys))
    assert key(Counting(), case) == key(Cached(Counting()), case)


TEXTS = st.text(max_size=6) | st.sampled_from(["", "user", "a", "aa", "\x00", "1", "2", "\x00\x00\x00\x01"])
MESSAGES = st.builds(
    Message, st.sampled_from(["user", "assistant"]), TEXTS, st.lists(st.sampled_from(["image_url", "", "a"]), max_size=2).map(tuple)
)
MADE = st.builds(
    lambda stage, text, turns, start, final: Case(config=CONFIG, stage=stage, text=text, turns=tuple(turns), start=start, final=final),
    st.sampled_from(["input", "output"]), TEXTS, st.lists(MESSAGES, max_size=3), st.integers(0, 12), st.booleans(),
)  # fmt: skip


@given(MADE, MADE, TEXTS, TEXTS)
def test_two_cases_share_a_key_only_when_they_are_one(one, other, tenant, another):
    same = (one, tenant) == (other, another)

    assert same == (key(Counting(), one, tenant=tenant) == key(Counting(), other, tenant=another))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (output_case("x1", turns=(), start=2), output_case("x", turns=(), start=12)),
        (
            input_case(turns=(Message("user", "a", ("assistant", "b")), Message("user", "c"))),
            input_case(turns=(Message("user", "a"), Message("assistant", "b", ("user", "c")))),
        ),
        (input_case("b", turns=(Message("user", "a"),)), input_case("a", turns=(Message("user", "b"),))),
    ],
)
def test_parts_do_not_run_into_each_other(one, other):
    assert key(Counting(), one) != key(Counting(), other)


def test_a_lone_surrogate_has_a_key_too():
    assert key(Counting(), input_case("\ud800")) != key(Counting(), input_case("?"))


def test_one_tenants_verdict_is_not_anothers():
    judge = Counting()
    one, other = Cached(judge, tenant="one"), Cached(judge, tenant="other")
    one.judge(input_case())
    other.judge(input_case())

    assert (2, 0, 0) == (judge.asked, one.hits, other.hits)


# --- as a judge ---


def test_a_cached_judge_is_what_it_was():
    inner = Counting(inline=False, holdback=9)
    inner.reach, inner.windowed, inner.timeout = 100, True, 3
    cached = Cached(inner)

    assert isinstance(cached, judges.Judge)
    assert not isinstance(cached, judges.AsyncJudge)
    assert (inner.name, False, 100, True, 3, 9) == (cached.name, cached.inline, cached.reach, cached.windowed, cached.timeout, cached.holdback(CONFIG))
    assert CONFIG.elements == cached.covers(CONFIG)
    assert (None, False, None) == (Cached(Counting()).reach, Cached(Counting()).windowed, Cached(Counting()).timeout)


def test_a_guard_asks_a_cached_model_once_for_one_text_sync_and_async():
    backend = FakeBackend("<score>no</score>")
    own = guard(CONFIG, judge=Cached(judges.make("granite-guardian", backend=backend)))
    rulings = [own.check(HELLO), asyncio.run(own.acheck(HELLO)), own.check(HELLO, stage="output")]

    assert ["compliant"] * 3 == [ruling.outcome for ruling in rulings]
    assert 2 == len(backend.requests)


def test_combinations_can_be_cached_and_cached_ones_combined():
    one = Counting()
    cached = Cached(any_of(Cached(one), judges.make("dynaguard", backend=FakeBackend("<answer>PASS</answer>"))))
    for _ in range(2):
        cached.judge(input_case())

    assert (1, 1) == (one.asked, cached.hits)
    assert hasattr(Cached(any_of(one, judges.make("dynaguard", backend=AsyncFakeBackend()))), "ajudge")


def test_many_threads_may_share_it():
    judge = Counting()
    cached = Cached(judge, size=8)
    with ThreadPoolExecutor(16) as pool:
        verdicts = list(pool.map(lambda i: cached.judge(input_case(str(i % 12))), range(600)))

    assert all(CONFIG.elements == verdict.evidence.examined for verdict in verdicts)
    assert 600 == cached.hits + cached.misses
    assert judge.asked == cached.misses
    assert len(cached) <= 8
    assert 0 < cached.evictions <= cached.misses


@pytest.mark.parametrize("size", [0, -1, 1.5, "10", True, None])
def test_a_size_that_is_none_is_refused(size):
    with pytest.raises(UsageError, match="from 1 on"):
        Cached(Counting(), size=size)
