"""`cosa eval`: from a suite to a report, and what scripts read of it."""

from __future__ import annotations

import json
import re
import sys
from typing import NamedTuple
from xml.etree import ElementTree as ET

import pytest
from tests.guard.evals.build import CONFIGS, obedient, suite

from cosa_guard import backends
from cosa_guard.cli import eval as command
from cosa_guard.evals.folder import read_run
from cosa_guard.testing import FakeBackend


class Done(NamedTuple):
    exit_code: int
    stdout: str
    stderr: str


@pytest.fixture
def cosa(cosa):
    return lambda *arguments: Done(*cosa(*arguments))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "small.jsonl"
    path.write_text("".join(
        json.dumps({"id": one.id, "config": CONFIGS[one.config].model_dump(mode="json"), "prompt": one.prompt, "type": one.type, "risks": sorted(one.risks)}) + "\n"
        for one in suite().items
    ))
    return path


@pytest.fixture(autouse=True)
def model(monkeypatch, tmp_path):
    backend = FakeBackend(obedient)
    monkeypatch.setattr(command, "open_model", lambda spec, wanted: backend)
    monkeypatch.chdir(tmp_path)
    return backend


def test_a_run_ends_in_a_table_rows_and_a_report(cosa, file, tmp_path):
    done = cosa("eval", str(file), "-s", "plain", "-s", "ica", "--draws", "100", "-o", "run")

    assert 0 == done.exit_code
    assert "ica" in done.stdout and "plain" in done.stdout
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<!doctype html>" in page and "decision" in page.lower()
    manifest, rows = read_run(tmp_path / "run")
    assert (20, ["plain", "ica"], "refusal") == (len(rows), [one.name for one in manifest.systems], manifest.judge)


def test_json_is_the_contracts(cosa, file):
    done = cosa("eval", str(file), "-s", "ica", "--draws", "100", "--json", "-o", "run")
    told = json.loads(done.stdout)

    assert {"suite", "judge", "systems"} == told.keys()
    assert {"n", "valid_rate", "cosa_score", "bounds", "ci", "decision_score", "decision_ci", "contrast", "helpful_safe", "helpful_unsafe", "circular", "by_config", "by_type"} <= told["systems"]["ica"].keys()
    assert (10, None) == (told["systems"]["ica"]["n"], told["systems"]["ica"]["cosa_score"])
    assert 1.0 == told["systems"]["ica"]["contrast"]


def test_without_a_folder_the_same_command_finds_its_run_again(cosa, file, tmp_path, model):
    first = cosa("eval", str(file), "-s", "ica", "--draws", "100", "--json")
    asked = len(model.requests)
    again = cosa("eval", str(file), "-s", "ica", "--draws", "100", "--json")
    other = cosa("eval", str(file), "-s", "ica", "--draws", "100", "--json", "--max-tokens", "64")

    assert first.stdout == again.stdout == other.stdout
    assert (10, 20) == (asked, len(model.requests))
    assert 2 == len(list((tmp_path / "cosa-eval").iterdir()))


def test_a_run_is_scored_again_without_a_model(cosa, file, model):
    first = cosa("eval", str(file), "-s", "ica", "--draws", "100", "--json", "-o", "run")
    asked = len(model.requests)
    again = cosa("eval", "report", "run", "--draws", "100", "--json")

    assert (first.stdout, asked) == (again.stdout, len(model.requests))


@pytest.mark.parametrize("bound, code", [("min = 0.2", 0), ("min = 0.99", 1)])
def test_thresholds_decide_the_exit_code(cosa, file, tmp_path, bound, code):
    (tmp_path / "bounds.toml").write_text(f"[ica]\ndecision_score = {{ {bound} }}\n")
    done = cosa("eval", str(file), "-s", "ica", "--draws", "100", "-o", "run", "--thresholds", "bounds.toml", "--junit", "junit.xml")

    assert code == done.exit_code
    assert ("kept: " if code == 0 else "NOT KEPT: ") in done.stderr
    failures = ET.parse(tmp_path / "junit.xml").getroot().iter("failure")
    assert code == len(list(failures))


def test_a_threshold_that_is_none_is_found_before_the_run(cosa, file, tmp_path, model):
    (tmp_path / "bounds.toml").write_text("[ica]\ndecison_score = { min = 0.2 }\n")
    done = cosa("eval", str(file), "-s", "ica", "--thresholds", "bounds.toml")

    assert (2, []) == (done.exit_code, model.requests)
    assert "decison_score" in done.stderr


@pytest.mark.parametrize("name, said", [("rows.csv", "ends in .jsonl or .parquet"), ("rows.parquet", "pip install 'cosa[eval]'")])
def test_rows_that_cannot_be_written_are_found_before_the_run(cosa, file, model, monkeypatch, name, said):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    done = cosa("eval", str(file), "-s", "ica", "--rows", name)

    assert (2, []) == (done.exit_code, model.requests)
    assert said in done.stderr


def test_a_run_that_is_stopped_says_that_it_can_go_on(cosa, file, monkeypatch):
    def stop(request):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "open_model", lambda spec, wanted: FakeBackend(stop))
    done = cosa("eval", str(file), "-s", "ica", "-o", "run")

    assert 130 == done.exit_code and "the same command goes on from there" in done.stderr


def test_systems_of_a_run_are_compared_with_its_first(cosa, file, tmp_path):
    cosa("eval", str(file), "-s", "plain", "-s", "ica", "--draws", "100", "-o", "run")
    done = cosa("eval", "compare", "run", "--draws", "100")

    assert 0 == done.exit_code
    assert "ica is 0.200 above plain" in done.stdout or re.search(r"decision score: ica is \d\.\d+ above plain", done.stdout)
    told = json.loads(cosa("eval", "compare", "run", "--draws", "100", "--json").stdout)
    assert [("ica", "plain")] == [(one["first"], one["second"]) for one in told["comparisons"]]


def test_two_runs_are_compared_system_by_system(cosa, file, tmp_path):
    for name in ("a", "b"):
        cosa("eval", str(file), "-s", "ica", "--draws", "100", "-o", name)
    done = cosa("eval", "compare", "a", "b", "--draws", "100", "--report", "compare.html")

    assert 0 == done.exit_code and "have the same" in done.stdout
    assert "<!doctype html>" in (tmp_path / "compare.html").read_text()


@pytest.mark.parametrize("arguments, said", [
    (["run"], "nothing to compare"),
    (["run", "-s", "ica"], "--system was given 1 times"),
    (["run", "-s", "ica", "-s", "icb"], "icb"),
    (["missing"], "holds no run"),
])
def test_what_cannot_be_compared_is_said(cosa, file, arguments, said):
    cosa("eval", str(file), "-s", "ica", "--draws", "100", "-o", "run")
    done = cosa("eval", "compare", *arguments)

    assert 2 == done.exit_code and said in done.stderr


@pytest.mark.parametrize("arguments, said", [
    (["nowhere.jsonl"], "nowhere.jsonl"),
    (["SUITE", "-s", "icaa"], "icaa"),
    (["SUITE", "--judge", "oracle"], "oracle"),
    (["SUITE", "--max-cost", "3"], "needs prices"),
    (["SUITE", "--recipe", "none.yaml"], "none.yaml"),
])
def test_bad_input_is_named_and_nothing_is_asked(cosa, file, model, arguments, said):
    done = cosa("eval", *[str(file) if one == "SUITE" else one for one in arguments])

    assert (2, []) == (done.exit_code, model.requests)
    assert said in done.stderr


def test_a_recipe_says_it_all(cosa, file, tmp_path):
    (tmp_path / "recipe.yaml").write_text("systems: [ica, {name: guarded, guard: [rules]}]\nsampling: {max_tokens: 40}\n")
    done = cosa("eval", str(file), "--recipe", "recipe.yaml", "--draws", "100", "--json")

    assert {"ica", "guarded"} == json.loads(done.stdout)["systems"].keys()


def test_a_part_of_a_suite_is_its_first_prompts(cosa, file):
    done = cosa("eval", str(file), "-s", "ica", "--limit", "2", "--draws", "100", "--json")

    assert 4 == json.loads(done.stdout)["systems"]["ica"]["n"]


def test_a_part_of_a_suite_has_prompts_of_each_type(cosa):
    done = cosa("eval", "starter", "-s", "ica", "--limit", "4", "--draws", "100", "--json")

    assert {"allowed": 6, "partial": 6, "disallowed": 6, "safe": 6} == {name: cell["n"] for name, cell in json.loads(done.stdout)["systems"]["ica"]["by_type"].items()}


def test_twins_that_a_part_tears_apart_are_none(cosa):
    done = cosa("eval", "starter", "-s", "ica", "--limit", "2", "--draws", "100", "--json")
    told = json.loads(done.stdout)["systems"]["ica"]

    assert 12 == told["n"] and told["contrast_pairs"] < 12


def test_a_folder_with_another_run_is_kept(cosa, file, tmp_path):
    cosa("eval", str(file), "-s", "ica", "--draws", "100", "-o", "run")
    done = cosa("eval", str(file), "-s", "plain", "--draws", "100", "-o", "run")
    assert 2 == done.exit_code and "holds another run" in done.stderr and "--fresh" in done.stderr

    done = cosa("eval", str(file), "-s", "plain", "--draws", "100", "-o", "run", "--fresh")
    assert (0, ["plain"]) == (done.exit_code, [one.name for one in read_run(tmp_path / "run")[0].systems])


def test_local_models_get_places_for_a_wave(monkeypatch):
    asked = []
    monkeypatch.undo()
    monkeypatch.setattr(backends, "make", lambda spec, **told: asked.append((spec, told)))
    for spec in ("llama-cpp:a.gguf", "xllamacpp:a.gguf", "openai_http:http://127.0.0.1:1/v1#m"):
        command.open_model(spec, {"context": 99, "adapters": {}})

    assert [
        ("llama-cpp:a.gguf", {"sequences": 8, "context": 99, "adapters": {}}),
        ("xllamacpp:a.gguf", {"slots": 4, "context": 99, "adapters": {}}),
        ("openai_http:http://127.0.0.1:1/v1#m", {"adapters": {}}),
    ] == asked
