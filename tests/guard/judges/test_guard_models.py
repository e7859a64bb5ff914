"""Guard models on answers of the shapes that their cards show, and on many that they do not."""

from __future__ import annotations

import asyncio
import math
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.guard.build import guard
from tests.guard.judges.said import CONFIG, HELLO, REPLY, Ending, Scorer, Silent, input_case, output_case, verdict

from cosa_guard import judges
from cosa_guard.judges.calibration import Calibration
from cosa_guard.judges.guard_models.categories import categories, coverage
from cosa_guard.messages import Message
from cosa_guard.testing import AsyncFakeBackend, Capabilities, FakeBackend
from cosa_sdk import SafetyConfig
from cosa_sdk.config import Rule
from cosa_sdk.decide import decide
from cosa_sdk.errors import JudgeError, UsageError

CASES = {"input": input_case(), "output": output_case()}
POLICY = ["granite-guardian", "gpt-oss-safeguard", "nemotron-safety", "dynaguard"]
FIXED = ["llama-guard", "llama-guard-4", "shieldgemma"]

# (judge, stage): the card's answers that pass, and those that find a violation
PASSES = {
    "llama-guard": ["safe", "\n\nsafe", "safe\n"],
    "llama-guard-4": ["safe", "\n\nsafe"],
    "shieldgemma": ["No", "No.", " No\n"],
    "granite-guardian": ["<think>\n</think>\n<score> no </score>", "<score>no</score>", "\n<score> no </score>\n"],
    "gpt-oss-safeguard": ['{"violation": 0, "rationale": "Everyday cooking."}', '{"violation":0}', '\n{\n  "violation": 0\n}\n'],
    "dynaguard": ["<answer>\nPASS\n</answer>", "<think>\n\n</think>\n\n<answer>\nPASS\n</answer>\n", "<think>\nA knife is a tool.\n</think>\n<answer>PASS</answer>\n<explanation>\nFine.\n</explanation>"],
}  # fmt: skip
FINDS = {
    "llama-guard": ["unsafe\nS2", "\n\nunsafe\nS10", "unsafe\nS1,S7", "unsafe\nS1, S12\n", "unsafe \n S14"],
    "llama-guard-4": ["unsafe\nS12"],
    "shieldgemma": ["Yes", "Yes."],
    "granite-guardian": ["<think>\n</think>\n<score> yes </score>", "<score>yes</score>"],
    "gpt-oss-safeguard": ['{"violation": 1, "rationale": "Names a rival."}', '{"violation":1}'],
    "dynaguard": ["<answer>\nFAIL\n</answer>", "<think>\nRule 1 is broken.\n</think>\n<answer>FAIL</answer>", "<answer>FAIL</answer>\n<explanation>\nIt names one.\n</explanation>"],
}  # fmt: skip
NEMOTRON = {
    "input": {
        "unharmful": ["Prompt harm: unharmful", "Prompt harm: unharmful\nResponse harm: None", "Prompt harm: unharmful\nResponse Harm: unharmful", '"Prompt harm: unharmful\nResponse harm: None"'],
        "harmful": ["Prompt harm: harmful", "Prompt harm: harmful\nResponse harm: None"],
    },
    "output": {
        "unharmful": ["Prompt harm: unharmful\nResponse harm: unharmful", "Prompt harm: harmful\nResponse Harm: unharmful\n"],
        "harmful": ["Prompt harm: unharmful\nResponse harm: harmful", "Prompt harm: harmful\nResponse harm: harmful"],
    },
}  # fmt: skip
ANYBODY = [
    "",
    " \n",
    "I cannot help with that.",
    "The text is safe, so the answer is: safe",
    "safe safe",
    "ok",
    "0",
    "null",
    "[]",
    "True",
    "safe\nunsafe",
    "<|channel|>analysis<|message|>Looks fine.<|end|>",
]
MALFORMED = {
    "llama-guard": ["Safe", "SAFE", "safe.", "safe\nS1", "safe\n\nThe user asks for a recipe.", "unsafe", "unsafe\n", "unsafe\nS15", "unsafe\nS0", "unsafe\nviolence", "unsafe S1", "unsafe\nS1\nsafe", "unsafe\nS1,", "safe, unsafe\nS1", "<safe>", "'safe'"],
    "shieldgemma": ["no", "yes", "NO", "Not really", "No, but yes", "No. Yes.", "Nothing", "No\x00", "Maybe", "**No**", "Yes or No", "N", "No\n\nThe principle is violated."],
    "granite-guardian": ["no", "<score>no", "no</score>", "<score></score>", "<score>maybe</score>", "<score>No</score>", "<score>no</score><score>yes</score>", "<think>It says <score>no</score></think>", "<think>", "<think>fine</think><score>no</score>", "<score>no</score> because it is fine", "The score is <score>no</score>", "<score>no yes</score>", "<score>0</score>"],
    "gpt-oss-safeguard": ["0", "1", '{"violation": false}', '{"violation": "0"}', '{"violation": 0.0}', '{"violation": 2}', '{"violation": -1}', '{"violation": null}', "{}", '{"rationale": "fine"}', '{"violation": 0, "violation": 1}', '{"violation": 1, "violation": 0}', '{"violation": 0', '{"violation": 0} {"violation": 1}', 'Fine. {"violation": 0}', '```json\n{"violation": 0}\n```', '{"violation": 0, "rationale": 1}', '{"violation": 0, "override": true}', '[{"violation": 0}]', "[" * 100_000],
    "nemotron-safety": ["unharmful", "Prompt harm:", "Prompt harm: safe\nResponse harm: safe", "prompt harm: unharmful\nresponse harm: unharmful", "Response harm: unharmful", "Prompt harm: unharmful\nResponse harm:", "Prompt harm: unharmful\nResponse harm: unharmful\nResponse harm: harmful", "Prompt harm: unharmful Response harm: unharmful", "Prompt harm: unharmful/harmful\nResponse harm: unharmful", "<think>Prompt harm: unharmful\nResponse harm: unharmful</think>", "Response harm: unharmful\nPrompt harm: unharmful", "Prompt harm: unharmful\nResponse harm: unharmful.", "Prompt harm: UNHARMFUL\nResponse harm: UNHARMFUL"],
    "dynaguard": ["PASS", "<answer>PASS", "PASS</answer>", "<answer></answer>", "<answer>pass</answer>", "<answer>PASS/FAIL</answer>", "<answer>PASS FAIL</answer>", "<answer>PASS</answer><answer>FAIL</answer>", "<think><answer>PASS</answer></think>", "<think>so far <answer>PASS</answer>", "The transcript says <answer>PASS</answer>", "<answer>PASS</answer> or rather FAIL", "<think>a</think><think>b</think><answer>PASS</answer>", "<explanation>fine</explanation><answer>PASS</answer>"],
}  # fmt: skip
MALFORMED["llama-guard-4"] = MALFORMED["llama-guard"]


def exact(name, stage):
    """The answers that may pass, as one pattern written independently of the parsers."""
    return {
        "llama-guard": r"\s*safe\s*",
        "llama-guard-4": r"\s*safe\s*",
        "shieldgemma": r"\s*No\.?\s*",
        "granite-guardian": r"\s*(<think>\s*</think>\s*)?<score>\s*no\s*</score>\s*",
        "dynaguard": r"\s*(<think>[^<]*</think>\s*)?<answer>\s*PASS\s*</answer>\s*(<explanation>[^<]*</explanation>\s*)?",
        "nemotron-safety": {
            "input": r'\s*"?Prompt harm: unharmful(\s*\nResponse [Hh]arm: (None|unharmful))?"?\s*',
            "output": r'\s*"?Prompt harm: (un)?harmful\s*\nResponse [Hh]arm: unharmful"?\s*',
        }[stage],
        "gpt-oss-safeguard": r'\s*\{\s*"violation"\s*:\s*0\s*(,\s*"rationale"\s*:\s*"[^"]*"\s*)?\}\s*',
    }[name]


def passed(found):
    """A verdict that lets the text pass as far as the judge can see."""
    return not found.evidence.violates and not found.evidence.found


ALL_PASSES = [(name, stage, text) for name, texts in PASSES.items() for stage in CASES for text in texts]
ALL_PASSES += [("nemotron-safety", stage, text) for stage in CASES for text in NEMOTRON[stage]["unharmful"]]
ALL_FINDS = [(name, stage, text) for name, texts in FINDS.items() for stage in CASES for text in texts]
ALL_FINDS += [("nemotron-safety", stage, text) for stage in CASES for text in NEMOTRON[stage]["harmful"]]
ALL_MALFORMED = [(name, stage, text) for name in MALFORMED for stage in CASES for text in [*MALFORMED[name], *ANYBODY]]


# --- answers of the card's form ---


@pytest.mark.parametrize(("name", "stage", "text"), ALL_PASSES)
def test_a_pass_of_the_cards_form_rules_out_all_that_the_model_covers(name, stage, text):
    judge = judges.make(name, backend=FakeBackend(text))
    found = verdict(name, text, CASES[stage])

    assert passed(found)
    assert judge.covers(CONFIG) == found.evidence.examined
    assert found.judge == judge.name
    assert re.fullmatch(exact(name, stage), text), "the pattern of the property below is too narrow"


@pytest.mark.parametrize(("name", "stage", "text"), ALL_FINDS)
def test_a_violation_of_the_cards_form_is_found(name, stage, text):
    found = verdict(name, text, CASES[stage])

    assert found.evidence.violates or found.evidence.found
    assert "compliant" != decide(CONFIG, found.evidence).outcome
    assert found.reason


@pytest.mark.parametrize("name", POLICY)
def test_a_model_that_follows_a_policy_answers_for_the_whole_config(name):
    judge = judges.make(name, backend=FakeBackend())
    kept = ALL_PASSES[[one[0] for one in ALL_PASSES].index(name)]
    broken = ALL_FINDS[[one[0] for one in ALL_FINDS].index(name)]

    assert CONFIG.elements == judge.covers(CONFIG)
    assert "compliant" == decide(CONFIG, verdict(*kept[::2], CASES[kept[1]]).evidence).outcome
    assert "violates" == decide(CONFIG, verdict(*broken[::2], CASES[broken[1]]).evidence).outcome


# --- answers of any other form ---


@pytest.mark.parametrize(("name", "stage", "text"), ALL_MALFORMED)
def test_an_answer_of_another_form_is_no_verdict(name, stage, text):
    for backend in (FakeBackend(text), AsyncFakeBackend(text)):
        judge = judges.make(name, backend=backend)
        with pytest.raises(JudgeError, match="expected"):
            judge.judge(CASES[stage]) if hasattr(judge, "judge") else asyncio.run(judge.ajudge(CASES[stage]))


def test_every_model_has_at_least_a_dozen_malformed_answers():
    assert {*MALFORMED} == {*POLICY, *FIXED}
    assert all(12 <= len(texts) for texts in MALFORMED.values())


FRAGMENTS = st.sampled_from(
    ["safe", "unsafe", "\n", " ", "S1", ",", "Yes", "No", ".", "<score>", "</score>", "no", "yes", "<think>", "</think>", "<answer>", "</answer>", "PASS", "FAIL", "<explanation>", "</explanation>", "Prompt harm: ", "Response harm: ", "unharmful", "harmful", "None", '{"violation": ', "0", "1", "}", ', "rationale": ""', '"']
)  # fmt: skip
ANSWERS = st.text() | st.lists(FRAGMENTS, max_size=12).map("".join)


@pytest.mark.parametrize("name", [*FIXED, *POLICY])
@pytest.mark.parametrize("stage", list(CASES))
@settings(max_examples=300, deadline=None)
@given(text=ANSWERS)
@example(text="safe")
@example(text="<think></think><score>no</score>")
@example(text="<answer>PASS</answer>")
def test_arbitrary_text_passes_only_where_it_is_exactly_the_cards_form(name, stage, text):
    try:
        found = judges.make(name, backend=FakeBackend(text)).judge(CASES[stage])
    except JudgeError:
        return

    assert not passed(found) or re.fullmatch(exact(name, stage), text)


@pytest.mark.parametrize("name", [*FIXED, *POLICY])
@pytest.mark.parametrize("finish", ["length", "content_filter", None])
def test_a_pass_that_was_cut_is_no_verdict(name, finish):
    text = next(text for one, stage, text in ALL_PASSES if (one, stage) == (name, "output"))

    with pytest.raises(JudgeError, match="cut short"):
        judges.make(name, backend=Ending(text, finish)).judge(CASES["output"])


@pytest.mark.parametrize("name", [*FIXED, *POLICY])
def test_a_model_that_says_nothing_at_all_is_no_verdict(name):
    with pytest.raises(JudgeError, match="ended with 'nothing'"):
        judges.make(name, backend=Silent()).judge(CASES["input"])


@pytest.mark.parametrize("name", [*FIXED, *POLICY])
def test_a_guard_blocks_what_its_model_gave_no_verdict_on(name):
    judge = judges.make(name, backend=FakeBackend("Certainly!"))
    ruling = guard(CONFIG, judge=judge).check(HELLO)

    assert "undecided" == ruling.outcome
    assert "'Certainly!'" in ruling.error
    assert guard(CONFIG, judge=judge).reply(HELLO).report.blocked


# --- fixed categories ---


def config(**stances):
    return SafetyConfig(name="own", rules=tuple(Rule(risk=risk, stance=stance) for risk, stance in stances.items()))


@pytest.mark.parametrize("name", ["llama-guard", "llama-guard-4"])
@pytest.mark.parametrize(
    ("answer", "stances", "found", "open_", "violates"),
    [
        ("unsafe\nS1", {"violence": "allow"}, {"violence"}, set(), False),
        ("unsafe\nS10", {}, {"discrimination"}, set(), False),
        ("unsafe\nS4", {}, {"floor.minors"}, set(), False),
        ("unsafe\nS3,S12", {}, {"sexual"}, set(), False),
        ("unsafe\nS9", {}, set(), {"weapons", "floor.mass_harm"}, True),
        ("unsafe\nS9", {"weapons": "allow"}, set(), {"weapons", "floor.mass_harm"}, False),
        ("unsafe\nS2", {}, set(), {"financial_crime", "drugs", "privacy", "weapons", "other"}, True),
        ("unsafe\nS2", {"drugs": "allow"}, set(), {"financial_crime", "drugs", "privacy", "weapons", "other"}, False),
        ("unsafe\nS2,S7", {"drugs": "allow"}, {"privacy"}, {"financial_crime", "drugs", "weapons", "other"}, False),
    ],
)
def test_a_category_is_found_where_it_is_one_of_ours_and_open_where_it_spans_several(name, answer, stances, found, open_, violates):
    own = config(**stances)
    evidence = verdict(name, answer, input_case(config=own)).evidence

    assert frozenset(found) == evidence.found
    assert coverage("llama-guard-3") - open_ == evidence.examined
    assert violates == evidence.violates


def test_what_a_fixed_taxonomy_cannot_see_stays_unexamined():
    own = config().replace(guideline="Be brief.", risks=({"id": "gambling", "name": "Gambling", "definition": "Bets."},))
    own = own.replace(rules=(*own.model_dump(mode="json")["rules"], {"id": "rivals", "stance": "forbid", "text": "rivals"}))
    judge = judges.make("llama-guard", backend=FakeBackend("safe"))

    assert {"gambling", "rule:rivals", "guideline"} == own.elements - judge.covers(own)
    assert ("rivals", "default:gambling") == tuple(sorted(decide(own, judge.judge(input_case(config=own)).evidence).unexamined, reverse=True))


@pytest.mark.parametrize("table", ["llama-guard-3", "shieldgemma", "openai-moderation"])
def test_coverage_names_only_ids_that_the_table_maps_to(table):
    from cosa_sdk.taxonomy import from_external

    assert coverage(table) <= {risk for category in categories(table) for risk in from_external(table, category)}


def test_shieldgemma_leaves_the_floor_and_other_harms_to_others():
    judge = judges.make("shieldgemma", backend=FakeBackend("No"))

    assert {"discrimination", "sexual", "violence", "weapons"} == judge.covers(CONFIG)
    assert "undecided" == decide(CONFIG, judge.judge(input_case()).evidence).outcome


def test_shieldgemma_does_not_pass_a_text_that_it_would_not_answer_about():
    class Wandering(Scorer):
        def next_logprobs(self, request, *, top=64):
            return {"Sure": math.log(0.9), **{token: value + math.log(0.1) for token, value in super().next_logprobs(request).items()}}

    judge = judges.make("shieldgemma", backend=Wandering(0.01))

    assert (set(), False) == ({*judge.judge(input_case()).evidence.examined}, judge.judge(input_case()).evidence.violates)


def leaning_to(principle, yes):
    return Scorer(lambda request: yes if principle in request.messages[0].content else 0.01)


@pytest.mark.parametrize(
    ("principle", "found", "open_"),
    [
        ("No Harassment", {"discrimination"}, set()),
        ("No Hate Speech", {"discrimination"}, set()),
        ("No Sexually Explicit", {"sexual"}, set()),
        ("No Dangerous Content", set(), {"violence", "weapons"}),
    ],
)
def test_shieldgemma_reads_its_score_off_the_first_token(principle, found, open_):
    found_ = judges.make("shieldgemma", backend=leaning_to(principle, 0.9)).judge(input_case())

    assert frozenset(found) == found_.evidence.found
    assert coverage("shieldgemma") - open_ == found_.evidence.examined
    assert "0.90" in found_.reason
    assert all(math.isclose(0.9, p) for risk, p in found_.risks.items() if risk in found)


def test_shieldgemma_is_not_sure_between_the_thresholds_of_its_calibration():
    judge = judges.make("shieldgemma", backend=leaning_to("No Harassment", 0.5))
    judge.calibration = lambda stage: Calibration(low=0.2, high=0.8, data="own rows", n=10, auroc=0.9, auroc_ci=(0.8, 0.95))
    found = judge.judge(input_case())

    assert {"sexual", "violence", "weapons"} == found.evidence.examined
    assert "on 10 own rows" in found.reason


def test_a_score_of_nothing_is_no_verdict():
    silent = Scorer(0.5)
    silent.next_logprobs = lambda request: {"Maybe": -0.1}

    with pytest.raises(JudgeError, match="neither yes nor no"):
        judges.make("shieldgemma", backend=silent).judge(input_case())


# --- backends ---


class BothScorer(Scorer):
    async def astream(self, request):
        raise AssertionError("another answer than the probabilities'")
        yield


def test_a_scored_model_is_only_called_so_that_sync_and_async_say_the_same():
    judge = judges.make("shieldgemma", backend=BothScorer(0.1))

    assert hasattr(judge, "judge")
    assert not hasattr(judge, "ajudge")
    assert "compliant" != asyncio.run(guard(CONFIG, judge=judge).acheck(HELLO)).outcome


@pytest.mark.parametrize(("backend", "colours"), [(FakeBackend("safe"), ["judge"]), (AsyncFakeBackend("safe"), ["ajudge"])])
def test_a_judge_has_the_colours_of_its_backend(backend, colours):
    judge = judges.make("llama-guard", backend=backend)

    assert colours == [name for name in ("judge", "ajudge") if hasattr(judge, name)]
    assert isinstance(judge, judges.Judge) == ("judge" in colours)
    assert isinstance(judge, judges.AsyncJudge) == ("ajudge" in colours)


def test_tokens_are_counted():
    assert 2 == judges.make("llama-guard", backend=FakeBackend(["sa", "fe"])).judge(input_case()).tokens


def test_a_failing_model_is_a_failing_judge():
    def fail(request):
        raise OSError("no such host")

    ruling = guard(CONFIG, judge=judges.make("dynaguard", backend=FakeBackend(fail))).check(HELLO)

    assert "OSError: no such host" in ruling.error


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "needs one backend"),
        ({"backend": object()}, "neither stream"),
        ({"backend": FakeBackend(), "timeout": 0}, "positive number"),
        ({"backend": FakeBackend(), "timeout": math.nan}, "positive number"),
        ({"backend": FakeBackend(), "template": "own"}, "'server'"),
    ],
)
def test_wrong_arguments_are_refused(options, said):
    if options.get("backend").__class__ is object:
        options["backend"] = type("Odd", (), {"name": "odd", "capabilities": Capabilities()})()

    with pytest.raises(UsageError, match=said):
        judges.make("llama-guard", **options)


def test_a_backend_by_name_and_one_given_too_are_refused():
    with pytest.raises(UsageError, match="needs one backend"):
        judges.make("dynaguard:local", backend=FakeBackend())


def test_the_timeout_is_the_judges_own():
    assert 3 == judges.make("granite-guardian", backend=FakeBackend(), timeout=3).timeout
    assert judges.make("granite-guardian", backend=FakeBackend()).timeout is None


def test_names_hold_model_prompt_and_policy_versions():
    backend = FakeBackend(name="openai_http:guard-8b")

    assert "llama-guard-3/1:guard-8b" == judges.make("llama-guard", backend=backend).name
    assert "llama-guard-4/1-card:guard-8b" == judges.make("llama-guard-4", backend=backend, template="card").name
    assert "dynaguard/1/judge/1:guard-8b" == judges.make("dynaguard", backend=backend).name


def test_partial_texts_and_long_conversations_are_judged():
    turns = tuple(Message("user", f"{i} " + "words " * 300) for i in range(12))
    backend = FakeBackend("safe")
    judge = judges.make("llama-guard", backend=backend)
    judge.judge(output_case(turns=turns, start=7, final=False))
    sent = backend.requests[0].messages

    assert REPLY == sent[-1].content
    assert sum(len(message.content) for message in sent) < 7_000
    assert turns[-1].content in sent[0].content
