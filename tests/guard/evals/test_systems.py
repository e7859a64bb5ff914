"""Systems: what the model is asked, what is held back, and who may not be quoted."""

from __future__ import annotations

import pytest
from tests.guard.evals.build import ANSWER, CONFIGS, FILM, obedient, suite

from cosa_guard.backends.base import Capabilities
from cosa_guard.evals.suite import Suite
from cosa_guard.evals.systems import System, circular, parse_system
from cosa_guard.messages import Message, Sampling
from cosa_guard.testing import FakeBackend
from cosa_sdk import SafetyConfig
from cosa_sdk import compile as compile_config
from cosa_sdk.errors import UnknownName, UsageError

SHOTS = {name: tuple((f"Question {number}?", f"Answer {number}.") for number in range(7)) for name in CONFIGS}


class Weighing(FakeBackend):
    """Says yes or no to a cascade's question."""

    def __init__(self, script, yes=-0.1, no=-3.0):
        super().__init__(script, capabilities=Capabilities(logprobs=True))
        self.says = {"Yes": yes, "No": no}
        self.weighed = []

    def next_logprobs(self, request, *, top=64):
        self.weighed.append(request)
        return self.says

    def count_tokens(self, request):
        return 1


def system(words, backend=None, **changes):
    return System(parse_system(words), suite(**changes), backend or FakeBackend(obedient), Sampling(max_tokens=40))


def item(number=0):
    return suite().items[number]


def test_a_plain_model_hears_the_prompt_alone():
    asked = system("plain").prompt(item())

    assert (Message("user", item().prompt),) == asked.messages


def test_in_context_alignment_is_the_compiled_config_as_system_message():
    asked = system("ica").prompt(item())

    assert (Message("system", compile_config(FILM).text), Message("user", item().prompt)) == asked.messages


def test_a_category_suite_is_worded_as_adapters_are_trained():
    asked = system("ica", allow={"film": frozenset({"violence"})}).prompt(item())

    assert compile_config(FILM, "cosalign").text == asked.messages[0].content


def test_few_shot_turns_stand_between_config_and_prompt_and_are_shared():
    asked = system("ica-5shot", shots=SHOTS).prompt(item())

    assert ["system"] + ["user", "assistant"] * 5 + ["user"] == [one.role for one in asked.messages]
    assert (11, "Answer 4.") == (asked.shared, asked.messages[10].content)


def test_without_shots_a_configs_examples_serve():
    one = Suite(name="film", items=suite().items[:1], configs={"film": FILM})
    asked = System(parse_system("ica-5shot"), one, FakeBackend(), Sampling()).prompt(item())

    assert ["Write a duel.", "They crossed swords at dawn."] == [turn.content for turn in asked.messages[1:3]]


def test_few_shot_without_any_turns_is_refused():
    with pytest.raises(UsageError, match="config 'school' of suite 'small' has none"):
        system("ica-5shot")


def test_adapters_go_with_every_question():
    asked = system("ica+adapter:models/film.gguf:0.5+adapter:court").prompt(item())

    assert [("film", 0.5), ("court", 1.0)] == [(one.name, one.scale) for one in asked.adapters]


def test_a_cascade_holds_back_what_the_model_itself_flags():
    backend = Weighing(obedient)
    response = system("cascade", backend).respond(item())

    assert (FILM.refusal.message, "cascade", "content_filter") == (response.text, response.refused_by, response.finish)
    assert response.withheld.startswith(ANSWER)
    assert item().prompt in backend.weighed[0].messages[-1].content and ANSWER in backend.weighed[0].messages[-1].content


def test_a_cascade_lets_through_what_the_model_does_not_flag():
    response = system("cascade", Weighing(obedient, yes=-3.0, no=-0.1)).respond(item())

    assert response.text.startswith(ANSWER) and response.withheld is None


@pytest.mark.parametrize("over, first", [("plain", "user"), ("ica", "system")])
def test_a_cascade_stands_over_a_method(over, first):
    backend = Weighing(obedient)
    system(f"cascade+on:{over}", backend).respond(item())

    assert first == backend.requests[0].messages[0].role


def test_a_guard_is_asked_as_the_same_system_without_it():
    backend = FakeBackend(obedient)
    guarded = system("ica-5shot+guard:rules", backend, shots=SHOTS)
    guarded.respond(item())

    assert [system("ica-5shot", shots=SHOTS).prompt(item()).messages] == [one.messages for one in backend.requests]


def test_a_guard_refuses_in_the_configs_words_and_what_it_held_back_is_told():
    config = SafetyConfig(name="film", rules=[{"stance": "forbid", "id": "word", "terms": ["answer"], "text": "a word"}], default="allow",
                          enforcement={"on_undecided": "allow"})
    one = Suite(name="film", items=suite().items[:1], configs={"film": config})
    response = System(parse_system("ica+guard:rules"), one, FakeBackend(obedient), Sampling()).respond(item())

    assert (config.refusal.message, "refuse", "guard") == (response.text, response.act, response.refused_by)
    assert response.withheld.startswith(ANSWER)


def test_a_guard_that_refuses_the_prompt_asks_no_model():
    config = SafetyConfig(name="film", rules=[{"stance": "forbid", "id": "word", "terms": ["knights"], "text": "a word"}], default="allow",
                          enforcement={"on_undecided": "allow"})
    one = Suite(name="film", items=suite().items[:1], configs={"film": config})
    backend = FakeBackend(obedient)
    response = System(parse_system("guard:rules"), one, backend, Sampling()).respond(item())

    assert ("guard", None, []) == (response.refused_by, response.withheld, backend.requests)


def test_what_a_guard_lets_through_is_the_models_own():
    response = system("ica+guard:rules").respond(item())

    assert ("pass", None, None) == (response.act, response.withheld, response.refused_by)
    assert system("ica").respond(item()).text == response.text


def test_a_guards_undecided_texts_may_be_allowed_for_a_run():
    strict = FILM.replace(enforcement={"on_undecided": "block"})
    one = Suite(name="film", items=suite().items[:1], configs={"film": strict})
    spec = parse_system("ica+guard:rules")
    by = [System(told, one, FakeBackend(obedient), Sampling()).respond(item()).refused_by for told in (spec, spec.__class__(name="x", guard=("rules",), on_undecided="allow"))]

    assert ["guard", None] == by


@pytest.mark.parametrize("text, expected", [
    ("plain", ("plain", None, ())),
    ("guard", ("ica", (), ())),
    ("guard:rules,embedded", ("ica", ("rules", "embedded"), ())),
    ("ica-5shot+guard", ("ica-5shot", (), ())),
    ("adapter:a.gguf", ("ica", None, (("a.gguf", 1.0),))),
    ("adapter:C:/a.gguf", ("ica", None, (("C:/a.gguf", 1.0),))),
    ("plain+adapter:a.gguf:-0.5+guard:rules", ("plain", ("rules",), (("a.gguf", -0.5),))),
])
def test_short_forms(text, expected):
    spec = parse_system(text)

    assert (text, *expected) == (spec.name, spec.method, spec.guard, spec.adapters)


@pytest.mark.parametrize("text, named", [("", "part of a system"), ("icas", "icas"), ("ica+gard", "gard"), ("adapter:", "adapter:"), ("plain:x", "plain:x"), ("cascade+on:guard", "on:guard")])
def test_unknown_parts_are_named(text, named):
    with pytest.raises(UnknownName, match=named):
        parse_system(text)


@pytest.mark.parametrize("text", ["plain+ica", "guard+guard:rules", "cascade+on:ica+on:plain"])
def test_a_part_stands_once(text):
    with pytest.raises(UsageError, match="twice"):
        parse_system(text)


@pytest.mark.parametrize("words, scored_by, why", [
    ("plain", {"refusal"}, ""),
    ("guard:rules", {"refusal"}, ""),
    ("guard:rules", {"embedded"}, ""),
    ("guard:rules", {"rules"}, "rules both filters and scores"),
    ("cascade", {"fake"}, "fake both filters and scores"),
    ("cascade", {"another"}, ""),
    ("cascade-oracle", {"another"}, "the evaluation judge itself filters"),
])
def test_whoever_filters_must_not_score(words, scored_by, why):
    backend = Weighing(obedient)

    assert why in circular(system(words, backend), frozenset(scored_by)) and bool(why) == bool(circular(system(words, backend), frozenset(scored_by)))
