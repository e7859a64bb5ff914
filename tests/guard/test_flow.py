"""What the guard does with a text: its acts, and that it fails closed whatever the judges do."""

from __future__ import annotations

import asyncio
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.guard.build import (
    AwaitedJudge,
    Gate,
    OwnJudge,
    answered,
    clean,
    finder,
    guard,
    risks_config,
    terms_config,
    watched,
)

from cosa_guard import Guard
from cosa_guard.audit import AuditError
from cosa_guard.messages import Delta
from cosa_guard.pool import Pool
from cosa_guard.testing import FakeBackend, ScriptedJudge, both, chunked
from cosa_guard.verdicts import Verdict
from cosa_sdk import SafetyConfig
from cosa_sdk.compile import partial_note
from cosa_sdk.decide import Evidence
from cosa_sdk.errors import JudgeError

REFUSAL = "This assistant can't help with that."
RISKS = finder(violence=["fight"], drugs=["pill"])
GOOD, BAD = "All is well here.", "Take the pill now."


def judges(*factories):
    return lambda: [factory() for factory in factories]


def failing(error):
    return lambda: ScriptedJudge(error=error)


# --- acts ---


def test_pass():
    transcript, backends = watched(risks_config(), [GOOD, " And a fight."], judge=RISKS)

    assert f"{GOOD} And a fight." == transcript.text
    assert ("pass", "compliant", "stop", False) == (transcript.report.act, transcript.report.outcome, transcript.finish, transcript.report.blocked)
    assert [1, 1] == [backend.closed for backend in backends]


def test_a_refused_input_never_reaches_the_model():
    transcript, backends = watched(risks_config(), GOOD, "Where is the pill?", judge=RISKS)

    assert REFUSAL == transcript.text
    assert ("refuse", "violates", "content_filter", 0) == (transcript.report.act, transcript.report.outcome, transcript.finish, transcript.report.candidates)
    assert [0, 0] == [len(backend.requests) for backend in backends]


@pytest.mark.parametrize("stream", ["hold", "whole"])
def test_a_refused_output_never_reaches_the_caller(stream):
    transcript, backends = watched(risks_config(stream=stream), BAD, judge=RISKS)

    assert REFUSAL == transcript.text
    assert ("refuse", "content_filter", 0, False) == (transcript.report.act, transcript.finish, transcript.report.released, transcript.report.late)
    assert [1, 1] == [backend.closed for backend in backends]


def test_what_was_released_before_stays_and_the_refusal_follows():
    transcript = answered(risks_config(), [f"{GOOD} It is so. ", "More text here, and ", BAD], judge=RISKS)

    assert transcript.text.startswith(GOOD)
    assert transcript.text.endswith(f"\n\n{REFUSAL}")
    assert "pill" not in transcript.text
    assert ("refuse", False) == (transcript.report.act, transcript.report.late)


def test_an_empty_reply_is_judged_too():
    transcript = answered(risks_config(), [""], judge=RISKS)

    assert ("", "stop", 2) == (transcript.text, transcript.finish, len(transcript.report.rulings))


# --- redact ---

MASKED = terms_config("bomb", rules=[{"risk": "drugs", "stance": "forbid"}], output="redact")


@pytest.mark.parametrize("stream", ["hold", "whole"])
def test_redact(stream):
    config = terms_config("bomb", output="redact", stream=stream)
    transcript = answered(config, chunked("A bomb, a BOMB and more. Yes, a bomb.", [3] * 20))

    assert "A [redacted], a [redacted] and more. Yes, a [redacted]." == transcript.text
    assert ("redact", 3, "stop") == (transcript.report.act, transcript.report.redacted, transcript.finish)


def test_redact_needs_places_for_everything_that_is_broken():
    transcript = answered(MASKED, "A bomb and a pill.", judge=judges(lambda: "rules", RISKS))

    assert REFUSAL == transcript.text


def test_masking_one_term_does_not_vouch_for_what_another_judge_finds():
    config = MASKED
    transcript = answered(config, "A bomb. " + "x " * 40 + "Then the pill.", judge=judges(lambda: "rules", RISKS))

    assert "pill" not in transcript.text
    assert transcript.report.blocked


def test_redact_trusts_no_places_when_another_judge_found_the_same_without():
    meaning = lambda: ScriptedJudge({"rule:words": ["explosive"]})
    transcript = answered(MASKED, "A bomb, an explosive.", judge=judges(lambda: "rules", meaning))

    assert REFUSAL == transcript.text


def test_redact_does_not_help_where_a_judge_failed():
    transcript = answered(MASKED, "A bomb.", judge=judges(lambda: "rules", lambda: OwnJudge(output_fails)))

    assert REFUSAL == transcript.text
    assert "boom" in transcript.report.error


def output_fails(case):
    if case.stage == "output":
        raise JudgeError("boom")
    return clean(case)


@pytest.mark.parametrize(("on_undecided", "text"), [("block", REFUSAL), ("allow", "A [redacted].")])
def test_a_mask_does_not_settle_what_nobody_could_decide(on_undecided, text):
    config = terms_config("bomb", output="redact", input="off", on_undecided=on_undecided)

    assert text == answered(config, "A bomb.").text


def test_a_floor_hit_is_not_masked():
    transcript = answered(MASKED, "A bomb, a minor.", judge=judges(lambda: "rules", finder(floor__minors=["minor"])))

    assert REFUSAL == transcript.text


# --- regenerate ---


def improving(request):
    return GOOD if "earlier draft" in request.messages[0].content else BAD


TEXTED = SafetyConfig(
    name="texted",
    rules=[{"id": "pills", "stance": "forbid", "risk": "drugs", "text": "naming any medicine"}, {"risk": "violence", "stance": "allow"}],
    enforcement={"output": "regenerate", "attempts": 3},
)


def test_the_first_compliant_candidate_wins():
    transcript, backends = watched(TEXTED, improving, judge=lambda: ScriptedJudge({"rule:pills": ["pill"]}))

    assert GOOD == transcript.text
    assert ("regenerate", 2, "stop") == (transcript.report.act, transcript.report.candidates, transcript.finish)
    assert [2, 2] == [len(backend.requests) for backend in backends]
    assert [2, 2] == [backend.closed for backend in backends]


def test_feedback_names_the_rule_and_the_draw_changes():
    _, (backend, _) = watched(TEXTED, improving, judge=lambda: ScriptedJudge({"rule:pills": ["pill"]}))
    first, second = backend.requests

    assert "naming any medicine" in second.messages[0].content.removeprefix(first.messages[0].content)
    assert second.messages[0].content.startswith(first.messages[0].content)
    assert first.sampling.temperature < second.sampling.temperature
    assert first.sampling.seed != second.sampling.seed


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_attempts_are_bounded_and_then_it_refuses(attempts):
    config = risks_config(output="regenerate", attempts=attempts)
    transcript, backends = watched(config, BAD, judge=RISKS)

    assert REFUSAL == transcript.text
    assert ("refuse", attempts) == (transcript.report.act, transcript.report.candidates)
    assert [attempts] * 2 == [len(backend.requests) for backend in backends]


def test_what_is_out_cannot_be_replaced():
    config = risks_config(output="regenerate", attempts=5)
    transcript = answered(config, [f"{GOOD} It is so, and so on. " * 2, BAD], judge=RISKS)

    assert (1, "refuse") == (transcript.report.candidates, transcript.report.act)
    assert 1 == transcript.text.count(REFUSAL)


@pytest.mark.parametrize("judge", [finder(floor__minors=["pill"]), lambda: OwnJudge(output_fails)])
def test_no_second_try_after_a_floor_hit_or_a_failure(judge):
    transcript = answered(risks_config(output="regenerate", attempts=5), BAD, judge=judge)

    assert (1, REFUSAL) == (transcript.report.candidates, transcript.text)


def test_feedback_for_an_undecided_draft_names_no_rule_that_permits():
    config = SafetyConfig(
        name="carved",
        default="allow",
        rules=[{"id": "stories", "stance": "allow", "risk": "violence", "text": "fights in stories"}],
        enforcement={"output": "regenerate", "input": "off"},
    )
    judge = lambda: ScriptedJudge({"violence": ["fight"]}, examines=frozenset({"violence", "rule:stories"}))
    _, (backend, _) = watched(config, "A fight.", judge=judge)

    assert 2 == len(backend.requests)
    assert "fights in stories" not in backend.requests[1].messages[0].content.removeprefix(backend.requests[0].messages[0].content)


# --- partial ---

BOTH_KINDS = "Tell me of the fight and of the pill."


def test_partial_answers_what_is_allowed_and_tells_the_model():
    transcript, (backend, _) = watched(risks_config(), GOOD, BOTH_KINDS, judge=RISKS)

    assert (GOOD, "partial", "stop") == (transcript.text, transcript.report.act, transcript.finish)
    assert partial_note() in backend.requests[0].messages[0].content
    assert "partial" == transcript.report.rulings[0].decision.prompt_type


def test_the_answer_to_a_partial_prompt_is_judged():
    assert REFUSAL == answered(risks_config(), BAD, BOTH_KINDS, judge=RISKS).text


def test_every_candidate_for_a_partial_prompt_is_told():
    _, (backend, _) = watched(risks_config(output="regenerate", attempts=3), BAD, BOTH_KINDS, judge=RISKS)

    assert [True] * 3 == [partial_note() in request.messages[0].content for request in backend.requests]


@pytest.mark.parametrize(
    "second",
    [finder(floor__minors=["tell"]), finder(floor__mass_harm=["tell"]), failing(JudgeError("boom")), failing(ValueError("boom"))],
)
def test_partial_needs_every_judge(second):
    blind = lambda: ScriptedJudge({"violence": ["fight"], "drugs": ["pill"]}, examines=frozenset({"violence", "drugs"}))

    assert REFUSAL == answered(risks_config(), GOOD, BOTH_KINDS, judge=judges(blind, second)).text


def test_partial_is_for_those_who_refuse():
    assert "warn" == answered(risks_config(input="warn"), GOOD, BOTH_KINDS, judge=RISKS).report.act


# --- warn and off ---


@pytest.mark.parametrize("setting", ["warn", "off"])
def test_warn_and_off_let_text_go(setting):
    transcript = answered(risks_config(input=setting, output=setting), BAD, "The pill?", judge=RISKS)

    assert (BAD, "stop", "violates") == (transcript.text, transcript.finish, transcript.report.outcome)
    assert ("warn" if setting == "warn" else "pass") == transcript.report.act


@pytest.mark.parametrize("setting", ["warn", "off"])
@pytest.mark.parametrize("stage", ["input", "output"])
def test_warn_and_off_do_not_let_the_first_judge_silence_the_others(setting, stage):
    config = risks_config(input=setting, output=setting)
    said, asked = (BAD, "Hello.") if stage == "output" else (GOOD, BAD)
    transcript = answered(config, said, asked, judge=judges(RISKS, finder(floor__minors=["pill"])))

    assert REFUSAL == transcript.text


@pytest.mark.parametrize("setting", ["warn", "off"])
@pytest.mark.parametrize("first", [RISKS, finder()])
def test_warn_and_off_do_not_excuse_a_judge_that_failed(setting, first):
    config = risks_config(input=setting, output=setting)

    assert REFUSAL == answered(config, BAD, "The pill?", judge=judges(first, failing(JudgeError("boom")))).text
    assert GOOD == answered(config.replace(enforcement={"input": setting, "output": setting, "on_error": "allow"}), GOOD, "The pill?", judge=judges(first, failing(JudgeError("boom")))).text


# --- the floor ---

SETTINGS = list(
    product(
        ["refuse", "warn", "off"],
        ["refuse", "redact", "regenerate", "warn", "off"],
        ["hold", "whole", "trail"],
        ["block", "allow"],
        ["block", "allow"],
    )
)


@pytest.mark.parametrize("stage", ["input", "output"])
@pytest.mark.parametrize("element", ["floor.minors", "floor.mass_harm"])
def test_the_floor_is_refused_under_every_setting(stage, element):
    def judge():
        # The first judge finds something that the settings may let pass; only the second one sees the floor.
        return [ScriptedJudge({"drugs": ["pill"]}), ScriptedJudge({element: ["minor"]})]

    said, asked = ("The minor takes a pill.", "Hello.") if stage == "output" else (GOOD, "The minor takes a pill.")
    passed = []
    for values in SETTINGS:
        config = risks_config(**dict(zip(["input", "output", "stream", "on_error", "on_undecided"], values, strict=True)))
        transcript = answered(config, said, asked, judge=judge)
        reached = transcript.text.removesuffix(REFUSAL)
        released_first = values[2] == "trail" and stage == "output"
        if not transcript.report.blocked or (reached and not released_first):
            passed.append(values)

    assert [] == passed


@pytest.mark.parametrize("setting", ["warn", "off"])
def test_a_violation_without_a_name_may_be_the_floor(setting):
    unnamed = lambda: OwnJudge(lambda case: Verdict(judge="model/1", evidence=Evidence(violates=case.stage == "output")))

    assert REFUSAL == answered(risks_config(input="off", output=setting), BAD, judge=unnamed).text


# --- undecided ---


def seeing(*examined):
    return lambda: ScriptedJudge(examines=frozenset(examined))


@pytest.mark.parametrize(("on_undecided", "text"), [("block", REFUSAL), ("allow", GOOD)])
@pytest.mark.parametrize("stage", ["input", "output"])
def test_undecided(on_undecided, text, stage):
    settings = {"on_undecided": on_undecided, ("output" if stage == "input" else "input"): "off"}
    transcript = answered(risks_config(**settings), GOOD, judge=seeing("drugs"))

    assert text == transcript.text
    assert "undecided" == transcript.report.outcome


RULED = {"id": "tone", "stance": "forbid", "text": "shouting"}
ALL_BUT_TONE = SafetyConfig(name="all").elements


@pytest.mark.parametrize(
    ("own", "on_undecided", "text"),
    [
        (None, "block", REFUSAL),
        (None, "allow", GOOD),
        ("allow", "block", GOOD),
        ("allow", "allow", GOOD),
        ("block", "allow", REFUSAL),
        ("block", "block", REFUSAL),
    ],
)
def test_a_rule_may_say_for_itself_what_undecided_means(own, on_undecided, text):
    rule = RULED if own is None else {**RULED, "undecided": own}
    config = SafetyConfig(name="tone", rules=[rule], enforcement={"on_undecided": on_undecided})
    transcript = answered(config, GOOD, judge=seeing(*ALL_BUT_TONE))

    assert text == transcript.text
    assert (("tone",) if own == "allow" else ()) == transcript.report.rulings[0].decision.tolerated


# --- judges that fail ---


def returning(value):
    return lambda: OwnJudge(lambda case: value)


def raising(error):
    def judge(case):
        raise error

    return lambda: OwnJudge(judge)


BROKEN = {
    "judge error": raising(JudgeError("boom")),
    "value error": raising(ValueError("boom")),
    "time-out error": raising(TimeoutError("boom")),
    "stop iteration": raising(StopIteration("boom")),
    "key error": raising(KeyError("boom")),
    "recursion": raising(RecursionError("boom")),
    "none": returning(None),
    "a word": returning("compliant"),
    "true": returning(True),
    "a dict": returning({"outcome": "compliant"}),
    "no evidence": returning(Verdict(judge="x", evidence=None)),
    "ids that are numbers": returning(Verdict(judge="x", evidence=Evidence(found=frozenset({5})))),
    "an id that nobody has": returning(Verdict(judge="x", evidence=Evidence(found=frozenset({"drug"})))),
    "a dict as evidence": returning(Verdict(judge="x", evidence={"found": []})),
    "error on a thread": lambda: OwnJudge(raising(ValueError("boom"))().function, inline=False),
    "nonsense on a thread": lambda: OwnJudge(lambda case: "yes", inline=False),
}


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize(("on_error", "text"), [("block", REFUSAL), ("allow", GOOD)])
def test_a_judge_that_fails(broken, on_error, text):
    transcript = answered(risks_config(on_error=on_error), GOOD, judge=BROKEN[broken])

    assert text == transcript.text
    assert transcript.report.error
    assert "undecided" == transcript.report.outcome
    assert "own/1" in transcript.report.error or "boom" == transcript.report.error


@pytest.mark.parametrize("broken", ["judge error", "none"])
def test_a_failure_beside_a_judge_that_clears_the_text(broken):
    transcript = answered(risks_config(), GOOD, judge=judges(finder(), BROKEN[broken]))

    assert (REFUSAL, "undecided") == (transcript.text, transcript.report.outcome)


def test_a_failure_does_not_hide_what_a_later_judge_finds():
    transcript = answered(risks_config(on_error="allow"), BAD, judge=judges(BROKEN["none"], RISKS))

    assert (REFUSAL, "violates") == (transcript.text, transcript.report.outcome)


@pytest.mark.parametrize("awaited", [False, True])
@pytest.mark.parametrize(("on_error", "text"), [("block", REFUSAL), ("allow", "Hello.")])
def test_a_judge_that_hangs_runs_out_of_time(awaited, on_error, text):
    pool = Pool()

    async def hang(case):
        await asyncio.sleep(3600)

    with Gate() as gate:
        one = guard(risks_config(on_error=on_error), judge=AwaitedJudge(hang) if awaited else gate, pool=pool, judge_timeout=0.02)
        replies = [asyncio.run(one.areply("Hi."))] if awaited else [one.reply("Hi."), asyncio.run(one.areply("Hi."))]

    assert [text] * len(replies) == [reply.text for reply in replies]
    assert all("within 0.02 s" in reply.report.error for reply in replies)
    assert (0 if awaited else 2 * (2 if on_error == "allow" else 1)) == pool.abandoned


def test_a_full_pool_fails_closed():
    with Gate() as gate:
        pool = Pool(size=1)
        pool.submit(lambda: gate.judge(None))
        blocking = answered(risks_config(), judge=lambda: OwnJudge(inline=False), pool=pool)
        allowing = answered(risks_config(on_error="allow"), judge=lambda: OwnJudge(inline=False), pool=pool)

    assert (REFUSAL, "Hello.") == (blocking.text, allowing.text)
    assert "all 1 judge threads are busy" in blocking.report.error


# --- what the caller sees ---

LEAKY = SafetyConfig(
    name="leaky-name",
    purpose="secret purpose",
    rules=[{"id": "secret-id", "stance": "forbid", "risk": "drugs", "text": "secret condition", "terms": ["hushword"]}],
    refusal={"message": "No.", "explain": True},
)


def reasoned(case):
    found = frozenset({"rule:secret-id"}) if "pill" in case.text or "hushword" in case.text else frozenset()
    return Verdict(judge="secret-judge", reason="secret reason", evidence=Evidence(found=found, examined=case.config.elements))


@pytest.mark.parametrize("asked", ["Hello.", "The pill?", "hushword"])
@pytest.mark.parametrize("said", ["A pill.", "hushword", "Fine words to begin with, and more. Then a pill."])
@pytest.mark.parametrize("judge", [lambda: OwnJudge(reasoned), judges(lambda: "rules", lambda: OwnJudge(reasoned)), failing(ValueError("secret error"))])
def test_a_block_says_nothing_of_the_policy(asked, said, judge):
    transcript = answered(LEAKY, said, asked, judge=judge)

    assert transcript.report.blocked
    assert said.startswith(transcript.text.removesuffix("No.").removesuffix("\n\n"))
    assert "pill" not in transcript.text
    assert "hush" not in transcript.text
    assert "secret" in repr(transcript.report)


@pytest.mark.parametrize("finish", ["stop", "length", "content_filter"])
def test_the_models_own_ending_is_kept(finish):
    class Ending(FakeBackend):
        def stream(self, request):
            yield Delta("Well, ")
            yield Delta("yes", finish=finish)

    transcript = answered(risks_config(), judge=finder(), backend=Ending)

    assert ("Well, yes", finish) == (transcript.text, transcript.finish)


WRITTEN = st.lists(st.sampled_from(["Good. ", "pill ", "fight ", "Some more words here. ", "minor ", "x" * 50, "", "boom "]), max_size=8)


def moody(case):
    text = " ".join([case.text, *(turn.content for turn in case.turns if case.stage == "input")])
    if "boom" in text:
        raise JudgeError("boom")
    found = {element for element, word in {"drugs": "pill", "violence": "fight", "floor.minors": "minor"}.items() if word in text}
    return Verdict(judge="moody/1", evidence=Evidence(found=frozenset(found), examined=case.config.elements))


@settings(max_examples=80)
@given(WRITTEN, WRITTEN.map("".join), st.sampled_from(SETTINGS))
def test_every_stream_ends_once_and_accounts_for_itself(said, asked, values):
    config = risks_config(**dict(zip(["input", "output", "stream", "on_error", "on_undecided"], values, strict=True)))
    transcript = answered(config, said or [""], asked, judge=lambda: OwnJudge(moody))
    report = transcript.report
    texts = [piece.text for piece in transcript.pieces]

    assert [None] * (len(texts) - 1) == [piece.finish for piece in transcript.pieces[:-1]]
    assert (transcript.finish == "content_filter") == report.blocked == (report.act == "refuse")
    assert texts[-1] == ""
    assert report.released == len(transcript.text) - (len(REFUSAL) + 2 * (report.released > 0) if report.blocked else 0)
    assert report.candidates <= (config.enforcement.attempts if values[1] == "regenerate" else 1)
    assert not (report.late and values[2] == "whole")
    if not report.blocked:
        assert "".join(said) == transcript.text
        assert "minor" not in transcript.text + asked or "boom" in transcript.text + asked


# --- streams ---


def apart(case):
    """A violation that only a text with both words shows."""
    violates = "alpha" in case.text and "omega" in case.text
    return Verdict(judge="apart/1", evidence=Evidence(violates=violates, examined=frozenset() if violates else case.config.elements))


FAR = "alpha stands here. " + "Many more words follow here. " * 60 + "omega ends it."


@pytest.mark.parametrize(("stream", "late"), [("hold", True), ("whole", False)])
def test_what_only_the_whole_text_shows_is_found_late(stream, late):
    transcript = answered(risks_config(stream=stream), chunked(FAR, [40] * 100), judge=lambda: OwnJudge(apart))

    assert (late, True, "content_filter") == (transcript.report.late, transcript.report.blocked, transcript.finish)
    assert (f"{FAR[: transcript.report.released]}\n\n{REFUSAL}" if late else REFUSAL) == transcript.text
    assert transcript.report.released < len(FAR)


def test_the_last_text_waits_for_the_verdict_on_the_whole():
    transcript = answered(risks_config(), chunked(FAR, [40] * 100), judge=lambda: OwnJudge(apart, holdback=30))

    assert "omega" not in transcript.text


def test_judges_that_need_no_second_look_get_none():
    seen = []

    def judge():
        one = OwnJudge(lambda case: seen.append(case) or clean(case))
        one.windowed = True
        return one

    answered(risks_config(), chunked(FAR, [40] * 100), judge=judge)

    assert FAR not in [case.text for case in seen]
    assert FAR.endswith(seen[-1].text)


def test_trail_releases_at_once_and_cuts():
    config = risks_config(stream="trail")
    pieces = ["Take the ", "pill, and then ", "rest a while in bed today. ", *["More and more. "] * 60]
    transcript = answered(config, pieces, judge=RISKS)

    assert [pieces[0], pieces[1]] == [piece.text for piece in transcript.pieces[:2]]
    assert (True, "refuse", "content_filter") == (transcript.report.late, transcript.report.act, transcript.finish)
    assert transcript.text.count("More") < 10
    assert transcript.text.endswith(f"\n\n{REFUSAL}")


def test_trail_masks_nothing_because_it_could_not_in_time():
    config = terms_config("bomb", default="forbid", output="redact", stream="trail")
    transcript = answered(config, ["A bomb. "])

    assert ("refuse", 0) == (transcript.report.act, transcript.report.redacted)


@given(st.integers(1, 30), st.integers(0, 40))
@settings(max_examples=30)
def test_hold_keeps_its_distance_from_what_was_judged(size, lead):
    config = terms_config("x" * 30)
    said = "s" * lead + " A sentence of some words. And another one, a bit longer than that. " * 5
    one = guard(config, chunked(said, [size] * 1000))
    out = 0
    for piece in one.stream("Hi."):
        out += len(piece.text)
        ended = one.backend.pulled * size >= len(said)
        # 30 letters and the one behind them may still turn out to be the term.
        assert ended or one.backend.pulled * size - out >= 31

    assert len(said) == out


@pytest.mark.parametrize("stream", ["hold", "whole", "trail"])
def test_the_prompt_is_the_compiled_config_first(stream):
    config = risks_config(stream=stream)
    _, (backend, _) = watched(config, judge=finder())

    assert ["system", "user"] == [message.role for message in backend.requests[0].messages]
    assert "Follow this safety config" in backend.requests[0].messages[0].content


def test_reports_count():
    transcript = answered(terms_config("bomb", output="redact"), ["A bomb ", "and a ", "bomb. "])
    report = transcript.report

    assert (3, 2, 1, len(transcript.text)) == (report.tokens, report.redacted, report.candidates, report.released)
    assert terms_config("bomb", output="redact").digest == report.config


def test_cheap_judges_first_and_no_more_than_needed():
    second = []
    config = terms_config("bomb")
    answered(config, "Yes, a bomb.", judge=judges(lambda: "rules", lambda: OwnJudge(lambda case: second.append(case) or clean(case))))

    assert ["input", "input"] == [case.stage for case in second]


# --- records ---


def logged(config, said, messages="Hi.", *, fail_at=None, awaited=False, judge=None):
    """Everything in the order it happened: rulings recorded, texts that reached the caller."""
    log = []

    def record(entry):
        assert config.digest == entry.config
        if fail_at is not None and len(log) >= fail_at and sum(kind == "ruling" for kind, _ in log) >= fail_at:
            raise AuditError("disk full")
        log.append(("ruling", entry.ruling.stage))

    one = guard(config, said, judge=judge or RISKS(), record=record)

    async def arun():
        async for piece in one.astream(messages):
            log.append(("text", piece.text))

    error = None
    try:
        if awaited:
            asyncio.run(arun())
        else:
            for piece in one.stream(messages):
                log.append(("text", piece.text))
    except AuditError as failure:
        error = failure
    return log, error, one


STORY = ["This is a sentence of the story. "] * 12
COLOURS = pytest.mark.parametrize("awaited", [False, True])
PLACES = pytest.mark.parametrize("inline", [True, False])


def threaded(inline):
    return OwnJudge(inline=inline)


@COLOURS
@PLACES
@pytest.mark.parametrize("stream", ["hold", "whole"])
def test_rulings_are_on_record_before_their_text_goes_out(awaited, inline, stream):
    log, error, _ = logged(risks_config(stream=stream), STORY, awaited=awaited, judge=threaded(inline))
    rulings = 0

    assert error is None
    assert ("ruling", "input") == log[0]
    texts = 0
    for kind, what in log[1:]:
        rulings += kind == "ruling"
        texts += kind == "text" and bool(what)
        assert rulings >= texts
    assert texts >= (3 if stream == "hold" else 1)


@COLOURS
@pytest.mark.parametrize(("said", "asked"), [("Hi.", "The pill?"), ("A pill.", "Hi.")])
def test_refusals_are_on_record_first(awaited, said, asked):
    log, _, _ = logged(risks_config(), said, asked, awaited=awaited)

    assert [*log[:-2], ("text", REFUSAL), ("text", "")] == log
    assert {"ruling"} == {kind for kind, _ in log[:-2]}


@COLOURS
def test_a_refusal_of_media_is_on_record(awaited):
    message = {"role": "user", "content": [{"type": "text", "text": "Look."}, {"type": "image_url", "image_url": {}}]}
    log, _, _ = logged(risks_config(), "Hi.", [message], awaited=awaited)

    assert [("ruling", "input"), ("text", REFUSAL), ("text", "")] == log


@COLOURS
@PLACES
@pytest.mark.parametrize("fail_at", [0, 1, 2, 4])
def test_nothing_goes_out_that_is_not_on_record(awaited, inline, fail_at):
    log, error, one = logged(risks_config(), STORY, fail_at=fail_at, awaited=awaited, judge=threaded(inline))
    rulings = [what for kind, what in log if kind == "ruling"]
    texts = [what for kind, what in log if kind == "text" and what]

    assert isinstance(error, AuditError)
    assert fail_at == len(rulings)
    assert len(texts) <= max(0, len(rulings) - 1)
    assert len(one.backend.requests) == one.backend.closed


def test_every_ruling_of_the_report_was_recorded():
    recorded = []

    def recorder():
        recorded.append([])
        return lambda entry: recorded[-1].append(entry.ruling)

    transcript = answered(risks_config(), chunked(FAR, [40] * 100), judge=lambda: OwnJudge(apart), record=recorder)

    assert [transcript.report.rulings] * 2 == recorded


# --- whole replies ---


def test_a_reply_is_judged_whole_whatever_the_stream_setting():
    config = risks_config(stream="trail")
    one = Guard(config, judge=RISKS(), backend=FakeBackend(["Words. " * 20, BAD]))

    assert REFUSAL == one.reply("Hi.").text
    assert REFUSAL == asyncio.run(one.areply("Hi.")).text


def test_a_judge_that_only_says_that_it_is_bad():
    config = risks_config(output="regenerate")
    transcript = answered(config, "alpha and omega", judge=lambda: OwnJudge(apart))

    assert (REFUSAL, 2, ("config",)) == (transcript.text, transcript.report.candidates, transcript.report.last("output").decision.rules)


def test_both_compares_what_it_ran():
    made = []

    def make():
        made.append(1)
        return guard(risks_config(), f"Hello {len(made)}.", judge=finder()())

    with pytest.raises(AssertionError, match="differ"):
        both(make, "Hi.")
