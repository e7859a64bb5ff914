"""`Guard`: what it takes, what it refuses to be built from, and its verbs."""

from __future__ import annotations

import asyncio
import threading

import pytest
from tests.guard.build import AwaitedJudge, OwnJudge, clean, finder, guard, risks_config, terms_config

import cosa_guard
from cosa_guard import Adapter, Blocked, Guard, Sampling
from cosa_guard.judges.rules import Rules
from cosa_guard.messages import Message
from cosa_guard.testing import AsyncFakeBackend, FakeBackend, ScriptedJudge, both
from cosa_guard.verdicts import Verdict
from cosa_sdk import SafetyConfig
from cosa_sdk.decide import Evidence
from cosa_sdk.errors import UnknownName, UsageError

CONFIG = risks_config()
REFUSAL = "This assistant can't help with that."


# --- is everything covered? ---

RULES = [
    {"id": "tone", "stance": "forbid", "text": "shouting"},
    {"id": "rivals", "stance": "forbid", "terms": ["Acme"]},
    {"id": "soft", "stance": "forbid", "text": "sarcasm", "undecided": "allow"},
    {"risk": "drugs", "stance": "forbid"},
]


def test_rules_that_no_judge_covers_are_named_and_who_would_cover_them():
    config = SafetyConfig(name="shop", default="allow", rules=RULES)
    with pytest.raises(UsageError) as caught:
        Guard(config, judge="rules")
    said = str(caught.value)

    assert all(name in said for name in ("'shop'", "tone", "drugs", "floor.minors", "floor.mass_harm", "default:other"))
    assert all(name not in said for name in ("rivals", "soft"))
    assert all(part in said for part in ("rules/1", "make('model'", "accept_unexamined=True", "on_undecided: block"))


def test_accepting_it_openly_builds_the_guard_and_says_so():
    one = Guard(SafetyConfig(name="shop", default="allow", rules=RULES), judge="rules", accept_unexamined=True)

    assert {"tone", "drugs", "floor.minors", "floor.mass_harm", "default:other"} == set(one.unexamined)


def test_judges_cover_together_what_none_covers_alone():
    config = SafetyConfig(name="shop", default="allow", rules=RULES)
    rest = ScriptedJudge(examines=config.elements - {"rule:rivals", "rule:soft"})

    assert () == Guard(config, judge=["rules", rest]).unexamined
    with pytest.raises(UsageError, match="examine: rivals"):
        Guard(config, judge=rest)


def test_a_guideline_needs_a_judge_that_reads_it():
    with pytest.raises(UsageError, match="guideline"):
        Guard(SafetyConfig.from_text("Be kind."))


def test_accepted_or_not_an_unexamined_text_is_undecided():
    one = Guard(risks_config(), judge="rules", accept_unexamined=True, backend=FakeBackend())

    assert "undecided" == one.check("Hi.").outcome
    assert REFUSAL == one.reply("Hi.").text


# --- wrong arguments ---


@pytest.mark.parametrize("config", [None, "film-studio", {"name": "x"}, SafetyConfig])
def test_what_is_no_config(config):
    with pytest.raises(UsageError, match="is no SafetyConfig: use cosa_sdk.load"):
        Guard(config)


@pytest.mark.parametrize("judge", [5, object(), b"rules", [5], ["rules", object()]])
def test_what_is_no_judge(judge):
    with pytest.raises(UsageError, match=r"(?s)is no judge.*rules"):
        Guard(CONFIG, judge=judge, accept_unexamined=True)


def test_no_judges_at_all():
    with pytest.raises(UsageError, match="at least one judge"):
        Guard(CONFIG, judge=[], accept_unexamined=True)


def test_unknown_names_say_what_was_meant():
    with pytest.raises(UnknownName, match="did you mean 'rules'"):
        Guard(CONFIG, judge="rule")
    with pytest.raises(UnknownName, match="did you mean 'local'"):
        Guard(CONFIG, judge=finder()(), backend="locale")


@pytest.mark.parametrize("backend", [5, object(), FakeBackend, FakeBackend.stream, ["local"]])
def test_what_is_no_backend(backend):
    with pytest.raises(UsageError, match="is no backend: give a name"):
        Guard(CONFIG, judge=finder()(), backend=backend)


@pytest.mark.parametrize("text", [None, 5, b"bytes", ["Hi."], {"role": "user", "content": "Hi."}])
def test_check_takes_text(text):
    one = guard(CONFIG)

    with pytest.raises(UsageError, match="check takes text"):
        one.check(text)
    with pytest.raises(UsageError, match="check takes text"):
        asyncio.run(one.acheck(text))


# --- judges of every form ---


def named_function(case):
    return clean(case, "fn")


async def awaited(case):
    return clean(case, "aw")


@pytest.mark.parametrize(
    ("judge", "names"),
    [
        ("rules", ["rules/1"]),
        (Rules(), ["rules/1"]),
        (["rules"], ["rules/1"]),
        (("rules", ScriptedJudge()), ["rules/1", "scripted/1"]),
        (named_function, ["named_function"]),
        (lambda case: clean(case), ["<lambda>"]),
        ([OwnJudge(), named_function], ["own/1", "named_function"]),
        (AwaitedJudge(awaited), ["awaited/1"]),
    ],
)
def test_judges_of_every_form(judge, names):
    one = Guard(CONFIG, judge=judge, accept_unexamined=True)

    assert names == [given.name for given in one.judges]


def test_a_function_is_a_judge_of_everything_and_runs_off_the_callers_thread():
    threads = []

    def look(case):
        threads.append(threading.current_thread())
        found = frozenset({"drugs"} if "pill" in case.text else ())
        return Verdict(judge="look", evidence=Evidence(found=found, examined=case.config.elements))

    transcript = both(lambda: Guard(CONFIG, judge=look, backend=FakeBackend("A pill.")), "Hi.")

    assert REFUSAL == transcript.text
    assert threading.current_thread() not in threads


def test_a_callable_object_is_a_judge():
    class Look:
        def __call__(self, case):
            return clean(case, "look")

    assert "Look" == Guard(CONFIG, judge=Look()).judges[0].name


def test_the_widest_judge_sets_the_holdback():
    config = terms_config("x" * 20)
    one = guard(config, judge=["rules", OwnJudge(holdback=70), OwnJudge(holdback=5)])

    assert 70 == one.policy.holdback
    assert 21 == guard(config).policy.holdback


# --- verbs ---


@pytest.mark.parametrize(("text", "outcome"), [("A pill.", "violates"), ("A fight.", "compliant")])
@pytest.mark.parametrize("stage", ["input", "output"])
def test_check(text, outcome, stage):
    one = Guard(CONFIG, judge=finder(drugs=["pill"], violence=["fight"])())
    ruling = one.check(text, stage=stage)

    assert ruling == asyncio.run(one.acheck(text, stage=stage))
    assert (stage, outcome, "scripted/1") == (ruling.stage, ruling.outcome, ruling.decided_by)
    assert (("drugs",) if outcome == "violates" else ("violence",)) == ruling.decision.rules


def test_check_of_a_reply_shows_judges_its_prompt():
    judge = ScriptedJudge()
    Guard(CONFIG, judge=judge).check("Yes.", stage="output", prompt="Is it so?")

    assert (Message("user", "Is it so?"),) == judge.cases[0].turns


def test_check_neither_masks_nor_shortens():
    one = guard(terms_config("bomb", output="redact"), widest=10)
    ruling = one.check("x" * 100 + " bomb", stage="output")

    assert "violates" == ruling.outcome
    assert (((101, 105), "rule:words"),) == ruling.verdicts[0].spans


def replies(one, messages, **options):
    return [one.reply(messages, **options), asyncio.run(one.areply(messages, **options))]


def test_reply():
    one = Guard(CONFIG, judge=finder()(), backend=FakeBackend(["Hel", "lo."]))

    for reply in replies(one, "Hi."):
        assert ("Hello.", "stop", "pass", 2, None) == (reply.text, reply.finish, reply.report.act, reply.usage.completion_tokens, reply.usage.prompt_tokens)


@pytest.mark.parametrize(("said", "asked"), [("A pill.", "Hi."), ("Hi.", "A pill?")])
def test_raise_on_block(said, asked):
    one = Guard(CONFIG, judge=finder(drugs=["pill"])(), backend=FakeBackend(said))

    with pytest.raises(Blocked) as caught:
        one.reply(asked, raise_on_block=True)
    with pytest.raises(Blocked) as acaught:
        asyncio.run(one.areply(asked, raise_on_block=True))
    assert "refuse" == caught.value.report.act == acaught.value.report.act
    assert "drugs" in caught.value.report.rulings[-1].decision.rules
    assert "drugs" not in str(caught.value)


def test_raise_on_block_is_for_blocks_only():
    one = Guard(CONFIG, judge=finder(drugs=["pill"])(), backend=FakeBackend("Fine."))

    assert ["Fine.", "Fine."] == [reply.text for reply in replies(one, "Hi.", raise_on_block=True)]
    assert [REFUSAL, REFUSAL] == [reply.text for reply in replies(one, "A pill?")]


def test_the_report_is_there_when_the_stream_has_ended():
    one = Guard(CONFIG, judge=finder()(), backend=FakeBackend("Hello."))
    stream = one.stream("Hi.")

    with pytest.raises(UsageError, match="when the stream has ended"):
        stream.report  # noqa: B018  # a property
    assert ["Hello.", ""] == [piece.text for piece in stream]
    assert "pass" == stream.report.act
    assert [] == list(stream)


def test_the_report_is_there_when_an_awaited_stream_has_ended():
    async def run():
        stream = Guard(CONFIG, judge=finder()(), backend=AsyncFakeBackend("Hello.")).astream("Hi.")
        with pytest.raises(UsageError, match="when the stream has ended"):
            stream.report  # noqa: B018  # a property
        return [piece.text async for piece in stream], stream.report.act

    assert (["Hello.", ""], "pass") == asyncio.run(run())


def test_nothing_runs_before_a_stream_is_read():
    one = Guard(CONFIG, judge=(judge := ScriptedJudge()), backend=FakeBackend())
    one.stream("Hi.")

    assert ([], []) == (one.backend.requests, judge.cases)


def test_sampling_and_adapters_reach_the_backend():
    adapters, sampling = (Adapter(name="co"), Adapter(name="sa", scale=0.5)), Sampling(temperature=0.3, max_tokens=9, seed=5)
    one = Guard(CONFIG, judge=finder()(), backend=FakeBackend(), adapters=list(adapters))
    replies(one, "Hi.", sampling=sampling)
    one.reply("Hi.")

    assert [adapters] * 3 == [request.adapters for request in one.backend.requests]
    assert [sampling, sampling, Sampling()] == [request.sampling for request in one.backend.requests]


def test_one_guard_serves_many_threads():
    one = guard(terms_config("bomb"), ["This is a sentence. ", "This is one too. "] * 5)
    start, out = threading.Barrier(8), []

    def work(number):
        start.wait(20)
        out.extend((number % 2, one.reply("A bomb?" if number % 2 else f"Hi {number}, {turn}.").report.act) for turn in range(10))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert {(0, "pass"), (1, "refuse")} == set(out)
    assert 80 == len(out)


def test_many_streams_at_once():
    async def run():
        one = guard(terms_config("bomb", output="redact"), ["This is ", "a bomb. "] * 5)
        return {reply.text for reply in await asyncio.gather(*(one.areply(f"Hi {number}.") for number in range(20)))}

    assert {"This is a [redacted]. " * 5} == asyncio.run(run())


def test_public_names_are_there_and_sorted():
    assert sorted(cosa_guard.__all__) == cosa_guard.__all__
    assert all(hasattr(cosa_guard, name) for name in cosa_guard.__all__)
