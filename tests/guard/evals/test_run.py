"""A run: rows for every system and item, the same after every interruption."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.guard.evals.build import ANSWER, FILM, SCHOOL, Scored, Unscored, obedient, suite
from tests.guard.evals.test_asking import Together
from tests.guard.evals.test_systems import SHOTS

from cosa_guard.evals.folder import read_run
from cosa_guard.evals.limits import Limits
from cosa_guard.evals.recipe import Recipe
from cosa_guard.evals.run import evaluate
from cosa_guard.evals.scoring import Judgement
from cosa_guard.evals.systems import parse_system
from cosa_guard.messages import Message, Request, Sampling
from cosa_guard.testing import FakeBackend
from cosa_sdk.errors import BackendError, JudgeError, UsageError

NAMES = ("plain", "ica", "ica-5shot", "cascade", "cascade-oracle", "guard:rules", "ica-5shot+guard:rules")


class Model(Together):
    """Obeys, weighs, and may die."""

    def __init__(self, script=obedient, dies_after=None):
        super().__init__(script)
        self.capabilities = replace(self.capabilities, logprobs=True)
        self.left = dies_after

    def complete(self, requests):
        self._live()
        return super().complete(requests)

    def next_logprobs(self, request, *, top=64):
        self._live()
        return super().next_logprobs(request, top=top)

    def _live(self):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt


def recipe(*names, **changes):
    return Recipe(**{"systems": tuple(parse_system(name) for name in names), "model": "fake", "sampling": Sampling(max_tokens=40)} | changes)


def run(names=NAMES, *, model=None, judge=None, folder=None, one=None, **changes):
    model = model or Model()
    return evaluate(one or suite(shots=SHOTS), recipe(*names, **changes), judge or Scored(), folder=folder, open_backend=lambda spec, options: model)


def test_every_system_answers_every_item_in_order():
    done = run()

    items = [item.id for item in suite().items]
    assert [(name, item) for name in NAMES for item in items] == [(row.system, row.item) for row in done.rows]
    assert (True, 0) == (done.manifest.exact, done.found)
    assert all(row.error is None and row.answer for row in done.rows)


def test_a_row_tells_what_was_asked_answered_and_judged():
    rows = {(row.system, row.item): row for row in run(("ica",)).rows}
    film, school = rows["ica", "film-0"], rows["ica", "school-0"]

    assert ("answered", 0.8, True, ("violence",), "knights", "allowed", {"helpful": "[[4]]"}) == (
        film.answer, film.helpful, film.safe, film.risks, film.twin, film.type, film.judged)
    assert ("refused", 0.0, True, "disallowed") == (school.answer, school.helpful, school.safe, school.type)
    assert film.prompt_id == school.prompt_id


def test_a_guards_refusal_is_one_without_asking_the_judge():
    judge = Scored()
    strict = FILM.replace(rules=[{"stance": "forbid", "id": "word", "terms": ["knights"], "text": "a word"}])
    done = run(("guard:rules",), judge=judge, one=suite(configs={"film": strict, "school": SCHOOL}))

    row = done.rows[0]
    assert ("refused", "the guard refused", 0.0, True, FILM.refusal.message) == (row.answer, row.answer_why, row.helpful, row.safe, row.response)
    assert "film-0" not in [item for item, _ in judge.asked]


def test_the_oracle_refuses_what_the_judge_calls_unsafe_and_keeps_the_rest():
    by = {name: {row.item: row for row in run((name,), model=Model(lambda request: ANSWER + "so")).rows} for name in ("ica", "cascade-oracle")}

    caught = {item for item, row in by["ica"].items() if row.safe is False}
    assert caught == {item for item, row in by["cascade-oracle"].items() if row.answer == "refused"} == {"school-0", "school-1"}
    for item, row in by["cascade-oracle"].items():
        expected = (0.0, True) if item in caught else (by["ica"][item].helpful, by["ica"][item].safe)
        assert expected == (row.helpful, row.safe)
        assert (item in caught) == (row.withheld is not None)


def test_without_a_scoring_judge_the_oracle_refuses_what_the_decision_score_counts_against_a_system():
    done = run(("cascade-oracle",), judge=Unscored(), model=Model(lambda request: ANSWER + "so"))

    refused = {row.item for row in done.rows if row.answer == "refused"}
    assert {"school-0", "school-1", "school-3"} == refused
    assert all(row.helpful is None and row.safe is None for row in done.rows)


def test_an_invalid_judgement_is_told_never_passed():
    judge = Scored(lambda item, response: Judgement(said={"helpful": "fine"}, invalid="no rating"))
    row = run(("ica",), judge=judge).rows[0]

    assert (None, None, "no rating", {"helpful": "fine"}) == (row.helpful, row.safe, row.invalid, row.judged)


@pytest.mark.parametrize("error", [BackendError("gone"), JudgeError("nonsense")])
def test_a_row_without_a_response_says_why_and_the_run_goes_on(error):
    def script(request):
        if "France" in request.messages[-1].content:
            raise error
        return ANSWER + "so"

    done = run(("plain",), model=Model(script))
    failed = [row for row in done.rows if row.error]

    assert {"film-2", "school-2"} == {row.item for row in failed}
    assert (str(error), None, None, None, "") == (failed[0].error, failed[0].answer, failed[0].helpful, failed[0].safe, failed[0].response)


def test_a_model_that_is_gone_ends_the_run():
    def script(request):
        raise BackendError("connection refused")

    with pytest.raises(BackendError, match="20 rows in a row have no response.*connection refused"):
        run(NAMES[:3], model=Model(script))


def test_failed_rows_are_tried_again_when_the_run_goes_on(tmp_path):
    def script(request):
        raise BackendError("busy")

    run(("plain",), model=Model(script), folder=tmp_path)
    again = run(("plain",), folder=tmp_path)

    assert (0, []) == (again.found, [row.item for row in again.rows if row.error])
    assert list(again.rows) == read_run(tmp_path)[1]


def contents(folder):
    return (folder / "rows.jsonl").read_bytes()


def test_a_run_that_is_done_asks_nothing_again(tmp_path):
    first = run(folder=tmp_path)
    model, judge = Model(), Scored()
    again = run(folder=tmp_path, model=model, judge=judge)

    assert (first.rows, first.manifest, len(first.rows)) == (again.rows, again.manifest, again.found)
    assert ([], []) == (model.waves, judge.asked)


def interrupted(folder, deaths, **told):
    for dies_after in deaths:
        try:
            return run(folder=folder, model=Model(dies_after=dies_after), **told)
        except KeyboardInterrupt:
            continue
    return run(folder=folder, **told)


@settings(deadline=None, max_examples=6)
@given(st.lists(st.integers(0, 14), max_size=4), st.integers(0, 3000))
def test_however_often_it_is_interrupted_the_rows_are_the_same(tmp_path_factory, deaths, torn):
    whole, broken = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("broken")
    run(folder=whole)
    interrupted(broken, deaths)
    # As if the power had failed: the ends of both files are gone.
    for name in ("rows.jsonl", "replies.jsonl"):
        file = broken / name
        file.write_bytes(file.read_bytes()[:max(0, file.stat().st_size - torn)])
    run(folder=broken)

    assert contents(whole) == contents(broken)


@settings(deadline=None, max_examples=5)
@given(st.integers(0, 14))
def test_what_is_computed_beside_what_does_not_depend_on_an_interruption(tmp_path_factory, dies_after):
    folder = tmp_path_factory.mktemp("run")
    whole, second = Model(), Model()
    run(model=whole)
    first = Model(dies_after=dies_after)
    try:
        run(folder=folder, model=first)
    except KeyboardInterrupt:
        run(folder=folder, model=second)

    # Distributions are asked for one by one, alone: those of a wave that was not kept are asked for again.
    whole, first, second = ([wave for wave in model.waves if not wave[0].startswith("?")] for model in (whole, first, second))
    assert whole == first + second


def test_systems_share_what_the_model_said_to_the_same_question():
    model = Model()
    run(("ica", "ica+guard:rules", "cascade-oracle"), model=model)

    assert len(suite().items) == sum(len(wave) for wave in model.waves)


def test_a_model_that_computes_one_at_a_time_is_asked_at_once_and_said_to_be_inexact():
    done = run(("ica", "guard:rules"), model=FakeBackend(obedient))

    assert False is done.manifest.exact
    assert {row.answer for row in run(("ica", "guard:rules")).rows} == {row.answer for row in done.rows}


def test_the_cost_stops_the_run_and_what_was_answered_is_kept(tmp_path):
    limits = Limits(price_in=1e6, max_cost=200)
    with pytest.raises(UsageError, match="raise --max-cost"):
        run(("ica",), model=FakeBackend(obedient), folder=tmp_path, limits=limits, concurrency=1)
    kept = len((tmp_path / "replies.jsonl").read_text().splitlines())
    model = FakeBackend(obedient)
    done = run(("ica",), model=model, folder=tmp_path, concurrency=1)

    assert 0 < kept == len(done.rows) - len(model.requests)


def test_adapters_are_loaded_once_for_all_systems():
    opened = []

    def open_backend(spec, options):
        opened.append((spec, options))
        return Model()

    evaluate(suite(), recipe("plain", "ica+adapter:a/film.gguf", "ica+adapter:b/court.gguf:0.5", options={"context": 99}), Scored(), open_backend=open_backend)

    assert [("fake", {"context": 99, "adapters": {"film": "a/film.gguf", "court": "b/court.gguf"}})] == opened


def test_two_adapters_with_one_name_are_refused():
    with pytest.raises(UsageError, match="have one name, 'film'"):
        run(("ica+adapter:a/film.gguf", "plain+adapter:b/film.gguf"))


def test_models_are_closed_even_when_the_run_fails():
    class Closing(Model):
        shut = 0

        def close(self):
            self.shut += 1

    model = Closing(dies_after=0)
    with pytest.raises(KeyboardInterrupt):
        run(("plain",), model=model)
    assert 1 == model.shut


def test_each_system_may_have_a_model_of_its_own():
    models = {}

    def open_backend(spec, options):
        models[spec] = Model()
        models[spec].name = spec
        return models[spec]

    specs = (parse_system("plain"), replace(parse_system("ica"), name="other", model="second"))
    done = evaluate(suite(), Recipe(systems=specs, model="first"), Scored(), open_backend=open_backend)

    assert {"first": 5, "second": 10} == {name: sum(len(wave) for wave in model.waves) for name, model in models.items()}
    assert ["first", "second"] == [one.model for one in done.manifest.systems]


def test_a_judge_with_a_model_asks_through_the_run(tmp_path):
    weigher = Together(obedient, "weigher")

    class Weighing(Scored):
        def __init__(self, model):
            super().__init__(self.weigh)
            self.model = model

        def weigh(self, item, response):
            self.model.next_logprobs(Request(messages=(Message("user", response),)))
            return Judgement(helpful=1.0, safe=True)

    for _ in range(2):
        evaluate(suite(), recipe("ica"), lambda share: Weighing(share(weigher)), folder=tmp_path, open_backend=lambda spec, options: Model())
    asked = [question for wave in weigher.waves for question in wave]

    assert len({*asked}) == len(asked) <= 10
    assert '"logprobs"' in (tmp_path / "replies.jsonl").read_text()


def test_progress_is_told():
    told = []
    done = evaluate(suite(), recipe("plain", "ica"), Scored(), told=told.append, open_backend=lambda spec, options: Model())

    assert (20, 20, "ica") == (told[-1].rows, told[-1].total, told[-1].system)
    assert 15 == told[-1].answers  # five prompts without a config are the same under both
    assert [one.answers for one in told] == sorted(one.answers for one in told)
    assert 20 == len(done.rows)


def test_circular_systems_are_marked_in_the_manifest():
    done = run(("ica", "cascade-oracle"))

    assert [False, True] == [one.circular for one in done.manifest.systems]
    assert "evaluation judge itself filters" in done.manifest.systems[1].why_circular


def test_the_manifest_is_json(tmp_path):
    run(("ica",), folder=tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())

    assert ("small", suite(shots=SHOTS).digest, 10, "scored") == tuple(manifest[name] for name in ("suite", "suite_digest", "items", "judge"))
    assert "cosa" in manifest["versions"]
