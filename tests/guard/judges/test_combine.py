"""`any`, `all`, `majority` and `cascade`: what they mean by brute force, and that they fail closed under any clock."""

from __future__ import annotations

import asyncio
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.guard.build import PATIENCE, AwaitedJudge, Gate, OwnJudge, guard
from tests.guard.judges.said import HELLO, input_case, output_case

from cosa_guard import judges
from cosa_guard.judges.calibration import Calibration
from cosa_guard.judges.combine import GRACE, all_of, any_of, cascade, majority
from cosa_guard.judges.votes import settles, tally, together
from cosa_guard.pool import threads_held
from cosa_guard.verdicts import Verdict
from cosa_sdk import SafetyConfig
from cosa_sdk.config import Rule
from cosa_sdk.decide import Evidence, decide
from cosa_sdk.errors import JudgeError, UsageError
from cosa_sdk.taxonomy import FLOOR

RULES = ["any", "all", "majority"]
COMBINE = {"any": any_of, "all": all_of, "majority": majority}
VOTES = [True, False, None]
CONFIG = SafetyConfig(
    name="two",
    rules=(
        Rule(risk="violence", stance="forbid"),
        Rule(risk="drugs", stance="allow"),
        Rule(id="fiction", stance="allow", text="fiction", within=("weapons",)),
    ),
)
EVERYTHING = CONFIG.elements
CALIBRATION = Calibration(low=0.2, high=0.8, data="own rows", n=50, auroc=0.9, auroc_ci=(0.8, 0.95))


def plain(voting, votes):
    """What a rule says when everybody speaks; None for a tie."""
    yes = sum(votes)
    match voting:
        case "any":
            return yes > 0
        case "all":
            return yes == len(votes)
        case "majority":
            return None if 2 * yes == len(votes) else 2 * yes > len(votes)


def spoken(votes):
    """Every way in which the silent ones might have spoken."""
    return itertools.product(*([vote] if vote is not None else [True, False] for vote in votes))


# --- the table ---


@pytest.mark.parametrize("voting", RULES)
@pytest.mark.parametrize("members", [1, 2, 3, 4, 5])
def test_a_tally_is_what_every_way_to_speak_comes_to(voting, members):
    for votes in itertools.product(VOTES, repeat=members):
        outcomes = {plain(voting, one) for one in spoken(votes)}
        expected = outcomes.pop() if len(outcomes) == 1 else None

        assert expected == tally(voting, votes), votes


@pytest.mark.parametrize("voting", RULES)
def test_nobody_is_no_vote(voting):
    assert tally(voting, []) is None
    assert Evidence() == together(voting, CONFIG, [])


def evidences(elements):
    """Three-valued findings on some elements; the others are ruled out."""
    return st.fixed_dictionaries({element: st.sampled_from(VOTES) for element in elements}).map(said)


def said(votes):
    rest = EVERYTHING - votes.keys()
    found = {element for element, vote in votes.items() if vote}
    return Evidence(found=frozenset(found), examined=frozenset({element for element, vote in votes.items() if vote is not None} | rest))


def truth(evidence, element):
    return True if element in evidence.found else False if element in evidence.examined else None


SOME = ("violence", "drugs", "floor.minors", "rule:fiction")


@settings(max_examples=400, deadline=None)
@given(st.lists(evidences(SOME), min_size=2, max_size=4), st.sampled_from(RULES))
def test_every_element_follows_the_table(members, voting):
    result = together(voting, CONFIG, [(EVERYTHING, one) for one in members])
    dual = {"any": "all", "all": "any", "majority": "majority"}[voting]

    for element in SOME:
        how = "any" if element in FLOOR else dual if element == "rule:fiction" else voting
        assert tally(how, [truth(one, element) for one in members]) == truth(result, element)


@settings(max_examples=400, deadline=None)
@given(st.lists(evidences(SOME), min_size=2, max_size=4), st.sampled_from(RULES))
def test_a_violation_is_what_enough_members_call_one_and_the_floor_what_any_finds(members, voting):
    result = decide(CONFIG, together(voting, CONFIG, [(EVERYTHING, one) for one in members]))
    alone = [decide(CONFIG, one) for one in members]
    violating = tally(voting, [None if one.outcome == "undecided" else one.outcome == "violates" for one in alone])

    assert "violates" == result.outcome or not violating
    assert result.floor == any(one.floor for one in alone)
    assert "violates" == result.outcome or not any(one.floor for one in alone)
    if voting == "any":
        assert ("compliant" == result.outcome) <= all(one.outcome != "violates" for one in alone)
    if voting == "all" and result.outcome == "violates" and not result.floor:
        assert not all(one.outcome == "compliant" for one in alone)


@settings(max_examples=200, deadline=None)
@given(st.lists(evidences(("violence", "weapons", "rule:fiction")), min_size=2, max_size=3), st.sampled_from(RULES))
def test_what_is_settled_does_not_change_when_more_is_known(members, voting):
    """Whatever the silent ones would have said: what was compliant stays so, and so does every settled element."""
    before = together(voting, CONFIG, [(EVERYTHING, one) for one in members])
    places = [(i, element) for i, one in enumerate(members) for element in sorted(EVERYTHING - one.examined - one.found)]
    for answers in itertools.product([True, False], repeat=len(places)):
        filled = [
            Evidence(
                found=one.found | {element for (place, element), yes in zip(places, answers, strict=True) if place == i and yes},
                examined=EVERYTHING,
            )
            for i, one in enumerate(members)
        ]
        after = together(voting, CONFIG, [(EVERYTHING, one) for one in filled])
        assert all(truth(before, element) == truth(after, element) for element in before.examined | before.found)


def test_on_an_element_only_those_vote_who_can_settle_it():
    rules = (frozenset({"violence"}), Evidence(examined=frozenset({"violence"})))
    reader = (EVERYTHING, Evidence(found=frozenset({"sexual"}), examined=EVERYTHING))

    for voting in RULES:
        result = together(voting, CONFIG, [rules, reader])
        assert {"sexual"} == result.found
        assert EVERYTHING == result.examined


def test_members_that_name_different_rules_still_agree_on_a_violation():
    one, other = ((EVERYTHING, Evidence(found=frozenset({risk}), examined=EVERYTHING)) for risk in ("violence", "sexual"))
    unnamed = (EVERYTHING, Evidence(violates=True))

    assert together("all", CONFIG, [one, other]).violates
    assert together("all", CONFIG, [one, unnamed]).violates
    assert together("majority", CONFIG, [one, other, (EVERYTHING, Evidence(examined=EVERYTHING))]).violates
    assert not together("any", CONFIG, [one, other]).violates
    assert {"violence", "sexual"} == together("any", CONFIG, [one, other]).found


# --- judges ---


def judge_of(name, found=(), *, examined=EVERYTHING, inline=True, holdback=0, **extra):
    def verdict(case):
        return Verdict(judge=name, evidence=Evidence(found=frozenset(found), examined=frozenset(examined)), reason=f"{name} says", **extra)

    return OwnJudge(verdict, name=name, inline=inline, holdback=holdback)


def awaited(found=(), name="awaited/1"):
    async def verdict(case):
        await asyncio.sleep(0)
        return Verdict(judge=name, evidence=Evidence(found=frozenset(found), examined=EVERYTHING))

    return AwaitedJudge(verdict, name=name)


def raising(name="broken/1"):
    def fail(case):
        raise OSError("no route")

    return OwnJudge(fail, name=name)


CASE = input_case(config=CONFIG)


def ask(judge, case=CASE):
    """The verdict, in every colour that the judge has."""
    answers = [judge.judge(case)] if hasattr(judge, "judge") else []
    answers += [asyncio.run(judge.ajudge(case))] if hasattr(judge, "ajudge") else []
    assert all(answers[0] == answer for answer in answers)
    return answers[0]


@pytest.mark.parametrize("voting", RULES)
@pytest.mark.parametrize("inline", [True, False])
def test_a_combination_is_its_members_together(voting, inline):
    members = [judge_of("a/1", ["violence"], inline=inline), judge_of("b/1", inline=inline), judge_of("c/1", inline=inline)]
    found = ask(COMBINE[voting](*members))

    assert ({"violence"} if voting == "any" else set()) == found.evidence.found
    assert EVERYTHING == found.evidence.examined
    assert f"{voting}(a/1, b/1, c/1)" == found.judge
    assert "b/1: b/1 says" in found.reason


def test_spans_risks_and_tokens_come_along():
    span = ((0, 3), "violence")
    one = judge_of("a/1", ["violence"], spans=(span,), risks={"violence": 0.9}, tokens=3)
    other = judge_of("b/1", risks={"violence": 0.1, "drugs": 0.2}, tokens=4)

    found = ask(any_of(one, other))
    assert ((span,), {"violence": 0.9, "drugs": 0.2}, 7) == (found.spans, found.risks, found.tokens)
    found = ask(all_of(one, other))
    assert ((), {"violence": 0.1, "drugs": 0.2}) == (found.spans, found.risks)
    assert {"violence": 0.1, "drugs": 0.2} == ask(majority(one, other, other)).risks


def test_colours_follow_from_the_members():
    blocking, waiting = judge_of("a/1"), awaited()
    both = any_of(blocking, blocking)
    mixed = any_of(blocking, waiting)

    assert (True, False) == (hasattr(both, "judge"), hasattr(both, "ajudge"))
    assert (False, True) == (hasattr(mixed, "judge"), hasattr(mixed, "ajudge"))
    assert (True, False) == (both.inline, mixed.inline)
    assert "compliant" == asyncio.run(guard(CONFIG, judge=mixed).acheck(HELLO)).outcome
    with pytest.raises(UsageError, match="only be awaited"):
        guard(CONFIG, judge=mixed).check(HELLO)


def test_what_a_combination_needs_follows_from_its_members():
    one, other = judge_of("a/1", holdback=7), judge_of("b/1", holdback=20)
    one.windowed = other.windowed = True
    one.reach, other.timeout = 500, 2
    other.covers = lambda config: frozenset({"violence"})

    for voting in RULES:
        combined = COMBINE[voting](one, other, timeout=5)
        assert (20, 500, EVERYTHING) == (combined.holdback(CONFIG), combined.reach, combined.covers(CONFIG))
        assert 5 + GRACE == combined.timeout
        assert (voting == "any") == combined.windowed
    assert 2 + 5 + GRACE == cascade(one, other, timeout=5).timeout
    assert not cascade(one, other).windowed
    assert any_of(judge_of("a/1"), judge_of("b/1")).reach is None


def test_one_half_in_each_unit_is_why_all_is_not_windowed():
    """`all` finds nothing in two units of which each shows another member something; in the whole it does."""
    one = OwnJudge(lambda case: Verdict(judge="a/1", evidence=Evidence(found=frozenset({"violence"} if "knife" in case.text else ()), examined=EVERYTHING)))
    other = OwnJudge(lambda case: Verdict(judge="b/1", evidence=Evidence(found=frozenset({"violence"} if "blood" in case.text else ()), examined=EVERYTHING)))
    combined = all_of(one, other)
    texts = {text: ask(combined, output_case(text, config=CONFIG)).evidence.found for text in ("a knife.", "some blood.", "a knife. some blood.")}

    assert [set(), set(), {"violence"}] == list(texts.values())


# --- failing ---


@pytest.mark.parametrize("voting", RULES)
def test_a_member_that_fails_is_a_failure_where_its_word_was_needed(voting):
    combined = COMBINE[voting](judge_of("a/1"), raising())

    with pytest.raises(JudgeError, match="'broken/1' raised OSError: no route"):
        ask(combined)
    assert "undecided" == guard(CONFIG, judge=combined).check(HELLO).outcome
    assert guard(CONFIG, judge=combined).reply(HELLO).report.blocked


def test_a_member_that_fails_does_not_hide_a_violation_that_stops_the_text():
    found = ask(any_of(judge_of("a/1", ["violence"]), raising()))

    assert {"violence"} == found.evidence.found
    assert "no route" in found.reason
    assert {"violence"} == ask(majority(judge_of("a/1", ["violence"]), judge_of("b/1", ["violence"]), raising())).evidence.found
    assert set() == ask(all_of(judge_of("a/1"), judge_of("b/1"), majority(judge_of("c/1"), judge_of("d/1")))).evidence.found


def test_where_a_violation_may_be_let_through_a_failure_counts():
    lenient = CONFIG.replace(enforcement={"input": "warn", "output": "warn"})
    combined = any_of(judge_of("a/1", ["violence"]), raising())

    with pytest.raises(JudgeError, match="no route"):
        ask(combined, input_case(config=lenient))
    assert guard(lenient, judge=combined).reply(HELLO).report.blocked


@pytest.mark.parametrize("answer", [None, "safe", Verdict(judge="x", evidence=Evidence(found={"no_such_id"}))])
def test_nonsense_of_a_member_is_a_failure(answer):
    with pytest.raises(JudgeError):
        ask(any_of(judge_of("a/1"), OwnJudge(lambda case: answer)))


@pytest.mark.parametrize("make", [any_of, all_of, majority, cascade])
@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_hung_member_costs_its_own_timeout_and_fails_closed(make, colour):
    with Gate() as gate:
        gate.timeout = 0.05
        undecided = judge_of("a/1", examined=(), inline=False)
        combined = make(undecided, gate, timeout=PATIENCE)
        own = guard(CONFIG, judge=combined, judge_timeout=PATIENCE)
        ruling = own.check(HELLO) if colour == "sync" else asyncio.run(own.acheck(HELLO))

        assert "undecided" == ruling.outcome
        assert "'gate/1' gave no verdict within 0.05 s" in ruling.error
        assert (1, True) == (combined.abandoned, threads_held() >= 1)
        assert not gate.opened.is_set()


def test_a_hung_awaited_member_is_cancelled_at_its_own_timeout():
    ended = []

    async def hang(case):
        try:
            await asyncio.sleep(PATIENCE)
        finally:
            ended.append(case)

    slow = AwaitedJudge(hang)
    slow.timeout = 0.05
    ruling = asyncio.run(guard(CONFIG, judge=any_of(judge_of("a/1"), slow)).acheck(HELLO))

    assert "'awaited/1' gave no verdict within 0.05 s" in ruling.error
    assert 1 == len(ended)


def test_members_are_asked_at_the_same_time():
    together_ = threading.Barrier(3)

    def meet(case):
        together_.wait(PATIENCE)
        return Verdict(judge="meet/1", evidence=Evidence(examined=EVERYTHING))

    combined = any_of(*(OwnJudge(meet, name=f"{i}/1", inline=False) for i in range(3)))
    assert EVERYTHING == combined.judge(CASE).evidence.examined


def test_awaited_members_are_asked_at_the_same_time():
    async def run():
        together_ = asyncio.Barrier(3)

        async def meet(case):
            await together_.wait()
            return Verdict(judge="meet/1", evidence=Evidence(examined=EVERYTHING))

        combined = any_of(*(AwaitedJudge(meet, name=f"{i}/1") for i in range(3)))
        return await asyncio.wait_for(combined.ajudge(CASE), PATIENCE)

    assert EVERYTHING == asyncio.run(run()).evidence.examined


def echo(name):
    """Finds violence in texts with an odd number."""

    def verdict(case):
        found = frozenset({"violence"} if int(case.text) % 2 else ())
        return Verdict(judge=name, evidence=Evidence(found=found, examined=EVERYTHING), reason=case.text)

    return OwnJudge(verdict, name=name, inline=False)


def numbered(i):
    return input_case(str(i), config=CONFIG)


@pytest.mark.parametrize("make", [any_of, all_of, majority, cascade])
def test_sixteen_threads_get_each_their_own_verdict(make):
    combined = make(echo("a/1"), echo("b/1"))
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda i: combined.judge(numbered(i)), range(200)))

    assert [i % 2 == 1 for i in range(200)] == ["violence" in answer.evidence.found for answer in answers]
    assert all(f" {i}" in answer.reason for i, answer in enumerate(answers))


@pytest.mark.parametrize("make", [any_of, all_of, majority, cascade])
def test_sixteen_tasks_get_each_their_own_verdict(make):
    async def verdict(case):
        await asyncio.sleep(0)
        return echo("b/1").judge(case)

    combined = make(echo("a/1"), AwaitedJudge(verdict, name="b/1"))

    async def run():
        return [answer for start in range(0, 96, 16) for answer in await asyncio.gather(*(combined.ajudge(numbered(i)) for i in range(start, start + 16)))]

    assert [i % 2 == 1 for i in range(96)] == ["violence" in answer.evidence.found for answer in asyncio.run(run())]


# --- cascade ---


def counting(judge):
    judge.asked = 0
    inner = judge.function

    def counted(case):
        judge.asked += 1
        return inner(case)

    judge.function = counted
    return judge


@pytest.mark.parametrize(
    ("first", "asked"),
    [
        (judge_of("a/1"), 0),
        (judge_of("a/1", ["violence"]), 0),
        (judge_of("a/1", ["floor.minors"], examined={"floor.minors"}), 0),
        (judge_of("a/1", examined=EVERYTHING - {"sexual"}), 1),
        (judge_of("a/1", examined=()), 1),
        (raising("a/1"), 1),
    ],
)
def test_the_second_is_asked_where_the_first_is_not_sure(first, asked):
    second = counting(judge_of("b/1", ["sexual"]))
    found = ask(cascade(first, second))

    assert asked == second.asked
    assert (("sexual" in found.evidence.found) == bool(asked))
    assert ("is sure" in found.reason) == (not asked)


def test_a_cascade_never_forgives_what_its_first_found_without_a_calibration():
    found = ask(cascade(judge_of("a/1", ["drugs"], examined={"drugs"}), judge_of("b/1")))

    assert {"drugs"} == found.evidence.found
    assert EVERYTHING == found.evidence.examined


def test_where_a_violation_may_be_let_through_both_are_asked():
    lenient = CONFIG.replace(enforcement={"input": "warn"})
    second = counting(judge_of("b/1", ["floor.minors"]))
    found = ask(cascade(judge_of("a/1", ["violence"], examined={"violence"}), second), input_case(config=lenient))

    assert 1 == second.asked
    assert {"violence", "floor.minors"} == found.evidence.found


@pytest.mark.parametrize(
    ("score", "asked", "outcome"),
    [(0.0, 0, "compliant"), (0.2, 0, "compliant"), (0.21, 1, "violates"), (0.79, 1, "violates"), (0.8, 0, "violates"), (1.0, 0, "violates"), (None, 1, "violates")],
)  # fmt: skip
def test_thresholds_of_a_calibration_say_who_decides(score, asked, outcome):
    second = counting(judge_of("b/1", ["sexual"]))
    combined = cascade(judge_of("a/1", score=score), second, calibration=CALIBRATION, point="strict")
    found = ask(combined)

    assert asked == second.asked
    assert outcome == decide(CONFIG, found.evidence).outcome
    assert "operating point 'strict'" in found.reason
    assert "on 50 own rows" in found.reason


def test_between_the_thresholds_the_second_overrules_but_for_the_floor():
    second = judge_of("b/1")
    graded = {risk: ask(cascade(judge_of("a/1", [risk], score=0.5), second, calibration=CALIBRATION)) for risk in ("violence", "floor.minors")}

    assert set() == graded["violence"].evidence.found
    assert {"floor.minors"} == graded["floor.minors"].evidence.found
    assert {"floor.minors"} == ask(cascade(judge_of("a/1", ["floor.minors"], score=0.1), second, calibration=CALIBRATION)).evidence.found


def test_between_the_thresholds_the_first_keeps_what_the_second_cannot_see():
    second = judge_of("b/1", examined={"sexual"})
    second.covers = lambda config: frozenset({"sexual"})
    found = ask(cascade(judge_of("a/1", ["violence"], score=0.5), second, calibration=CALIBRATION))

    assert {"violence"} == found.evidence.found


def test_a_cascade_whose_second_fails_fails():
    with pytest.raises(JudgeError, match="no route"):
        ask(cascade(judge_of("a/1", examined=()), raising()))


def test_a_cascade_whose_first_fails_rests_on_its_second_alone_only_where_that_settles_all():
    partial = judge_of("b/1", examined={"sexual"})
    partial.covers = lambda config: frozenset({"sexual"})

    assert "no route" in ask(cascade(raising(), judge_of("b/1"))).reason
    with pytest.raises(JudgeError, match="no route"):
        ask(cascade(raising(), partial))


def test_settled_means_that_nothing_open_matters():
    case = input_case(config=CONFIG)
    lenient = input_case(config=CONFIG.replace(enforcement={"input": "warn"}))
    violence = Evidence(found=frozenset({"violence"}))

    assert settles(case, frozenset({"drugs"}), Evidence(examined=frozenset({"drugs"})))
    assert settles(case, EVERYTHING, violence)
    assert not settles(lenient, EVERYTHING, violence)
    assert not settles(case, EVERYTHING, Evidence())


# --- by name ---


def test_combinations_are_made_by_name():
    assert "any(rules/1, rules/1)" == judges.make("any:rules,rules").name
    assert "all(rules/1, rules/1)" == judges.make("all:rules, rules").name
    assert "majority(rules/1, rules/1, rules/1)" == judges.make("majority:rules,rules,rules").name
    assert "cascade(rules/1, rules/1)" == judges.make("cascade:rules,rules", timeout=3).name


@pytest.mark.parametrize(
    ("spec", "options", "said_"),
    [("any", {}, "such as any:rules,embedded"), ("any:rules", {}, "at least two"), ("cascade:rules,rules,rules", {}, "two judges"), ("all:rules,rules", {"timeout": 0}, "positive"), ("any:rules,rulez", {}, "did you mean 'rules'")],
)
def test_wrong_combinations_are_refused(spec, options, said_):
    with pytest.raises(UsageError, match=said_):
        judges.make(spec, **options)
